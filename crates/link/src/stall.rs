//! Sockets whose other end takes nothing, and how they are closed.
//!
//! A live client of HTTP/2 reads whatever comes, for its windows bound what may. So a write that stays
//! blocked means that it is frozen or cut off. Pings cannot tell: they wait behind what is blocked, and
//! so would the farewell after they went unanswered.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// A socket on which a write fails that was blocked for too long.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    stall_max: Duration,
    blocked: bool,
    /// We have said all.
    ended: bool,
    /// Made when something is blocked for the first time.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream, stall_max: Duration) -> Self {
        Self {
            tcp,
            stall_max,
            blocked: false,
            ended: false,
            timer: None,
        }
    }

    /// What a write comes to, with the time that it was blocked.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked = false;
            return written;
        }
        let stall_max = self.stall_max;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(stall_max)));
        if !self.blocked {
            self.blocked = true;
            timer.as_mut().reset(Instant::now() + stall_max);
        }
        timer.as_mut().poll(cx).map(|()| {
            let text = "the other end takes nothing of what it is sent";
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
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
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket's flush does nothing, and says nothing about writes.
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
            self.ended = true;
            self.blocked = false;
        }
        // A socket that is closed while something unread came resets the connection, and then the other
        // end may lose what it has not read yet. So what still comes is read, until it closes too.
        // First of all: one who sends without an end must not keep it open.
        if self.watch(cx, Poll::<io::Result<()>>::Pending).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut rest = [0; 1024];
        loop {
            let mut rest = ReadBuf::new(&mut rest);
            match ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut rest)) {
                Ok(()) if !rest.filled().is_empty() => {}
                // It closed too, or broke.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
