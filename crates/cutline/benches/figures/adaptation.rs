//! A link that becomes slow and fast again, ten times, under a run that follows it.

use std::time::{Duration, Instant};

use cutline_core::units::BytesPerSec;
use cutline_runtime::link::Change;

use super::{
    Verdict,
    camera::Show,
    held::{FAST, HEARTBEAT, Rig, What, middle_and_most},
    measure::{median, millis},
};

/// The link in bad times.
const SLOW: BytesPerSec = BytesPerSec(2 * 125_000);

/// How long it stays as it is.
const LASTS: Duration = Duration::from_secs(7);

const TURNS: usize = 10;

/// See `failure`.
const SLACK: f64 = 1.05;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let rig = Rig::start()?;
    let (usual, alone) = middle_and_most(&rig.alone()?);
    let detection = HEARTBEAT.0 as f64 * 2e-6;
    let promised = detection + alone * SLACK;
    println!(
        "MobileNetV2, {}, edge {} times slower, the whole network there in {usual:.0} ms ({alone:.0} ms at most).",
        rig.engine, rig.slowdown
    );
    println!("Plans by the speed of the link:\n");
    rig.describe().iter().for_each(|line| println!("* {line}"));
    println!(
        "\nThe link drops from 50 to 2 Mbit/s and comes back after {} s, {TURNS} times.\n",
        LASTS.as_secs()
    );
    let mut show = rig.show(What::EverySpeed, Duration::from_secs_f64(alone * 1.3e-3))?;
    let mut route = settle(&mut show)?;
    let mut turns = [Turn::default(), Turn::default()];
    for _ in 0..TURNS {
        for (rate, turn) in [SLOW, FAST].into_iter().zip(&mut turns) {
            let rate = Some(Some(rate));
            rig.link()?.set(Change { up: rate, down: rate, ..Change::default() });
            turn.watch(&mut show, &mut route)?;
        }
    }
    let answered = show.answered();
    let (routing, tally) = show.end(&rig.runtime)?;
    println!(
        "| the link becomes | time without an answer, ms: median | most | promised | route changed after, ms: median | most | changes in all | longest frame after, ms: median | frames then, ms: median |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (name, turn) in ["slow", "fast again"].iter().zip(&turns) {
        let (quiet, most) = middle_and_most(&turn.quiet);
        let (change, last) = middle_and_most(&turn.changed);
        println!(
            "| {name} | {quiet:.0} | {most:.0} | {promised:.0} | {change:.0} | {last:.0} | {} | {:.0} | {:.0} |",
            turn.changes,
            median(&turn.longest),
            median(&turn.usual),
        );
    }
    println!(
        "\n{answered} frames, {} wrong, doubled or lost, {} at the edge alone, {} sent more than once; {} changes of the route; the last: {}",
        tally.all(),
        routing.by_fallback,
        routing.retried,
        routing.changes,
        routing.last_change.map_or_else(String::new, |change| change.why)
    );
    let most = turns.iter().flat_map(|turn| &turn.quiet).copied().fold(0.0, f64::max);
    Ok(Verdict::of(tally.all() == 0 && most <= promised))
}

/// What happened after each change in one direction.
#[derive(Default)]
struct Turn {
    /// Longest time without an answer.
    quiet: Vec<f64>,
    /// Until the first frame that took another route.
    changed: Vec<f64>,
    /// The frame that took longest.
    longest: Vec<f64>,
    /// Frames at the end.
    usual: Vec<f64>,
    changes: u64,
}

impl Turn {
    /// Watches frames after a change; `route` is the one of the last frame before, and afterwards.
    fn watch(&mut self, show: &mut Show, route: &mut String) -> anyhow::Result<()> {
        let at = Instant::now();
        let before = show.routed.routing().changes;
        let (mut quiet, mut longest) = (Duration::ZERO, Duration::ZERO);
        let (mut changed, mut last, mut latest) = (None, Vec::new(), route.clone());
        while at.elapsed() < LASTS {
            let (seen, waited) = show.next(at)?;
            quiet = quiet.max(waited);
            let took = seen.answered - seen.sent;
            longest = longest.max(took);
            if at.elapsed() > LASTS / 2 {
                last.push(millis(took));
            }
            if seen.route != *route && changed.is_none() {
                changed = Some(at.elapsed());
            }
            latest = seen.route;
        }
        *route = latest;
        self.quiet.push(millis(quiet));
        self.changed.extend(changed.map(millis));
        self.longest.push(millis(longest));
        self.usual.push(median(&last));
        self.changes += show.routed.routing().changes - before;
        Ok(())
    }
}

/// The link is measured, and frames take the route of its speed.
fn settle(show: &mut Show) -> anyhow::Result<String> {
    let began = Instant::now();
    let mut route = String::new();
    while began.elapsed() < LASTS {
        route = show.next(began)?.0.route;
    }
    Ok(route)
}
