//! Time to first byte of a source: an exponentially weighted mean and a quantile sketch.
//!
//! The sketch is a histogram with buckets a factor of 2^(1/4) apart (relative error below 10 %, as
//! in DDSketch by Masson, Rim and Lee), from 64 microseconds to some 70 seconds. It forgets: when it
//! is full, all counts are halved, so that a quantile speaks of the last few hundred answers.

use std::time::Duration;

const BUCKETS: usize = 80;
const FLOOR_NANOS: u64 = 64_000;
const FULL: u32 = 512;

#[derive(Clone, Debug)]
pub(crate) struct Latency {
    mean_nanos: f64,
    /// Allocated with the second sample: most sources of a large set are hardly ever asked.
    buckets: Option<Box<[u16; BUCKETS]>>,
    count: u32,
    seen: u32,
}

impl Latency {
    pub(crate) const fn new() -> Self {
        Self {
            mean_nanos: 0.0,
            buckets: None,
            count: 0,
            seen: 0,
        }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.seen = self.seen.saturating_add(1);
        if self.seen == 1 {
            self.mean_nanos = nanos as f64;
            return;
        }
        let first = bucket_of(self.mean_nanos as u64);
        self.mean_nanos += (nanos as f64 - self.mean_nanos) * 0.125;
        let buckets = self.buckets.get_or_insert_with(|| {
            self.count = 1;
            let mut buckets = Box::new([0; BUCKETS]);
            buckets[first] = 1;
            buckets
        });
        if self.count >= FULL {
            self.count = 0;
            for bucket in buckets.iter_mut() {
                *bucket /= 2;
                self.count += u32::from(*bucket);
            }
        }
        buckets[bucket_of(nanos)] += 1;
        self.count += 1;
    }

    /// Answers seen since the source was first known.
    pub(crate) const fn seen(&self) -> u32 {
        self.seen
    }

    pub(crate) fn mean(&self) -> Option<Duration> {
        (self.seen > 0).then(|| Duration::from_nanos(self.mean_nanos as u64))
    }

    /// The upper edge of the bucket in which the quantile lies.
    pub(crate) fn quantile(&self, permille: u16) -> Option<Duration> {
        let Some(buckets) = &self.buckets else {
            let first = bucket_of(self.mean_nanos as u64);
            return (self.seen > 0).then(|| Duration::from_nanos(edge_of(first)));
        };
        let rank = u64::from(self.count) * u64::from(permille.min(1000));
        let rank = rank.div_ceil(1000).max(1);
        let mut below = 0u64;
        for (i, bucket) in buckets.iter().enumerate() {
            below += u64::from(*bucket);
            if below >= rank {
                return Some(Duration::from_nanos(edge_of(i)));
            }
        }
        None
    }
}

fn bucket_of(nanos: u64) -> usize {
    if nanos <= FLOOR_NANOS {
        return 0;
    }
    // Octave by the leading bit, quarter by the two bits below it (linear within the octave).
    let ratio = nanos / FLOOR_NANOS;
    let octave = ratio.ilog2() as usize;
    let base = FLOOR_NANOS << octave.min(40);
    let quarter = ((nanos - base.min(nanos)) / (base / 4)).min(3) as usize;
    (octave * 4 + quarter).min(BUCKETS - 1)
}

fn edge_of(bucket: usize) -> u64 {
    let base = FLOOR_NANOS << (bucket / 4);
    base + base / 4 * (bucket as u64 % 4 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near() {
        let mut latency = Latency::new();
        assert_eq!(latency.quantile(500), None);
        latency.record(Duration::from_micros(100));
        let first = latency.quantile(500).expect("a sample").as_micros();
        assert!((100..130).contains(&first), "{first}");
        for i in 2..=400u64 {
            latency.record(Duration::from_micros(100 * i));
        }
        for (permille, micros) in [(500, 20_000.0), (900, 36_000.0), (990, 39_600.0)] {
            let got = latency.quantile(permille).expect("samples").as_micros() as f64;
            assert!(
                (0.95..1.3).contains(&(got / micros)),
                "{permille}: {got} for {micros}"
            );
        }
    }

    #[test]
    fn it_forgets() {
        let mut latency = Latency::new();
        for _ in 0..600 {
            latency.record(Duration::from_secs(10));
        }
        for _ in 0..3000 {
            latency.record(Duration::from_millis(1));
        }
        assert!(latency.quantile(900).expect("samples") < Duration::from_millis(2));
        assert!(latency.mean().expect("samples") < Duration::from_millis(2));
    }

    #[test]
    fn buckets_are_ordered_and_extremes_are_caught() {
        let mut last = 0;
        for exponent in 0..63 {
            let bucket = bucket_of(1 << exponent);
            assert!(bucket >= last && bucket < BUCKETS);
            last = bucket;
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert!((0..BUCKETS - 1).all(|i| edge_of(i) < edge_of(i + 1)));
    }
}
