//! The account of what is asked, stored and handed out, held against the truth and the terms.

use crate::{
    answers::{Answer, Sent},
    rooms::{Room, rooms},
    state::{Caller, Did, Handed, Request, Sim},
    world::{ME, Mood, OUTCAST, Terms},
};
use bytes::Bytes;
use gannet_matrix::{Attempt, FetchError, FetchErrorKind, How, Op, Outcome, Proof};
use gannet_store::Place;
use std::collections::{BTreeMap, BTreeSet};

/// What a caller demands: ids, whole content, signatures.
fn checks(terms: &Terms, op: Op) -> (bool, bool, bool) {
    match (terms.checks, op) {
        (0, Op::Event | Op::AuthEvent) | (1, _) => (true, true, true),
        (0 | 2, _) => (true, false, true),
        (3, _) => (true, true, false),
        _ => (false, false, false),
    }
}

/// What becomes of an answer under some terms, if all keys are there: how its request may be said to have ended, which
/// events are handed out, and how many are left out.
fn predicted(answer: &Answer, terms: &Terms, op: Op) -> (Vec<How>, Vec<Bytes>, usize) {
    if answer.broken {
        return (vec![How::Bad], Vec::new(), 0);
    }
    let (ids, hash, signed) = checks(terms, op);
    let (mut good, mut bad, mut cut, mut again) = (Vec::new(), 0, 0, 0);
    for (raw, sent) in &answer.events {
        let fine = match sent {
            _ if !ids => true,
            Sent::Whole => true,
            Sent::Cut => !hash,
            Sent::Unsigned => !signed,
            _ => false,
        };
        match fine {
            true => good.push(raw.clone()),
            false => bad += 1,
        }
        if !fine {
            cut += usize::from(*sent == Sent::Cut);
            again += usize::from(*sent == Sent::Again);
        }
    }
    let hows = match (bad, good.is_empty()) {
        (0, true) if op.carries_events() && !terms.accept_empty => vec![How::Empty],
        (0, _) => vec![How::Answered],
        (_, false) if !terms.refuse => vec![How::Salvaged],
        _ if cut == bad && signed => vec![How::Cut],
        // Nobody's forgery, and of no use as a whole.
        _ if cut + again == bad && signed => vec![How::Unproven],
        // Without signatures, other content is not told from cut content where redaction would leave it.
        _ if !signed => vec![How::Bad, How::Cut, How::Unproven],
        _ => vec![How::Bad],
    };
    (hows, good, bad)
}

/// How many requests the terms allow in one go.
fn requests(terms: &Terms, op: Op, (width_max, attempts_max): (u32, u32)) -> u64 {
    let width = |round: u32| match (terms.fanout, op) {
        (Some("fixed:3"), _) => 3,
        (Some("linear:1+1"), _) => 1 + round,
        (Some("geometric:1x2"), _) => 1 << round.min(10),
        (Some(_), _) => 1,
        (None, Op::AuthEvent) => (1 << round.min(10)).min(4),
        (None, Op::StateIds) => (1 + round).min(3),
        (None, Op::AuthChain | Op::Backfill | Op::MissingEvents) => (1 + round).min(2),
        _ => 1,
    };
    let rounds = 0..terms.rounds_max.unwrap_or(16).min(16);
    let widths: u32 = rounds.map(|round| width(round).min(width_max)).sum();
    widths
        .min(attempts_max)
        .min(terms.attempts_max.unwrap_or(u32::MAX))
        .into()
}

