//! Page addresses: what a row's `loc` becomes in a sitemap, or why it cannot be there.
//!
//! Promises: the result is ASCII, a valid URI by RFC 3986 on the site's own scheme, host and port, 12 to 2,047
//! characters long. Nothing is changed that need not be: case, dots, trailing slashes, query strings and existing
//! percent-escapes stay as they are. What is clean ASCII already is copied without a look at single characters.

use std::fmt;
use url::Url;

/// Longest address, in characters after escaping (sitemaps.org: "less than 2,048 characters").
pub const LOC_CHARS_MAX: usize = 2047;
/// Shortest address the sitemaps.org schema takes.
pub const LOC_CHARS_MIN: usize = 12;

/// Schemes that stand in page lists by mistake and name no page.
const NOT_PAGES: [&str; 5] = ["mailto:", "javascript:", "tel:", "data:", "about:"];

/// Why a `loc` cannot stand in this site's sitemap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocFault {
    /// There is none.
    Missing,
    /// Its bytes are not UTF-8.
    NotUtf8,
    /// It holds a control character.
    ControlCharacter,
    /// It is not an address of a page.
    NotAnAddress,
    /// It is on another scheme, host or port.
    OtherHost,
    /// It begins with the host: a path that begins so is nothing that anybody means.
    NoScheme,
    /// It is longer than [`LOC_CHARS_MAX`] characters.
    TooLong,
    /// It is shorter than [`LOC_CHARS_MIN`] characters.
    TooShort,
}

impl fmt::Display for LocFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "no loc",
            Self::NotUtf8 => "loc is not UTF-8",
            Self::ControlCharacter => "loc holds a control character",
            Self::NotAnAddress => "loc is not an address of a page",
            Self::OtherHost => "loc is on another scheme, host or port than base_url and the listed hosts",
            Self::NoScheme => "loc begins with the host, and has no https:// or http:// before it",
            Self::TooLong => "loc is longer than 2,047 characters",
            Self::TooShort => "loc is shorter than 12 characters",
        })
    }
}

/// A base URL that cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("base URL {text:?} {problem}: give the site's own, such as https://www.example.com")]
pub struct BaseUrlError {
    text: String,
    problem: String,
}

impl BaseUrlError {
    /// The error of a host that is given with a path.
    pub(crate) fn has_path(text: &str) -> Self {
        Self { text: text.to_owned(), problem: "has a path".to_owned() }
    }
}

/// The site: scheme, host, port and the path under which relative addresses lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    origin: String,
    prefix: String,
}

impl BaseUrl {
    /// Reads a base URL such as `https://www.example.com` or `https://example.com/shop/`.
    ///
    /// # Errors
    /// Where `text` is not an http(s) URL, or has a user, a query or a fragment.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        let fail = |problem: &str| BaseUrlError { text: text.to_owned(), problem: problem.to_owned() };
        let url = Url::parse(text).map_err(|error| fail(&format!("is not a URL ({error})")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(fail("is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fail("holds a user name"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(fail("has a query or a fragment"));
        }
        let origin = url.origin().ascii_serialization();
        let prefix = format!("{origin}{}", url.path().trim_end_matches('/'));
        Ok(Self { origin, prefix })
    }

    /// Scheme, host and port, as in `https://www.example.com`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The base without its last slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.prefix
    }

    /// The address of `name` under the base.
    #[must_use]
    pub fn join(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// Appends to `out` the address that `loc` names, absolute or a path under the base. True where it may hold `&` or
    /// `'`, which XML wants as entities.
    ///
    /// # Errors
    /// The [`LocFault`]; `out` then holds what it held before.
    pub fn resolve(&self, loc: &[u8], out: &mut Vec<u8>) -> Result<bool, LocFault> {
        let start = out.len();
        let loc = trim_spaces(loc);
        let outcome = self.append(loc, out).and_then(|entities| match out.len() - start {
            0..LOC_CHARS_MIN => Err(LocFault::TooShort),
            LOC_CHARS_MIN..=LOC_CHARS_MAX => Ok(entities),
            _ => Err(LocFault::TooLong),
        });
        if outcome.is_err() {
            out.truncate(start);
        }
        outcome
    }

    fn append(&self, loc: &[u8], out: &mut Vec<u8>) -> Result<bool, LocFault> {
        if loc.is_empty() {
            return Err(LocFault::Missing);
        }
        let looked = match self.rest_of(loc) {
            Some(rest) => look(rest),
            None if loc[0] == b'/' && loc.get(1) != Some(&b'/') => {
                let looked = look(loc);
                if looked != Look::Foreign {
                    out.extend_from_slice(self.prefix.as_bytes());
                }
                looked
            }
            _ => Look::Foreign,
        };
        if looked == Look::Foreign {
            return self.append_any(loc, out).map(|()| true);
        }
        out.extend_from_slice(loc);
        Ok(looked == Look::Entities)
    }

    /// What follows the origin in an absolute address of the site, as it is usually spelled.
    #[inline(always)]
    fn rest_of<'a>(&self, loc: &'a [u8]) -> Option<&'a [u8]> {
        loc.strip_prefix(self.origin.as_bytes()).filter(|rest| follows_origin(rest))
    }

