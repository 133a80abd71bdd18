//! `gannet cache`: from settings to a running cache, and to its end.
//!
//! The first SIGTERM or SIGINT ends it in order and is success; the second ends it at once.

mod cluster;
mod plan;
mod sample;

use crate::{
    exit::{Error, Exit, Result},
    files, logging,
    notify::notify,
    output,
    settings::Settings,
    signals::Signals,
};
use gannet_cache::{Cache, CacheConfig, CacheError, RunningCache};
use std::path::PathBuf;

/// Serves until a signal comes.
pub fn run(settings: &Settings) -> Result {
    settings.check()?;
    logging::start(&settings.log_level.value, settings.json_logs.value)?;
    files::raise_limit();
    let config = plan::config(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::from(error).context("cannot start"))?;
    let ended = runtime.block_on(serve(config));
    // What is still running (a read of a file on a dead NFS server, say) is not waited for.
    runtime.shutdown_background();
    ended
}

async fn serve(config: CacheConfig) -> Result {
    // Before the start: a stop that comes meanwhile is obeyed too.
    let mut signals = Signals::new()?;
    let greeting = Greeting::new(&config);
    let cache = tokio::select! {
        started = Cache::start(config) => started.map_err(|error| not_started(&error))?,
        () = signals.next() => return Ok(()),
    };
    greeting.print(&cache)?;
    notify("READY=1");
    signals.next().await;
    notify("STOPPING=1");
    tokio::select! {
        drained = cache.shutdown() => {
            if drained.cut > 0 {
                tracing::warn!(cut = drained.cut, "connections were cut: --drain was too short for them");
            }
            Ok(())
        }
        () = signals.next() => Err(Error::new(Exit::Interrupted, "stopped at once by a second signal")),
    }
}

/// Settings that cannot be are the user's to mend; all else may work another time.
fn not_started(error: &CacheError) -> Error {
    match error {
        CacheError::Origin(_)
        | CacheError::Config(_)
        | CacheError::Link(_)
        | CacheError::Traces(_) => Error::usage(error),
        CacheError::Listen {
            what,
            address,
            error: cause,
        } if cause.kind() == std::io::ErrorKind::AddrInUse => {
            let flag = match *what {
                "ops" => "--ops-listen",
                "internal" => "--internal-listen",
                _ => "--listen",
            };
            let free = std::net::SocketAddr::new(address.ip(), 0);
            Error::failure(error).remedy(format!(
                "another {flag} ({free} for any port), or stop what listens there"
            ))
        }
        _ => Error::failure(error),
    }
}

/// What is told once everything listens.
struct Greeting {
    origin: String,
    scheme: &'static str,
    open: bool,
    directory: Option<PathBuf>,
    exclude: Vec<PathBuf>,
}

impl Greeting {
    fn new(config: &CacheConfig) -> Self {
        Self {
            origin: config.origin.url.clone(),
            scheme: if config.edge.tls.is_some() {
                "https"
            } else {
                "http"
            },
            open: matches!(config.edge.access, gannet_cache::edge::Access::Anonymous),
            directory: plan::directory(&config.origin.url),
            exclude: config.origin.exclude.clone(),
        }
    }

    fn print(&self, cache: &RunningCache) -> Result {
        let edge = format!("{}://{}", self.scheme, cache.edge_address());
        let mut lines = vec![
            format!(
                "gannet {} in front of {}",
                env!("CARGO_PKG_VERSION"),
                self.origin
            ),
            format!("  S3   {edge}"),
        ];
        if let Some(ops) = cache.ops_address() {
            lines.push(format!(
                "  ops  http://{ops}  (/metrics /readyz /debug/fetches)"
            ));
        }
        if let Some(internal) = cache.internal_address() {
            lines.push(format!("  cluster  {internal}  (gannet cache status)"));
        }
        lines.push(match self.hint(&edge) {
            Some(hint) => format!("  try  {hint}"),
            None => "  note: no sub-directory to serve as a bucket holds a file".to_owned(),
        });
        match output::line(&lines.join("\n")) {
            // A cache whose greeting nobody reads goes on serving.
            Err(error) if error.exit() == Exit::Success => Ok(()),
            printed => printed,
        }
    }

    /// A command to try; for a directory, with a file that is there.
    fn hint(&self, edge: &str) -> Option<String> {
        if !self.open {
            return Some(format!("aws --endpoint-url {edge} s3 ls"));
        }
        match &self.directory {
            Some(directory) => {
                let path = sample::sample(directory, &self.exclude)?;
                Some(format!("curl -O {edge}/{path}"))
            }
            None => Some(format!("curl -O {edge}/BUCKET/KEY")),
        }
    }
}
