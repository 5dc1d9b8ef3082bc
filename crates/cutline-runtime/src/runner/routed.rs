//! A holder of frames: each is kept until it is answered, over whichever route can take it.
//!
//! One task owns the [`Router`](cutline_core::routing::Router), which decides; the task tells it what
//! happened and carries out what it wants. Everything that takes time is a task of its own, whose end
//! is an event:
//!
//! ```text
//! Pipeline ─ infer ─▶ [ holder: Router ] ── a request, on a route's first agent ──▶ answer, failure
//!                        ▲    │  │  │ ───── the whole network here, on its thread ▶ answer
//!                        │    │  │  └────── sign of life over a link ─────────────▶ boot number, refusal
//!                        │    │  └───────── a message of a size over a link ──────▶ its time
//!                        │    └──────────── stages of a route onto their agents ──▶ ready, failure
//!                        └─────────────────────── events ◀──────────────────────────┘
//! ```
//!
//! A frame waits for the deadline at most; a request that is given up is dropped, which its agents
//! notice. The holder dies with its process: frames that it holds then are lost with it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cutline_core::{
    routing::{Settings, Table},
    units::Nanos,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Deployment, Frame, RunError, RunOptions, Runner, tell};
use crate::telemetry::{Telemetry, TraceContext};

mod here;
mod holder;
mod links;
mod words;

pub use here::Here;

/// Changes that may wait for somebody to read them; what comes on top is only counted.
const CHANGES: usize = 64;

/// Frames that may wait for the holder to take them; each has a caller that waits for its answer.
const COMMANDS: usize = 64;

/// How long the first route may take to become usable before frames are sent wherever they can be, in
/// heartbeats.
const SETTLING: u32 = 8;

/// A plan's routes as they are carried out.
#[derive(Debug)]
pub struct Routes {
    /// Which there are, and which is the best when.
    pub table: Table,
    /// How each is run, in the table's order.
    pub ways: Vec<Way>,
    /// Names of the devices, by their numbers.
    pub devices: Vec<String>,
    /// Whom to ask for a sign of life over each of the table's links: for each of the agents at its end,
    /// of which there is at least one, addresses as each agent dials the next.
    pub paths: Vec<Vec<Vec<String>>>,
}

/// How a route is run.
#[derive(Debug)]
pub enum Way {
    /// By agents.
    Agents(Deployment),
    /// In this process.
    Here(Here),
}

/// A change of the route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When, since the holder's start.
    pub after_ns: Nanos,
    /// Where frames go from then on; absent: nowhere, they wait.
    pub to: Option<String>,
    /// Why.
    pub why: String,
}

/// What a holder did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// Frames that each route answered.
    pub routes: Vec<RouteShare>,
    /// Frames that the fallback answered, among them.
    pub by_fallback: u64,
    /// Frames that were sent more than once.
    pub retried: u64,
    /// Frames that were given up.
    pub lost: u64,
    /// How often the route changed, the first one apart.
    pub changes: u64,
    /// The last change.
    pub last_change: Option<Change>,
}

/// Frames that a route answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteShare {
    /// Name of the route.
    pub route: String,
    /// So many.
    pub answered: u64,
}

/// A handle to the holder. Clones share it; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct Routed {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    telemetry: Telemetry,
}

/// What the handles see of the holder.
#[derive(Debug)]
struct Shared {
    routing: Mutex<Routing>,
    room: AtomicUsize,
}

enum Command {
    Infer(Frame, Option<TraceContext>, oneshot::Sender<Result<Answer, RunError>>),
    Prefer(Option<String>, oneshot::Sender<Result<(), Vec<String>>>),
    Remove(oneshot::Sender<()>),
}

impl Routed {
    /// Starts to hold frames, with one route deployed already. Returns once its agents gave a sign of
    /// life and the route that is best now is in use, or after eight heartbeats; and where changes
    /// of the route can be read. Must run within a tokio runtime.
    pub async fn start(
        routes: Routes,
        first: Runner,
        settings: Settings,
        options: RunOptions,
    ) -> Result<(Self, mpsc::Receiver<Change>), RunError> {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (changes, said) = mpsc::channel(CHANGES);
        let shared =
            Arc::new(Shared { routing: Mutex::default(), room: AtomicUsize::new(usize::MAX) });
        let (settled, ready) = oneshot::channel();
        let heartbeat = Duration::from_nanos(settings.heartbeat.0);
        let telemetry = options.telemetry.clone();
        let holder =
            holder::Holder::new(routes, first, settings, options, Arc::clone(&shared), changes)?;
        tokio::spawn(holder.run(receiver, settled));
        let _ = tokio::time::timeout(heartbeat * SETTLING, ready).await;
        Ok((Self { commands, shared, telemetry }, said))
    }

    /// Has a frame answered, in a trace of its own. Several may be held at a time, as many as the
    /// settings say.
    pub async fn infer(&self, frame: Frame) -> Result<Answer, RunError> {
        let mut span = self.telemetry.trace("frame");
        let result = self.infer_within(frame, span.context()).await;
        tell(&mut span, &result);
        result
    }

    /// The same within a trace, of which every attempt is part.
    pub(super) async fn infer_within(
        &self,
        frame: Frame,
        within: Option<&TraceContext>,
    ) -> Result<Answer, RunError> {
        let gone = || RunError::Task("the holder of the frames has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        let command = Command::Infer(frame, within.cloned(), reply);
        self.commands.send(command).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Who is told of its frames.
    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// How many frames it is of use to have held now: what the present route takes at a time, and one
    /// more.
    pub fn room(&self) -> usize {
        self.shared.room.load(Ordering::Relaxed)
    }

    /// Has frames go over the route of this name while nothing speaks against it, or over the best one
    /// again. Where there is none of the name, the names that there are come back.
    pub async fn prefer(&self, route: Option<String>) -> Result<(), Vec<String>> {
        let (reply, done) = oneshot::channel();
        let gone = Vec::new;
        self.commands.send(Command::Prefer(route, reply)).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }

    /// What it did so far.
    pub fn routing(&self) -> Routing {
        self.shared.routing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes the stages of every route from their agents; those that cannot be reached are left
    /// alone. Frames that are held meanwhile are lost.
    pub async fn remove(self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Remove(reply)).await.is_ok() {
            let _ = done.await;
        }
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Routing)) {
        change(&mut self.routing.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
