//! Real networks split into packages on disk and run: the parts answer as the whole does.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use cutline_core::{
    cut::{Cut, candidate_cuts, stages_at, stages_of_cut},
    onnx::{
        ImportOptions,
        proto::{ModelProto, StringStringEntryProto},
    },
    package::packages,
    split::{StageLabel, encode, split},
    zoo::{self, ZooOptions},
};
use cutline_runtime::{
    engine::{self, LoadOptions, ModelSource},
    files::{write_atomic, write_package},
    model::Model,
    tensor::Tensor,
    verify::{self, OutputDiff},
};

const ONE_THREAD: LoadOptions = LoadOptions { threads: 1 };

/// Real models that the engine runs, and how far the parts may be off, relative to the largest
/// output.
const MODELS: [(&str, f64); 7] = [
    ("FastestDet.onnx", 1e-5),
    ("SqueezeNet_fp16.onnx", 2e-3),
    ("opt-mnist.onnx", 1e-5),
    ("resnet20_cifar10_fp32.onnx", 1e-5),
    ("resnet32_cifar10_fp32.onnx", 1e-5),
    ("squeezenet1.1_imagenet_fp32.onnx", 1e-5),
    ("version-RFB-320.onnx", 1e-5),
];

fn shared(name: &str) -> Option<PathBuf> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/onnx").join(name);
    if !path.exists() {
        eprintln!("skipped: no {name} beside the project");
        return None;
    }
    Some(path)
}

fn labels(count: usize) -> Vec<StageLabel> {
    (0..count).map(|index| StageLabel::new(format!("part{index}"))).collect()
}

/// Splits a model into packages on disk, runs both in the engine, compares.
fn split_and_verify(model: &Model, stage_of: &[Option<u32>]) -> Vec<OutputDiff> {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("parts");
    let count = stage_of.iter().flatten().max().map_or(1, |&last| last as usize + 1);
    let parts = split(&model.proto, &model.graph, stage_of, &labels(count)).unwrap();
    let packages = packages(&parts).unwrap();
    write_package(&folder, b"{}", &packages, model).unwrap();
    let engine = engine::open("rten").unwrap();
    let inputs = verify::random_inputs(&model.graph, 1).unwrap();
    let whole = ModelSource::File(model.path.clone());
    verify::verify(engine.as_ref(), ONE_THREAD, (&whole, &model.graph), &folder, &inputs).unwrap()
}

/// About `count` of the cuts, spread from the first to the last.
fn spread(cuts: &[Cut], count: usize) -> impl Iterator<Item = &Cut> {
    cuts.iter().step_by(cuts.len().div_ceil(count).max(1))
}

#[test]
fn parts_of_real_models_answer_as_the_whole() {
    for (name, tolerance) in MODELS {
        let Some(path) = shared(name) else { continue };
        let model = Model::open(&path, &ImportOptions::default()).unwrap();
        let cuts = candidate_cuts(&model.grouping.dag);
        for cut in spread(&cuts, 5) {
            let stage_of = stages_of_cut(&model.graph, &model.grouping, cut);
            for diff in split_and_verify(&model, &stage_of) {
                assert!(
                    diff.max_abs > 0.0,
                    "{name}: an answer of nothing but zeros proves nothing"
                );
                assert!(diff.relative() <= tolerance, "{name}: {diff:?}");
            }
        }
    }
}

#[test]
fn three_parts_pass_values_over_the_middle_one() {
    let Some(path) = shared("resnet20_cifar10_fp32.onnx") else { return };
    let model = Model::open(&path, &ImportOptions::default()).unwrap();
    let cuts = candidate_cuts(&model.grouping.dag);
    let names = |cut: &Cut| -> Vec<String> {
        cut.flows.iter().map(|&id| model.grouping.dag.flow(id).name.clone()).collect()
    };
    let wide = cuts.windows(2).find(|pair| {
        let (first, second) = (names(&pair[0]), names(&pair[1]));
        second.len() > 1 && first.iter().any(|name| second.contains(name))
    });
    let [first, second] = wide.expect("a residual network has a value that skips a layer") else {
        unreachable!("windows of two")
    };
    let stage_of = stages_at(&model.graph, &[names(first), names(second)]).unwrap();
    for diff in split_and_verify(&model, &stage_of) {
        assert!(diff.relative() <= 1e-5, "{diff:?}");
    }
}

