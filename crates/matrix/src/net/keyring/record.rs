//! What is known of one server's keys, and when it may be asked again; without I/O.

use crate::verify::{
    keys::KeyDocument,
    keyset::{KeyAt, KeySet},
};
use ruma_common::ServerName;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Documents that are kept of one server, from itself and from notaries each.
const DOCUMENTS_MAX: usize = 4;

/// A document that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) document: Arc<KeyDocument>,
    /// When it came, in milliseconds since 1970.
    pub(crate) came_ms: u64,
    /// Whether from the server itself.
    pub(crate) direct: bool,
}

/// What one fetch brought; not empty.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) documents: Vec<Held>,
    pub(crate) direct: bool,
}

/// How long to leave a server alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pauses {
    /// After an answer.
    pub(crate) refetch_min: Duration,
    /// After the first failure; doubles.
    pub(crate) error_first: Duration,
    pub(crate) error_max: Duration,
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// When something may be asked again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    again_ms: u64,
    failures: u32,
    /// Counts what came of it, so that those who wait for the same fetch do not count it twice.
    turn: u64,
    /// Why the last try failed.
    pub(crate) why: Option<String>,
}

impl Asked {
    pub(crate) fn may(&self, now_ms: u64) -> bool {
        now_ms >= self.again_ms
    }

    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    /// What came then holds until `until_ms`: after that there is something to ask, if no sooner than
    /// after a failure.
    fn answered(&mut self, at_ms: u64, until_ms: u64, pauses: &Pauses) {
        let soonest = at_ms.saturating_add(ms(pauses.error_first));
        let again = at_ms.saturating_add(ms(pauses.refetch_min));
        self.again_ms = again.min(until_ms.saturating_add(1).max(soonest));
        self.failures = 0;
        self.why = None;
        self.turn += 1;
    }

    /// A failure of the fetch that was begun in this turn.
    pub(crate) fn failed(&mut self, turn: u64, now_ms: u64, why: &str, pauses: &Pauses) {
        if turn != self.turn {
            return;
        }
        self.turn += 1;
        self.failures = self.failures.saturating_add(1);
        let doubled = 1u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX);
        let pause = pauses.error_first.saturating_mul(doubled);
        self.again_ms = now_ms.saturating_add(ms(pause.min(pauses.error_max)));
        self.why = Some(why.to_owned());
    }
}

/// What is known of one server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    documents: Vec<Held>,
    keys: KeySet,
    /// The server itself, and whoever is asked after it.
    pub(crate) any: Asked,
    /// Notaries, for what the server itself does not know any more.
    pub(crate) notaries: Asked,
}

impl Record {
    pub(crate) fn documents(&self) -> &[Held] {
        &self.documents
    }

    /// Its keys, of that server only.
    pub(crate) fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// When it may be asked again.
    pub(crate) fn asked(&mut self, notaries_only: bool) -> &mut Asked {
        match notaries_only {
            true => &mut self.notaries,
            false => &mut self.any,
        }
    }

    /// Bytes of its documents.
    pub(crate) fn bytes(&self) -> usize {
        let raws = self.documents.iter().map(|held| held.document.raw().len());
        raws.sum()
    }

    /// Whether one of these keys is known and valid at its time.
    pub(crate) fn satisfies(&self, server: &ServerName, ids: &BTreeMap<String, u64>) -> bool {
        ids.iter().any(|(id, at_ms)| {
            let at_ms = i64::try_from(*at_ms).unwrap_or(i64::MAX);
            matches!(self.keys.key(server, id, Some(at_ms)), KeyAt::Valid(_))
        })
    }

