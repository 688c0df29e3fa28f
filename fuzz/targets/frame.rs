//! Any bytes as a frame's body, stored or compressed, behind a header and a checksum that hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u8, u8, &[u8])| {
    let (codec, count, body) = input;
    let count = count.min(u8::try_from(body.len() / 5).unwrap_or(u8::MAX));
    let mut frame = vec![b'T', b'M', 1, codec & 1, count, 0, 0, 0];
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    match codec & 1 {
        0 => frame.extend_from_slice(body),
        _ => frame.extend(zstd::bulk::compress(body, 1).unwrap_or_default()),
    }
    // Now and then the compressed bytes themselves are any.
    if codec & 2 == 2 {
        frame.truncate(12);
        frame.extend_from_slice(body);
    }
    let checksum = crc32fast::hash(&frame);
    frame.extend_from_slice(&checksum.to_le_bytes());
    tidemark_fuzz::decode(frame);
});
