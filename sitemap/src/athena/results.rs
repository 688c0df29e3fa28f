//! Rows by GetQueryResults, a page of up to 1,000 at a time.

use super::call::once;
use super::{Athena, QueryError};
use crate::columns::{COLUMNS, Places};
use crate::pages::RawPage;
use crate::source::Sink;
use aws_sdk_athena::types::{ResultSet, Row};

/// Rows a page: what the API gives at most.
const PAGE_ROWS: i32 = 1000;

/// What ended the reading of a query's rows.
#[derive(Debug)]
pub enum RowsError<S> {
    /// The query.
    Query(QueryError),
    /// The taker of the rows wants no more.
    Stopped(S),
}

impl<S> From<QueryError> for RowsError<S> {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

/// Gives every row of a query that has succeeded to `sink`, and returns how many they were.
///
/// # Errors
/// A [`RowsError`].
pub async fn rows<T: Sink>(athena: Athena<'_>, id: &str, sink: &mut T) -> Result<u64, RowsError<T::Stop>> {
    let (mut token, mut line, mut columns) = (None, 0, None);
    loop {
        let page = athena.client.get_query_results().query_execution_id(id).max_results(PAGE_ROWS);
        let page = page.set_next_token(token);
        let send = || page.clone().customize().config_override(once()).send();
        let answer = athena.call("GetQueryResults", send).await?;
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
            let columns = columns.as_ref().unwrap_or(&[None; COLUMNS.len()]);
            give(row, columns, line, sink).map_err(RowsError::Stopped)?;
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
