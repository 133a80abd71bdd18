//! The command line: runs seeds, reports the first that fails and how to replay it.

use clap::Parser;
use gannet_sim::seeds::{self, SeedArgs};
use gannet_sim_matrix::SUBJECT;
use std::process::ExitCode;

/// Simulates the fetcher of federation events under seeds and faults, and checks what it promises.
#[derive(Debug, Parser)]
#[command(name = "gannet-sim-matrix", version)]
struct Args {
    #[command(flatten)]
    seeds: SeedArgs,
}

fn main() -> ExitCode {
    let program = |_: &_| "-p gannet-sim-matrix --".to_owned();
    seeds::main(&Args::parse().seeds, [&SUBJECT], program)
}
