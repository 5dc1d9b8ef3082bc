//! Import of models: the real ones in the shared folder, small ones built here, and broken ones.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use cutline_core::{
    graph::{Graph, Origin, Role},
    onnx::{
        ImportError, ImportOptions, decode, import,
        proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
            StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension::Value as Dim},
            type_proto,
        },
    },
    tensor::{DType, Shape},
};
use proptest::prelude::*;
use prost::Message;

fn shared(file: &str) -> Option<Bytes> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/onnx").join(file);
    let bytes = std::fs::read(&path).ok().map(Bytes::from);
    if bytes.is_none() {
        eprintln!("skipped: {} is absent", path.display());
    }
    bytes
}

fn import_bytes(bytes: Bytes) -> Result<Graph, ImportError> {
    import(&decode(bytes)?, &ImportOptions::default())
}

/// Layers, MACs, bytes of weights, and the shapes of some values as ONNX Runtime makes them.
type Facts = (&'static str, usize, u64, u64, &'static [(&'static str, &'static str)]);

const FACTS: [Facts; 7] = [
    (
        "squeezenet1.1_imagenet_fp32.onnx",
        66,
        349_151_936,
        4_941_984,
        &[("conv1_1", "1x64x111x111"), ("pool5_1", "1x256x13x13"), ("softmaxout_1", "1x1000x1x1")],
    ),
    ("SqueezeNet_fp16.onnx", 66, 349_151_936, 2_470_992, &[("softmaxout_1", "1x1000x1x1")]),
    ("resnet20_cifar10_fp32.onnx", 73, 40_551_040, 1_084_584, &[("logits", "1x10")]),
    ("resnet32_cifar10_fp32.onnx", 115, 68_862_592, 1_865_896, &[("logits", "1x10")]),
    (
        "version-RFB-320.onnx",
        242,
        100_418_560,
        1_124_680,
        &[("scores", "1x4420x2"), ("boxes", "1x4420x4"), ("327", "3"), ("245", "1x16x120x160")],
    ),
    ("FastestDet.onnx", 211, 121_491_744, 962_324, &[("758", "1x85x22x22")]),
    ("opt-mnist.onnx", 8, 786_560, 23_992, &[("Plus214_Output_0", "1x10")]),
];

#[test]
fn real_models_have_their_shapes_and_work() {
    for (file, layers, macs, weights, shapes) in FACTS {
        let Some(bytes) = shared(file) else { continue };
        let graph = import_bytes(bytes).unwrap();
        assert_eq!(graph.layers().len(), layers, "{file}");
        assert_eq!(graph.layers().iter().map(|layer| layer.macs.0).sum::<u64>(), macs, "{file}");
        let stored = graph.values().iter().filter(|value| value.origin == Origin::Weight);
        assert_eq!(stored.map(|value| value.bytes().unwrap().0).sum::<u64>(), weights, "{file}");
        for (name, shape) in shapes {
            let value = graph.value(graph.find_value(name).unwrap());
            assert_eq!(value.shape.as_ref().unwrap().to_string(), *shape, "{file}: {name}");
        }
        let is_unknown = |value: &&cutline_core::graph::Value| value.shape.is_none();
        assert_eq!(graph.values().iter().filter(is_unknown).count(), 0, "{file}");
    }
}

#[test]
fn retired_operators_are_refused_by_name() {
    let Some(bytes) = shared("candy.onnx") else { return };
    let message = import_bytes(bytes).unwrap_err().to_string();
    assert!(message.contains("`ImageScaler`") && message.contains("retired"), "{message}");
}

fn dims(sizes: &[&str]) -> TensorShapeProto {
    let dim = |size: &&str| Dimension {
        value: Some(match size.parse() {
            Ok(size) => Dim::DimValue(size),
            Err(_) => Dim::DimParam((*size).to_owned()),
        }),
        ..Default::default()
    };
    TensorShapeProto { dim: sizes.iter().map(dim).collect() }
}

fn info(name: &str, sizes: &[&str]) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(dims(sizes)) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `node("out = Operator(a, b)")`; the node is called after its first output.
fn node(text: &str) -> NodeProto {
    let (outputs, call) = text.split_once(" = ").unwrap();
    let (operator, operands) = call.trim_end_matches(')').split_once('(').unwrap();
    let list = |text: &str| -> Vec<String> {
        text.split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let output = list(outputs);
    NodeProto {
        name: output.first().map(|name| format!("{name}-layer")),
        op_type: Some(operator.to_owned()),
        input: list(operands),
        output,
        ..Default::default()
    }
}

fn with_ints(mut node: NodeProto, name: &str, ints: &[i64]) -> NodeProto {
    let attribute =
        AttributeProto { name: Some(name.to_owned()), ints: ints.to_vec(), ..Default::default() };
    node.attribute.push(attribute);
    node
}

fn with_int(mut node: NodeProto, name: &str, int: i64) -> NodeProto {
    let attribute =
        AttributeProto { name: Some(name.to_owned()), i: Some(int), ..Default::default() };
    node.attribute.push(attribute);
    node
}

fn floats(name: &str, dims: &[i64]) -> TensorProto {
    let count = dims.iter().product::<i64>().max(0) as usize;
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(1),
        raw_data: Some(vec![0u8; count * 4].into()),
        ..Default::default()
    }
}

