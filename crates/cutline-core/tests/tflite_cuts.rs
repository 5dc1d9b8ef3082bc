//! Candidate cuts of TensorFlow Lite files: each is between operators of the file, and every one of
//! them can be a file of that format.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cutline_core::{
    cut::{candidate_cuts, stages_of_cut},
    graph::{Graph, Role},
    group::group_operators,
    onnx::{self, ImportOptions},
    split::{StageLabel, TfliteFile, split_tflite},
    tflite::{
        self, Converted,
        schema::tflite::{
            ActivationFunctionType as Activation, BlockOptions, BuiltinOperator as Kind,
            BuiltinOptions as Options, Conv2DOptions, Model, NoOptions, Operator, OperatorCode,
            PackOptions, Padding, QuantizationParameters, ReshapeOptions, SubGraph, SumOptions,
            Tensor, TensorType, UnpackOptions,
        },
        write::encode,
    },
};

mod files;

/// A network under construction: tensors are numbers.
#[derive(Default)]
struct Net {
    is_quantised: bool,
    graph: SubGraph,
    codes: Vec<OperatorCode>,
    buffers: Vec<Vec<u8>>,
}

impl Net {
    fn new(is_quantised: bool) -> Self {
        let graph = SubGraph {
            tensors: Some(Vec::new()),
            operators: Some(Vec::new()),
            ..SubGraph::default()
        };
        Self { is_quantised, graph, codes: Vec::new(), buffers: vec![Vec::new()] }
    }

    fn add(&mut self, name: &str, shape: &[i32], type_: TensorType, data: Vec<u8>) -> i32 {
        let buffer = if data.is_empty() { 0 } else { self.buffers.len() as u32 };
        if buffer > 0 {
            self.buffers.push(data);
        }
        let quantization = (type_ == TensorType::Int8).then(|| {
            Box::new(QuantizationParameters {
                scale: Some(vec![0.1]),
                zero_point: Some(vec![0]),
                ..QuantizationParameters::default()
            })
        });
        let tensors = self.graph.tensors.as_mut().unwrap();
        tensors.push(Tensor {
            shape: Some(shape.to_vec()),
            type_,
            buffer,
            name: Some(name.to_owned()),
            quantization,
            ..Tensor::default()
        });
        tensors.len() as i32 - 1
    }

    fn kind(&self) -> TensorType {
        if self.is_quantised { TensorType::Int8 } else { TensorType::Float32 }
    }

    fn value(&mut self, name: &str, shape: &[i32]) -> i32 {
        self.add(name, shape, self.kind(), Vec::new())
    }

    fn weights(&mut self, name: &str, shape: &[i32]) -> i32 {
        let size = if self.is_quantised { 1 } else { 4 };
        let elements: i32 = shape.iter().product();
        self.add(name, shape, self.kind(), vec![1; elements as usize * size])
    }

    fn integers(&mut self, name: &str, shape: &[i32], values: &[i32]) -> i32 {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.add(name, shape, TensorType::Int32, data)
    }

    fn operator(&mut self, kind: Kind, options: Options, inputs: &[i32], outputs: &[i32]) {
        self.codes.push(OperatorCode {
            deprecated_builtin_code: kind as i8,
            builtin_code: kind,
            ..OperatorCode::default()
        });
        self.graph.operators.as_mut().unwrap().push(Operator {
            opcode_index: self.codes.len() as u32 - 1,
            inputs: Some(inputs.to_vec()),
            outputs: Some(outputs.to_vec()),
            builtin_options: Some(options),
            ..Operator::default()
        });
    }

