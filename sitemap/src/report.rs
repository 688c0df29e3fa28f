//! The account of a run: where every row of the input went.
//!
//! Promises: input = emitted + duplicates + excluded + rejected, always; what was rejected or dropped from a row is
//! written to the rejects file, line by line, and a few of each kind are kept as samples.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

/// Samples kept of each reason.
const SAMPLES_EACH_MAX: usize = 3;
/// Kinds that are counted one by one.
pub const KINDS_MAX: usize = 100;
/// What further kinds are counted under.
pub const OTHER_KINDS: &str = "(others)";
/// Longest part of a bad value that is shown or written, in bytes.
const SHOWN_BYTES_MAX: usize = 300;

/// What happened to a row, or to a part of it, that did not simply pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The row is not in the sitemap, because it cannot be.
    Rejected,
    /// The row is not in the sitemap, because it says so itself.
    Excluded,
    /// The row stays; a field of it was left out.
    Dropped,
    /// The row stays as it is; somebody should look at it.
    Flagged,
}

/// One example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// What happened.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
    /// The line (in Parquet and Athena the row) of the input, from 1.
    pub line: u64,
    /// The value, shortened.
    pub value: String,
}

/// Counts and samples of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rows read.
    pub input: u64,
    /// Rows that are in the sitemap.
    pub emitted: u64,
    /// Rows whose loc another row has too, with a lastmod at least as new.
    pub duplicates: u64,
    /// Rows that were left out because they say so, by reason.
    pub excluded: BTreeMap<String, u64>,
    /// Rows that cannot be in the sitemap, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Fields left out of rows that stayed, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Things to look at in rows that stayed whole, by reason.
    pub flagged: BTreeMap<String, u64>,
    /// Rows that passed, duplicates among them, by the column `kind` where it is filled; kinds past
    /// [`KINDS_MAX`] count as [`OTHER_KINDS`].
    #[serde(default)]
    pub kinds: BTreeMap<String, u64>,
    /// A few of each.
    pub samples: Vec<Sample>,
}

impl Report {
    /// Rows rejected, all reasons together.
    #[must_use]
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Rows excluded, all reasons together.
    #[must_use]
    pub fn excluded_total(&self) -> u64 {
        self.excluded.values().sum()
    }

    /// The reasons for which rows are not in the sitemap, on one line.
    #[must_use]
    pub fn reasons(&self) -> String {
        let counts = self.rejected.iter().chain(&self.excluded);
        counts.map(|(reason, count)| format!("; {count} x {reason}")).collect()
    }

    /// True where every row of the input is accounted for.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.input == self.emitted + self.duplicates + self.excluded_total() + self.rejected_total()
    }

    /// Tells of `count` things to look at, for `reason`.
    pub(crate) fn flag(&mut self, reason: &str, count: u64) {
        *self.flagged.entry(reason.to_owned()).or_default() += count;
    }

    /// Counts a row of `kind` that passed.
    pub(crate) fn count_kind(&mut self, kind: &[u8]) {
        let kind = kind.trim_ascii();
        if kind.is_empty() {
            return;
        }
        let kind = shorten(kind);
        let known = self.kinds.contains_key(&kind) || self.kinds.len() < KINDS_MAX;
        *self.kinds.entry(if known { kind } else { OTHER_KINDS.to_owned() }).or_default() += 1;
    }

    /// Adds the account of another part of the rows; samples up to the usual number of each.
    pub fn add(&mut self, other: Self) {
        self.input += other.input;
        self.emitted += other.emitted;
        self.duplicates += other.duplicates;
        let counts = [
            (&mut self.excluded, other.excluded),
            (&mut self.rejected, other.rejected),
            (&mut self.dropped, other.dropped),
            (&mut self.flagged, other.flagged),
            (&mut self.kinds, other.kinds),
        ];
        for (mine, theirs) in counts {
            for (reason, count) in theirs {
                *mine.entry(reason).or_default() += count;
            }
        }
        for sample in other.samples {
            let same = |mine: &&Sample| (mine.outcome, &mine.reason) == (sample.outcome, &sample.reason);
            if self.samples.iter().filter(same).count() < SAMPLES_EACH_MAX {
                self.samples.push(sample);
            }
        }
    }

    fn count(&mut self, outcome: Outcome, reason: &str) -> u64 {
        let counts = match outcome {
            Outcome::Rejected => &mut self.rejected,
            Outcome::Excluded => &mut self.excluded,
            Outcome::Dropped => &mut self.dropped,
            Outcome::Flagged => &mut self.flagged,
        };
        if let Some(count) = counts.get_mut(reason) {
            *count += 1;
            return *count;
        }
        counts.insert(reason.to_owned(), 1);
        1
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rows read = {} emitted + {} duplicates + {} excluded + {} rejected",
            self.input,
            self.emitted,
            self.duplicates,
            self.excluded_total(),
            self.rejected_total()
        )?;
        let kinds = [
            ("rejected", Outcome::Rejected, &self.rejected),
            ("excluded", Outcome::Excluded, &self.excluded),
            ("dropped from its row", Outcome::Dropped, &self.dropped),
            ("look at", Outcome::Flagged, &self.flagged),
        ];
        for (title, outcome, counts) in kinds {
            for (reason, count) in counts {
                writeln!(f, "  {title}: {count} x {reason}")?;
                for sample in self.samples.iter().filter(|s| s.outcome == outcome && s.reason == *reason) {
                    writeln!(f, "    line {}: {}", sample.line, sample.value)?;
                }
            }
        }
        Ok(())
    }
}

