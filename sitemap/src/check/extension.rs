//! What Google's extensions of a sitemap ask: images, videos, news, and alternates in other languages.
//!
//! Rules: <https://developers.google.com/search/docs/crawling-indexing/sitemaps/image-sitemaps>, and the pages on
//! video, news and localised sitemaps beside it.

use super::document::{address, is_time_or_minute, shown};
use crate::extension::{news, versions};

const IMAGE: &str = "http://www.google.com/schemas/sitemap-image/1.1";
const VIDEO: &str = "http://www.google.com/schemas/sitemap-video/1.1";
const NEWS: &str = "http://www.google.com/schemas/sitemap-news/0.9";
const XHTML: &str = "http://www.w3.org/1999/xhtml";

/// Images a page may name.
const IMAGES_MAX: usize = 1_000;
/// Tags a video may have.
const TAGS_MAX: usize = 32;
/// Characters of a video's description.
const DESCRIPTION_CHARS_MAX: usize = 2_048;
/// Seconds a video may last: eight hours.
const DURATION_S_MAX: u32 = 28_800;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Image,
    Video,
    News,
    Alternate,
    /// An element that does not stand under `<url>`.
    Misplaced,
    /// Somebody else's, which is not looked at.
    Foreign,
}

/// An element of another namespace in a `<url>`.
#[derive(Debug)]
pub(super) struct Extension {
    kind: Kind,
    name: String,
    pub(super) line: usize,
    /// Line, path below this element, and text.
    pub(super) fields: Vec<(usize, String, String)>,
    language: String,
    /// As it is compared: see [`address`].
    href: String,
    has_address: bool,
}

type Problems = Vec<(usize, String)>;

impl Extension {
    pub(super) fn new(space: &str, name: &str, line: usize, attribute: impl Fn(&str) -> Option<String>) -> Self {
        let alternate = || attribute("rel").is_some_and(|rel| rel.eq_ignore_ascii_case("alternate"));
        let kind = match (space, name) {
            (IMAGE, "image") => Kind::Image,
            (VIDEO, "video") => Kind::Video,
            (NEWS, "news") => Kind::News,
            (XHTML, "link") if alternate() => Kind::Alternate,
            (IMAGE | VIDEO | NEWS | XHTML | "", _) => Kind::Misplaced,
            _ => Kind::Foreign,
        };
        let [language, href] = ["hreflang", "href"].map(|name| attribute(name).unwrap_or_default());
        let usual = address(&href);
        let (has_address, href) = (usual.is_some(), usual.unwrap_or(href));
        Self { kind, name: name.to_owned(), line, fields: Vec::new(), language, href, has_address }
    }

    /// Whether it is of a namespace that is nobody's here.
    pub(super) fn is_foreign(&self) -> bool {
        self.kind == Kind::Foreign
    }

    /// Whether it is of a news sitemap.
    pub(super) fn is_news(&self) -> bool {
        self.kind == Kind::News
    }

    /// When the news was published, with the line.
    pub(super) fn published(&self) -> Option<(usize, &str)> {
        let date = self.fields.iter().find(|(_, path, _)| self.is_news() && path == "publication_date");
        date.map(|(line, _, text)| (*line, text.as_str()))
    }

    /// The page in another language, if it is one.
    pub(super) fn alternate(&self) -> Option<&str> {
        (self.kind == Kind::Alternate).then_some(self.href.as_str())
    }

    /// What is wrong with it by itself, with the lines.
    pub(super) fn problems(&self) -> Problems {
        let mut problems = Problems::new();
        match self.kind {
            Kind::Image => self.fields(&["loc"], &["caption", "geo_location", "title", "license"], &mut problems),
            Kind::Video => self.video(&mut problems),
            Kind::News => {
                let required = ["publication", "publication/name", "publication/language", "publication_date", "title"];
                let optional = ["access", "genres", "keywords", "stock_tickers"];
                self.fields(&required, &optional, &mut problems);
            }
            Kind::Alternate => self.link(&mut problems),
            Kind::Foreign => {}
            Kind::Misplaced => problems.push((self.line, format!("<{}> does not belong under <url>", self.name))),
        }
        problems
    }

