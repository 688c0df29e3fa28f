//! Bounded waiting for a condition.

use crate::error::LocalError;
use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Asks `probe` again and again until it gives a value, for at most `timeout`.
///
/// # Errors
/// [`LocalError::TimedOut`] with `what`, or the probe's own error at once.
pub async fn until<T, E, F>(what: &str, timeout: Duration, mut probe: F) -> Result<T, E>
where
    F: AsyncFnMut() -> Result<Option<T>, E>,
    E: From<LocalError>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await? {
            return Ok(value);
        }
        if start.elapsed() > timeout {
            return Err(LocalError::TimedOut { what: what.to_owned(), waited_ms: timeout.as_millis() }.into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_never_holds_is_named_in_the_error() {
        let never = async || -> Result<Option<()>, LocalError> { Ok(None) };
        let error = until("the moon", Duration::from_millis(30), never).await.unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }

    #[tokio::test]
    async fn the_first_value_ends_the_wait() {
        let mut calls = 0;
        let third = async || -> Result<Option<i32>, LocalError> {
            calls += 1;
            Ok((calls == 3).then_some(calls))
        };
        assert_eq!(until("the third call", Duration::from_secs(20), third).await.unwrap(), 3);
    }
}
