//! GET and HEAD of objects: ranges, conditions, odd keys, errors, and what never ends as if it were
//! whole.

use crate::support::{MODIFIED, Manner, MapBackend, anonymous, noise, start};
use gannet_cache::{edge::range::ByteRange, types::ObjectError};
use gannet_testkit::client::{Connection, encode_key, get, head, request};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngSeed, TestRunner},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// What S3 answers to a `Range` header, said once more and differently: status, and the bytes.
fn reference(header: &str, size: usize) -> (u16, std::ops::Range<usize>) {
    let whole = (200, 0..size);
    let Some(set) = header.strip_prefix("bytes=") else {
        return whole;
    };
    let Some((first, last)) = set.split_once('-') else {
        return whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u128>().unwrap_or(u128::MAX))
    };
    let size_wide = size as u128;
    match (number(first), number(last)) {
        (None, Some(0)) if first.is_empty() => (416, 0..0),
        (None, Some(_)) if first.is_empty() && size == 0 => (416, 0..0),
        (None, Some(n)) if first.is_empty() => (206, size - n.min(size_wide) as usize..size),
        (Some(a), None) if last.is_empty() && a < size_wide => (206, a as usize..size),
        (Some(_), None) if last.is_empty() => (416, 0..0),
        (Some(a), Some(b)) if a > b => whole,
        (Some(a), Some(_)) if a >= size_wide => (416, 0..0),
        (Some(a), Some(b)) => (206, a as usize..(b.min(size_wide - 1) as usize) + 1),
        _ => whole,
    }
}

async fn check_range(connection: &mut Connection, key: &str, bytes: &[u8], header: &str) {
    let (status, range) = reference(header, bytes.len());
    let (first, last) = (range.start, range.end.wrapping_sub(1));
    for method in ["GET", "HEAD"] {
        let target = format!("/b/{key}");
        let answer = connection
            .request(method, &target, &[("range", header)], b"")
            .await
            .unwrap();
        let case = format!("{method} {key} {header:?}");
        assert_eq!(answer.status, status, "{case}");
        assert!(!answer.cut, "{case}");
        let want_range = match status {
            206 => Some(format!("bytes {first}-{last}/{}", bytes.len())),
            416 => Some(format!("bytes */{}", bytes.len())),
            _ => None,
        };
        assert_eq!(
            answer.header("content-range"),
            want_range.as_deref(),
            "{case}"
        );
        if status == 416 {
            if method == "GET" {
                assert_eq!(
                    answer.xml("Code").as_deref(),
                    Some("InvalidRange"),
                    "{case}"
                );
            }
            continue;
        }
        assert_eq!(answer.header("accept-ranges"), Some("bytes"), "{case}");
        assert_eq!(answer.header("etag"), Some("\"etag\""), "{case}");
        assert_eq!(answer.header("last-modified"), Some(MODIFIED), "{case}");
        assert_eq!(
            answer.header("content-length"),
            Some(&*range.len().to_string()),
            "{case}"
        );
        if method == "GET" {
            assert!(answer.body == bytes[range.clone()], "{case}: wrong bytes");
        }
    }
}

const SIZE: usize = 250_001;

async fn connect() -> (crate::support::Server, Connection, bytes::Bytes) {
    let backend = MapBackend::new();
    let bytes = noise(SIZE);
    backend.put("b", "stream", bytes.clone(), Manner::Stream);
    backend.put("b", "memory", bytes.clone(), Manner::Memory(30_000));
    backend.put_file("b", "file", bytes.clone(), 70_000);
    for manner in [("empty", Manner::Stream), ("held-empty", Manner::Memory(1))] {
        backend.put("b", manner.0, "", manner.1);
    }
    let server = start(anonymous(), &backend);
    let connection = Connection::open(&server.authority).await.unwrap();
    (server, connection, bytes)
}

#[tokio::test]
async fn range_matrix() {
    let (_server, mut connection, bytes) = connect().await;
    let last = SIZE - 1;
    let headers = [
        "bytes=0-0".to_owned(),
        "bytes=0-".into(),
        "bytes=5-9".into(),
        format!("bytes={last}-"),
        format!("bytes={last}-{last}"),
        format!("bytes={SIZE}-"),
        format!("bytes={SIZE}-{SIZE}"),
        format!("bytes=0-{SIZE}"),
        "bytes=69999-70001".into(),
        "bytes=99999-200000".into(),
        "bytes=-1".into(),
        "bytes=-0".into(),
        format!("bytes=-{SIZE}"),
        format!("bytes=-{}", SIZE + 1),
        "bytes=-99999999999999999999999999".into(),
        "bytes=99999999999999999999999999-".into(),
        "bytes=0-99999999999999999999999999".into(),
        "bytes=9-5".into(),
        "bytes=0-1,5-9".into(),
        "bytes=0-1, -5".into(),
        "bytes=".into(),
        "bytes=-".into(),
        "bytes=a-b".into(),
        "bits=0-1".into(),
        "0-1".into(),
    ];
    for header in &headers {
        for key in ["stream", "memory", "file"] {
            check_range(&mut connection, key, &bytes, header).await;
        }
        for key in ["empty", "held-empty"] {
            check_range(&mut connection, key, b"", header).await;
        }
    }
}

