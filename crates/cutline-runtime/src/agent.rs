//! A device on the network: an Open Inference Protocol server whose models are stages of plans.
//!
//! ```text
//! ModelInfer ─▶ bind inputs ─▶ wait for the device ─▶ prepare, compute (paced) ─▶ next stage ─▶ answer
//!                                 └── one stage at a time; free again before the next stage is called
//! ```
//!
//! An [`Agent`] serves two gRPC services on one port: inference for any client of the protocol, and
//! its own control service, which deploys stages by content hash. Everything that comes in is
//! bounded: connections, messages, files, waiting requests, memory. With credentials it speaks mutual TLS, and
//! takes orders from controllers only; without, it listens on loopback only, unless told otherwise.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use cutline_core::units::Bytes;
use thiserror::Error;
use tokio::sync::Semaphore;
use tonic::{Request, Status, service::Routes, transport::server::Server};

use crate::{
    client::{CONNECTION_WINDOW, ClientOptions, MAX_FRAME, MAX_MESSAGE, clock::unix_nanos},
    connections::{self, Connections, HANDSHAKE},
    engine::SharedEngine,
    pace::{
        Slowdown,
        claim::{Claim, ClaimError, Share},
    },
    pki::{Credentials, PkiError, Role},
    stage::clip,
    telemetry::Telemetry,
    wire::{
        control::control_server::ControlServer,
        inference::grpc_inference_service_server::GrpcInferenceServiceServer,
    },
};

mod admission;
mod arrival;
mod batching;
mod control;
mod deployed;
mod http;
mod inference;
pub mod kernels;
mod measure;
pub mod memory;
mod meter;
mod metrics;
mod peers;
mod profile;
mod replicas;
mod report;
mod repository;
pub mod store;
mod triton;
mod turns;
mod worker;

pub use batching::MOST_AT_ONCE;
pub use kernels::RemoteSweep;
pub use profile::RemoteJob;
pub use report::{AgentReport, AgentStatus, Reporter, StageReport};

use admission::{Admission, MAX_OF_CALLER};
use deployed::Deployed;
use memory::Budget;
use repository::{Entry, Repository};
use store::Store;

/// Stages that may be deployed at a time.
const MAX_STAGES: usize = 256;

/// Largest message of the control service: a chunk of a file, or the description of a stage.
const MAX_ORDER: usize = 16 << 20;

/// How long open calls may go on after the order to stop.
const GRACE: Duration = Duration::from_secs(5);

/// What device to be.
#[derive(Clone)]
pub struct AgentConfig {
    /// Address to listen on, `host:port`; port 0 takes a free one.
    pub listen: String,
    /// What it shows to its callers and to the agents that it calls; absent: nothing is encrypted,
    /// and whoever reaches it may do everything.
    pub credentials: Option<Arc<Credentials>>,
    /// Without credentials, allow an address that other machines reach.
    pub insecure: bool,
    /// Folder of the files that were deployed; made if absent, kept after the agent ends.
    pub store: PathBuf,
    /// Engines that it has; the first is its own choice.
    pub engines: Vec<SharedEngine>,
    /// Threads of one run, unless a stage says otherwise.
    pub threads: usize,
    /// Processors that its computing is bound to; empty: all.
    pub cores: Vec<usize>,
    /// How many processors the machine has for all its agents.
    pub processors: usize,
    /// How much slower than this machine it is.
    pub slowdown: Slowdown,
    /// What each call of an engine on one frame takes, in place of its time here by the slowdown.
    pub call_time: Option<Duration>,
    /// Folder of the register of agents of this machine; absent: not registered, not checked.
    pub register: Option<PathBuf>,
    /// Memory that it has; absent: as much as the machine.
    pub memory: Option<Bytes>,
    /// Whether the limit also holds for what the whole process really occupies.
    pub whole_process: bool,
    /// Most connections that it has open at a time; more are closed at once.
    pub max_connections: usize,
    /// Largest inference request or answer, in bytes.
    pub max_message: usize,
    /// Largest file that may be deployed, in bytes.
    pub max_file: u64,
    /// Most frames of a stage that it may compute at once, where that pays; 1: one by one.
    pub max_batch: usize,
    /// How it calls other agents.
    pub client: ClientOptions,
    /// Told what there is to say of its stages; by default nobody.
    pub remark: Remark,
    /// Told of requests and what took their time.
    pub telemetry: Telemetry,
}

