//! What a seed draws: which servers there are, what they hold and how they behave, how callers go about it, and
//! how things go wrong.

use crate::rooms::{Rooms, name, rooms};
use gannet_sim::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// How a server answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mood {
    Honest,
    /// Honest, and takes its time.
    Slow,
    /// Says nothing.
    Silent,
    /// Sends a head, and then a byte at a time.
    Drip,
    /// Sends no end of bytes.
    Gush,
    /// Announces more than anybody would take.
    Claim,
    /// Breaks off after some bytes.
    Reset,
    /// 429.
    Busy,
    /// 500.
    Fail,
    /// Is not there.
    Refuse,
    /// 404 for everything.
    Nothing,
    /// 403 for everything.
    Forbid,
    /// Bytes that are no answer.
    Garbage,
    /// The answer, cut off in the middle, as if it were whole.
    Half,
    /// Another event than was asked for.
    Other,
    /// An event with other content.
    Flip,
    /// The event that created the room, with another version in it.
    Version,
    /// An event that nobody has signed.
    Forge,
    /// An event of another room.
    Room,
    /// An event twice.
    Twice,
    /// A bad event, beside the one that it was made of.
    Twin,
    /// No events.
    Empty,
    /// Every event cut.
    Cut,
}

pub(crate) const MOODS: [Mood; 23] = [
    Mood::Honest,
    Mood::Slow,
    Mood::Silent,
    Mood::Drip,
    Mood::Gush,
    Mood::Claim,
    Mood::Reset,
    Mood::Busy,
    Mood::Fail,
    Mood::Refuse,
    Mood::Nothing,
    Mood::Forbid,
    Mood::Garbage,
    Mood::Half,
    Mood::Other,
    Mood::Flip,
    Mood::Version,
    Mood::Forge,
    Mood::Room,
    Mood::Twice,
    Mood::Twin,
    Mood::Empty,
    Mood::Cut,
];

/// One server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) moods: Vec<Mood>,
    /// Of each room, what it holds.
    pub(crate) holds: BTreeMap<usize, BTreeSet<usize>>,
    /// Events that it holds cut.
    pub(crate) cuts: BTreeSet<(usize, usize)>,
    /// When it is down, and whether requests are lost then, or refused.
    pub(crate) down: Vec<(u64, u64, bool)>,
    pub(crate) latency: u64,
    /// Whether it adds a note to events.
    pub(crate) notes: bool,
}

impl Server {
    /// Always answers at once, with all that there is.
    pub(crate) fn is_sure(&self, room: usize) -> bool {
        let all = |held: &BTreeSet<usize>| held.len() == rooms().all[room].events.len();
        self.moods == [Mood::Honest]
            && self.down.is_empty()
            && self.latency <= 200
            && self.holds.get(&room).is_some_and(all)
            && !self.cuts.iter().any(|(of, _)| *of == room)
    }
}

/// How a caller wants things, as the oracle knows it.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) hint: Option<String>,
    pub(crate) authority: Option<String>,
    pub(crate) members: Vec<(String, u64)>,
    pub(crate) pool: Option<Vec<String>>,
    pub(crate) deny: Vec<String>,
    pub(crate) version: bool,
    /// The version that it gives is another room's; what it gets by that is its own affair.
    pub(crate) errs: bool,
    pub(crate) fanout: Option<&'static str>,
    pub(crate) rounds_max: Option<u32>,
    pub(crate) attempts_max: Option<u32>,
    /// In milliseconds; 0 for never.
    pub(crate) hedge: Option<u64>,
    pub(crate) first_byte: Option<u64>,
    pub(crate) total: Option<u64>,
    pub(crate) tries: u32,
    /// 0: as advised; 1: all; 2: redacted too; 3: hashes without signatures; 4: none.
    pub(crate) checks: u8,
    pub(crate) refuse: bool,
    pub(crate) accept_empty: bool,
    pub(crate) patience: Option<u64>,
    pub(crate) fresh: bool,
}

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
    Event(usize),
    AuthEvent(usize),
    AuthChain(usize),
    StateIds(usize),
    Backfill(Vec<usize>, u32),
    Missing(Vec<usize>, Vec<usize>, u32),
    Near(u64, bool),
    /// An event that nobody ever sent.
    Unknown(u64),
}

