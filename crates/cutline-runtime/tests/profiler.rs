//! A whole profile of a small network: what it holds, what it costs, and what it is worth.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use cutline_core::{
    onnx::ImportOptions,
    profile::Part,
    split::encode,
    tflite::{
        schema::tflite::{
            BlockOptions, BuiltinOperator, BuiltinOptions, Model as File, NoOptions, Operator,
            OperatorCode, SignatureDef, SubGraph, Tensor, TensorMap, TensorType,
        },
        write,
    },
    units::{Bytes, Nanos},
    zoo::{self, ZooOptions},
};
use cutline_runtime::{
    agent::kernels::samples,
    engine::{self, fake::Fake, rten::Rten},
    files,
    meter::{Meter, MeterError, Reading},
    model::Model,
    profiler::{EnergyJob, ProfileError, ProfileJob, Progress, SweepJob, energy, profile, sweep},
};

fn lenet(folder: &Path) -> Model {
    let options = ZooOptions { input_size: None, seed: 7 };
    let proto = zoo::build("lenet5", &options).unwrap();
    let path = folder.join("lenet.onnx");
    files::write_atomic(&path, &encode(&proto), folder).unwrap();
    Model::open(&path, &ImportOptions::default()).unwrap()
}

#[test]
fn a_profile_explains_what_was_measured_and_keeps_its_budget() {
    let folder = tempfile::tempdir().unwrap();
    let model = lenet(folder.path());
    let job = ProfileJob { max_inferences: 100, ..ProfileJob::default() };
    let mut last = Progress { done: 0, total: 0 };
    let result = profile(&model, &Rten, &job, &mut |progress| last = progress).unwrap();

    assert!(last.done <= 100 && last.done == last.total.min(last.done), "{last:?}");
    assert_eq!(result.key.engine, "rten");
    assert_eq!(result.key.model_sha256, model.sha256().unwrap());
    assert_eq!(result.key.precision, "fp32");
    let names: Vec<_> = result.groups.iter().map(|group| &group.name).collect();
    let expected: Vec<_> = model.grouping.dag.groups().iter().map(|group| &group.name).collect();
    assert_eq!(names, expected);
    let parts: BTreeSet<_> = result.segments.iter().map(|segment| segment.part as u8).collect();
    assert_eq!(parts.len(), 3, "prefixes, suffixes and the whole are measured");
    for segment in &result.segments {
        assert!(segment.timing.count >= 3, "{segment:?}");
        assert!(segment.timing.median_ns > Nanos::ZERO);
        assert_eq!(segment.cut.is_empty(), segment.part == Part::Whole);
    }
}

#[test]
fn codecs_are_timed_where_there_are_runs_to_spend() {
    let folder = tempfile::tempdir().unwrap();
    let model = lenet(folder.path());
    let mut last = Progress { done: 0, total: 0 };
    let job = ProfileJob { max_inferences: 400, ..ProfileJob::default() };
    let result = profile(&model, &Rten, &job, &mut |progress| last = progress).unwrap();
    assert!(last.done <= 400, "{last:?}");
    assert_eq!(result.version, 2);
    let names: Vec<&String> = result.coding.keys().collect();
    assert_eq!(names, ["bits2", "bits4", "bits8", "fp16", "uint8"]);
    // A codec reads or writes every byte: neither half takes no time for a megabyte, nor a second.
    for (name, time) in &result.coding {
        for half in [time.encode, time.decode] {
            let megabyte = half.fixed_ns.0 + half.per_kb_ns.0 * 1000;
            assert!(megabyte < 1_000_000_000, "{name}: {half:?}");
        }
        let both = time.encode.per_kb_ns.0 + time.decode.per_kb_ns.0;
        assert!(both > 0 || time.encode.fixed_ns.0 + time.decode.fixed_ns.0 > 0, "{name}");
    }
    let few = ProfileJob { max_inferences: 60, ..ProfileJob::default() };
    let result = profile(&model, &Rten, &few, &mut |_| ()).unwrap();
    assert!(result.coding.is_empty(), "their runs would be most of those allowed");
}

#[test]
fn a_slower_device_has_a_slower_profile() {
    let folder = tempfile::tempdir().unwrap();
    let model = lenet(folder.path());
    let delay = Duration::from_millis(2);
    let engine = Fake { delay, unsupported: None };
    let job = ProfileJob { max_inferences: 60, slowdown_permille: 5000, ..ProfileJob::default() };
    let result = profile(&model, &engine, &job, &mut |_| ()).unwrap();
    for segment in &result.segments {
        assert!(segment.timing.median_ns >= Nanos(10_000_000), "{segment:?}");
    }
    assert_eq!(result.slowdown_permille, 5000);
}

