//! The network as a weightless, acyclic graph of layers.
//!
//! A [`Graph`] holds what a layer computes, from which values, and how large they are; never a
//! weight. Layers stand in topological order by construction: [`GraphBuilder::layer`] takes only
//! ids of values that already exist, so no cycle can be expressed.
//!
//! ```text
//! values:  data ─┐            ┌─ w1 (weight)
//! layers:        conv1 ── relu1 ── conv2 ── ...
//! ```

use serde::{Deserialize, Serialize};

use crate::{
    op::Op,
    tensor::{DType, Shape, byte_size},
    units::{Bytes, Macs, newtype},
};

newtype! {
    /// A layer of one [`Graph`].
    id LayerId
}
newtype! {
    /// A value of one [`Graph`].
    id ValueId
}

/// Largest constant whose data a graph keeps: enough for shapes, axes, pads and scales.
pub const SMALL_CONSTANT: Bytes = Bytes(1024);

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The network reads it.
    Input,
    /// The model file stores it.
    Weight,
    /// This layer computes it.
    Layer(LayerId),
}

/// A named tensor: its type as far as known, where it comes from, and its data if that is small
/// and the same in every run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// Name in the model file; unique in the graph.
    pub name: String,
    /// Element type, where known.
    pub dtype: Option<DType>,
    /// Shape, where known; a value of unknown shape is never a candidate for a cut.
    pub shape: Option<Shape>,
    /// Who makes it.
    pub origin: Origin,
    /// Little-endian data of a constant of at most [`SMALL_CONSTANT`]: a small weight, or the
    /// result of shape arithmetic whose inputs are all known.
    pub constant: Option<Vec<u8>>,
}

impl Value {
    /// Size of the dense tensor, where type and shape are known.
    pub fn bytes(&self) -> Option<Bytes> {
        byte_size(self.dtype?, self.shape.as_ref()?)
    }
}

/// What a quantised value stands for: `real = scale * (stored - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Real size of one step; positive.
    pub scale: f32,
    /// The stored integer that stands for 0.
    pub zero_point: i32,
}

/// Who runs a layer when a network is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Real work: it has exactly one place.
    Compute,
    /// Shape arithmetic, or a computation on weights alone: it belongs to whoever needs its
    /// result, is never cut and never sent.
    Replicated,
}

/// One operator application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The ONNX node name where unique, else the first output's name.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Operands in order; `None` where an optional one is omitted.
    pub inputs: Vec<Option<ValueId>>,
    /// Values of this graph that its subgraphs (`If`, `Loop`, `Scan`) read.
    pub captures: Vec<ValueId>,
    /// Results in order; `None` where an optional one is omitted.
    pub outputs: Vec<Option<ValueId>>,
    /// Multiply-accumulates of one run at the graph's shapes; 0 where there are none or the
    /// operator is opaque.
    pub macs: Macs,
    /// Whether it has one place or is replicated.
    pub role: Role,
    /// Position of the node in the model file's list.
    pub node: usize,
}

impl Layer {
    /// Every value that the layer reads: operands, then captures.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().flatten().chain(&self.captures).copied()
    }

    /// Every value that the layer makes.
    pub fn makes(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.outputs.iter().flatten().copied()
    }
}

/// A network: values, and layers in topological order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Graph {
    name: String,
    values: Vec<Value>,
    layers: Vec<Layer>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

impl Graph {
    /// Name in the model file, possibly empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Layers in topological order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Ids of the layers in topological order.
    pub fn layer_ids(&self) -> impl Iterator<Item = LayerId> + use<> {
        (0..self.layers.len()).map(LayerId::new)
    }

    /// The layer behind an id.
    pub fn layer(&self, id: LayerId) -> &Layer {
        &self.layers[id.index()]
    }

