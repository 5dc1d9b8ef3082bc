//! Holding frames while they are run: over a plan's routes, and what is said of them.

use cutline_core::{
    plan::{HERE, Plan, PlannedChoice, PlannedRoutes},
    routing::Settings,
    units::Nanos,
};
use cutline_runtime::{
    model::Model,
    runner::{Change, Routed, Routing, RunOptions, Runner},
};
use tokio::{runtime::Runtime, sync::mpsc};

use crate::{
    output::Output,
    routes::{Prepared, Subject},
    staging::Staged,
};

/// Share of a frame's time that a plan is thought to take of which nothing is predicted.
const UNKNOWN: u64 = 8;

/// A holder at work, with the files of its routes.
pub(super) struct Holding {
    pub(super) routed: Routed,
    changes: mpsc::Receiver<Change>,
    /// Agents that come back are sent these again.
    _files: Vec<Staged>,
}

/// What is run, as the user asked for it.
pub(super) struct Wanted<'a> {
    pub(super) model: &'a Model,
    pub(super) plan: &'a Plan,
    pub(super) choice: &'a PlannedChoice,
    pub(super) staged: &'a Staged,
    /// The plan's routes over the speed of a link, where it is to be followed.
    pub(super) swept: Option<&'a PlannedRoutes>,
    pub(super) in_flight: usize,
    pub(super) heartbeat: Nanos,
    pub(super) deadline: Nanos,
    pub(super) options: RunOptions,
}

impl Holding {
    /// Loads the fallback and starts to hold frames; `runner` has the choice's stages deployed.
    pub(super) fn start(
        wanted: &Wanted,
        runner: Runner,
        runtime: &Runtime,
        output: &Output,
    ) -> anyhow::Result<Self> {
        let Wanted { model, plan, choice, staged, in_flight, heartbeat, deadline, .. } = *wanted;
        let unknown = Nanos(deadline.0 / UNKNOWN);
        let subject = Subject { model, plan, in_flight, unknown };
        let Prepared { routes, files } = match wanted.swept {
            Some(swept) => subject.swept_routes(swept, runtime)?,
            None => subject.routes_of(choice, staged, runtime)?,
        };
        match routes.table.why_no_fallback() {
            Some(why) => output.note(format!(
                "there is no fallback, so that frames wait for agents and links that fail: {why}"
            )),
            None => output.note(format!(
                "frames of agents and links that fail are finished in this process (route `{HERE}`)"
            )),
        }
        let settings =
            Settings { heartbeat, deadline, most_frames: in_flight, ..Settings::default() };
        let started = Routed::start(routes, runner, settings, wanted.options.clone());
        let (routed, mut changes) = runtime.block_on(started)?;
        // What happened before the first frame is nobody's business.
        while changes.try_recv().is_ok() {}
        Ok(Self { routed, changes, _files: files })
    }

    /// The next change of the route, in words; never, where there are none any more.
    pub(super) async fn change(&mut self) -> String {
        match self.changes.recv().await {
            Some(change) => words(&change),
            None => std::future::pending().await,
        }
    }

    /// What it did.
    pub(super) fn routing(&self) -> Routing {
        self.routed.routing()
    }
}

pub(super) fn words(change: &Change) -> String {
    let Change { after_ns, to, why } = change;
    match to {
        Some(to) => format!("after {after_ns} frames go over route `{to}`: {why}"),
        None => format!("after {after_ns} frames wait for a route: {why}"),
    }
}

/// The summary of what it did, for people; none where nothing happened to the plan's own route.
pub(super) fn summary(routing: &Routing) -> Option<String> {
    if routing.changes == 0 && routing.by_fallback == 0 && routing.lost == 0 {
        return None;
    }
    let shares = routing.routes.iter().filter(|share| share.answered > 0);
    let shares = shares.map(|share| format!("{} over `{}`", share.answered, share.route));
    let shares = shares.collect::<Vec<_>>().join(", ");
    let last = routing.last_change.as_ref().map(|change| format!("; the last: {}", words(change)));
    Some(format!(
        "routes: {shares}; {} by the fallback, {} sent more than once, {} lost; {} changes{}",
        routing.by_fallback,
        routing.retried,
        routing.lost,
        routing.changes,
        last.unwrap_or_default()
    ))
}
