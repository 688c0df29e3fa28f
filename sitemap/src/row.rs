//! A canonical page row, as bytes: what is sorted, hashed and turned into XML.
//!
//! Promises: equal pages give equal bytes, whatever file, format or order they came from. The layout is a header of
//! [`HEADER_BYTES`] (lengths and small values) and then the sort key, where rows have one, loc, lastmod, priority and the
//! extensions' XML; [`ROW_FORMAT`] names it in every shard manifest, since the rows' hashes depend on it.

use crate::lastmod::{self, UTC_SECONDS_BYTES};
use memchr::memchr2_iter;
use std::cmp::Ordering;
use std::ops::Range;

/// The version of the layout of a row, and so of every row hash.
pub const ROW_FORMAT: u32 = 2;
/// Bytes before the texts: u16 length of loc, u16 what entities add to it, then one byte each for the length of
/// lastmod, for changefreq (low half) with the namespaces (high half), and for the length of priority, then u24 length
/// of the extensions and u8 length of the sort key. Numbers are little-endian.
pub const HEADER_BYTES: usize = 11;
/// Longest XML that the extensions of one row may have, in bytes. So a row always fits a shard of 10 MB, and what is
/// sorted, held and read back at once stays small.
pub const EXTRA_BYTES_MAX: usize = 2 << 20;

const OPEN_LOC: &[u8] = b"<url><loc>";
const CLOSE_LOC: &[u8] = b"</loc>";
const OPEN_LASTMOD: &[u8] = b"<lastmod>";
const CLOSE_LASTMOD: &[u8] = b"</lastmod>";
const OPEN_CHANGEFREQ: &[u8] = b"<changefreq>";
const CLOSE_CHANGEFREQ: &[u8] = b"</changefreq>";
const OPEN_PRIORITY: &[u8] = b"<priority>";
const CLOSE_PRIORITY: &[u8] = b"</priority>";
const CLOSE_URL: &[u8] = b"</url>\n";
/// What follows loc in most rows, and where its time lies in there.
const LASTMOD_AND_END: &[u8; 52] = b"</loc><lastmod>0000-00-00T00:00:00Z</lastmod></url>\n";
const IN_LASTMOD_AND_END: usize = CLOSE_LOC.len() + OPEN_LASTMOD.len();

const CHANGEFREQS: [&str; 8] = ["", "always", "hourly", "daily", "weekly", "monthly", "yearly", "never"];

/// What each adds to a row's XML, in bytes; of what is no word nothing, as it is written.
const CHANGEFREQ_XML_BYTES: [usize; 16] = {
    let (mut bytes, mut word) = ([0; 16], 1);
    while word < CHANGEFREQS.len() {
        bytes[word] = OPEN_CHANGEFREQ.len() + CHANGEFREQS[word].len() + CLOSE_CHANGEFREQ.len();
        word += 1;
    }
    bytes
};

/// How often a page is said to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changefreq(u8);

impl Changefreq {
    /// Reads one of the seven words that the protocol knows, in any case.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let at = CHANGEFREQS[1..].iter().position(|word| word.as_bytes().eq_ignore_ascii_case(text))?;
        u8::try_from(at + 1).ok().map(Self)
    }

    fn as_bytes(self) -> &'static [u8] {
        CHANGEFREQS.get(usize::from(self.0)).map_or(b"", |word| word.as_bytes())
    }
}

/// The XML namespaces beside the protocol's own that a row or a shard uses, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(u8);

impl Namespaces {
    /// None.
    pub const NONE: Self = Self(0);
    /// `xhtml:link`, for versions in other languages.
    pub const XHTML: Self = Self(1);
    /// `image:image`.
    pub const IMAGE: Self = Self(2);
    /// `video:video`.
    pub const VIDEO: Self = Self(4);
    /// `news:news`.
    pub const NEWS: Self = Self(8);

    /// How many sets there are.
    pub(crate) const SETS: usize = 16;

    /// The set as a number below [`Self::SETS`].
    pub(crate) const fn index(self) -> usize {
        (self.0 & 0x0f) as usize
    }

    /// Those of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Starts a row at the end of `out`, and says where; the caller appends loc and lastmod and then calls [`finish`].
pub fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    start
}

