//! Page rows from an Athena query.
//!
//! Promises: a query is started once however often the call is repeated, every call is tried a bounded number of times
//! by one owner, here; a query that takes too long is stopped. [`unload`] has Athena write the rows as Parquet under a
//! prefix of its own for each attempt, and is the way for millions of rows; [`results`] pages through GetQueryResults,
//! 1,000 rows a call. Values reach the query as parameters ([`parameters`]), never as a part of its text.

mod call;
pub mod parameters;
pub mod query;
pub mod results;
pub mod settings;
pub mod unload;

pub use parameters::{ParameterError, Statement};
pub use query::{Finished, request_token, start, wait};
pub use settings::{Fetch, Query, Settings, SqlText};

use aws_sdk_athena::Client;
use tidemark_runtime::clock::Clock;

/// Athena, and the clock by which it is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Athena<'a> {
    /// The client.
    pub client: &'a Client,
    /// The time.
    pub clock: &'a Clock,
}

/// Why a query gave no rows, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Athena could not be asked.
    #[error("athena {operation} failed: {message}")]
    Service {
        /// The API call.
        operation: &'static str,
        /// What it or the transport said.
        message: String,
    },
    /// The query failed or was cancelled.
    #[error("the query {id} ended as {state}{}: {reason}", if *.retryable { " (trying again may help)" } else { "" })]
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
    /// Fewer rows were read than the query gave.
    #[error(
        "the query {id} gave {given} rows and {read} could be read: the result is truncated, so nothing was published"
    )]
    Truncated {
        /// The query's ID.
        id: String,
        /// What Athena counted.
        given: u64,
        /// What came here.
        read: u64,
    },
    /// The list of the files that UNLOAD wrote cannot be used.
    #[error("the list of files of the query {id} cannot be used: {problem}")]
    Files {
        /// The query's ID.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
}
