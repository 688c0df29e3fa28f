//! Versions of pages in other languages, put together from what all pages say, with bounded memory.
//!
//! Search engines take alternates only where every version lists itself and all others (Google's rules for hreflang).
//! So pages are not believed one by one. Each names a key: its group, or the least address of its list. Statements
//! meet the page that they are about, sorted by address, and each page settles on one key: most of the statements about
//! it decide, its own counting as one and deciding a tie. That it is the default for all other languages, as one page
//! often is for the whole site, decides nothing where anybody names it by a language. The pages of one key, sorted by
//! key, are the versions of one page, and each gets the same links.
//!
//! - A list that lacks its own page or some of the others is completed.
//! - A page that only others list is a version, where most who list it agree.
//! - What is not in the page list (on hosts of the site), or belongs to other versions, is left out.
//! - One language for two pages goes to the one that most name so, else to the lesser address.
//! - Addresses on other hosts cannot be looked at; they are believed.
//! - Pages of other sitemaps of the site are versions too; their links stand there.

use crate::extension::VERSIONS_MAX;
use crate::extension::versions::{Versions, X_DEFAULT};
use crate::row::{self, EXTRA_BYTES_MAX, Namespaces, Note, Row, write_entities};
use crate::sort::{SortError, Sorter};
use std::collections::BTreeMap;

/// Statements about one page that are looked at; a page that more name has enough of them.
const STATEMENTS_MAX: usize = 4_096;

const KEY_BYTES: usize = 16;
const NOT_LISTED: &str = "alternate is not in the page list";
const OTHER_VERSIONS: &str = "alternate belongs to other versions, which do not list the page back";
const NO_LANGUAGE: &str = "version without a language of its own, which nobody states";
const TOO_MANY: &str = "more versions of one page than 256";
const TOO_LARGE: &str = "the links to all versions are larger than 1 MiB";
const TWICE: &str = "two versions have one language";

/// What was left out: why, and the address.
pub(crate) type Tell<'t, E> = dyn FnMut(&'static str, &[u8]) -> Result<(), E> + 't;

/// Adds to `sorter`, which has the pages themselves too, what the page at `loc` says of its versions.
pub(crate) fn state(loc: &[u8], versions: &Versions, sorter: &mut Sorter) -> Result<(), SortError> {
    let Some(key) = versions.key else { return Ok(()) };
    let key = key.to_be_bytes();
    let mut record = Vec::new();
    row::note(&mut record, Note::Own, loc, &[&key]);
    sorter.push(&record)?;
    for statement in &versions.statements {
        let (hreflang, itself) = (statement.hreflang.as_bytes(), u8::from(statement.href == loc));
        if statement.ours {
            row::note(&mut record, Note::Says, &statement.href, &[&key, &[itself], hreflang]);
        } else {
            let len = [u8::try_from(hreflang.len()).unwrap_or(u8::MAX)];
            row::note(&mut record, Note::Foreign, loc, &[&len, hreflang, &statement.href]);
        }
        sorter.push(&record)?;
    }
    Ok(())
}

/// The same of a page that is in another sitemap of the site: a version like any other, whose own links stand there.
pub(crate) fn state_elsewhere(loc: &[u8], versions: &Versions, sorter: &mut Sorter) -> Result<(), SortError> {
    let mut record = Vec::new();
    row::note(&mut record, Note::Elsewhere, loc, &[]);
    sorter.push(&record)?;
    state(loc, versions, sorter)
}

/// Reads pages and statements, sorted by address, and gathers the pages under their keys.
pub(crate) struct Meeting {
    members: Sorter,
    loc: Vec<u8>,
    listed: bool,
    own: Vec<u128>,
    says: Vec<(u128, bool, Vec<u8>)>,
    foreign: Vec<Vec<u8>>,
}

impl Meeting {
    /// A meeting that holds its outcome in `members`.
    pub(crate) fn new(members: Sorter) -> Self {
        let (own, says, foreign) = (Vec::new(), Vec::new(), Vec::new());
        Self { members, loc: Vec::new(), listed: false, own, says, foreign }
    }

