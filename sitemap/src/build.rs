//! One pass: rows in, changed shards made and staged, a new shard manifest and the account out.
//!
//! Nothing is published here: what changed lies in a staging directory until [`crate::publish`] puts it in place. So a
//! guard can still refuse the outcome, and the order of publishing does not hang on the order of the rows.

mod assembly;
mod stage;
mod uncached;

pub(crate) use assembly::Assembly;
pub use stage::Packing;
pub(crate) use stage::new_file;

use crate::canonical::HostsError;
use crate::closure::{self, Circle, Meeting};
use crate::columns::Columns;
use crate::cut::{Cutter, Limits};
use crate::guard::Drop;
use crate::keys;
use crate::manifest::{Manifest, Shard};
use crate::newest::Newest;
use crate::pages::{Gate, Policy, RawPage};
use crate::report::{Ledger, Report};
use crate::row::{self, Note, Row};
use crate::sort::{MEMORY_BYTES, SortError, Sorter};
use crate::source::{self, Sink, SourceError, merge};
use stage::Stage;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64};

/// What made the files: equal rows give equal bytes for one library and level.
pub const COMPRESSOR: &str = "libdeflate";

/// Rows between two words on how far a pass is.
const ROWS_TOLD: u64 = 4096;
/// Rows that may wait to be placed, in bytes, where they come in order.
const WAITING_BYTES_MAX: usize = 16 << 10;

/// [`Options::drop_percent_max`] where nothing else is said.
pub const DROP_PERCENT_MAX: u32 = 50;

/// What is told where a sitemap of recent pages or news has none.
pub const NOTHING_NEW: &str = "no page is in the sitemap's window: what was published last stays";
/// Why a row is not among the newest.
const NOT_NEWEST: &str = "older than the newest pages, which alone the sitemap takes";

/// How a sitemap is built.
#[derive(Clone, Debug)]
pub struct Options {
    /// What rows are held against.
    pub policy: Policy,
    /// How big shards may be.
    pub limits: Limits,
    /// What shards are written as.
    pub packing: Packing,
    /// The compression level, 1 to 12.
    pub level: i32,
    /// How many percent fewer URLs than before are believed; more is taken for a truncated list and refused.
    pub drop_percent_max: u32,
    /// The same for single kinds.
    pub kinds_drop_percent_max: BTreeMap<String, u32>,
    /// Who allows a greater drop in this run, and why, if somebody does.
    pub accept_drop: Option<String>,
    /// Whether what is built is a part of a sitemap: guards and windows are for the whole.
    pub is_part: bool,
    /// Whether a sitemap that is sorted by something else is cut anew: every page goes into a new file.
    pub reshard: bool,
    /// The run's ID.
    pub run: String,
    /// When changed rows are published, in milliseconds since the epoch: what the index says of their shards.
    pub changed_ms: i64,
    /// Rows held in memory where the input has to be sorted, in bytes.
    pub sort_memory_bytes: usize,
    /// Rows read so far, roughly, for whoever watches from outside.
    pub rows_read: Arc<AtomicU64>,
}

impl Options {
    /// The usual settings for `policy` and a run called `run`.
    #[must_use]
    pub fn new(policy: Policy, run: impl Into<String>) -> Self {
        Self {
            changed_ms: policy.now_ms,
            policy,
            limits: Limits::default(),
            packing: Packing::Gzip,
            level: 4,
            drop_percent_max: DROP_PERCENT_MAX,
            kinds_drop_percent_max: BTreeMap::new(),
            accept_drop: None,
            is_part: false,
            reshard: false,
            run: run.into(),
            sort_memory_bytes: MEMORY_BYTES,
            rows_read: Arc::default(),
        }
    }
}

