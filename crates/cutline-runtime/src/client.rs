//! Calling agents: deployment, inference, profiling, links.
//!
//! An [`AgentClient`] is one warm connection to one agent. Its errors name the device and its
//! address, and say what to do next. Every call has a deadline; a peer that falls silent is noticed
//! by HTTP/2 pings, so nothing waits for ever.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use cutline_core::{
    predict::Sweep,
    profile::{LinkTable, Profile},
};
use thiserror::Error;
use tonic::{Code, Status, transport::Channel};

use crate::{
    pki::Credentials,
    stage::StageSpec,
    wire::{
        control::{
            AgentDescription, BeatRequest, DeployRequest, DescribeRequest, KeepRequest,
            KernelsEvent, KernelsRequest, LinkEvent, MeasureLinkRequest, MissingRequest,
            MissingResponse, ProfileEvent, ProfileRequest, Progress, RemoveRequest,
            control_client::ControlClient, kernels_event, link_event, profile_event,
        },
        inference::{
            ServerMetadataRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
        },
    },
};

mod channel;
pub mod clock;
mod coding;
pub(crate) mod echo;
mod foreign;
mod infer;
mod upload;

pub use channel::connect as dial;
pub(crate) use channel::{CONNECTION_WINDOW, MAX_FRAME};
pub use coding::Coding;
pub use foreign::ForeignStage;
pub(crate) use infer::trace_parameter;
pub use infer::{Asking, InferAnswer};

/// Largest message that agents and their clients accept, unless told otherwise: 256 MiB, above
/// every cut of the usual networks and below what would exhaust a small board.
pub const MAX_MESSAGE: usize = 256 << 20;

/// How to talk to agents.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time for a call that only asks or orders something.
    pub call_timeout: Duration,
    /// Time for loading a model.
    pub deploy_timeout: Duration,
    /// Largest answer, in bytes.
    pub max_message: usize,
    /// Silence after which a peer with an open call is asked whether it lives.
    pub ping_after: Duration,
    /// Time for that answer. Long enough for a ping behind megabytes on a slow link.
    pub ping_timeout: Duration,
    /// What to show to agents off the loopback address, which speak TLS.
    pub credentials: Option<Arc<Credentials>>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            call_timeout: Duration::from_secs(30),
            deploy_timeout: Duration::from_secs(300),
            max_message: MAX_MESSAGE,
            ping_after: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(30),
            credentials: None,
        }
    }
}

/// Why a call to an agent failed.
#[derive(Clone, Debug, Error)]
pub enum ClientError {
    /// The address is none.
    #[error("device `{device}`: `{address}` is not an address such as 127.0.0.1:9001")]
    Address {
        /// Device name.
        device: String,
        /// The address.
        address: String,
    },
    /// It would have to be dialled without encryption.
    #[error(
        "device `{device}` at {address} is off this machine, and there are no credentials to talk \
         to it: make them with `cutline pki init` and pair its agent, or, on a network that you \
         trust, write its address as http://{address}"
    )]
    Plaintext {
        /// Device name.
        device: String,
        /// The address.
        address: String,
    },
    /// Nobody accepts connections there.
    #[error(
        "device `{device}` is not reachable at {address}: {cause}; start its agent there: \
         cutline agent --listen {address}"
    )]
    Unreachable {
        /// Device name.
        device: String,
        /// Address that was dialled.
        address: String,
        /// The system's words.
        cause: String,
    },
    /// The connection broke.
    #[error(
        "device `{device}` ({address}) was lost during {call}: {cause}; see whether its agent runs"
    )]
    Lost {
        /// Device name.
        device: String,
        /// Address that was dialled.
        address: String,
        /// What was asked of it.
        call: String,
        /// The transport's words.
        cause: String,
    },
    /// The deadline passed.
    #[error("device `{device}` ({address}) did not answer {call} in time ({cause})")]
    Late {
        /// Device name.
        device: String,
        /// Address that was dialled.
        address: String,
        /// What was asked of it.
        call: String,
        /// Which deadline.
        cause: String,
    },
    /// The agent said no, or tried and failed.
    #[error("device `{device}` ({address}) {} {call}: {cause}", verb(*.code))]
    Refused {
        /// Device name.
        device: String,
        /// Address that was dialled.
        address: String,
        /// What was asked of it.
        call: String,
        /// Kind of refusal.
        code: Code,
        /// The agent's words.
        cause: String,
    },
    /// The agent answered something that makes no sense.
    #[error("device `{device}` ({address}) answered {call} with nonsense: {cause}")]
    Answer {
        /// Device name.
        device: String,
        /// Address that was dialled.
        address: String,
        /// What was asked of it.
        call: String,
        /// What is wrong with the answer.
        cause: String,
    },
    /// A foreign server does not have what it is to answer with.
    #[error(
        "device `{device}` ({address}) does not serve its stage: {cause}; give its server the folder \
         `{model}` that `cutline split MODEL --plan PLAN -o DIR` writes, to be served under that name"
    )]
    Unprepared {
        /// Device name.
        device: String,
        /// Address that was dialled.
        address: String,
        /// Name of the package, and of the model.
        model: String,
        /// What is missing or other than it has to be.
        cause: String,
    },
    /// A file to send could not be read.
    #[error("file {path} could not be read: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        cause: String,
    },
}

