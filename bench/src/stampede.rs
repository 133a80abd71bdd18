//! Many clients, one cold object.

use crate::{
    load::{self, Outcome},
    peers::{Kind, Peer, Run},
    report::{Section, median, number, time},
};
use bytes::Bytes;
use gannet_testkit::{
    content,
    origin::{Counts, Object, Origin, Pace},
    peers::Nginx,
};
use std::{collections::BTreeMap, ops::Range};

/// What the origin gives each connection.
pub(crate) const BANDWIDTH: u64 = 64 << 20;

const PEERS: [Kind; 4] = [
    Kind::Gannet,
    Kind::NginxSlice,
    Kind::NginxWhole,
    Kind::Varnish,
];

/// One case: so many clients for so many bytes.
struct Case {
    title: String,
    clients: usize,
    size: u64,
    range: Option<Range<u64>>,
}

struct Measured {
    outcome: Outcome,
    origin: Counts,
    hedges: f64,
}

/// Runs all peers in turns; for each the runs it had.
async fn measure(run: &Run, case: &Case, expected: &Bytes) -> BTreeMap<Kind, Vec<Measured>> {
    let mut all: BTreeMap<Kind, Vec<Measured>> = BTreeMap::new();
    for _ in 0..run.repeats {
        for kind in run.peers(&PEERS) {
            let origin = Origin::start();
            origin.put("bench", "object", Object::held(expected.clone()));
            origin.pace(Pace {
                bandwidth: Some(BANDWIDTH),
                ..Pace::default()
            });
            let peer = Peer::start(run, kind, &origin, 1024);
            let url = format!("{}/bench/object", peer.url());
            let outcome = load::stampede(&url, case.range.clone(), case.clients, expected).await;
            eprintln!("{}: {}: {outcome:?}", case.title, kind.name());
            all.entry(kind).or_default().push(Measured {
                outcome,
                origin: origin.counts(),
                hedges: peer.metric("gannet_fetch_hedges_total").await,
            });
        }
    }
    all
}

pub(crate) async fn run(run: &Run) -> Section {
    let mut section = Section::new(
        "stampede",
        "Clients that ask at the same moment for an object that is not cached; the origin gives 64 MiB/s to\n\
         each connection. Every client compares every byte.",
    );
    let mib = 1 << 20;
    let large = run.pick(1 << 30, 64 * mib);
    let small = run.pick(256 * mib, 32 * mib);
    let cases = [
        Case {
            title: format!("{} clients, {} MiB", run.pick(200, 10), small / mib),
            clients: run.pick(200, 10),
            size: small,
            range: None,
        },
        Case {
            title: format!("{} clients, {} MiB", run.pick(20, 4), large / mib),
            clients: run.pick(20, 4),
            size: large,
            range: None,
        },
        Case {
            title: format!("the last MiB of {} MiB", large / mib),
            clients: 1,
            size: large,
            range: Some(large - mib..large),
        },
    ];
    let content = content::bytes(1, 0, 0, large.max(small) as usize);
    for case in cases.iter().filter(|case| run.asked(&case.title)) {
        let expected = content.slice(..case.size as usize);
        let measured = measure(run, case, &expected).await;
        let heads = [
            "",
            "served right",
            "first byte, median",
            "p99",
            "total, median",
            "last client",
            "origin GETs",
            "origin MiB",
            "x the bytes asked",
        ];
        let mut rows = vec![heads.map(String::from).to_vec()];
        let asked = case
            .range
            .as_ref()
            .map_or(case.size, |range| range.end - range.start);
        for (kind, runs) in &measured {
            let of = |f: &dyn Fn(&Measured) -> f64| median(runs.iter().map(f));
            let bytes = of(&|m| m.origin.bytes as f64);
            rows.push(vec![
                kind.name().into(),
                format!("{} of {}", of(&|m| m.outcome.right as f64), case.clients),
                time(of(&|m| m.outcome.first_byte_median)),
                time(of(&|m| m.outcome.first_byte_p99)),
                time(of(&|m| m.outcome.total_median)),
                time(of(&|m| m.outcome.total)),
                number(of(&|m| m.origin.gets as f64)),
                number(bytes / mib as f64),
                format!("{} x", number(bytes / asked as f64)),
            ]);
            let wrong: usize = runs.iter().map(|m| m.outcome.wrong).sum();
            if wrong > 0 {
                section.wrong(format!("{}: {}: {wrong} clients", case.title, kind.name()));
            }
        }
        section.table(&case.title, &rows);
        let value = |kind, f: fn(&Measured) -> f64| {
            measured.get(&kind).map(|runs| median(runs.iter().map(f)))
        };
        let title = &case.title;
        let Some(bytes) = value(Kind::Gannet, |m| m.origin.bytes as f64) else {
            continue;
        };
        if case.range.is_none() {
            section.target(
                &format!("{title}: origin bytes over the object's"),
                bytes / case.size as f64,
                1.0,
                "x",
            );
            let hedges = value(Kind::Gannet, |m| m.hedges).unwrap_or(0.0);
            section.target(&format!("{title}: hedges"), hedges, 0.0, "");
            let right = value(Kind::Gannet, |m| m.outcome.right as f64).unwrap_or(0.0);
            section.target(
                &format!("{title}: clients not served"),
                case.clients as f64 - right,
                0.0,
                "",
            );
            if let (Some(ours), Some(varnish)) = (
                value(Kind::Gannet, |m| m.outcome.first_byte_median),
                value(Kind::Varnish, |m| m.outcome.first_byte_median),
            ) {
                section.target(
                    &format!("{title}: median first byte, at most Varnish's"),
                    ours * 1e3,
                    varnish * 1e3,
                    "ms",
                );
            }
            let warm = warm_files(run, case, &expected).await;
            let origin = case.size as f64 / BANDWIDTH as f64;
            let ours = value(Kind::Gannet, |m| m.outcome.total).unwrap_or(0.0);
            section.target(
                &format!(
                    "{title}: last client, within 1.1 x of the slower of the origin ({}) and nginx serving the file warm ({})",
                    time(origin),
                    time(warm)
                ),
                ours,
                1.1 * origin.max(warm),
                "s",
            );
        } else {
            section.target(
                &format!("{title}: origin bytes, one chunk"),
                bytes / mib as f64,
                8.0,
                "MiB",
            );
        }
    }
    section
}

/// The last client's time when nginx serves the file from the page cache.
async fn warm_files(run: &Run, case: &Case, expected: &Bytes) -> f64 {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("object"), expected).expect("there is room");
    let nginx = Nginx::files(dir.path());
    let mut totals = Vec::new();
    for _ in 0..run.repeats {
        let url = format!("{}/object", nginx.url());
        let outcome = load::stampede(&url, case.range.clone(), case.clients, expected).await;
        totals.push(outcome.total);
    }
    median(totals)
}
