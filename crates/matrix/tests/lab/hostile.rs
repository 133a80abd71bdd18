//! A hostile server beside honest ones: alone, and asked first where an honest one is asked next.

use crate::{
    liar,
    lies::{self, Lie, Mind, named},
    world::{Asker, PATIENCE, Room, World, empty_store, text, told},
};
use futures_util::{FutureExt, StreamExt, future::join_all};
use gannet::{engine::Verdict, metrics::Page};
use gannet_matrix::{
    Attempt, Ceilings, Direction, FetchErrorKind, How, Key, OnBad, Op, Opts, Outcome, Proof,
    fill::{Ended, Fill, Goal, Limits, News},
    net::{Federation, KeyRing, KeyRingConfig},
    verify::{pdu::Pdu, rules::Rules},
};
use gannet_store::BlobStore;
use gannet_testkit::tls::Ca;
use rcgen::KeyPair;
use ruma_common::{CanonicalJsonObject, OwnedEventId};
use ruma_signatures::hash_and_sign_event;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet, fs, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration,
};

/// Fetches at a time; more than a machine has processors, for most of them wait.
const AT_ONCE: usize = 12;
/// Where well-knowns are looked for: those that listen at 443 have rights that tests need not have.
const WELL_KNOWN_PORT: u16 = 8443;
/// When the next is asked beside one that is silent.
const HEDGE: Duration = Duration::from_millis(200);
/// How long one is waited for that sends no head.
const FIRST_BYTE: Duration = Duration::from_secs(2);

/// The lab with a hostile server in it.
pub(crate) struct Hostile<'w> {
    world: &'w World,
    room: Room,
    server: liar::Server,
    federation: Federation,
    keys: Arc<KeyRing>,
    mind: Arc<Mind>,
    /// An event that nobody lies about.
    another: OwnedEventId,
}

impl<'w> Hostile<'w> {
    pub(crate) async fn start(world: &'w World) -> Self {
        let key = fs::read_to_string(text(&world.lab["ca_key"])).unwrap();
        let ca = Ca::of(KeyPair::from_pem(&key).unwrap(), "Gannet's lab");
        let names = lies::names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let ip = world.liar_address().into();
        let addrs = [8448, WELL_KNOWN_PORT].map(|port| SocketAddr::new(ip, port));
        let mut net = world.net();
        net.well_known_port = WELL_KNOWN_PORT;
        net.well_known_timeout = FIRST_BYTE;
        let federation = world.federation("hs1", net);
        let honest = world.federation("hs1", world.net());
        let mind = Arc::new(Mind::new(honest, world.name("hs2")));
        let server = liar::Server::start(
            liar::listen(&addrs).await,
            ca.server(&names),
            ca.server(&["somebody.else.test"]),
            Arc::clone(&mind),
        )
        .await;
        let mut config = KeyRingConfig::default();
        config.timeout = FIRST_BYTE;
        let room = world.room("conversation-10");
        // Early in the room, but when all were there.
        let mut others = room.events.iter().skip(20);
        let another = others.find(|event| !event.redacted).unwrap().id.clone();
        Self {
            world,
            room,
            mind,
            another,
            server,
            keys: Arc::new(KeyRing::open(federation.clone(), config).unwrap()),
            federation,
        }
    }

    /// Somebody who knows nothing of servers yet, but their keys.
    fn asker(&self) -> Asker {
        self.asker_with(None)
    }

    /// The same with a store.
    fn asker_with(&self, store: Option<Arc<dyn BlobStore>>) -> Asker {
        let mut ceilings = Ceilings::default();
        ceilings.keys_timeout = FIRST_BYTE;
        let (federation, keys) = (self.federation.clone(), Arc::clone(&self.keys));
        self.world
            .asker_of("hs1", federation, keys, store, ceilings)
    }

