//! The lean path: a plain GET or HEAD of an object that is held in full is answered here, without
//! hyper: from memory in one `writev`, from files by `sendfile`.
//!
//! It decides with the same functions as the rest of the edge ([`Target`], [`Conditions::judge`],
//! [`ObjectHead`]) and takes only what ends in 200, 206 or 304; whatever else a request may be or
//! need, it leaves untouched to hyper.
//!
//! [`Conditions::judge`]: crate::edge::condition::Conditions::judge

use super::head::RequestHead;
use crate::{
    edge::{
        condition::Verdict,
        head::{Extent, HeadSink, ObjectHead, http_date},
        query,
        service::{Peer, Service, checksums_asked},
        target::Target,
        wire::Socket,
    },
    types::Segment,
};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::{
    cell::RefCell,
    fs::File,
    io::{self, IoSlice},
    ops::Range,
    sync::atomic::Ordering::Relaxed,
    time::{Instant, SystemTime},
};

/// How much one `sendfile` sends at most: no connection holds a worker thread for longer than it takes
/// to copy that.
const SENDFILE_MAX: u64 = 1 << 20;
/// Slices of one `writev`.
const SLICES_MAX: usize = 32;

/// An answer that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Reply {
    head: Vec<u8>,
    segments: Vec<Segment>,
    /// Whether the connection lives on after it.
    pub(crate) keep_alive: bool,
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
        })
    }

    /// Sends it. An error leaves the response unfinished: the connection must be closed.
    pub(crate) async fn send(self, socket: &mut Socket) -> io::Result<u64> {
        let mut sent = 0;
        let mut memory: Vec<Bytes> = vec![self.head.into()];
        for segment in self.segments {
            sent += segment.len();
            match segment {
                Segment::Bytes(bytes) => memory.push(bytes),
                Segment::File { file, range } => {
                    send_memory(socket, &mut memory, true).await?;
                    send_file(socket, &file, range).await?;
                }
            }
        }
        send_memory(socket, &mut memory, false).await?;
        Ok(sent)
    }
}

/// Visible ASCII that a path may consist of without being read differently by anybody.
fn is_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&b)
}

/// Sends and forgets these; `more` says that something follows at once.
async fn send_memory(socket: &mut Socket, memory: &mut Vec<Bytes>, more: bool) -> io::Result<()> {
    let flags = SendFlags::NOSIGNAL
        | if more {
            SendFlags::MORE
        } else {
            SendFlags::empty()
        };
    while !memory.is_empty() {
        let sent = socket
            .when_writable(|tcp| {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = memory.len().min(SLICES_MAX);
                for (slice, bytes) in slices.iter_mut().zip(memory.iter()) {
                    *slice = IoSlice::new(bytes);
                }
                let mut control = SendAncillaryBuffer::new(&mut []);
                Ok(sendmsg(tcp, &slices[..count], &mut control, flags)?)
            })
            .await?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut left = sent;
        let whole = memory
            .iter()
            .take_while(|bytes| {
                let fits = bytes.len() <= left;
                left -= if fits { bytes.len() } else { 0 };
                fits
            })
            .count();
        memory.drain(..whole);
        if let Some(first) = memory.first_mut() {
            let _ = first.split_to(left);
        }
    }
    Ok(())
}

/// Sends a part of a file from the page cache. (A page that is not there blocks this thread until it is
/// read, as in any server without `aio`; the parts are small enough for others to get their turn.)
async fn send_file(socket: &mut Socket, file: &File, range: Range<u64>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let count = usize::try_from((range.end - at).min(SENDFILE_MAX)).unwrap_or(usize::MAX);
        let sent = socket
            .when_writable(|tcp| Ok(rustix::fs::sendfile(tcp, file, Some(&mut at), count)?))
            .await?;
        if sent == 0 {
            // Truncated behind our back: what was promised cannot be sent.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tokio::task::coop::consume_budget().await;
    }
    Ok(())
}

/// The current date, formatted once a second and thread.
fn with_date<T>(use_it: impl FnOnce(&str) -> T) -> T {
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
