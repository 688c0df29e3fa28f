//! The XML of shards and indexes, as sitemaps.org defines it.

use crate::manifest::Shard;
use crate::row::{self, Namespaces, write_entities};

/// URLs a shard may hold (sitemaps.org).
pub const URLS_MAX: u32 = 50_000;
/// Bytes a shard may have before compression (sitemaps.org: 50 MB, which is 52,428,800 bytes).
pub const BYTES_MAX: u64 = 52_428_800;
/// News articles a shard may hold (Google's rules for news sitemaps).
pub const NEWS_MAX: u32 = 1_000;
/// Shards an index may name (sitemaps.org).
pub const SHARDS_MAX: usize = 50_000;

const SHARD_HEAD: &[u8] =
    b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\"";
const SHARD_HEAD_END: &[u8] = b">\n";
/// What a shard declares where a row of it uses the namespace (the addresses are Google's and the W3C's).
const DECLARATIONS: [(Namespaces, &[u8]); 4] = [
    (Namespaces::XHTML, b" xmlns:xhtml=\"http://www.w3.org/1999/xhtml\""),
    (Namespaces::IMAGE, b" xmlns:image=\"http://www.google.com/schemas/sitemap-image/1.1\""),
    (Namespaces::VIDEO, b" xmlns:video=\"http://www.google.com/schemas/sitemap-video/1.1\""),
    (Namespaces::NEWS, b" xmlns:news=\"http://www.google.com/schemas/sitemap-news/0.9\""),
];
const SHARD_TAIL: &[u8] = b"</urlset>\n";
const INDEX_HEAD: &[u8] =
    b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<sitemapindex xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">\n";
const ENTRY_HEAD: &[u8] = b"<sitemap><loc>";
const ENTRY_MIDDLE: &[u8] = b"</loc><lastmod>";
const ENTRY_TAIL: &[u8] = b"</lastmod></sitemap>\n";
const INDEX_TAIL: &[u8] = b"</sitemapindex>\n";

/// What a shard has beside its rows, in bytes: it depends on the namespaces that the rows use.
#[must_use]
pub fn frame_bytes(spaces: Namespaces) -> u64 {
    FRAME_BYTES[spaces.index()]
}

/// [`frame_bytes`] of every set of namespaces, since it is asked for with every row.
const FRAME_BYTES: [u64; Namespaces::SETS] = {
    let mut sizes = [0; Namespaces::SETS];
    let mut set = 0;
    while set < Namespaces::SETS {
        let mut bytes = SHARD_HEAD.len() + SHARD_HEAD_END.len() + SHARD_TAIL.len();
        let mut at = 0;
        while at < DECLARATIONS.len() {
            if set & DECLARATIONS[at].0.index() != 0 {
                bytes += DECLARATIONS[at].1.len();
            }
            at += 1;
        }
        sizes[set] = bytes as u64;
        set += 1;
    }
    sizes
};

/// The longest head, in bytes: one that declares every namespace.
const HEAD_BYTES_MAX: usize = FRAME_BYTES[Namespaces::SETS - 1] as usize - SHARD_TAIL.len();
/// The head of most shards: one that declares none.
const HEAD_BYTES: usize = FRAME_BYTES[0] as usize - SHARD_TAIL.len();

/// The XML of a shard under way. Its head declares what its rows use, and so is made last, in room that is kept for it.
#[derive(Debug)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
    /// Where the rows begin.
    rows_start: usize,
    is_finished: bool,
}