#[test]
fn layers_that_the_engine_lacks_are_named_and_have_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let model = lenet(folder.path());
    let job = ProfileJob { max_inferences: 60, ..ProfileJob::default() };
    let engine = Fake { unsupported: Some("Conv".to_owned()), ..Fake::default() };
    let result = profile(&model, &engine, &job, &mut |_| ()).unwrap();
    assert_eq!(result.unsupported, ["conv1", "conv2"]);
    assert!(result.segments.iter().all(|segment| segment.part == Part::Suffix));
    assert!(result.groups.len() < model.grouping.dag.groups().len());
}

/// A file whose middle operator is several layers here.
fn blocks(folder: &Path) -> Model {
    let tensor = |name: &str, shape: [i32; 4]| Tensor {
        shape: Some(shape.to_vec()),
        type_: TensorType::Float32,
        name: Some(name.to_owned()),
        ..Tensor::default()
    };
    let (swish, move_blocks) = (BuiltinOperator::HardSwish, BuiltinOperator::SpaceToDepth);
    let code = |kind: BuiltinOperator| OperatorCode {
        deprecated_builtin_code: kind as i32 as i8,
        builtin_code: kind,
        version: 1,
        ..OperatorCode::default()
    };
    let operator = |code: u32, input: i32, options: BuiltinOptions| Operator {
        opcode_index: code,
        inputs: Some(vec![input]),
        outputs: Some(vec![input + 1]),
        builtin_options: Some(options),
        ..Operator::default()
    };
    let none = || BuiltinOptions::HardSwishOptions(Box::new(NoOptions {}));
    let options = BlockOptions { block_size: 2 };
    let names = ["x", "a", "b", "y"];
    let shapes = [[1, 4, 4, 3], [1, 4, 4, 3], [1, 2, 2, 12], [1, 2, 2, 12]];
    let end = |at: u32| {
        let name = Some(names[at as usize].to_owned());
        Some(vec![TensorMap { name, tensor_index: at }])
    };
    let file = File {
        version: 3,
        operator_codes: Some(vec![code(swish), code(move_blocks)]),
        subgraphs: Some(vec![SubGraph {
            tensors: Some(names.iter().zip(shapes).map(|(n, s)| tensor(n, s)).collect()),
            inputs: Some(vec![0]),
            outputs: Some(vec![3]),
            operators: Some(vec![
                operator(0, 0, none()),
                operator(1, 1, BuiltinOptions::SpaceToDepthOptions(Box::new(options))),
                operator(0, 2, none()),
            ]),
            ..SubGraph::default()
        }]),
        signature_defs: Some(vec![SignatureDef {
            inputs: end(0),
            outputs: end(3),
            signature_key: Some("serving_default".to_owned()),
            subgraph_index: 0,
        }]),
        ..File::default()
    };
    let path = folder.join("blocks.tflite");
    std::fs::write(&path, write::encode(&file, &[&[]]).unwrap()).unwrap();
    Model::open(&path, &ImportOptions::default()).unwrap()
}

#[test]
fn a_file_is_measured_between_its_operators() {
    let Ok(litert) = engine::open("litert").inspect_err(|error| eprintln!("skipped: {error}"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = blocks(folder.path());
    assert!(model.graph.layers().len() > 3, "an operator is several layers");
    assert_eq!(model.grouping.dag.groups().len(), 3, "but one group");
    let job = ProfileJob { max_inferences: 100, ..ProfileJob::default() };
    let result = profile(&model, &*litert, &job, &mut |_| ()).unwrap();
    let parts: BTreeSet<_> = result.segments.iter().map(|segment| segment.part as u8).collect();
    assert_eq!(parts.len(), 3, "prefixes, suffixes and the whole are measured");
}

#[test]
fn a_budget_of_nothing_measures_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = lenet(folder.path());
    let job = ProfileJob { max_time: Duration::ZERO, ..ProfileJob::default() };
    let outcome = profile(&model, &Rten, &job, &mut |_| ());
    assert!(matches!(outcome, Err(ProfileError::Budget { .. })), "{outcome:?}");
}

/// A meter of a machine that takes 2 W, and another one in every run since the mark.
struct Steady {
    marked: Instant,
    marks: u32,
}

impl Meter for Steady {
    fn name(&self) -> &'static str {
        "steady"
    }

    fn covers(&self) -> String {
        "a made-up machine".to_owned()
    }

    fn mark(&mut self) -> Result<(), MeterError> {
        (self.marked, self.marks) = (Instant::now(), self.marks + 1);
        Ok(())
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        let time = self.marked.elapsed();
        // It idles at first, and computes from the second mark on.
        let watts = if self.marks == 1 { 2.0 } else { 5.0 };
        Ok(Reading { energy_uj: (time.as_secs_f64() * watts * 1e6) as u64, time })
    }
}

