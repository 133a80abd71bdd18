//! [`Opts`]: how a caller wants a key fetched: from whom, how widely, how patiently, and what must be
//! proved of the answer.

use crate::Op;
use gannet::engine::FanoutGrowth;
use ruma_common::{OwnedServerName, RoomVersionId};
use std::{num::NonZeroU32, str::FromStr, sync::Arc, time::Duration};

/// What must be proved of each event of an answer, beyond its form, before it is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checks {
    /// Its id is the hash of its content, as the room's version defines it.
    pub event_id: bool,
    /// Its content is whole: the hash that its signatures cover fits. Without this, an event that was
    /// redacted is good enough.
    pub content_hash: bool,
    /// It carries the signatures that the room's version demands, and they are right.
    pub signatures: bool,
}

impl Checks {
    /// Everything that can be proved.
    pub const ALL: Self = Self {
        event_id: true,
        content_hash: true,
        signatures: true,
    };
    /// The form only: what comes is one server's word.
    pub const NONE: Self = Self {
        event_id: false,
        content_hash: false,
        signatures: false,
    };
    /// All but that the content is whole: for events that may have been redacted.
    pub const REDACTED_TOO: Self = Self {
        content_hash: false,
        ..Self::ALL
    };

    /// What is advised for an op: a single event is wanted whole; among many there will be redacted ones,
    /// and each says which it is.
    pub const fn advised(op: Op) -> Self {
        match op {
            Op::Event | Op::AuthEvent => Self::ALL,
            _ => Self::REDACTED_TOO,
        }
    }

    /// Whether anything is to be checked.
    pub const fn any(self) -> bool {
        self.event_id || self.content_hash || self.signatures
    }

    /// Whatever either demands.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            event_id: self.event_id || other.event_id,
            content_hash: self.content_hash || other.content_hash,
            signatures: self.signatures || other.signatures,
        }
    }

    /// Whether whoever has these has those.
    pub const fn cover(self, other: Self) -> bool {
        (self.event_id || !other.event_id)
            && (self.content_hash || !other.content_hash)
            && (self.signatures || !other.signatures)
    }
}

/// What to do with an answer of several events where some fail the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum OnBad {
    /// The good ones are kept, the bad ones named; the server is asked later than others for a while.
    #[default]
    Salvage,
    /// The answer is as if it had never come, and its server is at fault.
    Refuse,
}

/// How many servers are asked at once, round by round: `fixed:1`, `linear:1+1`, `geometric:1x2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fanout {
    /// The widths.
    pub growth: FanoutGrowth,
    /// The most that one round adds.
    pub width_max: Option<NonZeroU32>,
}

const fn nz(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("a constant above zero")
}

impl Fanout {
    /// One after the other.
    pub const ONE_BY_ONE: Self = Self {
        growth: FanoutGrowth::Fixed(nz(1)),
        width_max: None,
    };

    /// What is advised for an op. Events that authorize others hold up whatever they authorize, and
    /// are small: 1, 2, 4, 4 and so on. State ids: 1, 2, 3. Whole chains and batches are large, so two at a
    /// time are the most. Everything else one by one; a server that is silent is joined by the next
    /// anyway.
    pub const fn advised(op: Op) -> Self {
        let linear = FanoutGrowth::Linear {
            base: nz(1),
            step: nz(1),
        };
        match op {
            Op::AuthEvent => Self {
                growth: FanoutGrowth::Geometric {
                    base: nz(1),
                    factor: nz(2),
                },
                width_max: Some(nz(4)),
            },
            Op::StateIds => Self {
                growth: linear,
                width_max: Some(nz(3)),
            },
            Op::AuthChain | Op::Backfill | Op::MissingEvents => Self {
                growth: linear,
                width_max: Some(nz(2)),
            },
            Op::Event | Op::TimestampToEvent => Self::ONE_BY_ONE,
        }
    }
}

/// What is no fan-out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of fixed:N, linear:N+STEP, geometric:NxFACTOR with numbers above zero")]
pub struct NotAFanout(String);

impl FromStr for Fanout {
    type Err = NotAFanout;

    fn from_str(text: &str) -> Result<Self, NotAFanout> {
        let number = |text: &str| text.parse::<NonZeroU32>().ok();
        let growth = text.split_once(':').and_then(|(kind, widths)| {
            Some(match kind {
                "fixed" => FanoutGrowth::Fixed(number(widths)?),
                "linear" => {
                    let (base, step) = widths.split_once('+')?;
                    FanoutGrowth::Linear {
                        base: number(base)?,
                        step: number(step)?,
                    }
                }
                "geometric" => {
                    let (base, factor) = widths.split_once('x')?;
                    FanoutGrowth::Geometric {
                        base: number(base)?,
                        factor: number(factor)?,
                    }
                }
                _ => return None,
            })
        });
        match growth {
            Some(growth) => Ok(Self {
                growth,
                width_max: None,
            }),
            None => Err(NotAFanout(text.chars().take(40).collect())),
        }
    }
}

