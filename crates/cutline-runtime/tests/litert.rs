//! The engine for `.tflite` files against the Python package that brings its library.
//!
//! Needs the shared models, the library, and for the comparison a Python with `ai-edge-litert` in
//! `CUTLINE_PYTHON`; what is absent is skipped with a line that says so.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use cutline_core::{
    codec::CutCodecs,
    cut::{Cut, candidate_cuts, stages_of_cut},
    onnx::ImportOptions,
    split::{Format, StageLabel},
    tensor::{DType, Shape, byte_size},
    tflite::{
        schema::tflite::{
            BuiltinOperator, BuiltinOptions, Model as File, NoOptions, Operator, OperatorCode,
            SignatureDef, SubGraph, Tensor as FileTensor, TensorMap,
        },
        split::{Part, Wiring, part, wiring},
        write::encode,
    },
};
use cutline_runtime::{
    engine::{self, EngineError, LoadOptions, ModelSource, SharedEngine},
    model::Model,
    parts,
    tensor::Tensor,
    verify,
};

const ONE_THREAD: LoadOptions = LoadOptions { threads: 1 };

/// The files that LiteRT takes: name, input and its type and shape, output.
const MODELS: [(&str, &str, DType, [u64; 4], &str); 6] = [
    (
        "mobilenet_v1_0.25_224_1_default_1",
        "input",
        DType::F32,
        [1, 224, 224, 3],
        "MobilenetV1/Predictions/Reshape_1",
    ),
    ("tf2_mobilenet_v2_1.0_224_ptq", "input", DType::U8, [1, 224, 224, 3], "Identity"),
    ("pretrainedResnet", "input_1", DType::F32, [1, 32, 32, 3], "Identity"),
    ("pretrainedResnet_quant", "input_1_int8", DType::I8, [1, 32, 32, 3], "Identity_int8"),
    ("vww_96_float", "input_1", DType::F32, [1, 96, 96, 3], "Identity"),
    ("vww_96_int8", "input_1_int8", DType::I8, [1, 96, 96, 3], "Identity_int8"),
];

/// Runs a file on the bytes of its only input; writes those of its only output.
const INTERPRETER: &str = "
import sys, numpy
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
[entry] = interpreter.get_input_details()
[answer] = interpreter.get_output_details()
data = numpy.fromfile(sys.argv[2], entry['dtype']).reshape(entry['shape'])
interpreter.set_tensor(entry['index'], data)
interpreter.invoke()
interpreter.get_tensor(answer['index']).tofile(sys.argv[3])
";

fn model(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/tflite");
    let path = folder.join(name).with_added_extension("tflite");
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
    }
    path.exists().then_some(path)
}

fn litert() -> Option<SharedEngine> {
    engine::open("litert").inspect_err(|error| eprintln!("skipped: {error}")).ok()
}

/// Any bytes for integers, values from 0 to 1 for floats.
fn noise(dtype: DType, shape: &Shape) -> Tensor {
    let bytes = byte_size(dtype, shape).unwrap().0;
    let random = |index: u64| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32;
    let data: Vec<u8> = match dtype {
        DType::F32 => (0..bytes / 4)
            .flat_map(|index| (random(index) as f32 / (1 << 24) as f32).to_le_bytes())
            .collect(),
        _ => (0..bytes).map(|index| random(index) as u8).collect(),
    };
    Tensor::new(dtype, shape.clone(), Bytes::from(data)).unwrap()
}

fn run(engine: &SharedEngine, source: &ModelSource, threads: usize, index: usize) -> Bytes {
    let (name, input, dtype, shape, output) = MODELS[index];
    let tensor = noise(dtype, &Shape(shape.to_vec()));
    let mut session = engine.load(source, LoadOptions { threads }).unwrap();
    let first = session.run(&[(input, &tensor)], &[output]).unwrap().remove(0);
    let second = session.run(&[(input, &tensor)], &[output]).unwrap().remove(0);
    assert_eq!(first, second, "{name}: the same question, another answer");
    first.data().clone()
}

