//! Which source a fetch may ask next, or what it waits for.

use crate::{
    config::Choice,
    engine::Engine,
    id::{Key, SourceId},
    plan::Retry,
    state::{Candidates, Fetch, NONE, Waits},
    weights::{Draw, Weight},
};

/// What there is for a fetch to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Survey {
    /// Ask this source, now.
    Start(u32),
    /// Wait in these queues.
    Wait(Waits),
    /// Every candidate that could be asked has been, in this cycle.
    Spent,
    /// There is nobody to ask, and nobody was.
    Nobody,
}

/// Lists that a survey needs while it lasts, kept so that it allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    sound: Vec<u32>,
    unsound: Vec<u32>,
    absent: Vec<u32>,
    parked: Vec<u32>,
    unknown: Vec<SourceId>,
    /// Free ones and their rates.
    free: Vec<(u32, u64)>,
}

impl Scratch {
    fn clear(&mut self) {
        self.sound.clear();
        self.unsound.clear();
        self.absent.clear();
        self.parked.clear();
        self.unknown.clear();
        self.free.clear();
    }
}

/// How many sources a fetch waits for by name, where any may serve and all free ones were tried.
const NAMED_WAITS: usize = 3;
/// Draws of busy sources, for one start, before they are taken out of the draw.
const VAIN: u32 = 2;
/// Draws before tried sources are taken out of the draw instead.
const DRAWS: u32 = 8;

impl<K: Key> Engine<K> {
    /// Looks at the candidates of a fetch. O(candidates), or O(tried * log sources) where any source
    /// may serve.
    pub(crate) fn survey(&mut self, fetch: u32) -> Survey {
        // Lent for the time of the survey, which reads the rest of the engine.
        let lent = &mut self.fetches[fetch].candidates;
        if matches!(lent, Candidates::Any) {
            return self.survey_any(fetch);
        }
        let candidates = std::mem::replace(lent, Candidates::Unranked);
        let mut scratch = std::mem::take(&mut self.scratch);
        let survey = match &candidates {
            Candidates::Ranked(list) => self.survey_list(fetch, list, true, &mut scratch),
            Candidates::Only(list) => self.survey_list(fetch, list, false, &mut scratch),
            Candidates::Any | Candidates::Unranked => Survey::Nobody,
        };
        scratch.clear();
        self.scratch = scratch;
        self.fetches[fetch].candidates = candidates;
        survey
    }

    fn survey_list(
        &mut self,
        fetch: u32,
        list: &[SourceId],
        ranked: bool,
        scratch: &mut Scratch,
    ) -> Survey {
        let now = self.now;
        let Scratch {
            sound,
            unsound,
            absent,
            parked,
            unknown,
            free,
        } = scratch;
        let mut last_resort = None;
        let mut any_tried = false;
        for id in list {
            if has_tried(&self.fetches[fetch], *id) {
                any_tried = true;
                continue;
            }
            if self.config.me == Some(*id) {
                continue;
            }
            let Some(source) = self.find_source(*id) else {
                unknown.push(*id);
                continue;
            };
            if !self.is_eligible(source) {
                absent.push(source);
                continue;
            }
            let met = std::mem::take(&mut self.met_unacknowledged);
            let is_free = self.is_free(source);
            let unacknowledged = std::mem::replace(&mut self.met_unacknowledged, met);
            self.met_unacknowledged |= unacknowledged;
            let s = &self.sources[source];
            // Best first: one that has yet to acknowledge another start is waited for, which is a moment.
            // Whoever went on to the next would ask it for no better reason than who else came at once.
            if ranked && unacknowledged && !s.is_unsound(now) {
                return Survey::Wait(Waits::of(&mut vec![source]));
            }
            if !s.is_unsound(now) && self.is_parked(source) {
                // It may be an hour: waited for, but no reason to leave the others alone.
                parked.push(source);
            } else if !s.is_unsound(now) {
                sound.push(source);
                if is_free {
                    if ranked {
                        return Survey::Start(source);
                    }
                    free.push((source, s.performance.rate()));
                }
            } else {
                unsound.push(source);
                let until = s.health.backoff_until;
                if is_free && last_resort.is_none_or(|(_, best)| until < best) {
                    last_resort = Some((source, until));
                }
            }
        }
        if let Some(source) = self.pick(fetch, free) {
            return Survey::Start(source);
        }
        let try_unsound = self.config.try_backed_off;
        if sound.is_empty()
            && try_unsound
            && let Some((source, _)) = last_resort
        {
            return Survey::Start(source);
        }
        let nobody = sound.is_empty() && unsound.is_empty() && parked.is_empty();
        if nobody && any_tried {
            return Survey::Spent;
        }
        if nobody && !is_persistent(&self.fetches[fetch]) {
            return Survey::Nobody;
        }
        if nobody && ranked {
            // The ranking may be out of date: ask for another after a pause, or when one appears.
            return Survey::Nobody;
        }
        // Waits for those that may yet appear, too.
        absent.extend(unknown.drain(..).filter_map(|id| self.source(id)));
        if nobody {
            return if absent.is_empty() {
                Survey::Nobody
            } else {
                Survey::Wait(Waits::of(absent))
            };
        }
        let waits = absent;
        waits.append(parked);
        if sound.is_empty() || !try_unsound {
            waits.append(unsound);
        }
        waits.append(sound);
        Survey::Wait(Waits::of(waits))
    }

