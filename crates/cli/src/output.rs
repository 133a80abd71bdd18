//! Lines for people on standard error, results on standard output.

use crate::exit::{Error, Exit, Result, broken_pipe};
use std::io::{self, Write as _};

/// Tells people something. That nobody listens is no reason to stop.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a line of results. Ends the program quietly where nobody reads them any more.
pub fn line(text: &str) -> Result {
    let mut out = io::stdout().lock();
    match out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
    {
        Err(error) if broken_pipe(&error) => Err(Error::told(Exit::Success)),
        other => other.map_err(|error| Error::from(error).context("cannot write the result")),
    }
}
