//! What makes a page a news article, by Google's news sitemap 0.9: publication, date and title. After two days the page
//! stays and this goes, as Google asks.

use super::{Fault, Text, object, write_text};
use crate::lastmod;
use crate::pages::Policy;
use crate::select::{NEWS_HOURS, is_older};
use serde::Deserialize;
use std::borrow::Cow;

/// Longest title and name of a publication that are taken, in characters.
const TEXT_CHARS_MAX: usize = 1_000;

/// What articles have in common that do not say it themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Publication {
    /// The publication's name, as on news.google.com.
    pub name: Option<String>,
    /// Its language: two or three small letters of ISO 639, `zh-cn` or `zh-tw`.
    pub language: Option<String>,
}

/// Whether a page is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is none.
    None,
    /// It was.
    Old,
    /// It is.
    Recent,
}

#[derive(Debug, Deserialize)]
struct Article<'a> {
    #[serde(borrow, alias = "publication_name", alias = "publication")]
    name: Option<Text<'a>>,
    #[serde(borrow, alias = "publication_language")]
    language: Option<Text<'a>>,
    #[serde(borrow)]
    publication_date: Cow<'a, str>,
    #[serde(borrow)]
    title: Cow<'a, str>,
}

/// Appends the `<news:news>` of `field` where it is of the last two days; what of it is not known goes to `unknown`.
pub(super) fn append(
    field: &[u8],
    policy: &Policy,
    out: &mut Vec<u8>,
    unknown: &mut Vec<Fault>,
) -> Result<State, Fault> {
    let start = out.len();
    let outcome = write(field, policy, out, unknown);
    if outcome != Ok(State::Recent) {
        out.truncate(start);
    }
    outcome
}

fn write(field: &[u8], policy: &Policy, out: &mut Vec<u8>, unknown: &mut Vec<Fault>) -> Result<State, Fault> {
    let shown = || String::from_utf8_lossy(&field[..field.len().min(200)]).into_owned();
    if field.trim_ascii() == b"null" {
        return Ok(State::None);
    }
    let article: Article<'_> = object(field, "news has a field that is not known", unknown).map_err(|error| {
        Fault::new("news is no object with publication_date and title", format!("{} ({error})", shown()))
    })?;
    let own = |given: Option<&Text<'_>>, usual: &Option<String>| {
        given.map(|text| text.0.trim().to_owned()).or_else(|| usual.clone()).unwrap_or_default()
    };
    let name = own(article.name.as_ref(), &policy.news.name);
    let language = own(article.language.as_ref(), &policy.news.language).to_ascii_lowercase();
    if !is_language(&language) {
        return Err(Fault::new("news has no language of two or three letters, zh-cn or zh-tw", language));
    }
    let mut date = Vec::new();
    let dated = lastmod::canonical(article.publication_date.as_bytes(), policy.lastmod_zone.as_ref(), &mut date);
    dated.map_err(|_| Fault::new("news has no publication_date with a zone", article.publication_date.as_ref()))?;
    out.extend_from_slice(b"<news:news><news:publication><news:name>");
    write_text(&name, TEXT_CHARS_MAX, ["news has no publication name", "news has too long a publication name"], out)?;
    out.extend_from_slice(b"</news:name><news:language>");
    out.extend_from_slice(language.as_bytes());
    out.extend_from_slice(b"</news:language></news:publication><news:publication_date>");
    out.extend_from_slice(&date);
    out.extend_from_slice(b"</news:publication_date><news:title>");
    write_text(
        &article.title,
        TEXT_CHARS_MAX,
        ["news has no title", "news has a title of over 1,000 characters"],
        out,
    )?;
    out.extend_from_slice(b"</news:title></news:news>");
    let at = lastmod::instant(&date).ok_or_else(|| Fault::new("news has no publication_date with a zone", shown()))?;
    Ok(if is_older(at, &date, NEWS_HOURS, policy.now_ms) { State::Old } else { State::Recent })
}

/// Whether a publication's language, in small letters, is one.
pub(crate) fn is_language(text: &str) -> bool {
    matches!(text, "zh-cn" | "zh-tw") || (matches!(text.len(), 2 | 3) && text.bytes().all(|b| b.is_ascii_lowercase()))
}
