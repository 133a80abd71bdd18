//! Does what the engine decides: what it is told, and what it says is to be done.

use crate::{
    config,
    judge::{Answer, Judge, Judged},
    key::{Held, Tag},
    machine::{
        AttemptId, End, Engine, FetchId, Input, JudgementId, Output, Plan, SourceId, Targets, Time,
        Verdict, WaiterId, Want,
    },
    mailbox::{Predicate, Wanted},
    metrics::Metrics,
    select::{ME, Roster},
    transport::{Message, Payload, Request, Requests},
};
use bytes::Bytes;
use commonware_cryptography::PublicKey;
use commonware_p2p::{Blocker, CheckedSender as _, Recipients, Sender};
use commonware_resolver::{Consumer, Delivery, Outcome};
use commonware_runtime::{iobuf::EncodeExt as _, telemetry::metrics::status::Status};
use commonware_utils::{Span, vec::NonEmptyVec};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tracing::{debug, trace, warn};

/// Requests sent in one turn of the loop; others come first after that.
const TURN: u32 = 64;

/// The least time for which a peer that takes no request is left alone.
const REST_MIN: Duration = Duration::from_millis(1);

/// One moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The engine's, which never goes back.
    pub(crate) now: Time,
    /// The network's.
    pub(crate) wall: SystemTime,
}

/// Turns the wall clock into a time that never goes back: a step backwards counts as none at all,
/// so that no timer waits for the clock to catch up.
#[derive(Debug, Default)]
pub(crate) struct Steady {
    now: Time,
    last: Option<SystemTime>,
}

impl Steady {
    pub(crate) fn at(&mut self, wall: SystemTime) -> Moment {
        let passed = self.last.map(|last| wall.duration_since(last));
        self.now = self
            .now
            .after(passed.and_then(Result::ok).unwrap_or_default());
        self.last = Some(wall);
        Moment {
            now: self.now,
            wall,
        }
    }
}

/// The engine, and all that is held for what it has in flight.
pub(crate) struct Driver<P: PublicKey, B, Key: Span, Con: Consumer> {
    machine: Engine<Key>,
    roster: Roster<P>,
    fetches: BTreeMap<FetchId, Held<Con::Subscriber>>,
    requests: Requests<P>,
    /// Starts that wait for the next turn, and since when.
    starts: BTreeMap<AttemptId, (FetchId, SourceId, Time)>,
    answers: BTreeMap<AttemptId, Answer<P>>,
    pub(crate) judge: Judge<Con, P>,
    blocker: B,
    plan: Arc<Plan>,
    waiters: u64,
    retry_delay: Duration,
    priority: bool,
    pub(crate) metrics: Metrics<P>,
}

