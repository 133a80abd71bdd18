//! Members with a store that they share.

use crate::{
    harness::PATIENCE,
    members::{MIB, Members, all_right, gets_by_chunk, until},
    sick::{Sick, SickStore},
};
use gannet_testkit::{
    client,
    origin::{Object, Origin},
    peers::{Garage, Moto},
    process::Process,
};

const CHUNKS: u64 = 6;

/// A store that may fall sick, and three members in front of it and of an origin.
async fn cluster(origin: &Origin) -> (Moto, SickStore, Members) {
    let moto = Moto::start();
    moto.bucket("store").await;
    let store = SickStore::before(moto.url()).await;
    let mut members = before(origin, &store);
    members.launch(Members::peers);
    members.until_ready().await;
    (moto, store, members)
}

/// Members that share this store; none is started yet.
fn before(origin: &Origin, store: &SickStore) -> Members {
    before_url(origin, store.url(), ["test", "test"])
}

/// The same for a store at this URL, with this key and its secret.
fn before_url(origin: &Origin, url: &str, [id, secret]: [&str; 2]) -> Members {
    let url = format!("--store=s3://store/chunks?endpoint={url}");
    let args = ["--chunk-size=1MiB", "--hedge-after=1s", url.as_str()];
    let mut members = Members::of_secret(3, origin, &args);
    members.env("AWS_ACCESS_KEY_ID", id);
    members.env("AWS_SECRET_ACCESS_KEY", secret);
    members
}

/// Starts one of them, which ends: what it said.
fn refused(members: &Members) -> String {
    let mut command = members.command(0);
    command.args(members.peers(0));
    command.args(["--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0"]);
    let mut process = Process::spawn("gannet", &mut command);
    let ended = process.wait(PATIENCE);
    assert_eq!(ended.code(), Some(3), "{}", process.log());
    process.log()
}

/// Waits until all members say this of themselves, and are ready all the same.
async fn until_all_say(members: &Members, what: &str) {
    for member in &members.members {
        until(what, async || {
            let ready = client::get(&format!("{}/readyz", member.ops), &[]).await;
            let ready = ready.expect("an answer");
            assert_eq!(ready.status, 200, "no reason to be left alone");
            ready.text().contains(what)
        })
        .await;
    }
}

/// Members that start while their store refuses connections.
async fn started_without(origin: &Origin) -> (Moto, SickStore, Members) {
    let moto = Moto::start();
    moto.bucket("store").await;
    let store = SickStore::before(moto.url()).await;
    store.falls(Sick::Refuses);
    let mut members = before(origin, &store);
    members.launch(Members::peers);
    members.until_ready().await;
    until_all_say(&members, "could not be tested yet").await;
    (moto, store, members)
}

const STORED: &str = "gannet_store_commits_total{tier=\"shared\",outcome=\"stored\"}";
const WELL: &str = "gannet_store_shared_well";
const UNFIT: &str = "gannet_store_shared_unfit";

/// All that the clients of all members wanted is in the store, and nowhere else.
async fn stored_only(members: &mut Members, chunks: u64) {
    until("all is stored", async || {
        members.metric(STORED).await as u64 >= chunks
    })
    .await;
    for member in &mut members.members {
        member.process.kill();
    }
    members.members.clear();
    members.forget();
    members.launch(Members::peers);
    members.until_ready().await;
}

