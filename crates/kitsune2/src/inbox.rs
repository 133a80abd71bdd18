//! What came from the transport and waits for the state to take it: bounded by bytes, in all and for
//! each peer.

use crate::machine::Time;
use kitsune2_api::{Op, Url};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// What an op costs beside its bytes, wherever it waits.
pub(crate) const OP_OVERHEAD: usize = 256;
/// Ops in one event: a larger response is taken in pieces, so that none holds up the module.
const PIECE: usize = 1_024;
/// What an event counts for at least, in ops.
const EVENT: usize = 8;
/// Peers whose shares are kept track of before those who hold nothing are looked for.
const SHARES: usize = 64;

/// Bytes that are held for a response, for as long as anything of it is: the ops share the buffer of
/// the message that they came in.
#[derive(Debug)]
pub(crate) struct Hold {
    bytes: usize,
    all: Arc<AtomicUsize>,
    own: Arc<AtomicUsize>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
        self.own.fetch_sub(self.bytes, Relaxed);
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
    /// A response of this peer was dropped, for want of room.
    Overflow { url: Url },
    /// The connection to this peer is gone.
    Disconnected { url: Url },
}

#[derive(Debug)]
pub(crate) struct Inbox {
    events: Mutex<VecDeque<(Time, Event)>>,
    all: Arc<AtomicUsize>,
    shares: Mutex<HashMap<Url, Arc<AtomicUsize>>>,
    bytes_max: usize,
    pub(crate) dropped: AtomicU64,
}

impl Inbox {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            events: Mutex::default(),
            all: Arc::default(),
            shares: Mutex::default(),
            bytes_max,
            dropped: AtomicU64::new(0),
        }
    }

    /// Bytes of responses that are held, here or anywhere.
    pub(crate) fn held(&self) -> usize {
        self.all.load(Relaxed)
    }

    /// Whether a response of so many ops may be decoded at all. An op may take two bytes in it, and
    /// many times that here. No more are asked for in one request.
    pub(crate) fn may_have(&self, ops: usize) -> bool {
        ops <= 1 || ops.saturating_mul(OP_OVERHEAD) <= self.bytes_max / 4
    }

    /// Takes a response of so many bytes. Whether there was room for it: a message larger than a bound
    /// is let in where nothing else is held.
    pub(crate) fn response(&self, now: Time, url: &Url, ops: Vec<Op>, message: usize) -> bool {
        let bytes = message.saturating_add(ops.len().saturating_mul(OP_OVERHEAD));
        let own = self.share(url);
        let before = [
            self.all.fetch_add(bytes, Relaxed),
            own.fetch_add(bytes, Relaxed),
        ];
        let hold = Arc::new(Hold {
            bytes,
            all: self.all.clone(),
            own,
        });
        let full = |before: usize, most: usize| before > 0 && before.saturating_add(bytes) > most;
        if full(before[0], self.bytes_max) || full(before[1], self.bytes_max / 4) {
            return false;
        }
        let mut ops = ops.into_iter();
        let mut events = self.events();
        while ops.len() > 0 {
            let event = Event::Response {
                url: url.clone(),
                ops: ops.by_ref().take(PIECE).collect(),
                hold: hold.clone(),
            };
            events.push_back((now, event));
        }
        true
    }

    /// Counts a response that is dropped, and notes that the peer did answer.
    pub(crate) fn overflow(&self, now: Time, url: Url) {
        self.dropped.fetch_add(1, Relaxed);
        self.push(now, Event::Overflow { url });
    }

    /// Notes something that takes next to no room. Of a kind, one for each peer is enough.
    pub(crate) fn push(&self, now: Time, event: Event) {
        let mut events = self.events();
        let same = |other: &Event| match (&event, other) {
            (Event::Overflow { url }, Event::Overflow { url: other })
            | (Event::Disconnected { url }, Event::Disconnected { url: other }) => url == other,
            _ => false,
        };
        if !events.back().is_some_and(|(_, last)| same(last)) {
            events.push_back((now, event));
        }
    }

    /// The next events: a few, or one large one. Returns when the next after these came.
    pub(crate) fn take(&self, into: &mut Vec<Event>) -> Option<Time> {
        let mut events = self.events();
        let mut weight = 0;
        while weight < PIECE
            && let Some((_, event)) = events.pop_front()
        {
            weight += match &event {
                Event::Response { ops, .. } => ops.len().max(EVENT),
                Event::Overflow { .. } | Event::Disconnected { .. } => EVENT,
            };
            into.push(event);
        }
        events.front().map(|(at, _)| *at)
    }

    fn share(&self, url: &Url) -> Arc<AtomicUsize> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(url) {
            return share.clone();
        }
        if shares.len() >= SHARES {
            // Who holds one counts in it, or is about to.
            shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        shares.entry(url.clone()).or_default().clone()
    }

    fn events(&self) -> MutexGuard<'_, VecDeque<(Time, Event)>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(n: u32) -> Url {
        Url::from_str(format!("ws://test:80/{n}")).unwrap()
    }

    #[test]
    fn no_peer_takes_more_than_its_share_and_all_is_given_back() {
        let inbox = Inbox::new(40_000);
        let ops = || {
            vec![
                Op {
                    op_id: vec![1].into(),
                    data: vec![2].into()
                };
                10
            ]
        };
        let take = |n: u32| {
            (0..100)
                .filter(|_| inbox.response(Time::ZERO, &url(n), ops(), 40))
                .count()
        };
        assert_eq!(take(1), 3);
        let all: usize = (2..20).map(take).sum();
        assert_eq!(all + 3, 15);
        assert!(inbox.held() <= 40_000);
        let mut events = Vec::new();
        while inbox.take(&mut events).is_some() {}
        events.clear();
        assert_eq!((inbox.held(), take(1)), (0, 3));
        assert!(!inbox.may_have(1_000_000));
    }

    #[test]
    fn shares_that_nobody_holds_are_forgotten() {
        let inbox = Inbox::new(40_000);
        for n in 0..10_000 {
            let op = Op {
                op_id: vec![1].into(),
                data: vec![2].into(),
            };
            assert!(inbox.response(Time::ZERO, &url(n), vec![op], 40));
            inbox.take(&mut Vec::new());
        }
        assert!(inbox.shares.lock().unwrap().len() <= SHARES);
    }
}
