//! Latency under load: the models of `cutline size` against agents.
//!
//! A plan that leaves everything to the cloud, which is one paced agent or two, is sent frames at the
//! moments of a recorded Poisson process, whatever became of the frames before: a latency counts from
//! when its frame was due. The source's agent computes nothing; it calls the replica with the fewest
//! frames under way, and so does the simulator (`Choice::Fewest`). A replica's calls take a fixed time
//! (`--call-time`), because so many times this machine's own time would vary as its speed does, by a
//! half within a minute, which no device does that the replica stands in for.
//!
//! The simulator is given the same recorded arrivals, times of service to draw from, and one constant
//! for all that is beside service (messages, the call itself, the sleep of whoever sends). Both were
//! measured before, on the same agents with one frame at a time; the constant is never measured under
//! load. What a replica takes from one frame to the next counts as service: it is measured before,
//! too, with frames in a row. At 90 % of capacity, where a hundredth more or less of service is a
//! tenth of the wait, the times of service are those that the frames of the same run report in their
//! traces. The formulas are asked, too, with the mean interval of the recorded arrivals.
//!
//! A run is 300 relaxation times long, or more: a station forgets how it began with the time constant
//! 1 / (μ (1 - √ρ)²) where times of service are exponential (Morse, "Queues, inventories and
//! maintenance", 1958, chapter 6), and in heavy traffic the constant grows with (1 + c²) / 2, c² the
//! squared coefficient of variation of service (its diffusion: Whitt, "Planning queueing simulations",
//! 1989). Several replicas count as one server as fast as all together. For constant times and ρ = 0.9
//! that is 190 times of service, where Laplace transforms give 187.
//!
//! `CUTLINE_BENCH_CELLS` names cells, as `90x2`: 90 % of capacity, two replicas.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use cutline::fleet::{AgentOptions, AgentProcess};
use cutline_core::{
    onnx::ImportOptions,
    platform::Platform,
    queueing::{Stage, predict},
    random::Random,
    simulate::{Arrivals, Cell, Choice, Edges, Service, Settings, Station, simulate},
    units::Nanos,
};
use cutline_runtime::{
    engine,
    model::Model,
    pace::timer,
    runner::{Answer, Frame, RunOptions, Runner},
    verify::random_inputs,
};
use tokio::{runtime::Runtime, task::JoinSet};

use super::{
    Verdict,
    fleet::{mapping, stage},
    measure::{BINARY, median, quantile, zoo},
};

/// The network, how long a replica takes for it, and how slow all agents are: together they take
/// three eighths of a core at most. The network takes this machine less than an eighth of the time.
const NETWORK: &str = "lenet5";
const CALL_TIME: &str = "3ms";
const SLOWDOWN: f64 = 8.0;

/// Cells: percent of capacity, with the targets of the mean errors of p50 and p99.
const LOADS: [(u32, [f64; 2]); 3] = [(30, [0.10, 0.20]), (60, [0.10, 0.20]), (90, [0.20, 0.30])];
const REPLICAS: [u32; 2] = [1, 2];

/// Percentiles, in millionths; those of the middle are printed, without a target.
const PERCENTILES: [u32; 3] = [500_000, 900_000, 990_000];

/// From this load on the model is given the times of service of the same run.
const SAME_RUN: u32 = 90;

/// Length of a run, in relaxation times, and at least.
const RELAXATIONS: f64 = 300.0;
const SHORTEST: Duration = Duration::from_secs(25);

/// Frames that find the agents idle, and those before them that are not counted.
const IDLE: u64 = 1000;
const WARM_UP: u64 = 100;

/// How long before the first frame of a series its times are counted from.
const AHEAD: Duration = Duration::from_micros(200);