impl Sim {
    /// A request begins.
    pub(crate) fn asked(
        &mut self,
        now: u64,
        server: &str,
        wire: &str,
        asked: &crate::answers::Asked,
    ) {
        let room = asked.room;
        let callers = self.callers.iter().filter(|caller| {
            caller.ended.is_none_or(|ended| ended >= now) && caller.wants(wire, room)
        });
        let callers: Vec<&Caller> = callers.collect();
        let groups: BTreeSet<_> = callers
            .iter()
            .map(|caller| (caller.op, caller.group))
            .collect();
        let known = callers
            .iter()
            .all(|caller| caller.terms.version && caller.alike);
        let same = |request: &&Request| request.ended.is_none() && request.wire == wire;
        let open: Vec<&Request> = self.requests.iter().filter(same).collect();
        let at_once = open
            .iter()
            .filter(|request| request.server == server)
            .count();
        // A fetch goes on with the servers of whoever opened it, as long as others who joined it wait.
        let mixed = callers.iter().any(|caller| !caller.alike);
        let may = match mixed {
            true => (self.callers.iter()).any(|caller| caller.may_ask(server, wire)),
            false => callers.iter().any(|caller| caller.may_ask(server, wire)),
        };
        let one = groups.len() == 1 && known;
        let most = if one { 1 } else { 2 * groups.len() + 2 };
        let wide = callers
            .first()
            .filter(|caller| one && caller.terms.hedge == Some(0));
        let width = wide.and_then(|caller| match caller.terms.fanout {
            Some("fixed:1") => Some(1),
            Some("fixed:3") => Some(3),
            _ => None,
        });
        let too_wide = width.is_some_and(|width| open.len() >= width);
        let at_server = self
            .requests
            .iter()
            .filter(|r| r.ended.is_none() && r.server == server)
            .count();
        let busy = self
            .busy
            .get(server)
            .copied()
            .filter(|(from, until)| now > *from && now + 1 < *until);
        let callers = callers.len();
        let (open, all) = (open.len(), self.open());
        self.coverage.most("callers of one thing", callers as u64);
        if callers > 1 && one {
            self.coverage.hit("shared");
        }
        if server == ME || self.world.denied.contains(server) || !may {
            self.fail(
                now,
                "asked",
                format_args!("{server} for {wire}, of {callers} callers"),
            );
        }
        if at_once >= most {
            self.fail(
                now,
                "one request",
                format_args!("{server} is asked {at_once} times already for {wire}"),
            );
        }
        if too_wide {
            self.fail(
                now,
                "width",
                format_args!("{open} are asked already for {wire}"),
            );
        }
        if at_server >= self.per_server_max || all >= self.requests_max {
            self.fail(
                now,
                "bounded",
                format_args!("{at_server} requests at {server}, {all} in all"),
            );
        }
        if let Some((_, until)) = busy {
            self.fail(
                now,
                "busy",
                format_args!("{server} is asked before {until} ms"),
            );
        }
    }

    /// Something is stored.
    pub(crate) fn stored(&mut self, now: u64, place: &Place, segments: &[Bytes]) {
        let blob = segments.concat();
        let fine = (|| {
            let rest = blob.strip_prefix(b"GME1")?;
            let (&[proof, len], rest) = rest.split_first_chunk()?;
            let (version, raw) = rest.split_at_checked(len.into())?;
            let of = |room: &Room| room.version.as_str().as_bytes() == version;
            let derived =
                |fields: &[&[u8]]| Place::derive("matrix-events", fields.iter().copied()) == *place;
            if raw.is_empty() {
                let mut all = self.world.rooms.iter().map(|room| &rooms().all[*room]);
                return Some(
                    all.any(|room| of(room) && derived(&[room.id.as_bytes(), b"version"])),
                );
            }
            let (room, event, whole) = rooms().what(raw)?;
            let room = &rooms().all[room];
            let name: &[u8] = if whole { b"whole" } else { b"redacted" };
            let id = room.events[event].id.as_bytes();
            let fields = [
                room.id.as_bytes(),
                id,
                name,
                room.version.as_str().as_bytes(),
            ];
            Some(of(room) && proof == 1 + u8::from(whole) && derived(&fields))
        })();
        self.coverage.hit("stored");
        if fine != Some(true) {
            self.fail(
                now,
                "stored",
                format_args!("{:?}", String::from_utf8_lossy(&blob)),
            );
        }
    }

