//! [`Matrix::fill`]: runs a [`Walk`] against the servers of a room.

use super::{Ask, AskId, Ended, Goal, Limits, Links, Next, Walk, links::links};
use crate::{
    Attempt, BadEvent, Checks, FetchError, How, Key, KeyError, Matrix, Opts, Outcome, Proof,
    ask::proofs_of_version,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tokio::time::Instant;

/// What is to be brought back.
#[derive(Clone, Debug)]
pub struct Fill {
    /// The room.
    pub room: OwnedRoomId,
    /// The events to go back from. They are fetched too, where they are not held.
    pub from: Vec<OwnedEventId>,
    /// Events that are held elsewhere, and beyond which the fill does not go; maybe none.
    pub to: Vec<OwnedEventId>,
    /// How far it goes back.
    pub goal: Goal,
    /// Its bounds.
    pub limits: Limits,
    /// Whom to ask and how. Every event is checked, whatever is said here: those that were redacted count, and say so.
    pub opts: Opts,
}

/// An event that was brought back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Its bytes as they came.
    pub raw: Bytes,
    /// What was proved of it.
    pub proof: Proof,
    /// Who gave it; `None` for the store.
    pub server: Option<OwnedServerName>,
    /// Whether it is of the timeline, or only entitles others.
    pub timeline: bool,
    /// The room's version by which it was checked.
    pub version: Option<RoomVersionId>,
}

/// What happens in the course of a fill.
#[derive(Debug)]
#[non_exhaustive]
pub enum News<'a> {
    /// An event is there.
    Recovered(Recovered),
    /// A request was answered.
    Answered {
        /// Which.
        ask: &'a Ask,
        /// What became of each request that was made for it.
        attempts: &'a [Attempt],
        /// Events that it brought and that were missing.
        found: usize,
        /// How long it took.
        took: Duration,
    },
    /// Nobody gave an answer.
    Failed {
        /// To which request.
        ask: &'a Ask,
        /// Why.
        error: &'a FetchError,
    },
}

/// What came of a fill.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Filled {
    /// Why it ended.
    pub ended: Ended,
    /// Events of the timeline that were fetched.
    pub timeline: u64,
    /// Events of any kind that were fetched.
    pub fetched: u64,
    /// Events that were in the store before.
    pub held: u64,
    /// Requests that the fill made, each of which may have tried several servers.
    pub requests: u64,
    /// Requests to servers.
    pub attempts: u64,
    /// Events that each server gave.
    pub by_server: BTreeMap<OwnedServerName, u64>,
    /// Events that are named and that nobody gave.
    pub missing: Vec<OwnedEventId>,
    /// Bad events that servers sent.
    pub bad: Vec<BadEvent>,
    /// The room's version.
    pub version: Option<RoomVersionId>,
}

/// Bad events that are named in the end; more are only left out.
const BAD_MAX: usize = 1_000;

