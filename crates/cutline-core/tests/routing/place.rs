//! A small platform: a camera board, an edge box, a cloud; five ways for a frame.
//!
//! ```text
//!            lan, 100 Mbit/s, 1 ms            wire, 1 Gbit/s, 2 ms
//!      pi ───────────────────────── edge ───────────────────────── cloud
//!       └────────────────── wan: measured, 5 ms ─────────────────────┘
//! ```

use cutline_core::{
    platform::Platform,
    routing::{Fallback, Link, LinkId, Measured, Route, RouteId, Table},
    units::{Bytes, BytesPerSec, Nanos},
};

use crate::world::{Cable, EMPTY, Small, Step, World};

pub(crate) const LAN: usize = 0;
pub(crate) const WIRE: usize = 1;
pub(crate) const WAN: usize = 2;
pub(crate) const EDGE: usize = 1;
pub(crate) const CLOUD: usize = 2;

const MS: u64 = 1_000_000;
const ANSWER: Bytes = Bytes(1_000);
const ENDS: [[usize; 2]; 3] = [[0, EDGE], [EDGE, CLOUD], [0, CLOUD]];
const DELAYS: [u64; 3] = [MS, 2 * MS, 5 * MS];
const RATES: [BytesPerSec; 3] = [mbit(100), mbit(1000), mbit(50)];

/// Milliseconds.
pub(crate) const fn ms(time: u64) -> Nanos {
    Nanos(time * MS)
}

/// Megabits per second.
pub(crate) const fn mbit(rate: u64) -> BytesPerSec {
    BytesPerSec(rate * 125_000)
}

/// A way for a frame: work at home, then so many bytes over each cable and work behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    home: u64,
    hops: &'static [(usize, u64, u64)],
}

/// The first is the fallback. Times in milliseconds.
pub(crate) const WAYS: [Way; 5] = [
    Way { name: "alone", home: 150, hops: &[] },
    Way { name: "cloud", home: 10, hops: &[(WAN, 60_000, 10)] },
    Way { name: "late split", home: 60, hops: &[(WAN, 12_000, 6)] },
    Way { name: "edge", home: 10, hops: &[(LAN, 100_000, 100)] },
    Way { name: "chain", home: 10, hops: &[(LAN, 100_000, 60), (WIRE, 50_000, 20)] },
];

impl Way {
    /// The trip of one frame.
    pub(crate) fn steps(&self, route: usize) -> Vec<Step> {
        let mut steps = vec![Step::Compute { device: 0, route, time: ms(self.home) }];
        for &(cable, bytes, time) in self.hops {
            steps.push(Step::Go { cable, home: false, bytes: Bytes(bytes) });
            steps.push(Step::Compute { device: ENDS[cable][1], route, time: ms(time) });
        }
        steps.extend(self.home(ANSWER));
        steps
    }

    /// Loads every stage on its device, one after another.
    pub(crate) fn load(&self, route: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        for &(cable, ..) in self.hops {
            steps.push(Step::Go { cable, home: false, bytes: EMPTY });
            steps.push(Step::Touch { device: ENDS[cable][1], load: Some(route) });
        }
        steps.extend(self.home(EMPTY));
        steps
    }

    fn home(&self, bytes: Bytes) -> Vec<Step> {
        back(&self.hops.iter().map(|&(cable, ..)| cable).collect::<Vec<_>>(), bytes)
    }

