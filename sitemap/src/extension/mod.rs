//! What a page says beside its address and time: images, videos, news, and its versions in other languages.
//!
//! Each comes as JSON text (lists in Parquet and NDJSON are made JSON on the way) and leaves as escaped XML in one
//! fixed form. A bad item is left out and told; its page stays, and so do the other items.

mod image;
pub mod news;
pub(crate) mod versions;
mod video;

pub use image::IMAGES_MAX;
pub use versions::VERSIONS_MAX;
pub use video::VIDEOS_MAX;

use crate::canonical::Addresses;
use crate::columns::Column;
use crate::loc::{BaseUrl, LocFault};
use crate::pages::{Policy, RawPage};
use crate::row::{EXTRA_BYTES_MAX, Namespaces, write_entities};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Why an item was left out, and what stood there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: &'static str,
    pub(crate) value: String,
}

impl Fault {
    pub(crate) fn new(reason: &'static str, value: impl Into<String>) -> Self {
        Self { reason, value: value.into() }
    }
}

/// Reads the extensions of one page after the other.
#[derive(Debug)]
pub(crate) struct Extensions {
    /// The XML of the page in hand, without the links to its versions.
    pub(crate) xml: Vec<u8>,
    pub(crate) spaces: Namespaces,
    /// The versions that the page in hand names.
    pub(crate) versions: versions::Versions,
    /// What was wrong with the page in hand.
    pub(crate) faults: Vec<Fault>,
    /// Whether the page in hand is a news article, and of the time that news are listed.
    pub(crate) news: news::State,
    elsewhere: Elsewhere,
}

impl Extensions {
    pub(crate) fn new(base: BaseUrl) -> Self {
        Self {
            xml: Vec::new(),
            spaces: Namespaces::NONE,
            versions: versions::Versions::default(),
            faults: Vec::new(),
            news: news::State::None,
            elsewhere: Elsewhere { base, last: None },
        }
    }

    /// Forgets the page in hand.
    pub(crate) fn clear(&mut self) {
        self.xml.clear();
        self.faults.clear();
        self.versions.clear();
        (self.spaces, self.news) = (Namespaces::NONE, news::State::None);
    }

    /// Reads what `page`, whose canonical address is `loc`, says of its versions, and nothing else.
    pub(crate) fn read_versions(&mut self, page: &RawPage<'_>, loc: &[u8], addresses: &Addresses) {
        self.clear();
        let versions = [Column::Alternates, Column::Group].map(|column| page.field(column));
        if versions.iter().any(|field| !field.is_empty()) {
            let places = (addresses, &mut self.elsewhere);
            self.versions.read(versions, page.field(Column::Locale), loc, places, &mut self.faults);
        }
    }

    /// Reads the extensions of `page`, whose canonical address is `loc`.
    pub(crate) fn read(&mut self, page: &RawPage<'_>, loc: &[u8], addresses: &Addresses, policy: &Policy) {
        self.read_versions(page, loc, addresses);
        let images = page.field(Column::Images);
        if !images.is_empty() {
            self.items(
                images,
                Namespaces::IMAGE,
                IMAGES_MAX,
                "more images than a page may have (1,000)",
                image::append,
            );
        }
        let videos = page.field(Column::Videos);
        if !videos.is_empty() {
            let zone = policy.lastmod_zone.as_ref();
            let mut unknown = Vec::new();
            let append = |item: &Item<'_>, places: &mut Elsewhere, out: &mut Vec<u8>| {
                video::append(item, places, zone, out, &mut unknown)
            };
            self.items(videos, Namespaces::VIDEO, VIDEOS_MAX, "more videos than are taken of a page (1,000)", append);
            self.faults.append(&mut unknown);
        }
        let article = page.field(Column::News);
        if !article.is_empty() {
            let start = self.xml.len();
            match news::append(article, policy, &mut self.xml, &mut self.faults) {
                Ok(state) => self.news = state,
                Err(fault) => self.faults.push(fault),
            }
            if self.news == news::State::Recent && self.fits(start) {
                self.spaces = self.spaces.and(Namespaces::NEWS);
            }
        }
    }

    fn items(
        &mut self,
        text: &[u8],
        space: Namespaces,
        items_max: usize,
        too_many: &'static str,
        mut append: impl FnMut(&Item<'_>, &mut Elsewhere, &mut Vec<u8>) -> Result<(), Fault>,
    ) {
        let items = match items(text) {
            Ok(items) => items,
            Err(fault) => return self.faults.push(fault),
        };
        if items.len() > items_max {
            self.faults.push(Fault::new(too_many, items.len().to_string()));
        }
        for item in items.iter().take(items_max) {
            let start = self.xml.len();
            match append(item, &mut self.elsewhere, &mut self.xml) {
                Ok(()) if self.fits(start) => self.spaces = self.spaces.and(space),
                Ok(()) => return,
                Err(fault) => {
                    self.xml.truncate(start);
                    self.faults.push(fault);
                }
            }
        }
    }

    /// Takes back what was written from `start` on where it is too much.
    fn fits(&mut self, start: usize) -> bool {
        // Links to versions are added later and have a share of their own.
        let fits = self.xml.len() <= EXTRA_BYTES_MAX / 2;
        if !fits {
            self.xml.truncate(start);
            self.faults.push(Fault::new("the extensions of the page are larger than 1 MiB", String::new()));
        }
        fits
    }
}

