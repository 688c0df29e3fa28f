//! `sitemap check` of a site on the web: a good one has no fault, and every rule is seen to be broken.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::check::{self, Checked, Options};
use tidemark_sitemap::web::Web;
use tidemark_tests::web_server::{Reply, WebServer};

pub(crate) const XML: &str = "application/xml";
pub(crate) const GZIP: &str = "application/gzip";
const NAMESPACE: &str = "http://www.sitemaps.org/schemas/sitemap/0.9";
const INDEX: &str = "/maps/index.xml";
const SHARD: &str = "/maps/1.xml.gz";

/// What a site answers, by path; `ORIGIN` in headers and bodies that are text becomes its address.
pub(crate) type Site = BTreeMap<String, Reply>;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

pub(crate) fn urlset(body: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<urlset xmlns=\"{NAMESPACE}\">\n{body}\n</urlset>\n")
}

pub(crate) fn index(files: &[&str]) -> String {
    let entry = |file: &&str| format!("<sitemap><loc>ORIGIN{file}</loc><lastmod>2025-11-22</lastmod></sitemap>\n");
    format!("<sitemapindex xmlns=\"{NAMESPACE}\">\n{}</sitemapindex>\n", files.iter().map(entry).collect::<String>())
}

pub(crate) fn urls(paths: &[&str]) -> String {
    paths.iter().map(|path| format!("<url><loc>ORIGIN{path}</loc></url>\n")).collect()
}

/// A page that can be indexed.
fn page() -> Reply {
    Reply::ok("text/html; charset=utf-8", "<html><head><title>x</title></head><body></body></html>")
}

/// A sitemap without a fault: an index, a packed and a plain shard, named in robots.txt.
fn good() -> Site {
    let pages = ["/a", "/b?x=1&amp;y=2", "/c/d"];
    let mut site = Site::from([
        (
            "/robots.txt".to_owned(),
            Reply::ok("text/plain", format!("User-agent: *\nDisallow: /private\nSitemap: ORIGIN{INDEX}\n")),
        ),
        (INDEX.to_owned(), Reply::ok(XML, index(&[SHARD, "/maps/2.xml"]))),
        (SHARD.to_owned(), Reply::ok(GZIP, urlset(&urls(&pages)))),
        ("/maps/2.xml".to_owned(), Reply::ok(XML, urlset(&urls(&["/e"])))),
    ]);
    for path in ["/a", "/b?x=1&y=2", "/c/d", "/e"] {
        site.insert(path.to_owned(), page());
    }
    site
}

pub(crate) fn serve(site: Site) -> WebServer {
    let site = Arc::new(site);
    WebServer::start(move |asked| {
        let origin = format!("http://{}", asked.headers["host"]);
        let Some(reply) = site.get(&asked.path) else { return Reply::status(404) };
        let mut reply = reply.clone();
        if let Ok(text) = std::str::from_utf8(&reply.body) {
            reply.body = text.replace("ORIGIN", &origin).into_bytes();
        }
        for (name, value) in &mut reply.headers {
            *value = value.replace("ORIGIN", &origin);
            // Packed here, since the address of the site is only known now.
            if name == "Content-Type" && value == GZIP {
                reply.body = gzip(&reply.body);
            }
        }
        if reply.headers.iter().any(|(name, value)| name == "Content-Encoding" && value == "gzip") {
            reply.body = gzip(&reply.body);
        }
        reply
    })
    .unwrap()
}

async fn check(server: &WebServer, sample: usize) -> Checked {
    let clock = Clock::simulated(crate::NOW_MS);
    let mut web = Web::new(clock, "test/1").unwrap();
    web.timeout = Duration::from_secs(20);
    let options = Options { sample, seed: 7, ..Options::new(crate::NOW_MS) };
    check::live(&web, &format!("{}{INDEX}", server.origin()), options, &|_| ()).await
}

#[tokio::test]
async fn a_good_site_has_no_fault_and_is_asked_politely() {
    let server = serve(good());
    let checked = check(&server, 100).await;
    assert_eq!((checked.faults, checked.notes), (Vec::new(), Vec::new()));
    assert_eq!((checked.files, checked.urls, checked.sampled), (3, 4, 4));
    let asked = server.asked();
    assert_eq!(asked[0].path, "/robots.txt", "before everything else");
    assert!(asked.iter().all(|asked| asked.headers["user-agent"] == "test/1" && asked.method == "GET"));
    assert_eq!(asked.len(), 1 + 3 + 4, "everything once");
}

