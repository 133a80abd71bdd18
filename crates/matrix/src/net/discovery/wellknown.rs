//! What a well-known says, for how long, and where a redirect leads to; without I/O.

use http::{
    HeaderMap, StatusCode,
    header::{AGE, CACHE_CONTROL, DATE, EXPIRES, LOCATION},
    uri::{Scheme, Uri},
};
use ruma_common::{OwnedServerName, ServerName};
use serde::Deserialize;
use std::time::{Duration, SystemTime};

/// Where it is.
pub(crate) const PATH: &str = "/.well-known/matrix/server";
/// The largest body that is read.
pub(crate) const BODY_BYTES_MAX: usize = 50 << 10;
/// Redirects that are followed.
pub(crate) const REDIRECTS_MAX: usize = 5;

/// Why a well-known is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Useless {
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the body is no JSON object with a text `m.server`: {0}")]
    Json(String),
    #[error("`m.server` is {0:?}, which is no server name")]
    Name(String),
    #[error("the body is larger than {} KiB", BODY_BYTES_MAX >> 10)]
    TooLarge,
    #[error("more than {REDIRECTS_MAX} redirects")]
    TooManyRedirects,
    #[error("a redirect leads back to {0}")]
    Loop(String),
    #[error("a redirect leads to {0:?}, which is no https address")]
    BadRedirect(String),
    /// It could not be had at all: it may be there.
    #[error("{0}")]
    Unreachable(String),
    /// Name servers did not say where it is; what follows had better not wait for them as often again.
    #[error("{0}")]
    Silence(String),
}

impl Useless {
    /// Whether it may be of use another time, so that what it said before may still hold.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Unreachable(_) | Self::Silence(_) => true,
            _ => false,
        }
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "m.server")]
    server: String,
}

/// The server that a body delegates to.
pub(crate) fn parse(body: &[u8]) -> Result<OwnedServerName, Useless> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Useless::TooLarge);
    }
    let Body { server } =
        serde_json::from_slice(body).map_err(|error| Useless::Json(error.to_string()))?;
    ServerName::parse(server.as_str())
        .map_err(|_| Useless::Name(server.chars().take(300).collect()))
}

/// How long an answer holds, within these bounds; [`default`](Lifetimes::default) where it does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetimes {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
    pub(crate) default: Duration,
}

impl Lifetimes {
    /// By the headers of the answer, that came now.
    pub(crate) fn of(&self, headers: &HeaderMap, now: SystemTime) -> Duration {
        let said = said(headers, now).unwrap_or(self.default);
        said.min(self.max).max(self.min)
    }
}

fn said(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let age = || {
        let age = headers.get(AGE)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(age))
    };
    let mut max_age = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let (name, value) = match directive.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim().trim_matches('"')),
                None => (directive.trim(), ""),
            };
            if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
                return Some(Duration::ZERO);
            }
            if name.eq_ignore_ascii_case("max-age") && max_age.is_none() {
                // One that cannot be read is taken as stale (RFC 9111, section 4.2.1), one that is too
                // large as the largest.
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let most = if digits { u64::MAX } else { 0 };
                max_age = Some(Duration::from_secs(value.parse().unwrap_or(most)));
            }
        }
    }
    if let Some(max_age) = max_age {
        return Some(max_age.saturating_sub(age().unwrap_or_default()));
    }
    let expires = headers.get(EXPIRES)?.to_str().unwrap_or_default();
    // `0` and the like say that it is stale already.
    let Ok(expires) = httpdate::parse_http_date(expires) else {
        return Some(Duration::ZERO);
    };
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let lasts = expires
        .duration_since(date.unwrap_or(now))
        .unwrap_or_default();
    Some(lasts.saturating_sub(age().unwrap_or_default()))
}

/// An https address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Url {
    /// A name, or an address in brackets or not, without a port.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
}

impl Url {
    /// The well-known of a host.
    pub(crate) fn of(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            path: PATH.to_owned(),
        }
    }

    /// What the `Host` header says.
    pub(crate) fn authority(&self) -> String {
        match self.port {
            443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }

    /// Where a redirect of this address leads to.
    pub(crate) fn join(&self, location: &str) -> Result<Self, Useless> {
        let bad = || Useless::BadRedirect(location.chars().take(300).collect());
        let location = location.split('#').next().unwrap_or_default();
        let base = format!("https://{}", self.authority());
        let text = if location.starts_with("//") {
            format!("https:{location}")
        } else if location.starts_with('/') {
            format!("{base}{location}")
        } else if location.contains("://") {
            location.to_owned()
        } else if location.is_empty()
            || location
                .split('/')
                .next()
                .is_some_and(|part| part.contains(':'))
        {
            return Err(bad());
        } else {
            let path = self.path.split('?').next().unwrap_or_default();
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{base}{folder}/{location}")
        };
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        // Whoever is behind a name and a password is not ours to guess.
        let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
        if uri.scheme() != Some(&Scheme::HTTPS) || !plain {
            return Err(bad());
        }
        // A port that is written must be one.
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None => 443,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(bad)?,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            host: authority.host().to_ascii_lowercase(),
            port,
            path: if path.is_empty() { "/" } else { path }.to_owned(),
        })
    }
}

