//! A proxy that stalls: what a client sends stays on the way from a given word on, until it is let go. So commands
//! that arrive late can be had on purpose, without a sleep.

use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A proxy before one server on this machine.
#[derive(Debug)]
pub struct StallingProxy {
    port: u16,
    stalled: Arc<Notify>,
    let_go: Arc<Notify>,
}

impl StallingProxy {
    /// A proxy to `port` of 127.0.0.1 that holds back the first bytes that contain `word`, and all behind them.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub async fn start(port: u16, word: &'static str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let proxy = Self { port: listener.local_addr()?.port(), stalled: Arc::default(), let_go: Arc::default() };
        let (stalled, let_go) = (Arc::clone(&proxy.stalled), Arc::clone(&proxy.let_go));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, port, word, Arc::clone(&stalled), Arc::clone(&let_go)));
            }
        });
        Ok(proxy)
    }

    /// The address of the proxy as a Redis URL.
    #[must_use]
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns when something is held back.
    pub async fn until_stalled(&self) {
        self.stalled.notified().await;
    }

    /// Lets what is held back arrive.
    pub fn let_go(&self) {
        self.let_go.notify_one();
    }
}

async fn pass(
    client: TcpStream,
    port: u16,
    word: &str,
    stalled: Arc<Notify>,
    let_go: Arc<Notify>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 1 << 16];
    let mut once = true;
    loop {
        let read = from_client.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        if once && buffer[..read].windows(word.len()).any(|bytes| bytes == word.as_bytes()) {
            once = false;
            stalled.notify_one();
            let_go.notified().await;
        }
        to_server.write_all(&buffer[..read]).await?;
    }
}
