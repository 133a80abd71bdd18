//! The drop-ins for peer-to-peer hosts against the stock modules, in one run:
//! `cargo run --release -p gannet-bench-p2p -- commonware`. With `--quick` it only shows that it
//! runs; otherwise it puts what it measured into its section of `bench/RESULTS.md`.
//!
//! For a profiler there is `profile KIND KEYS PEERS TIMES [A_SECOND]`, which runs one case of the plain
//! path, or at a quota, with one kind (`null`, `stock`, `ours`) and prints nothing; and to compare, `row KEYS PEERS TIMES`, which
//! prints what a key costs the harness, and what the others cost beyond that.

mod commonware;
#[path = "../../src/report.rs"]
#[expect(
    dead_code,
    reason = "shared with the other benches, which use more of it"
)]
mod report;

use commonware::Kind;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::{alloc::System, process::ExitCode, time::Duration};

/// Where the tables are kept.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../RESULTS.md");

/// Counts what an engine holds.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs of each kind, and more of the short ones.
const REPEATS: usize = 3;

fn profile(args: &[String]) -> Option<()> {
    let ([kind, keys, peers, times] | [kind, keys, peers, times, _]) = args else {
        return None;
    };
    let kind = match kind.as_str() {
        "null" => Kind::Null,
        "stock" => Kind::Stock,
        "ours" => Kind::Ours,
        _ => return None,
    };
    let mut scene = commonware::plain(keys.parse().ok()?, peers.parse().ok()?);
    if let Some(a_second) = args.get(4) {
        scene = scene.at_quota(a_second.parse().ok()?);
    }
    for _ in 0..times.parse().ok()? {
        scene.cost(kind, Duration::default);
    }
    Some(())
}

fn row(args: &[String]) -> Option<()> {
    let [keys, peers, times] = args else {
        return None;
    };
    let scene = commonware::plain(keys.parse().ok()?, peers.parse().ok()?);
    let [harness, stock, ours] = commonware::least(&scene, times.parse().ok()?);
    let [stock, ours] = [stock - harness, ours - harness];
    println!("{harness:.3} {stock:.3} {ours:.3} {:.2}", stock / ours);
    Some(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let repeats = if quick { 1 } else { REPEATS };
    let right = match args.first().map(String::as_str) {
        Some("profile") => profile(&args[1..]).is_some(),
        Some("row") => row(&args[1..]).is_some(),
        // The only one so far, and so what is meant where nothing is said.
        None | Some("commonware" | "--quick") => {
            let how = format!(
                "commonware-resolver 2026.10.0. Runs of each: {repeats} (of the short ones more), in \
                turns; the least counts."
            );
            commonware::run(quick, repeats, ALLOCATOR).finish(quick, &how)
        }
        Some(_) => false,
    };
    if right {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "usage: gannet-bench-p2p [commonware] [--quick] | profile null|stock|ours KEYS PEERS TIMES\n\
        | row KEYS PEERS TIMES"
    );
    ExitCode::FAILURE
}
