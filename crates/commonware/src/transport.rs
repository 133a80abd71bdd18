//! The wire format, and requests under way.
//!
//! A message is an id (8 bytes), a tag (1 byte) and what follows from it: a key, the bytes of an
//! answer behind their length, or nothing where the data is missing.

use crate::{
    machine::{AttemptId, FetchId, SourceId, Time},
    slots::Slots,
};
use bytes::{BufMut, Bytes};
use commonware_codec::{Buf, BufsMut, EncodeSize, Error, FixedSize, Read, ReadExt, Write};
use commonware_utils::Span;
use std::sync::Arc;

const REQUEST: u8 = 0;
const RESPONSE: u8 = 1;
const MISSING: u8 = 2;

/// A message between peers. An answer has the id of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message<K> {
    pub(crate) id: u64,
    pub(crate) payload: Payload<K>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload<K> {
    /// Send me this.
    Request(K),
    /// Here it is.
    Response(Bytes),
    /// There is nothing to send, for whatever reason.
    Missing,
}

impl<K> Payload<K> {
    const fn tag(&self) -> u8 {
        match self {
            Self::Request(_) => REQUEST,
            Self::Response(_) => RESPONSE,
            Self::Missing => MISSING,
        }
    }
}

impl<K: Span> Write for Message<K> {
    fn write(&self, buf: &mut impl BufMut) {
        buf.put_u64(self.id);
        buf.put_u8(self.payload.tag());
        match &self.payload {
            Payload::Request(key) => key.write(buf),
            Payload::Response(bytes) => bytes.write(buf),
            Payload::Missing => {}
        }
    }

    /// As above, without copying the bytes of an answer.
    fn write_bufs(&self, buf: &mut impl BufsMut) {
        match &self.payload {
            Payload::Response(bytes) => {
                buf.put_u64(self.id);
                buf.put_u8(RESPONSE);
                bytes.write_bufs(buf);
            }
            _ => self.write(buf),
        }
    }
}

impl<K: Span> Message<K> {
    /// As it is sent, in one piece: for messages that are small.
    pub(crate) fn packed(&self) -> Vec<u8> {
        let mut buf = Vec::with_capacity(self.encode_size());
        self.write(&mut buf);
        buf
    }
}

impl<K: Span> EncodeSize for Message<K> {
    fn encode_size(&self) -> usize {
        let rest = match &self.payload {
            Payload::Request(key) => key.encode_size(),
            Payload::Response(bytes) => bytes.encode_size(),
            Payload::Missing => 0,
        };
        u64::SIZE + u8::SIZE + rest
    }

    fn encode_inline_size(&self) -> usize {
        let rest = match &self.payload {
            Payload::Request(key) => key.encode_size(),
            Payload::Response(bytes) => bytes.encode_inline_size(),
            Payload::Missing => 0,
        };
        u64::SIZE + u8::SIZE + rest
    }
}

impl<K: Span> Read for Message<K> {
    type Cfg = ();

