//! Images, videos, news and versions in other languages: what goes in comes out, once, in a form that the schemas take.

use super::{BASE, NOW_MS, csv, rows};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use tidemark_sitemap::Limits;
use tidemark_sitemap::build::Options;
use tidemark_sitemap::loc::BaseUrl;
use tidemark_sitemap::pages::{self, Policy};
use tidemark_sitemap::place::directory::{Directory, Outcome};

struct Built {
    dir: tempfile::TempDir,
    outcome: Outcome,
}

/// Builds from `input`, whose name tells its format.
async fn build(name: &str, input: &[u8], change: impl FnOnce(&mut Options)) -> Built {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, input).unwrap();
    let mut options = Options::new(Policy::new(BaseUrl::parse(BASE).unwrap(), NOW_MS), "extensions");
    change(&mut options);
    let out = dir.path().join("out");
    let outcome = Directory::open(&out).unwrap().build(&[path], &options, BASE).await.unwrap();
    assert!(outcome.report.adds_up(), "{}", outcome.report);
    Built { dir, outcome }
}

impl Built {
    /// The XML of every shard, each held against the schemas.
    fn shards(&self) -> Vec<String> {
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/extensions.xsd");
        let checked = tidemark_sitemap::check::directory(&self.dir.path().join("out/sitemap-index.xml"));
        assert_eq!(checked.faults, [], "by the reader of our own, which owes nothing to the writer");
        let mut shards = Vec::new();
        for shard in &self.outcome.manifest.shards {
            let bytes = fs::read(self.dir.path().join("out").join(&shard.file)).unwrap();
            let mut xml = Vec::new();
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut xml).unwrap();
            assert_eq!(xml.len() as u64, shard.xml_bytes, "what the manifest says");
            let path = self.dir.path().join("check.xml");
            fs::write(&path, &xml).unwrap();
            let checked = Command::new("xmllint").arg("--noout").arg("--schema").arg(&schema).arg(&path).output();
            let checked = checked.expect("xmllint must be installed (Debian: libxml2-utils)");
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
            shards.push(String::from_utf8(xml).unwrap());
        }
        shards
    }

    fn bytes(&self) -> Vec<(String, Vec<u8>)> {
        let read = |file: &String| fs::read(self.dir.path().join("out").join(file)).unwrap();
        self.outcome.manifest.shards.iter().map(|shard| (shard.file.clone(), read(&shard.file))).collect()
    }
}

/// Every page of a shard with what stands in its `<url>` behind the loc.
fn urls(xml: &str) -> BTreeMap<String, String> {
    let each = xml.split("<url><loc>").skip(1).map(|url| {
        let (loc, rest) = url.split_once("</loc>").unwrap();
        (loc.replace(BASE, ""), rest.split_once("</url>").unwrap().0.to_owned())
    });
    each.collect()
}

const EVERYTHING: &str = r#"
{"loc":"/plain","lastmod":"2025-11-01"}
{"loc":"/image","images":["/a.jpg","https://cdn.example.net/é.jpg?x=1&y='2'",{"loc":"//cdn.example.net/3"}]}
{"loc":"/video","videos":{"thumbnail_loc":"/t.jpg","title":"<1> & 2","description":"a\tb","content_loc":"/v.mp4","duration":"600","rating":5,"tags":["q"],"family_friendly":"yes","restriction":{"relationship":"allow","countries":["KR","JP"]},"platform":{"relationship":"deny","platforms":["tv","mobile"]},"live":true,"uploader":"u","view_count":0,"expiration_date":"2026-01-01T00:00:00+09:00","requires_subscription":false}}
{"loc":"/news","lastmod":"2025-11-21","news":{"publication_date":"2025-11-21T23:00:00Z","title":"Ä & Ö","name":"The Paper","language":"en"}}
{"loc":"/old-news","news":{"publication_date":"2025-11-01","title":"Old","name":"The Paper","language":"en"}}
{"loc":"/de/x","locale":"de","group":7,"images":["/x.jpg"]}
{"loc":"/en/x","locale":"en_us","group":7,"priority":0.5}
{"loc":"/x","locale":"x-default","group":7}
{"loc":"/a","alternates":{"fr":"/fr/a?b&c","en":"/a"}}
{"loc":"/fr/a?b&c"}
{"loc":"/bad","images":["/ok.jpg","java\u0000"],"videos":[{}],"news":{},"alternates":[{"hreflang":"english","href":"/x"}]}
"#;

