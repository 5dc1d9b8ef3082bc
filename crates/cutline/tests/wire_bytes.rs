//! What a plan says will travel is what travels, in every encoding, at every candidate cut.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use cutline::staging;
use cutline_core::{
    codec::{CutEncoding, Quantization, Range},
    cost::Costs,
    cut::candidate_cuts,
    evaluate::{PartKind, Setting, evaluate},
    onnx::ImportOptions,
    partition::Mapping,
    plan::{LayerMap, ModelRef, Plan},
    platform::{DeviceId, Platform},
    preset::{Presets, apply},
    profile::Profile,
    zoo::{self, ZooOptions},
};
use cutline_runtime::{
    engine,
    model::Model,
    runner::{Frame, LocalRunner},
    verify::random_inputs,
};
use prost::Message;

fn platform() -> Platform {
    let text = r#"{ "version": 1,
        "device": [{ "name": "pi", "preset": "rpi4" }, { "name": "cloud", "preset": "c5.large" }],
        "link": [{ "between": ["pi", "cloud"], "up": "20mbit" }] }"#;
    apply(&Presets::builtin(), serde_json::from_str(text).unwrap()).unwrap()
}

fn check(model: &Model) {
    let platform = platform();
    let dag = &model.grouping.dag;
    let profiles = [Vec::<Profile>::new(), Vec::new()];
    let costs = Costs::from_profiles(dag, "", &platform, &profiles, &[None]).unwrap();
    let cloud = costs.find_device("cloud").unwrap();
    let input = random_inputs(&model.graph, 1).unwrap();
    let mut seen = 0;
    let cuts = candidate_cuts(dag);
    for cut in cuts.iter().step_by(cuts.len().div_ceil(6)) {
        let device = |&before: &bool| if before { DeviceId::SOURCE } else { cloud };
        let mapping = Mapping(cut.before.iter().map(device).collect());
        if !mapping.0.contains(&DeviceId::SOURCE) {
            continue;
        }
        // What the entropy code makes of a picture is not known before; presets do not offer it.
        let plain = CutEncoding::ALL.into_iter().filter(|encoding| !encoding.is_entropy_coded());
        for (codec, encoding) in plain.enumerate() {
            assert_eq!(costs.codecs()[codec].name, encoding.name());
            let setting = Setting { codecs: vec![codec; 2], ..Setting::first(&costs) };
            let evaluation = evaluate(dag, &costs, &mapping, &setting).unwrap();
            let sent = evaluation.parts.iter().find(|part| part.kind == PartKind::Send).unwrap();

            let layers = dag.group_ids().flat_map(|id| {
                let device = costs.device(mapping.device(id)).name.clone();
                dag.group(id).layers.iter().map(move |layer| (layer.clone(), device.clone()))
            });
            let (name, map) = (
                ModelRef { name: "net.onnx".into(), sha256: String::new() },
                LayerMap(layers.collect()),
            );
            let reason = "to be counted".to_owned();
            let mut plan =
                Plan::by_hand(name.clone(), dag, &platform, (map, encoding), None, reason).unwrap();
            let choice = plan.best.as_mut().unwrap();
            let range = Quantization::of(Range { least: -4.0, largest: 4.0 });
            let values = choice.cut.iter().map(|value| (value.name.clone(), range)).collect();
            choice.quantise(values, &name, None);
            let staged = staging::stage(model, &plan, plan.best.as_ref().unwrap()).unwrap();
            let mut runner =
                LocalRunner::load(&staged.deployment, |_| engine::open("rten"), 1).unwrap();
            let frame = Frame::Tensors(input.clone().into_iter().collect());
            let answer = runner.infer(frame).unwrap();
            let [edge, cloud] = &answer.trace.stages[..] else { panic!("two stages") };
            assert_eq!(edge.bytes_out, cloud.bytes_in);
            assert_eq!(edge.bytes_out, sent.bytes.0, "{encoding} at {:?}", plan.best.unwrap().cut);
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen} cuts are too few");
}

#[test]
fn predicted_bytes_travel() {
    let folder = tempfile::tempdir().unwrap();
    for (name, size) in [("lenet5", None), ("shufflenetv2", Some(64)), ("densenet121", Some(32))] {
        let options = ZooOptions { input_size: size, ..ZooOptions::default() };
        let network = zoo::build(name, &options).unwrap();
        let path = folder.path().join(format!("{name}.onnx"));
        fs::write(&path, network.encode_to_vec()).unwrap();
        check(&Model::open(&path, &ImportOptions::default()).unwrap());
    }
}

#[test]
fn predicted_bytes_of_trained_networks_travel() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/onnx");
    for name in ["FastestDet.onnx", "SqueezeNet_fp16.onnx", "resnet20_cifar10_fp32.onnx"] {
        let path = shared.join(name);
        if !path.exists() {
            eprintln!("skipped: no {name} beside the project");
            continue;
        }
        check(&Model::open(&path, &ImportOptions::default()).unwrap());
    }
}
