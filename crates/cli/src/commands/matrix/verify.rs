//! `gannet matrix verify FILE...`: what can be proved of events that lie in files, whoever wrote them.
//!
//! A file holds JSON values, one a line or however they stand: lines of `fill`, answers of homeservers, what a
//! command printed with `--json`, or single PDUs. Nothing in them is believed but what the version of a room is:
//! an event that is read by the rules of another version has another id, or signatures that do not fit.

use super::{
    flags::Flags,
    setup::{federation, own_keys_of, ring},
    show::plain,
};
use crate::{
    exit::{Error, Exit, Result},
    output::{line, note},
    signals::Signals,
};
use bytes::Bytes;
use clap::Args;
use gannet_matrix::{
    Checks,
    net::KeyRing,
    verify::{
        Verified,
        flaw::Flaw,
        keyset::{KeySet, KeysWanted},
        pdu::{Expect, Pdu},
        rules::Rules,
        spread::spread,
    },
};
use ruma_common::{OwnedRoomId, OwnedServerName, RoomVersionId};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    thread::available_parallelism,
};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Events that are parsed at a time.
const PART_MAX: usize = 4096;

/// What `gannet matrix verify` takes.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Files of events: lines of fill, answers of servers, what --json printed, or single PDUs.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Ask nobody for keys: those that are kept have to do.
    #[arg(long)]
    offline: bool,
}

/// An event of a file.
struct Item {
    /// Its place among the events of its file, from 1.
    place: usize,
    file: usize,
    /// The id and the room's version that the file claims for it.
    id: Option<String>,
    version: Option<String>,
    raw: Bytes,
}

/// What is looked for in a value of a file.
#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    sender: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    event_id: Option<&'a RawValue>,
    #[serde(borrow)]
    room_version: Option<&'a RawValue>,
    #[serde(borrow)]
    pdu: Option<&'a RawValue>,
    #[serde(borrow)]
    answer: Option<&'a RawValue>,
    #[serde(borrow)]
    pdus: Option<&'a RawValue>,
    #[serde(borrow)]
    auth_chain: Option<&'a RawValue>,
    #[serde(borrow)]
    events: Option<&'a RawValue>,
}

/// What was found out about an event.
struct Verdict {
    id: Option<String>,
    about: String,
    version: Option<&'static RoomVersionId>,
    end: std::result::Result<&'static str, String>,
}

/// Verifies every event, and says of each what was proved.
pub(super) async fn run(flags: &Flags, args: &VerifyArgs) -> Result {
    let mut items = Vec::new();
    for (n, path) in args.files.iter().enumerate() {
        let before = items.len();
        let bytes = read(path).map_err(|error| error.context(path.display()))?;
        take(&bytes, n, &mut items).map_err(|error| error.context(path.display()))?;
        if items.len() == before {
            return Err(Error::new(Exit::NotFound, "no events in it").context(path.display()));
        }
    }
    let mut verifier = Verifier {
        checks: flags.checks(Checks::REDACTED_TOO),
        room: flags.room.clone(),
        said: flags.room_version.clone(),
        versions: versions(&items),
        ring: ring(flags, federation(flags, None)?)?,
        offline: args.offline,
        keys: own_keys_of(flags)?,
        lacking: BTreeMap::new(),
    };
    let mut signals = Signals::new()?;
    let total = items.len();
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut told = Vec::new();
    while !items.is_empty() {
        let part: Vec<Item> = items.drain(..items.len().min(PART_MAX)).collect();
        let places: Vec<_> = part.iter().map(|item| (item.file, item.place)).collect();
        let verdicts = tokio::select! {
            verdicts = verifier.verify(part) => verdicts,
            () = signals.next() => return Err(Error::new(Exit::Interrupted, "interrupted")),
        };
        for ((file, place), verdict) in places.into_iter().zip(verdicts) {
            let file = &args.files[file];
            *counts
                .entry(*verdict.end.as_ref().unwrap_or(&"bad"))
                .or_default() += 1;
            match flags.json {
                true => told.push(json!({
                    "file": file.to_string_lossy(),
                    "place": place,
                    "event_id": verdict.id,
                    "room_version": verdict.version.map(RoomVersionId::as_str),
                    "proof": verdict.end.as_ref().ok(),
                    "why": verdict.end.as_ref().err(),
                })),
                false if flags.quiet && verdict.end.is_ok() => {}
                false => line(&said(file, place, &verdict))?,
            }
        }
    }
    let bad = counts.get("bad").copied().unwrap_or(0);
    if flags.json {
        line(&json!({ "v": 1, "counts": counts, "events": told }).to_string())?;
    } else if !flags.quiet {
        let counts = counts.iter().map(|(what, count)| format!("{count} {what}"));
        note(&counts.collect::<Vec<_>>().join(", "));
    }
    match bad {
        0 => Ok(()),
        bad => Err(Error::new(
            Exit::NotFound,
            format!("{bad} of {total} events could not be verified"),
        )),
    }
}

