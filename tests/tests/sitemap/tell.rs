//! Telling others: IndexNow against a model of its documented answers, robots.txt in S3, and import of a sitemap that
//! something else made.

use crate::{BASE, Fixture, NOW_MS, csv};
use aws_sdk_s3::Client;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use tidemark_local::{CloudOptions, HUB, LocalCloud, sdk_config};
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::build::{self, Options, Standing};
use tidemark_sitemap::difference::Difference;
use tidemark_sitemap::import;
use tidemark_sitemap::indexnow::{self, ChangeSet, Drained, Settings, Waiting};
use tidemark_sitemap::keys;
use tidemark_sitemap::loc::BaseUrl;
use tidemark_sitemap::manifest::Manifest;
use tidemark_sitemap::pages::Policy;
use tidemark_sitemap::place::directory;
use tidemark_sitemap::robots::{self, Object, Scope};
use tidemark_sitemap::site::Target;
use tidemark_sitemap::web::Web;
use tidemark_tests::indexnow::{Engine, KEY};
use tidemark_tests::web_server::{Reply, WebServer};

const BUCKET: &str = "state";

fn engine(script: &[u16]) -> Engine {
    Engine::start(script).unwrap()
}

fn settings(engines: &[&Engine]) -> Settings {
    let endpoints = engines.iter().map(|engine| engine.url()).collect();
    Settings { key: KEY.to_owned(), key_location: None, endpoints, first_run_max: 100 }
}

struct Cloud {
    s3: Client,
    _cloud: LocalCloud,
}

impl Cloud {
    async fn start() -> Self {
        let cloud = LocalCloud::start(&CloudOptions::of_this_clone()).unwrap();
        let config = aws_sdk_s3::config::Builder::from(&sdk_config(&cloud, HUB)).force_path_style(true).build();
        let s3 = Client::from_conf(config);
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();
        Self { s3, _cloud: cloud }
    }

    fn waiting(&self, site: &str) -> Waiting {
        Waiting::new(self.s3.clone(), BUCKET, site)
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        let listed = self.s3.list_objects_v2().bucket(BUCKET).prefix(prefix).send().await.unwrap();
        listed.contents.unwrap_or_default().into_iter().filter_map(|object| object.key).collect()
    }
}

fn web() -> Web {
    let mut web = Web::new(Clock::simulated(NOW_MS), "test/1").unwrap();
    web.timeout = Duration::from_secs(20);
    web
}

async fn drain(waiting: &Waiting, settings: &Settings) -> Drained {
    indexnow::drain(&web(), waiting, settings, Clock::system().now_ms()).await.unwrap()
}

async fn store(waiting: &Waiting, token: u64, urls: &[String]) {
    let mut changes = ChangeSet::new(settings(&[&engine(&[200])]), false);
    urls.iter().for_each(|url| changes.take(Difference::Edited, url));
    let parts: Vec<Vec<String>> = changes.full_parts().into_iter().chain(changes.close()).collect();
    for (number, part) in parts.iter().enumerate() {
        waiting.store(token, "run", number, part).await.unwrap();
    }
}