    /// Takes a page or what was noted about one; pages of one address come before the notes.
    pub(crate) fn take<E: From<SortError>>(&mut self, row: &Row<'_>, tell: &mut Tell<'_, E>) -> Result<(), E> {
        if row.loc() != self.loc.as_slice() {
            self.settle(tell)?;
            self.loc.clear();
            self.loc.extend_from_slice(row.loc());
        }
        let extra = row.extra();
        match row.note() {
            None | Some(Note::Elsewhere) => self.listed = true,
            Some(_) if self.own.len() + self.says.len() + self.foreign.len() >= STATEMENTS_MAX => {}
            Some(Note::Own) => self.own.extend(key_of(extra)),
            Some(Note::Says) => {
                if let (Some(key), Some((itself, hreflang))) = (key_of(extra), extra[KEY_BYTES..].split_first()) {
                    self.says.push((key, *itself == 1, hreflang.to_vec()));
                }
            }
            Some(Note::Foreign) => self.foreign.push(extra.to_vec()),
            Some(Note::Links | Note::Old | Note::New) => {}
        }
        Ok(())
    }

    /// Ends the pages and gives the members of every key.
    pub(crate) fn finish<E: From<SortError>>(mut self, tell: &mut Tell<'_, E>) -> Result<Sorter, E> {
        self.settle(tell)?;
        Ok(self.members)
    }

    /// Decides which key the page in hand has, and what its languages are.
    fn settle<E: From<SortError>>(&mut self, tell: &mut Tell<'_, E>) -> Result<(), E> {
        let key = self.listed.then(|| self.key()).flatten();
        let mut languages: BTreeMap<&[u8], u32> = BTreeMap::new();
        for (said, _, hreflang) in &self.says {
            if Some(*said) == key {
                *languages.entry(hreflang).or_default() += 1;
            } else {
                tell(if self.listed { OTHER_VERSIONS } else { NOT_LISTED }, &self.loc)?;
            }
        }
        if let Some(key) = key {
            let mut record = Vec::new();
            if languages.is_empty() {
                tell(NO_LANGUAGE, &self.loc)?;
            }
            for (hreflang, votes) in languages {
                member(&mut record, key, (hreflang, votes, true), &self.loc);
                self.members.push(&record)?;
            }
            for foreign in &self.foreign {
                let Some((len, rest)) = foreign.split_first() else { continue };
                let Some((hreflang, href)) = rest.split_at_checked(usize::from(*len)) else { continue };
                member(&mut record, key, (hreflang, 1, false), href);
                self.members.push(&record)?;
            }
        }
        self.own.clear();
        self.says.clear();
        self.foreign.clear();
        self.listed = false;
        Ok(())
    }

    fn key(&self) -> Option<u128> {
        let mut votes: BTreeMap<u128, (u32, bool)> = BTreeMap::new();
        for key in &self.own {
            let vote = votes.entry(*key).or_default();
            *vote = (vote.0.max(1), true);
        }
        let is_default = |hreflang: &[u8]| hreflang == X_DEFAULT.as_bytes();
        let by_language = self.says.iter().any(|(_, _, hreflang)| !is_default(hreflang));
        for (key, itself, hreflang) in &self.says {
            if !(*itself || by_language && is_default(hreflang)) {
                votes.entry(*key).or_default().0 += 1;
            }
        }
        votes.into_iter().max_by_key(|(key, vote)| (*vote, std::cmp::Reverse(*key))).map(|(key, _)| key)
    }
}

fn member(record: &mut Vec<u8>, key: u128, (hreflang, votes, ours): (&[u8], u32, bool), href: &[u8]) {
    let len = [u8::try_from(hreflang.len()).unwrap_or(u8::MAX), u8::from(ours)];
    row::note(record, Note::Says, &key.to_be_bytes(), &[&votes.to_be_bytes(), &len, hreflang, href]);
}

fn key_of(extra: &[u8]) -> Option<u128> {
    extra.first_chunk::<KEY_BYTES>().map(|bytes| u128::from_be_bytes(*bytes))
}

/// One version, as one key's members state it.
struct Version {
    hreflang: Vec<u8>,
    href: Vec<u8>,
    votes: u32,
    ours: bool,
}

