//! Whatever stands in a page list: the account adds up, the XML holds what it should, and neither the order of the rows
//! nor the memory for sorting makes a difference.

use super::*;
use crate::loc::BaseUrl;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BASE: &str = "https://a.example";

/// A page as NDJSON has it; some are no page at all.
fn page() -> impl Strategy<Value = String> {
    let path = prop_oneof![8 => "/[a-d]{1,3}", 1 => "/[é&'<]{1,3}", 1 => Just(String::new()), 1 => Just("//b.example/".into())];
    let lastmod = prop_oneof![3 => "2025-0[1-9]-1[0-9]", 1 => "20[0-9]{2}-[01][0-9]", 1 => Just(String::new())];
    let group = prop_oneof![2 => Just(String::new()), 1 => "[12]"];
    let locale = prop_oneof!["de|en|fr|x-default", Just("german".to_owned())];
    let list = proptest::collection::vec(("de|en|fr", "/[a-d]{1,2}"), 0..4);
    let images = proptest::collection::vec("/[xy]{1,3}|java\t", 0..3);
    let index = prop_oneof![9 => Just("yes"), 1 => Just("no")];
    (path, lastmod, group, locale, list, images, (index, "[0-9]{0,2}|[a-c]")).prop_map(
        |(loc, lastmod, group, locale, list, images, (index, sort_key))| {
            let alternates: Vec<_> =
                list.iter().map(|(hreflang, href)| serde_json::json!({"hreflang": hreflang, "href": href})).collect();
            let page = serde_json::json!({
                "loc": loc, "lastmod": lastmod, "group": group, "locale": locale, "alternates": alternates,
                "images": images, "index": index, "sort_key": sort_key,
            });
            format!("{page}\n")
        },
    )
}

/// The files that come of `pages`, with the account.
fn build(
    pages: &[String],
    sort_memory_bytes: usize,
    sort_key: bool,
) -> Result<(BTreeMap<String, Vec<u8>>, Report), String> {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("pages.ndjson");
    fs::write(&input, pages.concat()).unwrap();
    let policy = Policy { sort_key, ..Policy::new(BaseUrl::parse(BASE).unwrap(), 1_763_800_000_000) };
    let limits = Limits { urls_target: 8, urls_max: 10, bytes_max: 3_000, ..Limits::default() };
    let options = Options { limits, sort_memory_bytes, packing: Packing::Plain, ..Options::new(policy, "run") };
    let standing = Standing { intact: &|_| false, strays: &[] };
    match from_files(&[input], &Manifest::empty(BASE), dir.path(), &options, standing) {
        Ok((built, _)) => {
            let read = |change: &Change| (change.file.clone(), fs::read(&change.staged).unwrap());
            for shard in &built.manifest.shards {
                assert!(shard.urls <= 10 && shard.xml_bytes <= 3_000);
            }
            assert!(built.manifest.shards.is_sorted_by(|a, b| a.last < b.lower), "ranges lie one behind the other");
            Ok((built.changes.iter().map(read).collect(), built.report))
        }
        Err(BuildError::Empty(report)) => {
            assert!(report.adds_up());
            Err("empty".to_owned())
        }
        Err(error) => panic!("{error}"),
    }
}

