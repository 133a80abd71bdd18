//! Several caches that know each other, beside caches that do not.

mod churn;
mod death;
mod group;
mod joiner;
mod size;
mod stampede;
mod store;

use crate::{peers::Run, report::Section};

/// What is read of the same origin by all.
const MIB: u64 = 1 << 20;

pub(crate) async fn run(run: &Run) -> Section {
    let mut section = Section::new(
        "cluster",
        "Members are processes on this machine, with disk and memory of their own, and a secret that they\n\
         share; clients, origin and all members take turns on the same cores, so that more members make\n\
         nothing faster here: what counts is what the origin sends, what it costs, and who waits. \"x3\" are\n\
         three caches that do not know each other; clients are spread over all. Every client compares every\n\
         byte.",
    );
    stampede::run(run, &mut section).await;
    store::run(run, &mut section).await;
    size::run(run, &mut section).await;
    joiner::run(run, &mut section).await;
    death::run(run, &mut section).await;
    churn::run(run, &mut section).await;
    section
}
