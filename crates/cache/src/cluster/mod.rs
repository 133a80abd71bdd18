//! The cluster as one cache in it sees it: who the members are, how they are reached, and what is
//! under way to and from them.
//!
//! ```text
//!   a client's want                        another member's question
//!         |                                          |
//!     core: who coordinates it?                  serve.rs: Desk says what to answer
//!      |               |                          |                |
//!    ours           others'                  begin or join     what is under way, or held
//!      |               |                          |                |
//!    home <--------- peer --- ask.rs -> members  home          home, peer, tiers
//!      |            (fallback)
//!  origins, stores
//! ```
//!
//! Two fetchers: *home* fetches what this member coordinates or must fetch itself, and waits for no
//! other member (but for what one holds already); *peer* asks others, and falls back on home. Each has
//! its own bounds on bytes and fetches, so that what waits for other members can never be in the way of
//! what they wait for. All decisions about who is asked and what is answered are `gannet-cluster`'s; failover, hedging
//! and health are the engine's.

mod admin;
mod answer;
mod ask;
mod frame;
mod message;
mod metrics;
mod node;
mod peer;
mod seal;
mod serve;
mod under_way;

pub(crate) use metrics::ClusterMetrics;
pub(crate) use node::{Joining, Node};
pub(crate) use peer::PeerTransport;
use serve::serve;

use crate::{
    key::CacheKey,
    select::{MEMBERS, Source, Sources},
    ttl::TtlMap,
    types::{ObjectError, ObjectName},
};
use arc_swap::ArcSwap;
use gannet::{Fetcher, Select, Soon, engine::SourceId, metrics::Page};

use gannet_cluster::{Ask, Change, Desk, Have, Member, Pace, Reply, SpreadConfig, Through, View};
use gannet_link::{Credentials, Links, ServerCounters};
use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;
use under_way::{Heard, Receiving};

/// What a member was told in vain is remembered for so long.
const WORDS_TTL: Duration = Duration::from_secs(5);
/// An etag that is gone is named to those who are asked anew for so long.
const GONE_TTL: Duration = Duration::from_secs(60);
/// After members have come or gone, a new coordinator asks the one before for so long.
const HANDOVER: Duration = Duration::from_secs(3600);
/// One that has left is asked for what it holds for so long, as long as it answers.
pub(crate) const LEAVERS_KEPT: Duration = Duration::from_secs(60);
/// In the peer fetcher: our own home fetcher.
pub(crate) const HOME: SourceId = SourceId(0);

/// Who the members are at one time, and what the engines call them.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) view: View,
    ids: HashMap<Member, SourceId>,
    /// Those that have left, and may still answer for what they hold.
    leavers: HashMap<Member, SourceId>,
    by_id: HashMap<SourceId, Member>,
    /// When members came or went last.
    changed: Instant,
}

/// The cluster as this member sees it.
pub(crate) struct Cluster {
    me: Member,
    desk: Mutex<Desk>,
    members: ArcSwap<Members>,
    credentials: Arc<Credentials>,
    links: Links,
    start: Instant,
    /// How long members wait for each other.
    pace: Pace,
    leaving: AtomicBool,
    /// When each was heard of last.
    heard: Mutex<HashMap<Member, Heard>>,
    /// What is being received from other members.
    pub(crate) receiving: Receiving,
    /// What others said of a key that could not be had.
    words: TtlMap<CacheKey, ObjectError>,
    /// Versions that the origin does not have any more.
    gone: TtlMap<ObjectName, Arc<str>>,
    metrics: ClusterMetrics,
    /// What the internal listener counts.
    server: Arc<ServerCounters>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("me", &self.me)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// A member that sees itself alone, until it is told of others.
    pub(crate) fn new(
        me: Member,
        sends_max: Option<NonZeroU32>,
        hedge_after: Duration,
        credentials: Arc<Credentials>,
        links: Links,
    ) -> Self {
        let now = Instant::now();
        let desk = match sends_max {
            Some(sends_max) => {
                let sends_max = sends_max.get();
                let spread = SpreadConfig {
                    sends_max,
                    ..SpreadConfig::default()
                };
                Desk::new(me.clone(), spread)
            }
            None => Desk::by_members(me.clone()),
        };
        let members = Members {
            view: desk.view().clone(),
            ids: HashMap::new(),
            leavers: HashMap::new(),
            by_id: HashMap::new(),
            changed: now,
        };
        Self {
            me,
            members: ArcSwap::from_pointee(members),
            desk: Mutex::new(desk),
            credentials,
            links,
            start: now,
            pace: Pace::new(hedge_after),
            leaving: AtomicBool::new(false),
            heard: Mutex::default(),
            receiving: Receiving::default(),
            words: TtlMap::new(4096, 1 << 20),
            gone: TtlMap::new(4096, 4 << 20),
            metrics: ClusterMetrics::default(),
            server: Arc::default(),
        }
    }

