//! Files that somebody, or the medium, has changed.

use super::*;
use std::{os::unix::fs::FileExt as _, time::Duration};

const LEN: usize = 200_000;

/// Puts blob 0, lets `change` do what it likes to its file, and expects that it is never served, but
/// dropped, counted, and can be put again. `restart`: with a new start in between.
async fn check(what: &str, change: impl Fn(&Path)) {
    let dir = scratch();
    let path = file_of(dir.path(), &place(0), LEN);
    let store = open(dir.path()).await;
    store.put(&place(0), vec![bytes_of(0, LEN)]).await.unwrap();
    store.close().await;
    change(&path);
    let store = open(dir.path()).await;
    assert!(store.held(&place(0)).is_none(), "{what}: held");
    assert!(
        store.open(&place(0)).await.unwrap().is_none(),
        "{what}: served"
    );
    let stats = store.stats();
    assert!(
        (stats.corrupt, stats.lost) == (1, 0) || stats.blobs == 0,
        "{what}: {stats:?}"
    );
    assert!(path.symlink_metadata().is_err(), "{what}: not removed");
    assert_eq!(
        store.put(&place(0), vec![bytes_of(0, LEN)]).await.unwrap(),
        Put::Stored
    );
    let blob = store.open(&place(0)).await.unwrap().unwrap();
    assert_eq!(whole(&blob).await.unwrap(), bytes_of(0, LEN));
    check_quiet(&store, dir.path());
}

fn make_pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x01], at).unwrap();
}

#[tokio::test]
async fn a_flip_anywhere() {
    let len = LEN as u64;
    let tail = len..framed_len(len);
    let blocks = (0..len).step_by(16_411).chain([65_535, 65_536, len - 1]);
    for at in blocks.chain(tail) {
        check(&format!("byte {at}"), |path| flip(path, at)).await;
    }
}

