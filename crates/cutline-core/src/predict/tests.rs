//! The law against a device whose times are computed, and what is refused.

use super::*;
use crate::{cost::Origin, platform::Platform, units::Bytes, zoo::kernel};

/// A device that no rate of the law is fitted to exactly: work hides what is moved, or the other
/// way round. In nanoseconds.
fn device(works: &[Work]) -> f64 {
    let layer = |work: &Work| {
        let per_mac = match work.kind {
            Kind::Conv => 0.02,
            Kind::Pointwise => 0.03,
            Kind::Depthwise => 0.1,
            _ => 0.2,
        };
        let moved = 0.3 * (work.read + work.made) + 0.4 * work.weights;
        let fused = work.follows || work.kind == Kind::Relabel;
        if fused { 100.0 } else { 2000.0 + (per_mac * work.macs).max(moved) }
    };
    works.iter().map(layer).sum()
}

fn time(model: &ModelProto) -> u64 {
    let (_, works) = analyse(model).unwrap();
    device(&works.concat()) as u64
}

fn measured(sample: Sample) -> Measured {
    let times: Vec<Nanos> =
        sample.outlines().unwrap().iter().map(|model| Nanos(time(model))).collect();
    Measured { time_ns: sample.time(&times).unwrap(), sample, memory_bytes: None }
}

fn network(name: &str, size: u32) -> Sample {
    Sample::Network { network: name.to_owned(), input_size: Some(size) }
}

fn sweep(kernels: usize, networks: &[(&str, u32)]) -> Sweep {
    let kernels = kernel::sweep(kernels, 1).into_iter();
    let samples = kernels.map(|kernel| Sample::Kernel { copies: kernel.copies(), kernel });
    let networks = networks.iter().map(|&(name, size)| network(name, size));
    Sweep {
        version: SWEEP_VERSION,
        hardware: "board".to_owned(),
        engine: "engine".to_owned(),
        engine_version: "1".to_owned(),
        threads: 1,
        engine_bytes: None,
        samples: samples.chain(networks).map(measured).collect(),
    }
}

fn predicted(model: &Model, outline: &ModelProto) -> u64 {
    let (_, works) = analyse(outline).unwrap();
    model.call().0 + works.iter().map(|works| model.group(works).0).sum::<u64>()
}

#[test]
fn networks_of_unseen_families_are_predicted_from_kernels_alone() {
    let model = Model::fit(&[sweep(160, &[])]).unwrap();
    assert!(!model.validation.of_networks);
    for (name, size) in [("mobilenetv2", 160), ("resnet18", 224), ("squeezenet", 128)] {
        let outline = zoo::outline(name, Some(size)).unwrap();
        let (predicted, truth) = (predicted(&model, &outline), time(&outline));
        let error = predicted as f64 / truth as f64 - 1.0;
        assert!(error.abs() < 0.25, "{name}: {predicted} ns predicted, {truth} ns true");
    }
}

#[test]
fn whole_networks_of_other_families_make_predictions_better() {
    let others = [("resnet18", 128), ("squeezenet", 128), ("shufflenetv2", 224), ("vgg16", 224)];
    let model = Model::fit(&[sweep(160, &others)]).unwrap();
    assert!(model.validation.of_networks);
    assert_eq!(model.validation.count, 4);
    for size in [128, 224] {
        let outline = zoo::outline("mobilenetv2", Some(size)).unwrap();
        let (predicted, truth) = (predicted(&model, &outline), time(&outline));
        let error = predicted as f64 / truth as f64 - 1.0;
        assert!(error.abs() < 0.15, "at {size}: {predicted} ns predicted, {truth} ns true");
    }
}

#[test]
fn predictions_of_what_was_left_out_are_those_that_the_validation_counts() {
    let networks = [("resnet18", 128), ("squeezenet", 128), ("vgg16", 224)];
    for (sweep, count) in [(sweep(40, &networks), 3), (sweep(40, &[]), 40)] {
        let (held_out, of_networks) = Model::held_out(std::slice::from_ref(&sweep)).unwrap();
        let validation = Model::fit(std::slice::from_ref(&sweep)).unwrap().validation;
        assert_eq!((held_out.len(), of_networks), (count, validation.of_networks));
        let error = |held: &HeldOut| {
            let measured = sweep.samples[held.sample].time_ns.0 as f64;
            (held.predicted.0 as f64 / measured - 1.0).abs() * 1000.0
        };
        let mean = held_out.iter().map(error).sum::<f64>() / count as f64;
        assert!((mean - validation.mean_permille as f64).abs() < 1.0, "{mean}, {validation:?}");
    }
}

#[test]
fn a_family_that_is_left_out_does_not_teach() {
    let networks = [("resnet18", 128), ("squeezenet", 128)];
    let mut sweep = sweep(96, &networks);
    let before = Model::fit_without(&[sweep.clone()], "resnet").unwrap();
    let index = sweep.samples.len() - 2;
    sweep.samples[index].time_ns = Nanos(7 * sweep.samples[index].time_ns.0);
    assert_eq!(before, Model::fit_without(&[sweep.clone()], "resnet").unwrap());
    assert_ne!(before, Model::fit_without(&[sweep], "squeezenet").unwrap());
}

