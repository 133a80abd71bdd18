//! Requests of our modules: who is asked, for what, how much at a time, and how soon again.

use super::{account::Run, state::Sim};
use bytes::Bytes;
use gannet_kitsune2::GannetFetchConfig;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of requests.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    /// When a request to a peer was last decided on: it asks whether the peer responds first.
    pub(crate) looked: BTreeMap<usize, u64>,
    /// Peers that were said to be unresponsive when that was last asked.
    pub(crate) unresponsive: BTreeSet<usize>,
    /// Requests that are being sent, by peer.
    sending: BTreeMap<usize, Vec<Bytes>>,
    /// What was asked of whom, when it was out, and not ended since in any way that is seen.
    open: BTreeMap<(usize, Bytes), u64>,
    /// Peers that did not do what they were asked, and have brought nothing good since: since when.
    at_fault: BTreeMap<usize, u64>,
}

impl Asking {
    /// An answer came, or none will.
    pub(crate) fn closed(&mut self, peer: usize, id: &Bytes) {
        self.open.remove(&(peer, id.clone()));
    }

    pub(crate) fn closed_all(&mut self, now: u64, peer: usize) {
        self.open.retain(|(of, _), _| *of != peer);
        self.at_fault.insert(peer, now);
    }

    /// Whether a peer let a request pass, or lied, or could not be sent to, since it last did well.
    pub(crate) fn is_at_fault(&mut self, now: u64, peer: usize, timeout: u32) -> bool {
        let passed = |out: &u64| out + u64::from(timeout) <= now;
        let mut open = self.open.iter();
        if open.any(|((of, _), out)| *of == peer && passed(out)) {
            self.at_fault.insert(peer, now);
        }
        self.at_fault.contains_key(&peer)
    }

    pub(crate) fn lied(&mut self, now: u64, peer: usize) {
        self.at_fault.insert(peer, now);
    }

    /// An op has come that is wanted of the peer since `began`. An answer to what may have been asked
    /// for before the fault proves nothing: the module takes the peer for well with a later one.
    pub(crate) fn did_well(&mut self, peer: usize, began: Option<u64>) {
        if (self.at_fault.get(&peer)).is_some_and(|at| began.is_some_and(|began| began > *at)) {
            self.at_fault.remove(&peer);
        }
    }

    /// Whether a request for an op is out, and certainly waited for.
    pub(crate) fn waits(&self, now: u64, peer: usize, id: &Bytes, timeout: u32) -> bool {
        let out = self.open.get(&(peer, id.clone()));
        out.is_some_and(|out| now < out + u64::from(timeout))
    }

    /// What was asked of a peer and may still be waited for: ten times the timeout is the longest.
    fn may_wait(&self, now: u64, peer: usize, timeout: u32) -> Vec<Bytes> {
        let longest = 10 * u64::from(timeout);
        let open = self.open.iter();
        let open = open.filter(|((of, _), out)| *of == peer && now <= **out + longest);
        open.map(|((_, id), _)| id.clone()).collect()
    }

    pub(crate) fn arrived(&mut self, id: &Bytes) {
        self.open.retain(|(_, of), _| of != id);
    }
}

/// The shortest that the pause after so many requests without an answer may be.
fn least(config: &GannetFetchConfig, asks: u32) -> u64 {
    let (first, last) = (
        config.first_back_off_interval_ms,
        config.last_back_off_interval_ms,
    );
    let steps = u32::from(config.num_back_off_intervals).max(2) - 1;
    let growth = (f64::from(last) / f64::from(first)).powf(1.0 / f64::from(steps));
    let grown = f64::from(first) * growth.powi(asks.saturating_sub(1) as i32);
    // Within what rounding costs.
    (grown.min(f64::from(last)) * 0.99) as u64
}

