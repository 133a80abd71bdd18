//! Members join and leave while the same objects are read again and again.

use super::{
    MIB,
    group::{Founder, internal, keep_logs},
};
use crate::{
    load::{self, Experience},
    peers::{Kind, Peer, Run},
    report::{Section, number},
};
use bytes::Bytes;
use gannet_testkit::{
    content,
    origin::{Counts, Object, Origin, Pace},
    peers::{Dnsmasq, Zone},
    process::free_port,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{task::JoinHandle, time::MissedTickBehavior};

/// How members find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Dns,
    Gossip,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Join,
    /// The member started so-and-so-manieth ends in order.
    Leave(usize),
}

const STEPS: [(&str, Step); 4] = [
    ("the 4th joins", Step::Join),
    ("the 5th joins", Step::Join),
    ("one of the first three leaves", Step::Leave(0)),
    ("the 4th leaves", Step::Leave(3)),
];

/// A name that stands for all members.
const SERVICE: &str = "_gannet._tcp.cache.test";
/// One to end in order: its clients have left by then.
const DRAIN: Duration = Duration::from_secs(30);

/// What happened in one part of a run.
#[derive(Clone, Debug)]
struct Phase {
    what: &'static str,
    members: usize,
    origin: Counts,
    reads: u64,
    failed: u64,
}

pub(crate) async fn run(run: &Run, section: &mut Section) {
    let objects = run.pick(200, 40);
    for way in [Way::Dns, Way::Gossip] {
        let found = match way {
            Way::Dns => "DNS",
            Way::Gossip => "gossip",
        };
        let title =
            format!("churn: {objects} objects of 1 MiB read again and again, members by {found}");
        if !run.asked(&title) || run.peers(&[Kind::Gannet]).is_empty() {
            continue;
        }
        let mut runs = Vec::new();
        for _ in 0..run.repeats {
            runs.push(Churn::new(run, way, objects).run(section, &title).await);
        }
        report(section, &title, objects, &runs);
    }
}

fn report(section: &mut Section, title: &str, objects: u64, runs: &[Vec<Phase>]) {
    let heads = [
        "",
        "members",
        "reads",
        "failed",
        "origin GETs",
        "HEADs",
        "GETs a chunk so far",
        "origin, x the objects so far",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    let (mut gets, mut bytes) = (0.0, 0.0);
    for n in 0..runs.first().map_or(0, Vec::len) {
        let of =
            |f: &dyn Fn(&Phase) -> f64| crate::report::median(runs.iter().map(|run| f(&run[n])));
        gets += of(&|phase| phase.origin.gets as f64);
        bytes += of(&|phase| phase.origin.bytes as f64);
        rows.push(vec![
            runs[0][n].what.into(),
            runs[0][n].members.to_string(),
            number(of(&|phase| phase.reads as f64)),
            runs.iter()
                .map(|run| run[n].failed)
                .sum::<u64>()
                .to_string(),
            number(of(&|phase| phase.origin.gets as f64)),
            number(of(&|phase| phase.origin.heads as f64)),
            number(gets / objects as f64),
            format!("{} x", number(bytes / (objects * MIB) as f64)),
        ]);
    }
    section.table(title, &rows);
    let failed: u64 = runs.iter().flatten().map(|phase| phase.failed).sum();
    section.target(&format!("{title}: failed reads"), failed as f64, 0.0, "");
    section.target(
        &format!("{title}: origin GETs a chunk when all is over"),
        gets / objects as f64,
        1.1,
        "",
    );
}

/// A cluster that changes.
struct Churn<'a> {
    run: &'a Run,
    way: Way,
    origin: Origin,
    founder: Founder,
    dns: Option<Dnsmasq>,
    members: Vec<Member>,
    readers: Arc<Readers>,
}

struct Member {
    peer: Option<Peer>,
    internal: String,
    gossip: String,
    /// Tells its reader to go.
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// What all readers share.
struct Readers {
    expected: Vec<Bytes>,
    reads: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
}

impl<'a> Churn<'a> {
    fn new(run: &'a Run, way: Way, objects: u64) -> Self {
        let origin = Origin::start();
        let expected: Vec<Bytes> = (0..objects)
            .map(|seed| content::bytes(seed, 0, 0, MIB as usize))
            .collect();
        for (n, bytes) in expected.iter().enumerate() {
            origin.put("bench", &n.to_string(), Object::held(bytes.clone()));
        }
        origin.pace(Pace {
            latency: Duration::from_millis(5),
            bandwidth: Some(crate::stampede::BANDWIDTH),
        });
        Self {
            run,
            way,
            origin,
            // Little memory: what is read a second time from the origin is not hidden by a copy that
            // happens to be kept.
            founder: Founder::new(64),
            dns: None,
            members: Vec::new(),
            readers: Arc::new(Readers {
                expected,
                reads: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                wrong: AtomicU64::new(0),
            }),
        }
    }

    async fn run(mut self, section: &mut Section, title: &str) -> Vec<Phase> {
        let lasting = Duration::from_secs(self.run.pick(15, 8));
        for _ in 0..3 {
            self.name_next();
        }
        self.serve_zone();
        for n in 0..3 {
            self.start(n);
        }
        for n in 0..3 {
            self.until_ready(n);
        }
        let mut phases = Vec::new();
        self.phase("3 members", lasting, &mut phases).await;
        for (what, step) in STEPS {
            match step {
                Step::Join => {
                    self.name_next();
                    let n = self.members.len() - 1;
                    self.start(n);
                    // As an orchestrator does it: ready first, then found by the others.
                    self.until_ready(n);
                    self.serve_zone();
                }
                Step::Leave(n) => self.leave(n).await,
            }
            self.phase(what, lasting, &mut phases).await;
        }
        for member in &self.members {
            member.stop.store(true, Relaxed);
        }
        for member in &mut self.members {
            member.until_left().await;
        }
        let peers = self
            .members
            .iter()
            .filter_map(|member| member.peer.as_ref());
        keep_logs(title, peers);
        let wrong = self.readers.wrong.load(Relaxed);
        if wrong > 0 {
            section.wrong(format!("{title}: {wrong} reads"));
        }
        phases
    }

