//! A sweep of kernels on an agent: what is asked for as it travels, and its measurement while the
//! device is otherwise idle.
//!
//! As with [profiles](super::profile), what is measured runs at the machine's own speed and its times
//! are multiplied by the agent's slowdown. Whoever asks names how many kernels, and networks of the
//! zoo by name and size, never a file.

use std::{sync::Arc, time::Duration};

use cutline_core::{
    predict::{Sample, Sweep},
    units::Bytes,
    zoo::{self, kernel},
};
use serde::{Deserialize, Serialize};
use tonic::Status;

use super::{State, profile};
use crate::{
    engine::MAX_THREADS,
    profiler::{self, Progress, SweepJob},
};

/// Most of everything that may be asked for.
const MAX_KERNELS: u32 = 4096;
const MAX_NETWORKS: usize = 64;
const MAX_PIXELS: u32 = 1024;
const MAX_ROUNDS: u32 = 1000;
const MAX_TIME: Duration = Duration::from_secs(3600);

/// What to measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteSweep {
    /// Engine of the agent.
    pub engine: String,
    /// Threads; absent: the agent's own number.
    pub threads: Option<u32>,
    /// Kernels.
    pub kernels: u32,
    /// Networks of the zoo, with rows and columns of their input where these are not the usual ones.
    pub networks: Vec<(String, Option<u32>)>,
    /// Turns of each.
    pub rounds: u32,
    /// Most time to spend, in milliseconds.
    pub max_millis: u64,
}

/// The samples of a sweep: always the same kernels, then the networks.
pub fn samples(kernels: usize, networks: &[(String, Option<u32>)]) -> Vec<Sample> {
    let kernels = kernel::sweep(kernels, 1)
        .into_iter()
        .map(|kernel| Sample::Kernel { copies: kernel.copies(), kernel });
    let networks = networks.iter().map(|(network, input_size)| Sample::Network {
        network: network.clone(),
        input_size: *input_size,
    });
    kernels.chain(networks).collect()
}

impl RemoteSweep {
    fn check(&self) -> Result<(), Status> {
        let refused = |reason: String| Err(Status::invalid_argument(reason));
        if self.kernels > MAX_KERNELS || self.networks.len() > MAX_NETWORKS {
            return refused(format!(
                "{} kernels and {} networks; at most {MAX_KERNELS} and {MAX_NETWORKS} are measured",
                self.kernels,
                self.networks.len()
            ));
        }
        for (name, size) in &self.networks {
            if size.is_some_and(|size| size > MAX_PIXELS) {
                return refused(format!("a network of more than {MAX_PIXELS} pixels a side"));
            }
            if let Err(error) = zoo::outline(name, *size) {
                return refused(error.to_string());
            }
        }
        Ok(())
    }
}

/// Measures while no stage computes. Blocks for the length of the measurement.
pub(super) fn run(
    state: &Arc<State>,
    job: &RemoteSweep,
    progress: &mut dyn FnMut(Progress),
) -> Result<Sweep, Status> {
    job.check()?;
    let engines = profile::engines(state, Some(&job.engine))?;
    let threads = job.threads.map_or(state.config.threads, |threads| threads as usize);
    let defaults = SweepJob::default();
    let sweep = SweepJob {
        threads: threads.clamp(1, MAX_THREADS),
        rounds: job.rounds.clamp(1, MAX_ROUNDS),
        max_time: Duration::from_millis(job.max_millis).min(MAX_TIME),
        // Half of what there is: models take more in an engine than in their file.
        memory: state.config.memory.map_or(defaults.memory, |memory| Bytes(memory.0 / 2)),
        slowdown_permille: state.config.slowdown.permille(),
        ..defaults
    };
    let samples = samples(job.kernels as usize, &job.networks);
    let measured = profiler::sweep(&samples, engines[0].as_ref(), &sweep, progress);
    measured.map_err(|error| profile::precondition(&error))
}
