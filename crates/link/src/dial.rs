//! Making one connection to a member.

use crate::{
    LinkError, LinksConfig,
    counters::{Gauge, LinksCounters, add},
    credentials::Credentials,
    error::chain,
    tls::ALPN,
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// What we let a member send us in a response's head.
const HEAD_BYTES_MAX: u32 = 16 << 10;

/// What HTTP/2 allows.
const WINDOW_MAX: u32 = (1 << 31) - 1;
const FRAME_MAX_MIN: u32 = 1 << 14;
const FRAME_MAX_MAX: u32 = (1 << 24) - 1;

/// A connection, and from which epoch of the credentials it is.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    pub(crate) epoch: u64,
    /// No two are the same.
    pub(crate) id: u64,
}

/// Connects, shows and sees certificates, and waits for the first word of HTTP/2: with that the member
/// has taken us on. A frozen one, whose system still takes connections for it, is found out here. `ended` is called when the
/// connection takes no more requests.
pub(crate) async fn dial(
    address: &str,
    id: u64,
    credentials: &Credentials,
    config: &LinksConfig,
    counters: &Arc<LinksCounters>,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Connection, LinkError> {
    add(&counters.dialled);
    let dialled = connect(address, id, credentials, config, counters, ended);
    let result = match timeout(config.connect_max, Box::pin(dialled)).await {
        Ok(result) => result,
        Err(_) => Err(LinkError::TimedOut {
            address: address.to_owned(),
            what: "to take the connection",
            after: config.connect_max,
        }),
    };
    if let Err(error) = &result {
        add(&counters.dials_failed);
        tracing::debug!(%error, "no connection to a member");
    }
    result
}

async fn connect(
    address: &str,
    id: u64,
    credentials: &Credentials,
    config: &LinksConfig,
    counters: &Arc<LinksCounters>,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Connection, LinkError> {
    let unreachable = |error: io::Error| {
        let (address, why) = (address.to_owned(), error.to_string());
        if error.kind() == io::ErrorKind::ConnectionRefused {
            LinkError::Refused { address, why }
        } else {
            LinkError::Unreachable { address, why }
        }
    };
    let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
    let ip = tcp.peer_addr().map_err(unreachable)?.ip();
    if !credentials.may_leave_loopback() && !ip.to_canonical().is_loopback() {
        return Err(LinkError::Config(format!(
            "{address} is not on this machine, and members without credentials talk over loopback only: \
             give all members a secret or certificates"
        )));
    }
    tcp.set_nodelay(true).map_err(unreachable)?;
    let Some(identity) = credentials.tls() else {
        return greet(tcp, address, id, 0, config, counters, ended).await;
    };
    let current = identity.current();
    let name = ServerName::IpAddress(ip.into());
    let stream = TlsConnector::from(current.client.clone())
        .connect(name, tcp)
        .await
        .map_err(|error| LinkError::Tls {
            address: address.to_owned(),
            why: chain(&error),
        })?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(LinkError::Malformed {
            address: address.to_owned(),
            why: "it does not speak HTTP/2".to_owned(),
        });
    }
    greet(stream, address, id, current.epoch, config, counters, ended).await
}

/// Begins HTTP/2 and waits for the other end to do so.
async fn greet<S>(
    stream: S,
    address: &str,
    id: u64,
    epoch: u64,
    config: &LinksConfig,
    counters: &Arc<LinksCounters>,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Connection, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (tell, first) = oneshot::channel();
    let stream = Listening {
        stream,
        tell: Some(tell),
    };
    let broken = |error: &hyper::Error| LinkError::Broken {
        address: address.to_owned(),
        why: chain(error),
    };
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(config.stream_window.min(WINDOW_MAX))
        .initial_connection_window_size(config.connection_window.min(WINDOW_MAX))
        .max_frame_size(config.frame_max.clamp(FRAME_MAX_MIN, FRAME_MAX_MAX))
        .max_header_list_size(HEAD_BYTES_MAX)
        .keep_alive_interval(config.ping_interval)
        .keep_alive_timeout(config.ping_timeout)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let open = Gauge::new(Open(counters.clone()));
    tokio::spawn(async move {
        let _open = open;
        let end = connection.await;
        ended();
        if let Err(error) = end {
            tracing::debug!(error = chain(&error), "the connection to a member ended");
        }
    });
    let address = address.to_owned();
    match first.await {
        Ok(First::Settings) => Ok(Connection { sender, epoch, id }),
        Ok(First::Other) => Err(LinkError::Malformed {
            address,
            why: "it does not speak HTTP/2 (if it expects TLS, give this member certificates too)"
                .to_owned(),
        }),
        Ok(First::Failed(error)) if is_tls(&error) => Err(LinkError::Tls {
            address,
            why: chain(&error),
        }),
        Ok(First::End) | Err(_) => Err(LinkError::Refused {
            address,
            why: "it closed the connection before a word: it has too many, or it expects TLS"
                .to_owned(),
        }),
        Ok(First::Failed(error)) => Err(LinkError::Refused {
            address,
            why: chain(&error),
        }),
    }
}

/// Whether TLS failed, on either side.
fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|error| error.is::<rustls::Error>())
}

/// The gauge of open connections.
struct Open(Arc<LinksCounters>);

impl AsRef<AtomicU64> for Open {
    fn as_ref(&self) -> &AtomicU64 {
        &self.0.open
    }
}

/// What the other end says first.
#[derive(Debug)]
enum First {
    /// The frame with which HTTP/2 begins.
    Settings,
    Other,
    End,
    Failed(io::Error),
}

/// A stream that tells what was read from it first.
struct Listening<S> {
    stream: S,
    tell: Option<oneshot::Sender<First>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if let Some(tell) = self.tell.take() {
            let first = match &result {
                Ok(()) => first(&buf.filled()[before..]),
                // What TLS says is in the cause, which cannot be cloned.
                Err(error) => First::Failed(copy(error)),
            };
            // Whoever gave up waiting does not need it.
            let _ = tell.send(first);
        }
        Poll::Ready(result)
    }
}

fn first(bytes: &[u8]) -> First {
    const SETTINGS: u8 = 4;
    match bytes {
        [] => First::End,
        // Length, type, flags, stream. Fewer bytes will be judged by what comes after them.
        [_, _, _, kind, _, stream @ ..]
            if *kind != SETTINGS || stream.iter().take(4).any(|b| *b != 0) =>
        {
            First::Other
        }
        _ => First::Settings,
    }
}

fn copy(error: &io::Error) -> io::Error {
    let tls = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(tls) => io::Error::new(error.kind(), tls.clone()),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