fn said(file: &Path, place: usize, verdict: &Verdict) -> String {
    let id = verdict
        .id
        .as_deref()
        .map_or_else(|| format!("{} event {place}", file.display()), plain);
    match &verdict.end {
        Ok(proof) => format!("{proof:<8}  {id}  {}", verdict.about),
        Err(why) => format!("BAD       {id}  {}", plain(why)),
    }
}

fn read(path: &Path) -> Result<Bytes> {
    let file = File::open(path).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        Error::new(if missing { Exit::Usage } else { Exit::Failure }, error)
    })?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::usage("more than 1 GiB").remedy("split -l 100000 FILE"));
    }
    Ok(bytes.into())
}

/// The events of a file, in their order.
fn take(bytes: &Bytes, file: usize, items: &mut Vec<Item>) -> Result {
    let not_json = |error: serde_json::Error| Error::new(Exit::NotFound, plain(&error.to_string()));
    let values = serde_json::Deserializer::from_slice(bytes).into_iter::<&RawValue>();
    let first = items.len();
    for value in values {
        let value = value.map_err(not_json)?;
        let added = take_value(bytes, value, (file, first), None, items);
        added.map_err(not_json)?;
    }
    Ok(())
}

fn text(json: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(json?.get()).ok()
}

fn take_value(
    bytes: &Bytes,
    value: &RawValue,
    (file, first): (usize, usize),
    version: Option<String>,
    items: &mut Vec<Item>,
) -> serde_json::Result<()> {
    let mut add = |raw: &RawValue, id: Option<String>, version: Option<String>| {
        items.push(Item {
            place: items.len() - first + 1,
            file,
            id,
            version,
            raw: bytes.slice_ref(raw.get().as_bytes()),
        });
    };
    let probe: Probe<'_> = match serde_json::from_str(value.get()) {
        Ok(probe) => probe,
        // An event with a key twice, say: its flaw is told where it is verified.
        Err(_) => {
            add(value, None, version);
            return Ok(());
        }
    };
    let version = text(probe.room_version).or(version);
    if probe.kind.is_some() && probe.sender.is_some() {
        add(value, None, version);
    } else if let Some(pdu) = probe.pdu {
        add(pdu, text(probe.event_id), version);
    } else if let Some(answer) = probe.answer {
        // Once: nobody puts an answer into an answer.
        let inner: Probe<'_> = serde_json::from_str(answer.get())?;
        for pdu in listed(&inner)? {
            add(pdu, None, version.clone());
        }
    } else if text(probe.event).as_deref() != Some("end") {
        for pdu in listed(&probe)? {
            add(pdu, None, version.clone());
        }
    }
    Ok(())
}

/// The PDUs of an answer, whichever op it is of.
fn listed<'a>(probe: &Probe<'a>) -> serde_json::Result<Vec<&'a RawValue>> {
    let lists = [probe.pdus, probe.auth_chain, probe.events];
    let mut all = Vec::new();
    for list in lists.into_iter().flatten() {
        all.extend(serde_json::from_str::<Vec<&RawValue>>(list.get())?);
    }
    Ok(all)
}

/// The versions of rooms whose create events are there.
fn versions(items: &[Item]) -> BTreeMap<OwnedRoomId, Rules> {
    let mut versions = BTreeMap::new();
    for item in items {
        if let Ok(rules) = Rules::of_create_event(&item.raw)
            && let Ok(pdu) = Pdu::parse(item.raw.clone(), rules)
        {
            versions.entry(pdu.room_id().to_owned()).or_insert(rules);
        }
    }
    versions
}

/// What verifies events.
struct Verifier {
    checks: Checks,
    room: Option<OwnedRoomId>,
    said: Option<RoomVersionId>,
    versions: BTreeMap<OwnedRoomId, Rules>,
    ring: KeyRing,
    offline: bool,
    keys: KeySet,
    lacking: BTreeMap<OwnedServerName, String>,
}

impl Verifier {
    async fn verify(&mut self, items: Vec<Item>) -> Vec<Verdict> {
        let threads = available_parallelism().map_or(1, |n| n.get());
        let expect = Expect {
            event: None,
            room: self.room.clone(),
        };
        let items = items.into_iter().map(|item| (self.rules(&item), item));
        let parsed = spread(items.collect(), threads, |(rules, item)| {
            parse(rules?, &item, &expect)
        });
        let mut wanted = KeysWanted::new();
        if self.checks.signatures {
            for pdu in parsed.iter().flatten() {
                self.keys.lacking(pdu, &mut wanted);
            }
        }
        self.get(wanted).await;
        spread(parsed, threads, |parsed| self.judge(parsed))
    }

