//! The driver of the simulated world: virtual time, the event queue, sources, judge, store, callers.
//!
//! It does what a real driver does, and now and then what an unlucky one does: it acknowledges late,
//! hands in several inputs between two polls, lets answers cross aborts, repeats itself, and names
//! ids that were never given.

mod callers;
mod end;
mod fate;
mod front;
mod sources;

use crate::{
    coverage::Mark,
    ledger::Ledger,
    rng::Rng,
    source::Act,
    trace::Trace,
    truth::Key,
    world::{MS, World},
};
use gannet_engine::{
    AttemptId, Engine, Event as EngineEvent, FetchId, Input, JudgementId, Output, Retry, Scope,
    SourceId, Time, Timer, WaiterId,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
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
