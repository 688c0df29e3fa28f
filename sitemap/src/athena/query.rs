//! Starting a query and waiting for it.

use super::call::once;
use super::{Athena, Query, QueryError, Statement};
use aws_sdk_athena::error::DisplayErrorContext;
use aws_sdk_athena::types::{
    QueryExecution, QueryExecutionContext, QueryExecutionState, QueryExecutionStatistics, QueryExecutionStatus,
    ResultConfiguration,
};
use std::time::Duration;
use twox_hash::XxHash3_128;

/// First pause between two looks at a query; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// Longest pause between two looks.
const PAUSE_LONGEST: Duration = Duration::from_secs(5);

/// A query that has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its ID.
    pub id: String,
    /// Where the list of the files that it wrote lies, `s3://bucket/key`; for UNLOAD.
    pub manifest: Option<String>,
    /// How much it read, where that is known.
    pub scanned_bytes: Option<u64>,
}

/// The token that makes starting a query harmless to repeat: one for each attempt of each run and what it asks for, 32
/// characters. The same token would only return the query of the attempt before, which may have failed.
#[must_use]
pub fn request_token(run: &str, attempt: u64, what: &str) -> String {
    format!("{:032x}", XxHash3_128::oneshot(format!("{run}#{attempt}#{what}").as_bytes()))
}

/// Starts `statement` as `query` says and returns its ID.
///
/// # Errors
/// [`QueryError::Service`].
pub async fn start(
    athena: Athena<'_>,
    query: &Query,
    statement: &Statement,
    token: &str,
) -> Result<String, QueryError> {
    let context = QueryExecutionContext::builder().database(&query.database).set_catalog(query.catalog.clone()).build();
    let output = query.output.as_ref().map(|output| ResultConfiguration::builder().output_location(output).build());
    // Absent where there are none: an empty list would be refused.
    let parameters = (!statement.parameters.is_empty()).then(|| statement.parameters.clone());
    let request = athena
        .client
        .start_query_execution()
        .query_string(&statement.sql)
        .client_request_token(token)
        .query_execution_context(context)
        .work_group(&query.workgroup)
        .set_execution_parameters(parameters)
        .set_result_configuration(output);
    let send = || request.clone().customize().config_override(once()).send();
    let started = athena.call("StartQueryExecution", send).await?;
    started.query_execution_id.ok_or_else(|| QueryError::Service {
        operation: "StartQueryExecution",
        message: "the answer holds no query ID".to_owned(),
    })
}

/// Waits until the query has succeeded, `wait_longest` at most. It may go from running back to queued.
///
/// # Errors
/// A [`QueryError`]; a query that takes too long is stopped.
pub async fn wait(athena: Athena<'_>, id: &str, wait_longest: Duration) -> Result<Finished, QueryError> {
    let began_ms = athena.clock.now_ms();
    let mut pause = PAUSE_FIRST;
    loop {
        let request = athena.client.get_query_execution().query_execution_id(id);
        let send = || request.clone().customize().config_override(once()).send();
        let execution = match athena.call("GetQueryExecution", send).await {
            Ok(answer) => answer.query_execution.unwrap_or_else(|| QueryExecution::builder().build()),
            Err(error) => {
                stop(athena, id).await;
                return Err(error);
            }
        };
        let status = execution.status.unwrap_or_else(|| QueryExecutionStatus::builder().build());
        let state = status.state.clone().unwrap_or(QueryExecutionState::Queued);
        match state {
            QueryExecutionState::Succeeded => {
                let statistics = execution.statistics.unwrap_or_else(|| QueryExecutionStatistics::builder().build());
                return Ok(Finished {
                    id: id.to_owned(),
                    manifest: statistics.data_manifest_location.filter(|manifest| !manifest.is_empty()),
                    scanned_bytes: statistics.data_scanned_in_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
                });
            }
            QueryExecutionState::Failed | QueryExecutionState::Cancelled => return Err(failed(id, &state, &status)),
            _ => {}
        }
        let waited = Duration::from_millis(u64::try_from(athena.clock.now_ms() - began_ms).unwrap_or(0));
        if waited >= wait_longest {
            stop(athena, id).await;
            let state = state.as_str().to_owned();
            return Err(QueryError::TooSlow { id: id.to_owned(), state, waited_s: waited.as_secs() });
        }
        athena.clock.sleep(pause.min(wait_longest - waited)).await;
        pause = (pause * 2).min(PAUSE_LONGEST);
    }
}

fn failed(id: &str, state: &QueryExecutionState, status: &QueryExecutionStatus) -> QueryError {
    let error = status.athena_error.as_ref();
    let said = status.state_change_reason.clone().filter(|said| !said.is_empty());
    let reason = said.or_else(|| error.and_then(|error| error.error_message.clone()));
    QueryError::Failed {
        id: id.to_owned(),
        state: state.as_str().to_owned(),
        reason: reason.unwrap_or_else(|| "no reason given".to_owned()),
        retryable: error.is_some_and(|error| error.retryable),
    }
}

/// Stops a query that nobody waits for any more; it would go on costing.
async fn stop(athena: Athena<'_>, id: &str) {
    let request = athena.client.stop_query_execution().query_execution_id(id);
    let send = || request.clone().customize().config_override(once()).send();
    if let Err(error) = athena.call("StopQueryExecution", send).await {
        tracing::warn!(id, %error, "the query could not be stopped");
    }
}

/// Refuses a result of which fewer rows were read than Athena counted. Where it has no count (it may come late, and
/// other engines have none), what was read is taken.
///
/// # Errors
/// [`QueryError::Truncated`].
pub async fn check_count(athena: Athena<'_>, id: &str, read: u64) -> Result<(), QueryError> {
    let request = athena.client.get_query_runtime_statistics().query_execution_id(id);
    let counted = match request.customize().config_override(once()).send().await {
        Ok(answer) => answer.query_runtime_statistics.and_then(|statistics| statistics.rows?.output_rows),
        Err(error) => {
            tracing::info!(id, error = %DisplayErrorContext(&error), "no count of the query's rows to hold them against");
            None
        }
    };
    match counted.and_then(|rows| u64::try_from(rows).ok()) {
        Some(given) if given > read => Err(QueryError::Truncated { id: id.to_owned(), given, read }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_question_of_one_attempt_of_one_run_and_long_enough() {
        assert_eq!(request_token("run", 1, "unload"), request_token("run", 1, "unload"));
        assert_ne!(request_token("run", 1, "unload"), request_token("run", 2, "unload"));
        assert_ne!(request_token("run", 1, "unload"), request_token("run", 1, "select"));
        assert_eq!(request_token("run", 1, "unload").len(), 32);
    }
}
