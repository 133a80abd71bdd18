//! Tells systemd that the service is ready, or ending (`Type=notify`); sd_notify(3) in a few lines.

use std::{env, os::unix::net::UnixDatagram};

/// Sends a state such as `READY=1` to whoever started us and wants to know; nobody mostly.
pub fn notify(state: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(path.as_encoded_bytes(), state) {
        tracing::warn!(%error, state, "cannot notify the service manager");
    }
}

fn send(path: &[u8], state: &str) -> std::io::Result<()> {
    use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => {
            use std::os::unix::ffi::OsStrExt as _;
            SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn what_is_sent_arrives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_bytes(), "READY=1").unwrap();
        let mut got = [0; 16];
        let n = socket.recv(&mut got).unwrap();
        assert_eq!(&got[..n], b"READY=1");
    }
}
