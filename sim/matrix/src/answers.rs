//! What servers say: requests as they read them, and the answers that their moods make of the truth.

use crate::{
    rooms::{Room, rooms, with_note},
    world::{Mood, Server},
};
use bytes::Bytes;
use gannet_matrix::Op;
use gannet_sim::rng::Rng;
use ruma_common::RoomVersionId;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What an event in an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Whole,
    Cut,
    /// Other content.
    Flipped,
    /// Without a right signature, and otherwise whole.
    Unsigned,
    /// Of another room.
    Strange,
    /// Right, and not what was asked for.
    Other,
    /// A second time.
    Again,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) events: Vec<(Bytes, Sent)>,
    /// No answer at all.
    pub(crate) broken: bool,
}

/// A request as a server reads it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) op: Op,
    /// Where it can be told.
    pub(crate) room: usize,
    from: Vec<usize>,
    stop: BTreeSet<usize>,
    limit: usize,
    near: (u64, bool),
    /// An id that no event has.
    unknown: bool,
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let hex: Vec<u8> = bytes.by_ref().take(2).collect();
            let hex = std::str::from_utf8(&hex).unwrap_or_default();
            out.push(u8::from_str_radix(hex, 16).expect("our own encoding"));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).expect("our own encoding")
}

impl Asked {
    /// Reads a request; it says which room, unless an event does.
    pub(crate) fn read(path: &str, body: Option<&Bytes>) -> Self {
        let rest = path
            .strip_prefix("/_matrix/federation/v1/")
            .expect("the API");
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut parts = path.split('/').map(decoded);
        let what = parts.next().unwrap_or_default();
        let pairs: Vec<(&str, String)> = (query.split('&').filter_map(|pair| pair.split_once('=')))
            .map(|(name, value)| (name, decoded(value)))
            .collect();
        let get = |name: &str| {
            let found = pairs.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let op = match &*what {
            "event" => Op::Event,
            "event_auth" => Op::AuthChain,
            "state_ids" => Op::StateIds,
            "backfill" => Op::Backfill,
            "get_missing_events" => Op::MissingEvents,
            _ => Op::TimestampToEvent,
        };
        let all = &rooms().all;
        let mut ids = Vec::new();
        let (mut stop, mut limit) = (Vec::new(), usize::MAX);
        let next = parts.next().unwrap_or_default();
        let room = match op {
            Op::Event => {
                ids.push(next.clone());
                all.iter().position(|room| room.number(&next).is_some())
            }
            _ => all.iter().position(|room| room.id.as_str() == next),
        };
        match op {
            Op::AuthChain => ids.extend(parts.next()),
            Op::StateIds => ids.push(get("event_id")),
            Op::Backfill => {
                ids.extend(
                    pairs
                        .iter()
                        .filter(|(of, _)| *of == "v")
                        .map(|(_, id)| id.clone()),
                );
                limit = get("limit").parse().expect("a limit");
            }
            Op::MissingEvents => {
                let body: Value = serde_json::from_slice(body.expect("a body")).expect("JSON");
                let list = |name: &str| -> Vec<String> {
                    let ids = body[name].as_array().into_iter().flatten();
                    ids.filter_map(|id| id.as_str().map(str::to_owned))
                        .collect()
                };
                ids = list("latest_events");
                stop = list("earliest_events");
                limit = body["limit"].as_u64().expect("a limit") as usize;
            }
            _ => {}
        }
        let Some(room) = room else {
            let (from, stop, near) = (vec![], BTreeSet::new(), (0, false));
            return Self {
                op,
                room: 0,
                from,
                stop,
                limit,
                near,
                unknown: true,
            };
        };
        let numbers = |ids: &[String]| -> Vec<usize> {
            ids.iter().filter_map(|id| all[room].number(id)).collect()
        };
        let from = numbers(&ids);
        Self {
            op,
            room,
            unknown: from.len() < ids.len(),
            from,
            stop: numbers(&stop).into_iter().collect(),
            limit,
            near: (get("ts").parse().unwrap_or(0), get("dir") == "f"),
        }
    }

    /// The events or ids of an honest answer of whoever holds these; `None`: it has nothing of the kind.
    fn honest(&self, room: &Room, held: &BTreeSet<usize>) -> Option<Vec<usize>> {
        let has = self.from.first().is_some_and(|first| held.contains(first)) && !self.unknown;
        let some = |events: Vec<usize>| -> Vec<usize> {
            let held = events.into_iter().filter(|event| held.contains(event));
            held.take(self.limit).collect()
        };
        match self.op {
            Op::Event | Op::AuthEvent => has.then(|| self.from.clone()),
            Op::AuthChain => has.then(|| some(room.chain(self.from[0]))),
            Op::StateIds => has.then(|| {
                let before = room.before(&room.events[self.from[0]].prev, &BTreeSet::new());
                some(
                    before
                        .into_iter()
                        .filter(|n| room.events[*n].is_state)
                        .collect(),
                )
            }),
            Op::Backfill => Some(some(room.before(&self.from, &BTreeSet::new()))),
            Op::MissingEvents => {
                let mut before: Vec<usize> = Vec::new();
                for latest in &self.from {
                    before.extend(&room.events[*latest].prev);
                }
                let mut stop = self.stop.clone();
                stop.extend(&self.from);
                Some(some(room.before(&before, &stop)))
            }
            Op::TimestampToEvent => {
                let (ts, forward) = self.near;
                let mut held = held.iter().copied();
                let found = match forward {
                    true => held.find(|n| room.events[*n].ts >= ts),
                    false => held.rfind(|n| room.events[*n].ts <= ts),
                };
                found.map(|event| vec![event])
            }
        }
    }

    /// Whether who holds everything has an answer that brings something.
    pub(crate) fn has_answer(&self) -> bool {
        let room = &rooms().all[self.room];
        let all = (0..room.events.len()).collect();
        let answer = self.honest(room, &all);
        !self.unknown_room()
            && answer.is_some_and(|events| !events.is_empty() || self.op == Op::StateIds)
    }

    fn unknown_room(&self) -> bool {
        self.unknown && self.from.is_empty()
    }

    /// What this server says, in this mood. `Err`: 404.
    pub(crate) fn answer(&self, server: &Server, mood: Mood, rng: &mut Rng) -> Result<Answer, ()> {
        let room = &rooms().all[self.room];
        let held = server
            .holds
            .get(&self.room)
            .filter(|_| !self.unknown_room());
        let found = held.and_then(|held| self.honest(room, held)).ok_or(())?;
        let mut answer = match self.op {
            Op::StateIds | Op::TimestampToEvent => self.ids(room, &found),
            _ => self.events(room, found, server, mood, rng),
        };
        match mood {
            Mood::Garbage => {
                let garbage = ["", "{}", "null", "{\"pdus\":", "<html>no</html>", "[1,2"];
                answer.body = Bytes::from_static(rng.pick(&garbage).as_bytes());
                answer.broken = true;
                answer.events.clear();
            }
            Mood::Half => {
                answer.body.truncate(answer.body.len() / 2);
                answer.broken = true;
                answer.events.clear();
            }
            _ => {}
        }
        Ok(answer)
    }

    fn ids(&self, room: &Room, found: &[usize]) -> Answer {
        let body = match self.op {
            Op::StateIds => {
                let ids = |events: &[usize]| -> Vec<String> {
                    events.iter().map(|n| room.id_of(*n).to_string()).collect()
                };
                json!({"auth_chain_ids": ids(&room.chain(self.from[0])), "pdu_ids": ids(found)})
            }
            _ => {
                let event = &room.events[found[0]];
                json!({"event_id": event.id.as_str(), "origin_server_ts": event.ts})
            }
        };
        Answer {
            body: body.to_string().into(),
            events: Vec::new(),
            broken: false,
        }
    }

    fn events(
        &self,
        room: &Room,
        found: Vec<usize>,
        server: &Server,
        mood: Mood,
        rng: &mut Rng,
    ) -> Answer {
        let mut events: Vec<(Bytes, Sent)> = Vec::new();
        for n in &found {
            let event = &room.events[*n];
            let cut = mood == Mood::Cut || server.cuts.contains(&(self.room, *n));
            events.push(match cut && event.cut != event.whole {
                true => (event.cut.clone(), Sent::Cut),
                false => (event.whole.clone(), Sent::Whole),
            });
        }
        // One of them, or several.
        let mut twins = Vec::new();
        let few = rng.permille(600);
        let single = self.op == Op::Event;
        let places: Vec<usize> = match events.len() {
            0 => Vec::new(),
            n if few => vec![rng.index(n)],
            n => (0..n).filter(|_| rng.permille(400)).collect(),
        };
        let places = match mood {
            Mood::Version => (found.iter().position(|n| *n == 0)).into_iter().collect(),
            _ => places,
        };
        for place in places {
            let event = &room.events[found[place]];
            match mood {
                Mood::Version => events[place] = (event.flipped.clone(), Sent::Flipped),
                Mood::Flip => events[place] = (event.flipped.clone(), Sent::Flipped),
                Mood::Forge => events[place] = (event.unsigned.clone(), Sent::Unsigned),
                Mood::Room => {
                    let other = rooms().all.iter().filter(|of| of.id != room.id);
                    let other: Vec<&Room> = other
                        .filter(|of| same_rules(&of.version, &room.version))
                        .collect();
                    if let Some(strange) = other.get(rng.index(other.len().max(1))) {
                        let strange = strange.events[rng.index(strange.events.len())]
                            .whole
                            .clone();
                        events[place] = (strange, Sent::Strange);
                    }
                }
                Mood::Twice => {
                    let (raw, sent) = events[place].clone();
                    let sent = if sent == Sent::Whole || sent == Sent::Cut {
                        Sent::Again
                    } else {
                        sent
                    };
                    if !single {
                        events.push((raw, sent));
                    }
                }
                Mood::Twin if !single => {
                    let (bad, sent, same) = match rng.permille(500) {
                        true => (event.flipped.clone(), Sent::Flipped, event.flipped_is_it),
                        false => (event.unsigned.clone(), Sent::Unsigned, true),
                    };
                    twins.push((place, bad, sent, same));
                }
                Mood::Other if single => {
                    let other = rng.index(room.events.len());
                    if other != found[place] {
                        events[place] = (room.events[other].whole.clone(), Sent::Other);
                    }
                }
                _ => {}
            }
        }
        // Of two with one id the first counts, whatever it is.
        for (place, bad, sent, same) in twins.into_iter().rev() {
            if rng.permille(500) {
                events.insert(place + 1, (bad, if same { Sent::Again } else { sent }));
                continue;
            }
            if same {
                events[place].1 = Sent::Again;
            }
            events.insert(place, (bad, sent));
        }
        if mood == Mood::Empty {
            events.clear();
        }
        if server.notes {
            for (raw, _) in &mut events {
                *raw = with_note(raw, rng.range(0, 9_999));
            }
        }
        let field = match self.op {
            Op::AuthChain => "auth_chain",
            Op::MissingEvents => "events",
            _ => "pdus",
        };
        let mut body = format!("{{\"{field}\":[").into_bytes();
        for (n, (raw, _)) in events.iter().enumerate() {
            if n > 0 {
                body.push(b',');
            }
            body.extend_from_slice(raw);
        }
        body.extend_from_slice(b"]");
        if self.op == Op::Event || self.op == Op::Backfill {
            body.extend_from_slice(b",\"origin\":\"x\",\"origin_server_ts\":1");
        }
        body.extend_from_slice(b"}");
        let broken = single && events.is_empty();
        Answer {
            body: body.into(),
            events,
            broken,
        }
    }
}

/// Whether events of one version can be read by the rules of the other.
fn same_rules(one: &RoomVersionId, other: &RoomVersionId) -> bool {
    one == other
}
