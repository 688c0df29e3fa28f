//! Which pages differ between two sitemaps, from their shards alone, one shard of each side in memory.
//!
//! Both sides give their pages in one order, by loc; so two streams are merged, and nothing is kept. What stands out of
//! order is found and told, never compared wrongly. Shards that are cut by a sort key have no such order: their pages are
//! sorted first, in bounded memory.

use crate::build::Built;
use crate::calls::side_by_side;
use crate::manifest::Shard;
use crate::pages::BY_ADDRESS;
use crate::row::{self, Note, Row};
use crate::site::Target;
use crate::sort::{MEMORY_BYTES, SortError, Sorter};
use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::{fs, io};
use twox_hash::XxHash3_64;

/// A page of a shard: where it is, and a hash of all that the shard says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its address, without entities.
    pub loc: String,
    /// Its lastmod as it is written; empty where it has none.
    pub lastmod: String,
    /// Of the whole `<url>`.
    hash: u64,
}

/// How a page differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// It is only in the new one.
    Added,
    /// It is in both, and something about it changed.
    Edited,
    /// It is only in the old one.
    Removed,
}

/// Why two sitemaps cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DifferenceError<E> {
    /// A shard is none that this project wrote.
    #[error("{0} is no shard that can be read")]
    Shard(String),
    /// Pages are not in the order of their addresses.
    #[error("{0} is not in the order of its addresses")]
    Order(String),
    /// Pages could not be sorted.
    #[error(transparent)]
    Sort(#[from] SortError),
    /// A shard could not be had, or the taker stopped.
    #[error(transparent)]
    Other(E),
}

/// Reads the pages of a shard's XML. Our own shards are plain enough to be read without a parser: every page is one
/// `<url>` with its `<loc>` first, and CDATA and comments never stand there.
fn pages(xml: &[u8]) -> Option<VecDeque<Page>> {
    let text = std::str::from_utf8(xml).ok()?;
    let mut pages = VecDeque::new();
    let mut rest = text;
    while let Some(at) = rest.find("<url>") {
        let end = rest[at..].find("</url>")? + at;
        let url = &rest[at + "<url>".len()..end];
        rest = &rest[end..];
        let loc = quick_xml::escape::unescape(between(url, "<loc>", "</loc>")?.trim()).ok()?.into_owned();
        let lastmod = between(url, "<lastmod>", "</lastmod>").unwrap_or_default().trim().to_owned();
        pages.push_back(Page { loc, lastmod, hash: XxHash3_64::oneshot(url.as_bytes()) });
    }
    Some(pages)
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let from = text.find(begin)? + begin.len();
    let size = text[from..].find(end)?;
    Some(&text[from..from + size])
}

/// One side: its shards, by key range, read as they are needed.
struct Side<'a, E> {
    files: std::slice::Iter<'a, String>,
    read: &'a mut dyn FnMut(&str) -> Result<Vec<u8>, E>,
    pages: VecDeque<Page>,
    last: String,
}

impl<E> Side<'_, E> {
    /// The next page, if there is one.
    fn next(&mut self) -> Result<Option<Page>, DifferenceError<E>> {
        loop {
            if let Some(page) = self.pages.pop_front() {
                if page.loc <= self.last && !self.last.is_empty() {
                    return Err(DifferenceError::Order(page.loc));
                }
                page.loc.clone_into(&mut self.last);
                return Ok(Some(page));
            }
            let Some(file) = self.files.next() else { return Ok(None) };
            let xml = (self.read)(file).map_err(DifferenceError::Other)?;
            self.pages = pages(&xml).ok_or_else(|| DifferenceError::Shard(file.clone()))?;
        }
    }
}

/// What reads a shard's XML, unpacked, by its name.
pub type ReadShard<'a, E> = dyn FnMut(&str) -> Result<Vec<u8>, E> + 'a;

/// What is told of a page that differs: how, and the old and the new page as far as there is one.
pub type TakeDifference<'a, E> = dyn FnMut(Difference, Option<&Page>, Option<&Page>) -> Result<(), E> + 'a;

