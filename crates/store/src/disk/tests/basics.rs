//! What it does when nothing is wrong; the lock, the limits, what it says; many threads.

use super::{faulty::Faulty, *};
use futures_util::future;
use std::{os::unix::fs::PermissionsExt as _, time::Duration};

#[tokio::test]
async fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    let n = std::sync::atomic::AtomicU64::new(0);
    conformance::check(conformance::Suite::local(), async || {
        let n = n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Arc::new(open(&dir.path().join(n.to_string())).await)
    })
    .await;
}

#[tokio::test]
async fn conforms_with_links_and_syncs_and_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let n = std::sync::atomic::AtomicU64::new(0);
    conformance::check(conformance::Suite::local(), async || {
        let n = n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = dir.path().join(n.to_string());
        let config = DiskConfig {
            sync: true,
            io_max: 1,
            files_max: Some(1),
            ..config(&dir)
        };
        let fs = Arc::new(Faulty {
            links: true,
            ..Faulty::none()
        });
        Arc::new(DiskStore::open_with(config, fs).await.unwrap())
    })
    .await;
}

#[tokio::test]
async fn all_is_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let places: Vec<_> = (0..300)
        .map(|n| Place::new(["a", "B", "", "../x"][n % 4], *place(n).digest()))
        .collect();
    for (n, place) in places.iter().enumerate() {
        store.put(place, vec![bytes_of(n, n * 100)]).await.unwrap();
    }
    let before = store.stats();
    store.close().await;
    let store = open(dir.path()).await;
    let after = store.stats();
    assert_eq!((after.blobs, after.bytes), (before.blobs, before.bytes));
    assert_eq!(store.opened_in().1, 300);
    for (n, place) in places.iter().enumerate() {
        let blob = store.open(place).await.unwrap().unwrap();
        assert_eq!(whole(&blob).await.unwrap(), bytes_of(n, n * 100));
    }
    check_quiet(&store, dir.path());
    // Half the budget at the next start: half is gone.
    store.close().await;
    let config = DiskConfig {
        bytes_max: before.bytes / 2,
        ..config(dir.path())
    };
    let store = DiskStore::open(config).await.unwrap();
    let stats = store.stats();
    assert!(
        stats.bytes <= before.bytes / 2 && stats.bytes > before.bytes / 3,
        "{stats:?}"
    );
    check_quiet(&store, dir.path());
}

#[tokio::test]
async fn orphans_and_doubles_go_and_strangers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let store = open(root).await;
    store.put(&place(0), vec![bytes_of(0, 10)]).await.unwrap();
    store.close().await;
    let ours = file_of(root, &place(0), 10);
    let name = ours.file_name().unwrap().to_str().unwrap();
    std::fs::write(root.join("tmp/17"), "half a blob").unwrap();
    std::fs::create_dir(root.join("tmp/deep")).unwrap();
    // Of the right name in the wrong place, and what has a blob's name and is none.
    let misplaced = root.join("v1/space/zz").join(name);
    std::fs::create_dir(misplaced.parent().unwrap()).unwrap();
    std::fs::write(&misplaced, "x").unwrap();
    let folder = file_of(root, &place(1), 5);
    std::fs::create_dir_all(&folder).unwrap();
    let strangers = [
        root.join("v2/later"),
        root.join("v1/readme"),
        root.join("v1/space/readme"),
        ours.with_file_name("readme"),
        ours.with_file_name(format!("{name}.bak")),
        ours.with_file_name(name.to_uppercase()),
    ];
    for stranger in &strangers {
        std::fs::create_dir_all(stranger.parent().unwrap()).unwrap();
        std::fs::write(stranger, "not ours").unwrap();
    }
    let store = open(root).await;
    assert_eq!(store.stats().blobs, 1);
    assert_eq!(
        whole(&store.open(&place(0)).await.unwrap().unwrap())
            .await
            .unwrap(),
        bytes_of(0, 10)
    );
    assert!(files(&root.join("tmp")).is_empty() && !root.join("tmp/deep").exists());
    assert!(!misplaced.exists() && !folder.exists());
    assert!(strangers.iter().all(|stranger| stranger.exists()));
    store.close().await;
    // Two files of one digest: one stays.
    std::fs::copy(&ours, file_of(root, &place(0), 11)).unwrap();
    let store = open(root).await;
    assert_eq!(store.stats().blobs, 1);
    let both = [10, 11].map(|len| file_of(root, &place(0), len).exists());
    assert!(both[0] != both[1], "{both:?}");
    if let Some(blob) = store.open(&place(0)).await.unwrap() {
        assert_eq!(whole(&blob).await.unwrap(), bytes_of(0, 10));
    }
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let error = DiskStore::open(config(dir.path())).await.unwrap_err();
    let StoreError::Locked { pid, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*pid, Some(std::process::id()));
    let text = error.to_string();
    assert!(
        text.contains("in use") && text.contains("directory of its own"),
        "{text}"
    );
    store.close().await;
    open(dir.path()).await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for bad in [
        file.clone(),
        file.join("below"),
        PathBuf::from("/proc/nothing/here"),
    ] {
        let error = DiskStore::open(config(&bad)).await.unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, StoreError::Unsuitable(_) | StoreError::Auth(_)),
            "{text}"
        );
        assert!(text.contains(bad.to_str().unwrap()), "{text}");
    }
}

#[tokio::test]
async fn nobody_else_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let store = open(&root).await;
    store.put(&place(0), vec![bytes_of(0, 10)]).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o077;
    assert_eq!((mode(&root), mode(&file_of(&root, &place(0), 10))), (0, 0));
    let tag = std::fs::read_to_string(root.join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
}

