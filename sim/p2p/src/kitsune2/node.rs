//! One node: its module, ours or the stock one, from its start to its end.

use super::{
    account::{Key, Run},
    planted::Bend,
    ports::{CALL, Port, share},
    state::{Shared, pause},
    wire::{SPACE, peer_at, url},
    world::Kind,
};
use bytes::Bytes;
use gannet_kitsune2::{GannetFetchFactory, GannetFetchModConfig, Monitor};
use kitsune2_api::{Builder, DynFetch, DynFetchFactory, OpId, PublishOp};
use kitsune2_core::{default_test_builder, factories::CoreFetchFactory};
use std::{collections::BTreeSet, sync::Arc};
use tokio::task::JoinHandle;

/// A node that runs.
#[derive(Debug)]
pub(crate) struct Node {
    shared: Shared,
    node: usize,
    pub(crate) run: Option<usize>,
    fetch: DynFetch,
    bend: Bend,
    /// Kept, for the module does not.
    transport: Arc<Port>,
    /// Calls of the host that are under way.
    calls: Vec<JoinHandle<()>>,
}

impl Node {
    pub(crate) async fn start(shared: &Shared, node: usize, plant: Option<&'static str>) -> Self {
        let monitor = Monitor::default();
        let (run, peer, seed) = shared.with(|sim, now| {
            let peer = sim.world.peers[node].clone();
            let run = (peer.kind == Kind::Ours).then_some(sim.runs.len());
            if run.is_some() {
                let run = Run::new(node, peer.config.clone(), monitor.clone());
                sim.runs.push(run);
            }
            sim.desks[node].run = run;
            let config = run.map(|_| &peer.config);
            sim.line(
                now,
                "++",
                format_args!("{node} starts, run {run:?}: {config:?}"),
            );
            (run, peer, sim.rng.draw())
        });
        let bend = Bend::new(plant.filter(|_| run.is_some()));
        let fetch: DynFetchFactory = match run {
            Some(_) => GannetFetchFactory::seeded(&monitor, seed),
            None => CoreFetchFactory::create(),
        };
        let builder = Builder {
            fetch,
            ..default_test_builder()
        };
        let builder = builder.with_default_config().expect("defaults are sound");
        if run.is_some() {
            let config = GannetFetchModConfig {
                gannet_fetch: bend.config(&peer.config),
                ..GannetFetchModConfig::default()
            };
            builder
                .config
                .set_module_config(&config)
                .expect("settings that can be written");
        }
        let port = Port {
            shared: shared.clone(),
            node,
            run,
            bend: bend.clone(),
        };
        let transport = share(&port);
        let builder = Arc::new(builder);
        let module = builder.fetch.create(
            builder.clone(),
            SPACE,
            share(&port),
            share(&port),
            share(&port),
            transport.clone(),
        );
        Self {
            shared: shared.clone(),
            node,
            run,
            fetch: module.await.expect("sound settings"),
            bend,
            transport,
            calls: Vec::new(),
        }
    }

    /// The host is told that a peer offers ops.
    pub(crate) fn request(&mut self, peer: usize, ops: Vec<(Bytes, Option<Bytes>)>) {
        self.calls.retain(|call| !call.is_finished());
        let (shared, fetch, run, node) =
            (self.shared.clone(), self.fetch.clone(), self.run, self.node);
        let told = ops[..self.bend.offered(ops.len())].to_vec();
        let call = shared.with(|sim, now| {
            sim.steps += 1;
            let call = sim.steps;
            let names = sim.ops(ops.iter().map(|(id, _)| id));
            sim.line(
                now,
                "??",
                format_args!("{node} is offered {names} by {peer}, call {call}"),
            );
            if let Some(account) = sim.live(run) {
                account.offer(now, call, peer, &ops);
            }
            call
        });
        let offers = told.into_iter().map(|(id, metadata)| PublishOp {
            op_id: OpId::from(id),
            metadata,
        });
        let offers: Vec<PublishOp> = offers.collect();
        let work = async move {
            let ok = if run.is_some() {
                fetch.request_ops(offers, url(peer)).await.is_ok()
            } else {
                // One at a time, for the stock module takes several in an order of chance.
                for offer in offers {
                    let _ = fetch.request_ops(vec![offer], url(peer)).await;
                }
                true
            };
            shared.with(|sim, now| {
                sim.line(now, "?.", format_args!("call {call}: {ok}"));
                if let Some(account) = sim.live(run) {
                    account.offered(now, call, ok);
                }
                if !ok {
                    sim.coverage.hit("not taken");
                }
            });
        };
        self.calls.push(tokio::spawn(CALL.scope(call, work)));
    }