/// Completes the row at `start`, whose sort key ends and loc begins at `loc.start`, and whose lastmod fills what follows
/// `loc.end`.
///
/// The caller keeps the bounds (sort key up to 255 bytes, loc up to 2,047, lastmod up to 40, priority up to 8), and says by
/// `entities` whether the loc may hold `&` or `'`.
#[inline(always)]
pub fn finish(
    out: &mut Vec<u8>,
    (start, loc): (usize, Range<usize>),
    entities: bool,
    changefreq: Changefreq,
    priority: &[u8],
) {
    let (key_len, lastmod_len) = (loc.start - start - HEADER_BYTES, out.len() - loc.end);
    let loc = &out[loc];
    debug_assert!(loc.len() <= crate::loc::LOC_CHARS_MAX && lastmod_len <= lastmod::LASTMOD_BYTES_MAX);
    let (loc_len, entities) = (loc.len(), if entities { entity_bytes(loc) } else { 0 });
    out.extend_from_slice(priority);
    let [l0, l1] = u16::try_from(loc_len).unwrap_or(u16::MAX).to_le_bytes();
    let [e0, e1] = u16::try_from(entities).unwrap_or(u16::MAX).to_le_bytes();
    let byte = |len: usize| u8::try_from(len).unwrap_or(u8::MAX);
    let header = [l0, l1, e0, e1, byte(lastmod_len), changefreq.0, byte(priority.len()), 0, 0, 0, byte(key_len)];
    out[start..start + HEADER_BYTES].copy_from_slice(&header);
}

/// Appends a whole row that has nothing but `loc`, without anything for XML to escape, and `lastmod`, of a size that the
/// compiler knows.
#[inline(always)]
pub(crate) fn append_plain<const LASTMOD_BYTES: usize>(loc: &[u8], lastmod: &[u8; LASTMOD_BYTES], out: &mut Vec<u8>) {
    let mut header = [0; HEADER_BYTES];
    header[..2].copy_from_slice(&u16::try_from(loc.len()).unwrap_or(u16::MAX).to_le_bytes());
    header[4] = const { LASTMOD_BYTES as u8 };
    out.reserve(HEADER_BYTES + loc.len() + LASTMOD_BYTES);
    out.extend_from_slice(&header);
    out.extend_from_slice(loc);
    out.extend_from_slice(lastmod);
}

/// Gives the row at `start`, the last in `out`, which [`finish`] completed and which has no extensions, the extensions
/// `extra`: escaped XML that uses `spaces`, at most [`EXTRA_BYTES_MAX`] long.
pub fn extend(out: &mut Vec<u8>, start: usize, extra: &[u8], spaces: Namespaces) {
    debug_assert!(extra.len() <= EXTRA_BYTES_MAX);
    let header = &mut out[start..start + HEADER_BYTES];
    header[5] = (header[5] & 0x0f) | (spaces.0 << 4);
    header[7..10].copy_from_slice(&extra_len(extra.len()));
    out.extend_from_slice(extra);
}

/// The length of extensions as the header has it.
fn extra_len(len: usize) -> [u8; 3] {
    let [a, b, c, _] = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    [a, b, c]
}

/// What is noted about a page while the versions of pages are put together, or shards compared: such a record has the
/// form of a row, so that it is sorted with them, and comes after every row of its loc, in this order. None is ever in a
/// shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// What an old shard says of it.
    Old = 8,
    /// What a new shard says of it.
    New = 9,
    /// That it is in another sitemap of the site.
    Elsewhere = 10,
    /// What the page says of itself.
    Own = 12,
    /// What some page says of it.
    Says = 13,
    /// Which page on another host it names.
    Foreign = 14,
    /// The links to its versions.
    Links = 15,
}

/// Writes a note about `loc`, with the bytes of `parts`, to `out`, cleared first.
pub(crate) fn note(out: &mut Vec<u8>, note: Note, loc: &[u8], parts: &[&[u8]]) {
    out.clear();
    begin(out);
    out.extend_from_slice(loc);
    out[0..2].copy_from_slice(&u16::try_from(loc.len()).unwrap_or(u16::MAX).to_le_bytes());
    // More than entities can add to an address: this sorts behind every row.
    out[2..4].copy_from_slice(&u16::MAX.to_le_bytes());
    out[5] = note as u8;
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out[7..10].copy_from_slice(&extra_len(len));
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// A whole row, read from bytes that [`finish`] completed.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    bytes: &'a [u8],
    key_len: usize,
    loc_len: usize,
    entities: usize,
    lastmod_len: usize,
    /// Changefreq in the low half, namespaces in the high half.
    small: u8,
    priority_len: usize,
    extra_len: usize,
}

