//! Peers: who may be asked, and the numbers by which the engine knows them.
//!
//! A peer is known while it is in the latest set, blocked, or named as a target; after that it is
//! forgotten, and comes back, if it does, as a new one.

use crate::{
    machine::{GroupId, Input, SourceId},
    slots::Slots,
};
use commonware_runtime::telemetry::metrics::raw::Gauge;
use std::{collections::BTreeMap, sync::Arc};

/// Ourselves, where the configuration says who we are.
pub(crate) const ME: SourceId = SourceId(0);

/// All peers are one group: their quotas are the sender's business.
const PEERS: GroupId = GroupId(0);

#[derive(Debug)]
struct Peer<P> {
    /// Shared, for a key may be large and requests hold it.
    key: Arc<P>,
    latest: bool,
    blocked: bool,
    /// Fetches that name it as a target.
    named: u32,
    /// Where its performance is shown, once it is.
    gauge: Option<Gauge>,
}

/// The peers known.
#[derive(Debug)]
pub(crate) struct Roster<P> {
    me: Option<P>,
    /// The first number that nobody has had yet; and those to be given out before it, in places
    /// that were left.
    next: u32,
    free: Vec<SourceId>,
    sources: BTreeMap<P, SourceId>,
    peers: Slots<SourceId, Peer<P>>,
}

impl<P: Clone + Ord> Roster<P> {
    pub(crate) const fn new(me: Option<P>) -> Self {
        Self {
            me,
            next: 1,
            free: Vec::new(),
            sources: BTreeMap::new(),
            peers: Slots::new(),
        }
    }

    /// The number of a peer, which is known from now on.
    fn source(&mut self, peer: &P) -> SourceId {
        if self.me.as_ref() == Some(peer) {
            return ME;
        }
        if let Some(source) = self.sources.get(peer) {
            return *source;
        }
        let source = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            SourceId(u64::from(self.next - 1))
        });
        self.sources.insert(peer.clone(), source);
        let peer = Peer {
            key: Arc::new(peer.clone()),
            latest: false,
            blocked: false,
            named: 0,
            gauge: None,
        };
        self.peers.insert(source, peer);
        source
    }

    /// The peer with this number.
    pub(crate) fn peer(&self, source: SourceId) -> Option<&Arc<P>> {
        Some(&self.peers.get(source)?.key)
    }

    /// The peer with this number, and where its performance is shown.
    pub(crate) fn gauge(&mut self, source: SourceId) -> Option<(&Arc<P>, &mut Option<Gauge>)> {
        let peer = self.peers.get_mut(source)?;
        Some((&peer.key, &mut peer.gauge))
    }

    /// One more fetch names this peer.
    pub(crate) fn name(&mut self, peer: &P) -> SourceId {
        let source = self.source(peer);
        if let Some(peer) = self.peers.get_mut(source) {
            peer.named += 1;
        }
        source
    }

    /// A fetch names this peer no more.
    pub(crate) fn unname(&mut self, source: SourceId) {
        if let Some(peer) = self.peers.get_mut(source) {
            peer.named -= 1;
            self.release(source);
        }
    }

    fn release(&mut self, source: SourceId) {
        let Some(peer) = self.peers.get(source) else {
            return;
        };
        if !peer.latest && !peer.blocked && peer.named == 0 {
            self.sources.remove(&*peer.key);
            self.peers.remove(source);
            // Another life in the same place: numbers are not used again, and a place that has had
            // all its lives is left empty.
            if let Some(next) = source.0.checked_add(1 << 32) {
                self.free.push(SourceId(next));
            }
        }
    }

    /// These are the peers of the latest set, in order and without repeats.
    pub(crate) fn latest<K>(&mut self, set: &[P]) -> Vec<Input<K>> {
        let (came, went) = self.change(set, |peer| &mut peer.latest);
        let went = went.into_iter().map(|source| Input::SourceDown { source });
        let came = came.into_iter().map(|source| {
            let group = PEERS;
            Input::SourceUp { source, group }
        });
        went.chain(came).collect()
    }

    /// These are the peers that the network blocks, in order and without repeats.
    pub(crate) fn blocked<K>(&mut self, set: &[P]) -> Vec<Input<K>> {
        let (came, went) = self.change(set, |peer| &mut peer.blocked);
        let came = came.into_iter().map(|source| {
            let until = None;
            Input::Block { source, until }
        });
        let went = went.into_iter().map(|source| Input::Unblock { source });
        came.chain(went).collect()
    }

    /// Sets a flag for exactly these peers. Returns for whom it was raised, and for whom lowered.
    fn change(
        &mut self,
        set: &[P],
        flag: impl Fn(&mut Peer<P>) -> &mut bool,
    ) -> (Vec<SourceId>, Vec<SourceId>) {
        let mut went = Vec::new();
        for (source, peer) in self.peers.iter_mut() {
            if *flag(peer) && set.binary_search(&peer.key).is_err() {
                *flag(peer) = false;
                went.push(source);
            }
        }
        let mut came = Vec::new();
        for peer in set {
            let source = self.source(peer);
            if let Some(peer) = self.peers.get_mut(source)
                && !std::mem::replace(flag(peer), true)
            {
                came.push(source);
            }
        }
        for source in &went {
            self.release(*source);
        }
        (came, went)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slotted as _;

    /// A source by its place, and a stroke for each life that was lived there before.
    fn name(source: SourceId) -> String {
        format!("{}{}", source.slot(), "'".repeat((source.0 >> 32) as usize))
    }

    fn told(inputs: Vec<Input<u8>>) -> Vec<String> {
        let line = |input| match input {
            Input::SourceUp { source, .. } => format!("up {}", name(source)),
            Input::SourceDown { source } => format!("down {}", name(source)),
            Input::Block { source, .. } => format!("block {}", name(source)),
            Input::Unblock { source } => format!("unblock {}", name(source)),
            other => panic!("{other:?}"),
        };
        inputs.into_iter().map(line).collect()
    }

    #[test]
    fn tells_what_changed() {
        let mut roster = Roster::new(Some('m'));
        assert_eq!(told(roster.latest(&['a', 'b', 'm'])), ["up 1", "up 2"]);
        assert_eq!(told(roster.latest(&['b', 'c'])), ["down 1", "up 3"]);
        assert!(told(roster.latest(&['b', 'c'])).is_empty());
        assert_eq!(
            told(roster.blocked(&['b', 'm', 'x'])),
            ["block 2", "block 1'"]
        );
        assert_eq!(told(roster.blocked(&['x'])), ["unblock 2"]);
        assert_eq!(roster.peer(SourceId(2)), Some(&Arc::new('b')));
        assert_eq!(roster.peer(SourceId(1)), None, "forgotten");
        assert_eq!(roster.peer(ME), None);
    }

    #[test]
    fn remembers_while_there_is_a_reason() {
        let mut roster = Roster::new(None);
        let source = roster.name(&'a');
        assert_eq!(roster.name(&'a'), source);
        assert_eq!(told(roster.latest(&['a'])).len(), 1);
        roster.unname(source);
        assert_eq!(told(roster.latest(&[])).len(), 1);
        assert_eq!(roster.name(&'a'), source, "named all the time");
        roster.unname(source);
        roster.unname(source);
        assert!(roster.peers.len() == 0 && roster.sources.is_empty());
        assert_ne!(roster.name(&'a'), source, "numbers are not used again");
    }
}
