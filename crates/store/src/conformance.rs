//! What every store must do, as checks that a store's tests call.
//!
//! Behind the feature `conformance`, for stores written elsewhere. Panics with what was wrong.
//!
//! ```
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! use gannet_store::{MemoryConfig, MemoryStore, conformance};
//! use std::sync::Arc;
//!
//! conformance::check(conformance::Suite::local(), async || {
//!     Arc::new(MemoryStore::new(MemoryConfig::default()))
//! })
//! .await;
//! # });
//! ```

use crate::{Blob, BlobStore, Dropped, Place, Put, StoreError};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future};
use std::{collections::BTreeMap, sync::Arc};

/// What of the suite applies to a store.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Suite {
    /// The store is on this node: what it has just stored is `held`, an open blob outlives removal,
    /// and commits are linearizable with `stats`.
    pub local: bool,
    /// Lengths of the blobs that are put, each at least once.
    pub lens: &'static [usize],
}

impl Suite {
    /// All of it.
    pub const fn local() -> Self {
        Self {
            local: true,
            lens: LENS,
        }
    }

    /// For a store that others share.
    pub const fn shared() -> Self {
        Self {
            local: false,
            lens: LENS,
        }
    }
}

/// Lengths around the borders of blocks, pages and nothing.
const LENS: &[usize] = &[
    0, 1, 4_095, 4_096, 65_535, 65_536, 65_537, 131_071, 131_072, 131_073, 200_000, 1_048_576,
    1_048_577, 3_000_000,
];

/// Runs the suite; `make` gives an empty store that holds at least 64 MiB.
///
/// # Panics
/// Where the store does what it must not.
pub async fn check<S: BlobStore + ?Sized>(suite: Suite, make: impl AsyncFn() -> Arc<S>) {
    round_trips(suite, &*make().await).await;
    first_commit_wins(suite, &*make().await).await;
    one_of_many_committers_wins(make().await).await;
    ranges(suite, &*make().await).await;
    removal(suite, &*make().await).await;
    spaces(&*make().await).await;
    abandoned_operations(make().await).await;
    closing(&*make().await).await;
}

/// Bytes that differ by seed and position.
fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// `bytes` cut into segments of uneven lengths, empty ones among them.
fn cut(bytes: &[u8]) -> Vec<Bytes> {
    let mut segments = vec![Bytes::new()];
    let (mut rest, mut len) = (bytes, 1);
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(len.min(rest.len()));
        segments.push(Bytes::copy_from_slice(head));
        (rest, len) = (tail, len * 5 % 300_007 + 1);
    }
    segments
}

fn place(space: &str, n: usize) -> Place {
    Place::derive(space, [n.to_le_bytes().as_slice()])
}

async fn whole(blob: &Blob) -> Bytes {
    blob.to_bytes(0..blob.len())
        .await
        .expect("a blob that was put is readable")
}

async fn opened<S: BlobStore + ?Sized>(store: &S, place: &Place) -> Option<Blob> {
    store.open(place).await.expect("the store is in order")
}

async fn round_trips<S: BlobStore + ?Sized>(suite: Suite, store: &S) {
    for (n, &len) in suite.lens.iter().enumerate() {
        let (place, bytes) = (place("round", n), bytes_of(n as u64, len));
        assert!(
            opened(store, &place).await.is_none(),
            "held before it was put"
        );
        assert!(store.held(&place).is_none(), "held before it was put");
        let put = store.put(&place, cut(&bytes)).await;
        assert!(matches!(put, Ok(Put::Stored)), "{len} bytes: {put:?}");
        let blob = opened(store, &place).await.expect("what was put is held");
        assert_eq!(blob.len(), len as u64);
        assert!(
            whole(&blob).await == bytes,
            "{len} bytes came back otherwise"
        );
        if suite.local {
            let held = store
                .held(&place)
                .expect("what was just put can be served at once");
            assert!(held.segments().is_some() || held.file().is_some());
            if let Some(segments) = held.segments() {
                assert!(segments.concat() == bytes);
            }
            if let Some(view) = held.file() {
                use std::os::unix::fs::FileExt as _;
                let mut read = vec![0; len];
                view.file
                    .read_exact_at(&mut read, view.offset)
                    .expect("the file has the bytes");
                assert!(read == bytes, "the file of {len} bytes has others");
            }
        }
    }
    let stats = store.stats();
    let puts = suite.lens.len() as u64;
    assert_eq!(
        (stats.commits_stored, stats.hits >= puts, stats.misses),
        (puts, true, puts)
    );
    if suite.local {
        assert_eq!(stats.blobs, puts);
        assert!(stats.bytes >= suite.lens.iter().map(|&len| len as u64).sum());
        assert!(stats.bytes <= stats.bytes_max);
    }
}