impl Draft {
    /// One whose shards begin at an address that is a multiple of `alignment`, where they declare no namespace. So it
    /// never moves, and has addresses for the largest shard; memory only for those it has had.
    pub(crate) fn new(alignment: usize) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(HEAD_BYTES_MAX + alignment + BYTES_MAX as usize);
        // Before the head that declares nothing there is room for the rest of the longest.
        let room = HEAD_BYTES_MAX - HEAD_BYTES;
        let rows_start = room + bytes.as_ptr().wrapping_add(room).align_offset(alignment) + HEAD_BYTES;
        bytes.resize(rows_start, 0);
        Self { bytes, rows_start, is_finished: false }
    }

    /// Appends `rows`, canonical rows end to end; behind a finished shard they begin another.
    pub(crate) fn append(&mut self, rows: &[u8]) {
        if std::mem::take(&mut self.is_finished) {
            self.bytes.truncate(self.rows_start);
        }
        row::all(rows).for_each(|row| row.write_xml(&mut self.bytes));
    }

    /// The whole shard, whose rows use `spaces`.
    pub(crate) fn finish(&mut self, spaces: Namespaces) -> &[u8] {
        let declared = DECLARATIONS.iter().filter(|(space, _)| spaces.has(*space)).map(|(_, declaration)| *declaration);
        let head = [SHARD_HEAD].into_iter().chain(declared).chain([SHARD_HEAD_END]).collect::<Vec<_>>().concat();
        let start = self.rows_start - head.len();
        self.bytes[start..self.rows_start].copy_from_slice(&head);
        self.bytes.extend_from_slice(SHARD_TAIL);
        self.is_finished = true;
        &self.bytes[start..]
    }
}

/// A line of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The shard's file.
    pub file: String,
    /// When its rows last changed.
    pub changed_at: String,
}

impl Entry {
    /// The entry of `shard`.
    #[must_use]
    pub fn of(shard: &Shard) -> Self {
        Self { file: shard.file.clone(), changed_at: shard.changed_at.clone() }
    }
}

/// What an index has beside its entries, in bytes.
pub(crate) const INDEX_FRAME_BYTES: u64 = (INDEX_HEAD.len() + INDEX_TAIL.len()) as u64;

/// The index of `entries`, whose files lie under `files_url`.
#[must_use]
pub fn index(entries: &[Entry], files_url: &str) -> Vec<u8> {
    let mut out = INDEX_HEAD.to_vec();
    entries.iter().for_each(|entry| write_entry(entry, files_url, &mut out));
    out.extend_from_slice(INDEX_TAIL);
    out
}

/// The index `number` of these shards. One that has none of its own would not be valid, so it names the first of all, which
/// is another's: set in by a space, and so not read back by [`index_entries`].
#[must_use]
pub fn index_of(number: u32, shards: &[Shard], files_url: &str) -> Vec<u8> {
    let own: Vec<Entry> = shards.iter().filter(|shard| shard.index == number).map(Entry::of).collect();
    let mut out = INDEX_HEAD.to_vec();
    if let ([], Some(first)) = (own.as_slice(), shards.first()) {
        out.push(b' ');
        write_entry(&Entry::of(first), files_url, &mut out);
    }
    own.iter().for_each(|entry| write_entry(entry, files_url, &mut out));
    out.extend_from_slice(INDEX_TAIL);
    out
}

/// Whether `bytes` are an index that this project wrote for `files_url`, and not somebody else's under the same name.
pub(crate) fn is_our_index(bytes: &[u8], files_url: &str) -> bool {
    let lines = bytes.strip_prefix(INDEX_HEAD).and_then(|rest| rest.strip_suffix(INDEX_TAIL));
    let set_in = |line: &[u8]| index_entries(line.trim_ascii_start(), files_url).len() == 1;
    lines.is_some_and(|lines| lines.strip_suffix(b"\n").unwrap_or_default().split(|byte| *byte == b'\n').all(set_in))
}

fn write_entry(entry: &Entry, files_url: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(ENTRY_HEAD);
    write_entities(files_url.as_bytes(), out);
    out.push(b'/');
    write_entities(entry.file.as_bytes(), out);
    out.extend_from_slice(ENTRY_MIDDLE);
    out.extend_from_slice(entry.changed_at.as_bytes());
    out.extend_from_slice(ENTRY_TAIL);
}

/// How big `entry` is in an index, in bytes.
pub(crate) fn entry_bytes(entry: &Entry, files_url: &str) -> u64 {
    let mut out = Vec::new();
    write_entry(entry, files_url, &mut out);
    out.len() as u64
}

