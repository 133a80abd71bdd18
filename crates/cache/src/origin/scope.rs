//! What of an object service an origin is: all its buckets, one of them, or what lies below a prefix
//! of one. S3, Azure and GCS read a client's bucket and key through it.

use super::{OriginError, encode};
use crate::types::{BucketEntry, ListQuery, ObjectName};

/// Buckets and prefix of an origin.
#[derive(Debug)]
pub(crate) struct Scope {
    /// The only bucket there is.
    bucket: Option<String>,
    /// Empty, or ends in a slash.
    prefix: String,
    /// What the service allows as a bucket's name.
    is_bucket: fn(&str) -> bool,
}

impl Scope {
    /// `prefix` has no slashes at its ends.
    pub(crate) fn new(
        bucket: Option<String>,
        mut prefix: String,
        is_bucket: fn(&str) -> bool,
    ) -> Self {
        if !prefix.is_empty() {
            prefix.push('/');
        }
        Self {
            bucket,
            prefix,
            is_bucket,
        }
    }

    /// What every key of the origin begins with: empty, or ends in a slash.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The origin's id: the service's, and what of it this is.
    pub(crate) fn id(&self, mut service: String) -> String {
        let prefix = self.prefix.trim_end_matches('/');
        for part in self.bucket.as_deref().into_iter().chain([prefix]) {
            if !part.is_empty() {
                service.push('/');
                service.push_str(part);
            }
        }
        service
    }

    /// The list of buckets, where the origin is of one.
    pub(crate) fn only(&self) -> Option<Vec<BucketEntry>> {
        self.bucket.as_ref().map(|bucket| {
            vec![BucketEntry {
                name: bucket.clone(),
                created: None,
            }]
        })
    }

    /// Refuses buckets that are not of this origin.
    pub(crate) fn check_bucket(&self, bucket: &str) -> Result<(), OriginError> {
        let known = self.bucket.as_deref().is_none_or(|only| only == bucket);
        if known && (self.is_bucket)(bucket) {
            Ok(())
        } else {
            Err(OriginError::NoSuchBucket)
        }
    }

    /// The key as the service knows it.
    pub(crate) fn key(&self, name: &ObjectName) -> Result<String, OriginError> {
        self.check_bucket(&name.bucket)?;
        if name.key.is_empty() {
            return Err(OriginError::NoSuchKey);
        }
        let key = format!("{}{}", self.prefix, name.key);
        encode::check_key_len(&key)?;
        Ok(key)
    }

    /// The prefix and the delimiter to list by.
    pub(crate) fn listing<'a>(
        &self,
        query: &'a ListQuery,
    ) -> Result<(String, Option<&'a str>), OriginError> {
        self.check_bucket(&query.bucket)?;
        let delimiter = query.delimiter.as_deref();
        Ok((
            format!("{}{}", self.prefix, query.prefix),
            delimiter.filter(|delimiter| !delimiter.is_empty()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(bucket: Option<&str>, prefix: &str) -> Scope {
        Scope::new(bucket.map(Into::into), prefix.into(), |name| name != "bad")
    }

    fn key(scope: &Scope, bucket: &str, key: &str) -> Result<String, String> {
        let name = ObjectName {
            bucket: bucket.into(),
            key: key.into(),
        };
        scope.key(&name).map_err(|error| error.to_string())
    }

    #[test]
    fn keys() {
        let (all, one) = (scope(None, ""), scope(Some("b"), "p/q"));
        assert_eq!(key(&all, "any", "k").as_deref(), Ok("k"));
        assert_eq!(key(&one, "b", "/k").as_deref(), Ok("p/q//k"));
        for (scope, bucket, name, want) in [
            (&all, "bad", "k", "no such bucket"),
            (&one, "other", "k", "no such bucket"),
            (&one, "b", "", "no such key"),
        ] {
            assert_eq!(key(scope, bucket, name).unwrap_err(), want);
        }
        let long = "k".repeat(encode::KEY_BYTES_MAX);
        assert!(key(&all, "any", &long).is_ok());
        assert!(key(&one, "b", &long).unwrap_err().contains("1,024 bytes"));
    }

    #[test]
    fn ids_and_buckets() {
        for (scope, id, only) in [
            (scope(None, ""), "s3:/", None),
            (scope(Some("b"), ""), "s3://b", Some("b")),
            (scope(Some("b"), "p/q"), "s3://b/p/q", Some("b")),
        ] {
            assert_eq!(scope.id("s3:/".to_owned()), id);
            let buckets = scope.only().map(|list| list[0].name.clone());
            assert_eq!(buckets.as_deref(), only);
        }
    }

    #[test]
    fn listings() {
        let query = |bucket: &str, delimiter: Option<&str>| ListQuery {
            bucket: bucket.into(),
            prefix: "a/".into(),
            delimiter: delimiter.map(Into::into),
            start_after: None,
            token: None,
            keys_max: 10,
        };
        let scope = scope(Some("b"), "p");
        for (delimiter, want) in [(None, None), (Some(""), None), (Some("/"), Some("/"))] {
            let query = query("b", delimiter);
            let (prefix, delimiter) = scope.listing(&query).unwrap();
            assert_eq!((prefix.as_str(), delimiter), ("p/a/", want));
        }
        assert!(scope.listing(&query("other", None)).is_err());
    }
}
