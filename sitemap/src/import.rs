//! Takes over a sitemap that something else made: the names of its files and which pages each holds, as far as they can
//! be kept, so that search engines see the files that they know. Where they lie in a bucket, see [`take_over`].
//!
//! A file can be kept where its key range (its first to its last address) meets no other file's. What overlaps cannot:
//! its pages go to the neighbours or to new files, and that is told before anything is written.

mod bucket;

pub use bucket::{FILES_MAX, TakenOver, Takeover, TakeoverError, take_over};

use crate::build::{self, BuildError, Built, Options, Packing, Standing, hex, index_time};
use crate::check;
use crate::columns::Columns;
use crate::difference::{Difference, DifferenceError, Page, differences};
use crate::keys;
use crate::lastmod;
use crate::manifest::{Manifest, Shard};
use crate::pages::Policy;
use crate::select::Select;
use crate::web::{Web, WebError};
use crate::xml;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// It is larger than what can be read in time.
    #[error("{url} names {files} files: at most {files_max} can be taken over here")]
    TooMany {
        /// The index.
        url: String,
        /// How many it names.
        files: usize,
        /// How many there may be.
        files_max: usize,
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
#[derive(Debug, Default)]
pub struct Found {
    /// The addresses of its indexes, or of its only file, on this machine paths; each with a copy.
    pub tops: Vec<(String, PathBuf)>,
    files: Vec<FoundFile>,
}

/// One of its files.
#[derive(Clone, Debug)]
struct FoundFile {
    /// Its address, as the index names it.
    url: String,
    file: String,
    /// A copy of it.
    path: PathBuf,
    /// When the index says that it changed.
    changed_at: String,
    /// ETag and version of the object that it is, where it lies in the site's bucket.
    object: Option<(String, Option<String>)>,
    /// Why it cannot be kept, where its place tells.
    problem: Option<String>,
}

impl FoundFile {
    fn new(url: &str, path: PathBuf, changed_at: String) -> Self {
        Self { url: url.to_owned(), file: file_name(url), path, changed_at, object: None, problem: None }
    }

    /// Whether it has a name that a file of ours can have.
    fn is_plain(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let free = !self.file.is_empty() && !self.file.starts_with('.') && keys::index_number(&self.file).is_none();
        free && self.file.bytes().all(plain)
    }

    /// When it changed, as far as that is told as a time.
    fn changed(&self) -> Option<&str> {
        lastmod::instant(self.changed_at.as_bytes()).map(|_| self.changed_at.as_str())
    }
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
    /// The files that are not kept and hold pages of the site.
    #[serde(skip)]
    left: Vec<FoundFile>,
    /// All pages, as a page list.
    #[serde(skip)]
    pages: PathBuf,
}

/// How the sitemap that was found differs from the one that a page list makes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

/// Fetches the sitemap at `urls`, its indexes of at most `files_max` files or its one shard, into `work_dir`.
///
/// # Errors
/// An [`ImportError`].
pub async fn fetch(web: &Web, urls: &[String], files_max: usize, work_dir: &Path) -> Result<Found, ImportError> {
    let (mut found, mut seen) = (Found::default(), HashSet::new());
    for (at, url) in urls.iter().enumerate() {
        let top = work_dir.join(format!("index-{at}"));
        download(web, url, &top).await?;
        let new = found.top(url, top, &mut seen)?;
        let files = found.files.len() + new.len();
        if files > files_max {
            return Err(ImportError::TooMany { url: url.clone(), files, files_max });
        }
        for (loc, changed_at) in new {
            let path = work_dir.join(format!("{:05}", found.files.len()));
            download(web, &loc, &path).await?;
            found.files.push(FoundFile::new(&loc, path, changed_at));
        }
    }
    Ok(found)
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
    let (mut found, mut seen) = (Found::default(), HashSet::new());
    for index in indexes {
        for (loc, changed_at) in found.top(&index.display().to_string(), index.clone(), &mut seen)? {
            let beside = index.with_file_name(file_name(&loc));
            found.files.push(FoundFile::new(&loc, beside, changed_at));
        }
    }
    Ok(found)
}

impl Found {
    /// Takes the index at `url`, of which `copy` is a copy, and gives the files that it names and none of `seen` was: each
    /// with the time when it changed. A shard in its place is a file of its own.
    fn top(
        &mut self,
        url: &str,
        copy: PathBuf,
        seen: &mut HashSet<String>,
    ) -> Result<Vec<(String, String)>, ImportError> {
        let listed = check::listed(&copy).map_err(io_error(&copy))?;
        if listed.is_none() {
            self.files.push(FoundFile::new(url, copy.clone(), String::new()));
        }
        self.tops.push((url.to_owned(), copy));
        Ok(listed.into_iter().flatten().filter(|(loc, _)| seen.insert(loc.clone())).collect())
    }
}

fn file_name(address: &str) -> String {
    let path = address.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// One file's key range and counts, as it was found.
struct Range {
    found: FoundFile,
    first: String,
    last: String,
    urls: u32,
}

/// Reads all that was `found` and says what a site with `options` can keep of it. Works in `work_dir`.
///
/// # Errors
/// An [`ImportError`].
pub fn read(found: Found, options: &Options, work_dir: &Path) -> Result<Import, ImportError> {
    let addresses = options.policy.addresses().map_err(BuildError::from)?;
    let pages = work_dir.join("pages.csv");
    let mut out = BufWriter::new(File::create(&pages).map_err(io_error(&pages))?);
    out.write_all(b"loc,lastmod\n").map_err(io_error(&pages))?;
    let (mut ranges, mut urls, mut foreign) = (Vec::new(), 0, 0);
    for found in found.files {
        let (mut first, mut last, mut count) = (String::new(), String::new(), 0_u32);
        let mut failed = Ok(());
        let mut take = |loc: &str, lastmod: &str| {
            let mut key = Vec::new();
            if addresses.resolve(loc.as_bytes(), &mut key).is_err() {
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
        check::pages(&found.path, &mut take).map_err(io_error(&found.path))?;
        failed.map_err(io_error(&pages))?;
        urls += u64::from(count);
        ranges.push(Range { found, first, last, urls: count });
    }
    out.flush().map_err(io_error(&pages))?;
    if urls == 0 {
        return Err(ImportError::Empty(found.tops.into_iter().map(|(url, _)| url).collect::<Vec<_>>().join(", ")));
    }
    let (kept, others) = sort_out(ranges, options.packing);
    let mut manifest = manifest(&kept, options)?;
    // New files get numbers that no old name has.
    let names = kept.iter().chain(others.iter().map(|(range, _)| range)).map(|range| &range.found.file);
    manifest.next_number = names.map(|file| keys::number_after(file)).fold(manifest.next_number, u64::max);
    let kept = kept.into_iter().map(|range| range.found.file).collect();
    let not_kept = others.iter().map(|(range, reason)| (range.found.file.clone(), reason.clone())).collect();
    let left = others.into_iter().filter(|(range, _)| range.urls > 0).map(|(range, _)| range.found).collect();
    Ok(Import { kept, not_kept, urls, foreign, manifest, left, pages })
}

/// Those whose names and ranges can be kept, by key range; and the rest, with the reason.
fn sort_out(mut ranges: Vec<Range>, packing: Packing) -> (Vec<Range>, Vec<(Range, String)>) {
    ranges.sort_by(|a, b| (&a.first, &a.found.file).cmp(&(&b.first, &b.found.file)));
    let (mut reasons, mut reach) = (vec![None; ranges.len()], None::<usize>);
    for at in 0..ranges.len() {
        let range = &ranges[at];
        let Range { found, .. } = range;
        if range.urls == 0 {
            reasons[at] = Some("holds no page of the site".to_owned());
            continue;
        } else if !found.is_plain() {
            reasons[at] = Some("has a name that a file of ours cannot have".to_owned());
        } else if let Some(problem) = &found.problem {
            reasons[at] = Some(problem.clone());
        } else if found.file.ends_with(".gz") != (packing == Packing::Gzip) {
            reasons[at] = Some("is packed otherwise than this site's files are to be".to_owned());
        } else if ranges[..at].iter().any(|before| before.found.file == found.file) {
            reasons[at] = Some("has the name of another file in another folder".to_owned());
        }
        if let Some(before) = reach.filter(|before| ranges[*before].last >= range.first) {
            let overlap = |other: &str| format!("its pages lie among those of {other}");
            reasons[at].get_or_insert_with(|| overlap(&ranges[before].found.file));
            let file = found.file.clone();
            reasons[before].get_or_insert_with(|| overlap(&file));
        }
        if reach.is_none_or(|before| ranges[before].last < range.last) {
            reach = Some(at);
        }
    }
    let (mut kept, mut not_kept) = (Vec::new(), Vec::new());
    for (range, reason) in ranges.into_iter().zip(reasons) {
        match reason {
            Some(reason) => not_kept.push((range, reason)),
            None => kept.push(range),
        }
    }
    (kept, not_kept)
}

/// A manifest that knows the kept files. Their row hashes are unknown, so the first build writes each once.
fn manifest(kept: &[Range], options: &Options) -> Result<Manifest, ImportError> {
    let mut manifest = Manifest::empty(options.policy.base.as_str());
    let now = index_time(options.policy.now_ms);
    for range in kept {
        let found = &range.found;
        let bytes = fs::read(&found.path).map_err(io_error(&found.path))?;
        let changed_at = found.changed().unwrap_or(&now).to_owned();
        let (stamp, version) = found.object.clone().unzip();
        manifest.shards.push(Shard {
            file: found.file.clone(),
            lower: if manifest.shards.is_empty() { String::new() } else { range.first.clone() },
            last: range.last.clone(),
            urls: range.urls,
            xml_bytes: 0,
            rows_hash: String::new(),
            file_bytes: bytes.len() as u64,
            file_hash: hex(XxHash3_128::oneshot(&bytes)),
            stamp,
            version: version.flatten(),
            changed_at,
            // The first build gives each one its index.
            index: 1,
        });
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
    compare_with(import, &built_anew(inputs, &comparable(options), &work_dir.join("here"))?, options, work_dir)
}

/// `options` for shards that are only compared, by the addresses of their pages.
fn comparable(options: &Options) -> Options {
    Options {
        policy: Policy { sort_key: false, ..options.policy.clone() },
        packing: Packing::Plain,
        drop_percent_max: 100,
        kinds_drop_percent_max: BTreeMap::new(),
        ..options.clone()
    }
}

fn built_anew(inputs: &[PathBuf], options: &Options, dir: &Path) -> Result<Built, BuildError> {
    let standing = Standing { intact: &|_| false, strays: &[] };
    let empty = Manifest::empty(options.policy.base.as_str());
    build::from_files(inputs, &empty, dir, options, standing).map(|(built, _)| built)
}

/// As [`compare`], with what was `built` anew with [`comparable`] options.
fn compare_with(import: &Import, built: &Built, options: &Options, work_dir: &Path) -> Result<Comparison, ImportError> {
    // The old pages are a list of ours, and all of them count, whatever a row of the site must be.
    let policy =
        Policy { columns: Columns::default(), select: Select::default(), others: Vec::new(), ..options.policy.clone() };
    let options = Options { policy, ..comparable(options) };
    let before = built_anew(std::slice::from_ref(&import.pages), &options, &work_dir.join("there"))?;
    let (old, there) = staged(&before);
    let (new, here) = staged(built);
    let mut comparison = Comparison::default();
    let mut take = |difference, before: Option<&Page>, after: Option<&Page>| {
        comparison.take(difference, before, after);
        Ok(())
    };
    let mut read_there = |file: &str| fs::read(there[file]);
    let mut read_here = |file: &str| fs::read(here[file]);
    differences((&old, &mut read_there), (&new, &mut read_here), &mut take)
        .map_err(|error: DifferenceError<io::Error>| ImportError::Compare(error.to_string()))?;
    let both = before.manifest.urls().saturating_sub(comparison.only_there);
    comparison.same = both.saturating_sub(comparison.lastmod_differs);
    Ok(comparison)
}

/// The files that were made, in order, and where each lies.
fn staged(built: &Built) -> (Vec<String>, HashMap<&str, &Path>) {
    let files = built.changes.iter().map(|change| change.file.clone()).collect();
    (files, built.changes.iter().map(|change| (change.file.as_str(), change.staged.as_path())).collect())
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
