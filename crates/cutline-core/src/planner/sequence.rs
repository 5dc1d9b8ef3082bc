//! Any number of devices, any objective: the best sequence of stages under limits, and the front.
//!
//! A search is run for each input encoding. A narrow one (a beam) comes first, so that the exact one
//! knows a good plan to measure labels against.

use super::{
    Infeasible, Objective,
    bounds::Bounds,
    ideals::Ideals,
    labels::{Effort, Ended, Search, Stages},
    layout::{Layout, Own, Quantity, Rule},
    regions::Regions,
    revisits,
    scatter::{Scatters, is_too_wide},
    steps::Steps,
};
use crate::{
    cost::Costs,
    dag::Dag,
    evaluate::{Evaluation, Setting},
    partition::{Mapping, blocks},
    platform::DeviceId,
    units::Nanos,
};

/// More ideals than this are not enumerated; prefixes of the topological order stand for them.
const MOST_IDEALS: usize = 20_000;
/// Labels kept at each place by the search that comes first.
const BEAM: usize = 4;
/// The same of the search before a front, whose labels differ in more than one way.
const NARROW: usize = 8;
/// The most of the searches before a front whose regions direct them. The more of the front is known,
/// the fewer labels the exact search needs.
const WIDEST: usize = 128;
/// Labels that a front may take, as [`Sequences::most_labels`].
const MOST_LABELS: usize = 4_000_000;

/// A problem over sequences of stages; pins, bans and the like are in its costs already.
pub(super) struct Sequences<'a> {
    pub(super) dag: &'a Dag,
    pub(super) costs: &'a Costs,
    /// Input encodings that may be used.
    pub(super) inputs: &'a [usize],
    /// Codecs that may be used.
    pub(super) codecs: &'a [usize],
    /// Largest admissible values that were asked for.
    asked: &'a [(Objective, u64)],
    /// The same, and the period that keeps up with the frames where idle power counts.
    limits: Vec<(Objective, u64)>,
    /// Whether branches of a block may run on several devices at once.
    pub(super) scatter: bool,
    /// Labels after which a front is searched for again with more slack.
    pub(super) most_labels: usize,
    ideals: Ideals,
    twins: Vec<Option<usize>>,
}

/// Costs of stages and hops under one input encoding, and the least that follows each border.
struct Ground<'a> {
    steps: Steps<'a>,
    scatters: Option<Scatters>,
    bounds: Bounds,
}

impl Ground<'_> {
    fn regions(
        &self,
        layout: &Layout,
        codecs: &[usize],
        known: &[Vec<u64>],
        width: usize,
    ) -> Option<Regions> {
        if self.scatters.is_some() {
            // They know of stages only.
            return None;
        }
        Regions::new(&self.steps, layout, &self.bounds, codecs, known, width)
    }
}

/// What is asked of one search.
struct Task<'a> {
    stages: Stages,
    effort: Effort,
    /// Whole plans that are known, by the quantities that are asked for.
    known: &'a [Vec<u64>],
    regions: Option<&'a Regions>,
}

/// The best plan of a kind and how sure that is.
pub(super) struct Best {
    pub(super) ended: Option<Ended>,
    /// Where a search was stopped: the least objective that a plan not seen could have.
    pub(super) open: Option<u64>,
}

impl Best {
    /// The best of two kinds.
    pub(super) fn or(self, other: &Best) -> Best {
        let ended = self.ended.into_iter().chain(other.ended.clone());
        Best {
            ended: ended.min_by(|a, b| key(a).cmp(&key(b))),
            open: self.open.into_iter().chain(other.open).min(),
        }
    }

    /// The best plan if it is known to be that, or that there is none.
    fn proven(self) -> Result<Option<Ended>, Infeasible> {
        match (self.open, self.ended) {
            (None, ended) => Ok(ended),
            (Some(open), Some(ended)) if ended.values[0] <= open => Ok(Some(ended)),
            (Some(_), _) => Err(Infeasible::Stopped),
        }
    }
}

