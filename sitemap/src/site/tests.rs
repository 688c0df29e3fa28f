//! Tests of a site's settings.

use super::*;
use crate::athena::{Fetch, SqlText};

fn one(text: &str) -> Site {
    let mut sites = parse("demo.toml", text).unwrap();
    assert_eq!(sites.len(), 1);
    sites.remove(0)
}

const GOOD: &str = r#"
        base_url = "https://www.example.com/"
        lastmod_zone = "Asia/Seoul"
        [query]
        sql = "SELECT loc, lastmod FROM pages ORDER BY loc;"
        database = "shop"
        output = "s3://results/athena/"
        [publish]
        bucket = "sitemaps"
        prefix = "/a/b"
    "#;

#[test]
fn what_is_not_said_has_its_default() {
    let site = one(GOOD);
    assert_eq!(
        (site.sitemap.base.as_str(), site.sitemap.files_url.as_str()),
        ("https://www.example.com", "https://www.example.com")
    );
    let Source::Query(query) = &site.source else { panic!("{:?}", site.source) };
    assert_eq!(query.sql, SqlText::Inline("SELECT loc, lastmod FROM pages ORDER BY loc".into()));
    assert_eq!(
        (query.workgroup.as_str(), query.fetch, site.target.prefix.as_str()),
        ("primary", Fetch::Unload, "a/b/")
    );
    assert_eq!((site.target.edge_ttl.as_secs(), site.target.grace_ms), (60, 86_400_000));
    assert_eq!((site.sitemap.limits, site.sitemap.level), (Limits::default(), 4));
    assert_eq!(site.sitemap.name, "");
}

#[test]
fn the_template_is_valid_as_it_is_and_with_every_setting_in_use() {
    let site = one(&template("https://shop.example/"));
    assert_eq!(site.sitemap.base.as_str(), "https://shop.example");
    // A setting is one word before its sign; what begins with a further space is an alternative to what is there.
    let setting = |line: &str| {
        let name = line.strip_prefix("# ").and_then(|text| text.split_once(" = ")).map(|(name, _)| name);
        name.is_some_and(|name| !name.contains(' ')) || matches!(line, "# [indexnow]" | "# [guard.kinds]")
    };
    let all: Vec<&str> = TEMPLATE.lines().map(|line| if setting(line) { &line[2..] } else { line }).collect();
    let site = one(&all.join("\n"));
    assert_eq!((site.sitemap.limits, site.sitemap.drop_percent_max), (Limits::default(), 50));
    assert_eq!(site.target.grace_ms, 86_400_000);
}

