//! Answers to each operation: their shape, and the PDUs in them, which are proved one by one.
//!
//! ```text
//!  body --Batch::split--> slices --parse--> Parsed --lacking--> the keys to get
//!                                             |
//!                                             +--check--> Salvage: good ones with proofs, bad ones named
//! ```
//!
//! A PDU stays a slice of the body. Both steps work on several threads and return in the order of the
//! answer, so the result does not depend on how many. Both take the time of the CPU: from a task, run
//! them where blocking is allowed.

use super::{
    flaw::Flaw,
    format::event_id,
    json::parse_object,
    keyset::{KeySet, KeysWanted},
    pdu::{Expect, Pdu, Proof},
    rules::Rules,
    split::{Field, array_of_objects, each_element},
    spread::spread,
};
use bytes::Bytes;
use ruma_common::{CanonicalJsonValue, OwnedEventId};
use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
};

/// What an answer answers, and so what it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Answer {
    /// `GET /event/{id}`: one PDU, in a list.
    Event,
    /// `GET /event_auth/{room}/{id}`: PDUs, as `auth_chain`.
    AuthChain,
    /// `GET /backfill/{room}`: PDUs, as `pdus`.
    Backfill,
    /// `POST /get_missing_events/{room}`: PDUs, as `events`.
    MissingEvents,
    /// `GET /state_ids/{room}`: ids of events, as `pdu_ids` and `auth_chain_ids`.
    StateIds,
    /// `GET /timestamp_to_event/{room}`: the id of an event, and when it was sent.
    TimestampToEvent,
}

/// How large an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in the whole of it.
    pub body_bytes_max: usize,
    /// PDUs in it. Each takes some hundred bytes of memory, however small it is.
    pub pdus_max: usize,
    /// Ids of events in each of its lists.
    pub ids_max: usize,
}

impl Default for Limits {
    /// 64 MiB, 50,000 PDUs, 500,000 ids: what the largest rooms need.
    fn default() -> Self {
        Self {
            body_bytes_max: 64 << 20,
            pdus_max: 50_000,
            ids_max: 500_000,
        }
    }
}

impl Limits {
    fn check(&self, body: &[u8]) -> Result<(), Flaw> {
        if body.len() > self.body_bytes_max {
            return Err(Flaw::TooLarge {
                what: "answer",
                bytes: body.len(),
                max: self.body_bytes_max,
            });
        }
        Ok(())
    }
}

impl Answer {
    /// Checks that `body` is well-formed JSON of the shape of this answer, within `limits`, and no more:
    /// nothing in it is read, and nothing is proved. Returns how many PDUs or ids there are.
    ///
    /// Looks at each byte twice (about a GB/s) and builds only a list of slices.
    pub fn shape(self, body: &Bytes, limits: &Limits) -> Result<usize, Flaw> {
        match self {
            Self::StateIds => {
                limits.check(body)?;
                let mut count = 0;
                each_element(body, &StateIds::fields(limits), |_, _| {
                    count += 1;
                    Ok(())
                })?;
                Ok(count)
            }
            Self::TimestampToEvent => TimestampToEvent::parse(body, limits).map(|_| 1),
            _ => Batch::split(self, body, limits).map(|batch| batch.len()),
        }
    }
}

/// The PDUs of an answer, as slices of it that nobody has read yet.
#[derive(Debug, Clone)]
pub struct Batch {
    pdus: Vec<Bytes>,
}

/// What a PDU was refused for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Its place in the answer, from 0.
    pub index: usize,
    /// Its id, if one can be computed.
    pub id: Option<OwnedEventId>,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// The PDUs of an answer, read; nothing is known of who made them.
#[derive(Debug, Clone)]
pub struct Parsed {
    good: Vec<(usize, Pdu)>,
    bad: Vec<Bad>,
}

/// A PDU that was proved.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Its place in the answer, from 0.
    pub index: usize,
    /// The PDU.
    pub pdu: Pdu,
    /// What was proved of it.
    pub proof: Proof,
}

/// What is left of an answer when each of its PDUs was looked at.
#[derive(Debug, Clone)]
#[must_use]
pub struct Salvage {
    /// What was proved, in the order of the answer.
    pub good: Vec<Checked>,
    /// What was not, in the order of the answer.
    pub bad: Vec<Bad>,
}

