//! What a request means and what is answered: the S3 operations of a read-only endpoint, above HTTP's
//! framing and below nothing but [`Backend`].

use super::{
    auth::{Access, Identity, Overrides, Rules, Verifier, expired},
    backend::{Backend, RequestContext},
    body::{EdgeBody, Form, Watch},
    condition::{Conditions, Verdict},
    failure::Failure,
    head::{self, Extent, ObjectHead},
    ids::{IdMint, RequestId},
    list::{self, Listing},
    metrics::EdgeMetrics,
    query::Query,
    refused::drain,
    span, subresource,
    target::Target,
};
use crate::traces::{Parent, Tracer};
use crate::types::{ListPage, ListQuery, ObjectError, ObjectName, Segment, SegmentStream};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};
use http_body::Body;
use std::{
    net::IpAddr,
    ops::Range,
    sync::Arc,
    time::{Instant, SystemTime},
};
use tracing::Instrument;

/// Empty pages of one V1 listing that are skipped.
const EMPTY_PAGES_MAX: usize = 1000;
/// The most parts that an object may have: S3's.
const PARTS_MAX: u32 = 10_000;

/// Answers requests. One per edge.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) metrics: Arc<EdgeMetrics>,
    pub(crate) mint: IdMint,
    access: Access,
    verifier: Option<Verifier>,
    domains: Vec<String>,
    pub(crate) tracer: Tracer,
}

/// The other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    /// Its TLS certificate (DER), verified.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// An answer before it is a response.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: AnswerBody,
}

enum AnswerBody {
    Bytes(Bytes),
    Stream(SegmentStream, u64),
}

/// Which ways of asking for an object came with a request.
struct Ask<'a> {
    conditions: Conditions<'a>,
    checksums: bool,
    overrides: Vec<(HeaderName, HeaderValue)>,
    part: Option<u32>,
}

