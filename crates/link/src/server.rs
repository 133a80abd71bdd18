//! The server: takes connections on within bounds, sees who they are, and serves HTTP/2 on them.
//!
//! What a stranger can make it do: hold a connection for the time of a handshake, among a bounded number
//! of such; read heads of bounded size; compute one keyed hash for each. It takes in no body, keeps no
//! state and calls no handler for him.

use crate::{
    connection::{self, Shared},
    counters::{Gauge, ServerCounters, add},
    credentials::Credentials,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use std::{
    error::Error,
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long a failing `accept` is left alone: first, and at most.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(5);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The bounds of a server.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections at once. A quarter of them may be such that have not proved anything yet; beyond
    /// that, a new one takes the place of the oldest of these.
    pub connections_max: usize,
    /// The time for a TLS handshake, and the time until the first right request after it.
    pub handshake_max: Duration,
    /// Requests at once on one connection. More wait at the client.
    pub streams_max: u32,
    /// Bytes of a request's head. A larger one is answered with 431.
    pub head_bytes_max: u32,
    /// Bytes of a request's body. A larger one is answered with 413.
    pub body_bytes_max: usize,
    /// The time for a request's body to come. A slower one is answered with 408.
    pub body_time_max: Duration,
    /// How long a connection may have no request under way before it is ended.
    pub idle_max: Duration,
    /// How long a connection lives before it takes no new requests, so that certificates are looked at
    /// again now and then.
    pub age_max: Duration,
    /// After how much silence the other end is asked for a sign of life.
    pub ping_interval: Duration,
    /// How long that may take, and how long the other end may take nothing of what it is sent, or may not
    /// close after we did; then the connection is cut.
    pub ping_timeout: Duration,
    /// How far apart clocks may be, where members prove themselves with a secret.
    pub clock_skew_max: Duration,
    /// Proofs that are remembered, so that none counts twice: some 50 bytes each. When there are more,
    /// the time within which a proof counts gets shorter.
    pub nonces_max: usize,
    /// How long requests under way may take to end after a shutdown began.
    pub drain_max: Duration,
}

impl Default for ServerLimits {
    /// 4,096 connections, 5 s, 1,024 streams, 16 KiB, 64 KiB, 5 s, 5 min, 1 h, 5 s, 5 s, 60 s, 1 Mi, 30 s.
    fn default() -> Self {
        Self {
            connections_max: 4096,
            handshake_max: Duration::from_secs(5),
            streams_max: 1024,
            head_bytes_max: 16 << 10,
            body_bytes_max: 64 << 10,
            body_time_max: Duration::from_secs(5),
            idle_max: Duration::from_secs(300),
            age_max: Duration::from_secs(3600),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
            clock_skew_max: Duration::from_secs(60),
            nonces_max: 1 << 20,
            drain_max: Duration::from_secs(30),
        }
    }
}

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where its connection comes from: not the address under which it is reached.
    pub address: SocketAddr,
    /// With certificates: the name by which it is a member.
    pub name: Option<String>,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still busy when the time for draining had passed, and were cut.
    pub cut: usize,
}

/// Serves a listener until `shutdown` resolves; then stops accepting, tells all clients (GOAWAY), lets
/// requests that are under way finish within [`ServerLimits::drain_max`], and cuts the rest. Never fails:
/// an `accept` that does (too many open files) is logged and tried again, later and later.
///
/// The handler gets requests whose sender is a member, with their whole body; any method and path. It is
/// dropped when its stream is reset or its connection ends. An error of a response's body resets the
/// stream, so that the other end never takes it for whole. A panic in the handler resets its stream.
///
/// Dropping the future cuts all connections at once.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    limits: ServerLimits,
    counters: Arc<ServerCounters>,
    handler: H,
    shutdown: impl Future<Output = ()>,
) -> Drained
where
    H: Fn(Peer, Request<Bytes>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (stop, stopped) = watch::channel(false);
    let drain_max = limits.drain_max;
    let connections_max = limits.connections_max;
    let shared = Arc::new(Shared::new(credentials, limits, counters, handler));
    let counters = &shared.counters;
    let mut connections = JoinSet::new();
    let mut backoff = ACCEPT_BACKOFF;
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((tcp, address)) => {
                    backoff = ACCEPT_BACKOFF;
                    if connections.len() >= connections_max {
                        add(&counters.refused_full);
                    } else if !shared.credentials.may_leave_loopback() && !of_loopback(&tcp, address) {
                        add(&counters.refused_foreign);
                        tracing::warn!(peer = %address, "refused: without credentials, members talk \
                            over loopback only");
                    } else {
                        add(&counters.accepted);
                        let open = Gauge::new(Open(counters.clone()));
                        let serve = connection::serve(shared.clone(), tcp, address, stopped.clone());
                        connections.spawn(async move {
                            let _open = open;
                            serve.await;
                        });
                    }
                }
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, ?backoff, "cannot accept connections");
                    add(&counters.accept_errors);
                    tokio::select! {
                        () = sleep(backoff) => {}
                        () = &mut shutdown => break,
                    }
                    backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
                }
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    let cut = match timeout(drain_max, all).await {
        Ok(()) => 0,
        Err(_) => connections.len(),
    };
    connections.shutdown().await;
    Drained { cut }
}

/// Whether both ends of a connection are on this machine's loopback.
fn of_loopback(tcp: &TcpStream, peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
        && tcp
            .local_addr()
            .is_ok_and(|local| local.ip().to_canonical().is_loopback())
}

/// The gauge of open connections.
struct Open(Arc<ServerCounters>);

impl AsRef<AtomicU64> for Open {
    fn as_ref(&self) -> &AtomicU64 {
        &self.0.open
    }
}

/// An error of one connection that ended before it was accepted, not of the listener.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked: a bug");
    }
}
