use super::*;
use proptest::prelude::*;

fn set(key: &str, value: Vec<u8>, seq: u64) -> Change<'static> {
    Change {
        key: Cow::Owned(key.as_bytes().to_vec()),
        body: Body::Commands(vec![Command::Set {
            value: Cow::Owned(value),
            expiry: Some(Expiry::AtMs(1_800_000_000_000)),
        }]),
        at_ms: Some(1_763_800_000_000 + seq as i64),
        producer: Some(Producer { id: "8f3a".into(), seq }),
    }
}

fn framed(changes: &[Change<'_>]) -> Vec<u8> {
    let mut builder = FrameBuilder::new(BODY_BYTES_MAX);
    changes.iter().for_each(|change| builder.push(change).unwrap());
    let bound = builder.len_bytes();
    let frame = builder.finish();
    assert!(changes.is_empty() || frame.len() <= bound, "{} > {bound}", frame.len());
    frame
}

fn resealed(mut frame: Vec<u8>) -> Vec<u8> {
    let end = frame.len() - CHECKSUM_BYTES;
    let checksum = crc32fast::hash(&frame[..end]);
    frame[end..].copy_from_slice(&checksum.to_le_bytes());
    frame
}

#[test]
fn a_frame_has_these_very_bytes() {
    let frame = framed(&[set("user:1", b"hello".to_vec(), 42)]);
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "544d0100010000002d00000004386633612a26acaa9a0100002a00000000000000\
         170306757365723a3100000380c0e285e3680568656c6c6f"
            .to_owned()
            + &format!("{:08x}", crc32fast::hash(&frame[..frame.len() - 4]).swap_bytes())
    );
}

#[test]
fn a_frame_never_passes_its_bound_and_says_when_it_is_full() {
    let mut builder = FrameBuilder::new(2_000);
    let mut pushed = 0;
    while builder.push(&set("user:1", vec![b'v'; 100], pushed)).is_ok() {
        pushed += 1;
        assert!(builder.len_bytes() <= 2_000);
    }
    assert!(pushed > 10);
    assert_eq!(builder.len() as u64, pushed);
    assert!(builder.finish().len() <= 2_000);
    assert!(builder.is_empty());
    assert_eq!(builder.push(&set("user:1", vec![0; 2_000], 0)), Err(Full));
    assert_eq!(builder.len_bytes(), 0);
}

#[test]
fn similar_changes_are_compressed_and_come_back() {
    let changes: Vec<_> =
        (0..500).map(|n| set(&format!("user:{n}"), format!("{{\"name\":\"n{n}\"}}").into_bytes(), n)).collect();
    let frame = framed(&changes);
    assert_eq!(frame[3], ZSTD);
    let opened = Frame::open(frame.clone()).unwrap();
    assert!(frame.len() * 2 < opened.len_bytes());
    let decoded: Vec<_> = opened.changes().unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(decoded, changes);
}

#[test]
fn every_altered_or_missing_byte_is_noticed() {
    let frame = framed(&[set("user:1", b"hello".to_vec(), 42)]);
    for at in 2..frame.len() {
        let mut altered = frame.clone();
        altered[at] ^= 1;
        assert!(Frame::open(altered).is_err(), "byte {at}");
        assert!(Frame::open(frame[..at].to_vec()).is_err(), "cut at {at}");
    }
}

#[test]
fn a_decompression_bomb_is_refused_before_it_grows() {
    let bomb = |bytes: usize, named: usize| {
        let mut frame = vec![b'T', b'M', VERSION, ZSTD, 1, 0, 0, 0];
        frame.extend_from_slice(&u32::try_from(named).unwrap().to_le_bytes());
        frame.extend(zstd::bulk::compress(&vec![0; bytes], 1).unwrap());
        frame.extend_from_slice(&[0; 4]);
        Frame::open(resealed(frame))
    };
    assert!(matches!(bomb(100 << 20, 100 << 20), Err(FrameError::Growth { .. })));
    assert!(matches!(bomb(1 << 20, 1 << 20), Err(FrameError::Growth { .. })));
    assert!(matches!(bomb(1 << 20, 200), Err(FrameError::Compressed(200))));
    assert!(matches!(bomb(100, 200), Err(FrameError::Compressed(200))));
}

