//! One caller's way to its outcome: the store, the room's version, the engine; and the engine again,
//! where a fetch that was shared with others was not what this caller wanted.
//!
//! Callers of one key share a fetch though they may differ in whom they would ask and what they demand.
//! Whoever does not get from it what is due goes on by itself: under terms of its own, if others
//! demanded more, or had events left out, or the answer came from whom it denies; with the rest of its
//! servers, if others were asked.

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
use ruma_common::{EventId, RoomId, RoomVersionId, ServerName};
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
        let known = match key.op().carries_events() {
            true => in_time(deadline, self.known_version(key.room(), opts)).await,
            false => None,
        };
        let stored = in_time(deadline, self.stored(key, opts, demand, known.as_ref()));
        if let Some(stored) = stored.await {
            return Ok(stored);
        }
        let mut want = Want {
            key,
            opts,
            demand,
            version: known,
            deadline,
        };
        let mut attempts = Vec::new();
        if want.version.is_none() && key.op().carries_events() {
            (want.version, attempts) = self.asked_version(&want).await;
            let version = want.version.as_ref();
            let stored = self.stored(key, opts, demand, version);
            if let Some(stored) = in_time(deadline, stored).await {
                return Ok(Outcome { attempts, ..stored });
            }
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

    /// The event, if it is kept, as well proved as is demanded, and by the rules of its room's version:
    /// before that is known, nothing that is kept is of use.
    async fn stored(
        &self,
        key: &Key,
        opts: &Opts,
        demand: Demand,
        version: Option<&RoomVersionId>,
    ) -> Option<Outcome> {
        let event = key.event_id()?;
        if opts.fresh || !matches!(key.op(), Op::Event | Op::AuthEvent) {
            return None;
        }
        let kept = self.store.get(key.room(), event, demand.checks, version?);
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

    /// The room's version, as far as the caller says it or it was proved before.
    pub(crate) async fn known_version(&self, room: &RoomId, opts: &Opts) -> Option<RoomVersionId> {
        let known = opts.version.clone();
        if let Some(version) = known.or_else(|| self.versions.of(room)) {
            return Some(version);
        }
        let version = self.store.version(room).await?;
        self.versions.learn(room, &version);
        Some(version)
    }

    /// The room's version, asked of its servers, and the requests that that took. `None` where it cannot
    /// be had: the answer may prove it by itself, and if not, nothing is proved.
    async fn asked_version(&self, want: &Want<'_>) -> (Option<RoomVersionId>, Vec<Attempt>) {
        let mut attempts = Vec::new();
        let keys = proofs_of_version(want.key);
        for key in keys.into_iter().filter(|_| want.demand.checks.any()) {
            let (version, mut made) = self.ask_version(want, &key).await;
            attempts.append(&mut made);
            if version.is_some() {
                return (version, attempts);
            }
        }
        (None, attempts)
    }

    /// The room's version, from an answer that proves it.
    async fn ask_version(
        &self,
        want: &Want<'_>,
        key: &Key,
    ) -> (Option<RoomVersionId>, Vec<Attempt>) {
        let opts = Opts {
            checks: None,
            on_bad: crate::OnBad::Salvage,
            accept_empty: false,
            fanout: None,
            ..want.opts.clone()
        };
        let ask = Want {
            key,
            demand: Demand::of(key.op(), &opts),
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
            let none_of_its_own = attempts.is_empty();
            asking.past.append(&mut attempts);
            let vain = matches!(error.kind, ErrorKind::Exhausted | ErrorKind::NoCandidates);
            if !vain || ask == ASKS_MAX || Instant::now() >= want.deadline {
                return Err(FetchError::of(error.kind, asking.past));
            }
            // All of it was before this caller came, to a fetch whose answer was being stored for others.
            let of_others = none_of_its_own && !error.tried.is_empty();
            if asking.lane == 0 && (of_others || rejected && signed.outdone(want.demand)) {
                asking.lane = self.lane(want);
                continue;
            }
            // Where others had opened the fetch, they have not asked all whom this one would ask; nor anybody,
            // where it waited for its turn until they were gone, and their servers with them.
            let tried = |server: &Arc<Server>| {
                let mut tried = error.tried.iter();
                tried.any(|tried| tried.source == server.source) || asked.contains(&server.name)
            };
            let goes_on = !error.tried.is_empty() || error.kind == ErrorKind::NoCandidates;
            asking.servers.retain(|server| !tried(server));
            asking.allowed = asking.allowed.saturating_sub(made);
            let left = u32::try_from(asking.allowed).unwrap_or(u32::MAX);
            let Some(left) = NonZeroU32::new(left).filter(|_| goes_on) else {
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
        // What others would not have was left out, and this one might have had it.
        if !judged.bad.is_empty() && judged.demand.checks != want.demand.checks {
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

/// What there is to ask for, best first, that proves the version of a key's room; beside the answer to
/// the key itself, which may do so.
///
/// The id of a room that names no server is that of the event which created it (version 12): that is one
/// event, and it need not be in any auth chain there. In rooms of other versions what authorizes any
/// event goes back to the event that created the room.
pub(crate) fn proofs_of_version(key: &Key) -> Vec<Key> {
    let (room, op) = (key.room(), key.op());
    let mut keys = Vec::new();
    if room.server_name().is_none()
        && let Some(hash) = room.as_str().strip_prefix('!')
        && let Ok(created) = EventId::parse(format!("${hash}"))
    {
        if matches!(op, Op::Event | Op::AuthEvent) && key.event_id() == Some(&*created) {
            return keys;
        }
        keys.extend(Key::event(room.to_owned(), created).ok());
    }
    if op != Op::AuthChain
        && let Some(event) = key.event_ids().next()
    {
        keys.extend(Key::auth_chain(room.to_owned(), event.to_owned()).ok());
    }
    keys
}

/// What a store answers, which is not waited for beyond a caller's patience.
async fn in_time<T>(deadline: Instant, answer: impl Future<Output = Option<T>>) -> Option<T> {
    timeout_at(deadline, answer).await.ok().flatten()
}

/// Whether a caller takes the word of this server, whoever asked it.
fn may_answer(opts: &Opts, server: &ServerName) -> bool {
    let named = |list: &Arc<[_]>| list.iter().any(|name| name == server);
    !opts.deny.as_ref().is_some_and(named) && opts.pool.as_ref().is_none_or(named)
}
