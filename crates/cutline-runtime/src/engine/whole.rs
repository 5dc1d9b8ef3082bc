//! Quantised layers in whole numbers, for an engine that computes them in floats.
//!
//! ```text
//! DequantizeLinear(x, s) ┐
//! DequantizeLinear(w, t) ├ Conv ─ QuantizeLinear(u)
//! DequantizeLinear(b) ───┘
//! ```
//!
//! becomes the same with scales of 1, and one multiplication by `s * t / u` before the last layer.
//! Products and sums of the integers are then exact as long as they stay below 2^24, and one rounding
//! is left, the very one of engines that compute in integers. Otherwise every sum is rounded, now
//! and then to the other side of a half, and each such step makes others further on.
//!
//! A sum or difference of two values is more: XNNPACK, and LiteRT with it, takes the ratios of the
//! scales as integers of at most 21 bits over a power of two, and halves round up. Floats hold that,
//! too, where each ratio is taken apart: `m / 2^n = (h * 2^10 + l) / 2^n`.
//!
//! ```text
//! DequantizeLinear(a, l / 2^10) ┐
//! DequantizeLinear(b, k / 2^10) ┴ Sum ─ Floor ┐
//! DequantizeLinear(a, h) ─────────────────────┤
//! DequantizeLinear(b, g) ─────────────────────┼ Sum ─ Mul(2^10 / 2^n) ─ Floor ─ QuantizeLinear(1)
//! 2^(n - 11) ─────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use cutline_core::{
    onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto},
    tensor::DType,
};

/// Rewrites the quantised layers of a model that have one of these operators, of `Add`, `Conv`,
/// `Gemm`, `Mul` and `Sub`; whether there were any.
pub(super) fn compute_in_whole_numbers(model: &mut ModelProto, ops: &[&str]) -> bool {
    let Some(graph) = &mut model.graph else { return false };
    let found = Finder::new(graph).layers(ops);
    if found.is_empty() || has_subgraphs(graph) {
        return false;
    }
    let mut writer = Writer::default();
    let ends: BTreeMap<usize, &[i64]> = found
        .values()
        .filter_map(|layer| layer.quantize.as_ref().map(|(at, shape)| (*at, &shape[..])))
        .collect();
    for (at, mut node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
        match found.get(&at).map(|layer| (&layer.operands, &layer.step)) {
            Some((operands, Step::Product(factor))) => writer.product(node, operands, factor),
            Some((operands, Step::Sum(ratios, scale))) => {
                writer.sum(&node, operands, ratios, *scale);
            }
            None => {
                if let Some(shape) = ends.get(&at) {
                    node.input[1] = writer.ones(shape);
                }
                writer.nodes.push(node);
            }
        }
    }
    graph.node = writer.nodes;
    graph.initializer.extend(writer.constants.into_values());
    true
}

/// Whether layers hold graphs, which may read any value of the one around them.
pub(super) fn has_subgraphs(graph: &GraphProto) -> bool {
    let mut attributes = graph.node.iter().flat_map(|node| &node.attribute);
    attributes.any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty())
}

/// A layer whose operands are dequantised and whose result is quantised.
struct Layer {
    /// The layer that quantises what it makes, where there is none between the two, and the shape of
    /// that one's scale.
    quantize: Option<(usize, Vec<i64>)>,
    /// The layers that dequantise its operands, each with the shape of its scales.
    operands: Vec<(NodeProto, Vec<i64>)>,
    step: Step,
}

/// From whole numbers to the steps of a quantised result.
enum Step {
    /// What a step of a whole product is in steps of the result, by channel.
    Product(Vec<f32>),
    /// With the scale of the result, where a clamp of real numbers follows.
    Sum(Ratios, Option<f32>),
}

/// What steps of two operands are in steps of their sum: integers over `2^shift`.
struct Ratios {
    multipliers: [i32; 2],
    shift: i32,
}

/// Bits of a multiplier that are kept apart from those above them.
const LOW_BITS: i32 = 10;

