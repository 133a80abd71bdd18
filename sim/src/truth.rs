//! What the data really are: every key has real bytes in every version, and the judge compares.
//!
//! Bodies are made of the bytes that the sources serve, so that a body resumed at the wrong byte, or
//! glued together from two versions, is wrong for all to see.

use crate::rng::mix;

/// The key type of the simulated world.
pub type Key = u32;

/// The bytes of `key` in `version`, the whole of them.
pub fn bytes(key: Key, version: u32, len_max: u64) -> Vec<u8> {
    (0..len(key, version, len_max))
        .map(|offset| byte(key, version, offset))
        .collect()
}

/// One byte of `key` in `version`.
pub fn byte(key: Key, version: u32, offset: u64) -> u8 {
    // The top bits of a mixed word: neighbours, keys and versions all differ.
    (mix(&[key.into(), version.into(), offset]) >> 56) as u8
}

/// The length of `key` in `version`: some keys are empty, most are not, none is above `len_max`.
pub fn len(key: Key, version: u32, len_max: u64) -> u64 {
    match key % 11 {
        7 => 0,
        _ => mix(&[key.into(), version.into(), 0x006c_656e]) % len_max + 1,
    }
}

/// What a source calls `key` in `version`: its etag.
pub fn identity(key: Key, version: u32) -> u64 {
    mix(&[key.into(), version.into(), 0x6574_6167])
}

/// The version that a body is, if it is one version throughout and whole.
pub fn version_of(key: Key, body: &[u8], versions: u32, len_max: u64) -> Option<u32> {
    (0..=versions).find(|&version| {
        len(key, version, len_max) == body.len() as u64
            && body
                .iter()
                .zip(0..)
                .all(|(&b, offset)| b == byte(key, version, offset))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_or_short_body_is_no_version() {
        let one = bytes(1, 0, 400);
        assert_eq!(version_of(1, &one, 3, 400), Some(0));
        assert_eq!(version_of(1, &one[1..], 3, 400), None);
        let other = bytes(1, 1, 400);
        let cut = one.len().min(other.len()) / 2;
        let mixed = [&one[..cut], &other[cut..]].concat();
        assert_eq!(version_of(1, &mixed, 3, 400), None);
        assert_eq!(version_of(7, &[], 3, 400), Some(0));
    }
}
