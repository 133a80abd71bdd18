//! `gannet get URL -o FILE`: a download that can be broken off and taken up again.
//!
//! Each answer is held against the version that the first one named: a range is asked for with
//! `If-Match`, and an answer of another version, another range or another length is never appended.
//! If the object changes meanwhile, the download starts anew. `FILE` appears when it is whole.

use crate::{
    client::{
        content_range,
        http::{Client, Refusal, next_piece, parse_url, without_query},
        part::{Part, Record, Sums},
        progress::Progress,
    },
    exit::{Error, Exit, Result},
    output,
    signals::Signals,
    units::human,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use clap::Args;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Arguments of `gannet get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// http:// or https:// URL of the object; may be presigned.
    pub url: String,
    /// The file to write. Until it is whole, the bytes are in FILE.part.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Fail unless the SHA-256 is this one (64 hexadecimal digits).
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    pub sha256: Option<[u8; 32]>,
    /// Bearer token to show to the server.
    #[arg(
        long,
        env = "GANNET_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub token: Option<String>,
    /// Tries in a row that bring nothing before giving up.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub tries: u32,
    /// Print one JSON object instead of the checksum line.
    #[arg(long)]
    pub json: bool,
    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// How often an object may change under a download before we stop chasing it.
const CHANGES_MAX: u32 = 5;

/// The pause after the first try that brought nothing; doubled with each further one.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Downloads one object.
pub async fn run(args: &GetArgs) -> Result {
    let url = parse_url(&args.url)?;
    if args.output.as_os_str() == "-" {
        // A file is what a download goes on from; one called `-` is not what was meant.
        return Err(
            Error::usage("-o names a file, and - is not for standard output here")
                .remedy(format!("curl {}", args.url)),
        );
    }
    if args.output.is_dir() {
        return Err(
            Error::usage(format!("{} is a directory", args.output.display()))
                .remedy(format!("-o {}", args.output.join("FILE").display())),
        );
    }
    let client = Client::new(args.token.as_deref())?;
    let mut signals = Signals::new()?;
    let mut part = Part::open(&args.output, &without_query(&url))?;
    let resumed_from = part.len();
    let began = Instant::now();
    let mut progress = Progress::new(args.quiet || args.json);
    if resumed_from > 0 {
        progress.say(&format!("going on after {}", human(resumed_from)));
    }
    tokio::select! {
        fetched = fetch(&client, &url, &mut part, args.tries, &mut progress) => fetched?,
        () = signals.next() => {
            let kept = match part.record().and_then(|record| record.etag.as_ref()) {
                Some(_) => format!("{} are kept; the same command goes on from there", human(part.len())),
                None => "the server names no version, so that it begins anew next time".to_owned(),
            };
            drop(progress);
            return Err(Error::new(Exit::Interrupted, format!("interrupted: {kept}")));
        }
    }
    drop(progress);
    let sums = part.sums();
    let record = part.record().cloned();
    let record = record.ok_or_else(|| Error::new(Exit::Failure, "nothing was fetched"))?;
    let checked = verify(&sums, &record, args.sha256.as_ref());
    let checked = match checked {
        Ok(checked) => checked,
        Err(error) => {
            // Wrong bytes are no good start for the next try.
            part.discard()?;
            return Err(error);
        }
    };
    part.publish()?;
    report(
        args,
        &record,
        &sums,
        &checked,
        resumed_from,
        began.elapsed(),
    )
}

/// Fills the part, trying again as long as tries bring something.
async fn fetch(
    client: &Client,
    url: &Uri,
    part: &mut Part,
    tries_max: u32,
    progress: &mut Progress,
) -> Result {
    let mut fruitless = 0;
    let mut changes = 0;
    loop {
        let before = part.len();
        let refusal = match attempt(client, url, part, progress).await {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        match refusal {
            Refusal::Final(error) => return Err(error),
            Refusal::Changed => {
                changes += 1;
                if changes > CHANGES_MAX {
                    let text = format!("the object changed {changes} times during the download");
                    return Err(Error::new(Exit::Failure, text).remedy("later, or another object"));
                }
                progress.say("the object changed at the server: starting anew");
                part.discard()?;
            }
            Refusal::Passing { error, retry_after } => {
                fruitless = if part.len() > before {
                    0
                } else {
                    fruitless + 1
                };
                if fruitless >= tries_max.max(1) {
                    return Err(error.context(format!("gave up after {fruitless} tries")));
                }
                let pause = PAUSE.saturating_mul(1 << fruitless.min(10)).min(PAUSE_MAX);
                progress.say(&format!("{error}; going on after {}", human(part.len())));
                tokio::time::sleep(retry_after.unwrap_or(pause)).await;
            }
        }
    }
}

/// One request, for what is missing. Success means that the part is whole.
async fn attempt(
    client: &Client,
    url: &Uri,
    part: &mut Part,
    progress: &mut Progress,
) -> std::result::Result<(), Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    headers.insert("x-amz-checksum-mode", HeaderValue::from_static("ENABLED"));
    if let Some(record) = part.record() {
        if record.size == Some(part.len()) {
            return Ok(());
        }
        match &record.etag {
            Some(etag) if !part.is_empty() => {
                let etag = HeaderValue::try_from(etag).map_err(|_| Refusal::Changed)?;
                headers.insert(header::IF_MATCH, etag);
                let range = HeaderValue::try_from(format!("bytes={}-", part.len()))
                    .expect("digits are fit for a header");
                headers.insert(header::RANGE, range);
            }
            _ => part.discard().map_err(Refusal::Final)?,
        }
    }
    let mut response = client.get(url, headers).await?;
    if response.status() == StatusCode::PARTIAL_CONTENT {
        continues(&response, part)?;
    } else {
        let record = record_of(url, &response);
        part.restart(record).map_err(Refusal::Final)?;
    }
    let size = part.record().and_then(|record| record.size);
    progress.begin(size, part.len());
    let passing = |error| Refusal::Passing {
        error,
        retry_after: None,
    };
    while let Some(piece) = next_piece(response.body_mut()).await.map_err(passing)? {
        if size.is_some_and(|size| part.len() + piece.len() as u64 > size) {
            return Err(Refusal::Changed);
        }
        part.append(&piece).map_err(Refusal::Final)?;
        progress.at(part.len());
    }
    match size {
        Some(size) if part.len() < size => {
            let text = format!("the answer ended {} short", human(size - part.len()));
            Err(passing(Error::new(Exit::Failure, text)))
        }
        _ => Ok(()),
    }
}

/// Whether a 206 goes on exactly where the part ends, in the same version.
fn continues(response: &Response<Incoming>, part: &Part) -> std::result::Result<(), Refusal> {
    let record = part.record().ok_or_else(|| {
        Refusal::Final(Error::new(
            Exit::Failure,
            "the server sent a range that was not asked for",
        ))
    })?;
    let header = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let range = header(header::CONTENT_RANGE).and_then(content_range::parse);
    let same = range.is_some_and(|range| {
        range.bytes == (part.len()..range.total)
            && record.size.is_none_or(|size| size == range.total)
    });
    let version = header(header::ETAG).map(str::to_owned) == record.etag;
    if same && version {
        Ok(())
    } else {
        Err(Refusal::Changed)
    }
}

/// What a whole answer says of the object.
fn record_of(url: &Uri, response: &Response<Incoming>) -> Record {
    let header = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    // A checksum of checksums ("...-3") says nothing that could be compared here.
    let whole = |name: &str| header(name).filter(|value| !value.contains('-'));
    Record {
        v: 1,
        url: without_query(url),
        // If-Match never matches a weak one.
        etag: header("etag").filter(|etag| etag.starts_with('"')),
        size: header("content-length").and_then(|length| length.parse().ok()),
        crc32c: whole("x-amz-checksum-crc32c"),
        sha256: whole("x-amz-checksum-sha256"),
    }
}

/// Compares the checksums with those that the server and the user gave; names what agreed.
fn verify(sums: &Sums, record: &Record, wanted: Option<&[u8; 32]>) -> Result<Vec<&'static str>> {
    let mut checked = Vec::new();
    let mut compare = |name, got: String, want: Option<String>| match want {
        None => Ok(()),
        Some(want) if want == got => {
            checked.push(name);
            Ok(())
        }
        Some(want) => {
            let text = format!("the {name} is {got}, not {want}: the bytes are wrong, and dropped");
            Err(Error::new(Exit::NotFound, text))
        }
    };
    compare(
        "sha256 of --sha256",
        hex(&sums.sha256),
        wanted.map(|sum| hex(sum)),
    )?;
    compare(
        "server's sha256",
        BASE64.encode(sums.sha256),
        record.sha256.clone(),
    )?;
    compare(
        "server's crc32c",
        BASE64.encode(sums.crc32c.to_be_bytes()),
        record.crc32c.clone(),
    )?;
    Ok(checked)
}

fn report(
    args: &GetArgs,
    record: &Record,
    sums: &Sums,
    checked: &[&str],
    resumed_from: u64,
    took: Duration,
) -> Result {
    let crc32c = BASE64.encode(sums.crc32c.to_be_bytes());
    if args.json {
        return output::line(
            &json!({
                "v": 1,
                "event": "got",
                "url": record.url,
                "file": args.output.to_string_lossy(),
                "bytes": sums.bytes,
                "resumed_from": resumed_from,
                "etag": record.etag,
                "sha256": hex(&sums.sha256),
                "crc32c": crc32c,
                "checked": checked,
                "seconds": took.as_secs_f64(),
            })
            .to_string(),
        );
    }
    if !args.quiet {
        let agreed = match checked {
            [] => "no checksum to compare with".to_owned(),
            some => format!("agrees with the {}", some.join(", the ")),
        };
        let etag = record.etag.as_deref().unwrap_or("none");
        output::note(&format!(
            "{} in {:.1} s; etag {etag}; crc32c {crc32c}; {agreed}",
            human(sums.bytes),
            took.as_secs_f64(),
        ));
    }
    // What `sha256sum -c` reads.
    output::line(&format!("{}  {}", hex(&sums.sha256), show(&args.output)))
}

fn show(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex(text: &str) -> std::result::Result<[u8; 32], String> {
    let wrong = || "expected 64 hexadecimal digits".to_owned();
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    let mut out = [0; 32];
    for (byte, digits) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        // `from_str_radix` takes a sign.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits() {
        let sum: [u8; 32] = std::array::from_fn(|i| (i * 7) as u8);
        assert_eq!(parse_hex(&hex(&sum)), Ok(sum));
        assert_eq!(parse_hex(&hex(&sum).to_uppercase()), Ok(sum));
        assert!(parse_hex(&hex(&sum)[1..]).is_err());
        assert!(parse_hex(&"+1".repeat(32)).is_err());
        assert!(parse_hex(&"é".repeat(32)).is_err());
    }

    #[test]
    fn checksums_that_differ_are_said_so() {
        let sums = Sums {
            bytes: 5,
            sha256: [1; 32],
            crc32c: 7,
        };
        let record = Record {
            v: 1,
            url: String::new(),
            etag: None,
            size: None,
            crc32c: Some(BASE64.encode(7u32.to_be_bytes())),
            sha256: None,
        };
        assert_eq!(verify(&sums, &record, Some(&[1; 32])).unwrap().len(), 2);
        assert_eq!(
            verify(&sums, &record, Some(&[2; 32])).unwrap_err().exit(),
            Exit::NotFound
        );
        let record = Record {
            crc32c: Some("AAAAAA==".to_owned()),
            ..record
        };
        let error = verify(&sums, &record, None).unwrap_err();
        assert!(error.to_string().contains("server's crc32c"), "{error}");
    }
}
