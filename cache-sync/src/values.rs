//! Values that do not fit a record: they lie on S3, named by their content, and travel as references.
//!
//! Promises: what a reference names was written whole before the reference was published; an object that is used again
//! is young again, so that a lifecycle by age cannot take it while a change that is still read names it.

use crate::change::Reference;
use crate::keys;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, MetadataDirective};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tidemark_runtime::clock::Clock;

/// Largest value, in bytes: the largest string that Redis holds.
pub const VALUE_BYTES_MAX: u64 = 512 << 20;
/// An object that is older is written again when it is used, so a lifecycle by age must leave this much beyond what it
/// has to keep.
pub const REFRESH_AGE: Duration = Duration::from_hours(24);
/// Tries to write an object that others write at the same moment.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// Why a value was not written or copied.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// It is larger than Redis takes.
    #[error("a value of {bytes} bytes is too large: at most {VALUE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// S3 failed.
    #[error("s3: {operation} of {object} in bucket {bucket} failed: {message}")]
    Storage {
        /// The S3 operation.
        operation: &'static str,
        /// The bucket.
        bucket: String,
        /// The object.
        object: String,
        /// What S3 or the transport said.
        message: String,
    },
    /// Hashing was stopped, with the runtime.
    #[error("the value was not hashed: its thread was stopped")]
    Stopped,
}

/// A bucket that values are written to.
#[derive(Clone, Debug)]
pub struct ValueStore {
    s3: aws_sdk_s3::Client,
    bucket: String,
    clock: Clock,
}

/// What lies in the bucket under a value's name.
enum Found {
    Nothing,
    /// The value, young enough.
    Fresh,
    /// The value, or something else under its name.
    Stale,
}

impl ValueStore {
    /// Values in `bucket`, with a client of its region.
    #[must_use]
    pub fn new(s3: aws_sdk_s3::Client, bucket: impl Into<String>, clock: Clock) -> Self {
        Self { s3, bucket: bucket.into(), clock }
    }

    /// Writes a value, unless it is there and younger than [`REFRESH_AGE`]; the reference names no expiry.
    ///
    /// # Errors
    /// [`ValueError`].
    pub async fn put(&self, value: Bytes) -> Result<Reference, ValueError> {
        let bytes = value.len() as u64;
        if bytes > VALUE_BYTES_MAX {
            return Err(ValueError::TooLarge { bytes });
        }
        let hashed = value.clone();
        let digest = tokio::task::spawn_blocking(move || Sha256::digest(&hashed)).await;
        let digest = Digested::new(&digest.map_err(|_| ValueError::Stopped)?);
        let object = keys::value(&digest.hex);
        for attempt in 1..=ATTEMPTS_MAX {
            let only_new = match self.look(&object, bytes, &digest).await? {
                Found::Fresh => break,
                Found::Nothing => true,
                Found::Stale => false,
            };
            if self.write(&object, value.clone(), &digest, only_new, attempt == ATTEMPTS_MAX).await? {
                break;
            }
            self.clock.sleep(PAUSE * attempt).await;
        }
        Ok(Reference { bucket: self.bucket.clone(), object, sha256: digest.hex, bytes, expires_at_ms: None })
    }

    async fn look(&self, object: &str, bytes: u64, digest: &Digested) -> Result<Found, ValueError> {
        let request = self.s3.head_object().bucket(&self.bucket).key(object).checksum_mode(ChecksumMode::Enabled);
        let head = match request.send().await {
            Ok(head) => head,
            // Without the right to list, S3 says 403 for what is not there; the write then tells the two apart.
            Err(error) => match error.raw_response().map(|response| response.status().as_u16()) {
                Some(403 | 404) => return Ok(Found::Nothing),
                _ => return Err(self.failed("HeadObject", object, &error)),
            },
        };
        let same = head.content_length().and_then(|length| u64::try_from(length).ok()) == Some(bytes)
            && head.checksum_sha256().is_none_or(|checksum| checksum == digest.base64);
        let written_ms = head.last_modified().and_then(|time| time.to_millis().ok()).unwrap_or(0);
        let fresh = same && !is_old(written_ms, self.clock.now_ms());
        Ok(if fresh { Found::Fresh } else { Found::Stale })
    }

    /// Writes the object; `false`: somebody else writes it at the same moment, so it is to be looked at again.
    async fn write(
        &self,
        object: &str,
        value: Bytes,
        digest: &Digested,
        only_new: bool,
        last: bool,
    ) -> Result<bool, ValueError> {
        let mut request = self.s3.put_object().bucket(&self.bucket).key(object).checksum_sha256(&digest.base64);
        if only_new {
            request = request.if_none_match("*");
        }
        match request.body(ByteStream::from(value)).send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.code() {
                Some("PreconditionFailed" | "ConditionalRequestConflict") if !last => Ok(false),
                _ => Err(self.failed("PutObject", object, &error)),
            },
        }
    }

    fn failed(&self, operation: &'static str, object: &str, error: &dyn std::error::Error) -> ValueError {
        failed(operation, &self.bucket, object, error)
    }
}

/// A SHA-256 as references and as S3 write it.
struct Digested {
    hex: String,
    base64: String,
}

impl Digested {
    fn new(digest: &[u8]) -> Self {
        let hex = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { hex, base64: base64_simd::STANDARD.encode_to_string(digest) }
    }
}

/// A checksum as S3 writes it, of one in hex.
pub(crate) fn base64_of_hex(hex: &str) -> Option<String> {
    let byte = |at| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    bytes.map(|bytes| base64_simd::STANDARD.encode_to_string(bytes))
}

/// Makes an object in its own bucket young again, so that a lifecycle by age leaves it there.
///
/// # Errors
/// [`ValueError::Storage`].
pub async fn refresh(s3: &aws_sdk_s3::Client, bucket: &str, object: &str) -> Result<(), ValueError> {
    // S3 takes a copy onto itself only where it replaces something: here the metadata, of which there is none.
    let copy = s3.copy_object().bucket(bucket).key(object).copy_source(format!("{bucket}/{object}"));
    let copied = copy.metadata_directive(MetadataDirective::Replace).send().await;
    copied.map(drop).map_err(|error| failed("CopyObject", bucket, object, &error))
}

/// Whether an object that was written then is to be made young again when it is used.
#[must_use]
pub fn is_old(written_ms: i64, now_ms: i64) -> bool {
    u128::try_from(now_ms.saturating_sub(written_ms)).is_ok_and(|age_ms| age_ms >= REFRESH_AGE.as_millis())
}

/// Wraps what S3 says with the operation and the object.
pub(crate) fn failed(operation: &'static str, bucket: &str, object: &str, error: &dyn std::error::Error) -> ValueError {
    let message = DisplayErrorContext(error).to_string();
    ValueError::Storage { operation, bucket: bucket.to_owned(), object: object.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_the_same_in_hex_and_in_base64() {
        // Golden: hashlib.sha256(b"hello").
        let digest = Digested::new(&Sha256::digest(b"hello"));
        assert_eq!(digest.hex, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        assert_eq!(digest.base64, "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=");
        assert_eq!(base64_of_hex(&digest.hex), Some(digest.base64));
        assert_eq!(base64_of_hex("x"), None);
        assert_eq!(keys::value(&digest.hex), format!("values/2c/{}", digest.hex));
    }

    #[test]
    fn an_object_is_old_after_a_day_and_never_before_it_was_written() {
        let day_ms = i64::try_from(REFRESH_AGE.as_millis()).unwrap();
        assert!(is_old(0, day_ms) && !is_old(1, day_ms) && !is_old(day_ms, 0));
    }
}
