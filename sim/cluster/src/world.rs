//! The world of one seed: members, links, an origin, clients, and the faults that befall them.

use crate::time::{MS, SEC};
use gannet_sim::rng::{Rng, mix};

/// What is wanted: a chunk of one version of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The chunk.
    pub chunk: u32,
    /// The version of its object.
    pub version: u32,
}

impl Key {
    /// What placement goes by.
    pub fn placement(self) -> u64 {
        mix(&[7, self.chunk.into(), self.version.into()])
    }

    /// Its byte at this offset.
    pub fn byte(self, offset: u64) -> u8 {
        mix(&[self.placement(), offset]).to_le_bytes()[0]
    }
}

/// What goes wrong in a world: one kind of fault, so that its bounds are exact, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Theme {
    /// Nothing.
    Calm,
    /// One member is lost, once: killed, frozen or cut off.
    OneLost,
    /// Members see wrong lists.
    Views,
    /// The origin fails.
    Origin,
    /// The origin says for good what it says: not there, changed.
    Words,
    /// Links between members lose, double, spoil, are cut.
    Links,
    /// Members come and go.
    Members,
    /// All of it.
    Storm,
}

/// Something that goes wrong, from one time to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// From when.
    pub from: u64,
    /// Until when.
    pub until: u64,
    /// What.
    pub fault: Fault,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process dies, and comes back at the end; with its disk, or without. If its machine is lost too,
    /// nobody says that its connections are closed.
    Crash {
        /// Whose.
        member: usize,
        /// Whether its disk is as it was.
        keeps_disk: bool,
        /// Whether the machine answers for it.
        machine_up: bool,
    },
    /// A process stands still.
    Freeze {
        /// Whose.
        member: usize,
    },
    /// A member reaches no other, but the origin and its clients.
    CutOff {
        /// Who.
        member: usize,
    },
    /// Nothing passes between two members, in one direction.
    Cut {
        /// From this one.
        from: usize,
        /// To that one.
        to: usize,
    },
    /// Of a thousand messages from one member to another so many are lost, doubled and spoilt.
    Bad {
        /// From this one.
        from: usize,
        /// To that one.
        to: usize,
        /// Lost.
        loss: u32,
        /// Doubled.
        double: u32,
        /// Spoilt.
        spoil: u32,
    },
    /// A member sees this list of members; none: its looks fail.
    Wrong {
        /// Who.
        member: usize,
        /// What it sees, itself apart.
        sees: Option<Vec<usize>>,
    },
    /// The origin answers so many of a thousand requests badly.
    Origin {
        /// 503.
        busy: u32,
        /// Breaks off in the middle.
        reset: u32,
        /// Stops in the middle, and stays.
        stall: u32,
        /// Refuses the connection.
        refuse: u32,
    },
}

/// One client's want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// When.
    pub at: u64,
    /// At which member.
    pub member: usize,
    /// Of which chunk; of the version that is current then, as far as is known.
    pub chunk: u32,
    /// When the client leaves, if it does not wait.
    pub leaves: Option<u64>,
}

/// The world of one seed.
#[derive(Clone, Debug)]
pub struct World {
    /// What goes wrong.
    pub theme: Theme,
    /// How many members.
    pub members: usize,
    /// How many times one sends a chunk.
    pub sends_max: u32,
    /// The hedge.
    pub hedge: u64,
    /// Delay of a message between members, least and most.
    pub link: (u64, u64),
    /// Bytes in a frame.
    pub frame: u64,
    /// The origin's time to the first byte, least and most.
    pub origin_latency: (u64, u64),
    /// The time of each piece that it sends, least and most.
    pub origin_pace: (u64, u64),
    /// Bytes in a piece.
    pub origin_piece: u64,
    /// Requests that a member puts to the origin at once.
    pub origin_max: u32,
    /// Bytes that a member's fetches may reserve.
    pub bytes_max: u64,
    /// Lengths of the chunks.
    pub lens: Vec<u64>,
    /// When each chunk's object changes, if it does.
    pub changes: Vec<Option<u64>>,
    /// Chunks that the origin does not have.
    pub missing: Vec<bool>,
    /// What goes wrong and when.
    pub episodes: Vec<Episode>,
    /// Whether lists of members follow who is up, with so much delay; they are as configured otherwise.
    pub lists_follow: Option<u64>,
    /// How often members look.
    pub look_every: u64,
    /// Clients, until faults end.
    pub wants: Vec<Want>,
    /// When faults end.
    pub heals: u64,
}

