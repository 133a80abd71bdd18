//! Hits: what they cost the server.

use crate::{
    load::{self, Moved},
    peers::{Kind, Peer, Run},
    report::{Section, median, number},
};
use bytes::Bytes;
use gannet_testkit::{
    content,
    origin::{Object, Origin},
};
use std::{collections::BTreeMap, time::Duration};

const PEERS: [Kind; 5] = [
    Kind::Gannet,
    Kind::NginxSlice,
    Kind::NginxSliceCopy,
    Kind::NginxWhole,
    Kind::Varnish,
];

struct Size {
    title: &'static str,
    bytes: u64,
    objects: u64,
    connections: usize,
}

const SIZES: [Size; 3] = [
    Size {
        title: "4 KiB",
        bytes: 4 << 10,
        objects: 64,
        connections: 32,
    },
    Size {
        title: "1 MiB",
        bytes: 1 << 20,
        objects: 16,
        connections: 16,
    },
    Size {
        title: "64 MiB",
        bytes: 64 << 20,
        objects: 4,
        connections: 8,
    },
];

struct Measured {
    moved: Moved,
    cpu: f64,
}

pub(crate) async fn run(run: &Run) -> Section {
    let mut section = Section::new(
        "warm",
        "Hits over connections that stay open. CPU is user and system time of all the server's processes;\n\
         the clients run on the same cores, in this process.",
    );
    let lasting = Duration::from_secs(run.pick(6, 1));
    let origin = Origin::start();
    for size in &SIZES {
        for index in 0..size.objects {
            let object = Object::generated(index, size.bytes);
            origin.put("bench", &format!("{}/{index}", size.bytes), object);
        }
    }
    // Started once: each is measured in turns, and warm.
    let peers: BTreeMap<Kind, Peer> = run
        .peers(&PEERS)
        .into_iter()
        .map(|kind| (kind, Peer::start(run, kind, &origin, 1024)))
        .collect();
    for size in &SIZES {
        let urls = |peer: &Peer| -> Vec<String> {
            (0..size.objects)
                .map(|n| format!("{}/bench/{}/{n}", peer.url(), size.bytes))
                .collect()
        };
        let expected: Vec<Bytes> = (0..size.objects)
            .map(|index| content::bytes(index, 0, 0, size.bytes as usize))
            .collect();
        for (kind, peer) in &peers {
            for (expected, url) in expected.iter().zip(urls(peer)) {
                // Twice: from the origin, and from the cache.
                for pass in ["cold", "warm"] {
                    let outcome = load::stampede(&url, None, 1, expected).await;
                    if outcome.right != 1 {
                        section.wrong(format!("{}: {}: {pass} {url}", size.title, kind.name()));
                    }
                }
            }
        }
        let mut all: BTreeMap<Kind, Vec<Measured>> = BTreeMap::new();
        for _ in 0..run.repeats {
            for (kind, peer) in &peers {
                let before = peer.process().cpu();
                let moved = load::hits(&urls(peer), size.bytes, size.connections, lasting).await;
                let cpu = (peer.process().cpu() - before).as_secs_f64();
                eprintln!(
                    "warm {}: {}: {moved:?}, {cpu} s of CPU",
                    size.title,
                    kind.name()
                );
                all.entry(*kind).or_default().push(Measured { moved, cpu });
            }
        }
        let heads = [
            "",
            "requests/s",
            "MiB/s",
            "CPU us a request",
            "CPU s a GB",
            "failures",
        ];
        let mut rows = vec![heads.map(String::from).to_vec()];
        let a_request = |m: &Measured| m.cpu * 1e6 / m.moved.requests.max(1) as f64;
        let a_gb = |m: &Measured| m.cpu * 1e9 / m.moved.bytes.max(1) as f64;
        for (kind, runs) in &all {
            let of = |f: &dyn Fn(&Measured) -> f64| median(runs.iter().map(f));
            rows.push(vec![
                kind.name().into(),
                number(of(&|m| m.moved.requests as f64 / m.moved.seconds)),
                number(of(&|m| {
                    m.moved.bytes as f64 / m.moved.seconds / f64::from(1 << 20)
                })),
                number(of(&a_request)),
                number(of(&a_gb)),
                runs.iter()
                    .map(|m| m.moved.failures)
                    .sum::<u64>()
                    .to_string(),
            ]);
        }
        section.table(
            &format!("{}, {} connections", size.title, size.connections),
            &rows,
        );
        let cost = |kind, f: &dyn Fn(&Measured) -> f64| {
            all.get(&kind).map(|runs| median(runs.iter().map(f)))
        };
        if size.bytes == 4 << 10 {
            if let (Some(ours), Some(nginx)) = (
                cost(Kind::Gannet, &a_request),
                cost(Kind::NginxSlice, &a_request),
            ) {
                section.target("4 KiB: CPU a request, at most nginx's", ours, nginx, "us");
            }
        } else if let (Some(ours), Some(nginx)) =
            (cost(Kind::Gannet, &a_gb), cost(Kind::NginxSlice, &a_gb))
        {
            section.target(
                &format!("{}: CPU a GB, at most nginx's", size.title),
                ours,
                nginx,
                "s",
            );
        }
    }
    section
}
