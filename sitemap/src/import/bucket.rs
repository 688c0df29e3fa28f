//! Takes over a sitemap whose files lie in the site's own bucket.
//!
//! It is compared first, with the site's rows or with lists; without `switch` that is all. Promises of the switch: only a
//! file is kept that says in the bucket what it says on the web, and it is the site's from then on as it is, by ETag and
//! version. No file is written but the index, which names all that the old one named, kept or not, as far as it lies
//! under the site's `files_url`; the first run then publishes the site's rows in publishing's own order, and retires what
//! was not kept. An index that stands in the place of ours is replaced on the condition that it is the one that was read.
//!
//! The names of the files are stored as an intent before the index is written, and the manifest is committed after it. So
//! after a kill anywhere the same import goes on, and a run in its place begins anew without touching a name of theirs
//! before its own files are named.

use super::{Comparison, Found, FoundFile, Import, ImportError, comparable, compare_with, io_error, read};
use crate::athena::Statement;
use crate::build::{Options, index_time};
use crate::commit::{Ending, LEASE_MS, let_go};
use crate::difference::unpack;
use crate::input::{Attempt, Source};
use crate::keys;
use crate::manifest::{Manifest, ManifestError};
use crate::place::bucket::Bucket;
use crate::publish::Place;
use crate::refresh::{Committed, Pass, RefreshError, Surroundings};
use crate::site::Site;
use crate::supply::Supply;
use crate::xml::{self, Entry};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemark_runtime::state::Held;

/// Files of a sitemap that is taken over in the cloud: one invocation fetches them, politely, one after the other.
pub const FILES_MAX: usize = 2_000;

/// What to take over.
#[derive(Clone, Copy, Debug)]
pub struct Takeover<'a> {
    /// The site's name.
    pub site: &'a str,
    /// The one of its sitemaps; may be missing where it has only one.
    pub sitemap: Option<&'a str>,
    /// This run's ID.
    pub id: &'a str,
    /// Page lists to compare with in place of the site's rows, as in `s3://lists/pages/`.
    pub lists: Option<&'a str>,
    /// Values of the query's named parameters, in place of those in the settings.
    pub parameters: &'a BTreeMap<String, String>,
    /// Make it the site's sitemap; else only compare.
    pub switch: bool,
    /// How long the query may take.
    pub query_longest: Duration,
    /// A directory of its own for working files.
    pub work_dir: &'a Path,
}

/// What was found, and done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TakenOver {
    /// The sitemap, by [`keys::sitemap`].
    pub site: String,
    /// Whether it is the site's sitemap now.
    pub switched: bool,
    /// Pages that were read.
    pub urls: u64,
    /// Pages that cannot be in a sitemap of this site.
    pub foreign: u64,
    /// Files that keep their names and their pages.
    pub kept: Vec<String>,
    /// Files that cannot be kept, and why.
    pub not_kept: Vec<(String, String)>,
    /// Addresses of those among them that only the old index can name.
    pub unnamed: Vec<String>,
    /// How the site's rows differ.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// The addresses of the indexes that were read.
    pub old_indexes: Vec<String>,
    /// The address of ours.
    pub index: String,
    /// The key of the committed manifest, after a switch.
    pub manifest: Option<String>,
}

/// Why a sitemap cannot be taken over. The site's sitemap is what it was.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// It cannot be read or compared.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The lists are none.
    #[error("the lists to compare with: {0}")]
    Lists(String),
    /// There is a sitemap of ours already.
    #[error(
        "{site} has a sitemap already, by the run {run}: nothing is to be taken over, `tidemark sitemap run {site}` goes \
         on with it"
    )]
    Committed {
        /// The site.
        site: String,
        /// The run that committed it.
        run: String,
    },
    /// A run was killed before its first commit.
    #[error("a run of {0} was killed before its first commit: `tidemark sitemap run {0}` ends what it began")]
    Interrupted(String),
    /// Nothing is won by it.
    #[error("no file of it can be kept: `tidemark sitemap run {0}` begins anew beside it, without its names")]
    NothingKept(String),
    /// The old index would be replaced, and pages would be in no index.
    #[error(
        "{index} would be replaced, and ours cannot name {}: serve them under {files_url}/, or give the old index \
         another name and import it from there", .files.join(", ")
    )]
    Unnamed {
        /// The old index, in the place of ours.
        index: String,
        /// Where our files lie.
        files_url: String,
        /// Some of the files, by address.
        files: Vec<String>,
    },
    /// The web does not show the bucket.
    #[error(
        "{url} is not what lies at s3://{object}: wait until no cache has an old one; else publish.bucket, \
         publish.prefix or files_url of the site are not those of its address"
    )]
    IndexDiffers {
        /// The old index, in the place of ours.
        url: String,
        /// Bucket and key.
        object: String,
    },
    /// Somebody's index is in our place.
    #[error("s3://{0} is in the place of our index, and is not the one to take over: import that one, or move it away")]
    IndexTaken(String),
}