/// Why a sitemap could not be built. What was published before stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The page list cannot be read to its end.
    #[error(transparent)]
    Source(Box<SourceError<BuildError>>),
    /// The rows are not in order, and this pass wanted them so. Only seen inside.
    #[error("rows are not in the order of their loc")]
    OutOfOrder,
    /// No row was left.
    #[error(
        "no page is left for the sitemap ({rows} rows read{reasons}): an empty sitemap is not valid, so nothing was written",
        rows = .0.input,
        reasons = .0.reasons()
    )]
    Empty(Box<Report>),
    /// Far fewer pages than before.
    #[error(
        "{drops} ({rows} rows read{reasons}): if that is right, accept the drop for this run with --accept-drop WHY; \
         nothing was written, the last good sitemap stays",
        drops = .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        rows = .1.input,
        reasons = .1.reasons()
    )]
    Drop(Vec<Drop>, Box<Report>),
    /// The manifest is for another site.
    #[error("the state is of a sitemap for {old}, this run is for {new}: give the same base URL or another directory")]
    OtherSite {
        /// The site in the manifest.
        old: String,
        /// The site asked for.
        new: String,
    },
    /// The manifest is of rows in another order.
    #[error(
        "the shards are of pages sorted by {old}, and now they are by {new}: set it back, or have every page go into a new \
         file once, with --reshard"
    )]
    OtherKey {
        /// What the manifest says.
        old: String,
        /// What is asked for.
        new: String,
    },
    /// Pages have versions in other languages, which takes more than one pass; build with [`Order::Unknown`].
    #[error("rows with alternates or a group have to be sorted: give them without an order")]
    Versions,
    /// The site's hosts are none.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// The compression level does not exist.
    #[error("there is no compression level {0}: give one from 1 to 12")]
    Level(i32),
    /// Sorting failed.
    #[error(transparent)]
    Sort(#[from] SortError),
    /// A working file cannot be written.
    #[error("cannot write {path}: check that the directory can be written and has space")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl BuildError {
    /// Whether the same rows can be built with [`Order::Unknown`].
    #[must_use]
    pub fn wants_sorting(&self) -> bool {
        matches!(self, Self::OutOfOrder | Self::Versions)
    }
}

/// A file that is ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub file: String,
    /// Where it lies.
    pub staged: PathBuf,
    /// How big it is.
    pub bytes: u64,
}

/// A file that a run wrote which never committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Its name.
    pub file: String,
    /// XXH3-128 of its bytes, in hexadecimal.
    pub hash: String,
}

/// What stands at the place where the sitemap lies.
#[derive(Clone, Copy)]
pub struct Standing<'a> {
    /// Tells whether a shard's file still is what the manifest says.
    pub intact: &'a Intact<'a>,
    /// What is left of a run that was killed.
    pub strays: &'a [Stray],
}

impl std::fmt::Debug for Standing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standing").field("strays", &self.strays).finish_non_exhaustive()
    }
}

/// What a pass made.
#[derive(Debug)]
pub struct Built {
    /// The new manifest. The stamps of changed shards are still missing.
    pub manifest: Manifest,
    /// The manifest before.
    pub previous: Manifest,
    /// What that was before it gave up its shards, where the sitemap is cut anew.
    pub cut_anew: Option<Manifest>,
    /// New and rewritten files.
    pub changes: Vec<Change>,
    /// Files of a killed run that this one has no use for.
    pub strays: Vec<String>,
    /// The account.
    pub report: Report,
}

impl Built {
    /// What a pass over the rows of the run before would make, where all of its files are in place.
    #[must_use]
    pub fn unchanged(previous: Manifest) -> Self {
        let manifest = previous.clone();
        Self { manifest, previous, cut_anew: None, changes: Vec::new(), strays: Vec::new(), report: Report::default() }
    }

    /// The sitemap that stands until this is published.
    pub(crate) fn before(&self) -> &Manifest {
        self.cut_anew.as_ref().unwrap_or(&self.previous)
    }
}

/// Builds from the page lists at `inputs`. Several that are each in order are merged; rows out of order are sorted in
/// `work_dir`, where the changed files and the rejects go too. Also gives the XXH3-128 of every input.
///
/// # Errors
/// A [`BuildError`]; nothing was published.
pub fn from_files(
    inputs: &[PathBuf],
    previous: &Manifest,
    work_dir: &Path,
    options: &Options,
    standing: Standing<'_>,
) -> Result<(Built, Vec<u128>), BuildError> {
    let pass = |order| {
        let mut build = Build::new(previous.clone(), work_dir, options, order, standing)?;
        let hashes = if order == Order::Given && (2..=merge::FILES_MAX).contains(&inputs.len()) {
            let addresses = options.policy.addresses()?;
            let key = |loc: &[u8], out: &mut Vec<u8>| addresses.resolve(loc, out).is_ok();
            merge::read_merged(inputs, work_dir, &key, &mut build).map_err(stopped)?;
            inputs.iter().map(|input| source::hash_of(input).map_err(stopped)).collect::<Result<_, _>>()?
        } else {
            let mut read = |input: &PathBuf| source::read(input, work_dir, &mut build).map_err(stopped);
            inputs.iter().map(&mut read).collect::<Result<_, _>>()?
        };
        Ok::<_, BuildError>((build.finish()?, hashes))
    };
    match pass(Order::Given) {
        Err(error) if error.wants_sorting() => pass(Order::Unknown),
        outcome => outcome,
    }
}