#[tokio::test]
async fn every_index_that_robots_txt_names_is_followed_and_a_shard_of_two_is_read_once() {
    let (first, second) = ("/maps/sitemap-index.xml", "/maps/sitemap-index-2.xml");
    let mut site = good();
    let robots =
        format!("Sitemap: ORIGIN{first}\nSitemap: ORIGIN/other/sitemap-index-3.xml\nSitemap: ORIGIN{second}\n");
    set(&mut site, "/robots.txt", Reply::ok("text/plain", robots));
    set(&mut site, first, Reply::ok(XML, index(&[SHARD])));
    set(&mut site, second, Reply::ok(XML, index(&[SHARD, "/maps/2.xml"])));
    let from = async |server: &WebServer, path: &str| {
        let web = Web::new(Clock::simulated(crate::NOW_MS), "test/1").unwrap();
        check::live(&web, &format!("{}{path}", server.origin()), Options::new(crate::NOW_MS), &|_| ()).await
    };
    let server = serve(site.clone());
    for path in [first, second] {
        let checked = from(&server, path).await;
        assert_eq!((checked.faults, checked.files, checked.urls), (Vec::new(), 4, 4), "{path}");
    }
    set(&mut site, second, Reply::status(404));
    let checked = from(&serve(site), first).await;
    assert!(checked.faults[0].problem.contains("answers 404") && checked.faults_total == 1, "{:?}", checked.faults);
}

#[tokio::test]
async fn requests_keep_their_distance() {
    let server = serve(good());
    let clock = Clock::simulated(crate::NOW_MS);
    let mut web = Web::new(clock.clone(), "test/1").unwrap();
    web.pause = Duration::from_millis(500);
    check::live(&web, &format!("{}{INDEX}", server.origin()), Options::new(crate::NOW_MS), &|_| ()).await;
    assert_eq!(clock.now_ms() - crate::NOW_MS, 3 * 500, "four requests, three pauses");
}

#[tokio::test]
async fn a_sample_is_drawn_again_by_its_seed_and_another_by_another() {
    let server = serve(good());
    let drawn = async |seed| {
        let before = server.asked().len();
        let web = Web::new(Clock::simulated(crate::NOW_MS), "test/1").unwrap();
        let options = Options { sample: 2, seed, ..Options::new(crate::NOW_MS) };
        check::live(&web, &format!("{}{INDEX}", server.origin()), options, &|_| ()).await;
        let mut pages: Vec<String> = server.asked()[before + 4..].iter().map(|asked| asked.path.clone()).collect();
        pages.sort();
        assert_eq!(pages.len(), 2);
        pages
    };
    let first = drawn(1).await;
    assert_eq!(drawn(1).await, first);
    let mut all: Vec<Vec<String>> = Vec::new();
    for seed in 0..20 {
        all.push(drawn(seed).await);
    }
    assert!(all.iter().any(|pages| *pages != first));
}

/// A change of the good site, and a fault that it must be told for: file, line, words.
type Case = (fn(&mut Site), &'static str, usize, &'static str);

fn set(site: &mut Site, path: &str, reply: Reply) {
    site.insert(path.to_owned(), reply);
}

fn shard(body: &str) -> Reply {
    Reply::ok(GZIP, urlset(body))
}

async fn each(cases: &[Case]) {
    for (change, file, line, words) in cases {
        let mut site = good();
        change(&mut site);
        let server = serve(site);
        let checked = check(&server, 100).await;
        let file = format!("{}{file}", server.origin());
        let found = checked.faults.iter().any(|f| f.file == file && f.line == *line && f.problem.contains(words));
        assert!(found, "{words} at {file}:{line} is not among {:?} {:?}", checked.faults, checked.notes);
    }
}

#[tokio::test]
async fn every_fault_of_headers_and_delivery_is_told() {
    each(&[
        (|site| set(site, SHARD, Reply::status(404)), INDEX, 2, "answers 404"),
        (|site| set(site, SHARD, Reply::status(403)), INDEX, 2, "answers 403"),
        (|site| set(site, INDEX, Reply::status(500)), INDEX, 0, "answers 500"),
        (|site| set(site, SHARD, Reply::ok("text/html", "<!DOCTYPE html><html></html>")), SHARD, 0, "a web page"),
        (
            |site| site.get_mut(SHARD).unwrap().headers.push(("Content-Encoding".into(), "gzip".into())),
            SHARD,
            0,
            "packed twice",
        ),
        (|site| set(site, SHARD, Reply::ok("text/plain", gzip(b"x"))), SHARD, 0, "not application/gzip"),
        (
            |site| set(site, "/maps/2.xml", Reply::ok("text/plain", urlset(&urls(&["/e"])))),
            "/maps/2.xml",
            0,
            "not application/xml",
        ),
        (|site| set(site, SHARD, Reply::ok(GZIP, "")), SHARD, 0, "holds 0"),
        (
            |site| set(site, SHARD, Reply::status(301).with("Location", "ORIGIN/maps/1.xml.gz")),
            INDEX,
            2,
            "redirects too often",
        ),
        (|site| set(site, "/maps/2.xml", Reply::ok(XML, vec![b' '; 52_428_801])), INDEX, 3, "larger than"),
        (|site| set(site, SHARD, Reply::ok(GZIP, vec![b' '; 52_428_801])), SHARD, 0, "larger than 52,428,800"),
    ])
    .await;
    let mut cut = good();
    let bytes = gzip(urlset(&urls(&["/a"; 50])).as_bytes());
    set(&mut cut, SHARD, Reply::ok("application/x-gzip", &bytes[..bytes.len() / 2]));
    let checked = check(&serve(cut), 0).await;
    assert!(checked.faults.iter().any(|fault| fault.problem.contains("damaged")), "{:?}", checked.faults);
}

