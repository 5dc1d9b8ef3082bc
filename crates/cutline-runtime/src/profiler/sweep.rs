//! Measuring what predictions are learnt from: kernels and whole networks, in turn.

use std::{
    fs,
    time::{Duration, Instant},
};

use cutline_core::{
    onnx::{ImportOptions, import},
    predict::{Measured, SWEEP_VERSION, Sample, Sweep},
    units::{self, Nanos},
};
use prost::Message;

use super::{
    ProfileError, Progress,
    inputs::Random,
    machine::{hardware, slowed},
    memory::Before,
    parts::{Ready, stage},
    sample_inputs,
};
use crate::{
    engine::{Engine, EngineError, ModelSource},
    stats,
};

/// How to measure a sweep.
#[derive(Clone, Copy, Debug)]
pub struct SweepJob {
    /// Threads of the engine.
    pub threads: usize,
    /// Turns of each network.
    pub rounds: u32,
    /// Rest before every run.
    pub pause: Duration,
    /// Most time to spend: what has not had its turns by then is left out.
    pub max_time: Duration,
    /// Models that are loaded at the same time, by the size of their files.
    pub memory: units::Bytes,
    /// Pace of the device in thousandths; all times are multiplied by it.
    pub slowdown_permille: u64,
    /// Seed of weights, inputs, and of the order of the runs.
    pub seed: u64,
}

impl Default for SweepJob {
    /// One thread, nine rounds, rests of 3 ms, half an hour, 1.5 GB of models at a time, unpaced.
    fn default() -> Self {
        Self {
            threads: 1,
            rounds: 9,
            pause: Duration::from_millis(3),
            max_time: Duration::from_secs(1800),
            memory: units::Bytes(1_500_000_000),
            slowdown_permille: 1000,
            seed: 1,
        }
    }
}

/// Runs that take longer than this have no uncounted one before them: what others left in the
/// caches matters little to them.
const LONG: Nanos = Nanos(50_000_000);

/// One network of a sample.
struct Running {
    sample: usize,
    part: Ready,
    expected: Nanos,
    times: Vec<Nanos>,
}

/// Measures samples in random order; those that the engine cannot run are left out.
pub fn sweep(
    samples: &[Sample],
    engine: &dyn Engine,
    job: &SweepJob,
    progress: &mut dyn FnMut(Progress),
) -> Result<Sweep, ProfileError> {
    let mut random = Random::new(job.seed);
    let mut order: Vec<usize> = (0..samples.len()).collect();
    random.shuffle(&mut order);
    let total = u32::try_from(samples.len()).unwrap_or(u32::MAX).saturating_mul(job.rounds);
    let mut times: Vec<Vec<Nanos>> = vec![Vec::new(); samples.len()];
    let mut memories: Vec<Option<units::Bytes>> = vec![None; samples.len()];
    let engine_bytes = Before::now().bytes();
    let (mut loaded, mut held, mut done) = (Vec::new(), 0, 0);
    let started = Instant::now();
    let is_over = || started.elapsed() >= job.max_time;
    for (position, &index) in order.iter().enumerate() {
        let (bytes, memory) = load(&samples[index], index, engine, job, &mut loaded)?;
        held += bytes;
        memories[index] = memory;
        if held < job.memory.0 && position + 1 < order.len() && !is_over() {
            continue;
        }
        let share = u32::try_from(position + 1).unwrap_or(u32::MAX).saturating_mul(job.rounds);
        let step = (share - done) / job.rounds.max(1);
        for at in 0..job.rounds {
            // What is loaded has one round in any case.
            if at > 0 && is_over() {
                break;
            }
            round(&mut loaded, job, &mut random)?;
            done += step;
            progress(Progress { done, total });
        }
        loaded.sort_by_key(|running: &Running| running.sample);
        for mut running in loaded.drain(..) {
            let time = stats::median(&mut running.times);
            times[running.sample].extend(time.map(|time| slowed(time, job.slowdown_permille)));
        }
        held = 0;
        if is_over() {
            break;
        }
    }
    let measured = samples.iter().zip(&times).zip(memories);
    let measured = measured.filter_map(|((sample, times), memory_bytes)| {
        Some(Measured { sample: sample.clone(), time_ns: sample.time(times)?, memory_bytes })
    });
    Ok(Sweep {
        version: SWEEP_VERSION,
        hardware: hardware(),
        engine: engine.name().to_owned(),
        engine_version: engine.version().to_owned(),
        threads: u32::try_from(job.threads).unwrap_or(u32::MAX),
        engine_bytes: (engine_bytes > units::Bytes::ZERO).then_some(engine_bytes),
        samples: measured.collect(),
    })
}

/// Loads the networks of a sample: the bytes of their files, and of a network of the zoo the memory
/// that it takes.
fn load(
    sample: &Sample,
    index: usize,
    engine: &dyn Engine,
    job: &SweepJob,
    loaded: &mut Vec<Running>,
) -> Result<(u64, Option<units::Bytes>), ProfileError> {
    let (mut held, mut memory) = (0, None);
    let first = loaded.len();
    for model in sample.models(job.seed).unwrap_or_default() {
        let Ok(graph) = import(&model, &ImportOptions::default()) else { continue };
        let feeds = sample_inputs(&graph, None, job.seed)?;
        // From a file, as agents load it.
        let folder = tempfile::tempdir().map_err(ProfileError::Write)?;
        let file = folder.path().join("model.onnx");
        let bytes = model.encode_to_vec();
        drop(model);
        held += bytes.len() as u64;
        fs::write(&file, bytes).map_err(ProfileError::Write)?;
        let is_network = matches!(sample, Sample::Network { .. });
        let before = is_network.then(Before::now);
        let session = match stage(engine, &ModelSource::File(file), job.threads) {
            Ok(session) => session,
            Err(EngineError::Unsupported { .. }) => {
                loaded.truncate(first);
                return Ok((0, None));
            }
            Err(error) => return Err(error.into()),
        };
        let outputs = graph.outputs().iter().map(|&id| graph.value(id).name.clone()).collect();
        let mut part = Ready { session, feeds: feeds.into_iter().collect(), outputs };
        let mut expected = part.time()?.0;
        if let Some(before) = before {
            memory = before.peak(|| {
                expected = part.time()?.0;
                Ok::<(), EngineError>(())
            })?;
        }
        loaded.push(Running { sample: index, part, expected, times: Vec::new() });
    }
    Ok((held, memory))
}

/// Every network once: a run that is not counted, then two that are.
fn round(loaded: &mut [Running], job: &SweepJob, random: &mut Random) -> Result<(), EngineError> {
    let mut order: Vec<usize> = (0..loaded.len()).collect();
    random.shuffle(&mut order);
    for index in order {
        let running = &mut loaded[index];
        let (uncounted, counted) = if running.expected > LONG { (0, 1) } else { (1, 2) };
        for run in 0..uncounted + counted {
            std::thread::sleep(job.pause);
            let time = running.part.time()?.0;
            if run >= uncounted {
                running.times.push(time);
            }
        }
    }
    Ok(())
}
