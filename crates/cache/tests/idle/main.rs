//! What idle connections cost. Alone in its process, for it is measured by the process's memory.

#[path = "../edge/support.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the edge, which use more of it"
)]
mod support;

use gannet_testkit::client::get;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    io::{Read, Write},
    sync::atomic::Ordering::Relaxed,
};
use support::{Manner, MapBackend, anonymous, start, until};

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Five thousand clients that have asked once and now sit there cost little, and do not stop others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_idle_connections() {
    const CLIENTS: usize = 5_000;
    let limit = getrlimit(Resource::Nofile);
    let need = 2 * CLIENTS as u64 + 500;
    let maximum = limit.maximum.map_or(need, |maximum| maximum.max(need));
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(need),
            maximum: Some(maximum),
        },
    )
    .expect("10,500 open files are allowed");
    let backend = MapBackend::new();
    backend.put("b", "k", "hello", Manner::Memory(9));
    let server = start(anonymous(), &backend);
    let authority = server.authority.clone();
    let connect = move |count: usize| {
        let one = || {
            let mut tcp = std::net::TcpStream::connect(&authority).unwrap();
            tcp.write_all(b"GET /b/k HTTP/1.1\r\nhost: h\r\n\r\n")
                .unwrap();
            let mut answer = [0; 1024];
            let mut len = 0;
            while !answer[..len].ends_with(b"hello") {
                len += tcp.read(&mut answer[len..]).unwrap();
            }
            tcp
        };
        (0..count).map(|_| one()).collect::<Vec<_>>()
    };
    // The first few pay for what is there once.
    let warm = connect.clone();
    let some = tokio::task::spawn_blocking(move || warm(200))
        .await
        .unwrap();
    let before = resident();
    let clients = tokio::task::spawn_blocking(move || connect(CLIENTS - 200))
        .await
        .unwrap();
    assert_eq!(server.metrics.connections.load(Relaxed), CLIENTS as u64);
    let each = resident().saturating_sub(before) / clients.len();
    println!("{each} bytes for each idle connection");
    assert!(each < 4096, "{each} bytes for each idle connection");
    assert_eq!(get(&server.url("/b/k"), &[]).await.unwrap().text(), "hello");
    drop((clients, some));
    until("all are gone", || {
        server.metrics.connections.load(Relaxed) == 0
    })
    .await;
}
