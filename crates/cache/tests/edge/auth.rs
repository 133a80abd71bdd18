//! Signatures, tokens and limits, with a signer written after AWS's specification.

use crate::support::{Manner, MapBackend, Server, start};
use gannet_cache::edge::{Access, AuthStore, EdgeConfig, auth::Rules};
use gannet_testkit::client::{Answer, Connection, get, request};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use std::{fmt::Write, sync::Arc, time::Duration};
use time::{OffsetDateTime, macros::format_description};

const ENCODE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const SECRET: &str = "a-secret-of-more-than-sixteen";
const OTHER: &str = "another-secret-for-the-other";

const RULES: &str = r#"
[[key]]
id = "ALL"
secret = "a-secret-of-more-than-sixteen"

[[key]]
id = "SOME"
secret = "another-secret-for-the-other"
allow = ["b/public/", "open"]

[[key]]
id = "OLD"
secret = "a-secret-of-more-than-sixteen"
expires = 2020-01-01T00:00:00Z

[[token]]
name = "reader"
token = "token-for-the-reader"
allow = ["b/public/"]

[[token]]
name = "old"
token = "token-that-has-expired"
expires = 2020-01-01T00:00:00Z
"#;

fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new()
        .chain_update(block.map(|b| b ^ 0x36))
        .chain_update(text)
        .finalize();
    Sha256::new()
        .chain_update(block.map(|b| b ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// What to sign, and how.
#[derive(Clone, Debug)]
struct Signer {
    id: &'static str,
    secret: &'static str,
    at: OffsetDateTime,
    expires: Duration,
    region: &'static str,
    service: &'static str,
}

impl Signer {
    fn new(id: &'static str, secret: &'static str) -> Self {
        Self {
            id,
            secret,
            at: OffsetDateTime::now_utc(),
            expires: Duration::from_secs(60),
            region: "eu-west-7",
            service: "s3",
        }
    }

    fn stamp(&self) -> String {
        self.at
            .format(format_description!(
                "[year][month][day]T[hour][minute][second]Z"
            ))
            .unwrap()
    }

    fn scope(&self) -> String {
        let (region, service) = (self.region, self.service);
        format!("{}/{region}/{service}/aws4_request", &self.stamp()[..8])
    }

    fn sign(&self, canonical: &str) -> String {
        let (stamp, scope) = (self.stamp(), self.scope());
        let hash = hex(&Sha256::digest(canonical));
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}");
        let mut key = hmac(format!("AWS4{}", self.secret).as_bytes(), &stamp[..8]);
        for part in [self.region, self.service, "aws4_request"] {
            key = hmac(&key, part);
        }
        hex(&hmac(&key, &text))
    }

    /// The query in canonical order.
    fn canonical_query(query: &[(&str, &str)]) -> String {
        let encode = |text: &str| utf8_percent_encode(text, ENCODE).to_string();
        let mut pairs: Vec<_> = query
            .iter()
            .map(|(n, v)| format!("{}={}", encode(n), encode(v)))
            .collect();
        pairs.sort();
        pairs.join("&")
    }

    /// A signed GET by headers.
    async fn get(&self, server: &Server, path: &str, query: &[(&str, &str)]) -> Answer {
        let query = Self::canonical_query(query);
        let stamp = self.stamp();
        let signed = "host;range;x-amz-content-sha256;x-amz-date";
        let canonical = format!(
            "GET\n{path}\n{query}\nhost:{}\nrange:bytes=0-99\nx-amz-content-sha256:{EMPTY_SHA256}\n\
             x-amz-date:{stamp}\n\n{signed}\n{EMPTY_SHA256}",
            server.authority
        );
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={signed}, Signature={}",
            self.id,
            self.scope(),
            self.sign(&canonical)
        );
        let url = server.url(&format!("{path}?{query}"));
        let headers = [
            ("authorization", &*authorization),
            ("range", "bytes=0-99"),
            ("x-amz-content-sha256", EMPTY_SHA256),
            ("x-amz-date", &*stamp),
        ];
        get(&url, &headers).await.unwrap()
    }

    /// The target of a presigned GET.
    fn presign(&self, server: &Server, path: &str, query: &[(&str, &str)]) -> String {
        let credential = format!("{}/{}", self.id, self.scope());
        let (stamp, expires) = (self.stamp(), self.expires.as_secs().to_string());
        let mut all = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", &*credential),
            ("X-Amz-Date", &*stamp),
            ("X-Amz-Expires", &*expires),
            ("X-Amz-SignedHeaders", "host"),
        ];
        all.extend(query);
        let query = Self::canonical_query(&all);
        let host = &server.authority;
        let canonical = format!("GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        format!("{path}?{query}&X-Amz-Signature={}", self.sign(&canonical))
    }
}

