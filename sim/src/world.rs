//! The world of one seed: bounds, sources, keys, plans and faults, all drawn from the seed.
//!
//! Swarm testing: each world has only some of the features and faults, in proportions of its own, so
//! that rare combinations are common somewhere.

use crate::{
    rng::Rng,
    truth::{self, Key},
};
use gannet_engine::{
    Backoff, Choice, Commit, Config, FanoutGrowth, GroupId, HealthConfig, Hedge, Lifetime, Limits,
    OnInvalid, PerformanceUnit, Plan, Rate, Retry, Silence, SourceId, ThroughputFloor,
};
use std::{num::NonZeroU32, time::Duration};

/// What a source does when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Serves what it has, at its pace.
    Honest,
    /// Serves what it has, slowly, with signs of life.
    Slow,
    /// Refuses, or fails in another way that blames it.
    Refuse,
    /// Never says a thing.
    Silent,
    /// Begins, and stalls.
    Stall,
    /// Brings a byte now and then, for ever.
    Drip,
    /// Breaks off.
    Truncate,
    /// Breaks off and calls it whole.
    Short,
    /// Serves wrong bytes.
    Lie,
    /// Changes its version in the middle of an answer, and keeps the identity.
    FlipInside,
    /// Is busy.
    Busy,
    /// Does not have it.
    Missing,
    /// Fails in a way that will not pass, or that is not its fault.
    NotForUs,
    /// Claims less than it sends.
    Understate,
    /// Sends, or claims, more than the plan allows.
    Oversize,
}

/// A source as the seed made it.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// Its id.
    pub id: SourceId,
    /// Its group.
    pub group: GroupId,
    /// Its own limits, if not the default.
    pub limits: Option<Limits>,
    /// What it does, by weight.
    pub moods: Vec<(Mood, u32)>,
    /// It turns honest and back again so often; never if zero.
    pub flips_every: Duration,
    /// To the first byte.
    pub latency: (u64, u64),
    /// From chunk to chunk.
    pub pace: (u64, u64),
    /// In bytes.
    pub chunk: u64,
    /// How often its host declines a start.
    pub declines: u32,
    /// How long a start waits for its acknowledgement.
    pub ack: (u64, u64),
    /// Which version it serves at first.
    pub version: u32,
}

/// A group as the seed made it.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    /// Its id.
    pub id: GroupId,
    /// Its limits, if not the default.
    pub limits: Option<Limits>,
}

/// How the wants of a key name their sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The front end ranks.
    Ranked,
    /// Any source.
    Any,
    /// Some sources only, now and then lifted.
    Only,
}

/// How a key is fetched.
#[derive(Clone, Debug)]
pub struct KeySpec {
    /// The plan of its wants, but for commit and lifetime, which vary.
    pub plan: Plan,
    /// How its wants name sources.
    pub naming: Naming,
}

/// How likely things are, in thousandths unless it says otherwise.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names say it, the types are all the same.
pub struct Odds {
    pub judge_partial: u32,
    pub judge_ambiguous: u32,
    pub judge_ignored: u32,
    pub judge_gives_up: u32,
    pub commit_exists: u32,
    pub commit_fails: u32,
    pub inputs_between_polls: u32,
    pub late_inputs: u32,
    pub deadline: u32,
    pub deadline_moves: u32,
    pub release: u32,
    pub only_lifted: u32,
    pub if_match: u32,
    pub total_unknown: u32,
    pub changed_plan: u32,
    pub late_timer: u32,
    pub spurious_timeout: u32,
    pub empty_ranking: u32,
}

/// Everything drawn from a seed.
#[derive(Clone, Debug)]
pub struct World {
    /// The engine's configuration.
    pub config: Config,
    /// Keys, each with its plan.
    pub keys: Vec<KeySpec>,
    /// Sources.
    pub sources: Vec<SourceSpec>,
    /// Groups, each nested only in later ones.
    pub groups: Vec<GroupSpec>,
    /// The longest body.
    pub len_max: u64,
    /// Versions of each key, from 0 to this.
    pub versions: u32,
    /// Between two wants, at most.
    pub arrival: u64,
    /// Between two acts of the operator (blocks, pauses, limits, ...), at most.
    pub chaos: u64,
    /// How long faults last.
    pub safety: Duration,
    /// Priorities in use.
    pub priorities: Vec<u8>,
    /// Owners in use.
    pub owners: u32,
    /// Commit modes in use.
    pub commits: Vec<Commit>,
    /// Lifetimes in use.
    pub lifetimes: Vec<Lifetime>,
    /// How long a judge thinks.
    pub judging: (u64, u64),
    /// How long a store takes.
    pub storing: (u64, u64),
    /// How long a ranking takes.
    pub ranking: (u64, u64),
    /// All times are multiples of this, so that some worlds are full of ties.
    pub tick: u64,
    /// How likely things are.
    pub odds: Odds,
}

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;

