//! A sitemap in a directory: `sitemap-index.xml`, its shards beside it, and the state in `.tidemark`.
//!
//! Promises: one run at a time; every file appears whole, by a rename; the manifest is written last and is the commit.

use crate::build::{self, BuildError, Built, Options, Standing, Stray, hex};
use crate::difference::DifferenceError;
use crate::keys;
use crate::manifest::{Manifest, ManifestError, Shard};
use crate::moves;
use crate::plan::Outlook;
use crate::publish::{self, INDEX_NEW, Locked, Manner, Place, PlaceError, Published};
use crate::report::Report;
use crate::source;
use crate::xml;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tidemark_runtime::clock::Clock;
use twox_hash::XxHash3_128;

/// What is told where the directory holds a sitemap that this does not know, as where its state was lost.
pub const UNKNOWN_FILES: &str = "a file of a sitemap that is not known here: it stays beside the new ones, and nobody guarded against a drop; remove it";

/// Why a local build did not finish.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The directory cannot be used.
    #[error("cannot use {path}: check that it is a directory that can be written")]
    Open {
        /// The directory or the file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another run is at work in it.
    #[error("another run is at work in {path}: wait for it to end")]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The manifest cannot be used.
    #[error("{path} cannot be used: restore it, or remove the directory's .tidemark to build everything anew")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The pass failed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Putting the files in place failed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The shards that are there cannot be compared.
    #[error("the shards in {path} cannot be compared with what would be there")]
    Compare {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        source: DifferenceError<io::Error>,
    },
}

/// What a local build did.
#[derive(Debug)]
pub struct Outcome {
    /// The account of the rows.
    pub report: Report,
    /// What was written.
    pub published: Published,
    /// The committed manifest.
    pub manifest: Manifest,
    /// Where rejected rows are listed.
    pub rejects: PathBuf,
}

/// What [`Directory::build`] would do in `root` with these inputs; nothing is written there. Works in `work_dir`.
///
/// # Errors
/// A [`DirectoryError`], also where building would be refused.
pub fn plan(
    root: &Path,
    inputs: &[PathBuf],
    options: &Options,
    work_dir: &Path,
) -> Result<(Outlook, Report), DirectoryError> {
    let directory = match root.join(keys::STATE_DIR).exists() {
        true => Some(Directory::open(root)?),
        false => None,
    };
    let base = options.policy.base.as_str();
    let (previous, strays) = match &directory {
        Some(directory) => (directory.manifest(base)?, directory.strays()?),
        None => (Manifest::empty(base), Vec::new()),
    };
    let intact = |shard: &Shard| directory.as_ref().is_some_and(|directory| directory.is_intact(shard));
    let standing = Standing { intact: &intact, strays: &strays };
    let (built, _) = built(inputs, &previous, options, standing, (root, work_dir))?;
    let outlook = Outlook::of(&built, root);
    let outlook = outlook.map_err(|source| DirectoryError::Compare { path: root.to_owned(), source })?;
    Ok((outlook, built.report))
}

/// Builds from `inputs` in `work_dir` what is to be published in `root`.
fn built(
    inputs: &[PathBuf],
    previous: &Manifest,
    options: &Options,
    standing: Standing<'_>,
    (root, work_dir): (&Path, &Path),
) -> Result<(Built, Vec<u128>), DirectoryError> {
    let (mut built, hashes) = build::from_files(inputs, previous, work_dir, options, standing)?;
    if options.policy.sort_key {
        let how = (options.packing, options.changed_ms);
        let apart = moves::set_apart(&mut built, standing.strays, how, (root, work_dir));
        apart.map_err(|source| DirectoryError::Compare { path: root.to_owned(), source })?;
    }
    Ok((built, hashes))
}

/// A directory that holds, or will hold, one sitemap; this run alone works in it.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    state: PathBuf,
    /// Locked as long as this lives.
    lock: File,
}

impl Drop for Directory {
    /// Lets go at once: closing alone would not, where a child that is being started has the file open, too.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(directory = %self.root.display(), %error, "the lock goes only with the process");
        }
    }
}

