//! [`Homeserver`]: signs with a key that is at hand.

use super::{Sign, ToSign};
use crate::verify::{
    sign::SigningKey,
    xmatrix::{Request, XMatrix},
};
use http::HeaderValue;
use ruma_common::{CanonicalJsonValue, OwnedServerName, ServerName};

/// A homeserver's name and its key, as which requests are signed.
#[derive(Debug)]
pub struct Homeserver {
    name: OwnedServerName,
    key: SigningKey,
}

impl Homeserver {
    /// A homeserver that signs with this key.
    pub fn new(name: OwnedServerName, key: SigningKey) -> Self {
        Self { name, key }
    }
}

impl Sign for Homeserver {
    fn origin(&self) -> &ServerName {
        &self.name
    }

    fn authorization(&self, request: &ToSign<'_>) -> Result<HeaderValue, String> {
        let content = request
            .content
            .map(serde_json::from_slice::<CanonicalJsonValue>);
        let content = content.transpose();
        let content = content.map_err(|error| format!("its body is no canonical JSON: {error}"))?;
        let request = Request {
            method: request.method.as_str(),
            uri: request.uri,
            origin: &self.name,
            destination: request.destination,
            content: content.as_ref(),
        };
        let header = XMatrix::sign(&request, &self.key).map_err(|flaw| flaw.to_string())?;
        HeaderValue::try_from(header.to_string()).map_err(|error| error.to_string())
    }
}
