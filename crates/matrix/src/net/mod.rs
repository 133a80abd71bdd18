//! How a homeserver is found, reached and asked, and whose keys are whose.
//!
//! [`Federation`] asks a server: [`Discovery`] finds its addresses by its name, an [`AddressPolicy`] says which
//! of them may be connected to at all, requests are signed, and connections kept. [`FederationError`] says
//! what went wrong, to people and to the engine. A [`KeyRing`] knows whose keys are whose.

mod body;
mod config;
mod dial;
mod discovery;
mod dns;
mod error;
mod federation;
mod flights;
mod keyring;
mod lru;
mod overrides;
mod policy;
mod pool;
mod signer;
mod tls;

pub use body::{BodyError, ReadBounds, read_bounded};
pub use config::{BadConfig, NetConfig, Roots};
pub use dial::{ConnectError, DialError};
#[doc(hidden)]
pub use discovery::fuzz as fuzz_well_known;
pub use discovery::{Discovery, ResolveError, ResolveErrorKind, Resolved, Rule, Step};
pub use error::{ErrorAnswer, FederationError};
pub use federation::{Answer, Federation, Sign, ToSign};
pub use keyring::{KeyRing, KeyRingConfig, KeyRingError, Keys};
pub use overrides::{BadOverride, Override, Overrides};
pub use policy::{AddressPolicy, BadCidr, Cidr, RefusedAddress};
pub use pool::AnswerBody;
pub use signer::Homeserver;

/// How we call ourselves.
pub(crate) const USER_AGENT_VALUE: &str = concat!("gannet/", env!("CARGO_PKG_VERSION"));