impl Ratios {
    /// As XNNPACK takes them; `None` where it does not.
    fn new(operands: [f32; 2], result: f32) -> Option<Self> {
        let ratios = operands.map(|scale| scale / result);
        let largest = ratios[0].max(ratios[1]);
        if !(1.0 / 1024.0..256.0).contains(&largest) {
            return None;
        }
        // The exponent of the largest, so that its multiplier has 21 bits.
        let shift = 20 - ((largest.to_bits() >> 23) as i32 - 127);
        let multipliers = ratios.map(|ratio| (ratio * 2f32.powi(shift)).round_ties_even() as i32);
        Some(Self { multipliers, shift })
    }
}

/// Looks for such layers in a graph.
struct Finder<'a> {
    graph: &'a GraphProto,
    constants: BTreeMap<&'a str, &'a TensorProto>,
    makers: BTreeMap<&'a str, usize>,
    readers: BTreeMap<&'a str, Vec<usize>>,
    answers: BTreeSet<&'a str>,
}

impl<'a> Finder<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let mut readers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut makers = BTreeMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            for value in &node.input {
                readers.entry(value).or_default().push(at);
            }
            makers.extend(node.output.iter().map(|value| (value.as_str(), at)));
        }
        let constants = graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
        let answers = graph.output.iter().map(|output| output.name()).collect();
        Self { graph, constants, makers, readers, answers }
    }

    fn layers(&self, ops: &[&str]) -> BTreeMap<usize, Layer> {
        let nodes = self.graph.node.iter().enumerate();
        let named =
            nodes.filter(|(_, node)| node.domain().is_empty() && ops.contains(&node.op_type()));
        named.filter_map(|(at, node)| Some((at, self.layer(node)?))).collect()
    }

    fn layer(&self, node: &NodeProto) -> Option<Layer> {
        let [output] = &node.output[..] else { return None };
        let (quantize, is_clamped) = self.quantizer(output)?;
        let operands = node.input.iter().filter(|name| !name.is_empty());
        let operands = operands
            .map(|name| {
                let maker = &self.graph.node[*self.makers.get(name.as_str())?];
                let scale = self.scale(maker)?;
                (maker.op_type() == "DequantizeLinear").then(|| (maker.clone(), scale))
            })
            .collect::<Option<Vec<_>>>()?;
        let (made, shape) = self.scale(&self.graph.node[quantize])?;
        let &[made] = &made[..] else { return None };
        let step = match node.op_type() {
            "Add" | "Sub" => {
                let [(a, (a_scale, _)), (b, (b_scale, _))] = &operands[..] else { return None };
                let (&[a_scale], &[b_scale]) = (&a_scale[..], &b_scale[..]) else { return None };
                // Wider integers would be too large for floats.
                if !self.is_of_bytes(a) || !self.is_of_bytes(b) {
                    return None;
                }
                let mut ratios = Ratios::new([a_scale, b_scale], made)?;
                if node.op_type() == "Sub" {
                    ratios.multipliers[1] = -ratios.multipliers[1];
                }
                Step::Sum(ratios, is_clamped.then_some(made))
            }
            _ if is_clamped => return None,
            _ => Step::Product(factor(node, &operands, made)?),
        };
        let operands = operands.into_iter().map(|(maker, (_, shape))| (maker, shape)).collect();
        Some(Layer { quantize: (!is_clamped).then_some((quantize, shape)), operands, step })
    }

    /// The layer that quantises a value which nothing else needs, and whether it is clamped before.
    fn quantizer(&self, value: &'a str) -> Option<(usize, bool)> {
        let (mut value, mut is_clamped) = (value, false);
        loop {
            let &[reader] = &self.readers.get(value)?[..] else { return None };
            let node = &self.graph.node[reader];
            if self.answers.contains(value) || node.input.first()? != value {
                return None;
            }
            match node.op_type() {
                "QuantizeLinear" => return Some((reader, is_clamped)),
                "Relu" | "Clip" => (value, is_clamped) = (node.output.first()?, true),
                _ => return None,
            }
        }
    }

    /// The scales of a layer that quantises or dequantises, where they are constants, and their shape.
    fn scale(&self, node: &NodeProto) -> Option<Scale> {
        let tensor = self.constants.get(node.input.get(1)?.as_str())?;
        if tensor.data_type != Some(DType::F32.onnx()) || tensor.dims.len() > 1 {
            return None;
        }
        let stored = tensor.raw_data.as_ref()?.as_chunks::<4>().0;
        let values: Vec<f32> = stored.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let count = tensor.dims.first().copied().unwrap_or(1);
        (values.len() as i64 == count).then(|| (values, tensor.dims.clone()))
    }

    /// Whether a layer dequantises bytes, by its zero point.
    fn is_of_bytes(&self, node: &NodeProto) -> bool {
        let point = node.input.get(2).and_then(|name| self.constants.get(name.as_str()));
        let dtype = point.and_then(|point| point.data_type);
        [DType::I8, DType::U8].iter().any(|byte| dtype == Some(byte.onnx()))
    }
}

