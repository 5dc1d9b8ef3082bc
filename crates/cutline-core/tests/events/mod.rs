//! The slow way: one heap of events for a whole cell, an arrival at a station each; what waits waits
//! in a queue and is taken out when a server ends.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use cutline_core::simulate::{Arrivals, Cell, Choice, Service, Station, Work};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    born: u64,
    edge: u32,
    kind: u32,
    /// Stations passed.
    hop: usize,
}

/// Departures go first, so that a server is free for who arrives at the same time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Departure { place: (usize, u32), server: usize },
    Arrival(Frame),
}

#[derive(Default)]
struct Place {
    /// Per server: the frame in service and those that wait; with a common queue none waits here.
    servers: Vec<VecDeque<Frame>>,
    common: VecDeque<Frame>,
    turn: usize,
}

/// Latencies of the answered frames and the number of dropped ones, of constant and link stations.
pub(crate) fn simulate(cell: &Cell) -> (Vec<u64>, u64) {
    let chains: Vec<Vec<(usize, &Station)>> = chains(cell);
    let mut events = BinaryHeap::new();
    for (kind, edges) in (0..).zip(&cell.edges) {
        let Arrivals::Recorded(times) = &edges.arrivals else { panic!("recorded arrivals only") };
        for time in times {
            for edge in 0..edges.count {
                let frame = Frame { born: time.0, edge, kind, hop: 0 };
                events.push(Reverse((time.0, Event::Arrival(frame))));
            }
        }
    }
    let mut places: BTreeMap<(usize, u32), (&Station, Place)> = BTreeMap::new();
    let (mut latencies, mut dropped) = (Vec::new(), 0);
    while let Some(Reverse((now, event))) = events.pop() {
        match event {
            Event::Arrival(frame) => {
                let Some(&(id, station)) = chains[frame.kind as usize].get(frame.hop) else {
                    latencies.push(now - frame.born);
                    continue;
                };
                let shared = cell.shared.iter().any(|other| std::ptr::eq(other, station));
                let key = (id, if shared { 0 } else { frame.edge });
                let (_, place) = places.entry(key).or_insert_with(|| {
                    let servers = vec![VecDeque::new(); station.servers as usize];
                    (station, Place { servers, ..Place::default() })
                });
                match place.arrive(frame, station) {
                    Taken::Dropped => dropped += 1,
                    Taken::Waits => {}
                    Taken::Begins(server) => {
                        let end = ends(station, now);
                        events.push(Reverse((end, Event::Departure { place: key, server })));
                    }
                }
            }
            Event::Departure { place: key, server } => {
                let (station, place) = places.get_mut(&key).unwrap();
                let mut frame = place.servers[server].pop_front().unwrap();
                frame.hop += 1;
                events.push(Reverse((now + station.delay.0, Event::Arrival(frame))));
                if let Some(next) = place.common.pop_front() {
                    place.servers[server].push_back(next);
                }
                if !place.servers[server].is_empty() {
                    let end = ends(station, now);
                    events.push(Reverse((end, Event::Departure { place: key, server })));
                }
            }
        }
    }
    (latencies, dropped)
}

/// The stations of each kind of edge with a number that is the same for a shared one.
fn chains(cell: &Cell) -> Vec<Vec<(usize, &Station)>> {
    let mut next = cell.shared.len();
    let mut chain = |stations: &'_ [Station]| {
        next += stations.len();
        next - stations.len()
    };
    let mut all = Vec::new();
    for edges in &cell.edges {
        let (before, after) = (chain(&edges.before), chain(&edges.after));
        let stations = (before..).zip(&edges.before).chain((0..).zip(&cell.shared));
        all.push(stations.chain((after..).zip(&edges.after)).collect());
    }
    all
}

enum Taken {
    Dropped,
    Waits,
    Begins(usize),
}

impl Place {
    fn arrive(&mut self, frame: Frame, station: &Station) -> Taken {
        let idle = self.servers.iter().any(VecDeque::is_empty);
        let queued: usize = self.servers.iter().map(|queue| queue.len().saturating_sub(1)).sum();
        if !idle && (queued + self.common.len()) as u64 >= u64::from(station.waiting) {
            return Taken::Dropped;
        }
        let count = self.servers.len();
        if station.choice == Choice::Common || count == 1 {
            match self.servers.iter().position(VecDeque::is_empty) {
                Some(server) => {
                    self.servers[server].push_back(frame);
                    return Taken::Begins(server);
                }
                None => self.common.push_back(frame),
            }
            return Taken::Waits;
        }
        let mut order = (0..count).map(|step| (self.turn + step) % count);
        let least = self.servers.iter().map(VecDeque::len).min().unwrap();
        let server = order.find(|&server| self.servers[server].len() == least).unwrap();
        self.turn = (server + 1) % count;
        self.servers[server].push_back(frame);
        if least == 0 { Taken::Begins(server) } else { Taken::Waits }
    }
}

fn ends(station: &Station, now: u64) -> u64 {
    match &station.work {
        Work::Compute(Service::Constant(time)) => now + time.0,
        Work::Compute(_) => panic!("constant times only"),
        Work::Send { size, rates } => rates.sent(cutline_core::units::Nanos(now), *size).0,
    }
}
