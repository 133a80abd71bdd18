//! Bugs planted on purpose, one at a time, to prove that the simulation would find them.
//!
//! Without the feature `planted` every hook is `false` at compile time. With it, a bug is chosen by name
//! and per thread; nothing is planted until somebody asks for it.

/// Whether the named bug is planted in this thread.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($name:literal) => {
        $crate::planted::is($name)
    };
}

#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($name:literal) => {
        false
    };
}

pub(crate) use planted;

#[cfg(feature = "planted")]
pub use chosen::{ALL, is, set};

#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;

    /// Every bug that can be planted.
    pub const ALL: &[&str] = &[
        "abort-forgotten",
        "blocked-source-asked",
        "bytes-overdrawn",
        "cap-off-by-one",
        "ceiling-ignored",
        "commit-acknowledged-early",
        "commit-fault-taken-for-success",
        "deadline-ignored",
        "declined-charged-to-health",
        "double-outcome",
        "hedge-timer-lost",
        "invalid-answer-accepted",
        "joiner-not-judged",
        "leaked-slot-after-abort",
        "lost-waiter",
        "other-identity-continues",
        "ourselves-asked",
        "pause-forgotten",
        "resume-from-the-wrong-byte",
        "second-start-unacknowledged",
        "stale-verdict-applied",
        "tokens-refill-too-fast",
        "unfair-queue",
    ];

    thread_local! {
        static CHOSEN: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Plants the named bug in this thread, or none. Names that are not in [`ALL`] plant none.
    pub fn set(name: Option<&str>) {
        let known = name.and_then(|name| ALL.iter().find(|known| **known == name));
        CHOSEN.set(known.copied());
    }

    /// Whether the named bug is planted in this thread.
    pub fn is(name: &str) -> bool {
        debug_assert!(ALL.contains(&name), "{name} is listed");
        CHOSEN.get() == Some(name)
    }
}
