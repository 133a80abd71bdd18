//! The command line: runs seeds, reports the first that fails and how to replay it.

mod report;

use clap::Parser;
use gannet_sim::seeds::{self, SeedArgs};
use gannet_sim_cluster::SUBJECT;
use std::process::ExitCode;

/// Simulates a cluster of caches under seeds and faults, and checks its protocol.
#[derive(Debug, Parser)]
#[command(name = "gannet-sim-cluster", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    seeds: SeedArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Starts many members on cold data, with and without some of them dying meanwhile.
    Scale(report::Scale),
}

/// Where the tables are kept.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/RESULTS.md");

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Scale(scale)) = &args.command {
        return report::run(scale);
    }
    let program = |_: &_| "-p gannet-sim-cluster --".to_owned();
    seeds::main(&args.seeds, [&SUBJECT], program)
}
