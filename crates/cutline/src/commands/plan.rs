//! `cutline plan`: the best distribution of a network over the devices of a platform, with proof.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use cutline_core::{
    autodice::{self, MappingFile},
    evaluate::settle,
    partition::Mapping,
    plan::{Correction, Plan, Refinement, Trial},
    planner::{self, Answer, Choice, Proof, Request},
    platform::DeviceId,
    scarce::{self, EnergyPrices, Resource},
};
use cutline_runtime::files::write_bytes;

use crate::{
    frames,
    gallery::Gallery,
    inputs::IdentityArgs,
    output::Output,
    planning::{
        self, Problem, ProblemArgs,
        agreeing::{self, Judge},
        sweep,
    },
    refine::{self, Budget, Subject},
    staging,
};

/// Find the best plan: baselines first, then the best plan, the best split, why, and the proof.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline plan net.onnx --platform platform.toml -o plan.json\n  cutline plan net.onnx --platform platform.toml --objective period --limit latency=300ms\n  cutline plan net.onnx --platform platform.toml --pin conv1=pi --input-encoding jpeg,uint8,fp32 -o plan.json\n  cutline plan net.onnx --platform platform.toml --scarce bandwidth\n  cutline plan net.onnx --platform platform.toml --objective memory --revisits -o plan.json\n  cutline plan net.onnx --platform platform.toml --mapping autodice.json\n  cutline plan net.onnx --platform platform.toml --refine --input photo.jpg -o plan.json    # agents must run\n  cutline plan net.onnx --platform platform.toml --sweep -o plan.json    # runs adapt to the link's speed\n  cutline plan net.onnx --platform platform.toml --limit agreement=0.99 --images photos/ -o plan.json    # compressed, where the answer stays\n  cutline plan --costs costs.json --platform platform.toml -o plan.json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Plan by this resource alone, from complexities, as if nothing were measured: compute, storage,
    /// memory, energy or bandwidth; says what that costs against the best plan.
    #[arg(long, value_name = "RESOURCE", value_parser = parse_resource, conflicts_with = "mapping")]
    scarce: Option<Resource>,
    /// With --scarce: how much of the resource may be used, in thousandths of what the whole network
    /// needs.
    #[arg(long, value_name = "PERMILLE", default_value_t = 500, requires = "scarce")]
    budget: u64,
    /// Evaluate this mapping, a file of AutoDiCE, beside the best plan.
    #[arg(long, value_name = "autodice.json")]
    mapping: Option<PathBuf>,
    /// Run the best plans on their agents, correct the table by what their stages and messages take,
    /// and plan again, until the winner's prediction holds.
    #[arg(long, conflicts_with_all = ["costs", "scarce", "mapping", "scatter", "revisits"])]
    refine: bool,
    /// With --refine: most rounds of measuring and planning again.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "refine")]
    rounds: usize,
    /// With --refine: plans to run in a round, the winner and the best that were not run yet.
    #[arg(long, value_name = "N", default_value_t = 3, requires = "refine")]
    plans: usize,
    /// With --refine: frames of each plan in a round.
    #[arg(long, value_name = "N", default_value_t = 12, requires = "refine")]
    frames: usize,
    #[command(flatten)]
    identity: IdentityArgs,
    /// With --refine: the picture or tensor to run [default: seeded random numbers].
    #[arg(long, value_name = "PATH", requires = "refine")]
    input: Option<PathBuf>,
    /// Pictures (or .npy tensors) on which lossy plans are run here: what `uint8` needs to be
    /// calibrated, and how well the answers agree with the whole network's.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["costs", "refine"])]
    images: Option<PathBuf>,
    /// Search for the best plan at every speed of the source's first link too: `cutline run` then
    /// measures the link while it runs, and takes the best of them for each frame.
    #[arg(long, conflicts_with_all = ["costs", "images", "scarce", "mapping", "scatter", "revisits"])]
    sweep: bool,
    /// The file to write.
    #[arg(short, long, value_name = "plan.json")]
    output: Option<PathBuf>,
}

