//! The embedded engine runs the zoo: finite answers of a sane size that depend on the input.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cutline_core::{
    tensor::Shape,
    zoo::{self, ZooOptions},
};
use cutline_runtime::{
    engine::{self, LoadOptions, ModelSource, Session},
    tensor::Tensor,
};
use prost::Message;

/// Networks that are small enough to run in a test, with an input size that keeps them so.
const SMALL: [(&str, u32); 10] = [
    ("lenet5", 28),
    ("squeezenet", 64),
    ("resnet18", 64),
    ("densenet121", 32),
    ("inceptionv3", 75),
    ("mobilenetv1", 64),
    ("mobilenetv2", 64),
    ("mobilenetv3-small", 64),
    ("shufflenetv2", 64),
    ("efficientnet-b0", 64),
];

#[test]
fn the_embedded_engine_runs_small_networks() {
    let channels: BTreeMap<_, _> =
        zoo::summary().into_iter().map(|line| (line.name, line.input.0[1])).collect();
    let engine = engine::open("rten").unwrap();
    for (name, size) in SMALL {
        let model = zoo::build(name, &ZooOptions { input_size: Some(size), seed: 5 }).unwrap();
        let source = ModelSource::Memory(model.encode_to_vec().into());
        let mut session = engine.load(&source, LoadOptions { threads: 1 }).unwrap();
        let shape = Shape(vec![1, channels[name], size.into(), size.into()]);
        let answers = [wave(&shape, 0.05), wave(&shape, 0.11)].map(|x| answer(&mut *session, &x));

        let largest = answers.iter().flatten().fold(0f32, |largest, x| largest.max(x.abs()));
        assert!(answers.iter().flatten().all(|x| x.is_finite()), "{name}");
        assert!((0.01..1000.0).contains(&largest), "{name}: {largest}");
        let differences = answers[0].iter().zip(&answers[1]).map(|(a, b)| (a - b).abs());
        let difference = differences.fold(0f32, f32::max);
        assert!(difference > 0.05 * largest, "{name}: {difference} of {largest}");
    }
}

/// A picture of waves of this frequency, of deviation near 1.
fn wave(shape: &Shape, frequency: f32) -> Tensor {
    let elements = shape.elements().unwrap();
    let values = (0..elements).map(|index| 1.4 * (index as f32 * frequency).sin()).collect();
    Tensor::from_f32(shape.clone(), values).unwrap()
}

fn answer(session: &mut dyn Session, input: &Tensor) -> Vec<f32> {
    let outputs = session.run(&[("input", input)], &["logits"]).unwrap();
    outputs[0].as_f32().unwrap().into_owned()
}
