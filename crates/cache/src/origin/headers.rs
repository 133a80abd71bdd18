//! Which of an answer's headers belong to the object and travel with it to the client.

use super::OriginError;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The most bytes of an object's metadata headers, names included. S3 allows 2 KiB of its own; a
/// larger pile is not metadata.
const METADATA_BYTES_MAX: usize = 32 * 1024;

/// Where an origin keeps metadata under other names than S3.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    /// The prefix of user metadata, which becomes `x-amz-meta-`.
    pub(crate) meta: &'static str,
    /// Whether `x-amz-*` headers of the origin are to be believed (storage class, checksums).
    pub(crate) amz: bool,
}

/// S3 and what speaks like it, plain web servers included (many are fronts of S3).
pub(crate) const S3: Dialect = Dialect {
    meta: "x-amz-meta-",
    amz: true,
};
/// Azure Blob.
pub(crate) const AZURE: Dialect = Dialect {
    meta: "x-ms-meta-",
    amz: false,
};

const STANDARD: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_DISPOSITION,
    header::CONTENT_LANGUAGE,
    header::CACHE_CONTROL,
    header::EXPIRES,
];

/// Picks the object's own headers out of an answer's.
pub(crate) fn pick(answer: &HeaderMap, dialect: Dialect) -> Result<HeaderMap, OriginError> {
    let mut picked = HeaderMap::new();
    let mut bytes = 0;
    for (name, value) in answer {
        let text = name.as_str();
        let kept = if STANDARD.contains(name) {
            name.clone()
        } else if let Some(rest) = text.strip_prefix(dialect.meta) {
            match user_metadata(rest) {
                Some(name) => name,
                None => continue,
            }
        } else if dialect.amz
            && (text == "x-amz-storage-class" || text.starts_with("x-amz-checksum-"))
        {
            name.clone()
        } else {
            continue;
        };
        bytes += kept.as_str().len() + value.len();
        if bytes > METADATA_BYTES_MAX {
            return Err(OriginError::Malformed(
                "more than 32 KiB of metadata headers".into(),
            ));
        }
        picked.append(kept, value.clone());
    }
    Ok(picked)
}

/// `x-amz-meta-{name}`, if that is a header name at all.
pub(crate) fn user_metadata(name: &str) -> Option<HeaderName> {
    if name.is_empty() {
        return None;
    }
    HeaderName::try_from(format!("x-amz-meta-{name}")).ok()
}

/// Adds a header if its value can be one; drops it otherwise, as S3 does with what it cannot send.
pub(crate) fn add(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| {
                (
                    HeaderName::from_static(n),
                    HeaderValue::from_str(v).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn only_what_is_the_objects() {
        let answer = map(&[
            ("content-type", "text/plain"),
            ("content-encoding", "gzip"),
            ("cache-control", "max-age=60"),
            ("x-amz-meta-owner", "me"),
            ("x-amz-storage-class", "GLACIER"),
            ("x-amz-checksum-crc32", "AAAA"),
            ("x-amz-request-id", "1"),
            ("set-cookie", "secret"),
            ("content-length", "5"),
            ("server", "x"),
            ("x-ms-meta-owner", "them"),
        ]);
        let picked = pick(&answer, S3).unwrap();
        assert_eq!(picked.len(), 6);
        assert_eq!(picked["x-amz-meta-owner"], "me");
        let picked = pick(&answer, AZURE).unwrap();
        assert_eq!(picked["x-amz-meta-owner"], "them");
        assert!(!picked.contains_key("x-amz-storage-class"));
    }

    #[test]
    fn metadata_is_bounded() {
        let big = "x".repeat(METADATA_BYTES_MAX);
        let answer = map(&[("x-amz-meta-big", &big)]);
        assert!(matches!(pick(&answer, S3), Err(OriginError::Malformed(_))));
    }
}