/// Frames under way at each replica while the capacity is measured, and for how long.
const AT_ONE: usize = 4;
const CAPACITY_SPAN: Duration = Duration::from_secs(4);

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let cores = timer::allowed();
    if engine::open("onnxruntime").is_err() || cores.len() < 2 {
        println!("(two cores and ONNX Runtime are needed: skipped)");
        return Ok(Verdict::Skipped);
    }
    // Whoever sends the frames, and the source's agent, leave the second core to the replicas.
    let section = || {
        timer::pin(&cores[..1]);
        timer::short_turns();
        timer::precise_sleeps();
        measure(&cores)
    };
    thread::scope(|scope| {
        scope.spawn(section).join().map_err(|_| anyhow!("the section panicked"))?
    })
}

fn measure(cores: &[usize]) -> anyhow::Result<Verdict> {
    println!(
        "{NETWORK} on ONNX Runtime, each call takes {CALL_TIME} (--call-time), all agents --slowdown {SLOWDOWN}; times in ms:\n"
    );
    println!(
        "| load | replicas | busy | service, as given | in the run | s | relaxation times | frames | p50 | simulated | error | by formula | error | p99 | simulated | error | by formula | error | sent late, p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut rows: Vec<(u32, [f64; 3])> = Vec::new();
    let mut remarks = Vec::new();
    for replicas in REPLICAS {
        let loads: Vec<u32> =
            LOADS.iter().map(|(load, _)| *load).filter(|load| wanted(*load, replicas)).collect();
        if loads.is_empty() {
            continue;
        }
        let scene = Scene::start(replicas, cores)?;
        for load in loads {
            // The machine's speed changes within a minute: each cell has measurements of its own.
            let (capacity, turnover) = scene.capacity()?;
            let idle = scene.idle()?.with(turnover);
            remarks.push(format!("{load} %, {}", idle.remark(replicas, capacity)));
            rows.push((load, scene.row(load, &idle, capacity)?));
        }
    }
    println!();
    remarks.iter().for_each(|remark| println!("{remark}"));
    Ok(Verdict::all(LOADS.map(|(load, targets)| judge(load, targets, &rows))))
}

/// Whether a cell is asked for.
fn wanted(load: u32, replicas: u32) -> bool {
    let Ok(cells) = std::env::var("CUTLINE_BENCH_CELLS") else { return true };
    cells.split(',').any(|cell| cell == format!("{load}x{replicas}"))
}

/// Mean errors of a load's cells against their targets.
fn judge(load: u32, targets: [f64; 2], rows: &[(u32, [f64; 3])]) -> Verdict {
    let errors: Vec<[f64; 3]> =
        rows.iter().filter(|row| row.0 == load).map(|(_, errors)| *errors).collect();
    if errors.is_empty() {
        return Verdict::Skipped;
    }
    let mean = |at: usize| errors.iter().map(|error| error[at]).sum::<f64>() / errors.len() as f64;
    let [p50, p90, p99] = [mean(0), mean(1), mean(2)];
    println!(
        "{load} %: mean error {:.1} % at p50 (target {:.0} %), {:.1} % at p90, {:.1} % at p99 (target {:.0} %)",
        p50 * 100.0,
        targets[0] * 100.0,
        p90 * 100.0,
        p99 * 100.0,
        targets[1] * 100.0
    );
    Verdict::of(p50 <= targets[0] && p99 <= targets[1])
}

/// A plan on its agents.
struct Scene {
    runtime: Runtime,
    runner: Runner,
    frame: Frame,
    replicas: u32,
    _agents: Vec<AgentProcess>,
    _folder: tempfile::TempDir,
}

/// An answered frame.
#[derive(Clone, Copy)]
struct Seen {
    /// From when it was due.
    latency: Nanos,
    /// How long it occupied a replica.
    service: Nanos,
    /// How late it was sent.
    late: Nanos,
}

/// What was measured with one frame at a time.
struct Idle {
    service: Vec<Nanos>,
    /// What a replica takes between two frames, besides.
    turnover: Nanos,
    /// What a latency is beside service.
    beside: Nanos,
}

impl Scene {
    fn start(replicas: u32, cores: &[usize]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let agent = |name: String, core: usize, call_time: Option<&str>| {
            let options = AgentOptions {
                engine: Some("onnxruntime".to_owned()),
                slowdown: Some(SLOWDOWN),
                call_time: call_time.map(str::to_owned),
                threads: Some(1),
                cores: Some(core.to_string()),
                store: folder.path().join(name),
                ..AgentOptions::default()
            };
            AgentProcess::start(Path::new(BINARY), &options)
        };
        let source = agent("source".to_owned(), cores[0], None)?;
        let mut agents: Vec<AgentProcess> = (0..replicas)
            .map(|index| agent(format!("cloud{index}"), cores[1], Some(CALL_TIME)))
            .collect::<anyhow::Result<_>>()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(timer::short_turns)
            .enable_all()
            .build()?;
        let model = Model::open(&zoo(folder.path(), NETWORK)?, &ImportOptions::default())?;
        let platform = platform(&source, &agents)?;
        let nothing_here = vec![false; model.grouping.dag.groups().len()];
        let staged = stage(&model, &platform, &mapping(&model, &platform, &nothing_here))?;
        let deployment = staged.deployment.clone();
        ensure!(deployment.stages.len() == 2, "{} stages", deployment.stages.len());
        let runner = runtime.block_on(Runner::deploy(deployment, RunOptions::default(), |_| {}))?;
        let frame = Frame::Tensors(random_inputs(&model.graph, 1)?.into_iter().collect());
        agents.push(source);
        Ok(Self { runtime, runner, frame, replicas, _agents: agents, _folder: folder })
    }

    /// Sends a frame at each of these times, and waits for all answers.
    fn send(&self, due: &[Nanos]) -> anyhow::Result<Vec<Seen>> {
        let start = Instant::now() + AHEAD;
        let tasks: Vec<_> = due
            .iter()
            .map(|due| {
                let due = start + Duration::from_nanos(due.0);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let late = nanos(due.elapsed());
                let (runner, frame) = (self.runner.clone(), self.frame.clone());
                self.runtime.spawn(async move {
                    let answer = runner.infer(frame).await?;
                    let latency = nanos(due.elapsed());
                    anyhow::Ok(Seen { latency, service: service(&answer)?, late })
                })
            })
            .collect();
        // A frame that is refused or lost makes the percentiles of the others meaningless.
        tasks.into_iter().map(|task| self.runtime.block_on(task)?).collect()
    }

    /// Frames so far apart that each finds the agents idle: half as long again as a latency.
    fn idle(&self) -> anyhow::Result<Idle> {
        let apart =
            |gap: u64, count| -> Vec<Nanos> { (0..count).map(|at| Nanos(at * gap)).collect() };
        let first = self.send(&apart(20_000_000, WARM_UP))?;
        let gap = p(&first, |seen| seen.latency, 0.9) * 1.5;
        let seen = self.send(&apart(gap as u64, IDLE))?;
        let beside = p(&seen, |seen| seen.latency - seen.service, 0.5);
        let service = seen.iter().map(|seen| seen.service).collect();
        Ok(Idle { service, turnover: Nanos::ZERO, beside: Nanos(beside as u64) })
    }

    /// Frames per second where no replica is ever without one, and what a replica takes from the end
    /// of one frame to the beginning of the next.
    fn capacity(&self) -> anyhow::Result<(f64, Nanos)> {
        let under_way = AT_ONE * self.replicas as usize;
        let (mut times, began) = (Vec::new(), Instant::now());
        let mut counted = began;
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            let send = |tasks: &mut JoinSet<_>| {
                let (runner, frame) = (self.runner.clone(), self.frame.clone());
                tasks.spawn(async move { runner.infer(frame).await });
            };
            (0..under_way).for_each(|_| send(&mut tasks));
            while began.elapsed() < CAPACITY_SPAN {
                let answer = tasks.join_next().await.context("nothing is under way")???;
                send(&mut tasks);
                match began.elapsed() < CAPACITY_SPAN / 4 {
                    true => counted = Instant::now(),
                    false => times.push(service(&answer)?),
                }
            }
            anyhow::Ok(())
        })?;
        let rate = times.len() as f64 / counted.elapsed().as_secs_f64();
        let turnover = f64::from(self.replicas) * 1e9 / rate - mean(&times);
        Ok((rate, Nanos(turnover.max(0.0) as u64)))
    }

    /// Measures and prints a cell; the relative errors of its percentiles.
    fn row(&self, load: u32, idle: &Idle, capacity: f64) -> anyhow::Result<[f64; 3]> {
        let replicas = self.replicas;
        let rate = capacity * f64::from(load) / 100.0;
        let relaxation = relaxation(f64::from(load) / 100.0, capacity, &idle.service);
        let seconds = (RELAXATIONS * relaxation).max(SHORTEST.as_secs_f64());
        let due = poisson(rate, seconds, u64::from(load) * 10 + u64::from(replicas));
        let seen = self.send(&due)?;
        let own: Vec<Nanos> = seen.iter().map(|seen| seen.service).collect();
        let busy = mean(&own) * rate / f64::from(replicas) / 1e9;
        let service = if load >= SAME_RUN { &own } else { &idle.service };
        let service: Vec<Nanos> = service.iter().map(|time| *time + idle.turnover).collect();
        // Turning to the next frame is over for this one.
        let beside = idle.beside - idle.turnover;
        let measured = PERCENTILES.map(|ppm| p(&seen, |seen| seen.latency, f64::from(ppm) / 1e6));
        let simulated = simulated(&due, &service, replicas, beside)?;
        let formula = by_formula(&due, &service, replicas, beside)?;
        print!(
            "| {load} % | {replicas} | {busy:.3} | {:.3} | {:.3} | {seconds:.0} | {:.0} | {} |",
            mean(&service) / 1e6,
            mean(&own) / 1e6,
            seconds / relaxation,
            due.len()
        );
        let mut errors = [0.0; 3];
        for (at, error) in errors.iter_mut().enumerate() {
            let off = |found: f64| found / measured[at] - 1.0;
            *error = off(simulated[at]).abs();
            if at == 1 {
                continue;
            }
            print!(
                " {:.2} | {:.2} | {:+.1} % | {:.2} | {:+.1} % |",
                measured[at] / 1e6,
                simulated[at] / 1e6,
                off(simulated[at]) * 100.0,
                formula[at] / 1e6,
                off(formula[at]) * 100.0
            );
        }
        println!(" {:.2} |", p(&seen, |seen| seen.late, 0.99) / 1e6);
        Ok(errors)
    }
}