#[tokio::test]
async fn other_lengths() {
    let all = framed_len(LEN as u64);
    for len in [
        0,
        1,
        FIXED as u64,
        65_536,
        LEN as u64,
        all - 1,
        all + 1,
        all + 4_096,
    ] {
        check(&format!("length {len}"), |path| {
            std::fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(len)
                .unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn other_things_in_its_place() {
    check("a directory", |path| {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir_all(path.join("with/more")).unwrap();
    })
    .await;
    check("a link to a right copy", |path| {
        let copy = path.ancestors().nth(4).unwrap().join("copy");
        std::fs::rename(path, &copy).unwrap();
        std::os::unix::fs::symlink(copy, path).unwrap();
    })
    .await;
    check("a link to itself", |path| {
        std::fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink(path, path).unwrap();
    })
    .await;
    check("a pipe", |path| {
        std::fs::remove_file(path).unwrap();
        make_pipe(path);
    })
    .await;
}

/// As [`check`], but what replaces the file does so while the store runs and has not opened it.
#[tokio::test]
async fn replaced_while_the_store_runs() {
    for kind in ["directory", "link", "pipe", "nothing"] {
        let dir = scratch();
        let path = file_of(dir.path(), &place(0), LEN);
        let store = open(dir.path()).await;
        store.put(&place(0), vec![bytes_of(0, LEN)]).await.unwrap();
        store.close().await;
        let store = open(dir.path()).await;
        std::fs::remove_file(&path).unwrap();
        match kind {
            "directory" => std::fs::create_dir_all(path.join("with/more")).unwrap(),
            "link" => std::os::unix::fs::symlink("/etc/passwd", &path).unwrap(),
            "pipe" => make_pipe(&path),
            _ => {}
        }
        assert!(store.open(&place(0)).await.unwrap().is_none(), "{kind}");
        let stats = store.stats();
        let lost = u64::from(kind == "nothing");
        assert_eq!(
            (stats.corrupt, stats.lost, stats.blobs),
            (1 - lost, lost, 0),
            "{kind}"
        );
        check_quiet(&store, dir.path());
    }
}

#[tokio::test]
async fn swapped_with_another() {
    let dir = scratch();
    let store = open(dir.path()).await;
    let other = Place::new("other", *place(0).digest());
    let places = [place(0), place(1), other];
    for (n, place) in places.iter().enumerate() {
        store.put(place, vec![bytes_of(n, LEN)]).await.unwrap();
    }
    store.close().await;
    let paths = places
        .each_ref()
        .map(|place| file_of(dir.path(), place, LEN));
    let temp = dir.path().join("swap");
    for (from, to) in [
        (&paths[0], &temp),
        (&paths[1], &paths[0]),
        (&paths[2], &paths[1]),
        (&temp, &paths[2]),
    ] {
        std::fs::rename(from, to).unwrap();
    }
    let store = open(dir.path()).await;
    for place in &places {
        assert!(store.open(place).await.unwrap().is_none());
    }
    assert_eq!(store.stats().corrupt, 3);
    check_quiet(&store, dir.path());
}

/// A file that is cut while somebody reads it is an error, not the end of the process, and the next
/// request refills.
#[tokio::test]
async fn truncated_under_a_reader() {
    let dir = scratch();
    let store = open(dir.path()).await;
    store.put(&place(0), vec![bytes_of(0, LEN)]).await.unwrap();
    let blob = store.held(&place(0)).unwrap();
    let path = file_of(dir.path(), &place(0), LEN);
    std::fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(70_000)
        .unwrap();
    assert_eq!(
        blob.to_bytes(0..60_000).await.unwrap(),
        bytes_of(0, LEN)[..60_000]
    );
    let error = blob.to_bytes(60_000..LEN as u64).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Corrupt { .. }) && error.is_absent(),
        "{error}"
    );
    assert!(store.open(&place(0)).await.unwrap().is_none());
    assert_eq!(
        store.put(&place(0), vec![bytes_of(0, LEN)]).await.unwrap(),
        Put::Stored
    );
    // What was condemned is another file than the one that is held now.
    blob.condemn("late news");
    assert!(store.held(&place(0)).is_some());
    assert_eq!(store.stats().corrupt, 1);
    // A reader by `sendfile` finds it short, and says so.
    let blob = store.held(&place(0)).unwrap();
    blob.condemn("short");
    assert!(store.open(&place(0)).await.unwrap().is_none());
    assert_eq!(store.stats().corrupt, 2);
    check_quiet(&store, dir.path());
}

/// Found without a restart, though the verification still holds and the file is open: the next look
/// sees that somebody touched it.
#[tokio::test]
async fn changed_while_it_is_held() {
    let dir = scratch();
    let store = open(dir.path()).await;
    let path = file_of(dir.path(), &place(0), LEN);
    let changes: [fn(&Path); 4] = [
        |path| flip(path, 100),
        |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(1_000).unwrap();
        },
        |path| std::fs::remove_file(path).unwrap(),
        |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, vec![0; framed_len(LEN as u64) as usize]).unwrap();
        },
    ];
    for change in changes {
        store.put(&place(0), vec![bytes_of(0, LEN)]).await.unwrap();
        assert!(store.held(&place(0)).is_some(), "what was written is right");
        after_a_tick(&path);
        change(&path);
        assert!(store.held(&place(0)).is_none());
        assert!(store.open(&place(0)).await.unwrap().is_none());
    }
    let stats = store.stats();
    assert_eq!((stats.corrupt, stats.lost), (3, 1));
    check_quiet(&store, dir.path());
}

/// Touched, and right all the same: verified again, and held.
#[tokio::test]
async fn touched_while_it_is_held() {
    let dir = scratch();
    let store = open(dir.path()).await;
    let path = file_of(dir.path(), &place(0), LEN);
    store.put(&place(0), vec![bytes_of(0, LEN)]).await.unwrap();
    after_a_tick(&path);
    flip(&path, 100);
    flip(&path, 100);
    assert!(store.held(&place(0)).is_none());
    let blob = store.open(&place(0)).await.unwrap().unwrap();
    assert_eq!(whole(&blob).await.unwrap(), bytes_of(0, LEN));
    assert!(store.held(&place(0)).is_some());
    assert_eq!(store.stats().corrupt, 0);
}

