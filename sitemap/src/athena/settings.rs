//! The section `[query]` of a site's settings.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// As it stands in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    sql: Option<String>,
    sql_file: Option<String>,
    database: String,
    workgroup: Option<String>,
    output: Option<String>,
    catalog: Option<String>,
    fetch: Fetch,
    parameters: BTreeMap<String, Value>,
}

/// How the rows get here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fetch {
    /// Athena writes Parquet by UNLOAD, and the files are read.
    #[default]
    Unload,
    /// Paging through GetQueryResults, 1,000 rows a call: for small lists, and engines without UNLOAD.
    Select,
    /// UNLOAD, and where the engine refuses it, SELECT.
    Auto,
}

/// A parameter's value. Its kind is fixed here; a job's argument of the same name is read as that kind.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
}

/// Where the query's text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlText {
    /// In the settings.
    Inline(String),
    /// In a file beside the settings, with this name.
    File(String),
}

/// An Athena query whose columns are those of [`crate::pages::COLUMNS`], `loc` at least.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The SELECT.
    pub sql: SqlText,
    /// Values of its named parameters.
    pub parameters: BTreeMap<String, Value>,
    /// The database its tables are in.
    pub database: String,
    /// The catalog of the database, where it is not the account's own.
    pub catalog: Option<String>,
    /// The workgroup that pays.
    pub workgroup: String,
    /// `s3://bucket/prefix/` for results, where the workgroup does not set one.
    pub output: Option<String>,
    /// How the rows get here.
    pub fetch: Fetch,
}

impl Settings {
    /// The query, checked.
    ///
    /// # Errors
    /// The field that cannot be used, and what is wrong with it.
    pub fn check(self) -> Result<Query, (&'static str, String)> {
        let sql = match (self.sql, self.sql_file) {
            (Some(sql), None) => SqlText::Inline(select(&sql).map_err(|problem| ("query.sql", problem))?),
            (None, Some(file)) => SqlText::File(plain_name(file).map_err(|problem| ("query.sql_file", problem))?),
            (Some(_), Some(_)) => return Err(("query.sql_file", "and query.sql are both set: keep one".into())),
            (None, None) => return Err(("query.sql", "is missing: give the query, or its file as sql_file".into())),
        };
        let workgroup = self.workgroup.unwrap_or_else(|| "primary".to_owned());
        for (field, text) in [("query.database", &self.database), ("query.workgroup", &workgroup)] {
            if text.trim().is_empty() {
                return Err((field, "is empty".into()));
            }
        }
        if let Some(output) = &self.output
            && !output.strip_prefix("s3://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        {
            return Err((
                "query.output",
                format!("is {output:?}: give s3://bucket/prefix/ or leave it to the workgroup"),
            ));
        }
        let Self { database, output, catalog, fetch, parameters, .. } = self;
        Ok(Query { sql, parameters, database, catalog, workgroup, output, fetch })
    }
}

/// The text of a query without what ends it.
///
/// # Errors
/// Where it is no SELECT.
pub fn select(sql: &str) -> Result<String, String> {
    let sql = sql.trim().trim_end_matches(';').trim_end();
    let mut words = sql.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--"));
    let first = words.next().and_then(|line| line.split_whitespace().next()).unwrap_or_default().to_ascii_lowercase();
    if matches!(first.as_str(), "select" | "with") {
        return Ok(sql.to_owned());
    }
    Err("does not begin with SELECT or WITH: give the query that lists the pages".to_owned())
}

fn plain_name(file: String) -> Result<String, String> {
    let plain = !file.is_empty() && !file.starts_with('.') && !file.contains(['/', '\\']);
    if plain { Ok(file) } else { Err(format!("is {file:?}: give the name of a file beside the site's settings")) }
}
