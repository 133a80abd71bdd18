//! The drop-ins for peer-to-peer hosts against the stock modules, in one run:
//! `cargo run --release -p gannet-bench-p2p`. With `--quick` it only shows that it runs.
//!
//! What is measured is the CPU of this process, per key, with the cost of the bench's own harness (a
//! resolver that does nothing but ask and deliver) taken off both; and what a waiting key holds.

mod network;
mod null;
mod scene;

use scene::{Kind, Scene};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::{alloc::System, time::Duration};

/// Counts what an engine holds.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The least of several runs: what disturbs a run only adds to it.
fn least(scene: &Scene, kind: Kind, repeats: usize) -> f64 {
    (0..repeats)
        .map(|_| scene.cpu_us_a_key(kind))
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [profile, kind, keys, peers, times] = &args[..]
        && profile == "profile"
    {
        let kind = match kind.as_str() {
            "null" => Kind::Null,
            "stock" => Kind::Stock,
            _ => Kind::Ours,
        };
        let number = |arg: &String| arg.parse().expect("a number");
        let scene = scene::plain(number(keys), number(peers));
        for _ in 0..number(times) {
            scene.cost(kind, Duration::default);
        }
        return;
    }
    let quick = std::env::args().any(|arg| arg == "--quick");
    let repeats = if quick { 1 } else { 3 };
    println!("CPU microseconds a key, the harness taken off:");
    println!(
        "{:<38} {:>9} {:>9} {:>9} {:>8}",
        "", "harness", "stock", "gannet", "ratio"
    );
    let mut plain = f64::INFINITY;
    let mut worst: f64 = 0.0;
    for scene in scene::all(quick) {
        let harness = least(&scene, Kind::Null, repeats);
        let [stock, ours] = [Kind::Stock, Kind::Ours]
            .map(|kind| (least(&scene, kind, repeats) - harness).max(0.01));
        println!(
            "{:<38} {harness:>9.2} {stock:>9.2} {ours:>9.2} {:>7.1}x",
            scene.name(),
            stock / ours
        );
        if scene.is_plain() {
            plain = plain.min(ours);
        } else {
            worst = worst.max(ours);
        }
    }
    println!(
        "ours, worst of the stuck and at-quota cases over the plain path: {:.1}x",
        worst / plain
    );
    let keys = if quick { 2_000 } else { 100_000 };
    for kind in [Kind::Stock, Kind::Ours] {
        let bytes = scene::bytes_a_waiting_key(kind, keys, ALLOCATOR);
        println!("bytes held by each of {keys} waiting keys, {kind:?}: {bytes:.0}");
    }
}
