//! How servers prove to each other who asks: `Authorization: X-Matrix ...`.

use super::{
    flaw::Flaw,
    keyset::{KeyAt, KeySet},
    sign::SigningKey,
};
use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    serde::{Base64, base64::Standard},
};
use ruma_signatures::to_canonical_json_string_for_signing;
use std::{borrow::Cow, fmt};
use thiserror::Error;

/// How long the value of the header may be, in bytes.
pub const X_MATRIX_BYTES_MAX: usize = 4096;

/// A request between servers, as it is signed.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST`, ...
    pub method: &'a str,
    /// Path and query, as they are sent.
    pub uri: &'a str,
    /// Who asks.
    pub origin: &'a ServerName,
    /// Who is asked.
    pub destination: &'a ServerName,
    /// The body, if there is one. It is sent in canonical form or not, but says the same.
    pub content: Option<&'a CanonicalJsonValue>,
}

/// The value of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XMatrix {
    /// Who says that it asks.
    pub origin: OwnedServerName,
    /// Who it means to ask. Servers before version 1.3 of the specification did not say.
    pub destination: Option<OwnedServerName>,
    /// The id of its key.
    pub key: String,
    /// The signature under the request.
    pub signature: [u8; 64],
}

/// What is wrong with the value of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum XMatrixError {
    /// Longer than [`X_MATRIX_BYTES_MAX`].
    #[error("the header is longer than {X_MATRIX_BYTES_MAX} bytes")]
    TooLong,
    /// Of another scheme than `X-Matrix`.
    #[error("not of the scheme X-Matrix")]
    Scheme,
    /// Not a list of names and values.
    #[error("not a list of parameters")]
    Syntax,
    /// A parameter stands twice.
    #[error("the parameter {0} stands twice")]
    Twice(&'static str),
    /// A parameter is missing, or is not what it has to be.
    #[error("the parameter {0} is missing or malformed")]
    Parameter(&'static str),
}

impl Request<'_> {
    /// The text that is signed.
    fn signed(&self) -> Result<String, Flaw> {
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let mut object = CanonicalJsonObject::new();
        object.insert("method".to_owned(), text(self.method));
        object.insert("uri".to_owned(), text(self.uri));
        object.insert("origin".to_owned(), text(self.origin.as_str()));
        object.insert("destination".to_owned(), text(self.destination.as_str()));
        if let Some(content) = self.content {
            object.insert("content".to_owned(), content.clone());
        }
        to_canonical_json_string_for_signing(&object)
            .map_err(|_| Flaw::format("content", "has no canonical form"))
    }
}

impl XMatrix {
    /// The header for `request`, signed with `key`, which is its origin's. [`XMatrix`] shows itself as
    /// the header's value.
    pub fn sign(request: &Request<'_>, key: &SigningKey) -> Result<Self, Flaw> {
        Ok(Self {
            origin: request.origin.to_owned(),
            destination: Some(request.destination.to_owned()),
            key: key.id().to_owned(),
            signature: key.sign(request.signed()?.as_bytes()),
        })
    }