/// Scales and their shape.
type Scale = (Vec<f32>, Vec<i64>);

/// What a step of a whole product is in steps of `made`, by channel of the result; `None` where that
/// is not so simple.
fn factor(node: &NodeProto, operands: &[(NodeProto, Scale)], made: f32) -> Option<Vec<f32>> {
    let [(_, (x, _)), (weights, (w, _)), rest @ ..] = operands else { return None };
    let &[x] = &x[..] else { return None };
    let is_plain = match node.op_type() {
        "Gemm" => node.attribute.iter().all(|attribute| attribute.name() == "transB"),
        "Conv" => true,
        _ => w.len() == 1,
    };
    let is_by_result = w.len() == 1 || axis(weights) == Some(axis_of_results(node));
    let steps: Vec<f32> = w.iter().map(|w| x * w).collect();
    let are_near = rest.iter().all(|(_, (bias, _))| is_near(bias, &steps));
    (is_plain && is_by_result && are_near).then(|| steps.iter().map(|step| step / made).collect())
}

/// The axis along which a layer's scales lie, where it says one from the front.
fn axis(node: &NodeProto) -> Option<i64> {
    let stated = node.attribute.iter().find(|attribute| attribute.name() == "axis");
    // What the operator's definition says.
    let axis = stated.map_or(1, |attribute| attribute.i());
    let is_blocked = node.attribute.iter().any(|it| it.name() == "block_size" && it.i() != 0);
    (axis >= 0 && !is_blocked).then_some(axis)
}

/// The axis of a layer's weights that is one of its results.
fn axis_of_results(node: &NodeProto) -> i64 {
    let is_transposed = node.attribute.iter().any(|it| it.name() == "transB" && it.i() != 0);
    i64::from(node.op_type() == "Gemm" && !is_transposed)
}

/// Whether a bias counts in the steps of the products that it is added to: scales that were computed
/// by others may differ in their last bits.
fn is_near(bias: &[f32], steps: &[f32]) -> bool {
    let near = |(bias, step): (&f32, &f32)| (bias - step).abs() <= 1e-3 * step;
    match bias {
        &[one] => steps.iter().all(|step| near((&one, step))),
        each => each.len() == steps.len() && each.iter().zip(steps).all(near),
    }
}

/// The nodes so far, and the constants that they need.
#[derive(Default)]
struct Writer {
    nodes: Vec<NodeProto>,
    constants: BTreeMap<String, TensorProto>,
}

impl Writer {
    fn product(&mut self, mut node: NodeProto, operands: &[(NodeProto, Vec<i64>)], factor: &[f32]) {
        let output = node.output[0].clone();
        let given = node.input.iter_mut().filter(|name| !name.is_empty());
        for (at, (name, (maker, shape))) in given.zip(operands).enumerate() {
            let ones = self.ones(shape);
            *name = self.dequantize(maker, ones, &format!("{output}\u{1}operand{at}"));
        }
        let whole = format!("{output}\u{1}whole");
        let count = factor.len() as i64;
        let dims: &[i64] = match (count, node.op_type()) {
            (1, _) => &[],
            (_, "Conv") => &[count, 1, 1],
            _ => &[count],
        };
        let factor = self.constant(&format!("{output}\u{1}factor"), dims, factor.to_vec());
        node.output = vec![whole.clone()];
        self.nodes.push(node);
        self.push("Mul", vec![whole, factor], output);
    }

