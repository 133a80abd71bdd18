//! The flags that all of `gannet matrix` shares.

use super::parse;
use crate::{
    exit::{Error, Result},
    units::Span,
};
use clap::Args;
use gannet_matrix::{
    Checks, Fanout, OnBad, Op, Opts,
    net::{Cidr, Override},
};
use ruma_common::{OwnedRoomId, OwnedServerName, RoomVersionId};
use std::{net::SocketAddr, path::PathBuf};

const WHO: &str = "In whose name";
const WHAT: &str = "What about";
const WHOM: &str = "Whom to ask";
const PROOF: &str = "What must be proved";
const KEPT: &str = "What is kept";
const NETWORK: &str = "Network";

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(super) struct Flags {
    /// The name of your homeserver: what comes after the colon of its users' ids.
    #[arg(long, global = true, value_name = "NAME", value_parser = parse::server, help_heading = WHO)]
    pub(super) server_name: Option<OwnedServerName>,
    /// Your homeserver's signing key, in Synapse's format; the first key in it signs.
    #[arg(long, global = true, value_name = "FILE", help_heading = WHO)]
    pub(super) signing_key: Option<PathBuf>,

    /// The room.
    #[arg(long, global = true, value_name = "ID", value_parser = parse::room, help_heading = WHAT)]
    pub(super) room: Option<OwnedRoomId>,
    /// The room's version, on which all checks depend [default: from the store, or proved by the
    /// room's create event, which is asked for].
    #[arg(long, global = true, value_name = "V", value_parser = parse::version, help_heading = WHAT)]
    pub(super) room_version: Option<RoomVersionId>,

    /// Ask these servers, in this order, and no others [default: those in the ids].
    #[arg(long, global = true, value_name = "SERVER,...", value_delimiter = ',', value_parser = parse::server, help_heading = WHOM)]
    pub(super) via: Vec<OwnedServerName>,
    /// Ask this one first: who mentioned the event.
    #[arg(long, global = true, value_name = "SERVER", value_parser = parse::server, help_heading = WHOM)]
    pub(super) hint: Option<OwnedServerName>,
    /// Ask this one next about what authorizes events: the server of who created the room.
    #[arg(long, global = true, value_name = "SERVER", value_parser = parse::server, help_heading = WHOM)]
    pub(super) authority: Option<OwnedServerName>,
    /// Never ask these.
    #[arg(long, global = true, value_name = "SERVER,...", value_delimiter = ',', value_parser = parse::server, help_heading = WHOM)]
    pub(super) deny: Vec<OwnedServerName>,
    /// How many servers are asked at once, round by round: fixed:1, linear:1+1 or geometric:1x2
    /// [default: as advised for what is asked].
    #[arg(long, global = true, value_name = "RAMP", help_heading = WHOM)]
    pub(super) fanout: Option<Fanout>,
    /// How long one answer is waited for in all, such as 30s [default: 2m].
    #[arg(long, global = true, value_name = "TIME", help_heading = WHOM)]
    pub(super) timeout: Option<Span>,

    /// Take no event whose content was cut [default for single events].
    #[arg(long, global = true, conflicts_with = "redacted", help_heading = PROOF)]
    pub(super) whole: bool,
    /// Take what is left of a redacted event too [default where answers hold many].
    #[arg(long, global = true, help_heading = PROOF)]
    pub(super) redacted: bool,
    /// Do not check signatures: what comes is one server's word.
    #[arg(long, global = true, help_heading = PROOF)]
    pub(super) no_signatures: bool,
    /// Refuse an answer in which any event is bad [default: keep the good ones, name the bad].
    #[arg(long, global = true, help_heading = PROOF)]
    pub(super) refuse_bad: bool,

    /// Keep verified events and keys here; what is here is not fetched again.
    #[arg(long = "store", id = "matrix-store", global = true, value_name = "DIR", help_heading = KEPT)]
    pub(super) store: Option<PathBuf>,
    /// Keep the keys of servers here [default: in the store].
    #[arg(long, global = true, value_name = "DIR", help_heading = KEPT)]
    pub(super) keys: Option<PathBuf>,
    /// Fetch anew what is in the store.
    #[arg(long, global = true, help_heading = KEPT)]
    pub(super) fresh: bool,

    /// Trust the certificate authorities in this PEM file, in place of the system's.
    #[arg(long, global = true, value_name = "FILE", help_heading = NETWORK)]
    pub(super) ca: Option<PathBuf>,
    /// Connect to addresses in this block too, such as 10.0.0.0/8 [default: only to those of the
    /// public Internet]; again for others.
    #[arg(long, global = true, value_name = "CIDR", help_heading = NETWORK)]
    pub(super) allow_private: Vec<Cidr>,
    /// Connect to ADDR for this host and port, as curl does; again for others.
    #[arg(long, global = true, value_name = "HOST:PORT:ADDR", help_heading = NETWORK)]
    pub(super) resolve: Vec<Override>,
    /// The name server to ask [default: the system's].
    #[arg(long, global = true, value_name = "ADDR", value_parser = parse::name_server, help_heading = NETWORK)]
    pub(super) name_server: Option<SocketAddr>,
    /// Servers whose word on the keys of others is believed where those do not answer.
    #[arg(long, global = true, value_name = "SERVER,...", value_delimiter = ',', value_parser = parse::server, help_heading = NETWORK)]
    pub(super) notary: Vec<OwnedServerName>,

    /// Print one JSON object with everything.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Say nothing beside the result.
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
}

impl Flags {
    /// The room, which is needed.
    pub(super) fn room(&self) -> Result<OwnedRoomId> {
        self.room.clone().ok_or_else(|| {
            Error::usage("which room?")
                .remedy("--room '!abc:example.org', in quotes, or the shell takes it away")
        })
    }

    /// What must be proved of the events of an op's answer.
    pub(super) fn checks(&self, advised: Checks) -> Checks {
        Checks {
            event_id: true,
            content_hash: self.whole || (advised.content_hash && !self.redacted),
            signatures: !self.no_signatures,
        }
    }

    /// How an op is to be gone about.
    pub(super) fn opts(&self, op: Op) -> Opts {
        let mut opts = Opts::new().checks(self.checks(Checks::advised(op)));
        if self.refuse_bad {
            opts = opts.on_bad(OnBad::Refuse);
        }
        if let Some(hint) = &self.hint {
            opts = opts.hint(hint.clone());
        }
        if let Some(authority) = &self.authority {
            opts = opts.authority(authority.clone());
        }
        if !self.via.is_empty() {
            opts = opts.pool(self.pool(op));
        }
        if !self.deny.is_empty() {
            opts = opts.deny(self.deny.iter().cloned());
        }
        if let Some(version) = &self.room_version {
            opts = opts.version(version.clone());
        }
        if let Some(fanout) = self.fanout {
            opts = opts.fanout(fanout);
        }
        if let Some(timeout) = self.timeout {
            opts = opts.patience(timeout.0);
        }
        if self.fresh {
            opts = opts.fresh();
        }
        opts
    }

    /// Whom to ask, where that is said: a hint, and an authority on its matters, are asked first all
    /// the same.
    fn pool(&self, op: Op) -> Vec<OwnedServerName> {
        let authority = self.authority.iter().filter(|_| op.is_auth());
        let mut pool: Vec<OwnedServerName> = Vec::new();
        for server in self.hint.iter().chain(authority).chain(&self.via) {
            if !pool.contains(server) {
                pool.push(server.clone());
            }
        }
        pool
    }
}
