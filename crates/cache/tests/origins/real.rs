//! One suite, all kinds of origins, each on a real server.

use super::{list_all, model, name, origin, read};
use gannet_cache::origin::{Origin, OriginError, OriginSpec, open};
use gannet_testkit::{
    content,
    origin::{Fault, Method, Object, Origin as Kit, Rule},
    peers::{Azurite, Gcs, Moto, Nginx, S3sFs},
};
use std::{fs, path::Path, sync::Arc};
use tempfile::TempDir;

const SIGNED: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
];
const BUCKET: &str = "bucket";
const SIZE: u64 = 300_000;

/// Keys that every backend can hold.
const KEYS: &[&str] = &[
    "a-b",
    "a.txt",
    "a/x",
    "a/y/z",
    "a0",
    "plus+and space",
    "percent%41%",
    "quest?ion=1&two#hash",
    "semi;colon,comma'quote\"<xml>&amp;",
    "umlaut-ü/€/日本",
    "~tilde(paren)*star!",
];

/// A server with a bucket.
enum Server {
    Kit(Kit),
    Moto(Moto),
    S3sFs(
        S3sFs,
        #[expect(dead_code, reason = "held until its end")] TempDir,
    ),
    Azurite(Azurite),
    Gcs(Gcs),
    Nginx(
        #[expect(dead_code, reason = "held until its end")] Nginx,
        TempDir,
    ),
    Dir(TempDir),
}

impl Server {
    async fn put(&self, key: &str, body: &[u8]) {
        match self {
            Self::Kit(server) => drop(server.put(BUCKET, key, Object::held(body.to_vec()))),
            Self::Moto(server) => {
                server
                    .put(BUCKET, key, &[("content-type", "text/x-test")], body)
                    .await;
            }
            Self::S3sFs(server, _) => server.put(BUCKET, key, &[], body).await,
            Self::Azurite(server) => server.block_blob(BUCKET, key, &[], body).await,
            Self::Gcs(server) => server.put(BUCKET, key, "text/x-test", body).await,
            Self::Nginx(_, dir) | Self::Dir(dir) => replace(dir.path(), key, body),
        }
    }
}

/// Writes a file as a careful writer does.
fn replace(root: &Path, key: &str, body: &[u8]) {
    let path = root.join(BUCKET).join(key);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let fresh = path.with_file_name(".fresh");
    fs::write(&fresh, body).unwrap();
    fs::rename(fresh, path).unwrap();
}

/// What a kind of origin cannot do.
#[derive(Clone, Copy, Default)]
struct Limits {
    /// Has no listings.
    unlisted: bool,
    /// Cannot tell a missing bucket from a missing object.
    bucketless: bool,
    /// Cannot be given empty objects.
    never_empty: bool,
    /// Further keys that it must hold.
    odd_keys: &'static [&'static str],
}

async fn conforms(server: &Server, origin: &dyn Origin, limits: Limits) {
    objects(server, origin, limits).await;
    changes(server, origin).await;
    keys(server, origin, limits).await;
}

