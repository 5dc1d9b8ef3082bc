//! From a study to its [`Data`]: every combination planned at every rate.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Context;
use cutline_core::{
    cost::Origin,
    dag::Dag,
    onnx::ImportOptions,
    platform::Price,
    preset::Presets,
    units::{Bytes, Macs, Nanos},
};

use super::{
    data::{Combination, Data, Device, Front, Link, Network, Plan},
    evidence::Evidence,
    file::{self, Study},
    fronts,
    place::{Book, Place},
    words,
};
use crate::{
    characterize::shapes_at,
    output::Output,
    report::Headline,
    sizing::{
        self, Form,
        workload::{self, Source},
    },
};

/// A network at one size.
struct Loaded {
    data: Network,
    form: Form,
}

/// Plans everything; `folder` is where files that the study names are looked for.
pub(crate) fn build(
    study: &Study,
    folder: &Path,
    evidence: Evidence,
    output: &Output,
) -> anyhow::Result<Data> {
    let mut left_out = Vec::new();
    let mut networks = Vec::new();
    for network in &study.networks {
        networks.extend(load(network, &mut left_out)?);
    }
    let places = networks.len() * study.boards.len() * study.instances.len();
    let bar = output.progress("planning", places as u64);
    let mut found = Found::default();
    for (at, network) in networks.iter().enumerate() {
        found.add_network(study, (at, network), folder, &mut || bar.inc(1))?;
    }
    bar.finish_and_clear();
    left_out.extend(found.missing.iter().map(|name| {
        format!("encoding `{name}`: no profile or table says what it takes on these devices")
    }));
    let link = found.link.context("nothing was planned")?;
    let presets = Presets::builtin();
    let currency = match study.currency.as_str() {
        "" => presets.currency.clone(),
        currency => currency.to_owned(),
    };
    let mut data = Data {
        version: 1,
        cutline: env!("CARGO_PKG_VERSION"),
        headline: Headline { what: String::new(), why: String::new() },
        sentences: Vec::new(),
        left_out,
        users: study.users,
        frames_per_second: study.frames_per_second.clone(),
        frame_interval_ns: found.interval,
        currency,
        link,
        rates: study.rates.clone(),
        networks: networks.into_iter().map(|network| network.data).collect(),
        boards: devices(&study.boards, &found.board_costs, &presets),
        instances: devices(&study.instances, &found.instance_costs, &presets),
        plans: found.plans,
        combinations: found.combinations,
        fronts: found.fronts,
        predictions: evidence.predictions,
        scaling: evidence.scaling,
    };
    data.headline = words::headline(&data);
    data.sentences = words::sentences(&data);
    Ok(data)
}

/// A network at each of its sizes that it takes; those that it refuses are noted, unless it takes none.
fn load(network: &file::Network, left_out: &mut Vec<String>) -> anyhow::Result<Vec<Loaded>> {
    let sizes: Vec<Option<u32>> = match network.sizes.as_slice() {
        [] => vec![None],
        sizes => sizes.iter().map(|&size| Some(size)).collect(),
    };
    let mut loaded = Vec::new();
    let mut refused: Vec<anyhow::Error> = Vec::new();
    for size in sizes {
        let name = match size {
            Some(size) => format!("{}-{size}", network.name),
            None => network.name.clone(),
        };
        match form(&network.source, size) {
            Ok(form) => {
                let data = describe_network(name, (&network.name, size), &form);
                loaded.push(Loaded { data, form });
            }
            Err(why) => {
                left_out.push(format!("`{name}`: {why:#}"));
                refused.push(why);
            }
        }
    }
    match (loaded.is_empty(), refused.pop()) {
        (true, Some(why)) => Err(why.context(format!("[[network]] `{}`", network.name))),
        _ => Ok(loaded),
    }
}

fn form(source: &Source, size: Option<u32>) -> anyhow::Result<Form> {
    match (source, size) {
        (Source::Zoo { name, .. }, size) => {
            sizing::load(&Source::Zoo { name: name.clone(), input_size: size })
        }
        (Source::Model(path), Some(side)) => {
            let input_shapes = shapes_at(path, side)
                .with_context(|| format!("cannot use model `{}` at {side}", path.display()))?;
            sizing::load_model(path, &ImportOptions { input_shapes })
        }
        (source, _) => sizing::load(source),
    }
}

fn describe_network(name: String, (family, size): (&str, Option<u32>), form: &Form) -> Network {
    let mut network = Network {
        name,
        family: family.to_owned(),
        size,
        layers: 0,
        macs: Macs::ZERO,
        parameter_bytes: Bytes::ZERO,
    };
    match form {
        Form::Graph { dag, .. } => {
            network.layers = layers(dag, |_| true);
            network.macs = dag.groups().iter().map(|group| group.macs).sum();
            network.parameter_bytes = dag.groups().iter().map(|group| group.parameter_bytes).sum();
        }
        Form::Table(file) => network.layers = file.layers.len(),
    }
    network
}

