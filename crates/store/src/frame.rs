//! How a blob is written outside memory: its bytes, a table of block checksums, and a fixed part.
//!
//! ```text
//! on disk:           data | table | fixed       the data is at offset 0: page-aligned, for sendfile
//! in object stores:  fixed | table | data       one ranged read from 0 tells all that is needed
//!
//! table   CRC-32C of each 64 KiB block of the data, 4 bytes each, little-endian
//! fixed   0 magic "gannet1\n"    8 version u32 = 1     12 block length u32 = 65536
//! (128)  16 data length u64     24 digest of the place 32    56 BLAKE3 of its space's name 32
//!        88 CRC-32C of the table u32     92 zero     124 CRC-32C of bytes 0..124
//! ```
//!
//! Every byte is thus under a checksum, and the place is among what is checked: a truncated,
//! extended, torn, swapped or flipped copy is told from a right one. CRC-32C finds accidents, not
//! forgers: who can write into the store is trusted.

use bytes::Bytes;

/// Length of the blocks that have a checksum each.
pub(crate) const BLOCK: u64 = 64 << 10;
/// Length of the fixed part.
pub(crate) const FIXED: usize = 128;
/// Longest blob: far above any chunk, so that no length computed from a hostile one overflows.
pub(crate) const LEN_MAX: u64 = 1 << 40;

const MAGIC: [u8; 8] = *b"gannet1\n";
const VERSION: u32 = 1;

/// Length of the table of a blob of `len` bytes.
pub(crate) const fn table_len(len: u64) -> u64 {
    len.div_ceil(BLOCK) * 4
}

/// Length of all of a blob of `len` bytes as it is written.
pub(crate) const fn framed_len(len: u64) -> u64 {
    len + table_len(len) + FIXED as u64
}

/// The checksums of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Length of the data.
    pub(crate) len: u64,
    sums: Box<[u32]>,
}

/// A fixed part that was found in order; the table must match it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    /// Length of the data.
    pub(crate) len: u64,
    table_sum: u32,
}

impl Frame {
    /// The checksums of the concatenation of `segments`. Cost: one pass.
    pub(crate) fn of(segments: &[Bytes]) -> Self {
        let (mut sums, mut sum, mut room, mut len) = (Vec::new(), 0, BLOCK as usize, 0);
        for segment in segments {
            let mut rest = &segment[..];
            len += rest.len() as u64;
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(room.min(rest.len()));
                sum = crc32c::crc32c_append(sum, head);
                room -= head.len();
                rest = tail;
                if room == 0 {
                    sums.push(std::mem::take(&mut sum));
                    room = BLOCK as usize;
                }
            }
        }
        if room < BLOCK as usize {
            sums.push(sum);
        }
        Self {
            len,
            sums: sums.into(),
        }
    }

    /// The table as it is written.
    pub(crate) fn table(&self) -> Vec<u8> {
        self.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect()
    }

    /// The fixed part as it is written for the blob `digest` of the space whose name (as
    /// [`space_name`](crate::place::space_name) makes it) is `space`.
    pub(crate) fn fixed(&self, space: &str, digest: &[u8; 32]) -> [u8; FIXED] {
        let mut out = [0; FIXED];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(BLOCK as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.len.to_le_bytes());
        out[24..56].copy_from_slice(digest);
        out[56..88].copy_from_slice(blake3::hash(space.as_bytes()).as_bytes());
        out[88..92].copy_from_slice(&crc32c::crc32c(&self.table()).to_le_bytes());
        let sum = crc32c::crc32c(&out[..124]);
        out[124..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Checks a table against the fixed part that came with it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(fixed: &Fixed, table: &[u8]) -> Result<Self, &'static str> {
        if table.len() as u64 != table_len(fixed.len) || crc32c::crc32c(table) != fixed.table_sum {
            return Err("the checksum of the block checksums");
        }
        let (sums, _) = table.as_chunks::<4>();
        Ok(Self {
            len: fixed.len,
            sums: sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect(),
        })
    }

    /// Whether `data`, which begins with block `first` and ends with a block or the blob, is right.
    pub(crate) fn verify(&self, first: u64, data: &[u8]) -> bool {
        let sums = usize::try_from(first)
            .ok()
            .and_then(|first| self.sums.get(first..));
        let rest = self.len.saturating_sub(first.saturating_mul(BLOCK));
        let Some(sums) = sums.filter(|_| data.len() as u64 <= rest) else {
            return false;
        };
        let whole = data.len() as u64 == rest || (data.len() as u64).is_multiple_of(BLOCK);
        let blocks = data.chunks(BLOCK as usize);
        whole
            && blocks
                .zip(sums)
                .all(|(block, sum)| crc32c::crc32c(block) == *sum)
    }

    /// The smallest range of whole blocks that covers `range`.
    pub(crate) fn aligned(&self, range: &std::ops::Range<u64>) -> std::ops::Range<u64> {
        range.start / BLOCK * BLOCK..range.end.next_multiple_of(BLOCK).min(self.len)
    }
}

