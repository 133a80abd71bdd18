//! What is wrong with an answer, a PDU or a document, and whose fault that is.
//!
//! Text that came from outside is shown escaped and cut, so that a flaw can be printed and logged as
//! it is, and has bounded size whatever was sent.

use ruma_common::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId};
use thiserror::Error;

/// Why something cannot be taken for what it is said to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Larger than may be; nothing of it was looked at that would cost much.
    #[error("{what}: {bytes} bytes are more than {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is, in bytes.
        bytes: usize,
        /// How large it may be, in bytes.
        max: usize,
    },

    /// Arrays and objects are nested deeper than is read here. Some servers read deeper.
    #[error("cannot be verified: nested deeper than {max} levels")]
    TooDeep {
        /// How deep they may be nested.
        max: usize,
    },

    /// More of something than may be.
    #[error("more than {max} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },

    /// More signatures than are checked here, lest an event costs what its maker likes.
    #[error("cannot be verified: more than {max} {what}")]
    TooManySignatures {
        /// What there is too much of.
        what: &'static str,
        /// How many are checked.
        max: usize,
    },

    /// Not JSON, or more than one value, or no object.
    #[error("not a JSON object (line {line}, column {column})")]
    NotJson {
        /// The line where it ceases to be, from 1; 0 if no place can be named.
        line: usize,
        /// The column there, from 1.
        column: usize,
    },

    /// An object has a key twice: parsers differ in which of the two they take, so what one server
    /// verifies would not be what another one reads.
    #[error("the key {key} stands twice in one object")]
    DuplicateKey {
        /// The key, escaped and cut.
        key: String,
    },

    /// JSON that canonical JSON has no form for, so nothing that is signed can be recomputed.
    #[error("cannot be verified: {why}, which canonical JSON cannot say{}",
            if *.lax { "; rooms of versions 1 to 5 may have such events, but how to sign them was never specified" } else { "" })]
    NotCanonical {
        /// What it is.
        why: NotCanonical,
        /// Whether the room's version allows such events.
        lax: bool,
    },

    /// The answer is not of the shape that its request asks for.
    #[error("not the answer to this request: {0}")]
    Shape(&'static str),

    /// A field is not as the room's version or the specification says.
    #[error("{field}: {why}")]
    Format {
        /// The field.
        field: &'static str,
        /// What it is not.
        why: &'static str,
    },

    /// Another event than the one that was asked for.
    #[error("event {} where {} was asked for", shown(.got.as_str()), shown(.asked.as_str()))]
    WrongEventId {
        /// The event that was asked for.
        asked: OwnedEventId,
        /// The event that came.
        got: OwnedEventId,
    },

    /// An event of another room than the one that was asked for.
    #[error("an event of room {} where {} was asked for", shown(.got.as_str()), shown(.asked.as_str()))]
    WrongRoom {
        /// The room that was asked for.
        asked: OwnedRoomId,
        /// The room of the event that came.
        got: OwnedRoomId,
    },

    /// The same event stands in the answer before.
    #[error("event {} stands in the answer twice, first at {first}", shown(.id.as_str()))]
    Duplicate {
        /// The event.
        id: OwnedEventId,
        /// Where it stands first, from 0.
        first: usize,
    },

    /// A document that another server claims for itself.
    #[error("{} where {asked} was asked for", shown(.got))]
    WrongServer {
        /// The server that was asked for.
        asked: OwnedServerName,
        /// Who the document says it is from.
        got: String,
    },

    /// A server that has to sign did not.
    #[error("no signature of {server}")]
    MissingSignature {
        /// The server.
        server: OwnedServerName,
    },

    /// A signature does not fit: forged, or tampered with.
    #[error("the signature of {server} with {} does not fit", shown(.key))]
    BadSignature {
        /// The server that is said to have signed.
        server: OwnedServerName,
        /// The id of its key.
        key: String,
    },

    /// There are signatures of a server, and no key is known to check any of them with.
    #[error("cannot be verified: no key of {server} is known (signed with {})", keys_shown(.keys))]
    NoKey {
        /// The server.
        server: OwnedServerName,
        /// The ids of the keys that would do.
        keys: Vec<String>,
    },

    /// The keys that are known were not valid, or are not known to have been, when the event was sent.
    #[error("cannot be verified: the key {} of {server} is valid until {valid_until_ms}, and the event is of {at_ms}", shown(.key))]
    KeyNotValid {
        /// The server.
        server: OwnedServerName,
        /// The id of the key that is valid longest.
        key: String,
        /// Until when, in milliseconds since 1970.
        valid_until_ms: u64,
        /// When the event says that it was sent, in milliseconds since 1970.
        at_ms: i64,
    },

    /// Nothing is known about the rules of this room version.
    #[error("room version {} is not known", shown(.0.as_str()))]
    UnknownRoomVersion(RoomVersionId),
}

