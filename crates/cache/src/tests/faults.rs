//! Origins that fail: what the client sees, what the origin is asked, what is stored.

use super::*;
use crate::{edge::backend::Backend as _, origin::OriginError};
use futures_util::future::join_all;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_reset_after_any_byte_goes_unseen() {
    for after in [0, 1, 2, 1000, 65_535, 65_536, 65_537, 500_000, MIB - 1, MIB] {
        let origin = Fake::new("o");
        let object = origin.put(&name("k"), 2 * MIB as usize, 1);
        // Every first GET of a chunk breaks off; the next goes well.
        origin.state().every = None;
        let path = path(&origin, &config());
        for chunk in 0..2 {
            origin.state().faults = [Fault::Reset(after)].into();
            let clients = (0..5).map(|_| {
                let range = chunk * MIB..(chunk + 1) * MIB;
                read(&path, "k", Some(range))
            });
            for got in join_all(clients).await {
                let range = (chunk * MIB) as usize..((chunk + 1) * MIB) as usize;
                assert_eq!(got.unwrap(), object[range], "after {after}");
            }
            settle(&path).await;
        }
        let state = origin.state();
        assert!(
            state.reads.len() <= 4,
            "at most two GETs a chunk: {:?}",
            state.reads
        );
        assert_eq!(state.bytes, 2 * MIB, "no byte twice, after {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_refusal_goes_unseen() {
    for fault in [Fault::Throttle, Fault::Connect] {
        let origin = Fake::new("o");
        let object = origin.put(&name("k"), MIB as usize, 1);
        origin.state().faults = [fault].into();
        let path = path(&origin, &config());
        let clients = join_all((0..20).map(|_| read(&path, "k", None)));
        assert!(clients.await.into_iter().all(|got| got.unwrap() == object));
        assert_eq!(origin.state().reads.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_hedged_within_moments() {
    for at in [0, 1, 100_000, MIB - 1] {
        let origin = Fake::new("o");
        let object = origin.put(&name("k"), MIB as usize, 1);
        origin.state().faults = [Fault::Stall(at)].into();
        let path = path(&origin, &config());
        let began = Instant::now();
        let clients = join_all((0..20).map(|_| read(&path, "k", None)));
        assert!(clients.await.into_iter().all(|got| got.unwrap() == object));
        assert!(
            began.elapsed() < Duration::from_millis(2500),
            "{:?}",
            began.elapsed()
        );
        settle(&path).await;
        let state = origin.state();
        assert_eq!(state.reads.len(), 2, "stalled at {at}: {:?}", state.reads);
        assert_eq!(path.0.home.counters().hedges, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn dead_for_good_is_a_clean_error_and_stores_nothing() {
    let origin = Fake::new("o");
    origin.put(&name("k"), 2 * MIB as usize, 1);
    let path = path(&origin, &config());
    let meta = path.head(&name("k"), &context(1)).await.unwrap();
    origin.state().every = Some(Fault::Connect);
    let began = Instant::now();
    let failed = read(&path, "k", None).await;
    assert!(
        matches!(failed, Err(ObjectError::Unavailable(_))),
        "{failed:?}"
    );
    assert!(
        began.elapsed() <= Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    // After the first byte: the stream ends with an error.
    origin.state().faults = [Fault::Reset(100_000)].into();
    let mut stream = path
        .read(&name("k"), &meta, 0..MIB, &context(1))
        .await
        .unwrap();
    let mut got = 0;
    let error = loop {
        match stream
            .next()
            .await
            .expect("it must not end as if all were there")
        {
            Ok(bytes) => got += bytes.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(got, 100_000);
    assert!(matches!(error, ObjectError::Unavailable(_)), "{error:?}");
    assert!(stream.next().await.is_none());
    settle(&path).await;
    assert!(
        path.held(&name("k"), &meta, 0..1).is_none(),
        "nothing is stored"
    );
    // Questions too.
    origin.state().questions_fail = Some(OriginError::Server("500".into()));
    let failed = path.head(&name("other"), &context(1)).await;
    assert!(
        matches!(failed, Err(ObjectError::Unavailable(_))),
        "{failed:?}"
    );
    origin.state().questions_fail = None;
    origin.put(&name("other"), 1, 1);
    assert!(
        path.head(&name("other"), &context(1)).await.is_ok(),
        "a failure is not remembered"
    );
}

#[tokio::test(start_paused = true)]
async fn a_short_answer_is_no_answer() {
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), MIB as usize, 1);
    origin.state().faults = [Fault::Short(MIB - 1), Fault::Short(0)].into();
    let path = path(&origin, &config());
    assert_eq!(read(&path, "k", None).await.unwrap(), object);
    let reads = origin.state().reads.clone();
    assert_eq!(reads[..2], [0..MIB, MIB - 1..MIB]);
}

#[tokio::test(start_paused = true)]
async fn a_denied_object_is_denied_at_once() {
    let origin = Fake::new("o");
    origin.state().questions_fail = Some(OriginError::Denied("no".into()));
    let path = path(&origin, &config());
    assert!(matches!(
        read(&path, "k", None).await,
        Err(ObjectError::AccessDenied)
    ));
    assert_eq!(origin.state().heads, 1, "not asked twice");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_steps_in_and_continues() {
    let (primary, mirror) = (Fake::new("o"), Fake::new("m"));
    let object = primary.put(&name("k"), 3 * MIB as usize, 1);
    mirror.put(&name("k"), 3 * MIB as usize, 1);
    let path = path_of(&[&primary, &mirror], &config(), None, None);
    primary.state().faults = [Fault::Reset(300_000), Fault::Stall(10), Fault::Connect].into();
    primary.state().every = Some(Fault::Connect);
    assert_eq!(read(&path, "k", None).await.unwrap(), object);
    settle(&path).await;
    assert_eq!(
        mirror.state().reads[0],
        300_000..MIB,
        "continues where the primary stopped"
    );
    assert_eq!(primary.state().bytes + mirror.state().bytes, 3 * MIB);
}

#[tokio::test(start_paused = true)]
async fn only_the_primary_can_say_that_an_object_is_not_there() {
    let (primary, mirror) = (Fake::new("o"), Fake::new("m"));
    primary.put(&name("new"), 10, 1);
    mirror.put(&name("deleted"), 10, 1);
    let path = path_of(&[&primary, &mirror], &config(), None, None);
    assert!(matches!(
        read(&path, "deleted", None).await,
        Err(ObjectError::NoSuchKey)
    ));
    assert_eq!(mirror.state().heads, 0, "the primary's word is final");
    primary.state().questions_fail = Some(OriginError::Connect("down".into()));
    let failed = read(&path, "new", None).await;
    assert!(
        matches!(failed, Err(ObjectError::Unavailable(_))),
        "not a 404: {failed:?}"
    );
    let elsewhere = read(&path, "elsewhere", None).await;
    assert!(
        matches!(elsewhere, Err(ObjectError::Unavailable(_))),
        "{elsewhere:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_says_so_in_time() {
    let origin = Fake::new("o");
    for key in ["a", "b"] {
        origin.put(&name(key), MIB as usize, 1);
    }
    let path = path(
        &origin,
        &ReadConfig {
            origin_concurrency_max: 1,
            ..config()
        },
    );
    path.head(&name("a"), &context(1)).await.unwrap();
    path.head(&name("b"), &context(1)).await.unwrap();
    origin.state().delay = Duration::from_secs(9);
    let (first, second) = tokio::join!(read(&path, "a", None), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let began = Instant::now();
        let second = read(&path, "b", None).await;
        (second, began.elapsed())
    });
    assert_eq!(first.unwrap().len() as u64, MIB);
    let (second, took) = second;
    assert!(
        matches!(second, Err(ObjectError::SlowDown(_))),
        "{second:?}"
    );
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn throttling_lowers_the_limit_and_good_answers_raise_it() {
    let origin = Fake::new("o");
    for n in 0..40 {
        origin.put(&name(&n.to_string()), 10, n);
    }
    let path = path(
        &origin,
        &ReadConfig {
            origin_concurrency_max: 8,
            ..config()
        },
    );
    origin.state().faults = vec![Fault::Throttle; 4].into();
    let names: Vec<_> = (0..8).map(|n| n.to_string()).collect();
    let served = join_all(names.iter().map(|key| read(&path, key, None))).await;
    assert!(served.into_iter().all(|got| got.is_ok()));
    let lowered = path.0.ways.throttles[0].load().1;
    assert!(lowered < 8, "{lowered}");
    for n in 8..40 {
        read(&path, &n.to_string(), None).await.unwrap();
    }
    assert!(path.0.ways.throttles[0].load().1 > lowered);
    assert_eq!(path.0.ways.throttles[0].load().0, 0);
}
