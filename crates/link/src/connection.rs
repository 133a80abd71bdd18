//! One connection of a server, from its handshake to its end.

use crate::{
    counters::{Gauge, ServerCounters, add},
    credentials::Credentials,
    error::chain,
    newcomers::{Newcomer, Newcomers},
    proof::{Guard, PROOF, Refusal, unix_ms},
    server::{Peer, ServerLimits},
    stall::Socket,
    tls::ALPN,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    error::Error,
    future::{Future, pending},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Why we refuse a request, for the other end to tell our refusals from its handler's answers.
pub(crate) const REFUSAL: HeaderName = HeaderName::from_static("gannet-refusal");
/// Our time in a refusal, so that clocks can be put right.
pub(crate) const TIME: HeaderName = HeaderName::from_static("gannet-time");

/// What a client may send us at once on a stream, and on a connection: requests are small.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What we take from a response's body before its reader has taken it, for each stream.
const SEND_BUFFER_MAX: usize = 512 << 10;
/// Streams that may be reset before we looked at them. A member's callers may leave in one moment, which
/// is no attack; one who goes on and on is cut off.
const RESETS_PENDING_MAX: usize = 128;
/// Streams that we reset because of what came on them, over a connection's life.
const RESETS_LOCAL_MAX: usize = 1024;

type BoxError = Box<dyn Error + Send + Sync>;
type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// What all connections of a server share.
pub(crate) struct Shared<H> {
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) counters: Arc<ServerCounters>,
    limits: ServerLimits,
    guard: Guard,
    newcomers: Arc<Newcomers>,
    handler: H,
}

impl<H> Shared<H> {
    pub(crate) fn new(
        credentials: Arc<Credentials>,
        limits: ServerLimits,
        counters: Arc<ServerCounters>,
        handler: H,
    ) -> Self {
        Self {
            credentials,
            counters,
            guard: Guard::new(limits.clock_skew_max, limits.nonces_max, unix_ms()),
            newcomers: Newcomers::new(limits.connections_max / 4),
            limits,
            handler,
        }
    }
}

/// What a connection and its requests share.
struct Course {
    peer: Peer,
    /// Its place among those that have proved nothing.
    newcomer: Mutex<Option<Newcomer>>,
    proved: AtomicBool,
    /// Requests that came, and those of them that are being answered.
    requests: AtomicUsize,
    in_flight: AtomicUsize,
}