/// Addresses that may be on any host.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    base: BaseUrl,
    /// The host of the last address that was elsewhere: the next is likely to be on it too.
    last: Option<BaseUrl>,
}

impl Elsewhere {
    /// Appends the escaped address that `text` names: a path under the base, or absolute on any host.
    pub(crate) fn resolve(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), LocFault> {
        match self.base.resolve(text, out) {
            Err(LocFault::OtherHost) => {}
            outcome => return outcome.map(drop),
        }
        if let Some(last) = &self.last {
            match last.resolve(text, out) {
                Err(LocFault::OtherHost) => {}
                outcome => return outcome.map(drop),
            }
        }
        let host = self.base.host_of(text)?;
        host.resolve(text, out)?;
        self.last = Some(host);
        Ok(())
    }
}

/// One image, video or version, as it was given.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// Text that is no JSON: one address.
    Plain(&'a str),
    Json(&'a RawValue),
}

impl<'a> Item<'a> {
    /// The text, where the item is one.
    fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            Self::Plain(text) => Some(Cow::Borrowed(text)),
            Self::Json(json) => serde_json::from_str::<Text<'a>>(json.get()).ok().map(|text| text.0),
        }
    }

    fn shown(&self) -> &'a str {
        match self {
            Self::Plain(text) => text,
            Self::Json(json) => json.get(),
        }
    }
}

/// A text that is borrowed where it holds no escapes.
#[derive(Debug, Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// How much is told of the fields of an object that nobody knows, in bytes, and the name in which that is reached.
const UNKNOWN_BYTES_TOLD: usize = 200;

/// Reads an object. Fields of it that nobody knows are left out and told, together, for `reason`: they may be names of
/// known ones with a mistake in them, and may be somebody's own.
fn object<'a, T: Deserialize<'a>>(
    json: &'a [u8],
    reason: &'static str,
    faults: &mut Vec<Fault>,
) -> serde_json::Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let mut unknown = String::new();
    let object = serde_ignored::deserialize(&mut reader, |field| {
        if unknown.len() < UNKNOWN_BYTES_TOLD {
            unknown.push_str(if unknown.is_empty() { "" } else { ", " });
            unknown.push_str(&field.to_string());
        }
    });
    if !unknown.is_empty() {
        faults.push(Fault::new(reason, unknown));
    }
    let object = object?;
    reader.end().map(|()| object)
}

/// The items of a field: a JSON list, one JSON object or text, or plain text. Empty ones and nulls are none.
fn items(field: &[u8]) -> Result<Vec<Item<'_>>, Fault> {
    const REASON: &str = "images, videos or alternates are no JSON list";
    let wrong = |detail: String| Fault::new(REASON, detail);
    let shown = || String::from_utf8_lossy(&field[..field.len().min(200)]).into_owned();
    let text = std::str::from_utf8(field).map_err(|_| wrong(shown()))?.trim();
    let list = match text.as_bytes().first() {
        None => return Ok(Vec::new()),
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(text),
        Some(b'{' | b'"') => serde_json::from_str::<&RawValue>(text).map(|one| vec![one]),
        Some(_) if text == "null" => return Ok(Vec::new()),
        Some(_) => return Ok(vec![Item::Plain(text)]),
    };
    let list = list.map_err(|error| wrong(format!("{} ({error})", shown())))?;
    Ok(list.into_iter().filter(|item| item.get() != "null").map(Item::Json).collect())
}