/// A front, and how exact it is.
pub(super) struct Points {
    pub(super) ended: Vec<Ended>,
    /// Every plan there is, is matched by one of these up to this factor in every objective.
    pub(super) epsilon_ppm: u64,
    /// Whether the search came to its end.
    pub(super) complete: bool,
    pub(super) labels: usize,
}

impl<'a> Sequences<'a> {
    pub(super) fn new(
        dag: &'a Dag,
        costs: &'a Costs,
        inputs: &'a [usize],
        codecs: &'a [usize],
        asked: &'a [(Objective, u64)],
        scatter: bool,
    ) -> Self {
        let ideals = Ideals::new(dag, MOST_IDEALS);
        let (most_labels, twins) = (MOST_LABELS, twins(costs));
        let rate = costs.frame_interval().map(|interval| (Objective::Period, interval.0));
        let limits = asked.iter().copied().chain(rate).collect();
        Sequences { dag, costs, inputs, codecs, asked, limits, scatter, most_labels, ideals, twins }
    }

    /// Whether every cut is searched, or only the prefixes of the topological order; and every
    /// assignment of branches to devices.
    pub(super) fn is_complete(&self) -> bool {
        let devices = self.costs.devices().len();
        let all_tried = || blocks(self.dag).iter().all(|block| !is_too_wide(block, devices));
        !self.ideals.truncated && (!self.scatter || all_tried())
    }

    /// The same problem with other limits.
    fn with_limits<'b>(&'b self, limits: &'b [(Objective, u64)]) -> Sequences<'b> {
        Sequences::new(self.dag, self.costs, self.inputs, self.codecs, limits, self.scatter)
    }