    /// Reads the value of a header, in the forms that servers send it: names in either case, values
    /// quoted or not, with colons and padding either way, and parameters that are not known.
    pub fn parse(header: &[u8]) -> Result<Self, XMatrixError> {
        if header.len() > X_MATRIX_BYTES_MAX {
            return Err(XMatrixError::TooLong);
        }
        let header = str::from_utf8(header).map_err(|_| XMatrixError::Syntax)?;
        const SCHEME: &str = "X-Matrix";
        let rest = match header.split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            _ => return Err(XMatrixError::Scheme),
        };
        if !rest.starts_with([' ', '\t']) {
            return Err(XMatrixError::Scheme);
        }
        let [origin, destination, key, signature] = parameters(rest)?;
        let server =
            |value: &str, name| ServerName::parse(value).map_err(|_| XMatrixError::Parameter(name));
        let key = key.filter(|key| key.len() > "ed25519:".len() && key.starts_with("ed25519:"));
        let signature = signature.and_then(|text| Base64::<Standard, [u8; 64]>::parse(&*text).ok());
        Ok(Self {
            origin: server(&origin.ok_or(XMatrixError::Parameter("origin"))?, "origin")?,
            destination: destination
                .map(|value| server(&value, "destination"))
                .transpose()?,
            key: key.ok_or(XMatrixError::Parameter("key"))?.into_owned(),
            signature: *signature.ok_or(XMatrixError::Parameter("sig"))?.as_inner(),
        })
    }

    /// Checks that `request` was signed by whom it says, with one of `keys` that is valid at `now_ms`
    /// (milliseconds since 1970). A header that names another origin or destination than the request
    /// is refused.
    pub fn check(&self, request: &Request<'_>, keys: &KeySet, now_ms: u64) -> Result<(), Flaw> {
        let named = [
            (Some(&self.origin), request.origin),
            (self.destination.as_ref(), request.destination),
        ];
        for (got, asked) in named {
            if let Some(got) = got.filter(|got| *got != asked) {
                return Err(Flaw::WrongServer {
                    asked: asked.to_owned(),
                    got: got.to_string(),
                });
            }
        }
        let at_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let server = self.origin.clone();
        match keys.key(&self.origin, &self.key, Some(at_ms)) {
            KeyAt::Unknown => Err(Flaw::NoKey {
                server,
                keys: vec![self.key.clone()],
            }),
            KeyAt::Over { valid_until_ms } => Err(Flaw::KeyNotValid {
                server,
                key: self.key.clone(),
                valid_until_ms,
                at_ms,
            }),
            KeyAt::Valid(key) => {
                let signed = request.signed()?;
                if key.fits(signed.as_bytes(), &self.signature) {
                    return Ok(());
                }
                Err(Flaw::BadSignature {
                    server,
                    key: self.key.clone(),
                })
            }
        }
    }
}

impl fmt::Display for XMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X-Matrix origin=\"{}\"", self.origin)?;
        if let Some(destination) = &self.destination {
            write!(f, ",destination=\"{destination}\"")?;
        }
        f.write_str(",key=\"")?;
        for c in self.key.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        let signature = Base64::<Standard, _>::new(&self.signature[..]);
        write!(f, "\",sig=\"{}\"", signature.encode())
    }
}

const NAMES: [&str; 4] = ["origin", "destination", "key", "sig"];

/// The values of the parameters that are known, of `name=value, name="value"`.
fn parameters(mut rest: &str) -> Result<[Option<Cow<'_, str>>; 4], XMatrixError> {
    const SPACE: [char; 2] = [' ', '\t'];
    let mut values = [const { None }; 4];
    loop {
        // A list may have empty elements.
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Ok(values);
        }
        let (name, after) = rest.split_once('=').ok_or(XMatrixError::Syntax)?;
        let name = name.trim_end_matches(SPACE);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(XMatrixError::Syntax);
        }
        let (value, after) = value(after.trim_start_matches(SPACE))?;
        if let Some(n) = NAMES
            .iter()
            .position(|known| known.eq_ignore_ascii_case(name))
            && values[n].replace(value).is_some()
        {
            return Err(XMatrixError::Twice(NAMES[n]));
        }
        rest = after.trim_start_matches(SPACE);
        if !rest.is_empty() && !rest.starts_with(',') {
            return Err(XMatrixError::Syntax);
        }
    }
}

/// A value, and what comes after it.
fn value(text: &str) -> Result<(Cow<'_, str>, &str), XMatrixError> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Not only what may stand unquoted, but what servers do send so: colons, padding.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        let fine = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        if value.is_empty() || !value.bytes().all(fine) {
            return Err(XMatrixError::Syntax);
        }
        return Ok((value.into(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((n, c)) = chars.next() {
        match c {
            '"' => return Ok((value.into(), &quoted[n + 1..])),
            '\\' => value.push(chars.next().ok_or(XMatrixError::Syntax)?.1),
            _ => value.push(c),
        }
    }
    Err(XMatrixError::Syntax)
}

/// What names are made of (RFC 9110).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
