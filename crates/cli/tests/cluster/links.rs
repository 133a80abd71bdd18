//! A link between members that is worse than none.

use crate::{
    hostile::{Link, Mischief},
    members::{MIB, Members, all_right, gets_by_chunk},
};
use gannet_testkit::{client, origin::Origin};

/// Members of whom the first is reached through a link that does this; clients of the others are
/// served well, and no chunk costs the origin more than two requests for each member that was
/// failed. What the others counted of it.
async fn served_well_although_it(mischief: Mischief, hedge: &str) -> f64 {
    let origin = Origin::start();
    let args = ["--chunk-size=1MiB", hedge];
    let mut members = Members::of_secret(3, &origin, &args);
    let link = Link::to(members.listen[0].clone()).await;
    members.internal[0].clone_from(&link.address);
    members.launch(Members::peers);
    members.until_ready().await;
    let (earlier, object) = members.object_of(0, &origin, "earlier", 2).await;
    let path = format!("b/{earlier}");
    // Something to replay.
    all_right(&members.stampede(&path, 3).await, &object.sha256());
    let (key, object) = members.object_of(0, &origin, "key", 4).await;
    link.does(mischief);
    let path = format!("b/{key}");
    let clients = members.stampede(&path, 6).await;
    all_right(&clients, &object.sha256());
    assert!(link.struck() > 0, "it did");
    let gets = gets_by_chunk(&origin, &key, MIB);
    assert!(gets.values().all(|gets| *gets <= 3), "{gets:?}");
    // And once it is well again, so are they.
    link.does(Mischief::None);
    let again = client::download(&members.members[1].url(&path), &[], true).await;
    assert_eq!(again.expect("an answer").sha256, object.sha256());
    let name = "gannet_cluster_asks_total{outcome=\"corrupt\"}";
    members.metric(name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_corrupts() {
    let corrupt = served_well_although_it(Mischief::Corrupts, "--hedge-after=10s").await;
    assert!(corrupt > 0.0, "counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_replays() {
    let corrupt = served_well_although_it(Mischief::Replays, "--hedge-after=10s").await;
    assert!(corrupt > 0.0, "counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_cuts() {
    let corrupt = served_well_although_it(Mischief::Cuts, "--hedge-after=10s").await;
    assert!(corrupt < 1.0, "what is cut is not corrupt");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_never_ends() {
    served_well_although_it(Mischief::NeverEnds, "--hedge-after=500ms").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sends_nonsense() {
    served_well_although_it(Mischief::Nonsense, "--hedge-after=10s").await;
}

/// Nobody believes that a purge has reached a member when something in between says so.
#[tokio::test(flavor = "multi_thread")]
async fn it_lies_about_what_has_no_frames() {
    let origin = Origin::start();
    let mut members = Members::of_secret(3, &origin, &["--chunk-size=1MiB"]);
    let link = Link::to(members.listen[0].clone()).await;
    members.internal[0].clone_from(&link.address);
    members.launch(Members::peers);
    members.until_ready().await;
    let purge = async || {
        let url = format!("{}/admin/purge?bucket=b", members.members[1].ops);
        let answer = client::request("POST", &url, &[], b"").await;
        answer.expect("an answer").text()
    };
    let said = purge().await;
    assert!(!said.contains("error"), "{said}");
    link.does(Mischief::Lies);
    let said = purge().await;
    assert!(said.contains("checksum does not fit"), "{said}");
    let status = members.members[1].status("").await.to_string();
    assert!(status.contains("checksum does not fit"), "{status}");
    assert_eq!(link.struck(), 2);
    let name = "gannet_cluster_asks_total{outcome=\"corrupt\"}";
    assert_eq!(members.metric(name).await, 2.0, "counted");
}
