//! [`SharedBody`]: bytes as they arrive, for any number of readers.

use super::{
    Body, Budget, SharedReader,
    reader::Slots,
    segments::{Merge, Segments},
};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes as they arrive, for any number of readers. Cheap to clone: all clones are one body.
///
/// Several producers may append; whoever brings the next byte advances the frontier, and what
/// overlaps is dropped. Each append names the epoch that the producer was admitted to: after
/// [`SharedBody::restart`] the appends of older epochs are refused.
///
/// ```
/// use bytes::Bytes;
/// use gannet::body::{Budget, SharedBody};
///
/// # async fn f() {
/// let body = SharedBody::new(1 << 20, Budget::new(1 << 20));
/// let mut reader = body.reader_at(1);
/// body.append(body.epoch(), 0, 0, Bytes::from("abc")).unwrap();
/// body.append(body.epoch(), 1, 2, Bytes::from("cd")).unwrap(); // another producer overlaps
/// assert_eq!(reader.next().await, Some(Ok(Bytes::from("bc")))); // as it came
/// assert_eq!(reader.next().await, Some(Ok(Bytes::from("d"))));
/// body.finish();
/// assert_eq!(reader.next().await, None);
/// assert_eq!(body.whole().unwrap().to_bytes(), "abcd");
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f());
/// ```
#[derive(Clone, Debug)]
pub struct SharedBody {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    state: Mutex<State>,
    /// At most so many bytes are held; beyond, the beginning goes.
    window_max: u64,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) epoch: u64,
    pub(super) segments: Segments,
    pub(super) phase: Phase,
    pub(super) slots: Slots,
    /// Who brought which bytes, since the log was last taken; adjacent entries of one producer are
    /// one.
    log: Vec<(u64, u64)>,
    /// The body in full, made once.
    whole: Option<Body>,
    /// The bytes it had when it began to linger ([`Budget::linger`]).
    lingering: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// More may come.
    #[default]
    Open,
    /// All bytes are there.
    Complete,
    /// No more will come, though some are missing.
    Broken,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Bytes that were new; zero where all overlapped.
    pub fresh: u64,
}

/// The body has moved on without this producer: it was restarted, ended, or never had the bytes
/// before the ones appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body has moved on without this producer")]
pub struct Stale;

