//! Bytes as they arrive: resumes, restarts, hedges, joiners.

use super::*;

const LEN: u64 = 200_000;

/// What comes of one answer: from this byte, broken off after so many.
fn broken(version: u64, from: u64, upto: u64) -> Opened {
    let parts = (from..upto)
        .step_by(10_000)
        .map(|at| Ok(datum(version, at..(at + 10_000).min(upto))));
    let cut = std::iter::once(Err(AttemptError::failed(Fault::Truncated, "reset")));
    let parts = parts.chain(cut.filter(|_| upto < LEN));
    answer(version, from, LEN, parts.collect())
}

/// An answer that breaks off is continued at its byte, by another source or the same, and no caller
/// notices.
#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_resumed() {
    for cut in [1, 9_999, 10_000, 123_456, LEN - 1] {
        let script = Script::new(move |request| async move {
            match request.source.0 {
                1 => broken(7, request.from_byte, cut),
                _ => broken(7, request.from_byte, LEN),
            }
        });
        let fetcher = fetcher(&script, 2);
        let (a, b, c) = tokio::join!(
            fetcher.stream(key()).plan(resuming()).into_future(),
            fetcher
                .stream(key())
                .plan(resuming())
                .at(150_000)
                .into_future(),
            fetcher.fetch(key()).plan(resuming()).into_future(),
        );
        let a = a.unwrap();
        assert_eq!((a.meta, a.total), (7, Some(LEN)));
        let mut body = a.body;
        let mut all = Vec::new();
        while let Some(bytes) = body.next().await {
            all.extend_from_slice(&bytes.unwrap());
        }
        assert!(all == datum(7, 0..LEN), "cut at {cut}");
        assert_eq!(
            body.sources().unwrap().as_slice(),
            [SourceId(1), SourceId(2)]
        );
        assert!(read(b.unwrap().body).await.unwrap() == datum(7, 150_000..LEN));
        assert!(c.unwrap().body.to_bytes() == datum(7, 0..LEN));
        let seen = script.seen();
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[1].from_byte, seen[1].continues), (cut, Some(7)));
        assert_eq!(seen[1].stage, Stage::Resume);
        assert_eq!(fetcher.counters().resumes, 1);
        drop(body);
        end(fetcher).await;
    }
}

/// A source that answers from byte 0 although asked for the rest is of use all the same.
#[tokio::test(start_paused = true)]
async fn a_source_without_ranges_resumes_too() {
    let script = Script::new(|request| async move {
        match request.source.0 {
            1 => broken(7, request.from_byte, 100_001),
            _ => broken(7, 0, LEN),
        }
    });
    let fetcher = fetcher(&script, 2);
    let streaming = fetcher.stream(key()).plan(resuming()).await.unwrap();
    assert!(read(streaming.body).await.unwrap() == datum(7, 0..LEN));
    end(fetcher).await;
}

/// Another version before the first byte is healed unseen; after it, the reader is cut, and never
/// gets bytes of both.
#[tokio::test(start_paused = true)]
async fn versions_are_never_mixed() {
    let check = async |first_bytes: u64| {
        let script = Script::new(move |request| async move {
            match request.source.0 {
                1 => broken(7, request.from_byte, first_bytes),
                _ => broken(8, request.from_byte, LEN),
            }
        });
        let fetcher = fetcher(&script, 2);
        let stream = fetcher.stream(key()).plan(resuming()).await;
        let got = match stream {
            Ok(streaming) => {
                let version = streaming.meta;
                match read(streaming.body).await {
                    Ok(all) => {
                        assert!(all == datum(version, 0..LEN));
                        Ok(version)
                    }
                    Err((read, error)) => {
                        assert_eq!((version, read as u64), (7, first_bytes));
                        Err(error.to_string())
                    }
                }
            }
            Err(error) => Err(error.to_string()),
        };
        end(fetcher).await;
        got
    };
    assert_eq!(check(0).await, Ok(8));
    for first_bytes in [1, 50_000, LEN - 1] {
        check(first_bytes).await.unwrap_err();
    }
}

