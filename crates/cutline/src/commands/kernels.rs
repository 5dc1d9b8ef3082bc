//! `cutline kernels`: measure what times of networks that were never run are predicted from.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use cutline_core::{
    predict::{self, MemoryModel, Sweep},
    profile::MemoryError,
    split::Format,
    units::Nanos,
    zoo,
};
use cutline_runtime::{
    agent::{RemoteSweep, kernels::samples},
    client::{AgentClient, ClientOptions},
    engine,
    files::write_bytes,
    profiler::{self, Progress, SweepJob},
};

use crate::{inputs::IdentityArgs, output::Output, process};

/// Measure single kernels on this device, or on an agent's, to predict networks from.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline kernels --engine rten --threads 1 -o kernels.json\n  cutline kernels --agent 127.0.0.1:9001 --engine rten -o pi-kernels.json\n  cutline profile net.onnx --predict kernels.json -o predicted.json"
)]
pub(crate) struct Args {
    /// Measure on this agent [default: on this machine].
    #[arg(long, value_name = "ADDR")]
    agent: Option<String>,
    /// Engine to measure.
    #[arg(long, value_name = "ENGINE")]
    engine: String,
    /// Threads of the engine [default: the agent's; here: all cores].
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
    /// Most time to spend; what has not had its turns by then is left out. On an agent an hour at most.
    #[arg(long, value_name = "TIME", default_value = "1800s")]
    time: Nanos,
    /// The file to write.
    #[arg(short, long, value_name = "K.json")]
    output: PathBuf,
    #[command(flatten)]
    identity: IdentityArgs,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    if engine::part_format(&args.engine) == Format::Tflite {
        bail!(
            "`{}` runs TensorFlow Lite files only, and kernels are ONNX files; measure them with another engine, such as rten, or the network itself: `cutline profile net.tflite --engine {}`",
            args.engine,
            args.engine
        );
    }
    let names = args.networks.iter().filter(|name| !name.is_empty());
    let networks = names.map(|name| network(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let asked = args.kernels + networks.len();
    let sweep = match &args.agent {
        Some(address) => {
            let client = args.identity.client()?;
            process::runtime()?.block_on(on_agent(address, client, &args, networks, output))?
        }
        None => here(&args, &networks, output)?,
    };
    let validation = predict::Model::fit(std::slice::from_ref(&sweep))?.validation;
    write_bytes(&args.output, serde_json::to_vec_pretty(&sweep)?)?;
    output.print(&sweep, |out| {
        writeln!(
            out,
            "{} of {asked} kernels and networks measured on {}\n{} {} that the fit had not seen are predicted with a median error of {:.1} %, a mean of {:.1} %",
            sweep.samples.len(),
            sweep.subject(),
            validation.count,
            if validation.of_networks { "networks of families" } else { "kernels" },
            validation.median_permille as f64 / 10.0,
            validation.mean_permille as f64 / 10.0
        )?;
        let Some(memory) = MemoryModel::fit(std::slice::from_ref(&sweep)) else { return Ok(()) };
        let (session, parameters, live) = memory.law();
        let percent = |error: MemoryError| {
            [error.median_permille, error.mean_permille].map(|error| error as f64 / 10.0)
        };
        let [fitted, fitted_mean] = percent(memory.fitted);
        let [left_out, left_out_mean] = percent(memory.validation);
        writeln!(
            out,
            "memory of a network: {session} + {:.2} x parameters + {:.2} x live values; off by {fitted:.1} % in the median, {fitted_mean:.1} % in the mean over the {} networks, by {left_out:.1} % and {left_out_mean:.1} % over families left out of the fit",
            parameters as f64 / 1000.0,
            live as f64 / 1000.0,
            memory.fitted.count,
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn here(args: &Args, networks: &[(String, Option<u32>)], output: &Output) -> anyhow::Result<Sweep> {
    let engine = engine::open(&args.engine)?;
    let job = SweepJob {
        threads: args.threads.map_or_else(process::cores, |threads| threads as usize),
        rounds: args.rounds.max(1),
        max_time: Duration::from_nanos(args.time.0),
        ..SweepJob::default()
    };
    let samples = samples(args.kernels, networks);
    let bar = output.progress(format!("measuring with {}", engine.name()), 1);
    let sweep = profiler::sweep(&samples, engine.as_ref(), &job, &mut |step: Progress| {
        bar.set_length(u64::from(step.total));
        bar.set_position(u64::from(step.done));
    });
    bar.finish_and_clear();
    Ok(sweep?)
}

async fn on_agent(
    address: &str,
    client: ClientOptions,
    args: &Args,
    networks: Vec<(String, Option<u32>)>,
    output: &Output,
) -> anyhow::Result<Sweep> {
    let agent = AgentClient::connect("agent", address, client).await?;
    let job = RemoteSweep {
        engine: args.engine.clone(),
        threads: args.threads,
        kernels: u32::try_from(args.kernels).unwrap_or(u32::MAX),
        networks,
        rounds: args.rounds,
        max_millis: args.time.0 / 1_000_000,
    };
    let bar = output.progress(format!("measuring on {}", agent.address()), 1);
    let sweep = agent.kernels(serde_json::to_string(&job)?, |step| {
        bar.set_length(step.total);
        bar.set_position(step.done);
    });
    let sweep = sweep.await;
    bar.finish_and_clear();
    Ok(sweep?)
}

fn network(text: &str) -> anyhow::Result<(String, Option<u32>)> {
    let (name, size) = match text.split_once(':') {
        Some((name, size)) => {
            let side = size.parse().with_context(|| format!("`{text}`: expected NAME:PIXELS"))?;
            (name, Some(side))
        }
        None => (text, None),
    };
    zoo::outline(name, size)?;
    Ok((name.to_owned(), size))
}
