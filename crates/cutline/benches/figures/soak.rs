//! Half an hour at full load while agents and the link fail at random: what leaks, shows.
//!
//! Three agents as processes of their own, a `cutline link` in front of the second, and as many
//! frames under way as the plan takes, without a pause. The second agent has every role at once: it
//! is called over a link that fails, it fails itself, and it calls an agent that fails.
//!
//! ```text
//! holder ─▶ edge ─▶ link ─▶ middle ─▶ far
//!           stopped  stalled, slow,    stopped   killed, stopped, started again
//!                    reset
//! ```
//!
//! A seed decides which fault comes next, how long it lasts, and how long all is well after it; every
//! kind comes once before one comes again. Each is ended, and the plan answers again, before the next.
//!
//! # When it is met
//!
//! * **Every answer is right**, none is doubled, none lost.
//! * **Descriptors**: no process that lived all along has more of them after the last fault than
//!   before the first, both times with nothing under way.
//! * **Stages**: no agent serves a stage once the holder has said good-bye.
//! * **Memory is flat**: the median of the resident memory in the last quarter is at most 2 %, or at
//!   most 1 MiB, above that of the second. The first quarter is for caches and pools to fill. From the
//!   middle of the one quarter to that of the other it is half the run, in which some hundred faults
//!   and some ten thousand frames pass: a leak of 10 kB a fault, less than one connection's buffers,
//!   or of 100 bytes a frame, is found. A run shorter than five minutes is still filling caches, and
//!   its memory is printed without a verdict.
//!
//! `CUTLINE_BENCH_SECONDS` is how long (1800), `CUTLINE_BENCH_SEED` where chance begins (1).

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use cutline::{routes::Subject, staging};
use cutline_core::{
    cut::Cut,
    onnx::ImportOptions,
    partition::Mapping,
    plan::{Plan, PlannedChoice},
    platform::{DeviceId, Platform},
    units::Bytes,
};
use cutline_runtime::{engine, model::Model};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{
    Verdict,
    camera::{Held, PATIENCE, Reel, Show},
    fleet::{by_hand, stage},
    held::{Agent, DEADLINE, settings},
    measure::{BINARY, zoo},
    watch::{self, Growth, Watch, Watched},
};

const NETWORK: &str = "mobilenetv2";
const ENGINES: [&str; 2] = ["onnxruntime", "rten"];

/// Shares of the work, in percent, between which the two cuts are looked for.
const CUTS: [[u64; 2]; 2] = [[20, 45], [55, 80]];

/// The link in good times, and in bad ones.
const FAST: &str = "200mbit";
const SLOW: &str = "2mbit";

/// How long a fault lasts, and how long all is well behind it, in milliseconds.
const LASTS: [u64; 2] = [50, 2500];
const CALM: [u64; 2] = [200, 2000];

/// Frames before the first look.
const WARM: usize = 50;

/// The shortest run whose memory is judged.
const JUDGED: Duration = Duration::from_secs(300);

/// By how much memory may grow: a share, or so much.
const GROWTH: f64 = 0.02;
const MIB: f64 = 1024.0;

type Act = fn(&mut Scene) -> anyhow::Result<()>;

/// Name, beginning and end of each fault.
const FAULTS: [(&str, Act, Act); 10] = [
    ("kill -9 of the far agent", |scene| scene.far.kill(), |scene| scene.far.restart()),
    ("far agent started again at once", |scene| scene.far.again(), nothing),
    (
        "far agent back with too little memory",
        |scene| scene.far.again_with(Some("1MiB")),
        |scene| scene.far.again_with(None),
    ),
    ("SIGSTOP of the far agent", |scene| scene.far.signal("-STOP"), |s| s.far.signal("-CONT")),
    ("SIGSTOP of the middle", |scene| scene.middle.signal("-STOP"), |s| s.middle.signal("-CONT")),
    ("SIGSTOP of the edge", |scene| scene.edge.signal("-STOP"), |s| s.edge.signal("-CONT")),
    ("link stalled", |scene| scene.link.order("cut"), |scene| scene.link.order("resume")),
    ("link slow", |scene| scene.link.rate(SLOW), |scene| scene.link.rate(FAST)),
    ("connections reset", |scene| scene.link.order("reset"), nothing),
    ("connections reset at both ends of a stall", stall_and_reset, |scene| {
        scene.link.order("reset")?;
        scene.link.order("resume")
    }),
];

