//! TLS between members: both sides show a certificate; both must come from the cluster's CA and name a
//! member. TLS 1.3 and HTTP/2 only. Sessions are not resumed, for a resumed one would be taken without
//! looking at its certificate again; connections between members last, so that this costs little.

use crate::{LinkError, files, pattern::Pattern};
use arc_swap::ArcSwap;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use webpki::EndEntityCert;

/// What both sides must choose by ALPN.
pub(crate) const ALPN: &[u8] = b"h2";

/// Where the certificates are, and what members are called in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CA, PEM: one certificate, or several while one takes over from another. No others are
    /// trusted.
    pub ca: PathBuf,
    /// This member's certificate chain, PEM, its own first. It must be good for clients and servers
    /// alike (both extended key usages, or none).
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// What a member's certificate must have among its alternative names: a DNS name; or `*.suffix`,
    /// for exactly one label and the suffix; or a URI; or a URI with `/*` at its end, for exactly one
    /// more segment. Addresses are not compared with names: members are reached by address.
    pub san: String,
}

/// A member's certificate, and how it knows those of others.
#[derive(Debug)]
pub struct TlsIdentity {
    files: TlsFiles,
    pattern: Pattern,
    current: ArcSwap<Current>,
    seen: Mutex<blake3::Hash>,
}

/// What was made of the files.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    /// Counts how often the files changed: a connection of an earlier epoch is ended when it can be.
    pub(crate) epoch: u64,
}

/// What the files hold.
struct Contents {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl TlsIdentity {
    /// Reads the files, and sees to it that other members would accept the certificate.
    ///
    /// # Errors
    /// [`LinkError::Config`] if a file cannot be read or is not what it should be, if they do not fit
    /// together, or if the pattern is none.
    pub fn open(files: TlsFiles) -> Result<Self, LinkError> {
        let pattern = Pattern::parse(&files.san)?;
        let contents = Contents::read(&files)?;
        let seen = Mutex::new(contents.hash());
        let current = ArcSwap::from_pointee(load(&files, &contents, &pattern, 0)?);
        Ok(Self {
            files,
            pattern,
            current,
            seen,
        })
    }

    /// See [`crate::Credentials::refresh`].
    pub(crate) fn refresh(&self) -> Result<bool, LinkError> {
        let contents = Contents::read(&self.files)?;
        let hash = contents.hash();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == hash {
            return Ok(false);
        }
        // Said once for each change, not at each look.
        *seen = hash;
        let epoch = self.current.load().epoch + 1;
        let current = load(&self.files, &contents, &self.pattern, epoch)?;
        self.current.store(Arc::new(current));
        Ok(true)
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// The name by which a certificate that was verified is a member's.
    pub(crate) fn name_of(&self, certificate: &CertificateDer<'_>) -> Option<String> {
        name(&self.pattern, certificate)
    }
}

impl Contents {
    fn read(from: &TlsFiles) -> Result<Self, LinkError> {
        Ok(Self {
            ca: files::read(&from.ca, "the cluster's CA")?,
            cert: files::read(&from.cert, "the member's certificate")?,
            key: files::read(&from.key, "the member's key")?,
        })
    }

    fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for content in [&self.ca, &self.cert, &self.key] {
            hasher.update(blake3::hash(content).as_bytes());
        }
        hasher.finalize()
    }
}

fn load(
    files: &TlsFiles,
    contents: &Contents,
    pattern: &Pattern,
    epoch: u64,
) -> Result<Current, LinkError> {
    let provider = Arc::new(ring::default_provider());
    let tls = |error: Error| LinkError::Config(format!("the cluster's TLS files: {error}"));
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&contents.ca, &files.ca)? {
        roots.add(certificate).map_err(|error| {
            let path = files.ca.display();
            LinkError::Config(format!("{path} holds what is no CA: {error}"))
        })?;
    }
    let verifier = Arc::new(Members::new(Arc::new(roots), pattern.clone(), &provider)?);
    let chain = certificates(&contents.cert, &files.cert)?;
    verifier
        .accept_both(&chain)
        .map_err(|(usage, error)| {
            LinkError::Config(format!(
                "other members would not accept the certificate in {} as a {usage}'s: {error}; issue one \
                 from the CA in {}, with a name that matches `{}`, for both server and client authentication",
                files.cert.display(),
                files.ca.display(),
                pattern.text(),
            ))
        })?;
    let key = || {
        PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| {
            LinkError::Config(format!(
                "there is no private key in {}: {error}",
                files.key.display()
            ))
        })
    };
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier.clone())
        .with_single_cert(chain.clone(), key()?)
        .map_err(tls)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key()?)
        .map_err(tls)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    Ok(Current {
        server: Arc::new(server),
        client: Arc::new(client),
        epoch,
    })
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, LinkError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| LinkError::Config(format!("{} is not PEM: {error}", path.display())))?;
    if chain.is_empty() {
        return Err(LinkError::Config(format!(
            "there is no certificate in {}",
            path.display()
        )));
    }
    Ok(chain)
}

fn name(pattern: &Pattern, certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    pattern
        .first(parsed.valid_dns_names(), parsed.valid_uri_names())
        .map(str::to_owned)
}

/// Who is a member: whose certificate comes from the CA, is valid now, is meant for the side that it
/// is on, and has a name of the pattern.
#[derive(Debug)]
struct Members {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    pattern: Pattern,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Members {
    fn new(
        roots: Arc<RootCertStore>,
        pattern: Pattern,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, LinkError> {
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| LinkError::Config(format!("the cluster's CA: {error}")))?;
        Ok(Self {
            roots,
            clients,
            pattern,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// Whether we would be accepted by one like us.
    fn accept_both(&self, chain: &[CertificateDer<'static>]) -> Result<(), (&'static str, Error)> {
        let (leaf, intermediates) = chain.split_first().expect("the chain is not empty");
        let now = UnixTime::now();
        self.server(leaf, intermediates, now)
            .map_err(|error| ("server", error))?;
        self.client(leaf, intermediates, now)
            .map_err(|error| ("client", error))
    }

    fn server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        self.named(leaf)
    }

    fn client(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.clients.verify_client_cert(leaf, intermediates, now)?;
        self.named(leaf)
    }

    fn named(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if name(&self.pattern, leaf).is_some() {
            return Ok(());
        }
        let foreign = Foreign(self.pattern.text().to_owned());
        Err(CertificateError::Other(OtherError(Arc::new(foreign))).into())
    }
}

/// A certificate of our CA's that is not a member's.
#[derive(Debug)]
struct Foreign(String);

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "none of the certificate's names matches `{}`", self.0)
    }
}

impl std::error::Error for Foreign {}

impl ServerCertVerifier for Members {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.server(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("members speak TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Members {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.client(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("members speak TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
