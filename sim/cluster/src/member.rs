//! A simulated member: two engines, a desk, errands, and the glue between them.
//!
//! The glue is what the cache does in its async code, so it is kept small: every decision that it leans
//! on is `gannet_cluster`'s or the engine's. What is asked of others is in `asking.rs`, what others ask
//! in `serving.rs`; here are clients, tiers, views and time.

use crate::{
    fetcher::{Fetcher, Reader, Sink, Way, Which},
    serving::Serving,
    time::{SEC, nanos, span, time},
    wire::{Effect, Note, Stream, Told},
    world::{Key, World},
};
use gannet_cluster::{Desk, Member as Name, Pace, SpreadConfig, Through};
use gannet_engine::{
    AttemptId, Backoff, Commit, Config, Engine, FetchId, GroupId, HealthConfig, Hedge, Input,
    Lifetime, Limits, Plan, Retry, Scope, SourceId, Targets, WaiterId, Want,
};
use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

/// For how long a member is counted on to have what it received.
const KEEP: u64 = 2 * SEC;
/// For how long it keeps it: longer, for it has to be there when it is counted on.
const MEMORY: u64 = 2 * KEEP;

/// In the peer engine: the home engine of the same member.
pub const HOME: SourceId = SourceId(1);
/// In the home engine: two connections to the origin.
pub const LANES: [SourceId; 2] = [SourceId(1), SourceId(2)];

/// A member as a source.
pub const fn source_of(member: usize) -> SourceId {
    SourceId(10 + member as u64)
}

/// What the engine calls a group.
const ORIGIN: GroupId = GroupId(1);
const MEMBERS: GroupId = GroupId(2);

/// What is on a disk.
pub type Disk = BTreeMap<Key, Vec<u8>>;

/// What all members are told alike.
#[derive(Debug)]
pub struct Settings {
    /// Names by number, those of members that never were among them.
    pub names: Vec<Name>,
    /// Delays.
    pub pace: Pace,
    /// The world.
    pub world: World,
    /// The bug that is planted.
    pub bug: Option<&'static str>,
    peer_plan: Arc<Plan>,
    home_plan: Arc<Plan>,
}

impl Settings {
    /// For the members of this world.
    pub fn new(world: World, bug: Option<&'static str>) -> Self {
        let hedge = span(world.hedge);
        let retry = |total| Retry::Budget {
            tries: 3,
            total,
            backoff: Backoff {
                base: Duration::from_millis(100),
                growth_permille: 2000,
                cap: Duration::from_secs(2),
                jitter_permille: 200,
            },
        };
        let plan = Plan {
            hedge: Some(Hedge::After(hedge)),
            first_byte_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(3),
            total_timeout: Duration::from_secs(60),
            retry: retry(Duration::from_secs(5)),
            resume: true,
            body_bytes_max: 64,
            commit: Commit::AfterServe,
            lifetime: Lifetime::Detached {
                ceiling: Duration::from_secs(20),
            },
            ..Plan::default()
        };
        Self {
            names: (0..world.members + 2)
                .map(|n| Name::new(&format!("m{n}")))
                .collect(),
            pace: Pace::new(hedge),
            world,
            bug,
            // The clock of a budget begins with the first attempt, which asks a holder; the next may have
            // to wait for the origin.
            home_plan: Arc::new(Plan {
                retry: retry(Duration::from_secs(30)),
                ..plan.clone()
            }),
            peer_plan: Arc::new(plan),
        }
    }

    /// The number of a member.
    pub fn number(&self, name: &Name) -> usize {
        let found = self.names.iter().position(|other| other == name);
        found.expect("members name members")
    }
}

