//! A node: an engine, ours or stock, with everything around it, from start to stop.

use super::{
    account::{Run, Terms, nanos_of},
    application::{Holder, Judge},
    host::{Inbox, Place, Port, Roll, Warden},
    planted::{Bend, Bent},
    state::Shared,
    world::{Kind, World, names},
};
use commonware_cryptography::ed25519::PublicKey;
use commonware_resolver::{Fetch, Resolver as _, TargetedResolver as _, p2p as stock};
use commonware_runtime::{Handle, Spawner as _, Supervisor as _, deterministic::Context};
use commonware_utils::{NonZeroDuration, channel::mpsc, vec::NonEmptyVec};
use gannet_commonware::Tuning;
use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

/// The mailbox of either engine.
#[derive(Clone, Debug)]
pub(crate) enum Mail {
    Ours(gannet_commonware::Mailbox<u64, PublicKey, u64>),
    Stock(StockMail),
}

/// The stock mailbox, which cannot be printed.
#[derive(Clone)]
pub(crate) struct StockMail(stock::Mailbox<u64, PublicKey, u64>);

impl std::fmt::Debug for StockMail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StockMail")
    }
}

/// One thing wanted: the key, by whom, and of whom.
pub(crate) type Want = (u64, u64, Option<Vec<usize>>);

fn fetch(key: u64, subscriber: u64) -> Fetch<u64, u64> {
    let span = tracing::Span::none();
    Fetch {
        key,
        subscriber,
        span,
    }
}

fn targets(peers: Vec<usize>) -> NonEmptyVec<PublicKey> {
    let names: Vec<PublicKey> = peers
        .into_iter()
        .map(|peer| names()[peer].clone())
        .collect();
    NonEmptyVec::try_from(names).expect("at least one target")
}

macro_rules! with {
    ($mail:expr, $it:ident => $do:expr) => {
        match $mail {
            Mail::Ours($it) => $do,
            Mail::Stock(StockMail($it)) => $do,
        }
    };
}

impl Mail {
    /// Wants these, one call each, or in as few calls as there can be.
    pub(crate) fn want(&mut self, wants: Vec<Want>, together: bool) {
        if !together {
            for (key, sub, peers) in wants {
                match peers {
                    None => with!(self, mail => mail.fetch(fetch(key, sub))),
                    Some(peers) => {
                        let targets = targets(peers);
                        with!(self, mail => mail.fetch_targeted(fetch(key, sub), targets))
                    }
                };
            }
            return;
        }
        let (mut any, mut only) = (Vec::new(), Vec::new());
        for (key, sub, peers) in wants {
            match peers {
                None => any.push(fetch(key, sub)),
                Some(peers) => only.push((fetch(key, sub), targets(peers))),
            }
        }
        with!(self, mail => mail.fetch_all(any));
        with!(self, mail => mail.fetch_all_targeted(only));
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(u64, u64) -> bool + Send + 'static) {
        with!(self, mail => mail.retain(move |key, sub| keep(*key, *sub)));
    }
}

/// A node that runs.
pub(crate) struct Node {
    pub(crate) run: usize,
    pub(crate) mail: Mail,
    pub(crate) bend: Bend,
    handle: Handle<()>,
}

/// How an engine comes to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    Abort,
    NetworkGone,
    MailboxDropped,
    PeersGone,
}

impl Node {
    /// Starts a node's engine, with nothing in it.
    pub(crate) fn start(
        context: &Context,
        shared: &Shared,
        node: usize,
        plant: Option<&'static str>,
    ) -> Self {
        let (world, run, messages) = shared.with(|sim, now| {
            let run = sim.runs.len();
            let world = sim.world.clone();
            sim.runs.push(Run::new(node, terms(&world, node)));
            let (inbox, messages) = mpsc::unbounded_channel();
            sim.net.desks[node].inbox = Some(inbox);
            sim.line(now, "**", format_args!("{node} starts as run {run}"));
            (world, run, messages)
        });
        let shared = shared.clone();
        let place = Place { shared, node, run };
        // Only our engine is bent: the stock one is not on trial.
        let plant = plant.filter(|_| world.peers[node].kind == Kind::Ours);
        let bend = Bend::new(plant, place.clone());
        let (mail, handle) = engine(context, &world, &bend, &place, messages);
        Self {
            run,
            mail,
            bend,
            handle,
        }
    }

