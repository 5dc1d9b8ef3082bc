//! Times of networks that were never run, from kernels and other networks that were.
//!
//! A [`Sweep`] is what was measured on one device with one engine: single kernels, and networks of
//! the zoo as wholes. A [`Model`] is the law that explains it, with its error on networks of families
//! that it has not seen, and says of any network what its groups take: a [`profile`] like a measured
//! one, which says that it was predicted.
//!
//! Sources: operator class, multiply-accumulates, bytes and shape of fused kernels, fitted for
//! relative error, are the idea of nn-Meter (L. L. Zhang et al., MobiSys 2021); the sum of work and
//! bytes is a roofline (S. Williams, A. Waterman, D. Patterson, CACM 52, 2009) without its corner.

use std::collections::BTreeMap;

mod memory;
mod model;
mod work;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use memory::{Counted, MemoryModel};
pub use model::{HeldOut, Model, Validation};
pub use work::{Kind, Work, works};

use crate::{
    graph::Graph,
    group::{Grouping, group},
    onnx::{ImportOptions, import, proto::ModelProto},
    profile::{GroupTime, PROFILE_VERSION, Prediction, Profile, ProfileKey},
    units::{Bytes, Nanos},
    zoo::{
        self,
        kernel::{Kernel, MOST_COPIES},
    },
};

/// Version of the sweep's format.
pub const SWEEP_VERSION: u32 = 1;

/// Something that is measured to learn from: it can be made anew from its description alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sample {
    /// The time of one more copy of a kernel: that of a network with many less that with one, by
    /// the number of copies more.
    Kernel {
        /// The kernel.
        kernel: Kernel,
        /// Copies in the larger network; at least 2.
        copies: u64,
    },
    /// The time of a network of the zoo.
    Network {
        /// Its name in the zoo.
        network: String,
        /// Rows and columns of its input; the usual ones where absent.
        input_size: Option<u32>,
    },
}

/// A sample with its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// What was measured.
    #[serde(flatten)]
    pub sample: Sample,
    /// Its median time.
    pub time_ns: Nanos,
    /// Of a network: the most that a process takes more while it runs than before it was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Bytes>,
}

/// `kernels.json`: what was measured on one device with one engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// Format version: 1.
    pub version: u32,
    /// Processor as it names itself.
    pub hardware: String,
    /// Engine name.
    pub engine: String,
    /// Its version.
    pub engine_version: String,
    /// Threads that it computed with.
    pub threads: u32,
    /// What the process took before it had loaded anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_bytes: Option<Bytes>,
    /// What was measured.
    pub samples: Vec<Measured>,
}

/// Why nothing can be predicted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum PredictError {
    #[error("the sweep has no samples; measure one with `cutline kernels`")]
    Empty,
    #[error("sweep version {0} is not known; this program reads version 1")]
    Version(u32),
    #[error("the sweep has {0} samples, more than {MOST_SAMPLES}")]
    Large(usize),
    #[error(
        "sample {0} of the sweep is a kernel or a network that cannot be; measure it again with this version"
    )]
    Sample(usize),
    #[error("sample {0} of the sweep took no time")]
    NoTime(usize),
    #[error("the sweeps are of {0} and of {1}; predict from sweeps of one device with one engine")]
    Mixed(String, String),
}

/// Most samples that are read.
const MOST_SAMPLES: usize = 10_000;

impl Sweep {
    /// Whether it can be read, and is of the same device and engine as another.
    fn check(&self, other: &Sweep) -> Result<(), PredictError> {
        if self.version != SWEEP_VERSION {
            return Err(PredictError::Version(self.version));
        }
        if self.samples.len() > MOST_SAMPLES {
            return Err(PredictError::Large(self.samples.len()));
        }
        match (self.subject(), other.subject()) {
            (here, there) if here != there => Err(PredictError::Mixed(there, here)),
            _ => Ok(()),
        }
    }

    /// Device, engine and threads, for people.
    pub fn subject(&self) -> String {
        let Self { hardware, engine, engine_version, threads, .. } = self;
        format!("{hardware} with {engine} {engine_version}, {threads} threads")
    }
}

/// The family of a network by its name: what stands before its first digit, without the `v` of a
/// version. ResNet-18 and ResNet-101 are one family, and so are all MobileNets.
pub fn family(network: &str) -> &str {
    let letters = network.split(|c: char| c.is_ascii_digit() || c == '-').next();
    let letters = letters.unwrap_or(network);
    match letters.strip_suffix('v') {
        Some(stem) if letters.len() < network.len() => stem,
        _ => letters,
    }
}