impl Directory {
    /// Opens `root`, which is made where it is missing.
    ///
    /// # Errors
    /// Where it cannot be used, or another run holds it.
    pub fn open(root: &Path) -> Result<Self, DirectoryError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DirectoryError::Open { path, source }
        };
        let state = root.join(keys::STATE_DIR);
        fs::create_dir_all(&state).map_err(failed(root))?;
        let path = state.join(keys::LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), state, lock }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::Busy { path: root.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(&path)(source)),
        }
    }

    /// Builds the sitemap from `inputs`, unless they are the very files of the last run, publishes what changed and
    /// commits. `files_url` is where crawlers will find the directory.
    ///
    /// # Errors
    /// A [`DirectoryError`]; what was published before stays valid.
    pub async fn build(
        &self,
        inputs: &[PathBuf],
        options: &Options,
        files_url: &str,
    ) -> Result<Outcome, DirectoryError> {
        let files_url = files_url.trim_end_matches('/');
        let previous = self.manifest(options.policy.base.as_str())?;
        let settings = settings(options, files_url);
        if let Some(report) = self.same_input(inputs, &settings, &previous, files_url) {
            let indexes = previous.indexes().into_iter().map(keys::index_file).collect();
            let published = Published { shards_unchanged: previous.shards.len(), indexes, ..Published::default() };
            return Ok(self.outcome(report, published, previous));
        }
        // From here on the list of rejects is another run's.
        remove(&self.state.join(keys::INPUT))?;
        let strays = self.strays()?;
        let unknown = if previous.shards.is_empty() { self.others()?.len() as u64 } else { 0 };
        let standing = Standing { intact: &|shard| self.is_intact(shard), strays: &strays };
        let (built, hashes) = built(inputs, &previous, options, standing, (&self.root, &self.state))?;
        self.intend(&built.intent())?;
        let report = built.report.clone();
        let manner = Manner {
            files_url: files_url.to_owned(),
            index: options.limits.index,
            edge_ttl: Duration::ZERO,
            grace_ms: 0,
            now_ms: options.policy.now_ms,
            clock: Clock::system(),
        };
        let (manifest, published) = publish::publish(self, built, &manner, &mut Locked).await?;
        self.commit(&manifest, &previous)?;
        let hashes = hashes.into_iter().map(hex).collect();
        let sizes = inputs.iter().map(|input| size(input)).collect();
        self.remember(&LastInput { settings, sizes, hashes, report: report.clone() })?;
        // Only this run has it, not one that finds the same input.
        let mut report = report;
        published.indexes_new.iter().for_each(|_| report.flag(INDEX_NEW, 1));
        if unknown > 0 {
            report.flag(UNKNOWN_FILES, unknown);
        }
        Ok(self.outcome(report, published, manifest))
    }

    fn outcome(&self, report: Report, published: Published, manifest: Manifest) -> Outcome {
        Outcome { report, published, manifest, rejects: self.state.join(keys::REJECTS) }
    }

    /// The account of the last run, where it had the same input and settings and all that it wrote is still there.
    fn same_input(&self, inputs: &[PathBuf], settings: &str, manifest: &Manifest, files_url: &str) -> Option<Report> {
        let last: LastInput = serde_json::from_slice(&fs::read(self.state.join(keys::INPUT)).ok()?).ok()?;
        let stands = |number: u32| {
            let bytes = fs::read(self.root.join(keys::index_file(number)));
            bytes.is_ok_and(|bytes| bytes == xml::index_of(number, &manifest.shards, files_url))
        };
        let same = last.settings == settings
            && last.sizes == inputs.iter().map(|input| size(input)).collect::<Vec<_>>()
            && !self.state.join(keys::INTENT).exists()
            && !manifest.shards.is_empty()
            && manifest.shards.iter().all(|shard| self.is_intact(shard))
            && manifest.indexes().into_iter().all(stands)
            && inputs
                .iter()
                .zip(&last.hashes)
                .all(|(input, hash)| source::hash(input).is_ok_and(|now| hex(now) == *hash));
        same.then_some(last.report)
    }

    fn remember(&self, last: &LastInput) -> Result<(), DirectoryError> {
        let path = self.state.join(keys::INPUT);
        let bytes = serde_json::to_vec(last).map_err(io::Error::other);
        let written = bytes.and_then(|bytes| write_whole(&self.state.join("input.new"), &path, &bytes));
        written.map_err(|source| DirectoryError::Open { path, source })
    }

    /// The committed manifest, or an empty one.
    ///
    /// # Errors
    /// Where it cannot be read or is damaged.
    pub fn manifest(&self, base_url: &str) -> Result<Manifest, DirectoryError> {
        let path = self.state.join(keys::MANIFEST);
        match fs::read(&path) {
            Ok(bytes) => Manifest::from_json(&bytes).map_err(|source| DirectoryError::Manifest { path, source }),
            Err(error) if is_missing(&error) => self.beginning(base_url),
            Err(source) => Err(DirectoryError::Open { path, source }),
        }
    }

    /// Files here that are called like shards of ours, and are no killed run's: where no sitemap is known, somebody else's.
    fn others(&self) -> Result<Vec<String>, DirectoryError> {
        let (mut files, intent) = (files_like_ours(&self.root), self.intent()?);
        if let Ok(files) = &mut files {
            files.retain(|file| !intent.contains(file));
        }
        files.map_err(|source| DirectoryError::Open { path: self.root.clone(), source })
    }

    /// The manifest from which a sitemap begins here: no file of somebody else's, or of a sitemap whose state was lost, has
    /// the name of a new one. Those of a killed run's intent are taken over.
    fn beginning(&self, base_url: &str) -> Result<Manifest, DirectoryError> {
        let empty = Manifest::empty(base_url);
        let next_number = self.others()?.iter().map(|file| keys::number_after(file)).fold(empty.next_number, u64::max);
        Ok(Manifest { next_number, ..empty })
    }

    fn commit(&self, manifest: &Manifest, previous: &Manifest) -> Result<(), DirectoryError> {
        let path = self.state.join(keys::MANIFEST);
        let staging = self.state.join(keys::STAGING_DIR);
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(|source| DirectoryError::Open { path: staging, source })?;
        }
        let same_files = manifest.shards == previous.shards && manifest.retired == previous.retired;
        if same_files && manifest.kinds == previous.kinds {
            return Ok(());
        }
        let bytes = manifest.to_json().map_err(ManifestError::Parse);
        let bytes = bytes.map_err(|source| DirectoryError::Manifest { path: path.clone(), source })?;
        write_whole(&self.state.join("manifest.new"), &path, &bytes)
            .map_err(|source| DirectoryError::Open { path, source })?;
        self.intend(&[])
    }

    /// Notes which files are about to be written, so that the next run knows them if this one is killed.
    fn intend(&self, files: &[String]) -> Result<(), DirectoryError> {
        let path = self.state.join(keys::INTENT);
        if files.is_empty() {
            return remove(&path);
        }
        let bytes = serde_json::to_vec(files).map_err(io::Error::other);
        let written = bytes.and_then(|bytes| write_whole(&self.state.join("intent.new"), &path, &bytes));
        written.map_err(|source| DirectoryError::Open { path, source })
    }

    /// What a killed run left: of the files that it meant to write, those that are there and in no manifest.
    fn intent(&self) -> Result<Vec<String>, DirectoryError> {
        let path = self.state.join(keys::INTENT);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| DirectoryError::Manifest { path, source: ManifestError::Parse(error) }),
            Err(error) if is_missing(&error) => Ok(Vec::new()),
            Err(source) => Err(DirectoryError::Open { path, source }),
        }
    }

    /// The same, with the hash of each that is there.
    fn strays(&self) -> Result<Vec<Stray>, DirectoryError> {
        let stray = |file: String| {
            let bytes = fs::read(self.root.join(&file)).ok()?;
            Some(Stray { file, hash: hex(XxHash3_128::oneshot(&bytes)) })
        };
        Ok(self.intent()?.into_iter().filter_map(stray).collect())
    }

    /// Size and time alone where they are as they were; where only the time differs (a copied directory), the bytes.
    fn is_intact(&self, shard: &Shard) -> bool {
        let path = self.root.join(&shard.file);
        match stamp(&path) {
            Ok((stamp, size)) => {
                Some(stamp) == shard.stamp
                    || (size == shard.file_bytes
                        && fs::read(&path).is_ok_and(|bytes| hex(XxHash3_128::oneshot(&bytes)) == shard.file_hash))
            }
            Err(_) => false,
        }
    }
}

