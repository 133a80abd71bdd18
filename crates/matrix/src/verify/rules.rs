//! Room versions 1 to 12, and what of their rules matters for proving an event.

use super::{flaw::Flaw, json::parse_pdu, pdu::PDU_RAW_BYTES_MAX};
use ruma_common::{
    CanonicalJsonValue, EventId, RoomVersionId,
    canonical_json::CanonicalJsonObject,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules},
};
use std::fmt;

/// The rules of a known room version. A copy costs nothing.
#[derive(Clone, Copy)]
pub struct Rules(&'static (RoomVersionId, RoomVersionRules));

static KNOWN: [(RoomVersionId, RoomVersionRules); 12] = [
    (RoomVersionId::V1, RoomVersionRules::V1),
    (RoomVersionId::V2, RoomVersionRules::V2),
    (RoomVersionId::V3, RoomVersionRules::V3),
    (RoomVersionId::V4, RoomVersionRules::V4),
    (RoomVersionId::V5, RoomVersionRules::V5),
    (RoomVersionId::V6, RoomVersionRules::V6),
    (RoomVersionId::V7, RoomVersionRules::V7),
    (RoomVersionId::V8, RoomVersionRules::V8),
    (RoomVersionId::V9, RoomVersionRules::V9),
    (RoomVersionId::V10, RoomVersionRules::V10),
    (RoomVersionId::V11, RoomVersionRules::V11),
    (RoomVersionId::V12, RoomVersionRules::V12),
];

impl Rules {
    /// The rules of `version`; [`Flaw::UnknownRoomVersion`] if nothing is known of it.
    pub fn of(version: &RoomVersionId) -> Result<Self, Flaw> {
        KNOWN
            .iter()
            .find(|(known, _)| known == version)
            .map(Self)
            .ok_or_else(|| Flaw::UnknownRoomVersion(version.clone()))
    }

    /// The rules of every known version, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        KNOWN.iter().map(Self)
    }

    /// The rules of the room that `raw`, an event of type `m.room.create`, creates.
    ///
    /// Nothing is proved by this: the event is to be parsed and checked by the rules that it names.
    /// Whoever asked for it by its id has then a proof of the version, from version 3 on.
    pub fn of_create_event(raw: &[u8]) -> Result<Self, Flaw> {
        if raw.len() > PDU_RAW_BYTES_MAX {
            return Err(Flaw::TooLarge {
                what: "PDU",
                bytes: raw.len(),
                max: PDU_RAW_BYTES_MAX,
            });
        }
        // The version is not known yet; where the rules are strict, the parse by them will say so.
        Self::of_create_object(&parse_pdu(raw, true)?)
    }

    pub(super) fn of_create_object(object: &CanonicalJsonObject) -> Result<Self, Flaw> {
        if object.get("type").and_then(CanonicalJsonValue::as_str) != Some("m.room.create") {
            return Err(Flaw::format("type", "not m.room.create"));
        }
        let content = object
            .get("content")
            .and_then(CanonicalJsonValue::as_object);
        let content = content.ok_or_else(|| Flaw::format("content", "not an object"))?;
        match content.get("room_version") {
            None => Self::of(&RoomVersionId::V1),
            Some(CanonicalJsonValue::String(version)) => RoomVersionId::try_from(version.as_str())
                .map_err(|_| Flaw::format("content.room_version", "not a room version"))
                .and_then(|version| Self::of(&version)),
            Some(_) => Err(Flaw::format("content.room_version", "not text")),
        }
    }

    /// Which version they are of.
    pub fn version(self) -> &'static RoomVersionId {
        &self.0.0
    }

    /// What `ruma` says about the version.
    pub fn ruma(self) -> &'static RoomVersionRules {
        &self.0.1
    }

    /// Whether events may have numbers that canonical JSON cannot say (versions 1 to 5). Such events
    /// cannot be verified.
    pub fn lax_json(self) -> bool {
        !self.ruma().authorization.strict_canonical_json
    }

    /// Whether an event says its own id (versions 1 and 2). In others the id is a hash of the event.
    pub fn event_says_id(self) -> bool {
        self.ruma().event_id_format == EventIdFormatVersion::V1
    }

    /// Whether `id` has the form of an event's id in such rooms.
    pub fn is_event_id(self, id: &EventId) -> bool {
        let hash = || &id.as_str().as_bytes()[1..];
        let is_hash = |last: [u8; 2]| {
            let in_alphabet = |byte: &u8| byte.is_ascii_alphanumeric() || last.contains(byte);
            hash().len() == 43 && hash().iter().all(in_alphabet)
        };
        match self.ruma().event_id_format {
            EventIdFormatVersion::V1 => id.server_name().is_some(),
            EventIdFormatVersion::V2 => is_hash(*b"+/"),
            _ => is_hash(*b"-_"),
        }
    }

    /// Whether other events are named together with their hashes (versions 1 and 2).
    pub(super) fn references_have_hashes(self) -> bool {
        self.ruma().events_reference_format == EventsReferenceFormatVersion::V1
    }

    /// Whether the room's id is the hash of its create event, which therefore has none (version 12).
    pub fn room_is_hash(self) -> bool {
        self.ruma().authorization.room_create_event_id_as_room_id
    }

    /// Whether a signature counts only if its key was valid when the event was sent (from version 5
    /// on).
    pub fn keys_expire(self) -> bool {
        self.ruma().enforce_key_validity
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rules({})", self.version())
    }
}

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.version() == other.version()
    }
}

