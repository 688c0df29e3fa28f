//! Asks the CDN to forget what it has of a sitemap, once after a change.
//!
//! Nothing hangs on it: runs wait out the edge's own time in any case, and a failure is told and fails no run. One
//! wildcard path is one invalidation to CloudFront, however many files it is for.

use crate::site::Target;
use serde::Serialize;
use std::pin::Pin;

/// Makes an edge forget.
pub trait Invalidate: std::fmt::Debug + Send + Sync {
    /// Invalidates `path` in `distribution`. The same `reference` again is the same invalidation.
    fn invalidate<'a>(
        &'a self,
        distribution: &'a str,
        path: &'a str,
        reference: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Invalidated {
    /// The distribution.
    pub distribution: String,
    /// What of it.
    pub path: String,
    /// Why the edge was not told, if it was not.
    pub problem: Option<String>,
}

/// Invalidates all that lies in `target`, after `run` changed something of `sitemap` there; nothing where its site names no
/// distribution.
pub async fn invalidate(
    edge: Option<&dyn Invalidate>,
    target: &Target,
    (sitemap, run): (&str, &str),
) -> Option<Invalidated> {
    let distribution = target.distribution.clone()?;
    let path = format!("/{}*", target.prefix);
    let outcome = match edge {
        Some(edge) => edge.invalidate(&distribution, &path, &format!("tidemark-{sitemap}-{run}")).await,
        None => Err("nothing here can reach CloudFront".to_owned()),
    };
    if let Err(problem) = &outcome {
        tracing::warn!(distribution, path, problem, "the edge was not told; it asks by itself when its time is over");
    }
    Some(Invalidated { distribution, path, problem: outcome.err() })
}
