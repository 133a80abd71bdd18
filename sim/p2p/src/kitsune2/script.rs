//! What happens in a run: first anything, as the seed says; then faults stop.

use super::{
    node::Node,
    state::{Shared, pause},
    wire::{Message, url},
    world::Kind,
};
use bytes::Bytes;

/// The hosts of all nodes, and everything else that has a will of its own.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) shared: Shared,
    plant: Option<&'static str>,
    pub(crate) nodes: Vec<Option<Node>>,
}

impl Script {
    pub(crate) fn new(shared: Shared, plant: Option<&'static str>) -> Self {
        let count = shared.with(|sim, _| sim.world.peers.len());
        Self {
            shared,
            plant,
            nodes: (0..count).map(|_| None).collect(),
        }
    }

    /// Any number up to this.
    pub(crate) fn draw(&self, most: u64) -> u64 {
        self.shared.with(|sim, _| sim.rng.range(0, most))
    }

    fn chance(&self, permille: u32) -> bool {
        self.shared.with(|sim, _| sim.rng.permille(permille))
    }

    fn pick(&self, of: &[usize]) -> usize {
        self.shared.with(|sim, _| *sim.rng.pick(of))
    }

    fn peer_but(&self, node: usize) -> usize {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|n| *n != node).collect();
        self.pick(&others)
    }

    pub(crate) async fn run(mut self) {
        for node in 0..self.nodes.len() {
            self.start(node).await;
        }
        let steps = self.shared.with(|sim, _| sim.world.steps);
        for _ in 0..steps {
            self.step().await;
            self.check().await;
        }
        self.calm().await;
    }

    pub(crate) async fn check(&self) {
        for node in self.nodes.iter().flatten() {
            node.check().await;
        }
    }

    pub(crate) async fn start(&mut self, node: usize) {
        let raw = self
            .shared
            .with(|sim, _| sim.world.peers[node].kind == Kind::Raw);
        if !raw && self.nodes[node].is_none() {
            self.nodes[node] = Some(Node::start(&self.shared, node, self.plant).await);
        }
    }

    async fn stop(&mut self, node: usize) {
        if let Some(node) = self.nodes[node].take() {
            node.stop().await;
        }
    }

    async fn step(&mut self) {
        let (ours, stock, raw) = self.shared.with(|sim, _| {
            let all = |kind| sim.world.all(kind);
            (all(Kind::Ours), all(Kind::Stock), all(Kind::Raw))
        });
        let node = self.pick(&ours);
        match self.draw(99) {
            0..45 => self.offer(node),
            45..50 if !stock.is_empty() => self.offer(self.pick(&stock)),
            50..60 => self.ask(self.pick(&raw), node),
            60..66 => self.push(self.pick(&raw), node),
            66..69 => self.flood(self.pick(&raw), node),
            69..76 => {
                let (one, other) = (node, self.peer_but(node));
                let part = self.chance(500);
                self.shared.with(|sim, now| {
                    sim.line(now, "||", format_args!("{one} and {other} parted: {part}"));
                    if part {
                        sim.parted.extend([(one, other), (other, one)]);
                        sim.coverage.hit("parted");
                    } else {
                        sim.parted.clear();
                    }
                });
                if part {
                    self.shared.disconnect(one, other);
                }
            }
            76..80 => self.shared.disconnect(node, self.peer_but(node)),
            80..84 => {
                self.stop(node).await;
                if self.chance(500) {
                    pause(self.draw(3_000)).await;
                }
                self.start(node).await;
            }
            84..92 => {
                if let Some(node) = &mut self.nodes[node] {
                    node.wait_for_drained();
                }
            }
            92..95 => self.shared.with(|sim, now| {
                // The host makes, or gets, an op without the module.
                let (n, peer) = (
                    sim.rng.index(sim.world.known),
                    sim.rng.index(sim.desks.len()),
                );
                let (id, data) = sim.world.ops[n].clone();
                sim.line(now, "**", format_args!("{peer} gets op {n}"));
                sim.desks[peer].held.insert(id, data);
            }),
            _ => {}
        }
        let wait = match self.draw(9) {
            0..3 => 0,
            3..7 => self.draw(300),
            7..9 => self.draw(4_000),
            _ => self.draw(60_000),
        };
        pause(wait).await;
    }

    /// A peer offers ops, of which it holds most.
    fn offer(&mut self, node: usize) {
        let peer = self.peer_but(node);
        let ops = self.shared.with(|sim, _| {
            let count = if sim.rng.permille(300) { 40 } else { 6 };
            let count = sim.rng.range(1, count);
            let held: Vec<Bytes> = sim.desks[peer].held.keys().cloned().collect();
            let mut ops = Vec::new();
            for _ in 0..count {
                let known = sim.rng.index(sim.world.known);
                let id = match !held.is_empty() && sim.rng.permille(700) {
                    true => sim.rng.pick(&held).clone(),
                    false => sim.world.ops[known].0.clone(),
                };
                let said = sim.rng.permille(400);
                let metadata = said.then(|| Bytes::from(format!("said {}", sim.rng.range(0, 5))));
                ops.push((id, metadata));
            }
            ops
        });
        if let Some(node) = &mut self.nodes[node] {
            node.request(peer, ops);
        }
    }

    /// A peer without a module asks for ops.
    fn ask(&self, from: usize, to: usize) {
        let ids = self.shared.with(|sim, _| {
            let count = sim.rng.range(0, 30);
            let known = sim.world.known;
            let ids = (0..count).map(|_| sim.world.ops[sim.rng.index(known)].0.clone());
            ids.collect()
        });
        self.shared
            .raw_send(from, to, Message::Request(ids).encode(), 0);
    }

    /// A peer without a module sends ops that nobody asked for, or what is no message.
    fn push(&self, from: usize, to: usize) {
        let bytes = self.shared.with(|sim, _| {
            if sim.rng.permille(400) {
                return sim.garbage();
            }
            let (count, known) = (sim.rng.range(1, 8), sim.world.known);
            let ops = (0..count).map(|_| sim.world.ops[sim.rng.index(known)].clone());
            Message::Response(ops.collect()).encode()
        });
        self.shared.raw_send(from, to, bytes, 0);
    }

    fn flood(&self, from: usize, to: usize) {
        for _ in 0..self.draw(60) {
            match self.draw(2) {
                0 => self.ask(from, to),
                _ => self.push(from, to),
            }
        }
        self.shared.with(|sim, now| {
            sim.line(now, "##", format_args!("{from} floods {}", url(to)));
            sim.coverage.hit("flooded");
        });
    }
}
