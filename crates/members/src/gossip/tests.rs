//! Members that gossip for real, over loopback.

use super::*;
use chitchat::Serializable;
use gannet_testkit::process::free_port;
use tokio::sync::mpsc::{self, UnboundedReceiver};

/// Generous: tests run side by side on few cores.
const PATIENCE: Duration = Duration::from_secs(60);
const ROUND: Duration = Duration::from_millis(100);

struct Node {
    seen: UnboundedReceiver<Option<Vec<Member>>>,
    watching: Watching,
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn config(listen: SocketAddr, seed: SocketAddr, name: &str, key: Option<[u8; 32]>) -> Config {
    Config {
        listen,
        advertise: listen,
        seeds: vec![seed.to_string()],
        me: fixed::member(name).unwrap(),
        cluster: "c".into(),
        key,
    }
}

async fn start(config: Config) -> Node {
    let (told, seen) = mpsc::unbounded_channel();
    let tell = move |found| {
        // The test may be over.
        let _ = told.send(found);
    };
    let watching = watch_in_rounds(config, ROUND, tell).await.unwrap();
    Node { seen, watching }
}

impl Node {
    async fn next(&mut self) -> Option<Vec<Member>> {
        let next = timeout(PATIENCE, self.seen.recv()).await;
        next.expect("a look within a minute").expect("it looks on")
    }

    async fn until(&mut self, wanted: &str) {
        let wanted: Vec<Member> = crate::Discovery::parse_peers(wanted).unwrap();
        let mut last = None;
        let all = async {
            while last.as_ref() != Some(&wanted) {
                last = self.next().await;
            }
        };
        let found = timeout(PATIENCE, all).await;
        assert!(found.is_ok(), "not {wanted:?}, but {last:?}");
    }

