//! A naive model of everything outside the engine: who waits, what is under way, what was asked.
//!
//! Its state decides which actions are possible; tests pick among them by index, at random
//! (`model.rs`) or all of them (`exhaustive.rs`). After each action the outputs are checked against the
//! model, and [`Model::finish`] brings every run to a good end.

use gannet_engine::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

/// How large the world is, and what may happen in it.
#[derive(Clone, Debug)]
pub struct Menu {
    pub keys: u32,
    pub sources: u64,
    pub waiters: u64,
    pub wants: Vec<Want>,
    pub config: Config,
    pub ends: Vec<End>,
    pub verdicts: Vec<Verdict>,
    pub commits: Vec<Result<(), CommitFault>>,
    pub streams: bool,
    pub operates: bool,
    pub declines: bool,
}

/// One thing that may happen next.
#[derive(Clone, Debug)]
pub enum Action {
    Want(u32, usize),
    Release(WaiterId),
    Started(AttemptId),
    Declined(AttemptId),
    Opened(AttemptId, u64),
    Progress(AttemptId),
    Ended(AttemptId, End),
    Rank(FetchId, bool),
    Judged(JudgementId, Verdict),
    Committed(FetchId, Result<(), CommitFault>),
    Timer,
    Up(u64),
    Down(u64),
    Block(u64),
    Unblock(u64),
    Obtained(u32),
    RetainEven,
}

struct Asked {
    source: SourceId,
    fetch: FetchId,
    started: bool,
    opened: bool,
    aborting: bool,
    upto: u64,
}

struct Asking {
    fetch: FetchId,
    contributors: Vec<AttemptId>,
    waiters: Vec<WaiterId>,
}

pub struct Model {
    menu: Menu,
    engine: Engine<u32>,
    now: Time,
    /// Who waits, for what, and whether it was told to be cancelled.
    waiting: BTreeMap<WaiterId, (u32, Commit)>,
    callers: u64,
    attempts: BTreeMap<AttemptId, Asked>,
    fetches: BTreeMap<FetchId, u32>,
    selects: BTreeSet<FetchId>,
    judgements: BTreeMap<JudgementId, Asking>,
    commits: BTreeSet<FetchId>,
    /// Who may be given a datum: judged for, or obtained.
    entitled: BTreeSet<WaiterId>,
    stored: BTreeSet<FetchId>,
    obtained: BTreeSet<u32>,
    /// Who brought the answer that is valid.
    valid: BTreeMap<FetchId, Vec<AttemptId>>,
    up: BTreeSet<u64>,
    blocked: BTreeSet<u64>,
    cancelled: BTreeSet<WaiterId>,
}

pub const fn nz(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("above zero")
}

/// A want with short times, so that timers are part of the game.
pub fn want(targets: Targets, plan: Plan) -> Want {
    let ms = Duration::from_millis;
    Want {
        targets,
        priority: 1,
        owner: 0,
        deadline: None,
        plan: Arc::new(Plan {
            first_byte_timeout: ms(100),
            idle_timeout: ms(100),
            total_timeout: ms(400),
            ..plan
        }),
    }
}

pub const fn backoff() -> Backoff {
    Backoff {
        base: Duration::from_millis(50),
        growth_permille: 2000,
        cap: Duration::from_millis(400),
        jitter_permille: 0,
    }
}

impl Model {
    pub fn new(menu: Menu) -> Self {
        let config = menu.config.clone();
        let mut model = Self {
            engine: Engine::new(config, 3).expect("a valid configuration"),
            now: Time::from_nanos(1),
            waiting: BTreeMap::new(),
            callers: 0,
            attempts: BTreeMap::new(),
            fetches: BTreeMap::new(),
            selects: BTreeSet::new(),
            judgements: BTreeMap::new(),
            commits: BTreeSet::new(),
            entitled: BTreeSet::new(),
            stored: BTreeSet::new(),
            obtained: BTreeSet::new(),
            valid: BTreeMap::new(),
            up: BTreeSet::new(),
            blocked: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            menu,
        };
        for source in 0..model.menu.sources {
            model.apply(&Action::Up(source));
        }
        model
    }