#[tokio::test]
async fn two_thousand_random_ranges() {
    let (_server, mut connection, bytes) = connect().await;
    let edge = prop_oneof![
        0..SIZE as u64 + 10,
        Just(0),
        Just(SIZE as u64),
        Just(SIZE as u64 - 1)
    ];
    let headers = (edge.clone(), edge, 0..4u8).prop_map(|(a, b, kind)| match kind {
        0 => format!("bytes={a}-"),
        1 => format!("bytes=-{a}"),
        2 => format!("bytes={}-{}", a.min(b), a.max(b).min(a.min(b) + 20_000)),
        _ => format!("bytes={a}-{b}"),
    });
    let config = Config {
        rng_seed: RngSeed::Fixed(0x6a11e7),
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    for i in 0..2000 {
        let header = headers.new_tree(&mut runner).unwrap().current();
        let key = ["stream", "memory", "file"][i % 3];
        check_range(&mut connection, key, &bytes, &header).await;
        // The reference and the parser agree on what the header means.
        let parsed = ByteRange::parse(header.as_bytes()).map(|range| range.resolve(SIZE as u64));
        assert_eq!(
            parsed.is_none(),
            reference(&header, SIZE).0 == 200,
            "{header}"
        );
    }
}

#[tokio::test]
async fn several_range_headers_are_as_several_ranges() {
    let (server, _, bytes) = connect().await;
    for key in ["stream", "memory"] {
        let ranges = [("range", "bytes=0-1"), ("range", "bytes=4-5")];
        let answer = get(&server.url(&format!("/b/{key}")), &ranges)
            .await
            .unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, bytes.len()));
    }
}

#[tokio::test]
async fn conditions() {
    let (server, _, _) = connect().await;
    let early = "Sun, 06 Nov 1994 08:49:36 GMT";
    for key in ["stream", "memory"] {
        let url = server.url(&format!("/b/{key}"));
        for (headers, status) in [
            (&[("if-match", "\"etag\"")][..], 200),
            (&[("if-match", "etag")], 200),
            (&[("if-match", "\"other\"")], 412),
            (&[("if-none-match", "\"etag\"")], 304),
            (&[("if-none-match", "\"a\", \"etag\"")], 304),
            (&[("if-none-match", "\"other\"")], 200),
            (&[("if-modified-since", MODIFIED)], 304),
            (&[("if-modified-since", early)], 200),
            (&[("if-modified-since", "gibberish")], 200),
            (&[("if-unmodified-since", MODIFIED)], 200),
            (&[("if-unmodified-since", early)], 412),
            (&[("range", "bytes=0-4"), ("if-range", "\"etag\"")], 206),
            (&[("range", "bytes=0-4"), ("if-range", MODIFIED)], 206),
            (&[("range", "bytes=0-4"), ("if-range", "\"other\"")], 200),
            (&[("range", "bytes=0-4"), ("if-range", early)], 200),
            (
                &[("range", "bytes=999999-"), ("if-none-match", "\"etag\"")],
                304,
            ),
        ] {
            for method in ["GET", "HEAD"] {
                let answer = request(method, &url, headers, b"").await.unwrap();
                assert_eq!(answer.status, status, "{method} {key} {headers:?}");
                if status == 304 {
                    assert_eq!(answer.header("etag"), Some("\"etag\""));
                    assert_eq!(answer.header("content-type"), None);
                    assert!(answer.body.is_empty());
                }
                if status == 412 && method == "GET" {
                    assert_eq!(answer.xml("Code").as_deref(), Some("PreconditionFailed"));
                    assert!(answer.xml("Condition").is_some());
                }
            }
        }
    }
}