/// Files that are named in an error.
const FILES_NAMED: usize = 10;

/// Compares the sitemap that was `found` with the site's rows, and takes it over where the run is to.
///
/// # Errors
/// A [`RefreshError`]. Crawlers see what they saw before, and the same import goes on from where this one ended.
pub async fn take_over(around: &Surroundings, run: Takeover<'_>, found: Found) -> Result<TakenOver, RefreshError> {
    let (site, settings) = around.one(run.site, run.sitemap).await?;
    let name = keys::sitemap(run.site, &site.sitemap.name);
    let run = Takeover { site: &name, ..run };
    if !run.switch {
        let look = Look::at(around, (&site, &settings), run, found).await?;
        return Ok(look.told(run, &site, None));
    }
    let mut held = around.lease(run.site, run.id).await?;
    let outcome = under_lease(around, (&site, &settings), run, found, &mut held).await;
    let_go(held, run.site, outcome).await
}

async fn under_lease(
    around: &Surroundings,
    (site, settings): (&Site, &[u8]),
    run: Takeover<'_>,
    found: Found,
    held: &mut Held<Committed>,
) -> Result<TakenOver, RefreshError> {
    let state = &held.document.state;
    if let Some(by) = state.hold.clone() {
        return Err(RefreshError::OnHold { site: run.site.to_owned(), by });
    }
    let done = state.manifest.clone();
    if done.is_some() && state.run.as_deref() != Some(run.id) {
        let (site, run) = (run.site.to_owned(), state.run.clone().unwrap_or_default());
        return Err(TakeoverError::Committed { site, run }.into());
    }
    let began_ms = around.clock.now_ms();
    let look = Look::at(around, (site, settings), run, found).await?;
    let manifest = match done {
        // An earlier attempt of this run came as far as the commit.
        Some(key) => key,
        None => {
            let ending = Ending {
                around,
                name: run.site,
                run: run.id,
                site,
                bucket: &look.bucket,
                work_dir: run.work_dir,
                began_ms,
                hold: false,
            };
            switch(&ending, &look, held).await?
        }
    };
    Ok(look.told(run, site, Some(manifest)))
}

/// A sitemap that was read, with its place in the bucket, and compared.
struct Look {
    bucket: Bucket,
    import: Import,
    comparison: Comparison,
    /// The addresses of the old indexes, each with a copy.
    tops: Vec<(String, PathBuf)>,
}

impl Look {
    async fn at(
        around: &Surroundings,
        (site, settings): (&Site, &[u8]),
        run: Takeover<'_>,
        mut found: Found,
    ) -> Result<Self, RefreshError> {
        let files_url = &site.sitemap.files_url;
        let names = found.files.iter().filter(|file| file.is_under(files_url)).map(|file| file.file.as_str());
        let bucket = Bucket::open(around.s3.clone(), site.target.clone(), names).await?;
        for file in &mut found.files {
            locate(file, &bucket, site).await?;
        }
        let options = site.sitemap.options(run.id, around.clock.now_ms());
        let tops = found.tops.clone();
        let import = read(found, &options, run.work_dir).map_err(TakeoverError::from)?;
        let comparison = compare(around, (site, settings), run, (&import, &options, &bucket)).await?;
        Ok(Self { bucket, import, comparison, tops })
    }

