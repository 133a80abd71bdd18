//! Proofs that a request is a member's, where members share a secret.
//!
//! A request carries the header `gannet-proof: 1 TIME NONCE BODY MAC`: milliseconds since 1970, 16
//! random bytes, the BLAKE3 hash of the body, and a keyed BLAKE3 hash over method, authority, path, and
//! those three. So the head alone can be checked: nobody gets us to take in a body who is not a member.
//!
//! **Replays.** A proof counts once, and only while its time is within a bound of ours. Nonces are kept
//! as long as their time counts. When there are too many, the oldest go, and with them all that was made
//! as early: from then on, an earlier time is refused. So a full memory shortens the time within which a
//! proof counts, and never lets one count twice. Only proofs that are right are remembered, so that
//! strangers cannot fill it. What was seen before a start is unknown after it, so proofs made before the
//! start do not count either, for as long as they could have. What this cannot see is a proof that was
//! made for another member of the same name: the authority is proved, and compared by whoever knows
//! under which addresses it is reached.

use crate::secret::Keys;
use blake3::{Hash, Hasher};
use http::{HeaderName, HeaderValue, Method, Uri};
use rustls::crypto::ring;
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

pub(crate) const PROOF: HeaderName = HeaderName::from_static("gannet-proof");
/// The only version there is.
const VERSION: &str = "1";

type Nonce = [u8; 16];

/// Why a proof does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is none.
    Missing,
    /// It is not one, or of another version.
    Malformed,
    /// Made with another secret, or for another request.
    Wrong,
    /// Made too long ago, or in our future.
    Clock,
    /// Made before we started or before what we can remember.
    Forgotten,
    /// Seen before.
    Replayed,
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A proof for a request that we send.
pub(crate) fn prove(
    keys: &Keys,
    method: &Method,
    uri: &Uri,
    body: &[u8],
    now_ms: u64,
) -> Option<HeaderValue> {
    let mut nonce = Nonce::default();
    ring::default_provider()
        .secure_random
        .fill(&mut nonce)
        .ok()?;
    let body = blake3::hash(body);
    let proof = Proof {
        time_ms: now_ms,
        nonce,
        body,
        mac: mac(keys, method, uri, now_ms, &nonce, &body),
    };
    HeaderValue::from_str(&proof.to_string()).ok()
}

fn mac(keys: &Keys, method: &Method, uri: &Uri, time_ms: u64, nonce: &Nonce, body: &Hash) -> Hash {
    let mut hasher = Hasher::new_keyed(&keys.proof);
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    for part in [method.as_str(), authority, path] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&time_ms.to_le_bytes());
    hasher.update(nonce);
    hasher.update(body.as_bytes());
    hasher.finalize()
}

/// A proof as it stands in a header.
#[derive(Debug)]
struct Proof {
    time_ms: u64,
    nonce: Nonce,
    body: Hash,
    mac: Hash,
}

impl Proof {
    fn parse(value: &HeaderValue) -> Option<Self> {
        let mut parts = value.to_str().ok()?.split(' ');
        if parts.next()? != VERSION {
            return None;
        }
        let time = parts.next()?;
        if !time.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let proof = Self {
            time_ms: time.parse().ok()?,
            nonce: nonce(parts.next()?)?,
            body: Hash::from_hex(parts.next()?).ok()?,
            mac: Hash::from_hex(parts.next()?).ok()?,
        };
        parts.next().is_none().then_some(proof)
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (time_ms, nonce) = (self.time_ms, u128::from_be_bytes(self.nonce));
        let (body, mac) = (self.body.to_hex(), self.mac.to_hex());
        write!(f, "{VERSION} {time_ms} {nonce:032x} {body} {mac}")
    }
}

/// Reads bytes as a proof: what is one is written as it was read, but for case and zeros before a time.
pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok(header) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    if let Some(proof) = Proof::parse(&header) {
        let read = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        let same = |(n, (written, read)): (usize, (&str, &str))| match n {
            1 => written.trim_start_matches('0') == read.trim_start_matches('0'),
            _ => written == read,
        };
        let written = proof.to_string();
        assert_eq!(written.split(' ').count(), read.split(' ').count());
        let mut parts = written.split(' ').zip(read.split(' ')).enumerate();
        assert!(parts.all(same), "{written} is not {read}");
    }
}

fn nonce(hex: &str) -> Option<Nonce> {
    // No larger number has 32 digits; a sign is no digit.
    (hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(hex, 16).ok())
        .flatten()
        .map(u128::to_be_bytes)
}

/// Checks proofs, and remembers which it has seen.
#[derive(Debug)]
pub(crate) struct Guard {
    skew_max: Duration,
    nonces_max: usize,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// By the second in which they were made.
    nonces: BTreeMap<u64, HashSet<Nonce>>,
    count: usize,
    /// Times before this one do not count, until then: by our own steady clock, so that a clock that was
    /// far ahead and is put right does not lock everybody out.
    floor: (u64, Instant),
}

