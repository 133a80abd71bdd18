//! JSON from outside: how deep it is nested, and its canonical value with nothing guessed.
//!
//! `ruma` reads canonical JSON by way of `serde_json::Value`, which takes the last of several equal
//! keys. Here a key that stands twice is refused, what canonical JSON cannot say is told from what is
//! no JSON at all, and a value is built once.

use super::{
    flaw::{Flaw, NotCanonical, shown},
    pdu::PDU_BYTES_MAX,
};
use ruma_common::{CanonicalJsonObject, CanonicalJsonValue};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::{cell::Cell, collections::btree_map::Entry, fmt, io};

/// How deep arrays and objects may be nested, whatever the document: no event that servers accept
/// comes near, and recursion to this depth is harmless.
pub const DEPTH_MAX: usize = 100;

/// The most memory that one value may take, in bytes: an event of [`PDU_BYTES_MAX`] that is made of
/// nothing but the smallest of objects takes less, and with what servers add to real ones, too.
const MEMORY_MAX: usize = 17 << 19;
/// What a node of a map takes, and how many entries it has, if it is not the only one.
const NODE: usize = 640;
const ENTRIES: usize = 6;
/// What an element of a list takes, which has room for as many again.
const ELEMENT: usize = 64;
/// What a text takes, beside its bytes.
const ALLOCATED: usize = 16;

/// The deepest nesting of arrays and objects.
///
/// Looks at each byte once and keeps nothing. Of what is not JSON it says something, which is never
/// less than what a parser would meet before it gives up.
pub fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                // To the end of the string; a quote or a backslash after a backslash is not its end.
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The canonical value of one JSON object, and nothing after it. `lax` says whether the room's
/// version allows numbers that canonical JSON cannot say: then too there is no value, but the flaw
/// says so.
///
/// The caller bounds the size. Takes time in proportion to it. A value may take a hundred times the
/// memory of its text, so reading ends where it would take more than the worst of events.
pub fn parse_object(bytes: &[u8], lax: bool) -> Result<CanonicalJsonObject, Flaw> {
    parse(bytes, lax, None)
}

/// The same of a PDU, without its `unsigned`: what servers add is no part of what anybody signed. Only its
/// form is looked at; nothing of it is built, and it does not count.
pub fn parse_pdu(bytes: &[u8], lax: bool) -> Result<CanonicalJsonObject, Flaw> {
    parse(bytes, lax, Some("unsigned"))
}

fn parse(
    bytes: &[u8],
    lax: bool,
    passes: Option<&'static str>,
) -> Result<CanonicalJsonObject, Flaw> {
    let trouble = Cell::new(None);
    let left = Cell::new(MEMORY_MAX);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // Depth is counted as the parser descends, so this needs no look at the bytes beforehand.
    let read = ObjectSeed(At {
        told: &trouble,
        left: &left,
        depth: 0,
        passes,
        keeps: true,
    })
    .deserialize(&mut json)
    .and_then(|object| json.end().map(|()| object));
    read.map_err(|error| match trouble.into_inner() {
        Some(Trouble::Twice(key)) => Flaw::DuplicateKey { key },
        Some(Trouble::Not(why)) => Flaw::NotCanonical { why, lax },
        Some(Trouble::Deep) => Flaw::TooDeep { max: DEPTH_MAX },
        Some(Trouble::Large) => Flaw::TooLarge {
            what: "PDU",
            bytes: bytes.len(),
            max: PDU_BYTES_MAX,
        },
        None => not_json(&error),
    })
}

/// A flaw without the parser's words, which quote what came.
pub(super) fn not_json(error: &serde_json::Error) -> Flaw {
    Flaw::NotJson {
        line: error.line(),
        column: error.column(),
    }
}

/// How long the canonical form of `object` is, in bytes. Builds nothing.
pub(super) fn canonical_len(object: &CanonicalJsonObject) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, object)
        .expect("a canonical value has text for keys, and the writer does not fail");
    count.0
}

/// What a parser's error cannot carry.
enum Trouble {
    Twice(String),
    Not(NotCanonical),
    Deep,
    Large,
}

/// Where a reader is, and where it says what an error cannot.
#[derive(Clone, Copy)]
struct At<'t> {
    told: &'t Cell<Option<Trouble>>,
    /// Memory that may yet be taken.
    left: &'t Cell<usize>,
    depth: usize,
    /// A field of this object that is passed over.
    passes: Option<&'static str>,
    /// Whether a value is built. Where not, all that is kept are the keys of objects until they end.
    keeps: bool,
}

