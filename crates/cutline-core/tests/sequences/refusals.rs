//! Why there is no plan, against all plans: what would have to give way, and by how much.

use cutline_core::planner::{Infeasible, Objective, Request};

use super::oracle::{Instance, Plan, Values};

/// The least relaxation that an infeasible request is told of really is the least, and no other limit
/// need give way by a smaller part.
pub(super) fn relaxed(
    all: &[(Plan, Values)],
    instance: &Instance,
    request: &Request,
    quantity: Objective,
    least: u64,
) -> Result<(), String> {
    let at = |objective: &Objective| Objective::ALL.iter().position(|o| o == objective).unwrap();
    let really = |quantity: Objective| {
        let others = |values: &Values| {
            let mut others = request.limits.iter().filter(|(o, _)| *o != quantity);
            others.all(|(o, most)| values[at(o)] <= *most)
        };
        let possible = all
            .iter()
            .filter(|(plan, values)| keeps_pins(instance, request, plan) && others(values));
        possible.map(|(_, values)| values[at(&quantity)]).min()
    };
    if really(quantity) != Some(least) {
        let really = really(quantity);
        return Err(format!("least {} said to be {least}, is {really:?}", quantity.name()));
    }
    let part = |least: u64, limit: u64| u128::from(least) * 1_000_000 / u128::from(limit.max(1));
    let limit = request.limits.iter().find(|(o, _)| *o == quantity).unwrap().1;
    let smaller = request.limits.iter().find(|&&(other, limit_of_other)| {
        really(other).is_some_and(|other| part(other, limit_of_other) < part(least, limit))
    });
    match smaller {
        None => Ok(()),
        Some(smaller) => Err(format!("{smaller:?} gives way less than {quantity:?} to {least}")),
    }
}

/// No limit by itself is what forbids all plans: the least of each, or of memory exceeded, is so.
pub(super) fn refused(
    all: &[(Plan, Values)],
    instance: &Instance,
    request: &Request,
    why: &Infeasible,
) -> Result<(), String> {
    let least = |at: usize| {
        all.iter().filter(|(plan, _)| keeps_pins(instance, request, plan)).map(|(_, v)| v[at]).min()
    };
    let (found, expected) = match why {
        Infeasible::Limits(limits) => {
            let at = |o: &Objective| Objective::ALL.iter().position(|known| known == o).unwrap();
            let found = limits.iter().map(|(_, _, least)| Some(*least));
            let expected = limits.iter().map(|(quantity, _, _)| least(at(quantity)));
            (found.collect::<Vec<_>>(), expected.collect())
        }
        Infeasible::Memory { needed, others, limit, excess, .. } => {
            let every = instance.every(request.scatter).into_iter();
            let every = every.filter(|(plan, _, _)| keeps_pins(instance, request, plan));
            let least = every.map(|(_, _, excess)| excess).min();
            let told = needed.0 + others.0 - limit.0;
            (vec![Some(excess.0), Some(told)], vec![least, least])
        }
        Infeasible::NoPlan => {
            let mut every = instance.every(request.scatter).into_iter();
            let any = every.find(|(plan, _, _)| keeps_pins(instance, request, plan));
            (vec![None], vec![any.map(|(_, _, excess)| excess)])
        }
        _ => return Err("not a reason for no plan at all".to_owned()),
    };
    match found == expected {
        true => Ok(()),
        false => Err(format!("found {found:?}, expected {expected:?}")),
    }
}

pub(super) fn keeps_pins(instance: &Instance, request: &Request, plan: &Plan) -> bool {
    request.pins.iter().all(|(layer, device)| {
        let layer = instance.names.iter().position(|name| name == layer).unwrap();
        instance.devices[plan.on[layer]].name == *device
    })
}

/// No plan keeps up with the frames, and the least period told is the least of those that do not.
pub(super) fn too_slow(
    all: &[(Plan, Values)],
    late: &[(Plan, Values)],
    instance: &Instance,
    request: &Request,
    least: u64,
) -> Result<(), String> {
    let pinned = |(plan, _): &&(Plan, Values)| keeps_pins(instance, request, plan);
    let period = Objective::ALL.iter().position(|o| *o == Objective::Period).unwrap();
    let really = late.iter().filter(pinned).map(|(_, values)| values[period]).min();
    match all.iter().find(pinned) {
        Some((plan, _)) => Err(format!("{plan:?} keeps up with the frames")),
        None if really == Some(least) => Ok(()),
        None => Err(format!("least period said to be {least}, is {really:?}")),
    }
}
