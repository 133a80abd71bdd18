//! What a member asks of others and of the origin, as its engines say.

use crate::{
    fetcher::{Body, Sink, Way, Which},
    member::{HOME, LANES, Member, source_of},
    time::span,
    trip::Trip,
    wire::{Effect, Frame, Message, Said, Stream},
    world::Key,
};
use gannet_cluster::{Beats, Ended, Errand, Passed, Reply, Role, Step, Through, Words};
use gannet_engine::{AttemptId, End, Fault, FetchId, Input, Output, SourceId, Stage, Verdict};

/// All versions of a chunk are keys of their own, so that what a source has is always of one identity.
const IDENTITY: u64 = 1;

impl Member {
    /// Does what the engines say until they have nothing to say.
    pub(crate) fn turn(&mut self, now: u64) {
        loop {
            if let Some(output) = self.home.poll() {
                self.obey(now, Which::Home, output);
            } else if let Some(output) = self.peer.poll() {
                self.obey(now, Which::Peer, output);
            } else {
                break;
            }
        }
    }

    fn obey(&mut self, now: u64, which: Which, output: Output<Key>) {
        match output {
            Output::Opened { fetch, key } => {
                let body = Body {
                    key,
                    bytes: Vec::new(),
                    said: None,
                    roles: Vec::new(),
                    passed: Passed::default(),
                };
                self.fetcher(which).bodies.insert(fetch, body);
            }
            Output::Select { fetch } => self.rank(now, which, fetch),
            Output::Start {
                attempt,
                fetch,
                source,
                from_byte,
                stage,
            } => {
                self.fetcher(which).feed(now, Input::Started { attempt });
                if stage == Stage::Hedge {
                    self.mark("hedged");
                }
                self.start(now, which, (attempt, fetch), source, from_byte, stage);
            }
            Output::Abort { attempt } => {
                self.stop(now, which, attempt);
                let end = End::Aborted;
                self.fetcher(which).feed(now, Input::Ended { attempt, end });
            }
            Output::Judge { judgement, .. } => {
                let verdict = Verdict::Valid;
                self.fetcher(which)
                    .feed(now, Input::Judged { judgement, verdict });
            }
            Output::Commit { fetch } => {
                if let Some(body) = self.fetcher(which).bodies.get(&fetch) {
                    let (key, bytes) = (body.key, body.bytes.clone());
                    self.keep(now, which, key, bytes);
                }
                let result = Ok(());
                self.fetcher(which)
                    .feed(now, Input::Committed { fetch, result });
            }
            Output::Discard { fetch, .. } => self.discard(now, which, fetch),
            Output::Finish {
                waiter,
                fetch,
                outcome,
            } => self.finish(now, which, waiter, fetch, &outcome),
            Output::Retired { fetch } => {
                self.fetcher(which).bodies.remove(&fetch);
            }
            Output::Blocked { .. } => {}
        }
    }

    /// The candidates of a fetch, and as what each is asked.
    fn rank(&mut self, now: u64, which: Which, fetch: FetchId) {
        let Some(body) = self.fetcher(which).bodies.get(&fetch) else {
            return;
        };
        let placement = body.key.placement();
        let number = |name| source_of(self.settings.number(name));
        let mut roles: Vec<(SourceId, Role)> = Vec::new();
        let mut ranked: Vec<SourceId> = Vec::new();
        match which {
            Which::Home => {
                roles.extend(
                    self.desk
                        .view()
                        .holders(placement)
                        .map(|holder| (number(holder), Role::Holder)),
                );
                ranked.extend(roles.iter().map(|(source, _)| *source));
                ranked.extend(LANES);
            }
            Which::Peer => {
                if let Through::Members { first, second } = self.desk.view().through(placement) {
                    roles.push((number(first), Role::Coordinator));
                    roles.extend(second.map(|second| (number(second), Role::StandIn)));
                }
                ranked.extend(roles.iter().map(|(source, _)| *source));
                ranked.push(HOME);
            }
        }
        if let Some(body) = self.fetcher(which).bodies.get_mut(&fetch) {
            body.roles = roles;
        }
        self.fetcher(which)
            .feed(now, Input::Candidates { fetch, ranked });
    }

