//! Deployments in the simulator.

use super::{Candidate, Demand, Share, SizeError, Way};
use crate::{
    simulate::{Cell, Choice, Edges, Rates, Service, Settings, Station, Work, simulate},
    units::{Bytes, Nanos},
};

/// Most cells that are simulated of one kind.
const MOST_CELLS: u64 = 16;
/// Least and most frames of a camera.
const FRAMES: [u64; 2] = [4, 1 << 20];

/// How thoroughly deployments are simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Frames of a simulation, about; each camera sends four at least.
    pub frames: u64,
    /// Seed of everything random.
    pub seed: u64,
}

/// What the simulator found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simulated {
    /// Time that the asked share of all frames does not exceed, off by at most 1/256; `None` where
    /// none was answered.
    pub latency: Option<Nanos>,
    /// Frames that were dropped by full queues.
    pub dropped: u64,
    /// Frames that were counted.
    pub frames: u64,
    /// Cells that were simulated.
    pub cells: u64,
    /// Frames that these stand for, of all equal cells.
    pub represented: u64,
}

impl Check {
    /// Simulates `count` groups of cameras that share instances, some of them in place of all.
    pub fn run(
        &self,
        demand: &Demand,
        candidate: &Candidate,
        share: Share,
        count: u64,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Simulated, SizeError> {
        let interval = demand.interval().ok_or(SizeError::NoFrames)?;
        let cameras = share.cameras.max(1);
        // Three quarters of the time count: they have to see a replayed link once from end to end.
        let cycle = candidate.replay.as_ref().map_or(Nanos::ZERO, |replay| replay.cycle);
        let least = cycle.0.div_ceil(interval.0).saturating_mul(4).div_ceil(3);
        let least = least.clamp(FRAMES[0], FRAMES[1]);
        let cells = (self.frames / (least * cameras)).clamp(1, MOST_CELLS);
        let each = (self.frames / (cells * cameras)).clamp(least, FRAMES[1]);
        let duration = interval * each;
        let settings =
            Settings { duration, warm_up: Nanos(duration.0 / 4), sample: cells, seed: self.seed };
        let cell = cell(demand, candidate, Share { cameras, ..share });
        let outcome = simulate(&cell, count.max(cells), &settings, stop)?;
        Ok(Simulated {
            latency: outcome.latency.percentile(demand.percentile_ppm),
            dropped: outcome.dropped,
            frames: (cells * cameras).saturating_mul(each) / 4 * 3,
            cells,
            represented: outcome.arrived,
        })
    }
}

/// The cameras that share instances, each with its board and link.
fn cell(demand: &Demand, candidate: &Candidate, share: Share) -> Cell {
    let load = &candidate.load;
    let constant =
        |name, busy, delay| Station { delay, ..Station::compute(name, Service::Constant(busy)) };
    let way = |of: super::Station, way: Option<Way>, speed: Option<&Rates>| {
        let way = way?;
        let station = constant(of.name(), way.busy, way.delay);
        // What it is busy for where it is as fast as declared is the work that it has to do.
        let work = speed.map(|speed| Work::Send { size: Bytes(way.busy.0), rates: speed.clone() });
        Some(Station { work: work.unwrap_or_else(|| station.work.clone()), ..station })
    };
    let replay = candidate.replay.as_deref();
    let board = constant(super::Station::Board.name(), load.board, Nanos::ZERO);
    let up = way(super::Station::Up, load.up, replay.and_then(|replay| replay.up.as_ref()));
    let down = way(super::Station::Down, load.down, replay.and_then(|replay| replay.down.as_ref()));
    let servers = u32::try_from(share.instances).unwrap_or(u32::MAX);
    let cloud = load.cloud.map(|cloud| {
        constant(super::Station::Instance.name(), cloud.busy, Nanos::ZERO)
            .replicated(servers, Choice::Fewest)
    });
    let edges = Edges {
        count: u32::try_from(share.cameras).unwrap_or(u32::MAX),
        cameras: 1,
        arrivals: demand.arrivals.clone(),
        before: [Some(board), up].into_iter().flatten().collect(),
        after: down.into_iter().collect(),
    };
    Cell { edges: vec![edges], shared: cloud.into_iter().collect() }
}