    async fn until_failed(&mut self, count: usize) {
        let mut failed = 0;
        let all = async {
            while failed < count {
                failed = if self.next().await.is_none() {
                    failed + 1
                } else {
                    0
                };
            }
        };
        assert!(
            timeout(PATIENCE, all).await.is_ok(),
            "looks go on to succeed"
        );
    }
}

#[tokio::test]
async fn members_find_each_other_and_miss_one_that_dies() {
    let (a, b, c) = (local(), local(), local());
    let key = Some([7; 32]);
    let mut one = start(config(a, b, "10.0.0.1:9001", key)).await;
    // Nobody is there yet.
    one.until_failed(1).await;
    let mut two = start(config(b, a, "10.0.0.2:9001*3", key)).await;
    // Whom it does not know, others tell it of.
    let mut three = start(config(c, a, "host-3:9001", key)).await;
    for node in [&mut one, &mut two, &mut three] {
        node.until("10.0.0.1:9001,10.0.0.2:9001*3,host-3:9001")
            .await;
    }
    drop(two);
    for node in [&mut one, &mut three] {
        node.until("10.0.0.1:9001,host-3:9001").await;
    }
    // It comes back as another, at another place.
    let mut two = start(config(local(), c, "10.0.0.2:9001", key)).await;
    for node in [&mut one, &mut two, &mut three] {
        node.until("10.0.0.1:9001,10.0.0.2:9001,host-3:9001").await;
    }
    drop((two, three));
    // The last one has nobody to ask: its looks fail.
    one.until_failed(2).await;
    assert_eq!(one.watching.dropped(), 0);
}

#[tokio::test]
async fn one_that_takes_leave_is_missed_while_it_lives() {
    let (a, b) = (local(), local());
    let mut one = start(config(a, b, "a:1", None)).await;
    let shared = Arc::new(Shared::default());
    let gossip = Gossip {
        config: config(b, a, "b:1", None),
        round: ROUND,
        seal: None,
        shared,
    };
    let handle = gossip.begin(None).await.unwrap();
    one.until("a:1,b:1").await;
    gossip.take_leave(&handle).await;
    // Its signs of life go on, for it is not shut down.
    one.until_failed(5).await;
    drop(handle);
}

#[tokio::test]
async fn leaving_ends_it() {
    let (a, b) = (local(), local());
    let mut one = start(config(a, b, "a:1", None)).await;
    let mut two = start(config(b, a, "b:1", None)).await;
    two.until("a:1,b:1").await;
    one.until("a:1,b:1").await;
    two.watching.leave().await;
    // What it listened on is free again.
    let _socket = bind(b).await.unwrap();
    one.until_failed(2).await;
}

#[tokio::test]
async fn strangers_are_not_heard() {
    let (a, b) = (local(), local());
    let key = Some([7; 32]);
    let mut one = start(config(a, b, "a:1", key)).await;
    let mut two = start(config(b, a, "b:1", key)).await;
    let mut strangers = Vec::new();
    for (name, key, cluster) in [
        ("x:1", None, "c"),
        ("y:1", Some([8; 32]), "c"),
        ("z:1", key, "other"),
    ] {
        let mut config = config(local(), a, name, key);
        config.cluster = cluster.into();
        strangers.push(start(config).await);
    }
    for node in &mut strangers {
        node.until_failed(5).await;
    }
    for node in [&mut one, &mut two] {
        node.until("a:1,b:1").await;
        // Had one been heard, it had been told meanwhile, or would be now.
        while let Ok(found) = node.seen.try_recv() {
            assert!(
                found.iter().flatten().all(|member| member.address() < "x"),
                "{found:?}"
            );
        }
        node.until("a:1,b:1").await;
    }
    assert!(one.watching.dropped() > 0);
}

/// A first word that names many.
fn forged(first: u16, count: u16) -> Vec<u8> {
    let mut message = 45_139_u16.to_le_bytes().to_vec();
    message.extend([0, 0]);
    message.extend(count.to_le_bytes());
    for n in first..first + count {
        let id = ChitchatId::new("m", 1, SocketAddr::from(([10, 6, 0, 1], n)));
        id.serialize(&mut message);
        // Signs of life, and the versions of what it published.
        message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        message.extend([0; 16]);
    }
    "c".serialize(&mut message);
    message
}

#[tokio::test]
async fn what_strangers_make_one_remember_is_bounded() {
    let (a, b) = (local(), local());
    let mut one = start(config(a, b, "a:1", None)).await;
    let mut two = start(config(b, a, "b:1", None)).await;
    one.until("a:1,b:1").await;
    two.until("a:1,b:1").await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for junk in [&b""[..], b"junk", &[0xff; 4000], &forged(1, 1000)] {
        stranger.send_to(junk, a).await.unwrap();
    }
    // As many as there may be, and more: it has to begin anew, and finds the other again.
    let mut first = 1;
    let mut begun_anew = false;
    while !begun_anew {
        assert!(first < 60_000, "thousands are remembered");
        stranger.send_to(&forged(first, 50), a).await.unwrap();
        first += 50;
        // It answers each that it listened to; one that begins anew answers none for a while.
        let mut answer = [0; 65_507];
        let answered = timeout(ROUND * 20, stranger.recv_from(&mut answer)).await;
        begun_anew = answered.is_err();
    }
    assert!((100..400).contains(&first), "after {first}");
    one.until("a:1,b:1").await;
    assert!(one.watching.dropped() >= 4);
}

#[tokio::test]
async fn says_why_it_cannot_be() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let check = async |listen: SocketAddr, advertise: &str, me: &str| {
        let config = Config {
            advertise: advertise.parse().unwrap(),
            me: Member::new(me),
            ..config(listen, listen, "a:1", None)
        };
        watch(config, |_| {}).await.unwrap_err().to_string()
    };
    let listen = taken.local_addr().unwrap();
    let found = check(listen, "10.0.0.1:1", "a:1").await;
    assert!(
        found.starts_with(&format!("gossip on {listen}: ")),
        "{found}"
    );
    for nowhere in ["0.0.0.0:1", "[::]:1", "10.0.0.1:0"] {
        let found = check(local(), nowhere, "a:1").await;
        assert_eq!(found, format!("gossip cannot be reached at {nowhere}"));
    }
    for me in ["a", "A:1", "[::ffff:1.2.3.4]:1"] {
        let found = check(local(), "10.0.0.1:1", me).await;
        assert!(found.starts_with("gossip cannot tell of"), "{found}");
    }
    for seed in ["10.0.0.1", "a:1*2", ""] {
        let mut config = config(local(), local(), "a:1", None);
        config.seeds.push(seed.into());
        let found = watch(config, |_| {}).await.unwrap_err().to_string();
        assert!(found.starts_with("a seed of gossip: "), "{found}");
    }
}
