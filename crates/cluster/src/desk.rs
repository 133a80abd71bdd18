//! What a member answers when another asks it for a datum.
//!
//! ```text
//!   asked as     has it whole   fills it itself   receives it   has nothing
//!   coordinator  serve          serve             fill          fill            where it coordinates the datum
//!                serve          serve             not mine      not mine        where it does not
//!   stand-in     as a coordinator, where it is the runner-up too
//!   relay        serve          serve             serve         not here
//!   holder       serve          not here          not here      not here
//! ```
//!
//! Nobody forwards: what a member asks others for, it asks for its own clients. And nobody waits in a
//! circle: who serves as coordinator fills from the origin; a relay waits for the one that its own
//! coordinator sent it to, and is not named to that one; a holder has it already. Two members that see
//! different clusters may each take the other for the coordinator, which is why only what a member
//! fills itself, and not what it receives, is served by one that does not coordinate it.

use crate::{Answer, Change, Member, Spread, SpreadConfig, View};
use std::time::Duration;

/// What a member has of a datum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Have {
    /// All of it.
    Whole,
    /// It fetches it from the origin: it waits for no other member.
    Filling,
    /// It receives it from another member.
    Receiving,
    /// Nothing.
    Nothing,
}

/// As what a member is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The datum's coordinator.
    Coordinator,
    /// The runner-up, by one who cannot reach the coordinator.
    StandIn,
    /// One that has the datum or receives it, by one who was sent to it.
    Relay,
    /// One that may have the datum from when it was its coordinator, by the one that is now.
    Holder,
}

/// One member asking another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who asks.
    pub asker: Member,
    /// As what the other is asked.
    pub role: Role,
    /// Members that the other sent the asker to, and that failed it.
    pub failed: Vec<Member>,
}

/// What a member answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It serves what it has, or joins in what is under way; it begins nothing.
    Serve,
    /// It serves, and fetches from the origin what it does not have.
    Fill,
    /// This member has it, or receives it.
    Refer(Member),
    /// It neither coordinates the datum nor has it.
    NotCoordinator,
    /// It does not have it.
    NotHere,
}

/// Up to so many members, one may send a datum to several others before it sends askers on: the way
/// of a chunk is short, and nobody is anybody's relay.
const FEW: usize = 16;
/// How often one sends a datum among few, and among many. Who asks first relays, and in a cluster that
/// starts on one object the same members ask first for each chunk: the more each sends, the more these
/// carry (`sim/cluster` has the numbers).
const SENDS_AMONG_FEW: u32 = 8;
const SENDS_AMONG_MANY: u32 = 2;

/// One member's view of the cluster, and what it answers to others.
#[derive(Debug)]
pub struct Desk {
    view: View,
    spread: Spread,
    by_members: bool,
}

impl Desk {
    /// A member that sees itself alone.
    pub fn new(me: Member, spread: SpreadConfig) -> Self {
        Self {
            view: View::new(me),
            spread: Spread::new(spread),
            by_members: false,
        }
    }

    /// The same, but how often one sends a datum depends on how many members there are: 8 times among
    /// up to 16, and twice among more.
    pub fn by_members(me: Member) -> Self {
        let few = SpreadConfig {
            sends_max: SENDS_AMONG_FEW,
            ..SpreadConfig::default()
        };
        Self {
            by_members: true,
            ..Self::new(me, few)
        }
    }

    /// Who is a member.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// Takes what a look at the members has brought ([`View::looked`]). Nobody is sent to members that
    /// are gone.
    pub fn looked(&mut self, found: Option<Vec<Member>>) -> Change {
        let change = self.view.looked(found);
        if self.by_members && !change.is_empty() {
            let few = self.view.members().len() <= FEW;
            self.spread.set_sends_max(if few {
                SENDS_AMONG_FEW
            } else {
                SENDS_AMONG_MANY
            });
        }
        if !change.went.is_empty() {
            let members: Vec<&Member> = self.view.members().collect();
            self.spread
                .retain(|member| members.binary_search(&member).is_ok());
        }
        change
    }

    /// One that left does not answer any more ([`View::lost`]).
    pub fn lost(&mut self, member: &Member) -> bool {
        self.view.lost(member)
    }