fn nothing(_: &mut Scene) -> anyhow::Result<()> {
    Ok(())
}

fn stall_and_reset(scene: &mut Scene) -> anyhow::Result<()> {
    scene.link.order("cut")?;
    scene.link.order("reset")
}

pub(crate) fn run() -> anyhow::Result<Verdict> {
    if !std::path::Path::new("/proc/self/fd").exists() {
        println!("(no /proc here, which tells what processes hold: skipped)");
        return Ok(Verdict::Skipped);
    }
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}=`{text}` is not a number")),
        Err(_) => Ok(default),
    };
    let length = Duration::from_secs(number("CUTLINE_BENCH_SECONDS", 1800)?);
    let seed = number("CUTLINE_BENCH_SEED", 1)?;
    let mut scene = Scene::start()?;
    let mut show = scene.show()?;
    println!(
        "{NETWORK}, {}, on three agents: {}; {} frames under way; {FAST} and 1 ms in front of the second; {} s of faults, seed {seed}.\n",
        scene.engine,
        scene.describe(),
        scene.in_flight(),
        length.as_secs()
    );
    show.until_planned(WARM, Instant::now())?;
    let processes = scene.processes()?;
    let before = quiet(&mut show, &processes, None)?;
    let watch = Watch::start(processes.clone());
    let faults = suffer(&mut scene, &mut show, length, seed)?;
    let growths = watch.end();
    let after = quiet(&mut show, &processes, Some(&before))?;
    let answered = show.answered();
    let (routing, tally) = show.end(&scene.runtime)?;
    let stages = scene.stages_left()?;

    println!("| fault | times |\n|---|---|");
    for ((name, ..), times) in FAULTS.iter().zip(faults) {
        println!("| {name} | {times} |");
    }
    println!(
        "\n{answered} frames: {} wrong, {} doubled, {} lost; {} by the fallback, {} sent more than once, {} changes of the route. Stages left on the agents: {stages}.\n",
        tally.wrong,
        tally.doubled,
        tally.lost,
        routing.by_fallback,
        routing.retried,
        routing.changes
    );
    println!(
        "| process | resident, MB: second quarter | last quarter | growth | slope, kB/min | descriptors before | after | threads before | after |\n|---|---|---|---|---|---|---|---|---|"
    );
    let mut verdicts = vec![Verdict::of(tally.all() == 0 && stages == 0)];
    let looks = before.iter().zip(&after);
    for ((process, growth), (before, after)) in processes.iter().zip(&growths).zip(looks) {
        let Growth { second, last, slope } = *growth;
        println!(
            "| {} | {:.1} | {:.1} | {:+.1} % | {slope:+.1} | {} | {} | {} | {} |",
            process.name,
            second / 1e3,
            last / 1e3,
            (last - second) * 100.0 / second,
            before.count(),
            after.count(),
            before.threads,
            after.threads
        );
        if after.count() > before.count() {
            println!("\n{}: {:?} became {:?}", process.name, before.descriptors, after.descriptors);
        }
        let flat = last - second <= MIB.max(GROWTH * second) || length < JUDGED;
        verdicts.push(Verdict::of(flat && after.count() <= before.count()));
    }
    Ok(Verdict::all(verdicts))
}

/// Faults until the time is over, and each at least once; how often each was.
fn suffer(
    scene: &mut Scene,
    show: &mut Show,
    length: Duration,
    seed: u64,
) -> anyhow::Result<[u64; FAULTS.len()]> {
    let (began, mut chance, mut times) = (Instant::now(), Chance(seed), [0; FAULTS.len()]);
    loop {
        let mut deck: Vec<usize> = (0..FAULTS.len()).collect();
        while !deck.is_empty() {
            let over = began.elapsed() >= length;
            if over && times.iter().all(|&times| times > 0) {
                return Ok(times);
            }
            let fault = deck.swap_remove(chance.below(deck.len() as u64) as usize);
            let (name, begin, end) = FAULTS[fault];
            let (lasts, calm) = (chance.within(LASTS), chance.within(CALM));
            once(scene, show, (begin, end), lasts, calm)
                .with_context(|| format!("`{name}` after {} s", began.elapsed().as_secs()))?;
            times[fault] += 1;
        }
    }
}

