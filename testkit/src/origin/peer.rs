//! What the kernel knows of the other end of a connection: whether it left, and what it has received.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

/// Says nothing for so long, but notices when the peer leaves.
pub(super) async fn silence(stream: &TcpStream, lasting: Duration) -> io::Result<()> {
    let gone = async {
        let mut byte = [0];
        match stream.peek(&mut byte).await {
            Ok(0) => io::Error::from(ErrorKind::ConnectionReset),
            Ok(_) => std::future::pending().await,
            Err(error) => error,
        }
    };
    timeout(lasting, gone).await.map_or(Ok(()), Err)
}

/// Waits until the peer's kernel has everything: RST drops what is still in our send queue, and a cut
/// "after k bytes" would not be one. Read from the kernel's table (`tx_queue`), for want of a safe
/// call; gives up after a while, as a peer that does not read must not hold the fault up.
pub(super) async fn delivered(stream: &TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let (local, peer) = (proc_addr(local), proc_addr(peer));
    for _ in 0..2000 {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let queued = table.lines().any(|line| {
            let mut columns = line.split_whitespace().skip(1);
            columns.next() == Some(&local)
                && columns.next() == Some(&peer)
                && columns
                    .nth(1)
                    .is_some_and(|queues| !queues.starts_with("00000000:"))
        });
        if !queued {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// An IPv4 address as `/proc/net/tcp` writes it.
fn proc_addr(addr: SocketAddr) -> String {
    match addr {
        SocketAddr::V4(v4) => {
            format!(
                "{:08X}:{:04X}",
                u32::from_ne_bytes(v4.ip().octets()),
                v4.port()
            )
        }
        SocketAddr::V6(_) => String::new(),
    }
}
