//! From the nodes of an ONNX model to operators of TFLite.
//!
//! A map of `N x C x H x W` becomes one of `N x H x W x C`, the groups of a channel shuffle likewise.
//! A vector that was flattened from a map then has its elements in another order, which the weights of
//! the fully connected layer that reads it take over. A rectifier that alone reads a convolution, a
//! fully connected layer or a sum becomes part of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::schema::tflite::{
        ActivationFunctionType as Activation, ActivationOptions, BuiltinOperator as Code,
        BuiltinOptions as Options, ConcatenationOptions, Conv2DOptions, DepthwiseConv2DOptions,
        FullyConnectedOptions, NoOptions, Padding, PartsOptions, Pool2DOptions, ReducerOptions,
        ReshapeOptions, SoftmaxOptions, SumOptions,
    },
    ADDED, Data, Network, Operator, Tensor, WriteError,
    window::Window,
};
use crate::{
    graph::Graph,
    onnx::{
        ImportOptions, import,
        proto::{ModelProto, NodeProto, TensorProto},
    },
};

/// Why a layer is refused, in words.
type Refusal = String;

impl Network {
    /// The network in the operators of the format, with floats. Takes a convolutional network for one
    /// frame whose weights are in the model; memory for its weights. O(nodes + weights).
    pub fn lower(model: &ModelProto) -> Result<Self, WriteError> {
        let graph = import(model, &ImportOptions::default())?;
        let nodes = model.graph.as_ref().map_or(&[][..], |graph| &graph.node);
        let mut lowering = Lowering::new(model, &graph);
        for (at, node) in nodes.iter().enumerate() {
            if !lowering.fused.contains(&at) {
                lowering.node(node, nodes).map_err(|why| WriteError::Layer {
                    layer: node.name().to_owned(),
                    operator: node.op_type().to_owned(),
                    why,
                })?;
            }
        }
        lowering.finish()
    }
}

struct Lowering<'a> {
    graph: &'a Graph,
    weights: BTreeMap<&'a str, &'a TensorProto>,
    /// How many nodes read a value, and whether it is an output.
    uses: BTreeMap<&'a str, usize>,
    network: Network,
    /// Tensor of each value.
    places: BTreeMap<String, usize>,
    /// Vectors in the order of a map with its channels last: channels, and pixels.
    flattened: BTreeMap<usize, [usize; 2]>,
    /// Tensors without an element below 0.
    positive: BTreeSet<usize>,
    /// Nodes that became part of those before them.
    fused: BTreeSet<usize>,
}

