//! What a member does for others: answers their questions, sends them what it has or as it comes, and
//! says that it is at work.

use crate::{
    fetcher::{Sink, Way, Which},
    member::Member,
    time::{nanos, span},
    wire::{Effect, Frame, Message, Note, Stream, Told},
    world::Key,
};
use gannet_cluster::{Ask, Beats, Have, Reply, Role, Words};
use gannet_engine::{AttemptId, End, Fault, FetchId, Input, Outcome, WaiterId};

/// A connection on which a member serves.
#[derive(Debug)]
pub struct Serving {
    /// The place of the next frame.
    place: u32,
    /// What it reads from; none where the datum is at hand.
    from: Option<(Which, WaiterId)>,
    /// When to say that it is at work; none where it only passes on what it hears.
    pub beats: Option<Beats>,
}

impl Member {
    /// What it has of a datum.
    fn have(&mut self, now: u64, key: &Key) -> Have {
        if self.held(now, key).is_some() {
            Have::Whole
        } else if self.home.fetches(key) {
            Have::Filling
        } else if self.peer.fetches(key) {
            Have::Receiving
        } else {
            Have::Nothing
        }
    }

    /// Another member asks.
    pub(crate) fn asked(&mut self, now: u64, stream: Stream, key: Key, from: u64, ask: &Ask) {
        let mut have = self.have(now, &key);
        if ask.role == Role::StandIn {
            self.note(Note::StandsIn(key));
        }
        if have == Have::Receiving
            && ask.role != Role::Relay
            && self.is_planted("receiving-served-as-coordinator")
        {
            have = Have::Filling;
        }
        let mut told = ask.clone();
        if self.is_planted("failed-relays-not-heard") {
            told.failed.clear();
        }
        let mut reply = self.desk.answer(span(now), key.placement(), &told, have);
        if reply == Reply::NotHere && ask.role == Role::Relay && self.is_planted("relay-begins") {
            reply = Reply::Serve;
        }
        let serving = Serving {
            place: 0,
            from: None,
            beats: None,
        };
        self.serving.insert(stream, serving);
        if !matches!(reply, Reply::Serve | Reply::Fill) {
            self.mark(match &reply {
                Reply::Refer(_) => "referred",
                Reply::NotHere => "not here",
                _ => "not coordinator",
            });
            self.send(now, stream, Frame::Not(reply));
            self.serving.remove(&stream);
            return;
        }
        if ask.role != Role::Holder {
            self.note(Note::Serves(key, ask.role));
        }
        if let Some(bytes) = self.held(now, &key) {
            if ask.role == Role::Holder {
                self.mark("holder served");
            }
            self.send(now, stream, Frame::Head(bytes.len() as u64));
            self.send_bytes(now, stream, from, &bytes);
            self.send(now, stream, Frame::End);
            self.serving.remove(&stream);
            return;
        }
        let planted = self.is_planted("receiving-served-as-coordinator");
        let relayed = have == Have::Receiving && reply == Reply::Serve
            || planted && self.peer.fetches(&key) && !self.home.fetches(&key);
        let which = if relayed { Which::Peer } else { Which::Home };
        if relayed {
            self.note(Note::ServesReceived(key, ask.role));
            self.mark("relayed while receiving");
        } else if ask.role == Role::StandIn && reply == Reply::Fill {
            self.mark("stood in");
        }
        if ask.role == Role::Relay && !self.peer.fetches(&key) && !self.home.fetches(&key) {
            self.note(Note::Begins(key));
        }
        let waiter = self.join(now, which, key, Sink::Stream(stream), from);
        // Who only passes on what comes says nothing of its own.
        let originates = which == Which::Home || self.is_planted("relays-beat-unheard");
        let beats = Beats::new(span(now), self.settings.pace);
        let originates = originates && !self.is_planted("beats-forgotten");
        if let Some(serving) = self.serving.get_mut(&stream) {
            serving.from = Some((which, waiter));
            serving.beats = Some(beats).filter(|_| originates);
        }
        self.turn(now);
        self.read_on(now, which, waiter);
    }

    /// The asker wants no more, or is gone.
    pub(crate) fn cancelled(&mut self, now: u64, stream: Stream) {
        if let Some(serving) = self.serving.remove(&stream)
            && let Some((which, waiter)) = serving.from
        {
            self.release(now, which, waiter);
            self.turn(now);
        }
    }

    fn send(&mut self, now: u64, stream: Stream, frame: Frame) {
        let Some(serving) = self.serving.get_mut(&stream) else {
            return;
        };
        let place = serving.place;
        serving.place += 1;
        if let Some(beats) = &mut serving.beats {
            beats.sent(span(now));
        }
        let message = Message::Frame(place, frame);
        self.effects
            .push(Effect::Send(stream.asker, stream, message));
    }

    fn send_bytes(&mut self, now: u64, stream: Stream, from: u64, bytes: &[u8]) {
        let frame = usize::try_from(self.settings.world.frame).expect("small");
        let from = usize::try_from(from).expect("small").min(bytes.len());
        let mut at = from;
        for piece in bytes[from..].chunks(frame) {
            self.send(now, stream, Frame::Data(at as u64, piece.to_vec()));
            at += piece.len();
        }
    }

