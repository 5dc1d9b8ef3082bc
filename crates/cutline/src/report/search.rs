//! The alternatives that a report shows besides the planner's answers: every candidate cut, and the
//! rates that a link is shown at.

use cutline_core::{
    cost::Costs,
    cut::{Cut, candidate_cuts},
    dag::Dag,
    evaluate::{Setting, evaluate},
    partition::Mapping,
    planner::{self, Choice, Proof, Request},
    platform::DeviceId,
    units::BytesPerSec,
};

use crate::planning::sweep;

/// Rates for each factor of ten.
const PER_DECADE: f64 = 12.0;

/// A candidate cut with its fastest plan.
pub(super) struct TriedCut {
    pub(super) cut: Cut,
    pub(super) position: usize,
    pub(super) to: DeviceId,
    pub(super) outcome: Result<Choice, String>,
}

/// Every candidate cut, with the source in front of it and each linked device behind it, under the
/// allowed engines and encodings that make it fastest.
pub(super) fn cuts(dag: &Dag, costs: &Costs, request: &Request) -> Vec<TriedCut> {
    let candidates = candidate_cuts(dag);
    let others = costs.device_ids().filter(|&to| costs.direction(DeviceId::SOURCE, to).is_some());
    let mut tried = Vec::new();
    for to in others {
        let settings = settings(costs, request, to);
        for (position, cut) in candidates.iter().enumerate() {
            let outcome = fastest(dag, costs, request, cut, to, &settings);
            tried.push(TriedCut { cut: cut.clone(), position, to, outcome });
        }
    }
    tried
}

fn fastest(
    dag: &Dag,
    costs: &Costs,
    request: &Request,
    cut: &Cut,
    to: DeviceId,
    settings: &[Setting],
) -> Result<Choice, String> {
    let side = |&before: &bool| if before { DeviceId::SOURCE } else { to };
    let mapping = Mapping(cut.before.iter().map(side).collect());
    let mut best: Option<Choice> = None;
    let mut why = "no engine and no encoding is allowed for it".to_owned();
    for setting in settings {
        let evaluation = match evaluate(dag, costs, &mapping, setting) {
            Ok(evaluation) => evaluation,
            Err(error) => {
                why = error.to_string();
                continue;
            }
        };
        let (mapping, setting) = (mapping.clone(), setting.clone());
        let choice = Choice { mapping, setting, evaluation, proof: Proof::Optimal };
        if let Some(violated) = planner::violation(dag, costs, request, &choice) {
            why = violated.to_string();
            continue;
        }
        let latency = |choice: &Choice| choice.evaluation.latency;
        if best.as_ref().is_none_or(|best| latency(&choice) < latency(best)) {
            best = Some(choice);
        }
    }
    best.ok_or(why)
}

/// Every allowed combination of the two devices' engines, input encodings and codecs.
fn settings(costs: &Costs, request: &Request, to: DeviceId) -> Vec<Setting> {
    let allowed = |named: &Option<Vec<String>>, name: &String, lossy: bool| match named {
        Some(named) => named.contains(name),
        None => !lossy,
    };
    let inputs: Vec<usize> = positions(costs.inputs(), |input| {
        allowed(&request.input_encodings, &input.name, input.lossy)
    });
    let codecs: Vec<usize> = positions(costs.codecs(), |codec| {
        allowed(&request.cut_encodings, &codec.name, codec.lossy)
    });
    let devices = costs.devices().len();
    let mut settings = Vec::new();
    for edge in 0..costs.device(DeviceId::SOURCE).options.len() {
        for cloud in 0..costs.device(to).options.len() {
            for &input in &inputs {
                for &codec in &codecs {
                    let mut engines = vec![0; devices];
                    engines[DeviceId::SOURCE.index()] = edge;
                    engines[to.index()] = cloud;
                    let codecs = vec![codec; devices];
                    let setting = Setting { engines, input, codecs, ..Setting::first(costs) };
                    settings.push(setting);
                }
            }
        }
    }
    settings
}

fn positions<T>(items: &[T], holds: impl Fn(&T) -> bool) -> Vec<usize> {
    items.iter().enumerate().filter(|(_, item)| holds(item)).map(|(at, _)| at).collect()
}

/// The same costs with another up rate on one link; its down rate keeps its ratio to it.
pub(crate) fn at_rate(costs: &Costs, link: usize, rate: BytesPerSec) -> Costs {
    let (up, down) = (costs.links()[link].up.rate, costs.links()[link].down.rate);
    let scaled = u128::from(rate.0) * u128::from(down.0) / u128::from(up.0.max(1));
    costs.with_rates(link, rate, BytesPerSec(u64::try_from(scaled).unwrap_or(u64::MAX).max(1)))
}

/// Rates in equal ratios, ascending: the usual range, stretched to hold the declared rate.
pub(super) fn rates(declared: BytesPerSec) -> Vec<BytesPerSec> {
    let [low, high] = sweep::ends(declared).map(|rate| rate.0.max(1) as f64);
    let count = ((high / low).log10() * PER_DECADE).ceil().max(1.0) as u32;
    let rate = |step: u32| low * (high / low).powf(f64::from(step) / f64::from(count));
    let mut rates: Vec<BytesPerSec> =
        (0..=count).map(|step| BytesPerSec(rate(step).round() as u64)).collect();
    rates.push(declared);
    rates.sort_unstable();
    rates.dedup();
    rates
}
