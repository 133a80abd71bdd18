//! The network between the peers: sends are refused or hang, messages are lost, doubled, delayed and
//! overtaken as the seed says, and peers without a module answer as their moods are.

use super::{
    ports::Port,
    state::{Shared, Sim},
    wire::{self, Message, SPACE},
    world::{Kind, Mood},
};
use bytes::Bytes;

impl Sim {
    /// A module sends. For how long, and whether it succeeds.
    pub(crate) fn send(
        &mut self,
        now: u64,
        port: &Port,
        to: usize,
        message: Option<Message>,
    ) -> (u64, bool) {
        let node = port.node;
        let what = match &message {
            Some(Message::Request(ids)) => format!("asks for {}", self.ops(ids)),
            Some(Message::Response(ops)) => {
                format!("answers {}", self.ops(ops.iter().map(|(id, _)| id)))
            }
            None => "sends no message".into(),
        };
        self.line(now, "->", format_args!("{node}>{to} {what}"));
        if let Some(run) = port.run {
            match message {
                Some(Message::Request(ids)) => self.asked(now, run, to, &ids),
                Some(Message::Response(ops)) => self.answered(now, run, to, &ops),
                None => self.fail(
                    now,
                    run,
                    "format",
                    format_args!("what is sent is no message"),
                ),
            }
        }
        let odds = self.world.odds.clone();
        if self.fault(odds.hang) {
            self.coverage.hit("hung");
            let wait = self.rng.range(1_000, 90_000);
            let out = self.rng.permille(500);
            return (wait, out);
        }
        let parted = self.parted.contains(&(node, to)) && self.rng.permille(300);
        (self.delay(20), !parted && !self.fault(odds.refuse))
    }

    /// When a message arrives: once, twice, or not at all.
    pub(crate) fn trips(&mut self, now: u64, from: usize, to: usize) -> Vec<u64> {
        let odds = self.world.odds.clone();
        if self.parted.contains(&(from, to)) || self.fault(odds.loss) {
            self.line(now, "xx", format_args!("{from}>{to}"));
            self.coverage.hit("lost");
            return Vec::new();
        }
        let mut trips = vec![self.delay(odds.latency)];
        if self.fault(odds.duplicate) {
            self.coverage.hit("doubled");
            trips.push(self.delay(odds.latency));
        }
        trips
    }

    /// What a peer without a module answers to a request, and how much later.
    fn moody(&mut self, me: usize, from: usize, ids: &[Bytes]) -> Vec<(u64, Bytes)> {
        let moods = &self.world.peers[me].moods;
        let mood = moods[self.rng.index(moods.len())];
        let held = &self.desks[me].held;
        let honest = ids
            .iter()
            .filter_map(|id| Some((id.clone(), held.get(id)?.clone())));
        let mut honest: Vec<(Bytes, Bytes)> = honest.collect();
        let whole = |ops: Vec<(Bytes, Bytes)>| match ops.is_empty() {
            true => Vec::new(),
            false => vec![(0, Message::Response(ops).encode())],
        };
        match mood {
            Mood::Honest => whole(honest),
            Mood::Lie => {
                self.coverage.hit("lied");
                let lie = Bytes::from_static(b"a lie");
                whole(ids.iter().map(|id| (id.clone(), lie.clone())).collect())
            }
            Mood::Garbage => vec![(0, self.garbage())],
            Mood::Silent => Vec::new(),
            Mood::Late => {
                let timeout = u64::from(self.world.peers[from].config.answer_timeout_ms);
                let late = self.rng.range(timeout / 2, timeout * 2);
                whole(honest)
                    .into_iter()
                    .map(|(_, bytes)| (late, bytes))
                    .collect()
            }
            Mood::Twice => [whole(honest.clone()), whole(honest)].concat(),
            Mood::Partly => {
                self.rng.shuffle(&mut honest);
                honest.truncate(honest.len().div_ceil(2));
                honest.into_iter().flat_map(|op| whole(vec![op])).collect()
            }
            Mood::More => {
                let others: Vec<_> = self.desks[me].held.clone().into_iter().collect();
                if let Some(first) = others.first() {
                    honest.push(first.clone());
                    honest.push(self.rng.pick(&others).clone());
                }
                whole(honest)
            }
        }
    }