impl Matrix {
    /// Brings back what a room is missing, in few requests, and tells of each event as it comes.
    ///
    /// What was fetched is in the store, if there is one, and a later fill goes on from there.
    ///
    /// # Errors
    /// No events to go back from, or ids that are too long.
    ///
    /// # Cancellation
    /// Dropping the future ends its requests; what came before is in the store.
    pub async fn fill(
        &self,
        fill: Fill,
        mut tell: impl FnMut(News<'_>) + Send,
    ) -> Result<Filled, KeyError> {
        let Some(first) = fill.from.first() else {
            return Err(KeyError::NoEvents);
        };
        let checks = fill.opts.checks.unwrap_or(Checks::REDACTED_TOO);
        let checks = checks.and(Checks::REDACTED_TOO);
        let walk = Walk::new(fill.from.clone(), fill.to.clone(), fill.goal, fill.limits);
        let mut filling = Filling {
            matrix: self,
            checks,
            walk,
            filled: Filled {
                ended: Ended::Goal,
                timeline: 0,
                fetched: 0,
                held: 0,
                requests: 0,
                attempts: 0,
                by_server: BTreeMap::new(),
                missing: Vec::new(),
                bad: Vec::new(),
                version: self.inner.known_version(&fill.room, &fill.opts).await,
            },
            chain: HashMap::new(),
            fill: &fill,
        };
        // That one key can be made of the room and an id of the caller's is known before anything is asked.
        filling.learn_version(first).await?;
        filling.look_up(&mut tell).await;
        let mut asked = FuturesUnordered::new();
        let ended = loop {
            while let Some(next) = filling.walk.next_ask() {
                match filling.ask(&next) {
                    Ok((key, opts)) => asked.push(async move {
                        let began = Instant::now();
                        let outcome = self.fetch(key, opts).await;
                        (next, outcome, began.elapsed())
                    }),
                    // An id that an event names and that is none which could be asked for.
                    Err(_) => filling.walk.failed(next.id, &[]),
                }
            }
            let Some((next, outcome, took)) = asked.next().await else {
                match filling.walk.ended() {
                    Some(ended) => break ended,
                    // What could not be asked for is given up in the course of a few rounds.
                    None => continue,
                }
            };
            filling.came(&next, outcome, took, &mut tell);
            filling.look_up(&mut tell).await;
        };
        let mut filled = filling.filled;
        (filled.timeline, filled.fetched) = filling.walk.found();
        filled.requests = filling.walk.requests();
        filled.missing = filling.walk.given_up().cloned().collect();
        filled.ended = ended;
        Ok(filled)
    }
}

/// A fill under way.
struct Filling<'a> {
    matrix: &'a Matrix,
    fill: &'a Fill,
    checks: Checks,
    walk: Walk,
    filled: Filled,
    /// What came when the version was learnt and was not reached yet: whose bytes they are, and who gave them.
    chain: HashMap<OwnedEventId, (Bytes, Proof, Option<OwnedServerName>)>,
}