fn nz(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n.max(1)).expect("at least one")
}

fn ms(rng: &mut Rng, low: u64, high: u64) -> Duration {
    Duration::from_millis(rng.range(low, high))
}

fn span(rng: &mut Rng, low: u64, high: u64) -> (u64, u64) {
    let a = rng.range(low, high);
    let b = rng.range(low, high);
    (a.min(b) * MS, a.max(b) * MS)
}

fn backoff(rng: &mut Rng, cap: u64) -> Backoff {
    Backoff {
        base: ms(rng, 10, 400),
        growth_permille: rng.range32(1, 3) * 1000,
        cap: ms(rng, 400, cap),
        jitter_permille: *rng.pick(&[0, 200, 500]),
    }
}

/// Limits tight enough to be felt and loose enough to get on.
pub fn limits(rng: &mut Rng, concurrent: u32) -> Limits {
    Limits {
        concurrent_max: nz(rng.range32(1, concurrent)),
        rate: rng.permille(350).then(|| Rate {
            per_minute_max: nz(rng.range32(60, 1200)),
            burst_max: nz(rng.range32(1, 8)),
        }),
        within: None,
    }
}

/// So often in `permille` of the worlds, and never in the others.
fn odd(rng: &mut Rng, worlds: u32, at_most: u32) -> u32 {
    if rng.permille(worlds) {
        rng.range32(1, at_most)
    } else {
        0
    }
}

impl World {
    /// The world of a seed.
    pub fn draw(seed: u64) -> Self {
        let rng = &mut Rng::new(seed, 1);
        let tick = *rng.pick(&[1, MS / 1000, MS, 25 * MS]);
        let versions = if rng.permille(500) { 3 } else { 0 };
        let len_max = *rng.pick(&[8, 64, 400]);
        let n_groups = rng.range(1, 4);
        let groups: Vec<GroupSpec> = (0..n_groups)
            .map(|n| {
                let within = (n + 1 < n_groups && rng.permille(500))
                    .then(|| GroupId(rng.range(n + 1, n_groups - 1)));
                let limits = (within.is_some() || rng.permille(500)).then(|| Limits {
                    within,
                    ..limits(rng, 6)
                });
                GroupSpec {
                    id: GroupId(n),
                    limits,
                }
            })
            .collect();
        let n_sources = rng.range(1, 8);
        let sources = (0..n_sources)
            .map(|n| source(rng, n, n_groups, versions, len_max))
            .collect();
        let mut config = config(rng, len_max, n_sources);
        let n_keys = rng.range32(1, 24);
        let plan_mix = PlanMix::draw(rng, len_max);
        let keys: Vec<KeySpec> = (0..n_keys).map(|_| plan_mix.key(rng)).collect();
        if keys.iter().any(|key| key.naming == Naming::Only) {
            // Which of too many targets are kept is left open; every one counts here.
            config.candidates_max = 64;
        }
        Self {
            config,
            keys,
            sources,
            groups,
            len_max,
            versions,
            arrival: (rng.range(20, 400) * MS).max(3 * tick),
            chaos: rng.range(100, 3000) * MS,
            safety: ms(rng, 10_000, 30_000),
            priorities: (0..rng.range(1, 3))
                .map(|_| *rng.pick(&[0, 1, 10, 20, 40]))
                .collect(),
            owners: rng.range32(1, 3),
            commits: subset(
                rng,
                &[Commit::None, Commit::AfterServe, Commit::BeforeFinish],
            ),
            lifetimes: {
                let ceiling = ms(rng, 1, 3000);
                let longer = ms(rng, 1000, 6000);
                subset(
                    rng,
                    &[
                        Lifetime::WhileWanted,
                        Lifetime::Detached { ceiling },
                        Lifetime::Detached { ceiling: longer },
                    ],
                )
            },
            judging: span(rng, 0, 300),
            storing: span(rng, 0, 300),
            ranking: span(rng, 0, 50),
            tick,
            odds: odds(rng),
        }
    }

    /// A key's length bound in this world.
    pub fn len(&self, key: Key, version: u32) -> u64 {
        truth::len(key, version, self.len_max)
    }
}

