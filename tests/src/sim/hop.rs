//! The way to a region's Redis: a proxy at which every write waits for the schedule, so that connections break before
//! or behind a command, and commands of a caller that is gone arrive late.

use super::calls::{Calls, Fate, Hop};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

const READ_BYTES: usize = 1 << 16;

/// A proxy before one Redis. A socket in a directory, because what is written to it is there at once.
#[derive(Debug)]
pub(super) struct RedisHop {
    path: PathBuf,
    /// Rises with every failover: connections made before are dead.
    epoch: Arc<AtomicU64>,
}

/// What a connection through the proxy needs.
#[derive(Clone, Debug)]
struct Way {
    calls: Calls,
    region: &'static str,
    port: u16,
    epoch: Arc<AtomicU64>,
    /// Known-bad: the watch protects nothing.
    watch_is_void: bool,
}

impl RedisHop {
    /// A proxy to `port` of 127.0.0.1 that listens in `directory`.
    pub(super) fn start(
        calls: &Calls,
        directory: &Path,
        region: &'static str,
        port: u16,
        watch_is_void: bool,
    ) -> std::io::Result<Self> {
        let path = directory.join(format!("{region}.sock"));
        std::fs::remove_file(&path).ok();
        let listener = UnixListener::bind(&path)?;
        let epoch = Arc::new(AtomicU64::new(0));
        let way = Way { calls: calls.clone(), region, port, epoch: Arc::clone(&epoch), watch_is_void };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                way.calls.progressed();
                tokio::spawn(pass(client, way.clone()));
            }
        });
        Ok(Self { path, epoch })
    }

    /// The proxy's address as a Redis URL.
    pub(super) fn url(&self) -> String {
        format!("redis+unix://{}", self.path.display())
    }

    /// Cuts all connections; what is on the way never arrives.
    pub(super) fn cut(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }
}

/// One connection. It ends when either side does, or the schedule says so.
async fn pass(client: UnixStream, way: Way) {
    let mut client = Some(client);
    // A Redis that breaks the connection off is one more way in which it ends.
    serve(&mut client, &way).await.ok();
    hang_up(&mut client).await;
}

/// Ends the client's connection. That it is closed would not do: while another thread starts a process, that process
/// has a copy of every socket for a moment, and the client would learn of the end later.
async fn hang_up(client: &mut Option<UnixStream>) {
    if let Some(mut client) = client.take() {
        // It fails where the client has left before.
        client.shutdown().await.ok();
    }
}

async fn serve(client: &mut Option<UnixStream>, way: &Way) -> std::io::Result<()> {
    let born = way.epoch.load(Ordering::Relaxed);
    let mut server = None;
    while let Some(commands) = read_commands(client, way).await? {
        let what = format!("{} {}", way.region, names(&commands));
        let mut fate = way.calls.wait(Hop::Redis, false, what.clone()).await;
        if fate == Fate::Late {
            hang_up(client).await;
            fate = way.calls.wait(Hop::Redis, true, what).await;
        }
        let dead = way.epoch.load(Ordering::Relaxed) != born;
        if dead || matches!(fate, Fate::Throttle | Fate::Fail | Fate::Late) {
            return Ok(());
        }
        let answers = ask(&mut server, &commands, way).await?;
        match client {
            Some(client) if fate != Fate::LoseAnswer => client.write_all(&answers).await?,
            _ => return Ok(()),
        }
        way.calls.progressed();
    }
    Ok(())
}

/// What the client wrote, in whole commands; `None` where it is gone.
async fn read_commands(client: &mut Option<UnixStream>, way: &Way) -> std::io::Result<Option<Vec<u8>>> {
    let Some(client) = client else { return Ok(None) };
    let mut read = Vec::with_capacity(READ_BYTES);
    while read.is_empty() || count(&read).is_none() {
        read.reserve(READ_BYTES);
        if client.read_buf(&mut read).await? == 0 {
            return Ok(None);
        }
        way.calls.progressed();
    }
    Ok(Some(if way.watch_is_void { without_watch(&read) } else { read }))
}

