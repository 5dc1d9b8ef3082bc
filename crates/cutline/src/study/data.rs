//! `study.json`: everything that a study shows.
//!
//! Plans stand in one list, each once, and are named by their position in it, as are networks,
//! boards, instances and rates. A plan's latency and what of it depends on the bandwidth are lists, one
//! entry for each rate. Times are nanoseconds, sizes bytes, rates bytes per second, energies nanojoule,
//! money millionths of the currency unit for a month; all are integers. Figures of measured throughput
//! and fitted laws are decimal numbers.
//!
//! ```json
//! { "version": 1, "rates": [12500, 125000], "plans": [ { "kind": "edge", "latency_ns": [9, 9] } ],
//!   "combinations": [ { "network": 0, "board": 0, "instance": 0, "best": [0, 3] } ] }
//! ```

use cutline_core::{
    cost::Origin,
    units::{Bytes, BytesPerSec, Macs, Money, Nanojoules, Nanos},
};
use serde::Serialize;

use crate::report::Headline;

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Data {
    /// Format version: 1.
    pub(crate) version: u32,
    /// Version of the program that wrote it.
    pub(crate) cutline: &'static str,
    pub(crate) headline: Headline,
    /// What else is worth knowing, a sentence each.
    pub(crate) sentences: Vec<String>,
    /// What was asked for and cannot be had.
    pub(crate) left_out: Vec<String>,
    pub(crate) users: u64,
    /// Of each user, as the file says it.
    pub(crate) frames_per_second: String,
    /// From one frame of a user to the next.
    pub(crate) frame_interval_ns: Nanos,
    pub(crate) currency: String,
    pub(crate) link: Link,
    /// Rates up, ascending.
    pub(crate) rates: Vec<BytesPerSec>,
    pub(crate) networks: Vec<Network>,
    pub(crate) boards: Vec<Device>,
    pub(crate) instances: Vec<Device>,
    pub(crate) plans: Vec<Plan>,
    /// Every network on every board with every instance.
    pub(crate) combinations: Vec<Combination>,
    /// Of every network at every rate.
    pub(crate) fronts: Vec<Front>,
    pub(crate) predictions: Vec<Predictions>,
    pub(crate) scaling: Vec<Scaling>,
}

/// The link whose rate is varied.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) delay_ns: Nanos,
    /// Rate down for a rate up of 1000.
    pub(crate) down_permille: u64,
    /// Price of a gigabyte.
    pub(crate) traffic: Money,
}

/// A network at one size.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Network {
    pub(crate) name: String,
    /// The same for all sizes of a network.
    pub(crate) family: String,
    pub(crate) size: Option<u32>,
    pub(crate) layers: usize,
    pub(crate) macs: Macs,
    pub(crate) parameter_bytes: Bytes,
}

/// A board or an instance.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// What it is, where a preset says so.
    pub(crate) title: String,
    /// Where the times of plans that use it come from, each origin once.
    pub(crate) origins: Vec<Origin>,
    /// Rent of one instance, or nothing.
    pub(crate) rent: Option<Money>,
    pub(crate) purchase: Option<Money>,
    pub(crate) life_months: Option<u64>,
}

/// A plan on a board, perhaps with an instance.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// Who computes how many layers, in a few words.
    pub(crate) label: String,
    /// `edge`, `cloud` or `split`.
    pub(crate) kind: &'static str,
    pub(crate) network: usize,
    pub(crate) board: usize,
    /// Absent where all runs on the board.
    pub(crate) instance: Option<usize>,
    pub(crate) layers_on_board: usize,
    /// Names of the values that cross.
    pub(crate) crosses: Vec<String>,
    pub(crate) input_encoding: Option<String>,
    pub(crate) cut_encoding: Option<String>,
    pub(crate) upload_bytes: Bytes,
    /// Where the times come from, on the board and on the instance.
    pub(crate) origins: [Option<Origin>; 2],
    pub(crate) edge_compute_ns: Nanos,
    pub(crate) cloud_compute_ns: Nanos,
    /// By rate, as are the next three.
    pub(crate) latency_ns: Vec<Nanos>,
    pub(crate) upload_ns: Vec<Nanos>,
    pub(crate) rest_ns: Vec<Nanos>,
    /// How long a frame keeps what a user has alone, the board or a direction of the link, whichever is
    /// busier: longer than from a frame to the next, and the plan does not keep up.
    pub(crate) busiest_ns: Vec<Nanos>,
    /// Modelled; absent where a power is not known.
    pub(crate) energy_nj: Option<Nanojoules>,
    /// Instances for all users.
    pub(crate) instances: u64,
    pub(crate) rent: Money,
    pub(crate) purchase: Money,
    pub(crate) electricity: Money,
    pub(crate) traffic: Money,
    /// The sum of the four.
    pub(crate) money: Money,
}

