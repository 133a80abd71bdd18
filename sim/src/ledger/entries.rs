//! What is kept of each waiter, fetch, attempt, judgement and source, and of each bound.

use crate::{source::Script, truth::Key};
use gannet_engine::{
    AttemptId, End, FetchId, GroupId, Limits, OnInvalid, Plan, SourceId, Stage, Targets, Time,
    Verdict, WaiterId, Want,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// A caller that waits.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// What for.
    pub key: Key,
    /// Under which terms.
    pub want: Want,
    /// The number of the input that brought it.
    pub joined: u64,
    /// Its fetch, once the outputs of its want were drained.
    pub fetch: Option<FetchId>,
    /// Its deadline was moved after this one.
    pub old_deadline: Option<Time>,
}

/// An answer that was judged valid.
#[derive(Clone, Debug)]
pub struct Valid {
    /// Who brought it, in the order of their bytes.
    pub contributors: Vec<AttemptId>,
    /// Their sources.
    pub sources: Vec<SourceId>,
    /// Whom it was judged for.
    pub judged_for: BTreeSet<WaiterId>,
    /// The number of the input that said so first.
    pub at: u64,
    /// Whether it is stored.
    pub committed: bool,
    /// Whether it was handed to the store.
    pub commit_asked: bool,
    /// Whether its bytes are still there.
    pub held: bool,
}

/// A fetch, from its opening to its retirement.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// What is fetched.
    pub key: Key,
    /// The plan of its first want.
    pub plan: Arc<Plan>,
    /// Whether all wants had that plan, but for commit and lifetime.
    pub uniform: bool,
    /// The number of the input that opened it.
    pub opened: u64,
    /// How long it may outlive its waiters.
    pub ceiling: Option<Duration>,
    /// When the last waiter went, if none is left.
    pub deserted: Option<Time>,
    /// The strictest commit of its wants.
    pub commit: gannet_engine::Commit,
    /// Whether a want took it up when it was deserted.
    pub revived: bool,
    /// Which sources may serve it.
    pub targets: Targets,
    /// What the front end ranked last.
    pub ranked: Option<Vec<SourceId>>,
    /// Whether a ranking is asked for.
    pub selecting: bool,
    /// How many rankings were asked for.
    pub selects: u32,
    /// Attempts not ended.
    pub live: BTreeSet<AttemptId>,
    /// Every attempt, declined ones excluded.
    pub attempts: Vec<AttemptId>,
    /// Attempts since the last ranking, declined ones excluded.
    pub attempts_in_cycle: u32,
    /// Starts since the last ranking: there were no more rounds than that.
    pub starts_in_cycle: u32,
    /// The first start; or the last byte that went beyond all before.
    pub first_start: Option<Time>,
    /// The furthest that its body has come, also where it was given up since.
    pub furthest: u64,
    /// When one of its attempts last started, gave a sign, or ended.
    pub news: Time,
    /// Sources that said no for good.
    pub refused_for_good: BTreeSet<SourceId>,
    /// The body, under a resuming plan.
    pub body: Vec<u8>,
    /// Who brought it, in the order of their first bytes.
    pub bringers: Vec<AttemptId>,
    /// Answers judged so far, by contributors.
    pub judged: Vec<Vec<AttemptId>>,
    /// Judgements not answered.
    pub judging: u32,
    /// The valid answer.
    pub valid: Option<Valid>,
    /// Whether a commit is under way.
    pub committing: bool,
    /// How the last commit failed.
    pub commit_fault: Option<gannet_engine::CommitFault>,
    /// Commits that failed.
    pub commit_faults: u32,
    /// Of these, those that somebody insisted on: their answers were given up; and data that came by
    /// another way. What a judge was asked before is of no concern after.
    pub given_up: u32,
    /// A body of several contributors was wrong.
    pub many_invalid: u32,
    /// The datum came by another way, from here.
    pub obtained: Option<Option<SourceId>>,
    /// The judge retired the key.
    pub ignored: bool,
    /// Since when it stands in a queue while a source is idle.
    pub idle_since: Option<Time>,
    /// Since when a source could join its race.
    pub joinable_since: Option<Time>,
    /// Its sources disagreed: no attempt joins another any more.
    pub alone: bool,
    /// There was no source to ask at some time.
    pub starved: bool,
    /// Answered somebody.
    pub answered: bool,
}

/// An attempt, from its start to the retirement of its fetch.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its fetch.
    pub fetch: FetchId,
    /// Whom it asks.
    pub source: SourceId,
    /// The source's group at the start.
    pub group: GroupId,
    /// The first byte asked for.
    pub from_byte: u64,
    /// Why it was made.
    pub stage: Stage,
    /// When.
    pub since: Time,
    /// Whether it was acknowledged.
    pub acknowledged: bool,
    /// How it ended.
    pub end: Option<End>,
    /// Whether the host declined it.
    pub declined: bool,
    /// Whether it was told to stop.
    pub aborting: bool,
    /// What it says it has.
    pub identity: Option<u64>,
    /// How many bytes it says that has.
    pub total: Option<u64>,
    /// When it last gave a sign.
    pub sign: Option<Time>,
    /// The byte up to which it has come.
    pub upto: u64,
    /// Its bytes, under a plan that does not resume.
    pub body: Vec<u8>,
    /// Whether its bytes will not be used.
    pub discarded: bool,
    /// Its verdict, if judged alone.
    pub verdict: Option<Verdict>,
    /// What the source will do.
    pub script: Option<Script>,
}

