//! The schedule on made-up samples: orders, limits, and how often intervals hold the median.

use super::*;

fn rule() -> Rule {
    Rule {
        precision_permille: 20,
        confidence_permille: 950,
        min_turns: 10,
        max_turns: 200,
        time_limit: Duration::from_secs(60),
    }
}

fn times(numbers: impl IntoIterator<Item = u64>) -> Vec<Nanos> {
    numbers.into_iter().map(Nanos).collect()
}

#[test]
fn every_cell_has_one_turn_in_each_round() {
    let cells: Vec<usize> = (0..57).map(|cell| cell * 3).collect();
    for round in 0..20 {
        let mut round = order(&cells, 7, round);
        round.sort_unstable();
        assert_eq!(round, cells);
    }
    assert_eq!(order(&[], 7, 0), Vec::<usize>::new());
}

#[test]
fn rounds_and_seeds_have_orders_of_their_own() {
    let cells: Vec<usize> = (0..20).collect();
    assert_eq!(order(&cells, 7, 3), order(&cells, 7, 3));
    assert_ne!(order(&cells, 7, 3), order(&cells, 7, 4));
    assert_ne!(order(&cells, 7, 3), order(&cells, 8, 3));
}

#[test]
fn no_place_in_a_round_is_favoured() {
    let cells: Vec<usize> = (0..5).collect();
    let mut counts = [[0u32; 5]; 5];
    for round in 0..10_000 {
        for (place, cell) in order(&cells, 1, round).into_iter().enumerate() {
            counts[cell][place] += 1;
        }
    }
    // Expected 2000 of deviation 40.
    for count in counts.into_iter().flatten() {
        assert!((1800..=2200).contains(&count), "{counts:?}");
    }
}

#[test]
fn a_cell_is_known_when_both_ends_are_near() {
    let steady = times((0..10).map(|n| 1000 + n));
    let Verdict::Known(interval) = rule().verdict(&steady, Duration::ZERO) else { panic!() };
    assert_eq!(interval, Interval { median: Nanos(1004), low: Nanos(1001), high: Nanos(1008) });
    let wild = times((0..10).map(|n| 1000 + 100 * n));
    assert_eq!(rule().verdict(&wild, Duration::ZERO), Verdict::More);
    assert_eq!(rule().verdict(&steady[..9], Duration::ZERO), Verdict::More);
    assert_eq!(rule().verdict(&[], Duration::ZERO), Verdict::More);
}

#[test]
fn a_limit_ends_a_cell_and_says_so() {
    let wild = times((0..10).map(|n| 1000 + 100 * n));
    let out_of_time = Duration::from_secs(60);
    let Verdict::Limit(Some(interval)) = rule().verdict(&wild, out_of_time) else { panic!() };
    assert_eq!((interval.low, interval.high), (Nanos(1100), Nanos(1800)));
    assert_eq!(rule().verdict(&wild[..3], out_of_time), Verdict::Limit(None));
    let few = Rule { max_turns: 10, ..rule() };
    assert!(matches!(few.verdict(&wild, Duration::ZERO), Verdict::Limit(Some(_))));
    // What is known at its last turn is known.
    let steady = times([1000; 10]);
    assert!(matches!(few.verdict(&steady, out_of_time), Verdict::Known(_)));
    assert!(matches!(rule().verdict(&steady[..9], out_of_time), Verdict::Limit(Some(_))));
}

#[test]
fn looks_grow_by_half() {
    let looks: Vec<usize> = (0..130).filter(|&turns| rule().is_looked_at(turns)).collect();
    assert_eq!(looks, [10, 15, 23, 35, 53, 80, 120]);
}

#[test]
fn a_turn_has_an_odd_number_of_runs_that_fit() {
    let ms = Duration::from_millis;
    for (most, time, run, expected) in [
        (5, 500, 1, 5),
        (5, 500, 100, 5),
        (5, 500, 120, 3),
        (5, 500, 200, 1),
        (5, 500, 900, 1),
        (5, 0, 1, 1),
        (5, 500, 0, 5),
        (1, 500, 1, 1),
        (999, 500, 3, 165),
    ] {
        assert_eq!(runs_of_turn(most, ms(time), ms(run)), expected, "{most} {time} {run}");
    }
}

#[test]
fn more_turns_are_expected_of_what_varies_more() {
    let steady = times((0..10).map(|n| 1000 + n));
    let wild = times((0..10).map(|n| 1000 + 30 * n));
    assert_eq!(rule().turns_left(&steady), 5);
    let left = rule().turns_left(&wild);
    assert!((100..=190).contains(&left), "{left}");
    assert_eq!(rule().turns_left(&[]), 10);
}

/// Numbers with the shapes that run times have.
struct Times {
    state: u64,
}

impl Times {
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.state) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A sum of twelve: normal enough out to three deviations.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// The middle of five runs of a turn: each off by `run`, all by `turn`, and of `tail` of them up
    /// to three times as long.
    fn turn(&mut self, run: f64, turn: f64, tail: f64) -> Nanos {
        let base = 1e6 * (turn * self.normal()).exp();
        let mut runs: Vec<f64> = Vec::new();
        for _ in 0..5 {
            let slow = if self.uniform() < tail { 1.0 + 2.0 * self.uniform() } else { 1.0 };
            runs.push(base * slow * (run * self.normal()).exp());
        }
        runs.sort_by(f64::total_cmp);
        Nanos(runs[2] as u64)
    }
}

/// The interval that is stopped at holds the true median about as often as asked, in spite of the
/// looks on the way, and whether or not the runs of a turn are alike.
#[test]
fn intervals_hold_the_median_as_often_as_asked() {
    for (run, turn, tail) in [
        (0.05, 0.0, 0.0),
        (0.05, 0.02, 0.05),
        (0.02, 0.05, 0.02),
        (0.1, 0.03, 0.1),
        (0.02, 0.03, 0.02),
    ] {
        let mut source = Times { state: 42 };
        let mut many: Vec<Nanos> = (0..40_001).map(|_| source.turn(run, turn, tail)).collect();
        many.sort_unstable();
        let truth = many[20_000];
        let (mut held, mut near, sweeps) = (0, 0, 2000);
        for _ in 0..sweeps {
            let mut samples = Vec::new();
            let interval = loop {
                samples.push(source.turn(run, turn, tail));
                match rule().verdict(&samples, Duration::ZERO) {
                    Verdict::More => {}
                    Verdict::Known(interval) => break interval,
                    Verdict::Limit(interval) => break interval.unwrap(),
                }
            };
            held += u32::from((interval.low..=interval.high).contains(&truth));
            near += u32::from(interval.median.0.abs_diff(truth.0) * 50 <= truth.0);
        }
        // 95 % of 2000 are 1900, with a deviation of 10.
        assert!(held >= 1870, "{held} of {sweeps} hold the median: {run} {turn} {tail}");
        assert!(near >= 1900, "{near} of {sweeps} are within 2 %: {run} {turn} {tail}");
    }
}
