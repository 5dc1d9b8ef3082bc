//! Cuts of trained networks in fewer bits: bytes, coding time, and how often the answer stays.
//!
//! What a cut's values take is measured on the pictures that they were calibrated on. The parts are
//! those that `split` writes, run by the engine; the entropy code is that of agents.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use cutline_core::{
    agreement::Share,
    codec::{CutCodecs, CutEncoding},
    cut::{Cut, candidate_cuts, stages_of_cut},
    onnx::ImportOptions,
    split::{StageLabel, quantised_values, split, split_encoded},
    tensor::Shape,
};
use cutline_runtime::{
    engine::{self, LoadOptions, ModelSource, SharedEngine},
    model::Model,
    parts::{self, Best, Ranges, Steps, best_class},
    profiler::{self, ProfileJob},
    stage::Coded,
    tensor::Tensor,
    verify::{Part, read_npy, run_values, run_whole},
};
use image::{GenericImageView, imageops::FilterType};

use super::{
    Verdict,
    answers::cifar,
    fleet::networks,
    measure::{median, shared},
    parts::{ONE_THREAD, engines},
};

const NETWORKS: [&str; 3] =
    ["resnet20_cifar10_fp32", "resnet32_cifar10_fp32", "squeezenet1.1_imagenet_fp32"];

const ENCODINGS: [CutEncoding; 3] = CutEncoding::ENTROPY_CODED;

/// Share of the multiply-accumulates before a cut, in percent.
const BEFORE: std::ops::RangeInclusive<u64> = 10..=75;

/// fp32 bytes per second that one core must code.
const RATE: f64 = 500e6;

/// Bits per value, and pictures of a hundred whose class may change.
const MOST_BITS: f64 = 2.0;
const MOST_FLIPS: u64 = 1;

type Inputs = BTreeMap<String, Tensor>;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let Some(images) = shared("images") else {
        println!("(the shared pictures are not here: skipped)");
        return Ok(Verdict::Skipped);
    };
    let photographs = crops(&images)?;
    let pixels = read_npy(&images.join("cifar_test_x.npy"))?;
    let pixels = pixels.as_f32().context("the pictures are floats")?;
    let small: Vec<Tensor> =
        (0..100).map(|row| cifar(&pixels, row)).collect::<anyhow::Result<_>>()?;
    let mut verdicts = Vec::new();
    for name in networks(&NETWORKS) {
        let pictures = if name.starts_with("resnet") { &small } else { &photographs };
        verdicts.push(network(&format!("{name}.onnx"), pictures)?);
    }
    verdicts.push(speed()?);
    Ok(Verdict::all(verdicts))
}

