//! The engine's own invariants, recomputed from scratch. For tests and the simulator.

use crate::{
    engine::Engine,
    id::{Key, Time},
    state::{Candidates, NONE, State, WHOLE, Waits},
    timers::Who,
};
use std::collections::BTreeSet;

impl<K: Key> Engine<K> {
    /// Recomputes every count, list and index from what it stands for, and panics where one is off.
    /// Walks over everything.
    ///
    /// # Panics
    ///
    /// When an invariant does not hold: always a bug of the engine.
    pub fn check(&self) {
        self.check_waiters();
        self.check_fetches();
        self.check_attempts();
        self.check_sources();
        let armed = self.timer_count();
        assert_eq!(
            self.timers.len(),
            armed,
            "every timer belongs to something alive"
        );
        if let Some((at, who)) = self.timers.first() {
            assert!(self.is_armed(at, who), "the first timer counts");
        }
    }

    fn timer_count(&self) -> usize {
        let entries: BTreeSet<(Time, Who)> = self.timers.entries().collect();
        let set = |at: Time, who: Who| {
            let is = at != Time::FAR;
            assert!(
                !is || entries.contains(&(at, who)),
                "{who:?} is armed for {at:?}"
            );
            usize::from(is)
        };
        self.waiters
            .iter()
            .map(|(i, w)| set(w.deadline, Who::Waiter(i)))
            .sum::<usize>()
            + self
                .fetches
                .iter()
                .map(|(i, f)| set(f.wake, Who::Fetch(i)))
                .sum::<usize>()
            + self
                .attempts
                .iter()
                .map(|(i, a)| set(a.wake, Who::Attempt(i)))
                .sum::<usize>()
            + self
                .sources
                .iter()
                .map(|(i, s)| set(s.wake, Who::Source(i)))
                .sum::<usize>()
            + self
                .nodes
                .iter()
                .map(|(i, n)| set(n.wake, Who::Node(i)))
                .sum::<usize>()
    }

    fn check_waiters(&self) {
        assert_eq!(
            self.by_waiter.len(),
            self.waiters.len() as usize,
            "I1 waiters are found by id"
        );
        assert!(self.waiters.len() <= self.config.waiters_max, "I2 waiters");
        let listed: u32 = self.fetches.iter().map(|(_, f)| f.waiters).sum();
        assert_eq!(
            listed,
            self.waiters.len(),
            "I1 every waiter is on the list of its fetch"
        );
        for (fetch, f) in self.fetches.iter() {
            let (mut next, mut previous, mut count, mut top, mut unspoken) =
                (f.first_waiter, NONE, 0, 0, 0);
            let mut highest = 0;
            while next != NONE {
                let w = &self.waiters[next];
                assert_eq!(
                    (w.fetch, w.previous),
                    (fetch, previous),
                    "I1 list of waiters"
                );
                count += 1;
                highest = highest.max(w.priority);
                top += u32::from(w.priority == f.priority);
                unspoken += u32::from(!w.spoken);
                previous = next;
                next = w.next;
            }
            assert_eq!(f.last_waiter, previous, "I1 list of waiters");
            assert_eq!(
                (f.waiters, f.unspoken),
                (count, unspoken),
                "I1 counts of waiters"
            );
            assert!(
                count == 0 || (f.at_top == top && highest == f.priority),
                "class of waiters"
            );
        }
    }

