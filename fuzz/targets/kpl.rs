//! Any bytes as a KPL record's protobuf, under an MD5 that holds.
#![no_main]

use md5::{Digest, Md5};
use tidemark_fuzz::kpl;

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    kpl::user_records(message).ok();
    tidemark_fuzz::decode([&kpl::MAGIC[..], message, Md5::digest(message).as_slice()].concat());
});