/// Gives every page that differs to `take`, in the order of their addresses, with the old and the new page as far as
/// there is one. `old` and `new` are the files of each side that may differ, by key range.
///
/// # Errors
/// A [`DifferenceError`], among them what `take` returns.
pub fn differences<E>(
    old: (&[String], &mut ReadShard<'_, E>),
    new: (&[String], &mut ReadShard<'_, E>),
    take: &mut TakeDifference<'_, E>,
) -> Result<(), DifferenceError<E>> {
    let mut old = Side { files: old.0.iter(), read: old.1, pages: VecDeque::new(), last: String::new() };
    let mut new = Side { files: new.0.iter(), read: new.1, pages: VecDeque::new(), last: String::new() };
    let (mut before, mut after) = (old.next()?, new.next()?);
    loop {
        let order = match (&before, &after) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) => before.loc.cmp(&after.loc),
        };
        let told = match order {
            Ordering::Less => take(Difference::Removed, before.as_ref(), None),
            Ordering::Greater => take(Difference::Added, None, after.as_ref()),
            Ordering::Equal if before.as_ref().map(|page| page.hash) != after.as_ref().map(|page| page.hash) => {
                take(Difference::Edited, before.as_ref(), after.as_ref())
            }
            Ordering::Equal => Ok(()),
        };
        told.map_err(DifferenceError::Other)?;
        if order.is_le() {
            before = old.next()?;
        }
        if order.is_ge() {
            after = new.next()?;
        }
    }
}

