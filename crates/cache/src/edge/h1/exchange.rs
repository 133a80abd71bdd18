//! One request answered by hyper on a connection that is ours before and after: hyper gets a view of
//! the connection on which there is this one head and nothing else to read, and is dropped when its
//! response is out.

use crate::edge::{
    body::{Form, Watch},
    server::Connection,
    wire::Wire,
};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client may send ahead (pipelining) while its request is being answered.
pub(super) const AHEAD_MAX: usize = 64 << 10;

/// The largest frame of a body: more in one write is no faster.
const FRAME_MAX: usize = 1 << 20;

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The response is out, and the connection is good for another request.
    KeepAlive,
    /// The response is out, and the last.
    Close,
    /// The response is not out, or only in part: close without ceremony.
    Cut,
}

/// Has hyper answer the request of this head; `ahead` holds what was read behind it.
pub(crate) async fn run(
    wire: &mut Wire,
    head: Bytes,
    ahead: &mut BytesMut,
    body: bool,
    keep_alive: bool,
    connection: &mut Connection,
) -> End {
    let watch = Watch::new();
    let flushed = AtomicBool::new(false);
    let limits = connection.limits;
    let view = View {
        wire,
        head,
        ahead,
        body,
        watch: &watch,
        flushed: &flushed,
    };
    let (service, peer) = (&connection.service, &connection.peer);
    let answer = service_fn(|request: http::Request<Incoming>| {
        let watch = watch.clone();
        async move {
            let mut response = service
                .respond(request, peer, Form::Frames(FRAME_MAX), watch)
                .await;
            if !keep_alive {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut hyper = pin!(
        http1::Builder::new()
            .max_headers(super::head::HEADERS_MAX)
            .max_buf_size(limits.head.bytes_max.max(8 << 10) + AHEAD_MAX)
            .serve_connection(TokioIo::new(view), answer)
    );
    let mut stopping = false;
    loop {
        let end = poll_fn(|cx| match hyper.as_mut().poll(cx) {
            Poll::Ready(Ok(())) if watch.done() && !watch.broken() => Poll::Ready(End::Close),
            Poll::Ready(_) => Poll::Ready(End::Cut),
            Poll::Pending if flushed.load(Relaxed) && !watch.broken() => {
                Poll::Ready(End::KeepAlive)
            }
            Poll::Pending => Poll::Pending,
        });
        let end = tokio::select! {
            biased;
            end = end => end,
            () = connection.shutdown.wait(), if !stopping => {
                stopping = true;
                hyper.as_mut().graceful_shutdown();
                continue;
            }
        };
        return match end {
            End::KeepAlive if !keep_alive || stopping => End::Close,
            end => end,
        };
    }
}

/// The connection as hyper gets to see it.
struct View<'a> {
    wire: &'a mut Wire,
    /// What is left to read of the head.
    head: Bytes,
    /// What was read behind the head.
    ahead: &'a mut BytesMut,
    /// Whether what follows the head is its body, for hyper to read, or the next request, for us.
    body: bool,
    watch: &'a Arc<Watch>,
    /// Set once everything of the response has been given to the connection.
    flushed: &'a AtomicBool,
}

impl AsyncRead for View<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.head.is_empty() {
            let n = this.head.len().min(buf.remaining());
            buf.put_slice(&this.head.split_to(n));
            return Poll::Ready(Ok(()));
        }
        if this.body {
            if this.ahead.is_empty() {
                return Pin::new(&mut *this.wire).poll_read(cx, buf);
            }
            let n = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead[..n]);
            this.ahead.advance(n);
            return Poll::Ready(Ok(()));
        }
        // Nothing for hyper; but a client that goes away must be noticed, so that nothing is fetched
        // for nobody.
        while this.ahead.len() < AHEAD_MAX {
            if ready!(this.wire.poll_fill(cx, this.ahead))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }
}

impl AsyncWrite for View<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.wire).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.wire).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    /// hyper flushes the connection only after it has written all that it buffers; so a flush after the
    /// body's end is the end of the response.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.wire).poll_flush(cx))?;
        if self.watch.done() {
            self.flushed.store(true, Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    /// The connection is not hyper's to close.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
