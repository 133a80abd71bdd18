//! What a node gives its module: a transport, an op store, a peer meta store and a report, all of them
//! the simulation's. They are slow and fail as the seed says, and tell the oracle what passes.

use super::{
    planted::Bend,
    state::{Shared, pause},
    wire::{Message, peer_at},
};
use bytes::Bytes;
use kitsune2_api::{
    ApiTransportStats, BoxFut, DhtArc, DynTxModuleHandler, DynTxSpaceHandler, IncomingOp, K2Error,
    K2Result, MetaOp, OpId, OpStore, PeerMetaStore, Report, SpaceId, Timestamp, Transport,
    TransportStats, TxBaseHandler, TxModuleHandler, Url,
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

tokio::task_local! {
    /// The call to `request_ops` that this task makes.
    pub(crate) static CALL: u64;
}

/// Where a module runs: at which node, and in which run if it is ours.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) shared: Shared,
    pub(crate) node: usize,
    pub(crate) run: Option<usize>,
    pub(crate) bend: Bend,
}

/// How a call to the host goes.
enum How {
    Well,
    Fails,
    Panics,
}

fn failed<T>() -> K2Result<T> {
    Err(K2Error::other("as the seed says"))
}

/// A call under way; dropped, it was given up.
struct Sending<'a>(&'a Port, usize, bool, bool);

impl Sending<'_> {
    fn end(&mut self, out: bool) {
        let Self(port, peer, request, _) = *self;
        self.3 = true;
        let Some(run) = port.run else { return };
        port.shared.with(|sim, now| {
            sim.line(
                now,
                if out { ".." } else { "x." },
                format_args!("{}>{peer} out {out}", port.node),
            );
            match request {
                true => sim.was_sent(now, run, peer, out),
                false => sim.was_answered(run, peer, out),
            }
        });
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.3 {
            self.end(false);
        }
    }
}

impl Port {
    async fn send(&self, peer: usize, bytes: Bytes) -> K2Result<()> {
        let message = Message::decode(&bytes);
        let request = matches!(message, Some(Message::Request(_)));
        let (wait, out) = self
            .shared
            .with(|sim, now| sim.send(now, self, peer, message));
        // A send that fails may have got through, too.
        let through = self.shared.with(|sim, _| out || sim.rng.permille(300));
        if through {
            let trips = self.shared.with(|sim, now| sim.trips(now, self.node, peer));
            self.shared.travel((self.node, peer), bytes, trips);
        }
        let mut sending = Sending(self, peer, request, false);
        pause(wait).await;
        sending.end(out);
        if out { Ok(()) } else { failed() }
    }

    async fn how(&self, ids: &[Bytes]) -> How {
        let (wait, how) = self.shared.with(|sim, _| {
            let slow = sim.world.odds.store_slow;
            let wait = sim.delay(slow);
            let bad = |id: &Bytes| {
                sim.world
                    .numbers
                    .get(id)
                    .is_some_and(|n| sim.world.poisoned.contains(n))
            };
            // A stock module does not outlive a panic of its store.
            let ours = self.run.is_some();
            let poisoned = ours && !sim.calm && ids.iter().any(bad);
            let odds = sim.world.odds.store_fails;
            let how = match (poisoned, sim.fault(odds)) {
                (true, _) => How::Panics,
                (_, true) if ours && sim.rng.permille(300) => How::Panics,
                (_, true) => How::Fails,
                _ => How::Well,
            };
            (wait, how)
        });
        pause(wait).await;
        how
    }

    fn number(&self) -> u64 {
        self.shared.with(|sim, _| {
            sim.steps += 1;
            sim.steps
        })
    }

    async fn process(&self, ops: Vec<IncomingOp>) -> K2Result<Vec<OpId>> {
        let call = self.number();
        let ids: Vec<Bytes> = ops.iter().map(|op| op.op_id.clone().into()).collect();
        if let Some(run) = self.run {
            self.shared.with(|sim, now| {
                let names = sim.ops(&ids);
                sim.line(now, "=>", format_args!("{} stores {names}", self.node));
                sim.storing(now, run, call, &ops);
            });
        }
        let how = self.how(&ids).await;
        let taken = self.shared.with(|sim, now| {
            let fits = |op: &&IncomingOp| sim.world.fits(&op.op_id, &op.op_data);
            let good: Vec<IncomingOp> = match how {
                How::Well => ops.iter().filter(fits).cloned().collect(),
                _ => Vec::new(),
            };
            let taken: BTreeSet<Bytes> = good.iter().map(|op| op.op_id.clone().into()).collect();
            for op in good {
                sim.desks[self.node]
                    .held
                    .insert(op.op_id.into(), op.op_data);
            }
            if let Some(run) = self.run {
                let taken = matches!(how, How::Well).then_some(&taken);
                let names = taken.map(|taken| sim.ops(taken));
                sim.line(now, "<=", format_args!("{} took {names:?}", self.node));
                sim.stored(now, run, call, taken);
            }
            taken
        });
        match how {
            How::Well => Ok(ids
                .into_iter()
                .filter(|id| taken.contains(id))
                .map(OpId::from)
                .collect()),
            How::Fails => failed(),
            How::Panics => panic!("a poisoned op"),
        }
    }