    fn start(
        &mut self,
        now: u64,
        which: Which,
        (attempt, fetch): (AttemptId, FetchId),
        source: SourceId,
        from: u64,
        stage: Stage,
    ) {
        let fetcher = self.fetcher(which);
        let Some(body) = fetcher.bodies.get(&fetch) else {
            return;
        };
        let (key, said) = (body.key, body.said);
        let role = body.roles.iter().find(|(of, _)| *of == source);
        let role = role.map(|(_, role)| *role);
        if let Some(words) = said {
            // Somebody has said for good how it is: whoever is asked would say the same.
            let end = self.hears(which, fetch, words);
            self.fetcher(which).feed(now, Input::Ended { attempt, end });
            return;
        }
        // It may have come since the fetch was wanted.
        if stage == Stage::First
            && let Some(bytes) = self.held(now, &key)
        {
            self.fetcher(which)
                .ways
                .insert(attempt, (fetch, Way::Origin { at: from }));
            self.opens(now, which, attempt, bytes.len() as u64);
            let piece = &bytes[usize::try_from(from).expect("small")..];
            self.brings(now, which, attempt, from, piece);
            self.fetcher(which).ways.remove(&attempt);
            let upto = bytes.len() as u64;
            let end = End::Complete { upto };
            self.fetcher(which).feed(now, Input::Ended { attempt, end });
            return;
        }
        match role {
            Some(role) => {
                let me = self.settings.names[self.id].clone();
                let number = usize::try_from(source.0 - 10).expect("a member");
                let first = self.settings.names[number].clone();
                let (errand, step) = Errand::new(me, first, role);
                let trip = Trip {
                    errand,
                    role,
                    stream: None,
                    place: 0,
                    at: from,
                    heard: now,
                    gained: false,
                };
                self.fetcher(which)
                    .ways
                    .insert(attempt, (fetch, Way::Trip(trip)));
                self.step(now, which, attempt, step);
            }
            None if which == Which::Peer => {
                self.mark("own home");
                let waiter = self.join(now, Which::Home, key, Sink::Attempt(attempt), from);
                let beats = Beats::new(span(now), self.settings.pace);
                self.peer
                    .ways
                    .insert(attempt, (fetch, Way::Home(waiter, beats)));
                self.read_on(now, Which::Home, waiter);
            }
            None => {
                self.home
                    .ways
                    .insert(attempt, (fetch, Way::Origin { at: from }));
                self.effects.push(Effect::Get {
                    attempt: attempt.0,
                    key,
                    from_byte: from,
                });
            }
        }
    }

    /// An attempt is over, however it ended.
    fn stop(&mut self, now: u64, which: Which, attempt: AttemptId) {
        match self.fetcher(which).ways.remove(&attempt) {
            Some((_, Way::Trip(trip))) => self.hang_up(&trip),
            Some((_, Way::Home(waiter, _))) => self.release(now, Which::Home, waiter),
            Some((_, Way::Origin { .. })) => {
                let attempt = attempt.0;
                self.effects.push(Effect::Abort { attempt });
            }
            None => {}
        }
    }

    fn hang_up(&mut self, trip: &Trip) {
        if let Some(stream) = trip.stream
            && self.asked.remove(&stream).is_some()
        {
            let to = self.settings.number(trip.errand.at());
            self.effects.push(Effect::Send(to, stream, Message::Cancel));
        }
    }

    fn discard(&mut self, now: u64, which: Which, fetch: FetchId) {
        self.mark("discarded");
        if let Some(body) = self.fetcher(which).bodies.get_mut(&fetch) {
            body.bytes.clear();
        }
        // Who has read of it reads something else.
        for waiter in self.fetcher(which).readers_of(fetch) {
            let Some(reader) = self.fetcher(which).readers.get_mut(&waiter) else {
                continue;
            };
            match reader.sink {
                _ if reader.at == 0 => {}
                Sink::Client(_) => reader.at = 0,
                Sink::Stream(stream) => {
                    self.serving.remove(&stream);
                    self.effects
                        .push(Effect::Send(stream.asker, stream, Message::Reset));
                    self.release(now, which, waiter);
                }
                Sink::Attempt(attempt) => {
                    self.stop(now, Which::Peer, attempt);
                    let end = End::Failed(Fault::Truncated);
                    self.peer.feed(now, Input::Ended { attempt, end });
                }
            }
        }
    }

