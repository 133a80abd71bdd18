//! Who asks, and what they may read.
//!
//! Three kinds of proof: a signature (SigV4 in
//! headers or in a presigned URL, SigV2 in the presigned URL of an object; checked by `s3s`), a bearer
//! token, and a TLS client certificate. Each stands in the auth file ([`rules`]) with what it may
//! read; the file is read anew when it changes ([`store`]).

pub mod rules;
pub mod store;
mod verify;

pub use rules::{Grant, Rules, RulesError};
pub use store::AuthStore;
pub(crate) use verify::{Verifier, expired};

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Who may read.
#[derive(Clone, Debug)]
pub enum Access {
    /// Everybody, everything. Signatures and tokens are not looked at.
    Anonymous,
    /// Who the auth file names.
    File(Arc<AuthStore>),
}

/// Why a listening address was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} can be reached from other machines: name who may read with --auth FILE (or --tls-client-ca), \
     or say --anonymous to let everybody read everything"
)]
pub struct ListenError(SocketAddr);

/// Safe by default: an address that is not loopback needs a way to tell callers apart, or an explicit
/// word that everybody may read.
///
/// # Errors
/// If neither is given.
pub fn check_listen(
    address: SocketAddr,
    authenticated: bool,
    anonymous: bool,
) -> Result<(), ListenError> {
    let ip = match address.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    };
    if ip.is_loopback() || authenticated || anonymous {
        Ok(())
    } else {
        Err(ListenError(address))
    }
}

/// A caller, as far as known.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// What it may read; none: everything (anonymous mode).
    grant: Option<Arc<Grant>>,
    /// Groups requests for fairness.
    pub(crate) owner: u32,
    pub(crate) overrides: Overrides,
}

/// Whether a caller may choose response headers by query (`response-content-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overrides {
    /// The request may be a plain link on somebody's page, which could turn any object into a page
    /// that scripts run in.
    No,
    /// It claims to be a presigned URL, and nobody checks: yes, but what comes of it runs nothing.
    Sandboxed,
    /// It is signed, or carries a header that no link can.
    Yes,
}

impl Identity {
    /// Somebody at this address, in anonymous mode.
    pub(crate) fn anonymous(peer: IpAddr, overrides: Overrides) -> Self {
        Self {
            grant: None,
            owner: owner_of(&peer),
            overrides,
        }
    }

    /// Somebody whom the auth file names.
    pub(crate) fn known(grant: Arc<Grant>) -> Self {
        Self {
            owner: grant.owner,
            grant: Some(grant),
            overrides: Overrides::Yes,
        }
    }

    /// For logs.
    pub(crate) fn name(&self) -> &str {
        self.grant.as_ref().map_or("anonymous", |grant| &grant.name)
    }

    /// Whether this object may be read.
    pub(crate) fn may_read(&self, bucket: &str, key: &str) -> bool {
        self.grant
            .as_ref()
            .is_none_or(|grant| grant.covers_key(bucket, key))
    }

    /// Whether all keys with this prefix may be listed.
    pub(crate) fn may_list(&self, bucket: &str, prefix: &str) -> bool {
        // All keys with a prefix are covered exactly when the prefix, as a key, is.
        self.may_read(bucket, prefix)
    }

    /// Whether anything in the bucket may be read.
    pub(crate) fn may_see(&self, bucket: &str) -> bool {
        self.grant
            .as_ref()
            .is_none_or(|grant| grant.covers_bucket(bucket))
    }
}

/// A number for fairness: equal for equal things, in every process.
pub(crate) fn owner_of(who: &impl Hash) -> u32 {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(who);
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_open_by_default() {
        let check = |address: &str, auth, anonymous, ok| {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(
                check_listen(address, auth, anonymous).is_ok(),
                ok,
                "{address}"
            );
        };
        check("127.0.0.1:9000", false, false, true);
        check("127.9.9.9:9000", false, false, true);
        check("[::1]:9000", false, false, true);
        check("[::ffff:127.0.0.1]:9000", false, false, true);
        for open in [
            "0.0.0.0:9000",
            "[::]:9000",
            "192.168.1.4:80",
            "[::ffff:10.0.0.1]:80",
        ] {
            check(open, false, false, false);
            check(open, true, false, true);
            check(open, false, true, true);
        }
    }
}
