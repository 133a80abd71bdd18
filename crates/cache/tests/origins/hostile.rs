//! Answers that no honest server gives.

use super::{
    anonymous, name, origin, read,
    script::{Script, answer},
};
use futures_util::TryStreamExt as _;
use gannet_cache::{origin::OriginError, types::ListQuery};

fn query() -> ListQuery {
    ListQuery {
        bucket: "bucket".into(),
        prefix: "".into(),
        delimiter: None,
        start_after: None,
        token: None,
        keys_max: 10,
    }
}

/// Reads bytes 2..5 of version "e" from a server that answers so.
async fn read_from(raw: &str) -> Result<Vec<u8>, OriginError> {
    let server = Script::always(raw).await;
    let origin = origin(&server.url, None, &[]);
    read(&*origin, &name("bucket", "k"), "\"e\"", 2..5).await
}

#[tokio::test]
async fn reads() {
    let partial = "206 Partial Content\r\netag: \"e\"\r\n";
    for (raw, want) in [
        (
            answer(&format!("{partial}content-range: bytes 2-4/9"), "cde"),
            "cde",
        ),
        (
            answer(&format!("{partial}content-range: bytes 2-4/*"), "cde"),
            "cde",
        ),
        (answer("200 OK\r\netag: \"e\"", "abcdefghi"), "cde"),
        (answer("200 OK\r\netag: \"e\"", "abcde"), "cde"),
        (
            answer(&format!("{partial}content-range: bytes 1-3/9"), "bcd"),
            "malformed answer",
        ),
        (
            answer(&format!("{partial}content-range: bytes 2-3/9"), "cd"),
            "malformed answer",
        ),
        (
            answer(&format!("{partial}content-range: bytes 2-4/9"), "cdef"),
            "malformed answer",
        ),
        (
            answer(&format!("{partial}content-range: bytes 2-4/9"), "cd"),
            "malformed answer",
        ),
        (
            answer(&format!("{partial}content-range: bytes 4-2/9"), "cde"),
            "malformed answer",
        ),
        (
            answer(&format!("{partial}content-range: nonsense"), "cde"),
            "malformed answer",
        ),
        (answer(partial.trim_end(), "cde"), "malformed answer"),
        (answer("200 OK\r\netag: \"e\"", "abcd"), "malformed answer"),
        (
            answer("204 No Content\r\netag: \"e\"", ""),
            "malformed answer",
        ),
        (
            answer(
                "206 Partial Content\r\netag: \"f\"\r\ncontent-range: bytes 2-4/9",
                "cde",
            ),
            "the object changed",
        ),
        (
            answer("206 Partial Content\r\ncontent-range: bytes 2-4/9", "cde"),
            "no strong etag",
        ),
        (
            answer(
                "206 Partial Content\r\netag: \"e\"\r\netag: \"f\"\r\ncontent-range: bytes 2-4/9",
                "cde",
            ),
            "no strong etag",
        ),
        (
            answer("416 Range Not Satisfiable\r\ncontent-range: bytes */1", ""),
            "the object changed",
        ),
        (
            format!("HTTP/1.1 {partial}content-range: bytes 2-4/9\r\n\r\ncdefgh"),
            "malformed answer",
        ),
        (
            format!("HTTP/1.1 {partial}content-range: bytes 2-4/9\r\n\r\ncd"),
            "the answer broke off",
        ),
        (
            format!("HTTP/1.1 {partial}content-range: bytes 2-4/9\r\n\r\ncde"),
            "cde",
        ),
        (
            "HTTP/1.1 200 OK\r\netag: \"e\"\r\n\r\nabcd".to_owned(),
            "the answer broke off",
        ),
        (
            format!(
                "HTTP/1.1 {partial}content-range: bytes 2-4/9\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
            ),
            "the answer broke off",
        ),
        ("nonsense\r\n\r\n".to_owned(), "malformed answer"),
        (String::new(), "the answer broke off"),
        (
            answer(
                &format!(
                    "{partial}x-junk: {}\r\ncontent-range: bytes 2-4/9",
                    "x".repeat(2 << 20)
                ),
                "cde",
            ),
            "malformed answer",
        ),
    ] {
        let shown = &raw[..raw.len().min(200)];
        match read_from(&raw).await {
            Ok(bytes) => assert_eq!(String::from_utf8(bytes).unwrap(), want, "{shown}"),
            Err(error) => {
                assert!(error.to_string().starts_with(want), "{shown}: {error:?}");
            }
        }
    }
}

