//! The simulator's command line: runs seeds, reports the first that fails and how to replay it.

use clap::Parser;
use gannet_sim::{
    coverage::Coverage,
    run::{self, Report},
};
use std::{
    ops::Range,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Simulates the fetch engine under seeds and faults, and checks its invariants at every step.
#[derive(Debug, Parser)]
#[command(name = "gannet-sim", version)]
struct Args {
    /// Seeds to run, the last excluded.
    #[arg(long, value_name = "A..B", default_value = "0..300", value_parser = run::parse_range)]
    seeds: Range<u64>,
    /// Say how each seed went.
    #[arg(long)]
    verbose: bool,
    /// Print everything that goes into the engine and comes out.
    #[arg(long)]
    trace: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
    /// Threads [all cores].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Go on after a seed that failed, and list all of them.
    #[arg(long)]
    keep_going: bool,
    /// Plant each known bug in the engine, and prove that some seed catches it.
    #[cfg(feature = "planted")]
    #[arg(long)]
    planted: bool,
    /// Plant one bug in the engine.
    #[cfg(feature = "planted")]
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
}

/// So many seeds reach every state; a run over fewer does not have to.
const COVERING: u64 = 300;

/// So many seeds are run twice before anything else.
const TWICE: u64 = 10;

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.trace {
        run::silence_panics();
    }
    #[cfg(feature = "planted")]
    {
        if args.planted {
            return planted(&args);
        }
        if let Some(name) = &args.plant
            && !gannet_engine::planted::ALL.contains(&name.as_str())
        {
            eprintln!(
                "no planted bug is called `{name}`; there are {}",
                gannet_engine::planted::ALL.join(", ")
            );
            return ExitCode::from(2);
        }
    }
    // If a seed does not mean a run, nothing below means anything.
    let twice = args.seeds.start..args.seeds.end.min(args.seeds.start + TWICE);
    for seed in twice.clone() {
        if let Err(why) = run::twice(seed) {
            println!("seed {seed} failed: {why}\nreplay: {}", replay(seed));
            return ExitCode::FAILURE;
        }
    }
    if !args.json {
        println!("seeds {twice:?} twice: the same traces");
    }
    let reports = run_all(&args);
    report(&args, &reports)
}

fn replay(seed: u64) -> String {
    let next = seed + 1;
    format!("cargo run --release -p gannet-sim -- --seeds {seed}..{next} --trace")
}