impl<'a> Row<'a> {
    /// The row at the front of `bytes`, or `None` where they are cut short.
    #[must_use]
    pub fn first(bytes: &'a [u8]) -> Option<Self> {
        let &[l0, l1, e0, e1, lastmod_len, small, priority_len, x0, x1, x2, key_len, ..] = bytes else { return None };
        let loc_len = usize::from(u16::from_le_bytes([l0, l1]));
        let entities = usize::from(u16::from_le_bytes([e0, e1]));
        let (lastmod_len, priority_len) = (usize::from(lastmod_len), usize::from(priority_len));
        let (extra_len, key_len) = (u32::from_le_bytes([x0, x1, x2, 0]) as usize, usize::from(key_len));
        let bytes = bytes.get(..HEADER_BYTES + key_len + loc_len + lastmod_len + priority_len + extra_len)?;
        Some(Self { bytes, key_len, loc_len, entities, lastmod_len, small, priority_len, extra_len })
    }

    /// The row as it is stored.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What rows are sorted by: the sort key, where there is one, and the address.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..self.loc_end()]
    }

    /// The address.
    #[must_use]
    pub fn loc(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES + self.key_len..self.loc_end()]
    }

    fn loc_end(&self) -> usize {
        HEADER_BYTES + self.key_len + self.loc_len
    }

    /// The canonical lastmod, or nothing.
    #[must_use]
    pub fn lastmod(&self) -> &'a [u8] {
        let start = self.loc_end();
        &self.bytes[start..start + self.lastmod_len]
    }

    /// How often the page is said to change, or nothing.
    #[must_use]
    pub fn changefreq(&self) -> &'static [u8] {
        Changefreq(self.small & 0x0f).as_bytes()
    }

    /// The priority, or nothing.
    #[must_use]
    pub fn priority(&self) -> &'a [u8] {
        let start = self.loc_end() + self.lastmod_len;
        &self.bytes[start..start + self.priority_len]
    }

    /// The extensions as escaped XML, or nothing.
    #[must_use]
    pub fn extra(&self) -> &'a [u8] {
        &self.bytes[self.bytes.len() - self.extra_len..]
    }

    /// What the record notes, where it is no page.
    pub(crate) fn note(&self) -> Option<Note> {
        match self.small & 0x0f {
            8 => Some(Note::Old),
            9 => Some(Note::New),
            10 => Some(Note::Elsewhere),
            12 => Some(Note::Own),
            13 => Some(Note::Says),
            14 => Some(Note::Foreign),
            15 => Some(Note::Links),
            _ => None,
        }
    }

    /// The namespaces that the extensions use.
    #[must_use]
    pub fn namespaces(&self) -> Namespaces {
        Namespaces(self.small >> 4)
    }

    /// Exactly how many bytes [`Row::write_xml`] will append.
    #[must_use]
    pub fn xml_bytes(&self) -> usize {
        const LASTMOD_TAGS: usize = OPEN_LASTMOD.len() + CLOSE_LASTMOD.len();
        const PRIORITY_TAGS: usize = OPEN_PRIORITY.len() + CLOSE_PRIORITY.len();
        OPEN_LOC.len()
            + (self.bytes.len() - HEADER_BYTES - self.key_len)
            + self.entities
            + CLOSE_LOC.len()
            + LASTMOD_TAGS * usize::from(self.lastmod_len > 0)
            + CHANGEFREQ_XML_BYTES[usize::from(self.small & 0x0f)]
            + PRIORITY_TAGS * usize::from(self.priority_len > 0)
            + CLOSE_URL.len()
    }

    /// Appends the row's `<url>` element, in the order of elements that the schema asks for.
    #[inline(always)]
    pub fn write_xml(&self, out: &mut Vec<u8>) {
        // Most rows are so: all that follows loc goes as one piece, whose size the compiler knows.
        if self.entities == 0
            && self.bytes.len() == self.loc_end() + UTC_SECONDS_BYTES
            && self.small == 0
            && let Some(lastmod) = self.bytes.last_chunk::<UTC_SECONDS_BYTES>()
            && self.lastmod_len == UTC_SECONDS_BYTES
        {
            out.extend_from_slice(OPEN_LOC);
            out.extend_from_slice(self.loc());
            let at = out.len() + IN_LASTMOD_AND_END;
            out.extend_from_slice(LASTMOD_AND_END);
            out[at..at + UTC_SECONDS_BYTES].copy_from_slice(lastmod);
            return;
        }
        self.write_any_xml(out);
    }

    #[inline(never)]
    fn write_any_xml(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(OPEN_LOC);
        if self.entities == 0 {
            out.extend_from_slice(self.loc());
        } else {
            write_entities(self.loc(), out);
        }
        out.extend_from_slice(CLOSE_LOC);
        for (open, text, close) in [
            (OPEN_LASTMOD, self.lastmod(), CLOSE_LASTMOD),
            (OPEN_CHANGEFREQ, self.changefreq(), CLOSE_CHANGEFREQ),
            (OPEN_PRIORITY, self.priority(), CLOSE_PRIORITY),
        ] {
            if !text.is_empty() {
                out.extend_from_slice(open);
                out.extend_from_slice(text);
                out.extend_from_slice(close);
            }
        }
        out.extend_from_slice(self.extra());
        out.extend_from_slice(CLOSE_URL);
    }

    /// Which of two rows with one loc is kept: the newer lastmod, then any over none, then the greater bytes, so
    /// that the outcome does not hang on the order of the input.
    #[must_use]
    pub fn preference(&self, other: &Self) -> Ordering {
        if self.bytes == other.bytes {
            return Ordering::Equal;
        }
        lastmod::instant(self.lastmod())
            .cmp(&lastmod::instant(other.lastmod()))
            .then_with(|| self.lastmod().cmp(other.lastmod()))
            .then_with(|| self.bytes.cmp(other.bytes))
    }
}

