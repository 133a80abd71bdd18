//! `gannet warm URL...`: reads objects through a cache so that the next reader finds them there.

use crate::{
    client::http::{Client, Refusal, next_piece, parse_url, without_query},
    exit::{Error, Exit, Result},
    output,
    signals::Signals,
    units::human,
};
use clap::Args;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Uri, header};
use serde_json::json;
use std::{
    io::BufRead as _,
    time::{Duration, Instant},
};

/// Arguments of `gannet warm`.
#[derive(Debug, Args)]
pub struct WarmArgs {
    /// URLs of objects at the cache; `-` reads them from standard input, one a line.
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<String>,
    /// How many are read at a time.
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// Bearer token to show to the cache.
    #[arg(
        long,
        env = "GANNET_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub token: Option<String>,
    /// Tries for each object.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub tries: u32,
    /// Print one JSON object for each URL, and one for all.
    #[arg(long)]
    pub json: bool,
    /// Say nothing of objects that were warmed.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Pause between tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads every object, and says of each how it went; the worst of them is how the command ends.
pub async fn run(args: &WarmArgs) -> Result {
    // All are looked at before the first is read: a typing mistake should not show after an hour.
    let urls = urls(args)?;
    let client = Client::new(args.token.as_deref())?;
    let mut signals = Signals::new()?;
    let began = Instant::now();
    let mut done = (0u64, 0u64);
    let mut failed = 0u64;
    let mut worst: Option<Exit> = None;
    let work = async {
        let mut reads = stream::iter(&urls)
            .map(|url| {
                let client = &client;
                async move { (url, read(client, url, args.tries).await) }
            })
            .buffer_unordered(usize::from(args.jobs));
        while let Some((url, outcome)) = reads.next().await {
            match &outcome {
                Ok(bytes) => done = (done.0 + 1, done.1 + bytes),
                Err(error) => {
                    failed += 1;
                    worst = worst.max(Some(error.exit()));
                }
            }
            say(args, url, outcome)?;
        }
        Ok::<(), Error>(())
    };
    tokio::select! {
        ended = work => ended?,
        () = signals.next() => {
            return Err(Error::new(Exit::Interrupted, format!("interrupted after {} objects", done.0)));
        }
    }
    let (objects, bytes) = done;
    let seconds = began.elapsed().as_secs_f64();
    if args.json {
        output::line(
            &json!({
                "v": 1, "event": "end", "objects": objects, "failed": failed, "bytes": bytes,
                "seconds": seconds,
            })
            .to_string(),
        )?;
    } else if !args.quiet {
        output::note(&format!(
            "{objects} objects, {} in {seconds:.1} s",
            human(bytes)
        ));
    }
    match worst {
        None => Ok(()),
        Some(exit) => Err(Error::new(
            exit,
            format!("{failed} of {} not warmed", urls.len()),
        )),
    }
}

fn urls(args: &WarmArgs) -> Result<Vec<Uri>> {
    let mut urls = Vec::new();
    for text in &args.urls {
        if text != "-" {
            urls.push(parse_url(text)?);
            continue;
        }
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| Error::from(error).context("cannot read the list"))?;
            if !line.trim().is_empty() {
                urls.push(parse_url(line.trim())?);
            }
        }
    }
    Ok(urls)
}

/// Reads one object to its end, and gives its length.
async fn read(client: &Client, url: &Uri, tries: u32) -> Result<u64> {
    let mut tried = 0;
    loop {
        tried += 1;
        let (error, pause) = match read_once(client, url).await {
            Ok(bytes) => return Ok(bytes),
            Err(Refusal::Final(error)) => return Err(error),
            Err(Refusal::Changed) => (
                Error::new(Exit::Failure, "the server insists on a precondition"),
                PAUSE,
            ),
            Err(Refusal::Passing { error, retry_after }) => (error, retry_after.unwrap_or(PAUSE)),
        };
        if tried >= tries.max(1) {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
}

async fn read_once(client: &Client, url: &Uri) -> std::result::Result<u64, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    let mut response = client.get(url, headers).await?;
    let mut bytes = 0;
    let passing = |error| Refusal::Passing {
        error,
        retry_after: None,
    };
    while let Some(piece) = next_piece(response.body_mut()).await.map_err(passing)? {
        bytes += piece.len() as u64;
    }
    Ok(bytes)
}

fn say(args: &WarmArgs, url: &Uri, outcome: Result<u64>) -> Result {
    match (outcome, args.json) {
        (Ok(bytes), true) => output::line(
            &json!({ "v": 1, "event": "warmed", "url": without_query(url), "bytes": bytes })
                .to_string(),
        ),
        (Err(error), true) => output::line(
            &json!({
                "v": 1, "event": "failed", "url": without_query(url), "error": error.to_string(),
                "exit": error.exit() as u8,
            })
            .to_string(),
        ),
        (Ok(_), false) if args.quiet => Ok(()),
        (Ok(bytes), false) => output::line(&format!("{} {}", without_query(url), human(bytes))),
        (Err(error), false) => {
            output::note(&format!("{}: {error}", without_query(url)));
            Ok(())
        }
    }
}
