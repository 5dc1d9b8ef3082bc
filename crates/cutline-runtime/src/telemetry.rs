//! What happens to frames, told to an OpenTelemetry collector: one trace per frame, over every
//! process that it passes.
//!
//! ```text
//! cutline run     frame ──────────────────────────────────────────────────────────────┐
//!                  └ call 0-pi (CLIENT) ───────────────────────────────────────────┐  │ + queue, compute, send of
//! agent `pi`            └ infer 0-pi (SERVER): queue, prepare, compute ─────────┐  │  │   every stage, as it was told
//!                            └ call 1-cloud (CLIENT) ────────────────────────┐  │  │  │
//! agent `cloud`                   └ infer 1-cloud (SERVER): queue, compute ─┐│  │  │  │
//! ```
//!
//! A [`TraceContext`] is what goes from process to process, as W3C Trace Context has it: two headers
//! of a call. It is passed on whether or not anybody records. A [`Span`] is a piece of time that may
//! be recorded; [`Telemetry`] takes those that end, and an [`Exporter`] brings them to the collector.
//!
//! A frame never waits for any of this: an ended span is put into a bounded queue, or counted as
//! dropped where that is full. Without a collector nothing is recorded at all.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::mpsc;

use crate::wire::otlp;

mod collector;
mod context;
mod export;
mod span;

pub use collector::{Collector, CollectorError};
pub use context::TraceContext;
pub use export::{Exporter, Service};
pub use span::{Kind, Span};

/// Takes spans that ended; by default nowhere. Clones share the way to the collector.
#[derive(Clone, Debug, Default)]
pub struct Telemetry(Option<Arc<Outbox>>);

/// The way to the task that exports.
#[derive(Debug)]
struct Outbox {
    spans: mpsc::Sender<otlp::Span>,
    counts: Arc<Counts>,
}

/// What became of spans.
#[derive(Debug, Default)]
struct Counts {
    recorded: AtomicU64,
    sent: AtomicU64,
    dropped: AtomicU64,
}

/// What became of the spans of a process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Taken by the collector.
    pub sent: u64,
    /// Not told: the queue was full, the collector refused them, or did not come back in time.
    pub dropped: u64,
}

impl Telemetry {
    /// Begins a span now, within the trace that the caller brought; in a new trace where it brought
    /// none. Nothing is recorded where there is no collector, or where whoever began the trace did
    /// not sample it: then what was brought is passed on as it came. The name is `verb name`.
    pub fn begin(
        &self,
        kind: Kind,
        (verb, name): (&str, &str),
        within: Option<&TraceContext>,
    ) -> Span {
        match (&self.0, within) {
            (Some(_), Some(within)) if within.is_sampled() => {
                Span::begin(self, kind, (verb, name), within.child(), Some(within))
            }
            (Some(_), None) => Span::begin(self, kind, (verb, name), TraceContext::root(), None),
            (_, within) => Span::passing(within.cloned()),
        }
    }

    /// Begins the first span of a new trace now. Also where nothing is recorded there is a trace to
    /// pass on, so that agents that have a collector tell of the same one.
    pub fn trace(&self, name: &str) -> Span {
        match &self.0 {
            Some(_) => Span::begin(self, Kind::Internal, (name, ""), TraceContext::root(), None),
            None => Span::passing(Some(TraceContext::root())),
        }
    }

    /// What became of the spans so far; `None` where there is no collector.
    pub fn told(&self) -> Option<Told> {
        let counts = &self.0.as_ref()?.counts;
        Some(Told { sent: counts.sent.load(Relaxed), dropped: counts.dropped.load(Relaxed) })
    }

    /// Hands a span over, or counts it where there is no room.
    fn record(&self, span: otlp::Span) {
        let Some(outbox) = &self.0 else { return };
        outbox.counts.recorded.fetch_add(1, Relaxed);
        if outbox.spans.try_send(span).is_err() {
            outbox.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}
