//! A sitemap under a prefix of an S3 bucket, behind a CDN.
//!
//! Promises: files are PUT whole, with a checksum, and PUT or deleted on the condition that what stands there is what
//! this run saw when it began, the index included; so two runs never mix unseen. A PUT whose answer was lost is
//! recognised by the hash that the object carries, a DELETE by the object's absence. Types, caching and that hash are set
//! here and nowhere else. Which version a PUT made is remembered, so that a rollback finds it.

use crate::build::Stray;
use crate::calls::side_by_side;
use crate::keys;
use crate::manifest::{Manifest, Shard};
use crate::publish::{Place, PlaceError};
use crate::site::Target;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Mutex;
use twox_hash::XxHash3_128;

/// The metadata name under which an object carries the hash of its bytes.
const HASH: &str = "tidemark-hash";
/// How often one PUT is tried where S3 says that conditional writes collided.
const TRIES_MAX: u32 = 4;

/// A prefix of a bucket, with what lay there when the run began.
#[derive(Debug)]
pub struct Bucket {
    s3: Client,
    target: Target,
    seen: Mutex<HashMap<String, Seen>>,
}

/// A file with what the bucket says of it.
#[derive(Clone, Debug)]
pub struct Current {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Its ETag.
    pub etag: String,
    /// Its version, where the bucket keeps versions.
    pub version: Option<String>,
    /// When it was written, in milliseconds since the epoch.
    pub modified_ms: Option<i64>,
}

/// An object as this run saw or wrote it.
#[derive(Clone, Debug)]
struct Seen {
    etag: String,
    /// Of what this run wrote, where the bucket keeps versions.
    version: Option<String>,
}

