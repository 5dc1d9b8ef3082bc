//! One cell ready to run, and its turns.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use cutline_core::{
    graph::{Graph, ValueId},
    picture::{InputEncoding, PictureSpec},
};
use cutline_runtime::{
    client::{AgentClient, ClientError, ClientOptions},
    engine::{self, LoadOptions, ModelSource},
    link::{Link as Simulator, LinkConfig, LinkHandle},
    pace::Slowdown,
    picture::{self, PrepareTimes},
    profiler::sample_inputs,
    stage::{
        Content, MemoryEstimate, ModelSpec, PictureInput, StageSession, StageSpec, TensorSpec,
    },
    tensor::Tensor,
};
use tokio::runtime::Runtime;

use super::{
    cells::Job,
    grid::{Link, Measure},
    networks::Opened,
    schedule,
};
use crate::commands::profile::files_to_send;

/// Parts of a run, in the order of its way.
pub(crate) const PARTS: [&str; 6] =
    ["decode", "resize", "encode", "transfer", "finish", "inference"];

/// Longest time that a run on another device may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who needs the networks that are deployed to agents.
const HOLDER: &str = "cutline characterize";

/// One run. All times are nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// From the picture's file, or the input tensor, to the answer.
    pub(crate) total_ns: u64,
    /// In the order of [`PARTS`]; `None` of what the cell has not.
    pub(crate) parts_ns: [Option<u64>; 6],
}

/// Bytes of tensors that one run sends and gets back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) upload_bytes: Option<u64>,
    pub(crate) download_bytes: Option<u64>,
}

/// The counted runs of a turn, an odd number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) runs: Vec<Run>,
    /// Time in all runs, the one that is not counted included.
    pub(crate) spent_ns: u64,
    pub(crate) traffic: Traffic,
}

/// A cell that is loaded.
pub(super) enum Ready {
    Local(Local),
    Remote(Remote),
}

/// A network in this process.
pub(super) struct Local {
    session: StageSession,
    feeds: Vec<(String, Tensor)>,
    outputs: Vec<String>,
    picture: Option<(Bytes, PictureSpec)>,
    opened: Opened,
}

/// A network at an agent.
pub(super) struct Remote {
    /// Past the link, for what is not measured.
    agent: AgentClient,
    /// Through it.
    through: AgentClient,
    model_name: String,
    feeds: Vec<(String, Tensor)>,
    picture: Option<(Bytes, PictureSpec, InputEncoding)>,
    _link: Option<LinkHandle>,
}

impl Ready {
    /// Loads a cell, at an agent too.
    pub(super) fn load(
        job: &Job,
        measure: &Measure,
        folder: &Path,
        (runtime, client): (&Runtime, &ClientOptions),
    ) -> anyhow::Result<Self> {
        let opened = job.variant.open(job.cell.batch, folder)?;
        let feeds = sample_inputs(&opened.model.graph, None, measure.seed)?.into_iter().collect();
        let picture = match &job.picture {
            Some((path, spec)) => {
                let file = fs::read(path)
                    .with_context(|| format!("cannot read picture `{}`", path.display()))?;
                Some((Bytes::from(file), spec.clone()))
            }
            None => None,
        };
        if job.cell.agent == "local" {
            return Ok(Self::Local(Local::load(job, opened, feeds, picture)?));
        }
        let remote = Remote::load(job, opened, feeds, picture, client);
        Ok(Self::Remote(runtime.block_on(remote)?))
    }

    /// A few runs in a row, after one that is not counted.
    pub(super) fn turn(&mut self, measure: &Measure, runtime: &Runtime) -> anyhow::Result<Turn> {
        let (first, traffic) = self.run(measure.rest, runtime)?;
        let expected = Duration::from_nanos(first.total_ns) + measure.rest;
        let count = schedule::runs_of_turn(measure.runs_per_turn, measure.turn_time, expected);
        let mut turn = Turn { runs: Vec::new(), spent_ns: first.total_ns, traffic };
        for _ in 0..count {
            let (run, _) = self.run(measure.rest, runtime)?;
            turn.spent_ns = turn.spent_ns.saturating_add(run.total_ns);
            turn.runs.push(run);
        }
        Ok(turn)
    }

    fn run(&mut self, rest: Duration, runtime: &Runtime) -> anyhow::Result<(Run, Traffic)> {
        if !rest.is_zero() {
            thread::sleep(rest);
        }
        match self {
            Self::Local(local) => Ok((local.run()?, Traffic::default())),
            Self::Remote(remote) => runtime.block_on(remote.run()),
        }
    }

