//! Placement: rendezvous hashing (highest random weight), after Thaler and Ravishankar 1998, with
//! weights by the logarithmic method.
//!
//! Each member draws a number for each key, by hashing both; the best draw coordinates. A member that
//! leaves takes only its own keys with it, and they fall to the others in proportion. A draw `u` from
//! (0, 1) counts as `-ln(u) / weight`, and the least wins: the chance to win is then in proportion to
//! the weight, exactly. The logarithm is taken in whole numbers, because members on different
//! processors must come to the same result to the last bit.
//!
//! What is hashed, and how, is part of the protocol between members: the test below holds it fixed.

use crate::Member;
use std::cmp::Ordering;

/// A member's standing with regard to placement: its hash, once computed.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) member: Member,
    hash: u64,
}

impl Placed {
    pub(crate) fn new(member: Member) -> Self {
        let hash = hash(member.address().as_bytes());
        Self { member, hash }
    }

    fn draw(&self, key: u64) -> u64 {
        finish(self.hash ^ key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// FNV-1a, finished so that addresses that differ in one digit differ everywhere.
fn hash(bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325;
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    finish(bytes.iter().fold(start, step))
}

/// The finalizer of splitmix64.
const fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Bits behind the point of a logarithm.
const FRACTION: u32 = 40;

/// `-log2((draw + 1) / 2^64)` in fixed point: from 64 down to 0 as the draw grows.
fn cost(draw: u64) -> u64 {
    let value = u128::from(draw) + 1;
    let whole = value.ilog2();
    // Between one and two, with 63 bits behind the point.
    let mut rest = if whole >= 63 {
        value >> (whole - 63)
    } else {
        value << (63 - whole)
    };
    let mut log = u64::from(whole) << FRACTION;
    for bit in (0..FRACTION).rev() {
        rest = (rest * rest) >> 63;
        if rest >> 64 != 0 {
            rest >>= 1;
            log |= 1 << bit;
        }
    }
    (64 << FRACTION) - log
}

/// Which of two members stands higher for a key: less is higher.
fn compare(key: u64, a: &Placed, b: &Placed) -> Ordering {
    let (x, y) = (a.draw(key), b.draw(key));
    let (v, w) = (a.member.weight().get(), b.member.weight().get());
    let by_draw = if v == w {
        // The logarithm keeps the order.
        y.cmp(&x)
    } else {
        let x = u128::from(cost(x)) * u128::from(w);
        let y = u128::from(cost(y)) * u128::from(v);
        x.cmp(&y)
    };
    by_draw.then_with(|| a.member.cmp(&b.member))
}

/// The members that stand highest for a key, the highest first; as many as there are. O(members), a
/// few nanoseconds each where all weigh the same.
pub(crate) fn best<'a, const N: usize>(
    key: u64,
    members: impl IntoIterator<Item = &'a Placed>,
) -> [Option<&'a Member>; N] {
    let mut best: [Option<&Placed>; N] = [None; N];
    for placed in members {
        let stands_higher =
            |than: &Option<&Placed>| than.is_none_or(|than| compare(key, placed, than).is_lt());
        // Nearly always below them all: one comparison.
        if !best.last().is_some_and(stands_higher) {
            continue;
        }
        if let Some(place) = best.iter().position(stands_higher) {
            best[place..].rotate_right(1);
            best[place] = Some(placed);
        }
    }
    best.map(|placed| placed.map(|placed| &placed.member))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashMap, num::NonZeroU16};

    fn members(count: usize) -> Vec<Placed> {
        (0..count)
            .map(|n| Placed::new(Member::new(&format!("10.0.{}.{}:9001", n / 250, n % 250))))
            .collect()
    }

    fn key(n: u64) -> u64 {
        hash(&n.to_le_bytes())
    }

    #[test]
    fn the_protocol_stays_as_it_is() {
        // Computed apart from this, with logarithms of 60 digits.
        assert_eq!(hash(b"10.0.0.1:9001"), 0x233a_6ec6_3097_9851);
        let weights = [1, 2, 3, 1, 5].map(|weight| NonZeroU16::new(weight).unwrap());
        let members: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(n, weight)| Placed::new(Member::weighted(&format!("cache-{n}:9001"), *weight)))
            .collect();
        let firsts = (0..16).map(|n| {
            let [first] = best(key(n), &members);
            first.unwrap().address()[6..7].parse::<u8>().unwrap()
        });
        assert_eq!(
            firsts.collect::<Vec<_>>(),
            [4, 2, 0, 1, 1, 0, 4, 1, 2, 4, 4, 0, 2, 4, 4, 4]
        );
    }

    #[test]
    fn costs_are_logarithms() {
        assert_eq!(cost(u64::MAX), 0);
        assert_eq!(cost(0), 64 << FRACTION);
        assert_eq!(cost((1 << 63) - 1), 1 << FRACTION);
        for draw in [1, 12_345, 1 << 40, u64::MAX / 3, u64::MAX - 1] {
            let exact = 64.0 - (draw as f64 + 1.0).log2();
            let ours = cost(draw) as f64 / (1_u64 << FRACTION) as f64;
            assert!((exact - ours).abs() < 1e-9, "{draw}: {exact} {ours}");
        }
    }

    #[test]
    fn keys_are_spread_evenly_and_by_weight() {
        const KEYS: u64 = 40_000;
        let mut members = members(8);
        members[3].member =
            Member::weighted(members[3].member.address(), NonZeroU16::new(4).unwrap());
        let mut counts: HashMap<Member, (u64, u64)> = HashMap::new();
        for n in 0..KEYS {
            let [first, second] = best(key(n), &members);
            counts.entry(first.unwrap().clone()).or_default().0 += 1;
            counts.entry(second.unwrap().clone()).or_default().1 += 1;
        }
        for (member, (first, second)) in counts {
            // 11 shares in all.
            let expected = KEYS * u64::from(member.weight().get()) / 11;
            assert!(
                first.abs_diff(expected) < expected / 20,
                "{member:?}: {first} of {expected}"
            );
            assert!(second > 0);
        }
    }

    #[test]
    fn who_leaves_takes_only_its_own_keys_which_fall_to_their_runners_up() {
        let before = members(9);
        for gone in 0..9 {
            let mut after = before.clone();
            let gone = after.remove(gone).member;
            for n in 0..2_000 {
                let [first, second] = best(key(n), &before);
                let expected = if first == Some(&gone) { second } else { first };
                assert_eq!(best(key(n), &after), [expected]);
            }
        }
    }
}