/// A simulated member.
#[derive(Debug)]
pub struct Member {
    pub(crate) settings: Arc<Settings>,
    /// Its number.
    pub id: usize,
    /// In which of its lives it is.
    pub life: u32,
    /// Its view, and what it answers.
    pub desk: Desk,
    /// Waits for other members.
    pub peer: Fetcher,
    /// Waits for the origin.
    pub home: Fetcher,
    pub(crate) disk: Disk,
    pub(crate) memory: BTreeMap<Key, (Vec<u8>, u64)>,
    /// Connections that it has opened, and for which attempt.
    pub(crate) asked: BTreeMap<Stream, (Which, AttemptId)>,
    /// Connections on which it serves.
    pub(crate) serving: BTreeMap<Stream, Serving>,
    clients: BTreeMap<u64, (Which, WaiterId)>,
    numbers: u64,
    /// What it has done since it was asked last.
    pub effects: Vec<Effect>,
}

impl Member {
    /// One that begins, with what is on its disk.
    pub fn new(settings: &Arc<Settings>, id: usize, life: u32, disk: Disk) -> Self {
        let world = &settings.world;
        let limits = |most: u32| Limits {
            concurrent_max: NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN),
            rate: None,
            within: None,
        };
        let config = Config {
            bytes_max: world.bytes_max,
            // What a member is asked is bounded by the bytes of the asker. A bound on each would send
            // the asker on to the runner-up, as if the coordinator were lost.
            source_limits: limits(u32::MAX),
            health: HealthConfig {
                backoff: Backoff {
                    base: Duration::from_millis(500),
                    growth_permille: 2000,
                    cap: Duration::from_secs(3),
                    jitter_permille: 200,
                },
                busy_pause: Duration::from_millis(200),
                pause_max: Duration::from_secs(2),
                probe_interval: Duration::from_secs(3),
                ..HealthConfig::default()
            },
            ..Config::default()
        };
        let seed = (id as u64) << 8 | u64::from(life) << 1;
        let engine = |n| Engine::new(config.clone(), seed + n).expect("all bounds are above zero");
        let sends_max = match settings.bug {
            Some("spread-bound-forgotten") => u32::MAX,
            _ => world.sends_max,
        };
        let spread = SpreadConfig {
            sends_max,
            keep: span(KEEP),
            data_max: 1024,
        };
        let mut member = Self {
            settings: Arc::clone(settings),
            id,
            life,
            desk: Desk::new(settings.names[id].clone(), spread),
            peer: Fetcher::new(engine(0)),
            home: Fetcher::new(engine(1)),
            disk,
            memory: BTreeMap::new(),
            asked: BTreeMap::new(),
            serving: BTreeMap::new(),
            clients: BTreeMap::new(),
            numbers: 0,
            effects: Vec::new(),
        };
        let up = |source, group| Input::SourceUp { source, group };
        member.peer.feed(0, up(HOME, ORIGIN));
        for lane in LANES {
            member.home.feed(0, up(lane, ORIGIN));
        }
        let scope = Scope::Group(ORIGIN);
        let limits = limits(world.origin_max);
        member.home.feed(0, Input::Limit { scope, limits });
        member
    }

    pub(crate) fn is_planted(&self, bug: &str) -> bool {
        self.settings.bug == Some(bug)
    }

    pub(crate) fn note(&mut self, note: Note) {
        self.effects.push(Effect::Note(note));
    }

    pub(crate) fn mark(&mut self, mark: &'static str) {
        self.note(Note::Mark(mark));
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) const fn fetcher(&mut self, which: Which) -> &mut Fetcher {
        match which {
            Which::Peer => &mut self.peer,
            Which::Home => &mut self.home,
        }
    }

    // ---- tiers ----

    /// What it has of a datum, whole.
    pub(crate) fn held(&mut self, now: u64, key: &Key) -> Option<Vec<u8>> {
        if let Some(bytes) = self.disk.get(key) {
            return Some(bytes.clone());
        }
        let (bytes, until) = self.memory.get_mut(key).filter(|(_, until)| *until > now)?;
        *until = now + MEMORY;
        Some(bytes.clone())
    }

    /// What came from a member is kept in memory: the disk of who filled it holds the copy.
    pub(crate) fn keep(&mut self, now: u64, which: Which, key: Key, bytes: Vec<u8>) {
        match which {
            Which::Home => {
                self.disk.insert(key, bytes);
            }
            Which::Peer => {
                self.memory.insert(key, (bytes, now + MEMORY));
            }
        }
    }

    // ---- clients ----

    /// A client wants a datum.
    pub fn want(&mut self, now: u64, client: u64, key: Key) {
        if let Some(bytes) = self.held(now, &key) {
            self.mark("hit");
            return self.effects.push(Effect::Tell(client, Told::Datum(bytes)));
        }
        let which = match self.desk.view().through(key.placement()) {
            Through::Nobody => Which::Home,
            Through::Members { .. } => Which::Peer,
        };
        let waiter = self.join(now, which, key, Sink::Client(client), 0);
        self.clients.insert(client, (which, waiter));
        self.turn(now);
        self.read_on(now, which, waiter);
    }

    /// A client leaves.
    pub fn leave(&mut self, now: u64, client: u64) {
        if let Some((which, waiter)) = self.clients.remove(&client) {
            self.release(now, which, waiter);
            self.turn(now);
        }
    }

    pub(crate) fn told(&mut self, client: u64, told: Told) {
        self.clients.remove(&client);
        self.effects.push(Effect::Tell(client, told));
    }

    /// Clients that wait.
    pub fn waiting(&self) -> Vec<u64> {
        self.clients.keys().copied().collect()
    }

    // ---- waiters ----

    /// Joins a fetch, or begins it.
    pub(crate) fn join(
        &mut self,
        now: u64,
        which: Which,
        key: Key,
        sink: Sink,
        at: u64,
    ) -> WaiterId {
        let waiter = WaiterId(self.number());
        let plan = match which {
            Which::Peer => &self.settings.peer_plan,
            Which::Home => &self.settings.home_plan,
        };
        let want = Want {
            targets: Targets::Ranked,
            priority: 100,
            owner: 0,
            deadline: None,
            plan: Arc::clone(plan),
        };
        let fetcher = self.fetcher(which);
        fetcher.feed(now, Input::Want { waiter, key, want });
        let fetch = fetcher.engine.fetch_of(waiter).unwrap_or(FetchId(u64::MAX));
        let opened = false;
        fetcher.readers.insert(
            waiter,
            Reader {
                fetch,
                at,
                opened,
                sink,
            },
        );
        waiter
    }

    pub(crate) fn release(&mut self, now: u64, which: Which, waiter: WaiterId) {
        let fetcher = self.fetcher(which);
        if fetcher.readers.remove(&waiter).is_some() {
            fetcher.feed(now, Input::Release { waiter });
        }
    }

    // ---- views ----

    /// Takes what a look at the members has brought.
    pub fn look(&mut self, now: u64, found: Option<Vec<usize>>) {
        let names = found.map(|found| {
            found
                .iter()
                .map(|n| self.settings.names[*n].clone())
                .collect()
        });
        let change = self.desk.looked(names);
        if change.is_empty() {
            return;
        }
        self.mark("view changed");
        for name in change.came {
            let source = source_of(self.settings.number(&name));
            let group = MEMBERS;
            self.peer.feed(now, Input::SourceUp { source, group });
            self.home.feed(now, Input::SourceUp { source, group });
        }
        for name in change.went {
            let source = source_of(self.settings.number(&name));
            self.peer.feed(now, Input::SourceDown { source });
        }
        // Those that are gone are asked for what they hold, as long as they answer.
        let view = self.desk.view();
        let known: Vec<&Name> = view.members().chain(view.leavers()).collect();
        let all = 0..self.settings.names.len();
        let forgotten: Vec<usize> = all
            .filter(|n| !known.contains(&&self.settings.names[*n]))
            .collect();
        if view.leavers().len() > 0 {
            self.mark("leaver kept");
        }
        for source in forgotten.into_iter().map(source_of) {
            self.home.feed(now, Input::SourceDown { source });
        }
        self.turn(now);
    }

    // ---- time ----

    /// When it has something to do by itself.
    pub fn wakes(&self) -> Option<u64> {
        let pace = self.settings.pace;
        let engines = [&self.peer, &self.home].map(|fetcher| fetcher.engine.poll_timeout());
        let engines = engines.into_iter().flatten().map(|at| at.as_nanos());
        let beats = self.serving.values().filter_map(|serving| serving.beats);
        let own_beats = self.peer.ways.values().filter_map(|(_, way)| match way {
            Way::Home(_, beats) => Some(*beats),
            _ => None,
        });
        let beats = beats.chain(own_beats).map(|beats| nanos(beats.due()));
        let ways = self.peer.ways.values().chain(self.home.ways.values());
        let patience = ways.filter_map(|(_, way)| match way {
            Way::Trip(trip) => trip.patience_ends(pace),
            _ => None,
        });
        let patience = patience.filter(|_| !self.is_planted("patience-without-end"));
        engines.chain(beats).chain(patience).min()
    }

    /// Time has come.
    pub fn wake(&mut self, now: u64) {
        self.memory.retain(|_, (_, until)| *until > now);
        self.peer.engine.handle_timeout(time(now));
        self.home.engine.handle_timeout(time(now));
        self.turn(now);
        self.beat(now);
        self.lose_patience(now);
    }

    // ---- ends ----

    /// It dies: its disk is left, and its connections, for those at their other ends.
    pub fn die(&mut self) -> (Disk, Vec<(usize, Stream)>) {
        for client in std::mem::take(&mut self.clients).into_keys() {
            self.effects.push(Effect::Tell(client, Told::Gone));
        }
        let serving = self.serving.keys().map(|stream| (stream.asker, *stream));
        let ways = self.peer.ways.values().chain(self.home.ways.values());
        let asked = ways.filter_map(|(_, way)| match way {
            Way::Trip(trip) => Some((self.settings.number(trip.errand.at()), trip.stream?)),
            _ => None,
        });
        let connections = serving.chain(asked).collect();
        (std::mem::take(&mut self.disk), connections)
    }

    /// All its sources go: what is left then is held in error.
    pub fn close(&mut self, now: u64) {
        self.look(now, Some(vec![self.id]));
        let leavers: Vec<Name> = self.desk.view().leavers().cloned().collect();
        for name in leavers {
            self.desk.lost(&name);
            let source = source_of(self.settings.number(&name));
            self.home.feed(now, Input::SourceDown { source });
        }
        self.peer.feed(now, Input::SourceDown { source: HOME });
        for source in LANES {
            self.home.feed(now, Input::SourceDown { source });
        }
        self.turn(now);
        for member in 0..self.settings.names.len() {
            let source = source_of(member);
            self.peer.feed(now, Input::Forget { source });
            self.home.feed(now, Input::Forget { source });
        }
        self.peer.feed(now, Input::Forget { source: HOME });
        for source in LANES {
            self.home.feed(now, Input::Forget { source });
        }
    }

    /// What it still holds, if anything.
    pub fn leftovers(&self) -> Option<String> {
        let empty = |fetcher: &Fetcher| fetcher.is_empty() && fetcher.engine.is_empty();
        let nothing = empty(&self.peer)
            && empty(&self.home)
            && self.asked.is_empty()
            && self.serving.is_empty()
            && self.clients.is_empty();
        (!nothing).then(|| {
            format!(
                "peer {:?} {:?}, home {:?} {:?}, asked {:?}, serving {:?}, clients {:?}",
                self.peer.engine,
                self.peer.ways,
                self.home.engine,
                self.home.ways,
                self.asked,
                self.serving,
                self.clients
            )
        })
    }
}