#[test]
fn answers_are_those_of_the_python_package_bit_for_bit() {
    let Some(engine) = litert() else { return };
    let Some(python) = env::var_os("CUTLINE_PYTHON") else {
        eprintln!("skipped: CUTLINE_PYTHON names no Python");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (question, answer) = (folder.path().join("question"), folder.path().join("answer"));
    for (index, (name, _, dtype, shape, _)) in MODELS.into_iter().enumerate() {
        let Some(path) = model(name) else { continue };
        fs::write(&question, noise(dtype, &Shape(shape.to_vec())).data()).unwrap();
        let mut command = Command::new(&python);
        command.args(["-c", INTERPRETER]).args([&path, &question, &answer]);
        let said = command.output().unwrap();
        assert!(said.status.success(), "{name}: {}", String::from_utf8_lossy(&said.stderr));
        let ours = run(&engine, &ModelSource::File(path), 1, index);
        assert_eq!(ours[..], fs::read(&answer).unwrap()[..], "{name}");
    }
}

#[test]
fn neither_threads_nor_where_a_model_lies_change_an_answer() {
    let Some(engine) = litert() else { return };
    for index in [2, 3, 5] {
        let Some(path) = model(MODELS[index].0) else { continue };
        let mut moved = vec![0u8];
        moved.extend(fs::read(&path).unwrap());
        let misaligned = ModelSource::Memory(Bytes::from(moved).slice(1..));
        let file = ModelSource::File(path);
        let alone = run(&engine, &file, 1, index);
        assert_eq!(alone, run(&engine, &file, 3, index));
        assert_eq!(alone, run(&engine, &misaligned, 2, index));
    }
}

#[test]
fn sessions_on_several_threads_do_not_disturb_each_other() {
    let Some(engine) = litert() else { return };
    let Some(path) = model(MODELS[3].0) else { return };
    let file = ModelSource::File(path);
    let expected = run(&engine, &file, 1, 3);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| run(&engine, &file, 1, 3))).collect();
        for run in runs {
            assert_eq!(run.join().unwrap(), expected);
        }
    });
}

