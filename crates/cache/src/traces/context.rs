//! W3C trace context (`traceparent`), as clients send it and as it travels between members.
//!
//! `tracestate` is not read and not passed on: it is for those who write it, and we are none of them.

use std::fmt;

/// The length of version 00, and the least of any later one.
const LEN: usize = 55;

/// A span somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Not zero.
    pub(crate) trace: u128,
    /// Not zero.
    pub(crate) span: u64,
    pub(crate) sampled: bool,
}

impl Remote {
    /// Reads a `traceparent`. What is none, to the letter, is as if it had not been sent.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (head, more) = text.split_at_checked(LEN)?;
        let (version, rest) = (head.get(..2)?, head.get(2..)?);
        match (hex(version)?, more.first()) {
            (0xff, _) | (0, Some(_)) => return None,
            (_, None | Some(b'-')) => {}
            _ => return None,
        }
        let dashes = [0, 33, 50];
        if dashes.iter().any(|&at| rest[at] != b'-') {
            return None;
        }
        let trace = hex(&rest[1..33])?;
        let span = u64::try_from(hex(&rest[34..50])?).ok()?;
        let flags = hex(&rest[51..53])?;
        (trace != 0 && span != 0).then_some(Self {
            trace,
            span,
            sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

/// Lower-case hexadecimal digits, 32 at most.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_a_context_and_what_is_none() {
        let check = |text: &str, good: bool| {
            assert_eq!(Remote::parse(text.as_bytes()).is_some(), good, "{text:?}");
        };
        check(GOOD, true);
        check(&GOOD.replace("-01", "-00"), true);
        check(&GOOD.replace("-01", "-ff"), true);
        // A later version may say more, behind a dash.
        check(&GOOD.replacen("00", "cc", 1), true);
        check(&format!("{}-what-else", GOOD.replacen("00", "cc", 1)), true);
        check(&format!("{}.what", GOOD.replacen("00", "cc", 1)), false);
        check(&format!("{GOOD}-what"), false);
        check(&GOOD.replacen("00", "ff", 1), false);
        check(&GOOD.to_ascii_uppercase(), false);
        check(
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            false,
        );
        check(&GOOD.replace("b7ad6b7169203331", &"0".repeat(16)), false);
        check(&GOOD.replace('-', "_"), false);
        check(&GOOD.replacen('-', "0", 1), false);
        check(&GOOD[..54], false);
        check(&format!(" {GOOD}"), false);
        check(&GOOD.replacen('a', "g", 1), false);
        check(&GOOD.replacen('a', "+", 1), false);
        check("", false);
        check("00", false);
        check(&"-".repeat(55), false);
        check(&"0".repeat(10_000), false);
        check(&"ä".repeat(28), false);
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let read = Remote::parse(GOOD.as_bytes()).expect("a context");
        assert_eq!(read.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(read.span, 0xb7ad_6b71_6920_3331);
        assert!(read.sampled);
        assert_eq!(read.to_string(), GOOD);
        let small = Remote {
            trace: 1,
            span: 2,
            sampled: false,
        };
        assert_eq!(Remote::parse(small.to_string().as_bytes()), Some(small));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Remote::parse(&bytes);
        }

        #[test]
        fn every_context_arrives(trace in 1u128.., span in 1u64.., sampled: bool) {
            let sent = Remote { trace, span, sampled };
            prop_assert_eq!(Remote::parse(sent.to_string().as_bytes()), Some(sent));
        }
    }
}