/// Every page of the files with the addresses that its links name.
fn links(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<String>> {
    let xml: String = files.values().map(|bytes| std::str::from_utf8(bytes).unwrap()).collect();
    let urls = xml.split("<url><loc>").skip(1).map(|url| {
        let (loc, rest) = url.split_once("</loc>").unwrap();
        let rest = rest.split_once("</url>").unwrap().0;
        let all = rest.split("<xhtml:link ").skip(1).map(|link| link.split_once("/>").unwrap().0.to_owned());
        (loc.to_owned(), all.collect())
    });
    urls.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn order_and_memory_make_no_difference_and_the_account_adds_up(
        pages in proptest::collection::vec(page(), 1..120), turn in 0_usize..120, memory_bytes in 100_usize..4_000,
        sort_key in any::<bool>(),
    ) {
        let mut turned = pages.clone();
        turned.rotate_left(turn % pages.len());
        turned.reverse();
        let first = build(&pages, 1 << 20, sort_key);
        let second = build(&turned, memory_bytes, sort_key);
        match (first, second) {
            (Ok((files, report)), Ok((others, other_report))) => {
                prop_assert_eq!(&files, &others);
                prop_assert!(report.adds_up());
                prop_assert_eq!(report.input, pages.len() as u64);
                let counts = |report: &Report| (report.duplicates, report.emitted, report.dropped.clone());
                prop_assert_eq!(counts(&report), counts(&other_report));
                let links = links(&files);
                prop_assert_eq!(links.len() as u64, report.emitted, "each page once");
                for (page, all) in &links {
                    let own = format!("href=\"{page}\"");
                    prop_assert!(all.is_empty() || all.iter().any(|link| link.contains(&own)));
                    for link in all {
                        let (_, href) = link.split_once("href=\"").unwrap();
                        prop_assert_eq!(links.get(href.trim_end_matches('"')), Some(all), "{} is one-sided", page);
                    }
                }
            }
            (first, second) => prop_assert_eq!(first.err(), second.err()),
        }
    }
}

#[test]
fn another_order_is_refused_unless_the_sitemap_may_be_cut_anew_and_a_drop_is_seen_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("pages.csv");
    let list = |pages: u32| -> String {
        (0..pages)
            .map(|page| format!("/{page},2025-01-01,{}\n", 1000 - page))
            .fold("loc,lastmod,sku\n".to_owned(), |all, row| all + &row)
    };
    let pass = |pages: u32, sort_key: bool, reshard: bool, previous: &Manifest| {
        fs::write(&input, list(pages)).unwrap();
        let mut policy = Policy { sort_key, ..Policy::new(BaseUrl::parse(BASE).unwrap(), 1_763_800_000_000) };
        policy.columns.rename("sort_key", "sku").unwrap();
        let limits = Limits { urls_target: 8, urls_max: 10, ..Limits::default() };
        let options = Options { limits, reshard, ..Options::new(policy, "run") };
        let standing = Standing { intact: &|_| true, strays: &[] };
        from_files(std::slice::from_ref(&input), previous, dir.path(), &options, standing).map(|(built, _)| built)
    };
    let first = pass(20, false, false, &Manifest::empty(BASE)).unwrap().manifest;
    let refused = pass(20, true, false, &first).unwrap_err().to_string();
    assert!(refused.contains("sorted by loc, and now they are by sku") && refused.contains("--reshard"), "{refused}");
    let dropped = pass(5, true, true, &first).unwrap_err();
    assert!(matches!(dropped, BuildError::Drop(..)), "{dropped}");
    let anew = pass(20, true, true, &first).unwrap();
    assert_eq!((anew.manifest.sort_key.as_str(), anew.manifest.urls(), anew.changes.len()), ("sku", 20, 3));
    assert_eq!(anew.manifest.retired.len(), first.shards.len());
    assert!(anew.manifest.shards[0].last.ends_with("\thttps://a.example/12"), "{:?}", anew.manifest.shards[0]);
    let again = pass(20, true, false, &anew.manifest).unwrap();
    assert_eq!(again.changes, [], "the same order needs no leave");
}

#[test]
fn a_window_that_is_empty_keeps_its_sitemap_and_writes_nothing_while_files_are_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("pages.csv");
    let pass = |lastmod: &str, previous: &Manifest| {
        fs::write(&input, format!("loc,lastmod\n/abcdef,{lastmod}\n")).unwrap();
        let mut policy = Policy::new(BaseUrl::parse(BASE).unwrap(), 1_763_800_000_000);
        policy.select.within_hours = Some(48);
        let options = Options::new(policy, "run");
        let standing = Standing { intact: &|_| true, strays: &[] };
        from_files(std::slice::from_ref(&input), previous, dir.path(), &options, standing).map(|(built, _)| built)
    };
    let first = pass("2025-11-22", &Manifest::empty(BASE)).unwrap().manifest;
    let empty = pass("2025-01-01", &first).unwrap();
    assert_eq!((empty.manifest.shards, empty.changes), (first.shards.clone(), vec![]));
    let taken_over = Manifest { outgoing: vec!["theirs.xml.gz".to_owned()], ..first };
    let refused = pass("2025-01-01", &taken_over).unwrap_err();
    assert!(matches!(&refused, BuildError::Empty(report) if report.input == 1), "{refused}");
    let next = pass("2025-11-22", &taken_over).unwrap().manifest;
    assert_eq!((next.outgoing.len(), next.retired[0].file.as_str()), (0, "theirs.xml.gz"));
}
