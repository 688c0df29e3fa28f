//! Takes over a sitemap that something else made: the names of its files and which pages each holds, as far as they can
//! be kept, so that search engines see the files that they know.
//!
//! A file can be kept where its key range (its first to its last address) meets no other file's. What overlaps cannot:
//! its pages go to the neighbours or to new files, and that is told before anything is written.

use crate::build::{self, BuildError, Options, Packing, Standing, hex};
use crate::check;
use crate::difference::{Difference, DifferenceError, Page, differences};
use crate::keys;
use crate::lastmod;
use crate::manifest::{Manifest, Shard};
use crate::web::{Web, WebError};
use crate::xml;
use serde::Serialize;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use twox_hash::XxHash3_128;

/// Examples of each difference.
const SAMPLES_MAX: usize = 5;

/// Why a sitemap could not be taken over. Nothing was written then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file of it cannot be fetched.
    #[error(transparent)]
    Web(#[from] WebError),
    /// It answers with something else.
    #[error("{url} answers {status}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// A file cannot be read or written.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("{0} names no page that belongs to the site")]
    Empty(String),
    /// Building for the comparison failed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The two sides could not be compared.
    #[error("the sitemaps cannot be compared: {0}")]
    Compare(String),
}

/// A sitemap that was read, with its files as they lie on this machine.
#[derive(Debug)]
pub struct Found {
    /// Name and path of each file, and when the index says that it changed.
    files: Vec<(String, PathBuf, String)>,
    /// What it is called, for messages.
    name: String,
}

/// What can be taken over, and what cannot.
#[derive(Debug, Serialize)]
pub struct Import {
    /// Files that keep their names and their pages.
    pub kept: Vec<String>,
    /// Files that cannot be kept, and why.
    pub not_kept: Vec<(String, String)>,
    /// Pages that were read.
    pub urls: u64,
    /// Pages that cannot be in a sitemap of this site.
    pub foreign: u64,
    /// The manifest to start from.
    #[serde(skip)]
    pub manifest: Manifest,
    /// All pages, as a page list.
    #[serde(skip)]
    pages: PathBuf,
}

/// How the sitemap that was found differs from the one that a page list makes.
#[derive(Debug, Default, Serialize)]
pub struct Comparison {
    /// Pages in both, with equal lastmod.
    pub same: u64,
    /// Pages in the old one alone.
    pub only_there: u64,
    /// Pages in the new one alone.
    pub only_here: u64,
    /// Pages in both with another lastmod.
    pub lastmod_differs: u64,
    /// A few of each, in words.
    pub samples: Vec<String>,
}

/// Fetches the sitemap at `urls`, its indexes or its one shard, into `work_dir`.
///
/// # Errors
/// An [`ImportError`].
pub async fn fetch(web: &Web, urls: &[String], work_dir: &Path) -> Result<Found, ImportError> {
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    for (at, url) in urls.iter().enumerate() {
        let top = work_dir.join(format!("index-{at}"));
        download(web, url, &top).await?;
        let Some(listed) = check::listed(&top).map_err(io_error(&top))? else {
            files.push((file_name(url), top, String::new()));
            continue;
        };
        for (loc, changed_at) in listed.into_iter().filter(|(loc, _)| seen.insert(loc.clone())) {
            let path = work_dir.join(format!("{:05}", files.len()));
            download(web, &loc, &path).await?;
            files.push((file_name(&loc), path, changed_at));
        }
    }
    Ok(Found { files, name: urls.join(", ") })
}

async fn download(web: &Web, url: &str, path: &Path) -> Result<(), ImportError> {
    let answer = web.get(url).await?;
    if answer.status != 200 {
        return Err(ImportError::Status { url: url.to_owned(), status: answer.status });
    }
    let mut out = File::create(path).map_err(io_error(path))?;
    answer.save(xml::BYTES_MAX, &mut out).await?;
    Ok(())
}

/// Finds the local sitemap whose indexes (or only shard) lie at `indexes`.
///
/// # Errors
/// Where an index cannot be read.
pub fn local(indexes: &[PathBuf]) -> Result<Found, ImportError> {
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    for index in indexes {
        let Some(listed) = check::listed(index).map_err(io_error(index))? else {
            files.push((file_name(&index.display().to_string()), index.clone(), String::new()));
            continue;
        };
        for (loc, changed_at) in listed.into_iter().filter(|(loc, _)| seen.insert(loc.clone())) {
            let file = file_name(&loc);
            files.push((file.clone(), index.with_file_name(&file), changed_at));
        }
    }
    let names: Vec<String> = indexes.iter().map(|index| index.display().to_string()).collect();
    Ok(Found { files, name: names.join(", ") })
}

