//! The canonical policy of a site: which hosts are its own, and which spellings of an address are one page.
//!
//! Promises: where nothing is said, an address stays as it is. What the rules make of an address they leave alone when
//! they see it again, so pages and what other pages say of them (alternates) meet.

use crate::loc::{BaseUrl, BaseUrlError, LOC_CHARS_MAX, LOC_CHARS_MIN, LocFault};
use serde::Deserialize;

/// Hosts that may be listed beside base_url's, and aliases of it: each is tried in turn.
pub const HOSTS_MAX: usize = 64;

/// How addresses are spelled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Canonical {
    /// Whether http and https are one.
    pub scheme: Scheme,
    /// Hosts whose pages are those of base_url, as in `example.com` beside `www.example.com`.
    pub host_aliases: Vec<String>,
    /// Whether paths end in a slash.
    pub trailing_slash: TrailingSlash,
    /// Whether letter case counts in paths.
    pub path_case: PathCase,
    /// What becomes of query strings.
    pub query: Query,
    /// Parameters that are left out of query strings: names, or beginnings of names with `*` after them (`utm_*`).
    pub query_drop: Vec<String>,
    /// What becomes of `#` and what follows it.
    pub fragment: Fragment,
}

/// What becomes of the scheme of an address on a host of the site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// It must be base_url's (or the listed host's).
    #[default]
    Keep,
    /// http and https both become it.
    Base,
}

/// What becomes of slashes at the end of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrailingSlash {
    /// They stay as they are.
    #[default]
    Keep,
    /// One is added where there is none and the last part of the path has no dot.
    Add,
    /// They go, except for the one of the root.
    Remove,
}

/// What becomes of capital letters in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathCase {
    /// They stay.
    #[default]
    Keep,
    /// ASCII letters become small ones.
    Lower,
}

/// What becomes of query strings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Query {
    /// They stay, without the parameters of [`Canonical::query_drop`].
    #[default]
    Keep,
    /// They go.
    Drop,
}

/// What becomes of fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fragment {
    /// They stay.
    #[default]
    Keep,
    /// They go.
    Drop,
}

/// Hosts that the site cannot have.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// One is no host.
    #[error("host {host:?} is none: give it as in m.example.com, or with its scheme as in http://m.example.com")]
    Host {
        /// What was given.
        host: String,
        /// Why.
        source: BaseUrlError,
    },
    /// They are too many.
    #[error("{0} hosts are listed: list at most {HOSTS_MAX}")]
    TooMany(usize),
}

impl Canonical {
    /// Whether it leaves what follows the host alone.
    fn is_plain(&self) -> bool {
        self.trailing_slash == TrailingSlash::Keep
            && self.path_case == PathCase::Keep
            && self.query == Query::Keep
            && self.query_drop.is_empty()
            && self.fragment == Fragment::Keep
    }

    fn drops(&self, parameter: &[u8]) -> bool {
        let name = parameter.split(|byte| *byte == b'=').next().unwrap_or_default();
        self.query_drop.iter().any(|rule| match rule.strip_suffix('*') {
            Some(start) => name.starts_with(start.as_bytes()),
            None => name == rule.as_bytes(),
        })
    }

    /// Appends to `out` what `rest` (path, query and fragment, escaped) is by these rules.
    fn apply(&self, rest: &[u8], out: &mut Vec<u8>) {
        let (before, fragment) = split(rest, b'#');
        let (path, query) = split(before, b'?');
        self.path(path, out);
        if self.query == Query::Keep {
            let mut mark = b'?';
            // A question mark with nothing behind it is as much a query string as any other.
            for parameter in query.into_iter().flat_map(|query| query.split(|byte| *byte == b'&')) {
                if !self.drops(parameter) {
                    out.push(std::mem::replace(&mut mark, b'&'));
                    out.extend_from_slice(parameter);
                }
            }
        }
        if let (Fragment::Keep, Some(fragment)) = (self.fragment, fragment) {
            out.push(b'#');
            out.extend_from_slice(fragment);
        }
    }