    /// Gives a reader what has come since it read last.
    pub(crate) fn read_on(&mut self, now: u64, which: Which, waiter: WaiterId) {
        let fetcher = self.fetcher(which);
        let Some(reader) = fetcher.readers.get_mut(&waiter) else {
            return;
        };
        let Some(body) = fetcher.bodies.get(&reader.fetch) else {
            return;
        };
        let (from, upto) = (reader.at, body.bytes.len() as u64);
        if from >= upto {
            return;
        }
        let opened = std::mem::replace(&mut reader.opened, true);
        reader.at = upto;
        let (sink, key, bytes) = (reader.sink, body.key, body.bytes.clone());
        match sink {
            Sink::Client(client) => self.effects.push(Effect::Grew(client)),
            Sink::Stream(stream) => {
                if !opened {
                    let len = self.settings.world.len(key.chunk);
                    self.send(now, stream, Frame::Head(len));
                }
                self.send_bytes(now, stream, from, &bytes);
            }
            Sink::Attempt(attempt) => {
                if !opened {
                    self.opens(
                        now,
                        Which::Peer,
                        attempt,
                        self.settings.world.len(key.chunk),
                    );
                }
                let piece = &bytes[usize::try_from(from).expect("small")..];
                self.brings(now, Which::Peer, attempt, from, piece);
            }
        }
    }

    /// All readers of a fetch read on.
    pub(crate) fn all_read_on(&mut self, now: u64, which: Which, fetch: FetchId) {
        for waiter in self.fetcher(which).readers_of(fetch) {
            self.read_on(now, which, waiter);
        }
    }

    /// A beat was heard of a fetch: its readers are to hear it.
    pub(crate) fn pass_beat_on(&mut self, now: u64, fetch: FetchId, hops: u8) {
        let (pace, for_ever) = (
            self.settings.pace,
            self.is_planted("beats-passed-on-for-ever"),
        );
        let Some(body) = self.peer.bodies.get_mut(&fetch) else {
            return;
        };
        let passed = body.passed.on(span(now), hops, pace);
        let Some(hops) = passed.or_else(|| for_ever.then_some(0)) else {
            return;
        };
        for waiter in self.peer.readers_of(fetch) {
            if let Some(reader) = self.peer.readers.get(&waiter)
                && let Sink::Stream(stream) = reader.sink
                && !self.is_planted("beats-not-passed-on")
            {
                self.mark("beat passed on");
                self.send(now, stream, Frame::Beat(hops));
            }
        }
    }

    /// Says to those that wait that it is at work.
    pub(crate) fn beat(&mut self, now: u64) {
        let due = |serving: &Serving| serving.beats.is_some_and(|beats| nanos(beats.due()) <= now);
        let streams = self.serving.iter().filter(|(_, serving)| due(serving));
        let streams: Vec<Stream> = streams.map(|(stream, _)| *stream).collect();
        for stream in streams {
            self.mark("beat");
            self.send(now, stream, Frame::Beat(0));
        }
        let mut own: Vec<(AttemptId, FetchId)> = Vec::new();
        for (attempt, (fetch, way)) in &mut self.peer.ways {
            if let Way::Home(_, beats) = way
                && nanos(beats.due()) <= now
            {
                beats.sent(span(now));
                own.push((*attempt, *fetch));
            }
        }
        for (attempt, fetch) in own {
            self.peer.feed(now, Input::Heartbeat { attempt });
            self.turn(now);
            self.pass_beat_on(now, fetch, 0);
        }
    }

    /// A waiter has its outcome.
    pub(crate) fn finish(
        &mut self,
        now: u64,
        which: Which,
        waiter: WaiterId,
        fetch: Option<FetchId>,
        outcome: &Outcome,
    ) {
        self.read_on(now, which, waiter);
        let fetcher = self.fetcher(which);
        let Some(reader) = fetcher.readers.remove(&waiter) else {
            return;
        };
        let body = fetch.and_then(|fetch| fetcher.bodies.get(&fetch));
        let told = match outcome {
            Outcome::Datum { .. } => {
                Told::Datum(body.map(|body| body.bytes.clone()).unwrap_or_default())
            }
            Outcome::Failed { tried, .. } => {
                let said = body.and_then(|body| body.said);
                let last = tried.last().map(|tried| tried.how);
                let busy = last == Some(gannet_engine::HowEnded::Busy);
                let words = if busy { Words::SlowDown } else { Words::Failed };
                Told::Failed(said.unwrap_or(words))
            }
        };
        match (reader.sink, told) {
            (Sink::Client(client), told) => self.told(client, told),
            (Sink::Stream(stream), told) => {
                let frame = match told {
                    Told::Datum(_) => Frame::End,
                    Told::Failed(words) => Frame::Fail(words),
                    Told::Gone => return,
                };
                self.send(now, stream, frame);
                self.serving.remove(&stream);
            }
            (Sink::Attempt(attempt), told) => {
                let Some((fetch, _)) = self.peer.ways.remove(&attempt) else {
                    return;
                };
                let end = match told {
                    Told::Datum(bytes) => End::Complete {
                        upto: bytes.len() as u64,
                    },
                    Told::Failed(words) => self.hears(Which::Peer, fetch, words),
                    Told::Gone => End::Failed(Fault::Local),
                };
                self.peer.feed(now, Input::Ended { attempt, end });
            }
        }
    }
}
