//! Parts: objects that hold the keys of one lane, grouped while a scan runs in any order.

use super::quarantine::storage;
use super::replay::hex;
use super::{Region, RegionError};
use crate::keys;
use crate::lane::Lane;
use crate::protocol::Part;
use aws_sdk_s3::primitives::ByteStream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Cursor;

/// A lane's part is written when it holds this many bytes, uncompressed.
const PART_BYTES: usize = 4 << 20;
/// Most bytes buffered over all lanes; then the fullest lane's part is written.
const BUFFERED_BYTES_MAX: usize = 64 << 20;
/// Largest part that is read back, in bytes, uncompressed: a part ends at the first key past its size, and a key is at
/// most a Redis string.
const PART_BYTES_MAX: usize = PART_BYTES + (513 << 20);
const ZSTD_LEVEL: i32 = 1;

/// Writes parts under one prefix.
pub(super) struct PartWriter<'r> {
    region: &'r Region,
    prefix: String,
    buffers: BTreeMap<Lane, Buffer>,
    buffered_bytes: usize,
    parts: Vec<Part>,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    keys: u64,
    written_parts: usize,
}

impl<'r> PartWriter<'r> {
    pub(super) fn new(region: &'r Region, prefix: String) -> Self {
        Self { region, prefix, buffers: BTreeMap::new(), buffered_bytes: 0, parts: Vec::new() }
    }

    /// Adds one item of a lane.
    pub(super) async fn add(&mut self, lane: Lane, item: &impl Serialize) -> Result<(), RegionError> {
        let buffer = self.buffers.entry(lane).or_default();
        let before = buffer.bytes.len();
        rmp_serde::encode::write(&mut buffer.bytes, item)
            .map_err(|error| corrupt(&self.prefix, format!("cannot be encoded: {error}")))?;
        buffer.keys += 1;
        let after = buffer.bytes.len();
        self.buffered_bytes += after - before;
        if after >= PART_BYTES {
            self.write(lane).await?;
        } else if self.buffered_bytes > BUFFERED_BYTES_MAX {
            let fullest = self.buffers.iter().max_by_key(|(_, buffer)| buffer.bytes.len()).map(|(lane, _)| *lane);
            self.write(fullest.unwrap_or(lane)).await?;
        }
        Ok(())
    }

    /// Writes what is left and returns every part.
    pub(super) async fn finish(mut self) -> Result<Vec<Part>, RegionError> {
        let lanes: Vec<Lane> = self.buffers.keys().copied().collect();
        for lane in lanes {
            self.write(lane).await?;
        }
        Ok(self.parts)
    }

    async fn write(&mut self, lane: Lane) -> Result<(), RegionError> {
        let Some(buffer) = self.buffers.get_mut(&lane).filter(|buffer| buffer.keys > 0) else { return Ok(()) };
        let object = keys::part(&self.prefix, lane, buffer.written_parts);
        let bytes = std::mem::take(&mut buffer.bytes);
        let keys = std::mem::take(&mut buffer.keys);
        buffer.written_parts += 1;
        self.buffered_bytes -= bytes.len();
        let compressed = zstd::bulk::compress(&bytes, ZSTD_LEVEL)
            .map_err(|error| corrupt(&object, format!("cannot be compressed: {error}")))?;
        let part =
            Part { lane, object, keys, bytes: compressed.len() as u64, sha256: hex(&Sha256::digest(&compressed)) };
        self.region.put(&part.object, compressed, "application/zstd").await?;
        self.parts.push(part);
        Ok(())
    }
}

impl Region {
    /// Reads a part back and checks it against its record.
    pub(super) async fn read_part<T: DeserializeOwned>(&self, part: &Part) -> Result<Vec<T>, RegionError> {
        let compressed = self.fetch(&part.object).await?;
        if hex(&Sha256::digest(&compressed)) != part.sha256 {
            return Err(corrupt(&part.object, "its checksum is another than the manifest's".into()));
        }
        let bytes = zstd::bulk::decompress(&compressed, PART_BYTES_MAX)
            .map_err(|error| corrupt(&part.object, format!("cannot be decompressed: {error}")))?;
        let mut cursor = Cursor::new(bytes.as_slice());
        let mut items = Vec::new();
        while (cursor.position() as usize) < bytes.len() {
            let item = rmp_serde::from_read(&mut cursor)
                .map_err(|error| corrupt(&part.object, format!("cannot be decoded: {error}")))?;
            items.push(item);
        }
        if items.len() as u64 != part.keys {
            return Err(corrupt(&part.object, format!("holds {} keys, not {}", items.len(), part.keys)));
        }
        Ok(items)
    }

    /// Writes an object that must not be there yet.
    pub(super) async fn put_new(&self, object: &str, body: Vec<u8>) -> Result<(), RegionError> {
        let request = self.s3.put_object().bucket(&self.settings.bucket).key(object).if_none_match("*");
        match request.content_type("application/json").body(ByteStream::from(body)).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(storage("PutObject", object, &error)),
        }
    }
}

fn corrupt(object: &str, reason: String) -> RegionError {
    RegionError::Corrupt { object: object.to_owned(), reason }
}
