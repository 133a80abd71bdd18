//! The resolver of commonware: the stock engine and ours.

mod network;
mod null;
mod scene;

use crate::report::{Section, number};
use scene::Scene;
pub(crate) use scene::{Kind, plain};
use stats_alloc::StatsAlloc;
use std::alloc::System;

/// What a waiting key may hold, in bytes.
const BYTES_MAX: f64 = 500.0;
/// By how much ours is to be cheaper than stock on the plain path, and how much dearer at most where
/// keys are stuck or peers at their quotas than with as many peers on the plain path.
const FACTOR: f64 = 2.0;

/// The least of several runs of each kind, in turns: what disturbs a run only adds to it.
pub(crate) fn least(scene: &Scene, runs: usize) -> [f64; 3] {
    let mut least = [f64::INFINITY; 3];
    for _ in 0..runs {
        for (least, kind) in least.iter_mut().zip([Kind::Null, Kind::Stock, Kind::Ours]) {
            *least = least.min(scene.cpu_us_a_key(kind));
        }
    }
    least
}

pub(crate) fn run(quick: bool, repeats: usize, allocator: &StatsAlloc<System>) -> Section {
    let mut section = Section::new(
        "p2p commonware",
        "CPU microseconds of the process for each key, under commonware's deterministic runtime, from\n\
        the call that wants them all to the last delivery. The network is a queue, values have 1,400\n\
        bytes, and the consumer answers at once. \"Harness\" is a resolver that only asks the peers in\n\
        turn and delivers; it is taken off both others. \"Stuck\" keys are older ones whose only target\n\
        is away.",
    );
    let head = ["", "harness", "stock", "gannet", "stock : gannet"];
    let mut rows = vec![head.map(String::from).to_vec()];
    let mut measured: Vec<(Scene, f64)> = Vec::new();
    let mut worst_ratio = f64::INFINITY;
    for scene in scene::all(quick) {
        let [harness, stock, ours] = least(&scene, scene.runs(repeats));
        let [stock, ours] = [stock, ours].map(|cost| (cost - harness).max(0.01));
        rows.push(vec![
            scene.name(),
            number(harness),
            number(stock),
            number(ours),
            format!("{} x", number(stock / ours)),
        ]);
        if scene.is_plain() {
            worst_ratio = worst_ratio.min(stock / ours);
        }
        measured.push((scene, ours));
    }
    section.table("Cost of a key", &rows);

    let keys = if quick { 2_000 } else { 100_000 };
    let bytes = [Kind::Stock, Kind::Ours].map(|kind| {
        let bytes = scene::bytes_a_waiting_key(kind, keys, allocator);
        (format!("{kind:?}").to_lowercase(), bytes)
    });
    let mut rows = vec![["", "bytes a key"].map(String::from).to_vec()];
    rows.extend(
        bytes
            .iter()
            .map(|(kind, bytes)| vec![kind.clone(), number(*bytes)]),
    );
    section.table(
        &format!("What each of {keys} keys holds that wait for a target"),
        &rows,
    );

    section.target(
        "ours over stock on the plain path, the worst row",
        1.0 / worst_ratio,
        1.0 / FACTOR,
        "x",
    );
    let over = measured
        .iter()
        .filter(|(scene, _)| !scene.is_plain())
        .map(|(scene, cost)| {
            let plain = measured
                .iter()
                .filter(|(other, _)| other.is_plain_of(scene));
            cost / plain.map(|(_, cost)| *cost).fold(f64::INFINITY, f64::min)
        });
    section.target(
        "stuck or at quota over the plain path with as many peers",
        over.fold(0.0, f64::max),
        FACTOR,
        "x",
    );
    section.target("a waiting key of ours", bytes[1].1, BYTES_MAX, "bytes");
    section
}
