//! `Content-Range: bytes 0-99/1000`, as a client reads it.

use std::ops::Range;

/// Which bytes an answer holds, and of how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes: never empty, within `total`.
    pub bytes: Range<u64>,
    /// The object's length.
    pub total: u64,
}

/// Reads the header's value; none where it is anything but one satisfied range of a known total.
pub fn parse(text: &str) -> Option<ContentRange> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (number(first)?, number(last)?, number(total)?);
    // A `last` of 2^64 - 1 cannot be within any total.
    (first <= last && last < total).then(|| ContentRange {
        bytes: first..last + 1,
        total,
    })
}

/// Digits only: `str::parse` would take a plus sign.
fn number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let check = |text: &str, want: Option<(u64, u64, u64)>| {
            let want = want.map(|(a, b, total)| ContentRange { bytes: a..b, total });
            assert_eq!(parse(text), want, "{text}");
        };
        check("bytes 0-99/1000", Some((0, 100, 1000)));
        check("bytes 999-999/1000", Some((999, 1000, 1000)));
        check("bytes 0-1000/1000", None);
        check("bytes 5-4/1000", None);
        check("bytes */1000", None);
        check("bytes 0-99/*", None);
        check("bytes +0-99/1000", None);
        check("bytes -99/1000", None);
        check("octets 0-99/1000", None);
        check("bytes 0-18446744073709551615/18446744073709551615", None);
        check("bytes 0-18446744073709551616/18446744073709551617", None);
        check("", None);
    }
}
