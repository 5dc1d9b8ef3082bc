//! Plans that may return to a device: improved from what is known, and proven where that can be done.
//!
//! Such plans are as many as mappings, and what a device has done couples all of its visits, so labels
//! tell little apart. Instead what is known is varied: a route that no known one covers is kept and
//! varied in turn, by moving the end of a visit, by giving visits or new ones to other devices, and by
//! following another route from some border on (an archive of what is not dominated: Knowles and
//! Corne, "The Pareto archived evolution strategy", CEC 1999). Several archives by themselves, then
//! one that begins with what they all found. Nothing that was known is lost, so an answer is never
//! worse than without.
//!
//! Where a network has few borders, every route is then looked at that bounds do not rule out
//! ([`every`]). If that comes to its end, the answer is proven over all plans that return as well.

use super::{Objective, ideals::Ideals, labels::Stages, steps::Steps};
use crate::{cost::Costs, dag::Dag, evaluate::Setting, partition::Mapping};

mod account;
mod archive;
mod every;
mod rest;
mod route;
mod vary;

use account::{Account, Prices};
use archive::Archive;
use every::every;
use rest::Rest;
use route::Route;
use vary::{Choices, Random};

/// Routes that are tried in archives by themselves, and again in the one that they are joined to.
const VARIATIONS: usize = 750_000;
/// The same to come to a route that is allowed.
const APPROACHES: usize = 150_000;
/// Of more borders than this, not all routes are looked at.
const MOST_BORDERS: usize = 32;
/// Visits that are looked at to prove an answer: before anything is varied, which is enough for small
/// networks, and after it.
const FEW: usize = 100_000;
const MOST: usize = 1_000_000;

/// What is searched: pins, bans and the like are in its costs already.
pub(super) struct Problem<'a> {
    pub(super) dag: &'a Dag,
    pub(super) costs: &'a Costs,
    pub(super) ideals: &'a Ideals,
    /// Input encodings and codecs that may be used.
    pub(super) inputs: &'a [usize],
    pub(super) codecs: &'a [usize],
    /// Largest admissible values.
    pub(super) limits: &'a [(Objective, u64)],
    pub(super) stages: Stages,
}

/// What was found.
pub(super) struct Found {
    /// Plans of which none is at least as good as another.
    pub(super) plans: Vec<(Mapping, Setting)>,
    /// Of the first objective the least that a plan not looked at could have; none where all were.
    pub(super) open: Option<u64>,
    /// Routes that were tried, and visits that were looked at.
    pub(super) effort: usize,
}

/// The front of these objectives, from plans that are known on, or that exceed limits by little; with
/// one objective, the best plan.
pub(super) fn search(
    problem: &Problem,
    objectives: &[Objective],
    known: &[(Mapping, Setting)],
    stop: &mut dyn FnMut() -> bool,
) -> Found {
    let Problem { dag, ideals, inputs, codecs, .. } = *problem;
    let prices = problem.prices(objectives);
    let route = |(mapping, setting): &(Mapping, Setting)| {
        let input = inputs.iter().position(|&input| input == setting.input)?;
        let mut route = Route::of(dag, ideals, input, (mapping, setting))?;
        // Who sends nothing yet may do so later, with a codec that is allowed.
        let banned = route.codecs.iter_mut().filter(|codec| !codecs.contains(codec));
        banned.for_each(|codec| *codec = codecs.first().copied().unwrap_or(0));
        Some(route)
    };
    let known: Vec<Route> = known.iter().filter_map(route).collect();
    let mut archive = Archive::new(problem, &prices, objectives);
    known.iter().for_each(|route| archive.offer(route));
    let mut effort = 0;
    let mut open = prove(problem, &prices, &mut archive, FEW, &mut effort, stop);
    if open.is_some() {
        for route in improved(problem, &prices, objectives, &known, &mut effort, stop) {
            archive.offer(&route);
        }
        open = prove(problem, &prices, &mut archive, MOST, &mut effort, stop);
    }
    let plans = archive.routes().map(|route| route.plan(dag, ideals, inputs)).collect();
    Found { plans, open, effort }
}

impl<'a> Problem<'a> {
    fn prices(&self, objectives: &[Objective]) -> Vec<Prices<'a>> {
        let Problem { dag, costs, ideals, inputs, codecs, limits, .. } = *self;
        let limited = limits.iter().map(|(limited, _)| limited);
        let with_money = objectives.iter().chain(limited).any(|o| *o == Objective::Money);
        let prices =
            |&input: &usize| Prices::new(Steps::new(dag, costs, ideals, input), codecs, with_money);
        inputs.iter().map(prices).collect()
    }

    fn limit(&self, quantity: Objective) -> u64 {
        let of = self.limits.iter().filter(|(limited, _)| *limited == quantity);
        of.map(|&(_, limit)| limit).min().unwrap_or(u64::MAX)
    }

    fn choices(&self) -> Choices<'a> {
        let engines = self.costs.devices().iter().map(|device| device.options.len());
        Choices {
            last: self.ideals.last(),
            inputs: self.inputs.len(),
            codecs: self.codecs,
            engines: engines.collect(),
        }
    }

    /// By how much limits and memories are exceeded in all, in millionths of each; a plan that is not
    /// split counts as much as if one were exceeded by as much again.
    fn excess(&self, route: &Route, account: &Account) -> u64 {
        let over = |&(quantity, limit): &(Objective, u64)| {
            account::excess(account.value(self.costs, quantity), limit)
        };
        let unsplit = self.stages == Stages::Several && !route.is_split();
        let limits = self.limits.iter().map(over).fold(0, u64::saturating_add);
        limits.saturating_add(account.memory_excess(self.costs)).saturating_add(if unsplit {
            1_000_000
        } else {
            0
        })
    }
}

