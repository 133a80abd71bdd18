//! How a member of a cluster finds the others: a list that is given ([`Discovery::Fixed`]), a name
//! that is looked up again and again ([`Discovery::Dns`]), or members that tell each other
//! (`Discovery::Gossip`, with the feature `gossip`).
//!
//! [`watch`] looks until it is dropped, and tells what each look has found: members, or nothing where
//! it failed. What that means for who fetches what is for a [`View`](gannet_cluster::View) to say,
//! which holds on to the last good look for a while.
//!
//! - **All agree.** A member's identity is text. What comes from DNS and gossip is an address written as
//!   [`SocketAddr`] prints it, an IPv4 address inside IPv6 as IPv4; nothing is resolved in a list that is given.
//! - **Bounded.** A look takes less than the time between two, and brings 4,096 members at most, on
//!   every member the same ones.
//! - **Not trusted.** A name service or a stranger that lies about members makes attempts fail, and some
//!   data be fetched twice. Who is a member indeed is for the link between members to prove.

mod dns;
mod fixed;
mod found;
#[cfg(feature = "gossip")]
mod gossip;
mod looks;

pub use self::{
    dns::{BadName, DnsName},
    fixed::BadPeers,
};

use gannet_cluster::Member;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinHandle};

/// How a member finds the others.
#[derive(Clone)]
#[non_exhaustive]
pub enum Discovery {
    /// They are given, once and for all; [`Discovery::parse_peers`] reads them.
    Fixed(Vec<Member>),
    /// They are looked up. All the addresses of a name that are of the family asked for, or what SRV
    /// records name where the name begins with `_`: those bring ports and weights of their own.
    ///
    /// A name has to give each member one address of that family: one that has two counts twice.
    Dns {
        /// What is looked up, every time: neither its TTL nor any cache counts, for the name of a
        /// service that members come and go from changes sooner than caches forget.
        name: DnsName,
        /// Whom to ask; the system's name servers, and its search domains, if `None`.
        server: Option<SocketAddr>,
        /// From one look to the next, at most; usually 5 s, a day at most.
        every: Duration,
        /// Where members listen, unless SRV records say so.
        port: u16,
        /// Which addresses count. [`Family::of`] the one by which this member is known: where names
        /// have both, each member is then found once, and this one as itself.
        family: Family,
    },
    /// They tell each other, over UDP, at once when that changes and every few seconds besides. While no
    /// other is heard of though there are seeds beside itself, looks fail.
    ///
    /// For up to a thousand members with a key, a hundred without: a message names them all.
    #[cfg(feature = "gossip")]
    Gossip {
        /// Where to listen.
        listen: SocketAddr,
        /// Where others reach that.
        advertise: SocketAddr,
        /// Whom to talk to first: `ip:port`, or `host:port`, which is resolved again every minute.
        seeds: Vec<String>,
        /// What the others are told.
        me: Member,
        /// Members of another cluster are not listened to.
        cluster: String,
        /// Who has it not is not heard. Without one, anybody who reaches the port can name members that are
        /// none, and make this one forget all others for a while. The link between members proves who is
        /// one in any case: so that costs attempts that fail, and data that is fetched twice, no more.
        key: Option<[u8; 32]>,
    },
}

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// All.
    #[default]
    Any,
    /// IPv4: A records.
    V4,
    /// IPv6: AAAA records.
    V6,
}

impl Family {
    /// That of a member's address; [`Any`](Self::Any), if it is a name.
    pub fn of(member: &Member) -> Self {
        match member.address().parse::<SocketAddr>() {
            Ok(SocketAddr::V4(_)) => Self::V4,
            Ok(SocketAddr::V6(_)) => Self::V6,
            Err(_) => Self::Any,
        }
    }

    pub(crate) fn has(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }
}

/// The bytes of a key are not for logs.
impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(members) => f.debug_tuple("Fixed").field(members).finish(),
            Self::Dns {
                name,
                server,
                every,
                port,
                family,
            } => f
                .debug_struct("Dns")
                .field("name", name)
                .field("server", server)
                .field("every", every)
                .field("port", port)
                .field("family", family)
                .finish(),
            #[cfg(feature = "gossip")]
            Self::Gossip {
                listen,
                advertise,
                seeds,
                me,
                cluster,
                key,
            } => f
                .debug_struct("Gossip")
                .field("listen", listen)
                .field("advertise", advertise)
                .field("seeds", seeds)
                .field("me", me)
                .field("cluster", cluster)
                .field("sealed", &key.is_some())
                .finish(),
        }
    }
}

