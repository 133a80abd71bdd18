//! Plans: how the engine goes about a fetch, from what the caller asks for and the operator allows.

use crate::{Fanout, Key, Op, Opts};
use gannet::engine::{
    self, Backoff, Commit, HealthConfig, Lifetime, Limits, OnInvalid, PerformanceUnit, Plan, Retry,
    Silence, ThroughputFloor,
};
use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

/// What the operator allows, whatever callers ask for.
///
/// ```
/// use gannet_matrix::Ceilings;
///
/// let mut ceilings = Ceilings::default();
/// ceilings.width_max = 2;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ceilings {
    /// Fetches with requests under way \[256\]; the rest wait their turn.
    pub racing_max: u32,
    /// Fetches, and callers, that may be waiting \[65,536 each\]; beyond, callers are refused at once.
    pub fetches_max: u32,
    /// Servers that one round adds \[8\].
    pub width_max: u32,
    /// Rounds of one fetch \[16\].
    pub rounds_max: u32,
    /// Requests of one fetch \[32\].
    pub attempts_max: u32,
    /// Servers that one fetch considers \[64\].
    pub candidates_max: u32,
    /// Requests at one server at once \[8\], whatever they are for.
    pub per_server_max: u32,
    /// Requests at once \[512\].
    pub requests_max: u32,
    /// Bytes of answers under way \[36 MiB\]; each request reserves the most that its answer may have until
    /// that is announced, so that large ones take turns: two chains, or four batches of a fill, and room
    /// for the one that is asked beside a server which keeps silent. With what checking takes, a fetcher
    /// stays below 64 MiB beside what it hands out.
    pub bytes_max: u64,
    /// Servers that are known at once, as far as nobody is about to ask them \[4,096\].
    pub servers_max: u32,
    /// From a request to the last byte of its answer \[5 min\].
    pub total_timeout: Duration,
    /// How long a caller may wait in all \[15 min\].
    pub patience: Duration,
    /// The longest that a server may send us away for with a 429 \[5 min\].
    pub busy_max: Duration,
    /// How long the keys of servers are waited for while one answer is checked \[10 s\].
    pub keys_timeout: Duration,
    /// Threads that check answers at once \[as many as there are processors\].
    pub threads_max: NonZeroU32,
}

impl Default for Ceilings {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self {
            racing_max: 256,
            fetches_max: 65_536,
            width_max: 8,
            rounds_max: 16,
            attempts_max: 32,
            candidates_max: 64,
            per_server_max: 8,
            requests_max: 512,
            bytes_max: 36 << 20,
            servers_max: 4096,
            total_timeout: Duration::from_secs(300),
            patience: Duration::from_secs(900),
            busy_max: Duration::from_secs(300),
            keys_timeout: Duration::from_secs(10),
            threads_max: u32::try_from(processors)
                .ok()
                .and_then(NonZeroU32::new)
                .unwrap_or(NonZeroU32::MIN),
        }
    }
}

/// The least throughput of an answer that has begun.
const FLOOR: ThroughputFloor = ThroughputFloor {
    bytes_min: 4 << 10,
    window: Duration::from_secs(5),
};

impl Ceilings {
    /// The bounds of the engine.
    pub(crate) fn config(&self, seed: Option<u64>) -> gannet::Config {
        let limits = |max: u32| Limits {
            concurrent_max: NonZeroU32::new(max).unwrap_or(NonZeroU32::MIN),
            rate: None,
            within: None,
        };
        gannet::Config {
            engine: engine::Config {
                racing_max: self.racing_max,
                fetches_max: self.fetches_max,
                waiters_max: self.fetches_max,
                // Those that are used beyond the bound, and those that go only after others came.
                sources_max: self.servers_max.saturating_mul(2).saturating_add(65_536),
                candidates_max: self.candidates_max,
                bytes_max: self.bytes_max,
                width_max: self.width_max,
                rounds_max: self.rounds_max,
                attempts_max: self.attempts_max,
                source_limits: limits(self.per_server_max),
                group_limits: limits(self.per_server_max),
                whole_limits: limits(self.requests_max),
                performance: PerformanceUnit::Answers,
                health: HealthConfig {
                    pause_max: self.busy_max,
                    ..HealthConfig::default()
                },
                ..engine::Config::default()
            },
            window_bytes_max: self.bytes_max,
            lingering_bytes_max: 1 << 20,
            seed,
            ..gannet::Config::default()
        }
    }

    /// The most that an answer to this key may have: what an honest one may need, and what fits at all.
    pub(crate) fn body_bytes_max(&self, key: &Key) -> u64 {
        key.body_bytes_max().min(self.bytes_max)
    }