impl Service {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        access: Access,
        domains: &[String],
        metrics: Arc<EdgeMetrics>,
        tracer: Tracer,
    ) -> Self {
        let domains = domains
            .iter()
            .map(|domain| domain.trim_matches('.').to_ascii_lowercase())
            .filter(|domain| !domain.is_empty())
            .collect::<Vec<_>>();
        let verifier = match &access {
            Access::Anonymous => None,
            Access::File(store) => Some(Verifier::new(store.clone(), domains.clone())),
        };
        Self {
            backend,
            metrics,
            mint: IdMint::new(),
            access,
            verifier,
            domains,
            tracer,
        }
    }

    /// Answers one request. Never fails: what goes wrong is an answer too. `form` says how the body is
    /// handed out.
    pub(crate) async fn respond<B>(
        &self,
        request: http::Request<B>,
        peer: &Peer,
        form: Form,
        watch: Arc<Watch>,
    ) -> Response<EdgeBody>
    where
        B: Body<Data: Send, Error: Send> + Send + Unpin,
    {
        let started = Instant::now();
        let id = self.mint.mint();
        let (parts, body) = request.into_parts();
        let span = tracing::debug_span!(
            "serve", request_id = %id, method = %parts.method, path = parts.uri.path()
        );
        let mut trace = self.trace(&parts, peer, id);
        let answer = async {
            if !matches!(parts.method, Method::GET | Method::HEAD) {
                drain(body, &parts.headers).await;
            }
            self.answer(&parts, peer, form, id, trace.parent()).await
        }
        .instrument(span.clone())
        .await;
        if let Err(failure) = &answer {
            trace.set("gannet.error_code", failure.code());
        }
        let mut response = self.finish(&parts, id, answer, form, watch);
        let took = started.elapsed();
        if parts.method == Method::GET && response.status().is_success() {
            self.metrics.first_byte(took);
        }
        self.metrics
            .request(&parts.method, response.status().as_u16());
        span.in_scope(|| tracing::debug!(status = response.status().as_u16(), ?took, "answered"));
        if trace.is_on() {
            span::answered(&mut trace, response.status());
            response.body_mut().trace(trace);
        }
        response
    }

    /// A response out of an answer or a failure: ids on all, no body on HEAD.
    fn finish(
        &self,
        parts: &Parts,
        id: RequestId,
        answer: Result<Answer, Failure>,
        form: Form,
        watch: Arc<Watch>,
    ) -> Response<EdgeBody> {
        let answer = answer.unwrap_or_else(|failure| {
            tracing::debug!(
                request_id = %id, code = failure.code(), why = failure.message(), "refused"
            );
            self.refusal(&failure, parts.uri.path(), id)
        });
        let metrics = self.metrics.clone();
        let body = match answer.body {
            _ if parts.method == Method::HEAD => EdgeBody::bytes(Bytes::new(), metrics, watch),
            AnswerBody::Bytes(bytes) => EdgeBody::bytes(bytes, metrics, watch),
            AnswerBody::Stream(stream, len) => EdgeBody::stream(stream, len, form, metrics, watch),
        };
        let mut response = Response::new(body);
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        response
    }

    fn refusal(&self, failure: &Failure, resource: &str, id: RequestId) -> Answer {
        let mut headers = HeaderMap::new();
        head::write_ids((&self.mint, id), &mut headers);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/xml"),
        );
        headers.extend(failure.headers().iter().cloned());
        let xml = failure.to_xml(resource, &id.to_string(), self.mint.host());
        Answer {
            status: failure.status(),
            headers,
            body: AnswerBody::Bytes(xml),
        }
    }

    /// The bytes of an HTTP/1.1 response to what could not even be read as a request. The connection
    /// is to be closed after it.
    pub(crate) fn last_words(&self, failure: &Failure) -> Vec<u8> {
        use head::HeadSink;
        let id = self.mint.mint();
        tracing::debug!(request_id = %id, code = failure.code(), why = failure.message(), "refused");
        let status = failure.status();
        let body = failure.to_xml("", &id.to_string(), self.mint.host());
        let reason = status.canonical_reason().unwrap_or_default();
        let mut out = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        head::write_ids((&self.mint, id), &mut out);
        for (name, value) in failure.headers() {
            out.header(name, value.as_bytes());
        }
        out.header(&header::CONTENT_TYPE, b"application/xml");
        out.header(&header::CONTENT_LENGTH, body.len().to_string().as_bytes());
        out.header(&header::CONNECTION, b"close");
        out.header(&header::DATE, head::http_date(SystemTime::now()).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&body);
        out
    }

    async fn answer(
        &self,
        parts: &Parts,
        peer: &Peer,
        form: Form,
        id: RequestId,
        trace: Parent,
    ) -> Result<Answer, Failure> {
        let target = self.target(parts.uri.path(), span::host(parts));
        match parts.method {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => return Err(preflight(&parts.headers)),
            _ => {
                let kind = match target {
                    Ok(Target::Object(_)) => "OBJECT",
                    Ok(Target::Bucket(_)) => "BUCKET",
                    _ => "SERVICE",
                };
                return Err(Failure::method_not_allowed(parts.method.as_str(), kind));
            }
        }
        let target = target?;
        let query = Query::parse(parts.uri.query());
        let caller = self.authenticate(parts, &target, &query, peer).await?;
        let context = RequestContext {
            request_id: id.to_string().into(),
            owner: caller.owner,
            trace,
        };
        tracing::debug!(caller = caller.name(), ?target, "asked");
        match &target {
            Target::Root => self.buckets(&query, &caller, &context, id).await,
            Target::Bucket(bucket) => {
                self.bucket(parts, bucket, &query, &caller, &context, id)
                    .await
            }
            Target::Object(name) => {
                if !caller.may_read(&name.bucket, &name.key) {
                    return Err(Failure::access_denied());
                }
                let ask = Ask::parse(&parts.headers, &query, &caller)?;
                let form = (parts.method == Method::GET).then_some(form);
                self.object(name, &ask, form, &context, id).await
            }
        }
    }

    pub(crate) fn target(
        &self,
        path: &str,
        host: Option<&str>,
    ) -> Result<Target, super::target::TargetError> {
        Target::parse(path, host, &self.domains)
    }

    async fn authenticate(
        &self,
        parts: &Parts,
        target: &Target,
        query: &Query<'_>,
        peer: &Peer,
    ) -> Result<Identity, Failure> {
        let authorization = parts
            .headers
            .get(header::AUTHORIZATION)
            .map(HeaderValue::as_bytes);
        let presigned_v2 = query.has("AWSAccessKeyId") || query.has("Signature");
        let presigned = ["X-Amz-Signature", "X-Amz-Credential", "X-Amz-Algorithm"]
            .iter()
            .any(|name| query.has(name));
        let (Access::File(store), Some(verifier)) = (&self.access, &self.verifier) else {
            let overrides = match authorization {
                Some(_) => Overrides::Yes,
                None if presigned || presigned_v2 => Overrides::Sandboxed,
                None => Overrides::No,
            };
            return Ok(Identity::anonymous(peer.ip, overrides));
        };
        if (presigned || presigned_v2) && authorization.is_some() || presigned && presigned_v2 {
            return Err(Failure::bad_request(
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, \
                 Signature query string parameter or the Authorization header should be specified",
            ));
        }
        // SigV2 is what boto3 presigns with unless told otherwise. It covers the path and the
        // `response-*` parameters, so an object may be named by it, but not the rest of a query.
        let object = matches!(target, Target::Object(_));
        if (presigned_v2 && !object)
            || authorization.is_some_and(|value| value.starts_with(b"AWS "))
        {
            return Err(Failure::bad_request(
                "InvalidRequest",
                "The authorization mechanism you have provided is not supported. \
                 Please use AWS4-HMAC-SHA256.",
            ));
        }
        if presigned_v2
            || presigned
            || authorization.is_some_and(|value| value.starts_with(b"AWS4-"))
        {
            let grant = verifier
                .verify(&parts.method, &parts.uri, parts.version, &parts.headers)
                .await?;
            return Ok(Identity::known(grant));
        }
        let rules = store.rules();
        match authorization {
            Some(value) => match bearer(value) {
                Some(token) => token_identity(&rules, token),
                None => Err(Failure::bad_request(
                    "InvalidArgument",
                    "Unsupported Authorization Type: sign with AWS4-HMAC-SHA256 or send a Bearer token",
                )),
            },
            None => {
                let known = peer
                    .certificate
                    .as_ref()
                    .and_then(|der| rules.certificate(der));
                let grant = known.ok_or_else(Failure::access_denied)?;
                if grant.expired(SystemTime::now()) {
                    return Err(expired());
                }
                Ok(Identity::known(grant.clone()))
            }
        }
    }

    /// The caller where that takes no signature check: in anonymous mode, and for a good bearer token.
    pub(crate) fn quick_identity(
        &self,
        authorization: Option<&[u8]>,
        peer: &Peer,
    ) -> Option<Identity> {
        match &self.access {
            // Whoever comes this way asks for no overrides.
            Access::Anonymous => Some(Identity::anonymous(peer.ip, Overrides::No)),
            Access::File(store) => token_identity(&store.rules(), bearer(authorization?)?).ok(),
        }
    }

    fn xml(&self, id: RequestId, xml: Bytes) -> Answer {
        let mut headers = HeaderMap::new();
        head::write_ids((&self.mint, id), &mut headers);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/xml"),
        );
        Answer {
            status: StatusCode::OK,
            headers,
            body: AnswerBody::Bytes(xml),
        }
    }

    async fn buckets(
        &self,
        query: &Query<'_>,
        caller: &Identity,
        context: &RequestContext,
        id: RequestId,
    ) -> Result<Answer, Failure> {
        let mut buckets = self.backend.buckets(context).await?;
        buckets.retain(|bucket| caller.may_see(&bucket.name));
        Ok(self.xml(id, list::buckets_xml(&buckets, query)?))
    }

    async fn bucket(
        &self,
        parts: &Parts,
        bucket: &str,
        query: &Query<'_>,
        caller: &Identity,
        context: &RequestContext,
        id: RequestId,
    ) -> Result<Answer, Failure> {
        if !caller.may_see(bucket) {
            return Err(Failure::access_denied());
        }
        if parts.method == Method::HEAD {
            self.backend.head_bucket(bucket, context).await?;
            let mut answer = self.xml(id, Bytes::new());
            let region = HeaderName::from_static("x-amz-bucket-region");
            answer
                .headers
                .insert(region, HeaderValue::from_static(subresource::REGION));
            return Ok(answer);
        }
        if let Some(answer) = subresource::of_bucket(query) {
            self.backend.head_bucket(bucket, context).await?;
            return Ok(self.xml(id, answer?));
        }
        let listing = Listing::parse(bucket, query)?;
        if !caller.may_list(bucket, &listing.query.prefix) {
            return Err(Failure::access_denied());
        }
        let page = self.page(&listing, context).await?;
        Ok(self.xml(id, listing.to_xml(&page)))
    }

    async fn page(
        &self,
        listing: &Listing,
        context: &RequestContext,
    ) -> Result<Arc<ListPage>, Failure> {
        if listing.query.keys_max == 0 {
            self.backend
                .head_bucket(&listing.query.bucket, context)
                .await?;
            return Ok(Arc::default());
        }
        let mut page = self.backend.list(&listing.query, context).await?;
        if !listing.needs_entries() {
            return Ok(page);
        }
        for _ in 0..EMPTY_PAGES_MAX {
            let empty = page.objects.is_empty() && page.prefixes.is_empty();
            let Some(next) = page.next.clone().filter(|_| empty) else {
                return Ok(page);
            };
            let query = ListQuery {
                token: Some(next),
                start_after: None,
                ..listing.query.clone()
            };
            page = self.backend.list(&query, context).await?;
        }
        Err(Failure::internal(
            "the origin sends one empty page after another",
        ))
    }

    async fn read(
        &self,
        name: &ObjectName,
        meta: &Arc<crate::types::ObjectMeta>,
        range: Range<u64>,
        form: Form,
        context: &RequestContext,
    ) -> Result<SegmentStream, ObjectError> {
        match form {
            Form::Frames(_) => {
                let bytes = self.backend.read(name, meta, range, context).await?;
                Ok(Box::pin(bytes.map_ok(Segment::Bytes)))
            }
            Form::Segments => self.backend.read_segments(name, meta, range, context).await,
        }
    }

    async fn object(
        &self,
        name: &ObjectName,
        ask: &Ask<'_>,
        form: Option<Form>,
        context: &RequestContext,
        id: RequestId,
    ) -> Result<Answer, Failure> {
        // A version that is overwritten before its first byte is out is forgotten, and the new one
        // served, unseen by the client: once.
        let mut again = true;
        loop {
            let meta = self.backend.head(name, context).await?;
            let extent = ask.extent(&meta)?;
            let head = ObjectHead {
                meta: &meta,
                extent,
                checksums: ask.checksums,
                overrides: &ask.overrides,
            };
            let Range { start, end } = head.range();
            let body = if let Some(form) = form.filter(|_| start < end) {
                match self.read(name, &meta, start..end, form, context).await {
                    Ok(stream) => AnswerBody::Stream(stream, end - start),
                    Err(ObjectError::EtagChanged) if again => {
                        tracing::debug!(etag = %meta.etag, "overwritten at the origin: once more");
                        again = false;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            } else {
                AnswerBody::Bytes(Bytes::new())
            };
            let mut headers = HeaderMap::with_capacity(16);
            head.write((&self.mint, id), &mut headers);
            return Ok(Answer {
                status: head.status(),
                headers,
                body,
            });
        }
    }
}

impl<'a> Ask<'a> {
    fn parse(
        headers: &'a HeaderMap,
        query: &Query<'_>,
        caller: &Identity,
    ) -> Result<Self, Failure> {
        subresource::of_object(query)?;
        let mut overrides = overrides(query)?;
        if !overrides.is_empty() {
            match caller.overrides {
                Overrides::Yes => {}
                Overrides::Sandboxed => overrides.push((
                    header::CONTENT_SECURITY_POLICY,
                    HeaderValue::from_static("sandbox"),
                )),
                Overrides::No => {
                    return Err(Failure::bad_request(
                        "InvalidRequest",
                        "Request specific response headers cannot be used for anonymous GET requests.",
                    ));
                }
            }
        }
        let conditions = conditions(|name| single(headers, name));
        let refusal = "Part number must be an integer between 1 and 10000, inclusive";
        let part = query.number("partNumber", 1, refusal)?;
        if part.is_some_and(|part| part > PARTS_MAX) {
            let given = query.value("partNumber").unwrap_or_default();
            return Err(Failure::invalid_argument(refusal, "partNumber", given));
        }
        if part.is_some() && conditions.range.is_some() {
            return Err(Failure::bad_request(
                "InvalidRequest",
                "Cannot specify both Range header and partNumber query parameter",
            ));
        }
        let checksums = checksums_asked(single(headers, &head::CHECKSUM_MODE));
        Ok(Self {
            conditions,
            checksums,
            overrides,
            part,
        })
    }

    /// What of this version is sent.
    fn extent(&self, meta: &crate::types::ObjectMeta) -> Result<Extent, Failure> {
        match self.conditions.judge(meta) {
            Verdict::Whole => self
                .part
                .map_or(Ok(Extent::Whole), |part| part_extent(part, meta)),
            Verdict::Part(range) => Ok(Extent::Part(range)),
            Verdict::NotModified => Ok(Extent::Nothing),
            Verdict::Failed(condition) => Err(Failure::precondition(condition)),
            Verdict::NotSatisfiable => {
                Err(Failure::invalid_range(self.conditions.range, meta.size))
            }
        }
    }
}

/// Part `part` of an object: all of it for the first part of an object in one part, which answers 206
/// as S3 does. Where the parts of others begin is not known here.
fn part_extent(part: u32, meta: &crate::types::ObjectMeta) -> Result<Extent, Failure> {
    let parts = meta
        .etag
        .trim_end_matches('"')
        .rsplit_once('-')
        .and_then(|(_, n)| n.parse::<u32>().ok())
        .filter(|&n| (1..=PARTS_MAX).contains(&n));
    match parts {
        None | Some(1) if part == 1 && meta.size == 0 => Ok(Extent::Whole),
        None | Some(1) if part == 1 => Ok(Extent::Part(0..meta.size)),
        Some(parts) if part <= parts => Err(Failure::not_implemented(format!(
            "This object was uploaded in {parts} parts, and a cache does not know where they begin: \
             read it by Range."
        ))),
        _ => Err(Failure::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "InvalidPartNumber",
            "The requested partnumber is not satisfiable",
        )),
    }
}