    /// What happens from now on, for so long.
    async fn phase(&self, what: &'static str, lasting: Duration, phases: &mut Vec<Phase>) {
        tokio::time::sleep(lasting).await;
        let so_far = |f: &dyn Fn(&Phase) -> u64| phases.iter().map(f).sum::<u64>();
        let counts = self.origin.counts();
        let phase = Phase {
            what,
            members: self
                .members
                .iter()
                .filter(|member| member.is_there())
                .count(),
            origin: Counts {
                gets: counts.gets - so_far(&|phase| phase.origin.gets),
                heads: counts.heads - so_far(&|phase| phase.origin.heads),
                bytes: counts.bytes - so_far(&|phase| phase.origin.bytes),
                ..Counts::default()
            },
            reads: self.readers.reads.load(Relaxed) - so_far(&|phase| phase.reads),
            failed: self.readers.failed.load(Relaxed) - so_far(&|phase| phase.failed),
        };
        eprintln!("churn by {:?}: {phase:?}", self.way);
        phases.push(phase);
    }

    /// One more member to come.
    fn name_next(&mut self) {
        self.members.push(Member {
            peer: None,
            internal: internal(),
            gossip: format!("127.0.0.1:{}", free_port()),
            stop: Arc::default(),
            reader: None,
        });
    }

    fn start(&mut self, n: usize) {
        let member = &self.members[n];
        let found = match self.way {
            Way::Dns => {
                let server = self.dns.as_ref().expect("the zone is served").addr();
                vec![
                    format!("--peers-dns={SERVICE}"),
                    format!("--peers-dns-server={server}"),
                ]
            }
            Way::Gossip => {
                let mut found = vec![format!("--gossip-listen={}", member.gossip)];
                let seeds = self.members.iter().take(2);
                found.extend(seeds.map(|seed| format!("--gossip-seed={}", seed.gossip)));
                found
            }
        };
        let peer = self
            .founder
            .member(self.run, &self.origin, &member.internal, &found);
        self.members[n].peer = Some(peer);
    }

    /// Waits for it, and lets its reader begin.
    fn until_ready(&mut self, n: usize) {
        let member = &mut self.members[n];
        let Some(peer) = &mut member.peer else {
            return;
        };
        peer.until_ready();
        let url = format!("{}/bench", peer.url());
        let reading = read(self.readers.clone(), url, n as u64, member.stop.clone());
        member.reader = Some(tokio::spawn(reading));
    }

    /// It is taken off its balancer and out of the name service, and told to end.
    async fn leave(&mut self, n: usize) {
        let member = &mut self.members[n];
        member.stop.store(true, Relaxed);
        member.until_left().await;
        keep_logs(&format!("churn {:?} left {n}", self.way), &member.peer);
        let peer = member.peer.take();
        self.serve_zone();
        if let Some(process) = peer {
            end(process);
        }
    }

    /// The name service knows who is there, or about to be.
    fn serve_zone(&mut self) {
        if self.way != Way::Dns {
            return;
        }
        let here = |member: &&Member| !member.stop.load(Relaxed);
        let mut zone = Zone::new().host("m.cache.test", [127, 0, 0, 1].into());
        for member in self.members.iter().filter(here) {
            let port = member.internal.rsplit_once(':').map(|(_, port)| port);
            let port = port.and_then(|port| port.parse().ok()).unwrap_or(0);
            zone = zone.service(SERVICE, "m.cache.test", port, 1);
        }
        match &mut self.dns {
            Some(dns) => dns.serve(&zone),
            None => self.dns = Some(Dnsmasq::start(&zone)),
        }
    }
}

impl Member {
    fn is_there(&self) -> bool {
        self.peer.is_some()
    }

    /// Its reader was told to go.
    async fn until_left(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.await.expect("a reader does not panic");
        }
    }
}

fn end(mut peer: Peer) {
    if let Some(process) = peer.process_mut() {
        process.terminate(DRAIN);
    }
}

/// Reads all objects again and again, in an order of its own, until it is told to stop.
async fn read(readers: Arc<Readers>, url: String, seed: u64, stop: Arc<AtomicBool>) {
    let count = readers.expected.len() as u64;
    let mut turn = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Relaxed) {
        ticks.tick().await;
        // Each pass in another order, and each reader in another one.
        let place = seed * 7919 + turn / count * 104_729;
        let n = (place + turn * step(count)) % count;
        turn += 1;
        let expected = &readers.expected[n as usize];
        let got = load::read(&format!("{url}/{n}"), None, expected, || ()).await;
        readers.reads.fetch_add(1, Relaxed);
        match got {
            Experience::Right { .. } => {}
            Experience::Wrong => _ = readers.wrong.fetch_add(1, Relaxed),
            Experience::Cut => {
                eprintln!("churn: {url}/{n} failed");
                readers.failed.fetch_add(1, Relaxed);
            }
        }
    }
}

/// A stride that meets all of them.
fn step(count: u64) -> u64 {
    (count / 3..)
        .find(|step| gcd(*step, count) == 1)
        .unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