    /// Whether `loc`, in which nothing is [`unusual`], is an absolute address of the site that can stand as it is.
    #[inline(always)]
    pub(crate) fn takes_plain(&self, loc: &[u8]) -> bool {
        (LOC_CHARS_MIN..=LOC_CHARS_MAX).contains(&loc.len()) && self.rest_of(loc).is_some()
    }

    /// The slow road: any Unicode, any spelling of the host.
    #[inline(never)]
    fn append_any(&self, loc: &[u8], out: &mut Vec<u8>) -> Result<(), LocFault> {
        let text = std::str::from_utf8(loc).map_err(|_| LocFault::NotUtf8)?;
        if text.chars().any(char::is_control) {
            return Err(LocFault::ControlCharacter);
        }
        // The host as it is usually spelled needs no parser.
        if let Some(rest) = text.strip_prefix(self.origin.as_str()).filter(|rest| follows_origin(rest.as_bytes())) {
            out.extend_from_slice(self.origin.as_bytes());
            escape(rest, out);
            return Ok(());
        }
        if let Some((scheme, after)) = absolute(text) {
            let end = after.find(['/', '?', '#', '\\']).unwrap_or(after.len());
            let (authority, rest) = after.split_at(end);
            self.same_origin(scheme.unwrap_or_else(|| self.scheme()), authority)?;
            if rest.starts_with('\\') {
                return Err(LocFault::NotAnAddress);
            }
            out.extend_from_slice(self.origin.as_bytes());
            escape(rest, out);
            return Ok(());
        }
        let lower = text.get(..12).unwrap_or(text).to_ascii_lowercase();
        if NOT_PAGES.iter().any(|scheme| lower.starts_with(scheme)) {
            return Err(LocFault::NotAnAddress);
        }
        let host = self.origin.split_once("://").map_or("", |(_, host)| host);
        if text.split(['/', '?', '#']).next().is_some_and(|first| first.eq_ignore_ascii_case(host)) {
            return Err(LocFault::NoScheme);
        }
        out.extend_from_slice(self.prefix.as_bytes());
        out.push(b'/');
        escape(text.strip_prefix('/').unwrap_or(text), out);
        Ok(())
    }

    /// The host of an absolute address, whatever it is.
    pub(crate) fn host_of(&self, loc: &[u8]) -> Result<Self, LocFault> {
        let text = std::str::from_utf8(trim_spaces(loc)).map_err(|_| LocFault::NotUtf8)?;
        let (scheme, after) = absolute(text).ok_or(LocFault::NotAnAddress)?;
        let end = after.find(['/', '?', '#', '\\']).unwrap_or(after.len());
        let scheme = scheme.unwrap_or_else(|| self.scheme());
        Self::parse(&format!("{scheme}://{}", &after[..end])).map_err(|_| LocFault::NotAnAddress)
    }

    fn scheme(&self) -> &str {
        self.origin.split(':').next().unwrap_or_default()
    }

    fn same_origin(&self, scheme: &str, authority: &str) -> Result<(), LocFault> {
        if authority.is_empty() || authority.contains('@') {
            return Err(LocFault::NotAnAddress);
        }
        let url = Url::parse(&format!("{scheme}://{authority}/")).map_err(|_| LocFault::NotAnAddress)?;
        if url.origin().ascii_serialization() == self.origin { Ok(()) } else { Err(LocFault::OtherHost) }
    }
}

/// Whether a host ends where `rest` follows.
#[inline(always)]
fn follows_origin(rest: &[u8]) -> bool {
    matches!(rest.first(), None | Some(b'/' | b'?'))
}