impl Bucket {
    /// Looks at what lies under the target's prefix and is called like a file of ours, or like one of `files`, whose names
    /// another tool may have given.
    ///
    /// # Errors
    /// Where it cannot be listed.
    pub async fn open<'f>(
        s3: Client,
        target: Target,
        files: impl IntoIterator<Item = &'f str>,
    ) -> Result<Self, PlaceError> {
        let mut seen = HashMap::new();
        for stem in stems(files) {
            let list = s3.list_objects_v2().bucket(&target.bucket).prefix(format!("{}{stem}", target.prefix));
            // What lies deeper may be a whole website.
            let mut pages = list.delimiter("/").into_paginator().send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| failed("listing", &target.prefix, &error))?;
                for object in page.contents.unwrap_or_default() {
                    if let (Some(key), Some(etag)) = (object.key, object.e_tag)
                        && let Some(file) = key.strip_prefix(&target.prefix)
                    {
                        seen.insert(file.to_owned(), Seen { etag, version: None });
                    }
                }
            }
        }
        Ok(Self { s3, target, seen: Mutex::new(seen) })
    }

    /// The file, where it still is what this run saw when it began, since on that rests what the run decided; nothing where
    /// it was not there.
    ///
    /// # Errors
    /// Where it cannot be read, or is another by now.
    pub async fn current(&self, file: &str) -> Result<Option<Current>, PlaceError> {
        let Some(etag) = self.etag(file) else { return Ok(None) };
        let object = match self.s3.get_object().bucket(&self.target.bucket).key(self.key(file)).send().await {
            Ok(object) if object.e_tag.as_ref() == Some(&etag) => object,
            Ok(_) => return Err(overtaken("reading", file)),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => {
                return Err(overtaken("reading", file));
            }
            Err(error) => return Err(failed("reading", file, &error)),
        };
        let version = object.version_id.filter(|version| version != "null");
        let modified_ms = object.last_modified.and_then(|at| at.to_millis().ok());
        let bytes = object.body.collect().await.map_err(|error| broken("reading", file, &error))?.to_vec();
        Ok(Some(Current { bytes, etag, version, modified_ms }))
    }

    /// The manifest from which a sitemap begins here: no file of somebody else's has the name of a new one. Those of
    /// `intent` are a killed run's, which the next one takes over.
    #[must_use]
    pub fn beginning(&self, base_url: &str, intent: &[String]) -> Manifest {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let others = seen.keys().filter(|file| !intent.contains(file));
        let empty = Manifest::empty(base_url);
        let next_number = others.map(|file| keys::number_after(file)).fold(empty.next_number, u64::max);
        Manifest { next_number, ..empty }
    }

    /// Whether the shard's object is the one that the manifest knows.
    #[must_use]
    pub fn is_intact(&self, shard: &Shard) -> bool {
        shard.stamp.is_some() && self.etag(&shard.file) == shard.stamp
    }

    /// Those of `files` that are there, with the hash that each carries.
    ///
    /// # Errors
    /// Where one cannot be looked at.
    pub async fn strays(&self, files: &[String]) -> Result<Vec<Stray>, PlaceError> {
        let look = async |file: &String| {
            let head = self.s3.head_object().bucket(&self.target.bucket).key(self.key(file)).send().await;
            let head = head.map_err(|error| failed("looking at", file, &error))?;
            let hash = head.metadata().and_then(|metadata| metadata.get(HASH)).cloned().unwrap_or_default();
            Ok(Stray { file: file.clone(), hash })
        };
        let there: Vec<_> = files.iter().filter(|file| self.etag(file).is_some()).map(|file| (file, 0)).collect();
        side_by_side(there, look).await
    }

    /// Which version of the file this run wrote, if it did and the bucket keeps versions.
    #[must_use]
    pub fn version(&self, file: &str) -> Option<String> {
        self.seen(file)?.version
    }

    /// An old version of a file; nothing where the bucket does not have it any more.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn old(&self, file: &str, version: &str) -> Result<Option<Vec<u8>>, PlaceError> {
        let request = self.s3.get_object().bucket(&self.target.bucket).key(self.key(file)).version_id(version);
        let object = match request.send().await {
            Ok(object) => object,
            Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 404) => {
                return Ok(None);
            }
            Err(error) => return Err(failed("reading an old version", file, &error)),
        };
        let bytes = object.body.collect().await.map_err(|error| broken("reading an old version", file, &error))?;
        Ok(Some(bytes.to_vec()))
    }

    fn seen(&self, file: &str) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(file).cloned()
    }

    fn etag(&self, file: &str) -> Option<String> {
        self.seen(file).map(|seen| seen.etag)
    }

    fn remember(&self, file: &str, seen: Option<Seen>) {
        let mut all = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match seen {
            Some(seen) => all.insert(file.to_owned(), seen),
            None => all.remove(file),
        };
    }

    fn key(&self, file: &str) -> String {
        format!("{}{file}", self.target.prefix)
    }

    /// `(content_type, content_encoding)`: packed files are either of a packed type or encoded, never both.
    async fn put(
        &self,
        file: &str,
        bytes: Vec<u8>,
        (content_type, content_encoding): (&str, Option<&str>),
    ) -> Result<String, PlaceError> {
        let hash = crate::build::hex(XxHash3_128::oneshot(&bytes));
        // Every try sends the same memory.
        let bytes = Bytes::from(bytes);
        let max_age = self.target.edge_ttl.as_secs();
        let mut tries = 1;
        loop {
            let mut request = self
                .s3
                .put_object()
                .bucket(&self.target.bucket)
                .key(self.key(file))
                .content_type(content_type)
                .set_content_encoding(content_encoding.map(str::to_owned))
                .cache_control(format!("public, max-age={max_age}, must-revalidate"))
                .checksum_algorithm(ChecksumAlgorithm::Crc32)
                .metadata(HASH, &hash)
                .body(ByteStream::from(bytes.clone()));
            request = match self.etag(file) {
                Some(etag) => request.if_match(etag),
                None => request.if_none_match("*"),
            };
            let error = match request.send().await {
                Ok(written) => return self.written(file, (written.e_tag, written.version_id)),
                Err(error) => error,
            };
            match error.raw_response().map(|response| response.status().as_u16()) {
                Some(409) if tries < TRIES_MAX => tries += 1,
                Some(409 | 412) => return self.settle(file, &hash).await,
                _ => return Err(failed("writing", file, &error)),
            }
        }
    }

    fn written(&self, file: &str, (etag, version): (Option<String>, Option<String>)) -> Result<String, PlaceError> {
        let etag = etag.ok_or_else(|| PlaceError {
            operation: "writing",
            file: file.to_owned(),
            message: "the answer holds no ETag".to_owned(),
        })?;
        // Where versions were turned off again, every object is version "null", and the next PUT replaces it.
        let version = version.filter(|version| version != "null");
        self.remember(file, Some(Seen { etag: etag.clone(), version }));
        Ok(etag)
    }

    /// The condition did not hold: either an earlier try of this very PUT had arrived, or somebody else was here.
    async fn settle(&self, file: &str, hash: &str) -> Result<String, PlaceError> {
        let head = self.s3.head_object().bucket(&self.target.bucket).key(self.key(file)).send().await;
        let head = head.map_err(|error| failed("reading back", file, &error))?;
        if head.metadata().and_then(|metadata| metadata.get(HASH)).is_some_and(|there| there == hash) {
            return self.written(file, (head.e_tag, head.version_id));
        }
        Err(overtaken("writing", file))
    }

    /// Whether an earlier try of a DELETE had arrived.
    async fn is_gone(&self, file: &str) -> Result<bool, PlaceError> {
        match self.s3.head_object().bucket(&self.target.bucket).key(self.key(file)).send().await {
            Ok(_) => Ok(false),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(true),
            Err(error) => Err(failed("looking at", file, &error)),
        }
    }

    /// The files called like an index that this run saw, by number.
    fn index_files(&self) -> BTreeMap<u32, String> {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.keys().filter_map(|file| Some((keys::index_number(file)?, file.clone()))).collect()
    }
}

