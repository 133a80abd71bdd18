//! How members prove to each other that they are members.

use crate::{
    LinkError,
    secret::{Keys, Secret},
    tls::{TlsFiles, TlsIdentity},
};
use std::{path::PathBuf, sync::Arc};

/// Which credentials there are, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialFiles {
    /// None.
    None,
    /// The file of a secret that all members share.
    Secret(PathBuf),
    /// Certificates of the cluster's own CA.
    Tls(TlsFiles),
}

/// How members prove to each other that they are members. All members of a cluster need the same kind.
#[derive(Debug)]
pub enum Credentials {
    /// They do not. Only where nobody else can send anything: connections from and to addresses that
    /// are not loopback are refused.
    None,
    /// Each request carries a proof that its sender knows the secret. Nothing is hidden from who can
    /// read the network, and answers are not proved here (see [`Credentials::binding`]).
    Secret(Secret),
    /// Both sides of each connection show a certificate; everything is encrypted.
    Tls(TlsIdentity),
}

impl Credentials {
    /// Reads the files. Blocks on the file system.
    ///
    /// # Errors
    /// [`LinkError::Config`], whose text says what to do.
    pub fn open(files: CredentialFiles) -> Result<Self, LinkError> {
        Ok(match files {
            CredentialFiles::None => Self::None,
            CredentialFiles::Secret(path) => Self::Secret(Secret::open(path)?),
            CredentialFiles::Tls(files) => Self::Tls(TlsIdentity::open(files)?),
        })
    }

    /// Whether it is safe to listen on, and connect to, addresses that others can reach.
    pub fn may_leave_loopback(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Reads the files again: `Ok(true)` if they changed and what they say now is in force. Call it
    /// every few seconds; it blocks on the file system, and reads a few kilobytes.
    ///
    /// New certificates are shown on new connections; kept ones are replaced as they are next used, and
    /// the server lets those who came before finish what they are at. A new secret counts from the next
    /// request on: until all members have it, those that do not agree refuse each other.
    ///
    /// # Errors
    /// If a file cannot be read, or what it says now cannot be used: the old ones stay in force. A
    /// content that cannot be used is reported once, a file that cannot be read each time.
    pub fn refresh(&self) -> Result<bool, LinkError> {
        match self {
            Self::None => Ok(false),
            Self::Secret(secret) => secret.refresh(),
            Self::Tls(identity) => identity.refresh(),
        }
    }

    /// A key that only members know, for checksums of what they send each other: derived from the
    /// secret, zeros without one (TLS protects its records itself). It changes with the secret, so take
    /// it once for each exchange.
    pub fn binding(&self) -> [u8; 32] {
        self.keys().map_or([0; 32], |keys| keys.binding)
    }

    pub(crate) fn keys(&self) -> Option<Arc<Keys>> {
        match self {
            Self::Secret(secret) => Some(secret.keys()),
            Self::None | Self::Tls(_) => None,
        }
    }

    pub(crate) fn tls(&self) -> Option<&TlsIdentity> {
        match self {
            Self::Tls(identity) => Some(identity),
            Self::None | Self::Secret(_) => None,
        }
    }

    /// Grows when connections that were made before should be replaced.
    pub(crate) fn epoch(&self) -> u64 {
        self.tls().map_or(0, |identity| identity.current().epoch)
    }
}
