//! Does what the engine decides: what it is told, and what it says is to be done.

use crate::{
    config,
    judge::Judge,
    key::Held,
    machine::{AttemptId, End, Engine, FetchId, Input, Output, Plan, SourceId, Time},
    mailbox::Wanted,
    metrics::Metrics,
    moment::Moment,
    select::{ME, Roster},
    slots::Slots,
    transport::{Message, Payload, Request, Requests},
};
use bytes::Bytes;
use commonware_cryptography::PublicKey;
use commonware_p2p::{Blocker, CheckedSender as _, Recipients, Sender};
use commonware_resolver::Consumer;
use commonware_runtime::telemetry::metrics::{GaugeExt as _, status::Status};
use commonware_utils::Span;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tracing::{debug, trace};

/// Requests sent in one turn of the loop, and wants told to the engine; others come first after that.
/// So an answer that is there is done with before more is begun, and what is under way stays at hand.
const TURN: u32 = 64;

/// The least time for which a peer that takes no request is left alone.
const REST_MIN: Duration = Duration::from_millis(1);

/// The engine, and all that is held for what it has in flight.
pub(crate) struct Driver<P: PublicKey, B, Key: Span, Con: Consumer> {
    pub(crate) machine: Engine<Key>,
    pub(crate) roster: Roster<P>,
    pub(crate) fetches: Slots<FetchId, Held<Con::Subscriber, P>>,
    pub(crate) requests: Requests<P>,
    /// Wants that wait for the next turn.
    pub(crate) wants: std::vec::IntoIter<Wanted<Key, P, Con::Subscriber>>,
    /// Starts that wait for it.
    starts: VecDeque<Start>,
    /// Requests that may yet be sent in this one.
    left: u32,
    pub(crate) judge: Judge<Con, P>,
    pub(crate) blocker: B,
    pub(crate) plan: Arc<Plan>,
    pub(crate) waiters: u64,
    retry_delay: Duration,
    priority: bool,
    pub(crate) metrics: Metrics<P>,
}

/// A request to be sent, and since when.
#[derive(Clone, Copy, Debug)]
struct Start {
    attempt: AttemptId,
    fetch: FetchId,
    source: SourceId,
    since: Time,
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
            fetches: Slots::new(),
            requests: Requests::new(random[0]),
            wants: Vec::new().into_iter(),
            starts: VecDeque::new(),
            left: 0,
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

    // ---- time ----

    /// When the engine has something to do by itself.
    pub(crate) fn alarm(&self) -> Option<Time> {
        self.machine.poll_timeout()
    }

    pub(crate) fn time(&mut self, at: Moment) {
        self.machine.handle_timeout(at.now);
    }

    /// Whether there is something to be done in another turn.
    pub(crate) fn has_more(&self) -> bool {
        !self.starts.is_empty() || !self.wants.as_slice().is_empty()
    }

    pub(crate) fn note_sizes(&self, serving: usize) {
        let active = self.requests.len();
        let pending = self.fetches.len().saturating_sub(active + self.judge.len());
        self.metrics.sizes(pending, active, serving);
    }

    // ---- what is to be done ----

    /// A turn of the loop: as much is wanted, and as many requests are sent, as fit into one.
    pub(crate) fn turn<NetS>(&mut self, at: Moment, sender: &mut NetS)
    where
        NetS: Sender<PublicKey = P>,
    {
        for _ in 0..TURN {
            let Some(wanted) = self.wants.next() else {
                break;
            };
            self.wanted(at, wanted);
        }
        self.left = TURN;
        while self.left > 0
            && let Some(start) = self.starts.pop_front()
        {
            self.start(at, sender, start);
        }
        self.drive(at, sender);
        while let Some(judged) = self.judge.decided() {
            self.judged(at, judged, sender);
        }
        self.metrics.flush();
        self.left = 0;
    }

    pub(crate) fn drive<NetS>(&mut self, at: Moment, sender: &mut NetS)
    where
        NetS: Sender<PublicKey = P>,
    {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Start {
                    attempt,
                    fetch,
                    source,
                    ..
                } => {
                    let start = Start {
                        attempt,
                        fetch,
                        source,
                        since: at.now,
                    };
                    if self.left == 0 {
                        self.starts.push_back(start);
                    } else {
                        self.start(at, sender, start);
                    }
                }
                Output::Abort { attempt } => self.abort(at, attempt),
                Output::Judge {
                    judgement,
                    fetch,
                    contributors,
                    waiters,
                } => self.deliver(at, judgement, fetch, contributors.last(), &waiters),
                Output::Discard { fetch, attempt } => {
                    if let Some(held) = self.fetches.get_mut(fetch) {
                        held.take_answer(attempt);
                    }
                }
                Output::Finish { waiter, fetch, .. } => {
                    if let Some(held) = fetch.and_then(|fetch| self.fetches.get_mut(fetch)) {
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

    fn start<NetS>(&mut self, at: Moment, sender: &mut NetS, start: Start)
    where
        NetS: Sender<PublicKey = P>,
    {
        let Start {
            attempt,
            fetch,
            source,
            since: began,
        } = start;
        self.left = self.left.saturating_sub(1);
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
                if checked.send(message.packed(), self.priority).accepted() {
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
        match self.requests.given_up(attempt) {
            Some(request) if at.now.since(request.began) >= self.plan.total_timeout => {
                trace!(peer = ?request.peer, "no answer in time");
                self.metrics.fetch.inc(Status::Failure);
                self.note_performance(request.source);
            }
            Some(_) => {}
            // Not sent yet: of those there is at most one for each peer.
            None => self.starts.retain(|start| start.attempt != attempt),
        }
        let end = End::Aborted;
        self.machine
            .handle_input(at.now, Input::Ended { attempt, end });
    }

    fn retired(&mut self, fetch: FetchId) {
        if let Some(held) = self.fetches.remove(fetch) {
            self.let_go(held);
        }
    }

    /// What was held for a fetch that is over. A delivery under way is cancelled by this.
    pub(crate) fn let_go(&mut self, held: Held<Con::Subscriber, P>) {
        for source in held.targets.as_slice() {
            self.roster.unname(*source);
        }
    }

    /// Shows what a peer is known to do.
    pub(crate) fn note_performance(&mut self, source: SourceId) {
        if let Some(weight) = self.machine.performance(source)
            && let Some((peer, gauge)) = self.roster.gauge(source)
        {
            let gauge = gauge.get_or_insert_with(|| self.metrics.performance(peer));
            // A gauge holds less than a weight may be; what does not fit is not shown.
            let _ = gauge.try_set(weight);
        }
    }
}
