//! TLS for the edge: certificate and key from PEM files that are read again when they change, ALPN for
//! HTTP/2 and HTTP/1.1, and optionally client certificates (mTLS).

use super::auth::store::Stamp;
use arc_swap::ArcSwap;
use rustls::{RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Where the TLS files are.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// The certificate chain, PEM, leaf first.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// If given: clients must present a certificate that one of these (PEM) signed.
    pub client_ca: Option<PathBuf>,
}

/// Why the TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or not the PEM it should be.
    #[error("cannot read {what} from {}: {error}", path.display())]
    Pem {
        /// What was sought.
        what: &'static str,
        /// In which file.
        path: PathBuf,
        /// What happened.
        error: rustls_pki_types::pem::Error,
    },
    /// A file holds no certificate.
    #[error("there is no certificate in {}", .0.display())]
    NoCertificate(PathBuf),
    /// The files do not fit together.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The client CA cannot be used.
    #[error("TLS client CA: {0}")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
}

/// The TLS configuration in force.
#[derive(Debug)]
pub(crate) struct TlsFiles {
    config: TlsConfig,
    current: ArcSwap<ServerConfig>,
    seen: Mutex<Vec<Option<Stamp>>>,
}

impl TlsFiles {
    pub(crate) fn open(config: TlsConfig) -> Result<Self, TlsError> {
        let seen = stamps(&config);
        let current = ArcSwap::new(load(&config)?);
        Ok(Self {
            config,
            current,
            seen: Mutex::new(seen),
        })
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again if one changed: `Ok(true)` if new ones are in force now. Blocks on the
    /// file system. On an error the old ones stay, until the next change.
    pub(crate) fn refresh(&self) -> Result<bool, TlsError> {
        let stamps = stamps(&self.config);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == stamps {
            return Ok(false);
        }
        *seen = stamps;
        self.current.store(load(&self.config)?);
        Ok(true)
    }
}

fn stamps(config: &TlsConfig) -> Vec<Option<Stamp>> {
    [
        Some(&config.cert),
        Some(&config.key),
        config.client_ca.as_ref(),
    ]
    .into_iter()
    .flatten()
    .map(|path| Stamp::of(path).ok())
    .collect()
}

fn load(config: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path, "the client CA")? {
                roots.add(certificate)?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates(&config.cert, "the certificate")?;
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|error| TlsError::Pem {
        what: "the private key",
        path: config.key.clone(),
        error,
    })?;
    let mut server = builder.with_single_cert(chain, key)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    let chain = chain.map_err(|error| TlsError::Pem {
        what,
        path: path.to_owned(),
        error,
    })?;
    if chain.is_empty() {
        Err(TlsError::NoCertificate(path.to_owned()))
    } else {
        Ok(chain)
    }
}