fn once(
    scene: &mut Scene,
    show: &mut Show,
    (begin, end): (Act, Act),
    lasts: Duration,
    calm: Duration,
) -> anyhow::Result<()> {
    let at = Instant::now();
    begin(scene)?;
    while at.elapsed() < lasts {
        show.next(at)?;
    }
    end(scene)?;
    let over = Instant::now();
    // Not one that was sent before the end: it may be the last of before the fault.
    show.until_planned(2, over)?;
    let well = Instant::now();
    while well.elapsed() < calm {
        show.next(well)?;
    }
    Ok(())
}

/// What processes hold while no frame is under way. Connections that were given up end some time
/// later: where it is known what is to be, that is waited for.
fn quiet(
    show: &mut Show,
    processes: &[Watched],
    wanted: Option<&[watch::Held]>,
) -> anyhow::Result<Vec<watch::Held>> {
    show.pause()?;
    let since = Instant::now();
    loop {
        thread::sleep(Duration::from_secs(1));
        let held: Vec<_> = processes.iter().map(Watched::holds).collect::<anyhow::Result<_>>()?;
        let as_before = wanted.is_none_or(|wanted| {
            wanted.iter().zip(&held).all(|(before, now)| now.count() <= before.count())
        });
        if as_before || since.elapsed() > PATIENCE {
            show.resume();
            return Ok(held);
        }
    }
}

/// Agents, a link, and a plan over all of them.
struct Scene {
    edge: Agent,
    middle: Agent,
    far: Agent,
    link: LinkProcess,
    engine: &'static str,
    platform: Platform,
    model: Model,
    plan: Plan,
    choice: PlannedChoice,
    crossing: Vec<Bytes>,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let engine = ENGINES.into_iter().find(|name| engine::open(name).is_ok());
        let engine = engine.context("no engine")?;
        let start = |name: &str| Agent::start(folder.path().join(name), engine, None);
        let (edge, middle, far) = (start("edge")?, start("middle")?, start("far")?);
        let link = LinkProcess::start(&middle.process()?.address.to_string())?;
        let mut text = "version = 1\n".to_owned();
        for (name, agent) in [("edge", &edge), ("middle", &middle), ("far", &far)] {
            let address = agent.process()?.address;
            text += &format!("[[device]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
        text += &format!(
            "[[link]]\nbetween = [\"edge\", \"middle\"]\nup = \"{FAST}\"\ndelay = \"1ms\"\nvia = \"{}\"\n[[link]]\nbetween = [\"middle\", \"far\"]\nup = \"10gbit\"\n",
            link.address
        );
        let platform: Platform = toml::from_str(&text)?;
        let model = Model::open(&zoo(folder.path(), NETWORK)?, &ImportOptions::default())?;
        let (mapping, crossing) = thirds(&model, &platform)?;
        let (plan, choice) = by_hand(&model, &platform, &mapping)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self {
            edge,
            middle,
            far,
            link,
            engine,
            platform,
            model,
            plan,
            choice,
            crossing,
            runtime,
            _folder: folder,
        })
    }

    fn show(&self) -> anyhow::Result<Show> {
        let (model, plan) = (&self.model, &self.plan);
        let subject = Subject { model, plan, in_flight: self.in_flight(), unknown: DEADLINE };
        let staged = staging::stage(model, plan, &self.choice)?;
        let prepared = subject.routes_of(&self.choice, &staged, &self.runtime)?;
        let held = Held::start(&self.runtime, staged, prepared, settings(self.in_flight()))?;
        let whole = Mapping::uniform(&model.grouping.dag, DeviceId::SOURCE);
        let whole = stage(model, &self.platform, &whole)?;
        let reel = Reel::of(model, &whole.deployment, self.engine)?;
        Show::start(&self.runtime, held, reel, self.in_flight(), None)
    }