    async fn retrieve(&self, ids: Vec<Bytes>) -> K2Result<Vec<MetaOp>> {
        let read = self.number();
        if let Some(run) = self.run {
            let ids = ids.clone();
            self.shared
                .with(|sim, now| sim.reading(now, run, read, ids));
        }
        let how = self.how(&[]).await;
        if let Some(run) = self.run {
            self.shared
                .with(|sim, _| sim.read(run, read, matches!(how, How::Well)));
        }
        match how {
            How::Well => Ok(self.shared.with(|sim, _| {
                let held = &sim.desks[self.node].held;
                let found = ids.iter().filter_map(|id| Some((id, held.get(id)?)));
                let ops = found.map(|(id, data)| MetaOp {
                    op_id: OpId::from(id.clone()),
                    op_data: data.clone(),
                });
                ops.collect()
            })),
            How::Fails => failed(),
            How::Panics => panic!("a store that panics"),
        }
    }

    async fn filter(&self, ids: Vec<Bytes>) -> K2Result<Vec<OpId>> {
        let missing = |shared: &Shared| -> Vec<Bytes> {
            shared.with(|sim, _| {
                let held = &sim.desks[self.node].held;
                ids.iter()
                    .filter(|id| !held.contains_key(*id))
                    .cloned()
                    .collect()
            })
        };
        // As of the beginning: by the end, there may be more.
        let missing = missing(&self.shared);
        let how = self.how(&[]).await;
        if !matches!(how, How::Well) {
            return failed();
        }
        if let (Some(run), Ok(call)) = (self.run, CALL.try_with(|call| *call)) {
            let asked = ids.iter().cloned().collect();
            let set = missing.iter().cloned().collect();
            self.shared.with(|sim, now| {
                if let Some(account) = sim.live(Some(run)) {
                    account.looked_up(now, call, (&asked, &set));
                }
            });
        }
        Ok(missing.into_iter().map(OpId::from).collect())
    }

    async fn unresponsive(&self, peer: usize) -> K2Result<Option<Timestamp>> {
        let (wait, fails, unresponsive) = self.shared.with(|sim, now| {
            sim.line(now, "me", format_args!("{}>{peer} looks", self.node));
            if let Some(account) = sim.live(self.run) {
                account.asking.looked.insert(peer, now);
            }
            let odds = sim.world.odds.clone();
            let wait = sim.delay(odds.meta_slow);
            (
                wait,
                sim.fault(odds.meta_fails),
                sim.fault(odds.unresponsive),
            )
        });
        pause(wait).await;
        if let Some(run) = self.run {
            let unresponsive = unresponsive && !fails;
            self.shared.with(|sim, now| {
                let (node, responds) = (self.node, !unresponsive);
                sim.line(now, "mo", format_args!("{node}>{peer} responds {responds}"));
                sim.looked(now, run, peer, unresponsive);
            });
        }
        match (fails, unresponsive) {
            (true, _) => failed(),
            (_, true) => Ok(Some(Timestamp::from_micros(1))),
            _ => Ok(None),
        }
    }
}

impl Transport for Port {
    fn register_space_handler(&self, _: SpaceId, _: DynTxSpaceHandler) -> Option<Url> {
        None
    }

    fn register_module_handler(&self, _: SpaceId, _: String, handler: DynTxModuleHandler) {
        let handler = self.bend.handler(handler);
        self.shared
            .with(|sim, _| sim.desks[self.node].handler = Some(handler));
    }

    fn disconnect(&self, _: Url, _: Option<String>) -> BoxFut<'_, ()> {
        Box::pin(async {})
    }

    fn send_space_notify(&self, _: Url, _: SpaceId, _: Bytes) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn send_module(
        &self,
        peer: Url,
        _: SpaceId,
        _: String,
        data: Bytes,
    ) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async move {
            let peer = peer_at(&peer);
            let mut result = Ok(());
            for (after, data) in self.bend.outgoing(peer, data) {
                pause(after).await;
                result = self.send(peer, data).await;
            }
            if self.bend.is("hides-failures") {
                Ok(())
            } else {
                result
            }
        })
    }

    fn get_connected_peers(&self) -> BoxFut<'_, K2Result<Vec<Url>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn unregister_space(&self, _: SpaceId) -> BoxFut<'_, ()> {
        Box::pin(async {})
    }

    fn dump_network_stats(&self) -> BoxFut<'_, K2Result<ApiTransportStats>> {
        let transport_stats = TransportStats {
            backend: "simulated".into(),
            peer_urls: Vec::new(),
            connections: Vec::new(),
        };
        let blocked_message_counts = HashMap::new();
        Box::pin(async {
            Ok(ApiTransportStats {
                transport_stats,
                blocked_message_counts,
            })
        })
    }
}

