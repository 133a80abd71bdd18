//! Signatures, by way of `s3s`: a request's head goes in, the access key that signed it comes out.
//!
//! `s3s` knows the signature in all its shapes (header and presigned, canonical paths with odd
//! characters, HTTP/2's `:authority`). It is used for exactly that: what a verified caller wants is
//! answered by the edge itself, since `s3s` refuses with 400 what S3 ignores (a malformed `Range`,
//! an unreadable `If-Modified-Since`) and knows no `If-Range`.

use super::{AuthStore, Grant};
use crate::{
    edge::{failure::Failure, target::bucket_of_host},
    origin::BoxFuture,
};
use http::{HeaderMap, Method, Uri, Version};
use s3s::{
    Body, S3, S3Request, S3Response, S3Result,
    auth::{S3Auth, SecretKey},
    host::{S3Host, VirtualHost},
    route::S3Route,
    s3_error,
    service::{S3Service, S3ServiceBuilder},
    validation::NameValidation,
};
use std::{sync::Arc, time::SystemTime};
use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};

/// Checks signatures against the rules in force.
#[derive(Debug)]
pub(crate) struct Verifier {
    service: S3Service,
    store: Arc<AuthStore>,
}

/// The access key that a signature proved.
#[derive(Clone)]
struct Signed(String);

impl Verifier {
    /// Against the rules of this store; `domains` are the names under which buckets are hosts.
    pub(crate) fn new(store: Arc<AuthStore>, domains: Vec<String>) -> Self {
        let mut builder = S3ServiceBuilder::new(NoOperations);
        builder.set_auth(Secrets(store.clone()));
        builder.set_route(Report);
        builder.set_validation(AnyBucket);
        builder.set_host(Hosts(domains));
        Self {
            service: builder.build(),
            store,
        }
    }

    /// Who signed this request.
    ///
    /// # Errors
    /// The S3 error of a signature that is missing, malformed, wrong, too old or of nobody we know.
    pub(crate) async fn verify(
        &self,
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<Arc<Grant>, Failure> {
        let mut request = http::Request::new(Body::empty());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        *request.version_mut() = version;
        *request.headers_mut() = headers.clone();
        // Muted: its logs would hold headers and expected signatures, and an error line for each
        // request that an attacker cares to send.
        let response = self
            .service
            .call(request)
            .with_subscriber(NoSubscriber::default())
            .await
            .map_err(|_| Failure::internal("the signature could not be checked"))?;
        let Some(Signed(id)) = response.extensions().get() else {
            let (parts, body) = response.into_parts();
            return Err(refusal(
                parts.status,
                body.bytes().as_deref().unwrap_or_default(),
            ));
        };
        let rules = self.store.rules();
        let (_, grant) = rules.key(id).ok_or_else(unknown_key)?;
        if grant.expired(SystemTime::now()) {
            return Err(expired());
        }
        Ok(grant.clone())
    }
}

/// 403 for an access key that the auth file does not name.
pub(crate) fn unknown_key() -> Failure {
    Failure::forbidden(
        "InvalidAccessKeyId",
        "The AWS Access Key Id you provided does not exist in our records.",
    )
}

/// 400 for a caller whose entry in the auth file has ended.
pub(crate) fn expired() -> Failure {
    Failure::bad_request("ExpiredToken", "The provided token has expired.")
}

/// What `s3s` refused, in its code and words, with AWS's code where `s3s` has a vaguer one.
fn refusal(status: http::StatusCode, xml: &[u8]) -> Failure {
    let text = |tag: &str| {
        let xml = std::str::from_utf8(xml).ok()?;
        let (_, rest) = xml.split_once(&format!("<{tag}>"))?;
        let (text, _) = rest.split_once(&format!("</{tag}>"))?;
        quick_xml::escape::unescape(text)
            .ok()
            .map(std::borrow::Cow::into_owned)
    };
    let message = text("Message");
    let (code, default): (&'static str, &str) = match text("Code").as_deref() {
        Some("SignatureDoesNotMatch") => (
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. \
             Check your key and signing method.",
        ),
        Some("InvalidAccessKeyId") => return unknown_key(),
        Some("RequestTimeTooSkewed") => (
            "RequestTimeTooSkewed",
            "The difference between the request time and the server's time is too large.",
        ),
        Some("AccessDenied") => ("AccessDenied", "Access Denied"),
        Some("InvalidURI") => ("InvalidURI", "Couldn't parse the specified URI."),
        Some("NotImplemented") => ("NotImplemented", "This signature is not supported."),
        Some(_) if message.as_deref() == Some("invalid header: authorization") => (
            "AuthorizationHeaderMalformed",
            "The authorization header that you provided is not valid.",
        ),
        Some(_)
            if matches!(
                message.as_deref(),
                Some("missing presigned url v4 fields" | "missing presigned url v2 fields")
            ) =>
        {
            (
                "AuthorizationQueryParametersError",
                "The query parameters of a signature are incomplete or malformed.",
            )
        }
        _ => ("InvalidRequest", "The signature could not be read."),
    };
    let message = match message {
        Some(said)
            if !matches!(
                code,
                "AuthorizationHeaderMalformed" | "AuthorizationQueryParametersError"
            ) =>
        {
            said
        }
        _ => default.to_owned(),
    };
    let status = if status.is_client_error() || status == http::StatusCode::NOT_IMPLEMENTED {
        status
    } else {
        http::StatusCode::BAD_REQUEST
    };
    Failure::new(status, code, message)
}

/// The edge answers all operations itself.
struct NoOperations;

impl S3 for NoOperations {}

/// Directories may have any name.
struct AnyBucket;

impl NameValidation for AnyBucket {
    fn validate_bucket_name(&self, _: &str) -> bool {
        true
    }
}

/// Which hosts are buckets: as for targets. (SigV2 signs the bucket of the host.)
struct Hosts(Vec<String>);

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let style = VirtualHost::new(host);
        Ok(match bucket_of_host(host, &self.0) {
            Some(bucket) => style.with_bucket(bucket),
            None => style,
        })
    }
}

/// The secrets of the auth file. (The functions of this trait and the next are what `async_trait`
/// makes of `async fn`.)
struct Secrets(Arc<AuthStore>);

impl S3Auth for Secrets {
    fn get_secret_key<'a, 'b, 'f>(&'a self, id: &'b str) -> BoxFuture<'f, S3Result<SecretKey>>
    where
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let rules = self.0.rules();
            match rules.key(id) {
                Some((secret, _)) => Ok(SecretKey::from(secret)),
                None => Err(s3_error!(InvalidAccessKeyId)),
            }
        })
    }
}

/// Takes every request whose signature was checked, and reports who signed it.
struct Report;

impl S3Route for Report {
    fn is_match(&self, _: &Method, _: &Uri, _: &HeaderMap, _: &mut http::Extensions) -> bool {
        true
    }

    fn call<'a, 'f>(&'a self, request: S3Request<Body>) -> BoxFuture<'f, S3Result<S3Response<Body>>>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            // A signature made for another service (`sts`) says nothing about S3.
            if request.service.as_deref() != Some("s3") {
                return Err(s3_error!(SignatureDoesNotMatch));
            }
            let mut response = S3Response::new(Body::empty());
            if let Some(credentials) = request.credentials {
                response.extensions.insert(Signed(credentials.access_key));
            }
            Ok(response)
        })
    }
}
