//! Structured logs: one JSON object a line on stderr or, in Lambda, where the platform collects them.

use tracing_subscriber::EnvFilter;

/// Starts JSON logs. `RUST_LOG` sets the level, `info` without it. A second call changes nothing.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .finish();
    // Only the first call of a process can win; a later one finds the logs already started.
    tracing::subscriber::set_global_default(subscriber).ok();
}

/// An error with all its causes, on one line.
#[must_use]
pub fn full_message(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    message
}
