//! Several frames under way through a plan, their answers in order.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{Answer, Frame, Routed, RunError, Runner, tell};
use crate::telemetry::{Span, Telemetry, TraceContext};

/// Frames under way through a plan: at most so many, answered in the order in which they were sent.
///
/// A frame counts as under way until its answer is taken, so that answers that wait for an earlier
/// one are bounded too. Each frame carries a tag of the caller's, e.g. its name. Dropping the
/// pipeline gives up on what is under way.
#[derive(Debug)]
pub struct Pipeline<T> {
    carrier: Carrier,
    limit: NonZeroUsize,
    under_way: VecDeque<UnderWay<T>>,
}

/// Who carries a pipeline's frames.
#[derive(Clone, Debug)]
pub enum Carrier {
    /// One plan: a frame that it does not answer is not answered.
    Plan(Runner),
    /// A holder, who tries other ways.
    Routes(Routed),
}

impl From<Runner> for Carrier {
    fn from(runner: Runner) -> Self {
        Carrier::Plan(runner)
    }
}

impl From<Routed> for Carrier {
    fn from(routed: Routed) -> Self {
        Carrier::Routes(routed)
    }
}

impl Carrier {
    async fn infer(&self, frame: Frame, within: Option<&TraceContext>) -> Result<Answer, RunError> {
        match self {
            Carrier::Plan(runner) => runner.infer_within(frame, within).await,
            Carrier::Routes(routed) => routed.infer_within(frame, within).await,
        }
    }

    fn telemetry(&self) -> &Telemetry {
        match self {
            Carrier::Plan(runner) => &runner.options.telemetry,
            Carrier::Routes(routed) => routed.telemetry(),
        }
    }

    /// Frames that it is of use to send at a time: those that a slow fallback cannot take yet had
    /// better wait where their time is not counted.
    fn room(&self) -> usize {
        match self {
            Carrier::Plan(_) => usize::MAX,
            Carrier::Routes(routed) => routed.room(),
        }
    }
}

#[derive(Debug)]
struct UnderWay<T> {
    tag: T,
    task: JoinHandle<Ended>,
}

/// An answer or its absence, how long it took, and the frame's span.
type Ended = (Result<Answer, RunError>, Duration, Span);

/// What came of a frame that was sent.
#[derive(Debug)]
pub struct Outcome<T> {
    /// What it was sent with.
    pub tag: T,
    /// From its sending to its answer.
    pub took: Duration,
    /// The answer, or why there is none.
    pub result: Result<Answer, RunError>,
    /// The first of the frame's trace. It is over; who knows more of the frame may say so, and ends it.
    pub span: Span,
}

impl<T> Pipeline<T> {
    /// Nothing under way yet, and never more than `limit`.
    pub fn new(carrier: impl Into<Carrier>, limit: NonZeroUsize) -> Self {
        let carrier = carrier.into();
        Self { carrier, limit, under_way: VecDeque::with_capacity(limit.get()) }
    }

    /// Whether an answer must be taken before another frame can be sent.
    pub fn is_full(&self) -> bool {
        self.under_way.len() >= self.limit.get().min(self.carrier.room())
    }

    /// Whether no frame is under way.
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Sends a frame at once; a frame more than the limit comes back. Must run within a tokio
    /// runtime.
    pub fn send(&mut self, tag: T, frame: Frame) -> Result<(), (T, Frame)> {
        // Not where only the carrier's room is gone: that may happen at any time.
        if self.under_way.len() >= self.limit.get() {
            return Err((tag, frame));
        }
        let carrier = self.carrier.clone();
        let task = tokio::spawn(async move {
            let sent = Instant::now();
            let mut span = carrier.telemetry().trace("frame");
            let result = carrier.infer(frame, span.context()).await;
            let took = sent.elapsed();
            tell(&mut span, &result);
            (result, took, span)
        });
        self.under_way.push_back(UnderWay { tag, task });
        Ok(())
    }

    /// Waits for the answer of the oldest frame under way; `None` where there is none. May be
    /// given up on and called again without losing an answer.
    pub async fn next(&mut self) -> Option<Outcome<T>> {
        let ended = (&mut self.under_way.front_mut()?.task).await;
        let UnderWay { tag, .. } = self.under_way.pop_front()?;
        let died = |error: tokio::task::JoinError| {
            (Err(RunError::Task(error.to_string())), Duration::ZERO, Span::none())
        };
        let (result, took, span) = ended.unwrap_or_else(died);
        Some(Outcome { tag, took, result, span })
    }
}

impl<T> Drop for Pipeline<T> {
    fn drop(&mut self) {
        for frame in &self.under_way {
            frame.task.abort();
        }
    }
}
