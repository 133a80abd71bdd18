//! OTLP: spans as the protobuf message `ExportTraceServiceRequest`.
//!
//! Written by hand: it is four kinds of field and some thirty numbers, which the protocol has
//! promised never to change. That they are the right ones is tested against the official types.

use super::span::{Record, Value};
use bytes::Bytes;

/// The bit of a span's flags that says that the next one is meant, and that: the parent is elsewhere.
const REMOTE_KNOWN: u32 = 1 << 8;
const REMOTE: u32 = 1 << 9;
const SAMPLED: u32 = 1;
const STATUS_ERROR: u64 = 2;

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn number(&mut self, field: u32, number: u64) {
        self.varint(u64::from(field << 3));
        self.varint(number);
    }

    fn fixed64(&mut self, field: u32, number: u64) {
        self.varint(u64::from(field << 3 | 1));
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn fixed32(&mut self, field: u32, number: u32) {
        self.varint(u64::from(field << 3 | 5));
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field << 3 | 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    fn attribute(&mut self, field: u32, key: &str, value: &Value) {
        self.message(field, |pair| {
            pair.text(1, key);
            pair.message(2, |any| match value {
                Value::Text(text) => any.text(1, text),
                Value::Bool(yes) => any.number(2, u64::from(*yes)),
                // Two's complement, as protobuf has it.
                Value::Int(number) => any.number(3, *number as u64),
            });
        });
    }

    fn span(&mut self, field: u32, span: &Record) {
        self.message(field, |out| {
            out.bytes(1, &span.trace.to_be_bytes());
            out.bytes(2, &span.span.to_be_bytes());
            let mut flags = SAMPLED | REMOTE_KNOWN;
            if let Some(parent) = span.parent {
                out.bytes(4, &parent.to_be_bytes());
                flags |= if span.remote { REMOTE } else { 0 };
            }
            out.text(5, &span.name);
            out.number(6, span.kind as u64);
            out.fixed64(7, span.start_ns);
            out.fixed64(8, span.end_ns);
            for (key, value) in &span.attributes {
                out.attribute(9, key, value);
            }
            for (trace, other) in &span.links {
                out.message(13, |link| {
                    link.bytes(1, &trace.to_be_bytes());
                    link.bytes(2, &other.to_be_bytes());
                    link.fixed32(6, SAMPLED | REMOTE_KNOWN);
                });
            }
            if let Some(error) = &span.error {
                out.message(15, |status| {
                    status.text(2, error);
                    status.number(3, STATUS_ERROR);
                });
            }
            out.fixed32(16, flags);
        });
    }
}

/// The request that exports these spans of one process.
pub(super) fn request(resource: &[(&'static str, Value)], spans: &[Record]) -> Bytes {
    let mut out = Message::default();
    out.message(1, |group| {
        group.message(1, |about| {
            for (key, value) in resource {
                about.attribute(1, key, value);
            }
        });
        group.message(2, |scoped| {
            scoped.message(1, |scope| {
                scope.text(1, "gannet");
                scope.text(2, env!("CARGO_PKG_VERSION"));
            });
            for span in spans {
                scoped.span(2, span);
            }
        });
    });
    out.0.into()
}
