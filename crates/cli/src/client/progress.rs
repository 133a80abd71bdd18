//! How far a transfer is: a bar on a terminal, plain lines elsewhere, JSON on request.

use crate::{output::note, units::human};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

/// Plain lines come no faster than this.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows one transfer on standard error.
#[derive(Debug)]
pub struct Progress(Show);

#[derive(Debug)]
enum Show {
    Nothing,
    Bar(ProgressBar),
    Lines { total: Option<u64>, last: Instant },
}

impl Progress {
    /// A transfer; `quiet` shows nothing.
    pub fn new(quiet: bool) -> Self {
        Self(if quiet {
            Show::Nothing
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style("{bytes} {binary_bytes_per_sec}"));
            Show::Bar(bar)
        } else {
            Show::Lines {
                total: None,
                last: Instant::now(),
            }
        })
    }

    /// The length is known (or another, after the object changed), and so much is there already.
    pub fn begin(&mut self, total: Option<u64>, have: u64) {
        match &mut self.0 {
            Show::Nothing => {}
            Show::Bar(bar) => {
                if let Some(total) = total {
                    bar.set_length(total);
                    bar.set_style(style(
                        "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
                    ));
                }
                bar.set_position(have);
                bar.reset_eta();
            }
            Show::Lines { total: known, .. } => *known = total,
        }
    }

    /// So much is there by now.
    pub fn at(&mut self, bytes: u64) {
        match &mut self.0 {
            Show::Nothing => {}
            Show::Bar(bar) => bar.set_position(bytes),
            Show::Lines { total, last } => {
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    match total {
                        Some(total) => note(&format!("{} of {}", human(bytes), human(*total))),
                        None => note(&human(bytes)),
                    }
                }
            }
        }
    }

    /// Something that the user should know, without tearing the bar apart.
    pub fn say(&self, text: &str) {
        match &self.0 {
            Show::Nothing => {}
            Show::Bar(bar) => bar.suspend(|| note(text)),
            Show::Lines { .. } => note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Show::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well-formed")
}
