//! Devices and links under a virtual clock.
//!
//! A device computes one job after another; a direction of a cable carries one message after another;
//! both can be slowed, frozen and broken at any moment, and go on with what is left. What travels is a
//! [`Trip`]: its steps, one after another, until it is home or gone. A trip that fails tells its holder
//! so, if the way home is open; otherwise nobody ever hears of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cutline_core::{
    routing::{LinkId, Request, RouteId},
    units::{Bytes, BytesPerSec, Nanos},
};

/// Bytes of a message that carries nothing.
pub(crate) const EMPTY: Bytes = Bytes(100);

/// What a trip is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    Request(Request),
    Heartbeat { link: LinkId, number: u64 },
    Probe { link: LinkId, bytes: Bytes },
    Load { route: RouteId, ticket: u64 },
}

/// A leg of a trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Over a cable, outwards or home.
    Go { cable: usize, home: bool, bytes: Bytes },
    /// One run of a stage of a route.
    Compute { device: usize, route: usize, time: Nanos },
    /// The agent itself does something: answers, or takes a stage of a route.
    Touch { device: usize, load: Option<usize> },
    /// An agent passes on what comes back.
    Pass { device: usize },
}

/// What came of a trip, told at home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Home again: which start of the last device's process answered, and each passage outwards.
    Home { errand: Errand, boot: u64, passages: Vec<(usize, Bytes, Nanos, Nanos)> },
    /// A device or a cable refused or dropped it.
    Failed(Errand),
}

#[derive(Clone, Debug)]
struct Trip {
    errand: Errand,
    steps: VecDeque<Step>,
    /// Devices whose processes it is inside of: where one dies, so does the trip.
    inside: Vec<usize>,
    /// Cables on its way home.
    way: Vec<usize>,
    boot: u64,
    passages: Vec<(usize, Bytes, Nanos, Nanos)>,
}

/// Something that works through a queue at a speed which may change.
#[derive(Clone, Debug, Default)]
struct Worker {
    queue: VecDeque<(u64, u128)>,
    since: Nanos,
    /// Ends that were planned before a change are void.
    generation: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) alive: bool,
    pub(crate) stopped: bool,
    pub(crate) hung: bool,
    /// How many times slower than it should be.
    pub(crate) slowdown: u64,
    boot: u64,
    loaded: BTreeSet<usize>,
    inbox: Vec<u64>,
    worker: Worker,
}

#[derive(Clone, Debug)]
pub(crate) struct Cable {
    pub(crate) rate: BytesPerSec,
    pub(crate) delay: Nanos,
    /// Swallows everything.
    pub(crate) cut: bool,
    /// Carries nothing, and loses nothing.
    pub(crate) stalled: bool,
    directions: [Worker; 2],
}

impl Cable {
    pub(crate) fn new(rate: BytesPerSec, delay: Nanos) -> Self {
        let directions = [Worker::default(), Worker::default()];
        Self { rate, delay, cut: false, stalled: false, directions }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The first of a device's queue is done.
    Computed { device: usize, generation: u64 },
    /// The first of a cable's queue has left.
    Carried { cable: usize, direction: usize, generation: u64 },
    /// A trip goes on with its next step.
    Next(u64),
    /// The holder hears of a failure.
    Told(Errand),
}

/// Whether small messages have a way beside the large ones, or wait behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Small {
    Beside,
    Behind,
}

/// Everything outside of the router.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now: Nanos,
    pub(crate) devices: Vec<Device>,
    pub(crate) cables: Vec<Cable>,
    small: Small,
    trips: BTreeMap<u64, Trip>,
    next_trip: u64,
    due: BTreeMap<(Nanos, u64), Due>,
    next_due: u64,
    given_up: BTreeSet<Request>,
}

impl World {
    pub(crate) fn new(devices: usize, cables: Vec<Cable>, small: Small) -> Self {
        let device = Device {
            alive: true,
            stopped: false,
            hung: false,
            slowdown: 1,
            boot: 1,
            loaded: BTreeSet::new(),
            inbox: Vec::new(),
            worker: Worker::default(),
        };
        Self {
            now: Nanos::ZERO,
            devices: vec![device; devices],
            cables,
            small,
            trips: BTreeMap::new(),
            next_trip: 0,
            due: BTreeMap::new(),
            next_due: 0,
            given_up: BTreeSet::new(),
        }
    }

