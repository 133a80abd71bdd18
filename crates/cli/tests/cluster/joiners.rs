//! Clients of members that do not coordinate what they want.

use crate::{
    harness::PATIENCE,
    members::{MIB, Members},
};
use gannet_testkit::{
    client::{Connection, split},
    content,
    origin::{Object, Origin, Pace},
};
use std::ops::ControlFlow;

#[tokio::test(flavor = "multi_thread")]
async fn they_read_a_chunk_while_it_arrives_at_its_coordinator() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, MIB));
    let args = ["--chunk-size=1MiB", "--hedge-after=10s"];
    let members = Members::start(3, &origin, &args).await;
    let coordinator = members.coordinators(0, "b/k").await[0];
    // Eight seconds for the chunk.
    origin.pace(Pace {
        bandwidth: Some(128 << 10),
        ..Pace::default()
    });
    let others = (0..3).filter(|n| *n != coordinator).cycle().take(4);
    let urls: Vec<_> = others.map(|n| members.members[n].url("b/k")).collect();
    let clients = urls.into_iter().map(|url| {
        tokio::spawn(async move {
            let mut connection = Connection::open(split(&url).0).await.unwrap();
            connection.send("GET", &url, &[], b"").await.unwrap();
            let head = connection.receive_head().await.unwrap();
            let mut body = Vec::new();
            let first = connection.receive_body(&head, false, |piece| {
                body.extend_from_slice(piece);
                ControlFlow::Break(())
            });
            assert!(!first.await);
            (connection, body)
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut begun = Vec::new();
    for client in clients {
        let began = tokio::time::timeout(PATIENCE, client).await;
        begun.push(began.expect("bytes come").unwrap());
    }
    let counts = origin.counts_of("b", "k");
    assert_eq!((counts.gets, counts.active), (1, 1), "it is still arriving");
    for (mut connection, mut body) in begun {
        let rest = gannet_testkit::client::Head {
            status: 200,
            headers: vec![(
                "content-length".to_owned(),
                (MIB - body.len() as u64).to_string(),
            )],
        };
        let cut = connection.receive_body(&rest, false, |piece| {
            body.extend_from_slice(piece);
            ControlFlow::Continue(())
        });
        assert!(!cut.await);
        assert_eq!(content::sha256_of(&body), object.sha256());
    }
    assert_eq!(origin.counts_of("b", "k").bytes, MIB, "each byte once");
}
