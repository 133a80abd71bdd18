//! The oracle's account of one module: what it was offered, and how that ended. Who may be asked for what
//! follows from it.
//!
//! A module acts at the very moment at which it learns something, but in an order of its own; so what
//! happens in the same millisecond is not held against it.

use super::state::Sim;
use bytes::Bytes;
use gannet_kitsune2::{GannetFetchConfig, Monitor};
use std::collections::{BTreeMap, BTreeSet};

/// An op and the peer that offers it.
pub(crate) type Key = (Bytes, usize);

/// What is known of an op that a peer offers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pair {
    /// Calls under way that offer it, and those of them that found it missing.
    pub(crate) offering: BTreeSet<u64>,
    pub(crate) passed: bool,
    /// When it was first offered, of what is not done with.
    pub(crate) began: Option<u64>,
    /// Since when it certainly is wanted.
    pub(crate) sure: Option<u64>,
    /// When it ended, and by what.
    pub(crate) gone: Option<(u64, &'static str)>,
    /// When it last ended, also where it is wanted again since.
    ended: Option<u64>,
    /// What was said of the op, by call.
    pub(crate) metadata: Vec<(u64, Bytes)>,
    /// What certainly came first of that, and since when.
    pub(crate) first: Option<(u64, Bytes)>,
    /// Requests for it since it is wanted, and since there was news of the op.
    pub(crate) asks: u32,
    pub(crate) asks_in_a_row: u32,
    /// The latest of them does not count: an answer of the peer had no room then.
    pub(crate) spared: bool,
    /// Answers that the store refused and that no request waited for: each counts like one that was in
    /// vain.
    pub(crate) strays: u32,
    /// When the latest request was decided on, and when it was out.
    pub(crate) decided: u64,
    pub(crate) out: Option<u64>,
    /// When a call last had to do with it.
    touched: u64,
}

/// A call to `request_ops`.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) peer: usize,
    pub(crate) ops: BTreeMap<Bytes, Option<Bytes>>,
    /// Those that will be wanted when it returns, as far as is known.
    wanted: BTreeSet<Bytes>,
    pub(crate) began: u64,
    /// All that was wanted of its peer was dropped while it waited. Of an op that it names twice, the
    /// first may have gone by that, and with it what was said of it.
    broken: bool,
    /// What the store was asked for so far.
    looked: BTreeSet<Bytes>,
}

/// One module, from its start to its end.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) node: usize,
    pub(crate) config: GannetFetchConfig,
    pub(crate) monitor: Monitor,
    pub(crate) stopped: bool,
    pub(crate) pairs: BTreeMap<Key, Pair>,
    pub(crate) calls: BTreeMap<u64, Call>,
    /// When something was last heard of an op that may make it be asked for early.
    pub(crate) news: BTreeMap<Bytes, u64>,
    /// When an op was reported to be stored.
    pub(crate) reported: BTreeMap<Bytes, u64>,
    pub(crate) asking: super::asks::Asking,
    pub(crate) storing: super::stores::Storing,
    pub(crate) serving: super::serving::Serving,
    /// All that was ever said of an op.
    pub(crate) said: BTreeMap<Bytes, BTreeSet<Bytes>>,
    /// When a send to a peer last failed.
    failed: BTreeMap<usize, u64>,
    /// Peers of which the patience with an op that has ended since had come to its end.
    spent: BTreeSet<usize>,
    /// Notifications that are waited for: since when.
    pub(crate) waiting: BTreeMap<u64, u64>,
}

