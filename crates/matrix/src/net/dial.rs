//! From addresses to a connection.
//!
//! The addresses are tried in turn: the next one when one has failed, or has not answered for a while
//! (RFC 8305), and the first that completes the TLS handshake is used. Each is looked at by the
//! [policy](super::AddressPolicy) right before it is connected to.

use super::{AddressPolicy, NetConfig, RefusedAddress, config::BadConfig, tls};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rustls_pki_types::ServerName as CertName;
use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// One that has answered the connection is given so many times longer for its handshake, before the
/// next is tried beside it.
const HANDSHAKE_PATIENCE: u32 = 4;

/// Connects.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: TlsConnector,
    policy: AddressPolicy,
    addresses_max: usize,
    next_after: Duration,
    timeout: Duration,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

/// Why one address could not be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The address is not one that may be connected to.
    #[error(transparent)]
    NotAllowed(#[from] RefusedAddress),
    /// Nobody listens there.
    #[error("nobody listens there")]
    Refused,
    /// There is no way there.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(String),
    /// It did not answer in time.
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
}

/// Why there is no connection to a server, address by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// The addresses that were tried, in the order in which they failed.
    pub tried: Vec<(SocketAddr, DialError)>,
}

impl ConnectError {
    /// The failure that tells most: one of a certificate rather than of an address that leads nowhere.
    pub fn cause(&self) -> Option<&DialError> {
        let weight = |error: &DialError| match error {
            DialError::Tls(_) => 4,
            DialError::Refused => 3,
            DialError::TimedOut(_) => 2,
            DialError::Unreachable(_) => 1,
            DialError::NotAllowed(_) => 0,
        };
        let errors = self.tried.iter().map(|(_, error)| error);
        errors.max_by_key(|error| weight(error))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 3;
        if self.tried.is_empty() {
            return f.write_str("no address to connect to");
        }
        for (n, (addr, error)) in self.tried.iter().take(SHOWN_MAX).enumerate() {
            f.write_str(if n == 0 { "" } else { "; " })?;
            match error {
                DialError::NotAllowed(refused) => write!(f, "{refused}")?,
                error => write!(f, "{addr}: {error}")?,
            }
        }
        match self.tried.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for ConnectError {}

impl Dialer {
    pub(crate) fn new(config: &NetConfig) -> Result<Self, BadConfig> {
        Ok(Self {
            tls: TlsConnector::from(tls::client(&config.roots)?),
            policy: config.policy.clone(),
            addresses_max: config.addresses_max.max(1),
            next_after: config.next_address_after,
            timeout: config.connect_timeout,
        })
    }

    /// Connects to the first of these that completes a handshake as `name`.
    pub(crate) async fn dial(
        &self,
        addrs: &[SocketAddr],
        name: &CertName<'static>,
    ) -> Result<(TlsStream<TcpStream>, SocketAddr), ConnectError> {
        let mut tried = Vec::new();
        let dialing = self.race(addrs, name, &mut tried);
        match time::timeout(self.timeout, dialing).await {
            Ok(Some(connected)) => Ok(connected),
            Ok(None) => Err(ConnectError { tried }),
            Err(_) => {
                let silent = addrs.iter().take(self.addresses_max);
                let silent: Vec<_> = silent
                    .filter(|addr| tried.iter().all(|(other, _)| other != *addr))
                    .map(|addr| (*addr, DialError::TimedOut(self.timeout)))
                    .collect();
                tried.extend(silent);
                Err(ConnectError { tried })
            }
        }
    }

    async fn race(
        &self,
        addrs: &[SocketAddr],
        name: &CertName<'static>,
        tried: &mut Vec<(SocketAddr, DialError)>,
    ) -> Option<(TlsStream<TcpStream>, SocketAddr)> {
        let mut addrs = addrs.iter().copied().take(self.addresses_max);
        let shaking = Arc::new(AtomicUsize::new(0));
        let mut racing = FuturesUnordered::new();
        loop {
            match addrs.next() {
                Some(addr) => racing.push(self.one(addr, name, &shaking)),
                None if racing.is_empty() => return None,
                None => {}
            }
            let more = addrs.len() > 0;
            let patience = async {
                time::sleep(self.next_after).await;
                if shaking.load(Relaxed) > 0 {
                    time::sleep(self.next_after * HANDSHAKE_PATIENCE).await;
                }
            };
            tokio::select! {
                Some((addr, ended)) = racing.next() => match ended {
                    Ok(stream) => return Some((stream, addr)),
                    Err(error) => tried.push((addr, error)),
                },
                () = patience, if more => {}
            }
        }
    }

    /// Connects to one address.
    async fn one(
        &self,
        addr: SocketAddr,
        name: &CertName<'static>,
        shaking: &AtomicUsize,
    ) -> (SocketAddr, Result<TlsStream<TcpStream>, DialError>) {
        let connecting = async {
            self.policy.check(addr.ip())?;
            let tcp = TcpStream::connect(addr)
                .await
                .map_err(|error| match error.kind() {
                    io::ErrorKind::ConnectionRefused => DialError::Refused,
                    _ => DialError::Unreachable(error.to_string()),
                })?;
            let _ = tcp.set_nodelay(true);
            shaking.fetch_add(1, Relaxed);
            let stream = self.tls.connect(name.clone(), tcp).await;
            shaking.fetch_sub(1, Relaxed);
            stream.map_err(|error| DialError::Tls(tls::explain(&error, &name.to_str())))
        };
        (addr, connecting.await)
    }
}
