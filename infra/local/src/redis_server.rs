//! One real `redis-server` on 127.0.0.1, for a region of the local cloud or for a test.

use crate::error::LocalError;
use crate::ports::Port;
use crate::process_group::{ProcessGroup, program};
use crate::readiness::{log_tail, until_ready};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const SERVER: &str = "redis-server";
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const REMEDY: &str = "run infra/local/prerequisites, or install it (Debian, Ubuntu: apt-get install redis-server)";

/// A running `redis-server` without persistence, with a directory of its own, killed on drop.
#[derive(Debug)]
pub struct RedisServer {
    // Dropped in this order: the process ends before its directory goes.
    _process: ProcessGroup,
    _directory: TempDir,
    port: u16,
}

impl RedisServer {
    /// Starts a server on a free port and returns when it answers PING.
    ///
    /// # Errors
    /// [`LocalError::Missing`] without `redis-server` on PATH; [`LocalError::NotReady`] when it ends or stays silent.
    pub fn start() -> Result<Self, LocalError> {
        Self::start_on(&Port::Free, &[])
    }

    /// As [`RedisServer::start`], on `port` and with more arguments (`["--maxmemory", "1mb"]`).
    ///
    /// # Errors
    /// As [`RedisServer::start`], and [`LocalError::PortTaken`].
    pub fn start_on(port: &Port, arguments: &[&str]) -> Result<Self, LocalError> {
        let program = program(SERVER, REMEDY)?;
        let mut attempts_left = port.attempts_max();
        loop {
            attempts_left -= 1;
            match Self::start_once(&program, port.pick(SERVER)?, arguments) {
                Err(LocalError::NotReady { .. }) if attempts_left > 0 => {}
                result => return result,
            }
        }
    }

    fn start_once(program: &Path, port: u16, arguments: &[&str]) -> Result<Self, LocalError> {
        let directory = TempDir::with_prefix("tidemark-redis-")
            .map_err(LocalError::io("make a directory", std::env::temp_dir()))?;
        let log = directory.path().join("redis.log");
        let mut command = Command::new(program);
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"])
            .arg(directory.path())
            .args(arguments);
        redirect(&mut command, &log)?;
        let mut process = ProcessGroup::spawn(command).map_err(LocalError::io("start", program))?;
        until_ready(SERVER, &mut process, &log, READY_TIMEOUT, || answers_ping(port))?;
        Ok(Self { _process: process, _directory: directory, port })
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where the server writes its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self._directory.path().join("redis.log")
    }

    /// The last lines of the server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.log())
    }
}

/// Sends a command's output to the file `log`.
pub(crate) fn redirect(command: &mut Command, log: &Path) -> Result<(), LocalError> {
    let file = File::create(log).map_err(LocalError::io("create", log))?;
    let again = file.try_clone().map_err(LocalError::io("open", log))?;
    command.stdout(file).stderr(again);
    Ok(())
}

fn answers_ping(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"+PONG\r\n")
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_started_server_answers_and_a_dropped_one_is_gone() {
        let server = RedisServer::start().unwrap();
        let port = server.port();
        let client = redis::Client::open(server.url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let () = redis::cmd("SET").arg("a").arg("b").query(&mut connection).unwrap();
        drop(server);
        assert!(!answers_ping(port));
    }

    #[test]
    fn a_server_that_refuses_its_arguments_says_so() {
        let error = RedisServer::start_on(&Port::Free, &["--no-such-option", "1"]).unwrap_err();
        assert!(error.to_string().contains("no-such-option"), "{error}");
    }
}
