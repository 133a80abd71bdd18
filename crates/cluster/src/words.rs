//! The last words of one that serves: why a datum cannot be had, and whether that ends the matter.

/// Why a member that served a datum could not bring it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Words {
    /// The origin does not have it.
    Missing,
    /// The origin has another version by now.
    Changed,
    /// The origin does not let us.
    Denied,
    /// The origin wants to be left alone, and was asked as often as the plan allows.
    SlowDown,
    /// No way to it, or it failed on the way.
    Failed,
}

impl Words {
    /// Whether these words are the origin's, and end the fetch of each member that hears them: from the
    /// coordinator, from one that stands in, or passed on by a relay. The same question would bring the
    /// same answer, or another burden on an origin that has too much.
    ///
    /// What merely failed is another matter: the next candidate may have a way. But it is no fault of
    /// the member that says so, which has tried; its health must not suffer for its origin's, or all
    /// that it coordinates would be fetched by others.
    pub const fn are_final(self) -> bool {
        match self {
            Self::Missing | Self::Changed | Self::Denied | Self::SlowDown => true,
            Self::Failed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_origin_said_is_not_asked_again() {
        for words in [
            Words::Missing,
            Words::Changed,
            Words::Denied,
            Words::SlowDown,
        ] {
            assert!(words.are_final(), "{words:?}");
        }
        assert!(!Words::Failed.are_final());
    }
}