/// What a script does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Somebody wants a thing on some terms, and goes after so many milliseconds if that takes longer.
    Want(usize, usize, Option<u64>),
    /// Somebody fills a room from its end, in so many requests, until so many milliseconds have passed.
    Fill(usize, usize, u32, Option<u64>),
}

/// What a seed draws.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) servers: Vec<Server>,
    pub(crate) rooms: Vec<usize>,
    pub(crate) things: Vec<(usize, Thing)>,
    pub(crate) terms: Vec<Terms>,
    pub(crate) acts: Vec<(u64, Act)>,
    /// Whom the operator denies.
    pub(crate) denied: BTreeSet<String>,
    /// When it is shut down with all in flight, if so.
    pub(crate) shutdown: Option<u64>,
    /// Requests that are lost, in thousandths; not those to servers that are sure.
    pub(crate) loss: u32,
    /// Servers whose keys cannot be had, until when.
    pub(crate) keyless: BTreeMap<String, u64>,
    /// How long keys take.
    pub(crate) keys_delay: u64,
    /// Whether there is a store; and how often it fails, forgets, garbles and takes its time, in thousandths.
    pub(crate) store: Option<[u32; 4]>,
    /// Whether bounds are so small that they are felt.
    pub(crate) tight: bool,
    /// When faults stop.
    pub(crate) calm: u64,
}

/// Who we are.
pub(crate) const ME: &str = "me.sim";
/// Whom callers and operators deny, and who would answer.
pub(crate) const OUTCAST: &str = "outcast.sim";

