//! Builds an ONNX model layer by layer, with shapes and signal strength tracked.
//!
//! Each method appends one node and returns the [`Feature`] that it makes. A node, and its one
//! result, carry the name that the method is given. Weights are drawn so that every convolution
//! answers with mean square [`Conv::power`] when its input has the mean square that the feature
//! records: a hundred layers deep, numbers stay near 1.

use bytes::Bytes;

use super::{
    layer::{Bias, Conv, Effect, Feature, GATE, RECTIFIER, SWISH, SWISH_POWER, Window},
    random::Stream,
    wire::{absent_tensor, float, float_value, int, int64s, ints, tensor},
};
use crate::{
    onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto},
    tensor::DType,
};

/// Opset of every network: it has all the operators that they use, and engines have it.
const OPSET: i64 = 17;
/// The file format that came with it.
const IR_VERSION: i64 = 8;

/// What the weights of a network hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    /// Random numbers from this seed.
    Random(u64),
    /// Nothing: shapes only.
    Absent,
}

/// What a finished network amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Parameters that training learns in the published network, before any folding.
    pub(super) parameters: u64,
    /// Floats that the file stores.
    pub(super) stored: u64,
    /// Multiply-accumulates of convolutions and fully connected layers.
    pub(super) macs: u64,
}

/// A network under construction.
#[derive(Debug)]
pub(super) struct Builder {
    weights: Weights,
    graph: GraphProto,
    totals: Totals,
}

impl Builder {
    /// A network that reads one picture, called `input`, and that picture.
    pub(super) fn new(name: &str, weights: Weights, channels: u64, size: u64) -> (Self, Feature) {
        let input = Feature {
            name: "input".to_owned(),
            channels,
            height: size,
            width: size,
            power: 1.0,
            common: 0.0,
        };
        let graph = GraphProto {
            name: Some(name.to_owned()),
            input: vec![float_value(&input.name, &[1, channels, size, size])],
            ..GraphProto::default()
        };
        (Self { weights, graph, totals: Totals::default() }, input)
    }

    /// A convolution, with weights and bias of its own.
    pub(super) fn conv(&mut self, name: &str, x: &Feature, conv: Conv) -> Feature {
        let per_group = x.channels / conv.groups;
        let [rows, columns] = conv.window.kernel;
        let fan_in = per_group * rows * columns;
        let weight = format!("{name}.weight");
        self.filters(&weight, &[conv.out, per_group, rows, columns], x, conv.power);
        let mut inputs = vec![x.name.clone(), weight];
        if conv.bias != Bias::None {
            inputs.push(self.bias(name, conv.out));
        }
        if conv.bias == Bias::Folded {
            self.totals.parameters += conv.out;
        }
        let y = Feature {
            name: name.to_owned(),
            channels: conv.out,
            height: conv.window.out(0, x.height),
            width: conv.window.out(1, x.width),
            power: conv.power,
            common: 0.0,
        };
        self.totals.macs += fan_in * y.channels * y.height * y.width;
        let mut attributes = conv.window.attributes([0; 2]);
        attributes.push(ints("dilations", &[1, 1]));
        attributes.push(int("group", conv.groups));
        self.node("Conv", &y.name, inputs, attributes);
        y
    }

    /// A convolution, its activation after it.
    pub(super) fn conv_relu(&mut self, name: &str, x: &Feature, conv: Conv) -> Feature {
        let y = self.conv(name, x, conv);
        self.relu(&format!("{name}.relu"), &y)
    }

    /// A convolution, `x * sigmoid(x)` after it.
    pub(super) fn conv_swish(&mut self, name: &str, x: &Feature, conv: Conv) -> Feature {
        let y = self.conv(name, x, conv.power(SWISH_POWER));
        self.swish(&format!("{name}.swish"), &y)
    }

    /// A convolution, [`hard_swish`](Self::hard_swish) after it.
    pub(super) fn conv_hard_swish(&mut self, name: &str, x: &Feature, conv: Conv) -> Feature {
        let y = self.conv(name, x, conv.power(SWISH_POWER));
        self.hard_swish(&format!("{name}.hardswish"), &y)
    }

    /// A convolution, [`relu6`](Self::relu6) after it.
    pub(super) fn conv_relu6(&mut self, name: &str, x: &Feature, conv: Conv) -> Feature {
        let y = self.conv(name, x, conv);
        self.relu6(&format!("{name}.relu6"), &y)
    }

