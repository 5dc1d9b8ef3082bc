//! `costs.json`: published or invented costs in place of a model and its profiles.
//!
//! Every layer is its own group and makes one value of its own name.
//!
//! ```json
//! { "version": 1, "input": { "fp32": 602112 },
//!   "layers": [ { "name": "fc", "inputs": [], "output_bytes": 4000, "time_ns": { "pi": 9000 } } ],
//!   "outputs": ["fc"] }
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Codec, CostError, Costs, DeviceCosts, EngineOption, InputEncoding, Origin, TENSOR,
    device_costs, link_costs, profiles::LOSSY_INPUTS,
};
use crate::{
    dag::{Dag, FlowId},
    platform::Platform,
    profile::{CodecTime, CodingTime, LinkTable},
    units::{Bytes, Macs, Nanojoules, Nanos},
};

/// The file as written; [`read`] turns it into a network and its costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostsFile {
    /// Format version: 1.
    pub version: u32,
    /// Bytes of the network's input by encoding.
    #[serde(default)]
    pub input: BTreeMap<String, Bytes>,
    /// Layers, in any order.
    pub layers: Vec<LayerCosts>,
    /// Layers whose results are the answer.
    pub outputs: Vec<String>,
    /// How the values of a cut may be sent, besides as they are.
    #[serde(default)]
    pub codecs: Vec<CodecCosts>,
    /// e, by device.
    #[serde(default)]
    pub call_ns: BTreeMap<String, Nanos>,
    /// Preparation by encoding and device: on the source the time to make what travels, on another
    /// device the time to make the tensor from it.
    #[serde(default)]
    pub prepare_ns: BTreeMap<String, BTreeMap<String, Nanos>>,
}

/// One layer of a [`CostsFile`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerCosts {
    /// Unique name.
    pub name: String,
    /// Layers that it reads; none: it reads the network's input.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Size of its result.
    pub output_bytes: Bytes,
    /// Size of its weights.
    #[serde(default)]
    pub parameter_bytes: Bytes,
    /// Time by device; a device that is missing cannot run it.
    pub time_ns: BTreeMap<String, Nanos>,
    /// Energy by device, in nanojoule.
    #[serde(default)]
    pub energy_nj: BTreeMap<String, u64>,
}

/// One codec of a [`CostsFile`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodecCosts {
    /// Unique name.
    pub name: String,
    /// Encoded size is `num / den` of the declared one.
    pub num: u64,
    /// Denominator.
    pub den: u64,
    /// Time to encode 1000 declared bytes.
    #[serde(default)]
    pub enc_ns_per_kb: Nanos,
    /// Time to decode them.
    #[serde(default)]
    pub dec_ns_per_kb: Nanos,
    /// Whether the answer may change.
    #[serde(default)]
    pub lossy: bool,
}

/// Name of the network's input in a [`Dag`] made from a [`CostsFile`].
pub const INPUT: &str = "input";

/// The network and the table that a file describes, on a platform; `tables` by link.
pub fn read(
    file: &CostsFile,
    platform: &Platform,
    tables: &[Option<LinkTable>],
) -> Result<(Dag, Costs), CostError> {
    if file.version != 1 {
        return Err(CostError::Version(file.version));
    }
    let order = topological_order(&file.layers)?;
    let dag = dag(file, &order)?;
    let devices = platform.devices().iter().map(|device| {
        let layers = || order.iter().map(|&i| &file.layers[i]);
        let option = EngineOption {
            engine: String::new(),
            version: String::new(),
            threads: 0,
            origin: Origin::Assumed,
            error_permille: None,
            memory_error_permille: None,
            call: file.call_ns.get(&device.name).copied().unwrap_or_default(),
            engine_bytes: Bytes::ZERO,
            groups: layers().map(|layer| layer.time_ns.get(&device.name).copied()).collect(),
            coding: coding(&file.codecs),
        };
        let energy = |layer: &LayerCosts| layer.energy_nj.get(&device.name).copied();
        let group_energy = layers().map(|layer| energy(layer).map(Nanojoules)).collect();
        DeviceCosts { group_energy, ..device_costs(platform, device, vec![option]) }
    });
    let costs = Costs {
        devices: devices.collect(),
        links: link_costs(platform, tables)?,
        inputs: inputs(file, platform),
        codecs: codecs(&file.codecs)?,
        workload: platform.workload().cloned(),
        forbidden: Vec::new(),
        frame_interval: None,
    };
    Ok((dag, costs))
}