impl Place for Bucket {
    async fn put_shard(&self, file: &str, staged: &Path) -> Result<String, PlaceError> {
        let bytes = std::fs::read(staged).map_err(|error| PlaceError {
            operation: "reading the staged copy",
            file: file.to_owned(),
            message: error.to_string(),
        })?;
        let packed = file.ends_with(".gz");
        let kind = if packed { ("application/gzip", None) } else { ("application/xml", Some("gzip")) };
        self.put(file, bytes, kind).await
    }

    async fn put_index(&self, file: &str, bytes: &[u8]) -> Result<(), PlaceError> {
        self.put(file, bytes.to_vec(), ("application/xml", None)).await.map(|_| ())
    }

    async fn indexes(&self) -> Result<Vec<(u32, Vec<u8>)>, PlaceError> {
        let mut indexes = Vec::new();
        for (number, file) in self.index_files() {
            let index = self.current(&file).await?.ok_or_else(|| overtaken("reading", &file))?;
            indexes.push((number, index.bytes));
        }
        Ok(indexes)
    }

    async fn remove(&self, file: &str) -> Result<(), PlaceError> {
        let Some(etag) = self.etag(file) else { return Ok(()) };
        let mut tries = 1;
        loop {
            let request = self.s3.delete_object().bucket(&self.target.bucket).key(self.key(file)).if_match(&etag);
            let Err(error) = request.send().await else { break };
            match error.raw_response().map(|response| response.status().as_u16()) {
                Some(409) if tries < TRIES_MAX => tries += 1,
                Some(404) => break,
                Some(409 | 412) if self.is_gone(file).await? => break,
                Some(409 | 412) => return Err(overtaken("removing", file)),
                _ => return Err(failed("removing", file, &error)),
            }
        }
        self.remember(file, None);
        Ok(())
    }
}

/// The fewest beginnings of names that find files of ours and `files`.
fn stems<'f>(files: impl IntoIterator<Item = &'f str>) -> Vec<&'f str> {
    let mut stems: Vec<&str> = files.into_iter().map(keys::stem).chain([keys::FILE_STEM]).collect();
    stems.sort_unstable();
    stems.dedup_by(|next, before| next.starts_with(*before));
    stems
}

fn overtaken(operation: &'static str, file: &str) -> PlaceError {
    let message = "somebody else wrote it since this run began; the next run mends it".to_owned();
    PlaceError { operation, file: file.to_owned(), message }
}

fn broken(operation: &'static str, file: &str, error: &dyn std::error::Error) -> PlaceError {
    PlaceError { operation, file: file.to_owned(), message: error.to_string() }
}

fn failed<E>(operation: &'static str, file: &str, error: &SdkError<E>) -> PlaceError
where
    SdkError<E>: std::error::Error,
{
    PlaceError { operation, file: file.to_owned(), message: DisplayErrorContext(error).to_string() }
}
