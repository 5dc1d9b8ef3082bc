//! From what is asked to what is searched: encodings, pins, bans and privacy.
//!
//! All but the encodings become part of a copy of the network and its costs: a device that must not
//! run a group has no time for it, and a value that must not leave its device is confined to it.

use std::borrow::Cow;

use super::{Objective, PlannerError, Request, network::Forced};
use crate::{
    cost::Costs,
    dag::{Dag, Group, GroupId},
    platform::DeviceId,
};

/// A request in the solvers' terms.
pub(super) struct Prepared<'a> {
    /// Network and costs as they are without pins, bans and privacy.
    pub(super) plain: (&'a Dag, &'a Costs),
    pub(super) dag: Cow<'a, Dag>,
    pub(super) costs: Cow<'a, Costs>,
    pub(super) forced: Forced,
    pub(super) inputs: Vec<usize>,
    pub(super) codecs: Vec<usize>,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(
        dag: &'a Dag,
        costs: &'a Costs,
        request: &Request,
    ) -> Result<Self, PlannerError> {
        if dag.groups().is_empty() {
            return Err(PlannerError::NoGroups);
        }
        if costs.devices().len() > MOST_DEVICES {
            return Err(PlannerError::TooManyDevices(costs.devices().len()));
        }
        if request.scatter && request.revisits {
            return Err(PlannerError::ReturningScatter);
        }
        let objectives = request.limits.iter().map(|(limited, _)| *limited);
        for objective in objectives.chain([request.objective]) {
            known(dag, costs, objective)?;
        }
        let inputs = costs.inputs().iter().map(|input| (input.name.as_str(), input.lossy));
        let codecs = costs.codecs().iter().map(|codec| (codec.name.as_str(), codec.lossy));
        let inputs = allowed("input", &request.input_encodings, inputs)?;
        let codecs = allowed("cut", &request.cut_encodings, codecs)?;
        let mut forced = pins(dag, costs, request)?;
        let plain = (dag, costs);
        let mut dag = Cow::Borrowed(dag);
        let mut costs = Cow::Borrowed(costs);
        for (what, device) in &request.bans {
            ban(&dag, costs.to_mut(), what, device)?;
        }
        for (values, codec) in &request.forbidden {
            forbid_codec(&dag, costs.to_mut(), values, codec)?;
        }
        if let Some(layer) = &request.private {
            keep_private(dag.to_mut(), &mut forced, layer)?;
        }
        let pinned: Vec<(usize, DeviceId)> = forced
            .iter()
            .enumerate()
            .filter_map(|(group, device)| Some((group, (*device)?)))
            .collect();
        for (group, device) in pinned {
            for other in costs.device_ids().filter(|&other| other != device) {
                forbid(costs.to_mut(), other, group);
            }
        }
        Ok(Prepared { plain, dag, costs, forced, inputs, codecs })
    }

    /// Whether everything may run on a device, with one engine at least.
    pub(super) fn allows_all_on(&self, device: DeviceId) -> bool {
        let options = &self.costs.device(device).options;
        let home = device == DeviceId::SOURCE;
        options.iter().any(|option| option.groups.iter().all(Option::is_some))
            && (home || self.dag.flows().iter().all(|flow| !flow.confined))
    }
}

/// A set of devices is a word of bits.
const MOST_DEVICES: usize = 32;

/// Whether the costs know an objective.
pub(super) fn known(dag: &Dag, costs: &Costs, objective: Objective) -> Result<(), PlannerError> {
    match objective {
        Objective::Energy | Objective::DeviceEnergy => {
            let unknown = costs.devices().iter().find(|device| {
                let given = device.group_energy.iter().flatten().count();
                device.power.is_none() && given < dag.groups().len()
            });
            match unknown {
                Some(device) => Err(PlannerError::UnknownPower(device.name.clone())),
                None => Ok(()),
            }
        }
        Objective::Money => {
            let workload = costs.workload().ok_or(PlannerError::NoWorkload)?;
            let unclear = costs.devices().iter().find(|device| {
                let price = &device.price;
                price.rent.is_some()
                    && price.users_per_instance.is_none()
                    && workload.frames_per_megasecond.is_none()
            });
            match unclear {
                Some(device) => Err(PlannerError::UnknownLoad(device.name.clone())),
                None => Ok(()),
            }
        }
        Objective::Latency | Objective::Period | Objective::Memory => Ok(()),
    }
}

fn forbid(costs: &mut Costs, device: DeviceId, group: usize) {
    for option in &mut costs.devices[device.index()].options {
        option.groups[group] = None;
    }
}

