//! Ways to get back what a room is missing.

use crate::{
    lab::Lab,
    own_cpu,
    report::{Section, median, number, time},
};
use bytes::Bytes;
use gannet_matrix::{
    Checks, Key, Matrix, Proof,
    fill::{Fill, Goal, Limits, News},
};
use ruma_common::{OwnedEventId, RoomVersionId};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Events, and what was proved of each.
type Found = BTreeMap<OwnedEventId, (Bytes, Proof)>;

#[derive(Clone, Copy, Debug)]
enum Way {
    /// Single events, so many at a time.
    OneByOne(usize),
    Fill,
}

const WAYS: [Way; 3] = [Way::OneByOne(1), Way::OneByOne(8), Way::Fill];

impl Way {
    fn title(self) -> String {
        match self {
            Self::OneByOne(1) => "one by one".to_owned(),
            Self::OneByOne(lanes) => format!("one by one, {lanes} at a time"),
            Self::Fill => "fill".to_owned(),
        }
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Run {
    requests: u64,
    took: Duration,
    cpu: Duration,
    server_cpu: Duration,
}

/// What an event names.
fn named(raw: &[u8]) -> Vec<OwnedEventId> {
    let event: Value = serde_json::from_slice(raw).expect("a verified event is JSON");
    let lists = ["prev_events", "auth_events"].map(|list| event[list].clone());
    let ids = lists.iter().filter_map(Value::as_array).flatten();
    ids.filter_map(|id| id.as_str()?.try_into().ok()).collect()
}

/// As a homeserver that asks for whatever an event names, event by event.
async fn one_by_one(lab: &Lab, matrix: &Matrix, lanes: usize) -> (u64, Found) {
    let (mut requests, mut found) = (0, Found::new());
    let mut ahead = vec![lab.last.clone()];
    let mut seen: BTreeSet<_> = ahead.iter().cloned().collect();
    let mut fetches = JoinSet::new();
    loop {
        while fetches.len() < lanes
            && let Some(id) = ahead.pop()
        {
            let key = Key::event(lab.room.clone(), id).expect("a short id");
            // Told, for whoever asks for it gets a chain, and most of the events with it.
            let opts = lab
                .opts()
                .checks(Checks::REDACTED_TOO)
                .version(RoomVersionId::V10);
            let matrix = matrix.clone();
            fetches.spawn(async move { matrix.fetch(key, opts).await });
        }
        let Some(fetched) = fetches.join_next().await else {
            return (requests, found);
        };
        let outcome = fetched.expect("no panic").expect("the server has it");
        requests += outcome.attempts.len() as u64;
        for event in &*outcome.events {
            let raw = outcome.raw(event);
            ahead.extend(named(&raw).into_iter().filter(|id| seen.insert(id.clone())));
            let id = event.event_id.clone().expect("it was checked");
            found.insert(id, (raw, event.proof));
        }
    }
}

async fn fill(lab: &Lab, matrix: &Matrix) -> (u64, Found) {
    let fill = Fill {
        room: lab.room.clone(),
        from: vec![lab.last.clone()],
        to: Vec::new(),
        goal: Goal::Gap,
        limits: Limits::default(),
        opts: lab.opts(),
    };
    let mut found = Found::new();
    let filled = matrix.fill(fill, |news| {
        if let News::Recovered(event) = news {
            found.insert(event.event_id, (event.raw, event.proof));
        }
    });
    let filled = filled.await.expect("ids of the lab");
    (filled.attempts, found)
}

/// Measures all ways; the events.
pub(crate) async fn measure(lab: &Lab, repeats: usize, section: &mut Section) -> Vec<Bytes> {
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); WAYS.len()];
    let mut events = Vec::new();
    for _ in 0..repeats {
        for (way, runs) in WAYS.into_iter().zip(&mut runs) {
            let matrix = lab.service();
            let (began, cpu, server_cpu) = (Instant::now(), own_cpu(), lab.server_cpu());
            let (requests, found) = match way {
                Way::OneByOne(lanes) => one_by_one(lab, &matrix, lanes).await,
                Way::Fill => fill(lab, &matrix).await,
            };
            runs.push(Run {
                requests,
                took: began.elapsed(),
                cpu: own_cpu().saturating_sub(cpu),
                server_cpu: lab.server_cpu().saturating_sub(server_cpu),
            });
            matrix.shutdown(Duration::from_secs(10)).await;
            let ids: BTreeSet<_> = found.keys().cloned().collect();
            if ids != lab.events {
                section.wrong(format!(
                    "{way:?}: {} of {} events",
                    ids.len(),
                    lab.events.len()
                ));
            }
            if found.values().any(|(_, proof)| *proof != Proof::Whole) {
                section.wrong(format!("{way:?}: an event that was not whole"));
            }
            events = found
                .into_values()
                .map(|(raw, _)| Bytes::copy_from_slice(&raw))
                .collect();
        }
    }
    let head = [
        "",
        "requests",
        "time",
        "events/s",
        "CPU",
        "CPU of the server",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    let mut medians = Vec::new();
    for (way, runs) in WAYS.into_iter().zip(&runs) {
        let of = |what: fn(&Run) -> f64| median(runs.iter().map(what));
        let requests = of(|run| run.requests as f64);
        let took = of(|run| run.took.as_secs_f64());
        rows.push(vec![
            way.title(),
            number(requests),
            time(took),
            number(lab.events.len() as f64 / took),
            time(of(|run| run.cpu.as_secs_f64())),
            time(of(|run| run.server_cpu.as_secs_f64())),
        ]);
        medians.push((requests, took));
    }
    section.table(&format!("{} events from nothing", lab.events.len()), &rows);
    let [single, _, fill] = medians[..] else {
        unreachable!("there are three ways");
    };
    section.at_least(
        "fewer requests than one by one",
        single.0 / fill.0,
        20.0,
        "x",
    );
    section.at_least("less time than one by one", single.1 / fill.1, 10.0, "x");
    events
}