    /// Where a fetch stands that could start at `source` if it had its turn: at every candidate that
    /// would do as well, so that whichever is free when the turn comes is used.
    pub(crate) fn alternatives(&mut self, fetch: u32, source: u32) -> Waits {
        let list: &[SourceId] = match &self.fetches[fetch].candidates {
            Candidates::Any => return Waits::Any,
            Candidates::Unranked => &[],
            Candidates::Ranked(list) | Candidates::Only(list) => list,
        };
        let mut waits = std::mem::take(&mut self.scratch.sound);
        waits.push(source);
        if list.len() > 1 {
            let f = &self.fetches[fetch];
            let others = list
                .iter()
                .filter(|id| !has_tried(f, **id))
                .filter_map(|id| self.find_source(*id))
                .filter(|other| {
                    self.is_eligible(*other) && !self.sources[*other].is_unsound(self.now)
                });
            waits.extend(others);
        }
        let found = Waits::of(&mut waits);
        waits.clear();
        self.scratch.sound = waits;
        found
    }

    /// One of the free targets: best first, or sampled. Another than the one that failed last, if
    /// there is another.
    fn pick(&mut self, fetch: u32, free: &mut Vec<(u32, u64)>) -> Option<u32> {
        let (failures, last) = history(&self.fetches[fetch]);
        if free.len() > 1 {
            free.retain(|(source, _)| Some(self.sources[*source].id) != last);
        }
        match self.draw_kind(failures, total(free))? {
            Draw::Best => {
                let best = free.iter().map(|(_, rate)| *rate).max()?;
                free.iter()
                    .find(|(_, rate)| *rate == best)
                    .map(|(source, _)| *source)
            }
            Draw::Uniform(n) => free.get(n as usize).map(|(source, _)| *source),
            Draw::Weighted(mut rest) => {
                for (source, rate) in free.iter() {
                    if rest < *rate {
                        return Some(*source);
                    }
                    rest -= rate;
                }
                free.last().map(|(source, _)| *source)
            }
        }
    }

    /// The kind of draw for a fetch that failed so often, over members of this weight.
    fn draw_kind(&mut self, failures: u32, total: Weight) -> Option<Draw> {
        if total.count == 0 {
            return None;
        }
        Some(match self.config.choice {
            Choice::Best => Draw::Best,
            Choice::Sampled { scale } => {
                let scale = u64::from(scale.max(1));
                if self.rng.below(u64::from(failures) + scale) < scale {
                    Draw::Weighted(self.rng.below(total.sum))
                } else {
                    Draw::Uniform(self.rng.below(u64::from(total.count)) as u32)
                }
            }
        })
    }

    fn survey_any(&mut self, fetch: u32) -> Survey {
        self.tell_now();
        let tried = self.tried_eligible(fetch);
        let tried_sound = tried
            .iter()
            .filter(|source| self.sources[**source].counted_sound)
            .count();
        let untried = self.eligible.len() - tried.len();
        if untried == 0 {
            let f = &self.fetches[fetch];
            let started = f.race.as_ref().is_some_and(|race| {
                race.tried_cycle == f.cycles && !race.tried.is_empty() || !race.hopeless.is_empty()
            });
            return if started {
                Survey::Spent
            } else if is_persistent(f) {
                Survey::Wait(Waits::Any)
            } else {
                Survey::Nobody
            };
        }
        let untried_sound = self.sound as usize - tried_sound;
        if untried_sound > 0
            && let Some(source) = self.draw_untried(fetch, 0, &tried)
        {
            return Survey::Start(source);
        }
        if untried_sound == 0
            && self.config.try_backed_off
            && let Some(source) = self.draw_untried(fetch, 1, &tried)
        {
            return Survey::Start(source);
        }
        if tried.is_empty() {
            return Survey::Wait(Waits::Any);
        }
        // Whoever is free was tried: wait for some of the others by name.
        let sound_only = untried_sound > 0 && self.config.try_backed_off;
        Survey::Wait(Waits::of(&mut self.some_untried(&tried, sound_only)))
    }

    /// Sources that this fetch has tried in this cycle and that are still eligible, sorted.
    fn tried_eligible(&self, fetch: u32) -> Vec<u32> {
        let f = &self.fetches[fetch];
        let Some(race) = &f.race else {
            return Vec::new();
        };
        let tried = if race.tried_cycle == f.cycles {
            race.tried.as_slice()
        } else {
            &[]
        };
        let mut sources: Vec<u32> = tried
            .iter()
            .map(|tried| tried.source)
            .chain(race.hopeless.iter().copied())
            .filter_map(|id| self.find_source(id))
            .filter(|source| self.sources[*source].eligible_at != NONE)
            .collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    }