#[tokio::test]
async fn odd_keys() {
    let keys = [
        "with space",
        "plus+sign",
        "a//b",
        "/leading",
        "trailing/",
        "dots/../..",
        "./.",
        "ünï/ço∂é€",
        "percent%41",
        "100%",
        "ampersand&and?question#hash",
        "quote\"'<>",
        "back\\slash",
        "~tilde_-.",
        "new\nline",
        "emoji/🦀",
        "colon:semi;comma,",
        "*star(paren)!",
        "=equals=$",
        "a",
        "|pipe^`{}[]",
    ];
    let backend = MapBackend::new();
    let manners = [Manner::Stream, Manner::Memory(1000)];
    for (i, key) in keys.iter().enumerate() {
        backend.put("b", key, format!("object {i}"), manners[i % 2].clone());
    }
    let mut config = anonymous();
    config.domains = vec!["s3.test".into()];
    let server = start(config, &backend);
    for (i, key) in keys.iter().enumerate() {
        let encoded = encode_key(key);
        let path_style = get(&server.url(&format!("/b/{encoded}")), &[])
            .await
            .unwrap();
        assert_eq!(
            (path_style.status, path_style.text()),
            (200, format!("object {i}")),
            "{key}"
        );

        let mut connection = Connection::open(&server.authority).await.unwrap();
        let url = format!("http://b.s3.test:80/{encoded}");
        let host_style = connection.request("GET", &url, &[], b"").await.unwrap();
        assert_eq!(
            (host_style.status, host_style.text()),
            (200, format!("object {i}")),
            "{key}"
        );
    }
    // Unencoded, where HTTP lets it through.
    let plus = get(&server.url("/b/plus+sign"), &[]).await.unwrap();
    assert_eq!(plus.status, 200);
}

#[tokio::test]
async fn metadata_travels() {
    let backend = MapBackend::new();
    let headers = [
        ("content-type", "text/css"),
        ("content-encoding", "gzip"),
        ("cache-control", "max-age=60"),
        ("content-disposition", "attachment"),
        ("content-language", "de"),
        ("expires", MODIFIED),
        ("x-amz-meta-colour", "red"),
        ("x-amz-checksum-crc32c", "AAAAAA=="),
        ("x-amz-storage-class", "GLACIER"),
    ];
    backend.put_with("b", "s", "hello", Manner::Stream, "\"e\"", &headers);
    backend.put_with("b", "m", "hello", Manner::Memory(2), "\"e\"", &headers);
    backend.put("b", "bare", "hello", Manner::Memory(2));
    let server = start(anonymous(), &backend);
    for key in ["s", "m"] {
        let url = server.url(&format!("/b/{key}"));
        for method in ["GET", "HEAD"] {
            let answer = request(method, &url, &[], b"").await.unwrap();
            for (name, value) in headers {
                let want = (!name.contains("checksum")).then_some(value);
                assert_eq!(answer.header(name), want, "{method} {key} {name}");
            }
        }
        let mode = ("x-amz-checksum-mode", "ENABLED");
        let crc = |answer: &gannet_testkit::client::Answer| {
            answer.header("x-amz-checksum-crc32c").map(str::to_owned)
        };
        assert!(crc(&get(&url, &[mode]).await.unwrap()).is_some());
        assert!(crc(&get(&url, &[mode, ("range", "bytes=0-1")]).await.unwrap()).is_none());
    }
    let bare = get(&server.url("/b/bare"), &[]).await.unwrap();
    assert_eq!(bare.header("content-type"), Some("binary/octet-stream"));
}