/// What an agent did with a call that it answered with this code.
fn verb(code: Code) -> &'static str {
    match code {
        Code::Internal | Code::Unavailable | Code::Unknown | Code::DataLoss => "failed at",
        _ => "refused",
    }
}

impl ClientError {
    /// The kind of failure as gRPC names it, for passing it on.
    pub fn code(&self) -> Code {
        match self {
            Self::Address { .. } | Self::Plaintext { .. } => Code::InvalidArgument,
            Self::Unreachable { .. } | Self::Lost { .. } => Code::Unavailable,
            Self::Late { .. } => Code::DeadlineExceeded,
            Self::Refused { code, .. } => *code,
            Self::Answer { .. } => Code::Internal,
            Self::Unprepared { .. } => Code::FailedPrecondition,
            Self::File { .. } => Code::NotFound,
        }
    }
}

/// A connection to one agent. Clones share it.
#[derive(Clone, Debug)]
pub struct AgentClient {
    device: String,
    address: String,
    options: ClientOptions,
    channel: Channel,
    inference: GrpcInferenceServiceClient<Channel>,
    control: ControlClient<Channel>,
}

impl AgentClient {
    /// Connects to the agent of `device` at `address`: `host:port`, in plain text on the loopback
    /// address and by TLS off it, unless `http://` or `https://` in front says which.
    pub async fn connect(
        device: &str,
        address: &str,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let channel = channel::connect(device, address, &options).await?;
        Ok(Self::over(channel, device, address, options))
    }

    /// A connection that is made when it is first used, and again when it broke: for asking ever and
    /// again whether an agent is there.
    pub fn lazy(device: &str, address: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let channel = channel::lazy(device, address, &options)?;
        Ok(Self::over(channel, device, address, options))
    }

    fn over(channel: Channel, device: &str, address: &str, options: ClientOptions) -> Self {
        let limit = options.max_message;
        // How much an agent takes is for that agent to say, with its own limit in its words.
        let inference = GrpcInferenceServiceClient::new(channel.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX);
        let control = ControlClient::new(channel.clone()).max_decoding_message_size(limit);
        let (device, address) = (device.to_owned(), address.to_owned());
        Self { device, address, options, channel, inference, control }
    }

    /// Device name, as given.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Address that was dialled.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the agent is.
    pub async fn describe(&self) -> Result<AgentDescription, ClientError> {
        let request = self.timed(DescribeRequest {});
        let answer = self.control.clone().describe(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.failed("Describe", &status))
    }

    /// What a server understands besides the protocol.
    pub async fn extensions(&self) -> Result<Vec<String>, ClientError> {
        let request = self.timed(ServerMetadataRequest {});
        let answer = self.inference.clone().server_metadata(request).await;
        let answer = answer.map_err(|status| self.failed("ServerMetadata", &status))?;
        Ok(answer.into_inner().extensions)
    }

