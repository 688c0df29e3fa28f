//! Several sitemaps of one site: one query for all, and each with its own files, guard and state.

use crate::athena::{NOW_MS, ROWS, Stage, query};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use tidemark_sitemap::build::NOTHING_NEW;
use tidemark_sitemap::guard::Accepted;
use tidemark_sitemap::manifest::Manifest;
use tidemark_sitemap::pages::UNSELECTED;
use tidemark_sitemap::refresh::{RefreshError, Refreshed};

/// One page in three is a product, one an article, one something else.
const SQL: &str = "SELECT loc, lastmod, CASE WHEN loc LIKE '%/product/%' THEN 'product' \
     WHEN loc LIKE '%/article/%' THEN 'article' ELSE 'other' END AS kind FROM pages";
const SITEMAPS: &str = "\n[[sitemaps]]\nname = \"products\"\nselect.kinds = [\"product\"]\n\
     [[sitemaps]]\nname = \"articles\"\nselect.kinds = [\"article\"]\nguard.kinds = { article = 20 }\n\
     [[sitemaps]]\nname = \"newest\"\nselect = { kinds = [\"product\"], newest = 50 }\n\
     [[sitemaps]]\nname = \"recent\"\nselect = { kinds = [\"article\"], within_hours = 24 }\n";

fn row(n: usize, lastmod: &str) -> Value {
    let kind = ["product", "article", "other"][n % 3];
    json!([format!("https://a.example/{kind}/{n:06}"), format!("{lastmod}T10:00:00"), "2025-01-01"])
}

/// `articles` of the articles, and all else; one article in ten changed on the day of the run where `is_busy`.
fn rows(articles: usize, is_busy: bool) -> Vec<Value> {
    let is_there = |n: &usize| n % 3 != 1 || *n < articles * 3;
    let lastmod = |n: usize| {
        if is_busy && n % 30 == 1 { "2025-11-22".to_owned() } else { format!("2025-10-{:02}", n % 28 + 1) }
    };
    (0..ROWS).filter(is_there).map(|n| row(n, &lastmod(n))).collect()
}

/// Every address in the shards that the index in `dir` names.
async fn pages(stage: &Stage, dir: &str) -> Vec<String> {
    let files = stage.files().await;
    let index = String::from_utf8(files[&format!("{dir}sitemap-index.xml")].clone()).unwrap();
    let mut found = Vec::new();
    for shard in locs(&index) {
        let name = shard.strip_prefix("https://a.example/").unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(files[name].as_slice()).read_to_string(&mut text).unwrap();
        found.extend(locs(&text));
    }
    found.sort();
    found
}

fn locs(xml: &str) -> Vec<String> {
    xml.split("<loc>").skip(1).map(|rest| rest.split("</loc>").next().unwrap().to_owned()).collect()
}