/// A stalled answer is hedged; the reader goes on with what the other brings.
#[tokio::test(start_paused = true)]
async fn a_stall_is_hedged() {
    let script = Script::new(|request| async move {
        match request.source.0 {
            1 => {
                let (parts, opened) = live(7, 0, LEN);
                parts.send(datum(7, 0..1_000)).unwrap();
                tokio::spawn(async move { parts.closed().await }); // Stalls until it is dropped.
                opened
            }
            _ => broken(7, request.from_byte, LEN),
        }
    });
    let fetcher = fetcher(&script, 2);
    let hedge = Some(Hedge::After(Duration::from_secs(1)));
    let plan = Plan {
        hedge,
        idle_timeout: Duration::from_secs(60),
        ..resuming()
    };
    let start = Instant::now();
    let streaming = fetcher.stream(key()).plan(plan).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the first byte does not wait"
    );
    assert!(read(streaming.body).await.unwrap() == datum(7, 0..LEN));
    let took = start.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(2),
        "{took:?}"
    );
    assert_eq!(script.seen()[1].from_byte, 1_000);
    let counters = fetcher.counters();
    assert_eq!((counters.hedges, counters.hedges_won), (1, 1));
    end(fetcher).await;
}

/// The first byte goes out when it comes, and joiners read what is there while the rest is under way.
#[tokio::test]
async fn bytes_are_handed_on_as_they_come() {
    let (parts, opened) = live(7, 0, 300);
    let opened = Arc::new(Mutex::new(Some(opened)));
    let script = Script::new(move |_| {
        let opened = opened.lock().unwrap().take().unwrap();
        async { opened }
    });
    let fetcher = fetcher(&script, 1);
    let plan = Arc::new(resuming());
    let mut first = tokio::spawn(fetcher.stream(key()).plan(plan.clone()).into_future());
    while fetcher.gauges().attempts == 0 {
        tokio::task::yield_now().await;
    }
    assert!(
        (&mut first).now_or_never().is_none(),
        "there is no byte yet"
    );
    parts.send(datum(7, 0..100)).unwrap();
    let mut first = first.await.unwrap().unwrap().body;
    assert_eq!(first.next().await.unwrap().unwrap(), datum(7, 0..100));
    assert!(first.next().now_or_never().is_none());
    // One joins at the start, one in the middle of what is there, one past it, one for a part only.
    let join = |at, until| {
        fetcher
            .stream(key())
            .plan(plan.clone())
            .at(at)
            .until(until)
            .into_future()
    };
    let mut start = join(0, u64::MAX).await.unwrap().body;
    let mut middle = join(50, u64::MAX).await.unwrap().body;
    let past = tokio::spawn(join(200, u64::MAX));
    let mut part = join(90, 95).await.unwrap().body;
    assert_eq!(start.next().await.unwrap().unwrap(), datum(7, 0..100));
    assert_eq!(middle.next().await.unwrap().unwrap(), datum(7, 50..100));
    assert_eq!(part.next().await.unwrap().unwrap(), datum(7, 90..95));
    assert!(part.next().await.is_none(), "a part waits for nothing");
    parts.send(datum(7, 100..201)).unwrap();
    let past = past.await.unwrap().unwrap().body;
    parts.send(datum(7, 201..300)).unwrap();
    drop(parts);
    assert_eq!(read(past).await.unwrap(), datum(7, 200..300));
    assert_eq!(read(first).await.unwrap(), datum(7, 100..300));
    assert_eq!(read(start).await.unwrap(), datum(7, 100..300));
    assert_eq!(read(middle).await.unwrap(), datum(7, 100..300));
    assert_eq!(script.seen().len(), 1);
    drop(part);
    end(fetcher).await;
}

/// Empty data, and data whose length nobody announced.
#[tokio::test]
async fn odd_lengths() {
    let script = Script::new(|request| async move {
        let parts = match request.key.as_str() {
            "nothing" => vec![],
            "empty parts" => vec![Ok(Bytes::new()), Ok(datum(1, 0..5)), Ok(Bytes::new())],
            _ => vec![Ok(datum(1, 0..5))],
        };
        let opened = answer(1, 0, 0, parts);
        opened.map(|answer| match request.key.as_str() {
            "nothing" => answer,
            _ => Answer {
                total: None,
                ..answer
            },
        })
    });
    let fetcher = fetcher(&script, 1);
    for plan in [resuming(), Plan::default()] {
        for (name, len) in [("nothing", 0), ("empty parts", 5), ("unknown", 5)] {
            let Streaming { total, body, .. } = fetcher
                .stream(name.to_owned())
                .plan(plan.clone())
                .await
                .unwrap();
            assert_eq!(total, (len == 0).then_some(0), "{name}");
            assert_eq!(read(body).await.unwrap(), datum(1, 0..len), "{name}");
            let whole = fetcher
                .fetch(name.to_owned())
                .plan(plan.clone())
                .await
                .unwrap();
            assert_eq!(whole.body.to_bytes(), datum(1, 0..len), "{name}");
        }
    }
    end(fetcher).await;
}

