//! An origin in trouble, seen from the cluster.

use crate::members::{MIB, Members, all_right, gets_by_chunk};
use gannet_testkit::{
    client,
    origin::{Fault, Method, Object, Origin, Pace, Rule},
};
use std::{collections::BTreeMap, time::Duration};

const CHUNKS: u64 = 4;
const ARGS: [&str; 2] = ["--chunk-size=1MiB", "--hedge-after=10s"];

/// A fault strikes the first GET of each chunk.
fn once_for_each_chunk(origin: &Origin, fault: &Fault) {
    for chunk in 0..CHUNKS {
        let rule = Rule::new(fault.clone()).method(Method::Get);
        origin.rule(rule.object("b", "k").at_byte(chunk * MIB).times(1));
    }
}

/// Clients of all members are right, and no chunk is asked for more than twice.
async fn twice_at_most(fault: &Fault, args: &[&str]) {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    once_for_each_chunk(&origin, fault);
    let members = Members::start(3, &origin, args).await;
    all_right(&members.stampede("b/k", 12).await, &object.sha256());
    let gets = gets_by_chunk(&origin, "k", MIB);
    assert!(gets.values().all(|gets| *gets <= 2), "{gets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_reset() {
    twice_at_most(&Fault::Reset { after: 400_000 }, &ARGS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_break_off() {
    twice_at_most(&Fault::Truncate { after: 400_000 }, &ARGS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_to_slow_down() {
    let fault = Fault::Status {
        code: 503,
        retry_after: None,
    };
    twice_at_most(&fault, &ARGS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stalls() {
    let fault = Fault::Stall {
        at: 300_000,
        lasting: Duration::from_secs(15),
    };
    twice_at_most(&fault, &["--chunk-size=1MiB", "--hedge-after=500ms"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_asked_for_once() {
    let origin = Origin::start();
    origin.bucket("b");
    let members = Members::start(3, &origin, &ARGS).await;
    for round in ["first", "second"] {
        for stampede in members.stampede("b/nothing", 30).await {
            for download in stampede.downloads {
                assert_eq!(download.expect("an answer").head.status, 404, "{round}");
            }
        }
    }
    let counts = origin.counts();
    assert!(counts.heads + counts.gets <= 2, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_change_while_they_are_read() {
    let origin = Origin::start();
    // More than is read ahead: some of it has not been asked for when it changes.
    let old = origin.put("b", "k", Object::generated(1, 12 * MIB));
    origin.pace(Pace {
        bandwidth: Some(2 << 20),
        ..Pace::default()
    });
    let members = Members::start(3, &origin, &ARGS).await;
    origin.rule(
        Rule::new(Fault::Replace { at: 500_000 })
            .method(Method::Get)
            .skip(1)
            .times(1),
    );
    let mut stampedes = members.stampede("b/k", 12).await;
    let new = origin.object("b", "k").expect("it is there");
    assert_ne!(new.etag, old.etag, "it was replaced");
    stampedes.extend(members.stampede("b/k", 12).await);
    for stampede in &stampedes {
        let wrong = stampede.wrong(&old.sha256()) - stampede.right(&new.sha256());
        assert_eq!(wrong, 0, "one version or the other, whole");
    }
    // Whoever is told that it changed asks again, and is served.
    let settled = async {
        for member in &members.members {
            while client::download(&member.url("b/k"), &[], true)
                .await
                .is_ok_and(|got| got.sha256 != new.sha256() || !got.served())
            {}
        }
    };
    let settled = tokio::time::timeout(crate::harness::PATIENCE, settled).await;
    assert!(settled.is_ok(), "the new version is found");
    let mut gets: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for served in origin.served() {
        if served.method == Method::Get && served.status != 412 {
            let version = served.header("if-match").unwrap_or_default().to_owned();
            *gets.entry((version, served.range.start / MIB)).or_default() += 1;
        }
    }
    assert!(gets.values().all(|gets| *gets <= 2), "{gets:?}");
}
