//! What a refresh tells others: IndexNow of what changed, robots.txt of the indexes, and people by the report of runs.
//!
//! None is worth a sitemap: what goes wrong here is said in the outcome and in the log, and the run goes on.

use crate::build::Built;
use crate::indexnow::{self, Drained, Gathered, Waiting};
use crate::manifest::Manifest;
use crate::report::Report;
use crate::robots::{self, Scope};
use crate::run_report::{self, Entry};
use crate::site::Site;
use crate::web::{USER_AGENT, Web};
use aws_sdk_s3::Client;
use serde::Serialize;
use std::path::Path;
use tidemark_runtime::clock::Clock;

/// Why the first run after an import tells nothing.
const IMPORTED: &str = "the files before were another tool's, so which pages this run changed is not known";

/// What became of the changes of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Told {
    /// What was stored before anything was published.
    pub gathered: Gathered,
    /// What engines took after the commit; parts of earlier runs are among it.
    pub drained: Drained,
    /// What went wrong, if something did.
    pub problem: Option<String>,
}

/// What became of the lines in robots.txt.
#[derive(Clone, Debug, Serialize)]
pub struct Named {
    /// The robots.txt.
    pub object: String,
    /// Whether it was written: where it named the sitemap already, it was not.
    pub written: bool,
    /// What went wrong, if something did; the next run tries again.
    pub problem: Option<String>,
}

/// Where a site's telling is kept.
#[derive(Clone, Debug)]
pub struct Teller<'a> {
    /// S3, in the hub.
    pub s3: &'a Client,
    /// The bucket of settings and state.
    pub state_bucket: &'a str,
    /// The site.
    pub site: &'a str,
    /// The run's ID.
    pub run: &'a str,
    /// The lease's fencing token.
    pub token: u64,
}

impl Teller<'_> {
    fn waiting(&self) -> Waiting {
        Waiting::new(self.s3.clone(), self.state_bucket, self.site)
    }

    /// Stores what `built` changes, where the `site` wants it told. Call it before anything is published.
    pub async fn gather(&self, site: &Site, built: &Built, work_dir: &Path) -> Option<Told> {
        let settings = site.indexnow.as_ref()?;
        if built.before().is_imported() {
            return Some(Told { problem: Some(IMPORTED.to_owned()), ..Told::default() });
        }
        let run = (self.token, self.run);
        match indexnow::gather(&self.waiting(), settings, &site.target, built, work_dir, run).await {
            Ok(gathered) => Some(Told { gathered, ..Told::default() }),
            Err(error) => {
                tracing::warn!(site = self.site, %error, "the changes of this run are not told by IndexNow");
                Some(Told { problem: Some(error.to_string()), ..Told::default() })
            }
        }
    }

    /// Tells what waits. Call it after the commit, with what [`Teller::gather`] gave.
    pub async fn drain(&self, site: &Site, clock: &Clock, told: Option<&mut Told>) {
        let (Some(settings), Some(told)) = (&site.indexnow, told) else { return };
        let drained = match Web::new(clock.clone(), USER_AGENT) {
            Ok(web) => {
                let drained = indexnow::drain(&web, &self.waiting(), settings, clock.now_ms()).await;
                drained.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match drained {
            Ok(drained) => told.drained = drained,
            Err(error) => told.problem = Some(error),
        }
        if let Some(problem) = told.drained.problem.as_ref().or(told.problem.as_ref()) {
            let Drained { waiting, given_up, .. } = told.drained;
            tracing::warn!(site = self.site, problem, waiting, given_up, "IndexNow was not told everything");
        }
    }

    /// Has robots.txt name what `manifest` has, where the `site` wants that. Call it under the lease, after the commit.
    pub async fn name(&self, site: &Site, manifest: &Manifest) -> Option<Named> {
        let object = site.target.robots.as_ref()?;
        let addresses = robots::addresses(&site.sitemap, manifest);
        let scope = Scope::Directory(&site.sitemap.files_url);
        let mut named = Named { object: object.to_string(), written: false, problem: None };
        match robots::write(self.s3, object, scope, &addresses).await {
            Ok(written) => named.written = written,
            Err(error) => {
                tracing::warn!(site = self.site, %error, "robots.txt does not name the sitemap, or not all of it");
                named.problem = Some(error.to_string());
            }
        }
        Some(named)
    }

    /// Adds the run to the site's report. Call it under the lease, after the commit.
    pub async fn report(&self, entry: Entry, report: &Report) {
        if let Err(error) = run_report::store(self.s3, self.state_bucket, self.site, entry, report).await {
            tracing::warn!(site = self.site, error, "the report of the run could not be written");
        }
    }
}