impl Run {
    pub(crate) fn new(node: usize, config: GannetFetchConfig, monitor: Monitor) -> Self {
        Self {
            node,
            config,
            monitor,
            stopped: false,
            pairs: BTreeMap::new(),
            calls: BTreeMap::new(),
            news: BTreeMap::new(),
            reported: BTreeMap::new(),
            asking: Default::default(),
            storing: Default::default(),
            serving: Default::default(),
            said: BTreeMap::new(),
            failed: BTreeMap::new(),
            spent: BTreeSet::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// There is news of an op: pauses need not be waited out.
    pub(crate) fn tell(&mut self, now: u64, id: &Bytes) {
        self.news.insert(id.clone(), now);
        for (_, pair) in self.of_op_mut(id) {
            pair.asks_in_a_row = 0;
        }
    }

    /// There is news of a peer.
    pub(crate) fn tell_of(&mut self, now: u64, peer: usize) {
        let of_peer = self.pairs.keys().filter(|(_, of)| *of == peer);
        let ids: BTreeSet<Bytes> = of_peer.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.tell(now, &id);
        }
    }

    fn of_op_mut(&mut self, id: &Bytes) -> impl Iterator<Item = (usize, &mut Pair)> {
        let range = (id.clone(), 0)..=(id.clone(), usize::MAX);
        let pairs = self.pairs.range_mut(range);
        pairs.map(|((_, peer), pair)| (*peer, pair))
    }

    /// Whether it certainly was wanted of this peer before now, and still is.
    pub(crate) fn surely(&self, now: u64, id: &Bytes, peer: usize) -> bool {
        let pair = self.pairs.get(&(id.clone(), peer));
        pair.is_some_and(|pair| {
            pair.sure.is_some_and(|at| at < now) && !self.may_be_given_up(pair, peer)
        })
    }

    /// Whether patience may have ended: with this pair, or with its peer on account of another op.
    pub(crate) fn may_be_given_up(&self, pair: &Pair, peer: usize) -> bool {
        let most = u32::from(self.config.num_back_off_intervals) + 1;
        let mut of_peer = self.pairs.iter().filter(|((_, of), _)| *of == peer);
        pair.tries() >= most
            || self.spent.contains(&peer)
            || of_peer.any(|(_, pair)| pair.tries() >= most)
    }

    /// Whether a request of this peer is waited for, if one is out: one that was decided on before its
    /// pair ended belongs to nobody any more.
    pub(crate) fn awaits(&self, id: &Bytes, peer: usize) -> bool {
        let pair = self.pairs.get(&(id.clone(), peer));
        pair.is_some_and(|pair| {
            let ended = pair.has_ended_since(pair.decided);
            pair.asks > 0 && !ended && !self.may_be_given_up(pair, peer)
        })
    }

    // ---- offers ----

    pub(crate) fn offer(&mut self, now: u64, id: u64, peer: usize, ops: &[(Bytes, Option<Bytes>)]) {
        let mut call = Call {
            peer,
            ops: BTreeMap::new(),
            wanted: BTreeSet::new(),
            began: now,
            broken: false,
            looked: BTreeSet::new(),
        };
        for (op, metadata) in ops {
            let known = call.ops.entry(op.clone()).or_default();
            if known.is_none() {
                known.clone_from(metadata);
            }
        }
        for (op, metadata) in ops {
            let said = self.said.entry(op.clone()).or_default();
            said.extend(metadata.clone());
        }
        for (op, metadata) in &call.ops {
            self.tell(now, op);
            let pair = self.pairs.entry((op.clone(), peer)).or_default();
            pair.offering.insert(id);
            pair.began.get_or_insert(now);
            pair.touched = now;
            pair.metadata
                .extend(metadata.clone().map(|bytes| (id, bytes)));
        }
        self.calls.insert(id, call);
    }

    /// The store was asked for ops of a call, and has said which of them it does not hold.
    pub(crate) fn looked_up(
        &mut self,
        now: u64,
        id: u64,
        (asked, missing): (&BTreeSet<Bytes>, &BTreeSet<Bytes>),
    ) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        // Those that came meanwhile are not wanted, either.
        let came = |op: &Bytes| self.reported.get(op).is_some_and(|at| *at > call.began);
        // A call that waits at a bound looks again, for those that it has not noted yet: the others stand
        // as they were. One that was never looked for is wanted.
        for op in call.ops.keys() {
            if !asked.contains(op) && call.looked.contains(op) {
                continue;
            }
            let Some(pair) = self.pairs.get_mut(&(op.clone(), call.peer)) else {
                continue;
            };
            pair.touched = now;
            if missing.contains(op) || !asked.contains(op) {
                if !came(op) {
                    pair.passed = true;
                    call.wanted.insert(op.clone());
                }
            } else {
                call.wanted.remove(op);
                pair.offering.remove(&id);
                pair.metadata.retain(|(of, _)| *of != id);
            }
        }
        call.looked.extend(asked.iter().cloned());
    }

