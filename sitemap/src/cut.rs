//! Which row goes into which shard.
//!
//! Promises: a URL stays in its shard as long as the shard is neither split nor merged. Shards keep to both limits to
//! the byte. Sorted rows go in, pieces come out, and never more than one shard is held.
//!
//! - Inside the known key ranges a shard grows to the limit and is then split in halves; its first half keeps the file.
//! - Past the last known key (the right edge; in a first build everything) a shard is filled to the target, and then a
//!   new one is opened: nothing moves.
//! - A shard that has become nearly empty joins its right neighbour where both fit well below the limit; an empty one goes.

use crate::manifest::Shard;
use crate::row::{self, Namespaces, Row};
use crate::xml::{BYTES_MAX, NEWS_MAX, SHARDS_MAX, URLS_MAX, frame_bytes};
use twox_hash::XxHash3_128;

/// A shard with less than one part in this many of the target is nearly empty.
const NEARLY_EMPTY_PART: u32 = 20;
/// Rows are hashed, and go ahead of their piece where they may, when they have come to so many bytes: while they are still
/// in the processor's cache.
const RUN_BYTES: usize = 64 << 10;

/// How big shards and indexes may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// URLs to which new shards are filled.
    pub urls_target: u32,
    /// URLs that a shard may hold.
    pub urls_max: u32,
    /// Bytes of XML that a shard may have.
    pub bytes_max: u64,
    /// News articles that a shard may hold.
    pub news_max: u32,
    /// How much an index may hold.
    pub index: IndexLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            urls_target: 40_000,
            urls_max: URLS_MAX,
            bytes_max: BYTES_MAX,
            news_max: NEWS_MAX,
            index: IndexLimits::default(),
        }
    }
}

/// How much an index may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexLimits {
    /// Shards that it may name.
    pub shards_max: usize,
    /// Bytes that it may have; long addresses meet this first.
    pub bytes_max: u64,
}

impl Default for IndexLimits {
    fn default() -> Self {
        Self { shards_max: SHARDS_MAX, bytes_max: BYTES_MAX }
    }
}

/// The rows of one shard.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    /// Which of the old shards it continues, by index.
    pub(crate) old: Option<usize>,
    /// Where its key range begins.
    pub(crate) lower: &'a [u8],
    /// Its last key.
    pub(crate) last: &'a [u8],
    /// Its canonical rows, end to end, without those that went ahead of it.
    pub(crate) rows: &'a [u8],
    /// XXH3-128 of all its rows.
    pub(crate) rows_hash: u128,
    /// How many all are.
    pub(crate) urls: u32,
    /// How big its XML will be, in bytes.
    pub(crate) xml_bytes: u64,
    /// The namespaces that its rows use.
    pub(crate) spaces: Namespaces,
}

/// Where pieces go.
pub(crate) trait Take {
    type Error;
    fn take(&mut self, piece: &Piece<'_>) -> Result<(), Self::Error>;

    /// Takes the next rows of a piece that is still growing and that continues no old shard, so that its file is to be made
    /// whatever else it will hold.
    fn ahead(&mut self, rows: &[u8]);
}

/// What some rows come to.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    urls: u32,
    /// News articles among them.
    news: u32,
    /// Bytes of XML, without the shard's frame.
    xml_bytes: u64,
    spaces: Namespaces,
}

impl Size {
    /// What they come to with `row`.
    #[inline(always)]
    fn with(self, row: &Row<'_>) -> Self {
        let spaces = row.namespaces();
        Self {
            urls: self.urls + 1,
            news: self.news + u32::from(spaces.has(Namespaces::NEWS)),
            xml_bytes: self.xml_bytes + row.xml_bytes() as u64,
            spaces: self.spaces.and(spaces),
        }
    }

    /// With the shard's frame.
    fn shard_bytes(&self) -> u64 {
        frame_bytes(self.spaces) + self.xml_bytes
    }
}