#[test]
fn groups_with_layers_of_which_no_sample_has_the_like_are_named() {
    let mut sweep = sweep(8, &[("squeezenet", 128)]);
    sweep.samples.retain(|measured| matches!(measured.sample, Sample::Network { .. }));
    let model = Model::fit(&[sweep]).unwrap();
    let unknown_of = |name: &str| {
        let outline = zoo::outline(name, Some(96)).unwrap();
        let graph = import(&outline, &ImportOptions::default()).unwrap();
        let grouping = group(&graph);
        unknown(&model, &graph, &grouping).len()
    };
    assert_eq!(unknown_of("squeezenet"), 0);
    // It has 17 convolutions of each channel by itself.
    assert!(unknown_of("mobilenetv2") >= 17);
}

#[test]
fn more_work_of_the_same_kind_never_takes_less_time() {
    let model = Model::fit(&[sweep(96, &[])]).unwrap();
    let (_, works) = analyse(&zoo::outline("mobilenetv1", Some(96)).unwrap()).unwrap();
    for work in works.concat() {
        let twice = Work { macs: 2.0 * work.macs, made: 2.0 * work.made, ..work };
        assert!(model.group(&[twice]) >= model.group(&[work]), "{work:?}");
    }
}

#[test]
fn families_are_what_stands_before_the_number() {
    let cases = [
        ("resnet101", "resnet"),
        ("vgg16", "vgg"),
        ("mobilenetv1", "mobilenet"),
        ("mobilenetv3-small", "mobilenet"),
        ("efficientnet-b0", "efficientnet"),
        ("inceptionv3", "inception"),
        ("alexnet", "alexnet"),
    ];
    for (name, expected) in cases {
        assert_eq!(family(name), expected);
    }
}

#[test]
fn sweeps_that_cannot_be_are_refused_with_the_reason() {
    let good = sweep(4, &[]);
    let fit = |change: &dyn Fn(&mut Sweep)| {
        let mut bad = good.clone();
        change(&mut bad);
        Model::fit(&[good.clone(), bad]).unwrap_err().to_string()
    };
    assert_eq!(Model::fit(&[]), Err(PredictError::Empty));
    assert!(fit(&|sweep| sweep.version = 9).contains("version 9"));
    assert!(fit(&|sweep| sweep.threads = 2).contains("2 threads"));
    assert!(fit(&|sweep| sweep.samples[1].time_ns = Nanos(0)).contains("sample 1"));
    let impossible = |sweep: &mut Sweep| {
        let kernel = kernel::Kernel::Dense { inputs: u64::MAX, outputs: u64::MAX };
        sweep.samples[2].sample = Sample::Kernel { kernel, copies: 3 };
    };
    assert!(fit(&impossible).contains("sample 2"));
    let copies = |sweep: &mut Sweep| {
        let Sample::Kernel { copies, .. } = &mut sweep.samples[3].sample else { return };
        *copies = 1;
    };
    assert!(fit(&copies).contains("sample 3"));
    let unknown = |sweep: &mut Sweep| sweep.samples[0].sample = network("nonet", 8);
    assert!(fit(&unknown).contains("sample 0"));
}

#[test]
fn a_sweep_reads_back_as_it_was_written() {
    let sweep = sweep(16, &[("lenet5", 28)]);
    let text = serde_json::to_string(&sweep).unwrap();
    assert_eq!(serde_json::from_str::<Sweep>(&text).unwrap(), sweep);
}

#[test]
fn a_predicted_profile_says_so_and_so_do_costs_made_of_it() {
    let sweep = sweep(64, &[("squeezenet", 64), ("resnet18", 64)]);
    let model = Model::fit(std::slice::from_ref(&sweep)).unwrap();
    let outline = zoo::outline("mobilenetv2", Some(64)).unwrap();
    let graph = import(&outline, &ImportOptions::default()).unwrap();
    let grouping = group(&graph);
    let from = vec!["kernels.json".to_owned()];
    let profile = profile((&model, None), &sweep, from, (&graph, &grouping), "aa".to_owned());
    assert_eq!(profile.groups.len(), grouping.dag.groups().len());
    let stated = profile.predicted.as_ref().unwrap().median_permille;
    assert_eq!(stated, model.validation.median_permille);
    let platform: Platform =
        serde_json::from_str(r#"{ "version": 1, "device": [{ "name": "pi" }] }"#).unwrap();
    let costs =
        crate::cost::Costs::from_profiles(&grouping.dag, "aa", &platform, &[vec![profile]], &[]);
    let costs = costs.unwrap();
    let option = &costs.devices()[0].options[0];
    assert_eq!((option.origin, option.error_permille), (Origin::Predicted, Some(stated)));
    assert_eq!(option.engine_bytes, Bytes::ZERO);
}