/// A network on a board with an instance: plans by rate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Combination {
    pub(crate) network: usize,
    pub(crate) board: usize,
    pub(crate) instance: usize,
    /// The fastest of all, proven; absent where none can be run.
    pub(crate) best: Vec<Option<usize>>,
    /// The fastest with layers on both.
    pub(crate) split: Vec<Option<usize>>,
    pub(crate) edge: Vec<Option<usize>>,
    pub(crate) cloud: Vec<Option<usize>>,
    /// The fastest between the rates of the study, too.
    pub(crate) changes: Vec<Range>,
    /// Why something of it is absent.
    pub(crate) refused: Vec<String>,
}

/// A range of rates with the fastest plan in it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Range {
    pub(crate) from: BytesPerSec,
    pub(crate) to: BytesPerSec,
    pub(crate) plan: usize,
}

/// Latency against money: plans that keep up with the frames and that no other such beats in both, the
/// fastest first.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Front {
    pub(crate) network: usize,
    pub(crate) rate: usize,
    pub(crate) plans: Vec<usize>,
}

/// Predicted and measured times of the same things.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Predictions {
    /// Device and engine.
    pub(crate) subject: String,
    /// What the points are, in words.
    pub(crate) what: String,
    /// Whether each point was left out of what predicts it.
    pub(crate) is_held_out: bool,
    /// Of |predicted - measured| / measured, in thousandths.
    pub(crate) median_permille: u64,
    pub(crate) mean_permille: u64,
    /// Nine of ten errors are at most this.
    pub(crate) band_permille: u64,
    pub(crate) points: Vec<Predicted>,
}

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Predicted {
    pub(crate) name: String,
    pub(crate) measured_ns: Nanos,
    pub(crate) predicted_ns: Nanos,
}

/// Measured throughput over threads or batch, with its law.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Scaling {
    /// What was measured, in words.
    pub(crate) subject: String,
    /// `threads` or `batch`.
    pub(crate) over: &'static str,
    /// Throughput of one, in frames per second.
    pub(crate) lambda: f64,
    /// Contention.
    pub(crate) sigma: f64,
    /// Coherency.
    pub(crate) kappa: f64,
    /// Where throughput is largest by the law; absent where more is always more.
    pub(crate) peak: Option<u32>,
    /// Median error of each point as the others predict it, in thousandths.
    pub(crate) cross_validated_permille: Option<u64>,
    pub(crate) points: Vec<Throughput>,
}

/// A measured throughput.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Throughput {
    pub(crate) n: u32,
    pub(crate) frames_per_second: f64,
    /// By the law.
    pub(crate) fitted: f64,
}

impl Plan {
    /// Whether a user's board and link are done with a frame before the next one comes.
    pub(crate) fn keeps_up(&self, rate: usize, interval: Nanos) -> bool {
        self.busiest_ns[rate] <= interval
    }
}

impl Data {
    /// What it is about, in a few words.
    pub(crate) fn title(&self) -> String {
        let mut families: Vec<&str> = self.networks.iter().map(|one| one.family.as_str()).collect();
        families.dedup();
        families.join(", ")
    }

    /// The plan of a position where there is one.
    pub(crate) fn plan(&self, at: Option<usize>) -> Option<&Plan> {
        self.plans.get(at?)
    }
}
