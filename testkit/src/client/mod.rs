//! A small HTTP/1.1 client that reports exactly what came over the wire.
//!
//! Unlike a real client it hides nothing: a body that breaks off is not an error but an answer with
//! [`Answer::cut`], and malformed requests can be sent as they are. HTTP only, no redirects, no retries.

mod stampede;

pub use stampede::{Download, Stampede, download, stampede};

use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::{io, ops::ControlFlow};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Everything except what S3 leaves as it is in a key.
const KEY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

/// Percent-encodes a key for a path, slashes left alone.
pub fn encode_key(key: &str) -> String {
    utf8_percent_encode(key, KEY).to_string()
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status and headers.
    pub head: Head,
    /// The body, as far as it came; chunked coding undone.
    pub body: Bytes,
    /// Whether it broke off, short of its length or last chunk.
    pub cut: bool,
}

impl std::ops::Deref for Answer {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text of the first such element of an XML body: enough for `<Code>`.
    pub fn xml(&self, element: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(&format!("<{element}>"))?;
        Some(rest.split_once(&format!("</{element}>"))?.0.into())
    }
}

/// Status and headers of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// GET with these headers, on a connection of its own.
///
/// # Errors
///
/// No connection, or no head of an answer. A body that breaks off is no error.
pub async fn get(url: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    request("GET", url, headers, b"").await
}

/// HEAD with these headers, on a connection of its own.
///
/// # Errors
///
/// As [`get`].
pub async fn head(url: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    request("HEAD", url, headers, b"").await
}

/// Any request, on a connection of its own.
///
/// # Errors
///
/// As [`get`].
pub async fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let (authority, _) = split(url);
    Connection::open(authority)
        .await?
        .request(method, url, headers, body)
        .await
}

/// Sends these bytes and returns all that comes until the peer closes or `bytes_max` have come.
///
/// # Errors
///
/// No connection. What comes before a later error is returned.
pub async fn raw(authority: &str, request: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(authority).await?;
    let mut answer = Vec::new();
    if stream.write_all(request).await.is_ok() {
        while answer.len() < bytes_max && stream.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {}
    }
    Ok(answer)
}

/// `http://host:port/path` as (`host:port`, `/path`).
///
/// # Panics
///
/// If it is not an `http://` URL.
pub fn split(url: &str) -> (&str, &str) {
    let rest = url
        .strip_prefix("http://")
        .unwrap_or_else(|| panic!("not an http:// URL: {url}"));
    rest.find('/').map_or((rest, "/"), |at| rest.split_at(at))
}

/// A connection kept open for several requests, one after the other.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    ///
    /// No connection.
    pub async fn open(authority: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::with_capacity(256 << 10),
        })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    ///
    /// As [`get`].
    pub async fn request(
        &mut self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        self.send(method, url, headers, body).await?;
        self.answer(method == "HEAD").await
    }

    /// Reads a whole answer.
    ///
    /// # Errors
    ///
    /// As [`Connection::receive_head`].
    pub async fn answer(&mut self, to_head: bool) -> io::Result<Answer> {
        let mut whole = BytesMut::new();
        let (head, cut) = self
            .receive(to_head, |piece| {
                whole.extend_from_slice(piece);
                ControlFlow::Continue(())
            })
            .await?;
        Ok(Answer {
            head,
            body: whole.freeze(),
            cut,
        })
    }

    /// Sends these bytes as they are.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn send(
        &mut self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        use std::fmt::Write;
        let (authority, target) = if url.starts_with("http://") {
            split(url)
        } else {
            ("test", url)
        };
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {authority}\r\n");
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if !body.is_empty() {
            let _ = write!(head, "content-length: {}\r\n", body.len());
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.write_all(body).await
    }

    /// Reads the head of an answer, its body still to come.
    ///
    /// # Errors
    ///
    /// The connection ends before the head does, or it is malformed.
    pub async fn receive_head(&mut self) -> io::Result<Head> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 96];
            let mut parsed = httparse::Response::new(&mut headers);
            let status = parsed
                .parse(&self.buffer)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let httparse::Status::Complete(len) = status {
                let head = Head {
                    status: parsed.code.unwrap_or(0),
                    headers: parsed
                        .headers
                        .iter()
                        .map(|h| {
                            let value = String::from_utf8_lossy(h.value).into_owned();
                            (h.name.to_ascii_lowercase(), value)
                        })
                        .collect(),
                };
                let _ = self.buffer.split_to(len);
                if head.status >= 200 {
                    return Ok(head);
                }
            } else if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads an answer, its body piece by piece, until `each` breaks. Says whether it was cut (it is
    /// not, where `each` broke).
    ///
    /// # Errors
    ///
    /// As [`Connection::receive_head`].
    pub async fn receive(
        &mut self,
        to_head: bool,
        each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<(Head, bool)> {
        let head = self.receive_head().await?;
        let cut = self.receive_body(&head, to_head, each).await;
        Ok((head, cut))
    }

    /// Reads the body that follows a head. Says whether it was cut.
    pub async fn receive_body(
        &mut self,
        head: &Head,
        to_head: bool,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> bool {
        if to_head || matches!(head.status, 204 | 304) {
            return false;
        }
        let chunked = head
            .header("transfer-encoding")
            .is_some_and(|coding| coding.contains("chunked"));
        if chunked {
            return self.chunks(&mut each).await;
        }
        let length = head
            .header("content-length")
            .and_then(|n| n.parse::<u64>().ok());
        let mut left = length.unwrap_or(u64::MAX);
        self.part(&mut left, &mut each).await && length.is_some()
    }

    /// Passes the next `left` bytes on. Says whether they broke off.
    async fn part(
        &mut self,
        left: &mut u64,
        each: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> bool {
        while *left > 0 {
            if self.buffer.is_empty() && !self.fill().await.is_ok_and(|n| n > 0) {
                return true;
            }
            let len = usize::try_from(*left)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            let flow = each(&self.buffer[..len]);
            if len == self.buffer.len() {
                self.buffer.clear();
            } else {
                let _ = self.buffer.split_to(len);
            }
            *left -= len as u64;
            if flow.is_break() {
                return false;
            }
        }
        false
    }

    async fn chunks(&mut self, each: &mut impl FnMut(&[u8]) -> ControlFlow<()>) -> bool {
        loop {
            let Some(line) = self.line().await else {
                return true;
            };
            let size = line.split(';').next().unwrap_or_default().trim();
            let Ok(mut left) = u64::from_str_radix(size, 16) else {
                return true;
            };
            let last = left == 0;
            if !last && self.part(&mut left, each).await {
                return true;
            }
            if !last && left > 0 {
                return false;
            }
            if self.line().await.is_none() {
                return true;
            }
            if last {
                return false;
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = self.buffer.split_to(at + 2);
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.buffer.len() > 64 << 10 || !self.fill().await.is_ok_and(|n| n > 0) {
                return None;
            }
        }
    }

    /// Reads what has come into the buffer.
    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(256 << 10);
        self.stream.read_buf(&mut self.buffer).await
    }
}