    fn check_fetches(&self) {
        assert!(self.fetches.len() <= self.config.fetches_max, "I2 fetches");
        let listed = self.fetches.iter().filter(|(_, f)| f.listed).count();
        assert_eq!(
            self.by_key.len(),
            listed,
            "I1 listed fetches are found by key"
        );
        let mut racing = 0;
        let mut parked = 0;
        let mut asked = 0;
        let mut bytes: u64 = self.attempts.iter().map(|(_, a)| a.reserved).sum();
        for (fetch, f) in self.fetches.iter() {
            if f.listed {
                assert_eq!(self.find_fetch(&f.key), Some(fetch), "I1 one fetch a key");
            }
            let (attempts, live, judging) = f.race.as_ref().map_or((0, 0, false), |race| {
                (race.attempts.len(), race.live, race.judgement.is_some())
            });
            racing += u32::from(attempts > 0);
            let stands = f.question && f.waits != Waits::Nowhere;
            assert_eq!(
                self.questions.contains(f.place),
                stands,
                "I6 queue of questions"
            );
            if f.question {
                let race = f.race.iter();
                let answers = race.clone().flat_map(|r| r.answers.iter().chain(&r.answer));
                let attempts = race.clone().flat_map(|race| &race.attempts);
                asked += race.map(|race| race.reserved).sum::<u64>()
                    + answers.map(|a| a.reserved).sum::<u64>()
                    + attempts.map(|a| self.attempts[*a].reserved).sum::<u64>();
            }
            let held = f.race.as_ref().map_or(0, |race| race.parked);
            parked += held;
            assert_eq!(held > 0, self.holders.contains(&fetch), "I2 holders");
            if let Some(race) = &f.race {
                bytes += race.reserved;
                bytes += race
                    .answers
                    .iter()
                    .chain(&race.answer)
                    .map(|a| a.reserved)
                    .sum::<u64>();
                let counted = race
                    .attempts
                    .iter()
                    .filter(|a| !self.attempts[**a].aborting)
                    .count();
                assert_eq!(counted, live as usize, "live attempts of {:?}", f.key);
            }
            let commit = f.race.as_ref().is_some_and(|race| race.commit_pending);
            // I6: whatever state a fetch is in, something will move it.
            match f.state {
                State::Selecting => assert!(f.listed && live == 0),
                State::Queued => {
                    let named = f.waits.sources();
                    assert!(
                        f.waits == Waits::Any || !named.is_empty(),
                        "I6 queued somewhere"
                    );
                    for source in named {
                        assert!(
                            self.sources[*source].queue.contains(f.place),
                            "I6 queue of source"
                        );
                    }
                    if f.waits == Waits::Any {
                        assert!(self.any.contains(f.place), "I6 queue of any source");
                    }
                    assert!(f.listed && live == 0);
                }
                State::Paused => assert!(f.wake != Time::FAR && live == 0, "I6 pause ends"),
                State::Racing => assert!(live > 0, "I6 a race has runners: {:?}", f.key),
                State::Judging => assert!(judging, "I6 a judge is at it"),
                State::Accepted => {
                    assert!(
                        judging || commit,
                        "I6 accepted, and not yet over: {:?}",
                        f.key
                    );
                    assert_eq!(live, 0);
                }
                State::Draining => {
                    assert!(attempts > 0 && live == 0, "I9 what drains has attempts");
                    assert_eq!(f.waiters, 0, "I1 nobody waits for what drains");
                }
            }
            if f.state != State::Queued {
                assert_eq!(
                    f.waits,
                    Waits::Nowhere,
                    "stands in queues while {:?}",
                    f.state
                );
            }
            if f.waiters == 0 && !matches!(f.state, State::Draining | State::Accepted) {
                assert!(
                    f.ceiling_at != Time::FAR,
                    "I9 nobody waits, and it has no ceiling"
                );
            }
        }
        let standing = self
            .fetches
            .iter()
            .filter(|(_, f)| f.waits != Waits::Nowhere);
        assert_eq!(
            self.standing as usize,
            standing.count(),
            "I6 who stands in queues is counted"
        );
        assert_eq!(self.racing, racing, "I2 racing fetches are counted");
        assert!(racing <= self.config.racing_max, "I2 racing fetches");
        assert_eq!(self.bytes, bytes, "I2 reserved bytes are counted");
        assert_eq!(self.bytes_asked, asked, "I2 the bytes of questions");
        assert_eq!(self.bytes_parked, parked, "I2 parked bytes are counted");
        assert!(bytes <= self.config.bytes_max, "I2 reserved bytes");
    }

