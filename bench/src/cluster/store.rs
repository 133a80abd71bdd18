//! Many clients of members that share a store, one cold object; and the same of new members, which have
//! nothing but the store.

use super::{
    MIB,
    group::{Founder, internal, keep_logs},
};
use crate::{
    load::{self, Outcome},
    peers::{CHUNK, Kind, Peer, Run},
    report::{Section, median, number, time},
    stampede::BANDWIDTH,
};
use bytes::Bytes;
use gannet_testkit::{
    content,
    origin::{Counts, Object, Origin, Pace},
    peers::{Haproxy, Moto},
};
use std::time::{Duration, Instant};

const MEMBERS: usize = 3;
const STORED: &str = "gannet_store_commits_total{tier=\"shared\",outcome=\"stored\"}";
/// What is stored in the background has to be there by then.
const STORE_TIME_MAX: Duration = Duration::from_secs(600);

struct Measured {
    outcome: Outcome,
    origin: Counts,
    /// From the last client's end until all was in the store; none if that never was.
    stored: Option<f64>,
    failed: f64,
}

pub(crate) async fn run(run: &Run, section: &mut Section) {
    let cases = [
        (run.pick(1000, 51), 32 * MIB),
        (run.pick(20, 6), run.pick(1024, 64) * MIB),
    ];
    for (clients, size) in cases {
        let title = format!(
            "store: {clients} clients of {MEMBERS} members with a store, one cold object of {} MiB",
            size / MIB
        );
        if run.asked(&title) && !run.peers(&[Kind::Gannet]).is_empty() {
            case(run, section, &title, clients, size).await;
        }
    }
}

async fn case(run: &Run, section: &mut Section, title: &str, clients: usize, size: u64) {
    let expected = content::bytes(11, 0, 0, size as usize);
    let (mut cold, mut anew) = (Vec::new(), Vec::new());
    for _ in 0..run.repeats {
        let origin = Origin::start();
        origin.put("bench", "object", Object::held(expected.clone()));
        origin.pace(Pace {
            bandwidth: Some(BANDWIDTH),
            ..Pace::default()
        });
        let moto = Moto::start();
        moto.bucket("store").await;
        // Of two puts at once moto may accept both, and would be refused for that.
        let address = moto.url().trim_start_matches("http://");
        let store = Haproxy::queue(address.parse().expect("an address"));
        for all in [&mut cold, &mut anew] {
            let measured = measure(run, title, &origin, store.url(), clients, &expected).await;
            eprintln!(
                "{title}: {:?}, {:?}, stored {:?} s later, {} errors of the store",
                measured.outcome, measured.origin, measured.stored, measured.failed
            );
            all.push(measured);
            origin.forget().await;
        }
    }
    let heads = [
        "",
        "served right",
        "last client",
        "origin GETs",
        "HEADs",
        "x the object",
        "stored, after that",
        "errors of the store",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for (name, runs) in [("cold", &cold), ("new members, the same store", &anew)] {
        let of = |f: &dyn Fn(&Measured) -> f64| median(runs.iter().map(f));
        rows.push(vec![
            name.into(),
            format!("{} of {clients}", of(&|m| m.outcome.right as f64)),
            time(of(&|m| m.outcome.total)),
            number(of(&|m| m.origin.gets as f64)),
            number(of(&|m| m.origin.heads as f64)),
            format!("{} x", number(of(&|m| m.origin.bytes as f64) / size as f64)),
            match runs.iter().all(|m| m.stored.is_some()) {
                true => time(of(&|m| m.stored.unwrap_or_default())),
                false => "not all".into(),
            },
            number(of(&|m| m.failed)),
        ]);
        let wrong: usize = runs.iter().map(|m| m.outcome.wrong).sum();
        if wrong > 0 {
            section.wrong(format!("{title}: {name}: {wrong} clients"));
        }
    }
    section.table(title, &rows);
    // The worst run, not the median: once is what is promised.
    let most =
        |runs: &[Measured], f: &dyn Fn(&Measured) -> f64| runs.iter().map(f).fold(0.0, f64::max);
    let chunks = size.div_ceil(CHUNK) as f64;
    section.target(
        &format!("{title}: origin bytes over the object's, the worst run"),
        most(&cold, &|m| m.origin.bytes as f64) / size as f64,
        1.0,
        "x",
    );
    section.target(
        &format!("{title}: origin GETs a chunk, the worst run"),
        most(&cold, &|m| m.origin.gets as f64) / chunks,
        1.0,
        "",
    );
    section.target(
        &format!("{title}: new members, origin bytes over the object's, the worst run"),
        most(&anew, &|m| m.origin.bytes as f64) / size as f64,
        0.0,
        "x",
    );
}

/// Starts members with this store and nothing else, and lets clients loose on them.
async fn measure(
    run: &Run,
    title: &str,
    origin: &Origin,
    store: &str,
    clients: usize,
    expected: &Bytes,
) -> Measured {
    let founder = Founder::new(1024);
    let internal: Vec<String> = (0..MEMBERS).map(|_| internal()).collect();
    let found = [
        format!("--peers={}", internal.join(",")),
        format!("--store=s3://store/chunks?endpoint={store}"),
    ];
    let start = |own: &String| founder.member(run, origin, own, &found);
    let mut peers: Vec<Peer> = internal.iter().map(start).collect();
    peers.iter_mut().for_each(Peer::until_ready);
    let urls: Vec<_> = peers
        .iter()
        .map(|peer| format!("{}/bench/object", peer.url()))
        .collect();
    let outcome = load::stampede_over(&urls, None, clients, expected).await;
    let metric = async |name: &str| {
        let mut sum = 0.0;
        for peer in &peers {
            sum += peer.metric(name).await;
        }
        sum
    };
    // What came from the store is not put there again.
    let chunks = origin.counts().gets as f64;
    let begun = Instant::now();
    let mut stored = None;
    while stored.is_none() && begun.elapsed() < STORE_TIME_MAX {
        if metric(STORED).await >= chunks {
            stored = Some(begun.elapsed().as_secs_f64());
        } else if metric("gannet_store_errors_total{tier=\"shared\"}").await > 0.0 {
            // Some is not there, and will not be.
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    keep_logs(title, &peers);
    Measured {
        outcome,
        origin: origin.counts(),
        stored,
        failed: metric("gannet_store_errors_total{tier=\"shared\"}").await,
    }
}
