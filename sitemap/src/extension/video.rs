//! Videos of a page, by Google's video sitemap 1.1: elements in the order of its schema, values in its bounds. What
//! Google has given up (category, gallery_loc, price, tvshow) is not taken.

use super::{Elsewhere, Fault, Item, Text, object, write_address, write_text};
use crate::lastmod;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Videos that are taken of a page.
pub const VIDEOS_MAX: usize = 1_000;
/// Longest title, in characters (the schema's, as are the next four).
const TITLE_CHARS_MAX: usize = 100;
const DESCRIPTION_CHARS_MAX: usize = 2_048;
const UPLOADER_CHARS_MAX: usize = 255;
const TAGS_MAX: usize = 32;
const DURATION_SECONDS_MAX: u64 = 28_800;
/// Longest tag that is taken, in characters.
const TAG_CHARS_MAX: usize = 256;

#[derive(Debug, Deserialize)]
struct Video<'a> {
    #[serde(borrow)]
    thumbnail_loc: Text<'a>,
    #[serde(borrow)]
    title: Text<'a>,
    #[serde(borrow)]
    description: Text<'a>,
    #[serde(borrow)]
    content_loc: Option<Text<'a>>,
    #[serde(borrow)]
    player_loc: Option<Text<'a>>,
    /// In seconds.
    #[serde(borrow)]
    duration: Option<&'a RawValue>,
    #[serde(borrow)]
    expiration_date: Option<Text<'a>>,
    #[serde(borrow)]
    rating: Option<&'a RawValue>,
    #[serde(borrow)]
    view_count: Option<&'a RawValue>,
    #[serde(borrow)]
    publication_date: Option<Text<'a>>,
    #[serde(borrow, default, alias = "tag")]
    tags: Option<Tags<'a>>,
    #[serde(borrow)]
    family_friendly: Option<&'a RawValue>,
    #[serde(borrow)]
    restriction: Option<Among<'a>>,
    #[serde(borrow)]
    requires_subscription: Option<&'a RawValue>,
    #[serde(borrow)]
    uploader: Option<Text<'a>>,
    #[serde(borrow)]
    platform: Option<Among<'a>>,
    #[serde(borrow)]
    live: Option<&'a RawValue>,
}

/// What a video is about.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "tags are neither a text nor a list of texts")]
enum Tags<'a> {
    Many(#[serde(borrow)] Vec<Text<'a>>),
    One(#[serde(borrow)] Text<'a>),
}

/// Where a video may be seen, or may not.
#[derive(Debug, Deserialize)]
struct Among<'a> {
    #[serde(borrow)]
    relationship: Text<'a>,
    #[serde(borrow, alias = "countries", alias = "platforms")]
    values: Vec<Text<'a>>,
}

/// Appends the `<video:video>` of an object; what of it is not known goes to `unknown`.
pub(super) fn append(
    item: &Item<'_>,
    places: &mut Elsewhere,
    zone: Option<&TimeZone>,
    out: &mut Vec<u8>,
    unknown: &mut Vec<Fault>,
) -> Result<(), Fault> {
    const REASON: &str = "video is no object with thumbnail_loc, title and description";
    let Item::Json(json) = item else { return Err(Fault::new(REASON, item.shown())) };
    let video: Video<'_> = object(json.get().as_bytes(), "video has a field that is not known", unknown)
        .map_err(|error| Fault::new(REASON, format!("{} ({error})", json.get())))?;
    if video.content_loc.is_none() && video.player_loc.is_none() {
        return Err(Fault::new("video has neither content_loc nor player_loc", json.get()));
    }
    out.extend_from_slice(b"<video:video>");
    let mut write = Writer { places, zone, out };
    write.address("thumbnail_loc", Some(&video.thumbnail_loc))?;
    write.text("title", Some(&video.title), TITLE_CHARS_MAX)?;
    write.text("description", Some(&video.description), DESCRIPTION_CHARS_MAX)?;
    write.address("content_loc", video.content_loc.as_ref())?;
    write.address("player_loc", video.player_loc.as_ref())?;
    write.number("duration", video.duration, |text| {
        text.parse::<u64>().is_ok_and(|seconds| (1..=DURATION_SECONDS_MAX).contains(&seconds))
    })?;
    write.time("expiration_date", video.expiration_date.as_ref())?;
    write.number("rating", video.rating, is_rating)?;
    write.number("view_count", video.view_count, |text| text.parse::<u64>().is_ok())?;
    write.time("publication_date", video.publication_date.as_ref())?;
    let tags = match video.tags {
        None => Vec::new(),
        Some(Tags::One(tag)) => vec![tag],
        Some(Tags::Many(tags)) => tags,
    };
    if tags.len() > TAGS_MAX {
        return Err(Fault::new("video has more than 32 tags", tags.len().to_string()));
    }
    for tag in &tags {
        write.text("tag", Some(tag), TAG_CHARS_MAX)?;
    }
    write.flag("family_friendly", video.family_friendly)?;
    write.among("restriction", video.restriction.as_ref(), is_country)?;
    write.flag("requires_subscription", video.requires_subscription)?;
    write.text("uploader", video.uploader.as_ref(), UPLOADER_CHARS_MAX)?;
    write.among("platform", video.platform.as_ref(), |text| matches!(text, "web" | "mobile" | "tv"))?;
    write.flag("live", video.live)?;
    out.extend_from_slice(b"</video:video>");
    Ok(())
}

