//! Candidate cuts as plans, so that many can be measured without a file for each.

use std::{collections::BTreeSet, path::Path, str::FromStr};

use anyhow::ensure;
use cutline_core::{
    codec::CutEncoding,
    cut::{Cut, candidate_cuts},
    partition::Mapping,
    plan::{LayerMap, ModelRef, Plan},
    platform::DeviceId,
};
use cutline_runtime::model::Model;

use crate::{
    inputs::{PictureArgs, file_name},
    output::Output,
    planning,
};

/// Which of the candidate cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    /// So many, evenly spread from the input to the output.
    Some(usize),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "all" => Ok(Wanted::All),
            Ok(count) if count > 0 => Ok(Wanted::Some(count)),
            _ => Err("expected `all`, or how many cuts, such as 8".to_owned()),
        }
    }
}

/// A plan under a name for people.
pub(super) struct Split {
    pub(super) name: String,
    pub(super) plan: Plan,
}

/// Everything on the first device, the wanted cuts between the first two, everything on the second;
/// where the platform says what that takes, predicted, and with the engines that this is said of.
pub(super) fn splits(
    model: &Model,
    file: &Path,
    wanted: Wanted,
    output: &Output,
) -> anyhow::Result<Vec<Split>> {
    let platform = planning::read_platform(file)?;
    let devices: Vec<DeviceId> = platform.device_ids().take(2).collect();
    ensure!(
        devices.len() == 2,
        "a cut needs two devices, and platform `{}` has one; give it a second with a link",
        file.display()
    );
    let folder = file.parent().unwrap_or(Path::new("."));
    let costs = match planning::costs_of(model, &platform, folder) {
        Ok(costs) => Some(costs),
        Err(error) => {
            output.note(format!("nothing is predicted: {error:#}"));
            None
        }
    };
    let dag = &model.grouping.dag;
    let groups = dag.groups().len();
    let named = chosen(candidate_cuts(dag), wanted).into_iter().map(|cut| (name(model, &cut), cut));
    let all_on = |device: DeviceId, before: bool| {
        (format!("all on {}", platform.device(device).name), vec![before; groups])
    };
    // The further down, the more of the network is on the first device.
    let befores = [all_on(devices[1], false)]
        .into_iter()
        .chain(named.map(|(name, cut)| (name, cut.before)))
        .chain([all_on(devices[0], true)]);
    let picture = PictureArgs { preprocess: None }.spec_if_picture(&model.graph)?;
    let reference = ModelRef { name: file_name(&model.path), sha256: model.sha256()?.to_owned() };
    let split = |(name, before): (String, Vec<bool>)| {
        let mapping = before.iter().map(|&before| devices[usize::from(!before)]);
        let mapping = Mapping(mapping.collect());
        let layers = dag.group_ids().flat_map(|id| {
            let device = platform.device(mapping.device(id)).name.clone();
            dag.group(id).layers.iter().map(move |layer| (layer.clone(), device.clone()))
        });
        let by_hand = (LayerMap(layers.collect()), CutEncoding::Fp32);
        let (picture, reason) = (picture.clone(), format!("{name}; compared with nothing"));
        let mut plan = Plan::by_hand(reference.clone(), dag, &platform, by_hand, picture, reason)?;
        if let Some(costs) = &costs {
            planning::by_hand::settle(&mut plan, dag, costs, &mapping, false);
        }
        Ok(Split { name, plan })
    };
    befores.map(split).collect()
}

fn chosen(cuts: Vec<Cut>, wanted: Wanted) -> Vec<Cut> {
    let Wanted::Some(count) = wanted else { return cuts };
    let (all, count) = (cuts.len(), count.min(cuts.len()));
    let keep: BTreeSet<usize> = match count {
        1 => [all / 2].into(),
        _ => (0..count).map(|at| at * (all - 1) / (count - 1)).collect(),
    };
    cuts.into_iter().enumerate().filter(|(at, _)| keep.contains(at)).map(|(_, cut)| cut).collect()
}

/// A cut by what crosses it.
fn name(model: &Model, cut: &Cut) -> String {
    let dag = &model.grouping.dag;
    let mut names: Vec<&str> = cut.flows.iter().map(|&flow| dag.flow(flow).name.as_str()).collect();
    let more = names.split_off(names.len().min(2)).len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let bytes = cut.bytes.map_or(String::new(), |bytes| format!(" ({bytes})"));
    format!("{}{more}{bytes}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use cutline_core::units::Bytes;

    use super::*;

    #[test]
    fn cuts_are_all_or_so_many_spread_evenly() {
        let cut = |bytes| Cut { before: Vec::new(), flows: Vec::new(), bytes: Some(Bytes(bytes)) };
        let picked = |text: &str| {
            let wanted = text.parse().unwrap();
            let cuts = chosen((0..10).map(cut).collect(), wanted).into_iter();
            cuts.map(|cut| cut.bytes.unwrap().0).collect::<Vec<_>>()
        };
        assert_eq!(picked("all").len(), 10);
        assert_eq!(picked("1"), [5]);
        assert_eq!(picked("4"), [0, 3, 6, 9]);
        assert_eq!(picked("99").len(), 10);
        for bad in ["0", "-1", "some", ""] {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
        assert_eq!(chosen(Vec::new(), Wanted::Some(3)), []);
    }
}