    /// Writes what is counted of the cluster.
    pub(crate) fn write(&self, page: &mut Page) {
        let members = self.members().view.members().len() as u64;
        page.gauge(
            "gannet_cluster_members",
            "Members of the cluster as this one sees it, itself included.",
        )
        .sample(&[], members);
        self.metrics.write(page);
        metrics::write_links(page, &self.server, &self.links.counters());
    }

    /// Ourselves.
    pub(crate) const fn me(&self) -> &Member {
        &self.me
    }

    /// Who the members are now.
    pub(crate) fn members(&self) -> arc_swap::Guard<Arc<Members>> {
        self.members.load()
    }

    /// Takes what a look at the members has brought; `None` where it failed.
    pub(crate) fn looked(&self, found: Option<Vec<Member>>) -> Change {
        self.metrics.looked(found.is_some());
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let change = desk.looked(found);
        if !change.is_empty() {
            self.see(desk.view(), Instant::now());
        }
        change
    }

    /// One that has left does not answer any more, or has had its time: what the engine calls it, if
    /// that is news.
    pub(crate) fn lost(&self, member: &Member) -> Option<SourceId> {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let source = self.members().leavers.get(member).copied();
        if desk.lost(member) {
            self.see(desk.view(), self.members().changed);
        }
        source
    }

    /// Takes the view of the desk, which is locked.
    fn see(&self, view: &View, changed: Instant) {
        let before = self.members();
        let others = view.members().filter(|member| **member != self.me);
        let ids: HashMap<Member, SourceId> = others
            .map(|member| {
                let known = before.ids.get(member).copied();
                // Never used again: what is remembered of a member is of one life of it.
                let new = || SourceId(MEMBERS + self.metrics.next_member());
                (member.clone(), known.unwrap_or_else(new))
            })
            .collect();
        let leavers: HashMap<Member, SourceId> = view
            .leavers()
            .filter_map(|member| {
                let known = before
                    .ids
                    .get(member)
                    .or_else(|| before.leavers.get(member));
                Some((member.clone(), *known?))
            })
            .collect();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|member, _| ids.contains_key(member) || leavers.contains_key(member));
        drop(heard);
        let all = ids.iter().chain(&leavers);
        let by_id = all.map(|(member, id)| (*id, member.clone())).collect();
        self.members.store(Arc::new(Members {
            view: view.clone(),
            ids,
            leavers,
            by_id,
            changed,
        }));
    }

    /// What to answer to a member that asks for this key, of which we have so much.
    fn answer(&self, key: &CacheKey, ask: &Ask, have: Have) -> Reply {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        desk.answer(self.now(), key.placement(), ask, have)
    }

    /// This member is about to leave: nobody hands anything over to it.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// How long members wait for each other.
    pub(crate) const fn pace(&self) -> Pace {
        self.pace
    }

    /// When something was heard of a member last, whatever it was about.
    fn heard(&self, member: &Member) -> Heard {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.entry(member.clone()).or_default().clone()
    }

    /// The time of all decisions of the cluster.
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The member at this address, with its weight if it is known.
    fn member(&self, address: &str) -> Member {
        let plain = Member::new(address);
        let members = self.members();
        let known = members.ids.get_key_value(&plain).map(|(known, _)| known);
        let all = members.ids.keys().chain(members.leavers.keys());
        let known = known.or_else(|| all.into_iter().find(|known| known.address() == address));
        known.cloned().unwrap_or(plain)
    }

    /// Whether this is one of the other members, as we see them.
    fn is_member(&self, member: &Member) -> bool {
        self.members().ids.contains_key(member)
    }

    /// Notes that the origin has another version by now.
    pub(crate) fn gone(&self, name: &ObjectName, etag: &Arc<str>) {
        let weight = name.bucket.len() + name.key.len() + etag.len();
        self.gone
            .insert(name.clone(), Arc::clone(etag), weight, GONE_TTL);
    }

    fn known_gone(&self, key: &CacheKey) -> Option<Arc<str>> {
        match key {
            CacheKey::Head(name) => Some(self.gone.get(name)?.value),
            _ => None,
        }
    }

    /// What a member said of a key that could not be had, if that is why it could not.
    pub(crate) fn words(&self, key: &CacheKey) -> Option<ObjectError> {
        Some(self.words.get(key)?.value)
    }

    /// The other members' questions are sent through these.
    pub(crate) const fn links(&self) -> &Links {
        &self.links
    }
}

