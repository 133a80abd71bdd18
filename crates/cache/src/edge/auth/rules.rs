//! The auth file: TOML to rules, a pure function.
//!
//! ```toml
//! [[key]]                                   # SigV4: what S3 clients are configured with
//! id = "READER"
//! secret = "at-least-sixteen-characters"
//! allow = ["models", "data/public/"]        # buckets, or prefixes of keys; absent: everything
//! expires = 2027-01-01T00:00:00Z            # absent: never
//!
//! [[token]]                                 # Authorization: Bearer ...
//! name = "ci"
//! token = "at-least-sixteen-characters"     # or: sha256 = "hex of its SHA-256"
//!
//! [[certificate]]                           # a client certificate, with --tls-client-ca
//! name = "trainer"
//! sha256 = "hex of the SHA-256 of the DER"
//! ```

use super::owner_of;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::SystemTime,
};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The shortest secret or token taken: shorter ones can be guessed.
const SECRET_LEN_MIN: usize = 16;
/// The most entries of each kind: a lookup of a token compares all of them.
const ENTRIES_MAX: usize = 10_000;

/// Who may read what.
#[derive(Debug, Default)]
pub struct Rules {
    keys: HashMap<String, Key>,
    tokens: Vec<(Hash, Arc<Grant>)>,
    certificates: HashMap<Hash, Arc<Grant>>,
}

type Hash = [u8; 32];

