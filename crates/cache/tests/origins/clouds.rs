//! What the clouds do and their emulators do not: Google's paging and conditions, the credentials of
//! an instance.

use super::{
    anonymous, list_all, model, name, origin, read,
    script::{Script, answer},
};
use gannet_cache::origin::{Environment, OriginError, OriginSpec, open};
use std::collections::BTreeMap;

const KEYS: &[&str] = &["a", "d/", "d/e/f", "d/e/g", "d/h", "d0", "e//x", "z"];

/// A listing as Google's manual describes it: it begins at `startOffset`, that name included, and
/// gives up to `maxResults` entries; this one gives fewer, and none at first.
fn google_lists(head: &str) -> Vec<u8> {
    let path = head.split(' ').nth(1).unwrap();
    let url = url::Url::parse(&format!("http://h{path}")).unwrap();
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    let of = |name: &str| query.get(name).map(String::as_str);
    let (prefix, delimiter) = (of("prefix").unwrap_or_default(), of("delimiter"));
    let from = of("startOffset").unwrap_or_default();
    let mut keys: Vec<&str> = KEYS.iter().copied().filter(|key| *key >= from).collect();
    keys.sort_unstable();
    let entries = model(&keys, prefix, delimiter, "");
    let max: usize = of("maxResults").unwrap().parse().unwrap();
    let (at, count) = match of("pageToken") {
        Some(token) => (token.parse().unwrap(), max.min(2)),
        None => (0, 0),
    };
    let page: Vec<&String> = entries.iter().skip(at).take(count).collect();
    let (prefixes, items): (Vec<&String>, Vec<&String>) = page
        .iter()
        .partition(|entry| !keys.contains(&entry.as_str()));
    let items: Vec<_> = items
        .iter()
        .map(|name| serde_json::json!({"name": name, "size": "1", "generation": "7"}))
        .collect();
    let mut body = serde_json::json!({"items": items, "prefixes": prefixes});
    if at + page.len() < entries.len() {
        body["nextPageToken"] = (at + page.len()).to_string().into();
    }
    answer("200 OK", &body.to_string()).into_bytes()
}

#[tokio::test]
async fn google_listings() {
    let server = Script::start(google_lists).await;
    let origin = anonymous("gs://bucket", &server.url);
    for (prefix, delimiter, after) in [
        ("", None, ""),
        ("", Some("/"), ""),
        ("d/", None, ""),
        ("d/", Some("/"), ""),
        ("d/", Some("/"), "d/"),
        ("", None, "d/e/f"),
        ("", Some("/"), "d/"),
        ("", Some("//"), "a"),
        ("none", None, ""),
        ("", None, "zz"),
    ] {
        for keys_max in [1, 2, 3, 1000] {
            let found =
                list_all(&*origin, "bucket", prefix, delimiter, Some(after), keys_max).await;
            let wanted = model(KEYS, prefix, delimiter, after);
            assert_eq!(
                found.unwrap(),
                wanted,
                "{prefix:?} {delimiter:?} {after:?} {keys_max}"
            );
        }
    }
}

