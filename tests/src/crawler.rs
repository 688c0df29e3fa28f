//! A crawler of a sitemap that lies in a bucket of the local cloud: it fetches the index and every file that it names, as
//! anybody may, without a signature.

use anyhow::{Context as _, Result, ensure};
use quick_xml::events::Event;
use std::collections::BTreeMap;
use std::io::Read as _;

/// Bytes of a file that are taken.
const BYTES_MAX: u64 = 64 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crawled {
    /// The files that the index names, as they came.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What the index says of each file: when it changed.
    pub changed_at: BTreeMap<String, String>,
    /// Every page with its lastmod, in order.
    pub pages: Vec<(String, String)>,
}

impl Crawled {
    /// The addresses of the pages.
    pub fn locs(&self) -> impl Iterator<Item = &str> {
        self.pages.iter().map(|(loc, _)| loc.as_str())
    }
}

/// Crawls what lies under `folder`, an address that ends in `/`; `index` is the index's name. Nothing where there is none.
///
/// # Errors
/// Where a file that the index names is not there, or is no sitemap.
pub fn crawl(folder: &str, index: &str) -> Result<Crawled> {
    let mut crawled = Crawled::default();
    let Some(bytes) = fetch(&format!("{folder}{index}"))? else { return Ok(crawled) };
    for (loc, changed_at) in elements(&bytes, "sitemap").context("the index")? {
        let file = loc.rsplit('/').next().unwrap_or_default().to_owned();
        let (bytes, xml) = shard(&format!("{folder}{file}"))?;
        let pages = elements(&xml, "url").with_context(|| file.clone())?;
        ensure!(!pages.is_empty(), "{file} holds no page");
        crawled.pages.extend(pages);
        crawled.changed_at.insert(file.clone(), changed_at);
        crawled.files.insert(file, bytes);
    }
    crawled.pages.sort();
    Ok(crawled)
}

/// Counts the files and the pages of a sitemap that may be too large to be held.
///
/// # Errors
/// As [`crawl`].
pub fn count(folder: &str, index: &str) -> Result<(usize, usize)> {
    let bytes = fetch(&format!("{folder}{index}"))?.context("there is no index")?;
    let (mut files, mut pages) = (0, 0);
    for (loc, _) in elements(&bytes, "sitemap").context("the index")? {
        let (_, xml) = shard(&format!("{folder}{}", loc.rsplit('/').next().unwrap_or_default()))?;
        files += 1;
        pages += xml.windows(5).filter(|bytes| bytes == b"<loc>").count();
    }
    Ok((files, pages))
}

/// A file that the index names, packed and unpacked.
fn shard(url: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let bytes = fetch(url)?.with_context(|| format!("the index names {url}, which is not there"))?;
    let mut xml = Vec::new();
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut xml).with_context(|| url.to_owned())?;
    Ok((bytes, xml))
}

fn fetch(url: &str) -> Result<Option<Vec<u8>>> {
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    let mut answer = config.build().new_agent().get(url).call().with_context(|| url.to_owned())?;
    match answer.status().as_u16() {
        200 => Ok(Some(answer.body_mut().with_config().limit(BYTES_MAX).read_to_vec()?)),
        403 | 404 => Ok(None),
        status => anyhow::bail!("{url} answers {status}"),
    }
}

/// Of each `item` what stands in its loc and lastmod.
fn elements(xml: &[u8], item: &str) -> Result<Vec<(String, String)>> {
    let (mut reader, mut found, mut path) = (quick_xml::Reader::from_reader(xml), Vec::new(), Vec::new());
    loop {
        let text = match reader.read_event()? {
            Event::Start(start) => {
                path.push(start.name().as_ref().to_owned());
                if path.len() == 2 && path[1] == item {
                    found.push((String::new(), String::new()));
                }
                continue;
            }
            Event::End(_) => {
                path.pop();
                continue;
            }
            Event::Eof => break,
            Event::Text(text) => text[..].to_owned(),
            Event::GeneralRef(name) => quick_xml::escape::unescape(&format!("&{};", &name[..]))?.into_owned(),
            _ => continue,
        };
        if let (Some((loc, lastmod)), [_, _, name]) = (found.last_mut(), path.as_slice()) {
            match name.as_str() {
                "loc" => loc.push_str(&text),
                "lastmod" => lastmod.push_str(&text),
                _ => {}
            }
        }
    }
    ensure!(path.is_empty(), "it ends in the middle");
    Ok(found)
}
