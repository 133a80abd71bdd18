//! Why a request to a server came to nothing: for people, and for the engine.

use super::{
    BodyError, ConnectError, DialError, ReadBounds, RefusedAddress, ResolveError, ResolveErrorKind,
    body::read_bounded,
    pool::{AnswerBody, SendError},
};
use gannet::{
    AttemptError,
    engine::{End, Fault},
};
use http::{HeaderMap, StatusCode, header::LOCATION};
use serde::Deserialize;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// The most that is read of the body of an error.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// How long the body of an error is waited for.
const ERROR_TIME_MAX: Duration = Duration::from_secs(5);
/// Texts of others are cut here.
const TEXT_CHARS_MAX: usize = 200;

/// Why a request to a server came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FederationError {
    /// The server cannot be found: [`ResolveError::steps`] say what was tried.
    #[error(transparent)]
    Resolve(Arc<ResolveError>),
    /// The server cannot be connected to.
    #[error("no connection: {0}")]
    Connect(ConnectError),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The connection broke before there was an answer.
    #[error("the connection broke before an answer: {0}")]
    Broken(String),
    /// What came is no HTTP that we can read.
    #[error("the answer is not HTTP as it should be: {0}")]
    Malformed(String),
    /// The server sends us elsewhere, which servers of a federation do not do; it is not followed.
    #[error("{status}: it redirects{}, which is not followed", to(.location.as_deref()))]
    Redirected {
        /// The status.
        status: StatusCode,
        /// Where to.
        location: Option<String>,
    },
    /// The server says no.
    #[error(transparent)]
    Answered(#[from] ErrorAnswer),
    /// The body of the answer is too large, too slow, or broke off.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The request has to be signed, and there is nothing to sign with.
    #[error(
        "this request has to be signed: name the homeserver with --server-name and its key with --signing-key"
    )]
    NoSigningKey,
    /// The request cannot be put: a fault of ours.
    #[error("the request cannot be put: {0}")]
    Request(String),
}