async fn objects(server: &Server, origin: &dyn Origin, limits: Limits) {
    let body = content::bytes(1, 0, 0, usize::try_from(SIZE).unwrap());
    server.put("data.bin", &body).await;
    if !limits.never_empty {
        server.put("empty", b"").await;
        assert_eq!(origin.head(&name(BUCKET, "empty")).await.unwrap().size, 0);
    }

    let data = name(BUCKET, "data.bin");
    let meta = origin.head(&data).await.unwrap();
    assert_eq!(meta.size, SIZE);
    assert!(
        meta.etag.starts_with('"') && meta.etag.ends_with('"'),
        "{}",
        meta.etag
    );
    assert!(meta.modified > std::time::UNIX_EPOCH);
    for range in [0..1, 0..SIZE, 1..SIZE, 1000..70_000, SIZE - 1..SIZE] {
        let bytes = read(origin, &data, &meta.etag, range.clone())
            .await
            .unwrap();
        let wanted =
            &body[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        assert!(bytes == wanted, "{range:?}: {} bytes", bytes.len());
    }
    let error = refused(read(origin, &data, "\"0\"", 0..1).await);
    assert!(
        matches!(error, OriginError::Changed),
        "another version: {error:?}"
    );

    let missing = name(BUCKET, "missing");
    let error = origin.head(&missing).await.unwrap_err();
    assert!(matches!(error, OriginError::NoSuchKey), "{error:?}");
    // Which comes first, the name or the condition, is the server's choice.
    let error = refused(read(origin, &missing, &meta.etag, 0..1).await);
    assert!(
        matches!(error, OriginError::NoSuchKey | OriginError::Changed),
        "{error:?}"
    );
    assert!(origin.head_bucket(BUCKET).await.is_ok());
    if limits.bucketless {
        assert!(origin.head(&name("other", "x")).await.is_err());
    } else {
        let error = origin.head_bucket("other").await.unwrap_err();
        assert!(matches!(error, OriginError::NoSuchBucket), "{error:?}");
        let error = list_all(origin, "other", "", None, None, 10)
            .await
            .unwrap_err();
        assert!(matches!(error, OriginError::NoSuchBucket), "{error:?}");
    }
}

/// The error of a read; what it read instead, by length.
fn refused(read: Result<Vec<u8>, OriginError>) -> OriginError {
    read.map(|bytes| bytes.len()).unwrap_err()
}

async fn changes(server: &Server, origin: &dyn Origin) {
    let key = name(BUCKET, "data.bin");
    let old = origin.head(&key).await.unwrap();
    // Of another length, since nginx makes its etags of that and of whole seconds.
    let body = content::bytes(1, 1, 0, usize::try_from(SIZE).unwrap() + 1);
    server.put("data.bin", &body).await;
    let error = refused(read(origin, &key, &old.etag, 0..SIZE).await);
    assert!(matches!(error, OriginError::Changed), "{error:?}");
    let new = origin.head(&key).await.unwrap();
    assert_ne!(new.etag, old.etag);
    assert!(read(origin, &key, &new.etag, 0..new.size).await.unwrap() == body);
}

async fn keys(server: &Server, origin: &dyn Origin, limits: Limits) {
    let keys: Vec<&str> = KEYS.iter().chain(limits.odd_keys).copied().collect();
    for key in &keys {
        server.put(key, key.as_bytes()).await;
    }
    for key in &keys {
        let object = name(BUCKET, key);
        let meta = origin
            .head(&object)
            .await
            .unwrap_or_else(|error| panic!("{key:?}: {error:?}"));
        let bytes = read(origin, &object, &meta.etag, 0..meta.size).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("{key:?}: {error:?}"));
        assert_eq!(String::from_utf8(bytes).unwrap(), *key);
    }
    if limits.unlisted {
        let error = list_all(origin, BUCKET, "", None, None, 10)
            .await
            .unwrap_err();
        assert!(matches!(error, OriginError::Unsupported(_)), "{error:?}");
        return;
    }
    let all: Vec<&str> = keys.into_iter().chain(["data.bin"]).collect();
    let empty = if limits.never_empty {
        None
    } else {
        Some("empty")
    };
    let all: Vec<&str> = all.into_iter().chain(empty).collect();
    for (prefix, delimiter, after) in [
        ("", None, None),
        ("", Some("/"), None),
        ("a", None, None),
        ("a/", Some("/"), None),
        ("", None, Some("a/x")),
        ("", Some("/"), Some("a.txt")),
        ("umlaut-ü/", Some("/"), None),
        ("plus+and ", None, None),
        ("none", None, None),
        ("", None, Some("~~")),
    ] {
        let wanted = model(&all, prefix, delimiter, after.unwrap_or_default());
        for keys_max in [2, 1000] {
            let found = list_all(origin, BUCKET, prefix, delimiter, after, keys_max).await;
            let found = found
                .unwrap_or_else(|error| panic!("{prefix:?} {delimiter:?} {after:?}: {error:?}"));
            assert_eq!(
                found, wanted,
                "{prefix:?} {delimiter:?} {after:?} {keys_max}"
            );
        }
    }
}