    /// When something happens next.
    pub(crate) fn next(&self) -> Option<Nanos> {
        self.due.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Sends somebody on a trip.
    pub(crate) fn start(&mut self, errand: Errand, steps: impl IntoIterator<Item = Step>) {
        let trip = Trip {
            errand,
            steps: steps.into_iter().collect(),
            inside: Vec::new(),
            way: Vec::new(),
            boot: self.devices[0].boot,
            passages: Vec::new(),
        };
        self.trips.insert(self.next_trip, trip);
        self.plan(self.now, Due::Next(self.next_trip));
        self.next_trip += 1;
    }

    /// Nobody waits for a request any more: it is not computed at home if it is not yet. Elsewhere it
    /// goes on, and its answer comes all the same.
    pub(crate) fn give_up(&mut self, request: Request) {
        self.given_up.insert(request);
    }

    pub(crate) fn unload(&mut self, route: usize) {
        self.devices.iter_mut().for_each(|device| {
            device.loaded.remove(&route);
        });
    }

    /// Lets the next thing happen and says what is heard of it at home.
    pub(crate) fn step(&mut self) -> Option<News> {
        let ((at, _), due) = self.due.pop_first()?;
        self.now = at;
        match due {
            Due::Told(errand) => return Some(News::Failed(errand)),
            Due::Next(trip) => return self.go_on(trip),
            Due::Computed { device, generation } => {
                if self.devices[device].worker.generation == generation {
                    let (trip, _) = self.devices[device].worker.queue.pop_front().expect("works");
                    self.devices[device].worker.since = at;
                    self.plan_compute(device);
                    return self.go_on(trip);
                }
            }
            Due::Carried { cable, direction, generation } => {
                if self.cables[cable].directions[direction].generation == generation {
                    let worker = &mut self.cables[cable].directions[direction];
                    let (trip, _) = worker.queue.pop_front().expect("it carries");
                    worker.since = at;
                    let delay = self.cables[cable].delay;
                    self.plan(at + delay, Due::Next(trip));
                    self.plan_carry(cable, direction);
                }
            }
        }
        None
    }

    /// Changes a device, with what it is doing counted up to now.
    pub(crate) fn change_device(&mut self, device: usize, change: impl FnOnce(&mut Device)) {
        self.count_compute(device);
        change(&mut self.devices[device]);
        self.plan_compute(device);
        if !self.devices[device].stopped {
            for trip in std::mem::take(&mut self.devices[device].inbox) {
                self.plan(self.now, Due::Next(trip));
            }
        }
    }

    /// The process is gone, and whoever waited for it is told.
    pub(crate) fn kill(&mut self, device: usize) {
        self.change_device(device, |device| {
            (device.alive, device.stopped, device.hung) = (false, false, false);
            device.worker.queue.clear();
            device.inbox.clear();
            device.loaded.clear();
        });
        let inside = |trip: &Trip| trip.inside.contains(&device);
        let lost: Vec<u64> =
            self.trips.iter().filter(|(_, t)| inside(t)).map(|(&id, _)| id).collect();
        for trip in lost {
            self.fail(trip);
        }
    }

    /// The process starts again and knows nothing.
    pub(crate) fn restart(&mut self, device: usize) {
        self.change_device(device, |device| {
            device.alive = true;
            device.boot += 1;
        });
    }

    /// Changes a cable, with what it is carrying counted up to now.
    pub(crate) fn change_cable(&mut self, cable: usize, change: impl FnOnce(&mut Cable)) {
        for direction in [0, 1] {
            self.count_carry(cable, direction);
        }
        change(&mut self.cables[cable]);
        for direction in [0, 1] {
            if self.cables[cable].cut {
                for (trip, _) in std::mem::take(&mut self.cables[cable].directions[direction].queue)
                {
                    self.trips.remove(&trip);
                }
            }
            self.plan_carry(cable, direction);
        }
    }

    /// Every connection over a cable breaks, in the middle of what it carries.
    pub(crate) fn reset(&mut self, cable: usize) {
        let over = |trip: &Trip| trip.way.contains(&cable);
        let lost: Vec<u64> =
            self.trips.iter().filter(|(_, t)| over(t)).map(|(&id, _)| id).collect();
        for trip in lost {
            self.fail(trip);
        }
    }

    fn plan(&mut self, at: Nanos, due: Due) {
        self.due.insert((at, self.next_due), due);
        self.next_due += 1;
    }

    fn go_on(&mut self, id: u64) -> Option<News> {
        let trip = self.trips.get_mut(&id)?;
        let Some(step) = trip.steps.pop_front() else {
            let trip = self.trips.remove(&id)?;
            let Trip { errand, boot, passages, .. } = trip;
            return Some(News::Home { errand, boot, passages });
        };
        match step {
            Step::Go { cable, home, bytes } => self.enter_cable(id, cable, home, bytes),
            Step::Compute { device, route, time } => self.enter_device(id, device, step, |world| {
                let known = device == 0 || world.devices[device].loaded.contains(&route);
                if !known {
                    world.fail(id);
                    return;
                }
                world.count_compute(device);
                world.devices[device].worker.queue.push_back((id, u128::from(time.0)));
                world.plan_compute(device);
            }),
            Step::Pass { device } => self.enter_device(id, device, step, |world| {
                world.plan(world.now, Due::Next(id));
            }),
            Step::Touch { device, load } => self.enter_device(id, device, step, |world| {
                world.devices[device].loaded.extend(load);
                let boot = world.devices[device].boot;
                if let Some(trip) = world.trips.get_mut(&id) {
                    trip.boot = boot;
                }
                world.plan(world.now, Due::Next(id));
            }),
        }
        None
    }

    fn enter_device(&mut self, id: u64, device: usize, step: Step, then: impl FnOnce(&mut Self)) {
        let state = &self.devices[device];
        let Some(trip) = self.trips.get_mut(&id) else { return };
        if !state.alive {
            return self.fail(id);
        }
        if device != 0 && trip.inside.last().is_none_or(|&at| at != device) {
            trip.inside.push(device);
        }
        if state.stopped {
            // It is accepted, and nothing more.
            trip.steps.push_front(step);
            return self.devices[device].inbox.push(id);
        }
        then(self);
    }

    fn enter_cable(&mut self, id: u64, cable: usize, home: bool, bytes: Bytes) {
        let Some(trip) = self.trips.get_mut(&id) else { return };
        match home {
            true => {
                trip.inside.pop();
                trip.way.pop();
            }
            false => {
                trip.way.push(cable);
                trip.passages.push((cable, bytes, self.now, self.now));
            }
        }
        let state = &self.cables[cable];
        let direction = usize::from(home);
        if state.cut {
            self.trips.remove(&id);
        } else if bytes <= EMPTY && self.small == Small::Beside && !state.stalled {
            let arrives = self.now + state.delay + state.rate.transfer_time(bytes);
            self.plan(arrives, Due::Next(id));
            self.passed(id, home, arrives);
        } else {
            self.count_carry(cable, direction);
            // Counted in billionths of a byte, or slow links would round to a standstill.
            let work = u128::from(bytes.0) * 1_000_000_000;
            self.cables[cable].directions[direction].queue.push_back((id, work));
            self.plan_carry(cable, direction);
        }
    }

    /// Notes when a passage outwards ended.
    fn passed(&mut self, id: u64, home: bool, ended: Nanos) {
        let trip = self.trips.get_mut(&id).filter(|_| !home);
        if let Some(last) = trip.and_then(|trip| trip.passages.last_mut()) {
            last.3 = ended;
        }
    }

    fn count_compute(&mut self, device: usize) {
        let now = self.now;
        let state = &mut self.devices[device];
        let speed = u128::from(!state.hung && !state.stopped && state.alive);
        let done = u128::from((now - state.worker.since).0) * speed / u128::from(state.slowdown);
        state.worker.count(now, done);
    }

    fn plan_compute(&mut self, device: usize) {
        let given_up = |world: &Self, id: u64| {
            let errand = world.trips.get(&id).map(|trip| trip.errand);
            matches!(errand, Some(Errand::Request(request)) if world.given_up.contains(&request))
        };
        // At home, what nobody waits for is not begun.
        while let Some(&(id, _)) = self.devices[device].worker.queue.front() {
            if device != 0 || !given_up(self, id) {
                break;
            }
            self.devices[device].worker.queue.pop_front();
            self.trips.remove(&id);
        }
        let state = &mut self.devices[device];
        state.worker.generation += 1;
        let Some(&(_, work)) = state.worker.queue.front() else { return };
        if state.alive && !state.stopped && !state.hung {
            let time = Nanos((work * u128::from(state.slowdown)) as u64);
            let generation = state.worker.generation;
            self.plan(self.now + time, Due::Computed { device, generation });
        }
    }

    fn count_carry(&mut self, cable: usize, direction: usize) {
        let now = self.now;
        let state = &mut self.cables[cable];
        let speed = u128::from(state.rate.0) * u128::from(!state.stalled && !state.cut);
        let worker = &mut state.directions[direction];
        let done = u128::from((now - worker.since).0) * speed;
        worker.count(now, done);
    }

    fn plan_carry(&mut self, cable: usize, direction: usize) {
        let state = &mut self.cables[cable];
        let worker = &mut state.directions[direction];
        worker.generation += 1;
        let Some(&(id, work)) = worker.queue.front() else { return };
        if !state.stalled && !state.cut {
            let time = Nanos(work.div_ceil(u128::from(state.rate.0)) as u64);
            let generation = worker.generation;
            let arrives = self.now + time + state.delay;
            self.plan(self.now + time, Due::Carried { cable, direction, generation });
            self.passed(id, direction == 1, arrives);
        }
    }

    /// A trip comes to nothing; told at home if every cable on the way there is open.
    fn fail(&mut self, id: u64) {
        let Some(trip) = self.trips.remove(&id) else { return };
        let mut workers: Vec<&mut Worker> = Vec::new();
        workers.extend(self.devices.iter_mut().map(|device| &mut device.worker));
        workers.extend(self.cables.iter_mut().flat_map(|cable| &mut cable.directions));
        for worker in workers {
            // Not the first of a queue: its bytes are on the way, and go to nobody.
            let first = worker.queue.front().copied();
            worker.queue.retain(|&entry| entry.0 != id || Some(entry) == first);
        }
        let open = |&cable: &usize| !self.cables[cable].cut && !self.cables[cable].stalled;
        if trip.way.iter().all(open) {
            let delay = trip.way.iter().map(|&cable| self.cables[cable].delay).sum::<Nanos>();
            self.plan(self.now + delay, Due::Told(trip.errand));
        }
    }
}

impl Worker {
    /// Takes what was done since the last count off the first of the queue.
    fn count(&mut self, now: Nanos, done: u128) {
        self.since = now;
        if let Some((_, work)) = self.queue.front_mut() {
            *work = work.saturating_sub(done);
        }
    }
}
