//! A stage that an agent serves: loaded, and called frame by frame.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cutline_core::units::Nanos;
use futures_util::future::try_join_all;
use tonic::{Code, Status};

use super::{
    State,
    admission::Caller,
    batching::{Batching, MOST_AT_ONCE, Trial},
    memory::Reservation,
    meter::Meter,
    worker::{TakeSlot, Worker},
};
use crate::{
    client::{Asking, clock::unix_nanos},
    engine::{LoadOptions, MAX_THREADS, ModelSource, SharedEngine},
    stage::{
        Executed, Made, ModelSpec, Named, NextStage, Sending, Stage, StageError, StageSession,
        chain,
        content::total_bytes,
        trace::{HopTrace, StageTrace, Trace},
    },
    telemetry::{Kind, Span},
    tensor::Tensor,
};

/// Most stages of one agent that call each other in turn: more scatter groups in a row than networks
/// have, and few enough for a thread's stack, which holds a call in a call.
const MAX_DEPTH: usize = 32;

/// Deadline of a call that came with none.
const PATIENCE: Duration = Duration::from_secs(600);

/// A loaded stage with the memory that it holds.
#[derive(Debug)]
pub(super) struct Deployed {
    stage: Arc<Stage>,
    worker: Worker,
    memory: Reservation,
    /// What frames that are computed together take beside.
    more: Option<Reservation>,
    batching: Batching,
    meter: Arc<Meter>,
}

/// When a request had come in whole, and who sent it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    /// By this machine's clock.
    pub(super) unix_ns: u64,
    /// What reading its message took before that.
    pub(super) decode_ns: Nanos,
    /// The connection that it came over.
    pub(super) from: Caller,
}

/// What is known of a request beside its tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// When and from whom it came.
    pub(super) came: Came,
    /// When its caller stops waiting.
    pub(super) deadline: Option<Instant>,
    /// Whether its caller wants to know where the time went.
    pub(super) trace: bool,
    /// What is recorded of it.
    pub(super) span: &'a Span,
    /// How many stages of this agent it went through, each called by the one before.
    pub(super) depth: usize,
}

/// Answered tensors, and where the time went.
pub(super) type Answer = (Vec<(String, Tensor)>, Option<Trace>);

/// What another stage answered, and how it was called.
type Called = (Vec<(String, Tensor)>, Option<(Trace, HopTrace)>);

impl Deployed {
    /// Loads a stage whose files are all here, within the device's memory.
    pub(super) async fn load(state: &State, stage: Stage) -> Result<Self, Status> {
        let stage = Arc::new(stage);
        let name = format!("stage `{}`", stage.spec().name);
        let (slowdown, call_time) = (state.config.slowdown, state.config.call_time);
        let (slot, cores) = (Arc::clone(&state.slot), state.config.cores.clone());
        let meter = Arc::new(Meter::default());
        let (worker_stage, worker_meter) = (Arc::clone(&stage), Arc::clone(&meter));
        let Some(model) = &stage.spec().model else {
            let memory = state.reserve(0, &name)?;
            let load = move |_: &TakeSlot| Ok((StageSession::without_model(slowdown), ()));
            let worker = Worker::start(worker_stage, slot, cores, worker_meter, load).await;
            let (worker, ()) = worker.map_err(failed(&stage))?;
            let batching = Batching::none("it has no model");
            return Ok(Self { stage, worker, memory, more: None, batching, meter });
        };
        let engine = choose_engine(state, model, &stage)?;
        let options = load_options(state, model);
        let file_bytes = state.store.bytes_of(&model.files);
        let memory = state.reserve(model.memory.total(file_bytes), &name)?;
        let path = state.store.lay_out(&model.files);
        let path = path.map_err(|error| refuse(&stage, error))?;
        let most = state.config.max_batch.min(MOST_AT_ONCE);
        let (budget, model) = (Arc::clone(&state.memory), model.clone());
        let load = move |take_slot: &TakeSlot| {
            let source = ModelSource::File(path.clone());
            let mut session = StageSession::load(&*engine, &source, options, slowdown)?;
            session.fix_call_time(call_time);
            if most < 2 {
                return Ok((session, (Batching::none("it was not asked for"), None)));
            }
            let trial = Trial {
                path: &path,
                model: &model,
                engine: &*engine,
                options,
                most,
                file_bytes,
                memory: &budget,
            };
            let found = trial.settle(&mut session, take_slot);
            Ok((session, found))
        };
        let worker = Worker::start(worker_stage, slot, cores, worker_meter, load).await;
        let (worker, (batching, more)) = worker.map_err(failed(&stage))?;
        if most > 1 {
            let how = match batching.at_once {
                1 => "frames one by one".to_owned(),
                several => format!("up to {several} frames at once"),
            };
            (state.config.remark)(&format!("{name} computes {how}: {}", batching.finding));
        }
        let fits = state.memory.check_process(&name);
        fits.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Ok(Self { stage, worker, memory, more, batching, meter })
    }

