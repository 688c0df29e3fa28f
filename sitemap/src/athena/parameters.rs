//! Named parameters of a query, `:name`, as the positional ones that Athena has, `?`.
//!
//! Promises: a value is never a part of the query's text; it goes to Athena apart, as a literal that is quoted here.
//! What only looks like a parameter stays as it is: in texts, quoted names and comments, and the casts `::type`.
//! Athena takes parameters in SELECT and UNLOAD alike, and only in a WHERE clause:
//! <https://docs.aws.amazon.com/athena/latest/ug/querying-with-prepared-statements.html>

use super::settings::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A query's text with `?` for each parameter, and their values as literals, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// The text.
    pub sql: String,
    /// The literals.
    pub parameters: Vec<String>,
}

/// Why a query's parameters cannot be filled in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// The query names one that has no value.
    #[error("the query has a parameter :{0} without a value: give it in [query.parameters]")]
    Unknown(String),
    /// A value whose name the query does not have.
    #[error("the parameter {0} stands nowhere in the query as :{0}: remove it, or correct its name")]
    Unused(String),
    /// An argument for a parameter that the settings do not declare.
    #[error("there is no parameter {0} to be set: [query.parameters] declares none of that name")]
    Undeclared(String),
    /// An argument that is not of the kind that the settings declare.
    #[error("{text:?} is no value for the parameter {name}: [query.parameters] declares {kind}")]
    Kind {
        /// The parameter.
        name: String,
        /// What was given.
        text: String,
        /// What was wanted.
        kind: &'static str,
    },
    /// A bare `?`.
    #[error("the query has a ? in line {0}: name the parameter, as in :since, and give its value by that name")]
    Positional(usize),
    /// A text, quoted name or comment that has no end.
    #[error("the query has a {what} in line {line} that does not end")]
    Open {
        /// What it is.
        what: &'static str,
        /// Where it begins.
        line: usize,
    },
    /// A value that no literal can carry.
    #[error("the value of the parameter {0} holds a character that no query can carry")]
    Value(String),
}

/// Replaces every `:name` of `sql` by `?`, with its value from `declared`, or from `arguments` where it stands there.
///
/// # Errors
/// A [`ParameterError`], for a name without a value and for a value without a use too.
pub fn statement(
    sql: &str,
    declared: &BTreeMap<String, Value>,
    arguments: &BTreeMap<String, String>,
) -> Result<Statement, ParameterError> {
    if let Some(name) = arguments.keys().find(|name| !declared.contains_key(*name)) {
        return Err(ParameterError::Undeclared(name.clone()));
    }
    let mut literals = BTreeMap::new();
    for (name, value) in declared {
        let value = match arguments.get(name) {
            Some(text) => value.read(name, text)?,
            None => value.clone(),
        };
        literals.insert(name.as_str(), value.literal(name)?);
    }
    let mut out = Statement { sql: String::with_capacity(sql.len()), parameters: Vec::new() };
    let mut used = BTreeSet::new();
    let mut rest = sql;
    while !rest.is_empty() {
        let line = || 1 + sql[..sql.len() - rest.len()].matches('\n').count();
        let token = next_token(rest).map_err(|what| ParameterError::Open { what, line: line() })?;
        let (text, after) = rest.split_at(token.bytes);
        match token.name {
            Some(name) => {
                let literal = literals.get(name).ok_or_else(|| ParameterError::Unknown(name.to_owned()))?;
                out.parameters.push(literal.clone());
                out.sql.push('?');
                used.insert(name);
            }
            None if text == "?" => return Err(ParameterError::Positional(line())),
            None => out.sql.push_str(text),
        }
        rest = after;
    }
    match literals.keys().find(|name| !used.contains(*name)) {
        Some(name) => Err(ParameterError::Unused((*name).to_owned())),
        None => Ok(out),
    }
}

struct Token<'a> {
    bytes: usize,
    /// Where it is a parameter.
    name: Option<&'a str>,
}

/// The front of `sql`: a text, a quoted name, a comment, a cast, a parameter, or what lies before the next of these.
fn next_token(sql: &str) -> Result<Token<'_>, &'static str> {
    let plain = |bytes| Ok(Token { bytes, name: None });
    let until = |close: &str, from: usize, what| match sql[from..].find(close) {
        Some(at) => plain(from + at + close.len()),
        None => Err(what),
    };
    if sql.starts_with('\'') {
        // A doubled quote inside ends one text and begins the next at once, which comes to the same.
        return until("'", 1, "text");
    }
    if sql.starts_with('"') {
        return until("\"", 1, "quoted name");
    }
    if sql.starts_with("--") {
        return plain(sql.find('\n').unwrap_or(sql.len()));
    }
    if sql.starts_with("/*") {
        return until("*/", 2, "comment");
    }
    if sql.starts_with("::") {
        return plain(2);
    }
    if let Some(after) = sql.strip_prefix(':') {
        let name = name_of(after);
        return Ok(Token { bytes: 1 + name.len(), name: (!name.is_empty()).then_some(name) });
    }
    if sql.starts_with(['?', '-', '/']) {
        return plain(1);
    }
    plain(sql.find(['\'', '"', '-', '/', ':', '?']).unwrap_or(sql.len()))
}

