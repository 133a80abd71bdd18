//! What verifying costs.

use crate::{
    lab::Lab,
    report::{Section, number},
};
use bytes::Bytes;
use gannet_matrix::verify::{
    Verified,
    batch::{Answer, Batch, Limits, verify_all},
    pdu::Expect,
    rules::Rules,
};
use ruma_common::{CanonicalJsonObject, RoomVersionId};
use ruma_signatures::verify_event;
use std::{hint::black_box, thread, time::Instant};

/// Of how many events an answer is made.
const EVENTS: usize = 4_000;

/// Events a second.
fn rate(events: usize, work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    events as f64 / began.elapsed().as_secs_f64()
}

/// `work` on so many threads at once.
fn on_threads(threads: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

/// Measures it on these events, which are whole.
pub(crate) fn measure(lab: &Lab, events: &[Bytes], rounds: usize, section: &mut Section) {
    let rules = Rules::of(&RoomVersionId::V10).expect("a known version");
    let (ours, rumas) = lab.keys();
    let objects: Vec<CanonicalJsonObject> = events
        .iter()
        .map(|raw| serde_json::from_slice(raw).expect("a verified event is JSON"))
        .collect();
    let texts: Vec<_> = events
        .iter()
        .map(|raw| String::from_utf8_lossy(raw))
        .collect();
    let body: Bytes = format!("{{\"pdus\":[{}]}}", texts.join(",")).into();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let times = EVENTS.div_ceil(events.len());
    let all = times * events.len();

    let ruma = || {
        for object in (0..times).flat_map(|_| &objects) {
            let verified = verify_event(&rumas, object, rules.ruma()).expect("it fits");
            assert_eq!(black_box(verified), Verified::All);
        }
    };
    let prove = |threads| {
        for _ in 0..times {
            let batch = Batch::split(Answer::Backfill, &body, &Limits::default());
            let salvage = verify_all(
                batch.expect("an answer"),
                rules,
                &Expect::default(),
                &ours,
                threads,
            );
            assert_eq!(
                salvage.good.len(),
                events.len(),
                "{:?}",
                salvage.bad.first()
            );
            assert!(
                salvage
                    .good
                    .iter()
                    .all(|good| good.proof.verified == Verified::All)
            );
        }
    };
    // In turns; the best of each, for what else runs only takes away.
    let mut best = [0_f64; 4];
    for _ in 0..rounds {
        let measured = [
            rate(all, ruma),
            rate(all, || prove(1)),
            rate(cores * all, || on_threads(cores, ruma)),
            rate(all, || prove(cores)),
        ];
        for (best, measured) in best.iter_mut().zip(measured) {
            *best = best.max(measured);
        }
    }
    let [ruma_one, our_one, ruma_all, our_all] = best;
    let mut rows = vec![
        ["", "on one core", "", "on all", "x"]
            .map(String::from)
            .to_vec(),
    ];
    for (what, one, all) in [
        (
            "verify_event of parsed events, each core its own",
            ruma_one,
            ruma_all,
        ),
        ("ours, an answer from bytes to proof", our_one, our_all),
    ] {
        rows.push(vec![
            what.to_owned(),
            format!("{} events/s", number(one)),
            format!("{} us", number(1e6 / one)),
            format!("{} events/s", number(all)),
            number(all / one),
        ]);
    }
    section.table(&format!("Verifying, {cores} cores"), &rows);
    section.at_least(
        "verifying, of verify_event alone, per core",
        our_one / ruma_one,
        0.9,
        "x",
    );
    section.at_least(
        "verifying on all cores, of as many times one",
        our_all / our_one / cores as f64,
        0.8,
        "x",
    );
}
