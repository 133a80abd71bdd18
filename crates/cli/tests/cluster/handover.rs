//! Who comes and who leaves: what one member has is not asked of the origin again by those that follow.

use crate::{harness::PATIENCE, members::Members};
use gannet_testkit::{
    client,
    origin::{Object, Origin},
};
use std::sync::Arc;

const OBJECTS: u64 = 24;

fn objects(origin: &Origin) -> Vec<Arc<Object>> {
    let put = |n| origin.put("b", &format!("k{n}"), Object::generated(n, 40_000 + n));
    (0..OBJECTS).map(put).collect()
}

/// Reads all objects at a member.
async fn read_all(members: &Members, at: usize, objects: &[Arc<Object>]) {
    for (n, object) in objects.iter().enumerate() {
        let url = members.members[at].url(&format!("b/k{n}"));
        let got = client::download(&url, &[], true).await.expect("an answer");
        assert!(got.served() && got.sha256 == object.sha256(), "{got:?}");
    }
}

fn asked(origin: &Origin) -> (u64, u64) {
    let counts = origin.counts();
    (counts.gets, counts.heads)
}

// Nothing is to be hedged for the slowness of a busy machine.
const ARGS: [&str; 1] = ["--hedge-after=30s"];

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_leaves_hands_over_what_it_has() {
    let origin = Origin::start();
    let objects = objects(&origin);
    let mut members = Members::start(3, &origin, &ARGS).await;
    read_all(&members, 0, &objects).await;
    assert_eq!(asked(&origin), (OBJECTS, OBJECTS));
    let leaver = &mut members.members[1];
    let ended = leaver.process.terminate(PATIENCE);
    assert_eq!(ended.code(), Some(0), "{}", leaver.process.log());
    // The list still names it: who stands in for it has what it coordinated.
    read_all(&members, 2, &objects).await;
    assert_eq!(asked(&origin), (OBJECTS, OBJECTS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joins_asks_those_that_were_there() {
    let origin = Origin::start();
    let objects = objects(&origin);
    let mut members = Members::of_secret(3, &origin, &ARGS);
    let before = [format!("--peers={}", members.internal[..2].join(","))];
    for n in 0..2 {
        let member = members.spawn(n, &before);
        members.members.push(member);
    }
    members.until_ready().await;
    read_all(&members, 0, &objects).await;
    assert_eq!(asked(&origin), (OBJECTS, OBJECTS));
    // The others do not know it yet, and it asks for the most of this as its coordinator.
    let joiner = members.spawn(2, &members.peers(2));
    members.members.push(joiner);
    members.until_ready().await;
    read_all(&members, 2, &objects).await;
    assert_eq!(asked(&origin), (OBJECTS, OBJECTS));
}
