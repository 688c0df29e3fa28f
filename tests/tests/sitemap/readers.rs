//! Other people's readers agree with the input: what was published to S3, fetched over HTTP with the headers of its
//! objects, read by xmllint with schemas, ultimate-sitemap-parser, scrapy's `SitemapSpider` and npm's sitemapper.

use crate::{BASE, Fixture, NOW_MS, csv};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tidemark_local::{CloudOptions, HUB, LocalCloud, clone_root, sdk_config};
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::IndexLimits;
use tidemark_sitemap::build::{self, Options, Standing};
use tidemark_sitemap::loc::BaseUrl;
use tidemark_sitemap::manifest::Manifest;
use tidemark_sitemap::pages::Policy;
use tidemark_sitemap::place::bucket::Bucket;
use tidemark_sitemap::publish::{self, Locked, Manner};
use tidemark_sitemap::site::Target;

const PAGES: usize = 3_000;
const BUCKET: &str = "maps";
const PREFIX: &str = "site/";
/// Where official schemas lie that are not this project's to pass on.
const SCHEMAS: &str = "TIDEMARK_SITEMAP_SCHEMAS";

/// Names as they stand in a page list, and what their addresses must end in.
const NAMES: [(&str, &str); 20] = [
    ("0ad", "0ad"),
    ("g++-12", "g++-12"),
    ("a_b~rc1", "a_b~rc1"),
    ("päckage", "p%C3%A4ckage"),
    ("x y", "x%20y"),
    ("a&b", "a&b"),
    ("it's", "it's"),
    ("q?a=1&b=2", "q?a=1&b=2"),
    ("日本", "%E6%97%A5%E6%9C%AC"),
    ("e%CC%81", "e%CC%81"),
    ("Ünï/ß", "%C3%9Cn%C3%AF/%C3%9F"),
    ("a;b=c", "a;b=c"),
    ("&amp;", "&amp;"),
    ("100%25", "100%25"),
    ("(p)", "(p)"),
    ("é&é=<>", "%C3%A9&%C3%A9=%3C%3E"),
    ("🦀/crab", "%F0%9F%A6%80/crab"),
    ("x?y=%2F&z=a+b", "x?y=%2F&z=a+b"),
    ("UPPER/Case", "UPPER/Case"),
    ("]]>", "%5D%5D%3E"),
];

/// Times as they stand in a page list, what a sitemap says, and the instant as Python writes it.
const TIMES: [(&str, &str, &str); 6] = [
    ("2025-11-02", "2025-11-02", "2025-11-02T00:00:00"),
    ("2025-11-02T08:09:10Z", "2025-11-02T08:09:10Z", "2025-11-02T08:09:10+00:00"),
    ("2025-11-02T08:09:10+09:00", "2025-11-02T08:09:10+09:00", "2025-11-02T08:09:10+09:00"),
    ("2025-11-02T23:59:59.123Z", "2025-11-02T23:59:59.123Z", "2025-11-02T23:59:59.123000+00:00"),
    ("", "", ""),
    ("2025-11-02T08:09Z", "2025-11-02T08:09:00Z", "2025-11-02T08:09:00+00:00"),
];

/// Addresses with their times.
type Pages = Vec<(String, String)>;

/// The page list, and what a reader must find: as it is written, and as ultimate-sitemap-parser understands it.
fn pages() -> (Pages, Pages, Pages) {
    let (mut rows, mut written, mut understood) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..PAGES {
        let ((name, address), (time, told, instant)) = (NAMES[n % NAMES.len()], TIMES[n % TIMES.len()]);
        rows.push((format!("/p/{n:05}/{name}"), time.to_owned()));
        written.push((format!("{BASE}/p/{n:05}/{address}"), told.to_owned()));
        // ultimate-sitemap-parser resolves entities once more after the XML parser did: its own fault, so an address
        // that itself holds `&amp;` comes out of it with `&`.
        understood.push((format!("{BASE}/p/{n:05}/{}", address.replace("&amp;", "&")), instant.to_owned()));
    }
    written.sort();
    understood.sort();
    (rows, written, understood)
}

/// Builds from `rows`, publishes to the local cloud's S3 and gives the index's address.
async fn publish_to_s3(cloud: &LocalCloud, fixture: &Fixture, rows: &[(String, String)]) -> String {
    let s3 = aws_sdk_s3::Client::from_conf(
        aws_sdk_s3::config::Builder::from(&sdk_config(cloud, HUB)).force_path_style(true).build(),
    );
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    let input = fixture.write("pages.csv", &csv(rows));
    let policy = Policy::new(BaseUrl::parse(BASE).unwrap(), NOW_MS);
    let options = Options { limits: fixture.limits, ..Options::new(policy, "readers") };
    let standing = Standing { intact: &|_| false, strays: &[] };
    let work_dir = fixture.dir.path().join("work");
    let (built, _) = build::from_files(&[input], &Manifest::empty(BASE), &work_dir, &options, standing).unwrap();
    let target = Target {
        bucket: BUCKET.to_owned(),
        prefix: PREFIX.to_owned(),
        edge_ttl: Duration::ZERO,
        grace_ms: 0,
        distribution: None,
        robots: None,
    };
    let files_url = cloud.object_url(BUCKET, PREFIX.trim_end_matches('/'));
    let manner = Manner {
        files_url,
        index: IndexLimits::default(),
        edge_ttl: Duration::ZERO,
        grace_ms: 0,
        now_ms: NOW_MS,
        clock: Clock::simulated(NOW_MS),
    };
    let bucket = Bucket::open(s3, target, []).await.unwrap();
    publish::publish(&bucket, built, &manner, &mut Locked).await.unwrap();
    cloud.object_url(BUCKET, &format!("{PREFIX}sitemap-index.xml"))
}

