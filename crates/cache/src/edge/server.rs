//! The server: accepts connections within bounds, gives each to a task, and ends them all in order.

use super::{
    EdgeConfig, Limits,
    auth::Access,
    backend::Backend,
    failure::Failure,
    h1::{self, Http1Limits, head::HeadLimits},
    h2,
    metrics::EdgeMetrics,
    service::{Peer, Service},
    tls::{TlsError, TlsFiles},
    wire::{Socket, Wire},
};
use crate::traces::Tracer;
use bytes::BytesMut;
use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Connections that the kernel holds for us to accept.
const BACKLOG: u32 = 4096;
/// Where nobody has connected for so long, all who had are accepted.
const LULL: Duration = Duration::from_millis(5);
/// How long a failing `accept` is left alone: first, and at most.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(5);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Connections over the limit that are told so at the same time; others are just closed.
const REFUSALS_MAX: usize = 256;
/// How long telling them may take.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(2);
/// How often the auth and TLS files are looked at.
const FILES_INTERVAL: Duration = Duration::from_secs(2);

/// An edge, ready to serve any number of listeners.
#[derive(Debug)]
pub struct Edge {
    service: Arc<Service>,
    tls: Option<TlsFiles>,
    access: Access,
    limits: Limits,
    lean: bool,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still busy when the time for draining had passed, and were cut.
    pub cut: usize,
}

/// Listens on an address: `SO_REUSEADDR`, so that a restart does not wait for old connections.
///
/// # Errors
/// Whatever the system says. Must be called within a tokio runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What a task needs to know to serve its connection.
pub(crate) struct Connection {
    pub(crate) service: Arc<Service>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) limits: Http1Limits,
    pub(crate) stall_max: Duration,
    pub(crate) lean: bool,
    pub(crate) shutdown: Shutdown,
}