/// The name at the front of `text`; it begins with a letter or `_`.
fn name_of(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) { "" } else { &text[..end] }
}

impl Value {
    /// `text` as a value of this one's kind.
    fn read(&self, name: &str, text: &str) -> Result<Self, ParameterError> {
        let (value, kind) = match self {
            Self::Boolean(_) => (text.parse().ok().map(Self::Boolean), "true or false"),
            Self::Integer(_) => (text.parse().ok().map(Self::Integer), "a whole number"),
            Self::Float(_) => (text.parse().ok().map(Self::Float), "a number"),
            Self::Text(_) => (Some(Self::Text(text.to_owned())), "a text"),
        };
        value.ok_or_else(|| ParameterError::Kind { name: name.to_owned(), text: text.to_owned(), kind })
    }

    /// The value as Athena takes it among ExecutionParameters: texts stand in single quotes.
    fn literal(&self, name: &str) -> Result<String, ParameterError> {
        match self {
            Self::Boolean(flag) => Ok(flag.to_string()),
            Self::Integer(number) => Ok(number.to_string()),
            Self::Float(number) if number.is_finite() => Ok(format!("{number:?}")),
            Self::Text(text) if !text.contains('\0') => Ok(format!("'{}'", text.replace('\'', "''"))),
            _ => Err(ParameterError::Value(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(values: &[(&str, Value)]) -> BTreeMap<String, Value> {
        values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn filled(sql: &str, declared: &[(&str, Value)]) -> Result<Statement, ParameterError> {
        statement(sql, &values(declared), &BTreeMap::new())
    }

    #[test]
    fn parameters_become_positions_and_their_values_literals() {
        let out = filled(
            "SELECT loc FROM p WHERE day>=:since AND n=:n-1 AND (a=:since OR b=:ok) AND f<:f",
            &[
                ("since", text("it's")),
                ("n", Value::Integer(-5)),
                ("ok", Value::Boolean(true)),
                ("f", Value::Float(1.0)),
            ],
        );
        let out = out.unwrap();
        assert_eq!(out.sql, "SELECT loc FROM p WHERE day>=? AND n=?-1 AND (a=? OR b=?) AND f<?");
        assert_eq!(out.parameters, ["'it''s'", "-5", "'it''s'", "true", "1.0"]);
    }

    #[test]
    fn what_only_looks_like_a_parameter_stays() {
        let sql = "SELECT ':a', \":b\", x::date, 'it''s :c?' -- :d ? '\n, /* :e ' */ m[1:2], y :: int FROM p";
        assert_eq!(filled(sql, &[]).unwrap(), Statement { sql: sql.to_owned(), parameters: Vec::new() });
        assert_eq!(filled("SELECT x::date WHERE x::date > :d", &[("d", text(""))]).unwrap().parameters, ["''"]);
    }

    #[test]
    fn names_without_value_or_use_and_bare_positions_are_errors() {
        assert_eq!(filled("SELECT :x", &[]), Err(ParameterError::Unknown("x".into())));
        assert_eq!(filled("SELECT ':x'", &[("x", text("1"))]), Err(ParameterError::Unused("x".into())));
        assert_eq!(filled("SELECT 1\nWHERE a = ?", &[]), Err(ParameterError::Positional(2)));
        assert_eq!(filled("SELECT 'a", &[]), Err(ParameterError::Open { what: "text", line: 1 }));
        assert!(filled("SELECT :x", &[("x", text("\0"))]).is_err());
    }

    #[test]
    fn an_argument_replaces_a_declared_value_and_keeps_its_kind() {
        let given = |name: &str, text: &str| {
            let arguments = BTreeMap::from([(name.to_owned(), text.to_owned())]);
            statement("SELECT :n", &values(&[("n", Value::Integer(1))]), &arguments)
        };
        assert_eq!(given("n", "7").unwrap().parameters, ["7"]);
        assert!(given("n", "7 OR 1=1").unwrap_err().to_string().contains("a whole number"));
        assert_eq!(given("m", "7"), Err(ParameterError::Undeclared("m".into())));
    }

    proptest! {
        #[test]
        fn no_value_leaves_its_quotes_and_no_text_panics(value in "\\PC{0,20}", sql in "[a-z:?'\"/*\n -]{0,40}") {
            let literal = text(&value).literal("x").unwrap();
            let inside = &literal[1..literal.len() - 1];
            prop_assert_eq!(inside.replace("''", ""), value.replace('\'', ""));
            prop_assert_eq!(inside.matches('\'').count(), 2 * value.matches('\'').count());
            let _ = filled(&sql, &[]);
        }
    }
}
