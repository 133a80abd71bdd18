//! Whom to ask, best first.
//!
//! The caller's hint; for what authorizes events the room's authority; servers of the room, drawn in
//! proportion to their members; the hosts that the room's and the events' ids name. Or a pool that the
//! caller gives. Never ourselves, never whoever is denied, each once. Who failed at the same not long ago
//! comes after all others, but is not left out: it may have it by now, and may be the only one. (Whoever
//! backs off for faults of other kinds is put last by the engine.)

use crate::{
    Key, Opts,
    memo::{About, Memo, Subject},
};
use ruma_common::{OwnedServerName, ServerName};
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

/// What a ranking takes into account beside the key and what the caller says.
#[derive(Debug)]
pub(crate) struct Grounds<'a> {
    pub(crate) me: &'a ServerName,
    pub(crate) denied: &'a BTreeSet<OwnedServerName>,
    pub(crate) memo: &'a Memo,
    /// The most servers.
    pub(crate) max: usize,
    /// Decides the draw.
    pub(crate) seed: u64,
}

/// The servers for a key, best first.
pub(crate) fn rank(key: &Key, opts: &Opts, grounds: &Grounds<'_>) -> Vec<OwnedServerName> {
    let denied: BTreeSet<&ServerName> = (opts.deny.iter().flat_map(|list| list.iter()))
        .map(|name| &**name)
        .collect();
    let mut seen = BTreeSet::new();
    let mut may = |name: &ServerName| {
        name != grounds.me
            && !grounds.denied.contains(name)
            && !denied.contains(name)
            && seen.insert(name.to_owned())
    };
    if let Some(pool) = &opts.pool {
        let pool = pool.iter().filter(|name| may(name));
        return pool.take(grounds.max).cloned().collect();
    }
    let mut ranked: Vec<OwnedServerName> = Vec::new();
    let mut add = |name: Option<&ServerName>| {
        let new = name.filter(|name| may(name));
        ranked.extend(new.map(ToOwned::to_owned));
        new.is_some()
    };
    add(opts.hint.as_deref());
    if key.op().is_auth() {
        let authority = opts.authority.as_deref();
        add(authority.or_else(|| key.room().server_name()));
    }
    if let Some(members) = &opts.members {
        // More than are asked, for some will have failed at it.
        let mut left = 4 * grounds.max;
        for drawn in draw(members, grounds.seed) {
            if left == 0 {
                break;
            }
            left -= usize::from(add(Some(&members[drawn].0)));
        }
    }
    add(key.room().server_name());
    for event in key.event_ids() {
        add(event.server_name());
    }
    let about = About::of(key);
    let (good, failed): (Vec<_>, Vec<_>) = ranked.into_iter().partition(|name| {
        let memo = grounds.memo;
        !memo.holds(Subject::Of(about), name) && !memo.holds(Subject::Any, name)
    });
    let mut ranked = good;
    ranked.extend(failed);
    ranked.truncate(grounds.max);
    ranked
}

/// All of these, drawn one by one without putting any back, each in proportion to its weight. O(n), and O(log n) for
/// each that is taken.
///
/// Each gets an exponential clock that runs as fast as it weighs; those that ring first are drawn first.
/// (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006.)
fn draw(weighted: &[(OwnedServerName, u64)], seed: u64) -> impl Iterator<Item = usize> {
    let mut random = SplitMix(seed);
    let mut clocks: BinaryHeap<Reverse<(u64, usize)>> = (weighted.iter().enumerate())
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(n, (_, weight))| {
            let rings = -random.unit().ln() / *weight as f64;
            // The bits of numbers that are not negative are in the order of the numbers.
            Reverse((rings.abs().to_bits(), n))
        })
        .collect();
    std::iter::from_fn(move || Some(clocks.pop()?.0.1))
}