impl Guard {
    pub(crate) fn new(skew_max: Duration, nonces_max: usize, now_ms: u64) -> Self {
        Self {
            skew_max,
            nonces_max: nonces_max.max(1),
            seen: Mutex::new(Seen {
                nonces: BTreeMap::new(),
                count: 0,
                floor: (now_ms, Instant::now() + 2 * skew_max),
            }),
        }
    }

    /// The hash of the body that a right proof names. Compares in constant time.
    pub(crate) fn check(
        &self,
        keys: &Keys,
        method: &Method,
        uri: &Uri,
        header: Option<&HeaderValue>,
        now_ms: u64,
    ) -> Result<Hash, Refusal> {
        let proof = Proof::parse(header.ok_or(Refusal::Missing)?).ok_or(Refusal::Malformed)?;
        // `Hash` compares in constant time.
        if mac(keys, method, uri, proof.time_ms, &proof.nonce, &proof.body) != proof.mac {
            return Err(Refusal::Wrong);
        }
        let skew_ms = u64::try_from(self.skew_max.as_millis()).unwrap_or(u64::MAX);
        if proof.time_ms.abs_diff(now_ms) > skew_ms {
            return Err(Refusal::Clock);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let lasts = 2 * self.skew_max;
        seen.expire(now_ms.saturating_sub(skew_ms) / 1000, lasts);
        let (floor_ms, until) = seen.floor;
        if proof.time_ms < floor_ms && Instant::now() < until {
            return Err(Refusal::Forgotten);
        }
        seen.remember(proof.time_ms / 1000, proof.nonce)?;
        if seen.count > self.nonces_max {
            seen.shorten(lasts);
        }
        Ok(proof.body)
    }
}

impl Seen {
    /// Forgets what was made before a second: it does not count any more, not even if our clock is put
    /// back.
    fn expire(&mut self, second: u64, lasts: Duration) {
        self.raise(second, lasts);
        while let Some(oldest) = self.nonces.first_entry()
            && *oldest.key() < second
        {
            self.count -= oldest.remove().len();
        }
    }

    fn remember(&mut self, second: u64, nonce: Nonce) -> Result<(), Refusal> {
        if !self.nonces.entry(second).or_default().insert(nonce) {
            return Err(Refusal::Replayed);
        }
        self.count += 1;
        Ok(())
    }

    /// Forgets the oldest second, and refuses what was made in it or before.
    fn shorten(&mut self, lasts: Duration) {
        if let Some((second, nonces)) = self.nonces.pop_first() {
            self.count -= nonces.len();
            self.raise(second + 1, lasts);
        }
    }

