//! NSGA-II over mappings, set up as AutoDiCE explores them: what Cutline's front is measured against.
//!
//! A chromosome has a gene for each group: the device that runs it. A population of 100, two-point
//! crossover, each gene drawn anew with probability 1 / groups. Objectives are AutoDiCE's: the
//! largest energy and the largest memory of a device, and the throughput, here as the period; each
//! is what Cutline's own evaluation says of the mapping.
//!
//! The algorithm is favoured where that is possible: a chromosome that returns is not evaluated
//! twice, and what counts is not the last population but the best of all that was ever evaluated.
//! It may visit a device again, which Cutline's search does where it is asked to; a run can be told
//! not to.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use cutline_core::{
    cost::Costs,
    dag::Dag,
    evaluate::{Setting, evaluate},
    partition::{Mapping, derive},
    planner::Objective,
    platform::DeviceId,
};
use moors::{
    algorithms::{AlgorithmBuilderError, AlgorithmError, Nsga2Builder},
    duplicates::ExactDuplicatesCleaner,
    operators::{MutationOperator, SamplingOperator, TwoPointBinaryCrossover},
    random::RandomGenerator,
};
use ndarray::{Array1, Array2, ArrayViewMut1};
use thiserror::Error;

use crate::hypervolume::{self, Point};

/// What is minimised.
pub const OBJECTIVES: [Objective; 3] =
    [Objective::Period, Objective::DeviceEnergy, Objective::Memory];
const POPULATION: usize = 100;

/// How the first population is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Each gene by itself, as AutoDiCE does.
    Random,
    /// A few runs of groups, each on one device: far closer to what is good.
    Runs,
}

/// Which mappings count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// All that can be evaluated, devices visited again included.
    Any,
    /// Those that visit no device again, which is what Cutline searches by itself; others are refused.
    Row,
}

/// What a run found.
pub struct Found {
    /// What no other evaluated mapping covers.
    pub front: Vec<Point>,
    /// What no other evaluated mapping covers of those that visit no device again.
    pub row: Vec<Point>,
    /// For each of `row` the devices in the order of their stages.
    pub orders: Vec<Vec<usize>>,
    /// Distinct mappings that were evaluated.
    pub evaluations: usize,
    /// Those that evaluation refused.
    pub refused: usize,
    /// How long it took.
    pub time: Duration,
}