/// The entries of an index that [`index`] made for the same `files_url`. What else stands in the bytes is not ours and
/// is passed over.
#[must_use]
pub fn index_entries(bytes: &[u8], files_url: &str) -> Vec<Entry> {
    let mut start = ENTRY_HEAD.to_vec();
    write_entities(files_url.as_bytes(), &mut start);
    start.push(b'/');
    let entry = |line: &[u8]| {
        let text = std::str::from_utf8(line.strip_prefix(start.as_slice())?).ok()?;
        let (file, rest) = text.split_once(std::str::from_utf8(ENTRY_MIDDLE).ok()?)?;
        let (changed_at, _) = rest.split_once('<')?;
        let plain = !file.is_empty() && !file.contains(['/', '&', '<']);
        plain.then(|| Entry { file: file.to_owned(), changed_at: changed_at.to_owned() })
    };
    bytes.split(|byte| *byte == b'\n').filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::shard;
    use crate::row::Row;
    use crate::row::tests::row;

    #[test]
    fn an_index_is_read_back_and_what_is_not_ours_is_passed_over() {
        let entry = |file: &str| Entry { file: file.to_owned(), changed_at: "2025-11-22T08:26:40Z".to_owned() };
        let entries = [entry("sitemap-00001.xml.gz"), entry("sitemap-00002.xml.gz")];
        let bytes = index(&entries, "https://a.example/x&y");
        assert_eq!(index_entries(&bytes, "https://a.example/x&y"), entries);
        assert_eq!(index_entries(&bytes, "https://b.example"), []);
        assert_eq!(index_entries(b"<html>\n<sitemap><loc>https://a.example/", "https://a.example"), []);
    }

    #[test]
    fn an_index_without_shards_names_one_that_is_not_its_own() {
        let shards = [2, 2, 5].map(|index| Shard { index, ..shard(&format!("s{index}.xml"), "", "") });
        let url = "https://a.example";
        let read = |number| index_entries(&index_of(number, &shards, url), url);
        assert_eq!([1, 2, 5].map(|number| read(number).len()), [0, 2, 1]);
        let lent = String::from_utf8(index_of(1, &shards, url)).unwrap();
        assert!(lent.contains("\n <sitemap><loc>https://a.example/s2.xml</loc>"), "{lent}");
        assert_eq!(index_of(2, &shards, url), index(&read(2), url));
        assert!([1, 2, 5].iter().all(|number| is_our_index(&index_of(*number, &shards, url), url)));
        let foreign = lent.replace("a.example", "b.example");
        let longer = lent.replace("</sitemapindex>", "<!-- by hand -->\n</sitemapindex>");
        assert!([foreign, longer].iter().all(|other| !is_our_index(other.as_bytes(), url)));
        assert!(!is_our_index(&index(&[], url), url));
    }

    #[test]
    fn the_size_of_an_index_is_known_before_it_is_made() {
        let url = "https://a.example/x&y";
        let entries = ["a&b.xml", "c.xml.gz"].map(|file| Entry { file: file.into(), changed_at: "2025-11-22".into() });
        let sum: u64 = entries.iter().map(|entry| entry_bytes(entry, url)).sum();
        assert_eq!(index(&entries, url).len() as u64, INDEX_FRAME_BYTES + sum);
    }

    #[test]
    fn a_shard_is_its_frame_and_its_rows_to_the_byte() {
        let rows =
            [row("https://a.example/1&2", "", "", ""), row("https://a.example/2", "2025-11-22", "", "")].concat();
        let mut draft = Draft::new(4096);
        let second = &rows[Row::first(&rows).unwrap().as_bytes().len()..];
        let sizes = Row::first(&rows).unwrap().xml_bytes() + Row::first(second).unwrap().xml_bytes();
        let all = DECLARATIONS.iter().fold(Namespaces::NONE, |all, (space, _)| all.and(*space));
        for (spaces, declared) in [(all, 4), (Namespaces::IMAGE.and(Namespaces::NEWS), 2), (Namespaces::NONE, 0)] {
            draft.append(&rows);
            let xml = draft.finish(spaces);
            assert!(declared > 0 || xml.as_ptr().align_offset(4096) == 0, "it can be written from where it lies");
            let xml = String::from_utf8_lossy(xml);
            assert_eq!(xml.len() as u64, frame_bytes(spaces) + sizes as u64);
            assert!(xml.starts_with("<?xml ") && xml.ends_with("</url>\n</urlset>\n"), "{xml}");
            assert!(xml.contains(">\n<url><loc>https://a.example/1&amp;2</loc></url>\n"), "{xml}");
            assert_eq!(xml.matches("xmlns:").count(), declared);
        }
    }
}
