//! Conversion of TensorFlow Lite files: layout, names, cuts, and what is refused.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};

use bytes::Bytes;
use cutline_core::{
    cut, group,
    onnx::{self, ImportOptions},
    tensor::DType,
    tflite::{
        self, Converted, TfliteError,
        author::Network,
        schema::tflite::{
            ActivationFunctionType, Buffer, BuiltinOperator, BuiltinOptions, ConcatenationOptions,
            Metadata, Model, NoOptions, Operator, OperatorCode, QuantizationParameters,
            SignatureDef, SubGraph, SumOptions, Tensor, TensorType, Unread,
        },
        write::encode,
    },
    zoo::{self, ZooOptions},
};

mod files;

/// Files of the shared folder that LiteRT takes, as they convert.
fn shared() -> Vec<(String, Converted)> {
    let files = files::tflite().into_iter();
    files.map(|(name, file)| (name, tflite::convert(&file).unwrap())).collect()
}

fn count(converted: &Converted, op: &str) -> usize {
    let graph = converted.model.graph.as_ref().unwrap();
    graph.node.iter().filter(|node| node.op_type() == op).count()
}

#[test]
fn a_classifier_has_one_transpose_that_of_its_input() {
    for (name, converted) in shared() {
        assert_eq!(count(&converted, "Transpose"), 1, "{name}");
    }
    // A picture of one channel needs none: the rows of the first product are put in another order.
    assert_eq!(count(&lenet(), "Transpose"), 0);
}

#[test]
fn every_cut_of_an_integer_network_is_at_bytes_that_are_a_tensor_of_the_file() {
    for (name, converted) in shared() {
        let graph = onnx::import(&converted.model, &ImportOptions::default()).unwrap();
        let grouping = group::group_operators(&graph, &converted.operator_of);
        let input = graph.value(graph.inputs()[0]).dtype;
        let cuts = cut::candidate_cuts(&grouping.dag);
        assert!(cuts.len() > 10, "{name}");
        for flow in cuts.iter().flat_map(|cut| &cut.flows) {
            let value = &grouping.dag.flow(*flow).name;
            assert!(converted.tensor_of.contains_key(value), "{name}: {value} is no tensor");
            let dtype = graph.value(graph.find_value(value).unwrap()).dtype;
            let is_integer = matches!(dtype, Some(DType::I8 | DType::U8));
            assert_eq!(is_integer, input != Some(DType::F32), "{name}: {value} is {dtype:?}");
        }
    }
}

#[test]
fn the_malformed_file_is_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/tflite");
    let Ok(file) = fs::read(folder.join("person_detect.tflite")) else {
        return eprintln!("skipped: the shared folder is absent");
    };
    let error = tflite::convert(&file.into()).unwrap_err().to_string();
    assert!(error.contains("Conv2d_0/Conv2D_bias") && error.contains("axis 3 of 1"), "{error}");
}

/// LeNet-5 as a file in floats, converted.
fn lenet() -> Converted {
    let model = zoo::build("lenet5", &ZooOptions::default()).unwrap();
    let file = Network::lower(&model).unwrap().encode().unwrap();
    tflite::convert(&file).unwrap()
}

#[test]
fn every_node_belongs_to_an_operator_and_every_name_is_unique() {
    for (name, converted) in shared().into_iter().chain([("lenet5".to_owned(), lenet())]) {
        let graph = converted.model.graph.unwrap();
        let nodes: BTreeSet<&str> = graph.node.iter().map(|node| node.name()).collect();
        assert_eq!(nodes.len(), graph.node.len(), "{name}");
        assert!(nodes.iter().all(|node| converted.operator_of.contains_key(*node)), "{name}");
        let made = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
        let values = made.chain(graph.initializer.iter().map(|tensor| tensor.name()));
        let values: Vec<&str> = values.collect();
        assert_eq!(values.iter().collect::<BTreeSet<_>>().len(), values.len(), "{name}");
    }
}

