//! Tables for people, and the file that keeps them.

use std::fmt::Write;

/// Where the tables are kept, those of the other benches too.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../RESULTS.md");

/// A table; the first row is its head.
pub(crate) fn table(title: &str, rows: &[Vec<String>]) -> String {
    let mut text = format!("\n**{title}**\n\n");
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0).max(3)).collect();
    for (index, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "| {cell:<width$} "),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = match column {
                    0 => write!(text, "| {} ", "-".repeat(*width)),
                    _ => write!(text, "| {}: ", "-".repeat(width - 1)),
                };
            }
            text.push_str("|\n");
        }
    }
    text
}

/// Puts the section in the place of its predecessor.
pub(crate) fn keep(name: &str, text: &str, repeats: usize) {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let machine = machine();
    let section = format!(
        "{begin}\n## {name}\n\n{machine} Runs of each: {repeats}, in turns; the median counts.\n\n{text}{end}\n"
    );
    let old = std::fs::read_to_string(RESULTS).unwrap_or_default();
    let new = match (old.find(&begin), old.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            let after = old[to + end.len()..].strip_prefix('\n').unwrap_or_default();
            format!("{}{section}{after}", &old[..from])
        }
        _ => format!("{}\n\n{section}", old.trim_end()),
    };
    if let Err(error) = std::fs::write(RESULTS, new) {
        eprintln!("cannot write {RESULTS}: {error}");
    }
}

/// Cores, processor, kernel, and what else the machine does.
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
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} cores ({model}), Linux {}, load after {load}; kitsune2 0.5.3.",
        kernel.trim()
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
