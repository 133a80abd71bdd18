//! The oracle's account of one engine: who waits for what, what was asked and answered, and what is
//! under judgement; kept from what passes the public traits and the wire, never from the engine.
//!
//! The engine is a task: what it is told it sees a turn or two of the runtime later. In that time
//! (`grace`) both the old and the new state are allowed, and a subscriber for whom two orders of events
//! lead to different ends is `Maybe` waiting: it may be served, and does not have to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long a request is remembered that was given up.
const REMEMBERED: u64 = 2_000_000_000;

/// What an account has to say.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Rules broken, and how.
    pub(crate) bad: Vec<(&'static str, String)>,
    /// States reached.
    pub(crate) marks: Vec<&'static str>,
}

impl Notes {
    pub(crate) fn bad(&mut self, rule: &'static str, what: impl Into<String>) {
        self.bad.push((rule, what.into()));
    }

    pub(crate) fn rule(&mut self, holds: bool, rule: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.bad(rule, what());
        }
    }

    pub(crate) fn mark(&mut self, mark: &'static str) {
        self.marks.push(mark);
    }
}

/// A set that changes, with what it was until not long ago.
#[derive(Debug, Default)]
pub(crate) struct Past {
    entries: Vec<(u64, BTreeSet<usize>)>,
}

impl Past {
    pub(crate) fn set(&mut self, now: u64, set: BTreeSet<usize>) {
        self.entries.push((now, set));
    }

    pub(crate) fn now(&self) -> Option<&BTreeSet<usize>> {
        self.entries.last().map(|(_, set)| set)
    }

    /// The set as it was at some time since.
    pub(crate) fn since(&self, since: u64) -> impl Iterator<Item = &BTreeSet<usize>> {
        let before = self.entries.iter().rposition(|(at, _)| *at <= since);
        let empty = before.is_none();
        static NONE: BTreeSet<usize> = BTreeSet::new();
        let entries = self.entries[before.unwrap_or(0)..].iter();
        empty
            .then_some(&NONE)
            .into_iter()
            .chain(entries.map(|(_, set)| set))
    }
}

/// Whether a subscriber waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    No,
    Maybe,
    Yes,
}

/// A subscriber of a key.
#[derive(Clone, Debug)]
pub(crate) struct Sub {
    pub(crate) waits: Waits,
    /// When it began to wait, and when it was last said that it should.
    pub(crate) since: u64,
    pub(crate) told: u64,
    /// When it was cancelled, if that is how its wait ended.
    pub(crate) cancelled: Option<u64>,
}

/// Who may be asked for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Any,
    Only(BTreeSet<usize>),
}

impl Scope {
    pub(crate) fn has(&self, peer: usize) -> bool {
        match self {
            Self::Any => true,
            Self::Only(set) => set.contains(&peer),
        }
    }
}

/// A key.
#[derive(Debug, Default)]
pub(crate) struct Key {
    pub(crate) subs: BTreeMap<u64, Sub>,
    pub(crate) scope: Option<Scope>,
    /// Whether it may be narrower than that: it is not known whether a fetch was new.
    pub(crate) doubt: bool,
    /// When that last changed.
    pub(crate) widened: u64,
    /// The scope of a fetch that was cancelled, and when.
    pub(crate) old_scope: Option<(Scope, u64)>,
    /// When the last attempt failed, if that is known.
    pub(crate) failed: Option<u64>,
    /// An answer that may be handed to those who came late, and until when after a cancellation.
    pub(crate) held: Option<(usize, Option<u64>)>,
    /// A delivery has to come until then.
    pub(crate) due: Option<u64>,
    /// The last delivery.
    pub(crate) delivery: Option<usize>,
    /// When nobody waited any more.
    pub(crate) ended: Option<u64>,
}

impl Key {
    pub(crate) fn is_wanted(&self) -> bool {
        self.subs.values().any(|sub| sub.waits != Waits::No)
    }

