//! Parts of the network, loaded and fed.

use std::collections::BTreeMap;

use cutline_core::{
    codec::CutCodecs,
    cut::{Cut, stages_of_cut},
    split::{StageLabel, SubModel},
    units::Nanos,
};

use super::{
    ProfileError, ProfileJob,
    inputs::{Random, made_up},
};
use crate::{
    engine::{self, Engine, EngineError, LoadOptions, ModelSource},
    model::Model,
    pace::Slowdown,
    parts::source,
    stage::StageSession,
    stats,
    tensor::Tensor,
};

/// A part of the network with all that one run needs.
pub(super) struct Ready {
    pub(super) session: StageSession,
    pub(super) feeds: Vec<(String, Tensor)>,
    pub(super) outputs: Vec<String>,
}

impl Ready {
    /// Runs once: how long it took, and the outputs.
    pub(super) fn time(&mut self) -> Result<(Nanos, Vec<Tensor>), EngineError> {
        let Ready { session, feeds, outputs } = self;
        let inputs: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let (answer, took) = session.time(&inputs, &outputs)?;
        Ok((stats::nanos(took), answer))
    }
}

/// The whole network.
pub(super) fn load_whole(
    model: &Model,
    engine: &dyn Engine,
    threads: usize,
    feeds: &BTreeMap<String, Tensor>,
) -> Result<Ready, ProfileError> {
    let session = stage(engine, &ModelSource::File(model.path.clone()), threads)?;
    let outputs = model.graph.outputs().iter().map(|&id| model.graph.value(id).name.clone());
    let feeds = feeds.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    Ok(Ready { session, feeds, outputs: outputs.collect() })
}

/// The two sub-models of a cut, as the engine takes them.
pub(super) fn split(
    model: &Model,
    engine: &dyn Engine,
    cut: &Cut,
    names: &[String],
) -> Result<[SubModel; 2], ProfileError> {
    let stages = stages_of_cut(&model.graph, &model.grouping, cut);
    let labels = [StageLabel::new("first"), StageLabel::new("second")];
    let sub_models = model
        .split(engine::part_format(engine.name()), &stages, &labels, &CutCodecs::default())
        .map_err(|source| ProfileError::Split { cut: names.join(", "), source })?;
    Ok(sub_models.try_into().expect("as many sub-models as labels"))
}

/// Loads a sub-model and feeds it from the known values; with random ones where the part that makes
/// them cannot run.
pub(super) fn load(
    model: &Model,
    engine: &dyn Engine,
    job: &ProfileJob,
    part: &SubModel,
    known: &BTreeMap<String, Tensor>,
) -> Result<Ready, ProfileError> {
    let mut random = Random::new(job.seed);
    let mut feeds = Vec::new();
    for port in &part.inputs {
        let tensor = match known.get(&port.name) {
            Some(tensor) => tensor.clone(),
            None => made_up(&port.name, port.dtype, port.shape.as_ref(), &mut random)?,
        };
        feeds.push((port.name.clone(), tensor));
    }
    let outputs = part.outputs.iter().map(|port| port.name.clone()).collect();
    let session = load_session(model, engine, job.threads, part)?;
    Ok(Ready { session, feeds, outputs })
}

fn load_session(
    model: &Model,
    engine: &dyn Engine,
    threads: usize,
    part: &SubModel,
) -> Result<StageSession, ProfileError> {
    let (source, _folder) = source(part, model.folder()).map_err(ProfileError::Write)?;
    Ok(stage(engine, &source, threads)?)
}

/// A part as an agent serves it, but at the machine's own pace.
pub(super) fn stage(
    engine: &dyn Engine,
    source: &ModelSource,
    threads: usize,
) -> Result<StageSession, EngineError> {
    StageSession::load(engine, source, LoadOptions { threads }, Slowdown::NONE)
}