/// Routes that come of varying those that are known, or are near to being allowed: for each objective
/// in an archive that is led by it and in one that compares all, then in one that joins what they
/// found. What is largest on one device shows no progress on another, so that all of them keep what
/// has a low latency or period, too.
fn improved(
    problem: &Problem,
    prices: &[Prices],
    objectives: &[Objective],
    known: &[Route],
    effort: &mut usize,
    stop: &mut dyn FnMut() -> bool,
) -> Vec<Route> {
    let with_sums = |objectives: &[Objective]| {
        let more = [Objective::Latency, Objective::Period];
        let more = more.into_iter().filter(|more| !objectives.contains(more));
        objectives.iter().copied().chain(more).collect::<Vec<Objective>>()
    };
    let alone = objectives.iter().map(|&objective| with_sums(&[objective]));
    let all = with_sums(objectives);
    let archives: Vec<_> = alone.flat_map(|alone| [alone, all.clone()]).collect();
    let mut joined = Archive::new(problem, prices, &all);
    let mut random = Random::new(0);
    for compared in &archives {
        let mut own = Archive::new(problem, prices, compared);
        known.iter().for_each(|route| own.offer(route));
        if own.is_empty() {
            *effort += approach(problem, prices, (&mut own, known), &mut random, stop);
        }
        *effort += vary(problem, &mut own, VARIATIONS / archives.len(), &mut random, stop);
        own.routes().for_each(|route| joined.offer(route));
    }
    *effort += vary(problem, &mut joined, VARIATIONS, &mut random, stop);
    joined.routes().cloned().collect()
}

/// Tries so many variations of what an archive holds; how many it were.
fn vary(
    problem: &Problem,
    archive: &mut Archive,
    most: usize,
    random: &mut Random,
    stop: &mut dyn FnMut() -> bool,
) -> usize {
    let choices = problem.choices();
    for tried in 0..most {
        if archive.is_empty() || tried.is_multiple_of(1024) && stop() {
            return tried;
        }
        let mut route = archive.route(random.below(archive.len())).clone();
        let other = random.below(archive.len());
        for _ in 0..=random.below(3) {
            choices.vary(&mut route, archive.route(other), random);
        }
        archive.offer(&route);
    }
    most
}

/// Varies a route that is not allowed until it is, exceeding ever less; the archive is offered it.
fn approach(
    problem: &Problem,
    prices: &[Prices],
    (archive, known): (&mut Archive, &[Route]),
    random: &mut Random,
    stop: &mut dyn FnMut() -> bool,
) -> usize {
    let mut account = Account::new(problem.costs);
    let mut excess = |route: &Route| {
        let possible = route.is_possible(problem.ideals)
            && prices[route.input].charge(route, &mut account).is_some();
        possible.then(|| problem.excess(route, &account))
    };
    let start = known.iter().filter_map(|route| Some((excess(route)?, route.clone()))).min();
    let Some((mut least, mut best)) = start else { return 0 };
    let choices = problem.choices();
    for tried in 0..APPROACHES {
        if least == 0 || tried.is_multiple_of(1024) && stop() {
            archive.offer(&best);
            return tried;
        }
        let mut route = best.clone();
        for _ in 0..=random.below(3) {
            choices.vary(&mut route, &best, random);
        }
        if let Some(found) = excess(&route).filter(|&found| found <= least) {
            (least, best) = (found, route);
        }
    }
    archive.offer(&best);
    APPROACHES
}

/// Looks at all that is left, where that is not too much; of the first objective the least that a plan
/// not looked at could have.
fn prove(
    problem: &Problem,
    prices: &[Prices],
    archive: &mut Archive,
    most: usize,
    effort: &mut usize,
    stop: &mut dyn FnMut() -> bool,
) -> Option<u64> {
    let most = match problem.ideals.borders.len() {
        0..=MOST_BORDERS => most / prices.len(),
        _ => 0,
    };
    let mut open: Option<u64> = None;
    for (input, prices) in prices.iter().enumerate() {
        let rest = Rest::new(prices);
        let looked = every(prices, &rest, archive, (input, problem.codecs), most, stop);
        *effort += looked.visits;
        open = open.into_iter().chain(looked.open).min();
    }
    open
}
