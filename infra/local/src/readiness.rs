//! Waiting for a server that was just started.

use crate::error::LocalError;
use crate::process_group::ProcessGroup;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(20);
const LOG_TAIL_LINES: usize = 20;
const LOG_TAIL_BYTES: u64 = 16 * 1024;

/// Returns when `ready` holds; fails when the process ends first or the time is up.
pub(crate) fn until_ready(
    server: &'static str,
    process: &mut ProcessGroup,
    log: &Path,
    timeout: Duration,
    mut ready: impl FnMut() -> bool,
) -> Result<(), LocalError> {
    let deadline = Instant::now() + timeout;
    let failed = |reason: String| LocalError::NotReady { server, reason, log_tail: log_tail(log) };
    loop {
        // Ended is looked at first: after a clash of ports it is another server that answers.
        match process.ended() {
            Ok(None) => {}
            Ok(Some(status)) => return Err(failed(format!("it ended ({status})"))),
            Err(error) => return Err(failed(format!("it cannot be watched ({error})"))),
        }
        if ready() && matches!(process.ended(), Ok(None)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(failed(format!("no answer within {} s", timeout.as_secs())));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The last lines of a log, or a note that it cannot be read.
pub(crate) fn log_tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
        }
        Err(error) => format!("(no log at {}: {error})", log.display()),
    }
}
