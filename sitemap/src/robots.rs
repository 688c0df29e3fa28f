//! robots.txt (RFC 9309): what it names and forbids, the lines to add to it, and how they are put into it.
//!
//! The file is usually somebody else's. What is written stands between two markers; every byte outside them stays.

use crate::athena::unload::parse_url;
use crate::keys;
use crate::manifest::Manifest;
use crate::site::Sitemap;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Bytes of a robots.txt that crawlers read at least, and Google at most (RFC 9309, 500 KiB).
pub const BYTES_MAX: usize = 512_000;

const BEGIN: &str = "# begin tidemark sitemaps";
const END: &str = "# end tidemark sitemaps";
const FIELD: &str = "Sitemap: ";
/// How often writing is tried where somebody else wrote meanwhile.
const TRIES_MAX: usize = 3;

/// A robots.txt that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Robots {
    /// The sitemaps that it names, with the line of each.
    pub sitemaps: Vec<(usize, String)>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    /// Product tokens in lower case; `*` is everybody.
    agents: Vec<String>,
    /// Patterns, and whether each allows.
    rules: Vec<(bool, String)>,
}

impl Robots {
    /// Reads `text`, of which only the first [`BYTES_MAX`] bytes count. Lines that say nothing known are passed over.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&text[..text.len().min(BYTES_MAX)]);
        let text = text.trim_start_matches('\u{feff}');
        let mut robots = Self::default();
        let mut naming = false;
        for (number, line) in (1..).zip(text.split('\n')) {
            let line = line.split('#').next().unwrap_or_default();
            let Some((field, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match field.trim().to_ascii_lowercase().as_str() {
                "sitemap" => robots.sitemaps.push((number, value.to_owned())),
                "user-agent" => {
                    if !naming {
                        robots.groups.push(Group::default());
                    }
                    naming = true;
                    if let Some(group) = robots.groups.last_mut() {
                        group.agents.push(value.to_ascii_lowercase());
                    }
                }
                rule @ ("allow" | "disallow") => {
                    naming = false;
                    if let Some(group) = robots.groups.last_mut().filter(|_| !value.is_empty()) {
                        group.rules.push((rule == "allow", encoded(value)));
                    }
                }
                _ => {}
            }
        }
        robots
    }

    /// Whether it names the sitemap at `url`.
    #[must_use]
    pub fn names(&self, url: &str) -> bool {
        let same = |named: &str| named == url || url::Url::parse(named).is_ok_and(|named| named.as_str() == url);
        self.sitemaps.iter().any(|(_, named)| same(named))
    }

    /// The rule that forbids `agent` (a product token such as `googlebot`) to fetch `path` (with its query), if one
    /// does: the longest match counts, and allowing wins a tie.
    #[must_use]
    pub fn forbids(&self, agent: &str, path: &str) -> Option<&str> {
        let (agent, path) = (agent.to_ascii_lowercase(), &encoded(path));
        let mut own = self.groups.iter().filter(|group| group.agents.contains(&agent)).peekable();
        let everybody = self.groups.iter().filter(|group| group.agents.iter().any(|name| name == "*"));
        let groups: Vec<&Group> = if own.peek().is_some() { own.collect() } else { everybody.collect() };
        let rules = groups.iter().flat_map(|group| &group.rules).filter(|(_, pattern)| matches(pattern, path));
        let (allows, pattern) = rules.max_by_key(|(allows, pattern)| (pattern.len(), *allows))?;
        (!allows).then_some(pattern.as_str())
    }
}

/// `path` in the one spelling in which paths are compared (RFC 9309, 2.2.2): what is not ASCII is escaped, escapes are in
/// capitals, and what needs none has none.
fn encoded(path: &str) -> String {
    let (bytes, mut out, mut at) = (path.as_bytes(), String::with_capacity(path.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let escape = bytes.get(at + 1..at + 3).filter(|hex| byte == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let escape = escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        let meant = escape.unwrap_or(byte);
        if meant.is_ascii_alphanumeric() || b"-._~".contains(&meant) || (escape.is_none() && byte.is_ascii()) {
            out.push(char::from(meant));
        } else {
            out.push_str(&format!("%{meant:02X}"));
        }
        at += if escape.is_some() { 3 } else { 1 };
    }
    out
}

/// Whether `pattern`, in which `*` is anything and a last `$` the end, matches the beginning of `path`.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, to_the_end) = pattern.strip_suffix('$').map_or((pattern, false), |pattern| (pattern, true));
    let mut parts = pattern.split('*');
    let Some(mut rest) = path.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return !to_the_end || rest.is_empty();
    }
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        if last && to_the_end {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// What robots.txt has to name of a sitemap whose last manifest is `manifest`: the address of each index, and of each shard
/// where one of its engines reads no index.
#[must_use]
pub fn addresses(sitemap: &Sitemap, manifest: &Manifest) -> Vec<String> {
    // The first index is there from the first run on.
    let mut numbers = manifest.indexes();
    numbers.insert(1);
    let indexes = numbers.into_iter().map(keys::index_file);
    let reads_all = sitemap.rows.engines.iter().all(|engine| engine.reads_index());
    let shards = manifest.shards.iter().filter(|_| !reads_all).map(|shard| shard.file.clone());
    indexes.chain(shards).map(|file| format!("{}/{file}", sitemap.files_url)).collect()
}

/// The lines that name `addresses`, as they are to stand in a robots.txt.
#[must_use]
pub fn lines(addresses: &[String]) -> String {
    let mut out = format!("{BEGIN}\n");
    for address in addresses {
        out.push_str(FIELD);
        out.push_str(address);
        out.push('\n');
    }
    out.push_str(END);
    out.push('\n');
    out
}

/// A robots.txt in S3, as in `s3://www-bucket/robots.txt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
}

impl FromStr for Object {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (bucket, key) = parse_url(text)
            .ok()
            .filter(|(_, key)| !key.is_empty() && !key.ends_with('/'))
            .ok_or_else(|| format!("is {text:?}, which is no object: give one such as s3://www-bucket/robots.txt"))?;
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// Which lines between the markers are replaced.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All of them.
    All,
    /// Those of files in this directory, an address without a last slash: what lies elsewhere is another sitemap's.
    Directory(&'a str),
}

impl Scope<'_> {
    fn has(self, address: &str) -> bool {
        match self {
            Self::All => true,
            Self::Directory(directory) => address
                .strip_prefix(directory)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|file| !file.contains('/')),
        }
    }
}

/// Why a robots.txt cannot be written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RobotsError {
    /// A marker is there without its partner, or twice.
    #[error("robots.txt holds {0:?} without its partner, or twice: mend the markers by hand first")]
    Markers(&'static str),
    /// It would be longer than crawlers read.
    #[error("robots.txt would have {0} bytes, crawlers read {BYTES_MAX}: shorten it first")]
    TooLong(usize),
    /// S3 did not do its part.
    #[error("{operation} {object} failed: {message}")]
    Object {
        /// What was tried.
        operation: &'static str,
        /// The object.
        object: Object,
        /// What S3 said, and what to do where that is known.
        message: String,
    },
}

/// `text` with the lines for `addresses` between the markers, in the place of those of `scope`: where the markers stand, or
/// with them at the end. Every byte outside them stays as it is.
///
/// # Errors
/// A [`RobotsError`]; nothing is guessed.
pub fn with_lines(text: &[u8], scope: Scope<'_>, addresses: &[String]) -> Result<Vec<u8>, RobotsError> {
    let mut out = Vec::with_capacity(text.len());
    let range = marked(text)?;
    let (before, between, after) = match &range {
        Some(range) => (&text[..range.start], &text[range.clone()], &text[range.end..]),
        None => (text, &[][..], &[][..]),
    };
    let between = String::from_utf8_lossy(between);
    let mut old: Vec<&str> = between.lines().filter_map(|line| line.trim().strip_prefix(FIELD)).collect();
    let place = old.iter().position(|address| scope.has(address)).unwrap_or(old.len());
    old.retain(|address| !scope.has(address));
    let mut wanted: Vec<String> = old.into_iter().map(str::to_owned).collect();
    wanted.splice(place..place, addresses.iter().cloned());
    out.extend_from_slice(before);
    if range.is_none() && !matches!(before.last(), None | Some(b'\n' | b'\r')) {
        out.push(b'\n');
    }
    out.extend_from_slice(lines(&wanted).as_bytes());
    out.extend_from_slice(after);
    if out.len() > BYTES_MAX { Err(RobotsError::TooLong(out.len())) } else { Ok(out) }
}

/// Puts the lines for `addresses` into `object` in the place of those of `scope`, on the condition that nobody else wrote it
/// since it was read; else it is read again, three times at most. Type, caching and metadata stay as they are. False where it
/// held them already, and nothing was written.
///
/// # Errors
/// A [`RobotsError`]; the object is then as it was.
pub async fn write(s3: &Client, object: &Object, scope: Scope<'_>, addresses: &[String]) -> Result<bool, RobotsError> {
    for _ in 0..TRIES_MAX {
        if let Some(written) = try_write(s3, object, scope, addresses).await? {
            return Ok(written);
        }
    }
    let message = "somebody else wrote it meanwhile, again and again: run this again".to_owned();
    Err(RobotsError::Object { operation: "writing", object: object.clone(), message })
}

/// Nothing where somebody else wrote it meanwhile.
async fn try_write(
    s3: &Client,
    object: &Object,
    scope: Scope<'_>,
    addresses: &[String],
) -> Result<Option<bool>, RobotsError> {
    let failed = |operation, message| RobotsError::Object { operation, object: object.clone(), message };
    let mut request = s3.put_object().bucket(&object.bucket).key(&object.key);
    let text = match s3.get_object().bucket(&object.bucket).key(&object.key).send().await {
        Ok(found) => {
            let etag = found.e_tag.clone().ok_or_else(|| failed("reading", "the answer holds no ETag".to_owned()))?;
            request = request
                .if_match(etag)
                .set_content_type(found.content_type.clone())
                .set_cache_control(found.cache_control.clone())
                .set_content_encoding(found.content_encoding.clone())
                .set_metadata(found.metadata.clone());
            found.body.collect().await.map_err(|error| failed("reading", error.to_string()))?.to_vec()
        }
        Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => {
            request = request.if_none_match("*").content_type("text/plain; charset=utf-8");
            Vec::new()
        }
        Err(error) => return Err(failed("reading", DisplayErrorContext(&error).to_string())),
    };
    if text.starts_with(&[0x1f, 0x8b]) {
        return Err(failed("reading", "it is stored packed: store it plain, or write the lines by hand".to_owned()));
    }
    let with = with_lines(&text, scope, addresses)?;
    if with == text {
        return Ok(Some(false));
    }
    match request.body(ByteStream::from(with)).send().await {
        Ok(_) => Ok(Some(true)),
        Err(error) => match error.raw_response().map(|response| response.status().as_u16()) {
            Some(409 | 412) => Ok(None),
            _ => Err(failed("writing", DisplayErrorContext(&error).to_string())),
        },
    }
}

/// Where the markers and what is between them stand, their line ends included.
fn marked(text: &[u8]) -> Result<Option<Range<usize>>, RobotsError> {
    let (mut begins, mut ends, mut at) = (Vec::new(), Vec::new(), 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.trim_ascii();
        if bare == BEGIN.as_bytes() {
            begins.push(at);
        } else if bare == END.as_bytes() {
            ends.push(at + line.len());
        }
        at += line.len();
    }
    match (begins.as_slice(), ends.as_slice()) {
        ([], []) => Ok(None),
        ([begin], [end]) if begin < end => Ok(Some(*begin..*end)),
        (_, [_]) => Err(RobotsError::Markers(BEGIN)),
        _ => Err(RobotsError::Markers(END)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\u{feff}User-agent: Googlebot\nUser-Agent: bingbot # both\nDisallow: /private\nAllow: /private/open\n\
                        Sitemap: https://a.example/s.xml\n\nuser-agent: *\nDisallow: /*.pdf$\nDisallow:\nDisallow: /cart?*id=\nAllow: /\n";

    #[test]
    fn the_longest_rule_of_the_agents_own_group_counts() {
        let robots = Robots::parse(TEXT.as_bytes());
        assert_eq!(robots.sitemaps, [(5, "https://a.example/s.xml".to_owned())]);
        assert!(robots.names("https://a.example/s.xml") && !robots.names("https://a.example/t.xml"));
        let cases = [
            ("googlebot", "/private/x", Some("/private")),
            ("BingBot", "/private/x", Some("/private")),
            ("googlebot", "/private/open/x", None),
            ("googlebot", "/a.pdf", None),
            ("other", "/private/x", None),
            ("other", "/a/b.pdf", Some("/*.pdf$")),
            ("other", "/a/b.pdf?x", None),
            ("other", "/cart?a=1&id=2", Some("/cart?*id=")),
            ("other", "/", None),
        ];
        for (agent, path, forbidden) in cases {
            assert_eq!(robots.forbids(agent, path), forbidden, "{agent} {path}");
        }
        assert_eq!(Robots::parse(b"Disallow: /").forbids("x", "/"), None, "a rule before any group says nothing");
        let foreign = Robots::parse("user-agent: *\ndisallow: /ü/\ndisallow: /%c3%A4\ndisallow: /%7Ex%2f".as_bytes());
        for (path, forbidden) in [("/%C3%BC/a", true), ("/%c3%a4", true), ("/~x%2F", true), ("/~x/", false)] {
            assert_eq!(foreign.forbids("x", path).is_some(), forbidden, "{path}");
        }
        let tie = Robots::parse(b"user-agent: *\ndisallow: /a\nallow: /a");
        assert_eq!(tie.forbids("x", "/a"), None);
    }

    #[test]
    fn lines_replace_only_what_is_between_the_markers() {
        let index = ["https://a.example/sitemap-index.xml".to_owned()];
        let ours = "# begin tidemark sitemaps\nSitemap: https://a.example/sitemap-index.xml\n# end tidemark sitemaps\n";
        let with =
            |text: &str| with_lines(text.as_bytes(), Scope::All, &index).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(with("").unwrap(), ours);
        assert_eq!(with("User-agent: *").unwrap(), format!("User-agent: *\n{ours}"));
        let old = "a\r\n# begin tidemark sitemaps\r\nSitemap: x\r\n# end tidemark sitemaps\r\nb";
        assert_eq!(with(old).unwrap(), format!("a\r\n{ours}b"));
        assert_eq!(with(&with(old).unwrap()).unwrap(), with(old).unwrap());
        for broken in ["# begin tidemark sitemaps\n", "# end tidemark sitemaps\n# begin tidemark sitemaps\n"] {
            assert!(matches!(with(broken), Err(RobotsError::Markers(_))), "{broken}");
        }
        assert!(matches!(with(&format!("{ours}{ours}")), Err(RobotsError::Markers(_))));
        assert_eq!(with(&"x".repeat(BYTES_MAX)), Err(RobotsError::TooLong(BYTES_MAX + 1 + ours.len())));
    }

    #[test]
    fn lines_of_other_sitemaps_stay_where_they_are() {
        let named = |names: &[&str]| names.iter().map(|name| format!("https://a.example/{name}")).collect::<Vec<_>>();
        let with = |old: &[&str], directory: &str, own: &[&str]| {
            let (text, own) = (lines(&named(old)), named(own));
            let made = with_lines(text.as_bytes(), Scope::Directory(directory), &own).unwrap();
            let again = with_lines(&made, Scope::Directory(directory), &own).unwrap();
            assert_eq!(made, again);
            Robots::parse(&made).sitemaps.into_iter().map(|(_, address)| address).collect::<Vec<_>>()
        };
        let old = ["news/i.xml", "i.xml", "i-2.xml", "x/i.xml"];
        assert_eq!(with(&old, "https://a.example", &["i.xml"]), named(&["news/i.xml", "i.xml", "x/i.xml"]));
        assert_eq!(
            with(&old, "https://a.example/news", &["news/i.xml", "news/i-2.xml"])[..2],
            named(&["news/i.xml", "news/i-2.xml"])
        );
        assert_eq!(with(&old, "https://a.example/new", &["new/i.xml"])[4..], named(&["new/i.xml"]));
        assert_eq!(with(&[], "https://a.example", &["i.xml"]), named(&["i.xml"]));
    }

    #[test]
    fn objects_are_named_by_bucket_and_key() {
        let object: Object = "s3://www-bucket/a/robots.txt".parse().unwrap();
        assert_eq!((object.bucket.as_str(), object.key.as_str()), ("www-bucket", "a/robots.txt"));
        for bad in ["www-bucket/robots.txt", "s3://", "s3://b", "s3:///robots.txt", "s3://b/", "s3://b/a/"] {
            assert!(bad.parse::<Object>().unwrap_err().contains("give one such as"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_outside_the_markers_stays(before in "[ -~\n\r]{0,60}", after in "[ -~\n\r]{0,60}") {
            let block = |name: &str| lines(&[format!("https://a.example/{name}.xml")]);
            let before = if before.is_empty() { before } else { format!("{before}\n") };
            let text = format!("{before}{}{after}", block("old"));
            let wanted = format!("{before}{}{after}", block("new"));
            let made = with_lines(text.as_bytes(), Scope::All, &["https://a.example/new.xml".to_owned()]).unwrap();
            prop_assert_eq!(String::from_utf8(made).unwrap(), wanted);
        }

        #[test]
        fn no_input_panics(text in proptest::collection::vec(any::<u8>(), 0..300), path in "[/*$a-c]{0,12}", pattern in "[/*$a-c]{0,12}") {
            let robots = Robots::parse(&text);
            let _forbidden = robots.forbids("x", &path);
            matches(&pattern, &path);
            let _made = with_lines(&text, Scope::Directory("https://a.example"), &["https://a.example/x".to_owned()]);
        }
    }
}