impl Idle {
    fn with(self, turnover: Nanos) -> Self {
        Self { turnover, ..self }
    }

    fn remark(&self, replicas: u32, capacity: f64) -> String {
        let times: Vec<f64> = self.service.iter().map(|time| time.0 as f64 / 1e6).collect();
        format!(
            "{replicas} replicas idle: service {:.3} ms (p1 {:.3}, p50 {:.3}, p99 {:.3}; c² {:.4}), {:.3} ms between two frames, beside {:.3} ms; capacity {capacity:.1} frames/s, {:.3} ms a frame and replica",
            mean(&self.service) / 1e6,
            quantile(&times, 0.01),
            median(&times),
            quantile(&times, 0.99),
            variation(&self.service),
            self.turnover.0 as f64 / 1e6,
            self.beside.0 as f64 / 1e6,
            f64::from(replicas) / capacity * 1e3
        )
    }
}

fn platform(source: &AgentProcess, clouds: &[AgentProcess]) -> anyhow::Result<Platform> {
    let (first, others) = clouds.split_first().context("no replica")?;
    let others: Vec<String> = others.iter().map(|agent| format!("\"{}\"", agent.address)).collect();
    let text = format!(
        "version = 1\n[[device]]\nname = \"source\"\naddress = \"{}\"\n[[device]]\nname = \"cloud\"\naddress = \"{}\"\nreplicas = [{}]\n[[link]]\nbetween = [\"source\", \"cloud\"]\nup = \"10gbit\"\n",
        source.address,
        first.address,
        others.join(", ")
    );
    Ok(toml::from_str(&text)?)
}

