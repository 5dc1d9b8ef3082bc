//! The routes that there are, and which of them is the best at which speed of a link.
//!
//! A table is made before the first frame and never changes. The planner's sweep gives the ranges of
//! one link's up rate and the plan that is best in each; the look-up is a binary search. Beside the
//! ranges there may be routes that are best nowhere and yet the best of what is left when a device
//! is gone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    cost::Costs,
    evaluate::{Part, PartKind},
    planner::{Choice, Regime},
    platform::DeviceId,
    units::{Bytes, BytesPerSec, Nanos, newtype},
};

newtype! {
    /// A route of one [`Table`].
    id RouteId
}
newtype! {
    /// A link of one [`Table`], in the direction in which frames go over it.
    id LinkId
}

/// A link that routes need, and with it the device behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The end that sends frames.
    pub from: DeviceId,
    /// The end that receives them; its agent is the peer that heartbeats ask.
    pub to: DeviceId,
    /// One way of an empty message, as planned; heartbeats correct it.
    pub base: Nanos,
}

/// A plan that frames may take, in what routing needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name for people, e.g. the plan's id.
    pub name: String,
    /// Positions of the links that it goes over; none where everything happens at the holder.
    pub links: Vec<usize>,
    /// Its latency apart from bytes over the measured link.
    pub fixed: Nanos,
    /// Bytes that a frame sends over the measured link.
    pub up: Bytes,
    /// Bytes that come back over it.
    pub down: Bytes,
    /// Most requests under way on it at a time; at least 1.
    pub capacity: usize,
}

/// What there is for frames when every peer is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// A route that needs no link.
    Route(usize),
    /// None, because of this: the source cannot hold the whole network.
    Absent(String),
}

/// The link whose speed decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Position among the links.
    pub link: usize,
    /// Its up rate to its down rate, taken to stay as they were planned.
    pub ratio: [u64; 2],
}

/// Routes, links, and which route is the best at which speed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    links: Vec<Link>,
    routes: Vec<Route>,
    ranges: Vec<(BytesPerSec, usize)>,
    measured: Option<Measured>,
    fallback: Fallback,
    /// Positions of links that some route goes over, each combination once, and which of them each
    /// route goes over: there are few, so that what is to be asked of links is asked of them.
    link_sets: Vec<Vec<usize>>,
    set_of: Vec<usize>,
}

/// Why routes do not make a table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum TableError {
    #[error("no route is given; plan for a range of bandwidths first")]
    NoRoute,
    #[error("route `{route}` needs link {link}, but there are {links}")]
    UnknownLink { route: String, link: usize, links: usize },
    #[error("a range or the fallback names route {route}, but there are {routes}")]
    UnknownRoute { route: usize, routes: usize },
    #[error("the measured link is number {link}, but there are {links}")]
    NotMeasurable { link: usize, links: usize },
    #[error("route `{0}` is to be the fallback, but it needs a link")]
    DependentFallback(String),
    #[error("route `{0}` lets no request under way; its capacity is at least 1")]
    NoCapacity(String),
    #[error("the ranges do not ascend: {0} comes after {1}")]
    Unordered(BytesPerSec, BytesPerSec),
    #[error(
        "route `{0}` sends bytes over the measured link, but none is measured, or no route goes over it \
         in its declared direction; declare it from the source outwards"
    )]
    NothingMeasured(String),
    #[error("the network was planned over link {link}, but the costs have {links}")]
    NoSuchLink { link: usize, links: usize },
}

