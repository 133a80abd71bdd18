//! Whether an answer is one, for these callers.
//!
//! What can be found out about an answer does not depend on who asks ([`Examine`]); what it is worth
//! does: [`Demand`]. Callers of one key are judged together by what they demand together; one who comes
//! late and demands more has the same answer looked at again, more strictly.
//!
//! | found | verdict | the server |
//! |---|---|---|
//! | all events good | valid | earns credit |
//! | some bad, to be salvaged | valid, for the good ones | is asked later than others for a while |
//! | garbage, another event, forged | invalid | is at fault |
//! | cannot be checked: no key, no canonical form | ambiguous | is not to blame |
//! | content cut, and wanted whole | ambiguous | is not to blame |
//! | no events | ambiguous, unless that will do | is not to blame |

use crate::{
    Checks, Key, OnBad, Op,
    book::{Book, Demand, FetchKey, How, Record},
    courier::BoxFuture,
    memo::{About, Memo, Subject},
    metrics::Metrics,
};
use bytes::{Bytes, BytesMut};
use gannet::{Answered, Body, Judge, Soon, engine::Verdict};
use ruma_common::{OwnedEventId, RoomVersionId};
use std::{borrow::Cow, ops::Range, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What was proved of an event. Each includes the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proof {
    /// It has the form of one: the rest is the server's word.
    Form,
    /// Its id and its signatures are right, and it is what is left of an event that was redacted: nothing
    /// in it is forged, but content was cut.
    Redacted,
    /// Its id, its signatures and the hash of its content are right: it is whole.
    Whole,
}

impl Proof {
    /// What people and programs read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Redacted => "redacted",
            Self::Whole => "whole",
        }
    }

    const fn meets(self, checks: Checks) -> bool {
        match self {
            Self::Whole => true,
            // What else was demanded has been checked.
            Self::Form => !checks.signatures,
            Self::Redacted => !checks.content_hash,
        }
    }
}

/// Why an event was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reason {
    /// Whether somebody has tampered with it, or mixed it up. Otherwise it may be right, but that
    /// cannot be proved.
    pub forged: bool,
    /// In words.
    pub why: Cow<'static, str>,
}

/// An event of an answer, and what was proved of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Its id: computed, where the room's version defines it by a hash. `None` where nothing was checked.
    pub event_id: Option<OwnedEventId>,
    /// Where it is in the answer.
    pub range: Range<usize>,
    /// What was proved of it.
    pub proof: Proof,
}

/// An event that was left out of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadEvent {
    /// Its place in the answer as the server sent it.
    pub index: usize,
    /// Its id, as far as it has one.
    pub event_id: Option<OwnedEventId>,
    /// What is wrong with it.
    pub reason: Reason,
}

/// An answer to be examined.
#[derive(Debug)]
pub(crate) struct Exam {
    pub(crate) key: Key,
    pub(crate) version: Option<RoomVersionId>,
    pub(crate) bytes: Bytes,
    pub(crate) checks: Checks,
}

/// One event that was examined.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) event_id: Option<OwnedEventId>,
    pub(crate) range: Range<usize>,
    pub(crate) end: Result<Proof, Reason>,
}

/// What was found in an answer: its events (none, for ops that bring none), and the room's version where
/// the answer itself proves it; or what is wrong with it as a whole.
pub(crate) type Findings = Result<(Vec<Found>, Option<RoomVersionId>), Cow<'static, str>>;

/// Finds out what an answer is. Takes its time, and its threads, itself.
pub(crate) trait Examine: Send + Sync + 'static {
    fn examine(&self, exam: Exam) -> BoxFuture<'static, Findings>;
}

/// What was made of an answer that was taken.
#[derive(Debug)]
pub(crate) struct Judged {
    /// What it was examined for.
    pub(crate) demand: Demand,
    /// The answer; without the bad events, if there were any.
    pub(crate) bytes: Bytes,
    pub(crate) events: Arc<[Event]>,
    pub(crate) bad: Arc<[BadEvent]>,
    pub(crate) version: Option<RoomVersionId>,
}

impl Judged {
    /// Whether who demands this is content without another look.
    pub(crate) fn will_do_for(&self, demand: Demand) -> bool {
        let with = self.demand.and(demand);
        with == self.demand
    }
}

/// What of answers that came in several pieces is put together at once, beside the pieces: large ones one
/// by one, for each takes all threads anyway, and of small ones so many KiB.
#[derive(Debug)]
pub(crate) struct Room {
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

impl Room {
    const SMALL_BYTES_MAX: u64 = 1 << 20;
    const SMALL_KIB: usize = 4 << 10;

