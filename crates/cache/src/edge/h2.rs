//! HTTP/2: hyper's, with bounds. A connection is ended when it is idle for too long, and cut when a
//! stream's reader takes nothing for too long (a window that never opens).

use super::{
    body::{Form, Watch},
    server::Connection,
    wire::Wire,
};
use bytes::{Buf, BytesMut};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, MissedTickBehavior, interval},
};

/// Requests at once on one connection.
const STREAMS_MAX: u32 = 128;
/// What is buffered for one stream's reader.
const SEND_BUFFER_MAX: usize = 256 << 10;
/// The largest frame of a body: small, so that a reader who takes anything is seen to.
const FRAME_MAX: usize = 64 << 10;
/// How often a connection without traffic is asked for a sign of life, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The responses under way on a connection. Dropped ones vanish by themselves.
type Watches = Arc<Mutex<Vec<Weak<Watch>>>>;

/// Serves a connection to its end; `ahead` holds what was read of it already.
pub(crate) async fn serve(wire: Wire, ahead: BytesMut, connection: &mut Connection) {
    let watches = Watches::default();
    let (service, peer) = (connection.service.clone(), connection.peer.clone());
    let answer = {
        let watches = watches.clone();
        service_fn(move |request: http::Request<Incoming>| {
            let (service, peer, watch) = (service.clone(), peer.clone(), Watch::new());
            remember(&watches, &watch);
            async move {
                Ok::<_, Infallible>(
                    service
                        .respond(request, &peer, Form::Frames(FRAME_MAX), watch)
                        .await,
                )
            }
        })
    };
    let limits = connection.limits;
    let head_max = u32::try_from(limits.head.bytes_max).unwrap_or(u32::MAX);
    let mut hyper = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_send_buf_size(SEND_BUFFER_MAX)
            .max_header_list_size(head_max)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(Rewound { wire, ahead }), answer)
    );
    let stall_max = connection.stall_max;
    let mut tick = interval((limits.idle_max.min(stall_max) / 4).max(Duration::from_millis(10)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut busy_at = Instant::now();
    let mut stopping = false;
    loop {
        tokio::select! {
            end = hyper.as_mut() => {
                if let Err(error) = end {
                    tracing::debug!(%error, "HTTP/2 connection ended");
                }
                return;
            }
            () = connection.shutdown.wait(), if !stopping => {
                stopping = true;
                hyper.as_mut().graceful_shutdown();
            }
            _ = tick.tick() => {
                let (live, stuck_ms) = look(&watches);
                if u128::from(stuck_ms) > stall_max.as_millis() {
                    tracing::debug!(stuck_ms, "the client takes nothing: connection cut");
                    connection.service.metrics.stalled
                        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    return;
                }
                if live > 0 {
                    busy_at = Instant::now();
                } else if busy_at.elapsed() > limits.idle_max {
                    if stopping {
                        return;
                    }
                    // Once more the same time for what is still in flight below us.
                    busy_at = Instant::now();
                    stopping = true;
                    hyper.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

fn remember(watches: &Watches, watch: &Arc<Watch>) {
    let mut watches = lock(watches);
    // Ended ones go now and then, so that a busy connection does not pile them up between ticks.
    if watches.len() > 2 * STREAMS_MAX as usize {
        watches.retain(|watch| watch.strong_count() > 0);
    }
    watches.push(Arc::downgrade(watch));
}

/// How many responses are under way, and for how long the slowest reader has taken nothing.
fn look(watches: &Watches) -> (usize, u64) {
    let mut watches = lock(watches);
    let mut stuck_ms = 0;
    watches.retain(|watch| {
        let Some(watch) = watch.upgrade() else {
            return false;
        };
        stuck_ms = stuck_ms.max(watch.stuck_ms());
        !watch.done()
    });
    (watches.len(), stuck_ms)
}

fn lock(watches: &Watches) -> std::sync::MutexGuard<'_, Vec<Weak<Watch>>> {
    watches.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection of which something was read already.
struct Rewound {
    wire: Wire,
    ahead: BytesMut,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.wire).poll_read(cx, buf);
        }
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..n]);
        self.ahead.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