    pub(crate) fn surely(&self) -> impl Iterator<Item = (u64, &Sub)> {
        let subs = self.subs.iter().map(|(name, sub)| (*name, sub));
        subs.filter(|(_, sub)| sub.waits == Waits::Yes)
    }
}

/// A request that was sent.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) peer: usize,
    pub(crate) key: u64,
    pub(crate) at: u64,
    pub(crate) answered: bool,
    /// Whether its peer has left since: when it returns it is somebody new.
    pub(crate) stranger: bool,
    /// Whether it may have been given up.
    pub(crate) unsure: bool,
    /// Since when its answer is of no use, for another reason than time.
    pub(crate) void: Option<u64>,
}

/// Data that came in answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) peer: usize,
    pub(crate) key: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) at: u64,
    pub(crate) used: bool,
    /// A consumer has found it good.
    pub(crate) accepted: bool,
}

/// An answer at a consumer.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) key: u64,
    pub(crate) subs: Vec<u64>,
    pub(crate) at: u64,
    pub(crate) answer: Option<usize>,
    /// Who may have sent it: more than one where hedged requests bring the same.
    pub(crate) peers: Vec<usize>,
    /// Since when nobody wants the key any more.
    pub(crate) cancelled: Option<u64>,
    /// Whether it may have been cancelled: only those are left who may or may not wait.
    pub(crate) perhaps: bool,
    pub(crate) judged: bool,
}

/// A request of a peer that has not been answered.
#[derive(Debug)]
pub(crate) struct Owed {
    /// Its number.
    pub(crate) serve: u64,
    pub(crate) peer: usize,
    pub(crate) id: u64,
    pub(crate) key: u64,
    pub(crate) at: u64,
    pub(crate) asked_producer: bool,
    /// What the producer said, and when.
    pub(crate) produced: Option<(u64, Option<Vec<u8>>)>,
    /// Whether it may have been turned away by the network.
    pub(crate) excused: bool,
    pub(crate) done: bool,
}

/// How long a peer is to be left alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    pub(crate) until: u64,
    /// Whether a request has been turned away in this time.
    pub(crate) request: bool,
}

/// What is checked against, of the node's settings.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) timeout: u64,
    pub(crate) retry_delay: u64,
    /// Requests for one key that may be under way together.
    pub(crate) width: usize,
    pub(crate) serves_max: usize,
    pub(crate) grace: u64,
    /// Whether every rule holds for it; if not, only those that a stock engine keeps.
    pub(crate) strict: bool,
}

/// One engine, from start to stop.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) node: usize,
    pub(crate) terms: Terms,
    pub(crate) stopped: Option<u64>,
    pub(crate) latest: Past,
    pub(crate) blocked: Past,
    pub(crate) keys: BTreeMap<u64, Key>,
    pub(crate) requests: BTreeMap<u64, Request>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) deliveries: Vec<Delivery>,
    /// Peers that have to be blocked, any one of each list, and since when.
    pub(crate) accused: Vec<(Vec<usize>, u64)>,
    pub(crate) owed: Vec<Owed>,
    pub(crate) rests: BTreeMap<usize, Rest>,
    /// Requests of peers so far.
    pub(crate) serves: u64,
    /// When a peer last came into the latest set, or was unblocked.
    pub(crate) appeared: u64,
}

impl Run {
    pub(crate) fn new(node: usize, terms: Terms) -> Self {
        Self {
            node,
            terms,
            stopped: None,
            latest: Past::default(),
            blocked: Past::default(),
            keys: BTreeMap::new(),
            requests: BTreeMap::new(),
            answers: Vec::new(),
            deliveries: Vec::new(),
            accused: Vec::new(),
            owed: Vec::new(),
            rests: BTreeMap::new(),
            serves: 0,
            appeared: 0,
        }
    }

    /// Whether this happened so short a time ago that the engine may not have seen it.
    pub(crate) const fn is_news(&self, now: u64, at: u64) -> bool {
        at + self.terms.grace >= now
    }