/// Reads the members of every key and notes for each page its links.
pub(crate) struct Circle {
    key: Vec<u8>,
    versions: Vec<Version>,
    xml: Vec<u8>,
}

impl Circle {
    pub(crate) fn new() -> Self {
        Self { key: Vec::new(), versions: Vec::new(), xml: Vec::new() }
    }

    /// Takes a member; links go to `out`.
    pub(crate) fn take<E: From<SortError>>(
        &mut self,
        row: &Row<'_>,
        out: &mut Sorter,
        tell: &mut Tell<'_, E>,
    ) -> Result<(), E> {
        if row.loc() != self.key.as_slice() {
            self.close(out, tell)?;
            self.key.clear();
            self.key.extend_from_slice(row.loc());
        }
        match version(row.extra()) {
            // One more than may be is held, to know that there are too many; each is told.
            Some(version) if self.versions.len() > VERSIONS_MAX => tell(TOO_MANY, &version.href),
            Some(version) => {
                self.versions.push(version);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Ends the key in hand.
    pub(crate) fn close<E: From<SortError>>(&mut self, out: &mut Sorter, tell: &mut Tell<'_, E>) -> Result<(), E> {
        let mut versions = std::mem::take(&mut self.versions);
        if versions.len() > VERSIONS_MAX {
            return versions.iter().try_for_each(|version| tell(TOO_MANY, &version.href));
        }
        versions
            .sort_by(|a, b| a.hreflang.cmp(&b.hreflang).then(b.votes.cmp(&a.votes)).then_with(|| a.href.cmp(&b.href)));
        let mut kept: Vec<Version> = Vec::new();
        for version in versions {
            match kept.last_mut() {
                Some(last) if last.hreflang == version.hreflang && last.href == version.href => {
                    last.ours |= version.ours;
                }
                Some(last) if last.hreflang == version.hreflang => tell(TWICE, &version.href)?,
                _ => kept.push(version),
            }
        }
        if kept.iter().all(|version| version.href == kept[0].href) {
            return Ok(());
        }
        self.xml.clear();
        for version in &kept {
            self.xml.extend_from_slice(b"<xhtml:link rel=\"alternate\" hreflang=\"");
            self.xml.extend_from_slice(&version.hreflang);
            self.xml.extend_from_slice(b"\" href=\"");
            write_entities(&version.href, &mut self.xml);
            self.xml.extend_from_slice(b"\"/>");
        }
        if self.xml.len() > EXTRA_BYTES_MAX / 2 {
            return tell(TOO_LARGE, &kept[0].href);
        }
        let mut pages: Vec<&[u8]> = kept.iter().filter(|version| version.ours).map(|v| v.href.as_slice()).collect();
        pages.sort_unstable();
        pages.dedup();
        let mut record = Vec::new();
        for page in pages {
            row::note(&mut record, Note::Links, page, &[&self.xml]);
            out.push(&record)?;
        }
        Ok(())
    }
}

fn version(extra: &[u8]) -> Option<Version> {
    let (votes, rest) = extra.split_first_chunk::<4>()?;
    let ([len, ours], rest) = rest.split_first_chunk::<2>()?;
    let (hreflang, href) = rest.split_at_checked(usize::from(*len))?;
    let votes = u32::from_be_bytes(*votes);
    Some(Version { hreflang: hreflang.to_vec(), href: href.to_vec(), votes, ours: *ours == 1 })
}

/// Gives the page at `start`, the last row in `out`, the links that `links` notes for it, before its other extensions.
pub(crate) fn link(out: &mut Vec<u8>, start: usize, links: &Row<'_>) {
    let Some(page) = Row::first(&out[start..]) else { return };
    let spaces = page.namespaces().and(Namespaces::XHTML);
    let all = [links.extra(), page.extra()].concat();
    let extra_start = start + page.as_bytes().len() - page.extra().len();
    out.truncate(extra_start);
    row::extend(out, start, &all, spaces);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extension::versions::{Statement, list_key};
    use crate::row::tests::row as page;
    use std::path::PathBuf;

    /// What the pages' XML links to, and what was left out, for pages that say `(loc, group, alternates)`.
    type Told = Vec<(&'static str, String)>;

    fn statement(hreflang: &str, path: &str) -> Statement {
        let ours = !path.starts_with("https://");
        let href = if ours { format!("https://a.example/{path}") } else { path.to_owned() };
        Statement { hreflang: hreflang.to_owned(), href: href.into_bytes(), ours }
    }

    /// A page at a path, and what it says.
    fn says(path: &str, list: &[(&str, &str)]) -> (String, Versions) {
        let loc = format!("https://a.example/{path}");
        let statements: Vec<_> = list.iter().map(|(hreflang, path)| statement(hreflang, path)).collect();
        let key = list_key(loc.as_bytes(), &statements);
        (loc, Versions { key, statements })
    }

    fn close(pages: &[(String, Versions)], memory_bytes: usize) -> (BTreeMap<String, Vec<String>>, Told) {
        let dir = tempfile::tempdir().unwrap();
        let sorter = || Sorter::new(PathBuf::from(dir.path()), memory_bytes);
        let (mut first, mut linked, mut told) = (sorter(), sorter(), Told::new());
        for (loc, versions) in pages {
            state(loc.as_bytes(), versions, &mut first).unwrap();
            first.push(&page(loc, "", "", "")).unwrap();
        }
        let mut tell = |reason: &'static str, loc: &[u8]| {
            told.push((reason, String::from_utf8_lossy(loc).replace("https://a.example/", "")));
            Ok::<_, SortError>(())
        };
        let (mut meeting, mut circle) = (Meeting::new(sorter()), Circle::new());
        first.drain(|bytes| meeting.take(&Row::first(bytes).unwrap(), &mut tell)).unwrap();
        let members = meeting.finish(&mut tell).unwrap();
        members.drain(|bytes| circle.take(&Row::first(bytes).unwrap(), &mut linked, &mut tell)).unwrap();
        circle.close(&mut linked, &mut tell).unwrap();
        let mut links = BTreeMap::new();
        linked
            .drain(|bytes| {
                let row = Row::first(bytes).unwrap();
                let xml = String::from_utf8(row.extra().to_vec()).unwrap();
                let each = xml
                    .split("<xhtml:link rel=\"alternate\" hreflang=\"")
                    .skip(1)
                    .map(|link| link.replace("\" href=\"", " ").replace("https://a.example/", "").replace("\"/>", ""));
                let loc = String::from_utf8_lossy(row.loc()).replace("https://a.example/", "");
                assert!(links.insert(loc, each.collect()).is_none(), "links are told once");
                Ok::<_, SortError>(())
            })
            .unwrap();
        (links, told)
    }

    fn everywhere(pages: &[&str], links: &[&str]) -> BTreeMap<String, Vec<String>> {
        pages.iter().map(|page| ((*page).to_owned(), links.iter().map(|link| (*link).to_owned()).collect())).collect()
    }

    const MEMORY_BYTES: usize = 1 << 20;

    #[test]
    fn lists_are_completed_and_every_version_lists_itself_and_all_others() {
        let all = [("de", "de"), ("en", "en"), ("fr", "fr"), ("x-default", "en")];
        let pages = [says("de", &all), says("en", &all[..2]), says("fr", &[]), says("other", &[])];
        let wanted = everywhere(&["de", "en", "fr"], &["de de", "en en", "fr fr", "x-default en"]);
        for memory_bytes in [MEMORY_BYTES, 1] {
            let (links, told) = close(&pages, memory_bytes);
            assert_eq!((links, told.as_slice()), (wanted.clone(), &[][..]));
        }
    }

    #[test]
    fn what_is_not_in_the_list_or_belongs_elsewhere_is_left_out_and_told() {
        let good = [("de", "de"), ("en", "en")];
        let stale = [("en", "en"), ("es", "a-es"), ("pt", "gone")];
        let (links, told) = close(&[says("de", &good), says("en", &good), says("a-es", &stale)], MEMORY_BYTES);
        assert_eq!(links, everywhere(&["de", "en"], &["de de", "en en"]));
        assert_eq!(told, [(OTHER_VERSIONS, "en".to_owned()), (NOT_LISTED, "gone".to_owned())]);
    }

    #[test]
    fn one_language_for_two_pages_goes_to_the_one_that_most_name() {
        let one = [("de", "de"), ("en", "en-1"), ("fr", "fr")];
        let two = [("de", "de"), ("en", "en-2"), ("fr", "fr")];
        let pages = [says("de", &one), says("fr", &one), says("en-1", &one), says("en-2", &two)];
        let (links, told) = close(&pages, MEMORY_BYTES);
        assert_eq!(links, everywhere(&["de", "en-1", "fr"], &["de de", "en en-1", "fr fr"]));
        assert_eq!(told, [(TWICE, "https://a.example/en-2".replace("https://a.example/", ""))]);
    }

    #[test]
    fn one_default_for_the_whole_site_takes_no_links_from_other_pages() {
        let home = [("de", "de/"), ("en", ""), ("x-default", "")];
        let of = |page: &'static str| {
            [
                ("de", format!("de/{page}")),
                ("en", page.to_owned()),
                ("es", format!("es/{page}")),
                ("fr", format!("fr/{page}")),
            ]
        };
        let mut pages = vec![says("", &home), says("de/", &home)];
        for page in ["a", "b"] {
            let list = of(page);
            let mut list: Vec<(&str, &str)> = list.iter().map(|(hreflang, path)| (*hreflang, path.as_str())).collect();
            list.push(("x-default", ""));
            pages.extend(["", "de/", "es/", "fr/"].map(|folder| says(&format!("{folder}{page}"), &list)));
        }
        let mut wanted = everywhere(&["", "de/"], &["de de/", "en ", "x-default "]);
        wanted.extend(everywhere(&["a", "de/a", "es/a", "fr/a"], &["de de/a", "en a", "es es/a", "fr fr/a"]));
        wanted.extend(everywhere(&["b", "de/b", "es/b", "fr/b"], &["de de/b", "en b", "es es/b", "fr fr/b"]));
        let (links, told) = close(&pages, MEMORY_BYTES);
        assert_eq!(links, wanted);
        assert!(told.len() == 8 && told.iter().all(|one| *one == (OTHER_VERSIONS, String::new())), "{told:?}");
    }

    #[test]
    fn a_page_that_is_only_the_default_belongs_to_those_who_name_it_so() {
        let all = [("de", "de"), ("en", "en"), ("x-default", "")];
        let wanted = everywhere(&["", "de", "en"], &["de de", "en en", "x-default "]);
        // It says the same, nothing, or nothing of itself.
        for own in [&all[..], &[], &all[..2]] {
            let pages = [says("", own), says("de", &all), says("en", &all)];
            assert_eq!(close(&pages, MEMORY_BYTES).0, wanted, "{own:?}");
        }
        let two = [says("", &all[1..]), says("en", &all[1..])];
        assert_eq!(close(&two, MEMORY_BYTES).0, everywhere(&["", "en"], &["en en", "x-default "]));
    }

    #[test]
    fn addresses_elsewhere_are_believed() {
        let list = [("de", "https://b.example/de"), ("en", "en")];
        let (links, _) = close(&[says("en", &list)], MEMORY_BYTES);
        assert_eq!(links, everywhere(&["en"], &["de https://b.example/de", "en en"]));
    }

    #[test]
    fn more_versions_than_are_allowed_are_left_out_whole() {
        let key = Some(7);
        let pages: Vec<_> = (0..=VERSIONS_MAX)
            .map(|n| {
                let loc = format!("https://a.example/{n:04}");
                let own = Statement { hreflang: format!("a{n}"), href: loc.clone().into_bytes(), ours: true };
                (loc, Versions { key, statements: vec![own] })
            })
            .collect();
        let (links, told) = close(&pages, MEMORY_BYTES);
        assert_eq!((links.len(), told.len(), told[0].0), (0, VERSIONS_MAX + 1, TOO_MANY));
        let (links, told) = close(&pages[1..], MEMORY_BYTES);
        assert_eq!((links.len(), told.len()), (VERSIONS_MAX, 0));
    }
}