impl OpStore for Port {
    fn process_incoming_ops(&self, ops: Vec<IncomingOp>) -> BoxFut<'_, K2Result<Vec<OpId>>> {
        Box::pin(async move {
            let all = ops.iter().map(|op| op.op_id.clone()).collect();
            let taken = self.process(self.bend.incoming(ops)).await?;
            Ok(if self.bend.is("believes-liars") {
                all
            } else {
                taken
            })
        })
    }

    fn retrieve_ops(&self, ids: Vec<OpId>) -> BoxFut<'_, K2Result<Vec<MetaOp>>> {
        Box::pin(self.retrieve(ids.into_iter().map(Bytes::from).collect()))
    }

    fn filter_out_existing_ops(&self, ids: Vec<OpId>) -> BoxFut<'_, K2Result<Vec<OpId>>> {
        Box::pin(async move {
            let all = ids.clone();
            let missing = self
                .filter(ids.into_iter().map(Bytes::from).collect())
                .await?;
            Ok(if self.bend.is("asks-for-held") {
                all
            } else {
                missing
            })
        })
    }

    // The rest is for gossip.

    fn retrieve_op_hashes_in_time_slice(
        &self,
        _: DhtArc,
        _: Timestamp,
        _: Timestamp,
    ) -> BoxFut<'_, K2Result<(Vec<OpId>, u32)>> {
        Box::pin(async { failed() })
    }

    fn retrieve_op_ids_bounded(
        &self,
        _: DhtArc,
        _: Timestamp,
        _: u32,
    ) -> BoxFut<'_, K2Result<(Vec<OpId>, u32, Timestamp)>> {
        Box::pin(async { failed() })
    }

    fn earliest_timestamp_in_arc(&self, _: DhtArc) -> BoxFut<'_, K2Result<Option<Timestamp>>> {
        Box::pin(async { failed() })
    }

    fn store_slice_hash(&self, _: DhtArc, _: u64, _: Bytes) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async { failed() })
    }

    fn slice_hash_count(&self, _: DhtArc) -> BoxFut<'_, K2Result<u64>> {
        Box::pin(async { failed() })
    }

    fn retrieve_slice_hash(&self, _: DhtArc, _: u64) -> BoxFut<'_, K2Result<Option<Bytes>>> {
        Box::pin(async { failed() })
    }

    fn retrieve_slice_hashes(&self, _: DhtArc) -> BoxFut<'_, K2Result<Vec<(u64, Bytes)>>> {
        Box::pin(async { failed() })
    }

    fn query_total_op_count(&self) -> BoxFut<'_, K2Result<u64>> {
        Box::pin(async { failed() })
    }
}

impl PeerMetaStore for Port {
    fn put(&self, _: Url, _: String, _: Bytes, _: Option<Timestamp>) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async { failed() })
    }

    fn get(&self, _: Url, _: String) -> BoxFut<'_, K2Result<Option<Bytes>>> {
        Box::pin(async { failed() })
    }

    fn get_all_by_key(&self, _: String) -> BoxFut<'_, K2Result<HashMap<Url, Bytes>>> {
        Box::pin(async { failed() })
    }

    fn get_unresponsive(&self, peer: Url) -> BoxFut<'_, K2Result<Option<Timestamp>>> {
        Box::pin(async move {
            let unresponsive = self.unresponsive(peer_at(&peer)).await?;
            let blind = self.bend.is("asks-unresponsive");
            Ok(unresponsive.filter(|_| !blind))
        })
    }

    fn delete(&self, _: Url, _: String) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async { failed() })
    }
}

impl Report for Port {
    fn fetched_op(&self, _: SpaceId, source: Url, op: OpId, bytes: u64) {
        let Some(run) = self.run else { return };
        let (peer, id) = (peer_at(&source), Bytes::from(op));
        for bytes in self.bend.report(bytes) {
            self.shared.with(|sim, now| {
                let name = sim.op(&id);
                sim.line(
                    now,
                    "ok",
                    format_args!("{} has {name} of {peer}", self.node),
                );
                sim.reported(now, run, peer, &id, bytes);
            });
        }
    }
}

/// A handler behind a planted bug.
#[derive(Debug)]
pub(crate) struct Bent(pub(crate) DynTxModuleHandler, pub(crate) Bend);

impl TxBaseHandler for Bent {
    fn peer_disconnect(&self, peer: Url, reason: Option<String>) {
        self.0.peer_disconnect(peer, reason);
    }
}

impl TxModuleHandler for Bent {
    fn recv_module_msg(
        &self,
        peer: Url,
        space: SpaceId,
        module: String,
        data: Bytes,
    ) -> K2Result<()> {
        match self.1.received(data) {
            Some(data) => self.0.recv_module_msg(peer, space, module, data),
            None => Ok(()),
        }
    }
}

/// A port as each of the things that a factory takes.
pub(crate) fn share(port: &Port) -> Arc<Port> {
    Arc::new(port.clone())
}
