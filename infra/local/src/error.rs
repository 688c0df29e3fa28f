//! Why a part of the local cloud could not be started or told what to do.

use std::error::Error;
use std::path::PathBuf;

/// An error of the local cloud. The message says what failed, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A program or file this needs is not there.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// What was looked for.
        what: String,
        /// How to get it.
        remedy: &'static str,
    },
    /// The port asked for is in use.
    #[error("port {port} for {server} is taken on 127.0.0.1: free it, or set {setting} to another port or not at all")]
    PortTaken {
        /// The port.
        port: u16,
        /// The server that wanted it.
        server: &'static str,
        /// The variable or option that chose it.
        setting: String,
    },
    /// A server ended or stayed silent where it should have become ready.
    #[error("{server} did not become ready: {reason}\n{log_tail}")]
    NotReady {
        /// The server.
        server: &'static str,
        /// What happened instead.
        reason: String,
        /// The last lines it wrote.
        log_tail: String,
    },
    /// The file system or the operating system refused something.
    #[error("{operation}: {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A call to the local cloud failed.
    #[error("{operation} failed")]
    Call {
        /// What was called, on what.
        operation: String,
        /// The client's error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A function answered with an error.
    #[error("function {function} in {region} failed: {message}")]
    Function {
        /// The function's name.
        function: String,
        /// Its region.
        region: String,
        /// What it answered.
        message: String,
    },
    /// Something that was waited for did not happen in time.
    #[error("waited {waited_ms} ms for {what}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long, in milliseconds.
        waited_ms: u128,
    },
}

impl LocalError {
    /// A closure for `map_err` around a client call named `operation`.
    pub fn call<E: Into<Box<dyn Error + Send + Sync>>>(operation: impl Into<String>) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| Self::Call { operation, source: source.into() }
    }

    /// A closure for `map_err` around a file operation.
    pub fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
