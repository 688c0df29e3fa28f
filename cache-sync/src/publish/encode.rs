//! Records as the publisher writes them.

use crate::change::{Body, Bytes, Change, Command};
use crate::frame::{FrameBuilder, Full};

/// Longest partition key: a lane in decimal.
const PARTITION_KEY_BYTES_MAX: usize = 5;
/// Most bytes of a record's data: a stream takes 1 MiB with the partition key unless it was set higher.
pub const RECORD_BYTES_MAX: usize = (1 << 20) - PARTITION_KEY_BYTES_MAX;
/// Most changes that the publisher puts into one record.
pub const RECORD_CHANGES_MAX: usize = 10_000;

/// How changes are written into records; every region reads all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordFormat {
    /// The compact, compressed frame of CONTRACT.md.
    #[default]
    Frame,
    /// JSON, for streams that others read too.
    Json,
}

/// Bytes of a frame beside its changes, at most.
const FRAME_BYTES: usize = 128;
/// Bytes of a change in a frame beside its key and commands, at most.
const FRAMED_CHANGE_BYTES: usize = 48;
/// Bytes of a command in a frame beside its arguments, at most.
const FRAMED_COMMAND_BYTES: usize = 16;
/// Bytes in front of each string in a frame, at most.
const FRAMED_LENGTH_BYTES: usize = 5;
/// Bytes that `"producer":"…","seq":…,` adds to a change as JSON, at most.
const PRODUCER_BYTES: usize = 96;

/// Collects changes of one lane into a record.
#[derive(Debug)]
pub(super) enum RecordBuilder {
    Frame(Box<FrameBuilder>),
    Json { text: String, count: usize },
}

impl RecordBuilder {
    pub(super) fn new(format: RecordFormat) -> Self {
        match format {
            RecordFormat::Frame => Self::Frame(Box::new(FrameBuilder::new(RECORD_BYTES_MAX))),
            RecordFormat::Json => Self::Json { text: String::new(), count: 0 },
        }
    }

    /// Adds a change; where it is refused the record is as it was.
    pub(super) fn push(&mut self, change: &Change<'_>) -> Result<(), Full> {
        match self {
            Self::Frame(frame) if frame.len() == RECORD_CHANGES_MAX => Err(Full),
            Self::Frame(frame) => frame.push(change),
            Self::Json { text, count } => {
                let json = change.to_json();
                // Brackets and a comma.
                if *count == RECORD_CHANGES_MAX || text.len() + json.len() + 3 > RECORD_BYTES_MAX {
                    return Err(Full);
                }
                text.push(if *count == 0 { '[' } else { ',' });
                text.push_str(&json);
                *count += 1;
                Ok(())
            }
        }
    }

    /// The record's data; the builder is empty again.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        match self {
            Self::Frame(frame) => frame.finish(),
            Self::Json { text, count } => {
                *count = 0;
                text.push(']');
                std::mem::take(text).into_bytes()
            }
        }
    }
}

/// Bytes of a record that holds this change alone, at most.
pub(super) fn record_bytes(change: &Change<'_>, format: RecordFormat) -> usize {
    match format {
        RecordFormat::Json => change.to_json().len() + 3 + PRODUCER_BYTES,
        RecordFormat::Frame => {
            let body = match &change.body {
                Body::Commands(commands) => commands.iter().map(framed_bytes).sum(),
                Body::Reference(reference) => {
                    let texts = [&reference.bucket, &reference.object, &reference.sha256];
                    FRAMED_COMMAND_BYTES + texts.iter().map(|text| text.len() + FRAMED_LENGTH_BYTES).sum::<usize>()
                }
            };
            FRAME_BYTES + FRAMED_CHANGE_BYTES + change.key.len() + body
        }
    }
}