#[test]
fn what_it_cannot_run_is_refused_with_the_way_out() {
    let Some(engine) = litert() else { return };
    let load = |bytes: Vec<u8>| {
        let source = ModelSource::Memory(bytes.into());
        engine.load(&source, ONE_THREAD).err().unwrap()
    };
    let onnx = cutline_core::zoo::build("lenet5", &Default::default()).unwrap();
    let error = load(prost::Message::encode_to_vec(&onnx));
    assert!(matches!(&error, EngineError::Load { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(".tflite") && text.contains("onnxruntime"), "{text}");
    // A file that says of its convolutions' scales that they lie on another axis.
    let Some(path) = model("person_detect") else { return };
    let text = load(fs::read(path).unwrap()).to_string();
    assert!(text.contains("`litert`") && text.contains("quantised along axis 3"), "{text}");
}

#[test]
fn an_input_of_another_name_type_or_shape_is_refused() {
    let Some(engine) = litert() else { return };
    let Some(path) = model(MODELS[3].0) else { return };
    let mut session = engine.load(&ModelSource::File(path), ONE_THREAD).unwrap();
    let right = noise(DType::I8, &Shape(vec![1, 32, 32, 3]));
    let two = noise(DType::I8, &Shape(vec![2, 32, 32, 3]));
    let bytes = noise(DType::U8, &Shape(vec![1, 32, 32, 3]));
    /// Inputs, the output asked for, words of the refusal.
    type Case<'a> = (&'a [(&'a str, &'a Tensor)], &'a str, &'a str);
    let cases: [Case; 5] = [
        (&[("x", &right)], "Identity_int8", "no input `x`"),
        (&[], "Identity_int8", "`input_1_int8` is missing"),
        (&[("input_1_int8", &two)], "Identity_int8", "the model declares"),
        (&[("input_1_int8", &bytes)], "Identity_int8", "the model declares"),
        (&[("input_1_int8", &right)], "y", "no output `y`"),
    ];
    for (inputs, output, words) in cases {
        let text = session.run(inputs, &[output]).unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    }
    assert!(session.run(&[("input_1_int8", &right)], &["Identity_int8"]).is_ok());
}

/// The library would write beyond a buffer of the shape that this file states.
#[test]
fn an_answer_has_the_shape_that_is_computed_whatever_the_file_says() {
    let Some(engine) = litert() else { return };
    let tensor = |name: &str, channels: i32| FileTensor {
        shape: Some(vec![1, 64, 64, channels]),
        name: Some(name.to_owned()),
        ..FileTensor::default()
    };
    let end = |name: &str, tensor_index: u32| {
        Some(vec![TensorMap { name: Some(name.to_owned()), tensor_index }])
    };
    let kind = BuiltinOperator::HardSwish;
    let file = File {
        version: 3,
        operator_codes: Some(vec![OperatorCode {
            deprecated_builtin_code: kind as i32 as i8,
            builtin_code: kind,
            version: 1,
            ..OperatorCode::default()
        }]),
        subgraphs: Some(vec![SubGraph {
            tensors: Some(vec![tensor("x", 12), tensor("y", 1)]),
            inputs: Some(vec![0]),
            outputs: Some(vec![1]),
            operators: Some(vec![Operator {
                inputs: Some(vec![0]),
                outputs: Some(vec![1]),
                builtin_options: Some(BuiltinOptions::HardSwishOptions(Box::new(NoOptions {}))),
                ..Operator::default()
            }]),
            ..SubGraph::default()
        }]),
        signature_defs: Some(vec![SignatureDef {
            inputs: end("x", 0),
            outputs: end("y", 1),
            signature_key: Some("serving_default".to_owned()),
            subgraph_index: 0,
        }]),
        ..File::default()
    };
    let source = ModelSource::Memory(encode(&file, &[&[]]).unwrap());
    let mut session = engine.load(&source, ONE_THREAD).unwrap();
    let shape = Shape(vec![1, 64, 64, 12]);
    let answers = session.run(&[("x", &noise(DType::F32, &shape))], &["y"]).unwrap();
    assert_eq!(*answers[0].shape(), shape);
}

/// The operators of a file in two parts: those before a place, and the rest.
fn halves(wiring: &Wiring, place: usize) -> [Part; 2] {
    let made = |range: std::ops::Range<usize>| -> BTreeSet<usize> {
        wiring.operators[range].iter().flat_map(|(_, makes)| makes.iter().copied()).collect()
    };
    let read: BTreeSet<usize> =
        wiring.operators[place..].iter().flat_map(|(reads, _)| reads.iter().copied()).collect();
    let crossing: Vec<usize> = made(0..place).intersection(&read).copied().collect();
    let inputs = |range: std::ops::Range<usize>| {
        let reads = |tensor: &&usize| {
            wiring.operators[range.clone()].iter().any(|(reads, _)| reads.contains(tensor))
        };
        wiring.inputs.iter().filter(reads).copied().collect::<Vec<_>>()
    };
    let outputs = |made: BTreeSet<usize>| {
        wiring.outputs.iter().filter(|tensor| made.contains(tensor)).copied().collect::<Vec<_>>()
    };
    let all = wiring.operators.len();
    let (before, after) = (outputs(made(0..place)), outputs(made(place..all)));
    [
        Part {
            operators: (0..place).collect(),
            inputs: inputs(0..place),
            outputs: crossing.iter().copied().chain(before).collect(),
        },
        Part {
            operators: (place..all).collect(),
            inputs: inputs(place..all).into_iter().chain(crossing).collect(),
            outputs: after,
        },
    ]
}

/// Every place between two operators, or a few of them unless all are asked for.
fn places(operators: usize) -> Vec<usize> {
    match env::var("CUTLINE_INTEROP").as_deref() {
        Ok("all") => (1..operators).collect(),
        _ => [1, operators / 3, 2 * operators / 3, operators - 1].into(),
    }
}

#[test]
fn both_halves_of_a_file_answer_as_the_whole_bit_for_bit() {
    let Some(engine) = litert() else { return };
    for (index, (name, input, dtype, shape, output)) in MODELS.into_iter().enumerate() {
        let Some(path) = model(name) else { continue };
        let file = Bytes::from(fs::read(&path).unwrap());
        let whole = run(&engine, &ModelSource::File(path), 1, index);
        let wiring = wiring(&file).unwrap();
        for place in places(wiring.operators.len()) {
            let mut known =
                BTreeMap::from([(input.to_owned(), noise(dtype, &Shape(shape.to_vec())))]);
            for half in halves(&wiring, place) {
                let bytes = part(&file, &wiring.names, &half).unwrap();
                assert!(bytes.len() < file.len() + 4096, "{name} at {place}");
                let names = |tensors: &[usize]| -> Vec<String> {
                    tensors.iter().map(|&tensor| wiring.names[tensor].clone()).collect()
                };
                let source = ModelSource::Memory(bytes);
                let mut session = engine.load(&source, ONE_THREAD).unwrap();
                let (reads, makes) = (names(&half.inputs), names(&half.outputs));
                let given: Vec<_> = reads.iter().map(|n| (n.as_str(), &known[n])).collect();
                let asked: Vec<_> = makes.iter().map(String::as_str).collect();
                let answers = session.run(&given, &asked).unwrap();
                known.extend(makes.into_iter().zip(answers));
            }
            assert_eq!(known[output].data(), &whole, "{name}, cut before operator {place}");
        }
    }
}

/// Candidate cuts that have layers on both sides: all of them, or a few unless all are asked for.
fn cuts(model: &Model) -> Vec<Cut> {
    let real = |cut: &Cut| cut.before.contains(&true) && cut.before.contains(&false);
    let all: Vec<Cut> = candidate_cuts(&model.grouping.dag).into_iter().filter(real).collect();
    let step = match env::var("CUTLINE_INTEROP").as_deref() {
        Ok("all") => 1,
        _ => all.len().div_ceil(3).max(1),
    };
    all.into_iter().step_by(step).collect()
}

/// How far the halves of every cut are from the whole, in one engine and format.
fn worst(engine: &SharedEngine, model: &Model, format: Format, index: usize) -> (usize, f64, f64) {
    let (name, input, dtype, shape, _) = MODELS[index];
    let question = noise(dtype, &Shape(shape.to_vec()));
    let inputs = BTreeMap::from([(input.to_owned(), question)]);
    let mut whole = engine.load(&ModelSource::File(model.path.clone()), ONE_THREAD).unwrap();
    let expected = verify::run_whole(whole.as_mut(), &model.graph, &inputs).unwrap();
    let (mut unequal, mut steps, mut relative) = (0, 0f64, 0f64);
    for cut in cuts(model) {
        let stages = stages_of_cut(&model.graph, &model.grouping, &cut);
        let labels = [StageLabel::new("first"), StageLabel::new("second")];
        let halves = model.split(format, &stages, &labels, &CutCodecs::default());
        let at: Vec<_> = cut.flows.iter().map(|&f| &model.grouping.dag.flow(f).name).collect();
        let halves = halves.unwrap_or_else(|error| panic!("{name} at {at:?}: {error}"));
        let sent: u64 = halves[0]
            .outputs
            .iter()
            .map(|port| byte_size(port.dtype.unwrap(), port.shape.as_ref().unwrap()).unwrap().0)
            .sum();
        assert!(format == Format::Onnx || Some(sent) == cut.bytes.map(|b| b.0), "{name}: {at:?}");
        let mut parts = parts::load(engine.as_ref(), ONE_THREAD, &halves, model.folder())
            .unwrap_or_else(|error| panic!("{name} at {at:?}: {error:?}"));
        let answers = verify::run_parts(&mut parts, &model.graph, &inputs).unwrap();
        for ((output, whole), (_, parts)) in expected.iter().zip(&answers) {
            let diff = verify::compare(output, whole, parts).unwrap();
            if !diff.bit_equal {
                unequal += 1;
                eprintln!("{name} at {at:?} in {}: {diff:?}", engine.name());
            }
            steps = steps.max(diff.max_abs_diff);
            relative = relative.max(diff.relative());
        }
    }
    (unequal, steps, relative)
}

#[test]
fn the_parts_of_every_candidate_cut_answer_as_the_whole() {
    for (index, (name, _, dtype, ..)) in MODELS.into_iter().enumerate() {
        let Some(path) = model(name) else { continue };
        let model = Model::open(&path, &ImportOptions::default()).unwrap();
        for engine in ["litert", "rten", "onnxruntime"] {
            let Ok(engine) = engine::open(engine).inspect_err(|e| eprintln!("skipped: {e}")) else {
                continue;
            };
            let format = engine::part_format(engine.name());
            let (unequal, steps, relative) = worst(&engine, &model, format, index);
            let cuts = cuts(&model).len();
            eprintln!(
                "{name} in {}: {cuts} cuts, {unequal} not equal bit for bit, at most {steps:e} \
                 ({relative:e} of the largest)",
                engine.name()
            );
            match (engine.name(), dtype) {
                ("litert", _) => assert_eq!(unequal, 0, "{name}"),
                (_, DType::F32) => assert!(relative <= 1e-5, "{name}: {relative}"),
                ("rten", _) => assert_eq!(unequal, 0, "{name}"),
                // It rewrites pairs of quantising and dequantising layers, which look different where
                // a network ends.
                (_, _) => assert!(steps <= 16.0, "{name}: {steps} steps of quantisation"),
            }
        }
    }
}

/// Every shared photograph as the quantised network reads it.
fn photographs() -> Vec<(PathBuf, Tensor)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/images");
    let entries = [folder.clone(), folder.join("coral")].into_iter().filter_map(|folder| {
        fs::read_dir(&folder).inspect_err(|e| eprintln!("skipped: {}: {e}", folder.display())).ok()
    });
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let tensor = |path: PathBuf| {
        let picture = image::open(&path).ok()?;
        let filter = image::imageops::FilterType::Triangle;
        let pixels = picture.resize_exact(224, 224, filter).to_rgb8().into_raw();
        Some((path, Tensor::new(DType::U8, Shape(vec![1, 224, 224, 3]), pixels).unwrap()))
    };
    paths.into_iter().filter_map(tensor).collect()
}