fn ms(rng: &mut Rng, low: u64, high: u64) -> u64 {
    rng.range(low, high) * MS
}

fn pair(rng: &mut Rng, low: u64, high: u64) -> (u64, u64) {
    let (a, b) = (ms(rng, low, high), ms(rng, low, high));
    (a.min(b), a.max(b))
}

impl World {
    /// The world of this seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 0);
        let rng = &mut rng;
        let theme = *rng.pick(&[
            Theme::Calm,
            Theme::OneLost,
            Theme::OneLost,
            Theme::Views,
            Theme::Origin,
            Theme::Words,
            Theme::Links,
            Theme::Members,
            Theme::Storm,
            Theme::Storm,
        ]);
        let members = rng.range32(2, 7) as usize;
        let chunks = rng.range32(1, 12) as usize;
        let heals = ms(rng, 4_000, 12_000);
        // Slow enough now and then that the origin takes longer than the hedge; but not where a stall
        // is measured, for the origin's own time is no stall.
        let slow = theme != Theme::OneLost && rng.permille(300);
        let mut world = Self {
            theme,
            members,
            sends_max: rng.range32(1, 3),
            hedge: ms(rng, 300, 1_000),
            link: pair(rng, 0, 10),
            frame: rng.range(1, 16),
            origin_latency: if slow {
                (500 * MS, 2_500 * MS)
            } else {
                pair(rng, 5, 150)
            },
            origin_pace: pair(rng, 0, if slow { 100 } else { 25 }),
            origin_piece: rng.range(1, 8),
            origin_max: rng.range32(1, 16),
            bytes_max: rng.range(64, 1024),
            lens: (0..chunks).map(|_| rng.range(1, 48)).collect(),
            changes: vec![None; chunks],
            missing: vec![false; chunks],
            episodes: Vec::new(),
            lists_follow: None,
            look_every: ms(rng, 200, 1_000),
            wants: Vec::new(),
            heals,
        };
        if theme == Theme::OneLost {
            // Whoever waits for a turn is not stalled by a member.
            (world.origin_max, world.bytes_max) = (16, 1024);
        }
        world.draw_wants(rng);
        world.draw_faults(rng);
        world
    }

    fn draw_faults(&mut self, rng: &mut Rng) {
        let episodes = u64::from(rng.range32(1, 4));
        match self.theme {
            Theme::Calm => {}
            Theme::OneLost => {
                let fault = self.lost(rng);
                self.episode(rng, fault);
            }
            Theme::Views => (0..episodes).for_each(|_| self.wrong(rng)),
            Theme::Origin => (0..episodes).for_each(|_| self.sick(rng)),
            Theme::Words => self.words(rng),
            Theme::Links => (0..2 * episodes).for_each(|_| self.link_fault(rng)),
            Theme::Members => {
                self.lists_follow = rng.permille(600).then(|| ms(rng, 0, 2_000));
                (0..episodes).for_each(|_| self.loses(rng));
            }
            Theme::Storm => {
                self.lists_follow = rng.permille(500).then(|| ms(rng, 0, 2_000));
                for _ in 0..2 * episodes {
                    match rng.range(0, 3) {
                        0 => self.wrong(rng),
                        1 => self.sick(rng),
                        2 => self.link_fault(rng),
                        _ => self.loses(rng),
                    }
                }
                if rng.permille(300) {
                    self.words(rng);
                }
            }
        }
    }

    fn episode(&mut self, rng: &mut Rng, fault: Fault) {
        // In the middle of what somebody wants, more often than not.
        let from = if rng.permille(600) {
            let want = rng.pick(&self.wants).at;
            let off = rng.range(0, 500 * MS);
            (want + off)
                .saturating_sub(150 * MS)
                .min(self.heals - 2 * MS)
        } else {
            rng.range(0, self.heals * 3 / 4)
        };
        let until = rng.range(from + MS, self.heals);
        self.episodes.push(Episode { from, until, fault });
    }

    fn lost(&self, rng: &mut Rng) -> Fault {
        let member = rng.index(self.members);
        match rng.range(0, 3) {
            0 | 1 => Fault::Crash {
                member,
                keeps_disk: rng.permille(500),
                machine_up: rng.permille(500),
            },
            2 => Fault::Freeze { member },
            _ => Fault::CutOff { member },
        }
    }

    fn loses(&mut self, rng: &mut Rng) {
        let fault = self.lost(rng);
        let busy = |e: &Episode| match (&e.fault, &fault) {
            (
                Fault::Crash { member: a, .. } | Fault::Freeze { member: a },
                Fault::Crash { member: b, .. } | Fault::Freeze { member: b },
            ) => a == b,
            _ => false,
        };
        // One process dies once at a time.
        if !self.episodes.iter().any(busy) {
            self.episode(rng, fault);
        }
    }

    fn wrong(&mut self, rng: &mut Rng) {
        let member = rng.index(self.members);
        if self
            .episodes
            .iter()
            .any(|e| matches!(&e.fault, Fault::Wrong { member: m, .. } if *m == member))
        {
            return;
        }
        let sees = rng.permille(850).then(|| {
            let odds = rng.range32(0, 900);
            // Some that it sees are not there.
            (0..self.members + 2)
                .filter(|n| {
                    let odds = if *n < self.members { odds } else { 200 };
                    rng.permille(odds)
                })
                .collect()
        });
        self.episode(rng, Fault::Wrong { member, sees });
    }

    fn sick(&mut self, rng: &mut Rng) {
        let odds = |rng: &mut Rng| {
            if rng.permille(400) {
                rng.range32(50, 700)
            } else {
                0
            }
        };
        let fault = Fault::Origin {
            busy: odds(rng),
            reset: odds(rng),
            stall: odds(rng) / 2,
            refuse: odds(rng) / 2,
        };
        self.episode(rng, fault);
    }

    fn words(&mut self, rng: &mut Rng) {
        for chunk in 0..self.lens.len() {
            self.missing[chunk] = rng.permille(250);
            let heals = self.heals;
            self.changes[chunk] = rng.permille(400).then(|| rng.range(0, heals));
        }
    }

    fn link_fault(&mut self, rng: &mut Rng) {
        let from = rng.index(self.members);
        let to = (from + 1 + rng.index(self.members - 1)) % self.members;
        let fault = if rng.permille(400) {
            Fault::Cut { from, to }
        } else {
            let odds = |rng: &mut Rng| {
                if rng.permille(500) {
                    rng.range32(5, 200)
                } else {
                    0
                }
            };
            Fault::Bad {
                from,
                to,
                loss: odds(rng),
                double: odds(rng),
                spoil: odds(rng),
            }
        };
        self.episode(rng, fault);
    }

    /// Stampedes on single chunks, walks over all of them, and stragglers.
    fn draw_wants(&mut self, rng: &mut Rng) {
        let chunks = self.lens.len() as u64;
        let leaves = if rng.permille(300) { 150 } else { 0 };
        let mut want = |rng: &mut Rng, at: u64, member: usize, chunk: u64| {
            let leaves = rng.permille(leaves).then(|| at + rng.range(0, SEC));
            self.wants.push(Want {
                at,
                member,
                chunk: u32::try_from(chunk).expect("a few chunks"),
                leaves,
            });
        };
        for _ in 0..rng.range(1, 4) {
            let at = rng.range(0, self.heals);
            match rng.range(0, 2) {
                0 => {
                    let chunk = rng.range(0, chunks - 1);
                    let spread = *rng.pick(&[0, 5 * MS, 300 * MS]);
                    for _ in 0..rng.range(2, 30) {
                        let at = at + rng.range(0, spread);
                        let member = rng.index(self.members);
                        want(rng, at, member, chunk);
                    }
                }
                1 => {
                    let every = *rng.pick(&[0, MS, 40 * MS]);
                    for member in 0..self.members {
                        for chunk in 0..chunks {
                            want(rng, at + chunk * every, member, chunk);
                        }
                    }
                }
                _ => {
                    for _ in 0..rng.range(1, 20) {
                        let at = rng.range(0, self.heals);
                        let member = rng.index(self.members);
                        let chunk = rng.range(0, chunks - 1);
                        want(rng, at, member, chunk);
                    }
                }
            }
        }
    }

    /// The version of a chunk that the origin has at this time.
    pub fn version(&self, chunk: u32, now: u64) -> u32 {
        u32::from(
            self.changes
                .get(chunk as usize)
                .copied()
                .flatten()
                .is_some_and(|at| at <= now),
        )
    }

    /// The length of a chunk; those beyond the drawn ones are for the time after the faults.
    pub fn len(&self, chunk: u32) -> u64 {
        self.lens[chunk as usize % self.lens.len()]
    }

    /// Whether the origin does not have this chunk.
    pub fn is_missing(&self, chunk: u32) -> bool {
        self.missing.get(chunk as usize).copied().unwrap_or(false)
    }
}