    /// The stage.
    pub(super) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Memory that it holds, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory.bytes() + self.more.as_ref().map_or(0, Reservation::bytes)
    }

    /// How its frames are computed.
    pub(super) fn batching(&self) -> &Batching {
        &self.batching
    }

    /// What it did so far.
    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Answers one frame: computes this stage, then has the rest of the plan computed.
    pub(super) async fn infer(
        &self,
        state: &State,
        values: Vec<Named>,
        call: Call<'_>,
    ) -> Result<Answer, Status> {
        let began = Instant::now();
        let answer = self.answer(state, values, call).await;
        let bytes_out = answer.as_ref().ok().map(|(tensors, _)| tensor_bytes(tensors));
        self.meter.ended(began.elapsed(), bytes_out);
        answer
    }

    async fn answer(
        &self,
        state: &State,
        values: Vec<Named>,
        call: Call<'_>,
    ) -> Result<Answer, Status> {
        let bytes_in = total_bytes(&values);
        let inputs = self.stage.bind(values).map_err(|error| status(&self.stage, &error))?;
        let sending = self.sending(state).await;
        // Only now: a shape counts once it is known to be the declared one.
        let decoded = self.stage.decoded_bytes(&inputs, sending);
        let _decoded = state.reserve(decoded, "a request, decoded,")?;
        let asked_unix_ns = unix_nanos();
        let ran = self.worker.run(inputs, sending, call.came.from).await;
        let spec = self.stage.spec();
        let (result, queued) = ran.map_err(|_| {
            Status::internal(format!("stage `{}` crashed earlier; deploy it again", spec.name))
        })?;
        let done = result.map_err(|error| status(&self.stage, &error))?;
        self.meter.computed(queued, &done, bytes_in);
        self.tell(call.span, asked_unix_ns, queued, &done);
        let Executed { mut made, answers: mut pool, prepare, compute, frames } = done;
        let mut calls = Vec::new();
        let branches =
            spec.branches.iter().map(|branch| self.go_on(state, &branch.stage, &made, call));
        let called = try_join_all(branches).await?;
        for (branch, (answers, trace)) in spec.branches.iter().zip(called) {
            let brought = self.stage.brought(branch, answers);
            let brought = brought.map_err(|error| status(&self.stage, &error))?;
            // Answers of the network that a branch makes are brought like the rest.
            pool.extend(brought.iter().cloned());
            made.add(brought);
            calls.extend(trace.map(|(trace, hop)| (trace, HopTrace { branch: true, ..hop })));
        }
        if let Some(next) = &spec.next {
            let (answers, trace) = self.go_on(state, next, &made, call).await?;
            pool.extend(answers);
            calls.extend(trace);
        }
        drop(made);
        let answers = self.stage.join(pool).map_err(|error| status(&self.stage, &error))?;
        let trace = call.trace.then(|| {
            let stage = StageTrace {
                name: spec.name.clone(),
                device: spec.device.clone(),
                received_unix_ns: call.came.unix_ns,
                decode_ns: call.came.decode_ns,
                queue_ns: nanos(queued),
                prepare_ns: nanos(prepare),
                compute_ns: nanos(compute),
                frames: u32::try_from(frames).unwrap_or(u32::MAX),
                sent_unix_ns: unix_nanos(),
                bytes_in,
                bytes_out: tensor_bytes(&answers),
            };
            let mut trace = Trace { stages: vec![stage], hops: Vec::new() };
            calls.into_iter().for_each(|(called, hop)| trace.add(called, hop));
            trace
        });
        Ok((answers, trace))
    }

    /// Records where a frame's time went on this device, one after another since it was asked for.
    fn tell(&self, span: &Span, asked_unix_ns: u64, queued: Duration, done: &Executed) {
        if !span.is_recorded() {
            return;
        }
        let name = self.stage.spec().name.as_str();
        let mut start = asked_unix_ns;
        let frames = ("cutline.frames", (done.frames as u64).into());
        for (what, took, about) in [
            ("queue", queued, None),
            ("prepare", done.prepare, None),
            ("compute", done.compute, Some(frames)),
        ] {
            let took = nanos(took);
            // A stage without a picture prepares nothing.
            if took > Nanos::ZERO {
                span.part((what, name), (start, took), about);
            }
            start = start.saturating_add(took.0);
        }
    }

    /// How values go to other stages; as they are where an agent that should get them in the code
    /// cannot be asked.
    async fn sending(&self, state: &State) -> Sending {
        let mut sending = Sending::Plain;
        for call in self.stage.calls().filter(|call| !call.entropy_coded.is_empty()) {
            if call.foreign {
                return Sending::Plain;
            }
            match state.peers.get(&call.device, &call.address).await {
                Ok(peer) if peer.reads_entropy_code().await => sending = Sending::EntropyCoded,
                _ => return Sending::Plain,
            }
        }
        sending
    }

    /// Calls another stage with what it needs, and takes the time of both ways.
    async fn go_on(
        &self,
        state: &State,
        next: &NextStage,
        made: &Made,
        call: Call<'_>,
    ) -> Result<Called, Status> {
        let timeout = timeout(call.deadline).ok_or_else(|| {
            let name = &self.stage.spec().name;
            Status::deadline_exceeded(format!("no time was left after stage `{name}`"))
        })?;
        let sends = made.of(&self.stage, next).map_err(|error| status(&self.stage, &error))?;
        let (began_unix_ns, started) = (unix_nanos(), Instant::now());
        if next.here {
            // Descriptions that name each other would go on for ever.
            if call.depth >= MAX_DEPTH {
                return Err(Status::failed_precondition(format!(
                    "stage `{}` is called through more than {MAX_DEPTH} stages of its own agent, or by \
                     itself",
                    next.stage
                )));
            }
            let depth = call.depth + 1;
            let stage = state.ready(&next.model_name)?;
            let came = Came { unix_ns: began_unix_ns, decode_ns: Nanos::ZERO, ..call.came };
            let telemetry = &state.config.telemetry;
            let name = ("infer", next.stage.as_str());
            let span = telemetry.begin(Kind::Internal, name, call.span.context());
            // A call within a call: its size is known only behind a pointer.
            let inner = Call { came, depth, span: &span, ..call };
            let answer = Box::pin(stage.infer(state, sends, inner)).await;
            span.end(answer.as_ref().err().map(Status::message));
            let (answers, trace) = answer?;
            let round_trip_ns = nanos(started.elapsed());
            let hop = HopTrace { began_unix_ns, round_trip_ns, ..HopTrace::default() };
            return Ok((answers, trace.map(|trace| (trace, hop))));
        }
        let addresses: Vec<&str> = next.addresses().collect();
        if let [address] = addresses[..] {
            return self.send(state, (next, address), sends, call, timeout).await;
        }
        let mut tried: Vec<&str> = Vec::new();
        let mut last = None;
        while let Some(under_way) = state.replicas.choose(&addresses, &tried, Instant::now()) {
            let at = addresses.iter().find(|address| **address == under_way.address());
            let address = *at.expect("one of these was chosen");
            let result = self.send(state, (next, address), sends.clone(), call, timeout).await;
            match result {
                // It is not there, does not have the stage, or has too much to do: another may.
                Err(error) if is_the_agents(error.code()) => last = Some(error),
                result => {
                    under_way.answered();
                    return result;
                }
            }
            tried.push(address);
        }
        Err(last.unwrap_or_else(|| Status::internal("a stage has no address")))
    }

    /// Calls another stage at one address.
    async fn send(
        &self,
        state: &State,
        (next, address): (&NextStage, &str),
        sends: Vec<Named>,
        call: Call<'_>,
        timeout: Duration,
    ) -> Result<Called, Status> {
        let (telemetry, name) = (&state.config.telemetry, ("call", next.stage.as_str()));
        let mut span = telemetry.begin(Kind::Client, name, call.span.context());
        span.calls(&next.device, address);
        let inner = Call { span: &span, ..call };
        let result = self.call(state, (next, address), sends, inner, timeout).await;
        span.end(result.as_ref().err().map(Status::message));
        result
    }

    async fn call(
        &self,
        state: &State,
        (next, address): (&NextStage, &str),
        sends: Vec<Named>,
        call: Call<'_>,
        timeout: Duration,
    ) -> Result<Called, Status> {
        let failed = |error: crate::client::ClientError| {
            let code = match error.code() {
                // What is wrong with this stage's request is not the fault of who sent the frame.
                Code::InvalidArgument | Code::NotFound => Code::FailedPrecondition,
                code => code,
            };
            Status::new(code, format!("stage `{}`: {error}", next.stage))
        };
        let peer = state.peers.get(&next.device, address).await.map_err(failed)?;
        let tells = call.trace && !next.foreign;
        let offset = if tells { peer.offset().await } else { None };
        let bytes_up = total_bytes(&sends);
        let (began, started) = (unix_nanos(), Instant::now());
        let asking = Asking { id: "", trace: tells, timeout, within: call.span.context() };
        let answer = peer.client.infer_as(&next.model_name, sends, asking).await;
        let answer = answer.map_err(failed)?;
        let (ended, round_trip) = (unix_nanos(), started.elapsed());
        self.meter.came_back(round_trip);
        let trace = call.trace.then(|| {
            let far = answer.trace.as_ref().and_then(|trace| trace.stages.first());
            let (upload, download) = match (far, offset) {
                (Some(far), Some(offset)) => (
                    offset.to_own(far.received_unix_ns).saturating_sub(began),
                    ended.saturating_sub(offset.to_own(far.sent_unix_ns)),
                ),
                _ => (0, 0),
            };
            let hop = HopTrace {
                began_unix_ns: began,
                round_trip_ns: nanos(round_trip),
                upload_ns: Nanos(upload),
                download_ns: Nanos(download),
                encode_ns: answer.coding.encode_ns,
                decode_ns: answer.coding.decode_ns,
                bytes_up,
                bytes_down: tensor_bytes(&answer.outputs),
                ..HopTrace::default()
            };
            let called = match next.foreign {
                false => answer.trace.unwrap_or_default(),
                true => silent(next, &hop),
            };
            (called, hop)
        });
        Ok((answer.outputs, trace))
    }
}

