//! A fill over random histories and servers that have, cut and add what they like.

use super::*;
use proptest::prelude::*;
use ruma_common::{OwnedEventId, OwnedServerName};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

fn id(n: usize) -> OwnedEventId {
    OwnedEventId::try_from(format!("${n:043}")).expect("an event id")
}

fn server(n: usize) -> OwnedServerName {
    OwnedServerName::try_from(format!("s{n}.example")).expect("a server name")
}

/// Event `n` is made after those before it; the first `auths` entitle.
fn line(events: usize, auths: usize) -> BTreeMap<OwnedEventId, Links> {
    let links = |n: usize| Links {
        id: id(n),
        prev: (n > 0).then(|| id(n - 1)).into_iter().collect(),
        auth: match n {
            0 => Vec::new(),
            n if n < auths => vec![id(n - 1)],
            _ => vec![id(auths - 1), id(0)],
        },
        made_at: 1_000 * n as u64,
    };
    (0..events).map(|n| (id(n), links(n))).collect()
}

/// What an honest server with these events says.
fn answer(has: &BTreeMap<OwnedEventId, Links>, ask: &Ask) -> Vec<Links> {
    let back = |from: Vec<OwnedEventId>, until: &[OwnedEventId], limit: usize, auth: bool| {
        let mut seen: BTreeSet<OwnedEventId> = until.iter().cloned().collect();
        let mut queue: VecDeque<_> = from.into();
        let mut found = Vec::new();
        while let Some(id) = queue.pop_front() {
            let Some(links) = has.get(&id).filter(|_| seen.insert(id.clone())) else {
                continue;
            };
            if found.len() == limit {
                break;
            }
            found.push(links.clone());
            queue.extend(if auth { &links.auth } else { &links.prev }.iter().cloned());
        }
        found
    };
    let links = |ids: &[OwnedEventId], auth: bool| -> Vec<OwnedEventId> {
        let known = ids.iter().filter_map(|id| has.get(id));
        known
            .flat_map(|links| if auth { &links.auth } else { &links.prev })
            .cloned()
            .collect()
    };
    match ask {
        Ask::Missing {
            latest,
            earliest,
            limit,
        } => back(links(latest, false), earliest, *limit as usize, false),
        Ask::Backfill { from, limit } => back(from.clone(), &[], *limit as usize, false),
        Ask::AuthChain(of) => back(links(std::slice::from_ref(of), true), &[], usize::MAX, true),
        Ask::Event(id) => has.get(id).cloned().into_iter().collect(),
    }
}

fn look_up(walk: &mut Walk, store: &BTreeMap<OwnedEventId, Links>) {
    loop {
        let ids = walk.to_look_up();
        if ids.is_empty() {
            return;
        }
        for links in ids.iter().filter_map(|id| store.get(id)) {
            walk.held(links);
        }
    }
}

/// Runs a fill against servers; what it found, and how it ended.
fn fill(
    mut walk: Walk,
    servers: &[BTreeMap<OwnedEventId, Links>],
    mut store: BTreeMap<OwnedEventId, Links>,
) -> (Walk, BTreeMap<OwnedEventId, Links>) {
    let mut steps = 0;
    look_up(&mut walk, &store);
    while walk.ended().is_none() {
        steps += 1;
        assert!(steps < 10_000, "it goes on for ever: {walk:?}");
        let mut asked = Vec::new();
        while let Some(next) = walk.next_ask() {
            asked.push(next);
        }
        assert!(
            !asked.is_empty(),
            "nothing is asked for, and it is not over: {walk:?}"
        );
        for next in asked {
            let of = (0..servers.len()).find(|n| !next.not_of.contains(&server(*n)));
            let Some(n) = of else {
                walk.failed(next.id, &[]);
                continue;
            };
            let events = answer(&servers[n], &next.ask);
            for links in &events {
                store.insert(links.id.clone(), links.clone());
            }
            walk.answered(next.id, Some(&server(n)), &events);
        }
        look_up(&mut walk, &store);
    }
    (walk, store)
}

#[test]
fn five_hundred_events_and_a_long_chain_take_a_handful_of_requests() {
    let history = line(803, 303);
    let (walk, store) = fill(
        Walk::new([id(802)], [], Goal::Events(500), Limits::default()),
        &[history],
        BTreeMap::new(),
    );
    assert_eq!(walk.ended(), Some(Ended::Goal));
    assert_eq!((walk.found(), store.len()), ((500, 803), 803));
    assert!(walk.requests() <= 6, "{} requests", walk.requests());
}

#[test]
fn a_small_gap_is_one_window() {
    let history = line(40, 2);
    let held: BTreeMap<_, _> = [0, 1, 20, 35]
        .map(|n| (id(n), history[&id(n)].clone()))
        .into();
    let (walk, store) = fill(
        Walk::new([id(35)], [id(20)], Goal::Gap, Limits::default()),
        &[history],
        held,
    );
    assert_eq!(walk.ended(), Some(Ended::Goal));
    assert_eq!(
        (walk.requests(), walk.found(), store.len()),
        (1, (14, 14), 18)
    );
}

#[test]
fn a_server_that_backfills_event_by_event_is_asked_for_windows() {
    let history = line(200, 2);
    let mut walk = Walk::new([id(199)], [], Goal::Gap, Limits::default());
    walk.to_look_up();
    while walk.ended().is_none() {
        while let Some(next) = walk.next_ask() {
            let mut events = answer(&history, &next.ask);
            if let Ask::Backfill { from, .. } = &next.ask {
                events.retain(|links| from.contains(&links.id));
            }
            walk.answered(next.id, Some(&server(0)), &events);
            walk.to_look_up();
        }
    }
    assert_eq!((walk.ended(), walk.found().1), (Some(Ended::Goal), 200));
    assert!(walk.requests() <= 13, "{} requests", walk.requests());
}