    /// Gives back what an agent holds.
    pub(super) fn unload(self, runtime: &Runtime) {
        if let Self::Remote(remote) = self {
            // An agent that is gone holds nothing.
            let _ = runtime.block_on(remote.agent.release(&remote.model_name, HOLDER));
        }
    }
}

impl Local {
    fn load(
        job: &Job,
        opened: Opened,
        feeds: Vec<(String, Tensor)>,
        picture: Option<(Bytes, PictureSpec)>,
    ) -> anyhow::Result<Self> {
        let engine = engine::open(&job.cell.engine)?;
        let source = ModelSource::File(opened.model.path.clone());
        let options = LoadOptions { threads: job.cell.threads as usize };
        let session = StageSession::load(engine.as_ref(), &source, options, Slowdown::NONE)?;
        let graph = &opened.model.graph;
        let outputs = graph.outputs().iter().map(|&id| graph.value(id).name.clone()).collect();
        Ok(Self { session, feeds, outputs, picture, opened })
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        let began = Instant::now();
        let mut parts_ns = [None; 6];
        if let Some((file, spec)) = &self.picture {
            let (payload, times) = picture::prepare_timed(file, spec, InputEncoding::Fp32)?;
            prepared(&mut parts_ns, times);
            if let Some((_, tensor)) = self.feeds.first_mut() {
                *tensor = payload.tensor;
            }
        }
        let inputs: Vec<_> = self.feeds.iter().map(|(name, t)| (name.as_str(), t)).collect();
        let outputs: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        let (_, took) = self.session.time(&inputs, &outputs)?;
        parts_ns[5] = Some(nanos(took));
        // Without a picture the two differ by nothing that is the network's.
        let total = if self.picture.is_some() { began.elapsed() } else { took };
        Ok(Run { total_ns: nanos(total), parts_ns })
    }
}

impl Remote {
    async fn load(
        job: &Job,
        opened: Opened,
        feeds: Vec<(String, Tensor)>,
        picture: Option<(Bytes, PictureSpec)>,
        client: &ClientOptions,
    ) -> anyhow::Result<Self> {
        let address = &job.cell.agent;
        let agent = AgentClient::connect("agent", address, client.clone()).await?;
        let (files, places) = files_to_send(&opened.model)?;
        let encoding = job.upload.map_or(InputEncoding::Fp32, |upload| upload.encoding);
        let graph = &opened.model.graph;
        let input = feeds.first().map(|(name, _)| name.clone()).unwrap_or_default();
        let of = |ids: &[ValueId]| specs(graph, ids);
        let (inputs, outputs) = (of(graph.inputs())?, of(graph.outputs())?);
        let parameter_bytes = files.iter().map(|file| file.bytes).sum();
        let spec = StageSpec {
            plan: HOLDER.to_owned(),
            name: "whole".to_owned(),
            device: "agent".to_owned(),
            picture: picture.as_ref().map(|(_, spec)| PictureInput {
                input,
                spec: spec.clone(),
                encoding,
            }),
            model: Some(ModelSpec {
                files,
                engine: Some(job.cell.engine.clone()),
                threads: Some(job.cell.threads),
                inputs: inputs.iter().map(|input| input.name.clone()).collect(),
                outputs: outputs.clone(),
                memory: MemoryEstimate { parameter_bytes, ..MemoryEstimate::default() },
            }),
            inputs,
            answers: outputs,
            branches: Vec::new(),
            next: None,
        };
        let model_name = format!("characterize-{}", job.id);
        agent.deploy(&model_name, &spec, &places, HOLDER).await?;
        let link = simulated(&job.link, address)?;
        let through = match &link {
            None => agent.clone(),
            Some(link) => {
                let scheme = address.split_once("://").map_or("", |(scheme, _)| scheme);
                let at = match scheme {
                    "" if is_loopback(address) => link.local_addr().to_string(),
                    // Off the loopback address agents speak TLS, and so through a link on it.
                    "" => format!("https://{}", link.local_addr()),
                    scheme => format!("{scheme}://{}", link.local_addr()),
                };
                AgentClient::connect("agent", &at, client.clone()).await?
            }
        };
        let picture = picture.map(|(file, spec)| (file, spec, encoding));
        Ok(Self { agent, through, model_name, feeds, picture, _link: link })
    }

