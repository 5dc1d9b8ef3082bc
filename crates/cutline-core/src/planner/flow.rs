//! Minimum cut by maximum flow, over amounts that are compared lexicographically.
//!
//! Dinic's algorithm (E. A. Dinic, "Algorithm for solution of a problem of maximum flow in networks
//! with power estimation", Soviet Math. Doklady 11, 1970). It only adds, subtracts and compares, so
//! it holds over any ordered group: an [`Amount`] carries the tie-breaking quantity beside the time,
//! and no time is ever rounded to make room for it.
//!
//! A long network is a long path, and Dinic's phases go by path length: hundreds of them, one for
//! each layer. So a first blocking flow follows the caller's [`Rank`]s, the order of the layers, in
//! one pass; the phases that remain are few.

use std::ops::{Add, AddAssign, Sub, SubAssign};

/// Time in exact fractions of a nanosecond, then bytes in exact fractions of a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount {
    pub(crate) time: i128,
    pub(crate) bytes: i128,
}

impl Amount {
    pub(crate) const ZERO: Amount = Amount { time: 0, bytes: 0 };
    /// More than every finite cut: [`Scale`](super::exact::Scale) keeps their sum below its half.
    pub(crate) const INFINITE: Amount = Amount { time: 1 << 122, bytes: 0 };

    fn is_infinite(self) -> bool {
        self.time >= Amount::INFINITE.time / 2
    }
}

impl Add for Amount {
    type Output = Amount;
    fn add(self, other: Amount) -> Amount {
        Amount { time: self.time + other.time, bytes: self.bytes + other.bytes }
    }
}

impl Sub for Amount {
    type Output = Amount;
    fn sub(self, other: Amount) -> Amount {
        Amount { time: self.time - other.time, bytes: self.bytes - other.bytes }
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        *self = *self + other;
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Amount) {
        *self = *self - other;
    }
}

/// A vertex of a [`Network`].
pub(crate) type Vertex = usize;

/// Frames start here: this side of the cut is the source device.
pub(crate) const SOURCE: Vertex = 0;
/// This side of the cut is the other device.
pub(crate) const SINK: Vertex = 1;

/// Position on the way from the source to the sink: the first pass only descends.
pub(crate) type Rank = u32;

const NONE: u32 = u32::MAX;

/// A directed graph with capacities; arc `2k` and arc `2k + 1` are each other's reverse.
#[derive(Clone)]
pub(crate) struct Network {
    rank: Vec<Rank>,
    first: Vec<u32>,
    next: Vec<u32>,
    to: Vec<u32>,
    residual: Vec<Amount>,
}

impl Network {
    /// Only [`SOURCE`] and [`SINK`].
    pub(crate) fn new() -> Self {
        Self {
            rank: vec![NONE - 1, 0],
            first: vec![NONE; 2],
            next: Vec::new(),
            to: Vec::new(),
            residual: Vec::new(),
        }
    }

    /// Adds a vertex; its rank only affects how fast the cut is found.
    pub(crate) fn vertex(&mut self, rank: Rank) -> Vertex {
        self.first.push(NONE);
        self.rank.push(rank);
        self.first.len() - 1
    }

    /// Adds an arc: `forward` is paid when `from` is on the source's side and `to` is not,
    /// `backward` the other way round.
    pub(crate) fn arc(&mut self, from: Vertex, to: Vertex, forward: Amount, backward: Amount) {
        for (from, to, amount) in [(from, to, forward), (to, from, backward)] {
            let arc = self.to.len() as u32;
            self.to.push(to as u32);
            self.residual.push(amount);
            self.next.push(self.first[from]);
            self.first[from] = arc;
        }
    }

    /// Rank of a vertex.
    pub(crate) fn rank(&self, vertex: Vertex) -> Rank {
        self.rank[vertex]
    }

    /// Amount of the minimum cut, and whether each vertex is on the sink's side; among minimum cuts
    /// the one whose sink's side is smallest, which is contained in that of every other. `None` if
    /// every cut is infinite. O(V² E), in practice near linear.
    pub(crate) fn minimum_cut(mut self) -> Option<(Amount, Vec<bool>)> {
        let rank = std::mem::take(&mut self.rank);
        let mut total = self.blocking_flow(&rank)?;
        loop {
            let distance = self.distances_to_sink();
            if distance[SOURCE] == NONE {
                let sink_side = distance.into_iter().map(|distance| distance != NONE).collect();
                return Some((total, sink_side));
            }
            total += self.blocking_flow(&distance)?;
        }
    }

    /// Arcs from every vertex to the sink, over arcs with residual capacity.
    fn distances_to_sink(&self) -> Vec<u32> {
        let mut distance = vec![NONE; self.first.len()];
        let mut queue = Vec::with_capacity(self.first.len());
        distance[SINK] = 0;
        queue.push(SINK);
        let mut done = 0;
        while let Some(&vertex) = queue.get(done) {
            done += 1;
            let mut arc = self.first[vertex];
            while arc != NONE {
                let from = self.to[arc as usize] as usize;
                if distance[from] == NONE && self.residual[arc as usize ^ 1] > Amount::ZERO {
                    distance[from] = distance[vertex] + 1;
                    queue.push(from);
                }
                arc = self.next[arc as usize];
            }
        }
        distance
    }

