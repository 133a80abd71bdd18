//! Runs the seeds of a [`Subject`] from a command line: reports what failed and how to replay it.

use crate::{
    run::{parse_range, silence_panics},
    subject::{Coverage, Options, Report, Subject},
};
use std::{ops::Range, process::ExitCode, thread};

/// Which seeds, and how they are run.
#[derive(Debug, clap::Args)]
pub struct SeedArgs {
    /// Seeds to run, the last excluded.
    #[arg(long, value_name = "A..B", default_value = "0..300", value_parser = parse_range)]
    pub seeds: Range<u64>,
    /// Say how each seed went.
    #[arg(long)]
    pub verbose: bool,
    /// Print everything that goes into the nodes and comes out.
    #[arg(long)]
    pub trace: bool,
    /// Threads [all cores].
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Go on after a seed that failed, and list all of them.
    #[arg(long)]
    pub keep_going: bool,
    /// Plant each known bug, and prove that some seed catches it.
    #[arg(long)]
    pub planted: bool,
    /// Plant one bug.
    #[arg(long, value_name = "NAME")]
    pub plant: Option<String>,
}

/// So many seeds reach every state; a run over fewer does not have to.
const COVERING: u64 = 300;

/// So many seeds are run twice before anything else.
const TWICE: u64 = 10;

/// Runs the seeds of each of these, and says how it went. `program` is what follows `cargo run`, up to the seeds.
pub fn main<'s>(
    args: &SeedArgs,
    subjects: impl IntoIterator<Item = &'s Subject>,
    program: impl Fn(&Subject) -> String,
) -> ExitCode {
    if !args.trace {
        silence_panics();
    }
    let mut ok = true;
    for subject in subjects {
        let program = program(subject);
        ok &= run(args, subject, |seed| {
            format!("cargo run {program} --seeds {seed}..{} --trace", seed + 1)
        });
    }
    match ok {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Runs the seeds, or plants the bugs, and prints what came of it; whether all went well. `replay` is the command that
/// runs one seed again.
fn run(args: &SeedArgs, subject: &Subject, replay: impl Fn(u64) -> String) -> bool {
    if args.planted {
        planted(args, subject)
    } else {
        seeds(args, subject, replay)
    }
}

fn seeds(args: &SeedArgs, subject: &Subject, replay: impl Fn(u64) -> String) -> bool {
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
fn planted(args: &SeedArgs, subject: &Subject) -> bool {
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