    /// A convolution of so many channels to four; what it makes has the shape.
    fn conv(
        &mut self,
        x: i32,
        channels: i32,
        dilation: i32,
        valid: bool,
        made: (&str, &[i32]),
    ) -> i32 {
        let weights = self.weights(&format!("{}.w", made.0), &[4, 3, 3, channels]);
        let y = self.value(made.0, made.1);
        let options = Conv2DOptions {
            padding: if valid { Padding::Valid } else { Padding::Same },
            stride_w: 1,
            stride_h: 1,
            fused_activation_function: Activation::Relu6,
            dilation_w_factor: dilation,
            dilation_h_factor: dilation,
            ..Conv2DOptions::default()
        };
        let options = Options::Conv2DOptions(Box::new(options));
        self.operator(Kind::Conv2d, options, &[x, weights], &[y]);
        y
    }

    fn finish(mut self, input: i32, outputs: &[i32]) -> Bytes {
        self.graph.inputs = Some(vec![input]);
        self.graph.outputs = Some(outputs.to_vec());
        let model = Model {
            version: 3,
            operator_codes: Some(self.codes),
            subgraphs: Some(vec![self.graph]),
            ..Model::default()
        };
        let buffers: Vec<&[u8]> = self.buffers.iter().map(Vec::as_slice).collect();
        encode(&model, &buffers).unwrap()
    }
}

/// A dilated convolution as older exporters write it, between blocks moved to the batch and back, and
/// as newer ones do; pixels to channels and back; a tensor in the order of the file that two
/// convolutions read; operators of several results; and an answer that the network reads, too.
fn blocks(is_quantised: bool) -> Bytes {
    let mut net = Net::new(is_quantised);
    let none = || Box::new(NoOptions {});
    let x = net.value("x", &[1, 8, 8, 3]);
    let a = net.conv(x, 3, 1, false, ("a", &[1, 8, 8, 4]));
    let sizes = net.integers("sizes", &[2], &[2, 2]);
    let pads = net.integers("pads", &[2, 2], &[2, 2, 2, 2]);
    let crops = net.integers("crops", &[2, 2], &[0, 0, 0, 0]);
    let b = net.value("b", &[4, 6, 6, 4]);
    let options = Options::SpaceToBatchNdOptions(none());
    net.operator(Kind::SpaceToBatchNd, options, &[a, sizes, pads], &[b]);
    let c = net.conv(b, 4, 1, true, ("c", &[4, 4, 4, 4]));
    let d = net.value("d", &[1, 8, 8, 4]);
    let options = Options::BatchToSpaceNdOptions(none());
    net.operator(Kind::BatchToSpaceNd, options, &[c, sizes, crops], &[d]);
    let e = net.conv(d, 4, 2, false, ("e", &[1, 8, 8, 4]));
    let block = || Box::new(BlockOptions { block_size: 2 });
    let f = net.value("f", &[1, 4, 4, 16]);
    net.operator(Kind::SpaceToDepth, Options::SpaceToDepthOptions(block()), &[e], &[f]);
    let g = net.value("g", &[1, 8, 8, 4]);
    net.operator(Kind::DepthToSpace, Options::DepthToSpaceOptions(block()), &[f], &[g]);
    let wide = [1, 4, 16, 4];
    let (shape, h) = (net.integers("shape", &[4], &wide), net.value("h", &wide));
    let options = Options::ReshapeOptions(Box::new(ReshapeOptions { new_shape: None }));
    net.operator(Kind::Reshape, options, &[g, shape], &[h]);
    let i = net.conv(h, 4, 1, false, ("i", &wide));
    let j = net.conv(h, 4, 1, false, ("j", &wide));
    let k = net.value("k", &wide);
    let sum = SumOptions { fused_activation_function: Activation::Relu, ..SumOptions::default() };
    net.operator(Kind::Add, Options::AddOptions(Box::new(sum)), &[i, j], &[k]);
    let rows: Vec<i32> = (0..4).map(|at| net.value(&format!("row{at}"), &[1, 16, 4])).collect();
    let options = Options::UnpackOptions(Box::new(UnpackOptions { num: 4, axis: 1 }));
    net.operator(Kind::Unpack, options, &[k], &rows);
    let l = net.value("l", &wide);
    let options = Options::PackOptions(Box::new(PackOptions { values_count: 4, axis: 1 }));
    net.operator(Kind::Pack, options, &rows, &[l]);
    let m = net.value("m", &wide);
    let options = Options::SquaredDifferenceOptions(none());
    net.operator(Kind::SquaredDifference, options, &[l, i], &[m]);
    net.finish(x, &[e, m])
}

