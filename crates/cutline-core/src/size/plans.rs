//! From a network on a board, a link and an instance to candidates: every plan with one cut.

use super::{Candidate, Cloud, Limit, Load, Way};
use crate::{
    cost::{Costs, link::Direction},
    cut::candidate_cuts,
    dag::{Dag, FlowId},
    evaluate::{Evaluation, PartKind, Setting, evaluate, rents},
    partition::Mapping,
    platform::{DeviceId, Workload},
    units::{Bytes, Money, Nanos},
};

/// Seconds of a month: 730 hours.
const MONTH_SECONDS: u128 = 730 * 3600;
/// What traffic is priced by.
const GIGABYTE: u128 = 1_000_000_000;

/// Where the layers of a plan run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// All on the board.
    Edge,
    /// All on the instance.
    Cloud,
    /// Some on each.
    Split,
}

impl Kind {
    /// Its name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Edge => "edge",
            Kind::Cloud => "cloud",
            Kind::Split => "split",
        }
    }
}

/// What plans may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Kinds of plans.
    pub kinds: Vec<Kind>,
    /// Encodings of the input; `None`: every lossless one.
    pub inputs: Option<Vec<String>>,
    /// Codecs of a cut; `None`: every lossless one.
    pub codecs: Option<Vec<String>>,
}

/// A plan with what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where its layers run.
    pub kind: Kind,
    /// Who computes what.
    pub mapping: Mapping,
    /// With which engines and encodings.
    pub setting: Setting,
    /// At which cost.
    pub evaluation: Evaluation,
}

impl Allowed {
    fn names(named: &Option<Vec<String>>, name: &str, lossy: bool) -> bool {
        named.as_ref().map_or(!lossy, |named| named.iter().any(|known| known == name))
    }
}

/// Every plan of one or two devices with at most one cut between them ([`candidate_cuts`]), with
/// every engine option, input encoding and codec that is allowed; what does not fit into a memory
/// comes back as a limit. Plans that cannot be run are left out. O(cuts x options x flows).
pub fn plans(dag: &Dag, costs: &Costs, allowed: &Allowed) -> (Vec<Plan>, Vec<Limit>) {
    let source = DeviceId::SOURCE;
    let other = costs.device_ids().nth(1);
    let mut mappings = vec![(Kind::Edge, Mapping::uniform(dag, source))];
    if let Some(other) = other {
        mappings.push((Kind::Cloud, Mapping::uniform(dag, other)));
        if allowed.kinds.contains(&Kind::Split) {
            mappings.extend(candidate_cuts(dag).into_iter().map(|cut| {
                let on = |&before: &bool| if before { source } else { other };
                (Kind::Split, Mapping(cut.before.iter().map(on).collect()))
            }));
        }
    }
    let (mut plans, mut limits) = (Vec::new(), Vec::new());
    for (kind, mapping) in mappings.into_iter().filter(|(kind, _)| allowed.kinds.contains(kind)) {
        for setting in settings(dag, costs, &mapping, allowed) {
            let Ok(evaluation) = evaluate(dag, costs, &mapping, &setting) else { continue };
            match over_memory(costs, &evaluation) {
                Some(limit) => limits.push(limit),
                None => {
                    plans.push(Plan { kind, mapping: mapping.clone(), setting, evaluation });
                }
            }
        }
    }
    (plans, limits)
}

fn over_memory(costs: &Costs, evaluation: &Evaluation) -> Option<Limit> {
    let used = evaluation.memory.iter().find(|used| used.excess().is_some())?;
    let device = costs.device(used.device).name.clone();
    Some(Limit::Memory { device, needs: used.bytes + used.others, limit: used.limit? })
}

/// Settings that differ in something that the mapping uses.
fn settings(dag: &Dag, costs: &Costs, mapping: &Mapping, allowed: &Allowed) -> Vec<Setting> {
    let crosses = |id: FlowId| {
        let flow = dag.flow(id);
        let from = flow.from.map_or(DeviceId::SOURCE, |group| mapping.device(group));
        flow.to.iter().any(|&group| mapping.device(group) != from)
    };
    let crossing: Vec<_> =
        dag.flow_ids().filter(|&id| crosses(id)).map(|id| dag.flow(id)).collect();
    let input = crossing.iter().any(|flow| flow.from.is_none());
    let coded = crossing.iter().any(|flow| flow.from.is_some() && flow.encodable);
    let inputs = costs.inputs().iter().enumerate();
    let inputs = inputs.filter(|(_, one)| Allowed::names(&allowed.inputs, &one.name, one.lossy));
    let inputs: Vec<usize> = if input { inputs.map(|(at, _)| at).collect() } else { vec![0] };
    let codecs = costs.codecs().iter().enumerate();
    let codecs = codecs.filter(|(_, one)| Allowed::names(&allowed.codecs, &one.name, one.lossy));
    let codecs: Vec<usize> = if coded { codecs.map(|(at, _)| at).collect() } else { vec![0] };
    let used = |id: DeviceId| mapping.0.contains(&id);
    let mut settings = vec![Setting::first(costs)];
    let each = |settings: Vec<Setting>, choices: &[usize], set: &dyn Fn(&mut Setting, usize)| {
        let with = |setting: &Setting, choice| {
            let mut setting = setting.clone();
            set(&mut setting, choice);
            setting
        };
        let all =
            settings.iter().flat_map(|setting| choices.iter().map(move |&at| with(setting, at)));
        all.collect::<Vec<_>>()
    };
    for id in costs.device_ids().filter(|&id| used(id)) {
        let options: Vec<usize> = (0..costs.device(id).options.len()).collect();
        settings = each(settings, &options, &|setting, at| setting.engines[id.index()] = at);
    }
    settings = each(settings, &inputs, &|setting, at| setting.input = at);
    each(settings, &codecs, &|setting, at| setting.codecs[DeviceId::SOURCE.index()] = at)
}