impl Filling<'_> {
    /// Without the room's version nothing can be verified, and any fetch would begin by asking for it. What entitles an
    /// event proves it, and is missing as like as not: it is asked for here, where it is not lost.
    async fn learn_version(&mut self, first: &OwnedEventId) -> Result<(), KeyError> {
        let first = Key::event(self.fill.room.clone(), first.clone())?;
        let limits = self.fill.limits;
        for key in proofs_of_version(&first) {
            if self.filled.version.is_some() || self.walk.requests() >= limits.requests_max.into() {
                break;
            }
            self.walk.spent();
            let opts = self.fill.opts.clone().checks(self.checks);
            let outcome = match self.matrix.fetch(key, opts).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    // It may be proved by what comes.
                    self.filled.attempts += error.attempts.len() as u64;
                    continue;
                }
            };
            self.noted(&outcome);
            let events = outcome.events.iter().filter(|_| limits.auth);
            for (id, event) in events.filter_map(|event| Some((event.event_id.clone()?, event))) {
                // Not a slice, which would keep the whole answer.
                let raw = Bytes::copy_from_slice(&outcome.raw(event));
                let kept = (raw, event.proof, outcome.server.clone());
                self.chain.insert(id, kept);
            }
        }
        Ok(())
    }

    /// Goes through whatever the store has. Before the room's version is known it is of no use.
    async fn look_up(&mut self, tell: &mut (impl FnMut(News<'_>) + Send)) {
        let Some(version) = self.filled.version.clone() else {
            return;
        };
        loop {
            let ids = self.walk.to_look_up();
            if ids.is_empty() {
                return;
            }
            for id in ids {
                if let Some((raw, proof, server)) = self.chain.remove(&id) {
                    let Some(timeline) = self.walk.brought(&links(&id, &raw)) else {
                        continue;
                    };
                    if let Some(server) = &server {
                        *self.filled.by_server.entry(server.clone()).or_default() += 1;
                    }
                    tell(News::Recovered(Recovered {
                        event_id: id,
                        raw,
                        proof,
                        server,
                        timeline,
                        version: Some(version.clone()),
                    }));
                    continue;
                }
                let kept = self
                    .matrix
                    .inner
                    .store
                    .get(&self.fill.room, &id, self.checks, &version);
                let Some(kept) = kept.await else { continue };
                if let Some(timeline) = self.walk.held(&links(&id, &kept.raw)) {
                    self.filled.held += 1;
                    tell(News::Recovered(Recovered {
                        event_id: id,
                        raw: kept.raw,
                        proof: kept.proof,
                        server: None,
                        timeline,
                        version: Some(kept.version),
                    }));
                }
            }
        }
    }

    /// What a request is to the fetcher.
    fn ask(&self, next: &Next) -> Result<(Key, Opts), KeyError> {
        let room = self.fill.room.clone();
        let key = match &next.ask {
            Ask::Missing {
                latest,
                earliest,
                limit,
            } => Key::missing_events(room, earliest.clone(), latest.clone(), *limit, 0),
            Ask::Backfill { from, limit } => Key::backfill(room, from.clone(), *limit),
            Ask::AuthChain(event) => Key::auth_chain(room, event.clone()),
            Ask::Event(event) => Key::event(room, event.clone()),
        }?;
        let mut opts = self.fill.opts.clone().checks(self.checks);
        opts.version = opts.version.or_else(|| self.filled.version.clone());
        let denied = opts.deny.iter().flat_map(|deny| deny.iter().cloned());
        let denied: Vec<_> = denied.chain(next.not_of.iter().cloned()).collect();
        Ok((key, opts.deny(denied)))
    }

    fn came(
        &mut self,
        next: &Next,
        outcome: Result<Outcome, FetchError>,
        took: Duration,
        tell: &mut (impl FnMut(News<'_>) + Send),
    ) {
        match outcome {
            Ok(outcome) => self.answered((next.id, &next.ask), &outcome, took, tell),
            Err(error) => {
                self.filled.attempts += error.attempts.len() as u64;
                let had_not = [
                    How::Missing,
                    How::Forbidden,
                    How::Empty,
                    How::Bad,
                    How::Unproven,
                ];
                let tried = error.attempts.iter().filter(|a| had_not.contains(&a.how));
                let tried: Vec<_> = tried.map(|attempt| attempt.server.clone()).collect();
                self.walk.failed(next.id, &tried);
                tell(News::Failed {
                    ask: &next.ask,
                    error: &error,
                });
            }
        }
    }

    /// What an outcome says of the whole.
    fn noted(&mut self, outcome: &Outcome) {
        self.filled.attempts += outcome.attempts.len() as u64;
        let room = BAD_MAX.saturating_sub(self.filled.bad.len());
        self.filled
            .bad
            .extend(outcome.bad.iter().take(room).cloned());
        if self.filled.version.is_none() {
            self.filled.version.clone_from(&outcome.version);
        }
    }

    fn answered(
        &mut self,
        (id, ask): (AskId, &Ask),
        outcome: &Outcome,
        took: Duration,
        tell: &mut (impl FnMut(News<'_>) + Send),
    ) {
        self.noted(outcome);
        let named = outcome
            .events
            .iter()
            .filter_map(|event| Some((event.event_id.clone()?, event)));
        let events: BTreeMap<_, _> = named.collect();
        let led: Vec<Links> = events
            .iter()
            .map(|(id, event)| links(id, &outcome.raw(event)))
            .collect();
        // The store answers single events, and is nobody who could be asked for less.
        let server = outcome.server.clone();
        let taken = self.walk.answered(id, server.as_ref(), &led);
        if let Some(server) = &server {
            *self.filled.by_server.entry(server.clone()).or_default() += taken.found.len() as u64;
        }
        for (event_id, timeline) in &taken.found {
            let Some(event) = events.get(event_id) else {
                continue;
            };
            tell(News::Recovered(Recovered {
                event_id: event_id.clone(),
                // Not a slice, which would keep the whole answer.
                raw: Bytes::copy_from_slice(&outcome.raw(event)),
                proof: event.proof,
                server: server.clone(),
                timeline: *timeline,
                version: outcome.version.clone(),
            }));
        }
        tell(News::Answered {
            ask,
            attempts: &outcome.attempts,
            found: taken.found.len(),
            took,
        });
    }
}
