//! `gannet-matrix` in a simulation: the front end as it is, on tokio with one thread and a paused clock, with a
//! courier to made-up servers that are slow, silent, drip, gush, break off, turn away and lie, a source of keys
//! that fails for a while, and a store that fails, forgets and garbles.
//!
//! What is asked for is real: rooms of five versions, with events that are hashed and signed. So the oracle knows the
//! truth of each byte that is handed out.
//!
//! # The rules
//!
//! Under the names that failures have; the numbers are the invariants of ARCHITECTURE.md.
//!
//! | rule | what it says |
//! |---|---|
//! | `one request` | (I1) callers on the same terms have one request at a server for the same at a time |
//! | `shared` | (I1) callers that share a fetch get the same bytes, not copies |
//! | `width` | (I2) without a hedge, as many servers are asked at once as the fan-out says |
//! | `bounded` | (I2) requests at a server, and in all, keep to the ceilings |
//! | `attempts` | (I2) a caller by itself makes no more requests than its terms allow, and asks nobody more often |
//! | `proof` | (I3) no event is handed out of which less was proved than is demanded, or is said; the truth is known |
//! | `true` | (I3) what is handed out came from the server that is named, or was stored |
//! | `refused` | (I3) who refuses answers with bad events, or without any, gets none |
//! | `complete` | (I3) all good events of an answer that is taken are handed out |
//! | `named` | (I3) so many bad events are named as there were |
//! | `version` | the room's version is the true one |
//! | `stored` | (I4) what is stored was proved, and lies where it belongs |
//! | `asked` | (I5) nobody asks ourselves, whom the operator or all its callers deny, or who is none of their candidates |
//! | `denied` | (I5) no caller gets the answer of a server that it would not ask |
//! | `busy` | (I5) a server that asked to be left alone is |
//! | `told` | what callers are told of requests is what became of them, and so is the kind of an error |
//! | `hidden` | a caller by itself is told of each request that was made for it |
//! | `counted` | no request is counted twice |
//! | `patience` | (I6) nobody waits longer than it said |
//! | `liveness` | (I6) what an honest server in reach holds is had, if the terms suffice to get to it; once faults stop, anything |
//! | `hedged` | (I6) a caller by itself waits for silent servers no longer than its hedging delay before it asks another |
//! | `fill` | what a fill brings back are events of the room, each once, as they are; all of them, if it says so |
//! | `fill bound` | (I2) a fill makes no more requests than it may |
//! | `resumed` | what a fill has stored is not asked for again |
//! | `left` | (I9) with nobody waiting nothing is under way; after a shutdown no task is left |
//! | `I8` | the same seed gives the same trace |
//!
//! The processor's work is done in the tasks that want it, not on threads beside them: nobody decides when a thread is
//! done. Callers that want the same on different terms meet in ways that are theirs to choose; of these, only what holds
//! for each alone is checked.

mod answers;
mod oracle;
mod planted;
mod ports;
mod rooms;
mod script;
mod state;
mod world;

use gannet_sim::subject::{Options, Report, Subject};
use state::{Shared, Sim};
use std::sync::{Arc, Mutex, PoisonError};

/// The fetcher of federation events.
pub const SUBJECT: Subject = Subject {
    name: "matrix",
    marks: MARKS,
    plants: planted::ALL,
    run,
};

/// States that a run over enough seeds has to reach.
const MARKS: &[&str] = &[
    "answered",
    "auth_chain",
    "auth_event",
    "backfill",
    "closed",
    "event",
    "exhausted",
    "expired",
    "fill",
    "fill cut off",
    "fill ended by a bound",
    "filled",
    "from the store",
    "left",
    "lost",
    "missing",
    "missing_events",
    "no key",
    "no servers",
    "nobody has more",
    "resumed",
    "salvaged",
    "shared",
    "shut down",
    "state_ids",
    "stored",
    "the store failed",
    "the store hung",
    "timestamp_to_event",
    "unverified",
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
                shared
                    .with(|sim, now| sim.fail(now, "left", format_args!("{tasks} tasks are left")));
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
