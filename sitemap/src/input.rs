//! Where a job's rows come from: an Athena query, or page lists in S3.
//!
//! Files are downloaded into the run's working directory, a few at a time and in pieces, and merged there by key, or
//! sorted where they are not in order; so memory does not grow with the list. What tells one input from another is a
//! fingerprint of the files' ETags and sizes and of the settings: where it is that of the last run, nothing is even
//! downloaded. Files of an UNLOAD are removed when they were read, or when the query failed.

use crate::athena::{self, Athena, Fetch, Query, QueryError, Statement, results, unload};
use crate::build::Order;
use crate::keys;
use crate::row::ROW_FORMAT;
use crate::source::{self, Sink, SourceError, merge};
use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinSet;
use twox_hash::XxHash3_128;

/// Files that are downloaded at once.
const DOWNLOADS_MAX: usize = 4;
/// Files that an input may have.
const FILES_MAX: usize = 10_000;
/// The longest list of an UNLOAD's files, in bytes: far more than [`FILES_MAX`] lines.
const FILE_LIST_BYTES_MAX: i64 = 16 << 20;

/// The section `[input]` of a site's settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    objects: Option<String>,
}

impl Settings {
    /// Where the rows come from, given the settings of a query, where there are any.
    ///
    /// # Errors
    /// The field that cannot be used, and what is wrong with it.
    pub fn check(self, query: Option<athena::Settings>) -> Result<Source, (&'static str, String)> {
        match (self.objects, query) {
            (None, Some(query)) => Ok(Source::Query(query.check()?)),
            (Some(url), None) => Source::objects(&url).map_err(|problem| ("input.objects", problem)),
            (Some(_), Some(_)) => Err(("input.objects", "and [query] are both set: keep one".into())),
            (None, None) => Err(("query", "is missing: give [query], or page lists in [input] objects".into())),
        }
    }
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A query.
    Query(Query),
    /// Page lists in S3: one object, or all below a prefix that ends in `/`. Their names tell their formats.
    Objects {
        /// The bucket.
        bucket: String,
        /// The key or prefix.
        prefix: String,
    },
}

impl Source {
    /// The page lists at `url`, an address of S3.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn objects(url: &str) -> Result<Self, String> {
        match unload::parse_url(url) {
            Ok((bucket, prefix)) if !prefix.is_empty() => {
                Ok(Self::Objects { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            _ => Err(format!("is {url:?}: give s3://bucket/list.csv, or s3://bucket/lists/")),
        }
    }

    /// Whether a query may write files, which have to be removed.
    #[must_use]
    pub fn unloads(&self) -> bool {
        matches!(self, Self::Query(query) if query.fetch != Fetch::Select)
    }
}

/// What is needed from outside.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// Athena.
    pub athena: Athena<'a>,
    /// S3.
    pub s3: &'a Client,
    /// The bucket in which UNLOAD writes, under [`keys::unload_attempt`].
    pub state_bucket: &'a str,
}

/// Who asks, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The sitemap, by [`keys::sitemap`].
    pub site: &'a str,
    /// The run.
    pub run: &'a str,
    /// What no other attempt of the run has: the fencing token.
    pub number: u64,
    /// How long a query may take.
    pub longest: Duration,
    /// Where files are put.
    pub work_dir: &'a Path,
}

impl Attempt<'_> {
    /// What no other sitemap's run has.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.site, self.run)
    }
}

/// Why there is no input.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The query.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// An object cannot be listed, read or removed.
    #[error("{operation} of s3://{bucket}/{key} failed: {message}")]
    Object {
        /// What was tried.
        operation: &'static str,
        /// The bucket.
        bucket: String,
        /// The key or prefix.
        key: String,
        /// What S3 said, and what to do where that is known.
        message: String,
    },
    /// A working file cannot be written.
    #[error("cannot write {path}: check that the directory can be written and has space")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why rows could not be read to their end.
#[derive(Debug)]
pub enum ReadError<S> {
    /// The query.
    Query(QueryError),
    /// A file, or the taker of the rows.
    Source(SourceError<S>),
}

/// An object as it was listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// Its ETag, which a download insists on.
    pub etag: String,
    /// Its size.
    pub bytes: u64,
}

/// Rows that are ready to be read, as often as wanted.
#[derive(Debug)]
pub struct Input {
    rows: Rows,
    /// The query that gave them.
    query_id: Option<String>,
}

