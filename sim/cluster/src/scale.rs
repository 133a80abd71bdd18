//! A large cluster that starts on cold data, in simulated time.
//!
//! The decisions are the crate's: placement by `View::ranked`, `Spread` at each coordinator, an `Errand`
//! for each read. Attempts are lighter than the engine's: a read goes to the coordinator, to the runner-up
//! after a hedge of silence, to the origin at last; a member that was silent is not asked again.
//!
//! Links are queues: each member sends one chunk after the other at its full rate, and receives so; a
//! chunk is passed on as it comes (a reader may begin when its source has, and ends no sooner). Members
//! that die do so without a word, at random times while the others read; a broken transfer is repeated
//! whole, and all that waits behind it finds out by itself.

use crate::time::{MS, SEC, US};
use gannet_cluster::{
    Answer, Errand, Member as Name, Reply, Role, Spread, SpreadConfig, Step, View,
};
use gannet_sim::rng::Rng;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    time::Duration,
};

/// Bits a second of a member, in each direction, and of the origin.
const MEMBER_RATE: u64 = 25_000_000_000;
const ORIGIN_RATE: u64 = 100_000_000_000;
/// Delay of a message between members, and to the origin or back.
const NEAR: u64 = 200 * US;
const FAR: u64 = 20 * MS;
const HEDGE: u64 = SEC;
/// A read that takes longer has failed.
const DEADLINE: u64 = 30 * SEC;
/// Chunks that a member reads at once.
pub const WINDOW: u32 = 8;

/// What is read.
#[derive(Clone, Debug)]
pub enum Load {
    /// So many chunks, all by all, in order.
    InOrder(u32),
    /// So many reads by each, of so many chunks, by a Zipf law.
    Zipf(u32, u32),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Scene {
    /// How many members.
    pub members: usize,
    /// Bytes in a chunk.
    pub chunk: u64,
    /// What is read.
    pub load: Load,
    /// Members that die meanwhile.
    pub die: usize,
    /// How often one sends a chunk.
    pub sends_max: u32,
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Bytes read from the origin over bytes that were wanted.
    pub origin: f64,
    /// Bytes sent by the busiest member over the mean.
    pub busiest: f64,
    /// Seconds to the last member.
    pub last: f64,
    /// At best.
    pub ideal: f64,
    /// The longest read, in seconds.
    pub longest: f64,
    /// Reads that were begun.
    pub reads: u64,
    /// Of these, failed, where the member that read has lived on.
    pub failed: u64,
    /// Transfers begun anew.
    pub again: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A question arrives: who asks, for what, whom, which of its attempts.
    Ask(u32, u32, u32, u32),
    /// The first byte is there.
    First(u32, u32, u32),
    /// The last byte is there.
    Done(u32, u32, u32),
    /// Silence has lasted too long.
    Silent(u32, u32, u32),
    /// A member dies.
    Die(u32),
}

/// A datum that a member fetches.
#[derive(Debug)]
struct Read {
    since: u64,
    /// Counts its attempts.
    attempt: u32,
    errand: Option<Errand>,
    /// Whether it asks the runner-up by now.
    stands_in: bool,
    /// Where its bytes come from, once somebody serves.
    source: Option<u32>,
    /// When its first byte is there, and its last.
    first: Option<u64>,
    end: u64,
    readers: Vec<(u32, u32)>,
    /// Whether the member itself wants it.
    wanted: bool,
}

#[derive(Debug)]
struct Node {
    alive: bool,
    sends_free: u64,
    receives_free: u64,
    sent: u64,
    /// What it has read or reads of its list.
    next: u32,
    under_way: u32,
    over: u64,
    spread: Spread,
    silent: HashSet<u32>,
}

#[derive(Debug)]
struct Run<'a> {
    scene: &'a Scene,
    now: u64,
    numbers: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    names: Vec<Name>,
    ranks: Vec<(u32, u32)>,
    nodes: Vec<Node>,
    /// A bit for each chunk that a member has.
    held: Vec<Vec<u64>>,
    reads: HashMap<(u32, u32), Read>,
    lists: Vec<Vec<u32>>,
    origin_free: u64,
    origin_sent: u64,
    outcome: Outcome,
}

