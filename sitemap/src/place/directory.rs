//! A sitemap in a directory: `sitemap-index.xml`, its shards beside it, and the state in `.tidemark`.
//!
//! Promises: one run at a time; every file appears whole, by a rename; the manifest is written last and is the commit.

use crate::build::{self, BuildError, Options, hex};
use crate::keys;
use crate::manifest::{Manifest, ManifestError, Shard};
use crate::publish::{self, Manner, Place, PlaceError, Published};
use crate::report::Report;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use xxhash_rust::xxh3::xxh3_128;

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

/// A directory that holds, or will hold, one sitemap; this run alone works in it.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    state: PathBuf,
    /// Locked as long as this lives.
    _lock: File,
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
            Ok(()) => Ok(Self { root: root.to_owned(), state, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::Busy { path: root.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(&path)(source)),
        }
    }

    /// Builds the sitemap from `inputs`, publishes what changed and commits. `files_url` is where crawlers will find
    /// the directory.
    ///
    /// # Errors
    /// A [`DirectoryError`]; what was published before stays valid.
    pub async fn build(
        &self,
        inputs: &[PathBuf],
        options: &Options,
        files_url: &str,
    ) -> Result<Outcome, DirectoryError> {
        let previous = self.manifest(options.policy.base.as_str())?;
        let built = build::from_files(inputs, &previous, &self.state, options, &|shard| self.is_intact(shard))?;
        let report = built.report.clone();
        let manner = Manner {
            files_url: files_url.trim_end_matches('/').to_owned(),
            edge_ttl: Duration::ZERO,
            grace_ms: 0,
            now_ms: options.policy.now_ms,
        };
        let (manifest, published) = publish::publish(self, built, &manner).await?;
        self.commit(&manifest, &previous)?;
        Ok(Outcome { report, published, manifest, rejects: self.state.join(keys::REJECTS) })
    }

    /// The committed manifest, or an empty one.
    ///
    /// # Errors
    /// Where it cannot be read or is damaged.
    pub fn manifest(&self, base_url: &str) -> Result<Manifest, DirectoryError> {
        let path = self.state.join(keys::MANIFEST);
        match fs::read(&path) {
            Ok(bytes) => Manifest::from_json(&bytes).map_err(|source| DirectoryError::Manifest { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Manifest::empty(base_url)),
            Err(source) => Err(DirectoryError::Open { path, source }),
        }
    }

    fn commit(&self, manifest: &Manifest, previous: &Manifest) -> Result<(), DirectoryError> {
        let path = self.state.join(keys::MANIFEST);
        let staging = self.state.join(keys::STAGING_DIR);
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(|source| DirectoryError::Open { path: staging, source })?;
        }
        if manifest.shards == previous.shards && manifest.retired == previous.retired {
            return Ok(());
        }
        let bytes = manifest.to_json().map_err(|error| ManifestError::Parse(error));
        let bytes = bytes.map_err(|source| DirectoryError::Manifest { path: path.clone(), source })?;
        write_whole(&self.state.join("manifest.new"), &path, &bytes)
            .map_err(|source| DirectoryError::Open { path, source })
    }

    /// Size and time alone where they are as they were; where only the time differs (a copied directory), the bytes.
    fn is_intact(&self, shard: &Shard) -> bool {
        let path = self.root.join(&shard.file);
        match stamp(&path) {
            Ok((stamp, size)) => {
                Some(stamp) == shard.stamp
                    || (size == shard.file_bytes
                        && fs::read(&path).is_ok_and(|bytes| hex(xxh3_128(&bytes)) == shard.file_hash))
            }
            Err(_) => false,
        }
    }
}

impl Place for Directory {
    async fn put_shard(&self, file: &str, staged: &Path) -> Result<String, PlaceError> {
        let path = self.root.join(file);
        let renamed = fs::rename(staged, &path).and_then(|()| stamp(&path));
        renamed.map(|(stamp, _)| stamp).map_err(|error| place_error("writing", &path, &error))
    }

    async fn put_index(&self, bytes: &[u8]) -> Result<(), PlaceError> {
        let path = self.root.join(keys::INDEX);
        write_whole(&self.state.join("index.new"), &path, bytes).map_err(|error| place_error("writing", &path, &error))
    }

    async fn index(&self) -> Result<Option<Vec<u8>>, PlaceError> {
        let path = self.root.join(keys::INDEX);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(place_error("reading", &path, &error)),
        }
    }

    async fn remove(&self, file: &str) -> Result<(), PlaceError> {
        let path = self.root.join(file);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(place_error("removing", &path, &error)),
        }
    }
}

/// What tells that a file was not touched: its size and time; and the size alone.
fn stamp(path: &Path) -> io::Result<(String, u64)> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((format!("{}-{}", metadata.len(), modified.as_nanos()), metadata.len()))
}

fn write_whole(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(temporary, path)
}

fn place_error(operation: &'static str, path: &Path, error: &io::Error) -> PlaceError {
    PlaceError { operation, file: path.display().to_string(), message: error.to_string() }
}
