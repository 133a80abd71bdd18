//! What a fetch costs in the engine, with many others waiting: nanoseconds and bytes.

use crate::{
    peers::Run,
    report::{Section, number},
};
use gannet_engine::{
    AttemptId, Config, End, Engine, GroupId, Input, Output, Plan, SourceId, Targets, Time, Verdict,
    WaiterId, Want,
};
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::Region;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// The driver of an engine that waits for nothing: every attempt succeeds when its turn comes.
struct Load {
    engine: Engine<u64>,
    now: Time,
    plan: Arc<Plan>,
    targets: Targets,
    sources: u64,
    next: u64,
    under_way: VecDeque<AttemptId>,
    finished: u64,
}

impl Load {
    fn new(sources: u64, targets: Targets) -> Self {
        let engine = Engine::new(Config::default(), 1).expect("the defaults are valid");
        let mut load = Self {
            engine,
            now: Time::ZERO,
            plan: Arc::new(Plan::default()),
            targets,
            sources,
            next: 0,
            under_way: VecDeque::with_capacity(1 << 10),
            finished: 0,
        };
        for source in 0..sources {
            let source = SourceId(source);
            load.input(Input::SourceUp {
                source,
                group: GroupId(source.0 % 10),
            });
        }
        load.settle();
        load
    }

    fn input(&mut self, input: Input<u64>) {
        self.now = self.now.after(Duration::from_nanos(200));
        self.engine.handle_input(self.now, input);
    }

    fn want(&mut self) {
        self.next += 1;
        let want = Want {
            targets: self.targets.clone(),
            priority: 10,
            owner: (self.next % 16) as u32,
            deadline: None,
            plan: self.plan.clone(),
        };
        // Keys that do not come in order, as hashes do not.
        let key = self.next.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.input(Input::Want {
            waiter: WaiterId(self.next),
            key,
            want,
        });
    }

    /// Does what the engine says until it says no more.
    fn settle(&mut self) {
        loop {
            while let Some(output) = self.engine.poll_output() {
                match output {
                    Output::Select { fetch } => {
                        let first = fetch.0 % self.sources;
                        let ranked = (first..first + 3)
                            .map(|s| SourceId(s % self.sources))
                            .collect();
                        self.input(Input::Candidates { fetch, ranked });
                    }
                    Output::Start { attempt, .. } => {
                        self.input(Input::Started { attempt });
                        self.under_way.push_back(attempt);
                    }
                    Output::Abort { attempt } => {
                        self.input(Input::Ended {
                            attempt,
                            end: End::Aborted,
                        });
                    }
                    Output::Judge { judgement, .. } => {
                        self.input(Input::Judged {
                            judgement,
                            verdict: Verdict::Valid,
                        });
                    }
                    Output::Commit { fetch } => {
                        self.input(Input::Committed {
                            fetch,
                            result: Ok(()),
                        });
                    }
                    Output::Finish { .. } => self.finished += 1,
                    Output::Opened { .. }
                    | Output::Discard { .. }
                    | Output::Retired { .. }
                    | Output::Blocked { .. } => (),
                }
            }
            if self.engine.poll_timeout().is_none_or(|due| due > self.now) {
                return;
            }
            self.engine.handle_timeout(self.now);
        }
    }

    /// The oldest attempt brings what it was asked for.
    fn complete_one(&mut self) {
        let attempt = self
            .under_way
            .pop_front()
            .expect("something is always under way");
        self.input(Input::Opened {
            attempt,
            identity: 1,
            total: Some(1 << 16),
        });
        self.input(Input::Ended {
            attempt,
            end: End::Complete { upto: 1 << 16 },
        });
        self.settle();
    }
}

struct Measured {
    nanos: f64,
    bytes: f64,
    allocations: f64,
}

/// `waiting` keys wait; as many fetches as `fetches` are finished, and as many are wanted anew.
fn measure(waiting: u64, sources: u64, fetches: u64, targets: &Targets) -> Measured {
    let mut load = Load::new(sources, targets.clone());
    // Those under way are not waiting.
    for _ in 0..256 {
        load.want();
    }
    load.settle();
    let region = Region::new(crate::ALLOCATOR);
    for _ in 0..waiting {
        load.want();
        // As a driver does: outputs that nobody takes would count as the keys' own.
        load.settle();
    }
    let held = region.change();
    let bytes = (held.bytes_allocated as f64 - held.bytes_deallocated as f64) / waiting as f64;
    // Once around, so that nothing is new to it.
    for _ in 0..fetches / 10 {
        load.complete_one();
        load.want();
    }
    load.settle();
    let (before, region, begun) = (load.finished, Region::new(crate::ALLOCATOR), cpu_nanos());
    for _ in 0..fetches {
        load.complete_one();
        load.want();
    }
    load.settle();
    let nanos = cpu_nanos() - begun;
    let finished = (load.finished - before) as f64;
    let change = region.change();
    Measured {
        nanos: nanos / finished,
        bytes,
        allocations: (change.allocations + change.reallocations) as f64 / finished,
    }
}

/// What this thread has used of the processor: the machine may have other things to do.
fn cpu_nanos() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

pub(crate) fn run(run: &Run) -> Section {
    let quick = run.quick;
    let mut section = Section::new(
        "engine",
        "One fetch from want to outcome (want, start, acknowledge, open, complete, judge, finish; for\n\
         \"ranked\" also select and candidates) while so many others wait, the driver's own work\n\
         included; and the bytes that the engine holds for each key that waits, the key's own 8 and the\n\
         slack of its tables included.",
    );
    let waiting: &[u64] = if quick {
        &[1_000, 10_000]
    } else {
        &[1_000, 100_000, 1_000_000]
    };
    let fetches = run.pick(200_000, 20_000);
    let kinds = [("any source", Targets::Any), ("ranked", Targets::Ranked)];
    let mut rows = vec![
        [
            "waiting keys",
            "sources",
            "sources are",
            "ns a fetch",
            "bytes a key",
            "allocations a fetch",
        ]
        .map(String::from)
        .to_vec(),
    ];
    let (mut nanos_most, mut bytes_most) = (0.0_f64, 0.0_f64);
    for &waiting in waiting {
        for sources in [10, 1_000] {
            for (kind, targets) in &kinds {
                let mut runs: Vec<Measured> = (0..run.repeats)
                    .map(|_| measure(waiting, sources, fetches, targets))
                    .collect();
                runs.sort_by(|a, b| a.nanos.total_cmp(&b.nanos));
                let measured = &runs[runs.len() / 2];
                if waiting >= 1_000_000 {
                    nanos_most = nanos_most.max(measured.nanos);
                    bytes_most = bytes_most.max(measured.bytes);
                }
                rows.push(vec![
                    waiting.to_string(),
                    sources.to_string(),
                    (*kind).into(),
                    number(measured.nanos),
                    number(measured.bytes),
                    number(measured.allocations),
                ]);
            }
        }
    }
    section.table("Cost of a fetch", &rows);
    if !quick {
        section.target(
            "a fetch with 1M keys waiting, the slowest row",
            nanos_most / 1e3,
            2.0,
            "us",
        );
        section.target(
            "a waiting key at 1M, the largest row",
            bytes_most,
            300.0,
            "bytes",
        );
    }
    section
}