/// A file with one operator from `x` to `y`, changed.
fn one(kind: BuiltinOperator, change: impl FnOnce(&mut Model)) -> Bytes {
    let tensor = |name: &str| Tensor {
        shape: Some(vec![1, 2, 2, 3]),
        type_: TensorType::Float32,
        name: Some(name.to_owned()),
        ..Tensor::default()
    };
    let code = OperatorCode {
        deprecated_builtin_code: (kind as i32).min(127) as i8,
        builtin_code: kind,
        ..OperatorCode::default()
    };
    let operator = Operator {
        inputs: Some(vec![0]),
        outputs: Some(vec![1]),
        builtin_options: Some(BuiltinOptions::HardSwishOptions(Box::new(NoOptions {}))),
        ..Operator::default()
    };
    let graph = SubGraph {
        tensors: Some(vec![tensor("x"), tensor("y")]),
        inputs: Some(vec![0]),
        outputs: Some(vec![1]),
        operators: Some(vec![operator]),
        ..SubGraph::default()
    };
    let mut model = Model {
        version: 3,
        operator_codes: Some(vec![code]),
        subgraphs: Some(vec![graph]),
        ..Model::default()
    };
    change(&mut model);
    encode(&model, &[&[]]).unwrap()
}

fn graph(model: &mut Model) -> &mut SubGraph {
    &mut model.subgraphs.as_mut().unwrap()[0]
}

