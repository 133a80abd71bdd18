//! Several `gannet cache` that know each other.

use crate::harness::{Gannet, program};
use gannet_testkit::{
    client::{self, Stampede},
    origin::Origin,
    process::free_port,
};
use std::process::Command;
use tempfile::TempDir;

/// A secret that members share.
pub(crate) const SECRET: &str = "a secret of a test cluster";

/// Some members; killed when dropped.
pub(crate) struct Members {
    pub(crate) members: Vec<Gannet>,
    /// Their internal addresses.
    pub(crate) internal: Vec<String>,
    directory: TempDir,
    args: Vec<String>,
}

impl Members {
    /// Starts so many in front of an origin, each with disk and memory of its own, and waits until
    /// they are ready.
    pub(crate) async fn start(count: usize, origin: &Origin, args: &[&str]) -> Self {
        let internal: Vec<String> = (0..count)
            .map(|_| format!("127.0.0.1:{}", free_port()))
            .collect();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let secret = directory.path().join("secret");
        std::fs::write(&secret, SECRET).expect("a file");
        let mut all = vec![
            format!("--origin={}", origin.url()),
            format!("--cluster-secret={}", secret.display()),
            "--anonymous".to_owned(),
        ];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let mut members = Self {
            members: Vec::new(),
            internal,
            directory,
            args: all,
        };
        for n in 0..count {
            let member = members.spawn(n, &[]);
            members.members.push(member);
        }
        members.until_ready().await;
        members
    }

    /// Starts member `n`, with its own data as they are; `more` goes after what all have.
    pub(crate) fn spawn(&self, n: usize, more: &[&str]) -> Gannet {
        Gannet::spawn(
            self.command(n)
                .arg(format!("--peers={}", self.internal.join(",")))
                .args(more),
        )
    }

    /// The command of member `n`, but for whom it knows.
    pub(crate) fn command(&self, n: usize) -> Command {
        let mut command = program();
        command
            .arg("cache")
            .args(&self.args)
            .arg(format!("--internal-listen={}", self.internal[n]))
            .arg("--data")
            .arg(self.directory.path().join(format!("data-{n}")));
        command
    }

    /// Waits until all say that they are ready.
    pub(crate) async fn until_ready(&mut self) {
        for member in &mut self.members {
            let url = format!("{}/readyz", member.ops);
            member.process.until_http(&url);
        }
    }

    /// Lets so many clients loose on one path, spread over all members.
    pub(crate) async fn stampede(&self, path: &str, clients: usize) -> Vec<Stampede> {
        let share = clients / self.members.len();
        let stampedes = self.members.iter().map(|member| {
            let url = member.url(path);
            tokio::spawn(async move { client::stampede(&url, &[], share, true).await })
        });
        let stampedes: Vec<_> = stampedes.collect();
        let mut done = Vec::new();
        for stampede in stampedes {
            done.push(stampede.await.expect("it does not panic"));
        }
        done
    }

    /// A metric summed over all members.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for member in &self.members {
            sum += member.metric(name).await;
        }
        sum
    }
}

/// Whether all of these clients got exactly this.
pub(crate) fn all_right(stampedes: &[Stampede], sha256: &str) {
    for (n, stampede) in stampedes.iter().enumerate() {
        let failed: Vec<_> = stampede
            .downloads
            .iter()
            .filter(|download| {
                !download
                    .as_ref()
                    .is_ok_and(|d| d.served() && d.sha256 == sha256)
            })
            .map(|download| match download {
                Ok(d) => format!("{} cut={} bytes={}", d.head.status, d.cut, d.bytes),
                Err(error) => error.to_string(),
            })
            .collect();
        assert!(failed.is_empty(), "clients of member {n}: {failed:?}");
    }
}
