//! The signatures of one server under one object.

use super::{flaw::Flaw, keyset::KeyAt};
use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName,
    serde::{Base64, base64::Standard},
};

/// How many signatures of one server may stand under an object. Servers sign with one key; while they
/// change keys, with two.
const SIGNATURES_MAX: usize = 8;

/// What one server signed with, read but not checked. Those of other kinds than ed25519 are left out.
#[derive(Debug, Clone)]
pub(super) struct Signatures {
    pub(super) server: OwnedServerName,
    all: Box<[Signature]>,
}

/// The key's id, and the signature; `None` if that is none by its form.
type Signature = (Box<str>, Option<[u8; 64]>);

impl Signatures {
    /// Those of `server` under `object`.
    pub(super) fn of(object: &CanonicalJsonObject, server: OwnedServerName) -> Result<Self, Flaw> {
        let Some(CanonicalJsonValue::Object(servers)) = object.get("signatures") else {
            return Err(Flaw::format("signatures", "not an object"));
        };
        let of_server = match servers.get(server.as_str()) {
            None => return Err(Flaw::MissingSignature { server }),
            Some(CanonicalJsonValue::Object(of_server)) => of_server,
            Some(_) => return Err(Flaw::format("signatures", "not an object of objects")),
        };
        if of_server.len() > SIGNATURES_MAX {
            return Err(Flaw::TooManySignatures {
                what: "signatures of one server",
                max: SIGNATURES_MAX,
            });
        }
        let all: Box<[Signature]> = of_server
            .iter()
            .filter(|(id, _)| id.starts_with("ed25519:"))
            .map(|(id, signature)| (id.as_str().into(), signature_bytes(signature)))
            .collect();
        if all.is_empty() {
            return Err(Flaw::MissingSignature { server });
        }
        Ok(Self { server, all })
    }

    /// The ids of the keys, in order.
    pub(super) fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(id, _)| &**id)
    }

    /// Checks that they fit to `signed`, each of which the key is known and valid; one at least must
    /// be. `at_ms` is only told on.
    pub(super) fn check<'k>(
        &self,
        key: impl Fn(&str) -> KeyAt<'k>,
        signed: &[u8],
        at_ms: Option<i64>,
    ) -> Result<(), Flaw> {
        let mut checked = false;
        let mut over: Option<(&str, u64)> = None;
        for (id, signature) in &self.all {
            match key(id) {
                KeyAt::Unknown => {}
                KeyAt::Over { valid_until_ms } => {
                    if over.is_none_or(|(_, longest)| valid_until_ms > longest) {
                        over = Some((id, valid_until_ms));
                    }
                }
                KeyAt::Valid(key) => {
                    let fits = |signature| key.fits(signed, signature);
                    if !signature.as_ref().is_some_and(fits) {
                        return Err(Flaw::BadSignature {
                            server: self.server.clone(),
                            key: id.to_string(),
                        });
                    }
                    checked = true;
                }
            }
        }
        if checked {
            return Ok(());
        }
        let server = self.server.clone();
        Err(match over {
            Some((key, valid_until_ms)) => Flaw::KeyNotValid {
                server,
                key: key.to_owned(),
                valid_until_ms,
                at_ms: at_ms.unwrap_or(0),
            },
            None => Flaw::NoKey {
                server,
                keys: self.key_ids().map(str::to_owned).collect(),
            },
        })
    }
}

fn signature_bytes(signature: &CanonicalJsonValue) -> Option<[u8; 64]> {
    let text = signature.as_str()?;
    // As `ruma` reads it: with padding or without, and whatever the last bits are.
    Base64::<Standard, [u8; 64]>::parse(text)
        .ok()
        .map(Base64::into_inner)
}