    /// The same problem without limits, plans that do not keep up with the frames included.
    fn without_limits(&self) -> Sequences<'_> {
        Sequences { limits: Vec::new(), ..self.with_limits(&[]) }
    }

    /// The best plan with so many stages.
    pub(super) fn best(
        &self,
        objective: impl Into<Quantity>,
        stages: Stages,
        stop: &mut dyn FnMut() -> bool,
    ) -> Best {
        let objective = objective.into();
        let mut best: Option<Ended> = None;
        let mut open: Option<u64> = None;
        let layout = self.layout(&[objective], true);
        let grounds: Vec<Ground> = self.grounds(&layout);
        for effort in [Effort { beam: Some(BEAM), slack_ppm: 0 }, Effort::EXACT] {
            for ground in &grounds {
                let known: Vec<Vec<u64>> = best.iter().map(|best| vec![best.values[0]]).collect();
                let task = Task { stages, effort, known: &known, regions: None };
                let found = self.search(ground, &layout, task, stop);
                if effort == Effort::EXACT {
                    open = open.into_iter().chain(found.open).min();
                }
                for ended in found.ended {
                    if best.as_ref().is_none_or(|best| key(&ended) < key(best)) {
                        best = Some(ended);
                    }
                }
            }
        }
        Best { ended: best, open }
    }

    /// All plans that no other betters in every one of these objectives. Where there are too many,
    /// those that stand for all of them up to a factor, at most 1 % in each objective.
    pub(super) fn front(&self, objectives: &[Objective], stop: &mut dyn FnMut() -> bool) -> Points {
        let quantities: Vec<Quantity> = objectives.iter().map(|&o| o.into()).collect();
        let layout = self.layout(&quantities, false);
        let grounds = self.grounds(&layout);
        let width = objectives.len();
        let asked = |all: &[Ended]| -> Vec<Vec<u64>> {
            all.iter().map(|ended| ended.values[..width].to_vec()).collect()
        };
        // Plans of one stage first, then narrow searches, so that one that is stopped has good points
        // all the same, and that labels are measured against these from the beginning.
        let mut points = Points { ended: Vec::new(), epsilon_ppm: 0, complete: false, labels: 0 };
        let mut all: Vec<Ended> = Vec::new();
        let maxima = quantities.iter().all(|quantity| Layout::rule(*quantity) == Rule::Max);
        let (mut stages, mut beam) = (Stages::One, if maxima { 1 } else { NARROW });
        while beam <= WIDEST && (stages == Stages::One || !stop()) {
            let mut found = 0;
            for ground in &grounds {
                let known = asked(&all);
                let regions = ground.regions(&layout, self.codecs, &known, width);
                let effort = Effort { beam: Some(beam), slack_ppm: 0 };
                let task = Task { stages, effort, known: &known, regions: regions.as_ref() };
                // Plans of one stage are few, and better than none.
                let mut stop = || stages != Stages::One && stop();
                let quick = self.search(ground, &layout, task, &mut stop);
                points.labels += quick.labels;
                found += quick.ended.len();
                all = non_dominated(all.into_iter().chain(quick.ended).collect(), width);
            }
            match stages {
                Stages::One => stages = Stages::Any,
                _ if !maxima => break,
                // A narrow search in the regions that are left is worth repeating while it finds much.
                _ if found > 0 && found * 8 >= all.len() => {}
                _ => beam *= 2,
            }
        }
        for epsilon_ppm in [0, 1_000, 10_000] {
            let slack_ppm = slack_of_a_stage(epsilon_ppm, self.costs.devices().len());
            let effort = Effort { beam: None, slack_ppm };
            (points.epsilon_ppm, points.complete) = (epsilon_ppm, true);
            let mut too_many = false;
            for ground in &grounds {
                let mut stopped = false;
                let mut stop = || {
                    stopped |= stop();
                    stopped
                };
                let known = asked(&all);
                let regions = ground.regions(&layout, self.codecs, &known, width);
                let task =
                    Task { stages: Stages::Any, effort, known: &known, regions: regions.as_ref() };
                let found = self.search(ground, &layout, task, &mut stop);
                points.labels += found.labels;
                points.complete &= found.open.is_none();
                too_many |= found.open.is_some() && !stopped;
                all = non_dominated(all.into_iter().chain(found.ended).collect(), width);
            }
            if !too_many {
                break;
            }
        }
        points.ended = non_dominated(all, width);
        points
    }

    /// What searches rest on, for each input encoding.
    fn grounds(&self, layout: &Layout) -> Vec<Ground<'_>> {
        let ground = |&input: &usize| {
            let steps = Steps::new(self.dag, self.costs, &self.ideals, input);
            let scatters = self.scatter.then(|| Scatters::new(&steps, layout, self.codecs));
            let bounds = Bounds::new(&steps, layout, self.codecs, scatters.as_ref());
            Ground { steps, scatters, bounds }
        };
        self.inputs.iter().map(ground).collect()
    }

    fn search(
        &self,
        ground: &Ground,
        layout: &Layout,
        task: Task,
        stop: &mut dyn FnMut() -> bool,
    ) -> super::labels::Found {
        let Task { stages, effort, known, regions } = task;
        let search = Search {
            steps: &ground.steps,
            layout,
            bounds: &ground.bounds,
            codecs: self.codecs,
            scatters: ground.scatters.as_ref().filter(|_| stages != Stages::One),
            twins: &self.twins,
            stages,
            most_labels: if layout.ties { usize::MAX } else { self.most_labels },
            effort,
            known,
            regions,
        };
        search.run(stop)
    }

    fn layout(&self, objectives: &[Quantity], ties: bool) -> Layout {
        let mut quantities = objectives.to_vec();
        for &(limited, _) in &self.limits {
            if !quantities.contains(&limited.into()) {
                quantities.push(limited.into());
            }
        }
        let limit = |quantity: &Quantity| {
            let of =
                self.limits.iter().filter(|(limited, _)| Quantity::from(*limited) == *quantity);
            of.map(|&(_, limit)| limit).min().unwrap_or(u64::MAX)
        };
        let cards = self.costs.links().iter().flat_map(|link| link.cards).flatten().max();
        let period = quantities.contains(&Quantity::Period);
        let devices = self.costs.devices();
        let shared = |host: usize| devices.iter().filter(|device| device.host == host).count() > 1;
        let memory = quantities.contains(&Quantity::Memory)
            || devices.iter().any(|device| device.memory.is_some() && shared(device.host));
        let hosts = (0..devices.len()).filter(|&host| memory && shared(host)).collect();
        let has = |quantity| quantities.contains(&quantity);
        let limited = devices.iter().any(|device| device.memory.is_some());
        let own = Own {
            busy: has(Quantity::Period) || has(Quantity::Money),
            energy: [Quantity::Energy, Quantity::DeviceEnergy, Quantity::Money]
                .into_iter()
                .any(has),
            memory: has(Quantity::Memory) || limited,
        };
        Layout {
            own: if self.scatter { own } else { Own::default() },
            limits: quantities.iter().map(limit).collect(),
            asked: objectives.len(),
            open_energy: quantities.contains(&Quantity::DeviceEnergy),
            cards: if period { cards.map_or(0, |card| card + 1) } else { 0 },
            hosts,
            quantities,
            ties,
        }
    }

    /// That evaluation says of a plan, for these objectives and for what is limited, what the search
    /// has added up.
    pub(super) fn assert_costs(
        &self,
        objectives: &[Objective],
        values: &[u64],
        evaluation: &Evaluation,
    ) {
        let mut quantities = objectives.to_vec();
        for &(limited, _) in &self.limits {
            if !quantities.contains(&limited) {
                quantities.push(limited);
            }
        }
        for (&quantity, &value) in quantities.iter().zip(values) {
            debug_assert_eq!(quantity.of(evaluation, self.costs), Some(value), "{quantity:?}");
        }
    }

    /// What broke: for each limit the least value that is possible while the others hold; where no
    /// single one helps, the least of each by itself.
    pub(super) fn infeasible(&self, stop: &mut dyn FnMut() -> bool) -> Infeasible {
        let least =
            |quantity: Objective, limits: &[(Objective, u64)], stop: &mut dyn FnMut() -> bool| {
                self.with_limits(limits).best(quantity, Stages::Any, stop).proven()
            };
        let mut broken = Vec::new();
        for (at, &(quantity, limit)) in self.asked.iter().enumerate() {
            let others: Vec<_> =
                self.asked.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, l)| *l).collect();
            match least(quantity, &others, stop) {
                Ok(Some(ended)) => broken.push((quantity, limit, ended.values[0])),
                Ok(None) => {}
                Err(stopped) => return stopped,
            }
        }
        // The limit that must give way least, relatively.
        let relative = |&(_, limit, least): &(Objective, u64, u64)| {
            u128::from(least) * 1_000_000 / u128::from(limit.max(1))
        };
        if let Some((quantity, limit, least)) = broken.into_iter().min_by_key(relative) {
            return Infeasible::Limit { quantity, limit, least };
        }
        let mut alone = Vec::new();
        for &(quantity, limit) in self.asked {
            match least(quantity, &[], stop) {
                Ok(Some(ended)) => alone.push((quantity, limit, ended.values[0])),
                Ok(None) => return self.cannot_run(stop),
                Err(stopped) => return stopped,
            }
        }
        match alone.is_empty() {
            true => self.cannot_run(stop),
            false => Infeasible::Limits(alone),
        }
    }

    /// The same problem where devices may be visited again.
    pub(super) fn with_returns(&self, stages: Stages) -> revisits::Problem<'_> {
        let Sequences { dag, costs, inputs, codecs, limits, ideals, .. } = self;
        revisits::Problem { dag, costs, ideals, inputs, codecs, limits, stages }
    }

    /// The plan that exceeds memory least where nothing else is limited.
    pub(super) fn nearest(
        &self,
        stages: Stages,
        stop: &mut dyn FnMut() -> bool,
    ) -> Option<(Mapping, Setting)> {
        let ended = self.without_limits().best(Quantity::Excess, stages, stop).ended?;
        Some((ended.mapping, ended.setting))
    }

    /// Without any limit there is no plan: memory, pins, links or missing operators forbid it, or how
    /// often frames come.
    fn cannot_run(&self, stop: &mut dyn FnMut() -> bool) -> Infeasible {
        let all = self.without_limits();
        if let Some(interval) = self.costs.frame_interval() {
            match all.best(Quantity::Period, Stages::Any, stop).proven() {
                Ok(Some(ended)) => {
                    return Infeasible::Rate { interval, least: Nanos(ended.values[0]) };
                }
                Ok(None) => {}
                Err(stopped) => return stopped,
            }
        }
        let Ended { mapping, setting, .. } =
            match all.best(Quantity::Excess, Stages::Any, stop).proven() {
                Ok(Some(ended)) => ended,
                Ok(None) => return Infeasible::NoPlan,
                Err(stopped) => return stopped,
            };
        let Ok(partition) = setting.partition(self.dag, &mapping) else {
            return Infeasible::NoPlan;
        };
        let uses = crate::evaluate::memory(self.dag, self.costs, &partition, &setting);
        let most = uses.iter().max_by_key(|used| used.excess());
        most.and_then(|used| Infeasible::memory(self.costs, used)).unwrap_or(Infeasible::NoPlan)
    }
}

