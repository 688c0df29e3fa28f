//! Plain JSON, read without serde: changes of one command and a mapping's events, as nearly all of them are written.
//!
//! Promise: what it gives is what serde_json would give. Whatever is not plain (an escape, a line break, a field that is
//! not known, a fault) it leaves alone, and serde_json reads it and says what is wrong. So it decides nothing, it only saves time:
//! single JSON changes decode more than twice as fast with it.

use crate::arguments::{self, Arg};
use crate::change::{Body, CONTRACT_VERSION, Change, Producer};
use crate::event::{Event, EventRecord, KinesisRecord};
use std::borrow::Cow;

/// Most arguments of a plain command.
const ARGUMENTS_MAX: usize = 8;
/// Runs of fields that are passed over in one record of an event.
const PASSED_MAX: usize = 4;
/// Words of a string that are looked at one by one.
const SHORT_WORDS: usize = 4;
/// Every number of so many digits fits.
const DIGITS_MAX: usize = 18;

/// A change of one command, if it is plain and keeps every rule.
pub(crate) fn change(json: &str) -> Option<Change<'_>> {
    let mut args: [Arg<'_>; ARGUMENTS_MAX] = std::array::from_fn(|_| Arg(Cow::Borrowed(&[])));
    let (mut count, mut v, mut at_ms, mut id, mut seq) = (None, None, None, None, None);
    let mut scan = Scan::of_plain(json)?;
    scan.object(|scan, name| match name {
        "v" => once(&mut v, scan.whole()?),
        "at_ms" => once(&mut at_ms, scan.whole()?),
        "producer" => once(&mut id, scan.string()?),
        "seq" => once(&mut seq, scan.whole()?),
        "cmd" => {
            let mut free = args.iter_mut();
            scan.array(|scan| {
                free.next()?.0 = Cow::Borrowed(scan.string()?.as_bytes());
                Some(())
            })?;
            let left = free.len();
            once(&mut count, ARGUMENTS_MAX - left)
        }
        _ => None,
    })?;
    scan.end()?;
    let producer = match (id, seq) {
        (None, None) => None,
        (Some(id), Some(seq)) => Some(Producer { id: Cow::Borrowed(id), seq }),
        _ => return None,
    };
    let args = &mut args[..count?];
    let command = arguments::command(args).ok().filter(|_| v == Some(CONTRACT_VERSION))?;
    let key = std::mem::take(&mut args.get_mut(1)?.0);
    let at_ms = at_ms.map(i64::try_from).transpose().ok()?;
    let change = Change { key, body: Body::Commands(vec![command]), at_ms, producer };
    change.check().is_ok().then_some(change)
}

/// A mapping's event, if it is plain.
pub(crate) fn event(json: &str) -> Option<Event<'_>> {
    let mut records = None;
    let mut scan = Scan::of_plain(json)?;
    scan.object(|scan, name| match name {
        "Records" => {
            let (mut list, mut passed) = (Vec::new(), Passed::default());
            scan.array(|scan| {
                list.push(record(scan, &mut passed)?);
                Some(())
            })?;
            once(&mut records, list)
        }
        _ => scan.scalar(),
    })?;
    scan.end()?;
    Some(Event { records: records? })
}

fn record<'a>(scan: &mut Scan<'a>, passed: &mut Passed<'a>) -> Option<EventRecord<'a>> {
    let (mut event_id, mut record) = (None, None);
    passed.next_run(0);
    scan.eat(b'{')?;
    scan.items(b'}', |scan| {
        if passed.comes_again(scan) {
            return Some(());
        }
        let at = scan.at;
        match scan.name()? {
            "eventID" => once(&mut event_id, Cow::Borrowed(scan.string()?))?,
            "kinesis" => once(&mut record, kinesis(scan)?)?,
            _ => {
                scan.scalar()?;
                passed.remember(scan, at);
                return Some(());
            }
        }
        passed.next_run(passed.run + 1);
        Some(())
    })?;
    Some(EventRecord { event_id: event_id?, kinesis: record? })
}

/// The fields of a record that nobody wants. A mapping writes them alike in every record, so a run of them that is
/// letter by letter that of the record before need not be read again.
#[derive(Default)]
struct Passed<'a> {
    runs: [&'a str; PASSED_MAX],
    /// Which run is next, and where it began if it has.
    run: usize,
    began: Option<usize>,
}

impl<'a> Passed<'a> {
    fn next_run(&mut self, run: usize) {
        (self.run, self.began) = (run, None);
    }

    /// Passes the run over, if it is the one of the record before.
    fn comes_again(&mut self, scan: &mut Scan<'a>) -> bool {
        let run = self.runs.get(self.run).filter(|run| self.began.is_none() && !run.is_empty());
        let rest = run.and_then(|run| scan.text.as_bytes()[scan.at..].strip_prefix(run.as_bytes()));
        let Some(rest) = rest.filter(|rest| matches!(rest, [b',' | b'}', ..])) else { return false };
        self.began = Some(scan.at);
        scan.at = scan.text.len() - rest.len();
        true
    }

