//! Images of a page, by Google's image sitemap 1.1 without what it has given up: `loc` alone.

use super::{Elsewhere, Fault, Item, write_address};
use serde::Deserialize;
use std::borrow::Cow;

/// Images a page may have (Google's rules for image sitemaps).
pub const IMAGES_MAX: usize = 1_000;

/// An image as an object; other fields of it are passed over.
#[derive(Debug, Deserialize)]
struct Image<'a> {
    #[serde(borrow, alias = "url")]
    loc: Cow<'a, str>,
}

/// Appends the `<image:image>` of an address, or of an object with a `loc`.
pub(super) fn append(item: &Item<'_>, places: &mut Elsewhere, out: &mut Vec<u8>) -> Result<(), Fault> {
    let loc = match (item.text(), item) {
        (Some(text), _) => text,
        (None, Item::Json(json)) => match serde_json::from_str::<Image<'_>>(json.get()) {
            Ok(image) => image.loc,
            Err(error) => return Err(Fault::new("image has no loc", format!("{} ({error})", json.get()))),
        },
        (None, Item::Plain(text)) => return Err(Fault::new("image has no loc", *text)),
    };
    out.extend_from_slice(b"<image:image><image:loc>");
    write_address(&loc, places, "image's loc is no address", out)?;
    out.extend_from_slice(b"</image:loc></image:image>");
    Ok(())
}
