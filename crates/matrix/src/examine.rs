//! [`Examiner`]: finds out what an answer is, by [`verify`](crate::verify).
//!
//! The form first; then event by event, in parts, so that what parsing takes of memory is bounded by a
//! part and not by the answer. Signatures need the keys of servers, which are asked for together for each
//! part and waited for within one bound for the whole answer: a server whose keys do not come in time
//! leaves its events unproven, not refused.
//!
//! Work on the processor is done on threads where blocking is allowed, as many at once as the operator
//! says.

use crate::{
    Checks, Direction, Key, Op, Proof, Reason,
    courier::BoxFuture,
    judge::{Exam, Examine, Findings, Found},
    verify::{
        batch::{Answer, Batch, Limits, Parsed, StateIds, TimestampToEvent},
        flaw::{Blame, Flaw},
        keyset::{KeySet, KeysWanted},
        pdu::{Expect, Pdu},
        rules::Rules,
    },
};
use bytes::Bytes;
use ruma_common::{CanonicalJsonValue, EventId, OwnedEventId, RoomId};
use ruma_signatures::Verified;
use std::{
    borrow::Cow, collections::HashSet, num::NonZeroU32, ops::Range, sync::Arc, time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// The most bytes of events that are parsed at once: one event, or as many as fit.
const PART_BYTES_MAX: usize = 1 << 20;
/// The most events that are parsed at once, however small they are.
const PART_EVENTS_MAX: usize = 1024;
/// No event is shorter than its hash and one signature, and what must stand around them. An answer of
/// more events than would fit is none: what is kept of each would be a multiple of it.
const EVENT_BYTES_MIN: usize = 200;
/// Answers up to this size are examined by one thread.
const ONE_THREAD_BYTES_MAX: usize = 64 << 10;
/// What a source of keys may take beyond its time.
const MOMENT: Duration = Duration::from_secs(1);
/// Events of an answer that say they created the room, and are looked at.
const CREATE_EVENTS_MAX: usize = 8;

/// Where the keys of servers come from: what the examiner needs of a key ring.
pub trait KeySource: Send + Sync + 'static {
    /// As many of these keys as can be had within this time, and whatever else is at hand of their
    /// servers. What cannot be had is left out, and that is no error.
    fn keys(&self, wanted: KeysWanted, within: Duration) -> BoxFuture<'_, KeySet>;
}

/// Where the work on the processor is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// On threads where blocking is allowed.
    OnThreads,
    /// In the task that wants it done.
    InTasks,
}

/// Examines answers.
#[derive(Clone)]
pub(crate) struct Examiner {
    keys: Arc<dyn KeySource>,
    work: Work,
    threads: Arc<Semaphore>,
    threads_max: u32,
    keys_timeout: Duration,
}

impl Examiner {
    pub(crate) fn new(
        keys: Arc<dyn KeySource>,
        threads_max: NonZeroU32,
        keys_timeout: Duration,
        work: Work,
    ) -> Self {
        Self {
            keys,
            work,
            threads: Arc::new(Semaphore::new(threads_max.get() as usize)),
            threads_max: threads_max.get(),
            keys_timeout,
        }
    }

