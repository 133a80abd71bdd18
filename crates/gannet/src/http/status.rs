//! What statuses mean to the engine.

use crate::engine::{End, Fault};
use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// How an attempt ends that got this status; `None` for 200 and 206, which have something to read.
///
/// A redirect is a fault of our own side: it is for whoever built the address. Not-modified and
/// range errors say that the source has another version than the one asked for.
///
/// ```
/// use gannet::{engine::End, http::end_of_status};
/// use http::{HeaderMap, StatusCode};
///
/// let none = HeaderMap::new();
/// assert_eq!(end_of_status(StatusCode::OK, &none), None);
/// assert_eq!(end_of_status(StatusCode::NOT_FOUND, &none), Some(End::Missing));
/// ```
pub fn end_of_status(status: StatusCode, headers: &HeaderMap) -> Option<End> {
    Some(match status.as_u16() {
        200 | 206 => return None,
        404 | 410 => End::Missing,
        429 | 503 => End::Busy {
            retry_after: retry_after(headers, SystemTime::now()),
        },
        401 | 403 | 407 | 451 => End::Failed(Fault::Forbidden),
        304 | 412 | 416 => End::Failed(Fault::Changed),
        408 | 504 => End::Failed(Fault::TimedOut),
        421 => End::Failed(Fault::NotCoordinator),
        300..=399 => End::Failed(Fault::Local),
        400..=499 => End::Failed(Fault::Refused),
        500..=599 => End::Failed(Fault::Internal),
        _ => End::Failed(Fault::Malformed),
    })
}

/// The pause that a Retry-After header asks for, in either of its forms.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let check = |status: u16, end: Option<End>| {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(end_of_status(status, &HeaderMap::new()), end, "{status}");
        };
        check(200, None);
        check(206, None);
        check(404, Some(End::Missing));
        check(403, Some(End::Failed(Fault::Forbidden)));
        check(412, Some(End::Failed(Fault::Changed)));
        check(500, Some(End::Failed(Fault::Internal)));
        check(504, Some(End::Failed(Fault::TimedOut)));
        check(503, Some(End::Busy { retry_after: None }));
        check(301, Some(End::Failed(Fault::Local)));
        check(400, Some(End::Failed(Fault::Refused)));
        check(101, Some(End::Failed(Fault::Malformed)));
        check(999, Some(End::Failed(Fault::Malformed)));
    }

    #[test]
    fn pauses() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let check = |value: &'static str, pause: Option<u64>| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(
                retry_after(&headers, now),
                pause.map(Duration::from_secs),
                "{value}"
            );
        };
        check("120", Some(120));
        check(" 0 ", Some(0));
        check("Sun, 06 Nov 1994 08:49:47 GMT", Some(10));
        check("Sun, 06 Nov 1994 08:49:07 GMT", Some(0));
        check("-1", None);
        check("soon", None);
        check("99999999999999999999999", None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
