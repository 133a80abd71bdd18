//! The application around an engine: a consumer that judges what is delivered, and a producer that serves
//! what the node holds; both tell the oracle, and behave as the seed says.

use super::{
    host::Place,
    net::Event,
    state::Sim,
    world::{self, MS},
};
use bytes::Bytes;
use commonware_resolver::{Consumer, Delivery, Outcome, Resolution, p2p::Producer};
use commonware_utils::channel::oneshot;

/// Judges what is delivered: by the truth, but for the odds of the seed.
#[derive(Clone, Debug)]
pub(crate) struct Judge(pub(crate) Place);

impl Consumer for Judge {
    type Key = u64;
    type Value = Bytes;
    type Subscriber = u64;
    type Outcome = Outcome;

    fn deliver(
        &mut self,
        delivery: Delivery<u64, u64>,
        value: Bytes,
    ) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        let key = delivery.key;
        let subs = delivery.subscribers.into_vec();
        let subs: Vec<u64> = subs.into_iter().map(|(sub, _)| sub).collect();
        let Place { shared, node, run } = &self.0;
        shared.with(|sim, now| {
            sim.line(
                now,
                "=>",
                format_args!("{node} {key} for {subs:?}: {value:?}"),
            );
            let number = sim.ask(now, *run, |run, notes| {
                run.deliver(now, key, &subs, &value, notes)
            });
            sim.coverage.hit("delivered");
            let outcome = sim.think(key, &subs, &value);
            let (low, high) = sim.world.thinking;
            let wait = match sim.calm {
                true => sim.rng.range(0, 5 * MS),
                false => sim.rng.range(low, high),
            };
            if sim.rng.permille(200) {
                return sim.judge(now, *run, number, outcome, sender);
            }
            let event = Event::Judge {
                delivery: number,
                run: *run,
                outcome,
                sender,
            };
            sim.net.at(now + wait, event);
        });
        receiver
    }
}

impl Sim {
    /// What a consumer makes of a delivery.
    fn think(&mut self, key: u64, subs: &[u64], value: &[u8]) -> Option<Outcome> {
        let odds = self.world.odds.clone();
        if self.fault(odds.dropped) {
            return None;
        }
        if self.fault(odds.ignored) {
            return Some(Outcome::Ignored);
        }
        if value != world::value(key) || self.fault(odds.wrongly_invalid) {
            return Some(Outcome::Invalid);
        }
        if self.fault(odds.unresolved) {
            return Some(Outcome::Unresolved);
        }
        if subs.len() > 1 && self.fault(odds.partial) {
            return Some(Outcome::Resolved(Resolution::Partial));
        }
        Some(Outcome::Resolved(Resolution::Complete))
    }

    /// A consumer says what it has made of a delivery.
    pub(crate) fn judge(
        &mut self,
        now: u64,
        run: usize,
        delivery: usize,
        outcome: Option<Outcome>,
        sender: oneshot::Sender<Outcome>,
    ) {
        let node = self.runs[run].node;
        let key = self.runs[run].deliveries[delivery].key;
        let closed = sender.is_closed();
        self.line(
            now,
            "=|",
            format_args!("{node} {key} {outcome:?} closed {closed}"),
        );
        self.ask(now, run, |run, notes| {
            run.verdict(now, delivery, outcome, closed, notes);
        });
        match outcome {
            // It may have stopped listening.
            Some(outcome) => drop(sender.send(outcome)),
            None => self.coverage.hit("no verdict"),
        }
    }
}

/// Serves what the node holds.
#[derive(Clone, Debug)]
pub(crate) struct Holder(pub(crate) Place);

impl Producer for Holder {
    type Key = u64;

    fn produce(&mut self, key: u64) -> oneshot::Receiver<Bytes> {
        let (sender, receiver) = oneshot::channel();
        let Place { shared, node, run } = &self.0;
        shared.with(|sim, now| {
            let Some(serve) = sim.ask(now, *run, |run, notes| run.produces(key, notes)) else {
                return;
            };
            let lies = sim.world.peers[*node].lies;
            let bytes = (sim.world.holds(*node, key) && key < sim.world.keys)
                .then(|| Bytes::from(world::value(key + u64::from(lies))));
            let odds = sim.world.odds.clone();
            let bytes = bytes.filter(|_| !sim.fault(odds.produce_none));
            let wait = match sim.fault(odds.produce_late) {
                true => sim.rng.range(0, 900 * MS),
                false => 0,
            };
            let never = sim.fault(odds.produce_never);
            let event = Event::Produce {
                run: *run,
                serve,
                bytes,
                sender,
            };
            match never {
                true => sim.net.never.push(event),
                false => sim.net.at(now + wait, event),
            }
        });
        receiver
    }
}

impl Sim {
    /// A producer is done with a request of a peer.
    pub(crate) fn produced(
        &mut self,
        now: u64,
        run: usize,
        serve: u64,
        bytes: Option<Bytes>,
        sender: oneshot::Sender<Bytes>,
    ) {
        self.ask(now, run, |run, _| {
            run.produced(now, serve, bytes.as_deref())
        });
        if let Some(bytes) = bytes {
            // Nobody listens if the engine has stopped.
            let _ = sender.send(bytes);
        }
    }
}
