//! Settings, read once at start from the environment; every error names the variable.

use std::fmt::Display;
use std::str::FromStr;

/// A setting that is missing or does not parse.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The variable is not set, or empty.
    #[error("environment variable {name} is not set: {purpose}")]
    Missing {
        /// The variable's name.
        name: &'static str,
        /// What it is for, in the words of an operator.
        purpose: &'static str,
    },
    /// The variable holds something that cannot be used.
    #[error("environment variable {name} is {value:?}: {reason}")]
    Invalid {
        /// The variable's name.
        name: &'static str,
        /// What it holds.
        value: String,
        /// Why that cannot be used, and what can.
        reason: String,
    },
}

type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A source of settings: the process environment, or a table in tests.
pub struct Settings<'a>(Box<Lookup<'a>>);

impl Settings<'static> {
    /// The process environment.
    #[must_use]
    pub fn from_env() -> Self {
        Self(Box::new(|name| std::env::var(name).ok()))
    }
}

impl<'a> Settings<'a> {
    /// Any lookup; for tests.
    pub fn from_fn(lookup: impl Fn(&str) -> Option<String> + 'a) -> Self {
        Self(Box::new(lookup))
    }

    /// The variable's value, or `None` where it is not set or empty.
    #[must_use]
    pub fn optional(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }

    /// The variable's value.
    ///
    /// # Errors
    /// [`SettingError::Missing`] with `purpose` where it is not set or empty.
    pub fn required(&self, name: &'static str, purpose: &'static str) -> Result<String, SettingError> {
        self.optional(name).ok_or(SettingError::Missing { name, purpose })
    }

    /// The variable parsed as `T`, or `default` where it is not set.
    ///
    /// # Errors
    /// [`SettingError::Invalid`] where it is set and does not parse.
    pub fn parsed<T>(&self, name: &'static str, default: T) -> Result<T, SettingError>
    where
        T: FromStr,
        T::Err: Display,
    {
        match self.optional(name) {
            None => Ok(default),
            Some(value) => value.trim().parse().map_err(|error: T::Err| SettingError::Invalid {
                name,
                value,
                reason: error.to_string(),
            }),
        }
    }
}

impl Settings<'_> {
    /// The bytes of the file that the variable names, or `None` where it is not set.
    ///
    /// # Errors
    /// [`SettingError::Invalid`] where the file cannot be read.
    pub fn file(&self, name: &'static str) -> Result<Option<Vec<u8>>, SettingError> {
        let Some(value) = self.optional(name) else { return Ok(None) };
        match std::fs::read(&value) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => {
                Err(SettingError::Invalid { name, value, reason: format!("the file cannot be read: {error}") })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_setting_names_the_variable_and_its_purpose() {
        let settings = Settings::from_fn(|_| None);
        let error = settings.required("TIDEMARK_STREAM", "the Kinesis stream").unwrap_err();
        assert_eq!(error.to_string(), "environment variable TIDEMARK_STREAM is not set: the Kinesis stream");
    }

    #[test]
    fn an_empty_setting_counts_as_missing_and_a_bad_one_is_refused() {
        let settings = Settings::from_fn(|name| Some(if name == "EMPTY" { " " } else { "seven" }.to_owned()));
        assert!(settings.optional("EMPTY").is_none());
        let error = settings.parsed::<u16>("TIDEMARK_LANES", 64).unwrap_err();
        assert!(error.to_string().starts_with("environment variable TIDEMARK_LANES is \"seven\""), "{error}");
    }
}