    /// Of a hostile server first, and then of an honest one, if there is one.
    fn of(&self, liar: &str, honest: Option<&str>) -> Opts {
        let honest = honest.map(|label| self.world.name(label));
        Opts::new()
            .pool([named(liar)].into_iter().chain(honest))
            .version(self.room.version.clone())
            .first_byte_timeout(FIRST_BYTE)
            .on_bad(OnBad::Refuse)
    }

    fn honest(&self) -> Opts {
        let opts = self.world.of(&["hs2"]);
        opts.version(self.room.version.clone())
    }

    /// A key of each op.
    fn wanted(&self) -> Vec<Key> {
        let room = &self.room;
        let id = || room.id.clone();
        let of_kind = |kind: &str| {
            let whole = |event: &&crate::world::LabEvent| event.kind == kind && !event.redacted;
            room.events.iter().rev().find(whole).unwrap().id.clone()
        };
        let window = |what: &str| room.named(&room.json["missing"][what]);
        let middle = room.events[room.events.len() / 2].made_at;
        [
            Key::event(id(), of_kind("m.room.message")),
            Key::auth_event(id(), of_kind("m.room.power_levels")),
            Key::auth_chain(id(), room.last()),
            Key::backfill(id(), [room.last()], 10),
            Key::missing_events(id(), window("earliest"), window("latest"), 20, 0),
            Key::state_ids(id(), room.last()),
            Key::timestamp_to_event(id(), middle, Direction::Forward),
        ]
        .map(Result::unwrap)
        .into()
    }
}

/// What an outcome holds, without what a server says of the time that passed since.
fn held(outcome: &Outcome) -> (Vec<(Proof, String)>, Value) {
    let events = outcome.events.iter().map(|event| {
        let mut pdu: Value = serde_json::from_slice(&outcome.raw(event)).unwrap();
        if let Some(unsigned) = pdu["unsigned"].as_object_mut() {
            unsigned.remove("age");
            unsigned.remove("age_ts");
        }
        (event.proof, pdu.to_string())
    });
    let mut rest: Value = serde_json::from_slice(&outcome.bytes).unwrap();
    let rest = rest.as_object_mut().unwrap();
    for list in ["pdus", "auth_chain", "events"] {
        rest.remove(list);
    }
    if !outcome.events.is_empty() {
        rest.remove("origin_server_ts");
    }
    (events.collect(), Value::Object(rest.clone()))
}

/// What one lie leads to where nobody else is asked: an error that names the liar, and what it did.
async fn alone(hostile: &Hostile<'_>, lie: &Lie, how: How, key: &Key) {
    let what = format!("{} {}", lie.label, key.op().name());
    let host = format!("{}.{}", lie.label, lies::DOMAIN);
    let asker = hostile.asker();
    let fetched = asker.matrix.fetch(key.clone(), hostile.of(lie.label, None));
    let error = fetched.await.expect_err(&what);
    let attempts = [(&*host, how.name())];
    assert_eq!(told(&error.attempts), attempts, "{what}: {error}");
    let Attempt { took, detail, .. } = &error.attempts[0];
    // Of two times that are up at once, either is told; or only that one was, where the engine was ahead
    // of whom it stopped.
    let late = ["fell silent", "too slow", "in time"];
    let is_late = lie.slow && late.iter().any(|late| detail.contains(late));
    let says = detail.contains(lie.says) || is_late;
    assert!(says, "{what}: {error}");
    assert!(!detail.contains('\u{1b}') && detail.len() < 1000, "{what}");
    // Far more than the longest bound in play.
    assert!(*took < PATIENCE, "{what}: {error}");
    let kind = match how {
        How::Bad | How::Unproven => FetchErrorKind::Unverified,
        How::Missing | How::Forbidden | How::Empty => FetchErrorKind::Missing,
        _ => FetchErrorKind::Exhausted,
    };
    assert_eq!(error.kind, kind, "{what}: {error}");
    assert_eq!(asker.wire.sends().len(), 1, "{what}: asked again");
    // The worse for faults and forgeries only.
    let state = match how {
        How::Missing | How::Forbidden | How::Empty | How::Unproven => "healthy",
        How::Busy => "throttled",
        _ => "degraded",
    };
    let mut page = Page::new();
    asker.matrix.write_metrics(&mut page, &[]).await;
    let health = format!("gannet_matrix_servers{{state=\"{state}\"}} 1\n");
    assert!(page.into_text().contains(&health), "{what}: not {state}");
    asker.matrix.shutdown(PATIENCE).await;
    let counters = asker.matrix.counters();
    let failed = matches!(how, How::Failed | How::TimedOut);
    let forged = counters.verdicts[Verdict::Invalid as usize];
    assert_eq!(counters.faults, u64::from(failed), "{what}: {counters:?}");
    assert_eq!(forged, u64::from(how == How::Bad), "{what}: {counters:?}");
    assert_eq!(counters.timeouts, u64::from(lie.slow), "{what}");
}

