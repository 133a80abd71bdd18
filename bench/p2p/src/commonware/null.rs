//! The harness alone: asks each peer in turn, delivers what comes, and decides nothing.

use super::network::{Inbox, Net};
use bytes::Bytes;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{Receiver as _, Recipients, Sender as _};
use commonware_resolver::{Consumer, Delivery};
use commonware_runtime::Clock;
use commonware_utils::vec::NonEmptyVec;
use std::time::Duration;

pub(crate) async fn run<E: Clock, Con>(
    context: E,
    (mut net, mut inbox): (Net, Inbox),
    peers: Vec<PublicKey>,
    keys: Vec<u64>,
    mut consumer: Con,
) where
    Con: Consumer<Key = u64, Value = Bytes, Subscriber = ()>,
{
    let mut turn = peers.iter().cycle();
    for key in keys {
        let mut request = key.to_be_bytes().to_vec();
        request.push(0);
        request.extend(key.to_be_bytes());
        // At their quotas, all of them: wait for the next second.
        let mut tries = 0;
        while let Some(peer) = turn.next()
            && net
                .send(Recipients::One(peer.clone()), request.clone(), false)
                .is_empty()
        {
            tries += 1;
            if tries % peers.len() == 0 {
                context.sleep(Duration::from_secs(1)).await;
            }
        }
        let Ok((_, answer)) = inbox.recv().await else {
            return;
        };
        let value = Bytes::from(answer).slice(11..);
        let subscribers = NonEmptyVec::new(((), tracing::Span::none()));
        let _ = consumer.deliver(Delivery { key, subscribers }, value).await;
    }
}
