//! Tiers: what is stored, what is found, what is wrong with it.

use super::*;
use crate::{edge::backend::Backend as _, types::Segment};
use gannet_store::{DiskConfig, DiskStore, MemoryConfig, MemoryStore};
use std::{fs, os::unix::fs::FileExt as _, path::Path};

async fn disk(dir: &Path) -> Arc<dyn BlobStore> {
    let mut config = DiskConfig::new(dir);
    config.scrub_rate = 0;
    Arc::new(DiskStore::open(config).await.unwrap())
}

/// The files of the store, in no particular order.
fn blobs(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let blob = path.metadata().unwrap().len() >= 1000;
            if path.is_dir() {
                dirs.push(path)
            } else if blob {
                found.push(path)
            }
        }
    }
    found
}

#[tokio::test]
async fn a_restart_serves_from_disk_and_flipped_bytes_are_fetched_anew() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), (3 * MIB + 77_777) as usize, 1);
    {
        let path = path_of(&[&origin], &config(), Some(disk(dir.path()).await), None);
        assert_eq!(read(&path, "k", None).await.unwrap(), object);
        settle(&path).await;
        path.shutdown(std::time::Duration::from_secs(5)).await;
    }
    assert_eq!(origin.state().reads.len(), 4);
    {
        let path = path_of(&[&origin], &config(), Some(disk(dir.path()).await), None);
        assert_eq!(read(&path, "k", None).await.unwrap(), object);
        assert_eq!(origin.state().reads.len(), 4, "all from disk");
        let meta = path.head(&name("k"), &context(1)).await.unwrap();
        let segments = path
            .held(&name("k"), &meta, 10..meta.size)
            .expect("verified by the read");
        let mut got = Vec::new();
        for segment in segments {
            match segment {
                Segment::Bytes(bytes) => got.extend_from_slice(&bytes),
                Segment::File { file, range, .. } => {
                    let mut part = vec![0; (range.end - range.start) as usize];
                    file.read_exact_at(&mut part, range.start).unwrap();
                    got.extend_from_slice(&part);
                }
            }
        }
        assert_eq!(got, object[10..]);
        path.shutdown(std::time::Duration::from_secs(5)).await;
    }
    let blobs = blobs(dir.path());
    assert_eq!(blobs.len(), 4, "{blobs:?}");
    for (n, blob) in blobs.iter().enumerate() {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(blob)
            .unwrap();
        let at = 50_000 + 1000 * n as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    }
    let path = path_of(&[&origin], &config(), Some(disk(dir.path()).await), None);
    assert_eq!(
        read(&path, "k", None).await.unwrap(),
        object,
        "unseen by the client"
    );
    settle(&path).await;
    assert_eq!(origin.state().reads.len(), 8, "each fetched anew");
    let corrupt: u64 = path
        .0
        .ways
        .tiers
        .by_tier()
        .map(|(_, store)| store.stats().corrupt)
        .sum();
    assert_eq!(corrupt, 4, "counted");
    path.shutdown(std::time::Duration::from_secs(5)).await;
    let gauges = path.0.home.gauges();
    assert_eq!((gauges.fetches, gauges.waiters, gauges.attempts), (0, 0, 0));
    assert_eq!(gauges.body_bytes, 0, "gauges return to zero");
}

/// Bytes of a part of a file.
fn part_of(file: &fs::File, range: Range<u64>) -> Vec<u8> {
    let mut part = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut part, range.start).unwrap();
    part
}

#[tokio::test]
async fn a_joiner_goes_on_from_the_file_once_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), (3 * MIB) as usize, 1);
    let path = path_of(&[&origin], &config(), Some(disk(dir.path()).await), None);
    let meta = path.head(&name("k"), &context(1)).await.unwrap();
    let range = 1000..meta.size - 500;
    let (k, context) = (name("k"), context(1));
    let mut segments = path
        .read_segments(&k, &meta, range.clone(), &context)
        .await
        .unwrap();
    let (mut got, mut files, mut pieces) = (Vec::new(), 0, 0);
    while let Some(segment) = segments.next().await {
        match segment.unwrap() {
            Segment::Bytes(bytes) => {
                pieces += 1;
                got.extend_from_slice(&bytes);
                // From here on the chunk is committed.
                settle(&path).await;
            }
            Segment::File { file, range, copy } => {
                files += 1;
                assert!(range.end <= MIB && copy.is_some(), "{range:?}");
                // What is being sent stays there, whatever the store does meanwhile.
                let version = path.0.version(&k, &meta);
                for index in 0..3 {
                    let version = Arc::clone(&version);
                    let place = crate::key::ChunkKey { version, index }.place();
                    path.0.ways.tiers.remove(&place).await.unwrap();
                }
                got.extend_from_slice(&part_of(&file, range));
            }
        }
    }
    assert!(got == object[range.start as usize..range.end as usize]);
    assert_eq!(
        (pieces, files),
        (3, 3),
        "the first bytes of each, and the rest"
    );
    assert_eq!(origin.state().reads.len(), 3);
    // One who cannot send files gets bytes.
    let streamed = read(&path, "k", Some(range.clone())).await.unwrap();
    assert_eq!(streamed, object[range.start as usize..range.end as usize]);
}

