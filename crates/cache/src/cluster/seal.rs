//! Answers without frames: refusals, and what is said to purges, warmings and looks.
//!
//! With a shared secret the way is open to whoever can change what passes. So such an answer bears a
//! checksum of its status and body, in the header `gannet-answer`, with a key that is derived from the
//! secret, the path and the whole request; and each request has a number drawn for it alone, so that no
//! other request's answer fits. One whose checksum does not fit is none. (An error of the link itself
//! bears none: it says no more than that there is no answer.)

use blake3::{Hash, Hasher};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, Limited};

const TAG: HeaderName = HeaderName::from_static("gannet-answer");

/// What the answer to one request is sealed with.
#[derive(Clone)]
pub(super) struct Seal([u8; 32]);

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unread {
    #[error("{0}")]
    Broken(String),
    #[error("an answer whose checksum does not fit: changed on its way, or of another request")]
    Unsealed,
}

impl Seal {
    pub(super) fn new(secret: &[u8; 32], path: &str, request: &[u8]) -> Self {
        let mut hasher = Hasher::new_derive_key("gannet cluster answer without frames 1");
        hasher.update(secret);
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        hasher.update(request);
        Self(*hasher.finalize().as_bytes())
    }

    fn tag(&self, status: StatusCode, body: &[u8]) -> Hash {
        let mut hasher = Hasher::new_keyed(&self.0);
        hasher.update(&status.as_u16().to_le_bytes());
        hasher.update(body);
        hasher.finalize()
    }

    /// An answer that others can be sure of.
    pub(super) fn answer(&self, status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
        let tag = self.tag(status, &body).to_hex();
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let tag = HeaderValue::from_str(&tag).expect("hexadecimal digits are visible ASCII");
        response.headers_mut().insert(TAG, tag);
        response
    }

    /// Reads an answer of so many bytes at most, and makes sure of it.
    pub(super) async fn read<B>(
        &self,
        answer: Response<B>,
        bytes_max: usize,
    ) -> Result<(StatusCode, Bytes), Unread>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, bytes_max).collect().await;
        let body = body
            .map_err(|error| Unread::Broken(error.to_string()))?
            .to_bytes();
        let tag = head.headers.get(TAG).map(HeaderValue::as_bytes);
        let tag = tag.and_then(|tag| Hash::from_hex(tag).ok());
        // `Hash` compares in constant time.
        if tag != Some(self.tag(head.status, &body)) {
            return Err(Unread::Unsealed);
        }
        Ok((head.status, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    #[tokio::test]
    async fn what_is_changed_or_of_another_request_is_no_answer() {
        let seal = Seal::new(&SECRET, "/purge", b"{\"nonce\":\"1\"}");
        let sealed = || seal.answer(StatusCode::CONFLICT, Bytes::from_static(b"body"));
        let read = seal.read(sealed(), 100).await;
        assert_eq!(read, Ok((StatusCode::CONFLICT, "body".into())));
        for other in [
            Seal::new(&[8; 32], "/purge", b"{\"nonce\":\"1\"}"),
            Seal::new(&SECRET, "/purg", b"e{\"nonce\":\"1\"}"),
            Seal::new(&SECRET, "/warm", b"{\"nonce\":\"1\"}"),
            Seal::new(&SECRET, "/purge", b"{\"nonce\":\"2\"}"),
        ] {
            assert_eq!(other.read(sealed(), 100).await, Err(Unread::Unsealed));
        }
        let mut changed = [sealed(), sealed(), sealed(), sealed()];
        *changed[0].status_mut() = StatusCode::OK;
        *changed[1].body_mut() = Full::new("Body".into());
        changed[2].headers_mut().remove(TAG);
        changed[3]
            .headers_mut()
            .insert(TAG, HeaderValue::from_static("1"));
        for changed in changed {
            assert_eq!(seal.read(changed, 100).await, Err(Unread::Unsealed));
        }
        let long = seal.read(sealed(), 3).await;
        assert!(matches!(long, Err(Unread::Broken(_))), "{long:?}");
    }
}
