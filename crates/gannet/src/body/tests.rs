//! Tests of shared bodies: against a naive model, and with real threads.

use super::{Body, Budget, ReadError, SharedBody, SharedReader, Stale};
use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;
use std::sync::{Arc, OnceLock};

/// The byte that a datum of this version has at this offset.
fn byte(version: u64, offset: u64) -> u8 {
    ((offset + version * 101) % 251) as u8
}

fn bytes(version: u64, from: u64, len: u64) -> Bytes {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| (0..(1 << 20) + 251).map(|at| byte(0, at)).collect());
    let from = ((from + version * 101) % 251) as usize;
    Bytes::copy_from_slice(&pattern[from..from + len as usize])
}

#[derive(Clone, Debug)]
enum Op {
    /// Append so many bytes from so far behind the frontier.
    Append {
        behind: u64,
        len: u64,
        producer: u64,
    },
    /// A producer of an older epoch, or one that has skipped bytes.
    AppendStale {
        gap: bool,
    },
    Join {
        at: u64,
        until: Option<u64>,
    },
    Read(prop::sample::Index),
    Leave(prop::sample::Index),
    Restart,
    Finish,
    Close,
    Trim,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![4 => 0..2_000_u64, 2 => 20_000..80_000_u64];
    let behind = prop_oneof![3 => Just(0_u64), 1 => 0..3_000_u64];
    prop_oneof![
        12 => (behind, len, 0..3_u64)
            .prop_map(|(behind, len, producer)| Op::Append { behind, len, producer }),
        1 => any::<bool>().prop_map(|gap| Op::AppendStale { gap }),
        4 => (0..100_000_u64, prop::option::weighted(0.3, 0..150_000_u64))
            .prop_map(|(at, until)| Op::Join { at, until }),
        2 => Just(Op::Join { at: 0, until: None }),
        20 => any::<prop::sample::Index>().prop_map(Op::Read),
        2 => any::<prop::sample::Index>().prop_map(Op::Leave),
        1 => Just(Op::Restart),
        1 => Just(Op::Finish),
        1 => Just(Op::Close),
        1 => Just(Op::Trim),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Open,
    Complete,
    Broken,
}

/// What a reader has been through.
struct Reading {
    reader: SharedReader,
    version: u64,
    position: u64,
    until: u64,
    seen: bool,
    done: bool,
}

/// The body as an array would be: a version, a frontier, and the place from which bytes must be held.
struct Model {
    body: SharedBody,
    budget: Arc<Budget>,
    window: u64,
    version: u64,
    frontier: u64,
    /// Bytes before this may be gone.
    must_hold_from: u64,
    end: End,
    log: Vec<(u64, u64)>,
    readings: Vec<Reading>,
}

impl Model {
    fn new(window: u64) -> Self {
        let budget = Budget::new(0);
        Self {
            body: SharedBody::new(window, budget.clone()),
            budget,
            window,
            version: 0,
            frontier: 0,
            must_hold_from: 0,
            end: End::Open,
            log: Vec::new(),
            readings: Vec::new(),
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append {
                behind,
                len,
                producer,
            } => {
                let from = self.frontier.saturating_sub(*behind);
                let result = self.body.append(
                    self.body.epoch(),
                    *producer,
                    from,
                    bytes(self.version, from, *len),
                );
                if self.end != End::Open {
                    return assert_eq!(result, Err(Stale));
                }
                let fresh = (from + len).saturating_sub(self.frontier);
                assert_eq!(result.map(|appended| appended.fresh), Ok(fresh));
                if fresh > 0 {
                    self.frontier += fresh;
                    match self.log.last_mut() {
                        Some((last, upto)) if last == producer => *upto = self.frontier,
                        _ => self.log.push((*producer, self.frontier)),
                    }
                    // Whole segments go: what the window surely keeps is less by one of the largest.
                    let kept = self
                        .window
                        .saturating_sub(80_000)
                        .max(fresh.min(self.window));
                    self.must_hold_from =
                        self.must_hold_from.max(self.frontier.saturating_sub(kept));
                    if self.frontier <= self.window {
                        self.must_hold_from = self.must_hold_from.min(self.trimmed());
                    }
                }
            }
            Op::AppendStale { gap: true } => {
                let epoch = self.body.epoch();
                let result = self
                    .body
                    .append(epoch, 0, self.frontier + 1, bytes(0, 0, 9));
                assert_eq!(result, Err(Stale));
            }
            Op::AppendStale { gap: false } => {
                let result = self
                    .body
                    .append(self.body.epoch() + 1, 0, 0, bytes(0, 0, 9));
                assert_eq!(result, Err(Stale));
            }
            Op::Join { at, until } => {
                let until = until.unwrap_or(u64::MAX);
                self.readings.push(Reading {
                    reader: self.body.reader_at(*at).until(until),
                    version: self.version,
                    position: *at,
                    until,
                    seen: false,
                    done: false,
                });
            }
            Op::Read(index) => self.read(index),
            Op::Leave(index) => {
                if !self.readings.is_empty() {
                    self.readings.swap_remove(index.index(self.readings.len()));
                }
            }
            Op::Restart => {
                self.body.restart();
                self.version += 1;
                (self.frontier, self.must_hold_from, self.end) = (0, 0, End::Open);
                self.log.clear();
            }
            Op::Finish => self.finish(End::Complete),
            Op::Close => self.finish(End::Broken),
            Op::Trim => {
                // With a budget of nothing, a body that lingers is trimmed at once.
                self.budget.linger(self.body.clone());
                self.must_hold_from = self.frontier;
                assert_eq!(self.budget.held(), 0);
            }
        }
    }