#[tokio::test]
async fn parts_versions_and_overrides() {
    let backend = MapBackend::new();
    backend.put("b", "k", "hello", Manner::Memory(9));
    backend.put("b", "empty", "", Manner::Memory(9));
    backend.put_with("b", "one", "hello", Manner::Stream, "\"abc-1\"", &[]);
    backend.put_with("b", "three", "hello", Manner::Stream, "\"abc-3\"", &[]);
    let server = start(anonymous(), &backend);
    let signed = ("authorization", "AWS4-HMAC-SHA256 anything");
    for (target, headers, status, code) in [
        ("/b/k?partNumber=1", &[][..], 206, ""),
        ("/b/empty?partNumber=1", &[], 200, ""),
        ("/b/one?partNumber=1", &[], 206, ""),
        ("/b/k?partNumber=2", &[], 416, "InvalidPartNumber"),
        ("/b/three?partNumber=1", &[], 501, "NotImplemented"),
        ("/b/three?partNumber=4", &[], 416, "InvalidPartNumber"),
        ("/b/k?partNumber=0", &[], 400, "InvalidArgument"),
        ("/b/k?partNumber=x", &[], 400, "InvalidArgument"),
        ("/b/k?partNumber=10001", &[], 400, "InvalidArgument"),
        (
            "/b/k?partNumber=1",
            &[("range", "bytes=0-1")],
            400,
            "InvalidRequest",
        ),
        ("/b/k?versionId=null", &[], 501, "NotImplemented"),
        ("/b/k?versionId=abc", &[], 501, "NotImplemented"),
        ("/b/k?acl", &[], 501, "NotImplemented"),
        ("/b/k?tagging", &[], 501, "NotImplemented"),
        ("/b/k?unknown=1", &[], 200, ""),
        ("/b/k?x-id=GetObject", &[], 200, ""),
        (
            "/b/k?response-content-type=text/html",
            &[],
            400,
            "InvalidRequest",
        ),
        (
            "/b/k?response-content-type=text/html&X-Amz-Signature=x",
            &[],
            200,
            "",
        ),
        ("/b/k?response-content-type=text/html", &[signed], 200, ""),
        (
            "/b/k?response-content-type=a%0Ab",
            &[signed],
            400,
            "InvalidArgument",
        ),
    ] {
        let answer = get(&server.url(target), headers).await.unwrap();
        assert_eq!(answer.status, status, "{target} {}", answer.text());
        assert_eq!(answer.xml("Code").unwrap_or_default(), code, "{target}");
        if status == 206 {
            assert_eq!(
                answer.header("content-range"),
                Some("bytes 0-4/5"),
                "{target}"
            );
        }
        if status == 200 && target.contains("response-") {
            assert_eq!(answer.header("content-type"), Some("text/html"));
            // A signature that nobody checked may be on any page: what it names runs no script.
            let sandbox = target.contains("X-Amz-").then_some("sandbox");
            assert_eq!(answer.header("content-security-policy"), sandbox);
        }
    }
}

#[tokio::test]
async fn errors_have_codes_and_ids() {
    let backend = MapBackend::new();
    backend.put("b", "k", "hello", Manner::Memory(9));
    let why = || "because".into();
    for (key, error) in [
        ("denied", ObjectError::AccessDenied),
        ("changed", ObjectError::EtagChanged),
        ("no-etag", ObjectError::MissingEtag),
        ("page-blob", ObjectError::Unsupported(why())),
        ("invalid", ObjectError::Invalid(why())),
        ("slow", ObjectError::SlowDown(why())),
        ("down", ObjectError::Unavailable(why())),
        ("internal", ObjectError::Internal(why())),
    ] {
        backend.put("b", key, "hello", Manner::Fails(error));
    }
    let server = start(anonymous(), &backend);
    let long = format!("/b/{}", "k".repeat(1025));
    let mut ids = std::collections::HashSet::new();
    for (target, status, code) in [
        ("/b/missing", 404, "NoSuchKey"),
        ("/other/missing", 404, "NoSuchBucket"),
        ("/other", 404, "NoSuchBucket"),
        ("/other?location", 404, "NoSuchBucket"),
        ("/b/denied", 403, "AccessDenied"),
        ("/b/changed", 409, "OperationAborted"),
        ("/b/no-etag", 502, "OriginMissingETag"),
        ("/b/page-blob", 502, "OriginUnsupported"),
        ("/b/invalid", 400, "InvalidArgument"),
        ("/b/slow", 503, "SlowDown"),
        ("/b/down", 503, "ServiceUnavailable"),
        ("/b/internal", 500, "InternalError"),
        ("/b/%zz", 400, "InvalidURI"),
        ("/b/%00", 400, "InvalidURI"),
        ("/b/%ff", 400, "InvalidURI"),
        ("//k", 400, "InvalidBucketName"),
        ("/../etc/passwd", 400, "InvalidBucketName"),
        (&*long, 400, "KeyTooLongError"),
    ] {
        let url = server.url(target);
        let answer = get(&url, &[]).await.unwrap();
        assert_eq!(
            (answer.status, answer.xml("Code").as_deref()),
            (status, Some(code)),
            "{target}"
        );
        let id = answer.header("x-amz-request-id").unwrap().to_owned();
        assert_eq!(answer.xml("RequestId").as_ref(), Some(&id));
        assert!(answer.header("x-amz-id-2").is_some());
        assert_eq!(answer.header("content-type"), Some("application/xml"));
        assert!(ids.insert(id), "an id came twice");

        let answer = head(&url, &[]).await.unwrap();
        assert_eq!(
            (answer.status, answer.body.len()),
            (status, 0),
            "HEAD {target}"
        );
        assert!(ids.insert(answer.header("x-amz-request-id").unwrap().to_owned()));
    }
    let known: Vec<_> = server
        .metrics
        .requests()
        .filter(|&(_, code, _)| code == 404)
        .collect();
    assert_eq!(known, [("GET", 404, 4), ("HEAD", 404, 4)]);
}

