//! The ideals of an instance: sets of nodes that hold all that their members read from.
//!
//! What one ideal has more than another within it is contiguous, and placements in a row of devices
//! are chains of ideals. With each pair goes the load of an accelerator that runs the difference, in
//! time by the values that cross the smaller one's border alone.

use std::collections::HashSet;

use super::{Instance, PublishedError};

/// Ideals in an order in which each comes after all that are within it, with what they sum up to.
pub struct Ideals<'a> {
    /// Whose they are.
    pub instance: &'a Instance,
    /// Words of a set.
    words: usize,
    /// All sets, one after another.
    sets: Vec<u64>,
    /// Sums over each ideal's nodes.
    pub sums: Vec<Sums>,
    /// Values made inside of each ideal and read outside.
    crossing: Vec<Vec<u32>>,
    /// Readers of each value, as sets.
    readers: Vec<Vec<u64>>,
    /// Readers of anything that each node makes, as sets.
    node_readers: Vec<Vec<u64>>,
}

/// Sums over the nodes of an ideal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Nodes.
    pub nodes: usize,
    /// Time on a CPU.
    pub cpu: u64,
    /// Time on an accelerator, of those that can run there.
    pub accelerator: u64,
    /// Nodes that cannot run on an accelerator.
    pub unsupported: usize,
    /// Bytes.
    pub size: u64,
    /// Cost of what crosses the border.
    pub crossing: u64,
}

/// By which sum ideals are sorted, so that one can stop where it has grown too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Time on an accelerator.
    Time,
    /// Bytes.
    Size,
}

impl<'a> Ideals<'a> {
    /// All ideals; an error where there are more than `most`. O(ideals x nodes).
    pub fn all(instance: &'a Instance, order: Order, most: usize) -> Result<Self, PublishedError> {
        let words = words(instance);
        let mut level = vec![vec![0u64; words]];
        let mut sets = level.clone();
        while !level.is_empty() {
            let mut next = HashSet::new();
            for set in &level {
                for (at, node) in instance.nodes.iter().enumerate() {
                    if !holds(set, at) && node.before.iter().all(|&before| holds(set, before)) {
                        let mut more = set.clone();
                        more[at / 64] |= 1 << (at % 64);
                        next.insert(more);
                    }
                }
            }
            level = next.into_iter().collect();
            // Hash order must not decide between equals.
            level.sort_unstable();
            sets.extend(level.iter().cloned());
            if sets.len() > most {
                return Err(PublishedError::TooMany(most));
            }
        }
        Ok(Self::of(instance, order, sets))
    }

    /// The beginnings of the topological order alone: few, and good for a first answer.
    pub fn prefixes(instance: &'a Instance, order: Order) -> Self {
        let mut sets = vec![vec![0u64; words(instance)]];
        for at in 0..instance.nodes.len() {
            let mut more = sets[at].clone();
            more[at / 64] |= 1 << (at % 64);
            sets.push(more);
        }
        Self::of(instance, order, sets)
    }

    fn of(instance: &'a Instance, order: Order, sets: Vec<Vec<u64>>) -> Self {
        let words = words(instance);
        let readers = instance.values.iter().map(|value| {
            let mut set = vec![0u64; words];
            value.to.iter().for_each(|&to| set[to / 64] |= 1 << (to % 64));
            set
        });
        let readers: Vec<Vec<u64>> = readers.collect();
        let mut node_readers = vec![vec![0u64; words]; instance.nodes.len()];
        for (value, readers) in instance.values.iter().zip(&readers) {
            let all = &mut node_readers[value.from];
            all.iter_mut().zip(readers).for_each(|(all, more)| *all |= more);
        }
        let crosses = |set: &[u64], at: usize| {
            let outside = readers[at].iter().zip(set).any(|(readers, set)| readers & !set != 0);
            holds(set, instance.values[at].from) && outside
        };
        let sums = |set: &[u64]| {
            let mut sums = Sums::default();
            for node in members(set).map(|at| &instance.nodes[at]) {
                sums.nodes += 1;
                sums.cpu += node.cpu;
                sums.accelerator += node.accelerator.unwrap_or(0);
                sums.unsupported += usize::from(node.accelerator.is_none());
                sums.size += node.size;
            }
            let crossing: Vec<u32> = (0..instance.values.len())
                .filter(|&at| crosses(set, at))
                .map(|at| at as u32)
                .collect();
            sums.crossing = crossing.iter().map(|&at| instance.values[at as usize].cost).sum();
            (sums, crossing)
        };
        let with_sums = |set: Vec<u64>| {
            let (sums, crossing) = sums(&set);
            (set, sums, crossing)
        };
        let mut all: Vec<_> = sets.into_iter().map(with_sums).collect();
        all.sort_by_key(|(_, sums, _)| match order {
            Order::Time => (sums.accelerator, sums.nodes),
            Order::Size => (sums.size, sums.nodes),
        });
        let mut ideals = Ideals {
            instance,
            words,
            sets: Vec::with_capacity(all.len() * words),
            sums: Vec::with_capacity(all.len()),
            crossing: Vec::with_capacity(all.len()),
            readers,
            node_readers,
        };
        for (set, sums, crossing) in all {
            ideals.sets.extend(set);
            ideals.sums.push(sums);
            ideals.crossing.push(crossing);
        }
        ideals
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sums.len()
    }

