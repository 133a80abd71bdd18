//! Answers, and the op store: what comes reaches the store as it came, with what was said of it, and is
//! reported once when it is taken.

use super::{
    account::{Key, Pair, Run},
    state::Sim,
};
use bytes::Bytes;
use gannet_kitsune2::FetchStats;
use kitsune2_api::IncomingOp;
use std::collections::{BTreeMap, BTreeSet};

/// What an op counts for beside its bytes.
const OP_OVERHEAD: usize = 256;

/// What is known of answers.
#[derive(Debug, Default)]
pub(crate) struct Storing {
    /// Who sent an op with this data, and how often more than it was handed to the store.
    came: BTreeMap<(Bytes, Bytes), Came>,
    /// When an op last came from a peer, whatever its data.
    latest: BTreeMap<Key, u64>,
    /// What has to be handed to the store before nothing is held any more.
    owed: BTreeMap<Bytes, u64>,
    /// Handed to the store since nothing was held.
    lately: BTreeSet<Bytes>,
    /// Calls to the store.
    pub(crate) calls: BTreeMap<u64, Vec<IncomingOp>>,
    /// What was taken and is to be reported: how often.
    unreported: BTreeMap<(Bytes, u64), u32>,
    /// The largest message, as it counts.
    largest: u64,
}

#[derive(Debug, Default)]
struct Came {
    from: BTreeSet<usize>,
    /// How often, of these, when no request waited for it.
    strays: BTreeMap<usize, u32>,
    /// Who sent those that are left: since when.
    since: BTreeMap<usize, u64>,
    left: u32,
    /// So many of these from peers that offered it then.
    welcome: u32,
}

impl Storing {
    pub(crate) fn came_since(&self, key: &Key, at: u64) -> bool {
        self.latest.get(key).is_some_and(|came| *came >= at)
    }

    /// What came just now need not be handed on.
    pub(crate) fn excuse(&mut self, now: u64, id: &Bytes) {
        if self.owed.get(id) == Some(&now) {
            self.owed.remove(id);
        }
    }

    /// Nothing is held: everything that was begun is done. What is not?
    fn settle(&mut self, now: u64) -> Vec<(&'static str, Bytes)> {
        self.lately.clear();
        let lost = std::mem::take(&mut self.owed).into_iter();
        let mut wrong: Vec<_> = lost
            .filter(|(_, at)| *at < now)
            .map(|(id, _)| ("handed on", id))
            .collect();
        let silent = std::mem::take(&mut self.unreported).into_iter();
        wrong.extend(
            silent
                .filter(|(_, n)| *n > 0)
                .map(|((id, _), _)| ("reported", id)),
        );
        wrong
    }
}

impl Run {
    /// What the store may and must be told of an op beside its data.
    fn metadata(
        &self,
        id: &Bytes,
        from: &BTreeMap<usize, u64>,
    ) -> (BTreeSet<Bytes>, Option<Bytes>) {
        // Whatever was ever said: an op that waits for the store keeps it longer than its offer lasts.
        let may = self.said.get(id).cloned().unwrap_or_default();
        let mut only = from.iter();
        let (Some((peer, came)), None) = (only.next(), only.next()) else {
            return (may, None);
        };
        let pair = self.pairs.get(&(id.clone(), *peer));
        let first = pair.and_then(|pair| pair.first.as_ref());
        let first = first.filter(|(at, _)| at < came && self.surely(*came, id, *peer));
        let must = first.map(|(_, bytes)| bytes.clone());
        (may, must)
    }
}

