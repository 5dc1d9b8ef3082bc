//! `cutline predict`: what was not measured, from models fitted to what was, each with its error.

use std::process::ExitCode;

use clap::Subcommand;

use crate::output::Output;

mod device;
mod load;
mod scaling;

/// Predict latency under load, throughput over threads, batch or replicas, times on another device.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline predict load --service 8ms --rate 100\n  cutline predict scaling sweep.db --at 8,16\n  cutline predict device --measured alexnet=96ms --measured mobilenet=31ms --measured shufflenet=14ms\n\nTimes of whole networks from kernels: `cutline profile --predict`."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Load(load::Args),
    Scaling(scaling::Args),
    Device(device::Args),
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Load(args) => load::run(&args, output),
        Command::Scaling(args) => scaling::run(&args, output),
        Command::Device(args) => device::run(&args, output),
    }
}

/// Millionths as percent.
fn percent(ppm: u64) -> String {
    format!("{:.1} %", ppm as f64 / 1e4)
}