#[tokio::test]
async fn google_reads() {
    let partial = "206 Partial Content\r\ncontent-range: bytes 2-4/9";
    let with = |generation: &str| {
        answer(
            &format!("{partial}\r\nx-goog-generation: {generation}"),
            "cde",
        )
    };
    for (media, json, want) in [
        (with("5"), "", "cde"),
        (with("6"), "", "the object changed"),
        (
            answer("412 Precondition Failed", "{}"),
            "",
            "the object changed",
        ),
        (
            answer(partial, "cde"),
            r#"{"generation":"5","size":"9"}"#,
            "cde",
        ),
        (
            answer(partial, "cde"),
            r#"{"generation":"6","size":"9"}"#,
            "the object changed",
        ),
        (answer(partial, "cde"), "{}", "the object changed"),
        (
            answer(
                "404 Not Found",
                r#"{"error":{"message":"The specified bucket does not exist."}}"#,
            ),
            "",
            "no such bucket",
        ),
        (answer("404 Not Found", "Not Found"), "", "no such key"),
        (
            answer("403 Forbidden", r#"{"error":{"message":"no"}}"#),
            "",
            "access denied: 403 Forbidden: no",
        ),
    ] {
        let shown = format!("{media} {json}");
        let json = answer("200 OK", json);
        let server = Script::start(move |head| {
            let answer = if head.contains("alt=media") {
                &media
            } else {
                &json
            };
            answer.clone().into_bytes()
        })
        .await;
        let origin = anonymous("gs://bucket", &server.url);
        let text = match read(&*origin, &name("bucket", "a/../b"), "\"5\"", 2..5).await {
            Ok(bytes) => String::from_utf8(bytes).unwrap(),
            Err(error) => error.to_string(),
        };
        assert_eq!(text, want, "{shown}");
        let head = server.seen().remove(0);
        assert!(
            head.starts_with("GET /storage/v1/b/bucket/o/a%2F..%2Fb?"),
            "{head}"
        );
        assert!(head.contains("ifGenerationMatch=5") && head.contains("accept-encoding: gzip"));
        assert!(!head.contains("if-match"), "{head}");
    }
}

/// Keys of an EC2 instance's role, fetched over our own client, sign the request.
#[tokio::test]
async fn instance_credentials() {
    let server = Script::start(|head| {
        let role = "/latest/meta-data/iam/security-credentials/";
        let path = head.split(' ').nth(1).unwrap();
        if head.starts_with("PUT /latest/api/token ") {
            answer("200 OK", "the-token")
        } else if path == role {
            answer("200 OK", "the-role")
        } else if path == format!("{role}the-role") {
            let body = r#"{"AccessKeyId":"ASIA1","SecretAccessKey":"s","Token":"t",
                "Code":"Success","Type":"AWS-HMAC","Expiration":"2999-01-01T00:00:00Z",
                "LastUpdated":"2020-01-01T00:00:00Z"}"#;
            answer("200 OK", body)
        } else {
            "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: 3\r\n\r\n".to_owned()
        }
        .into_bytes()
    })
    .await;
    let spec = OriginSpec {
        endpoint: Some(server.url.clone()),
        env: Some(
            [("AWS_METADATA_ENDPOINT", server.url.as_str())]
                .into_iter()
                .collect(),
        ),
        ..OriginSpec::new("s3://bucket")
    };
    let origin = open(&spec).unwrap();
    for _ in 0..2 {
        assert_eq!(origin.head(&name("bucket", "k")).await.unwrap().size, 3);
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 5, "asked for once");
    let last = seen.last().unwrap();
    assert!(
        last.contains("Credential=ASIA1/") && last.contains("x-amz-security-token: t"),
        "{last}"
    );
}

/// No credentials anywhere: said in words that help, and not asked for ever.
#[tokio::test]
async fn no_credentials() {
    let env: Environment = [("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")]
        .into_iter()
        .collect();
    let spec = OriginSpec {
        env: Some(env),
        ..OriginSpec::new("s3://bucket")
    };
    let error = open(&spec)
        .unwrap()
        .head(&name("bucket", "k"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, OriginError::Local(why) if why.contains("AWS_ACCESS_KEY_ID")),
        "{error:?}"
    );
    let env: Environment = [("AWS_PROFILE", "nobody")].into_iter().collect();
    let spec = OriginSpec {
        env: Some(env),
        ..OriginSpec::new("s3://bucket")
    };
    let error = open(&spec).unwrap_err().to_string();
    assert!(error.contains("export-credentials"), "{error}");
}

/// A HEAD that claims nothing is there is not believed: some frameworks say so of everything.
#[tokio::test]
async fn a_head_of_zero_bytes_is_checked() {
    for (get, size) in [
        (
            "206 Partial Content\r\netag: \"e\"\r\ncontent-range: bytes 0-0/9",
            9,
        ),
        ("200 OK\r\netag: \"e\"", 0),
    ] {
        let body = if size > 0 { "a" } else { "" };
        let get = answer(get, body);
        let server = Script::start(move |head| {
            if head.starts_with("HEAD") {
                b"HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: 0\r\n\r\n".to_vec()
            } else {
                get.clone().into_bytes()
            }
        })
        .await;
        let origin = origin(&server.url, None, &[]);
        assert_eq!(origin.head(&name("bucket", "k")).await.unwrap().size, size);
    }
}
