//! What the zoo promises: published sizes, well-formed graphs, the same bytes everywhere, clear
//! errors.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::*;
use crate::onnx::{
    self, ImportOptions,
    proto::{AttributeProto, GraphProto, NodeProto, TensorProto},
};

/// Name, parameters of the reference implementation, multiply-accumulates in millions as
/// published, and batch-normalised channels: folded ones, then those that stay.
const PUBLISHED: [(&str, u64, f64, u64, u64); 15] = [
    ("lenet5", 61_706, 0.41652, 0, 0),
    ("alexnet", 61_100_840, 714.0, 0, 0),
    ("vgg16", 138_357_544, 15_470.0, 0, 0),
    ("vgg19", 143_667_240, 19_632.0, 0, 0),
    ("squeezenet", 1_235_496, 349.0, 0, 0),
    ("resnet18", 11_689_512, 1_814.0, 4_800, 0),
    ("resnet50", 25_557_032, 4_089.0, 26_560, 0),
    ("resnet101", 44_549_160, 7_801.0, 52_672, 0),
    ("densenet121", 7_978_856, 2_834.0, 7_488, 34_336),
    ("inceptionv3", 23_834_568, 5_713.0, 17_216, 0),
    ("mobilenetv1", 4_231_976, 569.0, 10_944, 0),
    ("mobilenetv2", 3_504_872, 301.0, 17_056, 0),
    ("mobilenetv3-small", 2_542_856, 57.0, 6_056, 0),
    ("shufflenetv2", 2_278_604, 145.0, 8_090, 0),
    ("efficientnet-b0", 5_288_548, 386.0, 21_008, 0),
];

#[test]
fn the_networks_are_as_large_as_published() {
    let catalogue = summary();
    assert_eq!(catalogue.len(), PUBLISHED.len());
    for (line, (name, parameters, macs, folded, kept)) in catalogue.iter().zip(PUBLISHED) {
        assert_eq!((line.name, line.parameters), (name, parameters));
        let millions = line.macs.0 as f64 / 1e6;
        assert!((millions / macs - 1.0).abs() < 0.01, "{name}: {millions}, not {macs} million");
        // A folded channel keeps a shift of two parameters; a kept one has two statistics more.
        assert_eq!(line.weights.0, 4 * (parameters - folded + 2 * kept), "{name}");
    }
}

#[test]
fn the_catalogue_counts_what_the_models_hold() {
    for line in summary() {
        let graph = graph(line.name, None);
        let floats = graph.initializer.iter().filter(|t| t.data_type == Some(1));
        let stored: u64 = floats.filter(|t| !t.dims.is_empty()).map(elements).sum();
        assert_eq!(line.weights.0, 4 * stored, "{}", line.name);
        let shapes = Shapes::infer(&graph);
        assert_eq!(line.macs.0, shapes.macs, "{}", line.name);
        let answer = if line.name == "lenet5" { 10 } else { 1000 };
        assert_eq!(shapes.of["logits"], [1, answer], "{}", line.name);
    }
}

#[test]
fn the_import_sees_the_same_networks() {
    for line in summary() {
        let model = outline(line.name, None).unwrap();
        let graph = onnx::import(&model, &ImportOptions::default()).unwrap();
        assert_eq!(graph.layers().iter().map(|layer| layer.macs).sum::<Macs>(), line.macs);
        let unknown = graph.values().iter().find(|value| value.shape.is_none());
        assert_eq!(unknown, None, "{}", line.name);
        // A layer, its node and its first result bear one name, but for the answer.
        for layer in graph.layers() {
            let result = &graph.value(layer.makes().next().unwrap()).name;
            let same = result.starts_with(&layer.name) || result == "logits";
            assert!(same, "{}: {} makes {result}", line.name, layer.name);
        }
    }
}

#[test]
fn every_size_is_built_or_refused() {
    for network in &NETWORKS {
        let far = [1_000, LARGEST as u32, LARGEST as u32 + 1, u32::MAX];
        let sizes = (0..=80).chain((81..=480).step_by(13)).chain(far);
        let mut taken = 0;
        for size in sizes {
            let result = outline(network.name, Some(size));
            assert_eq!(result.is_ok(), network.sizes.takes(size.into()), "{} {size}", network.name);
            let Ok(model) = result else { continue };
            taken += 1;
            // The independent shapes agree that the classifier fits.
            if size <= 480 {
                Shapes::infer(&model.graph.unwrap());
            }
        }
        assert!(taken > 1, "{}", network.name);
    }
}

