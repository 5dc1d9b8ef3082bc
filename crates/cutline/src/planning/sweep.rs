//! The best plan at every speed of a link, and the routes that a run chooses among.

use std::io::Write;

use anyhow::Context;
use cutline_core::{
    cost::Costs,
    plan::{Plan, PlannedFallback},
    planner::{self, Answer, Choice, Objective, Request},
    platform::DeviceId,
    routing::Table,
    units::BytesPerSec,
};

use super::{Problem, describe};

/// Lowest and highest rate that the best plan is searched for, unless the link itself lies outside.
const RATES: [BytesPerSec; 2] = [BytesPerSec(12_500), BytesPerSec(1_250_000_000)];

/// The link whose speed is varied: the first one of the source.
pub(crate) fn first_link(costs: &Costs) -> Option<usize> {
    costs.links().iter().position(|link| link.between.contains(&DeviceId::SOURCE))
}

/// The rates between which it is varied.
pub(crate) fn ends(declared: BytesPerSec) -> [BytesPerSec; 2] {
    [RATES[0].min(declared), RATES[1].max(declared)]
}

/// Adds the best plan at every speed of the source's first link to a plan.
pub(crate) fn add(
    plan: &mut Plan,
    problem: &Problem,
    request: &Request,
    answer: &Answer,
    stop: &mut dyn FnMut() -> bool,
) -> anyhow::Result<()> {
    let Problem { dag, costs, .. } = problem;
    let link = first_link(costs).context("--sweep varies a link of the source, which has none")?;
    let ends = ends(costs.links()[link].up.rate);
    let regimes = planner::sweep(dag, costs, request, link, ends, stop)?;
    let edge_only = answer.baselines.iter().find(|baseline| baseline.name == "edge-only");
    let edge_only = edge_only.context("the planner did not try to leave all on the source")?;
    let fallback = edge_only.outcome.as_ref().map_err(ToString::to_string);
    let others = without_each(problem, request, stop)?;
    let (table, choices) = Table::of_sweep(costs, link, &regimes, fallback, &others)?;
    plan.add_routes(dag, costs, &table, &choices);
    Ok(())
}

/// The fastest plan without each device, for when it is gone; where there are but two, that is the
/// fallback.
fn without_each(
    Problem { dag, costs, .. }: &Problem,
    request: &Request,
    stop: &mut dyn FnMut() -> bool,
) -> anyhow::Result<Vec<Choice>> {
    let others: Vec<DeviceId> = costs.device_ids().filter(|&id| id != DeviceId::SOURCE).collect();
    if others.len() < 2 {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for gone in others {
        let name = &costs.device(gone).name;
        let layers = dag.groups().iter().flat_map(|group| &group.layers);
        let mut request = Request { objective: Objective::Latency, ..request.clone() };
        request.bans.extend(layers.map(|layer| (layer.clone(), name.clone())));
        found.extend(planner::solve_until(dag, costs, &request, stop)?.best.ok());
    }
    Ok(found)
}

/// The ranges for people.
pub(crate) fn write(plan: &Plan, problem: &Problem, out: &mut dyn Write) -> std::io::Result<()> {
    let Some(routes) = &plan.routes else { return Ok(()) };
    writeln!(out, "\nby the speed of the source's link, for `cutline run` to choose from:")?;
    for range in &routes.best {
        let Some(route) = routes.routes.get(range.route) else { continue };
        let rate = range.from_bytes_per_s;
        let text = describe(&route.plan, &problem.dag, plan.objective);
        writeln!(out, "from {rate}: {text}")?;
    }
    match &routes.fallback {
        PlannedFallback::Route(_) => writeln!(out, "without any link: all on the source"),
        PlannedFallback::Absent(why) => writeln!(out, "without any link there is no plan: {why}"),
    }
}
