//! One caller's way to its outcome: the store, the room's version, the engine; and the engine again,
//! where a fetch that was shared with others was not what this caller wanted.
//!
//! Callers of one key share a fetch though they may differ in whom they would ask and what they demand.
//! Whoever does not get from it what is due goes on by itself: under terms of its own, if others
//! demanded more or the answer came from whom it denies; with the rest of its servers, if others were
//! asked.

use crate::{
    FetchError, FetchErrorKind, Key, Op, Opts, Outcome,
    book::{Attempt, Caller, Demand, FetchKey, How, Record, Signed},
    fetcher::Inner,
    judge::wrapped,
    roster::{Change, Server},
    select::{Grounds, rank},
};
use gannet::{
    ErrorKind, Fetched,
    engine::{GroupId, Plan},
};
use ruma_common::{RoomVersionId, ServerName};
use std::{
    collections::HashSet,
    hash::BuildHasher,
    num::NonZeroU32,
    sync::{Arc, PoisonError},
};
use tokio::time::{Instant, timeout_at};

/// How often one caller's want is put to the engine at most.
const ASKS_MAX: u32 = 4;

/// What one caller wants.
#[derive(Clone)]
struct Want<'a> {
    key: &'a Key,
    opts: &'a Opts,
    demand: Demand,
    version: Option<RoomVersionId>,
    deadline: Instant,
}

/// How far it has come with it.
struct Asking {
    plan: Plan,
    /// Requests that it may yet make.
    allowed: u64,
    servers: Vec<Arc<Server>>,
    lane: u64,
    past: Vec<Attempt>,
}

impl Inner {
    /// What a key names.
    pub(crate) async fn fetch(
        &self,
        key: &Key,
        opts: &Opts,
        began: Instant,
    ) -> Result<Outcome, FetchError> {
        let demand = Demand::of(key.op(), opts);
        let deadline = began + self.ceilings.patience(opts);
        // Nor is the store waited for beyond the caller's patience.
        let stored = timeout_at(deadline, self.stored(key, opts, demand)).await;
        if let Ok(Some(stored)) = stored {
            return Ok(stored);
        }
        let mut want = Want {
            key,
            opts,
            demand,
            version: None,
            deadline,
        };
        let mut attempts = Vec::new();
        if key.op().carries_events() {
            (want.version, attempts) = self.version(&want).await;
        }
        let mut result = self.ask(&want).await;
        let made = match &mut result {
            Ok(outcome) => &mut outcome.attempts,
            Err(error) => &mut error.attempts,
        };
        attempts.append(made);
        *made = attempts;
        result
    }

    /// The event, if it is kept, as well proved as is demanded.
    async fn stored(&self, key: &Key, opts: &Opts, demand: Demand) -> Option<Outcome> {
        let event = key.event_id()?;
        if opts.fresh || !matches!(key.op(), Op::Event | Op::AuthEvent) {
            return None;
        }
        let version = opts.version.as_ref();
        let kept = self.store.get(key.room(), event, demand.checks, version);
        let kept = kept.await?;
        let (bytes, event) = wrapped(&kept.raw, event.to_owned(), kept.proof);
        Some(Outcome {
            bytes,
            server: None,
            events: [event].into(),
            bad: [].into(),
            version: Some(kept.version),
            attempts: Vec::new(),
        })
    }

    /// The room's version by which an answer is to be checked, and the requests that it took to learn
    /// it. `None` where it cannot be had: the answer may prove it by itself, and if not, nothing is proved.
    async fn version(&self, want: &Want<'_>) -> (Option<RoomVersionId>, Vec<Attempt>) {
        let (room, none) = (want.key.room(), Vec::new());
        let known = want.opts.version.clone();
        if let Some(version) = known.or_else(|| self.versions.of(room)) {
            return (Some(version), none);
        }
        let stored = timeout_at(want.deadline, self.store.version(room)).await;
        if let Ok(Some(version)) = stored {
            self.versions.learn(room, &version);
            return (Some(version), none);
        }
        // What authorizes any event of a room goes back to the event that created it: a chain proves the
        // version by itself.
        let ask = want.demand.checks.any() && want.key.op() != Op::AuthChain;
        let (Some(event), true) = (want.key.event_ids().next(), ask) else {
            return (None, none);
        };
        let Ok(chain) = Key::auth_chain(room.to_owned(), event.to_owned()) else {
            return (None, none);
        };
        let opts = Opts {
            checks: None,
            on_bad: crate::OnBad::Salvage,
            accept_empty: false,
            fanout: None,
            ..want.opts.clone()
        };
        let ask = Want {
            key: &chain,
            demand: Demand::of(Op::AuthChain, &opts),
            opts: &opts,
            version: None,
            deadline: want.deadline,
        };
        match self.ask(&ask).await {
            Ok(outcome) => (outcome.version, outcome.attempts),
            Err(error) => (None, error.attempts),
        }
    }

