//! What happens in a run: nodes start, and everything goes wrong that the seed has drawn. How it ends is
//! in `calm`.

use super::{
    node::{Node, Stop, Want},
    state::{Shared, Sim},
    world::{Kind, World},
};
use commonware_macros::select;
use commonware_runtime::{Clock as _, Spawner as _, Supervisor as _, deterministic::Context};
use commonware_utils::channel::mpsc;
use gannet_sim::rng::mix;
use std::{any::Any, collections::BTreeSet, time::Duration};

/// One run of one seed.
pub(crate) struct Script {
    pub(super) context: Context,
    pub(super) shared: Shared,
    plant: Option<&'static str>,
    pub(super) nodes: Vec<Option<Node>>,
    /// What stopped nodes left.
    left: Vec<Box<dyn Any + Send>>,
    /// The index of the last peer set.
    index: u64,
}

/// What the operator does next.
#[derive(Clone, Copy, Debug)]
enum Act {
    Fetch,
    Retain,
    Peers,
    Unblock,
    Restart,
    Part,
    Flood,
}

/// Does what is on the agenda, when it is due.
async fn keep_agenda(context: Context, shared: Shared, mut alarm: mpsc::UnboundedReceiver<()>) {
    loop {
        let next = shared.with(|sim, now| {
            sim.perform(now);
            sim.net.next()
        });
        let Some(next) = next else {
            if alarm.recv().await.is_none() {
                return;
            }
            continue;
        };
        select! {
            _ = context.sleep_until(super::state::wall(next)) => {},
            _ = alarm.recv() => {},
        }
    }
}

impl Script {
    pub(crate) fn new(context: Context, shared: Shared, plant: Option<&'static str>) -> Self {
        let (sender, alarm) = mpsc::unbounded_channel();
        let count = shared.with(|sim, _| {
            sim.net.alarm = Some(sender);
            sim.world.peers.len()
        });
        let agenda = shared.clone();
        let task = context.child("agenda");
        drop(task.spawn(move |context| keep_agenda(context, agenda, alarm)));
        Self {
            context,
            shared,
            plant,
            nodes: (0..count).map(|_| None).collect(),
            left: Vec::new(),
            index: 0,
        }
    }

    pub(crate) async fn run(mut self) {
        let late = self.shared.with(|sim, now| {
            let world = sim.world.clone();
            for (n, peer) in world.peers.iter().enumerate() {
                sim.line(now, "==", format_args!("{n}: {peer:?}"));
            }
            let peers = Vec::new();
            sim.line(now, "==", format_args!("{:?}", World { peers, ..world }));
            sim.world.late_peers
        });
        if !late {
            self.all_peers();
        }
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        self.safety().await;
        self.liveness().await;
        self.end().await;
        self.shared.with(|sim, now| {
            sim.net.alarm = None;
            let state = self.context.auditor().state();
            sim.line(now, "==", format_args!("{state}"));
        });
    }

    pub(super) fn failed(&self) -> bool {
        self.shared.with(|sim, now| {
            for run in 0..sim.runs.len() {
                sim.ask(now, run, |_, _| {});
            }
            !sim.failures.is_empty()
        })
    }

    pub(super) fn start(&mut self, node: usize) {
        let kind = self.shared.with(|sim, _| sim.world.peers[node].kind);
        if kind != Kind::Raw && self.nodes[node].is_none() {
            let started = Node::start(&self.context, &self.shared, node, self.plant);
            self.nodes[node] = Some(started);
        }
    }

    pub(super) fn stop(&mut self, node: usize, how: Stop) {
        if let Some(stopped) = self.nodes[node].take() {
            let left = stopped.stop(&self.shared, node, how);
            self.left.push(Box::new(left));
        }
    }

    /// Everybody is everybody's peer, oneself included where the engine knows that it is itself.
    pub(super) fn all_peers(&mut self) {
        self.index += 1;
        let index = self.index;
        let asks_itself = self.plant == Some("asks-itself");
        self.shared.with(|sim, now| {
            let all: BTreeSet<usize> = (0..sim.world.peers.len()).collect();
            for node in 0..all.len() {
                let mut set = all.clone();
                if !sim.world.peers[node].knows_itself && !asks_itself {
                    set.remove(&node);
                }
                sim.tell_peers(now, node, index, set);
            }
        });
    }

    // ---- safety ----

    async fn safety(&mut self) {
        let (begun, long) = self.shared.with(|sim, now| (now, sim.world.safety));
        loop {
            let gap = self.shared.with(|sim, now| {
                let (low, high) = sim.world.gap;
                (now < begun + long).then(|| sim.rng.range(low, high))
            });
            let Some(gap) = gap else { return };
            self.context.sleep(Duration::from_nanos(gap)).await;
            if self.failed() {
                return;
            }
            self.act();
        }
    }