#[test]
fn the_several_sitemaps_of_the_template_are_valid() {
    let (above, several) = TEMPLATE.split_once("#  [[sitemaps]]").unwrap();
    let several = several.lines().map(|line| line.strip_prefix("#  ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
    let sites = parse("template", &format!("{above}[[sitemaps]]{several}")).unwrap();
    let names: Vec<&str> = sites.iter().map(|site| site.sitemap.name.as_str()).collect();
    assert_eq!(names, ["", "products", "recent", "news"]);
    assert_eq!(sites[2].sitemap.rows.select.newest, Some(1000));
}

#[test]
fn every_mistake_names_its_field() {
    let cases = [
        ("base_url = \"https://www.example.com/\"", "base_url = \"example.com\"", "base_url"),
        ("lastmod_zone = \"Asia/Seoul\"", "lastmod_zone = \"Seoul\"", "lastmod_zone"),
        ("lastmod_zone = \"Asia/Seoul\"", "files_url = \"/x\"", "files_url"),
        ("SELECT loc", "DROP loc", "query.sql"),
        ("database = \"shop\"", "database = \" \"", "query.database"),
        ("database = \"shop\"", "", "database"),
        ("s3://results", "results", "query.output"),
        ("database = \"shop\"", "database = \"shop\"\nsql_file = \"x.sql\"", "query.sql_file"),
        ("sql = ", "sql_file = \"../x.sql\" #", "query.sql_file"),
        ("database = \"shop\"", "database = \"shop\"\nfetch = \"mail\"", "fetch"),
        ("[publish]", "[input]\nobjects = \"s3://a/b\"\n[publish]", "input.objects"),
        ("bucket = \"sitemaps\"", "bucket = \"s3://x\"", "publish.bucket"),
        ("prefix = \"/a/b\"", "prefix = \"a/../b\"", "publish.prefix"),
        ("prefix = \"/a/b\"", "edge_ttl_seconds = 3600", "publish.edge_ttl_seconds"),
        ("prefix = \"/a/b\"", "distribution = \"d1.cloudfront.net\"", "publish.distribution"),
        ("prefix = \"/a/b\"", "robots = \"www-bucket/robots.txt\"", "publish.robots"),
        ("prefix = \"/a/b\"", "prefix = \"a b\"\ndistribution = \"E2EXAMPLE\"", "publish.prefix"),
        ("prefix = \"/a/b\"", "edge_ttl = 3", "edge_ttl"),
        ("prefix = \"/a/b\"", "[shards]\ntarget_urls = 60000", "shards.target_urls"),
        ("prefix = \"/a/b\"", "[shards]\nmax_urls = 50001", "shards.max_urls"),
        ("prefix = \"/a/b\"", "[shards]\nmax_per_index = 50001", "shards.max_per_index"),
        ("prefix = \"/a/b\"", "[shards]\nmax_urls = 5\ntarget_urls = 6", "shards.target_urls"),
        ("prefix = \"/a/b\"", "[shards]\nlevel = 0", "shards.level"),
        ("prefix = \"/a/b\"", "[guard]\ndrop_percent_max = 101", "guard.drop_percent_max"),
        ("prefix = \"/a/b\"", "[guard.kinds]\nproduct = 101", "guard.kinds"),
        ("prefix = \"/a/b\"", "[scale]\nparts = 2\n[rows]\nsort_key = true", "scale.parts"),
        ("prefix = \"/a/b\"", "[indexnow]\nkey = \"short\"", "indexnow.key"),
    ];
    for (good, bad, field) in cases {
        let text = GOOD.replace(good, bad);
        assert_ne!(text, GOOD);
        let message = parse("demo.toml", &text).unwrap_err().to_string();
        assert!(message.contains("demo.toml") && message.contains(field), "{field}: {message}");
    }
}

const SEVERAL: &str = r#"
        [shards]
        level = 6
        target_urls = 1000
        [guard]
        drop_percent_max = 30
        [[sitemaps]]
        [[sitemaps]]
        name = "products"
        select.kinds = ["product"]
        engines = ["baidu"]
        shards.target_urls = 20
        [[sitemaps]]
        name = "recent"
        select.within_hours = 24
        indexnow = true
        [[sitemaps]]
        name = "news"
        select.news = true
        guard.drop_percent_max = 90
    "#;

#[test]
fn a_sitemap_has_a_directory_of_its_own_and_says_only_what_differs() {
    let indexnow = "[indexnow]\nkey = \"0123456789abcdef\"\n";
    let sites = parse("demo.toml", &format!("{GOOD}\n{indexnow}{SEVERAL}")).unwrap();
    let told = |site: &Site| {
        let Sitemap { name, files_url, limits, level, drop_percent_max, others, .. } = &site.sitemap;
        let place = (name.clone(), site.target.prefix.clone(), files_url.clone());
        let shape = (limits.urls_target, limits.bytes_max >> 20, *level, *drop_percent_max);
        (place, shape, site.indexnow.is_some(), others.len())
    };
    let at = |name: &str| {
        let dir = if name.is_empty() { String::new() } else { format!("/{name}") };
        (name.to_owned(), format!("a/b{dir}/"), format!("https://www.example.com{dir}"))
    };
    assert_eq!(
        sites.iter().map(told).collect::<Vec<_>>(),
        [
            (at(""), (1000, 50, 6, 30), true, 3),
            (at("products"), (20, 10, 6, 30), true, 3),
            // What is right for all pages is no guard of a window, and what leaves it is no page that is gone.
            (at("recent"), (1000, 50, 6, 100), true, 3),
            (at("news"), (1000, 50, 6, 90), false, 3),
        ]
    );
    let local = format!("base_url = \"https://www.example.com\"\n{SEVERAL}");
    let names: Vec<String> = parse_local("x", &local).unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["", "products", "recent", "news"]);
    assert!(parse("x", &local).unwrap_err().to_string().contains("publish is missing"));
}

#[test]
fn every_sitemap_is_built_in_parts_but_one_of_the_newest_pages() {
    let newest = "[[sitemaps]]\nname = \"latest\"\nselect.newest = 5\n";
    let sites = parse("demo.toml", &format!("{GOOD}\n[scale]\nparts = 7\n{SEVERAL}\n{newest}")).unwrap();
    assert_eq!(sites.iter().map(|site| site.scale.parts).collect::<Vec<_>>(), [7, 7, 7, 7, 1]);
}

#[test]
fn a_mistake_in_one_of_several_names_the_sitemap() {
    for (good, bad, said) in [
        ("name = \"news\"", "name = \"recent\"", "\"recent\" twice"),
        ("name = \"news\"", "", "\"\" twice"),
        ("name = \"news\"", "name = \"sitemap-x\"", "not with sitemap-"),
        ("name = \"news\"", "name = \"../x\"", "sitemaps.name is \"../x\""),
        ("name = \"news\"", "name = \"News\"", "sitemaps.name is \"News\""),
        ("shards.target_urls = 20", "shards.target_urls = 0", "shards.target_urls of the sitemap products"),
        ("shards.target_urls = 20", "shards.level = 13", "shards.level of the sitemap products"),
        ("drop_percent_max = 90", "drop_percent_max = 101", "guard.drop_percent_max of the sitemap news"),
        ("target_urls = 1000", "[rows.select]\nnews = true", "rows.select and [[sitemaps]]"),
        ("select.news = true", "select.new = true", "unknown field"),
    ] {
        let text = format!("{GOOD}\n{SEVERAL}").replace(good, bad);
        assert_ne!(text, format!("{GOOD}\n{SEVERAL}"));
        let message = parse("demo.toml", &text).unwrap_err().to_string();
        assert!(message.contains("demo.toml") && message.contains(said), "{said}: {message}");
    }
    assert!(parse("x", &format!("sitemaps = []\n{GOOD}")).unwrap_err().to_string().contains("give 1 to 100"));
}