#[tokio::test]
async fn memory_takes_large_chunks_only_where_the_disk_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Fake::new("o");
    let large = origin.put(&name("large"), MIB as usize, 1);
    let small = origin.put(&name("small"), 5000, 2);
    for works in [true, false] {
        let dir = dir.path().join(works.to_string());
        let disk = disk(&dir).await;
        let path = path_of(&[&origin], &config(), Some(Arc::clone(&disk)), None);
        if !works {
            disk.close().await;
        }
        let reads = origin.state().reads.len();
        for _ in 0..2 {
            assert_eq!(read(&path, "large", None).await.unwrap(), large);
            assert_eq!(read(&path, "small", None).await.unwrap(), small);
            settle(&path).await;
        }
        assert_eq!(origin.state().reads.len(), reads + 2, "disk: {works}");
        let memory = path.0.ways.tiers.all().next().unwrap().stats();
        assert_eq!(memory.blobs, if works { 1 } else { 2 }, "disk: {works}");
        assert_eq!(disk.stats().blobs, if works { 2 } else { 0 });
    }
}

#[tokio::test]
async fn a_shared_store_spares_the_origin() {
    let shared: Arc<dyn BlobStore> = Arc::new(MemoryStore::new(MemoryConfig {
        bytes_max: 64 * MIB,
    }));
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), (2 * MIB + 5) as usize, 1);
    let one = path_of(&[&origin], &config(), None, Some(Arc::clone(&shared)));
    assert_eq!(read(&one, "k", None).await.unwrap(), object);
    settle(&one).await;
    assert_eq!(origin.state().reads.len(), 3);
    let two = path_of(&[&origin], &config(), None, Some(Arc::clone(&shared)));
    let readers = futures_util::future::join_all((0..20).map(|_| read(&two, "k", None)));
    assert!(readers.await.into_iter().all(|got| got.unwrap() == object));
    settle(&two).await;
    assert_eq!(
        origin.state().reads.len(),
        3,
        "the origin is not asked again"
    );
    assert_eq!(
        shared.stats().commits_stored,
        3,
        "and what came from the store is not stored there"
    );
    let meta = two.head(&name("k"), &context(1)).await.unwrap();
    assert!(
        two.held(&name("k"), &meta, 0..meta.size).is_some(),
        "promoted"
    );
}

#[tokio::test]
async fn a_store_that_fails_is_read_around() {
    let shared: Arc<dyn BlobStore> = Arc::new(MemoryStore::new(MemoryConfig {
        bytes_max: 64 * MIB,
    }));
    shared.close().await;
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), (2 * MIB + 5) as usize, 1);
    let path = path_of(&[&origin], &config(), None, Some(shared));
    assert_eq!(read(&path, "k", None).await.unwrap(), object);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_of_the_wrong_length_is_not_served() {
    let shared: Arc<dyn BlobStore> = Arc::new(MemoryStore::new(MemoryConfig {
        bytes_max: 64 * MIB,
    }));
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), 1000, 1);
    let path = path_of(&[&origin], &config(), None, Some(Arc::clone(&shared)));
    let meta = path.head(&name("k"), &context(1)).await.unwrap();
    let version = path.0.version(&name("k"), &meta);
    let place = crate::key::ChunkKey { version, index: 0 }.place();
    shared
        .put(&place, vec![Bytes::from_static(b"something else")])
        .await
        .unwrap();
    assert_eq!(read(&path, "k", None).await.unwrap(), object);
}

#[tokio::test(start_paused = true)]
async fn with_no_room_at_all_everybody_is_served_all_the_same() {
    let origin = Fake::new("o");
    let object = origin.put(&name("k"), 3 * MIB as usize, 1);
    let path = path(
        &origin,
        &ReadConfig {
            memory_bytes_max: 0,
            read_ahead: 4,
            ..config()
        },
    );
    for _ in 0..3 {
        assert_eq!(read(&path, "k", None).await.unwrap(), object);
    }
    assert_eq!(
        origin.state().reads.len(),
        9,
        "no read-ahead that would be thrown away"
    );
}
