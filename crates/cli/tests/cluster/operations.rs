//! What operators do to a cluster, and what they see of it.

use crate::{
    harness::PATIENCE,
    members::{MIB, Members, all_right, gets_by_chunk, loopback, of_zone, until, zone},
};
use gannet_testkit::{
    client,
    origin::{Object, Origin, Pace},
    peers::Dnsmasq,
    process::free_port,
};
use std::time::{Duration, Instant};

const CHUNKS: u64 = 6;
const ARGS: [&str; 2] = ["--chunk-size=1MiB", "--hedge-after=10s"];

async fn post(members: &Members, n: usize, path: &str, body: &str) -> String {
    let url = format!("{}{path}", members.members[n].ops);
    let answer = client::request("POST", &url, &[], body.as_bytes()).await;
    let answer = answer.expect("the ops listener answers");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_and_purging_reach_every_member() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    let members = Members::start(3, &origin, &ARGS).await;
    let warmed = post(&members, 0, "/admin/warm", "b/k\n").await;
    assert!(warmed.contains("\"fetched\":6"), "{warmed}");
    let counts = origin.counts_of("b", "k");
    assert_eq!((counts.heads, counts.gets), (1, CHUNKS));
    origin.forget().await;
    all_right(&members.stampede("b/k", 6).await, &object.sha256());
    let counts = origin.counts_of("b", "k");
    assert_eq!((counts.heads, counts.gets), (0, 0), "all was there");
    let again = post(&members, 1, "/admin/warm", "b/k\n").await;
    assert!(again.contains("\"fetched\":0"), "{again}");
    let purged = post(&members, 2, "/admin/purge?bucket=b&prefix=k", "").await;
    assert_eq!(purged.matches("\"member\"").count(), 2, "{purged}");
    assert!(!purged.contains("\"error\""), "{purged}");
    all_right(&members.stampede("b/k", 6).await, &object.sha256());
    let counts = origin.counts_of("b", "k");
    assert_eq!((counts.heads, counts.gets), (1, CHUNKS), "once in all");
}

