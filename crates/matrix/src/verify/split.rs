//! Cutting an answer into its parts without copying or building anything.
//!
//! Each part is a slice of the body. What stands beside the fields that were asked for is passed over;
//! the whole is known to be well-formed JSON afterwards, and no more.

use super::{
    flaw::Flaw,
    json::{depth, not_json},
    pdu::PDU_BYTES_MAX,
};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::{cell::Cell, fmt};

/// A field of an answer that holds an array.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// How many elements it may have.
    pub(super) max: usize,
    /// What each of them begins with.
    pub(super) begin: char,
}

/// The array `name` of the object `body`, each element of which must be an object: those as slices of
/// `body`, `max` at most.
///
/// Two looks at each byte; memory for the slices only.
pub(super) fn array_of_objects(
    body: &Bytes,
    name: &'static str,
    max: usize,
) -> Result<Vec<Bytes>, Flaw> {
    let begin = '{';
    let mut parts = arrays(body, &[Field { name, max, begin }])?;
    let parts = parts.pop().expect("one for each field");
    let slice = |text: &str| body.slice_ref(text.as_bytes());
    Ok(parts.into_iter().map(slice).collect())
}

/// The elements of each of the arrays `fields` of the object `body`, all of which must be there.
pub(super) fn arrays<'b>(body: &'b [u8], fields: &[Field]) -> Result<Vec<Vec<&'b str>>, Flaw> {
    // What is skipped is skipped without recursion, so this bounds no more than what the skipping
    // keeps in mind, and need not be as strict as for what is read: one PDU that is nested deeper than
    // is read here must not spoil those beside it.
    if depth(body) > PDU_BYTES_MAX {
        return Err(Flaw::Shape("nested deeper than any event can be"));
    }
    let told = Cell::new(None);
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = json
        .deserialize_map(Object {
            fields,
            told: &told,
        })
        .and_then(|parts| json.end().map(|()| parts));
    let parts = read.map_err(|error| told.into_inner().unwrap_or_else(|| not_json(&error)))?;
    let whole: Option<Vec<_>> = parts.into_iter().collect();
    whole.ok_or(Flaw::Shape("the list that was asked for is not in it"))
}

/// Reads an object and keeps the arrays among its fields that are asked for.
struct Object<'a> {
    fields: &'a [Field],
    told: &'a Cell<Option<Flaw>>,
}

fn fail<E: serde::de::Error>(told: &Cell<Option<Flaw>>, flaw: Flaw) -> E {
    told.set(Some(flaw));
    E::custom("not the shape")
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Vec<Option<Vec<&'de str>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut parts: Self::Value = vec![None; self.fields.len()];
        while let Some(name) = map.next_key_seed(Name(self.fields))? {
            let Some(n) = name else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let field = self.fields[n];
            if parts[n].is_some() {
                let key = field.name.to_owned();
                return Err(fail(self.told, Flaw::DuplicateKey { key }));
            }
            let told = self.told;
            parts[n] = Some(map.next_value_seed(Elements { field, told })?);
        }
        Ok(parts)
    }
}

/// Which of the fields a key names.
struct Name<'a>(&'a [Field]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|field| field.name == key))
    }
}

/// The elements of one array.
struct Elements<'a> {
    field: Field,
    told: &'a Cell<Option<Flaw>>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = Vec<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element::<&'de RawValue>()? {
            if elements.len() == self.field.max {
                let what = "elements in a list";
                let max = self.field.max;
                return Err(fail(self.told, Flaw::TooMany { what, max }));
            }
            if !element.get().starts_with(self.field.begin) {
                let flaw = Flaw::Shape("a list of other things than were asked for");
                return Err(fail(self.told, flaw));
            }
            elements.push(element.get());
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(body: &str) -> Result<Vec<Bytes>, Flaw> {
        array_of_objects(&Bytes::copy_from_slice(body.as_bytes()), "pdus", 3)
    }

    #[test]
    fn parts_are_slices_of_the_body() {
        let body =
            Bytes::from_static(br#" {"x":[[{}]],"pdus": [ {"a": "]}"} , {} ],"y":{"pdus":1}} "#);
        let parts = array_of_objects(&body, "pdus", 2).unwrap();
        assert_eq!(parts, [&br#"{"a": "]}"}"#[..], b"{}"]);
        let within = body.as_ptr_range();
        assert!(parts.iter().all(|part| within.contains(&part.as_ptr())));
    }

    #[test]
    fn what_is_not_of_the_shape_says_so() {
        for (body, want) in [
            (r#"{"pdus":[]}"#, Ok(0)),
            (r#"{"p\u0064us":[{}]}"#, Ok(1)),
            (r#"{"pdus":[{},{},{}]}"#, Ok(3)),
            (
                r#"{"pdus":[{},{},{},{}]}"#,
                Err(Flaw::TooMany {
                    what: "elements in a list",
                    max: 3,
                }),
            ),
            (
                r#"{"pdus":[],"pdus":[]}"#,
                Err(Flaw::DuplicateKey {
                    key: "pdus".to_owned(),
                }),
            ),
            (
                r#"{"events":[]}"#,
                Err(Flaw::Shape("the list that was asked for is not in it")),
            ),
            (
                r#"{"pdus":[{},1]}"#,
                Err(Flaw::Shape("a list of other things than were asked for")),
            ),
        ] {
            assert_eq!(parts(body).map(|parts| parts.len()), want, "{body}");
        }
        for body in [
            "",
            "[]",
            "{",
            r#"{"pdus":[{}"#,
            r#"{"pdus":{}}"#,
            r#"{"pdus":1}"#,
            r#"{"pdus":[]} x"#,
            r#"{"pdus":[{"a":"\q"}]}"#,
            r#"{"x":tru,"pdus":[]}"#,
        ] {
            assert!(matches!(parts(body), Err(Flaw::NotJson { .. })), "{body}");
        }
        let nested = |n: usize| format!("{{\"pdus\":[],\"x\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert_eq!(parts(&nested(60_000)), Ok(vec![]));
        assert_eq!(
            parts(&nested(1_000_000)),
            Err(Flaw::Shape("nested deeper than any event can be"))
        );
    }
}