fn backend() -> Arc<MapBackend> {
    let backend = MapBackend::new();
    for (i, key) in ["public/k", "public/a b+c", "private/k", "publicity"]
        .iter()
        .enumerate()
    {
        let manner = if i % 2 == 0 {
            Manner::Memory(2)
        } else {
            Manner::Stream
        };
        backend.put("b", key, "hello", manner);
    }
    backend.put("open", "k", "hello", Manner::Memory(9));
    backend.put("secret", "k", "hello", Manner::Memory(9));
    backend
}

fn serve() -> Server {
    let store = AuthStore::fixed(Rules::parse(RULES).unwrap());
    start(EdgeConfig::new(Access::File(Arc::new(store))), &backend())
}

fn outcome(answer: &Answer) -> (u16, String) {
    assert!(answer.header("x-amz-request-id").is_some());
    (answer.status, answer.xml("Code").unwrap_or_default())
}

#[tokio::test]
async fn signed_by_headers() {
    let server = serve();
    let minutes = |n: i64| OffsetDateTime::now_utc() + time::Duration::minutes(n);
    let all = Signer::new("ALL", SECRET);
    for (signer, status, code) in [
        (all.clone(), 206, ""),
        (
            Signer {
                at: minutes(10),
                ..all.clone()
            },
            206,
            "",
        ),
        (
            Signer {
                at: minutes(-10),
                ..all.clone()
            },
            206,
            "",
        ),
        (
            Signer {
                at: minutes(20),
                ..all.clone()
            },
            403,
            "RequestTimeTooSkewed",
        ),
        (
            Signer {
                at: minutes(-20),
                ..all.clone()
            },
            403,
            "RequestTimeTooSkewed",
        ),
        (Signer::new("ALL", OTHER), 403, "SignatureDoesNotMatch"),
        (Signer::new("NOBODY", SECRET), 403, "InvalidAccessKeyId"),
        (Signer::new("OLD", SECRET), 400, "ExpiredToken"),
    ] {
        let answer = signer.get(&server, "/b/private/k", &[]).await;
        assert_eq!(
            outcome(&answer),
            (status, code.to_owned()),
            "{signer:?}: {}",
            answer.text()
        );
    }
    let odd = all.get(&server, "/b/public/a%20b%2Bc", &[]).await;
    assert_eq!((odd.status, odd.text()), (206, "hello".into()));
    let list = all
        .get(
            &server,
            "/b",
            &[("list-type", "2"), ("prefix", "public/a b+")],
        )
        .await;
    assert_eq!(
        (list.status, list.xml("Key")),
        (200, Some("public/a b+c".into()))
    );
    let overridden = [("response-content-type", "text/html; charset=utf-8")];
    let answer = all.get(&server, "/b/private/k", &overridden).await;
    assert_eq!(
        answer.header("content-type"),
        Some("text/html; charset=utf-8")
    );
}

