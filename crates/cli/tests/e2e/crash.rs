//! `kill -9` at random moments under load: whatever is served afterwards is right, and what the dead
//! left behind does not pile up.
//!
//! 20 times here; 200 times by
//! `GANNET_TEST_KILLS=200 cargo test -p gannet-cli --test e2e kill_9 -- --nocapture`.

use crate::harness::{Gannet, PATIENCE};
use gannet_testkit::{
    client::download,
    origin::{Object, Origin},
};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

const OBJECTS: u64 = 12;
const CLIENTS: u64 = 6;
const DISK_MAX: u64 = 16 << 20;

/// splitmix64, for choices that a seed repeats.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }
}

fn key(n: u64) -> String {
    format!("object-{n}")
}

/// Blocks taken on disk, and files.
fn usage(path: &Path) -> io::Result<(u64, u64)> {
    let mut sum = (0, 0);
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let meta = match entry.metadata() {
            Ok(meta) => meta,
            // Evicted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if meta.is_dir() {
            let (bytes, files) = usage(&entry.path())?;
            sum = (sum.0 + bytes, sum.1 + files);
        } else {
            sum = (sum.0 + meta.blocks() * 512, sum.1 + 1);
        }
    }
    Ok(sum)
}

/// Reads random objects until the server is gone; every whole answer must be right.
async fn read_on(
    edge: String,
    sums: Arc<HashMap<u64, String>>,
    seed: u64,
    served: Arc<AtomicU64>,
) -> Result<(), String> {
    let mut dice = Dice(seed);
    loop {
        let n = dice.roll(OBJECTS);
        match download(&format!("{edge}/b/{}", key(n)), &[], true).await {
            Ok(got) if got.served() => {
                if got.sha256 != sums[&n] {
                    return Err(format!("object {n}: wrong bytes, presented as success"));
                }
                served.fetch_add(1, Relaxed);
            }
            Ok(got) if got.cut => {}
            Ok(got) => return Err(format!("object {n}: status {}", got.head.status)),
            // Killed: nobody listens.
            Err(_) => return Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_random_moments() {
    let kills = std::env::var("GANNET_TEST_KILLS").map_or(20, |text| text.parse().unwrap());
    let origin = Origin::start();
    let mut sums = HashMap::new();
    for n in 0..OBJECTS {
        // From less than a chunk to several, so that more than fits has to be evicted.
        let object = origin.put("b", &key(n), Object::generated(n, 400_000 + n * 350_000));
        sums.insert(n, object.sha256());
    }
    let sums = Arc::new(sums);
    let data = tempfile::tempdir().unwrap();
    let url = origin.url();
    let args = [
        "--origin",
        &url,
        "--chunk-size=1MiB",
        "--disk-max=16MiB",
        "--memory-max=2MiB",
    ];
    let mut dice = Dice(4711);
    let mut served_in_all = 0;
    for round in 0..kills {
        let mut gannet = Gannet::start(data.path(), &args);
        let served = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let seed = round * CLIENTS + client;
                let (sums, served) = (Arc::clone(&sums), Arc::clone(&served));
                tokio::spawn(read_on(gannet.edge.clone(), sums, seed, served))
            })
            .collect();
        // A random moment, measured in what was done rather than in time: after so many answers, and
        // then somewhere within the work on the next ones.
        let answers = dice.roll(25);
        while served.load(Relaxed) < answers && !clients.iter().any(|client| client.is_finished()) {
            tokio::task::yield_now().await;
        }
        for _ in 0..dice.roll(2_000) {
            tokio::task::yield_now().await;
        }
        gannet.process.kill();
        for client in clients {
            let outcome = tokio::time::timeout(PATIENCE, client)
                .await
                .unwrap()
                .unwrap();
            outcome
                .unwrap_or_else(|what| panic!("round {round}: {what}\n{}", gannet.process.log()));
        }
        served_in_all += served.load(Relaxed);
    }
    assert!(
        served_in_all >= kills,
        "too little load to learn from: {served_in_all}"
    );

    // One more start, undisturbed: everything is right, some of it from the disk.
    let mut gannet = Gannet::start(data.path(), &args);
    for n in 0..OBJECTS {
        let got = download(&gannet.url(&format!("b/{}", key(n))), &[], true)
            .await
            .unwrap();
        assert!(
            got.served() && got.sha256 == sums[&n],
            "object {n}: {got:?}"
        );
    }
    let hits = gannet.metric("gannet_store_hits_total").await;
    assert!(hits > 0.0, "nothing survived {kills} kills");
    assert_eq!(gannet.process.terminate(PATIENCE).code(), Some(0));
    let (bytes, files) = usage(data.path()).unwrap();
    println!("{kills} kills, {served_in_all} answers; {files} files, {bytes} bytes are left");
    // Each chunk is rounded up to blocks; what is beyond that was left behind by the dead.
    assert!(
        bytes <= DISK_MAX + DISK_MAX / 8,
        "{bytes} bytes for a budget of {DISK_MAX}"
    );
    assert!(files < 100, "{files} files for at most 40 chunks");
}
