//! `gannet matrix keys` and `resolve`: whose keys are whose, and where a server is. Neither needs a name to
//! ask in.

use super::{
    flags::Flags,
    parse,
    setup::{federation, ring},
    show::plain,
};
use crate::{
    exit::{Error, Exit, Result},
    output::{line, note},
    signals::Signals,
};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use clap::Args;
use gannet_matrix::{net::Step, verify::keys::KeyDocument};
use ruma_common::OwnedServerName;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// A server.
#[derive(Debug, Args)]
pub(super) struct OneServer {
    /// Its name: what comes after the colon of its users' ids.
    #[arg(value_name = "SERVER", value_parser = parse::server)]
    pub(super) server: OwnedServerName,
}

fn interrupted() -> Error {
    Error::new(Exit::Interrupted, "interrupted")
}

/// Asks a server for its keys now, and notaries if it does not answer.
pub(super) async fn keys(flags: &Flags, args: &OneServer) -> Result {
    let ring = ring(flags, federation(flags, None)?)?;
    let mut signals = Signals::new()?;
    let asked = tokio::select! {
        asked = ring.ask(&args.server) => asked,
        () = signals.next() => return Err(interrupted()),
    };
    let server = args.server.as_str();
    let documents = asked.map_err(|why| {
        if flags.json {
            let _ = line(&json!({ "v": 1, "server": server, "error": why }).to_string());
        }
        let error = Error::new(Exit::NotFound, plain(&why)).context(format!("keys of {server}"));
        error.remedy(format!(
            "gannet matrix resolve {server} says how it is found; --notary SERVER asks another one for its keys"
        ))
    })?;
    if flags.json {
        let documents: Vec<_> = documents
            .iter()
            .map(|(document, direct)| document_json(document, *direct))
            .collect();
        return line(&json!({ "v": 1, "server": server, "documents": documents }).to_string());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    for (document, direct) in &documents {
        if !flags.quiet {
            let from = match direct {
                true => "from the server itself",
                false => "from a notary",
            };
            note(&format!(
                "{from}; its own signature is right; it says that they are valid until {}",
                parse::shown(document.valid_until_ts())
            ));
        }
        for (id, key) in document.keys() {
            let until = parse::shown(key.valid_until_ms);
            let until = match key.valid_until_ms < now {
                true => format!("old: for events until {until}"),
                false => format!("trusted until {until}"),
            };
            let key = STANDARD_NO_PAD.encode(key.bytes);
            line(&format!("{}  {key}  {until}", plain(id)))?;
        }
    }
    Ok(())
}

fn document_json(document: &KeyDocument, direct: bool) -> Value {
    let keys: serde_json::Map<String, Value> = document
        .keys()
        .map(|(id, key)| {
            let value = json!({
                "key": STANDARD_NO_PAD.encode(key.bytes),
                "valid_until_ms": key.valid_until_ms,
            });
            (id.to_owned(), value)
        })
        .collect();
    json!({
        "from": if direct { "server" } else { "notary" },
        "valid_until_ts": document.valid_until_ts(),
        "trusted_until_ms": document.trusted_until_ms(),
        "keys": keys,
        "document": String::from_utf8_lossy(document.raw()),
    })
}

/// Looks for a server, and prints each step on the way.
pub(super) async fn resolve(flags: &Flags, args: &OneServer) -> Result {
    let federation = federation(flags, None)?;
    let mut signals = Signals::new()?;
    let found = tokio::select! {
        found = federation.discovery().explain(&args.server) => found,
        () = signals.next() => return Err(interrupted()),
    };
    let server = args.server.as_str();
    match found {
        Ok(found) if flags.json => line(
            &json!({
                "v": 1,
                "server": server,
                "steps": steps_json(&found.steps),
                "rule": found.rule.to_string(),
                "host": found.host,
                "certificate": found.name.to_str(),
                "addresses": found.addrs,
            })
            .to_string(),
        ),
        Ok(found) => {
            steps(&found.steps)?;
            line(&format!(
                "found by rule {} of the specification",
                found.rule
            ))?;
            line(&format!("  Host         {}", plain(&found.host)))?;
            line(&format!("  certificate  {}", plain(&found.name.to_str())))?;
            for addr in &found.addrs {
                line(&format!("  address      {addr}"))?;
            }
            Ok(())
        }
        Err(error) => {
            match flags.json {
                true => line(
                    &json!({
                        "v": 1,
                        "server": server,
                        "steps": steps_json(&error.steps),
                        "error": error.kind.to_string(),
                    })
                    .to_string(),
                )?,
                false => steps(&error.steps)?,
            }
            let told = Error::new(Exit::NotFound, plain(&error.to_string()));
            Err(told.remedy("look at the step that failed; --name-server ADDR asks another one"))
        }
    }
}

fn steps(steps: &[Step]) -> Result {
    for step in steps {
        line(&plain(&step.to_string()))?;
    }
    Ok(())
}

fn steps_json(steps: &[Step]) -> Value {
    let each = steps.iter().map(|step| {
        let (ok, came) = match &step.came {
            Ok(came) => (true, came),
            Err(came) => (false, came),
        };
        json!({
            "what": step.what,
            "ok": ok,
            "came": came,
            "ms": u64::try_from(step.took.as_millis()).unwrap_or(u64::MAX),
        })
    });
    each.collect()
}
