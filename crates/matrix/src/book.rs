//! [`Book`]: what is known of the fetches under way, beside what the engine knows: who asks and under
//! which terms, and what became of each request.
//!
//! An entry is there as long as a caller of its key is. The engine's ids find the rest: a caller is a
//! [`WaiterId`], its fetch a [`FetchId`].

use crate::{Checks, Key, OnBad, Op, Opts, judge::Judged, roster::Server};
use gannet::{
    ErrorKind, Tried,
    engine::{Fault, FetchId, HowEnded, Plan, WaiterId},
};
use ruma_common::{OwnedServerName, RoomVersionId};
use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// What one fetch of the engine is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FetchKey {
    pub(crate) key: Key,
    /// The room's version by which answers are checked. Whoever errs in it harms nobody else.
    pub(crate) version: Option<RoomVersionId>,
    /// 0 for whoever can share; other callers by their terms.
    pub(crate) lane: u64,
}

/// What a caller demands of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Demand {
    pub(crate) checks: Checks,
    pub(crate) on_bad: OnBad,
    pub(crate) accept_empty: bool,
}

impl Demand {
    pub(crate) fn of(op: Op, opts: &Opts) -> Self {
        Self {
            checks: opts.checks.unwrap_or_else(|| Checks::advised(op)),
            on_bad: opts.on_bad,
            accept_empty: opts.accept_empty,
        }
    }

    /// Whatever either demands.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            checks: self.checks.and(other.checks),
            on_bad: self.on_bad.max(other.on_bad),
            accept_empty: self.accept_empty && other.accept_empty,
        }
    }
}

/// How a request to a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum How {
    /// With the answer that was taken.
    Answered,
    /// With the answer that was taken, some events of which were bad.
    Salvaged,
    /// The server does not have it.
    Missing,
    /// The server does not let us see it.
    Forbidden,
    /// The server asks us to wait.
    Busy,
    /// The server failed, could not be reached, or what it sent is no answer.
    Failed,
    /// The server was too slow.
    TimedOut,
    /// The answer is wrong: garbage, something else, or forged.
    Bad,
    /// The answer could not be checked: keys are missing, or it is of a form that nobody can verify.
    Unproven,
    /// The answer is right, but its content was cut, and it was wanted whole.
    Cut,
    /// The answer has no events.
    Empty,
    /// Another answer was faster, or nobody wanted it any more.
    Dropped,
}

impl How {
    /// What people and programs read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Salvaged => "salvaged",
            Self::Missing => "missing",
            Self::Forbidden => "forbidden",
            Self::Busy => "busy",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Bad => "bad",
            Self::Unproven => "unproven",
            Self::Cut => "cut",
            Self::Empty => "empty",
            Self::Dropped => "dropped",
        }
    }
}

/// One request, for the caller's eyes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// Who was asked.
    pub server: OwnedServerName,
    /// For what: where a room's version had to be learnt first, not for what the caller wants.
    pub op: Op,
    /// How it ended.
    pub how: How,
    /// From the request to its end.
    pub took: Duration,
    /// What there is to say about it, in words; may be empty.
    pub detail: Cow<'static, str>,
}

/// One request. What comes with its answer, as far as the engine is concerned.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) server: Arc<Server>,
    op: Op,
    pub(crate) fetch: FetchId,
    pub(crate) began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    end: Option<(How, Duration, Cow<'static, str>)>,
    judged: Option<Arc<Judged>>,
    counted: bool,
}