    /// Where a body within its window begins, unless it was trimmed.
    fn trimmed(&self) -> u64 {
        self.body.lock().segments.start()
    }

    fn finish(&mut self, end: End) {
        match end {
            End::Complete => self.body.finish(),
            _ => self.body.close(),
        }
        if self.end == End::Open {
            self.end = end;
        }
    }

    fn read(&mut self, index: &prop::sample::Index) {
        if self.readings.is_empty() {
            return;
        }
        let index = index.index(self.readings.len());
        let reading = &mut self.readings[index];
        let got = reading.reader.next().now_or_never();
        if reading.done {
            return assert_eq!(got, Some(None), "nothing comes after the end");
        }
        if reading.version != self.version && !reading.seen {
            reading.version = self.version;
        }
        match got {
            _ if reading.version != self.version => {
                assert_eq!(got, Some(Some(Err(ReadError::Cut))));
                reading.done = true;
            }
            None => {
                assert_eq!(self.end, End::Open);
                assert!(reading.position >= self.frontier, "bytes are at hand");
            }
            Some(Some(Ok(part))) => {
                assert!(!part.is_empty());
                let expected = bytes(reading.version, reading.position, part.len() as u64);
                assert!(part == expected, "wrong bytes at {}", reading.position);
                reading.position += part.len() as u64;
                reading.seen = true;
                assert!(reading.position <= self.frontier.min(reading.until));
            }
            Some(Some(Err(error))) => {
                let position = reading.position;
                match error {
                    ReadError::Cut => panic!("nothing was cut"),
                    ReadError::Lagged { position: at } => {
                        assert_eq!(at, position);
                        assert!(
                            position < self.must_hold_from,
                            "the window holds {position}"
                        );
                    }
                    ReadError::Broken { position: at } => {
                        assert_eq!((at, self.end), (position, End::Broken));
                        assert!(position >= self.frontier);
                    }
                }
                reading.done = true;
            }
            Some(None) => {
                let complete = self.end == End::Complete && reading.position >= self.frontier;
                assert!(complete || reading.position >= reading.until);
                reading.done = true;
            }
        }
        assert_eq!(reading.reader.position(), reading.position);
    }

