//! What an event leads to, read from its bytes.

use super::Links;
use ruma_common::OwnedEventId;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    prev_events: Vec<Reference>,
    #[serde(default)]
    auth_events: Vec<Reference>,
    #[serde(default)]
    origin_server_ts: u64,
}

/// An id; in rooms of versions 1 and 2, a pair of an id and hashes.
struct Reference(OwnedEventId);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Id(OwnedEventId),
            Pair(OwnedEventId, IgnoredAny),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Id(id) | Either::Pair(id, _) => Self(id),
        })
    }
}

/// What an event leads to; nothing, if its fields are none, which a verified event cannot show.
pub(super) fn links(id: &OwnedEventId, raw: &[u8]) -> Links {
    let fields = serde_json::from_slice(raw).unwrap_or(Fields {
        prev_events: Vec::new(),
        auth_events: Vec::new(),
        origin_server_ts: 0,
    });
    let ids = |references: Vec<Reference>| references.into_iter().map(|Reference(id)| id).collect();
    Links {
        id: id.clone(),
        prev: ids(fields.prev_events),
        auth: ids(fields.auth_events),
        made_at: fields.origin_server_ts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma_common::owned_event_id;

    #[test]
    fn of_either_form() {
        let id = owned_event_id!("$a:b");
        let raw = br#"{"prev_events":[["$p:b",{"sha256":"x"}]],"auth_events":["$q"],"origin_server_ts":5,"content":{}}"#;
        let expected = Links {
            id: id.clone(),
            prev: vec![owned_event_id!("$p:b")],
            auth: vec![owned_event_id!("$q")],
            made_at: 5,
        };
        assert_eq!(links(&id, raw), expected);
        assert_eq!(links(&id, b"[]").prev, Vec::<OwnedEventId>::new());
    }
}