/// Takes what an agent has to say to people, a line at a time.
pub type Remark = Arc<dyn Fn(&str) + Send + Sync>;

impl AgentConfig {
    /// An agent at the machine's own speed, with one thread, on `listen`.
    pub fn new(listen: impl Into<String>, store: PathBuf, engines: Vec<SharedEngine>) -> Self {
        Self {
            listen: listen.into(),
            credentials: None,
            insecure: false,
            store,
            engines,
            threads: 1,
            cores: Vec::new(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            slowdown: Slowdown::NONE,
            call_time: None,
            register: None,
            memory: None,
            whole_process: false,
            max_connections: connections::affordable(),
            max_message: MAX_MESSAGE,
            max_file: 64 << 30,
            max_batch: 1,
            client: ClientOptions::default(),
            remark: Arc::new(|_| {}),
            telemetry: Telemetry::default(),
        }
    }

    /// The address to listen on.
    pub fn listen(&self) -> Result<SocketAddr, AgentError> {
        let bad = || AgentError::Address(self.listen.clone());
        self.listen.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(bad)
    }

    /// Where an agent keeps deployed files unless told otherwise: the user's cache folder.
    pub fn default_store() -> PathBuf {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        cache.unwrap_or_else(std::env::temp_dir).join("cutline").join("store")
    }
}

/// Why an agent could not start or had to stop.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The address is none.
    #[error("`{0}` is not an address to listen on, such as 127.0.0.1:9001")]
    Address(String),
    /// Others could reach it and nothing is encrypted.
    #[error(
        "{0} can be reached from other machines, and this agent has no credentials: get them with \
         --pair, listen on 127.0.0.1, or allow it with --insecure on a network that you trust"
    )]
    Insecure(SocketAddr),
    /// The credentials are not an agent's, or cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The port is taken, or not ours to take.
    #[error("cannot listen on {address}; is another agent using it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// No engine was given.
    #[error("an agent needs at least one engine")]
    NoEngine,
    /// The machine cannot be all these devices.
    #[error(transparent)]
    Share(#[from] ClaimError),
    /// The folder of deployed files cannot be used.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// The server failed.
    #[error("the server failed")]
    Serve(#[source] tonic::transport::Error),
}

/// A device that has its port and waits to serve.
pub struct Agent {
    listener: tokio::net::TcpListener,
    address: SocketAddr,
    state: Arc<State>,
    _share: Option<Claim>,
}

/// What all calls to an agent share.
struct State {
    /// Itself, for work that outlives the call that began it.
    me: Weak<State>,
    config: AgentConfig,
    store: Store,
    memory: Arc<Budget>,
    /// The device itself: one stage computes at a time.
    slot: Arc<Semaphore>,
    connections: Arc<Connections>,
    /// Requests under way.
    requests: Admission,
    stages: Repository,
    peers: peers::Peers,
    /// How busy agents are that share a stage.
    replicas: Arc<replicas::Replicas>,
    /// Names this start of the process.
    boot: u64,
}

impl Agent {
    /// Takes the port. Must run within a tokio runtime.
    pub fn bind(mut config: AgentConfig) -> Result<Self, AgentError> {
        let address = config.listen()?;
        if let Some(credentials) = &config.credentials {
            if !credentials.has(Role::Agent) {
                return Err(PkiError::Role { wanted: Role::Agent }.into());
            }
            config.client.credentials = Some(Arc::clone(credentials));
        } else if !address.ip().is_loopback() && !config.insecure {
            return Err(AgentError::Insecure(address));
        }
        if config.engines.is_empty() {
            return Err(AgentError::NoEngine);
        }
        let share = Share { slowdown: config.slowdown, threads: config.threads as u64 };
        let processors = config.processors as u64;
        let register = config.register.as_deref();
        let share = register.map(|folder| Claim::take(folder, processors, share)).transpose()?;
        let store = Store::open(config.store.clone(), config.max_file)?;
        let stages = Repository::open(config.store.join("kept"))?;
        let failed = |source| AgentError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let state = Arc::new_cyclic(|me| State {
            me: me.clone(),
            store,
            memory: Arc::new(Budget::new(config.memory, config.whole_process)),
            slot: Arc::new(Semaphore::new(1)),
            connections: Connections::new(config.max_connections),
            requests: Admission::default(),
            stages,
            peers: peers::Peers::new(config.client.clone()),
            replicas: Arc::default(),
            boot: unix_nanos(),
            config,
        });
        Ok(Self { listener, address, state, _share: share })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Who says what it is and does, for as long as it serves.
    pub fn reporter(&self) -> Reporter {
        Reporter::new(Arc::downgrade(&self.state))
    }

    /// Serves until `shutdown` is done; open calls then have five seconds to end.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        let limit = self.state.config.max_message;
        let inference = GrpcInferenceServiceServer::from_arc(Arc::clone(&self.state))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        let control =
            ControlServer::from_arc(Arc::clone(&self.state)).max_decoding_message_size(MAX_ORDER);
        let routes = Routes::from(http::router(Arc::clone(&self.state)))
            .add_service(arrival::Timed(inference))
            .add_service(control);
        tokio::spawn(load_kept(Arc::clone(&self.state)));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let mut server = Server::builder();
        if let Some(credentials) = &self.state.config.credentials {
            let tls = credentials.server_tls().timeout(HANDSHAKE);
            server = server.tls_config(tls).map_err(AgentError::Serve)?;
        }
        let open = Arc::clone(&self.state.connections);
        let incoming = connections::incoming(self.listener, open);
        let server = server
            .initial_stream_window_size(CONNECTION_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_concurrent_streams(2 * MAX_OF_CALLER as u32)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(30)))
            .accept_http1(true)
            .add_routes(routes)
            .serve_with_incoming_shutdown(Box::pin(incoming), async {
                let _ = stopped.await;
            });
        tokio::pin!(server, shutdown);
        tokio::select! {
            ended = &mut server => return ended.map_err(AgentError::Serve),
            () = &mut shutdown => {}
        }
        let _ = stop.send(());
        match tokio::time::timeout(GRACE, server).await {
            Ok(ended) => ended.map_err(AgentError::Serve),
            // A call that outlasts the grace ends with its connection.
            Err(_) => Ok(()),
        }
    }
}

