//! [`SharedReader`]: one reader of a shared body.

use super::shared::{Phase, SharedBody};
use bytes::Bytes;
use futures_core::Stream;
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

/// One reader of a [`SharedBody`]: a stream of the same segments that all readers get, from its own
/// offset and at its own pace.
///
/// Cancel safe: a dropped [`SharedReader::next`] loses nothing. After an error, and after the end,
/// it gives `None`.
#[derive(Debug)]
pub struct SharedReader {
    body: SharedBody,
    /// The next byte.
    position: u64,
    /// Reads no further than here.
    until: u64,
    epoch: u64,
    /// Whether somebody has acted on what this epoch holds.
    seen: bool,
    slot: Option<usize>,
    done: bool,
}

/// Why a reader cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The body starts anew with other bytes than those already read: what was read so far is of no
    /// use. Ask again from the start.
    #[error("the bytes read so far turned out to be of another version")]
    Cut,
    /// The reader was too slow for the window: continue from the store, or by a fetch of the rest.
    #[error("lagged behind the window at byte {position}")]
    Lagged {
        /// The next byte that the reader wants.
        position: u64,
    },
    /// The body ended before all its bytes were there.
    #[error("the body broke off at byte {position}")]
    Broken {
        /// The next byte that the reader wants.
        position: u64,
    },
}

impl SharedReader {
    pub(super) fn new(body: SharedBody, position: u64) -> Self {
        let epoch = body.epoch();
        Self {
            body,
            position,
            until: u64::MAX,
            epoch,
            seen: false,
            slot: None,
            done: false,
        }
    }

    /// Reads no further than this offset.
    #[must_use]
    pub fn until(mut self, end: u64) -> Self {
        self.until = end;
        self
    }

    pub(crate) fn set_until(&mut self, end: u64) {
        self.until = end;
    }

    /// The offset of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The body that it reads.
    pub fn body(&self) -> &SharedBody {
        &self.body
    }

    /// Whether all bytes are there, and none that was read was of another epoch.
    pub fn is_complete(&self) -> bool {
        let state = self.body.lock();
        state.phase == Phase::Complete && (state.epoch == self.epoch || !self.seen)
    }

    /// The next bytes: whatever part of a segment is at hand. `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        poll_fn(|cx| self.poll(cx, true)).await
    }

    /// From now on a restart is an error though nothing was read yet: the caller has acted on what
    /// came with this epoch. Fails if the body is in another.
    pub(crate) fn pin_epoch(&mut self, epoch: u64) -> bool {
        let same = self.epoch == epoch && self.body.epoch() == epoch;
        self.seen |= same;
        same
    }

    /// Resolves when [`SharedReader::next`] would not wait.
    pub(crate) fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(), ReadError>>> {
        self.poll(cx, false)
            .map(|item| item.map(|result| result.map(drop)))
    }

    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        consume: bool,
    ) -> Poll<Option<Result<Bytes, ReadError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let position = self.position;
        let mut state = self.body.lock();
        if state.epoch != self.epoch && !self.seen {
            self.epoch = state.epoch;
        }
        let error = if state.epoch != self.epoch {
            ReadError::Cut
        } else if position >= self.until {
            drop(state);
            self.done = consume;
            return Poll::Ready(None);
        } else if let Some(mut bytes) = state.segments.at(position) {
            drop(state);
            if !consume {
                return Poll::Ready(Some(Ok(bytes)));
            }
            let room = self.until - position;
            if bytes.len() as u64 > room {
                bytes.truncate(room as usize); // `room` is below a `usize` here.
            }
            self.position += bytes.len() as u64;
            self.seen = true;
            return Poll::Ready(Some(Ok(bytes)));
        } else if position < state.segments.start() {
            ReadError::Lagged { position }
        } else {
            match state.phase {
                Phase::Open => {
                    state.slots.wait(&mut self.slot, position, cx.waker());
                    return Poll::Pending;
                }
                Phase::Complete => {
                    drop(state);
                    self.done = consume;
                    return Poll::Ready(None);
                }
                Phase::Broken => ReadError::Broken { position },
            }
        };
        drop(state);
        self.done = consume;
        Poll::Ready(Some(Err(error)))
    }
}

impl Stream for SharedReader {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx, true)
    }
}

impl Drop for SharedReader {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let waker = self.body.lock().slots.leave(slot);
            drop(waker); // Outside of the lock: a waker may be a task's last handle.
        }
    }
}

/// Who waits for which byte. A reader keeps its slot for life, so that waiting again allocates
/// nothing.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Option<(u64, Waker)>>,
    free: Vec<usize>,
    waiting: usize,
}

impl Slots {
    fn wait(&mut self, slot: &mut Option<usize>, position: u64, waker: &Waker) {
        let index = *slot.get_or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            })
        });
        match &mut self.slots[index] {
            Some((wanted, held)) => {
                *wanted = position;
                held.clone_from(waker);
            }
            empty => {
                *empty = Some((position, waker.clone()));
                self.waiting += 1;
            }
        }
    }

    fn leave(&mut self, index: usize) -> Option<(u64, Waker)> {
        self.free.push(index);
        let left = self.slots[index].take();
        self.waiting -= usize::from(left.is_some());
        left
    }

    /// Those who wait for a byte before this one.
    pub(super) fn take(&mut self, frontier: u64) -> Vec<Waker> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let mut wakers = Vec::with_capacity(self.waiting);
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|(wanted, _)| *wanted < frontier) {
                wakers.extend(slot.take().map(|(_, waker)| waker));
            }
        }
        self.waiting -= wakers.len();
        wakers
    }

    /// All of them.
    pub(super) fn take_all(&mut self) -> Vec<Waker> {
        self.waiting = 0;
        let slots = self.slots.iter_mut();
        slots
            .filter_map(|slot| slot.take().map(|(_, waker)| waker))
            .collect()
    }
}
