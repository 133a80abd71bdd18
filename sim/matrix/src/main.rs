//! The command line: runs seeds, reports the first that fails and how to replay it.

use clap::Parser;
use gannet_sim::{
    run,
    seeds::{self, SeedArgs},
};
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
    let args = Args::parse();
    if !args.seeds.trace {
        run::silence_panics();
    }
    match seeds::run(&args.seeds, &SUBJECT, replay) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn replay(seed: u64) -> String {
    let next = seed + 1;
    format!("cargo run -p gannet-sim-matrix -- --seeds {seed}..{next} --trace")
}
