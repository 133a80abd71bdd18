//! The README's tables say what the code does.

use gannet_kitsune2::{GannetFetchConfig, Monitor};

const README: &str = include_str!("../README.md");

/// Numbers are written with separators, and zero may have a word after it.
fn default_in(row: &str) -> Option<String> {
    let cell = row.split('|').nth(2)?.trim();
    let word = cell.split_whitespace().next()?;
    Some(word.replace(',', ""))
}

#[test]
fn every_setting_is_there_with_its_default() {
    let config = serde_json::to_value(GannetFetchConfig::default()).unwrap();
    for (name, default) in config.as_object().unwrap() {
        let begin = format!("| `{name}` |");
        let row = README.lines().find(|line| line.starts_with(&begin));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        assert_eq!(default_in(row), Some(default.to_string()), "{row}");
    }
}

#[test]
fn every_metric_is_there() {
    let text = Monitor::default().prometheus();
    let names = text.lines().filter_map(|line| {
        let name = line.strip_prefix("# TYPE gannet_kitsune2_")?;
        let name = name.split_whitespace().next()?;
        Some(name.strip_suffix("_total").unwrap_or(name))
    });
    let mut count = 0;
    for name in names {
        assert!(README.contains(&format!("`{name}`")), "{name} is missing");
        count += 1;
    }
    assert!(count > 20);
}
