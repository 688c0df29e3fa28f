//! A page that a sitemap names, looked at as a crawler would: may it be fetched, is it there, does it want to be
//! indexed, and does it say that it is the page.

use crate::robots::Robots;
use crate::web::{Web, WebError};
use http::header;
use std::borrow::Cow;
use url::Url;

/// Bytes of a page in which the head is looked for.
const HEAD_BYTES_MAX: usize = 512 << 10;

/// What speaks against the page at `loc`, in words; nothing where it can be indexed.
pub(super) async fn problems(web: &Web, loc: &str, robots: Option<&Robots>, agent: &str) -> Vec<String> {
    let Ok(url) = Url::parse(loc) else { return Vec::new() };
    if let Some(rule) = robots.and_then(|robots| robots.forbids(agent, &url[url::Position::BeforePath..])) {
        return vec![format!("{loc} may not be fetched: robots.txt says Disallow: {rule}")];
    }
    match look(web, loc).await {
        Ok(problems) => problems,
        Err(error) => vec![error.to_string()],
    }
}

async fn look(web: &Web, loc: &str) -> Result<Vec<String>, WebError> {
    let answer = web.get(loc).await?;
    if let Some((status, to)) = answer.redirects.first() {
        return Ok(vec![format!("{loc} redirects ({status}) to {to}: the sitemap should name that")]);
    }
    if answer.status != 200 {
        return Ok(vec![format!("{loc} answers {}", answer.status)]);
    }
    let mut problems = Vec::new();
    for value in answer.headers.get_all("x-robots-tag").iter().filter_map(|value| value.to_str().ok()) {
        if says_noindex(value) {
            problems.push(format!("{loc} says X-Robots-Tag: {value}"));
        }
    }
    let links: Vec<String> = answer
        .headers
        .get_all(header::LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter_map(canonical_of_header)
        .collect();
    let is_html = answer.header(header::CONTENT_TYPE).is_none_or(|kind| kind.contains("html"));
    let packed = answer.header(header::CONTENT_ENCODING).is_some_and(|encoding| encoding.contains("gzip"));
    let body = answer.first_bytes(HEAD_BYTES_MAX).await?;
    let body = if packed { unpack(&body) } else { body };
    let head = if is_html { Head::of(&String::from_utf8_lossy(&body)) } else { Head::default() };
    if let Some((name, rules)) = head.noindex {
        problems.push(format!("{loc} has <meta name=\"{name}\" content=\"{rules}\">"));
    }
    for canonical in links.into_iter().chain(head.canonical) {
        let said = Url::parse(loc).and_then(|base| base.join(&canonical));
        if said.as_ref().map(Url::as_str) != Url::parse(loc).as_ref().map(Url::as_str) {
            problems.push(format!("{loc} says that its canonical address is {canonical}"));
        }
    }
    Ok(problems)
}

/// The beginning of a packed page: it may be cut, so what comes out before that is taken.
fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let reader = flate2::read::MultiGzDecoder::new(packed);
    // The error is that the page was cut.
    let _cut = std::io::Read::read_to_end(&mut std::io::Read::take(reader, HEAD_BYTES_MAX as u64), &mut out);
    out
}

/// `noindex` or `none` among the rules; those for one crawler alone (`otherbot: noindex`) count too. What stands behind
/// a rule that has a value (`max-image-preview:none`) is no rule.
fn says_noindex(rules: &str) -> bool {
    rules.to_ascii_lowercase().split(',').any(|rule| {
        let rule = match rule.split_once(':') {
            Some((name, _)) if name.trim().starts_with("max-") || name.trim() == "unavailable_after" => "",
            Some((_, rule)) => rule,
            None => rule,
        };
        matches!(rule.trim(), "noindex" | "none")
    })
}

/// The target of `<…>; rel="canonical"` in a Link header.
fn canonical_of_header(value: &str) -> Option<String> {
    value.split(',').find_map(|link| {
        let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
        let rel = rest.to_ascii_lowercase().replace(['"', ' '], "");
        rel.split(';').any(|part| part == "rel=canonical").then(|| target.to_owned())
    })
}

/// What a page's head says of indexing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    /// Name and content of the first `<meta>` that forbids it.
    noindex: Option<(String, String)>,
    canonical: Option<String>,
}