    /// A fully connected layer over a vector.
    pub(super) fn linear(&mut self, name: &str, x: &Feature, out: u64) -> Feature {
        let weight = format!("{name}.weight");
        self.filters(&weight, &[out, x.channels], x, 1.0);
        let inputs = vec![x.name.clone(), weight, self.bias(name, out)];
        self.totals.macs += x.channels * out;
        self.node("Gemm", name, inputs, vec![int("transB", 1)]);
        Feature { name: name.to_owned(), channels: out, power: 1.0, common: 0.0, ..*x }
    }

    /// A batch normalisation that nothing can absorb, with the statistics that the input has.
    pub(super) fn batch_norm(&mut self, name: &str, x: &Feature) -> Feature {
        let power = x.power as f32;
        let parts = [
            ("weight", 1.0, 0.2),
            ("bias", 0.0, 0.1),
            ("running_mean", 0.0, 0.1),
            ("running_var", power, power * 0.2),
        ];
        let mut inputs = vec![x.name.clone()];
        for (part, middle, bound) in parts {
            let part = format!("{name}.{part}");
            self.floats(&part, &[x.channels], |stream, count| stream.uniform(count, middle, bound));
            inputs.push(part);
        }
        // Statistics are counted, not learnt.
        self.totals.parameters -= 2 * x.channels;
        self.node("BatchNormalization", name, inputs, vec![float("epsilon", 1e-5)]);
        Feature { name: name.to_owned(), power: 1.0, common: 0.0, ..*x }
    }

    /// `max(x, 0)`.
    pub(super) fn relu(&mut self, name: &str, x: &Feature) -> Feature {
        // The sum of a rectified shortcut and a small branch is positive nearly everywhere.
        let repeated = Effect { keeps: 1.0, common: x.common };
        let effect = if x.common > 0.0 { repeated } else { RECTIFIER };
        self.node("Relu", name, vec![x.name.clone()], vec![]);
        x.after(name, effect)
    }

    /// `min(max(x, 0), 6)`.
    pub(super) fn relu6(&mut self, name: &str, x: &Feature) -> Feature {
        let bounds = [("relu6.min", 0f32), ("relu6.max", 6.0)];
        let mut inputs = vec![x.name.clone()];
        for (constant, value) in bounds {
            self.constant(constant, DType::F32, &[], &value.to_le_bytes());
            inputs.push(constant.to_owned());
        }
        self.node("Clip", name, inputs, vec![]);
        x.after(name, RECTIFIER)
    }

    /// `x * sigmoid(x)`, in two nodes.
    pub(super) fn swish(&mut self, name: &str, x: &Feature) -> Feature {
        let gate = self.sigmoid(&format!("{name}.sigmoid"), x);
        self.node("Mul", name, vec![x.name.clone(), gate.name], vec![]);
        x.after(name, SWISH)
    }

    /// `x * min(max(x / 6 + 1 / 2, 0), 1)`.
    pub(super) fn hard_swish(&mut self, name: &str, x: &Feature) -> Feature {
        self.node("HardSwish", name, vec![x.name.clone()], vec![]);
        x.after(name, SWISH)
    }

    /// A gate between 0 and 1 per channel.
    pub(super) fn sigmoid(&mut self, name: &str, x: &Feature) -> Feature {
        self.node("Sigmoid", name, vec![x.name.clone()], vec![]);
        Feature { name: name.to_owned(), power: GATE, ..*x }
    }

