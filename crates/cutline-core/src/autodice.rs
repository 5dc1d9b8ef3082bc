//! Mappings as AutoDiCE writes them (Guo et al. 2023): read as they are, and written.
//!
//! A mapping file gives to each resource the nodes that it runs; a platform file lists the hosts.
//! Each digit after `cpu` or `arm` is one core. A node is called after its first output, with `/`
//! and `.` turned into `_`; its own name is understood as well.
//!
//! ```text
//! { "nx01_arm0123": ["conv1_1", "pool1_1"],       nx01, arm, slots=0-5, gpu=NVIDIAVolta (CUDA)
//!   "nx01_gpu":     ["fc6_1", "prob_1"] }         nx02
//! ```
//!
//! An imported mapping meets the checks of every other plan: each layer has one place, and layers
//! that engines run as one have the same. Layers that are replicated may be listed or not; they go
//! where they are needed. A platform made from the files has no measured links: hosts are joined as
//! by `eth-1g`, resources of a host by `loopback`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::json;
use thiserror::Error;

use crate::{
    graph::{Graph, Layer, LayerId, Origin, Role},
    group::Grouping,
    partition::Mapping,
    platform::{DeviceId, Platform},
    preset::{PresetError, Presets, apply, closest},
};

/// Presets that stand for links that the files do not describe: between hosts, and within one.
pub const LINKS: [&str; 2] = ["eth-1g", "loopback"];

/// What runs a list of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The key of the mapping file.
    pub name: String,
    /// The host that it is part of.
    pub host: String,
    /// Cores of the host, ascending; empty: its GPU.
    pub cores: Vec<u32>,
}

/// A mapping file: resources in its order, with the nodes of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingFile(pub Vec<(Resource, Vec<String>)>);

/// A line of a platform file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its cores, where that is said.
    pub slots: Option<RangeInclusive<u32>>,
    /// Whether it has a GPU; `None` for a bare name, which says nothing.
    pub gpu: Option<bool>,
}

/// A mapping file seen as places of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Resources; the first one runs the first group.
    pub resources: Vec<Resource>,
    /// Position of the resource of each group.
    pub of_group: Vec<usize>,
}

/// Why files of AutoDiCE cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum AutodiceError {
    #[error("this is not a mapping of nodes: line {line}, column {column}: {cause}")]
    Syntax { line: usize, column: usize, cause: String },
    #[error(
        "resource `{0}`: expected a host and its cores or GPU, such as `nx01_cpu0`, `nx01_arm0123` or `nx01_gpu`"
    )]
    Resource(String),
    #[error("resource `{0}` is listed twice; give it one list of nodes")]
    DuplicateResource(String),
    #[error("resources `{a}` and `{b}` both use core {core} of `{host}`; a core has one resource")]
    SharedCore { a: String, b: String, host: String, core: u32 },
    #[error("platform line {line}, `{text}`: {cause}")]
    HostLine { line: usize, text: String, cause: &'static str },
    #[error("host `{0}` is listed twice in the platform file")]
    DuplicateHost(String),
    #[error(
        "resource `{resource}` is on host `{host}`, which the platform file does not list; did you mean `{closest}`?"
    )]
    UnknownHost { resource: String, host: String, closest: String },
    #[error("resource `{resource}` uses core {core}, but `{host}` has cores {first} to {last}")]
    NoCore { resource: String, host: String, core: u32, first: u32, last: u32 },
    #[error("resource `{resource}`: the platform file names no GPU of `{host}`")]
    NoGpu { resource: String, host: String },
    #[error(
        "resource `{resource}` runs node `{node}`, which this model does not have; did you mean `{closest}`?"
    )]
    UnknownNode { resource: String, node: String, closest: String },
    #[error("node `{node}` could be layer `{a}` or layer `{b}`; rename one of them in the model")]
    AmbiguousNode { node: String, a: String, b: String },
    #[error("node `{node}` is listed twice, for `{a}` and for `{b}`; a node has one place")]
    DuplicateNode { node: String, a: String, b: String },
    #[error("node `{node}` (layer `{layer}`) is in no list; give it to a resource{hint}")]
    MissingNode { node: String, layer: String, hint: String },
    #[error(
        "node `{first}` is mapped to `{first_resource}` and node `{second}` to `{second_resource}`, but the engines run both as one; map them to the same resource"
    )]
    TornGroup { first: String, first_resource: String, second: String, second_resource: String },
    #[error(
        "resource `{resource}` is not a device of the platform, nor is its host one with a single device; the platform has {known}"
    )]
    UnknownDevice { resource: String, known: String },
    #[error("the resources do not make a platform: {0}")]
    Platform(String),
    #[error(transparent)]
    Preset(#[from] PresetError),
    #[error(
        "device `{device}` cannot be written as a resource: host `{host}` would have more than ten cores, which single digits cannot name"
    )]
    TooManyCores { device: String, host: String },
}

