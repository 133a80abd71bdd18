//! Many clients of all members, one cold object.

use super::{
    MIB,
    group::{self, Group, Setup, keep_logs},
};
use crate::{
    load::{self, Outcome},
    peers::{Kind, Run},
    report::{Section, median, number, time},
    stampede::BANDWIDTH,
};
use bytes::Bytes;
use gannet_testkit::{
    content,
    origin::{Counts, Object, Origin, Pace},
};
use std::collections::BTreeMap;

const CLUSTER: Setup = Setup::cluster(5);

/// As many that do not know each other show what that many processes cost here.
const SETUPS: [Setup; 7] = [
    CLUSTER,
    Setup::apart(Kind::Gannet, 5),
    Setup::cluster(1),
    Setup::apart(Kind::NginxSlice, 1),
    Setup::apart(Kind::NginxSlice, 3),
    Setup::apart(Kind::Varnish, 1),
    Setup::apart(Kind::Varnish, 3),
];

struct Measured {
    outcome: Outcome,
    origin: Counts,
    /// Bytes between members.
    between: f64,
    hedges: f64,
    /// Seconds of CPU, of all servers.
    cpu: f64,
}

pub(crate) async fn run(run: &Run, section: &mut Section) {
    let cases = [
        (run.pick(1000, 50), 32 * MIB),
        (run.pick(20, 5), run.pick(1024, 64) * MIB),
    ];
    let title = |(clients, size): &(usize, u64)| {
        format!(
            "stampede: {clients} clients, one cold object of {} MiB",
            size / MIB
        )
    };
    let cases: Vec<_> = cases
        .iter()
        .filter(|case| run.asked(&title(case)))
        .collect();
    let size_max = cases.iter().map(|(_, size)| *size).max().unwrap_or(0);
    let content = content::bytes(11, 0, 0, size_max as usize);
    for case in cases {
        let expected = content.slice(..case.1 as usize);
        measure(run, section, &title(case), case.0, &expected).await;
    }
}

async fn measure(run: &Run, section: &mut Section, title: &str, clients: usize, expected: &Bytes) {
    let mut all: BTreeMap<Setup, Vec<Measured>> = BTreeMap::new();
    for _ in 0..run.repeats {
        for setup in group::asked(run, &SETUPS) {
            let origin = Origin::start();
            origin.put("bench", "object", Object::held(expected.clone()));
            origin.pace(Pace {
                bandwidth: Some(BANDWIDTH),
                ..Pace::default()
            });
            let group = Group::start(run, setup, &origin, 1024);
            let urls = group.urls("bench/object");
            let outcome = load::stampede_over(&urls, None, clients, expected).await;
            let measured = Measured {
                outcome,
                origin: origin.counts(),
                between: group
                    .metric("gannet_cluster_bytes_total{direction=\"received\"}")
                    .await,
                hedges: group.metric("gannet_fetch_hedges_total").await,
                cpu: group.cpu(),
            };
            eprintln!(
                "{title}: {}: {:?}, {:?}, {} MiB between members, {} hedges, {} s of CPU",
                setup.name(),
                measured.outcome,
                measured.origin,
                measured.between / MIB as f64,
                measured.hedges,
                measured.cpu
            );
            keep_logs(&format!("{title} {}", setup.name()), &group.peers);
            all.entry(setup).or_default().push(measured);
        }
    }
    let heads = [
        "",
        "served right",
        "first byte, median",
        "p99",
        "last client",
        "origin GETs",
        "HEADs",
        "x the object",
        "between members",
        "CPU us a MiB",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    let size = expected.len() as f64;
    for (setup, runs) in &all {
        let of = |f: &dyn Fn(&Measured) -> f64| median(runs.iter().map(f));
        rows.push(vec![
            setup.name(),
            format!("{} of {clients}", of(&|m| m.outcome.right as f64)),
            time(of(&|m| m.outcome.first_byte_median)),
            time(of(&|m| m.outcome.first_byte_p99)),
            time(of(&|m| m.outcome.total)),
            number(of(&|m| m.origin.gets as f64)),
            number(of(&|m| m.origin.heads as f64)),
            format!("{} x", number(of(&|m| m.origin.bytes as f64) / size)),
            match setup.together {
                true => format!("{} x", number(of(&|m| m.between) / size)),
                false => "-".into(),
            },
            number(of(&|m| m.cpu) * 1e6 / (size * clients as f64 / MIB as f64)),
        ]);
        let wrong: usize = runs.iter().map(|m| m.outcome.wrong).sum();
        if wrong > 0 {
            section.wrong(format!("{title}: {}: {wrong} clients", setup.name()));
        }
    }
    section.table(title, &rows);
    let Some(ours) = all.get(&CLUSTER) else {
        return;
    };
    // The worst run, not the median: once is what is promised.
    let most = |f: &dyn Fn(&Measured) -> f64| ours.iter().map(f).fold(0.0, f64::max);
    let chunks = expected.len().div_ceil(crate::peers::CHUNK as usize) as f64;
    section.target(
        &format!("{title}: origin bytes over the object's, the worst run"),
        most(&|m| m.origin.bytes as f64) / size,
        1.0,
        "x",
    );
    section.target(
        &format!("{title}: origin GETs a chunk, the worst run"),
        most(&|m| m.origin.gets as f64) / chunks,
        1.0,
        "",
    );
    section.target(
        &format!("{title}: clients not served, the worst run"),
        most(&|m| clients as f64 - m.outcome.right as f64),
        0.0,
        "",
    );
}