#[test]
fn weights_depend_on_seed_and_name_alone() {
    for name in ["lenet5", "shufflenetv2", "mobilenetv3-small"] {
        let built = |seed| build(name, &ZooOptions { input_size: Some(32), seed }).unwrap();
        let first = built(1);
        assert_eq!(first, built(1), "{name}");
        let (first, second) = (first.graph.unwrap(), built(2).graph.unwrap());
        for (a, b) in first.initializer.iter().zip(&second.initializer) {
            let parameter = a.data_type == Some(1) && !a.dims.is_empty();
            assert_eq!(a.raw_data != b.raw_data, parameter, "{name} {}", a.name());
        }
    }
    let small = build("squeezenet", &ZooOptions { input_size: Some(64), seed: 1 }).unwrap();
    let large = build("squeezenet", &ZooOptions { input_size: None, seed: 1 }).unwrap();
    assert_eq!(small.graph.unwrap().initializer, large.graph.unwrap().initializer);
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_every_machine() {
    let model = build("lenet5", &ZooOptions { input_size: None, seed: 0 }).unwrap();
    let mut hash = Sha256::new();
    for tensor in model.graph.unwrap().initializer {
        hash.update(tensor.raw_data.unwrap());
    }
    let hex = crate::hex::hex(&hash.finalize());
    assert_eq!(hex, "825f16aff55c6661d0c6ade724315c8b40a6b2261e441fdb2d7da40c6ccd9d5b");
}

#[test]
fn variances_are_positive() {
    let model = build("densenet121", &ZooOptions { input_size: Some(32), seed: 3 }).unwrap();
    let graph = model.graph.unwrap();
    let variances = graph.initializer.iter().filter(|t| t.name().ends_with("running_var"));
    let mut count = 0;
    for tensor in variances {
        count += 1;
        for bytes in tensor.raw_data.as_ref().unwrap().chunks(4) {
            let variance = f32::from_le_bytes(bytes.try_into().unwrap());
            assert!(variance > 0.1 && variance < 10.0, "{} {variance}", tensor.name());
        }
    }
    assert_eq!(count, 62);
}

#[test]
fn names_are_found_as_people_write_them() {
    for (written, name) in [
        ("ResNet-50", "resnet50"),
        ("MOBILENETV2", "mobilenetv2"),
        ("mobilenet_v3_small", "mobilenetv3-small"),
        ("EfficientNet B0", "efficientnet-b0"),
    ] {
        assert_eq!(find(written).unwrap().name, name);
    }
}

#[test]
fn errors_say_what_would_do() {
    let refusal = |name, size| outline(name, Some(size)).unwrap_err().to_string();
    let unknown = outline("resnet-51", None).unwrap_err().to_string();
    assert!(unknown.starts_with("the zoo has no `resnet-51`; did you mean `resnet50`?"));
    assert!(names().iter().all(|name| unknown.contains(name)), "{unknown}");
    for (name, size, allowed) in [
        ("lenet5", 30, "it takes 28 or 32"),
        ("resnet18", 31, "it takes 32 to 16384"),
        ("inceptionv3", 74, "it takes 75 to 16384"),
        ("alexnet", 256, "nearest 254 and 415"),
        ("vgg16", 256, "nearest 255 and 448"),
        ("vgg16", 0, "nearest 224"),
    ] {
        let message = refusal(name, size);
        let start = format!("`{name}` cannot take an input of {size}x{size}; ");
        assert!(message.starts_with(&start) && message.ends_with(allowed), "{message}");
    }
}

fn graph(name: &str, size: Option<u32>) -> GraphProto {
    outline(name, size).unwrap().graph.unwrap()
}

fn elements(tensor: &TensorProto) -> u64 {
    tensor.dims.iter().map(|&dim| dim as u64).product()
}

/// Shapes and multiply-accumulates, inferred from the ONNX nodes alone. Panics where the graph is
/// not in order, makes a name twice, or does not fit.
#[derive(Default)]
struct Shapes {
    of: BTreeMap<String, Vec<i64>>,
    constants: BTreeMap<String, Vec<i64>>,
    macs: u64,
}

impl Shapes {
    fn infer(graph: &GraphProto) -> Self {
        let mut shapes = Self::default();
        let size = match &graph.input[0].r#type.as_ref().unwrap().value {
            Some(crate::onnx::proto::type_proto::Value::TensorType(tensor)) => tensor.shape.clone(),
            _ => None,
        };
        let dims = size.unwrap().dim.into_iter().map(|dim| match dim.value.unwrap() {
            crate::onnx::proto::tensor_shape_proto::dimension::Value::DimValue(value) => value,
            _ => panic!("the zoo's inputs have fixed shapes"),
        });
        shapes.of.insert("input".to_owned(), dims.collect());
        for tensor in &graph.initializer {
            shapes.define(tensor.name(), tensor.dims.clone());
            if let (Some(7), Some(data)) = (tensor.data_type, &tensor.raw_data) {
                let words = data.chunks(8).map(|word| i64::from_le_bytes(word.try_into().unwrap()));
                shapes.constants.insert(tensor.name().to_owned(), words.collect());
            }
        }
        for node in &graph.node {
            shapes.node(node);
        }
        shapes
    }

    fn define(&mut self, name: &str, shape: Vec<i64>) {
        assert!(shape.iter().all(|&dim| dim > 0), "{name} {shape:?}");
        assert!(self.of.insert(name.to_owned(), shape).is_none(), "{name} is made twice");
    }

    fn node(&mut self, node: &NodeProto) {
        let inputs: Vec<Vec<i64>> = node.input.iter().map(|name| self.of[name].clone()).collect();
        let x = &inputs[0];
        let out = match node.op_type() {
            "Conv" => self.conv(node, x, &inputs[1]),
            "MaxPool" | "AveragePool" => window(node, x, x[1]),
            "GlobalAveragePool" => vec![1, x[1], 1, 1],
            "Flatten" => vec![1, x[1..].iter().product()],
            "Gemm" => {
                assert_eq!(x[1], inputs[1][1]);
                self.macs += (inputs[1][0] * x[1]) as u64;
                vec![1, inputs[1][0]]
            }
            "Concat" => {
                assert!(inputs.iter().all(|part| part[2..] == x[2..]));
                vec![1, inputs.iter().map(|part| part[1]).sum(), x[2], x[3]]
            }
            "Add" => {
                assert_eq!(x, &inputs[1]);
                x.clone()
            }
            "Mul" => {
                assert!(inputs[1] == *x || inputs[1] == [1, x[1], 1, 1]);
                x.clone()
            }
            "Split" => {
                let sizes = &self.constants[&node.input[1]];
                assert_eq!(sizes.iter().sum::<i64>(), x[1]);
                for (name, &size) in node.output.iter().zip(&sizes.clone()) {
                    self.define(name, vec![1, size, x[2], x[3]]);
                }
                return;
            }
            "Reshape" => {
                let shape = self.constants[&node.input[1]].clone();
                assert_eq!(shape.iter().product::<i64>(), x.iter().product::<i64>());
                shape
            }
            "Transpose" => ints(node, "perm").iter().map(|&axis| x[axis as usize]).collect(),
            "BatchNormalization" => {
                assert!(inputs[1..].iter().all(|part| part[..] == [x[1]]));
                x.clone()
            }
            "Relu" | "Clip" | "Sigmoid" | "HardSigmoid" | "HardSwish" => x.clone(),
            other => panic!("unexpected operator {other}"),
        };
        self.define(&node.output[0], out);
    }

    fn conv(&mut self, node: &NodeProto, x: &[i64], weight: &[i64]) -> Vec<i64> {
        let groups = attribute(node, "group").i();
        assert_eq!((weight[1] * groups, weight[0] % groups), (x[1], 0), "{}", node.name());
        let out = window(node, x, weight[0]);
        let per_output: i64 = weight[1..].iter().product();
        self.macs += (per_output * out.iter().product::<i64>()) as u64;
        out
    }
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> &'a AttributeProto {
    node.attribute.iter().find(|attribute| attribute.name() == name).unwrap()
}

fn ints<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    &attribute(node, name).ints
}

fn window(node: &NodeProto, x: &[i64], channels: i64) -> Vec<i64> {
    let [kernel, pads, strides] = ["kernel_shape", "pads", "strides"].map(|name| ints(node, name));
    let size = |axis: usize| {
        let room = x[2 + axis] + pads[axis] + pads[2 + axis] - kernel[axis];
        assert!(room >= 0 && pads[axis] < kernel[axis] && pads[2 + axis] < kernel[axis]);
        room / strides[axis] + 1
    };
    vec![1, channels, size(0), size(1)]
}
