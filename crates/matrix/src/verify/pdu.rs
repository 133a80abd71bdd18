//! One PDU: read once, with all that is proved without keys; then checked with them.
//!
//! ```text
//!  raw bytes --parse--> Pdu: format, event id, room id, content hash, what is signed, by whom
//!                        |
//!                        +--expect--> is it the event, of the room, that was asked for?
//!                        +--check---> Proof: signatures fit, and so does the content, or not
//! ```
//!
//! What is kept is the raw bytes, what a caller asks for often, and the redacted form that signatures
//! and the event id are made over: both are of that one text, so it is made once. The parsed value is
//! not kept; it takes several times the room of its text.

use super::{
    flaw::Flaw,
    format::{self, Fields},
    json::{canonical_len, parse_object},
    keyset::KeySet,
    rules::Rules,
    signature::Signatures,
};
use bytes::Bytes;
use ruma_common::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName,
    UserId,
    canonical_json::{RedactingSerializer, redact_in_place},
    room_version_rules::EventIdFormatVersion,
};
use ruma_signatures::{Verified, content_hash};
use sha2::{Digest, Sha256};
use std::fmt;

/// How large a PDU may be as canonical JSON, in bytes; without `unsigned`, in which whoever hands it out
/// puts what is not its maker's.
pub const PDU_BYTES_MAX: usize = 65_536;

/// How large a PDU may be as it comes, in bytes: white space and escapes may make it larger than its
/// canonical form, but not by more than is worth reading.
pub const PDU_RAW_BYTES_MAX: usize = 8 * PDU_BYTES_MAX;

/// How many servers' signatures are looked at where any will do.
const SIGNERS_MAX: usize = 4;

/// A PDU that is well-formed by the rules of its room's version. Nothing is known of who made it
/// until [`Pdu::check`].
#[derive(Clone)]
pub struct Pdu {
    raw: Bytes,
    rules: Rules,
    event_id: OwnedEventId,
    room_id: OwnedRoomId,
    fields: Fields,
    /// The redacted event in canonical form without `signatures` and `unsigned`: what is signed, and
    /// what the id is a hash of.
    signed: Box<str>,
    content_fits: bool,
    signatures: Box<[Signatures]>,
    demand: Demand,
}

/// Whose signatures must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// Of each server.
    All,
    /// Of any of them: an invitation by way of a third party is signed by whoever brought it.
    Any,
}

/// What was proved of a PDU.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proof {
    /// [`Verified::All`]: the event is as it was made. [`Verified::Signatures`]: the content is not
    /// what its hash says. It was redacted, or cut, or tampered with; only what [`Pdu::redacted`]
    /// leaves of it is proved.
    pub verified: Verified,
    /// The servers whose signatures were checked, in order. They are all that must sign; but for an
    /// invitation by way of a third party (`content.third_party_invite`), which the server of its
    /// sender need not sign: then it is any server that did, and whether it had a right to is up to the
    /// rules of authorization, which need the room's state.
    pub signers: Vec<OwnedServerName>,
}

/// What an answer must be about.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// This event.
    pub event: Option<OwnedEventId>,
    /// Events of this room.
    pub room: Option<OwnedRoomId>,
}

impl Pdu {
    /// Reads a PDU of a room with `rules`.
    ///
    /// `raw` may be a slice of an answer, which is then kept alive by it. Costs one parse of `raw` and
    /// two hashes of what it says; memory of some ten times its size for the time of the call, and of
    /// its redacted form afterwards.
    pub fn parse(raw: Bytes, rules: Rules) -> Result<Self, Flaw> {
        if raw.len() > PDU_RAW_BYTES_MAX {
            return Err(too_large(raw.len(), PDU_RAW_BYTES_MAX));
        }
        let object = parse_object(&raw, rules.lax_json())?;
        Self::of_object(raw, &object, rules)
    }

