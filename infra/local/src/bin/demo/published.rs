//! Fetches a published sitemap over HTTP, as a crawler would, and checks it.

use crate::pages::gunzip;
use anyhow::{Context as _, Result, bail, ensure};
use quick_xml::Reader;
use quick_xml::events::Event;
use std::collections::HashSet;
use std::time::Duration;
use url::Url;

const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// The protocol's limits (sitemaps.org): URLs and unpacked bytes a file, files an index.
const URLS_MAX: usize = 50_000;
const FILE_BYTES_MAX: usize = 52_428_800;
const FILES_MAX: usize = 50_000;
const LOC_CHARACTERS_MAX: usize = 2_048;
const INDEX_BYTES_MAX: u64 = 52_428_800;
const NAMESPACE: &str = "http://www.sitemaps.org/schemas/sitemap/0.9";

/// What a check found.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Shards the index names.
    pub(crate) shards: usize,
    /// URLs in all shards.
    pub(crate) urls: u64,
    /// Of these, with a lastmod.
    pub(crate) dated: u64,
    /// Bytes fetched.
    pub(crate) bytes: u64,
    /// Whichever of the wanted URLs were found.
    pub(crate) found: HashSet<String>,
}

/// Fetches and checks the index at `index_url` and every shard that it names.
///
/// `wanted` are URLs to look for.
pub(crate) fn check(index_url: &str, wanted: &HashSet<String>) -> Result<Published> {
    let index = fetch(index_url)?;
    let mut published = Published { bytes: index.body.len() as u64, ..Published::default() };
    let entries = entries(&index.body, "sitemapindex", "sitemap").with_context(|| format!("index {index_url}"))?;
    ensure!(!entries.is_empty(), "index {index_url} names no shard");
    ensure!(entries.len() <= FILES_MAX, "index {index_url} names {} shards, more than {FILES_MAX}", entries.len());
    for Entry { loc, .. } in entries {
        let shard = fetch(&loc)?;
        published.shards += 1;
        published.bytes += shard.body.len() as u64;
        check_shard(&shard, wanted, &mut published).with_context(|| format!("shard {loc}"))?;
    }
    Ok(published)
}

fn check_shard(shard: &Fetched, wanted: &HashSet<String>, published: &mut Published) -> Result<()> {
    ensure!(
        shard.content_type == "application/gzip" && shard.content_encoding.is_empty(),
        "content type {:?} with content encoding {:?}: application/gzip without encoding was promised",
        shard.content_type,
        shard.content_encoding
    );
    let xml = gunzip(&shard.body, FILE_BYTES_MAX)?;
    let entries = entries(&xml, "urlset", "url")?;
    ensure!(!entries.is_empty(), "it holds no URL");
    ensure!(entries.len() <= URLS_MAX, "{} URLs, more than {URLS_MAX}", entries.len());
    for Entry { loc, lastmod } in entries {
        check_loc(&loc).with_context(|| format!("loc {loc:?}"))?;
        published.urls += 1;
        published.dated += u64::from(lastmod.is_some());
        if wanted.contains(&loc) {
            published.found.insert(loc);
        }
    }
    Ok(())
}

/// A loc must be an absolute URL that is written as a URL parser would write it: nothing left to escape.
fn check_loc(loc: &str) -> Result<()> {
    ensure!(loc.chars().count() < LOC_CHARACTERS_MAX, "longer than {LOC_CHARACTERS_MAX} characters");
    let url = Url::parse(loc)?;
    ensure!(matches!(url.scheme(), "http" | "https"), "scheme {:?}", url.scheme());
    ensure!(url.as_str() == loc, "escaped it would be {url}");
    Ok(())
}

struct Fetched {
    body: Vec<u8>,
    content_type: String,
    content_encoding: String,
}

