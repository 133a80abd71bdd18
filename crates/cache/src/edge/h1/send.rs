//! Sending past hyper: from memory in one `sendmsg`, from files by `sendfile`.

use crate::edge::wire::Socket;
use bytes::Bytes;
use gannet_store::Blob;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::{
    fs::File,
    io::{self, IoSlice},
    ops::Range,
};

/// How much one `sendfile` sends at most: no connection holds a worker thread for longer than it takes
/// to copy that.
const SENDFILE_MAX: u64 = 1 << 20;
/// How much one connection sends before others get their turn: a millisecond's worth.
const YIELD_BYTES: u64 = 4 << 20;
/// Slices of one `sendmsg`.
pub(super) const SLICES_MAX: usize = 32;

/// Sends and forgets these; `more` says that something follows at once.
pub(super) async fn send_memory(
    socket: &mut Socket,
    memory: &mut Vec<Bytes>,
    more: bool,
) -> io::Result<()> {
    let flags = SendFlags::NOSIGNAL
        | if more {
            SendFlags::MORE
        } else {
            SendFlags::empty()
        };
    while !memory.is_empty() {
        let sent = socket
            .when_writable(|tcp| {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = memory.len().min(SLICES_MAX);
                for (slice, bytes) in slices.iter_mut().zip(memory.iter()) {
                    *slice = IoSlice::new(bytes);
                }
                let mut control = SendAncillaryBuffer::new(&mut []);
                Ok(sendmsg(tcp, &slices[..count], &mut control, flags)?)
            })
            .await?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut left = sent;
        let whole = memory
            .iter()
            .take_while(|bytes| {
                let fits = bytes.len() <= left;
                left -= if fits { bytes.len() } else { 0 };
                fits
            })
            .count();
        memory.drain(..whole);
        if let Some(first) = memory.first_mut() {
            let _ = first.split_to(left);
        }
    }
    Ok(())
}

/// Sends a part of a file from the page cache; `copy` is the stored copy that it is. (A page that is
/// not there blocks this thread until it is read, as in any server without `aio`; the parts are small
/// enough for others to get their turn.)
pub(super) async fn send_file(
    socket: &mut Socket,
    file: &File,
    range: Range<u64>,
    copy: Option<&Blob>,
) -> io::Result<()> {
    let (mut at, mut unyielding) = (range.start, 0);
    while at < range.end {
        let count = usize::try_from((range.end - at).min(SENDFILE_MAX)).unwrap_or(usize::MAX);
        let sent = socket
            .when_writable(|tcp| Ok(rustix::fs::sendfile(tcp, file, Some(&mut at), count)?))
            .await?;
        if sent == 0 {
            // Truncated behind our back: what was promised cannot be sent, but the next one who asks
            // shall not run into it again.
            if let Some(copy) = copy {
                copy.condemn("the file is short");
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        unyielding += sent as u64;
        if unyielding >= YIELD_BYTES {
            // A client that reads as fast as we send must not keep the others waiting.
            unyielding = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}
