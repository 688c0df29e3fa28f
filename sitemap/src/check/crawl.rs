//! A sitemap on the web, from robots.txt to the last shard.

use super::document::{SHARD, origin};
use super::{Check, Findings, Place, Watch, kind};
use crate::keys;
use crate::robots::{self, Robots};
use crate::web::{Answer, Web, WebError};
use crate::xml;
use http::header;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::sync::Arc;

/// Sites whose robots.txt is fetched and kept.
pub(super) const SITES_MAX: usize = 100;

/// The robots.txt of every site that was asked for, fetched once.
pub(super) struct Sites<'a> {
    web: &'a Web,
    known: HashMap<String, Option<Arc<Robots>>>,
}

impl<'a> Sites<'a> {
    pub(super) fn new(web: &'a Web) -> Self {
        Self { web, known: HashMap::new() }
    }

    /// What the site at `origin` allows; nothing where it has no robots.txt or cannot be asked.
    pub(super) async fn robots(&mut self, origin: &str, findings: &mut Findings) -> Option<Arc<Robots>> {
        if let Some(known) = self.known.get(origin) {
            return known.clone();
        }
        if self.known.len() >= SITES_MAX {
            findings.note(format!("the pages are on more than {SITES_MAX} hosts; robots.txt of the rest was not read"));
            return None;
        }
        let robots = fetch_robots(self.web, origin, findings).await.map(Arc::new);
        self.known.insert(origin.to_owned(), robots.clone());
        robots
    }
}

async fn fetch_robots(web: &Web, origin: &str, findings: &mut Findings) -> Option<Robots> {
    let url = format!("{origin}/robots.txt");
    let answer = match web.get(&url).await {
        Ok(answer) => answer,
        Err(error) => {
            findings.fault(&url, 0, format!("{error}: search engines fetch nothing while that is so"));
            return None;
        }
    };
    match answer.status {
        200 => {}
        429 | 500.. => {
            let status = answer.status;
            findings.fault(&url, 0, format!("answers {status}: search engines fetch nothing while that is so"));
            return None;
        }
        status => {
            findings.note(format!("{url} answers {status}, so everything is allowed, and it names no sitemap"));
            return None;
        }
    }
    match answer.first_bytes(robots::BYTES_MAX + 1).await {
        Ok(text) => {
            if text.len() > robots::BYTES_MAX {
                findings.fault(
                    &url,
                    0,
                    format!("is longer than {} bytes: what is behind is not read", robots::BYTES_MAX),
                );
            }
            Some(Robots::parse(&text))
        }
        Err(error) => {
            findings.fault(&url, 0, error.to_string());
            None
        }
    }
}

/// Checks the sitemap at `url`.
pub(super) async fn live(check: &mut Check, web: &Web, url: &str, watch: &Watch<'_>) {
    let Some(home) = origin(url) else {
        return check.findings.fault(url, 0, "is no address of http or https".to_owned());
    };
    let mut sites = Sites::new(web);
    let robots = sites.robots(&home, &mut check.findings).await;
    if robots.as_ref().is_some_and(|robots| !robots.names(url)) {
        check.findings.note(format!("{home}/robots.txt does not name the sitemap: add the line Sitemap: {url}"));
    }
    index_or_shard(check, web, &mut sites, url, watch).await;
    for other in robots.iter().flat_map(|robots| beside(url, robots)) {
        index_or_shard(check, web, &mut sites, &other, watch).await;
    }
    check.fetch_sample(web, &mut sites).await;
}

/// The other indexes of the sitemap whose index `url` is: those that `robots` names beside it, by number.
fn beside(url: &str, robots: &Robots) -> Vec<String> {
    let number = |url: &str| keys::index_number(url.rsplit('/').next().unwrap_or_default());
    let Some(own) = number(url) else { return Vec::new() };
    let named = robots.sitemaps.iter().map(|(_, named)| named).filter(|named| below(named) == below(url));
    let numbered: BTreeMap<u32, &String> = named.filter_map(|named| Some((number(named)?, named))).collect();
    numbered.into_iter().filter(|(number, _)| *number != own).map(|(_, named)| named.clone()).collect()
}

async fn index_or_shard(check: &mut Check, web: &Web, sites: &mut Sites<'_>, url: &str, watch: &Watch<'_>) {
    let Some(mut input) = fetch(check, web, url, (url, 0)).await else { return };
    if kind(&mut input) == &SHARD {
        return shard(check, sites, url, &[url], input).await;
    }
    for (line, loc) in check.index(url, input) {
        if below(url).is_some_and(|below| !loc.starts_with(below)) {
            let told = "is not in the directory of the index or below, where crawlers take files from";
            check.findings.fault(url, line, format!("{loc} {told}"));
        }
        if let Some(input) = fetch(check, web, &loc, (url, line)).await {
            shard(check, sites, &loc, &[url, &loc], input).await;
        }
        watch(check.progress());
    }
}