struct Key {
    secret: String,
    grant: Arc<Grant>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

/// What one caller may read, and until when.
#[derive(Debug)]
pub struct Grant {
    /// For logs.
    pub(crate) name: String,
    /// For fairness.
    pub(crate) owner: u32,
    scopes: Option<Vec<Scope>>,
    expires: Option<SystemTime>,
}

#[derive(Debug, PartialEq, Eq)]
struct Scope {
    bucket: String,
    prefix: String,
}

/// Why an auth file was refused. Never quotes a secret.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Not TOML, or not of this shape. (Only the message and the line: the line itself may hold a
    /// secret.)
    #[error("line {line}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// An entry makes no sense.
    #[error("{entry}: {why}")]
    Entry {
        /// Which one.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No entry at all: nobody could read anything.
    #[error("no [[key]], [[token]] or [[certificate]]: nobody could read anything")]
    Empty,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<KeyEntry>,
    #[serde(default)]
    token: Vec<TokenEntry>,
    #[serde(default)]
    certificate: Vec<CertificateEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    id: String,
    secret: String,
    allow: Option<Vec<String>>,
    expires: Option<toml::value::Datetime>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    name: String,
    token: Option<String>,
    sha256: Option<String>,
    allow: Option<Vec<String>>,
    expires: Option<toml::value::Datetime>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateEntry {
    name: String,
    sha256: String,
    allow: Option<Vec<String>>,
    expires: Option<toml::value::Datetime>,
}

impl Rules {
    /// Reads an auth file.
    ///
    /// # Errors
    /// As [`RulesError`] says; the rules are taken whole or not at all.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let line = 1 + text.as_bytes()[..at]
                .iter()
                .filter(|&&b| b == b'\n')
                .count();
            RulesError::Syntax {
                line,
                message: error.message().to_owned(),
            }
        })?;
        let mut rules = Self::default();
        let mut tokens_seen = HashSet::new();
        if file.key.is_empty() && file.token.is_empty() && file.certificate.is_empty() {
            return Err(RulesError::Empty);
        }
        if file
            .key
            .len()
            .max(file.token.len())
            .max(file.certificate.len())
            > ENTRIES_MAX
        {
            return Err(refuse(
                "the file".to_owned(),
                "more than 10,000 entries of one kind",
            ));
        }
        for entry in file.key {
            let label = format!("key {:?}", entry.id);
            if entry.id.is_empty() || !entry.id.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
                return Err(refuse(
                    label,
                    "an id is of visible ASCII characters without a slash",
                ));
            }
            check_secret(&label, &entry.secret)?;
            let grant = Grant::new(
                &label,
                format!("key:{}", entry.id),
                entry.allow,
                entry.expires,
            )?;
            let key = Key {
                secret: entry.secret,
                grant,
            };
            if rules.keys.insert(entry.id, key).is_some() {
                return Err(refuse(label, "given twice"));
            }
        }
        for entry in file.token {
            let label = format!("token {:?}", entry.name);
            let hash = match (entry.token, entry.sha256) {
                (Some(token), None) => {
                    check_secret(&label, &token)?;
                    Sha256::digest(token.as_bytes()).into()
                }
                (None, Some(hex)) => parse_hash(&label, &hex)?,
                _ => return Err(refuse(label, "give either token or sha256")),
            };
            if !tokens_seen.insert(hash) {
                return Err(refuse(label, "another entry has the same token"));
            }
            let name = format!("token:{}", entry.name);
            rules
                .tokens
                .push((hash, Grant::new(&label, name, entry.allow, entry.expires)?));
        }
        for entry in file.certificate {
            let label = format!("certificate {:?}", entry.name);
            let hash = parse_hash(&label, &entry.sha256)?;
            let name = format!("certificate:{}", entry.name);
            let grant = Grant::new(&label, name, entry.allow, entry.expires)?;
            if rules.certificates.insert(hash, grant).is_some() {
                return Err(refuse(label, "given twice"));
            }
        }
        Ok(rules)
    }

    /// The secret and the grant of an access key.
    pub(crate) fn key(&self, id: &str) -> Option<(&str, &Arc<Grant>)> {
        self.keys
            .get(id)
            .map(|key| (key.secret.as_str(), &key.grant))
    }

    /// Whose bearer token this is. Compares hashes, all of them, in constant time.
    pub(crate) fn token(&self, token: &[u8]) -> Option<&Arc<Grant>> {
        let hash: Hash = Sha256::digest(token).into();
        let mut found = 0u32;
        for (i, (known, _)) in (1u32..).zip(&self.tokens) {
            let same: Choice = known[..].ct_eq(&hash[..]);
            found = u32::conditional_select(&found, &i, same);
        }
        let index = found.checked_sub(1)?;
        self.tokens.get(index as usize).map(|(_, grant)| grant)
    }

    /// Whose certificate (DER) this is.
    pub(crate) fn certificate(&self, der: &[u8]) -> Option<&Arc<Grant>> {
        let hash: Hash = Sha256::digest(der).into();
        self.certificates.get(&hash)
    }

    /// How many callers are named.
    pub fn len(&self) -> usize {
        self.keys.len() + self.tokens.len() + self.certificates.len()
    }

    /// Never: a file without entries is refused. For the default value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Grant {
    fn new(
        label: &str,
        name: String,
        allow: Option<Vec<String>>,
        expires: Option<toml::value::Datetime>,
    ) -> Result<Arc<Self>, RulesError> {
        let refuse = |why| refuse(label.to_owned(), why);
        let scopes = match allow {
            Some(list) if list.is_empty() => {
                return Err(refuse("`allow` is empty: leave it out to allow everything"));
            }
            Some(list) => Some(
                list.iter()
                    .map(|scope| Scope::parse(scope))
                    .collect::<Option<_>>()
                    .ok_or_else(|| {
                        refuse("`allow` lists buckets (\"b\") and prefixes (\"b/p\")")
                    })?,
            ),
            None => None,
        };
        let expires = match expires {
            Some(at) => Some(
                OffsetDateTime::parse(&at.to_string(), &Rfc3339)
                    .map_err(|_| refuse("`expires` is a time with its zone: 2027-01-01T00:00:00Z"))?
                    .into(),
            ),
            None => None,
        };
        Ok(Arc::new(Self {
            owner: owner_of(&name),
            name,
            scopes,
            expires,
        }))
    }

    /// Whether it has ended.
    pub(crate) fn expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Whether the key may be read. One with a dot segment is covered only by a grant of everything:
    /// there are origins, and proxies in front of them, that would resolve it to another key.
    pub(crate) fn covers_key(&self, bucket: &str, key: &str) -> bool {
        if self.scopes.is_some()
            && key
                .split(['/', '\\'])
                .any(|part| matches!(part, "." | ".."))
        {
            return false;
        }
        self.any(|scope| scope.bucket == bucket && key.starts_with(&scope.prefix))
    }

    pub(crate) fn covers_bucket(&self, bucket: &str) -> bool {
        self.any(|scope| scope.bucket == bucket)
    }

    fn any(&self, holds: impl Fn(&Scope) -> bool) -> bool {
        self.scopes
            .as_ref()
            .is_none_or(|scopes| scopes.iter().any(holds))
    }
}