    fn check(&mut self) {
        let mut log = Vec::new();
        self.body.take_log(&mut log);
        assert_eq!(log, self.log);
        self.log.clear();
        assert_eq!(self.body.frontier(), self.frontier);
        let held = self.budget.held();
        assert_eq!(held, self.body.lock().segments.held());
        assert!(held <= self.window.max(80_000), "{held} bytes held");
        let whole = self.body.whole();
        assert_eq!(whole.is_some(), self.end == End::Complete);
        if let Some(whole) = whole {
            assert_eq!(whole.len(), self.frontier);
            let from = self.frontier - held;
            assert_eq!(whole.to_bytes(), bytes(self.version, from, held));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any interleaving of producers, readers, restarts and ends, against the model.
    #[test]
    fn follows_the_model(
        window in prop_oneof![Just(u64::MAX), 50_000..200_000_u64],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut model = Model::new(window);
        for op in &ops {
            model.apply(op);
            model.check();
        }
        let budget = model.budget.clone();
        drop(model);
        prop_assert_eq!(budget.held(), 0, "the budget gets everything back");
    }
}

fn unbounded() -> SharedBody {
    SharedBody::new(u64::MAX, Budget::new(u64::MAX))
}

/// A chunk that comes in thousands of small frames ends up as few blocks that pin nothing else.
#[test]
fn small_frames_become_blocks() {
    let check = |frame: u64, segments_max: usize| {
        let body = unbounded();
        let mut reader = body.reader_at(0);
        let buffer = bytes(7, 0, 1 << 20);
        let mut at = 0;
        while at < 1 << 20 {
            let part = buffer.slice(at as usize..((at + frame) as usize).min(1 << 20));
            let len = part.len() as u64;
            body.append(0, 0, at, part).unwrap();
            at += len;
            // A reader that keeps up is given the frame as it is, not made to wait for a block.
            assert!(reader.next().now_or_never().unwrap().unwrap().is_ok());
            assert_eq!(reader.position(), at);
        }
        body.finish();
        let whole = body.whole().unwrap();
        assert!(
            whole.segments().len() <= segments_max,
            "{frame}: {}",
            whole.segments().len()
        );
        assert_eq!(whole.to_bytes(), buffer);
        if frame < 32 << 10 {
            let inside = buffer.as_ptr_range();
            let pinned = |part: &Bytes| inside.contains(&part.as_ptr());
            assert!(
                !whole.segments().iter().any(pinned),
                "{frame}: pins the receive buffer"
            );
        }
    };
    check(1_400, 17);
    check(8 << 10, 17);
    check(40 << 10, 27);
    check(1 << 20, 1);
}

/// Readers wait for their byte, and are not woken for bytes before it.
#[tokio::test]
async fn a_reader_in_the_middle_sleeps_until_its_byte_is_there() {
    let body = unbounded();
    let mut task = counting();
    let mut reader = body.reader_at(10);
    assert!(task.poll(&mut reader).is_pending());
    body.append(0, 0, 0, bytes(0, 0, 10)).unwrap();
    assert_eq!(task.woken(), 0, "byte 10 is not there yet");
    body.append(0, 0, 10, bytes(0, 10, 1)).unwrap();
    assert_eq!(task.woken(), 1);
    assert!(task.poll(&mut reader).is_ready());
}

/// A waker that counts.
struct Task(Arc<Count>);

#[derive(Default)]
struct Count(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

fn counting() -> Task {
    Task(Arc::default())
}

impl Task {
    fn poll(
        &mut self,
        reader: &mut SharedReader,
    ) -> std::task::Poll<Option<Result<Bytes, ReadError>>> {
        let waker = self.0.clone().into();
        reader.poll(&mut std::task::Context::from_waker(&waker), true)
    }

    fn woken(&self) -> usize {
        self.0.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// Readers that come and go while nothing arrives leave no trace.
#[test]
fn waiting_leaves_no_trace() {
    let body = unbounded();
    let mut task = counting();
    for _ in 0..1_000 {
        let mut readers = [body.reader_at(0), body.reader_at(5)];
        for reader in &mut readers {
            assert!(task.poll(reader).is_pending());
            assert!(task.poll(reader).is_pending());
        }
    }
    assert!(
        Arc::strong_count(&task.0) == 1,
        "wakers are dropped with their readers"
    );
    body.finish();
    assert_eq!(task.woken(), 0);
}

/// What came by another way goes on where it agrees with what was read, and cuts where it does not.
#[test]
fn completion_from_outside() {
    let check = |outside: &Body, expected: Result<&[u8], ReadError>| {
        let body = unbounded();
        let epoch = body.epoch();
        body.append(epoch, 0, 0, Bytes::from("hel")).unwrap();
        let mut seen = body.reader_at(0);
        assert_eq!(
            seen.next().now_or_never(),
            Some(Some(Ok(Bytes::from("hel"))))
        );
        let mut unseen = body.reader_at(0);
        body.complete_with(outside);
        assert_eq!(body.append(epoch, 0, 3, Bytes::from("xx")), Err(Stale));
        let mut rest = Vec::new();
        let read = loop {
            match seen.next().now_or_never().expect("complete") {
                Some(Ok(bytes)) => rest.extend_from_slice(&bytes),
                Some(Err(error)) => break Err(error),
                None => break Ok(&rest[..]),
            }
        };
        assert_eq!(read, expected);
        let mut all = Vec::new();
        while let Some(bytes) = unseen.next().now_or_never().expect("complete") {
            all.extend_from_slice(&bytes.unwrap());
        }
        assert_eq!(all, outside.to_bytes());
    };
    check(&Body::from("hello"), Ok(b"lo"));
    check(
        &Body::new(vec![Bytes::from("he"), Bytes::from("llo")]),
        Ok(b"lo"),
    );
    check(&Body::from("hel"), Ok(b""));
    check(&Body::from("help me"), Ok(b"p me"));
    check(&Body::from("jello"), Err(ReadError::Cut));
    check(&Body::from("he"), Err(ReadError::Cut));
    check(&Body::new([]), Err(ReadError::Cut));
}

/// Bodies that only readers keep are trimmed from the oldest on, and not before.
#[test]
fn lingering_bodies_are_bounded() {
    let budget = Budget::new(250);
    assert_eq!(budget.places(), 0);
    let mut readers = Vec::new();
    for n in 0..5 {
        let body = SharedBody::new(u64::MAX, budget.clone());
        body.append(0, 0, 0, bytes(n, 0, 100)).unwrap();
        body.finish();
        readers.push(body.reader_at(0));
        budget.linger(body);
        assert_eq!(budget.held(), 100 * (n + 1).min(2));
    }
    let got: Vec<_> = readers
        .iter_mut()
        .map(|reader| reader.next().now_or_never().unwrap().unwrap().is_ok())
        .collect();
    assert_eq!(got, [false, false, false, true, true]);
    drop(readers);
    assert_eq!(budget.held(), 0);
    // Bodies that are gone make room, and leave nothing that grows; a slow one at the head neither.
    let slow = SharedBody::new(u64::MAX, budget.clone());
    slow.append(0, 0, 0, bytes(0, 0, 100)).unwrap();
    let mut reader = slow.reader_at(0);
    budget.linger(slow);
    for _ in 0..10_000 {
        let body = SharedBody::new(u64::MAX, budget.clone());
        body.append(0, 0, 0, bytes(0, 0, 100)).unwrap();
        let quick = body.reader_at(0);
        budget.linger(body);
        drop(quick);
    }
    assert!(reader.next().now_or_never().unwrap().unwrap().is_ok());
    assert!(budget.places() < 100, "{} places are kept", budget.places());
    drop(reader);
    assert_eq!(budget.held(), 0);
}

/// Real threads: several producers that overlap, readers that join at any time, and a restart in the
/// middle. Every reader gets one version's bytes, all of them, in order.
#[test]
fn threads() {
    const LEN: u64 = 3 << 20;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .build()
        .unwrap();
    for round in 0..2_u64 {
        let body = unbounded();
        runtime.block_on(async {
            let mut readers = tokio::task::JoinSet::new();
            for n in 0..200_u64 {
                let body = body.clone();
                readers.spawn(async move {
                    for _ in 0..n % 50 {
                        tokio::task::yield_now().await;
                    }
                    let start = n * 7_919 % LEN;
                    loop {
                        let mut reader = body.reader_at(start);
                        let mut version = None;
                        let end = loop {
                            let position = reader.position();
                            let bytes = match reader.next().await {
                                Some(Ok(bytes)) => bytes,
                                Some(Err(error)) => break Err(error),
                                None => break Ok(position),
                            };
                            for (i, got) in bytes.iter().enumerate().step_by(97) {
                                let at = position + i as u64;
                                let fits = |version| *got == byte(version, at);
                                let version = *version.get_or_insert_with(|| u64::from(fits(1)));
                                assert!(fits(version), "byte {at}");
                            }
                        };
                        match end {
                            Ok(position) => return assert_eq!(position, LEN),
                            Err(ReadError::Cut) => assert_eq!(round % 2, 1, "nothing was cut"),
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            let produce = |version: u64, epoch: u64, producer: u64, upto: u64| {
                let body = body.clone();
                async move {
                    let frame = 1_000 + producer * 13_001;
                    let mut at = 0;
                    while at < upto {
                        let len = frame.min(LEN - at);
                        if body
                            .append(epoch, producer, at, bytes(version, at, len))
                            .is_err()
                        {
                            return;
                        }
                        at += len;
                        tokio::task::yield_now().await;
                    }
                }
            };
            let version = round % 2;
            if version == 1 {
                // A version that turns out to be of no use, while a producer of it goes on.
                let late = tokio::spawn(produce(0, 0, 2, LEN));
                produce(0, 0, 1, LEN / 3).await;
                body.restart();
                let producers = (0..3).map(|n| tokio::spawn(produce(1, 1, n, LEN)));
                futures_util::future::join_all(producers).await;
                late.await.unwrap();
            } else {
                let producers = (0..3).map(|n| tokio::spawn(produce(0, 0, n, LEN)));
                futures_util::future::join_all(producers).await;
            }
            body.finish();
            while let Some(done) = readers.join_next().await {
                done.unwrap();
            }
        });
    }
}

/// What a store has of a body is what a reader would read on only if it is the same body.
#[tokio::test]
async fn complete_is_what_was_read() {
    let body = SharedBody::new(1000, Budget::new(0));
    let (mut seen, unseen) = (body.reader_at(0), body.reader_at(0));
    let append = |text: &'static str| {
        let offset = body.frontier();
        let bytes = Bytes::from_static(text.as_bytes());
        body.append(body.epoch(), 0, offset, bytes).unwrap();
    };
    append("abc");
    assert_eq!(seen.next().await, Some(Ok(Bytes::from_static(b"abc"))));
    assert!(!seen.is_complete() && !unseen.is_complete());
    body.restart();
    append("xyz");
    body.finish();
    assert!(!seen.is_complete(), "it has read another version");
    assert!(unseen.is_complete());
    let broken = SharedBody::new(1000, Budget::new(0));
    let reader = broken.reader_at(0);
    broken.close();
    assert!(!reader.is_complete());
}

#[test]
fn frames_of_one_byte_do_not_stay_so_many_pieces() {
    const LEN: u64 = 10_000;
    let body = SharedBody::new(u64::MAX, Budget::new(u64::MAX));
    for at in 0..LEN {
        body.append(0, 0, at, bytes(0, at, 1)).unwrap();
    }
    body.finish();
    let whole = body.whole().unwrap();
    assert!(whole.segments().len() <= 40, "{}", whole.segments().len());
    assert_eq!(whole.to_bytes(), bytes(0, 0, LEN));
}