const fn took(bytes: u64, rate: u64) -> u64 {
    (bytes as u128 * 8 * SEC as u128 / rate as u128) as u64
}

impl Scene {
    /// Runs it.
    pub fn run(&self) -> Outcome {
        let mut rng = Rng::new(11, 3);
        let names: Vec<Name> = (0..self.members)
            .map(|n| Name::new(&format!("m{n}")))
            .collect();
        let mut view = View::new(names[0].clone());
        view.looked(Some(names.clone()));
        let chunks = match self.load {
            Load::InOrder(chunks) => chunks,
            Load::Zipf(_, chunks) => chunks,
        };
        let ranks = (0..chunks)
            .map(|chunk| {
                let key = gannet_sim::rng::mix(&[9, chunk.into()]);
                let (first, second) = view.ranked(key);
                (number(first), second.map_or(0, number))
            })
            .collect();
        let lists: Vec<Vec<u32>> = match self.load {
            Load::InOrder(_) => Vec::new(),
            Load::Zipf(reads, chunks) => {
                let weights: Vec<f64> = (1..=chunks).map(|n| 1.0 / f64::from(n)).collect();
                let mut sums = weights;
                for n in 1..sums.len() {
                    sums[n] += sums[n - 1];
                }
                let total = sums[sums.len() - 1];
                let draw = |rng: &mut Rng| {
                    let at = rng.range(0, 1 << 40) as f64 / (1_u64 << 40) as f64 * total;
                    sums.partition_point(|sum| *sum < at).min(sums.len() - 1) as u32
                };
                (0..self.members)
                    .map(|_| (0..reads).map(|_| draw(&mut rng)).collect())
                    .collect()
            }
        };
        let config = SpreadConfig {
            sends_max: self.sends_max,
            // Less than the default, for all the trees are in one process here.
            keep: Duration::from_secs(5),
            ..SpreadConfig::default()
        };
        let node = |_| Node {
            alive: true,
            sends_free: 0,
            receives_free: 0,
            sent: 0,
            next: 0,
            under_way: 0,
            over: 0,
            spread: Spread::new(config),
            silent: HashSet::new(),
        };
        let words = chunks as usize / 64 + 1;
        let mut run = Run {
            scene: self,
            now: 0,
            numbers: 0,
            events: BinaryHeap::new(),
            names,
            ranks,
            nodes: (0..self.members).map(node).collect(),
            held: vec![vec![0; words]; self.members],
            reads: HashMap::new(),
            lists,
            origin_free: 0,
            origin_sent: 0,
            outcome: Outcome::default(),
        };
        let (ideal, distinct) = run.ideal(chunks);
        for _ in 0..self.die {
            let at = rng.range(0, ideal);
            let who = rng.index(self.members) as u32;
            run.at(at, Event::Die(who));
        }
        // All at the same moment, but for what separates moments.
        let mut order: Vec<u32> = (0..self.members as u32).collect();
        rng.shuffle(&mut order);
        for member in order {
            run.go_on(member);
        }
        while let Some(Reverse((at, _, event))) = run.events.pop() {
            run.now = at;
            run.happen(event);
        }
        run.finish(ideal, distinct)
    }
}

fn number(name: &Name) -> u32 {
    name.address()[1..].parse().expect("m and a number")
}