fn parse_resource(text: &str) -> Result<Resource, String> {
    Ok(match text {
        "compute" => Resource::Compute,
        "storage" => Resource::Storage,
        "memory" => Resource::Memory,
        "energy" => Resource::Energy,
        "bandwidth" => Resource::Bandwidth,
        _ => return Err("expected compute, storage, memory, energy or bandwidth".to_owned()),
    })
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let mut problem = args.problem.open(output)?;
    let request = args.problem.request()?;
    let mut stop = args.problem.stop();
    let limit = args.problem.agreement()?;
    if limit.is_some() && args.images.is_none() {
        bail!("--limit agreement is measured on pictures; give a folder of them with --images DIR");
    }
    if request.scatter && args.images.is_some() {
        bail!("--images runs parts one after another; it does not go with --scatter");
    }
    if request.revisits && args.images.is_some() {
        bail!(
            "--images searches among plans that visit each device once; it does not go with --revisits"
        );
    }
    let refined = match args.refine {
        true => Some(refined(&args, &mut problem, &request, &mut stop, output)?),
        false => None,
    };
    let mut judge = match &args.images {
        Some(folder) => Some(judge(&args, folder, &problem, output)?),
        None => None,
    };
    let (answer, refinement) = match (refined, limit, &mut judge) {
        (Some((answer, refinement)), ..) => (answer, Some(refinement)),
        (None, Some(limit), Some(judge)) => {
            (agreeing::solve(judge, &request, limit, args.problem.time_limit())?, None)
        }
        (None, ..) => {
            (planner::solve_until(&problem.dag, &problem.costs, &request, &mut stop)?, None)
        }
    };
    let given = match (&args.scarce, &args.mapping) {
        (Some(resource), _) => Some(by_resource(&problem, *resource, args.budget)?),
        (None, Some(path)) => Some(by_mapping(&problem, path)?),
        (None, None) => None,
    };
    let answer = match given {
        Some(given) => beside(&problem, given, &request, answer)?,
        None => answer,
    };
    let Problem { model, dag, costs, platform, picture, .. } = &problem;
    let (model, picture) = (model.clone(), picture.clone());
    let mut plan = Plan::new(model, dag, costs, platform, &request, &answer, picture);
    plan.refinement = refinement;
    if let Some(Err(why)) = plan.best.as_ref().map(|best| staging::check_servers(platform, best)) {
        output.note(format!("the plan cannot be run: {why:#}"));
    }
    if args.sweep {
        sweep::add(&mut plan, &problem, &request, &answer, &mut stop)?;
    }
    if let Some(judge) = &mut judge {
        judge.complete(&mut plan, &answer)?;
    }
    if let Some(path) = args.output.filter(|_| plan.best.is_some()) {
        write_bytes(&path, serde_json::to_vec_pretty(&plan)?)?;
    }
    output.print(&plan, |out| {
        planning::write_plan(&plan, dag, out)?;
        planning::write_predictions(costs, out)?;
        sweep::write(&plan, &problem, out)
    })?;
    Ok(match plan.best {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

/// Who runs lossy plans on the pictures.
fn judge<'a>(
    args: &Args,
    folder: &Path,
    problem: &'a Problem,
    output: &'a Output,
) -> anyhow::Result<Judge<'a>> {
    let Some(model) = &problem.network else {
        bail!("--images runs a model; it does not go with --costs");
    };
    let (planned, args) = (problem.picture.as_ref(), args.problem.picture());
    Judge::new(problem, Gallery::open(folder, &model.graph, planned, args)?, output)
}

/// Plans, runs the best plans, corrects and plans again.
fn refined(
    args: &Args,
    problem: &mut Problem,
    request: &Request,
    stop: &mut dyn FnMut() -> bool,
    output: &Output,
) -> anyhow::Result<(Answer, Refinement)> {
    let Problem { model: name, costs, platform, picture, network, .. } = problem;
    let Some(model) = network else { bail!("--refine runs a model; it does not go with --costs") };
    let frame = match &args.input {
        Some(path) => frames::Loader::new(&model.graph).load(path)?,
        None => frames::random(&model.graph, 1)?,
    };
    let picture = picture.clone();
    let subject = Subject {
        model,
        name: name.clone(),
        platform,
        picture,
        frame,
        client: args.identity.client()?,
    };
    let mut note = |trial: &Trial| {
        output.note(format!(
            "round {}, plan {}: predicted {}, measured {}, off by {:.1} %",
            trial.round,
            trial.plan,
            trial.predicted.latency_ns,
            trial.measured.latency_ns,
            trial.error_permille() as f64 / 10.0
        ));
        for Correction { what, predicted_ns, measured_ns } in &trial.corrections {
            output.note(format!("  {what}: {measured_ns} in place of {predicted_ns}"));
        }
    };
    let budget = Budget { rounds: args.rounds, plans: args.plans, frames: args.frames };
    refine::refine(&subject, costs, request, budget, stop, &mut note)
}

/// A mapping that the planner did not choose, and what to call it.
struct Given {
    name: String,
    mapping: Mapping,
}

/// The cut that the scarce resource asks for, between the source and the second device.
fn by_resource(problem: &Problem, resource: Resource, budget: u64) -> anyhow::Result<Given> {
    let Problem { dag, costs, .. } = problem;
    let other = costs.device_ids().nth(1).context("--scarce needs a second device")?;
    let prices = EnergyPrices::of(dag, costs, other);
    if resource == Resource::Energy && prices.is_none() {
        bail!(
            "--scarce energy needs the power of `{}` and a link from it; give `power` in the platform file, or name a preset",
            costs.device(DeviceId::SOURCE).name
        );
    }
    let choice = scarce::choose(dag, resource, budget, None, prices.unwrap_or_default())
        .context("no cut is within the budget; raise --budget")?;
    let name = format!("the cut by scarce {resource:?} within {budget} permille").to_lowercase();
    Ok(Given { name, mapping: choice.candidate.mapping(other) })
}

/// A mapping file whose resources are devices of the platform.
fn by_mapping(problem: &Problem, path: &Path) -> anyhow::Result<Given> {
    let context = || format!("cannot use mapping `{}`", path.display());
    let Some(model) = &problem.network else {
        bail!("--mapping names layers of a model; it does not go with --costs");
    };
    let text = fs::read_to_string(path).with_context(context)?;
    let file = MappingFile::parse(&text).with_context(context)?;
    let imported = autodice::import(&model.graph, &model.grouping, &file).with_context(context)?;
    let mapping = imported.onto(&problem.platform).with_context(context)?;
    Ok(Given { name: format!("mapping `{}`", path.display()), mapping })
}

/// Puts a given mapping in the place of the best plan, with what it loses against it.
fn beside(
    problem: &Problem,
    given: Given,
    request: &Request,
    answer: Answer,
) -> anyhow::Result<Answer> {
    let Problem { dag, costs, .. } = problem;
    let Given { name, mapping } = given;
    let (setting, evaluation) = settle(dag, costs, &mapping)
        .with_context(|| format!("{name} cannot be run on this platform"))?;
    let value =
        |choice: &Choice| request.objective.of(&choice.evaluation, costs).unwrap_or_default();
    let mut choice = Choice { mapping, setting, evaluation, proof: Proof::Optimal };
    if let Some(why) = planner::violation(dag, costs, request, &choice) {
        bail!("{name} is not allowed: {why}");
    }
    let objective = request.objective;
    let (what, own) = (objective.name(), value(&choice));
    let reason = match &answer.best {
        Ok(best) => {
            choice.proof = match own.saturating_sub(value(best)) {
                0 => best.proof,
                gap => Proof::Within(gap),
            };
            let over = (own as f64 / value(best).max(1) as f64 - 1.0) * 100.0;
            let (own, least) = (objective.show(own), objective.show(value(best)));
            format!(
                "{name}: {what} {own}, {over:.1} % over the best plan's {least} (its regret); without it: {}",
                answer.reason
            )
        }
        Err(why) => {
            format!(
                "{name}: {what} {}; within the limits there is no plan: {why}",
                objective.show(own)
            )
        }
    };
    Ok(Answer { best: Ok(choice), reason, ..answer })
}
