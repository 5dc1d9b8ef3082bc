//! Both engines against each other, against recorded facts, and against what they cannot run.
//!
//! Needs the shared models and pictures; ONNX Runtime is tested where its library is found.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use cutline_core::{
    onnx::ImportOptions,
    onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto,
        TypeProto, ValueInfoProto,
        attribute_proto::AttributeType,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
    picture::{InputEncoding, Recipe},
    tensor::{DType, Shape, byte_size},
};
use cutline_runtime::{
    engine::{self, Engine, EngineError, LoadOptions, ModelSource, Session, SharedEngine},
    labels::{Labels, top},
    model::Model,
    picture,
    tensor::Tensor,
};
use prost::Message;

const ONE_THREAD: LoadOptions = LoadOptions { threads: 1 };

/// The shared data, or a line that says why a test is skipped.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

/// Every engine for ONNX models that this machine has, with a line about each that it lacks.
fn engines() -> Vec<SharedEngine> {
    let open = |name: &&str| match engine::open(name) {
        Ok(engine) => Some(engine),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    };
    let for_onnx = engine::NAMES.iter().filter(|name| **name != engine::litert::NAME);
    for_onnx.filter_map(open).collect()
}

fn load(engine: &dyn Engine, path: &Path) -> Box<dyn Session> {
    engine
        .load(&ModelSource::File(path.to_owned()), ONE_THREAD)
        .unwrap_or_else(|error| panic!("{}: {}: {error}", engine.name(), path.display()))
}

/// Names, types and shapes of a model's inputs and the names of its outputs; symbolic sizes are 1.
struct Interface {
    inputs: Vec<(String, DType, Shape)>,
    outputs: Vec<String>,
}

fn interface(path: &Path) -> Interface {
    let model = ModelProto::decode(Bytes::from(fs::read(path).unwrap())).unwrap();
    let graph = model.graph.unwrap();
    let is_weight = |name: &str| graph.initializer.iter().any(|weight| weight.name() == name);
    let describe = |info: &ValueInfoProto| {
        let Some(type_proto::Value::TensorType(tensor)) =
            info.r#type.as_ref().and_then(|t| t.value.as_ref())
        else {
            panic!("{} is no tensor", info.name());
        };
        let size = |dim: &Dimension| match dim.value {
            Some(dimension::Value::DimValue(size)) if size > 0 => size as u64,
            _ => 1,
        };
        let shape = Shape(tensor.shape.iter().flat_map(|s| &s.dim).map(size).collect());
        (info.name().to_owned(), DType::from_onnx(tensor.elem_type()).unwrap(), shape)
    };
    let inputs = graph.input.iter().filter(|info| !is_weight(info.name())).map(describe).collect();
    Interface { inputs, outputs: graph.output.iter().map(|o| o.name().to_owned()).collect() }
}

/// Numbers in -1..1 that are the same in every run.
fn noise(dtype: DType, shape: &Shape) -> Tensor {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.elements().unwrap()).map(|_| next()).collect();
    match dtype {
        DType::F32 => Tensor::from_f32(shape.clone(), values).unwrap(),
        DType::F16 => {
            let halves = values.into_iter().map(half::f16::from_f32).collect();
            Tensor::from_vec::<half::f16>(dtype, shape.clone(), halves).unwrap()
        }
        other => panic!("no noise of type {other}"),
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    match tensor.dtype() {
        DType::F32 => tensor.as_f32().unwrap().into_owned(),
        DType::F16 => bytemuck::pod_collect_to_vec::<u8, half::f16>(tensor.data())
            .into_iter()
            .map(half::f16::to_f32)
            .collect(),
        other => panic!("an answer of type {other}"),
    }
}

/// Largest difference, relative to the largest value.
fn relative_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
    let (a, b) = (floats(a), floats(b));
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    let differences: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    largest(&differences) / largest(&a)
}

