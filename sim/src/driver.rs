//! The driver of the simulated world: virtual time, the event queue, sources, judge, store, callers.
//!
//! It does what a real driver does, and now and then what an unlucky one does: it acknowledges late,
//! hands in several inputs between two polls, lets answers cross aborts, repeats itself, and names
//! ids that were never given.

use crate::{
    coverage::Mark,
    ledger::Ledger,
    rng::Rng,
    source::{Act, Answer, Request},
    trace::Trace,
    truth::{self, Key},
    world::{KeySpec, MS, Mood, Naming, World, limits},
};
use gannet_engine::{
    AttemptId, CommitFault, End, Engine, Event as EngineEvent, Fault, FetchId, GroupId, Input,
    JudgementId, Output, Plan, Retry, Scope, SourceId, Targets, Time, Timer, Verdict, WaiterId,
    Want,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

/// Something that happens at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A caller comes.
    Arrival,
    /// A caller goes.
    Leave(WaiterId),
    /// A caller's deadline moves.
    MoveDeadline(WaiterId),
    /// The operator, or fate, does something.
    Chaos,
    /// A ranking is ready.
    Rank(FetchId),
    /// A start is acknowledged, or not.
    Acknowledge(AttemptId),
    /// A source's next act.
    Act(AttemptId),
    /// An aborted attempt ends.
    Wind(AttemptId),
    /// A verdict is ready.
    Verdict(JudgementId),
    /// The store is done.
    Stored(FetchId),
    /// A source changes its mood for good or bad.
    Flip(SourceId),
    /// A source comes back.
    Return(SourceId),
}

/// One simulated run.
#[derive(Debug)]
pub struct Sim {
    world: World,
    rng: Rng,
    engine: Engine<Key>,
    /// The account.
    pub ledger: Ledger,
    /// What went in and came out.
    pub trace: Trace,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    events: u64,
    waiters: u64,
    /// Inputs and timeouts handed in.
    pub steps: u64,
    /// Whether the engine's own `check()` is asked too; a planted bug is to be found without it.
    pub trusting: bool,
    /// Faults are over.
    calm: bool,
    /// Sources that are honest for now.
    reformed: BTreeMap<SourceId, bool>,
    versions: BTreeMap<SourceId, u32>,
    /// The timer that the driver waits for, and when it will get to it.
    timer: Option<(Time, Time)>,
    at_this_instant: (Time, u32),
}

/// Inputs and timeouts at one instant, beyond which the engine is said to spin.
const SPIN_MAX: u32 = 5_000;

/// Outputs of one drain, beyond which the engine is said to spin.
const OUTPUTS_MAX: u32 = 20_000;

impl Sim {
    /// The world of a seed at its beginning.
    pub fn new(seed: u64, print: bool) -> Self {
        let world = World::draw(seed);
        let mut rng = Rng::new(seed, 2);
        let now = Time::from_nanos(rng.range(0, 5000) * MS);
        let mut trace = Trace::new(print);
        if print {
            trace.line(now, "..", format_args!("{world:#?}"));
        }
        let engine = Engine::new(world.config.clone(), seed).expect("a world has valid bounds");
        let ledger = Ledger::new(world.config.clone(), world.len_max, world.versions, now);
        let versions = world.sources.iter().map(|s| (s.id, s.version)).collect();
        Self {
            world,
            rng,
            engine,
            ledger,
            trace,
            now,
            queue: BinaryHeap::new(),
            events: 0,
            waiters: 0,
            steps: 0,
            trusting: true,
            calm: false,
            reformed: BTreeMap::new(),
            versions,
            timer: None,
            at_this_instant: (now, 0),
        }
    }

    /// The whole run: safety, liveness, a last wave, and the end of everything.
    pub fn run(&mut self) {
        self.begin();
        let end = self.now.after(self.world.safety);
        self.run_until(end, |_| false);
        if self.rng.permille(100) {
            // Everybody leaves in the middle of it.
            self.finish();
            return;
        }
        self.heal();
        let bound = self.now.after(self.patience());
        self.run_until(bound, |sim| sim.waiting().is_empty());
        let waiting = self.waiting();
        assert!(
            waiting.is_empty(),
            "I6: nothing is wrong any more, and {waiting:?} are not answered after {:?}: {:#?}",
            self.patience(),
            self.engine.snapshot().fetches
        );
        self.release_all();
        self.quiet();
        self.last_wave();
        self.finish();
    }