impl Place for Directory {
    async fn put_shard(&self, file: &str, staged: &Path) -> Result<String, PlaceError> {
        let path = self.root.join(file);
        // On the disk before an index names it, so that no loss of power leaves an index of torn files.
        let put = || {
            File::open(staged)?.sync_data()?;
            fs::rename(staged, &path)?;
            stamp(&path)
        };
        put().map(|(stamp, _)| stamp).map_err(|error| place_error("writing", &path, &error))
    }

    async fn put_index(&self, file: &str, bytes: &[u8]) -> Result<(), PlaceError> {
        let path = self.root.join(file);
        // The names of shards are on the disk before the index that names them, too.
        let put = || {
            sync_directory(&self.root)?;
            write_whole(&self.state.join("index.new"), &path, bytes)
        };
        put().map_err(|error| place_error("writing", &path, &error))
    }

    async fn indexes(&self) -> Result<Vec<(u32, Vec<u8>)>, PlaceError> {
        let files = index_files(&self.root).map_err(|error| place_error("listing", &self.root, &error))?;
        let read = |(number, path): (u32, PathBuf)| match fs::read(&path) {
            Ok(bytes) => Ok((number, bytes)),
            Err(error) => Err(place_error("reading", &path, &error)),
        };
        files.into_iter().map(read).collect()
    }

