//! The versions of a page in other languages, as the page itself tells of them: by a list of alternates, or by a group
//! that it has in common with them. What comes of what all pages tell is [`crate::closure`]'s.

use super::{Elsewhere, Fault, Item, Text, items};
use crate::canonical::Addresses;
use crate::loc::LocFault;
use serde::Deserialize;
use std::collections::BTreeMap;
use twox_hash::XxHash3_128;

/// Versions that a page may have. Each of them lists all of them, so what is written grows with the square.
pub const VERSIONS_MAX: usize = 256;

/// What one page says of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// The canonical language, or `x-default`.
    pub(crate) hreflang: String,
    /// The canonical address.
    pub(crate) href: Vec<u8>,
    /// Whether it is on a host of the site, where it must be in the page list too.
    pub(crate) ours: bool,
}

/// What one page says of its versions.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    /// What the versions of one page have in common; `None` where the page says nothing.
    pub(crate) key: Option<u128>,
    pub(crate) statements: Vec<Statement>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alternate<'a> {
    #[serde(borrow, alias = "lang", alias = "locale")]
    hreflang: Text<'a>,
    #[serde(borrow, alias = "loc", alias = "url")]
    href: Text<'a>,
}

impl Versions {
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        self.key = None;
        self.statements.clear();
    }

    /// Reads what the page at `loc` says in `alternates` and `group`, and by its own `locale`.
    pub(super) fn read(
        &mut self,
        [alternates, group]: [&[u8]; 2],
        locale: &[u8],
        loc: &[u8],
        (addresses, elsewhere): (&Addresses, &mut Elsewhere),
        faults: &mut Vec<Fault>,
    ) {
        if !alternates.is_empty() {
            match listed(alternates) {
                Ok(list) => {
                    for (hreflang, href) in list {
                        match statement(&hreflang, &href, addresses, elsewhere) {
                            Ok(statement) if self.statements.len() < VERSIONS_MAX => self.statements.push(statement),
                            Ok(_) => {
                                faults.push(Fault::new("more alternates than a page may have (256)", href));
                                break;
                            }
                            Err(fault) => faults.push(fault),
                        }
                    }
                }
                Err(mut some) => faults.append(&mut some),
            }
        }
        let group = group.trim_ascii();
        let locale = String::from_utf8_lossy(locale.trim_ascii());
        if !locale.is_empty() && (!group.is_empty() || !self.statements.is_empty()) {
            match hreflang(&locale) {
                Some(hreflang) => self.statements.push(Statement { hreflang, href: loc.to_vec(), ours: true }),
                None => faults.push(Fault::new(NO_LANGUAGE, locale)),
            }
        } else if !group.is_empty() && self.statements.is_empty() {
            faults.push(Fault::new("group without a locale", String::from_utf8_lossy(group)));
        }
        self.key = if group.is_empty() {
            list_key(loc, &self.statements)
        } else {
            (!self.statements.is_empty()).then(|| XxHash3_128::oneshot(&[b"group\n", group].concat()))
        };
        if self.key.is_none() {
            self.statements.clear();
        }
    }
}

/// What the pages of one list have in common: the least of their addresses. The default for all other languages counts
/// only where it stands for a language too, since it is often one page for the whole site.
pub(crate) fn list_key(loc: &[u8], statements: &[Statement]) -> Option<u128> {
    if statements.iter().all(|statement| statement.href == loc) {
        return None;
    }
    let (defaults, named): (Vec<_>, Vec<_>) = statements.iter().partition(|statement| statement.hreflang == X_DEFAULT);
    let is_in = |list: &[&Statement]| list.iter().any(|statement| statement.href == loc);
    let itself = (is_in(&named) || !is_in(&defaults)).then_some(loc);
    let first = named.iter().map(|statement| statement.href.as_slice()).chain(itself).min();
    Some(XxHash3_128::oneshot(first.unwrap_or(loc)))
}

/// The language of what is shown to everybody else.
pub(crate) const X_DEFAULT: &str = "x-default";

