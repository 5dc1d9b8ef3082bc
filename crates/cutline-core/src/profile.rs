//! `profile.json`: what was measured of one model on one device with one engine.
//!
//! A profile is keyed by everything that changes a time: model, hardware, engine and its version,
//! threads, precision. It holds the measured segments as they were measured, and the group times
//! fitted to them ([`fit`](crate::fit)).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Microwatts, Nanojoules, Nanos};

/// What a set of measurements belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProfileKey {
    /// SHA-256 of the model file, in hex.
    pub model_sha256: String,
    /// Processor as it names itself.
    pub hardware: String,
    /// Engine name, e.g. `rten`.
    pub engine: String,
    /// Its version.
    pub engine_version: String,
    /// Threads it computed with.
    pub threads: u32,
    /// Numeric type of the computation: `fp32`, `fp16`, `int8`.
    pub precision: String,
}

/// Which part of the network a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Everything before the cut.
    Prefix,
    /// Everything after it.
    Suffix,
    /// The whole network; it has no cut.
    Whole,
}

/// A median with its spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Median of the runs.
    pub median_ns: Nanos,
    /// Tenth percentile.
    pub p10_ns: Nanos,
    /// Ninetieth percentile.
    pub p90_ns: Nanos,
    /// How many runs.
    pub count: u32,
}

/// One measured part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Prefix, suffix or whole.
    pub part: Part,
    /// Names of the values of the cut; empty for the whole.
    pub cut: Vec<String>,
    /// Measured time of one engine call.
    pub timing: Timing,
    /// What the fitted table says of the same part.
    pub fitted_ns: Nanos,
}

/// Fitted time of one group, named after its first layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTime {
    /// Name of the group.
    pub name: String,
    /// Its share of a stage's time.
    pub time_ns: Nanos,
}

/// Time to make the network's input from a picture, by input encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareTime {
    /// At the sender: from the picture file to the bytes that travel (`fp32`: the input tensor).
    pub encode_ns: Nanos,
    /// At the receiver: from those bytes to the network's input tensor.
    pub decode_ns: Nanos,
    /// Bytes that travel.
    pub bytes: Bytes,
}

/// Version of the profile format that this program writes. Version 1 lacks `coding`.
pub const PROFILE_VERSION: u32 = 2;

/// Time of one half of a codec: affine in the declared bytes that are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodingTime {
    /// Whatever the size.
    pub fixed_ns: Nanos,
    /// Of 1000 declared bytes.
    pub per_kb_ns: Nanos,
}

/// What a codec adds to the stages at both ends of a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodecTime {
    /// At the sender.
    pub encode: CodingTime,
    /// At the receiver.
    pub decode: CodingTime,
}

/// Measurements of one model on one device with one engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Format version: 2, or 1 where nothing is known of codecs.
    pub version: u32,
    /// What it was measured on.
    pub key: ProfileKey,
    /// File name of the model, for people.
    pub model: String,
    /// Pace of the device in thousandths: 1000 is the machine itself, 4000 a device four times
    /// slower. The times below are already multiplied by it.
    pub slowdown_permille: u64,
    /// Fixed time of an engine call, e.
    pub call_ns: Nanos,
    /// Fitted times, in topological order; a group that the engine cannot run is absent.
    pub groups: Vec<GroupTime>,
    /// Layers that the engine cannot run.
    pub unsupported: Vec<String>,
    /// What the fit rests on.
    pub segments: Vec<Segment>,
    /// Median of |fitted - measured| / measured over the segments, in thousandths.
    pub residual_permille: u64,
    /// Picture preparation, by encoding name (`jpeg`, `uint8`, `fp32`); empty when no picture was given.
    pub prepare: BTreeMap<String, PrepareTime>,
    /// What encoding the values of a cut takes, by name of the codec (`fp16`, `uint8`, `bits8` …); a codec that
    /// the engine cannot run is absent.
    #[serde(default)]
    pub coding: BTreeMap<String, CodecTime>,
    /// Resident memory of the engine without any model's weights.
    pub engine_bytes: Bytes,
    /// Memory that the whole network takes, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<NetworkMemory>,
    /// What a meter said of the whole network, where one was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<MeasuredEnergy>,
    /// Where the times were not measured: how they were predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Prediction>,
}

/// Memory of the whole network, one frame at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkMemory {
    /// The most that a process takes while the network runs, beyond `engine_bytes`; what loading it
    /// takes for a moment is not in it.
    pub network_bytes: Bytes,
    /// What the cost model counts of it: parameters and the largest sum of live values.
    pub counted_bytes: Bytes,
    /// Where it was not measured: how far such predictions are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<MemoryError>,
}

impl NetworkMemory {
    /// What the engine takes besides what is counted.
    pub fn beyond(&self) -> Bytes {
        self.network_bytes - self.counted_bytes
    }
}

/// Errors of predicted memory: |predicted - measured| / measured of networks whose family was left
/// out, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryError {
    /// The median.
    pub median_permille: u64,
    /// The mean.
    pub mean_permille: u64,
    /// Of how many networks.
    pub count: u32,
}

/// Energy of the whole network by a meter: run after run, with nothing in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredEnergy {
    /// Name of the meter: `rapl`, `ina3221`, `pmic`, `csv`.
    pub meter: String,
    /// What its energy is the energy of.
    pub covers: String,
    /// All that this took during one inference, in nanojoule; what it takes idle is part of it.
    pub inference_nj: Nanojoules,
    /// What it took before, with the network loaded and nothing to do, in microwatt.
    pub idle_uw: Microwatts,
    /// Inferences that were metered.
    pub inferences: u32,
    /// Time that they took together.
    pub time_ns: Nanos,
}

/// Where predicted times come from, and how far such predictions are off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// Names of the files of measured kernels.
    pub from: Vec<String>,
    /// Median of |predicted - measured| / measured of what was left out of the fit, in thousandths.
    pub median_permille: u64,
    /// Its mean.
    pub mean_permille: u64,
    /// How many predictions these errors rest on.
    pub count: u32,
    /// Whether they are of whole networks, of families that the fit had not seen; else of kernels.
    pub of_networks: bool,
}

/// `link.json`: time of a message against its size, measured over the protocol that carries tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTable {
    /// Format version: 1.
    pub version: u32,
    /// One-way times of a message in the direction first to second, by size ascending.
    pub up: Vec<LinkPoint>,
    /// The same in the other direction.
    pub down: Vec<LinkPoint>,
}

/// One measured message size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPoint {
    /// Payload of the message.
    pub bytes: Bytes,
    /// Time from the sender's call to the receiver's handler.
    pub timing: Timing,
}
