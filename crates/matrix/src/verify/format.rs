//! The fields of a PDU, as each room version wants them.
//!
//! Only what every server refuses is refused: this is about whether an event is what it says, and not
//! about whether its room should take it.

use super::{flaw::Flaw, rules::Rules};
use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomId, OwnedServerName,
    OwnedUserId, RoomId, ServerName, UserId,
    serde::{Base64, base64::Standard},
};
use std::collections::BTreeSet;

/// How many events an event may come after.
pub const PREV_EVENTS_MAX: usize = 20;

/// How many events may say that an event is allowed.
pub const AUTH_EVENTS_MAX: usize = 10;

/// How long ids, types and state keys may be. In bytes for ids; in characters for the others, for
/// that is how they were counted for years, and such events are in rooms.
pub const ID_MAX: usize = 255;

/// What is read of every PDU.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    pub(super) sender: OwnedUserId,
    pub(super) event_type: Box<str>,
    pub(super) state_key: Option<Box<str>>,
    pub(super) origin_server_ts: i64,
    pub(super) depth: i64,
    pub(super) prev_events: Box<[OwnedEventId]>,
    pub(super) auth_events: Box<[OwnedEventId]>,
}

impl Fields {
    pub(super) fn read(object: &CanonicalJsonObject, rules: Rules) -> Result<Self, Flaw> {
        let event_type = text(object, "type")?.ok_or_else(|| Flaw::format("type", "is missing"))?;
        let state_key = text(object, "state_key")?;
        for (field, text) in [("type", Some(event_type)), ("state_key", state_key)] {
            if text.is_some_and(|text| text.chars().nth(ID_MAX).is_some()) {
                return Err(Flaw::format(field, "longer than 255 characters"));
            }
        }
        let sender = text(object, "sender")?
            .and_then(|sender| UserId::parse(sender).ok())
            .ok_or_else(|| Flaw::format("sender", "not the id of a user"))?;
        if !object
            .get("content")
            .is_some_and(CanonicalJsonValue::is_object)
        {
            return Err(Flaw::format("content", "not an object"));
        }
        let depth = integer(object, "depth")?;
        if depth < 0 {
            return Err(Flaw::format("depth", "below zero"));
        }
        Ok(Self {
            sender,
            event_type: event_type.into(),
            state_key: state_key.map(Into::into),
            origin_server_ts: integer(object, "origin_server_ts")?,
            depth,
            prev_events: references(object, "prev_events", PREV_EVENTS_MAX, rules)?,
            auth_events: references(object, "auth_events", AUTH_EVENTS_MAX, rules)?,
        })
    }
}

/// The id that an event says is its own, in versions where it does.
pub(super) fn own_id(
    object: &CanonicalJsonObject,
    rules: Rules,
) -> Result<Option<OwnedEventId>, Flaw> {
    if !rules.event_says_id() {
        return Ok(None);
    }
    let id = text(object, "event_id")?.and_then(event_id);
    // Its server must sign, so it must have one.
    id.filter(|id| id.server_name().is_some())
        .map(Some)
        .ok_or_else(|| Flaw::format("event_id", "not the id of an event with a server"))
}

/// The room that an event says it is of; nothing for one that makes the room's id.
pub(super) fn room_id(
    object: &CanonicalJsonObject,
    fields: &Fields,
    rules: Rules,
) -> Result<Option<OwnedRoomId>, Flaw> {
    let creates = &*fields.event_type == "m.room.create" && fields.state_key.as_deref() == Some("");
    match text(object, "room_id")? {
        None if creates && rules.room_is_hash() => Ok(None),
        Some(_) if creates && rules.room_is_hash() => Err(Flaw::format(
            "room_id",
            "stands in a create event, whose hash is the room's id",
        )),
        id => id
            .and_then(|id| RoomId::parse(id).ok())
            .map(Some)
            .ok_or_else(|| Flaw::format("room_id", "not the id of a room")),
    }
}

/// The hash of the content that an event says; nothing if that is none by its form.
pub(super) fn said_hash(object: &CanonicalJsonObject) -> Result<Option<[u8; 32]>, Flaw> {
    let hashes = object.get("hashes").and_then(CanonicalJsonValue::as_object);
    let hash = hashes.and_then(|hashes| hashes.get("sha256"));
    let hash = hash.and_then(CanonicalJsonValue::as_str);
    let hash = hash.ok_or_else(|| Flaw::format("hashes", "has no sha256"))?;
    Ok(Base64::<Standard, [u8; 32]>::parse(hash)
        .ok()
        .map(Base64::into_inner))
}