/// Layers of the groups that are chosen by position.
pub(super) fn layers(dag: &Dag, holds: impl Fn(usize) -> bool) -> usize {
    let groups = dag.groups().iter().enumerate();
    groups.filter(|(at, _)| holds(*at)).map(|(_, group)| group.layers.len()).sum()
}

/// What the tables of costs say of a device, and where its times come from.
type Known = BTreeMap<usize, (Price, Vec<Origin>)>;

fn devices(given: &[workload::Device], known: &Known, presets: &Presets) -> Vec<Device> {
    let device = |(at, given): (usize, &workload::Device)| {
        let preset = given.table["preset"].as_str().and_then(|name| presets.device(name));
        let price = known.get(&at).map(|(price, _)| price);
        Device {
            name: given.name.clone(),
            title: preset.map(|preset| preset.title.clone()).unwrap_or_default(),
            origins: known.get(&at).iter().flat_map(|(_, origins)| origins).copied().collect(),
            rent: price.and_then(|price| price.rent),
            purchase: price.and_then(|price| price.purchase),
            life_months: price.and_then(|price| price.life_months),
        }
    };
    given.iter().enumerate().map(device).collect()
}

/// What has been planned.
#[derive(Default)]
struct Found {
    plans: Vec<Plan>,
    combinations: Vec<Combination>,
    fronts: Vec<Front>,
    link: Option<Link>,
    interval: Nanos,
    board_costs: Known,
    instance_costs: Known,
    /// Encodings that were allowed and that no table knows.
    missing: BTreeSet<String>,
}

impl Found {
    /// A network with every board and instance; `done` is told of each.
    fn add_network(
        &mut self,
        study: &Study,
        (at, network): (usize, &Loaded),
        folder: &Path,
        done: &mut dyn FnMut(),
    ) -> anyhow::Result<()> {
        let mut book = Book::default();
        let mut combinations = Vec::new();
        for board in 0..study.boards.len() {
            for instance in 0..study.instances.len() {
                let place = Place::open(study, &network.form, folder, [at, board, instance])
                    .with_context(|| {
                        let [board, instance] =
                            [&study.boards[board].name, &study.instances[instance].name];
                        format!("`{}` on `{board}` with `{instance}`", network.data.name)
                    })?;
                self.note(&place);
                combinations.push(place.plan(&mut book)?);
                done();
            }
        }
        let count = study.rates.len();
        let mut fronts = fronts::fronts(at, &book.plans, count, self.interval);
        let used = combinations.iter().flat_map(plans_of);
        let used: BTreeSet<usize> =
            used.chain(fronts.iter().flat_map(|front| &front.plans).copied()).collect();
        let first = self.plans.len();
        let moved: BTreeMap<usize, usize> = used.iter().copied().zip(first..).collect();
        for combination in &mut combinations {
            renumber(combination, &moved);
        }
        for front in &mut fronts {
            front.plans.iter_mut().for_each(|plan| *plan = moved[plan]);
        }
        let kept = book.plans.into_iter().enumerate().filter(|(at, _)| used.contains(at));
        self.plans.extend(kept.map(|(_, plan)| plan));
        self.combinations.append(&mut combinations);
        self.fronts.append(&mut fronts);
        Ok(())
    }

    /// What a place says of its devices and its link.
    fn note(&mut self, place: &Place<'_>) {
        let costs = &place.costs[0];
        let [_, board, instance] = place.position;
        let known = [(&mut self.board_costs, board), (&mut self.instance_costs, instance)];
        for ((known, at), device) in known.into_iter().zip(costs.devices()) {
            let (_, origins) = known.entry(at).or_insert_with(|| (device.price, Vec::new()));
            for option in &device.options {
                if !origins.contains(&option.origin) {
                    origins.push(option.origin);
                }
            }
        }
        self.interval = place.interval().unwrap_or_default();
        self.missing.extend(place.missing.iter().cloned());
        let declared = &costs.links()[0];
        let per_mille = u128::from(declared.down.rate.0) * 1000;
        self.link = Some(Link {
            name: place.study.link.name.clone(),
            delay_ns: declared.up.delay,
            down_permille: (per_mille / u128::from(declared.up.rate.0.max(1))) as u64,
            traffic: place.study.link.traffic,
        });
    }
}

/// Every plan that a combination names.
fn plans_of(combination: &Combination) -> Vec<usize> {
    let Combination { best, split, edge, cloud, changes, .. } = combination;
    let by_rate = [best, split, edge, cloud].into_iter().flatten().flatten();
    by_rate.copied().chain(changes.iter().map(|range| range.plan)).collect()
}

fn renumber(combination: &mut Combination, moved: &BTreeMap<usize, usize>) {
    let Combination { best, split, edge, cloud, changes, .. } = combination;
    for plan in [best, split, edge, cloud].into_iter().flatten().flatten() {
        *plan = moved[plan];
    }
    changes.iter_mut().for_each(|range| range.plan = moved[&range.plan]);
}