#[tokio::test]
async fn every_extension_is_valid_by_schema_and_only_what_is_used_is_declared() {
    let built = build("pages.ndjson", EVERYTHING.as_bytes(), |_| {}).await;
    let report = &built.outcome.report;
    assert_eq!((report.emitted, report.rejected_total()), (11, 0), "{report}");
    assert_eq!(report.dropped.values().sum::<u64>(), 4, "{report}");
    let shards = built.shards();
    let urls = urls(&shards[0]);
    assert_eq!(urls["/plain"], "<lastmod>2025-11-01</lastmod>");
    assert_eq!(urls["/image"].matches("<image:loc>https://").count(), 3);
    assert!(urls["/image"].contains("https://cdn.example.net/%C3%A9.jpg?x=1&amp;y=&apos;2&apos;<"));
    assert!(urls["/video"].contains("<video:title>&lt;1&gt; &amp; 2</video:title>"));
    assert!(urls["/news"].ends_with("<news:title>Ä &amp; Ö</news:title></news:news>"));
    assert_eq!(urls["/old-news"], "");
    let link = |hreflang: &str, path: &str| {
        format!("<xhtml:link rel=\"alternate\" hreflang=\"{hreflang}\" href=\"{BASE}{path}\"/>")
    };
    let group = [link("de", "/de/x"), link("en-US", "/en/x"), link("x-default", "/x")].concat();
    assert_eq!(urls["/de/x"], format!("{group}<image:image><image:loc>{BASE}/x.jpg</image:loc></image:image>"));
    assert_eq!(urls["/en/x"], format!("<priority>0.5</priority>{group}"));
    assert_eq!(urls["/x"], group);
    let pair = [link("en", "/a"), link("fr", "/fr/a?b&amp;c")].concat();
    assert_eq!((&urls["/a"], &urls["/fr/a?b&amp;c"]), (&pair, &pair));
    assert_eq!(urls["/bad"].matches("<image:").count(), 2);

    let plain = build("pages.csv", b"loc,images\n/a,\n/b,/b.jpg\n", |_| {}).await.shards();
    assert!(plain[0].contains("xmlns:image=") && !plain[0].contains("xmlns:video"), "{}", plain[0]);
    assert!(!build("pages.csv", b"loc\n/a\n", |_| {}).await.shards()[0].contains("xmlns:"));
}

/// A file that `data/make.py` made.
fn data(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sitemap/data").join(name)).unwrap()
}

#[tokio::test]
async fn files_of_another_parquet_writer_are_read_lists_structs_and_old_times_too() {
    for name in ["int96.parquet", "zoneless.parquet"] {
        let zone = |options: &mut Options| {
            options.policy.lastmod_zone = Some(jiff::tz::TimeZone::get("Asia/Seoul").unwrap());
        };
        let urls = urls(&build(name, &data(name), zone).await.shards()[0]);
        assert_eq!(urls["/a"], "<lastmod>2025-11-21T12:30:00+09:00</lastmod>", "{name}");
        assert_eq!(urls["/b"], "");
        let without = build(name, &data(name), |_| {}).await;
        assert_eq!(without.outcome.report.dropped.values().sum::<u64>(), 1, "{name}: a zone is not guessed");
    }
    let built = build("nested.parquet", &data("nested.parquet"), |options| {
        for (column, name) in [("loc", "url"), ("lastmod", "modified"), ("images", "pictures")] {
            options.policy.columns.rename(column, name).unwrap();
        }
    })
    .await;
    assert!(built.outcome.report.dropped.is_empty(), "{}", built.outcome.report);
    let urls = urls(&built.shards()[0]);
    assert_eq!(urls["/de/a"].matches("<image:loc>").count(), 2);
    assert_eq!(urls["/de/a"].matches("<xhtml:link").count(), 2);
    assert!(urls["/en/a"].contains("<news:publication_date>2025-11-21T12:30:00Z</news:publication_date>"));
    assert_eq!(urls["/c"], "");
}

#[tokio::test]
async fn times_in_structs_of_another_parquet_writer_get_the_zone_that_is_set_and_no_other() {
    for name in ["inner_int96.parquet", "inner_nanos.parquet", "inner_micros.parquet"] {
        let zone = |options: &mut Options| {
            options.policy.lastmod_zone = Some(jiff::tz::TimeZone::get("Asia/Seoul").unwrap());
        };
        let built = build(name, &data(name), zone).await;
        assert!(built.outcome.report.dropped.is_empty(), "{name}: {}", built.outcome.report);
        let urls = urls(&built.shards()[0]);
        let date = "publication_date>2025-11-21T12:30:00+09:00<";
        assert!(urls["/a"].starts_with("<priority>0.1</priority>"), "{name}: {}", urls["/a"]);
        assert!(urls["/a"].contains(&format!("<news:{date}")), "{name}: {}", urls["/a"]);
        assert!(urls["/b"].contains(&format!("<video:{date}")), "{name}: {}", urls["/b"]);
        assert!(urls["/b"].contains("<video:rating>4.5</video:rating>"), "{name}: {}", urls["/b"]);
        assert_eq!(urls["/c"], "<priority>1</priority>", "{name}");
        let without = build(name, &data(name), |_| {}).await;
        assert_eq!(without.outcome.report.dropped.values().sum::<u64>(), 2, "{name}: a zone is not guessed");
    }
}

