//! The first byte of those who join on a member that is not the coordinator.

use super::group::{self, Group, Setup, keep_logs};
use crate::{
    load::{self, Experience},
    peers::{CHUNK, Kind, Run},
    report::{Section, median, time},
    stampede::BANDWIDTH,
};
use bytes::Bytes;
use gannet_testkit::{
    client, content,
    origin::{Object, Origin, Pace},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::{sync::oneshot, task::JoinSet};

const LATENCY: Duration = Duration::from_millis(20);

const CLUSTER: Setup = Setup::cluster(5);

const SETUPS: [Setup; 4] = [
    CLUSTER,
    Setup::cluster(1),
    Setup::apart(Kind::NginxSlice, 1),
    Setup::apart(Kind::Varnish, 1),
];

/// First bytes, by who waited for them.
#[derive(Default)]
struct Firsts {
    /// The first reader of an object, of which nothing is known.
    cold: Vec<f64>,
    /// The first reader of an object whose metadata are known.
    known: Vec<f64>,
    /// Those who ask when that one has its first byte, and the last is not read yet from the origin:
    /// at the coordinator, and at the other members.
    coordinator: Vec<f64>,
    others: Vec<f64>,
}

pub(crate) async fn run(run: &Run, section: &mut Section) {
    let title = "joiner: first byte of one chunk of 8 MiB, origin 20 ms away";
    if !run.asked(title) {
        return;
    }
    let origin = Origin::start();
    origin.pace(Pace {
        latency: LATENCY,
        bandwidth: Some(BANDWIDTH),
    });
    let setups = group::asked(run, &SETUPS);
    let groups: BTreeMap<Setup, Group> = setups
        .into_iter()
        .map(|setup| (setup, Group::start(run, setup, &origin, 1024)))
        .collect();
    let mut direct = Vec::new();
    let mut all: BTreeMap<Setup, Firsts> = BTreeMap::new();
    for turn in 0..run.repeats * run.pick(20, 5) {
        let expected = content::bytes(turn as u64, 0, 0, CHUNK as usize);
        let put = |key: &str| {
            origin.put("bench", key, Object::held(expected.clone()));
        };
        put("direct");
        let url = origin.object_url("bench", "direct");
        match load::read(&url, None, &expected, || ()).await {
            Experience::Right { first_byte, .. } => direct.push(first_byte),
            other => section.wrong(format!("{title}: the origin itself: {other:?}")),
        }
        for (setup, group) in &groups {
            let firsts = all.entry(*setup).or_default();
            for known in [false, true] {
                let key = format!(
                    "{}-{}-{turn}-{known}",
                    setup.name().replace(' ', "-"),
                    setup.count
                );
                put(&key);
                let urls = group.urls(&format!("bench/{key}"));
                if known {
                    for url in &urls {
                        // One that cannot be asked is seen by the reads below.
                        let _ = client::head(url, &[]).await;
                    }
                }
                if !one(group, &urls, turn, known, &expected, firsts).await {
                    section.wrong(format!("{title}: {}: {key}", setup.name()));
                }
            }
        }
    }
    let direct_median = median(direct.iter().copied());
    let cell = |values: &[f64]| {
        if values.is_empty() {
            return "-".into();
        }
        let median = median(values.iter().copied());
        let over = median / direct_median.max(f64::MIN_POSITIVE);
        format!("{} ({over:.2} x)", time(median))
    };
    let heads = [
        "",
        "first reader, cold",
        "first reader, metadata known",
        "joiner at the coordinator",
        "joiner at another member",
        "p99",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    let direct_cell = format!("{} (p99 {})", time(direct_median), time(load::p99(&direct)));
    let mut row = vec!["the origin itself".into(), direct_cell];
    row.extend(std::iter::repeat_n("-".to_owned(), 4));
    rows.push(row);
    for (setup, firsts) in &all {
        let others = match firsts.others.is_empty() {
            true => "-".into(),
            false => time(load::p99(&firsts.others)),
        };
        rows.push(vec![
            setup.name(),
            cell(&firsts.cold),
            cell(&firsts.known),
            cell(&firsts.coordinator),
            cell(&firsts.others),
            others,
        ]);
    }
    section.table(title, &rows);
    for (setup, group) in &groups {
        keep_logs(&format!("joiner {}", setup.name()), &group.peers);
    }
    if let Some(firsts) = all.get(&CLUSTER) {
        for (what, values) in [
            ("a joiner while the chunk is arriving", &firsts.others),
            ("the first reader, metadata known", &firsts.known),
        ] {
            section.target(
                &format!("joiner: {what}, not at the coordinator, over a direct read's first byte"),
                median(values.iter().copied()) / direct_median.max(f64::MIN_POSITIVE),
                1.5,
                "x",
            );
        }
    }
}

/// One object: a first reader, and one more on each member once that one has its first byte. Says
/// whether all was right.
async fn one(
    group: &Group,
    urls: &[String],
    turn: usize,
    known: bool,
    expected: &Bytes,
    firsts: &mut Firsts,
) -> bool {
    let gets = "gannet_cluster_asks_total{outcome=\"ok\"}";
    let mut before = Vec::new();
    for peer in &group.peers {
        before.push(peer.metric(gets).await);
    }
    let (has_first, first) = oneshot::channel();
    let (url, body) = (urls[turn % urls.len()].clone(), expected.clone());
    let first_reader = tokio::spawn(async move {
        // Nobody waits only where all is over.
        load::read(&url, None, &body, || _ = has_first.send(())).await
    });
    let mut joiners = JoinSet::new();
    if first.await.is_ok() {
        for (n, url) in urls.iter().cloned().enumerate() {
            let body = expected.clone();
            joiners.spawn(async move { (n, load::read(&url, None, &body, || ()).await) });
        }
    }
    let mut right = true;
    // Who asked nobody is the coordinator.
    let mut asked = Vec::new();
    let joined = joiners.join_all().await;
    let leader = first_reader.await;
    for (peer, before) in group.peers.iter().zip(&before) {
        asked.push(peer.metric(gets).await > *before);
    }
    let alone = urls.len() == 1;
    for (n, read) in joined {
        match read {
            Experience::Right { first_byte, .. } if asked[n] => firsts.others.push(first_byte),
            Experience::Right { first_byte, .. } => firsts.coordinator.push(first_byte),
            Experience::Wrong | Experience::Cut => right = false,
        }
    }
    match leader {
        Ok(Experience::Right { first_byte, .. }) => {
            let list = if known {
                &mut firsts.known
            } else {
                &mut firsts.cold
            };
            // At the coordinator nothing of a cluster is measured.
            if alone || asked[turn % urls.len()] {
                list.push(first_byte);
            }
        }
        _ => right = false,
    }
    right
}
