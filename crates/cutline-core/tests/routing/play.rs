//! A router in its world: carries out what it wants, tells it what happens, and holds it to its word.
//!
//! Every action is checked as it comes: a frame is delivered or lost once, by its deadline, by an answer
//! that is there and was not given up; nothing is sent for a frame that is done, nor over a route that is
//! not loaded, nor more at a time than the route takes; never more frames are held than allowed; the route
//! changes at most three times in a dwell; nobody is woken in vain for ever.

use std::collections::{BTreeMap, BTreeSet};

use cutline_core::{
    routing::{Action, Event, Fault, FrameId, Loss, Request, RouteId, Router, Settings, Table},
    units::Nanos,
};

use crate::{
    faults::{Fault as Trouble, What},
    place::{self, WAN, WAYS, errand_steps, ms},
    world::{EMPTY, Errand, News, Small, World},
};

/// How everybody watches in these tests.
pub(crate) fn settings() -> Settings {
    Settings {
        heartbeat: ms(100),
        dwell: ms(500),
        hysteresis_permille: 100,
        deadline: ms(4_000),
        most_frames: 8,
        probe_every: ms(300),
        neighbours: 1,
    }
}

/// Longest time that loading may take.
const LOAD_TIMEOUT: Nanos = ms(400);

/// What became of a frame, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Delivered(RouteId),
    Lost(Loss),
}

pub(crate) struct Play {
    pub(crate) world: World,
    pub(crate) router: Router,
    /// Which of the [`WAYS`] the first route is.
    first_way: usize,
    /// Frames that cannot be computed.
    pub(crate) rotten: BTreeSet<FrameId>,
    pub(crate) arrived: BTreeMap<FrameId, Nanos>,
    pub(crate) ended: BTreeMap<FrameId, (Nanos, End)>,
    pub(crate) refused: usize,
    sent: BTreeMap<Request, RouteId>,
    closed: BTreeSet<Request>,
    failed: BTreeSet<Request>,
    loaded: BTreeSet<RouteId>,
    loading: BTreeMap<(RouteId, u64), Nanos>,
    route: Option<RouteId>,
    pub(crate) switches: Vec<(Nanos, RouteId)>,
    pub(crate) heartbeats: usize,
    pub(crate) bytes_probed: u64,
    /// Longest time in which frames were held and none was delivered.
    pub(crate) quiet: Nanos,
    quiet_since: Option<Nanos>,
    idle_wakes: u32,
}

impl Play {
    pub(crate) fn new(table: Table, settings: Settings, small: Small) -> Self {
        let first_way = WAYS.len() - table.routes().len();
        let world = place::world(small);
        let mut play = Self {
            router: Router::new(table, settings, 0x5f3a, world.now),
            world,
            first_way,
            rotten: BTreeSet::new(),
            arrived: BTreeMap::new(),
            ended: BTreeMap::new(),
            refused: 0,
            sent: BTreeMap::new(),
            closed: BTreeSet::new(),
            failed: BTreeSet::new(),
            loaded: BTreeSet::new(),
            loading: BTreeMap::new(),
            route: None,
            switches: Vec::new(),
            heartbeats: 0,
            bytes_probed: 0,
            quiet: Nanos::ZERO,
            quiet_since: None,
            idle_wakes: 0,
        };
        play.carry_out(None);
        play
    }

    /// Counts the longest time without an answer from now on.
    pub(crate) fn forget_quiet(&mut self) {
        self.quiet = Nanos::ZERO;
    }

    /// Lets time pass until `end`, with a frame every `interval` and these troubles.
    pub(crate) fn run(&mut self, end: Nanos, interval: Nanos, troubles: &[Trouble]) {
        let mut changes: Vec<(Nanos, What, bool)> = Vec::new();
        for trouble in troubles {
            changes.push((trouble.at, trouble.what, true));
            changes.push((trouble.at + trouble.lasts, trouble.what, false));
        }
        changes.sort_by_key(|&(at, ..)| at);
        let mut changes = changes.into_iter().peekable();
        let mut frame = self.world.now;
        loop {
            let wake = self.router.wake().map(|at| at.max(self.world.now));
            let timeout = self.loading.values().min().map(|&since| since + LOAD_TIMEOUT);
            let change = changes.peek().map(|&(at, ..)| at);
            let next = [self.world.next(), wake, timeout, change, Some(frame)];
            let Some(now) = next.into_iter().flatten().min().filter(|&now| now <= end) else {
                self.world.now = end;
                return;
            };
            if change == Some(now) {
                self.world.now = now;
                let (_, what, begins) = changes.next().unwrap();
                what.apply(&mut self.world, begins);
            } else if frame == now {
                self.world.now = now;
                self.submit();
                frame += interval;
            } else if self.world.next() == Some(now) {
                if let Some(news) = self.world.step() {
                    self.hear(news);
                }
            } else if timeout == Some(now) {
                self.world.now = now;
                self.give_up_loading();
            } else {
                self.wake(now);
            }
        }
    }

