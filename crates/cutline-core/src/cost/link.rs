//! One direction of a link: an affine cost for solvers, and a measured table for the rest.
//!
//! Solvers need a cost that is additive over the values of a message, so they see
//! `F + delay + bytes / rate`. A finished plan is evaluated with the table itself, between whose
//! points time is interpolated; the difference is reported.

use std::collections::BTreeMap;

use super::{CostError, LinkCosts};
use crate::{
    platform::{Link, Platform},
    profile::{LinkPoint, LinkTable},
    units::{Bytes, BytesPerSec, Nanos},
};

/// What a message in one direction costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direction {
    /// F: fixed cost of a call.
    pub fixed: Nanos,
    /// Time in flight; occupies nothing.
    pub delay: Nanos,
    /// Bytes per second.
    pub rate: BytesPerSec,
    /// Measured one-way times by size, strictly ascending in size; empty where none was measured.
    pub table: Vec<(Bytes, Nanos)>,
}

impl Direction {
    /// F + delay + bytes / rate: what solvers see.
    pub fn affine_time(&self, bytes: Bytes) -> Nanos {
        self.fixed + self.delay + self.rate.transfer_time(bytes)
    }

    /// Time by the measured table, or the affine time where there is none. Beyond the ends of the
    /// table time follows the rate.
    pub fn time(&self, bytes: Bytes) -> Nanos {
        let after = self.table.partition_point(|&(size, _)| size <= bytes);
        let Some(&(size, time)) = self.table.get(after.saturating_sub(1)) else {
            return self.affine_time(bytes);
        };
        if after == 0 {
            return time - self.rate.transfer_time(size - bytes);
        }
        let Some(&(next_size, next_time)) = self.table.get(after) else {
            return time + self.rate.transfer_time(bytes - size);
        };
        let (rise, run) = (next_time - time, next_size - size);
        let part = (u128::from(rise.0) * u128::from((bytes - size).0)).div_ceil(run.0.into());
        time + Nanos(u64::try_from(part).unwrap_or(u64::MAX))
    }

    /// Time for which the link itself is busy: without the delay.
    pub fn busy(&self, bytes: Bytes) -> Nanos {
        self.time(bytes) - self.delay
    }
}

/// Numbers of network cards, by host and name.
#[derive(Default)]
pub(super) struct Cards(BTreeMap<(String, String), usize>);

impl Cards {
    fn number(&mut self, host: &str, card: &str) -> usize {
        let next = self.0.len();
        *self.0.entry((host.to_owned(), card.to_owned())).or_insert(next)
    }
}

pub(super) fn costs(
    platform: &Platform,
    link: &Link,
    table: Option<&LinkTable>,
    cards: &mut Cards,
) -> Result<LinkCosts, CostError> {
    let [a, b] = link.between.map(|id| platform.device(id).name.clone());
    if let (Some(file), None) = (&link.table, table) {
        return Err(CostError::TableNotLoaded { a, b, file: file.clone() });
    }
    let delay = link.delay.unwrap_or_default();
    let direction = |rate: Option<BytesPerSec>, points: Option<&[LinkPoint]>, direction| {
        let empty = || CostError::EmptyTable { a: a.clone(), b: b.clone(), direction };
        match points {
            Some(points) => fitted(points, delay).ok_or_else(empty),
            None => Ok(Direction {
                fixed: link.fixed,
                delay,
                rate: rate.ok_or_else(empty)?,
                table: Vec::new(),
            }),
        }
    };
    let up = direction(link.up, table.map(|table| table.up.as_slice()), "up")?;
    let down = direction(link.down, table.map(|table| table.down.as_slice()), "down")?;
    let mut card = |end: usize| {
        let host = &platform.device(link.between[end]).host;
        link.cards[end].as_ref().map(|card| cards.number(host, card))
    };
    let cards = [card(0), card(1)];
    let energy = link.energy.map(Option::unwrap_or_default);
    Ok(LinkCosts { between: link.between, up, down, energy, cards })
}

