//! The disk store under tests: conformance, then whatever can go wrong.

mod basics;
mod corrupt;
mod crash;
mod faulty;
mod full;
mod model;

use super::*;
use crate::{
    conformance,
    frame::{FIXED, framed_len, table_len},
    place::{hex, space_name},
};
use std::path::{Path, PathBuf};

/// A configuration that leaves all to the test.
fn config(dir: &Path) -> DiskConfig {
    DiskConfig {
        scrub_rate: 0,
        free_min: Some(0),
        ..DiskConfig::new(dir)
    }
}

/// A directory in memory where there is one, for tests of many small stores.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

async fn open(dir: &Path) -> DiskStore {
    DiskStore::open(config(dir)).await.unwrap()
}

fn place(n: usize) -> Place {
    Place::derive("space", [n.to_le_bytes().as_slice()])
}

/// The bytes of blob `n`.
fn bytes_of(n: usize, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&n.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out.into()
}

/// The file of a blob.
fn file_of(dir: &Path, place: &Place, len: usize) -> PathBuf {
    let hex = hex(place.digest());
    let space = space_name(place.space());
    dir.join("v1")
        .join(space)
        .join(&hex[..2])
        .join(format!("{hex}.{len}"))
}

/// All files below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

async fn whole(blob: &Blob) -> Result<Bytes, StoreError> {
    blob.to_bytes(0..blob.len()).await
}

/// Index and directory agree, nothing is left over, and the budget holds.
fn check_quiet(store: &DiskStore, dir: &Path) {
    let stats = store.stats();
    let held = files(&dir.join("v1"));
    assert_eq!(stats.blobs, held.len() as u64, "{held:?}");
    let unit = 4_096;
    let bytes: u64 = held
        .iter()
        .map(|path| path.metadata().unwrap().len().next_multiple_of(unit))
        .sum();
    assert_eq!(stats.bytes, bytes);
    assert!(stats.bytes <= stats.bytes_max, "{stats:?}");
    let temps = files(&dir.join("tmp"));
    assert!(temps.is_empty(), "{temps:?}");
}
