//! The newest pages of a list, for a small sitemap that is fetched often: bounded in number and in memory.

use crate::lastmod;
use crate::row::Row;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Pages that such a sitemap may have.
pub const NEWEST_MAX: u32 = 10_000;
/// Bytes of rows that are held; the oldest go where they are more.
const HELD_BYTES_MAX: usize = 32 << 20;

/// Takes rows and holds the newest by lastmod; of rows that are equally new, those whose address comes first.
#[derive(Debug)]
pub(crate) struct Newest {
    rows_max: usize,
    rows: BinaryHeap<Held>,
    bytes: usize,
}

/// A row; the greatest is the one that goes first.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    at_ms: Reverse<i64>,
    row: Vec<u8>,
}

impl Held {
    fn loc(&self) -> &[u8] {
        Row::first(&self.row).map_or(&[], |row| row.loc())
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at_ms.cmp(&other.at_ms).then_with(|| self.loc().cmp(other.loc()))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Newest {
    /// Will hold up to `rows_max` rows.
    pub(crate) fn new(rows_max: u32) -> Self {
        Self { rows_max: rows_max.min(NEWEST_MAX) as usize, rows: BinaryHeap::new(), bytes: 0 }
    }

    /// Takes a row, and gives back the addresses of those that are thereby too old.
    pub(crate) fn take(&mut self, row: &Row<'_>) -> Vec<Vec<u8>> {
        let at_ms = Reverse(lastmod::end_ms(row.lastmod()).unwrap_or(i64::MIN));
        let held = Held { at_ms, row: row.as_bytes().to_vec() };
        self.bytes += held.row.len();
        self.rows.push(held);
        let mut gone = Vec::new();
        while self.rows.len() > self.rows_max || (self.bytes > HELD_BYTES_MAX && self.rows.len() > 1) {
            let Some(old) = self.rows.pop() else { break };
            self.bytes -= old.row.len();
            gone.push(old.loc().to_vec());
        }
        gone
    }

    /// The rows, by address.
    pub(crate) fn into_rows(self) -> Vec<Vec<u8>> {
        let mut rows = self.rows.into_vec();
        rows.sort_by(|one, other| one.loc().cmp(other.loc()));
        rows.into_iter().map(|held| held.row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{self, Changefreq};

    fn row(loc: &str, lastmod: &str) -> Vec<u8> {
        let mut out = Vec::new();
        row::begin(&mut out);
        out.extend_from_slice(loc.as_bytes());
        let loc = row::HEADER_BYTES..out.len();
        out.extend_from_slice(lastmod.as_bytes());
        row::finish(&mut out, (0, loc), false, Changefreq::default(), b"");
        out
    }

    #[test]
    fn the_newest_stay_whatever_order_they_come_in_and_come_out_by_address() {
        let pages = [
            ("https://a.example/1", "2025-11-20T10:00:00Z"),
            ("https://a.example/2", "2025-11-22T10:00:00+09:00"),
            ("https://a.example/3", "2025-11-22T02:00:00Z"),
            ("https://a.example/4", "2025-11-19"),
            ("https://a.example/5", "2025-11-21"),
            ("https://a.example/6", "2025-11-22T02:00:00Z"),
        ];
        for turn in 0..pages.len() {
            let mut newest = Newest::new(3);
            let mut gone = Vec::new();
            for n in 0..pages.len() {
                let (loc, lastmod) = pages[(n + turn) % pages.len()];
                gone.extend(newest.take(&Row::first(&row(loc, lastmod)).unwrap()));
            }
            let kept: Vec<String> = newest
                .into_rows()
                .iter()
                .map(|row| String::from_utf8_lossy(Row::first(row).unwrap().loc()).into_owned())
                .collect();
            assert_eq!(kept, ["https://a.example/2", "https://a.example/3", "https://a.example/6"].map(str::to_owned));
            assert_eq!(gone.len(), 3, "turn {turn}");
        }
    }
}