/// The servers that have to sign, each once, in order: the sender's, unless it invites by way of a
/// third party; the event id's, where there is one; and that of the user who allowed a restricted
/// join. (Not where anything but a join says that it was allowed: servers take such events without
/// that signature, and whoever sent one would make forgers of all who hand it out.)
pub(super) fn required_servers<'o>(
    object: &'o CanonicalJsonObject,
    fields: &'o Fields,
    event_id: &'o EventId,
    rules: Rules,
) -> Result<BTreeSet<&'o ServerName>, Flaw> {
    let mut servers = BTreeSet::new();
    let content = object
        .get("content")
        .and_then(CanonicalJsonValue::as_object);
    let content = content.ok_or_else(|| Flaw::format("content", "not an object"))?;
    if !invites_by_third_party(content, fields)? {
        servers.insert(fields.sender.server_name());
    }
    if rules.ruma().signatures.check_event_id_server {
        servers.extend(event_id.server_name());
    }
    const BY: &str = "join_authorised_via_users_server";
    let checked = rules
        .ruma()
        .signatures
        .check_join_authorised_via_users_server;
    if checked
        && is_join(content, fields)
        && let Some(user) = text(content, BY)?
    {
        let user =
            <&UserId>::try_from(user).map_err(|_| Flaw::format(BY, "not the id of a user"))?;
        servers.insert(user.server_name());
    }
    Ok(servers)
}

fn is_join(content: &CanonicalJsonObject, fields: &Fields) -> bool {
    let membership = content.get("membership");
    &*fields.event_type == "m.room.member"
        && membership.and_then(CanonicalJsonValue::as_str) == Some("join")
}

fn invites_by_third_party(content: &CanonicalJsonObject, fields: &Fields) -> Result<bool, Flaw> {
    if &*fields.event_type != "m.room.member" {
        return Ok(false);
    }
    match text(content, "membership")? {
        Some("invite") => match content.get("third_party_invite") {
            None => Ok(false),
            Some(CanonicalJsonValue::Object(_)) => Ok(true),
            Some(_) => Err(Flaw::format("third_party_invite", "not an object")),
        },
        Some(_) => Ok(false),
        None => Err(Flaw::format("membership", "is missing")),
    }
}

/// All servers that are said to have signed, up to `max`.
pub(super) fn signers(
    object: &CanonicalJsonObject,
    max: usize,
) -> Result<Vec<OwnedServerName>, Flaw> {
    let signatures = object
        .get("signatures")
        .and_then(CanonicalJsonValue::as_object);
    let signatures = signatures.ok_or_else(|| Flaw::format("signatures", "not an object"))?;
    if signatures.len() > max {
        let what = "servers that signed where any will do";
        return Err(Flaw::TooManySignatures { what, max });
    }
    let server = |name: &String| ServerName::parse(name.as_str()).ok();
    Ok(signatures.keys().filter_map(server).collect())
}

/// An id of an event, bounded.
pub(super) fn event_id(text: &str) -> Option<OwnedEventId> {
    // `ruma` bounds those with a server only.
    if text.len() > ID_MAX {
        return None;
    }
    EventId::parse(text).ok()
}

fn references(
    object: &CanonicalJsonObject,
    field: &'static str,
    max: usize,
    rules: Rules,
) -> Result<Box<[OwnedEventId]>, Flaw> {
    let list = object.get(field).and_then(CanonicalJsonValue::as_array);
    let list = list.ok_or_else(|| Flaw::format(field, "not a list"))?;
    if list.len() > max {
        return Err(Flaw::TooMany { what: field, max });
    }
    let with_hash = rules.references_have_hashes();
    let id = |value: &CanonicalJsonValue| match value {
        CanonicalJsonValue::String(id) if !with_hash => event_id(id),
        CanonicalJsonValue::Array(pair) if with_hash => pair.first()?.as_str().and_then(event_id),
        _ => None,
    };
    let ids: Option<_> = list.iter().map(id).collect();
    ids.ok_or_else(|| Flaw::format(field, "does not name events"))
}

fn text<'o>(object: &'o CanonicalJsonObject, field: &'static str) -> Result<Option<&'o str>, Flaw> {
    match object.get(field) {
        None => Ok(None),
        Some(CanonicalJsonValue::String(text)) => Ok(Some(text)),
        Some(_) => Err(Flaw::format(field, "not text")),
    }
}

fn integer(object: &CanonicalJsonObject, field: &'static str) -> Result<i64, Flaw> {
    let value = object.get(field).and_then(CanonicalJsonValue::as_integer);
    value
        .map(i64::from)
        .ok_or_else(|| Flaw::format(field, "not an integer"))
}