    // Time and events.

    fn at(&mut self, delay: u64, event: Event) {
        let delay = delay - delay % self.world.tick;
        let time = self.now.after(Duration::from_nanos(delay));
        self.events += 1;
        self.queue.push(Reverse((time, self.events, event)));
    }

    fn within(&mut self, (low, high): (u64, u64), event: Event) {
        let delay = if self.calm {
            self.rng.range(0, MS)
        } else {
            self.rng.range(low, high)
        };
        self.at(delay, event);
    }

    fn run_until(&mut self, end: Time, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let Some(next) = self.next_time() else {
                break;
            };
            if next > end {
                break;
            }
            self.step(next);
        }
        self.settle();
        if self.now < end && !done(self) {
            self.advance(end);
        }
    }

    fn advance(&mut self, to: Time) {
        assert!(to >= self.now, "time runs forward");
        self.now = to;
        self.ledger.now = to;
    }

    /// When something happens next.
    fn next_time(&mut self) -> Option<Time> {
        let peek = |sim: &Self| sim.queue.peek().map(|Reverse((time, ..))| *time);
        if self.ledger.undrained > 0 {
            // Only what happens at once comes between two polls.
            match peek(self) {
                Some(time) if time <= self.now => return Some(self.now),
                _ => self.settle(),
            }
        }
        let event = peek(self);
        let due = self.engine.poll_timeout();
        self.timer = match (due, self.timer) {
            (None, _) => None,
            (Some(due), Some((old, at))) if old == due => Some((due, at)),
            (Some(due), _) => {
                let late = if !self.calm && self.rng.permille(self.world.odds.late_timer) {
                    self.rng.range(0, 20) * MS
                } else {
                    0
                };
                Some((due, due.max(self.now).after(Duration::from_nanos(late))))
            }
        };
        let timer = self.timer.map(|(_, at)| at.max(self.now));
        match (event, timer) {
            (Some(event), Some(timer)) => Some(event.min(timer)),
            (event, timer) => event.or(timer),
        }
    }

    fn step(&mut self, next: Time) {
        self.advance(next.max(self.now));
        let (instant, count) = self.at_this_instant;
        let count = if instant == self.now { count + 1 } else { 0 };
        self.at_this_instant = (self.now, count);
        assert!(
            count < SPIN_MAX,
            "I6: {count} steps at one instant: a livelock"
        );
        let timer = self.timer.filter(|(_, at)| *at <= self.now);
        // Answers, verdicts and timers go before new wants.
        let event = self
            .queue
            .peek()
            .filter(|Reverse((at, ..))| *at <= self.now);
        let event_first = event.is_some() && (timer.is_none() || self.rng.permille(500));
        if event_first {
            let Reverse((_, _, event)) = self.queue.pop().expect("just seen");
            self.happen(event);
        } else if timer.is_some() {
            self.settle();
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.timer = None;
        self.trace.line(self.now, "--", format_args!("timeout"));
        self.ledger.note_timeout();
        self.engine.handle_timeout(self.now);
        self.steps += 1;
        self.settle();
    }

    // Between the driver and the engine.

    fn feed(&mut self, input: Input<Key>) {
        let want = matches!(input, Input::Want { .. });
        if want || !self.rng.permille(self.world.odds.inputs_between_polls) {
            self.settle();
        }
        self.feed_undrained(input);
        if want || !self.rng.permille(self.world.odds.inputs_between_polls) {
            self.settle();
        }
    }

    fn feed_now(&mut self, input: Input<Key>) {
        self.settle();
        self.feed_undrained(input);
        self.settle();
    }

    fn feed_undrained(&mut self, input: Input<Key>) {
        self.trace.line(self.now, "->", format_args!("{input:?}"));
        self.ledger.note(&input);
        if self.ledger.undrained > 1 {
            self.ledger.hit(Mark::InputsBetweenPolls);
        }
        self.engine.handle_input(self.now, input);
        self.steps += 1;
    }

    /// Drains the outputs, acts on them, and audits the engine at rest.
    fn settle(&mut self) {
        if self.ledger.undrained == 0 {
            return;
        }
        let mut outputs = 0;
        while let Some(output) = self.engine.poll_output() {
            self.trace.line(self.now, "<-", format_args!("{output:?}"));
            self.ledger.check_output(&output);
            self.act_on(output);
            outputs += 1;
            assert!(
                outputs < OUTPUTS_MAX,
                "I6: {outputs} outputs in one drain: a livelock"
            );
        }
        self.ledger.settle_want();
        while let Some(event) = self.engine.poll_event() {
            self.trace.line(self.now, "  ", format_args!("{event:?}"));
            if matches!(event, EngineEvent::Timeout(_, _, Timer::Throughput)) {
                self.ledger.hit(Mark::ThroughputTimeout);
            }
        }
        if self.trusting {
            self.engine.check();
        }
        let snapshot = self.engine.snapshot();
        let wakes = self.engine.poll_timeout();
        self.ledger.audit(&snapshot, self.engine.counters(), wakes);
        if self.rng.permille(self.world.odds.spurious_timeout)
            && wakes.is_none_or(|at| at > self.now)
        {
            self.engine.handle_timeout(self.now);
            let output = self.engine.poll_output();
            assert!(
                output.is_none(),
                "c1: a spurious timeout does something: {output:?}"
            );
        }
    }

    fn act_on(&mut self, output: Output<Key>) {
        match output {
            Output::Select { fetch } => self.within(self.world.ranking, Event::Rank(fetch)),
            Output::Start {
                attempt, source, ..
            } => {
                let ack = self.spec(source).map_or((0, 0), |spec| spec.ack);
                self.within(ack, Event::Acknowledge(attempt));
            }
            Output::Abort { attempt } => self.wind_up(attempt),
            Output::Judge { judgement, .. } => {
                self.within(self.world.judging, Event::Verdict(judgement));
            }
            Output::Commit { fetch } => self.within(self.world.storing, Event::Stored(fetch)),
            _ => {}
        }
    }

    fn spec(&self, source: SourceId) -> Option<&crate::world::SourceSpec> {
        self.world.sources.iter().find(|spec| spec.id == source)
    }

    fn wind_up(&mut self, id: AttemptId) {
        let Some(attempt) = self.ledger.attempts.get(&id) else {
            return;
        };
        if attempt.end.is_some() || attempt.declined || !attempt.acknowledged {
            return;
        }
        // The last word may be on its way already.
        let script = attempt.script.as_ref();
        let crossing =
            script.is_some_and(|s| s.acts.len() == 1 && matches!(s.acts[0].1, Act::End(_)));
        if crossing && self.rng.permille(700) {
            return;
        }
        if let Some(attempt) = self.ledger.attempts.get_mut(&id)
            && let Some(script) = &mut attempt.script
        {
            script.acts.clear();
        }
        self.within((0, 100 * MS), Event::Wind(id));
    }

    // What happens.

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival => self.arrive(),
            Event::Leave(waiter) => {
                if self.ledger.waiters.contains_key(&waiter) {
                    self.feed(Input::Release { waiter });
                }
            }
            Event::MoveDeadline(waiter) => self.move_deadline(waiter),
            Event::Chaos => self.chaos(),
            Event::Rank(fetch) => self.rank(fetch),
            Event::Acknowledge(attempt) => self.acknowledge(attempt),
            Event::Act(attempt) => self.act(attempt),
            Event::Wind(attempt) => self.wind(attempt),
            Event::Verdict(judgement) => self.judge(judgement),
            Event::Stored(fetch) => self.stored(fetch),
            Event::Flip(source) => self.flip(source),
            Event::Return(source) => self.come(source),
        }
        if self.rng.permille(self.world.odds.late_inputs) && !self.calm {
            self.noise();
        }
    }

    fn begin(&mut self) {
        for group in self.world.groups.clone() {
            if let Some(limits) = group.limits {
                let scope = Scope::Group(group.id);
                self.feed(Input::Limit { scope, limits });
            }
        }
        for spec in self.world.sources.clone() {
            if let Some(limits) = spec.limits {
                let scope = Scope::Source(spec.id);
                self.feed(Input::Limit { scope, limits });
            }
            if self.rng.permille(800) {
                self.come(spec.id);
            } else {
                let delay = self.rng.range(0, 5000) * MS;
                self.at(delay, Event::Return(spec.id));
            }
            if spec.flips_every > Duration::ZERO {
                self.at(0, Event::Flip(spec.id));
            }
        }
        self.at(0, Event::Arrival);
        self.at(self.world.chaos, Event::Chaos);
    }

    fn come(&mut self, source: SourceId) {
        let spec_group = self.spec(source).map(|spec| spec.group);
        let Some(group) = spec_group else {
            return;
        };
        let known = self.ledger.sources.get(&source);
        if known.is_some_and(|s| s.up) {
            return;
        }
        if known.is_some() && self.ledger.fetches.values().any(|f| f.starved) {
            self.ledger.hit(Mark::SourceReturned);
        }
        self.feed(Input::SourceUp { source, group });
    }

    fn flip(&mut self, source: SourceId) {
        if self.calm {
            return;
        }
        let reformed = self.reformed.entry(source).or_default();
        *reformed = !*reformed;
        let every = self.spec(source).map_or(Duration::ZERO, |s| s.flips_every);
        let nanos = u64::try_from(every.as_nanos()).expect("a few seconds");
        self.at(nanos, Event::Flip(source));
    }

    // Callers.

    fn arrive(&mut self) {
        if self.calm {
            return;
        }
        let index = self.rng.index(self.world.keys.len());
        let key = Key::try_from(index).expect("a few keys");
        let spec = self.world.keys[index].clone();
        let want = self.want(&spec);
        let waiter = WaiterId(self.waiters);
        self.waiters += 1;
        if self.rng.permille(self.world.odds.release) {
            let delay = self.rng.range(0, 4000) * MS;
            self.at(delay, Event::Leave(waiter));
        }
        if want.deadline.is_some() && self.rng.permille(self.world.odds.deadline_moves) {
            let delay = self.rng.range(0, 3000) * MS;
            self.at(delay, Event::MoveDeadline(waiter));
        }
        self.feed(Input::Want { waiter, key, want });
        let delay = self.rng.range(0, self.world.arrival);
        self.at(delay, Event::Arrival);
    }

    fn want(&mut self, spec: &KeySpec) -> Want {
        let rng = &mut self.rng;
        let world = &self.world;
        let mut plan = Plan {
            commit: *rng.pick(&world.commits),
            lifetime: *rng.pick(&world.lifetimes),
            ..spec.plan.clone()
        };
        if rng.permille(world.odds.changed_plan) {
            // Whether it resumes, and how large it may be, belong to the datum.
            let other = &world.keys[rng.index(world.keys.len())].plan;
            plan.hedge = other.hedge;
            plan.retry = other.retry;
            plan.growth = other.growth;
            plan.first_byte_timeout = other.first_byte_timeout;
            plan.not_before = Some(self.now.after(Duration::from_millis(rng.range(0, 2000))));
        }
        let targets = match spec.naming {
            Naming::Ranked => Targets::Ranked,
            Naming::Any => Targets::Any,
            Naming::Only if rng.permille(world.odds.only_lifted) => Targets::Any,
            Naming::Only => {
                let mut only: Vec<SourceId> = (world.sources.iter())
                    .map(|s| s.id)
                    .filter(|_| rng.permille(400))
                    .collect();
                if only.is_empty() && rng.permille(900) {
                    only.push(rng.pick(&world.sources).id);
                }
                Targets::Only(only)
            }
        };
        let deadline = rng
            .permille(world.odds.deadline)
            .then(|| self.now.after(Duration::from_millis(rng.range(0, 6000))));
        Want {
            targets,
            priority: *rng.pick(&world.priorities),
            owner: rng.range32(1, world.owners),
            deadline,
            plan: Arc::new(plan),
        }
    }

    fn move_deadline(&mut self, waiter: WaiterId) {
        if !self.ledger.waiters.contains_key(&waiter) {
            return;
        }
        let deadline = (!self.rng.permille(200)).then(|| {
            let ahead = self.rng.range(0, 6000);
            self.now.after(Duration::from_millis(ahead))
        });
        self.feed(Input::Deadline { waiter, deadline });
    }

    // The front end.

    fn rank(&mut self, fetch: FetchId) {
        let mut ranked: Vec<SourceId> = self.world.sources.iter().map(|s| s.id).collect();
        self.rng.shuffle(&mut ranked);
        if !self.calm {
            let keep = self.rng.range(1, ranked.len() as u64);
            ranked.truncate(usize::try_from(keep).expect("a few sources"));
            if self.rng.permille(100) {
                ranked.push(SourceId(999));
                ranked.push(ranked[0]);
            }
            if self.rng.permille(self.world.odds.empty_ranking) {
                ranked.clear();
            }
        } else if let Some(me) = self.world.config.me {
            // A ranking cut short must not be all ourselves.
            ranked.retain(|s| *s != me);
        }
        self.feed(Input::Candidates { fetch, ranked });
    }

    fn judge(&mut self, id: JudgementId) {
        let Some(judgement) = self.ledger.judgements.get(&id) else {
            return;
        };
        let key = self.ledger.fetches.get(&judgement.fetch).map(|f| f.key);
        let right = match key {
            Some(key) => truth::version_of(
                key,
                &judgement.body,
                self.world.versions,
                self.world.len_max,
            )
            .is_some(),
            // The fetch is gone, and so is anybody who could serve the bytes.
            None => true,
        };
        let odds = &self.world.odds;
        let fuzzy = [
            (odds.judge_partial, Verdict::Partial),
            (odds.judge_ambiguous, Verdict::Ambiguous),
            (odds.judge_ignored, Verdict::Ignored),
            (odds.judge_gives_up, Verdict::GaveUp),
        ];
        let mut verdict = if right {
            Verdict::Valid
        } else {
            Verdict::Invalid
        };
        for (odds, other) in fuzzy {
            if !self.calm && self.rng.permille(odds) {
                verdict = other;
            }
        }
        self.feed(Input::Judged {
            judgement: id,
            verdict,
        });
    }

    fn stored(&mut self, fetch: FetchId) {
        let odds = &self.world.odds;
        let (exists, fails) = (odds.commit_exists, odds.commit_fails);
        let result = if self.calm {
            Ok(())
        } else if self.rng.permille(fails) {
            Err(*self
                .rng
                .pick(&[CommitFault::Full, CommitFault::Io, CommitFault::Closed]))
        } else if self.rng.permille(exists) {
            Err(CommitFault::Exists)
        } else {
            Ok(())
        };
        self.feed(Input::Committed { fetch, result });
    }

    // Sources.

    fn acknowledge(&mut self, id: AttemptId) {
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

    fn mood(&mut self, moods: &[(Mood, u32)]) -> Mood {
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

    fn act(&mut self, id: AttemptId) {
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

    fn wind(&mut self, id: AttemptId) {
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

    // Fate and the operator.

    fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let delay = self.rng.range(0, self.world.chaos);
        self.at(delay, Event::Chaos);
        let source = self.rng.pick(&self.world.sources).id;
        let group = self.rng.pick(&self.world.groups).id;
        let key = self.some_key();
        let soon = self
            .now
            .after(Duration::from_millis(self.rng.range(0, 3000)));
        match self.rng.range(0, 15) {
            0 | 1 => self.go(source),
            2 => self.come(source),
            3 | 4 => {
                let until = (!self.rng.permille(200)).then_some(soon);
                self.feed(Input::Block { source, until });
            }
            5 => self.feed(Input::Unblock { source }),
            6 => {
                let scope = self.scope(source, group);
                self.feed(Input::Pause { scope, until: soon });
            }
            7 => {
                let scope = self.scope(source, group);
                self.limit(scope);
            }
            8 => self.feed(Input::Forget { source }),
            9 => self.feed(Input::Withdraw { source }),
            10 => self.feed(Input::WithdrawFrom { key, source }),
            11 => self.announce(key, source),
            12 => {
                let from = self.rng.permille(500).then_some(source);
                self.feed(Input::Obtained { key, from });
            }
            13 => self.retain(),
            14 => {
                let version = self.rng.range32(0, self.world.versions);
                self.versions.insert(source, version);
            }
            _ => self.move_source(source, group),
        }
    }

    fn some_key(&mut self) -> Key {
        let waited: Vec<Key> = self.ledger.waiters.values().map(|w| w.key).collect();
        if waited.is_empty() || self.rng.permille(100) {
            self.rng.range32(0, 1000)
        } else {
            *self.rng.pick(&waited)
        }
    }

    fn scope(&mut self, source: SourceId, group: GroupId) -> Scope {
        match self.rng.range(0, 5) {
            0 => Scope::Whole,
            1 | 2 => Scope::Group(group),
            _ => Scope::Source(source),
        }
    }

    fn limit(&mut self, scope: Scope) {
        let mut new = limits(&mut self.rng, 8);
        if let Scope::Group(group) = scope {
            // Who is nested in whom stays as it is.
            new.within = self
                .ledger
                .groups
                .get(&group)
                .and_then(|bound| bound.limits.within);
        }
        self.feed(Input::Limit { scope, limits: new });
    }

    fn go(&mut self, source: SourceId) {
        if !self.ledger.sources.get(&source).is_some_and(|s| s.up) {
            return;
        }
        self.feed(Input::SourceDown { source });
        self.settle();
        // What was under way ends by itself, soon.
        let cut: Vec<AttemptId> = self
            .ledger
            .attempts
            .iter()
            .filter(|(_, a)| a.source == source && a.end.is_none() && a.acknowledged)
            .map(|(id, _)| *id)
            .collect();
        for id in cut {
            let attempt = self.ledger.attempts.get_mut(&id).expect("just seen");
            if let Some(script) = &mut attempt.script {
                script.acts.clear();
                let end = End::Failed(Fault::Unreachable);
                script.acts.push_back((0, Act::End(end)));
            }
            self.within((0, 200 * MS), Event::Act(id));
        }
        let back = self.rng.range(0, 6000) * MS;
        self.at(back, Event::Return(source));
    }

    fn announce(&mut self, key: Key, source: SourceId) {
        self.settle();
        let attempts = self.engine.counters().attempts;
        self.feed_now(Input::Announced { key, source });
        if self.engine.counters().attempts > attempts {
            self.ledger.hit(Mark::AnnouncedWoke);
        }
    }

    fn move_source(&mut self, source: SourceId, group: GroupId) {
        if self.ledger.sources.get(&source).is_some_and(|s| s.up) {
            self.feed(Input::SourceUp { source, group });
        }
    }

    /// Cancels about a third of all callers.
    fn retain(&mut self) {
        self.settle();
        let salt = self.rng.draw();
        let drops = |waiter: WaiterId| crate::rng::mix(&[waiter.0, salt]).is_multiple_of(3);
        let dropped: Vec<WaiterId> = (self.ledger.waiters.keys().copied())
            .filter(|w| drops(*w))
            .collect();
        self.trace
            .line(self.now, "->", format_args!("retain, without {dropped:?}"));
        self.ledger.seq += 1;
        self.ledger.undrained += 1;
        self.ledger.cancelled.extend(&dropped);
        (self.ledger.owed).extend(dropped.iter().map(|w| (*w, "cancelled")));
        self.engine.retain(self.now, |_, waiter| !drops(waiter));
        self.steps += 1;
        self.settle();
    }

    /// Inputs that mean nothing: ended attempts, unknown ids, things said twice.
    fn noise(&mut self) {
        self.settle();
        let ended: Vec<AttemptId> = (self.ledger.attempts.iter())
            .filter(|(_, a)| a.end.is_some() || a.declined)
            .map(|(id, _)| *id)
            .collect();
        let attempt = if ended.is_empty() || self.rng.permille(200) {
            AttemptId(self.rng.draw() | 1 << 60)
        } else {
            self.ledger.hit(Mark::LateInput);
            *self.rng.pick(&ended)
        };
        let before = self.engine.counters().late_inputs;
        let unknown = self.rng.draw() | 1 << 60;
        let input = match self.rng.range(0, 9) {
            0 => Input::Started { attempt },
            1 => Input::Progress {
                attempt,
                upto: u64::MAX,
            },
            2 => Input::Ended {
                attempt,
                end: End::Complete { upto: 3 },
            },
            3 => Input::Opened {
                attempt,
                identity: 1,
                total: Some(u64::MAX),
            },
            4 => Input::Declined {
                attempt,
                until: Time::FAR,
            },
            5 => Input::Heartbeat { attempt },
            6 => Input::Judged {
                judgement: JudgementId(unknown),
                verdict: Verdict::Valid,
            },
            7 => Input::Committed {
                fetch: FetchId(unknown),
                result: Ok(()),
            },
            8 => Input::Candidates {
                fetch: FetchId(unknown),
                ranked: vec![SourceId(0)],
            },
            _ => Input::Release {
                waiter: WaiterId(unknown),
            },
        };
        self.trace.line(self.now, "->", format_args!("{input:?}"));
        let due = self.engine.poll_timeout();
        // Not noted: the account does not change, and neither may the engine's.
        self.ledger.undrained += 1;
        self.engine.handle_input(self.now, input);
        self.steps += 1;
        // What time has made due may be done at any input: a token that has come, say.
        if due.is_none_or(|at| at > self.now) {
            let output = self.engine.poll_output();
            assert!(
                output.is_none(),
                "c4: a late input does something: {output:?}"
            );
        }
        let after = self.engine.counters().late_inputs;
        assert_eq!(after, before + 1, "c13: the counter `late_inputs`");
        self.settle();
    }

    // The end.

    /// Faults stop: all sources are up, honest, in one version, and nobody blocks or pauses them.
    fn heal(&mut self) {
        self.settle();
        self.calm = true;
        self.trace.line(self.now, "..", format_args!("faults stop"));
        self.queue = self
            .queue
            .drain()
            .filter(|Reverse((_, _, event))| !matches!(event, Event::Leave(_)))
            .collect();
        let loosen = self.rng.permille(500);
        for spec in self.world.sources.clone() {
            self.versions.insert(spec.id, self.world.versions);
            let source = spec.id;
            self.feed(Input::Unblock { source });
            self.come(source);
            let scope = Scope::Source(source);
            self.unbind(scope, loosen);
        }
        for group in self.world.groups.clone() {
            self.unbind(Scope::Group(group.id), loosen);
        }
        self.unbind(Scope::Whole, loosen);
        self.settle();
    }

    fn unbind(&mut self, scope: Scope, loosen: bool) {
        let until = self.now;
        self.feed(Input::Pause { scope, until });
        if loosen {
            self.limit(scope);
        }
    }

    /// How long everybody may have to wait once nothing is wrong: the longest pauses that a world
    /// can have, and a token a second for everybody who waits.
    fn patience(&self) -> Duration {
        Duration::from_secs(120) + Duration::from_secs(4) * self.waiters_len()
    }

    fn waiters_len(&self) -> u32 {
        u32::try_from(self.ledger.waiters.len()).expect("a few waiters")
    }

    /// Those who wait and could be served.
    fn waiting(&self) -> Vec<WaiterId> {
        self.ledger
            .waiters
            .iter()
            .filter(|(_, waiter)| {
                let fetch = waiter.fetch.and_then(|id| self.ledger.fetches.get(&id));
                let hopeless = fetch.is_some_and(|f| match &f.targets {
                    Targets::Only(only) => only.iter().all(|s| self.ledger.barred(*s).is_some()),
                    _ => self.helpless(),
                });
                !hopeless
            })
            .map(|(id, _)| *id)
            .collect()
    }

    /// Whether we are the only source.
    fn helpless(&self) -> bool {
        let me = self.world.config.me;
        self.world.sources.iter().all(|s| Some(s.id) == me)
    }

    fn release_all(&mut self) {
        let waiting: Vec<WaiterId> = self.ledger.waiters.keys().copied().collect();
        for waiter in waiting {
            self.feed(Input::Release { waiter });
        }
        self.settle();
    }

    /// Lets everything under way come to its end.
    fn quiet(&mut self) {
        let bound = self.now.after(Duration::from_secs(60));
        self.run_until(bound, |sim| sim.ledger.fetches.is_empty());
        assert!(
            self.ledger.fetches.is_empty(),
            "I9: fetches that nobody wants are not gone after a minute: {:#?}",
            self.engine.snapshot().fetches
        );
    }

    /// With healthy sources, each key is fetched once more, and must come.
    fn last_wave(&mut self) {
        if self.helpless() {
            return;
        }
        // The last lies were found out after everybody was unblocked.
        for spec in self.world.sources.clone() {
            self.feed(Input::Unblock { source: spec.id });
        }
        let waves = self
            .world
            .config
            .fetches_max
            .min(self.world.config.waiters_max) as usize;
        let keys: Vec<(Key, KeySpec)> = (0..).zip(self.world.keys.clone()).collect();
        for wave in keys.chunks(waves) {
            // Those before it may still be at the store, and take up room.
            let bound = self.now.after(self.patience());
            self.run_until(bound, |sim| sim.engine.snapshot().fetches.is_empty());
            let answered = self.ledger.tally.answered;
            for (key, spec) in wave {
                let mut plan = spec.plan.clone();
                if plan.retry == Retry::No && !self.world.config.try_backed_off {
                    plan.retry = persistent();
                }
                let targets = match spec.naming {
                    Naming::Ranked => Targets::Ranked,
                    _ => Targets::Any,
                };
                let want = Want {
                    targets,
                    priority: 1,
                    owner: 1,
                    deadline: None,
                    plan: Arc::new(plan),
                };
                let waiter = WaiterId(self.waiters);
                self.waiters += 1;
                let key = *key;
                self.feed(Input::Want { waiter, key, want });
            }
            let bound = self.now.after(self.patience());
            self.run_until(bound, |sim| sim.ledger.waiters.is_empty());
            assert_eq!(
                self.ledger.tally.answered - answered,
                wave.len() as u64,
                "I6: with healthy sources, some keys could not be had: {:#?}",
                self.engine.snapshot().fetches
            );
        }
    }

    /// Everybody leaves, every source goes and is forgotten: nothing may be left.
    fn finish(&mut self) {
        self.calm = true;
        self.release_all();
        self.quiet();
        self.run_until(self.now.after(Duration::from_secs(60)), |sim| {
            sim.ledger.judgements.is_empty()
        });
        let sources: Vec<SourceId> = self.ledger.sources.keys().copied().collect();
        for source in sources {
            self.feed(Input::SourceDown { source });
            self.feed(Input::Forget { source });
        }
        self.settle();
        let snapshot = self.engine.snapshot();
        assert!(
            self.engine.is_empty(),
            "I9: something is left: {snapshot:#?}"
        );
        assert_eq!(
            (
                snapshot.racing,
                snapshot.waiters,
                snapshot.bytes,
                snapshot.attempts
            ),
            (0, 0, 0, 0),
            "I9: gauges are not at zero"
        );
        assert_eq!(self.engine.poll_timeout(), None, "I9: a timer is left");
    }
}

fn persistent() -> Retry {
    Retry::UntilReleased {
        backoff: gannet_engine::Backoff {
            base: Duration::from_millis(100),
            growth_permille: 2000,
            cap: Duration::from_secs(2),
            jitter_permille: 100,
        },
    }
}