/// Whether the server is shutting down.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    pub(crate) fn begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves once it has begun.
    pub(crate) async fn wait(&mut self) {
        // A sender that is gone has nobody left to serve for.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

impl Edge {
    /// An edge in front of this backend.
    ///
    /// # Errors
    /// If the TLS files cannot be used.
    pub fn new(config: EdgeConfig, backend: Arc<dyn Backend>) -> Result<Arc<Self>, TlsError> {
        Self::traced(config, backend, Tracer::default())
    }

    /// The same, with traces of what clients ask for.
    pub(crate) fn traced(
        config: EdgeConfig,
        backend: Arc<dyn Backend>,
        tracer: Tracer,
    ) -> Result<Arc<Self>, TlsError> {
        let tls = config.tls.map(TlsFiles::open).transpose()?;
        let metrics = Arc::new(EdgeMetrics::default());
        let service = Service::new(
            backend,
            config.access.clone(),
            &config.domains,
            metrics,
            tracer,
        );
        Ok(Arc::new(Self {
            service: Arc::new(service),
            tls,
            access: config.access,
            limits: config.limits,
            lean: config.lean,
        }))
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<EdgeMetrics> {
        self.service.metrics.clone()
    }

    /// Reads the auth and TLS files again if they changed. [`Edge::serve`] does so every two seconds;
    /// call it to have it done now (on SIGHUP, say). Blocks on the file system.
    pub fn refresh(&self) {
        if let Access::File(store) = &self.access {
            match store.refresh() {
                Ok(true) => tracing::info!(callers = store.rules().len(), "auth file read again"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the rules in force stay"),
            }
        }
        if let Some(tls) = &self.tls {
            match tls.refresh() {
                Ok(true) => tracing::info!("TLS certificate read again"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the certificate in force stays"),
            }
        }
    }

    /// Serves this listener until `shutdown` resolves; then goes on accepting for [`Limits::notice`],
    /// lets requests that are under way finish within [`Limits::drain_max`], and cuts the rest. Never
    /// fails: an `accept` that does (too many open files) is logged and tried again, later and later.
    ///
    /// Dropping the future cuts all connections at once.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Drained {
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut refusals = JoinSet::new();
        let has_files = self.tls.is_some() || matches!(self.access, Access::File(_));
        let mut files = interval(FILES_INTERVAL);
        files.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = ACCEPT_BACKOFF;
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(ended) = connections.join_next() => log_panic(ended),
                Some(_) = refusals.join_next() => {}
                _ = files.tick(), if has_files => {
                    let edge = self.clone();
                    // Not awaited: a slow disk must not hold up accepting. One at a time all the same,
                    // since the stores lock.
                    drop(tokio::task::spawn_blocking(move || edge.refresh()));
                }
                accepted = listener.accept() => match accepted {
                    Ok((tcp, peer)) => {
                        backoff = ACCEPT_BACKOFF;
                        match Open::below(self.limits.connections_max, &self.service.metrics) {
                            Some(open) => {
                                let shutdown = Shutdown(stopped.clone());
                                let serve = self.clone().connection(tcp, peer, open, shutdown);
                                connections.spawn(serve);
                            }
                            None if refusals.len() < REFUSALS_MAX && self.tls.is_none() => {
                                refusals.spawn(self.clone().turn_away(tcp));
                            }
                            None => {}
                        }
                    }
                    Err(error) if is_the_peers(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, ?backoff, "cannot accept connections");
                        self.service.metrics.accept_errors.fetch_add(1, Relaxed);
                        sleep(backoff).await;
                        backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
                    }
                }
            }
        }
        stop.send_replace(true);
        self.take_the_last(&listener, &mut connections, &Shutdown(stopped))
            .await;
        drop(listener);
        let all = async { while connections.join_next().await.is_some() {} };
        let cut = match timeout(self.limits.drain_max, all).await {
            Ok(()) => 0,
            Err(_) => connections.len(),
        };
        connections.shutdown().await;
        Drained { cut }
    }

    /// Accepts for as long as others may not know better, and then who has connected by then: to close
    /// a listener is to reset those whom it has not accepted.
    async fn take_the_last(
        self: &Arc<Self>,
        listener: &TcpListener,
        connections: &mut JoinSet<()>,
        shutdown: &Shutdown,
    ) {
        let mut take = |accepted: io::Result<(TcpStream, SocketAddr)>| {
            if let Ok((tcp, peer)) = accepted
                && let Some(open) = Open::below(self.limits.connections_max, &self.service.metrics)
            {
                connections.spawn(self.clone().connection(tcp, peer, open, shutdown.clone()));
            }
        };
        let mut over = std::pin::pin!(sleep(self.limits.notice));
        loop {
            tokio::select! {
                biased;
                () = &mut over => break,
                accepted = listener.accept() => {
                    if accepted.is_err() {
                        sleep(ACCEPT_BACKOFF).await;
                    }
                    take(accepted);
                }
            }
        }
        for _ in 0..BACKLOG {
            match timeout(LULL, listener.accept()).await {
                Ok(accepted) => take(accepted),
                Err(_) => return,
            }
        }
    }

    /// Serves one connection.
    async fn connection(
        self: Arc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        open: Open,
        shutdown: Shutdown,
    ) {
        let _open = open;
        // A request is one write, and so is a small answer: nothing to wait for.
        let _ = tcp.set_nodelay(true);
        let limits = &self.limits;
        let socket = Socket::new(tcp, limits.stall_max, self.service.metrics.clone());
        let mut connection = Connection {
            service: self.service.clone(),
            peer: Arc::new(Peer {
                ip: peer.ip(),
                certificate: None,
            }),
            limits: Http1Limits {
                head: HeadLimits {
                    bytes_max: limits.head_bytes_max,
                    target_max: limits.target_bytes_max,
                },
                head_time_max: limits.head_time_max,
                idle_max: limits.idle_max,
                requests_max: limits.requests_max,
            },
            stall_max: limits.stall_max,
            lean: self.lean,
            shutdown,
        };
        let Some(tls) = &self.tls else {
            return h1::serve(Wire::Plain(socket), &mut connection).await;
        };
        let handshake = Box::pin(TlsAcceptor::from(tls.current()).accept(socket));
        let stream = match timeout(limits.head_time_max, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS connection"),
            Err(_) => return tracing::debug!(%peer, "no TLS connection: too slow"),
        };
        let (_, session) = stream.get_ref();
        let certificate = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|leaf| leaf.to_vec());
        let http2 = session.alpn_protocol() == Some(b"h2");
        connection.peer = Arc::new(Peer {
            ip: peer.ip(),
            certificate,
        });
        let wire = Wire::Tls(Box::new(stream));
        if http2 {
            Box::pin(h2::serve(wire, BytesMut::new(), &mut connection)).await;
        } else {
            h1::serve(wire, &mut connection).await;
        }
    }

    /// Tells a client that there are too many.
    async fn turn_away(self: Arc<Self>, mut tcp: TcpStream) {
        let failure = Failure::new(
            http::StatusCode::SERVICE_UNAVAILABLE,
            "SlowDown",
            "Too many connections are open. Please reduce your request rate.",
        )
        .header(http::header::RETRY_AFTER, "1");
        let words = self.service.last_words(&failure);
        let metrics = self.service.metrics.clone();
        let say = async {
            if tcp.write_all(&words).await.is_ok() {
                let socket = Socket::new(tcp, REFUSAL_TIME_MAX, metrics);
                Wire::Plain(socket).close(true).await;
            }
        };
        // Whether it listens is its own business.
        let _ = timeout(REFUSAL_TIME_MAX, say).await;
    }
}

/// Counts a connection while it lives.
struct Open(Arc<EdgeMetrics>);

impl Open {
    /// One more, unless there are `max` already, on all listeners of this edge together.
    fn below(max: usize, metrics: &Arc<EdgeMetrics>) -> Option<Self> {
        let max = u64::try_from(max).unwrap_or(u64::MAX);
        let more = |open| (open < max).then_some(open + 1);
        if metrics
            .connections
            .fetch_update(Relaxed, Relaxed, more)
            .is_err()
        {
            metrics.refused.fetch_add(1, Relaxed);
            return None;
        }
        metrics.accepted.fetch_add(1, Relaxed);
        Some(Self(metrics.clone()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
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