impl MappingFile {
    /// Reads a mapping file; its nodes are checked when it is [imported](import).
    pub fn parse(text: &str) -> Result<Self, AutodiceError> {
        let Pairs(pairs) = serde_json::from_str(text).map_err(|error| AutodiceError::Syntax {
            line: error.line(),
            column: error.column(),
            cause: error.to_string(),
        })?;
        let mut file: Vec<(Resource, Vec<String>)> = Vec::new();
        let mut on_host: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (name, nodes) in pairs {
            let unclear = || AutodiceError::Resource(name.clone());
            let resource = Resource::parse(&name).ok_or_else(unclear)?;
            let here = on_host.entry(resource.host.clone()).or_default();
            for known in here.iter().map(|&at| &file[at].0) {
                if known.name == name {
                    return Err(AutodiceError::DuplicateResource(name));
                }
                if let Some(&core) = known.cores.iter().find(|core| resource.cores.contains(core)) {
                    let (a, b) = (known.name.clone(), name);
                    return Err(AutodiceError::SharedCore { a, b, host: resource.host, core });
                }
            }
            here.push(file.len());
            file.push((resource, nodes));
        }
        Ok(MappingFile(file))
    }
}

impl Resource {
    /// Host and cores of a key; `None` where it is not one.
    pub fn parse(name: &str) -> Option<Self> {
        let (host, what) = name.rsplit_once('_').filter(|(host, _)| !host.is_empty())?;
        let mut cores = Vec::new();
        if what != "gpu" {
            let digits = what.strip_prefix("cpu").or_else(|| what.strip_prefix("arm"))?;
            for digit in digits.chars() {
                cores.push(digit.to_digit(10)?);
            }
            cores.sort_unstable();
            let distinct = cores.windows(2).all(|pair| pair[0] < pair[1]);
            if cores.is_empty() || !distinct {
                return None;
            }
        }
        Some(Resource { name: name.to_owned(), host: host.to_owned(), cores })
    }
}

/// Reads a platform file: a host a line, a bare name or `nx01, arm, slots=0-5, gpu=NVIDIAVolta
/// (CUDA)`; empty lines and lines that start with `#` say nothing.
pub fn parse_hosts(text: &str) -> Result<Vec<Host>, AutodiceError> {
    let mut hosts: Vec<Host> = Vec::new();
    let mut names = BTreeSet::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let wrong = |cause| AutodiceError::HostLine { line, text: text.to_owned(), cause };
        let host = parse_host(text).map_err(wrong)?;
        if !names.insert(host.name.clone()) {
            return Err(AutodiceError::DuplicateHost(host.name));
        }
        hosts.push(host);
    }
    Ok(hosts)
}