#[tokio::test]
async fn presigned() {
    let server = serve();
    let ago = |seconds: i64| OffsetDateTime::now_utc() - time::Duration::seconds(seconds);
    let all = Signer::new("ALL", SECRET);
    let path = "/b/public/a%20b%2Bc";
    for (signer, status, code) in [
        (all.clone(), 200, ""),
        (
            Signer {
                at: ago(59 - 30),
                ..all.clone()
            },
            200,
            "",
        ),
        (
            Signer {
                at: ago(61),
                ..all.clone()
            },
            403,
            "AccessDenied",
        ),
        (
            Signer {
                at: ago(-3600),
                ..all.clone()
            },
            403,
            "RequestTimeTooSkewed",
        ),
        (Signer::new("ALL", OTHER), 403, "SignatureDoesNotMatch"),
        (Signer::new("NOBODY", SECRET), 403, "InvalidAccessKeyId"),
        (Signer::new("SOME", OTHER), 200, ""),
    ] {
        let answer = get(&server.url(&signer.presign(&server, path, &[])), &[])
            .await
            .unwrap();
        assert_eq!(
            outcome(&answer),
            (status, code.to_owned()),
            "{signer:?}: {}",
            answer.text()
        );
        if code == "AccessDenied" {
            assert_eq!(
                answer.xml("Message").as_deref(),
                Some("Request has expired")
            );
        }
    }
    let overridden = [("response-content-disposition", "attachment; filename=\"x\"")];
    let target = all.presign(&server, path, &overridden);
    let answer = get(&server.url(&target), &[]).await.unwrap();
    assert_eq!(
        answer.header("content-disposition"),
        Some("attachment; filename=\"x\"")
    );
    for tampered in [
        target.replace("attachment", "inline"),
        target.replace("/b/public/", "/b/private/"),
        target.replace("X-Amz-Expires=60", "X-Amz-Expires=61"),
        target.replace("&X-Amz-SignedHeaders=host", ""),
        target.replace("X-Amz-Signature=", "X-Amz-Signature=0"),
    ] {
        let answer = get(&server.url(&tampered), &[]).await.unwrap();
        assert!((400..=403).contains(&answer.status), "{tampered}");
    }
    // A URL that is signed for GET is not signed for HEAD.
    let head = request("HEAD", &server.url(&target), &[], b"")
        .await
        .unwrap();
    assert_eq!(head.status, 403);
}

/// Any text may be a region (s3cmd says `US`, OpenStack `RegionOne`); the signature holds or not.
#[tokio::test]
async fn regions_are_what_clients_say() {
    let server = serve();
    let path = "/b/public/k";
    for region in ["US", "RegionOne", "", "eu_west.1"] {
        for (id, secret, service, status) in [
            ("ALL", SECRET, "s3", 200),
            ("SOME", OTHER, "s3", 200),
            ("ALL", OTHER, "s3", 403),
            ("OLD", SECRET, "s3", 400),
            ("NOBODY", SECRET, "s3", 403),
            ("ALL", SECRET, "sts", 403),
        ] {
            let signer = Signer {
                region,
                service,
                ..Signer::new(id, secret)
            };
            // An empty region is `s3s`'s business, and so is what it says of other services there.
            let signed = signer.get(&server, path, &[]).await;
            let url = server.url(&signer.presign(&server, path, &[]));
            let presigned = get(&url, &[]).await.unwrap();
            for answer in [signed, presigned] {
                let status = if status == 200 && answer.status == 206 {
                    206
                } else {
                    status
                };
                if service == "sts" {
                    assert!((400..=403).contains(&answer.status), "{signer:?}");
                } else {
                    assert_eq!(answer.status, status, "{signer:?}: {}", answer.text());
                }
            }
            let elsewhere = signer.presign(&server, "/secret/k", &[]);
            let answer = get(&server.url(&elsewhere), &[]).await.unwrap();
            assert_eq!(
                answer.status == 200,
                status == 200 && id == "ALL",
                "{signer:?}"
            );
        }
    }
    let other = Signer {
        service: "ec2",
        ..Signer::new("ALL", SECRET)
    };
    let answer = other.get(&server, path, &[]).await;
    assert_eq!(
        outcome(&answer),
        (400, "AuthorizationHeaderMalformed".into())
    );
}

/// One's own signature and another's name do not make one the other.
#[tokio::test]
async fn a_request_that_names_two_keys_is_neither() {
    let server = serve();
    for region in ["eu-west-7", "US"] {
        let signer = Signer {
            region,
            ..Signer::new("SOME", OTHER)
        };
        let url = server.url(&signer.presign(&server, "/secret/k", &[]));
        let named = format!(
            "AWS4-HMAC-SHA256 Credential=ALL/{},SignedHeaders=host,Signature={}",
            signer.scope(),
            "0".repeat(64)
        );
        let answer = get(&url, &[("authorization", &named)]).await.unwrap();
        assert_eq!(outcome(&answer), (400, "InvalidArgument".into()));
        let url = url.replace("/secret/k?", "/secret/k?X-Amz-Credential=ALL&");
        let answer = get(&url, &[]).await.unwrap();
        assert!((400..=403).contains(&answer.status), "{}", answer.status);
    }
}

