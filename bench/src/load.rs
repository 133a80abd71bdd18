//! Clients: stampedes that compare every byte with what it must be, and steady streams of hits.

use crate::report::median;
use bytes::Bytes;
use gannet_testkit::client::{Connection, split};
use std::{
    io,
    ops::{ControlFlow, Range},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
    task::JoinSet,
    time::timeout,
};

/// Nobody is waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the clients of a stampede experienced, in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Clients that got all of it, byte for byte.
    pub(crate) right: usize,
    /// Clients that got something else and were told that it was all of it.
    pub(crate) wrong: usize,
    pub(crate) first_byte_median: f64,
    pub(crate) first_byte_p99: f64,
    pub(crate) total_median: f64,
    /// Until the last of those served.
    pub(crate) total: f64,
}

/// What one client experienced, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Experience {
    Right {
        first_byte: f64,
        total: f64,
        /// The longest time without a byte, that before the first included.
        stall: f64,
    },
    Wrong,
    Cut,
}

/// Lets `clients` loose on a URL at once; `range` of it, if given. `expected` is the whole object.
pub(crate) async fn stampede(
    url: &str,
    range: Option<Range<u64>>,
    clients: usize,
    expected: &Bytes,
) -> Outcome {
    stampede_over(&[url.to_owned()], range, clients, expected).await
}

/// The same, over several URLs of one object: clients take turns.
pub(crate) async fn stampede_over(
    urls: &[String],
    range: Option<Range<u64>>,
    clients: usize,
    expected: &Bytes,
) -> Outcome {
    let barrier = Arc::new(Barrier::new(clients));
    let part = range.clone().map_or_else(
        || expected.clone(),
        |range| expected.slice(range.start as usize..range.end as usize),
    );
    let mut tasks = JoinSet::new();
    for url in urls.iter().cycle().take(clients) {
        let (barrier, url, range, part) =
            (barrier.clone(), url.to_owned(), range.clone(), part.clone());
        tasks.spawn(async move {
            barrier.wait().await;
            read(&url, range, &part, || ()).await
        });
    }
    let (mut firsts, mut totals, mut wrong) = (Vec::new(), Vec::new(), 0);
    for experience in tasks.join_all().await {
        match experience {
            Experience::Right {
                first_byte, total, ..
            } => {
                firsts.push(first_byte);
                totals.push(total);
            }
            Experience::Wrong => wrong += 1,
            Experience::Cut => (),
        }
    }
    Outcome {
        right: firsts.len(),
        wrong,
        first_byte_p99: p99(&firsts),
        first_byte_median: median(firsts),
        total: totals.iter().copied().fold(0.0, f64::max),
        total_median: median(totals),
    }
}

/// The 99th percentile, nearest rank; zero of nothing.
pub(crate) fn p99(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * 99).div_ceil(100).max(1) - 1;
    values.get(rank).copied().unwrap_or(0.0)
}

/// One client, on a connection of its own; `expected` is what it asks for. `on_first` is called when
/// the first byte is there.
pub(crate) async fn read(
    url: &str,
    range: Option<Range<u64>>,
    expected: &[u8],
    on_first: impl FnOnce(),
) -> Experience {
    let read = timeout(PATIENCE, client(url, range, expected, on_first)).await;
    read.ok().and_then(Result::ok).unwrap_or(Experience::Cut)
}

async fn client(
    url: &str,
    range: Option<Range<u64>>,
    expected: &[u8],
    on_first: impl FnOnce(),
) -> io::Result<Experience> {
    let begun = Instant::now();
    let mut connection = Connection::open(split(url).0).await?;
    let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
    let headers: Vec<(&str, &str)> = range
        .iter()
        .map(|range| ("range", range.as_str()))
        .collect();
    connection.send("GET", url, &headers, b"").await?;
    let head = connection.receive_head().await?;
    let (mut at, mut same) = (0, true);
    let (mut first_byte, mut last, mut stall) = (0.0, 0.0, 0.0_f64);
    let mut on_first = Some(on_first);
    let cut = connection
        .receive_body(&head, false, |piece| {
            let now = begun.elapsed().as_secs_f64();
            stall = stall.max(now - last);
            last = now;
            if let Some(on_first) = on_first.take() {
                first_byte = now;
                on_first();
            }
            same &= expected.get(at..at + piece.len()) == Some(piece);
            at += piece.len();
            ControlFlow::Continue(())
        })
        .await;
    let total = begun.elapsed().as_secs_f64();
    Ok(match head.status {
        200 | 206 if same && at == expected.len() && !cut => Experience::Right {
            first_byte,
            total,
            stall,
        },
        // Bytes that do not belong there are wrong even if the end is missing.
        200 | 206 if !same || !cut => Experience::Wrong,
        _ => Experience::Cut,
    })
}

/// What a stream of hits moved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// Answers of another status or length, and connections that broke.
    pub(crate) failures: u64,
    pub(crate) seconds: f64,
}

/// Keeps `connections` busy for so long with the URLs (of one server, `len` bytes each) in turn.
/// Bodies are read and dropped: what is measured is the server.
pub(crate) async fn hits(
    urls: &[String],
    len: u64,
    connections: usize,
    lasting: Duration,
) -> Moved {
    let stop = Arc::new(AtomicBool::new(false));
    let totals: Arc<[AtomicU64; 3]> = Arc::default();
    let requests: Arc<[(String, String)]> = urls
        .iter()
        .map(|url| {
            let (authority, target) = split(url);
            (
                authority.to_owned(),
                format!("GET {target} HTTP/1.1\r\nhost: {authority}\r\n\r\n"),
            )
        })
        .collect();
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for offset in 0..connections {
        let (stop, totals, requests) = (stop.clone(), totals.clone(), requests.clone());
        tasks.spawn(async move {
            // A failed connection is opened anew, as a client would, but not in a hot loop.
            while !stop.load(Ordering::Relaxed) {
                if connection(&requests, offset, len, &stop, &totals)
                    .await
                    .is_err()
                {
                    totals[2].fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }
    tokio::time::sleep(lasting).await;
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    let [requests, bytes, failures] = [0, 1, 2].map(|n: usize| totals[n].load(Ordering::Relaxed));
    Moved {
        requests,
        bytes,
        failures,
        seconds: begun.elapsed().as_secs_f64(),
    }
}

async fn connection(
    requests: &[(String, String)],
    offset: usize,
    len: u64,
    stop: &AtomicBool,
    totals: &[AtomicU64; 3],
) -> io::Result<()> {
    let mut stream = TcpStream::connect(&requests[0].0).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 1 << 20];
    for turn in offset.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        stream
            .write_all(requests[turn % requests.len()].1.as_bytes())
            .await?;
        let mut filled = 0;
        let head = loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let from = filled.saturating_sub(3);
            filled += read;
            let end = buffer[from..filled]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break from + end + 4;
            }
        };
        if !buffer.starts_with(b"HTTP/1.1 200") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut got = (filled - head) as u64;
        while got < len {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            got += read as u64;
        }
        if got > len {
            return Err(io::ErrorKind::InvalidData.into());
        }
        totals[0].fetch_add(1, Ordering::Relaxed);
        totals[1].fetch_add(len, Ordering::Relaxed);
    }
    Ok(())
}
