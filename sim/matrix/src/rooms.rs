//! The truth: rooms of several versions with the events that were really sent in them, hashed and signed as
//! homeservers do, with keys that are the same in each run.
//!
//! They are made once in a process, for signing takes its time; a seed picks some of them.

use bytes::Bytes;
use gannet_matrix::{
    Key,
    verify::{keyset::VerifyKey, pdu::Pdu, rules::Rules, sign::SigningKey},
};
use gannet_sim::rng::Rng;
use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, RoomVersionId,
    canonical_json::redact,
};
use ruma_signatures::hash_and_sign_event;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::OnceLock,
};

/// When the first event of a room was made, in milliseconds since 1970.
pub(crate) const BEGAN_MS: u64 = 1_700_000_000_000;

/// Servers whose users speak in rooms.
const SPEAKERS: usize = 5;

const VERSIONS: [&str; 5] = ["1", "6", "10", "11", "12"];

/// How many messages the rooms of each version have.
const SIZES: [usize; 3] = [4, 12, 28];

/// An event, as it was sent.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) id: OwnedEventId,
    /// All of it.
    pub(crate) whole: Bytes,
    /// What redaction leaves.
    pub(crate) cut: Bytes,
    /// With other content, and the hash and the signature as they were.
    pub(crate) flipped: Bytes,
    /// Whether that has the same id: not where redaction leaves all content, so that the id is made of it.
    pub(crate) flipped_is_it: bool,
    /// With a signature that is none.
    pub(crate) unsigned: Bytes,
    /// The events before it, and those that entitle it.
    pub(crate) prev: Vec<usize>,
    pub(crate) auth: Vec<usize>,
    pub(crate) ts: u64,
    pub(crate) is_state: bool,
}

/// A room.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) version: RoomVersionId,
    pub(crate) id: OwnedRoomId,
    /// Oldest first.
    pub(crate) events: Vec<Event>,
}

/// What bytes really are: an event of a room, whole or cut.
pub(crate) type What = (usize, usize, bool);

#[derive(Debug)]
pub(crate) struct Rooms {
    pub(crate) all: Vec<Room>,
    by_bytes: HashMap<Bytes, What>,
}

/// All rooms.
pub(crate) fn rooms() -> &'static Rooms {
    static ROOMS: OnceLock<Rooms> = OnceLock::new();
    ROOMS.get_or_init(|| {
        let versions = VERSIONS.iter().enumerate();
        let all = versions
            .flat_map(|(v, version)| SIZES.map(|size| Making::new(version, v, size).room()));
        let all: Vec<Room> = all.collect();
        let mut by_bytes = HashMap::new();
        for (r, room) in all.iter().enumerate() {
            for (e, event) in room.events.iter().enumerate() {
                by_bytes.insert(event.cut.clone(), (r, e, false));
                // Of some events redaction takes nothing.
                by_bytes.insert(event.whole.clone(), (r, e, true));
            }
        }
        Rooms { all, by_bytes }
    })
}

/// What a server may add to an event on the way, which nothing covers.
const NOTE: &str = "{\"unsigned\":{\"age\":";

/// An event with such a note.
pub(crate) fn with_note(raw: &[u8], age: u64) -> Bytes {
    let mut out = format!("{NOTE}{age}}},").into_bytes();
    out.extend_from_slice(&raw[1..]);
    out.into()
}

impl Rooms {
    /// What these bytes are, if an event of ours.
    pub(crate) fn what(&self, raw: &[u8]) -> Option<What> {
        let rest = raw.strip_prefix(NOTE.as_bytes()).and_then(|rest| {
            let end = rest.windows(2).position(|two| two == b"},")?;
            Some([b"{", &rest[end + 2..]].concat())
        });
        self.by_bytes.get(rest.as_deref().unwrap_or(raw)).copied()
    }
}

/// The name of a server.
pub(crate) fn name(server: usize) -> String {
    format!("s{server}.sim")
}

fn key_of(server: &str) -> SigningKey {
    let mut seed = [7; 32];
    for (place, byte) in seed.iter_mut().zip(server.bytes()) {
        *place = byte;
    }
    SigningKey::from_seed("a_1", &seed).expect("a seed and a name")
}

/// The public key of a server.
pub(crate) fn public(server: &str) -> (String, VerifyKey) {
    static KEYS: OnceLock<BTreeMap<String, [u8; 32]>> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let names = (0..SPEAKERS).map(name);
        names
            .map(|name| (name.clone(), key_of(&name).public_key()))
            .collect()
    });
    let bytes = keys.get(server).copied().unwrap_or([1; 32]);
    let valid_until_ms = 4_000_000_000_000;
    let key = VerifyKey {
        bytes,
        valid_until_ms,
    };
    ("ed25519:a_1".to_owned(), key)
}

