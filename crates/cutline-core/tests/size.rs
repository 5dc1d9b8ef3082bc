//! Deployments: against trying everything, and what must hold whatever the figures.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use cutline_core::{
    random::SplitMix64,
    simulate::{Arrivals, Rates},
    size::{
        Answer, Candidate, Check, Cloud, Demand, Limit, Load, Replay, Share, Station, Way,
        deployments, undominated,
    },
    units::{BytesPerSec, Money, Nanos},
};

const MS: u64 = 1_000_000;
const CHECK: Check = Check { frames: 8_000, seed: 1 };

fn demand(cameras: u64, deadline_ms: u64) -> Demand {
    Demand {
        cameras,
        arrivals: Arrivals::Poisson { interval: Nanos(1000 * MS) },
        deadline: Nanos(deadline_ms * MS),
        percentile_ppm: 990_000,
        headroom_ppm: 200_000,
        budget: None,
    }
}

/// Something that computes on an instance alone.
fn cloud_only(busy_ms: u64, rent: u64) -> Candidate {
    let way = |busy: u64| Some(Way { busy: Nanos(busy * MS), delay: Nanos(10 * MS) });
    let cloud = Cloud { busy: Nanos(busy_ms * MS), rent: Money(rent), cameras: None };
    Candidate {
        combination: 0,
        load: Load { board: Nanos(MS), up: way(20), cloud: Some(cloud), down: way(1) },
        besides: Money(0),
        replay: None,
    }
}

/// Candidates of small figures, the same for the same seed.
fn candidates(random: &mut SplitMix64, count: usize) -> Vec<Candidate> {
    (0..count)
        .map(|at| {
            let mut one = |most: u64| 1 + random.word() % most;
            let busy = 60 + one(150);
            let mut candidate = cloud_only(busy, 1_000_000 * one(9));
            candidate.combination = at / 2;
            candidate.load.board = Nanos(one(100) * MS);
            candidate.besides = Money(1_000_000 * one(20));
            if at % 4 == 3 {
                candidate.load =
                    Load { board: Nanos(one(400) * MS), up: None, cloud: None, down: None };
            }
            candidate
        })
        .collect()
}

fn sized(demand: &Demand, candidates: &[Candidate], count: usize) -> Answer {
    deployments(demand, candidates, count, &CHECK, &mut || false).unwrap()
}

/// What a candidate costs at least, by trying every number of cameras per instance and every number
/// of instances per camera.
fn cost_by_trying(demand: &Demand, candidate: &Candidate) -> Option<Money> {
    let load = &candidate.load;
    let bound = load.bound(demand).ok()?;
    let in_time = |share: Share| load.latency(demand, share).unwrap() <= demand.deadline;
    let holds = |share: Share| {
        let found = CHECK.run(demand, candidate, share, 1, &mut || false).unwrap();
        in_time(share) && found.dropped == 0 && found.latency.unwrap() <= demand.deadline
    };
    let Some(cloud) = load.cloud else { return holds(bound).then_some(candidate.besides) };
    let several = (bound.instances..bound.instances + 9)
        .map(|instances| Share { cameras: 1, instances })
        .filter(|share| bound.cameras == 1 || share.instances > 1);
    let fewer = (2..=bound.cameras).rev().map(|cameras| Share { cameras, instances: 1 });
    let one = Share { cameras: 1, instances: 1 };
    let one = (bound.instances == 1).then_some(one);
    let share = fewer.chain(one).chain(several).find(|&share| holds(share))?;
    let instances = (demand.cameras * share.instances).div_ceil(share.cameras);
    Some(candidate.besides + Money(cloud.rent.0 * instances))
}

#[test]
fn the_search_finds_what_trying_everything_finds() {
    let mut random = SplitMix64(7);
    let mut feasible = 0;
    for case in 0..6 {
        let candidates = candidates(&mut random, 8);
        let demand = demand(10 + random.word() % 90, 200 + 60 * case);
        let mut cheapest: Vec<(usize, Money)> = Vec::new();
        for candidate in &candidates {
            let Some(cost) = cost_by_trying(&demand, candidate) else { continue };
            match cheapest.iter_mut().find(|(combination, _)| *combination == candidate.combination)
            {
                Some((_, known)) => *known = cost.min(*known),
                None => cheapest.push((candidate.combination, cost)),
            }
        }
        let mut expected: Vec<Money> = cheapest.into_iter().map(|(_, cost)| cost).collect();
        expected.sort_unstable();
        feasible += expected.len();
        let answer = sized(&demand, &candidates, 4);
        let found: Vec<Money> = answer.deployments.iter().map(|found| found.cost).collect();
        assert_eq!(found, expected, "case {case}");
    }
    assert!(feasible > 10, "only {feasible} combinations could serve: the cases show too little");
}

