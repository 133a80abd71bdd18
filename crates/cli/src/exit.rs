//! How the program ends: exit codes, and errors that end in what to do.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | success; also when the reader of our output went away |
//! | 1 | not found, or not valid (a checksum differs) |
//! | 2 | usage: a flag, a setting, a URL that makes no sense |
//! | 3 | failure: network, disk, server |
//! | 130 | interrupted |

use std::{fmt, io};

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Nothing is left to do: the reader of our output went away.
    Success = 0,
    /// What was asked for is not there, or is not what it should be.
    NotFound = 1,
    /// The command line or the configuration makes no sense.
    Usage = 2,
    /// Something that may work another time.
    Failure = 3,
    /// The user stopped it.
    Interrupted = 130,
}

/// An error with its context, the outermost first, and where there is one, a remedy.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    chain: Vec<String>,
    remedy: Option<String>,
}

/// What commands return.
pub type Result<T = ()> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind.
    pub fn new(exit: Exit, what: impl fmt::Display) -> Self {
        Self {
            exit,
            chain: vec![what.to_string()],
            remedy: None,
        }
    }

    /// An error that the user has been told of already.
    pub fn told(exit: Exit) -> Self {
        Self {
            exit,
            chain: Vec::new(),
            remedy: None,
        }
    }

    /// Whether there is nothing left to tell.
    pub fn is_told(&self) -> bool {
        self.chain.is_empty()
    }

    /// The command line or the configuration makes no sense.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Something failed that may work another time; its causes are kept.
    pub fn failure(error: &dyn std::error::Error) -> Self {
        let mut this = Self::new(Exit::Failure, error);
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Libraries like to repeat a cause in their own message.
            if this.chain.last().is_none_or(|last| !last.contains(&text)) {
                this.chain.push(text);
            }
            cause = error.source();
        }
        this
    }

    /// Says what was being done.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.chain.insert(0, what.to_string());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn remedy(mut self, what: impl fmt::Display) -> Self {
        self.remedy = Some(what.to_string());
        self
    }

    /// What the process exits with.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  try: {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::failure(&error)
    }
}

/// Whether an error only says that nobody reads our output any more (`gannet config | head -1`).
pub fn broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_chain_is_told_once_and_ends_in_what_to_do() {
        let error = Error::failure(&Outer(io::Error::other("disk on fire")))
            .context("cannot start")
            .remedy("water");
        assert_eq!(
            error.to_string(),
            "cannot start: outer: disk on fire\n  try: water"
        );
        assert_eq!(error.exit(), Exit::Failure);
    }
}
