//! How long members wait for each other, and the beats by which one that works says so.
//!
//! ```text
//!   origin at work --beat every quarter--> coordinator's readers --passed on--> their readers
//!   silent for a quarter: a holder is left   half: a relay has failed   whole: the engine's hedge
//! ```
//!
//! Everything follows from one delay, the hedge of the asker's engine: a member that is lost must not
//! cost its readers more than that. A beat says that somebody waits for no other member and is at work
//! for the datum. So only those originate beats who fill it themselves, from the time they were asked,
//! in a queue or not; who receives it passes on what it hears and adds nothing. Where two wait for each
//! other, in the trees of two coordinators, neither hears a beat, and both go back. Should one that comes
//! from elsewhere get into such a circle, it would go around for ever, and branch: so each knows how
//! often it was passed on, and none is passed on that follows another closely ([`Passed`]).

use std::time::Duration;

/// The delays of a cluster whose engines hedge after so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    hedge: Duration,
}

impl Pace {
    /// Delays for engines that hedge after so long.
    pub const fn new(hedge: Duration) -> Self {
        Self { hedge }
    }

    /// How often one who fills a datum says so to those that wait for it.
    pub fn beat(self) -> Duration {
        self.hedge / 4
    }

    /// For how long a relay may be silent before it has failed: two beats. The asker is back where it
    /// was sent from, and has an answer, before its engine hedges.
    pub fn relay_patience(self) -> Duration {
        self.hedge / 2
    }

    /// For how long a coordinator may be silent, or who stands in for it: four beats. The engine asks
    /// another by then in any case; that this one has failed is what spares those who come next.
    pub fn patience(self) -> Duration {
        self.hedge
    }

    /// For how long one may be silent of which a fault is the last that was heard, before another is
    /// asked as well: half a beat. One that is there again says so at once.
    pub fn doubt(self) -> Duration {
        self.hedge / 8
    }

    /// For how long in all one may be silent on a question whose other answers go on: it is there, and
    /// has more to do than it can, or we have. As long again as a coordinator may be silent otherwise.
    pub fn lenience(self) -> Duration {
        self.hedge
    }

    /// For how long a holder may be silent: one has the datum and only has to send it, and those who
    /// wait meanwhile hear beats.
    pub fn holder_patience(self) -> Duration {
        self.hedge / 4
    }
}

/// When one that serves what it fills itself is to send a beat: the first at once, if it has nothing
/// better to send, so that the asker knows that it is there. Times are as in
/// [`Spread::ask`](crate::Spread::ask).
#[derive(Clone, Copy, Debug)]
pub struct Beats {
    every: Duration,
    due: Duration,
}

impl Beats {
    /// Serving begins.
    pub fn new(now: Duration, pace: Pace) -> Self {
        let every = pace.beat();
        Self { every, due: now }
    }

    /// When a beat is due, unless something is sent before.
    pub const fn due(&self) -> Duration {
        self.due
    }

    /// Something was sent: a beat, or bytes, which say as much.
    pub fn sent(&mut self, now: Duration) {
        self.due = now.saturating_add(self.every);
    }
}

/// How often a beat is passed on at most: more than any tree is deep, but for one of a single branch.
const HOPS_MAX: u8 = 32;

/// Which beats one passes on that receives a datum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    last: Option<Duration>,
}

impl Passed {
    /// A beat was heard that has been passed on so often: what to pass on, if anything. Times are as in
    /// [`Spread::ask`](crate::Spread::ask).
    pub fn on(&mut self, now: Duration, hops: u8, pace: Pace) -> Option<u8> {
        let soon = |last: Duration| now < last.saturating_add(pace.beat() / 2);
        if hops >= HOPS_MAX || self.last.is_some_and(soon) {
            return None;
        }
        self.last = Some(now);
        Some(hops + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_lost_a_beat_has_not_failed_and_one_that_failed_is_left_before_the_hedge() {
        let hedge = Duration::from_secs(1);
        let pace = Pace::new(hedge);
        assert!(pace.beat() * 2 <= pace.relay_patience());
        assert!(pace.relay_patience() < hedge && pace.patience() <= hedge);
        assert!(pace.holder_patience() < pace.relay_patience());
        assert!(pace.doubt() < pace.beat());
    }

    #[test]
    fn whatever_is_sent_puts_off_the_next_beat() {
        let at = Duration::from_millis;
        let mut beats = Beats::new(at(30), Pace::new(at(400)));
        assert_eq!(beats.due(), at(30));
        beats.sent(at(31));
        assert_eq!(beats.due(), at(131));
        beats.sent(at(70));
        assert_eq!(beats.due(), at(170));
    }

    #[test]
    fn a_beat_does_not_go_around_for_ever() {
        let at = Duration::from_millis;
        let pace = Pace::new(at(400));
        let (mut one, mut other) = (Passed::default(), Passed::default());
        let (mut now, mut hops, mut passes) = (at(0), 0, 0);
        while let Some(next) = one.on(now, hops, pace) {
            let Some(next) = other.on(now, next, pace) else {
                break;
            };
            (hops, now, passes) = (next, now + at(60), passes + 1);
        }
        assert_eq!((hops, passes), (HOPS_MAX, u32::from(HOPS_MAX) / 2));
        let mut passed = Passed::default();
        assert_eq!(passed.on(at(0), 0, pace), Some(1));
        assert_eq!(passed.on(at(49), 0, pace), None);
        assert_eq!(passed.on(at(50), 3, pace), Some(4));
    }
}
