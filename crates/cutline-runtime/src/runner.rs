//! Running a plan: its stages deployed on agents, or all in this process; frames through them.
//!
//! A [`Deployment`] is the plan as the runtime carries it out: which stage goes where, and which
//! files it needs. [`Runner`] puts it on agents and sends frames to the first of them;
//! [`LocalRunner`] runs the same stages here, one after another, without any network. Both answer
//! with the network's outputs and with what the frame's time went into.
//!
//! A [`Pipeline`] keeps several frames under way, so that every device computes one while it sends
//! the one before and receives the one after, and gives the answers in the order of the frames:
//!
//! [`Routed`] holds each frame until it is answered, over whichever of several plans can take it, and
//! in this process where none can.
//!
//! ```text
//! camera ─▶ WaitingRoom ─▶ Pipeline: frames under way, bounded ─▶ answers in order ─▶ Meter
//!           block, or drop the oldest
//! ```

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cutline_core::{routing::Loss, units::Nanos};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    client::{AgentClient, Asking, ClientError, ClientOptions, ForeignStage},
    engine::EngineError,
    stage::{
        Content, Named, PICTURE_INPUT, StageError, chain,
        trace::{HopTrace, Trace},
    },
    telemetry::{Kind, Telemetry, TraceContext},
    tensor::Tensor,
};

mod breakdown;
mod deployment;
mod local;
mod meter;
mod pipeline;
mod routed;
mod slices;
mod spans;
mod timeline;
mod waiting;

pub use breakdown::{Breakdown, Part as LatencyPart};
pub use deployment::{Deployment, Part, PartModel, Placement, PlanParts};
pub use local::LocalRunner;
pub use meter::{Busy, Latency, Meter, Summary};
pub use pipeline::{Carrier, Outcome, Pipeline};
pub use routed::{Change, Here, RouteShare, Routed, Routes, Routing, Way};
pub use spans::tell;
pub use timeline::Timeline;
pub use waiting::{Closed, WaitingRoom, WhenFull};

/// How long agents may take to remove stages.
const PARTING: Duration = Duration::from_secs(5);

/// What enters a plan at its source.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A JPEG or PNG file.
    Picture(Bytes),
    /// The network's inputs.
    Tensors(Vec<(String, Tensor)>),
}

impl Frame {
    fn into_values(self) -> Vec<Named> {
        match self {
            Frame::Picture(file) => vec![(PICTURE_INPUT.to_owned(), Content::Bytes(file))],
            Frame::Tensors(tensors) => {
                tensors.into_iter().map(|(name, t)| (name, Content::Tensor(t))).collect()
            }
        }
    }
}

/// What came of a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Outputs of the network, in declared order.
    pub outputs: Vec<(String, Tensor)>,
    /// Where its time went, stage by stage.
    pub trace: Trace,
    /// The same under the names of a plan's prediction.
    pub measured: Measured,
    /// Name of the route that it took, where there are several.
    pub route: Option<Arc<str>>,
}

/// A frame's time in the parts that plans predict; they add up to the latency. Of branches that run at
/// the same time the slowest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// From the whole frame at the source to the whole answer there.
    pub latency_ns: Nanos,
    /// Stages on the source.
    pub edge_compute_ns: Nanos,
    /// Messages on their way to the next stage.
    pub upload_ns: Nanos,
    /// Stages on other devices.
    pub cloud_compute_ns: Nanos,
    /// Preparation, waiting, answers on their way back.
    pub rest_ns: Nanos,
}

impl From<&Trace> for Measured {
    fn from(trace: &Trace) -> Self {
        let Some(source) = trace.stages.first() else { return Self::default() };
        let beside = trace.beside();
        let compute = |on_source: bool| -> Nanos {
            let waited = trace.stages.iter().enumerate().filter(|(at, _)| !beside.contains(at));
            let there = waited.filter(|(_, stage)| (stage.device == source.device) == on_source);
            there.map(|(_, stage)| stage.compute_ns).sum()
        };
        let (edge, cloud) = (compute(true), compute(false));
        let waited = trace.hops.iter().filter(|hop| !beside.contains(&hop.into));
        // What a branch makes is a message on its way to where the frame goes on.
        let both = |hop: &HopTrace| if hop.branch { hop.download_ns } else { Nanos::ZERO };
        let upload = waited.map(|hop| hop.upload_ns + both(hop)).sum();
        let latency = source.total_ns();
        Self {
            latency_ns: latency,
            edge_compute_ns: edge,
            upload_ns: upload,
            cloud_compute_ns: cloud,
            rest_ns: latency - edge - upload - cloud,
        }
    }
}

