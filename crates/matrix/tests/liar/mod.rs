//! A server that sends whatever bytes it is told to, over TLS: what no library for servers would send, too.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustls::{ServerConfig, server::Acceptor};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// What it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The name in the TLS handshake, without which nobody is answered.
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Bytes,
}

/// What it does on a connection.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Send(Bytes),
    /// The same piece again and again, so many times.
    Repeat(Bytes, u64),
    /// A piece again and again, with pauses, for ever.
    Drip(Bytes, Duration),
    /// Nothing more, for ever.
    Hang,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    acts: Vec<Act>,
    /// Whether another request may follow.
    keeps: bool,
}

impl Script {
    /// These bytes, and whatever is said by `then`; then the connection is closed.
    pub(crate) fn raw(bytes: impl Into<Bytes>) -> Self {
        Self {
            acts: vec![Act::Send(bytes.into())],
            keeps: false,
        }
    }

    /// As it should be.
    pub(crate) fn answer(status: u16, headers: &str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let head = format!(
            "HTTP/1.1 {status} Whatever\r\n{headers}content-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let mut script = Self::raw(head).then(Act::Send(body));
        script.keeps = true;
        script
    }

    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self::answer(200, "", body)
    }

    /// The head of an answer whose body is this long, as it says.
    pub(crate) fn claims(len: u64) -> Self {
        Self::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n"))
    }

    /// The head of an answer in chunks.
    pub(crate) fn chunked() -> Self {
        Self::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    }

    pub(crate) fn then(mut self, act: Act) -> Self {
        self.acts.push(act);
        self
    }
}

/// How it meets who calls a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    Good,
    /// With a certificate for somebody else.
    Another,
    /// Not at all.
    Hang,
}

/// What it is told.
pub(crate) trait Lies: Send + Sync + 'static {
    fn hello(&self, name: &str) -> Hello;
    fn answer(&self, asked: Asked) -> BoxFuture<'_, Script>;
}

/// A running server; ends when it is dropped.
pub(crate) struct Server {
    asked: Arc<Mutex<Vec<Asked>>>,
    tasks: JoinSet<()>,
}

impl Server {
    /// At these addresses, with certificates for its own names and for another one.
    pub(crate) async fn start(
        listeners: Vec<TcpListener>,
        own: Arc<ServerConfig>,
        another: Arc<ServerConfig>,
        lies: Arc<impl Lies>,
    ) -> Self {
        let mut server = Self {
            asked: Arc::default(),
            tasks: JoinSet::new(),
        };
        for listener in listeners {
            let (own, another, lies) = (own.clone(), another.clone(), lies.clone());
            let asked = server.asked.clone();
            server.tasks.spawn(async move {
                // All connections end with it.
                let mut connections = JoinSet::new();
                while let Ok((tcp, _)) = listener.accept().await {
                    let (own, another, lies) = (own.clone(), another.clone(), lies.clone());
                    let asked = asked.clone();
                    connections.spawn(async move {
                        let _ = serve(tcp, own, another, &*lies, &asked).await;
                    });
                    while connections.try_join_next().is_some() {}
                }
            });
        }
        server
    }

    /// What it was asked by a name so far: paths.
    pub(crate) fn asked(&self, name: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let of_name = asked.iter().filter(|asked| asked.name == name);
        of_name.map(|asked| asked.path.clone()).collect()
    }
}

async fn serve(
    tcp: TcpStream,
    own: Arc<ServerConfig>,
    another: Arc<ServerConfig>,
    lies: &impl Lies,
    log: &Mutex<Vec<Asked>>,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
    let name = hello.client_hello().server_name().map(ToOwned::to_owned);
    let name = name.unwrap_or_default();
    let config = match lies.hello(&name) {
        Hello::Good => own,
        Hello::Another => another,
        Hello::Hang => std::future::pending().await,
    };
    let mut stream = hello.into_stream(config).await?;
    let mut read = Vec::new();
    while let Some(asked) = request(&mut stream, &name, &mut read).await? {
        log.lock().unwrap().push(asked.clone());
        let script = lies.answer(asked).await;
        for act in script.acts {
            match act {
                Act::Send(bytes) => stream.write_all(&bytes).await?,
                Act::Repeat(piece, times) => {
                    for _ in 0..times {
                        stream.write_all(&piece).await?;
                    }
                }
                Act::Drip(piece, pause) => loop {
                    stream.write_all(&piece).await?;
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                },
                Act::Hang => {
                    stream.flush().await?;
                    std::future::pending::<()>().await;
                }
            }
        }
        stream.flush().await?;
        if !script.keeps {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

/// The next request on a connection.
async fn request(
    stream: &mut TlsStream<TcpStream>,
    name: &str,
    read: &mut Vec<u8>,
) -> io::Result<Option<Asked>> {
    let end = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    };
    let head: Vec<u8> = read.drain(..end).collect();
    let head = String::from_utf8(head).expect("our own client's head is text");
    let mut words = head.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, path) = (word(), word());
    let len = head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        let is_len = field.eq_ignore_ascii_case("content-length");
        is_len.then(|| value.trim().parse::<usize>().expect("a number"))
    });
    let len = len.unwrap_or(0);
    while read.len() < len {
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
    let body = read.drain(..len).collect::<Vec<u8>>().into();
    Ok(Some(Asked {
        name: name.to_owned(),
        method,
        path,
        body,
    }))
}

/// Listens at these addresses.
pub(crate) async fn listen(addrs: &[SocketAddr]) -> Vec<TcpListener> {
    let mut listeners = Vec::new();
    for addr in addrs {
        listeners.push(TcpListener::bind(addr).await.unwrap());
    }
    listeners
}
