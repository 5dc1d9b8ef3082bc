//! Why the best plan is the best, in words with numbers.

use super::{Baseline, Choice, Infeasible, Objective};
use crate::{
    cost::Costs,
    dag::Dag,
    evaluate::PartKind,
    partition::derive,
    platform::DeviceId,
    units::{Bytes, Nanos},
};

/// One or two sentences.
pub(super) fn reason(
    dag: &Dag,
    costs: &Costs,
    objective: Objective,
    baselines: &[Baseline],
    best: &Result<Choice, Infeasible>,
    best_split: &Result<Choice, Infeasible>,
) -> String {
    let best = match best {
        Ok(best) => best,
        Err(why) => return format!("no plan: {why}"),
    };
    let has_helpers = |choice: &Choice| !choice.setting.helpers.is_empty();
    let scattered = has_helpers(best) || best_split.as_ref().is_ok_and(has_helpers);
    let comes_back = |choice: &Choice| match choice.setting.order.as_slice() {
        [] | [_] => false,
        [first, ..] => *first != DeviceId::SOURCE || choice.setting.order.len() > 2,
    };
    let returns = comes_back(best) || best_split.as_ref().is_ok_and(comes_back);
    if objective != Objective::Latency || costs.devices().len() > 2 || scattered || returns {
        return by_value(costs, objective, baselines, best, best_split);
    }
    let single = !is_split(best);
    match (single, best_split) {
        (false, _) => split(dag, costs, baselines, best),
        (true, Err(why)) => {
            format!(
                "everything on `{}`; there is no split to compare with: {why}",
                home(costs, best)
            )
        }
        (true, Ok(split)) => do_not_split(dag, costs, best, split),
    }
}

/// What the best plan gains over the alternatives in the objective.
fn by_value(
    costs: &Costs,
    objective: Objective,
    baselines: &[Baseline],
    best: &Choice,
    best_split: &Result<Choice, Infeasible>,
) -> String {
    let value = |choice: &Choice| objective.of(&choice.evaluation, costs).unwrap_or_default();
    let show = |choice: &Choice| objective.show(value(choice));
    let name = objective.name();
    if !is_split(best) {
        let other = match best_split {
            Ok(split) => format!("the best split, over {}, has {}", way(costs, split), show(split)),
            Err(why) => format!("there is no split to compare with: {why}"),
        };
        return format!(
            "do not split: everything on `{}` has the least {name}, {}; {other}",
            home(costs, best),
            show(best)
        );
    }
    let against = baselines.iter().filter_map(|baseline| {
        let choice = baseline.outcome.as_ref().ok()?;
        let note = if baseline.allowed { "" } else { ", not allowed" };
        let (where_to, what) = (home(costs, choice), show(choice));
        Some(format!("{what} for {} (on `{where_to}`{note})", baseline.name))
    });
    let against: Vec<String> = against.collect();
    let against = match against.is_empty() {
        true => "no plan on one device".to_owned(),
        false => against.join(", "),
    };
    format!("split over {}: {name} {} against {against}", way(costs, best), show(best))
}

/// Devices of a plan in the order of a frame's way, with how many groups each runs.
fn way(costs: &Costs, choice: &Choice) -> String {
    let mut order = choice.setting.order.clone();
    for &device in &choice.mapping.0 {
        if !order.contains(&device) {
            order.push(device);
        }
    }
    let stage = |(at, device): (usize, &DeviceId)| {
        if order[..at].contains(device) {
            return format!("`{}` again", costs.device(*device).name);
        }
        let groups = choice.mapping.0.iter().filter(|on| *on == device).count();
        format!("`{}` ({groups} of {} groups)", costs.device(*device).name, choice.mapping.0.len())
    };
    order.iter().enumerate().map(stage).collect::<Vec<_>>().join(", ")
}

fn is_split(choice: &Choice) -> bool {
    choice.mapping.0.windows(2).any(|pair| pair[0] != pair[1])
}

