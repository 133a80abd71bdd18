//! Keys and queries on the wire: exact percent-encoding, and which names an origin accepts.
//!
//! A key is any UTF-8 and reaches the origin as it is: `a//b`, `a/../b` and a trailing `/` are keys
//! of their own to S3. No URL library touches a path here, since all of them normalise.

use super::OriginError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986, as `SigV4` demands.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The same, with the slashes of a path left alone.
const PATH: &AsciiSet = &STRICT.remove(b'/');

/// The longest key that an origin is asked for, in bytes: S3's own limit.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

/// Refuses keys that no origin has.
pub(crate) fn check_key_len(key: &str) -> Result<(), OriginError> {
    if key.len() > KEY_BYTES_MAX {
        return Err(OriginError::Invalid("a key has at most 1,024 bytes".into()));
    }
    Ok(())
}

/// Appends a path, `/` kept.
pub(crate) fn push_path(out: &mut String, path: &str) {
    out.extend(utf8_percent_encode(path, PATH));
}

/// Appends one segment of a path, or a query's name or value: `/` is encoded too.
pub(crate) fn push_segment(out: &mut String, segment: &str) {
    out.extend(utf8_percent_encode(segment, STRICT));
}

/// A query string in canonical order (sorted by encoded name), which is also what `SigV4` signs.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let mut encoded: Vec<(String, String)> = pairs
        .iter()
        .map(|(name, value)| {
            let (mut n, mut v) = (String::new(), String::new());
            push_segment(&mut n, name);
            push_segment(&mut v, value);
            (n, v)
        })
        .collect();
    encoded.sort_unstable();
    let mut out = String::new();
    for (name, value) in encoded {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&name);
        out.push('=');
        out.push_str(&value);
    }
    out
}

/// Decodes `encoding-type=url` as S3 means it: `%XX`, and `+` for a space. `None` if the result is
/// not UTF-8.
pub(crate) fn decode_form(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

/// Whether a path has a segment that servers and proxies resolve instead of keeping (`.` or `..`):
/// behind a prefix, or in front of a file system, such a key could leave what it was meant for.
pub(crate) fn has_dot_segment(path: &str) -> bool {
    path.split('/')
        .any(|segment| segment == "." || segment == "..")
}

/// Whether a name can be one segment of a path: a bucket, a container.
pub(crate) fn is_segment(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_reach_the_wire_as_they_are() {
        for (key, wire) in [
            ("a/b", "a/b"),
            ("a//b", "a//b"),
            ("a/../b", "a/../b"),
            ("dir/", "dir/"),
            ("a b+c", "a%20b%2Bc"),
            ("100%", "100%25"),
            ("ü/€", "%C3%BC/%E2%82%AC"),
            ("q?x=1&y#z", "q%3Fx%3D1%26y%23z"),
            ("~-._", "~-._"),
        ] {
            let mut out = String::new();
            push_path(&mut out, key);
            assert_eq!(out, wire, "{key}");
        }
    }

    #[test]
    fn queries_are_sorted_by_encoded_name() {
        assert_eq!(
            query(&[("prefix", "a b/"), ("list-type", "2"), ("delimiter", "")]),
            "delimiter=&list-type=2&prefix=a%20b%2F"
        );
        assert_eq!(query(&[]), "");
    }

    #[test]
    fn dot_segments() {
        for (key, dots) in [
            ("a/../b", true),
            ("..", true),
            ("./a", true),
            ("a/.", true),
            ("a/..b", false),
            ("...", false),
            ("a//b", false),
            ("", false),
        ] {
            assert_eq!(has_dot_segment(key), dots, "{key}");
        }
    }

    proptest! {
        #[test]
        fn form_decoding_undoes_strict_encoding(key in ".*") {
            let mut wire = String::new();
            push_segment(&mut wire, &key);
            prop_assert_eq!(decode_form(&wire), Some(key));
        }

        #[test]
        fn form_decoding_never_panics(text in ".*") {
            let _ = decode_form(&text);
        }
    }
}