#[tokio::test]
async fn versions_are_whole_whatever_the_order_of_the_rows_and_the_memory() {
    let languages = ["de", "en", "fr", "ja", "ko", "pt-BR", "x-default"];
    let mut pages: Vec<String> = Vec::new();
    for n in 0..400 {
        let some: Vec<&str> = languages.iter().copied().take(2 + n % 6).collect();
        for language in &some {
            let page = match n % 2 {
                0 => serde_json::json!({"loc": format!("/{language}/{n:04}"), "locale": language, "group": n}),
                _ => {
                    let all: Vec<_> = some
                        .iter()
                        .map(|other| serde_json::json!({"hreflang": other, "href": format!("/{other}/{n:04}")}))
                        .collect();
                    serde_json::json!({"loc": format!("/{language}/{n:04}"), "alternates": all})
                }
            };
            pages.push(format!("{page}\n"));
        }
    }
    let mut outcomes = Vec::new();
    for (turn, sort_memory_bytes) in [1 << 20, 3000, 24 << 20].into_iter().enumerate() {
        pages.sort_by_key(|page| page.bytes().rev().take(12 * turn).collect::<Vec<_>>());
        let built = build("pages.ndjson", pages.concat().as_bytes(), |options| {
            options.limits = Limits { urls_target: 400, urls_max: 500, ..Limits::default() };
            options.sort_memory_bytes = sort_memory_bytes;
        })
        .await;
        assert!(built.outcome.report.dropped.is_empty(), "{}", built.outcome.report);
        outcomes.push((built.bytes(), built.shards()));
    }
    assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]));
    let all: BTreeMap<String, String> = outcomes[0].1.iter().flat_map(|xml| urls(xml)).collect();
    assert_eq!(all.len(), pages.len());
    for (page, extra) in &all {
        let links: BTreeSet<&str> =
            extra.split("href=\"").skip(1).map(|rest| rest.split_once('"').unwrap().0).collect();
        let (_, n) = page.rsplit_once('/').unwrap();
        assert_eq!(links.len(), 2 + n.parse::<usize>().unwrap() % 6, "{page}");
        assert!(links.contains(format!("{BASE}{page}").as_str()), "{page} lists itself");
        assert!(links.iter().all(|link| all[&link.replace(BASE, "")] == *extra), "{page}: all list the same");
    }
}

#[tokio::test]
async fn a_news_sitemap_holds_news_of_two_days_a_thousand_a_file() {
    let mut input = String::new();
    for n in 0..2500 {
        let hours = n % 60;
        let date = jiff::Timestamp::from_millisecond(NOW_MS - hours * 3_600_000).unwrap();
        input.push_str(&format!(
            "{{\"loc\":\"/n/{n:05}\",\"news\":{{\"publication_date\":\"{date}\",\"title\":\"t\"}}}}\n{{\"loc\":\"/p/{n:05}\"}}\n"
        ));
    }
    let built = build("pages.ndjson", input.as_bytes(), |options| {
        options.policy.select.news = true;
        options.policy.news.name = Some("The Paper".to_owned());
        options.policy.news.language = Some("en".to_owned());
    })
    .await;
    let report = &built.outcome.report;
    let recent = (0..2500).filter(|n| n % 60 <= 48).count() as u64;
    assert_eq!((report.input, report.emitted, report.excluded_total()), (5000, recent, 5000 - recent), "{report}");
    assert!(built.shards().iter().all(|xml| (1..=1000).contains(&xml.matches("<news:news>").count())));
    assert_eq!(built.outcome.manifest.shards.len(), 3);
}

