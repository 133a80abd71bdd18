//! What can go wrong between two members.

use std::time::Duration;

/// Why a request to a member brought no response, or why credentials cannot be used. The texts say
/// what happened and, where somebody can do something, what; never a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A file or a setting of ours cannot be used. Nothing was sent. Remedy: the text names the file
    /// or the setting.
    #[error("{0}")]
    Config(String),
    /// Nobody listens there, or whoever does closed the connection before a word (it has too many,
    /// or is going down). Nothing was processed.
    #[error("{address} refused the connection: {why}")]
    Refused {
        /// The member.
        address: String,
        /// In which way.
        why: String,
    },
    /// There is no way to the address: no route, no such name. Nothing was processed.
    #[error("{address} cannot be reached: {why}")]
    Unreachable {
        /// The member.
        address: String,
        /// What the system says.
        why: String,
    },
    /// The two do not accept each other's certificates, or one of them speaks no TLS. Nothing was
    /// processed.
    #[error("no TLS with {address}: {why}")]
    Tls {
        /// The member.
        address: String,
        /// What ours or theirs objected to.
        why: String,
    },
    /// The member does not take our proof: another secret, or a clock that is off. Not processed.
    #[error("{address} does not take us for a member: {why}")]
    NotAuthenticated {
        /// The member.
        address: String,
        /// What it objected to, and how far the clocks are apart if it was that.
        why: String,
    },
    /// No connection came about in the time for it. Nothing was processed.
    #[error("{address} took longer than {after:?} {what}")]
    TimedOut {
        /// The member.
        address: String,
        /// What took long.
        what: &'static str,
        /// The bound.
        after: Duration,
    },
    /// The connection or the stream broke while the request was under way: it may have been processed.
    #[error("the connection to {address} broke: {why}")]
    Broken {
        /// The member.
        address: String,
        /// How.
        why: String,
    },
    /// Whoever is there does not speak our protocol. Nothing was processed.
    #[error("{address} is no member: {why}")]
    Malformed {
        /// The address.
        address: String,
        /// What it said instead.
        why: String,
    },
}

impl LinkError {
    /// Whether the request may have been processed all the same.
    pub fn may_be_processed(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }

    /// Its kind, in one word, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Tls { .. } => "tls",
            Self::NotAuthenticated { .. } => "not_authenticated",
            Self::TimedOut { .. } => "timed_out",
            Self::Broken { .. } => "broken",
            Self::Malformed { .. } => "malformed",
        }
    }
}

/// An error with what caused it, in one line: hyper's own texts leave the cause to be asked for.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