fn framed_bytes(command: &Command<'_>) -> usize {
    let string = |bytes: &Bytes<'_>| bytes.len() + FRAMED_LENGTH_BYTES;
    let arguments: usize = match command {
        Command::Set { value, .. } => string(value),
        Command::Delete | Command::Expire(_) | Command::Persist => 0,
        Command::HashSet(pairs) | Command::SortedSetAdd(pairs) => {
            pairs.iter().map(|(first, second)| string(first) + string(second)).sum()
        }
        Command::HashDelete(items)
        | Command::SetAdd(items)
        | Command::SetRemove(items)
        | Command::SortedSetRemove(items)
        | Command::Push { values: items, .. } => items.iter().map(string).sum(),
    };
    FRAMED_COMMAND_BYTES + arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Producer, Reference};
    use crate::publish::CacheWrite;
    use crate::record::{Content, Data};
    use proptest::prelude::*;
    use std::borrow::Cow;
    use std::time::Duration;

    fn change(write: CacheWrite, seq: u64) -> Change<'static> {
        let producer = Some(Producer { id: Cow::Borrowed("8f3a"), seq });
        Change { key: write.key.into(), body: Body::Commands(write.commands), at_ms: Some(1_763_800_000_000), producer }
    }

    fn every_write() -> Vec<CacheWrite> {
        let hour = Some(Duration::from_hours(1));
        vec![
            CacheWrite::set("k", [0xff, 0], hour),
            CacheWrite::set([0xfe], "", None),
            CacheWrite::delete("k"),
            CacheWrite::expire("k", Duration::from_millis(1_500)),
            CacheWrite::persist("k"),
            CacheWrite::replace_hash("k", [("f", "v")], hour),
            CacheWrite::replace_set("k", ["a", "b"], None),
            CacheWrite::replace_sorted_set("k", [("a", 1.5), ("b", f64::INFINITY)], hour),
            CacheWrite::replace_list("k", ["c", "a", "b"], hour),
            CacheWrite::replace_list("k", Vec::<String>::new(), hour),
            CacheWrite::hash_set("k", [("f", "v")]),
            CacheWrite::hash_delete("k", ["f"]),
            CacheWrite::set_add("k", ["a"]),
            CacheWrite::set_remove("k", ["a"]),
            CacheWrite::sorted_set_add("k", [("a", -0.5)]),
            CacheWrite::sorted_set_remove("k", ["a"]),
            CacheWrite::commands([["SET", "k", "v", "PXAT", "1763800000000"]]).unwrap(),
        ]
    }

    #[test]
    fn what_is_written_is_read_back_in_both_formats() {
        let mut changes: Vec<Change<'static>> = (1..).zip(every_write()).map(|(n, write)| change(write, n)).collect();
        let reference = Reference {
            bucket: "b".into(),
            object: Reference::object_of(&"ab".repeat(32)),
            sha256: "ab".repeat(32),
            bytes: 7,
            expires_at_ms: Some(9),
        };
        changes.push(Change { body: Body::Reference(reference.into()), ..changes[0].clone() });
        for format in [RecordFormat::Frame, RecordFormat::Json] {
            let mut builder = RecordBuilder::new(format);
            for change in &changes {
                change.check().unwrap();
                builder.push(change).unwrap();
            }
            let data = Data::new(builder.finish()).unwrap();
            let Content::Changes(read) = data.decode("0").unwrap() else { panic!("no changes") };
            let read: Vec<Change<'_>> = read.into_iter().map(Result::unwrap).collect();
            assert_eq!(read, changes, "{format:?}");
        }
    }

    #[test]
    fn a_replacement_begins_with_a_delete_and_one_by_nothing_is_no_more_than_it() {
        for write in every_write() {
            let creates = write.commands.len() > 1;
            assert!(!creates || write.commands[0] == Command::Delete, "{write:?}");
        }
        assert_eq!(CacheWrite::replace_set("k", [""; 0], None), CacheWrite::delete("k"));
    }

    #[test]
    fn a_refused_command_says_what_to_use_instead() {
        let refused = CacheWrite::commands([["INCR", "n"]]).unwrap_err();
        assert!(refused.reason.contains("SET the resulting value"), "{refused}");
        assert_eq!(refused.keys, [b"n".to_vec()]);
        assert!(CacheWrite::commands([["DEL", "a"], ["DEL", "b"]]).is_err());
    }

    proptest! {
        #[test]
        fn a_record_is_never_larger_than_was_said(sizes in proptest::collection::vec(0usize..300, 1..40), one: bool) {
            let items: Vec<Vec<u8>> = sizes.iter().map(|size| vec![b'"'; *size]).collect();
            let write = match one {
                true => CacheWrite::set("k", items.concat(), Some(Duration::MAX)),
                false => CacheWrite::replace_set("k", items, Some(Duration::from_secs(9))),
            };
            let change = change(write, u64::MAX);
            for format in [RecordFormat::Frame, RecordFormat::Json] {
                let said = record_bytes(&Change { producer: None, ..change.clone() }, format);
                let mut builder = RecordBuilder::new(format);
                builder.push(&change).unwrap();
                prop_assert!(builder.finish().len() <= said);
            }
        }
    }
}
