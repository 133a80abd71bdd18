//! The commands that make one request: `event`, `auth-event`, `auth-chain`, `state-ids`, `backfill`, `missing`,
//! `at`.

use super::{flags::Flags, parse, setup::Service, show};
use crate::{
    exit::{Error, Exit, Result},
    output::{line, note},
    signals::Signals,
};
use clap::Args;
use gannet_matrix::{
    BACKFILL_MAX, Direction, FetchError, Key, KeyError, MISSING_EVENTS_MAX, Outcome,
};
use ruma_common::{OwnedEventId, OwnedRoomId};

/// One event.
#[derive(Debug, Args)]
pub(super) struct OneEvent {
    /// Its id, in quotes: '$abc'.
    #[arg(value_name = "ID", value_parser = parse::event)]
    pub(super) id: OwnedEventId,
}

/// Events before some.
#[derive(Debug, Args)]
pub(super) struct Backfill {
    /// The events to begin from, which come too, in quotes.
    #[arg(required = true, value_name = "ID", value_parser = parse::event)]
    pub(super) ids: Vec<OwnedEventId>,
    /// The most events.
    #[arg(long, value_name = "N", default_value_t = BACKFILL_MAX, value_parser = clap::value_parser!(u32).range(1..=i64::from(BACKFILL_MAX)))]
    pub(super) limit: u32,
}

/// Events between two edges.
#[derive(Debug, Args)]
pub(super) struct Missing {
    /// The events to go back from; they do not come.
    #[arg(long, required = true, num_args = 1.., value_name = "ID", value_parser = parse::event)]
    pub(super) latest: Vec<OwnedEventId>,
    /// The events to stop at: those that are there.
    #[arg(long, num_args = 1.., value_name = "ID", value_parser = parse::event)]
    pub(super) earliest: Vec<OwnedEventId>,
    /// The most events; Synapse gives no more than 20.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(MISSING_EVENTS_MAX)))]
    pub(super) limit: u32,
    /// No events that are less deep in the room's graph.
    #[arg(long, value_name = "DEPTH", default_value_t = 0)]
    pub(super) min_depth: u64,
}

/// The event next to a point in time.
#[derive(Debug, Args)]
pub(super) struct At {
    /// The time, as in 2026-01-31T12:00:00Z, or in milliseconds since 1970.
    #[arg(value_name = "TIME", value_parser = parse::moment)]
    pub(super) time: u64,
    /// The last before it [default: the first after it].
    #[arg(long)]
    pub(super) backward: bool,
}

impl At {
    pub(super) const fn direction(&self) -> Direction {
        match self.backward {
            true => Direction::Backward,
            false => Direction::Forward,
        }
    }
}

/// Makes a key of the room, fetches it, and tells how it went.
pub(super) async fn run(
    flags: &Flags,
    key: impl FnOnce(OwnedRoomId) -> std::result::Result<Key, KeyError>,
) -> Result {
    let key = key(flags.room()?).map_err(Error::usage)?;
    let service = Service::start(flags).await?;
    let mut signals = Signals::new()?;
    let ended = tokio::select! {
        ended = service.matrix.fetch(key.clone(), flags.opts(key.op())) => Some(ended),
        () = signals.next() => None,
    };
    service.end().await;
    match ended {
        None => Err(Error::new(Exit::Interrupted, "interrupted")),
        Some(Ok(outcome)) => give(flags, &key, &outcome),
        Some(Err(error)) => refuse(flags, &key, &error),
    }
}

fn give(flags: &Flags, key: &Key, outcome: &Outcome) -> Result {
    if flags.json {
        let shown = show::outcome_json(key, outcome);
        return show::raw_line(&shown.map_err(|why| Error::new(Exit::Failure, why))?);
    }
    if !flags.quiet {
        show::tell(key, outcome);
    }
    // What was examined is JSON, and so text.
    show::raw_line(&String::from_utf8_lossy(&outcome.bytes))
}

fn refuse(flags: &Flags, key: &Key, error: &FetchError) -> Result {
    if flags.json {
        line(&show::failure_json(key, error))?;
    } else if !flags.quiet {
        for attempt in &error.attempts {
            note(&show::attempt(attempt, key.op()));
        }
    }
    Err(show::error(error))
}
