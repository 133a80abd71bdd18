//! When faults have stopped: what an honest peer holds arrives, old or new; then everything ends, and
//! nothing is left.

use super::{
    script::Script,
    state::pause,
    wire::{Message, url},
    world::FRESH,
};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Longer than anything that began under faults may take: a send that hangs, a store that is slow.
const SETTLE: u64 = 120_000;

impl Script {
    /// How long a node may take, at most, for an op that somebody answers for: `pause` is how long it may
    /// wait before it asks, and then it has to have been through those that do not answer.
    fn bound(&self, node: usize, pause: u64) -> u64 {
        self.shared.with(|sim, _| {
            let config = &sim.world.peers[node].config;
            let (known, peers) = (sim.world.known as u64, sim.world.peers.len() as u64);
            let turns = known.div_ceil(u64::from(config.max_ops_in_flight_per_peer).min(known)) + 1;
            let timeouts = 3 * peers * turns;
            pause + timeouts * u64::from(config.answer_timeout_ms) + 10_000
        })
    }

    fn config<T>(
        &self,
        node: usize,
        f: impl FnOnce(&gannet_kitsune2::GannetFetchConfig) -> T,
    ) -> T {
        self.shared.with(|sim, _| f(&sim.world.peers[node].config))
    }

    /// Lets time pass, and looks now and then.
    async fn let_pass(&self, millis: u64) {
        for part in [5, 20, 75] {
            pause(millis * part / 100 + 1).await;
            self.check().await;
        }
    }

    pub(crate) async fn calm(&mut self) {
        self.shared.with(|sim, now| {
            sim.line(now, "==", format_args!("faults stop"));
            (sim.calm, sim.parted) = (true, BTreeSet::new());
        });
        for node in 0..self.nodes.len() {
            self.start(node).await;
        }
        let ours = self.shared.with(|sim, _| sim.ours());
        self.let_pass(SETTLE).await;
        self.fresh(&ours).await;
        let longest = ours.iter().map(|node| {
            let last = self.config(*node, |config| config.last_back_off_interval_ms);
            self.bound(*node, last.into())
        });
        let before = self.honestly_pending(&ours).await;
        let since = self.shared.with(|_, now| now);
        self.let_pass(longest.max().unwrap_or_default()).await;
        let after = self.honestly_pending(&ours).await;
        for (node, id, peer) in before.intersection(&after) {
            self.shared.with(|sim, now| {
                // In so long a pause there is one request only: where there is no room for it, or for
                // its answer, the op is for the next.
                if sim.lacked_room(since, *node, *peer, id) {
                    return sim.coverage.hit("no room in the end");
                }
                let (op, run) = (sim.op(id), sim.desks[*node].run.unwrap_or_default());
                sim.fail(
                    now,
                    run,
                    "liveness",
                    format_args!("peer {peer} holds {op}, and it is still pending"),
                );
            });
        }
        self.end(&ours).await;
    }

    /// What is pending of honest peers that hold it.
    async fn honestly_pending(&self, ours: &[usize]) -> BTreeSet<(usize, Bytes, usize)> {
        let mut all = BTreeSet::new();
        for node in ours {
            let Some(module) = &self.nodes[*node] else {
                continue;
            };
            let pending = module.pending().await;
            self.shared.with(|sim, _| {
                let honest = pending
                    .into_iter()
                    .filter(|(id, peer)| sim.is_source(*peer, id));
                all.extend(honest.map(|(id, peer)| (*node, id, peer)));
            });
        }
        all
    }