/// The conditional headers, by whichever way `value` finds one.
pub(crate) fn conditions<'a>(value: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> Conditions<'a> {
    Conditions {
        range: value(&header::RANGE),
        if_match: value(&header::IF_MATCH),
        if_none_match: value(&header::IF_NONE_MATCH),
        if_modified_since: value(&header::IF_MODIFIED_SINCE),
        if_unmodified_since: value(&header::IF_UNMODIFIED_SINCE),
        if_range: value(&header::IF_RANGE),
    }
}

pub(crate) fn checksums_asked(mode: Option<&[u8]>) -> bool {
    mode.is_some_and(|mode| mode.eq_ignore_ascii_case(b"enabled"))
}

/// A header's value; of several, the first. (Several `Range` headers are as several ranges in one:
/// ignored.)
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if *name == header::RANGE && values.next().is_some() {
        return None;
    }
    Some(first.as_bytes())
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

fn token_identity(rules: &Rules, token: &[u8]) -> Result<Identity, Failure> {
    let unknown = || Failure::forbidden("AccessDenied", "Access Denied: unknown bearer token");
    let grant = rules.token(token).ok_or_else(unknown)?;
    if grant.expired(SystemTime::now()) {
        return Err(expired());
    }
    Ok(Identity::known(grant.clone()))
}