impl SharedBody {
    /// An empty body that holds at most `window_bytes_max` of its newest bytes (at least the newest
    /// segment).
    pub fn new(window_bytes_max: u64, budget: Arc<Budget>) -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::default(),
                window_max: window_bytes_max,
                budget,
            }),
        }
    }

    /// A finished body of what is held already; its memory is the holder's.
    pub(crate) fn held(body: &Body) -> Self {
        let shared = Self::new(u64::MAX, Budget::new(u64::MAX));
        shared.complete_with(body);
        shared
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The current epoch, for producers. Grows with each restart.
    pub fn epoch(&self) -> u64 {
        self.inner.lock().epoch
    }

    /// One past the last byte so far.
    pub fn frontier(&self) -> u64 {
        self.inner.lock().segments.frontier()
    }

    /// Appends what `producer` has from `offset` on, as far as it is new, and wakes the readers that
    /// waited for it. Costs O(waiting readers).
    ///
    /// # Errors
    ///
    /// [`Stale`] if the body was restarted or ended since, or `offset` lies beyond the frontier.
    pub fn append(
        &self,
        epoch: u64,
        producer: u64,
        offset: u64,
        mut bytes: Bytes,
    ) -> Result<Appended, Stale> {
        let (fresh, merge, dropped, wakers) = {
            let mut state = self.inner.lock();
            let frontier = state.segments.frontier();
            if state.epoch != epoch || state.phase != Phase::Open || offset > frontier {
                return Err(Stale);
            }
            let overlap = frontier - offset;
            if overlap >= bytes.len() as u64 {
                return Ok(Appended { fresh: 0 });
            }
            let bytes = bytes.split_off(overlap as usize);
            let fresh = bytes.len() as u64;
            self.inner.budget.add(fresh);
            // The newest segment is always kept, so that a reader at the frontier can have it.
            let window = self.inner.window_max.max(fresh);
            let merge = state.segments.push(bytes);
            let upto = state.segments.frontier();
            match state.log.last_mut() {
                Some((last, end)) if *last == producer => *end = upto,
                _ => state.log.push((producer, upto)),
            }
            let dropped = state.segments.shrink(window);
            (fresh, merge, dropped, state.slots.take(upto))
        };
        wakers.into_iter().for_each(std::task::Waker::wake);
        self.inner
            .budget
            .sub(dropped.iter().map(|bytes| bytes.len() as u64).sum());
        if let Some(merge) = merge {
            self.inner.merge(epoch, &merge);
        }
        Ok(Appended { fresh })
    }

    /// Who brought which bytes since this was last asked, as (producer, one past its last byte), in
    /// the order of the bytes; handed to `each` outside of the lock.
    pub(crate) fn take_log(&self, scratch: &mut Vec<(u64, u64)>) {
        scratch.clear();
        std::mem::swap(&mut self.inner.lock().log, scratch);
    }

    /// All bytes are there: readers end when they have them.
    pub fn finish(&self) {
        self.end(Phase::Complete);
    }

    /// No more bytes will come: readers fail when they have what is there. Does nothing to a
    /// finished body.
    pub fn close(&self) {
        self.end(Phase::Broken);
    }

    fn end(&self, phase: Phase) {
        let (merge, epoch, wakers) = {
            let mut state = self.inner.lock();
            if state.phase != Phase::Open {
                return;
            }
            state.phase = phase;
            let merge = state.segments.take_run(1);
            (merge, state.epoch, state.slots.take_all())
        };
        if let Some(merge) = merge {
            self.inner.merge(epoch, &merge);
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// The body starts anew: what is held goes, producers of older epochs are refused, readers that
    /// have seen something fail with [`ReadError::Cut`](super::ReadError::Cut), and the others read
    /// the new one.
    pub fn restart(&self) {
        let (old, wakers) = {
            let mut state = self.inner.lock();
            state.epoch += 1;
            state.phase = Phase::Open;
            state.log.clear();
            state.whole = None;
            (std::mem::take(&mut state.segments), state.slots.take_all())
        };
        self.inner.budget.sub(old.held());
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// The body is this one: ends it there, where what has come so far agrees; starts anew and ends
    /// with it otherwise. Producers are refused from here on. Answers with the epoch.
    pub(crate) fn complete_with(&self, body: &Body) -> u64 {
        let (old, wakers, epoch) = {
            let mut state = self.inner.lock();
            let mut old = Segments::default();
            let mut offset = state.segments.start();
            let agrees = state.segments.frontier() <= body.len()
                && state.segments.iter().all(|bytes| {
                    let end = offset + bytes.len() as u64;
                    let mut rest = &bytes[..];
                    for part in body.range(offset..end) {
                        if !rest.starts_with(&part) {
                            return false;
                        }
                        rest = &rest[part.len()..];
                    }
                    offset = end;
                    rest.is_empty()
                });
            if !agrees {
                state.epoch += 1;
                old = std::mem::take(&mut state.segments);
            }
            let held = state.segments.held();
            for bytes in body.range(state.segments.frontier()..body.len()) {
                state.segments.push(bytes);
            }
            state.segments.take_run(0); // The holder's segments are not ours to merge.
            self.inner.budget.add(state.segments.held() - held);
            state.phase = Phase::Complete;
            state.whole = None;
            state.log.clear();
            (old, state.slots.take_all(), state.epoch)
        };
        self.inner.budget.sub(old.held());
        wakers.into_iter().for_each(std::task::Waker::wake);
        epoch
    }

    /// Whether anybody else holds the body.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    /// A reader from this offset on; it may lie beyond the frontier.
    pub fn reader_at(&self, offset: u64) -> SharedReader {
        SharedReader::new(self.clone(), offset)
    }

    /// All bytes that are held, if the body is finished: everything, or the end where the window was
    /// too small.
    pub fn whole(&self) -> Option<Body> {
        let mut state = self.inner.lock();
        if state.phase != Phase::Complete {
            return None;
        }
        if state.whole.is_none() {
            let segments = state.segments.iter().cloned().collect();
            state.whole = Some(Body::from_offset(state.segments.start(), segments));
        }
        state.whole.clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.lock()
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while the lock is held, short of a broken invariant; readers of
        // other bodies should not suffer from it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its bytes, if it has any and does not linger yet.
    pub(super) fn begin_to_linger(&self) -> Option<u64> {
        let mut state = self.lock();
        if state.lingering.is_some() || state.segments.held() == 0 {
            return None;
        }
        state.lingering = Some(state.segments.held());
        state.lingering
    }

    /// What it counts for among those that linger.
    pub(super) fn lingering(&self) -> u64 {
        self.lock().lingering.unwrap_or(0)
    }

    fn merge(&self, epoch: u64, merge: &Merge) {
        let block = merge.block();
        let mut state = self.lock();
        if state.epoch == epoch {
            state.segments.replace(merge, block);
        }
    }

    /// Drops all bytes; readers that still need some are told that they lag.
    pub(super) fn trim(&self) {
        let (dropped, lingering, wakers) = {
            let mut state = self.lock();
            state.whole = None;
            let dropped = state.segments.shrink(0);
            (dropped, state.lingering.take(), state.slots.take_all())
        };
        if let Some(bytes) = lingering {
            self.budget.leave(bytes);
        }
        self.budget
            .sub(dropped.iter().map(|bytes| bytes.len() as u64).sum());
        wakers.into_iter().for_each(std::task::Waker::wake);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = state.lingering {
            self.budget.leave(bytes);
        }
        self.budget.sub(state.segments.held());
    }
}