#[derive(Debug)]
enum Rows {
    Results,
    Files(Vec<PathBuf>),
}

/// Rows that were found and not yet fetched: whoever keeps this reads the same rows later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Files, by ETag; nothing where the rows are paged out of the query's result.
    pub files: Option<Vec<Object>>,
    /// The query that gave them.
    pub query_id: Option<String>,
    /// How much the query read, where that is known.
    pub scanned_bytes: Option<u64>,
}

impl Found {
    /// What tells these rows with this `salt` from others, where only files are looked at.
    #[must_use]
    pub fn fingerprint(&self, salt: &[u8]) -> Option<String> {
        self.files.as_ref().map(|files| fingerprint(files, salt))
    }

    /// Fetches the rows, as they were when they were found.
    ///
    /// # Errors
    /// An [`InputError`], also where a file is no longer what it was.
    pub async fn open(&self, reach: Reach<'_>, work_dir: &Path) -> Result<Input, InputError> {
        let rows = match &self.files {
            Some(objects) => Rows::Files(download(reach.s3, objects, work_dir).await?),
            None => Rows::Results,
        };
        Ok(Input { rows, query_id: self.query_id.clone() })
    }

    /// Looks whether the files are as they were found, without fetching any.
    ///
    /// # Errors
    /// An [`InputError`] that names the first that is not.
    pub async fn check(&self, reach: Reach<'_>) -> Result<(), InputError> {
        let files = self.files.as_deref().unwrap_or_default();
        let keys = || files.iter().map(|file| file.key.as_str());
        let (Some(file), Some(first), Some(last)) = (files.first(), keys().min(), keys().max()) else { return Ok(()) };
        let common = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
        let prefix = first.get(..common).and_then(|common| common.rsplit_once('/')).map_or("", |(folder, _)| folder);
        let there = listed(reach.s3, &file.bucket, &format!("{prefix}/")).await?;
        // The listing is sorted by key.
        let is_there = |file: &Object| {
            there.binary_search_by(|object| object.key.cmp(&file.key)).is_ok_and(|at| there[at] == *file)
        };
        match files.iter().find(|file| !is_there(file)) {
            Some(Object { bucket, key, .. }) => {
                Err(object_error("reading", bucket, key, "it is gone, or another than was found".to_owned()))
            }
            None => Ok(()),
        }
    }
}

/// Finds the rows of `source`, whose query is `statement`; an UNLOAD writes them under `target`, where they stay.
///
/// # Errors
/// An [`InputError`].
pub async fn find(
    reach: Reach<'_>,
    attempt: Attempt<'_>,
    (source, statement): (&Source, &Statement),
    target: &unload::Target,
) -> Result<Found, InputError> {
    match source {
        Source::Objects { bucket, prefix } => {
            let objects = page_lists(reach.s3, bucket, prefix).await?;
            Ok(Found { files: Some(objects), query_id: None, scanned_bytes: None })
        }
        Source::Query(query) if query.fetch == Fetch::Select => select(reach, attempt, query, statement).await,
        Source::Query(query) => {
            match unloaded(reach, attempt, (query, &unload::plain(statement, target)), target).await {
                Err(InputError::Query(error)) if query.fetch == Fetch::Auto && is_refusal(&error) => {
                    tracing::warn!(%error, "UNLOAD was refused, the rows come by GetQueryResults");
                    select(reach, attempt, query, statement).await
                }
                found => found,
            }
        }
    }
}

/// The page lists at `prefix`, without what engines such as Spark leave beside their rows.
async fn page_lists(s3: &Client, bucket: &str, prefix: &str) -> Result<Vec<Object>, InputError> {
    let name = |object: &Object| object.key.rsplit('/').next().unwrap_or_default().to_owned();
    let mut objects = listed(s3, bucket, prefix).await?;
    objects.retain(|object| !name(object).starts_with(['_', '.']));
    if objects.is_empty() {
        let message = "there is no object of that name: no page list is no empty sitemap".to_owned();
        return Err(object_error("listing", bucket, prefix, message));
    }
    // What UNLOAD writes has no ending.
    let is_unknown = |object: &&Object| name(object).contains('.') && !source::is_page_list(&name(object));
    match objects.iter().find(is_unknown) {
        Some(Object { key, .. }) => {
            let message = format!("its name tells no format: {}", source::NAME_IT);
            Err(object_error("reading", bucket, key, message))
        }
        None => Ok(objects),
    }
}

