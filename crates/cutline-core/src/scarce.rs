//! Choosing a cut by the resource that is scarce on the edge device, from complexities alone.
//!
//! Nothing is measured and no plan is optimised: every candidate cut has an amount of each resource
//! that it needs of the edge, and a simple rule picks one. It is what one can say before there is a
//! profile (after Zawish et al. 2022); [`regret`] tells what following it would have cost once
//! there is one.
//!
//! | scarce | amount of a cut | chosen |
//! |---|---|---|
//! | compute | multiply-accumulates before it | least transfer within the budget |
//! | storage | weights before it | least transfer within the budget |
//! | memory | largest sum of values alive at once before it | least transfer within the budget |
//! | bandwidth | bytes that cross it | least compute within the budget |
//! | energy | energy of the work before it and of sending what crosses | least energy |
//!
//! A budget is a share of the amount that the whole network needs: all of it on the edge, or for
//! bandwidth its input sent away. "Nothing" and "everything" before the cut are candidates too, so
//! there is always one within the budget.

use serde::{Deserialize, Serialize};

use crate::{
    cost::{Costs, EngineOption},
    cut::{Cut, candidate_cuts},
    dag::{Dag, FlowId, GroupId, peak_of},
    evaluate::{EvaluateError, settle},
    partition::Mapping,
    platform::DeviceId,
    units::{Bytes, Macs, Nanojoules, Nanos, PicojoulesPerByte},
};

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Resource {
    Compute,
    Storage,
    Memory,
    Energy,
    Bandwidth,
}

/// What the edge spends on work and on sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnergyPrices {
    /// For a multiply-accumulate, in picojoule.
    pub per_mac: u64,
    /// For a byte that it sends.
    pub per_byte: PicojoulesPerByte,
}

/// What one cut needs of the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whether a group runs on the edge, by group index.
    pub before: Vec<bool>,
    /// Work on the edge.
    pub macs: Macs,
    /// Weights on the edge.
    pub parameter_bytes: Bytes,
    /// Largest sum of values alive at once on the edge.
    pub peak_bytes: Bytes,
    /// What the edge sends.
    pub transferred: Bytes,
    /// Energy of both.
    pub energy: Nanojoules,
}

/// A choice, with what it was chosen from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The cut.
    pub candidate: Candidate,
    /// What it needs of the scarce resource, in thousandths of what the whole network needs.
    pub share_permille: u64,
    /// How many cuts were looked at.
    pub candidates: usize,
}

/// What a mapping costs once there are profiles, against the best plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Regret {
    /// Latency of the mapping, with the best engines and input encoding for it.
    pub latency: Nanos,
    /// Latency of the best plan.
    pub best: Nanos,
}

impl EnergyPrices {
    /// Of the source and its link to another device: its power over its time for the whole network,
    /// shared among the multiply-accumulates, and the link's energy at its end. `None` where the
    /// power is not known or there is no such link.
    pub fn of(dag: &Dag, costs: &Costs, other: DeviceId) -> Option<Self> {
        let source = costs.device(DeviceId::SOURCE);
        let time = |option: &EngineOption| option.groups.iter().copied().sum::<Option<Nanos>>();
        let time = source.options.iter().filter_map(time).min()?;
        let macs: Macs = dag.groups().iter().map(|group| group.macs).sum();
        let femtojoules = u128::from(source.power?.0) * u128::from(time.0);
        let per_mac = femtojoules.div_ceil(1000 * u128::from(macs.0.max(1)));
        let (link, back) = costs.link(DeviceId::SOURCE, other)?;
        let per_byte = link.energy[usize::from(back)];
        Some(EnergyPrices { per_mac: u64::try_from(per_mac).unwrap_or(u64::MAX), per_byte })
    }
}

impl Candidate {
    /// Its amount of a resource.
    pub fn amount(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Compute => self.macs.0,
            Resource::Storage => self.parameter_bytes.0,
            Resource::Memory => self.peak_bytes.0,
            Resource::Energy => self.energy.0,
            Resource::Bandwidth => self.transferred.0,
        }
    }

    /// The mapping for two devices: the source before the cut, the other one after it.
    pub fn mapping(&self, other: DeviceId) -> Mapping {
        let device = |&before: &bool| if before { DeviceId::SOURCE } else { other };
        Mapping(self.before.iter().map(device).collect())
    }
}

impl Regret {
    /// How much longer the mapping takes, in thousandths of the best plan.
    pub fn permille(&self) -> u64 {
        let over = u128::from((self.latency - self.best).0) * 1000 / u128::from(self.best.0.max(1));
        u64::try_from(over).unwrap_or(u64::MAX)
    }
}