    /// The host wants to be told when nothing is pending.
    pub(crate) fn wait_for_drained(&mut self) {
        let Some(run) = self.run else { return };
        let (notify, told) = futures_channel::oneshot::channel();
        let shared = self.shared.clone();
        let id = shared.with(|sim, now| {
            sim.steps += 1;
            let id = sim.steps;
            sim.runs[run].waiting.insert(id, now);
            id
        });
        if let Some(notify) = self.bend.drained(notify) {
            self.fetch.notify_on_drained(notify);
        }
        tokio::spawn(async move {
            let told = told.await.is_ok();
            shared.with(|sim, now| sim.drained(now, run, id, told));
        });
    }

    /// Looks whether all that can be seen of the module is as it should be.
    pub(crate) async fn check(&self) {
        let Some(run) = self.run else { return };
        let seen = self.pending().await;
        let Some(stats) = self.shared.stats(run) else {
            let gone = |now, sim: &mut super::state::Sim| {
                sim.fail(now, run, "stopped", format_args!("without being told"))
            };
            return self.shared.with(|sim, now| gone(now, sim));
        };
        self.shared.with(|sim, now| {
            sim.check_summary(now, run, &seen);
            sim.check_stats(now, run, &stats);
            sim.check_serving(now, run, &stats);
            sim.check_drained(now, run, &stats);
        });
    }

    /// What is pending, of whom.
    pub(crate) async fn pending(&self) -> BTreeSet<Key> {
        let summary = self
            .fetch
            .get_state_summary()
            .await
            .expect("it never fails");
        let pairs = summary.pending_requests.into_iter();
        let pairs = pairs.flat_map(|(id, urls)| {
            let id = Bytes::from(id);
            urls.into_iter().map(move |url| (id.clone(), peer_at(&url)))
        });
        pairs.collect()
    }

    /// Calls of the host that have not returned.
    pub(crate) fn calling(&self) -> usize {
        self.calls.iter().filter(|call| !call.is_finished()).count()
    }

    /// Ends it; nothing of it may be left.
    pub(crate) async fn stop(self) {
        let Self {
            shared,
            node,
            run,
            fetch,
            bend,
            transport,
            calls,
        } = self;
        for call in calls {
            call.abort();
            // Cancelled, or just finished.
            let _ = call.await;
        }
        let monitor = shared.with(|sim, now| {
            sim.line(now, "--", format_args!("{node} stops"));
            sim.desks[node].handler = None;
            sim.desks[node].run = None;
            let run = sim.runs.get_mut(run?)?;
            run.stopped = true;
            Some(run.monitor.clone())
        });
        if bend.is("leaves-a-task") {
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(fetch);
            });
        } else {
            drop(fetch);
        }
        drop(transport);
        pause(1).await;
        if let Some(monitor) = monitor.filter(|monitor| !monitor.stats().is_empty()) {
            let left = monitor.stats();
            let run = run.unwrap_or_default();
            shared.with(|sim, now| {
                sim.fail(now, run, "stopped", format_args!("{left:?} is left of it"))
            });
        }
        shared.with(|sim, now| {
            let waiting = run.map_or(0, |run| sim.runs[run].waiting.len());
            if waiting > 0 {
                let run = run.unwrap_or_default();
                sim.fail(
                    now,
                    run,
                    "drained",
                    format_args!("{waiting} were not told at its end"),
                );
            }
            sim.coverage.hit("stopped");
        });
    }
}

impl super::state::Sim {
    /// A notification that nothing is pending has fired, or was dropped.
    fn drained(&mut self, now: u64, run: usize, id: u64, told: bool) {
        self.line(now, "00", format_args!("run {run} is drained: {told}"));
        let account = &mut self.runs[run];
        if told || account.stopped {
            account.waiting.remove(&id);
        }
        let early = (!account.stopped).then(|| {
            let mut pairs = account.pairs.keys().cloned();
            pairs.find(|(op, peer)| account.surely(now, op, *peer))
        });
        if !told {
            self.fail(
                now,
                run,
                "drained",
                format_args!("the notification was dropped"),
            );
        }
        if let Some((op, peer)) = early.flatten() {
            let op = self.op(&op);
            self.fail(
                now,
                run,
                "drained",
                format_args!("{op} of peer {peer} is pending"),
            );
        }
        self.coverage.hit("drained");
    }

    /// When nothing is pending, all have been told.
    fn check_drained(&mut self, now: u64, run: usize, stats: &gannet_kitsune2::FetchStats) {
        let Some(account) = self.live(Some(run)) else {
            return;
        };
        let late = account
            .waiting
            .values()
            .filter(|since| **since < now)
            .count();
        if stats.pending == 0 && late > 0 {
            self.fail(
                now,
                run,
                "drained",
                format_args!("{late} were not told that nothing is pending"),
            );
        }
    }
}
