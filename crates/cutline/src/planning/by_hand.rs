//! What the measurements of a platform say of a mapping that a person decided: by which engines it is
//! fastest, and what it costs then.

use cutline_core::{
    cost::{Costs, TENSOR},
    dag::Dag,
    evaluate::{Setting, with_engines},
    partition::Mapping,
    plan::{Engines, Figures, Plan},
};

/// Gives a plan by hand the engines that its devices were measured with, the fastest of each for its
/// groups, and the prediction that goes with them; leaves it as it is where an engine cannot run a
/// group. A device known by its preset alone keeps its own engine.
///
/// The prediction is that of tensors that travel as they are: `encoded` values have none.
pub(crate) fn settle(plan: &mut Plan, dag: &Dag, costs: &Costs, mapping: &Mapping, encoded: bool) {
    let Some(input) = costs.inputs().iter().position(|input| input.name == TENSOR) else { return };
    let setting = Setting { input, ..Setting::first(costs) };
    let Ok((setting, evaluation)) = with_engines(dag, costs, mapping, setting) else { return };
    let engines: Engines = (costs.devices().iter().zip(&setting.engines))
        .map(|(device, &engine)| (device, &device.options[engine]))
        .filter(|(_, option)| !option.engine.is_empty())
        .map(|(device, option)| (device.name.clone(), (option.engine.clone(), option.threads)))
        .collect();
    plan.use_engines(&engines);
    if !encoded {
        for choice in plan.best.iter_mut().chain(&mut plan.best_split) {
            choice.predicted = Some(Figures::from(&evaluation));
        }
    }
}
