//! What a cell costs on a platform: the planner's evaluation of its cut, encoding and codec, with the
//! bytes that were measured on the pictures.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use cutline_core::{
    codec::CutEncoding,
    cost::{Costs, Origin, PIXELS},
    dag::Dag,
    evaluate::{Setting, evaluate},
    partition::Mapping,
    picture::InputEncoding,
    planner::{self, Choice, Proof, Request},
    platform::{DeviceId, Platform},
    units::{Bytes, Money, Nanojoules, Nanos},
};
use cutline_runtime::model::Model;
use serde::Serialize;

use crate::planning::{Measured, pixels, read_platform};

/// A platform with the measurements that it names.
pub(super) struct Pricing {
    platform: Platform,
    measured: Measured,
}

/// The costs of one network on the platform.
pub(super) struct Priced<'a> {
    dag: &'a Dag,
    costs: Costs,
}

/// Where a cell runs, and what travels.
pub(super) struct Way {
    /// By group, whether it runs on the source.
    pub(super) before: Vec<bool>,
    /// How the input travels, and with how many bytes.
    pub(super) input: Option<(InputEncoding, Bytes)>,
    /// How values travel: the codec, their size as declared and as sent.
    pub(super) codec: Option<(CutEncoding, [Bytes; 2])>,
}

/// What a cell costs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CostRow {
    /// What runs behind the cut, or everything; absent where all is on the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cloud: Option<String>,
    /// By device that runs something.
    pub(crate) engines: BTreeMap<String, String>,
    /// How the times of the devices are known, the least certain one.
    pub(crate) origin: Known,
    pub(crate) latency_ns: Nanos,
    pub(crate) period_ns: Nanos,
    /// In millionths of the platform's currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) money_per_month: Option<Money>,
    /// Of a frame on all devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) energy_nj: Option<Nanojoules>,
}

/// How a time is known, the most certain first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Known {
    /// From a profile of that device.
    Measured,
    /// From kernels and other networks.
    Predicted,
    /// From published figures.
    Modelled,
}

impl Known {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Known::Measured => "measured",
            Known::Predicted => "predicted",
            Known::Modelled => "modelled",
        }
    }
}

impl Pricing {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let platform = read_platform(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let measured = Measured::read(&platform, folder)
            .with_context(|| format!("in platform `{}`", path.display()))?;
        Ok(Self { platform, measured })
    }

    /// The costs of a network, from those of the platform's profiles that are of it.
    pub(super) fn of<'a>(&self, model: &'a Model) -> anyhow::Result<Priced<'a>> {
        let sha256 = model.sha256()?;
        let pixels = pixels(&model.graph);
        // A file of open size has one hash at every size; what its pictures took tells them apart.
        let same_size = |bytes: Option<Bytes>| match (bytes, pixels) {
            (Some(bytes), Some(pixels)) => bytes == pixels,
            _ => true,
        };
        let of_it = self.measured.profiles.iter().map(|profiles| {
            let mut profiles = profiles.clone();
            profiles.retain(|profile| {
                let prepared = profile.prepare.get(PIXELS).map(|time| time.bytes);
                profile.key.model_sha256 == sha256 && same_size(prepared)
            });
            profiles
        });
        let measured = Measured { profiles: of_it.collect(), tables: self.measured.tables.clone() };
        let dag = &model.grouping.dag;
        let costs = measured.costs((dag, &model.graph), sha256, &self.platform)?;
        Ok(Priced { dag, costs })
    }
}