/// A reader of nothing, or of what lies past the end, gets what comes before the bytes, and an end.
#[tokio::test]
async fn empty_ranges() {
    let script = Script::new(|request| async move {
        tokio::task::yield_now().await;
        broken(7, request.from_byte, LEN)
    });
    let fetcher = fetcher(&script, 1);
    for (at, until) in [
        (0, 0),
        (5, 5),
        (9, 2),
        (LEN, u64::MAX),
        (LEN + 9, LEN + 20),
        (LEN, LEN),
    ] {
        let stream = fetcher.stream(key()).plan(resuming()).at(at).until(until);
        let streaming = stream.await.unwrap();
        assert_eq!((streaming.meta, streaming.total), (7, Some(LEN)));
        assert!(
            read(streaming.body).await.unwrap().is_empty(),
            "{at}..{until}"
        );
    }
    end(fetcher).await;
}

/// Past the window, a slow reader is told so; the producer and the others do not notice.
#[tokio::test]
async fn a_slow_reader_slows_nobody() {
    let (parts, opened) = live(7, 0, LEN);
    let opened = Arc::new(Mutex::new(Some(opened)));
    let script = Script::new(move |_| {
        let opened = opened.lock().unwrap().take().unwrap();
        async { opened }
    });
    let config = Config {
        window_bytes_max: 50_000,
        ..config()
    };
    let fetcher = up(Fetcher::builder(script).config(config).build().unwrap(), 1);
    let plan = Arc::new(resuming());
    parts.send(datum(7, 0..1_000)).unwrap();
    let stream = || fetcher.stream(key()).plan(plan.clone()).into_future();
    let whole = tokio::spawn(fetcher.fetch(key()).plan(plan.clone()).into_future());
    let (mut slow, mut quick) = (stream().await.unwrap().body, stream().await.unwrap().body);
    assert_eq!(slow.next().await.unwrap().unwrap(), datum(7, 0..1_000));
    assert_eq!(quick.next().await.unwrap().unwrap(), datum(7, 0..1_000));
    for at in (1_000..LEN).step_by(1_000) {
        parts.send(datum(7, at..at + 1_000)).unwrap();
        assert_eq!(
            quick.next().await.unwrap().unwrap(),
            datum(7, at..at + 1_000)
        );
    }
    drop(parts);
    assert!(quick.next().await.is_none());
    assert_eq!(quick.sources().unwrap().as_slice(), [SourceId(1)]);
    let error = slow.next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, StreamError::Lagged { position: 1_000 }),
        "{error}"
    );
    // It is larger than the window.
    assert_eq!(whole.await.unwrap().unwrap_err().kind, ErrorKind::NotHeld);
    drop((slow, quick));
    end(fetcher).await;
}

/// Many joiners on many threads, answers that break off all the time, sources that disagree in
/// nothing: everybody gets every byte.
#[test]
fn a_thousand_joiners() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let script = Script::new(|request| async move {
            let upto = (request.from_byte + 60_000).min(LEN);
            broken(7, request.from_byte, upto)
        });
        let fetcher = fetcher(&script, 5);
        let plan = Arc::new(Plan {
            retry: Retry::No,
            ..resuming()
        });
        let mut joiners = tokio::task::JoinSet::new();
        for n in 0..1_000_u64 {
            let stream = fetcher
                .stream(key())
                .plan(plan.clone())
                .at(n * 17 % LEN)
                .into_future();
            joiners.spawn(async move {
                let body = stream.await.unwrap().body;
                let at = body.position();
                assert!(read(body).await.unwrap() == datum(7, at..LEN));
            });
        }
        while let Some(joined) = joiners.join_next().await {
            joined.unwrap();
        }
        end(fetcher).await;
    });
}
