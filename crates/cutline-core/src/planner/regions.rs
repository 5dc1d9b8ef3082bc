//! What known plans leave open of a front, and from where that can still be reached.
//!
//! Points that no known one covers lie in regions, each below a corner in every quantity (local upper
//! bounds: Klamroth, Lacour and Vanderpooten, "On the representation of the search region in
//! multi-objective optimization", EJOR 2015). A plan that is worth finding ends inside one of them,
//! so each of its stages and hops keeps below that corner by itself: this bounds the quantities that
//! are maxima jointly, where [`Bounds`] bounds every quantity by itself.
//!
//! A region is a bit. One backward pass finds for every border, last device and set of devices used
//! up the regions in which some rest of a plan stays, for all regions at once: of a stage, those that
//! it keeps within *and* those that what follows it keeps within. As in [`Bounds`], coding is left
//! out, so that nothing really possible is missed.

use super::{
    Objective,
    bounds::{Bounds, hops_into},
    layout::{Layout, Rule},
    steps::Steps,
};
use crate::platform::DeviceId;

/// Beyond this many regions their bits cost more than they save.
const MOST_REGIONS: usize = 4096;
/// Words of all bits.
const MOST_WORDS: usize = 1 << 24;

/// Regions that are open, by border, last device and devices used up.
pub(super) struct Regions {
    /// Words that hold a bit for each region.
    words: usize,
    devices: usize,
    sets: usize,
    /// By quantity asked for.
    corners: Vec<Corners>,
    reachable: Vec<u64>,
}

/// The corners of all regions in one quantity.
struct Corners {
    /// Distinct values, ascending.
    values: Vec<u64>,
    /// For each value and one more: the regions with a corner of at least that.
    regions: Vec<u64>,
}

impl Regions {
    /// `None` where there are no regions to tell apart, or too many, or where a quantity is a sum.
    pub(super) fn new(
        steps: &Steps,
        layout: &Layout,
        bounds: &Bounds,
        codecs: &[usize],
        known: &[Vec<u64>],
        width: usize,
    ) -> Option<Self> {
        // Of sums nothing is known before a plan is whole, so they would only multiply the regions.
        let maxima = layout.quantities[..width].iter().all(|q| Layout::rule(*q) == Rule::Max);
        if known.is_empty() || !maxima {
            return None;
        }
        let regions = corners(known, width, MOST_REGIONS)?;
        let (words, devices, sets) =
            (regions.len().div_ceil(64).max(1), steps.costs.devices().len(), bounds.sets());
        let places = steps.ideals.borders.len() * devices * sets;
        if places.saturating_mul(words) > MOST_WORDS {
            return None;
        }
        let corners = (0..width).map(|at| Corners::new(&regions, at, words)).collect();
        let mut open = Regions { words, devices, sets, corners, reachable: Vec::new() };
        open.reachable.resize(places * words, 0);
        open.backward(steps, layout, bounds, codecs);
        Some(open)
    }

    /// Whether a label may become a plan in some region: its least of each quantity is within, and so
    /// is some rest.
    pub(super) fn may_hold(&self, least: &[u64], [border, last]: [usize; 2], used: u32) -> bool {
        let set = used as usize >> 1 & (self.sets - 1);
        let rest = self.place(border, last, set);
        // Where each quantity's regions are; there are no more quantities than objectives.
        let mut at = [0usize; Objective::ALL.len()];
        for (at, (corners, &least)) in at.iter_mut().zip(self.corners.iter().zip(least)) {
            *at = corners.row(least) * self.words;
        }
        (0..self.words).any(|word| {
            let within = self.corners.iter().zip(at);
            within.fold(self.reachable[rest + word], |bits, (corners, at)| {
                bits & corners.regions[at + word]
            }) != 0
        })
    }

    /// Whether a stage may be part of a plan in some region.
    pub(super) fn may_hold_stage(
        &self,
        steps: &Steps,
        layout: &Layout,
        bounds: &Bounds,
        (device, option): (DeviceId, usize),
        [from, to]: [usize; 2],
    ) -> bool {
        let mut within = vec![u64::MAX; self.words];
        self.confine(&mut within, layout, |at| {
            bounds.alone(steps, layout.quantities[at], (device, option), [from, to])
        });
        let set = if self.sets > 1 { 1 << (device.index() - 1) } else { 0 };
        let rest = self.place(to, device.index(), set);
        let rest = &self.reachable[rest..rest + self.words];
        within.iter().zip(rest).any(|(within, rest)| within & rest != 0)
    }

    fn place(&self, border: usize, last: usize, set: usize) -> usize {
        ((border * self.devices + last) * self.sets + set) * self.words
    }

    /// Leaves the regions whose corners are above a value, for each quantity that is a maximum.
    fn confine(&self, regions: &mut [u64], layout: &Layout, value: impl Fn(usize) -> u64) {
        for (at, corners) in self.corners.iter().enumerate() {
            if Layout::rule(layout.quantities[at]) == Rule::Max {
                let row = corners.row(value(at)) * self.words;
                let above = &corners.regions[row..row + self.words];
                regions.iter_mut().zip(above).for_each(|(region, above)| *region &= above);
            }
        }
    }

