//! Cutline against others, as tables:
//! `cargo bench --manifest-path benches/comparisons/Cargo.toml -- [nsga2|published]`.
//!
//! `nsga2` takes the names of networks, numbers of devices and numbers of evaluations to restrict
//! itself to, such as `-- nsga2 vgg19 4 1000`.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use cutline_comparisons::{
    genetic::{self, Found, OBJECTIVES, Space, Start},
    hypervolume::{self, Point},
    published::{Instance, PARTS, PublishedError, latency, throughput},
};
use cutline_core::{
    cost::Costs,
    dag::Dag,
    planner::{Choice, Front, Request, front},
};

// Its chains are for the growth of planning time, which is measured elsewhere.
#[allow(dead_code)]
#[path = "../../../crates/cutline-core/benches/invented/mod.rs"]
mod invented;
use invented::{on_devices, zoo_network};

const NETWORKS: [&str; 3] = ["vgg19", "resnet101", "densenet121"];
const DEVICES: [usize; 4] = [2, 4, 6, 8];
const EVALUATIONS: [usize; 2] = [1_000, 100_000];
/// After which the exact front is printed as not finished.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let has = |name: &str| wanted.iter().any(|wanted| wanted == name);
    let all = !has("nsga2") && !has("published");
    if all || has("published") {
        published_throughput();
        println!();
        published_latency();
        println!();
    }
    if all || has("nsga2") {
        against_nsga2(&wanted);
    }
}

/// Graphs for throughput, and the expert's split.
const FOR_THROUGHPUT: [(&str, Option<&str>); 3] = [
    (
        "throughput-inputs__LayerGraphs__resnet50_inference",
        Some("human-experts__resnet50_inference_expert"),
    ),
    (
        "throughput-inputs__LayerGraphs__inceptionv3_inference",
        Some("human-experts__inceptionv3_inference_expert"),
    ),
    ("throughput-inputs__OperatorGraphs__resnet50_inference", None),
];
const FOR_LATENCY: [&str; 3] = [
    "latency-inputs__LayerGraphs__resnet50_inference",
    "latency-inputs__LayerGraphs__inceptionv3_inference",
    "latency-inputs__OperatorGraphs__resnet50_inference",
];

/// A published file; a message where it is absent.
fn published(name: &str) -> Option<Vec<u8>> {
    let folder = "../../../shared/data/msr_dnn_partitioning";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(format!("{name}.json"));
    let read = fs::read(path);
    if read.is_err() {
        println!(
            "| {name} | skipped: not in `shared/data/msr_dnn_partitioning` beside the project |"
        );
    }
    read.ok()
}

/// The largest load of published graphs, beside experts' splits.
fn published_throughput() {
    println!("published graphs, their own rules: least largest load, in ms\n");
    println!(
        "| graph | nodes | joined | accelerators | CPUs | ideals | expert | ours | expert / ours \
         | best in a row | bound for any placement | time |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (name, expert) in FOR_THROUGHPUT {
        let Some(json) = published(name) else { continue };
        let expert = expert.and_then(published);
        match throughput_row(&json, expert.as_deref()) {
            Ok(row) => println!("| {name} | {row} |"),
            Err(error) => println!("| {name} | {error} |"),
        }
    }
}

fn throughput_row(json: &[u8], expert: Option<&[u8]>) -> Result<String, PublishedError> {
    let instance = Instance::parse(json)?;
    let begin = Instant::now();
    let answer = throughput::solve(&instance)?;
    let time = begin.elapsed();
    let head = head(&instance);
    let Some(answer) = answer else { return Ok(format!("{head} | no placement fits")) };
    let evaluated = instance.largest_load(&answer.placement);
    assert_eq!(evaluated, Some(answer.load), "the evaluator says what the solver does");
    let expert = match expert {
        None => None,
        Some(json) => instance.largest_load(&instance.parse_split(json)?),
    };
    let proof = match answer.row_bound {
        Some(bound) if bound == answer.load => "yes".to_owned(),
        _ => "not proved".to_owned(),
    };
    Ok(format!(
        "{head} | {} | {} | {} | {} | {proof} | {} (gap {:.1} %) | {}",
        answer.ideals,
        expert.map_or("none".to_owned(), millis),
        millis(answer.load),
        expert.map_or("".to_owned(), |load| format!("{:.4}", load as f64 / answer.load as f64)),
        millis(answer.any_bound),
        gap(answer.load, answer.any_bound),
        seconds(time)
    ))
}

/// The latency of published graphs.
fn published_latency() {
    println!("published graphs, their own rules: least latency, in ms\n");
    println!(
        "| graph | nodes | joined | accelerators | CPUs | ideals | CPUs alone | ours | bound | gap \
         | accelerators used | time |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for name in FOR_LATENCY {
        let Some(json) = published(name) else { continue };
        match latency_row(&json) {
            Ok(row) => println!("| {name} | {row} |"),
            Err(error) => println!("| {name} | {error} |"),
        }
    }
}

fn latency_row(json: &[u8]) -> Result<String, PublishedError> {
    let instance = Instance::parse(json)?;
    let begin = Instant::now();
    let answer = latency::solve(&instance)?;
    let time = begin.elapsed();
    let alone = instance.latency(&Default::default());
    Ok(format!(
        "{} | {} | {} | {} | {} | {} | {} | {}",
        head(&instance),
        answer.ideals,
        alone.map_or("none".to_owned(), millis),
        millis(answer.latency),
        millis(answer.bound),
        match answer.latency == answer.bound {
            true => "none: optimal".to_owned(),
            false => format!("{:.2} %", gap(answer.latency, answer.bound)),
        },
        answer.placement.accelerators.len(),
        seconds(time)
    ))
}

