//! What was told, look by look.
#![allow(dead_code, reason = "each test file uses what it needs")]

use gannet_cluster::Member;
use gannet_members::{Discovery, Watching, watch};
use std::time::Duration;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::timeout,
};

/// Generous: tests run side by side on few cores.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Looks {
    seen: UnboundedReceiver<Option<Vec<Member>>>,
    pub(crate) watching: Watching,
}

pub(crate) fn members(text: &str) -> Vec<Member> {
    Discovery::parse_peers(text).unwrap()
}

impl Looks {
    pub(crate) async fn watch(discovery: Discovery) -> Self {
        let (told, seen) = mpsc::unbounded_channel();
        let tell = move |found| {
            // The test may be over.
            let _ = told.send(found);
        };
        let watching = watch(discovery, tell).await.unwrap();
        Self { seen, watching }
    }

    pub(crate) async fn next(&mut self) -> Option<Vec<Member>> {
        let next = timeout(PATIENCE, self.seen.recv()).await;
        next.expect("a look within a minute").expect("it looks on")
    }

    /// Until a look finds exactly these.
    pub(crate) async fn until_some(&mut self, wanted: &[Member]) {
        let mut last = None;
        let all = async {
            loop {
                last = Some(self.next().await);
                if last.as_ref().unwrap().as_deref() == Some(wanted) {
                    return;
                }
            }
        };
        let found = timeout(PATIENCE, all).await;
        assert!(found.is_ok(), "not {wanted:?}, but {last:?}");
    }

    /// Until so many looks in a row have failed.
    pub(crate) async fn until_failed(&mut self, count: usize) {
        let mut failed = 0;
        let all = async {
            while failed < count {
                failed = if self.next().await.is_none() {
                    failed + 1
                } else {
                    0
                };
            }
        };
        assert!(
            timeout(PATIENCE, all).await.is_ok(),
            "looks go on to succeed"
        );
    }

    /// That the next looks find exactly these, unless they fail; and that so many do find them.
    pub(crate) async fn until_failed_or_some(&mut self, wanted: &[Member], mut count: usize) {
        let all = async {
            while count > 0 {
                if let Some(found) = self.next().await {
                    assert_eq!(found, wanted);
                    count -= 1;
                }
            }
        };
        assert!(timeout(PATIENCE, all).await.is_ok(), "looks go on to fail");
    }
}