impl Run {
    /// There was no room for a response of a peer: what it was asked for until then, and does not
    /// answer, costs no patience.
    pub(crate) fn spare(&mut self, now: u64, peer: usize) {
        for id in self
            .asking
            .may_wait(now, peer, self.config.answer_timeout_ms)
        {
            if let Some(pair) = self.pairs.get_mut(&(id, peer))
                && !std::mem::replace(&mut pair.spared, true)
            {
                pair.asks_in_a_row = pair.asks_in_a_row.saturating_sub(1);
            }
        }
    }

    /// What speaks against asking a peer for this op.
    fn against(&self, decided: u64, id: &Bytes, peer: usize) -> Option<(&'static str, String)> {
        let Some(pair) = self.pairs.get(&(id.clone(), peer)) else {
            let held = self.reported.contains_key(id);
            let rule = if held { "not held" } else { "wanted" };
            return Some((rule, "it was not offered".into()));
        };
        if let Some((at, why)) = pair.gone.filter(|_| !pair.passed)
            && at < decided
        {
            let rule = if why == "stored" {
                "not held"
            } else {
                "wanted"
            };
            return Some((rule, format!("it was {why} at {at} ms")));
        }
        if pair.gone.is_none() && !pair.passed && pair.sure.is_none() {
            return Some(("not held", "nobody said that it is missing".into()));
        }
        let most = u32::from(self.config.num_back_off_intervals) + 1;
        if pair.asks_in_a_row >= most {
            let asks = pair.asks_in_a_row;
            return Some(("patience", format!("it was asked for {asks} times in vain")));
        }
        let news = self.news.get(id).is_some_and(|at| *at >= pair.decided);
        // A call that waits may name it again at any time, which ends a pause unless it was asked for
        // only just now.
        let first = u64::from(self.config.first_back_off_interval_ms);
        let named = pair.out.is_some_and(|out| out + first <= decided)
            && (self.calls.values()).any(|call| call.peer == peer && call.ops.contains_key(id));
        // One that waits for another peer, of which it is not wanted yet, or not any more, adds an
        // offer whenever there is room: that is news, too.
        let added = self.calls.values().any(|call| {
            let theirs = self.pairs.get(&(id.clone(), call.peer));
            let new = theirs.is_some_and(|pair| pair.passed && pair.sure.is_none());
            call.peer != peer && new && call.ops.contains_key(id)
        });
        let news = news || named || added;
        let wait =
            u64::from(self.config.answer_timeout_ms) + least(&self.config, pair.asks_in_a_row);
        let out = pair
            .out
            .filter(|out| pair.asks > 0 && !news && out + wait > decided);
        out.map(|out| {
            (
                "patience",
                format!("it was asked for at {out} ms, and {wait} ms were to pass"),
            )
        })
    }
}

