//! Ten thousand results through a mosquitto that ends five times and comes back: is each delivered, and
//! is what comes twice known by its identifier?

use std::{path::Path, thread, time::Duration};

use super::Verdict;

#[path = "../../tests/mqtt/broker.rs"]
#[allow(dead_code)]
mod broker;
#[path = "../../tests/mqtt/scene.rs"]
#[allow(dead_code)]
mod scene;

use broker::{Listener, Mosquitto};
use scene::{Results, Said, Scene};

const FRAMES: u32 = 10_000;
const RESTARTS: u32 = 5;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    println!(
        "| broker ends by | results | acknowledged | delivered | in order | sent again | duplicates, by id |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    // SIGTERM: the broker writes down what it has. SIGKILL: what it acknowledged in its last moments
    // may be lost with it, which no client can know of.
    for (signal, strict) in [("TERM", true), ("KILL", false)] {
        verdicts.push(through(signal, strict)?);
    }
    Ok(Verdict::all(verdicts))
}

fn through(signal: &str, strict: bool) -> anyhow::Result<Verdict> {
    let Some(mut broker) = Mosquitto::open()? else { return Ok(Verdict::Skipped) };
    let binary = Path::new(env!("CARGO_BIN_EXE_cutline"));
    let listener = Listener::start(Listener::options(&broker, "reader"), "test/#")?;
    let scene = Scene::new(binary, FRAMES, None);
    let run = scene.run(binary, &broker.url(), &["--local", "--rate", "400", "--mqtt-wait", "60s"]);
    for restart in 1..=RESTARTS {
        let frame = FRAMES * restart / (RESTARTS + 1);
        // One that is lost with the broker is not waited for.
        let reached = |m: &broker::Message| m.json()["frame"].as_u64() >= Some(frame.into());
        listener.wait("a result", reached)?;
        broker.end(signal)?;
        thread::sleep(Duration::from_millis(500));
        broker.start()?;
    }
    let said = Said::of(run);
    listener.wait("the last result", |m| m.json()["frame"] == FRAMES - 1)?;
    // What the broker still has for the listener.
    thread::sleep(Duration::from_secs(2));
    let results = Results::of(&listener.heard());
    let (delivered, delivery) = (results.times.len(), said.delivery());
    let in_order = results.frames.is_sorted();
    println!(
        "| SIG{signal} | {} | {} | {delivered} | {in_order} | {} | {} |",
        delivery["results"],
        delivery["acknowledged"],
        delivery["repeated"],
        results.duplicates()
    );
    let acknowledged = said.fine && delivery["acknowledged"] == FRAMES;
    let whole = delivered == FRAMES as usize && in_order;
    Ok(Verdict::of(acknowledged && (whole || !strict)))
}
