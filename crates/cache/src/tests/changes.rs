//! Objects that are overwritten while they are read: never two versions in one answer.

use super::*;
use crate::edge::backend::Backend as _;
use futures_util::{StreamExt as _, stream};
use std::{collections::HashMap, time::Duration};

#[tokio::test(start_paused = true)]
async fn a_change_before_the_first_byte_goes_unseen() {
    let origin = Fake::new("o");
    origin.put(&name("k"), 2 * MIB as usize, 1);
    let path = path(&origin, &config());
    path.head(&name("k"), &context(1)).await.unwrap();
    let new = origin.put(&name("k"), MIB as usize, 2);
    assert_eq!(read(&path, "k", None).await.unwrap(), new);
    let state = origin.state();
    assert_eq!(
        (state.heads, state.reads.len()),
        (2, 2),
        "the other lane does not ask again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deletion_before_the_first_byte_is_a_404() {
    let origin = Fake::new("o");
    origin.put(&name("k"), 2 * MIB as usize, 1);
    let path = path(&origin, &config());
    path.head(&name("k"), &context(1)).await.unwrap();
    origin.state().objects.clear();
    assert!(matches!(
        read(&path, "k", None).await,
        Err(ObjectError::NoSuchKey)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_change_after_the_first_byte_cuts_the_answer() {
    let origin = Fake::new("o");
    let old = origin.put(&name("k"), 2 * MIB as usize, 1);
    let path = path(&origin, &config());
    let meta = path.head(&name("k"), &context(1)).await.unwrap();
    let mut stream = path
        .read(&name("k"), &meta, 0..2 * MIB, &context(1))
        .await
        .unwrap();
    let mut got = stream.next().await.unwrap().unwrap().to_vec();
    let new = origin.put(&name("k"), 2 * MIB as usize, 2);
    let error = loop {
        match stream
            .next()
            .await
            .expect("it must not end as if all were there")
        {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ObjectError::EtagChanged), "{error:?}");
    assert_eq!(got, old[..got.len()]);
    assert_eq!(
        read(&path, "k", None).await.unwrap(),
        new,
        "the next reader gets the new one"
    );
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_overlapping_reads_never_mix_versions() {
    let origin = Fake::new("o");
    let len = 2 * MIB + 500_000;
    origin.put(&name("k"), len as usize, 1);
    let path = path(
        &origin,
        &ReadConfig {
            read_ahead: 1,
            meta_ttl: Duration::from_secs(2),
            ..config()
        },
    );
    let writer = tokio::spawn({
        let origin = Arc::clone(&origin);
        async move {
            for seed in 2.. {
                tokio::time::sleep(Duration::from_millis(150)).await;
                origin.put(&name("k"), len as usize, seed);
            }
        }
    });
    let mut numbers = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = move |below: u64| {
        numbers ^= numbers << 13;
        numbers ^= numbers >> 7;
        numbers ^= numbers << 17;
        numbers % below
    };
    let reads: Vec<_> = (0..10_000_u32)
        .map(|n| {
            let start = draw(len - 1);
            let span = 1 + draw(if n % 250 == 0 { len } else { 2000 });
            (n, start..(start + span).min(len), draw(400))
        })
        .collect();
    let outcomes = stream::iter(reads)
        .map(|(n, range, pause)| {
            let path = path.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let start = range.start as usize;
                read_as(&path, "k", Some(range), n)
                    .await
                    .map(|got| (start, got))
            }
        })
        .buffer_unordered(64);
    let (mut whole, mut cut) = (0, 0);
    let mut versions = HashMap::new();
    let mut outcomes = std::pin::pin!(outcomes);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok((start, got)) => {
                let version = u64::from(got[0] ^ fake::byte(start));
                let all = versions.entry(version);
                let all = all.or_insert_with(|| fake::content(len as usize, version));
                assert!(
                    got == all[start..start + got.len()],
                    "two versions in one answer"
                );
                whole += 1;
            }
            Err(ObjectError::EtagChanged) => cut += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    writer.abort();
    assert_eq!(whole + cut, 10_000);
    assert!(whole > 9_000, "most readers are served: {whole}");
    assert!(
        versions.len() > 5,
        "several versions were seen: {}",
        versions.len()
    );
}
