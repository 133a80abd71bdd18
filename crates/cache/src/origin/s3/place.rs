//! Where a bucket is: hosts and paths, regions, and the names that may become part of them.

use super::Base;

/// How buckets are addressed.
#[derive(Clone, Debug)]
pub(super) enum Addressing {
    /// Amazon's own hosts.
    Aws {
        /// Whether the bucket is in the path though it could be in the host.
        path_style: bool,
    },
    /// One endpoint.
    Own {
        base: Base,
        /// Whether the bucket is in the path, or before the host.
        path_style: bool,
    },
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) scheme: String,
    pub(super) host: String,
    /// Of the bucket, percent-encoded, without a slash at its end.
    pub(super) path: String,
}

impl Addressing {
    pub(super) fn new(endpoint: Option<Base>, path_style: Option<bool>) -> Self {
        match endpoint {
            Some(base) => Self::Own {
                base,
                path_style: path_style.unwrap_or(true),
            },
            None => Self::Aws {
                path_style: path_style.unwrap_or(false),
            },
        }
    }

    /// The bucket's place, or the service's. Bucket and region have been checked.
    pub(super) fn target(&self, bucket: Option<&str>, region: &str) -> Target {
        let in_path = |scheme: &str, host: &str, path: &str| Target {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            path: bucket.map_or_else(|| path.to_owned(), |bucket| format!("{path}/{bucket}")),
        };
        match self {
            Self::Aws { path_style } => {
                let suffix = if region.starts_with("cn-") {
                    "amazonaws.com.cn"
                } else {
                    "amazonaws.com"
                };
                let host = format!("s3.{region}.{suffix}");
                match bucket {
                    // A dot in the name would leave the certificate's one wildcard.
                    Some(bucket) if !path_style && is_label(bucket) => Target {
                        scheme: "https".to_owned(),
                        host: format!("{bucket}.{host}"),
                        path: String::new(),
                    },
                    _ => in_path("https", &host, ""),
                }
            }
            Self::Own { base, path_style } => match bucket {
                Some(bucket) if !path_style && bucket.split('.').all(is_label) => Target {
                    scheme: base.scheme.clone(),
                    host: format!("{bucket}.{}", base.authority),
                    path: base.path.clone(),
                },
                _ => in_path(&base.scheme, &base.authority, &base.path),
            },
        }
    }
}

/// Whether a name can be a bucket's, as lenient as the oldest and the look-alikes are.
pub(super) fn is_bucket(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Whether a name can be one label of a host.
fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether a name can be a region. It becomes part of a host's name, and may come from an answer:
/// nothing in it can lead to another domain.
pub(super) fn is_region(name: &str) -> bool {
    name.len() <= 32 && is_label(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    fn own(url: &str, path_style: Option<bool>) -> Addressing {
        Addressing::new(Some(Base::of(&Url::parse(url).unwrap())), path_style)
    }

    #[test]
    fn targets() {
        let aws = Addressing::new(None, None);
        for (addressing, bucket, region, url) in [
            (
                &aws,
                Some("b"),
                "eu-west-1",
                "https://b.s3.eu-west-1.amazonaws.com",
            ),
            (
                &aws,
                Some("a.b"),
                "eu-west-1",
                "https://s3.eu-west-1.amazonaws.com/a.b",
            ),
            (
                &aws,
                Some("Old_1"),
                "us-east-1",
                "https://s3.us-east-1.amazonaws.com/Old_1",
            ),
            (
                &aws,
                Some("b"),
                "cn-north-1",
                "https://b.s3.cn-north-1.amazonaws.com.cn",
            ),
            (
                &aws,
                None,
                "us-east-1",
                "https://s3.us-east-1.amazonaws.com",
            ),
            (
                &Addressing::new(None, Some(true)),
                Some("b"),
                "r",
                "https://s3.r.amazonaws.com/b",
            ),
            (
                &own("http://h:9000", None),
                Some("b"),
                "r",
                "http://h:9000/b",
            ),
            (
                &own("http://h:9000/x", None),
                Some("b"),
                "r",
                "http://h:9000/x/b",
            ),
            (&own("http://h:9000", None), None, "r", "http://h:9000"),
            (
                &own("https://h", Some(false)),
                Some("a.b"),
                "r",
                "https://a.b.h",
            ),
        ] {
            let Target { scheme, host, path } = addressing.target(bucket, region);
            assert_eq!(format!("{scheme}://{host}{path}"), url);
        }
    }

    #[test]
    fn names() {
        for (name, bucket, region) in [
            ("us-east-1", true, true),
            ("my.bucket_X", true, false),
            ("", false, false),
            ("..", false, false),
            ("a/b", false, false),
            ("evil.example", true, false),
            ("a%2f", false, false),
            ("ü", false, false),
        ] {
            assert_eq!(
                (is_bucket(name), is_region(name)),
                (bucket, region),
                "{name}"
            );
        }
    }
}
