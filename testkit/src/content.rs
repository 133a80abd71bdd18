//! Deterministic content of any length, generated on the fly.
//!
//! The low half of each byte is the version modulo 16, the high half is noise drawn from seed, version
//! and position. So each single byte reveals its version, no two places look alike, and a GiB
//! costs nothing to hold.

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Fills `out` with the bytes of this version of this object from `offset` on.
pub fn fill(seed: u64, version: u32, offset: u64, out: &mut [u8]) {
    let salt = mix(seed ^ u64::from(version).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let low = u64::from(version & 15).wrapping_mul(0x0101_0101_0101_0101);
    let word =
        |index: u64| ((mix(salt.wrapping_add(index)) & 0xF0F0_F0F0_F0F0_F0F0) | low).to_le_bytes();
    let skip = (offset % 8) as usize;
    let head_len = if skip == 0 {
        0
    } else {
        (8 - skip).min(out.len())
    };
    let (head, rest) = out.split_at_mut(head_len);
    let mut index = offset / 8;
    if head_len > 0 {
        head.copy_from_slice(&word(index)[skip..skip + head_len]);
        index += 1;
    }
    let mut words = rest.chunks_exact_mut(8);
    for slot in &mut words {
        slot.copy_from_slice(&word(index));
        index += 1;
    }
    let tail = words.into_remainder();
    let tail_len = tail.len();
    tail.copy_from_slice(&word(index)[..tail_len]);
}

/// The bytes `offset..offset + len` of this version of this object.
pub fn bytes(seed: u64, version: u32, offset: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    fill(seed, version, offset, &mut out);
    out.into()
}

/// The version (modulo 16) that one byte belongs to.
pub fn version_of(byte: u8) -> u32 {
    u32::from(byte & 15)
}

/// SHA-256 of a whole object, in lower-case hex.
pub fn sha256(seed: u64, version: u32, size: u64) -> String {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    while offset < size {
        let len = buffer.len().min((size - offset) as usize);
        fill(seed, version, offset, &mut buffer[..len]);
        hasher.update(&buffer[..len]);
        offset += len as u64;
    }
    hex(&hasher.finalize())
}

/// SHA-256 of some bytes, in lower-case hex.
pub fn sha256_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection that leaves no visible pattern.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_is_the_same_content() {
        let whole = bytes(7, 3, 0, 100);
        for offset in 0..40 {
            for len in 0..40 {
                assert_eq!(
                    bytes(7, 3, offset as u64, len),
                    whole[offset..offset + len],
                    "{offset}+{len}"
                );
            }
        }
    }

    #[test]
    fn every_byte_tells_its_version() {
        for version in 0..16 {
            assert!(
                bytes(1, version, 5, 500)
                    .iter()
                    .all(|b| version_of(*b) == version)
            );
        }
        assert_ne!(bytes(1, 0, 0, 64), bytes(1, 16, 0, 64));
        assert_ne!(bytes(1, 0, 0, 64), bytes(2, 0, 0, 64));
    }

    #[test]
    fn the_hash_is_of_the_bytes() {
        assert_eq!(sha256(9, 1, 300_000), sha256_of(&bytes(9, 1, 0, 300_000)));
    }
}