impl Table {
    /// A table of routes; `ranges` gives the lowest up rate of the measured link from which each
    /// route is the best, ascending.
    pub fn new(
        links: Vec<Link>,
        routes: Vec<Route>,
        ranges: Vec<(BytesPerSec, usize)>,
        measured: Option<Measured>,
        fallback: Fallback,
    ) -> Result<Self, TableError> {
        if routes.is_empty() {
            return Err(TableError::NoRoute);
        }
        if let Some(Measured { link, .. }) = measured.filter(|m| m.link >= links.len()) {
            return Err(TableError::NotMeasurable { link, links: links.len() });
        }
        for route in &routes {
            check(route, links.len(), measured)?;
        }
        let last_resort = match &fallback {
            Fallback::Route(route) => Some(*route),
            Fallback::Absent(_) => None,
        };
        let named = ranges.iter().map(|&(_, route)| route).chain(last_resort);
        if let Some(route) = named.into_iter().find(|&route| route >= routes.len()) {
            return Err(TableError::UnknownRoute { route, routes: routes.len() });
        }
        if let Some(route) = last_resort.filter(|&route| !routes[route].links.is_empty()) {
            return Err(TableError::DependentFallback(routes[route].name.clone()));
        }
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(TableError::Unordered(pair[1].0, pair[0].0));
        }
        let (link_sets, set_of) = (Vec::new(), Vec::new());
        Ok(Self { links, routes, ranges, measured, fallback, link_sets, set_of }.indexed())
    }

    /// The table of a sweep over link number `link` of the costs, and the choice behind each route.
    ///
    /// `fallback` is the plan that leaves everything on the source, or why there is none. `others`
    /// are plans that avoid a device, for when it is gone.
    pub fn of_sweep(
        costs: &Costs,
        link: usize,
        regimes: &[Regime],
        fallback: Result<&Choice, String>,
        others: &[Choice],
    ) -> Result<(Self, Vec<Choice>), TableError> {
        let links = costs.links().len();
        let known = costs.links().get(link).ok_or(TableError::NoSuchLink { link, links })?;
        let mut found = Found { costs, watched: known.between, links: Vec::new(), routes: vec![] };
        let mut ranges: Vec<(BytesPerSec, usize)> = Vec::new();
        for regime in regimes {
            let route = found.add(&regime.choice);
            if ranges.last().is_none_or(|&(_, last)| last != route) {
                ranges.push((regime.from, route));
            }
        }
        let fallback = match fallback {
            Ok(choice) => Fallback::Route(found.add(choice)),
            Err(why) => Fallback::Absent(why),
        };
        others.iter().for_each(|choice| {
            found.add(choice);
        });
        let ratio = [known.up.rate.0.max(1), known.down.rate.0.max(1)];
        let position = found.links.iter().position(|way| [way.from, way.to] == known.between);
        let measured = position.map(|link| Measured { link, ratio });
        let (routes, choices) = found.routes.into_iter().unzip();
        Ok((Self::new(found.links, routes, ranges, measured, fallback)?, choices))
    }

    /// The same where the source's own stages run in another process than the holder's, which may die
    /// as well: every route but the fallback needs that process too, by a link from the source to itself.
    pub fn with_source_agent(mut self) -> Self {
        let link = self.links.len();
        let (from, to) = (DeviceId::SOURCE, DeviceId::SOURCE);
        self.links.push(Link { from, to, base: Nanos::ZERO });
        let fallback = self.fallback().map(RouteId::index);
        for (index, route) in self.routes.iter_mut().enumerate() {
            if Some(index) != fallback {
                route.links.push(link);
            }
        }
        self.indexed()
    }

    /// The same with its combinations of links.
    fn indexed(mut self) -> Self {
        self.link_sets.clear();
        let mut known: BTreeMap<&[usize], usize> = BTreeMap::new();
        let set_of = self.routes.iter().map(|route| {
            let next = known.len();
            *known.entry(&route.links).or_insert(next)
        });
        self.set_of = set_of.collect();
        let mut sets: Vec<(usize, Vec<usize>)> =
            known.into_iter().map(|(links, set)| (set, links.to_vec())).collect();
        sets.sort_unstable();
        self.link_sets = sets.into_iter().map(|(_, links)| links).collect();
        self
    }

    /// Routes, by [`RouteId::index`].
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The route behind an id.
    pub fn route(&self, id: RouteId) -> &Route {
        &self.routes[id.index()]
    }

    /// Links, by [`LinkId::index`].
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Ids of the links.
    pub fn link_ids(&self) -> impl Iterator<Item = LinkId> + use<> {
        (0..self.links.len()).map(LinkId::new)
    }

    /// Ids of the routes.
    pub fn route_ids(&self) -> impl Iterator<Item = RouteId> + use<> {
        (0..self.routes.len()).map(RouteId::new)
    }

    /// The link that a frame goes over from one device to another.
    pub fn find_link(&self, from: DeviceId, to: DeviceId) -> Option<LinkId> {
        self.links.iter().position(|link| (link.from, link.to) == (from, to)).map(LinkId::new)
    }

    /// The route that needs no peer, where there is one.
    pub fn fallback(&self) -> Option<RouteId> {
        match self.fallback {
            Fallback::Route(route) => Some(RouteId::new(route)),
            Fallback::Absent(_) => None,
        }
    }

    /// Why there is no fallback, where there is none.
    pub fn why_no_fallback(&self) -> Option<&str> {
        match &self.fallback {
            Fallback::Route(_) => None,
            Fallback::Absent(why) => Some(why),
        }
    }

    /// The link whose speed decides.
    pub fn measured(&self) -> Option<LinkId> {
        self.measured.map(|measured| LinkId::new(measured.link))
    }

    /// Its up rate to its down rate.
    pub fn ratio(&self) -> Option<[u64; 2]> {
        self.measured.map(|measured| measured.ratio)
    }

    /// The lowest up rate of the measured link from which each route is the best, ascending.
    pub fn best_from(&self) -> impl Iterator<Item = (BytesPerSec, RouteId)> {
        self.ranges.iter().map(|&(rate, route)| (rate, RouteId::new(route)))
    }

    /// The best route at an up rate of the measured link, everything being well: a binary search.
    /// A rate beyond the ends of the table counts as its nearest end. Where no link is measured, any
    /// rate gives the route that was decided on.
    pub fn best_at(&self, rate: BytesPerSec) -> Option<RouteId> {
        Some(RouteId::new(self.ranges.get(self.range_at(rate))?.1))
    }

    /// Predicted latency of a route at an up rate of the measured link.
    pub fn latency(&self, route: RouteId, rate: BytesPerSec) -> Nanos {
        let route = self.route(route);
        route.fixed + moving(route, [rate, self.down_rate(rate)])
    }

    /// The route of least latency at an up rate of the measured link; the first of several.
    pub(super) fn least_latency(
        &self,
        routes: impl Iterator<Item = RouteId>,
        rate: BytesPerSec,
    ) -> Option<RouteId> {
        let rates = [rate, self.down_rate(rate)];
        let mut least: Option<(Nanos, RouteId)> = None;
        for id in routes {
            let route = self.route(id);
            // Divisions are what takes long; most routes lose without.
            if least.is_some_and(|(latency, _)| route.fixed > latency) {
                continue;
            }
            let found = (route.fixed + moving(route, rates), id);
            if least.is_none_or(|least| found < least) {
                least = Some(found);
            }
        }
        least.map(|(_, route)| route)
    }

    /// The down rate of the measured link at an up rate of it.
    fn down_rate(&self, rate: BytesPerSec) -> BytesPerSec {
        let ratio = self.measured.map_or([1, 1], |measured| measured.ratio);
        let down = u128::from(rate.0) * u128::from(ratio[1]) / u128::from(ratio[0].max(1));
        BytesPerSec(u64::try_from(down).unwrap_or(u64::MAX))
    }

    /// Combinations of links that routes go over.
    pub(super) fn link_sets(&self) -> impl Iterator<Item = &[usize]> {
        self.link_sets.iter().map(Vec::as_slice)
    }

    /// Which of them a route goes over.
    pub(super) fn link_set(&self, route: RouteId) -> usize {
        self.set_of[route.index()]
    }

    /// Position of the range that holds a rate.
    pub(super) fn range_at(&self, rate: BytesPerSec) -> usize {
        self.ranges.partition_point(|&(from, _)| from <= rate).saturating_sub(1)
    }

    /// The best routes from the slowest link to the fastest.
    pub(super) fn ranges(&self) -> impl DoubleEndedIterator<Item = RouteId> + ExactSizeIterator {
        self.ranges.iter().map(|&(_, route)| RouteId::new(route))
    }

    /// The lowest rate that the table was made for: what to fear where nothing is known.
    pub(super) fn lowest(&self) -> BytesPerSec {
        BytesPerSec(self.ranges.first().map_or(1, |&(from, _)| from.0.max(1)))
    }

    /// Links of a route.
    pub(super) fn links_of(&self, route: RouteId) -> impl Iterator<Item = LinkId> {
        self.route(route).links.iter().map(|&link| LinkId::new(link))
    }

    /// Whether the speed of the measured link matters to a route.
    pub(super) fn is_measured(&self, route: RouteId) -> bool {
        let route = self.route(route);
        route.up > Bytes::ZERO || route.down > Bytes::ZERO
    }
}

