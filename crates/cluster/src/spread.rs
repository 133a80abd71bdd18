//! How a datum that many members want at once spreads: as a tree, in which each sends to a few.
//!
//! ```text
//!              coordinator                 sends_max = 3
//!            /      |      \
//!           a       b       c              those who asked first
//!         / | \   / | \   / | \
//!        d  g j  e  h  k f  i  l           those who asked later: sent on to a, b, c
//! ```
//!
//! The coordinator keeps the tree; nobody else has to know of it. Whoever asks is told where to read
//! and is from then on somewhere to read itself: a member passes on what it receives while it
//! receives it. So n askers are served in `log(n) / log(sends_max)` steps, and no link carries a datum
//! more than `sends_max` times. Nobody forwards: an answer names a member, and the asker goes there.
//!
//! A member that fails its reader is taken out when the reader asks again and names it. Who asks again
//! keeps its own readers, and is never sent to one of them, nor to theirs: they wait for it.

use crate::Member;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

/// Bounds of a [`Spread`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpreadConfig {
    /// How many times one member sends a datum \[2\]. Zero counts as one.
    ///
    /// Who asks first sends on, and who is ahead of the others asks first for each datum of a large
    /// object: it sends so many times what it receives, and all go at its pace. With two, half of the
    /// members send; the tree is deeper, but each of its steps takes as much less time. (Simulated with
    /// 1,500 members, also for a single datum: `cluster-scale` in bench/RESULTS.md.)
    pub sends_max: u32,
    /// For how long a member is counted on to have a datum, after it asked for it or somebody was sent
    /// to it, or to one that reads from it \[30 s\]: so long members have to keep what they received
    /// or passed on. A datum that nobody asks for is forgotten after as long.
    pub keep: Duration,
    /// Data remembered at once \[65,536\]; beyond, the one asked for longest ago is forgotten.
    pub data_max: usize,
}

impl Default for SpreadConfig {
    fn default() -> Self {
        Self {
            sends_max: 2,
            keep: Duration::from_secs(30),
            data_max: 65_536,
        }
    }
}

/// Where an asker is to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Here.
    Here,
    /// At this member.
    At(Member),
}

/// What a coordinator knows of who has, or is receiving, what it was asked for.
///
/// Times are those since any moment that stays the same, and must not go back. Costs O(log askers) for
/// each question.
#[derive(Debug)]
pub struct Spread {
    config: SpreadConfig,
    data: HashMap<u64, Tree>,
    /// Data by the time of the last question.
    oldest: BTreeSet<(Duration, u64)>,
}

/// An asker that so many have failed is not sent to another: where a fetch has come to nothing, none of
/// those has the datum that asked for it, and the way through all of them leads to the origin.
const FAILED_MAX: usize = 2;

/// The coordinator itself, in a [`Tree`].
const ROOT: usize = 0;

#[derive(Debug)]
struct Tree {
    asked: Duration,
    nodes: Vec<Node>,
    /// Places in `nodes` to be used again.
    unused: Vec<usize>,
    serial: u64,
    by_member: BTreeMap<Member, usize>,
    /// Nodes that can send once more: the nearest to the root first, and of these who has sent least.
    open: BTreeSet<(u32, u32, usize)>,
    /// All but the root, by the time at which they asked last, or somebody was sent to them or below.
    since: BTreeSet<(Duration, usize)>,
}

#[derive(Clone, Debug)]
struct Node {
    /// None: the root.
    member: Option<Member>,
    /// From whom it reads: a place, and who was there then.
    parent: (usize, u64),
    serial: u64,
    depth: u32,
    sends: u32,
    since: Duration,
}

impl Spread {
    /// Knows of nothing.
    pub fn new(config: SpreadConfig) -> Self {
        Self {
            config: SpreadConfig {
                sends_max: config.sends_max.max(1),
                ..config
            },
            data: HashMap::new(),
            oldest: BTreeSet::new(),
        }
    }