#[test]
fn what_is_worse_in_everything_is_never_missed() {
    let mut random = SplitMix64(3);
    for case in 0..4 {
        let mut all = candidates(&mut random, 6);
        all.iter_mut().for_each(|candidate| candidate.combination = 0);
        let demand = demand(40, 300);
        let kept: Vec<Candidate> =
            undominated(all.iter().map(|candidate| (candidate.clone(), ())).collect())
                .into_iter()
                .map(|(candidate, ())| candidate)
                .collect();
        let cost = |answer: Answer| answer.deployments.first().map(|found| found.cost);
        assert_eq!(cost(sized(&demand, &all, 1)), cost(sized(&demand, &kept, 1)), "case {case}");
    }
    let same = cloud_only(100, 1);
    let worse = Candidate { besides: Money(1), ..same.clone() };
    let kept = undominated(vec![(worse, 0), (same.clone(), 1), (same, 2)]);
    assert_eq!(kept.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [1]);
}

#[test]
fn more_cameras_are_never_cheaper_and_a_looser_deadline_is_never_dearer() {
    let mut random = SplitMix64(11);
    for _ in 0..2 {
        let candidates = candidates(&mut random, 4);
        let cost = |demand: &Demand| {
            let answer = sized(demand, &candidates, 1);
            answer.deployments.first().map_or(Money(u64::MAX), |found| found.cost)
        };
        let by_cameras: Vec<Money> =
            [1, 5, 6, 30, 1000].map(|cameras| cost(&demand(cameras, 400))).to_vec();
        assert!(by_cameras.is_sorted(), "{by_cameras:?}");
        assert!(by_cameras[0] < by_cameras[4], "{by_cameras:?}: the cases show too little");
        let by_deadline: Vec<Money> =
            [150, 250, 400, 900, 3000].map(|deadline| cost(&demand(50, deadline))).to_vec();
        assert!(by_deadline.iter().rev().is_sorted(), "{by_deadline:?}");
    }
}

#[test]
fn without_waiting_the_headroom_decides_and_instances_are_counted_exactly() {
    // One frame a second, 4 ms each, 80 % of the time: 200 cameras on an instance.
    let mut candidate = cloud_only(4, 3);
    let loose = demand(1000, 5000);
    let expected = [(200, 1), (201, 2), (1000, 5), (1001, 6)];
    for (cameras, instances) in expected {
        let answer = sized(&Demand { cameras, ..loose.clone() }, &[candidate.clone()], 4);
        let [found] = answer.deployments.as_slice() else { panic!("{answer:?}") };
        assert_eq!((found.instances, found.most.cameras), (instances, 200), "{cameras}");
        assert_eq!(found.cost, Money(3 * instances));
    }
    // 3 s for each frame, one a second: a camera needs 3 / 0.8 instances, rounded up.
    candidate = cloud_only(3000, 3);
    let answer =
        sized(&Demand { cameras: 10, deadline: Nanos(60_000 * MS), ..loose }, &[candidate], 1);
    let [found] = answer.deployments.as_slice() else { panic!("{answer:?}") };
    assert_eq!((found.instances, found.most.instances), (40, 4));
}

#[test]
fn cameras_of_an_instance_that_are_given_are_taken_as_they_are() {
    let mut candidate = cloud_only(900, 7);
    candidate.load.cloud = candidate.load.cloud.map(|cloud| Cloud { cameras: Some(228), ..cloud });
    let answer = sized(&demand(5000, 2000), &[candidate], 1);
    let [found] = answer.deployments.as_slice() else { panic!("{answer:?}") };
    assert_eq!((found.instances, found.cost, found.simulated), (22, Money(22 * 7), None));
}

#[test]
fn the_simulator_has_the_last_word() {
    // Bursts are rougher than the formulas think.
    let bursts = Arrivals::Bursts { period: Nanos(4000 * MS), frames: 4, spacing: Nanos(MS) };
    let demand = Demand { arrivals: bursts, cameras: 100, ..demand(100, 260) };
    let answer = sized(&demand, &[cloud_only(20, 5)], 1);
    let [found] = answer.deployments.as_slice() else { panic!("{answer:?}") };
    let promised = found.promised.expect("the formulas promise too much");
    assert!(found.most.cameras < promised.cameras, "{found:?}");
    assert!(found.simulated.unwrap().latency.unwrap() <= demand.deadline, "{found:?}");
}