/// What is read from the origin once is all that members need who have nothing but the store.
async fn is_stored_for_all(origin: &Origin, members: &mut Members, key: &str, sha256: &str) {
    let path = format!("b/{key}");
    all_right(&members.stampede(&path, 6).await, sha256);
    assert_eq!(origin.counts_of("b", key).gets, CHUNKS);
    stored_only(members, CHUNKS).await;
    all_right(&members.stampede(&path, 6).await, sha256);
    assert_eq!(origin.counts_of("b", key).gets, CHUNKS, "none anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_has_stored_all_read() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    let (_moto, _store, mut members) = cluster(&origin).await;
    is_stored_for_all(&origin, &mut members, "k", &object.sha256()).await;
    assert_eq!(origin.counts_of("b", "k").bytes, CHUNKS * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_is_done_without() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    let (moto, _store, members) = cluster(&origin).await;
    drop(moto);
    all_right(&members.stampede("b/k", 6).await, &object.sha256());
    let gets = gets_by_chunk(&origin, "k", MIB);
    assert!(gets.values().all(|gets| *gets == 1), "{gets:?}");
    // It is tried again and again: so it is said sooner or later, while something is wanted.
    let mut seed = 2;
    for member in &members.members {
        loop {
            let ready = client::get(&format!("{}/readyz", member.ops), &[]).await;
            let ready = ready.expect("an answer");
            assert_eq!(ready.status, 200, "no reason to be left alone");
            if ready.text().contains("shared store fails") {
                break;
            }
            let key = format!("k{seed}");
            let object = origin.put("b", &key, Object::generated(seed, 1000));
            seed += 1;
            assert!(seed < 200, "it is said");
            let path = format!("b/{key}");
            all_right(&members.stampede(&path, 3).await, &object.sha256());
        }
    }
    let errors = members.metric("gannet_store_errors_total{tier=\"shared\"}");
    assert!(errors.await > 0.0);
}

/// What is wanted is served well although the store is so: what it holds, and what it does not.
async fn served_well_although_it_is(sick: Sick) {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, 3 * MIB));
    let (_moto, store, mut members) = cluster(&origin).await;
    all_right(&members.stampede("b/k", 3).await, &object.sha256());
    stored_only(&mut members, 3).await;
    store.falls(sick);
    all_right(&members.stampede("b/k", 6).await, &object.sha256());
    let object = origin.put("b", "other", Object::generated(2, 3 * MIB));
    all_right(&members.stampede("b/other", 6).await, &object.sha256());
    assert!(store.struck() > 0, "it was");
    for key in ["k", "other"] {
        let gets = gets_by_chunk(&origin, key, MIB);
        assert!(gets.values().all(|gets| *gets <= 2), "{key}: {gets:?}");
    }
    // And once it is well again, nothing wrong has stayed in it.
    store.falls(Sick::Not);
    let object = origin.put("b", "last", Object::generated(3, MIB));
    all_right(&members.stampede("b/last", 3).await, &object.sha256());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_fails() {
    served_well_although_it_is(Sick::Fails).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_slow() {
    served_well_although_it_is(Sick::Slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_refuses_connections() {
    served_well_although_it_is(Sick::Refuses).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_full() {
    served_well_although_it_is(Sick::Full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_lies_about_what_it_overwrites() {
    served_well_although_it_is(Sick::Lies).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_corrupts() {
    served_well_although_it_is(Sick::Corrupts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_breaks_off() {
    served_well_although_it_is(Sick::Truncates).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_always_lied_is_refused() {
    let origin = Origin::start();
    let moto = Moto::start();
    moto.bucket("store").await;
    let store = SickStore::before(moto.url()).await;
    store.falls(Sick::Lies);
    let said = refused(&before(&origin, &store));
    assert!(said.contains("both were accepted"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_starts_while_the_store_is_gone_uses_it_once_it_is_back() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    let (_moto, store, mut members) = started_without(&origin).await;
    assert_eq!(members.metric(WELL).await, 0.0);
    all_right(&members.stampede("b/k", 6).await, &object.sha256());
    let gets = gets_by_chunk(&origin, "k", MIB);
    assert!(gets.values().all(|gets| *gets == 1), "{gets:?}");
    assert_eq!(members.metric(STORED).await, 0.0, "nothing is written");
    store.falls(Sick::Not);
    until("all have tested it", async || {
        members.metric(WELL).await == members.members.len() as f64
    })
    .await;
    let object = origin.put("b", "later", Object::generated(2, CHUNKS * MIB));
    is_stored_for_all(&origin, &mut members, "later", &object.sha256()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_back_unfit_is_left_alone() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    let (_moto, store, members) = started_without(&origin).await;
    store.falls(Sick::Lies);
    until_all_say(&members, "must not be used").await;
    let all = members.members.len() as f64;
    assert_eq!(members.metric(UNFIT).await, all);
    assert_eq!(members.metric(WELL).await, 0.0);
    for member in &members.members {
        let log = member.process.log();
        assert!(log.contains("both were accepted"), "{log}");
    }
    all_right(&members.stampede("b/k", 6).await, &object.sha256());
    let gets = gets_by_chunk(&origin, "k", MIB);
    assert!(gets.values().all(|gets| *gets == 1), "{gets:?}");
    assert_eq!(members.metric(STORED).await, 0.0, "nothing is written");
    // Who mends it need not restart them.
    store.falls(Sick::Not);
    until("all have tested it", async || {
        members.metric(WELL).await == all && members.metric(UNFIT).await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garage_is_refused_for_what_it_ignores() {
    if !Garage::is_installed() {
        println!("not run: Garage is not there; scripts/peers/garage builds it");
        return;
    }
    let origin = Origin::start();
    let garage = Garage::start("store");
    let key = [Garage::ACCESS_KEY, Garage::SECRET_KEY];
    let said = refused(&before_url(&origin, garage.url(), key));
    assert!(said.contains("both were accepted"), "{said}");
}
