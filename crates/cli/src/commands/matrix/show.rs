//! What came of it: for people on standard error, for programs as one JSON object.
//!
//! Whatever servers sent is fit for a terminal before one sees it.

use crate::{
    exit::{Error, Exit, Result},
    output::{line, note},
};
use gannet_matrix::{Attempt, BadEvent, FetchError, FetchErrorKind, How, Key, Op, Outcome, Proof};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use std::{borrow::Cow, fmt::Write as _, io::IsTerminal as _};

/// How much of a text of a server is shown, in characters.
const SHOWN_MAX: usize = 400;

/// Characters that a terminal obeys, or that turn around what is read after them.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text of a server, in one line and fit for a terminal.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == SHOWN_MAX {
            out.push_str("...");
            break;
        }
        match is_odd(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    out
}

/// JSON of a server as it is to be printed: byte for byte, but escaped where a terminal would obey it.
/// Odd characters stand in strings only, where escapes mean the same.
fn for_terminal(json: &str) -> Cow<'_, str> {
    let odd = |c| is_odd(c) && !matches!(c, '\n' | '\r' | '\t');
    if !json.chars().any(odd) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match odd(c) {
            // None of them is beyond the basic plane.
            true => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            false => out.push(c),
        }
    }
    out.into()
}

/// Prints JSON that came from a server.
pub(super) fn raw_line(json: &str) -> Result {
    match std::io::stdout().is_terminal() {
        true => line(&for_terminal(json)),
        false => line(json),
    }
}

/// JSON in one line: line breaks stand between its parts only.
pub(super) fn in_one_line(json: &str) -> Cow<'_, str> {
    match json.contains(['\n', '\r']) {
        true => json.replace(['\n', '\r'], " ").into(),
        false => json.into(),
    }
}

/// What was proved of events, for people.
pub(super) const fn proved(proof: Proof) -> &'static str {
    match proof {
        Proof::Whole => "whole: ids, content and signatures are right",
        Proof::Redacted => "redacted or cut: ids and signatures are right, content is missing",
        Proof::Form => "not proved: it is one server's word",
    }
}

/// One request, for people; `asked` is what all of it is about.
pub(super) fn attempt(attempt: &Attempt, asked: Op) -> String {
    let how = attempt.how.name().replace('_', " ");
    let what = match attempt.op == asked {
        true => "",
        false => " (for the room's version)",
    };
    let mut text = format!(
        "{}{what}: {how} after {} ms",
        plain(attempt.server.as_str()),
        attempt.took.as_millis()
    );
    if !attempt.detail.is_empty() {
        let _ = write!(text, ": {}", plain(&attempt.detail));
    }
    text
}

fn attempts_json(attempts: &[Attempt]) -> Value {
    let each = attempts.iter().map(|attempt| {
        json!({
            "server": attempt.server,
            "op": attempt.op.name(),
            "how": attempt.how.name(),
            "ms": u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
            "detail": attempt.detail,
        })
    });
    each.collect()
}

/// Bad events, as JSON.
pub(super) fn bad_json(bad: &[BadEvent]) -> Value {
    let each = bad.iter().map(|bad| {
        json!({
            "index": bad.index,
            "event_id": bad.event_id,
            "forged": bad.reason.forged,
            "why": bad.reason.why,
        })
    });
    each.collect()
}

/// A bad event, for people.
pub(super) fn bad_line(bad: &BadEvent) -> String {
    let id = bad.event_id.as_ref();
    let id = id.map_or_else(|| format!("event {}", bad.index), |id| plain(id.as_str()));
    format!("left out {id}: {}", plain(&bad.reason.why))
}

/// All of an outcome in one object.
#[derive(Serialize)]
struct Whole<'a> {
    v: u32,
    op: &'static str,
    room: &'a str,
    server: Option<&'a str>,
    room_version: Option<&'a str>,
    proof: &'static str,
    events: Value,
    bad: Value,
    attempts: Value,
    answer: &'a RawValue,
}

/// An outcome as one JSON object in one line.
pub(super) fn outcome_json(key: &Key, outcome: &Outcome) -> std::result::Result<String, String> {
    let text = std::str::from_utf8(&outcome.bytes).map_err(|error| error.to_string())?;
    let text = in_one_line(text).into_owned();
    let answer = RawValue::from_string(text).map_err(|error| error.to_string())?;
    let events = outcome.events.iter();
    let events = events
        .map(|event| json!({ "event_id": event.event_id, "proof": event.proof.name() }))
        .collect();
    let whole = Whole {
        v: 1,
        op: key.op().name(),
        room: key.room().as_str(),
        server: outcome.server.as_ref().map(|server| server.as_str()),
        room_version: outcome.version.as_ref().map(|version| version.as_str()),
        proof: outcome.proof().name(),
        events,
        bad: bad_json(&outcome.bad),
        attempts: attempts_json(&outcome.attempts),
        answer: &answer,
    };
    serde_json::to_string(&whole).map_err(|error| error.to_string())
}