fn stopped(error: SourceError<BuildError>) -> BuildError {
    match error {
        SourceError::Stopped(stop) => stop,
        other => BuildError::Source(Box::new(other)),
    }
}

/// The manifest to go on from, with rows in the order that the options ask for; and the one that it was, where the
/// sitemap is cut anew for that.
fn ordered(previous: Manifest, options: &Options) -> Result<(Manifest, Option<Manifest>), BuildError> {
    let wanted = options.policy.sorted_by();
    if previous.sort_key == wanted {
        return Ok((previous, None));
    }
    if previous.shards.is_empty() {
        return Ok((previous.anew(wanted), None));
    }
    if !options.reshard {
        return Err(BuildError::OtherKey { old: previous.sort_key, new: wanted.to_owned() });
    }
    Ok((previous.clone().anew(wanted), Some(previous)))
}

/// Tells whether a shard's file still is what the manifest says.
pub type Intact<'a> = dyn Fn(&Shard) -> bool + Sync + 'a;

/// Whether rows are expected in the order of their normalised loc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// They are; the first that is not ends the pass.
    Given,
    /// Nobody knows: sort.
    Unknown,
}

/// A pass under way. Rows are pushed into it by way of [`Sink`].
pub struct Build<'a> {
    options: &'a Options,
    gate: Gate,
    sorter: Option<Sorter>,
    /// Takes the rows that are left, each of another loc, where they are cut by a sort key.
    by_key: Option<Sorter>,
    rows_read: Arc<AtomicU64>,
    /// A row on its way to the sorter.
    row: Vec<u8>,
    /// Holds rows back where only the newest are taken.
    newest: Option<Newest>,
    cutter: Cutter,
    stage: Stage<'a>,
    emitted: u64,
    /// Whether any page has versions in other languages.
    any_versions: bool,
    sort_memory_bytes: usize,
}

