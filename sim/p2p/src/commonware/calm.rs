//! How a run ends: faults stop, and what an honest peer has must arrive; then all is cancelled and
//! stopped, and nothing may be left.

use super::{net::Event, node::Stop, script::Script, state::Sim, world::MS};
use commonware_runtime::{Clock as _, Metrics as _, telemetry::metrics::count_running_tasks};
use std::{collections::BTreeSet, time::Duration};

/// How long it may take, once faults have stopped, until everything that can arrive has arrived.
const CALM_MAX: u64 = 120_000 * MS;

impl Script {
    pub(super) async fn liveness(&mut self) {
        if self.failed() {
            return;
        }
        self.shared.with(|sim, now| {
            sim.line(now, "..", format_args!("faults stop"));
            sim.calm = true;
            sim.net.parted.clear();
            // Producers that would never have answered give up.
            for never in std::mem::take(&mut sim.net.never) {
                let never = match never {
                    Event::Produce {
                        run, serve, sender, ..
                    } => Event::Produce {
                        run,
                        serve,
                        bytes: None,
                        sender,
                    },
                    other => other,
                };
                sim.net.at(now, never);
            }
        });
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        self.all_peers();
        // So that blocks are heard, and taken back after that.
        self.context.sleep(Duration::from_millis(50)).await;
        self.shared.with(|sim, now| {
            for node in 0..sim.world.peers.len() {
                let honest: Vec<bool> = (0..sim.world.peers.len())
                    .map(|peer| sim.is_honest(peer))
                    .collect();
                sim.net.desks[node].blocked.retain(|peer, _| !honest[*peer]);
                sim.tell_blocks(now, node);
            }
        });
        for node in 0..self.nodes.len() {
            self.fetch(node);
        }
        self.cancel_hopeless();
        let begun = self.shared.with(|_, now| now);
        loop {
            self.context.sleep(Duration::from_millis(100)).await;
            let open = self.shared.with(|sim, _| sim.must_arrive());
            if open.is_empty() || self.failed() {
                return self.shared.with(|sim, now| {
                    sim.coverage.most("longest calm, ms", (now - begun) / MS);
                });
            }
            let over = self.shared.with(|sim, now| {
                let over = now > begun + CALM_MAX;
                for (run, key) in open.iter().filter(|_| over) {
                    sim.fail(now, *run, "liveness", format_args!("{key} does not arrive"));
                }
                over
            });
            if over {
                return;
            }
        }
    }

    /// What cannot arrive is cancelled: to ask for it on and on would use up everybody's quota, which
    /// answers have to come out of, too.
    fn cancel_hopeless(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            let number = node.run;
            let kept = self.shared.with(|sim, now| {
                let open = sim.must_arrive().into_iter();
                let kept = open.filter(|(run, _)| *run == number).map(|(_, key)| key);
                let kept: BTreeSet<u64> = kept.collect();
                sim.line(now, "<<", format_args!("run {number} keeps {kept:?}"));
                sim.ask(now, number, |run, notes| {
                    run.retain(now, |key, _| kept.contains(&key), notes);
                });
                kept
            });
            if !node.bend.is("deaf-to-retain") {
                node.mail.retain(move |key, _| kept.contains(&key));
            }
        }
    }

    pub(super) async fn end(&mut self) {
        if self.failed() {
            return;
        }
        let longest = self.shared.with(|sim, _| {
            let timeouts = sim.world.peers.iter().map(|peer| peer.fetch_timeout);
            timeouts.max().unwrap_or_default()
        });
        for node in self.nodes.iter_mut().flatten() {
            let run = node.run;
            self.shared.with(|sim, now| {
                sim.line(now, "<<", format_args!("run {run} keeps nothing"));
                sim.ask(now, run, |run, notes| run.retain(now, |_, _| false, notes));
            });
            if !node.bend.is("deaf-to-retain") {
                node.mail.retain(|_, _| false);
            }
        }
        self.context
            .sleep(4 * longest + Duration::from_secs(2))
            .await;
        if self.failed() {
            return;
        }
        self.gauges();
        let mut mails = Vec::new();
        for node in 0..self.nodes.len() {
            mails.extend(self.nodes[node].as_ref().map(|node| node.mail.clone()));
            self.stop(node, Stop::Abort);
        }
        self.context.sleep(Duration::from_millis(50)).await;
        let tasks = ["ours", "stock"].map(|label| count_running_tasks(&self.context, label));
        if tasks != [0, 0] {
            self.shared.with(|sim, now| {
                sim.fail(now, 0, "no tasks", format_args!("{tasks:?} run on"));
            });
        }
        for mut mail in mails {
            mail.want(vec![(0, 0, None), (0, 1, Some(vec![0]))], true);
            mail.retain(|_, _| true);
        }
        self.failed();
    }

    /// With nothing wanted and nothing served, the gauges say so.
    fn gauges(&self) {
        let text = self.context.encode();
        for node in self.nodes.iter().flatten() {
            let mark = format!("run=\"{}\"", node.run);
            for name in ["fetch_pending", "fetch_active", "serve_processing"] {
                let of_run = |line: &&str| line.contains(&mark) && !line.starts_with('#');
                let mut lines = text.lines().filter(of_run);
                let prefix = [format!("ours_{name}"), format!("stock_{name}")];
                let found = lines.find(|line| prefix.iter().any(|name| line.starts_with(name)));
                let value = found.and_then(|line| line.rsplit(' ').next());
                if value != Some("0") {
                    self.shared.with(|sim, now| {
                        sim.fail(now, node.run, "gauges", format_args!("{name} is {value:?}"));
                    });
                }
            }
        }
    }
}

impl Sim {
    /// Whether a peer tells the truth from now on, and answers at all.
    fn is_honest(&self, peer: usize) -> bool {
        self.world.is_honest(peer)
    }

    /// What somebody surely waits for that an honest peer, whom it may ask, has: by run and key.
    fn must_arrive(&self) -> Vec<(usize, u64)> {
        let mut open = Vec::new();
        for (number, run) in self.runs.iter().enumerate() {
            if run.stopped.is_some() {
                continue;
            }
            let (Some(latest), blocked) = (run.latest.now(), run.blocked.now()) else {
                continue;
            };
            let free = latest.iter().filter(|peer| {
                let blocked = blocked.is_some_and(|set| set.contains(peer));
                **peer != run.node && !blocked && self.is_honest(**peer)
            });
            let free: Vec<usize> = free.copied().collect();
            for (name, key) in &run.keys {
                let has = |peer: &&usize| {
                    let scope = key.scope.as_ref().is_some_and(|scope| scope.has(**peer));
                    scope && self.world.holds(**peer, *name)
                };
                let sure = key.surely().next().is_some() && !key.doubt;
                if sure && free.iter().any(|peer| has(&peer)) {
                    open.push((number, *name));
                }
            }
        }
        open
    }
}
