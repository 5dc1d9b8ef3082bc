//! Times of networks that were never run, from kernels and other networks that were.
//!
//! A [`Sweep`] is what was measured on one device with one engine: single kernels, and networks of
//! the zoo as wholes.

mod work;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use work::{Kind, Work, works};

use crate::{
    group::{Grouping, group},
    onnx::{ImportOptions, import, proto::ModelProto},
    units::Nanos,
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
    /// What was measured.
    pub samples: Vec<Measured>,
}

/// Why nothing can be predicted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum PredictError {
    #[error("sample {0} of the sweep is a kernel that cannot be; measure it again")]
    Kernel(usize),
    #[error("sample {0} of the sweep is of a network that the zoo does not have in that size")]
    Network(usize),
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

/// A model as groups, and the work of each.
pub fn analyse(model: &ModelProto) -> Option<(Grouping, Vec<Vec<Work>>)> {
    let graph = import(model, &ImportOptions::default()).ok()?;
    let grouping = group(&graph);
    let works = works(&graph, &grouping);
    Some((grouping, works))
}