/// A failure as one JSON object in one line.
pub(super) fn failure_json(key: &Key, error: &FetchError) -> String {
    json!({
        "v": 1,
        "op": key.op().name(),
        "room": key.room(),
        "error": name(error.kind),
        "message": error.kind.to_string(),
        "attempts": attempts_json(&error.attempts),
    })
    .to_string()
}

/// What programs call a kind of failure.
pub(super) fn name(kind: FetchErrorKind) -> &'static str {
    match kind {
        FetchErrorKind::NoServers => "no_servers",
        FetchErrorKind::Missing => "missing",
        FetchErrorKind::Unverified => "unverified",
        FetchErrorKind::Exhausted => "exhausted",
        FetchErrorKind::Expired => "expired",
        FetchErrorKind::Overloaded => "overloaded",
        FetchErrorKind::Closed => "closed",
        _ => "broken",
    }
}

/// Tells of an outcome: who failed, who answered, what was proved.
pub(super) fn tell(key: &Key, outcome: &Outcome) {
    for one in &outcome.attempts {
        note(&attempt(one, key.op()));
    }
    if outcome.server.is_none() {
        note("from the store");
    }
    for bad in outcome.bad.iter() {
        note(&bad_line(bad));
    }
    if let Some(version) = &outcome.version {
        note(&format!("room version {}", plain(version.as_str())));
    }
    if outcome.events.is_empty() {
        note(proved(Proof::Form));
    }
    for proof in [Proof::Whole, Proof::Redacted, Proof::Form] {
        let count = outcome.events.iter().filter(|event| event.proof == proof);
        match count.count() {
            0 => {}
            1 => note(&format!("1 event {}", proved(proof))),
            n => note(&format!("{n} events {}", proved(proof))),
        }
    }
}

/// What a failure is to whoever called the program: what each server did is said before.
pub(super) fn error(error: &FetchError) -> Error {
    let exit = match error.kind {
        FetchErrorKind::Missing | FetchErrorKind::Unverified => Exit::NotFound,
        FetchErrorKind::NoServers => Exit::Usage,
        _ => Exit::Failure,
    };
    let said = Error::new(exit, error.kind);
    let any = |how| error.attempts.iter().any(|attempt| attempt.how == how);
    match error.kind {
        FetchErrorKind::NoServers => said.remedy("--via SERVER,...: servers that are in the room"),
        FetchErrorKind::Missing if any(How::Forbidden) => said.remedy(
            "servers answer only those that are in the room: --server-name must be, and --room and \
             --via must be right",
        ),
        FetchErrorKind::Missing => said.remedy("--via with other servers of the room"),
        FetchErrorKind::Unverified if any(How::Cut) => {
            said.remedy("--redacted, if what is left of a redacted event will do")
        }
        FetchErrorKind::Unverified if any(How::Unproven) => said.remedy(
            "--notary SERVER for keys that their servers do not give any more, --room-version V if \
             the version could not be proved",
        ),
        FetchErrorKind::Unverified => said.remedy("--via with other servers of the room"),
        FetchErrorKind::Exhausted => {
            said.remedy("gannet matrix resolve SERVER says how a server is found and reached")
        }
        FetchErrorKind::Expired => said.remedy("a longer --timeout"),
        _ => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_see_nothing_that_they_would_obey() {
        assert_eq!(plain("a\x1b[31m\u{202e}\n"), "a\\u{1b}[31m\\u{202e}\\u{a}");
        assert_eq!(plain(&"x".repeat(1000)).len(), SHOWN_MAX + 3);
        let json = "{\"a\":\"\u{9b}31m\u{2066}\",\n\"b\":\"é\"}";
        let shown = for_terminal(json);
        assert_eq!(shown, "{\"a\":\"\\u009b31m\\u2066\",\n\"b\":\"é\"}");
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(value(&shown), value(json));
        assert!(matches!(for_terminal("{}"), Cow::Borrowed(_)));
        assert_eq!(in_one_line("{\r\n}"), "{  }");
    }
}
