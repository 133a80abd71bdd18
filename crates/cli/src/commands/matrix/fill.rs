//! `gannet matrix fill`: brings back what a room is missing, as lines of JSON that were verified.
//!
//! The lines grow in `FILE.part`, which becomes `FILE` at the end. A fill that was broken off begins anew, but
//! takes from the store whatever came before: without requests, and the file is whole again.

use super::{flags::Flags, parse, setup, setup::Service, show};
use crate::{
    exit::{Error, Exit, Result, broken_pipe},
    output::{line, note},
    signals::Signals,
};
use clap::Args;
use gannet_matrix::{
    Checks, Op,
    fill::{Ask, Ended, Fill, Filled, Goal, Limits, News, Recovered},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ruma_common::{OwnedEventId, RoomVersionId};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use std::{
    fs::{self, File},
    io::{self, BufWriter, IsTerminal as _, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// What `gannet matrix fill` takes.
#[derive(Debug, Args)]
pub(super) struct FillArgs {
    /// The events to go back from, in quotes; they are fetched too.
    #[arg(long, required = true, num_args = 1.., value_name = "ID", value_parser = parse::event)]
    from: Vec<OwnedEventId>,
    /// Events that are there already, and beyond which nothing is fetched.
    #[arg(long, num_args = 1.., value_name = "ID", value_parser = parse::event)]
    to: Vec<OwnedEventId>,
    /// Stop when so many events of the timeline were found [default: at what is held, or at the
    /// beginning of the room].
    #[arg(long, value_name = "N", conflicts_with = "since")]
    events: Option<u64>,
    /// Stop at events that were made before this time, as in 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse::moment)]
    since: Option<u64>,
    /// Write the events to this file [default: to standard output].
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Leave out the events that entitle others.
    #[arg(long)]
    no_auth: bool,
    /// The most requests.
    #[arg(long, value_name = "N", default_value_t = Limits::default().requests_max, value_parser = clap::value_parser!(u32).range(1..))]
    requests_max: u32,
    /// Requests under way at a time.
    #[arg(long, value_name = "N", default_value_t = Limits::default().lanes, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
}

impl FillArgs {
    fn goal(&self) -> Goal {
        match (self.events, self.since) {
            (Some(events), _) => Goal::Events(events),
            (None, Some(since)) => Goal::Since(since),
            (None, None) => Goal::Gap,
        }
    }
}

/// A line of the result.
#[derive(Serialize)]
struct Line<'a> {
    event_id: &'a str,
    proof: &'static str,
    server: Option<&'a str>,
    timeline: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_version: Option<&'a str>,
    pdu: &'a RawValue,
}

/// Fills, and tells how it went.
pub(super) async fn run(flags: &Flags, args: &FillArgs) -> Result {
    let room = flags.room()?;
    let mut out = Out::open(args.out.as_deref())?;
    let service = Service::start(flags).await?;
    let mut signals = Signals::new()?;
    // What is redacted counts, unless it is said that it does not.
    let checks = flags.checks(Checks::REDACTED_TOO);
    let limits = Limits {
        requests_max: args.requests_max,
        lanes: args.jobs,
        auth: !args.no_auth,
        ..Limits::default()
    };
    let fill = Fill {
        room,
        from: args.from.clone(),
        to: args.to.clone(),
        goal: args.goal(),
        limits,
        opts: flags.opts(Op::Backfill).checks(checks),
    };
    let began = Instant::now();
    let mut progress = Progress::new(flags.quiet || flags.json, args.events);
    let (broke, broken) = oneshot::channel();
    let mut broke = Some(broke);
    let tell = |news: News<'_>| match news {
        News::Recovered(recovered) => match out.put(&recovered) {
            Ok(()) => progress.found(recovered.timeline),
            Err(error) => drop(broke.take().map(|broke| broke.send(error))),
        },
        News::Answered {
            ask,
            attempts,
            found,
            took,
        } => progress.say(&|| {
            let by = attempts.last();
            let by = by.map_or("the store", |attempt| attempt.server.as_str());
            let ms = took.as_millis();
            format!(
                "{}: {found} new in {ms} ms, {}",
                asked(ask),
                show::plain(by)
            )
        }),
        News::Failed { ask, error } => {
            progress.say(&|| format!("{}: {}", asked(ask), show::plain(&error.to_string())));
        }
        _ => {}
    };
    let ended = tokio::select! {
        filled = service.matrix.fill(fill, tell) => filled.map_err(Error::usage),
        Ok(error) = broken => Err(unwritten(error)),
        () = signals.next() => Err(Error::new(Exit::Interrupted, "interrupted")),
    };
    drop(progress);
    service.end().await;
    match ended {
        Ok(filled) => {
            let published = out.publish()?;
            report(flags, &filled, published, began.elapsed())
        }
        Err(error) => {
            out.flush();
            Err(match (error.exit(), &flags.store) {
                (Exit::Interrupted, Some(_)) => {
                    error.remedy("the same command again: what came so far is in the store")
                }
                (Exit::Interrupted, None) => {
                    error.remedy("--store DIR, so that the next one goes on where this one stopped")
                }
                _ => error,
            })
        }
    }
}

fn asked(ask: &Ask) -> String {
    match ask {
        Ask::Missing { latest, limit, .. } => {
            format!("up to {limit} missing events before {}", latest.len())
        }
        Ask::Backfill { from, limit } => format!("up to {limit} events back from {}", from.len()),
        Ask::AuthChain(event) => format!("auth chain of {}", show::plain(event.as_str())),
        Ask::Event(event) => format!("event {}", show::plain(event.as_str())),
    }
}

fn report(flags: &Flags, filled: &Filled, file: Option<&Path>, took: Duration) -> Result {
    let ended = match filled.ended {
        Ended::Goal => "goal",
        Ended::RequestsMax => "requests_max",
        Ended::EventsMax => "events_max",
        Ended::NobodyHasMore => "nobody_has_more",
    };
    if flags.json {
        line(
            &json!({
                "v": 1,
                "event": "end",
                "ended": ended,
                "file": file.map(|file| file.to_string_lossy()),
                "room_version": filled.version.as_ref().map(RoomVersionId::as_str),
                "timeline": filled.timeline,
                "fetched": filled.fetched,
                "held": filled.held,
                "requests": filled.requests,
                "attempts": filled.attempts,
                "by_server": filled.by_server,
                "missing": filled.missing,
                "bad": show::bad_json(&filled.bad),
                "seconds": took.as_secs_f64(),
            })
            .to_string(),
        )?;
    } else if !flags.quiet {
        tell(filled, file, took);
    }
    match filled.ended {
        Ended::Goal => Ok(()),
        Ended::NobodyHasMore => Err(Error::new(
            Exit::NotFound,
            format!("nobody has {} of the events", filled.missing.len()),
        )
        .remedy("--via with other servers of the room; --to with events that are there already")),
        Ended::RequestsMax => Err(Error::new(Exit::Failure, "stopped at the most requests")
            .remedy("a larger --requests-max; with --store the next one goes on from here")),
        Ended::EventsMax => Err(Error::new(Exit::Failure, "stopped at the most events")
            .remedy("--to with the last events that were found")),
    }
}

fn tell(filled: &Filled, file: Option<&Path>, took: Duration) {
    for (server, events) in &filled.by_server {
        note(&format!(
            "{}: {events} events",
            show::plain(server.as_str())
        ));
    }
    for bad in &filled.bad {
        note(&show::bad_line(bad));
    }
    for id in filled.missing.iter().take(20) {
        note(&format!("nobody has {}", show::plain(id.as_str())));
    }
    if let Some(version) = &filled.version {
        note(&format!("room version {}", show::plain(version.as_str())));
    }
    let to = file.map_or_else(String::new, |file| format!(", in {}", file.display()));
    note(&format!(
        "{} events fetched, {} of the timeline, {} from the store; {} requests to servers in {:.1} s{to}",
        filled.fetched,
        filled.timeline,
        filled.held,
        filled.attempts,
        took.as_secs_f64(),
    ));
}

/// Where the lines go.
struct Out {
    lines: BufWriter<Box<dyn Write + Send>>,
    /// What becomes what.
    file: Option<(File, PathBuf, PathBuf)>,
}

impl Out {
    fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self {
                lines: BufWriter::new(Box::new(io::stdout())),
                file: None,
            });
        };
        let part = setup::part_of(path);
        let context = |error: io::Error| {
            Error::from(error).context(format!("cannot write {}", part.display()))
        };
        let file = File::create(&part).map_err(context)?;
        let other = file.try_clone().map_err(context)?;
        Ok(Self {
            lines: BufWriter::new(Box::new(other)),
            file: Some((file, part.clone(), path.to_owned())),
        })
    }

    fn put(&mut self, recovered: &Recovered) -> io::Result<()> {
        let text = String::from_utf8_lossy(&recovered.raw);
        let pdu = RawValue::from_string(show::in_one_line(&text).into_owned())?;
        let line = Line {
            event_id: recovered.event_id.as_str(),
            proof: recovered.proof.name(),
            server: recovered.server.as_ref().map(|server| server.as_str()),
            timeline: recovered.timeline,
            room_version: recovered.version.as_ref().map(RoomVersionId::as_str),
            pdu: &pdu,
        };
        serde_json::to_writer(&mut self.lines, &line)?;
        self.lines.write_all(b"\n")
    }

    /// What came so far stays where it is.
    fn flush(&mut self) {
        let _ = self.lines.flush();
    }

    /// The file takes its name once all of it is on the medium.
    fn publish(&mut self) -> Result<Option<&Path>> {
        self.lines.flush().map_err(unwritten)?;
        let Some((file, part, path)) = &self.file else {
            return Ok(None);
        };
        let published = file.sync_all().and_then(|()| fs::rename(part, path));
        published.map_err(|error| {
            Error::from(error).context(format!(
                "cannot make {} of {}",
                path.display(),
                part.display()
            ))
        })?;
        Ok(Some(path))
    }
}

fn unwritten(error: io::Error) -> Error {
    match broken_pipe(&error) {
        true => Error::told(Exit::Success),
        false => Error::from(error).context("cannot write the events"),
    }
}

/// How far a fill is: a bar on a terminal, a line a request elsewhere.
struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
    timeline: u64,
}

impl Progress {
    fn new(quiet: bool, goal: Option<u64>) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(goal, ProgressDrawTarget::stderr());
            let template = match goal {
                Some(_) => "{wide_bar} {pos}/{len} events {per_sec} {eta}",
                None => "{spinner} {pos} events {per_sec} {elapsed}",
            };
            let style = ProgressStyle::with_template(template);
            bar.set_style(style.expect("the templates above are well-formed"));
            bar
        });
        Self {
            quiet,
            bar,
            timeline: 0,
        }
    }

    fn found(&mut self, timeline: bool) {
        self.timeline += u64::from(timeline);
        if let Some(bar) = &self.bar {
            bar.set_position(self.timeline);
        }
    }

    fn say(&self, text: &dyn Fn() -> String) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| note(&text())),
            None => note(&text()),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