const NO_LANGUAGE: &str = "hreflang is no language, with a script or a region at most, and not x-default";

/// Language and address of each alternate: a list of objects, or one object from language to address.
fn listed(field: &[u8]) -> Result<Vec<(String, String)>, Vec<Fault>> {
    const REASON: &str = "alternate is no object with hreflang and href";
    let field = field.trim_ascii();
    if field.starts_with(b"{")
        && let Ok(map) = serde_json::from_slice::<BTreeMap<String, Option<String>>>(field)
        && !map.contains_key("hreflang")
    {
        return Ok(map.into_iter().filter_map(|(hreflang, href)| Some((hreflang, href?))).collect());
    }
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for item in items(field).map_err(|fault| vec![fault])? {
        let parsed = match &item {
            Item::Json(json) => serde_json::from_str::<Alternate<'_>>(json.get()).ok(),
            Item::Plain(_) => None,
        };
        match parsed {
            Some(alternate) => good.push((alternate.hreflang.0.into_owned(), alternate.href.0.into_owned())),
            None => bad.push(Fault::new(REASON, item.shown())),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

fn statement(language: &str, href: &str, addresses: &Addresses, elsewhere: &mut Elsewhere) -> Result<Statement, Fault> {
    const REASON: &str = "alternate's href is no address";
    let hreflang = hreflang(language).ok_or_else(|| Fault::new(NO_LANGUAGE, language))?;
    let mut address = Vec::new();
    let bad = |fault: LocFault| Fault::new(REASON, format!("{href} ({fault})"));
    let ours = match addresses.resolve(href.as_bytes(), &mut address) {
        Ok(_) => true,
        Err(LocFault::OtherHost) => elsewhere.resolve(href.as_bytes(), &mut address).map(|()| false).map_err(bad)?,
        Err(fault) => return Err(bad(fault)),
    };
    Ok(Statement { hreflang, href: address, ours })
}

/// The canonical form of a language: `x-default`, or BCP 47 as search engines take it, which is a language of two or
/// three letters (ISO 639), then perhaps a script of four (ISO 15924), then perhaps a region of two letters or three
/// digits (ISO 3166-1, UN M.49). Letter case does not count, and `_` is taken for `-`. UK, which people write for GB, is
/// no region.
pub(crate) fn hreflang(text: &str) -> Option<String> {
    let lower = text.trim().to_ascii_lowercase().replace('_', "-");
    if lower == "x-default" {
        return Some(lower);
    }
    let mut parts = lower.split('-');
    let letters = |part: &str| part.bytes().all(|b| b.is_ascii_lowercase());
    let language = parts.next().filter(|part| matches!(part.len(), 2 | 3) && letters(part))?;
    let mut out = language.to_owned();
    let mut part = parts.next();
    if let Some(script) = part.filter(|part| part.len() == 4 && letters(part)) {
        out.push('-');
        out.push_str(&script[..1].to_ascii_uppercase());
        out.push_str(&script[1..]);
        part = parts.next();
    }
    if let Some(region) = part {
        let digits = region.len() == 3 && region.bytes().all(|b| b.is_ascii_digit());
        if !(digits || (region.len() == 2 && letters(region) && region != "uk")) {
            return None;
        }
        out.push('-');
        out.push_str(&region.to_ascii_uppercase());
    }
    parts.next().is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_put_into_form_or_refused() {
        let cases = [
            ("de", "de"),
            ("EN-us", "en-US"),
            ("pt_BR", "pt-BR"),
            ("zh-hant-TW", "zh-Hant-TW"),
            ("es-419", "es-419"),
            ("X-Default", "x-default"),
            (" fil ", "fil"),
        ];
        for (given, wanted) in cases {
            assert_eq!(hreflang(given).as_deref(), Some(wanted), "{given}");
        }
        for bad in ["", "d", "german", "en-UK", "en-", "en-USA", "de-1", "en-US-x", "x", "default", "e1", "日本"] {
            assert_eq!(hreflang(bad), None, "{bad}");
        }
    }
}
