//! Reads a sitemap as a crawler would and holds it against every rule of the protocol, with the line of each fault.
//!
//! Owes nothing to the code that writes: it has its own reader of the XML, so that what both get wrong shows.

use crate::loc::{BaseUrl, LOC_CHARS_MAX, LOC_CHARS_MIN};
use crate::pages::is_priority;
use crate::row::Changefreq;
use crate::{lastmod, xml};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

const NAMESPACE: &str = "http://www.sitemaps.org/schemas/sitemap/0.9";
/// Faults that are listed; further ones are counted.
const FAULTS_MAX: usize = 100;

/// A rule that is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 where it is about the whole file.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.problem),
            line => write!(f, "{}:{line}: {}", self.file, self.problem),
        }
    }
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Files that were read.
    pub files: usize,
    /// Pages that they name.
    pub urls: u64,
    /// The first faults.
    pub faults: Vec<Fault>,
    /// How many faults there are in all.
    pub faults_total: u64,
    seen: HashSet<u64>,
}

/// Checks the sitemap whose index lies at `index`, with its shards beside it.
#[must_use]
pub fn directory(index: &Path) -> Checked {
    let mut checked = Checked::default();
    let name = index.display().to_string();
    let Some(bytes) = checked.open(index, &name) else { return checked };
    let mut locs = Vec::new();
    let index_rules =
        Rules { root: "sitemapindex", item: "sitemap", tags: &["loc", "lastmod"], items_max: xml::SHARDS_MAX };
    checked.document(&name, &bytes, &index_rules, &mut |_, line, loc| locs.push((line, loc)));
    let mut files = HashSet::new();
    for (line, loc) in locs {
        let file = loc.rsplit('/').next().unwrap_or_default().to_owned();
        let Some(origin) = origin(&loc) else { continue };
        if !files.insert(loc) {
            checked.fault(&name, line, format!("{file} is named twice"));
            continue;
        }
        let path = index.with_file_name(&file);
        let Some(bytes) = checked.open(&path, &path.display().to_string()) else { continue };
        checked.shard(&path.display().to_string(), &bytes, &origin);
    }
    checked
}

struct Rules {
    root: &'static str,
    item: &'static str,
    tags: &'static [&'static str],
    items_max: usize,
}

/// The element that is being read.
#[derive(Default)]
struct Item {
    line: usize,
    /// How many of the known tags are behind.
    next: usize,
    loc: Option<(usize, String)>,
}