#[test]
fn what_breaks_first_is_named_with_its_growth() {
    let candidate = cloud_only(10, 1);
    let answer = sized(&demand(60, 400), std::slice::from_ref(&candidate), 1);
    let [found] = answer.deployments.as_slice() else { panic!("{answer:?}") };
    // 60 cameras keep the instance busy for 600 ms of every second, a link for 20 ms.
    assert_eq!(found.busy[2], (Station::Instance, 600_000));
    assert_eq!(found.growth.stations[..2], [(Station::Instance, 1666), (Station::Up, 50_000)]);
    assert!((1100..1666).contains(&found.growth.deadline), "{:?}", found.growth);
    assert_eq!(found.growth.cameras, Some(found.most.cameras - 60));
    let grown = |growth: u64| {
        let arrivals = Arrivals::Poisson { interval: Nanos(1000 * MS * 1000 / growth) };
        let demand = Demand { arrivals, ..demand(60, 400) };
        candidate.load.latency(&demand, found.share).unwrap() <= demand.deadline
    };
    assert!(grown(found.growth.deadline) && !grown(found.growth.deadline * 102 / 100));
}

#[test]
fn the_limit_that_fails_nearest_is_named() {
    let tight = demand(10, 100);
    let missed = |demand: &Demand, candidates: &[Candidate]| {
        let answer = sized(demand, candidates, 4);
        assert!(answer.deployments.is_empty());
        answer.misses.into_iter().map(|miss| (miss.candidate, miss.limit)).collect::<Vec<_>>()
    };
    let deadline = tight.deadline;
    // 1 + 30 + 11 ms besides the instance.
    let needs = |ms| Limit::Deadline { needs: Nanos(ms * MS), deadline };
    let two = [cloud_only(500, 1), cloud_only(80, 1)];
    assert_eq!(missed(&tight, &two), [(1, needs(122))]);
    let board = Load { board: Nanos(900 * MS), up: None, cloud: None, down: None };
    let slow = Candidate { combination: 1, load: board, besides: Money(0), replay: None };
    let busy = Limit::Headroom { station: Station::Board, busy_ppm: 900_000, most_ppm: 800_000 };
    assert_eq!(
        missed(&Demand { deadline: Nanos(2000 * MS), ..tight.clone() }, &[slow]),
        [(0, busy)]
    );
    let poor = Demand { budget: Some(Money(5)), ..demand(10, 5000) };
    let budget = Limit::Budget { needs: Money(7), budget: Money(5) };
    assert_eq!(budget.excess_ppm(), 400_000);
    assert_eq!(missed(&poor, &[cloud_only(4, 9), cloud_only(4, 7)]), [(1, budget)]);
}

/// A link that is as fast as declared but for a part of each ten seconds, in thousandths.
fn slow_for(seconds: u64, permille: u64) -> Arc<Replay> {
    let full = BytesPerSec(1_000_000_000);
    let steps = [
        (Nanos::ZERO, full),
        (Nanos(1000 * (10 - seconds) * MS), BytesPerSec(permille * 1_000_000)),
    ];
    let cycle = Nanos(10_000 * MS);
    Replay { up: Some(Rates::steps(&steps, Some(cycle)).unwrap()), down: None, cycle }.into()
}

#[test]
fn a_link_that_varies_is_replayed_and_what_it_delays_is_no_answer() {
    let tight = demand(40, 300);
    let simulated = |replay| {
        let candidate = Candidate { replay, ..cloud_only(4, 7) };
        let answer = deployments(&tight, &[candidate], 1, &CHECK, &mut || false).unwrap();
        answer.deployments.first().map(|one| one.simulated.unwrap().latency.unwrap())
    };
    let constant = simulated(None).unwrap();
    assert_eq!(simulated(Some(slow_for(5, 1000))), Some(constant), "as fast as declared");
    // 20 ms of sending become 100 ms for half of the frames.
    let slower = simulated(Some(slow_for(5, 200))).unwrap();
    assert!(slower > constant + Nanos(70 * MS), "{slower} after {constant}");
    // A frame in twenty waits for a second.
    assert_eq!(simulated(Some(slow_for(1, 0))), None);
}
