//! The snapshot: everything in flight, for people and for tests. Walks over everything.

use crate::{
    engine::Engine,
    id::{AttemptId, Key, Time},
    snapshot::{AttemptView, FetchView, GroupView, Snapshot, SourceView},
    state::NONE,
};

impl<K: Key> Engine<K> {
    /// Everything in flight, in the order of keys and ids. Walks over everything: not for hot paths.
    pub fn snapshot(&self) -> Snapshot<K> {
        let mut fetches: Vec<_> = self
            .fetches
            .iter()
            .map(|(i, _)| self.fetch_view(i))
            .collect();
        fetches.sort_by(|a, b| (&a.key, a.fetch).cmp(&(&b.key, b.fetch)));
        let mut sources: Vec<_> = self
            .sources
            .iter()
            .map(|(i, _)| self.source_view(i))
            .collect();
        sources.sort_by_key(|view| view.source);
        let mut groups: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|(_, node)| {
                Some(GroupView {
                    group: node.id?,
                    attempts: node.gate.running,
                    sources: node.sources,
                    parked_until: later(node.gate.closed_until, self.now),
                })
            })
            .collect();
        groups.sort_by_key(|view| view.group);
        Snapshot {
            fetches,
            sources,
            groups,
            racing: self.racing,
            waiters: self.waiters.len(),
            bytes: self.bytes,
            attempts: self.attempts.len(),
        }
    }

    fn fetch_view(&self, fetch: u32) -> FetchView<K> {
        let f = &self.fetches[fetch];
        let mut waiters = Vec::with_capacity(f.waiters as usize);
        let mut next = f.first_waiter;
        while next != NONE {
            waiters.push(self.waiters[next].id);
            next = self.waiters[next].next;
        }
        let attempts = f
            .race
            .iter()
            .flat_map(|race| &race.attempts)
            .map(|attempt| {
                let a = &self.attempts[*attempt];
                AttemptView {
                    attempt: AttemptId(self.attempts.id(*attempt)),
                    source: a.source_id,
                    stage: a.stage,
                    from_byte: a.from,
                    upto: a.upto,
                    since: a.began,
                    acknowledged: a.acknowledged,
                    aborting: a.aborting,
                }
            });
        FetchView {
            key: f.key.clone(),
            fetch: self.fetch_id(fetch),
            phase: self.phase(fetch),
            priority: f.priority,
            waiters,
            attempts: attempts.collect(),
            frontier: f.race.as_ref().map_or(0, |race| race.body.frontier),
            cycles: f.cycles,
            wakes: (f.wake != Time::FAR).then_some(f.wake),
            waits_for: {
                let named = f.waits.sources().iter();
                named.map(|source| self.sources[*source].id).collect()
            },
        }
    }

    fn source_view(&self, source: u32) -> SourceView {
        let s = &self.sources[source];
        SourceView {
            source: s.id,
            group: self.nodes[s.node].id.unwrap_or(crate::id::GroupId(0)),
            health: self.health_of(source),
            up: s.up,
            blocked: s
                .is_blocked(self.now)
                .then(|| (s.blocked_until != Time::FAR).then_some(s.blocked_until)),
            parked_until: later(s.gate.closed_until.max(s.health.throttled_until), self.now),
            attempts: s.attempts.len() as u32,
            queued: s.queue.len(),
            performance: s.performance.rate(),
            latency_mean: s.latency.mean(),
            latency_p99: s.latency.quantile(990),
            faults: s.health.faults,
        }
    }
}

fn later(at: Time, now: Time) -> Option<Time> {
    (at > now).then_some(at)
}