fn odds(rng: &mut Rng) -> Odds {
    Odds {
        judge_partial: odd(rng, 300, 150),
        judge_ambiguous: odd(rng, 300, 150),
        judge_ignored: odd(rng, 200, 60),
        judge_gives_up: odd(rng, 250, 100),
        commit_exists: odd(rng, 400, 300),
        commit_fails: odd(rng, 400, 400),
        inputs_between_polls: odd(rng, 400, 500),
        late_inputs: odd(rng, 500, 100),
        deadline: odd(rng, 600, 600),
        deadline_moves: odd(rng, 500, 500),
        release: odd(rng, 700, 600),
        only_lifted: odd(rng, 400, 300),
        if_match: rng.range32(0, 1000),
        total_unknown: odd(rng, 500, 600),
        changed_plan: odd(rng, 200, 300),
        late_timer: odd(rng, 300, 500),
        spurious_timeout: odd(rng, 500, 100),
        empty_ranking: odd(rng, 200, 100),
    }
}

/// At least one of these, in their order.
fn subset<T: Copy>(rng: &mut Rng, of: &[T]) -> Vec<T> {
    let mut chosen: Vec<T> = of.iter().copied().filter(|_| rng.permille(500)).collect();
    if chosen.is_empty() {
        chosen.push(*rng.pick(of));
    }
    chosen
}

fn config(rng: &mut Rng, len_max: u64, n_sources: u64) -> Config {
    let mut config = Config {
        me: rng
            .permille(300)
            .then(|| SourceId(rng.range(0, n_sources + 1))),
        racing_max: *rng.pick(&[1, 2, 3, 8, 64]),
        width_max: *rng.pick(&[1, 2, 4, 16]),
        rounds_max: *rng.pick(&[1, 3, 64]),
        attempts_max: *rng.pick(&[2, 8, 256]),
        candidates_max: *rng.pick(&[1, 3, 64]),
        events_max: *rng.pick(&[0, 0, 7]),
        choice: *rng.pick(&[Choice::Best, Choice::Sampled { scale: 4 }]),
        try_backed_off: rng.permille(700),
        fresh_first: rng.permille(200),
        performance: *rng.pick(&[PerformanceUnit::Bytes, PerformanceUnit::Answers]),
        latency_samples_min: *rng.pick(&[1, 4, 16]),
        health: HealthConfig {
            backoff: backoff(rng, 8000),
            faults_forgiven: *rng.pick(&[0, 0, 1, 3]),
            stability: ms(rng, 100, 3000),
            dead_after: rng.range32(1, 8),
            probe_interval: ms(rng, 1000, 10_000),
            busy_pause: ms(rng, 50, 1000),
            pause_max: ms(rng, 2000, 20_000),
            doubt: None,
        },
        ..Config::default()
    };
    // Drawn with the rest: seeds go on meaning what they meant.
    if config.health.dead_after.is_multiple_of(2) {
        config.health.doubt = Some(config.health.busy_pause / 4);
    }
    // A body of the largest plan always fits, or its key could never be fetched.
    if rng.permille(300) {
        config.bytes_max = 4 * len_max * rng.range(1, 3);
    }
    if rng.permille(150) {
        config.fetches_max = rng.range32(2, 8);
    }
    if rng.permille(150) {
        config.waiters_max = rng.range32(4, 20);
    }
    if rng.permille(150) {
        config.remembered_sources_max = rng.range32(0, 2);
    }
    if rng.permille(300) {
        config.source_limits = limits(rng, 4);
    }
    if rng.permille(300) {
        config.group_limits = limits(rng, 8);
    }
    if rng.permille(300) {
        config.whole_limits = limits(rng, 12);
    }
    config
}

fn source(rng: &mut Rng, n: u64, n_groups: u64, versions: u32, len_max: u64) -> SourceSpec {
    const FAULTS: &[Mood] = &[
        Mood::Slow,
        Mood::Refuse,
        Mood::Silent,
        Mood::Stall,
        Mood::Drip,
        Mood::Truncate,
        Mood::Truncate,
        Mood::Short,
        Mood::Lie,
        Mood::FlipInside,
        Mood::Busy,
        Mood::Missing,
        Mood::NotForUs,
        Mood::Oversize,
        Mood::Understate,
    ];
    let mut moods = vec![(Mood::Honest, *rng.pick(&[0, 1, 5, 20]))];
    for _ in 0..rng.range(0, 4) {
        moods.push((*rng.pick(FAULTS), rng.range32(1, 5)));
    }
    if moods.iter().all(|(_, weight)| *weight == 0) {
        moods[0].1 = 1;
    }
    let slow = rng.permille(200);
    SourceSpec {
        id: SourceId(n),
        group: GroupId(rng.range(0, n_groups - 1)),
        limits: rng.permille(400).then(|| limits(rng, 4)),
        moods,
        flips_every: if rng.permille(300) {
            ms(rng, 300, 5000)
        } else {
            Duration::ZERO
        },
        latency: span(rng, 0, if slow { 600 } else { 60 }),
        pace: span(rng, 0, if slow { 200 } else { 30 }),
        chunk: rng.range(1, len_max),
        declines: odd(rng, 250, 300),
        ack: span(rng, 0, 40),
        version: rng.range32(0, versions),
    }
}