/// Keys that only an object store can hold.
const ANY_KEYS: &[&str] = &[
    "a//b",
    "dots/../x",
    "dots/./y",
    "dir/",
    "/leading",
    "back\\slash",
];

#[tokio::test]
async fn a_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(BUCKET)).unwrap();
    let origin = origin(&format!("file://{}", dir.path().display()), None, &[]);
    assert_eq!(origin.buckets().await.unwrap()[0].name, BUCKET);
    conforms(&Server::Dir(dir), &*origin, Limits::default()).await;
}

#[tokio::test]
async fn an_s3_server_of_ours() {
    let kit = Kit::start();
    kit.bucket(BUCKET);
    let origin = origin("s3://", Some(&kit.url()), SIGNED);
    assert_eq!(origin.buckets().await.unwrap()[0].name, BUCKET);
    let limits = Limits {
        odd_keys: ANY_KEYS,
        ..Limits::default()
    };
    conforms(&Server::Kit(kit), &*origin, limits).await;
}

#[tokio::test]
async fn moto() {
    let moto = Moto::start();
    moto.bucket(BUCKET).await;
    moto.bucket("second").await;
    metadata_and_prefixes(&moto).await;
    object_stores(&moto).await;
    let origin = origin("s3://bucket", Some(moto.url()), SIGNED);
    let limits = Limits {
        odd_keys: &["a//b", "dir/", "back\\slash"],
        ..Limits::default()
    };
    conforms(&Server::Moto(moto), &*origin, limits).await;
}

async fn metadata_and_prefixes(moto: &Moto) {
    let all = origin("s3://", Some(moto.url()), SIGNED);
    let meta = [
        ("content-type", "text/x-test"),
        ("x-amz-meta-owner", "me"),
        ("cache-control", "max-age=9"),
        ("content-disposition", "inline"),
    ];
    moto.put("second", "meta", &meta, b"x").await;
    let headers = all.head(&name("second", "meta")).await.unwrap().headers;
    for (header, value) in meta {
        assert_eq!(headers[header], value);
    }
    moto.put("second", "pre/fix/k", &[], b"below").await;
    let below = origin("s3://second/pre/fix", Some(moto.url()), SIGNED);
    assert_eq!(below.head(&name("second", "k")).await.unwrap().size, 5);
    let outside = below.head(&name("second", "meta")).await;
    assert!(matches!(outside, Err(OriginError::NoSuchKey)));
    let outside = below.head(&name(BUCKET, "k")).await;
    assert!(matches!(outside, Err(OriginError::NoSuchBucket)));
    let listed = list_all(&*below, "second", "", None, None, 10).await;
    assert_eq!(listed.unwrap(), ["k"]);
}

/// The shared store's way in.
async fn object_stores(moto: &Moto) {
    use gannet::http::{Client, ClientConfig};
    use object_store::{ObjectStoreExt, PutMode, path::Path};
    let spec = OriginSpec {
        endpoint: Some(moto.url().to_owned()),
        env: Some(SIGNED.iter().copied().collect()),
        ..OriginSpec::new("s3://second/store")
    };
    let client = Client::new(ClientConfig::default()).unwrap();
    let store = gannet_cache::origin::object_store(&spec, &client).unwrap();
    let path = Path::from("a/b");
    let pieces = [vec![b'x'; 70_000], vec![b'y'; 70_000]].map(bytes::Bytes::from);
    let whole = pieces.concat();
    let payload: object_store::PutPayload = pieces.into_iter().collect();
    let create = || PutMode::Create.into();
    store.put_opts(&path, payload, create()).await.unwrap();
    let again = store.put_opts(&path, "other".into(), create()).await;
    assert!(matches!(
        again,
        Err(object_store::Error::AlreadyExists { .. })
    ));
    assert!(store.get(&path).await.unwrap().bytes().await.unwrap() == whole);
    let all = origin("s3://", Some(moto.url()), SIGNED);
    let meta = all.head(&name("second", "store/a/b")).await.unwrap();
    assert_eq!(meta.size, 140_000);
}