fn to(location: Option<&str>) -> String {
    location.map_or_else(String::new, |location| format!(" to {location}"))
}

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorAnswer {
    /// Its status.
    pub status: StatusCode,
    /// The code in its body: `M_FORBIDDEN`.
    pub errcode: Option<String>,
    /// The text in its body, without control characters, cut.
    pub message: Option<String>,
    /// How long it wants to be left alone: the later of what its header and its body say.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for ErrorAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        match (&self.errcode, &self.message) {
            (Some(code), Some(message)) => write!(f, ": {code}: {message}")?,
            (Some(text), None) | (None, Some(text)) => write!(f, ": {text}")?,
            (None, None) => {}
        }
        match self.retry_after {
            Some(pause) => write!(f, " (again in {pause:?})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ErrorAnswer {}

/// The body of an error, as far as it is of interest.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    errcode: Option<serde_json::Value>,
    error: Option<serde_json::Value>,
    retry_after_ms: Option<serde_json::Value>,
}

impl ErrorAnswer {
    /// Reads what an answer says, as far as it is to be had within bounds.
    pub(crate) async fn read(status: StatusCode, headers: &HeaderMap, body: AnswerBody) -> Self {
        let bounds = ReadBounds {
            bytes_max: ERROR_BYTES_MAX,
            time_max: ERROR_TIME_MAX,
        };
        let body = read_bounded(body, bounds).await.unwrap_or_default();
        Self::of(status, headers, &body, SystemTime::now())
    }

    pub(crate) fn of(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        now: SystemTime,
    ) -> Self {
        let ErrorBody {
            errcode,
            error,
            retry_after_ms,
        } = serde_json::from_slice(body).unwrap_or_default();
        let text = |value: Option<serde_json::Value>| {
            let text = value
                .as_ref()
                .and_then(serde_json::Value::as_str)
                .map(clean);
            text.filter(|text| !text.is_empty())
        };
        let millis = retry_after_ms.and_then(|value| {
            let millis = value.as_f64().filter(|millis| *millis >= 0.0)?;
            Some(Duration::from_millis(millis as u64))
        });
        Self {
            status,
            errcode: text(errcode),
            message: text(error),
            retry_after: millis.max(gannet::http::retry_after(headers, now)),
        }
    }

    /// Whether the server says that it does not have, or does not let us have, what was asked for:
    /// an answer, and no fault.
    pub fn is_missing(&self) -> bool {
        matches!(self.status.as_u16(), 403 | 404 | 410)
    }
}

/// A text of somebody else's, for a terminal: without control characters, and cut.
pub(crate) fn clean(text: &str) -> String {
    // What turns the direction of text around would be as bad as what moves the cursor.
    let is_odd = |c: &char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut cut: String = text
        .chars()
        .map(|c| if c == '\n' || c == '\t' { ' ' } else { c })
        .filter(|c| !is_odd(c))
        .take(TEXT_CHARS_MAX + 1)
        .collect();
    if let Some((at, _)) = cut.char_indices().nth(TEXT_CHARS_MAX) {
        cut.truncate(at);
        cut.push_str("...");
    }
    cut
}

impl FederationError {
    /// Where an answer redirects to.
    pub(crate) fn redirected(status: StatusCode, headers: &HeaderMap) -> Self {
        let location = headers.get(LOCATION);
        let location =
            location.map(|location| clean(&String::from_utf8_lossy(location.as_bytes())));
        Self::Redirected { status, location }
    }

    /// The address that may not be connected to, if that is why.
    pub fn refused_address(&self) -> Option<&RefusedAddress> {
        match self {
            Self::Resolve(error) => match &error.kind {
                ResolveErrorKind::Refused(refused) => Some(refused),
                _ => None,
            },
            Self::Connect(error) => match error.cause()? {
                DialError::NotAllowed(refused) => Some(refused),
                _ => None,
            },
            _ => None,
        }
    }

    /// What it means to the engine. An answer that something is not there, or not for us, costs its
    /// server nothing.
    pub fn end(&self) -> End {
        let fault = match self {
            Self::Resolve(error) => match error.kind {
                ResolveErrorKind::Refused(_) => Fault::Forbidden,
                _ => Fault::Unreachable,
            },
            Self::Connect(error) => match error.cause() {
                None | Some(DialError::NotAllowed(_)) => Fault::Forbidden,
                Some(DialError::Refused | DialError::Tls(_)) => Fault::Refused,
                Some(DialError::Unreachable(_)) => Fault::Unreachable,
                Some(DialError::TimedOut(_)) => Fault::TimedOut,
            },
            Self::TimedOut(_) | Self::Body(BodyError::TimedOut(_)) => Fault::TimedOut,
            Self::Broken(_) | Self::Body(BodyError::Broken(_)) => Fault::Truncated,
            Self::Body(BodyError::TooLarge { .. }) => Fault::TooLarge,
            Self::Malformed(_) | Self::Redirected { .. } => Fault::Malformed,
            Self::Answered(answer) => match answer.status.as_u16() {
                403 | 404 | 410 => return End::Missing,
                429 => {
                    return End::Busy {
                        retry_after: answer.retry_after,
                    };
                }
                503 if answer.retry_after.is_some() => {
                    return End::Busy {
                        retry_after: answer.retry_after,
                    };
                }
                // It does not know us, which no other request will change.
                401 => Fault::Forbidden,
                408 | 504 => Fault::TimedOut,
                400..=499 => Fault::Refused,
                500..=599 => Fault::Internal,
                _ => Fault::Malformed,
            },
            Self::NoSigningKey | Self::Request(_) => Fault::Local,
        };
        End::Failed(fault)
    }

    /// As a [`gannet::Transport`] tells it.
    pub fn into_attempt(self) -> AttemptError {
        match self.end() {
            End::Failed(fault) => AttemptError::failed(fault, self.to_string()),
            end => AttemptError {
                end,
                ..AttemptError::failed(Fault::Local, self.to_string())
            },
        }
    }
}

impl From<SendError> for FederationError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Connect(error) => Self::Connect(error),
            SendError::TimedOut(after) => Self::TimedOut(after),
            SendError::Broken(detail) => Self::Broken(detail),
            SendError::Malformed(detail) => Self::Malformed(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, header::RETRY_AFTER};

    #[test]
    fn the_later_of_two_pauses_holds() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let check = |header: Option<&str>, body: &str, seconds: Option<u64>| {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(RETRY_AFTER, HeaderValue::from_str(header).unwrap());
            }
            let answer = ErrorAnswer::of(
                StatusCode::TOO_MANY_REQUESTS,
                &headers,
                body.as_bytes(),
                now,
            );
            let pause = answer.retry_after.map(|pause| pause.as_secs());
            assert_eq!(pause, seconds, "{header:?} {body}");
        };
        check(None, "", None);
        check(Some("3"), "", Some(3));
        check(Some("3"), r#"{"retry_after_ms":9000}"#, Some(9));
        check(Some("30"), r#"{"retry_after_ms":9000}"#, Some(30));
        check(
            Some("Sun, 06 Nov 1994 08:50:37 GMT"),
            r#"{"retry_after_ms":9000.5}"#,
            Some(60),
        );
        check(Some("Sun, 06 Nov 1994 07:50:37 GMT"), "", Some(0));
        check(Some("x"), r#"{"retry_after_ms":-1}"#, None);
        check(None, r#"{"retry_after_ms":"1000"}"#, None);
        check(None, r#"{"retry_after_ms":1e300}"#, Some(u64::MAX / 1000));
        check(None, "[", None);
    }

    #[test]
    fn texts_of_others_are_cleaned_and_cut() {
        let of = |body: &str| {
            let headers = HeaderMap::new();
            ErrorAnswer::of(
                StatusCode::FORBIDDEN,
                &headers,
                body.as_bytes(),
                SystemTime::UNIX_EPOCH,
            )
        };
        let shown = |body: &str| of(body).to_string();
        assert_eq!(shown(""), "403 Forbidden");
        assert_eq!(
            shown(r#"{"errcode":"M_FORBIDDEN","error":"Host\nnot\u001b[2J in\u202e room"}"#),
            "403 Forbidden: M_FORBIDDEN: Host not[2J in room"
        );
        assert_eq!(shown(r#"{"errcode":7,"error":"no"}"#), "403 Forbidden: no");
        let long = shown(&format!(r#"{{"error":"{}"}}"#, "\u{e9}".repeat(1000)));
        assert_eq!(
            long.chars().count(),
            "403 Forbidden: ...".len() + TEXT_CHARS_MAX
        );
        assert!(of("").is_missing());
    }

    #[test]
    fn what_the_engine_makes_of_it() {
        let check = |status: u16, retry_after: Option<u64>, end: End| {
            let error = FederationError::Answered(ErrorAnswer {
                status: StatusCode::from_u16(status).unwrap(),
                errcode: None,
                message: None,
                retry_after: retry_after.map(Duration::from_secs),
            });
            assert_eq!(error.end(), end, "{status}");
            assert_eq!(error.into_attempt().end, end, "{status}");
        };
        let busy = |seconds: Option<u64>| End::Busy {
            retry_after: seconds.map(Duration::from_secs),
        };
        check(404, None, End::Missing);
        check(403, None, End::Missing);
        check(401, None, End::Failed(Fault::Forbidden));
        check(429, None, busy(None));
        check(429, Some(5), busy(Some(5)));
        check(503, Some(5), busy(Some(5)));
        check(503, None, End::Failed(Fault::Internal));
        check(500, None, End::Failed(Fault::Internal));
        check(400, None, End::Failed(Fault::Refused));
        check(504, None, End::Failed(Fault::TimedOut));
    }
}
