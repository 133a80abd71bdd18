//! What all parts of a run share: the world, its trace, and the account that the oracle keeps.

use crate::{
    answers::{Answer, Asked},
    rooms::rooms,
    world::{Mood, Terms, World},
};
use gannet_engine::Time;
use gannet_matrix::{Key, Op};
use gannet_sim::{subject::Coverage, trace::Trace};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::Instant;

/// What a server did with a request, as it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    /// Nothing yet.
    Open,
    /// The asker went.
    Dropped,
    Missing,
    Forbidden,
    Busy,
    Failed,
    /// An answer, to its last byte.
    Delivered,
}

/// A request on the wire.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) server: String,
    pub(crate) wire: String,
    pub(crate) asked: Asked,
    pub(crate) mood: Mood,
    pub(crate) began: u64,
    pub(crate) ended: Option<u64>,
    pub(crate) did: Did,
    pub(crate) answer: Option<Answer>,
}

/// Somebody who wants something.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) op: Option<Op>,
    pub(crate) room: usize,
    pub(crate) key: Option<Key>,
    pub(crate) asked: Option<Asked>,
    /// What it may have asked on the wire; none for whoever fills.
    pub(crate) wires: Vec<String>,
    /// Its terms, and a number by which they are told from others.
    pub(crate) terms: Terms,
    pub(crate) group: usize,
    pub(crate) candidates: BTreeSet<String>,
    /// Whom it may ask for the version of the room.
    pub(crate) lookups: BTreeSet<String>,
    pub(crate) began: u64,
    pub(crate) ended: Option<u64>,
    /// Nobody else wanted the same meanwhile; or only on the same terms.
    pub(crate) alone: bool,
    pub(crate) alike: bool,
}

impl Caller {
    pub(crate) fn wants(&self, wire: &str, room: usize) -> bool {
        match self.op {
            None => self.room == room,
            Some(_) => self.wires.iter().any(|own| own == wire),
        }
    }

    /// Whether it may ask this server for that.
    pub(crate) fn may_ask(&self, server: &str, wire: &str) -> bool {
        let own = self.wires.first().is_none_or(|own| own == wire);
        let looked_up = self.wires.get(1).is_some_and(|own| own == wire);
        (own && self.candidates.contains(server)) || (looked_up && self.lookups.contains(server))
    }
}

/// An answer that was handed out: to whom, when, and where its bytes are.
pub(crate) type Handed = (String, usize, u64, String, usize);

/// A run.
#[derive(Debug)]
pub(crate) struct Sim {
    pub(crate) world: World,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    pub(crate) failures: Vec<String>,
    pub(crate) steps: u64,
    pub(crate) requests: Vec<Request>,
    pub(crate) callers: Vec<Caller>,
    /// When each server asked to be left alone, and until when.
    pub(crate) busy: BTreeMap<String, (u64, u64)>,
    pub(crate) handed: Vec<Handed>,
    /// Faults are over.
    pub(crate) calm: bool,
    /// When it was shut down.
    pub(crate) shut: Option<u64>,
    pub(crate) per_server_max: usize,
    pub(crate) requests_max: usize,
    pub(crate) width_max: u32,
    pub(crate) attempts_max: u32,
}

impl Sim {
    pub(crate) fn new(world: World, print: bool) -> Self {
        Self {
            world,
            trace: Trace::new(print),
            coverage: Coverage::default(),
            failures: Vec::new(),
            steps: 0,
            requests: Vec::new(),
            callers: Vec::new(),
            busy: BTreeMap::new(),
            handed: Vec::new(),
            calm: false,
            shut: None,
            per_server_max: 8,
            requests_max: 512,
            width_max: 8,
            attempts_max: 32,
        }
    }

    pub(crate) fn note(&mut self, now: u64, mark: &str, what: fmt::Arguments<'_>) {
        self.steps += 1;
        self.trace
            .line(Time::from_nanos(now * 1_000_000), mark, what);
    }

    /// A rule was broken.
    pub(crate) fn fail(&mut self, now: u64, rule: &str, what: fmt::Arguments<'_>) {
        self.note(now, "!!", format_args!("{rule}: {what}"));
        if self.failures.len() < 20 {
            self.failures.push(format!("{rule}: at {now} ms: {what}"));
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.requests
            .iter()
            .filter(|request| request.ended.is_none())
            .count()
    }

    /// Whom this may ask for a key, or, where there is none, for anything.
    pub(crate) fn candidates(
        &self,
        key: Option<&Key>,
        room: usize,
        terms: &Terms,
    ) -> BTreeSet<String> {
        let mut all: Vec<String> = Vec::new();
        match &terms.pool {
            Some(pool) => all.clone_from(pool),
            None => {
                all.extend(terms.hint.clone());
                let auth = key.is_none_or(|key| key.op().is_auth());
                all.extend(terms.authority.clone().filter(|_| auth));
                let members = terms.members.iter().filter(|(_, weight)| *weight > 0);
                all.extend(members.map(|(name, _)| name.clone()));
                all.extend(rooms().all[room].id.server_name().map(ToString::to_string));
                let ids = key.into_iter().flat_map(Key::event_ids);
                all.extend(
                    ids.filter_map(|id| id.server_name())
                        .map(ToString::to_string),
                );
            }
        }
        let denied = |name: &String| {
            name == crate::world::ME
                || self.world.denied.contains(name)
                || terms.deny.contains(name)
        };
        all.into_iter().filter(|name| !denied(name)).collect()
    }
}

/// What the parts of a run hold.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    sim: Arc<Mutex<Sim>>,
    begun: Instant,
}

impl Shared {
    pub(crate) fn new(sim: Arc<Mutex<Sim>>) -> Self {
        let begun = Instant::now();
        Self { sim, begun }
    }

    /// Milliseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Sim, u64) -> R) -> R {
        let now = self.now();
        f(
            &mut self.sim.lock().unwrap_or_else(PoisonError::into_inner),
            now,
        )
    }
}
