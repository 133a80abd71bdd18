//! Which origin: a URL and options, read into an [`Origin`].

use super::{Origin, azure, env::Environment, file, gcs, http, s3};
use gannet::http::{Client, ClientConfig};
use std::{path::PathBuf, sync::Arc};
use url::Url;

/// An origin as the operator names it.
#[derive(Clone, Debug, Default)]
pub struct OriginSpec {
    /// `s3://[bucket[/prefix]]`, `az://account[/container[/prefix]]`, `gs://bucket[/prefix]`,
    /// `http://host/prefix`, `https://host/prefix`, `file:///dir`.
    pub url: String,
    /// Where the service answers, if not where its public cloud does: `http://127.0.0.1:9000`. For
    /// `s3://`, `az://` and `gs://` only.
    pub endpoint: Option<String>,
    /// S3: the region to sign for; else `AWS_REGION`, `AWS_DEFAULT_REGION`, `us-east-1`. A bucket's
    /// own region is learnt from its first redirect.
    pub region: Option<String>,
    /// Send no credentials, though there are some.
    pub anonymous: bool,
    /// S3: `http://endpoint/bucket/key` (true) or `http://bucket.endpoint/key` (false). By default
    /// the first with an endpoint of one's own, the second with AWS.
    pub path_style: Option<bool>,
    /// HTTP: accept servers without strong etags; a weak etag, or Last-Modified with the size, is the
    /// identity then. Two versions within one second and of one length cannot be told apart.
    pub allow_weak: bool,
    /// A file of certificate authorities (PEM) to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// `file://`: directories and files that are never served, such as the cache's own data.
    pub exclude: Vec<PathBuf>,
    /// `file://`: serve the directory itself as the one bucket of this name, instead of its
    /// sub-directories as buckets.
    pub root_bucket: Option<String>,
    /// Where credentials, regions and endpoints that are not given here come from; none for the
    /// environment of the process.
    pub env: Option<Environment>,
    /// The HTTP client to share; none for one of the origin's own.
    pub client: Option<Client>,
}

impl OriginSpec {
    /// An origin by its URL, all options at their defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }

    pub(crate) fn environment(&self) -> Environment {
        self.env.clone().unwrap_or_else(Environment::of_process)
    }

    pub(crate) fn http_client(&self) -> Result<Client, OriginConfigError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let mut config = ClientConfig::default();
        if let Some(path) = &self.ca {
            let wrong = |error: &dyn std::fmt::Display| OriginConfigError::Option {
                option: "ca",
                reason: format!("{}: {error}", path.display()),
            };
            let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
            config.add_roots_pem(&pem).map_err(|error| wrong(&error))?;
        }
        Client::new(config).map_err(|error| OriginConfigError::Client(error.to_string()))
    }
}

/// Why an origin cannot be opened. Each says what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OriginConfigError {
    /// The URL is none, or lacks a part.
    #[error("origin {url:?}: {reason}")]
    Url {
        /// The URL as given, without a password.
        url: String,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// An option does not go with this kind of origin, or its value cannot be.
    #[error("origin option {option}: {reason}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// Credentials are half there, or unreadable.
    #[error("origin credentials: {0}")]
    Credentials(String),
    /// The directory cannot be opened.
    #[error("origin directory {}: {reason}", path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The HTTP client cannot be made (no trusted certificates, say).
    #[error("origin client: {0}")]
    Client(String),
}

/// Opens an origin. Reads the environment for credentials, and connects to nothing yet.
pub fn open(spec: &OriginSpec) -> Result<Arc<dyn Origin>, OriginConfigError> {
    let place = Place::parse(&spec.url)?;
    check_options(spec, &place)?;
    Ok(match place {
        Place::S3 { bucket, prefix } => Arc::new(s3::S3::open(spec, bucket, prefix)?),
        Place::Azure {
            account,
            container,
            prefix,
        } => Arc::new(azure::Azure::open(spec, account, container, prefix)?),
        Place::Gcs { bucket, prefix } => Arc::new(gcs::Gcs::open(spec, bucket, prefix)?),
        Place::Http { base } => Arc::new(http::Http::open(spec, &base)?),
        Place::File { root } => Arc::new(file::FileOrigin::open(
            &root,
            &file::FileOptions {
                exclude: spec.exclude.clone(),
                root_bucket: spec.root_bucket.clone(),
            },
        )?),
    })
}

