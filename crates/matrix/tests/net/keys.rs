//! Whose keys are whose.

use super::{
    config,
    server::{Asked, Reply, Server},
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use gannet_matrix::{
    KeySource as _,
    net::{Federation, KeyRing, KeyRingConfig, NetConfig},
    verify::{
        keyset::{KeyAt, KeysWanted, PublicKey},
        sign::SigningKey,
    },
};
use gannet_testkit::tls::Ca;
use ruma_common::{CanonicalJsonObject, OwnedServerName, ServerName};
use serde_json::{Value, json};
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const DIRECT: &str = "/_matrix/key/v2/server";
const QUERY: &str = "/_matrix/key/v2/query";

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn key(name: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(name, &[seed; 32]).unwrap()
}

fn public(key: &SigningKey) -> Value {
    json!({ "key": STANDARD_NO_PAD.encode(key.public_key()) })
}

/// A document of a server, unsigned.
fn unsigned(server: &str, keys: &[&SigningKey], until_ms: u64) -> CanonicalJsonObject {
    let current: serde_json::Map<String, Value> = keys
        .iter()
        .map(|key| (key.id().to_owned(), public(key)))
        .collect();
    let document = json!({
        "server_name": server,
        "valid_until_ts": until_ms,
        "verify_keys": current,
        "old_verify_keys": {},
    });
    serde_json::from_value(document).unwrap()
}

fn sign(mut document: CanonicalJsonObject, server: &str, key: &SigningKey) -> CanonicalJsonObject {
    let server = ServerName::parse(server).unwrap();
    key.sign_object(&server, &mut document).unwrap();
    document
}

/// A document of a server, signed by itself, good for a day.
fn signed(server: &str, key: &SigningKey) -> CanonicalJsonObject {
    let day = now_ms() + 86_400_000;
    sign(unsigned(server, &[key], day), server, key)
}

fn text(document: &CanonicalJsonObject) -> String {
    serde_json::to_string(document).unwrap()
}

/// A notary's answer.
fn query(documents: &[CanonicalJsonObject]) -> String {
    json!({ "server_keys": documents }).to_string()
}

/// Names of servers carry their ports, so that nothing needs to be discovered.
fn named(host: &str, server: &Server) -> String {
    format!("{host}:{}", server.port())
}

/// A server whose answers depend on what it is called, which is known once it runs.
async fn start(
    ca: &Ca,
    host: &str,
    handler: impl Fn(&str, &Asked) -> Reply + Send + Sync + 'static,
) -> Server {
    let name: Arc<OnceLock<String>> = Arc::default();
    let known = name.clone();
    let server = Server::start(ca, &[host], move |asked| {
        handler(known.get().expect("set before anybody asks"), asked)
    })
    .await;
    name.set(named(host, &server)).unwrap();
    server
}

fn ring(net: &NetConfig, config: KeyRingConfig) -> KeyRing {
    let federation = Federation::new(net.clone(), None).unwrap();
    KeyRing::open(federation, config).unwrap()
}

fn wanted(server: &str, id: &str, at_ms: u64) -> KeysWanted {
    let server = ServerName::parse(server).unwrap();
    [(server, [(id.to_owned(), at_ms)].into())].into()
}

/// The one thing that is lacking.
async fn lacking(ring: &KeyRing, wanted: &KeysWanted) -> String {
    let keys = ring.get(wanted).await;
    assert_eq!(keys.lacking.len(), 1, "{keys:?}");
    keys.lacking.into_values().next().unwrap()
}

async fn found(ring: &KeyRing, server: &str, key: &SigningKey, at_ms: u64) {
    let keys = ring.get(&wanted(server, key.id(), at_ms)).await;
    assert!(keys.lacking.is_empty(), "{:?}", keys.lacking);
    let server: OwnedServerName = ServerName::parse(server).unwrap();
    let known = keys.set.key(&server, key.id(), i64::try_from(at_ms).ok());
    let expected = PublicKey::new(key.public_key());
    assert_eq!(known, KeyAt::Valid(&expected));
}

/// Whoever checks an answer has less time than the ring. What the ring was asked must come to its end all the
/// same, or every answer that holds an event of a silent server would be held up by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_waited_for_once() {
    let ca = Ca::new();
    let a = start(&ca, "a.test", |_, _| Reply::Hang).await;
    let mut net = config(&ca);
    net.overrides.give("a.test", a.port(), a.addr);
    let mut config = KeyRingConfig::default();
    config.timeout = Duration::from_secs(1);
    let ring = ring(&net, config);
    let wanted = wanted(&named("a.test", &a), "ed25519:1", 0);
    let keys = ring.keys(wanted.clone(), Duration::from_millis(100)).await;
    assert!(keys.is_empty());
    for _ in 0..3 {
        let why = lacking(&ring, &wanted).await;
        assert_eq!(a.asked().len(), 1, "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_once_however_many_want_them() {
    let ca = Ca::new();
    let own = key("1", 1);
    let a = start(&ca, "a.test", move |name, _| {
        Reply::text(200, &text(&signed(name, &key("1", 1))))
    })
    .await;
    let mut net = config(&ca);
    net.overrides.give("a.test", a.port(), a.addr);
    let ring = ring(&net, KeyRingConfig::default());
    let name = named("a.test", &a);
    let all = (0..100).map(|_| found(&ring, &name, &own, now_ms()));
    futures_util::future::join_all(all).await;
    assert_eq!(a.asked().len(), 1);
    assert_eq!(a.asked()[0].path, DIRECT);
    assert!(!a.asked()[0].headers.contains_key("authorization"));
    // An enemy names keys at will.
    for n in 0..100 {
        let wanted = wanted(&name, &format!("ed25519:x{n}"), 0);
        let why = lacking(&ring, &wanted).await;
        assert!(
            why.contains("none of the keys that would do is known"),
            "{why}"
        );
    }
    // Nor does a time beyond its word make it answer again.
    lacking(&ring, &wanted(&name, own.id(), now_ms() + 9 * 86_400_000)).await;
    assert_eq!(a.asked().len(), 1);
    let server = ServerName::parse(&*name).unwrap();
    let documents = ring.ask(&server).await.unwrap();
    assert_eq!(
        (documents.len(), a.asked().len()),
        (1, 2),
        "to ask is to ask"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_servers_at_once() {
    let ca = Ca::new();
    let hosts: Vec<String> = (0..40).map(|n| format!("s{n}.test")).collect();
    let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let server = Server::start(&ca, &names, |asked| {
        Reply::text(200, &text(&signed(&asked.host, &key("1", 1))))
    })
    .await;
    let mut net = config(&ca);
    let mut all = KeysWanted::new();
    for host in &hosts {
        net.overrides.give(host, server.port(), server.addr);
        all.extend(wanted(&named(host, &server), "ed25519:1", 0));
    }
    // One that nobody has does not hide the others.
    all.extend(wanted("127.0.0.9:1", "ed25519:1", 0));
    let keys = ring(&net, KeyRingConfig::default()).get(&all).await;
    assert_eq!(keys.lacking.len(), 1);
    let why = keys.lacking.values().next().unwrap();
    assert!(why.contains("127.0.0.9 is not connected to"), "{why}");
    assert_eq!(server.asked().len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_prove_nothing() {
    let ca = Ca::new();
    type Made = fn(&str) -> String;
    let cases: Vec<(&str, Made, &str)> = vec![
        (
            "foreign",
            |_| text(&signed("b.test", &key("1", 1))),
            "b.test",
        ),
        (
            "corrupt",
            |_| "{\"server_name\":".to_owned(),
            "not a JSON object",
        ),
        (
            "garbage",
            |_| "\u{1b}[2J<html>".to_owned(),
            "not a JSON object",
        ),
        (
            "unsigned",
            |name| text(&unsigned(name, &[&key("1", 1)], now_ms())),
            "",
        ),
        (
            "signed with another key",
            |name| {
                let document = unsigned(name, &[&key("1", 1)], now_ms());
                text(&sign(document, name, &key("1", 2)))
            },
            "",
        ),
        (
            "changed",
            |name| text(&signed(name, &key("1", 1))).replace("\"old_verify_keys\"", "\"old\""),
            "",
        ),
        ("large", |_| " ".repeat(70_000), "larger than"),
    ];
    for (what, made, why) in cases {
        let a = start(&ca, "a.test", move |name, _| Reply::text(200, &made(name))).await;
        let mut net = config(&ca);
        net.overrides.give("a.test", a.port(), a.addr);
        let ring = ring(&net, KeyRingConfig::default());
        let wanted = wanted(&named("a.test", &a), "ed25519:1", 0);
        for _ in 0..3 {
            let text = lacking(&ring, &wanted).await;
            assert!(!text.is_empty() && text.contains(why), "{what}: {text}");
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
        assert_eq!(
            a.asked().len(),
            1,
            "{what}: one that failed is left alone for a while"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_are_over_prove_what_is_older() {
    let ca = Ca::new();
    let own = key("1", 1);
    let a = start(&ca, "a.test", |name, _| {
        let own = key("1", 1);
        Reply::text(
            200,
            &text(&sign(unsigned(name, &[&own], 1_000), name, &own)),
        )
    })
    .await;
    let mut net = config(&ca);
    net.overrides.give("a.test", a.port(), a.addr);
    let ring = ring(&net, KeyRingConfig::default());
    let name = named("a.test", &a);
    found(&ring, &name, &own, 0).await;
    found(&ring, &name, &own, 1_000).await;
    let why = lacking(&ring, &wanted(&name, own.id(), 1_001)).await;
    assert!(why.contains("valid at the time"), "{why}");
}

/// A notary that answers queries so, and knows its own keys.
async fn notary(
    ca: &Ca,
    host: &'static str,
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> Server {
    start(ca, host, move |name, asked| match &*asked.path {
        DIRECT => Reply::text(200, &text(&signed(name, &key("n", 9)))),
        QUERY => Reply::text(200, &answer(name)),
        _ => Reply::status(404),
    })
    .await
}

fn with_notaries(net: &mut NetConfig, notaries: &[(&str, &Server)]) -> KeyRingConfig {
    let mut config = KeyRingConfig::default();
    for (host, server) in notaries {
        net.overrides.give(host, server.port(), server.addr);
        let name = ServerName::parse(named(host, server)).unwrap();
        config.notaries.push(name);
    }
    config
}

const DEAD: &str = "dead.test:1";

#[tokio::test(flavor = "multi_thread")]
async fn notaries_know_the_keys_of_the_dead() {
    let ca = Ca::new();
    let own = key("1", 1);
    let honest = notary(&ca, "n.test", |name| {
        query(&[sign(signed(DEAD, &key("1", 1)), name, &key("n", 9))])
    })
    .await;
    type Answer = fn(&str) -> String;
    let lies: Vec<(&str, Answer)> = vec![
        ("no signature of its own", |_| {
            query(&[signed(DEAD, &key("1", 1))])
        }),
        ("no signature of the server", |name| {
            let document = unsigned(DEAD, &[&key("1", 1)], now_ms());
            query(&[sign(document, name, &key("n", 9))])
        }),
        ("signed with another key than it says", |name| {
            query(&[sign(signed(DEAD, &key("1", 1)), name, &key("n", 8))])
        }),
        ("another server", |name| {
            query(&[sign(signed("other.test", &key("1", 1)), name, &key("n", 9))])
        }),
        ("nothing", |_| query(&[])),
        ("garbage", |_| "[".repeat(1000)),
        ("too much", |_| " ".repeat(300_000)),
    ];
    for (what, answer) in lies {
        let liar = notary(&ca, "l.test", answer).await;
        let mut net = config(&ca);
        let alone = with_notaries(&mut net, &[("l.test", &liar)]);
        let why = lacking(&ring(&net, alone), &wanted(DEAD, own.id(), 0)).await;
        assert!(why.contains("the notary l.test:"), "{what}: {why}");
        let both = with_notaries(&mut net, &[("l.test", &liar), ("n.test", &honest)]);
        let ring = ring(&net, both);
        found(&ring, DEAD, &own, now_ms()).await;
        let known = ring.known(&ServerName::parse(DEAD).unwrap()).await;
        assert_eq!((known.len(), known[0].1), (1, false), "{what}");
        let asked = liar.asked().into_iter();
        let asked = asked.filter(|asked| asked.path == QUERY);
        assert_eq!(asked.count(), 2, "{what}: by each ring once");
    }
    let asked = honest.asked().into_iter().find(|asked| asked.path == QUERY);
    let body: Value = serde_json::from_slice(&asked.unwrap().body).unwrap();
    assert_eq!(body, json!({ "server_keys": { DEAD: {} } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn notaries_add_old_keys_and_replace_none() {
    let ca = Ca::new();
    let a = start(&ca, "a.test", |name, _| {
        Reply::text(200, &text(&signed(name, &key("new", 1))))
    })
    .await;
    let name = named("a.test", &a);
    let of = name.clone();
    let n = notary(&ca, "n.test", move |notary| {
        // What it knows of before, and another key by the id of one in use.
        let old = signed(&of, &key("old", 2));
        let forged = signed(&of, &key("new", 3));
        query(&[old, forged].map(|document| sign(document, notary, &key("n", 9))))
    })
    .await;
    let mut net = config(&ca);
    net.overrides.give("a.test", a.port(), a.addr);
    let config = with_notaries(&mut net, &[("n.test", &n)]);
    let ring = ring(&net, config);
    found(&ring, &name, &key("new", 1), now_ms()).await;
    assert!(
        n.asked().is_empty(),
        "nobody else is asked while the server answers"
    );
    found(&ring, &name, &key("old", 2), now_ms()).await;
    found(&ring, &name, &key("new", 1), now_ms()).await;
    // Names of keys that nobody knows make nobody busy.
    for n in 0..10 {
        lacking(&ring, &wanted(&name, &format!("ed25519:x{n}"), 0)).await;
    }
    assert_eq!(a.asked().len(), 1);
    assert_eq!(n.asked().len(), 2, "its own keys, and one query");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notary_is_asked_beside_a_server_that_hangs() {
    let ca = Ca::new();
    let a = start(&ca, "a.test", |_, _| Reply::Hang).await;
    let name = named("a.test", &a);
    let of = name.clone();
    let n = notary(&ca, "n.test", move |notary| {
        query(&[sign(signed(&of, &key("1", 1)), notary, &key("n", 9))])
    })
    .await;
    let mut net = config(&ca);
    net.overrides.give("a.test", a.port(), a.addr);
    let mut config = with_notaries(&mut net, &[("n.test", &n)]);
    config.notary_after = Duration::from_millis(50);
    config.timeout = Duration::from_secs(600);
    found(&ring(&net, config), &name, &key("1", 1), now_ms()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_on_disk() {
    let ca = Ca::new();
    let own = key("1", 1);
    let a = start(&ca, "a.test", |name, _| {
        Reply::text(200, &text(&signed(name, &key("1", 1))))
    })
    .await;
    let name = named("a.test", &a);
    let mut net = config(&ca);
    net.overrides.give("a.test", a.port(), a.addr);
    let dir = tempfile::tempdir().unwrap();
    let mut config = KeyRingConfig::default();
    config.dir = Some(dir.path().join("keys"));
    let find = async || found(&ring(&net, config.clone()), &name, &own, now_ms()).await;
    find().await;
    find().await;
    assert_eq!(a.asked().len(), 1, "the second time from disk");
    // A restart does not make it answer sooner, either.
    lacking(&ring(&net, config.clone()), &wanted(&name, "ed25519:x", 0)).await;
    assert_eq!(a.asked().len(), 1);
    let files = || std::fs::read_dir(dir.path().join("keys")).unwrap();
    let file = files().next().unwrap().unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let mut count = 1;
    for bad in [
        whole[..whole.len() / 2].to_vec(),
        Vec::new(),
        text.replace("valid_until_ts", "valid_until_tt")
            .into_bytes(),
        text.replace("\"version\":1", "\"version\":2").into_bytes(),
        text.replace("\"server\":\"a.test", "\"server\":\"b.test")
            .into_bytes(),
    ] {
        std::fs::write(&file, bad).unwrap();
        find().await;
        count += 1;
        assert_eq!(
            a.asked().len(),
            count,
            "what is corrupt is as good as absent"
        );
        find().await;
        assert_eq!(a.asked().len(), count, "and is replaced");
    }
    assert_eq!(files().count(), 1, "nothing is left over");
}