fn home(costs: &Costs, choice: &Choice) -> String {
    choice.mapping.0.first().map(|&device| costs.device(device).name.clone()).unwrap_or_default()
}

fn split(dag: &Dag, costs: &Costs, baselines: &[Baseline], best: &Choice) -> String {
    let against: Vec<String> = baselines
        .iter()
        .filter_map(|baseline| {
            let latency = baseline.outcome.as_ref().ok()?.evaluation.latency;
            let note = if baseline.allowed { "" } else { " (not allowed)" };
            Some(format!("{} {latency}{note}", baseline.name))
        })
        .collect();
    let evaluation = &best.evaluation;
    format!(
        "split at {}: {} of upload take {}, the rest of the work {} in place of {}; together {} against {}",
        cut(dag, best),
        sent(best),
        evaluation.upload(),
        evaluation.cloud_compute(),
        edge_rest(dag, costs, best),
        evaluation.latency,
        if against.is_empty() { "no plan on one device".to_owned() } else { against.join(", ") },
    )
}

fn do_not_split(dag: &Dag, costs: &Costs, best: &Choice, split: &Choice) -> String {
    let (cut, evaluation) = (cut(dag, split), &split.evaluation);
    let more = evaluation.latency - best.evaluation.latency;
    if best.mapping.0.first() == Some(&DeviceId::SOURCE) {
        let rest = edge_rest(dag, costs, split);
        return format!(
            "do not split: the best cut, at {cut}, sends {} in {} and computes for {} more on `{}`, \
             where `{}` needs {rest} for the same layers; it costs {more} more than doing all there",
            sent(split),
            evaluation.upload(),
            evaluation.cloud_compute(),
            remote(costs, split),
            costs.device(DeviceId::SOURCE).name,
        );
    }
    format!(
        "do not split: sending the input ({}) takes {} and `{}` computes all in {}; the best cut, at \
         {cut}, sends {} in {} after {} on `{}`, and costs {more} more",
        sent(best),
        best.evaluation.upload(),
        home(costs, best),
        best.evaluation.cloud_compute(),
        sent(split),
        evaluation.upload(),
        evaluation.edge_compute(),
        costs.device(DeviceId::SOURCE).name,
    )
}

/// Names of the values that cross, at most three of them.
fn cut(dag: &Dag, choice: &Choice) -> String {
    let partition = derive(dag, &choice.mapping);
    let hops = partition.hops.iter().flat_map(|hop| &hop.message);
    let names: Vec<String> = hops.map(|&flow| format!("`{}`", dag.flow(flow).name)).collect();
    match names.len() {
        0 => "no value".to_owned(),
        1..=3 => names.join(", "),
        more => format!("{} and {} more", names[..2].join(", "), more - 2),
    }
}

fn sent(choice: &Choice) -> Bytes {
    let parts = choice.evaluation.parts.iter().filter(|part| part.kind == PartKind::Send);
    parts.map(|part| part.bytes).sum()
}

fn remote(costs: &Costs, choice: &Choice) -> String {
    let remote = choice.mapping.0.iter().find(|&&device| device != DeviceId::SOURCE);
    remote.map(|&device| costs.device(device).name.clone()).unwrap_or_default()
}

/// What the source would need for the layers that the split gives away; says so if it cannot.
fn edge_rest(dag: &Dag, costs: &Costs, split: &Choice) -> String {
    let source = costs.device(DeviceId::SOURCE);
    let option = &source.options[split.setting.engines[DeviceId::SOURCE.index()]];
    let away = dag.group_ids().filter(|&id| split.mapping.device(id) != DeviceId::SOURCE);
    let times: Option<Vec<Nanos>> = away.map(|id| option.groups[id.index()]).collect();
    match times {
        Some(times) => times.into_iter().sum::<Nanos>().to_string(),
        None => format!("layers that `{}` cannot run", source.name),
    }
}