/// How long a replica says that a frame occupied it.
fn service(answer: &Answer) -> anyhow::Result<Nanos> {
    let stage = answer.trace.stages.last().context("no trace")?;
    Ok(stage.prepare_ns + stage.compute_ns)
}

/// Arrivals of a Poisson process.
fn poisson(rate: f64, seconds: f64, seed: u64) -> Vec<Nanos> {
    let mut random = Random::new(seed);
    let mut at = 0.0;
    let times = std::iter::from_fn(|| {
        at += random.exponential() / rate;
        (at < seconds).then_some(Nanos((at * 1e9) as u64))
    });
    times.collect()
}

/// Seconds in which a station forgets how it began.
fn relaxation(load: f64, capacity: f64, service: &[Nanos]) -> f64 {
    (1.0 + variation(service)) / 2.0 / (capacity * (1.0 - load.sqrt()).powi(2))
}

/// The percentiles in the simulator, in nanoseconds.
fn simulated(
    due: &[Nanos],
    service: &[Nanos],
    replicas: u32,
    beside: Nanos,
) -> anyhow::Result<[f64; 3]> {
    let cloud = Station::compute("cloud", Service::Measured(service.to_vec()))
        .replicated(replicas, Choice::Fewest)
        .waiting(Station::UNBOUNDED);
    let edges = Edges {
        count: 1,
        cameras: 1,
        arrivals: Arrivals::Recorded(due.to_vec()),
        before: Vec::new(),
        after: Vec::new(),
    };
    let cell = Cell { edges: vec![edges], shared: vec![Station { delay: beside, ..cloud }] };
    let last = due.last().context("no frame is due")?;
    let settings =
        Settings { duration: *last + Nanos(1), warm_up: Nanos::ZERO, sample: 1, seed: 1 };
    let outcome = simulate(&cell, 1, &settings, &mut || false)?;
    ensure!(outcome.latency.count() == due.len() as u64, "the simulator lost frames");
    let percentile =
        |ppm| outcome.latency.percentile(ppm).map(|time| time.0 as f64).context("no frame");
    let [p50, p90, p99] = PERCENTILES.map(percentile);
    Ok([p50?, p90?, p99?])
}

