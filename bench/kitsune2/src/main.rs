//! The drop-in for Kitsune2's fetch module against the stock module, in one run:
//! `cargo run --release -p gannet-bench-kitsune2`. With `--quick` it only shows that it runs; with
//! words, it runs the scenes whose titles contain all of them; without the feature `iroh`, all but
//! those over iroh.
//!
//! It puts what it measured into its section of `bench/RESULTS.md`. The exit code says only whether
//! every op that was stored was right: a missed target is a number.

#[cfg(feature = "iroh")]
mod iroh;
#[cfg(not(feature = "iroh"))]
#[path = "no_iroh.rs"]
mod iroh;
mod node;
mod null;
#[path = "../../src/report.rs"]
#[expect(
    dead_code,
    reason = "shared with the other benches, which use more of it"
)]
mod report;
mod scene;
mod store;
mod wire;

use node::Kind;
use report::{Section, number};
use scene::{Net, Outcome, Scene};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::{alloc::System, process::ExitCode};

/// Where the tables are kept, those of the other benches too.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../RESULTS.md");

/// Counts what a module holds.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const INTRO: &str = "\
One node asks others for ops of 256 bytes, all in one process: from `request_ops` to the last op in
the op store. Both sides run the module named (\"asks\" and \"holds\" differ in mixed rows); the CPU is
that of all nodes, and so are the messages. \"Not stored\" is what had not come after 60 s, or after
25 s without any op; the rate is that of the ops that came, until the last of them did. The op store
is the bench's own, the same for all, and keeps bytes as they are (`MemOpStore` would parse JSON,
several us an op on either side). \"harness\" is a module that does
nothing but ask for 1,024 ops at a time and store what comes: what transport, messages and store
take. Over iroh, the nodes and their relay are on loopback. Written by
`cargo run --release -p gannet-bench-kitsune2`.
";

/// The scenes, those that belong together in turns.
fn scenes(quick: bool) -> Vec<Scene> {
    use Kind::{Null, Ours, Stock};
    let mut scenes = Vec::new();
    let mut add = |net, ops, holders, kinds: &[Kind]| {
        scenes.extend(kinds.iter().map(|kind| Scene {
            net,
            ops,
            holders,
            asker: *kind,
            holder: *kind,
        }));
    };
    if quick {
        add(Net::Mem, 500, 1, &[Null, Stock, Ours]);
        add(Net::Mem, 500, 3, &[Stock, Ours]);
        add(Net::Iroh, 500, 1, &[Stock, Ours]);
        return scenes;
    }
    add(Net::Mem, 10_000, 1, &[Null, Stock, Ours]);
    add(Net::Mem, 50_000, 1, &[Stock, Ours]);
    add(Net::Mem, 100_000, 1, &[Null, Stock, Ours]);
    add(Net::Mem, 1_000_000, 1, &[Null, Ours]);
    add(Net::Mem, 10_000, 3, &[Stock, Ours]);
    add(Net::Mem, 100_000, 3, &[Stock, Ours]);
    add(Net::Iroh, 10_000, 1, &[Null, Stock, Ours]);
    add(Net::Iroh, 100_000, 1, &[Null, Stock, Ours]);
    for (asker, holder) in [(Ours, Stock), (Stock, Ours)] {
        scenes.push(Scene {
            net: Net::Mem,
            ops: 10_000,
            holders: 1,
            asker,
            holder,
        });
    }
    scenes
}

impl Scene {
    fn title(&self) -> String {
        let net = match self.net {
            Net::Mem => "mem",
            Net::Iroh => "iroh",
        };
        let holders = match self.holders {
            1 => String::new(),
            n => format!(", each offered by {n}"),
        };
        format!("{net}, {} ops{holders}", self.ops)
    }

    fn module(&self) -> String {
        match self.asker == self.holder {
            true => self.asker.name().to_owned(),
            false => format!("{} asks, {} holds", self.asker.name(), self.holder.name()),
        }
    }
}