/// Affine least-squares fit with weights 1 / time², so that the relative error is what counts;
/// `None` without points. The intercept is F + delay, of which the declared delay is kept apart.
fn fitted(points: &[LinkPoint], declared_delay: Nanos) -> Option<Direction> {
    let mut table: Vec<(Bytes, Nanos)> = Vec::with_capacity(points.len());
    let mut sorted: Vec<_> = points.iter().map(|p| (p.bytes, p.timing.median_ns)).collect();
    sorted.sort_unstable();
    for (bytes, time) in sorted {
        if table.last().is_none_or(|&(last, _)| last < bytes) {
            table.push((bytes, time));
        }
    }
    let &(_, least) = table.first()?;
    let (intercept, slope) = affine(&table);
    let intercept = Nanos(intercept.round() as u64);
    let delay = declared_delay.min(intercept).min(least);
    // A terabyte per second and more is a link whose rate was not seen.
    let rate = BytesPerSec(six_digits((1e9 / slope.max(1e-3)).round().max(1.0) as u64));
    Some(Direction { fixed: intercept - delay, delay, rate, table })
}

/// More digits than any measurement has, and few enough to keep exact fractions small.
fn six_digits(rate: u64) -> u64 {
    let unit = 10u64.pow(rate.ilog10().saturating_sub(5));
    (rate + unit / 2) / unit * unit
}

fn affine(table: &[(Bytes, Nanos)]) -> (f64, f64) {
    let (mut w, mut wx, mut wt, mut wxx, mut wxt) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for &(bytes, time) in table {
        let (x, t) = (bytes.0 as f64, (time.0 as f64).max(1.0));
        let weight = 1.0 / (t * t);
        w += weight;
        wx += weight * x;
        wt += weight * t;
        wxx += weight * x * x;
        wxt += weight * x * t;
    }
    let spread = w * wxx - wx * wx;
    let slope = if spread > w * wxx * 1e-12 { (w * wxt - wx * wt) / spread } else { 0.0 };
    let intercept = (wt - slope.max(0.0) * wx) / w;
    if intercept >= 0.0 {
        return (intercept, slope.max(0.0));
    }
    // Through the origin: no call takes negative time.
    (0.0, wxt / wxx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Timing;

    fn point(bytes: u64, nanos: u64) -> LinkPoint {
        let time = Nanos(nanos);
        let timing = Timing { median_ns: time, p10_ns: time, p90_ns: time, count: 5 };
        LinkPoint { bytes: Bytes(bytes), timing }
    }

    #[test]
    fn an_affine_link_is_recovered() {
        let points = [0, 1000, 100_000, 3_000_000].map(|n| point(n, 11_000_000 + 400 * n));
        let direction = fitted(&points, Nanos(10_000_000)).unwrap();
        assert_eq!(direction.delay, Nanos(10_000_000));
        assert!(direction.fixed.0.abs_diff(1_000_000) <= 10, "{direction:?}");
        assert!(direction.rate.0.abs_diff(2_500_000) <= 1, "{direction:?}");
    }

    #[test]
    fn the_table_decides_a_finished_plan() {
        let points = [point(3000, 4000), point(1000, 1000), point(2000, 3000)];
        let mut direction = fitted(&points, Nanos::ZERO).unwrap();
        direction.rate = BytesPerSec(1_000_000_000);
        let cases = [
            (1000, 1000),
            (1500, 2000),
            (1501, 2002),
            (2000, 3000),
            (3000, 4000),
            (5000, 6000),
            (600, 600),
        ];
        for (bytes, nanos) in cases {
            assert_eq!(direction.time(Bytes(bytes)), Nanos(nanos), "{bytes}");
        }
    }

    #[test]
    fn odd_tables_give_a_cost_all_the_same() {
        assert_eq!(fitted(&[], Nanos::ZERO), None);
        let flat = fitted(&[point(10, 500), point(20, 500)], Nanos::ZERO).unwrap();
        assert_eq!((flat.fixed, flat.time(Bytes(15))), (Nanos(500), Nanos(500)));
        assert_eq!(flat.rate, BytesPerSec(1_000_000_000_000));
        let steep = fitted(&[point(10, 1), point(20, 500)], Nanos(7)).unwrap();
        assert!(steep.rate.0 > 0 && steep.delay <= Nanos(1));
    }
}
