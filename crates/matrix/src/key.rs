//! [`Key`]: what is asked of a federation, in canonical form.
//!
//! Two callers who ask for the same thing hold equal keys, in whatever order they list their events,
//! and equal keys are one fetch. A key knows what it is on the wire: method, path and body follow from
//! it alone. Everything in a key is bounded when it is made, since most of it comes from outside.
//!
//! Not part of a key: whom to ask, how, and what is checked of the answer. That is for
//! [`Opts`](crate::Opts).

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ruma_common::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use std::{fmt::Write as _, sync::Arc};

/// The most bytes of an event or room id. (The parser of ids holds only some of them to it.)
pub const ID_BYTES_MAX: usize = 255;
/// The most events that a window or a backfill may begin from.
pub const IDS_MAX: usize = 128;
/// The most events that a backfill may ask for: servers give no more.
pub const BACKFILL_MAX: u32 = 100;
/// The most missing events that may be asked for. Synapse gives 20 at most, others more.
pub const MISSING_EVENTS_MAX: u32 = 100;
/// The largest integer of canonical JSON.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// All that a path segment or a value in a query must not hold as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What can be asked of a server of the federation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// One event.
    Event,
    /// One event, wanted for the authorization of others: the same on the wire, but asked of the room's
    /// authority first.
    AuthEvent,
    /// The events that authorize an event, and those that authorize them, and so on.
    AuthChain,
    /// Events before some events.
    Backfill,
    /// The ids of a room's state before an event, and of what authorizes it.
    StateIds,
    /// The events between two edges of the graph.
    MissingEvents,
    /// The event next to a point in time.
    TimestampToEvent,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Event,
        Self::AuthEvent,
        Self::AuthChain,
        Self::Backfill,
        Self::StateIds,
        Self::MissingEvents,
        Self::TimestampToEvent,
    ];

    /// What people, logs and metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::AuthEvent => "auth_event",
            Self::AuthChain => "auth_chain",
            Self::Backfill => "backfill",
            Self::StateIds => "state_ids",
            Self::MissingEvents => "missing_events",
            Self::TimestampToEvent => "timestamp_to_event",
        }
    }

    /// Whether its answers bring events, whose ids, hashes and signatures can be checked. Answers to
    /// the others are one server's word.
    pub const fn carries_events(self) -> bool {
        !matches!(self, Self::StateIds | Self::TimestampToEvent)
    }

    /// Whether it is about what authorizes events: the room's authority is asked early.
    pub const fn is_auth(self) -> bool {
        matches!(self, Self::AuthEvent | Self::AuthChain | Self::StateIds)
    }
}

/// On which side of a point in time an event is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The first at or after it.
    Forward,
    /// The last at or before it.
    Backward,
}

/// Why there is no such key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// An id is longer than ids may be. Nothing to do: no server has it.
    #[error("an id of {bytes} bytes; {ID_BYTES_MAX} is the most")]
    LongId {
        /// Its length.
        bytes: usize,
    },
    /// Nothing to begin from: name at least one event.
    #[error("no event is named to begin from")]
    NoEvents,
    /// Too many ids: ask in parts.
    #[error("{ids} ids; {IDS_MAX} is the most")]
    TooManyIds {
        /// How many, repeats left out.
        ids: usize,
    },
    /// The limit is zero, or above what servers give: ask in parts.
    #[error("a limit of {limit}; from 1 to {max} is allowed")]
    Limit {
        /// What was asked for.
        limit: u32,
        /// The most.
        max: u32,
    },
    /// A number that JSON of the federation cannot hold.
    #[error("{number} is more than 2^53 - 1")]
    LargeNumber {
        /// The number.
        number: u64,
    },
}

/// What is wanted, in canonical form. Cheap to clone.
///
/// ```
/// use gannet_matrix::Key;
/// use ruma_common::{owned_event_id, owned_room_id};
///
/// let room = owned_room_id!("!r:example.org");
/// let (a, b, c) = (owned_event_id!("$a"), owned_event_id!("$b"), owned_event_id!("$c"));
/// let one = Key::missing_events(room.clone(), [a.clone(), b.clone()], [c.clone()], 20, 0)?;
/// let other = Key::missing_events(room, [b.clone(), a, b], [c], 20, 0)?;
/// assert_eq!(one, other);
/// assert_eq!(one.wire().path, "/_matrix/federation/v1/get_missing_events/%21r%3Aexample.org");
/// # Ok::<_, gannet_matrix::KeyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<Inner>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Inner {
    room: OwnedRoomId,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum What {
    Event(OwnedEventId),
    AuthEvent(OwnedEventId),
    AuthChain(OwnedEventId),
    StateIds(OwnedEventId),
    Backfill {
        from: Box<[OwnedEventId]>,
        limit: u32,
    },
    MissingEvents {
        earliest: Box<[OwnedEventId]>,
        latest: Box<[OwnedEventId]>,
        limit: u32,
        min_depth: u64,
    },
    TimestampToEvent {
        ts: u64,
        direction: Direction,
    },
}