#[tokio::test]
async fn a_shard_is_cut_at_exactly_52_428_800_bytes() {
    const FRAME: usize = 110;
    const URL: usize = "<url><loc></loc></url>\n".len();
    let loc = |n: usize, len: usize| format!("{BASE}/{n:06}{}", "a".repeat(len - BASE.len() - 7));
    let mut left = 52_428_800 - FRAME;
    let mut locs = Vec::new();
    while left > 4 * (2000 + URL) {
        locs.push(loc(locs.len(), 2000));
        left -= 2000 + URL;
    }
    // The last ones share what is left, to the byte.
    while left > 0 {
        let len = if left > 2 * (2000 + URL) { 2000 } else { left / left.div_ceil(2047 + URL) - URL };
        locs.push(loc(locs.len(), len));
        left -= len + URL;
    }
    let list = |locs: &[String]| format!("loc\n{}\n", locs.join("\n"));
    let exact = build("pages.csv", list(&locs).as_bytes(), |_| {}).await;
    let sizes: Vec<u64> = exact.outcome.manifest.shards.iter().map(|shard| shard.xml_bytes).collect();
    assert_eq!(sizes, [52_428_800]);
    assert_eq!(exact.shards()[0].len(), 52_428_800);
    let last = locs.last_mut().unwrap();
    last.push('a');
    let more = build("pages.csv", list(&locs).as_bytes(), |_| {}).await;
    let sizes: Vec<u64> = more.outcome.manifest.shards.iter().map(|shard| shard.xml_bytes).collect();
    assert_eq!((sizes.len(), sizes.iter().sum::<u64>()), (2, 52_428_800 + 1 + FRAME as u64));
}

#[tokio::test]
async fn another_form_of_rows_alone_rewrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("pages.csv");
    fs::write(&input, csv(&rows(900))).unwrap();
    let out: PathBuf = dir.path().join("out");
    let mut options = Options::new(Policy::new(BaseUrl::parse(BASE).unwrap(), NOW_MS), "one");
    let first = Directory::open(&out).unwrap().build(std::slice::from_ref(&input), &options, BASE).await.unwrap();
    // As a version before would have left it.
    let manifest = out.join(".tidemark/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let hash = &first.manifest.shards[0].rows_hash;
    let text =
        text.replace("\"row_format\": 2", "\"row_format\": 1").replace(hash, &hash.chars().rev().collect::<String>());
    fs::write(&manifest, text).unwrap();
    fs::remove_file(out.join(".tidemark/input.json")).unwrap();
    (options.policy.now_ms, options.run) = (NOW_MS + 1_000_000, "two".to_owned());
    let second = Directory::open(&out).unwrap().build(&[input], &options, BASE).await.unwrap();
    assert!(
        second.published.files_rewritten.is_empty() && second.published.indexes_written.is_empty(),
        "{:?}",
        second.published
    );
    assert_eq!(second.manifest.shards, first.manifest.shards);
}

#[tokio::test]
async fn versions_of_a_page_in_other_sitemaps_of_the_site_are_linked_from_each() {
    let by_group = "loc,lastmod,locale,kind,group,index\n/de/a,2025-01-01,de,x,a,\n/en/a,2025-11-22,en,y,a,\n/fr/a,2025-11-22,fr,y,a,no\n\
                    /de/b,2025-01-01,de,x,,\n";
    let by_list = "loc,lastmod,locale,kind,alternates\n\
                   /de/a,2025-01-01,de,x,\n/en/a,2025-11-22,en,y,\"{\"\"de\"\":\"\"/de/a\"\",\"\"en\"\":\"\"/en/a\"\"}\"\n/de/b,2025-01-01,de,x,\n";
    for input in [by_group, by_list] {
        let whole = build("pages.csv", input.as_bytes(), |_| {}).await.shards().concat();
        let url = |xml: &str, path: &str| {
            let start = xml.find(&format!("<url><loc>{BASE}{path}<")).unwrap();
            xml[start..].split_inclusive("</url>").next().unwrap().to_owned()
        };
        for (select, pages) in [
            ("locales = [\"de\"]", &["/de/a", "/de/b"][..]),
            ("locales = [\"en\"]", &["/en/a"]),
            ("kinds = [\"x\"]", &["/de/a", "/de/b"]),
            ("within_hours = 48", &["/en/a"]),
            ("newest = 1", &["/en/a"]),
        ] {
            let select = pages::Settings::parse(&format!("select.{select}")).unwrap().select;
            let built = build("pages.csv", input.as_bytes(), |options| options.policy.select = select).await;
            let xml = built.shards().concat();
            for page in pages {
                assert_eq!(url(&xml, page), url(&whole, page), "{input}");
            }
            assert_eq!(built.outcome.manifest.urls(), pages.len() as u64);
            assert!(built.outcome.report.dropped.is_empty(), "{}", built.outcome.report);
        }
        assert!(whole.contains("hreflang=\"en\"") && !whole.contains("fr"), "{whole}");
    }
}