    fn told(self, run: Takeover<'_>, site: &Site, manifest: Option<String>) -> TakenOver {
        let files_url = &site.sitemap.files_url;
        let unnamed = self.import.left.iter().filter(|file| !file.is_under(files_url));
        TakenOver {
            site: run.site.to_owned(),
            switched: manifest.is_some(),
            urls: self.import.urls,
            foreign: self.import.foreign,
            unnamed: unnamed.map(|file| file.url.clone()).collect(),
            kept: self.import.kept,
            not_kept: self.import.not_kept,
            comparison: self.comparison,
            old_indexes: self.tops.into_iter().map(|(url, _)| url).collect(),
            index: index_url(site),
            manifest,
        }
    }
}

impl FoundFile {
    /// Whether an index of ours can name it.
    fn is_under(&self, files_url: &str) -> bool {
        self.is_plain() && self.url.strip_prefix(files_url).and_then(|rest| rest.strip_prefix('/')) == Some(&self.file)
    }
}

fn index_url(site: &Site) -> String {
    format!("{}/{}", site.sitemap.files_url, keys::INDEX)
}

/// Finds the object that `file` is, or says why it is none.
async fn locate(file: &mut FoundFile, bucket: &Bucket, site: &Site) -> Result<(), RefreshError> {
    let files_url = &site.sitemap.files_url;
    if !file.is_under(files_url) {
        file.problem = Some(format!("does not lie under {files_url}/"));
        return Ok(());
    }
    let Some(current) = bucket.current(&file.file).await? else {
        file.problem = Some(format!("is not in s3://{}/{}", site.target.bucket, site.target.prefix));
        return Ok(());
    };
    let failed = |error| RefreshError::from(TakeoverError::from(io_error(&file.path)(error)));
    if !says_the_same(&current.bytes, &fs::read(&file.path).map_err(failed)?) {
        file.problem = Some("says something else in the bucket than on the web".to_owned());
        return Ok(());
    }
    fs::write(&file.path, &current.bytes).map_err(failed)?;
    if let (None, Some(modified_ms)) = (file.changed(), current.modified_ms) {
        file.changed_at = index_time(modified_ms);
    }
    file.object = Some((current.etag, current.version));
    Ok(())
}

/// Whether two files are the same to a crawler: a CDN may have packed or unpacked one.
fn says_the_same(one: &[u8], other: &[u8]) -> bool {
    let same = || Some(unpack(one.to_vec()).ok()? == unpack(other.to_vec()).ok()?);
    one == other || same().unwrap_or(false)
}

/// Compares what was imported with the site's rows, or with the run's lists.
async fn compare(
    around: &Surroundings,
    (site, settings): (&Site, &[u8]),
    run: Takeover<'_>,
    (import, options, bucket): (&Import, &Options, &Bucket),
) -> Result<Comparison, RefreshError> {
    let (source, statement) = match run.lists {
        Some(lists) => (Source::objects(lists).map_err(TakeoverError::Lists)?, Statement::default()),
        None => (site.source.clone(), around.statement(run.parameters, site).await?),
    };
    let work_dir = run.work_dir.join("here");
    fs::create_dir_all(&work_dir).map_err(|error| TakeoverError::from(io_error(&work_dir)(error)))?;
    // Every attempt writes where nobody wrote before.
    let number = u64::try_from(around.clock.now_ms()).unwrap_or_default();
    let attempt = Attempt { site: run.site, run: run.id, number, longest: run.query_longest, work_dir: &work_dir };
    let previous = Manifest::empty(site.sitemap.base.as_str());
    let compared = comparable(options);
    let pass = Pass {
        attempt,
        site,
        settings,
        statement: &statement,
        previous: &previous,
        previous_key: None,
        options: &compared,
        bucket,
        strays: &[],
    };
    let mut supply = Supply::new(&work_dir, None);
    let built = async {
        let rows = supply.rows(around.reach(), attempt, (&source, &statement), (&[], None)).await?;
        let Some((input, _)) = rows else { unreachable!("no rows are known before") };
        around.pass(&pass, input).await
    };
    let built = built.await;
    supply.clear(around.reach()).await;
    Ok(compare_with(import, &built?, options, run.work_dir).map_err(TakeoverError::from)?)
}

