//! The origin's side of the wire: one task for each connection.

use super::{
    End, Fault, Method, Object, Served, Shared,
    fault::Struck,
    list::{self, Query},
    listen,
    peer::{delivered, silence},
};
use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// Heads longer than this are refused.
const HEAD_MAX: usize = 64 << 10;
/// Body bytes written at once.
const PIECE: usize = 64 << 10;

/// Accepts until the task is dropped; stops listening while dead.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    mut alive: watch::Receiver<bool>,
) {
    let addr = listener.local_addr().expect("a listener has an address");
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => {
                // A failed accept is a peer that has gone already.
                let Ok((stream, peer)) = accepted else { continue };
                shared.update(|state| state.counts.connections += 1);
                connections.spawn(connection(shared.clone(), stream, peer, alive.clone()));
            }
            _ = connections.join_next(), if !connections.is_empty() => (),
            changed = alive.changed() => {
                if changed.is_err() {
                    return;
                }
                let alive = *alive.borrow_and_update();
                listener = alive.then(|| listener.take().unwrap_or_else(|| listen(addr)));
            }
        }
    }
}

async fn connection(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    peer: SocketAddr,
    mut alive: watch::Receiver<bool>,
) {
    // A connection without Nagle: answers of several writes must not wait for each other.
    let _ = stream.set_nodelay(true);
    let died = tokio::select! {
        _ = requests(&shared, &mut stream, peer) => false,
        _ = alive.wait_for(|alive| !alive) => true,
    };
    if died {
        let _ = stream.set_zero_linger();
    }
}

/// Answers requests one after the other. An error is the end of the connection.
async fn requests(
    shared: &Arc<Shared>,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read_head(stream, &mut buffer).await? else {
            return Ok(());
        };
        let mut answer = Answer::begin(shared, &request);
        let result = answer.send(stream, peer).await;
        answer.record.end(match &result {
            Ok(Next::Request) => End::Whole,
            Ok(Next::Close) => End::Cut,
            Err(_) => End::Left,
        });
        if let Next::Close = result? {
            return Ok(());
        }
    }
}

