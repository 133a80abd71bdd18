//! Frames: how an answer travels from member to member.
//!
//! ```text
//! kind: 1 | length: 4 LE | offset: 8 LE | tag: 16 | payload: length
//! tag = BLAKE3 keyed with the answer's key, over: number of the frame: 8 LE | kind | length | offset | payload
//! key = BLAKE3 derived from the cluster's secret (if it has one) and the request, word for word
//! ```
//!
//! A request names the chunk, the byte and a number drawn for it alone, so a tag fits one place in one
//! answer: bytes that are corrupted, left out, repeated, or of another chunk do not pass. No byte of a
//! frame is used before its tag is checked. An answer is whole when its [`Kind::End`] has come: one
//! that merely stops is broken off.

use bytes::{Buf as _, Bytes, BytesMut};
use std::collections::VecDeque;

/// Bytes before the payload.
const HEADER: usize = 29;
/// The longest payload of bytes: one frame is checked in a fraction of a millisecond.
pub(crate) const DATA_BYTES_MAX: usize = 256 << 10;
/// The longest payload of text: a page of a thousand long names.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What precedes the bytes, or the whole of an answer that has none: JSON.
    Head = 1,
    /// Bytes of the datum from the offset on.
    Data = 2,
    /// Nothing yet, but somebody is at work; the offset says how often that was passed on.
    Beat = 3,
    /// That was all.
    End = 4,
    /// It cannot be had: JSON.
    Fail = 5,
    /// Another member has it: its address.
    Refer = 6,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Head,
            2 => Self::Data,
            3 => Self::Beat,
            4 => Self::End,
            5 => Self::Fail,
            6 => Self::Refer,
            _ => return None,
        })
    }
}

/// The key of the answer to one request.
pub(crate) fn answer_key(secret: &[u8; 32], request: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("gannet cluster answer 1");
    hasher.update(secret);
    hasher.update(request);
    *hasher.finalize().as_bytes()
}

fn tag<'a>(
    key: &[u8; 32],
    number: u64,
    head: &[u8],
    payload: impl IntoIterator<Item = &'a [u8]>,
) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&number.to_le_bytes());
    hasher.update(head);
    for part in payload {
        hasher.update(part);
    }
    let mut tag = [0; 16];
    tag.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    tag
}

/// Writes the frames of one answer.
#[derive(Debug)]
pub(crate) struct Encoder {
    key: [u8; 32],
    number: u64,
}

impl Encoder {
    pub(crate) const fn new(key: [u8; 32]) -> Self {
        Self { key, number: 0 }
    }

    /// What goes before this payload, which goes out as it is.
    ///
    /// # Panics
    /// On a payload longer than any frame may be, which is the caller's mistake.
    pub(crate) fn head(&mut self, kind: Kind, offset: u64, payload: &[u8]) -> Bytes {
        let len = u32::try_from(payload.len()).expect("payloads are cut to a few megabytes");
        let mut head = BytesMut::with_capacity(HEADER);
        head.extend_from_slice(&[kind as u8]);
        head.extend_from_slice(&len.to_le_bytes());
        head.extend_from_slice(&offset.to_le_bytes());
        let tag = tag(&self.key, self.number, &head, [payload]);
        head.extend_from_slice(&tag);
        self.number += 1;
        head.freeze()
    }

    /// A sign of life that will have been passed on so often.
    pub(crate) fn beat(&mut self, hops: u8) -> Bytes {
        self.head(Kind::Beat, hops.into(), b"")
    }

    /// A whole frame; for short ones.
    pub(crate) fn frame(&mut self, kind: Kind, payload: &[u8]) -> Bytes {
        let mut frame = BytesMut::from(self.head(kind, 0, payload));
        frame.extend_from_slice(payload);
        frame.freeze()
    }
}

/// One frame that has come, and fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) offset: u64,
    /// In the parts in which it came: nothing is copied.
    pub(crate) payload: Vec<Bytes>,
}

impl Frame {
    /// The payload in one piece.
    pub(crate) fn text(mut self) -> Bytes {
        if self.payload.len() == 1 {
            return self.payload.swap_remove(0);
        }
        self.payload.concat().into()
    }
}

/// A frame that does not fit: corrupted, out of place, of another answer, or no frame at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of no known kind")]
    Kind,
    #[error("a frame of {0} bytes, which is too long")]
    Length(u32),
    #[error("a frame whose checksum does not fit: corrupted, or of another answer")]
    Tag,
}

/// Reads the frames of one answer. Holds at most one frame, and what came with its end.
#[derive(Debug)]
pub(crate) struct Decoder {
    key: [u8; 32],
    number: u64,
    parts: VecDeque<Bytes>,
    held: usize,
    /// What the header said, once it is here.
    expected: Option<Expected>,
}

#[derive(Debug)]
struct Expected {
    kind: Kind,
    offset: u64,
    len: usize,
    head: [u8; HEADER],
}

impl Decoder {
    pub(crate) const fn new(key: [u8; 32]) -> Self {
        Self {
            key,
            number: 0,
            parts: VecDeque::new(),
            held: 0,
            expected: None,
        }
    }

