//! What a seed draws: who is in the network and of what kind, which ops there are and who holds them,
//! how our nodes are set up, and how things go wrong.

use bytes::Bytes;
use gannet_kitsune2::GannetFetchConfig;
use gannet_sim::rng::{Rng, mix};
use std::collections::{BTreeMap, BTreeSet};

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A node with our module.
    Ours,
    /// A node with the stock module.
    Stock,
    /// No module: something that answers as its moods are.
    Raw,
}

/// How a peer without a module answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Honest,
    /// Other data than belongs to the id.
    Lie,
    /// Bytes that are no message.
    Garbage,
    Silent,
    /// After the asker has given up on it.
    Late,
    Twice,
    /// Some of what it holds, one op at a time.
    Partly,
    /// Ops that it was not asked for, too.
    More,
}

const MOODS: [Mood; 8] = [
    Mood::Honest,
    Mood::Lie,
    Mood::Garbage,
    Mood::Silent,
    Mood::Late,
    Mood::Twice,
    Mood::Partly,
    Mood::More,
];

/// One peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) moods: Vec<Mood>,
    /// Numbers of the ops that it holds from the beginning.
    pub(crate) holds: BTreeSet<usize>,
    pub(crate) config: GannetFetchConfig,
}

impl Peer {
    /// Answers with all that it holds, when nothing goes wrong on the way.
    pub(crate) fn honest(&self) -> bool {
        self.kind != Kind::Raw || self.moods == [Mood::Honest]
    }
}

/// How often things go wrong, in thousandths; and how slow they are at most, in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Odds {
    pub(crate) refuse: u32,
    /// Sends that neither succeed nor fail.
    pub(crate) hang: u32,
    pub(crate) loss: u32,
    pub(crate) duplicate: u32,
    /// Calls to the op store that fail as a whole; as often they panic.
    pub(crate) store_fails: u32,
    pub(crate) store_slow: u64,
    /// Calls to the peer meta store that fail, and those that call a peer unresponsive.
    pub(crate) meta_fails: u32,
    pub(crate) unresponsive: u32,
    pub(crate) meta_slow: u64,
    pub(crate) latency: u64,
    /// How often a node is told that a connection is gone.
    pub(crate) told: u32,
}

/// What a seed draws.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) peers: Vec<Peer>,
    /// Ids and data. The last few are held by nobody until faults are over.
    pub(crate) ops: Vec<(Bytes, Bytes)>,
    pub(crate) numbers: BTreeMap<Bytes, usize>,
    /// Ops that are offered while there are faults.
    pub(crate) known: usize,
    /// Ops that make the store panic while there are faults.
    pub(crate) poisoned: BTreeSet<usize>,
    pub(crate) odds: Odds,
    pub(crate) steps: u64,
    id_len: usize,
}

/// The id that belongs to data.
fn id_of(data: &[u8], len: usize) -> Bytes {
    let words = data.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let words: Vec<u64> = words.chain([data.len() as u64]).collect();
    let hash = mix(&words);
    let id = (0..).flat_map(|n| mix(&[hash, n]).to_le_bytes());
    id.take(len).collect()
}

impl World {
    pub(crate) fn draw(seed: u64) -> Self {
        let rng = &mut Rng::new(seed, 201);
        // Longer ids than fit in place are kept otherwise.
        let id_len = if rng.permille(800) { 32 } else { 45 };
        let known = rng.range(10, 70) as usize;
        let large = if rng.permille(300) { 100 } else { 0 };
        let ops: Vec<(Bytes, Bytes)> = (0..known + FRESH)
            .map(|n| {
                let len = match rng.permille(large) {
                    true => rng.range(2_000, 40_000),
                    false => rng.range(0, 300),
                };
                let mut data = (n as u64).to_le_bytes().to_vec();
                data.resize(8 + len as usize, n as u8);
                (id_of(&data, id_len), Bytes::from(data))
            })
            .collect();
        let numbers = ops.iter().enumerate();
        let numbers = numbers.map(|(n, (id, _))| (id.clone(), n)).collect();
        let mut kinds = vec![Kind::Ours];
        kinds.extend((0..rng.range(0, 2)).map(|_| Kind::Ours));
        kinds.extend((0..rng.range(0, 2)).map(|_| Kind::Stock));
        kinds.extend((0..rng.range(1, 4)).map(|_| Kind::Raw));
        let peers = kinds
            .into_iter()
            .map(|kind| Peer::draw(rng, kind, known))
            .collect();
        let poisoned = match rng.permille(300) {
            true => (0..rng.range(1, 3)).map(|_| rng.index(known)).collect(),
            false => BTreeSet::new(),
        };
        Self {
            seed,
            peers,
            ops,
            numbers,
            known,
            poisoned,
            odds: Odds::draw(rng),
            steps: rng.range(30, 100),
            id_len,
        }
    }