/// Loads what was here before the agent was started, one after another. What cannot be loaded stays
/// known, with the reason.
async fn load_kept(state: Arc<State>) {
    for (name, _) in state.stages.list() {
        let _ = state.load_model(&name, false).await;
    }
}

impl State {
    /// The stage that answers under a name.
    fn ready(&self, model_name: &str) -> Result<Arc<Deployed>, Status> {
        match self.stages.find(model_name)? {
            Entry::Ready(stage) => Ok(stage),
            Entry::Unloaded(_, reason) => {
                let name = clip(model_name);
                Err(Status::unavailable(format!("model `{name}` is not loaded: {reason}")))
            }
        }
    }

    /// Refuses orders from all but controllers, where callers have to show who they are.
    fn orders_from<T>(&self, request: &Request<T>) -> Result<(), Status> {
        match self.shows(request, &[Role::Controller]) {
            true => Ok(()),
            false => Err(Status::permission_denied(
                "only a controller may order this; ask yours for credentials of that role",
            )),
        }
    }

    /// Whether a caller has one of these roles, where callers have to show who they are.
    fn shows<T>(&self, request: &Request<T>, roles: &[Role]) -> bool {
        if self.config.credentials.is_none() {
            return true;
        }
        let shown = request.peer_certs();
        let certificate = shown.as_deref().and_then(|chain| chain.first());
        certificate.is_some_and(|shown| roles.iter().any(|role| role.is_in(shown)))
    }

    /// The engine of this name, or the first.
    fn engine(&self, name: Option<&str>) -> Option<&SharedEngine> {
        let mut engines = self.config.engines.iter();
        match name {
            None => engines.next(),
            Some(name) => engines.find(|engine| engine.name() == name),
        }
    }
}
