//! What came from the transport and waits for the state to take it: bounded by bytes.

use kitsune2_api::{Op, Url};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// What an op costs beside its bytes.
const OP_OVERHEAD: usize = 128;
/// Ops in one event: a larger response is taken in pieces, so that none holds up the module.
const PIECE: usize = 1_024;

/// Bytes that are held for a response, for as long as anything of it is: the ops share the buffer of
/// the message that they came in.
#[derive(Debug)]
pub(crate) struct Hold {
    bytes: usize,
    held: Arc<AtomicUsize>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Relaxed);
    }
}

/// Something that came.
#[derive(Debug)]
pub(crate) enum Event {
    /// Ops, a piece of a response.
    Response {
        url: Url,
        ops: Vec<Op>,
        hold: Arc<Hold>,
    },
    /// The connection to this peer is gone.
    Disconnected { url: Url },
}

#[derive(Debug)]
pub(crate) struct Inbox {
    events: Mutex<VecDeque<Event>>,
    held: Arc<AtomicUsize>,
    bytes_max: usize,
    pub(crate) dropped: AtomicU64,
}

impl Inbox {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            events: Mutex::default(),
            held: Arc::default(),
            bytes_max,
            dropped: AtomicU64::new(0),
        }
    }

    /// Bytes of responses that are held, here or anywhere.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Whether a response of so many ops may be decoded at all. An op may take two bytes in it, and
    /// many times that here.
    pub(crate) fn may_have(&self, ops: usize) -> bool {
        let fits = ops <= 1 || ops.saturating_mul(OP_OVERHEAD) <= self.bytes_max;
        if !fits {
            self.dropped.fetch_add(1, Relaxed);
        }
        fits
    }

    /// Takes a response of so many bytes. Whether there was room for it: a message larger than the
    /// bound is let in where nothing else is held.
    pub(crate) fn response(&self, url: Url, ops: Vec<Op>, message: usize) -> bool {
        let bytes = message + ops.len() * OP_OVERHEAD;
        let before = self.held.fetch_add(bytes, Relaxed);
        let hold = Arc::new(Hold {
            bytes,
            held: self.held.clone(),
        });
        if before > 0 && before + bytes > self.bytes_max {
            self.dropped.fetch_add(1, Relaxed);
            return false;
        }
        let mut ops = ops.into_iter();
        let mut events = self.lock();
        while ops.len() > 0 {
            events.push_back(Event::Response {
                url: url.clone(),
                ops: ops.by_ref().take(PIECE).collect(),
                hold: hold.clone(),
            });
        }
        true
    }

    pub(crate) fn push(&self, event: Event) {
        self.lock().push_back(event);
    }

    /// The next events, at most so many.
    pub(crate) fn take(&self, most: usize, into: &mut Vec<Event>) {
        let mut events = self.lock();
        let most = most.min(events.len());
        into.extend(events.drain(..most));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