/// Takes sorted rows and cuts them into pieces.
pub(crate) struct Cutter {
    limits: Limits,
    old: Vec<Shard>,
    /// Which old range the rows are in.
    range: usize,
    /// The old shard whose file no piece of this range has taken yet.
    heir: Option<usize>,
    /// The rows of the shard in hand, end to end, and behind them those that are not placed yet.
    rows: Vec<u8>,
    /// Where the rows end that are placed, and where the last of them starts.
    placed: usize,
    last_start: usize,
    /// The hash of the rows up to an end.
    hash: XxHash3_128,
    hashed: usize,
    size: Size,
    lower: Vec<u8>,
}

impl Cutter {
    pub(crate) fn new(limits: Limits, old: Vec<Shard>) -> Self {
        let heir = (!old.is_empty()).then_some(0);
        let (rows, lower, size, hash) = (Vec::new(), Vec::new(), Size::default(), XxHash3_128::new());
        Self { limits, old, range: 0, heir, rows, placed: 0, last_start: 0, hash, hashed: 0, size, lower }
    }

    /// Where the next rows are to be appended, and where those that are not placed yet begin: rows are made where they
    /// stay, so that none is copied.
    pub(crate) fn unplaced(&mut self) -> (&mut Vec<u8>, usize) {
        (&mut self.rows, self.placed)
    }

    /// Places the first `count` rows that are not placed yet; each sorts after every one before it.
    pub(crate) fn place<T: Take>(&mut self, count: u64, sink: &mut T) -> Result<(), T::Error> {
        for _ in 0..count {
            let Some(row) = Row::first(&self.rows[self.placed..]) else { return Ok(()) };
            let is_next = |next: &Shard| row.key() >= next.lower.as_bytes();
            let (row_bytes, with) = (row.as_bytes().len(), self.size.with(&row));
            if self.is_full(&with, &row) || self.old.get(self.range + 1).is_some_and(is_next) {
                self.make_way(sink)?;
            } else {
                self.size = with;
            }
            (self.last_start, self.placed) = (self.placed, self.placed + row_bytes);
            if self.placed - self.hashed > RUN_BYTES {
                self.end_run(sink);
            }
        }
        Ok(())
    }

    /// Hashes the rows up to the last one that is placed, and lets them go where their piece can neither be split any more
    /// nor be equal to an old shard.
    #[inline(never)]
    fn end_run<T: Take>(&mut self, sink: &mut T) {
        let end = self.last_start;
        self.hash_to(end);
        let is_new =
            self.heir.is_none() && Row::first(&self.rows[end..]).is_some_and(|last| self.at_right_edge(last.key()));
        if is_new {
            sink.ahead(&self.rows[..end]);
            self.rows.drain(..end);
            (self.placed, self.last_start, self.hashed) = (self.placed - end, 0, 0);
        }
    }

    fn hash_to(&mut self, end: usize) {
        self.hash.write(&self.rows[self.hashed..end]);
        self.hashed = end;
    }

    /// Closes the ranges before the next row, makes room for it, and counts it in.
    #[inline(never)]
    fn make_way<T: Take>(&mut self, sink: &mut T) -> Result<(), T::Error> {
        let Some(row) = Row::first(&self.rows[self.placed..]) else { return Ok(()) };
        let row = row.as_bytes().to_vec();
        let Some(row) = Row::first(&row) else { return Ok(()) };
        let key = row.key();
        while self.old.get(self.range + 1).is_some_and(|next| key >= next.lower.as_bytes()) {
            self.close_range(sink)?;
        }
        let with = self.size.with(&row);
        if self.is_full(&with, &row) {
            self.make_room(key, &row, sink)?;
        }
        self.size = self.size.with(&row);
        Ok(())
    }

