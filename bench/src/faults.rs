//! An origin that resets and stalls.

use crate::{
    load::{self, Outcome},
    peers::{Kind, Peer, Run},
    report::{Section, median, number, time},
    stampede::BANDWIDTH,
};
use gannet_testkit::{
    content,
    origin::{Counts, Fault, Object, Origin, Pace, Rule},
};
use std::{collections::BTreeMap, time::Duration};

const PEERS: [Kind; 4] = [
    Kind::Gannet,
    Kind::NginxSlice,
    Kind::NginxWhole,
    Kind::Varnish,
];

struct Case {
    title: String,
    clients: usize,
    size: u64,
    rule: Rule,
}

pub(crate) async fn run(run: &Run) -> Section {
    let mut section = Section::new(
        "faults",
        "Clients that ask at the same moment for a cold object of an origin that fails; 64 MiB/s to each\n\
         connection. \"Served\" is the whole object, byte for byte.",
    );
    let mib = 1 << 20;
    let reset = Rule::new(Fault::Reset { after: 4 * mib });
    let stall = Fault::Stall {
        at: mib,
        lasting: Duration::from_secs(15),
    };
    let (many, few) = (run.pick(50, 5), run.pick(20, 4));
    let size = run.pick(64 * mib, 16 * mib);
    let cases = [
        Case {
            title: format!(
                "the first answer is reset after 4 MiB: {many} clients, {} MiB",
                size / mib
            ),
            clients: many,
            size,
            rule: reset.clone().times(1),
        },
        Case {
            title: format!(
                "every answer is reset after 4 MiB: {many} clients, {} MiB",
                size / mib
            ),
            clients: many,
            size,
            rule: reset,
        },
        Case {
            title: format!(
                "the first answer stalls for 15 s at 1 MiB: {few} clients, {} MiB",
                size / mib
            ),
            clients: few,
            size,
            rule: Rule::new(stall).times(1),
        },
    ];
    let expected = content::bytes(2, 0, 0, size as usize);
    for (index, case) in cases.iter().enumerate() {
        let mut measured: BTreeMap<Kind, Vec<(Outcome, Counts)>> = BTreeMap::new();
        for _ in 0..run.repeats {
            for kind in run.peers(&PEERS) {
                let origin = Origin::start();
                origin.put("bench", "object", Object::held(expected.clone()));
                origin.pace(Pace {
                    bandwidth: Some(BANDWIDTH),
                    ..Pace::default()
                });
                let peer = Peer::start(run, kind, &origin, 1024);
                // Where a peer asks for the head first, the rule waits for the body.
                origin.rule(
                    case.rule
                        .clone()
                        .method(gannet_testkit::origin::Method::Get),
                );
                let url = format!("{}/bench/object", peer.url());
                let outcome = load::stampede(&url, None, case.clients, &expected).await;
                eprintln!("{}: {}: {outcome:?}", case.title, kind.name());
                measured
                    .entry(kind)
                    .or_default()
                    .push((outcome, origin.counts()));
            }
        }
        let heads = [
            "",
            "served",
            "first byte, median",
            "total, median",
            "last client",
            "origin GETs",
            "origin bytes",
        ];
        let mut rows = vec![heads.map(String::from).to_vec()];
        for (kind, runs) in &measured {
            let of =
                |f: &dyn Fn(&Outcome, &Counts) -> f64| median(runs.iter().map(|(o, c)| f(o, c)));
            rows.push(vec![
                kind.name().into(),
                format!("{} of {}", of(&|o, _| o.right as f64), case.clients),
                time(of(&|o, _| o.first_byte_median)),
                time(of(&|o, _| o.total_median)),
                time(of(&|o, _| o.total)),
                number(of(&|_, c| c.gets as f64)),
                format!(
                    "{} x",
                    number(of(&|_, c| c.bytes as f64) / case.size as f64)
                ),
            ]);
            let wrong: usize = runs.iter().map(|(o, _)| o.wrong).sum();
            if wrong > 0 {
                section.wrong(format!("{}: {}: {wrong} clients", case.title, kind.name()));
            }
        }
        section.table(&case.title, &rows);
        let Some(ours) = measured.get(&Kind::Gannet) else {
            continue;
        };
        let of = |f: fn(&Outcome, &Counts) -> f64| median(ours.iter().map(|(o, c)| f(o, c)));
        let title = case.title.split(':').next().unwrap_or_default();
        let unserved = case.clients as f64 - of(|o, _| o.right as f64);
        section.target(&format!("{title}: clients not served"), unserved, 0.0, "");
        if index < 2 {
            let chunks = case.size.div_ceil(crate::peers::CHUNK) as f64;
            section.target(
                &format!("{title}: origin GETs a chunk"),
                of(|_, c| c.gets as f64) / chunks,
                2.0,
                "",
            );
        } else {
            section.target(
                &format!("{title}: last client"),
                of(|o, _| o.total),
                2.5,
                "s",
            );
        }
    }
    section
}