#[test]
fn it_goes_on_where_it_was_left() {
    let history = line(400, 3);
    let held: BTreeMap<_, _> = (200..400)
        .chain(0..3)
        .map(|n| (id(n), history[&id(n)].clone()))
        .collect();
    let (walk, _) = fill(
        Walk::new([id(399)], [], Goal::Gap, Limits::default()),
        &[history],
        held,
    );
    assert_eq!((walk.ended(), walk.found().0), (Some(Ended::Goal), 197));
    assert_eq!(walk.requests(), 2);
}

#[test]
fn what_one_lacks_another_gives() {
    let history = line(150, 2);
    let mut cut = history.clone();
    cut.remove(&id(70));
    let (walk, _) = fill(
        Walk::new([id(149)], [], Goal::Gap, Limits::default()),
        &[cut.clone(), history],
        BTreeMap::new(),
    );
    assert_eq!((walk.ended(), walk.found().1), (Some(Ended::Goal), 150));
    let (walk, _) = fill(
        Walk::new([id(149)], [], Goal::Gap, Limits::default()),
        &[cut.clone(), cut],
        BTreeMap::new(),
    );
    assert_eq!(walk.ended(), Some(Ended::NobodyHasMore));
    assert_eq!(walk.given_up().collect::<Vec<_>>(), [&id(70)]);
}

#[test]
fn what_nobody_asked_for_moves_nothing() {
    let history = line(3, 1);
    let mut walk = Walk::new([id(2)], [], Goal::Gap, Limits::default());
    let next = walk.next_ask().expect("something is missing");
    let alien = Links {
        id: id(77),
        prev: vec![id(78)],
        auth: vec![id(79)],
        made_at: 0,
    };
    let taken = walk.answered(next.id, Some(&server(0)), &[alien, history[&id(2)].clone()]);
    assert_eq!(
        (taken.found, taken.stray),
        (vec![(id(2), true)], vec![id(77)])
    );
    let next = walk.next_ask().expect("the event before is missing");
    // A backfill that brought one event may do so again, so a window is tried.
    let expected = Ask::Missing {
        latest: vec![id(2)],
        earliest: Vec::new(),
        limit: 20,
    };
    assert_eq!(next.ask, expected);
}

proptest! {
    /// Whatever the history, and however it is spread over servers: all that can be reached through what they have is
    /// found, and it ends.
    #[test]
    fn all_that_is_had_is_found(
        links in prop::collection::vec((any::<[u8; 3]>(), any::<[u8; 2]>()), 1..120),
        spread in prop::collection::vec(1_u8..8, 120),
        held in prop::collection::vec(any::<bool>(), 120),
    ) {
        let events: Vec<Links> = links.iter().enumerate().map(|(n, (prev, auth))| {
            let of = |bytes: &[u8]| -> Vec<OwnedEventId> {
                let before = bytes.iter().filter(|_| n > 0).map(|b| n - 1 - (usize::from(*b) % 7).min(n - 1));
                before.collect::<BTreeSet<_>>().into_iter().map(id).collect()
            };
            Links { id: id(n), prev: of(prev), auth: of(auth), made_at: n as u64 }
        }).collect();
        let with = |has: &dyn Fn(usize) -> bool| -> BTreeMap<_, _> {
            let had = events.iter().enumerate().filter(|(n, _)| has(*n));
            had.map(|(_, links)| (links.id.clone(), links.clone())).collect()
        };
        let servers: Vec<_> = (0..3).map(|s| with(&|n| spread[n] >> s & 1 == 1)).collect();
        let store = with(&|n| held[n]);
        let last = id(events.len() - 1);
        let limits = Limits { single_tries: 3, ..Limits::default() };
        let (walk, store) = fill(Walk::new([last.clone()], [], Goal::Gap, limits), &servers, store);
        prop_assert_eq!(walk.ended(), Some(Ended::Goal));
        // The events before one that only entitles are nobody's concern.
        let mut queue = VecDeque::from([(last, true)]);
        let mut seen = BTreeSet::new();
        while let Some((next, timeline)) = queue.pop_front() {
            if seen.insert((next.clone(), timeline)) {
                let links = store.get(&next);
                prop_assert!(links.is_some(), "{next} was not found: {walk:?}");
                let links = links.unwrap();
                queue.extend(links.auth.iter().map(|id| (id.clone(), false)));
                queue.extend(links.prev.iter().filter(|_| timeline).map(|id| (id.clone(), true)));
            }
        }
    }
}

/// The timeline comes to an event that has only entitled another until then, and goes on from there
/// within the same answer.
#[test]
fn regression_an_event_that_entitles_does_not_cut_an_answer() {
    let mut history = line(5, 1);
    for links in history.values_mut() {
        links.auth = Vec::new();
    }
    history.get_mut(&id(4)).expect("it is made").auth = vec![id(1)];
    let mut walk = Walk::new([id(4)], [], Goal::Gap, Limits::default());
    look_up(&mut walk, &BTreeMap::new());
    let next = walk.next_ask().expect("everything is missing");
    let taken = walk.answered(next.id, None, &answer(&history, &next.ask));
    assert_eq!(taken.stray, Vec::<OwnedEventId>::new());
    assert_eq!(taken.found.len(), history.len());
    assert_eq!(walk.ended(), Some(Ended::Goal));
}
