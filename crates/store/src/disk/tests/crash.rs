//! Cuts at every operation of a script, and fails every operation of it, then looks at what is left.

use super::{
    faulty::{Fault, Faulty},
    *,
};
use rustix::io::Errno;
use std::collections::BTreeSet;

const LEN: usize = 70_000;

/// What a script got to know.
#[derive(Debug, Default)]
struct Known {
    /// Acknowledged, and not removed or evicted since.
    stored: BTreeSet<usize>,
    /// An operation on it failed: it may be there or not.
    unsure: BTreeSet<usize>,
}

/// Room for four blobs.
fn small(dir: &Path) -> DiskConfig {
    let bytes_max = 4 * framed_len(LEN as u64).next_multiple_of(4_096);
    DiskConfig {
        bytes_max,
        sync: true,
        ..config(dir)
    }
}

async fn put(store: &DiskStore, n: usize, known: &mut Known) {
    let evictions = store.stats().evictions;
    match store.put(&place(n), vec![bytes_of(n, LEN)]).await {
        Ok(_) => {
            if store.stats().evictions > evictions {
                // Which one, the store knows.
                known.unsure.append(&mut known.stored);
            }
            known.unsure.remove(&n);
            known.stored.insert(n);
        }
        Err(_) => {
            known.unsure.append(&mut known.stored);
            known.unsure.insert(n);
        }
    }
}

async fn remove(store: &DiskStore, n: usize, known: &mut Known) {
    match store.remove(&place(n)).await {
        Ok(_) => _ = (known.stored.remove(&n), known.unsure.remove(&n)),
        Err(_) => _ = (known.stored.remove(&n), known.unsure.insert(n)),
    }
}

/// Whatever is served is right.
async fn look(store: &DiskStore, n: usize, known: &mut Known) {
    let Ok(Some(blob)) = store.open(&place(n)).await else {
        // It may have been dropped, because a read of it failed.
        if known.stored.remove(&n) {
            known.unsure.insert(n);
        }
        return;
    };
    match whole(&blob).await {
        Ok(bytes) => assert!(bytes == bytes_of(n, LEN), "wrong bytes of {n}"),
        Err(_) => {
            if known.stored.remove(&n) {
                known.unsure.insert(n);
            }
        }
    }
}

async fn script(dir: &Path, fs: Arc<Faulty>) -> Known {
    let mut known = Known::default();
    let Ok(store) = DiskStore::open_with(small(dir), fs.clone()).await else {
        return known;
    };
    for n in 0..4 {
        put(&store, n, &mut known).await;
    }
    look(&store, 1, &mut known).await;
    remove(&store, 0, &mut known).await;
    put(&store, 4, &mut known).await;
    // Above the budget: evicts.
    put(&store, 5, &mut known).await;
    put(&store, 0, &mut known).await;
    store.close().await;
    drop(store);
    let Ok(store) = DiskStore::open_with(small(dir), fs).await else {
        return known;
    };
    for n in 0..6 {
        look(&store, n, &mut known).await;
    }
    if store.drop_space("space").await.is_ok() {
        known = Known::default();
    } else {
        known.unsure.append(&mut known.stored);
    }
    put(&store, 2, &mut known).await;
    put(&store, 6, &mut known).await;
    store.close().await;
    known
}

async fn strike(at: u64, fault: Fault, links: bool) -> bool {
    let case = format!("operation {at}, {fault:?}, links: {links}");
    let dir = scratch();
    let fs = Arc::new(Faulty {
        links,
        ..Faulty::new(at, fault)
    });
    let known = script(dir.path(), fs.clone()).await;
    let store = DiskStore::open(small(dir.path())).await.unwrap();
    check_quiet(&store, dir.path());
    for n in 0..7 {
        match store.open(&place(n)).await.unwrap() {
            Some(blob) => {
                assert!(
                    whole(&blob).await.unwrap() == bytes_of(n, LEN),
                    "{case}: wrong bytes of {n}"
                );
                assert!(
                    known.stored.contains(&n) || known.unsure.contains(&n),
                    "{case}: {n} is back"
                );
            }
            None => assert!(!known.stored.contains(&n), "{case}: {n} was acknowledged"),
        }
    }
    // No half-written file got as far as being held.
    assert_eq!(
        (store.stats().corrupt, store.stats().lost),
        (0, 0),
        "{case}"
    );
    for n in 10..14 {
        let put = store.put(&place(n), vec![bytes_of(n, LEN)]).await;
        assert_eq!(put.unwrap(), Put::Stored, "{case}");
    }
    check_quiet(&store, dir.path());
    store.close().await;
    fs.struck()
}

/// Strikes at each operation in turn, until the script ends before it is reached.
async fn strike_everywhere(fault: Fault, links: bool) {
    let mut at = 0;
    while strike(at, fault, links).await {
        at += 1;
    }
    assert!(at > 60, "the script has only {at} operations");
}

macro_rules! everywhere {
    ($($name:ident: $fault:expr, $links:expr;)*) => {
        $(#[tokio::test]
        async fn $name() {
            strike_everywhere($fault, $links).await;
        })*
    };
}

everywhere! {
    killed_before_every_operation: Fault::DieBefore, false;
    killed_within_every_operation: Fault::DieWithin, false;
    killed_before_every_operation_with_links: Fault::DieBefore, true;
    killed_within_every_operation_with_links: Fault::DieWithin, true;
    a_medium_that_fails_once_anywhere: Fault::Fail(Errno::IO), false;
    a_disk_that_is_full_once_anywhere: Fault::Fail(Errno::NOSPC), false;
    too_many_open_files_once_anywhere: Fault::Fail(Errno::MFILE), true;
    a_refusal_once_anywhere: Fault::Fail(Errno::ACCESS), false;
    a_file_that_is_gone_once_anywhere: Fault::Fail(Errno::NOENT), false;
}

/// Every file that a power cut may leave behind, its bytes not all on the medium, is found out.
#[tokio::test]
async fn torn_files_are_never_served() {
    let dir = scratch();
    let bytes = bytes_of(0, LEN);
    let path = file_of(dir.path(), &place(0), LEN);
    for torn in [
        0,
        1,
        4_096,
        65_536,
        LEN - 1,
        LEN,
        LEN + 8,
        LEN + 8 + FIXED - 1,
    ] {
        for zeroed in [false, true] {
            let store = open(dir.path()).await;
            assert_eq!(
                store.put(&place(0), vec![bytes.clone()]).await.unwrap(),
                Put::Stored
            );
            store.close().await;
            let mut file = std::fs::read(&path).unwrap();
            if zeroed {
                file[torn..].fill(0);
            } else {
                file.truncate(torn);
            }
            std::fs::write(&path, file).unwrap();
            let store = open(dir.path()).await;
            assert!(
                store.open(&place(0)).await.unwrap().is_none(),
                "torn at {torn}"
            );
            assert_eq!(store.stats().corrupt, 1);
            check_quiet(&store, dir.path());
            store.close().await;
        }
    }
}