impl Discovery {
    /// Reads a list of members: addresses, `ip:port` or `host:port`, between commas, each with a weight
    /// behind a `*` unless that is 1, as in `10.0.0.1:9001,10.0.0.2:9001*2`.
    ///
    /// Names are not resolved, here or later: the text is the identity of the member, and all members
    /// have to be given the same. Addresses are written as [`SocketAddr`] prints them.
    pub fn parse_peers(text: &str) -> Result<Vec<Member>, BadPeers> {
        fixed::parse(text)
    }
}

/// Why members cannot be watched. A look that fails is no such error: it is told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// The system does not say which name servers to ask: name one.
    #[error("the system's name servers (/etc/resolv.conf): {0}")]
    System(String),
    /// The time between two looks is too short to look in.
    #[error("a look every {0:?} is too often: 100 ms is the least")]
    TooOften(Duration),
    /// Gossip cannot listen there: free the address, or name another.
    #[error("gossip on {listen}: {reason}")]
    Listen {
        /// Where it was to listen.
        listen: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// Where others are told to reach gossip is nowhere: name the address by which they reach this member.
    #[error("gossip cannot be reached at {0}")]
    Unreachable(SocketAddr),
    /// A seed is no address.
    #[error("a seed of gossip: {0}")]
    Seed(BadPeers),
    /// What the others would be told of this member is not what they would read: its address has to be
    /// one as [`Discovery::parse_peers`] writes it.
    #[error(
        "gossip cannot tell of {0:?}: no address of a member, or not in the one way to write it"
    )]
    Me(Member),
}

/// Looks, until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the looks"]
pub struct Watching {
    task: JoinHandle<()>,
    leave: Option<oneshot::Sender<()>>,
    #[cfg(feature = "gossip")]
    gossip: Option<std::sync::Arc<gossip::Shared>>,
}

impl Watching {
    fn new(task: JoinHandle<()>) -> Self {
        Self {
            task,
            leave: None,
            #[cfg(feature = "gossip")]
            gossip: None,
        }
    }

    /// Datagrams of gossip that were not listened to: not sealed with the key, or nonsense.
    pub fn dropped(&self) -> u64 {
        #[cfg(feature = "gossip")]
        if let Some(gossip) = &self.gossip {
            return gossip.dropped();
        }
        0
    }

    /// Ends the looks, and takes leave of the others where there is a way to: they need not find out
    /// that this member is gone. Takes a second at most.
    pub async fn leave(mut self) {
        if let Some(leave) = self.leave.take()
            && leave.send(()).is_ok()
        {
            // It ends in any case: what counts is that it had the time.
            let _ = tokio::time::timeout(LEAVE_TIME_MAX, &mut self.task).await;
        }
    }
}

/// For a last word to some others.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(1);

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Looks at the members at once and then again and again, and tells what each look has found: `None`
/// where it failed. Members come in order, each address once.
///
/// Returns as soon as looking has begun. Whoever is told should not block: looks wait for it.
pub async fn watch(
    discovery: Discovery,
    mut tell: impl FnMut(Option<Vec<Member>>) + Send + 'static,
) -> Result<Watching, MembersError> {
    match discovery {
        Discovery::Fixed(members) => {
            tell(Some(found::in_order(members)));
            Ok(Watching::new(tokio::spawn(async {})))
        }
        Discovery::Dns {
            name,
            server,
            every,
            port,
            family,
        } => {
            let looks = looks::Looks::new(every)?;
            let looker = dns::Looker::new(name, server, looks, port, family)?;
            let task = looks.run(move || looker.clone().look(), tell);
            Ok(Watching::new(tokio::spawn(task)))
        }
        #[cfg(feature = "gossip")]
        Discovery::Gossip {
            listen,
            advertise,
            seeds,
            me,
            cluster,
            key,
        } => {
            let config = gossip::Config {
                listen,
                advertise,
                seeds,
                me,
                cluster,
                key,
            };
            gossip::watch(config, tell).await
        }
    }
}
