//! Signed bytes as unsigned ones, for an engine that computes those faster.
//!
//! The kernels of x86 processors multiply unsigned bytes by signed ones. A tensor of signed bytes
//! with the zero point `z` holds the same numbers as one of unsigned bytes, each 128 larger, with
//! `z + 128`, so that nothing is rounded. Weights stay as they are. What enters a model or leaves it
//! keeps its type, and is moved by 128 there:
//!
//! ```text
//! x: int8 ─ DequantizeLinear(1, 0) ─ QuantizeLinear(1, 128) ─ the layers ─ ... ─ y: int8
//! ```
//!
//! A value stays signed where a layer makes or reads it that does more than to quantise, to
//! dequantise or to move elements.

use std::collections::{BTreeMap, BTreeSet};

use cutline_core::{
    onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto},
    tensor::DType,
};

use super::whole::has_subgraphs;

/// Layers that move elements and compute nothing on them that their order would not decide.
const MOVES: [&str; 11] = [
    "Concat",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// The first operator set with layers that quantise and dequantise.
const FIRST_OPSET: i64 = 10;

/// Rewrites the signed values of a model that can be; whether there were any. Takes time in
/// proportion to the layers, and memory for their names.
pub(super) fn compute_in_unsigned_bytes(model: &mut ModelProto) -> bool {
    let opsets = model.opset_import.iter().filter(|opset| opset.domain().is_empty());
    let has_layers = opsets.map(|opset| opset.version()).all(|version| version >= FIRST_OPSET);
    let Some(graph) = &mut model.graph else { return false };
    if has_subgraphs(graph) || !has_layers {
        return false;
    }
    let zero_points = zero_points(graph);
    let signed = signed_values(graph, &zero_points);
    if signed.is_empty() {
        return false;
    }
    let mut writer = Writer::default();
    let port = |ports: &[ValueInfoProto]| -> BTreeSet<String> {
        let names = ports.iter().map(|port| port.name().to_owned());
        names.filter(|name| signed.contains(name)).collect()
    };
    let (inputs, outputs) = (port(&graph.input), port(&graph.output));
    let inner: BTreeMap<&String, String> =
        inputs.iter().chain(&outputs).map(|name| (name, format!("{name}\u{1}unsigned"))).collect();
    for name in &inputs {
        writer.enter(name, &inner[name]);
    }
    for mut node in std::mem::take(&mut graph.node) {
        let value = match node.op_type() {
            "QuantizeLinear" => node.output.first(),
            "DequantizeLinear" => node.input.first(),
            _ => None,
        };
        if value.is_some_and(|value| signed.contains(value)) {
            let point = node.input.get(2).and_then(|name| zero_points.get(name));
            let point = writer.unsigned_point(point.copied().unwrap_or(0));
            node.input.truncate(2);
            node.input.push(point);
            if node.op_type() == "QuantizeLinear" {
                // It says the type once more, which the zero point says already.
                node.attribute.retain(|attribute| attribute.name() != "output_dtype");
            }
        }
        for name in node.input.iter_mut().chain(&mut node.output) {
            if let Some(inner) = inner.get(name) {
                name.clone_from(inner);
            }
        }
        writer.nodes.push(node);
    }
    for name in &outputs {
        writer.leave(&inner[name], name);
    }
    graph.node = writer.nodes;
    graph.initializer.extend(writer.constants.into_values());
    graph.value_info.retain(|value| !signed.contains(value.name()));
    true
}

/// The constants that are one signed byte.
fn zero_points(graph: &GraphProto) -> BTreeMap<String, i8> {
    let byte = |tensor: &TensorProto| {
        let is_byte = tensor.data_type == Some(DType::I8.onnx());
        let stored = match (tensor.raw_data.as_deref(), &tensor.int32_data[..]) {
            (Some(&[byte]), []) => Some(byte as i8),
            (None | Some([]), &[value]) => i8::try_from(value).ok(),
            _ => None,
        };
        stored.filter(|_| is_byte && tensor.dims.iter().all(|&size| size == 1))
    };
    let constants = graph.initializer.iter();
    constants.filter_map(|tensor| Some((tensor.name().to_owned(), byte(tensor)?))).collect()
}

/// The constants of one element.
fn of_one_element(graph: &GraphProto) -> BTreeSet<&str> {
    let is_one = |tensor: &&TensorProto| tensor.dims.iter().all(|&size| size == 1);
    graph.initializer.iter().filter(is_one).map(TensorProto::name).collect()
}

/// The values of signed bytes that every layer around them takes as unsigned ones, too.
fn signed_values(graph: &GraphProto, zero_points: &BTreeMap<String, i8>) -> BTreeSet<String> {
    let has_point =
        |node: &NodeProto| node.input.get(2).is_some_and(|name| zero_points.contains_key(name));
    let one = of_one_element(graph);
    // The places of the greatest elements are no bytes.
    let has_places = |node: &NodeProto| node.op_type() == "MaxPool" && node.output.len() > 1;
    let moves = |node: &NodeProto| {
        node.domain().is_empty() && MOVES.contains(&node.op_type()) && !has_places(node)
    };
    let constants: BTreeSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    let entering = graph.input.iter().filter(|input| is_signed(input));
    let mut signed: BTreeSet<String> = entering.map(|input| input.name().to_owned()).collect();
    signed.retain(|name| {
        !constants.contains(name.as_str()) && graph.output.iter().all(|it| it.name() != name)
    });
    for node in &graph.node {
        let makes_signed = match node.op_type() {
            "QuantizeLinear" => has_point(node),
            _ => moves(node) && moved_operands(node).iter().all(|name| signed.contains(name)),
        };
        if makes_signed {
            signed.extend(node.output.iter().cloned());
        }
    }
    let takes_unsigned = |node: &NodeProto, signed: &BTreeSet<String>| match node.op_type() {
        "QuantizeLinear" => has_point(node) && node.input.iter().all(|name| !signed.contains(name)),
        // Without a zero point it is 0, for one scale or for many.
        "DequantizeLinear" if node.input.len() < 3 => {
            node.input.get(1).is_some_and(|scale| one.contains(scale.as_str()))
        }
        "DequantizeLinear" => has_point(node),
        _ => {
            let operands = moved_operands(node);
            let moved = operands.iter().chain(&node.output);
            moves(node) && moved.into_iter().all(|name| signed.contains(name))
        }
    };
    let mut around: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        for name in node.input.iter().chain(&node.output) {
            around.entry(name).or_default().push(at);
        }
    }
    // What one layer keeps signed may keep what others move signed, each once.
    let mut waiting: Vec<usize> = (0..graph.node.len()).collect();
    let mut keeps_signed = vec![false; graph.node.len()];
    while let Some(at) = waiting.pop() {
        let node = &graph.node[at];
        let names = node.input.iter().chain(&node.output);
        if keeps_signed[at]
            || !names.clone().any(|name| signed.contains(name))
            || takes_unsigned(node, &signed)
        {
            continue;
        }
        keeps_signed[at] = true;
        for name in names.filter(|name| signed.remove(*name)) {
            waiting.extend(&around[name.as_str()]);
        }
    }
    signed
}

