//! What more members cost: hits that each holds, hits that others hold, and cold objects.

use super::{
    MIB,
    group::{self, Group, Setup, keep_logs},
};
use crate::{
    load::{self, Experience, Moved},
    peers::{CHUNK, Kind, Run},
    report::{Section, median, number},
    stampede::BANDWIDTH,
};
use bytes::Bytes;
use gannet_testkit::{
    content,
    origin::{Object, Origin, Pace},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const SETUPS: [Setup; 7] = [
    Setup::cluster(1),
    Setup::cluster(3),
    Setup::cluster(5),
    Setup::apart(Kind::NginxSlice, 1),
    Setup::apart(Kind::NginxSlice, 3),
    Setup::apart(Kind::Varnish, 1),
    Setup::apart(Kind::Varnish, 3),
];

/// Connections of all clients together.
const CONNECTIONS: usize = 15;

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Everything once on each member, from nothing.
    Cold,
    /// What each member keeps.
    Kept,
    /// More than members keep of what others coordinate.
    Of,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    moved: Moved,
    cpu: f64,
    resident: f64,
    /// Origin bytes over those of the objects.
    origin: f64,
    /// Bytes between members over those served.
    between: f64,
}

impl Measured {
    fn mib(&self) -> f64 {
        self.moved.bytes as f64 / MIB as f64
    }

    /// CPU us a MiB.
    fn cost(&self) -> f64 {
        self.cpu * 1e6 / self.mib().max(f64::MIN_POSITIVE)
    }
}

pub(crate) async fn run(run: &Run, section: &mut Section) {
    let objects = run.pick(32, 6);
    let cases = [
        (What::Cold, "cold, each member reads all"),
        (What::Kept, "hits, each member keeps all"),
        (
            What::Of,
            "hits, each member has memory for 16 MiB of what others keep",
        ),
    ];
    for (what, title) in cases {
        let title = format!("size: {objects} objects of 8 MiB, {title}");
        if run.asked(&title) {
            case(run, section, &title, what, objects).await;
        }
    }
}

