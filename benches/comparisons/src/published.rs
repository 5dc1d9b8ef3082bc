//! Published graphs under their own cost rules: a second evaluator, beside Cutline's cost model.
//!
//! The graphs and expert splits are those of Tarnawski, Phanishayee, Devanur, Mahajan and Nina
//! Paravecino, "Efficient algorithms for device placement of DNN graph operators", NeurIPS 2020
//! (`msr-fiddle/dnn-partitioning`, MIT). The rules, for inference, as the paper and its files have
//! them:
//!
//! * There are k alike accelerators (`maxFPGAs`), each with memory of `maxSizePerFPGA` bytes, and l
//!   CPUs (`maxCPUs`) whose memory has no limit.
//! * Nodes take `cpuLatency` or `fpgaLatency`, and `size` bytes of an accelerator's memory; those
//!   without `supportedOnFpga` need a CPU. Nodes of one `colorClass` share a device.
//! * What a node makes crosses between an accelerator and the host's memory in the time `cost` of its
//!   edges. An accelerator pays for each value that it reads and did not make, once, and for each
//!   that it makes and others read, once; a CPU pays for none.
//! * The **load** of an accelerator is its nodes' times and those payments, of a CPU its nodes' times.
//!   **Throughput** asks for the least largest load ([`throughput`]).
//! * For **latency** there is a CPU for every branch: a node on a CPU is done `cpuLatency` after the
//!   last that it reads; an accelerator is called once, when all that it reads is there, and all its
//!   nodes are done together, its load later ([`latency`]).
//! * Each accelerator's nodes are contiguous: no path leaves them and returns.
//!
//! Times are read as whole 1e-12 of the files' unit (milliseconds), so that sums are exact.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use thiserror::Error;

pub mod ideals;
pub mod latency;
pub mod throughput;

/// Parts of the files' unit of time.
pub const PARTS: f64 = 1e12;

/// A graph and the devices to place it on.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Accelerators: k.
    pub accelerators: usize,
    /// CPUs: l.
    pub cpus: usize,
    /// Bytes of each accelerator's memory.
    pub memory: u64,
    /// What shares a device, in topological order.
    pub nodes: Vec<Node>,
    /// What one node makes and others read, by the order of their makers.
    pub values: Vec<Value>,
    /// How many nodes the file has.
    pub original: usize,
}

/// Nodes of the file that share a device.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Their numbers in the file, ascending.
    pub ids: Vec<i64>,
    /// Time on a CPU.
    pub cpu: u64,
    /// Time on an accelerator; `None`: it cannot run there.
    pub accelerator: Option<u64>,
    /// Bytes.
    pub size: u64,
    /// How many of the file's nodes in it take time.
    pub timed: usize,
    /// Nodes that it reads from, ascending.
    pub before: Vec<usize>,
}

/// What crosses between devices, once for each of them.
#[derive(Clone, Debug)]
pub struct Value {
    /// Who makes it.
    pub from: usize,
    /// Who else reads it, ascending.
    pub to: Vec<usize>,
    /// Time from or to an accelerator.
    pub cost: u64,
}

/// Who runs what: sets of nodes, one set for each device that is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// What each accelerator runs.
    pub accelerators: Vec<Vec<usize>>,
    /// What each CPU runs.
    pub cpus: Vec<Vec<usize>>,
}