    /// Does this on `threads` threads, once they are free.
    async fn work<R: Send + 'static>(
        &self,
        threads: u32,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> R {
        let permits = Arc::clone(&self.threads).acquire_many_owned(threads).await;
        let permits = permits.expect("the semaphore is never closed");
        if self.work == Work::InTasks {
            // Others have their turn meanwhile, as they would if it were done elsewhere.
            tokio::task::yield_now().await;
            let _permits = permits;
            return work();
        }
        let done = tokio::task::spawn_blocking(move || {
            let _permits = permits;
            work()
        });
        match done.await {
            Ok(done) => done,
            // The judge gives no verdict then.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        }
    }

    async fn examined(self, exam: Exam) -> Findings {
        let threads = match exam.bytes.len() {
            0..=ONE_THREAD_BYTES_MAX => 1,
            _ => self.threads_max,
        };
        let exam = Arc::new(exam);
        let (bytes, key) = (exam.bytes.clone(), exam.key.clone());
        let split = self.work(1, move || split(&key, &bytes)).await?;
        let Some(raws) = split else {
            return Ok((Vec::new(), None));
        };
        if !exam.checks.any() {
            let found = raws.iter().map(|raw| Found {
                event_id: None,
                range: place(&exam.bytes, raw),
                end: Ok(Proof::Form),
            });
            return Ok((found.collect(), None));
        }
        let mut known = Known {
            keys: KeySet::new(),
            until: Instant::now() + self.keys_timeout,
        };
        let rules = match &exam.version {
            Some(version) => Rules::of(version),
            None => self.rules(&exam.key, &raws, &mut known).await,
        };
        let rules = match rules {
            Ok(rules) => rules,
            Err(flaw) => {
                let reason = reason(&flaw);
                let found = raws.iter().map(|raw| Found {
                    event_id: None,
                    range: place(&exam.bytes, raw),
                    end: Err(reason.clone()),
                });
                return Ok((found.collect(), None));
            }
        };
        let mut found = Vec::with_capacity(raws.len());
        let mut seen = HashSet::new();
        for part in parts(raws) {
            self.part(
                &exam, rules, part, threads, &mut known, &mut seen, &mut found,
            )
            .await;
        }
        Ok((found, Some(rules.version().clone())))
    }

    /// Examines some events of an answer.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are what goes on from part to part"
    )]
    async fn part(
        &self,
        exam: &Arc<Exam>,
        rules: Rules,
        part: Vec<Bytes>,
        threads: u32,
        known: &mut Known,
        seen: &mut HashSet<OwnedEventId>,
        found: &mut Vec<Found>,
    ) {
        let expect = Expect {
            event: match exam.key.op() {
                Op::Event | Op::AuthEvent if exam.checks.event_id => exam.key.event_id(),
                _ => None,
            }
            .map(ToOwned::to_owned),
            room: Some(exam.key.room().to_owned()),
        };
        let ranges: Vec<_> = part.iter().map(|raw| place(&exam.bytes, raw)).collect();
        let asked = expect.event.clone().zip(part.first().cloned());
        let signatures = exam.checks.signatures;
        let keys = known.keys.clone();
        let (parsed, lacking) = self
            .work(threads, move || {
                let parsed = Batch::of(part).parse(rules, &expect, threads as usize);
                let lacking = match signatures {
                    true => parsed.lacking(&keys),
                    false => KeysWanted::new(),
                };
                (parsed, lacking)
            })
            .await;
        if !lacking.is_empty() {
            self.learn(lacking, known).await;
        }
        let (keys, checks) = (known.keys.clone(), exam.checks);
        let mut ends = self
            .work(threads, move || {
                ends(parsed, &keys, checks, threads as usize)
            })
            .await;
        if let (Some((asked, raw)), [(_, id, Err(reason))]) = (asked, &mut ends[..])
            && reason.forged
            && id.as_ref() != Some(&asked)
        {
            let look = self.work(1, move || by_other_rules(&raw, &asked, rules));
            if let Some(better) = look.await {
                *reason = better;
            }
        }
        ends.sort_unstable_by_key(|(index, ..)| *index);
        for (index, event_id, end) in ends {
            let again = event_id.as_ref().is_some_and(|id| !seen.insert(id.clone()));
            let end = match end {
                // Needless, but nobody is the worse for it.
                Ok(_) if again => Err(Reason {
                    forged: false,
                    why: "it stands in the answer before".into(),
                }),
                end => end,
            };
            found.push(Found {
                event_id,
                range: ranges[index].clone(),
                end,
            });
        }
    }

    /// Gets keys, as far as there is time for that.
    async fn learn(&self, wanted: KeysWanted, known: &mut Known) {
        let left = known.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let servers: Vec<_> = wanted.keys().cloned().collect();
        // Whoever keeps to its time has a moment to hand over what came in it.
        let got = tokio::time::timeout(left + MOMENT, self.keys.keys(wanted, left)).await;
        let Ok(got) = got else { return };
        for server in servers {
            for (id, key) in got.of(&server) {
                known.keys.insert_key(&server, id, key);
            }
        }
    }

    /// The rules of the room, where the answer holds the event that created it, which proves itself: its
    /// content, the version in it included, is signed by its creator's server, which the room's id names;
    /// or the id is its hash.
    async fn rules(&self, key: &Key, raws: &[Bytes], known: &mut Known) -> Result<Rules, Flaw> {
        let (room, raws) = (key.room().to_owned(), raws.to_vec());
        let created = self.work(1, move || created(&room, &raws)).await;
        let mut flaw = Flaw::Shape("nothing proves the version of the room");
        for pdu in created {
            let mut lacking = KeysWanted::new();
            known.keys.lacking(&pdu, &mut lacking);
            if !lacking.is_empty() {
                self.learn(lacking, known).await;
            }
            match pdu.check(&known.keys) {
                Ok(proof) if proof.verified == Verified::All => return Ok(pdu.rules()),
                Ok(_) => {}
                Err(error) => flaw = error,
            }
        }
        Err(flaw)
    }
}