    fn sum(
        &mut self,
        node: &NodeProto,
        operands: &[(NodeProto, Vec<i64>)],
        ratios: &Ratios,
        result: Option<f32>,
    ) {
        let output = node.output[0].clone();
        let named = |what: &str| format!("{output}\u{1}{what}");
        let scale = |writer: &mut Self, what: &str, shape: &[i64], value: f32| {
            writer.constant(&named(what), shape, vec![value])
        };
        let (mut high, mut low) = (Vec::new(), Vec::new());
        let each = operands.iter().zip(ratios.multipliers).enumerate();
        for (at, ((maker, shape), multiplier)) in each {
            let whole = (multiplier >> LOW_BITS) as f32;
            let rest = multiplier.rem_euclid(1 << LOW_BITS) as f32 / (1 << LOW_BITS) as f32;
            let name = scale(self, &format!("high scale{at}"), shape, whole);
            high.push(self.dequantize(maker, name, &named(&format!("high{at}"))));
            let name = scale(self, &format!("low scale{at}"), shape, rest);
            low.push(self.dequantize(maker, name, &named(&format!("low{at}"))));
        }
        self.push("Sum", low, named("low"));
        self.push("Floor", vec![named("low")], named("carry"));
        let half = scale(self, "half", &[], 2f32.powi(ratios.shift - 1 - LOW_BITS));
        high.extend([named("carry"), half]);
        self.push("Sum", high, named("high"));
        let unit = scale(self, "unit", &[], 2f32.powi(LOW_BITS - ratios.shift));
        self.push("Mul", vec![named("high"), unit], named("steps"));
        let Some(result) = result else {
            return self.push("Floor", vec![named("steps")], output);
        };
        self.push("Floor", vec![named("steps")], named("whole"));
        let result = scale(self, "result", &[], result);
        self.push("Mul", vec![named("whole"), result], output);
    }

    /// Appends a layer like one that dequantises, with another scale; the name of what it makes.
    fn dequantize(&mut self, like: &NodeProto, scale: String, output: &str) -> String {
        let mut node = like.clone();
        node.input[1] = scale;
        node.name = Some(output.to_owned());
        node.output = vec![output.to_owned()];
        self.nodes.push(node);
        output.to_owned()
    }

