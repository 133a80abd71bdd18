//! Departures, deadlines, shutdowns, panics.

use super::*;
use std::hash::{Hash, Hasher};

/// Tells when it is dropped.
struct Flag(Arc<AtomicUsize>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Sources that never answer, and a count of the requests that were given up.
fn silent() -> (Script, Arc<AtomicUsize>) {
    let dropped = Arc::new(AtomicUsize::new(0));
    let script = Script::new({
        let dropped = dropped.clone();
        move |_| {
            let flag = Flag(dropped.clone());
            async move {
                pending::<()>().await;
                drop(flag);
                unreachable!()
            }
        }
    });
    (script, dropped)
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_last_to_go_ends_the_request() {
    let (script, dropped) = silent();
    let fetcher = fetcher(&script, 1);
    let mut a = fetcher.fetch(key()).into_future();
    let mut b = fetcher.stream(key()).into_future();
    assert!((&mut a).now_or_never().is_none());
    assert!((&mut b).now_or_never().is_none());
    until(|| fetcher.gauges().attempts == 1 && fetcher.gauges().waiters == 2).await;
    drop(a);
    until(|| fetcher.gauges().waiters == 1).await;
    assert_eq!((fetcher.gauges().attempts, dropped.load(SeqCst)), (1, 0));
    drop(b);
    until(|| fetcher.gauges() == Gauges::default()).await;
    assert_eq!(dropped.load(SeqCst), 1);
    // A want that nobody waits for when it is taken is no want.
    let mut c = fetcher.fetch(key()).into_future();
    assert!((&mut c).now_or_never().is_none());
    drop(c);
    fetcher.snapshot().await.unwrap();
    assert_eq!(fetcher.gauges().fetches, 0);
    end(fetcher).await;
}

#[tokio::test(start_paused = true)]
async fn a_detached_fetch_outlives_its_callers() {
    let (parts, opened) = live(7, 0, 100);
    let opened = Arc::new(Mutex::new(Some(opened)));
    let script = Script::new(move |_| {
        let opened = opened.lock().unwrap().take().unwrap();
        async { opened }
    });
    let fetcher = fetcher(&script, 1);
    let lifetime = Lifetime::Detached {
        ceiling: Duration::from_secs(300),
    };
    let plan = Arc::new(Plan {
        lifetime,
        ..resuming()
    });
    parts.send(datum(7, 0..50)).unwrap();
    drop(fetcher.stream(key()).plan(plan.clone()).await.unwrap());
    until(|| fetcher.gauges().waiters == 0).await;
    assert_eq!(fetcher.gauges().attempts, 1);
    let streaming = fetcher.stream(key()).plan(plan).await.unwrap();
    parts.send(datum(7, 50..100)).unwrap();
    drop(parts);
    assert_eq!(read(streaming.body).await.unwrap(), datum(7, 0..100));
    assert_eq!(script.seen().len(), 1);
    end(fetcher).await;
}

#[tokio::test(start_paused = true)]
async fn deadlines() {
    let (script, dropped) = silent();
    let fetcher = fetcher(&script, 1);
    let start = Instant::now();
    let in_seconds = |seconds| start + Duration::from_secs(seconds);
    let plan = Plan {
        first_byte_timeout: Duration::from_secs(1_000),
        ..resuming()
    };
    let plan = Arc::new(Plan {
        total_timeout: Duration::from_secs(1_000),
        ..plan
    });
    let soon = fetcher
        .fetch(key())
        .plan(plan.clone())
        .deadline(in_seconds(3));
    let late = fetcher
        .stream(key())
        .plan(plan.clone())
        .deadline(in_seconds(9));
    let moved = fetcher.fetch(key()).plan(plan);
    let waiter = moved.waiter();
    let moved = tokio::spawn(moved.into_future());
    let late = tokio::spawn(late.into_future());
    assert_eq!(soon.await.unwrap_err().kind, ErrorKind::Expired);
    assert_eq!(start.elapsed().as_secs(), 3);
    fetcher.deadline(waiter, Some(in_seconds(12)));
    assert_eq!(late.await.unwrap().unwrap_err().kind, ErrorKind::Expired);
    assert_eq!((start.elapsed().as_secs(), dropped.load(SeqCst)), (9, 0));
    assert_eq!(moved.await.unwrap().unwrap_err().kind, ErrorKind::Expired);
    assert_eq!(start.elapsed().as_secs(), 12);
    until(|| dropped.load(SeqCst) == 1).await;
    end(fetcher).await;
}

#[tokio::test(start_paused = true)]
async fn silence_ends_an_attempt_unless_the_heart_beats() {
    let script = Script::new(|request| async move {
        if request.source == SourceId(2) {
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                request.heartbeat.beat();
                request.heartbeat.beat();
            }
            return answer(2, 0, 5, vec![Ok(datum(2, 0..5))]);
        }
        pending().await
    });
    let fetcher = fetcher(&script, 2);
    let start = Instant::now();
    assert_eq!(fetcher.fetch(key()).await.unwrap().meta, 2);
    assert_eq!(start.elapsed().as_secs(), 5 + 32);
    end(fetcher).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_answers_everybody() {
    let (script, dropped) = silent();
    let fetcher = fetcher(&script, 1);
    let lifetime = Lifetime::Detached {
        ceiling: Duration::from_secs(3_000),
    };
    let detached = Plan {
        lifetime,
        ..resuming()
    };
    let wants: Vec<_> = (0..50)
        .map(|n| {
            fetcher
                .fetch(format!("{n}"))
                .plan(detached.clone())
                .into_future()
        })
        .map(tokio::spawn)
        .collect();
    let stream = tokio::spawn(fetcher.stream(key()).into_future());
    until(|| fetcher.gauges().waiters == 51).await;
    let others = fetcher.clone();
    let start = Instant::now();
    tokio::join!(end(fetcher), others.shutdown(Duration::from_secs(1)));
    assert_eq!(start.elapsed().as_secs(), 0, "nothing had to be waited for");
    assert_eq!(dropped.load(SeqCst), script.seen().len());
    for want in wants {
        assert_eq!(want.await.unwrap().unwrap_err().kind, ErrorKind::Cancelled);
    }
    assert_eq!(
        stream.await.unwrap().unwrap_err().kind,
        ErrorKind::Cancelled
    );
    assert_eq!(
        others.fetch(key()).await.unwrap_err().kind,
        ErrorKind::Closed
    );
    assert_eq!(
        others.stream(key()).await.unwrap_err().kind,
        ErrorKind::Closed
    );
    assert!(others.snapshot().await.is_none());
    others.add_source(SourceId(5), GroupId(5));
    others.shutdown(Duration::from_secs(1)).await;
}

/// A store that takes its time.
struct Slow(Duration, Arc<AtomicBool>);

impl Store<String, u64> for Slow {
    fn commit(&self, _: Datum<'_, String, u64>) -> Soon<Result<(), CommitFault>> {
        let (takes, done) = (self.0, self.1.clone());
        Soon::later(async move {
            tokio::time::sleep(takes).await;
            done.store(true, SeqCst);
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_commits_end_within_its_grace() {
    let check = async |takes: u64, expected: (bool, u64)| {
        let script = Script::new(|_| async { answer(1, 0, 9, vec![Ok(datum(1, 0..9))]) });
        let done = Arc::new(AtomicBool::new(false));
        let store = Slow(Duration::from_secs(takes), done.clone());
        let fetcher = Fetcher::builder(script)
            .store(store)
            .config(config())
            .build()
            .unwrap();
        let fetcher = up(fetcher, 1);
        let plan = Plan {
            commit: Commit::AfterServe,
            ..resuming()
        };
        assert!(
            fetcher.fetch(key()).plan(plan).await.is_ok(),
            "served before it is committed"
        );
        let start = Instant::now();
        end(fetcher).await;
        assert_eq!((done.load(SeqCst), start.elapsed().as_secs()), expected);
    };
    check(3, (true, 3)).await;
    check(60, (false, 5)).await;
}

#[tokio::test]
async fn without_handles_what_is_in_flight_ends_well() {
    let (parts, opened) = live(7, 0, 100);
    let opened = Arc::new(Mutex::new(Some(opened)));
    let script = Script::new(move |_| {
        let opened = opened.lock().unwrap().take().unwrap();
        async { opened }
    });
    let fetcher = fetcher(&script, 1);
    parts.send(datum(7, 0..50)).unwrap();
    let streaming = fetcher.stream(key()).plan(resuming()).await.unwrap();
    let events = fetcher.events();
    drop(fetcher);
    parts.send(datum(7, 50..100)).unwrap();
    drop(parts);
    assert_eq!(read(streaming.body).await.unwrap(), datum(7, 0..100));
    events.closed().await;
}

/// A key that makes the worker panic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bomb(bool);

impl Hash for Bomb {
    fn hash<H: Hasher>(&self, state: &mut H) {
        assert!(!self.0, "boom");
        state.write_u8(0);
    }
}

struct Never;

impl Transport for Never {
    type Key = Bomb;
    type Meta = ();

    async fn open(&self, _: Request<Bomb, ()>) -> Result<Answer<()>, AttemptError> {
        pending().await
    }
}

#[tokio::test]
async fn a_panic_of_the_worker_is_an_error_for_all() {
    let fetcher = Fetcher::builder(Never).build().unwrap();
    fetcher.add_source(SourceId(1), GroupId(1));
    let waiting = tokio::spawn(fetcher.fetch(Bomb(false)).into_future());
    let reading = tokio::spawn(fetcher.stream(Bomb(false)).plan(resuming()).into_future());
    until(|| fetcher.gauges().waiters == 2).await;
    assert_eq!(
        fetcher.fetch(Bomb(true)).await.unwrap_err().kind,
        ErrorKind::Broken
    );
    assert_eq!(waiting.await.unwrap().unwrap_err().kind, ErrorKind::Broken);
    assert_eq!(reading.await.unwrap().unwrap_err().kind, ErrorKind::Broken);
    assert_eq!(
        fetcher.fetch(Bomb(false)).await.unwrap_err().kind,
        ErrorKind::Broken
    );
    fetcher.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn bounds_are_errors_not_queues() {
    let (script, _) = silent();
    let mut config = config();
    config.engine.fetches_max = 3;
    let fetcher = up(
        Fetcher::builder(script)
            .config(config.clone())
            .build()
            .unwrap(),
        1,
    );
    let wants: Vec<_> = (0..5)
        .map(|n| tokio::spawn(fetcher.fetch(n.to_string()).into_future()))
        .collect();
    for want in &wants[3..] {
        until(|| want.is_finished()).await;
    }
    let error: FetchError = fetcher.fetch("x".to_owned()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Overloaded);
    end(fetcher).await;
    config.wants_max = 0;
    let (script, _) = silent();
    let error = Fetcher::builder(script).config(config).build().unwrap_err();
    assert_eq!(error.field, "wants_max");
}

/// Callers can be cancelled from outside, by key.
#[tokio::test]
async fn retain() {
    let (script, _) = silent();
    let fetcher = fetcher(&script, 1);
    let wants: Vec<_> = (0..4)
        .map(|n| tokio::spawn(fetcher.fetch(n.to_string()).into_future()))
        .collect();
    until(|| fetcher.gauges().waiters == 4).await;
    fetcher.retain(|key, _| key.as_str() >= "2");
    until(|| fetcher.gauges().waiters == 2).await;
    for (n, want) in wants.into_iter().enumerate() {
        if n < 2 {
            assert_eq!(want.await.unwrap().unwrap_err().kind, ErrorKind::Cancelled);
        } else {
            assert!(!want.is_finished());
        }
    }
    end(fetcher).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regression_a_want_does_not_overtake_the_source_that_was_added_before_it() {
    let script = Script::new(|_| async { answer(1, 0, 4, vec![Ok(datum(1, 0..4))]) });
    let fetcher = fetcher(&script, 0);
    // Now and then the want came to the worker between its look at what happened and that at wants.
    for n in 1..=2_000 {
        let source = SourceId(n);
        fetcher.add_source(source, GroupId(n));
        let fetched = fetcher
            .fetch(format!("{n}"))
            .targets(Targets::Only(vec![source]))
            .await;
        assert!(fetched.is_ok(), "{n}: {fetched:?}");
    }
    end(fetcher).await;
}