/// Connects at the first question, so that no two connections wait for the real server at once: which of them is
/// answered first would be timing.
async fn ask(server: &mut Option<TcpStream>, commands: &[u8], way: &Way) -> std::io::Result<Vec<u8>> {
    let _owes = way.calls.owes();
    let server = match server {
        Some(server) => server,
        None => {
            let connected = TcpStream::connect(("127.0.0.1", way.port)).await?;
            connected.set_nodelay(true)?;
            server.insert(connected)
        }
    };
    let wanted = count(commands).unwrap_or(0);
    server.write_all(commands).await?;
    let mut answers = Vec::with_capacity(READ_BYTES);
    while count(&answers).is_none_or(|got| got < wanted) {
        answers.reserve(READ_BYTES);
        if server.read_buf(&mut answers).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(answers)
}

/// How many whole values of the Redis protocol `bytes` are; `None` where the last one is cut off.
fn count(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut values) = (0, 0);
    while at < bytes.len() {
        at = end_of_value(bytes, at)?;
        values += 1;
    }
    Some(values)
}

fn end_of_value(bytes: &[u8], at: usize) -> Option<usize> {
    let line = bytes[at..].windows(2).position(|pair| pair == b"\r\n")? + at;
    let length = || std::str::from_utf8(&bytes[at + 1..line]).ok()?.parse::<i64>().ok();
    let mut end = line + 2;
    match bytes[at] {
        b'$' | b'=' | b'!' => {
            if let Ok(length) = usize::try_from(length()?) {
                end += length + 2;
            }
        }
        kind @ (b'*' | b'~' | b'>' | b'%') => {
            let pairs = if kind == b'%' { 2 } else { 1 };
            for _ in 0..length()?.max(0) * pairs {
                end = end_of_value(bytes, end).filter(|end| *end <= bytes.len())?;
            }
        }
        _ => {}
    }
    (end <= bytes.len()).then_some(end)
}

fn without_watch(commands: &[u8]) -> Vec<u8> {
    let (watch, exists): (&[u8], &[u8]) = (b"\r\n$5\r\nWATCH\r\n", b"\r\n$6\r\nEXISTS\r\n");
    let mut out = Vec::with_capacity(commands.len() + 8);
    let mut rest = commands;
    while let Some(at) = rest.windows(watch.len()).position(|bytes| bytes == watch) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(exists);
        rest = &rest[at + watch.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// The commands' names and the lanes that they watch, for the trace.
fn names(commands: &[u8]) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(end) = (at < commands.len()).then(|| end_of_value(commands, at)).flatten() {
        let mut words = commands[at..end].split(|byte| *byte == b'\n').skip(2).step_by(2);
        let mut word = || String::from_utf8_lossy(words.next().unwrap_or_default()).trim_end().to_owned();
        let mut name = word();
        if name == "WATCH" {
            name = format!("{name} {}", word());
        }
        if names.last() != Some(&name) {
            names.push(name);
        }
        at = end;
    }
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_values_are_counted_and_named() {
        let commands = b"*2\r\n$5\r\nWATCH\r\n$1\r\nk\r\n*1\r\n$4\r\nEXEC\r\n";
        assert_eq!(count(commands), Some(2));
        assert_eq!(names(commands), "WATCH k EXEC");
        assert_eq!(count(&commands[..commands.len() - 1]), None);
        assert_eq!(without_watch(commands), b"*2\r\n$6\r\nEXISTS\r\n$1\r\nk\r\n*1\r\n$4\r\nEXEC\r\n");
        assert_eq!(count(b"+OK\r\n*-1\r\n$-1\r\n:1\r\n*1\r\n*1\r\n$0\r\n\r\n"), Some(5));
    }
}