/// Keeps a layer, or every layer of an operator, off a device.
fn ban(dag: &Dag, costs: &mut Costs, what: &str, device: &str) -> Result<(), PlannerError> {
    let id = costs.find_device(device);
    let id = id.ok_or_else(|| PlannerError::UnknownDevice(device.to_owned()))?;
    let holds = |group: &Group| {
        group.layers.iter().any(|layer| layer == what) || group.ops.iter().any(|op| op == what)
    };
    let groups: Vec<usize> =
        (0..dag.groups().len()).filter(|&group| holds(&dag.groups()[group])).collect();
    if groups.is_empty() {
        return Err(PlannerError::UnknownLayer(what.to_owned()));
    }
    groups.into_iter().for_each(|group| forbid(costs, id, group));
    Ok(())
}

/// Keeps a codec from where exactly these values cross.
fn forbid_codec(
    dag: &Dag,
    costs: &mut Costs,
    values: &[String],
    codec: &str,
) -> Result<(), PlannerError> {
    let flow = |name: &String| {
        let mut ids = dag.flow_ids().filter(|&id| dag.flow(id).from.is_some());
        ids.find(|&id| dag.flow(id).name == *name)
            .ok_or_else(|| PlannerError::UnknownValue(name.clone()))
    };
    let mut flows = values.iter().map(flow).collect::<Result<Vec<_>, _>>()?;
    flows.sort_unstable();
    let known = costs.codecs.iter().map(|codec| (codec.name.as_str(), codec.lossy));
    let codec = allowed("cut", &Some(vec![codec.to_owned()]), known)?;
    costs.forbidden.extend(codec.into_iter().map(|codec| (flows.clone(), codec)));
    Ok(())
}

/// A group and all that it depends on.
pub(super) fn inside(dag: &Dag, at: usize) -> Vec<bool> {
    let mut inside = vec![false; dag.groups().len()];
    inside[at] = true;
    for id in dag.group_ids().collect::<Vec<GroupId>>().into_iter().rev() {
        if inside[id.index()] {
            dag.predecessors(id).for_each(|before| inside[before.index()] = true);
        }
    }
    inside
}

/// A layer and all before it run on the source, and nothing made before it leaves the source, nor
/// does the network's input.
fn keep_private(dag: &mut Dag, forced: &mut Forced, layer: &str) -> Result<(), PlannerError> {
    let holds = |group: &Group| group.layers.iter().any(|known| known == layer);
    let Some(at) = dag.groups().iter().position(holds) else {
        return Err(PlannerError::UnknownLayer(layer.to_owned()));
    };
    let inside = inside(dag, at);
    for (group, forced) in forced.iter_mut().enumerate().filter(|(group, _)| inside[*group]) {
        match forced {
            Some(device) if *device != DeviceId::SOURCE => {
                let layer = dag.groups()[group].name.clone();
                return Err(PlannerError::PrivateElsewhere(layer));
            }
            _ => *forced = Some(DeviceId::SOURCE),
        }
    }
    dag.confine(|flow| match flow.from {
        None => true,
        Some(group) => inside[group.index()] && group.index() != at,
    });
    Ok(())
}

/// Positions of the encodings to consider.
fn allowed<'a>(
    kind: &'static str,
    named: &Option<Vec<String>>,
    known: impl Iterator<Item = (&'a str, bool)>,
) -> Result<Vec<usize>, PlannerError> {
    let known: Vec<(&str, bool)> = known.collect();
    let Some(named) = named else {
        return Ok((0..known.len()).filter(|&i| !known[i].1).collect());
    };
    let mut positions = Vec::new();
    for name in named {
        let position = known.iter().position(|(known, _)| known == name).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            PlannerError::UnknownEncoding { kind, name: name.clone(), known: names.join(", ") }
        })?;
        if !positions.contains(&position) {
            positions.push(position);
        }
    }
    if positions.is_empty() {
        return Err(PlannerError::NoEncodingAllowed(kind));
    }
    positions.sort_unstable();
    Ok(positions)
}

fn pins(dag: &Dag, costs: &Costs, request: &Request) -> Result<Forced, PlannerError> {
    let mut forced: Forced = vec![None; dag.groups().len()];
    for (layer, device) in &request.pins {
        let holds = |group: &crate::dag::Group| group.layers.contains(layer);
        let Some(group) = dag.groups().iter().position(holds) else {
            return Err(PlannerError::UnknownLayer(layer.clone()));
        };
        let id = costs.find_device(device);
        let id = id.ok_or_else(|| PlannerError::UnknownDevice(device.clone()))?;
        match forced[group] {
            Some(first) if first != id => {
                let (layer, second) = (layer.clone(), device.clone());
                let first = costs.device(first).name.clone();
                return Err(PlannerError::Contradiction { layer, first, second });
            }
            _ => forced[group] = Some(id),
        }
    }
    Ok(forced)
}
