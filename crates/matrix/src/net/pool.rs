//! Connections that are kept for the next request, and a request over one of them.
//!
//! A server may close a kept connection at any moment, also when the next request is on its way. All that
//! is sent through here only reads, so a request that gets no answer on a kept connection goes out again
//! on another; on a new one it does not.

use super::{ConnectError, NetConfig, Resolved, body::BodyError, dial::Dialer};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use ruma_common::OwnedServerName;
use std::{
    collections::{HashMap, VecDeque},
    error::Error as _,
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    task::AbortHandle,
    time::{self, Instant},
};

/// Kept connections that may turn out to be closed in the course of one request.
const STALE_MAX: usize = 3;
/// How long a connection may take to be ready for the next request, after an answer's end.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// What connections are kept under: a server, and how it is spoken to, for that may change.
type Key = (OwnedServerName, String);

/// Sends requests, and keeps connections.
#[derive(Debug)]
pub(crate) struct Pool {
    dialer: Dialer,
    head_bytes_max: usize,
    head_timeout: Duration,
    idle_max: usize,
    idle_per_server_max: usize,
    idle_timeout: Duration,
    age_max: Duration,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Of each server the most recently used last.
    servers: HashMap<Key, VecDeque<(Instant, Connection)>>,
    count: usize,
    /// Whether a task looks after them.
    is_swept: bool,
}

/// A connection; ends when it is dropped.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    task: AbortHandle,
    since: Instant,
    peer: SocketAddr,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    Connect(ConnectError),
    TimedOut(Duration),
    /// The connection broke before the answer's head was complete.
    Broken(String),
    /// What came is not HTTP, or its head is too large.
    Malformed(String),
}

impl Pool {
    pub(crate) fn new(config: &NetConfig, dialer: Dialer) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            head_bytes_max: config.head_bytes_max,
            head_timeout: config.head_timeout,
            idle_max: config.idle_max,
            idle_per_server_max: config.idle_per_server_max,
            idle_timeout: config.idle_timeout,
            age_max: config.connection_age_max,
            idle: Mutex::default(),
        })
    }

    /// Sends one request, of a path and a `Host`, and resolves with the head of its answer.
    ///
    /// Dropping the future, or the body before its end, closes the connection.
    pub(crate) async fn send(
        self: &Arc<Self>,
        to: &Resolved,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<AnswerBody>, SocketAddr), SendError> {
        let key = (to.server.clone(), format!("{} {:?}", to.host, to.name));
        for _ in 0..STALE_MAX {
            let Some(connection) = self.kept(&key) else {
                break;
            };
            match self.ask(&key, connection, request.clone()).await {
                Err(error @ SendError::Broken(_)) => {
                    tracing::debug!(?error, "a kept connection was closed: asking on another");
                }
                ended => return ended,
            }
        }
        let dialed = self.dialer.dial(&to.addrs, &to.name).await;
        let (stream, peer) = dialed.map_err(SendError::Connect)?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(self.head_bytes_max.max(8192))
            // A read may bring more than the buffer is to hold.
            .max_header_size(self.head_bytes_max)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| SendError::Broken(error.to_string()))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a server ended");
            }
        });
        let connection = Connection {
            sender,
            task: task.abort_handle(),
            since: Instant::now(),
            peer,
        };
        self.ask(&key, connection, request).await
    }

    async fn ask(
        self: &Arc<Self>,
        key: &Key,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<AnswerBody>, SocketAddr), SendError> {
        let asking = connection.sender.send_request(request);
        let answer = match time::timeout(self.head_timeout, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(SendError::of(&error)),
            Err(_) => return Err(SendError::TimedOut(self.head_timeout)),
        };
        let peer = connection.peer;
        let lease = Lease {
            pool: Arc::downgrade(self),
            key: key.clone(),
            connection,
        };
        Ok((answer.map(|body| AnswerBody::new(body, lease)), peer))
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self, since_used: Instant, connection: &Connection) -> bool {
        since_used.elapsed() < self.idle_timeout
            && connection.since.elapsed() < self.age_max
            && connection.sender.is_ready()
    }

    /// The connection to a server that was used last.
    fn kept(&self, key: &Key) -> Option<Connection> {
        let mut idle = self.idle();
        let idle = &mut *idle;
        let connections = idle.servers.get_mut(key)?;
        let mut found = None;
        while let Some((used, connection)) = connections.pop_back() {
            idle.count -= 1;
            if self.is_usable(used, &connection) {
                found = Some(connection);
                break;
            }
        }
        if connections.is_empty() {
            idle.servers.remove(key);
        }
        found
    }

    fn keep(self: &Arc<Self>, key: Key, connection: Connection) {
        if connection.since.elapsed() >= self.age_max || self.idle_per_server_max == 0 {
            return;
        }
        let mut idle = self.idle();
        if idle.count >= self.idle_max {
            // Whose turn is long over goes first; and where all are fresh, this one.
            self.sweep(&mut idle);
            if idle.count >= self.idle_max {
                return;
            }
        }
        let connections = idle.servers.entry(key).or_default();
        connections.push_back((Instant::now(), connection));
        let over = connections.len() > self.idle_per_server_max;
        if over {
            connections.pop_front();
        } else {
            idle.count += 1;
        }
        if !idle.is_swept {
            idle.is_swept = true;
            tokio::spawn(look_after(Arc::downgrade(self), self.idle_timeout / 2));
        }
    }

    fn sweep(&self, idle: &mut Idle) {
        let mut count = 0;
        idle.servers.retain(|_, connections| {
            connections.retain(|(used, connection)| self.is_usable(*used, connection));
            count += connections.len();
            !connections.is_empty()
        });
        idle.count = count;
    }

    /// Idle connections.
    pub(crate) fn idle_count(&self) -> usize {
        self.idle().count
    }
}

