//! The account of a run, and what the oracle demands of it. Each rule has the name with which its
//! violations begin.
//!
//! - **right**: whoever is given the datum is given the right bytes, whole; each client has one outcome.
//! - **words**: an error is only what the origin has said (not there, changed), or, where the origin
//!   failed during the want, that it did. As long as the origin is well no client sees an error, whatever
//!   befalls members and links, but for those whose own member is gone, or stood still meanwhile: the time
//!   of its fetches may be over when it goes on.
//! - **asks**: who may ask the origin for a chunk. Without faults: its coordinator. With one lost member:
//!   its coordinator; if that is the one lost, the runner-up too; the runner-up also where one was cut
//!   off or stood still, whose own hedges bring it there; and itself, where it was cut off.
//!   Where the origin fails, or says something for good: its coordinator alone, unless that could not
//!   bring it.
//! - **once**: each byte of a chunk is read from the origin once, plus once for
//!   - each bad answer of the origin to a request for this chunk, and each hedge of an origin that is
//!     slower than the hedge (a second connection of the same member, as without a cluster);
//!   - each member whose list was wrong ("views": no more than this);
//!   - a loss of the coordinator: twice (the runner-up reads it; and it does itself when it is back, if
//!     it lost its disk, or if it was under way), or of a member that is cut off or stands still: once;
//!   - each bad link that ends at the coordinator or the runner-up: once;
//!   - where lists follow who is up, each loss: once more for each time that the list changes; and where
//!     more than one of the losses and bad links concern a chunk, once for each member: those that reach
//!     neither of the two read for themselves.
//! - **spread**: without faults nobody sends a chunk to more than its bound, in the time in which it is
//!   counted on to have it.
//! - **begins**: a relay begins no fetch.
//! - **stands in**: as long as its coordinator is well nobody is asked to stand in for a chunk, whatever
//!   relays die.
//! - **waits**: who serves as coordinator, stand-in or holder waits for no other member.
//! - **stall**: where one member is lost, or lists are wrong, no client of another member waits longer
//!   than the hedge and a second for the next byte; or than the hedge and what the origin takes for a
//!   chunk, where that is more: who stands in reads it from its beginning.
//! - **live**: when faults have ended all are answered, those who want something new at once, and what is
//!   new is read once, by one member.
//! - **held**: at the end nothing is held.

use crate::{
    member::Settings,
    sim::{LAST_CHUNKS, SETTLE},
    time::{MS, SEC},
    wire::{Note, Told},
    world::{Fault, Key, Theme},
};
use gannet_cluster::{Member as Name, Role, View, Words};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

#[derive(Debug)]
struct Client {
    member: usize,
    key: Key,
    since: u64,
    grew: u64,
    stall: u64,
    over: Option<(u64, bool)>,
}

/// The account of a run.
#[derive(Debug)]
pub struct Account {
    settings: Arc<Settings>,
    view: View,
    clients: BTreeMap<u64, Client>,
    /// How often each byte was read.
    reads: BTreeMap<Key, Vec<u32>>,
    /// Who asked the origin, when, and whether the answer was bad.
    asks: BTreeMap<Key, Vec<(u64, usize, bool)>>,
    serves: BTreeMap<(usize, Key), Vec<u64>>,
    stands_in: BTreeSet<Key>,
    /// What was broken.
    pub violations: Vec<String>,
    /// States reached.
    pub marks: BTreeMap<&'static str, u64>,
    /// The longest stall, and the most that a byte was read.
    pub most: BTreeMap<&'static str, u64>,
}

impl Account {
    /// Nothing has happened.
    pub fn new(settings: &Arc<Settings>) -> Self {
        let mut view = View::new(settings.names[0].clone());
        let all: Vec<Name> = settings.names[..settings.world.members].to_vec();
        view.looked(Some(all));
        Self {
            settings: Arc::clone(settings),
            view,
            clients: BTreeMap::new(),
            reads: BTreeMap::new(),
            asks: BTreeMap::new(),
            serves: BTreeMap::new(),
            stands_in: BTreeSet::new(),
            violations: Vec::new(),
            marks: BTreeMap::new(),
            most: BTreeMap::new(),
        }
    }