    /// From now on, what was made before a second does not count.
    fn raise(&mut self, second: u64, lasts: Duration) {
        let (now, floor_ms) = (Instant::now(), second.saturating_mul(1000));
        let (current_ms, until) = self.floor;
        if floor_ms >= current_ms || until <= now {
            self.floor = (floor_ms, now + lasts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;
    const SKEW: Duration = Duration::from_secs(60);

    fn keys(byte: u8) -> Keys {
        Keys {
            proof: [byte; 32],
            binding: [0; 32],
        }
    }

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn made_at(time_ms: u64) -> HeaderValue {
        prove(
            &keys(1),
            &Method::POST,
            &uri("http://m:1/ask"),
            b"body",
            time_ms,
        )
        .unwrap()
    }

    fn guard() -> Guard {
        // Long started.
        Guard::new(SKEW, 1000, 0)
    }

    fn check(guard: &Guard, header: &HeaderValue, now_ms: u64) -> Result<Hash, Refusal> {
        let uri = uri("http://m:1/ask");
        guard.check(&keys(1), &Method::POST, &uri, Some(header), now_ms)
    }

    #[test]
    fn a_right_proof_counts_once() {
        let (guard, proof) = (guard(), made_at(NOW));
        assert_eq!(check(&guard, &proof, NOW + 5), Ok(blake3::hash(b"body")));
        assert_eq!(check(&guard, &proof, NOW + 6), Err(Refusal::Replayed));
        assert_eq!(
            check(&guard, &proof, NOW + 59_999),
            Err(Refusal::Replayed),
            "as long as its time counts"
        );
        assert_eq!(check(&guard, &proof, NOW + 60_001), Err(Refusal::Clock));
        assert!(check(&guard, &made_at(NOW), NOW).is_ok(), "another nonce");
    }

    #[test]
    fn every_part_is_proved() {
        let guard = guard();
        let proof = made_at(NOW);
        let wrong = |keys: &Keys, method: &Method, at: &str, header: &HeaderValue| {
            let result = guard.check(keys, method, &uri(at), Some(header), NOW);
            assert_eq!(result, Err(Refusal::Wrong), "{method} {at} {header:?}");
        };
        wrong(&keys(2), &Method::POST, "http://m:1/ask", &proof);
        wrong(&keys(1), &Method::GET, "http://m:1/ask", &proof);
        wrong(&keys(1), &Method::POST, "http://n:1/ask", &proof);
        wrong(&keys(1), &Method::POST, "http://m:1/ask?", &proof);
        wrong(&keys(1), &Method::POST, "http://m:1/as", &proof);
        // Each digit of each part: all of them are proved, or make it malformed.
        let text = proof.to_str().unwrap();
        for at in 2..text.len() {
            let mut other = text.as_bytes().to_vec();
            if other[at] == b' ' {
                continue;
            }
            other[at] = if other[at] == b'1' { b'2' } else { b'1' };
            let other = HeaderValue::from_bytes(&other).unwrap();
            wrong(&keys(1), &Method::POST, "http://m:1/ask", &other);
        }
        assert!(check(&guard, &proof, NOW).is_ok(), "nothing was remembered");
    }

    #[test]
    fn what_is_none_is_told_apart() {
        let guard = guard();
        let at = uri("http://m:1/ask");
        let missing = guard.check(&keys(1), &Method::POST, &at, None, NOW);
        assert_eq!(missing, Err(Refusal::Missing));
        let good = made_at(NOW);
        let good = good.to_str().unwrap();
        for bad in [
            String::new(),
            "1".to_owned(),
            good.replacen("1 ", "2 ", 1),
            good.replacen("1 ", "1 +", 1),
            good.replacen("1 ", "1  ", 1),
            format!("{good} 1"),
            format!("{good}0"),
            good[..good.len() - 1].to_owned(),
            "1 99999999999999999999999 a b c".to_owned(),
        ] {
            let header = HeaderValue::from_str(&bad).unwrap();
            assert_eq!(
                check(&guard, &header, NOW),
                Err(Refusal::Malformed),
                "{bad}"
            );
        }
    }

    #[test]
    fn whatever_is_read_as_a_proof_is_one() {
        let good = made_at(NOW);
        let good = good.as_bytes();
        fuzz(b"1 00 00000000000000000000000000000000 ");
        for at in 0..good.len() {
            for byte in 0..=255 {
                let mut other = good.to_vec();
                other[at] = byte;
                fuzz(&other);
                other.insert(at, byte);
                fuzz(&other);
            }
            fuzz(&good[at..]);
            fuzz(&good[..at]);
        }
    }

    #[test]
    fn clocks_may_be_a_minute_apart() {
        let guard = guard();
        for (made, expected) in [
            (NOW - 60_000, true),
            (NOW - 60_001, false),
            (NOW + 60_000, true),
            (NOW + 60_001, false),
        ] {
            assert_eq!(
                check(&guard, &made_at(made), NOW).is_ok(),
                expected,
                "{made}"
            );
        }
    }

    #[test]
    fn what_was_made_before_the_start_does_not_count() {
        let guard = Guard::new(SKEW, 1000, NOW);
        let early = made_at(NOW - 1);
        assert_eq!(check(&guard, &early, NOW + 1), Err(Refusal::Forgotten));
        assert!(check(&guard, &made_at(NOW), NOW + 1).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_ahead_locks_nobody_out() {
        let guard = Guard::new(SKEW, 1000, NOW + 3_600_000);
        assert_eq!(check(&guard, &made_at(NOW), NOW), Err(Refusal::Forgotten));
        tokio::time::advance(2 * SKEW).await;
        assert!(check(&guard, &made_at(NOW), NOW).is_ok());
    }

    #[test]
    fn a_clock_put_back_lets_nothing_count_twice() {
        let (guard, proof) = (guard(), made_at(NOW));
        assert!(check(&guard, &proof, NOW).is_ok());
        let later = NOW + 61_000;
        assert!(check(&guard, &made_at(later), later).is_ok());
        assert_eq!(check(&guard, &proof, NOW), Err(Refusal::Forgotten));
    }

    #[test]
    fn a_full_memory_shortens_the_time_and_forgets_nothing_that_counts() {
        let guard = Guard::new(SKEW, 10, 0);
        let proofs: Vec<_> = (0..30).map(|n| made_at(NOW + n * 1000)).collect();
        for (proof, now) in proofs.iter().zip(NOW..) {
            assert!(check(&guard, proof, now + 30_000).is_ok());
        }
        let seen = |guard: &Guard| guard.seen.lock().unwrap().count;
        assert_eq!(seen(&guard), 10);
        for (n, proof) in proofs.iter().enumerate() {
            let expected = if n < 20 {
                Refusal::Forgotten
            } else {
                Refusal::Replayed
            };
            assert_eq!(check(&guard, proof, NOW + 30_000), Err(expected), "{n}");
        }
        assert!(check(&guard, &made_at(NOW + 30_000), NOW + 30_000).is_ok());
        // What does not count any more goes by itself.
        assert!(check(&guard, &made_at(NOW + 200_000), NOW + 200_000).is_ok());
        assert_eq!(seen(&guard), 1);
    }
}
