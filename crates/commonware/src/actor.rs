//! The task: one loop over everything that happens.

use crate::{
    config::{Config, Tuning, plan},
    drive::Driver,
    mailbox::{Mailbox, Message as Told},
    metrics::Metrics,
    moment::{Moment, Steady},
    serve::{Served, Serves},
    transport::{Message, Payload},
};
use bytes::Bytes;
use commonware_actor::mailbox;
use commonware_cryptography::PublicKey;
use commonware_macros::select_loop;
use commonware_p2p::{
    Blocker, Provider, Receiver, Recipients, Sender, utils::codec::WrappedReceiver,
};
use commonware_resolver::{Consumer, p2p::Producer};
use commonware_runtime::{
    Clock, ContextCell, Handle, Metrics as Registry, Spawner, iobuf::EncodeExt as _, spawn_cell,
    telemetry::metrics::status::Status,
};
use commonware_utils::{Span, futures::OptionFuture};
use futures_util::FutureExt as _;
use rand_core::Rng;
use std::{fmt, time::SystemTime};
use tracing::{debug, error, trace, warn};

/// Messages of peers taken in one turn of the loop, where so many are there; others come first after
/// that.
const MESSAGES: u32 = 64;

/// Fetches for the application, and serves peers: the stock engine's place, with its construction.
pub struct Engine<E, P, D, B, Key, Con, Pro>
where
    E: Clock + Spawner + Rng + Registry,
    P: PublicKey,
    D: Provider<PublicKey = P>,
    B: Blocker<PublicKey = P>,
    Key: Span,
    Con: Consumer<Key = Key, Value = Bytes>,
    Pro: Producer<Key = Key>,
{
    context: ContextCell<E>,
    peer_provider: D,
    blocker: B,
    mailbox: mailbox::Receiver<Told<Key, P, Con::Subscriber>>,
    driver: Driver<P, B, Key, Con>,
    serves: Serves<Pro, P, SystemTime>,
    steady: Steady,
    priority_responses: bool,
}