/// Appends `text` as XML: line ends and tabs become spaces, space around it goes, entities are escaped.
///
/// # Errors
/// Where it holds a character that XML cannot have, has nothing in it, or has more than `chars_max` characters.
pub(crate) fn write_text(
    text: &str,
    chars_max: usize,
    faults: [&'static str; 2],
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let text = text.trim();
    let bad = |c: char| (c.is_control() && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}');
    if text.is_empty() || text.chars().any(bad) {
        return Err(Fault::new(faults[0], text));
    }
    if text.len() > chars_max && text.chars().count() > chars_max {
        return Err(Fault::new(faults[1], text));
    }
    if text.contains(['\t', '\n', '\r']) {
        write_entities(text.replace("\r\n", " ").replace(['\t', '\n', '\r'], " ").as_bytes(), out);
    } else {
        write_entities(text.as_bytes(), out);
    }
    Ok(())
}

/// Appends the address that `text` names, on any host, with its entities.
fn write_address(text: &str, places: &mut Elsewhere, reason: &'static str, out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut address = Vec::new();
    match places.resolve(text.as_bytes(), &mut address) {
        Ok(()) => write_entities(&address, out),
        Err(fault) => return Err(Fault::new(reason, format!("{text} ({fault})"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonical;

    const NOW_MS: i64 = 1_763_800_000_000;

    /// The XML and the reasons of what was left out, for one field of a page.
    fn read(column: Column, field: impl AsRef<[u8]>) -> (String, Vec<&'static str>) {
        let base = BaseUrl::parse("https://www.example.com").unwrap();
        let addresses = Addresses::new(&base, &[], &Canonical::default()).unwrap();
        let mut policy = Policy::new(base.clone(), NOW_MS);
        policy.news = news::Publication { name: Some("The Paper".into()), language: Some("en".into()) };
        let mut page = RawPage::default();
        page.fields[column as usize] = field.as_ref();
        let mut extensions = Extensions::new(base);
        extensions.read(&page, b"https://www.example.com/x", &addresses, &policy);
        let xml = String::from_utf8(extensions.xml.clone()).unwrap();
        assert_eq!(xml.is_empty(), extensions.spaces == Namespaces::NONE, "{xml}");
        (xml, extensions.faults.iter().map(|fault| fault.reason).collect())
    }

    #[test]
    fn images_come_as_a_list_an_object_or_one_address() {
        let image = |loc: &str| format!("<image:image><image:loc>{loc}</image:loc></image:image>");
        let one = image("https://www.example.com/a.jpg");
        for field in
            ["/a.jpg", "[\"/a.jpg\"]", "{\"loc\":\"/a.jpg\"}", "[{\"url\":\"/a.jpg\",\"x\":1}, null]", "\"a.jpg\""]
        {
            assert_eq!(read(Column::Images, field), (one.clone(), vec![]), "{field}");
        }
        let (xml, _) =
            read(Column::Images, r#"["https://cdn.example.net/é?a&b", "//cdn.example.net/2", "//c.example.org/3"]"#);
        let all = ["https://cdn.example.net/%C3%A9?a&amp;b", "https://cdn.example.net/2", "https://c.example.org/3"];
        assert_eq!(xml, all.map(image).concat());
    }

    #[test]
    fn a_bad_image_is_left_out_and_the_others_stay() {
        let (xml, faults) = read(Column::Images, r#"["/a\tb","/ok.jpg",{"lock":"/x"},"\ud800","ftp://x/y", 7]"#);
        assert_eq!(xml.matches("<image:loc>").count(), 1);
        assert_eq!(faults.len(), 5);
        assert_eq!(read(Column::Images, "[\"/a\"").1.len(), 1);
        assert_eq!(read(Column::Images, b"[\"/\xff\"]").1.len(), 1);
        let many: Vec<String> = (0..=IMAGES_MAX).map(|n| format!("/{n:07}")).collect();
        let (xml, faults) = read(Column::Images, serde_json::to_string(&many).unwrap());
        assert_eq!((xml.matches("<image:loc>").count(), faults.len()), (IMAGES_MAX, 1));
        let large: Vec<String> = (0..IMAGES_MAX).map(|n| format!("/{n:02000}")).collect();
        let (xml, faults) = read(Column::Images, serde_json::to_string(&large).unwrap());
        assert!(xml.len() <= EXTRA_BYTES_MAX / 2 && xml.ends_with("</image:image>") && faults.len() == 1);
    }

    const VIDEO: &str = r#"{"title":"A <b> & c","thumbnail_loc":"/t.jpg","live":false,"description":"two\nlines",
        "tags":["x","y"],"duration":60,"rating":4.5,"player_loc":"https://p.example/?v=1&w","view_count":"7",
        "publication_date":"2025-11-01","family_friendly":true,"restriction":{"relationship":"deny","countries":["DE","FR"]},
        "platform":{"relationship":"allow","platforms":["web"]},"uploader":"U","requires_subscription":"no"}"#;

    #[test]
    fn a_video_is_in_the_order_of_the_schema() {
        let (xml, faults) = read(Column::Videos, VIDEO);
        assert_eq!(faults, Vec::<&str>::new());
        assert_eq!(
            xml,
            "<video:video><video:thumbnail_loc>https://www.example.com/t.jpg</video:thumbnail_loc>\
             <video:title>A &lt;b&gt; &amp; c</video:title><video:description>two lines</video:description>\
             <video:player_loc>https://p.example/?v=1&amp;w</video:player_loc><video:duration>60</video:duration>\
             <video:rating>4.5</video:rating><video:view_count>7</video:view_count>\
             <video:publication_date>2025-11-01</video:publication_date><video:tag>x</video:tag><video:tag>y</video:tag>\
             <video:family_friendly>yes</video:family_friendly>\
             <video:restriction relationship=\"deny\">DE FR</video:restriction>\
             <video:requires_subscription>no</video:requires_subscription><video:uploader>U</video:uploader>\
             <video:platform relationship=\"allow\">web</video:platform><video:live>no</video:live></video:video>"
        );
    }

    #[test]
    fn a_video_outside_the_schema_is_left_out() {
        let cases = [
            ("\"title\":\"A <b> & c\",", String::new()),
            ("A <b> & c", "x".repeat(101)),
            ("A <b> & c", " ".to_owned()),
            ("A <b> & c", "\\u0007".to_owned()),
            ("A <b> & c", "\\ud800".to_owned()),
            ("two\\nlines", "x".repeat(2049)),
            ("\"player_loc\":\"https://p.example/?v=1&w\",", String::new()),
            ("https://p.example/?v=1&w", "ftp://p.example/".to_owned()),
            ("\"duration\":60", "\"duration\":0".to_owned()),
            ("\"duration\":60", "\"duration\":28801".to_owned()),
            ("4.5", "5.1".to_owned()),
            ("4.5", "-1".to_owned()),
            ("2025-11-01", "yesterday".to_owned()),
            ("\"family_friendly\":true", "\"family_friendly\":1".to_owned()),
            ("deny", "maybe".to_owned()),
            ("\"FR\"", "\"France\"".to_owned()),
            ("\"web\"", "\"radio\"".to_owned()),
            ("\"x\",\"y\"", vec!["\"t\""; 33].join(",")),
        ];
        for (good, bad) in cases {
            let field = VIDEO.replace(good, &bad);
            assert_ne!(field, VIDEO);
            let (xml, faults) = read(Column::Videos, format!("[{field},{VIDEO}]"));
            assert_eq!((xml.matches("<video:video>").count(), faults.len()), (1, 1), "{good} -> {bad}");
        }
    }

    #[test]
    fn a_field_that_nobody_knows_is_left_out_and_told_and_the_rest_stays() {
        let mistaken = VIDEO
            .replace("\"uploader\"", "\"uploder\"")
            .replace("\"deny\"", "\"deny\",\"n\":1")
            .replace("{\"title\"", "{\"id\":{\"a\":[1]},\"title\"");
        let (xml, faults) = read(Column::Videos, format!("[{mistaken},{VIDEO}]"));
        assert_eq!((xml.matches("<video:video>").count(), xml.matches("<video:uploader>").count()), (2, 1));
        assert_eq!(faults, ["video has a field that is not known"], "both in one");
        let article = r#"{"publication_date":"2025-11-22","title":"x","genres":"Blog"}"#;
        let (xml, faults) = read(Column::News, article);
        assert!(xml.contains("<news:title>x</news:title>"), "{xml}");
        assert_eq!(faults, ["news has a field that is not known"]);
    }

    #[test]
    fn one_tag_of_a_video_needs_no_list() {
        let (xml, faults) = read(Column::Videos, VIDEO.replace("[\"x\",\"y\"]", "\"x y\""));
        assert_eq!((xml.matches("<video:tag>").count(), faults.len()), (1, 0));
        assert!(xml.contains("<video:tag>x y</video:tag>"), "{xml}");
    }

    #[test]
    fn news_of_the_last_two_days_is_written_with_what_the_site_has_in_common() {
        let (xml, _) = read(Column::News, r#"{"publication_date":"2025-11-21T10:00:00Z","title":"Fire & <rain>"}"#);
        assert_eq!(
            xml,
            "<news:news><news:publication><news:name>The Paper</news:name><news:language>en</news:language>\
             </news:publication><news:publication_date>2025-11-21T10:00:00Z</news:publication_date>\
             <news:title>Fire &amp; &lt;rain&gt;</news:title></news:news>"
        );
        let own = r#"{"publication_date":"2025-11-22","title":"x","name":"Die Zeitung","language":"DE"}"#;
        assert!(read(Column::News, own).0.contains("<news:name>Die Zeitung</news:name><news:language>de<"));
        assert_eq!(read(Column::News, r#"{"publication_date":"2025-11-19","title":"x"}"#), (String::new(), vec![]));
        for bad in [
            r#"{"publication_date":"2025-11-22"}"#,
            r#"{"publication_date":"2025-11-22T10:00:00","title":"x"}"#,
            r#"{"publication_date":"2025-11-22","title":"x","language":"english"}"#,
            r#"{"publication_date":"2025-11-22","title":"x","name":""}"#,
            r#"{"publication_date":"2025-11-22","title":""}"#,
            "[]",
            "news",
        ] {
            assert_eq!(read(Column::News, bad).1.len(), 1, "{bad}");
        }
    }
}