    /// A rule is broken.
    pub fn broken(&mut self, why: String) {
        self.violations.push(why);
    }

    fn most(&mut self, what: &'static str, value: u64) {
        let most = self.most.entry(what).or_default();
        *most = value.max(*most);
    }

    // ---- what happens ----

    /// A client wants something.
    pub fn wants(&mut self, now: u64, client: u64, member: usize, key: Key) {
        let client_of = Client {
            member,
            key,
            since: now,
            grew: now,
            stall: 0,
            over: None,
        };
        self.clients.insert(client, client_of);
    }

    /// A client leaves; whether it was still there.
    pub fn left(&mut self, client: u64) -> bool {
        let waits = self
            .clients
            .get(&client)
            .is_some_and(|client| client.over.is_none());
        if waits {
            self.clients.remove(&client);
        }
        waits
    }

    /// Bytes have come for a client.
    pub fn grew(&mut self, now: u64, client: u64) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.stall = client.stall.max(now - client.grew);
            client.grew = now;
        }
    }

    /// A client is told something.
    pub fn told(&mut self, now: u64, client: u64, told: &Told) {
        self.grew(now, client);
        let Some(of) = self.clients.get_mut(&client) else {
            return;
        };
        let (key, since, member) = (of.key, of.since, of.member);
        if of.over.is_some() {
            return self.broken(format!("right: client {client} has two outcomes"));
        }
        of.over = Some((now, matches!(told, Told::Datum(_))));
        let settings = Arc::clone(&self.settings);
        let world = &settings.world;
        match told {
            Told::Gone => {}
            Told::Datum(bytes) => {
                let right = bytes.len() as u64 == world.len(key.chunk)
                    && (0..).zip(bytes).all(|(at, byte)| *byte == key.byte(at));
                if !right {
                    self.broken(format!(
                        "right: client {client} is given wrong bytes of {key:?}"
                    ));
                }
            }
            Told::Failed(words) => {
                let sick = world.episodes.iter().any(|episode| {
                    let origin = matches!(episode.fault, Fault::Origin { .. });
                    origin && episode.from <= now && episode.until + 6 * SEC >= since
                });
                let stood_still = world.episodes.iter().any(|episode| {
                    let own = episode.fault == Fault::Freeze { member };
                    own && episode.from <= now && episode.until >= since
                });
                let said = match words {
                    Words::Missing => world.is_missing(key.chunk),
                    Words::Changed => world.version(key.chunk, now) != key.version,
                    Words::Denied => false,
                    Words::SlowDown => sick,
                    Words::Failed => sick || stood_still,
                };
                if !said {
                    self.broken(format!(
                        "words: client {client} is told {words:?} of {key:?}"
                    ));
                }
            }
        }
    }

    /// The origin is asked.
    pub fn asks_origin(&mut self, now: u64, member: usize, key: Key, bad: bool) {
        self.asks.entry(key).or_default().push((now, member, bad));
    }

    /// The origin sends bytes.
    pub fn reads(&mut self, key: Key, range: Range<u64>) {
        let len = usize::try_from(self.settings.world.len(key.chunk)).expect("small");
        let reads = self.reads.entry(key).or_insert_with(|| vec![0; len]);
        for at in range {
            reads[usize::try_from(at).expect("small")] += 1;
        }
    }

    /// A member notes something.
    pub fn note(&mut self, now: u64, member: usize, note: Note) {
        match note {
            Note::Mark(mark) => *self.marks.entry(mark).or_default() += 1,
            Note::Serves(key, _) => self.serves.entry((member, key)).or_default().push(now),
            Note::StandsIn(key) => {
                self.stands_in.insert(key);
            }
            Note::ServesReceived(_, Role::Relay) => {}
            Note::ServesReceived(key, role) => {
                self.broken(format!(
                    "waits: member {member} serves {key:?} as {role:?} and waits for another"
                ));
            }
            Note::Begins(key) => {
                self.broken(format!("begins: member {member} begins {key:?} as a relay"));
            }
        }
    }

    // ---- the oracle ----

    /// The longest that the origin takes for a chunk.
    fn origin_time(&self) -> u64 {
        let world = &self.settings.world;
        world.origin_latency.1 + 50 * world.origin_pace.1
    }

    /// Whether the origin may be slower than the hedge.
    fn is_slow(&self) -> bool {
        let world = &self.settings.world;
        world.origin_latency.1.max(world.origin_pace.1) >= world.hedge
    }

    /// The time in which all is answered once faults have ended.
    pub fn liveness(&self) -> u64 {
        let chunks = self.settings.world.lens.len() as u64 + u64::from(LAST_CHUNKS);
        // What has stalled runs into its time; then one after the other, and each twice if it is hedged.
        10 * SEC + 3 * chunks * self.origin_time()
    }

    /// The time in which those are answered who want something new when all is well.
    fn promptness(&self) -> u64 {
        SEC + 3 * u64::from(LAST_CHUNKS) * self.origin_time()
    }

    /// Coordinator and runner-up, as all see who see all.
    fn two(&self, key: Key) -> (usize, Option<usize>) {
        let (first, second) = self.view.ranked(key.placement());
        (
            self.settings.number(first),
            second.map(|second| self.settings.number(second)),
        )
    }

    /// The run is over.
    pub fn close(&mut self, now: u64) {
        self.judge_clients(now);
        let keys: Vec<Key> = self.asks.keys().copied().collect();
        for key in keys {
            self.judge_askers(key);
            self.judge_reads(key);
        }
        self.judge_spread();
        self.judge_stand_ins();
    }

    fn judge_stand_ins(&mut self) {
        let settings = Arc::clone(&self.settings);
        let world = &settings.world;
        let dead = match (world.theme, world.episodes.first().map(|e| &e.fault)) {
            (Theme::Calm | Theme::Words, _) => None,
            (Theme::OneLost, Some(Fault::Crash { member, .. })) => Some(*member),
            _ => return,
        };
        for key in std::mem::take(&mut self.stands_in) {
            let (first, _) = self.two(key);
            if dead != Some(first) {
                self.broken(format!(
                    "stands in: somebody is asked to for {key:?}, and {first} is well"
                ));
            }
        }
    }

    fn judge_clients(&mut self, now: u64) {
        let settings = Arc::clone(&self.settings);
        let world = &settings.world;
        let last = world.heals + SETTLE;
        let lost = world.episodes.iter().find_map(|e| e.fault.loses());
        let queues = world.origin_max < 16 || world.bytes_max < 1024 || self.is_slow();
        let measured = match world.theme {
            Theme::OneLost => true,
            Theme::Views | Theme::Calm => !queues,
            _ => false,
        };
        let mut found = Vec::new();
        let (live, prompt) = (world.heals + self.liveness(), self.promptness());
        let mut longest = 0;
        for (id, client) in &self.clients {
            let Some((over, good)) = client.over else {
                found.push(format!(
                    "live: client {id} waits at {} for {:?} at the end ({now})",
                    client.member, client.key
                ));
                continue;
            };
            let is_last = client.since >= last;
            if is_last && (!good || over > client.since + prompt) {
                found.push(format!(
                    "live: client {id} waits {} for something new",
                    over - client.since
                ));
            } else if !is_last && over > live {
                found.push(format!(
                    "live: client {id} waits until {over} for {:?}, and faults ended at {}",
                    client.key, world.heals
                ));
            }
            let bound = world.hedge + SEC.max(self.origin_time() + 300 * MS);
            if measured && lost != Some(client.member) {
                longest = longest.max(client.stall);
                if client.stall > bound {
                    found.push(format!(
                        "stall: client {id} at {} waits {} for a byte of {:?}",
                        client.member, client.stall, client.key
                    ));
                }
            }
        }
        self.most("stall ms", longest / 1_000_000);
        self.violations.extend(found);
    }

    fn judge_askers(&mut self, key: Key) {
        let settings = Arc::clone(&self.settings);
        let world = &settings.world;
        let (first, second) = self.two(key);
        let asks = self.asks.get(&key).cloned().unwrap_or_default();
        let is_last = key.chunk as usize >= world.lens.len();
        let mut may = BTreeSet::from([first]);
        match world.theme {
            _ if is_last => {}
            Theme::Calm | Theme::Words => {}
            Theme::OneLost => {
                for episode in &world.episodes {
                    match episode.fault {
                        Fault::Crash { member, .. } if member == first => may.extend(second),
                        Fault::Freeze { .. } => may.extend(second),
                        Fault::CutOff { member } => {
                            may.insert(member);
                            may.extend(second);
                        }
                        _ => {}
                    }
                }
            }
            Theme::Origin => {
                // One that could not bring it has asked twice at least, in vain.
                let bad = asks.iter().filter(|(.., bad)| *bad).count();
                if bad >= 2 {
                    return;
                }
            }
            Theme::Views | Theme::Links | Theme::Members | Theme::Storm => return,
        }
        let others: BTreeSet<usize> = asks
            .iter()
            .map(|(_, member, _)| *member)
            .filter(|m| !may.contains(m))
            .collect();
        if !others.is_empty() {
            self.broken(format!(
                "asks: {others:?} ask the origin for {key:?}, which is for {may:?}"
            ));
        }
    }

    fn judge_reads(&mut self, key: Key) {
        let most = self
            .reads
            .get(&key)
            .and_then(|reads| reads.iter().max())
            .copied();
        let most = u64::from(most.unwrap_or(0));
        let may = self.allowed(key);
        self.most("reads of a byte", most);
        if most > 1 {
            *self.marks.entry("read again").or_default() += 1;
        }
        if most > may {
            self.broken(format!(
                "once: a byte of {key:?} was read {most} times, and may be {may} times"
            ));
        }
    }

    /// How often a byte of this chunk may be read.
    fn allowed(&self, key: Key) -> u64 {
        let world = &self.settings.world;
        let (first, second) = self.two(key);
        let asks = self.asks.get(&key).map(Vec::as_slice).unwrap_or_default();
        let bad = asks.iter().filter(|(.., bad)| *bad).count() as u64;
        let mut fills = 1;
        if key.chunk as usize >= world.lens.len() {
            return if self.is_slow() { 2 } else { 1 };
        }
        let is_one = |member: usize| member == first || Some(member) == second;
        let (mut losses, mut links) = (0, 0);
        for episode in &world.episodes {
            match &episode.fault {
                Fault::Wrong { .. } => fills += 1,
                Fault::Crash { member, .. } => {
                    fills += 2 * u64::from(*member == first);
                    losses += u64::from(is_one(*member));
                }
                Fault::Freeze { member } | Fault::CutOff { member } => {
                    fills += 1 + u64::from(*member == first);
                    losses += u64::from(is_one(*member));
                }
                Fault::Cut { from, to } | Fault::Bad { from, to, .. } => {
                    let concerns = is_one(*from) || is_one(*to);
                    fills += u64::from(concerns);
                    links += u64::from(concerns);
                }
                Fault::Origin { .. } => {}
            }
            if world.lists_follow.is_some() && episode.fault.loses().is_some() {
                fills += 2;
                losses += 1;
            }
        }
        if losses + links > 1 {
            fills += world.members as u64;
        }
        let slow = u64::from(self.is_slow());
        fills * (1 + slow) + bad
    }

    fn judge_spread(&mut self) {
        let settings = Arc::clone(&self.settings);
        let world = &settings.world;
        if world.theme != Theme::Calm {
            return;
        }
        let bound = world.sends_max as usize;
        let mut found = Vec::new();
        for ((member, key), times) in &self.serves {
            let within = times
                .windows(bound + 1)
                .filter(|w| w[bound] - w[0] < 2 * SEC)
                .count();
            if within > 0 {
                found.push(format!(
                    "spread: member {member} sends {key:?} more than {bound} times"
                ));
            }
        }
        self.violations.extend(found);
    }
}

impl Fault {
    /// The member that is lost by it.
    pub const fn loses(&self) -> Option<usize> {
        match self {
            Self::Crash { member, .. } | Self::Freeze { member } | Self::CutOff { member } => {
                Some(*member)
            }
            _ => None,
        }
    }
}