    fn path(&self, mut path: &[u8], out: &mut Vec<u8>) {
        if self.trailing_slash == TrailingSlash::Remove {
            while let [shorter @ .., b'/'] = path
                && !shorter.is_empty()
            {
                path = shorter;
            }
        }
        let start = out.len();
        out.extend_from_slice(path);
        if self.path_case == PathCase::Lower {
            lower(&mut out[start..]);
        }
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if self.trailing_slash == TrailingSlash::Add && !path.ends_with(b"/") && !last.contains(&b'.') {
            out.push(b'/');
        }
    }
}

/// ASCII letters become small, but not the digits of percent-escapes, which RFC 3986 wants as capitals.
fn lower(path: &mut [u8]) {
    let mut at = 0;
    while let Some(byte) = path.get_mut(at) {
        if *byte == b'%' {
            at += 3;
        } else {
            byte.make_ascii_lowercase();
            at += 1;
        }
    }
}

fn split(text: &[u8], mark: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == mark) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// A host beside base_url's.
#[derive(Clone, Debug)]
struct Host {
    spelled: BaseUrl,
    /// The origin that its pages get.
    becomes: String,
}

/// The addresses of a site: its hosts and its rules.
#[derive(Clone, Debug)]
pub struct Addresses {
    base: BaseUrl,
    hosts: Vec<Host>,
    rules: Option<Canonical>,
}

impl Addresses {
    /// The addresses under `base` and on `hosts` (as in `m.example.com`, with base_url's scheme where none is given),
    /// spelled as `canonical` says.
    ///
    /// # Errors
    /// Where one of the hosts is none, or they are too many.
    pub fn new(base: &BaseUrl, hosts: &[String], canonical: &Canonical) -> Result<Self, HostsError> {
        let count = hosts.len() + canonical.host_aliases.len();
        if count > HOSTS_MAX {
            return Err(HostsError::TooMany(count));
        }
        let mut all = Vec::new();
        let listed = hosts.iter().map(|host| (host, false));
        for (host, alias) in listed.chain(canonical.host_aliases.iter().map(|host| (host, true))) {
            let spelled = parse(base, host)?;
            let becomes = if alias { base.origin() } else { spelled.origin() }.to_owned();
            all.push(Host { spelled, becomes });
        }
        if canonical.scheme == Scheme::Base {
            let own = Host { spelled: base.clone(), becomes: base.origin().to_owned() };
            let others: Vec<Host> = std::iter::once(&own).chain(&all).filter_map(other_scheme).collect();
            all.extend(others);
        }
        let rules = (!canonical.is_plain()).then(|| canonical.clone());
        Ok(Self { base: base.clone(), hosts: all, rules })
    }

    /// Appends to `out` the canonical address that `loc` names. True where it may hold `&` or `'`.
    ///
    /// # Errors
    /// The [`LocFault`]; `out` then holds what it held before.
    pub fn resolve(&self, loc: &[u8], out: &mut Vec<u8>) -> Result<bool, LocFault> {
        let start = out.len();
        let (entities, origin) = match self.base.resolve(loc, out) {
            Err(LocFault::OtherHost) if !self.hosts.is_empty() => self.resolve_elsewhere(loc, out)?,
            outcome => (outcome?, self.base.origin()),
        };
        let Some(rules) = &self.rules else { return Ok(entities) };
        let rest = out.split_off(start + origin.len());
        rules.apply(&rest, out);
        check_length(start, out)?;
        Ok(entities)
    }

    /// Whether `loc`, in which nothing is [`unusual`](crate::loc::unusual), is an address that it leaves as it is.
    #[inline(always)]
    pub(crate) fn takes_plain(&self, loc: &[u8]) -> bool {
        self.rules.is_none() && self.base.takes_plain(loc)
    }