#[test]
fn the_energy_of_an_inference_is_all_that_a_meter_counted_over_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let model = lenet(folder.path());
    let delay = Duration::from_millis(4);
    let engine = Fake { delay, unsupported: None };
    let windows = EnergyJob {
        idle: Duration::from_millis(30),
        running: Duration::from_millis(100),
        most: Duration::from_secs(60),
    };
    let mut meter = Steady { marked: Instant::now(), marks: 0 };
    let job = ProfileJob::default();
    let found = energy(&model, &engine, &job, windows, &mut meter).unwrap();
    assert_eq!((found.meter.as_str(), found.covers.as_str()), ("steady", "a made-up machine"));
    assert!(found.idle_uw.0.abs_diff(2_000_000) < 2_000, "{found:?}");
    assert!(found.inferences >= 3 && found.time_ns >= Nanos(100_000_000), "{found:?}");
    let joules = found.time_ns.0 as f64 * 5.0 / f64::from(found.inferences);
    assert!((found.inference_nj.0 as f64 / joules - 1.0).abs() < 0.001, "{found:?}");
}

#[test]
fn energy_is_refused_where_it_would_not_be_the_networks() {
    let folder = tempfile::tempdir().unwrap();
    let model = lenet(folder.path());
    let mut meter = Steady { marked: Instant::now(), marks: 0 };
    let mut refused = |engine: &Fake, job: &ProfileJob| {
        let outcome = energy(&model, engine, job, EnergyJob::default(), &mut meter);
        outcome.unwrap_err().to_string()
    };
    let paced = ProfileJob { slowdown_permille: 4000, ..ProfileJob::default() };
    assert!(refused(&Fake::default(), &paced).contains("slower than this machine"));
    let partial = Fake { unsupported: Some("Conv".to_owned()), ..Fake::default() };
    assert!(refused(&partial, &ProfileJob::default()).contains("lacks conv1"));
}

#[test]
fn a_profile_knows_the_memory_of_the_whole_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.onnx");
    let options = ZooOptions { input_size: Some(64), seed: 0 };
    let proto = zoo::build("resnet18", &options).unwrap();
    files::write_atomic(&path, &encode(&proto), folder.path()).unwrap();
    let model = Model::open(&path, &ImportOptions::default()).unwrap();
    let job = ProfileJob { max_inferences: 30, ..ProfileJob::default() };
    let result = profile(&model, &Rten, &job, &mut |_| ()).unwrap();
    let Some(memory) = result.memory else {
        println!("skipped: this system does not say what a process has");
        return;
    };
    // 47 MB of parameters and few values; other tests of this process take memory meanwhile.
    let parameters: u64 =
        model.grouping.dag.groups().iter().map(|group| group.parameter_bytes.0).sum();
    assert!(memory.counted_bytes.0 >= parameters && memory.predicted.is_none());
    assert!(memory.network_bytes.0 > parameters / 2, "{memory:?}");
    assert!(memory.network_bytes.0 < 8 * parameters, "{memory:?}");
}

#[test]
fn a_sweep_ends_when_its_time_is_over_with_what_had_a_turn() {
    let networks = ["lenet5", "squeezenet"].map(|name| (name.to_owned(), Some(32)));
    let samples = samples(0, &networks);
    let measured = |max_time| {
        // One network at a time.
        let job = SweepJob { rounds: 2, max_time, memory: Bytes(0), ..SweepJob::default() };
        sweep(&samples, &Rten, &job, &mut |_| ()).unwrap().samples.len()
    };
    assert_eq!(measured(Duration::from_secs(600)), 2);
    assert_eq!(measured(Duration::ZERO), 1);
}
