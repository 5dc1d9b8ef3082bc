//! What was measured and corrected before a plan was called best.

use serde::{Deserialize, Serialize};

use super::Figures;
use crate::units::Nanos;

/// Rounds of planning, measuring the best plans and correcting the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refinement {
    /// Every plan that was measured, round by round, the winner of each round first.
    pub trials: Vec<Trial>,
    /// Frames that they took, those that warm up not counted.
    pub frames: u64,
    /// Whether the plan is one that was measured and whose prediction held.
    pub holds: bool,
}

/// One plan that was run, and what the table learnt from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// From 1.
    pub round: u32,
    /// Hash of the plan's decision.
    pub plan: String,
    /// By the table before the round.
    pub predicted: Figures,
    /// Medians over its frames of this round.
    pub measured: Figures,
    /// What was corrected.
    pub corrections: Vec<Correction>,
}

impl Trial {
    /// How far the prediction was off, in thousandths of what was measured: latency or period,
    /// whichever was predicted worse.
    pub fn error_permille(&self) -> u64 {
        let off = |predicted: Nanos, measured: Nanos| {
            u128::from(measured.0.abs_diff(predicted.0)) * 1000 / u128::from(measured.0.max(1))
        };
        let latency = off(self.predicted.latency_ns, self.measured.latency_ns);
        let period = off(self.predicted.period_ns, self.measured.period_ns);
        u64::try_from(latency.max(period)).unwrap_or(u64::MAX)
    }
}

/// A stage or a message whose time was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// Which one.
    pub what: String,
    /// By the table before.
    pub predicted_ns: Nanos,
    /// Median of all that was measured of it.
    pub measured_ns: Nanos,
}