#[tokio::test]
async fn an_encoding_that_is_taken_off_once_is_no_fault() {
    let mut site = good();
    set(&mut site, "/maps/2.xml", Reply::ok(XML, urlset(&urls(&["/e"]))).with("Content-Encoding", "gzip"));
    set(&mut site, "/maps/old.xml.gz", good()[SHARD].clone());
    set(&mut site, SHARD, Reply::status(302).with("Location", "/maps/old.xml.gz"));
    let checked = check(&serve(site), 0).await;
    assert_eq!((checked.urls, checked.faults), (4, Vec::new()));
    assert!(checked.notes.len() == 1 && checked.notes[0].contains("redirects (302)"), "{:?}", checked.notes);
}

#[tokio::test]
async fn where_a_sitemap_may_speak_for_is_held_by_its_path_and_robots() {
    let unnamed = || Reply::ok("text/plain", "User-agent: *\nDisallow: /maps/private\n");
    each(&[
        (|site| set(site, "/robots.txt", Reply::ok("text/plain", "")), SHARD, 3, "not below the path"),
        (|site| set(site, "/robots.txt", Reply::status(503)), "/robots.txt", 0, "answers 503"),
        (
            |site| set(site, "/robots.txt", Reply::ok("text/plain", "x".repeat(600_000))),
            "/robots.txt",
            0,
            "longer than 512000",
        ),
        (|site| set(site, SHARD, shard("<url><loc>https://127.0.0.2:1/xyz</loc></url>")), SHARD, 3, "on another host"),
        (
            |site| set(site, INDEX, Reply::ok(XML, index(&["/other/1.xml"]))),
            INDEX,
            2,
            "not in the directory of the index",
        ),
    ])
    .await;
    let mut site = good();
    set(&mut site, "/robots.txt", unnamed());
    set(&mut site, SHARD, shard(&urls(&["/maps/a"])));
    set(&mut site, "/maps/2.xml", Reply::ok(XML, urlset(&urls(&["/maps/b"]))));
    let checked = check(&serve(site), 0).await;
    assert_eq!(checked.faults, Vec::new());
    assert!(checked.notes[0].contains("add the line Sitemap:"), "{:?}", checked.notes);

    // A sitemap of pages elsewhere, which the robots.txt there names.
    let pages = Arc::new(std::sync::OnceLock::<String>::new());
    let named = Arc::clone(&pages);
    let other =
        WebServer::start(move |_| Reply::ok("text/plain", format!("Sitemap: {}{INDEX}\n", named.get().unwrap())))
            .unwrap();
    let mut site = good();
    set(&mut site, SHARD, shard(&format!("<url><loc>{}/xyz</loc></url>", other.origin())));
    let server = serve(site);
    pages.set(server.origin()).unwrap();
    assert_eq!(check(&server, 0).await.faults, Vec::new());
}

#[tokio::test]
async fn every_fault_of_a_page_is_told_where_the_sitemap_names_it() {
    each(&[
        (|site| set(site, "/c/d", Reply::status(404)), SHARD, 5, "/c/d answers 404"),
        (|site| set(site, "/c/d", Reply::status(301).with("Location", "/e")), SHARD, 5, "redirects (301)"),
        (|site| set(site, "/a", page().with("X-Robots-Tag", "googlebot: noindex")), SHARD, 3, "X-Robots-Tag"),
        (|site| set(site, "/a", Reply::ok("text/html", "<meta name=robots content=noindex>")), SHARD, 3, "<meta name"),
        (
            |site| set(site, "/a", Reply::ok("text/html", "<link rel=canonical href=/z>")),
            SHARD,
            3,
            "canonical address is /z",
        ),
        (|site| set(site, "/a", page().with("Link", "<ORIGIN/z>; rel=\"canonical\"")), SHARD, 3, "canonical address"),
        (|site| set(site, SHARD, shard(&urls(&["/private/x"]))), SHARD, 3, "Disallow: /private"),
    ])
    .await;
    let mut site = good();
    set(
        &mut site,
        "/a",
        Reply::ok("text/html", "<link rel=canonical href='ORIGIN/a'>").with("Content-Encoding", "gzip"),
    );
    assert_eq!(check(&serve(site), 100).await.faults, Vec::new());
}

