//! Which of several engines runs a whole network fastest here.

use super::{PictureSample, ProfileError, parts, sample_inputs};
use crate::{
    engine::{EngineError, SharedEngine},
    model::Model,
    stats,
};

/// Counted runs of each engine.
const RUNS: usize = 5;

/// The engine with the least median time of the whole network, runs taken in turn after one that
/// does not count, and every engine's name with its median. Engines that cannot run all of it lose;
/// where all do, the first one is chosen, since it may still run parts.
pub fn fastest(
    model: &Model,
    engines: &[SharedEngine],
    threads: usize,
    picture: Option<&PictureSample>,
    seed: u64,
) -> Result<(SharedEngine, Vec<(String, cutline_core::units::Nanos)>), ProfileError> {
    let first = engines.first().ok_or_else(|| EngineError::Unknown("none".to_owned()))?;
    if engines.len() == 1 {
        return Ok((first.clone(), Vec::new()));
    }
    let feeds = sample_inputs(&model.graph, picture, seed)?;
    let load = |engine: &SharedEngine| {
        let part = parts::load_whole(model, engine.as_ref(), threads, &feeds).ok()?;
        Some((engine.clone(), part, Vec::new()))
    };
    let mut runners: Vec<_> = engines.iter().filter_map(load).collect();
    for round in 0..=RUNS {
        for (_, part, times) in &mut runners {
            let time = part.time()?.0;
            if round > 0 {
                times.push(time);
            }
        }
    }
    let mut ranked: Vec<_> = runners
        .into_iter()
        .filter_map(|(engine, _, mut times)| Some((stats::median(&mut times)?, engine)))
        .collect();
    ranked.sort_by_key(|(time, _)| *time);
    let best = ranked.first().map_or(first, |(_, engine)| engine).clone();
    Ok((best, ranked.iter().map(|(time, engine)| (engine.name().to_owned(), *time)).collect()))
}
