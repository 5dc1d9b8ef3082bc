//! Profiling on an agent: the job as it travels, and its execution while the device is otherwise
//! idle.
//!
//! The network is measured at the machine's own speed and the times are multiplied by the agent's
//! slowdown, which is both quicker and more exact than waiting for the pace.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cutline_core::{
    onnx::ImportOptions, picture::PictureSpec, profile::Profile, tensor::Shape, units::Bytes,
};
use serde::{Deserialize, Serialize};
use tonic::Status;

use super::State;
use crate::{
    engine::{MAX_THREADS, SharedEngine},
    meter::{self, Choice, Meter, MeterError, Places},
    model::Model,
    profiler::{self, EnergyJob, PictureSample, ProfileJob, Progress},
    stage::{FileSpec, chain},
};

/// Most inferences and time that a job may ask for.
const MAX_INFERENCES: u32 = 100_000;
const MAX_MILLIS: u64 = 600_000;

/// What to measure. Its files are sent before, by content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteJob {
    /// The model first, then its external data.
    pub files: Vec<FileSpec>,
    /// Shapes that the model file leaves open.
    pub input_shapes: BTreeMap<String, Shape>,
    /// Engine; absent: the one that is fastest there.
    pub engine: Option<String>,
    /// Threads; absent: the agent's own number.
    pub threads: Option<u32>,
    /// Most inferences.
    pub max_inferences: u32,
    /// Most time in inferences, in milliseconds.
    pub max_millis: u64,
    /// A picture to feed it, by the SHA-256 of its file, and how it becomes the input.
    pub picture: Option<(String, PictureSpec)>,
    /// The agent's meter that tells the network's energy: one of its own sensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<String>,
}

/// Measures while no stage computes. Blocks for the length of the measurement.
pub(super) fn run(
    state: &Arc<State>,
    job: &RemoteJob,
    progress: &mut dyn FnMut(Progress),
) -> Result<Profile, Status> {
    let engines = engines(state, job.engine.as_deref())?;
    let threads = job.threads.map_or(state.config.threads, |threads| threads as usize);
    let picture = job.picture.as_ref().map(|(sha256, spec)| sample(state, sha256, spec));
    let job_here = ProfileJob {
        threads: threads.clamp(1, MAX_THREADS),
        max_inferences: job.max_inferences.min(MAX_INFERENCES),
        max_time: Duration::from_millis(job.max_millis.min(MAX_MILLIS)),
        slowdown_permille: state.config.slowdown.permille(),
        picture: picture.transpose()?,
        memory: state.config.memory.unwrap_or(Bytes(1 << 30)),
        ..ProfileJob::default()
    };
    let path = state.store.lay_out(&job.files).map_err(|error| precondition(&error))?;
    let options = ImportOptions { input_shapes: job.input_shapes.clone() };
    let model = Model::open(&path, &options).map_err(|error| precondition(&error))?;
    let sample = job_here.picture.as_ref();
    let (engine, _) = profiler::fastest(&model, &engines, job_here.threads, sample, job_here.seed)
        .map_err(|error| precondition(&error))?;
    let meter = meter(job.meter.as_deref())?;
    if meter.is_some() && job_here.slowdown_permille != 1000 {
        let reason = "this agent imitates a slower device, whose energy is not known; profile without --meter";
        return Err(Status::failed_precondition(reason));
    }
    let mut profile = profiler::profile(&model, engine.as_ref(), &job_here, progress)
        .map_err(|error| precondition(&error))?;
    if let Some(mut meter) = meter {
        let job = EnergyJob::default();
        let energy = profiler::energy(&model, engine.as_ref(), &job_here, job, meter.as_mut());
        profile.energy = Some(energy.map_err(|error| precondition(&error))?);
    }
    Ok(profile)
}

/// A sensor of this machine. Files are none: whoever asks may not choose what is read here.
fn meter(name: Option<&str>) -> Result<Option<Box<dyn Meter>>, Status> {
    let Some(name) = name else { return Ok(None) };
    let choice: Choice = name.parse().map_err(|error: MeterError| precondition(&error))?;
    if matches!(choice, Choice::Csv(_)) {
        return Err(Status::invalid_argument(
            "an agent plays no recordings; profile on its machine, with --meter csv:FILE there",
        ));
    }
    let opened = meter::open(&choice, &Places::default());
    opened.map(Some).map_err(|error| precondition(&error))
}

pub(super) fn engines(state: &State, name: Option<&str>) -> Result<Vec<SharedEngine>, Status> {
    let all = &state.config.engines;
    let Some(name) = name else { return Ok(all.clone()) };
    let found: Vec<_> = all.iter().filter(|engine| engine.name() == name).cloned().collect();
    if found.is_empty() {
        let here: Vec<&str> = all.iter().map(|engine| engine.name()).collect();
        let reason = format!("this agent has no engine `{name}`; it has {}", here.join(", "));
        return Err(Status::failed_precondition(reason));
    }
    Ok(found)
}

fn sample(state: &State, sha256: &str, spec: &PictureSpec) -> Result<PictureSample, Status> {
    let path = state.store.path(sha256);
    let path = path.ok_or_else(|| Status::failed_precondition("the picture was not sent"))?;
    let file = std::fs::read(path).map_err(|error| Status::internal(error.to_string()))?;
    Ok(PictureSample { file: file.into(), spec: spec.clone() })
}

pub(super) fn precondition(error: &dyn std::error::Error) -> Status {
    Status::failed_precondition(chain(error))
}
