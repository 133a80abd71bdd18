//! The trace of a run: everything that went into the engine and came out, in order.
//!
//! Two runs of one seed must give the same trace (I8). It is hashed as it is written, and printed
//! where somebody wants to read it.

use gannet_engine::Time;
use std::fmt::{self, Write as _};

/// The trace of one run.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    print: bool,
}

impl Trace {
    /// An empty trace, printed to standard output as it grows if `print`.
    pub const fn new(print: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: 0,
            print,
        }
    }

    /// Adds a line.
    pub fn line(&mut self, now: Time, mark: &str, what: fmt::Arguments<'_>) {
        self.lines += 1;
        if self.print {
            println!("{now:?} {mark} {what}");
        }
        // Formatting into a hasher cannot fail.
        let _ = write!(Hasher(&mut self.hash), "{} {mark} {what}", now.as_nanos());
    }

    /// The hash of all lines so far, and their number.
    pub const fn digest(&self) -> (u64, u64) {
        (self.hash, self.lines)
    }
}

/// FNV-1a over whatever is written.
struct Hasher<'a>(&'a mut u64);

impl fmt::Write for Hasher<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            *self.0 = (*self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differs_by_content_and_by_time() {
        let digest = |nanos, text: &str| {
            let mut trace = Trace::new(false);
            trace.line(Time::from_nanos(nanos), "<-", format_args!("{text}"));
            trace.digest()
        };
        assert_eq!(digest(1, "a"), digest(1, "a"));
        assert_ne!(digest(1, "a"), digest(1, "b"));
        assert_ne!(digest(1, "a"), digest(2, "a"));
    }
}
