//! A sitemap in a directory against each rule, with the line of what breaks it.

use super::*;
use std::fs;

const NAMESPACE: &str = "http://www.sitemaps.org/schemas/sitemap/0.9";
const URL: &str = "<url><loc>https://a.example/x</loc></url>";

fn urlset(body: &str) -> String {
    format!("<?xml version=\"1.0\"?>\n<urlset xmlns=\"{NAMESPACE}\">\n{body}\n</urlset>\n")
}

fn check(shard: &str) -> Checked {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("i.xml");
    let body = "<sitemap><loc>https://a.example/s.xml</loc></sitemap>";
    fs::write(&index, format!("<sitemapindex xmlns=\"{NAMESPACE}\">\n{body}\n</sitemapindex>")).unwrap();
    fs::write(dir.path().join("s.xml"), shard).unwrap();
    directory(&index)
}

#[test]
fn a_good_sitemap_has_no_faults() {
    let checked = check(&urlset(URL));
    assert_eq!((checked.files, checked.urls, checked.faults.as_slice()), (2, 1, &[][..]));
}

#[test]
fn how_a_host_is_spelled_and_space_around_values_are_no_faults() {
    let body = "<url>\n<loc>\n HTTPS://A.Example:443/xyz\n</loc>\n<lastmod> 2025-01-01 </lastmod>\n</url>";
    assert_eq!(check(&urlset(body)).faults, []);
    assert_eq!(check(&format!("\u{feff}{}", urlset(body))).faults, [], "a byte order mark is none of the document");
    let twice = check(&urlset(&format!("{body}\n<url><loc>https://a.example/xyz</loc></url>")));
    assert!(twice.faults.len() == 1 && twice.faults[0].problem.contains("twice"), "{:?}", twice.faults);
    for wrong in ["https://a.exämple/xyz", "https://u@a.example/xyz"] {
        assert!(check(&urlset(&format!("<url><loc>{wrong}</loc></url>"))).faults_total > 0, "{wrong}");
    }
}

#[test]
fn pages_of_other_hosts_and_elements_of_others_are_no_faults_of_a_local_sitemap() {
    let body = "<url><loc>https://b.example/xyz</loc><m:mobile xmlns:m=\"urn:m\"><m:a/></m:mobile></url>";
    let checked = check(&urlset(body));
    assert_eq!(checked.faults, []);
    assert!(checked.notes[0].contains("1 pages are on https://b.example"), "{:?}", checked.notes);
    let prefixed =
        format!("<s:urlset xmlns:s=\"{NAMESPACE}\"><s:url><s:loc>https://a.example/xyz</s:loc></s:url></s:urlset>");
    assert_eq!(check(&prefixed).faults, []);
}

#[test]
fn every_rule_is_held_and_the_line_is_told() {
    let cases = [
        (urlset(""), 0, "holds 0 <url>"),
        (urlset("<url><lastmod>2025-01-01</lastmod></url>"), 3, "has no loc"),
        (urlset(&format!("{URL}\n{URL}")), 4, "twice"),
        (urlset("<url><loc>https://a.example/x</loc>\n<lastmod>yesterday</lastmod></url>"), 4, "yesterday"),
        (urlset("<url><priority>0.5</priority><loc>https://a.example/x</loc></url>"), 3, "out of order"),
        (urlset("<url><loc>https://a.example/x</loc><priority>2</priority></url>"), 3, "<priority> holds"),
        (urlset("<url><loc>https://a.example/x</loc><changefreq>Daily</changefreq></url>"), 3, "<changefreq> holds"),
        (urlset("<url><loc>https://a.example/x y</loc></url>"), 3, "not a valid"),
        (urlset("<url><loc>/x/y/z/a/b/c</loc></url>"), 3, "not a valid"),
        (urlset("<url><loc>https://a.example/x</loc><image>1</image></url>"), 3, "<image> is not known"),
        (urlset("<url><loc>https://a.example/&nbsp;</loc></url>"), 3, "&nbsp; is not known"),
        (urlset(URL).replace("/0.9", "/0.8"), 2, "namespace"),
        (urlset(URL).replace("</url>\n", "\n"), 4, "not well-formed"),
        (urlset(URL).replace("</urlset>", ""), 0, "breaks off"),
        (format!("\n{}", urlset(URL)), 2, "before <?xml"),
        (format!(" {}", urlset(URL)), 1, "before <?xml"),
        (urlset(URL).replace(" version=\"1.0\"", ""), 1, "no version"),
        (urlset(URL) + &urlset(URL), 5, "before <?xml"),
        (urlset(URL) + "<urlset/>", 5, "second root"),
        (urlset(&URL.replace("/x", "/x&#1;")), 3, "control character"),
        (urlset(&URL.replace("/x", "/x\u{1}")), 3, "control character"),
        (urlset(&URL.replace("<url>", "<url a=\"1\" a=\"2\">")), 3, "attributes"),
        (urlset(&URL.replace("<url>", "<url a=1>")), 3, "attributes"),
        (urlset(&URL.replace("<url>", "<url a=\"b & c\">")), 3, "attributes"),
        (urlset(&format!("<!-- a -- b -->{URL}")), 3, "not well-formed"),
        (urlset(URL).replace("urlset", "sitemapindex"), 2, "not <urlset>"),
    ];
    for (shard, line, said) in cases {
        let checked = check(&shard);
        let found = checked.faults.iter().any(|f| f.problem.contains(said) && (line == 0 || f.line == line));
        assert!(found, "{said} at {line}: {:?}", checked.faults);
    }
}

#[test]
fn files_that_are_not_there_or_damaged_are_told() {
    assert!(directory(Path::new("/nowhere/i.xml")).faults[0].to_string().contains("/nowhere/i.xml: cannot be read"));
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("i.xml");
    let body = "<sitemap><loc>https://a.example/s.xml.gz</loc></sitemap>";
    fs::write(&index, format!("<sitemapindex xmlns=\"{NAMESPACE}\">{body}{body}</sitemapindex>")).unwrap();
    fs::write(dir.path().join("s.xml.gz"), [0x1f, 0x8b, 8, 0, 1, 2, 3]).unwrap();
    let problems: Vec<_> = directory(&index).faults.iter().map(ToString::to_string).collect();
    assert!(
        problems.len() == 2 && problems[0].contains("named twice") && problems[1].contains("damaged"),
        "{problems:?}"
    );
}
