//! Tests of the state alone: anything may happen in any order, and after each step the books agree with
//! each other; and when nothing happens any more, nothing is left.

use crate::{
    config::GannetFetchConfig,
    inbox::{Event, Inbox},
    judge::{Fate, Item},
    machine::Time,
    select::Asked,
    state::State,
    transport::{Request, Sent},
    want::Room,
};
use bytes::Bytes;
use kitsune2_api::{Op, OpId, Url};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The generator of SplitMix64, so that a seed is a run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn url(n: u64) -> Url {
    Url::from_str(format!("ws://test:80/{n}")).unwrap()
}

fn id(n: u64) -> Bytes {
    // Some are too long to be kept in place.
    let mut id = n.to_be_bytes().to_vec();
    id.resize(if n.is_multiple_of(7) { 60 } else { 32 }, 1);
    id.into()
}

impl State {
    /// Whether what is written in several places says the same.
    fn check(&self) {
        let mut open: BTreeMap<u32, u32> = BTreeMap::new();
        let mut attempts = BTreeSet::new();
        let (mut pairs, mut of_peers) = (0, BTreeMap::<u32, u32>::new());
        let mut outboxes: BTreeMap<u32, BTreeSet<_>> = BTreeMap::new();
        for (op, _) in self.book.ops_from(0) {
            for want in self.book.offers(op) {
                pairs += 1;
                let w = self.book.want(want).expect("an offer is a want");
                assert_eq!(w.op, op);
                *of_peers.entry(w.peer).or_default() += 1;
                match w.asked {
                    Asked::Soon(attempt) => {
                        attempts.insert((attempt, want));
                        outboxes.entry(w.peer).or_default().insert((attempt, want));
                    }
                    Asked::In(attempt, batch) => {
                        attempts.insert((attempt, want));
                        *open.entry(batch).or_default() += 1;
                    }
                    Asked::No | Asked::Answered => {}
                }
            }
        }
        assert_eq!(pairs, self.book.len());
        let held: BTreeSet<_> = self
            .attempts
            .iter()
            .map(|(attempt, want)| (*attempt, *want))
            .collect();
        assert_eq!(
            held, attempts,
            "attempts are those of wants that are asked for"
        );
        for (batch, b) in &self.batches {
            let expected = open.remove(&(batch as u32)).unwrap_or(0);
            assert_eq!(b.open(), expected, "batch {batch}");
            assert!(
                expected > 0 || b.sent() == Time::FAR,
                "a batch that is over"
            );
        }
        assert!(open.is_empty(), "wants in batches that are not there");
        for (peer, expected) in outboxes {
            let p = self.book.peer(peer);
            let standing: BTreeSet<_> = p.outbox.iter().flatten().copied().collect();
            assert!(
                expected.is_subset(&standing),
                "asked for soon, and in no outbox"
            );
            assert!(p.queued || p.sending, "nobody will look into its outbox");
            assert_eq!(p.queued, self.ready.contains(&peer));
        }
        for (peer, p) in self.book.peers() {
            assert_eq!(p.wants, of_peers.get(&peer).copied().unwrap_or(0));
        }
        self.book.check_idle();
    }
}

