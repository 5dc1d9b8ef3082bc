//! The least latency, with one call of each accelerator, by a dynamic programme over ideals.
//!
//! Some nodes are waists: every other node is before or after them. An accelerator that runs a waist
//! runs, of each part between two waists, a beginning, an end, or all; so while it is called nothing
//! else can be, and what CPUs do between two such calls is a difference of two ideals that takes its
//! longest path. A placement whose accelerators all run a waist is therefore a chain of ideals, and
//! its latency a sum.
//!
//! That leaves accelerators that run none, beside others. Where no path between two waists is longer
//! on CPUs than the accelerator's payments at its two ends, such an accelerator gives way to CPUs at
//! no loss, and the best chain is the best placement. Else, the same programme with the parts that
//! CPUs do priced at what an accelerator of their own could at best make of them is a bound.

use super::{
    Instance, Node, Placement, PublishedError,
    ideals::{Ideals, Order},
};

/// More ideals are not enumerated.
const MOST_IDEALS: usize = 200_000;

/// An answer, and how good it is.
pub struct Answer {
    /// Who runs what; what no accelerator runs, CPUs do.
    pub placement: Placement,
    /// When all nodes are done.
    pub latency: u64,
    /// No placement is faster.
    pub bound: u64,
    /// Ideals that were looked at.
    pub ideals: usize,
}

/// The best chain, and what it proves.
pub fn solve(instance: &Instance) -> Result<Answer, PublishedError> {
    if instance.nodes.iter().any(|node| node.timed > 1) {
        return Err(PublishedError::Joined);
    }
    let ideals = Ideals::all(instance, Order::Size, MOST_IDEALS)?;
    let prefixes = Ideals::prefixes(instance, Order::Size);
    let first = Chains::new(&prefixes, Beside::Cpus).best(u64::MAX);
    let below = first.as_ref().map_or(u64::MAX, |(latency, _)| *latency);
    let better = Chains::new(&ideals, Beside::Cpus).best(below);
    let (chain, placement) = better.or(first).expect("CPUs can run everything");
    let of = |placement: &Placement| {
        instance.latency(placement).expect("differences of ideals are contiguous and fit")
    };
    // Branches of a chain need not wait for each other, so it may be done sooner than the sum.
    let latency = of(&placement);
    if calls_beside_are_useless(instance, &waists(instance)) {
        return Ok(Answer { placement, latency, bound: chain, ideals: ideals.len() });
    }
    // Less than the chain, or nothing is. Its calls, and more beside them, may make a better answer.
    let relaxed = Chains::new(&ideals, Beside::Calls).best(chain);
    let (bound, other) = relaxed.unwrap_or_else(|| (chain, placement.clone()));
    let tried = [placement, other].map(|placement| with_calls_beside(instance, placement));
    let placement = tried.into_iter().min_by_key(of).expect("two were tried");
    Ok(Answer { latency: of(&placement), placement, bound, ideals: ideals.len() })
}

/// A placement with further accelerators for paths that CPUs run, as long as one helps: each time the
/// path that helps most, of those whose inner nodes have one reader and one node before them.
fn with_calls_beside(instance: &Instance, mut placement: Placement) -> Placement {
    let mut latency = instance.latency(&placement).unwrap_or(u64::MAX);
    let mut readers = vec![Vec::new(); instance.nodes.len()];
    for (at, node) in instance.nodes.iter().enumerate() {
        node.before.iter().for_each(|&before| readers[before].push(at));
    }
    while placement.accelerators.len() < instance.accelerators {
        let mut best = None;
        let called: Vec<usize> = placement.accelerators.concat();
        let is_free = |at: &usize| !called.contains(at);
        for start in (0..instance.nodes.len()).filter(is_free) {
            let mut path = vec![start];
            loop {
                let mut more = placement.clone();
                more.accelerators.push(path.clone());
                if let Some(found) = instance.latency(&more).filter(|&found| found < latency) {
                    latency = found;
                    best = Some(more);
                }
                let [next] = readers[path[path.len() - 1]][..] else { break };
                if !is_free(&next) || instance.nodes[next].before.len() > 1 {
                    break;
                }
                path.push(next);
            }
        }
        match best {
            Some(better) => placement = better,
            None => break,
        }
    }
    let called: Vec<usize> = placement.accelerators.concat();
    placement.cpus.iter_mut().for_each(|set| set.retain(|at| !called.contains(at)));
    placement
}

