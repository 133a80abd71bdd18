//! What is kept of a well-known: what it said, or that it is of no use, and until when.

use super::wellknown::Useless;
use ruma_common::OwnedServerName;
use std::time::Duration;
use tokio::time::Instant;

/// How long what is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping {
    pub(crate) error_first: Duration,
    pub(crate) error_max: Duration,
    /// What was good is used in place of a failure for so long since it came.
    pub(crate) good_max: Duration,
}

/// What is kept of one well-known.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// What holds.
    pub(crate) result: Result<OwnedServerName, Useless>,
    /// Until when it is not asked for again.
    pub(crate) until: Instant,
    /// Failures in a row.
    failures: u32,
    /// What it said last when it was of use, and when.
    good: Option<(OwnedServerName, Instant)>,
}

impl Kept {
    /// What is kept after a look, given what was kept before it.
    pub(crate) fn after(
        before: Option<&Self>,
        look: Result<(OwnedServerName, Duration), Useless>,
        keeping: &Keeping,
        now: Instant,
    ) -> Self {
        match look {
            Ok((server, lasts)) => Self {
                result: Ok(server.clone()),
                until: now + lasts,
                failures: 0,
                good: Some((server, now)),
            },
            Err(useless) => {
                let failures = before.map_or(0, |before| before.failures).saturating_add(1);
                let doubled = 1u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
                let pause = keeping
                    .error_first
                    .saturating_mul(doubled)
                    .min(keeping.error_max);
                let good = before.and_then(|before| before.good.clone());
                // What says no is believed; what says nothing leaves things as they were.
                let good =
                    good.filter(|(_, since)| useless.may_pass() && now - *since < keeping.good_max);
                Self {
                    result: good
                        .as_ref()
                        .map_or(Err(useless), |(server, _)| Ok(server.clone())),
                    until: now + pause,
                    failures,
                    good,
                }
            }
        }
    }

    /// Whether what holds is from before a failure.
    pub(crate) fn is_old(&self) -> bool {
        self.failures > 0 && self.result.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use ruma_common::ServerName;

    const MINUTE: Duration = Duration::from_secs(60);
    const KEEPING: Keeping = Keeping {
        error_first: MINUTE,
        error_max: Duration::from_secs(3600),
        good_max: Duration::from_secs(48 * 3600),
    };

    #[test]
    fn failures_back_off_and_what_was_good_outlives_them_for_a_while() {
        let start = Instant::now();
        let server = ServerName::parse("b.test").unwrap();
        let gone = Useless::Status(StatusCode::NOT_FOUND);
        let broken = Useless::Unreachable("nobody listens there".into());
        let mut kept = None::<Kept>;
        let mut now = start;
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            let next = Kept::after(kept.as_ref(), Err(gone.clone()), &KEEPING, now);
            assert_eq!(next.until - now, MINUTE * minutes);
            assert_eq!(next.result, Err(gone.clone()));
            now = next.until;
            kept = Some(next);
        }
        let good = Kept::after(kept.as_ref(), Ok((server.clone(), MINUTE)), &KEEPING, now);
        assert_eq!((good.until - now, good.is_old()), (MINUTE, false));
        let old = Kept::after(Some(&good), Err(broken.clone()), &KEEPING, now + MINUTE);
        assert_eq!((&old.result, old.is_old()), (&Ok(server), true));
        assert_eq!(old.until, now + MINUTE * 2, "the pauses begin anew");
        let later = now + KEEPING.good_max;
        let over = Kept::after(Some(&old), Err(broken.clone()), &KEEPING, later);
        assert_eq!((&over.result, over.is_old()), (&Err(broken), false));
        let no = Kept::after(Some(&good), Err(gone.clone()), &KEEPING, now + MINUTE);
        assert_eq!(no.result, Err(gone), "a 404 ends the delegation");
    }
}
