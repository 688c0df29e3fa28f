//! NDJSON: one JSON object a line; numbers and booleans may stand where they make sense.

use super::{CHUNK_BYTES, ROW_BYTES_MAX, Sink, SourceError};
use crate::pages::RawPage;
use serde::Deserialize;
use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// A value that may be text, a number or a boolean.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar<'a> {
    Flag(bool),
    Number(serde_json::Number),
    #[serde(borrow)]
    Text(Cow<'a, str>),
}

impl Scalar<'_> {
    fn into_text(self) -> String {
        match self {
            Self::Flag(flag) => flag.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.into_owned(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct JsonPage<'a> {
    loc: Option<String>,
    lastmod: Option<String>,
    changefreq: Option<String>,
    #[serde(borrow)]
    priority: Option<Scalar<'a>>,
    #[serde(borrow)]
    index: Option<Scalar<'a>>,
    #[serde(borrow)]
    status: Option<Scalar<'a>>,
}

pub(super) fn read<T: Sink>(path: &Path, reader: &mut dyn Read, sink: &mut T) -> Result<(), SourceError<T::Stop>> {
    let mut reader = BufReader::with_capacity(CHUNK_BYTES, reader);
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let count = (&mut reader).take(ROW_BYTES_MAX as u64 + 1).read_until(b'\n', &mut text);
        let broken = |problem| SourceError::Broken { path: path.to_owned(), line, problem };
        if count.map_err(|error| broken(format!("cannot be read: {error}")))? == 0 {
            break;
        }
        if text.len() > ROW_BYTES_MAX {
            return Err(broken("the line is longer than 4 MiB: write one JSON object a line".to_owned()));
        }
        let object = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text).trim_ascii();
        if !object.is_empty() {
            give(object, line, sink).map_err(SourceError::Stopped)?;
        }
    }
    Ok(())
}

fn give<T: Sink>(object: &[u8], line: u64, sink: &mut T) -> Result<(), T::Stop> {
    let page: JsonPage<'_> = match serde_json::from_slice(object) {
        Ok(page) => page,
        Err(error) => return sink.refuse(line, "line is not a JSON object of a page", object, &error.to_string()),
    };
    let text = |value: Option<Scalar<'_>>| value.map(Scalar::into_text).unwrap_or_default();
    let fields = [
        page.loc.unwrap_or_default(),
        page.lastmod.unwrap_or_default(),
        page.changefreq.unwrap_or_default(),
        text(page.priority),
        text(page.index),
        text(page.status),
    ];
    sink.page(&RawPage { fields: fields.each_ref().map(String::as_bytes), line })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::Kept;

    fn parse(text: &[u8]) -> Kept {
        let mut kept = Kept::default();
        read(Path::new("pages.ndjson"), &mut { text }, &mut kept).unwrap();
        kept
    }

    #[test]
    fn objects_are_read_whatever_their_order_and_spelling() {
        let kept = parse(
            "{\"lastmod\":\"2025-11-22\",\"loc\":\"/caf\\u00e9\",\"more\":{\"x\":[1]}}\n\n\
             {\"loc\":\"/b\",\"priority\":0.5,\"status\":404,\"index\":false,\"lastmod\":null}\r\n\
             {\"loc\":\"/\\ud83d\\ude00\",\"priority\":\"1.0\"}"
                .as_bytes(),
        );
        let fields: Vec<_> = kept.pages.iter().map(|(line, f)| (*line, f.join("|"))).collect();
        assert_eq!(
            fields,
            [(1, "/café|2025-11-22||||".into()), (3, "/b|||0.5|false|404".into()), (4, "/😀|||1.0||".into())]
        );
    }

    #[test]
    fn a_line_that_is_no_page_is_refused_and_the_next_is_read() {
        let kept =
            parse(b"{\"loc\":\"/\\ud800\"}\n{\"loc\":1}\nnot json\n[1]\n{\"loc\":\"/\xff\"}\n{\"loc\":\"/ok\"}\n");
        assert_eq!(kept.refused.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(kept.pages.len(), 1);
        assert!(kept.refused[0].1.contains("escape"), "{:?}", kept.refused[0]);
    }
}