    /// What is to be made of the last words of one that served.
    pub(crate) fn hears(&mut self, which: Which, fetch: FetchId, words: Words) -> End {
        if !words.are_final() || self.is_planted("final-words-not-final") {
            // No blame: it has tried, and it is not its fault.
            return End::Missing;
        }
        if let Some(body) = self.fetcher(which).bodies.get_mut(&fetch) {
            body.said = Some(words);
        }
        End::Failed(Fault::Changed)
    }

    // ---- trips ----

    fn trip(&mut self, which: Which, attempt: AttemptId) -> Option<(FetchId, &mut Trip)> {
        match self.fetcher(which).ways.get_mut(&attempt)? {
            (fetch, Way::Trip(trip)) => Some((*fetch, trip)),
            _ => None,
        }
    }

    fn step(&mut self, now: u64, which: Which, attempt: AttemptId, step: Step) {
        match step {
            Step::Read => {}
            Step::End(ended) => {
                let Some((fetch, way)) = self.fetcher(which).ways.remove(&attempt) else {
                    return;
                };
                let gained = matches!(&way, Way::Trip(trip) if trip.gained);
                let holder = match &way {
                    Way::Trip(trip) if trip.role == Role::Holder => Some(trip.errand.at().clone()),
                    _ => None,
                };
                let _ = fetch;
                let end = match ended {
                    Ended::NotCoordinator => End::Failed(Fault::NotCoordinator),
                    Ended::NotHere => End::Missing,
                    Ended::Failed if gained => End::Failed(Fault::Truncated),
                    Ended::Failed => End::Failed(Fault::Unreachable),
                    // Those to whom we were sent are to blame, and nobody knows which.
                    Ended::Lost => End::Failed(Fault::Local),
                };
                self.fetcher(which).feed(now, Input::Ended { attempt, end });
                if let Some(holder) = holder.filter(|_| ended == Ended::Failed)
                    && self.desk.lost(&holder)
                {
                    self.mark("leaver lost");
                    let source = source_of(self.settings.number(&holder));
                    self.home.feed(now, Input::SourceDown { source });
                }
                self.turn(now);
            }
            Step::Ask(member, mut ask) => {
                let stream = Stream {
                    asker: self.id,
                    life: self.life,
                    number: self.number(),
                };
                if !ask.failed.is_empty() {
                    self.mark("named a failed relay");
                }
                if self.is_planted("failed-relays-never-named") {
                    ask.failed.clear();
                }
                if ask.role == Role::StandIn && self.is_planted("stand-in-asked-as-coordinator") {
                    ask.role = Role::Coordinator;
                }
                let to = self.settings.number(&member);
                let Some((fetch, trip)) = self.trip(which, attempt) else {
                    return;
                };
                trip.stream = Some(stream);
                (trip.place, trip.heard, trip.gained) = (0, now, false);
                let frontier = self.fetcher(which).bodies.get(&fetch);
                let (key, frontier) = match frontier {
                    Some(body) => (body.key, body.bytes.len() as u64),
                    None => return,
                };
                let Some((_, trip)) = self.trip(which, attempt) else {
                    return;
                };
                // Others may have brought more meanwhile.
                trip.at = trip.at.max(frontier);
                let from_byte = trip.at;
                self.asked.insert(stream, (which, attempt));
                let message = Message::Ask {
                    key,
                    from_byte,
                    ask,
                };
                self.effects.push(Effect::Send(to, stream, message));
            }
        }
    }

    /// Something came from another member.
    pub fn hear(&mut self, now: u64, from: usize, stream: Stream, message: Message) {
        match message {
            Message::Ask {
                key,
                from_byte,
                ask,
            } => self.asked(now, stream, key, from_byte, &ask),
            Message::Cancel => self.cancelled(now, stream),
            Message::Reset if stream.asker == self.id => self.broken(now, stream),
            Message::Reset => self.cancelled(now, stream),
            Message::Frame(place, frame) => self.frame(now, from, stream, place, frame),
        }
        self.turn(now);
    }

