//! One document of a sitemap, streamed: its XML, its elements, their order and values, each fault with its line.

use super::Findings;
use super::extension::{self, Extension};
use crate::lastmod;
use crate::loc::{BaseUrl, LOC_CHARS_MAX, LOC_CHARS_MIN};
use crate::row::Changefreq;
use crate::xml;
use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use std::io::{self, BufRead, Read};

const NAMESPACE: &str = "http://www.sitemaps.org/schemas/sitemap/0.9";
/// Elements in each other that are followed; the deepest of the protocol has five.
const DEPTH_MAX: usize = 16;
/// Characters of a value that are shown.
const SHOWN_MAX: usize = 120;

/// What a document must be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) root: &'static str,
    item: &'static str,
    tags: &'static [&'static str],
    items_max: u64,
}

/// An index.
pub(super) const INDEX: Rules =
    Rules { root: "sitemapindex", item: "sitemap", tags: &["loc", "lastmod"], items_max: xml::SHARDS_MAX as u64 };
/// A shard.
pub(super) const SHARD: Rules = Rules {
    root: "urlset",
    item: "url",
    tags: &["loc", "lastmod", "changefreq", "priority"],
    items_max: xml::URLS_MAX as u64,
};

/// A `<url>` or `<sitemap>` that was read.
#[derive(Debug, Default)]
pub(super) struct Item {
    /// Where its loc stands, else where it begins.
    pub(super) line: usize,
    pub(super) loc: String,
    pub(super) lastmod: String,
    pub(super) extensions: Vec<Extension>,
    has_loc: bool,
    /// How many of the known tags are behind.
    next: usize,
}

/// What takes a document's items.
pub(super) type Take<'a> = dyn FnMut(&mut Findings, Item) + 'a;

/// Reads the document `name` from `input`, unpacked already, and gives its items to `take`.
pub(super) fn read(name: &str, input: impl BufRead, rules: &Rules, findings: &mut Findings, take: &mut Take<'_>) {
    let input = Lines { input, lines: 1, bytes: 0 }.take_one_more();
    let mut reader = NsReader::from_reader(input);
    reader.config_mut().expand_empty_elements = true;
    reader.config_mut().check_comments = true;
    let (open, item, space) = (Vec::new(), Item::default(), String::new());
    let mut document = Document { name, rules, findings, take, open, roots: 0, space, items: 0, item };
    let (mut buffer, mut is_first) = (Vec::new(), true);
    let failed = loop {
        buffer.clear();
        let line = reader.get_ref().lines;
        match reader.read_resolved_event_into(&mut buffer) {
            Ok((_, Event::Eof)) => break None,
            Ok((_, Event::Decl(_))) if !is_first => {
                document.fault(line, "something stands before <?xml, which has to be first".to_owned());
            }
            Ok((space, event)) => document.event(line, &space, &event),
            Err(error) => break Some((line, error)),
        }
        is_first = false;
    };
    let input = reader.get_ref();
    match failed {
        // It was cut, so its end says nothing.
        _ if input.bytes > xml::BYTES_MAX => {
            return document.broken(0, "is larger than 52,428,800 bytes uncompressed".to_owned());
        }
        Some((line, quick_xml::Error::Io(error))) => return document.broken(line, format!("is damaged: {error}")),
        Some((line, error)) => return document.broken(line, format!("is not well-formed XML: {error}")),
        None => {}
    }
    document.end(input.lines);
}

/// Counts the lines that were read, and ends one byte past what a document may have.
struct Lines<R> {
    input: R,
    lines: usize,
    bytes: u64,
}

impl<R: BufRead> Lines<R> {
    fn take_one_more(self) -> Lines<io::Take<R>> {
        Lines { input: self.input.take(xml::BYTES_MAX + 1), lines: self.lines, bytes: self.bytes }
    }
}

impl<R: BufRead> Read for Lines<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let part = self.fill_buf()?;
        let size = part.len().min(out.len());
        out[..size].copy_from_slice(&part[..size]);
        self.consume(size);
        Ok(size)
    }
}

impl<R: BufRead> BufRead for Lines<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, size: usize) {
        if let Ok(part) = self.input.fill_buf() {
            self.lines += memchr::memchr_iter(b'\n', &part[..size.min(part.len())]).count();
        }
        self.bytes += size as u64;
        self.input.consume(size);
    }
}

/// An element that is open.
struct Open {
    /// The name without its prefix.
    name: String,
    line: usize,
    text: String,
    /// Of another namespace, and taken as an extension.
    is_extension: bool,
}

struct Document<'a, 'b> {
    name: &'a str,
    rules: &'a Rules,
    findings: &'a mut Findings,
    take: &'a mut Take<'b>,
    open: Vec<Open>,
    /// Root elements so far.
    roots: usize,
    /// The namespace of the root.
    space: String,
    items: u64,
    item: Item,
}

