//! One real Redis or Valkey server on 127.0.0.1, for a region of the local cloud or for a test.

use crate::certificates::Certificates;
use crate::cloud::clone_root;
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

const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// What a server writes to its log when it takes connections; for one that answers no plain PING.
const READY_WORDS: &str = "Ready to accept connections";
const LOG: &str = "redis.log";

/// Which server, and how it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `redis-server` on PATH.
    Redis,
    /// Valkey, brought by `infra/local/prerequisites tests`.
    Valkey,
    /// Redis 6.2, the oldest that is supported, brought by `infra/local/prerequisites tests`.
    Redis62,
    /// `redis-server` on PATH behind TLS alone, with an ACL user and no default one.
    RedisTls,
}

impl Flavour {
    /// Every flavour.
    pub const ALL: [Self; 4] = [Self::Redis, Self::Valkey, Self::Redis62, Self::RedisTls];

    fn server(self) -> &'static str {
        match self {
            Self::Redis | Self::RedisTls => "redis-server",
            Self::Valkey => "valkey-server",
            Self::Redis62 => "redis-server-6.2",
        }
    }

    /// The server's program: what was brought into the clone, else what is on PATH.
    pub(crate) fn program(self) -> Result<PathBuf, LocalError> {
        let remedy = match self {
            Self::Redis | Self::RedisTls => {
                "run infra/local/prerequisites, or install it (Debian, Ubuntu: apt-get install redis-server)"
            }
            Self::Valkey | Self::Redis62 => "run infra/local/prerequisites tests (make test does that)",
        };
        let brought = clone_root().join(".servers").join(self.server());
        if brought.is_file() { Ok(brought) } else { program(self.server(), remedy) }
    }
}

/// What a client of a server behind TLS needs. None of it is a secret: the server lives as long as its test.
#[derive(Clone, Debug)]
pub struct Login {
    /// The ACL user.
    pub user: &'static str,
    /// Its password.
    pub password: &'static str,
    /// The certificate authority's certificate, PEM.
    pub ca_file: PathBuf,
}

/// A running server without persistence, with a directory of its own, killed on drop.
#[derive(Debug)]
pub struct RedisServer {
    // Dropped in this order: the process ends before its directory goes.
    _process: ProcessGroup,
    directory: TempDir,
    port: u16,
    login: Option<Login>,
}

impl RedisServer {
    /// Starts `redis-server` on a free port and returns when it answers PING.
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
        Self::start_as(Flavour::Redis, port, arguments)
    }

    /// As [`RedisServer::start_on`], another server.
    ///
    /// # Errors
    /// As [`RedisServer::start_on`]; the error of a missing server says what brings it.
    pub fn start_as(flavour: Flavour, port: &Port, arguments: &[&str]) -> Result<Self, LocalError> {
        Self::start_in(flavour, port, arguments, &[])
    }

    /// As [`RedisServer::start_as`], with variables added to the server's environment.
    ///
    /// # Errors
    /// As [`RedisServer::start_as`].
    pub fn start_in(
        flavour: Flavour,
        port: &Port,
        arguments: &[&str],
        environment: &[(&str, &Path)],
    ) -> Result<Self, LocalError> {
        let program = flavour.program()?;
        let mut attempts_left = port.attempts_max();
        loop {
            attempts_left -= 1;
            match Self::start_once(flavour, &program, port.pick(flavour.server())?, arguments, environment) {
                Err(LocalError::NotReady { .. }) if attempts_left > 0 => {}
                result => return result,
            }
        }
    }

    fn start_once(
        flavour: Flavour,
        program: &Path,
        port: u16,
        arguments: &[&str],
        environment: &[(&str, &Path)],
    ) -> Result<Self, LocalError> {
        let directory = TempDir::with_prefix("tidemark-redis-")
            .map_err(LocalError::io("make a directory", std::env::temp_dir()))?;
        let mut command = in_directory(program, directory.path());
        let login = if flavour == Flavour::RedisTls {
            Some(behind_tls(&mut command, port, directory.path())?)
        } else {
            command.args(["--port", &port.to_string()]);
            None
        };
        command.args(arguments).envs(environment.iter().copied());
        let log = directory.path().join(LOG);
        redirect(&mut command, &log)?;
        let mut process = ProcessGroup::spawn(command).map_err(LocalError::io("start", program))?;
        until_ready(flavour.server(), &mut process, &log, READY_TIMEOUT, || match login {
            None => answers_ping(port),
            Some(_) => std::fs::read_to_string(&log).is_ok_and(|text| text.contains(READY_WORDS)),
        })?;
        Ok(Self { _process: process, directory, port, login })
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:PORT`, or `rediss://` behind TLS; without user and password.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.login.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// What a client needs beside the URL, behind TLS.
    #[must_use]
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// A client that is logged in as it must be.
    ///
    /// # Errors
    /// [`LocalError::Io`] where the certificate cannot be read, [`LocalError::Call`] where the client refuses it.
    pub fn client(&self) -> Result<redis::Client, LocalError> {
        let refused = LocalError::call(format!("a client of {}", self.url()));
        let Some(login) = &self.login else { return redis::Client::open(self.url()).map_err(refused) };
        let url = format!("rediss://{}:{}@127.0.0.1:{}", login.user, login.password, self.port);
        let ca = std::fs::read(&login.ca_file).map_err(LocalError::io("read", &login.ca_file))?;
        let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(ca) };
        redis::Client::build_with_tls(url, certificates).map_err(refused)
    }

    /// Where the server writes its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.path().join(LOG)
    }

    /// The last lines of the server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.log())
    }
}

