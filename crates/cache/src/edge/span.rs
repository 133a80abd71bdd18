//! What the span of a client's request says, in the words of OpenTelemetry's conventions for HTTP
//! servers where they have one.

use super::{
    ids::RequestId,
    service::{Peer, Service},
    target::Target,
};
use crate::traces::Span;
use http::{HeaderMap, Method, StatusCode, header, request::Parts};

const BODY_SIZE: &str = "http.response.body.size";

/// The request's `traceparent`; of several, none is the right one.
fn traceparent(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all("traceparent").iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes())
}

/// The host that a request is for.
pub(crate) fn host(parts: &Parts) -> Option<&str> {
    match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok()),
    }
}

impl Service {
    /// The span of a request, if it is traced.
    pub(crate) fn trace(&self, parts: &Parts, peer: &Peer, id: RequestId) -> Span {
        if !self.tracer.is_on() {
            return Span::default();
        }
        let about = (parts.uri.path(), host(parts));
        self.span(traceparent(&parts.headers), &parts.method, about, peer, id)
    }

    /// The same of one of which only so much is known.
    pub(crate) fn span(
        &self,
        traceparent: Option<&[u8]>,
        method: &Method,
        (path, host): (&str, Option<&str>),
        peer: &Peer,
        id: RequestId,
    ) -> Span {
        let mut span = self.tracer.request(traceparent);
        if span.is_on() {
            let target = self.target(path, host).ok();
            // Only what we know of: a client could invent any number of others.
            let known = match *method {
                Method::GET | Method::HEAD | Method::OPTIONS => method.as_str(),
                _ => "HTTP",
            };
            let route = match &target {
                Some(Target::Object(_)) => " /{bucket}/{key}",
                Some(Target::Bucket(_)) => " /{bucket}",
                Some(Target::Root) => " /",
                None => "",
            };
            span.name(|| format!("{known}{route}").into());
            span.set("http.request.method", method.as_str());
            span.set("url.path", path);
            span.set("client.address", peer.ip.to_string().as_str());
            span.set("gannet.request_id", id.to_string().as_str());
            match &target {
                Some(Target::Object(name)) => {
                    span.set("aws.s3.bucket", &*name.bucket);
                    span.set("aws.s3.key", &*name.key);
                }
                Some(Target::Bucket(bucket)) => span.set("aws.s3.bucket", &**bucket),
                _ => {}
            }
        }
        span
    }
}

/// What was answered.
pub(crate) fn answered(span: &mut Span, status: StatusCode) {
    span.set("http.response.status_code", u64::from(status.as_u16()));
    if status.is_server_error() {
        span.set("error.type", status.as_str());
        span.fail(&status);
    }
}

/// How much of the answer's body went out, and whether that was all.
pub(crate) fn sent(span: &mut Span, bytes: u64, whole: bool) {
    span.set(BODY_SIZE, bytes);
    span.set("gannet.cut", !whole);
}
