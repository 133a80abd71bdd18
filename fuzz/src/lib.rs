//! What is fuzzed: one function for each parser that reads bytes from outside, and one that makes
//! operations for the engine.
//!
//! ```text
//! cargo +nightly fuzz run range --features libfuzzer        until it is stopped
//! cargo test -p gannet-fuzz                                 the corpora and mutations of them, on stable
//! ```
//!
//! Each function panics where its parser breaks a promise, not only where the parser itself panics.
//! What a run finds is added to `corpus/`, minimized, with a name that says what it was.

mod engine;

pub use engine::engine;

use gannet_cache::{
    edge::{
        auth::Rules,
        condition::{Conditions, Verdict},
        fuzz as edge,
        range::ByteRange,
        target::Target,
    },
    types::ObjectMeta,
};
use gannet_cli::{
    client::content_range,
    settings::{KEYS, parse_file},
    units::{Size, Span},
};
use std::{sync::Arc, time::UNIX_EPOCH};

/// Takes whatever bytes.
pub type Fuzz = fn(&[u8]);

/// Every target by name: of its file in `fuzz_targets/`, and of its corpus.
pub const TARGETS: &[(&str, Fuzz)] = &[
    ("auth", auth),
    ("cluster", cluster),
    ("conditions", conditions),
    ("content_range", client_content_range),
    ("engine", engine),
    ("frame", frame),
    ("listing", listing),
    ("matrix_keys", matrix_keys),
    ("matrix_pdus", matrix_pdus),
    ("matrix_wellknown", matrix_wellknown),
    ("matrix_xmatrix", matrix_xmatrix),
    ("origin", origin),
    ("range", range),
    ("request_head", request_head),
    ("settings", settings),
    ("target", target),
    ("units", units),
];

/// The `Range` header of a client: what it resolves to lies within the object and is not empty.
pub fn range(bytes: &[u8]) {
    let (size, value) = number_and_rest(bytes);
    if let Some(range) = ByteRange::parse(value)
        && let Some(range) = range.resolve(size)
    {
        assert!(
            range.start < range.end && range.end <= size,
            "{range:?} of {size}"
        );
    }
}

/// The conditional headers of a client, one a line.
pub fn conditions(bytes: &[u8]) {
    let (size, rest) = number_and_rest(bytes);
    let mut lines = rest.split(|byte| *byte == b'\n');
    let mut line = || lines.next().filter(|line| !line.is_empty());
    let conditions = Conditions {
        range: line(),
        if_match: line(),
        if_none_match: line(),
        if_modified_since: line(),
        if_unmodified_since: line(),
        if_range: line(),
    };
    let meta = ObjectMeta {
        size,
        etag: "\"etag\"".into(),
        modified: UNIX_EPOCH,
        headers: Arc::default(),
    };
    if let Verdict::Part(range) = conditions.judge(&meta) {
        assert!(
            range.start < range.end && range.end <= size,
            "{range:?} of {size}"
        );
        assert!(conditions.range.is_some());
    }
}

/// A request's head on the lean path: never longer than what came, nor than the limit.
pub fn request_head(bytes: &[u8]) {
    edge::request_head(bytes);
}

/// The query of a listing, and the answer to it.
pub fn listing(bytes: &[u8]) {
    edge::listing(&String::from_utf8_lossy(bytes));
}

/// A request's path and host: the bucket is never empty.
pub fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (path, host) = text.split_once('\n').unwrap_or((&text, "h"));
    if let Ok(target) = Target::parse(path, Some(host), &["example.org".to_owned()]) {
        assert!(
            target.bucket().is_none_or(|bucket| !bucket.is_empty()),
            "{target:?}"
        );
    }
}

/// The auth file.
pub fn auth(bytes: &[u8]) {
    let _ = Rules::parse(&String::from_utf8_lossy(bytes));
}

/// The configuration file: only known keys come out of it.
pub fn settings(bytes: &[u8]) {
    if let Ok(texts) = parse_file(KEYS, &String::from_utf8_lossy(bytes)) {
        assert!(
            texts
                .keys()
                .all(|name| KEYS.iter().any(|key| key.name == *name))
        );
    }
}

/// Sizes and durations: what was read is shown so that it reads the same.
pub fn units(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(size) = text.parse::<Size>() {
        assert_eq!(size.to_string().parse(), Ok(size), "{text}");
    }
    if let Ok(span) = text.parse::<Span>() {
        assert_eq!(span.to_string().parse(), Ok(span), "{text}");
    }
}

/// `Content-Range` as `gannet get` reads it: never empty, within the total.
pub fn client_content_range(bytes: &[u8]) {
    if let Some(range) = content_range::parse(&String::from_utf8_lossy(bytes)) {
        assert!(range.bytes.start < range.bytes.end && range.bytes.end <= range.total);
    }
}

/// What members of a cluster send each other: proofs, questions, frames, heads.
pub fn cluster(bytes: &[u8]) {
    gannet_link::fuzz(bytes);
    gannet_cache::fuzz_cluster(bytes);
}

/// What an origin sends: listings of three kinds, errors, `Content-Range`, etags, tokens.
pub fn origin(bytes: &[u8]) {
    gannet_cache::origin::fuzz(bytes);
}

/// A stored chunk: its header and its checksums.
pub fn frame(bytes: &[u8]) {
    gannet_store::fuzz(bytes);
}

/// What a Matrix homeserver says of its keys, and a notary of others'; a file of signing keys.
pub fn matrix_keys(bytes: &[u8]) {
    gannet_matrix::verify::fuzz::keys(bytes);
}

/// What a Matrix homeserver answers: events, lists of them, and of their ids.
pub fn matrix_pdus(bytes: &[u8]) {
    gannet_matrix::verify::fuzz::pdus(bytes);
}

/// The answer to a well-known of Matrix: its headers, an empty line, its body.
pub fn matrix_wellknown(bytes: &[u8]) {
    gannet_matrix::net::fuzz_well_known(bytes);
}

/// How a Matrix homeserver proves who asks.
pub fn matrix_xmatrix(bytes: &[u8]) {
    gannet_matrix::verify::fuzz::xmatrix(bytes);
}

/// A number from the first bytes, mostly small, and the rest.
fn number_and_rest(bytes: &[u8]) -> (u64, &[u8]) {
    match bytes.split_first_chunk::<2>() {
        Some(([0xff, _], rest)) => (u64::MAX, rest),
        Some((number, rest)) => (u64::from(u16::from_le_bytes(*number)), rest),
        None => (0, bytes),
    }
}