impl Sim {
    /// A request is being sent.
    pub(crate) fn asked(&mut self, now: u64, run: usize, peer: usize, ids: &[Bytes]) {
        let names = self.ops(ids);
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let config = account.config.clone();
        let mut wrong: Vec<(&str, String)> = Vec::new();
        if account.asking.sending.contains_key(&peer) {
            wrong.push(("one at a time", "another request is on its way".into()));
        }
        if account.asking.unresponsive.contains(&peer) {
            wrong.push(("dropped", "the peer is unresponsive".into()));
        }
        if ids.iter().collect::<BTreeSet<_>>().len() < ids.len() {
            wrong.push(("batch", "an op is named twice".into()));
        }
        // A length and a tag go with each but the last.
        let bytes = ids
            .iter()
            .map(|id| id.len() + 2)
            .sum::<usize>()
            .saturating_sub(2);
        let (count_max, bytes_max) = (config.max_ops_per_request, config.max_request_bytes);
        let fits =
            ids.len() <= count_max as usize && (ids.len() == 1 || bytes <= bytes_max as usize);
        if !fits || ids.is_empty() {
            wrong.push(("batch", format!("{} ops with {bytes} bytes", ids.len())));
        }
        let decided = account
            .asking
            .looked
            .get(&peer)
            .copied()
            .unwrap_or_default();
        // What is not asked for any more when its request goes out: it was answered since that was
        // decided on, or ended. Others may be asked for it then, or in the same millisecond.
        let over: BTreeSet<&Bytes> = (ids.iter())
            .filter(|id| {
                let key = ((*id).clone(), peer);
                account.storing.came_since(&key, decided)
                    || account.pairs.get(&key).is_none_or(|pair| {
                        pair.has_ended_since(decided) || account.may_be_given_up(pair, peer)
                    })
            })
            .collect();
        for id in ids {
            if let Some((rule, why)) = account.against(decided, id, peer) {
                wrong.push((rule, why));
            }
            // One that was decided on before there was news is not the first in a row after it: it may
            // be the one that the news was an answer to.
            let told = account.news.get(id).is_some_and(|at| *at >= decided);
            if let Some(pair) = account.pairs.get_mut(&(id.clone(), peer)) {
                pair.asks += 1;
                pair.asks_in_a_row += u32::from(!told);
                pair.spared = false;
                (pair.decided, pair.out) = (decided, None);
            }
        }
        let again = ids
            .iter()
            .filter_map(|id| account.pairs.get(&(id.clone(), peer)));
        let again = again.map(|pair| pair.asks).max().unwrap_or_default() > 1;
        // Those that were asked lately, and are waited for.
        let recent = |out: u64| now < out + u64::from(config.answer_timeout_ms);
        let open = account.asking.open.iter();
        let open = open
            .filter(|((of, id), out)| *of == peer && recent(**out) && account.awaits(id, peer))
            .count()
            + ids.len();
        if open > config.max_ops_in_flight_per_peer as usize {
            wrong.push(("bounded", format!("{open} ops are in flight")));
        }
        let others = |id: &Bytes| {
            let mut open = account.asking.open.iter();
            open.any(|((of, other), out)| {
                *of != peer && other == id && recent(*out) && account.awaits(id, *of)
            })
        };
        let races = ids.iter().filter(|id| !over.contains(id)).any(others);
        if races && config.hedge_ms == 0 {
            wrong.push((
                "one request",
                "another peer is asked for the same op".into(),
            ));
        }
        account.asking.sending.insert(peer, ids.to_vec());
        for (rule, why) in wrong {
            self.fail(
                now,
                run,
                rule,
                format_args!("peer {peer} is asked for {names}: {why}"),
            );
        }
        if again {
            self.coverage.hit("asked again");
        }
        if races {
            self.coverage.hit("hedged");
        }
        self.coverage.most("ops in a request", ids.len() as u64);
    }

    /// A request was sent, or could not be.
    pub(crate) fn was_sent(&mut self, now: u64, run: usize, peer: usize, out: bool) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let ids = account.asking.sending.remove(&peer).unwrap_or_default();
        if !out {
            account.lost(now, peer);
            account.asking.closed_all(now, peer);
            return self.coverage.hit("could not be sent");
        }
        for id in ids {
            let key = (id.clone(), peer);
            if let Some(pair) = account.pairs.get_mut(&key) {
                pair.out = Some(now);
            }
            // Some answers are faster than the word that the request is out.
            let here = account
                .reported
                .get(&id)
                .is_some_and(|at| *at >= account.asking.looked[&peer]);
            if !here
                && !account
                    .storing
                    .came_since(&key, account.asking.looked[&peer])
            {
                account.asking.open.insert((peer, id), now);
            }
        }
    }

    /// A module has asked whether a peer responds, and is told.
    pub(crate) fn looked(&mut self, now: u64, run: usize, peer: usize, unresponsive: bool) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        if unresponsive {
            account.asking.unresponsive.insert(peer);
            account.lost(now, peer);
            account.asking.closed_all(now, peer);
            self.coverage.hit("unresponsive");
        } else {
            account.asking.unresponsive.remove(&peer);
        }
    }

    /// A node is told that a connection is gone.
    pub(crate) fn disconnected(&mut self, now: u64, run: usize, peer: usize) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        account.asking.closed_all(now, peer);
        account.tell_of(now, peer);
        self.coverage.hit("disconnected");
    }
}