/// Counts, and writes what was rejected or dropped to the rejects file.
pub struct Ledger {
    /// The account so far.
    pub report: Report,
    rejects: Box<dyn Write + Send>,
}

impl Ledger {
    /// An empty account that writes rejects, one JSON object a line, to `rejects`.
    #[must_use]
    pub fn new(rejects: Box<dyn Write + Send>) -> Self {
        Self { report: Report::default(), rejects }
    }

    /// Notes what became of the row at `line` for `reason`; `value` is what was wrong, `detail` more about it.
    ///
    /// # Errors
    /// Where the rejects file cannot be written.
    pub fn note(&mut self, outcome: Outcome, reason: &str, line: u64, value: &[u8], detail: &str) -> io::Result<()> {
        let count = self.report.count(outcome, reason);
        let sampled = count <= SAMPLES_EACH_MAX as u64;
        let written = matches!(outcome, Outcome::Rejected | Outcome::Dropped);
        if !sampled && !written {
            return Ok(());
        }
        let mut shown = shorten(value);
        if !detail.is_empty() {
            shown = format!("{shown} ({detail})");
        }
        let sample = Sample { outcome, reason: reason.to_owned(), line, value: shown };
        if written {
            serde_json::to_writer(&mut self.rejects, &sample)?;
            self.rejects.write_all(b"\n")?;
        }
        if sampled {
            self.report.samples.push(sample);
        }
        Ok(())
    }

    /// Writes out what is still in memory, and gives the account.
    ///
    /// # Errors
    /// Where the rejects file cannot be written.
    pub fn close(mut self) -> io::Result<Report> {
        self.rejects.flush()?;
        Ok(self.report)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("report", &self.report).finish_non_exhaustive()
    }
}

/// Readable, on one line and of bounded length, whatever the bytes are.
fn shorten(value: &[u8]) -> String {
    let cut = &value[..value.len().min(SHOWN_BYTES_MAX)];
    let mut text: String = String::from_utf8_lossy(cut).chars().flat_map(show).collect();
    if cut.len() < value.len() {
        text.push('…');
    }
    text
}

fn show(c: char) -> impl Iterator<Item = char> {
    let (plain, escaped) = if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
    plain.into_iter().chain(escaped.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_reject_is_written_and_a_few_are_samples() {
        let file = Shared::default();
        let mut ledger = Ledger::new(Box::new(file.clone()));
        for line in 1..=10 {
            ledger.note(Outcome::Rejected, "no loc", line, b"a\tb\xff", "").unwrap();
            ledger.note(Outcome::Excluded, "gone", line, b"", "").unwrap();
        }
        let report = ledger.close().unwrap();
        assert_eq!((report.rejected_total(), report.excluded_total()), (10, 10));
        assert_eq!(report.samples.len(), 6);
        assert_eq!(report.samples[0].value, "a\\tb\u{fffd}");
        let written = String::from_utf8(file.0.lock().unwrap().clone()).unwrap();
        assert_eq!(written.lines().count(), 10);
        assert_eq!(
            written.lines().next().unwrap(),
            "{\"outcome\":\"rejected\",\"reason\":\"no loc\",\"line\":1,\"value\":\"a\\\\tb\u{fffd}\"}"
        );
    }

    #[test]
    fn long_values_are_cut() {
        assert!(shorten(&[b'x'; 5000]).len() < SHOWN_BYTES_MAX + 10);
    }
}