    /// A sign of life of the agent at the end of `path`, as each dials the next, asked through this
    /// one; of this one itself where the path is empty. The number names the start of its process; a
    /// server that is no agent has none, and is asked by the protocol whether it lives.
    pub async fn beat(&self, path: &[String], timeout: Duration) -> Result<u64, ClientError> {
        let mut request = tonic::Request::new(BeatRequest { path: path.to_vec() });
        request.set_timeout(timeout);
        match self.control.clone().beat(request).await {
            Ok(answer) => Ok(answer.into_inner().boot),
            Err(status) if path.is_empty() && status.code() == Code::Unimplemented => {
                self.live(timeout).await.map(|()| foreign::BOOT)
            }
            Err(status) => Err(self.failed("Beat", &status)),
        }
    }

    /// Which of these files, by SHA-256, the agent lacks, and how many bytes of each it has: those
    /// that came before a sender broke off.
    pub async fn missing(&self, sha256: Vec<String>) -> Result<Vec<(String, u64)>, ClientError> {
        let request = self.timed(MissingRequest { sha256 });
        let answer = self.control.clone().missing(request).await;
        let MissingResponse { sha256, held_bytes } =
            answer.map_err(|status| self.failed("Missing", &status))?.into_inner();
        // An older agent says nothing of beginnings.
        let held = held_bytes.into_iter().chain(std::iter::repeat(0));
        Ok(sha256.into_iter().zip(held).collect())
    }

    /// Makes the agent serve a stage under `model_name`: sends the files that it lacks, found by
    /// their SHA-256 in `files`, and has it load the model. `holder` is who needs the stage, until it
    /// [releases](Self::release) it. Returns the memory that the agent now counts for it, in bytes.
    pub async fn deploy(
        &self,
        model_name: &str,
        stage: &StageSpec,
        files: &BTreeMap<String, PathBuf>,
        holder: &str,
    ) -> Result<u64, ClientError> {
        let wanted = stage.model.iter().flat_map(|model| &model.files);
        self.send_missing(wanted.map(|file| file.sha256.clone()).collect(), files).await?;
        let stage_json = serde_json::to_string(stage).map_err(|error| ClientError::Answer {
            device: self.device.clone(),
            address: self.address.clone(),
            call: "Deploy".to_owned(),
            cause: error.to_string(),
        })?;
        let (model_name, holder) = (model_name.to_owned(), holder.to_owned());
        let mut request = tonic::Request::new(DeployRequest { model_name, stage_json, holder });
        request.set_timeout(self.options.deploy_timeout);
        let call = format!("Deploy of stage `{}`", stage.name);
        let answer = self.control.clone().deploy(request).await;
        Ok(answer.map_err(|status| self.failed(&call, &status))?.into_inner().memory_bytes)
    }

    /// Sends those files that the agent lacks; each is found in `files` by its SHA-256.
    pub async fn send_missing(
        &self,
        sha256: Vec<String>,
        files: &BTreeMap<String, PathBuf>,
    ) -> Result<(), ClientError> {
        if sha256.is_empty() {
            return Ok(());
        }
        for (digest, held) in self.missing(sha256).await? {
            let Some(path) = files.get(&digest) else {
                return Err(ClientError::File {
                    path: PathBuf::from(&digest),
                    cause: "the plan names it, but no such file was given".to_owned(),
                });
            };
            self.put(path, &digest, held).await?;
        }
        Ok(())
    }

    /// Has the agent serve a deployed stage after its next start, too, until it is removed.
    pub async fn keep(&self, model_name: &str) -> Result<(), ClientError> {
        let request = self.timed(KeepRequest { model_name: model_name.to_owned() });
        let answer = self.control.clone().keep(request).await;
        answer.map(drop).map_err(|status| self.failed("Keep", &status))
    }

    /// Ends a deployment, whoever needs it; false when there was none of that name.
    pub async fn remove(&self, model_name: &str) -> Result<bool, ClientError> {
        self.release(model_name, "").await
    }

