//! The command line: runs seeds, reports the first that fails and how to replay it.

mod report;

use clap::Parser;
use gannet_sim::run;
use gannet_sim_cluster::{
    SUBJECT,
    subject::{Coverage, Options, Report, Subject},
};
use std::{ops::Range, process::ExitCode, thread};

/// Simulates a cluster of caches under seeds and faults, and checks its protocol.
#[derive(Debug, Parser)]
#[command(name = "gannet-sim-cluster", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Seeds to run, the last excluded.
    #[arg(long, value_name = "A..B", default_value = "0..300", value_parser = run::parse_range)]
    seeds: Range<u64>,
    /// Say how each seed went.
    #[arg(long)]
    verbose: bool,
    /// Print everything that goes into the nodes and comes out.
    #[arg(long)]
    trace: bool,
    /// Threads [all cores].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Go on after a seed that failed, and list all of them.
    #[arg(long)]
    keep_going: bool,
    /// Plant each known bug, and prove that some seed catches it.
    #[arg(long)]
    planted: bool,
    /// Plant one bug.
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Starts many members on cold data, with and without some of them dying meanwhile.
    Scale(report::Scale),
}

/// Where the tables are kept.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/RESULTS.md");

/// So many seeds reach every state; a run over fewer does not have to.
const COVERING: u64 = 300;

/// So many seeds are run twice before anything else.
const TWICE: u64 = 10;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Scale(scale)) = &args.command {
        return report::run(scale);
    }
    if !args.trace {
        run::silence_panics();
    }
    let ok = match args.planted {
        true => planted(&args, &SUBJECT),
        false => seeds(&args, &SUBJECT),
    };
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn replay(seed: u64) -> String {
    let next = seed + 1;
    format!("cargo run -p gannet-sim-cluster -- --seeds {seed}..{next} --trace")
}

/// Runs the seeds; whether all went well.
fn seeds(args: &Args, subject: &Subject) -> bool {
    let name = subject.name;
    let plant = match &args.plant {
        None => None,
        Some(plant) => match subject.plants.iter().find(|(known, _)| known == plant) {
            Some((known, _)) => Some(*known),
            None => {
                let names: Vec<&str> = subject.plants.iter().map(|(name, _)| *name).collect();
                println!("{name}: no planted bug is called `{plant}`; there are {names:?}");
                return false;
            }
        },
    };
    let options = Options {
        print: args.trace,
        plant,
    };
    // If a seed does not mean a run, nothing below means anything.
    let twice = args.seeds.start..args.seeds.end.min(args.seeds.start + TWICE);
    for seed in twice.filter(|_| !args.trace) {
        if let Err(why) = subject.twice(seed, &options) {
            println!("{name}: {why}\nreplay: {}", replay(seed));
            return false;
        }
    }
    let jobs = match (args.trace, args.jobs) {
        (true, _) => 1,
        (_, Some(jobs)) => jobs,
        _ => thread::available_parallelism().map_or(1, usize::from),
    };
    let tell = |report: &Report| {
        if args.verbose {
            let end = report.failure.as_deref().unwrap_or("ok");
            let (seed, (hash, lines)) = (report.seed, report.digest);
            println!("{name}: seed {seed}: {lines} lines, trace {hash:016x}: {end}");
        }
    };
    let reports = subject.all(args.seeds.clone(), &options, (jobs, args.keep_going), tell);
    let mut coverage = Coverage::default();
    let (mut failed, mut steps) = (0, 0);
    for report in &reports {
        coverage.merge(&report.coverage);
        steps += report.steps;
        if let Some(why) = &report.failure {
            failed += 1;
            let seed = report.seed;
            println!(
                "{name}: seed {seed} failed: {why}\nreplay: {}",
                replay(seed)
            );
        }
    }
    let missing = match args.seeds.end - args.seeds.start {
        COVERING.. if failed == 0 => coverage.missing(subject.marks),
        _ => Vec::new(),
    };
    if !missing.is_empty() {
        println!("{name}: never reached: {missing:?}");
    }
    let ok = failed == 0 && missing.is_empty();
    let verdict = if ok { "ok" } else { "FAILED" };
    let count = reports.len();
    println!("{name}: {verdict}: {count} seeds, {failed} failed, {steps} steps; {coverage}");
    ok
}

/// Each planted bug must be caught by some seed; the first that does is named.
fn planted(args: &Args, subject: &Subject) -> bool {
    let mut missed = 0;
    for plant in subject.plants {
        match subject.catches(plant, args.seeds.clone()) {
            Some((seed, why)) => println!("{}: caught by seed {seed}: {why}", plant.0),
            None => {
                missed += 1;
                println!("{}: NOT caught by seeds {:?}", plant.0, args.seeds);
            }
        }
    }
    let count = subject.plants.len();
    println!(
        "{}: {count} planted bugs, {missed} not caught",
        subject.name
    );
    missed == 0
}