/// The same by formula, with the mean interval of the arrivals.
fn by_formula(
    due: &[Nanos],
    service: &[Nanos],
    replicas: u32,
    beside: Nanos,
) -> anyhow::Result<[f64; 3]> {
    let last = due.last().context("no frame is due")?;
    let stage = Stage {
        servers: replicas,
        choice: Choice::Fewest,
        delay: beside,
        ..Stage::new("cloud", Service::Measured(service.to_vec()))
    };
    let latency = predict(Nanos(last.0 / due.len() as u64), &[stage])?;
    Ok(PERCENTILES.map(|ppm| latency.percentile(ppm).0 as f64))
}

fn mean(times: &[Nanos]) -> f64 {
    times.iter().map(|time| time.0 as f64).sum::<f64>() / times.len() as f64
}

/// The squared coefficient of variation.
fn variation(times: &[Nanos]) -> f64 {
    let mean = mean(times);
    let squares = times.iter().map(|time| (time.0 as f64 / mean - 1.0).powi(2));
    squares.sum::<f64>() / times.len() as f64
}

/// A quantile over frames, in nanoseconds.
fn p(seen: &[Seen], of: impl Fn(&Seen) -> Nanos, q: f64) -> f64 {
    let values: Vec<f64> = seen.iter().map(|seen| of(seen).0 as f64).collect();
    quantile(&values, q)
}

fn nanos(duration: Duration) -> Nanos {
    Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}
