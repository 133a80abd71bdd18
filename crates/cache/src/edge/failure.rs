//! What went wrong with a request, in S3's terms: status, code, words, and the XML that says so.

use super::{target::TargetError, xml::Xml};
use crate::types::ObjectError;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use std::borrow::Cow;

/// An S3 error. Boxed: it travels in the cold half of every `Result`.
#[derive(Debug)]
pub(crate) struct Failure(Box<Inner>);

#[derive(Debug)]
struct Inner {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    /// More elements of the XML.
    details: Vec<(&'static str, String)>,
    /// More headers of the response.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let message = message.into();
        Self(Box::new(Inner {
            status,
            code,
            message,
            details: Vec::new(),
            headers: Vec::new(),
        }))
    }

    pub(crate) fn bad_request(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn invalid_argument(message: &'static str, name: &'static str, value: &str) -> Self {
        Self::bad_request("InvalidArgument", message)
            .detail("ArgumentName", name)
            .detail("ArgumentValue", value)
    }

    pub(crate) fn forbidden(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    pub(crate) fn access_denied() -> Self {
        Self::forbidden("AccessDenied", "Access Denied")
    }

    pub(crate) fn not_found(code: &'static str, message: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(crate) fn not_implemented(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
    }

    pub(crate) fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// 412; names the header that did not hold.
    pub(crate) fn precondition(condition: &'static str) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
        )
        .detail("Condition", condition)
    }

    /// 416.
    pub(crate) fn invalid_range(asked: Option<&[u8]>, size: u64) -> Self {
        let failure = Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "InvalidRange",
            "The requested range is not satisfiable",
        )
        .detail("ActualObjectSize", size.to_string())
        .header(http::header::CONTENT_RANGE, &format!("bytes */{size}"));
        match asked {
            Some(asked) => failure.detail("RangeRequested", String::from_utf8_lossy(asked)),
            None => failure,
        }
    }

    /// 405: this endpoint only reads.
    pub(crate) fn method_not_allowed(method: &str, resource_type: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "The specified method is not allowed against this resource: this endpoint is read-only.",
        )
        .detail("Method", method)
        .detail("ResourceType", resource_type)
        .header(http::header::ALLOW, "GET, HEAD")
    }

    /// Adds an element to the XML.
    pub(crate) fn detail(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.details.push((name, value.into()));
        self
    }

    /// Adds a header to the response; one that cannot be a header is left out.
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.push((name, value));
        }
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(crate) fn code(&self) -> &'static str {
        self.0.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.0.headers
    }

    /// The body.
    pub(crate) fn to_xml(&self, resource: &str, request_id: &str, host_id: &str) -> Bytes {
        let mut xml = Xml::new();
        xml.open("Error");
        xml.text("Code", self.0.code);
        xml.text("Message", &self.0.message);
        for (name, value) in &self.0.details {
            xml.text(name, value);
        }
        xml.text("Resource", resource);
        xml.text("RequestId", request_id);
        xml.text("HostId", host_id);
        xml.close("Error");
        xml.finish()
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        let code = match error {
            TargetError::InvalidUri => "InvalidURI",
            TargetError::InvalidBucketName => "InvalidBucketName",
            TargetError::KeyTooLong => "KeyTooLongError",
        };
        Self::bad_request(code, error.to_string())
    }
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        let message = error.to_string();
        match error {
            ObjectError::NoSuchKey => {
                Self::not_found("NoSuchKey", "The specified key does not exist.")
            }
            ObjectError::NoSuchBucket => {
                Self::not_found("NoSuchBucket", "The specified bucket does not exist")
            }
            ObjectError::AccessDenied => Self::forbidden("AccessDenied", message),
            // Twice in a row: the object is being rewritten faster than it can be looked at.
            ObjectError::EtagChanged => Self::new(
                StatusCode::CONFLICT,
                "OperationAborted",
                "The object is being overwritten at the origin. Please try again.",
            ),
            ObjectError::MissingEtag => {
                Self::new(StatusCode::BAD_GATEWAY, "OriginMissingETag", message)
            }
            ObjectError::Unsupported(_) => {
                Self::new(StatusCode::BAD_GATEWAY, "OriginUnsupported", message)
            }
            ObjectError::InvalidRange { size } => Self::invalid_range(None, size),
            ObjectError::Invalid(_) => Self::bad_request("InvalidArgument", message),
            ObjectError::SlowDown(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", message)
                    .header(http::header::RETRY_AFTER, "1")
            }
            ObjectError::Unavailable(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceUnavailable",
                format!("{message}. What is cached is still served; please try again."),
            )
            .header(http::header::RETRY_AFTER, "1"),
            ObjectError::Internal(_) => Self::internal(message),
        }
    }
}