    /// From now on one member sends a datum so often; zero counts as one.
    pub fn set_sends_max(&mut self, sends_max: u32) {
        self.config.sends_max = sends_max.max(1);
    }

    /// Data that are remembered.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// A member asks for a datum, and names those that it was sent to before and that failed it.
    pub fn ask(&mut self, now: Duration, key: u64, asker: &Member, failed: &[Member]) -> Answer {
        self.forget(now);
        let tree = self.data.entry(key).or_insert_with(|| Tree::new(now));
        self.oldest.remove(&(tree.asked, key));
        tree.asked = tree.asked.max(now);
        self.oldest.insert((tree.asked, key));
        tree.expire(now, self.config.keep);
        for member in failed {
            tree.remove_member(member);
        }
        let root_only = failed.len() >= FAILED_MAX;
        let answer = tree.place(now, asker, self.config.sends_max, root_only);
        while self.data.len() > self.config.data_max.max(1)
            && let Some((_, key)) = self.oldest.pop_first()
        {
            self.data.remove(&key);
        }
        answer
    }

    /// Takes members out of every tree: those for which `keep` says no. O(all that is remembered).
    pub fn retain(&mut self, mut keep: impl FnMut(&Member) -> bool) {
        for tree in self.data.values_mut() {
            let gone: Vec<Member> = tree
                .by_member
                .keys()
                .filter(|m| !keep(m))
                .cloned()
                .collect();
            for member in gone {
                tree.remove_member(&member);
            }
        }
    }

    /// Forgets what nobody has asked for in a while.
    fn forget(&mut self, now: Duration) {
        while let Some((asked, key)) = self.oldest.first().copied()
            && asked + self.config.keep < now
        {
            self.oldest.pop_first();
            self.data.remove(&key);
        }
    }
}

impl Tree {
    fn new(now: Duration) -> Self {
        let root = Node {
            member: None,
            parent: (ROOT, 0),
            serial: 0,
            depth: 0,
            sends: 0,
            since: now,
        };
        Self {
            asked: now,
            nodes: vec![root],
            unused: Vec::new(),
            serial: 0,
            by_member: BTreeMap::new(),
            open: BTreeSet::from([(0, 0, ROOT)]),
            since: BTreeSet::new(),
        }
    }

    /// Finds a place for an asker, and makes it one to be read from.
    fn place(&mut self, now: Duration, asker: &Member, sends_max: u32, root_only: bool) -> Answer {
        let known = self.by_member.get(asker).copied();
        let candidates = self.open.iter().map(|(.., node)| *node);
        let candidates = candidates.take(if root_only { 0 } else { usize::MAX });
        let found = candidates
            .into_iter()
            .find(|node| known.is_none_or(|own| !self.reads_from(*node, own)));
        // Where everybody has sent enough, or waits for the asker, the coordinator sends once more.
        let parent = found.unwrap_or(ROOT);
        self.close(parent);
        self.nodes[parent].sends += 1;
        self.reopen(parent, sends_max);
        let (depth, reads) = {
            let p = &self.nodes[parent];
            (p.depth + 1, (parent, p.serial))
        };
        let node = match known {
            Some(node) => {
                self.close(node);
                self.since.remove(&(self.nodes[node].since, node));
                let n = &mut self.nodes[node];
                (n.parent, n.depth, n.since) = (reads, depth, now);
                node
            }
            None => self.insert(Node {
                member: Some(asker.clone()),
                parent: reads,
                serial: 0,
                depth,
                sends: 0,
                since: now,
            }),
        };
        self.by_member.insert(asker.clone(), node);
        self.since.insert((now, node));
        self.reopen(node, sends_max);
        self.touch(now, parent);
        match &self.nodes[parent].member {
            None => Answer::Here,
            Some(member) => Answer::At(member.clone()),
        }
    }

    /// Notes that a node is read from, and those from which it reads in turn: who is forgotten has no
    /// readers left, so that nobody is sent to one that waits for it.
    fn touch(&mut self, now: Duration, node: usize) {
        let mut at = node;
        while at != ROOT {
            let n = &mut self.nodes[at];
            self.since.remove(&(n.since, at));
            n.since = now;
            self.since.insert((now, at));
            at = self.parent(at);
        }
    }