/// Whether an error says that another agent may do better.
fn is_the_agents(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::FailedPrecondition | Code::ResourceExhausted)
}

/// What is known of a stage that tells nothing of itself: how it was called.
fn silent(stage: &NextStage, hop: &HopTrace) -> Trace {
    let stage = StageTrace {
        name: stage.stage.clone(),
        device: stage.device.clone(),
        received_unix_ns: hop.began_unix_ns,
        sent_unix_ns: hop.began_unix_ns.saturating_add(hop.round_trip_ns.0),
        bytes_in: hop.bytes_up,
        bytes_out: hop.bytes_down,
        ..StageTrace::default()
    };
    Trace { stages: vec![stage], hops: Vec::new() }
}

impl State {
    /// Takes memory for something, or refuses it with the numbers.
    pub(super) fn reserve(&self, bytes: u64, what: &str) -> Result<Reservation, Status> {
        let reserved = self.memory.reserve(bytes, what);
        reserved.map_err(|error| Status::resource_exhausted(error.to_string()))
    }
}

fn choose_engine(state: &State, model: &ModelSpec, stage: &Stage) -> Result<SharedEngine, Status> {
    state.engine(model.engine.as_deref()).cloned().ok_or_else(|| {
        let has: Vec<&str> = state.config.engines.iter().map(|engine| engine.name()).collect();
        Status::failed_precondition(format!(
            "stage `{}` wants engine `{}`, and this device has {}",
            stage.spec().name,
            model.engine.as_deref().unwrap_or_default(),
            has.join(", ")
        ))
    })
}

