//! What the simulations of all adapters have in common: seeds run and run twice, what they came to, what
//! they reached, and the proof that planted bugs are caught.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// A bug that can be planted: its name, and what the failure that it leads to has to begin with; one of
/// several, where there are bars between them.
pub type Plant = (&'static str, &'static str);

/// An adapter that can be simulated.
#[derive(Debug)]
pub struct Subject {
    /// What it is called on the command line.
    pub name: &'static str,
    /// States that enough seeds have to reach.
    pub marks: &'static [&'static str],
    /// Bugs that can be planted.
    pub plants: &'static [Plant],
    /// Runs one seed.
    pub run: fn(u64, &Options) -> Report,
}

/// How a seed is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether its trace is printed.
    pub print: bool,
    /// The bug that is planted.
    pub plant: Option<&'static str>,
}

/// What a seed came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Lines of its trace.
    pub steps: u64,
    /// Hash and length of the trace.
    pub digest: (u64, u64),
    /// States reached.
    pub coverage: Coverage,
    /// Each rule that was broken, in a line.
    pub failure: Option<String>,
}

/// How often each state was reached, and the most of some things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
    most: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// Counts one.
    pub fn hit(&mut self, mark: &'static str) {
        *self.counts.entry(mark).or_default() += 1;
    }

    /// Notes how much there was of something.
    pub fn most(&mut self, what: &'static str, value: u64) {
        let most = self.most.entry(what).or_default();
        *most = value.max(*most);
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mark, count) in &other.counts {
            *self.counts.entry(mark).or_default() += count;
        }
        for (what, value) in &other.most {
            self.most(what, *value);
        }
    }

    /// Those of these marks that were never reached.
    pub fn missing(&self, marks: &[&'static str]) -> Vec<&'static str> {
        let missing = |mark: &&&str| !self.counts.contains_key(**mark);
        marks.iter().filter(missing).copied().collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.counts.iter().chain(&self.most);
        for (n, (mark, count)) in all.enumerate() {
            let gap = if n == 0 { "" } else { ", " };
            write!(f, "{gap}{mark}: {count}")?;
        }
        Ok(())
    }
}

/// What the tests of each subject demand of it; they panic with the seed that is to blame.
impl Subject {
    /// A seed is a run: again, it is the same.
    pub fn repeats_itself(&self, seeds: Range<u64>) {
        for seed in seeds {
            let same = self.twice(seed, &Options::default());
            assert_eq!(same, Ok(()), "{}", self.name);
        }
    }

    /// All these seeds pass, and reach every state together.
    pub fn holds_over(&self, seeds: Range<u64>) {
        crate::run::silence_panics();
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let count = seeds.end - seeds.start;
        let reports = self.all(seeds, &Options::default(), (jobs, true), |_| {});
        let mut coverage = Coverage::default();
        for report in &reports {
            assert_eq!(report.failure, None, "{}: seed {}", self.name, report.seed);
            coverage.merge(&report.coverage);
        }
        assert_eq!(reports.len() as u64, count);
        let never: [&str; 0] = [];
        assert_eq!(coverage.missing(self.marks), never, "{}", self.name);
    }

    /// Every bug that is planted is caught by one of these seeds.
    pub fn catches_all(&self, seeds: Range<u64>) {
        crate::run::silence_panics();
        for plant in self.plants {
            let caught = self.catches(plant, seeds.clone());
            assert!(caught.is_some(), "{}: {} is not caught", self.name, plant.0);
        }
    }
}

impl Subject {
    /// Runs a seed twice: the traces must be the same (I8).
    ///
    /// # Errors
    ///
    /// How they differ.
    pub fn twice(&self, seed: u64, options: &Options) -> Result<(), String> {
        let (first, second) = ((self.run)(seed, options), (self.run)(seed, options));
        if first.digest == second.digest && first.failure == second.failure {
            return Ok(());
        }
        let (first, second) = (first.digest, second.digest);
        Err(format!(
            "I8: two runs of seed {seed} differ: {first:?} and {second:?}"
        ))
    }

    /// Runs seeds on so many threads, and tells of each. With `keep_going`, or until one has failed.
    pub fn all(
        &self,
        seeds: Range<u64>,
        options: &Options,
        (jobs, keep_going): (usize, bool),
        tell: impl Fn(&Report) + Sync,
    ) -> Vec<Report> {
        let next = AtomicU64::new(seeds.start);
        let first_failure = AtomicU64::new(u64::MAX);
        let reports = Mutex::new(Vec::new());
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let give_up = !keep_going && seed > first_failure.load(Ordering::Relaxed);
                if seed >= seeds.end || give_up {
                    break;
                }
                let report = (self.run)(seed, options);
                if report.failure.is_some() {
                    first_failure.fetch_min(seed, Ordering::Relaxed);
                }
                tell(&report);
                let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
                reports.push(report);
            }
        };
        thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(work);
            }
        });
        let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
        reports.sort_by_key(|report| report.seed);
        reports
    }

    /// The first of these seeds that catches a planted bug for what it is, and is well without it; and
    /// what it says.
    pub fn catches(&self, plant: &Plant, seeds: Range<u64>) -> Option<(u64, String)> {
        let (name, rules) = plant;
        let options = Options {
            plant: Some(name),
            ..Options::default()
        };
        for seed in seeds {
            let why = match *rules {
                "I8" => self.twice(seed, &options).err(),
                _ => (self.run)(seed, &options).failure,
            };
            let Some(why) = why else { continue };
            let first = why.lines().next().unwrap_or_default().to_owned();
            let meant = rules.split('|').any(|rule| first.starts_with(rule));
            if meant && (self.run)(seed, &Options::default()).failure.is_none() {
                return Some((seed, first));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_adds_up() {
        let mut one = Coverage::default();
        one.hit("a");
        one.most("long", 3);
        let mut two = one.clone();
        two.hit("b");
        two.most("long", 2);
        one.merge(&two);
        assert_eq!(one.to_string(), "a: 2, b: 1, long: 3");
        assert_eq!(one.missing(&["a", "c"]), ["c"]);
    }
}
