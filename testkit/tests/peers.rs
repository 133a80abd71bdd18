//! Every launcher brings its server up, filled, and takes it down again.

use gannet_testkit::{
    client, content,
    origin::{Object, Origin},
    peers::{
        Azurite, Backend, Dnsmasq, Gcs, Haproxy, Moto, Nginx, NginxCache, Python, Synapses,
        Varnish, Zone,
    },
};
use std::net::{SocketAddr, TcpStream};

#[tokio::test]
async fn moto_serves_s3() {
    let moto = Moto::start();
    moto.bucket("bucket").await;
    moto.put(
        "bucket",
        "a b",
        &[("x-amz-acl", "public-read"), ("x-amz-meta-m", "v")],
        b"hello",
    )
    .await;
    let url = format!("{}/bucket/a%20b", moto.url());
    let answer = client::get(&url, &[("range", "bytes=1-2")]).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (206, "el"));
    assert_eq!(answer.header("x-amz-meta-m"), Some("v"));
    let python = Python::new(moto.url(), "test", "test");
    assert!(python.aws(&["s3", "ls", "s3://bucket/"]).contains("a b"));
    let script = "import boto3; print(boto3.client('s3').get_object(Bucket='bucket', Key='a b')['Body'].read())";
    assert_eq!(python.script(script, &[]).trim(), "b'hello'");
    let script = "import s3fs; print(s3fs.S3FileSystem().cat('bucket/a b'))";
    assert_eq!(python.script(script, &[]).trim(), "b'hello'");
}

#[cfg(feature = "s3s-fs")]
#[tokio::test]
async fn s3s_fs_serves_s3_and_ignores_if_match() {
    let dir = tempfile::tempdir().unwrap();
    let server = gannet_testkit::peers::S3sFs::start(dir.path(), None);
    server.bucket("bucket").await;
    server.put("bucket", "a/b", &[], b"hello").await;
    let url = format!("{}/bucket/a/b", server.url());
    let answer = client::get(&url, &[("if-match", "\"other\"")])
        .await
        .unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));

    let server = gannet_testkit::peers::S3sFs::start(dir.path(), Some(("key", "secret")));
    assert_eq!(
        client::get(&format!("{}/bucket/a/b", server.url()), &[])
            .await
            .unwrap()
            .status,
        403
    );
    let python = Python::new(server.url(), "key", "secret");
    assert!(python.aws(&["s3", "ls", "s3://bucket/a/"]).contains('b'));
}

#[tokio::test]
async fn azurite_serves_block_and_page_blobs() {
    let azurite = Azurite::start();
    azurite.container("container").await;
    azurite
        .block_blob(
            "container",
            "a/b c",
            &[("content-type", "text/plain")],
            b"hello",
        )
        .await;
    azurite.page_blob("container", "disk", 512).await;
    let url = format!("{}/{}/container/a/b%20c", azurite.url(), Azurite::ACCOUNT);
    let answer = client::get(&url, &[]).await.unwrap();
    assert!(
        matches!(answer.status, 403 | 404),
        "private: {}",
        answer.text()
    );
}

#[tokio::test]
async fn the_gcs_emulator_serves() {
    let gcs = Gcs::start("b");
    gcs.put("b", "a/b c", "text/plain", b"hello").await;
    let answer = client::get(&format!("{}/b/a/b%20c", gcs.url()), &[])
        .await
        .unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
}

#[tokio::test]
async fn nginx_serves_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), b"hello").unwrap();
    let nginx = Nginx::files(dir.path());
    let answer = client::get(&format!("{}/f", nginx.url()), &[("range", "bytes=-2")])
        .await
        .unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (206, "lo"));
    assert!(answer.header("etag").is_some());
}

#[tokio::test]
async fn nginx_and_varnish_cache() {
    let origin = Origin::start();
    origin.put("b", "k", Object::generated(3, 100_000));
    let sliced = |slice_bytes| {
        Nginx::cache(&NginxCache {
            origin: origin.addr(),
            slice_bytes,
            sendfile: true,
            dir: None,
        })
    };
    let (slice, whole) = (sliced(Some(65_536)), sliced(None));
    let varnish = Varnish::start(origin.addr(), 64);
    for (url, gets) in [(slice.url(), 2), (whole.url(), 1), (varnish.url(), 1)] {
        origin.forget().await;
        for _ in 0..2 {
            let answer = client::get(&format!("{url}/b/k"), &[]).await.unwrap();
            assert_eq!(
                (answer.status, answer.body),
                (200, content::bytes(3, 0, 0, 100_000))
            );
        }
        assert_eq!(origin.counts().gets, gets, "{url}");
    }
    assert!(varnish.process().resident() > 0);
}

#[test]
fn dnsmasq_knows_what_it_was_told() {
    let ask = |server: &Dnsmasq| {
        let question = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01";
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let patience = std::time::Duration::from_secs(60);
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send_to(question, server.addr()).unwrap();
        let mut answer = [0; 512];
        let len = socket.recv(&mut answer).unwrap();
        answer[..len].to_vec()
    };
    let zone = Zone::new().host("a.test", "10.1.2.3".parse().unwrap());
    let mut server = Dnsmasq::start(&zone);
    assert!(ask(&server).ends_with(&[10, 1, 2, 3]));
    server.serve(&Zone::new());
    // There is no such name.
    assert_eq!(ask(&server)[3] & 15, 3);
}

#[tokio::test]
async fn haproxy_balances_those_that_are_up() {
    let origin = Origin::start();
    origin.put("b", "k", Object::held("hello"));
    let here = origin.addr().port();
    let nobody = gannet_testkit::process::free_port();
    let backends =
        [(here, here), (nobody, nobody)].map(|(port, check_port)| Backend { port, check_port });
    let haproxy = Haproxy::start(&backends, "/b/k");
    while haproxy.is_up(1).await || !haproxy.is_up(0).await {
        tokio::task::yield_now().await;
    }
    for _ in 0..4 {
        let answer = client::get(&format!("{}/b/k", haproxy.url()), &[]).await;
        assert_eq!(answer.unwrap().text(), "hello");
    }
}

#[test]
fn synapses_come_and_go() {
    let mut synapses = Synapses::start(&[]);
    let chain = synapses.room("chain")["auth_chain"].as_array().unwrap();
    assert_eq!(chain.len(), 303);
    let address = synapses.server("hs2")["address"].as_str().unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let listens = || TcpStream::connect(address).is_ok();
    assert!(listens());
    synapses.control("kill hs2");
    assert!(!listens());
    synapses.control("start hs2");
    assert!(listens());
    // It takes what it is told of the names.
    Dnsmasq::start(&synapses.zone());
    drop(synapses);
    assert!(!listens());
}
