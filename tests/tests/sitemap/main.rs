//! What a sitemap promises to whoever fetches it and to whoever builds it again, from files, without a cloud.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

mod athena;
mod check;
mod command;
mod edge;
mod extensions;
mod import;
mod kill;
mod plan;
mod race;
mod readers;
mod rollback;
mod several;
mod sort_key;
mod stability;
mod store;
mod tell;
mod world;

use quick_xml::events::Event;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use tidemark_sitemap::Limits;
use tidemark_sitemap::build::Options;
use tidemark_sitemap::keys;
use tidemark_sitemap::loc::BaseUrl;
use tidemark_sitemap::pages::Policy;
use tidemark_sitemap::place::directory::{self, Directory, DirectoryError, Outcome, UNKNOWN_FILES};
use tidemark_sitemap::publish::INDEX_NEW;

const BASE: &str = "https://packages.example.org";
const DAY_MS: i64 = 24 * 3600 * 1000;
/// 22 November 2025.
const NOW_MS: i64 = 1_763_800_000_000;

struct Fixture {
    dir: tempfile::TempDir,
    now_ms: i64,
    limits: Limits,
    sort_memory_bytes: usize,
    drop_percent_max: u32,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { urls_target: 400, urls_max: 500, ..Limits::default() };
        Self { dir, now_ms: NOW_MS, limits, sort_memory_bytes: 1 << 20, drop_percent_max: 50 }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn write(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    async fn build(&self, input: &Path) -> Result<Outcome, DirectoryError> {
        let policy = Policy::new(BaseUrl::parse(BASE).unwrap(), self.now_ms);
        let options = Options {
            limits: self.limits,
            drop_percent_max: self.drop_percent_max,
            sort_memory_bytes: self.sort_memory_bytes,
            ..Options::new(policy, format!("test-{}", self.now_ms))
        };
        Directory::open(&self.out()).unwrap().build(&[input.to_owned()], &options, BASE).await
    }

    /// Every public file with its bytes and its time of change.
    fn files(&self) -> BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
        let entries = fs::read_dir(self.out()).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file());
        entries
            .map(|entry| {
                let seen = (fs::read(entry.path()).unwrap(), entry.metadata().unwrap().modified().unwrap());
                (entry.file_name().into_string().unwrap(), seen)
            })
            .collect()
    }
}

/// Names as they stand in a Debian archive, awkward ones first; sorted as their addresses are.
fn packages(count: usize) -> Vec<String> {
    let awkward =
        ["0ad", "g++-12", "libstdc++6", "libc6.1", "a_b~rc1", "päckage", "x y", "a&b", "it's", "q?a=1&b=2", "日本"];
    let mut names: Vec<String> = awkward.iter().map(|name| format!("/p/{name}")).collect();
    names.extend((0..count).map(|n| format!("/p/lib{n:06}+dfsg")));
    names
}

fn csv(rows: &[(String, String)]) -> Vec<u8> {
    let mut text = "loc,lastmod\n".to_owned();
    for (loc, lastmod) in rows {
        text.push_str(&format!("\"{loc}\",{lastmod}\n"));
    }
    text.into_bytes()
}

fn rows(count: usize) -> Vec<(String, String)> {
    let dated = |(n, name)| (name, format!("2025-{:02}-{:02}", n % 11 + 1, n % 28 + 1));
    packages(count).into_iter().enumerate().map(dated).collect()
}

/// Reads a sitemap as a crawler would: the index, then every file that it names. Holds it against the protocol's rules
/// and returns every page with its lastmod.
fn crawl(out: &Path) -> Vec<(String, String)> {
    crawl_index(out, "sitemap-index.xml")
}

