//! Asking a region: one synchronous invocation of its replay function.

use crate::protocol::Request;
use aws_sdk_lambda::error::DisplayErrorContext;
use aws_sdk_lambda::primitives::Blob;
use bytes::Bytes;
use serde::de::DeserializeOwned;

/// Why a region gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// Lambda did not run the function, or its answer did not arrive.
    #[error("function {function} in {region} could not be invoked: {message}")]
    Invoke {
        /// The function's name.
        function: String,
        /// Its region.
        region: String,
        /// What Lambda or the transport said.
        message: String,
    },
    /// The function ran and failed.
    #[error("function {function} in {region} failed: {message}")]
    Function {
        /// The function's name.
        function: String,
        /// Its region.
        region: String,
        /// The function's own words.
        message: String,
    },
    /// What goes in or comes out does not parse.
    #[error("function {function} in {region}: the request or the answer does not parse")]
    Json {
        /// The function's name.
        function: String,
        /// Its region.
        region: String,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// A region's replay function.
#[derive(Clone, Debug)]
pub struct RegionClient {
    lambda: aws_sdk_lambda::Client,
    region: String,
    function: String,
}

impl RegionClient {
    /// The function called `function` in `region`; `lambda` must be a client of that region.
    #[must_use]
    pub fn new(lambda: aws_sdk_lambda::Client, region: impl Into<String>, function: impl Into<String>) -> Self {
        Self { lambda, region: region.into(), function: function.into() }
    }

    /// The region's name.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn ask<T: DeserializeOwned>(&self, request: &Request<'_>) -> Result<T, InvokeError> {
        let payload = serde_json::to_vec(request).map_err(|source| self.json(source))?;
        self.ask_raw(payload).await
    }

    /// Asks with a request that is JSON already; `Bytes` are not copied.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn ask_raw<T: DeserializeOwned>(&self, payload: impl Into<Bytes>) -> Result<T, InvokeError> {
        let payload = Blob::from_maybe_shared(payload.into());
        let request = self.lambda.invoke().function_name(&self.function).payload(payload);
        let answer = request.send().await.map_err(|error| InvokeError::Invoke {
            function: self.function.clone(),
            region: self.region.clone(),
            message: DisplayErrorContext(error).to_string(),
        })?;
        let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
        if answer.function_error.is_some() {
            return Err(InvokeError::Function {
                function: self.function.clone(),
                region: self.region.clone(),
                message: error_message(&payload),
            });
        }
        serde_json::from_slice(&payload).map_err(|source| self.json(source))
    }

    fn json(&self, source: serde_json::Error) -> InvokeError {
        InvokeError::Json { function: self.function.clone(), region: self.region.clone(), source }
    }
}

/// Lambda wraps what a function says in `errorMessage`.
fn error_message(payload: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(payload).ok();
    match parsed.as_ref().and_then(|error| error["errorMessage"].as_str()) {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(payload).chars().take(2_000).collect(),
    }
}