struct Request {
    verb: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The next request's head, bodies ignored; none at the end of the connection.
async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 96];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(buffer) {
            Ok(httparse::Status::Complete(len)) => {
                let request = Request {
                    verb: parsed.method.unwrap_or_default().into(),
                    target: parsed.path.unwrap_or_default().into(),
                    headers: parsed
                        .headers
                        .iter()
                        .map(|h| {
                            let value = String::from_utf8_lossy(h.value).into_owned();
                            (h.name.to_ascii_lowercase(), value)
                        })
                        .collect(),
                };
                buffer.drain(..len);
                return Ok(Some(request));
            }
            Ok(httparse::Status::Partial) if buffer.len() < HEAD_MAX => (),
            Ok(httparse::Status::Partial) | Err(_) => return Err(ErrorKind::InvalidData.into()),
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

enum Next {
    Request,
    Close,
}

/// One request's line in the book; closes it when dropped.
struct Record {
    shared: Arc<Shared>,
    index: usize,
    counted: bool,
}

impl Record {
    fn sent(&self, bytes: u64) {
        self.shared.update(|state| {
            state.counts.bytes += bytes;
            if let Some(served) = state.served.get_mut(self.index) {
                served.sent += bytes;
            }
        });
    }

    fn end(&mut self, end: End) {
        let counted = std::mem::take(&mut self.counted);
        self.shared.update(|state| {
            state.counts.active -= u64::from(counted);
            if let Some(served) = state.served.get_mut(self.index)
                && served.end == End::Open
            {
                served.end = end;
            }
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(End::Left);
    }
}

/// What will be sent, decided when the request is read.
struct Answer {
    record: Record,
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    body_sent: bool,
    faults: Vec<Fault>,
    latency: Duration,
    bandwidth: Option<u64>,
    name: (String, String),
}

enum Body {
    Text(String),
    Part {
        object: Arc<Object>,
        range: Range<u64>,
    },
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Part { range, .. } => range.end - range.start,
        }
    }
}

fn text(status: u16, code: &str, message: &str) -> (u16, Vec<(String, String)>, Body) {
    let headers = vec![("content-type".into(), "application/xml".into())];
    (status, headers, Body::Text(list::error(code, message)))
}

fn xml(body: String) -> (u16, Vec<(String, String)>, Body) {
    (
        200,
        vec![("content-type".into(), "application/xml".into())],
        Body::Text(body),
    )
}

impl Answer {
    fn begin(shared: &Arc<Shared>, request: &Request) -> Self {
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        let path = decoded.strip_prefix('/').unwrap_or(&decoded);
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = Query::parse(query);
        let method = match request.verb.as_str() {
            "GET" | "HEAD" if key.is_empty() => Method::List,
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            _ => Method::Other,
        };
        shared.update(|state| {
            let object = state.object(bucket, key).cloned();
            let size = object.as_ref().map_or(0, |object| object.size);
            let asked = request
                .header("range")
                .map_or(Asked::Whole, |range| parse_range(range, size));
            let range = match &asked {
                Asked::Whole => 0..size,
                Asked::Part(range) => range.clone(),
                Asked::Nothing => 0..0,
            };
            let faults = state.strike(&Struck {
                method,
                object: (bucket, key),
                range: range.clone(),
            });
            let (status, headers, body) = match (method, &object) {
                (Method::Other, _) => text(405, "MethodNotAllowed", "this origin is read-only"),
                (Method::List, _) if bucket.is_empty() => xml(list::buckets(state)),
                (Method::List, _) if query.param("location").is_some() => xml(
                    "<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>"
                        .into(),
                ),
                (Method::List, _) => match list::objects(state, bucket, &query) {
                    Some(page) => xml(page),
                    None => text(404, "NoSuchBucket", bucket),
                },
                (_, None) if !state.buckets.contains_key(bucket) => {
                    text(404, "NoSuchBucket", bucket)
                }
                (_, None) => text(404, "NoSuchKey", key),
                (_, Some(object)) => of_object(request, object, &asked, &faults),
            };
            let struck = faults.iter().find_map(|fault| match fault {
                Fault::Status { code, retry_after } => Some((*code, *retry_after)),
                _ => None,
            });
            let active = state.counts.active;
            let is_too_much =
                method == Method::Get && state.bears.is_some_and(|gets| active >= gets);
            let struck = struck.or_else(|| is_too_much.then_some((503, None)));
            let (status, headers, body) = match struck {
                Some((code, retry_after)) => {
                    let word = match code {
                        403 => "AccessDenied",
                        404 => "NoSuchKey",
                        429 | 503 => "SlowDown",
                        _ => "InternalError",
                    };
                    let (status, mut headers, body) = text(code, word, "as told");
                    headers.extend(retry_after.map(|s| ("retry-after".into(), s.to_string())));
                    (status, headers, body)
                }
                None => (status, headers, body),
            };
            let counts = &mut state.counts;
            match method {
                Method::Get => counts.gets += 1,
                Method::Head => counts.heads += 1,
                Method::List => counts.lists += 1,
                Method::Other => (),
            }
            let counted = method == Method::Get;
            counts.active += u64::from(counted);
            counts.active_max = counts.active_max.max(counts.active);
            state.served.push(Served {
                method,
                bucket: bucket.into(),
                key: key.into(),
                target: request.target.clone(),
                headers: request.headers.clone(),
                range,
                status: 0,
                sent: 0,
                end: End::Open,
            });
            Self {
                record: Record {
                    shared: shared.clone(),
                    index: state.served.len() - 1,
                    counted,
                },
                status,
                headers,
                body,
                body_sent: request.verb != "HEAD" && status != 304,
                faults,
                latency: state.pace.latency,
                bandwidth: state.pace.bandwidth,
                name: (bucket.into(), key.into()),
            }
        })
    }

    async fn send(&mut self, stream: &mut TcpStream, peer: SocketAddr) -> io::Result<Next> {
        if !self.latency.is_zero() {
            sleep(self.latency).await;
        }
        if self.faults.contains(&Fault::Hangup) {
            return Ok(Next::Close);
        }
        let mut stall = self.faults.iter().find_map(|fault| match fault {
            Fault::Stall { at, lasting } => Some((*at, *lasting)),
            _ => None,
        });
        if let Some((_, lasting)) = stall.take_if(|(at, _)| *at == 0) {
            silence(stream, lasting).await?;
        }
        let chunked = self.faults.contains(&Fault::Chunked) && self.body_sent;
        stream.write_all(self.head(chunked).as_bytes()).await?;
        self.record.shared.update(|state| {
            if let Some(served) = state.served.get_mut(self.record.index) {
                served.status = self.status;
            }
        });
        if !self.body_sent {
            return Ok(Next::Request);
        }
        match &self.body {
            Body::Text(text) if chunked => {
                let chunk = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
                stream.write_all(chunk.as_bytes()).await?;
                Ok(Next::Request)
            }
            Body::Text(text) => {
                stream.write_all(text.as_bytes()).await?;
                Ok(Next::Request)
            }
            Body::Part { object, range } => {
                let (object, range) = (object.clone(), range.clone());
                self.send_part(stream, peer, &object, range, stall, chunked)
                    .await
            }
        }
    }

    fn head(&self, chunked: bool) -> String {
        use std::fmt::Write;
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if chunked {
            head.push_str("transfer-encoding: chunked\r\n");
        } else if self.status != 304 {
            let _ = write!(head, "content-length: {}\r\n", self.body.len());
        }
        head.push_str("server: testkit\r\nx-amz-request-id: 0000000000000000\r\n\r\n");
        head
    }

    /// Sends a part of an object, piece by piece, cut at each offset where a fault strikes.
    async fn send_part(
        &self,
        stream: &mut TcpStream,
        peer: SocketAddr,
        object: &Object,
        range: Range<u64>,
        mut stall: Option<(u64, Duration)>,
        chunked: bool,
    ) -> io::Result<Next> {
        let len = range.end - range.start;
        let (mut cut, mut flip, mut replace, mut drip) = (None, None, None, None);
        for fault in &self.faults {
            match *fault {
                Fault::Reset { after } if after < len => cut = Some((after, true)),
                Fault::Truncate { after } if after < len => cut = Some((after, false)),
                Fault::Flip { at } => flip = Some(at),
                Fault::Replace { at } => replace = Some(at),
                Fault::Drip { bytes, every } => drip = Some((bytes, every)),
                _ => (),
            }
        }
        let begun = Instant::now();
        let mut buffer = vec![0; PIECE.min(len as usize)];
        let mut sent = 0;
        loop {
            if let Some((_, lasting)) = stall.take_if(|(at, _)| *at == sent) {
                silence(stream, lasting).await?;
            }
            if replace.take_if(|at| *at == sent).is_some() {
                let (bucket, key) = &self.name;
                self.record
                    .shared
                    .update(|state| state.replace(bucket, key));
            }
            if let Some((_, reset)) = cut.filter(|(after, _)| *after == sent) {
                if reset {
                    delivered(stream, peer).await;
                    stream.set_zero_linger()?;
                }
                return Ok(Next::Close);
            }
            if sent == len {
                break;
            }
            let marks = [stall.map(|(at, _)| at), replace, cut.map(|(at, _)| at)];
            let stop = marks
                .into_iter()
                .flatten()
                .filter(|at| *at > sent)
                .fold(len, u64::min);
            let piece_max = drip.map_or(buffer.len(), |(bytes, _)| bytes.clamp(1, buffer.len()));
            let piece_len = piece_max.min((stop - sent) as usize);
            let piece = &mut buffer[..piece_len];
            object.read(range.start + sent, piece);
            if let Some(at) = flip.filter(|at| (sent..sent + piece_len as u64).contains(at)) {
                piece[(at - sent) as usize] ^= 0xFF;
            }
            if chunked {
                stream
                    .write_all(format!("{piece_len:x}\r\n").as_bytes())
                    .await?;
            }
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let written = stream.write(rest).await?;
                self.record.sent(written as u64);
                rest = &rest[written..];
            }
            if chunked {
                stream.write_all(b"\r\n").await?;
            }
            sent += piece_len as u64;
            if let Some((_, every)) = drip {
                silence(stream, every).await?;
            }
            if let Some(bandwidth) = self.bandwidth {
                let due = Duration::from_nanos(
                    (sent as u128 * 1_000_000_000 / u128::from(bandwidth)) as u64,
                );
                sleep_until(begun + due).await;
            }
        }
        if chunked {
            stream.write_all(b"0\r\n\r\n").await?;
        }
        Ok(Next::Request)
    }
}

