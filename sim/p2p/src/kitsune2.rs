//! `gannet-kitsune2` in a simulation: modules as they are, on tokio with one thread and a paused clock,
//! over a network that refuses, loses, delays, doubles and reorders, among stock nodes and peers that lie.
//!
//! # The rules
//!
//! Under the names that failures have; the numbers are the invariants of ARCHITECTURE.md.
//!
//! | rule | what it says |
//! |---|---|
//! | `kept` | (I1) what was offered stays in the summary until it is stored, its peer fails, or patience ends |
//! | `cleared` | (I1) an op that is stored is not wanted of anybody any more |
//! | `dropped` | a peer that could not be sent to, or is unresponsive, is not asked, and nothing is wanted of it any more |
//! | `wanted` | (I5) a peer is asked only for what it was said to offer, and what is not done with |
//! | `not held` | nothing is asked for that the store held when it was offered, or that was stored since |
//! | `one request` | (I1) without a hedge, one peer at a time is asked for an op |
//! | `one at a time` | (I2) one request at a time is being sent to a peer |
//! | `patience` | (I2) without news of an op, the same peer is asked again after the back-off, and not more often than is set |
//! | `batch` | (I2) a request names each op once, and keeps to its bounds by count and by bytes |
//! | `bounded` | (I2) what is pending, in flight, held, being stored and being served keeps to its bounds |
//! | `true to the wire` | (I3) what the store is given came, as often as it is given |
//! | `unsolicited` | (I5) where that is refused, what the store is given came from a peer that offers it |
//! | `handed on` | (I1) what came and is wanted is given to the store, or counted as dropped |
//! | `metadata` | what was said of an op reaches the store with it, the first that was said by the peer that sends it |
//! | `reported` | (I4) each op that the store took is reported once, with its size and a peer that sent it |
//! | `served` | what a peer asked for and the store holds is sent to it, as often as it asked at most, in pieces of the size that is set |
//! | `drained` | who waits for it is told when nothing is pending, and not before |
//! | `format` | what is sent is a message; messages are taken, and what is none is refused |
//! | `liveness` | (I6) once faults stop, what an honest peer offers and holds arrives: within the longest back-off, and at once if it is new |
//! | `alive` | whatever came, requests are answered at the end |
//! | `gauges`, `stopped` | (I9) in the end nothing is pending and the gauges are zero; a module that is dropped leaves nothing |
//! | `I8` | the same seed gives the same trace |
//!
//! Not held against it: whatever follows from news of an op within the millisecond in which they come; that
//! a peer which answers nothing loses all that is wanted of it with the first op whose patience ends; and
//! that an op has not arrived where there was no room for the request for it, or for its answer.

mod account;
mod asks;
mod calm;
mod net;
mod node;
mod planted;
mod ports;
mod script;
mod serving;
mod state;
mod stores;
mod wire;
mod world;

use gannet_sim::subject::{Options, Report, Subject};
use state::{Shared, Sim};
use std::sync::{Arc, Mutex, PoisonError};

/// The adapter for Kitsune2.
pub const SUBJECT: Subject = Subject {
    name: "kitsune2",
    marks: MARKS,
    plants: planted::ALL,
    run,
};

/// States that a run over enough seeds has to reach.
const MARKS: &[&str] = &[
    "arrived at nobody",
    "asked again",
    "asked for what is not held",
    "could not be sent",
    "could not be served",
    "disconnected",
    "doubled",
    "drained",
    "dropped for want of room",
    "flooded",
    "fresh",
    "given up",
    "hedged",
    "hung",
    "late",
    "lied",
    "lost",
    "malformed",
    "metadata",
    "not taken",
    "parted",
    "refused by the store",
    "repeated",
    "request dropped",
    "served",
    "stopped",
    "stored",
    "the store failed",
    "unresponsive",
    "unsolicited",
];

fn run(seed: u64, options: &Options) -> Report {
    let world = world::World::draw(seed);
    let sim = Arc::new(Mutex::new(Sim::new(world, options.print)));
    let (plant, inside) = (options.plant, sim.clone());
    let panic = gannet_sim::run::caught(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime that needs nothing of its system");
        runtime.block_on(async move {
            let shared = Shared::new(inside);
            script::Script::new(shared.clone(), plant).run().await;
            let tasks = tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks();
            if tasks > 0 {
                shared.with(|sim, now| {
                    sim.fail(now, 0, "stopped", format_args!("{tasks} tasks are left"))
                });
            }
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
