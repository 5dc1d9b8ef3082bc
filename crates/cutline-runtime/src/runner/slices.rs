//! A frame's time taken apart: who did what from when to when, on the clock of the source's agent, by
//! what each hop tells of its two ways.

use cutline_core::units::Nanos;

use crate::stage::trace::{HopTrace, StageTrace, Trace};

/// A piece of a frame's time.
#[derive(Debug)]
pub(super) struct Slice<'a> {
    /// Place of its row in a frame's order; 0 is the frame's own.
    pub(super) place: usize,
    /// The stage, or the two devices of a link.
    pub(super) row: String,
    pub(super) what: What,
    /// Nanoseconds since 1970.
    pub(super) start: u64,
    pub(super) length: Nanos,
    /// The stage that computes, or that is called.
    pub(super) stage: &'a StageTrace,
    /// Tensor bytes of a message.
    pub(super) bytes: u64,
}

/// What a piece of time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Wait,
    Prepare,
    Compute,
    Send,
    Answer,
}

impl What {
    pub(super) fn name(self) -> &'static str {
        match self {
            What::Wait => "queue",
            What::Prepare => "prepare",
            What::Compute => "compute",
            What::Send => "send",
            What::Answer => "answer",
        }
    }
}

/// A frame's slices, stage by stage: messages between two devices, and what takes time on one.
pub(super) fn slices(trace: &Trace) -> Vec<Slice<'_>> {
    let Some(source) = trace.stages.first() else { return Vec::new() };
    let mut slices = Vec::new();
    // When each stage had the whole request.
    let mut received = vec![source.received_unix_ns; trace.stages.len()];
    for (at, stage) in trace.stages.iter().enumerate() {
        let called = trace.hops.iter().find(|hop| hop.into == at);
        match called.and_then(|hop| Some((hop, trace.ends(hop)?.0))) {
            Some((hop, caller)) => {
                // The caller's clock, put on the source's like everything that this stage tells.
                let since = hop.began_unix_ns.saturating_sub(caller.received_unix_ns);
                let began = received[hop.from].saturating_add(since);
                received[at] = began.saturating_add(hop.upload_ns.0);
                slices.extend(messages(at, began, hop, (caller, stage)));
            }
            // Stages without hops between them ran one after another in one process.
            None if at > 0 => {
                let before = trace.stages[at - 1].total_ns().0;
                received[at] = received[at - 1].saturating_add(before);
            }
            None => {}
        }
        let mut start = received[at];
        for (what, length) in [
            (What::Wait, stage.queue_ns),
            (What::Prepare, stage.prepare_ns),
            (What::Compute, stage.compute_ns),
        ] {
            // A stage without a picture prepares nothing.
            if length > Nanos::ZERO {
                let (place, row) = (1 + 3 * at, stage.name.clone());
                slices.push(Slice { place, row, what, start, length, stage, bytes: 0 });
            }
            start = start.saturating_add(length.0);
        }
    }
    slices
}

/// Both ways of a hop; what stays on a device crosses no link.
fn messages<'a>(
    at: usize,
    began: u64,
    hop: &HopTrace,
    (caller, stage): (&'a StageTrace, &'a StageTrace),
) -> Vec<Slice<'a>> {
    if caller.device == stage.device {
        return Vec::new();
    }
    let end = began.saturating_add(hop.round_trip_ns.0);
    let back = end.saturating_sub(hop.download_ns.0);
    let message = |before, what, (from, to): (&str, &str), start, length, bytes| {
        let row = format!("{from} to {to}");
        Slice { place: 1 + 3 * at - before, row, what, start, length, stage, bytes }
    };
    let (near, far) = (caller.device.as_str(), stage.device.as_str());
    vec![
        message(2, What::Send, (near, far), began, hop.upload_ns, hop.bytes_up),
        message(1, What::Answer, (far, near), back, hop.download_ns, hop.bytes_down),
    ]
}
