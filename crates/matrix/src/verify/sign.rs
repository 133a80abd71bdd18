//! A server's own signing key, as Synapse keeps it in a file, and what it signs.

use super::flaw::Flaw;
use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ruma_common::{CanonicalJsonObject, ServerName};
use ruma_signatures::{Ed25519KeyPair, KeyPair as _, sign_json};
use std::fmt;
use thiserror::Error;
use zeroize::Zeroizing;

/// A private ed25519 key with its id. It is wiped from memory when it is dropped, and never shown.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    id: String,
}

/// What is wrong with a file of signing keys. Says nothing of what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// There is no key in the file: Synapse makes one when it first starts.
    #[error("there is no signing key in the file")]
    Empty,
    /// A line is not `ed25519 NAME SEED`.
    #[error("line {line} of the signing key file: {why}")]
    Line {
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What comes before the seed in the DER form of a private key (RFC 8410), which is the form that
/// `ruma` takes one in.
const DER: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl SigningKey {
    /// The keys of a file in Synapse's format: on each line the algorithm (`ed25519`), the key's name
    /// and its seed in base64. Empty lines, and those that begin with `#`, are passed over. Synapse
    /// signs with the first.
    ///
    /// The text holds the secret: it is for the caller to wipe it.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, KeyFileError> {
        let mut keys = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key =
                Self::parse_line(line).map_err(|why| KeyFileError::Line { line: n + 1, why })?;
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyFileError::Empty);
        }
        Ok(keys)
    }

    fn parse_line(line: &str) -> Result<Self, &'static str> {
        let mut words = line.split_ascii_whitespace();
        let (Some(algorithm), Some(name), Some(text), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("not three words: ed25519, a name, and a seed in base64");
        };
        if algorithm != "ed25519" {
            return Err("of an algorithm other than ed25519");
        }
        // As large as whatever has room on a line that is right, and no more.
        let mut seed = Zeroizing::new([0u8; 36]);
        match BASE64.decode_slice(text, &mut *seed) {
            Ok(32) => {}
            _ => return Err("the seed is not 32 bytes in base64"),
        }
        let mut exact = Zeroizing::new([0u8; 32]);
        exact.copy_from_slice(&seed[..32]);
        Self::from_seed(name, &exact)
    }

    /// The key that grows from `seed`, by `name`: letters, digits and `_`. An error says what is wrong.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, &'static str> {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.+/".contains(&byte);
        if name.is_empty() || name.len() > 128 || !name.bytes().all(fine) {
            return Err("the name is not of letters, digits and _");
        }
        let mut der = Zeroizing::new([0u8; 48]);
        der[..16].copy_from_slice(&DER);
        der[16..].copy_from_slice(seed);
        let pair = Ed25519KeyPair::from_der(&*der, name.to_owned())
            .map_err(|_| "the seed makes no key")?;
        Ok(Self {
            pair,
            id: format!("ed25519:{name}"),
        })
    }

    /// Its id: `ed25519:` and its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.pair.public_key()
    }

    /// As `ruma` takes it, to hash and sign events with.
    pub fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }

    /// Signs `object` for `server`: adds to its `signatures`.
    pub fn sign_object(
        &self,
        server: &ServerName,
        object: &mut CanonicalJsonObject,
    ) -> Result<(), Flaw> {
        sign_json(server.as_str(), &self.pair, object)
            .map_err(|_| Flaw::format("signatures", "not an object of objects"))
    }

    /// The signature under `message`.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        signature
            .as_bytes()
            .try_into()
            .expect("a signature of ed25519 has 64 bytes")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma_common::serde::Base64;

    /// The key of the specification's examples.
    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";

    fn example() -> SigningKey {
        let mut keys = SigningKey::parse_file(&format!("ed25519 1 {SEED}\n")).unwrap();
        assert_eq!(keys.len(), 1);
        keys.pop().unwrap()
    }

    #[test]
    fn the_specification_s_examples_of_signing() {
        for (object, want) in [
            (
                "{}",
                r#"{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}"#,
            ),
            (
                r#"{"one":1,"two":"Two"}"#,
                r#"{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}"#,
            ),
        ] {
            let mut object: CanonicalJsonObject = serde_json::from_str(object).unwrap();
            let server = <&ServerName>::try_from("domain").unwrap();
            example().sign_object(server, &mut object).unwrap();
            assert_eq!(serde_json::to_string(&object).unwrap(), want);
        }
    }

    #[test]
    fn the_specification_s_examples_of_events() {
        for (event, want) in [
            (
                r#"{"room_id":"!x:domain","sender":"@a:domain","origin":"domain",
                    "origin_server_ts":1000000,"signatures":{},"hashes":{},"type":"X","content":{},
                    "prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}"#,
                r#"{"auth_events":[],"content":{},"depth":3,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin":"domain","origin_server_ts":1000000,"prev_events":[],"room_id":"!x:domain","sender":"@a:domain","signatures":{"domain":{"ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"type":"X","unsigned":{"age_ts":1000000}}"#,
            ),
            (
                r#"{"content":{"body":"Here is the message content"},"event_id":"$0:domain",
                    "origin":"domain","origin_server_ts":1000000,"type":"m.room.message",
                    "room_id":"!r:domain","sender":"@u:domain","signatures":{},
                    "unsigned":{"age_ts":1000000}}"#,
                r#"{"content":{"body":"Here is the message content"},"event_id":"$0:domain","hashes":{"sha256":"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"},"origin":"domain","origin_server_ts":1000000,"room_id":"!r:domain","sender":"@u:domain","signatures":{"domain":{"ed25519:1":"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"}},"type":"m.room.message","unsigned":{"age_ts":1000000}}"#,
            ),
        ] {
            let mut event: CanonicalJsonObject = serde_json::from_str(event).unwrap();
            let rules = ruma_common::room_version_rules::RedactionRules::V1;
            let key = example();
            ruma_signatures::hash_and_sign_event("domain", key.pair(), &mut event, &rules).unwrap();
            assert_eq!(serde_json::to_string(&event).unwrap(), want);
        }
    }

    #[test]
    fn files_are_read_as_synapse_reads_them() {
        let key = example();
        assert_eq!(key.id(), "ed25519:1");
        assert_eq!(
            Base64::<ruma_common::serde::base64::Standard, _>::new(key.public_key()).encode(),
            "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI"
        );
        let ids = |text: &str| -> Result<Vec<String>, KeyFileError> {
            let keys = SigningKey::parse_file(text)?;
            Ok(keys.iter().map(|key| key.id().to_owned()).collect())
        };
        let two = format!("# ours\n\ned25519 a_abcd {SEED}\r\n  ed25519\ta_old  {SEED}=  \n");
        assert_eq!(ids(&two).unwrap(), ["ed25519:a_abcd", "ed25519:a_old"]);
        assert_eq!(ids("\n# none\n"), Err(KeyFileError::Empty));
        for (line, why) in [
            (
                "ed25519 1",
                "not three words: ed25519, a name, and a seed in base64",
            ),
            (
                "ed25519 1 a b",
                "not three words: ed25519, a name, and a seed in base64",
            ),
            ("curve25519 1 aaaa", "of an algorithm other than ed25519"),
            ("ed25519 1 aaaa", "the seed is not 32 bytes in base64"),
            ("ed25519 1 ====", "the seed is not 32 bytes in base64"),
            (
                &format!("ed25519 1 {SEED}{SEED}"),
                "the seed is not 32 bytes in base64",
            ),
            (
                &format!("ed25519 \" {SEED}"),
                "the name is not of letters, digits and _",
            ),
        ] {
            let text = format!("# a file\n{line}");
            assert_eq!(
                ids(&text),
                Err(KeyFileError::Line { line: 2, why }),
                "{line}"
            );
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(
            format!("{:?}", example()),
            r#"SigningKey { id: "ed25519:1", .. }"#
        );
    }
}