    fn route(&self) -> Route {
        let over = |wan: bool| self.hops.iter().filter(move |hop| (hop.0 == WAN) == wan);
        let sent = |&(cable, bytes, _): &(usize, u64, u64)| {
            Nanos(DELAYS[cable]) + RATES[cable].transfer_time(Bytes(bytes))
        };
        let answered = |&(cable, ..): &(usize, u64, u64)| {
            Nanos(DELAYS[cable]) + RATES[cable].transfer_time(ANSWER)
        };
        let work: u64 = self.home + self.hops.iter().map(|hop| hop.2).sum::<u64>();
        let elsewhere = over(false).map(|hop| sent(hop) + answered(hop)).sum::<Nanos>();
        let wan = over(true).map(|hop| Nanos(DELAYS[hop.0]) * 2).sum::<Nanos>();
        let slowest = self.hops.iter().map(|hop| hop.2).fold(self.home, u64::max);
        Route {
            name: self.name.to_owned(),
            links: self.hops.iter().map(|hop| hop.0).collect(),
            fixed: ms(work) + elsewhere + wan,
            up: over(true).map(|hop| Bytes(hop.1)).sum(),
            down: over(true).map(|_| ANSWER).sum(),
            capacity: work.div_ceil(slowest) as usize + usize::from(!self.hops.is_empty()),
        }
    }
}

/// Out to the device behind a link, a word with its agent, and home.
pub(crate) fn errand_steps(link: LinkId, bytes: Bytes) -> Vec<Step> {
    let cables: &[usize] = match link.index() {
        LAN => &[LAN],
        WIRE => &[LAN, WIRE],
        _ => &[WAN],
    };
    let mut steps = Vec::new();
    for (nth, &cable) in cables.iter().enumerate() {
        let last = nth + 1 == cables.len();
        let bytes = if last { bytes } else { EMPTY };
        steps.push(Step::Go { cable, home: false, bytes });
        let device = ENDS[cable][1];
        steps.push(match last {
            true => Step::Touch { device, load: None },
            false => Step::Pass { device },
        });
    }
    steps.extend(back(cables, EMPTY));
    steps
}

fn back(cables: &[usize], bytes: Bytes) -> Vec<Step> {
    let mut steps = Vec::new();
    for (nth, &cable) in cables.iter().enumerate().rev() {
        if nth + 1 < cables.len() {
            steps.push(Step::Pass { device: ENDS[cable][1] });
        }
        steps.push(Step::Go { cable, home: true, bytes });
    }
    steps
}

/// The platform's devices and links, everything well.
pub(crate) fn world(small: Small) -> World {
    let cable = |at: usize| Cable::new(RATES[at], Nanos(DELAYS[at]));
    World::new(3, (0..3).map(cable).collect(), small)
}

/// The table of the ways, best by best over the rates of the measured cable.
pub(crate) fn table(with_fallback: bool) -> Table {
    let platform: Platform = serde_json::from_str(
        r#"{ "version": 1, "device": [{ "name": "pi" }, { "name": "edge" }, { "name": "cloud" }] }"#,
    )
    .unwrap();
    let ids: Vec<_> = platform.device_ids().collect();
    let link = |at: usize| {
        let [from, to] = ENDS[at].map(|device| ids[device]);
        Link { from, to, base: Nanos(DELAYS[at]) }
    };
    let links: Vec<Link> = (0..3).map(link).collect();
    let ways = &WAYS[usize::from(!with_fallback)..];
    let routes: Vec<Route> = ways.iter().map(Way::route).collect();
    let measured = Some(Measured { link: WAN, ratio: [1, 1] });
    let fallback = match with_fallback {
        true => Fallback::Route(0),
        false => Fallback::Absent("it needs 600 MB on `pi`, which has 512 MB".to_owned()),
    };
    let plain = Table::new(links.clone(), routes.clone(), vec![], measured, fallback.clone());
    let plain = plain.unwrap();
    let mut ranges: Vec<(BytesPerSec, usize)> = Vec::new();
    for rate in (0..200).map(|step| BytesPerSec((10_000.0 * 1.05f64.powi(step)) as u64)) {
        let best = best(&plain, rate).index();
        if ranges.last().is_none_or(|&(_, last)| last != best) {
            ranges.push((rate, best));
        }
    }
    Table::new(links, routes, ranges, measured, fallback).unwrap()
}

/// The route of least predicted latency, looked for one by one.
pub(crate) fn best(table: &Table, rate: BytesPerSec) -> RouteId {
    table.route_ids().min_by_key(|&route| (table.latency(route, rate), route)).unwrap()
}