/// What it leads to where an honest server is asked next: to the same as if that had been asked alone.
async fn mixed(hostile: &Hostile<'_>, lie: &Lie, how: How, key: &Key, truth: &Outcome) {
    let what = format!("{} {}", lie.label, key.op().name());
    let host = format!("{}.{}", lie.label, lies::DOMAIN);
    let honest = hostile.world.name("hs2");
    let asker = hostile.asker();
    // Whoever is silent is joined by the honest one; everybody else is followed by it at once.
    let opts = || {
        let opts = hostile.of(lie.label, Some("hs2"));
        match lie.slow {
            true => opts.hedge(HEDGE),
            false => opts.no_hedge(),
        }
    };
    let outcome = asker.matrix.fetch(key.clone(), opts()).await;
    let outcome = outcome.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(outcome.server.as_ref(), Some(&honest), "{what}");
    assert_eq!(held(&outcome), held(truth), "{what}");
    assert!(outcome.bad.is_empty(), "{what}");
    let how = if lie.slow { How::Dropped } else { how };
    let attempts = [(&*host, how.name()), ("hs2.test", "answered")];
    assert_eq!(told(&outcome.attempts), attempts, "{what}");
    assert_eq!(asker.wire.sends().len(), 2, "{what}");

    // Who said no, or was only slow, is the first to be asked still.
    if matches!(
        how,
        How::Missing | How::Forbidden | How::Empty | How::Dropped
    ) {
        let id = hostile.another.clone();
        let another = Key::event(hostile.room.id.clone(), id).unwrap();
        let outcome = asker.matrix.fetch(another, opts()).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(outcome.server.as_ref(), Some(&honest), "{what}");
        assert_eq!(told(&outcome.attempts)[0].0, host, "{what}");
    }
    asker.matrix.shutdown(PATIENCE).await;
    let counters = asker.matrix.counters();
    assert_eq!(counters.hedges, 2 * u64::from(lie.slow), "{what}");
    assert_eq!(counters.timeouts, 0, "{what}");
}

pub(crate) async fn every_liar_is_named_and_nothing_of_it_taken(hostile: &Hostile<'_>) {
    let mut truths = Vec::new();
    for key in hostile.wanted() {
        let asker = hostile.asker();
        let truth = asker.matrix.fetch(key.clone(), hostile.honest());
        truths.push((key, truth.await.unwrap_or_else(|error| panic!("{error}"))));
    }
    let all = lies::lies();
    let each = all
        .iter()
        .flat_map(|lie| truths.iter().map(move |(key, truth)| (lie, key, truth)))
        .filter_map(|(lie, key, truth)| Some((lie, lie.how(key.op())?, key, truth)))
        .map(|(lie, how, key, truth)| async move {
            alone(hostile, lie, how, key).await;
            mixed(hostile, lie, how, key, truth).await;
        });
    let each = each.map(|each| AssertUnwindSafe(each).catch_unwind());
    let mut each = futures_util::stream::iter(each).buffer_unordered(AT_ONCE);
    // All that is wrong is told at once.
    let mut wrong = 0;
    while let Some(ended) = each.next().await {
        wrong += usize::from(ended.is_err());
    }
    assert_eq!(wrong, 0, "see above");
    // Nobody was led anywhere.
    assert_eq!(hostile.server.asked("target.liar.test"), [""; 0]);
}

