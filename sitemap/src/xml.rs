//! The XML of shards and indexes, as sitemaps.org defines it.

use crate::manifest::Shard;
use crate::row::{Row, write_entities};

/// URLs a shard may hold (sitemaps.org).
pub const URLS_MAX: u32 = 50_000;
/// Bytes a shard may have before compression (sitemaps.org: 50 MB, which is 52,428,800 bytes).
pub const BYTES_MAX: u64 = 52_428_800;
/// Shards an index may name (sitemaps.org).
pub const SHARDS_MAX: usize = 50_000;

const SHARD_HEAD: &[u8] =
    b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">\n";
const SHARD_TAIL: &[u8] = b"</urlset>\n";
const INDEX_HEAD: &[u8] =
    b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<sitemapindex xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">\n";
const INDEX_TAIL: &[u8] = b"</sitemapindex>\n";

/// What a shard has beside its rows, in bytes.
pub const SHARD_FRAME_BYTES: u64 = (SHARD_HEAD.len() + SHARD_TAIL.len()) as u64;

/// Writes the shard of `rows` (canonical rows, end to end) to `out`, cleared first.
pub fn write_shard(rows: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(SHARD_HEAD);
    let mut rest = rows;
    while let Some(row) = Row::first(rest) {
        row.write_xml(out);
        rest = &rest[row.as_bytes().len()..];
    }
    out.extend_from_slice(SHARD_TAIL);
}

/// The index that names `shards`, whose files lie under `files_url`.
#[must_use]
pub fn index<'a>(shards: impl Iterator<Item = &'a Shard>, files_url: &str) -> Vec<u8> {
    let mut out = INDEX_HEAD.to_vec();
    for shard in shards {
        out.extend_from_slice(b"<sitemap><loc>");
        write_entities(files_url.as_bytes(), &mut out);
        out.push(b'/');
        write_entities(shard.file.as_bytes(), &mut out);
        out.extend_from_slice(b"</loc><lastmod>");
        out.extend_from_slice(shard.changed_at.as_bytes());
        out.extend_from_slice(b"</lastmod></sitemap>\n");
    }
    out.extend_from_slice(INDEX_TAIL);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;

    #[test]
    fn a_shard_is_its_frame_and_its_rows_to_the_byte() {
        let rows =
            [row("https://a.example/1&2", "", "", ""), row("https://a.example/2", "2025-11-22", "", "")].concat();
        let mut xml = Vec::new();
        write_shard(&rows, &mut xml);
        let second = &rows[Row::first(&rows).unwrap().as_bytes().len()..];
        let sizes = Row::first(&rows).unwrap().xml_bytes() + Row::first(second).unwrap().xml_bytes();
        assert_eq!(xml.len() as u64, SHARD_FRAME_BYTES + sizes as u64);
        assert!(String::from_utf8(xml).unwrap().contains("<loc>https://a.example/1&amp;2</loc></url>\n"));
    }
}