/// How one caller wants a key fetched. What is not said is as the op advises, and whatever is said is
/// held to the operator's [`Ceilings`](crate::Ceilings).
///
/// Of several callers of one key, the first one's fan-out, hedge and timeouts hold. Each gets what it
/// demands of the answer, though: the strongest checks hold for all, and who would be content with less
/// than could be had, or named other servers than were asked, is served by a fetch of its own.
#[derive(Clone, Debug, Default)]
pub struct Opts {
    pub(crate) hint: Option<OwnedServerName>,
    pub(crate) authority: Option<OwnedServerName>,
    pub(crate) members: Option<Arc<[(OwnedServerName, u64)]>>,
    pub(crate) pool: Option<Arc<[OwnedServerName]>>,
    pub(crate) deny: Option<Arc<[OwnedServerName]>>,
    pub(crate) version: Option<RoomVersionId>,
    pub(crate) fanout: Option<Fanout>,
    pub(crate) rounds_max: Option<NonZeroU32>,
    pub(crate) attempts_max: Option<NonZeroU32>,
    pub(crate) hedge: Option<Option<Duration>>,
    pub(crate) first_byte_timeout: Option<Duration>,
    pub(crate) total_timeout: Option<Duration>,
    pub(crate) tries: Option<NonZeroU32>,
    pub(crate) checks: Option<Checks>,
    pub(crate) on_bad: OnBad,
    pub(crate) accept_empty: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) owner: u32,
    pub(crate) patience: Option<Duration>,
    pub(crate) fresh: bool,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $value:expr;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = $value;
            self
        }
    )*};
}

impl Opts {
    /// Nothing but what is advised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Exactly these servers, in this order, and nobody else. Hint, authority, members and ids are not
    /// looked at then.
    #[must_use]
    pub fn pool(mut self, pool: impl IntoIterator<Item = OwnedServerName>) -> Self {
        self.pool = Some(pool.into_iter().collect());
        self
    }

    /// Servers that are not asked for this, beside those that the operator forbids; nor is an answer
    /// of theirs taken that somebody else has asked for.
    #[must_use]
    pub fn deny(mut self, deny: impl IntoIterator<Item = OwnedServerName>) -> Self {
        self.deny = Some(deny.into_iter().collect());
        self
    }

    /// No next round joins one that is only silent.
    #[must_use]
    pub fn no_hedge(mut self) -> Self {
        self.hedge = Some(None);
        self
    }

    /// What is stored already does not count: the event is fetched again.
    #[must_use]
    pub fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    setters! {
        /// Who is asked first: the server that mentioned it.
        hint: OwnedServerName => Some(hint);
        /// Who is asked next about what authorizes events: the server of whoever created the room. Where
        /// this is not said, the one in the room's id, which rooms of version 12 do not have.
        authority: OwnedServerName => Some(authority);
        /// The servers of the room, each with its number of members there; they are asked in proportion to it.
        members: Arc<[(OwnedServerName, u64)]> => Some(members);
        /// The room's version, on which all checks depend. Where this is not said it is looked up or asked
        /// for, and never guessed.
        version: RoomVersionId => Some(version);
        /// How many servers are asked at once \[[`Fanout::advised`]\].
        fanout: Fanout => Some(fanout);
        /// The most rounds \[the operator's ceiling\].
        rounds_max: NonZeroU32 => Some(rounds_max);
        /// The most requests \[the operator's ceiling\].
        attempts_max: NonZeroU32 => Some(attempts_max);
        /// When the next round joins one that is silent \[1 s; 3 s where answers are large\].
        hedge: Duration => Some(Some(hedge));
        /// From a request to the first byte of its answer \[10 s; 30 s where answers are large\].
        first_byte_timeout: Duration => Some(first_byte_timeout);
        /// From a request to the last byte of its answer \[30 s; 2 min where answers are large\].
        total_timeout: Duration => Some(total_timeout);
        /// How often the servers are gone through \[1\]. Those that do not have it are asked once.
        tries: NonZeroU32 => Some(tries);
        /// What must be proved of events \[[`Checks::advised`]\].
        checks: Checks => Some(checks);
        /// What becomes of an answer of which some events are bad \[[`OnBad::Salvage`]\].
        on_bad: OnBad => on_bad;
        /// Whether an answer without any events is one \[no: the next server is asked\].
        accept_empty: bool => accept_empty;
        /// The weight of its class \[10\]: 20 gets twice the starts of 10 while both wait.
        priority: u8 => Some(priority);
        /// Callers with the same number share their turns \[0\].
        owner: u32 => owner;
        /// How long the caller waits in all \[2 min\].
        patience: Duration => Some(patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fanouts_are_read() {
        let check = |text: &str, widths: Option<[u32; 4]>| {
            let fanout: Result<Fanout, _> = text.parse();
            let plan = fanout.map(|fanout| gannet::engine::Plan {
                growth: fanout.growth,
                ..gannet::engine::Plan::default()
            });
            assert_eq!(
                plan.ok()
                    .map(|plan| [0, 1, 2, 3].map(|round| plan.width(round))),
                widths,
                "{text}"
            );
        };
        check("fixed:1", Some([1, 1, 1, 1]));
        check("fixed:3", Some([3, 3, 3, 3]));
        check("linear:1+1", Some([1, 2, 3, 4]));
        check("linear:2+3", Some([2, 5, 8, 11]));
        check("geometric:1x2", Some([1, 2, 4, 8]));
        for bad in [
            "",
            "fixed",
            "fixed:0",
            "fixed:-1",
            "linear:1",
            "geometric:1+2",
            "linear:1+0",
            "fixed:1x",
            "fixed:99999999999",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn checks_are_ordered_by_what_they_cover() {
        assert!(Checks::ALL.cover(Checks::REDACTED_TOO));
        assert!(!Checks::REDACTED_TOO.cover(Checks::ALL));
        assert!(Checks::NONE.cover(Checks::NONE) && !Checks::NONE.any());
        let hash = Checks {
            content_hash: true,
            ..Checks::NONE
        };
        assert_eq!(Checks::REDACTED_TOO.and(hash), Checks::ALL);
    }
}