    /// Draws a free source of the tier that is not among the tried.
    fn draw_untried(&mut self, fetch: u32, tier: usize, tried: &[u32]) -> Option<u32> {
        if !self.whole_is_open() {
            return None;
        }
        let (failures, last) = history(&self.fetches[fetch]);
        let last = last.and_then(|id| self.find_source(id));
        if tried.is_empty() && last.is_none() {
            return self.draw_anew(failures, tier);
        }
        self.settle_busy();
        let total = self.nodes[crate::state::WHOLE].ready[tier].total();
        let barred = |source: u32| {
            tried.binary_search(&source).is_ok() || (total.count > 1 && last == Some(source))
        };
        for _ in 0..DRAWS {
            let draw = self.draw_kind(failures, total)?;
            let source = self.draw(tier, draw)?;
            if !barred(source) {
                return Some(source);
            }
            if matches!(draw, Draw::Best) {
                break;
            }
        }
        // Take the barred out of the draw for a moment; the one that failed last only if others remain.
        let without = |engine: &mut Self, out: &[u32]| {
            for source in out {
                engine.set_ready(*source, tier, false);
            }
            let total = engine.nodes[crate::state::WHOLE].ready[tier].total();
            let drawn = engine
                .draw_kind(failures, total)
                .and_then(|draw| engine.draw(tier, draw));
            for source in out {
                engine.set_ready(*source, tier, true);
            }
            drawn
        };
        let mut out = tried.to_vec();
        out.extend(last.filter(|source| tried.binary_search(source).is_err()));
        without(self, &out).or_else(|| {
            if out.len() > tried.len() {
                without(self, tried)
            } else {
                None
            }
        })
    }

    /// Draws a free source of the tier for a fetch that has nothing against any.
    fn draw_anew(&mut self, failures: u32, tier: usize) -> Option<u32> {
        let mut vain = 0;
        loop {
            let total = self.nodes[crate::state::WHOLE].ready[tier].total();
            let busy = if tier == 0 { self.busy.len() } else { 0 };
            if busy > 0 && total.count as usize == busy + 1 && self.is_idle(self.idle) {
                return Some(self.idle);
            }
            let draw = self.draw_kind(failures, total)?;
            let source = self.draw(tier, draw)?;
            if self.sources[source].busy_at == NONE {
                return Some(source);
            }
            vain += 1;
            if vain > VAIN {
                // It makes room for the others.
                self.refresh_source(source);
            }
        }
    }

    /// Whether this source is in the draw, and could take a fetch.
    fn is_idle(&mut self, source: u32) -> bool {
        let s = self.sources.get(source);
        s.is_some_and(|s| s.posted.0 == 0 && s.posted.1 > 0 && s.busy_at == NONE)
            && self.is_free(source)
    }

    /// Takes a source out of the draw (`false`), or back in.
    fn set_ready(&mut self, source: u32, tier: usize, ready: bool) {
        let s = &self.sources[source];
        let (node, slot, posted) = (s.node, s.slot, s.posted);
        if posted.0 == tier && posted.1 > 0 {
            let weight = if ready {
                Weight::one(posted.1)
            } else {
                Weight::default()
            };
            self.nodes[node].ready[tier].set(slot, weight);
            self.refresh_node(node);
        }
    }

    /// A few of the eligible that are not among the tried.
    fn some_untried(&mut self, tried: &[u32], sound_only: bool) -> Vec<u32> {
        let fits = |engine: &Self, source: u32| {
            tried.binary_search(&source).is_err()
                && (!sound_only || engine.sources[source].counted_sound)
        };
        let soon = |engine: &Self, source: u32| fits(engine, source) && !engine.is_parked(source);
        let mut found = Vec::with_capacity(NAMED_WAITS);
        for _ in 0..16 {
            let at = self.rng.below(self.eligible.len() as u64) as usize;
            let source = self.eligible[at];
            if soon(self, source) && !found.contains(&source) {
                found.push(source);
                if found.len() == NAMED_WAITS {
                    return found;
                }
            }
        }
        if found.is_empty() {
            let eligible = self.eligible.iter().copied();
            found.extend(
                eligible
                    .filter(|source| soon(self, *source))
                    .take(NAMED_WAITS),
            );
        }
        if found.is_empty() {
            // Rare: nearly all are tried, so there are hardly more sources than attempts.
            found.extend(
                self.eligible
                    .iter()
                    .copied()
                    .filter(|source| fits(self, *source))
                    .take(NAMED_WAITS),
            );
        }
        found
    }
}

fn total(free: &[(u32, u64)]) -> Weight {
    Weight {
        sum: free.iter().map(|(_, rate)| rate).sum(),
        best: 0,
        count: free.len() as u32,
    }
}

fn has_tried<K>(fetch: &Fetch<K>, source: SourceId) -> bool {
    fetch
        .race
        .as_ref()
        .is_some_and(|race| race.has_tried(source, fetch.cycles))
}

fn history<K>(fetch: &Fetch<K>) -> (u32, Option<SourceId>) {
    fetch
        .race
        .as_ref()
        .map_or((0, None), |race| (race.failures, race.last_failed))
}

pub(crate) fn is_persistent<K>(fetch: &Fetch<K>) -> bool {
    matches!(fetch.plan.retry, Retry::UntilReleased { .. })
}