fn file_name(address: &str) -> String {
    let path = address.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// One file's key range and counts, as it was found.
struct Range {
    file: String,
    path: PathBuf,
    changed_at: String,
    first: String,
    last: String,
    urls: u32,
}

/// Reads all that was `found` and says what a site with `options` can keep of it. Works in `work_dir`.
///
/// # Errors
/// An [`ImportError`].
pub fn read(found: Found, options: &Options, work_dir: &Path) -> Result<Import, ImportError> {
    let pages = work_dir.join("pages.csv");
    let mut out = BufWriter::new(File::create(&pages).map_err(io_error(&pages))?);
    out.write_all(b"loc,lastmod\n").map_err(io_error(&pages))?;
    let (mut ranges, mut urls, mut foreign) = (Vec::new(), 0, 0);
    for (file, path, changed_at) in found.files {
        let (mut first, mut last, mut count) = (String::new(), String::new(), 0_u32);
        let mut failed = Ok(());
        let mut take = |loc: &str, lastmod: &str| {
            let mut key = Vec::new();
            if options.policy.base.resolve(loc.as_bytes(), &mut key).is_err() {
                foreign += 1;
                return;
            }
            let key = String::from_utf8_lossy(&key).into_owned();
            let written = writeln!(out, "\"{}\",{}", key.replace('"', "\"\""), lastmod.replace([',', '"', '\n'], " "));
            if failed.is_ok() {
                failed = written;
            }
            count += 1;
            if first.is_empty() || key < first {
                first.clone_from(&key);
            }
            if key > last {
                last = key;
            }
        };
        check::pages(&path, &mut take).map_err(io_error(&path))?;
        failed.map_err(io_error(&pages))?;
        urls += u64::from(count);
        ranges.push(Range { file, path, changed_at, first, last, urls: count });
    }
    out.flush().map_err(io_error(&pages))?;
    if urls == 0 {
        return Err(ImportError::Empty(found.name));
    }
    let (kept, not_kept) = sort_out(ranges, options.packing);
    let manifest = manifest(&kept, options)?;
    let kept = kept.into_iter().map(|range| range.file).collect();
    Ok(Import { kept, not_kept, urls, foreign, manifest, pages })
}

/// Those whose names and ranges can be kept, by key range; and the rest, with the reason.
fn sort_out(mut ranges: Vec<Range>, packing: Packing) -> (Vec<Range>, Vec<(String, String)>) {
    ranges.sort_by(|a, b| (&a.first, &a.file).cmp(&(&b.first, &b.file)));
    let (mut reasons, mut reach) = (vec![None; ranges.len()], None::<usize>);
    for at in 0..ranges.len() {
        let range = &ranges[at];
        let plain = !range.file.starts_with('.')
            && range.file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if range.urls == 0 {
            reasons[at] = Some("holds no page of the site".to_owned());
            continue;
        } else if !plain || range.file.is_empty() || keys::index_number(&range.file).is_some() {
            reasons[at] = Some("has a name that a file of ours cannot have".to_owned());
        } else if range.file.ends_with(".gz") != (packing == Packing::Gzip) {
            reasons[at] = Some("is packed otherwise than this site's files are to be".to_owned());
        } else if ranges[..at].iter().any(|before| before.file == range.file) {
            reasons[at] = Some("has the name of another file in another folder".to_owned());
        }
        if let Some(before) = reach.filter(|before| ranges[*before].last >= range.first) {
            let overlap = |other: &str| format!("its pages lie among those of {other}");
            reasons[at].get_or_insert_with(|| overlap(&ranges[before].file));
            let file = range.file.clone();
            reasons[before].get_or_insert_with(|| overlap(&file));
        }
        if reach.is_none_or(|before| ranges[before].last < range.last) {
            reach = Some(at);
        }
    }
    let (mut kept, mut not_kept) = (Vec::new(), Vec::new());
    for (range, reason) in ranges.into_iter().zip(reasons) {
        match reason {
            Some(reason) => not_kept.push((range.file, reason)),
            None => kept.push(range),
        }
    }
    (kept, not_kept)
}

/// A manifest that knows the kept files. Their row hashes are unknown, so the first build writes each once.
fn manifest(kept: &[Range], options: &Options) -> Result<Manifest, ImportError> {
    let mut manifest = Manifest::empty(options.policy.base.as_str());
    let now = jiff::Timestamp::from_second(options.policy.now_ms.div_euclid(1000)).map(|at| at.to_string());
    for range in kept {
        let bytes = fs::read(&range.path).map_err(io_error(&range.path))?;
        let is_time = lastmod::instant(range.changed_at.as_bytes()).is_some();
        let changed_at = if is_time { range.changed_at.clone() } else { now.clone().unwrap_or_default() };
        manifest.shards.push(Shard {
            file: range.file.clone(),
            lower: if manifest.shards.is_empty() { String::new() } else { range.first.clone() },
            last: range.last.clone(),
            urls: range.urls,
            xml_bytes: 0,
            rows_hash: String::new(),
            file_bytes: bytes.len() as u64,
            file_hash: hex(XxHash3_128::oneshot(&bytes)),
            stamp: None,
            version: None,
            changed_at,
            // The first build gives each one its index.
            index: 1,
        });
        // New files get numbers that no old name has.
        manifest.next_number = manifest.next_number.max(keys::number_after(&range.file));
    }
    Ok(manifest)
}

/// Compares what was imported with the sitemap that `inputs` make. Works in `work_dir`.
///
/// # Errors
/// An [`ImportError`].
pub fn compare(
    import: &Import,
    inputs: &[PathBuf],
    options: &Options,
    work_dir: &Path,
) -> Result<Comparison, ImportError> {
    let options = Options { packing: Packing::Plain, drop_percent_max: 100, ..options.clone() };
    let make = |inputs: &[PathBuf], name: &str| {
        let dir = work_dir.join(name);
        let standing = Standing { intact: &|_| false, strays: &[] };
        let empty = Manifest::empty(options.policy.base.as_str());
        let (built, _) = build::from_files(inputs, &empty, &dir, &options, standing)?;
        let files: Vec<String> = built.manifest.shards.iter().map(|shard| shard.file.clone()).collect();
        Ok::<_, BuildError>((dir.join(keys::STAGING_DIR), files))
    };
    let (there, old) = make(std::slice::from_ref(&import.pages), "there")?;
    let (here, new) = make(inputs, "here")?;
    let mut comparison = Comparison::default();
    let mut take = |difference, before: Option<&Page>, after: Option<&Page>| {
        comparison.take(difference, before, after);
        Ok(())
    };
    let mut read_there = |file: &str| fs::read(there.join(file));
    let mut read_here = |file: &str| fs::read(here.join(file));
    differences((&old, &mut read_there), (&new, &mut read_here), &mut take)
        .map_err(|error: DifferenceError<io::Error>| ImportError::Compare(error.to_string()))?;
    comparison.same = import.urls.saturating_sub(comparison.only_there + comparison.lastmod_differs);
    Ok(comparison)
}

impl Comparison {
    fn take(&mut self, difference: Difference, before: Option<&Page>, after: Option<&Page>) {
        let (count, text) = match (difference, before, after) {
            (Difference::Removed, Some(page), _) => (&mut self.only_there, format!("only there: {}", page.loc)),
            (Difference::Added, _, Some(page)) => (&mut self.only_here, format!("only here: {}", page.loc)),
            (_, Some(before), Some(after)) if instant(&before.lastmod) != instant(&after.lastmod) => {
                let (loc, there, here) = (&after.loc, &before.lastmod, &after.lastmod);
                (&mut self.lastmod_differs, format!("lastmod differs: {loc}: {there:?} there, {here:?} here"))
            }
            _ => return,
        };
        *count += 1;
        if *count <= SAMPLES_MAX as u64 {
            self.samples.push(text);
        }
    }
}

/// Times are equal where they are one instant, however written.
fn instant(lastmod: &str) -> Option<jiff::Timestamp> {
    lastmod::instant(lastmod.as_bytes())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ImportError + use<> {
    let path = path.to_owned();
    move |source| ImportError::Io { path, source }
}
