//! The state object: one small JSON document on S3 that holds a lease, its fencing token and a committed state.
//!
//! Promises: taking the lease, renewing it and committing are compare-and-swaps on that one object (`If-Match` and
//! `If-None-Match`), so a holder that lost its lease cannot commit. A conflict after a lost answer is settled by
//! reading the object back: where it holds exactly what was written, the write had arrived. Taking a lease is the
//! exception: the same run, triggered twice, may write the very same bytes, so a holder who is not sure takes the lease
//! again under a higher token. A token has one owner, whoever that is called.

use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::ByteStream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How often a lease is taken anew where the answer to taking it was lost.
const TAKES_MAX: u32 = 4;

/// Why a state object could not be read, leased or committed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Someone else wrote the object since it was read; whoever sees this has lost.
    #[error("state object {key} was changed by somebody else: this run lost its lease and commits nothing")]
    Conflict {
        /// The object's key.
        key: String,
    },
    /// Someone else holds the lease.
    #[error("state object {key} is leased by {holder} for another {remaining_ms} ms: let it finish, or wait")]
    Busy {
        /// The object's key.
        key: String,
        /// Who holds it.
        holder: String,
        /// How long the lease still runs, in milliseconds.
        remaining_ms: i64,
    },
    /// The object is not what this version writes.
    #[error("state object {key} does not parse")]
    Corrupt {
        /// The object's key.
        key: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// S3 answered with something else, or not at all.
    #[error("state object {key}: {operation} failed: {message}")]
    Storage {
        /// The object's key.
        key: String,
        /// The S3 operation.
        operation: &'static str,
        /// What S3 or the transport said.
        message: String,
    },
}

/// A value with the version (ETag) under which it was read or written.
#[derive(Clone, Debug)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The object's ETag, as S3 gave it.
    pub etag: String,
}

/// The right to work on a state object until a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who holds it: a run ID.
    pub holder: String,
    /// Milliseconds since the epoch at which it ends.
    pub until_ms: i64,
}

/// The document: committed state, fencing token, and the lease while somebody works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document<T> {
    /// Rises by one with every lease taken; a fencing token for effects outside the object.
    pub token: u64,
    /// Who works on it now, if anybody.
    pub lease: Option<Lease>,
    /// The committed state.
    pub state: T,
}

/// State objects in one bucket.
#[derive(Clone, Debug)]
pub struct StateStore {
    s3: aws_sdk_s3::Client,
    bucket: String,
}

/// How a write ended, with the object's ETag.
enum Put {
    /// It was answered.
    Written(String),
    /// The object held these bytes already: written by an earlier try, or by somebody who wrote the same.
    There(String),
}

/// A lease that was taken, with the state it guards.
#[derive(Debug)]
pub struct Held<T> {
    store: StateStore,
    key: String,
    etag: String,
    /// The document as last written by this holder.
    pub document: Document<T>,
}

impl StateStore {
    /// State objects in `bucket`.
    #[must_use]
    pub fn new(s3: aws_sdk_s3::Client, bucket: impl Into<String>) -> Self {
        Self { s3, bucket: bucket.into() }
    }

    /// Reads the object at `key`, or `None` where there is none.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] where it does not parse, [`StateError::Storage`] where S3 failed.
    pub async fn load<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Versioned<T>>, StateError> {
        let Some((bytes, etag)) = self.read(key).await? else { return Ok(None) };
        let value =
            serde_json::from_slice(&bytes).map_err(|source| StateError::Corrupt { key: key.to_owned(), source })?;
        Ok(Some(Versioned { value, etag }))
    }