/// The same by one of several indexes.
fn crawl_index(out: &Path, index: &str) -> Vec<(String, String)> {
    let index = fs::read(out.join(index)).unwrap();
    well_formed(out, "sitemap-index.xml", &index);
    let files = elements(&index, "sitemapindex", "sitemap", &["loc", "lastmod"]);
    assert!(!files.is_empty() && files.len() <= 50_000);
    let mut pages = Vec::new();
    for file in files {
        let name = file["loc"].strip_prefix(&format!("{BASE}/")).expect("shards lie beside the index");
        assert!(file["lastmod"].ends_with('Z'), "the index tells when its shards changed");
        let bytes = fs::read(out.join(name)).unwrap();
        assert_eq!(bytes[..4], [0x1f, 0x8b, 8, 0], "gzip without a name");
        assert_eq!(bytes[4..8], [0; 4], "and without a time");
        let mut xml = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut xml).unwrap();
        assert!(xml.len() <= 52_428_800);
        well_formed(out, name, &xml);
        let urls = elements(&xml, "urlset", "url", &["loc", "lastmod", "changefreq", "priority"]);
        assert!((1..=50_000).contains(&urls.len()), "{name} holds {} URLs", urls.len());
        for url in urls {
            let loc = &url["loc"];
            assert!(loc.starts_with(&format!("{BASE}/")) && (12..=2047).contains(&loc.len()), "{loc}");
            assert!(loc.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"\\^`{|}".contains(&b)), "{loc}");
            pages.push((loc.clone(), url.get("lastmod").cloned().unwrap_or_default()));
        }
    }
    pages
}

fn well_formed(out: &Path, name: &str, xml: &[u8]) {
    let path = out.with_extension("check.xml");
    fs::write(&path, xml).unwrap();
    let checked = Command::new("xmllint").arg("--noout").arg(&path).output();
    let checked = checked.expect("xmllint must be installed (Debian: libxml2-utils)");
    assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
}

/// The children of every `item` in the document `root`; they must be among `allowed`, in that order, each once.
fn elements(xml: &[u8], root: &str, item: &str, allowed: &[&str]) -> Vec<BTreeMap<String, String>> {
    let mut reader = quick_xml::Reader::from_reader(xml);
    let (mut path, mut found, mut at): (Vec<String>, Vec<BTreeMap<String, String>>, _) = (Vec::new(), Vec::new(), 0);
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                let name = start.name().as_ref().to_owned();
                match path.len() {
                    0 => {
                        assert_eq!(name, root);
                        let space = start.try_get_attribute("xmlns").unwrap().expect("a namespace");
                        assert_eq!(space.value.as_ref(), "http://www.sitemaps.org/schemas/sitemap/0.9");
                    }
                    1 => {
                        assert_eq!(name, item);
                        found.push(BTreeMap::new());
                        at = 0;
                    }
                    _ => {
                        let place =
                            allowed[at..].iter().position(|tag| *tag == name).expect("a known element, in order");
                        at += place + 1;
                        found.last_mut().unwrap().insert(name.clone(), String::new());
                    }
                }
                path.push(name);
            }
            Event::Text(text) if path.len() == 3 => {
                found.last_mut().unwrap().get_mut(&path[2]).unwrap().push_str(&text[..]);
            }
            Event::GeneralRef(name) if path.len() == 3 => {
                let entity = format!("&{};", &name[..]);
                let plain = quick_xml::escape::unescape(&entity).unwrap().into_owned();
                found.last_mut().unwrap().get_mut(&path[2]).unwrap().push_str(&plain);
            }
            Event::End(_) => drop(path.pop()),
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(found.iter().all(|children| children.contains_key("loc")));
    found
}

/// What a page's address must be, by another way than the code's: the `url` crate's own escaping of a path.
fn address(loc: &str) -> String {
    url::Url::parse(BASE).unwrap().join(loc).unwrap().to_string()
}

#[tokio::test]
async fn every_page_comes_out_once_with_a_valid_address_and_its_own_lastmod() {
    let fixture = Fixture::new();
    let rows = rows(3000);
    let outcome = fixture.build(&fixture.write("pages.csv", &csv(&rows))).await.unwrap();
    assert!(outcome.report.adds_up());
    assert_eq!((outcome.report.emitted, outcome.report.rejected_total()), (3011, 0));
    let mut wanted: Vec<_> = rows.iter().map(|(loc, lastmod)| (address(loc), lastmod.clone())).collect();
    wanted.sort();
    assert_eq!(crawl(&fixture.out()), wanted);
    assert_eq!(outcome.published.files_new.len(), 8);
    let checked = tidemark_sitemap::check::directory(&fixture.out().join("sitemap-index.xml"));
    assert_eq!((checked.files, checked.urls, checked.faults), (9, 3011, Vec::new()));
}

