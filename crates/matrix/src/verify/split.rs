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
    let mut parts = Vec::new();
    each_element(body, &[Field { name, max, begin }], |_, text| {
        parts.push(body.slice_ref(text.as_bytes()));
        Ok(())
    })?;
    Ok(parts)
}

/// Hands out each element of each of the arrays `fields` of the object `body`, with the place of its field
/// among `fields`, all of which must be there. Elements may be handed out before a flaw is found.
pub(super) fn each_element<'b>(
    body: &'b [u8],
    fields: &[Field],
    mut each: impl FnMut(usize, &'b str) -> Result<(), Flaw>,
) -> Result<(), Flaw> {
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
            each: &mut each,
        })
        .and_then(|found| json.end().map(|()| found));
    let found = read.map_err(|error| told.into_inner().unwrap_or_else(|| not_json(&error)))?;
    match found.iter().all(|found| *found) {
        true => Ok(()),
        false => Err(Flaw::Shape("the list that was asked for is not in it")),
    }
}

/// Reads an object and hands out the elements of the arrays among its fields that are asked for.
struct Object<'a, E> {
    fields: &'a [Field],
    told: &'a Cell<Option<Flaw>>,
    each: &'a mut E,
}

fn fail<E: serde::de::Error>(told: &Cell<Option<Flaw>>, flaw: Flaw) -> E {
    told.set(Some(flaw));
    E::custom("not the shape")
}

impl<'de, E: FnMut(usize, &'de str) -> Result<(), Flaw>> Visitor<'de> for Object<'_, E> {
    /// Which of the fields were there.
    type Value = Vec<bool>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = vec![false; self.fields.len()];
        while let Some(name) = map.next_key_seed(Name(self.fields))? {
            let Some(n) = name else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let field = self.fields[n];
            if found[n] {
                let key = field.name.to_owned();
                return Err(fail(self.told, Flaw::DuplicateKey { key }));
            }
            found[n] = true;
            let (told, each) = (self.told, &mut *self.each);
            map.next_value_seed(Elements {
                field,
                told,
                each: |element: &'de str| each(n, element),
            })?;
        }
        Ok(found)
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
struct Elements<'a, E> {
    field: Field,
    told: &'a Cell<Option<Flaw>>,
    each: E,
}

impl<'de, E: FnMut(&'de str) -> Result<(), Flaw>> DeserializeSeed<'de> for Elements<'_, E> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, E: FnMut(&'de str) -> Result<(), Flaw>> Visitor<'de> for Elements<'_, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let mut count = 0;
        while let Some(element) = seq.next_element::<&'de RawValue>()? {
            if count == self.field.max {
                let what = "elements in a list";
                let max = self.field.max;
                return Err(fail(self.told, Flaw::TooMany { what, max }));
            }
            if !element.get().starts_with(self.field.begin) {
                let flaw = Flaw::Shape("a list of other things than were asked for");
                return Err(fail(self.told, flaw));
            }
            count += 1;
            (self.each)(element.get()).map_err(|flaw| fail(self.told, flaw))?;
        }
        Ok(())
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
