//! `https://host/prefix` and `http://`: any web server that keeps files still.
//!
//! The first segment below the prefix is the bucket, the rest the key. Keys with `.` or `..`
//! segments are refused: servers resolve them, which would lead out of the prefix. A strong etag is
//! the identity. Where the operator allows weak ones, so is `W/"..."`, or Last-Modified with the
//! length; neither works with If-Match, so that the validators of each answer are compared instead.
//!
//! Redirects are followed within the origin only (same scheme, host, port, below the prefix), three
//! times at most: to follow one elsewhere would let whoever writes to the origin make us ask any
//! host that we can reach. There are no listings.

use super::{
    BoxFuture, Origin, OriginError, OriginStream, encode, headers,
    spec::{OriginConfigError, OriginSpec},
    validators::{self, Etag},
    wire::{self, About, Answer, Base},
};
use crate::types::{BucketEntry, ListPage, ListQuery, ObjectMeta, ObjectName};
use gannet::http::Client;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};
use url::Url;

/// Redirects of one request that are followed.
const REDIRECTS_MAX: usize = 3;
/// What a synthetic identity begins with.
const SYNTHETIC: &str = "W/\"lm-";

/// A web server's directory.
#[derive(Debug)]
pub(crate) struct Http {
    id: String,
    client: Client,
    base: Base,
    allow_weak: bool,
}

impl Http {
    pub(crate) fn open(spec: &OriginSpec, url: &Url) -> Result<Self, OriginConfigError> {
        let base = Base::of(url);
        Ok(Self {
            id: base.to_string(),
            client: spec.http_client()?,
            base,
            allow_weak: spec.allow_weak,
        })
    }

    /// The object's address.
    fn uri(&self, name: &ObjectName) -> Result<String, OriginError> {
        if !encode::is_segment(&name.bucket) {
            return Err(OriginError::NoSuchBucket);
        }
        if name.key.is_empty() {
            return Err(OriginError::NoSuchKey);
        }
        encode::check_key_len(&name.key)?;
        // A backslash is a slash to some servers.
        if encode::has_dot_segment(&name.key.replace('\\', "/")) {
            return Err(OriginError::Invalid(
                "keys with '.' or '..' between slashes are refused: web servers resolve them"
                    .into(),
            ));
        }
        let mut uri = self.base.to_string();
        uri.push('/');
        encode::push_segment(&mut uri, &name.bucket);
        uri.push('/');
        encode::push_path(&mut uri, &name.key);
        Ok(uri)
    }

