//! What the tests share: a producer and a consumer whose data follows from the key.
#![allow(dead_code, unreachable_pub)] // Each test file uses a part of it.

use bytes::Bytes;
use commonware_resolver::{Consumer, Delivery, Outcome, Resolution, p2p::Producer};
use commonware_utils::channel::{mpsc, oneshot};

/// What belongs to a key: of a length and with contents that follow from it.
pub fn value(key: u64) -> Bytes {
    let len = 1 + key * 37 % 2000;
    (0..len).map(|n| (n ^ key) as u8).collect()
}

/// Has the keys for which the function says yes; of the others it knows nothing.
#[derive(Clone, Copy)]
pub struct Holder(pub fn(u64) -> bool);

impl Producer for Holder {
    type Key = u64;

    fn produce(&mut self, key: u64) -> oneshot::Receiver<Bytes> {
        let (sender, receiver) = oneshot::channel();
        if self.0(key) {
            let _ = sender.send(value(key));
        }
        receiver
    }
}

/// Accepts what belongs to the key, rejects everything else, and tells which keys it got.
#[derive(Clone)]
pub struct Collector(mpsc::UnboundedSender<u64>);

impl Collector {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<u64>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }
}

impl Consumer for Collector {
    type Key = u64;
    type Value = Bytes;
    type Subscriber = ();
    type Outcome = Outcome;

    fn deliver(&mut self, delivery: Delivery<u64, ()>, bytes: Bytes) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        let outcome = if bytes == value(delivery.key) {
            let _ = self.0.send(delivery.key);
            Outcome::Resolved(Resolution::Complete)
        } else {
            Outcome::Invalid
        };
        let _ = sender.send(outcome);
        receiver
    }
}
