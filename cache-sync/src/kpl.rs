//! KPL aggregated records: the public format in which the Kinesis Producer Library packs many user records into one.
//!
//! Magic F3 89 9A C2, a protobuf `AggregatedRecord`, and the MD5 of that protobuf. Format:
//! <https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md>. Read by hand, with bounds:
//! two messages with five fields are less than a protobuf library.

use crate::record::CHANGES_MAX;
use md5::{Digest, Md5};

/// The first four bytes of an aggregated record.
pub const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
/// MD5 of the protobuf, at the end.
const DIGEST_BYTES: usize = 16;

/// Why an aggregated record cannot be taken apart.
#[derive(Debug, thiserror::Error)]
pub enum KplError {
    /// Shorter than magic and checksum.
    #[error("the KPL record is cut short: {0} bytes")]
    Short(usize),
    /// Altered or cut on its way.
    #[error("the KPL record's MD5 does not hold: it was altered or cut")]
    Digest,
    /// The protobuf does not parse.
    #[error("the KPL record's protobuf is malformed: {0}")]
    Malformed(&'static str),
    /// More user records than a record may hold changes.
    #[error("the KPL record holds more than {CHANGES_MAX} user records")]
    TooMany,
}

/// One user record of an aggregated record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRecord<'a> {
    /// The partition key that its producer gave it.
    pub partition_key: &'a str,
    /// Its data.
    pub data: &'a [u8],
}

/// Whether a record's data is a KPL aggregated record.
#[must_use]
pub fn is_aggregated(data: &[u8]) -> bool {
    data.starts_with(&MAGIC)
}

/// Takes an aggregated record apart, in order. Explicit hash keys, tags and unknown fields are ignored.
///
/// # Errors
/// [`KplError`].
pub fn user_records(data: &[u8]) -> Result<Vec<UserRecord<'_>>, KplError> {
    if data.len() < MAGIC.len() + DIGEST_BYTES {
        return Err(KplError::Short(data.len()));
    }
    let (message, digest) = data[MAGIC.len()..].split_at(data.len() - MAGIC.len() - DIGEST_BYTES);
    if Md5::digest(message).as_slice() != digest {
        return Err(KplError::Digest);
    }
    let (mut partition_keys, mut records) = (Vec::new(), Vec::new());
    let mut fields = Message { rest: message };
    while let Some((number, value)) = fields.next_field()? {
        match (number, value) {
            (1, Value::Bytes(key)) => {
                partition_keys.push(std::str::from_utf8(key).map_err(|_| malformed("a partition key is not UTF-8"))?);
            }
            (3, Value::Bytes(record)) => records.push(user_record(record)?),
            (1 | 3, Value::Other(_)) => return Err(malformed("a field has another type")),
            _ => {}
        }
        if partition_keys.len() > CHANGES_MAX || records.len() > CHANGES_MAX {
            return Err(KplError::TooMany);
        }
    }
    // The table may stand behind the records, so the indexes are looked up last.
    let keyed = records.into_iter().map(|(index, data)| {
        let key = usize::try_from(index).ok().and_then(|index| partition_keys.get(index));
        let partition_key = *key.ok_or(malformed("a user record names a partition key that is not there"))?;
        Ok(UserRecord { partition_key, data })
    });
    keyed.collect()
}

/// Partition key index and data of one `Record`.
fn user_record(message: &[u8]) -> Result<(u64, &[u8]), KplError> {
    let (mut index, mut data) = (None, None);
    let mut fields = Message { rest: message };
    while let Some((number, value)) = fields.next_field()? {
        match (number, value) {
            (1, Value::Other(number)) => index = Some(number),
            (3, Value::Bytes(bytes)) => data = Some(bytes),
            (1 | 3, _) => return Err(malformed("a field has another type")),
            _ => {}
        }
    }
    match (index, data) {
        (Some(index), Some(data)) => Ok((index, data)),
        _ => Err(malformed("a user record lacks its partition key or its data")),
    }
}

const fn malformed(what: &'static str) -> KplError {
    KplError::Malformed(what)
}

/// A protobuf field's value; numbers of every kind are one.
enum Value<'a> {
    Bytes(&'a [u8]),
    Other(u64),
}

/// Reads a protobuf message field by field.
struct Message<'a> {
    rest: &'a [u8],
}

impl<'a> Message<'a> {
    fn next_field(&mut self) -> Result<Option<(u64, Value<'a>)>, KplError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Other(self.varint()?),
            1 => Value::Other(self.fixed(8)?),
            2 => {
                let bytes = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Value::Bytes(self.take(bytes)?)
            }
            5 => Value::Other(self.fixed(4)?),
            _ => return Err(malformed("a field has a wire type that is not used")),
        };
        match tag >> 3 {
            0 => Err(malformed("a field has number 0")),
            number => Ok(Some((number, value))),
        }
    }

    fn fixed(&mut self, bytes: usize) -> Result<u64, KplError> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], KplError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(malformed("it ends within a field"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, KplError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(malformed("a number has more than ten bytes"))
    }
}

#[cfg(test)]
mod tests;