    /// Opens a new shard for `row` at the right edge, where the target is met; splits inside, where a limit is.
    fn make_room<T: Take>(&mut self, key: &[u8], row: &Row<'_>, sink: &mut T) -> Result<(), T::Error> {
        if self.at_right_edge(key) {
            self.flush(sink)?;
            self.lower = key.to_vec();
            return Ok(());
        }
        // Each turn gives away a row at least; more than one turn takes rows that are large beside the limit.
        while self.size.urls > 0 {
            let with = self.size.with(row);
            if !self.is_over(&with) {
                break;
            }
            let by_bytes = with.shard_bytes() > self.limits.bytes_max;
            self.split(key, by_bytes, sink)?;
        }
        Ok(())
    }

    /// Whether the shard in hand has no room for `row`, with which it would be so big.
    #[inline(always)]
    fn is_full(&self, with: &Size, row: &Row<'_>) -> bool {
        let at_target = with.urls > self.limits.urls_target && self.at_right_edge(row.key());
        self.size.urls > 0 && (at_target || self.is_over(with))
    }

    #[inline(always)]
    fn is_over(&self, size: &Size) -> bool {
        size.urls > self.limits.urls_max
            || size.shard_bytes() > self.limits.bytes_max
            || size.news > self.limits.news_max
    }

    /// Ends the input.
    pub(crate) fn finish<T: Take>(&mut self, sink: &mut T) -> Result<(), T::Error> {
        if self.size.urls > 0 { self.flush(sink) } else { Ok(()) }
    }

    fn at_right_edge(&self, key: &[u8]) -> bool {
        self.range + 1 >= self.old.len() && self.old.last().is_none_or(|last| key > last.last.as_bytes())
    }

    fn close_range<T: Take>(&mut self, sink: &mut T) -> Result<(), T::Error> {
        let (old, next) = (&self.old[self.range], &self.old[self.range + 1]);
        // One that was as small before is so on purpose, as files are that were taken over.
        let has_shrunk = self.size.urls == 0 || old.urls >= self.limits.urls_target / NEARLY_EMPTY_PART;
        let joins = self.heir.is_some()
            && has_shrunk
            && self.size.urls < self.limits.urls_target / NEARLY_EMPTY_PART
            && self.size.urls + next.urls <= self.limits.urls_target.midpoint(self.limits.urls_max)
            && self.size.shard_bytes() + next.xml_bytes <= self.limits.bytes_max / 2;
        if self.size.urls > 0 && !joins {
            self.flush(sink)?;
        }
        self.range += 1;
        // What joins, or comes after nothing, begins where the range before began.
        if self.size.urls == 0 && self.heir.is_none() {
            self.lower = self.old[self.range].lower.as_bytes().to_vec();
        }
        self.heir = Some(self.range);
        Ok(())
    }

    fn flush<T: Take>(&mut self, sink: &mut T) -> Result<(), T::Error> {
        self.hash_to(self.placed);
        self.emit(self.placed, self.last_start, &self.size.clone(), sink)?;
        self.rows.drain(..self.placed);
        (self.hash, self.hashed) = (XxHash3_128::new(), 0);
        (self.size, self.placed, self.last_start) = (Size::default(), 0, 0);
        Ok(())
    }

    /// Gives away the first half, by URLs or by bytes, whichever limit was met; `key` is what comes next.
    fn split<T: Take>(&mut self, key: &[u8], by_bytes: bool, sink: &mut T) -> Result<(), T::Error> {
        let (mut first, mut end, mut last_start) = (Size::default(), 0, 0);
        while let Some(row) = Row::first(&self.rows[end..self.placed]) {
            let half =
                if by_bytes { first.xml_bytes >= self.size.xml_bytes / 2 } else { first.urls >= self.size.urls / 2 };
            if half && first.urls > 0 {
                break;
            }
            last_start = end;
            end += row.as_bytes().len();
            first = first.with(&row);
        }
        if end == self.placed {
            self.flush(sink)?;
            self.lower = key.to_vec();
            return Ok(());
        }
        let second = row::all(&self.rows[end..self.placed]).fold(Size::default(), |size, row| size.with(&row));
        (self.hash, self.hashed) = (XxHash3_128::new(), 0);
        self.hash_to(end);
        self.emit(end, last_start, &first, sink)?;
        self.lower = Row::first(&self.rows[end..]).map(|row| row.key().to_vec()).unwrap_or_default();
        self.rows.drain(..end);
        self.last_start -= end;
        self.placed -= end;
        (self.hash, self.hashed) = (XxHash3_128::new(), 0);
        self.size = second;
        Ok(())
    }