    fn act(&mut self) {
        let (act, node) = self.shared.with(|sim, _| {
            let acts = sim.world.acts.clone();
            let weights = [
                (Act::Fetch, acts.fetch),
                (Act::Retain, acts.retain),
                (Act::Peers, acts.peers),
                (Act::Unblock, acts.unblock),
                (Act::Restart, acts.restart),
                (Act::Part, acts.part),
                (Act::Flood, acts.flood),
            ];
            let all: u32 = weights.iter().map(|(_, weight)| weight).sum();
            let mut drawn = sim.rng.range32(0, all - 1);
            let mut act = Act::Fetch;
            for (one, weight) in weights {
                if drawn < weight {
                    act = one;
                    break;
                }
                drawn -= weight;
            }
            (act, sim.rng.index(sim.world.peers.len()))
        });
        match act {
            Act::Fetch => self.fetch(node),
            Act::Retain => self.retain(node),
            Act::Peers => self.change_peers(node),
            Act::Unblock => self.unblock(node),
            Act::Restart => self.restart(node),
            Act::Part => self.shared.with(|sim, now| {
                let other = sim.rng.index(sim.world.peers.len());
                if !sim.net.parted.remove(&(node, other)) {
                    sim.net.parted.insert((node, other));
                    sim.coverage.hit("parted");
                }
                sim.line(
                    now,
                    "..",
                    format_args!("links {:?}", sim.net.parted.clone()),
                );
            }),
            Act::Flood => self.shared.with(|sim, now| {
                let from = sim.rng.index(sim.world.peers.len());
                if from != node {
                    sim.flood(now, from, node);
                }
            }),
        }
    }

    pub(super) fn fetch(&mut self, node: usize) {
        let Some(running) = &mut self.nodes[node] else {
            return;
        };
        let run = running.run;
        let widens = running.bend.is("widens-targets");
        let (mut wants, together) = self.shared.with(|sim, now| {
            let count = match sim.fault(sim.world.odds.batch) {
                true => sim.rng.range(2, 20),
                false => 1,
            };
            let mut wants: Vec<Want> = (0..count).map(|_| sim.draw_want()).collect();
            let together = sim.rng.permille(500);
            if together {
                // As the calls will be: those without targets first.
                wants.sort_by_key(|(.., targets)| targets.is_some());
            }
            for (key, sub, targets) in &wants {
                sim.line(
                    now,
                    "<<",
                    format_args!("{node} wants {key} for {sub} of {targets:?}"),
                );
                sim.ask(now, run, |run, _| {
                    run.fetch(now, *key, *sub, targets.as_deref())
                });
            }
            (wants, together)
        });
        if widens {
            wants.iter_mut().for_each(|(.., targets)| *targets = None);
        }
        running.mail.want(wants, together);
    }

    fn retain(&mut self, node: usize) {
        let Some(running) = &mut self.nodes[node] else {
            return;
        };
        let run = running.run;
        let (salt, share, by) = self.shared.with(|sim, now| {
            let salt = sim.rng.draw();
            let share = *sim.rng.pick(&[0, 300, 700, 950]);
            let by = sim.rng.range(0, 2);
            sim.line(
                now,
                "<<",
                format_args!("{node} keeps {share} of a thousand"),
            );
            sim.ask(now, run, |run, notes| {
                run.retain(now, |key, sub| keeps(salt, share, by, key, sub), notes);
            });
            (salt, share, by)
        });
        if !running.bend.is("deaf-to-retain") {
            running
                .mail
                .retain(move |key, sub| keeps(salt, share, by, key, sub));
        }
    }

    fn change_peers(&mut self, node: usize) {
        self.index += 1;
        let index = self.index;
        self.shared.with(|sim, now| {
            let count = sim.world.peers.len();
            let share = *sim.rng.pick(&[0, 400, 800, 1000]);
            let mut set: BTreeSet<usize> = (0..count).filter(|_| sim.rng.permille(share)).collect();
            if !sim.world.peers[node].knows_itself {
                set.remove(&node);
            }
            let stale = sim.rng.permille(200);
            sim.tell_peers(now, node, if stale { 0 } else { index }, set);
        });
    }

    fn unblock(&mut self, node: usize) {
        self.shared.with(|sim, now| {
            let grace = sim.world.grace();
            let blocked = sim.net.desks[node].blocked.iter();
            // What is taken back before it was heard might not be heard at all.
            let known: Vec<usize> = blocked
                .filter(|(_, since)| *since + 2 * grace < now)
                .map(|(peer, _)| *peer)
                .collect();
            if !known.is_empty() {
                let peer = *sim.rng.pick(&known);
                sim.net.desks[node].blocked.remove(&peer);
                sim.tell_blocks(now, node);
                sim.coverage.hit("unblocked");
            }
        });
    }

    fn restart(&mut self, node: usize) {
        if self.nodes[node].is_none() {
            return self.start(node);
        }
        let (how, again) = self.shared.with(|sim, _| {
            let all = [
                Stop::Abort,
                Stop::Abort,
                Stop::NetworkGone,
                Stop::MailboxDropped,
                Stop::PeersGone,
            ];
            (*sim.rng.pick(&all), sim.rng.permille(700))
        });
        self.stop(node, how);
        if again {
            self.start(node);
        }
    }
}

/// Whether a cancellation keeps a subscriber: by key, by subscriber, or by both.
fn keeps(salt: u64, share: u64, by: u64, key: u64, sub: u64) -> bool {
    let words = match by {
        0 => [salt, key, 0],
        1 => [salt, 0, sub],
        _ => [salt, key, sub],
    };
    mix(&words) % 1000 < share
}

impl Sim {
    fn draw_want(&mut self) -> Want {
        let key = self.rng.range(0, self.world.keys - 1);
        let sub = self.rng.range(0, self.world.subscribers - 1);
        let targeted = self.fault(self.world.odds.targeted);
        let targets = targeted.then(|| {
            let count = self.world.peers.len();
            let mut peers: Vec<usize> = (0..count).collect();
            self.rng.shuffle(&mut peers);
            peers.truncate(self.rng.range(1, 3) as usize);
            peers
        });
        (key, sub, targets)
    }
}
