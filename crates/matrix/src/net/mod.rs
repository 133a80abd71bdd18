//! How a homeserver is found, reached and asked, and whose keys are whose.
//!
//! [`Discovery`] finds the addresses of a server by its name; an [`AddressPolicy`] says which of them may be
//! connected to at all.

mod body;
mod config;
mod dial;
mod discovery;
mod dns;
mod flights;
mod lru;
mod overrides;
mod policy;
mod tls;

pub use body::{BodyError, ReadBounds, read_bounded};
pub use config::{BadConfig, NetConfig, Roots};
pub use dial::{ConnectError, DialError};
#[doc(hidden)]
pub use discovery::fuzz as fuzz_well_known;
pub use discovery::{Discovery, ResolveError, ResolveErrorKind, Resolved, Rule, Step};
pub use overrides::{BadOverride, Override, Overrides};
pub use policy::{AddressPolicy, BadCidr, Cidr, RefusedAddress};

/// How we call ourselves.
pub(crate) const USER_AGENT_VALUE: &str = concat!("gannet/", env!("CARGO_PKG_VERSION"));