impl Fixed {
    /// Checks a fixed part that should be of the blob `digest` of `space`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(
        bytes: &[u8],
        space: &str,
        digest: &[u8; 32],
    ) -> Result<Self, &'static str> {
        let bytes: &[u8; FIXED] = bytes.try_into().map_err(|_| "its length")?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        if bytes[..8] != MAGIC {
            return Err("the magic number");
        }
        if word(124) != crc32c::crc32c(&bytes[..124]) {
            return Err("the checksum of the fixed part");
        }
        if word(8) != VERSION || u64::from(word(12)) != BLOCK || bytes[92..124] != [0; 32] {
            return Err("the version");
        }
        let len = u64::from(word(16)) | u64::from(word(20)) << 32;
        if len > LEN_MAX {
            return Err("the length");
        }
        let space = blake3::hash(space.as_bytes());
        if bytes[24..56] != *digest || bytes[56..88] != *space.as_bytes() {
            return Err("the place: it belongs to another blob");
        }
        Ok(Self {
            len,
            table_sum: word(88),
        })
    }
}

/// For fuzzing: reads bytes as a blob that was written, first as they are, then with the checksums
/// and the place made to fit, so that what lies behind those checks is reached too.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    const SPACE: &str = "fuzz";
    let read = |bytes: &[u8]| {
        let (fixed, rest) = bytes.split_at_checked(FIXED)?;
        let digest = fixed[24..56].try_into().ok()?;
        let fixed = Fixed::parse(fixed, SPACE, digest).ok()?;
        let (table, data) = rest.split_at_checked(usize::try_from(table_len(fixed.len)).ok()?)?;
        let frame = Frame::parse(&fixed, table).ok()?;
        let right = frame.verify(0, data);
        assert!(!right || data.len() as u64 <= frame.len);
        let aligned = frame.aligned(&(frame.len / 3..frame.len / 2));
        assert!(aligned.start <= aligned.end && aligned.end <= frame.len);
        Some(())
    };
    read(bytes);
    let mut bytes = bytes.to_vec();
    if bytes.len() < FIXED {
        return;
    }
    bytes[56..88].copy_from_slice(blake3::hash(SPACE.as_bytes()).as_bytes());
    let len = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| bytes[16 + i]));
    let table = usize::try_from(table_len(len.min(LEN_MAX))).unwrap_or(usize::MAX);
    if let Some(table) = bytes.get(FIXED..FIXED.saturating_add(table)) {
        let sum = crc32c::crc32c(table);
        bytes[88..92].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&sum.to_le_bytes());
    read(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: [u8; 32] = [7; 32];

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn cutting_does_not_matter() {
        for len in [0, 1, 65_535, 65_536, 65_537, 200_000] {
            let data = data(len);
            let whole = Frame::of(&[Bytes::from(data.clone())]);
            for piece in [1, 1_000, 65_536, 70_000] {
                let cut: Vec<_> = data.chunks(piece).map(Bytes::copy_from_slice).collect();
                assert_eq!(Frame::of(&cut), whole);
            }
            assert_eq!(whole.table().len() as u64, table_len(len as u64));
            assert!(whole.verify(0, &data));
        }
    }

    #[test]
    fn every_flip_is_found() {
        let bytes = data(200_000);
        let frame = Frame::of(&[Bytes::from(bytes.clone())]);
        let (good, table) = (frame.fixed("s", &DIGEST), frame.table());
        let fixed = Fixed::parse(&good, "s", &DIGEST).unwrap();
        assert_eq!(Frame::parse(&fixed, &table).unwrap(), frame);
        for bit in 0..FIXED * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Fixed::parse(&bad, "s", &DIGEST).is_err(), "bit {bit}");
        }
        for bit in 0..table.len() * 8 {
            let mut bad = table.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::parse(&fixed, &bad).is_err(), "bit {bit}");
        }
        for at in (0..bytes.len()).step_by(9_973) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(!frame.verify(0, &bad), "byte {at}");
        }
        for (space, digest) in [("t", DIGEST), ("s", [0; 32])] {
            let wrong = Fixed::parse(&good, space, &digest).unwrap_err();
            assert!(wrong.contains("another blob"), "{wrong}");
        }
        assert!(!frame.verify(0, &bytes[..199_999]));
        assert!(!frame.verify(0, &[&bytes[..], b"x"].concat()));
        assert!(!frame.verify(u64::MAX, &bytes));
        assert!(frame.verify(1, &bytes[65_536..131_072]));
    }

    #[test]
    fn a_hostile_length_is_refused() {
        for len in [LEN_MAX + 1, u64::MAX] {
            let fixed = Frame {
                len,
                sums: Box::new([]),
            }
            .fixed("s", &DIGEST);
            assert_eq!(
                Fixed::parse(&fixed, "s", &DIGEST).unwrap_err(),
                "the length"
            );
        }
    }

    #[test]
    fn alignment() {
        let frame = Frame::of(&[Bytes::from(data(200_000))]);
        assert_eq!(frame.aligned(&(0..1)), 0..65_536);
        assert_eq!(frame.aligned(&(65_535..65_537)), 0..131_072);
        assert_eq!(frame.aligned(&(199_999..200_000)), 196_608..200_000);
    }
}