    /// The rules that an event is read by: what the caller says, what the file says, or what the room's
    /// create event says, if that is in a file.
    fn rules(&self, item: &Item) -> std::result::Result<Rules, Verdict> {
        let said = || item.version.as_deref()?.try_into().ok();
        let version: Option<RoomVersionId> = self.said.clone().or_else(said);
        let rules = match version {
            Some(version) => Rules::of(&version).map_err(|flaw| flaw.to_string()),
            None => self.rules_of_room(item).ok_or_else(|| {
                "of which version is the room? --room-version V, or a file with its create event"
                    .to_owned()
            }),
        };
        rules.map_err(|why| Verdict {
            id: item.id.clone(),
            about: String::new(),
            version: None,
            end: Err(why),
        })
    }

    fn rules_of_room(&self, item: &Item) -> Option<Rules> {
        #[derive(Deserialize)]
        struct OfRoom {
            room_id: Option<OwnedRoomId>,
        }
        if let Ok(rules) = Rules::of_create_event(&item.raw) {
            return Some(rules);
        }
        let of: OfRoom = serde_json::from_slice(&item.raw).ok()?;
        self.versions.get(&of.room_id?).copied()
    }

    async fn get(&mut self, wanted: KeysWanted) {
        if self.offline {
            for server in wanted.keys() {
                for (document, _) in self.ring.known(server).await {
                    self.keys.insert(&document);
                }
            }
            return;
        }
        // What could not be had before is not asked for again with each part.
        let wanted: KeysWanted = wanted
            .into_iter()
            .filter(|(server, _)| !self.lacking.contains_key(server))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let got = self.ring.get(&wanted).await;
        for server in wanted.keys() {
            for (id, key) in got.set.of(server) {
                self.keys.insert_key(server, id, key);
            }
        }
        self.lacking.extend(got.lacking);
    }

    fn judge(&self, parsed: std::result::Result<Pdu, Verdict>) -> Verdict {
        let pdu = match parsed {
            Ok(pdu) => pdu,
            Err(verdict) => return verdict,
        };
        let proved = match (self.checks.signatures, pdu.content_fits()) {
            (false, true) => Ok("form"),
            (false, false) => Ok("cut"),
            (true, _) => pdu.check(&self.keys).map(|proof| match proof.verified {
                Verified::All => "whole",
                _ => "redacted",
            }),
        };
        let end = match proved {
            Ok("cut" | "redacted") if self.checks.content_hash => Err(
                "its content is not what its hash says: redacted, cut, or tampered with".to_owned(),
            ),
            Ok(proof) => Ok(proof),
            Err(flaw) => Err(self.explain(&flaw)),
        };
        Verdict {
            id: Some(pdu.event_id().to_string()),
            about: about(&pdu),
            version: Some(pdu.rules().version()),
            end,
        }
    }

    fn explain(&self, flaw: &Flaw) -> String {
        let server = match flaw {
            Flaw::NoKey { server, .. } | Flaw::KeyNotValid { server, .. } => Some(server),
            _ => None,
        };
        match server.and_then(|server| self.lacking.get(server)) {
            Some(why) => format!("{flaw}: {why}"),
            None => flaw.to_string(),
        }
    }
}

fn about(pdu: &Pdu) -> String {
    let state = pdu.state_key().filter(|key| !key.is_empty());
    let state = state.map_or_else(String::new, |key| format!(" {}", plain(key)));
    let (kind, sender) = (plain(pdu.event_type()), plain(pdu.sender().as_str()));
    format!("{kind}{state} by {sender}")
}

fn parse(rules: Rules, item: &Item, expect: &Expect) -> std::result::Result<Pdu, Verdict> {
    let bad = |id: Option<String>, flaw: &Flaw| Verdict {
        id,
        about: String::new(),
        version: Some(rules.version()),
        end: Err(flaw.to_string()),
    };
    let pdu = Pdu::parse(item.raw.clone(), rules).map_err(|flaw| {
        let id = Pdu::id_of(&item.raw, rules).map(|id| id.to_string());
        bad(id.or_else(|| item.id.clone()), &flaw)
    })?;
    let id = Some(pdu.event_id().to_string());
    pdu.expect(expect).map_err(|flaw| bad(id.clone(), &flaw))?;
    match &item.id {
        Some(said) if said != pdu.event_id().as_str() => Err(Verdict {
            id,
            about: String::new(),
            version: Some(rules.version()),
            end: Err(format!("the file says that it is {}", plain(said))),
        }),
        _ => Ok(pdu),
    }
}