    /// An address on another host than base_url's, and the origin that it then has.
    fn resolve_elsewhere(&self, loc: &[u8], out: &mut Vec<u8>) -> Result<(bool, &str), LocFault> {
        let start = out.len();
        let trimmed = loc.trim_ascii_start();
        // Those that are spelled so first: the others take a parse each.
        let likely = |host: &&Host| trimmed.starts_with(host.spelled.origin().as_bytes());
        for host in self.hosts.iter().filter(likely).chain(self.hosts.iter().filter(|host| !likely(host))) {
            let entities = match host.spelled.resolve(loc, out) {
                Err(LocFault::OtherHost) => continue,
                outcome => outcome?,
            };
            let spelled = host.spelled.origin();
            if spelled != host.becomes {
                let rest = out.split_off(start + spelled.len());
                out.truncate(start);
                out.extend_from_slice(host.becomes.as_bytes());
                out.extend_from_slice(&rest);
                check_length(start, out)?;
            }
            return Ok((entities, &host.becomes));
        }
        Err(LocFault::OtherHost)
    }
}

fn check_length(start: usize, out: &mut Vec<u8>) -> Result<(), LocFault> {
    let fault = match out.len() - start {
        0..LOC_CHARS_MIN => LocFault::TooShort,
        LOC_CHARS_MIN..=LOC_CHARS_MAX => return Ok(()),
        _ => LocFault::TooLong,
    };
    out.truncate(start);
    Err(fault)
}

fn parse(base: &BaseUrl, host: &str) -> Result<BaseUrl, HostsError> {
    let scheme = base.origin().split("://").next().unwrap_or("https");
    let text = if host.contains("://") { host.to_owned() } else { format!("{scheme}://{host}") };
    let wrong = |source| HostsError::Host { host: host.to_owned(), source };
    let parsed = BaseUrl::parse(&text).map_err(wrong)?;
    // A path would be lost in silence.
    if parsed.as_str() == parsed.origin() { Ok(parsed) } else { Err(wrong(BaseUrlError::has_path(&text))) }
}