/// It ignores If-Match: only the etag of the answer tells. It also checks our signatures.
#[tokio::test]
async fn s3s_fs() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3sFs::start(dir.path(), None);
    server.bucket(BUCKET).await;
    let origin = origin("s3://", Some(server.url()), &[]);
    server.put(BUCKET, "k", &[], b"one").await;
    let old = origin.head(&name(BUCKET, "k")).await.unwrap();
    server.put(BUCKET, "k", &[], b"two").await;
    let error = refused(read(&*origin, &name(BUCKET, "k"), &old.etag, 0..3).await);
    assert!(matches!(error, OriginError::Changed), "{error:?}");

    let signed = S3sFs::start(dir.path(), Some(("id", "secret")));
    let env = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let origin = self::origin("s3://", Some(signed.url()), &env);
    for key in KEYS.iter().chain(&["k"]) {
        let found = origin.head(&name(BUCKET, key)).await;
        match found {
            Ok(meta) => assert_eq!((*key, meta.size), ("k", 3)),
            Err(error) => assert!(matches!(error, OriginError::NoSuchKey), "{key}: {error:?}"),
        }
    }
    assert_eq!(
        list_all(&*origin, BUCKET, "", None, None, 10)
            .await
            .unwrap(),
        ["k"]
    );
    let env = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "wrong"),
    ];
    let origin = self::origin("s3://", Some(signed.url()), &env);
    let error = list_all(&*origin, BUCKET, "", None, None, 10)
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Denied(_)), "{error:?}");

    drop(signed);
    let fresh = tempfile::tempdir().unwrap();
    let server = S3sFs::start(fresh.path(), None);
    server.bucket(BUCKET).await;
    let origin = self::origin("s3://", Some(server.url()), &[]);
    let server = Server::S3sFs(server, fresh);
    objects(&server, &*origin, Limits::default()).await;
}

#[tokio::test]
async fn azurite() {
    let azurite = Azurite::start();
    azurite.container(BUCKET).await;
    let origin = origin("az://devstoreaccount1", Some(azurite.url()), &[]);
    assert_eq!(origin.buckets().await.unwrap()[0].name, BUCKET);

    azurite.container("pages").await;
    azurite.page_blob("pages", "page", 1024).await;
    let page = name("pages", "page");
    let error = origin.head(&page).await.unwrap_err();
    assert!(
        matches!(&error, OriginError::Unsupported(why) if why.contains("PageBlob")),
        "{error:?}"
    );
    // A condition that any version meets, since HEAD tells none.
    let error = refused(read(&*origin, &page, "*", 0..1).await);
    assert!(matches!(error, OriginError::Unsupported(_)), "{error:?}");

    let meta = [
        ("x-ms-meta-owner", "me"),
        ("x-ms-blob-content-type", "text/x-test"),
    ];
    azurite.block_blob("pages", "p/meta", &meta, b"x").await;
    let headers = origin.head(&name("pages", "p/meta")).await.unwrap().headers;
    assert_eq!(headers["x-amz-meta-owner"], "me");
    assert_eq!(headers["content-type"], "text/x-test");
    let below = self::origin("az://devstoreaccount1/pages/p", Some(azurite.url()), &[]);
    assert_eq!(
        list_all(&*below, "pages", "", None, None, 10)
            .await
            .unwrap(),
        ["meta"]
    );
    assert_eq!(below.head(&name("pages", "meta")).await.unwrap().size, 1);

    let wrong = [("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")];
    let refused = self::origin("az://devstoreaccount1", Some(azurite.url()), &wrong);
    let error = refused.head(&page).await.unwrap_err();
    assert!(matches!(error, OriginError::Denied(_)), "{error:?}");

    conforms(&Server::Azurite(azurite), &*origin, Limits::default()).await;
}