#[test]
fn the_engines_agree_on_every_shared_model() {
    let Some(folder) = shared("models/onnx") else { return };
    let engines = engines();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name == "candy.onnx") {
            continue;
        }
        let Interface { inputs, outputs } = interface(&path);
        let tensors: Vec<Tensor> = inputs.iter().map(|(_, d, s)| noise(*d, s)).collect();
        let given: Vec<_> = inputs.iter().map(|i| i.0.as_str()).zip(&tensors).collect();
        let wanted: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let answers: Vec<Vec<Tensor>> = engines
            .iter()
            .map(|engine| load(&**engine, &path).run(&given, &wanted).unwrap())
            .collect();
        let name = path.file_name().unwrap().to_string_lossy();
        let tolerance = if name.contains("fp16") { 5e-3 } else { 1e-4 };
        for answer in &answers[1..] {
            for ((a, b), output) in answers[0].iter().zip(answer).zip(&outputs) {
                let difference = relative_difference(a, b);
                println!("{name} {output}: {difference:e}");
                assert!(difference <= tolerance, "{name} {output}: {difference}");
            }
        }
    }
}

#[test]
fn squeezenet_recognises_what_the_pictures_show() {
    let Some(images) = shared("images") else { return };
    let names = fs::read_to_string(images.join("imagenet_classes.txt")).unwrap();
    let labels = Labels::parse(&names);
    let cases =
        [("pelican.jpeg", "pelican"), ("burger.jpg", "cheeseburger"), ("kitten_224.png", "tabby")];
    for model in ["squeezenet1.1_imagenet_fp32.onnx", "SqueezeNet_fp16.onnx"] {
        let path = shared("models/onnx").unwrap().join(model);
        let Interface { inputs, outputs } = interface(&path);
        let (input, dtype, shape) = &inputs[0];
        let spec = Recipe::preset("imagenet-bgr").unwrap().for_input(*dtype, shape).unwrap();
        for engine in engines() {
            let mut session = load(&*engine, &path);
            for (file, expected) in cases {
                let file = fs::read(images.join(file)).unwrap();
                for encoding in InputEncoding::ALL {
                    let payload = picture::prepare(&file, &spec, encoding).unwrap();
                    let tensor = picture::finish(&payload, &spec).unwrap();
                    let answer = session.run(&[(input, &tensor)], &[&outputs[0]]).unwrap();
                    let best = top(&answer[0], &labels, 1).unwrap().remove(0);
                    let name = engine.name();
                    assert!(
                        best.label.contains(expected),
                        "{model}, {name}, {encoding}: {best:?}, not {expected}"
                    );
                }
            }
        }
    }
}

/// The single-precision array of a NumPy file of version 1.
fn read_npy(path: &Path) -> Vec<f32> {
    let file = fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([file[8], file[9]]));
    assert!(String::from_utf8_lossy(&file[10..10 + header]).contains("<f4"));
    bytemuck::pod_collect_to_vec(&file[10 + header..])
}

#[test]
fn resnets_reproduce_the_recorded_logits() {
    let Some(images) = shared("images") else { return };
    let pixels = read_npy(&images.join("cifar_test_x.npy"));
    let table = fs::read_to_string(images.join("golden/cifar100images_top1.tsv")).unwrap();
    let mean = [0.485f32, 0.456, 0.406];
    let deviation = [0.229f32, 0.224, 0.225];
    let picture = |row: usize| {
        let rows = &pixels[row * 3072..][..3072];
        let values = (0..3072).map(|i| {
            let (channel, pixel) = (i / 1024, i % 1024);
            (rows[pixel * 3 + channel] - mean[channel]) / deviation[channel]
        });
        Tensor::from_f32(Shape(vec![1, 3, 32, 32]), values.collect()).unwrap()
    };
    for model in ["resnet20_cifar10_fp32.onnx", "resnet32_cifar10_fp32.onnx"] {
        let path = shared("models/onnx").unwrap().join(model);
        let Interface { inputs, outputs } = interface(&path);
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split('\t').collect())
            .filter(|fields: &Vec<&str>| fields[0] == model)
            .collect();
        assert_eq!(lines.len(), 100);
        for engine in engines() {
            let mut session = load(&*engine, &path);
            for fields in &lines {
                let tensor = picture(fields[2].parse().unwrap());
                let answer = session.run(&[(&inputs[0].0, &tensor)], &[&outputs[0]]).unwrap();
                let expected: Vec<f32> =
                    fields[5].split(' ').map(|value| value.parse().unwrap()).collect();
                let worst = floats(&answer[0])
                    .iter()
                    .zip(&expected)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(worst < 1e-3, "{model}, {}, row {}: {worst}", engine.name(), fields[2]);
            }
        }
    }
}