/// What a label may be worse than one that it is dropped for, so that whole plans are not worse than
/// what stands for them by more than all the slack: every stage may lose a factor, there are at most as
/// many as devices, and factors come to more than their sum.
pub(super) fn slack_of_a_stage(epsilon_ppm: u64, devices: usize) -> u64 {
    epsilon_ppm / (devices as u64 + 1)
}

/// What orders finished plans: objective, stages, bytes, the smaller mapping, the setting listed
/// first.
fn key(ended: &Ended) -> (u64, u64, u64, &Mapping, &Setting) {
    let at = ended.ties_at;
    let values = &ended.values;
    (values[0], values[at], values[at + 1], &ended.mapping, &ended.setting)
}

/// Those that none other is at least as good as in the first `width` values; of equals the first.
fn non_dominated(mut all: Vec<Ended>, width: usize) -> Vec<Ended> {
    all.sort_by(|a, b| {
        (&a.values[..width], &a.mapping, &a.setting).cmp(&(
            &b.values[..width],
            &b.mapping,
            &b.setting,
        ))
    });
    let mut kept: Vec<Ended> = Vec::new();
    for ended in all {
        let beaten = kept
            .iter()
            .any(|k| k.values[..width].iter().zip(&ended.values[..width]).all(|(a, b)| a <= b));
        if !beaten {
            kept.push(ended);
        }
    }
    kept
}