/// All pages of both sides, each with the number of its file, sorted by address and then the old before the new one.
/// Sorts in `dir`.
///
/// # Errors
/// A [`DifferenceError`].
pub(crate) fn sorted_pages<E>(
    old: (&[String], &mut ReadShard<'_, E>),
    new: (&[String], &mut ReadShard<'_, E>),
    dir: &Path,
) -> Result<Sorter, DifferenceError<E>> {
    let mut sorter = Sorter::new(dir.to_owned(), MEMORY_BYTES);
    gather(old, Note::Old, &mut sorter)?;
    gather(new, Note::New, &mut sorter)?;
    Ok(sorter)
}

fn gather<E>(
    (files, read): (&[String], &mut ReadShard<'_, E>),
    note: Note,
    sorter: &mut Sorter,
) -> Result<(), DifferenceError<E>> {
    let mut record = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let xml = read(file).map_err(DifferenceError::Other)?;
        let number = (number as u64).to_le_bytes();
        for page in pages(&xml).ok_or_else(|| DifferenceError::Shard(file.clone()))? {
            let parts = [&number[..], &page.hash.to_le_bytes(), page.lastmod.as_bytes()];
            row::note(&mut record, note, page.loc.as_bytes(), &parts);
            sorter.push(&record)?;
        }
    }
    Ok(())
}

/// What a record of [`sorted_pages`] says: whether it is of the new side, the number of its file, and the page.
pub(crate) fn page_of(record: &[u8]) -> Option<(bool, usize, Page)> {
    let row = Row::first(record)?;
    let (number, rest) = row.extra().split_first_chunk()?;
    let (hash, lastmod) = rest.split_first_chunk()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let page = Page { loc: text(row.loc()), lastmod: text(lastmod), hash: u64::from_le_bytes(*hash) };
    Some((row.note()? == Note::New, usize::try_from(u64::from_le_bytes(*number)).ok()?, page))
}

/// As [`differences`], for shards whose pages are in any order.
fn differences_unordered<E>(
    old: (&[String], &mut ReadShard<'_, E>),
    new: (&[String], &mut ReadShard<'_, E>),
    dir: &Path,
    take: &mut TakeDifference<'_, E>,
) -> Result<(), DifferenceError<E>> {
    let mut before: Option<Page> = None;
    let mut told = |before: Option<&Page>, after: Option<&Page>| {
        let difference = match (before, after) {
            (Some(before), Some(after)) if before.hash == after.hash => return Ok(()),
            (Some(_), Some(_)) => Difference::Edited,
            (Some(_), None) => Difference::Removed,
            (None, Some(_)) => Difference::Added,
            (None, None) => return Ok(()),
        };
        take(difference, before, after).map_err(DifferenceError::Other)
    };
    sorted_pages(old, new, dir)?.drain(|record| {
        let Some((is_new, _, page)) = page_of(record) else { return Ok(()) };
        let waiting = before.take();
        match (waiting, is_new) {
            (Some(old), true) if old.loc == page.loc => told(Some(&old), Some(&page)),
            (Some(old), true) => told(Some(&old), None).and_then(|()| told(None, Some(&page))),
            (None, true) => told(None, Some(&page)),
            // What a killed run left may be there twice.
            (Some(old), false) if old.loc == page.loc => {
                before = Some(page);
                Ok(())
            }
            (waiting, false) => {
                before = Some(page);
                told(waiting.as_ref(), None)
            }
        }
    })?;
    told(before.as_ref(), None)
}

/// Gives every page that `built` changes to `take`, as [`differences`] does. Shards that were not made anew lie in `dir`;
/// an old one that does not counts as empty.
///
/// # Errors
/// A [`DifferenceError`].
pub fn differences_of(
    built: &Built,
    dir: &Path,
    take: &mut TakeDifference<'_, io::Error>,
) -> Result<(), DifferenceError<io::Error>> {
    let (previous, next) = (&built.before().shards, &built.manifest.shards);
    let (mut old, new) = (changed(previous, next), changed(next, previous));
    old.retain(|file| dir.join(file).exists());
    let made: HashMap<&str, &Path> =
        built.changes.iter().map(|change| (change.file.as_str(), change.staged.as_path())).collect();
    let mut read_old = |file: &str| fs::read(dir.join(file)).and_then(unpack);
    let mut read_new = |file: &str| match made.get(file) {
        Some(staged) => fs::read(staged).and_then(unpack),
        None => fs::read(dir.join(file)).and_then(unpack),
    };
    if [built.before(), &built.manifest].iter().any(|manifest| manifest.sort_key != BY_ADDRESS) {
        return differences_unordered((&old, &mut read_old), (&new, &mut read_new), dir, take);
    }
    differences((&old, &mut read_old), (&new, &mut read_new), take)
}

/// Copies the public shards that [`differences_of`] reads into `dir`, as far as they are not there yet.
///
/// # Errors
/// Where one cannot be read; one that is not there is left out.
pub async fn copy_changed(s3: &Client, target: &Target, built: &Built, dir: &Path) -> io::Result<()> {
    let (previous, next) = (&built.before().shards, &built.manifest.shards);
    let made: HashSet<&str> = built.changes.iter().map(|change| change.file.as_str()).collect();
    let mut files = changed(next, previous);
    files.retain(|file| !made.contains(file.as_str()));
    files.extend(changed(previous, next));
    files.retain(|file| !dir.join(file).exists());
    let bytes: HashMap<&str, u64> =
        previous.iter().chain(next).map(|shard| (shard.file.as_str(), shard.file_bytes)).collect();
    let copy = async |file: String| {
        let object = s3.get_object().bucket(&target.bucket).key(format!("{}{file}", target.prefix)).send().await;
        match object {
            Ok(object) => {
                fs::write(dir.join(file), object.body.collect().await.map_err(io::Error::other)?.into_bytes())
            }
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => Ok(()),
            Err(error) => Err(io::Error::other(DisplayErrorContext(&error).to_string())),
        }
    };
    let sized = files.into_iter().map(|file| {
        let held = bytes.get(file.as_str()).copied().unwrap_or(0);
        (file, held)
    });
    side_by_side(sized, copy).await.map(|_: Vec<()>| ())
}

/// The files of `shards` whose rows are not the same in `others`.
fn changed(shards: &[Shard], others: &[Shard]) -> Vec<String> {
    let hashes: HashMap<&str, &str> =
        others.iter().map(|shard| (shard.file.as_str(), shard.rows_hash.as_str())).collect();
    let same = |shard: &&Shard| hashes.get(shard.file.as_str()) == Some(&shard.rows_hash.as_str());
    shards.iter().filter(|shard| !same(shard)).map(|shard| shard.file.clone()).collect()
}

/// Unpacks a shard where its bytes say that it is packed.
///
/// # Errors
/// Where it is damaged, or larger than a shard may be.
pub fn unpack(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut xml = Vec::new();
    let reader = flate2::read::MultiGzDecoder::new(bytes.as_slice());
    let size = io::Read::read_to_end(&mut io::Read::take(reader, crate::xml::BYTES_MAX + 1), &mut xml)?;
    if size as u64 > crate::xml::BYTES_MAX {
        return Err(io::Error::other("it is larger than a shard may be"));
    }
    Ok(xml)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn shard(pages: &[(&str, &str)]) -> Vec<u8> {
        let url = |(loc, lastmod): &(&str, &str)| {
            let loc = loc.replace('&', "&amp;");
            let lastmod = if lastmod.is_empty() { String::new() } else { format!("<lastmod>{lastmod}</lastmod>") };
            format!("<url><loc>{loc}</loc>{lastmod}</url>\n")
        };
        format!("<urlset>\n{}</urlset>\n", pages.iter().map(url).collect::<String>()).into_bytes()
    }

    type Told = Vec<(Difference, String)>;

    fn compare(old: &[&[(&str, &str)]], new: &[&[(&str, &str)]]) -> Result<Told, DifferenceError<String>> {
        let side = |shards: &[&[(&str, &str)]]| -> BTreeMap<String, Vec<u8>> {
            shards.iter().enumerate().map(|(n, pages)| (n.to_string(), shard(pages))).collect()
        };
        let (old, new) = (side(old), side(new));
        let files = |side: &BTreeMap<String, Vec<u8>>| side.keys().cloned().collect::<Vec<_>>();
        let mut told = Told::new();
        let mut take = |difference, before: Option<&Page>, after: Option<&Page>| {
            told.push((difference, before.or(after).map(|page| page.loc.clone()).unwrap_or_default()));
            Ok(())
        };
        let mut read_old = |file: &str| old.get(file).cloned().ok_or_else(|| file.to_owned());
        let mut read_new = |file: &str| new.get(file).cloned().ok_or_else(|| file.to_owned());
        differences((&files(&old), &mut read_old), (&files(&new), &mut read_new), &mut take)?;
        Ok(told)
    }

    #[test]
    fn pages_in_any_order_are_told_like_those_in_order() {
        let mut old = [("a", "1"), ("b&c", "1"), ("d", ""), ("e", "1"), ("x", "2")];
        let mut new = [("a", "1"), ("b&c", "2"), ("e", "1"), ("f", ""), ("x", "3")];
        let told = compare(&[&old[..2], &old[2..]], &[&new[..1], &new[1..]]).unwrap();
        assert_eq!(told.len(), 4);
        old.reverse();
        new.rotate_left(2);
        let shards = [shard(&old[..3]), shard(&old[3..]), shard(&new[..2]), shard(&new[2..])];
        let names: Vec<String> = (0..4).map(|n| n.to_string()).collect();
        let read = |file: &str| Ok::<_, io::Error>(shards[file.parse::<usize>().unwrap()].clone());
        let mut again = Told::new();
        let mut take = |difference, before: Option<&Page>, after: Option<&Page>| {
            again.push((difference, before.or(after).map(|page| page.loc.clone()).unwrap_or_default()));
            Ok(())
        };
        let dir = tempfile::tempdir().unwrap();
        differences_unordered((&names[..2], &mut { read }), (&names[2..], &mut { read }), dir.path(), &mut take)
            .unwrap();
        assert_eq!(again, told);
    }

    #[test]
    fn what_was_added_edited_and_removed_is_told_whatever_shard_it_is_in() {
        let told = compare(
            &[&[("a", "1"), ("b&c", "1")], &[("d", ""), ("e", "1")]],
            &[&[("a", "1")], &[("b&c", "2"), ("c", "")], &[("e", "1"), ("f", "")]],
        );
        use Difference::{Added, Edited, Removed};
        let wanted = [(Edited, "b&c"), (Added, "c"), (Removed, "d"), (Added, "f")];
        assert_eq!(told.unwrap(), wanted.map(|(difference, loc)| (difference, loc.to_owned())));
        assert_eq!(compare(&[&[("a", "1"), ("b", "")]], &[&[("a", "1")], &[("b", "")]]).unwrap(), []);
        assert!(matches!(compare(&[&[("b", ""), ("a", "")]], &[]), Err(DifferenceError::Order(_))));
    }
}