/// `response-content-type=...` and its like.
fn overrides(query: &Query<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, Failure> {
    const OVERRIDES: [(&str, HeaderName); 6] = [
        ("response-content-type", header::CONTENT_TYPE),
        ("response-content-language", header::CONTENT_LANGUAGE),
        ("response-expires", header::EXPIRES),
        ("response-cache-control", header::CACHE_CONTROL),
        ("response-content-disposition", header::CONTENT_DISPOSITION),
        ("response-content-encoding", header::CONTENT_ENCODING),
    ];
    let mut found = Vec::new();
    for (parameter, name) in OVERRIDES {
        if let Some(value) = query.filled(parameter) {
            let header = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
                Failure::invalid_argument("This cannot be a header's value", parameter, value)
            })?;
            found.push((name, header));
        }
    }
    Ok(found)
}

/// As S3 answers for a bucket without CORS rules: no page of another site may read from here, be it on
/// loopback or not.
fn preflight(headers: &HeaderMap) -> Failure {
    if !headers.contains_key(header::ORIGIN) {
        let message = "Insufficient information. Origin request header needed.";
        return Failure::bad_request("BadRequest", message);
    }
    Failure::forbidden(
        "AccessForbidden",
        "CORSResponse: CORS is not enabled for this bucket.",
    )
}
