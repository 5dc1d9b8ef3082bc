//! The task that owns the router: events in, actions out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use cutline_core::{
    platform::DeviceId,
    routing::{
        Action, Event, Fault, FrameId, Link, LinkId, Loss, Request, RouteId, Router, Settings,
    },
    units::{Bytes, Nanos},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinError, JoinHandle, JoinSet},
};
use tonic::Code;

use super::{Change, Command, Here, RouteShare, Routes, Shared, Way, links::Path, words};
use crate::{
    client::{ClientError, clock::unix_nanos},
    runner::{Answer, Deployment, Frame, RunError, RunOptions, Runner},
    stage::{chain, trace::Trace},
    telemetry::TraceContext,
};

/// See the module.
pub(super) struct Holder {
    router: Router,
    began: Instant,
    options: RunOptions,
    /// What it is called by agents, however often it deploys.
    name: Arc<str>,
    names: Vec<Arc<str>>,
    roads: Vec<Road>,
    /// What was deployed already and is on no route.
    spare: Option<Runner>,
    links: Vec<Path>,
    devices: Vec<String>,
    frames: BTreeMap<FrameId, Held>,
    requests: BTreeMap<Request, UnderWay>,
    loads: BTreeMap<RouteId, (u64, AbortHandle)>,
    probe: Option<AbortHandle>,
    tasks: JoinSet<Done>,
    /// What happened by itself while actions were carried out.
    events: VecDeque<Event>,
    /// An answer that the router is about to accept or to drop.
    answer: Option<(Request, RouteId, Box<Answer>)>,
    /// What went wrong last, for people.
    trouble: Option<String>,
    settled: Option<oneshot::Sender<()>>,
    shared: Arc<Shared>,
    changes: mpsc::Sender<Change>,
}

/// How a route is run, and what is ready for it.
enum Road {
    Here(Arc<Here>),
    Agents {
        deployment: Box<Deployment>,
        runner: Option<Runner>,
        /// Its stages were deployed before the router asked for it.
        ahead: bool,
        /// Some of its stages may be deployed, whatever `runner` is.
        tried: bool,
        /// Its stages are being removed.
        removal: Option<JoinHandle<()>>,
    },
}

/// A frame until it is answered.
struct Held {
    frame: Frame,
    /// Its trace.
    within: Option<TraceContext>,
    reply: oneshot::Sender<Result<Answer, RunError>>,
    attempts: u32,
    error: Option<RunError>,
}

/// A request that was sent.
struct UnderWay {
    route: RouteId,
    task: AbortHandle,
}

/// The end of a task.
enum Done {
    Request(Request, Result<Box<Answer>, RunError>),
    Beat(LinkId, u64, Result<u64, ClientError>),
    Probe(LinkId, Bytes, Result<(Instant, Nanos), ClientError>),
    Load(RouteId, u64, Result<Runner, RunError>),
}

impl Holder {
    pub(super) fn new(
        routes: Routes,
        first: Runner,
        settings: Settings,
        options: RunOptions,
        shared: Arc<Shared>,
        changes: mpsc::Sender<Change>,
    ) -> Result<Self, RunError> {
        let Routes { table, ways, devices, paths } = routes;
        if ways.len() != table.routes().len()
            || paths.len() != table.links().len()
            || paths.iter().any(Vec::is_empty)
        {
            return Err(RunError::Plan("its routes are not those of its table".to_owned()));
        }
        let from_the_source = |ways: &[Vec<String>]| ways.iter().all(|way| way.len() == 1);
        if table.measured().is_some_and(|link| !from_the_source(&paths[link.index()])) {
            let reason = "the link whose speed decides does not begin at the source";
            return Err(RunError::Plan(reason.to_owned()));
        }
        let patience = Duration::from_nanos(settings.detection().0);
        let path = |(link, ways): (&Link, &Vec<Vec<String>>)| {
            let device = devices.get(link.to.index()).map_or("", String::as_str);
            Path::new(device, ways, patience, &options.client)
        };
        let links = table.links().iter().zip(&paths).map(path).collect::<Result<_, _>>();
        let links = links.map_err(|error| RunError::Plan(error.to_string()))?;
        let names: Vec<Arc<str>> =
            table.routes().iter().map(|route| route.name.as_str().into()).collect();
        let name = first.holder();
        let mut first = Some(first);
        let road = |way| match way {
            Way::Here(here) => Road::Here(Arc::new(here)),
            Way::Agents(deployment) => {
                // Its files may be copies elsewhere.
                let is_first =
                    |runner: &mut Runner| runner.deployment().stages == deployment.stages;
                let runner = first.take_if(is_first);
                Road::Agents {
                    ahead: runner.is_some(),
                    tried: runner.is_some(),
                    runner,
                    deployment: Box::new(deployment),
                    removal: None,
                }
            }
        };
        let roads = ways.into_iter().map(road).collect();
        let spare = first;
        shared.change(|routing| {
            let share = |name: &Arc<str>| RouteShare { route: name.to_string(), answered: 0 };
            routing.routes = names.iter().map(share).collect();
        });
        let began = Instant::now();
        Ok(Self {
            router: Router::new(table, settings, unix_nanos(), Nanos::ZERO),
            began,
            options,
            name,
            names,
            roads,
            spare,
            links,
            devices,
            frames: BTreeMap::new(),
            requests: BTreeMap::new(),
            loads: BTreeMap::new(),
            probe: None,
            tasks: JoinSet::new(),
            events: VecDeque::new(),
            answer: None,
            trouble: None,
            settled: None,
            shared,
            changes,
        })
    }