/// Kahn's algorithm; among ready layers the one listed first goes first.
fn topological_order(layers: &[LayerCosts]) -> Result<Vec<usize>, CostError> {
    if layers.is_empty() {
        return Err(CostError::NoLayers);
    }
    let mut index = BTreeMap::new();
    for (i, layer) in layers.iter().enumerate() {
        if index.insert(layer.name.as_str(), i).is_some() {
            return Err(CostError::DuplicateLayer(layer.name.clone()));
        }
    }
    let mut missing = vec![0usize; layers.len()];
    let mut readers = vec![Vec::new(); layers.len()];
    for (i, layer) in layers.iter().enumerate() {
        for input in &layer.inputs {
            let Some(&from) = index.get(input.as_str()) else {
                let (layer, input) = (layer.name.clone(), input.clone());
                return Err(CostError::UnknownInput { layer, input });
            };
            missing[i] += 1;
            readers[from].push(i);
        }
    }
    let mut ready: std::collections::BTreeSet<usize> =
        (0..layers.len()).filter(|&i| missing[i] == 0).collect();
    let mut order = Vec::with_capacity(layers.len());
    while let Some(next) = ready.pop_first() {
        order.push(next);
        for &reader in &readers[next] {
            missing[reader] -= 1;
            if missing[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    match missing.iter().position(|&count| count > 0) {
        Some(stuck) => Err(CostError::Cycle(layers[stuck].name.clone())),
        None => Ok(order),
    }
}

fn dag(file: &CostsFile, order: &[usize]) -> Result<Dag, CostError> {
    let mut dag = Dag::new();
    let input = dag.add_input(INPUT, file.input.get(TENSOR).copied());
    let mut made: BTreeMap<&str, FlowId> = BTreeMap::new();
    for layer in order.iter().map(|&i| &file.layers[i]) {
        let mut reads: Vec<FlowId> = layer.inputs.iter().map(|name| made[name.as_str()]).collect();
        if reads.is_empty() {
            reads.push(input);
        }
        let makes = [(layer.name.clone(), Some(layer.output_bytes))];
        let names = vec![layer.name.clone()];
        let id = dag.add_group(names, reads, makes, Macs::ZERO, layer.parameter_bytes);
        made.insert(&layer.name, dag.group(id).makes[0]);
    }
    if file.outputs.is_empty() {
        return Err(CostError::NoOutputs);
    }
    for output in &file.outputs {
        let flow = made.get(output.as_str());
        dag.mark_output(*flow.ok_or_else(|| CostError::UnknownOutput(output.clone()))?);
    }
    Ok(dag)
}

fn inputs(file: &CostsFile, platform: &Platform) -> Vec<InputEncoding> {
    let times = |name: &str| -> Vec<Nanos> {
        let given = file.prepare_ns.get(name);
        let on = |device: &String| given.and_then(|times| times.get(device)).copied();
        platform.devices().iter().map(|device| on(&device.name).unwrap_or_default()).collect()
    };
    let encoding = |(name, &bytes): (&String, &Bytes)| InputEncoding {
        name: name.clone(),
        bytes: Some(bytes),
        lossy: LOSSY_INPUTS.contains(&name.as_str()),
        encode: times(name),
        decode: times(name),
    };
    let mut inputs: Vec<InputEncoding> = file.input.iter().map(encoding).collect();
    if !file.input.contains_key(TENSOR) {
        // A tensor of unknown size: there to be used where it is, not to be sent.
        inputs.push(InputEncoding {
            name: TENSOR.to_owned(),
            bytes: None,
            lossy: false,
            encode: times(TENSOR),
            decode: times(TENSOR),
        });
    }
    InputEncoding::sort(&mut inputs);
    inputs
}

/// The same on every device; that of the identity comes first and takes no time.
fn coding(given: &[CodecCosts]) -> Vec<CodecTime> {
    let time = |per_kb_ns| CodingTime { fixed_ns: Nanos::ZERO, per_kb_ns };
    let codec = |codec: &CodecCosts| CodecTime {
        encode: time(codec.enc_ns_per_kb),
        decode: time(codec.dec_ns_per_kb),
    };
    [CodecTime::default()].into_iter().chain(given.iter().map(codec)).collect()
}

fn codecs(given: &[CodecCosts]) -> Result<Vec<Codec>, CostError> {
    let mut codecs = vec![Codec::identity()];
    for codec in given {
        let name = codec.name.clone();
        if codecs.iter().any(|known| known.name == name) {
            return Err(CostError::DuplicateCodec(name));
        }
        let range = 1..=1_000_000;
        if !range.contains(&codec.num) || !range.contains(&codec.den) {
            return Err(CostError::Codec { name, num: codec.num, den: codec.den });
        }
        codecs.push(Codec { name, num: codec.num, den: codec.den, lossy: codec.lossy });
    }
    Ok(codecs)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read_value(value: Value) -> Result<(Dag, Costs), String> {
        let platform: Platform =
            serde_json::from_value(json!({ "version": 1, "device": [{ "name": "pi" }] })).unwrap();
        let file: CostsFile = serde_json::from_value(value).map_err(|error| error.to_string())?;
        read(&file, &platform, &[]).map_err(|error| error.to_string())
    }

    fn layer(name: &str, inputs: &[&str]) -> Value {
        json!({ "name": name, "inputs": inputs, "output_bytes": 1, "time_ns": { "pi": 1, "moon": 2 } })
    }

    #[test]
    fn layers_in_any_order_become_topological() {
        let layers = [layer("c", &["b", "a"]), layer("b", &["a"]), layer("a", &[])];
        let (dag, costs) =
            read_value(json!({ "version": 1, "layers": layers, "outputs": ["c"] })).unwrap();
        let names: Vec<&str> = dag.groups().iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(dag.flows().iter().any(|flow| flow.name == "c" && flow.is_output));
        assert_eq!(costs.codecs(), [Codec::identity()]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let of = |layers: &[Value], outputs: &[&str]| json!({ "version": 1, "layers": layers, "outputs": outputs });
        let mut bad_codec = of(&[layer("a", &[])], &["a"]);
        bad_codec["codecs"] = json!([{ "name": "q", "num": 1, "den": 0 }]);
        let cases = [
            (of(&[], &[]), "no layers"),
            (of(&[layer("a", &[])], &[]), "no outputs"),
            (of(&[layer("a", &[])], &["q"]), "output `q`"),
            (of(&[layer("a", &["q"])], &["a"]), "`a` reads `q`"),
            (of(&[layer("a", &[]), layer("a", &[])], &["a"]), "`a` is listed twice"),
            (of(&[layer("a", &["b"]), layer("b", &["a"])], &["a"]), "depends on its own"),
            (json!({ "version": 3, "layers": [], "outputs": [] }), "version 3"),
            (json!({ "version": 1, "layers": [], "outputs": [], "colour": 1 }), "colour"),
            (bad_codec, "codec `q`"),
        ];
        for (value, expected) in cases {
            let error = read_value(value).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
