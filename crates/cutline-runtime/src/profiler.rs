//! Measures a network on this device with one engine, and fits the times of its groups.
//!
//! What is timed is what a plan will run: the two sub-models of a cut, as the splitter writes them,
//! each fed the very values that the other part or the picture would give it. Loading is not timed.
//! Parts are run in turn, in an order that is shuffled for every round, so that a drift of the
//! machine's speed hits all of them alike. As in service, a part has several frames in a row, of
//! which the first finds the caches full of other parts and is not counted, and each frame finds
//! the device idle for a while: a processor that is kept busy runs faster than one that is woken.
//! The rests also spread the runs over more of the machine's good and bad moments.
//!
//! ```text
//! whole ─ 3 runs ─► how many cuts the budget bears ─► all parts, round after round ─► fit
//! ```

use std::{collections::BTreeMap, thread, time::Duration};

use cutline_core::{
    cut::{Cut, candidate_cuts},
    dag::Dag,
    fit::{FitError, Measurement, fit},
    picture::PictureSpec,
    predict::Counted,
    profile::{
        GroupTime, NetworkMemory, PROFILE_VERSION, Part, Profile, ProfileKey, Segment, Timing,
    },
    split::SplitError,
    units::{Bytes, Nanos},
};
use thiserror::Error;

use crate::{
    engine::{Engine, EngineError, unsupported_layers},
    meter::MeterError,
    model::{Model, ModelError},
    picture::PictureError,
    stats,
    tensor::Tensor,
};

mod choose;
mod coding;
mod energy;
mod inputs;
mod machine;
mod memory;
mod parts;
mod prepare;
mod race;
mod sweep;

pub use energy::{EnergyJob, energy};
pub use inputs::{InputError, sample_inputs};
pub use machine::{hardware, precision};
pub(crate) use memory::give_back;
use parts::Ready;
pub use race::fastest;
pub use sweep::{SweepJob, sweep};

/// Least number of rounds in which every part has its turn.
const ROUNDS: u32 = 3;

/// Runs that are paid for beyond those turns: the one that makes the other part's input, and one
/// for runs that take longer than expected.
const SPARE_RUNS: u32 = 2;

/// Cuts that should be measured before frames in a row are.
const ENOUGH_CUTS: u64 = 10;

/// What a part runs when it has its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    /// Runs that are not counted, first.
    uncounted: u32,
    /// Runs that are.
    counted: u32,
}

impl Turn {
    /// Frames in a row, as in service.
    const FRAMES: Turn = Turn { uncounted: 1, counted: 2 };

    /// For networks that take so long that few cuts could have frames in a row: what other parts
    /// left in the caches matters little to them, and more cuts matter more.
    const SINGLE: Turn = Turn { uncounted: 0, counted: 1 };

    fn runs(self) -> u32 {
        self.uncounted + self.counted
    }
}

/// Rest before every run: the machine's clock and caches forget within some ten milliseconds.
const PAUSE: Duration = Duration::from_millis(30);

/// All rests together are at most this many times the time that may be spent in inferences.
const REST: u32 = 2;

/// Most rounds, where the budget bears more.
const MOST_ROUNDS: u32 = 9;