#[tokio::test]
async fn gcs() {
    let gcs = Gcs::start(BUCKET);
    let host = gcs.url().trim_start_matches("http://").to_owned();
    let spec = OriginSpec {
        env: Some(
            [
                ("STORAGE_EMULATOR_HOST", host.as_str()),
                ("GOOGLE_CLOUD_PROJECT", "test"),
            ]
            .into_iter()
            .collect(),
        ),
        ..OriginSpec::new("gs://")
    };
    let origin = open(&spec).unwrap();
    assert!(
        origin
            .buckets()
            .await
            .unwrap()
            .iter()
            .any(|bucket| bucket.name == BUCKET)
    );
    let server = Server::Gcs(gcs);
    let limits = Limits {
        never_empty: true,
        odd_keys: &["a//b", "back\\slash"],
        ..Limits::default()
    };
    conforms(&server, &*origin, limits).await;
    let meta = origin.head(&name(BUCKET, "a/x")).await.unwrap();
    assert_eq!(meta.headers["content-type"], "text/x-test");
    assert!(meta.headers.contains_key("x-amz-checksum-crc32c"));
}

#[tokio::test]
async fn nginx() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(BUCKET)).unwrap();
    let nginx = Nginx::files(dir.path());
    let origin = origin(nginx.url(), None, &[]);
    let limits = Limits {
        unlisted: true,
        bucketless: true,
        ..Limits::default()
    };
    conforms(&Server::Nginx(nginx, dir), &*origin, limits).await;
}

/// Weak validators: refused unless allowed, and then compared on each read.
#[tokio::test]
async fn weak_validators() {
    let kit = Kit::start();
    kit.put(BUCKET, "k", Object::generated(1, 1000));
    let weak = |allow_weak| {
        open(&OriginSpec {
            allow_weak,
            ..OriginSpec::new(kit.url())
        })
        .unwrap()
    };
    let (strict, lax): (Arc<dyn Origin>, Arc<dyn Origin>) = (weak(false), weak(true));
    let key = name(BUCKET, "k");
    for fault in [Fault::WeakEtag, Fault::NoEtag] {
        kit.heal();
        kit.rule(Rule::new(fault));
        assert!(matches!(
            strict.head(&key).await,
            Err(OriginError::MissingEtag)
        ));
        let meta = lax.head(&key).await.unwrap();
        assert!(meta.etag.starts_with("W/"), "{}", meta.etag);
        assert_eq!(
            read(&*lax, &key, &meta.etag, 10..20).await.unwrap().len(),
            10
        );
        assert!(matches!(
            read(&*strict, &key, &meta.etag, 10..20).await,
            Err(OriginError::MissingEtag)
        ));
        let error = refused(read(&*lax, &key, "W/\"lm-1-3e8\"", 10..20).await);
        assert!(matches!(error, OriginError::Changed), "{error:?}");
    }
    kit.rule(Rule::new(Fault::NoLastModified));
    kit.rule(Rule::new(Fault::NoEtag));
    assert!(matches!(
        lax.head(&key).await,
        Err(OriginError::MissingEtag)
    ));
}