    /// Writes `value` at `key` if the object's ETag still is `expected` (`None`: if there is no object yet), and
    /// returns the new ETag.
    ///
    /// # Errors
    /// [`StateError::Conflict`] where it is not, [`StateError::Storage`] where S3 failed.
    pub async fn commit<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        expected: Option<&str>,
    ) -> Result<String, StateError> {
        match self.put(key, value, expected).await? {
            Put::Written(etag) | Put::There(etag) => Ok(etag),
        }
    }

    async fn put<T: Serialize>(&self, key: &str, value: &T, expected: Option<&str>) -> Result<Put, StateError> {
        let body = serde_json::to_vec(value).map_err(|source| StateError::Corrupt { key: key.to_owned(), source })?;
        let mut request = self
            .s3
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_type("application/json")
            .body(ByteStream::from(body.clone()));
        request = match expected {
            Some(etag) => request.if_match(etag),
            None => request.if_none_match("*"),
        };
        match request.send().await {
            Ok(written) => Ok(Put::Written(written.e_tag.unwrap_or_default())),
            Err(error) if lost_the_race(&error) => match self.read(key).await? {
                Some((bytes, etag)) if bytes == body => Ok(Put::There(etag)),
                _ => Err(StateError::Conflict { key: key.to_owned() }),
            },
            Err(error) => Err(storage(key, "PutObject", &error)),
        }
    }

    /// Takes the lease of the object at `key` for `holder` until `now_ms + ttl_ms`. The same holder may take it
    /// again; anybody may take one that has run out.
    ///
    /// # Errors
    /// [`StateError::Busy`] while somebody else holds it, [`StateError::Conflict`] where two raced.
    pub async fn acquire<T>(&self, key: &str, holder: &str, now_ms: i64, ttl_ms: i64) -> Result<Held<T>, StateError>
    where
        T: Serialize + DeserializeOwned + Default,
    {
        let found = self.load::<Document<T>>(key).await?;
        let (mut document, mut expected) = match found {
            Some(found) => (found.value, Some(found.etag)),
            None => (Document { token: 0, lease: None, state: T::default() }, None),
        };
        if let Some(lease) = &document.lease
            && lease.holder != holder
            && lease.until_ms > now_ms
        {
            let remaining_ms = lease.until_ms - now_ms;
            return Err(StateError::Busy { key: key.to_owned(), holder: lease.holder.clone(), remaining_ms });
        }
        document.lease = Some(Lease { holder: holder.to_owned(), until_ms: now_ms + ttl_ms });
        for _ in 0..TAKES_MAX {
            document.token += 1;
            match self.put(key, &document, expected.as_deref()).await? {
                Put::Written(etag) => {
                    return Ok(Held { store: self.clone(), key: key.to_owned(), etag, document });
                }
                Put::There(etag) => expected = Some(etag),
            }
        }
        Err(StateError::Conflict { key: key.to_owned() })
    }

    async fn read(&self, key: &str) -> Result<Option<(Vec<u8>, String)>, StateError> {
        let answer = self.s3.get_object().bucket(&self.bucket).key(key).send().await;
        let object = match answer {
            Ok(object) => object,
            Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => return Ok(None),
            Err(error) => return Err(storage(key, "GetObject", &error)),
        };
        let etag = object.e_tag.unwrap_or_default();
        let bytes = object.body.collect().await.map_err(|error| StateError::Storage {
            key: key.to_owned(),
            operation: "GetObject",
            message: error.to_string(),
        })?;
        Ok(Some((bytes.to_vec(), etag)))
    }
}

impl<T: Serialize> Held<T> {
    /// The fencing token of this lease.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.document.token
    }

    /// Commits `self.document.state` and prolongs the lease to `until_ms`.
    ///
    /// # Errors
    /// [`StateError::Conflict`] where the lease was lost.
    pub async fn commit(&mut self, until_ms: i64) -> Result<(), StateError> {
        if let Some(lease) = &mut self.document.lease {
            lease.until_ms = until_ms;
        }
        self.write().await
    }

    /// Commits `self.document.state` and lets the lease go.
    ///
    /// # Errors
    /// [`StateError::Conflict`] where the lease was lost.
    pub async fn release(mut self) -> Result<(), StateError> {
        self.document.lease = None;
        self.write().await
    }

    async fn write(&mut self) -> Result<(), StateError> {
        self.etag = self.store.commit(&self.key, &self.document, Some(&self.etag)).await?;
        Ok(())
    }
}

/// 412: the condition did not hold. 409: two conditional writes met, and S3 wants one to read again.
fn lost_the_race(error: &SdkError<PutObjectError>) -> bool {
    error.raw_response().is_some_and(|response| matches!(response.status().as_u16(), 409 | 412))
}

fn storage<E>(key: &str, operation: &'static str, error: &SdkError<E>) -> StateError
where
    SdkError<E>: std::error::Error,
{
    StateError::Storage { key: key.to_owned(), operation, message: DisplayErrorContext(error).to_string() }
}