impl<'a> Lowering<'a> {
    fn new(model: &'a ModelProto, graph: &'a Graph) -> Self {
        let proto = model.graph.as_ref();
        let initializers = proto.map_or(&[][..], |graph| &graph.initializer);
        let weights = initializers.iter().map(|tensor| (tensor.name(), tensor)).collect();
        let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
        let read = proto.iter().flat_map(|graph| &graph.node).flat_map(|node| &node.input);
        let answered = proto.iter().flat_map(|graph| &graph.output).map(|output| output.name());
        for name in read.map(String::as_str).chain(answered) {
            *uses.entry(name).or_default() += 1;
        }
        let network = Network {
            name: graph.name().to_owned(),
            tensors: Vec::new(),
            operators: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let mut lowering = Self {
            graph,
            weights,
            uses,
            network,
            places: BTreeMap::new(),
            flattened: BTreeMap::new(),
            positive: BTreeSet::new(),
            fused: BTreeSet::new(),
        };
        for &input in graph.inputs() {
            let value = graph.value(input);
            let shape = value.shape.iter().flat_map(|shape| &shape.0).map(|&axis| axis as i64);
            let tensor = lowering.tensor(&value.name, last(shape.collect()), Data::Made);
            lowering.places.insert(value.name.clone(), tensor);
            lowering.network.inputs.push(tensor);
        }
        lowering
    }

    fn finish(mut self) -> Result<Network, WriteError> {
        for &output in self.graph.outputs() {
            let name = &self.graph.value(output).name;
            let place = self.places.get(name).copied();
            match place.filter(|place| !self.flattened.contains_key(place)) {
                Some(place) => self.network.outputs.push(place),
                None => {
                    return Err(WriteError::Layer {
                        layer: name.clone(),
                        operator: "output".to_owned(),
                        why: "it is no tensor of the network, or a flattened map".to_owned(),
                    });
                }
            }
        }
        Ok(self.network)
    }

    fn node(&mut self, node: &NodeProto, nodes: &[NodeProto]) -> Result<(), Refusal> {
        match node.op_type() {
            "Conv" => self.conv(node, nodes),
            "BatchNormalization" => self.norm(node, nodes),
            "Gemm" => self.gemm(node, nodes),
            "MaxPool" | "AveragePool" => self.pool(node),
            "GlobalAveragePool" => self.mean(node),
            "Add" | "Mul" => self.binary(node, nodes),
            "Relu" | "Clip" => {
                let code = match self.rectifier(node)? {
                    Activation::Relu6 => Code::Relu6,
                    _ => Code::Relu,
                };
                let made = self.unary(node, code, None)?;
                self.positive.insert(made);
                Ok(())
            }
            "HardSwish" => self.unary(node, Code::HardSwish, None).map(drop),
            "Sigmoid" => {
                let made = self.unary(node, Code::Logistic, None)?;
                self.network.tensors[made].known = Some([0.0, 255.0 / 256.0]);
                self.positive.insert(made);
                Ok(())
            }
            "HardSigmoid" => self.hard_sigmoid(node),
            "Softmax" => {
                let (x, _) = self.vector(node, 0)?;
                if ![-1, self.shape(x).len() as i64 - 1].contains(&int(node, "axis", -1)) {
                    return Err("it is not over the last axis".to_owned());
                }
                let options = Options::SoftmaxOptions(Box::new(SoftmaxOptions { beta: 1.0 }));
                let made = self.unary(node, Code::Softmax, Some(options))?;
                self.network.tensors[made].known = Some([0.0, 255.0 / 256.0]);
                Ok(())
            }
            "Concat" => self.concat(node),
            "Split" => self.split(node),
            "Flatten" | "Reshape" => self.reshape(node),
            "Transpose" => self.transpose(node),
            "Identity" | "Dropout" => {
                let x = self.input(node, 0)?;
                self.places.insert(output(node).to_owned(), x);
                Ok(())
            }
            _ => Err("no operator for it is written".to_owned()),
        }
    }

    // Layers with weights.

    fn conv(&mut self, node: &NodeProto, nodes: &[NodeProto]) -> Result<(), Refusal> {
        let (x, weight) = (self.map(node, 0)?, self.weight(node, 1)?);
        let &[out, per_group, rows, columns] = weight.dims.as_slice() else {
            return Err("its window is not over rows and columns".to_owned());
        };
        let groups = int(node, "group", 1);
        let channels = i64::from(self.shape(x)[3]);
        let depthwise = groups == channels && per_group == 1 && channels > 1;
        if groups != 1 && !depthwise {
            return Err(format!("it has {groups} groups of several channels"));
        }
        let (size, kernel) = ([out, per_group, rows, columns], floats(weight)?);
        let [o, i, h, w] = size.map(|axis| axis as usize);
        let from =
            |o_: usize, i_: usize, h_: usize, w_: usize| kernel[((o_ * i + i_) * h + h_) * w + w_];
        let pixels = || (0..h).flat_map(move |h_| (0..w).map(move |w_| (h_, w_)));
        let (shape, data): (_, Vec<f32>) = match depthwise {
            true => {
                let data = pixels().flat_map(|(h_, w_)| (0..o).map(move |o_| (o_, h_, w_)));
                (
                    vec![1, rows, columns, out],
                    data.map(|(o_, h_, w_)| from(o_, 0, h_, w_)).collect(),
                )
            }
            false => {
                let data = (0..o).flat_map(|o_| {
                    pixels().flat_map(move |(h_, w_)| (0..i).map(move |i_| (o_, i_, h_, w_)))
                });
                let data = data.map(|(o_, i_, h_, w_)| from(o_, i_, h_, w_));
                (vec![out, rows, columns, per_group], data.collect())
            }
        };
        let kernel = self.tensor(weight.name(), shape, Data::Floats(data));
        let bias = self.bias(node, out)?;
        let window = window(node, [rows, columns])?;
        let (x, padding) = self.padded(node, x, &window, Filler::Zero)?;
        let (made, fused_activation_function) = self.made(node, nodes)?;
        let [stride_h, stride_w] = window.strides.map(|stride| stride as i32);
        let [dilation_h_factor, dilation_w_factor] = window.dilations.map(|step| step as i32);
        let (code, options) = match depthwise {
            true => {
                let options = DepthwiseConv2DOptions {
                    padding,
                    stride_w,
                    stride_h,
                    depth_multiplier: (out / channels) as i32,
                    fused_activation_function,
                    dilation_w_factor,
                    dilation_h_factor,
                };
                (Code::DepthwiseConv2d, Options::DepthwiseConv2DOptions(Box::new(options)))
            }
            false => {
                let options = Conv2DOptions {
                    padding,
                    stride_w,
                    stride_h,
                    fused_activation_function,
                    dilation_w_factor,
                    dilation_h_factor,
                    ..Conv2DOptions::default()
                };
                (Code::Conv2d, Options::Conv2DOptions(Box::new(options)))
            }
        };
        self.operator(code, Some(options), vec![x, kernel, bias], vec![made]);
        Ok(())
    }

    /// A normalisation that nothing absorbs is a convolution of each channel with one number.
    fn norm(&mut self, node: &NodeProto, nodes: &[NodeProto]) -> Result<(), Refusal> {
        let x = self.map(node, 0)?;
        let parts: Vec<Vec<f32>> =
            (1..5).map(|at| floats(self.weight(node, at)?)).collect::<Result<_, _>>()?;
        let [scale, shift, mean, variance] = &parts[..] else {
            return Err("it lacks parts".to_owned());
        };
        let epsilon = node.attribute.iter().find(|attribute| attribute.name() == "epsilon");
        let epsilon = epsilon.map_or(1e-5, |attribute| attribute.f());
        let factors = scale.iter().zip(variance).map(|(s, v)| s / (v + epsilon).sqrt());
        let factors: Vec<f32> = factors.collect();
        let terms = shift.iter().zip(mean).zip(&factors).map(|((b, m), f)| b - m * f);
        let (terms, out) = (terms.collect(), factors.len() as i64);
        let name = output(node).to_owned();
        let kernel =
            self.tensor(&format!("{name}.factor"), vec![1, 1, 1, out], Data::Floats(factors));
        let bias = self.tensor(&format!("{name}.term"), vec![out], Data::Floats(terms));
        let (made, fused_activation_function) = self.made(node, nodes)?;
        let options = DepthwiseConv2DOptions {
            padding: Padding::Valid,
            stride_w: 1,
            stride_h: 1,
            depth_multiplier: 1,
            fused_activation_function,
            ..DepthwiseConv2DOptions::default()
        };
        let options = Options::DepthwiseConv2DOptions(Box::new(options));
        self.operator(Code::DepthwiseConv2d, Some(options), vec![x, kernel, bias], vec![made]);
        Ok(())
    }

    fn gemm(&mut self, node: &NodeProto, nodes: &[NodeProto]) -> Result<(), Refusal> {
        let (x, weight) = (self.input(node, 0)?, self.weight(node, 1)?);
        let plain = |name| {
            let factor = node.attribute.iter().find(|attribute| attribute.name() == name);
            factor.is_none_or(|factor| factor.f() == 1.0)
        };
        let (&[a, b], true) = (weight.dims.as_slice(), plain("alpha") && plain("beta")) else {
            return Err("it is not x times a matrix, plus a vector".to_owned());
        };
        if int(node, "transA", 0) != 0 || self.shape(x).len() != 2 {
            return Err("its operand is not one vector".to_owned());
        }
        let transposed = int(node, "transB", 0) != 0;
        let (out, inner) =
            if transposed { (a as usize, b as usize) } else { (b as usize, a as usize) };
        let stored = floats(weight)?;
        let from = |row: usize, column: usize| match transposed {
            true => stored[row * inner + column],
            false => stored[column * out + row],
        };
        // Where the element stands in ONNX's order that is at `column` here.
        let order = self.flattened.get(&x).copied();
        let column = |at: usize| match order {
            Some([channels, pixels]) => at % channels * pixels + at / channels,
            None => at,
        };
        let data = (0..out).flat_map(|row| (0..inner).map(move |at| (row, at)));
        let data = data.map(|(row, at)| from(row, column(at))).collect();
        let shape = vec![out as i64, inner as i64];
        let matrix = self.tensor(weight.name(), shape, Data::Floats(data));
        let bias = self.bias(node, out as i64)?;
        let (made, fused_activation_function) = self.made(node, nodes)?;
        let options =
            FullyConnectedOptions { fused_activation_function, ..FullyConnectedOptions::default() };
        let options = Options::FullyConnectedOptions(Box::new(options));
        self.operator(Code::FullyConnected, Some(options), vec![x, matrix, bias], vec![made]);
        Ok(())
    }

    /// The third operand of a layer with weights; zeros where it has none.
    fn bias(&mut self, node: &NodeProto, out: i64) -> Result<usize, Refusal> {
        let given = node.input.get(2).filter(|name| !name.is_empty());
        let Some(name) = given else {
            let name = format!("{}.zeros", output(node));
            return Ok(self.tensor(&name, vec![out], Data::Floats(vec![0.0; out as usize])));
        };
        let data = floats(self.weight(node, 2)?)?;
        match data.len() as i64 == out {
            true => Ok(self.tensor(name, vec![out], Data::Floats(data))),
            false => Err(format!("its bias has {} elements, not {out}", data.len())),
        }
    }

    // Layers without.

    fn pool(&mut self, node: &NodeProto) -> Result<(), Refusal> {
        let x = self.map(node, 0)?;
        let kernel = ints(node, "kernel_shape");
        let &[rows, columns] = kernel.as_slice() else {
            return Err("its window is not over rows and columns".to_owned());
        };
        let window = window(node, [rows, columns])?;
        if int(node, "ceil_mode", 0) != 0 || window.dilations != [1; 2] {
            return Err("its last window hangs over the edge, or it has holes".to_owned());
        }
        let (code, filler) = match node.op_type() {
            "MaxPool" => (Code::MaxPool2d, Filler::Least),
            _ if int(node, "count_include_pad", 0) != 0 => (Code::AveragePool2d, Filler::Counted),
            _ => (Code::AveragePool2d, Filler::Absent),
        };
        let (from, padding) = self.padded(node, x, &window, filler)?;
        let made = self.plain(node)?;
        if self.positive.contains(&x) {
            self.positive.insert(made);
        }
        let [stride_h, stride_w] = window.strides.map(|stride| stride as i32);
        let options = Pool2DOptions {
            padding,
            stride_w,
            stride_h,
            filter_width: columns as i32,
            filter_height: rows as i32,
            fused_activation_function: Activation::None,
        };
        let options = Options::Pool2DOptions(Box::new(options));
        self.operator(code, Some(options), vec![from], vec![made]);
        Ok(())
    }

    fn mean(&mut self, node: &NodeProto) -> Result<(), Refusal> {
        let x = self.map(node, 0)?;
        let axes = format!("{}.axes", output(node));
        let axes = self.tensor(&axes, vec![2], Data::Integers(vec![1, 2]));
        let made = self.plain(node)?;
        let options = Options::ReducerOptions(Box::new(ReducerOptions { keep_dims: true }));
        self.operator(Code::Mean, Some(options), vec![x, axes], vec![made]);
        Ok(())
    }

    fn binary(&mut self, node: &NodeProto, nodes: &[NodeProto]) -> Result<(), Refusal> {
        let operands = [self.input(node, 0)?, self.input(node, 1)?];
        let [a, b] = operands.map(|operand| self.shape(operand).len());
        if a != b || operands.iter().any(|operand| self.flattened.contains_key(operand)) {
            return Err("its operands have other axes, or were flattened".to_owned());
        }
        let both = operands.iter().all(|operand| self.positive.contains(operand));
        let (made, fused_activation_function) = self.made(node, nodes)?;
        if both {
            self.positive.insert(made);
        }
        let (code, options) = match node.op_type() {
            "Add" => (Code::Add, Options::AddOptions(Box::new(sum(fused_activation_function)))),
            _ => {
                let options = ActivationOptions { fused_activation_function };
                (Code::Mul, Options::MulOptions(Box::new(options)))
            }
        };
        self.operator(code, Some(options), operands.to_vec(), vec![made]);
        Ok(())
    }

    /// `min(max(x + 3, 0), 6) / 6`.
    fn hard_sigmoid(&mut self, node: &NodeProto) -> Result<(), Refusal> {
        let float = |name: &str, default: f32| {
            let given = node.attribute.iter().find(|attribute| attribute.name() == name);
            given.map_or(default, |attribute| attribute.f())
        };
        let slope = float("alpha", 0.2);
        if (slope - 1.0 / 6.0).abs() > 1e-6 || float("beta", 0.5) != 0.5 {
            return Err(format!("its slope is {slope}, and not a sixth"));
        }
        let x = self.input(node, 0)?;
        if self.flattened.contains_key(&x) {
            return Err("it reads a flattened map".to_owned());
        }
        let (name, shape) = (output(node), self.shape(x).iter().map(|&axis| i64::from(axis)));
        let shape = shape.collect();
        let three = self.tensor(&format!("{name}.three"), vec![], Data::Floats(vec![3.0]));
        let sixth = self.tensor(&format!("{name}.sixth"), vec![], Data::Floats(vec![1.0 / 6.0]));
        let shifted = self.tensor(&format!("{name}.shifted"), shape, Data::Made);
        self.network.tensors[shifted].known = Some([0.0, 6.0]);
        let options = Options::AddOptions(Box::new(sum(Activation::Relu6)));
        self.operator(Code::Add, Some(options), vec![x, three], vec![shifted]);
        let made = self.plain(node)?;
        self.network.tensors[made].known = Some([0.0, 1.0]);
        let fused_activation_function = Activation::None;
        let options = ActivationOptions { fused_activation_function };
        let options = Options::MulOptions(Box::new(options));
        self.operator(Code::Mul, Some(options), vec![shifted, sixth], vec![made]);
        self.positive.insert(made);
        Ok(())
    }

    fn concat(&mut self, node: &NodeProto) -> Result<(), Refusal> {
        let inputs: Vec<usize> =
            (0..node.input.len()).map(|at| self.input(node, at)).collect::<Result<_, _>>()?;
        let ranks: BTreeSet<usize> = inputs.iter().map(|&input| self.shape(input).len()).collect();
        if int(node, "axis", 1) != 1
            || ranks.iter().any(|rank| ![2, 4].contains(rank))
            || inputs.iter().any(|input| self.flattened.contains_key(input))
        {
            return Err("it does not join channels".to_owned());
        }
        let axis = ranks.first().map_or(1, |rank| *rank as i32 - 1);
        let positive = inputs.iter().all(|input| self.positive.contains(input));
        let made = self.plain(node)?;
        if positive {
            self.positive.insert(made);
        }
        let fused_activation_function = Activation::None;
        let options = ConcatenationOptions { axis, fused_activation_function };
        let options = Options::ConcatenationOptions(Box::new(options));
        self.operator(Code::Concatenation, Some(options), inputs, vec![made]);
        Ok(())
    }

    fn split(&mut self, node: &NodeProto) -> Result<(), Refusal> {
        let x = self.map(node, 0)?;
        let shapes = node.output.iter().map(|name| self.value_shape(name));
        let shapes: Vec<Vec<i64>> = shapes.collect::<Result<_, _>>()?;
        if int(node, "axis", 0) != 1 || shapes.windows(2).any(|two| two[0] != two[1]) {
            return Err("it does not make equal parts of the channels".to_owned());
        }
        let axis = format!("{}.axis", output(node));
        let axis = self.tensor(&axis, vec![], Data::Integers(vec![3]));
        let mut made = Vec::new();
        for (name, shape) in node.output.iter().zip(shapes) {
            let part = self.tensor(name, last(shape), Data::Made);
            self.places.insert(name.clone(), part);
            if self.positive.contains(&x) {
                self.positive.insert(part);
            }
            made.push(part);
        }
        let options = PartsOptions { num_splits: made.len() as i32 };
        let options = Options::SplitOptions(Box::new(options));
        self.operator(Code::Split, Some(options), vec![axis, x], made);
        Ok(())
    }

    /// A map as a vector, or channels as groups of channels and back.
    fn reshape(&mut self, node: &NodeProto) -> Result<(), Refusal> {
        let x = self.input(node, 0)?;
        let (from, to) = (self.shape(x).to_vec(), self.value_shape(output(node))?);
        let pixels =
            |shape: &[i32]| shape.iter().skip(1).take(2).map(|&a| a as i64).product::<i64>();
        match (from.len(), to.len()) {
            (4, 2) if to[0] == i64::from(from[0]) && from[0] == 1 => {}
            (4, 5) | (5, 4) if pixels(&from) == to[to.len() - 2..].iter().product::<i64>() => {}
            (a, b) if a == b && a < 4 => {}
            (a, b) => {
                return Err(format!("it makes {b} axes of {a} otherwise than layers of maps do"));
            }
        }
        let made = self.plain(node)?;
        if (from.len(), to.len()) == (4, 2) && pixels(&from) > 1 && from[3] > 1 {
            self.flattened.insert(made, [from[3] as usize, pixels(&from) as usize]);
        } else if let Some(&order) = self.flattened.get(&x) {
            self.flattened.insert(made, order);
        }
        if self.positive.contains(&x) {
            self.positive.insert(made);
        }
        let new_shape = self.shape(made).to_vec();
        let (name, axes) = (format!("{}.shape", output(node)), new_shape.len() as i64);
        let shape = self.tensor(&name, vec![axes], Data::Integers(new_shape.clone()));
        let options = ReshapeOptions { new_shape: Some(new_shape) };
        let options = Options::ReshapeOptions(Box::new(options));
        self.operator(Code::Reshape, Some(options), vec![x, shape], vec![made]);
        Ok(())
    }

    /// The exchange of groups and channels.
    fn transpose(&mut self, node: &NodeProto) -> Result<(), Refusal> {
        let x = self.input(node, 0)?;
        if ints(node, "perm") != [0, 2, 1, 3, 4] || self.shape(x).len() != 5 {
            return Err("it does not exchange groups of channels".to_owned());
        }
        let made = self.plain(node)?;
        if self.positive.contains(&x) {
            self.positive.insert(made);
        }
        let order = format!("{}.order", output(node));
        let order = self.tensor(&order, vec![5], Data::Integers(vec![0, 1, 2, 4, 3]));
        let options = Options::TransposeOptions(Box::new(NoOptions {}));
        self.operator(Code::Transpose, Some(options), vec![x, order], vec![made]);
        Ok(())
    }

    fn unary(
        &mut self,
        node: &NodeProto,
        code: Code,
        options: Option<Options>,
    ) -> Result<usize, Refusal> {
        let x = self.input(node, 0)?;
        let made = self.plain(node)?;
        if let Some(&order) = self.flattened.get(&x) {
            self.flattened.insert(made, order);
        }
        self.operator(code, options, vec![x], vec![made]);
        Ok(made)
    }

    // Parts of layers.

    /// A map with the padding that a window asks for: inside the operator where the format has it so.
    fn padded(
        &mut self,
        node: &NodeProto,
        x: usize,
        window: &Window,
        filler: Filler,
    ) -> Result<(usize, Padding), Refusal> {
        let map = self.shape(x).to_vec();
        let named = window.padding([i64::from(map[1]), i64::from(map[2])]);
        let padding = named.filter(|padding| match filler {
            // In the format padding is no part of a mean.
            Filler::Counted => *padding == Padding::Valid,
            _ => true,
        });
        if let Some(padding) = padding {
            return Ok((x, padding));
        }
        let zeros = match filler {
            Filler::Zero | Filler::Counted => true,
            Filler::Least => self.positive.contains(&x),
            Filler::Absent => false,
        };
        if !zeros {
            return Err(format!(
                "its padding {:?} is no zeros, and TFLite has no such",
                window.pads
            ));
        }
        let [top, left, bottom, right] = window.pads.map(|pad| pad as i32);
        let name = output(node);
        let pads = Data::Integers(vec![0, 0, top, bottom, left, right, 0, 0]);
        let pads = self.tensor(&format!("{name}.pads"), vec![4, 2], pads);
        let shape = [map[0], map[1] + top + bottom, map[2] + left + right, map[3]];
        let shape = shape.map(i64::from).to_vec();
        let padded = self.tensor(&format!("{name}{ADDED}"), shape, Data::Made);
        let options = Options::PadOptions(Box::new(NoOptions {}));
        self.operator(Code::Pad, Some(options), vec![x, pads], vec![padded]);
        Ok((padded, Padding::Valid))
    }

    /// The tensor that a node makes, and the rectifier that became part of it.
    fn made(
        &mut self,
        node: &NodeProto,
        nodes: &[NodeProto],
    ) -> Result<(usize, Activation), Refusal> {
        let name = output(node);
        let reader = nodes.iter().position(|reader| {
            matches!(reader.op_type(), "Relu" | "Clip")
                && reader.input.first().is_some_and(|x| x == name)
        });
        match reader.filter(|_| self.uses.get(name) == Some(&1)) {
            Some(at) => {
                let activation = self.rectifier(&nodes[at])?;
                self.fused.insert(at);
                let made = self.plain(&nodes[at])?;
                self.positive.insert(made);
                Ok((made, activation))
            }
            None => Ok((self.plain(node)?, Activation::None)),
        }
    }

    fn rectifier(&self, node: &NodeProto) -> Result<Activation, Refusal> {
        if node.op_type() == "Relu" {
            return Ok(Activation::Relu);
        }
        let bound = |at: usize| -> Result<Option<f32>, Refusal> {
            match node.input.get(at).filter(|name| !name.is_empty()) {
                Some(_) => Ok(floats(self.weight(node, at)?)?.first().copied()),
                None => Ok(None),
            }
        };
        match [bound(1)?, bound(2)?] {
            [Some(0.0), Some(6.0)] => Ok(Activation::Relu6),
            [Some(0.0), None] => Ok(Activation::Relu),
            _ => Err("its bounds are neither 0 and 6 nor 0 alone".to_owned()),
        }
    }

    /// The first output of a node as it is.
    fn plain(&mut self, node: &NodeProto) -> Result<usize, Refusal> {
        let name = output(node);
        let shape = last(self.value_shape(name)?);
        let made = self.tensor(name, shape, Data::Made);
        self.places.insert(name.to_owned(), made);
        Ok(made)
    }

    fn value_shape(&self, name: &str) -> Result<Vec<i64>, Refusal> {
        let value = self.graph.find_value(name).map(|id| self.graph.value(id));
        let shape = value.and_then(|value| value.shape.as_ref());
        let shape = shape.ok_or_else(|| format!("the shape of `{name}` is unknown"))?;
        Ok(shape.0.iter().map(|&axis| axis as i64).collect())
    }

    fn input(&self, node: &NodeProto, at: usize) -> Result<usize, Refusal> {
        let name = node.input.get(at).map_or("", String::as_str);
        self.places.get(name).copied().ok_or_else(|| format!("its operand `{name}` is a constant"))
    }

    /// An operand that is a map.
    fn map(&self, node: &NodeProto, at: usize) -> Result<usize, Refusal> {
        let x = self.input(node, at)?;
        match self.shape(x).len() {
            4 => Ok(x),
            axes => Err(format!("its operand has {axes} axes, and not those of a map")),
        }
    }

    /// An operand whose elements stand in the order that they have in ONNX.
    fn vector(&self, node: &NodeProto, at: usize) -> Result<(usize, i64), Refusal> {
        let x = self.input(node, at)?;
        match self.shape(x) {
            &[1, length] if !self.flattened.contains_key(&x) => Ok((x, i64::from(length))),
            _ => Err("its operand is no vector, or a flattened map".to_owned()),
        }
    }

    fn weight(&self, node: &NodeProto, at: usize) -> Result<&'a TensorProto, Refusal> {
        let name = node.input.get(at).map_or("", String::as_str);
        self.weights
            .get(name)
            .copied()
            .ok_or_else(|| format!("`{name}` is not stored in the model"))
    }