/// What runs the parts that no accelerator with a waist runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// CPUs: what a placement of the chain takes.
    Cpus,
    /// CPUs or calls of as many further accelerators as one likes: at most what any placement takes.
    Calls,
}

/// Nodes that every other one is before or after, in order.
fn waists(instance: &Instance) -> Vec<usize> {
    let count = instance.nodes.len();
    let mut before: Vec<Vec<bool>> = Vec::with_capacity(count);
    for node in &instance.nodes {
        let mut set = vec![false; count];
        for &direct in &node.before {
            set[direct] = true;
            (0..count).filter(|&at| before[direct][at]).for_each(|at| set[at] = true);
        }
        before.push(set);
    }
    let comparable = |a: usize, b: usize| a == b || before[a][b] || before[b][a];
    (0..count).filter(|&a| (0..count).all(|b| comparable(a, b))).collect()
}

/// Whether an accelerator without a waist never beats CPUs: on every path of nodes between two
/// waists, CPUs lose less time than the accelerator pays at the path's ends.
fn calls_beside_are_useless(instance: &Instance, waists: &[usize]) -> bool {
    let nodes = &instance.nodes;
    let is_inside = |at: usize| !waists.contains(&at);
    let (reads, makes) = payments(instance);
    (0..nodes.len()).filter(|&start| is_inside(start)).all(|start| {
        // The most that CPUs lose on a path from here to each node.
        let mut lost: Vec<Option<i128>> = vec![None; nodes.len()];
        (start..nodes.len()).filter(|&at| is_inside(at)).all(|at| {
            let so_far = match at == start {
                true => Some(0),
                false => nodes[at].before.iter().filter_map(|&before| lost[before]).max(),
            };
            let Some(so_far) = so_far else { return true };
            let Some(time) = nodes[at].accelerator else { return true };
            let total = so_far + i128::from(nodes[at].cpu) - i128::from(time);
            lost[at] = Some(total);
            total <= i128::from(reads[start]) + i128::from(makes[at])
        })
    })
}

/// For each node the cost of all that it reads, and of all that it makes.
fn payments(instance: &Instance) -> (Vec<u64>, Vec<u64>) {
    let mut reads = vec![0; instance.nodes.len()];
    let mut makes = vec![0; instance.nodes.len()];
    for value in &instance.values {
        makes[value.from] += value.cost;
        value.to.iter().for_each(|&to| reads[to] += value.cost);
    }
    (reads, makes)
}

struct Chains<'a> {
    ideals: &'a Ideals<'a>,
    beside: Beside,
    waists: Vec<usize>,
    /// Cost of all that each node makes.
    makes: Vec<u64>,
    /// For each node the cost of what it reads from each of those before it.
    pays: Vec<Vec<u64>>,
}

/// When a node is done.
#[derive(Clone, Copy)]
struct Done {
    /// If a CPU runs it.
    cpu: u64,
    /// If a call does, before anything leaves it.
    called: u64,
}

/// How a state was reached: the ideal before, and whether beside the accelerators of the chain.
type Step = (u32, bool);

impl<'a> Chains<'a> {
    fn new(ideals: &'a Ideals<'a>, beside: Beside) -> Self {
        let (_, makes) = payments(ideals.instance);
        let instance = ideals.instance;
        let pays = |(at, node): (usize, &Node)| {
            let from = |&before: &usize| {
                let read = instance.values.iter().filter(|value| value.from == before);
                read.filter(|value| value.to.contains(&at)).map(|value| value.cost).sum()
            };
            node.before.iter().map(from).collect()
        };
        let pays = instance.nodes.iter().enumerate().map(pays).collect();
        Chains { ideals, beside, waists: waists(instance), makes, pays }
    }