impl<P, B, Key, Con> Driver<P, B, Key, Con>
where
    P: PublicKey,
    B: Blocker<PublicKey = P>,
    Key: Span,
    Con: Consumer<Key = Key, Value = Bytes, Subscriber: Ord>,
{
    /// `random` are two numbers drawn for this run: the first id, and the engine's seed.
    pub(crate) fn new(
        me: Option<P>,
        (plan, retry_delay): (Plan, Duration),
        (consumer, blocker): (Con, B),
        priority: bool,
        metrics: Metrics<P>,
        random: [u64; 2],
    ) -> Self {
        let machine = Engine::new(config::bounds(ME), random[1]);
        Self {
            machine: machine.expect("no bound of ours is zero"),
            roster: Roster::new(me),
            fetches: BTreeMap::new(),
            requests: Requests::new(random[0]),
            starts: BTreeMap::new(),
            answers: BTreeMap::new(),
            judge: Judge::new(consumer),
            blocker,
            plan: Arc::new(plan),
            waiters: 0,
            retry_delay,
            priority,
            metrics,
        }
    }

    // ---- what happened ----

    pub(crate) fn latest(&mut self, at: Moment, peers: &[P]) {
        for input in self.roster.latest(peers) {
            self.machine.handle_input(at.now, input);
        }
    }

    pub(crate) fn blocked(&mut self, at: Moment, peers: &[P]) {
        for input in self.roster.blocked(peers) {
            self.machine.handle_input(at.now, input);
        }
    }

    pub(crate) fn wanted(&mut self, at: Moment, wanted: Wanted<Key, P, Con::Subscriber>) {
        let Wanted {
            key,
            subscribers,
            targets,
        } = wanted;
        let known = self.machine.find(&key);
        let held = known.and_then(|fetch| self.fetches.get(&fetch));
        // A restriction matters to a new fetch, or to one that is restricted already.
        let restricted = held.is_none_or(|held| held.targets().is_some());
        let mut named = Vec::new();
        let targets = match targets {
            None => Targets::Any,
            Some(peers) if restricted => {
                named = peers.iter().map(|peer| self.roster.name(peer)).collect();
                Targets::Only(named.clone())
            }
            Some(_) => Targets::Only(Vec::new()),
        };
        let mut told = false;
        for (subscriber, span) in subscribers {
            self.waiters += 1;
            let waiter = WaiterId(self.waiters);
            let fetch = self.machine.find(&key);
            let held = fetch.and_then(|fetch| self.fetches.get_mut(&fetch));
            let again = held.is_some_and(|held| held.subscribers.contains(&subscriber));
            if again && (told || !restricted) {
                continue;
            }
            told = true;
            let want = Want {
                targets: targets.clone(),
                priority: 1,
                owner: 0,
                deadline: None,
                plan: self.plan.clone(),
            };
            let key = key.clone();
            self.machine
                .handle_input(at.now, Input::Want { waiter, key, want });
            if again {
                // It waits already. This was for its word on targets.
                self.machine.handle_input(at.now, Input::Release { waiter });
            } else if let Some(fetch) = self.machine.fetch_of(waiter) {
                let held = self.fetches.entry(fetch);
                let held = held.or_insert_with(|| Held::new(at.now));
                held.subscribers.insert(subscriber, Tag { waiter, span });
            }
        }
        self.note_targets(&key, &targets, named);
    }

    /// Keeps the book of who is named by which fetch.
    fn note_targets(&mut self, key: &Key, targets: &Targets, mut named: Vec<SourceId>) {
        let fetch = self.machine.find(key);
        let held = fetch.and_then(|fetch| self.fetches.get_mut(&fetch));
        if let Some(held) = held {
            match targets {
                Targets::Only(_) if !named.is_empty() => {
                    let list = held.more().targets.get_or_insert_default();
                    // What is left in `named` was named before, or twice.
                    named.retain(|source| {
                        let known = list.contains(source);
                        if !known {
                            list.push(*source);
                        }
                        known
                    });
                }
                Targets::Only(_) => {}
                _ if held.targets().is_some() => {
                    named = held.more().targets.take().unwrap_or_default();
                }
                _ => {}
            }
        }
        for source in named {
            self.roster.unname(source);
        }
    }

    pub(crate) fn retain(&mut self, at: Moment, keep: &Predicate<Key, Con::Subscriber>) {
        let mut released = Vec::new();
        let mut cancelled = 0;
        for (fetch, held) in &mut self.fetches {
            let Some(key) = self.machine.key(*fetch) else {
                continue;
            };
            let any = held.subscribers.retain(|subscriber, tag| {
                let keep = keep(key, subscriber);
                if !keep {
                    released.push(tag.waiter);
                }
                keep
            });
            cancelled += u64::from(any && held.subscribers.is_empty());
        }
        for waiter in released {
            self.machine.handle_input(at.now, Input::Release { waiter });
        }
        match cancelled {
            0 => self.metrics.cancel.inc(Status::Dropped),
            count => self.metrics.cancel.inc_by(Status::Success, count),
        }
    }

    pub(crate) fn response(&mut self, at: Moment, peer: &P, id: u64, bytes: Bytes) {
        let Some((attempt, request)) = self.requests.answered(id, peer) else {
            // Too late, mostly: the request was given up.
            self.metrics.unsolicited.inc();
            return;
        };
        let upto = bytes.len() as u64;
        if let Some(held) = self.fetches.get_mut(&request.fetch) {
            held.more().brought.push(attempt);
            self.answers
                .insert(attempt, Answer::new(request, bytes, at.now));
        }
        let end = End::Complete { upto };
        self.machine
            .handle_input(at.now, Input::Ended { attempt, end });
    }

    pub(crate) fn missing(&mut self, at: Moment, peer: &P, id: u64) {
        let Some((attempt, _)) = self.requests.answered(id, peer) else {
            self.metrics.unsolicited.inc();
            return;
        };
        self.metrics.fetch.inc(Status::Failure);
        let end = End::Missing;
        self.machine
            .handle_input(at.now, Input::Ended { attempt, end });
    }

    /// The consumer is done with a delivery. To be followed by [`Driver::drive`].
    pub(crate) fn judged<NetS>(&mut self, at: Moment, judged: Judged<P>, sender: &mut NetS)
    where
        NetS: Sender<PublicKey = P>,
    {
        let verdict = judged.verdict();
        let Judged {
            judgement,
            attempt,
            answer,
            outcome,
            cancelled,
        } = judged;
        let first = !answer.accepted;
        // What the answer says of its peer holds whether or not anybody still wants the key; to be
        // judged again says nothing new.
        match outcome {
            Some(Outcome::Resolved(_)) if first => {
                self.metrics.resolves.observe(answer.took.as_secs_f64());
                self.metrics.fetch.inc(Status::Success);
            }
            Some(Outcome::Unresolved) if first => self.metrics.fetch.inc(Status::Ambiguous),
            Some(Outcome::Invalid) => {
                self.metrics.fetch.inc(Status::Failure);
                if first {
                    commonware_p2p::block!(
                        self.blocker,
                        answer.peer.as_ref().clone(),
                        "invalid answer"
                    );
                } else {
                    warn!(peer = ?answer.peer, "an answer found good before was rejected");
                }
            }
            Some(Outcome::Ignored) if !cancelled => self.metrics.fetch.inc(Status::Dropped),
            _ => {}
        }
        if verdict == Verdict::Valid && first && !cancelled {
            if let Some(answer) = self.answers.get_mut(&attempt) {
                answer.accepted = true;
            }
            if let Some(held) = self.fetches.get(&answer.fetch) {
                let took = at.now.since(held.since).as_secs_f64();
                self.metrics.fetch_duration.observe(took);
            }
        }
        self.machine
            .handle_input(at.now, Input::Judged { judgement, verdict });
        self.drive(at, sender);
        if matches!(verdict, Verdict::Valid | Verdict::Partial)
            && let Some(weight) = self.machine.performance(answer.source)
        {
            self.metrics.performance(&answer.peer, weight);
        }
        if verdict == Verdict::GaveUp
            && first
            && !cancelled
            && !self.fetches.contains_key(&answer.fetch)
        {
            self.metrics.fetch.inc(Status::Dropped);
        }
    }

    // ---- time ----

    /// How long until the engine has something to do by itself.
    pub(crate) fn sleep(&self, at: Moment) -> Option<Duration> {
        Some(self.machine.poll_timeout()?.since(at.now))
    }

    pub(crate) fn time(&mut self, at: Moment) {
        self.machine.handle_timeout(at.now);
    }

    /// Whether there are requests to be sent in another turn.
    pub(crate) fn has_more(&self) -> bool {
        !self.starts.is_empty()
    }

    pub(crate) fn note_sizes(&self, serving: usize) {
        let active = self.requests.len();
        let pending = self.fetches.len().saturating_sub(active + self.judge.len());
        self.metrics.sizes(pending, active, serving);
    }

    // ---- what is to be done ----

    pub(crate) fn drive<NetS>(&mut self, at: Moment, sender: &mut NetS)
    where
        NetS: Sender<PublicKey = P>,
    {
        let mut left = TURN;
        while left > 0
            && let Some((attempt, (fetch, source, since))) = self.starts.pop_first()
        {
            left -= 1;
            self.start(at, sender, attempt, fetch, source, since);
        }
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Start {
                    attempt,
                    fetch,
                    source,
                    ..
                } => {
                    if left == 0 {
                        self.starts.insert(attempt, (fetch, source, at.now));
                    } else {
                        left -= 1;
                        self.start(at, sender, attempt, fetch, source, at.now);
                    }
                }
                Output::Abort { attempt } => self.abort(at, attempt),
                Output::Judge {
                    judgement,
                    fetch,
                    contributors,
                    waiters,
                } => self.deliver(at, judgement, fetch, &contributors, waiters),
                Output::Discard { attempt } => {
                    if let Some(answer) = self.answers.remove(&attempt)
                        && let Some(held) = self.fetches.get_mut(&answer.fetch)
                    {
                        held.more().brought.retain(|other| *other != attempt);
                    }
                }
                Output::Finish { waiter, fetch, .. } => {
                    if let Some(held) = fetch.and_then(|fetch| self.fetches.get_mut(&fetch)) {
                        held.subscribers.finish(waiter);
                    }
                }
                Output::Retired { fetch } => self.retired(fetch),
                // The key is known by then; our plans rank nothing, commit nothing, block nobody.
                Output::Opened { .. }
                | Output::Select { .. }
                | Output::Commit { .. }
                | Output::Blocked { .. } => {}
            }
        }
    }

    fn start<NetS>(
        &mut self,
        at: Moment,
        sender: &mut NetS,
        attempt: AttemptId,
        fetch: FetchId,
        source: SourceId,
        began: Time,
    ) where
        NetS: Sender<PublicKey = P>,
    {
        let (Some(peer), Some(key)) = (self.roster.peer(source), self.machine.key(fetch)) else {
            // The peer has left between two turns.
            let until = at.now.after(REST_MIN);
            return self
                .machine
                .handle_input(at.now, Input::Declined { attempt, until });
        };
        self.metrics.requests_created.inc(Status::Success);
        let rest = match sender.check(Recipients::One(peer.as_ref().clone())) {
            Err(until) => until.duration_since(at.wall).unwrap_or_default(),
            Ok(checked) => {
                let message = Message {
                    id: self.requests.id(attempt),
                    payload: Payload::Request(key.clone()),
                };
                if checked
                    .send(message.encode_iobufs(), self.priority)
                    .accepted()
                {
                    self.metrics.requests_sent.inc(Status::Success);
                    let peer = peer.clone();
                    let request = Request {
                        fetch,
                        source,
                        peer,
                        began,
                    };
                    self.requests.sent(attempt, request);
                    return self
                        .machine
                        .handle_input(at.now, Input::Started { attempt });
                }
                self.metrics.requests_sent.inc(Status::Dropped);
                debug!(?peer, "request not taken");
                self.retry_delay
            }
        };
        let until = at.now.after(rest.max(REST_MIN));
        self.machine
            .handle_input(at.now, Input::Declined { attempt, until });
    }

    fn abort(&mut self, at: Moment, attempt: AttemptId) {
        self.starts.remove(&attempt);
        if let Some(request) = self.requests.given_up(attempt)
            && at.now.since(request.began) >= self.plan.total_timeout
        {
            trace!(peer = ?request.peer, "no answer in time");
            self.metrics.fetch.inc(Status::Failure);
            if let Some(weight) = self.machine.performance(request.source) {
                self.metrics.performance(&request.peer, weight);
            }
        }
        let end = End::Aborted;
        self.machine
            .handle_input(at.now, Input::Ended { attempt, end });
    }

    fn deliver(
        &mut self,
        at: Moment,
        judgement: JudgementId,
        fetch: FetchId,
        contributors: &[AttemptId],
        waiters: Vec<WaiterId>,
    ) {
        let parts = (|| {
            let attempt = *contributors.last()?;
            let answer = self.answers.get(&attempt)?.clone();
            let held = self.fetches.get_mut(&fetch)?;
            let subscribers = NonEmptyVec::try_from(held.subscribers.of(waiters)).ok()?;
            let key = self.machine.key(fetch)?.clone();
            let delivery = Delivery { key, subscribers };
            let cancel = self.judge.deliver(delivery, judgement, attempt, answer);
            held.more().delivery = Some(cancel);
            Some(())
        })();
        if parts.is_none() {
            // Nobody is left to ask for.
            let verdict = Verdict::GaveUp;
            self.machine
                .handle_input(at.now, Input::Judged { judgement, verdict });
        }
    }

    fn retired(&mut self, fetch: FetchId) {
        let Some(mut held) = self.fetches.remove(&fetch) else {
            return;
        };
        let more = held.take_more();
        for attempt in more.brought {
            self.answers.remove(&attempt);
        }
        for source in more.targets.into_iter().flatten() {
            self.roster.unname(source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back() {
        let wall = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let after = |seconds| Time::ZERO.after(Duration::from_secs(seconds));
        let mut steady = Steady::default();
        assert_eq!(steady.at(wall(1000)).now, after(0));
        assert_eq!(steady.at(wall(1003)).now, after(3));
        assert_eq!(steady.at(wall(500)).now, after(3), "a step back");
        assert_eq!(steady.at(wall(502)).now, after(5), "and it goes on");
    }
}
