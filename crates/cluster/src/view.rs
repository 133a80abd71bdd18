//! A member's view of the cluster, and what it holds on to when it cannot look.

use crate::{
    Member,
    placement::{self, Placed},
};

/// Looks in a row that may fail before a member counts on nobody but itself.
const FAILURES_MAX: u32 = 5;
/// Members that are gone, and may still answer for what they hold.
const LEAVERS_MAX: usize = 8;
/// Members that may hold what another is about to fetch from the origin.
const HOLDERS_MAX: usize = 2;

/// Who is a member, as one of them sees it. Itself it always sees.
#[derive(Clone, Debug)]
pub struct View {
    me: Member,
    members: Vec<Placed>,
    /// Not seen any more, the last to go last: they coordinate nothing, but hold what they did.
    leavers: Vec<Placed>,
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
    Nobody,
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
            leavers: Vec::new(),
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
            let members = &self.members;
            let is_back = |gone: &Placed| {
                let address = gone.member.address();
                members
                    .iter()
                    .any(|placed| placed.member.address() == address)
            };
            let went = change.went.iter().cloned().map(Placed::new);
            self.leavers.extend(went);
            self.leavers.retain(|gone| !is_back(gone));
            let too_many = self.leavers.len().saturating_sub(LEAVERS_MAX);
            self.leavers.drain(..too_many);
        }
        change
    }

    /// Members that are not seen any more, and were not heard to be lost.
    pub fn leavers(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.leavers.iter().map(|placed| &placed.member)
    }

    /// A member that is not seen any more does not answer, or has had its time. Whether that is news.
    pub fn lost(&mut self, member: &Member) -> bool {
        let before = self.leavers.len();
        self.leavers.retain(|gone| gone.member != *member);
        self.leavers.len() < before
    }

    /// Who coordinates a key, and who stands in where that one cannot be reached; none where there is
    /// only one member. O(members).
    pub fn ranked(&self, key: u64) -> (&Member, Option<&Member>) {
        let [first, second] = placement::best(key, &self.members);
        (first.unwrap_or(&self.me), second)
    }

    /// Through whom this member gets a datum.
    pub fn through(&self, key: u64) -> Through<'_> {
        let (first, second) = self.ranked(key);
        if *first == self.me {
            return Through::Nobody;
        }
        Through::Members {
            first,
            second: second.filter(|second| **second != self.me),
        }
    }

    /// Who may hold what this member is about to fetch from the origin, likeliest first; where it is
    /// one of the two that rank highest, and so asked for it. They are asked as
    /// [`Role::Holder`](crate::Role), and never wait.
    ///
    /// They are those that rank highest beside it among the members and those who left: a leaver that
    /// still answers was the coordinator itself; the runner-up was before this member came, or stood in
    /// while it was away; and where another came shortly before and was not asked for it yet, the next
    /// one was. One that stands in asks the coordinator, for that nobody else reaches it does not mean
    /// that it cannot. O(members).
    pub fn holders(&self, key: u64) -> impl Iterator<Item = &Member> {
        let (first, second) = self.ranked(key);
        let answers = *first == self.me || second == Some(&self.me);
        let both = self.members.iter().chain(&self.leavers);
        let best: [_; HOLDERS_MAX + 1] = placement::best(key, both.filter(|_| answers));
        let others = best.into_iter().flatten();
        others.filter(|other| **other != self.me).take(HOLDERS_MAX)
    }

    /// Who coordinates a key after this member, which does, has left.
    pub fn heir(&self, key: u64) -> Option<&Member> {
        let (first, second) = self.ranked(key);
        second.filter(|_| *first == self.me)
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

    fn holders(view: &View, key: u64) -> Vec<&str> {
        view.holders(key).map(Member::address).collect()
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
                let next = if view.me() == first {
                    second
                } else {
                    Some(first)
                };
                let asked = view.me() == first || Some(view.me()) == second;
                assert_eq!(view.holders(key).next(), next.filter(|_| asked));
                assert_eq!(view.holders(key).count(), if asked { 2 } else { 0 });
                assert_eq!(view.heir(key), second.filter(|_| view.me() == first));
            }
        }
        let alone = View::new(Member::new("a"));
        assert_eq!((alone.holders(7).count(), alone.heir(7)), (0, None));
    }

    #[test]
    fn who_coordinated_a_key_before_is_asked_for_it() {
        let view = |me: &str, looks: &[&[&str]]| {
            let mut view = View::new(Member::new(me));
            for look in looks {
                view.looked(Some(members(look)));
            }
            view
        };
        let coordinator = |all: &[&str], key| {
            let view = view(all[0], &[all]);
            view.ranked(key).0.address().to_owned()
        };
        let all = ["a", "b", "c", "d", "e"];
        for key in 0..300 {
            let before = coordinator(&all[..3], key);
            // One joins: who had it is the first to be asked; another does: among the first two.
            for (came, place) in [(4, 1), (5, 2)] {
                let now = coordinator(&all[..came], key);
                if now != before {
                    let view = view(&now, &[&all[..came]]);
                    let asked = holders(&view, key);
                    assert!(asked[..place].contains(&before.as_str()), "{key} {asked:?}");
                }
            }
            // It leaves: whoever follows asks it, as long as it answers.
            let left: Vec<&str> = all.into_iter().filter(|name| *name != before).collect();
            let heir = coordinator(&left, key);
            let mut view = view(&heir, &[&all, &left]);
            if coordinator(&all, key) == before {
                assert_eq!(holders(&view, key)[0], before);
            }
            assert_eq!(view.leavers().next(), Some(&Member::new(&before)));
            assert!(view.lost(&Member::new(&before)) && !view.lost(&Member::new(&before)));
            assert!(!holders(&view, key).contains(&before.as_str()));
        }
    }

    #[test]
    fn few_leavers_are_remembered_and_none_that_came_back() {
        let mut view = View::new(Member::new("me"));
        let names: Vec<String> = (0..20).map(|n| format!("m{n:02}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        view.looked(Some(members(&all)));
        for n in 1..20 {
            view.looked(Some(members(&all[n..])));
        }
        let leavers = |view: &View| view.leavers().cloned().collect::<Vec<_>>();
        assert_eq!(leavers(&view), members(&all[11..19]));
        view.looked(Some(members(&all[15..])));
        assert_eq!(leavers(&view), members(&all[11..15]));
        for key in 0..50 {
            assert!(
                all[15..].contains(&view.ranked(key).0.address())
                    || view.ranked(key).0 == view.me()
            );
        }
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
