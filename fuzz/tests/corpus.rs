//! Runs every corpus, and mutations of it, through its target: on stable, in seconds, so that the
//! targets cannot rot. `GANNET_TEST_MUTATIONS=1000000 cargo test --release -p gannet-fuzz` for more.

use gannet_fuzz::TARGETS;
use std::{collections::BTreeSet, fs, path::PathBuf};

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder("corpus").join(target))
        .unwrap_or_else(|error| panic!("corpus/{target}: {error}"))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// What a fuzzer without eyes does: flips, drops, repeats, joins, and the bytes that parsers fear.
fn mutate(dice: &mut Dice, inputs: &[Vec<u8>]) -> Vec<u8> {
    const FEARED: &[&[u8]] = &[
        b"\0",
        b"\xff",
        b"\r\n",
        b"-",
        b"=",
        b"\"",
        b"18446744073709551615",
        b"<![CDATA[",
        b"\xc3",
        b"/../",
    ];
    let mut bytes = inputs[dice.roll(inputs.len())].clone();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len() + 1);
        match dice.roll(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            1 if at < bytes.len() => bytes[at] = dice.roll(256) as u8,
            2 => bytes.truncate(at),
            3 => {
                let feared = FEARED[dice.roll(FEARED.len())];
                bytes.splice(at..at, feared.iter().copied());
            }
            4 => {
                let other = &inputs[dice.roll(inputs.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[dice.roll(other.len() + 1)..]);
            }
            _ => {
                let end = (at + dice.roll(16)).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

#[test]
fn each_target_has_a_file_and_a_corpus() {
    let names = |folder: PathBuf| -> BTreeSet<String> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    let want: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(folder("fuzz_targets")), want);
    assert_eq!(names(folder("corpus")), want);
}

#[test]
fn corpora_and_their_mutations_pass() {
    let mutations: usize =
        std::env::var("GANNET_TEST_MUTATIONS").map_or(1_000, |text| text.parse().unwrap());
    for (name, fuzz) in TARGETS {
        let inputs = corpus(name);
        for input in &inputs {
            fuzz(input);
        }
        for seed in 0..mutations {
            let input = mutate(&mut Dice(seed as u64), &inputs);
            if std::panic::catch_unwind(|| fuzz(&input)).is_err() {
                panic!(
                    "{name}, mutation {seed}: {:?}",
                    String::from_utf8_lossy(&input)
                );
            }
        }
    }
}