#[test]
fn external_weights_reach_the_parts() {
    let dir = tempfile::tempdir().unwrap();
    let model = zoo::build("lenet5", &ZooOptions::default()).unwrap();
    let inside = dir.path().join("inside.onnx");
    write_atomic(&inside, &encode(&model), dir.path()).unwrap();
    let outside = dir.path().join("outside.onnx");
    let (structure, data) = move_weights_out(model);
    fs::write(dir.path().join("weights.bin"), data).unwrap();
    fs::write(&outside, prost::Message::encode_to_vec(&structure)).unwrap();

    let engine = engine::open("rten").unwrap();
    let reference = Model::open(&inside, &ImportOptions::default()).unwrap();
    let model = Model::open(&outside, &ImportOptions::default()).unwrap();
    let cuts = candidate_cuts(&model.grouping.dag);
    let stage_of = stages_of_cut(&model.graph, &model.grouping, &cuts[cuts.len() / 2]);
    let parts = split(&model.proto, &model.graph, &stage_of, &labels(2)).unwrap();
    let folder = dir.path().join("parts");
    write_package(&folder, b"{}", &packages(&parts).unwrap(), &model).unwrap();
    let inputs: BTreeMap<String, Tensor> = verify::random_inputs(&model.graph, 1).unwrap();
    let whole = (&ModelSource::File(inside), &reference.graph);
    for diff in verify::verify(engine.as_ref(), ONE_THREAD, whole, &folder, &inputs).unwrap() {
        assert!(diff.max_abs > 0.0 && diff.relative() <= 1e-5, "{diff:?}");
    }
}

/// The model with all weights in `weights.bin`, and the bytes of that file.
fn move_weights_out(mut model: ModelProto) -> (ModelProto, Vec<u8>) {
    let mut data = vec![0; 64];
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        let raw = tensor.raw_data.take().unwrap();
        tensor.data_location = Some(1);
        tensor.external_data = vec![
            entry("location", "weights.bin".to_owned()),
            entry("offset", data.len().to_string()),
            entry("length", raw.len().to_string()),
        ];
        data.extend(raw);
    }
    (model, data)
}

#[test]
fn parts_of_another_network_are_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, seed| {
        let path = dir.path().join(format!("{name}{seed}.onnx"));
        let model = zoo::build(name, &ZooOptions { seed, ..ZooOptions::default() }).unwrap();
        write_atomic(&path, &encode(&model), dir.path()).unwrap();
        Model::open(&path, &ImportOptions::default()).unwrap()
    };
    let (first, second) = (write("lenet5", 1), write("lenet5", 2));
    let stage_of: Vec<_> = first.graph.layers().iter().map(|_| Some(0)).collect();
    let parts = split(&first.proto, &first.graph, &stage_of, &labels(1)).unwrap();
    let folder = dir.path().join("parts");
    write_package(&folder, b"{}", &packages(&parts).unwrap(), dir.path()).unwrap();
    let engine = engine::open("rten").unwrap();
    let inputs = verify::random_inputs(&first.graph, 1).unwrap();
    let relative = |model: &Model| {
        let whole = ModelSource::File(model.path.clone());
        let whole = (&whole, &model.graph);
        let diffs = verify::verify(engine.as_ref(), ONE_THREAD, whole, &folder, &inputs).unwrap();
        diffs[0].relative()
    };
    assert_eq!(relative(&first), 0.0);
    assert!(relative(&second) > 1e-2, "weights of another seed must make a difference");

    let empty = tempfile::tempdir().unwrap();
    let error = verify::load_parts(engine.as_ref(), ONE_THREAD, empty.path());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("holds no packages"), "{error}");
}