    /// New ops, held by one honest peer and offered by it, arrive soon.
    async fn fresh(&mut self, ours: &[usize]) {
        let (known, peers) = self
            .shared
            .with(|sim, _| (sim.world.known, sim.world.peers.len()));
        let mut asked = Vec::new();
        let honest = self.shared.with(|sim, _| {
            let honest = |peer: &usize| sim.world.peers[*peer].honest();
            (0..peers).filter(honest).collect::<Vec<usize>>()
        });
        let (mut n, since) = (known, self.shared.with(|_, now| now));
        for node in ours {
            for peer in &honest {
                if peer == node || n == known + FRESH {
                    continue;
                }
                let op = self.shared.with(|sim, _| {
                    let op = sim.world.ops[n].clone();
                    sim.desks[*peer].held.insert(op.0.clone(), op.1.clone());
                    op
                });
                n += 1;
                // Where the peer takes no more, the call fails, and nothing is promised.
                let room = self.config(*node, |config| {
                    config.max_pending.min(config.max_pending_per_peer)
                });
                let full = match &self.nodes[*node] {
                    Some(module) => module.pending().await.len() as u64 + 12 > u64::from(room),
                    None => true,
                };
                if full {
                    continue;
                }
                if let Some(module) = &mut self.nodes[*node] {
                    module.request(*peer, vec![(op.0.clone(), None)]);
                }
                asked.push((*node, op.0, *peer));
            }
        }
        let bound = ours.iter().map(|node| self.bound(*node, 0)).max();
        self.let_pass(bound.unwrap_or_default()).await;
        self.shared.with(|sim, now| {
            for (node, id, peer) in asked {
                let room = !sim.lacked_room(since, node, peer, &id);
                // One whose patience ends just then takes what is new along.
                let account = sim.desks[node].run.map(|run| &sim.runs[run]);
                let pair = account.and_then(|account| account.pairs.get(&(id.clone(), peer)));
                let given_up = pair
                    .and_then(|pair| pair.gone)
                    .is_some_and(|(_, why)| why == "given up");
                if !sim.desks[node].held.contains_key(&id) && room && !given_up {
                    let (op, run) = (sim.op(&id), sim.desks[node].run.unwrap_or_default());
                    sim.fail(
                        now,
                        run,
                        "liveness",
                        format_args!("{op}, new and offered by peer {peer}, has not come"),
                    );
                }
                sim.coverage.hit("fresh");
            }
        });
    }

    /// Everything ends.
    async fn end(&mut self, ours: &[usize]) {
        let longest = ours.iter().map(|node| {
            let (times, last) = self.config(*node, |config| {
                (
                    // As many are forgiven as count, where an answer never fits.
                    2 * u64::from(config.num_back_off_intervals) + 3,
                    config.last_back_off_interval_ms,
                )
            });
            self.bound(*node, last.into()) * times
        });
        // What nobody answers for is given up.
        self.let_pass(longest.max().unwrap_or_default()).await;
        for node in ours {
            self.alive(*node).await;
        }
        for node in ours {
            let run = self.shared.with(|sim, _| sim.desks[*node].run);
            let Some((run, stats)) = run.and_then(|run| Some((run, self.shared.stats(run)?)))
            else {
                continue;
            };
            let calling = self.nodes[*node].as_ref().map_or(0, |node| node.calling());
            let gauges = [
                stats.pending,
                stats.pending_ops,
                stats.peers,
                stats.in_flight,
                stats.storing,
                stats.held_bytes,
                stats.serving_bytes,
                calling as u64,
            ];
            self.shared.with(|sim, now| {
                if gauges.iter().any(|gauge| *gauge > 0) {
                    sim.fail(
                        now,
                        run,
                        "gauges",
                        format_args!("{gauges:?} at the end: {stats:?}"),
                    );
                }
                for (mark, count) in [("given up", stats.given_up), ("repeated", stats.repeated)] {
                    if count > 0 {
                        sim.coverage.hit(mark);
                    }
                }
            });
        }
        for node in std::mem::take(&mut self.nodes).into_iter().flatten() {
            node.stop().await;
        }
        // What is still on its way arrives at nobody.
        pause(SETTLE).await;
    }

    /// Its tasks live: it serves who asks, and takes what it asked for.
    async fn alive(&mut self, node: usize) {
        let from = (0..self.nodes.len()).find(|peer| self.nodes[*peer].is_none());
        let Some(from) = from else { return };
        let run = self.shared.with(|sim, _| sim.desks[node].run);
        let Some((run, before)) = run.and_then(|run| Some((run, self.shared.stats(run)?))) else {
            return;
        };
        let held = self
            .shared
            .with(|sim, _| sim.desks[node].held.keys().next().cloned());
        let Some(id) = held else { return };
        let request = Message::Request(vec![id]).encode();
        self.shared.raw_send(from, node, request, 0);
        pause(1_000).await;
        self.check().await;
        let after = self.shared.stats(run);
        if after.is_none_or(|after| after.responses_sent == before.responses_sent) {
            self.shared.with(|sim, now| {
                sim.fail(
                    now,
                    run,
                    "alive",
                    format_args!("a request from {} is not answered", url(from)),
                );
            });
        }
    }
}
