//! `cutline bench`: predicted against measured, part by part.

use std::{path::PathBuf, process::ExitCode};

use anyhow::ensure;
use cutline_core::{
    graph::Graph,
    plan::{Figures, Plan},
    units::Nanos,
};
use cutline_runtime::{
    client::ClientOptions,
    files::write_bytes,
    runner::{Frame, Measured, RunOptions, Runner},
    stats,
};
use serde::Serialize;

use crate::{
    frames,
    inputs::{IdentityArgs, ModelArgs, expand_paths},
    output::{Output, table},
    planning, process,
    staging::{self, Staged},
};

/// Run plans on their agents and put the measured time of every part beside the predicted one.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline bench net.onnx --plan a.json b.json --input photo.jpg --frames 30"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Plans to run, in turn.
    #[arg(long, value_name = "plan.json", num_args = 1.., required = true)]
    plan: Vec<PathBuf>,
    /// Pictures or tensors [default: seeded random numbers].
    #[arg(long, value_name = "PATH", num_args = 1..)]
    input: Vec<PathBuf>,
    /// Frames of each plan.
    #[arg(long, value_name = "N", default_value_t = 20)]
    frames: usize,
    /// The best plan that uses both devices, in place of the best plan.
    #[arg(long)]
    best_split: bool,
    /// Write the measured parts into the plan files, beside the predicted ones.
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// Predicted and measured parts of one plan, under the same names.
#[derive(Serialize)]
pub(crate) struct Row {
    /// File of the plan, or what it is.
    pub(crate) plan: String,
    /// By the table; absent for a plan edited by hand.
    pub(crate) predicted: Option<Figures>,
    /// Medians over the frames.
    pub(crate) measured: Figures,
    /// How many frames.
    pub(crate) frames: usize,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    ensure!(args.frames > 0, "--frames must be at least 1");
    let model = args.model.open()?;
    let plans: Vec<Plan> =
        args.plan.iter().map(|path| planning::read_plan(path, &model)).collect::<Result<_, _>>()?;
    let mut staged = Vec::new();
    for plan in &plans {
        staged.push(staging::stage(&model, plan, planning::choice(plan, args.best_split)?)?);
    }
    let frames = load_frames(&args.input, &model.graph)?;
    let measured = measure(&staged, &frames, args.frames, args.identity.client()?, output)?;
    let mut rows = Vec::new();
    for ((path, plan), measured) in args.plan.iter().zip(&plans).zip(measured) {
        let predicted = planning::choice(plan, args.best_split)?.predicted;
        let plan = path.display().to_string();
        rows.push(Row { plan, predicted, measured, frames: args.frames });
    }
    if args.write {
        for ((path, mut plan), row) in args.plan.iter().zip(plans).zip(&rows) {
            let choice = if args.best_split { &mut plan.best_split } else { &mut plan.best };
            if let Some(choice) = choice {
                choice.measured = Some(row.measured);
            }
            write_bytes(path, serde_json::to_vec_pretty(&plan)?)?;
        }
    }
    output.print(&rows, |out| write_rows(&rows, out))?;
    Ok(ExitCode::SUCCESS)
}

fn load_frames(paths: &[PathBuf], graph: &Graph) -> anyhow::Result<Vec<Frame>> {
    if paths.is_empty() {
        return Ok(vec![frames::random(graph, 0)?]);
    }
    let loader = frames::Loader::new(graph);
    expand_paths(paths)?.iter().map(|path| loader.load(path)).collect()
}

/// Runs `count` frames through each deployment in turn, after one that does not count, and takes
/// the median of each part.
pub(crate) fn measure(
    staged: &[Staged],
    frames: &[Frame],
    count: usize,
    client: ClientOptions,
    output: &Output,
) -> anyhow::Result<Vec<Figures>> {
    let runtime = process::runtime()?;
    let bar = output.progress("running", ((count + 1) * staged.len()) as u64);
    let samples = runtime.block_on(async {
        let mut runners = Vec::new();
        for staged in staged {
            let options = RunOptions { client: client.clone(), ..RunOptions::default() };
            runners.push(Runner::deploy(staged.deployment.clone(), options, |_| {}).await?);
        }
        let mut samples: Vec<Vec<Measured>> = vec![Vec::new(); staged.len()];
        for round in 0..=count {
            for (runner, samples) in runners.iter().zip(&mut samples) {
                let frame = frames[round % frames.len()].clone();
                let answer = runner.infer(frame).await?;
                // The first frame warms connections and caches up.
                if round > 0 {
                    samples.push(answer.measured);
                }
                bar.inc(1);
            }
        }
        for runner in runners {
            runner.remove().await;
        }
        anyhow::Ok(samples)
    });
    bar.finish_and_clear();
    Ok(samples?.iter().map(|samples| medians(samples)).collect())
}

fn medians(samples: &[Measured]) -> Figures {
    let median = |part: fn(&Measured) -> Nanos| {
        let mut values: Vec<Nanos> = samples.iter().map(part).collect();
        stats::median(&mut values).unwrap_or_default()
    };
    let busiest = |sample: &Measured| {
        sample.edge_compute_ns.max(sample.upload_ns).max(sample.cloud_compute_ns)
    };
    Figures {
        latency_ns: median(|sample| sample.latency_ns),
        period_ns: median(busiest),
        edge_compute_ns: median(|sample| sample.edge_compute_ns),
        upload_ns: median(|sample| sample.upload_ns),
        cloud_compute_ns: median(|sample| sample.cloud_compute_ns),
        rest_ns: median(|sample| sample.rest_ns),
    }
}

/// Each part as `predicted / measured`, and how far the prediction of the latency is off.
pub(crate) fn write_rows(rows: &[Row], out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let lines = rows.iter().map(|row| {
        let pair = |part: fn(&Figures) -> Nanos| {
            let predicted = row.predicted.as_ref().map_or("?".to_owned(), |f| millis(part(f)));
            format!("{predicted} / {}", millis(part(&row.measured)))
        };
        let off = row.predicted.map_or("?".to_owned(), |predicted| {
            let (p, m) = (predicted.latency_ns.0 as f64, row.measured.latency_ns.0.max(1) as f64);
            format!("{:+.1} %", (p - m) * 100.0 / m)
        });
        [
            row.plan.clone(),
            pair(|f| f.edge_compute_ns),
            pair(|f| f.upload_ns),
            pair(|f| f.cloud_compute_ns),
            pair(|f| f.rest_ns),
            pair(|f| f.latency_ns),
            off,
        ]
    });
    let header = ["ms, predicted / measured", "edge", "upload", "cloud", "rest", "total", "off by"];
    writeln!(out, "{}", table(header, lines))
}

fn millis(nanos: Nanos) -> String {
    format!("{:.2}", nanos.as_millis_f64())
}
