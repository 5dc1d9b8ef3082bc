//! Real answers through a split: reference logits of two trained networks, and three photographs.

use std::{fs, path::Path};

use anyhow::Context;
use cutline_core::{
    cut::candidate_cuts,
    onnx::ImportOptions,
    picture::{InputEncoding, Recipe},
    tensor::Shape,
};
use cutline_runtime::{
    labels::{Labels, top},
    model::Model,
    picture::{finish, prepare},
    tensor::Tensor,
    verify::read_npy,
};

use super::{
    Verdict,
    measure::shared,
    parts::{answer, engines, load},
};

const PHOTOGRAPHS: [(&str, &str); 3] =
    [("pelican.jpeg", "pelican"), ("burger.jpg", "cheeseburger"), ("kitten_224.png", "tabby")];

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let Some(images) = shared("images") else {
        println!("(the shared pictures are not here: skipped)");
        return Ok(Verdict::Skipped);
    };
    Ok(Verdict::all([logits(&images)?, photographs(&images)?]))
}

/// The middle candidate cut.
fn open(name: &str) -> anyhow::Result<(Model, cutline_core::cut::Cut)> {
    let path = shared(&format!("models/onnx/{name}")).context("the shared models are not here")?;
    let model = Model::open(&path, &ImportOptions::default())?;
    let mut cuts = candidate_cuts(&model.grouping.dag);
    let middle = cuts.swap_remove(cuts.len() / 2);
    Ok((model, middle))
}

fn logits(images: &Path) -> anyhow::Result<Verdict> {
    let pixels = read_npy(&images.join("cifar_test_x.npy"))?;
    let pixels = pixels.as_f32().context("the pictures are floats")?;
    let table = fs::read_to_string(images.join("golden/cifar100images_top1.tsv"))?;
    let mut met = true;
    for name in ["resnet20_cifar10_fp32.onnx", "resnet32_cifar10_fp32.onnx"] {
        let (model, cut) = open(name)?;
        for engine in engines()? {
            let mut parts = load(&model, &cut, engine.as_ref())?;
            let (mut same_class, mut rows, mut worst) = (0, 0, 0.0f64);
            for line in table.lines() {
                let [model_name, _, row, _, class, golden] =
                    line.split('\t').collect::<Vec<_>>()[..]
                else {
                    continue;
                };
                if model_name != name {
                    continue;
                }
                let logits = answer(&model, &mut parts, cifar(&pixels, row.parse()?)?)?.to_f64();
                let golden: Vec<f64> =
                    golden.split(' ').map(str::parse).collect::<Result<_, _>>()?;
                let off = logits.iter().zip(&golden).map(|(a, b)| (a - b).abs());
                worst = off.fold(worst, f64::max);
                same_class += usize::from(largest(&logits) == class.parse().ok());
                rows += 1;
            }
            let engine = engine.name();
            println!(
                "{name}, {engine}, split: {same_class} of {rows} classes as the reference, logits off by at most {worst:.1e}"
            );
            met &= same_class == rows && rows > 0 && worst < 1e-3;
        }
    }
    Ok(Verdict::of(met))
}

/// Picture `row` as ResNet takes it: (x - mean) / deviation, planes.
pub(crate) fn cifar(pixels: &[f32], row: usize) -> anyhow::Result<Tensor> {
    let (mean, deviation) = ([0.485f32, 0.456, 0.406], [0.229f32, 0.224, 0.225]);
    let picture = pixels.get(row * 3072..(row + 1) * 3072).context("no such picture")?;
    let value = |i: usize| {
        let (channel, pixel) = (i / 1024, i % 1024);
        (picture[pixel * 3 + channel] - mean[channel]) / deviation[channel]
    };
    Ok(Tensor::from_f32(Shape(vec![1, 3, 32, 32]), (0..3072).map(value).collect())?)
}

fn largest(values: &[f64]) -> Option<usize> {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]))
}

fn photographs(images: &Path) -> anyhow::Result<Verdict> {
    let (model, cut) = open("squeezenet1.1_imagenet_fp32.onnx")?;
    let labels = Labels::parse(&fs::read_to_string(images.join("imagenet_classes.txt"))?);
    let input = model.graph.value(*model.graph.inputs().first().context("an input")?);
    let (dtype, shape) = (input.dtype.context("a type")?, input.shape.clone().context("a shape")?);
    let spec = Recipe::preset("imagenet-bgr")?.for_input(dtype, &shape)?;
    let mut met = true;
    for engine in engines()? {
        let mut parts = load(&model, &cut, engine.as_ref())?;
        for (file, expected) in PHOTOGRAPHS {
            for encoding in InputEncoding::ALL {
                let payload = prepare(&fs::read(images.join(file))?, &spec, encoding)?;
                let output = answer(&model, &mut parts, finish(&payload, &spec)?)?;
                let best = top(&output, &labels, 1).context("scores")?.remove(0);
                println!(
                    "{file} as {encoding}, {}, split: {} ({:.2})",
                    engine.name(),
                    best.label,
                    best.score
                );
                met &= best.label.contains(expected);
            }
        }
    }
    Ok(Verdict::of(met))
}
