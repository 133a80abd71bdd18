//! `kill -9` of a real process at a random moment under load, and a look at what it left.
//!
//! The test starts itself again as the child that puts, opens and removes until it is killed, and
//! says on its standard output what has been acknowledged. `GANNET_KILLS=200 cargo test -p
//! gannet-store --test kill` does it 200 times instead of 20.

use bytes::Bytes;
use gannet_store::{BlobStore, DiskConfig, DiskStore, Place, Put};
use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

const DIR: &str = "GANNET_KILL_DIR";
/// Blobs of which each run uses some.
const BLOBS: usize = 40;

fn place(n: usize) -> Place {
    Place::derive("kill", [n.to_le_bytes().as_slice()])
}

fn bytes_of(n: usize) -> Bytes {
    let mut out = vec![0; n * 9_973 % 300_000 + 1];
    blake3::Hasher::new()
        .update(&n.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out.into()
}

fn config(dir: &Path) -> DiskConfig {
    let mut config = DiskConfig::new(dir);
    config.free_min = Some(0);
    // Some of the blobs: there is eviction all the time.
    config.bytes_max = 4 << 20;
    config
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// The child: never returns.
async fn load(dir: &Path, seed: u64) {
    let store = Arc::new(DiskStore::open(config(dir)).await.unwrap());
    // Made beforehand, so that what the child does most is to write.
    let blobs: Arc<Vec<Bytes>> = Arc::new((0..BLOBS).map(bytes_of).collect());
    let tasks = (0..4)
        .map(|task| {
            let (store, blobs) = (store.clone(), blobs.clone());
            tokio::spawn(async move {
                let mut random = Random(seed * 4 + task);
                loop {
                    let n = random.below(BLOBS);
                    match random.below(8) {
                        0..3 => _ = store.remove(&place(n)).await.unwrap(),
                        3 => {
                            if let Some(blob) = store.open(&place(n)).await.unwrap() {
                                assert!(blob.to_bytes(0..blob.len()).await.unwrap() == blobs[n]);
                            }
                        }
                        _ => {
                            if store.put(&place(n), vec![blobs[n].clone()]).await.unwrap()
                                == Put::Stored
                            {
                                let mut out = std::io::stdout().lock();
                                writeln!(out, "put {n}").unwrap();
                                out.flush().unwrap();
                            }
                        }
                    }
                }
            })
        })
        .collect::<Vec<_>>();
    futures_util::future::join_all(tasks).await;
}

/// Starts the child, lets it acknowledge some commits, and kills it. Gives what it acknowledged.
fn killed(dir: &Path, random: &mut Random) -> BTreeSet<usize> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "killed_at_any_moment_it_serves_only_right_bytes",
            "--nocapture",
        ])
        .env(DIR, dir)
        .env("GANNET_KILL_SEED", random.below(1 << 20).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let commits = 1 + random.below(60);
    let mut put = BTreeSet::new();
    let mut acknowledged = 0;
    while acknowledged < commits {
        let line = lines
            .next()
            .expect("the child works until it is killed")
            .unwrap();
        if let Some(n) = line.split("put ").nth(1) {
            put.insert(n.parse().unwrap());
            acknowledged += 1;
        }
    }
    // A moment that has nothing to do with a commit.
    (0..random.below(200_000)).for_each(|n| _ = std::hint::black_box(n));
    child.kill().unwrap();
    child.wait().unwrap();
    let rest = lines.map_while(Result::ok);
    put.extend(rest.filter_map(|line| line.split("put ").nth(1)?.parse::<usize>().ok()));
    put
}

#[test]
fn killed_at_any_moment_it_serves_only_right_bytes() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    if let Some(dir) = std::env::var_os(DIR) {
        let seed = std::env::var("GANNET_KILL_SEED").unwrap().parse().unwrap();
        return runtime.block_on(load(Path::new(&dir), seed));
    }
    let kills = std::env::var("GANNET_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let mut random = Random(u64::from(std::process::id()));
    let mut ever = BTreeSet::new();
    let (mut served, mut orphans) = (0, 0);
    for kill in 0..kills {
        ever.append(&mut killed(dir.path(), &mut random));
        orphans += files(&dir.path().join("tmp")).len();
        runtime.block_on(async {
            let store = DiskStore::open(config(dir.path()))
                .await
                .expect("the lock went with it");
            assert_eq!(
                files(&dir.path().join("tmp")).len(),
                0,
                "kill {kill}: orphans stay"
            );
            assert_eq!(
                store.stats().blobs,
                files(&dir.path().join("v1")).len() as u64
            );
            for n in 0..BLOBS {
                if let Some(blob) = store.open(&place(n)).await.unwrap() {
                    assert!(
                        blob.to_bytes(0..blob.len()).await.unwrap() == bytes_of(n),
                        "kill {kill}"
                    );
                    served += 1;
                }
            }
            let stats = store.stats();
            assert_eq!(
                (stats.corrupt, stats.lost),
                (0, 0),
                "kill {kill}: {stats:?}"
            );
            assert!(stats.bytes <= stats.bytes_max);
            store.close().await;
        });
    }
    println!("{kills} kills: {served} blobs were served right, {orphans} orphans were removed");
    assert!(served > 0 && !ever.is_empty());
}

/// What was acknowledged before the kill, and neither removed nor evicted, is there.
#[test]
fn what_was_acknowledged_is_there() {
    if std::env::var_os(DIR).is_some() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "puts_some_and_waits", "--nocapture"])
        .env("GANNET_PUT_DIR", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("all acknowledged")));
    child.kill().unwrap();
    child.wait().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = DiskStore::open(DiskConfig::new(dir.path())).await.unwrap();
        assert_eq!(store.stats().blobs, BLOBS as u64);
        for n in 0..BLOBS {
            let blob = store
                .open(&place(n))
                .await
                .unwrap()
                .expect("it was acknowledged");
            assert!(blob.to_bytes(0..blob.len()).await.unwrap() == bytes_of(n));
        }
    });
}

/// The child of [`what_was_acknowledged_is_there`]; on its own, a small test of the same store.
#[test]
fn puts_some_and_waits() {
    let own = tempfile::tempdir().unwrap();
    let child = std::env::var_os("GANNET_PUT_DIR");
    let dir = child
        .as_ref()
        .map_or_else(|| own.path().to_owned(), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = DiskStore::open(DiskConfig::new(dir)).await.unwrap();
        for n in 0..BLOBS {
            assert_eq!(
                store.put(&place(n), vec![bytes_of(n)]).await.unwrap(),
                Put::Stored
            );
        }
        if child.is_some() {
            println!("all acknowledged");
            std::io::stdout().flush().unwrap();
            // Until it is killed.
            let _ = std::io::stdin().read_line(&mut String::new());
        }
    });
}
