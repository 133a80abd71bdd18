//! A client's connection, plain or TLS. Writing is bounded: a client that takes nothing for too long is
//! cut off.

use super::metrics::EdgeMetrics;
use bytes::BytesMut;
use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::server::TlsStream;

/// How much is read at once.
const READ_LEN: usize = 4096;
/// How much of what a client sends after the end is read and dropped, and for how long.
const LINGER_LEN_MAX: usize = 1 << 20;
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// A TCP connection whose writes must make progress.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    stall_max: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    metrics: Arc<EdgeMetrics>,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream, stall_max: Duration, metrics: Arc<EdgeMetrics>) -> Self {
        Self {
            tcp,
            stall_max,
            stalled: None,
            metrics,
        }
    }

    /// Tries a write until it is not refused for want of room.
    pub(crate) async fn when_writable<T>(
        &mut self,
        mut write: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match self.tcp.try_io(Interest::WRITABLE, || write(&self.tcp)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            match timeout(self.stall_max, self.tcp.writable()).await {
                Ok(ready) => ready?,
                Err(_) => return Err(self.cut()),
            }
        }
    }

    fn cut(&self) -> io::Error {
        self.metrics.stalled.fetch_add(1, Relaxed);
        io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")
    }

    /// A write's outcome, with the clock of a stall started, stopped or run out.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let stall_max = self.stall_max;
        let clock = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(stall_max)));
        ready!(clock.as_mut().poll(cx));
        self.stalled = None;
        Poll::Ready(Err(self.cut()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.watch(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.watch(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Wire {
    /// Reads some bytes behind those in `buf`; 0: the client sends no more. Holds no memory while it
    /// waits, so that an idle connection costs little. Nothing is lost if it is dropped.
    pub(crate) async fn fill(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        if buf.is_empty() {
            *buf = BytesMut::new();
        }
        std::future::poll_fn(|cx| self.poll_fill(cx, buf)).await
    }

    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let mut room = [const { MaybeUninit::uninit() }; READ_LEN];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(self).poll_read(cx, &mut read))?;
        buf.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// The socket, if there is nothing between it and us.
    pub(crate) fn plain(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }

    /// Ends the connection after a response. If the client may still be sending, what it sends is read
    /// for a moment: closing at once would reset the connection, and could take the response along.
    pub(crate) async fn close(mut self, more_may_come: bool) {
        let close = async {
            self.shutdown().await?;
            let mut left = if more_may_come { LINGER_LEN_MAX } else { 0 };
            let mut sink = vec![0; READ_LEN];
            while left > 0 {
                match self.read(&mut sink).await? {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
            }
            io::Result::Ok(())
        };
        // The response is out; how the connection ends is the client's business.
        let _ = timeout(LINGER_TIME_MAX, close).await;
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
