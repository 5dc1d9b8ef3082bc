//! `cutline kernels`: measure what times of networks that were never run are predicted from.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use cutline_core::{
    predict::{self, Sample, Sweep},
    zoo::{self, kernel},
};
use cutline_runtime::{
    engine,
    files::write_bytes,
    profiler::{self, SweepJob},
};

use crate::{output::Output, process};

/// Measure single kernels on this device, to predict networks from.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline kernels --engine rten --threads 1 -o kernels.json\n  cutline profile net.onnx --predict kernels.json -o predicted.json"
)]
pub(crate) struct Args {
    /// Engine to measure.
    #[arg(long, value_name = "ENGINE")]
    engine: String,
    /// Threads of the engine [default: all cores].
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Kernels to measure.
    #[arg(long, value_name = "N", default_value_t = 256)]
    kernels: usize,
    /// Networks of the zoo to measure besides, as wholes: `NAME` or `NAME:PIXELS`.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "squeezenet:128,resnet18:128,resnet50:128,densenet121:128,inceptionv3:128,mobilenetv1:128,mobilenetv2:176,mobilenetv3-small:224,shufflenetv2:224,efficientnet-b0:128"
    )]
    networks: Vec<String>,
    /// Turns of each kernel.
    #[arg(long, value_name = "N", default_value_t = 9)]
    rounds: u32,
    /// The file to write.
    #[arg(short, long, value_name = "K.json")]
    output: PathBuf,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let mut samples: Vec<Sample> = kernel::sweep(args.kernels, 1)
        .into_iter()
        .map(|kernel| Sample::Kernel { copies: kernel.copies(), kernel })
        .collect();
    for name in args.networks.iter().filter(|name| !name.is_empty()) {
        samples.push(network(name)?);
    }
    let engine = engine::open(&args.engine)?;
    let job = SweepJob {
        threads: args.threads.map_or_else(process::cores, |threads| threads as usize),
        rounds: args.rounds.max(1),
        ..SweepJob::default()
    };
    let bar = output.progress(format!("measuring with {}", engine.name()), 1);
    let sweep = profiler::sweep(&samples, engine.as_ref(), &job, &mut |step| {
        bar.set_length(u64::from(step.total));
        bar.set_position(u64::from(step.done));
    });
    bar.finish_and_clear();
    let sweep: Sweep = sweep?;
    let validation = predict::Model::fit(std::slice::from_ref(&sweep))?.validation;
    write_bytes(&args.output, serde_json::to_vec_pretty(&sweep)?)?;
    output.print(&sweep, |out| {
        writeln!(
            out,
            "{} of {} kernels and networks measured on {}\n{} {} that the fit had not seen are predicted with a median error of {:.1} %, a mean of {:.1} %",
            sweep.samples.len(),
            samples.len(),
            sweep.subject(),
            validation.count,
            if validation.of_networks { "networks of families" } else { "kernels" },
            validation.median_permille as f64 / 10.0,
            validation.mean_permille as f64 / 10.0
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn network(text: &str) -> anyhow::Result<Sample> {
    let (name, size) = match text.split_once(':') {
        Some((name, size)) => {
            let side = size.parse().with_context(|| format!("`{text}`: expected NAME:PIXELS"))?;
            (name, Some(side))
        }
        None => (text, None),
    };
    zoo::outline(name, size)?;
    Ok(Sample::Network { network: name.to_owned(), input_size: size })
}
