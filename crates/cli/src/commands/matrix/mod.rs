//! `gannet matrix`: events of the Matrix federation, fetched from whoever has them and verified.
//!
//! Results go to standard output as they came; who answered, who failed and why, and what was proved go to
//! standard error. `--json` prints one object with all of it instead.

mod fill;
mod flags;
mod inspect;
mod ops;
mod parse;
mod serve;
mod setup;
mod show;
mod verify;

use crate::exit::Result;
use clap::{Args, Subcommand};
use flags::Flags;
use gannet_matrix::Key;

/// Examples of all.
pub const EXAMPLES: &str = "\
Requests are signed in the name of your homeserver: --server-name and --signing-key are those of
one that is in the room. Ids are in quotes ('$abc', '!room:example.org'), or the shell takes them
away.

Examples:
  gannet matrix resolve matrix.org
      how a server is found, step by step; needs no key
  gannet matrix keys matrix.org
  gannet matrix event '$abc' --room '!r:there.example' --via there.example,other.example \\
      --server-name my.example --signing-key /etc/matrix-synapse/my.example.signing.key
  gannet matrix fill --from '$newest' --to '$last-one-we-have' --room '!r:there.example' \\
      --via there.example,other.example --store /var/lib/gannet-matrix --out room.jsonl \\
      --server-name my.example --signing-key my.example.signing.key
      what the room is missing, in few requests; broken off, the same command goes on
  gannet matrix verify room.jsonl
      what can be proved of the events in a file, whoever wrote it

What is fetched is proved, event by event: ids, hashes of content, signatures. docs/MATRIX.md says
what to do with it.

Exit codes: 0 success, 1 not found or not valid, 2 usage, 3 failure, 130 interrupted.";

/// Arguments of `gannet matrix`.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch one event.
    #[command(after_help = "\
Example:
  gannet matrix event '$abc' --room '!r:there.example' --via there.example \\
      --server-name my.example --signing-key my.example.signing.key")]
    Event(ops::OneEvent),
    /// Fetch one event that authorizes others: its room's authority is asked early, and more at once.
    AuthEvent(ops::OneEvent),
    /// Fetch all events that authorize an event.
    #[command(after_help = "\
One request brings hundreds of events. It proves the version of the room, too: the create event is
among them.

Example:
  gannet matrix auth-chain '$abc' --room '!r:there.example' --via there.example ...")]
    AuthChain(ops::OneEvent),
    /// Fetch the ids of a room's state before an event, and of what authorizes it.
    #[command(after_help = "\
Ids cannot be proved: that these and no others are the state is one server's word. Fetch what they
name.

Example:
  gannet matrix state-ids '$abc' --room '!r:there.example' --via there.example ...")]
    StateIds(ops::OneEvent),
    /// Fetch events, and those before them.
    #[command(after_help = "\
Example:
  gannet matrix backfill '$newest' --limit 50 --room '!r:there.example' --via there.example ...")]
    Backfill(ops::Backfill),
    /// Fetch what lies between events that are known.
    #[command(after_help = "\
Example:
  gannet matrix missing --latest '$new' --earliest '$old' --room '!r:there.example' \\
      --via there.example ...")]
    Missing(ops::Missing),
    /// Find the event next to a point in time.
    #[command(after_help = "\
Which event it is cannot be proved: it is one server's word. Fetch what it names.

Example:
  gannet matrix at 2026-01-31T12:00:00Z --backward --room '!r:there.example' \\
      --via there.example ...")]
    At(ops::At),
    /// Bring back what a room is missing, as a file of verified events.
    #[command(after_help = "\
Lines are objects: event_id, proof (whole, or redacted: content is missing), server (none: the
store), timeline (false: only entitles others), room_version, pdu (as it came). gannet matrix verify
proves them again. FILE appears when the fill has ended; until then the lines are in FILE.part. With
--store a fill that was broken off goes on where it stopped, by the same command.

