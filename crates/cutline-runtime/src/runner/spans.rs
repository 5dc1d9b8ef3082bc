//! A frame's span, as whoever sent the frame tells it: what came of it, and the parts of its time that
//! its agents reported, whether or not these tell a collector themselves.

use cutline_core::units::Nanos;

use super::{
    Answer, RunError,
    slices::{Slice, What, slices},
};
use crate::{
    stage::{chain, trace::Trace},
    telemetry::Span,
    wire::otlp::any_value::Value,
};

/// Parts of one frame that are told at most; plans have a few for each stage.
const MAX_PARTS: usize = 256;

/// Ends the time of a frame's span, and says what came of the frame. O(stages x hops).
pub fn tell(span: &mut Span, result: &Result<Answer, RunError>) {
    span.stop();
    let Some(bounds) = span.bounds() else { return };
    match result {
        Ok(answer) => {
            if let Some(route) = &answer.route {
                span.set("cutline.route", &**route);
            }
            tell_parts(span, bounds, &answer.trace);
        }
        Err(error) => span.fail(&chain(error)),
    }
}

/// The parts on this process's clock, which may not be the source agent's: what that one told is then
/// moved to end with the frame. Clocks and counters are not exact, so that nothing may stand out.
fn tell_parts(span: &Span, (began, ended): (u64, u64), trace: &Trace) {
    let Some(source) = trace.stages.first() else { return };
    let (received, sent) = (source.received_unix_ns, source.sent_unix_ns);
    let same_clock = began <= received && sent <= ended;
    let shift = if same_clock { 0 } else { i128::from(ended) - i128::from(sent) };
    let own = |unix_ns: u64| {
        let moved = (i128::from(unix_ns) + shift).clamp(began.into(), ended.into());
        u64::try_from(moved).unwrap_or(ended)
    };
    let slices = slices(trace).into_iter().filter(|slice| slice.length.0 > 0);
    for slice in slices.take(MAX_PARTS) {
        let start = own(slice.start);
        let length = own(slice.start.saturating_add(slice.length.0)).saturating_sub(start);
        let name = (slice.what.name(), slice.row.as_str());
        span.part(name, (start, Nanos(length)), attributes(&slice));
    }
}

fn attributes(slice: &Slice<'_>) -> Vec<(&'static str, Value)> {
    let device = ("cutline.device", slice.stage.device.as_str().into());
    let frames = u64::from(slice.stage.frames);
    match slice.what {
        What::Send | What::Answer => vec![("cutline.bytes", slice.bytes.into())],
        What::Compute if frames > 0 => vec![device, ("cutline.frames", frames.into())],
        What::Compute | What::Wait | What::Prepare => vec![device],
    }
}