/// Why a run failed.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum GeneticError {
    #[error("the algorithm could not be set up: {0}")]
    Build(#[from] AlgorithmBuilderError),
    #[error("the algorithm stopped: {0}")]
    Run(#[from] AlgorithmError),
}

/// NSGA-II for about so many evaluations.
pub fn explore(
    dag: &Dag,
    costs: &Costs,
    start: Start,
    space: Space,
    evaluations: usize,
    seed: u64,
) -> Result<Found, GeneticError> {
    let begin = Instant::now();
    let seen: RefCell<HashMap<Vec<u8>, Option<Point>>> = RefCell::default();
    let fitness = |population: &Array2<f64>| {
        let mut values = Array2::zeros((population.nrows(), OBJECTIVES.len()));
        for (row, genes) in population.outer_iter().enumerate() {
            let genes: Vec<u8> = genes.iter().map(|&gene| gene as u8).collect();
            let known = seen.borrow().get(&genes).copied();
            let point = known.unwrap_or_else(|| {
                let point = cost(dag, costs, space, &genes);
                seen.borrow_mut().insert(genes, point);
                point
            });
            for (column, value) in point.unwrap_or([u64::MAX; 3]).into_iter().enumerate() {
                values[[row, column]] = value as f64;
            }
        }
        values
    };
    let groups = dag.groups().len();
    let devices = costs.devices().len();
    let mut algorithm = Nsga2Builder::default()
        .fitness_fn(fitness)
        .constraints_fn(moors::NoConstraints)
        .sampler(Sampler { devices, start })
        .crossover(TwoPointBinaryCrossover)
        .mutation(AnotherDevice { devices, rate: 1.0 / groups as f64 })
        .duplicates_cleaner(ExactDuplicatesCleaner::new())
        .num_vars(groups)
        .population_size(POPULATION)
        .num_offsprings(POPULATION)
        .num_iterations((evaluations / POPULATION).saturating_sub(1))
        .crossover_rate(0.9)
        .mutation_rate(1.0)
        .keep_infeasible(true)
        .verbose(false)
        .seed(seed)
        .build()?;
    algorithm.run()?;
    let time = begin.elapsed();
    drop(algorithm);
    let seen = seen.into_inner();
    let all: Vec<(&Vec<u8>, Point)> =
        seen.iter().filter_map(|(genes, point)| Some((genes, (*point)?))).collect();
    let front = hypervolume::front(all.iter().map(|(_, point)| *point).collect());
    let mut orders: BTreeMap<Point, Vec<usize>> = BTreeMap::new();
    for (genes, point) in all {
        let order = stages(dag, costs, genes);
        if !visits_again(&order) {
            let known = orders.entry(point).or_insert_with(|| order.clone());
            // Hash order must not decide what is shown.
            if order < *known {
                *known = order;
            }
        }
    }
    let row = hypervolume::front(orders.keys().copied().collect());
    Ok(Found {
        front,
        orders: row.iter().map(|point| orders[point].clone()).collect(),
        row,
        evaluations: seen.len(),
        refused: seen.values().filter(|point| point.is_none()).count(),
        time,
    })
}

/// What a mapping costs; `None` where it is refused: it cannot be run, needs more memory than there
/// is, or is not of the space.
fn cost(dag: &Dag, costs: &Costs, space: Space, genes: &[u8]) -> Option<Point> {
    if space == Space::Row && visits_again(&stages(dag, costs, genes)) {
        return None;
    }
    let evaluation = evaluate(dag, costs, &mapping(costs, genes), &Setting::first(costs)).ok()?;
    if evaluation.memory.iter().any(|used| used.excess().is_some()) {
        return None;
    }
    let [period, energy, memory] = OBJECTIVES.map(|o| o.of(&evaluation, costs));
    Some([period?, energy?, memory?])
}

fn mapping(costs: &Costs, genes: &[u8]) -> Mapping {
    let devices: Vec<DeviceId> = costs.device_ids().collect();
    Mapping(genes.iter().map(|&gene| devices[usize::from(gene)]).collect())
}

/// Devices of the stages of a mapping.
fn stages(dag: &Dag, costs: &Costs, genes: &[u8]) -> Vec<usize> {
    let stages = derive(dag, &mapping(costs, genes)).stages;
    stages.iter().map(|stage| stage.device.index()).collect()
}

/// Every frame begins at the source, so a stage there that is not the first visits it again.
fn visits_again(order: &[usize]) -> bool {
    let mut order = order.to_vec();
    if order.first().is_some_and(|&first| first != DeviceId::SOURCE.index()) {
        order.push(DeviceId::SOURCE.index());
    }
    order.sort_unstable();
    order.windows(2).any(|pair| pair[0] == pair[1])
}

#[derive(Clone, Debug)]
struct Sampler {
    devices: usize,
    start: Start,
}

impl SamplingOperator for Sampler {
    fn sample_individual(&self, groups: usize, random: &mut impl RandomGenerator) -> Array1<f64> {
        let device = |random: &mut _| draw(self.devices, random);
        match self.start {
            Start::Random => (0..groups).map(|_| device(random)).collect(),
            Start::Runs => {
                let runs = random.gen_range_usize(1, self.devices + 1);
                let mut starts: Vec<usize> =
                    (1..runs).map(|_| random.gen_range_usize(0, groups)).collect();
                starts.sort_unstable();
                let homes: Vec<f64> = (0..runs).map(|_| device(random)).collect();
                (0..groups).map(|at| homes[starts.partition_point(|&start| start <= at)]).collect()
            }
        }
    }
}

#[derive(Clone, Debug)]
struct AnotherDevice {
    devices: usize,
    rate: f64,
}

impl MutationOperator for AnotherDevice {
    fn mutate<'a>(&self, mut genes: ArrayViewMut1<'a, f64>, random: &mut impl RandomGenerator) {
        for gene in &mut genes {
            if random.gen_bool(self.rate) {
                *gene = draw(self.devices, random);
            }
        }
    }
}

fn draw(devices: usize, random: &mut impl RandomGenerator) -> f64 {
    random.gen_range_usize(0, devices) as f64
}
