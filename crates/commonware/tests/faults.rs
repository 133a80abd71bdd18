//! Two nodes exchange ten thousand values over loopback TCP, while a third lies to them, a fourth is
//! silent, and one of the two is stopped halfway and started again elsewhere.

#[macro_use]
mod common;

use bytes::Bytes;
use common::{Holder, address};
use commonware_cryptography::{Signer as _, ed25519::PrivateKey};
use commonware_macros::select;
use commonware_p2p::{Address, AddressableManager as _, Blocker as _};
use commonware_resolver::{Resolver as _, p2p::Producer};
use commonware_runtime::{Clock as _, Runner as _, tokio};
use commonware_utils::{
    channel::{mpsc, oneshot},
    ordered::Map,
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

const KEYS: u64 = 10_000;

/// Answers at once, and never with the truth.
#[derive(Clone)]
struct Liar;

impl Producer for Liar {
    type Key = u64;

    fn produce(&mut self, key: u64) -> oneshot::Receiver<Bytes> {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(common::value(key + 1));
        receiver
    }
}

/// Takes every request, and says nothing.
#[derive(Clone, Default)]
struct Silent(Arc<Mutex<Vec<oneshot::Sender<Bytes>>>>);

impl Producer for Silent {
    type Key = u64;

    fn produce(&mut self, _: u64) -> oneshot::Receiver<Bytes> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().expect("nobody panics").push(sender);
        receiver
    }
}

/// Takes keys until there are so many.
async fn collect(
    context: &tokio::Context,
    keys: &mut mpsc::UnboundedReceiver<u64>,
    got: &mut BTreeSet<u64>,
    count: usize,
) {
    let timeout = context.sleep(Duration::from_secs(120));
    let all = async {
        while got.len() < count {
            let key = keys.recv().await.expect("the node runs");
            assert!(got.insert(key), "{key} was delivered before");
        }
    };
    select! {
        _ = all => {},
        _ = timeout => panic!("too slow: {} of {count}", got.len()),
    }
}

#[test]
fn values_arrive_whatever_the_others_do() {
    tokio::Runner::default().start(|context| async move {
        let signers: Vec<PrivateKey> = (1..=4).map(PrivateKey::from_seed).collect();
        let mut addresses: Vec<SocketAddr> = signers.iter().map(|_| address()).collect();
        let peers = |addresses: &[SocketAddr]| {
            let keys = signers.iter().map(|signer| signer.public_key());
            let addresses = addresses.iter().map(|address| Address::Symmetric(*address));
            Map::from_iter_dedup(keys.zip(addresses))
        };
        let has_even = Holder(|key| key % 2 == 0);
        let has_odd = Holder(|key| key % 2 == 1);
        macro_rules! ours {
            ($label:literal, $n:literal, $producer:expr) => {
                node!(
                    gannet_commonware::Engine<_, _, _, _, _, _, _>,
                    context,
                    $label,
                    signers[$n].clone(),
                    addresses[$n],
                    peers(&addresses),
                    $producer
                )
            };
        }
        let (mut even, mut even_gets, mut even_oracle, _) = ours!("even", 0, has_even);
        let (mut odd, mut odd_gets, _, odd_tasks) = ours!("odd", 1, has_odd);
        // Held, for an engine stops when nobody can tell it anything any more.
        let (_liar, _, mut liar_oracle, _) = ours!("liar", 2, Liar);
        let (_silent, _, mut silent_oracle, _) = ours!("silent", 3, Silent::default());

        let half = (KEYS / 2) as usize;
        let odd_keys: BTreeSet<u64> = (0..KEYS).filter(|key| key % 2 == 1).collect();
        let even_keys: BTreeSet<u64> = (0..KEYS).filter(|key| key % 2 == 0).collect();
        even.fetch_all(odd_keys.iter().copied().collect::<Vec<_>>());
        odd.fetch_all(even_keys.iter().copied().collect::<Vec<_>>());
        let (mut even_got, mut odd_got) = (BTreeSet::new(), BTreeSet::new());
        collect(&context, &mut odd_gets, &mut odd_got, half / 2).await;

        // The one with the odd keys stops in the middle of it, and comes back elsewhere.
        for task in odd_tasks {
            task.abort();
        }
        while let Some(key) = odd_gets.recv().await {
            odd_got.insert(key);
        }
        addresses[1] = address();
        for oracle in [&mut even_oracle, &mut liar_oracle, &mut silent_oracle] {
            oracle.track(1, peers(&addresses));
        }
        let (mut odd, mut odd_gets, ..) = ours!("odd_again", 1, has_odd);
        let missing: Vec<u64> = even_keys.difference(&odd_got).copied().collect();
        odd.fetch_all(missing);
        collect(&context, &mut odd_gets, &mut odd_got, half).await;
        collect(&context, &mut even_gets, &mut even_got, half).await;
        assert_eq!((even_got, odd_got), (odd_keys, even_keys));
        let blocked = even_oracle.blocked().recv().await.expect("it runs");
        let liar = signers[2].public_key();
        assert_eq!(blocked.as_ref(), [liar], "found out, and nobody else");
    });
}