    /// Never: nothing and everything are ideals.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Position of the one that holds everything.
    pub fn last(&self) -> usize {
        self.len() - 1
    }

    fn set(&self, ideal: usize) -> &[u64] {
        &self.sets[ideal * self.words..][..self.words]
    }

    /// Whether one holds a node.
    pub fn holds(&self, ideal: usize, node: usize) -> bool {
        holds(self.set(ideal), node)
    }

    /// Whether one is within another.
    pub fn is_within(&self, inner: usize, outer: usize) -> bool {
        self.set(inner).iter().zip(self.set(outer)).all(|(a, b)| a & !b == 0)
    }

    /// Whether a node of one reads a node.
    pub fn is_read_in(&self, ideal: usize, node: usize) -> bool {
        self.node_readers[node].iter().zip(self.set(ideal)).any(|(readers, set)| readers & set != 0)
    }

    /// What the outer one has more, in topological order.
    pub fn between(&self, inner: usize, outer: usize) -> impl Iterator<Item = usize> {
        let words = self.set(inner).iter().zip(self.set(outer)).enumerate();
        words.flat_map(|(word, (a, b))| bits(word, b & !a))
    }

    /// Load of an accelerator that runs what the outer one has more; `None` where it cannot.
    pub fn load(&self, inner: usize, outer: usize) -> Option<u64> {
        let (a, b) = (&self.sums[inner], &self.sums[outer]);
        if a.unsupported != b.unsupported || b.size - a.size > self.instance.memory {
            return None;
        }
        let (small, large) = (self.set(inner), self.set(outer));
        // What crosses the outer border, less what the inner one made of it.
        let (mut paid, mut passed) = (b.crossing, 0);
        for &value in &self.crossing[inner] {
            let cost = self.instance.values[value as usize].cost;
            let readers = &self.readers[value as usize];
            let (mut here, mut beyond) = (0, 0);
            for word in 0..self.words {
                here |= readers[word] & large[word] & !small[word];
                beyond |= readers[word] & !large[word];
            }
            paid += if here != 0 { cost } else { 0 };
            passed += if beyond != 0 { cost } else { 0 };
        }
        Some(b.accelerator - a.accelerator + paid - passed)
    }
}

fn words(instance: &Instance) -> usize {
    instance.nodes.len().div_ceil(64).max(1)
}

fn holds(set: &[u64], at: usize) -> bool {
    set[at / 64] >> (at % 64) & 1 == 1
}

fn members(set: &[u64]) -> impl Iterator<Item = usize> {
    set.iter().enumerate().flat_map(|(word, &set)| bits(word, set))
}

fn bits(word: usize, mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros() as usize;
        set &= set.checked_sub(1)?;
        Some(word * 64 + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::tests::random;

    #[test]
    fn loads_of_pairs_are_those_of_their_difference() {
        let mut compared = 0;
        for seed in 0..40 {
            let instance = random(seed, 9);
            let ideals = Ideals::all(&instance, Order::Time, 10_000).unwrap();
            for outer in 0..ideals.len() {
                for inner in (0..outer).filter(|&inner| ideals.is_within(inner, outer)) {
                    let set: Vec<usize> = ideals.between(inner, outer).collect();
                    assert_eq!(ideals.load(inner, outer), instance.accelerator_load(&set));
                    compared += 1;
                }
            }
        }
        assert!(compared > 1_000, "{compared}");
    }
}