/// Options that would be ignored in silence are refused instead.
fn check_options(spec: &OriginSpec, place: &Place) -> Result<(), OriginConfigError> {
    let is_s3 = matches!(place, Place::S3 { .. });
    let is_file = matches!(place, Place::File { .. });
    let is_http = matches!(place, Place::Http { .. });
    let wrong = |option, reason: &str| {
        Err(OriginConfigError::Option {
            option,
            reason: reason.into(),
        })
    };
    if spec.endpoint.is_some() && (is_file || is_http) {
        return wrong(
            "endpoint",
            "only s3://, az:// and gs:// have one; name the host in the URL",
        );
    }
    if spec.region.is_some() && !is_s3 {
        return wrong("region", "only s3:// has one");
    }
    if spec.ca.is_some() && is_file {
        return wrong("ca", "a directory is read without TLS");
    }
    if spec.path_style.is_some() && !is_s3 {
        return wrong("path-style", "only s3:// has it");
    }
    if spec.allow_weak && !is_http {
        return wrong("allow-weak", "only http:// and https:// need it");
    }
    if spec.root_bucket.is_some() && !is_file {
        return wrong("root-bucket", "only file:// has it");
    }
    Ok(())
}

/// An origin's URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// All buckets of the account, or one of them, or what lies below a prefix of one.
    S3 {
        bucket: Option<String>,
        prefix: String,
    },
    /// The same, of a storage account; none where the endpoint names it.
    Azure {
        account: String,
        container: Option<String>,
        prefix: String,
    },
    /// One bucket, or all that the project has.
    Gcs {
        bucket: Option<String>,
        prefix: String,
    },
    /// A web server's directory, without a trailing slash.
    Http { base: Url },
    /// A directory.
    File { root: PathBuf },
}

impl Place {
    pub(crate) fn parse(text: &str) -> Result<Self, OriginConfigError> {
        let fail = |reason: &str| {
            Err(OriginConfigError::Url {
                url: redact(text),
                reason: reason.to_owned(),
            })
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return fail(
                "not a URL: write s3://bucket, az://account/container, gs://bucket, \
                 https://host/prefix or file:///directory",
            );
        };
        if !matches!(scheme, "file" | "http" | "https") && rest.contains(['?', '#', '@']) {
            return fail(
                "no query, fragment or credentials here: credentials come from the environment",
            );
        }
        match scheme {
            "s3" => {
                let (bucket, prefix) = bucket_and_prefix(rest);
                if !prefix.is_empty() && bucket.is_none() {
                    return fail("a prefix needs its bucket: s3://bucket/prefix");
                }
                Ok(Self::S3 { bucket, prefix })
            }
            "gs" => {
                let (bucket, prefix) = bucket_and_prefix(rest);
                if !prefix.is_empty() && bucket.is_none() {
                    return fail("a prefix needs its bucket: gs://bucket/prefix");
                }
                Ok(Self::Gcs { bucket, prefix })
            }
            "az" => {
                let (account, rest) = rest.split_once('/').unwrap_or((rest, ""));
                let (container, prefix) = bucket_and_prefix(rest);
                let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                if account.is_empty() || !account.chars().all(lower) {
                    return fail(
                        "name the storage account (lower-case letters and digits): \
                         az://account/container",
                    );
                }
                Ok(Self::Azure {
                    account: account.to_owned(),
                    container,
                    prefix,
                })
            }
            "http" | "https" => {
                let Ok(mut base) = Url::parse(text) else {
                    return fail("not a URL: write https://host/prefix");
                };
                if base.query().is_some() || base.fragment().is_some() {
                    return fail("an origin has no query or fragment: write https://host/prefix");
                }
                if !base.username().is_empty() || base.password().is_some() {
                    return fail(
                        "credentials in a URL end up in logs: they are not taken from there",
                    );
                }
                let path = base.path().trim_end_matches('/').to_owned();
                base.set_path(&path);
                Ok(Self::Http { base })
            }
            "file" => {
                let Ok(url) = Url::parse(text) else {
                    return fail("not a URL: write file:///directory");
                };
                match url.to_file_path() {
                    Ok(root) if url.query().is_none() && url.fragment().is_none() => {
                        Ok(Self::File { root })
                    }
                    _ => fail("write an absolute path after three slashes: file:///directory"),
                }
            }
            "gcs" => fail("write gs://bucket"),
            "azure" | "abfs" | "abfss" | "wasb" | "wasbs" => fail("write az://account/container"),
            "s3a" | "s3n" => fail("write s3://bucket"),
            _ => fail("unknown scheme: there are s3, az, gs, https, http and file"),
        }
    }
}

