//! Routes of which none is at least as good as another.

use super::{
    Problem,
    account::{Account, Prices},
    route::Route,
};
use crate::{
    evaluate::evaluate,
    planner::{Objective, kept::Kept, labels::Stages},
};

/// Beyond this many routes, one that is nowhere better by more than a thousandth is not kept.
const MANY: usize = 4096;
const SLACK_PPM: u64 = 1000;

/// What is kept of all routes that it was offered.
pub(super) struct Archive<'a> {
    problem: &'a Problem<'a>,
    prices: &'a [Prices<'a>],
    /// What routes are compared by, then what else is limited.
    quantities: Vec<Objective>,
    width: usize,
    limits: Vec<u64>,
    /// Whether every border follows the one before: then a visit runs all that is ready.
    in_line: bool,
    kept: Kept,
    /// By label, those no longer kept included.
    routes: Vec<Route>,
    account: Account,
    values: Vec<u64>,
}

impl<'a> Archive<'a> {
    pub(super) fn new(
        problem: &'a Problem<'a>,
        prices: &'a [Prices<'a>],
        objectives: &[Objective],
    ) -> Self {
        let mut quantities = objectives.to_vec();
        for &(limited, _) in problem.limits {
            if !quantities.contains(&limited) {
                quantities.push(limited);
            }
        }
        Archive {
            width: objectives.len(),
            limits: quantities.iter().map(|&quantity| problem.limit(quantity)).collect(),
            quantities,
            in_line: problem.ideals.borders.windows(2).all(|pair| pair[0].is_within(&pair[1])),
            problem,
            prices,
            kept: Kept::default(),
            routes: Vec::new(),
            account: Account::new(problem.costs),
            values: Vec::new(),
        }
    }

    /// What is compared, and what else is limited.
    pub(super) fn quantities(&self) -> &[Objective] {
        &self.quantities
    }

    pub(super) fn is_within_limits(&self, values: &[u64]) -> bool {
        values.iter().zip(&self.limits).all(|(value, limit)| value <= limit)
    }

    /// Whether something kept is as good as this in everything that is compared.
    pub(super) fn covers(&mut self, values: &[u64]) -> bool {
        self.kept.beats(&values[..self.width], 0, 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.labels().is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.kept.labels().len()
    }

    pub(super) fn route(&self, at: usize) -> &Route {
        &self.routes[self.kept.labels()[at] as usize]
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = &Route> {
        (0..self.len()).map(|at| self.route(at))
    }

    /// Keeps a route if it can be run and nothing kept covers it.
    pub(super) fn offer(&mut self, route: &Route) {
        let prices = self.prices;
        let mut account = std::mem::take(&mut self.account);
        if route.is_possible(self.problem.ideals)
            && prices[route.input].charge(route, &mut account).is_some()
        {
            self.keep(route, &account);
        }
        self.account = account;
    }

    /// The same of one that can be run and costs this.
    pub(super) fn keep(&mut self, route: &Route, account: &Account) {
        let Problem { dag, costs, ideals, inputs, .. } = *self.problem;
        let is_asked = self.problem.stages != Stages::Several || route.is_split();
        if !is_asked || !account.fits(costs) {
            return;
        }
        let mut values = std::mem::take(&mut self.values);
        values.clear();
        values.extend(self.quantities.iter().map(|&quantity| account.value(costs, quantity)));
        let slack = if self.len() > MANY { SLACK_PPM } else { 0 };
        let is_new =
            self.is_within_limits(&values) && !self.kept.beats(&values[..self.width], 0, slack);
        if is_new {
            let run = match self.in_line {
                true => Some(route.clone()),
                false => route.as_run(dag, ideals, inputs),
            };
            match run {
                Some(run) if run == *route => {
                    debug_assert!(self.is_evaluated_to(&run, &values), "{run:?}: {values:?}");
                    let label = self.routes.len() as u32;
                    self.kept.insert(label, 0, &values[..self.width], |_| {});
                    self.routes.push(run);
                }
                Some(run) => {
                    // The account in use is the caller's.
                    self.account = Account::new(costs);
                    self.offer(&run);
                }
                None => {}
            }
        }
        self.values = values;
    }
    /// Whether evaluation says the same of a route as its account.
    fn is_evaluated_to(&self, route: &Route, values: &[u64]) -> bool {
        let Problem { dag, costs, ideals, inputs, .. } = *self.problem;
        let (mapping, setting) = route.plan(dag, ideals, inputs);
        evaluate(dag, costs, &mapping, &setting).is_ok_and(|evaluation| {
            let mut both = self.quantities.iter().zip(values);
            both.all(|(quantity, &value)| quantity.of(&evaluation, costs) == Some(value))
        })
    }
}
