//! One owner of retries for calls to Athena: here, not in the SDK, so that tries do not multiply.

use super::{Athena, QueryError};
use aws_sdk_athena::config::Builder;
use aws_sdk_athena::config::retry::RetryConfig;
use aws_sdk_athena::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use std::time::Duration;

/// How often a call is tried, the first try included.
pub(super) const TRIES_MAX: u32 = 8;
/// The pause before the second try; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The longest pause between two tries.
const PAUSE_LONGEST: Duration = Duration::from_secs(20);

/// Codes of calls that came too fast or met a passing fault.
/// <https://docs.aws.amazon.com/athena/latest/APIReference/CommonErrors.html>
const PASSING: [&str; 5] =
    ["TooManyRequestsException", "ThrottlingException", "Throttling", "ServiceUnavailable", "InternalServerException"];

/// Calls with this configuration are not tried again by the SDK.
pub(super) fn once() -> Builder {
    Builder::new().retry_config(RetryConfig::disabled())
}

impl Athena<'_> {
    /// Tries `send` until it has an answer, the fault is one that stays, or [`TRIES_MAX`] is reached.
    pub(super) async fn call<T, E, F>(&self, operation: &'static str, send: impl Fn() -> F) -> Result<T, QueryError>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let mut pause = PAUSE_FIRST;
        for tries in 1.. {
            let error = match send().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if tries >= TRIES_MAX || !passes(&error) {
                return Err(QueryError::Service { operation, message: DisplayErrorContext(&error).to_string() });
            }
            tracing::debug!(operation, tries, error = %DisplayErrorContext(&error), "trying again");
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
        unreachable!("the loop ends by returning")
    }
}

fn passes<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => true,
        SdkError::ServiceError(service) => {
            service.raw().status().as_u16() >= 500 || service.err().code().is_some_and(|code| PASSING.contains(&code))
        }
        _ => false,
    }
}