    /// Holds frames until nobody can send any more.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        settled: oneshot::Sender<()>,
    ) {
        self.settled = Some(settled);
        loop {
            self.carry_out();
            self.settle();
            let wake = self.router.wake().map(|at| self.began + Duration::from_nanos(at.0));
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Some(Ok(done)) => self.done(done),
                    Some(Err(error)) => self.died(&error),
                    None => {}
                },
                command = commands.recv() => match command {
                    Some(Command::Infer(frame, within, reply)) => {
                        let held = Held { frame, within, reply, attempts: 0, error: None };
                        self.submit(held);
                    }
                    Some(Command::Prefer(route, reply)) => {
                        let _ = reply.send(self.prefer(route.as_deref()));
                    }
                    Some(Command::Remove(reply)) => {
                        self.remove().await;
                        let _ = reply.send(());
                        return;
                    }
                    None => return,
                },
                () = sleep => self.router.advance(self.now()),
            }
        }
    }

    fn now(&self) -> Nanos {
        self.time_of(Instant::now())
    }

    fn time_of(&self, instant: Instant) -> Nanos {
        let since = instant.saturating_duration_since(self.began);
        Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Says that the best route of now is in use, once.
    fn settle(&mut self) {
        let table = self.router.table();
        let best = match (table.measured(), self.router.rate()) {
            (Some(_), None) => return,
            (_, rate) => table.best_at(rate.unwrap_or_default()),
        };
        if best.is_some()
            && self.router.current() == best
            && let Some(settled) = self.settled.take()
        {
            let _ = settled.send(());
        }
    }

    // What happens.

    fn submit(&mut self, held: Held) {
        match self.router.submit(self.now()) {
            Ok(id) => drop(self.frames.insert(id, held)),
            Err(full) => {
                let _ = held.reply.send(Err(RunError::Task(full.to_string())));
            }
        }
    }

    /// The names of the routes that there are, where the one that is asked for is none.
    fn prefer(&mut self, name: Option<&str>) -> Result<(), Vec<String>> {
        let of_name = |name: &str| {
            let ids = self.router.table().route_ids();
            let mut named = ids.zip(&self.names).filter(|(_, known)| ***known == *name);
            named.next().map(|(id, _)| id)
        };
        let route = name.map(|name| of_name(name).ok_or(())).transpose();
        let route = route.map_err(|()| -> Vec<String> {
            self.names.iter().map(ToString::to_string).collect()
        })?;
        self.router.prefer(self.now(), route);
        Ok(())
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Request(request, result) => self.ended(request, result),
            Done::Beat(link, number, Ok(boot)) => {
                self.router.handle(now, Event::Heard { link, number, boot });
            }
            Done::Beat(link, number, Err(error)) => {
                // Who says nothing at all is found out by the silence.
                if error.code() == Code::Unavailable {
                    self.trouble = Some(chain(&error));
                    self.router.handle(now, Event::Unreachable { link, number });
                }
            }
            Done::Probe(link, bytes, Ok((began, took))) => {
                let began = self.time_of(began);
                let event = Event::Probed { link, bytes, began, ended: began + took };
                self.router.handle(now, event);
            }
            Done::Probe(link, _, Err(_)) => self.router.handle(now, Event::ProbeFailed { link }),
            Done::Load(route, ticket, Ok(runner)) => {
                if let Road::Agents { runner: place, .. } = &mut self.roads[route.index()] {
                    *place = Some(runner);
                }
                self.router.handle(now, Event::Loaded { route, ticket });
            }
            Done::Load(route, ticket, Err(error)) => {
                self.trouble = Some(chain(&error));
                self.router.handle(now, Event::LoadFailed { route, ticket });
            }
        }
    }

    fn ended(&mut self, request: Request, result: Result<Box<Answer>, RunError>) {
        let Some(UnderWay { route, .. }) = self.requests.remove(&request) else { return };
        let now = self.now();
        match result {
            Ok(answer) => {
                for event in self.transfers(&answer.trace, now) {
                    self.router.handle(now, event);
                }
                self.answer = Some((request, route, answer));
                self.router.handle(now, Event::Answered(request));
                self.carry_out();
                self.answer = None;
            }
            Err(error) => {
                let fault = if error.is_the_frames() { Fault::Frame } else { Fault::Route };
                self.trouble = Some(chain(&error));
                if let Some(held) = self.frames.get_mut(&request.frame) {
                    held.error = Some(error);
                }
                self.router.handle(now, Event::Failed(request, fault));
            }
        }
    }

    /// A task died, or was given up.
    fn died(&mut self, error: &JoinError) {
        if error.is_cancelled() {
            return;
        }
        let died = |task: &AbortHandle| task.id() == error.id();
        let request = self.requests.iter().find(|(_, under_way)| died(&under_way.task));
        let load = self.loads.iter().find(|(_, (_, task))| died(task));
        if let Some((&request, _)) = request {
            self.ended(request, Err(RunError::Task(error.to_string())));
        } else if let Some((&route, &(ticket, _))) = load {
            self.router.handle(self.now(), Event::LoadFailed { route, ticket });
        }
    }

    /// Messages of a frame over the measured link, by the router's clock: counted back from now,
    /// through the agents' own clocks, each for itself.
    fn transfers(&self, trace: &Trace, now: Nanos) -> Vec<Event> {
        let table = self.router.table();
        let Some(link) = table.measured() else { return Vec::new() };
        let ends = &table.links()[link.index()];
        let is = |name: &str, id: DeviceId| {
            self.devices.get(id.index()).is_some_and(|known| known == name)
        };
        let mut behind = vec![Nanos::ZERO; trace.stages.len()];
        let mut events = Vec::new();
        for hop in &trace.hops {
            let Some((caller, called)) = trace.ends(hop) else { continue };
            let after = behind[hop.from];
            behind[hop.into] = after + hop.download_ns;
            let told = hop.began_unix_ns > 0 && hop.upload_ns > Nanos::ZERO;
            if told && is(&caller.device, ends.from) && is(&called.device, ends.to) {
                let since = Nanos(caller.sent_unix_ns.saturating_sub(hop.began_unix_ns));
                let began = now - after - since;
                let (bytes, ended) = (Bytes(hop.bytes_up), began + hop.upload_ns);
                events.push(Event::Transferred { link, bytes, began, ended });
            }
        }
        events
    }

    // What is to be done.

    fn carry_out(&mut self) {
        loop {
            while let Some(action) = self.router.poll() {
                self.act(action);
            }
            let Some(event) = self.events.pop_front() else { return };
            self.router.handle(self.now(), event);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { request, route, deadline } => self.send(request, route, deadline),
            Action::Cancel(request) => {
                if let Some(under_way) = self.requests.remove(&request) {
                    under_way.task.abort();
                }
            }
            Action::Deliver(request) => self.deliver(request),
            Action::Lose(frame, loss) => self.lose(frame, loss),
            Action::Heartbeat { link, number } => {
                let beat = self.links[link.index()].clone().beat();
                self.tasks.spawn(async move { Done::Beat(link, number, beat.await) });
            }
            Action::Probe { link, bytes } => {
                let probe = self.links[link.index()].clone().probe(bytes);
                let task = self.tasks.spawn(async move { Done::Probe(link, bytes, probe.await) });
                if let Some(earlier) = self.probe.replace(task) {
                    earlier.abort();
                }
            }
            Action::Load { route, ticket } => self.load(route, ticket),
            Action::Unload { route } => {
                if let Road::Agents { runner, removal, tried, .. } = &mut self.roads[route.index()]
                    && let Some(runner) = runner.take()
                {
                    *tried = false;
                    *removal = Some(tokio::spawn(runner.remove()));
                }
            }
            Action::Switched { to, why } => {
                let why = words::why(why, &self.router, &self.devices, self.trouble.as_deref());
                self.switched(to, why);
            }
        }
    }

    fn send(&mut self, request: Request, route: RouteId, deadline: Nanos) {
        let Some(held) = self.frames.get_mut(&request.frame) else { return };
        held.attempts += 1;
        let (frame, within) = (held.frame.clone(), held.within.clone());
        let left = Duration::from_nanos((deadline - self.now()).0);
        let task = match &self.roads[route.index()] {
            Road::Here(here) => {
                let here = Arc::clone(here);
                self.tasks.spawn(async move {
                    let result = here.infer(frame).await.map(Box::new);
                    Done::Request(request, result)
                })
            }
            Road::Agents { runner: Some(runner), .. } => {
                let runner = runner.clone();
                self.tasks.spawn(async move {
                    // What follows the point is padding.
                    let id = format!("{request}.");
                    let result = runner.infer_as(&id, frame, left, within.as_ref()).await;
                    Done::Request(request, result.map(Box::new))
                })
            }
            Road::Agents { runner: None, .. } => {
                self.events.push_back(Event::Failed(request, Fault::Route));
                return;
            }
        };
        self.requests.insert(request, UnderWay { route, task });
    }

    fn deliver(&mut self, request: Request) {
        let Some(held) = self.frames.remove(&request.frame) else { return };
        let Some((_, route, mut answer)) = self.answer.take_if(|(of, ..)| *of == request) else {
            return;
        };
        answer.route = Some(Arc::clone(&self.names[route.index()]));
        let fallback = self.router.table().fallback() == Some(route);
        self.shared.change(|routing| {
            routing.routes[route.index()].answered += 1;
            routing.by_fallback += u64::from(fallback);
            routing.retried += u64::from(held.attempts > 1);
        });
        // Whoever waited may have gone.
        let _ = held.reply.send(Ok(*answer));
    }

    fn lose(&mut self, frame: FrameId, loss: Loss) {
        let Some(held) = self.frames.remove(&frame) else { return };
        let error = match (loss, held.error) {
            (Loss::Rejected, Some(error)) => error,
            (loss, last) => RunError::Lost { loss, last: last.map(Box::new) },
        };
        self.shared.change(|routing| routing.lost += 1);
        let _ = held.reply.send(Err(error));
    }

    fn load(&mut self, route: RouteId, ticket: u64) {
        if let Some(earlier) = self.loads.remove(&route) {
            earlier.1.abort();
        }
        match &mut self.roads[route.index()] {
            Road::Here(_) => self.events.push_back(Event::Loaded { route, ticket }),
            Road::Agents { ahead, .. } if *ahead => {
                *ahead = false;
                self.events.push_back(Event::Loaded { route, ticket });
            }
            Road::Agents { deployment, removal, tried, .. } => {
                *tried = true;
                let (deployment, options) = ((**deployment).clone(), self.options.clone());
                let (name, removal) = (Arc::clone(&self.name), removal.take());
                let task = self.tasks.spawn(async move {
                    if let Some(removal) = removal {
                        // What is put there now must not be removed behind it.
                        let _ = removal.await;
                    }
                    let deployed = Runner::deploy_as(name, deployment, options, |_| {}).await;
                    Done::Load(route, ticket, deployed)
                });
                self.loads.insert(route, (ticket, task));
            }
        }
    }

    fn switched(&mut self, to: Option<RouteId>, why: String) {
        let capacity = to.map_or(1, |to| self.router.table().route(to).capacity);
        self.shared.room.store(capacity.saturating_add(1), Ordering::Relaxed);
        let to = to.map(|to| self.names[to.index()].to_string());
        let change = Change { after_ns: self.now(), to, why };
        self.shared.change(|routing| {
            routing.changes += u64::from(routing.last_change.is_some());
            routing.last_change = Some(change.clone());
        });
        // Nobody reads, or nobody is quick enough: it is counted all the same.
        let _ = self.changes.try_send(change);
    }

    /// Removes all stages; an agent that does not answer is not waited for.
    async fn remove(&mut self) {
        self.tasks.abort_all();
        let mut removals = JoinSet::new();
        if let Some(spare) = self.spare.take() {
            removals.spawn(spare.remove());
        }
        for road in std::mem::take(&mut self.roads) {
            match road {
                Road::Agents { runner: Some(runner), .. } => drop(removals.spawn(runner.remove())),
                Road::Agents { deployment, tried: true, .. } => {
                    let (options, name) = (self.options.clone(), Arc::clone(&self.name));
                    removals.spawn(Runner::forget(*deployment, options, name));
                }
                Road::Agents { .. } | Road::Here(_) => {}
            }
        }
        while removals.join_next().await.is_some() {}
    }
}