#[tokio::test]
async fn extensions_are_held_to_their_rules() {
    const SPACES: &str = "xmlns:image=\"http://www.google.com/schemas/sitemap-image/1.1\" \
                          xmlns:video=\"http://www.google.com/schemas/sitemap-video/1.1\" \
                          xmlns:news=\"http://www.google.com/schemas/sitemap-news/0.9\" \
                          xmlns:xhtml=\"http://www.w3.org/1999/xhtml\"";
    let extended = |inside: &str| {
        let body = format!("<url><loc>ORIGIN/a</loc>{inside}</url>");
        urlset(&body).replace("<urlset ", &format!("<urlset {SPACES} "))
    };
    let news = "<news:news><news:publication><news:name>N</news:name><news:language>en</news:language></news:publication>\
                <news:publication_date>2025-11-22</news:publication_date><news:title>T</news:title></news:news>";
    let link = |language: &str, path: &str| {
        format!("<xhtml:link rel=\"alternate\" hreflang=\"{language}\" href=\"ORIGIN{path}\"/>\n")
    };
    let faults = async |inside: &str| {
        let mut site = good();
        set(&mut site, SHARD, Reply::ok(GZIP, extended(inside)));
        check(&serve(site), 0).await.faults.into_iter().map(|fault| fault.problem).collect::<Vec<_>>()
    };
    let fine = [
        "<image:image><image:loc>https://cdn.example/x.png</image:loc></image:image>".to_owned(),
        "<video:video><video:thumbnail_loc>https://cdn.example/x.png</video:thumbnail_loc><video:title>T</video:title>\
         <video:description>D</video:description><video:player_loc>https://cdn.example/x</video:player_loc>\
         <video:duration>600</video:duration></video:video>"
            .to_owned(),
        news.to_owned(),
        news.replace("2025-11-22", "2025-11-22T10:00+09:00").replace(">en<", ">zh-cn<"),
        link("en", "/a"),
        link("en-GB", "/a"),
        link("x-default", "/a"),
        // One page stands for a language and for all others.
        format!(
            "{both}</url><url><loc>ORIGIN/b</loc>{both}",
            both = link("en", "/a") + &link("x-default", "/a") + &link("de", "/b")
        ),
        "<lastmod>2025-11-22T00:00:00.000Z</lastmod>".to_owned(),
        // Where the other page is in another sitemap, only that one's check can tell.
        link("en", "/a") + &link("de", "/elsewhere"),
    ];
    for inside in &fine {
        assert_eq!(faults(inside).await, Vec::<String>::new(), "{inside}");
    }
    let wrong = [
        ("<image:image><image:title>x</image:title></image:image>".to_owned(), "no loc"),
        ("<image:image><image:loc>x</image:loc></image:image>".to_owned(), "<loc> holds"),
        (format!("{}<lastmod>2025-11-22</lastmod>", fine[0]), "out of order"),
        (fine[1].replace("600", "0"), "<duration> holds"),
        (fine[1].replace("player_loc", "xyz"), "neither content_loc nor player_loc"),
        (news.replace("2025-11-22", "yesterday"), "<publication_date> holds"),
        (format!("{news}{news}"), "more than one <news>"),
        (news.replace(">en<", ">english<"), "<publication/language> holds"),
        (link("english", "/a"), "is no language"),
        (link("en-UK", "/a"), "is no language"),
        (link("de", "/b"), "do not name the page itself"),
        (format!("{}{}", link("en", "/a"), link("en", "/b")), "stands twice"),
        (format!("{}{}</url><url><loc>ORIGIN/b</loc>", link("en", "/a"), link("de", "/b")), "does not link back"),
        ("<lastmod>2025-11-22T00:00:00.Z</lastmod>".to_owned(), "<lastmod>"),
        ("<lastmod>2025-11-22T00:00Z</lastmod>".to_owned(), "<lastmod>"),
        ("<foo:bar/>".to_owned(), "is not declared"),
    ];
    for (inside, words) in wrong {
        let faults = faults(&inside).await;
        assert!(faults.iter().any(|fault| fault.contains(words)), "{inside}: {words} is not among {faults:?}");
    }
}