impl Run<'_> {
    fn at(&mut self, at: u64, event: Event) {
        self.numbers += 1;
        self.events.push(Reverse((at, self.numbers, event)));
    }

    /// At best: the origin's way, the links of members and of the origin; and the bytes that are wanted.
    fn ideal(&self, chunks: u32) -> (u64, u64) {
        let size = self.scene.chunk;
        let (most, distinct) = match &self.scene.load {
            Load::InOrder(_) => (u64::from(chunks), u64::from(chunks)),
            Load::Zipf(..) => {
                let sets: Vec<HashSet<u32>> = self
                    .lists
                    .iter()
                    .map(|list| list.iter().copied().collect())
                    .collect();
                let most = sets.iter().map(HashSet::len).max().unwrap_or(0);
                let all: HashSet<u32> = sets.into_iter().flatten().collect();
                (most as u64, all.len() as u64)
            }
        };
        let links = took(most * size, MEMBER_RATE).max(took(distinct * size, ORIGIN_RATE));
        (2 * FAR + 2 * NEAR + links, distinct * size)
    }

    fn has(&self, member: u32, chunk: u32) -> bool {
        self.held[member as usize][chunk as usize / 64] >> (chunk % 64) & 1 == 1
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask(asker, chunk, to, attempt) => self.asked(asker, chunk, to, attempt),
            Event::First(member, chunk, attempt) => {
                if self.is_current(member, chunk, attempt) {
                    self.serve_readers(member, chunk);
                }
            }
            Event::Done(member, chunk, attempt) => {
                if self.is_current(member, chunk, attempt) {
                    self.done(member, chunk);
                }
            }
            Event::Silent(member, chunk, attempt) => {
                if self.is_current(member, chunk, attempt) {
                    self.lost(member, chunk);
                }
            }
            Event::Die(member) => self.die(member),
        }
    }

    fn is_current(&self, member: u32, chunk: u32, attempt: u32) -> bool {
        let read = self.reads.get(&(member, chunk));
        self.nodes[member as usize].alive && read.is_some_and(|read| read.attempt == attempt)
    }

    /// A member reads on in its list.
    fn go_on(&mut self, member: u32) {
        loop {
            let node = &mut self.nodes[member as usize];
            if node.under_way >= WINDOW {
                return;
            }
            let at = node.next as usize;
            let chunk = match (&self.scene.load, self.lists.get(member as usize)) {
                (Load::InOrder(chunks), _) => (node.next < *chunks).then_some(node.next),
                (_, Some(list)) => list.get(at).copied(),
                _ => None,
            };
            let Some(chunk) = chunk else {
                if node.under_way == 0 {
                    node.over = node.over.max(self.now);
                }
                return;
            };
            node.next += 1;
            self.outcome.reads += 1;
            if self.has(member, chunk) {
                continue;
            }
            self.nodes[member as usize].under_way += 1;
            match self.reads.get_mut(&(member, chunk)) {
                Some(read) if read.wanted => self.nodes[member as usize].under_way -= 1,
                Some(read) => read.wanted = true,
                None => self.begin(member, chunk, true),
            }
        }
    }

    fn begin(&mut self, member: u32, chunk: u32, wanted: bool) {
        let read = Read {
            since: self.now,
            attempt: 0,
            errand: None,
            stands_in: false,
            source: None,
            first: None,
            end: 0,
            readers: Vec::new(),
            wanted,
        };
        self.reads.insert((member, chunk), read);
        let (first, _) = self.ranks[chunk as usize];
        if !wanted || first == member {
            self.fill(member, chunk);
        } else if self.nodes[member as usize].silent.contains(&first) {
            self.turn_to_second(member, chunk);
        } else {
            self.set_out(member, chunk, first, Role::Coordinator);
        }
    }

    fn turn_to_second(&mut self, member: u32, chunk: u32) {
        let (_, second) = self.ranks[chunk as usize];
        let read = self.reads.get_mut(&(member, chunk)).expect("under way");
        let before = std::mem::replace(&mut read.stands_in, true);
        if before || second == member || self.nodes[member as usize].silent.contains(&second) {
            return self.fill(member, chunk);
        }
        self.set_out(member, chunk, second, Role::StandIn);
    }

    fn set_out(&mut self, member: u32, chunk: u32, to: u32, role: Role) {
        let me = self.names[member as usize].clone();
        let (errand, step) = Errand::new(me, self.names[to as usize].clone(), role);
        self.reads
            .get_mut(&(member, chunk))
            .expect("under way")
            .errand = Some(errand);
        self.step(member, chunk, step);
    }

    fn step(&mut self, member: u32, chunk: u32, step: Step) {
        match step {
            Step::Read => {}
            Step::End(_) => self.turn_to_second(member, chunk),
            Step::Ask(whom, ask) => {
                let read = self.reads.get_mut(&(member, chunk)).expect("under way");
                read.attempt += 1;
                let (attempt, to) = (read.attempt, number(&whom));
                self.at(self.now + NEAR, Event::Ask(member, chunk, to, attempt));
                if !self.nodes[to as usize].alive {
                    let patience = if ask.role == Role::Relay {
                        HEDGE / 2
                    } else {
                        HEDGE
                    };
                    self.at(self.now + patience, Event::Silent(member, chunk, attempt));
                }
            }
        }
    }

    /// From the origin.
    fn fill(&mut self, member: u32, chunk: u32) {
        let size = self.scene.chunk;
        let start = (self.now + FAR).max(self.origin_free);
        self.origin_free = start + took(size, ORIGIN_RATE);
        self.origin_sent += size;
        self.arrive(member, chunk, None, start + FAR, 0);
    }

    /// Bytes are on their way: from when on, and not before when at the end.
    fn arrive(&mut self, member: u32, chunk: u32, source: Option<u32>, from: u64, not_before: u64) {
        let node = &mut self.nodes[member as usize];
        let first = from.max(node.receives_free);
        node.receives_free = first + took(self.scene.chunk, MEMBER_RATE);
        let end = node.receives_free.max(not_before);
        let read = self.reads.get_mut(&(member, chunk)).expect("under way");
        read.attempt += 1;
        (read.source, read.first, read.end) = (source, Some(first), end);
        let attempt = read.attempt;
        self.at(first, Event::First(member, chunk, attempt));
        self.at(end, Event::Done(member, chunk, attempt));
    }

    /// As the table of `Desk` has it.
    fn asked(&mut self, asker: u32, chunk: u32, to: u32, attempt: u32) {
        if !self.is_current(asker, chunk, attempt) || !self.nodes[to as usize].alive {
            return;
        }
        let holds = self.has(to, chunk);
        let receives = self.reads.contains_key(&(to, chunk));
        let errand = self.reads[&(asker, chunk)]
            .errand
            .as_ref()
            .expect("it asks");
        let reply = if errand.is_referred() {
            if holds || receives {
                Reply::Serve
            } else {
                Reply::NotHere
            }
        } else {
            let failed = errand.named().to_vec();
            let key = u64::from(chunk);
            let me = &self.names[asker as usize];
            let now = Duration::from_nanos(self.now);
            match self.nodes[to as usize].spread.ask(now, key, me, &failed) {
                Answer::At(member) => Reply::Refer(member),
                Answer::Here => Reply::Fill,
            }
        };
        let serves = matches!(reply, Reply::Serve | Reply::Fill);
        let read = self.reads.get_mut(&(asker, chunk)).expect("under way");
        let step = read.errand.as_mut().expect("it asks").answered(reply);
        if !serves {
            // The answer travels back first.
            self.now += NEAR;
            self.step(asker, chunk, step);
            self.now -= NEAR;
            return;
        }
        read.source = Some(to);
        if holds {
            return self.transfer(to, asker, chunk, self.now, 0);
        }
        if !receives {
            self.begin(to, chunk, false);
        }
        let source = self.reads.get_mut(&(to, chunk)).expect("under way");
        match source.first {
            Some(first) if first <= self.now => {
                let end = source.end;
                source.readers.push((asker, attempt));
                self.transfer(to, asker, chunk, self.now, end + NEAR);
            }
            _ => source.readers.push((asker, attempt)),
        }
    }

    fn serve_readers(&mut self, member: u32, chunk: u32) {
        let read = &self.reads[&(member, chunk)];
        let (readers, end) = (read.readers.clone(), read.end);
        for (reader, attempt) in readers {
            if self.is_current(reader, chunk, attempt) {
                self.transfer(member, reader, chunk, self.now, end + NEAR);
            }
        }
    }

    fn transfer(&mut self, from: u32, to: u32, chunk: u32, not_before: u64, end: u64) {
        let node = &mut self.nodes[from as usize];
        let start = not_before.max(node.sends_free);
        node.sends_free = start + took(self.scene.chunk, MEMBER_RATE);
        node.sent += self.scene.chunk;
        self.arrive(to, chunk, Some(from), start + NEAR, end);
        // Who dies before it has sent it all is to be found out.
        let attempt = self.reads[&(to, chunk)].attempt;
        if let Some(read) = self.reads.get_mut(&(from, chunk)) {
            read.readers.push((to, attempt));
        }
    }

    fn done(&mut self, member: u32, chunk: u32) {
        let read = self.reads.remove(&(member, chunk)).expect("under way");
        self.held[member as usize][chunk as usize / 64] |= 1 << (chunk % 64);
        let took = self.now - read.since;
        if read.wanted {
            self.outcome.failed += u64::from(took > DEADLINE);
            self.outcome.longest = self.outcome.longest.max(took as f64 / SEC as f64);
            self.nodes[member as usize].under_way -= 1;
            self.go_on(member);
        }
    }

    /// The member that was asked or read from is silent.
    fn lost(&mut self, member: u32, chunk: u32) {
        self.outcome.again += 1;
        let read = self.reads.get_mut(&(member, chunk)).expect("under way");
        read.attempt += 1;
        (read.source, read.first) = (None, None);
        let Some(errand) = &mut read.errand else {
            return self.fill(member, chunk);
        };
        let at = number(errand.at());
        let relay = errand.is_referred();
        let step = errand.failed();
        if !relay {
            self.nodes[member as usize].silent.insert(at);
        }
        self.step(member, chunk, step);
    }

    fn die(&mut self, member: u32) {
        if !std::mem::replace(&mut self.nodes[member as usize].alive, false) {
            return;
        }
        let now = self.now;
        // All that comes from it, or through those that read from it.
        let mut stalled: Vec<(u32, u32)> = self
            .reads
            .iter()
            .filter(|(_, read)| {
                read.source == Some(member) && (read.first.is_none() || read.end > now)
            })
            .map(|(key, _)| *key)
            .collect();
        stalled.sort_unstable();
        let mut n = 0;
        while let Some(key) = stalled.get(n).copied() {
            n += 1;
            let below = self.reads.iter().filter(|(other, read)| {
                other.1 == key.1
                    && read.source == Some(key.0)
                    && (read.first.is_none() || read.end > now)
            });
            let mut below: Vec<(u32, u32)> = below.map(|(other, _)| *other).collect();
            below.sort_unstable();
            below.retain(|other| !stalled.contains(other));
            stalled.extend(below);
        }
        for (reader, chunk) in stalled {
            if let Some(read) = self.reads.get_mut(&(reader, chunk)) {
                read.attempt += 1;
                read.first = None;
                let attempt = read.attempt;
                let relay = read.errand.as_ref().is_some_and(Errand::is_referred);
                let patience = if relay { HEDGE / 2 } else { HEDGE };
                self.at(now + patience, Event::Silent(reader, chunk, attempt));
            }
        }
        // Questions that are on their way to it are never answered.
        let lost: Vec<(u32, u32, u32)> = self
            .reads
            .iter()
            .filter(|(_, read)| {
                let at = read.errand.as_ref().map(|errand| number(errand.at()));
                read.source.is_none() && at == Some(member)
            })
            .map(|((reader, chunk), read)| (*reader, *chunk, read.attempt))
            .collect();
        for (reader, chunk, attempt) in lost {
            self.at(now + HEDGE, Event::Silent(reader, chunk, attempt));
        }
        self.reads.retain(|(reader, _), _| *reader != member);
    }

    fn finish(mut self, ideal: u64, distinct: u64) -> Outcome {
        let alive = || self.nodes.iter().filter(|node| node.alive);
        let sent: Vec<u64> = alive().map(|node| node.sent).collect();
        let mean = sent.iter().sum::<u64>() as f64 / sent.len().max(1) as f64;
        let unread = alive().map(|node| u64::from(node.under_way)).sum::<u64>();
        let second = SEC as f64;
        let last = alive().map(|node| node.over).max().unwrap_or(0);
        let busiest = sent.iter().max().copied().unwrap_or(0) as f64 / mean.max(1.0);
        self.outcome.failed += unread;
        Outcome {
            origin: self.origin_sent as f64 / distinct as f64,
            busiest,
            last: last as f64 / second,
            ideal: ideal as f64 / second,
            ..self.outcome
        }
    }
}
