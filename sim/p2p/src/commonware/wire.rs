//! The wire format, written down a second time: what the oracle believes of a message must not come
//! from the code that it watches.

/// A message between resolvers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: u64,
    pub(crate) what: What,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Request(u64),
    Response(Vec<u8>),
    Missing,
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.to_be_bytes().to_vec();
        match &self.what {
            What::Request(key) => {
                bytes.push(0);
                bytes.extend(key.to_be_bytes());
            }
            What::Response(data) => {
                bytes.push(1);
                let mut len = data.len();
                while len >= 0x80 {
                    bytes.push(len as u8 | 0x80);
                    len >>= 7;
                }
                bytes.push(len as u8);
                bytes.extend(data);
            }
            What::Missing => bytes.push(2),
        }
        bytes
    }

    /// None: it makes no sense.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let id = u64::from_be_bytes(*id);
        let (tag, rest) = rest.split_first()?;
        let what = match tag {
            0 => What::Request(u64::from_be_bytes(rest.try_into().ok()?)),
            1 => What::Response(data(rest)?.to_vec()),
            2 if rest.is_empty() => What::Missing,
            _ => return None,
        };
        Some(Self { id, what })
    }
}

/// What stands behind its length, and nothing after it. Lengths here fit three bytes.
fn data(bytes: &[u8]) -> Option<&[u8]> {
    let mut len = 0;
    for (n, byte) in bytes.iter().take(3).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            // A length that is longer than it needs to be is no length.
            let short = n == 0 || *byte != 0;
            return bytes.get(n + 1..).filter(|d| short && d.len() == len);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for what in [
            What::Request(0x0102_0304_0506_0708),
            What::Response(Vec::new()),
            What::Response(vec![7; 300]),
            What::Missing,
        ] {
            let message = Message { id: 9, what };
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Some(message));
            assert_eq!(Message::decode(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(Message::decode(&[0, 0, 0, 0, 0, 0, 0, 0, 9]), None);
    }
}
