//! What a caller gets: [`Fetched`] as a whole, [`Streaming`] as it arrives.

use crate::{
    Body,
    body::SharedReader,
    driver::Ticket,
    engine::Sources,
    error::{ErrorKind, StreamError},
};
use bytes::Bytes;
use futures_core::Stream;
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

/// A datum as a whole.
#[derive(Clone, Debug)]
pub struct Fetched<M> {
    /// What came before the bytes.
    pub meta: M,
    /// All its bytes.
    pub body: Body,
    /// Who brought it, in the order of their bytes.
    pub sources: Sources,
}

impl<M> Fetched<M> {
    /// A datum that was not fetched: held by a store, or come by another way.
    pub fn held(meta: M, body: impl Into<Body>) -> Self {
        Self {
            meta,
            body: body.into(),
            sources: Sources::Unknown,
        }
    }
}

/// A datum as it arrives; its first byte (of those asked for) is at hand.
#[derive(Debug)]
pub struct Streaming<M> {
    /// What came before the bytes.
    pub meta: M,
    /// Bytes of the whole datum, if the source said so.
    pub total: Option<u64>,
    /// The bytes.
    pub body: BodyReader,
}

/// The bytes of a datum as they arrive: the same segments that all callers of the key read.
///
/// Ends after the last byte once the datum is judged (and committed, where the plan commits before it
/// finishes), so that its end proves the whole. A reader with an end of its own
/// ([`Fetch::until`](crate::Fetch::until)) ends there and waits for no verdict.
///
/// Dropping it releases the caller's interest: under a plan that is not detached, the last one that
/// goes cancels the fetch. Polling is cancel safe.
#[derive(Debug)]
pub struct BodyReader {
    reader: SharedReader,
    until: u64,
    /// The outcome of the fetch for this caller; none for what was held.
    ticket: Option<Ticket<Sources>>,
    sources: Option<Sources>,
    done: bool,
}

impl BodyReader {
    pub(crate) fn new(reader: SharedReader, until: u64, ticket: Option<Ticket<Sources>>) -> Self {
        Self {
            reader: reader.until(until),
            until,
            sources: ticket.is_none().then_some(Sources::Unknown),
            ticket,
            done: false,
        }
    }

    /// Ends at this offset.
    pub(crate) fn set_until(&mut self, until: u64) {
        self.until = until;
        self.reader.set_until(until);
    }

    /// From now on a restart is an error; fails if the body is not in this epoch any more.
    pub(crate) fn pin_epoch(&mut self, epoch: u64) -> bool {
        self.reader.pin_epoch(epoch)
    }

    /// The offset of the next byte.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// The next bytes: whatever part of a segment is at hand, without a copy. `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, StreamError>> {
        poll_fn(|cx| self.poll_bytes(cx)).await
    }

    /// Whether all bytes of the datum have come, and none that was read was of another version: what
    /// the store has of a fetch that ended so is what is read here.
    pub fn is_complete(&self) -> bool {
        self.reader.is_complete()
    }

    /// Who brought the datum, once that is known: at the end of the whole datum.
    pub fn sources(&self) -> Option<&Sources> {
        self.sources.as_ref()
    }

    /// Resolves when a byte is at hand, or it is certain that none will come.
    pub(crate) fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self.reader.poll_ready(cx) {
            Poll::Ready(Some(Ok(()))) => Poll::Ready(Ok(())),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(self.read_error(cx, error))),
            Poll::Ready(None) if self.position() >= self.until => Poll::Ready(Ok(())),
            Poll::Ready(None) => self.poll_outcome(cx),
            Poll::Pending => match self.poll_outcome(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            },
        }
    }

    /// The outcome of the fetch for this caller.
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Some(ticket) = &mut self.ticket else {
            return Poll::Ready(Ok(()));
        };
        ticket.poll(cx).map(|outcome| {
            self.ticket = None;
            match outcome {
                Ok(sources) => self.sources = Some(sources),
                Err(error) if error.kind == ErrorKind::Superseded => return Err(StreamError::Cut),
                Err(error) => return Err(error.into()),
            }
            Ok(())
        })
    }

    /// A failure of the fetch explains more than what the reader ran into because of it.
    fn read_error(&mut self, cx: &mut Context<'_>, error: crate::body::ReadError) -> StreamError {
        match self.poll_outcome(cx) {
            Poll::Ready(Err(failed)) if matches!(error, crate::body::ReadError::Broken { .. }) => {
                failed
            }
            _ => StreamError::from_read(error),
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let item = match self.reader.poll(cx, true) {
            Poll::Ready(Some(Ok(bytes))) => return Poll::Ready(Some(Ok(bytes))),
            Poll::Ready(Some(Err(error))) => Some(Err(self.read_error(cx, error))),
            Poll::Ready(None) if self.position() >= self.until => None,
            // All bytes are read: the end comes with the outcome. Or none is at hand, and a failure
            // means that none will come.
            ended @ (Poll::Ready(None) | Poll::Pending) => match self.poll_outcome(cx) {
                Poll::Ready(Err(error)) => Some(Err(error)),
                Poll::Ready(Ok(())) if ended.is_ready() => None,
                _ => return Poll::Pending,
            },
        };
        self.done = true;
        self.ticket = None;
        Poll::Ready(item)
    }
}

impl Stream for BodyReader {
    type Item = Result<Bytes, StreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_bytes(cx)
    }
}