    /// Latency of every frame that arrived from then on and was answered.
    pub(crate) fn latencies(&self, from: Nanos) -> impl Iterator<Item = Nanos> {
        self.arrived.iter().filter(move |&(_, &at)| at >= from).filter_map(|(id, &at)| {
            let &(ended, end) = self.ended.get(id)?;
            matches!(end, End::Delivered(_)).then(|| ended - at)
        })
    }

    pub(crate) fn lost(&self) -> Vec<(FrameId, Loss)> {
        let lost = |(&id, &(_, end)): (&FrameId, &(Nanos, End))| match end {
            End::Lost(loss) => Some((id, loss)),
            End::Delivered(_) => None,
        };
        self.ended.iter().filter_map(lost).collect()
    }

    /// Changes of the route in any stretch of time of one dwell.
    pub(crate) fn most_switches_in_a_dwell(&self) -> usize {
        let dwell = self.router.settings().dwell;
        let within = |&(from, _): &(Nanos, RouteId)| {
            self.switches.iter().filter(|&&(at, _)| at >= from && at < from + dwell).count()
        };
        self.switches.iter().map(within).max().unwrap_or(0)
    }

    pub(crate) fn name(&self, route: RouteId) -> &str {
        &self.router.table().route(route).name
    }

    fn way(&self, route: RouteId) -> usize {
        route.index() + self.first_way
    }

    fn submit(&mut self) {
        let now = self.world.now;
        let held = self.router.held();
        match self.router.submit(now) {
            Ok(id) => {
                assert!(self.arrived.insert(id, now).is_none(), "{id:?} was given twice");
                self.quiet_since.get_or_insert(now);
            }
            Err(full) => {
                assert!(held >= self.router.settings().most_frames, "{full} of {held}");
                self.refused += 1;
            }
        }
        self.carry_out(None);
    }

    fn wake(&mut self, now: Nanos) {
        self.idle_wakes = if now > self.world.now { 0 } else { self.idle_wakes + 1 };
        assert!(self.idle_wakes < 50, "woken again and again at {now}");
        self.world.now = now;
        self.router.advance(now);
        self.carry_out(None);
    }

    fn give_up_loading(&mut self) {
        let now = self.world.now;
        let over = |(&ticket, &since): (&(RouteId, u64), &Nanos)| {
            (since + LOAD_TIMEOUT <= now).then_some(ticket)
        };
        if let Some((route, ticket)) = self.loading.iter().find_map(over) {
            self.loading.remove(&(route, ticket));
            self.tell(Event::LoadFailed { route, ticket });
        }
    }

