//! The command itself: what `tidemark sitemap` prints, and what it exits with.

use crate::check::{GZIP, XML, index, serve, urls, urlset};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use tidemark_local::Binaries;
use tidemark_tests::web_server::{Reply, WebServer};

const INDEXES: [&str; 3] = ["sitemap-index.xml", "sitemap-index-2.xml", "sitemap-index-3.xml"];

/// `tidemark sitemap` with `arguments` in `dir`.
fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(Binaries::beside_this_program().unwrap().path("tidemark").unwrap());
    command.arg("sitemap").args(arguments).current_dir(dir);
    command
}

/// Runs it.
fn sitemap(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().unwrap()
}

/// Settings in `dir` of a site with a sitemap of all pages, and another that is called `name` and selects by `select`.
fn two_sitemaps(dir: &Path, name: &str, select: &str) {
    let all = "base_url = \"https://a.example\"\n[[sitemaps]]\n";
    fs::write(dir.join("two.toml"), format!("{all}[[sitemaps]]\nname = \"{name}\"\nselect.{select}\n")).unwrap();
}

/// What it prints where it has to succeed.
fn printed(dir: &Path, arguments: &[&str]) -> String {
    let output = sitemap(dir, arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A directory with settings and the sitemap `out` that they make: five shards in three indexes.
fn built() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let settings = "base_url = \"https://a.example\"\n[shards]\ntarget_urls = 10\nmax_per_index = 2\n";
    let rows: String = (10..60).map(|n| format!("/p/{n}\n")).collect();
    fs::write(dir.path().join("site.toml"), settings).unwrap();
    fs::write(dir.path().join("pages.csv"), format!("loc\n{rows}")).unwrap();
    printed(dir.path(), &["build", "--site", "site.toml", "--input", "pages.csv", "--out", "out"]);
    dir
}

#[test]
fn a_page_list_may_come_by_standard_input_beside_files() {
    let dir = built();
    let rows: String = (60..90).rev().map(|n| format!("{{\"loc\": \"/p/{n}\"}}\n")).collect();
    fs::write(dir.path().join("more.ndjson"), &rows).unwrap();
    fs::write(dir.path().join("rows"), &rows).unwrap();
    let build = |more: &[&str], out: &str| {
        let stdin = fs::File::open(dir.path().join("rows")).unwrap();
        let arguments = [&["build", "--site", "site.toml", "--out", out, "--input", "pages.csv"], more].concat();
        let output = command(dir.path(), &arguments).stdin(stdin).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (more, out) in [(&["more.ndjson"][..], "a"), (&["-", "--stdin", "ndjson"], "b")] {
        let (code, said) = build(more, out);
        assert!(code == Some(0) && said.contains("80 rows read = 80 emitted"), "{said}");
    }
    let file = |out: &str| fs::read(dir.path().join(out).join("sitemap-00007.xml.gz")).unwrap();
    assert_eq!(file("a"), file("b"));
    let (code, said) = build(&["-", "-"], "c");
    assert!(code == Some(1) && said.contains("given twice"), "{said}");
    let (code, said) = build(&["-", "--stdin", "txt"], "c");
    assert!(code == Some(1) && said.contains("stdin.txt from its name: name it .csv"), "{said}");
}

fn lines(indexes: &[&str]) -> String {
    let named: String = indexes.iter().map(|index| format!("Sitemap: https://a.example/{index}\n")).collect();
    format!("# begin tidemark sitemaps\n{named}# end tidemark sitemaps\n")
}

#[test]
fn robots_prints_every_index_that_lies_in_the_directory() {
    let dir = built();
    let robots = |more: &[&str]| printed(dir.path(), &[&["robots", "--site", "site.toml"], more].concat());
    assert_eq!(robots(&["--out", "out"]), lines(&INDEXES));
    assert_eq!(robots(&[]), lines(&INDEXES[..1]), "of settings alone the first is known");
}

#[test]
fn robots_names_no_index_that_is_not_there() {
    let dir = built();
    two_sitemaps(dir.path(), "news", "news = true");
    printed(dir.path(), &["build", "--site", "two.toml", "--input", "pages.csv", "--out", "two"]);
    let robots = ["robots", "--site", "two.toml"];
    assert_eq!(printed(dir.path(), &[&robots[..], &["--out", "two"]].concat()), lines(&INDEXES[..1]));
    let mistyped = sitemap(dir.path(), &[&robots[..], &["--out", "tow"]].concat());
    let said = String::from_utf8(mistyped.stderr).unwrap();
    assert!(mistyped.status.code() == Some(1) && said.contains("look whether the place is right"), "{said}");
    assert!(!dir.path().join("tow").exists());
}

#[test]
fn what_a_build_would_do_is_told_of_each_sitemap_and_why_nothing_is_left() {
    let dir = built();
    two_sitemaps(dir.path(), "recent", "newest = 5");
    fs::write(dir.path().join("dated.csv"), "loc,lastmod\n/p/10,2025-01-01\n/p/11,2025-01-01\n").unwrap();
    let plan = ["build", "--site", "two.toml", "--input", "dated.csv", "--out", "two", "--dry-run"];
    let text = printed(dir.path(), &plan);
    let heads: Vec<&str> = text.lines().filter(|line| !line.contains(':')).collect();
    assert_eq!(heads, ["two/", "two/recent/"], "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&printed(dir.path(), &[&plan[..], &["--json"]].concat())).unwrap();
    assert_eq!((&json["sitemaps"][1]["outlook"]["urls"], json["failed"].as_array().unwrap().len()), (&2.into(), 0));
    fs::write(dir.path().join("none.csv"), "loc\nmailto:x@a.example\n\nhttps://b.example/\n").unwrap();
    let none =
        sitemap(dir.path(), &["build", "--base-url", "https://a.example", "--input", "none.csv", "--out", "none"]);
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(said.contains("2 rows read; 1 x loc is not an address of a page; 1 x loc is on another"), "{said}");
}

#[test]
fn robots_names_every_file_too_for_an_engine_that_reads_no_index() {
    let dir = built();
    let settings = fs::read_to_string(dir.path().join("site.toml")).unwrap();
    fs::write(dir.path().join("site.toml"), format!("{settings}[rows]\nengines = [\"google\", \"baidu\"]\n")).unwrap();
    let files: Vec<String> = (1..=5).map(|number| format!("sitemap-{number:05}.xml.gz")).collect();
    let all: Vec<&str> = INDEXES.into_iter().chain(files.iter().map(String::as_str)).collect();
    assert_eq!(printed(dir.path(), &["robots", "--site", "site.toml", "--out", "out"]), lines(&all));
    let alone = sitemap(dir.path(), &["robots", "--site", "site.toml"]);
    assert!(String::from_utf8_lossy(&alone.stderr).contains("baidu reads no index: give --out"));
}

#[test]
fn robots_check_says_what_the_live_file_does_not_name_and_exits_by_it() {
    let dir = built();
    let server = WebServer::start(|asked| match asked.path.as_str() {
        "/all" => Reply::ok("text/plain", format!("User-agent: *\nDisallow: /private\n{}", lines(&INDEXES))),
        "/some" => Reply::ok("text/plain", lines(&INDEXES[..1])),
        _ => Reply::status(404),
    })
    .unwrap();
    let check = |path: &str| {
        let url = format!("{}{path}", server.origin());
        let output = sitemap(dir.path(), &["robots", "--site", "site.toml", "--out", "out", "--check", &url]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap().replace(&url, "URL"))
    };
    assert_eq!(check("/all"), (Some(0), String::new()));
    let missing = "URL: does not name https://a.example/sitemap-index-2.xml\n\
                   URL: does not name https://a.example/sitemap-index-3.xml\n";
    assert_eq!(check("/some"), (Some(1), missing.to_owned()));
    assert_eq!(check("/none"), (Some(1), "URL: answers 404\n".to_owned()));
}

#[test]
fn import_takes_over_what_two_addresses_name_and_the_next_build_keeps_it() {
    let shard = |paths: &[&str]| Reply::ok(GZIP, urlset(&urls(paths)));
    let site = [
        ("/maps/first.xml", Reply::ok(XML, index(&["/maps/a.xml.gz", "/maps/b.xml.gz"]))),
        ("/maps/second.xml", Reply::ok(XML, index(&["/maps/b.xml.gz", "/maps/c.xml.gz"]))),
        ("/maps/a.xml.gz", shard(&["/a/1", "/a/2"])),
        ("/maps/b.xml.gz", shard(&["/b/1"])),
        ("/maps/c.xml.gz", shard(&["/c/1", "/c/2"])),
    ];
    let files = site.len();
    let server = serve(site.into_iter().map(|(path, reply)| (path.to_owned(), reply)).collect());
    let (dir, origin) = (tempfile::tempdir().unwrap(), server.origin());
    fs::write(dir.path().join("pages.csv"), "loc\n/a/1\n/a/2\n/b/1\n/c/1\n").unwrap();
    let [first, second] = ["first", "second"].map(|name| format!("{origin}/maps/{name}.xml"));
    let import = ["import", "--from", &first, "--from", &second, "--base-url", &origin];
    let said = printed(dir.path(), &[&import[..], &["--input", "pages.csv", "--out", "out"]].concat());
    let wanted = format!(
        "5 pages in 3 files, 0 of them not of the site\n3 files keep their names and pages\n\
         4 pages equal, 1 only there, 0 only here, 0 with another lastmod\n  only there: {origin}/c/2\n\
         the next build into out keeps those names; it writes each file once\n"
    );
    assert_eq!(said, wanted);
    assert_eq!(server.asked().len(), files, "a file that both name is fetched once");

    printed(dir.path(), &["build", "--base-url", &origin, "--input", "pages.csv", "--out", "out"]);
    let kept = fs::read_dir(dir.path().join("out")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut kept: Vec<_> =
        kept.filter_map(|name| name.into_string().ok()).filter(|name| name.contains(".xml")).collect();
    kept.sort();
    assert_eq!(kept, ["a.xml.gz", "b.xml.gz", "c.xml.gz", INDEXES[0]]);
    let mixed = sitemap(dir.path(), &["import", "--from", &first, "--from", "out", "--base-url", &origin]);
    let said = String::from_utf8(mixed.stderr).unwrap();
    assert!(
        mixed.status.code() == Some(1) && said.contains("give all indexes of one sitemap, from one place"),
        "{said}"
    );
}