fn value(name: &str, shape: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension {
        value: Some(dimension::Value::DimValue(size)),
        ..Dimension::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(DType::F32.onnx()),
        shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

/// A model of one layer from `x` to `y`, both 1x4x3x3.
fn one_layer(name: &str, op: &str, domain: &str, attributes: &[(&str, i64)]) -> Bytes {
    let attribute = |&(name, i): &(&str, i64)| AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(i),
        ..AttributeProto::default()
    };
    let node = NodeProto {
        name: Some(name.to_owned()),
        op_type: Some(op.to_owned()),
        domain: Some(domain.to_owned()),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        attribute: attributes.iter().map(attribute).collect(),
        ..NodeProto::default()
    };
    let opset = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    };
    let mut opset_import = vec![opset("", 13)];
    if !domain.is_empty() {
        opset_import.push(opset(domain, 1));
    }
    let model = ModelProto {
        ir_version: Some(8),
        opset_import,
        graph: Some(GraphProto {
            name: Some("g".to_owned()),
            node: vec![node],
            input: vec![value("x", &[1, 4, 3, 3])],
            output: vec![value("y", &[1, 4, 3, 3])],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    model.encode_to_vec().into()
}

#[test]
fn an_operator_that_an_engine_lacks_is_named_with_its_layer() {
    let lrn = one_layer("norm1", "LRN", "", &[("size", 5)]);
    let foreign = one_layer("mine", "Frobnicate", "com.example", &[]);
    let nonsense = one_layer("mine", "Frobnicate", "", &[]);
    for engine in engines() {
        let cases = [("Frobnicate", "mine", &foreign), ("Frobnicate", "mine", &nonsense)];
        let lacks_lrn = (engine.name() == "rten").then_some(("LRN", "norm1", &lrn));
        for (expected_op, expected_layer, model) in cases.into_iter().chain(lacks_lrn) {
            let loaded = engine.load(&ModelSource::Memory(model.clone()), ONE_THREAD);
            match loaded.map(|_| ()) {
                Err(EngineError::Unsupported { op, layer, .. }) => {
                    assert_eq!(op, expected_op);
                    assert_eq!(layer.as_deref(), Some(expected_layer), "{}", engine.name());
                }
                other => panic!("{}: {other:?}", engine.name()),
            }
        }
    }
}

#[test]
fn what_an_engine_cannot_run_is_known_without_loading_the_model() {
    let Some(folder) = shared("models/onnx") else { return };
    for engine in engines() {
        for file in ["squeezenet1.1_imagenet_fp32.onnx", "FastestDet.onnx", "SqueezeNet_fp16.onnx"]
        {
            let model = Model::open(&folder.join(file), &ImportOptions::default()).unwrap();
            let layers = engine::unsupported_layers(&*engine, &model.proto, &model.graph);
            assert!(layers.is_empty(), "{}, {file}: {layers:?}", engine.name());
        }
        let scratch = tempfile::tempdir().unwrap();
        for (op, is_lacking) in [("LRN", engine.name() == "rten"), ("Relu", false)] {
            let path = scratch.path().join("model.onnx");
            let attributes: &[(&str, i64)] = if op == "LRN" { &[("size", 5)] } else { &[] };
            fs::write(&path, one_layer("only", op, "", attributes)).unwrap();
            let model = Model::open(&path, &ImportOptions::default()).unwrap();
            let layers = engine::unsupported_layers(&*engine, &model.proto, &model.graph);
            let expected: &[&str] = if is_lacking { &["only"] } else { &[] };
            assert_eq!(layers, expected, "{}, {op}", engine.name());
        }
    }
}

#[test]
fn retired_operators_are_refused_by_name() {
    let Some(folder) = shared("models/onnx") else { return };
    for engine in engines() {
        let source = ModelSource::File(folder.join("candy.onnx"));
        if let Err(error) = engine.load(&source, ONE_THREAD) {
            let is_unsupported = matches!(error, EngineError::Unsupported { .. });
            assert!(is_unsupported, "{}: {error}", engine.name());
            println!("{error}");
        }
    }
}

#[test]
fn what_is_no_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let relu = one_layer("r", "Relu", "", &[]);
    fs::write(&path, &relu[..relu.len() / 2]).unwrap();
    let sources = [
        ModelSource::File(path),
        ModelSource::File(folder.path().join("absent.onnx")),
        ModelSource::Memory(Bytes::from_static(b"this is not a model at all")),
    ];
    for engine in engines() {
        for source in &sources {
            let loaded = engine.load(source, ONE_THREAD).map(|_| ());
            assert!(matches!(loaded, Err(EngineError::Load { .. })), "{source:?}: {loaded:?}");
        }
        for threads in [0, engine::MAX_THREADS + 1] {
            let source = ModelSource::Memory(relu.clone());
            assert!(engine.load(&source, LoadOptions { threads }).is_err(), "{threads} threads");
        }
    }
    assert!(matches!(engine::open("tvm"), Err(EngineError::Unknown(name)) if name == "tvm"));
}

#[test]
fn a_run_must_bring_the_declared_inputs() {
    let relu = ModelSource::Memory(one_layer("r", "Relu", "", &[]));
    let shape = Shape(vec![1, 4, 3, 3]);
    let x = noise(DType::F32, &shape);
    let half = noise(DType::F16, &shape);
    let short = noise(DType::F32, &Shape(vec![1, 4, 3, 2]));
    for engine in engines() {
        let mut session = engine.load(&relu, ONE_THREAD).unwrap();
        let mut fails = |inputs: &[(&str, &Tensor)], outputs: &[&str], words: &str| {
            let error = session.run(inputs, outputs).unwrap_err().to_string();
            assert!(error.contains(words), "{}: {error}", engine.name());
        };
        fails(&[], &["y"], "`x` is missing");
        fails(&[("x", &x), ("z", &x)], &["y"], "no input `z`");
        fails(&[("x", &x), ("x", &x)], &["y"], "twice");
        fails(&[("x", &half)], &["y"], "FP16");
        fails(&[("x", &x)], &["z"], "no output `z`");
        fails(&[("x", &short)], &["y"], "");
        let answer = session.run(&[("x", &x)], &["y"]).unwrap().remove(0);
        let expected: Vec<f32> = floats(&x).iter().map(|v| v.max(0.0)).collect();
        assert_eq!(floats(&answer), expected);
        assert_eq!(Some(answer.data().len() as u64), byte_size(DType::F32, &shape).map(|b| b.0));
    }
}

#[test]
fn an_answer_outlives_its_session() {
    let relu = ModelSource::Memory(one_layer("r", "Relu", "", &[]));
    let x = noise(DType::F32, &Shape(vec![1, 4, 3, 3]));
    for engine in engines() {
        let mut session = engine.load(&relu, ONE_THREAD).unwrap();
        let first = session.run(&[("x", &x)], &["y"]).unwrap().remove(0);
        let copy = first.data().to_vec();
        let negative = Tensor::from_f32(x.shape().clone(), vec![-1.0; 36]).unwrap();
        let _second = session.run(&[("x", &negative)], &["y"]).unwrap();
        drop(session);
        assert_eq!(first.data()[..], copy[..], "{}", engine.name());
    }
}

#[test]
fn every_engine_has_a_status() {
    let statuses = engine::available();
    let names: Vec<_> = statuses.iter().map(|status| status.name).collect();
    assert_eq!(names, engine::NAMES);
    for status in statuses {
        assert_eq!(status.available, engine::open(status.name).is_ok(), "{status:?}");
        assert_eq!(status.available, status.version.is_some(), "{status:?}");
        assert!(!status.reason.is_empty());
    }
}
