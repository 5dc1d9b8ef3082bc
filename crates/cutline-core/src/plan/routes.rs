//! The best plan at every speed of a link, for a run that adapts while it goes on.
//!
//! In the file the plans stand beside what routing needs of them; [`PlannedRoutes::table`] checks all
//! of it again.

use serde::{Deserialize, Serialize};

use super::{PlanError, PlannedChoice};
use crate::{
    planner::Choice,
    platform::{DeviceId, Platform},
    routing::{Fallback, Link, Measured, Route, Table},
    units::{Bytes, BytesPerSec, Nanos},
};

/// Name of the route that is all in the holder's process.
pub const HERE: &str = "here";

/// Plans among which a run chooses by the speed of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRoutes {
    /// The link whose speed decides; absent where no plan goes over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<PlannedSpeed>,
    /// Links that frames go over, in their direction.
    pub links: Vec<PlannedLink>,
    /// The plans.
    pub routes: Vec<PlannedRoute>,
    /// Which is the best from which speed on, ascending.
    pub best: Vec<PlannedRange>,
    /// What is left where every link is down.
    pub fallback: PlannedFallback,
}

/// A link whose speed is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSpeed {
    /// Its position among the links.
    pub link: usize,
    /// Its up rate to its down rate, taken to stay.
    pub ratio: [u64; 2],
}

/// A link in the direction of frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLink {
    /// The device that sends.
    pub from: String,
    /// The device that receives.
    pub to: String,
    /// One way of an empty message.
    pub base_ns: Nanos,
}

/// A plan as a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRoute {
    /// The plan.
    pub plan: PlannedChoice,
    /// Positions of the links that it goes over.
    pub links: Vec<usize>,
    /// Its latency apart from bytes over the measured link.
    pub fixed_ns: Nanos,
    /// Bytes of a frame over that link.
    pub up_bytes: Bytes,
    /// Bytes of its answer.
    pub down_bytes: Bytes,
}

/// A range of speeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRange {
    /// Its lowest up rate.
    pub from_bytes_per_s: BytesPerSec,
    /// Position of its best route.
    pub route: usize,
}

/// What is left where every link is down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedFallback {
    /// The route at this position, which needs no link.
    Route(usize),
    /// Nothing, because of this.
    Absent(String),
}

impl PlannedRoutes {
    /// A table with the choice behind each of its routes, as a file; `planned` writes a choice, `name`
    /// a device.
    pub fn new(
        table: &Table,
        choices: &[Choice],
        planned: impl Fn(&Choice) -> PlannedChoice,
        name: impl Fn(DeviceId) -> String,
    ) -> Self {
        let link = |link: &Link| PlannedLink {
            from: name(link.from),
            to: name(link.to),
            base_ns: link.base,
        };
        let route = |(route, choice): (&Route, &Choice)| PlannedRoute {
            plan: planned(choice),
            links: route.links.clone(),
            fixed_ns: route.fixed,
            up_bytes: route.up,
            down_bytes: route.down,
        };
        let measured = table.measured().zip(table.ratio());
        let fallback = table.fallback().map(|route| PlannedFallback::Route(route.index()));
        let why =
            || PlannedFallback::Absent(table.why_no_fallback().unwrap_or_default().to_owned());
        PlannedRoutes {
            measured: measured.map(|(link, ratio)| PlannedSpeed { link: link.index(), ratio }),
            links: table.links().iter().map(link).collect(),
            routes: table.routes().iter().zip(choices).map(route).collect(),
            best: table
                .best_from()
                .map(|(rate, route)| PlannedRange { from_bytes_per_s: rate, route: route.index() })
                .collect(),
            fallback: fallback.unwrap_or_else(why),
        }
    }

    /// The table, checked. A route is named by its plan's id, and takes as many requests at a time as
    /// its plan keeps under way; the fallback is named [`HERE`], and takes one.
    pub fn table(&self, platform: &Platform) -> Result<Table, PlanError> {
        let device = |name: &String| {
            platform.find_device(name).ok_or_else(|| PlanError::UnknownEnd(name.clone()))
        };
        let link = |link: &PlannedLink| {
            Ok(Link { from: device(&link.from)?, to: device(&link.to)?, base: link.base_ns })
        };
        let links = self.links.iter().map(link).collect::<Result<_, PlanError>>()?;
        let fallback = match &self.fallback {
            PlannedFallback::Route(route) => Fallback::Route(*route),
            PlannedFallback::Absent(why) => Fallback::Absent(why.clone()),
        };
        let routes = self.routes.iter().enumerate().map(|(index, route)| {
            let (name, capacity) = match fallback == Fallback::Route(index) {
                true => (HERE, 1),
                false => (route.plan.id.as_str(), route.plan.frames_in_flight().get() as usize),
            };
            Route {
                name: name.to_owned(),
                links: route.links.clone(),
                fixed: route.fixed_ns,
                up: route.up_bytes,
                down: route.down_bytes,
                capacity,
            }
        });
        let best = self.best.iter().map(|range| (range.from_bytes_per_s, range.route)).collect();
        let measured = self.measured.map(|PlannedSpeed { link, ratio }| Measured { link, ratio });
        Ok(Table::new(links, routes.collect(), best, measured, fallback)?)
    }
}