/// Nothing on the edge, every candidate cut, and everything on the edge; `input` is what the
/// network's input takes when it is sent, its declared size by default. Without a known size of the
/// input, nothing that sends it is listed.
pub fn candidates(dag: &Dag, input: Option<Bytes>, prices: EnergyPrices) -> Vec<Candidate> {
    let count = dag.groups().len();
    let ends = [false, true].map(|all| Cut::after(dag, vec![all; count]));
    let [nothing, everything] = ends;
    let cuts = [nothing].into_iter().chain(candidate_cuts(dag)).chain([everything]);
    cuts.filter_map(|cut| candidate(dag, cut, input, prices)).collect()
}

/// The cut that the rule for this resource picks, `budget_permille` being the share of it that the
/// edge may give. Ties: the smaller amount, then the earlier cut.
pub fn choose(
    dag: &Dag,
    resource: Resource,
    budget_permille: u64,
    input: Option<Bytes>,
    prices: EnergyPrices,
) -> Option<Choice> {
    let all = candidates(dag, input, prices);
    let whole = match resource {
        Resource::Bandwidth => all.iter().map(|c| c.transferred.0).next()?,
        _ => all.last()?.amount(resource),
    };
    let count = all.len();
    let within = |candidate: &Candidate| {
        let amount = u128::from(candidate.amount(resource)) * 1000;
        resource == Resource::Energy || amount <= u128::from(whole) * u128::from(budget_permille)
    };
    let candidate = all.into_iter().filter(within).min_by_key(|candidate| {
        let amount = candidate.amount(resource);
        match resource {
            Resource::Bandwidth => (candidate.macs.0, amount),
            Resource::Energy => (amount, candidate.transferred.0),
            _ => (candidate.transferred.0, amount),
        }
    })?;
    let share = u128::from(candidate.amount(resource)) * 1000 / u128::from(whole.max(1));
    let share_permille = u64::try_from(share).unwrap_or(u64::MAX);
    Some(Choice { candidate, share_permille, candidates: count })
}

/// What a mapping costs where times are known, against the `best` latency known. Engines and the
/// lossless input encoding are those that suit it best, so that only the cut is judged.
pub fn regret(
    dag: &Dag,
    costs: &Costs,
    mapping: &Mapping,
    best: Nanos,
) -> Result<Regret, EvaluateError> {
    let (_, evaluation) = settle(dag, costs, mapping)?;
    Ok(Regret { latency: evaluation.latency, best })
}

