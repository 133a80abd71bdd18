//! [`Walk`]: which requests a fill makes, decided without I/O.
//!
//! History is a graph: each event names those before it (`prev_events`) and those that entitle it (`auth_events`). A fill
//! begins at the latest events and goes back. What is held is walked through without a request; what is not is asked for in
//! batches: up to 20 events between two ends ([`Ask::Missing`]), up to 100 before some ([`Ask::Backfill`]), all that
//! entitles one ([`Ask::AuthChain`]), and single events only where no batch brought them.
//!
//! # Guarantees
//!
//! - An event is taken as found only if it was asked for by its id or is reached from what was asked for; what a server
//!   adds beyond that goes into [`Taken::stray`] and moves nothing.
//! - Every request asks for something that is missing, and each missing event is asked for a bounded number of times, of
//!   other servers each time: a fill ends, whatever the answers are.
//! - The cost is linear in the events and links that came, times the logarithm of their number.

use super::{Ended, Goal, Limits};
use ruma_common::{EventId, OwnedEventId, OwnedServerName};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the walk has to know of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// Its id.
    pub id: OwnedEventId,
    /// The events before it.
    pub prev: Vec<OwnedEventId>,
    /// The events that entitle it.
    pub auth: Vec<OwnedEventId>,
    /// When its server says that it was made, in milliseconds since 1970. Guides, and proves nothing.
    pub made_at: u64,
}

/// A request that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// What lies between.
    Missing {
        /// The events to go back from, excluded.
        latest: Vec<OwnedEventId>,
        /// The events to stop at, excluded.
        earliest: Vec<OwnedEventId>,
        /// The most events.
        limit: u32,
    },
    /// These events and what lies before them.
    Backfill {
        /// The events to go back from, included.
        from: Vec<OwnedEventId>,
        /// The most events.
        limit: u32,
    },
    /// All that entitles this event, directly or not.
    AuthChain(OwnedEventId),
    /// The event itself.
    Event(OwnedEventId),
}

/// Names a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(u64);

/// A request, and of whom it is not to be made.
#[derive(Clone, Debug)]
pub struct Next {
    /// For [`Walk::answered`] and [`Walk::failed`].
    pub id: AskId,
    /// The request.
    pub ask: Ask,
    /// Servers that did not have it when they were asked for the same.
    pub not_of: Vec<OwnedServerName>,
}

/// What came of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Events that were missing, and whether each is of the timeline.
    pub found: Vec<(OwnedEventId, bool)>,
    /// Events that nobody asked for and nothing leads to.
    pub stray: Vec<OwnedEventId>,
}

/// Why an event is wanted. An event that is wanted for both reasons is of the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// It lies before one that was found.
    Timeline,
    /// It entitles one that was found.
    Auth,
}

/// What is known of an event that is there.
#[derive(Debug)]
enum Reached {
    /// The walk has gone on through it.
    Timeline,
    /// It entitles others; and the timeline may still come to it, and go on to these.
    Auth(Links),
}

/// Where a walk is to go: an event, why, and who named it.
type Ahead = VecDeque<(OwnedEventId, Lane, Option<OwnedEventId>)>;

/// What is known of an event that is not there.
#[derive(Debug, Default)]
struct Gap {
    /// Whether it was looked for among what is held.
    looked_up: bool,
    /// Lies before one that was found: which, unless it is where the fill begins.
    timeline: Option<Option<OwnedEventId>>,
    /// Entitles one that was found, whose chain holds it.
    auth: Option<OwnedEventId>,
    /// Asked for just now.
    asked: Option<AskId>,
    /// Requests that should have brought it, batches and single ones.
    tries: u32,
    /// Who did not have it.
    not_of: BTreeSet<OwnedServerName>,
}

/// A fill, as a plain state machine.
#[derive(Debug)]
pub struct Walk {
    goal: Goal,
    limits: Limits,
    /// Where history is held from on.
    earliest: BTreeSet<OwnedEventId>,
    /// Reached and held, or found.
    reached: BTreeMap<OwnedEventId, Reached>,
    /// Reached and not there.
    missing: BTreeMap<OwnedEventId, Gap>,
    /// Missing, and no longer asked for.
    given_up: BTreeSet<OwnedEventId>,
    /// Events whose auth chain was asked for in vain, or is in hand.
    chains: BTreeSet<OwnedEventId>,
    in_flight: BTreeMap<AskId, (Ask, Vec<OwnedEventId>)>,
    asks: u64,
    /// Timeline events that were found.
    found: u64,
    /// Of any kind.
    found_all: u64,
    /// Whether windows are asked for rather than backfills: at first, if there are two ends, for most gaps are small; and
    /// where a backfill brought no more than the events that it began with, which some servers do.
    windows: bool,
}