impl At<'_> {
    fn fail<E: serde::de::Error>(self, trouble: Trouble) -> E {
        self.told.set(Some(trouble));
        E::custom("not canonical")
    }

    /// So much memory more is taken, about.
    fn takes<E: serde::de::Error>(self, bytes: usize) -> Result<(), E> {
        match self.left.get().checked_sub(bytes) {
            _ if !self.keeps => Ok(()),
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(self.fail(Trouble::Large)),
        }
    }

    /// An integer, if canonical JSON can say it.
    fn integer<E: serde::de::Error>(
        self,
        value: Option<CanonicalJsonValue>,
    ) -> Result<CanonicalJsonValue, E> {
        match value {
            Some(value) => Ok(value),
            None if !self.keeps => Ok(CanonicalJsonValue::Null),
            None => Err(self.fail(Trouble::Not(NotCanonical::LargeInteger))),
        }
    }

    /// Into an array or an object.
    fn down<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(self.fail(Trouble::Deep));
        }
        Ok(Self {
            depth: self.depth + 1,
            passes: None,
            ..self
        })
    }
}

/// Reads an object.
struct ObjectSeed<'t>(At<'t>);

/// Reads any value.
struct ValueSeed<'t>(At<'t>);

fn read_map<'de, A: MapAccess<'de>>(
    at: At<'_>,
    mut map: A,
) -> Result<CanonicalJsonObject, A::Error> {
    let mut passes = at.passes;
    let at = at.down()?;
    let mut object = CanonicalJsonObject::new();
    let mut passed = None;
    while let Some(key) = map.next_key::<String>()? {
        if passed.as_ref() == Some(&key) {
            return Err(at.fail(Trouble::Twice(shown(&key))));
        }
        if passes == Some(key.as_str()) {
            map.next_value_seed(ValueSeed(At { keeps: false, ..at }))?;
            (passes, passed) = (None, Some(key));
            continue;
        }
        let entry = if object.is_empty() {
            NODE
        } else {
            NODE / ENTRIES
        };
        at.takes(entry + ALLOCATED + key.len())?;
        match object.entry(key) {
            Entry::Vacant(place) => {
                place.insert(map.next_value_seed(ValueSeed(at))?);
            }
            Entry::Occupied(place) => {
                return Err(at.fail(Trouble::Twice(shown(place.key()))));
            }
        }
    }
    Ok(object)
}

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_> {
    type Value = CanonicalJsonObject;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_> {
    type Value = CanonicalJsonObject;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        read_map(self.0, map)
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = CanonicalJsonValue;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = CanonicalJsonValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        let value = value.try_into().map(CanonicalJsonValue::Integer);
        self.0.integer(value.ok())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        let value = value.try_into().map(CanonicalJsonValue::Integer);
        self.0.integer(value.ok())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        if !self.0.keeps {
            return Ok(CanonicalJsonValue::Null);
        }
        // An integer beyond 64 bits comes as a float, too.
        let why = if value.fract() == 0.0 && value.abs() >= 9_007_199_254_740_992.0 {
            NotCanonical::LargeInteger
        } else {
            NotCanonical::Float
        };
        Err(self.0.fail(Trouble::Not(why)))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
        self.0.takes(ALLOCATED + value.len())?;
        match self.0.keeps {
            true => Ok(CanonicalJsonValue::String(value.to_owned())),
            false => Ok(CanonicalJsonValue::Null),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let at = self.0.down()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(ValueSeed(at))? {
            if at.keeps {
                at.takes(ELEMENT)?;
                values.push(value);
            }
        }
        Ok(CanonicalJsonValue::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        read_map(self.0, map).map(CanonicalJsonValue::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What servers add is read, and neither built nor counted; nor need it be canonical.
    #[test]
    fn what_nobody_signed_is_passed_over() {
        let of = |unsigned: &str| format!("{{\"a\":{{\"unsigned\":1}},\"unsigned\":{unsigned}}}");
        let long = format!("[{}0]", "0,".repeat(3 * PDU_BYTES_MAX));
        for fine in ["{}", "null", "{\"age\":1.5,\"n\":9007199254740993}", &long] {
            let object = parse_pdu(of(fine).as_bytes(), false).unwrap();
            assert_eq!(
                serde_json::to_string(&object).unwrap(),
                "{\"a\":{\"unsigned\":1}}"
            );
        }
        assert!(parse_object(of(&long).as_bytes(), false).is_err());
        let twice = |key: &str| {
            Err(Flaw::DuplicateKey {
                key: key.to_owned(),
            })
        };
        for (bad, want) in [
            ("{\"age\":1,\"age\":1}", twice("age")),
            ("1,\"unsigned\":1", twice("unsigned")),
            (&*"[".repeat(200), Err(Flaw::TooDeep { max: DEPTH_MAX })),
        ] {
            assert_eq!(parse_pdu(of(bad).as_bytes(), false), want, "{bad}");
        }
        assert!(matches!(
            parse_pdu(of("tru").as_bytes(), false),
            Err(Flaw::NotJson { .. })
        ));
    }

    #[test]
    fn depth_counts_what_is_not_in_strings() {
        for (text, want) in [
            ("", 0),
            ("1", 0),
            ("{}", 1),
            (r#"{"a":[[]],"b":{}}"#, 3),
            (r#"["[[[[", "\"[[[", "\\", []]"#, 2),
            (r#"["unfinished [["#, 1),
            (r#"["\"#, 1),
            ("]]]]{", 1),
        ] {
            assert_eq!(depth(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn depth_is_refused_before_it_is_parsed() {
        let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(parse_object(nested(DEPTH_MAX - 1).as_bytes(), false).is_ok());
        for n in [DEPTH_MAX, 1_000_000] {
            assert_eq!(
                parse_object(nested(n).as_bytes(), false),
                Err(Flaw::TooDeep { max: DEPTH_MAX })
            );
        }
    }

    #[test]
    fn what_would_be_larger_than_any_event_is_not_built() {
        for (piece, count, is_read) in [
            ("[]", 130_000, true),
            ("[]", 140_000, false),
            ("{\"\":0}", PDU_BYTES_MAX / 7, true),
            ("{\"\":0}", 2 * PDU_BYTES_MAX / 7, false),
            ("\"\"", 100_000, true),
            ("\"\"", 120_000, false),
            ("null", 130_000, true),
            // What is between things does not count.
            ("null        ", 130_000, true),
        ] {
            let list = vec![piece; count].join(",");
            let text = format!("{{\"a\":[{list}]}}");
            let too_large = Flaw::TooLarge {
                what: "PDU",
                bytes: text.len(),
                max: PDU_BYTES_MAX,
            };
            let read = parse_object(text.as_bytes(), false).map(drop);
            let want = if is_read { Ok(()) } else { Err(too_large) };
            assert_eq!(read, want, "{piece} {count}");
        }
    }

    #[test]
    fn the_specification_s_examples_of_canonical_json() {
        for (text, want) in [
            ("{}", "{}"),
            (
                "{\n \"one\": 1,\n \"two\": \"Two\"\n}",
                r#"{"one":1,"two":"Two"}"#,
            ),
            (r#"{"b": "2", "a": "1"}"#, r#"{"a":"1","b":"2"}"#),
            (r#"{"b":"2","a":"1"}"#, r#"{"a":"1","b":"2"}"#),
            (
                r#"{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {
                    "display_name": "John Doe", "three_pids": [
                    {"medium": "email", "address": "john.doe@example.org"},
                    {"medium": "msisdn", "address": "123456789"}]}}}"#,
                r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
            ),
            (r#"{"a": "日本語"}"#, r#"{"a":"日本語"}"#),
            (r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#),
            (r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#),
            (r#"{"a": null}"#, r#"{"a":null}"#),
            (r#"{"a": "\u000c\u0007\/"}"#, r#"{"a":"\f\u0007/"}"#),
            (
                r#"{"a": -9007199254740991, "b": 0}"#,
                r#"{"a":-9007199254740991,"b":0}"#,
            ),
        ] {
            let object = parse_object(text.as_bytes(), false).unwrap();
            assert_eq!(serde_json::to_string(&object).unwrap(), want);
            assert_eq!(canonical_len(&object), want.len());
        }
    }

    #[test]
    fn what_is_refused_says_why() {
        use NotCanonical::{Float, LargeInteger};
        for (text, want) in [
            (r#"{"a":1.5}"#, Float),
            (r#"{"a":1.0}"#, Float),
            (r#"{"a":-0}"#, Float),
            (r#"{"a":-0.0}"#, Float),
            (r#"{"a":1e3}"#, Float),
            (r#"{"a":9007199254740992}"#, LargeInteger),
            (r#"{"a":-9007199254740992}"#, LargeInteger),
            (r#"{"a":18446744073709551616}"#, LargeInteger),
        ] {
            for lax in [false, true] {
                assert_eq!(
                    parse_object(text.as_bytes(), lax),
                    Err(Flaw::NotCanonical { why: want, lax }),
                    "{text}"
                );
            }
        }
        for (text, key) in [
            (r#"{"a":1,"a":1}"#, "a"),
            (r#"{"a":1,"\u0061":2}"#, "a"),
            (r#"{"b":[{"c":{},"c":{}}]}"#, "c"),
        ] {
            assert_eq!(
                parse_object(text.as_bytes(), false),
                Err(Flaw::DuplicateKey {
                    key: key.to_owned()
                }),
                "{text}"
            );
        }
        for text in [
            "",
            " ",
            "1",
            "null",
            "[]",
            "{",
            "{}{}",
            "{} x",
            r#"{"a":NaN}"#,
            r#"{"a":01}"#,
            r#"{"a":"\ud800"}"#,
            r#"{a:1}"#,
            r#"{"a":1,}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":1e999}"#,
        ] {
            assert!(
                matches!(
                    parse_object(text.as_bytes(), false),
                    Err(Flaw::NotJson { .. })
                ),
                "{text}"
            );
        }
        assert!(matches!(
            parse_object(b"{\"a\":\"\xff\"}", false),
            Err(Flaw::NotJson { .. })
        ));
    }
}