    fn emit<T: Take>(&mut self, end: usize, last_start: usize, size: &Size, sink: &mut T) -> Result<(), T::Error> {
        assert!(!self.is_over(size), "limits hold");
        let last = Row::first(&self.rows[last_start..end]).map(|row| row.key()).unwrap_or_default();
        let Size { urls, spaces, .. } = *size;
        let (rows, rows_hash, xml_bytes) = (&self.rows[..end], self.hash.finish_128(), size.shard_bytes());
        sink.take(&Piece { old: self.heir.take(), lower: &self.lower, last, rows, rows_hash, urls, xml_bytes, spaces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;
    use crate::xml::Draft;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Default)]
    struct Shelf {
        shards: Vec<Shard>,
        rows: Vec<Vec<String>>,
        number: usize,
        old: Vec<Shard>,
        ahead: Vec<u8>,
        /// How often rows went ahead.
        runs: usize,
    }

    impl Take for Shelf {
        type Error = ();

        fn ahead(&mut self, rows: &[u8]) {
            self.ahead.extend_from_slice(rows);
            self.runs += 1;
        }

        fn take(&mut self, piece: &Piece<'_>) -> Result<(), ()> {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let file = piece.old.map_or_else(
                || {
                    self.number += 1;
                    format!("new-{}", self.number)
                },
                |old| self.old[old].file.clone(),
            );
            let mut rows = std::mem::take(&mut self.ahead);
            assert!(rows.is_empty() || piece.old.is_none());
            rows.extend_from_slice(piece.rows);
            let locs: Vec<String> = row::all(&rows).map(|row| text(row.loc())).collect();
            assert_eq!((locs.len(), locs.last().unwrap().as_str()), (piece.urls as usize, text(piece.last).as_str()));
            let mut draft = Draft::new(1);
            draft.append(&rows);
            assert_eq!(draft.finish(piece.spaces).len() as u64, piece.xml_bytes);
            assert_eq!(piece.rows_hash, XxHash3_128::oneshot(&rows));
            self.shards.push(Shard {
                file,
                lower: text(piece.lower),
                last: text(piece.last),
                urls: piece.urls,
                xml_bytes: piece.xml_bytes,
                rows_hash: String::new(),
                file_bytes: 0,
                file_hash: String::new(),
                stamp: None,
                version: None,
                changed_at: String::new(),
                index: 1,
            });
            self.rows.push(locs);
            Ok(())
        }
    }

    const LIMITS: Limits = Limits {
        urls_target: 40,
        urls_max: 50,
        bytes_max: BYTES_MAX,
        news_max: NEWS_MAX,
        index: IndexLimits { shards_max: 9, bytes_max: BYTES_MAX },
    };

    fn url(n: u32) -> String {
        format!("https://a.example/{n:08}")
    }

    fn cut(limits: Limits, old: &Shelf, urls: &BTreeSet<u32>) -> Shelf {
        cut_large(limits, old, urls, 0)
    }

    /// The same with rows that have so many bytes of extensions.
    fn cut_large(limits: Limits, old: &Shelf, urls: &BTreeSet<u32>, extra_bytes: usize) -> Shelf {
        let mut shelf = Shelf { number: old.number, old: old.shards.clone(), ..Shelf::default() };
        let mut cutter = Cutter::new(limits, old.shards.clone());
        for n in urls {
            let mut row = row(&url(*n), "", "", "");
            row::extend(&mut row, 0, &vec![b'x'; extra_bytes], Namespaces::NONE);
            cutter.unplaced().0.extend(row);
            cutter.place(1, &mut shelf).unwrap();
        }
        cutter.finish(&mut shelf).unwrap();
        check(limits, &shelf, urls);
        shelf
    }

