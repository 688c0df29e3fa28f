//! Reads a sitemap as a crawler would and holds it against every rule of the protocol, with the line of each fault.
//!
//! Owes nothing to the code that writes: it has its own reader of the XML, so that what both get wrong shows. Files are
//! streamed; what is remembered of all pages together is bounded, and said where the bound was met.

mod crawl;
mod document;
mod extension;
mod page;

use crate::lastmod;
use crate::web::Web;
use document::{INDEX, Item, Rules, SHARD, origin};
use flate2::bufread::MultiGzDecoder;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use twox_hash::XxHash3_64;

/// Faults that are listed; further ones are counted.
const FAULTS_MAX: usize = 100;
/// Pages of one shard and host that are listed where the sitemap has no right to them; usually it is all of them.
const MISPLACED_SHOWN_MAX: usize = 3;
/// Remarks that are kept; further ones are left out.
const NOTES_MAX: usize = 50;
/// Pages that are remembered, by a hash of eight bytes each, to find those that stand in the sitemap twice.
const SEEN_MAX: usize = 5_000_000;
/// Links between languages that may wait for the link back.
const LINKS_OPEN_MAX: usize = 1_000_000;
/// Entries of a news sitemap (Google).
const NEWS_MAX: u64 = 1_000;
/// How old news may be (Google: two days).
const NEWS_AGE_MAX_MS: i64 = 2 * 24 * 3600 * 1000;
const BUFFER_BYTES: usize = 64 << 10;

/// A rule that is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 where it is about the whole file.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.problem),
            line => write!(f, "{}:{line}: {}", self.file, self.problem),
        }
    }
}

/// Faults and remarks, bounded.
#[derive(Debug, Default)]
struct Findings {
    faults: Vec<Fault>,
    faults_total: u64,
    notes: Vec<String>,
    /// Why the last document could not be read to its end, if it could not.
    broken: Option<String>,
}

impl Findings {
    fn fault(&mut self, file: &str, line: usize, problem: String) {
        self.faults_total += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { file: file.to_owned(), line, problem });
        }
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// What a check found.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Files that were read.
    pub files: usize,
    /// Pages that they name.
    pub urls: u64,
    /// Pages that were fetched.
    pub sampled: usize,
    /// The first faults.
    pub faults: Vec<Fault>,
    /// How many faults there are in all.
    pub faults_total: u64,
    /// What breaks no rule, and should be looked at.
    pub notes: Vec<String>,
}

/// How to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pages that are fetched, drawn from all.
    pub sample: usize,
    /// What they are drawn with: equal seeds draw equal pages of an equal sitemap.
    pub seed: u64,
    /// The product token whose rules in robots.txt count for pages, as in `googlebot`.
    pub agent: String,
    /// The time, in milliseconds since the epoch.
    pub now_ms: i64,
}

impl Options {
    /// No sample, and the rules of robots.txt that are for everybody.
    #[must_use]
    pub fn new(now_ms: i64) -> Self {
        Self { sample: 0, seed: 0, agent: "*".to_owned(), now_ms }
    }
}

/// How far a check is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Files that were read.
    pub files: usize,
    /// Files in all, as far as is known.
    pub files_total: usize,
    /// Pages so far.
    pub urls: u64,
}

/// What is told how far a check is.
pub type Watch<'a> = dyn Fn(Progress) + Sync + 'a;

/// Checks the sitemap whose index (or only shard) lies at `index`, with its shards beside it. No page is fetched.
#[must_use]
pub fn directory(index: &Path) -> Checked {
    let mut check = Check::new(Options::new(i64::MAX));
    check.directory(index, &|_| ());
    check.finish()
}

/// As [`directory`], with `options` and all `indexes` that a sitemap has; a sample of the pages is fetched by `web`.
pub async fn local(web: Option<&Web>, indexes: &[PathBuf], options: Options, watch: &Watch<'_>) -> Checked {
    let mut check = Check::new(options);
    indexes.iter().for_each(|index| check.directory(index, watch));
    if let Some(web) = web {
        check.fetch_sample(web, &mut crawl::Sites::new(web)).await;
    }
    check.finish()
}

