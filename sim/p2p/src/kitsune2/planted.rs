//! Bugs planted on purpose between a module and the world, one at a time, to prove that the oracle would
//! see them: what stands here bends what passes the traits, on the module's side of them.
//!
//! Nothing is bent unless a bug is named.

use super::{ports::Bent, wire::Message};
use bytes::Bytes;
use gannet_kitsune2::GannetFetchConfig;
use gannet_sim::subject::Plant;
use kitsune2_api::{DynTxModuleHandler, IncomingOp};
use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{Arc, Mutex, PoisonError},
};

/// Every bug that can be planted, and what the oracle has to say of it.
pub(crate) const ALL: &[Plant] = &[
    ("alters-data", "true to the wire"),
    ("asks-for-held", "not held"),
    ("asks-for-stored", "not held"),
    ("asks-twice", "batch"),
    ("asks-unresponsive", "dropped"),
    ("believes-liars", "reported"),
    ("chance", "I8"),
    ("crams", "batch"),
    ("forgets-metadata", "metadata"),
    ("forgets-offers", "kept"),
    ("gives-up-early", "kept"),
    ("hammers", "patience"),
    ("hides-failures", "dropped"),
    ("invents", "wanted"),
    ("keeps-all", "bounded"),
    ("leaves-a-task", "stopped"),
    ("loses-answers", "handed on"),
    ("mute", "served"),
    ("never-gives-up", "patience"),
    ("no-pause", "patience"),
    ("pauses-for-ever", "liveness"),
    ("reports-twice", "reported"),
    ("reports-wrong-size", "reported"),
    ("says-drained", "drained"),
    ("serves-too-much", "served"),
    ("serves-wrong", "served"),
    ("takes-unsolicited", "unsolicited"),
    ("never-says-drained", "drained"),
];

/// What a planted bug remembers.
#[derive(Debug, Default)]
struct Memory {
    stored: BTreeSet<Bytes>,
    /// Notifications that are never given.
    kept: Vec<futures_channel::oneshot::Sender<()>>,
}

/// The bug of one module, if any, and what it remembers.
#[derive(Clone, Debug)]
pub(crate) struct Bend {
    plant: Option<&'static str>,
    memory: Arc<Mutex<Memory>>,
}

impl Bend {
    pub(crate) fn new(plant: Option<&'static str>) -> Self {
        let memory = Arc::default();
        Self { plant, memory }
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        debug_assert!(
            ALL.iter().any(|(known, _)| *known == name),
            "{name} is listed"
        );
        self.plant == Some(name)
    }

    fn memory<R>(&self, f: impl FnOnce(&mut Memory) -> R) -> R {
        f(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How the module is set up, in place of what the oracle knows.
    pub(crate) fn config(&self, config: &GannetFetchConfig) -> GannetFetchConfig {
        let mut config = config.clone();
        match self.plant {
            Some("crams") => {
                config.max_ops_per_request = 1_024;
                config.max_request_bytes = 1 << 20;
            }
            Some("gives-up-early") => config.num_back_off_intervals = 0,
            Some("keeps-all") => {
                config.max_pending = 1 << 20;
                config.max_pending_per_peer = 1 << 20;
                config.max_incoming_bytes = 1 << 30;
            }
            Some("never-gives-up") => config.num_back_off_intervals = 64,
            Some("no-pause") => config.first_back_off_interval_ms = 1,
            Some("pauses-for-ever") => {
                config.first_back_off_interval_ms = u32::MAX - 1;
                config.last_back_off_interval_ms = u32::MAX - 1;
            }
            Some("serves-too-much") => config.max_response_bytes = 1 << 30,
            Some("takes-unsolicited") => config.accept_unsolicited = true,
            _ => {}
        }
        config
    }

    pub(crate) fn handler(&self, handler: DynTxModuleHandler) -> DynTxModuleHandler {
        match self.plant {
            None => handler,
            Some(_) => Arc::new(Bent(handler, self.clone())),
        }
    }

    /// What is sent in place of a message, and after how many milliseconds.
    pub(crate) fn outgoing(&self, peer: usize, bytes: Bytes) -> Vec<(u64, Bytes)> {
        let message = self.plant.and_then(|_| Message::decode(&bytes));
        let Some(mut message) = message else {
            return vec![(0, bytes)];
        };
        let mut times = vec![0];
        match &mut message {
            Message::Request(ids) if self.is("asks-twice") => ids.extend_from_within(..1),
            Message::Request(ids) if self.is("invents") => {
                ids[0] = ids[0].iter().map(|byte| byte ^ 1).collect();
            }
            Message::Request(ids) if self.is("asks-for-stored") => {
                let stored = self.memory(|memory| memory.stored.first().cloned());
                ids[0] = stored.unwrap_or_else(|| ids[0].clone());
            }
            Message::Request(_) if self.is("hammers") => times.push(1),
            Message::Request(_)
                if self.is("chance") && RandomState::new().hash_one(peer).is_multiple_of(4) =>
            {
                times.clear();
            }
            Message::Response(_) if self.is("mute") => times.clear(),
            Message::Response(ops) if self.is("serves-wrong") => {
                ops[0].1 = ops[0].1.iter().chain(&[1]).copied().collect();
            }
            _ => {}
        }
        times
            .into_iter()
            .map(|after| (after, message.encode()))
            .collect()
    }

    /// What the module gets of a message.
    pub(crate) fn received(&self, bytes: Bytes) -> Option<Bytes> {
        let response = matches!(Message::decode(&bytes), Some(Message::Response(_)));
        (!response || !self.is("loses-answers")).then_some(bytes)
    }

    /// What the store gets.
    pub(crate) fn incoming(&self, mut ops: Vec<IncomingOp>) -> Vec<IncomingOp> {
        for op in &mut ops {
            if self.is("alters-data") {
                op.op_data = op.op_data.iter().chain(&[1]).copied().collect();
            }
            if self.is("forgets-metadata") {
                op.metadata = None;
            }
            if self.is("asks-for-stored") {
                self.memory(|memory| memory.stored.insert(op.op_id.clone().into()));
            }
        }
        ops
    }

    /// The sizes that are reported in place of one.
    pub(crate) fn report(&self, size: u64) -> Vec<u64> {
        match self.plant {
            Some("reports-twice") => vec![size, size],
            Some("reports-wrong-size") => vec![size + 1],
            _ => vec![size],
        }
    }

    /// Of ops that are offered, those that the module is told of.
    pub(crate) fn offered(&self, count: usize) -> usize {
        if self.is("forgets-offers") {
            count / 2
        } else {
            count
        }
    }

    /// The notification that the module gets.
    pub(crate) fn drained(
        &self,
        notify: futures_channel::oneshot::Sender<()>,
    ) -> Option<futures_channel::oneshot::Sender<()>> {
        if self.is("says-drained") {
            let _ = notify.send(());
            return None;
        }
        if self.is("never-says-drained") {
            self.memory(|memory| memory.kept.push(notify));
            return None;
        }
        Some(notify)
    }
}