    fn check(limits: Limits, shelf: &Shelf, urls: &BTreeSet<u32>) {
        let all: Vec<String> = shelf.rows.iter().flatten().cloned().collect();
        assert_eq!(all, urls.iter().map(|n| url(*n)).collect::<Vec<_>>());
        for (at, shard) in shelf.shards.iter().enumerate() {
            assert!(shard.urls <= limits.urls_max && shard.urls > 0 && shard.xml_bytes <= limits.bytes_max);
            assert!(shelf.rows[at][0] >= shard.lower, "{} {}", shelf.rows[at][0], shard.lower);
            assert!(shelf.shards.get(at + 1).is_none_or(|next| shard.last < next.lower));
        }
        assert!(shelf.shards.first().is_none_or(|first| first.lower.is_empty()));
        let names: BTreeSet<_> = shelf.shards.iter().map(|shard| &shard.file).collect();
        assert_eq!(names.len(), shelf.shards.len());
    }

    /// URLs that moved between two files that both stay: what must never happen.
    fn moved(before: &Shelf, after: &Shelf) -> usize {
        let place = |shelf: &Shelf| -> BTreeMap<String, String> {
            let files = shelf.shards.iter().zip(&shelf.rows);
            files.flat_map(|(shard, rows)| rows.iter().map(|url| (url.clone(), shard.file.clone()))).collect()
        };
        let (old, new) = (place(before), place(after));
        let stays = |file: &str| after.shards.iter().any(|shard| shard.file == *file);
        let was = |file: &str| before.shards.iter().any(|shard| shard.file == *file);
        old.iter()
            .filter(|(url, file)| new.get(*url).is_some_and(|now| now != *file && stays(file) && was(now)))
            .count()
    }

    fn sizes(shelf: &Shelf) -> Vec<u32> {
        shelf.shards.iter().map(|shard| shard.urls).collect()
    }

    #[test]
    fn a_full_build_fills_to_the_target() {
        assert_eq!(sizes(&cut(LIMITS, &Shelf::default(), &(0..100).collect())), [40, 40, 20]);
        assert_eq!(sizes(&cut(LIMITS, &Shelf::default(), &(0..80).collect())), [40, 40]);
    }

    /// Three rows make a run.
    const LARGE: usize = RUN_BYTES / 2 - 500;

    #[test]
    fn rows_go_ahead_where_their_shard_is_new_and_only_there() {
        let first = cut_large(LIMITS, &Shelf::default(), &(0..100).collect(), LARGE);
        assert_eq!((sizes(&first), first.runs > 30), (vec![40, 40, 20], true));
        let same = cut_large(LIMITS, &first, &(0..100).collect(), LARGE);
        assert_eq!((sizes(&same), same.runs), (vec![40, 40, 20], 0));
        let grown = cut_large(LIMITS, &first, &(0..170).collect(), LARGE);
        assert_eq!((sizes(&grown), grown.runs > 10), (vec![40, 40, 40, 40, 10], true));
        // What a split leaves of the last range may be split again.
        let wide = cut_large(LIMITS, &Shelf::default(), &(0..40).map(|n| n * 100).collect(), LARGE);
        let split = cut_large(LIMITS, &wide, &(0..40).map(|n| n * 100).chain(3_000..3_090).collect(), LARGE);
        assert_eq!((sizes(&split), split.runs), (vec![25, 25, 25, 25, 29], 0));
    }

