//! The release binaries as Lambda functions.

use crate::error::LocalError;
use crate::regions::RegionClients;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{Architecture, Environment, FunctionCode, RecursiveLoop, Runtime, State as FunctionState};
use aws_sdk_s3::primitives::ByteStream;
use std::collections::HashMap;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

/// The role every function is given; the local cloud does not check it.
pub(crate) const ROLE: &str = "arn:aws:iam::000000000000:role/tidemark-local";

/// Where the release binaries lie.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// The folder of the running program, or the one above it for a test: cargo puts both into one target directory.
    ///
    /// # Errors
    /// [`LocalError::Io`] when the running program's path cannot be told.
    pub fn beside_this_program() -> Result<Self, LocalError> {
        let program = std::env::current_exe().map_err(LocalError::io("find the running program", "/proc/self/exe"))?;
        let mut folder = program.parent().unwrap_or(Path::new(".")).to_path_buf();
        if folder.ends_with("deps") {
            folder.pop();
        }
        Ok(Self { folder })
    }

    /// The folder itself, for a PATH.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The binary `name`.
    ///
    /// # Errors
    /// [`LocalError::Missing`] when it was not built.
    pub fn path(&self, name: &str) -> Result<PathBuf, LocalError> {
        let path = self.folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
        let remedy = "build it first: cargo build --release --workspace --bins (make demo and make test do that)";
        Err(LocalError::Missing { what: path.display().to_string(), remedy })
    }
}

/// A function to deploy.
#[derive(Clone, Debug)]
pub struct FunctionSpec {
    /// Its name.
    pub name: String,
    /// The binary it runs.
    pub binary: &'static str,
    /// Its environment.
    pub environment: HashMap<String, String>,
    /// Its time limit, in seconds.
    pub timeout_s: i32,
    /// Its memory, in MiB.
    pub memory_mib: i32,
}

/// A zip file with `binary` as `bootstrap`, as the `provided.al2023` runtime wants it.
///
/// # Errors
/// [`LocalError::Io`] when the binary cannot be read or packed.
pub fn package(binary: &Path) -> Result<Vec<u8>, LocalError> {
    let program = std::fs::read(binary).map_err(LocalError::io("read", binary))?;
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .unix_permissions(0o755);
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::with_capacity(program.len() + 512)));
    archive
        .start_file("bootstrap", options)
        .map_err(std::io::Error::from)
        .and_then(|()| archive.write_all(&program))
        .and_then(|()| archive.finish().map_err(std::io::Error::from))
        .map(Cursor::into_inner)
        .map_err(LocalError::io("pack", binary))
}

/// Deploys functions in one region; every binary's code lies in that region's bucket, uploaded once.
pub(crate) async fn deploy(
    clients: &RegionClients,
    bucket: &str,
    binaries: &Binaries,
    specs: Vec<FunctionSpec>,
) -> Result<(), LocalError> {
    let mut uploaded: HashMap<&'static str, String> = HashMap::new();
    for spec in specs {
        if !uploaded.contains_key(spec.binary) {
            let key = format!("code/{}.zip", spec.binary);
            let code = package(&binaries.path(spec.binary)?)?;
            let put = clients.s3.put_object().bucket(bucket).key(&key).body(ByteStream::from(code));
            put.send().await.map_err(LocalError::call(format!("PutObject {bucket}/{key}")))?;
            uploaded.insert(spec.binary, key);
        }
        create(clients, bucket, &uploaded[spec.binary], spec).await?;
    }
    Ok(())
}

async fn create(clients: &RegionClients, bucket: &str, key: &str, spec: FunctionSpec) -> Result<(), LocalError> {
    let call = format!("CreateFunction {}", spec.name);
    let created = clients
        .lambda
        .create_function()
        .function_name(&spec.name)
        .runtime(Runtime::Providedal2023)
        .handler("bootstrap")
        .architectures(this_architecture())
        .role(ROLE)
        .timeout(spec.timeout_s)
        .memory_size(spec.memory_mib)
        .code(FunctionCode::builder().s3_bucket(bucket).s3_key(key).build())
        .environment(Environment::builder().set_variables(Some(spec.environment)).build())
        .send()
        .await
        .map_err(LocalError::call(call))?;
    // A job that outlasts one invocation starts itself again: loop detection must not stop it.
    clients
        .lambda
        .put_function_recursion_config()
        .function_name(&spec.name)
        .recursive_loop(RecursiveLoop::Allow)
        .send()
        .await
        .map_err(LocalError::call(format!("PutFunctionRecursionConfig {}", spec.name)))?;
    if matches!(created.state, Some(FunctionState::Failed)) {
        let message = created.state_reason.unwrap_or_default();
        return Err(LocalError::Function { function: spec.name, region: String::new(), message });
    }
    Ok(())
}

fn this_architecture() -> Architecture {
    if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::X8664 }
}

/// Invokes a function and returns its answer.
///
/// # Errors
/// [`LocalError::Call`] when the invocation does not reach it, [`LocalError::Function`] when it answers with an error.
pub async fn invoke(
    clients: &RegionClients,
    region: &str,
    function: &str,
    payload: &serde_json::Value,
) -> Result<serde_json::Value, LocalError> {
    let output = clients
        .lambda
        .invoke()
        .function_name(function)
        .payload(Blob::new(payload.to_string()))
        .send()
        .await
        .map_err(LocalError::call(format!("Invoke {function} in {region}")))?;
    let answer = output.payload.map(Blob::into_inner).unwrap_or_default();
    if output.function_error.is_some() {
        return Err(LocalError::Function {
            function: function.to_owned(),
            region: region.to_owned(),
            message: String::from_utf8_lossy(&answer).into_owned(),
        });
    }
    serde_json::from_slice(&answer).map_err(LocalError::call(format!("read the answer of {function} in {region}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_holds_the_binary_as_an_executable_bootstrap() {
        let program = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(program.path(), b"\x7fELF...").unwrap();
        let mut archive = zip::ZipArchive::new(Cursor::new(package(program.path()).unwrap())).unwrap();
        assert_eq!(archive.len(), 1);
        let entry = archive.by_name("bootstrap").unwrap();
        assert_eq!(entry.unix_mode().map(|mode| mode & 0o777), Some(0o755));
        assert_eq!(entry.size(), 7);
    }

    #[test]
    fn a_binary_that_was_not_built_says_how_to_build_it() {
        let binaries = Binaries { folder: "/nonexistent".into() };
        let message = binaries.path("cron").unwrap_err().to_string();
        assert!(message.contains("/nonexistent/cron") && message.contains("cargo build"), "{message}");
    }
}