    /// Ends the need of `holder` for a stage, and with the last need the deployment, unless it is
    /// [kept](Self::keep); true if it ended.
    pub async fn release(&self, model_name: &str, holder: &str) -> Result<bool, ClientError> {
        let (model_name, holder) = (model_name.to_owned(), holder.to_owned());
        let request = self.timed(RemoveRequest { model_name, holder });
        let answer = self.control.clone().remove(request).await;
        Ok(answer.map_err(|status| self.failed("Remove", &status))?.into_inner().removed)
    }

    /// Has the agent measure a model that it holds; `job_json` describes the job.
    pub async fn profile(
        &self,
        job_json: String,
        mut progress: impl FnMut(&Progress),
    ) -> Result<Profile, ClientError> {
        let request = ProfileRequest { job_json };
        let failed = |status: Status| self.failed("Profile", &status);
        let mut events = self.control.clone().profile(request).await.map_err(failed)?.into_inner();
        while let Some(ProfileEvent { event }) = events.message().await.map_err(failed)? {
            match event {
                Some(profile_event::Event::Progress(step)) => progress(&step),
                Some(profile_event::Event::ProfileJson(json)) => {
                    return serde_json::from_str(&json).map_err(|e| self.nonsense("Profile", e));
                }
                None => {}
            }
        }
        Err(self.nonsense("Profile", "the answer ended before its result"))
    }

    /// Has the agent measure kernels; `job_json` says which.
    pub async fn kernels(
        &self,
        job_json: String,
        mut progress: impl FnMut(&Progress),
    ) -> Result<Sweep, ClientError> {
        let request = KernelsRequest { job_json };
        let failed = |status: Status| match status.code() {
            Code::Unimplemented => self.nonsense(
                "Kernels",
                "it does not know that order; start an agent of this version there",
            ),
            _ => self.failed("Kernels", &status),
        };
        let mut events = self.control.clone().kernels(request).await.map_err(failed)?.into_inner();
        while let Some(KernelsEvent { event }) = events.message().await.map_err(failed)? {
            match event {
                Some(kernels_event::Event::Progress(step)) => progress(&step),
                Some(kernels_event::Event::SweepJson(json)) => {
                    return serde_json::from_str(&json).map_err(|e| self.nonsense("Kernels", e));
                }
                None => {}
            }
        }
        Err(self.nonsense("Kernels", "the answer ended before its result"))
    }

    /// Has the agent measure messages of these sizes to the agent at `target` and back.
    pub async fn measure_link(
        &self,
        target: &str,
        sizes: &[u64],
        repeats: u32,
        mut progress: impl FnMut(&Progress),
    ) -> Result<LinkTable, ClientError> {
        let request =
            MeasureLinkRequest { target: target.to_owned(), sizes: sizes.to_vec(), repeats };
        let failed = |status: Status| self.failed("MeasureLink", &status);
        let mut events =
            self.control.clone().measure_link(request).await.map_err(failed)?.into_inner();
        while let Some(LinkEvent { event }) = events.message().await.map_err(failed)? {
            match event {
                Some(link_event::Event::Progress(step)) => progress(&step),
                Some(link_event::Event::LinkJson(json)) => {
                    return serde_json::from_str(&json)
                        .map_err(|error| self.nonsense("MeasureLink", error));
                }
                None => {}
            }
        }
        Err(self.nonsense("MeasureLink", "the answer ended before its result"))
    }

    fn timed<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.options.call_timeout);
        request
    }

    fn nonsense(&self, call: &str, cause: impl ToString) -> ClientError {
        ClientError::Answer {
            device: self.device.clone(),
            address: self.address.clone(),
            call: call.to_owned(),
            cause: cause.to_string(),
        }
    }

    fn failed(&self, call: &str, status: &Status) -> ClientError {
        let (device, address) = (self.device.clone(), self.address.clone());
        let (call, cause) = (call.to_owned(), channel::explain(status));
        match status.code() {
            Code::DeadlineExceeded => ClientError::Late { device, address, call, cause },
            // Tonic reports its own timer as a cancellation.
            Code::Cancelled => ClientError::Late { device, address, call, cause },
            // A status that has a source was made on this side: the connection broke.
            _ if std::error::Error::source(status).is_some() => {
                ClientError::Lost { device, address, call, cause }
            }
            code => ClientError::Refused { device, address, call, code, cause },
        }
    }
}
