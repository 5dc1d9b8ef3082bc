//! What crosses between the parts, in the form in which it travels.
//!
//! Each part has one encoding for all that it sends on. A value that a part only passes on stays as
//! it came where the encodings of both hops agree; where they differ, the part decodes it and
//! encodes it anew, so that a hop's bytes follow from its sender's encoding alone.
//!
//! ```text
//! part 0, fp16: x ─ Cast ─ x.fp16 ──► part 1, fp16: nothing to do ──► part 2: x.fp16 ─ Cast ─ x
//! ```

use std::collections::{BTreeMap, HashSet};

use super::{Port, SplitError, stages::Stage};
use crate::{
    codec::{CutCodecs, CutEncoding, Quantised, Quantization, is_encodable},
    graph::{Graph, ValueId},
    onnx::proto::{
        AttributeProto, ModelProto, NodeProto, TensorProto, attribute_proto::AttributeType,
    },
    tensor::DType,
};

/// The borders of one part.
#[derive(Debug, Default)]
pub(super) struct Border {
    /// What it reads, by value.
    pub(super) inputs: Vec<Port>,
    /// What it answers: what it passes on in another form, what later parts read of its own, then
    /// outputs of the network.
    pub(super) outputs: Vec<Port>,
    decodes: Vec<Coding>,
    encodes: Vec<Coding>,
}

/// An operator between a value and the form in which it travels.
#[derive(Clone, Debug)]
struct Coding {
    value: String,
    wire: String,
    encoding: CutEncoding,
    quantization: Option<Quantization>,
}

/// Names and shapes of what every part reads and answers.
pub(super) fn derive(
    graph: &Graph,
    stages: &[Stage],
    codecs: &CutCodecs,
) -> Result<Vec<Border>, SplitError> {
    let mut ways = Ways {
        graph,
        stages,
        codecs,
        taken: graph.values().iter().map(|value| value.name.clone()).collect(),
        borders: stages.iter().map(|_| Border::default()).collect(),
    };
    let last_reader = last_readers(stages);
    for (at, stage) in stages.iter().enumerate() {
        for &value in &stage.outputs {
            let sent = match last_reader.get(&value) {
                Some(&last) => ways.follow(value, at, last)?,
                None => None,
            };
            let is_answer = graph.outputs().contains(&value);
            let outputs = &mut ways.borders[at].outputs;
            // An answer goes back as it is, in whatever form it goes on.
            if sent.is_none() || is_answer {
                outputs.push(Port::plain(graph, value));
            }
            outputs.extend(sent);
        }
    }
    for (border, stage) in ways.borders.iter_mut().zip(stages) {
        let inputs = stage.inputs.iter().filter(|id| is_input(graph, **id));
        border.inputs.extend(inputs.map(|&id| Port::plain(graph, id)));
        border.inputs.sort_by_key(|port| port.value);
    }
    Ok(ways.borders)
}

/// By value that an earlier part makes or the network is given, the last part that reads it.
fn last_readers(stages: &[Stage]) -> BTreeMap<ValueId, usize> {
    let reads = stages.iter().enumerate();
    reads.flat_map(|(at, stage)| stage.inputs.iter().map(move |&id| (id, at))).collect()
}

fn is_input(graph: &Graph, id: ValueId) -> bool {
    matches!(graph.value(id).origin, crate::graph::Origin::Input)
}

/// The way of every value from its maker to its last reader.
struct Ways<'a> {
    graph: &'a Graph,
    stages: &'a [Stage],
    codecs: &'a CutCodecs,
    taken: HashSet<String>,
    borders: Vec<Border>,
}

impl Ways<'_> {
    /// Follows a value from the part that makes it; the encoded form that this one sends, if any.
    fn follow(
        &mut self,
        id: ValueId,
        maker: usize,
        last: usize,
    ) -> Result<Option<Port>, SplitError> {
        let plain = Port::plain(self.graph, id);
        let encodes = plain.dtype.is_some_and(is_encodable);
        let mut form = plain.clone();
        if encodes && self.codecs.of(maker).is_lossy() {
            form = self.encode(&plain, maker)?;
        }
        let sent = (form.name != plain.name).then(|| form.clone());
        for at in maker + 1..=last {
            let recoded = encodes && at < last && self.codecs.of(at) != form.encoding;
            if !recoded && !self.stages[at].inputs.contains(&id) {
                continue;
            }
            self.borders[at].inputs.push(form.clone());
            if form.name != plain.name {
                let decode = self.coding(&plain, &form)?;
                self.borders[at].decodes.push(decode);
            }
            if recoded {
                form = self.encode(&plain, at)?;
                self.borders[at].outputs.push(form.clone());
            }
        }
        Ok(sent)
    }

    /// The form in which a part sends a value.
    fn encode(&mut self, plain: &Port, at: usize) -> Result<Port, SplitError> {
        let encoding = self.codecs.of(at);
        let mut name = format!("{}.{encoding}", plain.name);
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        let form = Port { name, encoding, dtype: Some(encoding.dtype()), ..plain.clone() };
        let coding = self.coding(plain, &form)?;
        self.borders[at].encodes.push(coding);
        Ok(form)
    }

    fn coding(&self, plain: &Port, form: &Port) -> Result<Coding, SplitError> {
        let (value, wire, encoding) = (plain.name.clone(), form.name.clone(), form.encoding);
        let quantization = match encoding.is_quantised() {
            true => {
                let quantised = Quantised { value: value.clone(), encoding };
                let known = self.codecs.quantizations.get(&quantised.key()).copied();
                Some(known.ok_or(SplitError::NoScale { value: value.clone(), encoding })?)
            }
            false => None,
        };
        Ok(Coding { value, wire, encoding, quantization })
    }
}