#[test]
fn a_frame_of_far_too_many_changes_for_its_size_is_refused_and_never_built() {
    let same: Vec<_> = (0..5_000).map(|_| set("k", vec![], 1)).collect();
    let frame = framed(&same);
    assert_eq!(frame[3], STORED);
    assert_eq!(Frame::open(frame).unwrap().changes().unwrap().len(), 5_000);
    let body = [0; 17];
    let mut dense = vec![b'T', b'M', VERSION, STORED, 10, 0, 0, 0, 17, 0, 0, 0];
    dense.extend_from_slice(&body);
    dense.extend_from_slice(&[0; 4]);
    assert!(matches!(Frame::open(resealed(dense)), Err(FrameError::Dense { count: 10, bytes: 33 })));
}

#[test]
fn a_frame_of_far_too_many_items_for_its_size_is_refused_and_never_built() {
    let member = |_| Cow::Borrowed(&b"m"[..]);
    let change = |command| Change { key: Cow::Borrowed(&b"k"[..]), body: command, at_ms: None, producer: None };
    let repetitive = [
        change(Body::Commands(vec![Command::SetAdd((0..4_000).map(member).collect())])),
        change(Body::Commands(vec![Command::HashSet((0..2_000).map(|n| (member(n), member(n))).collect())])),
        change(Body::Commands(vec![Command::Delete; 1_000])),
    ];
    for change in &repetitive {
        let mut builder = FrameBuilder::new(BODY_BYTES_MAX);
        builder.push(change).unwrap();
        let stored = builder.frame.clone();
        let frame = builder.finish();
        assert_eq!(frame[3], STORED);
        let opened = Frame::open(frame).unwrap();
        assert_eq!(opened.changes().unwrap()[0].as_ref(), Ok(change));
        // The same, compressed by somebody else: as many bytes as a body may grow from, and too few for its items.
        let body = &stored[HEADER_BYTES..];
        let mut compressed = zstd::bulk::compress(body, 1).unwrap();
        let skippable = (body.len() / GROWTH_MAX + 1).saturating_sub(compressed.len());
        compressed.extend_from_slice(&[0x50, 0x2a, 0x4d, 0x18]);
        compressed.extend_from_slice(&u32::try_from(skippable).unwrap().to_le_bytes());
        compressed.resize(compressed.len() + skippable, 0);
        let mut dense = vec![b'T', b'M', VERSION, ZSTD, 1, 0, 0, 0];
        dense.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        dense.extend_from_slice(&compressed);
        dense.extend_from_slice(&[0; 4]);
        let refused = Frame::open(resealed(dense)).unwrap().changes().unwrap().remove(0).unwrap_err();
        assert!(refused.reason.contains("malformed"), "{}", refused.reason);
    }
}

#[test]
fn one_bad_change_of_a_frame_leaves_the_others() {
    let mut bad = set("user:2", vec![1], 2);
    bad.body = Body::Commands(vec![Command::Set { value: Cow::Borrowed(b"v"), expiry: Some(Expiry::AtMs(0)) }]);
    let opened = Frame::open(framed(&[set("user:1", vec![1], 1), bad, set("user:3", vec![1], 3)])).unwrap();
    let changes = opened.changes().unwrap();
    assert!(changes[0].is_ok() && changes[2].is_ok());
    let refused = changes[1].as_ref().unwrap_err();
    assert_eq!(refused.keys, [b"user:2".to_vec()]);
    assert!(refused.reason.contains("above 0"));
}

proptest! {
    #[test]
    fn what_is_pushed_is_what_is_decoded(changes in proptest::collection::vec(crate::change::arbitrary::change(), 0..40)) {
        let opened = Frame::open(framed(&changes)).unwrap();
        let decoded: Vec<_> = opened.changes().unwrap().into_iter().map(Result::unwrap).collect();
        prop_assert_eq!(decoded, changes);
    }

    #[test]
    fn no_input_panics(data in proptest::collection::vec(any::<u8>(), 0..300), codec in 0..3_u8, count in 0..9_u8) {
        let mut frame = vec![b'T', b'M', VERSION, codec, count, 0, 0, 0];
        frame.extend_from_slice(&(data.len() as u32).to_le_bytes());
        frame.extend_from_slice(&data);
        frame.extend_from_slice(&[0; 4]);
        if let Ok(frame) = Frame::open(resealed(frame)) {
            frame.changes().ok();
        }
        Frame::open(data).ok();
    }
}