/// A picture with which preparation is timed, and which the network is fed.
#[derive(Clone, Debug)]
pub struct PictureSample {
    /// A JPEG or PNG file.
    pub file: bytes::Bytes,
    /// How it becomes the input.
    pub spec: PictureSpec,
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct ProfileJob {
    /// Threads of the engine.
    pub threads: usize,
    /// Most inferences, of parts or of the whole.
    pub max_inferences: u32,
    /// Most time in inferences; loading and the rests between them are not counted.
    pub max_time: Duration,
    /// Rest before every inference; shorter where all of them would exceed twice `max_time`.
    pub pause: Duration,
    /// Weights of the parts that are loaded at the same time.
    pub memory: Bytes,
    /// Pace of the device in thousandths; all times are multiplied by it.
    pub slowdown_permille: u64,
    /// The picture, where the input is one.
    pub picture: Option<PictureSample>,
    /// Seed of the random inputs and of the order of the runs.
    pub seed: u64,
}

impl Default for ProfileJob {
    /// One thread, at most 600 inferences and 10 s with rests of 30 ms, 1 GiB of weights at a time,
    /// unpaced.
    fn default() -> Self {
        Self {
            threads: 1,
            max_inferences: 600,
            max_time: Duration::from_secs(10),
            pause: PAUSE,
            memory: Bytes(1 << 30),
            slowdown_permille: 1000,
            picture: None,
            seed: 1,
        }
    }
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Inferences done.
    pub done: u32,
    /// Inferences in all, as far as known.
    pub total: u32,
}

/// Why a network could not be measured.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The model file changed or vanished.
    #[error("cannot read the model")]
    Model(#[from] ModelError),
    /// The engine failed.
    #[error("the engine failed while the network was measured")]
    Engine(#[from] EngineError),
    /// The network could not be split.
    #[error("cannot split the network at `{cut}` to measure its parts")]
    Split {
        /// Names of the cut's values.
        cut: String,
        /// Cause.
        #[source]
        source: SplitError,
    },
    /// A part could not be written to a temporary file.
    #[error("cannot write a part of the network to measure it")]
    Write(#[source] std::io::Error),
    /// The network cannot be fed.
    #[error("cannot make inputs for the network")]
    Input(#[from] InputError),
    /// The picture cannot be prepared.
    #[error("cannot prepare the picture")]
    Picture(#[from] PictureError),
    /// No group times explain what was measured.
    #[error("cannot fit the times of the groups")]
    Fit(#[from] FitError),
    /// The budget is spent before anything was measured.
    #[error(
        "one run of the network takes {run}, more than the {budget} that may be spent; allow more time"
    )]
    Budget {
        /// Time of one run.
        run: Nanos,
        /// Time allowed.
        budget: Nanos,
    },
    /// The meter failed.
    #[error("cannot measure the network's energy")]
    Meter(#[from] MeterError),
    /// Only parts of the network run, or at another pace, so that no energy is the network's.
    #[error("the energy of a network is measured of runs of all of it, and {0}")]
    NoEnergy(String),
    /// The engine runs no part of the network.
    #[error("engine `{engine}` runs no part of the network; it lacks {layers}")]
    Nothing {
        /// Engine name.
        engine: String,
        /// Layers that it cannot run.
        layers: String,
    },
}

/// Measures a network with an engine. Takes the time of the job's budget, up to twice as long in
/// rests, and loading.
pub fn profile(
    model: &Model,
    engine: &dyn Engine,
    job: &ProfileJob,
    progress: &mut dyn FnMut(Progress),
) -> Result<Profile, ProfileError> {
    let before = memory::Before::now();
    let unsupported = unsupported_layers(engine, &model.proto, &model.graph);
    let feeds = sample_inputs(&model.graph, job.picture.as_ref(), job.seed)?;
    let pause = job.pause.min(job.max_time * REST / job.max_inferences.max(1));
    let mut run = Run { job, pause, spent: Duration::ZERO, inferences: 0, progress };
    let mut whole = match unsupported.is_empty() {
        true => Some(run.whole(model, engine, &feeds)?),
        false => None,
    };
    let memory = match &mut whole {
        Some(whole) if run.may_spend(1, whole.expected) => {
            run.memory(before, &mut whole.part, &model.grouping.dag)?
        }
        _ => None,
    };
    let coding = coding::times(&mut run, &model.proto, engine);
    let cuts = candidate_cuts(&model.grouping.dag);
    let (affordable, turn) = run.affordable_cuts(whole.as_ref().map(|whole| whole.expected));
    let cuts = choose::choose(&model.grouping.dag, cuts, affordable);
    let batches: Vec<&[Cut]> = cuts.chunks(run.cuts_at_a_time(model)).collect();
    let mut measured = Vec::new();
    for (index, batch) in batches.iter().enumerate() {
        let mut parts = Vec::new();
        for cut in *batch {
            parts.extend(run.load_cut(model, engine, &feeds, cut)?);
        }
        parts.extend(whole.take());
        // The last batch may spend what is left; the others must leave it something.
        let is_last = index + 1 == batches.len();
        run.rounds(&mut parts, turn, if is_last { MOST_ROUNDS } else { ROUNDS })?;
        whole = parts.pop_if(|part| part.kind == Part::Whole);
        measured.extend(parts.into_iter().filter_map(Loaded::finish));
    }
    measured.splice(0..0, whole.and_then(Loaded::finish));
    if measured.is_empty() {
        let engine = engine.name().to_owned();
        return Err(ProfileError::Nothing { engine, layers: unsupported.join(", ") });
    }
    model.check_unchanged()?;
    let mut profile = fitted(model, measured, job.slowdown_permille)?;
    profile.key = ProfileKey {
        model_sha256: model.sha256()?.to_owned(),
        hardware: hardware(),
        engine: engine.name().to_owned(),
        engine_version: engine.version().to_owned(),
        threads: u32::try_from(job.threads).unwrap_or(u32::MAX),
        precision: machine::precision(&model.graph),
    };
    profile.unsupported = unsupported;
    profile.engine_bytes = before.bytes();
    profile.memory = memory;
    profile.coding = coding;
    if let Some(sample) = &job.picture {
        profile.prepare = prepare::times(sample, job.slowdown_permille)?;
    }
    Ok(profile)
}

/// One part with its time.
struct Measured {
    part: Part,
    before: Vec<bool>,
    cut: Vec<String>,
    timing: Timing,
}

/// A measurement under way, and what it has spent of its budget.
struct Run<'a> {
    job: &'a ProfileJob,
    pause: Duration,
    spent: Duration,
    inferences: u32,
    progress: &'a mut dyn FnMut(Progress),
}

impl Run<'_> {
    /// Runs a part once, after a rest, and counts it.
    fn time(&mut self, part: &mut Ready) -> Result<(Nanos, Vec<Tensor>), EngineError> {
        thread::sleep(self.pause);
        self.count(part)
    }

    /// The same for what follows something else at once, as coding does.
    fn time_without_rest(&mut self, part: &mut Ready) -> Result<Nanos, EngineError> {
        Ok(self.count(part)?.0)
    }

    fn count(&mut self, part: &mut Ready) -> Result<(Nanos, Vec<Tensor>), EngineError> {
        let (time, answer) = part.time()?;
        self.spent += Duration::from_nanos(time.0);
        self.inferences += 1;
        let total = self.job.max_inferences.max(self.inferences);
        (self.progress)(Progress { done: self.inferences, total });
        Ok((time, answer))
    }

    /// Whether another round of `runs` runs that take `time` in all is within the budget.
    fn may_spend(&self, runs: u32, time: Duration) -> bool {
        self.inferences.saturating_add(runs) <= self.job.max_inferences
            && self.spent.saturating_add(time) <= self.job.max_time
    }

    /// The whole network, run often enough to know how much can be measured.
    fn whole(
        &mut self,
        model: &Model,
        engine: &dyn Engine,
        feeds: &BTreeMap<String, Tensor>,
    ) -> Result<Loaded, ProfileError> {
        let mut part = parts::load_whole(model, engine, self.job.threads, feeds)?;
        let cold = Duration::from_nanos(self.time(&mut part)?.0.0);
        let mut times = Vec::new();
        while times.len() < ROUNDS as usize && self.may_spend(1, cold) {
            times.push(self.time(&mut part)?.0);
        }
        let Some(median) = stats::median(&mut times) else {
            let (run, budget) = (stats::nanos(cold), stats::nanos(self.job.max_time));
            return Err(ProfileError::Budget { run, budget });
        };
        let expected = Duration::from_nanos(median.0);
        Ok(Loaded { kind: Part::Whole, before: Vec::new(), cut: Vec::new(), part, expected, times })
    }

    /// Memory of the whole network, which is loaded and has run, in one run more.
    fn memory(
        &mut self,
        before: memory::Before,
        whole: &mut Ready,
        dag: &Dag,
    ) -> Result<Option<NetworkMemory>, EngineError> {
        let peak = before.peak(|| self.time_without_rest(whole).map(drop))?;
        let counted_bytes = Counted::of(dag).total();
        let known = |network_bytes| NetworkMemory { network_bytes, counted_bytes, predicted: None };
        Ok(peak.map(known))
    }

    /// How many cuts the rest of the budget bears, each part in [`ROUNDS`] turns with spare runs,
    /// and what a turn is. Without a whole to go by, as many as the inferences allow.
    fn affordable_cuts(&self, whole: Option<Duration>) -> (usize, Turn) {
        let by_runs = |turn: Turn| {
            let left = self.job.max_inferences.saturating_sub(self.inferences);
            u64::from(left / (2 * (ROUNDS * turn.runs() + SPARE_RUNS)))
        };
        let by_time = |turn: Turn| {
            let Some(whole) = whole else { return u64::MAX };
            let left = self.job.max_time.saturating_sub(self.spent).as_nanos();
            let each = whole.as_nanos() * u128::from(ROUNDS * turn.runs() + SPARE_RUNS);
            u64::try_from(left / each.max(1)).unwrap_or(u64::MAX)
        };
        let turn = match by_time(Turn::FRAMES) >= ENOUGH_CUTS {
            true => Turn::FRAMES,
            false => Turn::SINGLE,
        };
        (usize::try_from(by_runs(turn).min(by_time(turn))).unwrap_or(usize::MAX), turn)
    }

    /// The two parts of a cut weigh about as much as the network.
    fn cuts_at_a_time(&self, model: &Model) -> usize {
        let weights: Bytes =
            model.grouping.dag.groups().iter().map(|group| group.parameter_bytes).sum();
        usize::try_from(self.job.memory.0 / weights.0.max(1)).unwrap_or(usize::MAX).clamp(1, 1024)
    }

    /// Runs parts in rounds, each round in another order, for as long as the budget bears.
    fn rounds(&mut self, parts: &mut [Loaded], turn: Turn, rounds: u32) -> Result<(), EngineError> {
        let mut order: Vec<usize> = (0..parts.len()).collect();
        let mut random = inputs::Random::new(self.job.seed);
        let runs = u32::try_from(parts.len()).unwrap_or(u32::MAX).saturating_mul(turn.runs());
        let expected = parts.iter().map(|part| part.expected * turn.runs()).sum();
        for _ in 0..rounds {
            if !self.may_spend(runs, expected) && parts.iter().all(|part| !part.times.is_empty()) {
                break;
            }
            random.shuffle(&mut order);
            for &index in &order {
                let part = &mut parts[index];
                for _ in 0..turn.uncounted {
                    self.time(&mut part.part)?;
                }
                for _ in 0..turn.counted {
                    let time = self.time(&mut part.part)?.0;
                    part.times.push(time);
                }
            }
        }
        Ok(())
    }

    /// The parts of a cut that the engine can run, each run once: the first part's answer is what
    /// the second is fed with.
    fn load_cut(
        &mut self,
        model: &Model,
        engine: &dyn Engine,
        feeds: &BTreeMap<String, Tensor>,
        cut: &Cut,
    ) -> Result<Vec<Loaded>, ProfileError> {
        let dag = &model.grouping.dag;
        let names: Vec<String> =
            cut.flows.iter().map(|&flow| dag.flow(flow).name.clone()).collect();
        let mut known = feeds.clone();
        let mut loaded = Vec::new();
        let [first, second] = parts::split(model, engine, cut, &names)?;
        for (kind, sub_model) in [(Part::Prefix, first), (Part::Suffix, second)] {
            let mut part = match parts::load(model, engine, self.job, &sub_model, &known) {
                Ok(part) => part,
                Err(ProfileError::Engine(EngineError::Unsupported { .. })) => continue,
                Err(error) => return Err(error),
            };
            let (time, answer) = self.time(&mut part)?;
            known.extend(part.outputs.iter().cloned().zip(answer));
            let expected = Duration::from_nanos(time.0);
            let (before, cut) = (cut.before.clone(), names.clone());
            loaded.push(Loaded { kind, before, cut, part, expected, times: Vec::new() });
        }
        Ok(loaded)
    }
}

/// A part that is ready to be timed.
struct Loaded {
    kind: Part,
    before: Vec<bool>,
    cut: Vec<String>,
    part: Ready,
    /// What one run is expected to take.
    expected: Duration,
    times: Vec<Nanos>,
}

impl Loaded {
    /// Its time, if it was run.
    fn finish(mut self) -> Option<Measured> {
        let timing = stats::timing(&mut self.times)?;
        Some(Measured { part: self.kind, before: self.before, cut: self.cut, timing })
    }
}

/// A profile of what was measured, without its key and what stands beside the times.
fn fitted(
    model: &Model,
    mut measured: Vec<Measured>,
    slowdown_permille: u64,
) -> Result<Profile, ProfileError> {
    for part in &mut measured {
        let timing = &mut part.timing;
        for time in [&mut timing.median_ns, &mut timing.p10_ns, &mut timing.p90_ns] {
            *time = machine::slowed(*time, slowdown_permille);
        }
    }
    let measurements: Vec<Measurement> = measured
        .iter()
        .map(|part| Measurement {
            part: part.part,
            before: part.before.clone(),
            time: part.timing.median_ns,
        })
        .collect();
    let dag = &model.grouping.dag;
    let fit = fit(dag, &measurements)?;
    let groups = dag.groups().iter().zip(&fit.groups).filter_map(|(group, time)| {
        Some(GroupTime { name: group.name.clone(), time_ns: (*time)? })
    });
    let segments = measured.into_iter().zip(&fit.fitted).map(|(part, &fitted_ns)| Segment {
        part: part.part,
        cut: part.cut,
        timing: part.timing,
        fitted_ns,
    });
    let file = model.path.file_name().unwrap_or_default();
    Ok(Profile {
        version: PROFILE_VERSION,
        key: machine::empty_key(),
        model: file.to_string_lossy().into_owned(),
        slowdown_permille,
        call_ns: fit.call,
        groups: groups.collect(),
        unsupported: Vec::new(),
        segments: segments.collect(),
        residual_permille: fit.residual_permille,
        prepare: BTreeMap::new(),
        coding: BTreeMap::new(),
        engine_bytes: Bytes::ZERO,
        memory: None,
        energy: None,
        predicted: None,
    })
}
