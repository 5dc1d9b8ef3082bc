//! A plan as the visits that a frame makes, where a device may be visited again.
//!
//! ```text
//! borders    0 ────── 4 ──── 7 ───────── 12
//! visits       pi       cloud     pi          = [pi to 4, cloud to 7, pi to 12]
//! ```

use crate::{
    dag::Dag,
    evaluate::Setting,
    partition::{Mapping, derive_in_order},
    planner::ideals::{Border, Ideals},
    platform::DeviceId,
};

/// One turn of a device: it runs all groups from where the visit before ended up to a border.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Visit {
    pub(super) device: DeviceId,
    pub(super) to: usize,
}

/// Visits up to the last border, no two that follow each other on one device, with the encodings
/// and engines of the plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Route {
    pub(super) visits: Vec<Visit>,
    /// Position among the input encodings that are searched.
    pub(super) input: usize,
    /// By device: engine, and codec of what it sends on.
    pub(super) engines: Vec<usize>,
    pub(super) codecs: Vec<usize>,
}

impl Route {
    /// The route of a plan; `None` where one of its stages ends at no known border.
    pub(super) fn of(
        dag: &Dag,
        ideals: &Ideals,
        input: usize,
        (mapping, setting): (&Mapping, &Setting),
    ) -> Option<Self> {
        let mut route = Route {
            visits: Vec::new(),
            input,
            engines: setting.engines.clone(),
            codecs: setting.codecs.clone(),
        };
        let mut done = vec![false; dag.groups().len()];
        let mut size = 0;
        for stage in derive_in_order(dag, mapping, &setting.order).stages {
            stage.groups.iter().for_each(|group| done[group.index()] = true);
            size += stage.groups.len();
            let here = |border: &Border| {
                border.size == size
                    && dag.group_ids().all(|id| border.holds(id) == done[id.index()])
            };
            let first = ideals.borders.partition_point(|border| border.size < size);
            let to = first + ideals.borders[first..].iter().position(here)?;
            route.push(Visit { device: stage.device, to });
        }
        Some(route)
    }

    /// The route that is run in fact: a visit runs whatever is ready on its device, so that a later
    /// one of the device may begin further on.
    pub(super) fn as_run(&self, dag: &Dag, ideals: &Ideals, inputs: &[usize]) -> Option<Self> {
        let (mapping, setting) = self.plan(dag, ideals, inputs);
        Route::of(dag, ideals, self.input, (&mapping, &setting))
    }

    /// Adds a visit; one of the device that is there already goes on.
    pub(super) fn push(&mut self, visit: Visit) {
        match self.visits.last_mut() {
            Some(last) if last.device == visit.device => last.to = visit.to,
            _ => self.visits.push(visit),
        }
    }

    /// Each visit with the border that it begins at.
    pub(super) fn stages(&self) -> impl Iterator<Item = (usize, Visit)> + '_ {
        let begins = [0].into_iter().chain(self.visits.iter().map(|visit| visit.to));
        begins.zip(self.visits.iter().copied())
    }

    /// Whether at least two devices run something.
    pub(super) fn is_split(&self) -> bool {
        self.visits.len() > 1
    }

    /// Whether every visit begins where all that it reads is made.
    pub(super) fn is_possible(&self, ideals: &Ideals) -> bool {
        self.stages().all(|(from, visit)| {
            from < visit.to && ideals.borders[from].is_within(&ideals.borders[visit.to])
        })
    }

    /// The plan: who runs what, in which order. `inputs`: the input encodings that are searched.
    pub(super) fn plan(&self, dag: &Dag, ideals: &Ideals, inputs: &[usize]) -> (Mapping, Setting) {
        let mut mapping = Mapping::uniform(dag, DeviceId::SOURCE);
        for (from, visit) in self.stages() {
            for group in ideals.borders[from].until(&ideals.borders[visit.to]) {
                mapping.0[group.index()] = visit.device;
            }
        }
        let setting = Setting {
            engines: self.engines.clone(),
            input: inputs[self.input],
            codecs: self.codecs.clone(),
            order: self.visits.iter().map(|visit| visit.device).collect(),
            helpers: Vec::new(),
        };
        (mapping, setting)
    }
}
