//! Quarantine: what was refused or failed goes to S3 with its reason, so that nothing is lost.

use super::{Region, RegionError};
use crate::event::EventRecord;
use crate::keys;
use crate::position::Position;
use crate::quarantine::{Quarantined, VERSION};
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;

impl Region {
    /// Writes one quarantine object. The same change writes the same object, so a second delivery changes nothing.
    pub(super) async fn quarantine(
        &self,
        record: &EventRecord<'_>,
        position: &Position,
        reason: &str,
        deleted_keys: &[Vec<u8>],
    ) -> Result<(), RegionError> {
        let partition_key = record.kinesis.partition_key.as_ref();
        let object = keys::quarantine(partition_key, position);
        let body = Quarantined {
            v: VERSION,
            region: self.settings.region.clone(),
            partition_key: partition_key.to_owned(),
            position: position.clone(),
            arrival_ms: record.arrival_ms(),
            reason: reason.to_owned(),
            deleted_keys: deleted_keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect(),
            data: record.kinesis.data.clone().into_owned(),
        };
        let body = serde_json::to_vec(&body).map_err(RegionError::Request)?;
        tracing::warn!(partition_key, %position, reason, object, "change quarantined");
        self.put(&object, body, "application/json").await
    }

    /// Writes an object to the region's bucket.
    pub(super) async fn put(&self, object: &str, body: Vec<u8>, content_type: &str) -> Result<(), RegionError> {
        let request = self.s3.put_object().bucket(&self.settings.bucket).key(object).content_type(content_type);
        match request.body(ByteStream::from(body)).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(storage("PutObject", object, &error)),
        }
    }

    /// Reads an object of the region's bucket.
    pub(super) async fn fetch(&self, object: &str) -> Result<Vec<u8>, RegionError> {
        let request = self.s3.get_object().bucket(&self.settings.bucket).key(object);
        let found = request.send().await.map_err(|error| storage("GetObject", object, &error))?;
        let bytes = found.body.collect().await.map_err(|error| storage("GetObject", object, &error))?;
        Ok(bytes.to_vec())
    }
}

/// Wraps what S3 says with the operation and the object.
pub(super) fn storage(operation: &'static str, object: &str, error: &dyn std::error::Error) -> RegionError {
    RegionError::Storage { operation, object: object.to_owned(), message: DisplayErrorContext(error).to_string() }
}