impl Record {
    /// It ended; of several ends the last counts, for an answer that came whole may yet be judged.
    pub(crate) fn end(&self, how: How, detail: impl Into<Cow<'static, str>>) {
        let mut state = self.lock();
        let took = match &state.end {
            Some((_, took, _)) => *took,
            None => self.began.elapsed(),
        };
        state.end = Some((how, took, detail.into()));
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Whether it is to be counted now: once, however often its answer is looked at.
    pub(crate) fn count(&self) -> bool {
        !std::mem::replace(&mut self.lock().counted, true)
    }

    /// What was found in its answer; the strictest look at it.
    pub(crate) fn judged(&self) -> Option<Arc<Judged>> {
        self.lock().judged.clone()
    }

    pub(crate) fn set_judged(&self, judged: Arc<Judged>) {
        self.lock().judged = Some(judged);
    }

    fn shown(&self) -> Attempt {
        let end = self.lock().end.clone();
        let (how, took, detail) =
            end.unwrap_or_else(|| (How::Dropped, self.began.elapsed(), Cow::Borrowed("")));
        Attempt {
            server: self.server.name.clone(),
            op: self.op,
            how,
            took,
            detail,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) waiter: WaiterId,
    /// Whom to ask, best first.
    pub(crate) servers: Arc<[Arc<Server>]>,
    pub(crate) demand: Demand,
    pub(crate) plan: Arc<Plan>,
}

#[derive(Debug, Default)]
struct Entry {
    callers: Vec<Caller>,
    /// Requests, oldest first.
    log: VecDeque<Arc<Record>>,
    /// What all callers so far demanded together.
    strongest: Option<Demand>,
}

/// The fetches under way.
#[derive(Debug)]
pub(crate) struct Book {
    entries: Mutex<HashMap<FetchKey, Entry>>,
    /// Requests remembered of one key.
    log_max: usize,
}

/// A caller's name in the book; out of it when this is dropped.
#[derive(Debug)]
pub(crate) struct Signed {
    book: Arc<Book>,
    key: FetchKey,
    waiter: WaiterId,
    since: Instant,
}

impl Book {
    pub(crate) fn new(log_max: usize) -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::default(),
            log_max: log_max.max(1),
        })
    }

    /// Takes a caller in, before it asks the engine.
    pub(crate) fn sign(self: &Arc<Self>, key: FetchKey, caller: Caller) -> Signed {
        let waiter = caller.waiter;
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_default();
        let strongest = entry
            .strongest
            .map_or(caller.demand, |all| all.and(caller.demand));
        entry.strongest = Some(strongest);
        entry.callers.push(caller);
        drop(entries);
        Signed {
            book: Arc::clone(self),
            key,
            waiter,
            since: Instant::now(),
        }
    }

    /// The servers that the caller who came last would ask: it is the one that has opened the fetch, or
    /// joined it, and then this is asked no more.
    pub(crate) fn servers(&self, key: &FetchKey) -> Option<Arc<[Arc<Server>]>> {
        let entries = self.lock();
        let caller = entries.get(key)?.callers.last()?;
        Some(Arc::clone(&caller.servers))
    }

    /// A plan that a request of this key is made under.
    pub(crate) fn plan(&self, key: &FetchKey) -> Option<Arc<Plan>> {
        let entries = self.lock();
        let caller = entries.get(key)?.callers.first()?;
        Some(Arc::clone(&caller.plan))
    }

    /// What these callers demand together; of those that have gone, nothing is known.
    pub(crate) fn demand(&self, key: &FetchKey, waiters: &[WaiterId]) -> Option<Demand> {
        let entries = self.lock();
        (entries.get(key)?.callers.iter())
            .filter(|caller| waiters.contains(&caller.waiter))
            .map(|caller| caller.demand)
            .reduce(Demand::and)
    }

    /// A request begins.
    pub(crate) fn begin(&self, key: &FetchKey, server: Arc<Server>, fetch: FetchId) -> Arc<Record> {
        let record = Arc::new(Record {
            server,
            op: key.key.op(),
            fetch,
            began: Instant::now(),
            state: Mutex::default(),
        });
        if let Some(entry) = self.lock().get_mut(key) {
            if entry.log.len() >= self.log_max {
                entry.log.pop_front();
            }
            entry.log.push_back(Arc::clone(&record));
        }
        record
    }

    /// How many keys are asked for.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FetchKey, Entry>> {
        // Nothing in here panics half-way.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signed {
    /// The requests of a fetch so far, in their order.
    pub(crate) fn attempts(&self, fetch: FetchId) -> Vec<Attempt> {
        let entries = self.book.lock();
        let log = entries.get(&self.key).map(|entry| entry.log.iter());
        (log.into_iter().flatten())
            .filter(|record| record.fetch == fetch)
            .map(|record| record.shown())
            .collect()
    }

    /// The requests of the last fetch, which failed after it had tried these. Of one that goes on without this
    /// caller, whose patience was over, the engine names none.
    pub(crate) fn failed(&self, kind: ErrorKind, tried: &[Tried]) -> Vec<Attempt> {
        let entries = self.book.lock();
        let log = entries.get(&self.key).map(|entry| &entry.log);
        let Some((log, last)) = log.and_then(|log| Some((log, log.back()?))) else {
            return Vec::new();
        };
        let last = last.fetch;
        // It was this caller's, if it did anything while that was there.
        let own = |record: &Arc<Record>| record.began >= self.since || !record.has_ended();
        let of_last = || log.iter().filter(|record| record.fetch == last);
        let ours = !tried.is_empty() || (kind == ErrorKind::Expired && of_last().any(own));
        (of_last().filter(|_| ours))
            .map(|record| {
                let mut shown = record.shown();
                // The engine knows before the task that it stops has seen it.
                let late = HowEnded::Failed(Fault::TimedOut);
                let of = |tried: &&Tried| tried.source == record.server.source;
                if shown.how == How::Dropped
                    && let Some(tried) = tried.iter().rev().find(of)
                    && tried.how == late
                {
                    shown.how = How::TimedOut;
                    shown.detail = "not answered, or not whole, in time".into();
                }
                shown
            })
            .collect()
    }

    /// Whether others demanded more than this caller, who may have got nothing for it.
    pub(crate) fn outdone(&self, own: Demand) -> bool {
        let entries = self.book.lock();
        let strongest = entries.get(&self.key).and_then(|entry| entry.strongest);
        strongest.is_some_and(|strongest| strongest != own)
    }
}

impl Drop for Signed {
    fn drop(&mut self) {
        let mut entries = self.book.lock();
        if let Some(entry) = entries.get_mut(&self.key) {
            entry.callers.retain(|caller| caller.waiter != self.waiter);
            if entry.callers.is_empty() {
                entries.remove(&self.key);
            }
        }
    }
}