fn urls(host: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("https://{host}/p/{n:06}?a=1&b=ä")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_once_in_posts_of_ten_thousand_of_one_host() {
    let (cloud, engine) = (Cloud::start().await, engine(&[202, 200]));
    let waiting = cloud.waiting("once");
    let (a, b) = (urls("a.example", 20_001), urls("b.example", 3));
    store(&waiting, 1, &[a.clone(), b.clone()].concat()).await;
    let drained = drain(&waiting, &settings(&[&engine])).await;
    assert_eq!(drained, Drained { told: 20_004, posts: 4, ..Drained::default() });
    let taken = engine.taken();
    assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [10_000, 10_000, 1, 3]);
    assert_eq!(taken.concat(), [a, b].concat());
    let again = drain(&waiting, &settings(&[&engine])).await;
    assert_eq!((again, engine.taken().len()), (Drained::default(), 4), "what was taken is not told again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_engine_is_left_for_the_next_and_a_refusal_ends_it() {
    let cloud = Cloud::start().await;
    let waiting = cloud.waiting("busy");
    store(&waiting, 1, &urls("a.example", 10_001)).await;

    // All busy: everything waits, and nothing is lost.
    let busy = [engine(&[429]), engine(&[503])];
    let drained = drain(&waiting, &settings(&[&busy[0], &busy[1]])).await;
    assert!(drained.waiting && drained.told == 0 && drained.problem.unwrap().contains("503"));
    assert_eq!(cloud.keys(&keys::indexnow("busy")).await.len(), 2);

    for (status, words) in [(400, "wrong form"), (403, "key is not valid"), (422, "not of the host")] {
        let (refuses, next) = (engine(&[status]), engine(&[200]));
        let drained = drain(&waiting, &settings(&[&refuses, &next])).await;
        assert!(drained.problem.unwrap().contains(words), "{status}");
        assert_eq!(next.taken().len(), 0, "{status}: every engine would say the same");
    }

    // What is refused for one host does not keep others waiting.
    let both = cloud.waiting("hosts");
    store(&both, 1, &[urls("m.example", 10_001), urls("www.example", 2)].concat()).await;
    let some = engine(&[403, 200]);
    let drained = drain(&both, &settings(&[&some])).await;
    assert!(drained.waiting && drained.told == 2 && drained.problem.unwrap().contains("403 for m.example"));
    assert_eq!((some.asked(), cloud.keys(&keys::indexnow("hosts")).await.len()), (2, 2));

    // More of it than is told at a time lies before another host's: that is told all the same. After a month it is given up.
    let old = cloud.waiting("old");
    let mut parts = vec![urls("m.example", 1); indexnow::POSTS_MAX];
    parts.push(urls("www.example", 3));
    for (number, part) in parts.iter().enumerate() {
        old.store(1, "run", number, part).await.unwrap();
    }
    let some = engine(&[403, 200]);
    let drained = drain(&old, &settings(&[&some])).await;
    assert_eq!((drained.told, drained.waiting, drained.given_up, some.asked()), (3, true, 0, 2));
    let later_ms = Clock::system().now_ms() + (indexnow::DAYS_MAX + 1) * 24 * 3_600_000;
    let drained = indexnow::drain(&web(), &old, &settings(&[&engine(&[503])]), later_ms).await.unwrap();
    assert_eq!((drained.waiting, drained.given_up), (true, 0), "nobody refused it");
    let drained = indexnow::drain(&web(), &old, &settings(&[&engine(&[403])]), later_ms).await.unwrap();
    assert_eq!((drained.waiting, drained.given_up), (false, indexnow::POSTS_MAX));

    // The first is busy once: the second takes all, and the first is asked but once.
    let (first, second) = (engine(&[429, 200]), engine(&[200]));
    let drained = drain(&waiting, &settings(&[&first, &second])).await;
    assert_eq!((drained.told, drained.problem), (10_001, None));
    assert_eq!((first.asked(), second.taken().len()), (1, 2));
    // Nobody there at all.
    store(&waiting, 2, &urls("a.example", 1)).await;
    let nobody = Settings { endpoints: vec!["http://127.0.0.1:1/indexnow".to_owned()], ..settings(&[&first]) };
    assert!(drain(&waiting, &nobody).await.problem.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_was_killed_goes_on_where_it_was() {
    let (cloud, engine) = (Cloud::start().await, engine(&[200, 429, 429, 200]));
    let waiting = cloud.waiting("killed");
    let all = urls("a.example", 25_000);
    store(&waiting, 1, &all).await;
    // The engine takes one part and then no more, as where the run ends there.
    for _ in 0..3 {
        drain(&waiting, &settings(&[&engine])).await;
    }
    assert_eq!(engine.taken().iter().map(Vec::len).collect::<Vec<_>>(), [10_000, 10_000, 5_000]);
    assert_eq!(engine.taken().concat(), all);
    // Killed between the answer and the removal: the part is told once more, and then no more.
    store(&waiting, 1, &all[..5]).await;
    let part = keys::indexnow_part("killed", 1, "run", 0);
    let body = cloud.s3.get_object().bucket(BUCKET).key(&part).send().await.unwrap().body.collect().await.unwrap();
    drain(&waiting, &settings(&[&engine])).await;
    cloud.s3.put_object().bucket(BUCKET).key(&part).body(body.into_bytes().into()).send().await.unwrap();
    drain(&waiting, &settings(&[&engine])).await;
    assert_eq!((engine.taken().len(), cloud.keys(&keys::indexnow("killed")).await.len()), (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn robots_txt_in_s3_keeps_every_other_byte_and_whatever_else_it_is() {
    let cloud = Cloud::start().await;
    let old = b"User-agent: *\r\nDisallow: /\xff\r\n# no end of line".to_vec();
    let put =
        cloud.s3.put_object().bucket(BUCKET).key("robots.txt").content_type("text/plain").cache_control("max-age=7");
    put.body(old.clone().into()).send().await.unwrap();
    let index = [format!("{BASE}/sitemap-index.xml")];
    let write = async |key: &str| {
        let object = Object { bucket: BUCKET.to_owned(), key: key.to_owned() };
        robots::write(&cloud.s3, &object, Scope::All, &index).await
    };
    assert!(write("robots.txt").await.unwrap());
    assert!(!write("robots.txt").await.unwrap(), "once is enough");
    let object = cloud.s3.get_object().bucket(BUCKET).key("robots.txt").send().await.unwrap();
    assert_eq!((object.content_type(), object.cache_control()), (Some("text/plain"), Some("max-age=7")));
    let text = object.body.collect().await.unwrap().to_vec();
    assert_eq!(text, [old, b"\n".to_vec(), robots::lines(&index).into_bytes()].concat());
    assert!(write("new/robots.txt").await.unwrap());
    let broken = b"# begin tidemark sitemaps\n".to_vec();
    cloud.s3.put_object().bucket(BUCKET).key("broken.txt").body(broken.into()).send().await.unwrap();
    assert!(write("broken.txt").await.is_err());
}

/// A sitemap as another program writes it: names, spacing, escapes of its own.
fn foreign(site: &str, files: &[(&str, &[(&str, &str)])]) -> (String, Vec<(String, String)>) {
    let space = "xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\"";
    let shard = |pages: &[(&str, &str)]| {
        let url = |(path, lastmod): &(&str, &str)| {
            format!("  <url>\n    <loc>\n{BASE}{path}</loc>\n    <lastmod>{lastmod}</lastmod>\n  </url>\n")
                .replace("<loc>\n", "<loc>")
        };
        format!("<urlset {space}>\n{}</urlset>", pages.iter().map(url).collect::<String>())
    };
    let entry = |(name, _): &(&str, &[(&str, &str)])| format!("<sitemap><loc>{site}/{name}</loc></sitemap>");
    let index = format!("<sitemapindex {space}>{}</sitemapindex>", files.iter().map(entry).collect::<String>());
    (index, files.iter().map(|(name, pages)| ((*name).to_owned(), shard(pages))).collect())
}

#[tokio::test]
async fn an_imported_sitemap_keeps_its_names_and_pages_and_is_compared() {
    let fixture = Fixture { drop_percent_max: 100, ..Fixture::new() };
    let old = fixture.dir.path().join("old");
    fs::create_dir(&old).unwrap();
    let day = "2025-01-01";
    let many = |folder: &str| (0..300).map(|n| format!("/p/{folder}/{n:03}")).collect::<Vec<_>>();
    let (a, c) = (many("a"), many("c"));
    let dated = |paths: &[&'static str]| paths.iter().map(|path| (*path, day)).collect::<Vec<_>>();
    let backwards: Vec<(&str, &str)> = a.iter().rev().map(|path| (path.as_str(), day)).collect();
    let forwards: Vec<(&str, &str)> = c.iter().map(|path| (path.as_str(), day)).collect();
    let (index, files) = foreign(
        "https://cdn.example",
        &[
            ("products-1.xml.gz", &backwards),
            ("products-7.xml.gz", &forwards),
            ("mixed-1.xml.gz", &dated(&["/x/1", "/x/5"])),
            ("mixed-2.xml.gz", &dated(&["/x/3", "/x/9"])),
            ("other.xml", &dated(&["/z/1"])),
        ],
    );
    fs::write(old.join("sitemap-index.xml"), index).unwrap();
    for (name, xml) in files {
        fs::write(old.join(name), xml).unwrap();
    }
    let policy = Policy::new(BaseUrl::parse(BASE).unwrap(), NOW_MS);
    let options = Options { limits: fixture.limits, ..Options::new(policy, "import") };
    let work = tempfile::tempdir().unwrap();
    let found = import::local(&[old.join("sitemap-index.xml")]).unwrap();
    let import = import::read(found, &options, work.path()).unwrap();
    assert_eq!(import.kept, ["products-1.xml.gz", "products-7.xml.gz"]);
    let reasons: Vec<_> = import.not_kept.iter().map(|(file, reason)| format!("{file}: {reason}")).collect();
    assert_eq!(
        reasons,
        [
            "mixed-1.xml.gz: its pages lie among those of mixed-2.xml.gz",
            "mixed-2.xml.gz: its pages lie among those of mixed-1.xml.gz",
            "other.xml: is packed otherwise than this site's files are to be",
        ]
    );

    let row = |path: &str, lastmod: &str| (path.to_owned(), lastmod.to_owned());
    let mut rows: Vec<_> = a.iter().chain(&c[1..]).map(|path| row(path, day)).collect();
    rows[7].1 = "2025-02-02".to_owned();
    rows.push(row("/q/new", day));
    let input = fixture.write("pages.csv", &csv(&rows));
    let comparison = import::compare(&import, std::slice::from_ref(&input), &options, work.path()).unwrap();
    let counts = (comparison.same, comparison.only_there, comparison.only_here, comparison.lastmod_differs);
    assert_eq!(counts, (598, 6, 1, 1), "{:?}", comparison.samples);

    fs::create_dir_all(fixture.out().join(keys::STATE_DIR)).unwrap();
    let manifest = fixture.out().join(keys::STATE_DIR).join(keys::MANIFEST);
    fs::write(manifest, import.manifest.to_json().unwrap()).unwrap();
    fixture.build(&input).await.unwrap();
    let shelves = crate::stability::shelves(&fixture.out());
    let pages = |file: &str| shelves[file].keys().map(|loc| loc.replace(BASE, "")).collect::<BTreeSet<_>>();
    assert_eq!(pages("products-1.xml.gz"), a.into_iter().collect());
    assert!(c[1..].iter().all(|path| pages("products-7.xml.gz").contains(path)));
}

#[tokio::test]
async fn a_sitemap_on_the_web_is_imported_too() {
    let fixture = Fixture::new();
    let (index, files) = foreign("ORIGIN", &[("a.xml.gz", &[("/p/a", "2025-01-01")]), ("b.xml.gz", &[("/p/b", "")])]);
    let server = WebServer::start(move |asked| {
        let origin = format!("http://{}", asked.headers["host"]);
        let named = files.iter().find(|(name, _)| asked.path == format!("/{name}"));
        match named {
            Some((_, xml)) => Reply::ok("application/gzip", xml.clone()),
            None if asked.path == "/index.xml" => Reply::ok("application/xml", index.replace("ORIGIN", &origin)),
            None => Reply::status(404),
        }
    })
    .unwrap();
    let options = Options::new(Policy::new(BaseUrl::parse(BASE).unwrap(), NOW_MS), "import");
    let work = fixture.dir.path();
    let found = import::fetch(&web(), &[format!("{}/index.xml", server.origin())], 2, work).await.unwrap();
    let import = import::read(found, &options, work).unwrap();
    assert_eq!((import.kept.len(), import.urls, import.foreign), (2, 2, 0));
    let refused = async |name: &str, files_max| {
        let url = format!("{}/{name}", server.origin());
        import::fetch(&web(), &[url], files_max, work).await.unwrap_err().to_string()
    };
    assert!(refused("none.xml", 2).await.contains("answers 404"));
    assert!(refused("index.xml", 1).await.contains("names 2 files"));
}

#[tokio::test]
async fn a_sitemap_with_several_indexes_is_imported_whole() {
    let mut fixture = Fixture::new();
    fixture.limits.index.shards_max = 2;
    let rows: Vec<_> = (0..2000).map(|n| (format!("/p/{n:06}"), "2025-01-01".to_owned())).collect();
    let input = fixture.write("pages.csv", &csv(&rows));
    let shards = fixture.build(&input).await.unwrap().manifest.shards;
    let indexes: Vec<_> = directory::index_files(&fixture.out()).unwrap().into_values().collect();
    assert_eq!((indexes.len(), shards.len()), (3, 5));
    let options = Options {
        limits: fixture.limits,
        ..Options::new(Policy::new(BaseUrl::parse(BASE).unwrap(), NOW_MS), "import")
    };
    let work = tempfile::tempdir().unwrap();
    let twice: Vec<_> = indexes.iter().chain(&indexes[..1]).cloned().collect();
    let import = import::read(import::local(&twice).unwrap(), &options, work.path()).unwrap();
    assert_eq!((import.kept.len(), import.not_kept.len(), import.urls), (5, 0, 2000));

    // Where it is built on, its shards find their indexes.
    let other = Fixture { limits: fixture.limits, ..Fixture::new() };
    fs::create_dir_all(other.out().join(keys::STATE_DIR)).unwrap();
    fs::write(other.out().join(keys::STATE_DIR).join(keys::MANIFEST), import.manifest.to_json().unwrap()).unwrap();
    let built = other.build(&input).await.unwrap().manifest;
    assert_eq!(built.shards.iter().map(|shard| shard.index).collect::<Vec<_>>(), [1, 1, 2, 2, 3]);
    assert_eq!(
        built.shards.iter().map(|s| &s.file).collect::<Vec<_>>(),
        shards.iter().map(|s| &s.file).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn just_what_changed_is_stored_before_anything_is_published() {
    let (cloud, fixture) = (Cloud::start().await, Fixture { drop_percent_max: 100, ..Fixture::new() });
    let target = Target {
        bucket: BUCKET.to_owned(),
        prefix: "public/".to_owned(),
        edge_ttl: Duration::ZERO,
        grace_ms: 0,
        distribution: None,
        robots: None,
    };
    let engine = engine(&[200]);
    let settings = settings(&[&engine]);
    let policy = Policy::new(BaseUrl::parse(BASE).unwrap(), NOW_MS);
    let options = Options { limits: fixture.limits, drop_percent_max: 100, ..Options::new(policy, "tell") };
    let work = tempfile::tempdir().unwrap();
    let build = |name: &str, pages: &[(String, String)], previous: &Manifest| {
        let input = fixture.write(name, &csv(pages));
        let standing = Standing { intact: &|_| true, strays: &[] };
        build::from_files(&[input], previous, &work.path().join(name), &options, standing).unwrap().0
    };
    let day = "2025-01-01".to_owned();
    let mut pages: Vec<(String, String)> = (0..3_000).map(|n| (format!("/p/{n:05}?a=1&b=ö"), day.clone())).collect();

    let first = build("first.csv", &pages, &Manifest::empty(BASE));
    let waiting = cloud.waiting("first");
    let gathered = indexnow::gather(&waiting, &settings, &target, &first, work.path(), (1, "one")).await.unwrap();
    assert_eq!((gathered.taken, gathered.left_out), (100, 2_900), "a first run is capped");
    for change in &first.changes {
        let put = cloud.s3.put_object().bucket(BUCKET).key(format!("public/{}", change.file));
        put.body(fs::read(&change.staged).unwrap().into()).send().await.unwrap();
    }

    // One edited, one removed, and so many new ones in one place that their shard splits.
    pages[17].1 = "2025-02-02".to_owned();
    pages.remove(2_500);
    let new: Vec<(String, String)> = (0..300).map(|n| (format!("/p/01000/{n:03}"), day.clone())).collect();
    pages.splice(1_001..1_001, new.clone());
    let second = build("second.csv", &pages, &first.manifest);
    assert!(second.manifest.shards.len() > first.manifest.shards.len(), "a split was wanted");
    let waiting = cloud.waiting("second");
    let gathered = indexnow::gather(&waiting, &settings, &target, &second, work.path(), (2, "two")).await.unwrap();
    assert_eq!((gathered.taken, gathered.left_out), (302, 0));
    drain(&waiting, &settings).await;
    let told: BTreeSet<String> = engine.taken().concat().into_iter().collect();
    let paths = ["/p/00017?a=1&b=%C3%B6".to_owned(), "/p/02500?a=1&b=%C3%B6".to_owned()];
    let wanted = paths.into_iter().chain(new.into_iter().map(|(path, _)| path));
    assert_eq!(told, wanted.map(|path| format!("{BASE}{path}")).collect());

    let third = build("third.csv", &pages, &second.manifest);
    let gathered = indexnow::gather(&waiting, &settings, &target, &third, work.path(), (3, "three")).await.unwrap();
    assert_eq!(gathered.taken, 0, "nothing changed");
}