fn of_object(
    request: &Request,
    object: &Arc<Object>,
    asked: &Asked,
    faults: &[Fault],
) -> (u16, Vec<(String, String)>, Body) {
    let has = |fault: &Fault| faults.contains(fault);
    let weak = has(&Fault::WeakEtag) || object.etag.starts_with("W/");
    let shown = faults.iter().find_map(|fault| match fault {
        Fault::WrongEtag(etag) => Some(etag.clone()),
        _ => None,
    });
    let shown = shown.unwrap_or_else(|| {
        if has(&Fault::WeakEtag) {
            format!("W/{}", object.etag)
        } else {
            object.etag.clone()
        }
    });
    let names = |list: &str, tag: &str| {
        list.split(',').any(|one| matches!(one.trim(), one if one == "*" || one == tag || format!("\"{one}\"") == tag))
    };
    if let Some(list) = request.header("if-match")
        && !has(&Fault::IgnoreIfMatch)
        && (list.trim() != "*" && (weak || !names(list, &object.etag)))
    {
        return text(
            412,
            "PreconditionFailed",
            "At least one of the pre-conditions did not hold",
        );
    }
    let mut headers = object.headers.clone();
    if !has(&Fault::NoEtag) {
        headers.push(("etag".into(), shown.clone()));
    }
    if !has(&Fault::NoLastModified) {
        headers.push((
            "last-modified".into(),
            httpdate::fmt_http_date(object.modified),
        ));
    }
    if request
        .header("if-none-match")
        .is_some_and(|list| names(list, &shown))
    {
        return (304, headers, Body::Text(String::new()));
    }
    headers.push(("accept-ranges".into(), "bytes".into()));
    let whole = || Body::Part {
        object: object.clone(),
        range: 0..object.size,
    };
    let if_range = request
        .header("if-range")
        .is_none_or(|tag| tag == shown && !weak);
    if has(&Fault::IgnoreRange) || !if_range {
        return (200, headers, whole());
    }
    match asked {
        Asked::Whole => (200, headers, whole()),
        Asked::Part(range) => {
            let by = faults.iter().find_map(|fault| match fault {
                Fault::WrongContentRange { by } => Some(*by),
                _ => None,
            });
            let by = by.unwrap_or(0);
            let (first, last) = (range.start + by, range.end - 1 + by);
            headers.push((
                "content-range".into(),
                format!("bytes {first}-{last}/{}", object.size),
            ));
            (
                206,
                headers,
                Body::Part {
                    object: object.clone(),
                    range: range.clone(),
                },
            )
        }
        Asked::Nothing => {
            let (status, mut headers, body) = text(416, "InvalidRange", "not satisfiable");
            headers.push(("content-range".into(), format!("bytes */{}", object.size)));
            (status, headers, body)
        }
    }
}