impl Border {
    /// How what it sends on is encoded; `None` where nothing is.
    pub(super) fn encoding(&self) -> Option<CutEncoding> {
        self.encodes.iter().map(|coding| coding.encoding).find(|encoding| encoding.is_lossy())
    }

    /// What stands before the part's own layers.
    pub(super) fn decoders(&self, opset: i64) -> Vec<NodeProto> {
        self.decodes.iter().flat_map(|coding| coding.decode(opset)).collect()
    }

    /// What stands behind them.
    pub(super) fn encoders(&self, opset: i64) -> Vec<NodeProto> {
        self.encodes.iter().flat_map(|coding| coding.encode(opset)).collect()
    }

    /// Scales and zero points, each once.
    pub(super) fn scales(&self, opset: i64) -> Vec<TensorProto> {
        let codings: BTreeMap<&str, &Coding> =
            self.decodes.iter().chain(&self.encodes).map(|c| (c.wire.as_str(), c)).collect();
        codings.into_values().flat_map(|coding| coding.scales(opset)).collect()
    }
}

/// The version of the ONNX operators that a model uses.
pub(super) fn opset(model: &ModelProto) -> i64 {
    let default = model.opset_import.iter().find(|set| matches!(set.domain(), "" | "ai.onnx"));
    default.map_or(1, |set| set.version())
}

/// First version with QuantizeLinear and DequantizeLinear; before, their arithmetic is written out.
const QUANTIZE_OPSET: i64 = 10;

impl Coding {
    fn encode(&self, opset: i64) -> Vec<NodeProto> {
        let Coding { value, wire, encoding, .. } = self;
        let last = |op, inputs: &[&str]| node(op, format!("{wire}.encode"), inputs, wire.clone());
        let step = |op, inputs: &[&str], what| self.step(op, inputs, what);
        let [scale, zero] = &self.parameters();
        match encoding {
            CutEncoding::Fp32 => vec![last("Identity", &[value])],
            CutEncoding::Fp16 => vec![cast(last("Cast", &[value]), DType::F16)],
            _ if opset >= QUANTIZE_OPSET => {
                vec![last("QuantizeLinear", &[value, scale, zero])]
            }
            // Cast cuts off what follows the point, so the half that rounds is part of the offset.
            CutEncoding::Uint8 | CutEncoding::Bits8 | CutEncoding::Bits4 | CutEncoding::Bits2 => {
                let scaled = step("Div", &[value, scale], "scaled");
                let shifted = step("Add", &[&scaled.output[0], &self.offset()], "shifted");
                let mut clipped = step("Clip", &[&shifted.output[0]], "clipped");
                clipped.attribute = vec![float("min", 0.0), float("max", 255.0)];
                let encoded = cast(last("Cast", &[&clipped.output[0]]), DType::U8);
                vec![scaled, shifted, clipped, encoded]
            }
        }
    }

    fn decode(&self, opset: i64) -> Vec<NodeProto> {
        let Coding { value, wire, encoding, .. } = self;
        let last = |op, inputs: &[&str]| node(op, format!("{wire}.decode"), inputs, value.clone());
        let [scale, zero] = &self.parameters();
        match encoding {
            CutEncoding::Fp32 => vec![last("Identity", &[wire])],
            CutEncoding::Fp16 => vec![cast(last("Cast", &[wire]), DType::F32)],
            _ if opset >= QUANTIZE_OPSET => {
                vec![last("DequantizeLinear", &[wire, scale, zero])]
            }
            CutEncoding::Uint8 | CutEncoding::Bits8 | CutEncoding::Bits4 | CutEncoding::Bits2 => {
                let float = cast(self.step("Cast", &[wire], "float"), DType::F32);
                let centred = self.step("Sub", &[&float.output[0], zero], "centred");
                let decoded = last("Mul", &[&centred.output[0], scale]);
                vec![float, centred, decoded]
            }
        }
    }

    /// A layer whose result is called after what was done to the value.
    fn step(&self, op: &str, inputs: &[&str], what: &str) -> NodeProto {
        let name = format!("{}.{what}", self.wire);
        node(op, name.clone(), inputs, name)
    }

    /// Names of scale and zero point.
    fn parameters(&self) -> [String; 2] {
        ["scale", "zero_point"].map(|what| format!("{}.{what}", self.wire))
    }

    /// Name of the zero point and the half that rounds.
    fn offset(&self) -> String {
        format!("{}.offset", self.wire)
    }

    fn scales(&self, opset: i64) -> Vec<TensorProto> {
        let Some(quantization) = self.quantization else { return Vec::new() };
        let scalar = |name: &str, dtype: DType, data: &[u8]| TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(dtype.onnx()),
            raw_data: Some(data.to_vec().into()),
            ..TensorProto::default()
        };
        let [scale, zero] = &self.parameters();
        let number = |name, number: f32| scalar(name, DType::F32, &number.to_le_bytes());
        let scale = number(scale, quantization.scale());
        let byte = quantization.zero_point();
        match opset >= QUANTIZE_OPSET {
            true => vec![scale, scalar(zero, DType::U8, &[byte])],
            false => {
                let float = f32::from(byte);
                vec![scale, number(zero, float), number(&self.offset(), float + 0.5)]
            }
        }
    }
}

fn node(op: &str, name: String, inputs: &[&str], output: String) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(name),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output],
        ..NodeProto::default()
    }
}

fn cast(mut node: NodeProto, to: DType) -> NodeProto {
    node.attribute = vec![AttributeProto {
        name: Some("to".to_owned()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(i64::from(to.onnx())),
        ..AttributeProto::default()
    }];
    node
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Float.into()),
        f: Some(value),
        ..AttributeProto::default()
    }
}