/// The operands whose elements a moving layer moves.
fn moved_operands(node: &NodeProto) -> &[String] {
    let count = if node.op_type() == "Concat" { node.input.len() } else { 1 };
    node.input.get(..count).unwrap_or(&[])
}

fn is_signed(value: &ValueInfoProto) -> bool {
    let kind = value.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    matches!(kind, Some(type_proto::Value::TensorType(it)) if it.elem_type == Some(DType::I8.onnx()))
}

/// The nodes so far, and the constants that they need.
#[derive(Default)]
struct Writer {
    nodes: Vec<NodeProto>,
    constants: BTreeMap<String, TensorProto>,
}

impl Writer {
    /// Appends what makes the unsigned bytes of an input.
    fn enter(&mut self, input: &str, unsigned: &str) {
        let (from, to) = (self.signed_zero(), self.unsigned_point(0));
        self.shift((input, from), (unsigned, to));
    }

    /// Appends what makes an output of its unsigned bytes.
    fn leave(&mut self, unsigned: &str, output: &str) {
        let (from, to) = (self.unsigned_point(0), self.signed_zero());
        self.shift((unsigned, from), (output, to));
    }

    /// Appends what turns the bytes around one zero point into those around another.
    fn shift(&mut self, (from, point): (&str, String), (to, target): (&str, String)) {
        let node = |op: &str, input: &str, one: &str, point: String, output: &str| NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(format!("{output}\u{1}shifted")),
            input: vec![input.to_owned(), one.to_owned(), point],
            output: vec![output.to_owned()],
            ..NodeProto::default()
        };
        let one = self.constant("one", DType::F32, &1f32.to_le_bytes());
        let whole = format!("{from}\u{1}whole");
        self.nodes.push(node("DequantizeLinear", from, &one, point, &whole));
        self.nodes.push(node("QuantizeLinear", &whole, &one, target, to));
    }

    /// The zero point of unsigned bytes in the place of signed ones.
    fn unsigned_point(&mut self, signed: i8) -> String {
        let moved = signed.cast_unsigned() ^ 0x80;
        self.constant(&format!("point {moved}"), DType::U8, &[moved])
    }

    fn signed_zero(&mut self) -> String {
        self.constant("signed 0", DType::I8, &[0])
    }

    /// A constant of one element. Its name, like the others here, is one that no exporter gives, so
    /// that it cannot meet another value's.
    fn constant(&mut self, what: &str, dtype: DType, bytes: &[u8]) -> String {
        let name = format!("\u{1}{what}");
        self.constants.entry(name.clone()).or_insert_with(|| TensorProto {
            name: Some(name.clone()),
            data_type: Some(dtype.onnx()),
            raw_data: Some(bytes.to_vec().into()),
            ..TensorProto::default()
        });
        name
    }
}