fn parse_host(text: &str) -> Result<Host, &'static str> {
    let mut parts = text.split(',').map(str::trim);
    let name = parts.next().unwrap_or_default();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err("expected the name of a host first, such as `nx01, arm, slots=0-5`");
    }
    let mut host = Host { name: name.to_owned(), slots: None, gpu: None };
    for part in parts {
        // What is said of a host is said in full: without a GPU it has none.
        host.gpu.get_or_insert(false);
        if let Some(slots) = part.strip_prefix("slots=") {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            let core = |text: &str| text.trim().parse::<u32>();
            let (Ok(first), Ok(last)) = (core(first), core(last)) else {
                return Err("expected cores such as `slots=0-5`");
            };
            if first > last {
                return Err("the first core comes after the last one");
            }
            host.slots = Some(first..=last);
        } else if let Some(gpu) = part.strip_prefix("gpu=") {
            host.gpu = Some(!gpu.is_empty());
        }
    }
    Ok(host)
}

/// Checks a mapping against hosts: each is listed, has the cores, and a GPU where one is used.
pub fn check_hosts(file: &MappingFile, hosts: &[Host]) -> Result<(), AutodiceError> {
    for (resource, _) in &file.0 {
        let (name, host) = (resource.name.clone(), resource.host.clone());
        let Some(known) = hosts.iter().find(|known| known.name == host) else {
            let closest = closest(&host, hosts.iter().map(|known| known.name.as_str()));
            return Err(AutodiceError::UnknownHost { resource: name, host, closest });
        };
        if resource.cores.is_empty() && known.gpu == Some(false) {
            return Err(AutodiceError::NoGpu { resource: name, host });
        }
        if let Some(slots) = &known.slots
            && let Some(&core) = resource.cores.iter().find(|core| !slots.contains(core))
        {
            let (first, last) = (*slots.start(), *slots.end());
            return Err(AutodiceError::NoCore { resource: name, host, core, first, last });
        }
    }
    Ok(())
}

/// What AutoDiCE calls a layer: its first output, with `/` and `.` turned into `_`.
pub fn node_name(graph: &Graph, layer: &Layer) -> String {
    let first = layer.makes().next().map(|id| graph.value(id).name.as_str());
    mangled(first.unwrap_or(&layer.name))
}

fn mangled(name: &str) -> String {
    name.replace(['/', '.'], "_")
}

/// The places of the groups under a mapping file.
pub fn import(
    graph: &Graph,
    grouping: &Grouping,
    file: &MappingFile,
) -> Result<Imported, AutodiceError> {
    let nodes: Vec<String> = graph.layers().iter().map(|layer| node_name(graph, layer)).collect();
    let mut resource_of: Vec<Option<usize>> = vec![None; nodes.len()];
    let mut layers_of: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (layer, node) in nodes.iter().enumerate() {
        layers_of.entry(node.clone()).or_default().push(layer);
    }
    // A layer's own name will do where no output has it.
    let mut own: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, layer) in graph.layers().iter().enumerate() {
        own.entry(mangled(&layer.name)).or_default().push(at);
    }
    for (name, layers) in own {
        layers_of.entry(name).or_insert(layers);
    }
    // Nodes that hold a constant are values here, not layers.
    let stored = graph.values().iter().filter(|value| value.origin == Origin::Weight);
    let stored: BTreeSet<String> = stored.map(|value| mangled(&value.name)).collect();
    for (position, (resource, listed)) in file.0.iter().enumerate() {
        for node in listed {
            let name = || resource.name.clone();
            match layers_of.get(&mangled(node)).map(Vec::as_slice) {
                Some(&[layer]) => {
                    if let Some(before) = resource_of[layer].replace(position) {
                        let (a, b) = (file.0[before].0.name.clone(), name());
                        return Err(AutodiceError::DuplicateNode { node: node.clone(), a, b });
                    }
                }
                Some(several) => {
                    let layer = |at: usize| graph.layers()[several[at]].name.clone();
                    let (a, b) = (layer(0), layer(1));
                    return Err(AutodiceError::AmbiguousNode { node: node.clone(), a, b });
                }
                None if stored.contains(&mangled(node)) => {}
                None => {
                    let closest = closest(node, nodes.iter().map(String::as_str));
                    let (resource, node) = (name(), node.clone());
                    return Err(AutodiceError::UnknownNode { resource, node, closest });
                }
            }
        }
    }
    let place = |layer: usize| {
        resource_of[layer]
            .ok_or_else(|| missing(graph, grouping, &nodes, &resource_of, file, layer))
    };
    let mut homes: Vec<Option<(usize, usize)>> = vec![None; grouping.dag.groups().len()];
    for (layer, group) in grouping.group_of.iter().enumerate() {
        let Some(group) = group else { continue };
        let resource = place(layer)?;
        let (first, home) = *homes[group.index()].get_or_insert((layer, resource));
        if home != resource {
            let named = |at: usize| file.0[at].0.name.clone();
            return Err(AutodiceError::TornGroup {
                first: nodes[first].clone(),
                first_resource: named(home),
                second: nodes[layer].clone(),
                second_resource: named(resource),
            });
        }
    }
    Ok(Imported::new(file, homes.into_iter().flatten().map(|(_, resource)| resource).collect()))
}