async fn first_commit_wins<S: BlobStore + ?Sized>(suite: Suite, store: &S) {
    let place = place("first", 0);
    let (first, second) = (bytes_of(1, 70_000), bytes_of(2, 80_000));
    assert_eq!(
        store.put(&place, cut(&first)).await.expect("room"),
        Put::Stored
    );
    for other in [&first, &second] {
        let put = store
            .put(&place, cut(other))
            .await
            .expect("a lost commit is success");
        assert_eq!(put, Put::Exists);
        assert!(whole(&opened(store, &place).await.expect("held")).await == first);
    }
    assert_eq!(store.stats().commits_exists, 2);
    if suite.local {
        assert_eq!(store.stats().blobs, 1);
    }
}

async fn one_of_many_committers_wins<S: BlobStore + ?Sized>(store: Arc<S>) {
    for round in 0..8 {
        let place = place("race", round);
        let puts = (0..8).map(|n| {
            let (store, place) = (store.clone(), place.clone());
            tokio::spawn(async move {
                (
                    n,
                    store
                        .put(&place, cut(&bytes_of(n, 100_000 + n as usize)))
                        .await,
                )
            })
        });
        let mut winners = Vec::new();
        for put in future::join_all(puts).await {
            let (n, put) = put.expect("no panic");
            if put.expect("a lost commit is success") == Put::Stored {
                winners.push(n);
            }
        }
        let [winner] = winners[..] else {
            panic!("round {round}: {winners:?} won")
        };
        let blob = opened(&*store, &place).await.expect("one of them won");
        assert!(whole(&blob).await == bytes_of(winner, 100_000 + winner as usize));
    }
}

async fn ranges<S: BlobStore + ?Sized>(suite: Suite, store: &S) {
    const BLOCK: u64 = 65_536;
    for (n, &len) in suite.lens.iter().enumerate() {
        let (place, bytes) = (place("ranges", n), bytes_of(n as u64, len));
        store.put(&place, cut(&bytes)).await.expect("room");
        let blob = opened(store, &place).await.expect("held");
        let len = len as u64;
        let edges = [
            0,
            1,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            2 * BLOCK,
            len / 2,
            len.saturating_sub(1),
            len,
        ];
        for start in edges {
            for end in edges.into_iter().chain([len + 1]) {
                let read = blob.to_bytes(start..end).await;
                if start <= end && end <= len {
                    let wanted = &bytes[start as usize..end as usize];
                    assert!(read.expect("within") == wanted, "{start}..{end} of {len}");
                    let streamed = blob.stream(start..end).expect("within");
                    let pieces: Vec<Bytes> = streamed.try_collect().await.expect("readable");
                    assert!(
                        pieces.concat() == wanted,
                        "{start}..{end} of {len} streamed"
                    );
                    assert!(
                        pieces.iter().all(|piece| !piece.is_empty()),
                        "an empty piece"
                    );
                } else {
                    assert!(
                        matches!(read, Err(StoreError::Range { .. })),
                        "{start}..{end}: {read:?}"
                    );
                    assert!(blob.slice(start..end).is_none());
                }
            }
        }
        let mut dropped = blob.stream(0..len).expect("within");
        let _ = dropped.next().await;
    }
}

async fn removal<S: BlobStore + ?Sized>(suite: Suite, store: &S) {
    let (place, bytes) = (place("removal", 0), bytes_of(3, 300_000));
    assert!(
        !store.remove(&place).await.expect("in order"),
        "removed what was not there"
    );
    store.put(&place, cut(&bytes)).await.expect("room");
    let before = opened(store, &place).await.expect("held");
    assert!(store.remove(&place).await.expect("in order"));
    assert!(opened(store, &place).await.is_none(), "held though removed");
    assert!(store.held(&place).is_none(), "held though removed");
    if suite.local {
        assert!(
            whole(&before).await == bytes,
            "an open blob outlives its removal"
        );
        assert_eq!((store.stats().blobs, store.stats().bytes), (0, 0));
    } else {
        let read = before.to_bytes(0..300_000).await;
        let right = read
            .as_ref()
            .map_or_else(StoreError::is_absent, |read| *read == bytes);
        assert!(right, "a removed blob is served right, or known to be gone");
    }
    let again = bytes_of(4, 1_000);
    assert_eq!(
        store.put(&place, cut(&again)).await.expect("room"),
        Put::Stored
    );
    assert!(whole(&opened(store, &place).await.expect("held")).await == again);
}