/// The rows in `rows`, which lie end to end.
pub(crate) fn all(mut rows: &[u8]) -> impl Iterator<Item = Row<'_>> {
    std::iter::from_fn(move || {
        let row = Row::first(rows)?;
        rows = &rows[row.as_bytes().len()..];
        Some(row)
    })
}

/// What [`settle`] left.
pub(crate) struct Settled {
    pub(crate) kept: u64,
    pub(crate) dropped: u64,
    /// Where the last row that was kept starts.
    pub(crate) last_start: usize,
}

/// Keeps the best row of each loc of those from `start` on, which are sorted by it; `None` where they are not.
pub(crate) fn settle(rows: &mut Vec<u8>, start: usize) -> Option<Settled> {
    let mut settled = Settled { kept: 0, dropped: 0, last_start: start };
    // Rows are kept up to `end`; `at` is the next one, and `loc` is where that of the last one lies.
    let (mut end, mut at, mut loc) = (start, start, 0..0);
    while let Some(row) = Row::first(&rows[at..]) {
        let (row_bytes, loc_start, loc_end) = (row.bytes.len(), HEADER_BYTES + row.key_len, row.loc_end());
        let to = match row.loc().cmp(&rows[loc.clone()]) {
            Ordering::Less => return None,
            Ordering::Greater => {
                settled.kept += 1;
                end
            }
            Ordering::Equal => {
                settled.dropped += 1;
                settled.last_start
            }
        };
        if to == end || is_better(&rows[at..], &rows[to..]) {
            if to != at {
                rows.copy_within(at..at + row_bytes, to);
            }
            (settled.last_start, end, loc) = (to, to + row_bytes, to + loc_start..to + loc_end);
        }
        at += row_bytes;
    }
    rows.truncate(end);
    Some(settled)
}

/// Whether the row at the front of `new` is to be kept, and not the one at the front of `kept`. A function of its own, since
/// it is seldom asked.
#[inline(never)]
fn is_better(new: &[u8], kept: &[u8]) -> bool {
    let rows = Row::first(new).zip(Row::first(kept));
    rows.is_none_or(|(new, kept)| new.preference(&kept).is_gt())
}

