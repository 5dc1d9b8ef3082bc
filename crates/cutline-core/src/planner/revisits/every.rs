//! Every route, as far as it may lead to a plan that is not known: proof that there is no better one.
//!
//! A tree of beginnings, each extended by every visit that can follow. One is left where even the
//! least that it comes to is as bad as a plan that is known, or breaks a limit.

use super::{
    account::{Account, Prices},
    archive::Archive,
    rest::Rest,
    route::{Route, Visit},
};
use crate::{planner::Objective, platform::DeviceId};

/// What was looked at, and what was not.
pub(super) struct Looked {
    /// Visits, each as one that ends a beginning.
    pub(super) visits: usize,
    /// Where it was given up: of the first objective the least that a plan not looked at could have.
    pub(super) open: Option<u64>,
}

struct Tree<'a, 'b> {
    prices: &'a Prices<'a>,
    rest: &'a Rest,
    archive: &'a mut Archive<'b>,
    codecs: &'a [usize],
    most: usize,
    stop: &'a mut dyn FnMut() -> bool,
    /// The beginning; engines and codecs count as chosen only for devices that have used theirs.
    route: Route,
    runs: Vec<bool>,
    sends: Vec<bool>,
    /// What its visits said that a plan comes to at least.
    promised: Vec<Vec<u64>>,
    looked: Looked,
    /// Beginnings since it was asked whether to give up.
    since: usize,
}

/// Looks at every route under one input encoding, `most` visits at most.
pub(super) fn every(
    prices: &Prices,
    rest: &Rest,
    archive: &mut Archive,
    (input, codecs): (usize, &[usize]),
    most: usize,
    stop: &mut dyn FnMut() -> bool,
) -> Looked {
    let devices = prices.steps.costs.devices().len();
    let route =
        Route { visits: Vec::new(), input, engines: vec![0; devices], codecs: vec![0; devices] };
    let looked = Looked { visits: 0, open: None };
    let (runs, sends) = (vec![false; devices], vec![false; devices]);
    let mut tree = Tree {
        prices,
        rest,
        archive,
        codecs,
        most,
        stop,
        route,
        runs,
        sends,
        promised: Vec::new(),
        looked,
        since: 0,
    };
    tree.extend(0, DeviceId::SOURCE, &Account::new(prices.steps.costs));
    tree.looked
}

impl Tree<'_, '_> {
    /// Every visit that can follow at a border where a device was last.
    fn extend(&mut self, border: usize, last: DeviceId, account: &Account) {
        self.since += 1;
        if self.looked.visits >= self.most || self.since.is_multiple_of(1024) && (self.stop)() {
            // Nothing more is looked at.
            self.most = 0;
            let open = self.least(border, account).first().copied().unwrap_or(0);
            self.looked.open = Some(self.looked.open.map_or(open, |known| known.min(open)));
            return;
        }
        let steps = &self.prices.steps;
        let mut next = account.clone();
        for device in steps.costs.device_ids() {
            if device == last && border > 0 {
                continue;
            }
            let engines = 0..steps.costs.device(device).options.len();
            let ran = self.runs[device.index()].then_some(self.route.engines[device.index()]);
            for engine in choices(ran, engines) {
                let sent = self.sends[last.index()].then_some(self.route.codecs[last.index()]);
                for codec in choices(sent, self.codecs.iter().copied()) {
                    next.copy(account);
                    if device != last {
                        let engines = [self.route.engines[last.index()], engine];
                        let hop = next.hop(self.prices, [last, device], engines, border, codec);
                        if hop.is_none() {
                            continue;
                        }
                    }
                    self.visits(border, [last, device], (engine, codec), &next);
                    if device == last {
                        // Nothing is sent.
                        break;
                    }
                }
            }
        }
    }

    /// Every visit of a device that begins at a border.
    fn visits(
        &mut self,
        border: usize,
        [last, device]: [DeviceId; 2],
        (engine, codec): (usize, usize),
        account: &Account,
    ) {
        let ideals = self.prices.steps.ideals;
        let at = [device.index(), last.index()];
        let before = (self.runs[at[0]], self.sends[at[1]]);
        let chosen = (self.route.engines[at[0]], self.route.codecs[at[1]]);
        self.runs[at[0]] = true;
        self.route.engines[at[0]] = engine;
        if device != last {
            self.sends[at[1]] = true;
            self.route.codecs[at[1]] = codec;
        }
        let mut next = account.clone();
        for to in ideals.after(border) {
            self.looked.visits += 1;
            next.copy(account);
            let visit = Visit { device, to };
            if next.visit(self.prices, visit, border, engine).is_none() {
                continue;
            }
            self.route.visits.push(visit);
            if to == ideals.last() {
                if next.answers(self.prices, &self.route.visits).is_some() {
                    debug_assert!(self.keeps_promises(&next), "{:?}: {next:?}", self.route);
                    self.archive.keep(&self.route, &next);
                }
            } else if let Some(least) = self.worth_it(to, &next) {
                self.promised.push(least);
                self.extend(to, device, &next);
                self.promised.pop();
            }
            self.route.visits.pop();
        }
        (self.runs[at[0]], self.sends[at[1]]) = before;
        (self.route.engines[at[0]], self.route.codecs[at[1]]) = chosen;
    }

    /// The least that everything asked for comes to behind a border, where that is worth looking at.
    fn worth_it(&mut self, border: usize, account: &Account) -> Option<Vec<u64>> {
        let values = self.least(border, account);
        let is_worth_it = account.fits(self.prices.steps.costs)
            && self.archive.is_within_limits(&values)
            && !self.archive.covers(&values);
        is_worth_it.then_some(values)
    }

    /// Whether a whole plan costs no less than its beginnings were said to come to.
    fn keeps_promises(&self, account: &Account) -> bool {
        let costs = self.prices.steps.costs;
        let quantities = self.archive.quantities().iter();
        let values: Vec<u64> = quantities.map(|&q| account.value(costs, q)).collect();
        let kept =
            |least: &Vec<u64>| least.iter().zip(&values).all(|(least, value)| least <= value);
        self.promised.iter().all(kept)
    }

    /// The least that everything asked for comes to in a plan that has cost this much up to a border.
    fn least(&self, border: usize, account: &Account) -> Vec<u64> {
        let least = |&quantity: &Objective| self.rest.least(self.prices, account, border, quantity);
        self.archive.quantities().iter().map(least).collect()
    }
}

/// What was chosen already, or all that there is.
fn choices(chosen: Option<usize>, all: impl Iterator<Item = usize>) -> impl Iterator<Item = usize> {
    chosen.into_iter().chain(all.filter(move |_| chosen.is_none()))
}
