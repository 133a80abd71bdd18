//! The `gannet` program: a thin shell over the front ends.
//!
//! What is here: the command line, settings and where they come from, logs, signals, exit codes,
//! the client commands `get` and `warm`, and `matrix`. What a cache does is in `gannet-cache`, what is
//! fetched of the Matrix federation in `gannet-matrix`.
//!
//! This library exists so that tests and fuzz targets reach the parsers; it promises no stable API.

pub mod client;
pub mod commands;
pub mod exit;
pub mod files;
pub mod logging;
pub mod notify;
pub mod output;
pub mod settings;
pub mod signals;
pub mod units;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use exit::{Error, Exit, Result};
use settings::{Flags, KEYS, Layers, Settings};
use std::{ffi::OsString, process::ExitCode};

const EXAMPLES: &str = "\
Examples:
  gannet                                          serve the directories here as buckets
  gannet cache --origin s3://                     in front of S3, credentials from the environment
  gannet cache --origin https://host/models --data /var/cache/gannet --disk-max 200GiB
  gannet cache --config gannet.toml               settings from a file; flags go before it
  gannet get http://127.0.0.1:9000/bucket/key -o file
  gannet warm http://127.0.0.1:9000/bucket/key http://127.0.0.1:9000/bucket/other
  gannet config --config gannet.toml              the effective settings, and who set each

Every setting is a flag, a variable (GANNET_CHUNK_SIZE for --chunk-size) and a key of the file;
the flag wins, then the variable, then the file.

Exit codes: 0 success, 1 not found or not valid, 2 usage, 3 failure, 130 interrupted.";

const CACHE_EXAMPLES: &str = "\
Examples:
  gannet cache --origin file:///usr/share
      then: curl http://127.0.0.1:9000/doc/...
  gannet cache --origin s3:// --origin-endpoint http://minio:9000 --data /var/cache/gannet
      all buckets that the credentials in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY can read
  gannet cache --origin https://dl.example.org/ --origin-mirror https://mirror.example.org/
      two servers with the same files: the second steps in when the first stalls or fails
  gannet cache --listen 0.0.0.0:9000 --auth /etc/gannet/auth.toml --tls-cert c.pem --tls-key k.pem
      for others, with keys of their own
  gannet cache --origin s3:// --internal-listen 10.0.0.1:9001 --cluster-secret /etc/gannet/secret \
      --peers 10.0.0.1:9001,10.0.0.2:9001,10.0.0.3:9001
      one of three that read each byte from the origin once; then: gannet cache status";

/// Fetches each object once from its origin and hands it to everyone who asked.
#[derive(Debug, Parser)]
#[command(
    name = "gannet",
    version,
    about,
    long_about = "An S3-compatible read-through cache: it fetches each object once from its origin, \
                  and hands it to everyone who asked, from the first byte on.\n\nWithout a command, \
                  gannet is `gannet cache`.",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve objects from a cache in front of an origin.
    #[command(after_help = CACHE_EXAMPLES, args_conflicts_with_subcommands = true)]
    Cache {
        #[command(subcommand)]
        command: Option<CacheCommand>,
        #[command(flatten)]
        flags: Flags,
    },
    /// Download one object; broken off, it goes on where it stopped.
    #[command(after_help = "\
Prints what `sha256sum -c` reads. The bytes so far are in FILE.part, and the version they are of in
FILE.part.json; FILE itself appears when it is whole.

Example:
  gannet get http://127.0.0.1:9000/models/llama.gguf -o llama.gguf")]
    Get(commands::get::GetArgs),
    /// Read objects through a cache so that the next reader finds them there.
    #[command(after_help = "\
Examples:
  gannet warm http://127.0.0.1:9000/models/llama.gguf
  sed s,^,http://127.0.0.1:9000/models/, keys.txt | gannet warm --jobs 8 -")]
    Warm(commands::warm::WarmArgs),
    /// Fetch events of the Matrix federation from whoever has them, and prove them.
    #[command(after_help = commands::matrix::EXAMPLES)]
    Matrix(Box<commands::matrix::MatrixArgs>),
    /// Print the effective settings of `gannet cache` and who set each.
    Config {
        #[command(flatten)]
        flags: Flags,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Show a cluster as one of its members sees it: who is there, what is under way, who coordinates
    /// an object.
    #[command(after_help = "\
Examples:
  gannet cache status
  gannet cache status --ops http://10.0.0.7:9002 --object models/llama.gguf")]
    Status(commands::status::StatusArgs),
}

/// Runs the program with the arguments and the environment of the process.
pub fn main() -> ExitCode {
    match run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_told() {
                output::note(&format!("gannet: {error}"));
            }
            ExitCode::from(error.exit() as u8)
        }
    }
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result {
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(error) => return show_clap(&error),
    };
    match cli.command {
        None => commands::cache::run(&settings(cli.flags)?),
        Some(Command::Cache {
            command: Some(CacheCommand::Status(args)),
            ..
        }) => client(commands::status::run(&args)),
        Some(Command::Cache { flags, .. }) => commands::cache::run(&settings(flags)?),
        Some(Command::Config { flags, json }) => commands::config::run(&settings(flags)?, json),
        Some(Command::Get(args)) => client(commands::get::run(&args)),
        Some(Command::Warm(args)) => client(commands::warm::run(&args)),
        Some(Command::Matrix(args)) if args.serves() => server(commands::matrix::run(&args)),
        Some(Command::Matrix(args)) => client(commands::matrix::run(&args)),
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> std::result::Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches_from(args)?;
    Cli::from_arg_matches(&matches)
}

/// Help and version are successes; all else is a usage error, in clap's words.
fn show_clap(error: &clap::Error) -> Result {
    let shown = error.print();
    match (error.exit_code(), shown) {
        (0, Ok(())) => Ok(()),
        (0, Err(error)) if exit::broken_pipe(&error) => Ok(()),
        (0, Err(error)) => Err(error.into()),
        _ => Err(Error::told(Exit::Usage)),
    }
}

fn settings(flags: Flags) -> Result<Settings> {
    // Variables that are not UTF-8 cannot be ours; those that are ours and are not fail to be read.
    let variables = std::env::vars_os().map(|(name, text)| {
        (
            name.to_string_lossy().into_owned(),
            text.to_string_lossy().into_owned(),
        )
    });
    let layers = Layers::gather(KEYS, flags.texts, flags.config.as_deref(), variables)?;
    Settings::resolve(&layers)
}

/// Runs a client command: one task, one thread.
fn client(command: impl Future<Output = Result>) -> Result {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::from(error).context("cannot start"))?
        .block_on(command)
}

/// Runs a command that serves: on all processors.
fn server(command: impl Future<Output = Result>) -> Result {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::from(error).context("cannot start"))?
        .block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn global_flags_are_no_settings() {
        Cli::command().debug_assert();
        let settings: BTreeSet<&str> = KEYS.iter().map(|key| key.name).chain(["config"]).collect();
        for command in Cli::command().get_subcommands() {
            for flag in command.get_arguments().filter(|flag| flag.is_global_set()) {
                // Values of global flags are seen by all commands above, which would take them for theirs.
                let id = flag.get_id().as_str();
                assert!(!settings.contains(id), "{}: {id}", command.get_name());
            }
        }
    }
}