impl Walk {
    /// A fill that goes back from `from`. Where `to` is not empty, history is taken to be held there, and the walk goes no
    /// further.
    ///
    /// Whoever runs it looks up [`to_look_up`](Self::to_look_up) before each [`next_ask`](Self::next_ask).
    pub fn new(
        from: impl IntoIterator<Item = OwnedEventId>,
        to: impl IntoIterator<Item = OwnedEventId>,
        goal: Goal,
        limits: Limits,
    ) -> Self {
        let mut walk = Self {
            goal,
            limits,
            earliest: to.into_iter().collect(),
            reached: BTreeMap::new(),
            missing: BTreeMap::new(),
            given_up: BTreeSet::new(),
            chains: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            asks: 0,
            found: 0,
            found_all: 0,
            windows: false,
        };
        walk.windows = !walk.earliest.is_empty();
        walk.reach(
            from.into_iter()
                .map(|id| (id, Lane::Timeline, None))
                .collect(),
        );
        walk
    }

    /// Whether events go back no further than this one: `to`, or a time that the goal names.
    fn stops_at(&self, links: &Links) -> bool {
        matches!(self.goal, Goal::Since(time) if links.made_at < time)
    }

    /// Goes to these events; those that are missing.
    fn reach(&mut self, mut ahead: Ahead) -> Vec<OwnedEventId> {
        let mut missed = Vec::new();
        while let Some((id, lane, named_by)) = ahead.pop_front() {
            if lane == Lane::Timeline && self.earliest.contains(&id) {
                continue;
            }
            match (self.reached.get_mut(&id), lane) {
                (Some(Reached::Timeline), _) | (Some(Reached::Auth(_)), Lane::Auth) => {}
                (Some(reached), Lane::Timeline) => {
                    // The timeline goes on through it, which entitling did not.
                    if let Reached::Auth(links) = std::mem::replace(reached, Reached::Timeline) {
                        self.spread(&links, Lane::Timeline, &mut ahead);
                    }
                }
                (None, _) => {
                    missed.push(id.clone());
                    self.miss(id, lane, named_by);
                }
            }
        }
        missed
    }

    fn miss(&mut self, id: OwnedEventId, lane: Lane, named_by: Option<OwnedEventId>) {
        if self.given_up.contains(&id) {
            return;
        }
        let gap = self.missing.entry(id).or_default();
        match lane {
            Lane::Timeline => gap.timeline = gap.timeline.take().or(Some(named_by)),
            Lane::Auth => gap.auth = gap.auth.take().or(named_by),
        }
    }

    /// Where it goes on from an event that is there.
    fn spread(&self, links: &Links, lane: Lane, ahead: &mut Ahead) {
        let named_by = || Some(links.id.clone());
        if lane == Lane::Timeline && !self.stops_at(links) {
            ahead.extend(
                links
                    .prev
                    .iter()
                    .map(|id| (id.clone(), Lane::Timeline, named_by())),
            );
        }
        if self.limits.auth {
            ahead.extend(
                links
                    .auth
                    .iter()
                    .map(|id| (id.clone(), Lane::Auth, named_by())),
            );
        }
    }

    /// Takes in an event that was missing, and goes on from it; what is missing there, and whether it is of the timeline.
    fn take(&mut self, links: &Links) -> Option<(Vec<OwnedEventId>, bool)> {
        let gap = self.missing.remove(&links.id)?;
        let timeline = gap.timeline.is_some() && self.wanted() > 0;
        let (lane, reached) = match timeline {
            true => (Lane::Timeline, Reached::Timeline),
            false => (Lane::Auth, Reached::Auth(links.clone())),
        };
        self.reached.insert(links.id.clone(), reached);
        let mut ahead = Ahead::new();
        self.spread(links, lane, &mut ahead);
        // Beyond what it names itself: the timeline may now go on through events that only entitled others.
        let leads_to = self.reach(ahead);
        Some((leads_to, timeline))
    }

    /// Events that are to be looked for among what is held, each once. What is there goes to [`held`](Self::held), which
    /// may lead to more.
    pub fn to_look_up(&mut self) -> Vec<OwnedEventId> {
        let new = self.missing.iter_mut().filter(|(_, gap)| !gap.looked_up);
        new.map(|(id, gap)| {
            gap.looked_up = true;
            id.clone()
        })
        .collect()
    }

    /// An event is held already. Says whether it is of the timeline, if it was missing until now.
    pub fn held(&mut self, links: &Links) -> Option<bool> {
        Some(self.take(links)?.1)
    }

    /// A request was made beside the walk, whose events go to [`brought`](Self::brought) where they are looked up.
    pub fn spent(&mut self) {
        self.asks += 1;
    }