impl<'a> Build<'a> {
    /// Begins a pass that continues `previous` and works in `work_dir`.
    ///
    /// # Errors
    /// Where settings contradict the manifest, or the directory cannot be written.
    pub fn new(
        previous: Manifest,
        work_dir: &Path,
        options: &'a Options,
        order: Order,
        standing: Standing<'a>,
    ) -> Result<Self, BuildError> {
        let base = options.policy.base.as_str();
        if previous.base_url != base {
            return Err(BuildError::OtherSite { old: previous.base_url, new: base.to_owned() });
        }
        let (previous, cut_anew) = ordered(previous, options)?;
        let staging = work_dir.join(keys::STAGING_DIR);
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(io_error(&staging))?;
        }
        fs::create_dir_all(&staging).map_err(io_error(&staging))?;
        let rejects = work_dir.join(keys::REJECTS);
        let mut ledger = Ledger::new(Box::new(BufWriter::new(File::create(&rejects).map_err(io_error(&rejects))?)));
        // Kinds with a guard are counted by name, however many others there are.
        ledger.report.kinds = options.kinds_drop_percent_max.keys().map(|kind| (kind.clone(), 0)).collect();
        let stage = Stage::new(previous, cut_anew, staging, options, standing)?;
        let sort_key = options.policy.sort_key;
        let sort_memory_bytes = options.sort_memory_bytes / if sort_key { 2 } else { 1 };
        Ok(Self {
            options,
            gate: Gate::new(options.policy.clone(), ledger)?,
            sorter: (order == Order::Unknown).then(|| Sorter::new(work_dir.to_owned(), sort_memory_bytes)),
            by_key: sort_key.then(|| Sorter::by_key(work_dir.to_owned(), sort_memory_bytes)),
            rows_read: Arc::clone(&options.rows_read),
            row: Vec::new(),
            newest: options.policy.select.newest.map(Newest::new),
            cutter: Cutter::new(options.limits, stage.previous.shards.clone()),
            stage,
            emitted: 0,
            any_versions: false,
            sort_memory_bytes,
        })
    }

    /// Ends the input and gives what the pass made.
    ///
    /// # Errors
    /// A [`BuildError`], above all where no page is left.
    pub fn finish(mut self) -> Result<Built, BuildError> {
        if let Some(mut sorter) = self.sorter.take() {
            if self.any_versions {
                sorter = self.meet(sorter)?;
            }
            sorter.drain(|row| {
                let Some(read) = Row::first(row) else { return Ok::<_, BuildError>(()) };
                match read.note() {
                    None => {
                        self.cutter.unplaced().0.extend_from_slice(row);
                        return self.place_run();
                    }
                    // Links come after the rows of their page, of which the best waits.
                    Some(Note::Links) => {
                        self.place(true)?;
                        let (rows, waiting) = self.cutter.unplaced();
                        if Row::first(&rows[waiting..]).is_some_and(|page| page.loc() == read.loc()) {
                            closure::link(rows, waiting, &read);
                        }
                    }
                    // A page of another sitemap, where no page has versions.
                    Some(_) => {}
                }
                Ok(())
            })?;
        }
        self.place(false)?;
        for row in self.newest.take().map(Newest::into_rows).unwrap_or_default() {
            self.cutter.unplaced().0.extend_from_slice(&row);
            self.place_run()?;
        }
        self.place(false)?;
        if let Some(by_key) = self.by_key.take() {
            by_key.drain(|row| {
                self.cutter.unplaced().0.extend_from_slice(row);
                self.cutter.place(1, &mut self.stage)
            })?;
        }
        self.cutter.finish(&mut self.stage)?;
        let rejects = self.stage.staging.with_file_name(keys::REJECTS);
        let report = self.gate.close(self.emitted).map_err(io_error(&rejects))?;
        debug_assert!(report.adds_up());
        self.stage.finish(report, self.options)
    }

    /// Hands `self.row` to the sorter, after what its page says of its versions.
    fn sort(&mut self) -> Result<(), BuildError> {
        let (Some(sorter), Some(row)) = (&mut self.sorter, Row::first(&self.row)) else { return Ok(()) };
        let versions = self.gate.versions();
        if versions.key.is_some() {
            self.any_versions = true;
            closure::state(row.loc(), versions, sorter)?;
        }
        sorter.push(row.as_bytes())?;
        self.row.clear();
        Ok(())
    }

    /// Notes the page that was left out last, where it is in another sitemap, and what it says of its versions: of those it
    /// may be one itself, by what others say.
    fn pass_by(&mut self) -> Result<(), BuildError> {
        let Some(loc) = self.gate.elsewhere() else { return Ok(()) };
        let (versions, is_sorting) = (self.gate.versions(), self.sorter.is_some());
        match &mut self.sorter {
            Some(sorter) => closure::state_elsewhere(loc, versions, sorter)?,
            None if versions.key.is_some() => return Err(BuildError::Versions),
            None => {}
        }
        self.any_versions |= is_sorting && versions.key.is_some();
        Ok(())
    }

    /// Puts versions together: gives the rows of `sorter` again, each followed by its links.
    fn meet(&mut self, sorter: Sorter) -> Result<Sorter, BuildError> {
        let Self { gate, stage, sort_memory_bytes, .. } = self;
        let work_dir = stage.staging.parent().unwrap_or(&stage.staging).to_owned();
        let rejects = stage.staging.with_file_name(keys::REJECTS);
        let mut tell = |reason: &'static str, loc: &[u8]| gate.version_dropped(reason, loc).map_err(io_error(&rejects));
        let mut linked = Sorter::new(work_dir.clone(), *sort_memory_bytes / 2);
        let mut meeting = Meeting::new(Sorter::new(work_dir, *sort_memory_bytes / 2));
        sorter.drain(|bytes| {
            let Some(row) = Row::first(bytes) else { return Ok(()) };
            if row.note().is_none() {
                linked.push(bytes)?;
            }
            meeting.take::<BuildError>(&row, &mut tell)
        })?;
        let mut circle = Circle::new();
        meeting.finish::<BuildError>(&mut tell)?.drain(|bytes| match Row::first(bytes) {
            Some(row) => circle.take::<BuildError>(&row, &mut linked, &mut tell),
            None => Ok(()),
        })?;
        circle.close::<BuildError>(&mut linked, &mut tell)?;
        Ok(linked)
    }

    /// Places the rows that were appended to the cutter's, of each loc the best. The last one goes on waiting where `more`
    /// may come: a later row can still replace it.
    fn place(&mut self, more: bool) -> Result<(), BuildError> {
        let (rows, start) = self.cutter.unplaced();
        let settled = row::settle(rows, start).ok_or(BuildError::OutOfOrder)?;
        self.gate.duplicates(settled.dropped);
        let (count, end) =
            if more { (settled.kept.saturating_sub(1), settled.last_start) } else { (settled.kept, rows.len()) };
        if let Some(newest) = &mut self.newest {
            let rejects = self.stage.staging.with_file_name(keys::REJECTS);
            for row in row::all(&rows[start..end]) {
                let too_old = newest.take(&row);
                too_old.iter().try_for_each(|loc| self.gate.too_old(NOT_NEWEST, loc)).map_err(io_error(&rejects))?;
            }
            rows.drain(start..end);
            return Ok(());
        }
        self.emitted += count;
        let Some(by_key) = &mut self.by_key else { return self.cutter.place(count, &mut self.stage) };
        row::all(&rows[start..end]).try_for_each(|row| by_key.push(row.as_bytes()))?;
        rows.drain(start..end);
        Ok(())
    }

    /// Says how far the pass is, now and then.
    fn count_read(&self, line: u64) {
        if line.is_multiple_of(ROWS_TOLD) {
            self.rows_read.fetch_add(ROWS_TOLD, atomic::Ordering::Relaxed);
        }
    }

    /// Places them where enough wait: in one go, while the processor's first cache holds them.
    fn place_run(&mut self) -> Result<(), BuildError> {
        let (rows, start) = self.cutter.unplaced();
        if rows.len() - start < WAITING_BYTES_MAX { Ok(()) } else { self.place(true) }
    }

    fn rejects_error(&self) -> impl FnOnce(io::Error) -> BuildError + use<> {
        io_error(&self.stage.staging.with_file_name(keys::REJECTS))
    }
}