/// Closes connections that nobody used for long, while there are any.
async fn look_after(pool: Weak<Pool>, every: Duration) {
    loop {
        time::sleep(every.max(Duration::from_millis(100))).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle();
        pool.sweep(&mut idle);
        if idle.count == 0 {
            idle.is_swept = false;
            return;
        }
    }
}

impl SendError {
    fn of(error: &hyper::Error) -> Self {
        let mut detail = error.to_string();
        if let Some(cause) = error.source() {
            detail = format!("{detail}: {cause}");
        }
        if error.is_parse() {
            Self::Malformed(detail)
        } else {
            Self::Broken(detail)
        }
    }
}

/// A connection that is in use.
#[derive(Debug)]
struct Lease {
    pool: Weak<Pool>,
    key: Key,
    connection: Connection,
}

impl Lease {
    /// The answer was read to its end.
    fn give_back(self) {
        let Self {
            pool,
            key,
            mut connection,
        } = self;
        tokio::spawn(async move {
            let ready = time::timeout(READY_WITHIN, connection.sender.ready()).await;
            if let (Ok(Ok(())), Some(pool)) = (ready, pool.upgrade()) {
                pool.keep(key, connection);
            }
        });
    }
}

/// The body of an answer, as it arrives; without a bound on size or time, which are the reader's
/// (see [`read_bounded`](super::read_bounded)). Dropped before its end, it closes the connection.
pub struct AnswerBody {
    incoming: Incoming,
    lease: Option<Lease>,
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}

impl AnswerBody {
    fn new(incoming: Incoming, lease: Lease) -> Self {
        let mut body = Self {
            incoming,
            lease: Some(lease),
        };
        if body.incoming.is_end_stream() {
            body.end();
        }
        body
    }

    fn end(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// How many bytes there are, if the server said so.
    pub fn len(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Whether it is known to be at its end.
    pub fn is_empty(&self) -> bool {
        self.incoming.is_end_stream()
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Err(_))) => self.lease = None,
            Poll::Ready(Some(Ok(_))) if self.incoming.is_end_stream() => self.end(),
            _ => {}
        }
        polled.map_err(|error| BodyError::Broken(error.to_string()))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl futures_core::Stream for AnswerBody {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => return Poll::Ready(Some(Ok(bytes))),
                    // Trailers say nothing here.
                    Err(_) => continue,
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