    /// Waits until there is room for this.
    async fn take(&self, body: &Body) -> Option<OwnedSemaphorePermit> {
        let taken = match body.len() {
            // It is not copied.
            _ if body.segments().len() <= 1 => return None,
            len @ 0..=Self::SMALL_BYTES_MAX => {
                let kib = u32::try_from(len.div_ceil(1 << 10)).unwrap_or(u32::MAX);
                Arc::clone(&self.small).acquire_many_owned(kib).await
            }
            _ => Arc::clone(&self.large).acquire_owned().await,
        };
        Some(taken.expect("the semaphores are never closed"))
    }
}

impl Default for Room {
    fn default() -> Self {
        Self {
            large: Arc::new(Semaphore::new(1)),
            small: Arc::new(Semaphore::new(Self::SMALL_KIB)),
        }
    }
}

/// Judges answers by what their callers demand.
#[derive(Clone)]
pub(crate) struct DemandJudge {
    pub(crate) examiner: Arc<dyn Examine>,
    pub(crate) room: Arc<Room>,
    pub(crate) book: Arc<Book>,
    pub(crate) memo: Arc<Memo>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Judge<FetchKey, Arc<Record>> for DemandJudge {
    fn judge(&self, answered: Answered<'_, FetchKey, Arc<Record>>) -> Soon<Verdict> {
        // Nobody is left to demand anything.
        let Some(demand) = self.book.demand(answered.key, answered.waiters) else {
            return Soon::Now(Verdict::GaveUp);
        };
        let record = Arc::clone(answered.meta);
        let known = record.judged();
        let demand = match &known {
            Some(known) if known.will_do_for(demand) => return Soon::Now(Verdict::Valid),
            Some(known) => known.demand.and(demand),
            None => demand,
        };
        let (judge, key, body) = (self.clone(), answered.key.clone(), answered.body);
        Soon::later(async move {
            let _room = judge.room.take(&body).await;
            let bytes = body.to_bytes();
            drop(body);
            let exam = Exam {
                key: key.key.clone(),
                version: key.version.clone(),
                bytes: bytes.clone(),
                checks: demand.checks,
            };
            let findings = judge.examiner.examine(exam).await;
            let worth = weigh(&key, demand, bytes, findings);
            judge.remember(&key.key, &record, worth)
        })
    }
}

impl DemandJudge {
    /// Takes note of what an answer was worth.
    fn remember(&self, key: &Key, record: &Record, worth: Worth) -> Verdict {
        let Worth {
            verdict,
            how,
            detail,
            judged,
            forged,
        } = worth;
        let (about, server) = (Subject::Of(About::of(key)), &record.server.name);
        if how != How::Answered {
            tracing::info!(%server, op = key.op().name(), how = how.name(), %detail, "judged");
        }
        match verdict {
            Verdict::Valid => self.memo.succeeded(about, server),
            _ => self.memo.failed(about, server),
        }
        // The engine takes it for a good answer; the server is to be the worse for it all the same.
        if verdict == Verdict::Valid && forged {
            self.memo.failed(Subject::Any, server);
        }
        let first = record.count();
        if first {
            self.metrics.attempt(key.op(), how);
        }
        if let Some(judged) = &judged {
            if first {
                self.metrics.events(&judged.events, judged.bad.len());
            }
            record.set_judged(Arc::clone(judged));
        }
        record.end(how, detail);
        verdict
    }
}

/// What an answer is worth to callers who demand this.
struct Worth {
    verdict: Verdict,
    how: How,
    detail: Cow<'static, str>,
    judged: Option<Arc<Judged>>,
    /// Whether somebody has tampered with any part of it.
    forged: bool,
}

impl Worth {
    fn nothing(how: How, detail: impl Into<Cow<'static, str>>) -> Self {
        let forged = how == How::Bad;
        Self {
            verdict: if forged {
                Verdict::Invalid
            } else {
                Verdict::Ambiguous
            },
            how,
            detail: detail.into(),
            judged: None,
            forged,
        }
    }
}

fn weigh(key: &FetchKey, demand: Demand, bytes: Bytes, findings: Findings) -> Worth {
    let (found, version) = match findings {
        Ok(found) => found,
        Err(why) => return Worth::nothing(How::Bad, why),
    };
    let op = key.key.op();
    let count = found.len();
    let is_good = |found: &Found| found.end.as_ref().is_ok_and(|p| p.meets(demand.checks));
    let good = found.iter().filter(|found| is_good(found)).count();
    // An enemy sends many; lists that grow take twice as much for a while.
    let (mut good, mut bad) = (Vec::with_capacity(good), Vec::with_capacity(count - good));
    let mut cut = 0;
    for (index, found) in found.into_iter().enumerate() {
        let reason = match found.end {
            Ok(proof) if proof.meets(demand.checks) => {
                good.push(Event {
                    event_id: found.event_id,
                    range: found.range,
                    proof,
                });
                continue;
            }
            Ok(_) => {
                cut += 1;
                Reason {
                    forged: false,
                    why: "its content was cut".into(),
                }
            }
            Err(reason) => reason,
        };
        bad.push(BadEvent {
            index,
            event_id: found.event_id,
            reason,
        });
    }
    let forged = bad.iter().any(|bad| bad.reason.forged);
    let lost = match &bad[..] {
        [] => None,
        [first, ..] if good.is_empty() || demand.on_bad == OnBad::Refuse => Some(first),
        _ => None,
    };
    if let Some(first) = lost {
        let culprit = bad.iter().find(|bad| bad.reason.forged).unwrap_or(first);
        let how = match () {
            () if forged => How::Bad,
            () if cut == bad.len() => How::Cut,
            () => How::Unproven,
        };
        let detail = match bad.len() {
            1 if count == 1 => culprit.reason.why.clone(),
            n => format!("{n} of {count} events: {}", culprit.reason.why).into(),
        };
        return Worth::nothing(how, detail);
    }
    if count == 0 && op.carries_events() && !demand.accept_empty {
        return Worth::nothing(How::Empty, "no events");
    }
    let (how, detail) = match &bad[..] {
        [] => (How::Answered, Cow::Borrowed("")),
        [first, ..] => {
            let culprit = bad.iter().find(|bad| bad.reason.forged).unwrap_or(first);
            let n = bad.len();
            let detail = format!("{n} of {count} events left out: {}", culprit.reason.why);
            (How::Salvaged, detail.into())
        }
    };
    let bytes = if bad.is_empty() {
        bytes
    } else {
        rebuilt(op, &bytes, &mut good)
    };
    let judged = Judged {
        demand,
        bytes,
        events: good.into(),
        bad: bad.into(),
        version: key.version.clone().or(version),
    };
    Worth {
        verdict: Verdict::Valid,
        how,
        detail,
        judged: Some(Arc::new(judged)),
        forged,
    }
}

/// The field of an answer that holds its events.
pub(crate) const fn events_field(op: Op) -> &'static str {
    match op {
        Op::AuthChain => "auth_chain",
        Op::MissingEvents => "events",
        _ => "pdus",
    }
}

/// An answer that holds these events and nothing else; they are where they are in there afterwards.
fn rebuilt(op: Op, bytes: &Bytes, events: &mut [Event]) -> Bytes {
    let all: usize = events.iter().map(|event| event.range.len() + 1).sum();
    let mut out = BytesMut::with_capacity(all + 32);
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(events_field(op).as_bytes());
    out.extend_from_slice(b"\":[");
    for (n, event) in events.iter_mut().enumerate() {
        if n > 0 {
            out.extend_from_slice(b",");
        }
        let start = out.len();
        out.extend_from_slice(&bytes[event.range.clone()]);
        event.range = start..out.len();
    }
    out.extend_from_slice(b"]}");
    out.freeze()
}

/// An answer that holds this one event.
pub(crate) fn wrapped(raw: &[u8], event_id: OwnedEventId, proof: Proof) -> (Bytes, Event) {
    let mut event = Event {
        event_id: Some(event_id),
        range: 0..raw.len(),
        proof,
    };
    let raw = Bytes::copy_from_slice(raw);
    let bytes = rebuilt(Op::Event, &raw, std::slice::from_mut(&mut event));
    (bytes, event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::{Keyed, Roster};
    use gannet::engine::FetchId;
    use ruma_common::{owned_event_id, owned_room_id, owned_server_name};

    fn chain() -> FetchKey {
        let key = Key::auth_chain(owned_room_id!("!r:a"), owned_event_id!("$e"));
        FetchKey {
            key: key.expect("a key"),
            version: Some(RoomVersionId::V11),
            lane: 0,
        }
    }

    const WHOLE: Demand = Demand {
        checks: Checks::ALL,
        on_bad: OnBad::Salvage,
        accept_empty: false,
    };

    fn reason(forged: bool) -> Result<Proof, Reason> {
        let why = if forged { "forged" } else { "no key" }.into();
        Err(Reason { forged, why })
    }

    /// Events of one byte each, `a`, `b` and so on.
    fn weighed(demand: Demand, ends: &[Result<Proof, Reason>]) -> Worth {
        let bytes: Vec<u8> = (b'a'..).take(ends.len()).collect();
        let found = (ends.iter().enumerate())
            .map(|(n, end)| Found {
                event_id: Some(owned_event_id!("$e")),
                range: n..n + 1,
                end: end.clone(),
            })
            .collect();
        weigh(&chain(), demand, bytes.into(), Ok((found, None)))
    }

    #[test]
    fn what_an_answer_is_worth() {
        let check = |demand, ends: &[_], verdict, how| {
            let worth = weighed(demand, ends);
            assert_eq!((worth.verdict, worth.how), (verdict, how), "{ends:?}");
        };
        let refuse = Demand {
            on_bad: OnBad::Refuse,
            ..WHOLE
        };
        let redacted_too = Demand {
            checks: Checks::REDACTED_TOO,
            ..refuse
        };
        let whole = || Ok(Proof::Whole);
        let redacted = || Ok(Proof::Redacted);
        use Verdict::{Ambiguous, Invalid, Valid};
        check(WHOLE, &[whole()], Valid, How::Answered);
        check(WHOLE, &[], Ambiguous, How::Empty);
        let empty = Demand {
            accept_empty: true,
            ..WHOLE
        };
        check(empty, &[], Valid, How::Answered);
        check(WHOLE, &[redacted()], Ambiguous, How::Cut);
        check(redacted_too, &[redacted()], Valid, How::Answered);
        check(WHOLE, &[reason(true)], Invalid, How::Bad);
        check(WHOLE, &[reason(false)], Ambiguous, How::Unproven);
        check(WHOLE, &[reason(false), reason(true)], Invalid, How::Bad);
        let mixed = [whole(), reason(true), redacted()];
        check(WHOLE, &mixed, Valid, How::Salvaged);
        check(refuse, &mixed, Invalid, How::Bad);
        check(refuse, &[whole(), reason(false)], Ambiguous, How::Unproven);
    }

    #[test]
    fn what_is_bad_is_not_in_what_is_handed_out() {
        let worth = weighed(
            WHOLE,
            &[
                reason(true),
                Ok(Proof::Whole),
                reason(false),
                Ok(Proof::Whole),
            ],
        );
        assert!(worth.forged);
        assert_eq!(worth.detail, "2 of 4 events left out: forged");
        let judged = worth.judged.expect("salvaged");
        assert_eq!(judged.bytes, r#"{"auth_chain":[b,d]}"#);
        let kept: Vec<_> = (judged.events.iter())
            .map(|event| &judged.bytes[event.range.clone()])
            .collect();
        assert_eq!(kept, [b"b", b"d"]);
        let bad: Vec<_> = judged.bad.iter().map(|bad| bad.index).collect();
        assert_eq!(bad, [0, 2]);
    }

    struct Nobody;

    impl Examine for Nobody {
        fn examine(&self, _: Exam) -> BoxFuture<'static, Findings> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn an_answer_is_counted_once_however_often_it_is_looked_at() {
        let judge = DemandJudge {
            examiner: Arc::new(Nobody),
            room: Arc::default(),
            book: Book::new(1),
            memo: Arc::new(Memo::new(crate::MemoConfig::default())),
            metrics: Arc::default(),
        };
        let roster = Roster::new(1, Keyed(1));
        let [server] = &roster.enlist(vec![owned_server_name!("a")], |_| {})[..] else {
            panic!("one server");
        };
        let record = (judge.book).begin(&chain(), Arc::clone(server), FetchId(1));
        for _ in 0..2 {
            let worth = weighed(WHOLE, &[Ok(Proof::Whole), reason(false)]);
            judge.remember(&chain().key, &record, worth);
        }
        let mut page = gannet::metrics::Page::new();
        judge.metrics.write(&mut page);
        let text = page.into_text();
        for line in [
            "gannet_matrix_attempts_total{op=\"auth_chain\",how=\"salvaged\"} 1\n",
            "gannet_matrix_events_total{proof=\"whole\"} 1\n",
            "gannet_matrix_events_total{proof=\"bad\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn another_look_only_where_more_is_demanded() {
        let of = |demand| {
            let worth = weighed(demand, &[Ok(Proof::Whole)]);
            worth.judged.expect("good")
        };
        let less = Demand {
            checks: Checks::NONE,
            accept_empty: true,
            ..WHOLE
        };
        assert!(of(WHOLE).will_do_for(WHOLE) && of(WHOLE).will_do_for(less));
        assert!(!of(less).will_do_for(WHOLE));
    }
}
