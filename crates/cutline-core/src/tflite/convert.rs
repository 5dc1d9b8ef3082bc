//! The network under conversion: nodes and weights so far, and in which layouts each tensor is there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    Converted, TfliteError,
    constants::{integers, transposed, widened},
    layout::{Layout, TO_NCHW, TO_NHWC, keeps_order, permuted},
    operators,
    reader::{Network, Operator, Quantisation, Tensor},
};
use crate::{
    onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
        TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
        tensor_shape_proto, type_proto,
    },
    tensor::DType,
};

/// Operator set of the result.
const OPSET: i64 = 17;
/// The file format that came with it.
const IR_VERSION: i64 = 8;
/// Bytes of weights that may be copied, per byte of the file: buffers may be shared by tensors.
const COPIES: usize = 8;

/// A problem in words; who calls an operator's conversion says of which.
pub(super) type Problem = String;

/// A function of the result of an operator, applied before it is quantised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    None,
    /// `min(max(x, low), high)`; no upper bound where it is infinite.
    Clamp(f32, f32),
}

/// Stored elements seen as a weight: in other axes, in another order, and then in other axes again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct View {
    /// The axes that `order` permutes.
    pub(super) seen: Vec<i64>,
    pub(super) order: Vec<usize>,
    pub(super) shape: Vec<i64>,
    /// Where the axis of the scales stands in `shape`.
    pub(super) axis: usize,
}

/// A network under conversion.
pub(super) struct Converter<'a> {
    pub(super) network: &'a Network<'a>,
    graph: GraphProto,
    operator_of: BTreeMap<String, usize>,
    tensor_of: BTreeMap<String, usize>,
    /// The values that hold each tensor: what was made first, then the other layouts that the operator
    /// under conversion asked for.
    forms: Vec<Vec<(Layout, String)>>,
    /// The tensors that this operator asked for in another layout.
    laid_out: Vec<usize>,
    /// The constant of half floats or integers that a tensor is the float form of.
    constant_of: BTreeMap<usize, usize>,
    /// The picture that each flat tensor is.
    flat: BTreeMap<usize, usize>,
    weights: BTreeMap<(usize, View, bool), String>,
    real_weights: BTreeMap<(usize, View), String>,
    /// Initializers of the scale and zero point of each quantised tensor.
    scales: BTreeMap<usize, Vec<String>>,
    names: BTreeSet<String>,
    /// How many names were made of each stem.
    counts: BTreeMap<String, usize>,
    copies: usize,
    operator: usize,
}

/// Converts a network that was read from a file of `length` bytes.
pub(super) fn convert(network: &Network<'_>, length: usize) -> Result<Converted, TfliteError> {
    let mut converter = Converter::new(network, length);
    converter.check_ends()?;
    for (at, operator) in network.operators.iter().enumerate() {
        converter.operator = at;
        converter.operator(operator)?;
    }
    converter.finish()
}

impl<'a> Converter<'a> {
    fn new(network: &'a Network<'a>, length: usize) -> Self {
        let names = network.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let mut forms = vec![Vec::new(); network.tensors.len()];
        let mut tensor_of = BTreeMap::new();
        for &input in &network.inputs {
            let name = network.tensors[input].name.clone();
            tensor_of.insert(name.clone(), input);
            forms[input] = vec![(Layout::Plain, name)];
        }
        Self {
            network,
            graph: GraphProto { name: Some(network.name.clone()), ..GraphProto::default() },
            operator_of: BTreeMap::new(),
            tensor_of,
            forms,
            laid_out: Vec::new(),
            constant_of: BTreeMap::new(),
            flat: BTreeMap::new(),
            weights: BTreeMap::new(),
            real_weights: BTreeMap::new(),
            scales: BTreeMap::new(),
            names,
            counts: BTreeMap::new(),
            copies: length.saturating_mul(COPIES),
            operator: 0,
        }
    }

    /// Fails where an input or output is no tensor of a fixed size.
    fn check_ends(&self) -> Result<(), TfliteError> {
        for &end in self.network.inputs.iter().chain(&self.network.outputs) {
            let tensor = &self.network.tensors[end];
            if let Some(problem) = &tensor.refused {
                let (tensor, problem) = (tensor.name.clone(), problem.clone());
                return Err(TfliteError::Tensor { tensor, problem });
            }
        }
        Ok(())
    }

