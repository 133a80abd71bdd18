//! `scale`: the scenes at scale, and their table.

#[path = "../../../bench/src/report.rs"]
#[expect(dead_code, reason = "shared with the benches, which use more of it")]
mod table;

use gannet_cluster::SpreadConfig;
use gannet_sim_cluster::scale::{Load, Outcome, Scene, WINDOW};
use std::process::ExitCode;
use table::{Section, number, time};

/// Starts many members on cold data, with and without some of them dying meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Scale {
    /// How many members.
    #[arg(long, default_value_t = 1_500)]
    members: usize,
    /// The object's size, in chunks of 8 MiB.
    #[arg(long, default_value_t = 11_921)]
    chunks: u32,
    /// Put the table into bench/RESULTS.md.
    #[arg(long)]
    write: bool,
}

const CHUNK: u64 = 8 << 20;

pub(crate) fn run(scale: &Scale) -> ExitCode {
    let bound = SpreadConfig::default().sends_max;
    let (reads, of) = (400, 20_000);
    let whole = format!(
        "{} GB",
        number(f64::from(scale.chunks) * CHUNK as f64 / 1e9)
    );
    let zipf = format!("Zipf, {reads} of {of}");
    let scenes = [
        ("1 chunk".to_owned(), Load::InOrder(1), bound),
        ("1 chunk".to_owned(), Load::InOrder(1), 8),
        (whole.clone(), Load::InOrder(scale.chunks), bound),
        (whole, Load::InOrder(scale.chunks), 8),
        (zipf, Load::Zipf(reads, of), bound),
    ];
    let head = [
        "",
        "sends at most",
        "die",
        "origin bytes",
        "busiest : mean",
        "last member",
        "ideal",
        "last : ideal",
        "longest read",
        "reads",
        "failed",
        "begun anew",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    let (mut failed, mut busiest, mut slowest, mut origin) = (0, 0.0_f64, 0.0_f64, 0.0_f64);
    for (name, load, sends_max) in scenes {
        for die in [0, scale.members / 100] {
            let scene = Scene {
                members: scale.members,
                chunk: CHUNK,
                load: load.clone(),
                die,
                sends_max,
            };
            let outcome = scene.run();
            rows.push(row(&name, sends_max, die, &outcome));
            failed += outcome.failed;
            if sends_max == bound {
                origin = origin.max(outcome.origin);
                busiest = busiest.max(outcome.busiest);
                let large = !matches!(load, Load::InOrder(1));
                slowest = slowest.max(if large {
                    outcome.last / outcome.ideal
                } else {
                    0.0
                });
            }
        }
    }
    let mut section = Section::new(
        "cluster-scale",
        &format!(
            "Simulated time: {} members start at one moment on cold data, chunks of 8 MiB, each reading {WINDOW} at\n\
            once. A member's link has 25 Gbit/s in each direction, the origin's 100 Gbit/s; 0.2 ms between\n\
            members, 20 ms to the origin. Links are queues: one chunk after the other at the full rate, passed on as it\n\
            comes. Placement, spread and errands are the cluster's own code; attempts are lighter than the\n\
            engine's (hedge 1 s; lists of members stay as they were). Those that die do so without a word, at\n\
            random times; what broke off is sent again whole. \"Ideal\" is what the busiest link needs for what\n\
            is wanted, and the way to the origin. A read that takes longer than 30 s has failed. \"Sends at\n\
            most\": how often one sends a chunk ({bound} is the default).",
            scale.members
        ),
    );
    section.table("A cold start", &rows);
    section.target("failed reads", failed as f64, 0.0, "");
    section.target("origin bytes, by default", origin, 1.05, "x");
    section.target("busiest : mean, by default", busiest, 10.0, "x");
    section.target(
        "last : ideal, by default, more than one chunk",
        slowest,
        4.0,
        "x",
    );
    if failed > 0 {
        section.wrong(format!("{failed} reads failed"));
    }
    let right = section.finish(!scale.write, "simulated, from one seed");
    if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn row(name: &str, sends_max: u32, die: usize, outcome: &Outcome) -> Vec<String> {
    vec![
        name.to_owned(),
        sends_max.to_string(),
        die.to_string(),
        format!("{:.3} x", outcome.origin),
        format!("{} x", number(outcome.busiest)),
        time(outcome.last),
        time(outcome.ideal),
        format!("{} x", number(outcome.last / outcome.ideal)),
        time(outcome.longest),
        outcome.reads.to_string(),
        outcome.failed.to_string(),
        outcome.again.to_string(),
    ]
}
