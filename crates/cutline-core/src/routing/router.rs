//! The machine: what it knows, what events change, what it wants done.
//!
//! Every call first brings the clock forward and ends what is past its deadline; then the event is
//! taken in; then [`Router::settle`] draws the consequences, always in the same order: links, late
//! attempts, loads and probes, the decision, frames that run out of time, frames whose turn it is.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use super::{
    Action, Cause, Event, Fault, FrameId, Full, LinkId, Loss, Request, RouteId, Settings, Table,
    Why,
    frame::{Attempt, Frame, MOST_OPEN},
    pace::Pace,
    peer::Peer,
    speed::Speed,
    standing::{Load, Standing},
};
use crate::units::{BytesPerSec, Nanos};

/// Shortest interval of anything periodic.
const SHORTEST: Nanos = Nanos(1_000_000);

/// Decides for every frame of one holder which route it takes.
#[derive(Clone, Debug)]
pub struct Router {
    table: Table,
    settings: Settings,
    session: u64,
    now: Nanos,
    peers: Vec<Peer>,
    standings: Vec<Standing>,
    /// Routes that are loaded or being loaded: few, however many there are.
    present: BTreeSet<RouteId>,
    speed: Option<Speed>,
    frames: BTreeMap<FrameId, Frame>,
    next_frame: u64,
    next_ticket: u64,
    current: Option<RouteId>,
    /// The route that somebody asked for.
    preferred: Option<RouteId>,
    /// The route before was left by force, so that the best one needs no hysteresis to come back.
    displaced: bool,
    switched: Option<Nanos>,
    forced: Option<Nanos>,
    actions: VecDeque<Action>,
}

impl Router {
    /// A router that knows nothing yet but its table. `session` tells its requests from those of
    /// routers before it.
    pub fn new(table: Table, settings: Settings, session: u64, now: Nanos) -> Self {
        let settings = Settings {
            heartbeat: settings.heartbeat.max(SHORTEST),
            probe_every: settings.probe_every.max(SHORTEST),
            most_frames: settings.most_frames.max(1),
            ..settings
        };
        let base = |link: LinkId| table.links()[link.index()].base;
        let mut router = Self {
            peers: table.links().iter().map(|_| Peer::default()).collect(),
            standings: table.routes().iter().map(|_| Standing::new()).collect(),
            present: BTreeSet::new(),
            speed: table.measured().map(base).map(Speed::new),
            settings,
            session,
            now,
            frames: BTreeMap::new(),
            next_frame: 0,
            next_ticket: 0,
            current: None,
            preferred: None,
            displaced: false,
            switched: None,
            forced: None,
            actions: VecDeque::new(),
            table,
        };
        router.settle();
        router
    }

    /// Takes a frame, unless as many are held as may be.
    pub fn submit(&mut self, now: Nanos) -> Result<FrameId, Full> {
        self.begin(now);
        if self.frames.len() >= self.settings.most_frames {
            self.settle();
            return Err(Full(self.frames.len()));
        }
        let id = FrameId(self.next_frame);
        self.next_frame += 1;
        self.frames.insert(id, Frame::new(self.now + self.settings.deadline));
        self.settle();
        Ok(id)
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Nanos, event: Event) {
        self.begin(now);
        match event {
            Event::Answered(request) => self.answered(request),
            Event::Failed(request, fault) => self.failed(request, fault),
            Event::Heard { link, number, boot } => self.heard(link, number, boot),
            Event::Unreachable { link, number } => {
                if self.peers[link.index()].refused(number) {
                    self.lose_link(link, Cause::Unreachable(link));
                }
            }
            Event::Transferred { link, bytes, began, ended } => {
                if let Some(speed) = self.speed_of(link) {
                    speed.transferred(now, began, ended, bytes);
                }
            }
            Event::Probed { link, bytes, began, ended } => {
                if let Some(speed) = self.speed_of(link) {
                    speed.probed(now, began, ended, bytes);
                }
            }
            Event::ProbeFailed { link } => {
                let pause = self.settings.heartbeat;
                if let Some(speed) = self.speed_of(link) {
                    speed.probe_failed(now, pause);
                }
            }
            Event::Loaded { route, ticket } => {
                if self.standings[route.index()].load == (Load::Loading { ticket }) {
                    self.set_load(route, Load::Loaded);
                }
            }
            Event::LoadFailed { route, ticket } => {
                if self.standings[route.index()].load == (Load::Loading { ticket }) {
                    self.strike(route, Cause::NotLoaded);
                    let not_before = self.standings[route.index()].avoided_until;
                    self.set_load(route, Load::Absent { not_before });
                }
            }
        }
        self.settle();
    }