/// One forged event among many: the others are kept, and it is named.
pub(crate) async fn what_is_forged_is_left_out(hostile: &Hostile<'_>) {
    let of_many = [Op::AuthChain, Op::Backfill, Op::MissingEvents];
    let wanted = hostile.wanted().into_iter();
    for key in wanted.filter(|key| of_many.contains(&key.op())) {
        let asker = hostile.asker();
        let truth = asker.matrix.fetch(key.clone(), hostile.honest());
        let truth = truth.await.unwrap_or_else(|error| panic!("{error}"));
        let opts = hostile.of(lies::PARTLY, Some("hs2")).on_bad(OnBad::Salvage);
        let asker = hostile.asker();
        let outcome = asker.matrix.fetch(key.clone(), opts).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(outcome.server, Some(named(lies::PARTLY)), "{key:?}");
        assert_eq!(told(&outcome.attempts)[0].1, "salvaged", "{key:?}");
        let (mut honest, _) = held(&truth);
        honest.remove(1);
        assert_eq!(held(&outcome).0, honest, "{key:?}");
        let [bad] = &*outcome.bad else {
            panic!("{key:?}: {:?}", outcome.bad)
        };
        assert!(bad.index == 1 && bad.reason.forged, "{bad:?}");
        assert!(!String::from_utf8_lossy(&outcome.bytes).contains("paid in full"));
    }
}

/// Nothing is known of the room but its id: what version it has is lied about as well.
pub(crate) async fn the_version_is_believed_to_nobody(hostile: &Hostile<'_>) {
    for label in [
        "garbage",
        "flipped",
        "signature",
        "nothing",
        "ill",
        "missing",
    ] {
        let asker = hostile.asker();
        let last = hostile.room.last();
        let key = Key::event(hostile.room.id.clone(), last.clone()).unwrap();
        let opts = Opts::new().pool([named(label), hostile.world.name("hs2")]);
        let outcome = asker.matrix.fetch(key, opts.first_byte_timeout(FIRST_BYTE));
        let outcome = outcome
            .await
            .unwrap_or_else(|error| panic!("{label}: {error}"));
        assert_eq!(outcome.server, Some(hostile.world.name("hs2")), "{label}");
        assert_eq!(outcome.version.as_ref(), Some(&hostile.room.version));
        assert_eq!(outcome.events[0].event_id, Some(last), "{label}");
        assert_eq!(outcome.proof(), Proof::Whole, "{label}");
        // The version, and the event, of either.
        assert!(asker.wire.sends().len() <= 4, "{label}");
    }
}

/// An event of the hostile server's own, in a room that it never was in, but signed as it should be.
fn own_event(hostile: &Hostile<'_>, label: &str) -> (OwnedEventId, Value) {
    let rules = Rules::of(&hostile.room.version).unwrap();
    let (server, create) = (named(label), &hostile.room.events[0].id);
    let event = json!({
        "type": "m.room.message",
        "room_id": hostile.room.id,
        "sender": format!("@mallory:{server}"),
        "origin_server_ts": lies::now_ms(),
        "depth": 1000,
        "content": { "msgtype": "m.text", "body": "it was me" },
        "prev_events": [hostile.room.last()],
        "auth_events": [create],
    });
    let mut event: CanonicalJsonObject = serde_json::from_value(event).unwrap();
    let (key, redaction) = (lies::own_key(), &rules.ruma().redaction);
    hash_and_sign_event(server.as_str(), key.pair(), &mut event, redaction).unwrap();
    let raw = serde_json::to_vec(&event).unwrap();
    let pdu = Pdu::parse(raw.clone().into(), rules).unwrap();
    let id = pdu.event_id().to_owned();
    (id, serde_json::from_slice(&raw).unwrap())
}