impl Head {
    /// Reads the tags before `<body>`; comments and scripts are passed over. No more of HTML is wanted here.
    fn of(html: &str) -> Self {
        let mut head = Self::default();
        let mut rest = html;
        while let Some(at) = rest.find('<') {
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix("!--") {
                rest = after.find("-->").map_or("", |end| &after[end + 3..]);
                continue;
            }
            let name_end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let name = rest[..name_end].to_ascii_lowercase();
            let (attributes, after) = attributes(&rest[name_end..]);
            rest = after;
            let get = |name: &str| attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            let is = |name: &str, words: &[&str]| {
                get(name).is_some_and(|value| words.iter().any(|word| value.trim().eq_ignore_ascii_case(word)))
            };
            match name.as_str() {
                "meta" if is("name", &["robots", "googlebot", "bingbot"]) => {
                    let rules = get("content").filter(|content| says_noindex(content));
                    head.noindex = head.noindex.or(get("name").zip(rules));
                }
                "link"
                    if get("rel")
                        .is_some_and(|rel| rel.split(' ').any(|rel| rel.eq_ignore_ascii_case("canonical"))) =>
                {
                    head.canonical = head.canonical.or(get("href").map(|href| href.trim().to_owned()));
                }
                "script" | "style" => rest = after_element(rest, &name),
                "body" => break,
                _ => {}
            }
        }
        head
    }
}

/// What follows the end tag of the element `name`.
fn after_element<'a>(rest: &'a str, name: &str) -> &'a str {
    let end = format!("</{name}");
    let at = rest.as_bytes().windows(end.len()).position(|window| window.eq_ignore_ascii_case(end.as_bytes()));
    at.map_or("", |at| &rest[at..])
}

/// The attributes of a tag, its name already behind, and what follows the tag.
fn attributes(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if rest.is_empty() || rest.starts_with('>') {
            return (found, rest.get(1..).unwrap_or_default());
        }
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '=' | '>' | '/')).unwrap_or(rest.len());
        // A stray = begins no name.
        let end = if end == 0 { 1 } else { end };
        let name = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        let mut value = "";
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start();
            (value, rest) = match after.chars().next() {
                Some(quote @ ('"' | '\'')) => after[1..].split_once(quote).unwrap_or((&after[1..], "")),
                _ => after.split_at(after.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(after.len())),
            };
        }
        let value = quick_xml::escape::unescape(value).unwrap_or(Cow::Borrowed(value)).into_owned();
        found.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_head_says_is_found_however_it_is_written() {
        let some = |text: &str| Some(text.to_owned());
        let meta = |name: &str, rules: &str| Some((name.to_owned(), rules.to_owned()));
        let cases = [
            ("<html><head><meta name=robots content=noindex></head>", meta("robots", "noindex"), None),
            ("<META CONTENT='follow, NOINDEX' NAME='Robots'/>", meta("Robots", "follow, NOINDEX"), None),
            ("<meta name=\"googlebot\" content=\"none\">", meta("googlebot", "none"), None),
            ("<meta name=\"robots\" content=\"index, follow\">", None, None),
            ("<!-- <meta name=robots content=noindex> --><title>x</title>", None, None),
            ("<script>'<meta name=robots content=noindex>'</script>", None, None),
            ("<body><meta name=robots content=noindex>", None, None),
            ("<link rel=\"canonical\" href=\"/a?b=1&amp;c=2\">", None, some("/a?b=1&c=2")),
            ("<link href=x rel='alternate canonical'>", None, some("x")),
            ("<link rel=stylesheet href=x>", None, None),
        ];
        for (html, noindex, canonical) in cases {
            assert_eq!(Head::of(html), Head { noindex, canonical }, "{html}");
        }
        assert_eq!(canonical_of_header("<a>; rel=next, <b>; rel=\"canonical\"").as_deref(), Some("b"));
        assert!(says_noindex("otherbot: noindex, nofollow") && !says_noindex("max-snippet: 5"));
        assert!(says_noindex("follow, none") && !says_noindex("index, max-image-preview:none, max-snippet:-1"));
        assert!(!says_noindex("unavailable_after: 25 Jun 2030 15:00:00 PST"));
    }

    proptest! {
        #[test]
        fn no_page_panics(html in "[<>/=\"' a-cé!-]{0,40}", tag in "[<>/=\"' meta]{0,40}") {
            Head::of(&html);
            Head::of(&format!("<meta {tag}<script>{html}"));
        }
    }
}
