//! What single search engines ask beyond sitemaps.org, as presets.

use crate::cut::Limits;
use crate::xml::{BYTES_MAX, URLS_MAX};
use serde::Deserialize;

/// Bytes before compression that Baidu takes of a file (its webmaster rules: 10 MB).
pub const BAIDU_BYTES_MAX: u64 = 10 << 20;

/// A search engine with rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Google: the protocol's limits.
    Google,
    /// Bing: the protocol's limits.
    Bing,
    /// Naver: the protocol's limits.
    Naver,
    /// Yandex: the protocol's limits.
    Yandex,
    /// Baidu: files of 10 MB, and no index.
    Baidu,
}

impl Engine {
    /// Reads an engine's name, in small letters.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Google, Self::Bing, Self::Naver, Self::Yandex, Self::Baidu];
        all.into_iter().find(|engine| engine.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Google => "google",
            Self::Bing => "bing",
            Self::Naver => "naver",
            Self::Yandex => "yandex",
            Self::Baidu => "baidu",
        }
    }

    /// Whether it reads an index; where not, robots.txt (or its webmaster tools) must name every shard.
    #[must_use]
    pub fn reads_index(self) -> bool {
        self != Self::Baidu
    }

    /// `limits`, made as small as the engine asks.
    #[must_use]
    pub fn narrow(self, limits: Limits) -> Limits {
        let bytes_max = if self == Self::Baidu { BAIDU_BYTES_MAX } else { BYTES_MAX };
        Limits {
            urls_target: limits.urls_target.min(URLS_MAX),
            urls_max: limits.urls_max.min(URLS_MAX),
            bytes_max: limits.bytes_max.min(bytes_max),
            ..limits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_baidu_is_smaller_and_reads_no_index() {
        for name in ["google", "bing", "naver", "yandex"] {
            let engine = Engine::parse(name).unwrap();
            assert!(engine.reads_index() && engine.name() == name);
            assert_eq!(engine.narrow(Limits::default()), Limits::default());
        }
        let baidu = Engine::parse("baidu").unwrap();
        let limits = baidu.narrow(Limits::default());
        assert_eq!((baidu.reads_index(), limits.bytes_max, limits.urls_max), (false, 10_485_760, 50_000));
        assert_eq!(Engine::parse("altavista"), None);
    }
}
