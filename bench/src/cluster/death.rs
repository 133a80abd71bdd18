//! A member dies, or freezes, while all read.

use super::{
    MIB,
    group::{Group, Setup, keep_logs},
};
use crate::{
    load::{self, Experience},
    peers::{Kind, Peer, Run},
    report::{Section, number, time},
};
use gannet_testkit::{
    content,
    origin::{Object, Origin, Pace},
};
use rustix::process::Signal;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::MissedTickBehavior};

const CLUSTER: Setup = Setup::cluster(5);

/// What befalls a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    None,
    Killed,
    Frozen,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Self::None => "no fault",
            Self::Killed => "a member is killed",
            Self::Frozen => "a member is frozen (SIGSTOP)",
        }
    }
}

/// One read.
#[derive(Clone, Copy, Debug)]
struct Read {
    /// Seconds after the fault, or where it would have been; before it, below zero.
    at: f64,
    member: usize,
    got: Experience,
}

/// How the load goes.
struct Load {
    size: u64,
    every: Duration,
    before: Duration,
    after: Duration,
}

/// Who it befalls.
const LOST: usize = 2;
/// The hedge's default, and a second.
const STALL_MAX: f64 = 2.0;

pub(crate) async fn run(run: &Run, section: &mut Section) {
    let load = Load {
        size: 2 * MIB,
        every: run.pick(Duration::from_millis(50), Duration::from_millis(200)),
        before: run.pick(Duration::from_secs(5), Duration::from_secs(1)),
        after: run.pick(Duration::from_secs(15), Duration::from_secs(4)),
    };
    let title = format!(
        "death: 5 members, every {} ms all read another cold object of 2 MiB",
        load.every.as_millis()
    );
    if !run.asked(&title) || run.peers(&[Kind::Gannet]).is_empty() {
        return;
    }
    let mut all: BTreeMap<Fate, (Vec<Read>, f64)> = BTreeMap::new();
    for _ in 0..run.repeats {
        for fate in [Fate::None, Fate::Killed, Fate::Frozen] {
            let (reads, origin) = measure(run, &load, fate).await;
            let (known, most) = all.entry(fate).or_default();
            known.extend(reads);
            *most = most.max(origin);
        }
    }
    let heads = [
        "",
        "reads",
        "failed",
        "first byte before, median",
        "p99",
        "5 s after, median",
        "p99",
        "later, p99",
        "longest silence",
        "origin, x the objects",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for (fate, (reads, origin)) in &all {
        // Whoever was connected to the lost member has lost its answer; a balancer sends it elsewhere.
        let others: Vec<&Read> = reads.iter().filter(|read| read.member != LOST).collect();
        let firsts = |from: f64, to: f64| -> Vec<f64> {
            let within = others.iter().filter(|read| (from..to).contains(&read.at));
            let first = |read: &&&Read| match read.got {
                Experience::Right { first_byte, .. } => Some(first_byte),
                Experience::Wrong | Experience::Cut => None,
            };
            within.filter_map(|read| first(&read)).collect()
        };
        let median = |values: &[f64]| crate::report::median(values.iter().copied());
        let stall = others.iter().map(|read| match read.got {
            Experience::Right { stall, .. } => stall,
            Experience::Wrong | Experience::Cut => 0.0,
        });
        let stall = stall.fold(0.0, f64::max);
        let failed = others
            .iter()
            .filter(|read| matches!(read.got, Experience::Cut))
            .count();
        if reads
            .iter()
            .any(|read| matches!(read.got, Experience::Wrong))
        {
            section.wrong(format!("death: {}", fate.name()));
        }
        let before = firsts(f64::MIN, 0.0);
        let soon = firsts(0.0, 5.0);
        let later = firsts(5.0, f64::MAX);
        rows.push(vec![
            fate.name().into(),
            others.len().to_string(),
            failed.to_string(),
            time(median(&before)),
            time(load::p99(&before)),
            time(median(&soon)),
            time(load::p99(&soon)),
            match later.is_empty() {
                true => "-".into(),
                false => time(load::p99(&later)),
            },
            time(stall),
            format!("{} x", number(*origin)),
        ]);
        section.target(
            &format!("death: {}: failed reads at the other members", fate.name()),
            failed as f64,
            0.0,
            "",
        );
        if *fate != Fate::None {
            section.target(
                &format!("death: {}: longest silence, the hedge and 1 s", fate.name()),
                stall,
                STALL_MAX,
                "s",
            );
            section.target(
                &format!(
                    "death: {}: origin bytes over the objects', the worst run",
                    fate.name()
                ),
                *origin,
                1.05,
                "x",
            );
        }
    }
    section.table(&title, &rows);
}

/// All reads of one run, and the origin's bytes over those of the objects.
async fn measure(run: &Run, load: &Load, fate: Fate) -> (Vec<Read>, f64) {
    let origin = Origin::start();
    origin.pace(Pace {
        latency: Duration::from_millis(5),
        // An eighth of a second for each, so that some are under way when it strikes.
        bandwidth: Some(load.size * 8),
    });
    let mut group = Group::start(run, CLUSTER, &origin, 1024);
    let struck = Instant::now() + load.before;
    let end = struck + load.after;
    let mut reads: JoinSet<Read> = JoinSet::new();
    let mut lost_reads = Vec::new();
    let mut ticks = tokio::time::interval(load.every);
    // Where the machine cannot keep up, the load goes down and not up.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut objects, mut lost) = (0, false);
    while Instant::now() < end {
        ticks.tick().await;
        if !lost && Instant::now() >= struck {
            lost = true;
            strike(&mut group.peers[LOST], fate);
            if fate != Fate::None {
                // Their clients see what any server's would.
                lost_reads
                    .drain(..)
                    .for_each(|read: tokio::task::AbortHandle| read.abort());
            }
        }
        let expected = content::bytes(objects, 0, 0, load.size as usize);
        let key = objects.to_string();
        objects += 1;
        origin.put("bench", &key, Object::held(expected.clone()));
        for (member, url) in group.urls(&format!("bench/{key}")).into_iter().enumerate() {
            if member == LOST && lost && fate != Fate::None {
                continue;
            }
            let expected = expected.clone();
            let now = Instant::now();
            let at = now.saturating_duration_since(struck).as_secs_f64()
                - struck.saturating_duration_since(now).as_secs_f64();
            let read = reads.spawn(async move {
                let got = load::read(&url, None, &expected, || ()).await;
                let slow = match got {
                    Experience::Right { stall, .. } => stall > 0.5,
                    Experience::Wrong | Experience::Cut => true,
                };
                if slow {
                    eprintln!("death: {url} at {at:.3}: {got:?}");
                }
                Read { at, member, got }
            });
            if member == LOST {
                lost_reads.push(read);
            }
        }
    }
    let mut all = Vec::new();
    while let Some(read) = reads.join_next().await {
        // Those of the lost member's were aborted.
        all.extend(read.ok());
    }
    let sent = origin.counts();
    // Before the group ends: a frozen member says nothing more until it goes on.
    keep_logs(&format!("death {}", fate.name()), &group.peers);
    let over = sent.bytes as f64 / (objects * load.size) as f64;
    eprintln!(
        "death: {}: {} reads, {sent:?}, {over} x of {objects} objects",
        fate.name(),
        all.len()
    );
    for (key, gets) in repeated(&origin) {
        eprintln!(
            "death: {}: object {key} of {objects}: {gets} GETs",
            fate.name()
        );
    }
    (all, over)
}

/// Objects of which the origin was asked for more than once.
fn repeated(origin: &Origin) -> BTreeMap<String, usize> {
    let mut gets: BTreeMap<String, usize> = BTreeMap::new();
    for served in origin.served() {
        if served.method == gannet_testkit::origin::Method::Get {
            *gets.entry(served.key).or_default() += 1;
        }
    }
    gets.retain(|_, gets| *gets > 1);
    gets
}

fn strike(peer: &mut Peer, fate: Fate) {
    let Some(process) = peer.process_mut() else {
        return;
    };
    match fate {
        Fate::None => {}
        Fate::Killed => process.kill(),
        Fate::Frozen => process.signal(Signal::STOP),
    }
}
