//! `gannet-commonware` in a simulation: nodes as they are, on commonware's deterministic runtime, over a
//! network that loses, delays, doubles and reorders, among stock nodes and peers that lie.
//!
//! # The rules
//!
//! Under the names that failures have; the numbers are the invariants of ARCHITECTURE.md.
//!
//! | rule | what it says |
//! |---|---|
//! | `once per request` | (I1) a subscriber is given a key only while it waits; what it accepts, or refuses to judge, ends that |
//! | `subscribers` | (I1) a delivery is for all who wait for the key, each once, in order |
//! | `one delivery` | (I1) one delivery of a key at a time |
//! | `delivered` | (I1) an answer in time is handed on at once; so are accepted bytes, to who came late |
//! | `one request` | (I1) one request per key under way; with a hedge as many as it may be wide, of different peers |
//! | `judged first` | nothing is asked for a key while an answer to it is being judged |
//! | `wanted` | nothing is asked for a key that nobody waits for |
//! | `deliveries stay open`, `deliveries close` | a delivery is cancelled when nobody waits any more, and only then |
//! | `true to the wire` | (I3) what is delivered was sent by the peer that was asked, to the id it was asked with, in time |
//! | `fresh ids` | no two requests of a node share an id, over all its restarts |
//! | `format` | what is sent is a message |
//! | `latest peers`, `blocked peers`, `targets`, `never itself` | (I5) who may be asked |
//! | `blocked` | one block for each answer that was found invalid, and none without |
//! | `quota`, `rest` | (I2) a peer at its quota, or that takes no request, is left alone until the time that was named |
//! | `retry delay` | (I2) after an attempt that failed, the next waits so long |
//! | `served`, `bounded` | every request of a peer is answered once, with what the producer gave; not too many at a time |
//! | `liveness` | (I6) once faults and quotas stop, what an honest peer has, who may be asked, arrives within two minutes (simulated; five seconds are usual) |
//! | `gauges`, `no tasks`, `stopped` | (I9) when nothing is wanted the gauges are zero; a stopped engine does nothing and leaves no task |
//! | `I8` | the same seed gives the same trace and the same runtime audit |
//!
//! Not held against it: when somebody appears, or a scope widens, what waits is asked for at once, whoever
//! is drawn; and the answer of a peer that left the set before it was blocked is still taken.
//!
//! Stock nodes are held to all but `delivered`, `quota`, `rest`, `retry delay` and `bounded`: that they
//! pass shows that the rules are the contract's and not ours.

mod account;
mod application;
mod asks;
mod calm;
mod host;
mod net;
mod node;
mod planted;
mod script;
mod state;
mod wants;
mod wire;
mod world;

use commonware_runtime::{
    Runner as _, Supervisor as _,
    deterministic::{Config, Runner},
};
use gannet_sim::subject::{Options, Report, Subject};
use state::{Shared, Sim};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The adapter for commonware.
pub const SUBJECT: Subject = Subject {
    name: "commonware",
    marks: MARKS,
    plants: planted::ALL,
    run,
};

/// States that a run over enough seeds has to reach.
const MARKS: &[&str] = &[
    "arrived at nobody",
    "at quota",
    "cancelled",
    "cancelled while judged",
    "delivered",
    "doubled",
    "handed on to a late subscriber",
    "hedged",
    "ignored",
    "late subscriber",
    "lied",
    "lost",
    "malformed",
    "no data",
    "no verdict",
    "not enough",
    "not taken",
    "parted",
    "refused to serve",
    "served",
    "stale peer set",
    "stopped",
    "too late",
    "unblocked",
    "unsolicited",
];

fn run(seed: u64, options: &Options) -> Report {
    let world = world::World::draw(seed);
    let config = Config::default()
        .with_seed(seed)
        .with_cycle(Duration::from_nanos(world.cycle))
        .with_timeout(Some(Duration::from_secs(3600)));
    let sim = Arc::new(Mutex::new(Sim::new(world, options.print)));
    let plant = options.plant;
    let inside = sim.clone();
    let panic = gannet_sim::run::caught(move || {
        Runner::new(config).start(|context| async move {
            let shared = Shared::new(inside, context.child("clock"));
            script::Script::new(context, shared, plant).run().await;
        });
    });
    let mut sim = sim.lock().unwrap_or_else(PoisonError::into_inner);
    let mut failure = panic.err().map(|why| format!("panic: {why}"));
    if !sim.failures.is_empty() {
        failure = Some(sim.failures.join("\n"));
    }
    Report {
        seed,
        steps: sim.steps,
        digest: sim.trace.digest(),
        coverage: std::mem::take(&mut sim.coverage),
        failure,
    }
}