/// Checks the sitemap at the address `url`, an index or a single shard, as a crawler finds it: with robots.txt, headers
/// and redirects; then a sample of its pages. Where it is one of several indexes ([`crate::keys::index_file`]), the others
/// are those beside it that robots.txt names.
pub async fn live(web: &Web, url: &str, options: Options, watch: &Watch<'_>) -> Checked {
    let mut check = Check::new(options);
    crawl::live(&mut check, web, url, watch).await;
    check.finish()
}

/// What the index at `path` names, each with its lastmod; nothing where it is a shard itself. Faults are passed over.
pub(crate) fn listed(path: &Path) -> io::Result<Option<Vec<(String, String)>>> {
    let mut input = unpacked(File::open(path)?)?;
    if kind(&mut input) == &SHARD {
        return Ok(None);
    }
    let mut listed = Vec::new();
    let mut take = |_: &mut Findings, item: Item| listed.push((item.loc, item.lastmod));
    document::read(&path.display().to_string(), input, &INDEX, &mut Findings::default(), &mut take);
    Ok(Some(listed))
}

/// Gives the loc and lastmod of every page of the shard at `path` to `take`. Faults are passed over, but a file that
/// cannot be read to its end is an error.
pub(crate) fn pages(path: &Path, take: &mut dyn FnMut(&str, &str)) -> io::Result<()> {
    let input = unpacked(File::open(path)?)?;
    let mut findings = Findings::default();
    document::read(&path.display().to_string(), input, &SHARD, &mut findings, &mut |_, item| {
        take(&item.loc, &item.lastmod);
    });
    findings.broken.map_or(Ok(()), |problem| Err(io::Error::other(problem)))
}

/// A link to a page in another language that was not seen to link back.
struct OneWay {
    file: u32,
    line: usize,
    /// The hash of that page's address.
    to: u64,
}

/// A check under way.
struct Check {
    options: Options,
    findings: Findings,
    files: usize,
    /// Files that indexes named so far, and the indexes.
    files_total: usize,
    urls: u64,
    /// Shards that were read: two indexes may name one, which is then read once.
    shards: HashSet<String>,
    seen: HashSet<u64>,
    links: HashMap<u64, OneWay>,
    /// The files that `links` speaks of.
    names: Vec<String>,
    sample: Sample,
    sampled: usize,
    news: u64,
    misplaced: BTreeMap<String, Misplaced>,
}

/// A shard as it stands: where it lies.
struct Place<'a> {
    /// For messages.
    name: &'a str,
    /// Scheme, host and port of its address; nothing where they are not known.
    origin: Option<&'a str>,
    /// Its address up to the last slash, where that is known.
    below: Option<&'a str>,
}

/// Pages of one host that a shard may name only where a robots.txt there names the sitemap.
#[derive(Default)]
struct Misplaced {
    total: u64,
    first: Vec<(usize, String)>,
}

impl Check {
    fn new(options: Options) -> Self {
        let sample = Sample::new(options.sample, options.seed);
        Self {
            options,
            findings: Findings::default(),
            files: 0,
            files_total: 0,
            urls: 0,
            shards: HashSet::new(),
            seen: HashSet::new(),
            links: HashMap::new(),
            names: Vec::new(),
            sample,
            sampled: 0,
            news: 0,
            misplaced: BTreeMap::new(),
        }
    }

    fn directory(&mut self, index: &Path, watch: &Watch<'_>) {
        let name = index.display().to_string();
        let Some(mut input) = self.open(index, &name) else { return };
        if kind(&mut input) == &SHARD {
            self.findings.note(format!("{name} is a shard alone: on which host and path it may lie was not checked"));
            return self.shard(&Place { name: &name, origin: None, below: None }, input);
        }
        let locs = self.index(&name, input);
        let mut elsewhere = BTreeMap::<String, u64>::new();
        for (line, loc) in locs {
            let file = loc.rsplit('/').next().unwrap_or_default();
            let Some(origin) = origin(&loc) else { continue };
            let path = index.with_file_name(file);
            let shard = path.display().to_string();
            if !path.exists() {
                self.findings.fault(&name, line, format!("names {file}, which is not there"));
                continue;
            }
            let Some(input) = self.open(&path, &shard) else { continue };
            self.shard(&Place { name: &shard, origin: Some(&origin), below: None }, input);
            for (host, Misplaced { total, .. }) in std::mem::take(&mut self.misplaced) {
                *elsewhere.entry(host).or_default() += total;
            }
            watch(self.progress());
        }
        // Whether they may be there only the web tells.
        for (host, total) in elsewhere {
            self.findings.note(format!(
                "{total} pages are on {host}, and not on the sitemap's host: robots.txt there has to name it"
            ));
        }
    }