#[tokio::test]
async fn presigned_urls_last_a_week_at_most() {
    let server = serve();
    for (secs, status) in [(604_800, 200), (604_801, 400), (1 << 40, 400)] {
        let signer = Signer {
            expires: Duration::from_secs(secs),
            ..Signer::new("ALL", SECRET)
        };
        let url = server.url(&signer.presign(&server, "/b/public/k", &[]));
        let answer = get(&url, &[]).await.unwrap();
        let code = if status == 200 {
            ""
        } else {
            "AuthorizationQueryParametersError"
        };
        assert_eq!(outcome(&answer), (status, code.to_owned()), "{secs}");
        let url = url.replace(&format!("X-Amz-Expires={secs}"), "X-Amz-Expires=-1");
        assert_eq!(get(&url, &[]).await.unwrap().status, 400);
    }
}

/// URLs as boto3 presigns them by default (SigV2), made by a script with HMAC-SHA1.
#[tokio::test]
async fn presigned_as_boto3_does_it_by_default() {
    let store = AuthStore::fixed(Rules::parse(RULES).unwrap());
    let mut config = EdgeConfig::new(Access::File(Arc::new(store)));
    config.domains = vec!["s3.test".into()];
    let server = start(config, &backend());
    let path = "/b/public/a%20b%2Bc";
    let old = "AWSAccessKeyId=ALL&Expires=1577836800&Signature=";
    let far = "AWSAccessKeyId=ALL&Expires=4102444800&Signature=";
    let plain = "ZULE5UmW%2Fs%2Fto8%2FScuHAROn%2B9OY%3D";
    let html = "response-content-type=text%2Fhtml&";
    for (target, status, code) in [
        (format!("{path}?{far}{plain}"), 200, ""),
        (
            format!("{path}?{html}{far}i4HoNTibF7YzeZHASozaeKW5S78%3D"),
            200,
            "",
        ),
        (
            format!("{path}?{html}{far}{plain}"),
            403,
            "SignatureDoesNotMatch",
        ),
        (
            format!("/b/private/k?{far}{plain}"),
            403,
            "SignatureDoesNotMatch",
        ),
        (
            format!("{path}?{}{plain}", far.replace("41", "42")),
            403,
            "SignatureDoesNotMatch",
        ),
        (
            format!("{path}?{}{plain}", far.replace("ALL", "NOBODY")),
            403,
            "InvalidAccessKeyId",
        ),
        (
            format!("{path}?{old}PD6TiCaIL2tOQGl28BiEBMhM7iM%3D"),
            403,
            "AccessDenied",
        ),
        (
            format!("/b?prefix=&{far}zc6foRXTY3qbNp3hdjdlXRhI8pY%3D"),
            400,
            "InvalidRequest",
        ),
    ] {
        let answer = get(&server.url(&target), &[]).await.unwrap();
        assert_eq!(
            outcome(&answer),
            (status, code.to_owned()),
            "{target}: {}",
            answer.text()
        );
        if target.contains("html") && status == 200 {
            assert_eq!(answer.header("content-type"), Some("text/html"));
        }
    }
    // The same URL in virtual-host style: the bucket is signed all the same.
    let mut connection = Connection::open(&server.authority).await.unwrap();
    let url = format!("http://b.s3.test:80/public/a%20b%2Bc?{far}{plain}");
    let answer = connection.request("GET", &url, &[], b"").await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "hello".into()));
}

#[tokio::test]
async fn limits_hold_for_objects_lists_and_buckets() {
    let server = serve();
    let some = Signer::new("SOME", OTHER);
    for (path, query, status) in [
        ("/b/public/k", &[][..], 206),
        ("/b/private/k", &[], 403),
        ("/b/publicity", &[], 403),
        ("/b/public/../private/k", &[], 403),
        ("/open/k", &[], 206),
        ("/open", &[], 200),
        ("/secret/k", &[], 403),
        ("/secret", &[], 403),
        ("/nothing/k", &[], 403),
        ("/b", &[], 403),
        ("/b", &[("location", "")], 200),
        ("/secret", &[("location", "")], 403),
        ("/b", &[("list-type", "2"), ("prefix", "public/")], 200),
        ("/b", &[("list-type", "2"), ("prefix", "public/a")], 200),
        ("/b", &[("list-type", "2"), ("prefix", "public")], 403),
        ("/b", &[("list-type", "2"), ("prefix", "private/")], 403),
        ("/b", &[("prefix", "public/"), ("marker", "a")], 200),
    ] {
        let answer = some.get(&server, path, query).await;
        assert_eq!(answer.status, status, "{path} {query:?}: {}", answer.text());
        if status == 403 {
            assert_eq!(answer.xml("Code").as_deref(), Some("AccessDenied"));
        }
    }
    let names = |answer: Answer| answer.text().matches("<Name>").count();
    assert_eq!(names(some.get(&server, "/", &[]).await), 2);
    assert_eq!(
        names(Signer::new("ALL", SECRET).get(&server, "/", &[]).await),
        3
    );
}

