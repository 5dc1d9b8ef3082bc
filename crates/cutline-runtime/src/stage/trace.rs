//! Where the time of one frame went: stages and hops, as every agent on its way saw them.
//!
//! A request that carries the parameter `cutline.trace` = true gets the trace back as JSON under
//! the same name. Times of one way of a hop rest on the clock offset between its two agents.

use std::collections::{BTreeMap, BTreeSet};

use cutline_core::units::Nanos;
use serde::{Deserialize, Serialize};

/// Request parameter that asks for a trace, and response parameter that carries it.
pub const TRACE_PARAMETER: &str = "cutline.trace";

/// The way of one frame, in the order in which it went; branches that ran at the same time stand one
/// after another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Stages, the source first.
    pub stages: Vec<StageTrace>,
    /// How each stage but the first was called, in their order. Empty where all ran in one process.
    pub hops: Vec<HopTrace>,
}

impl Trace {
    /// Adds what the first stage called, and how.
    pub fn add(&mut self, called: Trace, hop: HopTrace) {
        let offset = self.stages.len();
        self.stages.extend(called.stages);
        self.hops.push(HopTrace { from: 0, into: offset, ..hop });
        let later = called.hops.into_iter();
        self.hops.extend(later.map(|hop| HopTrace {
            from: hop.from + offset,
            into: hop.into + offset,
            ..hop
        }));
    }

    /// The stages that a hop joins; `None` for one that an agent got wrong.
    pub fn ends(&self, hop: &HopTrace) -> Option<(&StageTrace, &StageTrace)> {
        Some((self.stages.get(hop.from)?, self.stages.get(hop.into)?))
    }

    /// Positions of stages that the frame did not wait for, because a branch beside them took longer.
    pub fn beside(&self) -> BTreeSet<usize> {
        let mut slowest: BTreeMap<usize, &HopTrace> = BTreeMap::new();
        let branches = self.hops.iter().filter(|hop| hop.branch);
        for hop in branches.clone() {
            let slowest = slowest.entry(hop.from).or_insert(hop);
            if hop.round_trip_ns > slowest.round_trip_ns {
                *slowest = hop;
            }
        }
        let waited = |hop: &HopTrace| slowest.get(&hop.from).is_some_and(|s| s.into == hop.into);
        branches.filter(|hop| !waited(hop)).map(|hop| hop.into).collect()
    }
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
    /// Reading the request's message before that, once its last byte was here; 0 where an older agent
    /// does not say.
    #[serde(default)]
    pub decode_ns: Nanos,
    /// Waiting for the device to be free.
    pub queue_ns: Nanos,
    /// Picture preparation, pacing included.
    pub prepare_ns: Nanos,
    /// The engine's call, pacing included; of frames that were computed together the whole time.
    pub compute_ns: Nanos,
    /// How many frames were computed together; 0 where an older agent does not say.
    #[serde(default)]
    pub frames: u32,
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

/// One passage between two stages and back; it takes no time between stages of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopTrace {
    /// Position of the stage that calls.
    pub from: usize,
    /// Position of the stage that is called.
    pub into: usize,
    /// Whether other stages may be called at the same time, and the answer goes on from here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub branch: bool,
    /// When the call began, on the caller's clock; 0 where an older agent does not say.
    #[serde(default)]
    pub began_unix_ns: u64,
    /// From the call to the whole answer, on the caller's clock.
    pub round_trip_ns: Nanos,
    /// From the call until the next agent had the whole request, its message written and read.
    pub upload_ns: Nanos,
    /// From its finished answer until the caller had it, its message written and read.
    pub download_ns: Nanos,
    /// Writing the request's message; 0 where an older agent does not say.
    #[serde(default)]
    pub encode_ns: Nanos,
    /// Reading the answer's message; 0 where an older agent does not say.
    #[serde(default)]
    pub decode_ns: Nanos,
    /// Tensor bytes sent.
    pub bytes_up: u64,
    /// Tensor bytes that came back.
    pub bytes_down: u64,
}
