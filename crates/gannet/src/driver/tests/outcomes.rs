//! Who gets what, and why not.

use super::*;

fn whole(version: u64) -> Opened {
    answer(
        version,
        0,
        100,
        vec![Ok(datum(version, 0..60)), Ok(datum(version, 60..100))],
    )
}

#[tokio::test]
async fn one_request_serves_everyone() {
    let gate = Arc::new(Notify::new());
    let script = Script::new({
        let gate = gate.clone();
        move |_| {
            let gate = gate.clone();
            async move {
                gate.notified().await;
                whole(1)
            }
        }
    });
    let fetcher = fetcher(&script, 3);
    let wants = (0..100)
        .map(|_| fetcher.fetch(key()).into_future())
        .map(tokio::spawn);
    let wants: Vec<_> = wants.collect();
    while fetcher.gauges().waiters < 100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fetcher.gauges().fetches, 1);
    gate.notify_one();
    for fetched in join_all(wants).await {
        let fetched = fetched.unwrap().unwrap();
        assert_eq!(fetched.body.to_bytes(), datum(1, 0..100));
        assert_eq!(
            (fetched.meta, fetched.sources.as_slice()),
            (1, &[SourceId(1)][..])
        );
    }
    assert_eq!(script.sources(), [1]);
    assert_eq!(fetcher.counters().coalesced, 99);
    end(fetcher).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_source_is_asked_and_the_error_says_why() {
    let script = Script::new(|request| async move {
        match (request.source.0, request.key.as_str()) {
            (1, _) => failed(Fault::Refused),
            (2, _) => Err(AttemptError::missing()),
            (3, _) => answer(3, 0, 100, vec![Ok(datum(3, 0..50))]),
            (4, _) => answer(4, 0, 100, vec![Ok(datum(3, 0..101))]),
            (5, _) => panic!("a transport of little worth"),
            (6, _) => Err(AttemptError {
                end: End::Complete { upto: 0 },
                detail: "?".into(),
            }),
            (7, _) => answer(7, 1, 100, vec![]),
            (8, _) => answer(
                8,
                0,
                100,
                vec![Ok(datum(8, 0..9)), Err(AttemptError::busy(None))],
            ),
            (_, "there") => whole(9),
            _ => answer(9, 0, 2 << 20, vec![]),
        }
    });
    let fetcher = fetcher(&script, 9);
    let fetched = fetcher.fetch("there".to_owned()).await.unwrap();
    assert_eq!(fetched.sources.as_slice(), [SourceId(9)]);
    assert_eq!(script.sources(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);

    // Another fetcher, for the first one has learned whom to trust.
    end(fetcher).await;
    let fetcher = super::fetcher(&script, 9);
    let error = fetcher.fetch(key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(!error.is_missing());
    let tried: Vec<_> = error
        .tried
        .iter()
        .map(|tried| (tried.source.0, tried.how))
        .collect();
    assert_eq!(
        tried,
        [
            (1, HowEnded::Failed(Fault::Refused)),
            (2, HowEnded::Missing),
            (3, HowEnded::Failed(Fault::Truncated)),
            (4, HowEnded::Failed(Fault::Malformed)),
            (5, HowEnded::Failed(Fault::Local)),
            (6, HowEnded::Failed(Fault::Local)),
            (7, HowEnded::Failed(Fault::Malformed)),
            (8, HowEnded::Busy),
            (9, HowEnded::Failed(Fault::TooLarge)),
        ]
    );
    let text = error.to_string();
    assert!(
        text.contains("source 1: it refused: as the script says"),
        "{text}"
    );
    assert!(
        text.contains("source 5: our own side failed: the transport panicked"),
        "{text}"
    );
    end(fetcher).await;
}

#[tokio::test]
async fn missing_everywhere_is_told_apart() {
    let script = Script::new(|_| async { Err(AttemptError::missing()) });
    let fetcher = fetcher(&script, 2);
    assert!(fetcher.fetch(key()).await.unwrap_err().is_missing());
    let none = fetcher
        .fetch(key())
        .targets(Targets::Only(vec![SourceId(99)]))
        .await
        .unwrap_err();
    assert_eq!(none.kind, ErrorKind::NoCandidates);
    assert!(!none.is_missing());
    end(fetcher).await;
}

struct ByMeta;

impl Judge<String, u64> for ByMeta {
    fn judge(&self, answered: Answered<'_, String, u64>) -> Soon<Verdict> {
        assert_eq!(answered.sources.len(), 1);
        assert_eq!(answered.waiters.len(), 1);
        match *answered.meta {
            1 => Soon::Now(Verdict::Invalid),
            2 => Soon::later(async { Verdict::Invalid }),
            3 => Soon::later(async { Verdict::Partial }),
            4 => Soon::Now(Verdict::Valid),
            5 => panic!("a judge of little worth"),
            6 => Soon::later(async { panic!("a judge of little worth") }),
            _ => Soon::Now(Verdict::Ignored),
        }
    }
}

#[tokio::test]
async fn the_judge_decides() {
    let script = Script::new(|request| async move { whole(request.source.0) });
    let check = async |first: u64, last: u64, expected: Result<u64, ErrorKind>| {
        let fetcher = Fetcher::builder(script.clone())
            .judge(ByMeta)
            .config(config())
            .build()
            .unwrap();
        for source in first..=last {
            fetcher.add_source(SourceId(source), GroupId(0));
        }
        let got = fetcher.fetch(key()).await;
        assert_eq!(
            got.map(|fetched| fetched.meta).map_err(|error| error.kind),
            expected
        );
        end(fetcher).await;
    };
    check(1, 4, Ok(4)).await;
    check(1, 3, Err(ErrorKind::Exhausted)).await;
    check(5, 5, Err(ErrorKind::Ignored)).await;
    check(6, 6, Err(ErrorKind::Ignored)).await;
    check(7, 7, Err(ErrorKind::Ignored)).await;
}

/// Holds what it was given; the first commits fail as told.
#[derive(Clone, Default)]
struct Shelf {
    held: Arc<Mutex<HashMap<String, Fetched<u64>>>>,
    faults: Arc<Mutex<Vec<CommitFault>>>,
    asked: Arc<AtomicUsize>,
}

impl Store<String, u64> for Shelf {
    fn held(&self, key: &String) -> Soon<Option<Fetched<u64>>> {
        let held = self.held.lock().unwrap().get(key).cloned();
        match self.asked.fetch_add(1, SeqCst) % 2 {
            0 => Soon::Now(held),
            _ => Soon::later(async move { held }),
        }
    }

    fn commit(&self, datum: Datum<'_, String, u64>) -> Soon<Result<(), CommitFault>> {
        if let Some(fault) = self.faults.lock().unwrap().pop() {
            return Soon::Now(Err(fault));
        }
        let (key, held, meta) = (datum.key.clone(), self.held.clone(), *datum.meta);
        Soon::later(async move {
            tokio::task::yield_now().await;
            held.lock()
                .unwrap()
                .insert(key, Fetched::held(meta, datum.body));
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn commits() {
    let script = Script::new(|_| async { whole(1) });
    let check = async |commit, faults: &[CommitFault], expected: Result<usize, ErrorKind>| {
        let shelf = Shelf::default();
        shelf.faults.lock().unwrap().extend(faults);
        let fetcher = Fetcher::builder(script.clone())
            .store(shelf.clone())
            .config(config())
            .build();
        let fetcher = up(fetcher.unwrap(), 1);
        let backoff = Backoff {
            base: Duration::from_secs(1),
            growth_permille: 2000,
            cap: Duration::from_secs(9),
            jitter_permille: 0,
        };
        let total = Duration::from_secs(60);
        let plan = Plan {
            commit,
            retry: Retry::Budget {
                tries: 3,
                total,
                backoff,
            },
            ..resuming()
        };
        let plan = Arc::new(plan);
        script.seen.lock().unwrap().clear();
        let got = fetcher
            .fetch(key())
            .plan(plan.clone())
            .await
            .map_err(|error| error.kind);
        if commit == Commit::BeforeFinish && got.is_ok() && faults != [CommitFault::Exists] {
            assert_eq!(
                shelf.held.lock().unwrap().len(),
                1,
                "nothing is acknowledged before"
            );
        }
        assert_eq!(got.map(|_| script.seen().len()), expected);
        // Whatever is held is not fetched again, nor seen by the worker.
        while fetcher.gauges().fetches > 0 {
            tokio::task::yield_now().await;
        }
        if !shelf.held.lock().unwrap().is_empty() {
            let wants = fetcher.counters().wants;
            for _ in 0..2 {
                let held = fetcher.fetch(key()).await.unwrap();
                assert_eq!(held.body.to_bytes(), datum(1, 0..100));
                let streaming = fetcher.stream(key()).at(90).await.unwrap();
                assert_eq!(streaming.total, Some(100));
                assert_eq!(read(streaming.body).await.unwrap(), datum(1, 90..100));
            }
            assert_eq!(fetcher.counters().wants, wants);
        }
        end(fetcher).await;
    };
    check(Commit::BeforeFinish, &[], Ok(1)).await;
    check(Commit::AfterServe, &[], Ok(1)).await;
    check(Commit::BeforeFinish, &[CommitFault::Exists], Ok(1)).await;
    check(Commit::AfterServe, &[CommitFault::Io], Ok(1)).await;
    check(Commit::BeforeFinish, &[CommitFault::Io], Ok(2)).await;
    check(
        Commit::BeforeFinish,
        &[CommitFault::Full; 9],
        Err(ErrorKind::Uncommitted(CommitFault::Full)),
    )
    .await;
}

#[tokio::test]
async fn what_came_by_another_way_ends_the_fetch() {
    let script = Script::new(|_| pending());
    let shelf = Shelf::default();
    let fetcher = Fetcher::builder(script)
        .store(shelf.clone())
        .config(config())
        .build()
        .unwrap();
    let fetcher = up(fetcher, 1);
    let waiting = async || {
        let fetch = tokio::spawn(fetcher.fetch(key()).into_future());
        let stream = tokio::spawn(fetcher.stream(key()).plan(resuming()).into_future());
        while fetcher.gauges().waiters < 2 {
            tokio::task::yield_now().await;
        }
        (fetch, stream)
    };
    // With the datum.
    let (fetch, stream) = waiting().await;
    fetcher.obtained(
        key(),
        Some(SourceId(1)),
        Some(Fetched::held(5, datum(5, 0..9))),
    );
    let fetched = fetch.await.unwrap().unwrap();
    assert_eq!(
        (fetched.meta, fetched.sources.as_slice()),
        (5, &[SourceId(1)][..])
    );
    let streaming = stream.await.unwrap().unwrap();
    assert_eq!(
        (streaming.meta, read(streaming.body).await.unwrap()),
        (5, datum(5, 0..9).to_vec())
    );
    // Without it, and the store has it.
    let (fetch, stream) = waiting().await;
    shelf
        .held
        .lock()
        .unwrap()
        .insert(key(), Fetched::held(6, datum(6, 0..9)));
    fetcher.obtained(key(), None, None);
    assert_eq!(fetch.await.unwrap().unwrap().meta, 6);
    assert_eq!(stream.await.unwrap().unwrap().meta, 6);
    // Without it, and nobody has it.
    shelf.held.lock().unwrap().clear();
    let (fetch, stream) = waiting().await;
    fetcher.obtained(key(), None, None);
    assert_eq!(fetch.await.unwrap().unwrap_err().kind, ErrorKind::NotHeld);
    assert_eq!(stream.await.unwrap().unwrap_err().kind, ErrorKind::NotHeld);
    end(fetcher).await;
}

#[tokio::test(start_paused = true)]
async fn declined_sources_are_left_alone() {
    let script = Script::new(|_| async { whole(1) });
    let until = Instant::now() + Duration::from_secs(30);
    script.declines.lock().unwrap().insert(SourceId(1), until);
    let fetcher = fetcher(&script, 1);
    let fetched = fetcher.fetch(key()).await.unwrap();
    assert_eq!(fetched.meta, 1);
    assert!(Instant::now() >= until, "the source was left alone");
    let counters = fetcher.counters();
    assert_eq!(
        (counters.declined, counters.faults, script.seen().len()),
        (1, 0, 1)
    );
    end(fetcher).await;
}

#[tokio::test(start_paused = true)]
async fn sources_come_and_go() {
    let script = Script::new(|request| async move { whole(request.source.0) });
    let fetcher = fetcher(&script, 0);
    let backoff = Backoff {
        base: Duration::from_secs(3600),
        growth_permille: 1000,
        cap: Duration::from_secs(3600),
        jitter_permille: 0,
    };
    let plan = Arc::new(Plan {
        retry: Retry::UntilReleased { backoff },
        ..Plan::default()
    });
    let start = Instant::now();
    let any = || {
        fetcher
            .fetch(key())
            .plan(plan.clone())
            .targets(Targets::Any)
    };
    let waiting = tokio::spawn(any().into_future());
    fetcher.add_source(SourceId(1), GroupId(0));
    assert_eq!(waiting.await.unwrap().unwrap().meta, 1);
    fetcher.add_source(SourceId(2), GroupId(0));
    fetcher.remove_source(SourceId(1));
    assert_eq!(any().await.unwrap().meta, 2);
    fetcher.add_source(SourceId(1), GroupId(0));
    fetcher.block(SourceId(2), None);
    assert_eq!(any().await.unwrap().meta, 1);
    fetcher.block(SourceId(1), Some(Duration::from_secs(60)));
    let waiting = tokio::spawn(any().into_future());
    fetcher.unblock(SourceId(2));
    assert_eq!(waiting.await.unwrap().unwrap().meta, 2);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "nothing waited for a pause"
    );
    fetcher.pause(Scope::Whole, Duration::from_secs(10));
    any().await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(10));
    let snapshot = fetcher.snapshot().await.unwrap();
    assert_eq!(snapshot.sources.len(), 2);
    assert!(snapshot.fetches.is_empty());
    end(fetcher).await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_held_no_longer() {
    let script = Script::new(|request| async move {
        match request.source.0 {
            1 => answer(1, 0, 100, vec![Ok(datum(1, 0..60))]), // Breaks off.
            2 => whole(2),                                     // Is not what was wanted.
            _ => pending().await,
        }
    });
    let fetcher = Fetcher::builder(script.clone())
        .judge(|_: &String, version: &u64, _: &crate::Body| match version {
            2 => Verdict::Invalid,
            _ => Verdict::Valid,
        })
        .config(config())
        .build()
        .unwrap();
    let fetcher = up(fetcher, 3);
    let want = tokio::spawn(fetcher.fetch(key()).into_future());
    // Nothing else is to happen, so the clock moves on once both have failed.
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(script.sources(), [1, 2, 3]);
    assert_eq!(fetcher.gauges().fetches, 1);
    assert_eq!(
        fetcher.gauges().body_bytes,
        0,
        "the bound counts it no more"
    );
    want.abort();
    end(fetcher).await;
}
