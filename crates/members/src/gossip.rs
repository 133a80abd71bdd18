//! Members that tell each other who there is: chitchat's protocol, over datagrams that are sealed
//! where there is a key ([`sealed`]).
//!
//! Each member publishes its address and weight under one key, and who is alive makes the look. The
//! protocol ends itself over what a stranger can send where there is no key, and forgets nobody soon enough
//! to bound what one can make it remember: so it is begun anew whenever it ends or knows too many.
//!
//! ```text
//!              hears of others              ends, or knows too many
//!   [alone] ------------------> [among others] ------> [pause] ---> [alone]
//!      ^  told: None                 |  told: members     told: None
//!      +-----------------------------+
//!              all others are gone
//! ```

mod sealed;
#[cfg(test)]
mod tests;

pub(crate) use self::sealed::Shared;

use self::sealed::{Seal, Sealed};
use crate::{LEAVE_TIME_MAX, MembersError, Watching, fixed, found, looks};
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState,
};
use gannet_cluster::Member;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::UdpSocket,
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

/// Between two rounds, in each of which a member talks to a few others.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds after which everything is told again, though nothing has changed.
const TELL_ROUNDS: u32 = 5;
/// Rounds for which one that died is remembered, so that word of it from others does not revive it.
const REMEMBER_ROUNDS: u32 = 120;
/// Intervals between signs of life that are kept of each.
const INTERVALS_MAX: usize = 100;
/// How many times longer than usual a member may be silent.
const PATIENCE: f64 = 8.0;
/// Members that are talked to before leaving: they tell the others.
const FAREWELLS_MAX: usize = 16;

/// Rounds in which nobody new is found, after which one that joins says whom it has found; and those
/// after which it does in any case.
const QUIET_ROUNDS: u32 = 2;
const SETTLE_ROUNDS_MAX: u32 = 8;
/// What a member publishes itself under, and that it takes leave.
const MEMBER: &str = "member";
const LEFT: &str = "left";
/// A member in text: a name, a port, a weight.
const MEMBER_BYTES_MAX: usize = 300;

pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: SocketAddr,
    pub(crate) seeds: Vec<String>,
    pub(crate) me: Member,
    pub(crate) cluster: String,
    pub(crate) key: Option<[u8; 32]>,
}

pub(crate) async fn watch(
    config: Config,
    tell: impl FnMut(Option<Vec<Member>>) + Send + 'static,
) -> Result<Watching, MembersError> {
    watch_in_rounds(config, ROUND, tell).await
}

async fn watch_in_rounds(
    mut config: Config,
    round: Duration,
    tell: impl FnMut(Option<Vec<Member>>) + Send + 'static,
) -> Result<Watching, MembersError> {
    let advertise = config.advertise;
    config.advertise = found::reachable(advertise.ip(), advertise.port())
        .ok_or(MembersError::Unreachable(advertise))?;
    for seed in &config.seeds {
        fixed::address(seed).map_err(MembersError::Seed)?;
    }
    // Others read it from text, and have to arrive at the same.
    if fixed::member(&text(&config.me)).as_ref() != Ok(&config.me) {
        return Err(MembersError::Me(config.me));
    }
    let socket = bind(config.listen)
        .await
        .map_err(|error| MembersError::Listen {
            listen: config.listen,
            reason: error.to_string(),
        })?;
    let seal = config.key.map(|key| Seal::new(&key, &config.cluster));
    let shared = Arc::new(Shared::default());
    let (leave, left) = oneshot::channel();
    let gossip = Gossip {
        config,
        round,
        seal,
        shared: shared.clone(),
    };
    Ok(Watching {
        task: tokio::spawn(gossip.run(socket, left, tell)),
        leave: Some(leave),
        gossip: Some(shared),
    })
}

async fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(listen).await
}

/// Why following ended.
enum Ended {
    /// Nobody watches any more, or leave was taken.
    Done,
    /// The protocol ended.
    Broken(String),
}