/// Where an answer redirects to, if it does.
pub(crate) fn redirect(
    from: &Url,
    status: StatusCode,
    headers: &HeaderMap,
) -> Option<Result<Url, Useless>> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = headers.get(LOCATION);
    let location = location.map(|location| location.to_str().unwrap_or_default());
    Some(from.join(location.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn bodies() {
        let name = |body: &str| parse(body.as_bytes()).ok().map(|name| name.to_string());
        assert_eq!(
            name(r#"{"m.server":"a.test:443"}"#).as_deref(),
            Some("a.test:443")
        );
        assert_eq!(
            name(r#"{"x":[{}],"m.server":"[::1]"}"#).as_deref(),
            Some("[::1]")
        );
        for bad in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"m.server":1}"#,
            r#"{"m.server":""}"#,
            r#"{"m.server":"https://a.test"}"#,
            r#"{"m.server":"a.test/"}"#,
            r#"{"m.server":"a.test:65536"}"#,
            r#"{"m.server":"a b"}"#,
            r#"{"m.server":"a.test","m.server":"b.test"}"#,
            r#"{"m.server":"a.test"} "#.repeat(2).as_str(),
            &"[".repeat(40_000),
            &format!(r#"{{"m.server":"{}"}}"#, "a".repeat(300)),
        ] {
            assert_eq!(name(bad), None, "{}", &bad[..bad.len().min(60)]);
        }
        let padded = |n: usize| format!(r#"{{"m.server":"a.test"}}{}"#, " ".repeat(n));
        assert!(name(&padded(BODY_BYTES_MAX - 21)).is_some());
        assert_eq!(
            parse(padded(BODY_BYTES_MAX).as_bytes()),
            Err(Useless::TooLarge)
        );
    }

    #[test]
    fn lifetimes() {
        let lifetimes = Lifetimes {
            min: Duration::from_secs(300),
            max: Duration::from_secs(172_800),
            default: Duration::from_secs(86_400),
        };
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let check = |headers: &[(&str, &str)], seconds: u64| {
            let headers: HeaderMap = headers
                .iter()
                .map(|(name, value)| {
                    let name: HeaderName = name.parse().unwrap();
                    (name, HeaderValue::from_str(value).unwrap())
                })
                .collect();
            assert_eq!(
                lifetimes.of(&headers, now).as_secs(),
                seconds,
                "{headers:?}"
            );
        };
        check(&[], 86_400);
        check(&[("cache-control", "max-age=3600")], 3600);
        check(&[("cache-control", "public, Max-Age=\"3600\"")], 3600);
        check(&[("cache-control", "max-age=3600"), ("age", "600")], 3000);
        check(&[("cache-control", "max-age=1")], 300);
        check(
            &[("cache-control", "max-age=99999999999999999999")],
            172_800,
        );
        check(&[("cache-control", "max-age=-1")], 300);
        check(&[("cache-control", "max-age=")], 300);
        check(&[("cache-control", "no-store, max-age=3600")], 300);
        check(
            &[
                ("cache-control", "max-age=3600"),
                ("cache-control", "no-cache"),
            ],
            300,
        );
        check(&[("cache-control", "public")], 86_400);
        check(&[("expires", "Sun, 06 Nov 1994 09:49:37 GMT")], 3600);
        check(&[("expires", "Sun, 06 Nov 1994 07:49:37 GMT")], 300);
        check(&[("expires", "0")], 300);
        check(&[("expires", "Fri, 06 Nov 2099 09:49:37 GMT")], 172_800);
        let expires = ("expires", "Sun, 06 Nov 1994 12:00:00 GMT");
        check(&[expires, ("date", "Sun, 06 Nov 1994 11:00:00 GMT")], 3600);
        check(&[expires, ("cache-control", "max-age=600")], 600);
    }

    #[test]
    fn redirects() {
        let from = Url::of("a.test", 443);
        let check = |location: &str, to: Option<(&str, u16, &str)>| {
            let url = from.join(location).ok();
            let url = url.as_ref().map(|url| (&*url.host, url.port, &*url.path));
            assert_eq!(url, to, "{location}");
        };
        check("https://b.test/x?y#z", Some(("b.test", 443, "/x?y")));
        check("https://B.test:8443", Some(("b.test", 8443, "/")));
        check("HTTPS://b.test", Some(("b.test", 443, "/")));
        check("https://[::1]:5/", Some(("[::1]", 5, "/")));
        check("//b.test/x", Some(("b.test", 443, "/x")));
        check("/x", Some(("a.test", 443, "/x")));
        check("x", Some(("a.test", 443, "/.well-known/matrix/x")));
        check("https://?x", None);
        for bad in [
            "",
            "#x",
            "http://b.test/",
            "ftp://b.test/",
            "https://",
            "https://u:p@b.test/",
            "https://b.test:x/",
            "https://b.test:0/",
            "https://b.test:99999/",
            "mailto:x@y",
            "javascript:1",
            "https://b test/",
            "https://\u{e9}.test/",
        ] {
            check(bad, None);
        }
        let own = Url {
            port: 8443,
            ..from.clone()
        };
        assert_eq!(own.join("/x").unwrap().authority(), "a.test:8443");
        assert_eq!(from.authority(), "a.test");
    }
}