    fn read_cfg(buf: &mut impl Buf, (): &()) -> Result<Self, Error> {
        let id = u64::read(buf)?;
        let payload = match u8::read(buf)? {
            REQUEST => Payload::Request(K::read(buf)?),
            // The length is checked against the buffer before anything is allocated for it.
            RESPONSE => Payload::Response(Bytes::read_cfg(buf, &(..).into())?),
            MISSING => Payload::Missing,
            _ => return Err(Error::Invalid("Message", "unknown tag")),
        };
        Ok(Self { id, payload })
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Request<P> {
    pub(crate) fetch: FetchId,
    pub(crate) source: SourceId,
    pub(crate) peer: Arc<P>,
    pub(crate) began: Time,
}

/// Requests under way, by the attempts that they are.
///
/// The id on the wire is the number of the attempt, counted from a random start: attempts are
/// numbered once and for all, so no two requests of a run share an id.
#[derive(Debug)]
pub(crate) struct Requests<P> {
    first: u64,
    under_way: Slots<AttemptId, Request<P>>,
}

impl<P: PartialEq> Requests<P> {
    pub(crate) const fn new(first: u64) -> Self {
        Self {
            first,
            under_way: Slots::new(),
        }
    }

    pub(crate) const fn id(&self, attempt: AttemptId) -> u64 {
        self.first.wrapping_add(attempt.0)
    }

    pub(crate) fn sent(&mut self, attempt: AttemptId, request: Request<P>) {
        self.under_way.insert(attempt, request);
    }

    /// The request that this is the answer to, if the one who was asked has sent it. It is under
    /// way no more.
    pub(crate) fn answered(&mut self, id: u64, peer: &P) -> Option<(AttemptId, Request<P>)> {
        let attempt = AttemptId(id.wrapping_sub(self.first));
        if self.under_way.get(attempt)?.peer.as_ref() != peer {
            return None;
        }
        Some((attempt, self.under_way.remove(attempt)?))
    }

    pub(crate) fn given_up(&mut self, attempt: AttemptId) -> Option<Request<P>> {
        self.under_way.remove(attempt)
    }

    pub(crate) fn len(&self) -> usize {
        self.under_way.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use commonware_codec::{DecodeExt as _, Encode as _};

    fn message(payload: Payload<u16>) -> Message<u16> {
        let id = 0x0102_0304_0506_0708;
        Message { id, payload }
    }

    #[test]
    fn bytes_on_the_wire() {
        let head = [1, 2, 3, 4, 5, 6, 7, 8];
        let long = vec![7; 200];
        let behind = |tail: &[&[u8]]| [&head[..], &tail.concat()].concat();
        for (payload, bytes) in [
            (Payload::Request(0x0a0b), behind(&[&[0, 0x0a, 0x0b]])),
            (Payload::Response(Bytes::new()), behind(&[&[1, 0]])),
            (
                Payload::Response(Bytes::from(long.clone())),
                behind(&[&[1, 0xc8, 1], &long]),
            ),
            (Payload::Missing, behind(&[&[2]])),
        ] {
            let message = message(payload);
            assert_eq!(message.encode(), bytes);
            assert_eq!(Message::<u16>::decode(Bytes::from(bytes)).unwrap(), message);
        }
    }

    #[test]
    fn refuses_what_is_malformed() {
        let whole = message(Payload::Response(Bytes::from_static(b"abc"))).encode();
        for end in 0..whole.len() {
            assert!(Message::<u16>::decode(whole.slice(..end)).is_err(), "{end}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(Message::<u16>::decode(Bytes::from(longer)).is_err());
        for tag in 3..=u8::MAX {
            let mut bytes = whole.to_vec();
            bytes[8] = tag;
            assert!(Message::<u16>::decode(Bytes::from(bytes)).is_err(), "{tag}");
        }
        // A length that nothing stands behind.
        let huge = [&whole[..9], &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
        assert!(Message::<u16>::decode(Bytes::from(huge)).is_err());
    }

    #[test]
    fn answers_are_matched_by_id_and_sender() {
        let mut requests = Requests::new(u64::MAX - 1);
        for n in 0..4 {
            let request = Request {
                fetch: FetchId(n),
                source: SourceId(n),
                peer: Arc::new(n),
                began: Time::ZERO,
            };
            requests.sent(AttemptId(n), request);
        }
        assert_eq!(requests.id(AttemptId(3)), 1, "ids wrap");
        assert!(requests.answered(1, &2).is_none(), "from somebody else");
        assert!(requests.answered(2, &3).is_none(), "never asked");
        assert_eq!(requests.answered(1, &3).unwrap().0, AttemptId(3));
        assert!(requests.answered(1, &3).is_none(), "twice");
        assert!(requests.given_up(AttemptId(2)).is_some());
        assert!(requests.answered(0, &2).is_none(), "too late");
        assert_eq!(requests.len(), 2);
    }
}
