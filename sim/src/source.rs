//! Simulated sources: what each says to one request, act by act.
//!
//! A request is answered by a script that is drawn when the request is acknowledged. The bytes are
//! real (see [`truth`]), or really wrong.

use crate::{
    rng::Rng,
    truth::{self, Key},
    world::{MS, Mood, SourceSpec, World},
};
use gannet_engine::{End, Fault};
use std::{collections::VecDeque, time::Duration};

/// One thing that a source does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Says what it has.
    Open {
        /// Its etag.
        identity: u64,
        /// Its length, where told.
        total: Option<u64>,
    },
    /// Sends bytes up to this offset.
    Bytes {
        /// One past the last.
        upto: u64,
    },
    /// Shows that it is at work.
    Heartbeat,
    /// Ends the answer.
    End(End),
}

/// What a source says to one request.
#[derive(Clone, Debug)]
pub struct Script {
    /// The acts to come, each with its delay after the one before.
    pub acts: VecDeque<(u64, Act)>,
    /// The version that it claims to serve.
    pub version: u32,
    /// From here on, its bytes are wrong.
    pub wrong_from: Option<u64>,
    /// Whether it tells the truth: right bytes, right identity, whole when it says so.
    pub honest: bool,
}

impl Script {
    /// The byte that it sends at an offset.
    pub fn byte(&self, key: Key, offset: u64) -> u8 {
        let right = truth::byte(key, self.version, offset);
        match self.wrong_from {
            Some(from) if offset >= from => !right,
            _ => right,
        }
    }
}

/// A request, as the source sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What is asked for.
    pub key: Key,
    /// From which byte on.
    pub from_byte: u64,
    /// The identity that the asker goes on with (If-Match), if it knows one.
    pub if_match: Option<u64>,
    /// The most bytes that the asker takes.
    pub bytes_max: u64,
}

/// How a source answers.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Chance.
    pub rng: &'a mut Rng,
    /// Its nature.
    pub spec: &'a SourceSpec,
    /// The world it is in.
    pub world: &'a World,
    /// The version that it has by now.
    pub version: u32,
}

impl Answer<'_> {
    fn delay(&mut self, (low, high): (u64, u64)) -> u64 {
        let delay = self.rng.range(low, high);
        delay - delay % self.world.tick
    }

    /// The script for one request in one mood.
    pub fn script(mut self, mood: Mood, request: Request) -> Script {
        let Request { key, from_byte, .. } = request;
        let version = self.version;
        let identity = truth::identity(key, version);
        let len = self.world.len(key, version);
        let mut script = Script {
            acts: VecDeque::new(),
            version,
            wrong_from: None,
            honest: true,
        };
        let latency = self.delay(self.spec.latency);
        if let Some(end) = self.refusal(mood) {
            script.acts.push_back((latency, Act::End(end)));
            return script;
        }
        if mood == Mood::Silent {
            return script;
        }
        let changed = request.if_match.is_some_and(|asked| asked != identity);
        if changed && self.rng.permille(self.world.odds.if_match) {
            let end = End::Failed(Fault::Changed);
            script.acts.push_back((latency, Act::End(end)));
            return script;
        }
        let total = (!self.rng.permille(self.world.odds.total_unknown)).then_some(len);
        let total = match mood {
            Mood::Understate if len > 0 => Some(len - 1),
            _ => total,
        };
        if mood == Mood::Oversize {
            return self.oversize(script, request, latency);
        }
        script
            .acts
            .push_back((latency, Act::Open { identity, total }));
        if from_byte > len {
            // Somebody lied about the length before: there is nothing to send from here.
            let end = End::Failed(Fault::Malformed);
            script.acts.push_back((0, Act::End(end)));
            return script;
        }
        let cut = self.rng.range(from_byte, len);
        match mood {
            Mood::Stall => self.send(&mut script, from_byte, cut, mood),
            Mood::Truncate => {
                self.send(&mut script, from_byte, cut, mood);
                let fault = *self.rng.pick(&[Fault::Truncated, Fault::Malformed]);
                self.end(&mut script, End::Failed(fault));
            }
            Mood::Short if total.is_none() && cut < len => {
                script.honest = false;
                self.send(&mut script, from_byte, cut, mood);
                self.end(&mut script, End::Complete { upto: cut });
            }
            Mood::Understate if len > 0 => {
                script.honest = false;
                self.send(&mut script, from_byte, len, mood);
                self.end(&mut script, End::Complete { upto: len });
            }
            Mood::Lie | Mood::FlipInside if cut < len => {
                script.honest = false;
                script.wrong_from = Some(if mood == Mood::Lie { from_byte } else { cut });
                self.send(&mut script, from_byte, len, mood);
                self.end(&mut script, End::Complete { upto: len });
            }
            _ => {
                self.send(&mut script, from_byte, len, mood);
                self.end(&mut script, End::Complete { upto: len });
            }
        }
        script
    }

    fn refusal(&mut self, mood: Mood) -> Option<End> {
        Some(match mood {
            Mood::Refuse => End::Failed(*self.rng.pick(&[
                Fault::Refused,
                Fault::Unreachable,
                Fault::Internal,
                Fault::TimedOut,
            ])),
            Mood::NotForUs => End::Failed(*self.rng.pick(&[
                Fault::NotCoordinator,
                Fault::Forbidden,
                Fault::Local,
            ])),
            Mood::Missing => End::Missing,
            Mood::Busy => End::Busy {
                retry_after: self
                    .rng
                    .permille(600)
                    .then(|| Duration::from_millis(self.rng.range(1, 30_000))),
            },
            _ => return None,
        })
    }

    /// Claims too much, or claims nothing and sends too much.
    fn oversize(mut self, mut script: Script, request: Request, latency: u64) -> Script {
        script.honest = false;
        let identity = truth::identity(request.key, self.version);
        let too_long = request.bytes_max + 1 + self.rng.range(0, 9);
        let claims = self.rng.permille(500);
        let total = claims.then_some(too_long);
        script
            .acts
            .push_back((latency, Act::Open { identity, total }));
        self.send(&mut script, request.from_byte, too_long, Mood::Oversize);
        self.end(&mut script, End::Complete { upto: too_long });
        script
    }

    fn send(&mut self, script: &mut Script, from: u64, to: u64, mood: Mood) {
        let mut at = from;
        while at < to {
            let chunk = match mood {
                Mood::Drip => 1,
                _ => self.rng.range(1, self.spec.chunk),
            };
            at = (at + chunk).min(to);
            let pace = match mood {
                Mood::Drip => (50 * MS, 900 * MS),
                _ => self.spec.pace,
            };
            if mood == Mood::Slow {
                for _ in 0..self.rng.range(0, 2) {
                    let delay = self.delay((0, 400 * MS));
                    script.acts.push_back((delay, Act::Heartbeat));
                }
            }
            let delay = self.delay(pace);
            script.acts.push_back((delay, Act::Bytes { upto: at }));
        }
    }

    fn end(&mut self, script: &mut Script, end: End) {
        // Often in the same instant as the last bytes, often a little later.
        let delay = if self.rng.permille(500) {
            0
        } else {
            self.delay(self.spec.pace)
        };
        script.acts.push_back((delay, Act::End(end)));
    }
}
