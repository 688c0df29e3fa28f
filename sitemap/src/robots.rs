//! robots.txt (RFC 9309): what it names and forbids, the lines to add to it, and how they are put into it.
//!
//! The file is usually somebody else's. What is written stands between two markers; every byte outside them stays.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use std::ops::Range;

/// Bytes of a robots.txt that crawlers read at least, and Google at most (RFC 9309, 500 KiB).
pub const BYTES_MAX: usize = 512_000;

const BEGIN: &str = "# begin tidemark sitemaps";
const END: &str = "# end tidemark sitemaps";

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

/// The lines that name `indexes` (addresses of indexes), as they are to stand in a robots.txt.
#[must_use]
pub fn lines(indexes: &[String]) -> String {
    let mut out = format!("{BEGIN}\n");
    for index in indexes {
        out.push_str("Sitemap: ");
        out.push_str(index);
        out.push('\n');
    }
    out.push_str(END);
    out.push('\n');
    out
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
    #[error("{operation} s3://{bucket}/{key} failed: {message}")]
    Object {
        /// What was tried.
        operation: &'static str,
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What S3 said, and what to do where that is known.
        message: String,
    },
}

/// `text` with the lines for `indexes` between the markers: in their place where they are there, at the end otherwise.
/// Every byte outside the markers stays as it is.
///
/// # Errors
/// A [`RobotsError`]; nothing is guessed.
pub fn with_lines(text: &[u8], indexes: &[String]) -> Result<Vec<u8>, RobotsError> {
    let lines = lines(indexes);
    let mut out = Vec::with_capacity(text.len() + lines.len() + 1);
    match marked(text)? {
        Some(range) => {
            out.extend_from_slice(&text[..range.start]);
            out.extend_from_slice(lines.as_bytes());
            out.extend_from_slice(&text[range.end..]);
        }
        None => {
            out.extend_from_slice(text);
            if !matches!(text.last(), None | Some(b'\n' | b'\r')) {
                out.push(b'\n');
            }
            out.extend_from_slice(lines.as_bytes());
        }
    }
    if out.len() > BYTES_MAX { Err(RobotsError::TooLong(out.len())) } else { Ok(out) }
}

/// Puts the lines for `indexes` into the robots.txt at `key` of `bucket`, on the condition that nobody else wrote it since
/// it was read. Type, caching and metadata stay as they are. False where it held them already, and nothing was written.
///
/// # Errors
/// A [`RobotsError`]; the object is then as it was.
pub async fn write(s3: &Client, bucket: &str, key: &str, indexes: &[String]) -> Result<bool, RobotsError> {
    let failed =
        |operation, message| RobotsError::Object { operation, bucket: bucket.to_owned(), key: key.to_owned(), message };
    let mut request = s3.put_object().bucket(bucket).key(key);
    let text = match s3.get_object().bucket(bucket).key(key).send().await {
        Ok(object) => {
            let etag = object.e_tag.clone().ok_or_else(|| failed("reading", "the answer holds no ETag".to_owned()))?;
            request = request
                .if_match(etag)
                .set_content_type(object.content_type.clone())
                .set_cache_control(object.cache_control.clone())
                .set_content_encoding(object.content_encoding.clone())
                .set_metadata(object.metadata.clone());
            object.body.collect().await.map_err(|error| failed("reading", error.to_string()))?.to_vec()
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
    let with = with_lines(&text, indexes)?;
    if with == text {
        return Ok(false);
    }
    let sent = request.body(ByteStream::from(with)).send().await;
    sent.map(|_| true).map_err(|error| match error.raw_response().map(|response| response.status().as_u16()) {
        Some(409 | 412) => failed("writing", "somebody else wrote it meanwhile: run this again".to_owned()),
        _ => failed("writing", DisplayErrorContext(&error).to_string()),
    })
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
        let with = |text: &str| with_lines(text.as_bytes(), &index).map(|bytes| String::from_utf8(bytes).unwrap());
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

    proptest! {
        #[test]
        fn every_byte_outside_the_markers_stays(before in "[ -~\n\r]{0,60}", after in "[ -~\n\r]{0,60}") {
            let block = |name: &str| lines(&[format!("https://a.example/{name}.xml")]);
            let before = if before.is_empty() { before } else { format!("{before}\n") };
            let text = format!("{before}{}{after}", block("old"));
            let wanted = format!("{before}{}{after}", block("new"));
            let made = with_lines(text.as_bytes(), &["https://a.example/new.xml".to_owned()]).unwrap();
            prop_assert_eq!(String::from_utf8(made).unwrap(), wanted);
        }

        #[test]
        fn no_input_panics(text in proptest::collection::vec(any::<u8>(), 0..300), path in "[/*$a-c]{0,12}", pattern in "[/*$a-c]{0,12}") {
            let robots = Robots::parse(&text);
            let _forbidden = robots.forbids("x", &path);
            matches(&pattern, &path);
            let _made = with_lines(&text, &[]);
        }
    }
}
