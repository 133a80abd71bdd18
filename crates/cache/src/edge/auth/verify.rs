//! Signatures, by way of `s3s`: a request's head goes in, the access key that signed it comes out.
//!
//! `s3s` knows the signature in all its shapes (header and presigned, canonical paths with odd
//! characters, HTTP/2's `:authority`). It is used for exactly that: what a verified caller wants is
//! answered by the edge itself, since `s3s` refuses with 400 what S3 ignores (a malformed `Range`,
//! an unreadable `If-Modified-Since`) and knows no `If-Range`.
//!
//! Two things it leaves to us: a presigned URL holds for a week at most, and a region is any text.
//! (`s3s` refuses regions that AWS would not have, `US` and `RegionOne` among them, which s3cmd and
//! OpenStack's users sign for; but only once the signature has been found good.)

use super::{AuthStore, Grant};
use crate::{
    edge::{failure::Failure, target::bucket_of_host},
    origin::BoxFuture,
};
use http::{HeaderMap, Method, Uri, Version, header};
use s3s::{
    Body, S3, S3Request, S3Response, S3Result,
    auth::{S3Auth, SecretKey},
    host::{S3Host, VirtualHost},
    route::S3Route,
    s3_error,
    service::{S3Service, S3ServiceBuilder},
    validation::NameValidation,
};
use std::{borrow::Cow, cell::RefCell, sync::Arc, time::SystemTime};
use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};

/// How `s3s` begins what it says of a region that it does not take.
const REGION_REFUSED: &str = "invalid credential region";
/// The longest life of a presigned URL: a week.
const EXPIRES_MAX_SECS: i64 = 604_800;

/// Checks signatures against the rules in force.
#[derive(Debug)]
pub(crate) struct Verifier {
    service: S3Service,
    store: Arc<AuthStore>,
}

tokio::task_local! {
    /// The access keys whose secrets `s3s` asked for in the course of one check.
    static ASKED_FOR: RefCell<Vec<String>>;
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
        check_lifetime(uri)?;
        let mut request = http::Request::new(Body::empty());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        *request.version_mut() = version;
        *request.headers_mut() = headers.clone();
        // Muted: its logs would hold headers and expected signatures, and an error line for each
        // request that an attacker cares to send.
        let checking = async {
            let response = self.service.call(request).await;
            (response, ASKED_FOR.with(RefCell::take))
        };
        let (response, asked_for) = ASKED_FOR
            .scope(RefCell::default(), checking)
            .with_subscriber(NoSubscriber::default())
            .await;
        let response =
            response.map_err(|_| Failure::internal("the signature could not be checked"))?;
        let id = match response.extensions().get() {
            Some(Signed(id)) => id.clone(),
            None => {
                let (parts, body) = response.into_parts();
                let xml = body.bytes().unwrap_or_default();
                // What is said of the region is said of a request whose signature holds: the tests
                // see to it that this stays so, and the manifest to it that `s3s` does. It holds for
                // the one key whose secret was asked for, whatever else the request may name.
                let signed = text_of(&xml, "Message")
                    .filter(|said| said.starts_with(REGION_REFUSED))
                    .and_then(|_| Scope::of(uri, headers));
                match signed {
                    Some(scope) if scope.service == "s3" && asked_for == [&*scope.id] => scope.id,
                    _ => return Err(refusal(parts.status, &xml)),
                }
            }
        };
        let rules = self.store.rules();
        let (_, grant) = rules.key(&id).ok_or_else(unknown_key)?;
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
/// What a signature was made for.
struct Scope {
    id: String,
    service: String,
}

impl Scope {
    /// Of a request that `s3s` has read: its one `Authorization`, or else its one `X-Amz-Credential`.
    fn of(uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        let credential = match sole(headers.get_all(header::AUTHORIZATION))? {
            Some(value) => {
                let (_, rest) = value.to_str().ok()?.split_once("Credential=")?;
                rest.split_once(',')?.0.to_owned()
            }
            None => sole(query(uri).filter(|(name, _)| name == "X-Amz-Credential"))??
                .1
                .into_owned(),
        };
        // An id holds no slash: the rules see to that.
        let mut parts = credential.split('/');
        let (id, _date, _region) = (parts.next()?, parts.next()?, parts.next()?);
        let service = parts.next()?;
        (parts.next()? == "aws4_request" && parts.next().is_none()).then(|| Self {
            id: id.to_owned(),
            service: service.to_owned(),
        })
    }
}

/// None of several; else the one, if there is one.
#[expect(
    clippy::option_option,
    reason = "several, one, and none are three things"
)]
fn sole<T>(values: impl IntoIterator<Item = T>) -> Option<Option<T>> {
    let mut values = values.into_iter();
    let first = values.next();
    values.next().is_none().then_some(first)
}

fn query(uri: &Uri) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
}

/// A presigned URL is no password for ever: AWS's bound.
fn check_lifetime(uri: &Uri) -> Result<(), Failure> {
    let seconds = query(uri)
        .find(|(name, _)| name == "X-Amz-Expires")
        .and_then(|(_, value)| value.parse::<i64>().ok());
    let message = match seconds {
        Some(seconds) if seconds > EXPIRES_MAX_SECS => {
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires \
             must be less than 604800 seconds"
        }
        Some(seconds) if seconds < 0 => "X-Amz-Expires must be non-negative",
        _ => return Ok(()),
    };
    Err(Failure::bad_request(
        "AuthorizationQueryParametersError",
        message,
    ))
}

fn text_of(xml: &[u8], tag: &str) -> Option<String> {
    let xml = std::str::from_utf8(xml).ok()?;
    let (_, rest) = xml.split_once(&format!("<{tag}>"))?;
    let (text, _) = rest.split_once(&format!("</{tag}>"))?;
    quick_xml::escape::unescape(text).ok().map(Cow::into_owned)
}

fn refusal(status: http::StatusCode, xml: &[u8]) -> Failure {
    let message = text_of(xml, "Message");
    if let Some(said) = &message {
        if said.starts_with("unknown service") {
            return Failure::bad_request(
                "AuthorizationHeaderMalformed",
                "The authorization header is malformed; incorrect service. This endpoint belongs to \
                 \"s3\".",
            );
        }
        if said == "invalid header: x-amz-content-sha256" {
            return Failure::bad_request(
                "InvalidArgument",
                "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
                 STREAMING-AWS4-HMAC-SHA256-PAYLOAD, or a valid sha256 value.",
            );
        }
    }
    let (code, default): (&'static str, &str) = match text_of(xml, "Code").as_deref() {
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
                Some((secret, _)) => {
                    let _ = ASKED_FOR.try_with(|asked| asked.borrow_mut().push(id.to_owned()));
                    Ok(SecretKey::from(secret))
                }
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
