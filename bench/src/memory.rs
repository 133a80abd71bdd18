//! Resident memory under a stampede and with idle connections, beside the tier that was configured.

use crate::{
    load,
    peers::{Kind, Peer, Run},
    report::{Section, median, number},
    stampede::BANDWIDTH,
};
use bytes::Bytes;
use gannet_testkit::{
    client::{self, Connection},
    content,
    origin::{Object, Origin, Pace},
};
use std::time::Duration;

/// The target: so many MB beside the tiers.
const BESIDE_MAX: f64 = 200.0;

/// One who is looked at.
struct Case {
    kind: Kind,
    name: &'static str,
    /// MiB of Gannet's memory tier.
    tier: u64,
    disk: bool,
}

const CASES: [Case; 4] = [
    Case {
        kind: Kind::Gannet,
        name: "gannet, memory 64 MiB and a disk",
        tier: 64,
        disk: true,
    },
    Case {
        kind: Kind::Gannet,
        name: "gannet, memory 1 GiB, no disk",
        tier: 1024,
        disk: false,
    },
    Case {
        kind: Kind::NginxSlice,
        name: "nginx slice 8m",
        tier: 0,
        disk: true,
    },
    Case {
        kind: Kind::Varnish,
        name: "varnish",
        tier: 0,
        disk: false,
    },
];

/// Bytes resident, and those of them beside the memory tier; the most of each.
#[derive(Clone, Copy, Default)]
struct Seen {
    all: u64,
    beside: u64,
}

impl Seen {
    async fn look(&mut self, peer: &Peer) {
        // The tier first: what it takes in meanwhile counts as beside it, not against.
        let held = peer.metric("gannet_store_bytes{tier=\"memory\"}").await;
        let all = peer.process().resident();
        self.all = self.all.max(all);
        self.beside = self.beside.max(all.saturating_sub(held as u64));
    }
}

pub(crate) async fn run(run: &Run) -> Section {
    let mut section = Section::new(
        "memory",
        "What is resident (all processes, sampled every 50 ms) while a stampede for a cold object goes on,\n\
         and then with idle connections that have each fetched 4 KiB; \"beside\" is without the bytes that\n\
         Gannet's memory tier holds at that moment, by its own metrics. nginx caches on disk, Varnish in\n\
         6 GiB of memory.",
    );
    let mib = 1 << 20;
    let (clients, size) = run.pick((200, 256 * mib), (10, 32 * mib));
    let idle = run.pick(5_000, 100);
    let expected = content::bytes(3, 0, 0, size as usize);
    let heads = [
        "",
        "at first, MiB",
        "stampede, most, MiB",
        "beside the tier, MB",
        "idle connections, MiB",
        "beside the tier, MB",
        "KiB a connection",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    let kinds = run.peers(&CASES.map(|case| case.kind));
    let cases: Vec<_> = CASES
        .iter()
        .filter(|case| kinds.contains(&case.kind))
        .collect();
    let mut measured = vec![Vec::new(); cases.len()];
    for _ in 0..run.repeats {
        for (case, runs) in cases.iter().zip(&mut measured) {
            let origin = Origin::start();
            origin.put("bench", "object", Object::held(expected.clone()));
            origin.put("bench", "small", Object::generated(4, 4 << 10));
            origin.pace(Pace {
                bandwidth: Some(BANDWIDTH),
                ..Pace::default()
            });
            let peer = Peer::start_with(run, case.kind, &origin, case.tier, case.disk);
            let first = peer.process().resident();
            let (stampede, wrong) = stampede(&peer, clients, &expected).await;
            let before = peer.process().resident();
            let (resting, failed) = rest(&peer, idle).await;
            let ours = case.kind == Kind::Gannet;
            if wrong > 0 || ours && failed > 0 {
                let what = format!("{wrong} clients, {failed} idle connections");
                section.wrong(format!("{}: {what}", case.name));
            }
            let grown = resting.all.saturating_sub(before) as f64 / 1024.0;
            let connections = idle - failed;
            let values = [
                (first / mib) as f64,
                (stampede.all / mib) as f64,
                stampede.beside as f64 / 1e6,
                (resting.all / mib) as f64,
                resting.beside as f64 / 1e6,
                grown / connections.max(1) as f64,
            ];
            eprintln!("memory: {}: {values:?}", case.name);
            runs.push(values);
        }
    }
    for (case, runs) in cases.iter().zip(&measured) {
        let of = |n: usize| median(runs.iter().map(|values| values[n]));
        let ours = case.kind == Kind::Gannet;
        let mut row = vec![case.name.into()];
        // Only Gannet says what its tier holds.
        row.extend((0..6).map(|n| {
            if ours || n != 2 && n != 4 {
                number(of(n))
            } else {
                "-".into()
            }
        }));
        rows.push(row);
        if ours {
            for (what, n) in [("stampede", 2), ("idle connections", 4)] {
                let title = format!("{}: {what}, beside the tier", case.name);
                section.target(&title, of(n), BESIDE_MAX, "MB");
            }
        }
    }
    let title = format!(
        "{clients} clients, {} MiB; {idle} idle connections",
        size / mib
    );
    section.table(&title, &rows);
    section
}

/// What is resident during a stampede, and how many clients got something wrong.
async fn stampede(peer: &Peer, clients: usize, expected: &Bytes) -> (Seen, usize) {
    let url = format!("{}/bench/object", peer.url());
    let mut stampede = std::pin::pin!(load::stampede(&url, None, clients, expected));
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let mut seen = Seen::default();
    let outcome = loop {
        tokio::select! {
            outcome = &mut stampede => break outcome,
            _ = tick.tick() => seen.look(peer).await,
        }
    };
    (seen, outcome.wrong)
}

/// What is resident with so many connections open that have nothing to do, and how many of them did
/// not get what they asked for.
async fn rest(peer: &Peer, connections: usize) -> (Seen, usize) {
    let url = format!("{}/bench/small", peer.url());
    let authority = client::split(&url).0;
    let (mut open, mut failed) = (Vec::with_capacity(connections), 0);
    for _ in 0..connections {
        let asked = async {
            let mut connection = Connection::open(authority).await?;
            let answer = connection.request("GET", &url, &[], b"").await?;
            std::io::Result::Ok((connection, answer))
        };
        match asked.await {
            Ok((connection, answer)) if answer.status == 200 && answer.body.len() == 4 << 10 => {
                open.push(connection);
            }
            _ => failed += 1,
        }
    }
    let mut seen = Seen::default();
    seen.look(peer).await;
    drop(open);
    (seen, failed)
}