fn head(instance: &Instance) -> String {
    let Instance { original, nodes, accelerators, cpus, .. } = instance;
    format!("{original} | {} | {accelerators} | {cpus}", nodes.len())
}

fn millis(parts: u64) -> String {
    format!("{:.3}", parts as f64 / PARTS)
}

/// How far a bound is below a value, in percent of the value.
fn gap(value: u64, bound: u64) -> f64 {
    (value - bound) as f64 * 100.0 / value as f64
}

/// Those of a list that are asked for; all where none is.
fn asked<T: Copy + ToString>(all: &[T], wanted: &[String]) -> Vec<T> {
    let named: Vec<T> =
        all.iter().copied().filter(|value| wanted.contains(&value.to_string())).collect();
    if named.is_empty() { all.to_vec() } else { named }
}

/// How NSGA-II is run: its name in the table, its first population, and its space.
const RUNS: [(&str, Start, Space); 3] = [
    ("random", Start::Random, Space::Any),
    ("runs", Start::Runs, Space::Any),
    ("runs, each device once", Start::Runs, Space::Row),
];

fn against_nsga2(wanted: &[String]) {
    println!("the front of period, largest device energy and largest memory, against NSGA-II\n");
    println!("Share: hypervolume in the box that both fronts span.");
    println!("Any: all mappings, against our front of plans that may return to a device.");
    println!(
        "Once: only mappings that visit each device once at most, against our front of such plans:"
    );
    println!("there its share is never the smaller one.");
    println!("Missed: points of NSGA-II that no point of ours is at least as good as.\n");
    println!(
        "| network | groups | devices | plans | ours: time | points | exact to | effort | NSGA-II \
         | evaluations | time | their time / ours | points | missed | share, theirs | ours |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut orders = Vec::new();
    for name in asked(&NETWORKS, wanted) {
        let network = zoo_network(name);
        for devices in asked(&DEVICES, wanted) {
            let (dag, costs) = on_devices(&network, devices);
            let head = format!("{name} | {} | {devices}", dag.groups().len());
            let [any, once] = [true, false].map(|revisits| ours(&dag, &costs, revisits));
            for evaluations in asked(&EVALUATIONS, wanted) {
                for (how, start, space) in RUNS {
                    let theirs = genetic::explore(&dag, &costs, start, space, evaluations, 1);
                    let theirs = match theirs {
                        Ok(theirs) => theirs,
                        Err(error) => {
                            println!("| {head} | {error} |");
                            continue;
                        }
                    };
                    if space == Space::Any {
                        println!("| {head} | any | {} |", row(&any, how, &theirs, &theirs.front));
                    }
                    println!("| {head} | once | {} |", row(&once, how, &theirs, &theirs.row));
                    orders.extend(
                        missed(&once, &theirs).map(|missed| format!("{name}, {devices}: {missed}")),
                    );
                }
            }
        }
    }
    orders.dedup();
    for order in orders {
        println!("missed, each device once: {order}");
    }
}

/// A front of ours.
struct Ours {
    front: Front,
    points: Vec<Point>,
    time: Duration,
}

impl Ours {
    fn misses(&self, point: &Point) -> bool {
        !self.points.iter().any(|ours| hypervolume::covers(ours, point))
    }
}

fn ours(dag: &Dag, costs: &Costs, revisits: bool) -> Ours {
    let begin = Instant::now();
    let request = Request { revisits, ..Request::default() };
    let found = front(dag, costs, &request, &OBJECTIVES, &mut || begin.elapsed() > PATIENCE);
    let front = found.expect("the invented devices have powers");
    let time = begin.elapsed();
    let point = |choice: &Choice| -> Point {
        OBJECTIVES.map(|o| o.of(&choice.evaluation, costs).expect("a front knows its objectives"))
    };
    Ours { points: front.points.iter().map(point).collect(), front, time }
}

/// A row of the table.
fn row(ours: &Ours, how: &str, theirs: &Found, front: &[Point]) -> String {
    let corners = hypervolume::corners(ours.points.iter().chain(front));
    let (best, worst) = corners.unwrap_or_default();
    let [their_share, our_share] =
        [front, &ours.points].map(|points| hypervolume::share(points, &best, &worst));
    let exact = match (ours.front.complete, ours.front.epsilon_ppm) {
        (true, 0) => "exact".to_owned(),
        (true, ppm) => format!("{:.1} %", ppm as f64 / 1e4),
        (false, _) => "not proven".to_owned(),
    };
    format!(
        "{} | {} | {exact} | {} | {how} | {} | {} | {:.1} | {} | {} | {their_share:.5} | {our_share:.5}",
        seconds(ours.time),
        ours.points.len(),
        ours.front.labels,
        theirs.evaluations,
        seconds(theirs.time),
        theirs.time.as_secs_f64() / ours.time.as_secs_f64(),
        front.len(),
        front.iter().filter(|point| ours.misses(point)).count(),
    )
}

/// An example of what was missed among plans that visit each device once at most.
fn missed(ours: &Ours, theirs: &Found) -> Option<String> {
    let mut all = theirs.row.iter().zip(&theirs.orders);
    let (point, order) = all.find(|(point, _)| ours.misses(point))?;
    let each = OBJECTIVES.iter().zip(point).map(|(o, &value)| o.show(value));
    Some(format!("devices {order:?}: {}", each.collect::<Vec<_>>().join(", ")))
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        long if long >= 10.0 => format!("{long:.0} s"),
        medium if medium >= 0.1 => format!("{medium:.2} s"),
        short => format!("{:.1} ms", short * 1e3),
    }
}