fn fetch(address: &str) -> Result<Fetched> {
    let request = ureq::get(address).config().timeout_global(Some(FETCH_TIMEOUT)).proxy(None).build();
    let mut response = request.call().with_context(|| format!("fetch {address}"))?;
    let header = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (content_type, content_encoding) = (header("content-type"), header("content-encoding"));
    let body = response.body_mut().with_config().limit(INDEX_BYTES_MAX).read_to_vec();
    let body = body.with_context(|| format!("fetch {address}"))?;
    Ok(Fetched { body, content_type, content_encoding })
}

/// One `url` or `sitemap` element.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    loc: String,
    lastmod: Option<String>,
}

/// The entries of a well-formed file whose root is `root` and whose entries are called `element`.
fn entries(xml: &[u8], root: &str, element: &str) -> Result<Vec<Entry>> {
    let text = std::str::from_utf8(xml).context("not UTF-8")?;
    let mut reader = Reader::from_str(text);
    let mut entries: Vec<Entry> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut content = String::new();
    let mut rooted = false;
    loop {
        match reader.read_event().with_context(|| format!("at byte {}", reader.buffer_position()))? {
            Event::Start(start) => {
                let name = start.name().as_ref().to_owned();
                if path.is_empty() {
                    let namespace = start.try_get_attribute("xmlns")?.context("the root has no namespace")?;
                    ensure!(namespace.value == NAMESPACE, "the root's namespace is not {NAMESPACE}");
                    ensure!(name == root, "the root is {name}, not {root}");
                    rooted = true;
                }
                if path.len() == 1 && name == element {
                    entries.push(Entry::default());
                }
                path.push(name);
                content.clear();
            }
            Event::Text(part) => content.push_str(&part),
            Event::GeneralRef(reference) => content.push(resolve(&reference)?),
            Event::End(_) => {
                let inside = path.len() == 3;
                let name = path.pop().context("an end without a start")?;
                match entries.last_mut() {
                    Some(entry) if inside && name == "loc" => entry.loc = std::mem::take(&mut content),
                    Some(entry) if inside && name == "lastmod" => entry.lastmod = Some(std::mem::take(&mut content)),
                    _ => {}
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    ensure!(rooted && path.is_empty(), "the file ends inside {path:?}");
    ensure!(entries.iter().all(|entry| !entry.loc.is_empty()), "an entry without loc");
    Ok(entries)
}

/// One of the five entities that XML knows by itself.
fn resolve(name: &str) -> Result<char> {
    Ok(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        other => bail!("entity &{other}; is none of the five"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urlset(body: &str) -> String {
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<urlset xmlns=\"{NAMESPACE}\">{body}</urlset>")
    }

    #[test]
    fn entities_are_resolved_and_lastmod_read() {
        let xml = urlset("<url><loc>https://a.example/g++?a=1&amp;b=~</loc><lastmod>2026-01-02</lastmod></url>");
        let entries = entries(xml.as_bytes(), "urlset", "url").unwrap();
        let lastmod = Some("2026-01-02".to_owned());
        assert_eq!(entries, [Entry { loc: "https://a.example/g++?a=1&b=~".to_owned(), lastmod }]);
        check_loc(&entries[0].loc).unwrap();
    }

    #[test]
    fn a_bare_ampersand_a_cut_file_and_a_wrong_root_are_refused() {
        let bare = urlset("<url><loc>https://a.example/?a&b=1</loc></url>");
        assert!(entries(bare.as_bytes(), "urlset", "url").is_err());
        let whole = urlset("<url><loc>https://a.example/</loc></url>");
        assert!(entries(whole.as_bytes(), "urlset", "url").is_ok());
        assert!(entries(&whole.as_bytes()[..whole.len() - 5], "urlset", "url").is_err());
        assert!(entries(whole.as_bytes(), "sitemapindex", "sitemap").is_err());
    }

    #[test]
    fn a_loc_that_should_have_been_escaped_is_refused() {
        assert!(check_loc("https://a.example/a b").is_err());
        assert!(check_loc("/a").is_err());
    }
}