/// SplitMix64, by Sebastiano Vigna: enough for a draw.
#[derive(Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above zero, up to one.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memo::MemoConfig;
    use proptest::prelude::*;
    use ruma_common::{OwnedEventId, owned_room_id};
    use std::sync::Arc;

    fn name(text: &str) -> OwnedServerName {
        OwnedServerName::try_from(text).expect("a name")
    }

    fn names(texts: &[&str]) -> Vec<OwnedServerName> {
        texts.iter().map(|text| name(text)).collect()
    }

    fn event(id: &str) -> Key {
        let id = OwnedEventId::try_from(id).expect("an id");
        Key::event(owned_room_id!("!r:room"), id).expect("a key")
    }

    fn auth(id: &str) -> Key {
        let id = OwnedEventId::try_from(id).expect("an id");
        Key::auth_event(owned_room_id!("!r:room"), id).expect("a key")
    }

    #[track_caller]
    fn check(key: &Key, opts: &Opts, memo: &Memo, expected: &[&str]) {
        let grounds = Grounds {
            me: &name("me"),
            denied: &[name("denied")].into(),
            memo,
            max: 6,
            seed: 7,
        };
        assert_eq!(rank(key, opts, &grounds), names(expected));
    }

    fn memo() -> Memo {
        Memo::new(MemoConfig::default())
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_order_that_was_agreed() {
        let one: Arc<[_]> = [(name("member"), 3)].into();
        let opts = Opts::new().hint(name("hint")).members(one);
        let memo = memo();
        check(
            &event("$e:sender"),
            &opts,
            &memo,
            &["hint", "member", "room", "sender"],
        );
        check(&event("$hash"), &opts, &memo, &["hint", "member", "room"]);
        check(&auth("$e"), &opts, &memo, &["hint", "room", "member"]);
        let told = opts.authority(name("creator"));
        check(
            &auth("$e"),
            &told,
            &memo,
            &["hint", "creator", "member", "room"],
        );
        check(&event("$e"), &told, &memo, &["hint", "member", "room"]);
    }

    #[tokio::test(start_paused = true)]
    async fn never_ourselves_nor_the_denied_and_each_once() {
        let all: Arc<[_]> = ["me", "denied", "a", "a", "not-this", "room"]
            .map(|text| (name(text), 1))
            .into();
        let opts = Opts::new()
            .hint(name("room"))
            .members(Arc::clone(&all))
            .deny(names(&["not-this"]));
        check(&auth("$e:me"), &opts, &memo(), &["room", "a"]);
        let pool = Opts::new()
            .pool(names(&["b", "me", "a", "denied", "b", "c"]))
            .hint(name("hint"))
            .deny(names(&["c"]));
        check(&auth("$e:sender"), &pool, &memo(), &["b", "a"]);
        let nobody = Opts::new().deny(names(&["room"]));
        check(&event("$e"), &nobody, &memo(), &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_failed_at_it_comes_last() {
        let memo = memo();
        let opts = Opts::new().hint(name("hint"));
        let key = event("$e:sender");
        memo.failed(Subject::Of(About::of(&key)), &name("hint"));
        check(&key, &opts, &memo, &["room", "sender", "hint"]);
        check(
            &event("$f:sender"),
            &opts,
            &memo,
            &["hint", "room", "sender"],
        );
        // The same event, for another purpose: it does not have it for that either.
        check(
            &auth("$e:sender"),
            &opts,
            &memo,
            &["room", "sender", "hint"],
        );
        memo.failed(Subject::Any, &name("room"));
        check(
            &event("$f:sender"),
            &opts,
            &memo,
            &["hint", "sender", "room"],
        );
        let pool = Opts::new().pool(names(&["hint", "room"]));
        check(&key, &pool, &memo, &["hint", "room"]);
    }

    fn members(weights: &[u64]) -> Vec<(OwnedServerName, u64)> {
        (weights.iter().enumerate())
            .map(|(n, weight)| (name(&format!("s{n}")), *weight))
            .collect()
    }

    #[test]
    fn draws_in_proportion() {
        let members = members(&[70, 20, 10, 0]);
        let mut first = [0_u32; 4];
        for seed in 0..10_000 {
            let drawn: Vec<_> = draw(&members, seed << 20).collect();
            assert_eq!(drawn.len(), 3, "who has no members is not in the room");
            first[drawn[0]] += 1;
        }
        for (count, expected) in first.into_iter().zip([7000_u32, 2000, 1000, 0]) {
            assert!(count.abs_diff(expected) < 200, "{first:?}");
        }
    }

    fn some_names() -> impl Strategy<Value = Vec<OwnedServerName>> {
        prop::collection::vec((0..12_u8).prop_map(|n| name(&format!("s{n}"))), 0..12)
    }

    proptest! {
        #[test]
        fn whoever_is_named_how_often_and_where(
            (hint, authority) in ((0..12_u8), (0..12_u8)),
            (all, denied, also_denied, failed) in
                (some_names(), some_names(), some_names(), some_names()),
            verbatim: bool,
            max in 1_usize..15,
            seed: u64,
        ) {
            let of = |n: u8| name(&format!("s{n}"));
            let mut opts = Opts::new().hint(of(hint)).authority(of(authority)).deny(denied.clone());
            opts = match verbatim {
                true => opts.pool(all.clone()),
                false => opts.members(all.iter().map(|name| (name.clone(), 2)).collect()),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("one");
            let ranked = runtime.block_on(async {
                let (memo, key) = (memo(), auth("$e:s1"));
                for name in &failed {
                    memo.failed(Subject::Of(About::of(&key)), name);
                }
                let also_denied = also_denied.iter().cloned().collect();
                let grounds = Grounds { me: &name("s0"), denied: &also_denied, memo: &memo, max, seed };
                rank(&key, &opts, &grounds)
            });
            let allowed = |name: &OwnedServerName| {
                name != "s0" && !denied.contains(name) && !also_denied.contains(name)
            };
            let mut named = all;
            if !verbatim {
                named.extend([of(hint), of(authority), name("room"), name("s1")]);
            }
            named.retain(allowed);
            let set: BTreeSet<_> = named.iter().collect();
            prop_assert_eq!(ranked.len(), set.len().min(max), "all of them, each once");
            prop_assert_eq!(ranked.iter().collect::<BTreeSet<_>>().len(), ranked.len());
            prop_assert!(ranked.iter().all(|name| set.contains(name)));
            if verbatim {
                let mut seen = BTreeSet::new();
                named.retain(|name| seen.insert(name.clone()));
                named.truncate(max);
                prop_assert_eq!(ranked, named);
            } else {
                let last = ranked.iter().map(|name| failed.contains(name));
                prop_assert!(last.is_sorted(), "who failed comes last");
            }
        }

        #[test]
        fn a_draw_draws_each_once(
            weights in prop::collection::vec(0_u64..1000, 0..100),
            seed: u64,
        ) {
            let members = members(&weights);
            let all: Vec<_> = draw(&members, seed).collect();
            let set: BTreeSet<_> = all.iter().collect();
            prop_assert_eq!(set.len(), all.len());
            prop_assert_eq!(set.len(), weights.iter().filter(|weight| **weight > 0).count());
        }
    }
}
