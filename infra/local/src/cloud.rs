//! The AWS emulator of the local cloud: a pinned `ministack` from the clone's virtual environment, on one port of
//! 127.0.0.1, for all regions. It runs functions as native processes and needs no Docker.

use crate::error::LocalError;
use crate::ports::Port;
use crate::process_group::ProcessGroup;
use crate::readiness::{log_tail, until_ready};
use crate::redis_server::redirect;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const SERVER: &str = "the local cloud (ministack)";
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Access key and secret key that the local cloud takes. They are no secret: it checks nothing.
pub(crate) const ACCESS_KEY: &str = "test";

/// How to start the local cloud.
#[derive(Clone, Debug)]
pub struct CloudOptions {
    /// The virtual environment that `infra/local/prerequisites` made.
    pub venv: PathBuf,
    /// Which port to take.
    pub port: Port,
    /// Where to write the log; by default into the server's own directory, which goes with it.
    pub log: Option<PathBuf>,
}

impl CloudOptions {
    /// A free port, and the virtual environment of this clone.
    #[must_use]
    pub fn of_this_clone() -> Self {
        Self { venv: clone_root().join(".venv"), port: Port::Free, log: None }
    }
}

/// The root of the clone that this crate was built in.
#[must_use]
pub fn clone_root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root)
}

/// A running AWS emulator, killed on drop together with every function it started.
#[derive(Debug)]
pub struct LocalCloud {
    // Dropped in this order: the processes end before their directory goes.
    process: ProcessGroup,
    directory: TempDir,
    port: u16,
    log: PathBuf,
}

impl LocalCloud {
    /// Starts the emulator and returns when it answers.
    ///
    /// # Errors
    /// [`LocalError::Missing`] without its virtual environment, [`LocalError::PortTaken`] when a fixed port is in use,
    /// [`LocalError::NotReady`] when it ends or stays silent.
    pub fn start(options: &CloudOptions) -> Result<Self, LocalError> {
        let python = options.venv.join("bin/python");
        if !options.venv.join("tidemark-stamp").is_file() || !python.exists() {
            return Err(LocalError::Missing {
                what: format!("the Python environment {}", options.venv.display()),
                remedy: "run infra/local/prerequisites (make demo and make test do that)",
            });
        }
        let mut attempts_left = options.port.attempts_max();
        loop {
            attempts_left -= 1;
            match Self::start_once(&python, options.port.pick(SERVER)?, options.log.as_deref()) {
                Err(LocalError::NotReady { .. }) if attempts_left > 0 => {}
                result => return result,
            }
        }
    }

    fn start_once(python: &Path, port: u16, log: Option<&Path>) -> Result<Self, LocalError> {
        let directory = TempDir::with_prefix("tidemark-cloud-")
            .map_err(LocalError::io("make a directory", std::env::temp_dir()))?;
        let log = log.map_or_else(|| directory.path().join("cloud.log"), Path::to_path_buf);
        let mut command = Command::new(python);
        // -I: whatever else is installed or set for Python on this machine stays out.
        command.args(["-I", "-m", "ministack"]).current_dir(directory.path());
        command.env_clear().envs(environment(port, directory.path()));
        redirect(&mut command, &log)?;
        let mut process = ProcessGroup::spawn(command).map_err(LocalError::io("start", python))?;
        let health = format!("http://127.0.0.1:{port}/_ministack/health");
        until_ready(SERVER, &mut process, &log, READY_TIMEOUT, || is_healthy(&health))?;
        Ok(Self { process, directory, port, log })
    }

    /// The endpoint of every AWS service: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where an object can be fetched without a signature.
    #[must_use]
    pub fn object_url(&self, bucket: &str, key: &str) -> String {
        format!("{}/{bucket}/{key}", self.endpoint())
    }

    /// The emulator's log. It holds the functions' output too.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    /// A directory that lives as long as the cloud.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The emulator's process ID.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }
}

/// Everything the emulator, and through it every function, sees of the environment: nothing of the caller's AWS
/// settings or proxies may leak in.
fn environment(port: u16, directory: &Path) -> Vec<(&'static str, String)> {
    let directory = directory.display().to_string();
    vec![
        ("PATH", std::env::var("PATH").unwrap_or_default()),
        ("HOME", directory.clone()),
        ("TMPDIR", directory.clone()),
        ("LANG", "C.UTF-8".to_owned()),
        ("PYTHONUNBUFFERED", "1".to_owned()),
        ("GATEWAY_PORT", port.to_string()),
        // Without these two it binds every interface, and port 8883 too.
        ("BIND_HOST", "127.0.0.1".to_owned()),
        ("IOT_MTLS_ENABLED", "0".to_owned()),
        ("SFTP_ENABLED", "0".to_owned()),
        // Functions run as processes; a Docker of the machine's is none of its business.
        ("LAMBDA_EXECUTOR", "local".to_owned()),
        ("DOCKER_HOST", "unix:///nonexistent".to_owned()),
        ("S3_DATA_DIR", format!("{directory}/s3")),
        ("STATE_DIR", format!("{directory}/state")),
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("RUST_BACKTRACE", "1".to_owned()),
    ]
}

fn is_healthy(url: &str) -> bool {
    ureq::get(url).config().timeout_global(Some(HEALTH_TIMEOUT)).proxy(None).build().call().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_started_cloud_serves_on_its_own_port_and_a_dropped_one_is_gone() {
        let cloud = LocalCloud::start(&CloudOptions::of_this_clone()).unwrap();
        let health = format!("{}/_ministack/health", cloud.endpoint());
        assert!(is_healthy(&health));
        let directory = cloud.directory().to_path_buf();
        let fixed = Port::Fixed { port: cloud.port, setting: "TIDEMARK_LOCAL_PORT".to_owned() };
        let second = LocalCloud::start(&CloudOptions { port: fixed, ..CloudOptions::of_this_clone() });
        assert!(matches!(second, Err(LocalError::PortTaken { .. })), "{second:?}");
        drop(cloud);
        assert!(!is_healthy(&health));
        assert!(!directory.exists());
    }

    #[test]
    fn a_missing_environment_says_how_to_make_it() {
        let options = CloudOptions { venv: "/nonexistent".into(), port: Port::Free, log: None };
        let message = LocalCloud::start(&options).unwrap_err().to_string();
        assert!(message.contains("infra/local/prerequisites"), "{message}");
    }
}