    /// Fills every path along which the potential falls; `None` if one of them is infinite.
    ///
    /// Where the potential is the distance to the sink, these are the shortest paths: no residual
    /// arc shortens it by more than one.
    fn blocking_flow(&mut self, potential: &[u32]) -> Option<Amount> {
        let mut current = self.first.clone();
        let mut path: Vec<u32> = Vec::new();
        let mut total = Amount::ZERO;
        let mut vertex = SOURCE;
        loop {
            if vertex == SINK {
                let least = path.iter().map(|&arc| self.residual[arc as usize]).min()?;
                if least.is_infinite() {
                    return None;
                }
                total += least;
                vertex = self.augment(&mut path, least);
                continue;
            }
            let arc = current[vertex];
            if arc == NONE {
                let Some(back) = path.pop() else { return Some(total) };
                vertex = self.to[back as usize ^ 1] as usize;
                current[vertex] = self.next[back as usize];
                continue;
            }
            let to = self.to[arc as usize] as usize;
            if potential[to] < potential[vertex] && self.residual[arc as usize] > Amount::ZERO {
                path.push(arc);
                vertex = to;
            } else {
                current[vertex] = self.next[arc as usize];
            }
        }
    }

    /// Sends `amount` along the path and retreats to the tail of its first full arc.
    fn augment(&mut self, path: &mut Vec<u32>, amount: Amount) -> Vertex {
        let mut keep = path.len();
        for (position, &arc) in path.iter().enumerate() {
            self.residual[arc as usize] -= amount;
            self.residual[arc as usize ^ 1] += amount;
            if self.residual[arc as usize] == Amount::ZERO {
                keep = keep.min(position);
            }
        }
        let tail = self.to[path[keep] as usize ^ 1] as usize;
        path.truncate(keep);
        tail
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount(time: i128) -> Amount {
        Amount { time, bytes: 0 }
    }

    proptest! {
        #[test]
        fn the_cut_is_the_least_of_all(
            arcs in prop::collection::vec((0usize..7, 0usize..7, 0i128..6, 0i128..3, 0i128..4), 0..20)
        ) {
            let arcs: Vec<_> = arcs.into_iter().filter(|(from, to, ..)| from != to).collect();
            let mut network = Network::new();
            for rank in [3, 1, 4, 1, 5] {
                network.vertex(rank);
            }
            for &(from, to, time, bytes, back) in &arcs {
                network.arc(from, to, Amount { time, bytes }, amount(back));
            }
            let both = arcs.iter().flat_map(|&(from, to, time, bytes, back)| {
                [(from, to, Amount { time, bytes }), (to, from, amount(back))]
            });
            let arcs: Vec<(usize, usize, Amount)> = both.collect();
            let (found, sink_side) = network.minimum_cut().unwrap();
            let cost = |sink_side: u32| -> Amount {
                let crosses = |from: usize, to: usize| {
                    sink_side >> from & 1 == 0 && sink_side >> to & 1 == 1
                };
                let crossing = arcs.iter().filter(|(from, to, ..)| crosses(*from, *to));
                crossing.fold(Amount::ZERO, |sum, &(_, _, amount)| sum + amount)
            };
            let cuts = (0..1u32 << 7).filter(|cut| cut & 1 == 0 && cut & 2 == 2);
            let least = cuts.clone().map(cost).min().unwrap();
            prop_assert_eq!(found, least);
            let smallest = cuts.filter(|&cut| cost(cut) == least).fold(!0, |a, b| a & b);
            let bits = sink_side.iter().enumerate().map(|(i, &on)| u32::from(on) << i).sum::<u32>();
            prop_assert_eq!(bits, smallest);
        }
    }

    #[test]
    fn a_dead_end_is_left_by_the_arc_that_led_there() {
        // Against an arc the first vertex leads to a dead end, from which nothing flows on by what the
        // first still has to offer, whoever comes there.
        let mut network = Network::new();
        let [first, end, on, other] = [4, 3, 2, 5].map(|rank| network.vertex(rank));
        for (from, to, forward, backward) in [
            (SOURCE, other, 9, 0),
            (other, end, 9, 0),
            (first, on, 9, 0),
            (on, SINK, 9, 0),
            // Arcs that come later are tried first.
            (end, first, 0, 9),
            (SOURCE, first, 5, 0),
        ] {
            network.arc(from, to, amount(forward), amount(backward));
        }
        let (found, sink_side) = network.minimum_cut().unwrap();
        assert_eq!(found, amount(5));
        let on_sink_side: Vec<Vertex> = (0..6).filter(|&vertex| sink_side[vertex]).collect();
        assert_eq!(on_sink_side, [SINK, first, on]);
    }

    #[test]
    fn an_infinite_cut_is_none() {
        let mut network = Network::new();
        let middle = network.vertex(1);
        network.arc(SOURCE, middle, Amount::INFINITE, Amount::ZERO);
        network.arc(middle, SINK, Amount::INFINITE, Amount::ZERO);
        assert!(network.clone().minimum_cut().is_none());
        network.arc(SOURCE, SINK, amount(3), Amount::ZERO);
        assert!(network.minimum_cut().is_none());
    }
}