/// Waits until a change to a file would be given another time than this one's.
fn after_a_tick(path: &Path) {
    let other = path.with_extension("tick");
    let ctime = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        let found = path.metadata().unwrap();
        (found.ctime(), found.ctime_nsec())
    };
    let before = ctime(path);
    std::fs::write(&other, b"").unwrap();
    while ctime(&other) <= before {
        std::fs::write(&other, b"").unwrap();
    }
    std::fs::remove_file(&other).unwrap();
}

#[tokio::test(start_paused = true)]
async fn verified_again_after_a_while() {
    let dir = scratch();
    let config = DiskConfig {
        verify_every: Duration::from_secs(60),
        ..config(dir.path())
    };
    let store = DiskStore::open(config).await.unwrap();
    store.put(&place(0), vec![bytes_of(0, LEN)]).await.unwrap();
    tokio::time::advance(Duration::from_secs(50)).await;
    assert!(store.held(&place(0)).is_some());
    tokio::time::advance(Duration::from_secs(20)).await;
    assert!(
        store.held(&place(0)).is_none(),
        "its verification is too old"
    );
    assert!(store.open(&place(0)).await.unwrap().is_some());
    assert!(store.held(&place(0)).is_some(), "verified anew");
    flip(&file_of(dir.path(), &place(0), LEN), 100);
    tokio::time::advance(Duration::from_secs(70)).await;
    assert!(store.open(&place(0)).await.unwrap().is_none());
    assert_eq!(store.stats().corrupt, 1);
}

#[tokio::test(start_paused = true)]
async fn the_scrubber_finds_it_first_and_keeps_to_its_rate() {
    let dir = scratch();
    let store = open(dir.path()).await;
    for n in 0..20 {
        store.put(&place(n), vec![bytes_of(n, LEN)]).await.unwrap();
    }
    store.close().await;
    flip(&file_of(dir.path(), &place(7), LEN), 150_000);
    // Twenty blobs take twenty seconds.
    let config = DiskConfig {
        scrub_rate: LEN as u64,
        ..config(dir.path())
    };
    let store = DiskStore::open(config).await.unwrap();
    let start = tokio::time::Instant::now();
    while store.stats().scrubbed < 19 || store.stats().corrupt < 1 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{:?}",
            store.stats()
        );
    }
    assert!(
        start.elapsed() >= Duration::from_secs(18),
        "{:?}",
        start.elapsed()
    );
    assert!(store.open(&place(7)).await.unwrap().is_none());
    // Half a day later nothing is due, a day later all is.
    tokio::time::sleep(Duration::from_secs(11 * 3_600)).await;
    assert_eq!(store.stats().scrubbed, 19);
    tokio::time::sleep(Duration::from_secs(2 * 3_600)).await;
    assert_eq!(store.stats().scrubbed, 38);
    assert_eq!(store.stats().corrupt, 1);
}

/// Another version's file is not served, nor is one whose numbers lie.
#[tokio::test]
async fn another_version() {
    for (field, value) in [
        (8, 2_u32),
        (12, 4_096),
        (92, 1),
        (16, LEN as u32 - 1),
        (16, 0),
        (20, 1 << 31),
    ] {
        check(&format!("{value} at {field}"), |path| {
            let mut file = std::fs::read(path).unwrap();
            let fixed = file.len() - FIXED;
            file[fixed + field..fixed + field + 4].copy_from_slice(&value.to_le_bytes());
            let sum = crc32c::crc32c(&file[fixed..fixed + 124]);
            file[fixed + 124..].copy_from_slice(&sum.to_le_bytes());
            std::fs::write(path, file).unwrap();
        })
        .await;
    }
    assert_eq!(table_len(LEN as u64), 16);
}
