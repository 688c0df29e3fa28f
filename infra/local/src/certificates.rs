//! Certificates for a test's server: an authority of its own, and a server certificate for 127.0.0.1.

use crate::error::LocalError;
use crate::process_group::program;
use crate::readiness::log_tail;
use crate::redis_server::redirect;
use std::path::{Path, PathBuf};
use std::process::Command;

const REMEDY: &str = "run infra/local/prerequisites tests, or install it (Debian, Ubuntu: apt-get install openssl)";
/// A client takes no authority's own certificate for a server's, so there are two.
const CONFIG: &str = "[req]\ndistinguished_name=name\nprompt=no\n[name]\nCN=tidemark test\n\
[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n\
[server]\nbasicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n";
const DAYS: &str = "2";

/// Paths of PEM files.
pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    pub(crate) server: PathBuf,
    pub(crate) server_key: PathBuf,
}

impl Certificates {
    /// Makes them in `directory`, with openssl.
    pub(crate) fn make(directory: &Path) -> Result<Self, LocalError> {
        let config = directory.join("openssl.cnf");
        std::fs::write(&config, CONFIG).map_err(LocalError::io("write", &config))?;
        let made = Self {
            ca: directory.join("ca.pem"),
            server: directory.join("server.pem"),
            server_key: directory.join("server.key"),
        };
        let ca_key = directory.join("ca.key");
        sign(directory, &config, "ca", [&made.ca, &ca_key], None)?;
        sign(directory, &config, "server", [&made.server, &made.server_key], Some([&made.ca, &ca_key]))?;
        Ok(made)
    }
}

/// Makes a key and its certificate, signed by `authority` or by itself.
fn sign(
    directory: &Path,
    config: &Path,
    extensions: &str,
    [certificate, key]: [&Path; 2],
    authority: Option<[&Path; 2]>,
) -> Result<(), LocalError> {
    let openssl = program("openssl", REMEDY)?;
    let mut command = Command::new(&openssl);
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args(["-days", DAYS, "-extensions", extensions, "-config"]).arg(config);
    command.arg("-keyout").arg(key).arg("-out").arg(certificate);
    if let Some([ca, ca_key]) = authority {
        command.arg("-CA").arg(ca).arg("-CAkey").arg(ca_key);
    }
    let log = directory.join("openssl.log");
    redirect(&mut command, &log)?;
    let ended = command.status().map_err(LocalError::io("start", &openssl))?;
    if ended.success() {
        return Ok(());
    }
    Err(LocalError::NotReady { server: "openssl", reason: format!("it ended ({ended})"), log_tail: log_tail(&log) })
}