/// Splits `scheme://rest` or `//rest`; `None` for a path.
fn absolute(text: &str) -> Option<(Option<&str>, &str)> {
    if let Some(rest) = text.strip_prefix("//") {
        return Some((None, rest));
    }
    let (scheme, rest) = text.split_once("://")?;
    let named = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    named.then_some((Some(scheme), rest))
}

/// Appends `rest` (path, query and fragment) with everything escaped that RFC 3986 does not allow there.
fn escape(rest: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = rest.as_bytes();
    let mut in_fragment = false;
    for (at, &byte) in bytes.iter().enumerate() {
        let stays = match byte {
            b'%' => bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
            b'#' => !std::mem::replace(&mut in_fragment, true),
            other => may_stand(other),
        };
        if stays {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// RFC 3986: unreserved, sub-delims, and `:@/?`. Without `%` and `#`, which depend on their neighbours.
fn may_stand(byte: u8) -> bool {
    const STAND: [bool; 256] = {
        let (mut stand, mut byte, signs) = ([false; 256], 0_u8, b"-._~!$&'()*+,;=:@/?");
        while byte < 128 {
            stand[byte as usize] = byte.is_ascii_alphanumeric();
            byte += 1;
        }
        let mut at = 0;
        while at < signs.len() {
            stand[signs[at] as usize] = true;
            at += 1;
        }
        stand
    };
    STAND[usize::from(byte)]
}

/// What a look at a text tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Nothing needs escaping, neither for a URI nor for XML.
    Plain,
    /// Nothing needs escaping for a URI; `&` or `'` is there.
    Entities,
    /// Something needs escaping, or may.
    Foreign,
}

/// At 16 bytes it hung on other code whether the last block was taken whole (94 instructions a row more where not).
const BLOCK: usize = 32;

/// Looks at a text without branches, block by block, so that the compiler turns it into vector instructions; the last
/// block overlaps the one before. Nearly every text is of few kinds of characters, which a first look tells. A
/// function of its own, since where it was inlined the compiler took two thirds more instructions.
#[inline(never)]
fn look(text: &[u8]) -> Look {
    let mut short = [b'a'; BLOCK];
    let last = text.last_chunk::<BLOCK>().unwrap_or_else(|| {
        short[..text.len()].copy_from_slice(text);
        &short
    });
    let (blocks, _) = text.as_chunks::<BLOCK>();
    if !any_marked(last, blocks, is_unusual) {
        return Look::Plain;
    }
    match (any_marked(last, blocks, is_foreign), any_marked(last, blocks, is_entity)) {
        (true, _) => Look::Foreign,
        (false, true) => Look::Entities,
        (false, false) => Look::Plain,
    }
}

/// Whether `mark` marks any byte of these blocks. A mark is all bits, as vector instructions compare.
#[inline(always)]
fn any_marked(last: &[u8; BLOCK], blocks: &[[u8; BLOCK]], mark: impl Fn(u8) -> u8) -> bool {
    let mut all = [0; BLOCK];
    let mut look_at = |block: &[u8; BLOCK]| all.iter_mut().zip(block).for_each(|(all, byte)| *all |= mark(*byte));
    blocks.iter().for_each(&mut look_at);
    look_at(last);
    all.iter().fold(0, |any, mark| any | mark) != 0
}

/// How many bytes [`unusual`] looks at.
pub(crate) const UNUSUAL_BYTES: usize = 64;

/// A bit, from the lowest on, for each byte of `text` that is unusual. An address without such is [`Look::Plain`].
#[inline(never)]
pub(crate) fn unusual(text: &[u8; UNUSUAL_BYTES]) -> u64 {
    let mut bits = [0; UNUSUAL_BYTES];
    bits.iter_mut().zip(text).enumerate().for_each(|(at, (bit, byte))| *bit = is_unusual(*byte) & (1 << (at % 8)));
    // Eight bits are a byte, and their sum one vector instruction.
    let (eights, _) = bits.as_chunks::<8>();
    let mut bytes = [0; UNUSUAL_BYTES / 8];
    bytes.iter_mut().zip(eights).for_each(|(byte, eight)| *byte = eight.iter().fold(0, |sum, bit| sum + *bit));
    u64::from_le_bytes(bytes)
}

#[inline(always)]
fn outside(byte: u8, low: u8, high: u8) -> u8 {
    if byte.wrapping_sub(low) > high - low { u8::MAX } else { 0 }
}

/// Marks what is not `-` to `;`, `=`, `?`, `A` to `Z`, `_` or `a` to `z`: what is left needs no escaping.
#[inline(always)]
fn is_unusual(byte: u8) -> u8 {
    outside(byte, b'-', b';')
        & outside(byte | 0x20, b'a', b'z')
        & outside(byte | 2, b'?', b'?')
        & outside(byte, b'_', b'_')
}

/// Marks what is not `!`, `$`, `&` to `;`, `=`, `?` to `Z`, `_`, `a` to `z` or `~`.
#[inline(always)]
fn is_foreign(byte: u8) -> u8 {
    outside(byte, b'&', b';')
        & outside(byte, b'?', b'Z')
        & outside(byte, b'a', b'z')
        & outside(byte, b'!', b'!')
        & outside(byte, b'$', b'$')
        & outside(byte, b'=', b'=')
        & outside(byte, b'_', b'_')
        & outside(byte, b'~', b'~')
}

/// Marks `&` and `'`.
#[inline(always)]
fn is_entity(byte: u8) -> u8 {
    !outside(byte, b'&', b'\'')
}

fn trim_spaces(mut bytes: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolve(base: &str, loc: &str) -> Result<String, LocFault> {
        let mut out = Vec::new();
        BaseUrl::parse(base).unwrap().resolve(loc.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn on_example(loc: &str) -> Result<String, LocFault> {
        resolve("https://www.example.com", loc)
    }

    #[test]
    fn names_of_debian_packages_stay_readable() {
        for name in ["libstdc++6", "0ad-data", "g++-12", "libc6.1", "1:2.3~rc1+dfsg-4", "a_b"] {
            assert_eq!(on_example(&format!("/p/{name}")).unwrap(), format!("https://www.example.com/p/{name}"));
            assert_eq!(on_example(&format!("p/{name}")).unwrap(), format!("https://www.example.com/p/{name}"));
        }
    }

    #[test]
    fn anything_else_is_escaped_once() {
        let cases = [
            ("/é", "/%C3%A9"),
            ("/日本語 x", "/%E6%97%A5%E6%9C%AC%E8%AA%9E%20x"),
            ("/😀", "/%F0%9F%98%80"),
            ("/a%20b", "/a%20b"),
            ("/100%", "/100%25"),
            ("/%zz%4", "/%25zz%254"),
            ("/a[1]{2}|^`\\\"<>", "/a%5B1%5D%7B2%7D%7C%5E%60%5C%22%3C%3E"),
            ("/x?q=a&b='c'#top", "/x?q=a&b='c'#top"),
            ("/x#a#b", "/x#a%23b"),
            ("?page=2", "/?page=2"),
            ("  /x  ", "/x"),
        ];
        for (given, wanted) in cases {
            assert_eq!(on_example(given).unwrap(), format!("https://www.example.com{wanted}"), "{given}");
        }
    }

    #[test]
    fn a_base_with_a_path_holds_its_relative_pages() {
        for base in ["https://example.com/shop", "https://example.com/shop/"] {
            assert_eq!(resolve(base, "/a").unwrap(), "https://example.com/shop/a");
            assert_eq!(resolve(base, "a?b").unwrap(), "https://example.com/shop/a?b");
            assert_eq!(resolve(base, "https://example.com/other").unwrap(), "https://example.com/other");
        }
    }

    #[test]
    fn every_spelling_of_the_own_host_is_the_own_host() {
        for loc in ["https://www.example.com/a", "HTTPS://WWW.Example.COM/a", "https://www.example.com:443/a"] {
            assert_eq!(on_example(loc).unwrap(), "https://www.example.com/a", "{loc}");
        }
        assert_eq!(on_example("//www.example.com/a").unwrap(), "https://www.example.com/a");
        assert_eq!(on_example("https://www.example.com").unwrap(), "https://www.example.com");
        assert_eq!(
            resolve("https://bücher.example", "https://BÜCHER.example/ä").unwrap(),
            "https://xn--bcher-kva.example/%C3%A4"
        );
    }

    #[test]
    fn what_cannot_be_a_page_here_says_why() {
        let cases = [
            ("", LocFault::Missing),
            ("   ", LocFault::Missing),
            ("/a\tb", LocFault::ControlCharacter),
            ("/a\u{7f}", LocFault::ControlCharacter),
            ("/a\u{85}", LocFault::ControlCharacter),
            ("/a\n", LocFault::ControlCharacter),
            ("http://www.example.com/a", LocFault::OtherHost),
            ("https://example.com/a", LocFault::OtherHost),
            ("https://www.example.com.evil.org/", LocFault::OtherHost),
            ("https://www.example.com.evil.org/é", LocFault::OtherHost),
            ("https://www.example.com:8443/", LocFault::OtherHost),
            ("https://www.example.com:8443/é", LocFault::OtherHost),
            ("https://www.example.com@evil.org/é", LocFault::NotAnAddress),
            ("//evil.org/x", LocFault::OtherHost),
            ("https://me@www.example.com/", LocFault::NotAnAddress),
            ("https:///x", LocFault::NotAnAddress),
            ("https://www.example.com\\a", LocFault::NotAnAddress),
            ("www.example.com/p/1", LocFault::NoScheme),
            ("WWW.example.com", LocFault::NoScheme),
            ("mailto:a@b.c", LocFault::NotAnAddress),
            ("JavaScript:void(0)", LocFault::NotAnAddress),
        ];
        for (given, wanted) in cases {
            assert_eq!(on_example(given), Err(wanted), "{given:?}");
        }
        let mut out = b"kept".to_vec();
        let base = BaseUrl::parse("https://www.example.com").unwrap();
        assert_eq!(base.resolve(b"/\xff", &mut out), Err(LocFault::NotUtf8));
        assert_eq!(out, b"kept");
    }

    #[test]
    fn length_counts_after_escaping() {
        let room = LOC_CHARS_MAX - "https://www.example.com/".len();
        assert!(on_example(&format!("/{}", "a".repeat(room))).is_ok());
        assert_eq!(on_example(&format!("/{}", "a".repeat(room + 1))), Err(LocFault::TooLong));
        assert_eq!(on_example(&format!("/{}", "é".repeat(room / 6 + 1))), Err(LocFault::TooLong));
        assert_eq!(resolve("http://a.b", "/"), Err(LocFault::TooShort));
    }

    #[test]
    fn a_bad_base_says_what_to_give() {
        for text in ["www.example.com", "ftp://example.com", "https://u:p@example.com", "https://example.com/?a"] {
            let message = BaseUrl::parse(text).unwrap_err().to_string();
            assert!(message.contains(text) && message.contains("https://www.example.com"), "{message}");
        }
    }

    #[test]
    fn unusual_bytes_are_told_one_by_one() {
        for (at, byte) in (0..UNUSUAL_BYTES).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
            let mut text = [b'a'; UNUSUAL_BYTES];
            text[at] = byte;
            let is_usual = byte.is_ascii_alphanumeric() || b"-./:;=?_".contains(&byte);
            assert_eq!(unusual(&text), u64::from(!is_usual) << at, "{byte} at {at}");
            assert!(!is_usual || look(&text) == Look::Plain, "{byte}");
        }
        assert_eq!(unusual(&[b','; UNUSUAL_BYTES]), u64::MAX);
    }

    proptest! {
        #[test]
        fn whatever_comes_out_is_a_valid_address_and_a_fixed_point(path in "\\PC{0,60}") {
            if let Ok(first) = on_example(&format!("/{path}")) {
                prop_assert!(first.bytes().all(|b| may_stand(b) || b == b'%' || b == b'#'), "{}", first);
                let again = on_example(&first).unwrap();
                prop_assert_eq!(&again, &first);
                prop_assert!(Url::parse(&first).is_ok());
            }
        }

        #[test]
        fn the_path_can_be_read_back(path in "[^%\\p{Cc}#?]{1,40}") {
            prop_assume!(!path.starts_with('/') && !path.ends_with(' '));
            let url = on_example(&format!("/{path}")).unwrap();
            let mut bytes = Vec::new();
            let mut rest = url.strip_prefix("https://www.example.com/").unwrap().as_bytes();
            while let [first, tail @ ..] = rest {
                if *first == b'%' {
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
                    rest = &tail[2..];
                } else {
                    bytes.push(*first);
                    rest = tail;
                }
            }
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), path);
        }

        #[test]
        fn the_fast_look_agrees_with_the_table(bytes in proptest::collection::vec(prop_oneof![20 => 0x20_u8..0x7f, 1 => any::<u8>()], 0..70)) {
            let slow = match (bytes.iter().all(|b| may_stand(*b)), bytes.iter().any(|b| b"&'".contains(b))) {
                (true, false) => Look::Plain,
                (true, true) => Look::Entities,
                (false, _) => Look::Foreign,
            };
            prop_assert_eq!(look(&bytes), slow);
        }
    }
}
