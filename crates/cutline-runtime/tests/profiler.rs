//! A whole profile of a small network: what it holds, what it costs, and what it is worth.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, path::Path, time::Duration};

use cutline_core::{
    onnx::ImportOptions,
    profile::Part,
    split::encode,
    units::Nanos,
    zoo::{self, ZooOptions},
};
use cutline_runtime::{
    engine::{fake::Fake, rten::Rten},
    files,
    model::Model,
    profiler::{ProfileError, ProfileJob, Progress, profile},
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

#[test]
fn a_budget_of_nothing_measures_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = lenet(folder.path());
    let job = ProfileJob { max_time: Duration::ZERO, ..ProfileJob::default() };
    let outcome = profile(&model, &Rten, &job, &mut |_| ());
    assert!(matches!(outcome, Err(ProfileError::Budget { .. })), "{outcome:?}");
}