/// The same host by http where it is https, and the other way round.
fn other_scheme(host: &Host) -> Option<Host> {
    let origin = host.spelled.origin();
    let other = match origin.strip_prefix("https://") {
        Some(rest) => format!("http://{rest}"),
        None => format!("https://{}", origin.strip_prefix("http://")?),
    };
    Some(Host { spelled: BaseUrl::parse(&other).ok()?, becomes: host.becomes.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(hosts: &[&str], rules: &str) -> Addresses {
        let base = BaseUrl::parse("https://www.example.com").unwrap();
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        Addresses::new(&base, &hosts, &toml::from_str(rules).unwrap()).unwrap()
    }

    fn resolve(addresses: &Addresses, loc: &str) -> Result<String, LocFault> {
        let mut out = b"kept".to_vec();
        let outcome = addresses.resolve(loc.as_bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(outcome.is_ok() || text == "kept", "{text}");
        outcome.map(|_| text["kept".len()..].to_owned())
    }

    fn all(addresses: &Addresses, cases: &[(&str, &str)]) {
        for (given, wanted) in cases {
            let wanted = if wanted.starts_with('/') || wanted.is_empty() {
                format!("https://www.example.com{wanted}")
            } else {
                (*wanted).to_owned()
            };
            assert_eq!(resolve(addresses, given).as_deref(), Ok(wanted.as_str()), "{given}");
        }
    }

    #[test]
    fn where_nothing_is_said_addresses_stay() {
        let plain = addresses(&[], "");
        all(&plain, &[("/A/b/?x=1&utm_source=y#z", "/A/b/?x=1&utm_source=y#z"), ("/x", "/x")]);
        assert_eq!(resolve(&plain, "http://www.example.com/a"), Err(LocFault::OtherHost));
        assert_eq!(resolve(&plain, "https://example.com/a"), Err(LocFault::OtherHost));
    }

    #[test]
    fn listed_hosts_keep_their_name_and_aliases_take_the_base_s() {
        let some = addresses(&["m.example.com", "http://old.example.org"], "host_aliases = [\"example.com\"]");
        all(
            &some,
            &[
                ("https://m.example.com/a b", "https://m.example.com/a%20b"),
                ("HTTPS://M.Example.com/a", "https://m.example.com/a"),
                ("http://old.example.org/x", "http://old.example.org/x"),
                ("https://example.com/a?b", "/a?b"),
                ("//example.com:443/é", "/%C3%A9"),
            ],
        );
        for other in
            ["http://m.example.com/a", "https://m.example.com.evil.org/", "https://evil.org/", "//xexample.com/"]
        {
            assert_eq!(resolve(&some, other), Err(LocFault::OtherHost), "{other}");
        }
    }

    #[test]
    fn http_and_https_are_one_where_it_is_said() {
        let some = addresses(&["m.example.com"], "scheme = \"base\"\nhost_aliases = [\"example.com\"]");
        all(
            &some,
            &[
                ("http://www.example.com/a", "/a"),
                ("http://example.com/a", "/a"),
                ("http://m.example.com/a", "https://m.example.com/a"),
            ],
        );
        assert_eq!(resolve(&some, "http://www.example.com:8080/a"), Err(LocFault::OtherHost));
    }

    #[test]
    fn slashes_case_queries_and_fragments_follow_their_rules() {
        all(
            &addresses(&[], "trailing_slash = \"add\"\nfragment = \"drop\""),
            &[
                ("/a", "/a/"),
                ("/a/", "/a/"),
                ("/a.html#x", "/a.html"),
                ("", ""),
                ("/a?b", "/a/?b"),
                ("/x.y/z", "/x.y/z/"),
            ]
            .map(|(given, wanted)| if given.is_empty() { ("https://www.example.com", "/") } else { (given, wanted) }),
        );
        all(
            &addresses(&[], "trailing_slash = \"remove\"\npath_case = \"lower\""),
            &[("/A//", "/a"), ("/", "/"), ("/%C3%A9/B?C=D/", "/%C3%A9/b?C=D/"), ("https://www.example.com/", "/")],
        );
        all(
            &addresses(&[], "query_drop = [\"utm_*\", \"gclid\"]"),
            &[
                ("/a?utm_source=x&id=1&gclid=2#top", "/a?id=1#top"),
                ("/a?utm_source=x", "/a"),
                ("/a?gclid2=1&b&b", "/a?gclid2=1&b&b"),
                ("/a?", "/a?"),
            ],
        );
        all(&addresses(&[], "query = \"drop\""), &[("/a?b=c#d", "/a#d"), ("/a#b?c", "/a#b?c")]);
    }

    #[test]
    fn lengths_are_checked_after_the_rules() {
        let room = LOC_CHARS_MAX - "https://www.example.com/".len();
        let longer = addresses(&[], "trailing_slash = \"add\"");
        assert!(resolve(&longer, &format!("/{}", "a".repeat(room - 1))).is_ok());
        assert_eq!(resolve(&longer, &format!("/{}", "a".repeat(room))), Err(LocFault::TooLong));
        let alias = addresses(&[], "host_aliases = [\"b.c\"]");
        assert_eq!(resolve(&alias, &format!("https://b.c/{}", "a".repeat(room + 1))), Err(LocFault::TooLong));
    }

    #[test]
    fn hosts_that_are_none_are_named() {
        let base = BaseUrl::parse("https://www.example.com").unwrap();
        for bad in ["", "a b", "m.example.com/shop", "ftp://m.example.com"] {
            let error = Addresses::new(&base, &[bad.to_owned()], &Canonical::default()).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        let many = vec!["a.example".to_owned(); HOSTS_MAX + 1];
        assert!(Addresses::new(&base, &many, &Canonical::default()).is_err());
        assert!(toml::from_str::<Canonical>("slash = \"add\"").is_err());
    }

    proptest! {
        #[test]
        fn rules_leave_alone_what_they_made(
            loc in "(https?://(www\\.|m\\.)?example\\.com)?/[a-zA-Z./%é]{0,20}(\\?[a-z_=&]{0,12})?(#[a-z]{0,4})?",
            slash in 0_usize..3, query in 0_usize..3,
        ) {
            let slash = ["keep", "add", "remove"][slash];
            let query = ["query = \"drop\"", "query_drop = [\"a*\"]", ""][query];
            let rules = format!(
                "scheme = \"base\"\nhost_aliases = [\"example.com\"]\npath_case = \"lower\"\ntrailing_slash = \"{slash}\"\n{query}"
            );
            let some = addresses(&["m.example.com"], &rules);
            if let Ok(first) = resolve(&some, &loc) {
                let again = resolve(&some, &first);
                prop_assert_eq!(again.as_deref(), Ok(first.as_str()));
            }
        }
    }
}