impl Sim {
    /// A response has been handed to a module; what it counted before and after.
    pub(crate) fn delivered(
        &mut self,
        now: u64,
        (run, peer, size): (usize, usize, usize),
        ops: &[(Bytes, Bytes)],
        (before, after): (&FetchStats, &FetchStats),
    ) {
        let dropped = after.responses_dropped > before.responses_dropped;
        let node = self.runs[run].node;
        for (id, _) in ops.iter().filter(|_| dropped) {
            self.no_room.insert((node, peer, id.clone()), now);
        }
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let size = (size + OP_OVERHEAD * ops.len()) as u64;
        account.storing.largest = account.storing.largest.max(size);
        if before.held_bytes == 0 {
            account.storing.lately.clear();
        }
        // Who was silent and is there again is asked again.
        let timeout = account.config.answer_timeout_ms;
        if account.asking.is_at_fault(now, peer, timeout) {
            account.tell_of(now, peer);
        }
        // One that could never be read is no answer.
        let ops_max = account.config.max_incoming_bytes as usize / 4 / OP_OVERHEAD;
        if dropped && ops.len() <= ops_max.max(1) {
            account.spare(now, peer);
        }
        let (mut late, mut unsolicited) = (false, false);
        for (id, data) in ops {
            if dropped {
                continue;
            }
            let waited = account.asking.waits(now, peer, id, timeout);
            account.asking.closed(peer, id);
            let sure = account.surely(now, id, peer);
            let pair = account.pairs.get(&(id.clone(), peer));
            // A call under way may note it before this is taken, in this very millisecond.
            let offers = |pair: &Pair| {
                !pair.offering.is_empty()
                    || pair.passed
                    || pair.gone.is_none_or(|(at, _)| at >= now)
            };
            let welcome = pair.is_some_and(offers);
            unsolicited |= !welcome;
            late |= pair.is_some_and(|pair| {
                let wait = u64::from(account.config.answer_timeout_ms);
                pair.out.is_some_and(|out| out + wait < now)
            });
            let storing = &mut account.storing;
            storing.latest.insert((id.clone(), peer), now);
            let came = storing.came.entry((id.clone(), data.clone())).or_default();
            came.from.insert(peer);
            *came.strays.entry(peer).or_default() += u32::from(!waited);
            // One that the store has just now may be given to it again.
            let mut stored = storing.calls.values().flatten();
            if came.left == 0 && !stored.any(|op| op.op_id[..] == id[..]) {
                came.since.clear();
            }
            came.since.entry(peer).or_insert(now);
            came.left += 1;
            came.welcome += u32::from(welcome);
            if sure && !storing.lately.contains(id) {
                storing.owed.entry(id.clone()).or_insert(now);
            }
        }
        for (mark, there) in [
            ("dropped for want of room", dropped),
            ("late", late),
            ("unsolicited", unsolicited),
        ] {
            if there {
                self.coverage.hit(mark);
            }
        }
    }