    /// Takes bytes as they come.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.held += bytes.len();
            self.parts.push_back(bytes);
        }
    }

    /// The next frame, if all of it is here.
    ///
    /// # Errors
    /// Nothing that follows can be read then.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.expected.is_none() {
            if self.held < HEADER {
                return Ok(None);
            }
            self.expected = Some(self.header()?);
        }
        let Some(expected) = self.expected.take_if(|expected| self.held >= expected.len) else {
            return Ok(None);
        };
        let payload = self.take(expected.len);
        let (head, tag_sent) = expected.head.split_at(HEADER - 16);
        let tag = tag(
            &self.key,
            self.number,
            head,
            payload.iter().map(|part| &**part),
        );
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&tag[..], tag_sent)) {
            return Err(FrameError::Tag);
        }
        self.number += 1;
        Ok(Some(Frame {
            kind: expected.kind,
            offset: expected.offset,
            payload,
        }))
    }

    fn header(&mut self) -> Result<Expected, FrameError> {
        let mut head = [0; HEADER];
        let mut at = 0;
        for part in self.take(HEADER) {
            head[at..at + part.len()].copy_from_slice(&part);
            at += part.len();
        }
        let mut fields = &head[..];
        let kind = Kind::of(fields.get_u8()).ok_or(FrameError::Kind)?;
        let len = fields.get_u32_le();
        let offset = fields.get_u64_le();
        let max = match kind {
            Kind::Data => DATA_BYTES_MAX,
            Kind::Beat | Kind::End => 0,
            Kind::Head | Kind::Fail | Kind::Refer => TEXT_BYTES_MAX,
        };
        match usize::try_from(len) {
            Ok(len) if len <= max => Ok(Expected {
                kind,
                offset,
                len,
                head,
            }),
            _ => Err(FrameError::Length(len)),
        }
    }

    /// Takes out so many bytes, which are here.
    fn take(&mut self, mut len: usize) -> Vec<Bytes> {
        self.held -= len;
        let mut taken = Vec::new();
        while len > 0
            && let Some(mut part) = self.parts.pop_front()
        {
            if part.len() > len {
                taken.push(part.split_to(len));
                self.parts.push_front(part);
                break;
            }
            len -= part.len();
            taken.push(part);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    fn answer(key: [u8; 32]) -> Vec<u8> {
        let mut encoder = Encoder::new(key);
        let mut bytes = encoder.beat(2).to_vec();
        bytes.extend(encoder.frame(Kind::Head, b"{}"));
        for (offset, data) in [(0, b"hello ".as_slice()), (6, b"world")] {
            bytes.extend(encoder.head(Kind::Data, offset, data));
            bytes.extend(data);
        }
        bytes.extend(encoder.frame(Kind::End, b""));
        bytes
    }

    type Frames = Vec<(Kind, u64, Vec<u8>)>;

    /// What is read of these bytes, and whether it ended well.
    fn read(bytes: &[u8], pieces: usize) -> (Frames, Result<(), FrameError>) {
        let mut decoder = Decoder::new(KEY);
        let mut frames = Vec::new();
        for piece in bytes.chunks(pieces.max(1)) {
            decoder.push(Bytes::copy_from_slice(piece));
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => {
                        frames.push((frame.kind, frame.offset, frame.clone().text().to_vec()));
                    }
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error)),
                }
            }
        }
        (frames, Ok(()))
    }

    fn whole() -> Frames {
        vec![
            (Kind::Beat, 2, vec![]),
            (Kind::Head, 0, b"{}".to_vec()),
            (Kind::Data, 0, b"hello ".to_vec()),
            (Kind::Data, 6, b"world".to_vec()),
            (Kind::End, 0, vec![]),
        ]
    }

    #[test]
    fn a_key_belongs_to_one_request_and_secret() {
        let key = answer_key(&[0; 32], b"a");
        assert_ne!(key, answer_key(&[0; 32], b"b"));
        assert_ne!(key, answer_key(&[1; 32], b"a"));
    }

    #[test]
    fn another_answers_frames_do_not_fit() {
        assert_eq!(read(&answer([8; 32]), 1000), (vec![], Err(FrameError::Tag)));
    }

    #[test]
    fn frames_left_out_repeated_or_out_of_order_do_not_fit() {
        let bytes = answer(KEY);
        let beat = &bytes[..HEADER];
        let without = read(&bytes[HEADER..], 64);
        assert_eq!(without, (vec![], Err(FrameError::Tag)));
        let twice = [beat, &bytes].concat();
        assert_eq!(
            read(&twice, 64),
            (whole()[..1].to_vec(), Err(FrameError::Tag))
        );
    }

    #[test]
    fn no_length_is_believed() {
        let mut bytes = vec![Kind::Data as u8];
        bytes.extend(u32::MAX.to_le_bytes());
        bytes.extend([0; 24]);
        assert_eq!(read(&bytes, 64).1, Err(FrameError::Length(u32::MAX)));
        bytes[0] = 9;
        assert_eq!(read(&bytes, 64).1, Err(FrameError::Kind));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_read(pieces in 1_usize..80) {
            prop_assert_eq!(read(&answer(KEY), pieces), (whole(), Ok(())));
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0_usize..1000, bit in 0_u8..8, pieces in 1_usize..80) {
            let mut bytes = answer(KEY);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let (frames, end) = read(&bytes, pieces);
            // A longer length may wait for bytes that never come: the answer is broken off then.
            prop_assert!(end.is_err() || frames.len() < whole().len());
            prop_assert_eq!(&frames[..], &whole()[..frames.len()], "what was read is right");
        }

        #[test]
        fn nonsense_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000), pieces in 1_usize..80) {
            prop_assert!(read(&bytes, pieces).0.is_empty());
        }
    }
}