    /// Adds the field from `at` to here.
    fn remember(&mut self, scan: &Scan<'a>, at: usize) {
        let began = *self.began.get_or_insert(at);
        if let Some(run) = self.runs.get_mut(self.run) {
            *run = &scan.text[began..scan.at];
        }
    }
}

fn kinesis<'a>(scan: &mut Scan<'a>) -> Option<KinesisRecord<'a>> {
    let (mut key, mut number, mut data, mut arrival) = (None, None, None, None);
    scan.object(|scan, name| match name {
        "partitionKey" => once(&mut key, Cow::Borrowed(scan.string()?)),
        "sequenceNumber" => once(&mut number, Cow::Borrowed(scan.string()?)),
        "data" => once(&mut data, Cow::Borrowed(scan.string()?)),
        "approximateArrivalTimestamp" => once(&mut arrival, scan.decimal()?.parse().ok()?),
        _ => scan.scalar(),
    })?;
    Some(KinesisRecord {
        partition_key: key?,
        sequence_number: number?,
        data: data?,
        approximate_arrival_timestamp: arrival?,
    })
}

/// Sets what was not there yet; a field that comes twice is not plain.
fn once<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// How many bytes stand before the first quote. Most strings are short: their bytes are looked at eight in a number.
fn to_quote(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const QUOTES: u64 = ONES * b'"' as u64;
    let (words, _) = bytes.as_chunks::<8>();
    let short = words.len().min(SHORT_WORDS);
    for (index, word) in words[..short].iter().enumerate() {
        let word = u64::from_le_bytes(*word) ^ QUOTES;
        // The lowest bit that is set is exact; the borrow of the subtraction only reaches upwards.
        let found = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    memchr::memchr(b'"', &bytes[short * 8..]).map(|at| short * 8 + at)
}

/// A place in a JSON text; every read gives `None` at what is not plain.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    /// The start of a text without a backslash and control characters: its strings have no escapes, and end at the
    /// next quote.
    fn of_plain(text: &'a str) -> Option<Self> {
        let is_odd = text.as_bytes().iter().fold(false, |is_odd, byte| is_odd | (*byte < 0x20) | (*byte == b'\\'));
        (!is_odd).then_some(Self { text, at: 0 })
    }

    /// The next byte that is not a space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    fn object(&mut self, mut field: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.eat(b'{')?;
        self.items(b'}', |scan| {
            let name = scan.name()?;
            field(scan, name)
        })
    }

    fn name(&mut self) -> Option<&'a str> {
        let name = self.string()?;
        self.eat(b':')?;
        Some(name)
    }

    fn array(&mut self, item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.eat(b'[')?;
        self.items(b']', item)
    }

    fn items(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        if self.peek()? == close {
            self.at += 1;
            return Some(());
        }
        loop {
            item(self)?;
            match self.peek()? {
                b',' => self.at += 1,
                other if other == close => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    fn string(&mut self) -> Option<&'a str> {
        self.eat(b'"')?;
        let length = to_quote(&self.text.as_bytes()[self.at..])?;
        let text = self.text.get(self.at..self.at + length);
        self.at += length + 1;
        text
    }

    /// A whole number, not negative, of at most [`DIGITS_MAX`] digits.
    fn whole(&mut self) -> Option<u64> {
        let text = self.decimal()?;
        let is_whole = text.len() <= DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
        is_whole.then(|| text.bytes().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }

    /// A number without exponent, not negative.
    fn decimal(&mut self) -> Option<&'a str> {
        self.peek()?;
        let rest = &self.text.as_bytes()[self.at..];
        let digits = |from: usize| rest[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut length = digits(0);
        if length == 0 || (rest[0] == b'0' && length > 1) {
            return None;
        }
        if rest.get(length) == Some(&b'.') {
            let fraction = digits(length + 1);
            length += 1 + fraction;
            if fraction == 0 {
                return None;
            }
        }
        if matches!(rest.get(length), Some(b'e' | b'E')) {
            return None;
        }
        let text = self.text.get(self.at..self.at + length);
        self.at += length;
        text
    }

    /// Any string, number or null, passed over.
    fn scalar(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'0'..=b'9' => self.decimal().map(drop),
            b'n' => self.text[self.at..].starts_with("null").then(|| self.at += 4),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::arbitrary;
    use crate::wire;
    use proptest::prelude::*;

    #[test]
    fn plain_changes_are_read_here() {
        for json in [
            r#"{"v":1,"cmd":["SET","user:1","hello","PX","60000"],"at_ms":1763800000000,"producer":"8f3a","seq":42}"#,
            r#" { "cmd" : [ "DEL" , "ключ" ] , "v" : 1 } "#,
        ] {
            assert_eq!(change(json).unwrap(), wire::slow_change(json).unwrap());
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_serde() {
        for json in [
            r#"{"v":1,"cmd":["DEL","a\u0062"]}"#,
            "{\"v\":1,\"cmd\":[\"DEL\",\"a\nb\"]}",
            r#"{"v":1,"cmds":[["DEL","a"]]}"#,
            r#"{"v":2,"cmd":["DEL","a"]}"#,
            r#"{"v":1,"cmd":["INCR","a"]}"#,
            r#"{"v":1,"cmd":["DEL","tidemark:a"]}"#,
            r#"{"v":1,"cmd":["DEL","a"],"seq":1}"#,
            r#"{"v":1,"cmd":["DEL","a"],"v":1}"#,
            r#"{"v":1,"cmd":[],"cmd":["DEL","a"]}"#,
            r#"{"v":1.0,"cmd":["DEL","a"]}"#,
            r#"{"v":01,"cmd":["DEL","a"]}"#,
            r#"{"v":1,"cmd":["DEL","a"],}"#,
            r#"{"v":1,"cmd":["DEL","a"]}x"#,
            r#"{"v":1,"cmd":["DEL"]}"#,
            "",
        ] {
            assert_eq!(change(json), None, "{json}");
        }
    }

    #[test]
    fn an_event_is_what_serde_reads() {
        let plain = r#"{"Records":[{"kinesis":{"kinesisSchemaVersion":"1.0","partitionKey":"7","sequenceNumber":"49","data":"eA==","approximateArrivalTimestamp":1763800000.25},"eventSource":"aws:kinesis","eventID":"shardId-0:49","n":null,"x":5},{"eventID":"s:1","kinesis":{"partitionKey":"7","sequenceNumber":"1","data":"","approximateArrivalTimestamp":17}}]}"#;
        let ours = event(plain).unwrap();
        let theirs: Event<'_> = serde_json::from_str(plain).unwrap();
        assert_eq!(serde_json::to_string(&ours).unwrap(), serde_json::to_string(&theirs).unwrap());
        for other in [
            plain.replace("eA==", "e\\u0041=="),
            plain.replace(".25", ".25e0"),
            plain.replace(".25", "."),
            plain.replace("null", "[]"),
            plain.replace("\"data\":\"\",", ""),
        ] {
            assert!(event(&other).is_none(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_strings_end_is_found(bytes in proptest::collection::vec(prop_oneof![40 => any::<u8>(), 1 => Just(b'"')], 0..200)) {
            prop_assert_eq!(to_quote(&bytes), bytes.iter().position(|byte| *byte == b'"'));
        }

        #[test]
        fn it_never_differs_from_serde(made in arbitrary::change(), at in any::<usize>(), byte in 0x20..0x7f_u8) {
            let json = made.to_json();
            prop_assert!(change(&json).is_none_or(|ours| ours == made));
            let mut altered = json.into_bytes();
            let at = at % altered.len();
            altered[at] = byte;
            if let Ok(altered) = std::str::from_utf8(&altered)
                && let Some(ours) = change(altered)
            {
                prop_assert_eq!(Ok(ours), wire::slow_change(altered));
            }
        }

        #[test]
        fn fields_that_are_passed_over_may_differ(records in proptest::collection::vec(proptest::collection::vec(0..6_usize, 0..7), 1..6)) {
            let others = [r#""n":5"#, r#""n":57"#, r#""n":5.25"#, r#""s":"x""#, r#""s":"x\n""#, r#""eventID":"t:2""#];
            let wanted = [r#""eventID":"s:1""#, r#""kinesis":{"partitionKey":"7","sequenceNumber":"1","data":"","approximateArrivalTimestamp":17}"#];
            let record = |(number, picks): (usize, &Vec<usize>)| {
                let mut fields: Vec<&str> = picks.iter().map(|pick| others[*pick]).collect();
                for (place, field) in wanted.iter().enumerate() {
                    fields.insert((number + place * 2) % (fields.len() + 1), field);
                }
                format!("{{{}}}", fields.join(","))
            };
            let records: Vec<String> = records.iter().enumerate().map(record).collect();
            let json = format!("{{\"Records\":[{}]}}", records.join(","));
            let (ours, theirs) = (event(&json), serde_json::from_str::<Event<'_>>(&json));
            let text = |event: &Event<'_>| serde_json::to_string(event).unwrap();
            let plain = !json.contains('\\') && !json.contains("t:2");
            prop_assert_eq!(ours.is_some(), plain);
            prop_assert!(ours.is_none_or(|ours| text(&ours) == text(&theirs.unwrap())));
        }

        #[test]
        fn no_text_panics(text in r#"[\[{]("v":|1|0|"cmd":|\[|"SET",|"k"|,|\]|\}|"PX"|"at_ms":|\.|"Records":|"kinesis":| |é|\\){0,20}"#) {
            change(&text);
            event(&text);
        }
    }
}
