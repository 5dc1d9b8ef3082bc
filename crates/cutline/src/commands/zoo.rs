//! `cutline zoo`: well-known networks with seeded random weights.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use cutline_core::{
    split::{self, Piece},
    tensor::Shape,
    units::{Bytes, Macs},
    zoo::{self, ZooOptions},
};
use cutline_runtime::files::write_atomic;
use serde::Serialize;

use crate::output::{Output, table};

/// Write a well-known network with random weights as ONNX.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline zoo write mobilenetv2 -o mobilenetv2.onnx --input-size 160"
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
    /// The file to write.
    #[arg(short, long, value_name = "F.onnx")]
    output: PathBuf,
    /// Side of the square input picture [default: the published one].
    #[arg(long, value_name = "PIXELS")]
    input_size: Option<u32>,
    /// Seed of the random weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
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
    let pieces = split::encode(&model);
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
