//! Members that are lost, that come back, and that are wrong about the others.

use crate::members::{MIB, Members, all_right, gets_by_chunk, loopback, of_zone, until, zone};
use gannet_testkit::{
    client::Stampede,
    origin::{End, Method, Object, Origin, Pace},
    peers::Dnsmasq,
    process::free_port,
};
use rustix::process::Signal;
use tokio::task::JoinHandle;

const CHUNKS: u64 = 5;

/// An origin with one object, so slow that a chunk takes seconds.
fn slow_origin() -> (Origin, String) {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    origin.pace(Pace {
        bandwidth: Some(300 << 10),
        ..Pace::default()
    });
    (origin, object.sha256())
}

/// Waits until the first chunk is half there; how many requests the origin has seen by then.
async fn until_under_way(origin: &Origin) {
    until("the first chunk under way", async || {
        let first = |served: &gannet_testkit::origin::Served| {
            served.method == Method::Get && served.range.start == 0 && served.sent > 300_000
        };
        origin.served().iter().any(first)
    })
    .await;
}

/// Waits until the clients of all members but one are done: all must have been served well.
async fn others_are_right(
    clients: Vec<JoinHandle<Stampede>>,
    lost: usize,
    sha256: &str,
) -> JoinHandle<Stampede> {
    let (mut others, mut of_lost) = (Vec::new(), None);
    for (n, client) in clients.into_iter().enumerate() {
        if n == lost {
            of_lost = Some(client);
        } else {
            others.push(client.await.expect("it does not panic"));
        }
    }
    all_right(&others, sha256);
    of_lost.expect("it had clients")
}

/// What was read of the origin beyond the object: no more than what requests that were begun before
/// a member was lost, and broke off, had brought.
fn assert_no_more_than_was_lost(origin: &Origin, begun: usize) {
    let served = origin.served();
    let gets = served.iter().enumerate();
    let gets: Vec<_> = gets.filter(|(_, s)| s.method == Method::Get).collect();
    let sum = |left: bool| -> u64 {
        let of = gets.iter().filter(|(_, s)| (s.end == End::Left) == left);
        of.map(|(_, s)| s.sent).sum()
    };
    assert_eq!(
        sum(false),
        CHUNKS * MIB,
        "each byte once, but for: {}",
        sum(true)
    );
    for (n, get) in &gets {
        let why = format!("{n} of {begun} begun: {:?} {:?}", get.range, get.end);
        assert!(get.end == End::Whole || *n < begun, "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_killed_costs_what_it_was_fetching() {
    let (origin, sha256) = slow_origin();
    let args = ["--chunk-size=1MiB", "--hedge-after=10s"];
    let mut members = Members::start(3, &origin, &args).await;
    let lost = members.coordinators(0, "b/k").await[0];
    let clients = members.clients("b/k", 4);
    until_under_way(&origin).await;
    members.members[lost].process.kill();
    let begun = origin.served().len();
    let of_lost = others_are_right(clients, lost, &sha256).await;
    let of_lost = of_lost.await.expect("it does not panic");
    assert_eq!(of_lost.served(), 0, "cut, and not ended as if whole");
    origin.until("quiet", |counts| counts.active == 0).await;
    assert_no_more_than_was_lost(&origin, begun);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_frozen_is_gone_around_and_goes_on_when_thawed() {
    let (origin, sha256) = slow_origin();
    let args = ["--chunk-size=1MiB", "--hedge-after=2s"];
    let members = Members::start(3, &origin, &args).await;
    let frozen = members.coordinators(0, "b/k").await[0];
    let clients = members.clients("b/k", 4);
    until_under_way(&origin).await;
    members.members[frozen].process.signal(Signal::STOP);
    let of_frozen = others_are_right(clients, frozen, &sha256).await;
    let gets = gets_by_chunk(&origin, "k", MIB);
    assert!(gets.values().all(|gets| *gets <= 2), "{gets:?}");
    members.members[frozen].process.signal(Signal::CONT);
    all_right(&[of_frozen.await.expect("it does not panic")], &sha256);
    // To itself, all that it waited for has been silent for as long as it slept: it may hedge.
    let gets = gets_by_chunk(&origin, "k", MIB);
    assert!(gets.values().all(|gets| *gets <= 3), "{gets:?}");
    // It is one of them again.
    origin.pace(Pace::default());
    let next = origin.put("b", "next", Object::generated(2, CHUNKS * MIB));
    until("it answers", async || {
        let status = members.members[(frozen + 1) % 3].status("").await;
        let all = status["members"].as_array().expect("a list").clone();
        all.iter().all(|member| member["error"].is_null())
    })
    .await;
    all_right(&members.stampede("b/next", 6).await, &next.sha256());
    let gets = gets_by_chunk(&origin, "next", MIB);
    assert!(gets.values().all(|gets| *gets <= 2), "{gets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_comes_back_under_another_address() {
    let (origin, sha256) = slow_origin();
    let args = ["--chunk-size=1MiB", "--hedge-after=10s"];
    let mut members = Members::of_secret(3, &origin, &args);
    let mut dns = Dnsmasq::start(&zone(&members.internal));
    let find = of_zone(&dns);
    members.launch(|_, _| find.clone());
    members.until_ready().await;
    members.until_known().await;
    let lost = members.coordinators(0, "b/k").await[0];
    let clients = members.clients("b/k", 4);
    until_under_way(&origin).await;
    members.members[lost].process.kill();
    members.moves(lost);
    dns.serve(&zone(&members.internal));
    members.members[lost] = members.spawn(lost, &find);
    let of_lost = others_are_right(clients, lost, &sha256).await;
    drop(of_lost.await.expect("it does not panic"));
    let gets = gets_by_chunk(&origin, "k", MIB);
    assert!(gets.values().all(|gets| *gets <= 2), "{gets:?}");
    members.until_ready().await;
    members.until_known().await;
    origin.pace(Pace::default());
    let next = origin.put("b", "next", Object::generated(2, CHUNKS * MIB));
    all_right(&members.stampede("b/next", 12).await, &next.sha256());
    let gets = gets_by_chunk(&origin, "next", MIB);
    assert!(gets.values().all(|gets| *gets == 1), "{gets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_wrong_list_fetches_a_chunk_once_more_at_most() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    let args = ["--chunk-size=1MiB", "--hedge-after=10s"];
    let mut members = Members::of_secret(4, &origin, &args);
    // The third knows one other, the fourth nobody but one that is not there.
    members.launch(|members, n| {
        let all = &members.internal;
        let known = match n {
            2 => format!("{},{}", all[2], all[0]),
            3 => format!("{},{}", all[3], loopback(free_port())),
            _ => all.join(","),
        };
        vec![format!("--peers={known}")]
    });
    members.until_ready().await;
    all_right(&members.stampede("b/k", 16).await, &object.sha256());
    let gets = gets_by_chunk(&origin, "k", MIB);
    assert!(gets.values().all(|gets| *gets <= 3), "{gets:?}");
    assert_eq!(gets.len() as u64, CHUNKS);
}
