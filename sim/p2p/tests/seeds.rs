//! What has to hold of every adapter: a seed is a run, 300 seeds pass and reach every state, and every
//! bug that is planted is caught by the rule that it breaks.

use gannet_sim::{
    run::silence_panics,
    subject::{Coverage, Options},
};
use gannet_sim_p2p::SUBJECTS;
use std::thread;

fn jobs() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for subject in SUBJECTS {
        for seed in 0..10 {
            let same = subject.twice(seed, &Options::default());
            assert_eq!(same, Ok(()), "{}", subject.name);
        }
    }
}

#[test]
fn invariants_hold_over_300_seeds() {
    silence_panics();
    for subject in SUBJECTS {
        let reports = subject.all(0..300, &Options::default(), (jobs(), true), |_| {});
        let mut coverage = Coverage::default();
        for report in &reports {
            assert_eq!(
                report.failure, None,
                "{}: seed {}",
                subject.name, report.seed
            );
            coverage.merge(&report.coverage);
        }
        assert_eq!(reports.len(), 300);
        let never: [&str; 0] = [];
        assert_eq!(coverage.missing(subject.marks), never, "{}", subject.name);
    }
}

#[test]
fn planted_bugs_are_caught() {
    silence_panics();
    for subject in SUBJECTS {
        for plant in subject.plants {
            let caught = subject.catches(plant, 0..100);
            assert!(
                caught.is_some(),
                "{}: {} is not caught",
                subject.name,
                plant.0
            );
        }
    }
}