    fn backward(&mut self, steps: &Steps, layout: &Layout, bounds: &Bounds, codecs: &[usize]) {
        let last = steps.ideals.last();
        let row = self.sets * self.words;
        let end = self.place(last, 0, 0);
        self.reachable[end..].fill(u64::MAX);
        let mut via = vec![0; row];
        let mut within = vec![0; self.words];
        for from in (0..last).rev() {
            let next = steps.ideals.after(from);
            for device in steps.costs.device_ids().skip(1) {
                let hops = hops_into(steps, layout, codecs, from, device);
                if hops.iter().all(Option::is_none) {
                    continue;
                }
                via.fill(0);
                for option in 0..steps.costs.device(device).options.len() {
                    for &to in &next {
                        if steps.compute(device, option, from, to).is_none() {
                            continue;
                        }
                        within.fill(u64::MAX);
                        self.confine(&mut within, layout, |at| {
                            let quantity = layout.quantities[at];
                            bounds.alone(steps, quantity, (device, option), [from, to])
                        });
                        if within.iter().any(|&bits| bits != 0) {
                            self.join(&mut via, &within, device, to);
                        }
                    }
                }
                for (sender, hop) in hops.iter().enumerate() {
                    let Some(hop) = hop else { continue };
                    within.fill(u64::MAX);
                    self.confine(&mut within, layout, |at| hop[at]);
                    let start = self.place(from, sender, 0);
                    add(&mut self.reachable[start..start + row], &via, &within);
                }
            }
        }
    }

    /// Adds what a device reaches by a stage that keeps within some regions.
    fn join(&self, via: &mut [u64], within: &[u64], device: DeviceId, to: usize) {
        let start = self.place(to, device.index(), 0);
        let rest = &self.reachable[start..start + via.len()];
        if self.sets == 1 {
            add(via, rest, within);
            return;
        }
        // Sets without the device, and the same sets with it.
        let half = self.words << (device.index() - 1);
        for (via, rest) in via.chunks_exact_mut(2 * half).zip(rest.chunks_exact(2 * half)) {
            add(&mut via[..half], &rest[half..], within);
        }
    }
}

impl Corners {
    fn new(regions: &[Vec<u64>], at: usize, words: usize) -> Self {
        let mut values: Vec<u64> = regions.iter().map(|corner| corner[at]).collect();
        values.sort_unstable();
        values.dedup();
        let mut bits = vec![0; (values.len() + 1) * words];
        for (row, value) in values.iter().enumerate() {
            for (region, corner) in regions.iter().enumerate() {
                if corner[at] >= *value {
                    bits[row * words + region / 64] |= 1 << (region % 64);
                }
            }
        }
        Corners { values, regions: bits }
    }

    /// Where the regions are whose corners are above a value.
    fn row(&self, value: u64) -> usize {
        self.values.partition_point(|&corner| corner <= value)
    }
}

/// Adds to the bits of each set those of another that are within the regions.
fn add(sets: &mut [u64], others: &[u64], within: &[u64]) {
    let words = within.len();
    for (set, other) in sets.chunks_exact_mut(words).zip(others.chunks_exact(words)) {
        for (set, (other, within)) in set.iter_mut().zip(other.iter().zip(within)) {
            *set |= other & within;
        }
    }
}

/// The corners of the regions that no point covers; `None` where they are more than `most`.
fn corners(points: &[Vec<u64>], width: usize, most: usize) -> Option<Vec<Vec<u64>>> {
    let mut corners = vec![vec![u64::MAX; width]];
    for point in points {
        let inside = |corner: &Vec<u64>| point.iter().zip(corner).all(|(p, c)| p < c);
        let (hit, mut kept): (Vec<_>, Vec<_>) = corners.into_iter().partition(inside);
        let lowered = hit.iter().flat_map(|corner| {
            (0..width).map(|at| {
                let mut corner = corner.clone();
                corner[at] = point[at];
                corner
            })
        });
        let lowered: Vec<Vec<u64>> = lowered.filter(|corner| !corner.contains(&0)).collect();
        let within = |a: &[u64], b: &[u64]| a.iter().zip(b).all(|(a, b)| a <= b);
        for (at, corner) in lowered.iter().enumerate() {
            let in_other = lowered.iter().enumerate().any(|(other, larger)| {
                other != at && within(corner, larger) && (corner != larger || other < at)
            });
            if !in_other && !kept.iter().any(|larger| within(corner, larger)) {
                kept.push(corner.clone());
            }
        }
        if kept.len() > most {
            return None;
        }
        corners = kept;
    }
    Some(corners)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn regions_hold_what_no_point_covers(
            // Few of these cover others, so that regions are often more than the bits of a word.
            points in prop::collection::vec((0u64..9, 0u64..9, 0u64..3), 1..60),
            reachable in prop::collection::vec(any::<u64>(), 8),
        ) {
            let points: Vec<Vec<u64>> =
                points.iter().map(|&(x, y, more)| vec![x, y, 16 - x - y + more]).collect();
            let known = corners(&points, 3, usize::MAX).expect("no limit");
            let words = known.len().div_ceil(64).max(1);
            let rows = (0..3).map(|at| Corners::new(&known, at, words)).collect();
            let reachable = [vec![u64::MAX; words], reachable[..words].to_vec()].concat();
            // From one border all regions can be reached, from the next some.
            let open = Regions { words, devices: 1, sets: 1, corners: rows, reachable };
            for cell in 0..10 * 10 * 20 {
                let values = [cell % 10, cell / 10 % 10, cell / 100];
                let covered = points.iter().any(|p| p.iter().zip(values).all(|(p, v)| *p <= v));
                prop_assert_eq!(open.may_hold(&values, [0, 0], 0), !covered);
                let above = |corner: &[u64]| corner.iter().zip(values).all(|(c, v)| v < *c);
                let reached = |at: usize| open.reachable[words + at / 64] >> (at % 64) & 1 == 1;
                let held = known.iter().enumerate().any(|(at, c)| above(c) && reached(at));
                // Where sets are not told apart, it does not matter which devices are used up.
                prop_assert_eq!(open.may_hold(&values, [1, 0], u32::MAX), held);
            }
        }
    }
}
