//! Whether a sitemap may lose as many URLs as a run would take from it.
//!
//! A list that is suddenly much shorter is more often truncated than true. What a run may lose is a share of all URLs,
//! and of each kind that has a share of its own. Who knows better may allow a drop for one run; that is recorded.

use crate::build::{BuildError, Options};
use crate::manifest::Manifest;
use crate::report::Report;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is told where the manifest before does not count kinds, because it is older or imported.
const NOT_COUNTED: &str = "the last manifest counts no kinds, so their guards begin with the next run";

/// More URLs were lost than is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// The kind whose they are; all URLs where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// URLs before. Of a kind, the rows that passed: duplicates count.
    pub before: u64,
    /// URLs now.
    pub after: u64,
    /// How many percent fewer are believed.
    pub percent_max: u32,
}

impl fmt::Display for Drop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages ", self.after)?;
        if let Some(kind) = &self.kind {
            write!(f, "of the kind {kind} ")?;
        }
        write!(f, "are left of {}, more than {} % fewer", self.before, self.percent_max)
    }
}

/// Drops that somebody allowed for one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Who allowed it and why, in their own words.
    pub by: String,
    /// The time of the run, in milliseconds since the epoch.
    pub at_ms: i64,
    /// What was allowed.
    pub drops: Vec<Drop>,
}

/// Holds what a run would make, by its `report`, against `previous`: refuses a drop that is not allowed, and gives one
/// that is, for the record.
///
/// # Errors
/// [`BuildError::Drop`].
pub(crate) fn check(
    options: &Options,
    previous: &Manifest,
    report: &mut Report,
) -> Result<Option<Accepted>, BuildError> {
    let mut drops = Vec::new();
    drops.extend(drop_of(None, previous.urls(), report.emitted, options.drop_percent_max));
    if previous.kinds.is_empty() && !options.kinds_drop_percent_max.is_empty() && !previous.shards.is_empty() {
        report.flag(NOT_COUNTED, 1);
    }
    for (kind, percent_max) in &options.kinds_drop_percent_max {
        let count = |kinds: &std::collections::BTreeMap<String, u64>| kinds.get(kind).copied().unwrap_or_default();
        drops.extend(drop_of(Some(kind), count(&previous.kinds), count(&report.kinds), *percent_max));
    }
    // A script whose text came out empty accepts nothing.
    match options.accept_drop.as_deref().map(str::trim).filter(|by| !by.is_empty()) {
        _ if drops.is_empty() => Ok(None),
        Some(by) => Ok(Some(Accepted { by: by.to_owned(), at_ms: options.policy.now_ms, drops })),
        None => Err(BuildError::Drop(drops, Box::new(report.clone()))),
    }
}

fn drop_of(kind: Option<&String>, before: u64, after: u64, percent_max: u32) -> Option<Drop> {
    let is_more = after * 100 < before * u64::from(100 - percent_max.min(100));
    is_more.then(|| Drop { kind: kind.cloned(), before, after, percent_max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loc::BaseUrl;
    use crate::manifest::tests::shard;
    use crate::pages::Policy;
    use std::collections::BTreeMap;

    fn kinds(products: u64, articles: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([("product".to_owned(), products), ("article".to_owned(), articles)])
    }

    fn options(accept_drop: Option<&str>) -> Options {
        let policy = Policy::new(BaseUrl::parse("https://a.example").unwrap(), 1_763_800_000_000);
        Options {
            drop_percent_max: 50,
            kinds_drop_percent_max: BTreeMap::from([("product".to_owned(), 20)]),
            accept_drop: accept_drop.map(str::to_owned),
            ..Options::new(policy, "run")
        }
    }

    fn previous(urls: u32) -> Manifest {
        let shards = vec![crate::manifest::Shard { urls, ..shard("a", "", "b") }];
        Manifest { shards, kinds: kinds(60, 40), ..Manifest::empty("https://a.example") }
    }

    fn report(emitted: u64, products: u64) -> Report {
        Report { input: emitted, emitted, kinds: kinds(products, emitted - products), ..Report::default() }
    }

    #[test]
    fn a_drop_of_all_or_of_one_kind_beyond_its_share_is_refused_and_none_to_the_page() {
        for (emitted, products, refused) in
            [(100, 60, 0), (88, 48, 0), (87, 47, 1), (50, 48, 0), (49, 48, 1), (49, 47, 2), (40, 0, 2)]
        {
            let outcome = check(&options(None), &previous(100), &mut report(emitted, products));
            let drops = match outcome {
                Ok(None) => 0,
                Err(BuildError::Drop(drops, _)) => drops.len(),
                other => panic!("{other:?}"),
            };
            assert_eq!(drops, refused, "{emitted} {products}");
        }
    }

    #[test]
    fn an_allowed_drop_is_recorded_with_who_when_and_what_and_without_one_nothing_is() {
        let by = "ada: the shop in Bern closed";
        assert_eq!(check(&options(Some(by)), &previous(100), &mut report(100, 60)).unwrap(), None);
        let accepted = check(&options(Some(by)), &previous(100), &mut report(80, 30)).unwrap().unwrap();
        let drop = Drop { kind: Some("product".to_owned()), before: 60, after: 30, percent_max: 20 };
        assert_eq!(accepted, Accepted { by: by.to_owned(), at_ms: 1_763_800_000_000, drops: vec![drop] });
        for nobody in ["", " "] {
            assert!(check(&options(Some(nobody)), &previous(100), &mut report(80, 30)).is_err(), "{nobody:?}");
        }
    }

    #[test]
    fn a_manifest_without_kinds_passes_and_that_is_told() {
        let older = Manifest { kinds: BTreeMap::new(), ..previous(100) };
        let mut report = report(100, 0);
        assert_eq!(check(&options(None), &older, &mut report).unwrap(), None);
        assert_eq!(report.flagged.get(NOT_COUNTED), Some(&1));
    }

    #[test]
    fn the_refusal_names_kind_and_numbers_where_the_rows_went_and_the_way_out() {
        let rejected = BTreeMap::from([("host is not listed".to_owned(), 13)]);
        let mut report = Report { input: 100, rejected, ..report(87, 47) };
        let error = check(&options(None), &previous(100), &mut report).unwrap_err().to_string();
        assert!(error.contains("47 pages of the kind product are left of 60, more than 20 % fewer"), "{error}");
        assert!(error.contains("(100 rows read; 13 x host is not listed)"), "{error}");
        assert!(error.contains("accept"), "{error}");
    }
}
