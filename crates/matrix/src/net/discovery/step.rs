//! What was done to find a server, step by step, for people.

use std::{fmt, time::Duration};

/// One step on the way to a server: what was tried, what came, how long it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was tried: `GET https://example.org/.well-known/matrix/server`.
    pub what: String,
    /// What came: `Ok` where it brought the matter forward, `Err` where the next rule was tried.
    pub came: Result<String, String>,
    /// How long it took; nothing for what was known.
    pub took: Duration,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, came) = match &self.came {
            Ok(came) => ("->", came),
            Err(came) => ("--", came),
        };
        write!(f, "{} {sign} {came}", self.what)?;
        if self.took.is_zero() {
            return Ok(());
        }
        write!(f, " ({} ms)", self.took.as_millis())
    }
}

/// A duration in the largest unit that fits.
pub(super) fn roughly(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}
