//! A circuit breaker: leaves a store alone that fails, so that its bad minute is not every client's.
//!
//! ```text
//!            failure                    pause over
//!   closed ----------> open (5 s, ...) -----------> half open: one may try
//!      ^                 ^                             |        |
//!      |                 +------- failure, pause x 2 --+        |
//!      +------------------------------------------- success ----+
//! ```
//!
//! A call that nobody waited for to its end counts as a failure if it had taken long by then: a store
//! that hangs is as sick as one that refuses. After M. Nygard, "Release It!".
//!
//! A store that could not be tested at the start is shut off: nobody may try but the test itself
//! (`proving.rs`), and a success closes the breaker as ever.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The first pause, and the longest.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A call given up after so long was given up for its slowness.
const SLOW: Duration = Duration::from_secs(1);

/// Whether a store is asked.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

/// How it stands with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Well,
    /// It has failed, and is left alone for a while.
    Fails,
    /// It could not be tested yet, and is left alone until it is.
    Untested,
    /// Its test has found that it must not be used.
    Unfit,
}

#[derive(Debug, Default)]
struct State {
    /// Untested or unfit: nobody is let through.
    shut: Option<Standing>,
    /// Failures of those who were let through while closed or half open, since the last success.
    failures: u32,
    until: Option<Instant>,
    trying: bool,
}

impl Breaker {
    /// Lets a call through, or not. What is returned wants to be told how it went.
    pub(crate) fn admit(&self) -> Option<Pass<'_>> {
        let mut state = self.lock();
        if state.shut.is_some() {
            return None;
        }
        let tries = match state.until {
            None => false,
            Some(until) if until > Instant::now() || state.trying => return None,
            Some(_) => true,
        };
        state.trying = tries;
        Some(Pass {
            breaker: self,
            begun: Instant::now(),
            tries,
            told: false,
        })
    }

    /// Whether calls are let through, but for one that tries; and why not.
    pub(crate) fn standing(&self) -> Standing {
        let state = self.lock();
        match (state.shut, state.until) {
            (Some(shut), _) => shut,
            (None, Some(_)) => Standing::Fails,
            (None, None) => Standing::Well,
        }
    }

    /// Lets nobody through from now on, until [`prove`](Self::prove).
    pub(crate) fn shut(&self, unfit: bool) {
        self.lock().shut = Some(match unfit {
            true => Standing::Unfit,
            false => Standing::Untested,
        });
    }

    /// The store has passed its test: all are let through.
    pub(crate) fn prove(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call that was let through.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    breaker: &'a Breaker,
    begun: Instant,
    /// Whether it is the one that tries while the breaker is half open.
    tries: bool,
    told: bool,
}

impl Pass<'_> {
    /// It went well.
    pub(crate) fn well(mut self) {
        self.told = true;
        let mut state = self.breaker.lock();
        // One that began before the trouble says nothing of it.
        if self.tries || state.until.is_none() {
            *state = State::default();
        }
    }

    /// The store failed.
    pub(crate) fn failed(mut self) {
        self.fail();
    }

    fn fail(&mut self) {
        self.told = true;
        let mut state = self.breaker.lock();
        // Those who were on their way together have found out the same.
        if state.until.is_some() && !self.tries {
            return;
        }
        let pause = PAUSE.saturating_mul(1 << state.failures.min(8));
        state.failures += 1;
        state.until = Some(Instant::now() + pause.min(PAUSE_MAX));
        state.trying = false;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        if self.begun.elapsed() >= SLOW {
            self.fail();
        } else if self.tries {
            self.breaker.lock().trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn advance(secs: u64) {
        tokio::time::advance(Duration::from_secs(secs)).await;
    }

    fn is_closed(breaker: &Breaker) -> bool {
        breaker.standing() == Standing::Well
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_tries_what_is_untested() {
        let breaker = Breaker::default();
        for (unfit, standing) in [(false, Standing::Untested), (true, Standing::Unfit)] {
            breaker.shut(unfit);
            advance(600).await;
            assert!(breaker.admit().is_none());
            assert_eq!(breaker.standing(), standing);
        }
        breaker.prove();
        assert!(is_closed(&breaker) && breaker.admit().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_opens_and_a_success_closes() {
        let breaker = Breaker::default();
        breaker.admit().unwrap().well();
        assert!(is_closed(&breaker));
        let (one, two) = (breaker.admit().unwrap(), breaker.admit().unwrap());
        one.failed();
        two.failed();
        assert!(!is_closed(&breaker) && breaker.admit().is_none());
        advance(5).await;
        let trying = breaker.admit().unwrap();
        assert!(breaker.admit().is_none(), "one at a time");
        trying.failed();
        advance(9).await;
        assert!(breaker.admit().is_none(), "twice as long");
        advance(1).await;
        breaker.admit().unwrap().well();
        assert!(is_closed(&breaker) && breaker.admit().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_hangs_has_failed() {
        let breaker = Breaker::default();
        drop(breaker.admit().unwrap());
        assert!(is_closed(&breaker), "given up at once: no sign of anything");
        let slow = breaker.admit().unwrap();
        advance(1).await;
        drop(slow);
        assert!(!is_closed(&breaker));
        advance(5).await;
        drop(breaker.admit().unwrap());
        assert!(breaker.admit().is_some(), "another may try");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_end() {
        let breaker = Breaker::default();
        for _ in 0..20 {
            breaker.admit().unwrap().failed();
            advance(60).await;
        }
        let late = breaker.admit().unwrap();
        late.well();
        assert!(is_closed(&breaker));
    }
}
