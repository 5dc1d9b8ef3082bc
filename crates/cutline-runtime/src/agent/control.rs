//! The control service of an agent: deployment, profiling, links, clocks.
//!
//! Everything that changes or occupies the agent is for controllers only; what it is, its clock and
//! its sign of life are for every party that its authority knows, as other agents compare clocks.

use std::{sync::Arc, thread, time::Duration};

use cutline_core::profile::LinkTable;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    State,
    deployed::Deployed,
    kernels::{self, RemoteSweep},
    measure,
    profile::{self, RemoteJob},
    store::{Incoming, StoreError},
};
use crate::{
    client::{
        ClientError,
        clock::{clock_id, unix_nanos},
    },
    pace::timer,
    pki::Role,
    profiler,
    stage::{Stage, chain, clip, is_sha256},
    wire::control::{
        AgentDescription, BeatRequest, BeatResponse, ClockRequest, ClockResponse, DeployRequest,
        DeployResponse, DescribeRequest, EngineDescription, FileChunk, KeepRequest, KeepResponse,
        KernelsEvent, KernelsRequest, LinkEvent, MeasureLinkRequest, MissingRequest,
        MissingResponse, ProfileEvent, ProfileRequest, Progress, PutResponse, RemoveRequest,
        RemoveResponse, control_server::Control, kernels_event, link_event, profile_event,
    },
};

/// Events that may wait for a slow reader.
const EVENTS: usize = 16;

/// Longest name of a deployed model, in bytes.
const MAX_NAME: usize = 256;

/// Most agents on the path of a sign of life, and the longest that one may take.
const MAX_PATH: usize = 16;
const MAX_BEAT: Duration = Duration::from_secs(30);

/// Beginning of names that agents keep for themselves.
const RESERVED: &str = "cutline.";

#[tonic::async_trait]
impl Control for State {
    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<AgentDescription>, Status> {
        let engines = self.config.engines.iter().map(|engine| EngineDescription {
            name: engine.name().to_owned(),
            version: engine.version().to_owned(),
        });
        Ok(Response::new(AgentDescription {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hardware: profiler::hardware(),
            engines: engines.collect(),
            threads: u32::try_from(self.config.threads).unwrap_or(u32::MAX),
            slowdown: self.config.slowdown.permille() as f64 / 1000.0,
            memory_bytes: self.config.memory.map_or(0, |memory| memory.0),
        }))
    }

    async fn missing(
        &self,
        request: Request<MissingRequest>,
    ) -> Result<Response<MissingResponse>, Status> {
        self.orders_from(&request)?;
        let mut sha256 = request.into_inner().sha256;
        if let Some(bad) = sha256.iter().find(|digest| !is_sha256(digest)) {
            let reason = format!("`{}` is not a SHA-256 in lower-case hex", clip(bad));
            return Err(Status::invalid_argument(reason));
        }
        sha256.retain(|digest| !self.store.has(digest));
        let held_bytes = sha256.iter().map(|digest| self.store.held(digest)).collect();
        Ok(Response::new(MissingResponse { sha256, held_bytes }))
    }

