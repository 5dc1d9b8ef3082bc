//! Energy of a whole network by a meter.
//!
//! ```text
//! load ─ warm up ─ rest ─ idle: power ─ run after run: energy / runs
//! ```
//!
//! Idle power is told beside, not taken off: what a device takes while it computes is all that it
//! takes, as in the cost model. Runs follow each other without rests, since a meter cannot tell a rest
//! from a run.

use std::{
    thread,
    time::{Duration, Instant},
};

use cutline_core::{
    profile::MeasuredEnergy,
    units::{Nanojoules, Nanos},
};

use super::{ProfileError, ProfileJob, parts, sample_inputs};
use crate::{
    engine::{Engine, unsupported_layers},
    meter::Meter,
    model::Model,
    stats,
};

/// For how long a network is metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnergyJob {
    /// With nothing to do.
    pub idle: Duration,
    /// Running, at least.
    pub running: Duration,
    /// Most time of all runs together that is waited for.
    pub most: Duration,
}

impl Default for EnergyJob {
    /// 2 s idle, 3 s running, and a minute for networks of which three runs take longer.
    fn default() -> Self {
        let running = Duration::from_secs(3);
        Self { idle: Duration::from_secs(2), running, most: Duration::from_secs(60) }
    }
}

/// Fewest runs that are metered.
const FEWEST: u32 = 3;

/// Until threads that wait for work have gone to sleep, and sensors that average have forgotten.
const SETTLE: Duration = Duration::from_millis(500);

/// Energy of one inference of the whole network. Takes the time of the job's parts, and loading.
pub fn energy(
    model: &Model,
    engine: &dyn Engine,
    profile: &ProfileJob,
    job: EnergyJob,
    meter: &mut dyn Meter,
) -> Result<MeasuredEnergy, ProfileError> {
    if profile.slowdown_permille != 1000 {
        return Err(ProfileError::NoEnergy(
            "what a device takes that is slower than this machine is not known".to_owned(),
        ));
    }
    let unsupported = unsupported_layers(engine, &model.proto, &model.graph);
    if !unsupported.is_empty() {
        let reason = format!("`{}` lacks {}", engine.name(), unsupported.join(", "));
        return Err(ProfileError::NoEnergy(reason));
    }
    let feeds = sample_inputs(&model.graph, profile.picture.as_ref(), profile.seed)?;
    let mut part = parts::load_whole(model, engine, profile.threads, &feeds)?;
    let (once, _) = part.time()?;
    if Duration::from_nanos(once.0) * FEWEST > job.most {
        return Err(ProfileError::Budget { run: once, budget: stats::nanos(job.most / FEWEST) });
    }
    thread::sleep(SETTLE.min(job.idle));
    meter.mark()?;
    thread::sleep(job.idle);
    let idle = meter.read()?;
    part.time()?;
    meter.mark()?;
    let (started, mut runs) = (Instant::now(), 0);
    while runs < FEWEST || started.elapsed() < job.running {
        part.time()?;
        runs += 1;
    }
    let running = meter.read()?;
    let nanojoules = u128::from(running.energy_uj) * 1000 / u128::from(runs);
    Ok(MeasuredEnergy {
        meter: meter.name().to_owned(),
        covers: meter.covers(),
        inference_nj: Nanojoules(u64::try_from(nanojoules).unwrap_or(u64::MAX)),
        idle_uw: idle.power(),
        inferences: runs,
        time_ns: Nanos(u64::try_from(running.time.as_nanos()).unwrap_or(u64::MAX)),
    })
}
