//! Tables for people, and the file that keeps them.

use crate::RESULTS;
use std::{fmt::Write, path::Path};

/// What one benchmark has to say.
#[derive(Debug, Default)]
pub(crate) struct Section {
    name: &'static str,
    text: String,
    targets: Vec<Target>,
    /// What was served and wrong: must be empty.
    wrong: Vec<String>,
}

#[derive(Debug)]
struct Target {
    what: String,
    limit: String,
    measured: String,
    /// How far it is missed: at most 1 is reached.
    ratio: f64,
}

impl Section {
    pub(crate) fn new(name: &'static str, intro: &str) -> Self {
        Self {
            name,
            text: format!("{intro}\n"),
            ..Self::default()
        }
    }

    /// Adds a table; the first row is its head.
    pub(crate) fn table(&mut self, title: &str, rows: &[Vec<String>]) {
        let _ = write!(self.text, "\n**{title}**\n\n");
        let columns = rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0).max(3)).collect();
        for (index, row) in rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match column {
                    0 => write!(self.text, "| {cell:<width$} "),
                    _ => write!(self.text, "| {cell:>width$} "),
                };
            }
            self.text.push_str("|\n");
            if index == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let _ = match column {
                        0 => write!(self.text, "| {} ", "-".repeat(*width)),
                        _ => write!(self.text, "| {}: ", "-".repeat(width - 1)),
                    };
                }
                self.text.push_str("|\n");
            }
        }
    }

    /// A bound that was set beforehand: `measured` is to be at most `limit`.
    pub(crate) fn target(&mut self, what: &str, measured: f64, limit: f64, unit: &str) {
        self.targets.push(Target {
            what: what.into(),
            limit: format!("at most {} {unit}", number(limit)),
            measured: format!("{} {unit}", number(measured)),
            ratio: if limit > 0.0 {
                measured / limit
            } else {
                measured + 1.0
            },
        });
    }

    /// The other way round, for rates: `measured` is to be at least `limit`.
    #[allow(
        dead_code,
        reason = "not every bench that shares this has such a bound"
    )]
    pub(crate) fn at_least(&mut self, what: &str, measured: f64, limit: f64, unit: &str) {
        self.targets.push(Target {
            what: what.into(),
            limit: format!("at least {} {unit}", number(limit)),
            measured: format!("{} {unit}", number(measured)),
            ratio: limit / measured.max(f64::MIN_POSITIVE),
        });
    }

    /// Something was served that is not right.
    pub(crate) fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// Prints it, keeps it in RESULTS.md unless it was a quick run, and says whether all was right.
    /// `how` says what ran beside ours and how it was measured.
    pub(crate) fn finish(mut self, quick: bool, how: &str) -> bool {
        if !self.targets.is_empty() {
            let mut rows = vec![["target", "", "measured", ""].map(String::from).to_vec()];
            rows.extend(self.targets.iter().map(|target| {
                let verdict = if target.ratio <= 1.0 {
                    "reached".into()
                } else {
                    format!("missed: {:.2} x", target.ratio)
                };
                vec![
                    target.what.clone(),
                    target.limit.clone(),
                    target.measured.clone(),
                    verdict,
                ]
            }));
            self.table("Targets", &rows);
        }
        let verdict = if self.wrong.is_empty() {
            let what = match self.name {
                "kitsune2" => "op stored",
                "matrix" => "event fetched",
                _ => "body served",
            };
            format!("Every {what} was right, byte for byte.")
        } else {
            format!("WRONG: {}", self.wrong.join("; "))
        };
        if !["engine", "index", "p2p commonware", "cluster-scale"].contains(&self.name) {
            let _ = write!(self.text, "\n{verdict}\n");
        }
        println!("## {}\n\n{}", self.name, self.text);
        if quick {
            println!("(a quick run or a part: not kept)");
        } else {
            keep(self.name, &self.text, how);
        }
        self.wrong.is_empty()
    }
}

/// Puts a section in the place of its predecessor.
fn keep(name: &str, text: &str, how: &str) {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let section = format!(
        "{begin}\n## {name}\n\n{}; {how}\n\n{text}{end}\n",
        machine()
    );
    let old = std::fs::read_to_string(RESULTS).unwrap_or_else(|_| HEAD.into());
    let new = match (old.find(&begin), old.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            let after = old[to + end.len()..].strip_prefix('\n').unwrap_or_default();
            format!("{}{section}{after}", &old[..from])
        }
        _ => format!("{}\n\n{section}", old.trim_end()),
    };
    if let Err(error) = std::fs::write(Path::new(RESULTS), new) {
        eprintln!("cannot write {RESULTS}: {error}");
    }
}

const HEAD: &str = "# Results\n\n\
Each section is written by `cargo run --release -p gannet-bench -- NAME`, peers measured in the same run, on the same\n\
machine, in turns; \"p2p\" ones by `cargo run --release -p gannet-bench-p2p -- NAME`, \"kitsune2\" by\n\
`cargo run --release -p gannet-bench-kitsune2`, \"matrix\" by\n\
`cargo run --release -p gannet-bench-matrix`. Numbers of different sections may\n\
come from different moments of a shared machine.\n";

/// Cores, processor, kernel.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{cores} cores ({model}), Linux {}, load before {load}",
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

/// Three significant digits or so.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.095 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A time for people.
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{} s", number(s)),
        s if s >= 1e-3 => format!("{} ms", number(s * 1e3)),
        s => format!("{} us", number(s * 1e6)),
    }
}

/// The median; zero of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