    /// Everything that may happen now.
    pub fn actions(&self) -> Vec<Action> {
        let menu = &self.menu;
        let mut actions = Vec::new();
        if self.callers < menu.waiters {
            for key in 0..menu.keys {
                actions.extend((0..menu.wants.len()).map(|n| Action::Want(key, n)));
            }
        }
        actions.extend(self.waiting.keys().copied().map(Action::Release));
        for (&id, asked) in &self.attempts {
            if !asked.started {
                actions.push(Action::Started(id));
                if menu.declines {
                    actions.push(Action::Declined(id));
                }
                continue;
            }
            if asked.aborting {
                actions.push(Action::Ended(id, End::Aborted));
            }
            actions.extend(menu.ends.iter().map(|end| {
                Action::Ended(
                    id,
                    match end {
                        End::Complete { .. } => End::Complete { upto: asked.upto },
                        other => *other,
                    },
                )
            }));
            if menu.streams && !asked.aborting {
                if asked.opened {
                    actions.push(Action::Progress(id));
                } else {
                    actions.extend([1, 2].map(|identity| Action::Opened(id, identity)));
                }
            }
        }
        for &fetch in &self.selects {
            actions.extend([true, false].map(|all| Action::Rank(fetch, all)));
        }
        for &judgement in self.judgements.keys() {
            let verdicts = menu.verdicts.iter();
            actions.extend(verdicts.map(|verdict| Action::Judged(judgement, *verdict)));
        }
        for &fetch in &self.commits {
            let results = menu.commits.iter();
            actions.extend(results.map(|result| Action::Committed(fetch, *result)));
        }
        if self.engine.poll_timeout().is_some() {
            actions.push(Action::Timer);
        }
        if menu.operates {
            for source in 0..menu.sources {
                actions.push(if self.up.contains(&source) {
                    Action::Down(source)
                } else {
                    Action::Up(source)
                });
                actions.push(if self.blocked.contains(&source) {
                    Action::Unblock(source)
                } else {
                    Action::Block(source)
                });
            }
            actions.extend((0..menu.keys).map(Action::Obtained));
            actions.push(Action::RetainEven);
        }
        actions
    }

    fn note_end(&mut self, id: AttemptId) {
        self.attempts.remove(&id);
    }

    /// Lets it happen, and checks what the engine makes of it.
    pub fn apply(&mut self, action: &Action) {
        let source_up = |source| Input::SourceUp {
            source: SourceId(source),
            group: GroupId(0),
        };
        let input = match action.clone() {
            Action::Want(key, n) => {
                let (waiter, want) = (WaiterId(self.callers), self.menu.wants[n].clone());
                self.callers += 1;
                self.waiting.insert(waiter, (key, want.plan.commit));
                Input::Want { waiter, key, want }
            }
            Action::Release(waiter) => {
                self.waiting.remove(&waiter);
                Input::Release { waiter }
            }
            Action::Started(attempt) => {
                self.asked(attempt).started = true;
                Input::Started { attempt }
            }
            Action::Declined(attempt) => {
                self.note_end(attempt);
                let until = self.now.after(Duration::from_millis(30));
                Input::Declined { attempt, until }
            }
            Action::Opened(attempt, identity) => {
                self.asked(attempt).opened = true;
                Input::Opened {
                    attempt,
                    identity,
                    total: None,
                }
            }
            Action::Progress(attempt) => {
                let asked = self.asked(attempt);
                asked.upto += 1;
                let upto = asked.upto;
                Input::Progress { attempt, upto }
            }
            Action::Ended(attempt, end) => {
                self.note_end(attempt);
                Input::Ended { attempt, end }
            }
            Action::Rank(fetch, all) => {
                self.selects.remove(&fetch);
                let count = if all { self.menu.sources } else { 1 };
                let ranked = (0..count).rev().map(SourceId).collect();
                Input::Candidates { fetch, ranked }
            }
            Action::Judged(judgement, verdict) => {
                let asking = self.judgements.remove(&judgement).expect("was asked");
                if verdict == Verdict::Valid {
                    self.entitled.extend(asking.waiters);
                    let brought = asking.contributors;
                    if self.valid.insert(asking.fetch, brought.clone()) != Some(brought) {
                        self.stored.remove(&asking.fetch);
                    }
                }
                Input::Judged { judgement, verdict }
            }
            Action::Committed(fetch, result) => {
                self.commits.remove(&fetch);
                if matches!(result, Ok(()) | Err(CommitFault::Exists)) {
                    self.stored.insert(fetch);
                }
                Input::Committed { fetch, result }
            }
            Action::Timer => {
                let due = self.engine.poll_timeout().expect("checked before");
                self.now = self.now.max(due);
                self.engine.handle_timeout(self.now);
                return self.drain();
            }
            Action::Up(source) => {
                self.up.insert(source);
                source_up(source)
            }
            Action::Down(source) => {
                self.up.remove(&source);
                Input::SourceDown {
                    source: SourceId(source),
                }
            }
            Action::Block(source) => {
                self.blocked.insert(source);
                Input::Block {
                    source: SourceId(source),
                    until: None,
                }
            }
            Action::Unblock(source) => {
                self.blocked.remove(&source);
                Input::Unblock {
                    source: SourceId(source),
                }
            }
            Action::Obtained(key) => {
                self.obtained.insert(key);
                Input::Obtained { key, from: None }
            }
            Action::RetainEven => {
                let even = |w: &WaiterId| w.0.is_multiple_of(2);
                let cancelled: Vec<WaiterId> = self.waiting.keys().copied().filter(even).collect();
                self.cancelled.extend(&cancelled);
                self.engine.retain(self.now, |_, waiter| !even(&waiter));
                self.drain();
                for waiter in cancelled {
                    assert!(
                        !self.waiting.contains_key(&waiter),
                        "{waiter:?} is cancelled"
                    );
                }
                return;
            }
        };
        self.engine.handle_input(self.now, input);
        self.drain();
        if let Action::Obtained(key) = action {
            let waits = self.waiting.values().any(|(k, _)| k == key);
            assert!(!waits, "key {key} came, and somebody waits for it");
            self.obtained.remove(key);
        }
    }