/// A judgement that is asked for.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The fetch.
    pub fetch: FetchId,
    /// Who brought the bytes.
    pub contributors: Vec<AttemptId>,
    /// Their sources.
    pub sources: Vec<SourceId>,
    /// For whom.
    pub waiters: Vec<WaiterId>,
    /// The bytes.
    pub body: Vec<u8>,
    /// Whether the same answer was judged before.
    pub again: bool,
    /// Answers of the fetch that were given up when it was asked for.
    pub given_up: u32,
    /// What the plan does to liars.
    pub on_invalid: OnInvalid,
}

/// Limits and a token bucket, kept in units of a billionth of a token's minute.
///
/// What a change of limits does to a bucket is the engine's business: it then holds between nothing
/// and its burst, and so both bounds are kept.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The limits.
    pub limits: Limits,
    most: u128,
    least: u128,
    at: Time,
    /// No start before.
    pub paused_until: Time,
    /// Changed since the outputs were last drained: a start may be older than that.
    pub unsettled: bool,
}

/// One token of a [`Bound`].
const TOKEN: u128 = 60_000_000_000;

impl Bound {
    /// A full bucket.
    pub fn new(limits: Limits, now: Time) -> Self {
        let mut bound = Self {
            limits,
            most: 0,
            least: 0,
            at: now,
            paused_until: Time::ZERO,
            unsettled: false,
        };
        bound.limit(limits, now);
        bound.least = bound.most;
        bound.unsettled = false;
        bound
    }

    fn burst(&self) -> u128 {
        let burst = self.limits.rate.map_or(0, |rate| rate.burst_max.get());
        u128::from(burst) * TOKEN
    }

    /// Sets the limits.
    pub fn limit(&mut self, limits: Limits, now: Time) {
        self.limits = limits;
        self.at = now;
        self.most = self.burst();
        self.least = 0;
        self.unsettled = true;
    }

    /// The bucket's content after the time that has passed, at least and at most.
    fn refilled(&self, now: Time) -> (u128, u128) {
        let per_minute = self.limits.rate.map_or(0, |rate| rate.per_minute_max.get());
        let gained = now.since(self.at).as_nanos() * u128::from(per_minute);
        let full = self.burst();
        (
            (self.least + gained).min(full),
            (self.most + gained).min(full),
        )
    }

    /// Whether a token may be there (`slack`) or must be, give or take the rounding of whole
    /// nanoseconds.
    pub fn has_token(&self, now: Time, slack: bool) -> bool {
        let rounding = TOKEN / 500;
        let (least, most) = self.refilled(now);
        self.limits.rate.is_none()
            || if slack {
                most + rounding >= TOKEN
            } else {
                least >= TOKEN + rounding
            }
    }

    /// Takes a token; where the start may be `older` than the limits, perhaps not of theirs.
    pub fn take(&mut self, now: Time, older: bool) {
        let (least, most) = self.refilled(now);
        self.least = least.saturating_sub(TOKEN);
        self.most = if older && self.unsettled {
            most
        } else {
            most.saturating_sub(TOKEN)
        };
        self.at = now;
    }

    /// May give one back.
    pub fn refund(&mut self, now: Time) {
        let (least, most) = self.refilled(now);
        (self.least, self.most) = (least, most + TOKEN);
        self.at = now;
    }
}

/// A source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Whether it is reachable.
    pub up: bool,
    /// Its group.
    pub group: GroupId,
    /// Its bounds.
    pub bound: Bound,
    /// Whether it is blocked, and until when.
    pub blocked: Option<Option<Time>>,
    /// Declined until then.
    pub declined_until: Time,
    /// Asked to be left alone until then.
    pub busy_until: Time,
    /// No duty to start before: a pause may have been forgotten, or not.
    pub doubtful_until: Time,
    /// The start not acknowledged.
    pub unacknowledged: Option<AttemptId>,
    /// Since this input, it could be asked at any time.
    pub steady_since: u64,
    /// Faults in a row, as the engine showed last.
    pub faults: u32,
    /// Its health, as the engine showed last.
    pub health: Option<gannet_engine::Health>,
    /// It was dead when it was asked last.
    pub probed: bool,
    /// A block that ran out, not asked since.
    pub block_ran_out: bool,
    /// Declined, not asked since.
    pub was_declined: bool,
    /// The last fault of an attempt.
    pub last_fault: Time,
    /// After a fault: not asked before, where backed-off sources are not tried.
    pub backed_off_until: Time,
}
