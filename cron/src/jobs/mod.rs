//! The jobs, one file each: `async fn run(context, cursor) -> Done | Continue(cursor)`.

pub mod heartbeat;
pub mod resync;
pub mod sitemap;
pub mod sitemap_import;
pub mod sitemap_part;
pub mod sitemap_plan;
pub mod sitemap_rollback;
pub mod snapshot;

use crate::runner::Context;
use serde_json::{Value, json};
use sitemap::SitemapError;
use std::time::Duration;

/// How a job's part ended.
#[derive(Debug)]
pub enum Part {
    /// The job is done; the summary goes into the run's record.
    Done(Value),
    /// The invocation's time ran out; the next part begins with this cursor.
    Continue(Value),
}

/// An argument is none that the job can do anything with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongArgument(pub String);

/// Whether a job that ended with `error`, tried again, would end the same.
#[must_use]
pub fn is_final(error: &anyhow::Error) -> bool {
    error.is::<WrongArgument>() || error.downcast_ref::<SitemapError>().is_some_and(SitemapError::is_final)
}

/// A job by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Publishes the next heartbeat to every lane.
    Heartbeat,
    /// Takes a snapshot of a region.
    Snapshot,
    /// Rewrites a region from another's snapshot and the stream.
    Resync,
    /// Brings the sitemaps of a site up to date.
    Sitemap,
    /// Compares another tool's sitemap with a site's rows, and takes it over.
    SitemapImport,
    /// Builds one part of a sitemap; started by the sitemap job.
    SitemapPart,
    /// Says what the sitemap job would do, and pins that.
    SitemapPlan,
    /// Restores the sitemap of an earlier run.
    SitemapRollback,
}

/// Every job.
pub const JOBS: [Job; 8] = [
    Job::Heartbeat,
    Job::Snapshot,
    Job::Resync,
    Job::Sitemap,
    Job::SitemapImport,
    Job::SitemapPart,
    Job::SitemapPlan,
    Job::SitemapRollback,
];

impl Job {
    /// The job's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Job::Heartbeat => "heartbeat",
            Job::Snapshot => "snapshot",
            Job::Resync => "resync",
            Job::Sitemap => "sitemap",
            Job::SitemapImport => "sitemap_import",
            Job::SitemapPart => "sitemap_part",
            Job::SitemapPlan => "sitemap_plan",
            Job::SitemapRollback => "sitemap_rollback",
        }
    }

    /// The job called `name`.
    ///
    /// # Errors
    /// A sentence that names the jobs there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let known = || JOBS.map(Job::name).join(", ");
        JOBS.into_iter().find(|job| job.name() == name).ok_or_else(|| format!("no job {name:?}: there are {}", known()))
    }

    /// What no two runs may work on at once: the job, and where it says so the region or site.
    #[must_use]
    pub fn lease(self, args: &Value) -> String {
        let number = if self == Job::SitemapPart { format!("-{}", args["part"]) } else { String::new() };
        let part = match self {
            Job::Heartbeat => None,
            Job::Snapshot | Job::Resync => args["region"].as_str(),
            Job::Sitemap | Job::SitemapImport | Job::SitemapPart | Job::SitemapPlan | Job::SitemapRollback => {
                args["site"].as_str()
            }
        };
        let part: String = part.unwrap_or("").chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        if part.is_empty() { self.name().to_owned() } else { format!("{}-{part}{number}", self.name()) }
    }

    /// The longest that one part may take; its lease runs a little longer.
    #[must_use]
    pub fn part_max(self) -> Duration {
        match self {
            Job::Heartbeat => Duration::from_secs(45),
            _ => Duration::from_secs(14 * 60),
        }
    }

    /// Works on the job until it is done or its time is up.
    ///
    /// # Errors
    /// What stopped it; the runner tries again, except where [`is_final`].
    pub async fn run(self, context: &mut Context<'_>, cursor: Option<Value>) -> anyhow::Result<Part> {
        match self {
            Job::Heartbeat => heartbeat::run(context).await,
            Job::Snapshot => snapshot::run(context).await,
            Job::Resync => resync::run(context, cursor).await,
            Job::Sitemap => {
                let around = context.cron.sitemap_surroundings();
                let (run, left) = (context.run.as_str(), context.time_left());
                let refreshed = sitemap::run(&around, &context.args, run, left).await?;
                Ok(Part::Done(json!({ "sitemaps": refreshed })))
            }
            Job::SitemapImport => {
                let around = context.cron.sitemap_surroundings();
                let (run, left) = (context.run.as_str(), context.time_left());
                Ok(Part::Done(serde_json::to_value(sitemap_import::run(&around, &context.args, run, left).await?)?))
            }
            Job::SitemapPart => {
                sitemap_part::run(&context.cron.sitemap_surroundings(), &context.args).await?;
                Ok(Part::Done(Value::Null))
            }
            Job::SitemapPlan => {
                let around = context.cron.sitemap_surroundings();
                let (run, left) = (context.run.as_str(), context.time_left());
                Ok(Part::Done(serde_json::to_value(sitemap_plan::run(&around, &context.args, run, left).await?)?))
            }
            Job::SitemapRollback => {
                let around = context.cron.sitemap_surroundings();
                Ok(Part::Done(sitemap_rollback::run(&around, &context.args, context.run.as_str()).await?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use tidemark_sitemap::refresh::RefreshError;

    #[test]
    fn what_no_repetition_mends_is_known_also_behind_a_context() {
        let argument = || WrongArgument("region \"nowhere\" is not one of this deployment".to_owned());
        let refused = || SitemapError::from(RefreshError::Name("a/b".to_owned()));
        assert!(is_final(&argument().into()) && is_final(&refused().into()));
        assert!(is_final(&Err::<(), _>(argument()).context("lane 3").unwrap_err()));
        let no_room = SitemapError::from(std::io::Error::other("no space left"));
        assert!(!is_final(&no_room.into()) && !is_final(&anyhow::anyhow!("no answer")));
    }
}