    /// A piecewise linear gate between 0 and 1 per channel.
    pub(super) fn hard_sigmoid(&mut self, name: &str, x: &Feature) -> Feature {
        let slope = vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)];
        self.node("HardSigmoid", name, vec![x.name.clone()], slope);
        Feature { name: name.to_owned(), power: GATE, ..*x }
    }

    /// A map times a gate per channel.
    pub(super) fn scale(&mut self, name: &str, x: &Feature, gate: &Feature) -> Feature {
        self.node("Mul", name, vec![x.name.clone(), gate.name.clone()], vec![]);
        Feature { name: name.to_owned(), power: x.power * gate.power, ..*x }
    }

    /// The sum of two maps of one shape.
    pub(super) fn add(&mut self, name: &str, x: &Feature, y: &Feature) -> Feature {
        self.node("Add", name, vec![x.name.clone(), y.name.clone()], vec![]);
        let power = x.power + y.power;
        let common = x.common.max(y.common);
        Feature { name: name.to_owned(), power, common, ..*x }
    }

    /// Maps of one size, channel after channel.
    pub(super) fn concat(&mut self, name: &str, parts: &[Feature]) -> Feature {
        let first = parts.first().expect("networks join at least two maps");
        let inputs = parts.iter().map(|part| part.name.clone()).collect();
        self.node("Concat", name, inputs, vec![int("axis", 1)]);
        let channels: u64 = parts.iter().map(|part| part.channels).sum();
        let total: f64 = parts.iter().map(|part| part.power * part.channels as f64).sum();
        Feature {
            name: name.to_owned(),
            channels,
            power: total / channels as f64,
            common: parts.iter().map(|part| part.common).fold(0.0, f64::max),
            ..*first
        }
    }

    /// Two halves of the channels.
    pub(super) fn halves(&mut self, name: &str, x: &Feature) -> [Feature; 2] {
        let half = x.channels / 2;
        let sizes = format!("split{half}");
        self.constant(&sizes, DType::I64, &[2], &int64s(&[half, half]));
        let halves = ["first", "second"].map(|part| Feature {
            name: format!("{name}.{part}"),
            channels: half,
            ..*x
        });
        self.node("Split", name, vec![x.name.clone(), sizes], vec![int("axis", 1)]);
        let node = self.graph.node.last_mut().expect("a node was added above");
        node.output = halves.iter().map(|half| half.name.clone()).collect();
        halves
    }

    /// The channels of two groups, in turn: reshape, transpose, reshape.
    pub(super) fn shuffle(&mut self, name: &str, x: &Feature) -> Feature {
        let half = x.channels / 2;
        let (grouped, flat) = ([1, 2, half, x.height, x.width], [1, x.channels, x.height, x.width]);
        let steps = ["group", "transpose"].map(|step| format!("{name}.{step}"));
        let [grouped, flat] = [&grouped[..], &flat[..]].map(|shape| self.shape_constant(shape));
        self.node("Reshape", &steps[0], vec![x.name.clone(), grouped], vec![]);
        let order = ints("perm", &[0, 2, 1, 3, 4]);
        self.node("Transpose", &steps[1], vec![steps[0].clone()], vec![order]);
        self.node("Reshape", name, vec![steps[1].clone(), flat], vec![]);
        Feature { name: name.to_owned(), ..*x }
    }

    /// The largest element of each window.
    pub(super) fn max_pool(&mut self, name: &str, x: &Feature, window: Window) -> Feature {
        self.pool("MaxPool", name, x, window, [0; 2])
    }

    /// As [`max_pool`](Self::max_pool), but the last window may hang over the edge, as frameworks
    /// do in their "ceil mode". Written as padding at the end, which every engine knows.
    pub(super) fn max_pool_ceil(&mut self, name: &str, x: &Feature, window: Window) -> Feature {
        let hang = |axis: usize, size: u64| {
            let covered = (window.out(axis, size) - 1) * window.stride + window.kernel[axis];
            if covered < size { window.stride.saturating_sub(size - covered) } else { 0 }
        };
        let end_pad = [hang(0, x.height), hang(1, x.width)];
        self.pool("MaxPool", name, x, window, end_pad)
    }

    /// The mean of each window, padding counted as zeros.
    pub(super) fn average_pool(&mut self, name: &str, x: &Feature, window: Window) -> Feature {
        let y = self.pool("AveragePool", name, x, window, [0; 2]);
        let node = self.graph.node.last_mut().expect("a node was added above");
        node.attribute.push(int("count_include_pad", 1));
        y
    }

    /// A map of `target` rows and columns by averaging, from one that is a multiple of it: what
    /// frameworks call adaptive pooling. No node where the map already fits.
    pub(super) fn shrink(&mut self, name: &str, x: &Feature, target: u64) -> Feature {
        let factor = x.height / target;
        if factor == 1 {
            return x.clone();
        }
        self.average_pool(name, x, Window::new(factor, factor, 0))
    }

    /// The mean of each channel, as a 1 by 1 map.
    pub(super) fn global_pool(&mut self, name: &str, x: &Feature) -> Feature {
        self.node("GlobalAveragePool", name, vec![x.name.clone()], vec![]);
        Feature { name: name.to_owned(), height: 1, width: 1, ..*x }
    }

    /// All elements as one vector.
    pub(super) fn flatten(&mut self, name: &str, x: &Feature) -> Feature {
        self.node("Flatten", name, vec![x.name.clone()], vec![int("axis", 1)]);
        let channels = x.channels * x.height * x.width;
        Feature { name: name.to_owned(), channels, height: 1, width: 1, ..*x }
    }

    /// Global pooling, then a fully connected layer: how most networks end.
    pub(super) fn classify(&mut self, name: &str, x: &Feature, classes: u64) -> Feature {
        let pooled = self.global_pool("avgpool", x);
        let vector = self.flatten("flatten", &pooled);
        self.linear(name, &vector, classes)
    }

    /// The finished model, answering `answer` under the name `logits`, and what it amounts to.
    pub(super) fn finish(mut self, title: &str, answer: &Feature) -> (ModelProto, Totals) {
        let last = self.graph.node.last_mut().expect("a network has layers");
        last.output = vec!["logits".to_owned()];
        self.graph.output = vec![float_value("logits", &[1, answer.channels])];
        let doc = match self.weights {
            Weights::Random(seed) => {
                format!(
                    "{title} with random weights of seed {seed}: to measure and split, not to recognise"
                )
            }
            Weights::Absent => format!("{title} without weights: to analyse, not to run"),
        };
        let model = ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some("cutline".to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            doc_string: Some(doc),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
            ..ModelProto::default()
        };
        (model, self.totals)
    }

    fn pool(
        &mut self,
        op: &str,
        name: &str,
        x: &Feature,
        window: Window,
        end_pad: [u64; 2],
    ) -> Feature {
        self.node(op, name, vec![x.name.clone()], window.attributes(end_pad));
        Feature {
            name: name.to_owned(),
            height: window.out(0, x.height + end_pad[0]),
            width: window.out(1, x.width + end_pad[1]),
            ..*x
        }
    }

    fn node(&mut self, op: &str, name: &str, input: Vec<String>, attribute: Vec<AttributeProto>) {
        self.graph.node.push(NodeProto {
            input,
            output: vec![name.to_owned()],
            name: Some(name.to_owned()),
            op_type: Some(op.to_owned()),
            attribute,
            ..NodeProto::default()
        });
    }

    /// Filters over `x` whose results have mean square `power`.
    fn filters(&mut self, name: &str, dims: &[u64], x: &Feature, power: f64) {
        let fan_in: u64 = dims[1..].iter().product();
        let balanced = x.common > 0.0 && dims[1] > 1;
        let seen = if balanced { x.power * (1.0 - x.common) } else { x.power };
        let bound = (3.0 * power / (fan_in as f64 * seen)).sqrt() as f32;
        let (rows, columns) = (dims[0] as usize, fan_in as usize);
        self.floats(name, dims, |stream, count| match balanced {
            true => stream.balanced(rows, columns, bound),
            false => stream.uniform(count, 0.0, bound),
        });
    }

    fn bias(&mut self, layer: &str, out: u64) -> String {
        let name = format!("{layer}.bias");
        self.floats(&name, &[out], |stream, count| stream.uniform(count, 0.0, 0.1));
        name
    }

    fn floats(&mut self, name: &str, dims: &[u64], fill: impl FnOnce(&mut Stream, usize) -> Bytes) {
        let count: u64 = dims.iter().product();
        self.totals.parameters += count;
        self.totals.stored += count;
        let tensor = match self.weights {
            Weights::Random(seed) => {
                let data = fill(&mut Stream::new(seed, name), count as usize);
                tensor(name, DType::F32, dims, data)
            }
            Weights::Absent => absent_tensor(name, DType::F32, dims),
        };
        self.graph.initializer.push(tensor);
    }

    fn shape_constant(&mut self, shape: &[u64]) -> String {
        let words: Vec<String> = shape.iter().map(u64::to_string).collect();
        let name = format!("shape{}", words.join("x"));
        self.constant(&name, DType::I64, &[shape.len() as u64], &int64s(shape));
        name
    }

    /// A constant that is not a parameter; stored once however often it is asked for.
    fn constant(&mut self, name: &str, dtype: DType, dims: &[u64], data: &[u8]) {
        if self.graph.initializer.iter().any(|known| known.name.as_deref() == Some(name)) {
            return;
        }
        let data = Bytes::copy_from_slice(data);
        self.graph.initializer.push(tensor(name, dtype, dims, data));
    }
}
