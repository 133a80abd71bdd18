//! Filling a gap against fetching one by one, of real homeservers, and what verifying costs beside
//! `ruma`'s `verify_event` alone: `cargo run --release -p gannet-bench-matrix`. With `--quick` it only shows
//! that it runs; otherwise it puts what it measured into its section of `bench/RESULTS.md`.

mod fetch;
mod lab;
#[path = "../../src/report.rs"]
#[expect(
    dead_code,
    reason = "shared with the other benches, which use more of it"
)]
mod report;
mod verify;

use lab::Lab;
use report::Section;
use std::{process::ExitCode, time::Duration};

/// Where the tables are kept.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../RESULTS.md");

const INTRO: &str = "\
A room of version 10 with 510 events, 303 of which entitle one of them, that an empty store gets back\n\
from one Synapse, every event verified: by `fill`; and as a homeserver does it that asks for whatever\n\
an event names, event by event, one or eight at a time. A new service for each run; the keys of\n\
servers are fetched in each. CPU is that of this process, and of the homeserver. Then the same events\n\
from memory: from bytes to proof, beside `verify_event` of `ruma` on events that were parsed\n\
beforehand, which computes no ids.";

/// CPU time of this process.
pub(crate) fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

fn main() -> ExitCode {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let repeats = if quick { 1 } else { 5 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let mut section = Section::new("matrix", INTRO);
    let lab = runtime.block_on(Lab::start(if quick { 330 } else { 510 }));
    let events = runtime.block_on(fetch::measure(&lab, repeats, &mut section));
    verify::measure(&lab, &events, if quick { 1 } else { 15 }, &mut section);
    let how = format!(
        "Synapse {}. Runs of each way to fetch: {repeats}, in turns, the median counts; of verifying, the \
         least of 15.",
        lab.synapse_version()
    );
    match section.finish(quick, &how) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