impl Checked {
    fn fault(&mut self, file: &str, line: usize, problem: String) {
        self.faults_total += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { file: file.to_owned(), line, problem });
        }
    }

    /// Reads a file, unpacked where its bytes say that it is packed.
    fn open(&mut self, path: &Path, name: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Err(error) = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            self.fault(name, 0, format!("cannot be read: {error}"));
            return None;
        }
        self.files += 1;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut unpacked = Vec::new();
            let mut reader = flate2::read::MultiGzDecoder::new(bytes.as_slice()).take(xml::BYTES_MAX + 1);
            if let Err(error) = reader.read_to_end(&mut unpacked) {
                self.fault(name, 0, format!("is damaged: {error}"));
                return None;
            }
            bytes = unpacked;
        }
        if bytes.len() as u64 > xml::BYTES_MAX {
            self.fault(name, 0, "is larger than 52,428,800 bytes uncompressed".to_owned());
        }
        Some(bytes)
    }

    fn shard(&mut self, name: &str, bytes: &[u8], origin: &str) {
        let tags = &["loc", "lastmod", "changefreq", "priority"];
        let rules = Rules { root: "urlset", item: "url", tags, items_max: xml::URLS_MAX as usize };
        self.document(name, bytes, &rules, &mut |checked, line, loc| {
            checked.urls += 1;
            if crate::check::origin(&loc).as_deref() != Some(origin) {
                checked.fault(name, line, format!("{loc} is on another host than the sitemap"));
            }
            if !checked.seen.insert(xxh3_64(loc.as_bytes())) {
                checked.fault(name, line, format!("{loc} stands in the sitemap twice"));
            }
        });
    }

    /// Reads one document and gives every item's loc, with its line, to `take`.
    fn document(&mut self, name: &str, bytes: &[u8], rules: &Rules, take: &mut dyn FnMut(&mut Self, usize, String)) {
        let mut reader = Reader::from_reader(bytes);
        let (mut depth, mut items, mut item, mut tag, mut text) = (0, 0, Item::default(), String::new(), String::new());
        let (mut lines, mut counted) = (1, 0);
        loop {
            let event = reader.read_event();
            let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX).min(bytes.len());
            let line = lines;
            lines += memchr::memchr_iter(b'\n', &bytes[counted..at]).count();
            counted = at;
            match event {
                Ok(Event::Start(start)) => {
                    let found = start.name().as_ref().to_owned();
                    match depth {
                        0 => self.root(name, line, &start, rules),
                        1 if found == rules.item => {
                            items += 1;
                            item = Item { line, ..Item::default() };
                        }
                        2 => self.tag(name, line, &found, rules, &mut item),
                        _ => self.fault(name, line, format!("<{found}> does not belong here")),
                    }
                    (tag, depth) = (found, depth + 1);
                    text.clear();
                }
                Ok(Event::Empty(empty)) => self.fault(name, line, format!("<{}/> is empty", empty.name().as_ref())),
                Ok(Event::Text(part)) if depth == 3 => text.push_str(&part[..]),
                Ok(Event::GeneralRef(entity)) if depth == 3 => self.entity(name, line, &entity[..], &mut text),
                Ok(Event::Text(part)) if part.trim().is_empty() => {}
                Ok(Event::Text(_) | Event::GeneralRef(_)) => {
                    self.fault(name, line, "text stands between elements".to_owned())
                }
                Ok(Event::End(_)) => {
                    depth -= 1;
                    match depth {
                        2 => self.value(name, line, &tag, &text, &mut item),
                        1 => match item.loc.take() {
                            Some((line, loc)) => take(self, line, loc),
                            None => self.fault(name, item.line, "has no loc".to_owned()),
                        },
                        _ => {}
                    }
                }
                Ok(Event::Eof) => break,
                Ok(_) => {}
                Err(error) => {
                    self.fault(name, line, format!("is not well-formed XML: {error}"));
                    return;
                }
            }
        }
        if depth != 0 {
            self.fault(name, lines, "breaks off".to_owned());
        }
        if items == 0 || items > rules.items_max {
            self.fault(name, 0, format!("holds {items} <{}>, 1 to {} are allowed", rules.item, rules.items_max));
        }
    }

    fn root(&mut self, name: &str, line: usize, start: &BytesStart<'_>, rules: &Rules) {
        if start.name().as_ref() != rules.root {
            self.fault(name, line, format!("begins with <{}>, not <{}>", start.name().as_ref(), rules.root));
        }
        let space = start.try_get_attribute("xmlns").ok().flatten();
        if space.is_none_or(|space| space.value.as_ref() != NAMESPACE) {
            self.fault(name, line, format!("its namespace is not {NAMESPACE}"));
        }
    }

    fn tag(&mut self, name: &str, line: usize, found: &str, rules: &Rules, item: &mut Item) {
        match rules.tags.iter().position(|tag| *tag == found) {
            None => self.fault(name, line, format!("<{found}> is not known")),
            Some(place) if place < item.next => self.fault(name, line, format!("<{found}> is out of order or twice")),
            Some(place) => item.next = place + 1,
        }
    }

    fn entity(&mut self, name: &str, line: usize, entity: &str, text: &mut String) {
        match quick_xml::escape::unescape(&format!("&{entity};")) {
            Ok(plain) => text.push_str(&plain),
            Err(_) => self.fault(name, line, format!("&{entity}; is not known")),
        }
    }

    fn value(&mut self, name: &str, line: usize, tag: &str, text: &str, item: &mut Item) {
        let ok = match tag {
            "loc" => {
                item.loc = Some((line, text.to_owned()));
                return self.loc(name, line, text);
            }
            "lastmod" => {
                let mut canonical = Vec::new();
                lastmod::canonical(text.as_bytes(), None, &mut canonical).is_ok() && canonical == text.as_bytes()
            }
            "changefreq" => Changefreq::parse(text.as_bytes()).is_some() && !text.contains(char::is_uppercase),
            "priority" => is_priority(text.as_bytes()),
            _ => true,
        };
        if !ok {
            self.fault(name, line, format!("<{tag}> holds {text:?}"));
        }
    }

    fn loc(&mut self, name: &str, line: usize, loc: &str) {
        if !(LOC_CHARS_MIN..=LOC_CHARS_MAX).contains(&loc.len()) {
            self.fault(
                name,
                line,
                format!("loc has {} characters, {LOC_CHARS_MIN} to {LOC_CHARS_MAX} are allowed", loc.len()),
            );
        }
        let mut same = Vec::new();
        let base = origin(loc).and_then(|origin| BaseUrl::parse(&origin).ok());
        if base.is_none_or(|base| base.resolve(loc.as_bytes(), &mut same).is_err() || same != loc.as_bytes()) {
            self.fault(name, line, format!("{loc:?} is not a valid, escaped address"));
        }
    }
}

