//! What a seed draws: who is in the network and of what kind, what everybody holds, and how things
//! go wrong.

use commonware_cryptography::{
    Signer as _,
    ed25519::{PrivateKey, PublicKey},
};
use gannet_commonware::Hedge;
use gannet_sim::rng::{Rng, mix};
use std::{sync::OnceLock, time::Duration};

/// A millisecond, in nanoseconds: the unit in which all times here are kept.
pub(crate) const MS: u64 = 1_000_000;

/// Peers at most, which bounds the keys that are made once for all runs.
pub(crate) const PEERS_MAX: usize = 7;

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A node with our engine.
    Ours,
    /// A node with the stock engine.
    Stock,
    /// No engine: something that answers as its moods are.
    Raw,
}

/// How a peer without an engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Honest,
    /// Other bytes than those that belong to the key.
    Lie,
    /// A part of them.
    Truncate,
    NoData,
    Silent,
    /// After the asker has given up.
    Late,
    /// The same answer twice.
    Twice,
    /// Says that it has nothing, and then answers.
    Both,
    /// To an id that it was not asked with.
    WrongId,
    /// No message at all.
    Garbage,
    /// Answers what was asked of others, too.
    Steal,
}

/// One peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    /// How often it has a key, in thousandths.
    pub(crate) holds: u32,
    /// Of a raw peer; the rest leave it at the first.
    pub(crate) moods: Vec<Mood>,
    /// A node whose producer gives out what belongs to another key.
    pub(crate) lies: bool,
    pub(crate) fetch_timeout: Duration,
    pub(crate) retry_delay: Duration,
    pub(crate) mailbox: usize,
    /// When another peer is asked, too; and how many may be, in all.
    pub(crate) hedge: Option<Hedge>,
    pub(crate) width: u32,
    /// Whether it tells its engine who it is.
    pub(crate) knows_itself: bool,
    /// Whether its network tells who is blocked, beyond the first time.
    pub(crate) tells_blocks: bool,
    pub(crate) serves_max: usize,
    /// To one peer: so many at once, and one more after each of these, if there is a quota.
    pub(crate) quota: Option<(u64, u64)>,
}

/// How likely things are, in thousandths, while there are faults.
#[derive(Clone, Debug)]
pub(crate) struct Odds {
    pub(crate) loss: u32,
    pub(crate) duplicate: u32,
    /// The sender takes no message.
    pub(crate) refuse: u32,
    pub(crate) partial: u32,
    pub(crate) unresolved: u32,
    pub(crate) wrongly_invalid: u32,
    pub(crate) ignored: u32,
    pub(crate) dropped: u32,
    /// The producer says that it has nothing, answers late, or never.
    pub(crate) produce_none: u32,
    pub(crate) produce_late: u32,
    pub(crate) produce_never: u32,
    pub(crate) targeted: u32,
    pub(crate) batch: u32,
}

/// How often the operator does what, against each other.
#[derive(Clone, Debug)]
pub(crate) struct Acts {
    pub(crate) fetch: u32,
    pub(crate) retain: u32,
    pub(crate) peers: u32,
    pub(crate) unblock: u32,
    pub(crate) restart: u32,
    pub(crate) part: u32,
    pub(crate) flood: u32,
}

/// Everything drawn from a seed.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) peers: Vec<Peer>,
    pub(crate) keys: u64,
    pub(crate) subscribers: u64,
    /// By how much the runtime's clock moves in one turn.
    pub(crate) cycle: u64,
    /// One way, from and to.
    pub(crate) latency: (u64, u64),
    pub(crate) thinking: (u64, u64),
    /// Between two acts of the operator.
    pub(crate) gap: (u64, u64),
    pub(crate) safety: u64,
    pub(crate) odds: Odds,
    pub(crate) acts: Acts,
    /// Whether nobody knows any peers at first.
    pub(crate) late_peers: bool,
}

/// So often in `permille` of the worlds, and never in the others.
fn odd(rng: &mut Rng, worlds: u32, at_most: u32) -> u32 {
    match rng.permille(worlds) {
        true => rng.range32(1, at_most),
        false => 0,
    }
}

fn span(rng: &mut Rng, low: u64, high: u64) -> (u64, u64) {
    let (a, b) = (rng.range(low, high), rng.range(low, high));
    (a.min(b) * MS, a.max(b) * MS)
}

