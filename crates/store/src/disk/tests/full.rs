//! A file system without room: a small tmpfs, where the test may mount one.

use super::{faulty::Faulty, *};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::{ffi::CString, time::Duration};

const LEN: usize = 100_000;

/// A mounted tmpfs.
struct Small(tempfile::TempDir);

impl Small {
    /// None, with a line that says so, where mounting is not permitted.
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        // By the system call: a child process would hold copies of other tests' locks for a moment.
        let options = CString::new(options).unwrap();
        let flags = MountFlags::empty();
        if mount("gannet-test", dir.path(), "tmpfs", flags, Some(&*options)).is_ok() {
            return Some(Self(dir));
        }
        println!("skipped: no tmpfs can be mounted here (it takes root)");
        None
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Fills what is free but for `left` bytes.
    fn fill(&self, left: u64) -> PathBuf {
        let path = self.0.path().join("filler");
        let free = RealFs.room(self.0.path()).unwrap().free;
        std::fs::write(&path, vec![1; (free - left) as usize]).unwrap();
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a store that a failed test left behind may have files open.
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

async fn put(store: &DiskStore, n: usize) -> Result<Put, StoreError> {
    store.put(&place(n), vec![bytes_of(n, LEN)]).await
}

/// All that is held is right; returns how many.
async fn check_all(store: &DiskStore, upto: usize) -> u64 {
    let mut held = 0;
    for n in 0..upto {
        if let Some(blob) = store.open(&place(n)).await.unwrap() {
            assert!(whole(&blob).await.unwrap() == bytes_of(n, LEN));
            held += 1;
        }
    }
    assert_eq!(held, store.stats().blobs);
    held
}

#[tokio::test]
async fn the_budget_shrinks_with_the_file_system() {
    let Some(small) = Small::mount("size=4m") else {
        return;
    };
    let dir = small.data();
    // A budget of 10 GiB on 4 MiB.
    let store = open(&dir).await;
    for n in 0..100 {
        assert_eq!(put(&store, n).await.unwrap(), Put::Stored);
    }
    assert!(check_all(&store, 100).await > 30);
    // Somebody else takes all but a little: what is held is served on, commits evict.
    let filler = small.fill(50_000);
    assert!(check_all(&store, 100).await > 30);
    assert_eq!(put(&store, 100).await.unwrap(), Put::Stored);
    assert!(check_all(&store, 101).await > 30);
    // All is dropped, and others have taken the room: nothing can be stored, and that is said.
    store.drop_space("space").await.unwrap();
    std::fs::remove_file(filler).unwrap();
    let filler = small.fill(50_000);
    let error = put(&store, 0).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(
        error.is_transient() && error.to_string().contains("free some"),
        "{error}"
    );
    check_quiet(&store, &dir);
    // There is room again.
    std::fs::remove_file(filler).unwrap();
    for n in 0..50 {
        assert_eq!(put(&store, n).await.unwrap(), Put::Stored);
    }
    assert!(check_all(&store, 50).await > 30);
    let stats = store.stats();
    assert_eq!(
        (stats.commits_full, stats.commits_error, stats.corrupt),
        (1, 0, 0),
        "{stats:?}"
    );
    check_quiet(&store, &dir);
}

#[tokio::test]
async fn room_is_left_for_others() {
    let Some(small) = Small::mount("size=4m") else {
        return;
    };
    let config = DiskConfig {
        free_min: Some(1 << 20),
        ..config(&small.data())
    };
    let store = DiskStore::open(config).await.unwrap();
    for n in 0..60 {
        assert_eq!(put(&store, n).await.unwrap(), Put::Stored);
        assert!(RealFs.room(small.0.path()).unwrap().free >= 1 << 20);
    }
    check_all(&store, 60).await;
}

/// The file system says that it has room, and has none (a quota, another writer): eviction on the
/// error itself, and a lower budget for a while.
#[tokio::test(start_paused = true)]
async fn full_without_warning() {
    let Some(small) = Small::mount("size=4m") else {
        return;
    };
    let dir = small.data();
    let fs = Arc::new(Faulty {
        boundless: true,
        ..Faulty::none()
    });
    let store = DiskStore::open_with(config(&dir), fs).await.unwrap();
    for n in 0..100 {
        assert_eq!(put(&store, n).await.unwrap(), Put::Stored, "{n}");
        assert!(
            files(&dir.join("tmp")).is_empty(),
            "a temporary file was left"
        );
    }
    assert!(check_all(&store, 100).await > 30);
    let stats = store.stats();
    assert!(stats.bytes_max < 4 << 20, "{stats:?}");
    assert!(
        stats.evictions > 50 && stats.bytes <= stats.bytes_max,
        "{stats:?}"
    );
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(store.stats().bytes_max, 10 << 30, "the lower budget passes");
    // Nothing is left to evict, and there is no room: refused, without further evictions, for a while.
    store.drop_space("space").await.unwrap();
    put(&store, 0).await.unwrap();
    let filler = small.fill(0);
    assert!(
        matches!(put(&store, 1).await, Ok(Put::Stored)),
        "in the place of the other"
    );
    std::fs::remove_file(filler).unwrap();
    store.drop_space("space").await.unwrap();
    let filler = small.fill(0);
    assert!(matches!(put(&store, 0).await, Err(StoreError::Full { .. })));
    std::fs::remove_file(filler).unwrap();
    assert!(
        matches!(put(&store, 0).await, Err(StoreError::Full { .. })),
        "not tried again at once"
    );
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(put(&store, 0).await.unwrap(), Put::Stored);
    check_quiet(&store, &dir);
}

/// No inodes are left, though there are bytes.
#[tokio::test]
async fn out_of_inodes() {
    let Some(small) = Small::mount("size=8m,nr_inodes=60") else {
        return;
    };
    let store = open(&small.data()).await;
    let mut stored = 0;
    for n in 0..100 {
        match put(&store, n).await {
            Ok(_) => stored += 1,
            Err(error) => assert!(matches!(error, StoreError::Full { .. }), "{error}"),
        }
        assert!(files(&small.data().join("tmp")).is_empty());
    }
    assert!(stored >= 20, "{stored}");
    check_all(&store, 100).await;
}

/// A start on a disk that is full to the last byte.
#[tokio::test]
async fn a_start_without_room() {
    let Some(small) = Small::mount("size=4m") else {
        return;
    };
    let dir = small.data();
    let store = open(&dir).await;
    for n in 0..10 {
        put(&store, n).await.unwrap();
    }
    store.close().await;
    let _filler = small.fill(0);
    let store = open(&dir).await;
    assert_eq!(check_all(&store, 10).await, 10);
    assert_eq!(put(&store, 10).await.unwrap(), Put::Stored);
}