struct Gossip {
    config: Config,
    round: Duration,
    seal: Option<Seal>,
    shared: Arc<Shared>,
}

impl Gossip {
    async fn run(
        self,
        socket: UdpSocket,
        mut left: oneshot::Receiver<()>,
        mut tell: impl FnMut(Option<Vec<Member>>) + Send,
    ) {
        let mut socket = Some(socket);
        loop {
            let ended = match self.begin(socket.take()).await {
                Ok(handle) => self.follow(handle, &mut left, &mut tell).await,
                Err(error) => Ended::Broken(error.to_string()),
            };
            let Ended::Broken(error) = ended else {
                return;
            };
            tracing::warn!(%error, "gossip broke off, and begins anew");
            tell(None);
            // Not all at once: they may all have broken off over the same.
            let pause = self.round + looks::jitter(self.round);
            tokio::select! {
                () = sleep(pause) => {}
                _ = &mut left => return,
            }
        }
    }

    async fn begin(&self, socket: Option<UdpSocket>) -> anyhow::Result<ChitchatHandle> {
        // In its first life it is no member before it has found the others: they would ask it at once for
        // what is theirs so far, and it could not know who has that.
        let published = match socket {
            Some(_) => Vec::new(),
            None => vec![(MEMBER.to_owned(), text(&self.config.me))],
        };
        let socket = match socket {
            Some(socket) => socket,
            None => bind(self.config.listen).await?,
        };
        // What tells this life of the member from earlier ones, and has to grow.
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let generation = since.map_or(0, |since| since.as_micros() as u64);
        let config = ChitchatConfig {
            // Short, for messages name everybody; generation and address tell members apart.
            chitchat_id: ChitchatId::new("m", generation, self.config.advertise),
            cluster_id: self.config.cluster.clone(),
            gossip_interval: self.round,
            listen_addr: self.config.listen,
            seed_nodes: self.config.seeds.clone(),
            failure_detector_config: FailureDetectorConfig::new(
                PATIENCE,
                INTERVALS_MAX,
                self.round * 5,
                self.round,
                self.round * REMEMBER_ROUNDS,
            ),
            marked_for_deletion_grace_period: self.round * REMEMBER_ROUNDS,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        self.shared.begin(None);
        let transport = Sealed::new(socket, self.seal.clone(), self.shared.clone());
        let handle = chitchat::spawn_chitchat(config, published, &transport).await?;
        self.shared.begin(Some(handle.chitchat()));
        Ok(handle)
    }

    /// Tells who is there, until it ends.
    async fn follow(
        &self,
        handle: ChitchatHandle,
        left: &mut oneshot::Receiver<()>,
        tell: &mut (impl FnMut(Option<Vec<Member>>) + Send),
    ) -> Ended {
        let chitchat = handle.chitchat();
        let mut changes = chitchat.lock().await.live_nodes_watcher();
        let ended = handle.termination_watcher();
        tokio::pin!(ended);
        // The first word comes when two rounds have brought nobody new: one that joins hears of the others
        // one by one, and would take itself for the coordinator of what it does not know who holds.
        let mut patience = self.round * 2;
        let mut unsettled = Some(Settling::default());
        loop {
            tokio::select! {
                result = &mut ended => {
                    let error = result.err().map_or_else(|| "it ended".into(), |error| error.to_string());
                    return Ended::Broken(error);
                }
                // An error says that it ended, which the other branch tells better.
                Ok(()) = changes.changed() => {}
                () = sleep(patience) => {}
                word = &mut *left => {
                    if word.is_ok() {
                        self.take_leave(&handle).await;
                    }
                    return Ended::Done;
                }
            }
            let (others, members) = {
                let chitchat = chitchat.lock().await;
                let me = chitchat.self_chitchat_id();
                let others = chitchat.live_nodes().filter(|id| *id != me);
                let others: BTreeSet<_> = others.map(|id| id.gossip_advertise_addr).collect();
                (others, members(&chitchat))
            };
            let is_found = !others.is_empty();
            if is_found && let Some(settling) = &mut unsettled {
                if let Some(more) = settling.wait(others, self.round) {
                    patience = more;
                    continue;
                }
                unsettled = None;
            }
            if is_found || !self.has_others_to_find() {
                self.publish(&handle).await;
            }
            let alone = members.iter().all(|member| *member == self.config.me);
            patience = self.round * TELL_ROUNDS;
            let look = if alone && self.has_others_to_find() {
                None
            } else {
                Some(found::in_order(members))
            };
            tell(look);
        }
    }

    /// Becomes a member to others.
    async fn publish(&self, handle: &ChitchatHandle) {
        handle
            .with_chitchat(|chitchat| {
                let me = chitchat.self_node_state();
                if me.get(MEMBER).is_none() {
                    me.set(MEMBER, text(&self.config.me));
                }
            })
            .await;
    }

    /// Whether there are seeds beside itself: then to be alone is to have failed.
    fn has_others_to_find(&self) -> bool {
        let me = self.config.advertise.to_string();
        self.config.seeds.iter().any(|seed| *seed != me)
    }

    /// Says that this member leaves to some, and waits until they have heard it.
    async fn take_leave(&self, handle: &ChitchatHandle) {
        let others: Vec<SocketAddr> = handle
            .with_chitchat(|chitchat| {
                chitchat.self_node_state().set(LEFT, "1");
                let me = chitchat.self_chitchat_id().clone();
                let others = chitchat.live_nodes().filter(|id| **id != me);
                let others = others.map(|id| id.gossip_advertise_addr);
                others.take(FAREWELLS_MAX).collect()
            })
            .await;
        let told = self.shared.told();
        for other in &others {
            // Were it ended, nobody could be told.
            let _ = handle.gossip(*other);
        }
        let all_told = self.shared.until_told(told + others.len() as u64);
        let _ = timeout(LEAVE_TIME_MAX / 2, all_told).await;
    }
}

/// Whom one that joins has found so far.
#[derive(Debug, Default)]
struct Settling {
    others: BTreeSet<SocketAddr>,
    /// When the first was found, and when the last came or went.
    since: Option<(Instant, Instant)>,
}

impl Settling {
    /// For how long to wait yet for others, now that these are found.
    fn wait(&mut self, others: BTreeSet<SocketAddr>, round: Duration) -> Option<Duration> {
        let now = Instant::now();
        let (first, last) = self.since.get_or_insert((now, now));
        if self.others != others {
            self.others = others;
            *last = now;
        }
        let until = (*last + round * QUIET_ROUNDS).min(*first + round * SETTLE_ROUNDS_MAX);
        Some(until.saturating_duration_since(now)).filter(|more| !more.is_zero())
    }
}

/// Who is alive, and has not left: of several lives of a member the latest.
fn members(chitchat: &Chitchat) -> Vec<Member> {
    let mut latest: BTreeMap<Arc<str>, (u64, Option<Member>)> = BTreeMap::new();
    for id in chitchat.live_nodes() {
        let state = chitchat.node_state(id);
        let Some(member) = state.and_then(published) else {
            continue;
        };
        let left = state.is_some_and(|state| state.contains_key(LEFT));
        let entry = latest.entry(member.address().into()).or_default();
        if entry.0 <= id.generation_id {
            *entry = (id.generation_id, (!left).then_some(member));
        }
    }
    let members = latest.into_values();
    members.filter_map(|(_, member)| member).collect()
}

/// What a member publishes; `None` until it has come, or if it makes no sense.
fn published(state: &NodeState) -> Option<Member> {
    let text = state.get(MEMBER)?;
    (text.len() <= MEMBER_BYTES_MAX)
        .then(|| fixed::member(text).ok())
        .flatten()
}

fn text(member: &Member) -> String {
    format!("{}*{}", member.address(), member.weight())
}