    /// An engine that is not there any more does nothing.
    pub(crate) fn acts(&self, now: u64, what: &str, notes: &mut Notes) {
        if let Some(stopped) = self.stopped {
            let news = self.is_news(now, stopped);
            notes.rule(news, "stopped", || format!("{what} after it was stopped"));
        }
    }

    // ---- peers ----

    /// The network has told who the peers are. One that has gone may still answer what it was asked;
    /// when it returns it is somebody new.
    pub(crate) fn peers(&mut self, now: u64, set: BTreeSet<usize>) {
        self.rests.retain(|peer, _| set.contains(peer));
        for request in self.requests.values_mut() {
            request.stranger |= !set.contains(&request.peer);
        }
        if self.latest.now().is_none_or(|was| !set.is_subset(was)) {
            self.appeared = now;
        }
        self.latest.set(now, set);
    }

    /// The network has told who is blocked.
    pub(crate) fn blocks(&mut self, now: u64, set: BTreeSet<usize>) {
        if self.blocked.now().is_some_and(|was| !was.is_subset(&set)) {
            self.appeared = now;
        }
        // A stock engine leaves it to the network that no answer comes from them.
        let heeded = if self.terms.strict { Some(&set) } else { None };
        for peer in heeded.into_iter().flatten() {
            self.void_peer(now, *peer);
        }
        self.blocked.set(now, set);
    }

    /// What was asked of a peer is not waited for any more.
    fn void_peer(&mut self, now: u64, peer: usize) {
        for request in self.requests.values_mut() {
            if request.peer != peer || request.answered || request.void.is_some() {
                continue;
            }
            // To one that had left before it was blocked: that may be somebody else to the engine.
            match request.stranger {
                true => request.unsure = true,
                false => request.void = Some(now),
            }
            if let Some(key) = self.keys.get_mut(&request.key) {
                key.failed = None;
            }
        }
    }

    pub(crate) fn void_key(&mut self, now: u64, key: u64) {
        for request in self.requests.values_mut() {
            if request.key == key && !request.answered && request.void.is_none() {
                request.void = Some(now);
            }
        }
    }

    // ---- what must have happened by now ----

    /// Looks for what is overdue.
    pub(crate) fn overdue(&mut self, now: u64, notes: &mut Notes) {
        if self.stopped.is_some() {
            return;
        }
        let grace = self.terms.grace;
        let late = |at: u64| at + grace < now;
        if self.terms.strict {
            for (name, key) in &mut self.keys {
                if key.due.is_some_and(|due| due < now) {
                    key.due = None;
                    notes.bad(
                        "delivered",
                        format!("an answer for {name} was not handed on"),
                    );
                }
            }
        }
        self.accused.retain(|(peers, at)| {
            if late(*at) {
                notes.bad("blocked", format!("{peers:?} lied and was not blocked"));
            }
            !late(*at)
        });
        for owed in &mut self.owed {
            let Owed { peer, id, key, .. } = *owed;
            if owed.done || owed.excused {
                continue;
            }
            let refused = !owed.asked_producer && late(owed.at);
            if refused || owed.produced.as_ref().is_some_and(|(at, _)| late(*at)) {
                owed.done = true;
                notes.bad(
                    "served",
                    format!("{peer} got no answer to {id:x} for {key}"),
                );
            }
        }
        self.owed.retain(|owed| !owed.done);
        self.forget(now);
    }

    /// What is so long over that nothing can come of it any more is forgotten.
    pub(crate) fn forget(&mut self, now: u64) {
        let Self { keys, terms, .. } = self;
        self.requests.retain(|_, request| {
            let end = request.at + terms.timeout;
            if end > now {
                return true;
            }
            let given_up = request.unsure || request.void.is_some();
            let timed_out = !request.answered && !given_up;
            if timed_out && let Some(key) = keys.get_mut(&request.key) {
                key.failed = key.failed.max(Some(end));
                // So that it says so once.
                request.void = Some(end);
            }
            end + REMEMBERED >= now
        });
    }
}

/// Nanoseconds.
pub(crate) fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than a century")
}