/// How to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How to talk to agents.
    pub client: ClientOptions,
    /// Longest time of one frame.
    pub frame_timeout: Duration,
    /// Who is told of frames and calls.
    pub telemetry: Telemetry,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            client: ClientOptions::default(),
            frame_timeout: Duration::from_secs(60),
            telemetry: Telemetry::default(),
        }
    }
}

/// Why a plan could not be deployed or run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The parts do not make a plan.
    #[error("the plan cannot be run: {0}")]
    Plan(String),
    /// A stage's description contradicts itself.
    #[error("the plan cannot be run")]
    Stage(#[from] StageError),
    /// A device has no address.
    #[error(
        "device `{device}` has no address; give it one in the platform file, or run with --local"
    )]
    NoAddress {
        /// Device name.
        device: String,
    },
    /// A device would have to call the next one, and cannot.
    #[error(
        "device `{device}` has another server than an agent, which calls nobody: it can have the last stage of a plan only, or branches"
    )]
    ForeignCaller {
        /// Device name.
        device: String,
    },
    /// A stage could not be put on its device.
    #[error("stage `{stage}` could not be deployed on device `{device}`")]
    Deploy {
        /// Stage name.
        stage: String,
        /// Device name.
        device: String,
        /// The agent's or the connection's error.
        #[source]
        source: Box<ClientError>,
    },
    /// A frame got no answer.
    #[error("the frame that entered at stage `{stage}` on device `{device}` was not answered")]
    Frame {
        /// First stage.
        stage: String,
        /// Its device.
        device: String,
        /// The agent's or the connection's error; it names a later stage where that one failed.
        #[source]
        source: Box<ClientError>,
    },
    /// An engine could not load a stage here.
    #[error("stage `{stage}` cannot be loaded")]
    Load {
        /// Stage name.
        stage: String,
        /// The engine's error.
        #[source]
        source: EngineError,
    },
    /// The frame's holder gave it up.
    #[error("the frame is lost: {loss}")]
    Lost {
        /// Why.
        loss: Loss,
        /// What its last attempt came to, where one did before.
        #[source]
        last: Option<Box<RunError>>,
    },
    /// A task of this process died.
    #[error("a task of this program failed: {0}")]
    Task(String),
}

impl RunError {
    /// Whether the frame itself is at fault, e.g. a file that is no picture, so that other frames
    /// may well be answered.
    pub fn is_the_frames(&self) -> bool {
        match self {
            RunError::Frame { source, .. } => source.code() == Code::InvalidArgument,
            RunError::Stage(error) => {
                matches!(error, StageError::Input { .. } | StageError::Picture { .. })
            }
            _ => false,
        }
    }

    /// Whether other frames may well be answered: it is the frame's own fault, or the frame was lost
    /// by a holder who goes on with others.
    pub fn is_of_one_frame(&self) -> bool {
        matches!(self, RunError::Lost { .. }) || self.is_the_frames()
    }
}

/// A plan on its agents. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Runner {
    deployment: Arc<Deployment>,
    /// Agents with the positions of their stages, ascending; where a stage has replicas, those that
    /// could be reached.
    agents: Arc<[(usize, AgentClient)]>,
    /// Why the others could not, in words.
    absent: Arc<[String]>,
    options: RunOptions,
    /// What it is called by the agents whose stages it needs.
    holder: Arc<str>,
}

impl Runner {
    /// Connects to every device of the plan and deploys their stages, all at the same time; each
    /// agent is sent only the files that it lacks. Of the agents that share a stage one is enough.
    /// `done` is told of each stage that is ready. Where one cannot be deployed, those that were are
    /// taken away again.
    pub async fn deploy(
        deployment: Deployment,
        options: RunOptions,
        done: impl FnMut(&Placement),
    ) -> Result<Self, RunError> {
        let random = getrandom::u64().map_err(|error| RunError::Plan(error.to_string()))?;
        let holder: Arc<str> = format!("{random:016x}").into();
        match Self::deploy_as(holder.clone(), deployment.clone(), options.clone(), done).await {
            Ok(runner) => Ok(runner),
            Err(error) => {
                Self::forget(deployment, options, holder).await;
                Err(error)
            }
        }
    }