#[test]
fn a_photograph_keeps_its_best_class_through_every_candidate_cut() {
    let (name, input, ..) = MODELS[1];
    let Some(path) = model(name) else { return };
    let model = Model::open(&path, &ImportOptions::default()).unwrap();
    let mut photographs = photographs();
    if env::var("CUTLINE_INTEROP").as_deref() != Ok("all") {
        photographs.truncate(3);
    }
    for engine in ["litert", "rten", "onnxruntime"] {
        let Ok(engine) = engine::open(engine).inspect_err(|e| eprintln!("skipped: {e}")) else {
            continue;
        };
        let format = engine::part_format(engine.name());
        let question = |tensor: &Tensor| BTreeMap::from([(input.to_owned(), tensor.clone())]);
        let mut whole = engine.load(&ModelSource::File(path.clone()), ONE_THREAD).unwrap();
        let expected: Vec<Tensor> = photographs
            .iter()
            .map(|(_, tensor)| {
                let answers = verify::run_whole(whole.as_mut(), &model.graph, &question(tensor));
                answers.unwrap().remove(0).1
            })
            .collect();
        let (mut other, mut unequal) = (Vec::new(), 0);
        for cut in cuts(&model) {
            let stages = stages_of_cut(&model.graph, &model.grouping, &cut);
            let labels = [StageLabel::new("first"), StageLabel::new("second")];
            let halves = model.split(format, &stages, &labels, &CutCodecs::default()).unwrap();
            let mut parts =
                parts::load(engine.as_ref(), ONE_THREAD, &halves, model.folder()).unwrap();
            for ((path, tensor), expected) in photographs.iter().zip(&expected) {
                let answers = verify::run_parts(&mut parts, &model.graph, &question(tensor));
                let answer = answers.unwrap().remove(0).1;
                unequal += usize::from(answer != *expected);
                let best = |tensor: &Tensor| {
                    let scores = tensor.data();
                    let most = scores.iter().max().copied();
                    (0..scores.len()).filter(|&at| Some(scores[at]) == most).collect::<Vec<_>>()
                };
                if best(&answer)[0] != best(expected)[0] {
                    other.push((path.clone(), halves[0].outputs.clone(), best(expected)));
                }
            }
        }
        eprintln!(
            "{name} in {}: {} photographs through {} cuts, {} with another best class, {unequal} \
             answers not equal bit for bit",
            engine.name(),
            photographs.len(),
            cuts(&model).len(),
            other.len()
        );
        assert!(other.is_empty(), "{}: {other:?}", engine.name());
        assert!(engine.name() == "onnxruntime" || unequal == 0, "{}", engine.name());
    }
}