/// Ten crops of every photograph: the corners and the middle, at two sizes; BGR less its mean.
fn crops(images: &Path) -> anyhow::Result<Vec<Tensor>> {
    const SIDE: u32 = 224;
    let mut files = Vec::new();
    for folder in [images.to_owned(), images.join("coral")] {
        for entry in folder.read_dir()? {
            let path = entry?.path();
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            if matches!(extension, "jpg" | "jpeg" | "png") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut crops = Vec::new();
    for file in files {
        let picture = image::open(&file).with_context(|| format!("`{}`", file.display()))?;
        for short in [256, 320] {
            let (width, height) = picture.dimensions();
            let least = width.min(height);
            let [width, height] = [width, height].map(|side| (side * short).div_ceil(least));
            let sized = picture.resize_exact(width, height, FilterType::Triangle).to_rgb8();
            for [x, y] in [[0, 0], [2, 0], [0, 2], [2, 2], [1, 1]] {
                let (x, y) = ((width - SIDE) * x / 2, (height - SIDE) * y / 2);
                let mut values = Vec::with_capacity((3 * SIDE * SIDE) as usize);
                for (channel, mean) in [(2, 104.0f32), (1, 117.0), (0, 123.0)] {
                    for pixel in 0..SIDE * SIDE {
                        let at = sized.get_pixel(x + pixel % SIDE, y + pixel / SIDE);
                        values.push(f32::from(at.0[channel]) - mean);
                    }
                }
                let shape = Shape(vec![1, 3, u64::from(SIDE), u64::from(SIDE)]);
                crops.push(Tensor::from_f32(shape, values)?);
            }
        }
    }
    Ok(crops)
}

/// What became of a cut in an encoding.
struct Outcome {
    bits: f64,
    share: Share,
}

fn network(name: &str, pictures: &[Tensor]) -> anyhow::Result<Verdict> {
    let path = shared(&format!("models/onnx/{name}")).context("the shared models are not here")?;
    let model = Model::open(&path, &ImportOptions::default())?;
    let engine = engine_of()?;
    let all: u64 = model.grouping.dag.groups().iter().map(|group| group.macs.0).sum();
    let cuts: Vec<Cut> = candidate_cuts(&model.grouping.dag)
        .into_iter()
        .filter(|cut| BEFORE.contains(&(before(&model, cut) * 100 / all.max(1))))
        .collect();
    let input = model.graph.value(*model.graph.inputs().first().context("an input")?).name.clone();
    let inputs: Vec<Inputs> =
        pictures.iter().map(|picture| [(input.clone(), picture.clone())].into()).collect();
    let mut whole = engine.load(&ModelSource::File(path), options())?;
    let classes = inputs
        .iter()
        .map(|inputs| Ok(best_class(&run_whole(whole.as_mut(), &model.graph, inputs)?)));
    let classes: Vec<Option<Best>> = classes.collect::<anyhow::Result<_>>()?;
    println!("### {name}: {} cuts, {} pictures, {}\n", cuts.len(), pictures.len(), engine.name());
    println!(
        "| values | MACs before | fp32 bytes | encoding | bytes | bits a value | code, decode in µs | same class | interval |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut best: BTreeMap<CutEncoding, Vec<Outcome>> = BTreeMap::new();
    for cut in &cuts {
        let share = before(&model, cut) * 100 / all;
        for (encoding, outcome) in rows(&model, cut, share, engine.clone(), &inputs, &classes)? {
            best.entry(encoding).or_default().push(outcome);
        }
    }
    println!();
    let mut found = false;
    for (encoding, outcomes) in best {
        let holds = |outcome: &&Outcome| {
            let flips = outcome.share.of - outcome.share.count;
            outcome.bits <= MOST_BITS && flips <= MOST_FLIPS
        };
        let fine = outcomes.iter().filter(holds).count();
        let short = outcomes.iter().filter(|outcome| outcome.bits <= MOST_BITS).count();
        let flips: Vec<f64> =
            outcomes.iter().map(|o| (o.share.of - o.share.count) as f64).collect();
        println!(
            "{name}, {encoding}: at most {MOST_BITS} bits a value at {short} of {} cuts, at {fine} of these at most {MOST_FLIPS} class changes; changes of {} pictures: median {}, most {}",
            outcomes.len(),
            pictures.len(),
            median(&flips),
            flips.iter().copied().fold(0.0, f64::max),
        );
        found |= fine > 0;
    }
    println!();
    Ok(Verdict::of(found))
}

/// ONNX Runtime where it is, since there are many runs; else rten.
fn engine_of() -> anyhow::Result<SharedEngine> {
    let mut here = engines()?;
    let at = here.iter().position(|engine| engine.name() == "onnxruntime");
    match at {
        Some(at) => Ok(here.swap_remove(at)),
        None => Ok(engine::open("rten")?),
    }
}

fn options() -> LoadOptions {
    LoadOptions { threads: 2 }
}

fn before(model: &Model, cut: &Cut) -> u64 {
    let groups = model.grouping.dag.groups().iter().zip(&cut.before);
    groups.filter(|(_, before)| **before).map(|(group, _)| group.macs.0).sum()
}

fn rows(
    model: &Model,
    cut: &Cut,
    percent: u64,
    engine: SharedEngine,
    inputs: &[Inputs],
    classes: &[Option<Best>],
) -> anyhow::Result<Vec<(CutEncoding, Outcome)>> {
    let stages = stages_of_cut(&model.graph, &model.grouping, cut);
    let labels = [StageLabel::new("first"), StageLabel::new("second")];
    let plain = split(&model.proto, &model.graph, &stages, &labels)?;
    let [first, _] = &plain[..] else { anyhow::bail!("a cut has two parts") };
    let mut first =
        parts::load(engine.as_ref(), options(), std::slice::from_ref(first), model.folder())?;
    let values: Vec<Inputs> = inputs
        .iter()
        .map(|inputs| Ok(run_values(&mut first, inputs)?))
        .collect::<anyhow::Result<_>>()?;
    let mut ranges = Ranges::default();
    values.iter().for_each(|values| ranges.note(values));
    let mut outcomes = Vec::new();
    for encoding in ENCODINGS {
        let mut codecs = CutCodecs { stages: vec![encoding; 2], ..CutCodecs::default() };
        let quantised = quantised_values(&model.graph, &stages, &labels, &codecs)?;
        codecs.quantizations = ranges
            .quantizations(&quantised)
            .map_err(|value| anyhow::anyhow!("`{value}` is no number"))?;
        let mut steps = Steps::new(&quantised, &codecs.quantizations);
        while !steps.is_done() {
            values.iter().for_each(|values| steps.note(values));
            steps.narrow();
        }
        codecs.quantizations.extend(steps.quantizations());
        let encoded = split_encoded(&model.proto, &model.graph, &stages, &labels, &codecs)?;
        let mut parts = parts::load(engine.as_ref(), options(), &encoded, model.folder())?;
        let names: Vec<String> = encoded[0]
            .outputs
            .iter()
            .filter(|port| port.encoding == encoding)
            .map(|port| port.name.clone())
            .collect();
        let measured = measure(model, &mut parts, &names, inputs, classes)?;
        let Measured { share, elements, bytes, code, decode } = measured;
        let count = inputs.len() as u64;
        let bits = bytes as f64 * 8.0 / elements as f64;
        let interval = share.interval();
        let cut_names: Vec<&str> = quantised.iter().map(|each| each.value.as_str()).collect();
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        println!(
            "| {} | {percent} % | {} | {encoding} | {} | {bits:.2} | {:.0}, {:.0} | {} of {} | {:.3} to {:.3} |",
            cut_names.join(", "),
            elements * 4 / count,
            bytes / count,
            micros(code),
            micros(decode),
            share.count,
            share.of,
            interval.low,
            interval.high,
        );
        outcomes.push((encoding, Outcome { bits, share }));
    }
    Ok(outcomes)
}

/// Sums over all pictures.
struct Measured {
    share: Share,
    elements: u64,
    bytes: u64,
    code: Duration,
    decode: Duration,
}

fn measure(
    model: &Model,
    parts: &mut [Part],
    names: &[String],
    inputs: &[Inputs],
    classes: &[Option<Best>],
) -> anyhow::Result<Measured> {
    let mut sums = Measured {
        share: Share::default(),
        elements: 0,
        bytes: 0,
        code: Duration::ZERO,
        decode: Duration::ZERO,
    };
    for (inputs, class) in inputs.iter().zip(classes) {
        let mut made = run_values(parts, inputs)?;
        for name in names {
            let tensor = made.get(name).context("what is sent is made")?;
            let start = Instant::now();
            let coded = Coded::of(tensor).context("what is sent is bytes")?;
            let coding = Instant::now();
            let decoded = coded.tensor()?;
            sums.decode += coding.elapsed();
            sums.code += coding - start;
            anyhow::ensure!(decoded == *tensor, "the entropy code lost something");
            sums.elements += tensor.data().len() as u64;
            sums.bytes += coded.code().len() as u64;
        }
        let outputs = model.graph.outputs().iter().map(|&id| &model.graph.value(id).name);
        let answer: Vec<(String, Tensor)> =
            outputs.filter_map(|name| made.remove_entry(name)).collect();
        sums.share.add(class.is_some() && best_class(&answer) == *class);
    }
    Ok(sums)
}

/// What profiles say of coding on one thread: the engine's part and the entropy code together.
fn speed() -> anyhow::Result<Verdict> {
    let name = "models/onnx/squeezenet1.1_imagenet_fp32.onnx";
    let path = shared(name).context("the shared models are not here")?;
    let model = Model::open(&path, &ImportOptions::default())?;
    let mut met = true;
    for engine in engines()? {
        let job = ProfileJob { threads: ONE_THREAD.threads, ..ProfileJob::default() };
        let profile = profiler::profile(&model, engine.as_ref(), &job, &mut |_| {})?;
        for encoding in [CutEncoding::Uint8].into_iter().chain(ENCODINGS) {
            let time = profile.coding.get(encoding.name()).context("codecs are timed")?;
            // Of a value of 1 MB: nanoseconds a byte are gigabytes a second, inverted.
            let rate = |half: cutline_core::profile::CodingTime| {
                let size = cutline_core::units::Bytes(1_000_000);
                size.0 as f64 * 1e9 / (half.of(size).0.max(1)) as f64
            };
            let (code, decode) = (rate(time.encode), rate(time.decode));
            println!(
                "{}, one thread, {encoding}: fp32 coded at {:.0} MB/s and decoded at {:.0} MB/s",
                engine.name(),
                code / 1e6,
                decode / 1e6
            );
            met &= code >= RATE;
        }
    }
    Ok(Verdict::of(met))
}
