//! Benchmarks against the peers, each one command: `cargo run --release -p gannet-bench -- NAME`.
//!
//! Each prints what it measured beside its peers, then its targets and whether they were reached, and
//! puts the same into its section of `bench/RESULTS.md`. The exit code says only whether everything
//! served was right: a missed target is a number, a wrong byte is a failure.

mod cluster;
mod engine;
mod faults;
mod index;
mod load;
mod memory;
mod peers;
mod report;
mod stampede;
mod warm;

use clap::{Parser, ValueEnum};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::{alloc::System, process::ExitCode};

/// Where the tables are kept.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/RESULTS.md");

/// Counts what the engine holds.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Benchmarks of Gannet and its peers.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure.
    name: Name,
    /// Small and once: shows that it runs, measures nothing.
    #[arg(long)]
    quick: bool,
    /// Runs of each peer, in turns; the median counts.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Only these peers.
    #[arg(long, value_delimiter = ',')]
    peers: Option<Vec<peers::Kind>>,
    /// Only the cases of a stampede, or of a cluster, whose titles contain this.
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// This binary of Gannet's, in place of one built from this workspace.
    #[arg(long, value_name = "FILE")]
    gannet: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Many clients, one cold object.
    Stampede,
    /// An origin that resets and stalls.
    Faults,
    /// Hits: CPU and throughput.
    Warm,
    /// The engine alone: time and memory of a fetch.
    Engine,
    /// The disk store's index after a restart.
    Index,
    /// Resident memory under a stampede, and with idle connections.
    Memory,
    /// Several caches that know each other.
    Cluster,
    /// All of them.
    All,
}

/// Thousands of connections are as many files here.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("the limit of open files cannot be raised: {error}");
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let names = match args.name {
        Name::All => {
            vec![
                Name::Engine,
                Name::Index,
                Name::Stampede,
                Name::Faults,
                Name::Warm,
                Name::Memory,
                Name::Cluster,
            ]
        }
        name => vec![name],
    };
    let run = peers::Run {
        quick: args.quick,
        repeats: if args.quick { 1 } else { args.repeats.max(1) },
        only: args.peers,
        case: args.case,
        gannet: args.gannet,
    };
    let how = format!(
        "{}, {}. Runs of each: {}, in turns; the median counts.",
        peers::version("nginx", "-v"),
        peers::version("varnishd", "-V"),
        run.repeats
    );
    let mut right = true;
    for name in names {
        let section = match name {
            Name::Engine => engine::run(&run),
            Name::Index => index::run(&runtime, args.quick),
            Name::Stampede => runtime.block_on(stampede::run(&run)),
            Name::Faults => runtime.block_on(faults::run(&run)),
            Name::Warm => runtime.block_on(warm::run(&run)),
            Name::Memory => runtime.block_on(memory::run(&run)),
            Name::Cluster => runtime.block_on(cluster::run(&run)),
            Name::All => continue,
        };
        // A part of a section does not take the place of the whole.
        right &= section.finish(args.quick || run.case.is_some(), &how);
    }
    if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