impl Scope {
    fn parse(text: &str) -> Option<Self> {
        let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
        let plain = !bucket.is_empty() && !bucket.contains('*');
        plain.then(|| Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

fn check_secret(label: &str, secret: &str) -> Result<(), RulesError> {
    if secret.len() < SECRET_LEN_MIN {
        return Err(refuse(
            label.to_owned(),
            "the secret has fewer than 16 characters",
        ));
    }
    if !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(refuse(
            label.to_owned(),
            "the secret has other than visible ASCII characters",
        ));
    }
    Ok(())
}

fn parse_hash(label: &str, hex: &str) -> Result<Hash, RulesError> {
    let digits: Option<Vec<u8>> = hex
        .bytes()
        .map(|b| char::from(b).to_digit(16).map(|d| d as u8))
        .collect();
    match digits {
        Some(digits) if digits.len() == 64 => Ok(std::array::from_fn(|i| {
            digits[2 * i] << 4 | digits[2 * i + 1]
        })),
        _ => Err(refuse(label.to_owned(), "sha256 is 64 hexadecimal digits")),
    }
}

fn refuse(entry: String, why: &'static str) -> RulesError {
    RulesError::Entry { entry, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECRET: &str = "0123456789abcdef";

    #[test]
    fn grants() {
        let rules = Rules::parse(&format!(
            r#"
            [[key]]
            id = "ALL"
            secret = "{SECRET}"
            [[key]]
            id = "SOME"
            secret = "{SECRET}"
            allow = ["models", "data/public/"]
            expires = 2001-09-09T01:46:40Z
            [[token]]
            name = "ci"
            token = "token-of-the-ci-job"
            [[token]]
            name = "hashed"
            sha256 = "{}"
            "#,
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        ))
        .unwrap();
        assert_eq!(rules.len(), 4);
        let (secret, all) = rules.key("ALL").unwrap();
        assert_eq!(secret, SECRET);
        assert!(all.covers_key("any", "a/../b") && all.covers_bucket("any"));
        let (_, some) = rules.key("SOME").unwrap();
        for (bucket, key, want) in [
            ("models", "x", true),
            ("models", "", true),
            ("data", "public/x", true),
            ("data", "public/", true),
            ("data", "public", false),
            ("data", "", false),
            ("data", "private/x", false),
            ("other", "public/x", false),
            ("data", "public/../private/x", false),
            ("data", "public/..", false),
            ("models", "./x", false),
            ("models", "a\\..\\b", false),
            ("models", "a..b/.c", true),
        ] {
            assert_eq!(some.covers_key(bucket, key), want, "{bucket}/{key}");
        }
        assert!(some.covers_bucket("data") && !some.covers_bucket("other"));
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        assert!(some.expired(end) && !some.expired(end - Duration::from_secs(1)));
        assert_eq!(
            rules.token(b"token-of-the-ci-job").unwrap().name,
            "token:ci"
        );
        assert_eq!(rules.token(b"test").unwrap().name, "token:hashed");
        assert!(rules.token(b"token-of-the-ci-joc").is_none());
        assert!(rules.key("NONE").is_none());
    }

    #[test]
    fn refused_files_never_quote_secrets() {
        let check = |text: &str, want: &str| {
            let error = Rules::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{error:?} should say {want:?}");
            assert!(!error.contains("hush"), "{error:?} quotes a secret");
        };
        check("", "nobody could read");
        check(
            "[[key]]\nid = \"A\"\nsecret = hush-hush-hush-hush\n",
            "line 3",
        );
        check(
            "[[key]]\nid = \"A\"\nsecret = \"hush-hush-hush-hush\"\nextra = 1\n",
            "unknown field",
        );
        check("[[key]]\nid = \"A\"\nsecret = \"hush\"\n", "fewer than 16");
        check(
            "[[key]]\nid = \"A/B\"\nsecret = \"hush-hush-hush-hush\"\n",
            "without a slash",
        );
        let key = "[[key]]\nid = \"A\"\nsecret = \"hush-hush-hush-hush\"\n";
        check(&format!("{key}{key}"), "given twice");
        check(&format!("{key}allow = []\n"), "is empty");
        check(&format!("{key}allow = [\"*\"]\n"), "lists buckets");
        check(&format!("{key}allow = [\"/x\"]\n"), "lists buckets");
        check(&format!("{key}expires = 2027-01-01\n"), "with its zone");
        check("[[token]]\nname = \"t\"\n", "either token or sha256");
        check(
            "[[token]]\nname = \"t\"\nsha256 = \"abc\"\n",
            "64 hexadecimal",
        );
        let token = "[[token]]\nname = \"t\"\ntoken = \"hush-hush-hush-hush\"\n";
        check(&format!("{token}{token}"), "the same token");
    }
}
