//! Members that are replaced one after the other, behind a balancer.

use crate::{
    harness::PATIENCE,
    members::{MIB, Members, until},
};
use gannet_testkit::{
    client,
    origin::{Object, Origin},
    peers::{Backend, Haproxy},
    process::free_port,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

const OBJECTS: u64 = 8;
const CLIENTS: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn members_are_replaced_and_no_client_notices() {
    let origin = Origin::start();
    let objects: Vec<_> = (0..OBJECTS)
        .map(|n| {
            let object = Object::generated(n, 2 * MIB + n);
            origin.put("b", &format!("k{n}"), object).sha256()
        })
        .collect();
    // Longer than the balancer takes to find out.
    let args = ["--chunk-size=1MiB", "--hedge-after=10s", "--notice=1s"];
    let mut members = Members::of_secret(3, &origin, &args);
    // Where the balancer looks for them, whichever life they are in.
    let ports: Vec<_> = (0..3).map(|_| (free_port(), free_port())).collect();
    let flags = |members: &Members, n: usize| {
        let (edge, ops) = ports[n];
        let mut flags = members.peers(n);
        flags.push(format!("--listen=127.0.0.1:{edge}"));
        flags.push(format!("--ops-listen=127.0.0.1:{ops}"));
        flags
    };
    members.launch(flags);
    members.until_ready().await;
    let backends = ports.iter().map(|(edge, ops)| Backend {
        port: *edge,
        check_port: *ops,
    });
    let backends: Vec<_> = backends.collect();
    let balancer = Haproxy::start(&backends, "/readyz");
    let served = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let clients = (0..CLIENTS).map(|client| {
        let (served, over) = (Arc::clone(&served), Arc::clone(&over));
        let (url, objects) = (balancer.url().to_owned(), objects.clone());
        tokio::spawn(async move {
            let mut failed = Vec::new();
            let mut n = client;
            while !over.load(Relaxed) {
                n = (n + 1) % OBJECTS;
                match client::download(&format!("{url}/b/k{n}"), &[], true).await {
                    Ok(got) if got.served() && got.sha256 == objects[n as usize] => {
                        served.fetch_add(1, Relaxed);
                    }
                    other => failed.push(format!("{other:?}")),
                }
            }
            failed
        })
    });
    let clients: Vec<_> = clients.collect();
    let more = async |count: u64| {
        let before = served.load(Relaxed);
        until("clients to be served", async || {
            served.load(Relaxed) >= before + count
        })
        .await;
    };
    more(2 * OBJECTS).await;
    for n in 0..3 {
        let member = &mut members.members[n];
        let ended = member.process.terminate(PATIENCE);
        assert_eq!(ended.code(), Some(0), "{}", member.process.log());
        more(OBJECTS).await;
        members.members[n] = members.spawn(n, &flags(&members, n));
        members.until_ready().await;
        until("the balancer to see it", async || balancer.is_up(n).await).await;
        more(OBJECTS).await;
    }
    over.store(true, Relaxed);
    for client in clients {
        let failed = client.await.expect("it does not panic");
        assert!(failed.is_empty(), "{failed:?}");
    }
}