    /// The same under the name of a holder, who may have stages of it already: an agent that lost
    /// none counts it once. What is deployed where another stage cannot be stays for the next attempt.
    async fn deploy_as(
        holder: Arc<str>,
        deployment: Deployment,
        options: RunOptions,
        mut done: impl FnMut(&Placement),
    ) -> Result<Self, RunError> {
        let deployment = Arc::new(deployment);
        let mut tasks = JoinSet::new();
        for (index, placement) in deployment.stages.iter().enumerate() {
            if placement.address.is_none() {
                return Err(RunError::NoAddress { device: placement.spec.device.clone() });
            }
            for address in placement.addresses().map(str::to_owned) {
                let (deployment, client) = (Arc::clone(&deployment), options.client.clone());
                let holder = Arc::clone(&holder);
                tasks.spawn(async move {
                    (index, place(&deployment, (index, &address), client, &holder).await)
                });
            }
        }
        let mut waiting: Vec<usize> =
            deployment.stages.iter().map(|placement| placement.addresses().count()).collect();
        let mut agents: Vec<(usize, AgentClient)> = Vec::new();
        let mut absent = Vec::new();
        while let Some(task) = tasks.join_next().await {
            let (index, placed) = task.map_err(|error| RunError::Task(error.to_string()))?;
            waiting[index] -= 1;
            let first = agents.iter().all(|(at, _)| *at != index);
            match placed {
                Ok(agent) => {
                    if first {
                        done(&deployment.stages[index]);
                    }
                    agents.push((index, agent));
                }
                Err(error) if first && waiting[index] == 0 => {
                    // An order that is taken back under way may still be carried out, after the stage
                    // was given back: the others end first, unless they take long.
                    let others = async { while tasks.join_next().await.is_some() {} };
                    let _ = tokio::time::timeout(PARTING, others).await;
                    return Err(error);
                }
                Err(error) => absent.push(chain(&error)),
            }
        }
        agents.sort_by_key(|(index, _)| *index);
        match agents.is_empty() {
            true => Err(RunError::Plan("it has no stage".to_owned())),
            false => {
                let (agents, absent) = (agents.into(), absent.into());
                Ok(Self { deployment, agents, absent, options, holder })
            }
        }
    }

    /// Why agents that were to share a stage with others do not.
    pub fn absent(&self) -> &[String] {
        &self.absent
    }

    /// Ends a holder's need for the stages of a deployment that may have come halfway.
    async fn forget(deployment: Deployment, options: RunOptions, holder: Arc<str>) {
        let mut agents = Vec::new();
        for (index, placement) in deployment.stages.iter().enumerate() {
            let dial = |address| {
                AgentClient::lazy(&placement.spec.device, address, options.client.clone()).ok()
            };
            agents.extend(placement.addresses().filter_map(dial).map(|agent| (index, agent)));
        }
        release(agents, &deployment, &holder).await;
    }

    /// What it is called by the agents whose stages it needs.
    fn holder(&self) -> Arc<str> {
        Arc::clone(&self.holder)
    }

    /// What is deployed.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Sends one frame through the plan, in a trace of its own. Several may be under way at a time.
    pub async fn infer(&self, frame: Frame) -> Result<Answer, RunError> {
        let mut span = self.options.telemetry.trace("frame");
        let result = self.infer_within(frame, span.context()).await;
        tell(&mut span, &result);
        result
    }

    /// The same within a trace.
    async fn infer_within(
        &self,
        frame: Frame,
        within: Option<&TraceContext>,
    ) -> Result<Answer, RunError> {
        self.infer_as("", frame, self.options.frame_timeout, within).await
    }