fn ints(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(7),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn model(
    inputs: Vec<ValueInfoProto>,
    initializer: Vec<TensorProto>,
    node: Vec<NodeProto>,
    outputs: &[&str],
) -> ModelProto {
    let output =
        |name: &&str| ValueInfoProto { name: Some((*name).to_owned()), ..Default::default() };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
        graph: Some(GraphProto {
            input: inputs,
            initializer,
            node,
            output: outputs.iter().map(output).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// x (Nx3x8x8) -> conv -> relu -> flatten by shape arithmetic -> y.
fn small() -> ModelProto {
    model(
        vec![info("x", &["N", "3", "8", "8"])],
        vec![floats("w", &[4, 3, 3, 3]), ints("zero", &[], &[0]), ints("rest", &[1], &[-1])],
        vec![
            with_ints(node("c = Conv(x, w)"), "pads", &[1, 1, 1, 1]),
            node("r = Relu(c)"),
            node("s = Shape(r)"),
            node("n = Gather(s, zero)"),
            with_ints(node("n1 = Unsqueeze(n)"), "axes", &[0]),
            with_int(node("to = Concat(n1, rest)"), "axis", 0),
            node("y = Reshape(r, to)"),
        ],
        &["y"],
    )
}

fn shape_of(graph: &Graph, name: &str) -> String {
    let value = graph.value(graph.find_value(name).unwrap());
    value.shape.as_ref().map_or("unknown".to_owned(), Shape::to_string)
}

#[test]
fn shape_arithmetic_is_known_and_replicated() {
    let options =
        ImportOptions { input_shapes: BTreeMap::from([("x".to_owned(), Shape(vec![2, 3, 8, 8]))]) };
    let graph = import(&small(), &options).unwrap();
    assert_eq!(shape_of(&graph, "y"), "2x256");
    let to = graph.value(graph.find_value("to").unwrap());
    let expected: Vec<u8> = [2i64, -1].iter().flat_map(|size| size.to_le_bytes()).collect();
    assert_eq!((to.dtype, to.constant.as_ref()), (Some(DType::I64), Some(&expected)));
    let placed: Vec<&str> = graph
        .layers()
        .iter()
        .filter(|layer| layer.role == Role::Compute)
        .map(|layer| layer.name.as_str())
        .collect();
    assert_eq!(placed, ["c-layer", "r-layer", "y-layer"]);
    assert_eq!(graph.layers()[0].macs.0, 2 * 4 * 8 * 8 * 27);
    let default = import(&small(), &ImportOptions::default()).unwrap();
    assert_eq!(shape_of(&default, "y"), "1x256", "the batch is 1 unless it is given");
}

#[test]
fn nodes_are_sorted_and_named() {
    let mut small = small();
    let graph = small.graph.as_mut().unwrap();
    graph.node.reverse();
    graph.node.iter_mut().for_each(|node| node.name = Some("same".to_owned()));
    let graph = import(&small, &ImportOptions::default()).unwrap();
    let names: Vec<&str> = graph.layers().iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, ["c", "r", "s", "n", "n1", "to", "y"], "first outputs name the layers");
    let nodes: Vec<usize> = graph.layers().iter().map(|layer| layer.node).collect();
    assert_eq!(nodes, [6, 5, 4, 3, 2, 1, 0]);
}

#[test]
fn a_subgraph_reads_what_it_captures() {
    let branch = |name: &str| {
        let graph = GraphProto {
            node: vec![node(&format!("{name}o = Add(c, w2)"))],
            output: vec![info(&format!("{name}o"), &[])],
            ..Default::default()
        };
        AttributeProto { name: Some(name.to_owned()), g: Some(graph), ..Default::default() }
    };
    let mut choice = node("y = If(b)");
    choice.attribute = vec![branch("then_branch"), branch("else_branch")];
    let model = model(
        vec![info("x", &["1", "3", "8", "8"]), info("b", &[])],
        vec![floats("w", &[4, 3, 3, 3]), floats("w2", &[])],
        vec![choice, node("c = Conv(x, w)")],
        &["y"],
    );
    let graph = import(&model, &ImportOptions::default()).unwrap();
    let layer = graph.layers().last().unwrap();
    let captured: Vec<&str> =
        layer.captures.iter().map(|&id| graph.value(id).name.as_str()).collect();
    assert_eq!((layer.name.as_str(), captured), ("y-layer", vec!["c", "w2"]));
    assert_eq!(graph.parameter_bytes(layer).0, 4);
}

/// Shapes of single layers over `x` 1x4x10x12, checked against ONNX Runtime.
#[test]
fn operators_have_the_shapes_of_the_standard() {
    let strided =
        |text: &str| with_ints(with_ints(node(text), "kernel_shape", &[3, 3]), "strides", &[2, 2]);
    let cases = [
        (strided("y = MaxPool(x)"), "1x4x4x5"),
        (with_int(strided("y = MaxPool(x)"), "ceil_mode", 1), "1x4x5x6"),
        (with_ints(strided("y = AveragePool(x)"), "pads", &[1, 1, 1, 1]), "1x4x5x6"),
        (with_int(node("y = Conv(x, dw)"), "group", 4), "1x4x8x10"),
        (with_ints(node("y = ConvTranspose(x, w)"), "strides", &[2, 2]), "1x5x21x25"),
        (node("y = GlobalAveragePool(x)"), "1x4x1x1"),
        (node("y = Flatten(x)"), "1x480"),
        (with_ints(node("y = Transpose(x)"), "perm", &[0, 2, 3, 1]), "1x10x12x4"),
        (with_int(node("y = Concat(x, x, x)"), "axis", 1), "1x12x10x12"),
        (with_int(node("y, z = Split(x)"), "axis", 1), "1x2x10x12"),
        (node("y = Slice(x, from, till, axis)"), "1x4x8x12"),
        (with_ints(node("y = Squeeze(x)"), "axes", &[0]), "4x10x12"),
        (with_int(node("y = DepthToSpace(x)"), "blocksize", 2), "1x1x20x24"),
        (with_int(with_ints(node("y = ReduceMean(x)"), "axes", &[2, 3]), "keepdims", 0), "1x4"),
        (node("y = MatMul(x, m)"), "1x4x10x7"),
        (node("y = Mystery(x)"), "unknown"),
    ];
    for (node, shape) in cases {
        let text = format!("{} {:?}", node.op_type(), node.attribute);
        let weights = vec![
            floats("w", &[4, 5, 3, 3]),
            floats("dw", &[4, 1, 3, 3]),
            floats("m", &[12, 7]),
            ints("from", &[1], &[1]),
            ints("till", &[1], &[-1]),
            ints("axis", &[1], &[2]),
        ];
        let model = model(vec![info("x", &["1", "4", "10", "12"])], weights, vec![node], &["y"]);
        let graph = import(&model, &ImportOptions::default()).unwrap();
        assert_eq!(shape_of(&graph, "y"), shape, "{text}");
    }
}

#[test]
fn broken_models_say_what_is_wrong() {
    type Break = fn(&mut ModelProto);
    let cases: [(Break, &str); 14] = [
        (
            |m| m.ir_version = Some(2),
            "IR version 2 is older than 3, the oldest supported; export again",
        ),
        (|m| m.opset_import[0].version = Some(6), "operator set 6 is older than 7"),
        (|m| m.opset_import.clear(), "the file names no version of the default operator set"),
        (
            |m| nodes(m)[0].input[0] = "r".into(),
            "the graph has a cycle: r-layer -> c-layer -> r-layer",
        ),
        (
            |m| nodes(m)[1].input[0] = "q".into(),
            "layer `r-layer` (Relu) reads `q`, which nothing makes",
        ),
        (
            |m| nodes(m)[1].output[0] = "c".into(),
            "value `c` is made twice, by layer `c-layer` and by layer `r-layer`",
        ),
        (
            |m| nodes(m)[1].output[0] = "x".into(),
            "value `x` is made twice, by an input or initializer and by layer `r-layer`",
        ),
        (
            |m| m.graph.as_mut().unwrap().output[0].name = Some("z".into()),
            "the network's output `z` is made by nothing",
        ),
        (|m| nodes(m).clear(), "the network has no layers"),
        (|m| weights(m)[0].dims[1] = -3, "tensor `w`: negative size in its shape [4, -3, 3, 3]"),
        (
            |m| weights(m)[0].raw_data = Some(vec![0; 12].into()),
            "tensor `w`: 12 bytes of data, its type and shape need 432",
        ),
        (
            |m| weights(m)[0] = floats("w", &[4, 5, 3, 3]),
            "layer `c-layer` (Conv): input 1x3x8x8 has 3 channels, weights 4x5x3x3 in 1 groups take 5",
        ),
        (
            |m| m.graph.as_mut().unwrap().input[0] = info("x", &["N", "3", "H", "8"]),
            "input `x` has no fixed size on axis 2 (`H`); pass its whole shape, e.g. --input-shape \
             x=1x3x224x224",
        ),
        (
            |m| {
                let entry = |key: &str, value: &str| StringStringEntryProto {
                    key: Some(key.to_owned()),
                    value: Some(value.to_owned()),
                };
                weights(m)[0].raw_data = None;
                weights(m)[0].data_location = Some(1);
                weights(m)[0].external_data = vec![entry("location", "../weights")];
            },
            "tensor `w`: external data at `../weights`; it must be a file in the model's own folder",
        ),
    ];
    for (spoil, message) in cases {
        let mut model = small();
        spoil(&mut model);
        let found = import(&model, &ImportOptions::default()).unwrap_err().to_string();
        assert!(found.starts_with(message), "{found}\nis not\n{message}");
    }
}

fn nodes(model: &mut ModelProto) -> &mut Vec<NodeProto> {
    &mut model.graph.as_mut().unwrap().node
}

fn weights(model: &mut ModelProto) -> &mut Vec<TensorProto> {
    &mut model.graph.as_mut().unwrap().initializer
}

#[test]
fn given_shapes_must_fit_what_is_declared() {
    let cases: [(&str, &[u64], &str); 3] = [
        ("x", &[1, 4, 8, 8], "input `x` is declared as Nx3x8x8, the shape given is 1x4x8x8"),
        ("x", &[1, 3, 8], "input `x` is declared as Nx3x8x8, the shape given is 1x3x8"),
        ("q", &[1], "no input is called `q`; the inputs are x"),
    ];
    for (name, shape, message) in cases {
        let input_shapes = BTreeMap::from([(name.to_owned(), Shape(shape.to_vec()))]);
        let found = import(&small(), &ImportOptions { input_shapes }).unwrap_err();
        assert_eq!(found.to_string(), message);
    }
}

#[test]
fn files_that_are_not_models_say_so() {
    let whole = small().encode_to_vec();
    let cases: [(&[u8], &str); 5] = [
        (b"", "the file is empty"),
        (b"\x1c\0\0\0TFL3....", "this is a TensorFlow Lite model, not an ONNX model"),
        (b"PK\x03\x04....", "this is a zip archive such as a PyTorch checkpoint"),
        (&whole[..whole.len() / 2], "not an ONNX model, or cut short"),
        (b"hello, world", "not an ONNX model"),
    ];
    for (bytes, message) in cases {
        let found = import_bytes(Bytes::copy_from_slice(bytes)).unwrap_err().to_string();
        assert!(found.starts_with(message), "{found}");
    }
}

#[test]
fn deep_nesting_is_an_error() {
    let mut inner = GraphProto::default();
    for _ in 0..200 {
        let attribute = AttributeProto { g: Some(inner), ..Default::default() };
        let node = NodeProto { attribute: vec![attribute], ..Default::default() };
        inner = GraphProto { node: vec![node], ..Default::default() };
    }
    let model = ModelProto { graph: Some(inner), ..Default::default() };
    assert!(matches!(decode(model.encode_to_vec().into()), Err(ImportError::Decode(_))));
}

/// Flips bytes of a model and imports what decodes: an error or a graph, never a panic.
fn survives(mut bytes: Vec<u8>, edits: &[(prop::sample::Index, u8)]) {
    for (at, value) in edits {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    if let Ok(graph) = import_bytes(bytes.into()) {
        let grouping = cutline_core::group::group(&graph);
        cutline_core::cut::candidate_cuts(&grouping.dag);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_small_models_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        // Without the weights' zeros most edits hit structure.
        let mut model = small();
        weights(&mut model)[0] = floats("w", &[1, 3, 1, 1]);
        survives(model.encode_to_vec(), &edits);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn mutated_real_models_never_panic(
        which in 0usize..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let files = ["version-RFB-320.onnx", "FastestDet.onnx", "opt-mnist.onnx"];
        if let Some(bytes) = shared(files[which]) {
            let mut model = decode(bytes).unwrap();
            // A tensor of no elements keeps its place but not its bulk.
            for tensor in weights(&mut model).iter_mut().filter(|tensor| tensor.encoded_len() > 2000) {
                *tensor = floats(tensor.name(), &[0]);
            }
            survives(model.encode_to_vec(), &edits);
        }
    }
}