/// Documents in which the hostile server says what its keys are.
async fn one_document(hostile: &Hostile<'_>, label: &str, says: &str, key: &Key, truth: &Outcome) {
    let (own, event) = own_event(hostile, label);
    let host = format!("{label}.{}", lies::DOMAIN);
    hostile.mind.own.lock().unwrap().insert(host.clone(), event);
    let good = says.is_empty();

    let asker = hostile.asker();
    let alone = Key::event(hostile.room.id.clone(), own.clone()).unwrap();
    let fetched = asker.matrix.fetch(alone, hostile.of(label, None)).await;
    match fetched {
        Ok(outcome) => assert!(good && outcome.proof() == Proof::Whole, "{label}"),
        Err(error) => {
            assert!(!good, "{label}: {error}");
            assert_eq!(error.kind, FetchErrorKind::Unverified, "{label}: {error}");
            assert_eq!(told(&error.attempts), [(&*host, "unproven")], "{label}");
            let Attempt { took, detail, .. } = &error.attempts[0];
            assert!(detail.contains(says), "{label}: {error}");
            assert!(
                detail.contains(&host) && *took < PATIENCE,
                "{label}: {error}"
            );
        }
    }

    // Among those of others: all or nothing is wanted, and then what is good of it.
    let asker = hostile.asker();
    let refuse = hostile.of(label, Some("hs2")).no_hedge();
    let outcome = asker.matrix.fetch(key.clone(), refuse.clone()).await;
    let outcome = outcome.unwrap_or_else(|error| panic!("{label}: {error}"));
    let liar = (&*host, if good { "answered" } else { "unproven" });
    assert_eq!(told(&outcome.attempts)[0], liar, "{label}");
    if !good {
        assert_eq!(outcome.server, Some(hostile.world.name("hs2")), "{label}");
        assert_eq!(held(&outcome), held(truth), "{label}");
        let asker = hostile.asker();
        let salvage = refuse.on_bad(OnBad::Salvage);
        let outcome = asker.matrix.fetch(key.clone(), salvage).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{label}: {error}"));
        assert_eq!(told(&outcome.attempts), [(&*host, "salvaged")], "{label}");
        assert_eq!(held(&outcome).0, held(truth).0, "{label}");
        let [bad] = &*outcome.bad else {
            panic!("{label}: {:?}", outcome.bad)
        };
        assert!(bad.event_id == Some(own) && !bad.reason.forged, "{bad:?}");
    }
    // That its keys cannot be had is not held against whom was asked for events.
    let mut page = Page::new();
    asker.matrix.write_metrics(&mut page, &[]).await;
    let page = page.into_text();
    assert!(page.contains("{state=\"degraded\"} 0\n"), "{label}");
}

pub(crate) async fn documents_that_prove_nothing_prove_no_event(hostile: &Hostile<'_>) {
    let key = Key::backfill(hostile.room.id.clone(), [hostile.room.last()], 10).unwrap();
    let asker = hostile.asker();
    let truth = asker.matrix.fetch(key.clone(), hostile.honest()).await;
    let truth = truth.unwrap_or_else(|error| panic!("{error}"));
    let each = lies::KEYS.map(|(label, says)| one_document(hostile, label, says, &key, &truth));
    join_all(each).await;
    // One request each, whatever it led to; and none of them to whom one of them redirected.
    for (label, _) in lies::KEYS {
        let asked = hostile.server.asked(&format!("{label}.{}", lies::DOMAIN));
        let keys = asked.iter().filter(|path| path.contains("/key/"));
        assert_eq!(keys.count(), 1, "{label}");
    }
}