/// How many bytes of texts follow a row's `header`.
pub(crate) fn texts_bytes(header: &[u8]) -> usize {
    match *header {
        [l0, l1, _, _, lastmod_len, _, priority_len, x0, x1, x2, key_len, ..] => {
            let short = [lastmod_len, priority_len, key_len].map(usize::from).iter().sum::<usize>();
            usize::from(u16::from_le_bytes([l0, l1])) + short + u32::from_le_bytes([x0, x1, x2, 0]) as usize
        }
        _ => 0,
    }
}

/// What `&` and `'` add when they become entities. An escaped address holds none of `<`, `>` and `"`.
fn entity_bytes(loc: &[u8]) -> usize {
    let each = |at: usize| if loc[at] == b'&' { 4 } else { 5 };
    memchr2_iter(b'&', b'\'', loc).map(each).sum()
}

/// Appends `text` with the five entities of the sitemap protocol.
pub fn write_entities(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'\'' => out.extend_from_slice(b"&apos;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A row made of ready texts, for this crate's tests.
    pub(crate) fn row(loc: &str, lastmod: &str, changefreq: &str, priority: &str) -> Vec<u8> {
        keyed("", loc, lastmod, (changefreq, priority))
    }

    /// The same with a sort key.
    fn keyed(key: &str, loc: &str, lastmod: &str, (changefreq, priority): (&str, &str)) -> Vec<u8> {
        let mut out = Vec::new();
        let start = begin(&mut out);
        out.extend_from_slice(key.as_bytes());
        let loc_start = out.len();
        out.extend_from_slice(loc.as_bytes());
        let loc = loc_start..out.len();
        out.extend_from_slice(lastmod.as_bytes());
        let changefreq = Changefreq::parse(changefreq.as_bytes()).unwrap_or_default();
        finish(&mut out, (start, loc), true, changefreq, priority.as_bytes());
        out
    }

    #[test]
    fn elements_stand_in_the_order_of_the_schema() {
        let bytes = row("https://example.com/a?b&c='d'", "2025-11-22", "Daily", "0.5");
        let mut xml = Vec::new();
        Row::first(&bytes).unwrap().write_xml(&mut xml);
        assert_eq!(
            String::from_utf8(xml).unwrap(),
            "<url><loc>https://example.com/a?b&amp;c=&apos;d&apos;</loc><lastmod>2025-11-22</lastmod>\
             <changefreq>daily</changefreq><priority>0.5</priority></url>\n"
        );
    }

    #[test]
    fn the_short_way_of_most_rows_writes_the_same() {
        for lastmod in ["2025-11-22T08:26:40Z", "2025-11-22"] {
            let bytes = row("https://example.com/abc", lastmod, "", "");
            let mut xml = Vec::new();
            Row::first(&bytes).unwrap().write_xml(&mut xml);
            let wanted = format!("<url><loc>https://example.com/abc</loc><lastmod>{lastmod}</lastmod></url>\n");
            assert_eq!(String::from_utf8(xml).unwrap(), wanted);
        }
    }

    #[test]
    fn the_layout_is_fixed() {
        let texts = [&b"https://a.example/&"[..], b"2025-11-22", b"1.0"].concat();
        let golden = [&[19, 0, 4, 0, 10, 3, 3, 0, 0, 0, 0][..], &texts].concat();
        assert_eq!(row("https://a.example/&", "2025-11-22", "daily", "1.0"), golden);
        let golden = [&[19, 0, 4, 0, 10, 0x63, 3, 4, 0, 0, 0][..], &texts, b"<x/>"].concat();
        let mut extended = row("https://a.example/&", "2025-11-22", "daily", "1.0");
        extend(&mut extended, 0, b"<x/>", Namespaces::IMAGE.and(Namespaces::VIDEO));
        assert_eq!(extended, golden);
    }

    #[test]
    fn a_sort_key_stands_before_the_address_and_nowhere_in_the_xml() {
        let mut bytes = keyed("7\t", "https://a.example/", "2025-11-22T08:26:40Z", ("", ""));
        extend(&mut bytes, 0, b"<x/>", Namespaces::IMAGE);
        let row = Row::first(&bytes).unwrap();
        assert_eq!((row.key(), row.loc()), (&b"7\thttps://a.example/"[..], &b"https://a.example/"[..]));
        assert_eq!((row.lastmod(), row.extra()), (&b"2025-11-22T08:26:40Z"[..], &b"<x/>"[..]));
        assert_eq!(texts_bytes(&bytes) + HEADER_BYTES, bytes.len());
        let mut xml = Vec::new();
        row.write_xml(&mut xml);
        let wanted = "<url><loc>https://a.example/</loc><lastmod>2025-11-22T08:26:40Z</lastmod><x/></url>\n";
        assert_eq!(String::from_utf8(xml).unwrap(), wanted);
    }

    #[test]
    fn of_two_rows_the_newer_is_kept_whatever_came_first() {
        let older = row("https://example.com/", "2025-11-22T10:00:00+09:00", "", "");
        let newer = row("https://example.com/", "2025-11-22T02:00:00Z", "", "");
        let none = row("https://example.com/", "", "daily", "1.0");
        let [older, newer, none] = [&older, &newer, &none].map(|bytes| Row::first(bytes).unwrap());
        assert_eq!(newer.preference(&older), Ordering::Greater);
        assert_eq!(older.preference(&newer), Ordering::Less);
        assert_eq!(older.preference(&none), Ordering::Greater);
        assert_eq!(none.preference(&none), Ordering::Equal);
    }

    #[test]
    fn of_each_loc_the_best_row_is_kept_and_what_is_placed_is_left_alone() {
        let loc = |n: usize| format!("https://example.com/{}", n / 10);
        let lastmods = ["2025-11-22", "2025-11-23T10:00:00+09:00", "", "2024-02-29"];
        let before = row("https://z.example/", "", "", "");
        for count in 0..60 {
            let all: Vec<Vec<u8>> =
                (0..count).map(|n| keyed(&"k".repeat(n % 3), &loc(n), lastmods[n % 4], ("", ""))).collect();
            let mut rows = before.clone();
            all.iter().for_each(|row| rows.extend_from_slice(row));
            let mut best: Vec<&Vec<u8>> = Vec::new();
            for row in &all {
                match best.last_mut() {
                    Some(last) if Row::first(last).unwrap().loc() == Row::first(row).unwrap().loc() => {
                        if Row::first(row).unwrap().preference(&Row::first(last).unwrap()).is_gt() {
                            *last = row;
                        }
                    }
                    _ => best.push(row),
                }
            }
            let settled = settle(&mut rows, before.len()).unwrap();
            assert_eq!((settled.kept, settled.dropped), (best.len() as u64, (all.len() - best.len()) as u64));
            let wanted = best.iter().fold(before.clone(), |all, row| [all, (*row).clone()].concat());
            assert_eq!(rows, wanted);
            assert_eq!(rows.len() - settled.last_start, best.last().map_or(0, |row| row.len()));
        }
        let mut unsorted =
            [row("https://example.com/b", "", "", ""), row("https://example.com/a", "", "", "")].concat();
        assert!(settle(&mut unsorted, 0).is_none());
    }

    proptest! {
        #[test]
        fn size_is_told_exactly_and_rows_read_back(
            loc in "https://a\\.example/[a-z&'=+~.%]{0,80}", lastmod in "(2025-11-22(T08:26:40Z)?)?", freq in prop_oneof![Just(0), 0_usize..8],
            priority in "(0\\.[0-9])?", extra in "(<image:image/>)?", spaces in 0_u8..16,
        ) {
            let mut bytes = row(&loc, &lastmod, CHANGEFREQS[freq], &priority);
            extend(&mut bytes, 0, extra.as_bytes(), Namespaces(spaces));
            let len = bytes.len();
            bytes.extend_from_slice(b"what follows");
            let row = Row::first(&bytes).unwrap();
            prop_assert_eq!(row.as_bytes().len(), len);
            prop_assert_eq!(row.loc(), loc.as_bytes());
            prop_assert_eq!(row.lastmod(), lastmod.as_bytes());
            prop_assert_eq!(row.changefreq(), CHANGEFREQS[freq].as_bytes());
            prop_assert_eq!(row.priority(), priority.as_bytes());
            prop_assert_eq!((row.extra(), row.namespaces()), (extra.as_bytes(), Namespaces(spaces)));
            let mut xml = Vec::new();
            row.write_xml(&mut xml);
            prop_assert_eq!(xml.len(), row.xml_bytes());
            prop_assert!(Row::first(&bytes[..len - 1]).is_none());
        }
    }
}