    /// The fastest chain that takes less than `below`.
    fn best(&self, below: u64) -> Option<(u64, Placement)> {
        let ideals = self.ideals;
        let instance = ideals.instance;
        // A state: accelerators called so far.
        let states = instance.accelerators + 1;
        let mut times = vec![u64::MAX; ideals.len() * states];
        let mut steps: Vec<Step> = vec![(0, false); times.len()];
        times[0] = 0;
        let ends = self.ends();
        let left = self.left();
        for inner in 0..ideals.last() {
            let from = inner * states;
            let open = |times: &[u64], state: usize| {
                times[from + state].checked_add(left[inner]).is_some_and(|least| least < below)
            };
            let Some(first) = (0..states).find(|&state| open(&times, state)) else { continue };
            let end = ends[inner];
            let ready = self.ready(inner, end);
            for (outer, &rest) in left.iter().enumerate().skip(inner + 1) {
                let size = ideals.sums[outer].size - ideals.sums[inner].size;
                let may_call = size <= instance.memory;
                let may_stay = ideals.sums[outer].size <= ideals.sums[end].size;
                if !may_call && !may_stay {
                    break;
                }
                if !ideals.is_within(inner, outer) {
                    continue;
                }
                let mut relax = |shift: usize, more: u64, step: Step| {
                    for state in first..states - shift {
                        let Some(time) = times[from + state].checked_add(more) else { continue };
                        let at = outer * states + state + shift;
                        if time < times[at] && time.saturating_add(rest) < below {
                            times[at] = time;
                            steps[at] = step;
                        }
                    }
                };
                if may_stay && ideals.is_within(outer, end) {
                    relax(0, self.makespan(inner, outer, &ready), (inner as u32, true));
                }
                if let Some(load) = may_call.then(|| ideals.load(inner, outer)).flatten() {
                    relax(1, load, (inner as u32, false));
                }
            }
        }
        let last = ideals.last() * states;
        let state = (0..states).min_by_key(|state| times[last + state])?;
        let time = times[last + state];
        (time < u64::MAX).then(|| (time, self.trace(&steps, states, state)))
    }

    /// For each ideal the one up to the next waist: everything, after the last.
    fn ends(&self) -> Vec<usize> {
        let ideals = self.ideals;
        let upto = |waist: usize| {
            (0..ideals.len())
                .filter(|&ideal| ideals.holds(ideal, waist))
                .min_by_key(|&ideal| ideals.sums[ideal].nodes)
        };
        let upto: Vec<(usize, Option<usize>)> =
            self.waists.iter().map(|&waist| (waist, upto(waist))).collect();
        let end = |ideal: usize| {
            let next = upto.iter().find(|(waist, _)| !ideals.holds(ideal, *waist));
            next.and_then(|(_, end)| *end).unwrap_or(ideals.last())
        };
        (0..ideals.len()).map(end).collect()
    }

    /// The least time that what is left of each ideal takes: its waists, each where it is faster.
    fn left(&self) -> Vec<u64> {
        let least = |at: &&usize| {
            let node = &self.ideals.instance.nodes[**at];
            node.accelerator.map_or(node.cpu, |time| time.min(node.cpu))
        };
        let left = |ideal: usize| {
            self.waists
                .iter()
                .filter(|&&at| !self.ideals.holds(ideal, at))
                .map(|at| least(&at))
                .sum()
        };
        (0..self.ideals.len()).map(left).collect()
    }

