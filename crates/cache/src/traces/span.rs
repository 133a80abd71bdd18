//! Spans: made where something is waited for, sent when they are dropped.
//!
//! A span that is not recorded is `None` behind a method call; so is every child of it. What is
//! recorded goes into a bounded queue, and where that is full it is dropped and counted: nothing here
//! waits.

use super::{Inner, context::Remote};
use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

/// The longest text of an attribute, in bytes: the longest key of an object.
const TEXT_BYTES_MAX: usize = 1024;
/// Others that a span refers to, at most.
const LINKS_MAX: usize = 16;
/// Spans of one request at one member, at most; a read of a thousand chunks has its first.
const SPANS_MAX: u32 = 256;

/// What kind of span one is, by OTLP's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Int(i64),
    Bool(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self::Text(text[..end].to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

/// A span that is over, or will be.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) trace: u128,
    pub(super) span: u64,
    pub(super) parent: Option<u64>,
    /// Whether the parent is another process's.
    pub(super) remote: bool,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: Kind,
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) links: Vec<(u128, u64)>,
    pub(super) error: Option<String>,
}

/// What the spans of one request at this member have in common.
struct Trace {
    tracer: Arc<Inner>,
    id: u128,
    /// Spans begun so far, and those left out.
    begun: AtomicU32,
    left_out: AtomicU32,
}

/// A span under way; it ends when it is dropped. Nothing, where nothing is recorded.
#[derive(Default)]
pub(crate) struct Span(Option<Box<Open>>);

struct Open {
    trace: Arc<Trace>,
    record: Record,
    started: Instant,
    /// Whether it is the first of its trace here, which says what was left out.
    first: bool,
}

/// Where other spans may hang: cheap to clone, and to send to wherever work is done for a request.
/// Nothing, where nothing is recorded.
#[derive(Clone, Default)]
pub struct Parent(Option<Place>);

#[derive(Clone)]
struct Place {
    trace: Arc<Trace>,
    span: u64,
}

impl Span {
    /// The first span of a trace at this member.
    pub(super) fn first(
        tracer: &Arc<Inner>,
        kind: Kind,
        name: &'static str,
        (trace, parent): (u128, Option<u64>),
    ) -> Self {
        let trace = Arc::new(Trace {
            tracer: Arc::clone(tracer),
            id: trace,
            begun: AtomicU32::new(1),
            left_out: AtomicU32::new(0),
        });
        Self::begin(trace, parent, name, kind, true)
    }

    fn begin(
        trace: Arc<Trace>,
        parent: Option<u64>,
        name: &'static str,
        kind: Kind,
        first: bool,
    ) -> Self {
        let record = Record {
            trace: trace.id,
            span: trace.tracer.span_id(),
            parent,
            remote: first,
            name: Cow::Borrowed(name),
            kind,
            start_ns: now_ns(),
            end_ns: 0,
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        };
        Self(Some(Box::new(Open {
            trace,
            record,
            started: Instant::now(),
            first,
        })))
    }

    /// Whether it is recorded: only then is there a use in gathering what it says.
    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Where its children hang.
    pub(crate) fn parent(&self) -> Parent {
        Parent(self.0.as_ref().map(|open| Place {
            trace: Arc::clone(&open.trace),
            span: open.record.span,
        }))
    }

    /// Names it anew.
    pub(crate) fn name(&mut self, name: impl FnOnce() -> Cow<'static, str>) {
        if let Some(open) = &mut self.0 {
            open.record.name = name();
        }
    }

    /// Says something of it; the last word counts.
    pub(crate) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let Some(open) = &mut self.0 else { return };
        let attributes = &mut open.record.attributes;
        let value = value.into();
        match attributes.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => attributes.push((key, value)),
        }
    }

    /// Says how it failed.
    pub(crate) fn fail(&mut self, error: &dyn fmt::Display) {
        if let Some(open) = &mut self.0
            && let Value::Text(text) = Value::from(error.to_string().as_str())
        {
            open.record.error = Some(text);
        }
    }

    /// Refers to another span, which does the work that this one waits for.
    pub(crate) fn link(&mut self, other: &Parent) {
        if let (Some(open), Some(place)) = (&mut self.0, &other.0)
            && open.record.links.len() < LINKS_MAX
        {
            open.record.links.push((place.trace.id, place.span));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(mut open) = self.0.take() else {
            return;
        };
        let left_out = open.trace.left_out.load(Relaxed);
        if open.first && left_out > 0 {
            let value = Value::from(u64::from(left_out));
            open.record
                .attributes
                .push(("gannet.spans.left_out", value));
        }
        let took = u64::try_from(open.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        open.record.end_ns = open.record.start_ns.saturating_add(took);
        open.trace.tracer.send(open.record);
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span")
            .field(&self.0.as_ref().map(|open| &open.record.name))
            .finish()
    }
}

impl Parent {
    /// Whether anything that hangs here is recorded.
    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A span under this one, as long as there is room.
    pub(crate) fn child(&self, kind: Kind, name: &'static str) -> Span {
        let Some(Place { trace, span }) = &self.0 else {
            return Span::default();
        };
        if trace.begun.fetch_add(1, Relaxed) >= SPANS_MAX {
            trace.left_out.fetch_add(1, Relaxed);
            return Span::default();
        }
        Span::begin(Arc::clone(trace), Some(*span), name, kind, false)
    }

    /// As it is told to others.
    pub(crate) fn remote(&self) -> Option<Remote> {
        self.0.as_ref().map(|place| Remote {
            trace: place.trace.id,
            span: place.span,
            sampled: true,
        })
    }
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote() {
            Some(remote) => write!(f, "{remote}"),
            None => f.write_str("-"),
        }
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
