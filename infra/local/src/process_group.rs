//! Child processes that never outlive their owner.
//!
//! Every server gets a process group of its own, led by a small guard: a shell that reads from a pipe whose other end
//! this process holds. When the pipe closes, because the group is dropped or because this process died of whatever
//! cause, SIGKILL included, the guard kills the whole group: the server and all that it started (the functions'
//! processes among them). No signal handler and no exit hook is needed for that.
//!
//! This process also adopts what a killed server leaves behind and collects it, so that not even zombies stay where
//! the machine's first process does not collect them (in many containers).

use crate::error::LocalError;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, set_child_subreaper, waitpgid};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

const GUARD_SCRIPT: &str = "read -r _; kill -KILL 0";

/// A server in a process group of its own, killed with all its descendants on drop.
#[derive(Debug)]
pub struct ProcessGroup {
    guard: Child,
    pipe: Option<ChildStdin>,
    server: Child,
}

impl ProcessGroup {
    /// Starts `command` in a new guarded process group, with nothing on its standard input.
    ///
    /// # Errors
    /// The operating system's, when the guard or the command cannot be started.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut guard = Command::new("sh")
            .args(["-c", GUARD_SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = guard.stdin.take();
        let group = i32::try_from(guard.id()).map_err(io::Error::other)?;
        match command.stdin(Stdio::null()).process_group(group).spawn() {
            Ok(server) => Ok(Self { guard, pipe, server }),
            Err(error) => {
                drop(pipe);
                guard.wait()?;
                Err(error)
            }
        }
    }

    /// The server's exit status, if it has ended.
    ///
    /// # Errors
    /// The operating system's.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.server.try_wait()
    }

    /// The server's process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.server.id()
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // Killed from here too, in case somebody ended the guard before. Its ID is not given away until it is waited
        // for. All of the group is dead now, so every wait ends; an error means that there is nothing left.
        let group = i32::try_from(self.guard.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.guard.wait();
        let _ = self.server.wait();
        // What the server had started belongs to this process now.
        while group.is_some_and(|group| waitpgid(group, WaitOptions::empty()).is_ok()) {}
    }
}

/// The program `name` on PATH.
///
/// # Errors
/// [`LocalError::Missing`] with `remedy` when there is none.
pub(crate) fn program(name: &str, remedy: &'static str) -> Result<PathBuf, LocalError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| LocalError::Missing { what: format!("the program {name}"), remedy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::{Duration, Instant};

    /// The processes of process group `group`, zombies included.
    fn members(group: u32) -> Vec<u32> {
        let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
        processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|id| {
                let stat = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat"));
                let Ok(stat) = stat else { return false };
                let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
                let fields: Vec<&str> = fields.split(' ').collect();
                fields[2] == group.to_string()
            })
            .collect()
    }

    fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "waited 20 s for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn dropping_a_group_kills_the_server_and_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 300 & sleep 300 & wait"]);
        let group = ProcessGroup::spawn(command).unwrap();
        let leader = group.guard.id();
        wait_until("guard, server and two grandchildren", || members(leader).len() == 4);
        drop(group);
        assert!(members(leader).is_empty(), "not even zombies are left");
    }

    #[test]
    fn closing_the_pipe_alone_kills_the_group() {
        let mut command = Command::new("sleep");
        command.arg("300");
        let mut group = ProcessGroup::spawn(command).unwrap();
        assert!(group.ended().unwrap().is_none());
        drop(group.pipe.take());
        wait_until("the server to end", || group.ended().unwrap().is_some());
    }

    #[test]
    fn a_killed_guard_does_not_keep_the_server_alive_after_the_drop() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 300 & wait"]);
        let mut group = ProcessGroup::spawn(command).unwrap();
        let leader = group.guard.id();
        wait_until("guard, server and a grandchild", || members(leader).len() == 3);
        group.guard.kill().unwrap();
        drop(group);
        assert!(members(leader).is_empty());
    }
}
