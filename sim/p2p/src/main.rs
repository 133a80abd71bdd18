//! The command line: runs seeds, reports the first that fails and how to replay it.

use clap::Parser;
use gannet_sim::{
    seeds::{self, SeedArgs},
    subject::Subject,
};
use gannet_sim_p2p::SUBJECTS;
use std::process::ExitCode;

/// Simulates the drop-ins for peer-to-peer hosts under seeds and faults, and checks their contracts.
#[derive(Debug, Parser)]
#[command(name = "gannet-sim-p2p", version)]
struct Args {
    /// Which drop-in [all].
    #[arg(long, value_name = "NAME", value_parser = parse_subject)]
    only: Option<&'static Subject>,
    #[command(flatten)]
    seeds: SeedArgs,
}

fn parse_subject(text: &str) -> Result<&'static Subject, String> {
    let found = SUBJECTS.iter().find(|subject| subject.name == text);
    let names: Vec<&str> = SUBJECTS.iter().map(|subject| subject.name).collect();
    let unknown = || format!("there are only {}", names.join(", "));
    found.copied().ok_or_else(unknown)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let subjects = match args.only {
        Some(subject) => vec![subject],
        None => SUBJECTS.to_vec(),
    };
    seeds::main(&args.seeds, subjects, |subject| {
        format!("-p gannet-sim-p2p -- --only {}", subject.name)
    })
}
