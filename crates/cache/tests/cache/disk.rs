//! A cache with a disk: restarts, damage, no room.

use super::*;
use gannet_testkit::{client::stampede, origin::Object};
use std::{fs, ops::ControlFlow, os::unix::fs::FileExt as _, path::PathBuf};

fn chunks(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let large = path.metadata().unwrap().len() > 4096;
            if path.is_dir() {
                dirs.push(path)
            } else if large {
                found.push(path)
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_survives_a_restart_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start();
    let object = origin.put(BUCKET, "k", Object::generated(1, 4 * MIB + 5000));
    let cache = start(with_disk(&origin, dir.path())).await;
    assert_eq!(
        stampede(&url(&cache, "k"), &[], 5, true)
            .await
            .right(&object.sha256()),
        5
    );
    cache.shutdown().await;
    assert_eq!(origin.counts_of(BUCKET, "k").gets, 5);

    let cache = start(with_disk(&origin, dir.path())).await;
    assert_eq!(
        stampede(&url(&cache, "k"), &[], 5, true)
            .await
            .right(&object.sha256()),
        5
    );
    assert_eq!(origin.counts_of(BUCKET, "k").gets, 5, "all from disk");
    assert!(metric(&cache, "gannet_store_hits_total{tier=\"disk\"}").await > 0);
    cache.shutdown().await;

    let damaged = chunks(dir.path());
    assert_eq!(damaged.len(), 5);
    for (n, chunk) in damaged.iter().enumerate() {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(chunk)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 900 * n as u64).unwrap();
        file.write_all_at(&[!byte[0]], 900 * n as u64).unwrap();
    }
    let cache = start(with_disk(&origin, dir.path())).await;
    assert_eq!(
        stampede(&url(&cache, "k"), &[], 5, true)
            .await
            .right(&object.sha256()),
        5,
        "unseen"
    );
    assert_eq!(origin.counts_of(BUCKET, "k").gets, 10, "refetched");
    assert_eq!(
        metric(&cache, "gannet_store_corrupt_total{tier=\"disk\"}").await,
        5,
        "counted"
    );
    cache.shutdown().await;
}

/// Files that somebody changes under a running cache: found before a byte of them is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_changed_is_dropped_unseen() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start();
    let object = origin.put(BUCKET, "k", Object::generated(1, 3 * MIB));
    let cache = start(with_disk(&origin, dir.path())).await;
    let hash = object.sha256();
    let ask = || async { stampede(&url(&cache, "k"), &[], 1, true).await };
    assert_eq!(ask().await.right(&hash), 1);
    settle(&cache).await;
    assert_eq!(ask().await.right(&hash), 1);
    assert_eq!(origin.counts_of(BUCKET, "k").gets, 3);
    for (n, chunk) in chunks(dir.path()).iter().enumerate() {
        let file = fs::OpenOptions::new().write(true).open(chunk).unwrap();
        match n {
            0 => file.set_len(500_000).unwrap(),
            1 => file.write_all_at(b"no", 500_000).unwrap(),
            _ => fs::remove_file(chunk).unwrap(),
        }
    }
    assert_eq!(ask().await.right(&hash), 1, "unseen");
    settle(&cache).await;
    assert_eq!(origin.counts_of(BUCKET, "k").gets, 6, "fetched anew");
    becomes(&cache, "gannet_store_corrupt_total{tier=\"disk\"}", 2).await;
    cache.shutdown().await;
}

/// A file that shrinks while it is being sent cuts that response, and nobody's after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_shrinks_while_it_is_sent_cuts_the_response() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start();
    // More than sockets hold.
    let object = origin.put(BUCKET, "k", Object::generated(1, 64 * MIB));
    let cache = start(with_disk(&origin, dir.path())).await;
    let hash = object.sha256();
    let ask = || async { stampede(&url(&cache, "k"), &[], 1, true).await };
    assert_eq!(ask().await.right(&hash), 1);
    settle(&cache).await;
    let url = url(&cache, "k");
    let (authority, _) = client::split(&url);
    let mut reader = client::Connection::open(authority).await.unwrap();
    reader.send("GET", &url, &[], b"").await.unwrap();
    let head = reader.receive_head().await.unwrap();
    assert_eq!(head.status, 200);
    for chunk in chunks(dir.path()) {
        let file = fs::OpenOptions::new().write(true).open(chunk).unwrap();
        file.set_len(500_000).unwrap();
    }
    let cut = reader
        .receive_body(&head, false, |_| ControlFlow::Continue(()))
        .await;
    assert!(cut, "never ended as if it were whole");
    becomes(&cache, "gannet_edge_aborted_total", 1).await;
    assert_eq!(ask().await.right(&hash), 1);
    cache.shutdown().await;
}

/// A file system of this size, for as long as it lives.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// None where mounting is not allowed.
    fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, "gannet-test"])
            .arg(dir.path());
        mount.stderr(std::process::Stdio::null());
        mount
            .status()
            .is_ok_and(|status| status.success())
            .then(|| Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_nobody() {
    let Some(disk) = Tmpfs::mount(6 * MIB) else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let origin = Origin::start();
    let objects: Vec<_> = (0..6)
        .map(|n| origin.put(BUCKET, &format!("k{n}"), Object::generated(n, 3 * MIB)))
        .collect();
    let mut config = with_disk(&origin, disk.0.path());
    config.read.memory_bytes_max = 2 * MIB;
    let cache = start(config).await;
    // Somebody else fills what is left.
    fs::write(disk.0.path().join("other"), vec![0; 3 << 20]).unwrap();
    for _ in 0..2 {
        for (n, object) in objects.iter().enumerate() {
            let clients = stampede(&url(&cache, &format!("k{n}")), &[], 3, true).await;
            assert_eq!(clients.right(&object.sha256()), 3, "object {n}");
        }
    }
    cache.shutdown().await;
}