    fn hear(&mut self, news: News) {
        let now = self.world.now;
        match news {
            News::Home { errand: Errand::Request(request), passages, .. } => {
                for (cable, bytes, began, ended) in passages {
                    let link = self.router.table().link_ids().nth(cable).unwrap();
                    if !self.closed.contains(&request) {
                        self.tell(Event::Transferred { link, bytes, began, ended });
                    }
                }
                let event = match self.rotten.contains(&request.frame) {
                    true => Event::Failed(request, Fault::Frame),
                    false => Event::Answered(request),
                };
                // Also where it was given up long ago: its answer must not count.
                self.tell(event);
            }
            News::Home { errand: Errand::Heartbeat { link, number }, boot, .. } => {
                self.tell(Event::Heard { link, number, boot });
            }
            News::Home { errand: Errand::Probe { link, bytes }, passages, .. } => {
                let (_, _, began, ended) = passages.last().copied().unwrap_or((0, EMPTY, now, now));
                self.tell(Event::Probed { link, bytes, began, ended });
            }
            News::Home { errand: Errand::Load { route, ticket }, .. } => {
                if self.loading.remove(&(route, ticket)).is_some() {
                    self.loaded.insert(route);
                    self.tell(Event::Loaded { route, ticket });
                }
            }
            News::Failed(Errand::Request(request)) => {
                self.failed.insert(request);
                self.tell(Event::Failed(request, Fault::Route));
            }
            News::Failed(Errand::Heartbeat { link, number }) => {
                self.tell(Event::Unreachable { link, number });
            }
            News::Failed(Errand::Probe { link, .. }) => self.tell(Event::ProbeFailed { link }),
            News::Failed(Errand::Load { route, ticket }) => {
                if self.loading.remove(&(route, ticket)).is_some() {
                    self.tell(Event::LoadFailed { route, ticket });
                }
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.router.handle(self.world.now, event);
        self.carry_out(Some(event));
    }

    /// Does what the router wants, after an event.
    fn carry_out(&mut self, event: Option<Event>) {
        while let Some(action) = self.router.poll() {
            self.act(action, event);
        }
        let held = self.arrived.len() - self.ended.len();
        assert_eq!(self.router.held(), held, "frames are forgotten or kept");
        assert!(held <= self.router.settings().most_frames);
        let over =
            |request: &Request| self.closed.contains(request) || self.failed.contains(request);
        let open = self.sent.keys().rev().take(64).filter(|request| !over(request)).count();
        assert!(open <= held * 3, "{open} requests for {held} frames");
    }

    fn act(&mut self, action: Action, event: Option<Event>) {
        let now = self.world.now;
        match action {
            Action::Send { request, route, deadline } => {
                let arrived = self.arrived.get(&request.frame);
                // The frame that is just being taken is not in the list yet.
                let limit = arrived.map_or(now, |&at| at) + self.router.settings().deadline;
                assert_eq!(deadline, limit, "{request}");
                assert!(!self.ended.contains_key(&request.frame), "{request} is done");
                assert!(self.loaded.contains(&route), "{request} over a route that is not loaded");
                assert!(self.sent.insert(request, route).is_none(), "{request} was sent before");
                let way = self.way(route);
                self.world.start(Errand::Request(request), WAYS[way].steps(route.index()));
            }
            Action::Cancel(request) => {
                assert!(self.sent.contains_key(&request), "{request} was never sent");
                assert!(self.closed.insert(request), "{request} was over already");
                self.world.give_up(request);
            }
            Action::Deliver(request) => {
                assert_eq!(event, Some(Event::Answered(request)), "delivered without an answer");
                assert!(self.closed.insert(request), "{request} was given up, or answered before");
                self.end(request.frame, End::Delivered(self.sent[&request]));
                self.quiet = self.quiet.max(now - self.quiet_since.unwrap_or(now));
                self.quiet_since = (self.arrived.len() > self.ended.len()).then_some(now);
            }
            Action::Lose(frame, loss) => {
                let limit = self.arrived[&frame] + self.router.settings().deadline;
                match loss {
                    Loss::Rejected => assert!(self.rotten.contains(&frame)),
                    Loss::Unanswered | Loss::Overrun | Loss::NoRoute => assert_eq!(now, limit),
                }
                if let Some(Event::Failed(request, Fault::Frame)) = event {
                    self.closed.insert(request);
                }
                self.end(frame, End::Lost(loss));
            }
            Action::Heartbeat { link, number } => {
                self.heartbeats += 1;
                let steps = errand_steps(link, EMPTY);
                self.world.start(Errand::Heartbeat { link, number }, steps);
            }
            Action::Probe { link, bytes } => {
                assert_eq!(link.index(), WAN);
                self.bytes_probed += bytes.0;
                self.world.start(Errand::Probe { link, bytes }, errand_steps(link, bytes));
            }
            Action::Load { route, ticket } => {
                self.loaded.remove(&route);
                self.loading.retain(|&(loading, _), _| loading != route);
                self.loading.insert((route, ticket), now);
                let way = self.way(route);
                self.world.start(Errand::Load { route, ticket }, WAYS[way].load(route.index()));
            }
            Action::Unload { route } => {
                assert!(self.loaded.remove(&route), "unloads what is not loaded");
                self.world.unload(route.index());
            }
            Action::Switched { to, .. } => {
                assert_eq!(to, self.router.current().filter(|_| to.is_some()).and(to));
                if let Some(route) = to.filter(|&route| Some(route) != self.route) {
                    // The first one is no change.
                    self.switches.extend(self.route.map(|_| (now, route)));
                    self.route = Some(route);
                }
            }
        }
    }

    fn end(&mut self, frame: FrameId, end: End) {
        assert!(self.arrived.contains_key(&frame), "{frame:?} never came");
        let before = self.ended.insert(frame, (self.world.now, end));
        assert_eq!(before, None, "{frame:?} ends again: {end:?}");
        if matches!(end, End::Lost(_)) && self.arrived.len() == self.ended.len() {
            self.quiet_since = None;
        }
    }
}