impl World {
    /// The world of a seed.
    pub(crate) fn draw(seed: u64) -> Self {
        let rng = &mut Rng::new(seed, 101);
        let count = rng.range(3, PEERS_MAX as u64) as usize;
        let latency = span(rng, 1, 60);
        let peers = (0..count).map(|n| peer(rng, n, latency.1)).collect();
        Self {
            seed,
            peers,
            keys: *rng.pick(&[1, 4, 12, 40]),
            subscribers: rng.range(1, 4),
            cycle: *rng.pick(&[MS, MS / 10, MS / 100]),
            latency,
            thinking: match rng.permille(300) {
                true => (0, 0),
                false => span(rng, 0, 500),
            },
            gap: (0, rng.range(10, 300) * MS),
            safety: rng.range(5_000, 20_000) * MS,
            odds: Odds {
                loss: odd(rng, 700, 500),
                duplicate: odd(rng, 600, 400),
                refuse: odd(rng, 300, 200),
                partial: odd(rng, 400, 300),
                unresolved: odd(rng, 400, 300),
                wrongly_invalid: odd(rng, 300, 60),
                ignored: odd(rng, 300, 200),
                dropped: odd(rng, 400, 300),
                produce_none: odd(rng, 400, 400),
                produce_late: odd(rng, 400, 400),
                produce_never: odd(rng, 300, 200),
                targeted: odd(rng, 600, 700),
                batch: odd(rng, 500, 500),
            },
            acts: Acts {
                fetch: 40,
                retain: odd(rng, 700, 12),
                peers: odd(rng, 600, 6),
                unblock: odd(rng, 800, 8),
                restart: odd(rng, 500, 3),
                part: odd(rng, 500, 6),
                flood: odd(rng, 400, 8),
            },
            late_peers: rng.permille(200),
        }
    }

    /// Whether a peer has a key.
    pub(crate) fn holds(&self, peer: usize, key: u64) -> bool {
        mix(&[self.seed, 7, peer as u64, key]) % 1000 < u64::from(self.peers[peer].holds)
    }

    /// Whether every answer of this peer is the truth, once its producer is in order.
    pub(crate) fn is_honest(&self, peer: usize) -> bool {
        let peer = &self.peers[peer];
        match peer.kind {
            Kind::Raw => peer.moods.iter().all(|mood| *mood == Mood::Honest),
            Kind::Ours | Kind::Stock => !peer.lies,
        }
    }

    /// How long it takes a node to see what it was told: a few turns of the runtime.
    pub(crate) const fn grace(&self) -> u64 {
        4 * self.cycle
    }
}

fn hedge(rng: &mut Rng) -> Hedge {
    let after = Duration::from_millis(rng.range(10, 200));
    let permille = *rng.pick(&[500, 900, 990]);
    match rng.permille(500) {
        true => Hedge::After(after),
        false => Hedge::AtQuantile {
            permille,
            floor: after,
        },
    }
}

fn peer(rng: &mut Rng, n: usize, latency: u64) -> Peer {
    const VICES: &[Mood] = &[
        Mood::Lie,
        Mood::Truncate,
        Mood::NoData,
        Mood::Silent,
        Mood::Late,
        Mood::Twice,
        Mood::Both,
        Mood::WrongId,
        Mood::Garbage,
        Mood::Steal,
    ];
    let kind = match n {
        0 => Kind::Ours,
        _ => *rng.pick(&[Kind::Ours, Kind::Ours, Kind::Stock, Kind::Raw, Kind::Raw]),
    };
    let mut moods = vec![Mood::Honest; rng.range(0, 6) as usize];
    for _ in 0..rng.range(0, 4) {
        moods.push(*rng.pick(VICES));
    }
    if moods.is_empty() {
        moods.push(*rng.pick(VICES));
    }
    let delay = *rng.pick(&[0, 20, 100, 250]);
    Peer {
        kind,
        holds: *rng.pick(&[0, 200, 600, 1000]),
        moods,
        lies: rng.permille(100),
        // There and back, at least; or nothing would ever arrive.
        fetch_timeout: Duration::from_millis(2 * latency / MS + rng.range(10, 600)),
        retry_delay: Duration::from_millis(delay),
        mailbox: *rng.pick(&[1, 2, 16, 1024]),
        hedge: rng.permille(300).then(|| hedge(rng)),
        width: rng.range32(2, 3),
        knows_itself: !rng.permille(150),
        tells_blocks: !rng.permille(100),
        serves_max: *rng.pick(&[1, 4, 65_536, 65_536]),
        quota: rng
            .permille(400)
            .then(|| (rng.range(1, 6), rng.range(20, 400) * MS)),
    }
}

/// What belongs to a key: of a length and with contents that follow from it.
pub(crate) fn value(key: u64) -> Vec<u8> {
    let len = mix(&[11, key]) % 300;
    (0..len).map(|n| mix(&[12, key, n]) as u8).collect()
}

/// The peers' names, made once: that takes longer than many a run.
pub(crate) fn names() -> &'static [PublicKey] {
    static NAMES: OnceLock<Vec<PublicKey>> = OnceLock::new();
    NAMES.get_or_init(|| {
        (1..=PEERS_MAX as u64)
            .map(|seed| PrivateKey::from_seed(seed).public_key())
            .collect()
    })
}

/// Which peer has this name.
pub(crate) fn peer_of(name: &PublicKey) -> usize {
    let known = names().iter().position(|known| known == name);
    known.expect("only these names are given out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_are_stable_and_differ() {
        let text = |seed| format!("{:?}", World::draw(seed));
        assert_eq!(text(5), text(5));
        assert_ne!(text(5), text(6));
    }
}
