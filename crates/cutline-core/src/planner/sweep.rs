//! The best plan over all bandwidths at once.
//!
//! With the ratio of the two directions and all delays fixed, the latency of a plan is a straight
//! line over the time of a byte, and the best plans form the lower envelope of these lines. It is
//! found as such: the plans that are best at both ends of an interval meet somewhere inside it, and
//! the best plan there is either one of them, which proves the corner, or a new one, which divides
//! the interval (M. J. Eisner and D. G. Severance, "Mathematical techniques for efficient record
//! segmentation in large shared databases", J. ACM 23, 1976).

use super::{Choice, Objective, PlannerError, Request, solve_until};
use crate::{
    cost::Costs,
    dag::Dag,
    evaluate::{Setting, evaluate},
    units::{BytesPerSec, Nanos},
};

/// A range of bandwidths over which one plan is the best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regime {
    /// The lowest up rate of the range.
    pub from: BytesPerSec,
    /// The highest.
    pub to: BytesPerSec,
    /// The plan, as it costs at the highest.
    pub choice: Choice,
}

/// The plan of least latency for every up rate of a link between two rates; its down rate keeps its ratio to the
/// up rate. Links count by their rates here, not by measured tables. Where no plan is possible the
/// table is empty. Scatter groups are left out: the slowest member changes with the rate, and the latency
/// of such a plan is no straight line. `stop` is asked now and then whether to give up; then plans are the best found.
pub fn sweep(
    dag: &Dag,
    costs: &Costs,
    request: &Request,
    link: usize,
    [low, high]: [BytesPerSec; 2],
    stop: &mut dyn FnMut() -> bool,
) -> Result<Vec<Regime>, PlannerError> {
    let Some(known) = costs.links().get(link) else { return Ok(Vec::new()) };
    let ratio = [known.up.rate.0.max(1), known.down.rate.0.max(1)];
    let request = Request {
        objective: Objective::Latency,
        scatter: false,
        revisits: false,
        ..request.clone()
    };
    let mut sweep = Sweep { dag, costs, request: &request, link, ratio, stop };
    let (Some(first), Some(last)) = (sweep.best(low)?, sweep.best(high)?) else {
        return Ok(Vec::new());
    };
    let mut corners = vec![(low, first)];
    sweep.divide(low, high, last, &mut corners)?;
    let mut regimes: Vec<Regime> = Vec::new();
    for (rate, choice) in corners {
        match regimes.last_mut() {
            Some(last) if same(&last.choice, &choice) => {
                (last.to, last.choice) = (rate, choice);
            }
            _ => regimes.push(Regime { from: rate, to: rate, choice }),
        }
    }
    Ok(regimes)
}

struct Sweep<'a> {
    dag: &'a Dag,
    costs: &'a Costs,
    request: &'a Request,
    link: usize,
    ratio: [u64; 2],
    stop: &'a mut dyn FnMut() -> bool,
}

impl Sweep<'_> {
    fn costs_at(&self, rate: BytesPerSec) -> Costs {
        let down = u128::from(rate.0) * u128::from(self.ratio[1]) / u128::from(self.ratio[0]);
        let down = BytesPerSec(u64::try_from(down).unwrap_or(u64::MAX).max(1));
        self.costs.with_rates(self.link, rate, down)
    }

    fn best(&mut self, rate: BytesPerSec) -> Result<Option<Choice>, PlannerError> {
        let costs = self.costs_at(rate);
        Ok(solve_until(self.dag, &costs, self.request, self.stop)?.best.ok())
    }

    fn latency(&self, choice: &Choice, rate: BytesPerSec) -> Nanos {
        let costs = self.costs_at(rate);
        let evaluation = evaluate(self.dag, &costs, &choice.mapping, &choice.setting);
        evaluation.map_or(Nanos(u64::MAX), |evaluation| evaluation.latency)
    }

    /// Adds what lies between the last corner and `high`, whose best plan is known, and `high`.
    fn divide(
        &mut self,
        low: BytesPerSec,
        high: BytesPerSec,
        last: Choice,
        corners: &mut Vec<(BytesPerSec, Choice)>,
    ) -> Result<(), PlannerError> {
        let mut open = vec![(high, last)];
        let mut low = low;
        while let Some((high, best)) = open.pop() {
            let first = corners.last().expect("starts with one").1.clone();
            let middle = self.meeting(&first, &best, low, high);
            let inside = low < middle && middle < high;
            let at_middle = if same(&first, &best) || !inside { None } else { self.best(middle)? };
            match at_middle {
                Some(new) if !same(&new, &first) && !same(&new, &best) => {
                    open.push((high, best));
                    open.push((middle, new));
                }
                _ => {
                    if !same(&first, &best) {
                        // Up to the meeting, which may be the low end itself, the slower link's plan,
                        // from there on the other.
                        corners.push((middle, first));
                        corners.push((BytesPerSec(middle.0 + 1), best.clone()));
                    }
                    corners.push((high, best));
                    low = high;
                }
            }
        }
        Ok(())
    }

    /// The highest rate at which the plan that is best at the low end still is no worse than the
    /// other: by bisection, because rounding makes the lines a little crooked.
    fn meeting(
        &self,
        first: &Choice,
        second: &Choice,
        low: BytesPerSec,
        high: BytesPerSec,
    ) -> BytesPerSec {
        let (mut low, mut high) = (low.0, high.0);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let rate = BytesPerSec(middle);
            match self.latency(first, rate) <= self.latency(second, rate) {
                true => low = middle,
                false => high = middle,
            }
        }
        BytesPerSec(low)
    }
}

/// Whether two choices are the same plan: devices may take turns in more than one order.
fn same(a: &Choice, b: &Choice) -> bool {
    let Setting { input, order, .. } = &a.setting;
    a.mapping == b.mapping && (*input, order) == (b.setting.input, &b.setting.order) && {
        let used =
            |choice: &Choice, device: usize| choice.mapping.0.iter().any(|id| id.index() == device);
        (0..a.setting.engines.len()).all(|device| {
            !used(a, device)
                || a.setting.engines[device] == b.setting.engines[device]
                    && a.setting.codecs[device] == b.setting.codecs[device]
        })
    }
}