/// Which plans a world knows.
struct PlanMix {
    resume: u32,
    hedges: Vec<Option<Hedge>>,
    growths: Vec<FanoutGrowth>,
    retries: Vec<Retry>,
    namings: Vec<Naming>,
    on_invalid: Vec<OnInvalid>,
    timeouts: (u64, u64),
    bounded: u32,
    body_max: Vec<u64>,
}

impl PlanMix {
    fn draw(rng: &mut Rng, len_max: u64) -> Self {
        let budget = Retry::Budget {
            tries: rng.range32(1, 5),
            total: ms(rng, 500, 20_000),
            backoff: backoff(rng, 4000),
        };
        let persistent = Retry::UntilReleased {
            backoff: backoff(rng, 4000),
        };
        let after = Hedge::After(ms(rng, 10, 500));
        let quantile = Hedge::AtQuantile {
            permille: *rng.pick(&[500, 900, 990, 1000]),
            floor: ms(rng, 10, 300),
        };
        let block = OnInvalid::Block(ms(rng, 100, 8000));
        let growths = [
            FanoutGrowth::Fixed(nz(1)),
            FanoutGrowth::Fixed(nz(rng.range32(2, 4))),
            FanoutGrowth::Linear {
                base: nz(rng.range32(1, 2)),
                step: nz(rng.range32(1, 3)),
            },
            FanoutGrowth::Geometric {
                base: nz(rng.range32(1, 2)),
                factor: nz(rng.range32(1, 3)),
            },
        ];
        Self {
            resume: *rng.pick(&[0, 500, 1000]),
            hedges: subset(rng, &[None, Some(after), Some(quantile)]),
            growths: subset(rng, &growths),
            retries: subset(rng, &[Retry::No, budget, persistent]),
            namings: subset(
                rng,
                &[Naming::Ranked, Naming::Ranked, Naming::Any, Naming::Only],
            ),
            on_invalid: subset(rng, &[OnInvalid::Score, block, OnInvalid::Host]),
            timeouts: span(rng, 100, 2000),
            bounded: *rng.pick(&[0, 300]),
            // The longest body fits any plan's bound.
            body_max: subset(rng, &[len_max, 2 * len_max, 4 * len_max]),
        }
    }

    fn key(&self, rng: &mut Rng) -> KeySpec {
        let mut timeout =
            || Duration::from_nanos(rng.range(self.timeouts.0, self.timeouts.1.max(100 * MS)));
        let (first_byte_timeout, idle_timeout) = (timeout(), timeout());
        let bound = |rng: &mut Rng| rng.permille(self.bounded).then(|| nz(rng.range32(1, 4)));
        KeySpec {
            naming: *rng.pick(&self.namings),
            plan: Plan {
                growth: *rng.pick(&self.growths),
                width_max: bound(rng),
                rounds_max: bound(rng),
                attempts_max: bound(rng),
                hedge: *rng.pick(&self.hedges),
                first_byte_timeout,
                idle_timeout,
                total_timeout: ms(rng, 1000, 8000),
                throughput_floor: rng.permille(200).then(|| ThroughputFloor {
                    bytes_min: rng.range(1, 4),
                    window: ms(rng, 300, 2000),
                }),
                silence: *rng.pick(&[Silence::Fault, Silence::Nothing]),
                retry: *rng.pick(&self.retries),
                resume: rng.permille(self.resume),
                body_bytes_max: *rng.pick(&self.body_max),
                on_invalid: *rng.pick(&self.on_invalid),
                not_before: None,
                commit: Commit::None,
                lifetime: Lifetime::WhileWanted,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_are_stable_and_differ() {
        let text = |seed| format!("{:?}", World::draw(seed));
        assert_eq!(text(5), text(5));
        assert_ne!(text(5), text(6));
    }
}