    /// Stops it, in one of many ways; what was under way is forgotten. What is left is to be kept for
    /// a while, so that nothing else is what stops it.
    pub(crate) fn stop(self, shared: &Shared, node: usize, how: Stop) -> impl Send + use<> {
        let Self {
            run, mail, handle, ..
        } = self;
        let desk = shared.with(|sim, now| {
            sim.line(now, "**", format_args!("{node} stops: {how:?}"));
            sim.coverage.hit("stopped");
            sim.runs[run].stopped = Some(now);
            let desk = &mut sim.net.desks[node];
            (
                desk.inbox.take(),
                desk.peer_sets.take(),
                desk.blocked_sets.take(),
            )
        });
        let (mut inbox, mut peer_sets, blocked_sets) = desk;
        let mut mail = Some(mail);
        match how {
            Stop::Abort => handle.abort(),
            Stop::NetworkGone => inbox = None,
            Stop::MailboxDropped => mail = None,
            Stop::PeersGone => peer_sets = None,
        }
        (inbox, peer_sets, blocked_sets, mail)
    }
}

/// What the oracle holds a node to.
fn terms(world: &World, node: usize) -> Terms {
    let peer = &world.peers[node];
    let strict = peer.kind == Kind::Ours;
    Terms {
        timeout: nanos_of(peer.fetch_timeout),
        retry_delay: nanos_of(peer.retry_delay),
        width: match peer.hedge {
            Some(_) if strict => peer.width as usize,
            _ => 1,
        },
        serves_max: peer.serves_max,
        grace: world.grace(),
        strict,
    }
}

fn engine(
    context: &Context,
    world: &World,
    bend: &Bend,
    place: &Place,
    messages: mpsc::UnboundedReceiver<(usize, Vec<u8>)>,
) -> (Mail, Handle<()>) {
    let Place { node, run, .. } = *place;
    let peer = &world.peers[node];
    let bent = |name| bend.is(name);
    let fetch_timeout = match () {
        () if bent("short-timeout") => peer.fetch_timeout / 4,
        () if bent("long-timeout") => peer.fetch_timeout * 4,
        () => peer.fetch_timeout,
    };
    let me = Some(names()[node].clone());
    let config = stock::Config {
        peer_provider: Bent(Roll(place.clone()), bend.clone()),
        blocker: Bent(Warden(place.clone()), bend.clone()),
        consumer: Bent(Judge(place.clone()), bend.clone()),
        producer: Bent(Holder(place.clone()), bend.clone()),
        mailbox_size: NonZeroUsize::new(peer.mailbox).expect("at least one"),
        me: me.filter(|_| peer.knows_itself && !bent("asks-itself")),
        fetch_timeout: NonZeroDuration::new(fetch_timeout).expect("longer than nothing"),
        fetch_retry_delay: match bent("no-delay") {
            true => Duration::ZERO,
            false => peer.retry_delay,
        },
        priority_requests: run.is_multiple_of(2),
        priority_responses: run.is_multiple_of(3),
    };
    let label = match peer.kind {
        Kind::Ours => "ours",
        _ => "stock",
    };
    if bent("leaves-a-task") {
        // Not a child of what the engine is given, or it would end with it.
        let outside = context.child(label).child("left");
        drop(outside.spawn(|_| std::future::pending::<()>()));
    }
    let context = context
        .child(label)
        .with_attribute("node", node)
        .with_attribute("run", run);
    let inbox = Inbox {
        place: place.clone(),
        messages,
    };
    let network = (
        Bent(Port(place.clone()), bend.clone()),
        Bent(inbox, bend.clone()),
    );
    if peer.kind == Kind::Stock {
        let (engine, mail) = stock::Engine::new(context, config);
        return (Mail::Stock(StockMail(mail)), engine.start(network));
    }
    let tuning = Tuning {
        hedge: peer.hedge,
        attempts_max: NonZeroU32::new(peer.width).expect("at least two"),
        serves_max: match bent("serves-all") {
            true => NonZeroUsize::MAX,
            false => NonZeroUsize::new(peer.serves_max).expect("at least one"),
        },
    };
    let (engine, mail) = gannet_commonware::Engine::with_tuning(context, config, tuning);
    (Mail::Ours(mail), engine.start(network))
}