impl Eq for Rules {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_taken_from_the_create_event() {
        let check = |content: &str, want: Result<RoomVersionId, Flaw>| {
            let raw = format!(r#"{{"type":"m.room.create","content":{content}}}"#);
            assert_eq!(
                Rules::of_create_event(raw.as_bytes()).map(|rules| rules.version().clone()),
                want,
                "{content}"
            );
        };
        check("{}", Ok(RoomVersionId::V1));
        check(r#"{"room_version":"12"}"#, Ok(RoomVersionId::V12));
        check(r#"{"room_version":"1","x":{}}"#, Ok(RoomVersionId::V1));
        let unknown = RoomVersionId::try_from("org.example.99").unwrap();
        check(
            r#"{"room_version":"org.example.99"}"#,
            Err(Flaw::UnknownRoomVersion(unknown)),
        );
        check(
            r#"{"room_version":12}"#,
            Err(Flaw::format("content.room_version", "not text")),
        );
        check(
            r#"{"room_version":""}"#,
            Err(Flaw::format("content.room_version", "not a room version")),
        );
        check("[]", Err(Flaw::format("content", "not an object")));
        assert_eq!(
            Rules::of_create_event(br#"{"type":"m.room.member","content":{}}"#),
            Err(Flaw::format("type", "not m.room.create"))
        );
    }

    #[test]
    fn versions_differ_where_they_should() {
        let which = |asked: fn(Rules) -> bool| -> Vec<usize> {
            (1..=12)
                .zip(Rules::all())
                .filter(|(_, rules)| asked(*rules))
                .map(|(n, _)| n)
                .collect()
        };
        assert_eq!(which(Rules::event_says_id), [1, 2]);
        assert_eq!(which(Rules::references_have_hashes), [1, 2]);
        assert_eq!(which(Rules::lax_json), [1, 2, 3, 4, 5]);
        assert_eq!(which(Rules::keys_expire), [5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(which(Rules::room_is_hash), [12]);
    }

    #[test]
    fn ids_of_events_differ() {
        let check = |id: &str, want: &[usize]| {
            let id = EventId::parse(id).unwrap();
            let fits: Vec<usize> = (1..=12)
                .zip(Rules::all())
                .filter(|(_, rules)| rules.is_event_id(&id))
                .map(|(n, _)| n)
                .collect();
            assert_eq!(fits, want, "{id}");
        };
        check("$1234:a.example", &[1, 2]);
        check("$", &[]);
        check("$short", &[]);
        check("$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk", &[3]);
        check(
            "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg",
            &[4, 5, 6, 7, 8, 9, 10, 11, 12],
        );
    }
}