/// What a reader's program prints: a JSON array `[loc, lastmod]` a line. Sorted, with every repetition.
fn read(program: &Path, arguments: &[&str]) -> Vec<(String, String)> {
    // A proxy that the machine may have set would be asked for 127.0.0.1.
    let told = Command::new(program).args(arguments).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1").output();
    let told =
        told.unwrap_or_else(|error| panic!("{}: {error}: run infra/local/prerequisites tests", program.display()));
    let complaints = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{arguments:?}: {complaints}");
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?} in {complaints}"));
    let mut pages: Vec<(String, String)> = String::from_utf8(told.stdout).unwrap().lines().map(line).collect();
    pages.sort();
    pages
}

/// Where the first difference is, so that a failure can be read.
fn agree(reader: &str, found: &[(String, String)], wanted: &[(String, String)]) {
    let differing = found.iter().zip(wanted).find(|(found, wanted)| found != wanted);
    assert_eq!((differing, found.len()), (None, wanted.len()), "{reader} against the input");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_readers_find_exactly_the_input_over_http() {
    let cloud = LocalCloud::start(&CloudOptions::of_this_clone()).unwrap();
    let fixture = Fixture::new();
    let (rows, written, understood) = pages();
    let index = publish_to_s3(&cloud, &fixture, &rows).await;

    let readers = clone_root().join(".readers");
    let (python, node) = (readers.join("bin/python"), readers.join("bin/node"));
    let scripts = clone_root().join("tests/tests/sitemap");
    let (python_script, node_script) = (scripts.join("readers.py"), scripts.join("readers.mjs"));
    let (python_script, node_script) = (python_script.to_str().unwrap(), node_script.to_str().unwrap());

    agree("ultimate-sitemap-parser", &read(&python, &[python_script, "usp", &index]), &understood);
    agree("scrapy", &read(&python, &[python_script, "scrapy", &index]), &written);
    agree("sitemapper", &read(&node, &[node_script, readers.to_str().unwrap(), &index]), &written);
    agree("xmllint and this test", &read_by_schema(&index, fixture.dir.path()), &written);
}

/// Fetches every file over HTTP, holds its headers against what is promised and its content against every schema.
fn read_by_schema(index: &str, dir: &Path) -> Vec<(String, String)> {
    let index_xml = fetch(index, "application/xml");
    validate("siteindex.xsd", &index_xml, dir);
    let shards = crate::elements(&index_xml, "sitemapindex", "sitemap", &["loc", "lastmod"]);
    assert!(shards.len() > 5, "{} shards", shards.len());
    let mut pages = Vec::new();
    for shard in shards {
        let mut xml = Vec::new();
        let packed = fetch(&shard["loc"], "application/gzip");
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut xml).unwrap();
        validate("sitemap.xsd", &xml, dir);
        let urls = crate::elements(&xml, "urlset", "url", &["loc", "lastmod"]);
        pages.extend(
            urls.into_iter().map(|mut url| (url.remove("loc").unwrap(), url.remove("lastmod").unwrap_or_default())),
        );
    }
    pages.sort();
    pages
}

fn fetch(address: &str, content_type: &str) -> Vec<u8> {
    let mut response = ureq::get(address).config().proxy(None).build().call().unwrap();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("content-type").as_deref(), Some(content_type), "{address}");
    assert_eq!(header("content-encoding"), None, "{address}");
    assert_eq!(header("cache-control").as_deref(), Some("public, max-age=0, must-revalidate"), "{address}");
    response.body_mut().read_to_vec().unwrap()
}

fn validate(schema: &str, xml: &[u8], dir: &Path) {
    let path = dir.join("validate.xml");
    std::fs::write(&path, xml).unwrap();
    let ours = clone_root().join("tests/schemas");
    let official = std::env::var_os(SCHEMAS).map(PathBuf::from);
    for schemas in [Some(ours), official].into_iter().flatten() {
        let schema = schemas.join(schema);
        let checked = Command::new("xmllint").args(["--noout", "--nonet", "--schema"]).arg(&schema).arg(&path).output();
        let checked = checked.expect("xmllint must be installed (Debian: libxml2-utils)");
        assert!(checked.status.success(), "{}: {}", schema.display(), String::from_utf8_lossy(&checked.stderr));
    }
}