/// `bucket/prefix` into both; the prefix without slashes at its ends.
fn bucket_and_prefix(rest: &str) -> (Option<String>, String) {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let bucket = (!bucket.is_empty()).then(|| bucket.to_owned());
    (bucket, prefix.trim_matches('/').to_owned())
}

/// The URL without what stands before an `@`.
fn redact(text: &str) -> String {
    match (text.split_once("://"), text.rfind('@')) {
        (Some((scheme, _)), Some(at)) => format!("{scheme}://***{}", &text[at..]),
        _ => text.chars().take(200).collect(),
    }
}

/// An endpoint: `http(s)://host[:port][/path]`, without a trailing slash.
pub(crate) fn parse_endpoint(text: &str) -> Result<Url, OriginConfigError> {
    let fail = |reason: &str| {
        Err(OriginConfigError::Option {
            option: "endpoint",
            reason: format!("{:?}: {reason}", redact(text)),
        })
    };
    let Ok(mut url) = Url::parse(text) else {
        return fail("not a URL: write http://host:port or https://host");
    };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return fail("write http://host:port or https://host");
    }
    if url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return fail("no query, fragment or credentials here");
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let s3 = |bucket: Option<&str>, prefix: &str| Place::S3 {
            bucket: bucket.map(Into::into),
            prefix: prefix.into(),
        };
        for (url, want) in [
            ("s3://", s3(None, "")),
            ("s3://bucket", s3(Some("bucket"), "")),
            ("s3://bucket/", s3(Some("bucket"), "")),
            ("s3://bucket/a/b/", s3(Some("bucket"), "a/b")),
            (
                "gs://b/p",
                Place::Gcs {
                    bucket: Some("b".into()),
                    prefix: "p".into(),
                },
            ),
            (
                "az://acct/cont/p/q",
                Place::Azure {
                    account: "acct".into(),
                    container: Some("cont".into()),
                    prefix: "p/q".into(),
                },
            ),
            (
                "az://acct",
                Place::Azure {
                    account: "acct".into(),
                    container: None,
                    prefix: String::new(),
                },
            ),
            (
                "file:///a%20b/c",
                Place::File {
                    root: "/a b/c".into(),
                },
            ),
            (
                "https://h:8/x/",
                Place::Http {
                    base: Url::parse("https://h:8/x").unwrap(),
                },
            ),
        ] {
            assert_eq!(Place::parse(url).unwrap(), want, "{url}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        for (url, says) in [
            ("bucket", "s3://bucket"),
            ("/srv/data", "file:///directory"),
            ("ftp://host", "unknown scheme"),
            ("s3:///prefix", "needs its bucket"),
            ("s3://key:secret@bucket", "from the environment"),
            ("az://", "storage account"),
            ("https://h/?x=1", "no query"),
            ("file://relative", "three slashes"),
            ("s3a://bucket", "s3://bucket"),
        ] {
            let error = Place::parse(url).unwrap_err().to_string();
            assert!(error.contains(says), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let error = Place::parse("https://u:hunter2@h/")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("logs") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn options_that_do_not_fit_are_refused() {
        let spec = OriginSpec {
            region: Some("x".into()),
            ..OriginSpec::new("file:///tmp")
        };
        assert!(open(&spec).unwrap_err().to_string().contains("region"));
        let spec = OriginSpec {
            endpoint: Some("http://h".into()),
            ..OriginSpec::new("http://g")
        };
        assert!(open(&spec).unwrap_err().to_string().contains("endpoint"));
        for (url, ca, says) in [
            ("file:///tmp", "/nonexistent", "without TLS"),
            ("https://h", "/nonexistent", "/nonexistent: No such file"),
            (
                "s3://b",
                "/dev/null",
                "/dev/null: HTTP client: no certificate",
            ),
        ] {
            let spec = OriginSpec {
                ca: Some(ca.into()),
                ..OriginSpec::new(url)
            };
            let error = open(&spec).unwrap_err().to_string();
            assert!(error.contains(says), "{url}: {error}");
        }
        let spec = OriginSpec {
            endpoint: Some("ftp://h".into()),
            ..OriginSpec::new("s3://g")
        };
        assert!(
            open(&spec)
                .unwrap_err()
                .to_string()
                .contains("http://host:port")
        );
    }
}