/// `program` on 127.0.0.1, with nothing kept on disk but in `directory`.
pub(crate) fn in_directory(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"]);
    command.arg(directory);
    command
}

/// What docs/deploy.md says that Tidemark's Redis user must be allowed, and last what a test does by itself.
const RIGHTS: [&str; 10] = [
    "+@read",
    "+@write",
    "+@connection",
    "+@transaction",
    "+@scripting",
    "+info",
    "+time",
    "+dbsize",
    "+scan",
    "+config|set",
];

/// Adds TLS on `port`, an ACL user, and nothing for anybody else.
fn behind_tls(command: &mut Command, port: u16, directory: &Path) -> Result<Login, LocalError> {
    let certificates = Certificates::make(directory)?;
    let login = Login { user: "tidemark", password: "not-a-secret", ca_file: certificates.ca };
    command
        .args(["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "no", "--tls-cert-file"])
        .arg(certificates.server)
        .arg("--tls-key-file")
        .arg(certificates.server_key)
        .arg("--tls-ca-cert-file")
        .arg(&login.ca_file)
        .args(["--user", "default", "off"])
        .args(["--user", login.user, "on", &format!(">{}", login.password), "~*"])
        .args(RIGHTS);
    Ok(login)
}

/// Sends a command's output to the file `log`.
pub(crate) fn redirect(command: &mut Command, log: &Path) -> Result<(), LocalError> {
    let file = File::create(log).map_err(LocalError::io("create", log))?;
    let again = file.try_clone().map_err(LocalError::io("open", log))?;
    command.stdout(file).stderr(again);
    Ok(())
}

pub(crate) fn answers_ping(port: u16) -> bool {
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
    use std::collections::HashMap;

    /// What INFO says of the server.
    fn info(server: &RedisServer) -> HashMap<String, String> {
        let mut connection = server.client().unwrap().get_connection().unwrap();
        let info: String = redis::cmd("INFO").query(&mut connection).unwrap();
        let fields = info.lines().filter_map(|line| line.trim().split_once(':'));
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

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

    #[test]
    fn every_flavour_is_the_server_that_it_is_called() {
        for flavour in Flavour::ALL {
            let info = info(&RedisServer::start_as(flavour, &Port::Free, &[]).unwrap());
            let version = info.get("redis_version").unwrap();
            let is_valkey = info.get("server_name").is_some_and(|name| name == "valkey");
            assert_eq!(is_valkey, flavour == Flavour::Valkey, "{flavour:?}");
            assert_eq!(version.starts_with("6.2."), flavour == Flavour::Redis62, "{flavour:?} is {version}");
        }
    }

    #[test]
    fn behind_tls_nobody_gets_in_without_the_user_and_the_certificate() {
        let server = RedisServer::start_as(Flavour::RedisTls, &Port::Free, &[]).unwrap();
        assert!(!answers_ping(server.port()), "no plain text");
        let login = server.login().unwrap();
        let ca = std::fs::read(&login.ca_file).unwrap();
        let open = |url: String, root_cert: Option<Vec<u8>>| {
            let certificates = redis::TlsCertificates { client_tls: None, root_cert };
            redis::Client::build_with_tls(url, certificates).unwrap().get_connection()
        };
        let mut nobody = open(server.url(), Some(ca)).unwrap();
        let refused = redis::cmd("PING").query::<String>(&mut nobody).unwrap_err().to_string();
        assert!(refused.contains("NOAUTH"), "{refused}");
        let url = server.url().replace("//", &format!("//{}:{}@", login.user, login.password));
        assert!(open(url, None).is_err(), "an authority that nobody knows");
    }
}