    fn of_object(raw: Bytes, object: &CanonicalJsonObject, rules: Rules) -> Result<Self, Flaw> {
        // A canonical form is never longer than what it is the form of.
        if raw.len() > PDU_BYTES_MAX {
            let bytes = canonical_len(object, Some("unsigned"));
            if bytes > PDU_BYTES_MAX {
                return Err(too_large(bytes, PDU_BYTES_MAX));
            }
        }
        let fields = Fields::read(object, rules)?;
        let signed = signed(object, rules)?;
        let event_id = match format::own_id(object, rules)? {
            Some(id) => id,
            None => hash_id(&signed, rules)?,
        };
        let room_id = match format::room_id(object, &fields, rules)? {
            Some(id) => id,
            None => RoomId::new_v2(event_id.localpart())
                .map_err(|_| Flaw::format("room_id", "not the id of a room"))?,
        };
        let hash = content_hash(object).map_err(|_| too_large(raw.len(), PDU_BYTES_MAX))?;
        let content_fits = format::said_hash(object)? == Some(*hash.as_inner());
        let (demand, signatures) = signatures(object, &fields, &event_id, rules)?;
        Ok(Self {
            raw,
            rules,
            event_id,
            room_id,
            fields,
            signed: signed.into_boxed_str(),
            content_fits,
            signatures,
            demand,
        })
    }

    /// The id of a PDU that may be malformed otherwise; nothing if none can be computed. To name in a
    /// report what was refused.
    pub fn id_of(raw: &[u8], rules: Rules) -> Option<OwnedEventId> {
        if raw.len() > PDU_RAW_BYTES_MAX {
            return None;
        }
        let object = parse_object(raw, rules.lax_json()).ok()?;
        match format::own_id(&object, rules) {
            Ok(None) => hash_id(&signed(&object, rules).ok()?, rules).ok(),
            own => own.ok().flatten(),
        }
    }

    /// Checks that it is what was asked for. Costs two comparisons.
    pub fn expect(&self, expect: &Expect) -> Result<(), Flaw> {
        if let Some(asked) = &expect.event
            && *asked != self.event_id
        {
            return Err(Flaw::WrongEventId {
                asked: asked.clone(),
                got: self.event_id.clone(),
            });
        }
        if let Some(asked) = &expect.room
            && *asked != self.room_id
        {
            return Err(Flaw::WrongRoom {
                asked: asked.clone(),
                got: self.room_id.clone(),
            });
        }
        Ok(())
    }

    /// Checks the signatures of all who must have signed.
    ///
    /// Of a server that signed with several keys, each key that is known and valid must fit, and there
    /// must be one. From room version 5 on, a key is valid if it was when the event says that it was
    /// sent. The verdict is that of `ruma_signatures::verify_event` with the keys that are valid, but
    /// stricter in one thing: an event that no particular server must sign (an invitation by way of a
    /// third party) needs one signature that fits all the same; and laxer in another: that somebody
    /// allowed a join must be signed for joins only, as the specification has it.
    ///
    /// Costs one check of an ed25519 signature (some 40 µs) for each key that is known.
    pub fn check(&self, keys: &KeySet) -> Result<Proof, Flaw> {
        let at_ms = self.keys_at_ms();
        let mut signers = Vec::with_capacity(1);
        let mut first_flaw = None;
        for signatures in &self.signatures {
            let server = &signatures.server;
            let key = |id: &str| keys.key(server, id, at_ms);
            match signatures.check(key, self.signed.as_bytes(), at_ms) {
                Ok(()) => signers.push(server.clone()),
                Err(flaw) if self.demand == Demand::Any && flaw.wants_keys() => {
                    first_flaw = first_flaw.or(Some(flaw));
                }
                Err(flaw) => return Err(flaw),
            }
        }
        if let (true, Some(flaw)) = (signers.is_empty(), first_flaw) {
            return Err(flaw);
        }
        let verified = match self.content_fits {
            true => Verified::All,
            false => Verified::Signatures,
        };
        Ok(Proof { verified, signers })
    }

    /// The servers that must have signed, each with the ids of the keys with which it did. The check
    /// needs one key of each, or of any, if it is an invitation by way of a third party.
    pub fn required_keys(&self) -> impl Iterator<Item = (&ServerName, impl Iterator<Item = &str>)> {
        self.signatures
            .iter()
            .map(|signatures| (&*signatures.server, signatures.key_ids()))
    }

    /// Whether the check needs the key of any one of the servers that signed, not of each.
    pub(super) fn any_will_do(&self) -> bool {
        self.demand == Demand::Any
    }

    /// When keys must be valid to count for it, in milliseconds since 1970; `None` if that does not
    /// matter in its room's version.
    pub fn keys_at_ms(&self) -> Option<i64> {
        self.rules
            .keys_expire()
            .then_some(self.fields.origin_server_ts)
    }