/// The object has nine bytes, as far as anybody knows.
#[tokio::test]
async fn another_size_is_another_version() {
    let partial = "206 Partial Content\r\netag: \"e\"\r\ncontent-range: bytes 2-4";
    let encoded = "200 OK\r\netag: \"e\"\r\ncontent-encoding: gzip";
    for (raw, want) in [
        (answer(&format!("{partial}/9"), "cde"), "cde"),
        (answer(&format!("{partial}/*"), "cde"), "cde"),
        (
            answer(&format!("{partial}/10"), "cde"),
            "the object changed",
        ),
        (answer("200 OK\r\netag: \"e\"", "abcdefghi"), "cde"),
        (
            answer("200 OK\r\netag: \"e\"", "abcdefgh"),
            "the object changed",
        ),
        (answer(encoded, "abcdefghi"), "cde"), // Stored like that.
        (answer(encoded, "abcdefgh"), "malformed answer"),
    ] {
        let server = Script::always(&raw).await;
        let origin = origin(&server.url, None, &[]);
        let name = name("bucket", "k");
        let got: Result<Vec<_>, _> = match origin.read(&name, "\"e\"", Some(9), 2..5).await {
            Ok(stream) => stream.try_collect().await,
            Err(error) => Err(error),
        };
        match got {
            Ok(pieces) => assert_eq!(pieces.concat(), want.as_bytes(), "{raw}"),
            Err(error) => assert!(error.to_string().starts_with(want), "{raw}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_ignores_range_is_not_read_for_ever() {
    let raw = format!(
        "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: {}\r\n\r\n",
        1u64 << 40
    );
    let server = Script::always(&raw).await;
    let origin = origin(&server.url, None, &[]);
    let far = 1u64 << 39;
    let error = read(&*origin, &name("bucket", "k"), "\"e\"", far..far + 1)
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Unsupported(_)), "{error:?}");
}

#[tokio::test]
async fn redirects() {
    let away = Script::always(&answer("200 OK\r\netag: \"e\"", "secret")).await;
    let to = |location: String| answer(&format!("302 Found\r\nlocation: {location}"), "");
    let outside = to(format!("{}/pre/bucket/k", away.url));
    for (location, requests) in [
        (outside, 1),
        (to("/elsewhere".into()), 1),
        (to("k".into()), 4),
    ] {
        let server = Script::always(&location).await;
        let origin = origin(&format!("{}/pre", server.url), None, &[]);
        let error = origin.head(&name("bucket", "k")).await.unwrap_err();
        assert!(matches!(error, OriginError::Unsupported(_)), "{error:?}");
        assert_eq!(server.requests(), requests, "{location}");
    }
    assert_eq!(away.requests(), 0);

    let server = Script::start(|head| {
        let answer = if head.contains(" /pre/bucket/k ") {
            answer("302 Found\r\nlocation: moved", "")
        } else {
            "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: 7\r\n\r\n".to_owned()
        };
        answer.into_bytes()
    })
    .await;
    let origin = origin(&format!("{}/pre", server.url), None, &[]);
    assert_eq!(origin.head(&name("bucket", "k")).await.unwrap().size, 7);
}

#[tokio::test]
async fn listings() {
    let bomb = "<!DOCTYPE l [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;\">]>\
                <ListBucketResult><Name>&b;</Name></ListBucketResult>";
    let endless = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
    let deep = "<a>".repeat(100_000);
    let long = "x".repeat(20 << 20);
    for body in ["", "{}", "<html>", "<Error/>", bomb, endless, &deep, &long] {
        let server = Script::always(&answer("200 OK", body)).await;
        let origin = origin("s3://bucket", Some(&server.url), &[]);
        let error = origin.list(&query()).await.unwrap_err();
        let shown = &body[..body.len().min(60)];
        assert!(
            matches!(error, OriginError::Malformed(_)),
            "{shown}: {error:?}"
        );
    }
    for (scheme, body) in [
        ("gs://bucket", "<xml/>".to_owned()),
        ("gs://bucket", "[".repeat(100_000)),
        (
            "gs://bucket",
            r#"{"items":[{"name":"k","size":"-1"}]}"#.to_owned(),
        ),
        (
            "az://account/bucket",
            "<EnumerationResults><Blobs><Blob/></Blobs></EnumerationResults>".to_owned(),
        ),
    ] {
        let server = Script::always(&answer("200 OK", &body)).await;
        let origin = anonymous(scheme, &server.url);
        let error = origin.list(&query()).await.unwrap_err();
        assert!(
            matches!(error, OriginError::Malformed(_)),
            "{body:.60}: {error:?}"
        );
    }
}

/// The server says "more" for ever and gives nothing: one listing asks a bounded number of times.
#[tokio::test]
async fn listings_that_get_nowhere() {
    let azure = "<EnumerationResults><Blobs/><NextMarker>again</NextMarker></EnumerationResults>";
    let google = r#"{"nextPageToken":"again"}"#;
    for (url, page) in [("az://account/bucket", azure), ("gs://bucket", google)] {
        let server = Script::always(&answer("200 OK", page)).await;
        let listed = anonymous(url, &server.url).list(&query()).await;
        match listed {
            Ok(page) => assert!(page.objects.is_empty() && page.next.is_some()),
            Err(error) => assert!(matches!(error, OriginError::Server(_)), "{error:?}"),
        }
        assert_eq!(server.requests(), 20);
    }
}

/// A bucket in another region is found by what S3 says of it, and remembered.
#[tokio::test]
async fn another_region() {
    let signed = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "key"),
    ];
    let ok = "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: 3\r\n\r\n";
    for moved in [
        answer(
            "301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1",
            "",
        ),
        answer("400 Bad Request\r\nx-amz-bucket-region: eu-west-1", ""),
    ] {
        let server = Script::start(move |head| {
            if head.contains("/eu-west-1/s3/") {
                ok.into()
            } else {
                moved.clone().into_bytes()
            }
        })
        .await;
        let origin = origin("s3://bucket", Some(&server.url), &signed);
        assert_eq!(origin.head(&name("bucket", "k")).await.unwrap().size, 3);
        assert_eq!(server.requests(), 2);
        assert_eq!(origin.head(&name("bucket", "k")).await.unwrap().size, 3);
        assert_eq!(server.requests(), 3, "remembered");
    }

    let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>wrong</Message>\
                <Region>eu-west-1</Region></Error>";
    let server = Script::start(move |head| {
        let listing = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        if head.contains("/eu-west-1/s3/") {
            answer("200 OK", listing).into_bytes()
        } else {
            answer("400 Bad Request", body).into_bytes()
        }
    })
    .await;
    let origin = origin("s3://bucket", Some(&server.url), &signed);
    assert!(origin.list(&query()).await.unwrap().next.is_none());

    // Sent to and fro, or to a region that is no region: told, not followed.
    for region in ["eu-west-1", "evil.example/", "us-east-1"] {
        let moved = answer(
            &format!("301 Moved Permanently\r\nx-amz-bucket-region: {region}"),
            "",
        );
        let server = Script::always(&moved).await;
        let origin = super::origin("s3://bucket", Some(&server.url), &signed);
        let error = origin.head(&name("bucket", "k")).await.unwrap_err();
        assert!(error.to_string().contains("AWS_REGION"), "{error:?}");
        assert_eq!(server.requests(), if region == "eu-west-1" { 2 } else { 1 });
    }
}

/// What goes over the wire: the key as it is, who we are, the condition, and no secret in the clear.
#[tokio::test]
async fn requests() {
    let server = Script::always(&answer("404 Not Found", "")).await;
    let signed = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("AWS_SESSION_TOKEN", "tok"),
    ];
    let origin = origin("s3://", Some(&server.url), &signed);
    let error = read(&*origin, &name("bucket", "a//b/../c +%ü/"), "\"e\"", 5..9)
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::NoSuchKey), "{error:?}");
    let head = server.seen().pop().unwrap();
    assert!(
        head.starts_with("GET /bucket/a//b/../c%20%2B%25%C3%BC/ HTTP/1.1\r\n"),
        "{head}"
    );
    for line in [
        "if-match: \"e\"",
        "range: bytes=5-8",
        concat!("user-agent: gannet/", env!("CARGO_PKG_VERSION")),
        "x-amz-security-token: tok",
        "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert!(!head.contains("hunter2"));
    let empty = read(&*origin, &name("bucket", "k"), "\"e\"", 5..5)
        .await
        .unwrap_err();
    assert!(matches!(empty, OriginError::Invalid(_)), "{empty:?}");
}