#[tokio::test]
async fn a_directory_has_as_many_indexes_as_its_shards_take() {
    let mut fixture = Fixture::new();
    fixture.limits.index.shards_max = 3;
    let input = fixture.write("pages.csv", &csv(&rows(3000)));
    let outcome = fixture.build(&input).await.unwrap();
    let names = ["sitemap-index.xml", "sitemap-index-2.xml", "sitemap-index-3.xml"];
    assert_eq!(outcome.published.indexes, names);
    assert_eq!(outcome.published.indexes_written, names);
    assert!(outcome.published.indexes_new.is_empty(), "the first run has nothing that is new");
    let mut all: Vec<_> = names.iter().flat_map(|name| crawl_index(&fixture.out(), name)).collect();
    all.sort();
    assert_eq!(all.len(), 3011);
    let indexes: Vec<_> = directory::index_files(&fixture.out()).unwrap().into_values().collect();
    let options = tidemark_sitemap::check::Options::new(NOW_MS);
    let checked = tidemark_sitemap::check::local(None, &indexes, options, &|_| ()).await;
    assert_eq!((checked.files, checked.urls, checked.faults), (8 + 3, 3011, Vec::new()));

    // One that somebody changed is mended, by a run with the same input too; no other file is touched.
    let before = fixture.files();
    fs::write(fixture.out().join(names[1]), "mine").unwrap();
    let again = fixture.build(&input).await.unwrap();
    assert_eq!(again.published.indexes_written, [names[1]]);
    assert!(fixture.files().iter().all(|(file, seen)| seen.0 == before[file].0));

    let more = fixture.build(&fixture.write("more.csv", &csv(&rows(4000)))).await.unwrap();
    assert_eq!(more.published.indexes_new, ["sitemap-index-4.xml"]);
    assert_eq!(more.report.flagged[INDEX_NEW], 1);
    let less = fixture.build(&fixture.write("less.csv", &csv(&rows(2000)))).await.unwrap();
    let standing: Vec<u32> = directory::index_files(&fixture.out()).unwrap().into_keys().collect();
    assert_eq!(standing, [1, 2, 4], "no grace here: what is left without a shard goes");
    assert_eq!(less.manifest.indexes().into_iter().collect::<Vec<_>>(), standing);
    assert!(less.published.files_removed.contains(&names[2].to_owned()));
}