impl Document<'_, '_> {
    fn fault(&mut self, line: usize, problem: String) {
        self.findings.fault(self.name, line, problem);
    }

    /// A fault behind which nothing can be read.
    fn broken(&mut self, line: usize, problem: String) {
        self.findings.broken = Some(problem.clone());
        self.fault(line, problem);
    }

    fn event(&mut self, line: usize, space: &ResolveResult<'_>, event: &Event<'_>) {
        match event {
            Event::Start(start) => self.start(line, space, start),
            Event::End(_) => self.close(),
            Event::Text(text) => self.text(line, text),
            Event::CData(text) => self.text(line, text),
            Event::GeneralRef(entity) => match quick_xml::escape::unescape(&format!("&{};", &entity[..])) {
                Ok(plain) => self.text(line, &plain),
                Err(_) => self.fault(line, format!("&{}; is not known", &entity[..])),
            },
            Event::Decl(declared) => {
                if declared.version().is_err() {
                    self.fault(line, "<?xml has no version".to_owned());
                }
                if let Some(Ok(encoding)) = declared.encoding()
                    && !encoding.eq_ignore_ascii_case("utf-8")
                {
                    self.fault(line, format!("its encoding is {encoding}, not UTF-8"));
                }
            }
            Event::DocType(_) => self.fault(line, "has a DOCTYPE, which crawlers do not follow".to_owned()),
            _ => {}
        }
    }

    fn start(&mut self, line: usize, space: &ResolveResult<'_>, start: &BytesStart<'_>) {
        let name = start.local_name().as_ref().to_owned();
        let space = match space {
            ResolveResult::Bound(space) => space.0,
            ResolveResult::Unbound => "",
            ResolveResult::Unknown(prefix) => {
                self.fault(line, format!("the prefix {prefix:?} is not declared"));
                ""
            }
        };
        let is_sound = start.attributes().all(|attribute| {
            attribute.is_ok_and(|attribute| {
                !attribute.value.contains('<') && quick_xml::escape::unescape(&attribute.value).is_ok()
            })
        });
        if !is_sound {
            self.fault(line, format!("<{name}> has attributes that are not well-formed"));
        }
        let mut is_extension = false;
        match self.open.len() {
            0 => self.root(line, space, &name),
            1 if name == self.rules.item && self.is_own(space) => {
                self.items += 1;
                self.item = Item { line, ..Item::default() };
            }
            2 if self.is_own(space) => self.tag(line, &name),
            2 => is_extension = self.extension(line, space, &name, start),
            3.. if self.in_extension() => {}
            _ => self.fault(line, format!("<{name}> does not belong here")),
        }
        if self.open.len() == DEPTH_MAX {
            self.fault(line, format!("elements stand in each other more than {DEPTH_MAX} deep"));
        }
        self.open.push(Open { name, line, text: String::new(), is_extension });
    }

    /// Where the root's namespace is wrong, that is told once, and its elements are taken all the same.
    fn is_own(&self, space: &str) -> bool {
        space == self.space
    }

    fn root(&mut self, line: usize, space: &str, name: &str) {
        self.roots += 1;
        if self.roots > 1 {
            return self.fault(line, format!("<{name}> is a second root"));
        }
        space.clone_into(&mut self.space);
        if name != self.rules.root {
            self.fault(line, format!("begins with <{name}>, not <{}>", self.rules.root));
        }
        if space != NAMESPACE {
            self.fault(line, format!("its namespace is not {NAMESPACE}"));
        }
    }

    fn tag(&mut self, line: usize, found: &str) {
        match self.rules.tags.iter().position(|tag| *tag == found) {
            None => self.fault(line, format!("<{found}> is not known")),
            Some(place) if place < self.item.next => self.fault(line, format!("<{found}> is out of order or twice")),
            Some(place) => self.item.next = place + 1,
        }
    }

    fn extension(&mut self, line: usize, space: &str, name: &str, start: &BytesStart<'_>) -> bool {
        if self.rules.root == INDEX.root {
            self.fault(line, format!("<{name}> does not belong in an index"));
            return false;
        }
        let attribute = |name: &str| {
            let found = start.try_get_attribute(name).ok().flatten()?;
            quick_xml::escape::unescape(&found.value).ok().map(|value| value.into_owned())
        };
        let extension = Extension::new(space, name, line, attribute);
        if !extension.is_foreign() {
            // By the schema they follow the protocol's own elements.
            self.item.next = self.rules.tags.len();
        }
        self.item.extensions.push(extension);
        true
    }

    fn in_extension(&self) -> bool {
        self.open.get(2).is_some_and(|open| open.is_extension)
    }

