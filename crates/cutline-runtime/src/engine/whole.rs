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

use std::collections::{BTreeMap, BTreeSet};

use cutline_core::{
    onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto},
    tensor::DType,
};

/// Rewrites the quantised products of a model; whether there were any.
pub(super) fn compute_in_whole_numbers(model: &mut ModelProto) -> bool {
    let Some(graph) = &mut model.graph else { return false };
    let found = Finder::new(graph).products();
    if found.is_empty() {
        return false;
    }
    let mut writer = Writer::default();
    let ends: BTreeMap<usize, usize> =
        found.iter().enumerate().map(|(at, product)| (product.quantize, at)).collect();
    let starts: BTreeMap<usize, usize> =
        found.iter().enumerate().map(|(at, product)| (product.layer, at)).collect();
    let nodes = std::mem::take(&mut graph.node);
    for (at, mut node) in nodes.into_iter().enumerate() {
        if let Some(&at) = starts.get(&at) {
            writer.product(node, &found[at]);
            continue;
        }
        if ends.contains_key(&at) {
            node.input[1] = writer.ones(&found[ends[&at]].made);
        }
        writer.nodes.push(node);
    }
    graph.node = writer.nodes;
    graph.initializer.extend(writer.constants.into_values());
    true
}

/// A layer whose operands are dequantised and whose result is quantised.
struct Product {
    layer: usize,
    quantize: usize,
    /// The layers that dequantise its operands, each with the shape of its scales.
    operands: Vec<(NodeProto, Vec<i64>)>,
    /// Shape of the scale of the layer that quantises its result: of one element.
    made: Vec<i64>,
    /// What a step of its whole result is in steps of its quantised one, by channel.
    factor: Vec<f32>,
}

/// Looks for products in a graph.
struct Finder<'a> {
    graph: &'a GraphProto,
    scales: BTreeMap<&'a str, &'a TensorProto>,
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
        let scales = graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
        let answers = graph.output.iter().map(|output| output.name()).collect();
        Self { graph, scales, makers, readers, answers }
    }

    fn products(&self) -> Vec<Product> {
        (0..self.graph.node.len()).filter_map(|at| self.product(at)).collect()
    }

    fn product(&self, layer: usize) -> Option<Product> {
        let node = &self.graph.node[layer];
        let is_plain = match node.op_type() {
            "Conv" => true,
            "Gemm" => node.attribute.iter().all(|attribute| attribute.name() == "transB"),
            _ => false,
        };
        let (true, "", [output]) = (is_plain, node.domain(), &node.output[..]) else {
            return None;
        };
        let &[quantize] = &self.readers.get(output.as_str())?[..] else { return None };
        let last = &self.graph.node[quantize];
        let is_last = last.op_type() == "QuantizeLinear" && last.input.first() == Some(output);
        if !is_last || self.answers.contains(output.as_str()) {
            return None;
        }
        let operands = node.input.iter().filter(|name| !name.is_empty());
        let operands = operands
            .map(|name| {
                let maker = &self.graph.node[*self.makers.get(name.as_str())?];
                let scale = self.scale(maker)?;
                (maker.op_type() == "DequantizeLinear").then(|| (maker.clone(), scale))
            })
            .collect::<Option<Vec<_>>>()?;
        let [(_, (x, _)), (weights, (w, _)), rest @ ..] = &operands[..] else { return None };
        let (made, shape) = self.scale(last)?;
        let (&[x], &[made]) = (&x[..], &made[..]) else { return None };
        let is_by_result = w.len() == 1 || axis(weights) == Some(axis_of_results(node));
        let steps: Vec<f32> = w.iter().map(|w| x * w).collect();
        if !is_by_result || rest.iter().any(|(_, (bias, _))| !is_near(bias, &steps)) {
            return None;
        }
        let factor = steps.iter().map(|step| step / made).collect();
        let operands = operands.into_iter().map(|(maker, (_, shape))| (maker, shape)).collect();
        Some(Product { layer, quantize, operands, made: shape, factor })
    }

    /// The scales of a layer that quantises or dequantises, where they are constants, and their shape.
    fn scale(&self, node: &NodeProto) -> Option<(Vec<f32>, Vec<i64>)> {
        let tensor = self.scales.get(node.input.get(1)?.as_str())?;
        if tensor.data_type != Some(DType::F32.onnx()) || tensor.dims.len() > 1 {
            return None;
        }
        let stored = tensor.raw_data.as_ref()?.as_chunks::<4>().0;
        let values: Vec<f32> = stored.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let count = tensor.dims.first().copied().unwrap_or(1);
        (values.len() as i64 == count).then(|| (values, tensor.dims.clone()))
    }
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
    fn product(&mut self, mut node: NodeProto, product: &Product) {
        let output = node.output[0].clone();
        let given = node.input.iter_mut().filter(|name| !name.is_empty());
        for (name, (maker, shape)) in given.zip(&product.operands) {
            let mut maker = maker.clone();
            maker.input[1] = self.ones(shape);
            // Names that no exporter gives, so that they cannot meet another value's.
            *name = format!("{name}\u{1}for {output}");
            maker.output = vec![name.clone()];
            maker.name = Some(name.clone());
            self.nodes.push(maker);
        }
        let whole = format!("{output}\u{1}whole");
        let count = product.factor.len() as i64;
        let dims: &[i64] = match (count, node.op_type()) {
            (1, _) => &[],
            (_, "Conv") => &[count, 1, 1],
            _ => &[count],
        };
        let factor = self.constant(&format!("{output}\u{1}factor"), dims, product.factor.clone());
        node.output = vec![whole.clone()];
        self.nodes.push(node);
        self.nodes.push(NodeProto {
            op_type: Some("Mul".to_owned()),
            name: Some(output.clone()),
            input: vec![whole, factor],
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