/// What canonical JSON cannot say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotCanonical {
    /// A number with a fraction or an exponent, or a negative zero.
    #[error("there is a number that is no integer")]
    Float,
    /// An integer beyond ±(2^53 - 1).
    #[error("there is an integer beyond 2^53 - 1")]
    LargeInteger,
}

/// Whose fault a flaw is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blame {
    /// The server that answered: no correct server would have sent this.
    Answerer,
    /// Nobody's that is known of: it may be genuine, it only cannot be verified (here, or now).
    Nobody,
}

impl Flaw {
    /// Whose fault it is. A server that answered with what merely cannot be verified has done
    /// nothing wrong, and must not be treated as if it had: otherwise whoever gets one such event into
    /// a room could have all its servers avoided.
    pub fn blame(&self) -> Blame {
        match self {
            Self::NoKey { .. }
            | Self::KeyNotValid { .. }
            | Self::UnknownRoomVersion(_)
            | Self::TooDeep { .. }
            | Self::TooManySignatures { .. }
            | Self::Duplicate { .. }
            // They are in rooms from before there was a bound, and servers hand them out.
            | Self::TooMany { what: "prev_events" | "auth_events", .. }
            | Self::NotCanonical { lax: true, .. } => Blame::Nobody,
            _ => Blame::Answerer,
        }
    }

    /// Whether other or newer keys could remove the flaw.
    pub fn wants_keys(&self) -> bool {
        matches!(self, Self::NoKey { .. } | Self::KeyNotValid { .. })
    }

    pub(super) fn format(field: &'static str, why: &'static str) -> Self {
        Self::Format { field, why }
    }
}

/// How much of a text from outside is shown, in characters.
const SHOWN_MAX: usize = 80;

/// A text from outside, escaped and cut.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == SHOWN_MAX {
            out.push_str("...");
            break;
        }
        if c.is_control() || c == '\u{2028}' || c == '\u{2029}' || is_bidi(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that turn around what is read after them.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn keys_shown(keys: &[String]) -> String {
    let mut out = String::new();
    for (n, key) in keys.iter().enumerate() {
        if n == 4 {
            out.push_str(", ...");
            break;
        }
        if n > 0 {
            out.push_str(", ");
        }
        out.push_str(&shown(key));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_escaped_and_cut() {
        assert_eq!(shown("$a:b"), "$a:b");
        assert_eq!(shown("\x1b[31m\u{202e}"), "\\u{1b}[31m\\u{202e}");
        assert_eq!(shown(&"x".repeat(1000)).len(), SHOWN_MAX + 3);
    }

    #[test]
    fn who_could_not_do_better_is_not_blamed() {
        let server = OwnedServerName::try_from("a.example").unwrap();
        let no_key = Flaw::NoKey {
            server: server.clone(),
            keys: vec!["ed25519:1".to_owned()],
        };
        assert_eq!(no_key.blame(), Blame::Nobody);
        assert!(no_key.wants_keys());
        assert_eq!(
            no_key.to_string(),
            "cannot be verified: no key of a.example is known (signed with ed25519:1)"
        );
        let forged = Flaw::BadSignature {
            server,
            key: "ed25519:1".to_owned(),
        };
        assert_eq!(forged.blame(), Blame::Answerer);
        let id = OwnedEventId::try_from("$e").unwrap();
        assert_eq!(Flaw::Duplicate { id, first: 0 }.blame(), Blame::Nobody);
        for (what, blame) in [
            ("prev_events", Blame::Nobody),
            ("auth_events", Blame::Nobody),
            ("elements in a list", Blame::Answerer),
        ] {
            assert_eq!(Flaw::TooMany { what, max: 1 }.blame(), blame, "{what}");
        }
        for (lax, blame) in [(true, Blame::Nobody), (false, Blame::Answerer)] {
            let why = NotCanonical::Float;
            assert_eq!(Flaw::NotCanonical { why, lax }.blame(), blame);
        }
    }
}