    fn in_flight(&self) -> usize {
        self.choice.frames_in_flight().get() as usize
    }

    fn describe(&self) -> String {
        let sizes: Vec<String> = self.crossing.iter().map(ToString::to_string).collect();
        format!("{} cross", sizes.join(" and "))
    }

    /// The processes that live all along.
    fn processes(&self) -> anyhow::Result<Vec<Watched>> {
        Ok(vec![
            Watched { name: "holder", process: std::process::id() },
            Watched { name: "edge", process: self.edge.process()?.id() },
            Watched { name: "link", process: self.link.process.id() },
            Watched { name: "middle", process: self.middle.process()?.id() },
        ])
    }

    /// Stages that the agents still serve, by their own count.
    fn stages_left(&self) -> anyhow::Result<u64> {
        let agents = [&self.edge, &self.middle, &self.far];
        agents.into_iter().map(|agent| stages_of(agent.process()?.address)).sum()
    }
}

fn stages_of(agent: SocketAddr) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(agent)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let count = text.lines().find_map(|line| line.strip_prefix("cutline_stages "));
    let count = count.with_context(|| format!("the agent does not count its stages:\n{text}"))?;
    Ok(count.trim().parse()?)
}

/// A third of the work for each device, cut where little crosses; and how much does.
fn thirds(model: &Model, platform: &Platform) -> anyhow::Result<(Mapping, Vec<Bytes>)> {
    let dag = &model.grouping.dag;
    let all: u64 = dag.groups().iter().map(|group| group.macs.0).sum();
    let mut so_far = 0;
    let mut cuts = Vec::new();
    for (at, group) in dag.groups().iter().enumerate() {
        so_far += group.macs.0;
        let before = (0..dag.groups().len()).map(|index| index <= at).collect();
        if let Some(bytes) = Cut::after(dag, before).bytes {
            cuts.push((at, so_far * 100 / all.max(1), bytes));
        }
    }
    let least = |[from, to]: [u64; 2]| {
        let within = cuts.iter().filter(|(_, share, _)| (from..=to).contains(share));
        within.min_by_key(|(.., bytes)| *bytes).copied().context("no cut in the middle")
    };
    let [first, second] = [least(CUTS[0])?, least(CUTS[1])?];
    let devices: Vec<DeviceId> = platform.device_ids().collect();
    let stage = |at: usize| usize::from(at > first.0) + usize::from(at > second.0);
    let mapping = (0..dag.groups().len()).map(|at| devices[stage(at)]).collect();
    Ok((Mapping(mapping), vec![first.2, second.2]))
}

/// `cutline link` as a process, with its control port.
struct LinkProcess {
    process: Child,
    address: SocketAddr,
    control: SocketAddr,
}

impl LinkProcess {
    fn start(to: &str) -> anyhow::Result<Self> {
        let mut process = Command::new(BINARY)
            .args(["link", "--json", "--quiet", "--listen", "127.0.0.1:0", "--to", to])
            .args(["--control", "127.0.0.1:0", "--up", FAST, "--delay", "1ms"])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start `cutline link`")?;
        let stdout = process.stdout.take().context("the link has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).context("the link did not start")?;
        let address = |key: &str| -> anyhow::Result<SocketAddr> {
            Ok(said[key].as_str().context("the link says where it listens")?.parse()?)
        };
        Ok(Self { process, address: address("listening")?, control: address("control")? })
    }

    fn order(&self, command: &str) -> anyhow::Result<()> {
        let mut control = TcpStream::connect(self.control)?;
        writeln!(control, "{command}")?;
        let mut answer = String::new();
        BufReader::new(control).read_line(&mut answer)?;
        ensure!(!answer.contains("error"), "{answer}");
        Ok(())
    }

    fn rate(&self, rate: &str) -> anyhow::Result<()> {
        self.order(&format!("set up={rate} down={rate}"))
    }
}

impl Drop for LinkProcess {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The splitmix64 generator (Steele, Lea & Flood 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }

    fn within(&mut self, [from, to]: [u64; 2]) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}