    /// The same for a request that has a name of its own, within a time of its own.
    async fn infer_as(
        &self,
        id: &str,
        frame: Frame,
        timeout: Duration,
        within: Option<&TraceContext>,
    ) -> Result<Answer, RunError> {
        let first = &self.deployment.stages[0];
        let (agent, name) = (&self.agents[0].1, ("call", first.spec.name.as_str()));
        let mut span = self.options.telemetry.begin(Kind::Client, name, within);
        span.calls(&first.spec.device, agent.address());
        let asking = Asking { id, trace: true, timeout, within: span.context() };
        let answer = agent.infer_as(&first.model_name, frame.into_values(), asking).await;
        let error = answer.as_ref().err().map(ToString::to_string);
        span.end(error.as_deref());
        let answer = answer.map_err(|error| RunError::Frame {
            stage: first.spec.name.clone(),
            device: first.spec.device.clone(),
            source: Box::new(error),
        })?;
        let trace = answer.trace.unwrap_or_default();
        let measured = Measured::from(&trace);
        Ok(Answer { outputs: answer.outputs, trace, measured, route: None })
    }

    /// Has the plan's stages stay on their agents, also when these are started again.
    pub async fn keep(&self) -> Result<(), RunError> {
        for (index, agent) in self.agents.iter() {
            let placement = &self.deployment.stages[*index];
            if placement.foreign {
                continue;
            }
            let kept = agent.keep(&placement.model_name).await;
            kept.map_err(|error| RunError::Deploy {
                stage: placement.spec.name.clone(),
                device: placement.spec.device.clone(),
                source: Box::new(error),
            })?;
        }
        Ok(())
    }

    /// Says that it needs the plan's stages no more: agents on which nobody else does remove them.
    /// Those that cannot be reached are left alone.
    pub async fn remove(self) {
        release(self.agents.to_vec(), &self.deployment, &self.holder).await;
    }
}

/// Ends the holder's need for stages, on all agents at the same time: one that does not answer keeps
/// none of the others waiting.
async fn release(agents: Vec<(usize, AgentClient)>, deployment: &Deployment, holder: &Arc<str>) {
    let mut tasks = JoinSet::new();
    for (index, agent) in agents {
        // What a foreign server serves is its own business.
        if deployment.stages[index].foreign {
            continue;
        }
        let name = deployment.stages[index].model_name.clone();
        let holder = Arc::clone(holder);
        tasks.spawn(async move { agent.release(&name, &holder).await });
    }
    let _ =
        tokio::time::timeout(PARTING, async { while tasks.join_next().await.is_some() {} }).await;
}

async fn place(
    deployment: &Deployment,
    (index, address): (usize, &str),
    options: ClientOptions,
    holder: &str,
) -> Result<AgentClient, RunError> {
    let Placement { spec, model_name, foreign, .. } = &deployment.stages[index];
    let device = &spec.device;
    let failed = |error| RunError::Deploy {
        stage: spec.name.clone(),
        device: device.clone(),
        source: Box::new(error),
    };
    if *foreign {
        let outputs = spec.model.iter().flat_map(|model| &model.outputs);
        let (inputs, outputs) = (spec.inputs.iter().collect(), outputs.collect());
        let stage = ForeignStage { model_name, inputs, outputs };
        return AgentClient::foreign(device, address, options, &stage).await.map_err(failed);
    }
    let agent = AgentClient::connect(device, address, options).await.map_err(failed)?;
    agent.deploy(model_name, spec, &deployment.files, holder).await.map_err(failed)?;
    Ok(agent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::trace::StageTrace;

    #[test]
    fn the_parts_of_a_frame_add_up_to_its_latency() {
        let stage = |device: &str, received, sent, compute| StageTrace {
            device: device.to_owned(),
            received_unix_ns: received,
            sent_unix_ns: sent,
            compute_ns: Nanos(compute),
            ..StageTrace::default()
        };
        let hop = HopTrace { into: 1, upload_ns: Nanos(30), ..HopTrace::default() };
        let trace = Trace {
            stages: vec![stage("pi", 1000, 1200, 50), stage("cloud", 7, 80, 60)],
            hops: vec![hop],
        };
        let measured = Measured::from(&trace);
        let expected = Measured {
            latency_ns: Nanos(200),
            edge_compute_ns: Nanos(50),
            upload_ns: Nanos(30),
            cloud_compute_ns: Nanos(60),
            rest_ns: Nanos(60),
        };
        assert_eq!(measured, expected);
    }
}
