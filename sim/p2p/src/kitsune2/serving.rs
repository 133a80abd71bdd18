//! Serving: what a peer asks for and the store holds is sent to it, once for each time, in pieces of
//! bounded size, and nothing else is.

use super::state::Sim;
use bytes::Bytes;
use gannet_kitsune2::FetchStats;
use std::collections::BTreeMap;

/// What an id counts in a response beside its bytes.
const ID_OVERHEAD: usize = 32;

/// What is known of requests of peers.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    /// How often a peer asked for an op more than it was sent it.
    asked: BTreeMap<(usize, Bytes), u32>,
    /// What is to be sent: since when.
    owed: BTreeMap<(usize, Bytes), u64>,
    /// Reads from the store: what for.
    pub(crate) reads: BTreeMap<u64, Vec<Bytes>>,
    /// Responses that are being sent.
    pub(crate) sending: u32,
    /// The largest request, as it counts.
    pub(crate) largest: u64,
}

impl Sim {
    /// A request of a peer has been handed to a module; what it counted before and after.
    pub(crate) fn requested(
        &mut self,
        now: u64,
        (run, peer, size): (usize, usize, usize),
        ids: &[Bytes],
        (before, after): (&FetchStats, &FetchStats),
    ) {
        let node = self.runs[run].node;
        let held: Vec<bool> = ids
            .iter()
            .map(|id| self.desks[node].held.contains_key(id))
            .collect();
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let size = (size + 64 + 32 * ids.len()) as u64;
        account.serving.largest = account.serving.largest.max(size);
        if after.requests_dropped > before.requests_dropped {
            for id in ids {
                self.no_room.insert((peer, node, id.clone()), now);
            }
            self.line(now, "xx", format_args!("{node} has no room for {peer}"));
            return self.coverage.hit("request dropped");
        }
        for (id, held) in ids.iter().zip(&held) {
            let key = (peer, id.clone());
            *account.serving.asked.entry(key.clone()).or_default() += 1;
            if *held {
                account.serving.owed.entry(key).or_insert(now);
            }
        }
        if !held.contains(&true) {
            self.coverage.hit("asked for what is not held");
        }
    }

    /// A response is being sent.
    pub(crate) fn answered(&mut self, now: u64, run: usize, peer: usize, ops: &[(Bytes, Bytes)]) {
        let node = self.runs[run].node;
        let held = |(id, data): &(Bytes, Bytes)| self.desks[node].held.get(id) == Some(data);
        let mut wrong = Vec::new();
        if !ops.iter().all(held) {
            wrong.push("not all of it is held".to_owned());
        }
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let bytes: usize = ops
            .iter()
            .map(|(id, data)| id.len() + data.len() + ID_OVERHEAD)
            .sum();
        let most = account.config.max_response_bytes as usize;
        if ops.is_empty() || ops.len() > 1 && bytes > most {
            wrong.push(format!("{} ops with {bytes} bytes, of {most}", ops.len()));
        }
        for (id, _) in ops {
            let key = (peer, id.clone());
            account.serving.owed.remove(&key);
            let asked = account.serving.asked.entry(key).or_default();
            if *asked == 0 {
                wrong.push("not so often asked for".into());
            }
            *asked = asked.saturating_sub(1);
        }
        account.serving.sending += 1;
        let names = self.ops(ops.iter().map(|(id, _)| id));
        for why in wrong {
            self.fail(
                now,
                run,
                "served",
                format_args!("peer {peer} is sent {names}: {why}"),
            );
        }
        self.coverage.hit("served");
        self.coverage.most("ops in a response", ops.len() as u64);
    }

    /// A response was sent, or could not be: then the rest of what was read is not sent, either.
    pub(crate) fn was_answered(&mut self, run: usize, peer: usize, out: bool) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        account.serving.sending -= 1;
        if !out {
            account.serving.owed.retain(|(of, _), _| *of != peer);
            self.coverage.hit("could not be served");
        }
    }

    /// Ops are read, for a peer.
    pub(crate) fn reading(&mut self, now: u64, run: usize, read: u64, ids: Vec<Bytes>) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        account.serving.reads.insert(read, ids);
        let (reads, most) = (
            account.serving.reads.len(),
            account.config.serve_concurrency,
        );
        if reads > usize::from(most) {
            self.fail(
                now,
                run,
                "bounded",
                format_args!("{reads} peers are served at a time"),
            );
        }
    }

    /// They were read, or could not be.
    pub(crate) fn read(&mut self, run: usize, read: u64, ok: bool) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let ids = account.serving.reads.remove(&read).unwrap_or_default();
        if !ok {
            account.serving.owed.retain(|(_, id), _| !ids.contains(id));
        }
    }

    /// When nothing is being served, nothing is owed.
    pub(crate) fn check_serving(&mut self, now: u64, run: usize, stats: &FetchStats) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let serving = &mut account.serving;
        if stats.serving_bytes > 0 || !serving.reads.is_empty() || serving.sending > 0 {
            return;
        }
        let owed = std::mem::take(&mut serving.owed).into_iter();
        let owed: Vec<_> = owed.filter(|(_, at)| *at < now).collect();
        for ((peer, id), at) in owed {
            let op = self.op(&id);
            self.fail(
                now,
                run,
                "served",
                format_args!("peer {peer} asked for {op} at {at} ms, and was not answered"),
            );
        }
    }
}