/// What a key is on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// GET, or POST where there is a body.
    pub method: http::Method,
    /// Path and query, percent-encoded.
    pub path: String,
    /// Canonical JSON.
    pub body: Option<Bytes>,
}

/// In the order of canonical JSON.
#[derive(serde::Serialize)]
struct Window<'a> {
    earliest_events: Vec<&'a str>,
    latest_events: Vec<&'a str>,
    limit: u32,
    min_depth: u64,
}

fn ids(ids: &[OwnedEventId]) -> Vec<&str> {
    ids.iter().map(|id| id.as_str()).collect()
}

impl Key {
    /// One event.
    ///
    /// # Errors
    /// An id that is too long.
    pub fn event(room: OwnedRoomId, event: OwnedEventId) -> Result<Self, KeyError> {
        Self::of_event(room, event, What::Event)
    }

    /// One event that authorizes others.
    ///
    /// # Errors
    /// An id that is too long.
    pub fn auth_event(room: OwnedRoomId, event: OwnedEventId) -> Result<Self, KeyError> {
        Self::of_event(room, event, What::AuthEvent)
    }

    /// All that authorizes an event.
    ///
    /// # Errors
    /// An id that is too long.
    pub fn auth_chain(room: OwnedRoomId, event: OwnedEventId) -> Result<Self, KeyError> {
        Self::of_event(room, event, What::AuthChain)
    }

    /// The ids of the state before an event.
    ///
    /// # Errors
    /// An id that is too long.
    pub fn state_ids(room: OwnedRoomId, event: OwnedEventId) -> Result<Self, KeyError> {
        Self::of_event(room, event, What::StateIds)
    }

    /// Up to `limit` events: `from`, and those before them.
    ///
    /// # Errors
    /// No ids, too many or too long ones, or a limit beyond [`BACKFILL_MAX`].
    pub fn backfill(
        room: OwnedRoomId,
        from: impl IntoIterator<Item = OwnedEventId>,
        limit: u32,
    ) -> Result<Self, KeyError> {
        let from = canonical(from)?;
        if from.is_empty() {
            return Err(KeyError::NoEvents);
        }
        let limit = within(limit, BACKFILL_MAX)?;
        Self::new(room, What::Backfill { from, limit })
    }

    /// Up to `limit` events before `latest` and not before `earliest`, and none below `min_depth`.
    ///
    /// # Errors
    /// No latest ids, too many or too long ones, a limit beyond [`MISSING_EVENTS_MAX`], a depth that
    /// JSON cannot hold.
    pub fn missing_events(
        room: OwnedRoomId,
        earliest: impl IntoIterator<Item = OwnedEventId>,
        latest: impl IntoIterator<Item = OwnedEventId>,
        limit: u32,
        min_depth: u64,
    ) -> Result<Self, KeyError> {
        let (earliest, latest) = (canonical(earliest)?, canonical(latest)?);
        if latest.is_empty() {
            return Err(KeyError::NoEvents);
        }
        let what = What::MissingEvents {
            earliest,
            latest,
            limit: within(limit, MISSING_EVENTS_MAX)?,
            min_depth: integer(min_depth)?,
        };
        Self::new(room, what)
    }

    /// The event next to a point in time, in milliseconds since 1970.
    ///
    /// # Errors
    /// A room id that is too long, a time that JSON cannot hold.
    pub fn timestamp_to_event(
        room: OwnedRoomId,
        ts: u64,
        direction: Direction,
    ) -> Result<Self, KeyError> {
        let ts = integer(ts)?;
        Self::new(room, What::TimestampToEvent { ts, direction })
    }

    fn of_event(
        room: OwnedRoomId,
        event: OwnedEventId,
        what: impl FnOnce(OwnedEventId) -> What,
    ) -> Result<Self, KeyError> {
        short(event.as_str())?;
        Self::new(room, what(event))
    }

    fn new(room: OwnedRoomId, what: What) -> Result<Self, KeyError> {
        short(room.as_str())?;
        Ok(Self(Arc::new(Inner { room, what })))
    }