    /// How the engine goes about it.
    pub(crate) fn plan(&self, key: &Key, opts: &Opts, stores: bool) -> Plan {
        let op = key.op();
        let large = !matches!(op, Op::Event | Op::AuthEvent | Op::TimestampToEvent);
        let by_size = |small, big| Duration::from_secs(if large { big } else { small });
        let fanout = opts.fanout.unwrap_or_else(|| Fanout::advised(op));
        let first_byte_timeout = opts.first_byte_timeout.unwrap_or_else(|| by_size(10, 30));
        let total_timeout = opts.total_timeout.unwrap_or_else(|| by_size(30, 120));
        let total_timeout = total_timeout.min(self.total_timeout);
        let hedge = opts.hedge.unwrap_or_else(|| Some(by_size(1, 3)));
        let retry = match opts.tries.map_or(1, NonZeroU32::get) {
            1 => Retry::No,
            tries => Retry::Budget {
                tries: tries.min(self.rounds_max),
                total: self.total_timeout,
                backoff: Backoff {
                    base: Duration::from_millis(500),
                    growth_permille: 2000,
                    cap: Duration::from_secs(10),
                    jitter_permille: 200,
                },
            },
        };
        Plan {
            growth: fanout.growth,
            width_max: fanout.width_max,
            rounds_max: opts.rounds_max,
            attempts_max: opts.attempts_max,
            hedge: hedge.map(engine::Hedge::After),
            first_byte_timeout: first_byte_timeout.min(total_timeout),
            idle_timeout: Duration::from_secs(5),
            total_timeout,
            throughput_floor: Some(FLOOR),
            silence: Silence::Fault,
            retry,
            // Two answers to one question need not agree in a single byte.
            resume: false,
            body_bytes_max: self.body_bytes_max(key),
            on_invalid: OnInvalid::Score,
            not_before: None,
            commit: if stores && op.carries_events() {
                Commit::AfterServe
            } else {
                Commit::None
            },
            lifetime: Lifetime::WhileWanted,
        }
    }

    /// How many requests one pass over the candidates may make.
    pub(crate) fn requests(&self, plan: &Plan) -> u64 {
        let rounds = plan.rounds_max.map_or(u32::MAX, NonZeroU32::get);
        let attempts = plan.attempts_max.map_or(u32::MAX, NonZeroU32::get);
        let widths = (0..rounds.min(self.rounds_max))
            .map(|round| u64::from(plan.width(round).min(self.width_max)))
            .sum::<u64>();
        widths.min(u64::from(attempts.min(self.attempts_max)))
    }

    /// How long a caller waits.
    pub(crate) fn patience(&self, opts: &Opts) -> Duration {
        let patience = opts.patience.unwrap_or(Duration::from_secs(120));
        patience.min(self.patience)
    }
}

/// What an attempt under this plan that was dropped after so long was dropped for.
pub(crate) fn why_dropped(
    plan: &Plan,
    took: Duration,
    opened: Option<Duration>,
    silent: Duration,
    bytes: u64,
) -> Option<&'static str> {
    let Some(opened) = opened else {
        return (took >= plan.first_byte_timeout).then_some("no answer in time");
    };
    if took >= plan.total_timeout {
        return Some("not whole in time");
    }
    if silent >= plan.idle_timeout {
        return Some("fell silent");
    }
    let floor = plan.throughput_floor?;
    let windows = (opened.as_nanos() / floor.window.as_nanos().max(1)) as u64;
    let slow = NonZeroU64::new(windows).is_some_and(|n| bytes < n.get() * floor.bytes_min);
    slow.then_some("too slow")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma_common::{owned_event_id, owned_room_id};

    fn keys() -> Vec<Key> {
        let room = || owned_room_id!("!r:a");
        let id = || owned_event_id!("$e");
        [
            Key::event(room(), id()),
            Key::auth_event(room(), id()),
            Key::auth_chain(room(), id()),
            Key::state_ids(room(), id()),
            Key::backfill(room(), [id()], 100),
            Key::missing_events(room(), [id()], [id()], 20, 0),
            Key::timestamp_to_event(room(), 0, crate::Direction::Forward),
        ]
        .map(|key| key.expect("a key"))
        .into()
    }

    #[test]
    fn advised_ramps() {
        let ceilings = Ceilings::default();
        for key in keys() {
            let plan = ceilings.plan(&key, &Opts::new(), true);
            let widths = [0, 1, 2, 3].map(|round| plan.width(round));
            let expected = match key.op() {
                Op::AuthEvent => [1, 2, 4, 4],
                Op::StateIds => [1, 2, 3, 3],
                Op::AuthChain | Op::Backfill | Op::MissingEvents => [1, 2, 2, 2],
                Op::Event | Op::TimestampToEvent => [1, 1, 1, 1],
            };
            assert_eq!(widths, expected, "{key:?}");
            assert!(
                2 * plan.body_bytes_max <= ceilings.bytes_max,
                "two can race"
            );
        }
    }

    #[test]
    fn callers_are_held_to_the_ceilings() {
        let ceilings = Ceilings {
            bytes_max: 1 << 20,
            total_timeout: Duration::from_secs(9),
            patience: Duration::from_secs(10),
            width_max: 3,
            rounds_max: 4,
            ..Ceilings::default()
        };
        let opts = Opts::new()
            .fanout("fixed:50".parse().expect("a fan-out"))
            .first_byte_timeout(Duration::from_secs(1000))
            .total_timeout(Duration::from_secs(1000))
            .patience(Duration::from_secs(1000));
        for key in keys() {
            let plan = ceilings.plan(&key, &opts, false);
            assert_eq!(plan.total_timeout, Duration::from_secs(9));
            assert_eq!(plan.first_byte_timeout, Duration::from_secs(9));
            assert!(plan.body_bytes_max <= 1 << 20);
            assert_eq!(ceilings.requests(&plan), 12);
            assert_eq!(plan.commit, Commit::None);
        }
        assert_eq!(ceilings.patience(&opts), Duration::from_secs(10));
        let one = opts.attempts_max(NonZeroU32::MIN);
        let plan = ceilings.plan(&keys()[0], &one, false);
        assert_eq!(ceilings.requests(&plan), 1);
    }
}