#[tokio::test]
async fn writes_are_refused_with_ids_and_the_connection_survives_them() {
    let backend = MapBackend::new();
    backend.put("b", "k", "hello", Manner::Memory(9));
    let server = start(anonymous(), &backend);
    for method in ["PUT", "POST", "DELETE", "PATCH", "TRACE", "BREW"] {
        for (target, body, kind) in [
            ("/b/k", &b"new contents"[..], "OBJECT"),
            ("/b/k?uploads", b"", "OBJECT"),
            ("/b?delete", b"<Delete/>", "BUCKET"),
            ("/", b"", "SERVICE"),
        ] {
            let answer = request(method, &server.url(target), &[], body)
                .await
                .unwrap();
            assert_eq!(answer.status, 405, "{method} {target}");
            assert_eq!(answer.xml("Code").as_deref(), Some("MethodNotAllowed"));
            assert_eq!(answer.xml("ResourceType").as_deref(), Some(kind));
            assert_eq!(answer.header("allow"), Some("GET, HEAD"));
            assert!(answer.header("x-amz-request-id").is_some());
        }
    }
    // An upload that is larger than what is read of it: the refusal still gets through.
    let big = vec![7; 3 << 20];
    let answer = request(
        "PUT",
        &server.url("/b/k"),
        &[("expect", "100-continue")],
        &big,
    )
    .await;
    assert_eq!(answer.unwrap().status, 405);
    // Preflights are answered as for a bucket without CORS rules.
    let origin = ("origin", "https://evil.example");
    let method = ("access-control-request-method", "GET");
    let url = server.url("/b/k");
    let answer = request("OPTIONS", &url, &[origin, method], b"")
        .await
        .unwrap();
    assert_eq!(
        (answer.status, answer.xml("Code").as_deref()),
        (403, Some("AccessForbidden"))
    );
    let answer = request("OPTIONS", &url, &[], b"").await.unwrap();
    assert_eq!(
        (answer.status, answer.xml("Code").as_deref()),
        (400, Some("BadRequest"))
    );
    assert_eq!(get(&url, &[]).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_response_that_breaks_is_cut() {
    let backend = MapBackend::new();
    let bytes = noise(100_000);
    let borders = [1, 10_000, 65_536, 99_999];
    for n in borders {
        backend.put(
            "b",
            &format!("breaks-{n}"),
            bytes.clone(),
            Manner::Breaks(n),
        );
        backend.put("b", &format!("ends-{n}"), bytes.clone(), Manner::Ends(n));
    }
    let server = start(anonymous(), &backend);
    for n in borders {
        for kind in ["breaks", "ends"] {
            let answer = get(&server.url(&format!("/b/{kind}-{n}")), &[])
                .await
                .unwrap();
            assert_eq!(answer.status, 200);
            assert!(answer.cut, "{kind}-{n} ended as if it were whole");
            assert_eq!(answer.body, bytes[..n as usize], "{kind}-{n}");
        }
    }
    assert_eq!(
        server.metrics.aborted.load(Relaxed),
        2 * borders.len() as u64
    );
}

#[tokio::test]
async fn a_file_that_is_truncated_behind_our_back_is_cut() {
    let backend = MapBackend::new();
    let bytes = noise(300_000);
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &bytes[..123_456]).unwrap();
    backend.put("b", "k", bytes.clone(), Manner::File(Arc::new(file), 0));
    let server = start(anonymous(), &backend);
    let answer = get(&server.url("/b/k"), &[]).await.unwrap();
    assert!(answer.cut);
    assert_eq!(answer.body, bytes[..123_456]);
    assert_eq!(server.metrics.aborted.load(Relaxed), 1);
}

#[tokio::test]
async fn an_overwritten_object_is_looked_up_anew_once() {
    let backend = MapBackend::new();
    let changes = |n| Manner::Changes(Arc::new(AtomicUsize::new(n)));
    backend.put("b", "once", "hello", changes(1));
    backend.put("b", "twice", "hello", changes(2));
    let server = start(anonymous(), &backend);
    let answer = get(&server.url("/b/once"), &[]).await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "hello".into()));
    let answer = get(&server.url("/b/twice"), &[]).await.unwrap();
    assert_eq!(
        (answer.status, answer.xml("Code").as_deref()),
        (409, Some("OperationAborted"))
    );
}
