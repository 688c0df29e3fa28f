//! Page rows from an Athena query, by GetQueryResults, a page of up to 1,000 rows at a time.

use crate::columns::{COLUMNS, Places};
use crate::pages::RawPage;
use crate::site::Query;
use crate::source::Sink;
use aws_sdk_athena::Client;
use aws_sdk_athena::error::DisplayErrorContext;
use aws_sdk_athena::types::{QueryExecutionContext, QueryExecutionState, ResultConfiguration, ResultSet, Row};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_128;

/// First pause between two looks at a query; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// Longest pause between two looks.
const PAUSE_LONGEST: Duration = Duration::from_secs(5);

/// Why a query gave no rows, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum QueryError<S> {
    /// Athena could not be asked.
    #[error("athena {operation} failed: {message}")]
    Service {
        /// The API call.
        operation: &'static str,
        /// What it or the transport said.
        message: String,
    },
    /// The query failed or was cancelled.
    #[error("the query {id} ended as {state}: {reason}")]
    Failed {
        /// The query's ID.
        id: String,
        /// FAILED or CANCELLED.
        state: String,
        /// What Athena said.
        reason: String,
        /// Whether Athena says that trying again may help.
        retryable: bool,
    },
    /// The query takes longer than this run may wait. It was stopped.
    #[error("the query {id} was still {state} after {waited_s} s: give the job more time, or make the query faster")]
    TooSlow {
        /// The query's ID.
        id: String,
        /// Its last state.
        state: String,
        /// How long it was waited for, in seconds.
        waited_s: u64,
    },
    /// The result has not the columns of a page list.
    #[error("the query's columns are no page list: {0}")]
    Columns(String),
    /// The taker of the rows wants no more.
    #[error("stopped")]
    Stopped(S),
}

/// The token that makes starting a query harmless to repeat: one for each attempt of each run, 32 characters.
#[must_use]
pub fn request_token(run: &str, attempt: u32) -> String {
    format!("{:032x}", xxh3_128(format!("{run}#{attempt}").as_bytes()))
}

/// Starts `query` and returns its ID.
///
/// # Errors
/// [`QueryError::Service`].
pub async fn start<S>(client: &Client, query: &Query, token: &str) -> Result<String, QueryError<S>> {
    let context = QueryExecutionContext::builder().database(&query.database).set_catalog(query.catalog.clone()).build();
    let output = query.output.as_ref().map(|output| ResultConfiguration::builder().output_location(output).build());
    let started = client
        .start_query_execution()
        .query_string(&query.sql)
        .client_request_token(token)
        .query_execution_context(context)
        .work_group(&query.workgroup)
        .set_result_configuration(output)
        .send()
        .await
        .map_err(|error| service("StartQueryExecution", &error))?;
    started.query_execution_id.ok_or_else(|| QueryError::Service {
        operation: "StartQueryExecution",
        message: "the answer holds no query ID".to_owned(),
    })
}

/// Waits until the query has succeeded, `wait_longest` at most. It may go from running back to queued.
///
/// # Errors
/// A [`QueryError`]; a query that takes too long is stopped.
pub async fn wait<S>(client: &Client, id: &str, wait_longest: Duration) -> Result<(), QueryError<S>> {
    let (mut pause, mut waited) = (PAUSE_FIRST, Duration::ZERO);
    loop {
        let answer = client.get_query_execution().query_execution_id(id).send().await;
        let answer = answer.map_err(|error| service("GetQueryExecution", &error))?;
        let status = answer.query_execution.and_then(|execution| execution.status);
        let state = status.as_ref().and_then(|status| status.state.clone()).unwrap_or(QueryExecutionState::Queued);
        match state {
            QueryExecutionState::Succeeded => return Ok(()),
            QueryExecutionState::Failed | QueryExecutionState::Cancelled => {
                let error = status.as_ref().and_then(|status| status.athena_error.as_ref());
                let said = status.as_ref().and_then(|status| status.state_change_reason.clone());
                let reason = said.or_else(|| error.and_then(|error| error.error_message.clone()));
                return Err(QueryError::Failed {
                    id: id.to_owned(),
                    state: state.as_str().to_owned(),
                    reason: reason.unwrap_or_else(|| "no reason given".to_owned()),
                    retryable: error.is_some_and(|error| error.retryable),
                });
            }
            _ => {}
        }
        if waited >= wait_longest {
            let stopped = client.stop_query_execution().query_execution_id(id).send().await;
            if let Err(error) = stopped {
                tracing::warn!(id, error = %DisplayErrorContext(&error), "the query could not be stopped");
            }
            let state = state.as_str().to_owned();
            return Err(QueryError::TooSlow { id: id.to_owned(), state, waited_s: waited.as_secs() });
        }
        let next = pause.min(wait_longest - waited);
        tokio::time::sleep(next).await;
        waited += next;
        pause = (pause * 2).min(PAUSE_LONGEST);
    }
}

/// Gives every row of a query that has succeeded to `sink`, and returns how many they were.
///
/// # Errors
/// A [`QueryError`].
pub async fn rows<T: Sink>(client: &Client, id: &str, sink: &mut T) -> Result<u64, QueryError<T::Stop>> {
    let (mut token, mut line, mut columns) = (None, 0, None);
    loop {
        let request = client.get_query_results().query_execution_id(id).max_results(1000).set_next_token(token);
        let answer = request.send().await.map_err(|error| service("GetQueryResults", &error))?;
        let result = answer.result_set.unwrap_or_else(|| ResultSet::builder().build());
        let mut rows = result.rows();
        if columns.is_none() {
            let names = labels(&result);
            columns = Some(sink.columns().places(names.iter().copied()).map_err(QueryError::Columns)?);
            // The first row of a SELECT's first page repeats the names of the columns.
            if rows.first().is_some_and(|row| texts(row).eq(names.iter().copied())) {
                rows = &rows[1..];
            }
        }
        for row in rows {
            line += 1;
            give(row, columns.as_ref().unwrap_or(&[None; COLUMNS.len()]), line, sink).map_err(QueryError::Stopped)?;
        }
        token = answer.next_token;
        if token.is_none() {
            return Ok(line);
        }
    }
}

fn give<T: Sink>(row: &Row, columns: &Places, line: u64, sink: &mut T) -> Result<(), T::Stop> {
    let mut page = RawPage { line, ..RawPage::default() };
    for (value, column) in page.fields.iter_mut().zip(columns) {
        let datum = column.and_then(|at| row.data().get(at));
        *value = datum.and_then(|datum| datum.var_char_value()).unwrap_or_default().as_bytes();
    }
    sink.page(&page)
}

fn labels(result: &ResultSet) -> Vec<&str> {
    let columns = result.result_set_metadata().map(|metadata| metadata.column_info()).unwrap_or_default();
    columns.iter().map(|column| column.label().unwrap_or_else(|| column.name())).collect()
}

fn texts(row: &Row) -> impl Iterator<Item = &str> {
    row.data().iter().map(|datum| datum.var_char_value().unwrap_or_default())
}

fn service<S, E>(operation: &'static str, error: &E) -> QueryError<S>
where
    E: std::error::Error,
{
    QueryError::Service { operation, message: DisplayErrorContext(error).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_attempt_of_one_run_and_long_enough() {
        assert_eq!(request_token("run", 1), request_token("run", 1));
        assert_ne!(request_token("run", 1), request_token("run", 2));
        assert_eq!(request_token("run", 1).len(), 32);
    }
}
