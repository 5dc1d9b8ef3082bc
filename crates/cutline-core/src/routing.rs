//! Which route a frame takes, what happens when a peer fails, and when it is used again.
//!
//! [`Router`] is a machine without a clock, threads or sockets. Whoever holds the frames, on the source
//! device, tells it what happened and when ([`Event`]), carries out what it wants ([`Action`]), and
//! calls it again at [`Router::wake`]. The same code runs under the virtual clock of the tests.
//!
//! ```text
//!              submit, Event                       Action
//! camera, network, clock ──────▶ [ Router ] ──────▶ send, cancel, deliver, lose,
//!                                                   heartbeat, probe, load, unload
//! ```
//!
//! # What is promised
//!
//! * **A frame that was taken is delivered once or reported lost once**, by its deadline, and nothing
//!   happens to it afterwards. Work may be done twice: each attempt of a frame is a [`Request`] with an
//!   epoch of its own, the first answer is delivered, and the other attempts are cancelled. An answer of
//!   a cancelled epoch, of a frame that is done, or of another session is dropped.
//! * **A frame is lost for one of three reasons** ([`Loss`]): its deadline passed before any route could
//!   answer; the frame itself cannot be computed; or, which no router can report, its holder died. With a
//!   fallback the first happens only when the device cannot keep up by itself: a frame is started on the
//!   fallback no later than what the fallback needs for it, and for those before it, ahead of its deadline.
//!   A table without a fallback says so and why.
//! * **A dead, stopped or cut off peer is noticed two heartbeats after its last sign of life** at the
//!   latest ([`Settings::detection`]), at once where it refuses a connection. Its frames go on over the
//!   best of the other routes in the same moment. So without an answer there is no longer time than the
//!   detection, the latency of the next route, and the work that was under way on the source.
//! * **A route that answers its heartbeats but not its frames** is noticed when an answer takes four
//!   deviations longer than usual (RFC 6298), though never sooner than the detection time. The frame is
//!   tried elsewhere and the first answer counts. However much the answers of a route deviate, the
//!   fallback starts on a frame once it takes the detection time and twice as long as usual, which
//!   speaks against nobody yet.
//! * **No flapping.** For the sake of speed alone the route changes once a dwell at most, and only where
//!   the new one is better by the hysteresis. A route that cannot be used is left at once; one that failed
//!   is avoided for a dwell, for twice as long each time it fails again, eight dwells at most. The second
//!   forced change within a dwell leads to the fallback. So with a healthy fallback there are at most three
//!   changes in any dwell.
//! * **What healed is used again without a restart**: heartbeats are asked for ever; a peer that comes
//!   back as another process gets its stages loaded; the speed of its link is measured before it is trusted.
//! * **The route changes between frames only**: an attempt stays on the route on which it was sent.
//! * **Memory is bounded**: at most [`Settings::most_frames`] frames are held, three attempts each.
//!
//! Answers come in the order in which they are ready. Whoever delivers in order, which needs the payload,
//! does so by frame number, and counts what waits for its turn as in flight.
//!
//! Deciding takes a binary search among the ranges of the [`Table`], and a look at every route only
//! where the best one cannot be used.

use std::fmt;

use thiserror::Error;

use crate::units::{Bytes, Nanos};

mod frame;
mod pace;
mod peer;
mod router;
mod speed;
mod standing;
mod table;

pub use router::Router;
pub use table::{Fallback, Link, LinkId, Measured, Route, RouteId, Table, TableError};

/// How a router watches and decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between two heartbeats over a link; at least a millisecond.
    pub heartbeat: Nanos,
    /// Shortest time on a route before another is taken for its speed alone, and how long a route that
    /// failed is avoided.
    pub dwell: Nanos,
    /// By how much the predicted latency of another route has to be less, in thousandths.
    pub hysteresis_permille: u64,
    /// Longest time from a frame's arrival to its answer.
    pub deadline: Nanos,
    /// Most frames held at a time; more are refused.
    pub most_frames: usize,
    /// A link over which nothing went for so long is probed; at least a millisecond.
    pub probe_every: Nanos,
    /// How many routes on either side of the best one are kept loaded.
    pub neighbours: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Nanos(250_000_000),
            dwell: Nanos(2_000_000_000),
            hysteresis_permille: 100,
            deadline: Nanos(10_000_000_000),
            most_frames: 16,
            probe_every: Nanos(1_000_000_000),
            neighbours: 1,
        }
    }
}