    fn asked(&mut self, id: AttemptId) -> &mut Asked {
        self.attempts.get_mut(&id).expect("under way")
    }

    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.engine.poll_output() {
            self.see(output);
            outputs += 1;
            assert!(outputs < 1000, "outputs that never stop");
        }
        self.engine.check();
        let snapshot = self.engine.snapshot();
        let waiting: BTreeSet<WaiterId> = snapshot
            .fetches
            .iter()
            .flat_map(|f| f.waiters.clone())
            .collect();
        assert_eq!(waiting, self.waiting.keys().copied().collect());
        assert_eq!(snapshot.attempts as usize, self.attempts.len());
        let racing: BTreeSet<FetchId> = self.attempts.values().map(|a| a.fetch).collect();
        assert!(racing.len() <= self.menu.config.racing_max as usize);
        for asked in self.attempts.values() {
            let blocked = self.blocked.contains(&asked.source.0);
            assert!(!blocked || asked.aborting, "{:?} is blocked", asked.source);
            assert!(
                asked.aborting || self.fetches.contains_key(&asked.fetch),
                "an attempt without a fetch"
            );
        }
        for fetch in &snapshot.fetches {
            let reason = match fetch.phase {
                Phase::Selecting => self.selects.contains(&fetch.fetch),
                Phase::Racing => !fetch.attempts.is_empty(),
                Phase::Judging => self.judgements.values().any(|a| a.fetch == fetch.fetch),
                Phase::Committing => self.commits.contains(&fetch.fetch),
                Phase::Draining => fetch.waiters.is_empty(),
                Phase::Queued => !self.attempts.is_empty() || self.engine.poll_timeout().is_some(),
                Phase::Parked => {
                    let open = self.up.iter().any(|s| !self.blocked.contains(s));
                    // Those that may serve it may all be absent, while others are there: then it
                    // stands in the queue of each, which is how it learns that one has come.
                    // Where any may serve it, nobody at all is there.
                    let mut who = snapshot.sources.iter().filter(|s| {
                        fetch.waits_for.is_empty() || fetch.waits_for.contains(&s.source)
                    });
                    let stands = who.all(|s| !s.up || s.blocked.is_some());
                    fetch.wakes.is_some() || !open || stands
                }
            };
            assert!(reason, "nothing will move {fetch:?}");
        }
    }

    fn see(&mut self, output: Output<u32>) {
        match output {
            Output::Opened { fetch, key } => {
                assert!(self.waiting.values().any(|(k, _)| *k == key));
                assert!(self.fetches.insert(fetch, key).is_none());
            }
            Output::Select { fetch } => assert!(self.selects.insert(fetch)),
            Output::Start {
                attempt,
                fetch,
                source,
                from_byte,
                ..
            } => {
                assert!(self.up.contains(&source.0) && !self.blocked.contains(&source.0));
                let busy = |a: &Asked| a.source == source && !a.started;
                assert!(
                    !self.attempts.values().any(busy),
                    "two unacknowledged starts"
                );
                let asked = Asked {
                    source,
                    fetch,
                    started: false,
                    opened: false,
                    aborting: false,
                    upto: from_byte,
                };
                assert!(self.attempts.insert(attempt, asked).is_none());
            }
            Output::Abort { attempt } => {
                assert!(!std::mem::replace(&mut self.asked(attempt).aborting, true));
            }
            Output::Judge {
                judgement,
                fetch,
                contributors,
                waiters,
            } => {
                for waiter in &waiters {
                    assert!(self.waiting.contains_key(waiter));
                }
                let asked = Asking {
                    fetch,
                    contributors: contributors.into(),
                    waiters: waiters.into(),
                };
                assert!(self.judgements.insert(judgement, asked).is_none());
            }
            Output::Commit { fetch } => {
                assert!(
                    self.valid.contains_key(&fetch),
                    "commits what nobody found valid"
                );
                assert!(self.commits.insert(fetch));
            }
            Output::Finish {
                waiter,
                fetch,
                outcome,
            } => {
                let (key, commit) = (self.waiting.remove(&waiter)).expect("one outcome each");
                if let Outcome::Datum { .. } = outcome
                    && !self.obtained.contains(&key)
                {
                    let fetch = fetch.expect("a datum comes from a fetch");
                    // Who came after the verdict is served from the same bytes.
                    assert!(self.entitled.contains(&waiter) || self.valid.contains_key(&fetch));
                    let stored = self.stored.contains(&fetch);
                    assert!(commit != Commit::BeforeFinish || stored, "told too early");
                }
            }
            Output::Retired { fetch } => {
                self.selects.remove(&fetch);
                assert!(self.fetches.remove(&fetch).is_some());
                assert!(!self.attempts.values().any(|a| a.fetch == fetch));
            }
            Output::Discard { .. } | Output::Blocked { .. } => {}
        }
    }

    /// All goes well from here on: everybody is answered, and nothing is left.
    pub fn finish(mut self) {
        for source in 0..self.menu.sources {
            self.apply(&Action::Unblock(source));
            self.apply(&Action::Up(source));
        }
        let mut steps = 0;
        while let Some(action) = self.good() {
            self.apply(&action);
            steps += 1;
            assert!(steps < 5000, "it never ends: {:#?}", self.engine.snapshot());
        }
        assert!(
            self.waiting.is_empty(),
            "unanswered: {:#?}",
            self.engine.snapshot()
        );
        for source in (0..self.menu.sources).map(SourceId) {
            self.engine
                .handle_input(self.now, Input::SourceDown { source });
            self.engine.handle_input(self.now, Input::Forget { source });
            self.drain();
        }
        assert!(
            self.engine.is_empty(),
            "left: {:#?}",
            self.engine.snapshot()
        );
        assert_eq!(self.engine.poll_timeout(), None);
    }

    /// The next step of a world in which all goes well.
    fn good(&self) -> Option<Action> {
        if let Some((&id, asked)) = self.attempts.iter().next() {
            return Some(match asked {
                Asked { started: false, .. } => Action::Started(id),
                Asked { aborting: true, .. } => Action::Ended(id, End::Aborted),
                Asked { opened: false, .. } if self.menu.streams => Action::Opened(id, 1),
                _ => Action::Ended(id, End::Complete { upto: asked.upto }),
            });
        }
        if let Some(&fetch) = self.selects.first() {
            return Some(Action::Rank(fetch, true));
        }
        if let Some((&judgement, _)) = self.judgements.iter().next() {
            return Some(Action::Judged(judgement, Verdict::Valid));
        }
        if let Some(&fetch) = self.commits.first() {
            return Some(Action::Committed(fetch, Ok(())));
        }
        let idle = self.waiting.is_empty() && self.fetches.is_empty();
        (!idle && self.engine.poll_timeout().is_some()).then_some(Action::Timer)
    }
}