    fn operator(&mut self, operator: &Operator<'a>) -> Result<(), TfliteError> {
        let network = self.network;
        let output = operator.outputs.first();
        let output = output.map_or("nothing", |&at| network.tensors[at].name.as_str()).to_owned();
        let tensors = operator.inputs.iter().flatten().chain(&operator.outputs);
        for tensor in tensors.map(|&at| &network.tensors[at]) {
            if let Some(problem) = &tensor.refused {
                let (tensor, problem) = (tensor.name.clone(), problem.clone());
                return Err(TfliteError::Tensor { tensor, problem });
            }
        }
        match operators::convert(self, operator) {
            None => {
                let (name, number) = operators::title(operator);
                Err(TfliteError::Operator { name, number, output })
            }
            Some(Err(problem)) => {
                let (name, _) = operators::title(operator);
                Err(TfliteError::Layer { name, output, problem })
            }
            Some(Ok(())) => {
                for &made in &operator.outputs {
                    self.answer(made)?;
                }
                self.forget_layouts();
                Ok(())
            }
        }
    }

    /// Appends what the network answers a tensor with, where that is there in another layout only.
    /// It belongs to the operator that makes the tensor, and nothing in the network reads it.
    fn answer(&mut self, at: usize) -> Result<(), TfliteError> {
        let name = self.tensor(at).name.clone();
        let is_there = |(_, value): &(Layout, String)| *value == name;
        let Some(made) = self.forms[at].first().filter(|form| !is_there(form)).cloned() else {
            return Ok(());
        };
        if self.is_output(at) && !self.tensor_of.contains_key(&name) {
            let problem = |problem| TfliteError::Tensor { tensor: name.clone(), problem };
            self.convert_layout(at, made, Layout::Plain, name.clone()).map_err(problem)?;
            self.tensor_of.insert(name, at);
        }
        Ok(())
    }

    /// Leaves each tensor in the one layout that it was made in, so that whoever reads it brings it
    /// into another by himself, and no other value than this one goes from operator to operator.
    fn forget_layouts(&mut self) {
        for at in self.laid_out.drain(..) {
            self.forms[at].truncate(1);
        }
    }