fn candidate(dag: &Dag, cut: Cut, input: Option<Bytes>, prices: EnergyPrices) -> Option<Candidate> {
    let (inputs, values): (Vec<FlowId>, Vec<FlowId>) =
        cut.flows.iter().partition(|&&flow| dag.flow(flow).from.is_none());
    let sizes = |flows: &[FlowId]| -> Option<Bytes> {
        flows.iter().map(|&flow| dag.flow(flow).bytes).sum()
    };
    let sent_input = match input {
        Some(bytes) if !inputs.is_empty() => bytes,
        _ => sizes(&inputs)?,
    };
    let transferred = sent_input + sizes(&values)?;
    let groups: Vec<GroupId> = dag.group_ids().filter(|id| cut.before[id.index()]).collect();
    let here = || groups.iter().map(|&id| dag.group(id));
    let macs: Macs = here().map(|group| group.macs).sum();
    let read: Vec<FlowId> = dag
        .flow_ids()
        .filter(|&id| dag.flow(id).from.is_none())
        .filter(|&id| dag.flow(id).to.iter().any(|group| cut.before[group.index()]))
        .collect();
    let answers = here().flat_map(|group| &group.makes).filter(|&&id| dag.flow(id).is_output);
    let kept: Vec<FlowId> = cut.flows.iter().chain(answers).copied().collect();
    let peak_bytes = match groups.as_slice() {
        [] => Bytes::ZERO,
        groups => peak_of(dag, groups, &read, &kept),
    };
    let work = u128::from(macs.0) * u128::from(prices.per_mac) / 1000;
    let work = Nanojoules(u64::try_from(work).unwrap_or(u64::MAX));
    Some(Candidate {
        macs,
        parameter_bytes: here().map(|group| group.parameter_bytes).sum(),
        peak_bytes,
        transferred,
        energy: work + prices.per_byte.energy(transferred),
        before: cut.before,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::table;

    /// A chain of a, b, c: work 1, 6, 3; weights 10, 10, 80; values 40, 5, 20 and an input of 50.
    fn chain() -> Dag {
        let mut dag = Dag::new();
        let mut flow = dag.add_input("x", Some(Bytes(50)));
        for (name, macs, weights, bytes) in [("a", 1, 10, 40), ("b", 6, 10, 5), ("c", 3, 80, 20)] {
            let makes = [(name.to_owned(), Some(Bytes(bytes)))];
            let id = dag.add_group(vec![name.into()], [flow], makes, Macs(macs), Bytes(weights));
            flow = dag.group(id).makes[0];
        }
        dag.mark_output(flow);
        dag
    }

    fn count(choice: &Choice) -> usize {
        choice.candidate.before.iter().filter(|&&before| before).count()
    }

    #[test]
    fn amounts_by_hand() {
        let prices = EnergyPrices { per_mac: 2000, per_byte: PicojoulesPerByte(1000) };
        let rows: Vec<_> = candidates(&chain(), None, prices)
            .iter()
            .map(|c| [c.macs.0, c.parameter_bytes.0, c.peak_bytes.0, c.transferred.0, c.energy.0])
            .collect();
        let expected =
            [[0, 0, 0, 50, 50], [1, 10, 90, 40, 42], [7, 20, 90, 5, 19], [10, 100, 90, 0, 20]];
        assert_eq!(rows, expected);
    }

    #[test]
    fn energy_is_priced_by_power_and_link() {
        let platform = r#"{ "version": 1,
            "device": [{ "name": "cloud" }, { "name": "pi", "power": "2W" }],
            "link": [{ "between": ["cloud", "pi"], "up": "8mbit", "energy": ["1nJ/byte", "7nJ/byte"] }] }"#;
        let file = r#"{ "version": 1, "input": { "fp32": 50 }, "outputs": ["a"],
            "layers": [{ "name": "a", "output_bytes": 4, "time_ns": { "pi": 3000, "cloud": 1 } }] }"#;
        let read = |platform: &str| {
            let platform = serde_json::from_str(platform).unwrap();
            table::read(&serde_json::from_str(file).unwrap(), &platform, &[None]).unwrap().1
        };
        let mut swapped: serde_json::Value = serde_json::from_str(platform).unwrap();
        swapped["device"].as_array_mut().unwrap().reverse();
        let costs = read(&swapped.to_string());
        let cloud = costs.find_device("cloud").unwrap();
        // 2 W for 3 us are 6 uJ: 600 nJ for each of 10 multiply-accumulates.
        let prices = EnergyPrices { per_mac: 600_000, per_byte: PicojoulesPerByte(7000) };
        assert_eq!(EnergyPrices::of(&chain(), &costs, cloud), Some(prices));
        let costs = read(platform);
        let pi = costs.find_device("pi").unwrap();
        assert_eq!(EnergyPrices::of(&chain(), &costs, pi), None, "the cloud's power is not known");
    }

    #[test]
    fn each_resource_has_its_rule() {
        let dag = chain();
        let prices = EnergyPrices { per_mac: 2000, per_byte: PicojoulesPerByte(1000) };
        // Resource, budget; groups on the edge, share of the resource.
        let cases = [
            (Resource::Compute, 1000, 3, 1000),
            (Resource::Compute, 700, 2, 700),
            (Resource::Compute, 699, 1, 100),
            (Resource::Compute, 0, 0, 0),
            (Resource::Storage, 500, 2, 200),
            (Resource::Storage, 150, 1, 100),
            (Resource::Memory, 999, 0, 0),
            (Resource::Memory, 1000, 3, 1000),
            (Resource::Bandwidth, 1000, 0, 1000),
            (Resource::Bandwidth, 800, 1, 800),
            (Resource::Bandwidth, 500, 2, 100),
            (Resource::Bandwidth, 0, 3, 0),
            (Resource::Energy, 0, 2, 950),
        ];
        for (resource, budget, groups, share) in cases {
            let choice = choose(&dag, resource, budget, None, prices).unwrap();
            let found = (count(&choice), choice.share_permille);
            assert_eq!(found, (groups, share), "{resource:?} within {budget}");
        }
        let sent = choose(&dag, Resource::Bandwidth, 1000, Some(Bytes(4)), prices).unwrap();
        assert_eq!(sent.candidate.transferred, Bytes(4), "the input as it travels");
    }

    #[test]
    fn a_rule_is_judged_by_what_its_cut_takes() {
        let platform = r#"{ "version": 1, "device": [{ "name": "pi" }, { "name": "cloud" }],
            "link": [{ "between": ["pi", "cloud"], "up": "8mbit" }] }"#;
        let layer = |name: &str, inputs: &str, bytes: u64, pi: u64| {
            format!(
                r#"{{ "name": "{name}", "inputs": [{inputs}], "output_bytes": {bytes},
                      "time_ns": {{ "pi": {pi}, "cloud": 100 }} }}"#
            )
        };
        let file = format!(
            r#"{{ "version": 1, "input": {{ "fp32": 50, "uint8": 13 }}, "outputs": ["b"],
                  "layers": [{}, {}] }}"#,
            layer("a", "", 4, 30_000),
            layer("b", r#""a""#, 1, 30_000)
        );
        let platform = serde_json::from_str(platform).unwrap();
        let file = serde_json::from_str(&file).unwrap();
        let (dag, costs) = table::read(&file, &platform, &[None]).unwrap();
        let cloud = costs.find_device("cloud").unwrap();
        let nothing = Mapping::uniform(&dag, cloud);
        // Out 13 us, as pixels, 200 ns there, back 1 us.
        let regret = regret(&dag, &costs, &nothing, Nanos(10_000)).unwrap();
        assert_eq!(regret, Regret { latency: Nanos(14_200), best: Nanos(10_000) });
        assert_eq!(regret.permille(), 420);
    }
}
