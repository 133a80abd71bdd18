//! The lean path: a plain GET or HEAD of an object that is held in full is answered here, without
//! hyper: from memory in one `writev`, from files by `sendfile`.
//!
//! It decides with the same functions as the rest of the edge ([`Target`], [`Conditions::judge`],
//! [`ObjectHead`]) and takes only what ends in 200, 206 or 304; whatever else a request may be or
//! need, it leaves untouched to hyper.
//!
//! [`Conditions::judge`]: crate::edge::condition::Conditions::judge

use super::{
    head::RequestHead,
    send::{send_file, send_memory},
};
use crate::{
    edge::{
        condition::Verdict,
        head::{Extent, HeadSink, ObjectHead, http_date},
        query,
        service::{Peer, Service, checksums_asked},
        span,
        target::Target,
        wire::Socket,
    },
    traces::Span,
    types::Segment,
};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use std::{
    cell::RefCell,
    io,
    ops::Range,
    sync::atomic::Ordering::Relaxed,
    time::{Instant, SystemTime},
};

/// An answer that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Reply {
    head: Vec<u8>,
    segments: Vec<Segment>,
    /// Whether the connection lives on after it.
    pub(crate) keep_alive: bool,
    /// Ends when it is sent.
    span: Span,
}

impl Reply {
    /// Answers a request if it is one for the lean path. Never blocks.
    pub(crate) fn find(
        service: &Service,
        peer: &Peer,
        request: &RequestHead<'_>,
        keep_alive: bool,
    ) -> Option<Self> {
        if !request.plain || request.body {
            return None;
        }
        let method = match request.method {
            "GET" => Method::GET,
            "HEAD" => Method::HEAD,
            _ => return None,
        };
        let started = Instant::now();
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((request.target, ""));
        // What `http::Uri` would refuse or read otherwise, hyper shall refuse or read.
        if !query::is_plain(Some(query.as_bytes())) || !path.bytes().all(is_path_byte) {
            return None;
        }
        let host = match request.host {
            Some(host) => Some(std::str::from_utf8(host).ok()?),
            None => None,
        };
        let Ok(Target::Object(name)) = service.target(path, host) else {
            return None;
        };
        let caller = service.quick_identity(request.authorization, peer)?;
        if !caller.may_read(&name.bucket, &name.key) {
            return None;
        }
        let meta = service.backend.cached_head(&name)?;
        let extent = match request.conditions.judge(&meta) {
            Verdict::Whole => Extent::Whole,
            Verdict::Part(range) => Extent::Part(range),
            Verdict::NotModified => Extent::Nothing,
            Verdict::Failed(_) | Verdict::NotSatisfiable => return None,
        };
        let checksums = checksums_asked(request.checksum_mode);
        let answer = ObjectHead {
            meta: &meta,
            extent,
            checksums,
            overrides: &[],
        };
        let Range { start, end } = answer.range();
        let segments = if method == Method::GET && start < end {
            let segments = service.backend.held(&name, &meta, start..end)?;
            let len: u64 = segments.iter().map(Segment::len).sum();
            if len != end - start {
                return None;
            }
            segments
        } else {
            Vec::new()
        };

        let id = service.mint.mint();
        let mut head = Vec::with_capacity(640);
        head.extend_from_slice(match answer.status() {
            StatusCode::OK if request.minor == 1 => b"HTTP/1.1 200 OK\r\n".as_slice(),
            StatusCode::PARTIAL_CONTENT if request.minor == 1 => {
                b"HTTP/1.1 206 Partial Content\r\n"
            }
            StatusCode::OK => b"HTTP/1.0 200 OK\r\n",
            StatusCode::PARTIAL_CONTENT => b"HTTP/1.0 206 Partial Content\r\n",
            _ if request.minor == 1 => b"HTTP/1.1 304 Not Modified\r\n",
            _ => b"HTTP/1.0 304 Not Modified\r\n",
        });
        answer.write((&service.mint, id), &mut head);
        match (keep_alive, request.minor) {
            (false, _) => head.header(&header::CONNECTION, b"close"),
            (true, 0) => head.header(&header::CONNECTION, b"keep-alive"),
            (true, _) => {}
        }
        with_date(|date| head.header(&header::DATE, date.as_bytes()));
        head.extend_from_slice(b"\r\n");

        let status = answer.status();
        tracing::debug!(request_id = %id, %method, ?name, status = status.as_u16(), "lean hit");
        let span = if service.tracer.is_on() {
            let about = (path, host);
            let mut span = service.span(request.traceparent, &method, about, peer, id);
            span.set("gannet.lean", true);
            span::answered(&mut span, status);
            span
        } else {
            Span::default()
        };
        let metrics = &service.metrics;
        metrics.request(&method, status.as_u16());
        metrics.lean.fetch_add(1, Relaxed);
        if method == Method::GET && status.is_success() {
            metrics.first_byte(started.elapsed());
        }
        Some(Self {
            head,
            segments,
            keep_alive,
            span,
        })
    }

    /// Sends it. An error leaves the response unfinished: the connection must be closed.
    pub(crate) async fn send(mut self, socket: &mut Socket) -> io::Result<u64> {
        let mut sent = 0;
        if self.span.is_on() {
            // Until it is all out.
            span::sent(&mut self.span, 0, false);
        }
        let mut memory: Vec<Bytes> = vec![self.head.into()];
        for segment in self.segments {
            sent += segment.len();
            match segment {
                Segment::Bytes(bytes) => memory.push(bytes),
                Segment::File { file, range, copy } => {
                    send_memory(socket, &mut memory, true).await?;
                    send_file(socket, &file, range, copy.as_ref()).await?;
                }
            }
        }
        send_memory(socket, &mut memory, false).await?;
        if self.span.is_on() {
            span::sent(&mut self.span, sent, true);
        }
        Ok(sent)
    }
}

/// Visible ASCII that a path may consist of without being read differently by anybody.
fn is_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&b)
}

/// The current date, formatted once a second and thread.
pub(super) fn with_date<T>(use_it: impl FnOnce(&str) -> T) -> T {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    DATE.with_borrow_mut(|(at, text)| {
        let now = SystemTime::now();
        let second = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if *at != second || text.is_empty() {
            *at = second;
            *text = http_date(now);
        }
        use_it(text)
    })
}