fn named(refreshed: &[Refreshed]) -> BTreeMap<&str, &Refreshed> {
    refreshed.iter().map(|one| (one.site.as_str(), one)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_query_feeds_every_sitemap_and_each_holds_what_it_selects() {
    let mut stage = Stage::start().await;
    stage.tell(json!({ "rows": rows(ROWS, false) }));
    let mut wanted = None;
    for fetch in ["select", "unload"] {
        stage.wipe("s").await;
        stage.put("sites/s.toml", query(fetch, SQL) + SITEMAPS).await;
        stage.calls("");
        let refreshed = stage.run_all("s", None).await.unwrap();
        assert_eq!(stage.calls("StartQueryExecution").len(), 1, "{fetch}");
        let sitemaps = named(&refreshed);
        let third = ROWS as u64 / 3;
        let urls = |name: &str| (sitemaps[name].urls, sitemaps[name].report.adds_up());
        assert_eq!([urls("s.products"), urls("s.articles")], [(third, true), (third, true)], "{fetch}");
        assert_eq!([urls("s.newest"), urls("s.recent")], [(50, true), (0, true)], "{fetch}");
        for one in &refreshed {
            assert_eq!(one.report.excluded.get(UNSELECTED), Some(&third), "{fetch}: {}", one.site);
        }
        let products = pages(&stage, "products/").await;
        assert!(products.len() == ROWS / 3 && products.iter().all(|loc| loc.contains("/product/")), "{fetch}");
        assert!(pages(&stage, "articles/").await.iter().all(|loc| loc.contains("/article/")), "{fetch}");
        // Nothing is recent: there is no file, and it is told.
        assert!(!stage.files().await.contains_key("recent/sitemap-index.xml"), "{fetch}");
        assert_eq!(sitemaps["s.recent"].report.flagged.get(NOTHING_NEW), Some(&1), "{fetch}");
        let shards: BTreeMap<_, _> = stage.files().await.into_iter().filter(|(key, _)| key.ends_with(".gz")).collect();
        assert!(wanted.get_or_insert_with(|| shards.clone()) == &shards, "{fetch} gives other files");
    }
    let again = stage.run_all("s", None).await.unwrap();
    let unread: Vec<_> = again.iter().filter(|one| one.input_unchanged).map(|one| one.site.as_str()).collect();
    assert_eq!(unread, ["s.products", "s.articles", "s.newest"], "what hangs on the time is read again");
    let one = stage.run_all("s", Some("newest")).await.unwrap();
    assert_eq!(one.iter().map(|one| one.site.as_str()).collect::<Vec<_>>(), ["s.newest"]);
    let unknown = stage.run_all("s", Some("novels")).await.unwrap_err().to_string();
    assert!(unknown.contains("no sitemap \"novels\""), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sitemap_that_its_guard_stops_stays_while_the_others_go_on_until_somebody_accepts_the_drop() {
    let mut stage = Stage::start().await;
    stage.put("sites/s.toml", query("unload", SQL) + SITEMAPS).await;
    stage.tell(json!({ "rows": rows(ROWS, true) }));
    let first = stage.run_all("s", None).await.unwrap();
    assert_eq!(named(&first)["s.recent"].urls, ROWS as u64 / 30);
    let before = stage.files().await;

    // Articles are cut to two thirds, which their own guard does not believe; none is recent any more.
    let mut fewer = rows(ROWS * 2 / 9, false);
    fewer.push(json!(["https://a.example/product/new", "2025-11-01T10:00:00", "2025-01-01"]));
    stage.tell(json!({ "rows": fewer }));
    let Err(RefreshError::Some { failed, done }) = stage.run_all("s", None).await else { panic!("it was believed") };
    assert_eq!(failed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["s.articles"]);
    let said = failed[0].1.to_string();
    assert!(said.contains("2000 pages of the kind article are left of 3000, more than 20 % fewer"), "{said}");
    assert_eq!(named(&done)["s.products"].urls, ROWS as u64 / 3 + 1);
    let after = stage.files().await;
    let same =
        |dir: &str| before.iter().filter(|(key, _)| key.starts_with(dir)).all(|(key, was)| after.get(key) == Some(was));
    assert!(same("articles/") && !same("products/"));
    // What was recent stays, rather than an empty sitemap or none.
    assert!(same("recent/"));
    assert_eq!(named(&done)["s.recent"].report.flagged.get(NOTHING_NEW), Some(&1));

    let by = "ada: the magazine closed";
    let accepted = stage.run_accepting("s", by).await.unwrap();
    let articles = named(&accepted)["s.articles"];
    assert_eq!((articles.urls, pages(&stage, "articles/").await.len()), (2000, 2000));
    let record: Accepted = articles.accepted.clone().unwrap();
    let [drop] = record.drops.as_slice() else { panic!("{record:?}") };
    assert_eq!((record.by.as_str(), drop.kind.as_deref(), drop.before, drop.after), (by, Some("article"), 3000, 2000));
    assert!(record.at_ms >= NOW_MS);
    let manifest = Manifest::from_json(&stage.get(&articles.manifest).await).unwrap();
    assert_eq!((manifest.accepted, manifest.kinds["article"]), (Some(record), 2000));
    let history: Value = serde_json::from_slice(&stage.get("sitemaps/s.articles/report.json").await).unwrap();
    assert_eq!(history["runs"].as_array().unwrap().last().unwrap()["accepted"]["by"], by);
    // For that run only: the next drop is refused again.
    stage.tell(json!({ "rows": rows(1000, false) }));
    assert!(stage.run_all("s", None).await.is_err());
    assert_eq!(pages(&stage, "articles/").await.len(), 2000);

    // Where every row is refused, nothing is said of the day: that is an error, also of what may be empty.
    stage
        .tell(json!({ "rows": [json!(["https://elsewhere.example/article/1", "2025-11-22T10:00:00", "2025-01-01"])] }));
    let error = stage.run_all("s", Some("recent")).await.unwrap_err().to_string();
    assert!(error.contains("no page is left"), "{error}");
}
