use super::*;
use crate::change::arbitrary;
use proptest::prelude::*;
use serde_json::json;

fn packed(value: &serde_json::Value) -> Vec<u8> {
    rmp_serde::to_vec(value).unwrap()
}

#[test]
fn messagepack_has_the_same_names_rules_and_reasons_as_json() {
    for value in [
        json!({"v": 1, "cmd": ["SET", "user:1", "hello", "PX", "60000"], "at_ms": 5, "producer": "8f", "seq": 42}),
        json!({"v": 1, "cmds": [["DEL", "k"], ["RPUSH", "k", "a"]]}),
        json!({"v": 1, "cmd": ["INCR", "n"]}),
        json!({"v": 1, "cmd": ["SET", "n", "1", "NX"]}),
        json!({"v": 1, "cmd": ["DEL", "a", "b"]}),
        json!({"v": 1, "cmd": ["DEL", "tidemark:x"]}),
        json!({"v": 2, "cmd": ["DEL", "a"]}),
        json!({"v": 1, "cmd": ["DEL", "a"], "seq": 7}),
        json!({"v": 1, "key": "k", "cmd": ["DEL", "k"]}),
        json!({"v": 1, "key": "k", "ref": {"bucket": "b", "object": Reference::object_of(&"ab".repeat(32)), "sha256": "ab".repeat(32), "bytes": 3}}),
        json!({"v": 1, "key": "k", "ref": {"bucket": "b", "object": "elsewhere", "sha256": "ab".repeat(32), "bytes": 3}}),
        json!({"v": 1, "heartbeat": 3, "at_ms": 7}),
    ] {
        let text = value.to_string();
        assert_eq!(Change::from_messagepack(&packed(&value)), Change::from_json(&text), "{text}");
    }
}

#[test]
fn bytes_travel_as_bin_and_borrow() {
    let data = b"\x82\xa1v\x01\xa3cmd\x93\xa3SET\xc4\x02\xff\x00\xc4\x01\x80";
    let change = Change::from_messagepack(data).unwrap();
    assert_eq!(change.key, Cow::Borrowed(&[0xff_u8, 0]));
    assert!(matches!(change.key, Cow::Borrowed(_)));
}

#[test]
fn what_messagepack_allows_and_a_change_does_not_is_refused() {
    for (data, words) in [
        (&b"\x82\xa1v\x01\xa3cmd\x92\xa3DEL\xa1\xff"[..], "send bytes as bin"),
        (b"\x82\x00\x01\x01\x92\xa3DEL\xa1k", "a name in a map is not a str"),
        (b"\x92\x01\x92\xa3DEL\xa1k", "expected an object"),
        (b"\x82\xa1v\x01\xa3cmd\x92\xa3DEL\x07", "numbers are sent as strings"),
        (b"\x82\xa1v\x01\xa3cmd\x92\xa3DEL\xd4\x01\x00", "extension"),
        (b"\x82\xa1v\x01\xa3cmd\x92\xa3DEL\xa1k\xc0", "bytes follow"),
        (b"\x82\xa1v\x01\xa3cmd\x92\xa3DEL", "ends within"),
        (b"\x82\xa1v\x01\xa3cmd\xc1", "0xc1"),
        (&[0x91; 40], "nested more than 16"),
        (b"\xdd\xff\xff\xff\xff", "ends within"),
    ] {
        let reason = Change::from_messagepack(data).unwrap_err().reason;
        assert!(reason.contains(words), "{data:02x?}: {reason}");
    }
}

#[test]
fn an_array_of_the_fields_is_no_change() {
    for json in [r#"[1,["DEL","k"]]"#, r#"{"v":1,"key":"k","ref":["b","o","s",3]}"#] {
        assert!(Change::from_json(json).unwrap_err().reason.contains("an object"), "{json}");
    }
}

proptest! {
    #[test]
    fn what_json_says_is_what_is_read(change in arbitrary::change()) {
        let json = change.to_json();
        prop_assert_eq!(Change::from_json(&json).unwrap(), change);
    }

    #[test]
    fn what_messagepack_says_is_what_is_read(change in arbitrary::change()) {
        let data = change.to_messagepack();
        prop_assert_eq!(Change::from_messagepack(&data).unwrap(), change);
    }

    #[test]
    fn no_messagepack_panics(mut data in proptest::collection::vec(any::<u8>(), 0..200), start in 0x80..0xa0_u8) {
        Change::from_messagepack(&data).ok();
        data.insert(0, start);
        Change::from_messagepack(&data).ok();
    }

    #[test]
    fn no_altered_messagepack_panics(change in arbitrary::change(), at in any::<usize>(), byte in any::<u8>()) {
        let mut data = change.to_messagepack();
        let at = at % data.len();
        data[at] = byte;
        Change::from_messagepack(&data).ok();
        Change::from_messagepack(&data[..at]).ok();
    }
}
