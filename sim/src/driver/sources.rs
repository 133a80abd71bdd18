//! Sources: what they answer, and when.

use super::{Event, Sim};
use crate::{
    source::{Act, Answer, Request},
    world::{MS, Mood},
};
use gannet_engine::{AttemptId, End, Fault, Input};
use std::time::Duration;

impl Sim {
    pub(super) fn acknowledge(&mut self, id: AttemptId) {
        self.settle();
        let Some(attempt) = self.ledger.attempts.get(&id) else {
            return;
        };
        let (aborting, source, fetch_id) = (attempt.aborting, attempt.source, attempt.fetch);
        let from_byte = attempt.from_byte;
        let spec = self
            .spec(source)
            .expect("only known sources are up")
            .clone();
        let up = self.ledger.sources[&source].up;
        let declines = if self.calm { 0 } else { spec.declines };
        if self.rng.permille(declines) {
            let until = self
                .now
                .after(Duration::from_millis(self.rng.range(0, 1500)));
            self.feed(Input::Declined { attempt: id, until });
            return;
        }
        if aborting && self.rng.permille(500) {
            // It never went out.
            let end = End::Aborted;
            self.feed(Input::Ended { attempt: id, end });
            return;
        }
        let Some(fetch) = self.ledger.fetches.get(&fetch_id) else {
            unreachable!("a fetch outlives its attempts");
        };
        let bringer = fetch.bringers.first().map(|b| &self.ledger.attempts[b]);
        let request = Request {
            key: fetch.key,
            from_byte,
            if_match: bringer.and_then(|b| b.identity),
            bytes_max: fetch.plan.body_bytes_max,
        };
        let mood = if !up {
            Mood::Refuse
        } else if self.calm || self.reformed.get(&source).copied().unwrap_or(false) {
            Mood::Honest
        } else {
            self.mood(&spec.moods)
        };
        let mut spec = spec;
        if self.calm {
            spec.latency = (0, 20 * MS);
            spec.pace = (0, MS);
            spec.chunk = spec.chunk.max(16);
        }
        let script = Answer {
            rng: &mut self.rng,
            spec: &spec,
            world: &self.world,
            version: self.versions[&source],
        }
        .script(mood, request);
        let first = script.acts.front().map(|(delay, _)| *delay);
        let attempt = self.ledger.attempts.get_mut(&id).expect("just seen");
        attempt.script = Some(script);
        self.feed(Input::Started { attempt: id });
        if aborting {
            self.within((0, 100 * MS), Event::Wind(id));
        } else if let Some(delay) = first {
            self.at(delay, Event::Act(id));
        }
    }

    pub(super) fn mood(&mut self, moods: &[(Mood, u32)]) -> Mood {
        let sum: u32 = moods.iter().map(|(_, weight)| weight).sum();
        let mut draw = self.rng.range32(1, sum);
        for (mood, weight) in moods {
            if draw <= *weight {
                return *mood;
            }
            draw -= weight;
        }
        unreachable!("a draw is at most the sum")
    }

    pub(super) fn act(&mut self, id: AttemptId) {
        // A driver drains before it uses a byte.
        self.settle();
        let Some(attempt) = self.ledger.attempts.get_mut(&id) else {
            return;
        };
        if attempt.end.is_some() || attempt.declined {
            return;
        }
        let script = attempt.script.as_mut().expect("acts are of a script");
        let Some((_, act)) = script.acts.pop_front() else {
            return;
        };
        let next = script.acts.front().map(|(delay, _)| *delay);
        let aborting = attempt.aborting;
        match act {
            Act::Open { identity, total } => self.feed_now(Input::Opened {
                attempt: id,
                identity,
                total,
            }),
            Act::Bytes { upto } => {
                if !aborting {
                    self.ledger.append(id, upto);
                    self.feed(Input::Progress { attempt: id, upto });
                }
            }
            Act::Heartbeat => self.feed(Input::Heartbeat { attempt: id }),
            Act::End(end) => self.feed(Input::Ended { attempt: id, end }),
        }
        if let Some(delay) = next {
            self.at(delay, Event::Act(id));
        }
    }

    pub(super) fn wind(&mut self, id: AttemptId) {
        let Some(attempt) = self.ledger.attempts.get(&id) else {
            return;
        };
        if attempt.end.is_some() || attempt.declined {
            return;
        }
        let end = if self.rng.permille(800) {
            End::Aborted
        } else {
            *self.rng.pick(&[
                End::Failed(Fault::Truncated),
                End::Failed(Fault::Refused),
                End::Missing,
            ])
        };
        self.feed(Input::Ended { attempt: id, end });
    }
}
