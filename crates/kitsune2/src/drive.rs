//! Does what the engine decides.

use crate::{
    machine::{AttemptId, End, FetchId, Input, Output, SourceId, Time, WaiterId},
    select::Asked,
    state::State,
};

impl State {
    /// Does what the engine says.
    pub(crate) fn drive(&mut self, now: Time) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Start {
                    attempt,
                    fetch,
                    source,
                    ..
                } => self.start(now, attempt, fetch, source),
                Output::Abort { attempt } => {
                    if let Some(want) = self.attempts.remove(&attempt) {
                        self.unask(want, attempt);
                        let end = End::Aborted;
                        self.input(now, Input::Ended { attempt, end });
                    }
                }
                Output::Judge {
                    judgement,
                    contributors,
                    ..
                } => self.judge(now, judgement, &contributors),
                Output::Discard { attempt, .. } => self.discard(attempt),
                Output::Finish { waiter, .. } => self.finish(now, waiter),
                Output::Retired { fetch } => self.retired(fetch),
                // Keys are ours, and named in everything that follows; our plans rank nothing,
                // commit nothing and block nobody.
                Output::Opened { .. }
                | Output::Select { .. }
                | Output::Commit { .. }
                | Output::Blocked { .. } => {}
            }
        }
    }

    fn start(&mut self, now: Time, attempt: AttemptId, fetch: FetchId, source: SourceId) {
        self.input(now, Input::Started { attempt });
        let op = self
            .machine
            .key(fetch)
            .and_then(|key| self.book.op_named(*key));
        let peer = self.book.peer_named(source);
        let want = op
            .zip(peer)
            .and_then(|(op, peer)| self.book.between(op, peer));
        let Some((id, want)) = want.and_then(|id| Some((id, self.book.want_mut(id)?))) else {
            let end = End::Aborted;
            return self.input(now, Input::Ended { attempt, end });
        };
        if want.asked == Asked::Answered {
            // It came late, while its fetch waited, and the store has it now.
            let end = End::Missing;
            return self.input(now, Input::Ended { attempt, end });
        }
        want.asked = Asked::Soon(attempt);
        let (peer, vain) = (want.peer, usize::from(want.tries > 0));
        self.attempts.insert(attempt, id);
        self.book.peer_mut(peer).outbox[vain].push_back((attempt, id));
        self.queue(peer);
    }

    fn finish(&mut self, now: Time, waiter: WaiterId) {
        // Persistent fetches end for no other reason than that the op is here.
        if let Some(op) = self.book.op_named(waiter.0) {
            self.op_is_here(now, op);
        }
    }
}