    /// An event is there since such a request. Says whether it is of the timeline, if it was missing until now.
    pub fn brought(&mut self, links: &Links) -> Option<bool> {
        let (_, timeline) = self.take(links)?;
        self.found_all += 1;
        self.found += u64::from(timeline);
        Some(timeline)
    }

    /// The next request, if one more is to be made while those before it are under way.
    pub fn next_ask(&mut self) -> Option<Next> {
        if self.ended().is_some()
            || self.asks >= u64::from(self.limits.requests_max)
            || self.in_flight.len() >= self.limits.lanes as usize
        {
            return None;
        }
        let (ask, of) = self.timeline().or_else(|| self.auth())?;
        self.asks += 1;
        let id = AskId(self.asks);
        let mut not_of = BTreeSet::new();
        for missing in &of {
            let gap = self
                .missing
                .get_mut(missing)
                .expect("what is asked for is missing");
            gap.asked = Some(id);
            gap.tries += 1;
            not_of.extend(gap.not_of.iter().cloned());
        }
        self.in_flight.insert(id, (ask.clone(), of));
        let not_of = not_of.into_iter().collect();
        Some(Next { id, ask, not_of })
    }

    /// Missing events of a lane that nobody is asked for.
    fn idle(&self, lane: Lane) -> Vec<OwnedEventId> {
        let of_lane = |gap: &Gap| match lane {
            Lane::Timeline => gap.timeline.is_some(),
            Lane::Auth => gap.auth.is_some(),
        };
        let idle = self
            .missing
            .iter()
            .filter(|(_, gap)| gap.asked.is_none() && of_lane(gap));
        idle.map(|(id, _)| id.clone()).collect()
    }

    /// How many timeline events are still wanted, as far as the goal says.
    fn wanted(&self) -> u64 {
        let rest = u64::from(self.limits.events_max).saturating_sub(self.found_all);
        match self.goal {
            Goal::Events(n) => n.saturating_sub(self.found).min(rest),
            _ => rest,
        }
    }

    fn timeline(&mut self) -> Option<(Ask, Vec<OwnedEventId>)> {
        let wanted = self.wanted();
        let from = self.idle(Lane::Timeline);
        if from.is_empty() || wanted == 0 {
            return None;
        }
        // Those that a batch did not bring are asked for by their names.
        let (again, fresh): (Vec<_>, Vec<_>) = from
            .into_iter()
            .partition(|id| self.missing[id].tries >= self.limits.batch_tries);
        if fresh.is_empty() {
            let id = again.into_iter().next()?;
            return Some((Ask::Event(id.clone()), vec![id]));
        }
        let from: Vec<_> = fresh.into_iter().take(Limits::FROM_MAX).collect();
        if let Some(window) = self.window(&from, wanted) {
            return Some((window, from));
        }
        let limit = wanted.min(u64::from(Limits::BACKFILL_MAX)) as u32;
        Some((
            Ask::Backfill {
                from: from.clone(),
                limit,
            },
            from,
        ))
    }

    /// The window that ends at those that name what is missing.
    fn window(&self, missing: &[OwnedEventId], wanted: u64) -> Option<Ask> {
        if !self.windows {
            return None;
        }
        let named_by = missing
            .iter()
            .map(|id| self.missing[id].timeline.clone().flatten());
        let latest: Option<BTreeSet<_>> = named_by.collect();
        Some(Ask::Missing {
            latest: latest?.into_iter().take(Limits::FROM_MAX).collect(),
            earliest: self
                .earliest
                .iter()
                .take(Limits::FROM_MAX)
                .cloned()
                .collect(),
            limit: wanted.min(u64::from(Limits::WINDOW_MAX)) as u32,
        })
    }

    fn auth(&mut self) -> Option<(Ask, Vec<OwnedEventId>)> {
        let idle = self.idle(Lane::Auth);
        // While history still comes, much of what entitles it comes along.
        let wanted = self.wanted() > 0;
        let quiet = !self
            .missing
            .values()
            .any(|gap| wanted && gap.timeline.is_some());
        if idle.is_empty() || (!quiet && idle.len() < Limits::AUTH_EARLY_MIN) {
            return None;
        }
        let chain = |(ask, _): &(Ask, Vec<_>)| matches!(ask, Ask::AuthChain(_));
        if self.in_flight.values().any(chain) {
            // Most of what is missing is in that one.
            return None;
        }
        // The chain of one that names a missing event holds that event and all that it needs.
        let chain = idle.iter().find_map(|id| {
            let gap = &self.missing[id];
            let named_by = gap.auth.as_ref()?;
            (gap.tries < self.limits.batch_tries && !self.chains.contains(named_by))
                .then(|| named_by.clone())
        });
        let single = || {
            idle.first()
                .map(|id| (Ask::Event(id.clone()), vec![id.clone()]))
        };
        match chain {
            Some(of) if idle.len() > 1 => {
                self.chains.insert(of.clone());
                let named: Vec<_> = idle
                    .iter()
                    .filter(|id| self.missing[*id].auth.as_ref() == Some(&of))
                    .cloned()
                    .collect();
                Some((Ask::AuthChain(of), named))
            }
            _ => single(),
        }
    }