    async fn run(&mut self) -> anyhow::Result<(Run, Traffic)> {
        let began = Instant::now();
        let mut parts_ns = [None; 6];
        let mut values = self.feeds.clone();
        if let Some((file, spec, encoding)) = &self.picture {
            let (payload, times) = picture::prepare_timed(file, spec, *encoding)?;
            prepared(&mut parts_ns, times);
            if let Some((_, tensor)) = values.first_mut() {
                *tensor = payload.tensor;
            }
        }
        let values =
            values.into_iter().map(|(name, tensor)| (name, Content::Tensor(tensor))).collect();
        let sent = Instant::now();
        let answer = self.through.infer(&self.model_name, values, true, PATIENCE).await?;
        let (round_trip, total) = (nanos(sent.elapsed()), nanos(began.elapsed()));
        let trace = answer.trace.and_then(|trace| trace.stages.into_iter().next());
        let stage = trace.context("the agent did not say where the time went")?;
        parts_ns[3] = Some(round_trip.saturating_sub(stage.total_ns().0));
        parts_ns[4] = self.picture.as_ref().map(|_| stage.prepare_ns.0);
        parts_ns[5] = Some(stage.compute_ns.0);
        let traffic =
            Traffic { upload_bytes: Some(stage.bytes_in), download_bytes: Some(stage.bytes_out) };
        Ok((Run { total_ns: total, parts_ns }, traffic))
    }
}

/// Whether an error is of a connection, and no matter of the cell: the same may go well later.
pub(super) fn is_of_the_connection(error: &anyhow::Error) -> bool {
    let client = error.chain().find_map(|cause| cause.downcast_ref::<ClientError>());
    client.is_some_and(|error| {
        matches!(
            error,
            ClientError::Address { .. }
                | ClientError::Plaintext { .. }
                | ClientError::Unreachable { .. }
                | ClientError::Lost { .. }
                | ClientError::Late { .. }
        )
    })
}

/// The simulated link in front of an agent.
fn simulated(link: &Link, address: &str) -> anyhow::Result<Option<LinkHandle>> {
    let Link::Simulated { up, down, delay, .. } = link else { return Ok(None) };
    let place = address.split_once("://").map_or(address, |(_, place)| place);
    let mut config = LinkConfig::new("127.0.0.1:0", place);
    (config.up, config.down, config.delay) = (Some(*up), Some(*down), *delay);
    Ok(Some(Simulator::start(config)?))
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn specs(graph: &Graph, ids: &[ValueId]) -> anyhow::Result<Vec<TensorSpec>> {
    let spec = |&id: &ValueId| {
        let value = graph.value(id);
        let dtype =
            value.dtype.with_context(|| format!("the type of `{}` is unknown", value.name))?;
        Ok(TensorSpec { name: value.name.clone(), dtype, shape: value.shape.clone() })
    };
    ids.iter().map(spec).collect()
}

fn prepared(parts_ns: &mut [Option<u64>; 6], times: PrepareTimes) {
    let steps = [times.decode, times.resize, times.encode];
    for (part, time) in parts_ns.iter_mut().zip(steps) {
        *part = Some(nanos(time));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Loaded cells that wait for their next turn, and the sizes of their files.
#[derive(Default)]
pub(super) struct Waiting {
    cells: BTreeMap<usize, (Ready, u64)>,
    bytes: u64,
}

impl Waiting {
    pub(super) fn take(&mut self, cell: usize) -> Option<Ready> {
        let (ready, bytes) = self.cells.remove(&cell)?;
        self.bytes -= bytes;
        Some(ready)
    }

    /// Keeps a loaded cell while there is room; gives it back where there is none.
    pub(super) fn keep(&mut self, cell: usize, ready: Ready, room: u64) -> Option<Ready> {
        let bytes = ready.bytes();
        if self.bytes.saturating_add(bytes) > room {
            return Some(ready);
        }
        self.bytes += bytes;
        self.cells.insert(cell, (ready, bytes));
        None
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Ready> + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.cells).into_values().map(|(ready, _)| ready)
    }
}

impl Ready {
    /// Bytes of the model's file that are held here.
    fn bytes(&self) -> u64 {
        match self {
            Self::Local(local) => {
                let path = &local.opened.model.path;
                fs::metadata(path).map_or(0, |metadata| metadata.len())
            }
            Self::Remote(_) => 0,
        }
    }
}