    /// Of the pages that the shard `name` has no right to by where it lies, those on hosts that are not `trusted`.
    fn misplaced_are_faults(&mut self, name: &str, trusted: &[String]) {
        for (host, Misplaced { total, first }) in std::mem::take(&mut self.misplaced) {
            if !trusted.contains(&host) {
                self.findings.faults_total += total - first.len() as u64;
                for (line, problem) in first {
                    self.findings.fault(name, line, problem);
                }
            }
        }
    }

    fn open(&mut self, path: &Path, name: &str) -> Option<Box<dyn BufRead + Send>> {
        match File::open(path).and_then(unpacked) {
            Ok(input) => {
                self.files += 1;
                Some(input)
            }
            Err(error) => {
                self.findings.fault(name, 0, format!("cannot be read: {error}"));
                None
            }
        }
    }

    fn progress(&self) -> Progress {
        Progress { files: self.files, files_total: self.files_total, urls: self.urls }
    }

    /// The files that the index in `input` names, with the line of each; one that is named twice, or by an index before,
    /// counts once.
    fn index(&mut self, name: &str, input: impl BufRead) -> Vec<(usize, String)> {
        let (mut locs, mut known) = (Vec::new(), HashSet::new());
        document::read(name, input, &INDEX, &mut self.findings, &mut |findings, item| {
            if known.insert(item.loc.clone()) {
                locs.push((item.line, item.loc));
            } else {
                findings.fault(name, item.line, format!("{} is named twice", item.loc));
            }
        });
        locs.retain(|(_, loc)| self.shards.insert(loc.clone()));
        self.files_total += locs.len() + 1;
        locs
    }

    fn shard(&mut self, place: &Place<'_>, input: impl BufRead) {
        let mut findings = std::mem::take(&mut self.findings);
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(place.name.to_owned());
        self.news = 0;
        document::read(place.name, input, &SHARD, &mut findings, &mut |findings, item| {
            self.page(findings, place, number, &item);
        });
        if self.news > NEWS_MAX {
            findings.fault(place.name, 0, format!("holds {} news, {NEWS_MAX} are allowed", self.news));
        }
        self.findings = findings;
    }

    fn page(&mut self, findings: &mut Findings, place: &Place<'_>, number: u32, item: &Item) {
        self.urls += 1;
        self.sample.offer(&item.loc, place.name, item.line);
        self.is_covered(place, item);
        let hash = XxHash3_64::oneshot(item.loc.as_bytes());
        if self.seen.len() >= SEEN_MAX {
            findings.note(format!("pages that stand in it twice were looked for among the first {SEEN_MAX} alone"));
        } else if !self.seen.insert(hash) {
            findings.fault(place.name, item.line, format!("{} stands in the sitemap twice", item.loc));
        }
        self.news(findings, place.name, item);
        // A page may stand for two languages, or for one and all others: it links back once.
        let links = item.extensions.iter().filter_map(|extension| Some((extension.alternate()?, extension.line)));
        let links: BTreeMap<&str, usize> = links.filter(|(href, _)| *href != item.loc).collect();
        for (href, line) in links {
            self.link(findings, (number, line), &item.loc, href);
        }
    }

    /// A sitemap speaks for its own host, and there for what lies below it (sitemaps.org, "Sitemap file location").
    fn is_covered(&mut self, place: &Place<'_>, item: &Item) {
        let Some(home) = place.origin else { return };
        let host = origin(&item.loc).unwrap_or_default();
        let reason = if host != home {
            "is on another host than the sitemap, and no robots.txt there names the sitemap"
        } else if place.below.is_some_and(|below| !item.loc.starts_with(below)) {
            "is not below the path of the sitemap, and robots.txt does not name the sitemap"
        } else {
            return;
        };
        let key = if self.misplaced.len() < crawl::SITES_MAX { host } else { String::new() };
        let misplaced = self.misplaced.entry(key).or_default();
        misplaced.total += 1;
        if misplaced.first.len() < MISPLACED_SHOWN_MAX {
            misplaced.first.push((item.line, format!("{} {reason}", item.loc)));
        }
    }