/// Whether Athena will not do it, as against could not.
fn is_refusal(error: &QueryError) -> bool {
    matches!(
        error,
        QueryError::Failed { retryable: false, .. } | QueryError::Service { operation: "StartQueryExecution", .. }
    )
}

async fn select(
    reach: Reach<'_>,
    attempt: Attempt<'_>,
    query: &Query,
    statement: &Statement,
) -> Result<Found, InputError> {
    let token = athena::request_token(&attempt.name(), attempt.number, "select");
    let id = athena::start(reach.athena, query, statement, &token).await?;
    let finished = athena::wait(reach.athena, &id, attempt.longest).await?;
    Ok(Found { files: None, query_id: Some(id), scanned_bytes: finished.scanned_bytes })
}

/// The rows that `unload`, an UNLOAD of `query`, writes under `target`.
///
/// # Errors
/// An [`InputError`].
pub(crate) async fn unloaded(
    reach: Reach<'_>,
    attempt: Attempt<'_>,
    (query, unload): (&Query, &Statement),
    target: &unload::Target,
) -> Result<Found, InputError> {
    let finished = unload::run(reach.athena, query, unload, (&attempt.name(), attempt.number), attempt.longest).await?;
    let objects = unload_objects(reach, &finished, target).await?;
    Ok(Found { files: Some(objects), query_id: Some(finished.id), scanned_bytes: finished.scanned_bytes })
}

/// Where an attempt's UNLOAD writes.
#[must_use]
pub fn unload_target(reach: Reach<'_>, attempt: Attempt<'_>) -> unload::Target {
    let prefix = keys::unload_attempt(attempt.site, attempt.run, attempt.number);
    unload::Target { bucket: reach.state_bucket.to_owned(), prefix }
}

/// The files of an UNLOAD, by its own list.
///
/// # Errors
/// An [`InputError`], also where a file of the list is not there.
async fn unload_objects(
    reach: Reach<'_>,
    finished: &athena::Finished,
    target: &unload::Target,
) -> Result<Vec<Object>, InputError> {
    let wrong = |problem: String| QueryError::Files { id: finished.id.clone(), problem };
    let url = finished.manifest.as_deref().ok_or_else(|| wrong("Athena names none".to_owned()))?;
    let (bucket, key) = unload::parse_url(url).map_err(wrong)?;
    let csv = read_small(reach.s3, bucket, key).await?;
    let wanted = unload::files(&finished.id, &csv, target)?;
    // ETags and sizes in one go. What the listing has besides is some failed writer's and is left out.
    let there = listed(reach.s3, &target.bucket, &target.prefix).await?;
    wanted
        .into_iter()
        .map(|key| {
            let found = there.binary_search_by(|object| object.key.cmp(&key));
            found.map(|at| there[at].clone()).map_err(|_| wrong(format!("{key} is not there")).into())
        })
        .collect()
}

async fn read_small(s3: &Client, bucket: &str, key: &str) -> Result<String, InputError> {
    let wrong = |message| object_error("reading", bucket, key, message);
    let object = s3.get_object().bucket(bucket).key(key).send().await;
    let object = object.map_err(|error| wrong(DisplayErrorContext(&error).to_string()))?;
    if object.content_length.unwrap_or_default() > FILE_LIST_BYTES_MAX {
        return Err(wrong(format!("it has more than {FILE_LIST_BYTES_MAX} bytes")));
    }
    let bytes = object.body.collect().await.map_err(|error| wrong(error.to_string()))?;
    String::from_utf8(bytes.to_vec()).map_err(|error| wrong(error.to_string()))
}

/// What tells these files with this `salt` from others: their contents by ETag and size, whatever their names.
#[must_use]
pub fn fingerprint(objects: &[Object], salt: &[u8]) -> String {
    let mut files: Vec<String> = objects.iter().map(|object| format!("{} {}", object.etag, object.bytes)).collect();
    files.sort();
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("{version} {ROW_FORMAT} {:032x}\n{}", XxHash3_128::oneshot(salt), files.join("\n"));
    format!("{:032x}", XxHash3_128::oneshot(text.as_bytes()))
}

