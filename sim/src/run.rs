//! Runs seeds: catches what fails, compares runs of one seed, adds up what was reached.

use crate::{coverage::Coverage, driver::Sim, fairness};
use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
};

thread_local! {
    /// Where and how the last panic of this thread happened.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What a seed came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Inputs and timeouts.
    pub steps: u64,
    /// Hash and length of the trace.
    pub digest: (u64, u64),
    /// States reached.
    pub coverage: Coverage,
    /// What went wrong, if anything did.
    pub failure: Option<String>,
}

/// Makes panics of this process silent; their message is kept for the report.
pub fn silence_panics() {
    panic::set_hook(Box::new(|info| {
        let message = info
            .payload()
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| info.payload().downcast_ref::<&str>().copied())
            .unwrap_or("a panic without words");
        let place = info
            .location()
            .map_or_else(String::new, |l| format!(" [{l}]"));
        let text = format!("{message}{place}");
        LAST_PANIC.with(|last| *last.borrow_mut() = Some(text));
    }));
}

/// Runs one seed, printing its trace where asked.
pub fn seed(seed: u64, print: bool) -> Report {
    let mut sim = Sim::new(seed, print);
    sim.trusting = !is_planted();
    let mut caught = panic::catch_unwind(AssertUnwindSafe(|| sim.run())).err();
    let mut digest = sim.trace.digest();
    let mut steps = sim.steps;
    let mut coverage = std::mem::take(&mut sim.ledger.coverage);
    if caught.is_none() && seed.is_multiple_of(4) {
        let fair = panic::catch_unwind(AssertUnwindSafe(|| fairness::run(seed, &mut coverage)));
        match fair {
            Ok(((hash, lines), more)) => {
                digest = (digest.0 ^ hash, digest.1 + lines);
                steps += more;
            }
            Err(panic) => caught = Some(panic),
        }
    }
    let failure = caught.map(|payload| {
        LAST_PANIC
            .with(|last| last.borrow_mut().take())
            .unwrap_or_else(|| {
                payload
                    .downcast_ref::<String>()
                    .cloned()
                    .unwrap_or_else(|| "a panic without words".into())
            })
    });
    Report {
        seed,
        steps,
        digest,
        coverage,
        failure,
    }
}

#[cfg(feature = "planted")]
fn is_planted() -> bool {
    gannet_engine::planted::ALL
        .iter()
        .any(|name| gannet_engine::planted::is(name))
}

#[cfg(not(feature = "planted"))]
const fn is_planted() -> bool {
    false
}

/// Runs a seed twice: the traces must be the same (I8).
pub fn twice(number: u64) -> Result<(), String> {
    let (first, second) = (seed(number, false), seed(number, false));
    if first.digest == second.digest && first.failure == second.failure {
        return Ok(());
    }
    Err(format!(
        "I8: two runs of seed {number} differ: {:?} and {:?}",
        first.digest, second.digest
    ))
}