impl<E, P, D, B, Key, Con, Pro> Engine<E, P, D, B, Key, Con, Pro>
where
    E: Clock + Spawner + Rng + Registry,
    P: PublicKey,
    D: Provider<PublicKey = P>,
    B: Blocker<PublicKey = P>,
    Key: Span,
    Con: Consumer<Key = Key, Value = Bytes, Subscriber: Ord>,
    Pro: Producer<Key = Key>,
{
    /// An engine that behaves as the stock one does, and the mailbox by which it is told what to
    /// fetch. Nothing happens before [`start`](Self::start).
    pub fn new(
        context: E,
        cfg: Config<P, D, B, Key, Con, Pro>,
    ) -> (Self, Mailbox<Key, P, Con::Subscriber>) {
        Self::with_tuning(context, cfg, Tuning::default())
    }

    /// As [`new`](Self::new), with the settings that the stock engine does not have.
    pub fn with_tuning(
        mut context: E,
        cfg: Config<P, D, B, Key, Con, Pro>,
        tuning: Tuning,
    ) -> (Self, Mailbox<Key, P, Con::Subscriber>) {
        let (sender, receiver) = mailbox::new(context.child("mailbox"), cfg.mailbox_size);
        let random = [context.next_u64(), context.next_u64()];
        let delay = cfg.fetch_retry_delay;
        let driver = Driver::new(
            cfg.me,
            (plan(cfg.fetch_timeout.get(), delay, &tuning), delay),
            (cfg.consumer, cfg.blocker.clone()),
            cfg.priority_requests,
            Metrics::new(&context),
            random,
        );
        let engine = Self {
            context: ContextCell::new(context),
            peer_provider: cfg.peer_provider,
            blocker: cfg.blocker,
            mailbox: receiver,
            driver,
            serves: Serves::new(cfg.producer, tuning.serves_max),
            steady: Steady::default(),
            priority_responses: cfg.priority_responses,
        };
        (engine, Mailbox::new(sender))
    }

    /// Runs until the context stops, the handle is aborted, or the network or every mailbox is
    /// gone. What is under way then is dropped: deliveries close, requests go unanswered.
    pub fn start<NetS, NetR>(mut self, network: (NetS, NetR)) -> Handle<()>
    where
        NetS: Sender<PublicKey = P>,
        NetR: Receiver<PublicKey = P>,
    {
        spawn_cell!(self.context, self.run(network))
    }

    async fn run<NetS, NetR>(mut self, (mut sender, receiver): (NetS, NetR))
    where
        NetS: Sender<PublicKey = P>,
        NetR: Receiver<PublicKey = P>,
    {
        let mut receiver = WrappedReceiver::<NetR, Message<Key>>::new((), receiver);
        let mut peer_sets = self.peer_provider.subscribe().await;
        let mut last_set = None;
        let mut blocked_sets = Some(self.blocker.blocked());
        let mut alarm = None;
        select_loop! {
            self.context,
            on_start => {
                self.driver.note_sizes(self.serves.len());
                // Set anew for an earlier time only: times move on with every answer, and to wake
                // for nothing now and then is cheaper.
                if let Some(time) = self.driver.alarm()
                    && alarm.as_ref().is_none_or(|(set, _)| time < *set)
                {
                    let now = self.moment().now;
                    let sleep = self.context.sleep(time.since(now));
                    alarm = Some((time, Box::pin(sleep)));
                }
                let timer = alarm.as_mut().map(|(_, sleep)| sleep.as_mut());
                let timer = OptionFuture::from(timer);
                let blocked = blocked_sets.as_mut().map(|sets| sets.recv());
                let blocked = OptionFuture::from(blocked);
                // What was said later comes after all that was said before.
                let open = self.driver.wants.as_slice().is_empty();
                let more = self.driver.has_more().then(|| std::future::ready(()));
                let more = OptionFuture::from(more);
            },
            on_stopped => {
                debug!("stopped");
            },
            Some(update) = peer_sets.recv() else {
                debug!("no more peer sets");
                return;
            } => {
                if last_set < Some(update.index) {
                    last_set = Some(update.index);
                    let at = self.moment();
                    self.driver.latest(at, update.latest.union().as_ref());
                }
            },
            set = blocked => match set {
                Some(set) => {
                    let at = self.moment();
                    self.driver.blocked(at, set.as_ref());
                }
                // Who is blocked now stays so; fetching goes on.
                None => blocked_sets = None,
            },
            _ = timer => alarm = None,
            // Outcomes before wants: a key that is done is wanted anew, not joined.
            judged = self.driver.judge.next() => {
                let at = self.moment();
                self.driver.judged(at, judged, &mut sender);
            },
            told = OptionFuture::from(open.then(|| self.mailbox.recv())) => match told {
                Some(Told::Fetch(keys)) => self.driver.wants = keys.into_iter(),
                Some(Told::Retain(keep)) => {
                    let at = self.moment();
                    self.driver.retain(at, &keep);
                }
                None => {
                    debug!("no more mailboxes");
                    return;
                }
            },
            served = self.serves.next() => {
                self.respond(served, &mut sender);
            },
            message = receiver.recv() => {
                let at = self.moment();
                let mut next = Some(message);
                let mut left = MESSAGES;
                while let Some(message) = next {
                    match message {
                        Ok((peer, Ok(message))) => self.received(at, peer, message, &mut sender),
                        Ok((peer, Err(err))) => {
                            trace!(?err, ?peer, "malformed message");
                            self.driver.metrics.malformed.inc();
                        }
                        Err(err) => {
                            error!(?err, "the network is gone");
                            return;
                        }
                    }
                    left -= 1;
                    next = if left > 0 { receiver.recv().now_or_never() } else { None };
                }
            },
            _ = more => {},
            on_end => {
                let at = self.moment();
                self.driver.time(at);
                self.driver.turn(at, &mut sender);
            },
        }
    }

    fn moment(&mut self) -> Moment {
        self.steady.at(self.context.current())
    }

    fn received<NetS>(&mut self, at: Moment, peer: P, message: Message<Key>, sender: &mut NetS)
    where
        NetS: Sender<PublicKey = P>,
    {
        match message.payload {
            Payload::Request(key) => {
                let refused = self.serves.requested(peer, message.id, key, at.wall);
                if let Some(refused) = refused {
                    self.respond(refused, sender);
                }
            }
            Payload::Response(bytes) => self.driver.response(at, &peer, message.id, bytes),
            Payload::Missing => self.driver.missing(at, &peer, message.id),
        }
    }

    fn respond<NetS>(&mut self, served: Served<P, SystemTime>, sender: &mut NetS)
    where
        NetS: Sender<PublicKey = P>,
    {
        let metrics = &mut self.driver.metrics;
        let payload = match served.bytes {
            Some(bytes) => {
                let took = self.context.current().duration_since(served.since);
                let took = took.unwrap_or_default().as_secs_f64();
                metrics.serve_duration.observe(took);
                metrics.serve.inc(Status::Success);
                Payload::Response(bytes)
            }
            None => {
                metrics.serve.inc(Status::Failure);
                Payload::<Key>::Missing
            }
        };
        let id = served.id;
        let message = Message { id, payload }.encode_iobufs();
        let to = Recipients::One(served.peer.clone());
        if sender.send(to, message, self.priority_responses).is_empty() {
            warn!(peer = ?served.peer, id, "answer not taken");
        }
    }
}

impl<E, P, D, B, Key, Con, Pro> fmt::Debug for Engine<E, P, D, B, Key, Con, Pro>
where
    E: Clock + Spawner + Rng + Registry,
    P: PublicKey,
    D: Provider<PublicKey = P>,
    B: Blocker<PublicKey = P>,
    Key: Span,
    Con: Consumer<Key = Key, Value = Bytes>,
    Pro: Producer<Key = Key>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}