    /// Somebody begins to wait.
    pub(crate) fn began(&mut self, now: u64, mut caller: Caller) -> usize {
        for other in &mut self.callers {
            if other.ended.is_some_and(|ended| ended < now) {
                continue;
            }
            let meets = match other.op {
                None => other.room == caller.room,
                Some(_) => other
                    .wires
                    .iter()
                    .any(|wire| caller.wants(wire, other.room)),
            };
            if meets {
                other.alone = false;
                caller.alone = false;
                let alike =
                    other.op == caller.op && other.op.is_some() && other.group == caller.group;
                let alike = alike && caller.terms.version;
                other.alike &= alike;
                caller.alike &= alike;
            }
        }
        let number = self.callers.len();
        let what = caller.wires.first().cloned().unwrap_or_default();
        self.note(
            now,
            "++",
            format_args!("{number} on terms {}: {what}", caller.group),
        );
        self.callers.push(caller);
        number
    }

    /// Somebody has gone.
    pub(crate) fn left(&mut self, now: u64, number: usize) {
        self.callers[number].ended = Some(now);
        self.coverage.hit("left");
        self.note(now, "--", format_args!("{number} goes"));
    }

    /// Somebody has got something.
    pub(crate) fn ended(&mut self, now: u64, number: usize, end: &Result<Outcome, FetchError>) {
        let words = match end {
            Ok(outcome) => {
                let server = outcome
                    .server
                    .as_ref()
                    .map_or("the store", |server| server.as_str());
                let (events, bad) = (outcome.events.len(), outcome.bad.len());
                format!("{events} events of {server}, {bad} bad")
            }
            Err(error) => format!("{error}"),
        };
        self.note(now, "--", format_args!("{number}: {words}"));
        self.callers[number].ended = Some(now);
        let caller = &self.callers[number];
        let patience = caller.terms.patience.unwrap_or(120_000).min(900_000);
        let late = now > caller.began + patience + 5;
        let broken = match end {
            Ok(outcome) => self.handed_out(now, number, outcome),
            Err(error) => self.refused(number, error),
        };
        let attempts = match end {
            Ok(outcome) => &outcome.attempts,
            Err(error) => &error.attempts,
        };
        let told = self.told(number, attempts);
        if late {
            self.fail(
                now,
                "patience",
                format_args!("caller {number} waited longer than {patience} ms"),
            );
        }
        for (rule, what) in broken.into_iter().chain(told) {
            self.fail(now, rule, format_args!("caller {number}: {what}; {words}"));
        }
    }