/// A chunk that was warmed lies at a member that has never been asked for the object.
#[tokio::test(flavor = "multi_thread")]
async fn purging_reaches_members_that_only_hold_chunks() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    let members = Members::start(3, &origin, &ARGS).await;
    post(&members, 0, "/admin/warm", "b/k\n").await;
    origin.forget().await;
    post(&members, 1, "/admin/purge?bucket=b", "").await;
    all_right(&members.stampede("b/k", 6).await, &object.sha256());
    let counts = origin.counts_of("b", "k");
    assert_eq!((counts.heads, counts.gets), (1, CHUNKS), "once in all");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_by_name() {
    let origin = Origin::start();
    let mut members = Members::of_secret(3, &origin, &["--origin-concurrency=10"]);
    let mut dns = Dnsmasq::start(&zone(&members.internal));
    let find = of_zone(&dns);
    members.launch(|_, _| find.clone());
    members.until_ready().await;
    members.until_known().await;
    for member in &members.members {
        // The origin's share of each.
        assert_eq!(member.metric("gannet_cluster_members").await as u64, 3);
        assert_eq!(member.metric("gannet_origin_limit").await as u64, 3);
    }
    let status = members.members[1].status("").await;
    assert_eq!(status["self"], members.internal[1].as_str());
    assert_eq!(status["settled"], true);
    assert_eq!(status["shared_store_well"], serde_json::Value::Null);
    for member in status["members"].as_array().expect("a list") {
        let is_self = member["self"] == true;
        assert_eq!(member["answered_ms"].is_number(), !is_self, "{member}");
    }
    // One goes, and is not waited for.
    dns.serve(&zone(&members.internal[..2]));
    drop((members.members.pop(), members.internal.pop()));
    members.until_known().await;
    for member in &members.members {
        assert_eq!(member.metric("gannet_cluster_members").await as u64, 2);
        until("its share", async || {
            member.metric("gannet_origin_limit").await as u64 == 5
        })
        .await;
    }
    // Nobody answers: what is known is kept.
    dns.stop();
    let member = &members.members[0];
    until("a failed look", async || {
        let name = "gannet_cluster_looks_total{outcome=\"failed\"}";
        member.metric(name).await > 0.0
    })
    .await;
    assert_eq!(member.metric("gannet_cluster_members").await as u64, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_by_gossip() {
    let origin = Origin::start();
    let mut members = Members::of_secret(3, &origin, &ARGS);
    let seed = loopback(free_port());
    let gossip = move |n: usize| {
        let own = match n {
            0 => seed.clone(),
            _ => loopback(free_port()),
        };
        vec![
            format!("--gossip-listen={own}"),
            format!("--gossip-seed={seed}"),
        ]
    };
    members.launch(|_, n| gossip(n));
    members.until_ready().await;
    members.until_known().await;
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    all_right(&members.stampede("b/k", 6).await, &object.sha256());
    assert_eq!(origin.counts_of("b", "k").gets, CHUNKS);
    // One takes leave, and comes back as another.
    let mut gone = members.members.pop().expect("three");
    assert_eq!(gone.process.terminate(PATIENCE).code(), Some(0));
    let address = members.internal.pop().expect("three");
    members.until_known().await;
    members.internal.push(address);
    members.moves(2);
    members.members.push(members.spawn(2, &gossip(2)));
    members.until_ready().await;
    members.until_known().await;
    let object = origin.put("b", "next", Object::generated(2, CHUNKS * MIB));
    all_right(&members.stampede("b/next", 6).await, &object.sha256());
    assert_eq!(origin.counts_of("b", "next").gets, CHUNKS);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_asked_once_for_all() {
    let origin = Origin::start();
    for n in 0..20 {
        origin.put("b", &format!("k{n}"), Object::generated(n, 1000));
    }
    let args = ["--list-ttl=1h", "--hedge-after=10s"];
    let members = Members::start(3, &origin, &args).await;
    let pages = ["b?list-type=2&prefix=k1", "", "b?list-type=2&max-keys=3"];
    for page in pages {
        let mut answers = Vec::new();
        for member in &members.members {
            let answer = client::get(&member.url(page), &[])
                .await
                .expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            answers.push(answer.text());
        }
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{answers:?}"
        );
    }
    for _ in 0..2 {
        for n in 0..20 {
            for member in &members.members {
                let head = client::head(&member.url(&format!("b/k{n}")), &[]).await;
                assert_eq!(head.expect("an answer").status, 200);
            }
        }
    }
    let counts = origin.counts();
    assert_eq!((counts.lists, counts.heads), (3, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_in_use_are_refreshed_once_for_all() {
    const TTL: Duration = Duration::from_secs(2);
    let origin = Origin::start();
    origin.put("b", "k", Object::generated(1, 1000));
    let args = ["--meta-ttl=2s", "--hedge-after=10s"];
    let members = Members::start(3, &origin, &args).await;
    let begun = Instant::now();
    let urls = members.members.iter().map(|member| member.url("b/k"));
    let urls: Vec<_> = urls.collect();
    until("some answers to expire", async || {
        for url in &urls {
            let head = client::head(url, &[]).await;
            assert_eq!(head.expect("an answer").status, 200);
        }
        begun.elapsed() > 4 * TTL
    })
    .await;
    // As one that asks for itself and is early by half, and not three of them.
    let lives = begun.elapsed().as_secs_f64() / TTL.as_secs_f64();
    let heads = origin.counts().heads;
    assert!(heads >= 2, "what has expired is asked for anew");
    assert!((heads as f64) < 2.0 * lives + 2.0, "{heads} in {lives}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_find_what_the_origin_bears() {
    const BEARS: u64 = 6;
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, 24 * MIB));
    origin.pace(Pace {
        bandwidth: Some(2 << 20),
        ..Pace::default()
    });
    origin.bears(BEARS);
    let args = [
        "--chunk-size=1MiB",
        "--hedge-after=10s",
        "--origin-concurrency=48",
        "--read-ahead=16",
    ];
    let members = Members::start(3, &origin, &args).await;
    let before = members.metric("gannet_origin_limit").await;
    assert_eq!(before as u64, 48);
    all_right(&members.stampede("b/k", 6).await, &object.sha256());
    let after = members.metric("gannet_origin_limit").await;
    assert!(after < before, "{after}");
    let gets = gets_by_chunk(&origin, "k", MIB);
    assert_eq!(gets.len(), 24);
}
