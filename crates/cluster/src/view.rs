//! A member's view of the cluster, and what it holds on to when it cannot look.

use crate::{
    Member,
    placement::{self, Placed},
};

/// Looks in a row that may fail before a member counts on nobody but itself.
const FAILURES_MAX: u32 = 5;

/// Who is a member, as one of them sees it. Itself it always sees.
#[derive(Clone, Debug)]
pub struct View {
    me: Member,
    members: Vec<Placed>,
    failures: u32,
    looked: bool,
}

/// What a look at the members has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Members that were not seen before, in order.
    pub came: Vec<Member>,
    /// Members that are not seen any more, in order.
    pub went: Vec<Member>,
}

impl Change {
    /// Whether nothing has changed.
    pub const fn is_empty(&self) -> bool {
        self.came.is_empty() && self.went.is_empty()
    }
}

/// Through whom a member gets a datum, before it asks the origin itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through<'a> {
    /// It is the coordinator.
    Nobody {
        /// Who coordinated it before this member came, and may still have it.
        before: Option<&'a Member>,
    },
    /// Others.
    Members {
        /// The coordinator.
        first: &'a Member,
        /// Who stands in for it, unless that is this member itself.
        second: Option<&'a Member>,
    },
}

impl View {
    /// Sees itself alone, until there is a first look.
    pub fn new(me: Member) -> Self {
        Self {
            members: vec![Placed::new(me.clone())],
            me,
            failures: 0,
            looked: false,
        }
    }

    /// Itself.
    pub const fn me(&self) -> &Member {
        &self.me
    }

