//! A plain read answered without hyper, though it is not held in full: the service says what is
//! answered, and the response is written here, segment by segment as they come: those in memory
//! several to a `sendmsg`, those in files by `sendfile`.
//!
//! hyper cannot send files, and copies what it writes once too often: with many clients on one
//! arriving object that is most of what there is to do. What is more than a GET or HEAD without a body
//! and without ado is left to it, as is everything over TLS.

use super::{
    exchange::{AHEAD_MAX, End},
    head::{self, RequestHead},
    lean::with_date,
    send::{SLICES_MAX, send_file, send_memory},
};
use crate::{
    edge::{
        body::{EdgeBody, Form, Watch},
        head::HeadSink,
        server::Connection,
        wire::Wire,
    },
    types::Segment,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version, header};
use http_body_util::Empty;
use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
};

/// Bytes in memory that are sent at once: as much as a socket usually takes.
const BATCH_BYTES: usize = 512 << 10;

/// A request for the service.
#[derive(Debug)]
pub(super) struct Ask {
    request: http::Request<Empty<Bytes>>,
    keep_alive: bool,
}

impl Ask {
    /// The request of this head, if it can be answered here; `bytes` are the head's.
    pub(super) fn new(
        head: &RequestHead<'_>,
        uri: Uri,
        bytes: &[u8],
        keep_alive: bool,
    ) -> Option<Self> {
        if !head.plain || head.body {
            return None;
        }
        let mut request = http::Request::new(Empty::new());
        *request.method_mut() = match head.method {
            "GET" => Method::GET,
            "HEAD" => Method::HEAD,
            _ => return None,
        };
        *request.uri_mut() = uri;
        *request.version_mut() = match head.minor {
            0 => Version::HTTP_10,
            _ => Version::HTTP_11,
        };
        let mut slots = head::slots();
        let mut lines = httparse::Request::new(&mut []);
        // It was parsed before: what is kept of a head are the headers that we need ourselves.
        lines.parse_with_uninit_headers(bytes, &mut slots).ok()?;
        for line in &*lines.headers {
            let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
            let value = HeaderValue::from_bytes(line.value).ok()?;
            request.headers_mut().append(name, value);
        }
        Some(Self {
            request,
            keep_alive,
        })
    }
}

/// What is to be done next.
enum Next {
    /// What was gathered is all there is at hand, or enough.
    Send,
    /// A file.
    File(Segment),
    /// The body has ended.
    End,
    /// It broke off, or the client left.
    Cut,
}

/// Answers; `ahead` takes what the client sends meanwhile.
pub(super) async fn run(
    wire: &mut Wire,
    ask: Ask,
    ahead: &mut BytesMut,
    connection: &mut Connection,
) -> End {
    let (service, peer) = (&connection.service, &connection.peer);
    let (method, version) = (ask.request.method().clone(), ask.request.version());
    let response = {
        let answer = service.respond(ask.request, peer, Form::Segments, Watch::new());
        let mut answer = pin!(answer);
        let response = poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending if left(wire, ahead, cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match response.await {
            Some(response) => response,
            None => return End::Cut,
        }
    };
    let head = head_of(&response, &method, version, ask.keep_alive);
    match send(wire, head.into(), response.into_body(), ahead).await {
        Ok(true) if ask.keep_alive && !connection.shutdown.begun() => End::KeepAlive,
        Ok(true) => End::Close,
        Ok(false) => End::Cut,
        Err(error) => {
            tracing::debug!(%error, "response cut");
            // A client that left is no failure of ours; a file that is too short is.
            if error.kind() == io::ErrorKind::UnexpectedEof {
                service.metrics.aborted.fetch_add(1, Relaxed);
            }
            End::Cut
        }
    }
}

/// Whether the client has left; what it sends ahead of its turn is kept.
fn left(wire: &mut Wire, ahead: &mut BytesMut, cx: &mut Context<'_>) -> bool {
    while ahead.len() < AHEAD_MAX {
        match wire.poll_fill(cx, ahead) {
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(_) => return true,
            Poll::Pending => return false,
        }
    }
    false
}

/// Sends head and body; whether all of it is out.
async fn send(
    wire: &mut Wire,
    head: Bytes,
    mut body: EdgeBody,
    ahead: &mut BytesMut,
) -> io::Result<bool> {
    let mut memory = vec![head];
    loop {
        let mut gathered = 0;
        let next = poll_fn(|cx| {
            loop {
                if memory.len() >= SLICES_MAX || gathered >= BATCH_BYTES {
                    return Poll::Ready(Next::Send);
                }
                return Poll::Ready(match body.poll_segment(cx) {
                    Poll::Ready(Some(Ok(Segment::Bytes(bytes)))) => {
                        gathered += bytes.len();
                        memory.push(bytes);
                        continue;
                    }
                    Poll::Ready(Some(Ok(file))) => Next::File(file),
                    Poll::Ready(Some(Err(_))) => Next::Cut,
                    Poll::Ready(None) => Next::End,
                    Poll::Pending if !memory.is_empty() => Next::Send,
                    // So that nothing is fetched for nobody.
                    Poll::Pending if left(wire, ahead, cx) => Next::Cut,
                    Poll::Pending => return Poll::Pending,
                });
            }
        });
        let next = next.await;
        let Some(socket) = wire.plain() else {
            return Ok(false);
        };
        // Also what came before the end of a response that is cut: a client can resume behind it.
        send_memory(socket, &mut memory, matches!(next, Next::File(_))).await?;
        match next {
            Next::Send => {}
            Next::File(Segment::File { file, range, copy }) => {
                send_file(socket, &file, range, copy.as_ref()).await?;
            }
            Next::File(Segment::Bytes(bytes)) => memory.push(bytes),
            Next::End => return Ok(true),
            Next::Cut => return Ok(false),
        }
        tokio::task::yield_now().await;
    }
}

/// The head of a response as hyper would write it.
fn head_of(
    response: &Response<EdgeBody>,
    method: &Method,
    version: Version,
    keep_alive: bool,
) -> Vec<u8> {
    let status = response.status();
    let mut head = Vec::with_capacity(640);
    head.extend_from_slice(match version {
        Version::HTTP_10 => b"HTTP/1.0 ".as_slice(),
        _ => b"HTTP/1.1 ",
    });
    head.extend_from_slice(status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(b"\r\n");
    for (name, value) in response.headers() {
        head.header(name, value.as_bytes());
    }
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if method != Method::HEAD
        && !bodiless
        && !response.headers().contains_key(header::CONTENT_LENGTH)
    {
        let length = response.body().left().to_string();
        head.header(&header::CONTENT_LENGTH, length.as_bytes());
    }
    match (keep_alive, version) {
        (false, _) => head.header(&header::CONNECTION, b"close"),
        (true, Version::HTTP_10) => head.header(&header::CONNECTION, b"keep-alive"),
        (true, _) => {}
    }
    with_date(|date| head.header(&header::DATE, date.as_bytes()));
    head.extend_from_slice(b"\r\n");
    head
}