    fn shape(&self, tensor: usize) -> &[i32] {
        &self.network.tensors[tensor].shape
    }

    fn tensor(&mut self, name: &str, shape: Vec<i64>, data: Data) -> usize {
        let shape = shape.into_iter().map(|axis| axis as i32).collect();
        let (name, known, scales) = (name.to_owned(), None, None);
        self.network.tensors.push(Tensor { name, shape, data, known, scales });
        self.network.tensors.len() - 1
    }

    fn operator(
        &mut self,
        code: Code,
        options: Option<Options>,
        inputs: Vec<usize>,
        outputs: Vec<usize>,
    ) {
        self.network.operators.push(Operator { code, options, inputs, outputs });
    }
}

/// What stands around a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filler {
    Zero,
    /// Zeros that count in a mean.
    Counted,
    /// What is below everything.
    Least,
    /// Nothing: a mean over what is there.
    Absent,
}

fn sum(fused_activation_function: Activation) -> SumOptions {
    SumOptions { fused_activation_function, ..SumOptions::default() }
}

/// Axes with the channels last: of maps, and of maps whose channels are grouped.
fn last(shape: Vec<i64>) -> Vec<i64> {
    match *shape.as_slice() {
        [n, c, h, w] => vec![n, h, w, c],
        [n, g, c, h, w] => vec![n, h, w, g, c],
        _ => shape,
    }
}

