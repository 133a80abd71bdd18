//! What has to hold of every adapter: a seed is a run, 300 seeds pass and reach every state, and every
//! bug that is planted is caught by the rule that it breaks.

use gannet_sim_p2p::SUBJECTS;

#[test]
fn the_same_seed_gives_the_same_run() {
    SUBJECTS
        .iter()
        .for_each(|subject| subject.repeats_itself(0..10));
}

#[test]
fn invariants_hold_over_300_seeds() {
    SUBJECTS
        .iter()
        .for_each(|subject| subject.holds_over(0..300));
}

#[test]
fn planted_bugs_are_caught() {
    SUBJECTS
        .iter()
        .for_each(|subject| subject.catches_all(0..100));
}
