//! Any bytes as a record's data.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidemark_fuzz::decode(data.to_vec()));
