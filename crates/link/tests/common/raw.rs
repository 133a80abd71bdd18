//! HTTP/2 written by hand: for what no client of good manners does.

use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub const SETTINGS: u8 = 4;
pub const RST_STREAM: u8 = 3;
pub const GOAWAY: u8 = 7;
pub const HEADERS: u8 = 1;
pub const CONTINUATION: u8 = 9;
/// Flags.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// `:method POST`, `:scheme http`, `:path /`, as HPACK's static table has them.
pub const POST: &[u8] = &[0x83, 0x86, 0x84];

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A connection on which HTTP/2 has begun.
pub async fn connect(address: SocketAddr) -> TcpStream {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let preface = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(SETTINGS, 0, 0, b""),
    ];
    tcp.write_all(&preface.concat()).await.unwrap();
    tcp
}

/// The frames that come, until the end or until one of a kind: its payload.
pub async fn await_frame(tcp: &mut TcpStream, kind: u8) -> Option<Vec<u8>> {
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        tcp.read_exact(&mut payload).await.ok()?;
        if head[3] == kind {
            return Some(payload);
        }
    }
}

/// Whether the other end closes, whatever it says before.
pub async fn is_closed(tcp: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let _ = super::soon(tcp.read_to_end(&mut rest)).await;
    true
}
