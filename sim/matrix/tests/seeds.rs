//! What has to hold of the front end: a seed is a run, 300 seeds pass and reach every state, and every bug that is
//! planted is caught by the rule that it breaks.

use gannet_sim::{
    run::silence_panics,
    subject::{Coverage, Options},
};
use gannet_sim_matrix::SUBJECT;
use std::thread;

fn jobs() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..10 {
        assert_eq!(SUBJECT.twice(seed, &Options::default()), Ok(()));
    }
}

#[test]
fn invariants_hold_over_300_seeds() {
    silence_panics();
    let reports = SUBJECT.all(0..300, &Options::default(), (jobs(), true), |_| {});
    let mut coverage = Coverage::default();
    for report in &reports {
        assert_eq!(report.failure, None, "seed {}", report.seed);
        coverage.merge(&report.coverage);
    }
    assert_eq!(reports.len(), 300);
    let never: [&str; 0] = [];
    assert_eq!(coverage.missing(SUBJECT.marks), never);
}

#[test]
fn planted_bugs_are_caught() {
    silence_panics();
    for plant in SUBJECT.plants {
        let caught = SUBJECT.catches(plant, 0..300);
        assert!(caught.is_some(), "{} is not caught", plant.0);
    }
}