    /// Whether this data belongs to this id.
    pub(crate) fn fits(&self, id: &[u8], data: &[u8]) -> bool {
        id_of(data, self.id_len) == id
    }

    /// Peers of this kind.
    pub(crate) fn all(&self, kind: Kind) -> Vec<usize> {
        let peers = 0..self.peers.len();
        peers.filter(|n| self.peers[*n].kind == kind).collect()
    }
}

/// Ops that are new when faults are over.
pub(crate) const FRESH: usize = 12;

impl Peer {
    fn draw(rng: &mut Rng, kind: Kind, known: usize) -> Self {
        let moods = match rng.permille(300) {
            true => vec![Mood::Honest],
            false => (0..rng.range(1, 4)).map(|_| *rng.pick(&MOODS)).collect(),
        };
        let share = match kind {
            Kind::Ours => rng.range32(0, 400),
            _ => rng.range32(0, 1_000),
        };
        Self {
            kind,
            moods,
            holds: (0..known).filter(|_| rng.permille(share)).collect(),
            config: config(rng),
        }
    }
}

/// Small bounds in half of the nodes, and the defaults in the rest.
fn config(rng: &mut Rng) -> GannetFetchConfig {
    let mut config = GannetFetchConfig::default();
    if rng.permille(600) {
        config.answer_timeout_ms = rng.range32(200, 3_000);
        config.first_back_off_interval_ms = rng.range32(1_000, 10_000);
        config.last_back_off_interval_ms =
            config.first_back_off_interval_ms + rng.range32(0, 60_000);
        config.num_back_off_intervals = rng.range32(1, 5) as u8;
        config.request_wait_ms = rng.range32(100, 5_000);
    }
    if rng.permille(500) {
        config.max_ops_per_request = rng.range32(1, 12);
        config.max_request_bytes = rng.range32(20, 400);
        config.max_response_bytes = rng.range32(100, 3_000);
        config.max_ops_in_flight_per_peer = rng.range32(1, 24);
        config.max_bytes_in_flight_per_peer = rng.range32(100, 20_000);
        config.max_ops_per_store_call = rng.range32(1, 8);
        config.store_concurrency = rng.range32(1, 3) as u8;
        config.serve_concurrency = rng.range32(1, 3) as u8;
    }
    if rng.permille(400) {
        config.max_pending = rng.range32(4, 60);
        config.max_pending_per_peer = rng.range32(2, 30);
        config.max_incoming_bytes = rng.range32(500, 20_000);
        config.max_incoming_request_bytes = rng.range32(200, 4_000);
    }
    if rng.permille(300) {
        config.hedge_ms = rng.range32(10, 1_000);
    }
    config.accept_unsolicited = rng.permille(600);
    config
}

impl Odds {
    fn draw(rng: &mut Rng) -> Self {
        // Some of the things that can go wrong, in each seed.
        let mut some = |most: u32| match rng.permille(600) {
            true => rng.range32(1, most),
            false => 0,
        };
        Self {
            refuse: some(60),
            hang: some(10),
            loss: some(250),
            duplicate: some(250),
            store_fails: some(120),
            store_slow: some(800).into(),
            meta_fails: some(100),
            unresponsive: some(40),
            meta_slow: some(500).into(),
            latency: u64::from(some(600)) + 5,
            told: 500,
        }
    }
}