    /// All values: inputs, weights and results.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The value behind an id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// What the network reads, weights excluded.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// What the network answers.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The value of this name. O(n).
    pub fn find_value(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|value| value.name == name).map(ValueId::new)
    }

    /// The layer of this name. O(n).
    pub fn find_layer(&self, name: &str) -> Option<LayerId> {
        self.layers.iter().position(|layer| layer.name == name).map(LayerId::new)
    }

    /// What a quantised value stands for, as the layer says that quantises it or one that
    /// dequantises it, also where the value is transposed or reshaped in between; `None` where it is
    /// not quantised, or with several scales. O(layers).
    pub fn scale(&self, id: ValueId) -> Option<Scale> {
        let mut made = id;
        for layer in self.layers.iter().rev().filter(|layer| layer.role == Role::Compute) {
            if layer.makes().next() != Some(made) {
                continue;
            }
            match layer.op {
                Op::Quantize(_) => return self.operand_scale(layer),
                _ if layer.op.moves_elements() => made = layer.inputs.first().copied()??,
                _ => break,
            }
        }
        let mut same = vec![made];
        for layer in &self.layers {
            match layer.inputs.first().copied().flatten() {
                Some(read) if same.contains(&read) => match layer.op {
                    Op::Dequantize => return self.operand_scale(layer),
                    _ if layer.op.moves_elements() => same.extend(layer.makes()),
                    _ => {}
                },
                _ => {}
            }
        }
        None
    }

    /// The constant scale and zero point of a layer that quantises or dequantises.
    fn operand_scale(&self, layer: &Layer) -> Option<Scale> {
        let constant = |at: usize| {
            let value = self.value(layer.inputs.get(at).copied()??);
            Some((value.dtype?, value.constant.as_deref()?))
        };
        let scale = match constant(1)? {
            (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            _ => return None,
        };
        let zero_point = match constant(2) {
            Some((DType::I8, &[byte])) => i32::from(byte as i8),
            Some((DType::U8, &[byte])) => i32::from(byte),
            None => 0,
            Some(_) => return None,
        };
        (scale > 0.0 && scale.is_finite()).then_some(Scale { scale, zero_point })
    }

    /// Layers that read each value, by value index, each list ascending.
    pub fn readers(&self) -> Vec<Vec<LayerId>> {
        let mut readers = vec![Vec::new(); self.values.len()];
        for id in self.layer_ids() {
            for value in self.layer(id).reads() {
                let list: &mut Vec<LayerId> = &mut readers[value.index()];
                if list.last() != Some(&id) {
                    list.push(id);
                }
            }
        }
        readers
    }

    /// Bytes of the weights that a layer reads itself (not through replicated layers).
    pub fn parameter_bytes(&self, layer: &Layer) -> Bytes {
        let weights = layer.reads().map(|id| self.value(id));
        weights.filter(|value| value.origin == Origin::Weight).filter_map(Value::bytes).sum()
    }
}

/// Builds a [`Graph`] in topological order.
#[derive(Debug)]
pub struct GraphBuilder(Graph);

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self(Graph {
            name: name.into(),
            values: Vec::new(),
            layers: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        })
    }

    /// Adds a network input.
    pub fn input(
        &mut self,
        name: impl Into<String>,
        dtype: Option<DType>,
        shape: Option<Shape>,
    ) -> ValueId {
        let id = self.value(name.into(), dtype, shape, Origin::Input);
        self.0.inputs.push(id);
        id
    }

    /// Adds a stored weight.
    pub fn weight(
        &mut self,
        name: impl Into<String>,
        dtype: Option<DType>,
        shape: Option<Shape>,
    ) -> ValueId {
        self.value(name.into(), dtype, shape, Origin::Weight)
    }

    /// Adds a layer over existing values, and its results, of unknown type until
    /// [`set_type`](Self::set_type). `outputs` names them, `None` for an omitted one.
    pub fn layer(
        &mut self,
        name: impl Into<String>,
        op: Op,
        node: usize,
        inputs: Vec<Option<ValueId>>,
        captures: Vec<ValueId>,
        outputs: Vec<Option<String>>,
    ) -> LayerId {
        let id = LayerId::new(self.0.layers.len());
        let known = self.0.values.len();
        debug_assert!(inputs.iter().flatten().chain(&captures).all(|value| value.index() < known));
        let outputs = outputs
            .into_iter()
            .map(|name| Some(self.value(name?, None, None, Origin::Layer(id))))
            .collect();
        self.0.layers.push(Layer {
            name: name.into(),
            op,
            inputs,
            captures,
            outputs,
            macs: Macs::ZERO,
            role: Role::Compute,
            node,
        });
        id
    }

    /// Declares a network output.
    pub fn output(&mut self, value: ValueId) {
        self.0.outputs.push(value);
    }

    /// Records what is known of a value's type.
    pub fn set_type(&mut self, value: ValueId, dtype: Option<DType>, shape: Option<Shape>) {
        let value = &mut self.0.values[value.index()];
        value.dtype = dtype;
        value.shape = shape;
    }

    /// Records the data of a small constant; larger ones are ignored.
    pub fn set_constant(&mut self, value: ValueId, data: Vec<u8>) {
        if data.len() as u64 <= SMALL_CONSTANT.0 {
            self.0.values[value.index()].constant = Some(data);
        }
    }

    /// Records a layer's multiply-accumulates.
    pub fn set_macs(&mut self, layer: LayerId, macs: Macs) {
        self.0.layers[layer.index()].macs = macs;
    }

    /// Records a layer's role.
    pub fn set_role(&mut self, layer: LayerId, role: Role) {
        self.0.layers[layer.index()].role = role;
    }

    /// The graph so far, e.g. to infer the next layer's shapes from.
    pub fn graph(&self) -> &Graph {
        &self.0
    }

    /// The finished graph.
    pub fn build(self) -> Graph {
        self.0
    }

    fn value(
        &mut self,
        name: String,
        dtype: Option<DType>,
        shape: Option<Shape>,
        origin: Origin,
    ) -> ValueId {
        let id = ValueId::new(self.0.values.len());
        self.0.values.push(Value { name, dtype, shape, origin, constant: None });
        id
    }
}