/// The object called `prefix`, or all objects below it where it ends in `/`, by key.
///
/// # Errors
/// [`InputError::Object`], also where there are more than an input may have.
pub async fn listed(s3: &Client, bucket: &str, prefix: &str) -> Result<Vec<Object>, InputError> {
    let mut objects = Vec::new();
    let mut pages = s3.list_objects_v2().bucket(bucket).prefix(prefix).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page =
            page.map_err(|error| object_error("listing", bucket, prefix, DisplayErrorContext(&error).to_string()))?;
        for object in page.contents.unwrap_or_default() {
            let (key, bytes) = (object.key.unwrap_or_default(), object.size.unwrap_or_default());
            if (prefix.ends_with('/') || key == prefix) && !key.ends_with('/') {
                let (etag, bytes) = (object.e_tag.unwrap_or_default(), u64::try_from(bytes).unwrap_or_default());
                objects.push(Object { bucket: bucket.to_owned(), key, etag, bytes });
            }
        }
        if objects.len() > FILES_MAX {
            let message = format!("there are more than {FILES_MAX} objects: write fewer and larger page lists");
            return Err(object_error("listing", bucket, prefix, message));
        }
    }
    Ok(objects)
}

/// Puts `objects` into `dir`, a few at a time, and gives their files in the same order.
///
/// # Errors
/// An [`InputError`], also where an object is no longer the one that was listed.
pub async fn download(s3: &Client, objects: &[Object], dir: &Path) -> Result<Vec<PathBuf>, InputError> {
    let dir = dir.join(keys::INPUT_DIR);
    fs::create_dir_all(&dir).map_err(|source| InputError::Io { path: dir.clone(), source })?;
    let files: Vec<PathBuf> =
        objects.iter().enumerate().map(|(at, object)| dir.join(keys::input_file(at, &object.key))).collect();
    let (mut under_way, mut waiting) = (JoinSet::new(), objects.iter().zip(&files));
    loop {
        while under_way.len() < DOWNLOADS_MAX
            && let Some((object, path)) = waiting.next()
        {
            let (s3, object, path) = (s3.clone(), object.clone(), path.clone());
            under_way.spawn(async move { download_one(&s3, &object, &path).await });
        }
        match under_way.join_next().await {
            None => return Ok(files),
            Some(Ok(done)) => done?,
            Some(Err(error)) => {
                return Err(InputError::Io { path: dir, source: io::Error::other(error) });
            }
        }
    }
}

async fn download_one(s3: &Client, object: &Object, path: &Path) -> Result<(), InputError> {
    let Object { bucket, key, etag, bytes } = object;
    let wrong = |message: String| object_error("reading", bucket, key, message);
    let io = |source| InputError::Io { path: path.to_owned(), source };
    let answer = s3.get_object().bucket(bucket).key(key).if_match(etag).send().await;
    let mut body = answer.map_err(|error| wrong(DisplayErrorContext(&error).to_string()))?.body;
    let mut file = BufWriter::new(File::create(path).map_err(io)?);
    let mut written = 0;
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| wrong(error.to_string()))?;
        written += piece.len() as u64;
        file.write_all(&piece).map_err(io)?;
    }
    file.flush().map_err(io)?;
    if written == *bytes { Ok(()) } else { Err(wrong(format!("{written} bytes came of {bytes}"))) }
}

/// Removes every object below `prefix`.
///
/// # Errors
/// [`InputError::Object`].
pub async fn clear(s3: &Client, bucket: &str, prefix: &str) -> Result<(), InputError> {
    for object in listed(s3, bucket, prefix).await? {
        let removed = s3.delete_object().bucket(bucket).key(&object.key).send().await;
        removed
            .map_err(|error| object_error("removing", bucket, &object.key, DisplayErrorContext(&error).to_string()))?;
    }
    Ok(())
}

impl Input {
    /// Rows from files that lie there already.
    #[must_use]
    pub fn of_files(files: Vec<PathBuf>) -> Self {
        Self { rows: Rows::Files(files), query_id: None }
    }

    /// Whether every reading pages through a query's result.
    #[must_use]
    pub fn is_paged(&self) -> bool {
        matches!(self.rows, Rows::Results)
    }