    fn text(&mut self, line: usize, text: &str) {
        if text
            .contains(|c: char| (c < ' ' && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}'))
        {
            self.fault(line, "a control character stands in it, which XML does not take".to_owned());
        }
        if self.open.len() >= 3
            && let Some(open) = self.open.last_mut()
        {
            open.text.push_str(text);
        } else if !text.trim().is_empty() {
            self.fault(line, "text stands between elements".to_owned());
        }
    }

    fn close(&mut self) {
        let in_extension = self.in_extension();
        let Some(Open { name, line, text, .. }) = self.open.pop() else { return };
        match self.open.len() {
            1 if name == self.rules.item => self.item_done(),
            2 if in_extension => self.extension_done(),
            2 => self.value(line, &name, &text),
            3.. if in_extension => {
                let mut path: Vec<&str> = self.open[3..].iter().map(|open| open.name.as_str()).collect();
                path.push(&name);
                if let Some(extension) = self.item.extensions.last_mut() {
                    extension.fields.push((line, path.join("/"), text.trim().to_owned()));
                }
            }
            _ => {}
        }
    }

    fn extension_done(&mut self) {
        let problems = self.item.extensions.last().map(Extension::problems).unwrap_or_default();
        for (line, problem) in problems {
            self.fault(line, problem);
        }
    }

    fn item_done(&mut self) {
        let item = std::mem::take(&mut self.item);
        if !item.has_loc {
            return self.fault(item.line, "has no loc".to_owned());
        }
        for (line, problem) in extension::together(&item.extensions, &item.loc) {
            self.fault(line, problem);
        }
        (self.take)(self.findings, item);
    }

    fn value(&mut self, line: usize, tag: &str, text: &str) {
        // White space around a value is none of it, by the schema's types.
        let text = text.trim();
        let ok = match tag {
            "loc" => {
                (self.item.line, self.item.has_loc) = (line, true);
                return self.loc(line, text);
            }
            "lastmod" => {
                text.clone_into(&mut self.item.lastmod);
                is_time(text)
            }
            "changefreq" => Changefreq::parse(text.as_bytes()).is_some() && !text.contains(char::is_uppercase),
            "priority" => is_priority(text),
            _ => true,
        };
        if !ok {
            self.fault(line, format!("<{tag}> holds {:?}", shown(text)));
        }
    }

    fn loc(&mut self, line: usize, loc: &str) {
        let length = loc.chars().count();
        if !(LOC_CHARS_MIN..=LOC_CHARS_MAX).contains(&length) {
            self.fault(line, format!("loc has {length} characters, {LOC_CHARS_MIN} to {LOC_CHARS_MAX} are allowed"));
        }
        self.item.loc = address(loc).unwrap_or_else(|| {
            self.fault(line, format!("{:?} is not a valid, escaped address", shown(loc)));
            loc.to_owned()
        });
    }

    fn end(&mut self, lines: usize) {
        if !self.open.is_empty() {
            self.broken(lines, "breaks off".to_owned());
        }
        let Rules { item, items_max, .. } = *self.rules;
        if self.items == 0 || self.items > items_max {
            self.fault(0, format!("holds {} <{item}>, 1 to {items_max} are allowed", self.items));
        }
    }
}

/// Scheme, host and port of an address.
pub(super) fn origin(loc: &str) -> Option<String> {
    let url = url::Url::parse(loc).ok()?;
    matches!(url.scheme(), "http" | "https").then(|| url.origin().ascii_serialization())
}

/// An absolute address that is written as it must be, with its scheme, host and port as all write them: how a sitemap
/// spells those, and whether it names the usual port, does not matter (RFC 3986, 6.2.2.1 and 6.2.3).
pub(super) fn address(loc: &str) -> Option<String> {
    let (_, after) = loc.split_once("://")?;
    let (authority, rest) = after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len()));
    let usual = origin(loc).filter(|_| authority.is_ascii() && !authority.contains('@'))? + rest;
    let mut same = Vec::new();
    let base = BaseUrl::parse(&usual[..usual.len() - rest.len()]).ok()?;
    (base.resolve(usual.as_bytes(), &mut same).is_ok() && same == usual.as_bytes()).then_some(usual)
}

/// A time as [`is_time`] has it, or to the minute: Google's extensions take every form of W3C Datetime from a day on.
pub(super) fn is_time_or_minute(text: &str) -> bool {
    let seconds = text.get(16..).map(|zone| format!("{}:00{zone}", &text[..16]));
    is_time(text) || seconds.is_some_and(|text| is_time(&text))
}

/// A day, or a full time with its zone and any fraction of a second (W3C Datetime, as the schema narrows it).
pub(super) fn is_time(text: &str) -> bool {
    let whole = match text.split_once('.') {
        Some((time, rest)) if rest.starts_with(|c: char| c.is_ascii_digit()) => {
            format!("{time}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        _ => text.to_owned(),
    };
    let mut canonical = Vec::new();
    lastmod::canonical(whole.as_bytes(), None, &mut canonical).is_ok() && canonical == whole.as_bytes()
}

/// A decimal number (xsd:decimal, so without an exponent) from 0 to 1.
fn is_priority(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain && text.parse::<f64>().is_ok_and(|number| (0.0..=1.0).contains(&number))
}

pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}
