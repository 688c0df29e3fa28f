use super::*;
use proptest::prelude::*;

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn sealed(message: &[u8]) -> Vec<u8> {
    [&MAGIC[..], message, Md5::digest(message).as_slice()].concat()
}

fn aggregated(user_records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for (index, (key, data)) in user_records.iter().enumerate() {
        let mut record = Vec::new();
        varint(&mut record, 1 << 3);
        varint(&mut record, index as u64);
        bytes(&mut record, 3, data);
        bytes(&mut message, 3, &record);
        bytes(&mut message, 1, key.as_bytes());
    }
    sealed(&message)
}

#[test]
fn every_altered_or_missing_byte_is_noticed() {
    let data = aggregated(&[("7", b"one"), ("8", b"two")]);
    assert_eq!(user_records(&data).unwrap().len(), 2);
    for at in 4..data.len() {
        let mut altered = data.clone();
        altered[at] ^= 1;
        assert!(matches!(user_records(&altered), Err(KplError::Digest)), "byte {at}");
        assert!(user_records(&data[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_malformed_protobuf_says_what_is_wrong() {
    for (message, words) in [
        (&b"\x1a\x05\x08\x00"[..], "ends within a field"),
        (b"\x1a\x02\x08\x00", "lacks its partition key or its data"),
        (b"\x1a\x04\x08\x00\x1a\x00", "that is not there"),
        (b"\x0a\x01\xff", "not UTF-8"),
        (b"\x08\x01", "another type"),
        (b"\x0b", "wire type"),
        (b"\x02\x00", "number 0"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "more than ten bytes"),
    ] {
        let error = user_records(&sealed(message)).unwrap_err().to_string();
        assert!(error.contains(words), "{message:02x?}: {error}");
    }
}

#[test]
fn hash_keys_tags_and_unknown_fields_are_ignored() {
    // Fields 2 (hash keys) and 9 (unknown) of the whole, 2 (hash key index) and 4 (tags) of the record.
    let message = b"\x0a\x017\x12\x05hash!\x49\x01\x02\x03\x04\x05\x06\x07\x08\x1a\x0d\x08\x00\x10\x00\x1a\x02hi\x22\x03\x0a\x01t";
    assert_eq!(user_records(&sealed(message)).unwrap(), [UserRecord { partition_key: "7", data: b"hi" }]);
}

proptest! {
    #[test]
    fn what_is_packed_is_what_is_read(packed in proptest::collection::vec(("[0-9]{1,3}", proptest::collection::vec(any::<u8>(), 0..300)), 0..20)) {
        let packed: Vec<(&str, &[u8])> = packed.iter().map(|(key, data)| (key.as_str(), data.as_slice())).collect();
        let data = aggregated(&packed);
        let read: Vec<_> = user_records(&data).unwrap().iter().map(|user| (user.partition_key, user.data)).collect();
        prop_assert_eq!(read, packed);
    }

    #[test]
    fn no_input_panics(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        user_records(&message).ok();
        user_records(&sealed(&message)).ok();
    }
}