    /// The store is called.
    pub(crate) fn storing(&mut self, now: u64, run: usize, call: u64, ops: &[IncomingOp]) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let mut wrong = Vec::new();
        for op in ops {
            let id = Bytes::from(op.op_id.clone());
            let storing = &mut account.storing;
            storing.owed.remove(&id);
            storing.lately.insert(id.clone());
            let key = (id.clone(), op.op_data.clone());
            let Some(came) = storing.came.get_mut(&key).filter(|came| came.left > 0) else {
                wrong.push(("true to the wire", id, "nobody sent this, or not so often"));
                continue;
            };
            came.left -= 1;
            let from = came.since.clone();
            if !account.config.accept_unsolicited && came.welcome == 0 {
                let why = "nobody who sent it offered it then";
                wrong.push(("unsolicited", id.clone(), why));
            }
            came.welcome = came.welcome.saturating_sub(1);
            let (may, must) = account.metadata(&id, &from);
            let fits = match &must {
                Some(must) => op.metadata.as_ref() == Some(must),
                None => op.metadata.as_ref().is_none_or(|bytes| may.contains(bytes)),
            };
            if !fits {
                wrong.push(("metadata", id, "it is not what was offered with it"));
            }
        }
        account.storing.calls.insert(call, ops.to_vec());
        let calls = account.storing.calls.len();
        let config = &account.config;
        let (most, width) = (config.max_ops_per_store_call, config.store_concurrency);
        let bounded = ops.len() <= most as usize && calls <= usize::from(width);
        let with = ops.iter().any(|op| op.metadata.is_some());
        if !bounded {
            let ops = ops.len();
            self.fail(
                now,
                run,
                "bounded",
                format_args!("{calls} calls to the store, this one with {ops} ops"),
            );
        }
        for (rule, id, why) in wrong {
            let op = self.op(&id);
            self.fail(
                now,
                run,
                rule,
                format_args!("{op} is given to the store: {why}"),
            );
        }
        if with {
            self.coverage.hit("metadata");
        }
        self.coverage
            .most("ops in a call to the store", ops.len() as u64);
    }

    /// The store has answered a call: with what it took, or not at all.
    pub(crate) fn stored(
        &mut self,
        now: u64,
        run: usize,
        call: u64,
        taken: Option<&BTreeSet<Bytes>>,
    ) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let ops = account.storing.calls.remove(&call).unwrap_or_default();
        let (alone, mut refused) = (ops.len() == 1, false);
        for op in ops {
            let id = Bytes::from(op.op_id);
            if taken.is_some_and(|taken| taken.contains(&id)) {
                let size = op.op_data.len() as u64;
                *account.storing.unreported.entry((id, size)).or_default() += 1;
                continue;
            }
            account.tell(now, &id);
            if taken.is_some() {
                refused = true;
                let came = account
                    .storing
                    .came
                    .get_mut(&(id.clone(), op.op_data.clone()));
                let came = came.map(|came| (came.from.clone(), std::mem::take(&mut came.strays)));
                let (from, strays) = came.unwrap_or_default();
                from.into_iter()
                    .for_each(|peer| account.asking.lied(now, peer));
                // One that was pushed, or came late, is waited for no more often than one that was not.
                for (peer, count) in strays {
                    if let Some(pair) = account.pairs.get_mut(&(id.clone(), peer)) {
                        pair.strays += count;
                    }
                }
            }
            // Ops that fail together may be tried one by one.
            if taken.is_none() && !alone {
                let came = account.storing.came.get_mut(&(id, op.op_data));
                if let Some(came) = came {
                    (came.left, came.welcome) = (came.left + 1, came.welcome + 1);
                }
            }
        }
        if refused {
            self.coverage.hit("refused by the store");
        }
        if taken.is_none() {
            self.coverage.hit("the store failed");
        }
    }

    /// A module reports that it has fetched an op.
    pub(crate) fn reported(&mut self, now: u64, run: usize, peer: usize, id: &Bytes, size: u64) {
        let op = self.op(id);
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let expected = account.storing.unreported.get_mut(&(id.clone(), size));
        let expected = expected.filter(|n| **n > 0).map(|n| *n -= 1).is_some();
        let mut came = account.storing.came.iter();
        let by = |((of, data), came): (&(Bytes, Bytes), &Came)| {
            of == id && data.len() as u64 == size && came.from.contains(&peer)
        };
        let by_peer = came.any(by);
        if account
            .asking
            .is_at_fault(now, peer, account.config.answer_timeout_ms)
        {
            account.tell_of(now, peer);
        }
        let pair = account.pairs.get(&(id.clone(), peer));
        let began = pair.and_then(|pair| pair.began);
        account.asking.did_well(peer, began);
        account.arrived(now, id);
        account.asking.arrived(id);
        if !expected || !by_peer {
            self.fail(
                now,
                run,
                "reported",
                format_args!("{op} of peer {peer} with {size} bytes"),
            );
        }
        self.coverage.hit("stored");
    }

    /// What a module holds is within its bounds; and when it holds nothing, all is done.
    pub(crate) fn check_stats(&mut self, now: u64, run: usize, stats: &FetchStats) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let (config, largest) = (&account.config, account.storing.largest);
        let held_max = u64::from(config.max_incoming_bytes).max(largest);
        let serving_max = u64::from(config.max_incoming_request_bytes).max(account.serving.largest);
        let (held, serving, pending) = (stats.held_bytes, stats.serving_bytes, stats.pending);
        let fits =
            held <= held_max && serving <= serving_max && pending <= u64::from(config.max_pending);
        let wrong = match held {
            0 => account.storing.settle(now),
            _ => Vec::new(),
        };
        if !fits {
            self.fail(
                now,
                run,
                "bounded",
                format_args!("held {held}, to be served {serving}, pending {pending}"),
            );
        }
        for (rule, id) in wrong {
            let op = self.op(&id);
            self.fail(
                now,
                run,
                rule,
                format_args!("{op} came, and no more was heard of it"),
            );
        }
        self.coverage.most("pending", pending);
    }
}