/// Every file to cut, by name.
fn networks() -> Vec<(String, Bytes)> {
    let made = [("blocks in floats", false), ("blocks in bytes", true)];
    let made = made.map(|(name, is_quantised)| (name.to_owned(), blocks(is_quantised)));
    files::tflite().into_iter().chain(made).collect()
}

fn opened(file: &Bytes) -> (TfliteFile, Graph) {
    let Converted { model, operator_of, tensor_of } = tflite::convert(file).unwrap();
    let graph = onnx::import(&model, &ImportOptions::default()).unwrap();
    (TfliteFile { bytes: file.clone(), operator_of, tensor_of }, graph)
}

#[test]
fn the_layers_of_an_operator_are_in_one_group() {
    for (name, file) in networks() {
        let (file, graph) = opened(&file);
        let grouping = group_operators(&graph, &file.operator_of);
        let mut group_of: BTreeMap<usize, BTreeSet<_>> = BTreeMap::new();
        for (layer, group) in graph.layers().iter().zip(&grouping.group_of) {
            let operator = file.operator_of[&layer.name];
            if layer.role == Role::Compute {
                group_of.entry(operator).or_default().insert(group.unwrap());
            }
        }
        assert!(group_of.len() > 10, "{name}");
        for (operator, groups) in group_of {
            assert_eq!(groups.len(), 1, "{name}: operator {operator}");
        }
    }
}

#[test]
fn what_goes_between_groups_is_a_tensor_of_the_file_in_one_layout() {
    for (name, file) in networks() {
        let (file, graph) = opened(&file);
        let dag = group_operators(&graph, &file.operator_of).dag;
        let mut value_of: BTreeMap<usize, &str> = BTreeMap::new();
        for flow in dag.flow_ids().map(|id| dag.flow(id)).filter(|flow| !flow.to.is_empty()) {
            let tensor = file.tensor_of.get(&flow.name);
            let tensor = *tensor.unwrap_or_else(|| panic!("{name}: {} is no tensor", flow.name));
            let known = *value_of.entry(tensor).or_insert(&flow.name);
            assert_eq!(known, flow.name, "{name}");
        }
    }
}

#[test]
fn every_candidate_cut_splits_into_files_that_are_read_again() {
    for (name, file) in networks() {
        let (file, graph) = opened(&file);
        let grouping = group_operators(&graph, &file.operator_of);
        let cuts = candidate_cuts(&grouping.dag);
        assert!(cuts.len() > 10, "{name}: {}", cuts.len());
        for cut in &cuts {
            let crossing = || -> Vec<&str> {
                cut.flows.iter().map(|&flow| &grouping.dag.flow(flow).name[..]).collect()
            };
            let stages = stages_of_cut(&graph, &grouping, cut);
            let labels = [StageLabel::new("first"), StageLabel::new("second")];
            let parts = split_tflite(&file, &graph, &stages, &labels);
            let parts = parts.unwrap_or_else(|error| panic!("{name} at {:?}: {error}", crossing()));
            for part in &parts {
                let read = tflite::convert(part.tflite.as_ref().unwrap());
                read.unwrap_or_else(|error| panic!("{name} at {:?}: {error}", crossing()));
            }
            let sent: BTreeSet<&str> =
                parts[1].inputs.iter().map(|port| port.name.as_str()).collect();
            assert_eq!(sent.len(), cut.flows.len(), "{name}: {sent:?} for {:?}", crossing());
        }
        eprintln!("{name}: {} cuts", cuts.len());
    }
}
