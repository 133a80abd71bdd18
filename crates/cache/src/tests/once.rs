//! Each byte once: stampedes, suffixes, read-ahead, questions.

use super::*;
use crate::{edge::backend::Backend as _, types::ListQuery};
use futures_util::future::join_all;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_stampede_reads_each_byte_once() {
    for read_ahead in [0, 4] {
        let origin = Fake::new("o");
        let object = origin.put(&name("k"), (2 * MIB + 12_345) as usize, 1);
        let path = path(
            &origin,
            &ReadConfig {
                read_ahead,
                ..config()
            },
        );
        let reads = (0..200).map(|n| {
            let (path, object) = (path.clone(), object.clone());
            tokio::spawn(async move {
                // Some whole, some from the middle of a chunk.
                let from = (n % 4) * 600_000;
                let range = from..object.len() as u64;
                let got = read_as(&path, "k", Some(range), n as u32).await.unwrap();
                assert_eq!(got, object[from as usize..]);
            })
        });
        join_all(reads)
            .await
            .into_iter()
            .for_each(|joined| joined.unwrap());
        settle(&path).await;
        let state = origin.state();
        assert_eq!(state.heads, 1);
        assert_eq!(state.bytes, object.len() as u64, "1.00 x the object");
        let mut reads = state.reads.clone();
        reads.sort_by_key(|range| range.start);
        let chunks = (0..3).map(|n| n * MIB..((n + 1) * MIB).min(object.len() as u64));
        assert_eq!(reads, chunks.collect::<Vec<_>>(), "one GET a chunk");
        assert_eq!(path.0.home.counters().hedges, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_large_object_costs_one_chunk() {
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), 20 * MIB as usize, 1);
    let path = path(
        &origin,
        &ReadConfig {
            read_ahead: 4,
            ..config()
        },
    );
    let from = 20 * MIB - 1000;
    let got = read(&path, "k", Some(from..20 * MIB)).await.unwrap();
    assert_eq!(got, object[from as usize..]);
    settle(&path).await;
    let reads = origin.state().reads.clone();
    assert_eq!((reads.len(), &reads[0]), (1, &(19 * MIB..20 * MIB)));
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_held() {
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), 3 * MIB as usize + 1, 1);
    let path = path(&origin, &config());
    let meta = path.head(&name("k"), &context(1)).await.unwrap();
    assert!(path.cached_head(&name("k")).is_some() && path.cached_head(&name("l")).is_none());
    let middle = MIB - 10..2 * MIB + 10;
    assert!(path.held(&name("k"), &meta, middle.clone()).is_none());
    read(&path, "k", None).await.unwrap();
    settle(&path).await;
    let segments = path.held(&name("k"), &meta, middle.clone()).unwrap();
    let bytes: Vec<u8> = segments
        .iter()
        .flat_map(|segment| match segment {
            crate::types::Segment::Bytes(bytes) => bytes.to_vec(),
            crate::types::Segment::File { .. } => panic!("there is no disk"),
        })
        .collect();
    assert_eq!(bytes, object[middle.start as usize..middle.end as usize]);
    let reads = origin.state().reads.len();
    assert_eq!(read(&path, "k", None).await.unwrap(), object);
    assert_eq!(origin.state().reads.len(), reads);
    assert_eq!(path.held(&name("k"), &meta, 5..5).map(|s| s.len()), Some(0));
    assert!(path.held(&name("k"), &meta, 0..meta.size + 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn questions_are_asked_once() {
    let origin = Fake::new("o");
    origin.put(&name("k"), 0, 1);
    let path = path(&origin, &config());
    let missing = (0..100).map(|_| read(&path, "absent", None));
    for outcome in join_all(missing).await {
        assert!(
            matches!(outcome, Err(ObjectError::NoSuchKey)),
            "{outcome:?}"
        );
    }
    assert_eq!(origin.state().heads, 1, "then and now");
    assert!(matches!(
        read(&path, "absent", None).await,
        Err(ObjectError::NoSuchKey)
    ));
    assert_eq!(origin.state().heads, 1);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(matches!(
        read(&path, "absent", None).await,
        Err(ObjectError::NoSuchKey)
    ));
    assert_eq!(origin.state().heads, 2, "a minute later");
    assert_eq!(
        read(&path, "k", None).await.unwrap(),
        "",
        "an empty object has no chunk"
    );
    assert!(origin.state().reads.is_empty());
    let query = ListQuery {
        bucket: "b".into(),
        prefix: "".into(),
        delimiter: None,
        start_after: None,
        token: None,
        keys_max: 1000,
    };
    let lists = join_all((0..50).map(|n| {
        let (path, query) = (&path, &query);
        async move { path.list(query, &context(n)).await }
    }));
    assert!(
        lists
            .await
            .into_iter()
            .all(|page| page.unwrap().objects.len() == 1)
    );
    assert_eq!(origin.state().lists, 1);
    assert!(path.head_bucket("b", &context(1)).await.is_ok());
    assert!(matches!(
        path.head_bucket("c", &context(1)).await,
        Err(ObjectError::NoSuchBucket)
    ));
    assert_eq!(path.buckets(&context(1)).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_etag_is_remembered_as_such() {
    let origin = Fake::new("o");
    origin.put(&name("k"), 10, 1);
    origin.state().no_etags = true;
    let path = path(&origin, &config());
    for _ in 0..3 {
        assert!(matches!(
            read(&path, "k", None).await,
            Err(ObjectError::MissingEtag)
        ));
    }
    assert_eq!(origin.state().heads, 1);
}

#[tokio::test(start_paused = true)]
async fn metadata_in_use_is_refreshed_before_it_expires() {
    let origin = Fake::new("o");
    origin.put(&name("k"), 10, 1);
    let path = path(&origin, &config());
    for _ in 0..30 {
        path.head(&name("k"), &context(1)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    let heads = origin.state().heads;
    assert!(
        (3..=4).contains(&heads),
        "ten minutes, five minutes each: {heads}"
    );
    origin.put(&name("k"), 10, 2);
    tokio::time::sleep(Duration::from_secs(301)).await;
    let before = path.ways_answers();
    path.head(&name("k"), &context(1)).await.unwrap();
    assert!(path.ways_answers() > before, "an idle entry expires");
}

impl ReadPath {
    fn ways_answers(&self) -> u64 {
        self.0.home.counters().fetches
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_in_order_finds_the_next_chunks_there() {
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), 16 * MIB as usize, 1);
    let path = path(
        &origin,
        &ReadConfig {
            read_ahead: 2,
            ..config()
        },
    );
    let quarter = MIB / 4;
    for n in 0..2 {
        let range = n * quarter..(n + 1) * quarter;
        let got = read(&path, "k", Some(range.clone())).await.unwrap();
        assert_eq!(got, object[range.start as usize..range.end as usize]);
        settle(&path).await;
    }
    assert_eq!(
        origin.state().reads,
        [0..MIB, MIB..2 * MIB, 2 * MIB..3 * MIB]
    );
    // One who hops about gets what it asks for, and no more.
    for n in [12, 5, 9] {
        read_as(&path, "k", Some(n * MIB..n * MIB + 10), 2)
            .await
            .unwrap();
        settle(&path).await;
    }
    assert_eq!(origin.state().reads.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_small_hits_finds_the_next_chunks_there() {
    let origin = Fake::new("o");
    origin.put(&name("k"), 16 * MIB as usize, 1);
    let path = path(
        &origin,
        &ReadConfig {
            read_ahead: 2,
            ..config()
        },
    );
    let meta = path.head(&name("k"), &context(1)).await.unwrap();
    let mut misses = Vec::new();
    for n in 0..256 {
        let range = n * MIB / 16..(n + 1) * MIB / 16;
        // As the edge does: what is held is sent, the rest is read.
        if path.held(&name("k"), &meta, range.clone()).is_none() {
            misses.push(n / 16);
            read(&path, "k", Some(range)).await.unwrap();
        }
        settle(&path).await;
    }
    assert_eq!(misses, [0, 1], "the chunks that a reader had to wait for");
    assert_eq!(origin.state().reads.len(), 16);
}

#[tokio::test(start_paused = true)]
async fn read_ahead_ends_with_its_reader() {
    let origin = Fake::new("o");
    origin.put(&name("k"), 16 * MIB as usize, 1);
    let path = path(
        &origin,
        &ReadConfig {
            read_ahead: 4,
            ..config()
        },
    );
    let meta = path.head(&name("k"), &context(1)).await.unwrap();
    // The first chunk comes well; those behind it fall silent.
    origin.state().faults = [Fault::Well].into();
    origin.state().every = Some(Fault::Stall(10));
    let mut stream = path
        .read(&name("k"), &meta, 0..16 * MIB, &context(1))
        .await
        .unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(origin.state().reads.len(), 5, "one and four ahead");
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let snapshot = path.0.home.snapshot().await.unwrap();
    assert!(snapshot.fetches.is_empty(), "{snapshot:?}");
    assert_eq!(path.0.ways.throttles[0].load().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_is_fetched_to_its_end_though_all_have_gone() {
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), MIB as usize, 1);
    let path = path(&origin, &config());
    let meta = path.head(&name("k"), &context(1)).await.unwrap();
    let mut stream = path
        .read(&name("k"), &meta, 0..MIB, &context(1))
        .await
        .unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    settle(&path).await;
    assert!(path.held(&name("k"), &meta, 0..MIB).is_some());
    assert_eq!(read(&path, "k", None).await.unwrap(), object);
    assert_eq!(origin.state().reads.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn warming_fetches_what_is_not_held_and_purging_forgets() {
    let origin = Fake::new("o");
    origin.put(&name("a/1"), 3 * MIB as usize, 1);
    origin.put(&name("a/2"), 10, 2);
    let path = path(&origin, &config());
    read(&path, "a/1", Some(0..1)).await.unwrap();
    settle(&path).await;
    let names = ["a/1", "a/2", "absent"].map(name).to_vec();
    let mut warmed: Vec<_> = path.warm(names, context(1)).collect().await;
    warmed.sort_by(|a, b| a.name.cmp(&b.name));
    let amounts = warmed.iter().map(|w| {
        w.outcome
            .as_ref()
            .map(|a| (a.bytes, a.chunks, a.fetched))
            .ok()
    });
    assert_eq!(
        amounts.collect::<Vec<_>>(),
        [Some((3 * MIB, 3, 2)), Some((10, 1, 1)), None]
    );
    let meta = path.head(&name("a/1"), &context(1)).await.unwrap();
    assert!(path.held(&name("a/1"), &meta, 0..3 * MIB).is_some());
    let purged = path.purge_here(Some("b"), "a/").await.unwrap();
    assert_eq!((purged.objects, purged.chunks), (2, 4));
    assert!(path.cached_head(&name("a/1")).is_none());
    assert!(path.held(&name("a/1"), &meta, 0..3 * MIB).is_none());
}