fn object(value: Value) -> CanonicalJsonObject {
    match CanonicalJsonValue::try_from(value) {
        Ok(CanonicalJsonValue::Object(object)) => object,
        other => panic!("{other:?} is not an object"),
    }
}

fn bytes(object: &CanonicalJsonObject) -> Bytes {
    serde_json::to_vec(object).expect("it is JSON").into()
}

/// A room in the making.
struct Making {
    version: RoomVersionId,
    rules: Rules,
    rng: Rng,
    id: Option<OwnedRoomId>,
    size: usize,
    number: usize,
    keys: Vec<SigningKey>,
    events: Vec<Event>,
}

impl Making {
    fn new(version: &str, number: usize, size: usize) -> Self {
        let id = RoomVersionId::try_from(version).expect("a version");
        Self {
            rules: Rules::of(&id).expect("a known version"),
            version: id,
            rng: Rng::new(number as u64, size as u64),
            id: None,
            size,
            number,
            keys: (0..SPEAKERS).map(|n| key_of(&name(n))).collect(),
            events: Vec::new(),
        }
    }

    fn reference(&self, events: &[usize]) -> Value {
        let ids = events.iter().map(|n| {
            let id = self.events[*n].id.as_str();
            match self.rules.event_says_id() {
                true => json!([id, {"sha256": "abc"}]),
                false => json!(id),
            }
        });
        ids.collect()
    }

    fn add(
        &mut self,
        speaker: usize,
        kind: &str,
        state: Option<&str>,
        content: Value,
        prev: &[usize],
        auth: &[usize],
    ) -> usize {
        let n = self.events.len();
        let server = name(speaker);
        let ts = BEGAN_MS + n as u64 * 1_000;
        let mut event = json!({
            "type": kind,
            "sender": format!("@u:{server}"),
            "origin_server_ts": ts,
            "depth": n + 1,
            "content": content,
            "prev_events": self.reference(prev),
            "auth_events": self.reference(auth),
        });
        if let Some(state) = state {
            event["state_key"] = json!(state);
        }
        if self.rules.event_says_id() {
            event["event_id"] = json!(format!("$e{n}x{}:{server}", self.size));
        }
        if let Some(room) = &self.id {
            event["room_id"] = json!(room.as_str());
        } else if !self.rules.room_is_hash() {
            event["room_id"] = json!(format!("!r{}x{}:{server}", self.number, self.size));
        }
        let mut event = object(event);
        let redaction = &self.rules.ruma().redaction;
        hash_and_sign_event(&server, self.keys[speaker].pair(), &mut event, redaction)
            .expect("an event");
        let whole = bytes(&event);
        let pdu = Pdu::parse(whole.clone(), self.rules).expect("an event of this version");
        let cut = redact(event.clone(), redaction, None).expect("an event");
        let mut flipped = event.clone();
        if let Some(CanonicalJsonValue::Object(content)) = flipped.get_mut("content") {
            content.insert("planted".to_owned(), CanonicalJsonValue::Bool(true));
            // The rules of another version, if anybody believes it.
            if let Some(version) = content.get_mut("room_version") {
                let other = match self.version.as_str() {
                    "1" => "2",
                    "6" => "7",
                    "10" => "9",
                    "11" => "10",
                    _ => "11",
                };
                *version = CanonicalJsonValue::String(other.to_owned());
            }
        }
        let mut other = event;
        let signed = format!("{:?}", other["signatures"]);
        let zeros = object(json!({&server: {"ed25519:a_1": "A".repeat(86)}}));
        other.insert("signatures".to_owned(), CanonicalJsonValue::Object(zeros));
        assert_ne!(signed, format!("{:?}", other["signatures"]));
        self.id.get_or_insert_with(|| pdu.room_id().to_owned());
        self.events.push(Event {
            id: pdu.event_id().to_owned(),
            whole,
            cut: bytes(&cut),
            flipped_is_it: Pdu::id_of(&bytes(&flipped), self.rules)
                .is_some_and(|id| id == pdu.event_id()),
            flipped: bytes(&flipped),
            unsigned: bytes(&other),
            prev: prev.to_vec(),
            auth: auth.to_vec(),
            ts,
            is_state: state.is_some(),
        });
        n
    }

