//! Where the time of one frame went: stages and hops, as every agent on its way saw them.
//!
//! A request that carries the parameter `cutline.trace` = true gets the trace back as JSON under
//! the same name. Times of one way of a hop rest on the clock offset between its two agents.

use cutline_core::units::Nanos;
use serde::{Deserialize, Serialize};

/// Request parameter that asks for a trace, and response parameter that carries it.
pub const TRACE_PARAMETER: &str = "cutline.trace";

/// The way of one frame, in the order in which it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Stages, the source first.
    pub stages: Vec<StageTrace>,
    /// Hops: the k-th leads from the k-th stage to the next.
    pub hops: Vec<HopTrace>,
}

/// One stage's share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTrace {
    /// Stage name.
    pub name: String,
    /// Device name.
    pub device: String,
    /// When the agent had the whole request, on its own clock.
    pub received_unix_ns: u64,
    /// Waiting for the device to be free.
    pub queue_ns: Nanos,
    /// Picture preparation, pacing included.
    pub prepare_ns: Nanos,
    /// The engine's call, pacing included.
    pub compute_ns: Nanos,
    /// When the agent had its answer ready, on its own clock.
    pub sent_unix_ns: u64,
    /// Tensor bytes received.
    pub bytes_in: u64,
    /// Tensor bytes answered.
    pub bytes_out: u64,
}

impl StageTrace {
    /// From the whole request to the finished answer, later stages included.
    pub fn total_ns(&self) -> Nanos {
        Nanos(self.sent_unix_ns.saturating_sub(self.received_unix_ns))
    }
}

/// One passage between two stages and back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopTrace {
    /// When the call began, on the caller's clock; 0 where an older agent does not say.
    #[serde(default)]
    pub began_unix_ns: u64,
    /// From the call to the whole answer, on the caller's clock.
    pub round_trip_ns: Nanos,
    /// From the call until the next agent had the whole request.
    pub upload_ns: Nanos,
    /// From its finished answer until the caller had it.
    pub download_ns: Nanos,
    /// Tensor bytes sent.
    pub bytes_up: u64,
    /// Tensor bytes that came back.
    pub bytes_down: u64,
}