    /// All members, itself among them, in order.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.iter().map(|placed| &placed.member)
    }

    /// Whether there was a look that found members: before, placement is not to be relied on.
    pub const fn has_looked(&self) -> bool {
        self.looked
    }

    /// Whether it is known whom to count on: others after a good look, or nobody after too many that
    /// failed.
    pub const fn is_settled(&self) -> bool {
        self.looked || self.failures > FAILURES_MAX
    }

    /// Takes what a look at the members has brought: `None` where it failed. A look that finds nobody
    /// has failed: a name service that answers with nothing is far more often broken than right. The
    /// last good view is kept for five such looks, and then nobody but itself.
    ///
    /// Members named twice count once, with the greater weight; itself counts as it was made.
    pub fn looked(&mut self, found: Option<Vec<Member>>) -> Change {
        let Some(mut found) = found.filter(|found| !found.is_empty()) else {
            self.failures = self.failures.saturating_add(1);
            if self.failures <= FAILURES_MAX {
                return Change::default();
            }
            return self.see(Vec::new());
        };
        self.failures = 0;
        self.looked = true;
        found.retain(|member| member.address() != self.me.address());
        self.see(found)
    }

    fn see(&mut self, mut others: Vec<Member>) -> Change {
        others.push(self.me.clone());
        others.sort_by(|a, b| {
            let by_weight = || b.weight().cmp(&a.weight());
            a.address().cmp(b.address()).then_with(by_weight)
        });
        others.dedup_by(|b, a| a.address() == b.address());
        let before: Vec<Member> = self.members().cloned().collect();
        let missing_in = |list: &[Member], of: &[Member]| {
            let missing = of
                .iter()
                .filter(|member| list.binary_search(member).is_err());
            missing.cloned().collect()
        };
        let change = Change {
            came: missing_in(&before, &others),
            went: missing_in(&others, &before),
        };
        if !change.is_empty() {
            self.members = others.into_iter().map(Placed::new).collect();
        }
        change
    }

    /// Who coordinates a key, and who stands in where that one cannot be reached; none where there is
    /// only one member. O(members).
    pub fn ranked(&self, key: u64) -> (&Member, Option<&Member>) {
        let (first, second) = placement::best_two(key, &self.members);
        (first.unwrap_or(&self.me), second)
    }

    /// Through whom this member gets a datum.
    pub fn through(&self, key: u64) -> Through<'_> {
        let (first, second) = self.ranked(key);
        if *first == self.me {
            return Through::Nobody { before: second };
        }
        Through::Members {
            first,
            second: second.filter(|second| **second != self.me),
        }
    }

    /// Who may hold what this member is about to fetch from the origin: the other one of the two that
    /// rank highest, where it is one of them. The runner-up was the coordinator before this member came,
    /// or stood in while it was away; and who stands in asks the coordinator, for that nobody else
    /// reaches it does not mean that it cannot. Asked as [`Role::Holder`](crate::Role), which never waits.
    pub fn holder(&self, key: u64) -> Option<&Member> {
        let (first, second) = self.ranked(key);
        let second = second?;
        match (*first == self.me, *second == self.me) {
            (true, _) => Some(second),
            (_, true) => Some(first),
            _ => None,
        }
    }

    /// Whether this member coordinates a key; or stands in, where the asker says that the first cannot
    /// be reached.
    pub fn answers_for(&self, key: u64, first_unreachable: bool) -> bool {
        let (first, second) = self.ranked(key);
        *first == self.me || first_unreachable && second == Some(&self.me)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU16;

    fn members(names: &[&str]) -> Vec<Member> {
        names.iter().copied().map(Member::new).collect()
    }

    fn names(view: &View) -> Vec<&str> {
        view.members().map(Member::address).collect()
    }

    #[test]
    fn each_of_the_two_may_hold_what_the_other_fetches() {
        let all = ["a", "b", "c"];
        let views = all.map(|me| {
            let mut view = View::new(Member::new(me));
            view.looked(Some(members(&all)));
            view
        });
        for key in 0..100 {
            let (first, second) = views[0].ranked(key);
            for view in &views {
                let expected = if view.me() == first {
                    second
                } else {
                    Some(first).filter(|_| Some(view.me()) == second)
                };
                assert_eq!(view.holder(key), expected);
            }
        }
        assert_eq!(View::new(Member::new("a")).holder(7), None);
    }

    #[test]
    fn itself_is_always_a_member() {
        let mut view = View::new(Member::new("b"));
        assert_eq!((names(&view), view.has_looked()), (vec!["b"], false));
        let change = view.looked(Some(members(&["c", "a", "c"])));
        assert_eq!(change.came, members(&["a", "c"]));
        assert_eq!(
            (names(&view), view.has_looked()),
            (vec!["a", "b", "c"], true)
        );
        let change = view.looked(Some(members(&["b", "a"])));
        assert_eq!((change.came.len(), change.went), (0, members(&["c"])));
        assert!(view.looked(Some(members(&["a", "b"]))).is_empty());
    }

    #[test]
    fn the_last_good_view_is_kept_for_five_failures() {
        let mut view = View::new(Member::new("b"));
        view.looked(Some(members(&["a"])));
        for n in 0..5 {
            let found = if n % 2 == 0 { None } else { Some(Vec::new()) };
            assert!(view.looked(found).is_empty());
            assert_eq!(names(&view), ["a", "b"]);
        }
        assert_eq!(view.looked(None).went, members(&["a"]));
        assert_eq!(names(&view), ["b"]);
        // One that works brings them back, and five more chances.
        assert_eq!(view.looked(Some(members(&["a"]))).came, members(&["a"]));
        assert!(view.looked(None).is_empty());
    }

    #[test]
    fn another_weight_is_another_member() {
        let mut view = View::new(Member::new("b"));
        view.looked(Some(members(&["a"])));
        let heavy = Member::weighted("a", NonZeroU16::new(3).unwrap());
        let change = view.looked(Some(vec![Member::new("a"), heavy.clone()]));
        assert_eq!((change.came, change.went), (vec![heavy], members(&["a"])));
    }

    proptest! {
        #[test]
        fn all_who_see_the_same_agree(
            count in 1_usize..12,
            keys in proptest::collection::vec(any::<u64>(), 1..50),
        ) {
            let all: Vec<_> = (0..count).map(|n| Member::new(&format!("m{n}:9"))).collect();
            let views: Vec<_> = all
                .iter()
                .map(|me| {
                    let mut view = View::new(me.clone());
                    // In any order, with or without itself.
                    view.looked(Some(all.iter().rev().filter(|other| *other != me).cloned().collect()));
                    view
                })
                .collect();
            for key in keys {
                let coordinators = views.iter().filter(|view| view.answers_for(key, false)).count();
                let stand_ins = views.iter().filter(|view| view.answers_for(key, true)).count();
                prop_assert_eq!((coordinators, stand_ins), (1, count.min(2)));
                for view in &views {
                    prop_assert_eq!(view.ranked(key), views[0].ranked(key));
                }
            }
        }
    }
}
