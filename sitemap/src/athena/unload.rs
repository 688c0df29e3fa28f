//! UNLOAD: Athena writes the rows as Parquet, and says which files it wrote.
//!
//! Each attempt writes under a prefix of its own, so what a failed one left never mixes with a later one. Each file
//! holds its rows in the order of the query; the files are not sorted relative to each other:
//! <https://docs.aws.amazon.com/athena/latest/ug/unload.html>. The files are those of UNLOAD's own list, never of a
//! listing of the prefix.

use super::{Athena, Finished, Query, QueryError, Statement, request_token, start, wait};
use std::time::Duration;

/// Partitions that one UNLOAD may write.
pub const PARTITIONS_MAX: usize = 100;
/// The column that tells the partition of a row.
pub const PARTITION_COLUMN: &str = "tidemark_part";

/// Where an attempt writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The bucket.
    pub bucket: String,
    /// The prefix; it ends in `/` and holds nothing yet.
    pub prefix: String,
}

impl Target {
    fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }
}

/// The rows of `statement`, written under `target` as Parquet.
#[must_use]
pub fn plain(statement: &Statement, target: &Target) -> Statement {
    let sql = format!("UNLOAD (\n{}\n) TO '{}' WITH (format = 'PARQUET')", statement.sql, target.url());
    Statement { sql, parameters: statement.parameters.clone() }
}

/// The rows of `statement`, written under `target` as Parquet in a partition for each key range: `lowers` are where
/// the ranges begin, the first left out. Addresses stand in the column `loc`; one that is a path lies under `base`.
#[must_use]
pub fn by_range(statement: &Statement, target: &Target, (loc, base): (&str, &str), lowers: &[String]) -> Statement {
    let loc = name(loc);
    let key = format!("(CASE WHEN {loc} LIKE '/%' THEN concat({}, {loc}) ELSE {loc} END)", quoted(base));
    let ranges: String =
        lowers.iter().enumerate().map(|(part, lower)| format!(" WHEN {key} < {} THEN {part}", quoted(lower))).collect();
    let part = if lowers.is_empty() { "0".to_owned() } else { format!("CASE{ranges} ELSE {} END", lowers.len()) };
    let sql = format!(
        "UNLOAD (\nSELECT *, {part} AS {PARTITION_COLUMN} FROM (\n{}\n) ORDER BY {loc}) TO '{}' WITH (format = 'PARQUET', \
         partitioned_by = ARRAY['{PARTITION_COLUMN}'])",
        statement.sql,
        target.url()
    );
    Statement { sql, parameters: statement.parameters.clone() }
}

/// A column's name as a part of a query.
pub(crate) fn name(column: &str) -> String {
    format!("\"{}\"", column.replace('"', "\"\""))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Runs the UNLOAD `statement` as attempt `attempt` of `run`, within `longest`.
///
/// # Errors
/// A [`QueryError`].
pub async fn run(
    athena: Athena<'_>,
    query: &Query,
    statement: &Statement,
    (run, attempt): (&str, u64),
    longest: Duration,
) -> Result<Finished, QueryError> {
    let id = start(athena, query, statement, &request_token(run, attempt, "unload")).await?;
    wait(athena, &id, longest).await
}

/// The keys of the files in UNLOAD's list, `csv`: one address a line. All must lie under `target`.
///
/// # Errors
/// [`QueryError::Files`].
pub fn files(id: &str, csv: &str, target: &Target) -> Result<Vec<String>, QueryError> {
    let wrong = |problem: String| QueryError::Files { id: id.to_owned(), problem };
    let mut keys = Vec::new();
    for (at, line) in csv.lines().enumerate() {
        let url = line.trim().trim_matches('"');
        if url.is_empty() {
            continue;
        }
        let prefix = target.url();
        match url.strip_prefix(&prefix) {
            Some(name) if !name.is_empty() => keys.push(format!("{}{name}", target.prefix)),
            _ => return Err(wrong(format!("line {} names {url}, which is not below {prefix}", at + 1))),
        }
    }
    keys.sort();
    if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(wrong(format!("it names {} twice", pair[0])));
    }
    Ok(keys)
}

/// The bucket and key of `s3://bucket/key`.
///
/// # Errors
/// Where it is no such address.
pub fn parse_url(url: &str) -> Result<(&str, &str), String> {
    let parts = url.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
    parts.filter(|(bucket, _)| !bucket.is_empty()).ok_or_else(|| format!("{url:?} is no s3://bucket/key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target { bucket: "state".into(), prefix: "athena/unload/demo/r/0000000001/".into() }
    }

    #[test]
    fn the_query_stands_whole_inside_and_a_last_comment_ends() {
        let statement =
            Statement { sql: "SELECT loc FROM p WHERE a > ? -- new".into(), parameters: vec!["'x'".into()] };
        let unload = plain(&statement, &target());
        assert_eq!(
            unload.sql,
            "UNLOAD (\nSELECT loc FROM p WHERE a > ? -- new\n) TO 's3://state/athena/unload/demo/r/0000000001/' WITH \
             (format = 'PARQUET')"
        );
        assert_eq!(unload.parameters, statement.parameters);
        let parts = by_range(&statement, &target(), ("loc", "https://a.example"), &["https://a.example/m'".into()]);
        assert!(parts.sql.contains("< 'https://a.example/m''' THEN 0 ELSE 1 END AS tidemark_part"), "{}", parts.sql);
    }

    #[test]
    fn only_files_below_the_attempts_own_prefix_are_taken() {
        let under = "s3://state/athena/unload/demo/r/0000000001/";
        let keys = files("q", &format!("{under}b.parquet\n\"{under}a.parquet\"\n\n"), &target()).unwrap();
        assert_eq!(keys, ["athena/unload/demo/r/0000000001/a.parquet", "athena/unload/demo/r/0000000001/b.parquet"]);
        for bad in ["s3://state/athena/unload/demo/r/0000000002/a", "s3://other/a", "a.parquet", under] {
            assert!(files("q", bad, &target()).unwrap_err().to_string().contains("not below"), "{bad}");
        }
        assert!(files("q", &format!("{under}a\n{under}a\n"), &target()).unwrap_err().to_string().contains("twice"));
        assert_eq!(parse_url("s3://b/k/x.csv").unwrap(), ("b", "k/x.csv"));
        assert!(parse_url("s3:///k").is_err() && parse_url("http://b/k").is_err());
    }
}
