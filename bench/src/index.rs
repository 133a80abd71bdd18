//! How soon a store's index is back after a restart.

use crate::report::{Section, median, number, time};
use bytes::Bytes;
use gannet_store::{BlobStore, DiskConfig, DiskStore, Place};
use tokio::runtime::Runtime;

pub(crate) fn run(runtime: &Runtime, quick: bool) -> Section {
    let mut section = Section::new(
        "index",
        "A disk store of so many chunks of 1 KiB is opened again, as after a restart: the page cache is\n\
         warm, as it is then.",
    );
    let counts: &[u64] = if quick { &[2_000] } else { &[10_000, 100_000] };
    let mut rows = vec![
        ["chunks", "index back", "per 100,000"]
            .map(String::from)
            .to_vec(),
    ];
    let mut last = 0.0;
    for &count in counts {
        let took = runtime.block_on(measure(count));
        last = took / count as f64 * 1e5;
        rows.push(vec![count.to_string(), time(took), time(last)]);
    }
    section.table("Opening", &rows);
    section.target("index back, for 100,000 chunks", last, 1.0, "s");
    println!("index: {} s per 100,000", number(last));
    section
}

async fn measure(count: u64) -> f64 {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = || {
        let mut config = DiskConfig::new(dir.path());
        config.scrub_rate = 0;
        config
    };
    let store = DiskStore::open(config())
        .await
        .expect("an empty store opens");
    let chunk = Bytes::from(vec![7; 1 << 10]);
    for index in 0..count {
        let place = Place::derive("bench", [index.to_le_bytes().as_slice()]);
        store
            .put(&place, vec![chunk.clone()])
            .await
            .expect("there is room");
    }
    store.close().await;
    drop(store);
    let mut took = Vec::new();
    for _ in 0..3 {
        let store = DiskStore::open(config()).await.expect("it opens again");
        let (time, found) = store.opened_in();
        assert_eq!(found, count, "the index is whole");
        took.push(time.as_secs_f64());
        store.close().await;
    }
    median(took)
}
