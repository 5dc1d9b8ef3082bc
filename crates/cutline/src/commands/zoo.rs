//! `cutline zoo`: well-known networks with seeded random weights.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use cutline_core::{
    graph::Graph,
    onnx::{self, ImportOptions, proto::ModelProto},
    picture::InputEncoding,
    split::{self, Piece},
    tensor::Shape,
    tflite::author::Network,
    units::{Bytes, Macs},
    zoo::{self, ZooOptions},
};
use cutline_runtime::{
    engine::{self, LoadOptions},
    files::write_atomic,
    parts,
    tensor::Tensor,
    verify::random_inputs,
};
use serde::Serialize;

use crate::{
    gallery::Gallery,
    inputs::{PictureArgs, extension},
    output::{Output, table},
    process,
};

/// Random pictures whose values give the ranges.
const PICTURES: u64 = 8;

/// Largest element of a picture that ImageNet's statistics normalise: a white pixel's blue.
const BRIGHTEST: f32 = 2.64;

/// Write a well-known network with random weights as ONNX or TFLite.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline zoo write mobilenetv2 -o mobilenetv2.onnx --input-size 160\n  cutline zoo write mobilenetv2 -o mobilenetv2.tflite --quantize int8"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the networks with their size.
    List,
    /// Write one of them; same seed, same bytes.
    Write(WriteArgs),
}

#[derive(Debug, clap::Args)]
struct WriteArgs {
    /// Which network: see `cutline zoo list`.
    name: String,
    /// The file to write: ONNX, or TFLite where its name ends so.
    #[arg(short, long, value_name = "F.onnx|F.tflite")]
    output: PathBuf,
    /// Of a TFLite file: all in integers, as ranges of the values over seeded random pictures have it.
    #[arg(long, value_name = "int8")]
    quantize: Option<Quantize>,
    /// With --quantize: pictures (or .npy tensors) for the ranges in place of random ones.
    #[arg(long, value_name = "DIR", requires = "quantize")]
    calibrate: Option<PathBuf>,
    #[command(flatten)]
    picture: PictureArgs,
    /// Side of the square input picture [default: the published one].
    #[arg(long, value_name = "PIXELS")]
    input_size: Option<u32>,
    /// Seed of the random weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// How a network's numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Quantize {
    /// Values and weights as signed bytes, biases as 32 bits.
    Int8,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    title: &'static str,
    input: Vec<u64>,
    parameters: u64,
    parameter_bytes: u64,
    macs: u64,
}

#[derive(Serialize)]
struct Written {
    name: String,
    path: PathBuf,
    bytes: u64,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List => list(output)?,
        Command::Write(args) => write(args, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(output: &Output) -> anyhow::Result<()> {
    let networks: Vec<Row> = zoo::summary()
        .into_iter()
        .map(|net| Row {
            name: net.name,
            title: net.title,
            input: net.input.0,
            parameters: net.parameters,
            parameter_bytes: net.weights.0,
            macs: net.macs.0,
        })
        .collect();
    output.print(&networks, |out| {
        let rows = networks.iter().map(|net| {
            [
                net.name.to_owned(),
                net.title.to_owned(),
                Shape(net.input.clone()).to_string(),
                format!("{:.2} M", net.parameters as f64 / 1e6),
                Macs(net.macs).to_string(),
                Bytes(net.parameter_bytes).to_string(),
            ]
        });
        let header = ["name", "network", "input", "parameters", "work", "file"];
        writeln!(out, "{}", table(header, rows))
    })
}

fn write(args: WriteArgs, output: &Output) -> anyhow::Result<()> {
    let options = ZooOptions { input_size: args.input_size, seed: args.seed };
    let model = zoo::build(&args.name, &options)?;
    let pieces = match extension(&args.output).as_str() {
        "tflite" => vec![Piece::Inline(tflite(&args, &model, output)?)],
        _ if args.quantize.is_some() => {
            bail!("--quantize is for TFLite files; give -o a name that ends in .tflite")
        }
        _ => split::encode(&model),
    };
    let bytes = pieces.iter().map(Piece::bytes).sum();
    write_atomic(&args.output, &pieces, Path::new("."))?;
    let written = Written { name: args.name, path: args.output, bytes };
    output.print(&written, |out| {
        let size = Bytes(written.bytes);
        writeln!(
            out,
            "wrote {} ({size}, random weights) to {}",
            written.name,
            written.path.display()
        )
    })
}

/// The network as a TFLite file.
fn tflite(args: &WriteArgs, model: &ModelProto, output: &Output) -> anyhow::Result<bytes::Bytes> {
    let network = Network::lower(model)?;
    if args.quantize.is_none() {
        return Ok(network.encode()?);
    }
    let graph = onnx::import(model, &ImportOptions::default())?;
    let inputs = pictures(args, &graph)?;
    let bar = output.progress("finding the ranges of values", inputs.len() as u64);
    // The engine that computes alike on every machine, so that the file does.
    let (engine, options) = (engine::open("rten")?, LoadOptions { threads: process::cores() });
    let values = network.values();
    let inputs = inputs.into_iter().inspect(|_| bar.inc(1));
    let ranges = parts::ranges(engine.as_ref(), options, model, &values, inputs)?;
    bar.finish_and_clear();
    let range = |value: &&str| {
        let range = ranges.of(value).with_context(|| format!("`{value}` was not seen"))?;
        Ok(((*value).to_owned(), [range.least, range.largest]))
    };
    let ranges = values.iter().map(range).collect::<anyhow::Result<_>>()?;
    Ok(network.quantise(&ranges)?.encode()?)
}

/// What the ranges are found on.
fn pictures(args: &WriteArgs, graph: &Graph) -> anyhow::Result<Vec<BTreeMap<String, Tensor>>> {
    let Some(folder) = &args.calibrate else {
        return (0..PICTURES)
            .map(|at| noise(graph, args.seed.wrapping_add(at), 1 + at % 2 * 15))
            .collect();
    };
    let gallery = Gallery::open(folder, graph, None, &args.picture)?;
    let inputs = |file: &PathBuf| gallery.inputs(file, graph, InputEncoding::Fp32);
    gallery.files().iter().map(inputs).collect()
}

/// A random picture of squares of so many pixels a side, as bright as pictures are that ImageNet's
/// statistics normalise: ranges found on it hold for such pictures, flat or full of detail.
fn noise(graph: &Graph, seed: u64, side: u64) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let made = random_inputs(graph, seed)?.into_iter().map(|(name, tensor)| {
        let (shape, drawn) = (tensor.shape().clone(), tensor.as_f32().context("no floats")?);
        let &[.., rows, columns] = shape.0.as_slice() else { bail!("`{name}` is no picture") };
        let element = |at: u64| {
            let (map, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
            let from = (map * rows + row / side * side) * columns + column / side * side;
            drawn[from as usize] * BRIGHTEST
        };
        let data = (0..drawn.len() as u64).map(element).collect();
        Ok((name, Tensor::from_f32(shape, data)?))
    });
    made.collect()
}