    fn video(&self, problems: &mut Problems) {
        const OPTIONAL: [&str; 17] = [
            "content_loc",
            "player_loc",
            "duration",
            "expiration_date",
            "rating",
            "view_count",
            "publication_date",
            "family_friendly",
            "restriction",
            "price",
            "requires_subscription",
            "uploader",
            "platform",
            "live",
            "tag",
            "category",
            "gallery_loc",
        ];
        self.fields(&["thumbnail_loc", "title", "description"], &OPTIONAL, problems);
        if !self.fields.iter().any(|(_, path, _)| path == "content_loc" || path == "player_loc") {
            problems.push((self.line, "a video has neither content_loc nor player_loc".to_owned()));
        }
        if self.fields.iter().filter(|(_, path, _)| path == "tag").count() > TAGS_MAX {
            problems.push((self.line, format!("a video has more than {TAGS_MAX} tags")));
        }
    }

    /// Every required field is there, none is unknown, and each value is one.
    fn fields(&self, required: &[&str], optional: &[&str], problems: &mut Problems) {
        for name in required {
            if !self
                .fields
                .iter()
                .any(|(_, path, text)| path == name && (*name == "publication" || !text.trim().is_empty()))
            {
                problems.push((self.line, format!("<{}> has no {name}", self.name)));
            }
        }
        for (line, path, text) in &self.fields {
            if !required.contains(&path.as_str()) && !optional.contains(&path.as_str()) {
                problems.push((*line, format!("<{path}> is not known in <{}>", self.name)));
            } else if !is_good(path, text) {
                problems.push((*line, format!("<{path}> holds {:?}", shown(text))));
            }
        }
    }

    fn link(&self, problems: &mut Problems) {
        if versions::hreflang(&self.language).is_none() || self.language.contains('_') {
            problems.push((self.line, format!("hreflang {:?} is no language", shown(&self.language))));
        }
        if !self.has_address {
            problems.push((self.line, format!("{:?} is not a valid, escaped address", shown(&self.href))));
        }
    }
}

/// What is wrong with all of a page's extensions together; `loc` is the page.
pub(super) fn together(extensions: &[Extension], loc: &str) -> Problems {
    let mut problems = Problems::new();
    if let Some(over) = extensions.iter().filter(|extension| extension.kind == Kind::Image).nth(IMAGES_MAX) {
        problems.push((over.line, format!("a page has more than {IMAGES_MAX} images")));
    }
    if let Some(second) = extensions.iter().filter(|extension| extension.is_news()).nth(1) {
        problems.push((second.line, "a page has more than one <news>".to_owned()));
    }
    let links: Vec<&Extension> = extensions.iter().filter(|extension| extension.kind == Kind::Alternate).collect();
    if let Some(first) = links.first()
        && !links.iter().any(|link| link.href == loc)
    {
        problems.push((first.line, "the alternates of a page do not name the page itself".to_owned()));
    }
    for (at, link) in links.iter().enumerate() {
        if links[..at].iter().any(|before| before.language.eq_ignore_ascii_case(&link.language)) {
            problems.push((link.line, format!("hreflang {:?} stands twice", link.language)));
        }
    }
    problems
}

fn is_good(path: &str, text: &str) -> bool {
    let number = |max: u32| text.parse::<u32>().is_ok_and(|number| (1..=max).contains(&number));
    match path {
        "loc" | "thumbnail_loc" | "content_loc" | "player_loc" | "license" => address(text).is_some(),
        "publication_date" | "expiration_date" => is_time_or_minute(text),
        "duration" => number(DURATION_S_MAX),
        "rating" => text.parse::<f32>().is_ok_and(|rating| (0.0..=5.0).contains(&rating)),
        "view_count" => text.parse::<u64>().is_ok(),
        "family_friendly" | "requires_subscription" | "live" => matches!(text, "yes" | "no"),
        "description" => text.chars().count() <= DESCRIPTION_CHARS_MAX,
        "publication/language" => news::is_language(&text.to_ascii_lowercase()),
        _ => true,
    }
}
