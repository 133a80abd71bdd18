//! Where a blob lies: a space, and a digest in it.
//!
//! The space (an origin's id, say) is kept in clear so that one space can be listed or dropped
//! without an index of what was put; the digest stands for everything else that identifies the blob.
//! Not for: content addressing. The digest is of the blob's *identity*, and two places never share
//! bytes.

use std::{fmt, fmt::Write as _, sync::Arc};

/// Where a blob lies: a space in clear, and 32 bytes that identify the blob in it.
///
/// ```
/// use gannet_store::Place;
///
/// let a = Place::derive("models", [b"bucket".as_slice(), b"key", b"etag", &7_u64.to_le_bytes()]);
/// let b = Place::derive("models", [b"bucketkey".as_slice(), b"", b"etag", &7_u64.to_le_bytes()]);
/// assert_ne!(a, b, "fields are length-prefixed");
/// assert_eq!(&**a.space(), "models");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    space: Arc<str>,
    digest: [u8; 32],
}

impl Place {
    /// The blob `digest` of `space`. Any string is a valid space: stores encode it injectively, so
    /// that it can neither leave the store's directory or prefix nor meet another space.
    pub fn new(space: impl Into<Arc<str>>, digest: [u8; 32]) -> Self {
        Self {
            space: space.into(),
            digest,
        }
    }

    /// The place of what `fields` identify: their BLAKE3 hash, each prefixed with its length, so
    /// that no two lists of fields meet by concatenation.
    pub fn derive<'a>(
        space: impl Into<Arc<str>>,
        fields: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let space = space.into();
        let mut hasher = blake3::Hasher::new_derive_key("gannet-store 2026 place v1");
        let mut add = |field: &[u8]| {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        };
        add(space.as_bytes());
        fields.into_iter().for_each(add);
        Self {
            space,
            digest: *hasher.finalize().as_bytes(),
        }
    }

    /// The space.
    pub fn space(&self) -> &Arc<str> {
        &self.space
    }

    /// The digest.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.space)?;
        self.digest[..6]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.space, hex(&self.digest))
    }
}

/// Longest name made of a space: well under the 255 bytes that file systems allow.
const SPACE_NAME_MAX: usize = 150;

/// The name of a space as a directory or path segment: `[a-z0-9_-.]` as they are, all else escaped
/// (upper case too, for file systems that ignore case; a leading dot too). A long one is cut and
/// told apart by its hash. Injective: `=` is always followed by two hex digits, but for the marks
/// of the empty (`=`) and the cut (`==`) name.
pub(crate) fn space_name(space: &str) -> String {
    let mut name = String::with_capacity(space.len());
    for (at, byte) in space.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => name.push(byte as char),
            b'.' if at > 0 => name.push('.'),
            _ => {
                let _ = write!(name, "={byte:02x}");
            }
        }
        if name.len() > SPACE_NAME_MAX {
            name.truncate(SPACE_NAME_MAX - 34);
            let _ = write!(name, "=={}", &blake3::hash(space.as_bytes()).to_hex()[..32]);
            return name;
        }
    }
    if name.is_empty() {
        name.push('=');
    }
    name
}

/// The digest in lower-case hexadecimal.
pub(crate) fn hex(digest: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|n| DIGITS[n as usize] as char)
        .collect()
}

/// The digest that 64 lower-case hexadecimal digits spell.
pub(crate) fn digest_of_hex(hex: &[u8]) -> Option<[u8; 32]> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut digest = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn space_names() {
        let check = |space: &str, name: &str| assert_eq!(space_name(space), name);
        check("s3-models_v1.2", "s3-models_v1.2");
        check("", "=");
        check("=", "=3d");
        check(".", "=2e");
        check("..", "=2e.");
        check(".hidden", "=2ehidden");
        check("a/../b", "a=2f..=2fb");
        check("A", "=41");
        check("\0é", "=00=c3=a9");
        let long = "x".repeat(1000);
        assert_eq!(space_name(&long).len(), SPACE_NAME_MAX);
        assert_ne!(space_name(&long), space_name(&"x".repeat(1001)));
        assert_eq!(
            space_name(&"x".repeat(SPACE_NAME_MAX)),
            "x".repeat(SPACE_NAME_MAX)
        );
    }

    proptest! {
        #[test]
        fn a_space_name_is_one_plain_component(space in ".{0,300}", other in ".{0,300}") {
            let name = space_name(&space);
            let parts: Vec<_> = Path::new(&name).components().collect();
            prop_assert!(matches!(parts[..], [Component::Normal(part)] if part == name.as_str()));
            prop_assert!(name.len() <= SPACE_NAME_MAX);
            prop_assert_eq!(space == other, name == space_name(&other));
        }

        #[test]
        fn hex_round_trips(digest: [u8; 32]) {
            prop_assert_eq!(digest_of_hex(hex(&digest).as_bytes()), Some(digest));
        }
    }

    #[test]
    fn bad_hex_is_refused() {
        let good = "ab".repeat(32);
        assert!(digest_of_hex(good.as_bytes()).is_some());
        for bad in [
            &good[1..],
            "",
            &good.to_uppercase(),
            &good.replacen('a', "g", 1),
        ] {
            assert_eq!(digest_of_hex(bad.as_bytes()), None, "{bad}");
        }
    }
}
