//! NDJSON: one JSON object a line; numbers and booleans may stand where they make sense.

use super::{CHUNK_BYTES, ROW_BYTES_MAX, Sink, SourceError, unreadable};
use crate::columns::{COLUMNS, Column, Columns};
use crate::pages::RawPage;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The values of a line that have a column, as they stand there.
type Values<'a> = [Option<&'a RawValue>; COLUMNS.len()];

/// Picks the columns out of an object.
struct Pick<'c>(&'c Columns);

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Values<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Values<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = Values::default();
        while let Some(Name(name)) = map.next_key()? {
            match self.0.find(&name) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(column) => {
                    if values[column].replace(map.next_value()?).is_some() {
                        return Err(de::Error::custom(format!("{name} comes twice")));
                    }
                }
            }
        }
        Ok(values)
    }
}

/// A name that is borrowed where it holds no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// What a value means as a field of `column`: text as it is, and all else as JSON, where the column is JSON or where what
/// makes no sense costs the field alone and not the page.
fn field<'a>(column: usize, value: &'a RawValue) -> Result<Cow<'a, str>, String> {
    let json = value.get();
    let is_one_of = |columns: &[Column]| columns.iter().any(|one| *one as usize == column);
    let scalar_too = !is_one_of(&[Column::Loc]);
    let whole =
        column >= Column::Alternates as usize || is_one_of(&[Column::Lastmod, Column::Changefreq, Column::Priority]);
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<Name<'a>>(json)
            .map(|name| name.0)
            .map_err(|error| format!("{}: {error}", COLUMNS[column])),
        Some(b'n') => Ok(Cow::Borrowed("")),
        Some(b'[' | b'{') if whole => Ok(Cow::Borrowed(json)),
        Some(b't' | b'f' | b'-' | b'0'..=b'9') if scalar_too => Ok(Cow::Borrowed(json)),
        _ => Err(format!("{} cannot be {}", COLUMNS[column], json.chars().take(40).collect::<String>())),
    }
}

pub(super) fn read<T: Sink>(path: &Path, reader: &mut dyn Read, sink: &mut T) -> Result<(), SourceError<T::Stop>> {
    let mut reader = BufReader::with_capacity(CHUNK_BYTES, reader);
    let mut text = Vec::new();
    let columns = sink.columns();
    for line in 1.. {
        text.clear();
        let count = (&mut reader).take(ROW_BYTES_MAX as u64 + 1).read_until(b'\n', &mut text);
        let broken = |problem| SourceError::Broken { path: path.to_owned(), line, problem };
        if count.map_err(|error| broken(unreadable(&error)))? == 0 {
            break;
        }
        if text.len() > ROW_BYTES_MAX {
            return Err(broken("the line is longer than 4 MiB: write one JSON object a line".to_owned()));
        }
        let object = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text).trim_ascii();
        if !object.is_empty() {
            give(&columns, object, line, sink).map_err(SourceError::Stopped)?;
        }
    }
    Ok(())
}

fn give<T: Sink>(columns: &Columns, object: &[u8], line: u64, sink: &mut T) -> Result<(), T::Stop> {
    const PROBLEM: &str = "line is not a JSON object of a page";
    let mut reader = serde_json::Deserializer::from_slice(object);
    let values = Pick(columns).deserialize(&mut reader).and_then(|values| reader.end().map(|()| values));
    let values = match values {
        Ok(values) => values,
        Err(error) => return sink.refuse(line, PROBLEM, object, &error.to_string()),
    };
    let mut texts: [Cow<'_, str>; COLUMNS.len()] = Default::default();
    for (column, value) in values.iter().enumerate() {
        if let Some(value) = value {
            match field(column, value) {
                Ok(text) => texts[column] = text,
                Err(problem) => return sink.refuse(line, PROBLEM, object, &problem),
            }
        }
    }
    sink.page(&RawPage { fields: texts.each_ref().map(|text| text.as_bytes()), line })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::Kept;

    #[test]
    fn what_makes_no_sense_costs_the_field_and_a_loc_that_is_none_the_page() {
        let text = "{\"loc\":\"/a\",\"lastmod\":1763800000}\n{\"loc\":\"/b\",\"changefreq\":[1],\"priority\":{}}\n{\"loc\":7}\n";
        let kept = parse(text.as_bytes());
        let fields = |page: usize, column: Column| kept.pages[page].1[column as usize].clone();
        assert_eq!(kept.pages.len(), 2);
        assert_eq!((fields(0, Column::Loc), fields(0, Column::Lastmod)), ("/a".to_owned(), "1763800000".to_owned()));
        assert_eq!((fields(1, Column::Changefreq), fields(1, Column::Priority)), ("[1]".to_owned(), "{}".to_owned()));
        assert!(kept.refused.len() == 1 && kept.refused[0].0 == 3, "{:?}", kept.refused);
    }

    fn parse(text: &[u8]) -> Kept {
        parse_with(text, Kept::default())
    }

    fn parse_with(text: &[u8], mut kept: Kept) -> Kept {
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
        let fields: Vec<_> = kept.pages.iter().map(|(line, f)| (*line, f[..6].join("|"))).collect();
        assert_eq!(
            fields,
            [(1, "/café|2025-11-22||||".into()), (3, "/b|||0.5|false|404".into()), (4, "/😀|||1.0||".into())]
        );
    }

    #[test]
    fn lists_and_objects_stay_json_and_columns_may_have_other_names() {
        let columns = toml::from_str("loc = \"url\"\nimages = \"pictures\"").unwrap();
        let kept = parse_with(
            br#"{"url":"/a","pictures":["/a.jpg", "\u00e9"],"news":{"title":"x"},"loc":7,"group":12}
                {"url":"/b","pictures":"[\"/b.jpg\"]","kind":["x"]}
                {"url":"/c","pictures":5}
                {"url":"/d","url":"/e"}
                {"url":"/f"} {"url":"/g"}"#,
            Kept { columns, ..Kept::default() },
        );
        assert_eq!(kept.refused.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 5], "{:?}", kept.refused);
        let picked = |at: usize| [0, 8, 10, 12].map(|column| kept.pages[at].1[column].clone());
        assert_eq!(picked(0), ["/a", "12", "[\"/a.jpg\", \"\\u00e9\"]", "{\"title\":\"x\"}"]);
        assert_eq!(picked(1), ["/c", "", "5", ""]);
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