    /// From whom a node reads; the root, where that one is gone.
    fn parent(&self, node: usize) -> usize {
        let (parent, serial) = self.nodes[node].parent;
        let p = &self.nodes[parent];
        if p.serial == serial { parent } else { ROOT }
    }

    fn insert(&mut self, mut node: Node) -> usize {
        self.serial += 1;
        node.serial = self.serial;
        if let Some(place) = self.unused.pop() {
            self.nodes[place] = node;
            return place;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Whether a node is another, or reads from it, at however many removes.
    fn reads_from(&self, node: usize, other: usize) -> bool {
        let mut at = node;
        while at != ROOT {
            if at == other {
                return true;
            }
            at = self.parent(at);
        }
        false
    }

    fn close(&mut self, node: usize) {
        let Node { depth, sends, .. } = self.nodes[node];
        self.open.remove(&(depth, sends, node));
    }

    fn reopen(&mut self, node: usize, sends_max: u32) {
        let Node { depth, sends, .. } = self.nodes[node];
        if sends < sends_max {
            self.open.insert((depth, sends, node));
        }
    }

    fn expire(&mut self, now: Duration, keep: Duration) {
        while let Some((since, node)) = self.since.first().copied()
            && since + keep < now
        {
            self.remove(node);
        }
    }

    fn remove_member(&mut self, member: &Member) {
        if let Some(node) = self.by_member.get(member).copied() {
            self.remove(node);
        }
    }

    /// Takes a node out. Those that read from it ask again by themselves, if it has failed them; if it
    /// has not, they have what they need.
    fn remove(&mut self, node: usize) {
        self.close(node);
        self.since.remove(&(self.nodes[node].since, node));
        let gone = self.nodes[node].member.take();
        if let Some(member) = gone {
            self.by_member.remove(&member);
        }
        // Its place will be somebody else's.
        self.serial += 1;
        self.nodes[node].serial = self.serial;
        self.unused.push(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(n: usize) -> Member {
        Member::new(&format!("m{n}:9001"))
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_thousand_askers_are_served_in_a_few_steps_and_nobody_sends_more_than_its_bound() {
        let config = SpreadConfig {
            sends_max: 8,
            ..SpreadConfig::default()
        };
        let mut spread = Spread::new(config);
        let (mut sends, mut depths) = (HashMap::<Option<Member>, u32>::new(), HashMap::new());
        for n in 0..1_500 {
            let from = match spread.ask(secs(1), 7, &member(n), &[]) {
                Answer::Here => None,
                Answer::At(member) => Some(member),
            };
            let depth = from.as_ref().map_or(0, |from| depths[from]) + 1;
            depths.insert(member(n), depth);
            *sends.entry(from).or_default() += 1;
        }
        assert_eq!(sends.values().max(), Some(&8));
        // 8 + 64 + 512 are less than 1,500, and 4,096 more are not.
        assert_eq!(depths.values().max(), Some(&4));
    }

    #[test]
    fn who_failed_is_not_named_again_and_its_readers_are_spared() {
        let config = SpreadConfig {
            sends_max: 1,
            ..SpreadConfig::default()
        };
        let mut spread = Spread::new(config);
        let mut ask = |n: usize, failed: &[Member]| spread.ask(secs(1), 7, &member(n), failed);
        assert_eq!(ask(0, &[]), Answer::Here);
        assert_eq!(ask(1, &[]), Answer::At(member(0)));
        assert_eq!(ask(2, &[]), Answer::At(member(1)));
        // 1 is failed by 0. What is left reads from 1 itself, so the coordinator sends.
        assert_eq!(ask(1, &[member(0)]), Answer::Here);
        assert_eq!(ask(3, &[]), Answer::At(member(2)));
    }

    #[test]
    fn who_was_failed_twice_is_not_sent_on() {
        let mut spread = Spread::new(SpreadConfig {
            sends_max: 2,
            ..SpreadConfig::default()
        });
        let mut ask = |n: usize, failed: &[Member]| spread.ask(secs(1), 7, &member(n), failed);
        for n in 0..5 {
            ask(n, &[]);
        }
        assert_eq!(ask(5, &[]), Answer::At(member(1)));
        let Answer::At(next) = ask(5, &[member(1)]) else {
            panic!("one is left")
        };
        assert_eq!(ask(5, &[member(1), next]), Answer::Here);
    }

    #[test]
    fn what_was_received_long_ago_is_not_counted_on() {
        let config = SpreadConfig {
            sends_max: 1,
            ..SpreadConfig::default()
        };
        let mut spread = Spread::new(config);
        assert_eq!(spread.ask(secs(1), 7, &member(0), &[]), Answer::Here);
        assert_eq!(
            spread.ask(secs(20), 7, &member(1), &[]),
            Answer::At(member(0))
        );
        assert_eq!(
            spread.ask(secs(40), 7, &member(2), &[]),
            Answer::At(member(1))
        );
        // Nobody asked for it in a while: all is as at the beginning.
        assert_eq!(spread.ask(secs(80), 8, &member(3), &[]), Answer::Here);
        assert_eq!(spread.len(), 1);
        assert_eq!(spread.ask(secs(80), 7, &member(4), &[]), Answer::Here);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_members_that_left_are_not_named() {
        let config = SpreadConfig {
            sends_max: 1,
            data_max: 3,
            ..SpreadConfig::default()
        };
        let mut spread = Spread::new(config);
        for key in 0..10 {
            spread.ask(secs(key), key, &member(0), &[]);
        }
        assert_eq!(spread.len(), 3);
        spread.retain(|other| *other != member(0));
        assert_eq!(spread.ask(secs(9), 9, &member(1), &[]), Answer::Here);
    }

    proptest! {
        /// Whatever is asked, fails and comes back: nobody is sent to itself, to one that it says has
        /// failed, or to one that waits for it; and the bound holds but for the coordinator.
        #[test]
        fn nobody_waits_for_itself(
            sends_max in 1_u32..4,
            steps in proptest::collection::vec((0_usize..12, any::<bool>(), 0_u64..20), 1..200),
        ) {
            let config = SpreadConfig { sends_max, ..SpreadConfig::default() };
            let mut spread = Spread::new(config);
            let mut now = secs(0);
            let mut reads_from: HashMap<usize, Option<usize>> = HashMap::new();
            let mut used: HashMap<usize, Duration> = HashMap::new();
            for (asker, fails, pause) in steps {
                now += secs(pause);
                // By then they have it, or have given up.
                reads_from.retain(|who, _| used[who] + config.keep >= now);
                let before = reads_from.get(&asker).copied().flatten().filter(|_| fails);
                let failed: Vec<Member> = before.map(member).into_iter().collect();
                // Who failed, as the asker sees it, serves nobody any more.
                if let Some(before) = before {
                    for from in reads_from.values_mut() {
                        if *from == Some(before) {
                            *from = None;
                        }
                    }
                    reads_from.remove(&before);
                }
                let answer = spread.ask(now, 7, &member(asker), &failed);
                let from = match answer {
                    Answer::Here => None,
                    Answer::At(from) => Some(from),
                };
                prop_assert!(from.as_ref() != Some(&member(asker)));
                prop_assert!(!from.as_ref().is_some_and(|from| failed.contains(from)));
                let from = from.map(|from| (0..12).find(|n| member(*n) == from).expect("one of ours"));
                reads_from.insert(asker, from);
                // Up the tree from here, one never comes back.
                let (mut at, mut steps) = (asker, 0);
                used.insert(asker, now);
                while let Some(Some(next)) = reads_from.get(&at).copied() {
                    at = next;
                    used.insert(at, now);
                    steps += 1;
                    prop_assert!(steps <= 12, "{reads_from:?}");
                }
            }
        }
    }
}