/// A layer without a place, and where the rest of its group is.
fn missing(
    graph: &Graph,
    grouping: &Grouping,
    nodes: &[String],
    resource_of: &[Option<usize>],
    file: &MappingFile,
    layer: usize,
) -> AutodiceError {
    let same = |&other: &usize| grouping.group_of[other] == grouping.group_of[layer];
    let home = (0..nodes.len()).filter(same).find_map(|other| Some((other, resource_of[other]?)));
    let hint = home.map(|(other, at)| {
        format!("; the engines run it with `{}`, which `{}` has", nodes[other], file.0[at].0.name)
    });
    let (node, layer) = (nodes[layer].clone(), graph.layers()[layer].name.clone());
    AutodiceError::MissingNode { node, layer, hint: hint.unwrap_or_default() }
}

impl Imported {
    /// Resources that run something, the one with the first group first, then as in the file.
    fn new(file: &MappingFile, of_group: Vec<usize>) -> Self {
        let first = of_group.first().copied();
        let used = (0..file.0.len()).filter(|at| of_group.contains(at) && Some(*at) != first);
        let order: Vec<usize> = first.into_iter().chain(used).collect();
        let at = |resource: usize| order.iter().position(|&used| used == resource);
        Imported {
            resources: order.iter().map(|&at| file.0[at].0.clone()).collect(),
            of_group: of_group.into_iter().filter_map(at).collect(),
        }
    }

    /// The resources as a platform: those of a host share its memory and its network card, and
    /// [`LINKS`] join them. Its first device, the source, is the resource with the first group.
    pub fn platform(&self) -> Result<Platform, AutodiceError> {
        let device = |resource: &Resource| {
            let mut device = json!({ "name": resource.name, "host": resource.host });
            if !resource.cores.is_empty() {
                device["threads"] = resource.cores.len().into();
            }
            device
        };
        let devices: Vec<_> = self.resources.iter().map(device).collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for resource in &self.resources {
            *counts.entry(&resource.host).or_default() += 1;
        }
        let mut links = Vec::new();
        for (index, (a, count)) in counts.iter().enumerate() {
            if *count > 1 {
                links.push(json!({ "between": [a, a], "preset": LINKS[1] }));
            }
            for (b, _) in counts.iter().skip(index + 1) {
                links.push(json!({ "between": [a, b], "preset": LINKS[0] }));
            }
        }
        let file = json!({ "version": 1, "device": devices, "link": links });
        let platform = serde_json::from_value(file)
            .map_err(|error| AutodiceError::Platform(error.to_string()))?;
        Ok(apply(&Presets::builtin(), platform)?)
    }