/// Runs all seeds on all cores; stops early once one has failed.
fn run_all(args: &Args) -> Vec<Report> {
    let jobs = args
        .jobs
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
        .max(1);
    let next = AtomicU64::new(args.seeds.start);
    let first_failure = AtomicU64::new(u64::MAX);
    let reports = Mutex::new(Vec::new());
    let work = || {
        plant(args);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let give_up = !args.keep_going && seed > first_failure.load(Ordering::Relaxed);
            if seed >= args.seeds.end || give_up {
                break;
            }
            let report = run::seed(seed, args.trace);
            if report.failure.is_some() {
                first_failure.fetch_min(seed, Ordering::Relaxed);
            }
            if args.verbose && !args.json {
                let Report {
                    steps,
                    digest: (hash, lines),
                    ..
                } = report;
                let end = report.failure.as_deref().unwrap_or("ok");
                println!("seed {seed}: {steps} steps, {lines} lines, trace {hash:016x}: {end}");
            }
            reports
                .lock()
                .expect("nobody panics holding it")
                .push(report);
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let mut reports = reports.into_inner().expect("nobody panicked holding it");
    reports.sort_by_key(|report| report.seed);
    reports
}

#[cfg(feature = "planted")]
fn plant(args: &Args) {
    if let Some(name) = &args.plant {
        gannet_engine::planted::set(Some(name));
    }
}

#[cfg(not(feature = "planted"))]
const fn plant(_args: &Args) {}

fn report(args: &Args, reports: &[Report]) -> ExitCode {
    let mut coverage = Coverage::default();
    let mut steps = 0;
    for report in reports {
        coverage.merge(&report.coverage);
        steps += report.steps;
    }
    let failed: Vec<&Report> = reports.iter().filter(|r| r.failure.is_some()).collect();
    let asked = args.seeds.end - args.seeds.start;
    let missing = match asked {
        COVERING.. if failed.is_empty() => coverage.missing(),
        _ => Vec::new(),
    };
    let ok = failed.is_empty() && missing.is_empty();
    if args.json {
        print_json(reports.len(), steps, &failed, &missing, &coverage);
    } else {
        for report in &failed {
            let Report { seed, failure, .. } = report;
            let why = failure.as_deref().unwrap_or_default();
            println!("seed {seed} failed: {why}\nreplay: {}", replay(*seed));
        }
        if !missing.is_empty() {
            println!("never reached: {missing:?}");
        }
        println!(
            "{}: {} seeds, {} failed, {steps} steps; {coverage}",
            if ok { "ok" } else { "FAILED" },
            reports.len(),
            failed.len()
        );
    }
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Everything printed is made of plain words and numbers, but for the failures, which are escaped.
fn print_json(
    seeds: usize,
    steps: u64,
    failed: &[&Report],
    missing: &[gannet_sim::coverage::Mark],
    coverage: &Coverage,
) {
    let failures: Vec<String> = failed
        .iter()
        .map(|r| {
            let why = escape(r.failure.as_deref().unwrap_or_default());
            let replay = replay(r.seed);
            format!(r#"{{"seed":{},"why":"{why}","replay":"{replay}"}}"#, r.seed)
        })
        .collect();
    let reached: Vec<String> = coverage
        .iter()
        .map(|(mark, count)| format!(r#""{mark:?}":{count}"#))
        .collect();
    let missing: Vec<String> = missing
        .iter()
        .map(|mark| format!(r#""{mark:?}""#))
        .collect();
    println!(
        r#"{{"version":1,"seeds":{seeds},"steps":{steps},"failures":[{}],"missing":[{}],"reached":{{{}}}}}"#,
        failures.join(","),
        missing.join(","),
        reached.join(",")
    );
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            '\n' => escaped.push_str("\\n"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The checks that a planted bug is about, where another may come first in some seeds: to be caught by
/// that one proves nothing about these.
#[cfg(feature = "planted")]
fn about(name: &str) -> &'static str {
    match name {
        "hedge-timer-lost" => "does not join the race",
        "other-identity-continues" => "c6: ",
        _ => "",
    }
}

/// Each planted bug must be caught by some seed; the first that does is named.
#[cfg(feature = "planted")]
fn planted(args: &Args) -> ExitCode {
    let names = gannet_engine::planted::ALL;
    let caught = Mutex::new(vec![None; names.len()]);
    let next = AtomicU64::new(0);
    let jobs = args
        .jobs
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let index = usize::try_from(index).expect("a few bugs");
                    let Some(name) = names.get(index) else { break };
                    // Only a seed that is well without the bug proves anything.
                    let found = args.seeds.clone().find_map(|seed| {
                        gannet_engine::planted::set(Some(name));
                        let failure = run::seed(seed, false).failure;
                        let why = failure.filter(|why| why.contains(about(name)))?;
                        gannet_engine::planted::set(None);
                        let well = run::seed(seed, false).failure.is_none();
                        well.then_some((seed, why))
                    });
                    gannet_engine::planted::set(None);
                    caught.lock().expect("nobody panics holding it")[index] = found;
                }
            });
        }
    });
    let caught = caught.into_inner().expect("nobody panicked holding it");
    let mut missed = 0;
    for (name, found) in names.iter().zip(&caught) {
        match found {
            Some((seed, why)) => {
                let why = why.lines().next().unwrap_or_default();
                println!("{name}: caught by seed {seed}: {why}");
            }
            None => {
                missed += 1;
                println!("{name}: NOT caught by seeds {:?}", args.seeds);
            }
        }
    }
    println!("{} planted bugs, {missed} not caught", names.len());
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
