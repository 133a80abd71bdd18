//! Logs go to standard error; results to standard output.

use crate::exit::{Error, Result};
use std::io::{self, IsTerminal as _};
use tracing_subscriber::{EnvFilter, fmt};

const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// Turns logging on for the rest of the process.
pub fn start(level: &str, json: bool) -> Result {
    let filter = filter(level)?;
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(!json && io::stderr().is_terminal());
    let started = if json {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .try_init()
    } else {
        builder.try_init()
    };
    started.map_err(|error| Error::usage(error).context("cannot start logging"))
}

/// The filter that `--log-level` describes. Stricter than `EnvFilter`, to which `infoo` is the name
/// of a target.
fn filter(text: &str) -> Result<EnvFilter> {
    for part in text.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if !LEVELS.contains(&level.trim()) {
            return Err(Error::usage(format!(
                "--log-level: \"{}\" is no level",
                level.escape_debug()
            ))
            .remedy(format!(
                "one of {}, or info,gannet_cache=debug",
                LEVELS.join(", ")
            )));
        }
    }
    EnvFilter::try_new(text).map_err(|error| Error::usage(format!("--log-level: {error}")))
}

/// Says whether `--log-level` can be understood.
pub fn check(level: &str) -> Result {
    filter(level).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        let check = |text: &str, good: bool| assert_eq!(filter(text).is_ok(), good, "{text}");
        check("info", true);
        check("info,gannet_cache=debug", true);
        check("gannet_cache::edge=trace", true);
        check("off", true);
        check("infoo", false);
        check("info,gannet_cache", false);
        check("gannet_cache=loud", false);
        check("", false);
    }
}