enum Asked {
    Whole,
    Part(Range<u64>),
    Nothing,
}

/// One byte range; anything else counts as no range at all, as S3 has it.
fn parse_range(value: &str, size: u64) -> Asked {
    let parse = || {
        let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
        Some(match (first.trim(), last.trim()) {
            ("", suffix) => {
                let suffix: u64 = suffix.parse().ok()?;
                size.saturating_sub(suffix)..size
            }
            (first, "") => first.parse().ok()?..size,
            (first, last) => {
                let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
                if last < first {
                    return None;
                }
                first..last.saturating_add(1).min(size)
            }
        })
    };
    match parse() {
        None => Asked::Whole,
        Some(range) if range.start >= range.end => Asked::Nothing,
        Some(range) => Asked::Part(range),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        304 => "Not Modified",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "As Told",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |value: &str, size, expect: Option<Range<u64>>| match parse_range(value, size) {
            Asked::Part(range) => assert_eq!(Some(range), expect, "{value}"),
            Asked::Nothing => assert_eq!(Some(0..0), expect, "{value}"),
            Asked::Whole => assert_eq!(None, expect, "{value}"),
        };
        check("bytes=0-0", 10, Some(0..1));
        check("bytes=5-", 10, Some(5..10));
        check("bytes=5-99", 10, Some(5..10));
        check("bytes=-3", 10, Some(7..10));
        check("bytes=-30", 10, Some(0..10));
        check("bytes=10-", 10, Some(0..0));
        check("bytes=-0", 10, Some(0..0));
        check("bytes=0-", 0, Some(0..0));
        check("bytes=5-3", 10, None);
        check("bytes=0-1,3-4", 10, None);
        check("lines=0-1", 10, None);
    }
}
