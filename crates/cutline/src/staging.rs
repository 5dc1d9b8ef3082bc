//! From a planned choice to the parts of its network.

use cutline_core::{
    plan::{Plan, PlannedChoice, PlannedStage},
    split::StageLabel,
};
use cutline_runtime::model::Model;

/// The stage of each layer under a choice; `None` for layers that go wherever they are needed.
pub(crate) fn stages_of_layers(
    model: &Model,
    plan: &Plan,
    choice: &PlannedChoice,
) -> anyhow::Result<Vec<Option<u32>>> {
    let of_group = choice.resolve(&model.grouping.dag, &plan.platform)?.stage_of_group();
    let groups = model.grouping.group_of.iter();
    Ok(groups.map(|group| group.map(|id| of_group[id.index()])).collect())
}

/// What each sub-model's file says about the plan that it belongs to.
pub(crate) fn labels(plan: &Plan, choice: &PlannedChoice) -> Vec<StageLabel> {
    let label = |stage: &PlannedStage| {
        let mut label = StageLabel::new(stage.device.clone());
        label.metadata.insert("plan".to_owned(), choice.id.clone());
        label.metadata.insert("model_sha256".to_owned(), plan.model.sha256.clone());
        label
    };
    choice.stages.iter().map(label).collect()
}
