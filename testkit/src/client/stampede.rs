//! Many clients that want the same thing at the same moment.

use super::{Connection, Head, split};
use crate::content;
use sha2::{Digest, Sha256};
use std::{io, ops::ControlFlow, sync::Arc, time::Duration};
use tokio::{sync::Barrier, task::JoinSet, time::Instant};

/// One client's experience.
#[derive(Clone, Debug)]
pub struct Download {
    /// The status and headers.
    pub head: Head,
    /// Body bytes that came.
    pub bytes: u64,
    /// Whether the body broke off.
    pub cut: bool,
    /// SHA-256 of what came, in lower-case hex; empty where none was asked for.
    pub sha256: String,
    /// From the request to the first byte of the body.
    pub first_byte: Duration,
    /// From the request to the last byte.
    pub total: Duration,
}

impl Download {
    /// Whether a whole answer with status 200 or 206 came.
    pub fn served(&self) -> bool {
        matches!(self.head.status, 200 | 206) && !self.cut
    }
}

/// GETs without holding the body.
///
/// # Errors
///
/// No connection, or no head of an answer.
pub async fn download(url: &str, headers: &[(&str, &str)], hash: bool) -> io::Result<Download> {
    let (authority, _) = split(url);
    let begun = Instant::now();
    let mut connection = Connection::open(authority).await?;
    connection.send("GET", url, headers, b"").await?;
    let head = connection.receive_head().await?;
    let mut hasher = Sha256::new();
    let (mut bytes, mut first_byte) = (0, None);
    let cut = connection
        .receive_body(&head, false, |piece| {
            first_byte.get_or_insert_with(|| begun.elapsed());
            bytes += piece.len() as u64;
            if hash {
                hasher.update(piece);
            }
            ControlFlow::Continue(())
        })
        .await;
    let total = begun.elapsed();
    Ok(Download {
        head,
        bytes,
        cut,
        sha256: if hash {
            content::hex(&hasher.finalize())
        } else {
            String::new()
        },
        first_byte: first_byte.unwrap_or(total),
        total,
    })
}

/// What many clients experienced.
#[derive(Debug)]
pub struct Stampede {
    /// One for each client, in no order.
    pub downloads: Vec<io::Result<Download>>,
    /// From the start to the last client's end.
    pub wall: Duration,
}

impl Stampede {
    /// Clients that got a whole answer.
    pub fn served(&self) -> usize {
        self.served_downloads().count()
    }

    /// Clients that got a whole answer with this SHA-256.
    pub fn right(&self, sha256: &str) -> usize {
        self.served_downloads()
            .filter(|d| d.sha256 == sha256)
            .count()
    }

    /// Clients that were told that all is well and got something else: must be none.
    pub fn wrong(&self, sha256: &str) -> usize {
        self.served() - self.right(sha256)
    }

    /// A quantile of the time to the first byte among those served, in thousandths.
    pub fn first_byte(&self, permille: usize) -> Duration {
        quantile(
            self.served_downloads().map(|d| d.first_byte).collect(),
            permille,
        )
    }

    /// A quantile of the time to the last byte among those served, in thousandths.
    pub fn total(&self, permille: usize) -> Duration {
        quantile(self.served_downloads().map(|d| d.total).collect(), permille)
    }

    fn served_downloads(&self) -> impl Iterator<Item = &Download> {
        self.downloads
            .iter()
            .flatten()
            .filter(|download| download.served())
    }
}

/// The nearest-rank quantile; zero of nothing.
fn quantile(mut times: Vec<Duration>, permille: usize) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * permille).div_ceil(1000).max(1) - 1;
    times.get(rank).copied().unwrap_or_default()
}

/// Lets so many clients loose on a URL at once.
pub async fn stampede(url: &str, headers: &[(&str, &str)], clients: usize, hash: bool) -> Stampede {
    let barrier = Arc::new(Barrier::new(clients + 1));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (barrier, url) = (barrier.clone(), url.to_owned());
        let headers: Vec<(String, String)> = headers
            .iter()
            .map(|(n, v)| ((*n).into(), (*v).into()))
            .collect();
        tasks.spawn(async move {
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            barrier.wait().await;
            download(&url, &headers, hash).await
        });
    }
    barrier.wait().await;
    let begun = Instant::now();
    let downloads = tasks.join_all().await;
    Stampede {
        downloads,
        wall: begun.elapsed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let ms = |n| Duration::from_millis(n);
        let times: Vec<_> = (1..=100).map(ms).collect();
        assert_eq!(quantile(times.clone(), 500), ms(50));
        assert_eq!(quantile(times.clone(), 990), ms(99));
        assert_eq!(quantile(times, 1000), ms(100));
        assert_eq!(quantile(vec![], 500), ms(0));
    }
}