impl Batch {
    /// Cuts the answer `body` into its PDUs. A flaw if it is not well-formed JSON of the shape of
    /// `answer`, or beyond `limits`; also if it is an answer that carries no PDUs.
    pub fn split(answer: Answer, body: &Bytes, limits: &Limits) -> Result<Self, Flaw> {
        limits.check(body)?;
        let (field, max) = match answer {
            Answer::Event => ("pdus", 1),
            Answer::AuthChain => ("auth_chain", limits.pdus_max),
            Answer::Backfill => ("pdus", limits.pdus_max),
            Answer::MissingEvents => ("events", limits.pdus_max),
            Answer::StateIds | Answer::TimestampToEvent => {
                return Err(Flaw::Shape("an answer without PDUs"));
            }
        };
        let pdus = array_of_objects(body, field, max)?;
        if answer == Answer::Event && pdus.is_empty() {
            return Err(Flaw::Shape("no event in it"));
        }
        Ok(Self { pdus })
    }

    /// PDUs that are at hand already, one by one.
    pub fn of(pdus: Vec<Bytes>) -> Self {
        Self { pdus }
    }

    /// The PDUs, each a slice of the answer: to take them in parts.
    pub fn into_pdus(self) -> Vec<Bytes> {
        self.pdus
    }

    /// How many PDUs there are.
    pub fn len(&self) -> usize {
        self.pdus.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pdus.is_empty()
    }

    /// Reads each PDU by `rules`, on `threads` threads, and compares it with what is expected. One that
    /// stands in the answer before is refused.
    pub fn parse(self, rules: Rules, expect: &Expect, threads: usize) -> Parsed {
        let read = spread(self.pdus, threads, |raw| {
            let pdu = Pdu::parse(raw.clone(), rules).map_err(|flaw| {
                let id = Pdu::id_of(&raw, rules);
                (id, flaw)
            })?;
            match pdu.expect(expect) {
                Ok(()) => Ok(pdu),
                Err(flaw) => Err((Some(pdu.event_id().to_owned()), flaw)),
            }
        });
        let mut parsed = Parsed {
            good: Vec::with_capacity(read.len()),
            bad: Vec::new(),
        };
        // Hashed with a secret of the process: the ids are an enemy's choice. Never iterated.
        let mut seen: HashMap<OwnedEventId, usize> = HashMap::with_capacity(read.len());
        for (index, pdu) in read.into_iter().enumerate() {
            let (id, flaw) = match pdu {
                Ok(pdu) => match seen.entry(pdu.event_id().to_owned()) {
                    Entry::Vacant(place) => {
                        place.insert(index);
                        parsed.good.push((index, pdu));
                        continue;
                    }
                    Entry::Occupied(place) => {
                        let id = place.key().clone();
                        let first = *place.get();
                        (Some(id.clone()), Flaw::Duplicate { id, first })
                    }
                },
                Err(bad) => bad,
            };
            parsed.bad.push(Bad { index, id, flaw });
        }
        parsed
    }
}

impl Parsed {
    /// The PDUs that are well-formed and what was expected, with their places in the answer.
    pub fn pdus(&self) -> impl Iterator<Item = (usize, &Pdu)> {
        self.good.iter().map(|(index, pdu)| (*index, pdu))
    }

    /// What was refused so far.
    pub fn bad(&self) -> &[Bad] {
        &self.bad
    }

    /// The keys without which some of the PDUs cannot be checked.
    pub fn lacking(&self, keys: &KeySet) -> KeysWanted {
        let mut wanted = KeysWanted::new();
        for (_, pdu) in &self.good {
            keys.lacking(pdu, &mut wanted);
        }
        wanted
    }

    /// Checks the signatures of each, on `threads` threads.
    pub fn check(self, keys: &KeySet, threads: usize) -> Salvage {
        let checked = spread(self.good, threads, |(index, pdu)| match pdu.check(keys) {
            Ok(proof) => Ok(Checked { index, pdu, proof }),
            Err(flaw) => {
                let id = Some(pdu.event_id().to_owned());
                Err(Bad { index, id, flaw })
            }
        });
        let mut salvage = Salvage {
            good: Vec::with_capacity(checked.len()),
            bad: self.bad,
        };
        for pdu in checked {
            match pdu {
                Ok(good) => salvage.good.push(good),
                Err(bad) => salvage.bad.push(bad),
            }
        }
        salvage.bad.sort_by_key(|bad| bad.index);
        salvage
    }
}

