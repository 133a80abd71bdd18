//! What a request names: the service, a bucket, or an object; path style and virtual-host style.
//!
//! The whole path is percent-decoded first and split at the first slash after that, which is what
//! S3's signature check does too: what is signed and what is served are the same. Keys are not
//! normalised: `a//b`, `..` and a leading slash are parts of a key like any other.

use crate::types::ObjectName;
use std::borrow::Cow;

/// The longest key, in bytes: S3's.
pub const KEY_LEN_MAX: usize = 1024;
/// The longest bucket name, in bytes: a file name's (buckets of `file://` are directories), which is
/// more than S3's 63.
pub const BUCKET_LEN_MAX: usize = 255;

/// What a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/`: the service.
    Root,
    /// A bucket.
    Bucket(String),
    /// An object.
    Object(ObjectName),
}

/// Why a request names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Bad percent-encoding, not UTF-8, or a NUL.
    #[error("Couldn't parse the specified URI.")]
    InvalidUri,
    /// No bucket can be called that.
    #[error("The specified bucket is not valid.")]
    InvalidBucketName,
    /// More than 1,024 bytes.
    #[error("Your key is too long.")]
    KeyTooLong,
}

impl Target {
    /// Reads the path of a request (still encoded, without the query). `host` is its `Host`;
    /// `domains` are the names under which buckets are hosts (lower case, without port).
    ///
    /// # Errors
    /// As [`TargetError`] says.
    pub fn parse(path: &str, host: Option<&str>, domains: &[String]) -> Result<Self, TargetError> {
        let path = path.strip_prefix('/').ok_or(TargetError::InvalidUri)?;
        let path = decode(path)?;
        if let Some(bucket) = host.and_then(|host| bucket_of_host(host, domains)) {
            return Self::new(&bucket, &path);
        }
        match path.split_once('/') {
            None if path.is_empty() => Ok(Self::Root),
            None => Self::new(&path, ""),
            Some((bucket, key)) => Self::new(bucket, key),
        }
    }

    fn new(bucket: &str, key: &str) -> Result<Self, TargetError> {
        check_bucket(bucket)?;
        if key.is_empty() {
            return Ok(Self::Bucket(bucket.to_owned()));
        }
        if key.len() > KEY_LEN_MAX {
            return Err(TargetError::KeyTooLong);
        }
        Ok(Self::Object(ObjectName {
            bucket: bucket.into(),
            key: key.into(),
        }))
    }

    /// The bucket, if one is named.
    pub fn bucket(&self) -> Option<&str> {
        match self {
            Self::Root => None,
            Self::Bucket(bucket) => Some(bucket),
            Self::Object(name) => Some(&name.bucket),
        }
    }
}

/// Lenient, because a directory may be called almost anything; but never a path of its own.
fn check_bucket(name: &str) -> Result<(), TargetError> {
    let bad = name.is_empty()
        || name.len() > BUCKET_LEN_MAX
        || name == "."
        || name == ".."
        || name.contains(['/', '\\'])
        || name.chars().any(char::is_control);
    if bad {
        Err(TargetError::InvalidBucketName)
    } else {
        Ok(())
    }
}

fn decode(path: &str) -> Result<Cow<'_, str>, TargetError> {
    let bytes = path.as_bytes();
    let escapes_are_whole = bytes.iter().enumerate().all(|(i, &b)| {
        b != b'%'
            || bytes
                .get(i + 1..i + 3)
                .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    if !escapes_are_whole {
        return Err(TargetError::InvalidUri);
    }
    let path = percent_encoding::percent_decode(bytes)
        .decode_utf8()
        .map_err(|_| TargetError::InvalidUri)?;
    if path.contains('\0') {
        Err(TargetError::InvalidUri)
    } else {
        Ok(path)
    }
}

/// `bucket.domain:port` to `bucket`.
pub(crate) fn bucket_of_host(host: &str, domains: &[String]) -> Option<String> {
    if domains.is_empty() {
        return None;
    }
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    domains
        .iter()
        .find_map(|domain| host.strip_suffix(domain.as_str())?.strip_suffix('.'))
        .filter(|bucket| !bucket.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(bucket: &str, key: &str) -> Result<Target, TargetError> {
        Ok(Target::Object(ObjectName {
            bucket: bucket.into(),
            key: key.into(),
        }))
    }

    fn bucket(name: &str) -> Result<Target, TargetError> {
        Ok(Target::Bucket(name.to_owned()))
    }

    #[test]
    fn path_style() {
        let check = |path: &str, want| assert_eq!(Target::parse(path, None, &[]), want, "{path}");
        check("/", Ok(Target::Root));
        check("/b", bucket("b"));
        check("/b/", bucket("b"));
        check("/b/k", object("b", "k"));
        check("/b//k", object("b", "/k"));
        check("/b/a//b", object("b", "a//b"));
        check("/b/../../etc/passwd", object("b", "../../etc/passwd"));
        check("/b/a%20b+c%2Bd", object("b", "a b+c+d"));
        check("/b/%E2%82%AC/%25", object("b", "€/%"));
        check("/b%2Fk", object("b", "k"));
        check("/b/k%2f", object("b", "k/"));
        for bad in ["", "b", "/b/%", "/b/%2", "/b/%zz", "/b/%ff", "/b/%00", "*"] {
            check(bad, Err(TargetError::InvalidUri));
        }
        for bad in ["//k", "/../k", "/./k", "/a%5Cb/k", "/a%0Ab/k"] {
            check(bad, Err(TargetError::InvalidBucketName));
        }
        check(
            &format!("/b/{}", "k".repeat(1024)),
            object("b", &"k".repeat(1024)),
        );
        check(
            &format!("/b/{}", "k".repeat(1025)),
            Err(TargetError::KeyTooLong),
        );
    }

    #[test]
    fn virtual_host_style() {
        let domains = ["s3.example.com".to_owned(), "localhost".to_owned()];
        let check = |host: &str, path: &str, want| {
            assert_eq!(
                Target::parse(path, Some(host), &domains),
                want,
                "{host} {path}"
            );
        };
        check("my.s3.example.com", "/k", object("my", "k"));
        check(
            "my.dotted.s3.example.com:9000",
            "/a/b",
            object("my.dotted", "a/b"),
        );
        check("MY.S3.Example.com.", "/", bucket("my"));
        check("b.localhost:9000", "//k", object("b", "/k"));
        check("s3.example.com", "/b/k", object("b", "k"));
        check("xs3.example.com", "/b/k", object("b", "k"));
        check("other.org", "/b/k", object("b", "k"));
        check("127.0.0.1:9000", "/b/k", object("b", "k"));
        check("[::1]:9000", "/b/k", object("b", "k"));
    }
}