    fn push(&mut self, op: &str, input: Vec<String>, output: String) {
        self.nodes.push(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(format!("{output}\u{1}layer")),
            input,
            output: vec![output],
            ..NodeProto::default()
        });
    }

    /// Scales of 1, in the shape of those that they stand for.
    fn ones(&mut self, shape: &[i64]) -> String {
        let count = shape.iter().product::<i64>() as usize;
        self.constant(&format!("ones{shape:?}"), shape, vec![1.0; count])
    }

    fn constant(&mut self, what: &str, dims: &[i64], values: Vec<f32>) -> String {
        // Names, here and above, that no exporter gives, so that they cannot meet another value's.
        let name = format!("\u{1}{what}");
        self.constants.entry(name.clone()).or_insert_with(|| TensorProto {
            name: Some(name.clone()),
            dims: dims.to_vec(),
            data_type: Some(DType::F32.onnx()),
            raw_data: Some(values.into_iter().flat_map(f32::to_le_bytes).collect()),
            ..TensorProto::default()
        });
        name
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cutline_core::{
        onnx::proto::{
            OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto,
            type_proto,
        },
        random::Random,
        tensor::Shape,
    };
    use prost::Message;

    use super::*;
    use crate::{
        engine::{self, LoadOptions, ModelSource},
        tensor::Tensor,
    };

    /// Scale and zero point.
    type Quantisation = (f32, i32);

    /// `op` of two vectors of all pairs of bytes, each quantised, and the result as well.
    fn model(op: &str, dtype: DType, given: [Quantisation; 3]) -> ModelProto {
        let names = ["a", "b", "y"];
        let constant = |name: String, dtype: DType, raw_data: Vec<u8>| TensorProto {
            name: Some(name),
            data_type: Some(dtype.onnx()),
            raw_data: Some(raw_data.into()),
            ..TensorProto::default()
        };
        let initializer = names.iter().zip(given).flat_map(|(name, (scale, zero))| {
            let scale = constant(format!("{name}s"), DType::F32, scale.to_le_bytes().to_vec());
            [scale, constant(format!("{name}z"), dtype, vec![zero as u8])]
        });
        let port = |name: &str| ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                    elem_type: Some(dtype.onnx()),
                    shape: Some(TensorShapeProto {
                        dim: vec![tensor_shape_proto::Dimension {
                            value: Some(tensor_shape_proto::dimension::Value::DimValue(1 << 16)),
                            ..Default::default()
                        }],
                    }),
                })),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        };
        let node = |op: &str, input: &[&str], output: &str| NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(output.to_owned()),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        };
        ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { version: Some(13), ..Default::default() }],
            graph: Some(GraphProto {
                name: Some("pairs".to_owned()),
                node: vec![
                    node("DequantizeLinear", &["a", "as", "az"], "ra"),
                    node("DequantizeLinear", &["b", "bs", "bz"], "rb"),
                    node(op, &["ra", "rb"], "ry"),
                    node("QuantizeLinear", &["ry", "ys", "yz"], "y"),
                ],
                input: vec![port("a"), port("b")],
                output: vec![port("y")],
                initializer: initializer.collect(),
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    /// What XNNPACK computes, in its own integers.
    fn expected(op: &str, (a, b): (i64, i64), given: [Quantisation; 3], least: i64) -> i64 {
        let [(a_scale, a_zero), (b_scale, b_zero), (scale, zero)] = given;
        let (a, b) = (a - i64::from(a_zero), b - i64::from(b_zero));
        let steps = if op == "Mul" {
            ((a * b) as f32 * (a_scale * b_scale / scale)).round_ties_even() as i64
        } else {
            let ratios = [a_scale / scale, b_scale / scale];
            let shift = 20 - ratios[0].max(ratios[1]).log2().floor() as i32;
            let [m, n] =
                ratios.map(|ratio| (f64::from(ratio) * 2f64.powi(shift)).round_ties_even() as i64);
            let n = if op == "Sub" { -n } else { n };
            (a * m + b * n + (1 << (shift - 1))) >> shift
        };
        (steps + i64::from(zero)).clamp(least, least + 255)
    }

    #[test]
    fn sums_and_products_of_all_pairs_of_bytes_are_those_of_xnnpack() {
        let engines: Vec<_> =
            ["rten", "onnxruntime"].iter().filter_map(|name| engine::open(name).ok()).collect();
        let mut random = Random::new(7);
        for turn in 0..24 {
            let op = ["Add", "Sub", "Mul"][turn % 3];
            let (dtype, least) = if turn % 2 == 0 { (DType::I8, -128) } else { (DType::U8, 0) };
            let mut one = |least_scale: f32| {
                let scale = least_scale * (1.0 + random.below(1 << 20) as f32 / 131_072.0);
                (scale, least + random.below(256) as i32)
            };
            let given = match op {
                "Mul" => [one(0.01), one(0.01), one(0.05)],
                _ => [one(0.01), one(0.01), one(0.02)],
            };
            let pairs: Vec<(i64, i64)> = (0..1 << 16)
                .map(|at: i64| (i64::from(least) + (at >> 8), i64::from(least) + (at & 255)))
                .collect();
            let bytes = |values: Vec<i64>| -> Bytes {
                values.into_iter().map(|value| value as u8).collect()
            };
            let tensor =
                |values: Vec<i64>| Tensor::new(dtype, Shape(vec![1 << 16]), bytes(values)).unwrap();
            let a = tensor(pairs.iter().map(|pair| pair.0).collect());
            let b = tensor(pairs.iter().map(|pair| pair.1).collect());
            let right = pairs.iter().map(|&pair| expected(op, pair, given, i64::from(least)));
            let right = bytes(right.collect());
            let source = ModelSource::Memory(model(op, dtype, given).encode_to_vec().into());
            for engine in &engines {
                let mut session = engine.load(&source, LoadOptions { threads: 1 }).unwrap();
                let answer = session.run(&[("a", &a), ("b", &b)], &["y"]).unwrap();
                let wrong = answer[0].data().iter().zip(&right).filter(|(ours, its)| ours != its);
                assert_eq!(wrong.count(), 0, "{} {op} {dtype} {given:?}", engine.name());
            }
        }
    }
}
