//! Whether a plan made by hand is one that the request allows: the checks that searched plans meet.

use super::{Choice, Infeasible, Objective, Request, request::inside};
use crate::{
    cost::Costs,
    dag::{Dag, Group},
    platform::DeviceId,
};

/// What a request forbids about a plan; `None` if it allows it. Encodings are not looked at.
pub fn violation(dag: &Dag, costs: &Costs, request: &Request, plan: &Choice) -> Option<Infeasible> {
    pinned(dag, costs, request, plan)
        .or_else(|| banned(dag, costs, request, plan))
        .or_else(|| leaked(dag, request, plan))
        .or_else(|| exceeded(costs, request, plan))
        .or_else(|| late(costs, plan))
}

fn pinned(dag: &Dag, costs: &Costs, request: &Request, plan: &Choice) -> Option<Infeasible> {
    let torn = |(layer, device): &&(String, String)| {
        placed(dag, plan, |group| group.layers.contains(layer))
            .any(|(_, on)| costs.device(on).name != *device)
    };
    let (layer, device) = request.pins.iter().find(torn)?.clone();
    Some(Infeasible::Pinned { layer, device })
}

fn banned(dag: &Dag, costs: &Costs, request: &Request, plan: &Choice) -> Option<Infeasible> {
    request.bans.iter().find_map(|(what, device)| {
        let holds = |group: &Group| group.layers.contains(what) || group.ops.contains(what);
        let (layer, _) =
            placed(dag, plan, holds).find(|(_, on)| costs.device(*on).name == *device)?;
        Some(Infeasible::Banned { layer, device: device.clone() })
    })
}

/// A value that would leave the source before it may.
fn leaked(dag: &Dag, request: &Request, plan: &Choice) -> Option<Infeasible> {
    let layer = request.private.as_ref()?;
    let at = dag.groups().iter().position(|group| group.layers.contains(layer))?;
    let inside = inside(dag, at);
    let private = |group: usize| inside[group] && group != at;
    let partition = plan.setting.partition(dag, &plan.mapping).ok()?;
    let mut sent = partition.hops.iter().flat_map(|hop| &hop.message);
    let value =
        sent.find(|&&flow| dag.flow(flow).from.is_none_or(|group| private(group.index())))?;
    Some(Infeasible::Private { value: dag.flow(*value).name.clone(), layer: layer.clone() })
}

fn exceeded(costs: &Costs, request: &Request, plan: &Choice) -> Option<Infeasible> {
    let memory = plan.evaluation.memory.iter().find_map(|used| Infeasible::memory(costs, used));
    if memory.is_some() {
        return memory;
    }
    request.limits.iter().find_map(|&(quantity, limit)| {
        let value = Objective::of(quantity, &plan.evaluation, costs)?;
        (value > limit).then_some(Infeasible::Exceeds { quantity, limit, value })
    })
}

/// Where idle power counts, a plan that does not keep up with the frames.
fn late(costs: &Costs, plan: &Choice) -> Option<Infeasible> {
    let (interval, period) = (costs.frame_interval()?, plan.evaluation.period);
    (period > interval).then_some(Infeasible::Late { interval, period })
}

/// First layer and device of every group that is meant.
fn placed<'a>(
    dag: &'a Dag,
    plan: &'a Choice,
    meant: impl Fn(&Group) -> bool + 'a,
) -> impl Iterator<Item = (String, DeviceId)> + 'a {
    let ids = dag.group_ids().filter(move |&id| meant(dag.group(id)));
    ids.map(|id| (dag.group(id).name.clone(), plan.mapping.device(id)))
}