    fn finish(mut self) -> Result<Converted, TfliteError> {
        for &output in &self.network.outputs {
            let name = self.network.tensors[output].name.clone();
            if self.tensor_of.contains_key(&name) {
                continue;
            }
            let problem = |problem| TfliteError::Tensor { tensor: name.clone(), problem };
            let value = self.value(output, Layout::Plain).map_err(problem)?;
            if self.constant_of.contains_key(&output) {
                // The float form of a constant goes by the name of the constant.
                let makes = |operator: &Operator<'_>| operator.outputs.contains(&output);
                self.operator = self.network.operators.iter().position(makes).unwrap_or_default();
                self.tensor_of.insert(name.clone(), output);
                self.node("Identity", vec![value], vec![name], vec![]);
            }
        }
        let describe = |&at: &usize| value_info(&self.network.tensors[at]);
        self.graph.input = self.network.inputs.iter().map(describe).collect();
        self.graph.output = self.network.outputs.iter().map(describe).collect();
        let opset = OperatorSetIdProto { version: Some(OPSET), ..OperatorSetIdProto::default() };
        let model = ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some("cutline".to_owned()),
            opset_import: vec![opset],
            graph: Some(self.graph),
            ..ModelProto::default()
        };
        Ok(Converted { model, operator_of: self.operator_of, tensor_of: self.tensor_of })
    }

    pub(super) fn tensor(&self, at: usize) -> &'a Tensor {
        &self.network.tensors[at]
    }

    /// Axes of a tensor as the file has them.
    pub(super) fn shape(&self, at: usize) -> &'a [i64] {
        &self.network.tensors[at].shape
    }

    /// Whether a tensor holds quantised bytes.
    pub(super) fn is_stored_integer(&self, at: usize) -> bool {
        matches!(self.tensor(at).dtype, Some(DType::I8 | DType::U8))
            && self.quantisation(at).is_some()
    }

    /// Whether two tensors hold the same real number as the same element, up to what scales lose
    /// where they are computed.
    pub(super) fn similar_scale(&self, left: usize, right: usize) -> bool {
        let (Some(one), Some(other)) = (self.quantisation(left), self.quantisation(right)) else {
            return self.same_scale(left, right);
        };
        let is_near = |(one, other): (&f32, &f32)| (one - other).abs() <= 1e-5 * one;
        self.tensor(left).dtype == self.tensor(right).dtype
            && one.zero_point == other.zero_point
            && one.scale.len() == other.scale.len()
            && one.scale.iter().zip(&other.scale).all(is_near)
    }

    /// The integers that a constant operand holds.
    pub(super) fn integers(&self, at: usize) -> Result<Vec<i64>, Problem> {
        let tensor = self.tensor(at);
        let is_small = tensor.shape.iter().product::<i64>() <= 64;
        let values = integers(tensor).filter(|_| is_small);
        values.ok_or_else(|| format!("its operand `{}` is no constant of integers", tensor.name))
    }

    /// The constant that a tensor is, or is the float form of.
    pub(super) fn constant(&self, at: usize) -> Option<usize> {
        let at = self.constant_of.get(&at).copied().unwrap_or(at);
        self.tensor(at).data.is_some().then_some(at)
    }

    /// Takes a tensor as the float form of a constant, which is made where it is needed.
    pub(super) fn alias(&mut self, at: usize, constant: usize) {
        self.constant_of.insert(at, constant);
    }

    /// Whether a tensor is there in a layout without any work.
    pub(super) fn has(&self, at: usize, layout: Layout) -> bool {
        self.forms[at].iter().any(|(form, _)| *form == layout)
    }

    /// The layout in which a tensor was made; plain for constants.
    pub(super) fn layout(&self, at: usize) -> Layout {
        self.forms[at].first().map_or(Layout::Plain, |(layout, _)| *layout)
    }

    /// The layout of an operator that can work in any: NCHW where one of its operands is.
    pub(super) fn common_layout(&self, operands: &[usize]) -> Layout {
        let is_nchw = |&at: &usize| {
            self.constant(at).is_none()
                && self.layout(at) == Layout::Nchw
                && !self.has(at, Layout::Plain)
        };
        if operands.iter().any(is_nchw) { Layout::Nchw } else { Layout::Plain }
    }

    /// The scales of a quantised tensor.
    pub(super) fn quantisation(&self, at: usize) -> Option<&'a Quantisation> {
        let tensor = self.tensor(at);
        let is_quantised = matches!(tensor.dtype, Some(DType::I8 | DType::U8))
            || tensor.dtype == Some(DType::I32) && tensor.data.is_some();
        tensor.quantisation.as_ref().filter(|_| is_quantised)
    }

    /// Whether two tensors hold the same real number as the same element.
    pub(super) fn same_scale(&self, left: usize, right: usize) -> bool {
        let key = |at| {
            let scale = self.quantisation(at).map(|q| (&q.scale, &q.zero_point));
            (self.tensor(at).dtype, scale)
        };
        key(left) == key(right)
    }

    /// Whether the network answers with a tensor.
    pub(super) fn is_output(&self, at: usize) -> bool {
        self.network.outputs.contains(&at)
    }

    /// A name that no value has.
    pub(super) fn fresh(&mut self, at: usize, role: &str) -> String {
        let stem = format!("{}:{role}", self.tensor(at).name);
        let count = self.counts.entry(stem.clone()).or_default();
        loop {
            *count += 1;
            let name = if *count == 1 { stem.clone() } else { format!("{stem}{count}") };
            if self.names.insert(name.clone()) {
                return name;
            }
        }
    }

    /// Appends a node, which is named after its first result.
    pub(super) fn node(
        &mut self,
        op: &str,
        inputs: Vec<String>,
        outputs: Vec<String>,
        attribute: Vec<AttributeProto>,
    ) {
        let name = outputs.first().cloned();
        self.operator_of.insert(name.clone().unwrap_or_default(), self.operator);
        self.graph.node.push(NodeProto {
            input: inputs,
            output: outputs,
            name,
            op_type: Some(op.to_owned()),
            attribute,
            ..NodeProto::default()
        });
    }

    /// Appends a node whose result is a step on the way to a tensor, and names that result.
    pub(super) fn step(
        &mut self,
        towards: usize,
        op: &str,
        inputs: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) -> String {
        let name = self.fresh(towards, &op.to_lowercase());
        self.node(op, inputs, vec![name.clone()], attributes);
        name
    }

    /// A value with the same elements in other axes.
    pub(super) fn reshaped(&mut self, towards: usize, value: String, shape: &[i64]) -> String {
        let shape = self.int64s(towards, shape);
        self.step(towards, "Reshape", vec![value, shape], vec![])
    }

    fn initializer(&mut self, name: String, dtype: DType, dims: &[i64], data: Bytes) -> String {
        self.graph.initializer.push(TensorProto {
            dims: dims.to_vec(),
            data_type: Some(dtype.onnx()),
            name: Some(name.clone()),
            raw_data: Some(data),
            ..TensorProto::default()
        });
        name
    }

    /// A constant vector of integers for a node on the way to a tensor.
    pub(super) fn int64s(&mut self, towards: usize, values: &[i64]) -> String {
        let name = self.fresh(towards, "ints");
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, DType::I64, &[values.len() as i64], data.into())
    }

    /// A constant number for a node on the way to a tensor.
    pub(super) fn float(&mut self, towards: usize, value: f32) -> String {
        let name = self.fresh(towards, "float");
        self.initializer(name, DType::F32, &[], value.to_le_bytes().to_vec().into())
    }

    /// The value that holds a tensor as it is stored, in a layout.
    pub(super) fn value(&mut self, at: usize, layout: Layout) -> Result<String, Problem> {
        if let Some((_, name)) = self.forms[at].iter().find(|(form, _)| *form == layout) {
            return Ok(name.clone());
        }
        if self.constant_of.contains_key(&at) {
            return self.real(at, layout);
        }
        let Some((made, name)) = self.forms[at].first().cloned() else {
            if self.tensor(at).data.is_none() {
                return Err(format!("nothing makes its operand `{}`", self.tensor(at).name));
            }
            let view = self.view(at, layout);
            let name = self.weight(at, &view, false)?;
            self.forms[at].push((layout, name.clone()));
            return Ok(name);
        };
        let target = self.fresh(at, if layout == Layout::Nchw { "nchw" } else { "nhwc" });
        self.convert_layout(at, (made, name), layout, target.clone())?;
        self.tensor_of.insert(target.clone(), at);
        self.forms[at].push((layout, target.clone()));
        self.laid_out.push(at);
        Ok(target)
    }

    /// Appends what makes one layout of a tensor from another.
    fn convert_layout(
        &mut self,
        at: usize,
        (made, name): (Layout, String),
        layout: Layout,
        target: String,
    ) -> Result<(), Problem> {
        let shape = self.shape(at);
        match (made, layout) {
            (Layout::Plain, Layout::Nchw) | (Layout::Nchw, Layout::Plain) if shape.len() == 4 => {
                let to_nchw = layout == Layout::Nchw;
                if keeps_order(shape, &TO_NCHW) {
                    let shape = self.int64s(at, &layout.arrange(shape));
                    self.node("Reshape", vec![name, shape], vec![target], vec![]);
                } else {
                    let order = if to_nchw { TO_NCHW } else { TO_NHWC };
                    self.node("Transpose", vec![name], vec![target], vec![perm(&order)]);
                }
                Ok(())
            }
            _ => Err(format!("`{}` has {} axes, not four", self.tensor(at).name, shape.len())),
        }
    }

    /// A value with the elements of a tensor in the order of the file, in whatever axes.
    pub(super) fn in_order(&mut self, at: usize) -> Result<String, Problem> {
        if !self.has(at, Layout::Plain)
            && self.has(at, Layout::Nchw)
            && keeps_order(self.shape(at), &TO_NCHW)
        {
            return self.value(at, Layout::Nchw);
        }
        self.value(at, Layout::Plain)
    }

    /// A constant as it is, in a layout.
    fn view(&self, at: usize, layout: Layout) -> View {
        let shape = self.shape(at);
        let order: Vec<usize> = match layout {
            Layout::Nchw if shape.len() == 4 => TO_NCHW.to_vec(),
            _ => (0..shape.len()).collect(),
        };
        self.permuted_view(at, &order)
    }

    /// A constant with its axes in another order.
    pub(super) fn permuted_view(&self, at: usize, order: &[usize]) -> View {
        let seen = self.shape(at).to_vec();
        let shape = permuted(&seen, order);
        let axis = self.tensor(at).quantisation.as_ref().map_or(0, |q| q.axis);
        let axis = order.iter().position(|&from| from == axis).unwrap_or(0);
        View { seen, order: order.to_vec(), shape, axis }
    }

    /// The initializer that holds a constant as a view says; `wide` turns half floats into floats.
    fn weight(&mut self, at: usize, view: &View, wide: bool) -> Result<String, Problem> {
        let wide = wide && self.tensor(at).dtype == Some(DType::F16);
        let key = (at, view.clone(), wide);
        if let Some(name) = self.weights.get(&key) {
            return Ok(name.clone());
        }
        let tensor = self.tensor(at);
        let (Some(data), Some(dtype)) = (&tensor.data, tensor.dtype) else {
            return Err(format!("its operand `{}` is no constant", tensor.name));
        };
        let mut data = data.clone();
        if !keeps_order(&view.seen, &view.order) {
            self.charge(data.len())?;
            let size = dtype.size().unwrap_or(1) as usize;
            data = transposed(&data, &view.seen, &view.order, size).into();
        }
        if wide {
            self.charge(2 * data.len())?;
            data = widened(&data);
        }
        // Under the name of an answer there must be the answer.
        let is_as_stored = view.shape == tensor.shape && view.order.is_sorted() && !wide;
        let is_first =
            !self.tensor_of.contains_key(&tensor.name) && (is_as_stored || !self.is_output(at));
        let name = if is_first { tensor.name.clone() } else { self.fresh(at, "weights") };
        self.tensor_of.insert(name.clone(), at);
        let dtype = if wide { DType::F32 } else { dtype };
        let name = self.initializer(name, dtype, &view.shape, data);
        self.weights.insert(key, name.clone());
        Ok(name)
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Problem> {
        let rest = self.copies.checked_sub(bytes);
        self.copies = rest.ok_or("many tensors share one buffer, which would need much memory")?;
        Ok(())
    }

    /// A constant as real numbers.
    pub(super) fn real_weight(&mut self, at: usize, view: &View) -> Result<String, Problem> {
        let at = self.constant(at).unwrap_or(at);
        let stored = self.weight(at, view, true)?;
        let Some(quantisation) = self.quantisation(at) else { return Ok(stored) };
        let key = (at, view.clone());
        if let Some(name) = self.real_weights.get(&key) {
            return Ok(name.clone());
        }
        let name = self.fresh(at, "real");
        self.dequantize(at, quantisation, view.axis, stored, name.clone());
        self.real_weights.insert(key, name.clone());
        Ok(name)
    }

    fn dequantize(
        &mut self,
        at: usize,
        quantisation: &Quantisation,
        axis: usize,
        stored: String,
        real: String,
    ) {
        let mut inputs = vec![stored];
        inputs.extend(self.scales(at, quantisation));
        let per_axis = quantisation.scale.len() > 1;
        let attributes = if per_axis { vec![int("axis", axis as i64)] } else { vec![] };
        self.node("DequantizeLinear", inputs, vec![real], attributes);
    }

    /// Initializers of a tensor's scale and, but for 32-bit integers, zero point.
    fn scales(&mut self, at: usize, quantisation: &Quantisation) -> Vec<String> {
        if let Some(names) = self.scales.get(&at) {
            return names.clone();
        }
        let scale = &quantisation.scale;
        let dims: &[i64] = if scale.len() > 1 { &[scale.len() as i64] } else { &[] };
        let data: Vec<u8> = scale.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let name = self.fresh(at, "scale");
        let mut names = vec![self.initializer(name, DType::F32, dims, data.into())];
        if let Some(dtype @ (DType::I8 | DType::U8)) = self.tensor(at).dtype {
            let points = quantisation.zero_point.iter().cycle().take(scale.len());
            let data: Vec<u8> = points.map(|&point| point as u8).collect();
            let name = self.fresh(at, "zero_point");
            names.push(self.initializer(name, dtype, dims, data.into()));
        }
        self.scales.insert(at, names.clone());
        names
    }

    /// The value that holds a tensor as real numbers, in a layout; integers that stand for
    /// themselves stay as they are.
    pub(super) fn real(&mut self, at: usize, layout: Layout) -> Result<String, Problem> {
        if let Some(constant) = self.constant(at) {
            let view = self.view(constant, layout);
            return self.real_weight(at, &view);
        }
        let stored = self.value(at, layout)?;
        self.real_of(at, stored)
    }

    /// The same for a value that holds a tensor's stored elements.
    pub(super) fn real_of(&mut self, at: usize, stored: String) -> Result<String, Problem> {
        let Some(quantisation) = self.quantisation(at) else { return Ok(stored) };
        self.check_activation(at, quantisation)?;
        let name = self.fresh(at, "real");
        self.dequantize(at, quantisation, 0, stored, name.clone());
        Ok(name)
    }

    fn check_activation(&self, at: usize, quantisation: &Quantisation) -> Result<(), Problem> {
        let name = &self.tensor(at).name;
        if quantisation.scale.len() > 1 {
            return Err(format!("`{name}` has a scale per channel, which only weights may have"));
        }
        if quantisation.scale[0] <= 0.0 {
            return Err(format!("the scale of `{name}` is not positive"));
        }
        Ok(())
    }

    /// The name of the value that will hold a tensor in a layout, as its first form.
    fn place(&mut self, at: usize, layout: Layout) -> Result<String, Problem> {
        let name = &self.tensor(at).name;
        if !self.forms[at].is_empty() || self.tensor(at).data.is_some() {
            return Err(format!("`{name}` is made twice"));
        }
        let keeps_name = layout == Layout::Plain || !self.is_output(at);
        let name = if keeps_name { name.clone() } else { self.fresh(at, "nchw") };
        self.tensor_of.insert(name.clone(), at);
        self.forms[at].push((layout, name.clone()));
        Ok(name)
    }

    /// Appends the node that makes a tensor's real numbers, and what follows on it: the activation,
    /// and quantisation.
    pub(super) fn make(
        &mut self,
        (at, layout): (usize, Layout),
        activation: Activation,
        op: &str,
        inputs: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) -> Result<(), Problem> {
        let real = self.begin(at, layout, activation)?;
        self.node(op, inputs, vec![real.clone()], attributes);
        self.end(at, activation, real);
        Ok(())
    }

    /// The name for a tensor's real numbers, before activation and quantisation; [`end`](Self::end)
    /// appends those.
    pub(super) fn begin(
        &mut self,
        at: usize,
        layout: Layout,
        activation: Activation,
    ) -> Result<String, Problem> {
        let placed = self.place(at, layout)?;
        let quantisation = self.quantisation(at);
        quantisation.map(|it| self.check_activation(at, it)).transpose()?;
        let is_last = quantisation.is_none() && self.needed(at, activation).is_none();
        Ok(if is_last { placed } else { self.fresh(at, "made") })
    }

    /// Appends activation and quantisation of a tensor, whose real numbers are there.
    pub(super) fn end(&mut self, at: usize, activation: Activation, mut real: String) {
        let placed = self.forms[at][0].1.clone();
        let quantisation = self.quantisation(at);
        if let Some(activation) = self.needed(at, activation) {
            let target = match quantisation {
                Some(_) => self.fresh(at, "clamped"),
                None => placed.clone(),
            };
            self.activate(at, activation, real, target.clone());
            real = target;
        }
        if let Some(quantisation) = quantisation {
            let mut inputs = vec![real];
            inputs.extend(self.scales(at, quantisation));
            self.node("QuantizeLinear", inputs, vec![placed], vec![]);
        }
    }

    /// Appends the quantisation of real numbers to a tensor.
    pub(super) fn quantize(
        &mut self,
        (at, layout): (usize, Layout),
        real: String,
    ) -> Result<(), Problem> {
        self.begin(at, layout, Activation::None)?;
        self.end(at, Activation::None, real);
        Ok(())
    }

    /// Appends what makes a tensor from the stored elements of a quantised one.
    pub(super) fn make_real(
        &mut self,
        (at, layout): (usize, Layout),
        quantised: usize,
        stored: String,
    ) -> Result<(), Problem> {
        let Some(quantisation) = self.quantisation(quantised) else {
            return Err(format!("`{}` has no scale", self.tensor(quantised).name));
        };
        self.check_activation(quantised, quantisation)?;
        let name = self.place(at, layout)?;
        self.dequantize(quantised, quantisation, 0, stored, name);
        Ok(())
    }

    /// Notes that a flat tensor holds the rows of a picture.
    pub(super) fn remember_flat(&mut self, at: usize, picture: usize) {
        self.flat.insert(at, picture);
    }

    /// A flat tensor's value, with height, width and channels of its rows.
    pub(super) fn flat(&self, at: usize) -> Option<(String, [i64; 3])> {
        let &[_, height, width, channels] = self.shape(*self.flat.get(&at)?) else { return None };
        let (_, name) = self.forms[at].first()?;
        Some((name.clone(), [height, width, channels]))
    }

    /// Appends a node that moves stored elements, where the result has the operand's scale.
    pub(super) fn make_stored(
        &mut self,
        (at, layout): (usize, Layout),
        op: &str,
        inputs: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) -> Result<(), Problem> {
        let name = self.place(at, layout)?;
        self.node(op, inputs, vec![name], attributes);
        Ok(())
    }

    /// A scale and a zero point of 0, for the stored integers of a tensor as they are.
    pub(super) fn plain_scale(&mut self, at: usize, scale: f32) -> Vec<String> {
        let one = self.float(at, scale);
        let zero = self.fresh(at, "zero");
        let dtype = self.tensor(at).dtype.unwrap_or(DType::I8);
        vec![one, self.initializer(zero, dtype, &[], Bytes::from_static(&[0]))]
    }

    /// The least and greatest integer that an activation lets through, where it changes any.
    pub(super) fn stored_clamp(&self, at: usize, activation: Activation) -> Option<(f32, f32)> {
        let Some(Activation::Clamp(low, high)) = self.needed(at, activation) else { return None };
        let quantisation = self.quantisation(at)?;
        let (scale, zero) = (quantisation.scale[0], quantisation.zero_point[0] as f32);
        Some(((low / scale).round() + zero, (high / scale).round() + zero))
    }

    /// The activation of a tensor, unless the range of its integers makes it superfluous.
    fn needed(&self, at: usize, activation: Activation) -> Option<Activation> {
        let Activation::Clamp(low, high) = activation else {
            return (activation != Activation::None).then_some(activation);
        };
        let Some(quantisation) = self.quantisation(at) else { return Some(activation) };
        let (scale, zero) = (quantisation.scale[0], quantisation.zero_point[0] as f32);
        let (least, most) =
            if self.tensor(at).dtype == Some(DType::I8) { (-128.0, 127.0) } else { (0.0, 255.0) };
        let stored = |real: f32| (real / scale).round() + zero;
        (stored(low) > least || stored(high) < most).then_some(activation)
    }

    fn activate(&mut self, at: usize, activation: Activation, input: String, output: String) {
        match activation {
            Activation::Clamp(0.0, f32::INFINITY) => {
                self.node("Relu", vec![input], vec![output], vec![]);
            }
            Activation::Clamp(low, high) => {
                let bounds = [self.float(at, low), self.float(at, high)];
                let inputs = [input].into_iter().chain(bounds).collect();
                self.node("Clip", inputs, vec![output], vec![]);
            }
            Activation::None => self.node("Identity", vec![input], vec![output], vec![]),
        }
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(kind as i32),
        ..AttributeProto::default()
    }
}

/// An integer attribute.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

/// A float attribute.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

/// An attribute of several integers.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

/// An attribute that is a word.
pub(super) fn word(name: &str, value: &'static str) -> AttributeProto {
    let s = Some(Bytes::from_static(value.as_bytes()));
    AttributeProto { s, ..attribute(name, AttributeType::String) }
}

/// The order of the axes for a `Transpose`.
pub(super) fn perm(order: &[usize]) -> AttributeProto {
    ints("perm", &order.iter().map(|&axis| axis as i64).collect::<Vec<_>>())
}

/// An input or output of the network.
fn value_info(tensor: &Tensor) -> ValueInfoProto {
    let dim = |&size: &i64| tensor_shape_proto::Dimension {
        denotation: None,
        value: Some(tensor_shape_proto::dimension::Value::DimValue(size)),
    };
    let kind = type_proto::Tensor {
        elem_type: tensor.dtype.map(DType::onnx),
        shape: Some(TensorShapeProto { dim: tensor.shape.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(tensor.name.clone()),
        r#type: Some(TypeProto {
            denotation: None,
            value: Some(type_proto::Value::TensorType(kind)),
        }),
        ..ValueInfoProto::default()
    }
}