/// What a faulty server does to one request, by its kind.
#[tokio::test]
async fn faults() {
    let kit = Kit::start();
    kit.put(BUCKET, "k", Object::generated(1, 100_000));
    let key = name(BUCKET, "k");
    let origins = [
        origin("s3://", Some(&kit.url()), SIGNED),
        origin(&kit.url(), None, &[]),
    ];
    for origin in &origins {
        kit.heal();
        let meta = origin.head(&key).await.unwrap();
        let whole = read(&**origin, &key, &meta.etag, 0..100_000).await.unwrap();
        let status = |code| Fault::Status {
            code,
            retry_after: Some(7),
        };
        for (fault, want) in [
            (Fault::Reset { after: 5000 }, "the answer broke off"),
            (Fault::Truncate { after: 5000 }, "the answer broke off"),
            (Fault::Hangup, "the answer broke off"),
            (Fault::WrongEtag("\"other\"".into()), "the object changed"),
            (Fault::NoEtag, "no strong etag"),
            (Fault::WeakEtag, "the object changed"),
            (Fault::WrongContentRange { by: 1 }, "malformed answer"),
            (status(503), "throttled"),
            (status(429), "throttled"),
            (status(500), "the origin failed"),
            (status(403), "access denied"),
            (status(404), "no such key"),
        ] {
            kit.heal();
            kit.rule(Rule::new(fault.clone()).method(Method::Get));
            let error = refused(read(&**origin, &key, &meta.etag, 10..90_000).await);
            assert!(error.to_string().starts_with(want), "{fault:?}: {error:?}");
            if let OriginError::Throttled { retry_after } = error {
                assert_eq!(retry_after.unwrap().as_secs(), 7);
            }
        }
        for fault in [Fault::IgnoreRange, Fault::Chunked, Fault::IgnoreIfMatch] {
            kit.heal();
            kit.rule(Rule::new(fault.clone()).method(Method::Get));
            for range in [0..100_000usize, 0..10, 50_000..60_000, 99_999..100_000] {
                let wire = range.start as u64..range.end as u64;
                let bytes = read(&**origin, &key, &meta.etag, wire).await;
                let bytes = bytes.unwrap_or_else(|error| panic!("{fault:?} {range:?}: {error:?}"));
                assert!(bytes == whole[range.clone()], "{fault:?} {range:?}");
            }
        }
    }
}

/// A read to its end leaves the connection to the next one.
#[tokio::test]
async fn connections_are_kept() {
    let kit = Kit::start();
    kit.put(BUCKET, "k", Object::generated(1, 100_000));
    let key = name(BUCKET, "k");
    for (origin, fault) in [
        (origin("s3://", Some(&kit.url()), SIGNED), None),
        (origin(&kit.url(), None, &[]), None),
        (origin(&kit.url(), None, &[]), Some(Fault::Chunked)),
    ] {
        kit.heal();
        if let Some(fault) = fault {
            kit.rule(Rule::new(fault).method(Method::Get));
        }
        let before = kit.counts().connections;
        for _ in 0..5 {
            let meta = origin.head(&key).await.unwrap();
            read(&*origin, &key, &meta.etag, 10..90_000).await.unwrap();
        }
        assert_eq!(kit.counts().connections - before, 1);
    }
}

#[tokio::test]
async fn nobody_there() {
    let key = name(BUCKET, "k");
    for url in ["s3://", "az://account", "gs://"] {
        let endpoint = Some("http://127.0.0.1:1".to_owned());
        let spec = OriginSpec {
            endpoint,
            anonymous: true,
            ..OriginSpec::new(url)
        };
        let error = open(&spec).unwrap().head(&key).await.unwrap_err();
        assert!(matches!(error, OriginError::Connect(_)), "{url}: {error:?}");
    }
    let error = origin("http://127.0.0.1:1", None, &[])
        .head(&key)
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Connect(_)), "{error:?}");
}

/// HEAD refused: the first byte tells as much.
#[tokio::test]
async fn a_server_without_head() {
    let kit = Kit::start();
    kit.put(BUCKET, "k", Object::generated(1, 1000));
    kit.put(BUCKET, "empty", Object::held(Vec::new()));
    for code in [405, 501] {
        kit.heal();
        kit.rule(
            Rule::new(Fault::Status {
                code,
                retry_after: None,
            })
            .method(Method::Head),
        );
        let origin = origin(&kit.url(), None, &[]);
        assert_eq!(origin.head(&name(BUCKET, "k")).await.unwrap().size, 1000);
        assert_eq!(origin.head(&name(BUCKET, "empty")).await.unwrap().size, 0);
        assert!(matches!(
            origin.head(&name(BUCKET, "no")).await,
            Err(OriginError::NoSuchKey)
        ));
    }
}