    /// Sends a request, and follows redirects within the origin.
    async fn send(
        &self,
        method: Method,
        uri: &str,
        mut headers: HeaderMap,
    ) -> Result<Answer, OriginError> {
        // Compressed on the fly it would be another object, with a weak etag.
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        let mut at = uri.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let answer = wire::send(&self.client, method.clone(), &at, headers.clone()).await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            match validators::sole(&answer.headers, &header::LOCATION)
                .and_then(|location| self.within(&at, location))
            {
                Some(next) => at = next,
                None => return Err(answer.into_error(About::Object).await),
            }
        }
        Err(OriginError::Unsupported(
            format!("the origin redirects more than {REDIRECTS_MAX} times").into(),
        ))
    }

    /// Where a redirect leads, if that is within the origin.
    fn within(&self, from: &str, location: &str) -> Option<String> {
        let mut to = Url::parse(from).ok()?.join(location).ok()?;
        to.set_fragment(None);
        let base = Base::of(&to);
        let inside = base.scheme == self.base.scheme
            && base.authority == self.base.authority
            && to.username().is_empty()
            && to.password().is_none()
            && to.path().strip_prefix(&self.base.path).is_some_and(|rest| rest.starts_with('/'))
            // The parser resolves `..`, and `%2e%2e` too; what hides behind `%2f` stays suspect.
            && !to.path().to_ascii_lowercase().contains("%2f")
            && !to.path().to_ascii_lowercase().contains("%5c");
        inside.then(|| to.into())
    }

    async fn look(&self, name: &ObjectName) -> Result<ObjectMeta, OriginError> {
        let uri = self.uri(name)?;
        let answer = self.send(Method::HEAD, &uri, HeaderMap::new()).await?;
        match answer.status {
            StatusCode::OK => match validators::content_length(&answer.headers) {
                // Some frameworks say of everything that it is empty.
                None | Some(0) => self.look_by_reading(&uri).await,
                Some(size) => self.meta(&answer.headers, size),
            },
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                self.look_by_reading(&uri).await
            }
            _ => Err(answer.into_error(About::Object).await),
        }
    }

    /// Asks for the first byte instead, where a server has no HEAD, or no length in it.
    async fn look_by_reading(&self, uri: &str) -> Result<ObjectMeta, OriginError> {
        let headers = wire::with(header::RANGE, validators::range_header(&(0..1)));
        let answer = self.send(Method::GET, uri, headers).await?;
        let content = validators::content_range(&answer.headers);
        let size = match (answer.status, content) {
            (StatusCode::PARTIAL_CONTENT, Some(content)) => content.size,
            // Of nothing there is no first byte: ask for all of it.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(content)) if content.size == Some(0) => {
                let whole = self.send(Method::GET, uri, HeaderMap::new()).await?;
                if !whole.status.is_success() {
                    return Err(whole.into_error(About::Object).await);
                }
                let size = validators::content_length(&whole.headers).ok_or_else(lengthless)?;
                return self.meta(&whole.headers, size);
            }
            (StatusCode::OK, _) => validators::content_length(&answer.headers),
            (status, _) if status.is_success() => None,
            _ => return Err(answer.into_error(About::Object).await),
        };
        self.meta(&answer.headers, size.ok_or_else(lengthless)?)
    }

    fn meta(&self, answer: &HeaderMap, size: u64) -> Result<ObjectMeta, OriginError> {
        Ok(ObjectMeta {
            size,
            etag: identity(answer, Some(size), self.allow_weak).ok_or(OriginError::MissingEtag)?,
            modified: validators::last_modified(answer).unwrap_or(SystemTime::UNIX_EPOCH),
            headers: Arc::new(headers::pick(answer, headers::S3)?),
        })
    }

    async fn read_range(
        &self,
        name: &ObjectName,
        etag: &str,
        size: Option<u64>,
        range: Range<u64>,
    ) -> Result<OriginStream, OriginError> {
        let uri = self.uri(name)?;
        let mut headers = wire::read_headers(etag, &range)?;
        if etag.starts_with("W/") {
            if !self.allow_weak {
                return Err(OriginError::MissingEtag);
            }
            // A weak etag never matches If-Match.
            headers.remove(header::IF_MATCH);
            if let Some(modified) = synthetic_time(etag) {
                let date = httpdate::fmt_http_date(modified);
                headers.insert(header::IF_UNMODIFIED_SINCE, wire::header_value(&date)?);
            }
        }
        let answer = self.send(Method::GET, &uri, headers).await?;
        if !answer.status.is_success() {
            return Err(answer.into_error(About::Object).await);
        }
        let found = match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                validators::content_range(&answer.headers).and_then(|content| content.size)
            }
            _ => validators::content_length(&answer.headers),
        };
        match identity(&answer.headers, found, self.allow_weak) {
            Some(found) if *found == *etag => {}
            Some(_) => return Err(OriginError::Changed),
            None => return Err(OriginError::MissingEtag),
        }
        wire::ranged(answer, size, &range, wire::SKIP_BYTES_MAX)
    }
}

/// What tells this version from others: a strong etag; where weak ones are allowed, such a one, or
/// else Last-Modified with the length.
fn identity(answer: &HeaderMap, size: Option<u64>, allow_weak: bool) -> Option<Arc<str>> {
    match validators::etag(answer) {
        Some(Etag::Strong(etag)) => Some(etag),
        _ if !allow_weak => None,
        Some(Etag::Weak(etag)) => Some(etag),
        None => {
            let modified = validators::last_modified(answer)?;
            let seconds = modified
                .duration_since(SystemTime::UNIX_EPOCH)
                .ok()?
                .as_secs();
            Some(format!("{SYNTHETIC}{seconds:x}-{:x}\"", size?).into())
        }
    }
}

