//! The simulated world at work: events in the order of simulated time, links between members, an origin
//! whose reads are counted, and faults that begin and end.

use crate::{
    account::Account,
    member::{Member, Settings},
    time::{MS, SEC, time},
    wire::{Effect, Frame, Message, Said, Stream, Told},
    world::{Fault, Key, Want, World},
};
use gannet_sim::{rng::Rng, trace::Trace};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// From the end of the faults to the last clients: by then nobody backs off and all views are right.
pub const SETTLE: u64 = 12 * SEC;
/// Chunks that the last clients want, and nobody before them.
pub const LAST_CHUNKS: u32 = 4;
/// Events of a run.
const STEPS_MAX: u64 = 3_000_000;

#[derive(Clone, Debug)]
enum Event {
    Want(u64, Want),
    Leave(u64, usize),
    Deliver(usize, usize, Stream, Message),
    Origin(usize, u32, u64, Said),
    Arrives(usize, u32, u64, Said),
    Wake(usize, u32),
    Look(usize),
    Begin(usize),
    End(usize),
}

/// Whether a member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Up,
    Down { machine_up: bool },
    Frozen { until: u64 },
}

/// The world at work.
#[derive(Debug)]
pub struct Sim {
    settings: Arc<Settings>,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    numbers: u64,
    rng: Rng,
    members: Vec<Member>,
    runs: Vec<Run>,
    /// Who was up, and from when on.
    rosters: Vec<(u64, BTreeSet<usize>)>,
    disks: BTreeMap<usize, BTreeMap<Key, Vec<u8>>>,
    wakes: Vec<Option<u64>>,
    /// When the last message of a link arrives.
    links: BTreeMap<(usize, usize), u64>,
    /// Requests that the origin answers: the byte up to which it has.
    gets: BTreeMap<(usize, u32, u64), (Key, u64)>,
    active: BTreeSet<usize>,
    /// What happened, for the oracle.
    pub account: Account,
    /// What happened, in order.
    pub trace: Trace,
    /// Events so far.
    pub steps: u64,
}