/// Reads the shard at `url`; `named_by` are the addresses by which a robots.txt may name it.
async fn shard(check: &mut Check, sites: &mut Sites<'_>, url: &str, named_by: &[&str], input: impl BufRead) {
    let home = origin(url);
    check.shard(&Place { name: url, origin: home.as_deref(), below: below(url) }, input);
    let mut trusted = Vec::new();
    for host in check.misplaced.keys().cloned().collect::<Vec<_>>() {
        let robots = sites.robots(&host, &mut check.findings).await;
        if robots.is_some_and(|robots| named_by.iter().any(|url| robots.names(url))) {
            trusted.push(host);
        }
    }
    check.misplaced_are_faults(url, &trusted);
}

/// Fetches a file of the sitemap and holds its headers against the rules. `named_at` is where it is named.
async fn fetch(check: &mut Check, web: &Web, url: &str, named_at: (&str, usize)) -> Option<Box<dyn BufRead + Send>> {
    match download(check, web, url).await {
        Ok(input) => {
            check.files += 1;
            Some(input)
        }
        Err(problem) => {
            let (file, line) = named_at;
            let problem = if file == url { problem } else { format!("names {url}, which {problem}") };
            check.findings.fault(file, line, problem);
            None
        }
    }
}

async fn download(check: &mut Check, web: &Web, url: &str) -> Result<Box<dyn BufRead + Send>, String> {
    let failed = |error: WebError| format!("cannot be fetched: {error}");
    let answer = web.get(url).await.map_err(failed)?;
    if let Some((status, to)) = answer.redirects.last() {
        check.findings.note(format!("{url} redirects ({status}) to {to}: name that instead"));
    }
    match answer.status {
        200 => {}
        403 => return Err("answers 403: it is forbidden, or (on S3 without the right to list) not there".to_owned()),
        status => return Err(format!("answers {status}")),
    }
    let header = |name| answer.header(name).unwrap_or_default().trim().to_ascii_lowercase();
    let (kind, encoding) = (header(header::CONTENT_TYPE), header(header::CONTENT_ENCODING));
    let mut file = tempfile::tempfile().map_err(|error| format!("cannot be kept: {error}"))?;
    save(answer, &mut file).await.map_err(failed)?;
    headers(check, url, &kind, &encoding, file).map_err(|error| format!("cannot be read: {error}"))
}

async fn save(answer: Answer, file: &mut File) -> Result<(), WebError> {
    answer.save(xml::BYTES_MAX, file).await.map(drop)
}

/// Takes off what Content-Encoding says, and holds what is below against Content-Type.
fn headers(
    check: &mut Check,
    url: &str,
    kind: &str,
    encoding: &str,
    mut file: File,
) -> std::io::Result<Box<dyn BufRead + Send>> {
    let mut fault = |problem: String| check.findings.fault(url, 0, problem);
    file.rewind()?;
    let mut input: Box<dyn BufRead + Send> = match encoding {
        "" | "identity" => Box::new(BufReader::new(file)),
        "gzip" | "x-gzip" => {
            let mut file = BufReader::new(file);
            if is_gzip(file.fill_buf()?) {
                Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file)))
            } else {
                fault("has Content-Encoding: gzip, and its bytes are not packed".to_owned());
                Box::new(file)
            }
        }
        other => {
            fault(format!("has Content-Encoding: {other}, which was not asked for"));
            Box::new(BufReader::new(file))
        }
    };
    let first = input.fill_buf()?;
    let packed = is_gzip(first);
    let page = first
        .trim_ascii_start()
        .get(..5)
        .is_some_and(|begin| begin.eq_ignore_ascii_case(b"<html") || begin.eq_ignore_ascii_case(b"<!doc"));
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if page {
        fault(format!("is a web page ({kind}), not a sitemap"));
    } else if packed && !encoding.is_empty() && encoding != "identity" {
        fault("is packed twice: its bytes are gzip, and Content-Encoding says so once more".to_owned());
    } else if packed && !matches!(kind, "application/gzip" | "application/x-gzip" | "application/octet-stream") {
        fault(format!("is packed, and its Content-Type is {kind:?}, not application/gzip"));
    } else if !packed && !matches!(kind, "application/xml" | "text/xml") {
        fault(format!("is XML, and its Content-Type is {kind:?}, not application/xml"));
    }
    if packed {
        return Ok(Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(input))));
    }
    Ok(input)
}

fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// An address up to its last slash: what a sitemap there may speak for.
fn below(url: &str) -> Option<&str> {
    url.rfind('/').map(|at| &url[..=at])
}