/// The Last-Modified in a synthetic identity.
fn synthetic_time(etag: &str) -> Option<SystemTime> {
    let (seconds, _) = etag.strip_prefix(SYNTHETIC)?.split_once('-')?;
    let seconds = u64::from_str_radix(seconds, 16).ok()?;
    // The year 9999: what an HTTP date can say.
    (seconds < 253_402_300_800).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

impl Origin for Http {
    fn id(&self) -> &str {
        &self.id
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<ObjectMeta, OriginError>> {
        Box::pin(self.look(name))
    }

    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        etag: &'a str,
        size: Option<u64>,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<OriginStream, OriginError>> {
        Box::pin(self.read_range(name, etag, size, range))
    }

    fn list<'a>(&'a self, _query: &'a ListQuery) -> BoxFuture<'a, Result<ListPage, OriginError>> {
        Box::pin(async { Err(no_listings()) })
    }

    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketEntry>, OriginError>> {
        Box::pin(async { Err(no_listings()) })
    }

    /// A web server knows no buckets; one that refuses to show a directory has it.
    fn head_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), OriginError>> {
        Box::pin(async move {
            if !encode::is_segment(bucket) {
                return Err(OriginError::NoSuchBucket);
            }
            let mut uri = self.base.to_string();
            uri.push('/');
            encode::push_segment(&mut uri, bucket);
            uri.push('/');
            let answer = self.send(Method::HEAD, &uri, HeaderMap::new()).await?;
            match answer.status.as_u16() {
                200..=299 | 403 | 405 | 501 => Ok(()),
                _ => Err(answer.into_error(About::Bucket).await),
            }
        })
    }
}

fn lengthless() -> OriginError {
    OriginError::Unsupported("the server does not say how long the object is".into())
}

fn no_listings() -> OriginError {
    OriginError::Unsupported("a plain web server cannot be listed: ask for objects by name".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Http {
        Http::open(&OriginSpec::new(url), &Url::parse(url).unwrap()).unwrap()
    }

    #[test]
    fn addresses() {
        let origin = origin("https://h:8443/a%20b");
        let uri = |bucket: &str, key: &str| {
            origin.uri(&ObjectName {
                bucket: bucket.into(),
                key: key.into(),
            })
        };
        assert_eq!(
            uri("b", "k/ü x").unwrap(),
            "https://h:8443/a%20b/b/k/%C3%BC%20x"
        );
        assert_eq!(uri("b", "a//b/").unwrap(), "https://h:8443/a%20b/b/a//b/");
        for (bucket, key) in [
            ("..", "k"),
            ("b/c", "k"),
            ("", "k"),
            ("b", ""),
            ("b", "x/../y"),
            ("b", ".."),
            ("b", "x\\..\\y"),
        ] {
            assert!(uri(bucket, key).is_err(), "{bucket} {key}");
        }
    }

    #[test]
    fn redirects_stay_within() {
        let origin = origin("http://h:81/pre");
        let from = "http://h:81/pre/b/k";
        for (location, inside) in [
            ("http://h:81/pre/b/other", true),
            ("/pre/b/other?v=1", true),
            ("other", true),
            ("../../pre/x", true),
            ("../../secret", false),
            ("/prefix/x", false),
            ("/pre", false),
            ("/pre/%2e%2e/x", false),
            ("/pre/..%2fx", false),
            ("http://h/pre/b/k", false),
            ("https://h:81/pre/b/k", false),
            ("http://user@h:81/pre/b/k", false),
            ("http://169.254.169.254/pre/latest", false),
            ("//evil/pre/b", false),
            ("file:///etc/passwd", false),
            ("http://", false),
        ] {
            assert_eq!(
                origin.within(from, location).is_some(),
                inside,
                "{location}"
            );
        }
    }

    #[test]
    fn identities() {
        let map = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_static(v)))
                .collect::<HeaderMap>()
        };
        let strong = map(&[
            ("etag", "\"s\""),
            ("last-modified", "Thu, 01 Jan 1970 00:00:16 GMT"),
        ]);
        let weak = map(&[("etag", "W/\"w\"")]);
        let date = map(&[("last-modified", "Thu, 01 Jan 1970 00:00:16 GMT")]);
        for (headers, allow_weak, want) in [
            (&strong, false, Some("\"s\"")),
            (&strong, true, Some("\"s\"")),
            (&weak, false, None),
            (&weak, true, Some("W/\"w\"")),
            (&date, false, None),
            (&date, true, Some("W/\"lm-10-ff\"")),
            (&HeaderMap::new(), true, None),
        ] {
            assert_eq!(identity(headers, Some(255), allow_weak).as_deref(), want);
        }
        assert_eq!(identity(&date, None, true), None);
        let at = synthetic_time("W/\"lm-10-ff\"").unwrap();
        assert_eq!(at, SystemTime::UNIX_EPOCH + Duration::from_secs(16));
        assert_eq!(synthetic_time("W/\"lm-ffffffffffffffff-1\""), None);
        assert_eq!(synthetic_time("W/\"w\""), None);
    }
}