impl Course {
    fn prove(&self) {
        if !self.proved.swap(true, Relaxed) {
            *self.newcomer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// A request that is being answered, until its response's body is dropped.
struct Busy {
    course: Arc<Course>,
    _gauge: Gauge<InFlight>,
}

struct InFlight(Arc<ServerCounters>);

impl AsRef<AtomicU64> for InFlight {
    fn as_ref(&self) -> &AtomicU64 {
        &self.0.in_flight
    }
}

impl Busy {
    fn new(course: &Arc<Course>, counters: &Arc<ServerCounters>) -> Self {
        course.requests.fetch_add(1, Relaxed);
        course.in_flight.fetch_add(1, Relaxed);
        Self {
            course: course.clone(),
            _gauge: Gauge::new(InFlight(counters.clone())),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.course.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve<H, F, B>(
    shared: Arc<Shared<H>>,
    tcp: TcpStream,
    address: SocketAddr,
    stopped: watch::Receiver<bool>,
) where
    H: Fn(Peer, Request<Bytes>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // Frames are written whole: nothing to wait for.
    let _ = tcp.set_nodelay(true);
    let socket = Socket::new(tcp, shared.limits.ping_timeout);
    let (newcomer, lost) = shared.newcomers.enter();
    let course = |name| {
        Arc::new(Course {
            peer: Peer { address, name },
            newcomer: Mutex::new(Some(newcomer)),
            proved: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        })
    };
    // Taken before the handshake: what is shown in it is of this epoch or a later one.
    let epoch = shared.credentials.epoch();
    let mut lost = pin!(told(lost));
    let Some(identity) = shared.credentials.tls() else {
        return http(&shared, course(None), socket, stopped, lost.as_mut(), epoch).await;
    };
    let acceptor = TlsAcceptor::from(identity.current().server.clone());
    let handshake = Box::pin(timeout(
        shared.limits.handshake_max,
        acceptor.accept(socket),
    ));
    let mut stop = stopped.clone();
    let stream = tokio::select! {
        stream = handshake => stream,
        () = &mut lost => return add(&shared.counters.refused_crowded),
        // Nobody has asked anything yet.
        _ = stop.wait_for(|stop| *stop) => return,
    };
    match stream {
        Ok(Ok(stream)) => match of_member(&stream, &shared.credentials) {
            Some(name) => {
                let course = course(Some(name));
                course.prove();
                http(&shared, course, stream, stopped, lost.as_mut(), epoch).await;
            }
            None => add(&shared.counters.refused_protocol),
        },
        Ok(Err(error)) => {
            add(reason(&error, &shared.counters));
            tracing::debug!(peer = %address, %error, "no TLS connection");
        }
        Err(_) => add(&shared.counters.refused_slow),
    }
}

/// Resolves when a newcomer lost its place, never when it kept it.
async fn told(lost: oneshot::Receiver<()>) {
    if lost.await.is_err() {
        pending().await
    }
}

/// The name of the member at the other end, if it speaks HTTP/2.
fn of_member(stream: &TlsStream<Socket>, credentials: &Credentials) -> Option<String> {
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(ALPN) {
        return None;
    }
    let certificate = session.peer_certificates()?.first()?;
    credentials.tls()?.name_of(certificate)
}

/// What to count a failed handshake as.
fn reason<'a>(error: &io::Error, counters: &'a ServerCounters) -> &'a AtomicU64 {
    let tls = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => {
            &counters.refused_certificate
        }
        Some(rustls::Error::NoApplicationProtocol) => &counters.refused_protocol,
        _ => &counters.refused_tls,
    }
}

/// Serves HTTP/2 on a connection whose handshake is done.
async fn http<H, F, B, S>(
    shared: &Arc<Shared<H>>,
    course: Arc<Course>,
    stream: S,
    mut stopped: watch::Receiver<bool>,
    mut lost: std::pin::Pin<&mut impl Future<Output = ()>>,
    epoch: u64,
) where
    H: Fn(Peer, Request<Bytes>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    let service = {
        let (shared, course) = (shared.clone(), course.clone());
        service_fn(move |request: Request<Incoming>| {
            let (shared, course) = (shared.clone(), course.clone());
            async move { Ok::<_, Infallible>(answer(&shared, &course, request).await) }
        })
    };
    let mut hyper = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(limits.head_bytes_max)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_LOCAL_MAX)
            .max_send_buf_size(SEND_BUFFER_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(limits.ping_interval)
            .keep_alive_timeout(limits.ping_timeout)
            .serve_connection(TokioIo::new(stream), service)
    );
    let shortest = limits
        .handshake_max
        .min(limits.idle_max)
        .min(limits.age_max);
    let mut tick =
        interval((shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(5)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    let (mut busy_at, mut requests) = (began, 0);
    let mut stopping = false;
    loop {
        tokio::select! {
            end = hyper.as_mut() => {
                if let Err(error) = end {
                    tracing::debug!(peer = %course.peer.address, error = chain(&error), "connection ended");
                }
                return;
            }
            _ = stopped.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                hyper.as_mut().graceful_shutdown();
            }
            () = &mut lost, if !course.proved.load(Relaxed) => {
                return add(&shared.counters.refused_crowded);
            }
            _ = tick.tick() => {
                let now = Instant::now();
                if !course.proved.load(Relaxed) && now - began > limits.handshake_max {
                    return add(&shared.counters.refused_slow);
                }
                let before = std::mem::replace(&mut requests, course.requests.load(Relaxed));
                if requests != before || course.in_flight.load(Relaxed) > 0 {
                    busy_at = now;
                }
                let idle = now - busy_at > limits.idle_max;
                let outdated = now - began > limits.age_max || shared.credentials.epoch() != epoch;
                if !stopping && (idle || outdated) {
                    stopping = true;
                    if idle {
                        add(&shared.counters.ended_idle);
                    }
                    hyper.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Sees who asks, takes in the body, and has it answered.
async fn answer<H, F, B>(
    shared: &Arc<Shared<H>>,
    course: &Arc<Course>,
    request: Request<Incoming>,
) -> Response<AnswerBody>
where
    H: Fn(Peer, Request<Bytes>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (counters, limits) = (&shared.counters, &shared.limits);
    add(&counters.requests);
    let busy = Busy::new(course, counters);
    let (mut head, body) = request.into_parts();
    let proof = head.headers.remove(PROOF);
    let mut promised = None;
    if let Some(keys) = shared.credentials.keys() {
        let now_ms = unix_ms();
        let check = shared
            .guard
            .check(&keys, &head.method, &head.uri, proof.as_ref(), now_ms);
        match check {
            Ok(hash) => promised = Some(hash),
            Err(refusal) => return unproved(refusal, now_ms, counters),
        }
    }
    course.prove();
    // `Limited` would find out by reading; who says so beforehand need not send it.
    if body.size_hint().lower() > limits.body_bytes_max as u64 {
        add(&counters.bodies_large);
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_large", None);
    }
    let body = Limited::new(body, limits.body_bytes_max).collect();
    let body = match timeout(limits.body_time_max, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            add(&counters.bodies_large);
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_large", None);
        }
        Ok(Err(_)) | Err(_) => {
            add(&counters.bodies_slow);
            return refuse(StatusCode::REQUEST_TIMEOUT, "body_slow", None);
        }
    };
    if promised.is_some_and(|promised| promised != blake3::hash(&body)) {
        return unproved(Refusal::Wrong, unix_ms(), counters);
    }
    let request = Request::from_parts(head, body);
    let response = (shared.handler)(course.peer.clone(), request).await;
    response.map(|body| {
        body.map_err(Into::into)
            .map_frame(move |frame| {
                // Busy for as long as the body lives.
                let _busy = &busy;
                frame
            })
            .boxed_unsync()
    })
}

fn unproved(refusal: Refusal, now_ms: u64, counters: &ServerCounters) -> Response<AnswerBody> {
    let (counter, reason) = match refusal {
        Refusal::Missing => (&counters.unproved, "proof_missing"),
        Refusal::Malformed => (&counters.proofs_malformed, "proof_malformed"),
        Refusal::Wrong => (&counters.proofs_wrong, "proof_wrong"),
        Refusal::Clock => (&counters.proofs_clock, "proof_clock"),
        Refusal::Forgotten => (&counters.proofs_forgotten, "proof_forgotten"),
        Refusal::Replayed => (&counters.proofs_replayed, "proof_replayed"),
    };
    add(counter);
    refuse(StatusCode::UNAUTHORIZED, reason, Some(now_ms))
}

fn refuse(status: StatusCode, reason: &'static str, now_ms: Option<u64>) -> Response<AnswerBody> {
    let text = Full::new(Bytes::from_static(reason.as_bytes()));
    let mut response = Response::new(text.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(REFUSAL, HeaderValue::from_static(reason));
    if let Some(now_ms) = now_ms {
        headers.insert(TIME, HeaderValue::from(now_ms));
    }
    response
}
