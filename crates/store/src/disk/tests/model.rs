//! Sequences of operations against a naive model.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BUDGET: u64 = 400_000;
const BLOBS: usize = 16;

#[derive(Clone, Debug)]
enum Op {
    Put(usize),
    Open(usize),
    Held(usize),
    Read(usize, f64, f64),
    Remove(usize),
    DropSpace(usize),
    Restart,
    /// A byte of its file is changed, at this part of it.
    Flip(usize, f64),
    Vanish(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let blob = 0..BLOBS;
    prop_oneof![
        8 => blob.clone().prop_map(Op::Put),
        6 => blob.clone().prop_map(Op::Open),
        3 => blob.clone().prop_map(Op::Held),
        3 => (blob.clone(), 0.0..1.0, 0.0..1.0).prop_map(|(n, a, b)| Op::Read(n, a, b)),
        2 => blob.clone().prop_map(Op::Remove),
        1 => (0..2_usize).prop_map(Op::DropSpace),
        2 => Just(Op::Restart),
        2 => (blob.clone(), 0.0..1.0).prop_map(|(n, at)| Op::Flip(n, at)),
        1 => blob.prop_map(Op::Vanish),
    ]
}

fn len(n: usize) -> usize {
    [0, 1, 5_000, 65_536, 65_537, 130_000, 20_000, 99_999][n % 8]
}

fn space(n: usize) -> &'static str {
    ["even", "../odd"][n % 2]
}

fn place(n: usize) -> Place {
    Place::derive(space(n), [n.to_le_bytes().as_slice()])
}

/// What the model knows of a blob that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Right,
    /// Its file was changed behind the store.
    Bad,
}

async fn run(ops: Vec<Op>) {
    let dir = scratch();
    let config = || DiskConfig {
        bytes_max: BUDGET,
        files_max: Some(3),
        ..config(dir.path())
    };
    let mut store = DiskStore::open(config()).await.unwrap();
    // What may be held: eviction takes away what it likes.
    let mut model: BTreeMap<usize, State> = BTreeMap::new();
    let is_there = |n: usize| file_of(dir.path(), &place(n), len(n)).exists();
    for op in ops {
        let before = store.stats();
        match op {
            Op::Put(n) => {
                let there = is_there(n);
                let put = store
                    .put(&place(n), vec![bytes_of(n, len(n))])
                    .await
                    .unwrap();
                let vanished = model.get(&n) == Some(&State::Bad) && !there;
                if put == Put::Stored {
                    assert!(!there);
                    model.insert(n, State::Right);
                } else {
                    assert!(model.contains_key(&n) && (there || vanished));
                }
                // Room is made only where it is needed.
                let after = store.stats();
                assert!(after.evictions == before.evictions || before.bytes + 140_000 > BUDGET);
            }
            Op::Open(n) => {
                let opened = store.open(&place(n)).await.unwrap();
                if let Some(blob) = &opened {
                    assert!(model.contains_key(&n), "{n} was never put");
                    let read = whole(blob).await;
                    match read {
                        Ok(bytes) => assert!(bytes == bytes_of(n, len(n)), "wrong bytes of {n}"),
                        Err(error) => {
                            assert!(error.is_absent() && model[&n] == State::Bad, "{error}");
                        }
                    }
                }
                if opened.is_none() {
                    assert!(!is_there(n), "{n} is there and is not served");
                }
            }
            Op::Held(n) => {
                if let Some(blob) = store.held(&place(n)) {
                    assert!(model.contains_key(&n));
                    assert_eq!(blob.len(), len(n) as u64);
                    assert!(blob.file().is_some());
                }
            }
            Op::Read(n, a, b) => {
                let Some(blob) = store.open(&place(n)).await.unwrap() else {
                    continue;
                };
                let at = |part: f64| (part * len(n) as f64) as u64;
                let range = at(a.min(b))..at(a.max(b));
                match blob.to_bytes(range.clone()).await {
                    Ok(read) => {
                        let wanted = &bytes_of(n, len(n))[range.start as usize..range.end as usize];
                        assert!(read == wanted, "wrong bytes of {n} in {range:?}");
                    }
                    Err(error) => assert!(error.is_absent() && model[&n] == State::Bad, "{error}"),
                }
            }
            Op::Remove(n) => {
                let held = before.blobs;
                let removed = store.remove(&place(n)).await.unwrap();
                assert_eq!(store.stats().blobs, held - u64::from(removed));
                assert!(!is_there(n) && (!removed || model.remove(&n).is_some()));
            }
            Op::DropSpace(which) => {
                let dropped = store.drop_space(space(which)).await.unwrap();
                assert_eq!(store.stats().blobs, before.blobs - dropped.blobs);
                model.retain(|n, _| n % 2 != which);
            }
            Op::Restart => {
                let there = (0..BLOBS).filter(|n| is_there(*n)).count() as u64;
                store.close().await;
                store = DiskStore::open(config()).await.unwrap();
                assert_eq!(store.stats().blobs, there);
            }
            Op::Flip(n, at) => {
                let path = file_of(dir.path(), &place(n), len(n));
                if let Ok(mut file) = std::fs::read(&path) {
                    let at = (at * file.len() as f64) as usize;
                    file[at] ^= 1;
                    // In place: who has it open sees it.
                    std::fs::write(&path, file).unwrap();
                    model.insert(n, State::Bad);
                }
            }
            Op::Vanish(n) => {
                if std::fs::remove_file(file_of(dir.path(), &place(n), len(n))).is_ok() {
                    model.insert(n, State::Bad);
                }
            }
        }
        let stats = store.stats();
        assert!(stats.bytes <= stats.bytes_max);
        assert!(store.open_files() <= 3);
        assert!(files(&dir.path().join("tmp")).is_empty());
    }
    // After a start all that is wrong is found out.
    store.close().await;
    store = DiskStore::open(config()).await.unwrap();
    for n in 0..BLOBS {
        match store.open(&place(n)).await.unwrap() {
            Some(blob) => {
                assert_eq!(model.get(&n), Some(&State::Right), "{n}");
                assert!(whole(&blob).await.unwrap() == bytes_of(n, len(n)));
            }
            None => assert!(!is_there(n)),
        }
    }
    check_quiet(&store, dir.path());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn does_as_the_model(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(ops));
    }
}
