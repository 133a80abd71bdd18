//! An object store that falls sick on command.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// How long a slow one takes for everything: the fault, not a wait for something.
const SLOWNESS: Duration = Duration::from_secs(10);

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sick {
    Not,
    /// Everything is answered with 500.
    Fails,
    /// Everything takes [`SLOWNESS`].
    Slow,
    /// Connections are closed at once.
    Refuses,
    /// Nothing more can be put there.
    Full,
    /// It lets everybody overwrite what is there, whatever they ask for.
    Lies,
    /// A byte of what is read is another.
    Corrupts,
    /// What is read breaks off.
    Truncates,
}

/// A proxy in front of a store that is well. Ends when dropped.
pub(crate) struct SickStore {
    url: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    store: String,
    sick: Mutex<Sick>,
    struck: AtomicU64,
    /// Held while something is put: of two at once, moto may well accept both.
    putting: tokio::sync::Mutex<()>,
}

impl SickStore {
    /// In front of the store at this URL.
    pub(crate) async fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            store: url.strip_prefix("http://").expect("a URL").to_owned(),
            sick: Mutex::new(Sick::Not),
            struck: AtomicU64::new(0),
            putting: tokio::sync::Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                // An error is the end of that connection.
                tokio::spawn(async move { shared.one(stream).await.ok() });
            }
        });
        Self {
            url: format!("http://{address}"),
            shared,
            accepting,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// It is so from now on.
    pub(crate) fn falls(&self, sick: Sick) {
        *self.shared.sick.lock().expect("nobody panics") = sick;
    }

    /// Requests that it failed.
    pub(crate) fn struck(&self) -> u64 {
        self.shared.struck.load(Relaxed)
    }
}

impl Drop for SickStore {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    /// Answers one request: then the connection ends, and says so.
    async fn one(&self, mut from: TcpStream) -> io::Result<()> {
        let mut request = Vec::new();
        let (head, len) = loop {
            if from.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
            if let Some(found) = head_of(&request) {
                break found;
            }
        };
        while request.len() < head + len {
            if from.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let sick = *self.sick.lock().expect("nobody panics");
        let is_read = request.starts_with(b"GET ");
        let strikes = match sick {
            Sick::Not => false,
            Sick::Fails | Sick::Slow | Sick::Refuses => true,
            Sick::Full | Sick::Lies => request.starts_with(b"PUT "),
            Sick::Corrupts | Sick::Truncates => is_read,
        };
        self.struck.fetch_add(u64::from(strikes), Relaxed);
        match (strikes, sick) {
            (true, Sick::Fails) => return refuse(&mut from, "500 Internal Server Error").await,
            (true, Sick::Full) => return refuse(&mut from, "507 Insufficient Storage").await,
            (true, Sick::Refuses) => return Ok(()),
            (true, Sick::Slow) => tokio::time::sleep(SLOWNESS).await,
            _ => {}
        }
        let text = String::from_utf8_lossy(&request[..head]);
        let keeps = |line: &&str| {
            let line = line.to_ascii_lowercase();
            let lies = sick == Sick::Lies && line.starts_with("if-none-match:");
            !line.starts_with("connection:") && !lies && !line.is_empty()
        };
        let lines: Vec<_> = text.split("\r\n").filter(keeps).collect();
        let _putting = match is_read {
            true => None,
            false => Some(self.putting.lock().await),
        };
        let mut to = TcpStream::connect(&self.store).await?;
        let lines = format!("{}\r\nconnection: close\r\n\r\n", lines.join("\r\n"));
        to.write_all(lines.as_bytes()).await?;
        to.write_all(&request[head..]).await?;
        let mut answer = Vec::new();
        to.read_to_end(&mut answer).await?;
        if strikes && is_read && answer.len() > 2000 {
            let middle = answer.len() / 2;
            match sick {
                Sick::Corrupts => answer[middle] ^= 1,
                _ => answer.truncate(middle),
            }
        }
        from.write_all(&answer).await
    }
}

/// Where the head ends, and how long the body behind it is.
fn head_of(request: &[u8]) -> Option<(usize, usize)> {
    let end = request.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    Some((
        end,
        len.and_then(|len| len.trim().parse().ok()).unwrap_or(0),
    ))
}

async fn refuse(to: &mut TcpStream, status: &str) -> io::Result<()> {
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    to.write_all(answer.as_bytes()).await
}
