//! TLS as clients of homeservers speak it, and its failures in words.

use super::config::{BadConfig, Roots};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, crypto::ring};
use std::{io, sync::Arc};

/// A configuration that trusts these authorities. TLS 1.2 and 1.3; HTTP/1.1.
pub(crate) fn client(roots: &Roots) -> Result<Arc<ClientConfig>, BadConfig> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::debug!(%error, "a system root could not be read");
            }
            store.add_parsable_certificates(found.certs);
        }
        Roots::Only(roots) => {
            for root in roots {
                store
                    .add(root.clone())
                    .map_err(|error| BadConfig(format!("not a certificate authority: {error}")))?;
            }
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| BadConfig(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What a failed handshake means, and what one can do.
pub(crate) fn explain(error: &io::Error, name: &str) -> String {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(certificate)) => match certificate {
            // An authority that is called like one that is trusted is another.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is of no authority that is trusted: \
                 if it is of a private one, name that with --ca"
                    .to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate is not for {name}: its operator has to fix that")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired: its operator has to renew it".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet: look at both clocks".to_owned()
            }
            other => format!("its certificate is of no use: {other:?}"),
        },
        Some(Error::NoCertificatesPresented) => "it shows no certificate".to_owned(),
        Some(other) => format!("TLS: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection in the TLS handshake: it may not speak TLS there".to_owned()
        }
        None => format!("TLS handshake: {error}"),
    }
}
