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
    tensor::{DType, Shape, byte_size},
    tflite::split::{Part, Wiring, part, wiring},
};
use cutline_runtime::{
    engine::{self, EngineError, LoadOptions, ModelSource, SharedEngine},
    tensor::Tensor,
};

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
        engine.load(&source, LoadOptions { threads: 1 }).err().unwrap()
    };
    let onnx = cutline_core::zoo::build("lenet5", &Default::default()).unwrap();
    let error = load(prost::Message::encode_to_vec(&onnx));
    assert!(matches!(&error, EngineError::Load { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(".tflite") && text.contains("onnxruntime"), "{text}");
    // A file that says of its convolutions' scales that they lie on another axis.
    let Some(path) = model("person_detect") else { return };
    let text = load(fs::read(path).unwrap()).to_string();
    assert!(text.contains("`litert`") && text.contains("status"), "{text}");
}

#[test]
fn an_input_of_another_name_type_or_shape_is_refused() {
    let Some(engine) = litert() else { return };
    let Some(path) = model(MODELS[3].0) else { return };
    let mut session = engine.load(&ModelSource::File(path), LoadOptions { threads: 1 }).unwrap();
    let right = noise(DType::I8, &Shape(vec![1, 32, 32, 3]));
    let two = noise(DType::I8, &Shape(vec![2, 32, 32, 3]));
    let bytes = noise(DType::U8, &Shape(vec![1, 32, 32, 3]));
    let cases: [(&[(&str, &Tensor)], &str, &str); 5] = [
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
        let file = fs::read(&path).unwrap();
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
                let mut session = engine.load(&source, LoadOptions { threads: 1 }).unwrap();
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
