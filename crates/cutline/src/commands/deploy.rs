//! `cutline deploy`: put a plan on its agents for other programs, or take it away again.

use std::{path::PathBuf, process::ExitCode};

use cutline_runtime::{
    client::AgentClient,
    runner::{Deployment, RunOptions, Runner},
};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::{
    inputs::{IdentityArgs, ModelArgs},
    output::{Output, table},
    planning, process, staging,
};

/// Put a plan on its agents, where it stays for any client, also when they are started again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline deploy net.onnx --plan plan.json             # prints whom to call, and by which name\n  cutline deploy net.onnx --plan plan.json --remove\n\nAgents are sent the files that they lack, all at the same time; where sending broke off, it goes on from there. Clients of the Open Inference Protocol call the first agent, over gRPC or HTTP."
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The plan to deploy.
    #[arg(long, value_name = "plan.json")]
    plan: PathBuf,
    /// Deploy the best plan that uses both devices, even where not splitting is better.
    #[arg(long)]
    best_split: bool,
    /// Take the plan from its agents again; files stay there.
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// What is where.
#[derive(Serialize)]
struct Deployed<'a> {
    /// Name that clients of the first stage's agent call.
    model: &'a str,
    stages: Vec<Place<'a>>,
}

#[derive(Serialize)]
struct Place<'a> {
    stage: &'a str,
    device: &'a str,
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    replicas: &'a [String],
    model: &'a str,
    /// Its server is no agent, and had it already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    foreign: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<bool>,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let model = args.model.open()?;
    let plan = planning::read_plan(&args.plan, &model)?;
    let choice = planning::choice(&plan, args.best_split)?;
    let staged = staging::stage(&model, &plan, choice)?;
    let runtime = process::runtime()?;
    let options = RunOptions { client: args.identity.client()?, ..RunOptions::default() };
    let deployment = &staged.deployment;
    let removed = match args.remove {
        true => Some(remove(deployment, &options, &runtime)?),
        false => {
            let runner = on_agents(deployment, options, &runtime, output)?;
            runtime.block_on(runner.keep())?;
            None
        }
    };
    let stages = deployment.stages.iter().enumerate().map(|(index, placement)| Place {
        stage: &placement.spec.name,
        device: &placement.spec.device,
        address: placement.address.as_deref(),
        replicas: &placement.replicas,
        model: &placement.model_name,
        foreign: placement.foreign,
        removed: removed.as_ref().map(|removed| removed[index]),
    });
    let deployed = Deployed { model: deployment.model_name(), stages: stages.collect() };
    output.print(&deployed, |out| {
        let rows = deployed.stages.iter().map(|place| {
            let state = match place.removed {
                _ if place.foreign => "its server's own",
                None => "deployed",
                Some(true) => "removed",
                Some(false) => "was not there",
            };
            let replicas = place.replicas.iter().map(String::as_str);
            let addresses: Vec<&str> = place.address.into_iter().chain(replicas).collect();
            [place.stage, &addresses.join(", "), place.model, state].map(str::to_owned)
        });
        writeln!(out, "{}", table(["stage", "agent", "model", ""], rows))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Deploys the stages on their agents, with progress.
pub(super) fn on_agents(
    deployment: &Deployment,
    options: RunOptions,
    runtime: &Runtime,
    output: &Output,
) -> anyhow::Result<Runner> {
    let bar = output.progress("deploying", deployment.stages.len() as u64);
    let deployed = runtime.block_on(Runner::deploy(deployment.clone(), options, |_| bar.inc(1)));
    bar.finish_and_clear();
    let runner = deployed?;
    for reason in runner.absent() {
        output.note(format!("going on without one of the agents that share a stage: {reason}"));
    }
    Ok(runner)
}

/// Removes the stages; says of each whether it was there.
fn remove(
    deployment: &Deployment,
    options: &RunOptions,
    runtime: &Runtime,
) -> anyhow::Result<Vec<bool>> {
    runtime.block_on(async {
        let mut removed = Vec::with_capacity(deployment.stages.len());
        for placement in &deployment.stages {
            if placement.foreign {
                removed.push(false);
                continue;
            }
            let device = &placement.spec.device;
            if placement.address.is_none() {
                anyhow::bail!("device `{device}` has no address; give it one in the platform file and plan again");
            }
            let mut was_there = false;
            for address in placement.addresses() {
                let agent = AgentClient::connect(device, address, options.client.clone()).await?;
                was_there |= agent.remove(&placement.model_name).await?;
            }
            removed.push(was_there);
        }
        Ok(removed)
    })
}