    /// Takes a route for the best one, whatever is known of the others, or chooses by itself again. It is
    /// left while something speaks against it, and come back to, as the best one would be.
    pub fn prefer(&mut self, now: Nanos, route: Option<RouteId>) {
        self.begin(now);
        self.preferred = route.filter(|route| route.index() < self.standings.len());
        self.settle();
    }

    /// Does what is due by now; to be called at [`Router::wake`].
    pub fn advance(&mut self, now: Nanos) {
        self.begin(now);
        self.settle();
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Router::advance`] if nothing happens before.
    pub fn wake(&self) -> Option<Nanos> {
        let frames = self.frames.values();
        let deadlines = frames.clone().map(|frame| frame.deadline);
        let fresh = frames.flat_map(|frame| &frame.attempts).filter(|attempt| !attempt.late);
        let late = fresh.map(|attempt| attempt.late_at);
        let peers = self.peers.iter().map(|peer| peer.wake(self.settings.heartbeat));
        let standings = self.standings.iter().flat_map(|standing| {
            let load = match standing.load {
                Load::Absent { not_before } => not_before,
                Load::Loading { .. } | Load::Loaded => Nanos::ZERO,
            };
            [load, standing.avoided_until, standing.retry_from(self.settings.heartbeat)]
        });
        let dwelt = self.switched.map(|at| at + self.settings.dwell);
        let later = standings.chain(dwelt).chain(self.next_probe()).filter(|&at| at > self.now);
        let rescue = self.next_rescue();
        deadlines.chain(late).chain(peers).chain(later).chain(rescue).min()
    }

    /// The routes among which it chooses.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The settings as they are used.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The route of the next frame; none where none can be used.
    pub fn current(&self) -> Option<RouteId> {
        self.current
    }

    /// Estimated rate of the measured link; none where it has to be measured first.
    pub fn rate(&self) -> Option<BytesPerSec> {
        self.speed.as_ref().and_then(Speed::rate)
    }

    /// Whether the agent behind a link gives signs of life.
    pub fn is_up(&self, link: LinkId) -> bool {
        self.peers[link.index()].up
    }

    /// How many frames are held.
    pub fn held(&self) -> usize {
        self.frames.len()
    }

    /// Brings the clock forward, never back, and ends what is past its deadline.
    fn begin(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        let now = self.now;
        let over = |(&id, frame): (&FrameId, &Frame)| (frame.deadline <= now).then_some(id);
        // Deadlines ascend with the numbers of frames, so that those that are over come first.
        while let Some(id) = self.frames.first_key_value().and_then(over) {
            let under_way = self.frames.get(&id).is_some_and(|frame| !frame.attempts.is_empty());
            let loss = match self.current {
                _ if under_way => Loss::Unanswered,
                Some(_) => Loss::Overrun,
                None => Loss::NoRoute,
            };
            self.end(id, None);
            self.actions.push_back(Action::Lose(id, loss));
        }
    }

    fn settle(&mut self) {
        self.watch_links();
        self.watch_attempts();
        self.load();
        self.probe();
        self.decide();
        self.rescue();
        self.dispatch();
    }

    // What events change.

    fn answered(&mut self, request: Request) {
        let Some(attempt) = self.attempt(request) else { return };
        let late_after = self.late_after(attempt.route);
        let mut pace = self.pace(attempt.route);
        pace.answered(self.now - attempt.since, late_after);
        let standing = &mut self.standings[attempt.route.index()];
        standing.pace = Some(pace);
        if !attempt.late {
            standing.forgive();
        }
        for link in self.table.links_of(attempt.route) {
            self.peers[link.index()].alive(self.now);
        }
        self.end(request.frame, Some(request.epoch));
        self.actions.push_back(Action::Deliver(request));
    }

    fn failed(&mut self, request: Request, fault: Fault) {
        let Some(attempt) = self.attempt(request) else { return };
        if fault == Fault::Frame {
            self.end(request.frame, Some(request.epoch));
            self.actions.push_back(Action::Lose(request.frame, Loss::Rejected));
            return;
        }
        self.blame(attempt.route, attempt.since, Cause::Failed);
        if let Some(frame) = self.frames.get_mut(&request.frame) {
            frame.attempts.retain(|open| open.epoch != request.epoch);
            frame.wait_unless_under_way();
        }
        self.close(&attempt);
    }

    fn heard(&mut self, link: LinkId, number: u64, boot: u64) {
        let sign = self.peers[link.index()].answered(self.now, number, boot);
        if let (Some(time), Some(speed)) = (sign.round_trip, self.speed_of(link)) {
            speed.round_trip(time);
        }
        if sign.restarted {
            self.forget(link);
        }
    }

    /// The attempt that a request is, if its answer counts.
    fn attempt(&self, request: Request) -> Option<Attempt> {
        let frame = self.frames.get(&request.frame).filter(|_| request.session == self.session)?;
        frame.attempts.iter().find(|attempt| attempt.epoch == request.epoch).copied()
    }

    /// Lets go of a frame: all its attempts but the one that ended by itself are cancelled.
    fn end(&mut self, id: FrameId, ended: Option<u32>) {
        let Some(frame) = self.frames.remove(&id) else { return };
        for attempt in &frame.attempts {
            if Some(attempt.epoch) != ended {
                self.cancel(id, attempt);
            }
            self.close(attempt);
        }
    }

    fn cancel(&mut self, frame: FrameId, attempt: &Attempt) {
        let request = Request { session: self.session, frame, epoch: attempt.epoch };
        self.actions.push_back(Action::Cancel(request));
    }

    /// Counts an attempt as over.
    fn close(&mut self, attempt: &Attempt) {
        let standing = &mut self.standings[attempt.route.index()];
        standing.open -= 1;
        standing.under_way -= usize::from(!attempt.late);
    }

    /// A peer that is another process than before knows nothing of its stages and requests.
    fn forget(&mut self, link: LinkId) {
        let table = &self.table;
        let needs = |route: RouteId| table.links_of(route).any(|used| used == link);
        let mut over = Vec::new();
        for (&id, frame) in &mut self.frames {
            frame.attempts.retain(|attempt| {
                let gone = needs(attempt.route);
                over.extend(gone.then_some((id, *attempt)));
                !gone
            });
            frame.wait_unless_under_way();
        }
        let routes: Vec<RouteId> = table.route_ids().filter(|&route| needs(route)).collect();
        for (id, attempt) in over {
            self.cancel(id, &attempt);
            self.close(&attempt);
            self.blame(attempt.route, attempt.since, Cause::Restarted(link));
        }
        for route in routes {
            self.set_load(route, Load::Absent { not_before: Nanos::ZERO });
        }
    }

    fn set_load(&mut self, route: RouteId, load: Load) {
        match load {
            Load::Absent { .. } => self.present.remove(&route),
            Load::Loading { .. } | Load::Loaded => self.present.insert(route),
        };
        self.standings[route.index()].load = load;
    }

    fn lose_link(&mut self, link: LinkId, cause: Cause) {
        self.peers[link.index()].up = false;
        let now = self.now;
        if let Some(speed) = self.speed_of(link) {
            speed.cut(now);
        }
        for frame in self.frames.values_mut() {
            for attempt in frame.attempts.iter_mut().filter(|attempt| !attempt.late) {
                if self.table.links_of(attempt.route).any(|used| used == link) {
                    attempt.late = true;
                    self.standings[attempt.route.index()].under_way -= 1;
                }
            }
            frame.wait_unless_under_way();
        }
        let current = self.current.filter(|&route| self.needs(route, link));
        // Loading over a broken link comes to nothing, or its end would not be heard.
        let is_vain = |route: &RouteId| {
            let loading = matches!(self.standings[route.index()].load, Load::Loading { .. });
            loading && self.needs(*route, link)
        };
        let vain: Vec<RouteId> = self.present.iter().copied().filter(is_vain).collect();
        for route in vain {
            self.set_load(route, Load::Absent { not_before: Nanos::ZERO });
        }
        if let Some(route) = current {
            self.strike(route, cause);
        }
    }

    /// Strikes a route for an attempt that began then; many that fail together are one failure.
    fn blame(&mut self, route: RouteId, since: Nanos, cause: Cause) {
        let struck = self.standings[route.index()].struck;
        if struck.is_none_or(|(at, _)| at <= since) {
            self.strike(route, cause);
        }
    }

    fn strike(&mut self, route: RouteId, cause: Cause) {
        let (now, dwell) = (self.now, self.settings.dwell);
        self.standings[route.index()].strike(now, cause, dwell);
    }

    // What follows from it.

    fn watch_links(&mut self) {
        let (now, interval) = (self.now, self.settings.heartbeat);
        for link in self.table.link_ids() {
            if self.peers[link.index()].is_silent(now, interval) {
                self.lose_link(link, Cause::Silent(link));
            }
            if let Some(number) = self.peers[link.index()].ask(now, interval) {
                self.actions.push_back(Action::Heartbeat { link, number });
            }
        }
    }

    fn watch_attempts(&mut self) {
        let mut late = Vec::new();
        for frame in self.frames.values_mut() {
            let due = |attempt: &&mut Attempt| !attempt.late && attempt.late_at <= self.now;
            for attempt in frame.attempts.iter_mut().filter(due) {
                attempt.late = true;
                late.push((attempt.route, attempt.since));
            }
            frame.wait_unless_under_way();
        }
        for (route, since) in late {
            self.standings[route.index()].under_way -= 1;
            self.blame(route, since, Cause::Late);
            let now = self.now;
            if let Some(speed) = self.speed.as_mut().filter(|_| self.table.is_measured(route)) {
                speed.doubt(now);
            }
        }
    }

    /// Loads the fallback and the routes around the best one, and unloads those far from it.
    fn load(&mut self) {
        let [near, far] = self.around_best(self.settings.neighbours);
        let always = self.current.into_iter().chain(self.preferred).chain(self.table.fallback());
        let kept: Vec<RouteId> = always.collect();
        let looked_at = self.present.iter().chain(&kept).chain(&near).copied();
        let mut looked_at: Vec<RouteId> = looked_at.collect();
        looked_at.sort_unstable();
        looked_at.dedup();
        for route in looked_at {
            let kept = kept.contains(&route);
            let standing = &self.standings[route.index()];
            match standing.load {
                Load::Absent { not_before } if not_before <= self.now => {
                    if (kept || near.contains(&route)) && self.is_reachable(route) {
                        let ticket = self.next_ticket;
                        self.next_ticket += 1;
                        self.set_load(route, Load::Loading { ticket });
                        self.actions.push_back(Action::Load { route, ticket });
                    }
                }
                Load::Loaded if !kept && !far.contains(&route) && standing.open == 0 => {
                    self.set_load(route, Load::Absent { not_before: Nanos::ZERO });
                    self.actions.push_back(Action::Unload { route });
                }
                Load::Absent { .. } | Load::Loading { .. } | Load::Loaded => {}
            }
        }
    }

    /// The best of the routes whose links are up, and so many on either side of the best range; and
    /// the same with one more on either side.
    fn around_best(&self, neighbours: usize) -> [Vec<RouteId>; 2] {
        let rate = self.guess();
        let at = self.table.range_at(rate);
        let is_up: Vec<bool> = self
            .table
            .link_sets()
            .map(|links| links.iter().all(|&link| self.peers[link].up))
            .collect();
        let reachable = |route: &RouteId| is_up[self.table.link_set(*route)];
        let further = neighbours.saturating_add(1);
        let slower = self.table.ranges().take(at + 1).rev().filter(reachable);
        let slower: Vec<RouteId> = slower.take(further.saturating_add(1)).collect();
        let faster = self.table.ranges().skip(at + 1).filter(reachable);
        let faster: Vec<RouteId> = faster.take(further).collect();
        let best = self.table.best_at(rate).filter(reachable);
        let best = best.or_else(|| self.least_latency(self.table.route_ids().filter(reachable)));
        [neighbours, further].map(|count| {
            let slower = slower.iter().take(count.saturating_add(1));
            slower.chain(faster.iter().take(count)).chain(&best).copied().collect()
        })
    }

    fn probe(&mut self) {
        let due = self.next_probe().is_some_and(|at| at <= self.now);
        let (Some(link), Some(speed), true) = (self.table.measured(), &mut self.speed, due) else {
            return;
        };
        let bytes = speed.probe(self.now);
        self.actions.push_back(Action::Probe { link, bytes });
    }

    fn next_probe(&self) -> Option<Nanos> {
        let link = self.table.measured().filter(|link| self.peers[link.index()].up)?;
        let speed = self.speed_if(link)?;
        Some(speed.wants_probe_at(self.settings.probe_every))
    }

    /// Chooses the route of the next frames.
    fn decide(&mut self) {
        let best = self.best();
        let Some(current) = self.current.filter(|&route| self.is_clear(route)) else {
            return self.leave(best);
        };
        let Some(best) = best.filter(|&best| best != current) else { return };
        let dwelt = self.switched.is_none_or(|at| self.now >= at + self.settings.dwell);
        let preferred = self.preferred == Some(best);
        if preferred || dwelt && (self.displaced || self.is_much_better(best, current)) {
            let why = match (preferred, self.displaced) {
                (true, _) => Why::Asked,
                (false, true) => Why::Back,
                (false, false) => Why::Better,
            };
            self.displaced = false;
            self.switch(Some(best), why);
        }
    }

    /// The route of the present cannot be used: another one, at once, if there is any.
    fn leave(&mut self, best: Option<RouteId>) {
        let Some(current) = self.current else {
            let why = if self.switched.is_none() { Why::First } else { Why::Back };
            if let Some(route) = best.or_else(|| self.best_of_bad()) {
                self.switch(Some(route), why);
            }
            return;
        };
        let again = self.forced.is_some_and(|at| self.now < at + self.settings.dwell);
        let refuge = self.table.fallback().filter(|&route| again && self.is_clear(route));
        let to = refuge.or(best).or_else(|| self.best_of_bad());
        // A route that failed and has no better is kept, and tried again after a pause.
        let to = to.or(Some(current).filter(|&route| self.is_ready(route)));
        if to == Some(current) {
            return;
        }
        let struck = self.standings[current.index()].struck;
        let cause = struck.map_or(Cause::NotLoaded, |(_, cause)| cause);
        self.forced = Some(self.now);
        self.displaced = true;
        self.switch(to, Why::Lost(cause));
    }

    fn switch(&mut self, to: Option<RouteId>, why: Why) {
        if self.current.is_some() {
            self.switched = Some(self.now);
        }
        self.current = to;
        self.actions.push_back(Action::Switched { to, why });
    }

    /// Starts frames on the fallback that run out of time, or that take too long elsewhere.
    fn rescue(&mut self) {
        let Some(fallback) = self.refuge() else { return };
        let needed = self.usual(fallback);
        let mut others = self.standings[fallback.index()].under_way;
        for frame in self.frames.values_mut().filter(|frame| !frame.is_on(fallback)) {
            if !frame.rescue && frame.rescue_at(needed, others) <= self.now {
                (frame.rescue, frame.waiting) = (true, true);
            }
            others += usize::from(frame.rescue);
        }
    }

    fn next_rescue(&self) -> Option<Nanos> {
        let fallback = self.refuge()?;
        let needed = self.usual(fallback);
        let mut others = self.standings[fallback.index()].under_way;
        let mut next = None;
        for frame in self.frames.values().filter(|frame| !frame.is_on(fallback)) {
            match frame.rescue {
                true => others += 1,
                false => next = next.into_iter().chain([frame.rescue_at(needed, others)]).min(),
            }
        }
        next
    }

    /// The fallback, where frames may need it beside the current route.
    fn refuge(&self) -> Option<RouteId> {
        let fallback = self.table.fallback().filter(|&route| Some(route) != self.current)?;
        Some(fallback).filter(|&route| self.is_usable(route))
    }

    /// Sends frames whose turn it is.
    fn dispatch(&mut self) {
        if let Some(fallback) = self.refuge() {
            while let Some(id) = self.next_for(fallback, |frame| frame.rescue) {
                self.send(id, fallback);
            }
        }
        if let Some(route) = self.current.filter(|&route| self.is_usable(route)) {
            while let Some(id) = self.next_for(route, |_| true) {
                self.send(id, route);
            }
        }
    }

    /// The frame that goes next over a route: the oldest that can still be answered in time; where
    /// none can, the newest, which comes closest.
    fn next_for(&self, route: RouteId, which: impl Fn(&Frame) -> bool) -> Option<FrameId> {
        let standing = &self.standings[route.index()];
        if standing.under_way >= self.table.route(route).capacity {
            return None;
        }
        let needed = self.usual(route);
        let struck = standing.struck.map(|(at, _)| at);
        let may = |(_, frame): &(&FrameId, &Frame)| {
            frame.waiting && which(frame) && frame.may_try(route, struck)
        };
        let waiting = self.frames.iter().filter(may);
        let in_time = |frame: &Frame| frame.deadline >= self.now + needed;
        waiting
            .min_by_key(|(id, frame)| match in_time(frame) {
                true => (0, id.0, Reverse(0)),
                false => (1, 0, Reverse(id.0)),
            })
            .map(|(&id, _)| id)
    }

    fn send(&mut self, id: FrameId, route: RouteId) {
        let (usual, late_after) = (self.usual(route), self.late_after(route));
        let Some(frame) = self.frames.get_mut(&id) else { return };
        let attempt = Attempt {
            epoch: frame.next_epoch,
            route,
            since: self.now,
            late_at: self.now + late_after,
            usual_until: self.now + usual + Nanos(usual.0 / 4),
            hedged_at: self.now + self.settings.detection().max(usual * 2),
            late: false,
        };
        frame.next_epoch = frame.next_epoch.wrapping_add(1);
        (frame.waiting, frame.rescue) = (false, false);
        let deadline = frame.deadline;
        let oldest = (frame.attempts.len() >= MOST_OPEN).then(|| frame.attempts.remove(0));
        frame.attempts.push(attempt);
        let standing = &mut self.standings[route.index()];
        standing.open += 1;
        standing.under_way += 1;
        if let Some(oldest) = oldest {
            self.cancel(id, &oldest);
            self.close(&oldest);
        }
        let request = Request { session: self.session, frame: id, epoch: attempt.epoch };
        self.actions.push_back(Action::Send { request, route, deadline });
    }

    // What is asked of what is known.

    /// The best of the routes that nothing speaks against.
    fn best(&self) -> Option<RouteId> {
        if let Some(route) = self.preferred.filter(|&route| self.is_clear(route)) {
            return Some(route);
        }
        let best = match self.table.measured() {
            Some(_) => self.rate().and_then(|rate| self.table.best_at(rate)),
            None => self.decided(),
        };
        let best = best.filter(|&route| self.is_clear(route));
        // What can be used is loaded.
        let present = self.present.iter().copied();
        best.or_else(|| self.least_latency(present.filter(|&route| self.is_clear(route))))
    }

    /// The route that was decided on whatever the speed of any link, e.g. for its energy.
    fn decided(&self) -> Option<RouteId> {
        self.table.best_at(BytesPerSec::ZERO).filter(|_| self.table.measured().is_none())
    }

    /// The best of those that could be used, though something speaks against each.
    fn best_of_bad(&self) -> Option<RouteId> {
        self.least_latency(self.present.iter().copied().filter(|&route| self.is_usable(route)))
    }

    fn least_latency(&self, routes: impl Iterator<Item = RouteId>) -> Option<RouteId> {
        self.table.least_latency(routes, self.guess())
    }

    fn is_much_better(&self, route: RouteId, than: RouteId) -> bool {
        if self.decided() == Some(route) {
            return true;
        }
        let latency = |route| u128::from(self.table.latency(route, self.guess()).0);
        let with_margin = 1000 + u128::from(self.settings.hysteresis_permille);
        latency(route) * with_margin < latency(than) * 1000
    }

    fn is_reachable(&self, route: RouteId) -> bool {
        self.table.links_of(route).all(|link| self.peers[link.index()].up)
    }

    fn is_ready(&self, route: RouteId) -> bool {
        self.standings[route.index()].load == Load::Loaded && self.is_reachable(route)
    }

    /// It could be used if there is nothing better.
    fn is_usable(&self, route: RouteId) -> bool {
        let from = self.standings[route.index()].retry_from(self.settings.heartbeat);
        from <= self.now && self.is_ready(route)
    }

    /// Nothing speaks against it.
    fn is_clear(&self, route: RouteId) -> bool {
        self.standings[route.index()].avoided_until <= self.now
            && self.is_ready(route)
            && (self.rate().is_some() || !self.table.is_measured(route))
    }

    /// The rate of the measured link, or the last one known, or the worst.
    fn guess(&self) -> BytesPerSec {
        let last = self.speed.as_ref().and_then(Speed::last);
        last.unwrap_or_else(|| self.table.lowest())
    }

    fn pace(&self, route: RouteId) -> Pace {
        let predicted = || {
            let latency = self.table.latency(route, self.guess());
            Pace::predicted(latency, self.table.route(route).capacity)
        };
        self.standings[route.index()].pace.unwrap_or_else(predicted)
    }

    fn usual(&self, route: RouteId) -> Nanos {
        self.pace(route).usual()
    }

    /// How long an answer may take. The fallback gets half of a frame's time: behind it there is nothing that could be gone,
    /// and to leave it because it is loaded would be to leave it when it is needed.
    fn late_after(&self, route: RouteId) -> Nanos {
        let least = match self.table.fallback() == Some(route) {
            true => Nanos(self.settings.deadline.0 / 2),
            false => self.settings.detection(),
        };
        self.pace(route).late_after(least)
    }

    fn needs(&self, route: RouteId, link: LinkId) -> bool {
        self.table.links_of(route).any(|used| used == link)
    }

    fn speed_of(&mut self, link: LinkId) -> Option<&mut Speed> {
        let measured = self.table.measured() == Some(link);
        self.speed.as_mut().filter(|_| measured)
    }

    fn speed_if(&self, link: LinkId) -> Option<&Speed> {
        self.speed.as_ref().filter(|_| self.table.measured() == Some(link))
    }
}
