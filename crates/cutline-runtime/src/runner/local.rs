//! A plan in one process: every stage in turn, no network, no pacing unless asked for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cutline_core::units::Nanos;

use super::{Answer, Deployment, Frame, Measured, RunError};
use crate::{
    client::clock::unix_nanos,
    engine::{EngineError, LoadOptions, ModelSource, SharedEngine},
    pace::Slowdown,
    stage::{
        Content, ModelSpec, Sending, Stage, StageSession, TensorSpec,
        content::total_bytes,
        trace::{StageTrace, Trace},
    },
    tensor::Tensor,
};

/// The loaded stages of a plan.
pub struct LocalRunner {
    stages: Vec<(Stage, StageSession)>,
}

impl LocalRunner {
    /// Loads every stage with the engine that `engine` gives for its name; `None` asks for the
    /// choice of this machine.
    pub fn load(
        deployment: &Deployment,
        engine: impl Fn(Option<&str>) -> Result<SharedEngine, EngineError>,
        threads: usize,
    ) -> Result<Self, RunError> {
        Self::load_paced(deployment, engine, threads, Slowdown::NONE)
    }

    /// The same as slow as a device that this machine stands in for.
    pub fn load_paced(
        deployment: &Deployment,
        engine: impl Fn(Option<&str>) -> Result<SharedEngine, EngineError>,
        threads: usize,
        slowdown: Slowdown,
    ) -> Result<Self, RunError> {
        let stages = deployment.stages.iter().map(|placement| {
            let stage = Stage::new(placement.spec.clone())?;
            let session = match &placement.spec.model {
                None => StageSession::without_model(slowdown),
                Some(model) => {
                    open(deployment, model, &engine, (threads, slowdown)).map_err(|source| {
                        RunError::Load { stage: placement.spec.name.clone(), source }
                    })?
                }
            };
            Ok((stage, session))
        });
        Ok(Self { stages: stages.collect::<Result<_, RunError>>()? })
    }

    /// Runs one frame through every stage.
    pub fn infer(&mut self, frame: Frame) -> Result<Answer, RunError> {
        let mut values = frame.into_values();
        // What later stages may read, and what is answered in the end.
        let mut sent: BTreeMap<String, Content> = BTreeMap::new();
        let mut outputs: Vec<(String, Tensor)> = Vec::new();
        let mut trace = Trace::default();
        let began = Instant::now();
        for (stage, session) in &mut self.stages {
            if !trace.stages.is_empty() {
                let inputs = stage.spec().inputs.iter();
                let known =
                    |input: &TensorSpec| Some((input.name.clone(), sent.get(&input.name)?.clone()));
                values = inputs.filter_map(known).collect();
            }
            let (received_unix_ns, bytes_in) = (unix_nanos(), total_bytes(&values));
            let bound = stage.bind(std::mem::take(&mut values))?;
            let done = session.execute(stage, bound, Sending::EntropyCoded)?;
            let mut bytes_out = 0;
            for call in stage.calls() {
                let sends = done.made.known(call);
                bytes_out += total_bytes(&sends);
                sent.extend(sends);
            }
            // What a branch makes goes on from the stage that called it.
            for (name, tensor) in &done.answers {
                sent.entry(name.clone()).or_insert_with(|| Content::Tensor(tensor.clone()));
            }
            trace.stages.push(StageTrace {
                name: stage.spec().name.clone(),
                device: stage.spec().device.clone(),
                received_unix_ns,
                prepare_ns: nanos(done.prepare),
                compute_ns: nanos(done.compute),
                sent_unix_ns: unix_nanos(),
                bytes_in,
                bytes_out,
                ..StageTrace::default()
            });
            outputs.extend(done.answers);
        }
        let (first, _) = self.stages.first().expect("a deployment has at least one stage");
        let outputs = first.join(outputs)?;
        let mut measured = Measured::from(&trace);
        measured.latency_ns = nanos(began.elapsed());
        measured.rest_ns =
            measured.latency_ns - measured.edge_compute_ns - measured.cloud_compute_ns;
        Ok(Answer { outputs, trace, measured, route: None })
    }
}

fn open(
    deployment: &Deployment,
    model: &ModelSpec,
    engine: impl Fn(Option<&str>) -> Result<SharedEngine, EngineError>,
    (threads, slowdown): (usize, Slowdown),
) -> Result<StageSession, EngineError> {
    let engine = engine(model.engine.as_deref())?;
    let path = model.files.first().and_then(|file| deployment.files.get(&file.sha256));
    let path = path.ok_or_else(|| EngineError::Load {
        engine: engine.name().to_owned(),
        reason: "the file of the stage's model was not given".to_owned(),
    })?;
    let threads = model.threads.map_or(threads, |threads| threads as usize).max(1);
    let source = ModelSource::File(path.clone());
    StageSession::load(&*engine, &source, LoadOptions { threads }, slowdown)
}

fn nanos(duration: Duration) -> Nanos {
    Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}