#[tokio::test]
async fn bearer_tokens_and_what_is_no_proof() {
    let server = serve();
    for (value, path, status, code) in [
        ("Bearer token-for-the-reader", "/b/public/k", 200, ""),
        ("bearer  token-for-the-reader ", "/b/public/k", 200, ""),
        (
            "Bearer token-for-the-reader",
            "/b/public/a%20b%2Bc",
            200,
            "",
        ),
        (
            "Bearer token-for-the-reader",
            "/b/private/k",
            403,
            "AccessDenied",
        ),
        (
            "Bearer token-for-the-reade",
            "/b/public/k",
            403,
            "AccessDenied",
        ),
        ("Bearer", "/b/public/k", 400, "InvalidArgument"),
        (
            "Bearer token-that-has-expired",
            "/b/public/k",
            400,
            "ExpiredToken",
        ),
        ("Basic dXNlcjpwYXNz", "/b/public/k", 400, "InvalidArgument"),
        ("AWS ALL:c2lnbmF0dXJl", "/b/public/k", 400, "InvalidRequest"),
        (
            "AWS4-HMAC-SHA256",
            "/b/public/k",
            400,
            "AuthorizationHeaderMalformed",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=x",
            "/b/public/k",
            400,
            "AuthorizationHeaderMalformed",
        ),
    ] {
        let answer = get(&server.url(path), &[("authorization", value)])
            .await
            .unwrap();
        assert_eq!(
            outcome(&answer),
            (status, code.to_owned()),
            "{value} {path}"
        );
    }
    for (target, status, code) in [
        ("/b/public/k", 403, "AccessDenied"),
        (
            "/b/public/k?AWSAccessKeyId=ALL&Signature=x&Expires=1",
            403,
            "AccessDenied",
        ),
        (
            "/b/public/k?Signature=x",
            400,
            "AuthorizationQueryParametersError",
        ),
        (
            "/b/public/k?Signature=x&X-Amz-Signature=x",
            400,
            "InvalidArgument",
        ),
        (
            "/b?AWSAccessKeyId=ALL&Signature=x&Expires=1",
            400,
            "InvalidRequest",
        ),
        (
            "/b/public/k?X-Amz-Signature=x",
            400,
            "AuthorizationQueryParametersError",
        ),
        ("/b/public/k?X-Amz-Credential=x", 403, "AccessDenied"),
        ("/", 403, "AccessDenied"),
        ("/b", 403, "AccessDenied"),
    ] {
        let answer = get(&server.url(target), &[]).await.unwrap();
        assert_eq!(outcome(&answer), (status, code.to_owned()), "{target}");
    }
    let both = [("authorization", "Bearer token-for-the-reader")];
    let answer = get(&server.url("/b/public/k?X-Amz-Signature=x"), &both)
        .await
        .unwrap();
    assert_eq!(outcome(&answer), (400, "InvalidArgument".into()));
}

#[tokio::test]
async fn the_file_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("auth.toml");
    let token = |name: &str| format!("[[token]]\nname = \"t\"\ntoken = \"{name}-{name}-{name}\"\n");
    std::fs::write(&path, token("first")).unwrap();
    let store = Arc::new(AuthStore::open(&path).unwrap());
    let server = start(EdgeConfig::new(Access::File(store)), &backend());
    let status = async |name: &str| {
        let value = format!("Bearer {name}-{name}-{name}");
        let answer = get(&server.url("/open/k"), &[("authorization", &value)]).await;
        answer.unwrap().status
    };
    assert_eq!((status("first").await, status("second").await), (200, 403));
    std::fs::write(&path, token("second")).unwrap();
    server.edge.refresh();
    assert_eq!((status("first").await, status("second").await), (403, 200));
    std::fs::write(&path, "broken").unwrap();
    server.edge.refresh();
    assert_eq!((status("first").await, status("second").await), (403, 200));
}
