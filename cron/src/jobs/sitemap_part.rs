//! One part of a sitemap that is built in parts; the sitemap job starts it. Its arguments are the site, the key of the
//! plan and the number of the part.

use super::WrongArgument;
use crate::run::{RunId, Trigger};
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::pin::Pin;
use tidemark_sitemap::parts::{self, StartPart};
use tidemark_sitemap::refresh::Surroundings;

/// Characters of a plan's key that become part of the run's ID.
const PLAN_CHARS: usize = 90;

/// The job's arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// The site.
    pub site: String,
    /// The key of the plan, in the state bucket.
    pub plan: String,
    /// The part.
    pub part: usize,
}

/// Does the part and stores its outcome, a failure too.
///
/// # Errors
/// Where not even that could be stored.
pub async fn run(around: &Surroundings, args: &serde_json::Value) -> anyhow::Result<()> {
    let args = Args::deserialize(args).map_err(|error| WrongArgument(error.to_string()))?;
    let work_dir = tempfile::tempdir()?;
    parts::work(around.reach(), &args.plan, args.part, work_dir.path()).await?;
    Ok(())
}

/// Starts parts by invoking this function.
#[derive(Clone, Debug)]
pub struct Invoked {
    /// The client.
    pub lambda: Client,
    /// The function's own name.
    pub function: String,
}

impl StartPart for Invoked {
    fn start(
        &self,
        site: &str,
        plan: &str,
        part: usize,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        let trigger = trigger(site, plan, part);
        Box::pin(async move {
            let payload = serde_json::to_vec(&trigger?).map_err(|error| error.to_string())?;
            let request = self.lambda.invoke().function_name(&self.function);
            let request = request.invocation_type(InvocationType::Event).payload(Blob::new(payload));
            let sent = request.send().await;
            sent.map(|_| ()).map_err(|error| aws_sdk_lambda::error::DisplayErrorContext(&error).to_string())
        })
    }
}

fn trigger(site: &str, plan: &str, part: usize) -> Result<Trigger, String> {
    let plain: Vec<char> = plan.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let plain: String = plain[plain.len().saturating_sub(PLAN_CHARS)..].iter().collect();
    let run = RunId::try_from(format!("sitemap_part-{part:03}-{plain}")).map_err(|error| error.to_string())?;
    let args = json!({ "site": site, "plan": plan, "part": part });
    Ok(Trigger { job: "sitemap_part".to_owned(), scheduled: None, run: Some(run), args })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_every_plan_is_a_run_of_its_own() {
        let plan = format!("athena/parts/{}/run:1/0000000003/plan.json", "s".repeat(100));
        let id = |plan: &str, part| trigger("s", plan, part).unwrap().run.unwrap().to_string();
        assert_ne!(id(&plan, 1), id(&plan, 2));
        assert_ne!(id(&plan, 1), id(&plan.replace("0003", "0004"), 1));
        assert_eq!(Args::deserialize(&trigger("s", &plan, 1).unwrap().args).unwrap().part, 1);
    }
}