impl World {
    pub(crate) fn draw(seed: u64) -> Self {
        let rng = &mut Rng::new(seed, 301);
        let all: &Rooms = rooms();
        let count = if rng.permille(700) { 1 } else { 2 };
        let mut picked = BTreeSet::new();
        while picked.len() < count {
            picked.insert(rng.index(all.all.len()));
        }
        let rooms: Vec<usize> = picked.into_iter().collect();
        let calm = rng.range(5_000, 60_000);
        let most = if rng.permille(600) { 5 } else { 12 };
        let mut servers: Vec<Server> = (0..rng.range(1, most) as usize)
            .map(|n| Server::draw(rng, n, &rooms, calm))
            .collect();
        servers.push(outcast(&rooms));
        let things = (0..rng.range(1, 8))
            .map(|_| {
                let room = *rng.pick(&rooms);
                (room, Thing::draw(rng, room))
            })
            .collect::<Vec<_>>();
        let names: Vec<String> = servers.iter().map(|server| server.name.clone()).collect();
        let mut terms: Vec<Terms> = (0..rng.range(1, 4))
            .map(|_| Terms::draw(rng, &names))
            .collect();
        // Whoever differs in little meets.
        if rng.permille(500) {
            let first = terms[0].clone();
            for other in &mut terms[1..] {
                let checks = other.checks;
                *other = Terms {
                    checks,
                    refuse: rng.permille(300),
                    accept_empty: rng.permille(300),
                    ..first.clone()
                };
            }
        }
        let mut acts: Vec<(u64, Act)> = (0..rng.range(3, 24))
            .map(|_| {
                let at = rng.range(0, calm);
                let drop = rng.permille(250).then(|| rng.range(0, 3_000));
                (
                    at,
                    Act::Want(rng.index(things.len()), rng.index(terms.len()), drop),
                )
            })
            .collect();
        // A crowd wants the same at about the same time.
        if rng.permille(600) {
            let (at, thing, own) = (
                rng.range(0, calm),
                rng.index(things.len()),
                rng.permille(500),
            );
            let of = rng.index(terms.len());
            for _ in 0..rng.range(2, 10) {
                let drop = rng.permille(200).then(|| rng.range(0, 2_000));
                let of = if own { of } else { rng.index(terms.len()) };
                acts.push((at + rng.range(0, 30), Act::Want(thing, of, drop)));
            }
        }
        if rng.permille(450) {
            let room = rng.index(rooms.len());
            let requests = if rng.permille(500) {
                rng.range32(1, 6)
            } else {
                200
            };
            let cut = rng.permille(500).then(|| rng.range(0, 4_000));
            acts.push((
                rng.range(0, calm),
                Act::Fill(room, rng.index(terms.len()), requests, cut),
            ));
        }
        acts.sort_by_key(|(at, _)| *at);
        let stored = rng.permille(600);
        // What is stored says by which version it was proved, so there they would harm others.
        if !stored && rng.permille(300) {
            let errs = Terms {
                version: true,
                errs: true,
                ..terms[0].clone()
            };
            terms.push(errs);
            for (_, act) in &mut acts {
                if let Act::Want(_, of, _) = act
                    && rng.permille(250)
                {
                    *of = terms.len() - 1;
                }
            }
        }
        let mut some = |odds: u32, most: u32| match rng.permille(odds) {
            true => rng.range32(1, most),
            false => 0,
        };
        let loss = some(300, 200);
        let store = [
            some(300, 200),
            some(300, 300),
            some(200, 100),
            some(300, 300),
        ];
        let keyless = match rng.permille(350) {
            true => (0..rng.range(1, 4))
                .map(|_| (name(rng.index(5)), rng.range(1_000, calm)))
                .collect(),
            false => BTreeMap::new(),
        };
        Self {
            seed,
            denied: match rng.permille(500) {
                true => [OUTCAST.to_owned()].into(),
                false => BTreeSet::new(),
            },
            shutdown: rng.permille(120).then(|| rng.range(100, calm)),
            loss,
            keyless,
            keys_delay: if rng.permille(400) {
                rng.range(1, 12_000)
            } else {
                0
            },
            store: stored.then_some(store),
            tight: rng.permille(250),
            servers,
            rooms,
            things,
            terms,
            acts,
            calm,
        }
    }

    pub(crate) fn server(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.name == name)
    }

    /// Whether all keys can be had at any time, fast enough for anybody.
    pub(crate) fn keys_are_sure(&self) -> bool {
        self.keyless.is_empty() && self.keys_delay <= 2_000
    }
}

/// Answers all, and is asked nothing by whom it is denied.
fn outcast(rooms: &[usize]) -> Server {
    Server {
        name: OUTCAST.to_owned(),
        moods: vec![Mood::Honest],
        holds: rooms.iter().map(|room| (*room, all(*room))).collect(),
        cuts: BTreeSet::new(),
        down: Vec::new(),
        latency: 5,
        notes: false,
    }
}

pub(crate) fn all(room: usize) -> BTreeSet<usize> {
    (0..rooms().all[room].events.len()).collect()
}

impl Server {
    fn draw(rng: &mut Rng, number: usize, rooms: &[usize], calm: u64) -> Self {
        let moods = match rng.permille(400) {
            true => vec![Mood::Honest],
            false => (0..rng.range(1, 4)).map(|_| *rng.pick(&MOODS)).collect(),
        };
        let (full, share) = (rng.permille(500), rng.range32(100, 1_000));
        let cut = if rng.permille(250) {
            rng.range32(50, 600)
        } else {
            0
        };
        let mut holds = BTreeMap::new();
        let mut cuts = BTreeSet::new();
        for room in rooms {
            let held: BTreeSet<usize> = (all(*room).into_iter())
                .filter(|_| full || rng.permille(share))
                .collect();
            cuts.extend(
                held.iter()
                    .map(|e| (*room, *e))
                    .filter(|_| rng.permille(cut)),
            );
            if full || rng.permille(800) {
                holds.insert(*room, held);
            }
        }
        let down = match rng.permille(250) {
            true => {
                let from = rng.range(0, calm);
                vec![(from, from + rng.range(100, 30_000), rng.permille(500))]
            }
            false => Vec::new(),
        };
        Self {
            name: name(number),
            moods,
            holds,
            cuts,
            down,
            latency: if rng.permille(700) {
                rng.range(1, 200)
            } else {
                rng.range(200, 3_000)
            },
            notes: rng.permille(200),
        }
    }
}