async fn case(run: &Run, section: &mut Section, title: &str, what: What, objects: u64) {
    let expected: Arc<[Bytes]> = (0..objects)
        .map(|seed| content::bytes(seed, 0, 0, CHUNK as usize))
        .collect();
    let mut setups = group::asked(run, &SETUPS);
    // Others have no hits of other members.
    setups.retain(|setup| what != What::Of || setup.kind == Kind::Gannet);
    let mut all: BTreeMap<Setup, Vec<Measured>> = BTreeMap::new();
    for _ in 0..run.repeats {
        for setup in &setups {
            let measured = measure(run, section, title, what, *setup, &expected).await;
            eprintln!("{title}: {}: {measured:?}", setup.name());
            all.entry(*setup).or_default().push(measured);
        }
    }
    let heads = [
        "",
        "MiB/s",
        "CPU us a MiB",
        "failures",
        "origin, x the objects",
        "between members, x what was served",
        "resident, MiB",
        "a member, MiB",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for (setup, runs) in &all {
        let of = |f: &dyn Fn(&Measured) -> f64| median(runs.iter().map(f));
        let resident = of(&|m| m.resident) / MIB as f64;
        rows.push(vec![
            setup.name(),
            number(of(&|m| m.mib() / m.moved.seconds)),
            number(of(&Measured::cost)),
            runs.iter()
                .map(|m| m.moved.failures)
                .sum::<u64>()
                .to_string(),
            format!("{} x", number(of(&|m| m.origin))),
            match setup.together {
                true => format!("{} x", number(of(&|m| m.between))),
                false => "-".into(),
            },
            number(resident),
            number(resident / setup.count as f64),
        ]);
    }
    let of = |count, f: &dyn Fn(&Measured) -> f64| {
        let runs = all.get(&Setup::cluster(count))?;
        Some(median(runs.iter().map(f)))
    };
    if let (Some(three), Some(five)) = (of(3, &Measured::cost), of(5, &Measured::cost)) {
        let resident = |count| of(count, &|m| m.resident).unwrap_or(0.0) / MIB as f64;
        let grown = |five: f64, three: f64| format!("{:+.1}", (five - three) / 2.0);
        let mut row = vec!["one more member, from 3 to 5".into(), "-".into()];
        row.push(grown(five, three));
        row.extend(["-", "-", "-"].map(String::from));
        row.push(grown(resident(5), resident(3)));
        row.push("-".into());
        rows.push(row);
    }
    section.table(title, &rows);
    for count in [3, 5] {
        let setup = Setup::cluster(count);
        let Some(runs) = all.get(&setup) else {
            continue;
        };
        let most = runs.iter().map(|m| m.origin).fold(0.0, f64::max);
        section.target(
            &format!("{title}: {}: origin bytes over the objects'", setup.name()),
            most,
            1.0,
            "x",
        );
        let failures: u64 = runs.iter().map(|m| m.moved.failures).sum();
        section.target(
            &format!("{title}: {}: failures", setup.name()),
            failures as f64,
            0.0,
            "",
        );
    }
}

async fn measure(
    run: &Run,
    section: &mut Section,
    title: &str,
    what: What,
    setup: Setup,
    expected: &Arc<[Bytes]>,
) -> Measured {
    let origin = Origin::start();
    for (n, bytes) in expected.iter().enumerate() {
        origin.put("bench", &n.to_string(), Object::held(bytes.clone()));
    }
    origin.pace(Pace {
        bandwidth: Some(BANDWIDTH),
        ..Pace::default()
    });
    let group = Group::start(
        run,
        setup,
        &origin,
        if what == What::Of { 16 } else { 1024 },
    );
    let mut before = group.cpu();
    let mut moved = read_all(&group, expected).await;
    if what != What::Cold {
        // Once more: what came from others, or is only half way to a disk, settles.
        let again = read_all(&group, expected).await;
        moved.failures += again.failures;
    }
    if moved.failures > 0 {
        section.wrong(format!("{title}: {}: {moved:?}", setup.name()));
    }
    let received = "gannet_cluster_bytes_total{direction=\"received\"}";
    let mut received_before = 0.0;
    if what != What::Cold {
        before = group.cpu();
        received_before = group.metric(received).await;
        moved = hits(&group, expected.len(), Duration::from_secs(run.pick(5, 1))).await;
    }
    let cpu = group.cpu() - before;
    let objects: usize = expected.iter().map(Bytes::len).sum();
    keep_logs(&format!("{title} {}", setup.name()), &group.peers);
    Measured {
        moved,
        cpu,
        resident: group.resident(),
        origin: origin.counts().bytes as f64 / objects as f64,
        between: (group.metric(received).await - received_before) / moved.bytes.max(1) as f64,
    }
}

/// Each member is asked for all objects once, by clients who compare them; each member's begin at
/// another place.
async fn read_all(group: &Group, expected: &Arc<[Bytes]>) -> Moved {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    let members = group.peers.len();
    let a_member = CONNECTIONS / members;
    for (member, url) in group.urls("bench").into_iter().enumerate() {
        for client in 0..a_member {
            let (url, expected) = (url.clone(), expected.clone());
            clients.spawn(async move {
                let mut moved = Moved::default();
                for turn in (client..expected.len()).step_by(a_member) {
                    let n = (turn + member * expected.len() / members) % expected.len();
                    let read = load::read(&format!("{url}/{n}"), None, &expected[n], || ()).await;
                    match read {
                        Experience::Right { .. } => {
                            moved.requests += 1;
                            moved.bytes += expected[n].len() as u64;
                        }
                        Experience::Wrong | Experience::Cut => moved.failures += 1,
                    }
                }
                moved
            });
        }
    }
    sum(clients.join_all().await, begun.elapsed())
}

/// Hits on all members at once.
async fn hits(group: &Group, objects: usize, lasting: Duration) -> Moved {
    let begun = Instant::now();
    let mut members = JoinSet::new();
    let connections = CONNECTIONS / group.peers.len();
    for url in group.urls("bench") {
        members.spawn(async move {
            let urls: Vec<String> = (0..objects).map(|n| format!("{url}/{n}")).collect();
            load::hits(&urls, CHUNK, connections, lasting).await
        });
    }
    sum(members.join_all().await, begun.elapsed())
}

fn sum(all: Vec<Moved>, seconds: Duration) -> Moved {
    let sum = all.into_iter().reduce(|sum, moved| Moved {
        requests: sum.requests + moved.requests,
        bytes: sum.bytes + moved.bytes,
        failures: sum.failures + moved.failures,
        ..sum
    });
    Moved {
        seconds: seconds.as_secs_f64(),
        ..sum.unwrap_or_default()
    }
}