    /// Puts a want to the engine, and if need be again.
    async fn ask(&self, want: &Want<'_>) -> Result<Outcome, FetchError> {
        let plan = self.ceilings.plan(want.key, want.opts, self.store.stores());
        let mut asking = Asking {
            allowed: self.ceilings.requests(&plan),
            plan,
            servers: self.servers(want),
            lane: 0,
            past: Vec::new(),
        };
        for ask in 1..=ASKS_MAX {
            if asking.servers.is_empty() {
                let kind = match asking.past.is_empty() {
                    true => ErrorKind::NoCandidates,
                    false => ErrorKind::Exhausted,
                };
                return Err(FetchError::of(kind, asking.past));
            }
            let (signed, end) = self.put(want, &asking).await;
            let error = match end {
                Ok(fetched) => {
                    let record = fetched.meta;
                    let mut attempts = signed.attempts(record.fetch);
                    asking.past.append(&mut attempts);
                    if let Some(outcome) = self.taken(want, &record).await {
                        let attempts = asking.past;
                        return Ok(Outcome {
                            attempts,
                            ..outcome
                        });
                    }
                    // Good for others, not for this one.
                    if asking.lane != 0 {
                        return Err(FetchError::of(ErrorKind::Exhausted, asking.past));
                    }
                    asking.lane = self.lane(want);
                    continue;
                }
                Err(error) => error,
            };
            let mut attempts = signed.failed(error.kind, &error.tried);
            let rejected = attempts.iter().any(|attempt| {
                use How::{Bad, Cut, Empty, Unproven};
                matches!(attempt.how, Bad | Cut | Empty | Unproven)
            });
            // In all its cycles: the engine names those of the last.
            let asked: HashSet<_> = attempts.iter().map(|a| a.server.clone()).collect();
            let made = attempts.len().max(error.tried.len()) as u64;
            asking.past.append(&mut attempts);
            let vain = matches!(error.kind, ErrorKind::Exhausted | ErrorKind::NoCandidates);
            if !vain || ask == ASKS_MAX || Instant::now() >= want.deadline {
                return Err(FetchError::of(error.kind, asking.past));
            }
            if asking.lane == 0 && rejected && signed.outdone(want.demand) {
                asking.lane = self.lane(want);
                continue;
            }
            // Where others had opened the fetch, they have not asked all whom this one would ask.
            let tried = |server: &Arc<Server>| {
                let mut tried = error.tried.iter();
                tried.any(|tried| tried.source == server.source) || asked.contains(&server.name)
            };
            asking.servers.retain(|server| !tried(server));
            asking.allowed = asking.allowed.saturating_sub(made);
            let left = u32::try_from(asking.allowed).unwrap_or(u32::MAX);
            let Some(left) = NonZeroU32::new(left).filter(|_| !error.tried.is_empty()) else {
                return Err(FetchError::of(error.kind, asking.past));
            };
            asking.plan.attempts_max = Some(left);
        }
        Err(FetchError::new(FetchErrorKind::Exhausted, asking.past))
    }

    /// Puts a want to the engine once.
    async fn put(
        &self,
        want: &Want<'_>,
        asking: &Asking,
    ) -> (Signed, Result<Fetched<Arc<Record>>, gannet::FetchError>) {
        let key = FetchKey {
            key: want.key.clone(),
            version: want.version.clone(),
            lane: asking.lane,
        };
        let plan = Arc::new(asking.plan.clone());
        let fetch = (self.fetcher.fetch(key.clone()))
            .plan(Arc::clone(&plan))
            .priority(want.opts.priority.unwrap_or(10))
            .owner(want.opts.owner)
            .deadline(want.deadline);
        let caller = Caller {
            waiter: fetch.waiter(),
            servers: asking.servers.as_slice().into(),
            demand: want.demand,
            plan,
        };
        let signed = self.book.sign(key, caller);
        let end = fetch.await;
        (signed, end)
    }

    /// The servers that a caller would ask, best first; the engine knows them afterwards.
    fn servers(&self, want: &Want<'_>) -> Vec<Arc<Server>> {
        let seed = {
            let random = self.random.lock();
            random.unwrap_or_else(PoisonError::into_inner).next()
        };
        let grounds = Grounds {
            me: &self.me,
            denied: &self.denied,
            memo: &self.memo,
            max: self.ceilings.candidates_max as usize,
            seed,
        };
        let names = rank(want.key, want.opts, &grounds);
        self.roster.enlist(names, |change| match change {
            Change::Came(source) => self.fetcher.add_source(source, GroupId(source.0)),
            Change::Went(source) => self.fetcher.remove_source(source),
        })
    }

    /// What there is to hand out of an answer that was taken, if this caller may have it.
    async fn taken(&self, want: &Want<'_>, record: &Record) -> Option<Outcome> {
        let judged = record.judged()?;
        let server = &record.server.name;
        if !may_answer(want.opts, server) || !judged.will_do_for(want.demand) {
            return None;
        }
        if want.version.is_none()
            && let Some(version) = &judged.version
            && self.versions.learn(want.key.room(), version)
        {
            let put = self.store.put_version(want.key.room(), version);
            let _ = timeout_at(want.deadline, put).await;
        }
        Some(Outcome {
            bytes: judged.bytes.clone(),
            server: Some(server.clone()),
            events: Arc::clone(&judged.events),
            bad: Arc::clone(&judged.bad),
            version: judged.version.clone(),
            attempts: Vec::new(),
        })
    }

    /// Where only those meet who have these terms.
    fn lane(&self, want: &Want<'_>) -> u64 {
        let terms = (want.demand, &want.opts.deny, &want.opts.pool);
        self.hasher.hash_one(terms).max(1)
    }
}

/// Whether a caller takes the word of this server, whoever asked it.
fn may_answer(opts: &Opts, server: &ServerName) -> bool {
    let named = |list: &Arc<[_]>| list.iter().any(|name| name == server);
    !opts.deny.as_ref().is_some_and(named) && opts.pool.as_ref().is_none_or(named)
}