fn tensors(model: &mut Model) -> &mut Vec<Tensor> {
    graph(model).tensors.as_mut().unwrap()
}

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    use BuiltinOperator as Kind;
    type Change = fn(&mut Model);
    let custom: Change = |model| {
        let codes = model.operator_codes.as_mut().unwrap();
        codes[0].custom_code = Some("TFLite_Detection_PostProcess".to_owned());
    };
    let cases: [(Kind, Change, &str); 10] = [
        (Kind::Custom, custom, "operator `TFLite_Detection_PostProcess` (custom), which makes `y`"),
        (Kind::Lstm, |_| (), "operator LSTM (number 16), which makes `y`"),
        (Kind::UnidirectionalSequenceLstm, |_| (), "UNIDIRECTIONAL_SEQUENCE_LSTM (number 44)"),
        (Kind::Conv3d, |_| (), "operator CONV_3D (number 132)"),
        (
            Kind::HardSwish,
            |model| {
                let again = graph(model).clone();
                model.subgraphs.as_mut().unwrap().push(again);
            },
            "2 subgraphs",
        ),
        (
            Kind::HardSwish,
            |model| tensors(model)[0].sparsity = Some(Box::new(Unread {})),
            "tensor `x`: sparse tensors",
        ),
        (
            Kind::HardSwish,
            |model| tensors(model)[0].type_ = TensorType::Int16,
            "tensor `x`: its elements are Int16",
        ),
        (
            Kind::HardSwish,
            |model| tensors(model)[1].shape = Some(vec![1, -1, 2, 3]),
            "tensor `y`: its shape [1, -1, 2, 3] is not fixed",
        ),
        (
            Kind::HardSwish,
            |model| tensors(model)[0].shape_signature = Some(vec![-1, -1, -1, 3]),
            "tensor `x`: its shape [-1, -1, -1, 3] is open",
        ),
        (Kind::HardSwish, |model| model.version = 2, "schema version 2"),
    ];
    for (kind, change, expected) in cases {
        let error = tflite::convert(&one(kind, change)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(tflite::convert(&one(Kind::HardSwish, |_| ())).is_ok());
}

/// Ten thousand entries of a list that are one table, with a name of a thousand letters.
#[test]
fn a_short_file_that_stands_for_a_long_one_is_refused() {
    let mut builder = planus::Builder::new();
    let tensor = Tensor { name: Some("n".repeat(1000)), ..Tensor::default() };
    let tensor = planus::WriteAsOffset::<Tensor>::prepare(&tensor, &mut builder);
    let list = vec![tensor; 10_000];
    let none = None::<Vec<i32>>;
    let operators = None::<Vec<Operator>>;
    let graph =
        SubGraph::create(&mut builder, list.as_slice(), &none, &none, operators, "graph", -1);
    let model = Model::create(
        &mut builder,
        3u32,
        None::<Vec<OperatorCode>>,
        [graph].as_slice(),
        "model",
        None::<Vec<Buffer>>,
        none,
        None::<Vec<Metadata>>,
        None::<Vec<SignatureDef>>,
    );
    let (root, rest) = builder.finish(model, None).split_first_chunk::<4>().unwrap();
    let root = u32::from_le_bytes(*root) + 4;
    let file = Bytes::from([&root.to_le_bytes()[..], b"TFL3", rest].concat());
    assert!(file.len() < 100_000);
    let error = tflite::convert(&file).unwrap_err().to_string();
    assert!(error.contains("tables share each other"), "{error}");
}

/// The scale and zero point of a tensor.
fn scaled(tensor: &mut Tensor, scale: f32, zero_point: i64) {
    tensor.type_ = TensorType::Int8;
    tensor.quantization = Some(Box::new(QuantizationParameters {
        scale: Some(vec![scale]),
        zero_point: Some(vec![zero_point]),
        ..QuantizationParameters::default()
    }));
}

#[test]
fn what_litert_would_answer_otherwise_than_its_options_say_is_refused() {
    use BuiltinOperator as Kind;
    type Change = fn(&mut Model);
    let scales: Change = |model| {
        scaled(&mut tensors(model)[0], 0.5, 0);
        scaled(&mut tensors(model)[1], 0.25, 0);
    };
    let concatenation: Change = |model| {
        let options = ConcatenationOptions {
            axis: 3,
            fused_activation_function: ActivationFunctionType::Relu,
        };
        let operator = &mut graph(model).operators.as_mut().unwrap()[0];
        operator.builtin_options = Some(BuiltinOptions::ConcatenationOptions(Box::new(options)));
    };
    let tanh: Change = |model| {
        let options = SumOptions {
            fused_activation_function: ActivationFunctionType::Tanh,
            ..SumOptions::default()
        };
        let operator = &mut graph(model).operators.as_mut().unwrap()[0];
        operator.inputs = Some(vec![0, 0]);
        operator.builtin_options = Some(BuiltinOptions::AddOptions(Box::new(options)));
    };
    let point: Change = |model| scaled(&mut tensors(model)[0], 0.5, 300);
    for (kind, change, expected) in [
        (Kind::Reshape, scales, "another scale than its operand `x`"),
        (Kind::Slice, scales, "another scale than its operand `x`"),
        (Kind::Transpose, scales, "another scale than its operand `x`"),
        (Kind::Concatenation, concatenation, "an activation behind it is not supported"),
        (Kind::Add, tanh, "the activation TANH is not supported"),
        (Kind::HardSwish, point, "zero point 300 is none of its integers"),
    ] {
        let error = tflite::convert(&one(kind, change)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Were names looked for one after the other, this would take hours.
#[test]
fn a_tensor_that_is_read_very_often_is_converted_in_proportion() {
    let uses = 150_000;
    let many = |name: &str| {
        one(BuiltinOperator::Concatenation, |model| {
            scaled(&mut tensors(model)[0], 0.5, 0);
            scaled(&mut tensors(model)[1], 0.5, 0);
            tensors(model)[0].name = Some(name.to_owned());
            tensors(model)[1].shape = Some(vec![1, 2, 2, 3 * uses]);
            let options = ConcatenationOptions { axis: 3, ..ConcatenationOptions::default() };
            let options = BuiltinOptions::ConcatenationOptions(Box::new(options));
            let operator = &mut graph(model).operators.as_mut().unwrap()[0];
            operator.inputs = Some(vec![0; uses as usize]);
            operator.builtin_options = Some(options);
        })
    };
    let converted = tflite::convert(&many("x")).unwrap();
    assert_eq!(count(&converted, "DequantizeLinear"), uses as usize);
    // Every use would repeat the name.
    let error = tflite::convert(&many(&"x".repeat(100_000))).unwrap_err().to_string();
    assert!(error.contains("tables share each other"), "{error}");
}

#[test]
fn damaged_files_are_refused_or_read() {
    let file = one(BuiltinOperator::HardSwish, |_| ());
    for end in 0..file.len() {
        let _ = tflite::convert(&file.slice(..end));
    }
    for at in 8..file.len() {
        for value in [0, 1, 4, 127, 255] {
            let mut damaged = file.to_vec();
            damaged[at] = value;
            let _ = tflite::convert(&damaged.into());
        }
    }
    assert_eq!(tflite::convert(&file.slice(1..)), Err(TfliteError::Identifier));
}