impl Thing {
    fn draw(rng: &mut Rng, room: usize) -> Self {
        let events = rooms().all[room].events.len();
        let some = |rng: &mut Rng, most: u64| -> Vec<usize> {
            (0..rng.range(1, most)).map(|_| rng.index(events)).collect()
        };
        match rng.range(0, 15) {
            0..=4 => Self::Event(rng.index(events)),
            5 | 6 => Self::AuthEvent(rng.index(events)),
            7 => Self::AuthChain(rng.index(events)),
            8 => Self::StateIds(rng.index(events)),
            9 | 10 => Self::Backfill(some(rng, 3), rng.range32(1, 25)),
            11 | 12 => Self::Missing(some(rng, 2), some(rng, 3), rng.range32(1, 20)),
            13 => {
                let ts = crate::rooms::BEGAN_MS + rng.range(0, events as u64 + 3) * 1_000 - 1_500;
                Self::Near(ts, rng.permille(500))
            }
            14 => Self::Unknown(rng.range(0, 3)),
            _ => Self::Event(events - 1),
        }
    }
}

impl Terms {
    fn draw(rng: &mut Rng, names: &[String]) -> Self {
        let any = |rng: &mut Rng| names[rng.index(names.len())].clone();
        let pool = match rng.permille(600) {
            true if rng.permille(500) => Some(names.to_vec()),
            true => Some((0..rng.range(1, 6)).map(|_| any(rng)).collect()),
            false => None,
        };
        let maybe = |rng: &mut Rng, odds: u32, low: u64, high: u64| {
            rng.permille(odds).then(|| rng.range(low, high))
        };
        let mut members: Vec<(String, u64)> = match rng.permille(700) {
            true => names
                .iter()
                .map(|name| (name.clone(), rng.range(0, 50)))
                .collect(),
            false => Vec::new(),
        };
        members.push((ME.to_owned(), 10));
        Self {
            hint: rng.permille(500).then(|| any(rng)),
            authority: rng.permille(300).then(|| any(rng)),
            members,
            pool,
            deny: match rng.permille(250) {
                true if rng.permille(500) => vec![OUTCAST.to_owned()],
                true => vec![any(rng), OUTCAST.to_owned()],
                false => Vec::new(),
            },
            version: rng.permille(750),
            errs: false,
            fanout: match rng.range(0, 5) {
                0 => Some("fixed:1"),
                1 => Some("fixed:3"),
                2 => Some("linear:1+1"),
                3 => Some("geometric:1x2"),
                _ => None,
            },
            rounds_max: maybe(rng, 150, 1, 4).map(|n| n as u32),
            attempts_max: maybe(rng, 200, 1, 6).map(|n| n as u32),
            hedge: match rng.range(0, 3) {
                0 => Some(0),
                1 => Some(rng.range(50, 3_000)),
                _ => None,
            },
            first_byte: maybe(rng, 200, 300, 5_000),
            total: maybe(rng, 200, 500, 20_000),
            tries: if rng.permille(200) {
                rng.range32(2, 3)
            } else {
                1
            },
            checks: *rng.pick(&[0, 0, 0, 1, 1, 2, 3, 4]),
            refuse: rng.permille(250),
            accept_empty: rng.permille(250),
            patience: maybe(rng, 300, 200, 60_000),
            fresh: rng.permille(400),
        }
    }
}