    fn room(mut self) -> Room {
        let version = self.version.as_str().to_owned();
        let founder = format!("@u:{}", name(0));
        let mut content = json!({"room_version": version, "topic": self.size});
        if !matches!(version.as_str(), "11" | "12") {
            content["creator"] = json!(founder);
        }
        let create = self.add(0, "m.room.create", Some(""), content, &[], &[]);
        let first: Vec<usize> = if version == "12" {
            vec![]
        } else {
            vec![create]
        };
        let joined = json!({"membership": "join", "displayname": "u"});
        let member = self.add(
            0,
            "m.room.member",
            Some(&founder),
            joined.clone(),
            &[create],
            &first,
        );
        let mut base = first;
        base.push(member);
        let power = json!({"users": {}, "events_default": 0, "note": "cut by redaction"});
        let power = self.add(0, "m.room.power_levels", Some(""), power, &[member], &base);
        base.push(power);
        let rules = json!({"join_rule": "public"});
        let rules = self.add(0, "m.room.join_rules", Some(""), rules, &[power], &base);
        let mut members = vec![member];
        let mut tips = vec![rules];
        for speaker in 1..SPEAKERS {
            let who = format!("@u:{}", name(speaker));
            let mut auth = base.clone();
            auth.push(rules);
            let prev = std::mem::take(&mut tips);
            let member = self.add(
                speaker,
                "m.room.member",
                Some(&who),
                joined.clone(),
                &prev,
                &auth,
            );
            members.push(member);
            tips = vec![member];
        }
        for n in 0..self.size {
            let speaker = self.rng.index(SPEAKERS);
            let mut auth: BTreeSet<usize> = base.iter().copied().collect();
            auth.insert(members[speaker]);
            let auth: Vec<usize> = auth.into_iter().collect();
            // Now and then two speak at once; whoever speaks next has heard both.
            let fork = self.rng.permille(250) && tips.len() == 1 && n + 1 < self.size;
            let prev = tips.clone();
            let content = json!({"msgtype": "m.text", "body": format!("message {n}")});
            let new = match self.rng.permille(150) {
                true => {
                    let topic = json!({"topic": format!("topic {n}")});
                    self.add(speaker, "m.room.topic", Some(""), topic, &prev, &auth)
                }
                false => self.add(speaker, "m.room.message", None, content, &prev, &auth),
            };
            tips = vec![new];
            if fork {
                let content = json!({"msgtype": "m.text", "body": format!("aside {n}")});
                let auth: Vec<usize> = {
                    let mut auth: BTreeSet<usize> = base.iter().copied().collect();
                    auth.insert(members[0]);
                    auth.into_iter().collect()
                };
                tips.push(self.add(0, "m.room.message", None, content, &prev, &auth));
            }
        }
        if tips.len() > 1 {
            let mut auth = base.clone();
            auth.push(members[0]);
            auth.sort_unstable();
            auth.dedup();
            let content = json!({"msgtype": "m.text", "body": "the last"});
            self.add(0, "m.room.message", None, content, &tips, &auth);
        }
        Room {
            version: self.version,
            id: self.id.expect("it was created"),
            events: self.events,
        }
    }
}

impl Room {
    pub(crate) fn id_of(&self, event: usize) -> OwnedEventId {
        self.events[event].id.clone()
    }

    /// Whatever entitles an event, and whatever entitles that; oldest first.
    pub(crate) fn chain(&self, event: usize) -> Vec<usize> {
        let mut chain = BTreeSet::new();
        let mut ahead = self.events[event].auth.clone();
        while let Some(next) = ahead.pop() {
            if chain.insert(next) {
                ahead.extend(&self.events[next].auth);
            }
        }
        chain.into_iter().collect()
    }

    /// These events and what lies before them, but not what `stop` holds; newest first.
    pub(crate) fn before(&self, from: &[usize], stop: &BTreeSet<usize>) -> Vec<usize> {
        let mut found = BTreeSet::new();
        let mut ahead = from.to_vec();
        while let Some(next) = ahead.pop() {
            if !stop.contains(&next) && found.insert(next) {
                ahead.extend(&self.events[next].prev);
            }
        }
        found.into_iter().rev().collect()
    }

    /// All that a fill from there brings back.
    pub(crate) fn closure(&self, from: &[usize]) -> BTreeSet<usize> {
        let mut all: BTreeSet<usize> = self.before(from, &BTreeSet::new()).into_iter().collect();
        for event in all.clone() {
            all.extend(self.chain(event));
        }
        all
    }

    pub(crate) fn number(&self, id: &str) -> Option<usize> {
        self.events.iter().position(|event| event.id.as_str() == id)
    }
}

/// What a key is on the wire, in one line.
pub(crate) fn wire_of(key: &Key) -> String {
    let wire = key.wire();
    let body = wire.body.as_deref().unwrap_or_default();
    format!("{}{}", wire.path, String::from_utf8_lossy(body))
}
