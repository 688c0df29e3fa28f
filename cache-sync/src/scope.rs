//! The scope: which keys are synced. Everything else in the same Redis belongs to the services.

use crate::change::SYSTEM_PREFIX;
use std::str::FromStr;

/// Key prefixes that are synced; `*` for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    text: String,
    /// Empty: everything.
    prefixes: Vec<Vec<u8>>,
}

/// A scope that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("scope {0:?} is neither * nor a list of key prefixes with commas between them (cart:,user:)")]
pub struct ScopeError(String);

impl Scope {
    /// Whether `key` is synced. The system's own keys never are.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        !key.starts_with(SYSTEM_PREFIX)
            && (self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| key.starts_with(prefix)))
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let text = text.trim().to_owned();
        if text == "*" {
            return Ok(Self { text, prefixes: Vec::new() });
        }
        let prefixes: Vec<Vec<u8>> = text.split(',').map(|prefix| prefix.trim().as_bytes().to_vec()).collect();
        if prefixes.iter().any(|prefix| prefix.is_empty() || prefix.contains(&b'*')) {
            return Err(ScopeError(text));
        }
        Ok(Self { text, prefixes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_everything_or_a_list_of_prefixes_and_never_the_systems_keys() {
        let all: Scope = "*".parse().unwrap();
        assert!(all.contains(b"anything") && !all.contains(b"tidemark:lane:1"));
        let some: Scope = "user:, cart:".parse().unwrap();
        assert!(some.contains(b"cart:1") && !some.contains(b"session:1"));
        for bad in ["", "a,,b", "user:*"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad:?}");
        }
    }
}
