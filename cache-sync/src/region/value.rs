//! Values that lie on S3: looked for before a lane is touched, then built beside the key in pieces, so that memory
//! stays bounded whatever their size.

use super::batch::{Step, What};
use super::connection::{Session, redis_error};
use super::quarantine::storage;
use super::replay::hex;
use super::{Region, RegionError};
use crate::change::{Body, Change, Reference};
use crate::keys;
use crate::lane::slot;
use crate::values::{self, VALUE_BYTES_MAX};
use futures::{StreamExt, TryStreamExt};
use redis::{Cmd, FromRedisValue};
use sha2::{Digest, Sha256};

/// A value is appended in pieces of about this many bytes.
const PIECE_BYTES: usize = 1 << 20;
/// What was built aside and never took its key's place goes after this long, in seconds.
const ASIDE_TTL_S: u64 = 3_600;
/// Objects looked for at once.
const LOOKS_AT_ONCE: usize = 8;

/// The reference of a step, if it has one.
fn reference<'s>(step: &'s &Step<'_>) -> Option<&'s Reference> {
    match &step.what {
        What::Change(Change { body: Body::Reference(reference), .. }) => Some(reference),
        _ => None,
    }
}

impl Region {
    /// Those objects that the steps refer to and that are not in the region's bucket.
    pub(super) async fn missing(&self, steps: &[Step<'_>]) -> Result<Vec<Reference>, RegionError> {
        let references: Vec<Reference> =
            steps.iter().filter_map(|step| reference(&step).cloned()).filter(|r| r.bytes <= VALUE_BYTES_MAX).collect();
        futures::stream::iter(references)
            .map(|reference| async move {
                let there = self.is_there(&reference.object).await?;
                Ok((!there).then_some(reference))
            })
            .buffered(LOOKS_AT_ONCE)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await
    }

    async fn is_there(&self, object: &str) -> Result<bool, RegionError> {
        match self.s3.head_object().bucket(&self.settings.bucket).key(object).send().await {
            Ok(head) => {
                let written_ms = head.last_modified().and_then(|time| time.to_millis().ok());
                if written_ms.is_some_and(|written_ms| values::is_old(written_ms, self.clock.now_ms()))
                    && let Err(error) = values::refresh(&self.s3, &self.settings.bucket, object).await
                {
                    // It is there now, which is what this batch needs; the next use tries again.
                    tracing::warn!(object, error = %error, "value not made young again");
                }
                Ok(true)
            }
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(false),
            Err(error) => Err(storage("HeadObject", object, &error)),
        }
    }

    /// Builds the value of `key` beside it and returns where; the inner error is the producer's, the outer one may pass.
    pub(super) async fn build_aside(
        &self,
        session: &mut Session,
        key: &[u8],
        reference: &Reference,
    ) -> Result<Result<String, String>, RegionError> {
        if reference.bytes > VALUE_BYTES_MAX {
            return Ok(Err(format!("ref.bytes is {}: at most {VALUE_BYTES_MAX}", reference.bytes)));
        }
        let object = &reference.object;
        let request = self.s3.get_object().bucket(&self.settings.bucket).key(object);
        let mut body = request.send().await.map_err(|error| storage("GetObject", object, &error))?.body;
        let aside = keys::aside(slot(key));
        let mut begin = redis::cmd("SET");
        begin.arg(&aside).arg("").arg("EX").arg(ASIDE_TTL_S);
        session.ask::<()>(&begin).await?;
        let (mut digest, mut length, mut piece) = (Sha256::new(), 0, Vec::with_capacity(PIECE_BYTES));
        while let Some(bytes) = body.try_next().await.map_err(|error| storage("GetObject", object, &error))? {
            digest.update(&bytes);
            length += bytes.len() as u64;
            if length > reference.bytes {
                break;
            }
            piece.extend_from_slice(&bytes);
            if piece.len() >= PIECE_BYTES {
                append(session, &aside, &mut piece).await?;
            }
        }
        append(session, &aside, &mut piece).await?;
        if length == reference.bytes && hex(&digest.finalize()) == reference.sha256 {
            return Ok(Ok(aside));
        }
        let mut remove = redis::cmd("DEL");
        remove.arg(&aside);
        session.ask::<()>(&remove).await?;
        Ok(Err(format!("object {object} has another size or checksum than its ref")))
    }
}

async fn append(session: &mut Session, aside: &str, piece: &mut Vec<u8>) -> Result<(), RegionError> {
    let mut append = redis::cmd("APPEND");
    append.arg(aside).arg(piece.as_slice());
    piece.clear();
    session.ask::<()>(&append).await
}

impl Session {
    /// One command, outside of any transaction.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RegionError> {
        let answer = match self {
            Session::Standalone(connection) => command.query_async(&mut connection.redis).await,
            Session::Cluster(cluster) => command.query_async(&mut cluster.connection).await,
        };
        answer.map_err(redis_error("a command"))
    }
}