/// Runs a member's words and frames through the parsers that read them. For fuzzing only: none may
/// panic, whatever comes, and no frame is read that was not written for this answer.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let mut decoder = frame::Decoder::new([0; 32]);
    for piece in bytes.chunks(bytes.first().map_or(1, |first| usize::from(*first).max(1))) {
        decoder.push(bytes::Bytes::copy_from_slice(piece));
    }
    assert!(!matches!(decoder.next(), Ok(Some(_))), "nobody wrote that");
    message::fuzz(bytes);
    answer::fuzz(bytes);
}

impl Members {
    /// Whether this member fetches a key for all.
    pub(crate) fn is_ours(&self, key: &CacheKey) -> bool {
        matches!(self.view.through(key.placement()), Through::Nobody)
    }

    /// The other members.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Member> {
        self.ids.keys()
    }

    /// What the engines call a member.
    pub(crate) fn id(&self, member: &Member) -> Option<SourceId> {
        self.ids.get(member).copied()
    }

    /// The member of this number.
    pub(crate) fn by_id(&self, id: SourceId) -> Option<&Member> {
        self.by_id.get(&id)
    }

    /// Who may hold what we are about to fetch from the origin, likeliest first (`View::holders`);
    /// where we coordinate it and no member has come or gone for long, nobody.
    pub(crate) fn holders(&self, key: &CacheKey) -> Vec<SourceId> {
        if self.changed.elapsed() > HANDOVER && self.is_ours(key) {
            return Vec::new();
        }
        let holders = self.view.holders(key.placement());
        holders.filter_map(|member| self.holder(member)).collect()
    }

    /// What the engines call a member, or one that has left and may still answer.
    pub(crate) fn holder(&self, member: &Member) -> Option<SourceId> {
        let left = || self.leavers.get(member).copied();
        self.id(member).or_else(left)
    }

    /// The sources of a key that others coordinate, best first.
    fn ranked(&self, key: &CacheKey) -> Vec<SourceId> {
        let members = match self.view.through(key.placement()) {
            Through::Nobody => [None, None],
            Through::Members { first, second } => [Some(first), second],
        };
        let ids = members.into_iter().flatten().filter_map(|m| self.id(m));
        ids.chain([HOME]).collect()
    }
}

/// Members, best first, and then we ourselves.
#[derive(Clone, Debug)]
pub(crate) struct PeerSelect(pub(crate) Arc<Cluster>);

impl Select<CacheKey> for PeerSelect {
    fn rank(&self, key: &CacheKey, _up: &[SourceId]) -> Soon<Vec<SourceId>> {
        Soon::Now(self.0.members().ranked(key))
    }
}

/// Tells the fetchers of members that came and went. Home goes on asking those that have left for
/// what they hold, as long as they answer; [`forget`] ends that.
pub(crate) fn apply<M: Clone + Send + Sync + 'static>(
    cluster: &Cluster,
    before: &Members,
    change: &Change,
    home: &Fetcher<CacheKey, M>,
    peer: &Fetcher<CacheKey, M>,
) {
    let now = cluster.members();
    for member in &change.went {
        let Some(id) = before.id(member) else {
            continue;
        };
        peer.remove_source(id);
        if !now.leavers.contains_key(member) {
            forget(cluster, home, member, id);
        }
    }
    for id in change.came.iter().filter_map(|member| now.id(member)) {
        for fetcher in [home, peer] {
            fetcher.add_source(id, Sources::group(Source::Member(id)));
        }
    }
}

/// One that has left has had its time.
pub(crate) fn forget<M: Clone + Send + Sync + 'static>(
    cluster: &Cluster,
    home: &Fetcher<CacheKey, M>,
    member: &Member,
    id: SourceId,
) {
    home.remove_source(id);
    let members = cluster.members();
    let is_back = |other: &Member| other.address() == member.address();
    if !members.ids.keys().any(is_back) {
        cluster.links.forget(member.address());
    }
}