    fn frame(&mut self, now: u64, from: usize, stream: Stream, place: u32, frame: Frame) {
        let Some((which, attempt)) = self.asked.get(&stream).copied() else {
            // Of an earlier life, or of a trip that is over.
            if !matches!(frame, Frame::End | Frame::Fail(_) | Frame::Not(_)) {
                self.effects
                    .push(Effect::Send(from, stream, Message::Cancel));
            }
            return;
        };
        let Some((fetch, trip)) = self.trip(which, attempt) else {
            return;
        };
        let in_order = trip.place == place;
        trip.place = place + 1;
        trip.heard = now;
        if !in_order && !self.is_planted("order-of-frames-not-checked") {
            self.mark("frames out of order");
            self.effects
                .push(Effect::Send(from, stream, Message::Cancel));
            return self.broken(now, stream);
        }
        match frame {
            Frame::Spoilt => {
                self.mark("spoilt frame");
                self.effects
                    .push(Effect::Send(from, stream, Message::Cancel));
                self.broken(now, stream);
            }
            Frame::Not(reply) => {
                self.asked.remove(&stream);
                // It is alive: where it sends us on, the engine's hedge begins anew.
                if matches!(reply, Reply::Refer(_)) {
                    self.fetcher(which).feed(now, Input::Heartbeat { attempt });
                }
                self.answered(now, which, attempt, reply);
            }
            Frame::Head(len) => {
                self.answered(now, which, attempt, Reply::Serve);
                self.opens(now, which, attempt, len);
            }
            Frame::Data(at, bytes) => {
                let Some((_, trip)) = self.trip(which, attempt) else {
                    return;
                };
                if at != trip.at && !self.is_planted("order-of-frames-not-checked") {
                    self.effects
                        .push(Effect::Send(from, stream, Message::Cancel));
                    return self.broken(now, stream);
                }
                let Some((_, trip)) = self.trip(which, attempt) else {
                    return;
                };
                trip.at += bytes.len() as u64;
                trip.gained = true;
                let at = trip.at - bytes.len() as u64;
                self.brings(now, which, attempt, at, &bytes);
            }
            Frame::Beat(hops) => {
                self.answered(now, which, attempt, Reply::Serve);
                if !self.is_planted("beats-not-heard") {
                    self.fetcher(which).feed(now, Input::Heartbeat { attempt });
                }
                if which == Which::Peer {
                    self.pass_beat_on(now, fetch, hops);
                }
            }
            Frame::End => {
                self.asked.remove(&stream);
                let Some((_, Way::Trip(trip))) = self.fetcher(which).ways.remove(&attempt) else {
                    return;
                };
                let end = End::Complete { upto: trip.at };
                self.fetcher(which).feed(now, Input::Ended { attempt, end });
            }
            Frame::Fail(words) => {
                self.asked.remove(&stream);
                if !words.are_final() && trip_is_referred(self.trip(which, attempt)) {
                    return self.failed(now, which, attempt);
                }
                self.fetcher(which).ways.remove(&attempt);
                let end = self.hears(which, fetch, words);
                self.fetcher(which).feed(now, Input::Ended { attempt, end });
            }
        }
    }

    fn answered(&mut self, now: u64, which: Which, attempt: AttemptId, reply: Reply) {
        if let Some((_, trip)) = self.trip(which, attempt) {
            let step = trip.errand.answered(reply);
            self.step(now, which, attempt, step);
        }
    }

    /// A connection is of no more use.
    fn broken(&mut self, now: u64, stream: Stream) {
        let Some((which, attempt)) = self.asked.remove(&stream) else {
            return;
        };
        let Some((_, trip)) = self.trip(which, attempt) else {
            return;
        };
        let step = if trip.gained {
            trip.errand.broke_off()
        } else {
            trip.errand.failed()
        };
        self.step(now, which, attempt, step);
    }