impl Sample {
    /// The networks to run, without weights: of a kernel with one copy and with many, or the one.
    /// `None` where the sample cannot be.
    pub fn outlines(&self) -> Option<Vec<ModelProto>> {
        match self {
            Self::Kernel { kernel, copies } => {
                let sound = kernel.is_sound() && (2..=MOST_COPIES).contains(copies);
                sound.then(|| vec![kernel.outline(1), kernel.outline(*copies)])
            }
            Self::Network { network, input_size } => {
                zoo::outline(network, *input_size).ok().map(|model| vec![model])
            }
        }
    }

    /// The same with random weights, to be run.
    pub fn models(&self, seed: u64) -> Option<Vec<ModelProto>> {
        match self {
            Self::Kernel { kernel, copies } => {
                let sound = kernel.is_sound() && (2..=MOST_COPIES).contains(copies);
                sound.then(|| vec![kernel.build(1, seed), kernel.build(*copies, seed)])
            }
            Self::Network { network, input_size } => {
                let options = zoo::ZooOptions { input_size: *input_size, seed };
                zoo::build(network, &options).ok().map(|model| vec![model])
            }
        }
    }

    /// Its time, of the times of its networks; `None` where they say nothing.
    pub fn time(&self, times: &[Nanos]) -> Option<Nanos> {
        let time = match (self, times) {
            (Self::Kernel { copies, .. }, [one, many]) => {
                Nanos(many.0.saturating_sub(one.0) / copies.saturating_sub(1).max(1))
            }
            (Self::Network { .. }, [time]) => *time,
            _ => return None,
        };
        (time > Nanos::ZERO).then_some(time)
    }
}

/// A profile of a network that was never run: times of its groups as the model of a device predicts
/// them, from sweeps of these names, and its memory where that is known. Parts are predicted too, as
/// every part is the sum of its groups.
pub fn profile(
    (model, memory): (&Model, Option<&MemoryModel>),
    sweep: &Sweep,
    from: Vec<String>,
    (graph, grouping): (&Graph, &Grouping),
    model_sha256: String,
) -> Profile {
    let works = works(graph, grouping);
    let groups = grouping.dag.groups().iter().zip(&works);
    let Validation { median_permille, mean_permille, count, of_networks } = model.validation;
    Profile {
        version: PROFILE_VERSION,
        key: ProfileKey {
            model_sha256,
            hardware: sweep.hardware.clone(),
            engine: sweep.engine.clone(),
            engine_version: sweep.engine_version.clone(),
            threads: sweep.threads,
            precision: "fp32".to_owned(),
        },
        model: String::new(),
        slowdown_permille: 1000,
        call_ns: model.call(),
        groups: groups
            .map(|(group, works)| GroupTime {
                name: group.name.clone(),
                time_ns: model.group(works),
            })
            .collect(),
        unsupported: Vec::new(),
        segments: Vec::new(),
        residual_permille: 0,
        prepare: BTreeMap::new(),
        coding: BTreeMap::new(),
        engine_bytes: sweep.engine_bytes.unwrap_or(Bytes::ZERO),
        memory: memory.map(|memory| memory.network(&grouping.dag)),
        energy: None,
        predicted: Some(Prediction {
            from,
            median_permille,
            mean_permille,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            of_networks,
        }),
    }
}

/// The groups with layers of which no sample has the like: these layers count as no time, so that
/// whatever holds them is predicted too short.
pub fn unknown<'a>(model: &Model, graph: &Graph, grouping: &'a Grouping) -> Vec<&'a str> {
    let works = works(graph, grouping);
    let groups = grouping.dag.groups().iter().zip(&works);
    let unknown = groups.filter(|(_, works)| !works.iter().all(|work| model.knows(work)));
    unknown.map(|(group, _)| group.name.as_str()).collect()
}

/// A model as groups, and the work of each.
pub fn analyse(model: &ModelProto) -> Option<(Grouping, Vec<Vec<Work>>)> {
    let graph = import(model, &ImportOptions::default()).ok()?;
    let grouping = group(&graph);
    let works = works(&graph, &grouping);
    Some((grouping, works))
}

#[cfg(test)]
mod tests;