fn output(node: &NodeProto) -> &str {
    node.output.first().map_or("", String::as_str)
}

fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    let given = node.attribute.iter().find(|attribute| attribute.name() == name);
    given.and_then(|attribute| attribute.i).unwrap_or(default)
}

fn ints(node: &NodeProto, name: &str) -> Vec<i64> {
    let given = node.attribute.iter().find(|attribute| attribute.name() == name);
    given.map(|attribute| attribute.ints.clone()).unwrap_or_default()
}

fn window(node: &NodeProto, kernel: [i64; 2]) -> Result<Window, Refusal> {
    if node.attribute.iter().any(|attribute| attribute.name() == "auto_pad") {
        return Err("it does not say its padding in numbers".to_owned());
    }
    let pair = |name: &str| match ints(node, name).as_slice() {
        [] => Ok([1; 2]),
        &[rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
        other => Err(format!("its {name} are {other:?}")),
    };
    let pads = match ints(node, "pads").as_slice() {
        [] => [0; 4],
        &[top, left, bottom, right] => [top, left, bottom, right],
        other => return Err(format!("its pads are {other:?}")),
    };
    Ok(Window { kernel, strides: pair("strides")?, dilations: pair("dilations")?, pads })
}

/// The elements of a stored tensor.
fn floats(tensor: &TensorProto) -> Result<Vec<f32>, Refusal> {
    if !tensor.float_data.is_empty() {
        return Ok(tensor.float_data.clone());
    }
    let elements: i64 = tensor.dims.iter().product();
    let bytes = tensor.raw_data();
    match tensor.data_type() == 1 && bytes.len() as i64 == elements * 4 {
        true => Ok(bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect()),
        false => {
            Err(format!("`{}` is not {elements} floats in the model's own file", tensor.name()))
        }
    }
}