impl Examine for Examiner {
    fn examine(&self, exam: Exam) -> BoxFuture<'static, Findings> {
        Box::pin(self.clone().examined(exam))
    }
}

/// What is known of keys while one answer is examined.
struct Known {
    keys: KeySet,
    /// Until when more may be asked for.
    until: Instant,
}

/// The events of an answer, as slices of it; `None` where it is of an op that brings none, and is of the
/// form that it should have.
fn split(key: &Key, bytes: &Bytes) -> Result<Option<Vec<Bytes>>, Cow<'static, str>> {
    let limits = Limits::default();
    let limits = Limits {
        pdus_max: limits.pdus_max.min(bytes.len() / EVENT_BYTES_MIN + 1),
        ..limits
    };
    let answer = match key.op() {
        Op::Event | Op::AuthEvent => Answer::Event,
        Op::AuthChain => Answer::AuthChain,
        Op::Backfill => Answer::Backfill,
        Op::MissingEvents => Answer::MissingEvents,
        Op::StateIds => {
            let checked = StateIds::check(bytes, None, &limits);
            return checked
                .map(|()| None)
                .map_err(|flaw| flaw.to_string().into());
        }
        Op::TimestampToEvent => {
            let event = TimestampToEvent::parse(bytes, &limits);
            let event = event.map_err(|flaw| Cow::from(flaw.to_string()))?;
            let Some((ts, direction)) = key.timestamp() else {
                return Ok(None);
            };
            // Below 2^53, as the key says.
            let ts = i64::try_from(ts).unwrap_or(i64::MAX);
            let fits = match direction {
                Direction::Forward => event.origin_server_ts >= ts,
                Direction::Backward => event.origin_server_ts <= ts,
            };
            return match fits {
                true => Ok(None),
                false => Err("its event is on the other side of the time".into()),
            };
        }
    };
    let batch = Batch::split(answer, bytes, &limits).map_err(|flaw| flaw.to_string())?;
    Ok(Some(batch.into_pdus()))
}

/// Events in runs that are small enough to be parsed at once.
fn parts(raws: Vec<Bytes>) -> impl Iterator<Item = Vec<Bytes>> {
    let mut raws = raws.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = raws.next()?;
        let mut bytes = first.len();
        let mut part = vec![first];
        while part.len() < PART_EVENTS_MAX
            && let Some(raw) = raws.next_if(|raw| bytes + raw.len() <= PART_BYTES_MAX)
        {
            bytes += raw.len();
            part.push(raw);
        }
        Some(part)
    })
}

/// What was found of each event, with its place in its part.
type End = (usize, Option<OwnedEventId>, Result<Proof, Reason>);

