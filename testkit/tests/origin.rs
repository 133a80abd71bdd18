//! The origin does what it is told, byte for byte: what later tests conclude rests on it.

use gannet_testkit::{
    client::{self, Answer},
    content,
    origin::{End, Fault, Method, Object, Origin, Pace, Rule},
};
use std::time::Duration;

const SIZE: u64 = 1 << 20;

fn origin() -> Origin {
    let origin = Origin::start();
    origin.put(
        "b",
        "k",
        Object::generated(1, SIZE).header("x-amz-meta-colour", "red"),
    );
    origin
}

async fn get(origin: &Origin, headers: &[(&str, &str)]) -> Answer {
    client::get(&origin.object_url("b", "k"), headers)
        .await
        .expect("an answer")
}

#[tokio::test]
async fn serves_whole_parts_and_heads() {
    let origin = origin();
    let whole = get(&origin, &[]).await;
    assert_eq!(
        (whole.status, whole.cut, whole.body.len() as u64),
        (200, false, SIZE)
    );
    assert_eq!(
        content::sha256_of(&whole.body),
        origin.object("b", "k").unwrap().sha256()
    );
    assert_eq!(whole.header("x-amz-meta-colour"), Some("red"));

    let part = get(&origin, &[("range", "bytes=100-199")]).await;
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[100..200]));
    assert_eq!(part.header("content-range"), Some("bytes 100-199/1048576"));
    let etag = part.header("etag").unwrap();
    assert_eq!(get(&origin, &[("if-match", etag)]).await.status, 200);
    assert_eq!(get(&origin, &[("if-match", "\"other\"")]).await.status, 412);
    assert_eq!(get(&origin, &[("if-none-match", etag)]).await.status, 304);
    let beyond = get(&origin, &[("range", "bytes=1048576-")]).await;
    assert_eq!(
        (beyond.status, beyond.xml("Code").as_deref()),
        (416, Some("InvalidRange"))
    );

    let head = client::head(&origin.object_url("b", "k"), &[])
        .await
        .unwrap();
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("1048576"))
    );
    let missing = client::get(&origin.object_url("b", "nothing"), &[])
        .await
        .unwrap();
    assert_eq!(
        (missing.status, missing.xml("Code").as_deref()),
        (404, Some("NoSuchKey"))
    );
    let written = client::request("PUT", &origin.object_url("b", "k"), &[], b"")
        .await
        .unwrap();
    assert_eq!(written.status, 405);

    origin.until("quiet", |counts| counts.active == 0).await;
    let counts = origin.counts();
    assert_eq!((counts.gets, counts.heads, counts.active_max), (7, 1, 1));
    assert_eq!(counts.bytes, 2 * SIZE + 100);
    let served = origin.served();
    assert_eq!(
        (served[1].range.clone(), served[1].sent, served[1].end),
        (100..200, 100, End::Whole)
    );
}