    /// The mapping on a platform whose devices have the names of the resources, or are the only one
    /// of their host.
    pub fn onto(&self, platform: &Platform) -> Result<Mapping, AutodiceError> {
        let find = |resource: &Resource| {
            let mut here =
                platform.device_ids().filter(|&id| platform.device(id).host == resource.host);
            let only = here.next().filter(|_| here.next().is_none());
            platform.find_device(&resource.name).or(only).ok_or_else(|| {
                let names = platform.devices().iter().map(|device| format!("`{}`", device.name));
                AutodiceError::UnknownDevice {
                    resource: resource.name.clone(),
                    known: names.collect::<Vec<_>>().join(", "),
                }
            })
        };
        let ids: Vec<DeviceId> = self.resources.iter().map(find).collect::<Result<_, _>>()?;
        Ok(Mapping(self.of_group.iter().map(|&resource| ids[resource]).collect()))
    }
}

/// A mapping as a mapping file. Devices whose names are resources keep them; others become the next
/// cores of their host, as many as they have threads, or its GPU where their preset is one. A
/// replicated layer is listed with the first layer that needs it.
pub fn export(
    graph: &Graph,
    grouping: &Grouping,
    platform: &Platform,
    mapping: &Mapping,
) -> Result<String, AutodiceError> {
    let names = resource_names(platform)?;
    let mut lists: Vec<(String, Vec<String>)> =
        names.into_iter().map(|name| (name, Vec::new())).collect();
    let readers = graph.readers();
    let mut device_of: Vec<Option<DeviceId>> =
        grouping.group_of.iter().map(|group| group.map(|id| mapping.device(id))).collect();
    for id in graph.layer_ids().collect::<Vec<LayerId>>().into_iter().rev() {
        let layer = graph.layer(id);
        if layer.role == Role::Replicated {
            let needed = layer.makes().flat_map(|value| &readers[value.index()]);
            device_of[id.index()] = needed.filter_map(|reader| device_of[reader.index()]).next();
        }
    }
    for (layer, device) in graph.layers().iter().zip(device_of) {
        if let Some(device) = device {
            lists[device.index()].1.push(node_name(graph, layer));
        }
    }
    lists.retain(|(_, nodes)| !nodes.is_empty());
    let text = serde_json::to_string_pretty(&Pairs(lists));
    Ok(text.expect("names and lists of names are JSON"))
}

fn resource_names(platform: &Platform) -> Result<Vec<String>, AutodiceError> {
    let known: Vec<Option<Resource>> =
        platform.devices().iter().map(|device| Resource::parse(&device.name)).collect();
    let mut next: BTreeMap<&str, u32> = BTreeMap::new();
    for resource in known.iter().flatten() {
        let after = resource.cores.last().map_or(0, |core| core + 1);
        let next = next.entry(&resource.host).or_default();
        *next = (*next).max(after);
    }
    let mut names: Vec<String> = Vec::new();
    for (device, resource) in platform.devices().iter().zip(&known) {
        let is_gpu = device.preset.as_ref().is_some_and(|preset| preset.ends_with("gpu"));
        let gpu = format!("{}_gpu", device.host);
        if let Some(resource) = resource {
            names.push(resource.name.clone());
        } else if is_gpu && !names.contains(&gpu) {
            names.push(gpu);
        } else {
            let first = next.entry(&device.host).or_default();
            let after = first.saturating_add(device.threads.unwrap_or(1));
            if after > 10 {
                let (device, host) = (device.name.clone(), device.host.clone());
                return Err(AutodiceError::TooManyCores { device, host });
            }
            let digits: String = (*first..after).map(|core| core.to_string()).collect();
            *first = after;
            names.push(format!("{}_cpu{digits}", device.host));
        }
    }
    Ok(names)
}

/// An object in its own order.
struct Pairs(Vec<(String, Vec<String>)>);

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, nodes) in &self.0 {
            map.serialize_entry(name, nodes)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from resources to lists of nodes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        if pairs.is_empty() {
            return Err(A::Error::custom("it lists no resource"));
        }
        Ok(Pairs(pairs))
    }
}