    /// What a server answered, or whoever else has it.
    pub fn answered(
        &mut self,
        ask: AskId,
        server: Option<&OwnedServerName>,
        events: &[Links],
    ) -> Taken {
        let Some((made, of)) = self.in_flight.remove(&ask) else {
            return Taken::default();
        };
        let mut taken = Taken::default();
        // An event may stand before the one that leads to it.
        let mut waiting: BTreeMap<&EventId, &Links> = BTreeMap::new();
        let new = events
            .iter()
            .filter(|links| !self.reached.contains_key(&links.id));
        waiting.extend(new.map(|links| (&*links.id, links)));
        let mut ready: VecDeque<OwnedEventId> = waiting.keys().map(|id| (*id).to_owned()).collect();
        while let Some(id) = ready.pop_front() {
            let Some(links) = waiting.get(&*id).copied() else {
                continue;
            };
            let Some((leads_to, timeline)) = self.take(links) else {
                continue;
            };
            waiting.remove(&*id);
            self.found_all += 1;
            self.found += u64::from(timeline);
            taken.found.push((id, timeline));
            ready.extend(leads_to);
        }
        match &made {
            Ask::Backfill { from, .. } => self.windows = taken.found.len() <= from.len(),
            Ask::Missing { .. } => self.windows = taken.found.len() > 1,
            _ => {}
        }
        taken.stray = waiting.into_keys().map(ToOwned::to_owned).collect();
        self.release(ask, &made, &of, server.map_or(&[], std::slice::from_ref));
        taken
    }

    /// Nobody could answer; these had nothing.
    pub fn failed(&mut self, ask: AskId, tried: &[OwnedServerName]) {
        if let Some((made, of)) = self.in_flight.remove(&ask) {
            self.windows &= !matches!(made, Ask::Missing { .. });
            self.release(ask, &made, &of, tried);
        }
    }

    /// What was asked for and did not come may be asked for again, or is given up.
    fn release(&mut self, id: AskId, ask: &Ask, of: &[OwnedEventId], had_not: &[OwnedServerName]) {
        let asked = id;
        // A server may know nothing of the event that a chain or a window starts from, and yet have what is in it.
        let by_name = matches!(ask, Ask::Backfill { .. } | Ask::Event(_));
        for id in of {
            let Some(gap) = self.missing.get_mut(id) else {
                continue;
            };
            if gap.asked == Some(asked) {
                gap.asked = None;
            }
            if by_name {
                gap.not_of.extend(had_not.iter().cloned());
            }
            if gap.tries >= self.limits.batch_tries + self.limits.single_tries {
                self.missing.remove(id);
                self.given_up.insert(id.clone());
            }
        }
    }

    /// Why nothing more will be asked for, once all that is in flight has ended.
    pub fn ended(&self) -> Option<Ended> {
        if matches!(self.goal, Goal::Events(n) if self.found >= n) && !self.auth_missing() {
            return Some(Ended::Goal);
        }
        if self.found_all >= u64::from(self.limits.events_max) {
            return Some(Ended::EventsMax);
        }
        if !self.in_flight.is_empty() {
            return None;
        }
        let wanted = self.wanted() > 0;
        let more = self
            .missing
            .values()
            .any(|gap| gap.auth.is_some() || wanted);
        match (more, self.given_up.is_empty()) {
            (true, _) if self.asks >= u64::from(self.limits.requests_max) => {
                Some(Ended::RequestsMax)
            }
            (true, _) => None,
            (false, true) => Some(Ended::Goal),
            (false, false) => Some(Ended::NobodyHasMore),
        }
    }

    fn auth_missing(&self) -> bool {
        self.missing.values().any(|gap| gap.auth.is_some())
    }

    /// Requests made so far.
    pub const fn requests(&self) -> u64 {
        self.asks
    }

    /// Events found so far: of the timeline, and in all.
    pub const fn found(&self) -> (u64, u64) {
        (self.found, self.found_all)
    }

    /// Events that are named and that nobody gave.
    pub fn given_up(&self) -> impl Iterator<Item = &OwnedEventId> {
        self.given_up.iter()
    }
}