impl Salvage {
    /// All PDUs of the answer, or what is wrong with the first that is not good: for whoever refuses
    /// an answer as a whole.
    pub fn whole(self) -> Result<Vec<Checked>, Bad> {
        match self.bad.into_iter().next() {
            None => Ok(self.good),
            Some(bad) => Err(bad),
        }
    }
}

/// Reads and checks every PDU of `batch` with `keys` that are at hand, on `threads` threads.
///
/// Costs a parse, two hashes and one check of a signature for each: some 50 µs for a small event.
pub fn verify_all(
    batch: Batch,
    rules: Rules,
    expect: &Expect,
    keys: &KeySet,
    threads: usize,
) -> Salvage {
    batch.parse(rules, expect, threads).check(keys, threads)
}

/// The answer to a question for the ids of a room's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateIds {
    /// The events that are the state.
    pub pdu_ids: Vec<OwnedEventId>,
    /// The events that allow those.
    pub auth_chain_ids: Vec<OwnedEventId>,
}

impl StateIds {
    /// Reads the answer: two lists of ids, each of the form that `rules` ask for if they are known.
    /// Nothing more can be proved of it: it is its server's word.
    pub fn parse(body: &Bytes, rules: Option<Rules>, limits: &Limits) -> Result<Self, Flaw> {
        let mut lists = [Vec::new(), Vec::new()];
        Self::each(body, rules, limits, |list, id| lists[list].push(id))?;
        let [pdu_ids, auth_chain_ids] = lists;
        Ok(Self {
            pdu_ids,
            auth_chain_ids,
        })
    }

    /// Checks what [`StateIds::parse`] does, and keeps nothing of it.
    pub fn check(body: &Bytes, rules: Option<Rules>, limits: &Limits) -> Result<(), Flaw> {
        Self::each(body, rules, limits, |_, _| ())
    }

    fn each(
        body: &Bytes,
        rules: Option<Rules>,
        limits: &Limits,
        mut each: impl FnMut(usize, OwnedEventId),
    ) -> Result<(), Flaw> {
        limits.check(body)?;
        let fields = Self::fields(limits);
        each_element(body, &fields, |list, json| {
            let text: Option<Cow<'_, str>> = match serde_json::from_str::<&str>(json) {
                Ok(text) => Some(text.into()),
                Err(_) => serde_json::from_str::<String>(json).ok().map(Into::into),
            };
            let id = text
                .and_then(|text| event_id(&text))
                .filter(|id| rules.is_none_or(|rules| rules.is_event_id(id)));
            let why = "does not name events of this room version";
            each(
                list,
                id.ok_or_else(|| Flaw::format(fields[list].name, why))?,
            );
            Ok(())
        })
    }

    fn fields(limits: &Limits) -> [Field; 2] {
        ["pdu_ids", "auth_chain_ids"].map(|name| Field {
            name,
            max: limits.ids_max,
            begin: '"',
        })
    }
}

/// The answer to a question for the event that was sent nearest to some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimestampToEvent {
    /// The event.
    pub event_id: OwnedEventId,
    /// When it was sent, in milliseconds since 1970.
    pub origin_server_ts: i64,
}

impl TimestampToEvent {
    /// How large such an answer may be, in bytes.
    pub const BYTES_MAX: usize = 64 << 10;

    /// Reads the answer. Nothing more can be proved of it without the event itself.
    pub fn parse(body: &[u8], limits: &Limits) -> Result<Self, Flaw> {
        let limits = Limits {
            body_bytes_max: limits.body_bytes_max.min(Self::BYTES_MAX),
            ..*limits
        };
        limits.check(body)?;
        let object = parse_object(body, false)?;
        let id = object.get("event_id").and_then(CanonicalJsonValue::as_str);
        let ts = object
            .get("origin_server_ts")
            .and_then(CanonicalJsonValue::as_integer);
        Ok(Self {
            event_id: id
                .and_then(event_id)
                .ok_or_else(|| Flaw::format("event_id", "not the id of an event"))?,
            origin_server_ts: ts
                .map(i64::from)
                .ok_or_else(|| Flaw::format("origin_server_ts", "not an integer"))?,
        })
    }
}