fn ends(parsed: Parsed, keys: &KeySet, checks: Checks, threads: usize) -> Vec<End> {
    if !checks.signatures {
        let bad = parsed.bad().iter().map(|bad| {
            let reason = reason(&bad.flaw);
            (bad.index, bad.id.clone(), Err(reason))
        });
        let good = parsed.pdus().map(|(index, pdu)| {
            let whole = pdu.content_fits() || !checks.content_hash;
            let end = match whole {
                true => Ok(Proof::Form),
                false => Err(cut(pdu).err().unwrap_or_else(unsigned_cut)),
            };
            (index, Some(pdu.event_id().to_owned()), end)
        });
        return bad.chain(good).collect();
    }
    let salvage = parsed.check(keys, threads);
    let bad = salvage.bad.into_iter().map(|bad| {
        let reason = reason(&bad.flaw);
        (bad.index, bad.id, Err(reason))
    });
    let good = salvage.good.into_iter().map(|good| {
        let end = match good.proof.verified {
            Verified::All => Ok(Proof::Whole),
            _ => cut(&good.pdu),
        };
        (good.index, Some(good.pdu.event_id().to_owned()), end)
    });
    bad.chain(good).collect()
}

/// What an event is whose content does not fit its hash: what redaction leaves of one, all of which is
/// signed; or one that somebody has tampered with, for nothing but redaction cuts content.
fn cut(pdu: &Pdu) -> Result<Proof, Reason> {
    let mut object = pdu.object();
    object.remove("unsigned");
    let redacted = pdu.redacted();
    let same = |(key, value): (&String, &CanonicalJsonValue)| redacted.get(key) == Some(value);
    if object.iter().all(same) {
        return Ok(Proof::Redacted);
    }
    Err(Reason {
        forged: true,
        why: "its content does not fit its hash, and is more than redaction leaves".into(),
    })
}

fn unsigned_cut() -> Reason {
    Reason {
        forged: false,
        why: "its content was cut".into(),
    }
}

fn reason(flaw: &Flaw) -> Reason {
    Reason {
        forged: flaw.blame() == Blame::Answerer && !matches!(flaw, Flaw::Shape(_)),
        why: flaw.to_string().into(),
    }
}

/// What is wrong where an event is not the one that was asked for by the rules of the version that the
/// room is said to have, and would be by those of another: not the server has erred then.
///
/// Nobody gets away with a forgery by this. Only an event whose hash is the id that was asked for is the
/// one by any rules.
fn by_other_rules(raw: &[u8], asked: &EventId, said: Rules) -> Option<Reason> {
    let forged = false;
    let version = said.version();
    if !said.is_event_id(asked) {
        let why =
            format!("cannot be verified: no event of a room of version {version} has such an id");
        return Some(Reason {
            forged,
            why: why.into(),
        });
    }
    let is_it =
        |rules: &Rules| !rules.event_says_id() && Pdu::id_of(raw, *rules).as_deref() == Some(asked);
    let others: Vec<_> = Rules::all().filter(is_it).collect();
    let (first, last) = (others.first()?.version(), others.last()?.version());
    let others = match first == last {
        true => format!("version {first}"),
        false => format!("versions {first} to {last}"),
    };
    let why = format!(
        "cannot be verified: it is the event that was asked for by the rules of {others}, and not by \
         those of version {version}, which the room is said to have"
    );
    Some(Reason {
        forged,
        why: why.into(),
    })
}

/// The events that say that they created this room, each read by the rules that it names itself.
fn created(room: &RoomId, raws: &[Bytes]) -> Vec<Pdu> {
    (raws.iter().filter(|raw| contains(raw, b"m.room.create")))
        .filter_map(|raw| {
            let rules = Rules::of_create_event(raw).ok()?;
            Pdu::parse(raw.clone(), rules).ok()
        })
        .filter(|pdu| is_of_room(pdu, room))
        .take(CREATE_EVENTS_MAX)
        .collect()
}

/// Whether an event that says it created a room created this one.
fn is_of_room(pdu: &Pdu, room: &RoomId) -> bool {
    let creator = || room.server_name() == Some(pdu.sender().server_name());
    pdu.room_id() == room
        && pdu.state_key() == Some("")
        && (pdu.rules().room_is_hash() || creator())
}

/// Where a slice of the answer is in it.
fn place(bytes: &Bytes, raw: &Bytes) -> Range<usize> {
    let start = (raw.as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize);
    start..start + raw.len()
}

fn contains(raw: &[u8], what: &[u8]) -> bool {
    raw.windows(what.len()).any(|window| window == what)
}