    async fn remove(&self, file: &str) -> Result<(), PlaceError> {
        let path = self.root.join(file);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(place_error("removing", &path, &error)),
        }
    }
}

/// The files in `root` that are called like an index, by number.
///
/// # Errors
/// Where the directory cannot be listed.
pub fn index_files(root: &Path) -> io::Result<BTreeMap<u32, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if let Some(number) = path.file_name().and_then(|name| keys::index_number(name.to_str()?)) {
            files.insert(number, path);
        }
    }
    Ok(files)
}

/// Files in `root` that are called like shards of ours.
fn files_like_ours(root: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.starts_with(keys::FILE_STEM) && keys::index_number(&name).is_none() && name.contains(".xml") {
            files.push(name);
        }
    }
    Ok(files)
}

/// What the last run was given, and its account.
#[derive(Debug, Serialize, Deserialize)]
struct LastInput {
    settings: String,
    sizes: Vec<Option<u64>>,
    hashes: Vec<String>,
    report: Report,
}

/// Everything beside the input that decides what is written.
fn settings(options: &Options, files_url: &str) -> String {
    let policy = options.policy.fingerprint();
    format!("{policy} {files_url} {:?} {:?} {}", options.limits, options.packing, options.level)
}

fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

/// Removes a file of the state; one that is not there is removed already.
fn remove(path: &Path) -> Result<(), DirectoryError> {
    match fs::remove_file(path) {
        Err(source) if !is_missing(&source) => Err(DirectoryError::Open { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// What tells that a file was not touched: its size and time; and the size alone.
fn stamp(path: &Path) -> io::Result<(String, u64)> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((format!("{}-{}", metadata.len(), modified.as_nanos()), metadata.len()))
}

/// Writes the file at `path` whole or not at all; it is then on the disk.
fn write_whole(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(temporary, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Has the names in `directory` reach the disk.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn place_error(operation: &'static str, path: &Path, error: &io::Error) -> PlaceError {
    PlaceError { operation, file: path.display().to_string(), message: error.to_string() }
}