impl std::fmt::Debug for Build<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Build").field("gate", &self.gate).field("emitted", &self.emitted).finish_non_exhaustive()
    }
}

impl Sink for Build<'_> {
    type Stop = BuildError;

    fn columns(&self) -> Columns {
        self.gate.columns().clone()
    }

    fn page(&mut self, page: &RawPage<'_>) -> Result<(), BuildError> {
        self.count_read(page.line);
        let rows = if self.sorter.is_none() { self.cutter.unplaced().0 } else { &mut self.row };
        match self.gate.admit(page, rows) {
            Ok(false) => self.pass_by(),
            Ok(true) if self.sorter.is_none() => match self.gate.versions().key {
                None => self.place_run(),
                Some(_) => Err(BuildError::Versions),
            },
            Ok(true) => self.sort(),
            Err(error) => Err(self.rejects_error()(error)),
        }
    }

    fn plain_page(&mut self, loc: &[u8], lastmod: &[u8], line: u64) -> Result<(), BuildError> {
        let rows = if self.sorter.is_none() { self.cutter.unplaced().0 } else { &mut self.row };
        if !self.gate.admit_plain(loc, lastmod, rows) {
            return self.page(&RawPage::plain(loc, lastmod, line));
        }
        self.count_read(line);
        if self.sorter.is_none() { self.place_run() } else { self.sort() }
    }

    fn refuse(&mut self, line: u64, problem: &str, value: &[u8], detail: &str) -> Result<(), BuildError> {
        self.gate.refuse(line, problem, value, detail).map_err(|error| self.rejects_error()(error))
    }
}

/// A time as an index shows it.
pub(crate) fn index_time(ms: i64) -> String {
    jiff::Timestamp::from_second(ms.div_euclid(1000)).map(|at| at.to_string()).unwrap_or_default()
}

pub(crate) fn hex(hash: u128) -> String {
    format!("{hash:032x}")
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> BuildError + use<> {
    let path = path.to_owned();
    move |source| BuildError::Io { path, source }
}

#[cfg(test)]
mod tests;
