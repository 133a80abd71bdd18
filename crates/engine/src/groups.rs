//! Groups: they form a tree under the whole, and are there as long as something keeps them.

use crate::{
    engine::Engine,
    gate::Gate,
    id::{GroupId, Key, Time},
    state::{Child, NONE, Node, WHOLE},
    timers::Who,
    weights::{Weight, Weights},
};

impl<K: Key> Engine<K> {
    pub(crate) const fn node(id: Option<GroupId>, parent: u32, slot: u32, gate: Gate) -> Node {
        Node {
            id,
            parent,
            slot,
            gate,
            own_limits: false,
            children: Vec::new(),
            free: Vec::new(),
            turns: Vec::new(),
            ready: [Weights::new(), Weights::new()],
            sources: 0,
            wake: Time::FAR,
        }
    }

    pub(crate) fn group(&mut self, id: GroupId) -> u32 {
        if let Some(node) = self.by_group.get(&id) {
            return *node;
        }
        let gate = Gate::new(self.config.group_limits, self.now);
        let node = self.nodes.insert(Self::node(Some(id), WHOLE, 0, gate));
        let slot = self.nodes[WHOLE].adopt(Child::Node(node));
        self.nodes[node].slot = slot;
        self.by_group.insert(id, node);
        node
    }

    /// Drops a group that nothing keeps.
    pub(crate) fn release_node(&mut self, node: u32) {
        let Some(n) = self.nodes.get(node) else {
            return;
        };
        let Some(id) = n.id else { return };
        let kept = n.own_limits
            || n.gate.closed_until > self.now
            || n.gate.running > 0
            || n.children.iter().any(Option::is_some);
        if kept {
            return;
        }
        let full_at = n.gate.full_at();
        if full_at > self.now {
            // Forgotten now, it would have its tokens back as soon as a source returns.
            let n = &mut self.nodes[node];
            return self.timers.arm(Who::Node(node), &mut n.wake, full_at);
        }
        let (parent, slot) = (n.parent, n.slot);
        let mut wake = n.wake;
        self.timers.arm(Who::Node(node), &mut wake, Time::FAR);
        self.nodes.remove(node);
        self.by_group.remove(&id);
        self.abandon(parent, slot);
        self.release_node(parent);
    }

    /// Takes a child out of its group.
    pub(crate) fn abandon(&mut self, node: u32, slot: u32) {
        let n = &mut self.nodes[node];
        n.children[slot as usize] = None;
        n.free.push(slot);
        for ready in &mut n.ready {
            ready.set(slot, Weight::default());
        }
        for (_, turns) in &mut n.turns {
            turns.set(slot, false);
        }
        self.refresh_node(node);
    }

    /// Moves a group under another, unless that would close a circle.
    pub(crate) fn nest(&mut self, node: u32, within: Option<GroupId>) {
        let parent = within.map_or(WHOLE, |id| self.group(id));
        let mut ancestor = parent;
        while ancestor != NONE {
            if ancestor == node {
                self.counters.refused_inputs += 1;
                return;
            }
            ancestor = self.nodes[ancestor].parent;
        }
        let (old, slot) = (self.nodes[node].parent, self.nodes[node].slot);
        if old == parent {
            return;
        }
        let running = self.nodes[node].gate.running;
        self.shift_running(old, running, false);
        self.abandon(old, slot);
        self.shift_running(parent, running, true);
        let slot = self.nodes[parent].adopt(Child::Node(node));
        self.nodes[node].parent = parent;
        self.nodes[node].slot = slot;
        self.refresh_node(node);
        self.release_node(old);
    }

    /// Attempts under way move with their source or group.
    pub(crate) fn shift_running(&mut self, from: u32, running: u32, add: bool) {
        let mut node = from;
        while node != NONE {
            let n = &mut self.nodes[node];
            n.gate.running = if add {
                n.gate.running + running
            } else {
                n.gate.running.saturating_sub(running)
            };
            let next = n.parent;
            self.refresh_node(node);
            node = next;
        }
    }
}