    fn news(&mut self, findings: &mut Findings, name: &str, item: &Item) {
        self.news += u64::from(item.extensions.iter().any(extension::Extension::is_news));
        for (line, text) in item.extensions.iter().filter_map(extension::Extension::published) {
            let old = lastmod::instant(text.as_bytes())
                .is_some_and(|at| self.options.now_ms.saturating_sub(at.as_millisecond()) > NEWS_AGE_MAX_MS);
            if old && self.options.now_ms != i64::MAX {
                findings.note(format!("{name}:{line}: news of {text} are older than two days, and ignored"));
            }
        }
    }

    /// A link to a page in another language waits until the link back is seen.
    fn link(&mut self, findings: &mut Findings, (file, line): (u32, usize), from: &str, to: &str) {
        let pair =
            |from: &str, to: &str| XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(from.as_bytes()), to.as_bytes());
        if self.links.remove(&pair(to, from)).is_some() {
            return;
        }
        if self.links.len() < LINKS_OPEN_MAX {
            self.links.insert(pair(from, to), OneWay { file, line, to: XxHash3_64::oneshot(to.as_bytes()) });
        } else {
            findings.note(format!(
                "more than {LINKS_OPEN_MAX} links between languages were open at once; the rest was not checked"
            ));
        }
    }

    fn finish(mut self) -> Checked {
        // In the order of the files, so that equal sitemaps give equal answers.
        let (inside, outside): (Vec<_>, Vec<_>) = self.links.values().partition(|link| self.seen.contains(&link.to));
        let open: BTreeSet<(u32, usize)> = inside.into_iter().map(|link| (link.file, link.line)).collect();
        for (file, line) in open {
            let name = &self.names[file as usize];
            self.findings.fault(name, line, "the page in the other language does not link back".to_owned());
        }
        if !outside.is_empty() {
            let count = outside.len();
            self.findings
                .note(format!("{count} links to other languages leave the sitemap: not checked for links back"));
        }
        let Findings { faults, faults_total, notes, .. } = self.findings;
        Checked { files: self.files, urls: self.urls, sampled: self.sampled, faults, faults_total, notes }
    }

    async fn fetch_sample(&mut self, web: &Web, sites: &mut crawl::Sites<'_>) {
        for (loc, file, line) in self.sample.drawn() {
            let robots = sites.robots(&origin(&loc).unwrap_or_default(), &mut self.findings).await;
            for problem in page::problems(web, &loc, robots.as_deref(), &self.options.agent).await {
                self.findings.fault(&file, line, problem);
            }
            self.sampled += 1;
        }
    }
}

/// Reads a file, unpacked where its bytes say that it is packed.
fn unpacked(file: File) -> io::Result<Box<dyn BufRead + Send>> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    if file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(file))));
    }
    Ok(Box::new(file))
}

/// What a document is by its first bytes; anything but a shard is read as an index, and told off as one. A root may have a
/// prefix.
fn kind(input: &mut impl BufRead) -> &'static Rules {
    let is_root = |bytes: &[u8], at: usize| at > 0 && matches!(bytes[at - 1], b'<' | b':');
    let is_shard =
        input.fill_buf().is_ok_and(|bytes| memchr::memmem::find_iter(bytes, b"urlset").any(|at| is_root(bytes, at)));
    if is_shard { &SHARD } else { &INDEX }
}

/// A sample of all pages, each with equal chance, drawn in one pass (reservoir sampling).
struct Sample {
    size: usize,
    state: u64,
    offered: u64,
    kept: Vec<(String, String, usize)>,
}

impl Sample {
    fn new(size: usize, seed: u64) -> Self {
        Self { size, state: seed, offered: 0, kept: Vec::new() }
    }

    fn offer(&mut self, loc: &str, file: &str, line: usize) {
        self.offered += 1;
        let page = || (loc.to_owned(), file.to_owned(), line);
        if self.kept.len() < self.size {
            self.kept.push(page());
        } else if self.size > 0 {
            let at = usize::try_from(self.bits() % self.offered).unwrap_or(usize::MAX);
            if at < self.size {
                self.kept[at] = page();
            }
        }
    }

    fn drawn(&mut self) -> Vec<(String, String, usize)> {
        std::mem::take(&mut self.kept)
    }

    /// SplitMix64. <https://prng.di.unimi.it/splitmix64.c>
    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests;
