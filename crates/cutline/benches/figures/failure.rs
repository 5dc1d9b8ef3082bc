//! What faults cost a run that holds its frames: nothing but time.
//!
//! A camera shows a frame at a time to the best split between a slow edge and a cloud. Each fault
//! happens ten times in the middle of it and ends after a while. The time without an answer counts
//! from the fault: frames were held and none was answered. It is at most the detection, which is two
//! heartbeats, and the latency of the whole network at the edge.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{
    Verdict,
    camera::{PATIENCE, Seen, Show},
    held::{HEARTBEAT, Rig, What, middle_and_most},
    measure::{BINARY, millis},
};

/// How long a fault lasts.
const LASTS: Duration = Duration::from_millis(1500);

/// How much more than this machine's own measure of the edge a latency may be that is part of a
/// promise: what else the machine does.
const SLACK: f64 = 1.05;

/// The fault that needs a mount namespace.
const FULL_DISK: &str = "full disk";

type Act = fn(&mut Rig) -> anyhow::Result<()>;

/// Name, beginning and end of each fault.
const FAULTS: [(&str, Act, Act); 10] = [
    ("kill -9 of the cloud's agent", |rig| rig.cloud.kill(), |rig| rig.cloud.restart()),
    ("kill -9 of the edge's agent", |rig| rig.edge.kill(), |rig| rig.edge.restart()),
    (
        "SIGSTOP of the cloud's agent",
        |rig| rig.cloud.signal("-STOP"),
        |rig| rig.cloud.signal("-CONT"),
    ),
    ("SIGSTOP of the edge's agent", |rig| rig.edge.signal("-STOP"), |rig| rig.edge.signal("-CONT")),
    ("link gone, connections refused", take_link, |rig| rig.give_link()),
    ("link stalled", |rig| stall(rig, true), |rig| stall(rig, false)),
    ("reset in the middle of a message", reset, |_| Ok(())),
    ("cloud's agent started again at once", |rig| rig.cloud.again(), |_| Ok(())),
    (
        "cloud's agent back with too little memory",
        |rig| rig.cloud.again_with(Some("1MiB")),
        |rig| rig.cloud.again_with(None),
    ),
    ("cloud's agent back with a full disk", full, roomy),
];

fn take_link(rig: &mut Rig) -> anyhow::Result<()> {
    rig.take_link();
    Ok(())
}

fn stall(rig: &mut Rig, begins: bool) -> anyhow::Result<()> {
    let link = rig.link()?;
    if begins {
        link.cut()
    } else {
        link.resume()
    }
    Ok(())
}

fn reset(rig: &mut Rig) -> anyhow::Result<()> {
    rig.link()?.reset();
    Ok(())
}

/// The agent's folder is a file system of its own, empty and too small for a stage; in a mount
/// namespace, which needs no root.
fn full(rig: &mut Rig) -> anyhow::Result<()> {
    let store = rig.cloud.options.store.clone();
    let script = store.with_extension("sh");
    let lines = format!(
        "#!/bin/sh\nexec unshare -rm sh -c 'mount -t tmpfs -o size=64k none {} && exec {BINARY} \"$@\"' agent \"$@\"\n",
        store.display()
    );
    fs::write(&script, lines)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    rig.cloud.kill()?;
    rig.cloud.binary = script;
    rig.cloud.restart()
}

fn roomy(rig: &mut Rig) -> anyhow::Result<()> {
    rig.cloud.kill()?;
    rig.cloud.binary = BINARY.into();
    rig.cloud.restart()
}

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let repeats = std::env::var("CUTLINE_BENCH_REPEATS").ok().and_then(|text| text.parse().ok());
    let repeats: usize = repeats.unwrap_or(10);
    let mut rig = Rig::start()?;
    let (usual, alone) = middle_and_most(&rig.alone()?);
    let detection = HEARTBEAT.0 as f64 * 2e-6;
    let promised = detection + alone * SLACK;
    println!(
        "MobileNetV2, {}, edge {} times slower; the best split over 50 Mbit/s and 5 ms, the whole network at the edge in {usual:.0} ms ({alone:.0} ms at most).\nA fault lasts {} s; detection {detection:.0} ms, so that at most {promised:.0} ms pass without an answer; {repeats} times each.\n",
        rig.engine,
        rig.slowdown,
        LASTS.as_secs_f64()
    );
    println!(
        "| fault | frames | wrong, doubled or lost | by the fallback | time without an answer, ms: median | most | promised | the plan again after, ms: median | most |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    // A camera that the edge can follow by itself.
    let interval = Duration::from_secs_f64(alone * 1.3e-3);
    let mut verdicts = Vec::new();
    let namespaces = Command::new("unshare").args(["-rm", "true"]).status();
    let namespaces = namespaces.is_ok_and(|status| status.success());
    for (name, begin, end) in FAULTS {
        if name.ends_with(FULL_DISK) && !namespaces {
            println!("| {name} | (no mount namespaces here: skipped) |");
            continue;
        }
        let mut show = rig.show(What::Split, interval)?;
        let (mut quiets, mut backs) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            wait_for_plan(&mut show)?;
            let one = once(&mut rig, &mut show, begin, end)?;
            quiets.push(millis(one.quiet));
            backs.push(millis(one.back));
        }
        let answered = show.answered();
        let (routing, tally) = show.end(&rig.runtime)?;
        let (middle, most) = middle_and_most(&quiets);
        let (back, slowest) = middle_and_most(&backs);
        println!(
            "| {name} | {answered} | {} | {} | {middle:.0} | {most:.0} | {promised:.0} | {back:.0} | {slowest:.0} |",
            tally.all(),
            routing.by_fallback
        );
        verdicts.push(Verdict::of(tally.all() == 0 && most <= promised));
    }
    Ok(Verdict::all(verdicts))
}

struct Once {
    /// Longest time without an answer from the fault on.
    quiet: Duration,
    /// From the fault's end until the plan answered again.
    back: Duration,
}

fn once(rig: &mut Rig, show: &mut Show, begin: Act, end: Act) -> anyhow::Result<Once> {
    // In the middle of a frame: one that is shown next is some milliseconds on its way.
    let at = Instant::now();
    begin(rig)?;
    let mut quiet = Duration::ZERO;
    while at.elapsed() < LASTS {
        quiet = quiet.max(show.next(at)?.1);
    }
    end(rig)?;
    let over = Instant::now();
    let mut planned = 0;
    // Not one that was sent before the end: it may be the last of before the fault.
    while planned < 2 {
        let (Seen { sent, route, .. }, waited) = show.next(at)?;
        quiet = quiet.max(waited);
        planned += usize::from(sent > over && route != "here");
        anyhow::ensure!(over.elapsed() < PATIENCE, "{:?}", show.routed.routing());
    }
    Ok(Once { quiet, back: over.elapsed() })
}

fn wait_for_plan(show: &mut Show) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut planned = 0;
    while planned < 3 {
        planned += usize::from(show.next(began)?.0.route != "here");
        anyhow::ensure!(began.elapsed() < PATIENCE, "{:?}", show.routed.routing());
    }
    // At no fixed place of a frame's way.
    thread::sleep(Duration::from_millis(u64::from(began.elapsed().subsec_nanos() % 100)));
    Ok(())
}
