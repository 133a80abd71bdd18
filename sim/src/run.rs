//! Runs seeds: catches what fails, compares runs of one seed, adds up what was reached.

use crate::{coverage::Coverage, driver::Sim, fairness};
use std::{
    cell::RefCell,
    ops::Range,
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

/// What this gives, or the words with which it panicked.
///
/// # Errors
///
/// The message of a panic, and where it happened if [`silence_panics`] has been called.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        LAST_PANIC
            .with(|last| last.borrow_mut().take())
            .unwrap_or_else(|| {
                payload
                    .downcast_ref::<String>()
                    .cloned()
                    .unwrap_or_else(|| "a panic without words".into())
            })
    })
}

/// Seeds as they are given on a command line: `A..B`, the last excluded.
///
/// # Errors
///
/// What was expected instead.
pub fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let bad = || format!("`{text}` is no range of seeds; say A..B, such as 0..300");
    let (first, last) = text.split_once("..").ok_or_else(bad)?;
    let range = first.parse().map_err(|_| bad())?..last.parse().map_err(|_| bad())?;
    if range.is_empty() {
        return Err(bad());
    }
    Ok(range)
}

/// Runs one seed, printing its trace where asked.
pub fn seed(seed: u64, print: bool) -> Report {
    let mut sim = Sim::new(seed, print);
    sim.trusting = !is_planted();
    let mut failure = caught(|| sim.run()).err();
    let mut digest = sim.trace.digest();
    let mut steps = sim.steps;
    let mut coverage = std::mem::take(&mut sim.ledger.coverage);
    if failure.is_none() && seed.is_multiple_of(4) {
        match caught(|| fairness::run(seed, &mut coverage)) {
            Ok(((hash, lines), more)) => {
                digest = (digest.0 ^ hash, digest.1 + lines);
                steps += more;
            }
            Err(why) => failure = Some(why),
        }
    }
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