    #[test]
    fn growth_at_the_right_edge_opens_a_new_shard_and_moves_nothing() {
        let before = cut(LIMITS, &Shelf::default(), &(0..100).collect());
        let after = cut(LIMITS, &before, &(0..170).collect());
        assert_eq!(sizes(&after), [40, 40, 40, 40, 10]);
        assert_eq!(before.shards[0], after.shards[0]);
        assert_eq!(moved(&before, &after), 0);
    }

    #[test]
    fn growth_inside_splits_only_past_the_limit() {
        let before = cut(LIMITS, &Shelf::default(), &(0..80).map(|n| n * 10).collect());
        let mut urls: BTreeSet<u32> = (0..80).map(|n| n * 10).collect();
        urls.extend((0..10).map(|n| n * 10 + 1));
        let after = cut(LIMITS, &before, &urls);
        assert_eq!(sizes(&after), [50, 40]);
        urls.insert(5);
        let split = cut(LIMITS, &after, &urls);
        assert_eq!(sizes(&split), [25, 26, 40]);
        assert_eq!(split.shards[0].file, before.shards[0].file);
        assert_eq!(split.shards[2].file, before.shards[1].file);
        assert_eq!(moved(&after, &split), 0);
    }

    #[test]
    fn a_nearly_empty_shard_joins_its_right_neighbour() {
        let before = cut(Limits { urls_target: 40, ..LIMITS }, &Shelf::default(), &(0..120).collect());
        let one_left: BTreeSet<u32> = (0..1).chain(50..120).collect();
        let after = cut(LIMITS, &before, &one_left);
        assert_eq!(sizes(&after), [31, 40]);
        assert_eq!(after.shards[0].file, before.shards[1].file);
        // What was as small before stays, as files do that were taken over; what is empty goes.
        let small = cut(Limits { urls_target: 4, urls_max: 6, ..LIMITS }, &Shelf::default(), &(0..12).collect());
        let large = Limits { urls_target: 400, urls_max: 500, ..LIMITS };
        assert_eq!(sizes(&cut(large, &small, &(0..11).collect())), [4, 4, 3]);
        assert_eq!(sizes(&cut(large, &small, &(4..12).collect())), [4, 4]);
        let none_left = cut(LIMITS, &before, &(40..120).collect());
        assert_eq!((sizes(&none_left), none_left.shards[0].file.as_str()), (vec![40, 40], "new-2"));
    }

    #[test]
    fn bytes_cut_exactly() {
        let one = Row::first(&row(&url(1), "", "", "")).unwrap().xml_bytes() as u64;
        let exact =
            Limits { urls_target: 1000, urls_max: 1000, bytes_max: frame_bytes(Namespaces::NONE) + 7 * one, ..LIMITS };
        let first = cut(exact, &Shelf::default(), &(0..14).collect());
        assert_eq!(sizes(&first), [7, 7]);
        assert!(first.shards.iter().all(|shard| shard.xml_bytes == exact.bytes_max));
        let less = Limits { bytes_max: exact.bytes_max - 1, ..exact };
        assert_eq!(sizes(&cut(less, &Shelf::default(), &(0..14).collect())), [6, 6, 2]);
        let grown = cut(exact, &cut(exact, &Shelf::default(), &(10..17).collect()), &(9..17).collect());
        assert_eq!(sizes(&grown), [4, 4]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn no_url_moves_between_files_that_stay(extra_bytes in prop_oneof![Just(0), Just(2_500_usize)], rounds in proptest::collection::vec(
            proptest::collection::vec((0_u32..600, any::<bool>()), 0..120), 1..12,
        )) {
            let mut urls: BTreeSet<u32> = (0..300).step_by(2).collect();
            let mut shelf = cut_large(LIMITS, &Shelf::default(), &urls, extra_bytes);
            for round in rounds {
                for (n, add) in round {
                    if add { urls.insert(n); } else { urls.remove(&n); }
                }
                let next = cut_large(LIMITS, &shelf, &urls, extra_bytes);
                prop_assert_eq!(moved(&shelf, &next), 0);
                shelf = next;
            }
        }
    }
}
