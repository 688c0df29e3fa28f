//! `.demo/env`: the demo's addresses for a shell to source, there for as long as the demo runs.

use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// The demo's directory in this clone, locked against a second demo.
#[derive(Debug)]
pub(crate) struct DemoFolder {
    folder: PathBuf,
    lock: File,
}

impl DemoFolder {
    /// Makes and locks `.demo` in `root`.
    pub(crate) fn lock(root: &Path) -> Result<Self> {
        let folder = root.join(".demo");
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let path = folder.join("lock");
        let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "a demo of this clone is running already ({} is locked): end it, or start the second one from another clone",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
        Ok(Self { folder, lock })
    }

    /// Where the local cloud and its functions write their log. It stays after the demo.
    pub(crate) fn cloud_log(&self) -> PathBuf {
        self.folder.join("cloud.log")
    }

    /// The file to source.
    pub(crate) fn env(&self) -> PathBuf {
        self.folder.join("env")
    }

    /// Writes the file to source: the variables, and the release binaries on PATH.
    pub(crate) fn write_env(&self, variables: &[(&str, String)], binaries: &Path) -> Result<()> {
        let mut text = String::from("# Addresses of the running demo: source this file in a shell.\n");
        for (name, value) in variables {
            writeln!(text, "export {name}={}", quoted(value))?;
        }
        writeln!(text, "export PATH={}:\"$PATH\"", quoted(&binaries.display().to_string()))?;
        // Whole or not at all: somebody may be waiting for it.
        let draft = self.folder.join("env.new");
        std::fs::write(&draft, text).with_context(|| format!("write {}", draft.display()))?;
        std::fs::rename(&draft, self.env()).with_context(|| format!("write {}", self.env().display()))
    }
}

impl Drop for DemoFolder {
    fn drop(&mut self) {
        // The addresses are dead from now on. If the file was never written there is nothing to remove.
        let _ = std::fs::remove_file(self.env());
        // Closing would not be enough: a child process that is just being started still holds a copy of the file
        // until its exec, and with it the lock. It goes with this process in any case.
        let _ = self.lock.unlock();
    }
}

/// A value as one shell word.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_demo_of_the_same_clone_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let first = DemoFolder::lock(root.path()).unwrap();
        let message = DemoFolder::lock(root.path()).unwrap_err().to_string();
        assert!(message.contains("another clone"), "{message}");
        drop(first);
        DemoFolder::lock(root.path()).unwrap();
    }

    #[test]
    fn a_shell_reads_back_every_value_and_the_file_goes_with_the_demo() {
        let root = tempfile::tempdir().unwrap();
        let folder = DemoFolder::lock(root.path()).unwrap();
        folder.write_env(&[("A", "it's $HOME \"x\"".to_owned())], Path::new("/a b")).unwrap();
        let script = format!(". '{}'; printf '%s|%s' \"$A\" \"${{PATH%%:*}}\"", folder.env().display());
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "it's $HOME \"x\"|/a b");
        let env = folder.env();
        drop(folder);
        assert!(!env.exists());
    }
}
