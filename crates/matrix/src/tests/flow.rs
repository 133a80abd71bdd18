//! Failover, hedges, ramps, bounds of time.

use super::fake::{Does, Lab, event, good, id, is, name, opts, pdus, room, via};
use crate::{Ceilings, FetchErrorKind, How, Key, Opts, Proof};
use std::{num::NonZeroU32, sync::Arc, time::Duration};
use tokio::time::Instant;

fn pairs<'a>(expected: &[(&'a str, &'static str)]) -> Vec<(String, &'static str)> {
    let owned = |(server, how): &(&'a str, &'static str)| ((*server).to_owned(), *how);
    expected.iter().map(owned).collect()
}

#[tokio::test(start_paused = true)]
async fn the_next_is_asked_at_once_when_one_fails() {
    let lab = Lab::new();
    lab.fake.server("a", Does::status(404));
    lab.fake.server("b", Does::status(500));
    lab.fake.server("d", Does::status(302));
    lab.fake.server("e", Does::ok(good()));
    let begun = Instant::now();
    let servers = via(&["a", "b", "c", "d", "e"]);
    let outcome = lab
        .matrix
        .fetch(event("$e"), servers)
        .await
        .expect("e has it");
    assert!(begun.elapsed() < Duration::from_millis(10));
    assert_eq!(outcome.bytes, good());
    assert_eq!(outcome.server, Some(name("e")));
    assert_eq!(outcome.proof(), Proof::Whole);
    let raw: Vec<_> = outcome
        .events
        .iter()
        .map(|event| outcome.raw(event))
        .collect();
    assert_eq!(raw, [is("$e", "whole")]);
    assert_eq!(
        Lab::told(&outcome.attempts),
        pairs(&[
            ("a", "missing"),
            ("b", "failed"),
            ("c", "failed"),
            ("d", "failed"),
            ("e", "answered")
        ])
    );
    assert!(outcome.attempts[3].detail.starts_with("302"));
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_joined_by_the_next_after_the_hedging_delay() {
    let lab = Lab::new();
    lab.fake.server("a", Does::Hangs);
    lab.fake.server("b", Does::ok(good()).after(50));
    let begun = Instant::now();
    let outcome = lab
        .matrix
        .fetch(event("$e"), via(&["a", "b"]))
        .await
        .expect("b has it");
    let took = begun.elapsed().as_millis();
    assert!((1050..1100).contains(&took), "{took}");
    assert_eq!(
        Lab::told(&outcome.attempts),
        pairs(&[("a", "dropped"), ("b", "answered")])
    );
    lab.settle().await;
}

/// Requests that nobody answers keep the room of what they might be answered; there is some beside them.
#[tokio::test(start_paused = true)]
async fn batches_at_once_are_not_held_up_by_one_who_is_silent() {
    let lab = Lab::new();
    lab.fake.server("a", Does::Hangs);
    lab.fake.server("b", Does::ok(good()).after(50));
    let begun = Instant::now();
    // As many as a fill has under way.
    let fetches = (0..4).map(|n| {
        let key = Key::backfill(room(), [id(&format!("$from{n}"))], 100).expect("a key");
        lab.matrix.fetch(key, via(&["a", "b"]))
    });
    for fetched in futures_util::future::join_all(fetches).await {
        assert_eq!(fetched.expect("b has it").server, Some(name("b")));
    }
    // The hedging delay, and the answers one after the other.
    let took = begun.elapsed().as_millis();
    assert!((3050..3500).contains(&took), "{took}");
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_hedge_a_timeout_ends_it() {
    let lab = Lab::new();
    lab.fake.server("hangs", Does::Hangs);
    lab.fake.server("stalls", Does::Stalls);
    lab.fake
        .server("drips", Does::Drips(Duration::from_millis(900)));
    lab.fake.server("b", Does::ok(good()));
    let patient = via(&["hangs", "stalls", "drips", "b"]).no_hedge();
    let begun = Instant::now();
    let outcome = lab
        .matrix
        .fetch(event("$e"), patient)
        .await
        .expect("b has it");
    assert_eq!(
        Lab::told(&outcome.attempts),
        pairs(&[
            ("hangs", "timed_out"),
            ("stalls", "timed_out"),
            ("drips", "timed_out"),
            ("b", "answered")
        ])
    );
    let details: Vec<_> = outcome.attempts.iter().map(|a| &*a.detail).collect();
    assert_eq!(
        details,
        ["no answer in time", "fell silent", "too slow", ""]
    );
    // 10 s to the first byte, 5 s idle, 5 s for the first window.
    let took = begun.elapsed().as_millis();
    assert!((20_000..20_100).contains(&took), "{took}");
    lab.settle().await;
}

async fn widths(key: Key, opts: Opts, servers: usize) -> Vec<usize> {
    // Three large answers at a time.
    let ceilings = Ceilings {
        bytes_max: 48 << 20,
        ..Ceilings::default()
    };
    let lab = Lab::with(ceilings, |builder| builder);
    let names: Vec<String> = (0..servers).map(|n| format!("s{n}")).collect();
    for name in &names {
        lab.fake.server(name, Does::status(404).after(100));
    }
    let pool = names.iter().map(|text| name(text));
    let error = lab
        .matrix
        .fetch(key, opts.pool(pool))
        .await
        .expect_err("nobody has it");
    assert_eq!(error.kind, FetchErrorKind::Missing);
    let mut rounds: Vec<(u128, usize)> = Vec::new();
    for (_, at) in lab.fake.times() {
        let round = at / 100;
        match rounds.last_mut() {
            Some((last, count)) if *last == round => *count += 1,
            _ => rounds.push((round, 1)),
        }
    }
    lab.settle().await;
    rounds.into_iter().map(|(_, count)| count).collect()
}

#[tokio::test(start_paused = true)]
async fn ramps_widen_round_by_round() {
    let auth = || Key::auth_event(room(), id("$e")).expect("a key");
    let state = || Key::state_ids(room(), id("$e")).expect("a key");
    let chain = || Key::auth_chain(room(), id("$e")).expect("a key");
    assert_eq!(widths(auth(), opts(), 12).await, [1, 2, 4, 4, 1]);
    assert_eq!(widths(state(), opts(), 9).await, [1, 2, 3, 3]);
    assert_eq!(widths(chain(), opts(), 7).await, [1, 2, 2, 2]);
    assert_eq!(widths(event("$e"), opts(), 3).await, [1, 1, 1]);
    let wide = opts().fanout("fixed:50".parse().expect("a fan-out"));
    assert_eq!(
        widths(event("$e"), wide, 18).await,
        [8, 8, 2],
        "the ceiling"
    );
    let few = opts().attempts_max(NonZeroU32::new(3).expect("above zero"));
    assert_eq!(widths(auth(), few, 12).await, [1, 2]);
    let short = opts().rounds_max(NonZeroU32::new(2).expect("above zero"));
    assert_eq!(widths(auth(), short, 12).await, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn the_faster_of_a_round_wins_and_the_other_is_dropped() {
    let lab = Lab::new();
    lab.fake.server("a", Does::ok(good()).after(500));
    lab.fake.server("b", Does::ok(good()).after(100));
    let both = via(&["a", "b"]).fanout("fixed:2".parse().expect("a fan-out"));
    let outcome = lab
        .matrix
        .fetch(event("$e"), both)
        .await
        .expect("both have it");
    assert_eq!(outcome.server, Some(name("b")));
    assert_eq!(
        Lab::told(&outcome.attempts),
        pairs(&[("a", "dropped"), ("b", "answered")])
    );
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_busy_is_left_alone_until_the_later_of_its_times() {
    let lab = Lab::new();
    let busy = Does::Says(
        429,
        vec![("retry-after", "2".to_owned())],
        r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":3500}"#.to_owned(),
    );
    lab.fake
        .server("a", Does::Turns(vec![busy, Does::ok(good())]));
    let begun = Instant::now();
    let error = lab
        .matrix
        .fetch(event("$f"), via(&["a"]))
        .await
        .expect_err("busy");
    assert_eq!(error.kind, FetchErrorKind::Exhausted);
    assert_eq!(error.attempts[0].how, How::Busy);
    assert!(error.attempts[0].detail.contains("M_LIMIT_EXCEEDED"));
    // Another key, the same server: it is waited for.
    lab.matrix
        .fetch(event("$e"), via(&["a"]))
        .await
        .expect("in time");
    let took = begun.elapsed().as_millis();
    assert!((3500..3600).contains(&took), "{took}");
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_try_is_made_where_that_may_help() {
    let lab = Lab::new();
    let ok = Does::ok(good());
    lab.fake
        .server("a", Does::Turns(vec![Does::status(502), ok]));
    lab.fake.server("b", Does::status(404));
    let twice = via(&["a", "b"]).tries(NonZeroU32::new(2).expect("above zero"));
    let outcome = lab
        .matrix
        .fetch(event("$e"), twice)
        .await
        .expect("in the end");
    assert_eq!(outcome.server, Some(name("a")));
    assert_eq!(lab.fake.asked(), ["a", "b", "a"]);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn health_is_shared_by_all_ops_and_answers_cost_nothing() {
    let lab = Lab::new();
    lab.fake.server("a", Does::status(500));
    lab.fake.server("b", Does::status(403));
    lab.fake.server("c", Does::status(404));
    let all = ["a", "b", "c"];
    for n in 0..3 {
        let key = event(&format!("$e{n}"));
        lab.matrix
            .fetch(key, via(&all))
            .await
            .expect_err("nobody has it");
    }
    let state = Key::state_ids(room(), id("$e")).expect("a key");
    lab.matrix
        .fetch(state, via(&all))
        .await
        .expect_err("nobody has it");
    // After its first fault the one that fails comes last.
    let asked = lab.fake.asked();
    assert_eq!(asked[..3], ["a", "b", "c"]);
    for round in asked[3..].chunks(3) {
        assert_eq!(round.last().map(String::as_str), Some("a"), "{asked:?}");
    }
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_have_an_event_is_asked_last_for_it_for_a_while() {
    let lab = Lab::new();
    lab.fake.server("a", Does::status(404));
    lab.fake.server("b", Does::ok(good()));
    let members: Arc<[_]> = [(name("b"), 1)].into();
    let some = || opts().hint(name("a")).members(Arc::clone(&members));
    for _ in 0..2 {
        lab.matrix
            .fetch(event("$e"), some())
            .await
            .expect("b has it");
    }
    assert_eq!(lab.fake.asked(), ["a", "b", "b"]);
    lab.matrix
        .fetch(event("$f"), some())
        .await
        .expect_err("the wrong event");
    assert_eq!(lab.fake.asked()[3], "a", "for others it is not");
    tokio::time::sleep(Duration::from_secs(61)).await;
    lab.matrix
        .fetch(event("$e"), some())
        .await
        .expect("b has it");
    assert_eq!(lab.fake.asked()[6..], ["a", "b"]);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_have_it_is_asked_once_however_often_the_others_are() {
    let lab = Lab::new();
    lab.fake.server("a", Does::status(404));
    lab.fake.server("b", Does::status(500));
    let thrice = via(&["a", "b"]).tries(NonZeroU32::new(3).expect("three"));
    let error = lab.matrix.fetch(event("$e"), thrice).await;
    let error = error.expect_err("nobody has it");
    assert_eq!(lab.fake.asked(), ["a", "b", "b", "b"]);
    assert_eq!(error.attempts.len(), 4);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn every_request_is_told_of_however_many_tries_there_are() {
    let ceilings = Ceilings {
        attempts_max: 1,
        ..Ceilings::default()
    };
    let lab = Lab::with(ceilings, |builder| builder);
    lab.fake.server("a", Does::status(500));
    lab.fake.server("b", Does::status(500));
    let often = via(&["a", "b"]).tries(NonZeroU32::new(5).expect("five"));
    let error = lab.matrix.fetch(event("$e"), often).await;
    let error = error.expect_err("they fail");
    assert_eq!(lab.fake.asked().len(), 5);
    assert_eq!(error.attempts.len(), 5);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let lab = Lab::new();
    lab.fake.server("a", Does::Hangs);
    let hasty = via(&["a"]).patience(Duration::from_secs(2));
    let error = lab
        .matrix
        .fetch(event("$e"), hasty)
        .await
        .expect_err("it hangs");
    assert_eq!(error.kind, FetchErrorKind::Expired);
    // "a" was joined by nobody, and dropped when nobody waited any more.
    assert_eq!(Lab::told(&error.attempts), pairs(&[("a", "dropped")]));
    assert_eq!(error.attempts[0].took, Duration::from_secs(2));
    let nobody = lab
        .matrix
        .fetch(event("$e"), via(&["me"]))
        .await
        .expect_err("only us");
    assert_eq!(nobody.kind, FetchErrorKind::NoServers);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn whose_patience_ends_is_told_of_the_others_requests_too() {
    let lab = Lab::new();
    lab.fake.server("a", Does::status(404));
    lab.fake.server("b", Does::Hangs);
    let patient = lab.matrix.fetch(event("$e"), via(&["a", "b"]).no_hedge());
    let hasty = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let hasty = via(&["a", "b"]).patience(Duration::from_secs(2));
        lab.matrix.fetch(event("$e"), hasty).await
    };
    let (patient, hasty) = tokio::join!(patient, hasty);
    let hasty = hasty.expect_err("b hangs");
    assert_eq!(hasty.kind, FetchErrorKind::Expired);
    let expected = pairs(&[("a", "missing"), ("b", "dropped")]);
    assert_eq!(Lab::told(&hasty.attempts), expected);
    let patient = patient.expect_err("b hangs");
    let expected = pairs(&[("a", "missing"), ("b", "timed_out")]);
    assert_eq!(Lab::told(&patient.attempts), expected);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn so_many_fetches_at_once_and_so_many_at_one_server() {
    let ceilings = Ceilings {
        racing_max: 6,
        per_server_max: 4,
        ..Ceilings::default()
    };
    let lab = Lab::with(ceilings, |builder| builder);
    lab.fake.server("a", Does::status(404).after(100));
    lab.fake.server("b", Does::status(404).after(100));
    let fetches = (0..24).map(|n| {
        let server = if n % 2 == 0 { "a" } else { "b" };
        lab.matrix.fetch(event(&format!("$e{n}")), via(&[server]))
    });
    let ends = futures_util::future::join_all(fetches);
    tokio::join!(ends, async {
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(lab.matrix.gauges().attempts <= 6);
            assert!(lab.matrix.gauges().fetches <= 24);
        }
    });
    assert_eq!(lab.fake.asked().len(), 24);
    let first: Vec<_> = (lab.fake.times().into_iter())
        .filter(|(server, at)| server == "a" && *at < 100)
        .collect();
    assert!(first.len() <= 4, "{first:?}");
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_is_an_answer_only_for_who_takes_it() {
    let lab = Lab::new();
    let batch = || Key::backfill(room(), [id("$e")], 10).expect("a key");
    lab.fake.server("a", Does::ok(pdus(&[])));
    lab.fake
        .server("b", Does::ok(pdus(&[is("$e", "whole"), is("$d", "cut")])));
    let outcome = lab
        .matrix
        .fetch(batch(), via(&["a", "b"]))
        .await
        .expect("b has some");
    assert_eq!(outcome.attempts[0].how, How::Empty);
    assert_eq!(
        outcome.events.len(),
        2,
        "redacted ones are welcome among many"
    );
    assert_eq!(outcome.proof(), Proof::Redacted);
    let error = lab
        .matrix
        .fetch(batch(), via(&["a"]))
        .await
        .expect_err("nothing");
    assert_eq!(error.kind, FetchErrorKind::Missing);
    let taken = lab
        .matrix
        .fetch(batch(), via(&["a"]).accept_empty(true))
        .await;
    assert!(taken.expect("nothing is fine").events.is_empty());
    lab.settle().await;
}