Examples:
  gannet matrix fill --from '$newest' --to '$last-one-we-have' --out room.jsonl --store DIR ...
      the gap between two events
  gannet matrix fill --from '$newest' --events 500 --out room.jsonl ...
      the last 500 events, and what entitles them
  gannet matrix fill --from '$newest' --since 2026-01-31T00:00:00Z --out room.jsonl ...")]
    Fill(fill::FillArgs),
    /// Ask a server for its signing keys, and check what it says.
    #[command(after_help = "\
Examples:
  gannet matrix keys matrix.org
  gannet matrix keys gone.example --notary matrix.org")]
    Keys(inspect::OneServer),
    /// Show how a server is found, step by step.
    #[command(after_help = "\
Examples:
  gannet matrix resolve matrix.org
  gannet matrix resolve my.example --allow-private 192.168.0.0/16")]
    Resolve(inspect::OneServer),
    /// Prove events that lie in files.
    #[command(after_help = "\
Says of each event: whole (id, content and signatures are right), redacted (content is missing, the
rest is right), or BAD, and why. Exits with 1 if any is bad. Keys are asked of their servers, unless
--offline.

Examples:
  gannet matrix verify room.jsonl
  gannet matrix verify --room-version 11 --room '!r:there.example' backfill.json pdu.json")]
    Verify(verify::VerifyArgs),
    /// Answer other processes over HTTP on loopback: what they ask for together is fetched once.
    #[command(after_help = "\
Paths: /v1/event, /v1/auth-event, /v1/auth-chain, /v1/state-ids (room, id), /v1/backfill (room,
id..., limit), /v1/missing (room, latest..., earliest..., limit), /v1/at (room, ts, dir=f|b); each
with what the flags say otherwise: room_version, via, hint, authority, deny, fanout, timeout, whole,
redacted, refuse_bad, fresh. Answers are those of --json. /metrics and /healthz need no token.
SIGTERM lets requests finish.

Examples:
  head -c 24 /dev/urandom | base64 > token; chmod 600 token
  gannet matrix serve --token-file token --store DIR --server-name my.example --signing-key FILE
  curl -G -H \"Authorization: Bearer $(cat token)\" http://127.0.0.1:9010/v1/event \\
      --data-urlencode 'room=!r:there.example' --data-urlencode 'id=$abc' -d via=there.example")]
    Serve(serve::ServeArgs),
}

impl MatrixArgs {
    /// Whether this is for many callers, and wants more than one thread.
    pub fn serves(&self) -> bool {
        matches!(self.command, Command::Serve(_))
    }
}

/// Does what the command says.
pub async fn run(args: &MatrixArgs) -> Result {
    let flags = &args.flags;
    match &args.command {
        Command::Event(one) => ops::run(flags, |room| Key::event(room, one.id.clone())).await,
        Command::AuthEvent(one) => {
            ops::run(flags, |room| Key::auth_event(room, one.id.clone())).await
        }
        Command::AuthChain(one) => {
            ops::run(flags, |room| Key::auth_chain(room, one.id.clone())).await
        }
        Command::StateIds(one) => {
            ops::run(flags, |room| Key::state_ids(room, one.id.clone())).await
        }
        Command::Backfill(some) => {
            ops::run(flags, |room| {
                Key::backfill(room, some.ids.iter().cloned(), some.limit)
            })
            .await
        }
        Command::Missing(some) => {
            ops::run(flags, |room| {
                let (earliest, latest) = (some.earliest.clone(), some.latest.clone());
                Key::missing_events(room, earliest, latest, some.limit, some.min_depth)
            })
            .await
        }
        Command::At(at) => {
            ops::run(flags, |room| {
                Key::timestamp_to_event(room, at.time, at.direction())
            })
            .await
        }
        Command::Fill(args) => fill::run(flags, args).await,
        Command::Keys(args) => inspect::keys(flags, args).await,
        Command::Resolve(args) => inspect::resolve(flags, args).await,
        Command::Verify(args) => verify::run(flags, args).await,
        Command::Serve(args) => serve::run(flags, args).await,
    }
}
