//! Stock nodes and ours in one network, over authenticated connections on loopback TCP: each fetches
//! from the other, and neither can tell.

#[macro_use]
mod common;

use common::{Holder, address};
use commonware_cryptography::{Signer as _, ed25519::PrivateKey};
use commonware_macros::select;
use commonware_p2p::Address;
use commonware_resolver::{Resolver as _, TargetedResolver as _, p2p as stock};
use commonware_runtime::{Clock as _, Runner as _, tokio};
use commonware_utils::{non_empty_vec, ordered::Map};
use std::{collections::BTreeSet, time::Duration};

const KEYS: u64 = 500;

#[test]
fn stock_and_ours_fetch_from_each_other() {
    tokio::Runner::default().start(|context| async move {
        let signers = [PrivateKey::from_seed(1), PrivateKey::from_seed(2)];
        let addresses = [address(), address()];
        let peers = || {
            Map::try_from([
                (signers[0].public_key(), Address::Symmetric(addresses[0])),
                (signers[1].public_key(), Address::Symmetric(addresses[1])),
            ])
            .expect("two different peers")
        };
        // Each has what the other lacks.
        let (mut ours, mut our_keys, ..) = node!(
            gannet_commonware::Engine<_, _, _, _, _, _, _>,
            context,
            "ours",
            signers[0].clone(),
            addresses[0],
            peers(),
            Holder(|key| key % 2 == 0)
        );
        let (mut theirs, mut their_keys, ..) = node!(
            stock::Engine<_, _, _, _, _, _, _>,
            context,
            "theirs",
            signers[1].clone(),
            addresses[1],
            peers(),
            Holder(|key| key % 2 == 1)
        );
        let odd: Vec<u64> = (0..KEYS).filter(|key| key % 2 == 1).collect();
        let even: Vec<u64> = (0..KEYS).filter(|key| key % 2 == 0).collect();
        // All, some, and by name.
        ours.fetch_all(odd[2..].to_vec());
        ours.fetch(odd[0]);
        ours.fetch_targeted(odd[1], non_empty_vec![signers[1].public_key()]);
        theirs.fetch_all(even[2..].to_vec());
        theirs.fetch(even[0]);
        theirs.fetch_targeted(even[1], non_empty_vec![signers[0].public_key()]);

        let (mut got, mut they_got) = (BTreeSet::new(), BTreeSet::new());
        let timeout = context.sleep(Duration::from_secs(60));
        let all = async {
            while got.len() < odd.len() || they_got.len() < even.len() {
                select! {
                    key = our_keys.recv() => assert!(got.insert(key.expect("ours runs"))),
                    key = their_keys.recv() => assert!(they_got.insert(key.expect("theirs runs"))),
                }
            }
        };
        select! {
            _ = all => {},
            _ = timeout => panic!("too slow"),
        }
        assert!(got.into_iter().eq(odd) && they_got.into_iter().eq(even));
    });
}
