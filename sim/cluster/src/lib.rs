//! Deterministic simulation of a cluster of caches, in simulated time.
//!
//! Under faults ([`sim`]): members are two real engines each, a real `Desk`, real `Errand`s and a little
//! glue ([`member`]); links lose, double, spoil and delay, members die, stand still and come back, lists
//! of members differ, the origin fails ([`world`]). The [`account`] names what the oracle demands. At
//! scale ([`scale`]): 1,500 members on one cold object, with the real `Spread`, `Desk` and `Errand` and a
//! lighter model of attempts.
//!
//! Guarantees: the same seed gives the same run. Not for timing anything that is not simulated.

pub mod account;
mod asking;
pub mod fetcher;
pub mod member;
pub mod scale;
pub mod serving;
pub mod sim;
pub mod time;
pub mod trip;
pub mod wire;
pub mod world;

use gannet_sim::subject::{Coverage, Options, Report, Subject};
use sim::Sim;

/// The cluster protocol under faults.
pub const SUBJECT: Subject = Subject {
    name: "cluster",
    marks: &[
        "hit",
        "view changed",
        "hedged",
        "referred",
        "not here",
        "not coordinator",
        "holder served",
        "leaver kept",
        "leaver lost",
        "relayed while receiving",
        "stood in",
        "own home",
        "beat",
        "beat passed on",
        "silent relay",
        "silent holder",
        "named a failed relay",
        "frames out of order",
        "spoilt frame",
        "read again",
    ],
    plants: &[
        ("receiving-served-as-coordinator", "waits"),
        ("failed-relays-not-heard", "once|stall|asks"),
        ("failed-relays-never-named", "once|stall|asks"),
        ("spread-bound-forgotten", "spread"),
        ("relay-begins", "begins"),
        ("stand-in-asked-as-coordinator", "once|asks"),
        ("final-words-not-final", "asks|words"),
        ("beats-not-passed-on", "spread|asks|once"),
        ("beats-not-heard", "asks|once"),
        ("beats-forgotten", "asks|once"),
        ("patience-without-end", "stands in|stall|asks"),
        ("order-of-frames-not-checked", "right"),
    ],
    run,
};

fn run(seed: u64, options: &Options) -> Report {
    let mut sim = Sim::new(seed, options.plant, options.print);
    let panicked = gannet_sim::run::caught(|| sim.run()).err();
    let mut violations = panicked.into_iter().collect::<Vec<_>>();
    violations.append(&mut sim.account.violations);
    let mut coverage = Coverage::default();
    for (mark, count) in &sim.account.marks {
        for _ in 0..*count {
            coverage.hit(mark);
        }
    }
    for (what, value) in &sim.account.most {
        coverage.most(what, *value);
    }
    Report {
        seed,
        steps: sim.steps,
        digest: sim.trace.digest(),
        coverage,
        failure: (!violations.is_empty()).then(|| violations.join("\n")),
    }
}