    /// What came, byte by byte.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The rules that it was read by.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Its id: from version 3 on the hash of what is signed of it, before what it says.
    pub fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// Its room. For the create event of a room of version 12, made of its own id.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Who sent it.
    pub fn sender(&self) -> &UserId {
        &self.fields.sender
    }

    /// Its type.
    pub fn event_type(&self) -> &str {
        &self.fields.event_type
    }

    /// Its state key, if it is a state event.
    pub fn state_key(&self) -> Option<&str> {
        self.fields.state_key.as_deref()
    }

    /// When its server says that it was sent, in milliseconds since 1970. Servers lie.
    pub fn origin_server_ts(&self) -> i64 {
        self.fields.origin_server_ts
    }

    /// How deep in the room's graph its server says that it is. Servers lie.
    pub fn depth(&self) -> i64 {
        self.fields.depth
    }

    /// The events that it comes after.
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.fields.prev_events
    }

    /// The events that say that its sender may send it.
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.fields.auth_events
    }

    /// Whether its content is what its own hash says. Known before signatures are checked, and no proof
    /// without them.
    pub fn content_fits(&self) -> bool {
        self.content_fits
    }

    /// Its parsed value. Parses it anew.
    pub fn object(&self) -> CanonicalJsonObject {
        parse_object(&self.raw, self.rules.lax_json()).expect("it was parsed before")
    }

    /// What redaction leaves of it, without `unsigned`: all that signatures prove, and so all that may
    /// be believed where [`Proof::verified`] is [`Verified::Signatures`]. Parses it anew.
    pub fn redacted(&self) -> CanonicalJsonObject {
        let mut object = self.object();
        redact_in_place(&mut object, &self.rules.ruma().redaction, None)
            .expect("an event's type was found to be text");
        object
    }
}

impl fmt::Debug for Pdu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pdu")
            .field("event_id", &self.event_id)
            .field("room_id", &self.room_id)
            .field("type", &self.fields.event_type)
            .field("bytes", &self.raw.len())
            .finish_non_exhaustive()
    }
}

fn too_large(bytes: usize, max: usize) -> Flaw {
    Flaw::TooLarge {
        what: "PDU",
        bytes,
        max,
    }
}

/// What is signed of an event, and hashed for its id.
fn signed(object: &CanonicalJsonObject, rules: Rules) -> Result<String, Flaw> {
    RedactingSerializer::new()
        .rules(&rules.ruma().redaction)
        .custom_redacted_root_fields(&["signatures", "unsigned"])
        .serialize(object)
        .map_err(|_| Flaw::format("type", "not text"))
}

/// The id that is the hash of `signed`.
fn hash_id(signed: &str, rules: Rules) -> Result<OwnedEventId, Flaw> {
    use base64::{Engine as _, prelude::*};
    let engine = match rules.ruma().event_id_format {
        EventIdFormatVersion::V2 => BASE64_STANDARD_NO_PAD,
        _ => BASE64_URL_SAFE_NO_PAD,
    };
    let mut id = String::with_capacity(44);
    id.push('$');
    engine.encode_string(Sha256::digest(signed.as_bytes()), &mut id);
    OwnedEventId::try_from(id).map_err(|_| Flaw::format("event_id", "not the id of an event"))
}

/// The signatures that matter.
fn signatures(
    object: &CanonicalJsonObject,
    fields: &Fields,
    event_id: &EventId,
    rules: Rules,
) -> Result<(Demand, Box<[Signatures]>), Flaw> {
    let servers = format::required_servers(object, fields, event_id, rules)?;
    if !servers.is_empty() {
        let of = |server: &ServerName| Signatures::of(object, server.to_owned());
        let signatures: Result<_, _> = servers.into_iter().map(of).collect();
        return Ok((Demand::All, signatures?));
    }
    let signers = format::signers(object, SIGNERS_MAX)?;
    let of = |server| Signatures::of(object, server);
    let signatures: Result<Box<[_]>, _> = signers.into_iter().map(of).collect();
    let signatures = signatures?;
    if signatures.is_empty() {
        let server = fields.sender.server_name().to_owned();
        return Err(Flaw::MissingSignature { server });
    }
    Ok((Demand::Any, signatures))
}