    /// What is asked.
    pub fn op(&self) -> Op {
        match self.0.what {
            What::Event(_) => Op::Event,
            What::AuthEvent(_) => Op::AuthEvent,
            What::AuthChain(_) => Op::AuthChain,
            What::StateIds(_) => Op::StateIds,
            What::Backfill { .. } => Op::Backfill,
            What::MissingEvents { .. } => Op::MissingEvents,
            What::TimestampToEvent { .. } => Op::TimestampToEvent,
        }
    }

    /// The room.
    pub fn room(&self) -> &RoomId {
        &self.0.room
    }

    /// The event that is sought or asked about, where there is exactly one by its kind.
    pub fn event_id(&self) -> Option<&EventId> {
        match &self.0.what {
            What::Event(id) | What::AuthEvent(id) | What::AuthChain(id) | What::StateIds(id) => {
                Some(id)
            }
            _ => None,
        }
    }

    /// The events that are asked about, and those that bound what is asked for.
    pub fn event_ids(&self) -> impl Iterator<Item = &EventId> {
        let (one, some, more): (_, &[OwnedEventId], &[OwnedEventId]) = match &self.0.what {
            What::Backfill { from, .. } => (None, from, &[]),
            What::MissingEvents {
                earliest, latest, ..
            } => (None, latest, earliest),
            _ => (self.event_id(), &[], &[]),
        };
        let lists = some.iter().chain(more).map(|id| &**id);
        one.into_iter().chain(lists)
    }

    /// The time and direction of [`Op::TimestampToEvent`].
    pub fn timestamp(&self) -> Option<(u64, Direction)> {
        match self.0.what {
            What::TimestampToEvent { ts, direction } => Some((ts, direction)),
            _ => None,
        }
    }

    /// How many events may be asked for; `None` where that is not for the asker to say.
    pub fn limit(&self) -> Option<u32> {
        match self.0.what {
            What::Backfill { limit, .. } | What::MissingEvents { limit, .. } => Some(limit),
            _ => None,
        }
    }

    /// The most bytes that an honest answer may need. An event has 64 KiB at most as canonical JSON, and
    /// three times that where its server escapes all that is not ASCII, as Synapse does; and it comes in
    /// an envelope. The answers without a count are bounded so that several fit into memory at once.
    ///
    /// | op | bytes |
    /// |---|---|
    /// | event, auth event | 192 KiB |
    /// | auth chain, state ids | 14 MiB: some 10,000 events, or 300,000 ids |
    /// | backfill, missing events | 64 KiB for each event asked for, and 128 KiB |
    /// | timestamp to event | 4 KiB |
    pub fn body_bytes_max(&self) -> u64 {
        match &self.0.what {
            What::Event(_) | What::AuthEvent(_) => 192 << 10,
            What::AuthChain(_) | What::StateIds(_) => 14 << 20,
            What::Backfill { limit, .. } | What::MissingEvents { limit, .. } => {
                (u64::from(*limit) + 2) << 16
            }
            What::TimestampToEvent { .. } => 4 << 10,
        }
    }

    /// The request.
    pub fn wire(&self) -> Wire {
        let mut path = String::with_capacity(128);
        path.push_str("/_matrix/federation/v1/");
        let room = self.0.room.as_str();
        let mut body = None;
        match &self.0.what {
            What::Event(id) | What::AuthEvent(id) => {
                path.push_str("event/");
                push(&mut path, id.as_str());
            }
            What::AuthChain(id) => {
                path.push_str("event_auth/");
                push(&mut path, room);
                path.push('/');
                push(&mut path, id.as_str());
            }
            What::StateIds(id) => {
                path.push_str("state_ids/");
                push(&mut path, room);
                path.push_str("?event_id=");
                push(&mut path, id.as_str());
            }
            What::Backfill { from, limit } => {
                path.push_str("backfill/");
                push(&mut path, room);
                for (n, id) in from.iter().enumerate() {
                    path.push_str(if n == 0 { "?v=" } else { "&v=" });
                    push(&mut path, id.as_str());
                }
                // Without it the answer is an error.
                let _ = write!(path, "&limit={limit}");
            }
            What::MissingEvents {
                earliest,
                latest,
                limit,
                min_depth,
            } => {
                path.push_str("get_missing_events/");
                push(&mut path, room);
                let window = Window {
                    earliest_events: ids(earliest),
                    latest_events: ids(latest),
                    limit: *limit,
                    min_depth: *min_depth,
                };
                let json = serde_json::to_vec(&window).expect("strings and numbers are JSON");
                body = Some(Bytes::from(json));
            }
            What::TimestampToEvent { ts, direction } => {
                path.push_str("timestamp_to_event/");
                push(&mut path, room);
                let dir = match direction {
                    Direction::Forward => 'f',
                    Direction::Backward => 'b',
                };
                let _ = write!(path, "?ts={ts}&dir={dir}");
            }
        }
        let method = match body {
            Some(_) => http::Method::POST,
            None => http::Method::GET,
        };
        Wire { method, path, body }
    }
}

