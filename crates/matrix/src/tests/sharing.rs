//! Callers who share a fetch, and those who cannot.

use super::fake::{Does, Lab, event, good, id, is, name, names, opts, pdus, room, via};
use crate::{Checks, How, Key, Opts};
use futures_util::{FutureExt, future::join_all};
use std::{sync::atomic::Ordering::SeqCst, time::Duration};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_make_one_request_and_share_its_buffer() {
    let lab = Lab::new();
    lab.fake.server("a", Does::ok(good()).after(20));
    let fetches = (0..100).map(|_| lab.matrix.fetch(event("$e"), via(&["a"])));
    let outcomes = join_all(fetches).await;
    assert_eq!(lab.fake.asked(), ["a"]);
    assert_eq!(lab.looks.load(SeqCst), 1);
    let first = outcomes[0].as_ref().expect("a has it");
    for outcome in &outcomes {
        let outcome = outcome.as_ref().expect("a has it");
        assert_eq!(outcome.bytes.as_ptr(), first.bytes.as_ptr());
        assert_eq!(outcome.attempts, first.attempts);
    }
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_window_in_any_order_is_one_request() {
    let lab = Lab::new();
    let answer = format!("{{\"events\":[{}]}}", is("$x", "whole"));
    lab.fake.server("a", Does::ok(answer).after(20));
    let fetches = (0..100).map(|n| {
        let mut earliest: Vec<_> = (0..5).map(|n| id(&format!("$a{n}"))).collect();
        let mut latest: Vec<_> = (0..5).map(|n| id(&format!("$b{n}"))).collect();
        earliest.rotate_left(n % 5);
        latest.rotate_right(n % 5);
        latest.push(id("$b0"));
        let key = Key::missing_events(room(), earliest, latest, 20, 0).expect("a key");
        lab.matrix.fetch(key, via(&["a"]))
    });
    for outcome in join_all(fetches).await {
        outcome.expect("a has it");
    }
    assert_eq!(lab.fake.asked(), ["a"]);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn another_op_is_another_fetch() {
    let lab = Lab::new();
    lab.fake.server("a", Does::ok(good()).after(20));
    let auth = Key::auth_event(room(), id("$e")).expect("a key");
    let (one, other) = tokio::join!(
        lab.matrix.fetch(event("$e"), via(&["a"])),
        lab.matrix.fetch(auth, via(&["a"])),
    );
    assert_eq!(one.expect("a has it").bytes, other.expect("a has it").bytes);
    assert_eq!(lab.fake.asked(), ["a", "a"]);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_caller_that_goes_ends_the_request() {
    let lab = Lab::new();
    lab.fake.server("a", Does::Hangs);
    let mut one = Box::pin(lab.matrix.fetch(event("$e"), via(&["a"])));
    let mut other = Box::pin(lab.matrix.fetch(event("$e"), via(&["a"])));
    for _ in 0..10 {
        assert!((&mut one).now_or_never().is_none());
        assert!((&mut other).now_or_never().is_none());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(lab.fake.open.load(SeqCst), 1);
    drop(one);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(lab.fake.open.load(SeqCst), 1, "the other waits still");
    drop(other);
    lab.settle().await;
    assert_eq!(lab.fake.asked(), ["a"]);
    // Who comes back is served.
    lab.fake.server("a", Does::ok(good()));
    lab.matrix
        .fetch(event("$e"), via(&["a"]))
        .await
        .expect("a has it");
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn who_returns_while_the_request_ends_revives_the_fetch() {
    let lab = Lab::new();
    lab.fake
        .server("a", Does::Turns(vec![Does::Hangs, Does::ok(good())]));
    let first = lab.matrix.fetch(event("$e"), via(&["a"]));
    let _ = tokio::time::timeout(Duration::from_millis(100), first).await;
    // At once: nothing has run since the first was dropped.
    let outcome = lab.matrix.fetch(event("$e"), via(&["a"])).await;
    assert_eq!(outcome.expect("a has it").server, Some(name("a")));
    assert_eq!(lab.fake.asked(), ["a", "a"]);
    assert_eq!(lab.matrix.counters().revived, 1);
    lab.settle().await;
}

async fn both(
    lab: &Lab,
    first: Opts,
    second: Opts,
) -> [Result<crate::Outcome, crate::FetchError>; 2] {
    let one = lab.matrix.fetch(event("$e"), first);
    let other = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        lab.matrix.fetch(event("$e"), second).await
    };
    let (one, other) = tokio::join!(one, other);
    lab.settle().await;
    [one, other]
}

#[tokio::test(start_paused = true)]
async fn the_stronger_checks_of_those_who_share_hold() {
    let lab = Lab::new();
    lab.fake
        .server("a", Does::ok(pdus(&[is("$e", "cut")])).after(20));
    lab.fake.server("b", Does::ok(good()).after(20));
    let weak = via(&["a", "b"]).checks(Checks::NONE);
    let [weak, strong] = both(&lab, weak, via(&["a", "b"])).await;
    assert_eq!(weak.expect("b has it").server, Some(name("b")));
    let strong = strong.expect("b has it");
    assert_eq!(strong.attempts[0].how, How::Cut);
    assert_eq!(lab.fake.asked(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn who_demands_less_is_not_the_worse_for_who_demands_more() {
    let lab = Lab::new();
    lab.fake
        .server("a", Does::ok(pdus(&[is("$e", "cut")])).after(20));
    let weak = via(&["a"]).checks(Checks::REDACTED_TOO);
    let [weak, strong] = both(&lab, weak, via(&["a"])).await;
    strong.expect_err("it was cut");
    let weak = weak.expect("good enough");
    assert_eq!(weak.attempts.len(), 2, "the second time by itself");
}

#[tokio::test(start_paused = true)]
async fn what_a_stricter_caller_would_not_have_is_left_out_for_that_one_only() {
    let lab = Lab::new();
    let answer = pdus(&[is("$e", "whole"), is("$f", "cut")]);
    lab.fake.server("a", Does::ok(answer).after(20));
    let fetch = |opts| {
        let key = Key::backfill(room(), [id("$e")], 10).expect("a key");
        lab.matrix.fetch(key, opts)
    };
    let (strict, lenient) = tokio::join!(
        fetch(via(&["a"]).checks(Checks::ALL)),
        fetch(via(&["a"]).checks(Checks::REDACTED_TOO)),
    );
    let strict = strict.expect("salvaged");
    assert_eq!((strict.events.len(), strict.bad.len()), (1, 1));
    let lenient = lenient.expect("all of it");
    assert_eq!((lenient.events.len(), lenient.bad.len()), (2, 0));
    // Where nothing was left out, what they demanded makes no difference.
    let before = lab.fake.asked().len();
    lab.fake
        .server("a", Does::ok(pdus(&[is("$e", "whole")])).after(20));
    let (strict, lenient) = tokio::join!(
        fetch(via(&["a"]).checks(Checks::ALL)),
        fetch(via(&["a"]).checks(Checks::REDACTED_TOO)),
    );
    assert_eq!(strict.expect("whole").bytes, lenient.expect("whole").bytes);
    assert_eq!(lab.fake.asked().len(), before + 1);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn who_joins_and_would_ask_others_does() {
    let lab = Lab::new();
    lab.fake.server("a", Does::status(404).after(20));
    lab.fake.server("b", Does::ok(good()).after(20));
    let [one, other] = both(
        &lab,
        via(&["a"]),
        opts().hint(name("a")).members([(name("b"), 1)].into()),
    )
    .await;
    one.expect_err("a does not have it");
    let other = other.expect("b has it");
    assert_eq!(other.server, Some(name("b")));
    let hows: Vec<_> = other.attempts.iter().map(|attempt| attempt.how).collect();
    assert_eq!(hows, [How::Missing, How::Answered]);
    assert_eq!(lab.fake.asked(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn no_answer_of_the_denied_is_taken_from_others_either() {
    let lab = Lab::new();
    lab.fake.server("a", Does::ok(good()).after(20));
    lab.fake.server("b", Does::ok(good()).after(20));
    let denies = opts().members([(name("a"), 1), (name("b"), 1)].into());
    let denies = denies.deny(names(&["a"]));
    let [one, other] = both(&lab, via(&["a"]), denies).await;
    assert_eq!(one.expect("a has it").server, Some(name("a")));
    assert_eq!(other.expect("b has it").server, Some(name("b")));
    let [one, other] = both(&lab, via(&["a"]), via(&["b"])).await;
    assert_eq!(one.expect("a has it").server, Some(name("a")));
    assert_eq!(
        other.expect("b has it").server,
        Some(name("b")),
        "its pool, verbatim"
    );
}

#[tokio::test(start_paused = true)]
async fn many_fetches_at_once_and_nothing_is_left() {
    let lab = Lab::new();
    for n in 0..8 {
        let does = match n % 4 {
            0 => Does::status(404),
            1 => Does::Hangs,
            2 => Does::status(500).after(30),
            _ => Does::ok(good()).after(30),
        };
        lab.fake.server(&format!("s{n}"), does);
    }
    let begun = Instant::now();
    let fetches = (0..300).map(|n| {
        let first = n % 8;
        let pool = (0..8).map(|k| name(&format!("s{}", (first + k) % 8)));
        lab.matrix.fetch(event("$e"), opts().pool(pool))
    });
    for outcome in join_all(fetches).await {
        outcome.expect("some have it");
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    lab.settle().await;
}
