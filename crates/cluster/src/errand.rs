//! One member's way to a datum through another: to the one it asks first, to those that it is sent on
//! to, and back when they fail it.
//!
//! An errand is one attempt in the engine's words. It ends when somebody serves, or when the one that
//! it began with cannot help: then the next candidate is the engine's to choose.

use crate::{Ask, Member, Reply, Role};

/// Members asked in the course of one errand, the first one's repeats included.
const ASKS_MAX: u32 = 8;

/// One attempt to get a datum through a member.
#[derive(Clone, Debug)]
pub struct Errand {
    me: Member,
    first: Member,
    role: Role,
    at: Member,
    failed: Vec<Member>,
    asks: u32,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this member so.
    Ask(Member, Ask),
    /// Read what the member that was asked sends.
    Read,
    /// The errand is over.
    End(Ended),
}

/// Why an errand brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The member that was asked first does not take itself for the coordinator.
    NotCoordinator,
    /// It does not have the datum, and was asked for no more.
    NotHere,
    /// It cannot be reached, or failed in the middle.
    Failed,
    /// Too many to whom it sent us failed.
    Lost,
}

impl Errand {
    /// Sets out to this member, in this role. The first step is to ask it.
    pub fn new(me: Member, first: Member, role: Role) -> (Self, Step) {
        let mut errand = Self {
            me,
            at: first.clone(),
            first,
            role,
            failed: Vec::new(),
            asks: 0,
        };
        let step = errand.ask_first();
        (errand, step)
    }

    /// Whom the errand has come to: who was asked last.
    pub const fn at(&self) -> &Member {
        &self.at
    }

    /// Those to whom it was sent and who failed it.
    pub fn named(&self) -> &[Member] {
        &self.failed
    }

    /// Whether it has been sent on.
    pub fn is_referred(&self) -> bool {
        self.at != self.first
    }

    /// Takes what the member said that was asked last.
    pub fn answered(&mut self, reply: Reply) -> Step {
        match reply {
            Reply::Serve | Reply::Fill => Step::Read,
            // A relay that sends on in turn, or anyone who sends us to ourselves or in a circle, is
            // not to be followed.
            Reply::Refer(member)
                if !self.is_referred()
                    && member != self.me
                    && member != self.first
                    && !self.failed.contains(&member) =>
            {
                self.at = member;
                self.ask(Role::Relay)
            }
            _ if self.is_referred() => self.back(),
            Reply::NotHere => Step::End(Ended::NotHere),
            Reply::NotCoordinator => Step::End(Ended::NotCoordinator),
            Reply::Refer(_) => Step::End(Ended::Lost),
        }
    }

    /// The member that was asked last cannot be reached, or does not go on.
    pub fn failed(&mut self) -> Step {
        if self.is_referred() {
            self.back()
        } else {
            Step::End(Ended::Failed)
        }
    }

    /// What the member that was asked last sent broke off, after it has brought bytes. The first one is
    /// asked once more, for what is left: a connection that broke is no reason to have the datum
    /// fetched by another, and one that is lost will not take the next.
    pub fn broke_off(&mut self) -> Step {
        if self.is_referred() {
            self.back()
        } else {
            self.ask_first()
        }
    }

    /// Back to who sent us here, to say that it was in vain.
    fn back(&mut self) -> Step {
        let failed = std::mem::replace(&mut self.at, self.first.clone());
        self.failed.push(failed);
        self.ask_first()
    }

    fn ask_first(&mut self) -> Step {
        self.ask(self.role)
    }

    fn ask(&mut self, role: Role) -> Step {
        self.asks += 1;
        if self.asks > ASKS_MAX {
            return Step::End(Ended::Lost);
        }
        let failed = if role == Role::Relay {
            Vec::new()
        } else {
            self.failed.clone()
        };
        let ask = Ask {
            asker: self.me.clone(),
            role,
            failed,
        };
        Step::Ask(self.at.clone(), ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member::new(name)
    }

    fn begin(role: Role) -> Errand {
        Errand::new(member("me"), member("c"), role).0
    }

    fn asks(step: &Step) -> (&str, Role, Vec<&str>) {
        match step {
            Step::Ask(whom, ask) => {
                let failed = ask.failed.iter().map(Member::address).collect();
                (whom.address(), ask.role, failed)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn follows_and_comes_back_to_say_who_failed() {
        let (mut errand, step) = Errand::new(member("me"), member("c"), Role::Coordinator);
        assert_eq!(asks(&step), ("c", Role::Coordinator, vec![]));
        let step = errand.answered(Reply::Refer(member("r")));
        assert_eq!(asks(&step), ("r", Role::Relay, vec![]));
        let step = errand.answered(Reply::NotHere);
        assert_eq!(asks(&step), ("c", Role::Coordinator, vec!["r"]));
        let step = errand.answered(Reply::Refer(member("s")));
        assert_eq!(asks(&step), ("s", Role::Relay, vec![]));
        assert_eq!(errand.answered(Reply::Serve), Step::Read);
        let step = errand.failed();
        assert_eq!(asks(&step), ("c", Role::Coordinator, vec!["r", "s"]));
        assert_eq!(errand.answered(Reply::Fill), Step::Read);
        assert_eq!(errand.failed(), Step::End(Ended::Failed));
    }

    #[test]
    fn the_first_is_asked_again_after_it_has_brought_something_but_not_for_ever() {
        let mut errand = begin(Role::Coordinator);
        let mut asked = 1;
        while let Step::Ask(whom, _) = errand.broke_off() {
            assert_eq!(whom, member("c"));
            assert_eq!(errand.answered(Reply::Serve), Step::Read);
            asked += 1;
        }
        assert_eq!(asked, ASKS_MAX);
        let mut errand = begin(Role::Coordinator);
        errand.broke_off();
        assert_eq!(errand.failed(), Step::End(Ended::Failed));
    }

    #[test]
    fn ends_where_the_first_cannot_help() {
        let first = |reply| begin(Role::StandIn).answered(reply);
        assert_eq!(
            first(Reply::NotCoordinator),
            Step::End(Ended::NotCoordinator)
        );
        assert_eq!(first(Reply::NotHere), Step::End(Ended::NotHere));
        assert_eq!(begin(Role::Holder).failed(), Step::End(Ended::Failed));
    }

    #[test]
    fn is_not_led_astray() {
        for astray in ["me", "c"] {
            let step = begin(Role::Coordinator).answered(Reply::Refer(member(astray)));
            assert_eq!(step, Step::End(Ended::Lost), "{astray}");
        }
        let mut errand = begin(Role::Coordinator);
        errand.answered(Reply::Refer(member("r")));
        let step = errand.answered(Reply::Refer(member("s")));
        assert_eq!(asks(&step), ("c", Role::Coordinator, vec!["r"]), "no chain");
        let again = errand.answered(Reply::Refer(member("r")));
        assert_eq!(again, Step::End(Ended::Lost), "it was told");
        let mut errand = begin(Role::Coordinator);
        let mut asked = 1;
        while let Step::Ask(..) = errand.answered(Reply::Refer(member(&format!("r{asked}")))) {
            asked += 1;
            assert!(asked < 100);
            if matches!(errand.failed(), Step::End(_)) {
                break;
            }
            asked += 1;
        }
        assert_eq!(asked, ASKS_MAX);
    }
}
