//! Time: the network's clock, and the engine's, which never goes back.

use crate::machine::Time;
use std::time::SystemTime;

/// One moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The engine's, which never goes back.
    pub(crate) now: Time,
    /// The network's.
    pub(crate) wall: SystemTime,
}

/// Turns the wall clock into a time that never goes back: a step backwards counts as none at all,
/// so that no timer waits for the clock to catch up.
#[derive(Debug, Default)]
pub(crate) struct Steady {
    now: Time,
    last: Option<SystemTime>,
}

impl Steady {
    pub(crate) fn at(&mut self, wall: SystemTime) -> Moment {
        if self.last != Some(wall) {
            let passed = self.last.map(|last| wall.duration_since(last));
            let passed = passed.and_then(Result::ok).unwrap_or_default();
            self.now = self.now.after(passed);
            self.last = Some(wall);
        }
        Moment {
            now: self.now,
            wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_never_goes_back() {
        let wall = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let after = |seconds| Time::ZERO.after(Duration::from_secs(seconds));
        let mut steady = Steady::default();
        assert_eq!(steady.at(wall(1000)).now, after(0));
        assert_eq!(steady.at(wall(1003)).now, after(3));
        assert_eq!(steady.at(wall(500)).now, after(3), "a step back");
        assert_eq!(steady.at(wall(502)).now, after(5), "and it goes on");
    }
}
