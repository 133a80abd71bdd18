//! [`NetConfig`]: bounds of all that goes over the network.

use super::{AddressPolicy, Overrides};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{net::SocketAddr, time::Duration};

/// How servers are found and reached.
///
/// ```
/// use gannet_matrix::net::{AddressPolicy, NetConfig};
///
/// let mut config = NetConfig::default();
/// config.policy = AddressPolicy::allowing(["127.0.0.0/8".parse()?]);
/// config.name_server = Some("127.0.0.1:53".parse()?);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NetConfig {
    /// Which addresses may be connected to \[the public Internet's\].
    pub policy: AddressPolicy,
    /// Addresses that are given rather than looked up \[none\].
    pub overrides: Overrides,
    /// The name server to ask \[those of the system, after its hosts file\]. Where one is given the hosts
    /// file is not looked at.
    pub name_server: Option<SocketAddr>,
    /// Which certificate authorities are trusted \[the system's\].
    pub roots: Roots,
    /// The port of well-knowns \[443\]; for tests.
    pub well_known_port: u16,
    /// For all of a well-known: names, connections, redirects, the body \[5 s\]. Many hosts have none and
    /// are silent at its port.
    pub well_known_timeout: Duration,
    /// What a well-known is kept for at least \[5 min\].
    pub well_known_min: Duration,
    /// What a well-known is kept for at most \[48 h\].
    pub well_known_max: Duration,
    /// What a well-known is kept for that says nothing about it \[24 h\].
    pub well_known_default: Duration,
    /// The pause after a well-known could not be had or was of no use \[1 min\]; it doubles with each
    /// further time.
    pub error_first: Duration,
    /// The longest such pause \[1 h\].
    pub error_max: Duration,
    /// What addresses and SRV records are kept for at least, whatever they say \[1 min\].
    pub records_min: Duration,
    /// What addresses and SRV records are kept for at most \[1 h\].
    pub records_max: Duration,
    /// How long a server that could not be found is not looked for again \[30 s\].
    pub not_found: Duration,
    /// Servers whose addresses are kept, and hosts whose well-knowns are \[8,192 each\].
    pub servers_max: usize,
    /// For one question to a name server, tried twice \[3 s\].
    pub dns_timeout: Duration,
    /// For finding a server, from the first question to the last \[30 s\].
    pub resolve_timeout: Duration,
    /// Addresses of one server that are tried \[8\].
    pub addresses_max: usize,
    /// From one address to the next that is tried beside it, while it has not answered \[250 ms\].
    pub next_address_after: Duration,
    /// For connecting, the TLS handshake included, over all addresses \[10 s\].
    pub connect_timeout: Duration,
    /// From the start of a request on a connection to the end of the answer's head \[60 s\]. Fetches have
    /// plans that are shorter.
    pub head_timeout: Duration,
    /// The largest head of an answer \[64 KiB\].
    pub head_bytes_max: usize,
    /// Idle connections that are kept, in all \[256\].
    pub idle_max: usize,
    /// Idle connections that are kept for one server \[8\].
    pub idle_per_server_max: usize,
    /// How long an idle connection is kept \[30 s\].
    pub idle_timeout: Duration,
    /// How long a connection is used for new requests \[10 min\]: its addresses may have been given to
    /// somebody else.
    pub connection_age_max: Duration,
}

impl Default for NetConfig {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        let seconds = Duration::from_secs;
        Self {
            policy: AddressPolicy::default(),
            overrides: Overrides::new(),
            name_server: None,
            roots: Roots::System,
            well_known_port: 443,
            well_known_timeout: seconds(5),
            well_known_min: seconds(5 * MINUTE),
            well_known_max: seconds(48 * 60 * MINUTE),
            well_known_default: seconds(24 * 60 * MINUTE),
            error_first: seconds(MINUTE),
            error_max: seconds(60 * MINUTE),
            records_min: seconds(MINUTE),
            records_max: seconds(60 * MINUTE),
            not_found: seconds(30),
            servers_max: 8192,
            dns_timeout: seconds(3),
            resolve_timeout: seconds(30),
            addresses_max: 8,
            next_address_after: Duration::from_millis(250),
            connect_timeout: seconds(10),
            head_timeout: seconds(60),
            head_bytes_max: 64 << 10,
            idle_max: 256,
            idle_per_server_max: 8,
            idle_timeout: seconds(30),
            connection_age_max: seconds(10 * MINUTE),
        }
    }
}

/// Which certificate authorities are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// The system's.
    #[default]
    System,
    /// These, in DER, and no others: of a federation of one's own (`--ca FILE`).
    Only(Vec<CertificateDer<'static>>),
}

impl Roots {
    /// The authorities in a PEM text, **in place of** the system's.
    ///
    /// # Errors
    ///
    /// If the text holds no certificate, or a broken one.
    pub fn only_pem(pem: &[u8]) -> Result<Self, BadConfig> {
        let roots = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| {
                BadConfig(format!("the certificate authorities are not PEM: {error}"))
            })?;
        if roots.is_empty() {
            let none = "no certificate among the certificate authorities";
            return Err(BadConfig(none.to_owned()));
        }
        Ok(Self::Only(roots))
    }
}

/// A configuration that nothing can work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(pub(crate) String);