impl Priced<'_> {
    /// What a cell costs with each device that can be behind the cut; once where all is on the source.
    pub(super) fn rows(&self, way: &Way) -> Vec<Result<CostRow, String>> {
        if way.before.iter().all(|&before| before) {
            return vec![self.row(way, None)];
        }
        let linked = self
            .costs
            .device_ids()
            .filter(|&to| self.costs.direction(DeviceId::SOURCE, to).is_some());
        let rows: Vec<_> = linked.map(|to| self.row(way, Some(to))).collect();
        match rows.is_empty() {
            true => vec![Err("the platform's first device has no link".to_owned())],
            false => rows,
        }
    }

    /// With the engines that make it fastest; of those the cheapest.
    fn row(&self, way: &Way, to: Option<DeviceId>) -> Result<CostRow, String> {
        let mut costs = self.costs.clone();
        let (input, codec) = self.offer(&mut costs, way)?;
        let away = to.unwrap_or(DeviceId::SOURCE);
        let side = |&before: &bool| if before { DeviceId::SOURCE } else { away };
        let mapping = Mapping(way.before.iter().map(side).collect());
        let mut best: Option<Choice> = None;
        let mut why = "it has no engine".to_owned();
        for setting in settings(&costs, away, input, codec) {
            let mapping = mapping.clone();
            let evaluation = match evaluate(self.dag, &costs, &mapping, &setting) {
                Ok(evaluation) => evaluation,
                Err(error) => {
                    why = error.to_string();
                    continue;
                }
            };
            let choice = Choice { mapping, setting, evaluation, proof: Proof::Optimal };
            if let Some(violated) =
                planner::violation(self.dag, &costs, &Request::default(), &choice)
            {
                why = violated.to_string();
                continue;
            }
            let key = |choice: &Choice| (choice.evaluation.latency, choice.evaluation.money);
            if best.as_ref().is_none_or(|best| key(&choice) < key(best)) {
                best = Some(choice);
            }
        }
        let choice = best.ok_or(why)?;
        Ok(describe(&costs, &choice, to))
    }

    /// Makes input and values travel with the bytes that were measured; their places in the table.
    fn offer(&self, costs: &mut Costs, way: &Way) -> Result<(usize, usize), String> {
        let mut input = 0;
        if let Some((encoding, bytes)) = way.input {
            let name = encoding.name();
            // The tensor is as large as it is declared.
            let offered = encoding == InputEncoding::Fp32
                || costs.send_input_as(name, bytes, encoding.is_lossy());
            let place = costs.inputs().iter().position(|input| input.name == name);
            input = place.filter(|_| offered).ok_or_else(|| {
                format!("no profile of the first device times the input as {name}; measure one with `cutline profile --picture`")
            })?;
        }
        let mut codec = 0;
        if let Some((encoding, [declared, sent])) = way.codec
            && encoding.is_lossy()
        {
            let name = encoding.name();
            let offered = costs.send_values_as(name, declared, sent);
            let place = costs.codecs().iter().position(|codec| codec.name == name);
            codec = place.filter(|_| offered).ok_or_else(|| {
                format!("what {name} takes is not known of every device; measure profiles with `cutline profile`")
            })?;
        }
        Ok((input, codec))
    }
}

fn settings(costs: &Costs, away: DeviceId, input: usize, codec: usize) -> Vec<Setting> {
    let devices = costs.devices().len();
    let here = DeviceId::SOURCE;
    let mut settings = Vec::new();
    for edge in 0..costs.device(here).options.len() {
        for cloud in 0..costs.device(away).options.len() {
            let mut engines = vec![0; devices];
            engines[away.index()] = cloud;
            engines[here.index()] = edge;
            let codecs = vec![codec; devices];
            settings.push(Setting { engines, input, codecs, ..Setting::first(costs) });
        }
    }
    settings
}

fn describe(costs: &Costs, choice: &Choice, to: Option<DeviceId>) -> CostRow {
    let evaluation = &choice.evaluation;
    let mut engines = BTreeMap::new();
    let mut origin = Known::Measured;
    for device in costs.device_ids().filter(|id| choice.mapping.0.contains(id)) {
        let option = &costs.device(device).options[choice.setting.engines[device.index()]];
        engines.insert(costs.device(device).name.clone(), option.engine.clone());
        origin = origin.max(match option.origin {
            Origin::Measured | Origin::Fitted => Known::Measured,
            Origin::Predicted => Known::Predicted,
            Origin::Preset | Origin::Assumed => Known::Modelled,
        });
    }
    let energies = evaluation.energy.as_ref();
    CostRow {
        cloud: to.map(|to| costs.device(to).name.clone()),
        engines,
        origin,
        latency_ns: evaluation.latency,
        period_ns: evaluation.period,
        money_per_month: evaluation.money,
        energy_nj: energies.map(|uses| uses.iter().map(|used| used.energy).sum()),
    }
}
