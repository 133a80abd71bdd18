//! Listings and the small questions about buckets.

use crate::support::{Manner, MapBackend, Server, anonymous, start};
use gannet_testkit::client::{Answer, get, head};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::{collections::BTreeSet, sync::Arc};

const KEYS: [&str; 14] = [
    "a", "a/1", "a/2", "a/b/1", "a/b/2", "b c/x+y", "b/1", "c/<&>", "d//e", "d//f", "ü/1", "ü/2",
    "z", "€",
];

fn backend() -> Arc<MapBackend> {
    let backend = MapBackend::new();
    for key in KEYS {
        backend.put("b", key, key, Manner::Stream);
    }
    backend.put("other", "k", "v", Manner::Stream);
    backend
}

fn elements(text: &str, element: &str) -> Vec<String> {
    text.split(&format!("<{element}>"))
        .skip(1)
        .map(|rest| {
            rest.split_once(&format!("</{element}>"))
                .unwrap()
                .0
                .to_owned()
        })
        .collect()
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

/// Keys and common prefixes of a page.
fn names(answer: &Answer) -> Vec<String> {
    let text = answer.text();
    let mut names = elements(&text, "Key");
    for prefixes in elements(&text, "CommonPrefixes") {
        names.extend(elements(&prefixes, "Prefix"));
    }
    names.iter().map(|name| decode(name)).collect()
}

/// What a listing should hold.
fn reference(prefix: &str, delimiter: &str) -> BTreeSet<String> {
    KEYS.iter()
        .filter_map(|key| {
            let rest = key.strip_prefix(prefix)?;
            let cut = rest.find(delimiter).filter(|_| !delimiter.is_empty());
            Some(match cut {
                Some(at) => format!("{prefix}{}", &rest[..at + delimiter.len()]),
                None => (*key).to_owned(),
            })
        })
        .collect()
}

async fn page(server: &Server, query: &str) -> Answer {
    let answer = get(&server.url(&format!("/b?encoding-type=url&{query}")), &[])
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    answer
}

/// Pages through a listing in both versions, in pages of every size, and compares.
#[tokio::test]
async fn paging() {
    let server = start(anonymous(), &backend());
    for prefix in ["", "a", "a/", "a/b/", "d//", "ü", "b c/", "nothing"] {
        for delimiter in ["", "/", "//", "x"] {
            let want: Vec<_> = reference(prefix, delimiter).into_iter().collect();
            let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let base = format!("prefix={}&delimiter={}", encode(prefix), encode(delimiter));
            for size in [1, 2, 3, 1000] {
                for v2 in [true, false] {
                    let mut got = Vec::new();
                    let mut next = String::new();
                    loop {
                        let kind = if v2 { "list-type=2&" } else { "" };
                        let query = format!("{kind}{base}&max-keys={size}{next}");
                        let answer = page(&server, &query).await;
                        let names = names(&answer);
                        assert!(names.len() <= size);
                        got.extend(names);
                        if answer.xml("IsTruncated").unwrap() == "false" {
                            assert_eq!(answer.xml("NextMarker"), None);
                            assert_eq!(answer.xml("NextContinuationToken"), None);
                            break;
                        }
                        next = if v2 {
                            let token = answer.xml("NextContinuationToken").unwrap();
                            format!("&continuation-token={token}")
                        } else {
                            format!("&marker={}", answer.xml("NextMarker").unwrap())
                        };
                        assert!(
                            got.len() <= want.len(),
                            "{query} goes round in circles: {got:?}"
                        );
                    }
                    got.sort();
                    assert_eq!(got, want, "{base} by {size}, v2: {v2}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_rest_of_the_query() {
    let server = start(anonymous(), &backend());
    let start_after = page(&server, "list-type=2&start-after=c").await;
    assert_eq!(
        names(&start_after).first().map(String::as_str),
        Some("c/<&>")
    );
    assert_eq!(start_after.xml("StartAfter").as_deref(), Some("c"));
    let none = page(&server, "list-type=2&max-keys=0").await;
    assert_eq!(none.xml("KeyCount").as_deref(), Some("0"));
    assert_eq!(none.xml("IsTruncated").as_deref(), Some("false"));
    let owner = |answer: Answer| answer.text().contains("<Owner>");
    assert!(!owner(page(&server, "list-type=2").await));
    assert!(owner(page(&server, "list-type=2&fetch-owner=true").await));
    assert!(owner(page(&server, "").await));

    // Without url encoding, XML does the escaping.
    let plain = get(&server.url("/b?prefix=c/"), &[]).await.unwrap();
    assert_eq!(plain.xml("Key").as_deref(), Some("c/&lt;&amp;&gt;"));
    assert_eq!(plain.xml("ETag").as_deref(), Some("&quot;etag&quot;"));
    assert_eq!(
        plain.xml("LastModified").as_deref(),
        Some("1994-11-06T08:49:37.000Z")
    );
    assert_eq!(plain.xml("StorageClass").as_deref(), Some("STANDARD"));

    for (query, code) in [
        ("max-keys=-1", "InvalidArgument"),
        ("max-keys=x", "InvalidArgument"),
        ("encoding-type=x", "InvalidArgument"),
        ("list-type=2&continuation-token=x", "InvalidArgument"),
        ("list-type=2&continuation-token=", "InvalidArgument"),
        ("versions", "NotImplemented"),
        ("uploads", "NotImplemented"),
    ] {
        let answer = get(&server.url(&format!("/b?{query}")), &[]).await.unwrap();
        assert_eq!(answer.xml("Code").as_deref(), Some(code), "{query}");
    }
    let missing = get(&server.url("/nothing?list-type=2"), &[]).await.unwrap();
    assert_eq!(
        (missing.status, missing.xml("Code").as_deref()),
        (404, Some("NoSuchBucket"))
    );
    let missing = get(&server.url("/nothing?list-type=2&max-keys=0"), &[])
        .await
        .unwrap();
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn buckets_and_what_is_asked_of_them() {
    let server = start(anonymous(), &backend());
    let all = get(&server.url("/"), &[]).await.unwrap();
    assert_eq!(elements(&all.text(), "Name"), ["b", "other"]);
    for (target, status, part) in [
        ("/b?location", 200, "<LocationConstraint xmlns="),
        ("/b?versioning", 200, "<VersioningConfiguration"),
        ("/b?requestPayment", 200, "<Payer>BucketOwner</Payer>"),
        ("/b?policy", 404, "NoSuchBucketPolicy"),
        ("/b?tagging", 404, "NoSuchTagSet"),
        ("/b?cors", 404, "NoSuchCORSConfiguration"),
        ("/b?lifecycle", 404, "NoSuchLifecycleConfiguration"),
        (
            "/b?encryption",
            404,
            "ServerSideEncryptionConfigurationNotFoundError",
        ),
        (
            "/b?object-lock",
            404,
            "ObjectLockConfigurationNotFoundError",
        ),
        (
            "/b?publicAccessBlock",
            404,
            "NoSuchPublicAccessBlockConfiguration",
        ),
        ("/b?acl", 501, "NotImplemented"),
    ] {
        let answer = get(&server.url(target), &[]).await.unwrap();
        assert_eq!(answer.status, status, "{target}");
        assert!(answer.text().contains(part), "{target}: {}", answer.text());
    }
    for (target, status) in [("/b", 200), ("/b/", 200), ("/nothing", 404), ("/", 200)] {
        let answer = head(&server.url(target), &[]).await.unwrap();
        assert_eq!(answer.status, status, "HEAD {target}");
        assert!(answer.header("x-amz-request-id").is_some());
    }
    let answer = head(&server.url("/b"), &[]).await.unwrap();
    assert_eq!(answer.header("x-amz-bucket-region"), Some("us-east-1"));
}
