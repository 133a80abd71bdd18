//! Signals that ask the program to stop: SIGINT and SIGTERM, which mean the same here.

use crate::exit::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that come from now on.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over from the system, whose own answer would be to end the process.
    pub fn new() -> Result<Self> {
        let take = |kind| {
            signal(kind).map_err(|error| Error::from(error).context("cannot listen for signals"))
        };
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
        })
    }

    /// Resolves with the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