/// For each device one of a lower number that is like it in all that matters: costs, memory, price,
/// and links to every other device; which of the two is used makes no difference.
fn twins(costs: &Costs) -> Vec<Option<usize>> {
    let devices = costs.devices();
    let alike = |a: usize, b: usize| {
        let (x, y) = (&devices[a], &devices[b]);
        let own_host = |at: usize| {
            devices.iter().filter(|device| device.host == devices[at].host).count() == 1
        };
        let same = x.options == y.options
            && (x.memory, x.power, x.idle_power, x.price)
                == (y.memory, y.power, y.idle_power, y.price)
            && x.group_energy == y.group_energy
            && own_host(a)
            && own_host(b)
            && costs.inputs().iter().all(|input| input.decode[a] == input.decode[b]);
        same && alike_links(costs, DeviceId::new(a), DeviceId::new(b))
    };
    (0..devices.len()).map(|b| (1..b).rev().find(|&a| alike(a, b))).collect()
}

/// Whether two devices are joined to every third by equal links, and to each other by one that is
/// the same in both directions.
fn alike_links(costs: &Costs, a: DeviceId, b: DeviceId) -> bool {
    let seen = |from: DeviceId, to: DeviceId| {
        costs.link(from, to).map(|(link, back)| {
            let [near, far] = if back { [1, 0] } else { [0, 1] };
            let directions = if back { (&link.down, &link.up) } else { (&link.up, &link.down) };
            let shared = link.cards.iter().any(Option::is_some);
            (directions, link.energy[near], link.energy[far], shared.then_some((from, to)))
        })
    };
    let others = costs.device_ids().filter(|&id| id != a && id != b);
    let mut same = others.map(|other| seen(a, other) == seen(b, other));
    same.all(|same| same) && seen(a, b) == seen(b, a)
}
