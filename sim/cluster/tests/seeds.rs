//! What has to hold of the cluster: a seed is a run, 300 seeds pass and reach every state, and every bug
//! that is planted is caught by a rule that it breaks.

use gannet_sim_cluster::SUBJECT;

#[test]
fn the_same_seed_gives_the_same_run() {
    SUBJECT.repeats_itself(0..10);
}

#[test]
fn invariants_hold_over_300_seeds() {
    SUBJECT.holds_over(0..300);
}

#[test]
fn planted_bugs_are_caught() {
    SUBJECT.catches_all(0..600);
}