async fn spaces<S: BlobStore + ?Sized>(store: &S) {
    let long = "l".repeat(5_000);
    let spaces = [
        "a", "b", "A", "", ".", "..", "a/b", "/", "../a", "a%2fb", "a=2fb", "ü", "a\0b", "con",
        "a ", "a.", ".a", "%", "=", "==", "%%", &long, "tmp", "lock",
    ];
    let mut wanted: BTreeMap<&str, BTreeMap<[u8; 32], u64>> = BTreeMap::new();
    for (n, space) in spaces.into_iter().enumerate() {
        for m in 0..3 {
            // The same digest in every space.
            let place = Place::new(space, *place("x", m).digest());
            let put = store.put(&place, cut(&bytes_of(n as u64, n * 3 + m))).await;
            assert_eq!(
                put.expect("room"),
                Put::Stored,
                "{space:?} met another space"
            );
            wanted
                .entry(space)
                .or_default()
                .insert(*place.digest(), (n * 3 + m) as u64);
        }
    }
    let listed = async |space: &str| {
        let entries: Vec<_> = store.list(space).try_collect().await.expect("in order");
        let by_digest: BTreeMap<_, _> = entries
            .iter()
            .map(|entry| (entry.digest, entry.len))
            .collect();
        assert_eq!(by_digest.len(), entries.len(), "listed twice in {space:?}");
        by_digest
    };
    for space in spaces {
        assert_eq!(&listed(space).await, &wanted[space], "{space:?}");
    }
    assert!(listed("none such").await.is_empty());
    for gone in ["a", "..", ""] {
        let bytes = wanted[gone].values().sum();
        let dropped = store.drop_space(gone).await.expect("in order");
        assert_eq!(dropped, Dropped { blobs: 3, bytes }, "{gone:?}");
        wanted.insert(gone, BTreeMap::new());
        assert_eq!(
            store.drop_space(gone).await.expect("in order"),
            Dropped::default()
        );
    }
    for space in spaces {
        assert_eq!(&listed(space).await, &wanted[space], "{space:?}");
    }
    let back = Place::new("a", *place("x", 0).digest());
    assert_eq!(
        store.put(&back, cut(b"again")).await.expect("room"),
        Put::Stored
    );
}

/// A future that is dropped half-way leaves nothing half-done.
async fn abandoned_operations<S: BlobStore + ?Sized>(store: Arc<S>) {
    let bytes = bytes_of(5, 500_000);
    for polls in 0..4 {
        let place = place("abandoned", polls);
        {
            let mut put = store.put(&place, cut(&bytes));
            for _ in 0..polls {
                if futures_util::poll!(&mut put).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let _ = store.put(&place, cut(&bytes)).await.expect("room");
        let blob = opened(&*store, &place).await.expect("held");
        assert!(whole(&blob).await == bytes);
        {
            let mut remove = store.remove(&place);
            let _ = futures_util::poll!(&mut remove);
        }
        let _ = store.remove(&place).await.expect("in order");
        assert!(opened(&*store, &place).await.is_none());
    }
}

async fn closing<S: BlobStore + ?Sized>(store: &S) {
    let place = place("closing", 0);
    store.put(&place, cut(b"bytes")).await.expect("room");
    store.close().await;
    store.close().await;
    assert!(store.held(&place).is_none(), "served after closing");
    assert!(matches!(store.open(&place).await, Err(StoreError::Closed)));
    assert!(matches!(
        store.put(&place, cut(b"bytes")).await,
        Err(StoreError::Closed)
    ));
    assert!(matches!(
        store.remove(&place).await,
        Err(StoreError::Closed)
    ));
    assert!(matches!(
        store.drop_space("closing").await,
        Err(StoreError::Closed)
    ));
    assert!(matches!(
        store.list("closing").next().await,
        Some(Err(StoreError::Closed))
    ));
}