    /// Bytes that are no message, or hardly.
    pub(crate) fn garbage(&mut self) -> Bytes {
        match self.rng.range(0, 3) {
            0 => (0..self.rng.range(0, 40))
                .map(|_| self.rng.draw() as u8)
                .collect(),
            1 => wire::unknown_type(self.rng.range32(3, 9) as i32),
            2 => Message::Response(Vec::new()).encode(),
            _ => {
                let n = self.rng.index(self.world.known);
                let bytes = Message::Response(vec![self.world.ops[n].clone()]).encode();
                bytes.slice(..bytes.len() / 2)
            }
        }
    }
}

impl Shared {
    /// A peer without a module sends.
    pub(crate) fn raw_send(&self, from: usize, to: usize, bytes: Bytes, after: u64) {
        let trips = self.with(|sim, now| sim.trips(now, from, to));
        let trips = trips.into_iter().map(|trip| trip + after).collect();
        self.travel((from, to), bytes, trips);
    }

    /// A message arrives.
    pub(crate) fn arrive(&self, from: usize, to: usize, bytes: Bytes) {
        let message = Message::decode(&bytes);
        let (kind, handler, run) = self.with(|sim, _| {
            let desk = &sim.desks[to];
            (sim.world.peers[to].kind, desk.handler.clone(), desk.run)
        });
        if kind == Kind::Raw {
            let Some(Message::Request(ids)) = message else {
                return;
            };
            let answers = self.with(|sim, _| sim.moody(to, from, &ids));
            for (after, bytes) in answers {
                self.raw_send(to, from, bytes, after);
            }
            return;
        }
        let Some(handler) = handler else {
            return self.with(|sim, _| sim.coverage.hit("arrived at nobody"));
        };
        let before = run.and_then(|run| self.stats(run));
        let size = bytes.len();
        let result = handler.recv_module_msg(wire::url(from), SPACE, "Fetch".into(), bytes);
        let after = run.and_then(|run| self.stats(run));
        let closes = result.is_err();
        self.with(|sim, now| {
            let what = match &message {
                Some(Message::Response(ops)) => {
                    format!(", with {}", sim.ops(ops.iter().map(|(id, _)| id)))
                }
                _ => String::new(),
            };
            let well = !closes;
            sim.line(
                now,
                "<-",
                format_args!("{from}>{to} {size} bytes, well {well}{what}"),
            );
            let (Some(run), Some(before), Some(after)) = (run, before, after) else {
                return;
            };
            if message.is_some() == closes {
                sim.fail(
                    now,
                    run,
                    "format",
                    format_args!("a message of peer {from}: {result:?}"),
                );
            }
            match &message {
                Some(Message::Request(ids)) => {
                    sim.requested(now, (run, from, size), ids, (&before, &after));
                }
                Some(Message::Response(ops)) => {
                    sim.delivered(now, (run, from, size), ops, (&before, &after));
                }
                None => sim.coverage.hit("malformed"),
            }
        });
        if closes {
            // The transport closes a connection that brings what the module does not understand.
            self.disconnect(to, from);
        }
    }

    /// A connection is gone; each end is told, perhaps.
    pub(crate) fn disconnect(&self, one: usize, other: usize) {
        for (node, peer) in [(one, other), (other, one)] {
            let told = self.with(|sim, now| {
                let desk = &sim.desks[node];
                let (handler, run, told) = (desk.handler.clone(), desk.run, sim.world.odds.told);
                let handler = handler.filter(|_| sim.rng.permille(told));
                if handler.is_some() {
                    sim.line(now, "~~", format_args!("{node} lost {peer}"));
                }
                if let (Some(_), Some(run)) = (&handler, run) {
                    sim.disconnected(now, run, peer);
                }
                handler
            });
            if let Some(handler) = told {
                handler.peer_disconnect(wire::url(peer), None);
            }
        }
    }
}