fn push(path: &mut String, id: &str) {
    path.extend(utf8_percent_encode(id, ENCODED));
}

fn short(id: &str) -> Result<(), KeyError> {
    match id.len() {
        0..=ID_BYTES_MAX => Ok(()),
        bytes => Err(KeyError::LongId { bytes }),
    }
}

fn integer(number: u64) -> Result<u64, KeyError> {
    match number {
        0..=INTEGER_MAX => Ok(number),
        _ => Err(KeyError::LargeNumber { number }),
    }
}

fn within(limit: u32, max: u32) -> Result<u32, KeyError> {
    if limit == 0 || limit > max {
        return Err(KeyError::Limit { limit, max });
    }
    Ok(limit)
}

/// Sorted, each once.
fn canonical(ids: impl IntoIterator<Item = OwnedEventId>) -> Result<Box<[OwnedEventId]>, KeyError> {
    // However many there are, not more than a few times the bound are ever held.
    let mut all = Vec::new();
    for id in ids {
        short(id.as_str())?;
        all.push(id);
        if all.len() > 4 * IDS_MAX {
            all.sort_unstable();
            all.dedup();
            if all.len() > IDS_MAX {
                return Err(KeyError::TooManyIds { ids: all.len() });
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    match all.len() {
        0..=IDS_MAX => Ok(all.into()),
        ids => Err(KeyError::TooManyIds { ids }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ruma_common::{owned_event_id, owned_room_id};

    fn room() -> OwnedRoomId {
        owned_room_id!("!r+1/2:example.org")
    }

    fn id(n: u8) -> OwnedEventId {
        OwnedEventId::try_from(format!("$event{n}")).expect("an id")
    }

    #[test]
    fn requests_are_as_the_specification_has_them() {
        let get = |key: Result<Key, KeyError>, path: &str| {
            let wire = key.expect("a key").wire();
            assert_eq!(wire.path, format!("/_matrix/federation/v1/{path}"));
            assert_eq!((wire.method, wire.body), (http::Method::GET, None));
        };
        let event = owned_event_id!("$a/b+c:example.org:8448");
        let e = "%24a%2Fb%2Bc%3Aexample.org%3A8448";
        let r = "%21r%2B1%2F2%3Aexample.org";
        get(Key::event(room(), event.clone()), &format!("event/{e}"));
        get(
            Key::auth_event(room(), event.clone()),
            &format!("event/{e}"),
        );
        get(
            Key::auth_chain(room(), event.clone()),
            &format!("event_auth/{r}/{e}"),
        );
        get(
            Key::state_ids(room(), event),
            &format!("state_ids/{r}?event_id={e}"),
        );
        get(
            Key::backfill(room(), [id(2), id(1), id(2)], 100),
            &format!("backfill/{r}?v=%24event1&v=%24event2&limit=100"),
        );
        get(
            Key::timestamp_to_event(room(), 17, Direction::Forward),
            &format!("timestamp_to_event/{r}?ts=17&dir=f"),
        );
        get(
            Key::timestamp_to_event(room(), 17, Direction::Backward),
            &format!("timestamp_to_event/{r}?ts=17&dir=b"),
        );
        let missing = Key::missing_events(room(), [id(3)], [id(2), id(1)], 20, 7).expect("a key");
        let wire = missing.wire();
        assert_eq!(wire.method, http::Method::POST);
        assert_eq!(
            wire.path,
            format!("/_matrix/federation/v1/get_missing_events/{r}")
        );
        assert_eq!(
            wire.body.expect("a window"),
            r#"{"earliest_events":["$event3"],"latest_events":["$event1","$event2"],"limit":20,"min_depth":7}"#
        );
    }

    #[test]
    fn the_largest_event_fits_however_it_is_escaped() {
        // In a script of two bytes a character, each of which becomes six: `\\u0436`.
        let text = "\\u0436".repeat((65_536 - 1_000) / 2);
        let answer = format!(r#"{{"pdus":[{{"content":{{"body":"{text}"}}}}]}}"#);
        for key in [
            Key::event(room(), id(1)),
            Key::auth_event(room(), id(1)),
            Key::backfill(room(), [id(1)], 1),
            Key::missing_events(room(), [], [id(1)], 1, 0),
        ] {
            let key = key.expect("a key");
            assert!(answer.len() as u64 <= key.body_bytes_max(), "{key:?}");
        }
    }

    #[test]
    fn ops_of_one_event_are_keys_of_their_own() {
        let keys = [
            Key::event(room(), id(1)),
            Key::auth_event(room(), id(1)),
            Key::auth_chain(room(), id(1)),
            Key::state_ids(room(), id(1)),
            Key::backfill(room(), [id(1)], 1),
        ];
        for (n, one) in keys.iter().enumerate() {
            for other in &keys[n + 1..] {
                assert_ne!(one, other);
            }
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let long = OwnedEventId::try_from(format!("${}", "x".repeat(255))).expect("ruma takes it");
        assert_eq!(
            Key::event(room(), long),
            Err(KeyError::LongId { bytes: 256 })
        );
        let none: [OwnedEventId; 0] = [];
        assert_eq!(
            Key::backfill(room(), none.clone(), 1),
            Err(KeyError::NoEvents)
        );
        assert_eq!(
            Key::missing_events(room(), [id(1)], none, 1, 0),
            Err(KeyError::NoEvents)
        );
        for limit in [0, 101] {
            assert_eq!(
                Key::backfill(room(), [id(1)], limit),
                Err(KeyError::Limit { limit, max: 100 })
            );
        }
        let many = |n: u32| (0..n).map(|n| OwnedEventId::try_from(format!("${n}")).expect("an id"));
        assert!(Key::backfill(room(), many(128), 1).is_ok());
        assert!(Key::backfill(room(), many(128).chain(many(128)), 1).is_ok());
        assert_eq!(
            Key::backfill(room(), many(129), 1),
            Err(KeyError::TooManyIds { ids: 129 })
        );
        assert!(Key::backfill(room(), many(1_000_000_000), 1).is_err());
        let number = 1 << 53;
        assert_eq!(
            Key::timestamp_to_event(room(), number, Direction::Forward),
            Err(KeyError::LargeNumber { number })
        );
    }

    fn some_ids() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..12_u8, 1..8)
    }

    fn missing(earliest: &[u8], latest: &[u8]) -> Key {
        let of = |ids: &[u8]| ids.iter().map(|n| id(*n)).collect::<Vec<_>>();
        Key::missing_events(room(), of(earliest), of(latest), 20, 0).expect("a key")
    }

    fn sorted(ids: &[u8]) -> Vec<u8> {
        std::collections::BTreeSet::from_iter(ids.iter().copied())
            .into_iter()
            .collect()
    }

    proptest! {
        #[test]
        fn a_window_is_a_pair_of_sets(
            (a, b) in (some_ids(), some_ids()),
            (c, d) in (some_ids(), some_ids()),
            shuffle in any::<prop::sample::Index>(),
        ) {
            let key = missing(&a, &b);
            let turned = |ids: &[u8]| {
                let mut ids = [ids, ids].concat();
                let by = shuffle.index(ids.len());
                ids.rotate_left(by);
                ids.reverse();
                ids
            };
            let same = missing(&turned(&a), &turned(&b));
            prop_assert_eq!(&key, &same);
            prop_assert_eq!(key.wire(), same.wire());
            let other = missing(&c, &d);
            let equal = sorted(&a) == sorted(&c) && sorted(&b) == sorted(&d);
            prop_assert_eq!(key == other, equal);
            prop_assert_eq!(key.wire() == other.wire(), equal);
            prop_assert_eq!(key.cmp(&other).is_eq(), equal);
        }

        #[test]
        fn whatever_an_id_holds_it_stays_one_segment(text in "[^:]{1,60}", room in "[^\0]{0,60}") {
            let event = OwnedEventId::try_from(format!("${text}")).expect("an id");
            let room = OwnedRoomId::try_from(format!("!{room}")).expect("an id");
            let path = Key::auth_chain(room.clone(), event.clone()).expect("short").wire().path;
            prop_assert!(path.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b)));
            let parts: Vec<&str> = path.split('/').collect();
            prop_assert_eq!(parts.len(), 7);
            let decoded = |n: usize| percent_encoding::percent_decode_str(parts[n])
                .decode_utf8().expect("as it was").into_owned();
            prop_assert_eq!(decoded(5), room.as_str());
            prop_assert_eq!(decoded(6), event.as_str());
        }
    }
}