fn is_rating(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let decimal = match text.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(text),
    };
    decimal && text.len() <= 8 && text.parse::<f64>().is_ok_and(|rating| (0.0..=5.0).contains(&rating))
}

/// ISO 3166-1, as the schema spells it: two capital letters.
fn is_country(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase())
}

struct Writer<'w> {
    places: &'w mut Elsewhere,
    zone: Option<&'w TimeZone>,
    out: &'w mut Vec<u8>,
}

impl Writer<'_> {
    fn element(&mut self, tag: &str, write: impl FnOnce(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.out.extend_from_slice(format!("<video:{tag}>").as_bytes());
        write(self)?;
        self.out.extend_from_slice(format!("</video:{tag}>").as_bytes());
        Ok(())
    }

    fn address(&mut self, tag: &str, text: Option<&Text<'_>>) -> Result<(), Fault> {
        let Some(text) = text else { return Ok(()) };
        self.element(tag, |to| write_address(&text.0, to.places, "an address of a video is none", to.out))
    }

    fn text(&mut self, tag: &str, text: Option<&Text<'_>>, chars_max: usize) -> Result<(), Fault> {
        let Some(text) = text else { return Ok(()) };
        let faults = ["a text of a video is empty or holds a control character", "a text of a video is too long"];
        self.element(tag, |to| write_text(&text.0, chars_max, faults, to.out))
    }

    fn time(&mut self, tag: &str, text: Option<&Text<'_>>) -> Result<(), Fault> {
        let Some(text) = text else { return Ok(()) };
        self.element(tag, |to| {
            lastmod::canonical(text.0.as_bytes(), to.zone, to.out)
                .map_err(|_| Fault::new("a time of a video is none with a zone", text.0.as_ref()))
        })
    }

    /// A number, also as text.
    fn number(&mut self, tag: &str, json: Option<&RawValue>, good: impl Fn(&str) -> bool) -> Result<(), Fault> {
        let Some(json) = json.filter(|json| json.get() != "null") else { return Ok(()) };
        let text = json.get().trim_matches('"');
        if !good(text) {
            return Err(Fault::new("a number of a video is out of its bounds", format!("{tag} {text}")));
        }
        self.element(tag, |to| {
            to.out.extend_from_slice(text.as_bytes());
            Ok(())
        })
    }

    fn flag(&mut self, tag: &str, json: Option<&RawValue>) -> Result<(), Fault> {
        let Some(json) = json.filter(|json| json.get() != "null") else { return Ok(()) };
        let word = match json.get().trim_matches('"').to_ascii_lowercase().as_str() {
            "true" | "yes" => "yes",
            "false" | "no" => "no",
            other => return Err(Fault::new("a flag of a video is neither yes nor no", format!("{tag} {other}"))),
        };
        self.element(tag, |to| {
            to.out.extend_from_slice(word.as_bytes());
            Ok(())
        })
    }

    fn among(&mut self, tag: &str, among: Option<&Among<'_>>, good: impl Fn(&str) -> bool) -> Result<(), Fault> {
        let Some(among) = among else { return Ok(()) };
        let relationship = among.relationship.0.as_ref();
        let known = matches!(relationship, "allow" | "deny") && !among.values.is_empty();
        if !known || !among.values.iter().all(|value| good(&value.0)) {
            return Err(Fault::new("a restriction of a video is none of the schema's", format!("{tag} {among:?}")));
        }
        let values: Vec<&str> = among.values.iter().map(|value| value.0.as_ref()).collect();
        let element = format!("<video:{tag} relationship=\"{relationship}\">{}</video:{tag}>", values.join(" "));
        self.out.extend_from_slice(element.as_bytes());
        Ok(())
    }
}