    fn handed_out(
        &mut self,
        now: u64,
        number: usize,
        outcome: &Outcome,
    ) -> Vec<(&'static str, String)> {
        let caller = &self.callers[number];
        let op = caller.op.expect("it fetches");
        let (terms, room) = (&caller.terms, &rooms().all[caller.room]);
        let (ids, hash, signed) = checks(terms, op);
        let mut broken: Vec<(&'static str, String)> = Vec::new();
        let raws: Vec<Bytes> = outcome
            .events
            .iter()
            .map(|event| outcome.raw(event))
            .collect();
        for (event, raw) in outcome.events.iter().zip(&raws) {
            let what = rooms().what(raw).filter(|(of, ..)| *of == caller.room);
            let fits = |whole: bool| {
                what.is_some_and(|(_, e, is)| {
                    is == whole && event.event_id.as_ref() == Some(&room.events[e].id)
                })
            };
            let proved = match event.proof {
                Proof::Whole => fits(true),
                Proof::Redacted => fits(false) && !hash,
                Proof::Form => !signed,
            };
            if !proved {
                broken.push((
                    "proof",
                    format!("{:?} is not {:?}", event.event_id, event.proof),
                ));
            }
            let asked = caller.key.as_ref().and_then(|key| key.event_id());
            if matches!(op, Op::Event | Op::AuthEvent) && ids && event.event_id.as_deref() != asked
            {
                broken.push(("proof", "another event".to_owned()));
            }
        }
        if op.carries_events() && raws.is_empty() && !terms.accept_empty {
            broken.push(("refused", "an empty answer".to_owned()));
        }
        if terms.refuse && !outcome.bad.is_empty() {
            broken.push(("refused", "a salvaged answer".to_owned()));
        }
        if outcome
            .version
            .as_ref()
            .is_some_and(|version| *version != room.version)
        {
            broken.push(("version", format!("{:?}", outcome.version)));
        }
        let Some(server) = &outcome.server else {
            if self.world.store.is_none() || terms.fresh || !matches!(op, Op::Event | Op::AuthEvent)
            {
                broken.push(("true", "it is in no store".to_owned()));
            }
            self.coverage.hit("from the store");
            return broken;
        };
        let denied = terms.deny.iter().any(|name| name == server);
        if denied
            || terms
                .pool
                .as_ref()
                .is_some_and(|pool| !pool.iter().any(|name| name == server))
        {
            broken.push((
                "denied",
                format!("by {server}, whom the caller would not ask"),
            ));
        }
        let sources = self.requests.iter().filter(|request| {
            request.did == Did::Delivered
                && request.server == *server
                && request.wire == caller.wires[0]
        });
        let answers: Vec<&Answer> = sources
            .filter_map(|request| request.answer.as_ref())
            .collect();
        let came = answers.iter().any(|answer| {
            let of = |raw: &Bytes| answer.events.iter().any(|(sent, _)| sent == raw);
            match outcome.bad.is_empty() {
                true => answer.body == outcome.bytes,
                false => raws.iter().all(of),
            }
        });
        let field = match op {
            Op::AuthChain => "auth_chain",
            Op::MissingEvents => "events",
            _ => "pdus",
        };
        let list = raws
            .iter()
            .map(|raw| String::from_utf8_lossy(raw))
            .collect::<Vec<_>>()
            .join(",");
        if !came
            || (!outcome.bad.is_empty() && outcome.bytes != format!("{{\"{field}\":[{list}]}}"))
        {
            broken.push(("true", "these bytes did not come".to_owned()));
        }
        if caller.alike && terms.version && self.world.keys_are_sure() && came {
            let hopes = answers.iter().map(|answer| predicted(answer, terms, op));
            let hopes: Vec<_> = hopes
                .filter(|(hows, ..)| {
                    hows.iter()
                        .any(|how| matches!(how, How::Answered | How::Salvaged))
                })
                .collect();
            if !hopes.iter().any(|(_, good, _)| *good == raws) {
                broken.push(("complete", format!("{} events", raws.len())));
            } else if !hopes
                .iter()
                .any(|(_, good, bad)| *good == raws && *bad == outcome.bad.len())
            {
                broken.push(("named", format!("{} bad events", outcome.bad.len())));
            }
        }
        self.coverage.hit("answered");
        if !outcome.bad.is_empty() {
            self.coverage.hit("salvaged");
        }
        let handed: Handed = (
            caller.wires[0].clone(),
            caller.group,
            now,
            server.to_string(),
            outcome.bytes.as_ptr() as usize,
        );
        let mates = self.handed.iter().filter(|(wire, group, at, by, _)| {
            *wire == handed.0 && *group == handed.1 && *at == now && *by == handed.3
        });
        if caller.alike && !mates.into_iter().all(|mate| mate.4 == handed.4) {
            broken.push(("shared", "a copy of the answer".to_owned()));
        }
        self.handed.push(handed);
        broken
    }

    fn refused(&mut self, number: usize, error: &FetchError) -> Vec<(&'static str, String)> {
        let caller = &self.callers[number];
        let mut broken = Vec::new();
        let hows: Vec<How> = error.attempts.iter().map(|attempt| attempt.how).collect();
        let fits = match error.kind {
            FetchErrorKind::NoServers => caller.candidates.is_empty(),
            // Requests for the room's version are among them.
            FetchErrorKind::Missing => {
                let missing = |how: &How| matches!(how, How::Missing | How::Forbidden | How::Empty);
                hows.iter().any(missing) && (caller.wires.len() > 1 || hows.iter().all(missing))
            }
            FetchErrorKind::Unverified => {
                (hows.iter()).any(|how| matches!(how, How::Bad | How::Unproven | How::Cut))
            }
            FetchErrorKind::Exhausted | FetchErrorKind::Expired => !caller.candidates.is_empty(),
            FetchErrorKind::Closed => self.shut.is_some(),
            FetchErrorKind::Overloaded => self.world.tight,
            _ => false,
        };
        if !fits {
            broken.push(("told", format!("the error is {:?}", error.kind)));
        }
        let sure = error.kind != FetchErrorKind::Closed && self.is_sure(caller);
        if sure {
            broken.push(("liveness", "an honest server has it".to_owned()));
        }
        self.coverage.hit(match error.kind {
            FetchErrorKind::NoServers => "no servers",
            FetchErrorKind::Missing => "missing",
            FetchErrorKind::Unverified => "unverified",
            FetchErrorKind::Exhausted => "exhausted",
            FetchErrorKind::Expired => "expired",
            FetchErrorKind::Overloaded => "overloaded",
            FetchErrorKind::Closed => "closed",
            _ => "broken",
        });
        broken
    }

    /// Whether this caller has to get an answer.
    fn is_sure(&self, caller: &Caller) -> bool {
        let (Some(op), Some(asked)) = (caller.op, caller.asked.as_ref()) else {
            return false;
        };
        let terms = &caller.terms;
        let can = |name: &String| {
            let server = self.world.server(name);
            server.is_some_and(|server| self.calm || server.is_sure(caller.room))
        };
        let some = caller.candidates.iter().any(can);
        let many = caller.candidates.len() as u64;
        let large = !matches!(op, Op::Event | Op::AuthEvent | Op::TimestampToEvent);
        let by_size = |small: u64, big: u64| if large { big } else { small };
        let step = match terms.hedge.unwrap_or_else(|| by_size(1_000, 3_000)) {
            0 => terms.total.unwrap_or_else(|| by_size(30_000, 120_000)),
            hedge => hedge,
        };
        let bounds = (self.width_max, self.attempts_max);
        // A store that hangs is waited for twice, for a while.
        let hangs = match self.world.store {
            Some([.., slow]) if slow > 0 => 10_000,
            _ => 0,
        };
        let calm = self.calm || (self.world.keys_are_sure() && !self.world.tight);
        some && calm
            && caller.alike
            && terms.version
            && asked.has_answer()
            && requests(terms, op, bounds) >= many
            && terms.patience.unwrap_or(120_000) > (many + 1) * step + 8_000 + hangs
    }

    /// Where a caller by itself that hedges had asked only silent servers, and no other for too long.
    fn hedged(&self, caller: &Caller, own: &[&Request]) -> Option<String> {
        let terms = &caller.terms;
        let large = !matches!(caller.op?, Op::Event | Op::AuthEvent | Op::TimestampToEvent);
        let hedge = match terms.hedge.unwrap_or(if large { 3_000 } else { 1_000 }) {
            0 => return None,
            hedge => hedge,
        };
        let dull = |request: &Request| {
            use Mood::{Fail, Forbid, Nothing, Refuse, Silent};
            matches!(request.mood, Silent | Fail | Forbid | Nothing | Refuse)
        };
        let plain = caller.alone
            && terms.version
            && terms.rounds_max.is_none()
            && terms.attempts_max.is_none()
            && !self.world.tight
            && self.shut.is_none()
            && self.busy.is_empty();
        if !plain {
            return None;
        }
        let ended = caller.ended?;
        // Large answers reserve the memory in which others would be begun, until they are judged.
        let crowded = self.requests.iter().any(|request| {
            let small = matches!(request.asked.op, Op::Event | Op::TimestampToEvent);
            let over = request.ended.is_some_and(|at| at + 15_000 < caller.began);
            !small && !caller.wires.contains(&request.wire) && request.began <= ended && !over
        });
        if crowded {
            return None;
        }
        let mut left = caller.candidates.len();
        for (n, request) in own.iter().enumerate() {
            left = left.saturating_sub(1);
            let next = own.get(n + 1).map_or(ended, |next| next.began);
            if !dull(request) || left == 0 {
                return None;
            }
            if next > request.began + hedge + 5 {
                let (began, server) = (request.began, &request.server);
                return Some(format!(
                    "{server} is asked at {began} ms, the next at {next} ms"
                ));
            }
        }
        None
    }

    /// Whether what a caller is told of requests is what became of them.
    fn told(&self, number: usize, attempts: &[Attempt]) -> Vec<(&'static str, String)> {
        let caller = &self.callers[number];
        let (op, sure) = (caller.op.expect("it fetches"), self.world.keys_are_sure());
        let mut broken = Vec::new();
        let exact = caller.alike && caller.terms.version && sure;
        let may_be = |attempt: &Attempt| -> Vec<usize> {
            let all = self.requests.iter().enumerate();
            let fitting = all.filter(|(_, request)| {
                let own = request.wire == caller.wires[0];
                request.server == attempt.server.as_str()
                    && caller.wires.contains(&request.wire)
                    && fits(attempt.how, request, (&caller.terms, op, own && exact))
            });
            fitting.map(|(n, _)| n).collect()
        };
        let may_be: Vec<Vec<usize>> = attempts.iter().map(may_be).collect();
        let mut taken = BTreeMap::new();
        for (n, attempt) in attempts.iter().enumerate() {
            if !matched(n, &may_be, &mut taken, &mut BTreeSet::new()) {
                broken.push(("told", format!("{} {}", attempt.server, attempt.how.name())));
            }
        }
        let made = self.requests.iter().filter(|request| {
            request.began >= caller.began && caller.wires.contains(&request.wire)
        });
        let made = made.count();
        if caller.alone && made != attempts.len() && self.shut.is_none() {
            broken.push((
                "hidden",
                format!("{made} requests, told of {}", attempts.len()),
            ));
        }
        let own = self
            .requests
            .iter()
            .filter(|request| request.began >= caller.began && request.wire == caller.wires[0]);
        let own: Vec<&Request> = own.collect();
        broken.extend(self.hedged(caller, &own).map(|gap| ("hedged", gap)));
        let own: Vec<&str> = own.iter().map(|request| &*request.server).collect();
        let tries = u64::from(caller.terms.tries);
        let most = requests(&caller.terms, op, (self.width_max, self.attempts_max)) * tries;
        let of = |server: &str| own.iter().filter(|own| **own == server).count() as u64;
        let often = own.iter().map(|server| of(server)).max().unwrap_or(0);
        if caller.alone && (own.len() as u64 > most || often > tries) {
            let all = own.len();
            broken.push((
                "attempts",
                format!("{all} requests of {most}, {often} at one of {tries}"),
            ));
        }
        broken
    }
}

/// Finds a request of its own for this attempt; others may have to take another for it.
fn matched(
    attempt: usize,
    may_be: &[Vec<usize>],
    taken: &mut BTreeMap<usize, usize>,
    seen: &mut BTreeSet<usize>,
) -> bool {
    for request in &may_be[attempt] {
        if !seen.insert(*request) {
            continue;
        }
        let other = taken.get(request).copied();
        if other.is_none_or(|other| matched(other, may_be, taken, seen)) {
            taken.insert(*request, attempt);
            return true;
        }
    }
    false
}

/// Whether a request can have ended like this, as far as its server can say.
fn fits(how: How, request: &Request, (terms, op, exact): (&Terms, Op, bool)) -> bool {
    let gone = request.did == Did::Dropped;
    let judged = |request: &Request| {
        let Some(answer) = request
            .answer
            .as_ref()
            .filter(|_| request.did == Did::Delivered)
        else {
            return false;
        };
        if exact {
            return predicted(answer, terms, op).0.contains(&how);
        }
        let lies = answer.broken
            || answer
                .events
                .iter()
                .any(|(_, sent)| !matches!(sent, Sent::Whole | Sent::Cut));
        match how {
            How::Bad => lies,
            How::Answered | How::Salvaged => !answer.broken,
            How::Empty => answer.events.is_empty(),
            How::Cut => answer.events.iter().any(|(_, sent)| *sent == Sent::Cut) || lies,
            _ => true,
        }
    };
    match how {
        How::Missing => request.did == Did::Missing,
        How::Forbidden => request.did == Did::Forbidden,
        How::Busy => request.did == Did::Busy,
        How::Failed => {
            request.did == Did::Failed || (gone && matches!(request.mood, Mood::Gush | Mood::Claim))
        }
        How::TimedOut => gone,
        How::Dropped => gone || matches!(request.did, Did::Open | Did::Delivered),
        _ => judged(request),
    }
}

/// The operator's or a caller's outcast is never among the candidates of those who deny it.
pub(crate) fn names(sim: &Sim) -> Vec<String> {
    let all = sim.world.servers.iter().map(|server| server.name.clone());
    all.filter(|name| name != OUTCAST).collect()
}