#[tokio::test]
async fn the_same_pages_give_the_same_bytes_whatever_their_order_format_and_memory() {
    let rows = rows(2500);
    let mut shuffled = rows.clone();
    shuffled.sort_by_key(|(loc, _)| loc.bytes().rev().collect::<Vec<_>>());
    let ndjson: Vec<u8> = shuffled
        .iter()
        .flat_map(|(loc, lastmod)| format!("{}\n", serde_json::json!({"loc": loc, "lastmod": lastmod})).into_bytes())
        .collect();
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut zipped, &csv(&shuffled)).unwrap();
    let inputs = [
        ("a.csv", csv(&rows)),
        ("b.csv", csv(&shuffled)),
        ("c.ndjson", ndjson),
        ("d.csv.gz", zipped.finish().unwrap()),
    ];
    let mut all = Vec::new();
    for (name, text) in inputs {
        for sort_memory_bytes in [1 << 20, 10_000] {
            let fixture = Fixture { sort_memory_bytes, ..Fixture::new() };
            fixture.build(&fixture.write(name, &text)).await.unwrap();
            all.push(fixture.files().into_iter().map(|(file, (bytes, _))| (file, bytes)).collect::<Vec<_>>());
        }
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn one_edited_row_changes_one_shard_and_the_index_and_no_row_changes_nothing() {
    let mut fixture = Fixture::new();
    let mut rows = rows(3000);
    fixture.build(&fixture.write("pages.csv", &csv(&rows))).await.unwrap();
    let first = fixture.files();

    fixture.now_ms += DAY_MS;
    rows.reverse();
    let again = fixture.build(&fixture.write("pages.csv", &csv(&rows))).await.unwrap();
    assert!(again.published.indexes_written.is_empty() && again.published.files_rewritten.is_empty());
    assert_eq!(fixture.files(), first, "equal rows in another order: no file is written");

    fixture.now_ms += DAY_MS;
    let edited = rows.len() / 2;
    rows[edited].1 = "2025-11-23".to_owned();
    let outcome = fixture.build(&fixture.write("pages.csv", &csv(&rows))).await.unwrap();
    let second = fixture.files();
    let changed: Vec<_> = second.iter().filter(|(name, seen)| first[*name] != **seen).map(|(name, _)| name).collect();
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert_eq!(
        (changed[1].as_str(), vec![changed[0].clone()]),
        ("sitemap-index.xml", outcome.published.files_rewritten)
    );
    assert_eq!(second.len(), first.len());

    let shards = outcome.manifest.shards;
    let moved = shards.iter().filter(|shard| shard.changed_at.starts_with("2025-11-24")).count();
    assert_eq!((moved, shards.len()), (1, 8), "only the changed shard has a new time in the index");
    assert!(crawl(&fixture.out()).contains(&(address(&rows[edited].0), "2025-11-23".to_owned())));
}

#[tokio::test]
async fn a_dry_run_tells_what_a_build_then_does_and_touches_nothing() {
    let fixture = Fixture::new();
    let mut rows = rows(3000);
    let policy = || Policy::new(BaseUrl::parse(BASE).unwrap(), fixture.now_ms);
    let options = Options { limits: fixture.limits, ..Options::new(policy(), "test") };
    let plan = |input: &Path| {
        let work = tempfile::tempdir().unwrap();
        let (told, report) = directory::plan(&fixture.out(), &[input.to_owned()], &options, work.path()).unwrap();
        assert!(report.adds_up());
        told
    };
    let input = fixture.write("pages.csv", &csv(&rows));
    let told = plan(&input);
    assert!(!fixture.out().exists(), "not even the directory is made");
    assert_eq!((told.added, told.edited, told.removed, told.files_new, told.urls), (3011, 0, 0, 8, 3011));
    fixture.build(&input).await.unwrap();
    let before = fixture.files();
    rows[1500].1 = "2025-11-23".to_owned();
    rows.remove(20);
    let input = fixture.write("pages.csv", &csv(&rows));
    let told = plan(&input);
    assert_eq!((told.added, told.edited, told.removed, told.urls_before, told.urls), (0, 1, 1, 3011, 3010));
    assert_eq!(fixture.files(), before);
    let done = fixture.build(&input).await.unwrap().published;
    assert_eq!(
        (done.files_rewritten.len() as u64, done.files_new.len() as u64),
        (told.files_rewritten, told.files_new)
    );
    assert_eq!(done.shards_unchanged as u64, told.files_unchanged);
}

#[tokio::test]
async fn a_damaged_or_missing_file_is_mended_by_the_next_run() {
    let fixture = Fixture::new();
    let input = fixture.write("pages.csv", &csv(&rows(1500)));
    fixture.build(&input).await.unwrap();
    let good: BTreeMap<_, _> = fixture.files().into_iter().map(|(name, (bytes, _))| (name, bytes)).collect();
    fs::write(fixture.out().join("sitemap-00002.xml.gz"), b"damaged").unwrap();
    fs::remove_file(fixture.out().join("sitemap-00001.xml.gz")).unwrap();
    fs::write(fixture.out().join("sitemap-index.xml"), b"").unwrap();
    let outcome = fixture.build(&input).await.unwrap();
    assert_eq!(outcome.published.files_rewritten.len(), 2);
    let mended: BTreeMap<_, _> = fixture.files().into_iter().map(|(name, (bytes, _))| (name, bytes)).collect();
    assert_eq!(mended, good, "byte for byte, times in the index included");
}

#[tokio::test]
async fn every_row_is_accounted_for_and_rejects_are_listed() {
    let fixture = Fixture::new();
    let text = "loc,lastmod,changefreq,priority,index,status\n\
                /a,2025-01-01,daily,0.5,,\n\
                /a,2025-02-01,,,,200\n\
                https://packages.example.org/a,2024-01-01,,,,\n\
                ,2025-01-01,,,,\n\
                /tab\there,,,,,\n\
                https://other.example.org/x,,,,,\n\
                /hidden,,,,no,\n\
                /gone,,,,,410\n\
                /moved,,,,,301\n\
                /bad-date,2025-02-30,,,,\n\
                /short,row\n\
                /noon,2025-01-01 12:00:00,,,,\n";
    let outcome = fixture.build(&fixture.write("pages.csv", text.as_bytes())).await.unwrap();
    let report = &outcome.report;
    assert!(report.adds_up(), "{report}");
    assert_eq!((report.input, report.emitted, report.duplicates), (12, 3, 2));
    assert_eq!((report.excluded_total(), report.rejected_total(), report.dropped.values().sum::<u64>()), (3, 4, 2));
    let page = |path: &str, lastmod: &str| (format!("{BASE}/{path}"), lastmod.to_owned());
    assert_eq!(crawl(&fixture.out()), [page("a", "2025-02-01"), page("bad-date", ""), page("noon", "")]);
    let listed = fs::read_to_string(&outcome.rejects).unwrap();
    let lines: Vec<serde_json::Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at: Vec<_> = lines.iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(at, [5, 6, 7, 11, 12, 13], "{listed}");
    assert!(report.to_string().contains("line 7: https://other.example.org/x"), "{report}");
}

#[tokio::test]
async fn nothing_left_to_publish_leaves_the_last_good_sitemap() {
    let fixture = Fixture::new();
    fixture.build(&fixture.write("pages.csv", &csv(&rows(10)))).await.unwrap();
    let before = fixture.files();
    let empty = fixture.build(&fixture.write("pages.csv", b"loc\n\n")).await.unwrap_err().to_string();
    assert!(empty.contains("no page is left"), "{empty}");
    for (text, said) in [("url\n/a\n", "no column is named loc"), ("loc\n\"/a\n", "line 2"), ("", "is empty")] {
        let error = fixture.build(&fixture.write("pages.csv", text.as_bytes())).await.unwrap_err().to_string();
        assert!(error.contains("pages.csv") && error.contains(said), "{error}");
    }
    assert_eq!(fixture.files(), before);
}

#[tokio::test]
async fn far_fewer_pages_are_taken_for_a_truncated_list_unless_allowed() {
    let mut fixture = Fixture::new();
    fixture.build(&fixture.write("pages.csv", &csv(&rows(1000)))).await.unwrap();
    let before = fixture.files();
    let fewer = fixture.write("fewer.csv", &csv(&rows(400)));
    let error = fixture.build(&fewer).await.unwrap_err().to_string();
    assert!(error.contains("411 pages are left of 1011, more than 50 % fewer"), "{error}");
    assert_eq!(fixture.files(), before);
    fixture.drop_percent_max = 100;
    assert_eq!(fixture.build(&fewer).await.unwrap().manifest.urls(), 411);
}

#[tokio::test]
async fn two_runs_do_not_work_in_one_directory() {
    let fixture = Fixture::new();
    let held = Directory::open(&fixture.out()).unwrap();
    assert!(Directory::open(&fixture.out()).unwrap_err().to_string().contains("another run"));
    drop(held);
    Directory::open(&fixture.out()).unwrap();
}

#[tokio::test]
async fn growth_splits_and_shrinking_merges_without_losing_a_page() {
    let mut fixture = Fixture { drop_percent_max: 100, ..Fixture::new() };
    let all = rows(4000);
    for (round, keep) in [(0, 3), (1, 2), (2, 1), (3, 4), (4, 40), (5, 1)] {
        fixture.now_ms += DAY_MS;
        let some: Vec<_> = all.iter().enumerate().filter(|(n, _)| n % keep == 0).map(|(_, row)| row.clone()).collect();
        let outcome = fixture.build(&fixture.write("pages.csv", &csv(&some))).await.unwrap();
        let mut wanted: Vec<_> = some.iter().map(|(loc, lastmod)| (address(loc), lastmod.clone())).collect();
        wanted.sort();
        assert_eq!(crawl(&fixture.out()), wanted, "round {round}");
        let named = outcome.manifest.shards.len() + 1;
        assert_eq!(fixture.files().len(), named, "round {round}: no file that the index does not name");
    }
}

#[tokio::test]
async fn a_build_whose_state_was_lost_leaves_every_file_alone_until_an_index_names_new_ones() {
    let fixture = Fixture::new();
    let first = fixture.write("first.csv", &csv(&rows(1_000)));
    fixture.build(&first).await.unwrap();
    let before = fixture.files();
    fs::remove_dir_all(fixture.out().join(".tidemark")).unwrap();
    let second = fixture.write("second.csv", &csv(&rows(2_000)));
    let outcome = fixture.build(&second).await.unwrap();
    let after = fixture.files();
    for (file, was) in before.iter().filter(|(file, _)| *file != keys::INDEX) {
        assert_eq!(after.get(file), Some(was), "{file}");
    }
    assert!(outcome.manifest.shards.iter().all(|shard| !before.contains_key(&shard.file)), "{:?}", outcome.manifest);
    let unknown = before.len() as u64 - 1;
    assert_eq!(outcome.report.flagged.get(UNKNOWN_FILES), Some(&unknown), "{}", outcome.report);
    let again = fixture.build(&second).await.unwrap();
    assert_eq!(again.report.flagged.get(UNKNOWN_FILES), None, "it is told once");
}
