//! Bugs planted on purpose between the front end and the world, one at a time, to prove that the oracle would
//! see them: what stands here bends what passes, on the front end's side of it.
//!
//! Nothing is bent unless a bug is named.

use crate::world::Terms;
use gannet_matrix::{Attempt, How, Outcome, Proof, fill::Recovered};
use gannet_sim::subject::Plant;

/// Every bug that can be planted, and what the oracle has to say of it.
pub(crate) const ALL: &[Plant] = &[
    ("alters-answers", "true"),
    ("asks-again", "attempts"),
    ("asks-itself", "asked"),
    ("asks-outcasts", "asked"),
    ("asks-twice", "one request"),
    ("asks-widely", "width"),
    ("blames-the-honest", "told"),
    ("chance", "I8"),
    ("copies", "shared"),
    ("drops-good", "complete"),
    ("fill-invents", "fill"),
    ("fill-loses", "fill"),
    ("fill-repeats", "fill"),
    ("fill-unbounded", "fill bound"),
    ("forgets-callers", "patience"),
    ("gives-up-early", "liveness"),
    ("hedges-late", "hedged"),
    ("hides-attempts", "told|hidden"),
    ("hides-bad", "true|named"),
    ("ignores-busy", "busy"),
    ("ignores-deny", "asked|denied"),
    ("ignores-pool", "asked"),
    ("impatient", "liveness"),
    ("keeps-open", "left"),
    ("leaves-a-task", "left"),
    ("overstates", "proof"),
    ("salvages-what-is-refused", "refused"),
    ("stores-nothing", "resumed"),
    ("stores-other", "stored"),
    ("takes-cut", "proof"),
    ("too-patient", "patience"),
    ("trusts", "proof"),
];

/// The bug of a run, if any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bend(pub(crate) Option<&'static str>);

impl Bend {
    pub(crate) fn is(self, name: &str) -> bool {
        debug_assert!(
            ALL.iter().any(|(known, _)| *known == name),
            "{name} is listed"
        );
        self.0 == Some(name)
    }

    /// What the front end is told in place of these terms.
    pub(crate) fn terms(self, mut terms: Terms) -> Terms {
        match self.0 {
            Some("asks-widely") => terms.fanout = Some("fixed:3"),
            Some("asks-again") => terms.tries = 3,
            Some("gives-up-early") => terms.attempts_max = Some(1),
            Some("hedges-late") => terms.hedge = terms.hedge.map(|hedge| 3 * hedge),
            Some("ignores-deny") => terms.deny.clear(),
            Some("ignores-pool") => terms.pool = None,
            Some("impatient") => terms.patience = Some(2),
            Some("salvages-what-is-refused") => terms.refuse = false,
            Some("takes-cut") => terms.checks = 2,
            Some("too-patient") => terms.patience = Some(800_000),
            Some("trusts") => terms.checks = 4,
            _ => {}
        }
        terms
    }

    /// What a caller gets in place of this.
    pub(crate) fn outcome(self, outcome: &mut Outcome) {
        match self.0 {
            Some("alters-answers") => {
                let mut bytes = outcome.bytes.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                outcome.bytes = bytes.into();
            }
            Some("copies") => outcome.bytes = outcome.bytes.to_vec().into(),
            Some("drops-good") if outcome.events.len() > 1 => {
                outcome.events = outcome.events[1..].to_vec().into();
            }
            Some("hides-bad") => outcome.bad = [].into(),
            Some("overstates") => {
                let mut events = outcome.events.to_vec();
                events
                    .iter_mut()
                    .for_each(|event| event.proof = Proof::Whole);
                outcome.events = events.into();
            }
            _ => self.attempts(&mut outcome.attempts),
        }
    }

    /// What became of requests, in place of this.
    pub(crate) fn attempts(self, attempts: &mut Vec<Attempt>) {
        match self.0 {
            Some("hides-attempts") => attempts.clear(),
            Some("blames-the-honest") => {
                let honest = attempts.iter_mut().filter(|a| a.how == How::Missing);
                honest.for_each(|attempt| attempt.how = How::Bad);
            }
            _ => {}
        }
    }

    /// What a fill tells of, in place of this event.
    pub(crate) fn recovered(self, number: usize, recovered: Recovered) -> Vec<Recovered> {
        let mut recovered = recovered;
        match self.0 {
            Some("fill-repeats") if number == 1 => vec![recovered.clone(), recovered],
            Some("fill-loses") if number == 1 => Vec::new(),
            Some("fill-invents") if number == 1 => {
                let mut raw = recovered.raw.to_vec();
                raw[8] ^= 1;
                recovered.raw = raw.into();
                vec![recovered]
            }
            _ => vec![recovered],
        }
    }
}
