//! The `Range` header as S3 reads it: one byte range, or none.
//!
//! What S3 does not understand it ignores (another unit, several ranges, a reversed range), and the
//! whole object is sent with 200. Only a well-formed range that begins past the end is an error.

use std::ops::Range;

/// One byte range of a request, before the size of the object is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=5-` and `bytes=5-9` (both ends included).
    From {
        /// First byte.
        first: u64,
        /// Last byte, if named.
        last: Option<u64>,
    },
    /// `bytes=-5`: the last bytes.
    Suffix(u64),
}

impl ByteRange {
    /// Reads a header value. `None`: ignore the header.
    ///
    /// Numbers too large for `u64` saturate: they lie past the end of any object.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let (unit, set) = value.split_at(value.iter().position(|&b| b == b'=')?);
        if !unit.eq_ignore_ascii_case(b"bytes") {
            return None;
        }
        let set = set[1..].trim_ascii();
        let dash = set.iter().position(|&b| b == b'-')?;
        match (&set[..dash], &set[dash + 1..]) {
            (b"", suffix) => Some(Self::Suffix(number(suffix)?)),
            (first, b"") => Some(Self::From {
                first: number(first)?,
                last: None,
            }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From {
                    first,
                    last: Some(last),
                })
            }
        }
    }

    /// The bytes meant, of an object of this size. `None`: not satisfiable (416). A zero-byte object
    /// satisfies no range, as on S3.
    pub fn resolve(self, size: u64) -> Option<Range<u64>> {
        match self {
            Self::From { first, last } if first < size => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                Some(first..end)
            }
            Self::Suffix(n) if n > 0 && size > 0 => Some(size.saturating_sub(n)..size),
            _ => None,
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0u64, |n, d| {
        n.saturating_mul(10).saturating_add(u64::from(d - b'0'))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        // value, size, what is meant: None = ignored, Some(None) = 416.
        let check = |value: &str, size: u64, want: Option<Option<Range<u64>>>| {
            let got = ByteRange::parse(value.as_bytes()).map(|r| r.resolve(size));
            assert_eq!(got, want, "{value} of {size}");
        };
        check("bytes=0-4", 10, Some(Some(0..5)));
        check("bytes=0-0", 10, Some(Some(0..1)));
        check("bytes=9-", 10, Some(Some(9..10)));
        check("bytes=10-", 10, Some(None));
        check("bytes=10-12", 10, Some(None));
        check("bytes=3-400", 10, Some(Some(3..10)));
        check("bytes=-3", 10, Some(Some(7..10)));
        check("bytes=-30", 10, Some(Some(0..10)));
        check("bytes=-0", 10, Some(None));
        check("bytes=0-", 0, Some(None));
        check("bytes=-1", 0, Some(None));
        check("bytes=0-99999999999999999999999", 10, Some(Some(0..10)));
        check("bytes=99999999999999999999999-", 10, Some(None));
        check(
            "bytes=18446744073709551615-18446744073709551615",
            10,
            Some(None),
        );
        check("BYTES=1-2", 10, Some(Some(1..3)));
        check(" bytes=1-2 ", 10, Some(Some(1..3)));
        check("bytes= 1-2", 10, Some(Some(1..3)));
        for ignored in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=a-b",
            "bytes=1-b",
            "bytes=+1-2",
            "bytes=0-1,3-4",
            "bytes=1 - 2",
            "items=0-1",
            "bytes=--1",
            "bytes=1-2-3",
            "0-4",
            "bytes 0-4",
        ] {
            check(ignored, 10, None);
        }
    }
}