/// One run: what is under way, and the state.
struct Run {
    rng: Rng,
    state: State,
    inbox: Inbox,
    now: Time,
    sending: Vec<Request>,
    storing: Vec<Vec<Item>>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let config = GannetFetchConfig {
            max_ops_per_request: 1 + rng.below(40) as u32,
            max_ops_in_flight_per_peer: 1 + rng.below(60) as u32,
            max_ops_per_store_call: 1 + rng.below(20) as u32,
            max_pending: 60 + rng.below(200) as u32,
            max_pending_per_peer: 20 + rng.below(100) as u32,
            hedge_ms: if rng.below(3) == 0 { 300 } else { 0 },
            num_back_off_intervals: rng.below(4) as u8,
            accept_unsolicited: rng.below(3) > 0,
            ..GannetFetchConfig::default()
        };
        Self {
            state: State::new(config, seed),
            inbox: Inbox::new(1 << 20),
            rng,
            now: Time::ZERO,
            sending: Vec::new(),
            storing: Vec::new(),
        }
    }

    fn pass(&mut self, most: u64) {
        self.now = self.now.after(Duration::from_millis(self.rng.below(most)));
    }

    fn step(&mut self, quiet: bool) {
        let (now, n) = (
            self.now,
            if quiet { 4 } else { 0 } + self.rng.below(if quiet { 3 } else { 10 }),
        );
        match n {
            0 | 1 => {
                let url = url(self.rng.below(6));
                let lookup = self.state.begin_lookup();
                if let Room::For(room) = self.state.room(&url) {
                    let count = self.rng.below(30) as usize;
                    let ops =
                        (0..count.min(room)).map(|_| (OpId::from(id(self.rng.below(150))), None));
                    self.state
                        .want(now, &url, ops.collect::<Vec<_>>(), (0, lookup));
                }
                self.state.end_lookup(lookup);
            }
            2 => {
                let url = url(self.rng.below(7));
                let ops = (0..self.rng.below(30)).map(|_| Op {
                    op_id: id(self.rng.below(160)),
                    data: vec![0; self.rng.below(400) as usize].into(),
                });
                self.inbox.response(now, &url, ops.collect(), 100);
                let mut events = Vec::new();
                self.inbox.take(&mut events);
                for event in events {
                    if let Event::Response { url, ops, hold } = event {
                        self.state.response(now, &url, ops, &hold);
                    }
                }
            }
            3 => match self.rng.below(3) {
                0 => self.state.disconnected(now, &url(self.rng.below(6))),
                1 => self.state.overflow(now, &url(self.rng.below(6))),
                _ => self.pass(30_000),
            },
            4 => self.sending.extend(self.state.next_request(now)),
            5 if !self.sending.is_empty() => {
                let at = self.rng.below(self.sending.len() as u64) as usize;
                let request = self.sending.swap_remove(at);
                let sent = match self.rng.below(8) {
                    0 if !quiet => Sent::Failed,
                    1 if !quiet => Sent::NotYet,
                    _ => Sent::Out,
                };
                self.state.sent(now, &request, sent);
            }
            6 if !self.storing.is_empty() => {
                let items = self.storing.swap_remove(0);
                let fates: Vec<Fate> = items
                    .iter()
                    .map(|_| match self.rng.below(6) {
                        0 => Fate::Refused,
                        1 => Fate::Failed,
                        _ => Fate::Stored,
                    })
                    .collect();
                let beside = if self.rng.below(4) == 0 {
                    vec![OpId::from(id(self.rng.below(150)))]
                } else {
                    Vec::new()
                };
                self.state.stored(now, items, &fates, &beside);
            }
            _ => {
                self.storing.extend(self.state.next_store_call());
                self.pass(2_000);
                let read = if self.rng.below(4) == 0 {
                    now
                } else {
                    self.now
                };
                self.state.time(self.now, read);
            }
        }
        self.state.check();
    }
}

#[test]
fn the_books_agree_whatever_happens_and_are_empty_in_the_end() {
    for seed in 0..80 {
        let mut run = Run::new(seed);
        for _ in 0..300 {
            run.step(false);
        }
        // From now on nobody says anything, and every want is given up.
        for _ in 0..20_000 {
            run.step(true);
            if run.state.book.is_empty() && run.sending.is_empty() && run.storing.is_empty() {
                break;
            }
            if let Some(next) = run.state.timeout() {
                run.now = run.now.max(next);
            }
        }
        let state = &run.state;
        assert!(state.book.is_empty(), "seed {seed}: {:?}", state.stats());
        assert_eq!(
            (state.attempts.len(), state.answers.len()),
            (0, 0),
            "seed {seed}"
        );
        assert!(state.batches.is_empty(), "seed {seed}");
        let left = state.machine.snapshot();
        let counts = (left.fetches.len(), left.waiters, left.attempts, left.bytes);
        assert_eq!(counts, (0, 0, 0, 0), "seed {seed}");
    }
}

#[test]
fn names_stay_apart_when_serials_begin_anew() {
    let mut run = Run::new(1);
    run.state.book.skip_serials();
    for n in 0..4 {
        for peer in 0..2 {
            let lookup = run.state.begin_lookup();
            run.state.want(
                run.now,
                &url(peer),
                [(OpId::from(id(n)), None)],
                (0, lookup),
            );
            run.state.end_lookup(lookup);
        }
        run.state.check();
    }
    // Each is asked of somebody: no offer was taken for the op's only waiter.
    assert_eq!((run.state.book.len(), run.state.attempts.len()), (8, 4));
}