#[tokio::test]
async fn lists() {
    let origin = origin();
    for key in ["a/1", "a/2", "c d+e", "k/ü&<"] {
        origin.put("b", key, Object::held("x"));
    }
    let list = async |query: &str| {
        let answer = client::get(&format!("{}/b?{query}", origin.url()), &[])
            .await
            .unwrap();
        answer.text()
    };
    let keys = |xml: &str| -> Vec<String> {
        let cut = |part: &str, end: &str| part.split(end).next().unwrap_or_default().to_owned();
        let objects = xml
            .split("<Contents><Key>")
            .skip(1)
            .map(|part| cut(part, "</Key>"));
        let prefixes = xml
            .split("<CommonPrefixes><Prefix>")
            .skip(1)
            .map(|p| cut(p, "</Prefix>"));
        objects.chain(prefixes).collect()
    };
    assert_eq!(
        keys(&list("list-type=2").await),
        ["a/1", "a/2", "c d+e", "k", "k/ü&amp;&lt;"]
    );
    assert_eq!(
        keys(&list("list-type=2&delimiter=/").await),
        ["c d+e", "k", "a/", "k/"]
    );
    assert_eq!(
        keys(&list("list-type=2&prefix=a/&start-after=a/1").await),
        ["a/2"]
    );
    assert_eq!(
        keys(&list("list-type=2&encoding-type=url&prefix=c").await),
        ["c%20d%2Be"]
    );
    let first = list("list-type=2&max-keys=2&delimiter=/").await;
    assert_eq!(keys(&first), ["c d+e", "a/"]);
    assert!(first.contains("<NextContinuationToken>t:c d+e<"), "{first}");
    let second = list("list-type=2&max-keys=2&delimiter=/&continuation-token=t:c%20d%2Be").await;
    assert_eq!(keys(&second), ["k", "k/"]);
    assert_eq!(
        keys(&list("marker=c").await),
        ["c d+e", "k", "k/ü&amp;&lt;"]
    );
    assert!(
        client::get(&origin.url(), &[])
            .await
            .unwrap()
            .text()
            .contains("<Name>b</Name>")
    );
    assert_eq!(
        client::head(&format!("{}/b", origin.url()), &[])
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(
        client::head(&format!("{}/no", origin.url()), &[])
            .await
            .unwrap()
            .status,
        404
    );
}

#[tokio::test]
async fn cuts_after_exactly_so_many_bytes() {
    let origin = origin();
    for after in [0, 1, 1000, 65_536, SIZE - 1] {
        for fault in [Fault::Reset { after }, Fault::Truncate { after }] {
            origin.rule(Rule::new(fault.clone()).times(1));
            let answer = get(&origin, &[]).await;
            assert!(answer.cut, "{fault:?}");
            assert_eq!(
                answer.body,
                content::bytes(1, 0, 0, after as usize),
                "{fault:?}"
            );
            assert!(!get(&origin, &[]).await.cut, "{fault:?} is spent");
        }
    }
}

#[tokio::test]
async fn lies_as_told() {
    let origin = origin();
    let told = async |fault: Fault, headers: &[(&str, &str)]| {
        origin.heal();
        origin.rule(Rule::new(fault));
        get(&origin, headers).await
    };
    let etag = origin.object("b", "k").unwrap().etag.clone();
    assert_eq!(told(Fault::NoEtag, &[]).await.header("etag"), None);
    let weak = told(Fault::WeakEtag, &[]).await;
    assert_eq!(weak.header("etag"), Some(format!("W/{etag}").as_str()));
    assert_eq!(
        told(Fault::WeakEtag, &[("if-match", &etag)]).await.status,
        412
    );
    let wrong = told(Fault::WrongEtag("\"x\"".into()), &[("if-match", &etag)]).await;
    assert_eq!((wrong.status, wrong.header("etag")), (200, Some("\"x\"")));
    assert_eq!(
        told(Fault::IgnoreIfMatch, &[("if-match", "\"y\"")])
            .await
            .status,
        200
    );
    assert_eq!(
        told(Fault::IgnoreRange, &[("range", "bytes=5-6")])
            .await
            .status,
        200
    );
    let shifted = told(
        Fault::WrongContentRange { by: 3 },
        &[("range", "bytes=5-6")],
    )
    .await;
    assert_eq!(shifted.header("content-range"), Some("bytes 8-9/1048576"));
    let busy = told(
        Fault::Status {
            code: 503,
            retry_after: Some(7),
        },
        &[],
    )
    .await;
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("7")));
    assert_eq!(busy.xml("Code").as_deref(), Some("SlowDown"));
    let flipped = told(Fault::Flip { at: 70_000 }, &[]).await;
    let wrong: Vec<_> = (0..SIZE as usize)
        .zip(
            flipped
                .body
                .iter()
                .zip(&content::bytes(1, 0, 0, SIZE as usize)),
        )
        .filter(|(_, (a, b))| a != b)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(wrong, [70_000]);
    let chunked = told(Fault::Chunked, &[]).await;
    assert_eq!(
        (chunked.header("content-length"), chunked.cut),
        (None, false)
    );
    assert_eq!(chunked.body, content::bytes(1, 0, 0, SIZE as usize));
    origin.heal();
    origin.rule(Rule::new(Fault::Hangup));
    assert!(
        client::get(&origin.object_url("b", "k"), &[])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn replaces_in_mid_read_without_mixing() {
    let origin = origin();
    origin.rule(Rule::new(Fault::Replace { at: 1000 }).times(1));
    let old = get(&origin, &[]).await;
    let new = get(&origin, &[]).await;
    assert!(old.body.iter().all(|byte| content::version_of(*byte) == 0));
    assert!(new.body.iter().all(|byte| content::version_of(*byte) == 1));
    assert_ne!(old.header("etag"), new.header("etag"));
    assert_ne!(old.header("last-modified"), new.header("last-modified"));
}

#[tokio::test]
async fn rules_choose_their_requests() {
    let origin = origin();
    origin.put("b", "other", Object::held("x"));
    let fault = Fault::Status {
        code: 500,
        retry_after: None,
    };
    origin.rule(
        Rule::new(fault)
            .object("b", "k")
            .method(Method::Get)
            .at_byte(500)
            .skip(1)
            .times(1),
    );
    let range = [("range", "bytes=400-600")];
    let other = client::get(&origin.object_url("b", "other"), &[])
        .await
        .unwrap();
    let head = client::head(&origin.object_url("b", "k"), &[])
        .await
        .unwrap();
    assert_eq!((other.status, head.status), (200, 200));
    let mut statuses = Vec::new();
    for headers in [&range[..], &[("range", "bytes=0-1")], &range, &range] {
        statuses.push(get(&origin, headers).await.status);
    }
    assert_eq!(statuses, [206, 206, 500, 206]);
}

#[tokio::test]
async fn stalls_end_when_the_peer_leaves() {
    let origin = origin();
    let forever = Duration::from_secs(1 << 30);
    origin.rule(Rule::new(Fault::Stall {
        at: 5000,
        lasting: forever,
    }));
    let mut connection = client::Connection::open(&origin.addr().to_string())
        .await
        .expect("a connection");
    connection.send("GET", "/b/k", &[], b"").await.unwrap();
    let mut bytes = 0;
    let (_, cut) = connection
        .receive(false, |piece| {
            bytes += piece.len();
            if bytes == 5000 {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        })
        .await
        .unwrap();
    assert!(!cut);
    assert_eq!(origin.counts().active, 1);
    drop(connection);
    origin.until("quiet", |counts| counts.active == 0).await;
    assert_eq!(origin.served()[0].end, End::Left);
}

#[tokio::test]
async fn paces() {
    let origin = origin();
    origin.pace(Pace {
        latency: Duration::from_millis(20),
        bandwidth: Some(10 << 20),
    });
    let begun = std::time::Instant::now();
    assert_eq!(get(&origin, &[]).await.body.len() as u64, SIZE);
    assert!(
        begun.elapsed() >= Duration::from_millis(110),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn dies_and_comes_back() {
    let origin = origin();
    origin.rule(
        Rule::new(Fault::Stall {
            at: 9,
            lasting: Duration::from_secs(1 << 30),
        })
        .times(1),
    );
    let url = origin.object_url("b", "k");
    let reading = tokio::spawn(async move { client::get(&url, &[]).await });
    origin.until("asked", |counts| counts.bytes == 9).await;
    origin.dead(true);
    assert!(reading.await.unwrap().expect("the head came").cut);
    while client::get(&origin.object_url("b", "k"), &[]).await.is_ok() {}
    origin.dead(false);
    while client::get(&origin.object_url("b", "k"), &[])
        .await
        .is_err()
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn stampedes_are_counted() {
    let origin = origin();
    origin.rule(Rule::new(Fault::Truncate { after: 10 }).times(2));
    let sha256 = origin.object("b", "k").unwrap().sha256();
    let stampede = client::stampede(&origin.object_url("b", "k"), &[], 20, true).await;
    assert_eq!(
        (
            stampede.served(),
            stampede.right(&sha256),
            stampede.wrong(&sha256)
        ),
        (18, 18, 0)
    );
    assert_eq!(origin.counts().gets, 20);
    assert!(stampede.first_byte(500) <= stampede.total(500));
    origin.forget().await;
    assert_eq!(origin.counts().gets, 0);
}