#[cfg(test)]
mod tests {
    use cutline_core::onnx::proto::{AttributeProto, TypeProto};

    use super::*;

    fn port(name: &str, dtype: DType) -> ValueInfoProto {
        let kind = type_proto::Tensor { elem_type: Some(dtype.onnx()), shape: None };
        ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(kind)),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        }
    }

    /// A model from lines of `op inputs > outputs`, with the scale `s`, the signed zero points `z-3`
    /// and `z0`, and the unsigned one `u`.
    fn model(inputs: &[ValueInfoProto], outputs: &[ValueInfoProto], nodes: &[&str]) -> ModelProto {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let node = |line: &&str| {
            let (left, right) = line.split_once('>').unwrap();
            let left = words(left);
            NodeProto {
                op_type: Some(left[0].clone()),
                input: left[1..].to_vec(),
                output: words(right),
                ..NodeProto::default()
            }
        };
        let constant = |name: &str, dtype: DType, bytes: Vec<u8>| TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(dtype.onnx()),
            raw_data: Some(bytes.into()),
            ..TensorProto::default()
        };
        let graph = GraphProto {
            node: nodes.iter().map(node).collect(),
            input: inputs.to_vec(),
            output: outputs.to_vec(),
            initializer: vec![
                constant("s", DType::F32, 0.5f32.to_le_bytes().to_vec()),
                constant("z-3", DType::I8, vec![253]),
                constant("z0", DType::I8, vec![0]),
                constant("u", DType::U8, vec![7]),
            ],
            value_info: vec![port("q", DType::I8), port("r", DType::F32)],
            ..GraphProto::default()
        };
        ModelProto { graph: Some(graph), ..ModelProto::default() }
    }

    /// The layers after rewriting, each with the zero point that it uses, if any.
    fn rewritten(mut model: ModelProto) -> Option<Vec<String>> {
        if !compute_in_unsigned_bytes(&mut model) {
            return None;
        }
        let graph = model.graph.unwrap();
        let points: BTreeMap<&str, &TensorProto> =
            graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
        let line = |node: &NodeProto| {
            let point = node.input.get(2).and_then(|name| points.get(name.as_str()));
            let point = point.map(|point| {
                let byte = point.raw_data.as_ref().unwrap()[0];
                match point.data_type == Some(DType::I8.onnx()) {
                    true => format!(" {:+}", byte.cast_signed()),
                    false => format!(" {byte}"),
                }
            });
            format!("{}{}", node.op_type(), point.unwrap_or_default())
        };
        Some(graph.node.iter().map(line).collect())
    }

    #[test]
    fn signed_values_become_unsigned_and_ports_keep_their_type() {
        let (x, y) = (port("x", DType::I8), port("y", DType::I8));
        let nodes = [
            "DequantizeLinear x s z-3 > a",
            "Relu a > b",
            "QuantizeLinear b s z0 > q",
            "Transpose q > t",
            "DequantizeLinear t s > c",
            "DequantizeLinear x s z-3 > d",
            "Add c d > e",
            "QuantizeLinear e s z0 > y",
        ];
        let ours = model(&[x], &[y], &nodes);
        let expected = [
            "DequantizeLinear +0",
            "QuantizeLinear 128",
            "DequantizeLinear 125",
            "Relu",
            "QuantizeLinear 128",
            "Transpose",
            "DequantizeLinear 128",
            "DequantizeLinear 125",
            "Add",
            "QuantizeLinear 128",
            "DequantizeLinear 128",
            "QuantizeLinear +0",
        ];
        assert_eq!(rewritten(ours.clone()).unwrap(), expected);

        let mut changed = ours;
        compute_in_unsigned_bytes(&mut changed);
        let graph = changed.graph.unwrap();
        let made: BTreeSet<&String> = graph.node.iter().flat_map(|node| &node.output).collect();
        assert!(made.contains(&"y".to_owned()), "the answer keeps its name");
        let declared: Vec<&str> = graph.value_info.iter().map(|value| value.name()).collect();
        assert_eq!(declared, ["r"], "what is said of a value that changed its type is gone");
    }

    #[test]
    fn values_of_layers_that_compute_on_bytes_stay_signed() {
        let (x, y) = ([port("x", DType::F32)], [port("y", DType::F32)]);
        let cases: &[(&[&str], bool)] = &[
            // `ArgMax` reads `q`, and `p` is moved with it.
            (&["QuantizeLinear x s z0 > q", "ArgMax q > i", "DequantizeLinear q s z0 > y"], false),
            (
                &[
                    "QuantizeLinear x s z0 > p",
                    "QuantizeLinear x s z0 > q",
                    "Concat p q > r",
                    "ArgMax q > i",
                    "DequantizeLinear r s z0 > y",
                ],
                false,
            ),
            // Of two values that nothing joins, one changes.
            (
                &[
                    "QuantizeLinear x s z0 > p",
                    "ArgMax p > i",
                    "QuantizeLinear x s z0 > q",
                    "DequantizeLinear q s z0 > y",
                ],
                true,
            ),
            (&["QuantizeLinear x s u > q", "DequantizeLinear q s u > y"], false),
            (&["QuantizeLinear x s > q", "DequantizeLinear q s > y"], false),
        ];
        for (nodes, is_rewritten) in cases {
            let ours = model(&x, &y, nodes);
            assert_eq!(rewritten(ours).is_some(), *is_rewritten, "{nodes:?}");
        }
    }

    #[test]
    fn models_with_subgraphs_stay_as_they_are() {
        let (x, y) = (port("x", DType::F32), port("y", DType::F32));
        let nodes = ["QuantizeLinear x s z0 > q", "DequantizeLinear q s z0 > y"];
        let mut ours = model(&[x], &[y], &nodes);
        assert!(rewritten(ours.clone()).is_some());
        let attribute = AttributeProto { g: Some(GraphProto::default()), ..Default::default() };
        ours.graph.as_mut().unwrap().node[0].attribute.push(attribute);
        assert_eq!(rewritten(ours), None);
    }
}