/// Scheme, host and port of an address.
fn origin(loc: &str) -> Option<String> {
    let url = url::Url::parse(loc).ok()?;
    matches!(url.scheme(), "http" | "https").then(|| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
    fn every_rule_is_held_and_the_line_is_told() {
        let cases = [
            (urlset(""), 0, "holds 0 <url>"),
            (urlset("<url><lastmod>2025-01-01</lastmod></url>"), 3, "has no loc"),
            (urlset(&format!("{URL}\n{URL}")), 4, "twice"),
            (urlset("<url>\n<loc>https://b.example/x</loc>\n</url>"), 4, "another host"),
            (urlset("<url><loc>https://a.example/x</loc>\n<lastmod>yesterday</lastmod></url>"), 4, "yesterday"),
            (urlset("<url><priority>0.5</priority><loc>https://a.example/x</loc></url>"), 3, "out of order"),
            (urlset("<url><loc>https://a.example/x</loc><priority>2</priority></url>"), 3, "<priority> holds"),
            (
                urlset("<url><loc>https://a.example/x</loc><changefreq>Daily</changefreq></url>"),
                3,
                "<changefreq> holds",
            ),
            (urlset("<url><loc>https://a.example/x y</loc></url>"), 3, "not a valid"),
            (urlset("<url><loc>/x/y/z/a/b/c</loc></url>"), 3, "not a valid"),
            (urlset("<url><loc>https://a.example/x</loc><image>1</image></url>"), 3, "<image> is not known"),
            (urlset("<url><loc>https://a.example/&nbsp;</loc></url>"), 3, "&nbsp; is not known"),
            (urlset(URL).replace("/0.9", "/0.8"), 2, "namespace"),
            (urlset(URL).replace("</url>\n", "\n"), 4, "not well-formed"),
            (urlset(URL).replace("</urlset>", ""), 0, "breaks off"),
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
        assert!(
            directory(Path::new("/nowhere/i.xml")).faults[0].to_string().contains("/nowhere/i.xml: cannot be read")
        );
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("i.xml");
        let body = "<sitemap><loc>https://a.example/s.xml.gz</loc></sitemap>";
        fs::write(&index, format!("<sitemapindex xmlns=\"{NAMESPACE}\">{body}{body}</sitemapindex>")).unwrap();
        fs::write(dir.path().join("s.xml.gz"), [0x1f, 0x8b, 8, 0, 1, 2, 3]).unwrap();
        let problems: Vec<_> = directory(&index).faults.iter().map(ToString::to_string).collect();
        assert!(
            problems.len() == 2 && problems[0].contains("damaged") && problems[1].contains("named twice"),
            "{problems:?}"
        );
    }
}