    /// Takes in what came, once however often it is told.
    ///
    /// What a notary says of a key never replaces what its server itself said.
    pub(crate) fn take(&mut self, came: &Came, pauses: &Pauses) {
        let (mut at_ms, mut until_ms) = (0, 0);
        for held in &came.documents {
            at_ms = at_ms.max(held.came_ms);
            until_ms = until_ms.max(held.document.trusted_until_ms());
            self.documents.retain(|other| {
                other.direct != held.direct || other.document.raw() != held.document.raw()
            });
            self.documents.push(held.clone());
        }
        // Notaries' first, and of each the oldest: what is taken in later holds.
        self.documents.sort_by_key(|held| {
            let until = held.document.valid_until_ts();
            (held.direct, held.came_ms, until)
        });
        for direct in [false, true] {
            let of = |held: &Held| held.direct == direct;
            // What later ones say of the same keys holds, so an older one that says no more says nothing.
            let mut said = BTreeSet::new();
            for at in (0..self.documents.len()).rev() {
                let held = &self.documents[at];
                if !of(held) {
                    continue;
                }
                let ids = held.document.keys().map(|(id, _)| id.to_owned());
                if ids.filter(|id| said.insert(id.clone())).count() == 0 {
                    self.documents.remove(at);
                }
            }
            let count = self.documents.iter().filter(|held| of(held)).count();
            let mut over = count.saturating_sub(DOCUMENTS_MAX);
            self.documents.retain(|held| {
                let goes = of(held) && over > 0;
                over -= usize::from(goes);
                !goes
            });
        }
        let mut keys = KeySet::new();
        for held in &self.documents {
            keys.insert(&held.document);
        }
        self.keys = keys;
        self.any.answered(at_ms, until_ms, pauses);
        if !came.direct {
            self.notaries.answered(at_ms, until_ms, pauses);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::sign::SigningKey;
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
    use bytes::Bytes;
    use serde_json::json;

    const HOUR: u64 = 3_600_000;
    const PAUSES: Pauses = Pauses {
        refetch_min: Duration::from_secs(3600),
        error_first: Duration::from_secs(60),
        error_max: Duration::from_secs(3600),
    };

    fn server() -> &'static ServerName {
        <&ServerName>::try_from("a.test").unwrap()
    }

    /// A document with one key, that came then.
    fn came(name: &str, seed: u8, came_ms: u64, direct: bool) -> Came {
        let key = SigningKey::from_seed(name, &[seed; 32]).unwrap();
        let public = STANDARD_NO_PAD.encode(key.public_key());
        let document = json!({
            "server_name": server(),
            "valid_until_ts": came_ms + HOUR,
            "verify_keys": { key.id(): { "key": public } },
        });
        let mut document = serde_json::from_value(document).unwrap();
        key.sign_object(server(), &mut document).unwrap();
        let raw = Bytes::from(serde_json::to_vec(&document).unwrap());
        let document = KeyDocument::parse_and_check(raw, server(), came_ms).unwrap();
        let held = Held {
            document: Arc::new(document),
            came_ms,
            direct,
        };
        Came {
            documents: vec![held],
            direct,
        }
    }

    fn satisfies(record: &Record, name: &str, at_ms: u64) -> bool {
        let ids = [(format!("ed25519:{name}"), at_ms)].into();
        record.satisfies(server(), &ids)
    }

    #[test]
    fn pauses() {
        let mut asked = Asked::default();
        assert!(asked.may(0));
        let mut now = 0;
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            let turn = asked.turn();
            for _ in 0..100 {
                asked.failed(turn, now, "no", &PAUSES);
            }
            let again = now + minutes * 60_000;
            assert!(!asked.may(again - 1) && asked.may(again), "{minutes}");
            now = again;
        }
        asked.answered(now, now, &PAUSES);
        let soonest = now + 60_000;
        assert!(!asked.may(soonest - 1) && asked.may(soonest), "it was over");
        let half = now + HOUR / 2;
        asked.answered(now, half, &PAUSES);
        assert!(!asked.may(half) && asked.may(half + 1), "then it is over");
        asked.answered(now, now + 2 * HOUR, &PAUSES);
        assert!(!asked.may(now + HOUR - 1) && asked.may(now + HOUR));
        assert_eq!(asked.why, None);
        // Who was late with a failure of before.
        asked.failed(0, now, "no", &PAUSES);
        assert!(asked.may(now + HOUR));
    }

    #[test]
    fn documents_add_up_within_bounds() {
        let mut record = Record::default();
        assert!(!satisfies(&record, "1", 0));
        record.take(&came("1", 1, HOUR, true), &PAUSES);
        record.take(&came("1", 1, HOUR, true), &PAUSES);
        assert_eq!(record.documents().len(), 1, "the same is the same");
        assert!(satisfies(&record, "1", 2 * HOUR) && !satisfies(&record, "1", 2 * HOUR + 1));
        assert!(!satisfies(&record, "1", u64::MAX));
        // The same key, said again later.
        record.take(&came("1", 1, 3 * HOUR, true), &PAUSES);
        assert!(satisfies(&record, "1", 4 * HOUR));
        // A key that the newest does not name any more is still known.
        record.take(&came("2", 2, 5 * HOUR, true), &PAUSES);
        assert!(satisfies(&record, "1", 4 * HOUR) && satisfies(&record, "2", 6 * HOUR));
        assert!(record.asked(true).may(0), "notaries were not asked");
        // Whatever notaries say, and however late.
        record.take(&came("2", 3, 7 * HOUR, false), &PAUSES);
        assert!(!satisfies(&record, "2", 8 * HOUR));
        assert!(!record.asked(true).may(7 * HOUR));
        for n in 0..100 {
            record.take(&came(&format!("n{n}"), 4, n * HOUR, n % 2 == 0), &PAUSES);
        }
        assert_eq!(record.documents().len(), 2 * DOCUMENTS_MAX);
        assert!(satisfies(&record, "n99", 99 * HOUR) && !satisfies(&record, "1", 0));
        let bytes: usize = record
            .documents()
            .iter()
            .map(|held| held.document.raw().len())
            .sum();
        assert_eq!(record.bytes(), bytes);
    }
}