/// Time of a route's bytes over the measured link, at its up rate and its down rate.
fn moving(route: &Route, [up, down]: [BytesPerSec; 2]) -> Nanos {
    let time = |rate: BytesPerSec, bytes: Bytes| match bytes {
        Bytes::ZERO => Nanos::ZERO,
        _ => rate.transfer_time(bytes),
    };
    time(up, route.up) + time(down, route.down)
}

fn check(route: &Route, links: usize, measured: Option<Measured>) -> Result<(), TableError> {
    if let Some(&link) = route.links.iter().find(|&&link| link >= links) {
        return Err(TableError::UnknownLink { route: route.name.clone(), link, links });
    }
    if route.capacity == 0 {
        return Err(TableError::NoCapacity(route.name.clone()));
    }
    if measured.is_none() && (route.up > Bytes::ZERO || route.down > Bytes::ZERO) {
        return Err(TableError::NothingMeasured(route.name.clone()));
    }
    Ok(())
}

/// Routes and links met so far.
struct Found<'a> {
    costs: &'a Costs,
    watched: [DeviceId; 2],
    links: Vec<Link>,
    routes: Vec<(Route, Choice)>,
}

impl Found<'_> {
    /// Position of a choice's route, which is added where it is new.
    fn add(&mut self, choice: &Choice) -> usize {
        let same = |known: &Choice| {
            known.mapping == choice.mapping
                && (known.evaluation.bytes == Bytes::ZERO || known.setting == choice.setting)
        };
        if let Some(position) = self.routes.iter().position(|(_, known)| same(known)) {
            return position;
        }
        let route = self.route(choice);
        self.routes.push((route, choice.clone()));
        self.routes.len() - 1
    }

    fn route(&mut self, choice: &Choice) -> Route {
        let evaluation = &choice.evaluation;
        // A full pipe: as many frames as fit one after another into the time of one.
        let capacity = evaluation.latency.0.div_ceil(evaluation.period.0.max(1)).max(1);
        let mut route = Route {
            name: format!("route {}", self.routes.len()),
            links: Vec::new(),
            fixed: Nanos::ZERO,
            up: Bytes::ZERO,
            down: Bytes::ZERO,
            capacity: usize::try_from(capacity).unwrap_or(usize::MAX),
        };
        for part in &evaluation.parts {
            if part.kind == PartKind::Send {
                let link = self.link(part);
                if !route.links.contains(&link) {
                    route.links.push(link);
                }
            }
            if !part.beside {
                self.count(part, &mut route);
            }
        }
        route
    }

    /// Adds a part of a frame's time: bytes of the watched link for themselves, the rest as it is.
    fn count(&self, part: &Part, route: &mut Route) {
        let way = part.to.map(|to| [part.device, to]);
        let back = way == Some([self.watched[1], self.watched[0]]);
        if way != Some(self.watched) && !back {
            route.fixed += part.nanos;
            return;
        }
        let direction = part.to.and_then(|to| self.costs.direction(part.device, to));
        route.fixed += direction.map_or(Nanos::ZERO, |d| d.affine_time(Bytes::ZERO));
        match back {
            true => route.down += part.bytes,
            false => route.up += part.bytes,
        }
    }

    fn link(&mut self, part: &Part) -> usize {
        let (from, to) = (part.device, part.to.unwrap_or(part.device));
        let known = self.links.iter().position(|link| (link.from, link.to) == (from, to));
        known.unwrap_or_else(|| {
            let direction = self.costs.direction(from, to);
            let base = direction.map_or(Nanos::ZERO, |d| d.affine_time(Bytes::ZERO));
            self.links.push(Link { from, to, base });
            self.links.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn route(name: &str, links: &[usize], fixed: u64, up: u64) -> Route {
        let (name, links) = (name.to_owned(), links.to_vec());
        Route { name, links, fixed: Nanos(fixed), up: Bytes(up), down: Bytes(0), capacity: 1 }
    }

    fn links() -> Vec<Link> {
        vec![Link { from: DeviceId::SOURCE, to: DeviceId::new(1), base: Nanos(5) }]
    }

    const MEASURED: Option<Measured> = Some(Measured { link: 0, ratio: [1, 2] });

    #[test]
    fn the_range_that_holds_a_rate_is_looked_up() {
        let routes =
            vec![route("alone", &[], 900, 0), route("b", &[0], 500, 8), route("c", &[0], 100, 80)];
        let rate = BytesPerSec;
        let ranges = vec![(rate(10), 0), (rate(20), 1), (rate(90), 2)];
        let table = Table::new(links(), routes, ranges, MEASURED, Fallback::Route(0)).unwrap();
        let looked_up =
            [1, 10, 19, 20, 89, 90, 10_000].map(|r| table.best_at(rate(r)).unwrap().index());
        assert_eq!(looked_up, [0, 0, 0, 1, 1, 2, 2]);
        let id = table.route_ids().nth(1).unwrap();
        assert_eq!(table.latency(id, rate(1_000_000_000)), Nanos(508));
        assert_eq!(table.fallback().map(RouteId::index), Some(0));
    }

    #[test]
    fn with_an_agent_at_the_source_only_the_fallback_needs_no_link() {
        let routes = vec![route("alone", &[], 900, 0), route("b", &[0], 500, 8)];
        let ranges = vec![(BytesPerSec(10), 1)];
        let table = Table::new(links(), routes, ranges, MEASURED, Fallback::Route(0)).unwrap();
        let table = table.with_source_agent();
        let home = table.find_link(DeviceId::SOURCE, DeviceId::SOURCE).unwrap();
        assert!(table.routes()[0].links.is_empty());
        assert_eq!(table.routes()[1].links, [0, home.index()]);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let new = |routes: &[Route], ranges: &[(u64, usize)], measured, fallback| {
            let ranges = ranges.iter().map(|&(rate, route)| (BytesPerSec(rate), route)).collect();
            Table::new(links(), routes.to_vec(), ranges, measured, fallback)
                .unwrap_err()
                .to_string()
        };
        let absent = Fallback::Absent("too little memory".to_owned());
        let plain = route("a", &[], 1, 0);
        let cases = [
            (new(&[], &[], None, absent.clone()), "no route"),
            (new(&[route("a", &[3], 1, 0)], &[], None, absent.clone()), "needs link 3"),
            (new(from_ref(&plain), &[(1, 4)], None, absent.clone()), "names route 4"),
            (new(from_ref(&plain), &[], None, Fallback::Route(7)), "names route 7"),
            (new(from_ref(&plain), &[(5, 0), (5, 0)], None, absent.clone()), "do not ascend"),
            (new(&[route("a", &[0], 1, 0)], &[], None, Fallback::Route(0)), "needs a link"),
            (new(&[route("a", &[0], 1, 9)], &[], None, absent.clone()), "none is measured"),
            (
                new(from_ref(&plain), &[], Some(Measured { link: 2, ratio: [1, 1] }), absent),
                "number 2",
            ),
        ];
        for (said, expected) in cases {
            assert!(said.contains(expected), "{said}");
        }
    }
}
