//! Servers that lie, and what it costs.

use super::fake::{Does, Lab, event, good, id, is, name, pdus, room, via};
use crate::{Checks, FetchErrorKind, How, Key, OnBad, Proof};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn every_liar_is_named_and_the_honest_answer_handed_out() {
    let lab = Lab::new();
    let liars = [
        ("garbage", Does::ok("not json"), How::Bad),
        ("shape", Does::ok("{}"), How::Bad),
        ("other", Does::ok(pdus(&[is("$x", "whole")])), How::Bad),
        ("forged", Does::ok(pdus(&[is("$e", "forged")])), How::Bad),
        (
            "keyless",
            Does::ok(pdus(&[is("$e", "nokey")])),
            How::Unproven,
        ),
        ("cut", Does::ok(pdus(&[is("$e", "cut")])), How::Cut),
        ("none", Does::ok(pdus(&[])), How::Empty),
        ("huge", Does::Gushes, How::Failed),
        ("claims", Does::Claims(100 << 20), How::Failed),
        ("moved", Does::status(302), How::Failed),
        ("ill", Does::status(500), How::Failed),
        ("busy", Does::status(429), How::Busy),
        ("drips", Does::Drips(Duration::from_secs(1)), How::TimedOut),
        ("hangs", Does::Hangs, How::TimedOut),
    ];
    for (server, does, _) in &liars {
        lab.fake.server(server, does.clone());
    }
    lab.fake.server("honest", Does::ok(good()));
    let mut pool: Vec<&str> = liars.iter().map(|(server, ..)| *server).collect();
    pool.push("honest");
    let begun = Instant::now();
    let patient = via(&pool).no_hedge();
    let outcome = lab
        .matrix
        .fetch(event("$e"), patient)
        .await
        .expect("honest has it");
    // Twice a time-out, for all that they can do.
    assert!(begun.elapsed() < Duration::from_secs(16));
    assert_eq!(outcome.server, Some(name("honest")));
    assert_eq!(outcome.bytes, good());
    let got: Vec<_> = outcome.attempts.iter().map(|attempt| attempt.how).collect();
    let mut expected: Vec<_> = liars.iter().map(|(.., how)| *how).collect();
    expected.push(How::Answered);
    assert_eq!(got, expected);
    for huge in [7, 8] {
        assert!(outcome.attempts[huge].detail.contains("too large"));
    }
    assert_eq!(outcome.attempts[2].detail, "another event");
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_unverified_gets_out() {
    let lab = Lab::new();
    for (n, what) in ["forged", "nokey", "cut"].into_iter().enumerate() {
        lab.fake
            .server(&format!("s{n}"), Does::ok(pdus(&[is("$e", what)])));
    }
    let all = || via(&["s0", "s1", "s2"]);
    let error = lab
        .matrix
        .fetch(event("$e"), all())
        .await
        .expect_err("none is good");
    assert_eq!(error.kind, FetchErrorKind::Unverified);
    let less = all().checks(Checks::REDACTED_TOO);
    let outcome = lab
        .matrix
        .fetch(event("$e"), less)
        .await
        .expect("a cut one will do");
    assert_eq!(outcome.proof(), Proof::Redacted, "and it says so");
    let none = all().checks(Checks::NONE);
    let outcome = lab
        .matrix
        .fetch(event("$e"), none)
        .await
        .expect("anything will do");
    assert_eq!(outcome.proof(), Proof::Form, "and it says so");
    lab.settle().await;
}

fn chain() -> Key {
    Key::auth_chain(room(), id("$e")).expect("a key")
}

fn auth_chain(events: &[String]) -> String {
    format!("{{\"auth_chain\":[{}]}}", events.join(","))
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_salvaged_or_refused_as_the_caller_says() {
    let lab = Lab::new();
    let mixed = [is("$a", "whole"), is("$b", "forged"), is("$c", "nokey")];
    lab.fake.server("mixed", Does::ok(auth_chain(&mixed)));
    lab.fake
        .server("good", Does::ok(auth_chain(&[is("$a", "whole")])));
    let both = || via(&["mixed", "good"]);
    let salvaged = lab
        .matrix
        .fetch(chain(), both())
        .await
        .expect("one is good");
    assert_eq!(salvaged.server, Some(name("mixed")));
    assert_eq!(
        salvaged.bytes,
        auth_chain(&[is("$a", "whole")]),
        "and no more"
    );
    let bad: Vec<_> = (salvaged.bad.iter())
        .map(|bad| (bad.index, bad.event_id.clone(), bad.reason.forged))
        .collect();
    assert_eq!(bad, [(1, Some(id("$b")), true), (2, Some(id("$c")), false)]);
    assert_eq!(salvaged.attempts[0].how, How::Salvaged);
    let refuse = both().on_bad(OnBad::Refuse);
    let refused = lab
        .matrix
        .fetch(chain(), refuse)
        .await
        .expect("the other is good");
    assert_eq!(refused.server, Some(name("good")));
    assert_eq!(refused.attempts[0].how, How::Bad);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn floods_are_cut_and_what_is_under_way_is_bounded() {
    let lab = Lab::new();
    let all = ["f0", "f1", "f2", "f3", "f4", "f5"];
    for server in all {
        lab.fake.server(server, Does::Gushes);
    }
    let wide = via(&all).fanout("fixed:6".parse().expect("a fan-out"));
    let fetch = lab.matrix.fetch(chain(), wide);
    let watch = async {
        let mut most = 0;
        loop {
            most = lab.matrix.gauges().body_bytes.max(most);
            assert!(most <= 28 << 20);
            tokio::task::yield_now().await;
        }
    };
    let error = tokio::select! {
        end = fetch => end.expect_err("none is good"),
        () = watch => unreachable!("it has no end"),
    };
    assert_eq!(error.attempts.len(), 6);
    assert!(
        error
            .attempts
            .iter()
            .all(|attempt| attempt.how == How::Failed)
    );
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn who_gave_a_batch_with_forged_events_is_asked_last_for_anything() {
    let lab = Lab::new();
    let mixed = auth_chain(&[is("$a", "whole"), is("$b", "forged")]);
    lab.fake.server("a", Does::ok(mixed));
    lab.fake.server("room", Does::ok(good()));
    let hinted = || super::fake::opts().hint(name("a"));
    lab.matrix.fetch(chain(), hinted()).await.expect("salvaged");
    lab.matrix
        .fetch(event("$e"), hinted())
        .await
        .expect("the room has it");
    assert_eq!(lab.fake.asked(), ["a", "room"]);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_no_events_is_one_servers_word() {
    let lab = Lab::new();
    lab.fake.server("a", Does::ok("nonsense"));
    lab.fake
        .server("b", Does::ok(r#"{"pdu_ids":[],"auth_chain_ids":[]}"#));
    let state = Key::state_ids(room(), id("$e")).expect("a key");
    let outcome = lab
        .matrix
        .fetch(state, via(&["a", "b"]))
        .await
        .expect("b answers");
    assert_eq!(outcome.proof(), Proof::Form);
    assert_eq!(outcome.attempts[0].how, How::Bad);
    lab.settle().await;
}