/// Makes what was imported the site's sitemap, and gives the key of its manifest.
async fn switch(ending: &Ending<'_>, look: &Look, held: &mut Held<Committed>) -> Result<String, RefreshError> {
    let Ending { around, site, run, bucket, .. } = *ending;
    let import = &look.import;
    if import.kept.is_empty() {
        return Err(TakeoverError::NothingKept(ending.name.to_owned()).into());
    }
    let files_url = &site.sitemap.files_url;
    let mut known: BTreeSet<&str> = import.kept.iter().map(String::as_str).collect();
    let nameable = import.left.iter().filter(|file| file.is_under(files_url));
    let named: Vec<&FoundFile> = nameable.filter(|file| known.insert(&file.file)).collect();
    let outgoing = named.iter().filter(|file| file.object.is_some()).map(|file| file.file.clone()).collect();
    let manifest = Manifest { run: run.to_owned(), outgoing, ..import.manifest.clone() };
    let now = index_time(around.clock.now_ms());
    let entry =
        |file: &&FoundFile| Entry { file: file.file.clone(), changed_at: file.changed().unwrap_or(&now).to_owned() };
    let entries: Vec<Entry> = manifest.shards.iter().map(Entry::of).chain(named.iter().map(entry)).collect();
    let (files, files_max) = (entries.len(), site.sitemap.limits.index.shards_max);
    if files > files_max {
        let url = index_url(site);
        return Err(TakeoverError::from(ImportError::TooMany { url, files, files_max }).into());
    }
    if held.document.state.intent.iter().any(|file| !known.contains(file.as_str())) {
        return Err(TakeoverError::Interrupted(ending.name.to_owned()).into());
    }
    let wrong = |problem| RefreshError::Manifest {
        key: format!("of {run}, which is not written,"),
        source: ManifestError::Invalid(problem),
    };
    manifest.check().map_err(wrong)?;
    let current = replaced(ending, look, &entries).await?;
    held.document.state.intent = manifest.files().map(str::to_owned).collect();
    held.commit(around.clock.now_ms() + LEASE_MS).await?;
    let index = xml::index(&entries, files_url);
    if current.as_ref() != Some(&index) {
        bucket.put_index(keys::INDEX, &index).await?;
    }
    let previous = Manifest::empty(site.sitemap.base.as_str());
    Ok(ending.make_current(manifest, None, &previous, held).await?.1)
}

/// What stands in the place of our index, where it may be replaced by one of `entries`: the index that is taken over, or
/// what a killed attempt wrote.
async fn replaced(ending: &Ending<'_>, look: &Look, entries: &[Entry]) -> Result<Option<Vec<u8>>, RefreshError> {
    let site = ending.site;
    let files_url = &site.sitemap.files_url;
    let object = format!("{}/{}{}", site.target.bucket, site.target.prefix, keys::INDEX);
    let current = ending.bucket.current(keys::INDEX).await?.map(|current| current.bytes);
    let Some((url, copy)) = look.tops.iter().find(|(url, _)| *url == index_url(site)) else {
        let files = |entries: &[Entry]| entries.iter().map(|entry| entry.file.clone()).collect::<BTreeSet<_>>();
        return match current {
            Some(bytes) if files(&xml::index_entries(&bytes, files_url)) != files(entries) => {
                Err(TakeoverError::IndexTaken(object).into())
            }
            current => Ok(current),
        };
    };
    let unnamed = look.import.left.iter().filter(|file| !file.is_under(files_url));
    let files: Vec<String> = unnamed.take(FILES_NAMED).map(|file| file.url.clone()).collect();
    if !files.is_empty() {
        return Err(TakeoverError::Unnamed { index: url.clone(), files_url: files_url.clone(), files }.into());
    }
    let read = fs::read(copy).map_err(|error| TakeoverError::from(io_error(copy)(error)))?;
    match current {
        Some(bytes) if says_the_same(&bytes, &read) => Ok(Some(bytes)),
        _ => Err(TakeoverError::IndexDiffers { url: url.clone(), object }.into()),
    }
}