/// The median of several runs; one is enough of a run in which ops were lost.
fn measure(scene: &Scene, repeats: usize) -> (Outcome, u64) {
    let mut outcomes: Vec<Outcome> = Vec::new();
    while outcomes.len() < repeats {
        let outcome = scene.run();
        eprintln!("{}, {}: {outcome:?}", scene.title(), scene.module());
        outcomes.push(outcome);
        if outcome.stored < scene.ops {
            break;
        }
    }
    let wrong = outcomes.iter().map(|outcome| outcome.wrong).sum();
    // The worst that happened to any op is not a matter of medians.
    if let Some(lossy) = outcomes.iter().find(|outcome| outcome.stored < scene.ops) {
        return (*lossy, wrong);
    }
    outcomes.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    (outcomes[outcomes.len() / 2], wrong)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let quick = words.iter().any(|word| word == "--quick");
    let words: Vec<&String> = words.iter().filter(|word| *word != "--quick").collect();
    let repeats = if quick { 1 } else { 3 };
    let (mut all_wrong, mut section) = (0, Section::new("kitsune2", INTRO.trim_end()));
    let head = [
        "",
        "module",
        "not stored",
        "ops/s",
        "x stock",
        "CPU us/op",
        "requests",
        "responses",
        "x stock",
        "bytes/op",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    let mut stock: Option<(Scene, Outcome)> = None;
    for scene in scenes(quick) {
        let title = format!("{}, {}", scene.title(), scene.module());
        let built = cfg!(feature = "iroh") || scene.net == Net::Mem;
        if !built || !words.iter().all(|word| title.contains(word.as_str())) {
            continue;
        }
        let (outcome, wrong) = measure(&scene, repeats);
        all_wrong += wrong;
        let lost = (scene.ops - outcome.stored) as f64 / scene.ops as f64;
        let messages = |outcome: &Outcome| (outcome.requests + outcome.responses) as f64;
        let (mut times, mut share) = (String::new(), String::new());
        if (scene.asker, scene.holder) == (Kind::Ours, Kind::Ours) {
            let title = scene.title();
            section.target(&format!("{title}: not stored"), lost * 100.0, 0.0, "%");
            let peer = stock.filter(|(peer, _)| peer.title() == title);
            if let Some((_, peer)) = peer {
                let (faster, fewer) = (
                    outcome.rate() / peer.rate(),
                    messages(&outcome) / messages(&peer),
                );
                times = number(faster);
                share = number(fewer);
                if scene.net == Net::Iroh {
                    section.at_least(&format!("{title}: rate"), faster, 5.0, "x stock");
                }
                let what = format!("{title}: messages");
                section.target(&what, fewer, 0.1, "of stock's");
            }
            if scene.net == Net::Mem && scene.holders == 1 {
                let what = format!("{title}: rate");
                section.at_least(&what, outcome.rate(), 100_000.0, "ops/s");
            }
        }
        if (scene.asker, scene.holder) == (Kind::Stock, Kind::Stock) {
            stock = Some((scene, outcome));
        }
        rows.push(vec![
            scene.title() + if outcome.direct { " (direct)" } else { "" },
            scene.module(),
            format!("{:.0} %", (lost * 100.0).ceil()),
            number(outcome.rate()),
            times,
            number(outcome.cpu_us),
            outcome.requests.to_string(),
            outcome.responses.to_string(),
            share,
            number(outcome.bytes),
        ]);
    }
    section.table("Ops from peers", &rows);

    let pending = if quick { 10_000 } else { 1_000_000 };
    let mut rows = vec![["module", "bytes"].map(String::from).to_vec()];
    for kind in [Kind::Stock, Kind::Ours] {
        let title = format!("pending {}", kind.name());
        if !words.iter().all(|word| title.contains(word.as_str())) {
            continue;
        }
        let bytes = scene::bytes_a_pending_op(kind, pending, ALLOCATOR);
        rows.push(vec![kind.name().into(), number(bytes)]);
        if kind == Kind::Ours {
            let what = format!("held for each of {pending} pending ops");
            section.target(&what, bytes, 500.0, "bytes");
        }
    }
    section.table(
        &format!("Held for each of {pending} ops that nobody answers for"),
        &rows,
    );
    if all_wrong > 0 {
        section.wrong(format!("{all_wrong} ops were not what their ids say"));
    }
    let part = quick || !words.is_empty() || cfg!(not(feature = "iroh"));
    let how = format!("kitsune2 0.5.3. Runs of each: {repeats}, in turns; the median counts.");
    match section.finish(part, &how) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
