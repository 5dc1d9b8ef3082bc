//! How long planning over many devices takes: `cargo bench -p cutline-core --bench devices`.
//!
//! Networks of the zoo on invented, unlike devices (`invented`): the optimum of the period over eight
//! devices, the same and the latency with scatter groups, the front of five objectives over four, the
//! best plan over all bandwidths, and how time grows with layers and devices. `-- SECTION` runs one of
//! `pair`, `eight`, `scatter`, `front`, `growth`.

use std::time::{Duration, Instant};

use cutline_core::{
    planner::{Objective, Proof, Request, front, solve, solve_until, sweep},
    units::{BytesPerSec, Nanos},
};

mod invented;
use invented::{on_devices, synthetic, zoo_network};

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let sections: [(&str, fn()); 5] = [
        ("pair", pair),
        ("eight", eight),
        ("scatter", scatter),
        ("front", fronts),
        ("growth", growth),
    ];
    for (name, section) in sections {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            section();
            println!();
        }
    }
}

/// Two devices: one plan, and the whole table of bandwidths.
fn pair() {
    println!("two devices: least latency, and the best plan from 0.1 to 1000 Mbit/s\n");
    println!("| network | groups | one plan | whole table | regimes |\n|---|---|---|---|---|");
    for name in ["densenet121", "inceptionv3", "resnet101"] {
        let network = zoo_network(name);
        let (dag, costs) = on_devices(&network, 2);
        let request = Request::default();
        let one = median(11, || solve(&dag, &costs, &request).expect("two devices"));
        let rates = [BytesPerSec(12_500), BytesPerSec(125_000_000)];
        let table = || sweep(&dag, &costs, &request, 0, rates, &mut || false).expect("two devices");
        let all = median(5, table);
        println!(
            "| {name} | {} | {} | {} | {} |",
            dag.groups().len(),
            millis(one),
            millis(all),
            table().len()
        );
    }
}

/// Eight unlike devices: the optimum of the period, with its proof.
fn eight() {
    println!("eight unlike devices: least period\n");
    println!("| network | groups | time | stages | period against one device | proof |");
    println!("|---|---|---|---|---|---|");
    for name in ["resnet101", "vgg19", "densenet121", "inceptionv3"] {
        let network = zoo_network(name);
        let (dag, costs) = on_devices(&network, 8);
        let request = Request { objective: Objective::Period, ..Request::default() };
        let time = median(3, || solve(&dag, &costs, &request).expect("eight devices"));
        let answer = solve(&dag, &costs, &request).expect("eight devices");
        let best = answer.best.expect("no limits");
        let alone = answer.baselines.iter().filter_map(|b| b.outcome.as_ref().ok());
        let alone = alone.map(|choice| choice.evaluation.period.0).min().unwrap_or(0);
        println!(
            "| {name} | {} | {} | {} | 1/{:.2} | {} |",
            dag.groups().len(),
            millis(time),
            best.setting.order.len(),
            alone as f64 / best.evaluation.period.0 as f64,
            proof(best.proof)
        );
    }
}

/// Eight unlike devices: what scatter groups gain, and how long their search takes, with at most half
/// a minute for each.
fn scatter() {
    println!("eight unlike devices: without and with scatter groups\n");
    println!("| network | objective | without | time | with | time | gain | helpers | proof |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for name in ["resnet101", "vgg19", "densenet121", "inceptionv3"] {
        let network = zoo_network(name);
        let (dag, costs) = on_devices(&network, 8);
        for objective in [Objective::Latency, Objective::Period] {
            let [without, with] = [false, true].map(|scatter| {
                let request = Request { objective, scatter, ..Request::default() };
                let start = Instant::now();
                let mut stop = || start.elapsed() > Duration::from_secs(30);
                let answer = solve_until(&dag, &costs, &request, &mut stop).expect("eight devices");
                let best = answer.best.expect("no limits");
                let value = objective.of(&best.evaluation, &costs).expect("times are known");
                (best, value, start.elapsed())
            });
            let gain = (1.0 - with.1 as f64 / without.1 as f64) * 100.0;
            println!(
                "| {name} | {} | {} | {} | {} | {} | {gain:.1} % | {} | {} |",
                objective.name(),
                Nanos(without.1),
                millis(without.2),
                Nanos(with.1),
                millis(with.2),
                with.0.setting.helpers.len(),
                proof(with.0.proof)
            );
        }
    }
}

/// Four unlike devices: the front of five objectives.
fn fronts() {
    println!("four unlike devices: the front of latency, period, energy, memory and money\n");
    println!("| network | groups | time | points | exact to | labels |\n|---|---|---|---|---|---|");
    let objectives = [
        Objective::Latency,
        Objective::Period,
        Objective::Energy,
        Objective::Memory,
        Objective::Money,
    ];
    for name in ["resnet101", "vgg19", "densenet121"] {
        let network = zoo_network(name);
        let (dag, costs) = on_devices(&network, 4);
        let start = Instant::now();
        let found = front(&dag, &costs, &Request::default(), &objectives, &mut || false)
            .expect("four devices");
        let time = start.elapsed();
        let exact = match (found.complete, found.epsilon_ppm) {
            (true, 0) => "exact".to_owned(),
            (true, ppm) => format!("{:.1} %", ppm as f64 / 1e4),
            (false, _) => "not finished".to_owned(),
        };
        println!(
            "| {name} | {} | {} | {} | {exact} | {} |",
            dag.groups().len(),
            millis(time),
            found.points.len(),
            found.labels
        );
    }
}

/// Time against layers and devices.
fn growth() {
    println!("growth: least period of a synthetic chain with skips, time by layers and devices\n");
    let devices = [2, 4, 8, 16];
    println!("| layers | 2 devices | 4 | 8 | 16 |\n|---|---|---|---|---|");
    for layers in [50, 100, 200, 500, 1000, 2000] {
        let network = synthetic(layers);
        let cells = devices.map(|count| {
            let (dag, costs) = on_devices(&network, count);
            let request = Request { objective: Objective::Period, ..Request::default() };
            let start = Instant::now();
            let mut stop = || start.elapsed() > Duration::from_secs(10);
            let answer =
                solve_until(&dag, &costs, &request, &mut stop).expect("at most 32 devices");
            let time = start.elapsed();
            match answer.best.map(|best| best.proof) {
                Ok(Proof::Optimal) => millis(time),
                Ok(other) => format!("{} ({})", millis(time), proof(other)),
                Err(why) => format!("{} ({why})", millis(time)),
            }
        });
        println!("| {layers} | {} |", cells.join(" | "));
    }
}

fn median<T>(runs: usize, work: impl Fn() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(work());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[runs / 2]
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn proof(proof: Proof) -> String {
    match proof {
        Proof::Optimal => "optimal".to_owned(),
        Proof::Within(gap) => format!("within {}", Nanos(gap)),
        Proof::Front(ppm) => format!("front to {ppm} ppm"),
        Proof::Unproven => "not proven".to_owned(),
    }
}
