//! How long the index of a disk store takes to come back, against a bare walk over its directory.
//!
//! ```text
//! cargo run --release -p gannet-store --example index -- [BLOBS] [DIR]
//! ```
//!
//! Fills a store with small blobs (the time depends on their number, not on their size), then opens
//! it five times and walks it five times in turn, and prints the median of each. Exit code 1 if the
//! index takes more than one second per 100,000 blobs. For cold numbers, as root: run it with a DIR
//! that it filled before, after `echo 3 > /proc/sys/vm/drop_caches`; its first round is then cold.

use gannet_store::{BlobStore as _, DiskConfig, DiskStore, Place};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

const ROUNDS: usize = 5;

/// Entries below `dir`: names and kinds only, as little as any index could do.
fn walk(dir: &Path) -> std::io::Result<u64> {
    let mut files = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() {
            walk(&entry.path())?
        } else {
            1
        };
    }
    Ok(files)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

async fn run(blobs: u64, dir: &Path) -> Result<bool, Box<dyn std::error::Error>> {
    let config = || {
        let mut config = DiskConfig::new(dir);
        (config.bytes_max, config.free_min, config.scrub_rate) = (u64::MAX >> 1, Some(0), 0);
        config
    };
    let began = Instant::now();
    let mut store = DiskStore::open(config()).await?;
    let (first, held) = store.opened_in();
    println!("first start: {:.3} s for {held} blobs", first.as_secs_f64());
    if held < blobs {
        for n in held..blobs {
            let place = Place::derive("index", [n.to_le_bytes().as_slice()]);
            store
                .put(&place, vec![bytes::Bytes::from_static(b"small")])
                .await?;
        }
        println!(
            "filled with {blobs} blobs in {:.1} s",
            began.elapsed().as_secs_f64()
        );
    }
    let (mut opens, mut walks, mut found) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        store.close().await;
        let began = Instant::now();
        store = DiskStore::open(config()).await?;
        opens.push(began.elapsed());
        found = store.stats().blobs;
        let began = Instant::now();
        let files = walk(&dir.join("v1"))?;
        walks.push(began.elapsed());
        if files != found {
            return Err(format!("the index has {found} blobs, the directory {files}").into());
        }
    }
    let (open, walk) = (median(opens), median(walks));
    let per = open * 100_000.0 / found.max(1) as f64;
    println!("index of {found} blobs: {open:.3} s ({per:.3} s per 100,000)");
    println!(
        "bare directory walk:     {walk:.3} s; ratio {:.2}",
        open / walk
    );
    Ok(per <= 1.0)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let blobs = args.next().map_or(Ok(100_000), |blobs| blobs.parse());
    let Ok(blobs) = blobs else {
        eprintln!("usage: index [BLOBS] [DIR]");
        return ExitCode::from(2);
    };
    let temp = match tempfile::tempdir() {
        Ok(temp) => temp,
        Err(error) => {
            eprintln!("no temporary directory: {error}");
            return ExitCode::from(3);
        }
    };
    let dir = args
        .next()
        .map_or_else(|| temp.path().to_owned(), PathBuf::from);
    match run(blobs, &dir).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}