    /// In which order the rows can be asked for, the cheapest first.
    #[must_use]
    pub fn orders(&self) -> &'static [Order] {
        match &self.rows {
            Rows::Files(files) if files.len() <= merge::FILES_MAX => &[Order::Given, Order::Unknown],
            _ => &[Order::Unknown],
        }
    }

    /// Gives every row to `sink`: files are merged by `key` where the order is given, and read one after the other
    /// where it is not. Works in `work_dir` where it has to. Returns how
    /// many rows there were.
    ///
    /// # Errors
    /// A [`ReadError`], also where fewer rows came than the query gave.
    pub async fn read<T: Sink>(
        &self,
        athena: Athena<'_>,
        work_dir: &Path,
        order: Order,
        key: &merge::Key<'_>,
        sink: &mut T,
    ) -> Result<u64, ReadError<T::Stop>>
    where
        T::Stop: Send,
    {
        let id = self.query_id.as_deref();
        let rows = match (&self.rows, id) {
            (Rows::Files(files), _) => {
                if order == Order::Given {
                    merge::read_merged(files, work_dir, key, sink).map_err(ReadError::Source)?
                } else {
                    let mut counted = Counted { sink, rows: 0 };
                    for file in files {
                        source::read_rows(file, work_dir, &mut counted).map_err(ReadError::Source)?;
                    }
                    counted.rows
                }
            }
            (Rows::Results, id) => results::rows(athena, id.unwrap_or_default(), sink).await.map_err(|e| match e {
                results::RowsError::Query(error) => ReadError::Query(error),
                results::RowsError::Stopped(stop) => ReadError::Source(SourceError::Stopped(stop)),
            })?,
        };
        if let Some(id) = id {
            athena::query::check_count(athena, id, rows).await.map_err(ReadError::Query)?;
        }
        Ok(rows)
    }
}

/// Counts what passes.
struct Counted<'a, T> {
    sink: &'a mut T,
    rows: u64,
}

impl<T: Sink> Sink for Counted<'_, T> {
    type Stop = T::Stop;

    fn columns(&self) -> crate::columns::Columns {
        self.sink.columns()
    }

    fn page(&mut self, page: &crate::pages::RawPage<'_>) -> Result<(), T::Stop> {
        self.rows += 1;
        self.sink.page(page)
    }

    fn plain_page(&mut self, loc: &[u8], lastmod: &[u8], line: u64) -> Result<(), T::Stop> {
        self.rows += 1;
        self.sink.plain_page(loc, lastmod, line)
    }

    fn refuse(&mut self, line: u64, problem: &str, value: &[u8], detail: &str) -> Result<(), T::Stop> {
        self.rows += 1;
        self.sink.refuse(line, problem, value, detail)
    }
}

fn object_error(operation: &'static str, bucket: &str, key: &str, message: String) -> InputError {
    InputError::Object { operation, bucket: bucket.to_owned(), key: key.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, etag: &str, bytes: u64) -> Object {
        Object { bucket: "b".into(), key: key.into(), etag: etag.into(), bytes }
    }

    #[test]
    fn a_fingerprint_is_of_contents_and_settings_and_not_of_names() {
        let one = fingerprint(&[object("x/1", "a", 1), object("x/2", "b", 2)], b"settings");
        assert_eq!(one, fingerprint(&[object("y/9", "b", 2), object("y/3", "a", 1)], b"settings"));
        for other in [
            fingerprint(&[object("x/1", "a", 1), object("x/2", "c", 2)], b"settings"),
            fingerprint(&[object("x/1", "a", 1)], b"settings"),
            fingerprint(&[object("x/1", "a", 1), object("x/2", "b", 2)], b"other settings"),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_site_has_one_source() {
        let source = |objects: Option<&str>| Settings { objects: objects.map(str::to_owned) }.check(None);
        assert_eq!(
            source(Some("s3://lists/today/")).unwrap(),
            Source::Objects { bucket: "lists".into(), prefix: "today/".into() }
        );
        for bad in ["lists/today", "s3://", "s3://lists", "s3://lists/"] {
            assert_eq!(source(Some(bad)).unwrap_err().0, "input.objects", "{bad}");
        }
        assert_eq!(source(None).unwrap_err().0, "query");
        let both = Settings { objects: Some("s3://a/b".into()) }.check(Some(athena::Settings::default()));
        assert_eq!(both.unwrap_err().0, "input.objects");
    }
}
