//! A picture enters a plan at its source and becomes the same tensor wherever that happens.
#![allow(clippy::unwrap_used)]

mod fleet;

use std::io::Cursor;

use bytes::Bytes;
use cutline_core::{
    picture::{InputEncoding, Recipe},
    tensor::{DType, Shape},
};
use cutline_runtime::{
    engine,
    runner::{Deployment, Frame, LocalRunner, Part, PartModel, PlanParts, RunError, Runner},
    stage::{MemoryEstimate, PictureInput, TensorSpec},
};
use fleet::{Device, options, wait};
use image::{DynamicImage, ImageFormat, RgbImage};
use tempfile::TempDir;

fn spec(name: &str) -> TensorSpec {
    let shape = Some(Shape(vec![1, 3, 8, 8]));
    TensorSpec { name: name.to_owned(), dtype: DType::F32, shape }
}

/// A PNG of 20x12 pixels with a gradient.
fn picture() -> Bytes {
    let pixel = |x, y| image::Rgb([(x * 12) as u8, (y * 20) as u8, (x * y) as u8]);
    let picture = DynamicImage::ImageRgb8(RgbImage::from_fn(20, 12, pixel));
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner().into()
}

/// Where `y = |x|` is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Places {
    Cloud,
    /// `x` is read on both devices, one after the other.
    Both,
    /// `x` is read on both devices at the same time, and the first one joins.
    Branches,
}

fn deployment(
    folder: &TempDir,
    encoding: InputEncoding,
    places: Places,
    addresses: [Option<String>; 2],
) -> Deployment {
    let model = |name: &str, inputs: &[&str], outputs: &[&str], op: (&str, &[&str], &str)| {
        let bytes = fleet::model_of(&[1, 3, 8, 8], &[op], inputs, outputs);
        PartModel {
            files: vec![fleet::store(folder, name, &bytes)],
            engine: None,
            threads: None,
            inputs: inputs.iter().map(|name| spec(name)).collect(),
            outputs: outputs.iter().map(|name| spec(name)).collect(),
            memory: MemoryEstimate::default(),
        }
    };
    let negative = || model("neg.onnx", &["x"], &["n"], ("Neg", &["x"], "n"));
    let [pi, cloud] = addresses;
    let part = |device: &str, model| Part {
        device: device.to_owned(),
        address: if device == "pi" { pi.clone() } else { cloud.clone() },
        replicas: Vec::new(),
        via: None,
        model,
        branch: false,
        foreign: None,
    };
    let branch = |device: &str, model| Part { branch: true, ..part(device, Some(model)) };
    let parts = match places {
        Places::Cloud => {
            let all = model("abs.onnx", &["x"], &["y"], ("Abs", &["x"], "y"));
            vec![part("pi", None), part("cloud", Some(all))]
        }
        Places::Both => {
            let last = model("max.onnx", &["x", "n"], &["y"], ("Max", &["x", "n"], "y"));
            vec![part("pi", Some(negative())), part("cloud", Some(last))]
        }
        Places::Branches => {
            let same = model("same.onnx", &["x"], &["p"], ("Identity", &["x"], "p"));
            let join = model("join.onnx", &["p", "n"], &["y"], ("Max", &["p", "n"], "y"));
            let branches = [branch("pi", same), branch("cloud", negative())];
            let ends = [part("pi", None), part("pi", Some(join))];
            let [first, last] = ends;
            std::iter::once(first).chain(branches).chain([last]).collect()
        }
    };
    let recipe = Recipe::preset("symmetric").unwrap();
    let picture = recipe.for_input(DType::F32, &Shape(vec![1, 3, 8, 8])).unwrap();
    Deployment::new(PlanParts {
        plan: "abs".to_owned(),
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        picture: Some(PictureInput { input: "x".to_owned(), spec: picture, encoding }),
        parts,
    })
    .unwrap()
}

#[test]
fn every_encoding_and_place_gives_the_same_answer() {
    let folder = tempfile::tempdir().unwrap();
    let devices = [Device::start(), Device::start()];
    let mut answers = Vec::new();
    for encoding in [InputEncoding::Fp32, InputEncoding::Uint8, InputEncoding::Jpeg] {
        for places in [Places::Cloud, Places::Both, Places::Branches] {
            let addresses = devices.each_ref().map(|device| Some(device.address()));
            let deployment = deployment(&folder, encoding, places, addresses);
            let frame = || Frame::Picture(picture());
            let mut local = LocalRunner::load(&deployment, |_| engine::open("rten"), 1).unwrap();
            let here = local.infer(frame()).unwrap();
            let (there, bytes_up) = wait(async {
                let runner = Runner::deploy(deployment, options(), |_| {}).await.unwrap();
                let answer = runner.infer(frame()).await.unwrap();
                let mut bytes = answer.trace.hops.iter().map(|hop| hop.bytes_up);
                let bytes = bytes.find(|bytes| *bytes > 0).unwrap();
                assert!(answer.trace.stages[0].prepare_ns.0 > 0);
                runner.remove().await;
                (answer, bytes)
            });
            assert_eq!(here.outputs, there.outputs, "{encoding}, {places:?}");
            match encoding {
                InputEncoding::Fp32 => {
                    assert_eq!(bytes_up, if places == Places::Both { 1536 } else { 768 })
                }
                InputEncoding::Uint8 => {
                    assert_eq!(bytes_up, if places == Places::Both { 960 } else { 192 })
                }
                InputEncoding::Jpeg => {}
            }
            answers.push((encoding, there.outputs));
        }
    }
    let lossless: Vec<_> = answers.iter().filter(|(e, _)| !e.is_lossy()).collect();
    assert!(lossless.iter().all(|(_, outputs)| *outputs == answers[0].1));
    let jpeg: Vec<_> = answers.iter().filter(|(e, _)| e.is_lossy()).collect();
    assert!(jpeg.iter().all(|(_, outputs)| *outputs == jpeg[0].1), "all devices see one JPEG");
}

#[test]
fn what_is_no_picture_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let plan = deployment(&folder, InputEncoding::Fp32, Places::Cloud, [None, None]);
    let mut local = LocalRunner::load(&plan, |_| engine::open("rten"), 1).unwrap();
    let error = local.infer(Frame::Picture(Bytes::from_static(b"no picture"))).unwrap_err();
    let RunError::Stage(error) = error else { panic!("{error}") };
    let text = error.to_string();
    assert!(text.contains("stage `0-pi`") && text.contains("cannot be decoded"), "{text}");
}