impl Sim {
    /// The world of a seed.
    pub fn new(seed: u64, bug: Option<&'static str>, print: bool) -> Self {
        let world = World::draw(seed);
        let settings = Arc::new(Settings::new(world, bug));
        let world = &settings.world;
        let members: Vec<Member> = (0..world.members)
            .map(|id| Member::new(&settings, id, 0, BTreeMap::new()))
            .collect();
        let count = members.len();
        Self {
            now: 0,
            events: BTreeMap::new(),
            numbers: 0,
            rng: Rng::new(seed, 1),
            members,
            runs: vec![Run::Up; count],
            rosters: vec![(0, (0..count).collect())],
            disks: BTreeMap::new(),
            wakes: vec![None; count],
            links: BTreeMap::new(),
            gets: BTreeMap::new(),
            active: BTreeSet::new(),
            account: Account::new(&settings),
            trace: Trace::new(print),
            steps: 0,
            settings,
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.numbers += 1;
        self.events.insert((at.max(self.now), self.numbers), event);
    }

    /// Runs it to its end; the account is then to be judged.
    pub fn run(&mut self) {
        let settings = Arc::clone(&self.settings);
        let world = &settings.world;
        let line = format!("{world:?}");
        self.trace.line(time(0), "world", format_args!("{line}"));
        for member in 0..world.members {
            self.look(member);
        }
        for (n, episode) in world.episodes.iter().enumerate() {
            self.at(episode.from, Event::Begin(n));
            self.at(episode.until, Event::End(n));
        }
        let mut client = 0;
        for want in &world.wants {
            self.at(want.at, Event::Want(client, *want));
            client += 1;
        }
        // Everything is well, and has been for a while: all want what nobody wanted before.
        let last = world.heals + SETTLE;
        for chunk in 0..LAST_CHUNKS {
            for member in (0..world.members).chain(0..world.members) {
                let want = Want {
                    at: last + self.rng.range(0, 20 * MS),
                    member,
                    chunk: chunk + u32::try_from(world.lens.len()).expect("a few chunks"),
                    leaves: None,
                };
                self.at(want.at, Event::Want(client, want));
                client += 1;
            }
        }
        let end = last + self.account.liveness() + 25 * SEC;
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > end {
                break;
            }
            self.now = at;
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "livelock: {:?}", event);
            self.happen(event);
        }
        self.close();
    }

    fn close(&mut self) {
        for id in 0..self.members.len() {
            self.members[id].close(self.now);
            self.effects(id);
            if let Some(left) = self.members[id].leftovers() {
                self.account
                    .broken(format!("held: member {id} still holds {left}"));
            }
            self.members[id].peer.engine.check();
        }
        self.account.close(self.now);
    }

    fn happen(&mut self, event: Event) {
        let line = match &event {
            Event::Wake(..) | Event::Look(_) => None,
            event => Some(format!("{event:?}")),
        };
        if let Some(line) = line {
            self.trace
                .line(time(self.now), "<-", format_args!("{line}"));
        }
        let now = self.now;
        if let Some(member) = event.whose()
            && let Run::Frozen { until } = self.runs[member]
        {
            // It is as if it happened when it goes on.
            return self.at(until, event);
        }
        match event {
            Event::Begin(episode) => self.begin(episode),
            Event::End(episode) => self.end(episode),
            Event::Want(client, want) => self.want(client, want),
            Event::Leave(client, member) => {
                if self.account.left(client) {
                    self.members[member].leave(now, client);
                    self.effects(member);
                }
            }
            Event::Deliver(from, to, stream, message) => match self.runs[to] {
                Run::Down { machine_up } => {
                    if machine_up && matches!(message, Message::Ask { .. }) {
                        self.send(to, from, stream, Message::Reset);
                    }
                }
                _ => {
                    self.members[to].hear(now, from, stream, message);
                    self.effects(to);
                }
            },
            Event::Origin(member, life, attempt, said) => {
                self.origin_says((member, life, attempt), said);
            }
            Event::Arrives(member, life, attempt, said) => {
                if self.members[member].life == life && self.runs[member] == Run::Up {
                    self.members[member].origin_says(now, attempt, said);
                    self.effects(member);
                }
            }
            Event::Wake(member, life) => {
                if self.members[member].life != life {
                    return;
                }
                self.wakes[member] = None;
                if self.runs[member] == Run::Up {
                    if self.members[member].wakes().is_some_and(|at| at <= now) {
                        self.members[member].wake(now);
                    }
                    self.effects(member);
                }
            }
            Event::Look(member) => self.look(member),
        }
    }

    fn want(&mut self, client: u64, want: Want) {
        let now = self.now;
        let key = Key {
            chunk: want.chunk,
            // What a client knows of a version may be a little old.
            version: self
                .settings
                .world
                .version(want.chunk, now.saturating_sub(200 * MS)),
        };
        if !matches!(self.runs[want.member], Run::Up) {
            return;
        }
        self.account.wants(now, client, want.member, key);
        self.members[want.member].want(now, client, key);
        self.effects(want.member);
        if let Some(leaves) = want.leaves {
            self.at(leaves, Event::Leave(client, want.member));
        }
    }

    // ---- effects ----

    fn effects(&mut self, id: usize) {
        while !self.members[id].effects.is_empty() {
            for effect in std::mem::take(&mut self.members[id].effects) {
                let line = match &effect {
                    Effect::Note(_) | Effect::Grew(_) => None,
                    effect => Some(format!("{id} {effect:?}")),
                };
                if let Some(line) = line {
                    self.trace
                        .line(time(self.now), "->", format_args!("{line}"));
                }
                match effect {
                    Effect::Send(to, stream, message) => self.send(id, to, stream, message),
                    Effect::Get {
                        attempt,
                        key,
                        from_byte,
                    } => self.get((id, self.members[id].life, attempt), key, from_byte),
                    Effect::Abort { attempt } => {
                        self.gets.remove(&(id, self.members[id].life, attempt));
                    }
                    Effect::Tell(client, told) => self.account.told(self.now, client, &told),
                    Effect::Grew(client) => self.account.grew(self.now, client),
                    Effect::Note(note) => self.account.note(self.now, id, note),
                }
            }
        }
        if let Some(at) = self.members[id].wakes()
            && self.wakes[id].is_none_or(|before| at < before)
            && self.runs[id] == Run::Up
        {
            self.wakes[id] = Some(at);
            self.at(at, Event::Wake(id, self.members[id].life));
        }
    }

    fn send(&mut self, from: usize, to: usize, stream: Stream, message: Message) {
        let world = &self.settings.world;
        // Somebody who is not there.
        if to >= self.members.len() {
            return;
        }
        let (mut loss, mut double, mut spoil) = (0, 0, 0);
        for n in &self.active {
            match &world.episodes[*n].fault {
                Fault::CutOff { member } if *member == from || *member == to => return,
                Fault::Cut { from: a, to: b } if (*a, *b) == (from, to) => return,
                Fault::Bad {
                    from: a,
                    to: b,
                    loss: l,
                    double: d,
                    spoil: s,
                } if (*a, *b) == (from, to) => (loss, double, spoil) = (*l, *d, *s),
                _ => {}
            }
        }
        if loss > 0 && self.rng.permille(loss) {
            return;
        }
        let message = match message {
            Message::Frame(place, _) if spoil > 0 && self.rng.permille(spoil) => {
                Message::Frame(place, Frame::Spoilt)
            }
            message => message,
        };
        let delay = self.rng.range(world.link.0, world.link.1);
        let last = self.links.get(&(from, to)).copied().unwrap_or(0);
        let at = (self.now + delay).max(last);
        self.links.insert((from, to), at);
        if double > 0 && self.rng.permille(double) {
            self.at(at, Event::Deliver(from, to, stream, message.clone()));
        }
        self.at(at, Event::Deliver(from, to, stream, message));
    }

    // ---- the origin ----

    fn get(&mut self, whose: (usize, u32, u64), key: Key, from_byte: u64) {
        let now = self.now;
        let settings = Arc::clone(&self.settings);
        let world = &settings.world;
        let (mut busy, mut reset, mut stall, mut refuse) = (0, 0, 0, 0);
        for n in &self.active {
            if let Fault::Origin {
                busy: b,
                reset: r,
                stall: s,
                refuse: f,
            } = &world.episodes[*n].fault
            {
                (busy, reset, stall, refuse) = (busy + b, reset + r, stall + s, refuse + f);
            }
        }
        let len = world.len(key.chunk);
        self.gets.insert(whose, (key, from_byte));
        let say = |sim: &mut Self, at: u64, said| {
            let (member, life, attempt) = whose;
            sim.at(at, Event::Origin(member, life, attempt, said));
        };
        let mut at = now
            + self
                .rng
                .range(world.origin_latency.0, world.origin_latency.1);
        let refusal = if world.is_missing(key.chunk) {
            Some(Said::Missing)
        } else if world.version(key.chunk, now) != key.version {
            Some(Said::Changed)
        } else if self.rng.permille(busy) {
            Some(Said::Busy)
        } else {
            self.rng.permille(refuse).then_some(Said::Broken)
        };
        let faulty = matches!(refusal, Some(Said::Busy | Said::Broken));
        let (breaks, stalls) = (self.rng.permille(reset), self.rng.permille(stall));
        let cut = self.rng.range(from_byte, len);
        self.account
            .asks_origin(now, whose.0, key, faulty || breaks || stalls);
        if let Some(said) = refusal {
            return say(self, at, said);
        }
        say(self, at, Said::Open(len));
        let mut upto = from_byte;
        while upto < len {
            if (breaks || stalls) && upto >= cut {
                if breaks {
                    say(self, at, Said::Broken);
                }
                return;
            }
            upto = (upto + world.origin_piece).min(len);
            at += self.rng.range(world.origin_pace.0, world.origin_pace.1);
            say(self, at, Said::Bytes(upto));
        }
        say(self, at, Said::End);
    }

    fn origin_says(&mut self, whose: (usize, u32, u64), said: Said) {
        let Some((key, sent)) = self.gets.get_mut(&whose) else {
            return;
        };
        let (member, life, attempt) = whose;
        if let Said::Bytes(upto) = said {
            let (key, from) = (*key, *sent);
            *sent = upto;
            self.account.reads(key, from..upto);
        } else if !matches!(said, Said::Open(_)) {
            self.gets.remove(&whose);
        }
        self.happen(Event::Arrives(member, life, attempt, said));
    }

    // ---- faults ----

    fn begin(&mut self, n: usize) {
        self.active.insert(n);
        let settings = Arc::clone(&self.settings);
        match settings.world.episodes[n].fault {
            Fault::Crash {
                member,
                keeps_disk,
                machine_up,
            } if self.runs[member] == Run::Up => self.crash(member, keeps_disk, machine_up),
            Fault::Freeze { member } if self.runs[member] == Run::Up => {
                let until = settings.world.episodes[n].until;
                self.runs[member] = Run::Frozen { until };
            }
            Fault::Wrong { member, .. } => self.look(member),
            _ => {}
        }
    }

    fn end(&mut self, n: usize) {
        self.active.remove(&n);
        let settings = Arc::clone(&self.settings);
        match settings.world.episodes[n].fault {
            Fault::Crash { member, .. } if matches!(self.runs[member], Run::Down { .. }) => {
                let life = self.members[member].life + 1;
                let disk = self.disks.remove(&member).unwrap_or_default();
                self.members[member] = Member::new(&self.settings, member, life, disk);
                self.runs[member] = Run::Up;
                self.wakes[member] = None;
                self.roster(member, true);
                self.look_once(member);
            }
            Fault::Freeze { member } if matches!(self.runs[member], Run::Frozen { .. }) => {
                self.runs[member] = Run::Up;
                self.effects(member);
            }
            Fault::Wrong { member, .. } if self.runs[member] == Run::Up => self.look_once(member),
            _ => {}
        }
    }

    fn crash(&mut self, member: usize, keeps_disk: bool, machine_up: bool) {
        let (disk, connections) = self.members[member].die();
        self.effects(member);
        self.runs[member] = Run::Down { machine_up };
        if keeps_disk {
            self.disks.insert(member, disk);
        }
        if machine_up {
            for (other, stream) in connections {
                self.send(member, other, stream, Message::Reset);
            }
        }
        self.roster(member, false);
    }

    fn roster(&mut self, member: usize, up: bool) {
        let Some((_, roster)) = self.rosters.last() else {
            return;
        };
        let mut roster = roster.clone();
        if up {
            roster.insert(member);
        } else {
            roster.remove(&member);
        }
        self.rosters.push((self.now, roster));
    }

    // ---- views ----

    fn look(&mut self, member: usize) {
        if self.runs[member] == Run::Up {
            self.look_once(member);
        }
        let again = self.now + self.settings.world.look_every;
        if again < self.settings.world.heals + SETTLE / 2 {
            self.at(again, Event::Look(member));
        }
    }

    fn look_once(&mut self, member: usize) {
        let settings = Arc::clone(&self.settings);
        let world = &settings.world;
        let wrong = self
            .active
            .iter()
            .find_map(|n| match &world.episodes[*n].fault {
                Fault::Wrong { member: m, sees } if *m == member => Some(sees.clone()),
                _ => None,
            });
        let found = match (wrong, world.lists_follow) {
            (Some(sees), _) => sees,
            (None, None) => Some((0..world.members).collect()),
            (None, Some(delay)) => {
                let then = self.now.saturating_sub(delay);
                let roster = self.rosters.iter().rev().find(|(since, _)| *since <= then);
                roster.map(|(_, roster)| roster.iter().copied().collect())
            }
        };
        self.members[member].look(self.now, found);
        self.effects(member);
    }
}

impl Event {
    /// Whose event it is: one that stands still does not see it before it goes on.
    const fn whose(&self) -> Option<usize> {
        match self {
            Self::Want(_, want) => Some(want.member),
            Self::Leave(_, member) | Self::Wake(member, _) | Self::Look(member) => Some(*member),
            Self::Deliver(_, to, ..) => Some(*to),
            Self::Arrives(member, ..) => Some(*member),
            Self::Origin(..) | Self::Begin(_) | Self::End(_) => None,
        }
    }
}

/// Whether a client was told what it wanted.
pub const fn is_datum(told: &Told) -> bool {
    matches!(told, Told::Datum(_))
}