    /// A call has ended: all that it offered is taken, or perhaps some of it.
    pub(crate) fn offered(&mut self, now: u64, id: u64, ok: bool) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        for (op, metadata) in call.ops {
            self.tell(now, &op);
            let key = (op, call.peer);
            let Some(pair) = self.pairs.get_mut(&key) else {
                continue;
            };
            pair.offering.remove(&id);
            pair.touched = now;
            // What fails at the very moment may go before or after it is taken.
            let fails = self.failed.get(&call.peer) == Some(&now);
            if pair.passed {
                pair.gone = None;
            }
            if ok && !fails && call.wanted.contains(&key.0) {
                pair.sure.get_or_insert(now);
                pair.gone = None;
                let alone = !call.broken && pair.metadata.iter().all(|(of, _)| *of == id);
                if let Some(bytes) = metadata.filter(|_| alone) {
                    pair.first.get_or_insert((now, bytes));
                }
            }
            if pair.offering.is_empty()
                && !pair.passed
                && pair.sure.is_none()
                && pair.gone.is_none()
            {
                self.pairs.remove(&key);
            }
        }
    }

    // ---- ends ----

    /// An op is here: all its pairs end.
    pub(crate) fn arrived(&mut self, now: u64, id: &Bytes) {
        self.reported.insert(id.clone(), now);
        for call in self.calls.values_mut() {
            call.wanted.remove(id);
        }
        let most = u32::from(self.config.num_back_off_intervals) + 1;
        let mut spent = BTreeSet::new();
        for (peer, pair) in self.of_op_mut(id) {
            if pair.tries() >= most {
                spent.insert(peer);
            }
            pair.passed = false;
            pair.end(now, "stored");
        }
        self.spent.append(&mut spent);
    }

    /// Nothing more is wanted of a peer.
    pub(crate) fn lost(&mut self, now: u64, peer: usize) {
        self.failed.insert(peer, now);
        for call in self.calls.values_mut().filter(|call| call.peer == peer) {
            call.wanted.clear();
            call.broken = true;
        }
        let pairs = self.pairs.iter_mut().filter(|((_, of), _)| *of == peer);
        for ((id, _), pair) in pairs {
            pair.end(now, "failed");
            // What came at the very moment may find that it is not wanted any more.
            self.storing.excuse(now, id);
        }
    }

    // ---- the summary ----

    /// What a summary must and must not say, and what is learned from it.
    fn compare(&mut self, now: u64, seen: &BTreeSet<Key>) -> Vec<(&'static str, Key)> {
        let mut wrong = Vec::new();
        for (key, pair) in &self.pairs {
            let there = seen.contains(key);
            let before = |at: u64| at < now;
            if !there && pair.sure.is_some_and(before) && !self.may_be_given_up(pair, key.1) {
                wrong.push(("kept", key.clone()));
            }
            let ended = pair
                .gone
                .filter(|(at, _)| before(*at) && pair.offering.is_empty());
            if let Some((_, why)) = ended.filter(|_| there) {
                wrong.push(if why == "stored" {
                    ("cleared", key.clone())
                } else {
                    ("dropped", key.clone())
                });
            }
        }
        for key in seen {
            if !self.pairs.contains_key(key) {
                wrong.push(("wanted", key.clone()));
            }
        }
        self.pairs.retain(|key, pair| {
            let there = seen.contains(key);
            // A summary of the moment at which its peer fails may be from before that.
            if there && pair.gone.is_none() && self.failed.get(&key.1) != Some(&now) {
                pair.sure.get_or_insert(now);
            }
            if !there && pair.sure.is_some_and(|at| at < now) && pair.gone.is_none() {
                // A request that was decided on before this may still go out.
                pair.end(now, "given up");
            }
            there || !pair.offering.is_empty() || pair.gone.is_some() || pair.touched == now
        });
        self.spent.clear();
        wrong
    }
}

impl Pair {
    pub(crate) fn has_ended_since(&self, since: u64) -> bool {
        self.ended.is_some_and(|at| at >= since)
    }

    /// So many times it may have been in vain.
    const fn tries(&self) -> u32 {
        self.asks + self.strays
    }

    fn end(&mut self, now: u64, why: &'static str) {
        // What a call under way brings may be wanted after it.
        let offering = std::mem::take(&mut self.offering);
        let passed = self.passed && !offering.is_empty();
        let metadata = std::mem::take(&mut self.metadata);
        *self = Self {
            gone: (why == "stored" || self.sure.is_some() || self.passed || self.gone.is_some())
                .then_some((now, why)),
            metadata: metadata
                .into_iter()
                .filter(|(id, _)| offering.contains(id))
                .collect(),
            offering,
            passed,
            ended: Some(now),
            ..Self::default()
        };
    }
}

impl Sim {
    /// Compares a summary that was taken just now with the account.
    pub(crate) fn check_summary(&mut self, now: u64, run: usize, seen: &BTreeSet<Key>) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let config = account.config.clone();
        let wrong = account.compare(now, seen);
        for (rule, (id, peer)) in wrong {
            let op = self.op(&id);
            let is = if rule == "kept" { "is not" } else { "is" };
            self.fail(
                now,
                run,
                rule,
                format_args!("{op} of peer {peer} {is} in the summary"),
            );
        }
        let mut by_peer: BTreeMap<usize, usize> = BTreeMap::new();
        for (_, peer) in seen {
            *by_peer.entry(*peer).or_default() += 1;
        }
        let most = by_peer.values().max().copied().unwrap_or_default();
        if most > config.max_pending_per_peer as usize || seen.len() > config.max_pending as usize {
            let all = seen.len();
            self.fail(
                now,
                run,
                "bounded",
                format_args!("{all} pairs are pending, {most} of one peer"),
            );
        }
    }
}