    /// When each node up to `end` is done after an ideal is, with nothing but what may run beside: on
    /// a CPU, and within a call that is not over yet.
    fn ready(&self, ideal: usize, end: usize) -> Vec<Done> {
        let instance = self.ideals.instance;
        let mut done = vec![Done { cpu: 0, called: u64::MAX }; instance.nodes.len()];
        for at in self.ideals.between(ideal, end) {
            let node = &instance.nodes[at];
            let pays = |before: usize| {
                let position = node.before.binary_search(&before);
                position.map_or(0, |position| self.pays[at][position])
            };
            // What it reads is there, once it has crossed from the call that makes it.
            let there = |before: usize| match self.beside {
                Beside::Cpus => done[before].cpu,
                Beside::Calls => {
                    done[before].cpu.min(done[before].called.saturating_add(pays(before)))
                }
            };
            let before = || node.before.iter().copied();
            let cpu = before().map(there).max().unwrap_or(0) + node.cpu;
            let beside = self.beside == Beside::Calls && !self.waists.contains(&at);
            let called = node.accelerator.filter(|_| beside).map_or(u64::MAX, |time| {
                // For each that it reads, the better of a call that goes on and one that begins.
                let within = before().map(|b| done[b].called.min(there(b).saturating_add(pays(b))));
                within.max().unwrap_or(0).saturating_add(time)
            });
            done[at] = Done { cpu, called };
        }
        done
    }

    /// When all that the outer ideal has more is done.
    fn makespan(&self, inner: usize, outer: usize, ready: &[Done]) -> u64 {
        let more = self.ideals.between(inner, outer);
        let done = more.map(|at| match self.beside {
            Beside::Cpus => ready[at].cpu,
            // What others read, beyond, leaves the call; what is only read here may not.
            Beside::Calls => {
                let leaves = if self.ideals.is_read_in(outer, at) { 0 } else { self.makes[at] };
                ready[at].cpu.min(ready[at].called.saturating_add(leaves))
            }
        });
        done.max().unwrap_or(0)
    }

    fn trace(&self, steps: &[Step], states: usize, mut state: usize) -> Placement {
        let mut placement = Placement::default();
        let mut outer = self.ideals.last();
        while outer != 0 {
            let (inner, beside) = steps[outer * states + state];
            let set = self.ideals.between(inner as usize, outer).collect();
            match beside {
                true => placement.cpus.push(set),
                false => {
                    placement.accelerators.push(set);
                    state -= 1;
                }
            }
            outer = inner as usize;
        }
        placement.accelerators.reverse();
        placement.cpus.reverse();
        placement
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::tests::random;

    /// The least latency over all ways to give each node a CPU or an accelerator.
    fn by_hand(instance: &Instance) -> u64 {
        let devices = instance.accelerators + 1;
        let mut least = u64::MAX;
        let mut homes = vec![0; instance.nodes.len()];
        loop {
            let set = |device: usize| -> Vec<usize> {
                (0..homes.len()).filter(|&at| homes[at] == device).collect()
            };
            let accelerators = (1..devices).map(set).filter(|set| !set.is_empty()).collect();
            let placement = Placement { accelerators, cpus: vec![set(0)] };
            least = least.min(instance.latency(&placement).unwrap_or(u64::MAX));
            let Some(at) = homes.iter().position(|&home| home + 1 < devices) else { return least };
            homes[..at].fill(0);
            homes[at] += 1;
        }
    }

    #[test]
    fn bounds_hold_and_answers_within_them_are_the_best() {
        let (mut proved, mut open) = (0, 0);
        for seed in 0..200 {
            let mut instance = random(seed, 6);
            // Half of them with dear values, as the published ones have.
            let dear = if seed % 2 == 0 { 1 } else { 6 };
            instance.values.iter_mut().for_each(|value| value.cost *= dear);
            let answer = solve(&instance).unwrap();
            let expected = by_hand(&instance);
            assert!(answer.bound <= expected, "seed {seed}: {} > {expected}", answer.bound);
            assert!(answer.latency >= expected, "seed {seed}");
            assert_eq!(instance.latency(&answer.placement), Some(answer.latency), "seed {seed}");
            match answer.bound == answer.latency {
                true => proved += 1,
                false => open += 1,
            }
        }
        assert!(proved > 40, "{proved} proved, {open} not");
    }
}
