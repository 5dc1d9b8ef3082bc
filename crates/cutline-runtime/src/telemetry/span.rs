//! A piece of a frame's time, from its beginning to its end.

use cutline_core::units::Nanos;

use super::{Telemetry, TraceContext};
use crate::{
    client::clock::unix_nanos,
    stage::clip,
    wire::otlp::{self, any_value::Value, span::SpanKind, status::StatusCode},
};

/// The flag of a span that is sampled.
const SAMPLED: u32 = 1;

/// Whose view of the time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Within one process.
    Internal,
    /// Of a request, by who answers it.
    Server,
    /// Of a request, by who sends it.
    Client,
}

/// A span under way: recorded or not, it says which context calls within it carry. It ends when it is
/// dropped, as one that was given up unless [`end`](Span::end) said otherwise.
#[derive(Debug)]
pub struct Span {
    context: Option<TraceContext>,
    recording: Option<Box<Recording>>,
}

#[derive(Debug)]
struct Recording {
    telemetry: Telemetry,
    span: otlp::Span,
    /// Known when it was not given up.
    end_unix_ns: Option<u64>,
}

impl Span {
    pub(super) fn begin(
        telemetry: &Telemetry,
        kind: Kind,
        name: (&str, &str),
        context: TraceContext,
        within: Option<&TraceContext>,
    ) -> Self {
        let mut span = raw(kind, name, &context, within);
        span.start_time_unix_nano = unix_nanos();
        let recording = Recording { telemetry: telemetry.clone(), span, end_unix_ns: None };
        Self { context: Some(context), recording: Some(Box::new(recording)) }
    }

    /// One that records nothing, and passes on a context.
    pub(super) fn passing(context: Option<TraceContext>) -> Self {
        Self { context, recording: None }
    }

    /// Nothing, in no trace.
    pub fn none() -> Self {
        Self::passing(None)
    }

    /// What calls within it carry.
    pub fn context(&self) -> Option<&TraceContext> {
        self.context.as_ref()
    }

    /// Whether anybody will see what is said of it.
    pub fn is_recorded(&self) -> bool {
        self.recording.is_some()
    }

    /// Has it begin at an earlier moment.
    pub fn began(&mut self, unix_ns: u64) {
        if let Some(recording) = &mut self.recording {
            recording.span.start_time_unix_nano = unix_ns;
        }
    }

    /// Says something of it. Texts are cut to a bounded length.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(recording) = &mut self.recording {
            recording.span.attributes.push(attribute(key, value.into()));
        }
    }

    /// Says of a call whom it calls, by the names that the conventions have for it.
    pub(crate) fn calls(&mut self, device: &str, address: &str) {
        let place = address.rsplit_once("://").map_or(address, |(_, place)| place);
        let (host, port) = place.rsplit_once(':').unwrap_or((place, ""));
        self.set("rpc.system", "grpc");
        self.set("rpc.service", "inference.GRPCInferenceService");
        self.set("rpc.method", "ModelInfer");
        self.set("server.address", host);
        if let Ok(port) = port.parse::<u16>() {
            self.set("server.port", u64::from(port));
        }
        self.set("cutline.device", device);
    }

    /// Records what took its time within it: a piece that is over.
    pub fn part(
        &self,
        name: (&str, &str),
        (start_unix_ns, length): (u64, Nanos),
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        let (Some(recording), Some(within)) = (&self.recording, &self.context) else { return };
        let mut span = raw(Kind::Internal, name, &within.child(), Some(within));
        span.start_time_unix_nano = start_unix_ns;
        span.end_time_unix_nano = start_unix_ns.saturating_add(length.0);
        span.attributes =
            attributes.into_iter().map(|(key, value)| attribute(key, value)).collect();
        recording.telemetry.record(span);
    }

    /// Says that it failed, and why.
    pub fn fail(&mut self, reason: &str) {
        if let Some(recording) = &mut self.recording {
            recording.span.status = Some(failed(reason));
        }
    }

    /// Has it be over now, although there may be more to say of it.
    pub fn stop(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.end_unix_ns.get_or_insert_with(unix_nanos);
        }
    }

    /// Ends it, now unless it was over before; with the reason where it failed.
    pub fn end(mut self, failure: Option<&str>) {
        self.stop();
        failure.into_iter().for_each(|reason| self.fail(reason));
    }

    /// When it began, and when it was over; `None` where it is not recorded or still under way.
    pub(crate) fn bounds(&self) -> Option<(u64, u64)> {
        let recording = self.recording.as_ref()?;
        Some((recording.span.start_time_unix_nano, recording.end_unix_ns?))
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(recording) = self.recording.take() else { return };
        let Recording { telemetry, mut span, end_unix_ns } = *recording;
        let end = end_unix_ns.unwrap_or_else(|| {
            span.status = Some(failed("whoever waited for it has given it up"));
            unix_nanos()
        });
        // The clock may have been set back meanwhile.
        span.end_time_unix_nano = end.max(span.start_time_unix_nano);
        telemetry.record(span);
    }
}

fn failed(reason: &str) -> otlp::Status {
    otlp::Status { code: StatusCode::Error.into(), message: bounded(reason) }
}

fn raw(
    kind: Kind,
    (verb, name): (&str, &str),
    context: &TraceContext,
    within: Option<&TraceContext>,
) -> otlp::Span {
    let kind = match kind {
        Kind::Internal => SpanKind::Internal,
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
    };
    let name = match name {
        "" => verb.to_owned(),
        name => format!("{verb} {}", clip(name)),
    };
    otlp::Span {
        trace_id: context.trace_id().to_vec().into(),
        span_id: context.span_id().to_vec().into(),
        parent_span_id: within.map(|w| w.span_id().to_vec().into()).unwrap_or_default(),
        trace_state: context.state_text().unwrap_or_default(),
        name,
        kind: kind.into(),
        flags: SAMPLED,
        ..otlp::Span::default()
    }
}

/// A key with what is known of it.
pub(super) fn attribute(key: &str, value: Value) -> otlp::KeyValue {
    let value = match value {
        Value::StringValue(text) => Value::StringValue(bounded(&text)),
        other => other,
    };
    let value = Some(otlp::AnyValue { value: Some(value) });
    otlp::KeyValue { key: key.to_owned(), value }
}

/// A text of 256 characters at most.
fn bounded(text: &str) -> String {
    text.chars().take(256).collect()
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::StringValue(bounded(text))
    }
}

/// A count, e.g. of bytes; one that no signed number holds is the largest.
impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Value::IntValue(i64::try_from(count).unwrap_or(i64::MAX))
    }
}