    fn failed(&mut self, now: u64, which: Which, attempt: AttemptId) {
        if let Some((_, trip)) = self.trip(which, attempt) {
            let step = trip.errand.failed();
            self.step(now, which, attempt, step);
        }
    }

    /// Leaves relays and holders that are silent.
    pub(crate) fn lose_patience(&mut self, now: u64) {
        if self.is_planted("patience-without-end") {
            return;
        }
        let pace = self.settings.pace;
        for which in [Which::Peer, Which::Home] {
            let ways = &self.fetcher(which).ways;
            let silent = ways.iter().filter(|(_, (_, way))| match way {
                Way::Trip(trip) => trip.patience_ends(pace).is_some_and(|at| at <= now),
                _ => false,
            });
            let silent: Vec<AttemptId> = silent.map(|(attempt, _)| *attempt).collect();
            for attempt in silent {
                let Some((_, trip)) = self.trip(which, attempt) else {
                    continue;
                };
                let (stream, at) = (trip.stream.take(), trip.errand.at().clone());
                self.mark(if which == Which::Peer {
                    "silent relay"
                } else {
                    "silent holder"
                });
                if let Some(stream) = stream
                    && self.asked.remove(&stream).is_some()
                {
                    let to = self.settings.number(&at);
                    self.effects.push(Effect::Send(to, stream, Message::Cancel));
                }
                self.failed(now, which, attempt);
            }
        }
        self.turn(now);
    }

    // ---- bytes ----

    /// A source says what it has.
    pub(crate) fn opens(&mut self, now: u64, which: Which, attempt: AttemptId, len: u64) {
        let fetcher = self.fetcher(which);
        fetcher.feed(
            now,
            Input::Opened {
                attempt,
                identity: IDENTITY,
                total: Some(len),
            },
        );
        self.turn(now);
    }

    /// Bytes have come: into the body, to the engine, to the readers.
    pub(crate) fn brings(
        &mut self,
        now: u64,
        which: Which,
        attempt: AttemptId,
        at: u64,
        bytes: &[u8],
    ) {
        let fetcher = self.fetcher(which);
        // The engine may have ended it meanwhile.
        let Some((fetch, _)) = fetcher.ways.get(&attempt) else {
            return;
        };
        let fetch = *fetch;
        let Some(body) = fetcher.bodies.get_mut(&fetch) else {
            return;
        };
        let upto = at + bytes.len() as u64;
        let frontier = body.bytes.len() as u64;
        if at <= frontier && upto > frontier {
            let new = usize::try_from(frontier - at).expect("small");
            body.bytes.extend_from_slice(&bytes[new..]);
        }
        fetcher.feed(now, Input::Progress { attempt, upto });
        self.turn(now);
        self.all_read_on(now, which, fetch);
    }

    /// The origin says something.
    pub fn origin_says(&mut self, now: u64, attempt: u64, said: Said) {
        let attempt = AttemptId(attempt);
        let Some((fetch, Way::Origin { at })) = self.home.ways.get_mut(&attempt) else {
            return;
        };
        let (fetch, from) = (*fetch, *at);
        let end = match said {
            Said::Open(len) => return self.opens(now, Which::Home, attempt, len),
            Said::Bytes(upto) => {
                *at = upto;
                let Some(body) = self.home.bodies.get(&fetch) else {
                    return;
                };
                let key = body.key;
                let bytes: Vec<u8> = (from..upto).map(|at| key.byte(at)).collect();
                return self.brings(now, Which::Home, attempt, from, &bytes);
            }
            Said::End => End::Complete { upto: from },
            Said::Missing => self.hears(Which::Home, fetch, Words::Missing),
            Said::Changed => self.hears(Which::Home, fetch, Words::Changed),
            Said::Busy => End::Busy { retry_after: None },
            Said::Broken => End::Failed(Fault::Truncated),
        };
        self.home.ways.remove(&attempt);
        self.home.feed(now, Input::Ended { attempt, end });
        self.turn(now);
    }
}

fn trip_is_referred(trip: Option<(FetchId, &mut Trip)>) -> bool {
    trip.is_some_and(|(_, trip)| trip.errand.is_referred())
}