/// Well-knowns that lead nowhere, or where nobody may go.
pub(crate) async fn well_knowns_that_mislead_are_told(hostile: &Hostile<'_>) {
    let each = lies::WELL_KNOWNS.map(|(label, how, says)| async move {
        let host = format!("{label}.{}", lies::DOMAIN);
        let found = hostile.federation.discovery().explain(&named(label)).await;
        let steps = match &found {
            Ok(found) => &found.steps,
            Err(error) => &error.steps,
        };
        let told_so = steps.iter().any(|step| step.to_string().contains(says));
        assert!(told_so, "{label}: {steps:?}");
        let asked = hostile.server.asked(&host);
        let wk = asked.iter().filter(|path| path.contains("/.well-known/"));
        assert!((1..=6).contains(&wk.count()), "{label}: {asked:?}");

        let asker = hostile.asker();
        let key = Key::event(hostile.room.id.clone(), hostile.another.clone()).unwrap();
        let opts = hostile.of(label, Some("hs2")).no_hedge();
        let outcome = asker.matrix.fetch(key, opts).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{label}: {error}"));
        let attempts = [(&*host, how.name()), ("hs2.test", "answered")];
        assert_eq!(told(&outcome.attempts), attempts, "{label}");
        assert_eq!(outcome.proof(), Proof::Whole, "{label}");
    });
    join_all(each).await;
    // Whoever is named by a well-known is not asked for another.
    let target = hostile.server.asked("target.liar.test");
    assert!(!target.is_empty());
    assert!(target.iter().all(|path| !path.contains("/.well-known/")));
}

/// A room is filled from nothing, with a liar asked first for everything.
async fn one_fill(hostile: &Hostile<'_>, label: &str) {
    let room = &hostile.room;
    let asker = hostile.asker_with(Some(empty_store()));
    let honest = ["hs2", "hs3"].map(|label| hostile.world.name(label));
    let fill = Fill {
        room: room.id.clone(),
        from: vec![room.last()],
        to: Vec::new(),
        goal: Goal::Gap,
        limits: Limits::default(),
        opts: Opts::new()
            .pool([named(label)].into_iter().chain(honest))
            .first_byte_timeout(FIRST_BYTE)
            .hedge(HEDGE),
    };
    let mut found = BTreeSet::new();
    let filled = asker.matrix.fill(fill, |news| {
        if let News::Recovered(event) = news {
            let text = String::from_utf8_lossy(&event.raw).into_owned();
            assert!(!text.contains("paid in full"), "{label}: {text}");
            let cut = room.is_redacted(&event.event_id);
            let want = if cut { Proof::Redacted } else { Proof::Whole };
            assert_eq!(event.proof, want, "{label}: {text}");
            // Also where nobody says so.
            let rules = Rules::of(&room.version).unwrap();
            let pdu = Pdu::parse(event.raw.clone(), rules).unwrap();
            assert_eq!(pdu.event_id(), event.event_id, "{label}");
            assert!(
                found.insert(event.event_id),
                "{label}: each is told of once"
            );
        }
    });
    let filled = filled.await.unwrap();
    assert_eq!(filled.ended, Ended::Goal, "{label}: {filled:?}");
    assert_eq!(found, room.ids(), "{label}");
    // Not the liar, but for what it did not lie about.
    let of_liar = filled.by_server.get(&named(label));
    assert!(label == lies::PARTLY || of_liar.is_none(), "{filled:?}");
    assert!(
        label != lies::PARTLY || !filled.bad.is_empty(),
        "{filled:?}"
    );
    let (attempts, requests) = (filled.attempts, filled.requests);
    println!("filled beside {label}: {requests} requests, {attempts} attempts");
    // With servers that are well it takes some ten; each liar is found out sooner or later.
    assert!(filled.attempts <= 100, "{label}: {filled:?}");
    asker.matrix.shutdown(PATIENCE).await;
}

pub(crate) async fn a_room_is_filled_beside_a_liar(hostile: &Hostile<'_>) {
    let liars = [
        lies::PARTLY,
        "garbage",
        "flipped",
        "signature",
        "ill",
        "hang",
    ];
    join_all(liars.map(|label| one_fill(hostile, label))).await;
}
