//! Authenticated HTTP/2 between the members of a cluster.
//!
//! [`serve`] answers members, [`Links`] asks them. Both get [`Credentials`]: certificates of the
//! cluster's own CA ([`TlsIdentity`]), or a secret that all members share ([`Secret`]), or none, and then
//! nothing leaves this machine. Who is no member gets no request handled and no body taken in.
//!
//! | | nothing | secret | certificates |
//! |---|---|---|---|
//! | the asker is a member | from loopback | proved for each request | proved for each connection |
//! | the answerer is a member | on loopback | not proved here: [`Credentials::binding`] | proved |
//! | a request cannot be changed | | proved | yes |
//! | a request counts once | | within a minute, at one member | yes |
//! | nobody else can read it | | no | yes |
//!
//! A member that is frozen or cut off is found out by pings that stay unanswered: streams on its
//! connection end with an error after [`LinksConfig::ping_interval`] and [`LinksConfig::ping_timeout`].
//!
//! Not for: what requests mean, which members there are, retries (but for requests that were surely not
//! processed), checksums of what is sent.

mod connection;
mod counters;
mod credentials;
mod dial;
mod error;
mod files;
mod links;
mod newcomers;
mod pattern;
mod proof;
mod secret;
mod server;
mod stall;
mod tls;

pub use counters::{LinksCounters, ServerCounters};
pub use credentials::{CredentialFiles, Credentials};
pub use error::LinkError;
pub use links::{Links, LinksConfig};
pub use secret::Secret;
pub use server::{Drained, Peer, ServerLimits, serve};
pub use tls::{TlsFiles, TlsIdentity};

/// For the fuzz targets: reads bytes as what a member proves itself with, and as a pattern of names.
///
/// # Panics
/// If something is read for what it is not.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    proof::fuzz(bytes);
    let text = String::from_utf8_lossy(bytes);
    if let Ok(pattern) = pattern::Pattern::parse(&text) {
        assert_eq!(pattern.text(), text);
    }
}