    /// Answers one that asks for a datum, of which this member has so much. Times are as in
    /// [`Spread::ask`]. O(members).
    pub fn answer(&mut self, now: Duration, key: u64, ask: &Ask, have: Have) -> Reply {
        let stands_in = match ask.role {
            Role::Relay if have == Have::Nothing => return Reply::NotHere,
            Role::Relay => return Reply::Serve,
            Role::Holder if have != Have::Whole => return Reply::NotHere,
            Role::Holder => return Reply::Serve,
            Role::Coordinator => false,
            Role::StandIn => true,
        };
        let has = matches!(have, Have::Whole | Have::Filling);
        if !self.view.answers_for(key, stands_in) {
            return if has {
                Reply::Serve
            } else {
                Reply::NotCoordinator
            };
        }
        match self.spread.ask(now, key, &ask.asker, &ask.failed) {
            Answer::At(member) => Reply::Refer(member),
            Answer::Here if has => Reply::Serve,
            Answer::Here => Reply::Fill,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member::new(name)
    }

    fn desk(me: &str) -> Desk {
        let mut desk = Desk::new(member(me), SpreadConfig::default());
        desk.looked(Some(["a", "b", "c"].map(member).to_vec()));
        desk
    }

    /// Keys that `a` coordinates with `b` as runner-up, and the other way around.
    fn keys() -> (u64, u64) {
        let view = desk("a").view;
        let find = |first: &str, second: &str| {
            let (first, second) = (member(first), member(second));
            let meant = |key: &u64| view.ranked(*key) == (&first, Some(&second));
            (0..1000).find(meant).expect("one in six")
        };
        (find("a", "b"), find("b", "a"))
    }

    #[test]
    fn answers_as_the_table_says() {
        use Have::{Filling, Nothing, Receiving, Whole};
        use Reply::{Fill, NotCoordinator, NotHere, Serve};
        let (own, others) = keys();
        let third = |key: u64| key + u64::MAX / 3; // Whoever coordinates it: asked of one who does not.
        let stranger = {
            let view = desk("a").view;
            (0..1000)
                .map(third)
                .find(|key| !view.answers_for(*key, true))
                .expect("one in three")
        };
        let check = |key: u64, role: Role, expected: [Reply; 4]| {
            for (have, expected) in [Whole, Filling, Receiving, Nothing]
                .into_iter()
                .zip(expected)
            {
                let ask = Ask {
                    asker: member("c"),
                    role,
                    failed: Vec::new(),
                };
                let answer = desk("a").answer(Duration::ZERO, key, &ask, have);
                assert_eq!(answer, expected, "{key} {role:?} {have:?}");
            }
        };
        let mine = || [Serve, Serve, Fill, Fill];
        let not_mine = || [Serve, Serve, NotCoordinator, NotCoordinator];
        check(own, Role::Coordinator, mine());
        check(own, Role::StandIn, mine());
        check(others, Role::Coordinator, not_mine());
        check(others, Role::StandIn, mine());
        check(stranger, Role::Coordinator, not_mine());
        check(stranger, Role::StandIn, not_mine());
        for key in [own, others, stranger] {
            check(key, Role::Relay, [Serve, Serve, Serve, NotHere]);
            check(key, Role::Holder, [Serve, NotHere, NotHere, NotHere]);
        }
    }

    #[test]
    fn sends_less_among_many() {
        let sent = |others: usize| {
            let mut desk = Desk::by_members(member("a"));
            let names: Vec<Member> = (0..others).map(|n| member(&format!("m{n}"))).collect();
            desk.looked(Some(names.clone()));
            let view = desk.view().clone();
            let own = (0..u64::MAX).find(|key| view.answers_for(*key, false));
            let mut served = 0;
            for asker in names {
                let ask = Ask {
                    asker,
                    role: Role::Coordinator,
                    failed: Vec::new(),
                };
                let answer = desk.answer(Duration::ZERO, own.expect("some"), &ask, Have::Whole);
                served += u32::from(answer == Reply::Serve);
            }
            served
        };
        assert_eq!((sent(15), sent(16)), (SENDS_AMONG_FEW, SENDS_AMONG_MANY));
    }

    #[test]
    fn sends_on_beyond_its_bound_but_not_to_members_that_are_gone() {
        let spread = SpreadConfig {
            sends_max: 1,
            ..SpreadConfig::default()
        };
        let mut desk = Desk::new(member("a"), spread);
        let all = |names: &[&str]| Some(names.iter().copied().map(member).collect());
        desk.looked(all(&["a", "b", "c"]));
        let (own, _) = keys();
        let ask = |desk: &mut Desk, asker: &str| {
            let ask = Ask {
                asker: member(asker),
                role: Role::Coordinator,
                failed: Vec::new(),
            };
            desk.answer(Duration::ZERO, own, &ask, Have::Filling)
        };
        assert_eq!(ask(&mut desk, "b"), Reply::Serve);
        assert_eq!(ask(&mut desk, "c"), Reply::Refer(member("b")));
        desk.looked(all(&["a", "c"]));
        assert_eq!(ask(&mut desk, "c"), Reply::Serve);
    }
}