/// Frames of all cameras in a month of 730 hours, in millionths; `None` where the rate is not known.
pub fn frames_per_month(workload: &Workload) -> Option<u128> {
    let frames = u128::from(workload.frames_per_megasecond?);
    Some(frames.saturating_mul(workload.users.into()).saturating_mul(MONTH_SECONDS))
}

/// What the bytes that a frame sends in both directions cost in a month, over all cameras, where a
/// gigabyte has a price; `None` where the rate of frames is not known. Rounded up.
pub fn traffic_per_month(workload: &Workload, bytes: Bytes, gigabyte: Money) -> Option<Money> {
    let sent = frames_per_month(workload)?.saturating_mul(bytes.0.into());
    let sent = sent.saturating_mul(gigabyte.0.into()).div_ceil(1_000_000 * GIGABYTE);
    Some(Money(u64::try_from(sent).unwrap_or(u64::MAX)))
}

impl Candidate {
    /// A plan on its devices, where a gigabyte of traffic has a price; `None` where money is not
    /// known: costs without a workload.
    pub fn of(
        costs: &Costs,
        evaluation: &Evaluation,
        combination: usize,
        traffic: Money,
    ) -> Option<Self> {
        let source = DeviceId::SOURCE;
        let workload = costs.workload()?;
        let rented: Money = rents(costs, evaluation)?.iter().map(|rented| rented.rent).sum();
        let sent = traffic_per_month(workload, evaluation.bytes, traffic)?;
        let busy = |on_source: bool| -> Nanos {
            let local = evaluation.parts.iter().filter(|part| part.to.is_none());
            local.filter(|part| (part.device == source) == on_source).map(|part| part.nanos).sum()
        };
        let other = costs.device_ids().nth(1);
        let used = evaluation.parts.iter().any(|part| part.device != source);
        let cloud = other.filter(|_| used).map(|other| {
            let price = &costs.device(other).price;
            Cloud {
                busy: busy(false),
                rent: price.rent.unwrap_or_default(),
                cameras: price.users_per_instance,
            }
        });
        let load = Load {
            board: busy(true),
            up: way(costs, evaluation, PartKind::Send),
            cloud,
            down: way(costs, evaluation, PartKind::Return),
        };
        Some(Self { combination, load, besides: evaluation.money? - rented + sent, replay: None })
    }
}

/// The messages of one kind on the one link.
fn way(costs: &Costs, evaluation: &Evaluation, kind: PartKind) -> Option<Way> {
    let sent = |part: &&crate::evaluate::Part| part.kind == kind;
    let direction = |part: &crate::evaluate::Part| -> Option<(Nanos, &Direction)> {
        let direction = costs.direction(part.device, part.to?)?;
        Some((direction.busy(part.bytes), direction))
    };
    let ways = evaluation.parts.iter().filter(sent).filter_map(direction);
    ways.map(|(busy, direction)| Way { busy, delay: direction.delay })
        .reduce(|a, b| Way { busy: a.busy + b.busy, delay: a.delay + b.delay })
}

/// Candidates of one combination without those that another is at least as good as in everything:
/// they are never the cheapest that serves. Of equal ones the first is kept. O(n²).
pub fn undominated<T>(candidates: Vec<(Candidate, T)>) -> Vec<(Candidate, T)> {
    let keys: Vec<[u64; 8]> = candidates.iter().map(|(candidate, _)| key(candidate)).collect();
    let better = |at: usize, key: &[u64; 8]| {
        let as_good = |other: &[u64; 8]| other.iter().zip(key).all(|(other, own)| other <= own);
        let mut others = keys.iter().enumerate().filter(|&(other, _)| other != at);
        others.any(|(other, found)| as_good(found) && (found != key || other < at))
    };
    let keep: Vec<bool> = keys.iter().enumerate().map(|(at, key)| !better(at, key)).collect();
    candidates.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(one, _)| one).collect()
}

/// What is to be small.
fn key(candidate: &Candidate) -> [u64; 8] {
    let Load { board, up, cloud, down } = candidate.load;
    let way = |way: Option<Way>| way.map_or([0, 0], |way| [way.busy.0, way.delay.0]);
    let ([up, up_delay], [down, down_delay]) = (way(up), way(down));
    let (busy, rent) = cloud.map_or((0, 0), |cloud| (cloud.busy.0, cloud.rent.0));
    [board.0, up, up_delay, busy, rent, down, down_delay, candidate.besides.0]
}