    fn check_attempts(&self) {
        let listed: usize = self
            .fetches
            .iter()
            .filter_map(|(_, f)| f.race.as_ref())
            .map(|race| race.attempts.len())
            .sum();
        assert_eq!(
            listed,
            self.attempts.len() as usize,
            "I2 every attempt has its fetch"
        );
        for (attempt, a) in self.attempts.iter() {
            let race = self.fetches[a.fetch].race.as_ref();
            assert!(
                race.is_some_and(|race| race.attempts.contains(&attempt)),
                "I2 its fetch has it"
            );
            assert!(
                self.sources[a.source].attempts.contains(&attempt),
                "I2 its source has it"
            );
            let s = &self.sources[a.source];
            assert!(
                a.aborting || !s.is_blocked(self.now),
                "I5 blocked sources have no attempts"
            );
            assert!(
                Some(a.source_id) != self.config.me,
                "I5 we do not ask ourselves"
            );
            if let (false, Candidates::Only(list)) = (a.aborting, &self.fetches[a.fetch].candidates)
            {
                assert!(list.contains(&a.source_id), "I5 targets are not exceeded");
            }
            assert!(
                a.acknowledged || s.unacknowledged == Some(attempt),
                "I2 one start a source is unacknowledged"
            );
        }
    }

    fn check_sources(&self) {
        assert_eq!(
            self.by_source.len(),
            self.sources.len() as usize,
            "sources are found by id"
        );
        assert!(self.sources.len() <= self.config.sources_max, "I2 sources");
        let (mut eligible, mut sound, mut busy) = (0, 0, 0);
        let queued: u32 = self.sources.iter().map(|(_, s)| s.queue.len()).sum();
        let stand: usize = self
            .fetches
            .iter()
            .map(|(_, f)| f.waits.sources().len())
            .sum();
        assert_eq!(
            queued as usize, stand,
            "queues of sources hold who waits for them, and only them"
        );
        for (source, s) in self.sources.iter() {
            assert_eq!(
                s.gate.running as usize,
                s.attempts.len(),
                "I2 attempts of a source"
            );
            assert!(
                s.untold || s.unacknowledged.is_none() || s.posted.1 == 0 || s.busy_at != NONE,
                "I2 no turn comes at a source with an unacknowledged start"
            );
            if s.busy_at != NONE {
                assert_eq!(self.busy[s.busy_at as usize], source, "busy sources");
                assert!(
                    s.unacknowledged.is_some() && s.posted.0 == 0 && s.posted.2,
                    "busy sources are in the draw"
                );
                assert!(s.queue.is_empty(), "nobody waits for a busy source by name");
                busy += 1;
            }
            assert!(
                !s.untold || self.untold.contains(&source),
                "untold sources are listed"
            );
            let is = self.is_eligible(source);
            // Time alone may have unblocked it; the timer says so to the rest.
            if is == (s.eligible_at != NONE) {
                eligible += u32::from(is);
            }
            if s.eligible_at != NONE {
                assert_eq!(
                    self.eligible[s.eligible_at as usize], source,
                    "eligible sources"
                );
            }
            sound += u32::from(s.counted_sound);
            for fetch in &s.targeted {
                let list = &self.fetches[*fetch].candidates;
                assert!(
                    matches!(list, Candidates::Only(list) if list.contains(&s.id)),
                    "I9 a target's fetch knows it"
                );
            }
            for fetch in &s.paused {
                assert_eq!(
                    self.fetches[*fetch].state,
                    State::Paused,
                    "I9 paused fetches"
                );
            }
        }
        assert!(eligible as usize <= self.eligible.len());
        assert_eq!(self.sound, sound, "sound sources are counted");
        assert_eq!(self.busy.len(), busy, "busy sources are listed");
        for (node, n) in self.nodes.iter() {
            let below: u32 = n
                .children
                .iter()
                .flatten()
                .map(|child| match child {
                    crate::state::Child::Node(child) => self.nodes[*child].gate.running,
                    crate::state::Child::Source(source) => self.sources[*source].gate.running,
                })
                .sum();
            assert_eq!(n.gate.running, below, "I2 attempts of a group ({node})");
        }
        assert_eq!(
            self.nodes[WHOLE].gate.running,
            self.attempts.len(),
            "I2 attempts in all"
        );
    }
}