fn load_options(state: &State, model: &ModelSpec) -> LoadOptions {
    let threads = model.threads.map_or(state.config.threads, |threads| threads as usize);
    LoadOptions { threads: threads.clamp(1, MAX_THREADS) }
}

/// What remains of a deadline for the next stage: a little less than all, so that the answer that
/// it was late can still be passed on with the name of who was late.
fn timeout(deadline: Option<Instant>) -> Option<Duration> {
    let Some(deadline) = deadline else { return Some(PATIENCE) };
    let left = deadline.checked_duration_since(Instant::now())?;
    Some(left - left / 20).filter(|left| !left.is_zero())
}

fn failed(stage: &Arc<Stage>) -> impl FnOnce(crate::engine::EngineError) -> Status {
    let stage = Arc::clone(stage);
    move |error| refuse(&stage, error)
}

/// A stage that cannot be loaded.
fn refuse(stage: &Stage, error: impl std::error::Error) -> Status {
    let name = &stage.spec().name;
    Status::failed_precondition(format!("stage `{name}` cannot be loaded: {}", chain(&error)))
}

fn status(stage: &Stage, error: &StageError) -> Status {
    let message = format!("device `{}`: {}", stage.spec().device, chain(error));
    match error {
        StageError::Invalid { .. } | StageError::Input { .. } | StageError::Picture { .. } => {
            Status::invalid_argument(message)
        }
        StageError::Engine { .. } | StageError::Result { .. } => Status::internal(message),
    }
}

fn nanos(duration: Duration) -> Nanos {
    Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

fn tensor_bytes(tensors: &[(String, Tensor)]) -> u64 {
    tensors.iter().map(|(_, tensor)| tensor.data().len() as u64).sum()
}