/// Why a file is not an instance, or a split not one of its placements.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum PublishedError {
    #[error("not the JSON of an instance or a split: {0}")]
    Json(#[from] serde_json::Error),
    #[error("edge from {0} to {1}: there is no such node")]
    UnknownNode(i64, i64),
    #[error("node {0} is there twice")]
    Twice(i64),
    #[error("node {0}: {1} is not a time or a size that can be counted")]
    Number(i64, f64),
    #[error("node {0} has edges of different costs")]
    Costs(i64),
    #[error("node {0} belongs to the backward pass; only inference is known here")]
    Backward(i64),
    #[error("the nodes, joined by colour, depend on each other in a circle")]
    Circle,
    #[error("the split leaves out node {0}")]
    LeftOut(i64),
    #[error("the split puts node {0} apart from others of its colour, or twice")]
    TornApart(i64),
    #[error("more than {0} ideals")]
    TooMany(usize),
    #[error("nodes of one colour have times of their own, so the latency of each is not known")]
    Joined,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawInstance {
    #[serde(rename = "maxSizePerFPGA")]
    memory: f64,
    #[serde(rename = "maxFPGAs")]
    accelerators: usize,
    #[serde(rename = "maxCPUs")]
    cpus: usize,
    nodes: Vec<RawNode>,
    edges: Vec<RawEdge>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawNode {
    id: i64,
    supported_on_fpga: Flag,
    cpu_latency: f64,
    fpga_latency: f64,
    is_backward_node: Flag,
    color_class: Option<i64>,
    #[serde(default)]
    size: f64,
}

/// The files write either.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Flag {
    Word(bool),
    Number(i64),
}

impl Flag {
    fn is_set(self) -> bool {
        match self {
            Flag::Word(word) => word,
            Flag::Number(number) => number != 0,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEdge {
    source_id: i64,
    dest_id: i64,
    cost: f64,
}

#[derive(Deserialize)]
struct RawSplit {
    cpus: Vec<RawDevice>,
    fpgas: Vec<RawDevice>,
}

#[derive(Deserialize)]
struct RawDevice {
    nodes: Vec<i64>,
}

impl Instance {
    /// The instance of a file.
    pub fn parse(json: &[u8]) -> Result<Self, PublishedError> {
        let raw: RawInstance = serde_json::from_slice(json)?;
        let mut colours: BTreeMap<(bool, i64), Vec<&RawNode>> = BTreeMap::new();
        let mut known = BTreeSet::new();
        for node in &raw.nodes {
            if node.is_backward_node.is_set() {
                return Err(PublishedError::Backward(node.id));
            }
            if !known.insert(node.id) {
                return Err(PublishedError::Twice(node.id));
            }
            // A node without a colour is by itself.
            let colour = node.color_class.map_or((false, node.id), |colour| (true, colour));
            colours.entry(colour).or_default().push(node);
        }
        let mut nodes = Vec::new();
        let mut home = BTreeMap::new();
        for members in colours.values() {
            home.extend(members.iter().map(|node| (node.id, nodes.len())));
            nodes.push(joined(members)?);
        }
        let mut made: BTreeMap<i64, (u64, BTreeSet<usize>)> = BTreeMap::new();
        for edge in &raw.edges {
            let unknown = || PublishedError::UnknownNode(edge.source_id, edge.dest_id);
            let [from, to] = [edge.source_id, edge.dest_id].map(|id| home.get(&id).copied());
            let (from, to) = (from.ok_or_else(unknown)?, to.ok_or_else(unknown)?);
            let cost = whole(edge.source_id, edge.cost, PARTS)?;
            let entry = made.entry(edge.source_id).or_insert((cost, BTreeSet::new()));
            if entry.0 != cost {
                return Err(PublishedError::Costs(edge.source_id));
            }
            if from != to {
                entry.1.insert(to);
                nodes[to].before.push(from);
            }
        }
        let values = made.into_iter().filter(|(_, (_, to))| !to.is_empty());
        let values = values.map(|(id, (cost, to))| Value {
            from: home[&id],
            to: to.into_iter().collect(),
            cost,
        });
        let instance = Instance {
            accelerators: raw.accelerators,
            cpus: raw.cpus,
            memory: whole(-1, raw.memory, 1.0)?,
            values: values.collect(),
            nodes,
            original: raw.nodes.len(),
        };
        instance.in_order().ok_or(PublishedError::Circle)
    }

    /// A split file as a placement.
    pub fn parse_split(&self, json: &[u8]) -> Result<Placement, PublishedError> {
        let raw: RawSplit = serde_json::from_slice(json)?;
        let mut left: BTreeMap<i64, usize> = BTreeMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            left.extend(node.ids.iter().map(|&id| (id, at)));
        }
        let mut placed = BTreeSet::new();
        let mut sets = |devices: Vec<RawDevice>| -> Result<Vec<Vec<usize>>, PublishedError> {
            let mut sets = Vec::new();
            for device in devices.into_iter().filter(|device| !device.nodes.is_empty()) {
                let mut set = BTreeSet::new();
                for id in device.nodes {
                    set.insert(left.remove(&id).ok_or(PublishedError::TornApart(id))?);
                }
                if let Some(&at) = set.iter().find(|at| !placed.insert(**at)) {
                    return Err(PublishedError::TornApart(self.nodes[at].ids[0]));
                }
                sets.push(set.into_iter().collect());
            }
            Ok(sets)
        };
        let (accelerators, cpus) = (sets(raw.fpgas)?, sets(raw.cpus)?);
        match left.keys().next() {
            Some(&id) => Err(PublishedError::LeftOut(id)),
            None => Ok(Placement { accelerators, cpus }),
        }
    }

    /// The load of an accelerator that runs these nodes; `None` where it cannot.
    pub fn accelerator_load(&self, set: &[usize]) -> Option<u64> {
        let inside: BTreeSet<usize> = set.iter().copied().collect();
        if inside.iter().map(|&at| self.nodes[at].size).sum::<u64>() > self.memory {
            return None;
        }
        let mut load = 0;
        for &at in &inside {
            load += self.nodes[at].accelerator?;
        }
        let crosses = |value: &&Value| match inside.contains(&value.from) {
            true => value.to.iter().any(|to| !inside.contains(to)),
            false => value.to.iter().any(|to| inside.contains(to)),
        };
        Some(load + self.values.iter().filter(crosses).map(|value| value.cost).sum::<u64>())
    }

    /// The load of a CPU that runs these nodes.
    pub fn cpu_load(&self, set: &[usize]) -> u64 {
        set.iter().map(|&at| self.nodes[at].cpu).sum()
    }

    /// The largest load; `None` where an accelerator cannot run what it should.
    pub fn largest_load(&self, placement: &Placement) -> Option<u64> {
        let mut largest = placement.cpus.iter().map(|set| self.cpu_load(set)).max().unwrap_or(0);
        for set in &placement.accelerators {
            largest = largest.max(self.accelerator_load(set)?);
        }
        Some(largest)
    }

    /// When all nodes are done; `None` where an accelerator cannot run what it should, or is not
    /// contiguous.
    pub fn latency(&self, placement: &Placement) -> Option<u64> {
        let mut home: Vec<Option<usize>> = vec![None; self.nodes.len()];
        for (device, set) in placement.accelerators.iter().enumerate() {
            set.iter().for_each(|&at| home[at] = Some(device));
        }
        let mut done: Vec<Option<u64>> = vec![None; self.nodes.len()];
        let mut called = vec![false; placement.accelerators.len()];
        while done.contains(&None) {
            let mut progress = false;
            for at in 0..self.nodes.len() {
                let ready = |set: &[usize], done: &[Option<u64>]| -> Option<u64> {
                    let reads = set.iter().flat_map(|&at| &self.nodes[at].before);
                    reads
                        .filter(|before| !set.contains(before))
                        .try_fold(0, |most, &before| Some(most.max(done[before]?)))
                };
                match home[at] {
                    None if done[at].is_none() => {
                        let Some(start) = ready(&[at], &done) else { continue };
                        done[at] = Some(start + self.nodes[at].cpu);
                        progress = true;
                    }
                    Some(device) if !called[device] => {
                        let set = &placement.accelerators[device];
                        let Some(start) = ready(set, &done) else { continue };
                        let end = start + self.accelerator_load(set)?;
                        set.iter().for_each(|&at| done[at] = Some(end));
                        called[device] = true;
                        progress = true;
                    }
                    _ => {}
                }
            }
            if !progress {
                return None;
            }
        }
        done.into_iter().flatten().max()
    }

    /// The same with its nodes in topological order; `None` if there is none.
    fn in_order(mut self) -> Option<Self> {
        for node in &mut self.nodes {
            node.before.sort_unstable();
            node.before.dedup();
        }
        let mut place: Vec<Option<usize>> = vec![None; self.nodes.len()];
        let mut order = Vec::new();
        while order.len() < self.nodes.len() {
            let ready = |&at: &usize| {
                place[at].is_none()
                    && self.nodes[at].before.iter().all(|&before| place[before].is_some())
            };
            let next = (0..self.nodes.len()).find(ready)?;
            place[next] = Some(order.len());
            order.push(next);
        }
        let place: Vec<usize> = place.into_iter().flatten().collect();
        let mut nodes: Vec<Node> = order.iter().map(|&at| self.nodes[at].clone()).collect();
        for node in &mut nodes {
            node.before.iter_mut().for_each(|before| *before = place[*before]);
            node.before.sort_unstable();
        }
        for value in &mut self.values {
            value.from = place[value.from];
            value.to.iter_mut().for_each(|to| *to = place[*to]);
            value.to.sort_unstable();
        }
        self.values.sort_by_key(|value| value.from);
        Some(Instance { nodes, ..self })
    }
}

/// Nodes of one colour as one.
fn joined(members: &[&RawNode]) -> Result<Node, PublishedError> {
    let mut node = Node { accelerator: Some(0), ..Node::default() };
    for member in members {
        node.ids.push(member.id);
        let cpu = whole(member.id, member.cpu_latency, PARTS)?;
        node.cpu += cpu;
        let time = whole(member.id, member.fpga_latency, PARTS)?;
        let supported = member.supported_on_fpga.is_set();
        node.accelerator = node.accelerator.filter(|_| supported).map(|sum| sum + time);
        node.timed += usize::from(cpu > 0 || time > 0);
        node.size += whole(member.id, member.size, 1.0)?;
    }
    node.ids.sort_unstable();
    Ok(node)
}

/// A number of a file in whole parts of its unit. At most a thousandth of what fits, so that sums do.
fn whole(id: i64, number: f64, parts: f64) -> Result<u64, PublishedError> {
    let scaled = (number * parts).round();
    if scaled.is_finite() && (0.0..1e16).contains(&scaled) {
        Ok(scaled as u64)
    } else {
        Err(PublishedError::Number(id, number))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A random instance: nodes in order, each reading a few before it.
    pub(crate) fn random(seed: u64, count: usize) -> Instance {
        let mut state = seed.wrapping_add(1);
        let mut below = |limit: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        let mut nodes: Vec<Node> = Vec::new();
        for at in 0..count {
            let accelerator = below(10);
            let mut before: Vec<usize> = Vec::new();
            if at > 0 {
                before.push(at - 1 - below(at.min(3) as u64) as usize);
                if below(3) == 0 {
                    before.push(below(at as u64) as usize);
                }
            }
            before.sort_unstable();
            before.dedup();
            nodes.push(Node {
                ids: vec![at as i64],
                cpu: accelerator * 4 + below(8),
                accelerator: (below(12) > 0).then_some(accelerator),
                size: 1 + below(5),
                timed: 1,
                before,
            });
        }
        let values = (0..count).filter_map(|from| {
            let to: Vec<usize> =
                (0..count).filter(|&to| nodes[to].before.contains(&from)).collect();
            (!to.is_empty()).then(|| Value { from, to, cost: below(6) })
        });
        let values = values.collect();
        Instance {
            accelerators: 1 + below(3) as usize,
            cpus: 1 + below(2) as usize,
            memory: 6 + below(20),
            values,
            nodes,
            original: count,
        }
    }

    const SMALL: &str = r#"{ "maxSizePerFPGA": 10, "maxFPGAs": 2, "maxCPUs": 1,
        "nodes": [
          { "id": 7, "supportedOnFpga": 1, "cpuLatency": 5, "fpgaLatency": 1, "isBackwardNode": 0, "colorClass": 1, "size": 3 },
          { "id": 3, "supportedOnFpga": true, "cpuLatency": 0, "fpgaLatency": 0, "isBackwardNode": false, "colorClass": 1, "size": 1 },
          { "id": 4, "supportedOnFpga": 1, "cpuLatency": 6, "fpgaLatency": 2, "isBackwardNode": 0, "size": 4 },
          { "id": 5, "supportedOnFpga": 1, "cpuLatency": 7, "fpgaLatency": 3, "isBackwardNode": 0, "size": 4 } ],
        "edges": [
          { "sourceId": 3, "destId": 7, "cost": 100 },
          { "sourceId": 7, "destId": 4, "cost": 2 }, { "sourceId": 7, "destId": 5, "cost": 2 },
          { "sourceId": 4, "destId": 5, "cost": 4 } ] }"#;

    #[test]
    fn loads_and_latencies_follow_the_rules() {
        let instance = Instance::parse(SMALL.as_bytes()).unwrap();
        assert_eq!(instance.nodes.len(), 3, "two share a colour");
        let part = PARTS as u64;
        // Accelerators' and CPUs' nodes; largest load; latency.
        type Sets = &'static [&'static [i64]];
        let cases: [(Sets, Sets, Option<u64>, Option<u64>); 5] = [
            // 1 + 2 sent; 2 received + 2 + 3.
            (&[&[3, 7], &[4, 5]], &[], Some(7), Some(10)),
            // The value of 7 is sent once though two read it.
            (&[&[3, 7]], &[&[4, 5]], Some(13), Some(16)),
            (&[], &[&[3, 4, 5, 7]], Some(18), Some(18)),
            // Too much memory.
            (&[&[3, 4, 5, 7]], &[], None, None),
            // Not contiguous: it would wait for itself.
            (&[&[3, 5, 7]], &[&[4]], Some(10), None),
        ];
        for (accelerators, cpus, load, latency) in cases {
            let device = |set: &[&[i64]]| {
                let nodes: Vec<_> =
                    set.iter().map(|ids| serde_json::json!({ "nodes": ids })).collect();
                serde_json::Value::from(nodes)
            };
            let split = serde_json::json!({ "fpgas": device(accelerators), "cpus": device(cpus) });
            let placement = instance.parse_split(split.to_string().as_bytes()).unwrap();
            assert_eq!(instance.largest_load(&placement), load.map(|l| l * part), "{split}");
            assert_eq!(instance.latency(&placement), latency.map(|l| l * part), "{split}");
        }
        let torn = r#"{ "fpgas": [{ "nodes": [3, 4, 5] }], "cpus": [{ "nodes": [7] }] }"#;
        assert!(matches!(instance.parse_split(torn.as_bytes()), Err(PublishedError::TornApart(_))));
        assert!(matches!(
            instance.parse_split(br#"{ "fpgas": [], "cpus": [{ "nodes": [4, 5] }] }"#),
            Err(PublishedError::LeftOut(3))
        ));
        let circle =
            SMALL.replace(r#""sourceId": 4, "destId": 5"#, r#""sourceId": 4, "destId": 3"#);
        let circle = circle.replace(r#""cost": 4"#, r#""cost": 4.5"#);
        assert!(matches!(Instance::parse(circle.as_bytes()), Err(PublishedError::Circle)));
    }
}