#[tokio::test]
async fn few_files_stay_open() {
    let dir = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        files_max: Some(4),
        ..config(dir.path())
    };
    let store = DiskStore::open(config).await.unwrap();
    for n in 0..20 {
        store
            .put(&place(n), vec![bytes_of(n, 1_000)])
            .await
            .unwrap();
        assert!(store.held(&place(n)).is_some(), "what was just put");
        assert!(store.open_files() <= 4);
    }
    let blobs: Vec<_> =
        future::join_all((0..20).map(async |n| store.open(&place(n)).await.unwrap().unwrap()))
            .await;
    assert!(store.open_files() <= 4);
    assert_eq!(
        (0..20).filter(|n| store.held(&place(*n)).is_some()).count(),
        4
    );
    assert_eq!(store.drop_space("space").await.unwrap().blobs, 20);
    assert_eq!(store.open_files(), 0);
    for (n, blob) in blobs.iter().enumerate() {
        assert_eq!(
            whole(blob).await.unwrap(),
            bytes_of(n, 1_000),
            "open blobs stay readable"
        );
    }
}

#[tokio::test]
async fn too_large_for_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        bytes_max: 100_000,
        ..config(dir.path())
    };
    let store = DiskStore::open(config).await.unwrap();
    let error = store
        .put(&place(0), vec![bytes_of(0, 100_000)])
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::TooLarge { max: 100_000, .. }),
        "{error}"
    );
    assert_eq!(store.stats().commits_full, 1);
    check_quiet(&store, dir.path());
}

#[tokio::test]
async fn a_scan_does_not_wash_out_what_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        bytes_max: 100 * 4_096,
        ..config(dir.path())
    };
    let store = DiskStore::open(config).await.unwrap();
    for n in 0..50 {
        store.put(&place(n), vec![bytes_of(n, 100)]).await.unwrap();
        (0..2).for_each(|_| assert!(store.held(&place(n)).is_some()));
    }
    for n in 100..600 {
        store.put(&place(n), vec![bytes_of(n, 100)]).await.unwrap();
    }
    for n in 0..50 {
        assert!(store.open(&place(n)).await.unwrap().is_some(), "{n}");
    }
    assert_eq!(store.stats().evictions, 450);
    check_quiet(&store, dir.path());
}

/// Commits that together exceed the budget wait for each other, instead of failing.
#[tokio::test]
async fn writers_wait_for_room_that_others_write_in() {
    let dir = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        bytes_max: 100_000,
        ..config(dir.path())
    };
    let store = DiskStore::open(config).await.unwrap();
    let puts = (0..24).map(async |n| store.put(&place(n), vec![bytes_of(n, 60_000)]).await);
    for put in future::join_all(puts).await {
        assert_eq!(put.unwrap(), Put::Stored);
    }
    assert_eq!((store.stats().blobs, store.stats().evictions), (1, 23));
    check_quiet(&store, dir.path());
}

/// Directories that somebody removed are made anew.
#[tokio::test]
async fn directories_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.put(&place(0), vec![bytes_of(0, 10)]).await.unwrap();
    store.remove(&place(0)).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("v1")).unwrap();
    std::fs::remove_dir_all(dir.path().join("tmp")).unwrap();
    assert_eq!(
        store.put(&place(0), vec![bytes_of(0, 10)]).await.unwrap(),
        Put::Stored
    );
    check_quiet(&store, dir.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_put_open_remove_and_evict() {
    let dir = tempfile::tempdir().unwrap();
    let len = |n: usize| 1_000 + n * 7_919 % 90_000;
    let config = DiskConfig {
        bytes_max: 500_000,
        files_max: Some(5),
        verify_every: Duration::from_secs(1),
        scrub_rate: 1 << 30,
        ..config(dir.path())
    };
    let store = Arc::new(DiskStore::open(config).await.unwrap());
    let tasks = (0..16_usize).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut seed = task as u64 + 1;
            let mut next = |below: u64| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                (seed % below) as usize
            };
            for _ in 0..150 {
                let n = next(24);
                match next(8) {
                    0..3 => {
                        _ = store
                            .put(&place(n), vec![bytes_of(n, len(n))])
                            .await
                            .unwrap()
                    }
                    3 => _ = store.remove(&place(n)).await.unwrap(),
                    4 => {
                        if let Some(blob) = store.held(&place(n)) {
                            assert!(whole(&blob).await.unwrap() == bytes_of(n, len(n)));
                        }
                    }
                    5 if next(20) == 0 => _ = store.drop_space("space").await.unwrap(),
                    _ => {
                        if let Some(blob) = store.open(&place(n)).await.unwrap() {
                            assert!(whole(&blob).await.unwrap() == bytes_of(n, len(n)));
                        }
                    }
                }
                assert!(store.stats().bytes <= 500_000);
                assert!(store.open_files() <= 5);
            }
        })
    });
    for end in future::join_all(tasks).await {
        end.unwrap();
    }
    let stats = store.stats();
    assert_eq!(
        (stats.corrupt, stats.lost, stats.commits_error),
        (0, 0, 0),
        "{stats:?}"
    );
    assert!(stats.evictions > 0 && stats.commits_exists > 0, "{stats:?}");
    check_quiet(&store, dir.path());
    store.close().await;
    let store = open(dir.path()).await;
    assert_eq!(store.stats().blobs, stats.blobs);
}
