//! Copies values that a region lacks to its bucket, from the bucket of the region that published them.
//!
//! Promises: only what is named by its content under `values/` is copied, and only from buckets that the settings name,
//! whatever a change says; S3 copies by itself, so nothing of a value passes through this function; a value that cannot
//! be had is told, so that it costs its change alone and not the lane's future.

use crate::change::Reference;
use crate::keys;
use crate::values::{self, VALUE_BYTES_MAX, ValueError};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::ChecksumAlgorithm;
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};

/// Values copied at once.
const COPIES_AT_ONCE: usize = 4;

/// Objects that cannot be had, with the reason.
pub type Unobtainable = BTreeMap<String, String>;

/// Copies values to one region's bucket.
#[derive(Clone, Debug)]
pub struct ValueCopier {
    s3: aws_sdk_s3::Client,
    bucket: String,
    sources: BTreeSet<String>,
}

impl ValueCopier {
    /// Copies to `bucket`, with a client of its region, from the buckets in `sources`.
    #[must_use]
    pub fn new(
        s3: aws_sdk_s3::Client,
        bucket: impl Into<String>,
        sources: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self { s3, bucket: bucket.into(), sources: sources.into_iter().map(Into::into).collect() }
    }

    /// Copies what is named, each object once, and returns what cannot be had.
    ///
    /// # Errors
    /// [`ValueError`] where a copy failed and a retry may help.
    pub async fn copy(&self, references: Vec<Reference>) -> Result<Unobtainable, ValueError> {
        let by_object: BTreeMap<String, Reference> =
            references.into_iter().map(|reference| (reference.object.clone(), reference)).collect();
        futures::stream::iter(by_object)
            .map(|(object, reference)| async move {
                let refused = match self.refusal(&reference) {
                    Some(reason) => Some(reason),
                    None => self.copy_one(&reference).await?,
                };
                Ok(refused.map(|reason| (object, reason)))
            })
            .buffer_unordered(COPIES_AT_ONCE)
            .try_filter_map(|refused| async move { Ok(refused) })
            .try_collect()
            .await
    }

    /// Why a reference is not followed, if it is not. A change could name any object, to read or to overwrite.
    fn refusal(&self, reference: &Reference) -> Option<String> {
        let Reference { bucket, object, sha256, bytes, .. } = reference;
        if *object != keys::value(sha256) {
            Some(format!("object {object} is not named by its content: it must be {}", keys::value(sha256)))
        } else if *bucket == self.bucket {
            Some(format!("object {object} is not in bucket {bucket}, which should have it"))
        } else if !self.sources.contains(bucket) {
            Some(format!("bucket {bucket} is none of this deployment's"))
        } else if *bytes > VALUE_BYTES_MAX {
            Some(format!("ref.bytes is {bytes}: at most {VALUE_BYTES_MAX}"))
        } else {
            None
        }
    }

    async fn copy_one(&self, reference: &Reference) -> Result<Option<String>, ValueError> {
        let Reference { bucket, object, sha256, bytes, .. } = reference;
        let copy = self.s3.copy_object().bucket(&self.bucket).key(object).copy_source(format!("{bucket}/{object}"));
        let copied = match copy.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await {
            Ok(copied) => copied,
            Err(error) if error.code() == Some("NoSuchKey") => {
                return Ok(Some(format!("object {object} is not in bucket {bucket}: write a value before its change")));
            }
            Err(error) => return Err(values::failed("CopyObject", &self.bucket, object, &error)),
        };
        let checksum = copied.copy_object_result().and_then(|result| result.checksum_sha256());
        if checksum.is_some_and(|checksum| Some(checksum) != values::base64_of_hex(sha256).as_deref()) {
            return Ok(Some(format!("object {object} in bucket {bucket} has another checksum than its ref")));
        }
        tracing::info!(object, from = bucket, to = self.bucket, bytes, "value copied");
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_of_named_buckets_are_followed() {
        let config = aws_sdk_s3::Config::builder().behavior_version(aws_sdk_s3::config::BehaviorVersion::latest());
        let copier = ValueCopier::new(aws_sdk_s3::Client::from_conf(config.build()), "target", ["source", "target"]);
        let sha256 = "ab".repeat(32);
        let good =
            Reference { bucket: "source".into(), object: keys::value(&sha256), sha256, bytes: 9, expires_at_ms: None };
        assert_eq!(copier.refusal(&good), None);
        for (bad, words) in [
            (Reference { object: "jobs/state/heartbeat".into(), ..good.clone() }, "not named by its content"),
            (Reference { object: "values/../jobs".into(), ..good.clone() }, "not named by its content"),
            (Reference { bucket: "elsewhere".into(), ..good.clone() }, "none of this deployment's"),
            (Reference { bucket: "target".into(), ..good.clone() }, "should have it"),
            (Reference { bytes: VALUE_BYTES_MAX + 1, ..good.clone() }, "at most"),
        ] {
            let reason = copier.refusal(&bad).unwrap();
            assert!(reason.contains(words), "{bad:?}: {reason}");
        }
    }
}
