//! `gannet config`: the effective settings and who set each.

use crate::{
    exit::Result,
    output,
    settings::{Settings, show_json, show_toml},
};

/// Prints the settings; the output without `--json` is itself a configuration file.
pub fn run(settings: &Settings, json: bool) -> Result {
    output::line(
        if json {
            show_json(settings)
        } else {
            show_toml(settings)
        }
        .trim_end(),
    )?;
    // After printing: whoever looks for the mistake wants to see who set what.
    settings.check()
}