    async fn put(
        &self,
        request: Request<Streaming<FileChunk>>,
    ) -> Result<Response<PutResponse>, Status> {
        self.orders_from(&request)?;
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("no chunk"))?;
        if self.store.has(&first.sha256) {
            return Ok(Response::new(PutResponse {}));
        }
        let FileChunk { sha256, total_bytes, offset, data } = first;
        let me = self.me.upgrade().ok_or_else(|| Status::unavailable("the agent is ending"))?;
        let begin = move || me.store.receive(&sha256, total_bytes, offset);
        let incoming = tokio::task::spawn_blocking(begin).await;
        let incoming = incoming.map_err(|error| Status::internal(error.to_string()))?;
        let mut incoming = incoming.map_err(|error| store_status(&error))?;
        incoming = write(incoming, data).await?;
        while let Some(chunk) = chunks.message().await? {
            incoming = write(incoming, chunk.data).await?;
        }
        let finished = tokio::task::spawn_blocking(move || incoming.finish()).await;
        let finished = finished.map_err(|error| Status::internal(error.to_string()))?;
        finished.map_err(|error| store_status(&error))?;
        Ok(Response::new(PutResponse {}))
    }

    async fn deploy(
        &self,
        request: Request<DeployRequest>,
    ) -> Result<Response<DeployResponse>, Status> {
        self.orders_from(&request)?;
        let DeployRequest { model_name, stage_json, holder } = request.into_inner();
        let length = model_name.len();
        if length == 0 || length > MAX_NAME || model_name.starts_with(RESERVED) {
            let reason = format!(
                "`{}` is no name for a model: 1 to {MAX_NAME} bytes, not beginning with {RESERVED}",
                clip(&model_name)
            );
            return Err(Status::invalid_argument(reason));
        }
        let stage = Stage::from_json(&stage_json)
            .map_err(|error| Status::invalid_argument(chain(&error)))?;
        let memory_bytes = match self.stages.ready(&model_name) {
            Some(old) if *old.stage() == stage => old.memory_bytes(),
            _ => {
                let deployed = Deployed::load(self, stage).await?;
                let memory_bytes = deployed.memory_bytes();
                self.stages.put(&model_name, deployed)?;
                memory_bytes
            }
        };
        self.stages.hold(&model_name, &holder)?;
        Ok(Response::new(DeployResponse { memory_bytes }))
    }

    async fn keep(&self, request: Request<KeepRequest>) -> Result<Response<KeepResponse>, Status> {
        self.orders_from(&request)?;
        let name = request.into_inner().model_name;
        self.stages.keep(&name)?;
        Ok(Response::new(KeepResponse {}))
    }

    async fn remove(
        &self,
        request: Request<RemoveRequest>,
    ) -> Result<Response<RemoveResponse>, Status> {
        self.orders_from(&request)?;
        let RemoveRequest { model_name, holder } = request.into_inner();
        let removed = match holder.as_str() {
            "" => self.stages.remove(&model_name)?,
            holder => self.stages.release(&model_name, holder),
        };
        for call in removed.iter().flat_map(Stage::calls).filter(|call| !call.here) {
            for address in call.addresses() {
                self.peers.forget(&call.device, address).await;
                self.replicas.forget(address);
            }
        }
        Ok(Response::new(RemoveResponse { removed: removed.is_some() }))
    }

    type ProfileStream = ReceiverStream<Result<ProfileEvent, Status>>;

    async fn profile(
        &self,
        request: Request<ProfileRequest>,
    ) -> Result<Response<Self::ProfileStream>, Status> {
        self.orders_from(&request)?;
        let job: RemoteJob = serde_json::from_str(&request.into_inner().job_json)
            .map_err(|error| Status::invalid_argument(format!("not a profiling job: {error}")))?;
        let event = |event| ProfileEvent { event: Some(event) };
        self.measured(
            "profile",
            move |state, step| {
                let profile = profile::run(state, &job, step)?;
                Ok(event(profile_event::Event::ProfileJson(json(&profile)?)))
            },
            move |step| event(profile_event::Event::Progress(step)),
        )
        .await
    }

    type KernelsStream = ReceiverStream<Result<KernelsEvent, Status>>;

    async fn kernels(
        &self,
        request: Request<KernelsRequest>,
    ) -> Result<Response<Self::KernelsStream>, Status> {
        self.orders_from(&request)?;
        let job: RemoteSweep =
            serde_json::from_str(&request.into_inner().job_json).map_err(|error| {
                Status::invalid_argument(format!("not a sweep of kernels: {error}"))
            })?;
        let event = |event| KernelsEvent { event: Some(event) };
        self.measured(
            "kernels",
            move |state, step| {
                let sweep = kernels::run(state, &job, step)?;
                Ok(event(kernels_event::Event::SweepJson(json(&sweep)?)))
            },
            move |step| event(kernels_event::Event::Progress(step)),
        )
        .await
    }

    type MeasureLinkStream = ReceiverStream<Result<LinkEvent, Status>>;

    async fn measure_link(
        &self,
        request: Request<MeasureLinkRequest>,
    ) -> Result<Response<Self::MeasureLinkStream>, Status> {
        self.orders_from(&request)?;
        let MeasureLinkRequest { target, sizes, repeats } = request.into_inner();
        let peer = self.peers.get(&target, &target).await;
        let peer = peer.map_err(|error| Status::new(error.code(), error.to_string()))?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let limit = self.config.max_message;
        tokio::spawn(async move {
            let progress = |done, total, what| {
                let event = Some(link_event::Event::Progress(Progress { done, total, what }));
                // A reader who is behind misses progress, not the result.
                let _ = events.try_send(Ok(LinkEvent { event }));
            };
            let measured = tokio::select! {
                measured = measure::measure(&peer, &sizes, repeats, limit, progress) => measured,
                // Nobody waits for the result any more.
                () = events.closed() => return,
            };
            let _ = events.send(link_result(measured)).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn clock(&self, _: Request<ClockRequest>) -> Result<Response<ClockResponse>, Status> {
        let clock_id = clock_id().to_owned();
        Ok(Response::new(ClockResponse { unix_nanos: unix_nanos(), clock_id }))
    }

    async fn beat(&self, request: Request<BeatRequest>) -> Result<Response<BeatResponse>, Status> {
        let may_pass_on = self.shows(&request, &[Role::Controller, Role::Agent]);
        let BeatRequest { path } = request.into_inner();
        let Some((next, behind)) = path.split_first() else {
            return Ok(Response::new(BeatResponse { boot: self.boot }));
        };
        if !may_pass_on {
            return Err(Status::permission_denied(
                "clients may ask for this agent's own sign only",
            ));
        }
        if path.len() > MAX_PATH {
            let reason = format!("a path of {} agents; at most {MAX_PATH} are asked", path.len());
            return Err(Status::invalid_argument(reason));
        }
        // Over the connection that frames take, or this would say nothing about them.
        let failed = |error: ClientError| Status::new(error.code(), error.to_string());
        let peer = self.peers.to(next).await.map_err(failed)?;
        let boot = peer.beat(behind, MAX_BEAT).await.map_err(failed)?;
        Ok(Response::new(BeatResponse { boot }))
    }
}

impl State {
    /// Has a thread measure while no stage computes; events are its progress, then its result.
    async fn measured<E: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Arc<State>, &mut dyn FnMut(profiler::Progress)) -> Result<E, Status>
        + Send
        + 'static,
        progress: impl Fn(Progress) -> E + Send + 'static,
    ) -> Result<Response<ReceiverStream<Result<E, Status>>>, Status> {
        let slot = Arc::clone(&self.slot).acquire_owned().await;
        let slot = slot.map_err(|error| Status::internal(error.to_string()))?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let state = self.me.upgrade().ok_or_else(|| Status::unavailable("the agent is ending"))?;
        // A thread of its own: what binds it to processors must not stay with another's work.
        let measure = move || {
            timer::usual_turns();
            timer::pin(&state.config.cores);
            let mut step = |step: profiler::Progress| {
                let (done, total) = (u64::from(step.done), u64::from(step.total));
                let what = "measuring".to_owned();
                // A reader who is behind misses progress, not the result.
                let _ = events.try_send(Ok(progress(Progress { done, total, what })));
            };
            let result = work(&state, &mut step);
            drop(slot);
            let _ = events.blocking_send(result);
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(measure);
        thread.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Writes a chunk where blocking is allowed.
async fn write(mut incoming: Incoming, data: bytes::Bytes) -> Result<Incoming, Status> {
    let written = tokio::task::spawn_blocking(move || incoming.write(&data).map(|()| incoming));
    let written = written.await.map_err(|error| Status::internal(error.to_string()))?;
    written.map_err(|error| store_status(&error))
}

fn json(result: &impl Serialize) -> Result<String, Status> {
    serde_json::to_string(result).map_err(|error| Status::internal(error.to_string()))
}

fn link_result(measured: Result<LinkTable, ClientError>) -> Result<LinkEvent, Status> {
    let table = measured.map_err(|error| Status::new(error.code(), error.to_string()))?;
    Ok(LinkEvent { event: Some(link_event::Event::LinkJson(json(&table)?)) })
}

fn store_status(error: &StoreError) -> Status {
    let message = error.to_string();
    match error {
        StoreError::Name | StoreError::FileName(_) | StoreError::Length { .. } => {
            Status::invalid_argument(message)
        }
        StoreError::TooLarge { .. } | StoreError::Disk { .. } | StoreError::Write(_) => {
            Status::resource_exhausted(message)
        }
        StoreError::Digest { .. } => Status::data_loss(message),
        StoreError::Absent { .. } | StoreError::Gap { .. } => Status::failed_precondition(message),
    }
}
