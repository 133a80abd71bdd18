//! What an event leads to, read from its bytes.

use super::Links;
use ruma_common::{EventId, OwnedEventId};
use serde::Deserialize;
use serde_json::Value;

/// Read one by one: an odd field of a verified event must not hide what the others lead to, or an enemy
/// could cut off all that lies before an event of his.
#[derive(Default, Deserialize)]
struct Fields {
    #[serde(default)]
    prev_events: Value,
    #[serde(default)]
    auth_events: Value,
    #[serde(default)]
    origin_server_ts: Value,
}

/// An id; in rooms of versions 1 and 2, a list of an id and hashes.
fn id_of(reference: &Value) -> Option<OwnedEventId> {
    let id = match reference {
        Value::Array(parts) => parts.first()?,
        id => id,
    };
    EventId::parse(id.as_str()?).ok()
}

fn ids(references: &Value) -> Vec<OwnedEventId> {
    let references = references.as_array().into_iter().flatten();
    references.filter_map(id_of).collect()
}

/// What an event leads to: as much as can be read of it.
pub(super) fn links(id: &OwnedEventId, raw: &[u8]) -> Links {
    let fields: Fields = serde_json::from_slice(raw).unwrap_or_default();
    Links {
        id: id.clone(),
        prev: ids(&fields.prev_events),
        auth: ids(&fields.auth_events),
        // What claims to be older than 1970 is as old as can be.
        made_at: fields.origin_server_ts.as_u64().unwrap_or(0),
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

    #[test]
    fn an_odd_field_hides_nothing_of_the_others() {
        let id = owned_event_id!("$a:b");
        for raw in [
            r#"{"prev_events":["$p:b"],"auth_events":["$q"],"origin_server_ts":-1}"#,
            r#"{"prev_events":[["$p:b"]],"auth_events":[["$q",{},5]],"origin_server_ts":"x"}"#,
            r#"{"prev_events":[5,"$p:b",[]],"auth_events":["$q"]}"#,
        ] {
            let expected = Links {
                id: id.clone(),
                prev: vec![owned_event_id!("$p:b")],
                auth: vec![owned_event_id!("$q")],
                made_at: 0,
            };
            assert_eq!(links(&id, raw.as_bytes()), expected, "{raw}");
        }
    }
}