impl Settings {
    /// How long after its last sign of life a peer counts as dead: two heartbeats.
    pub fn detection(&self) -> Nanos {
        self.heartbeat * peer::SILENT_HEARTBEATS
    }
}

/// A frame that a router holds, by its number since the router's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub u64);

/// One attempt of a frame: what an answer has to name to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The router that asks; a holder that starts again has another one.
    pub session: u64,
    /// The frame.
    pub frame: FrameId,
    /// Which attempt of the frame.
    pub epoch: u32,
}

impl fmt::Display for Request {
    /// `5f3a-12.0`: session, frame, epoch.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}.{}", self.session, self.frame.0, self.epoch)
    }
}

/// Whose fault it is that an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The way's: refused, reset, out of memory, not loaded. The frame may do elsewhere.
    Route,
    /// The frame's own: a picture that cannot be decoded fails everywhere.
    Frame,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    /// The whole answer to a request is here.
    Answered(Request),
    /// A request came to nothing.
    Failed(Request, Fault),
    /// A heartbeat was answered by the process that calls itself `boot`, another one after each start.
    Heard { link: LinkId, number: u64, boot: u64 },
    /// A heartbeat could not even be asked: the connection was refused or is broken.
    Unreachable { link: LinkId, number: u64 },
    /// A message went over a link in the direction of its frames; times by the router's clock.
    Transferred { link: LinkId, bytes: Bytes, began: Nanos, ended: Nanos },
    /// The same of a probe that was asked for.
    Probed { link: LinkId, bytes: Bytes, began: Nanos, ended: Nanos },
    /// A probe came to nothing.
    ProbeFailed { link: LinkId },
    /// All stages of a route are on their devices, ready to run.
    Loaded { route: RouteId, ticket: u64 },
    /// They could not be put there.
    LoadFailed { route: RouteId, ticket: u64 },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    /// Send a frame over a route, and say what came of it.
    Send { request: Request, route: RouteId, deadline: Nanos },
    /// Give up a request; its answer would be dropped.
    Cancel(Request),
    /// The answer to this request is the frame's; the frame need not be held any more.
    Deliver(Request),
    /// The frame is lost and need not be held any more.
    Lose(FrameId, Loss),
    /// Ask the agent behind a link for a sign of life. Whoever waits for one may give up on all but
    /// the last two.
    Heartbeat { link: LinkId, number: u64 },
    /// Send so many bytes over a link and say how long they took; an earlier probe is given up.
    Probe { link: LinkId, bytes: Bytes },
    /// Put the stages of a route on their devices; an earlier ticket of the route is given up.
    Load { route: RouteId, ticket: u64 },
    /// The stages of a route need not be kept.
    Unload { route: RouteId },
    /// Frames go over this route from now on; over none, where none can be used. For people.
    Switched { to: Option<RouteId>, why: Why },
}

/// Why the route changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was none before.
    First,
    /// It is better at the present speed.
    Better,
    /// It is the best one and can be used again.
    Back,
    /// Somebody asked for it.
    Asked,
    /// The one before cannot be used.
    Lost(Cause),
}

/// Why a route cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing was heard over a link for two heartbeats.
    Silent(LinkId),
    /// A link refuses connections.
    Unreachable(LinkId),
    /// The agent behind a link is another process than before.
    Restarted(LinkId),
    /// An answer took too long.
    Late,
    /// A request failed.
    Failed,
    /// Its stages cannot be loaded.
    NotLoaded,
}

/// Why a frame is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Loss {
    /// An attempt was under way.
    #[error("its deadline passed before any route answered")]
    Unanswered,
    /// It waited for others.
    #[error("its deadline passed before it was its turn: more frames come than the route can take")]
    Overrun,
    /// It waited for a route.
    #[error("its deadline passed while no route could be used")]
    NoRoute,
    /// No route can answer it.
    #[error("the frame itself cannot be computed")]
    Rejected,
}

/// A router holds as many frames as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} frames are held already; wait until one is delivered or lost")]
pub struct Full(pub usize);
