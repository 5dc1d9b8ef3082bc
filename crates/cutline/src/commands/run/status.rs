//! How a run goes while it goes on: one line that changes on a terminal, or a line now and then.

use std::{future, time::Duration};

use cutline_core::units::Nanos;
use cutline_runtime::runner::{Routing, Summary};
use indicatif::ProgressBar;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::hold;
use crate::output::Output;

/// Time between two changes of the line on a terminal.
const LIVE: Duration = Duration::from_millis(500);

/// Where the words go, and when the next are due.
pub(super) struct Status {
    live: ProgressBar,
    every: Option<Duration>,
    due: Option<Interval>,
    /// Answers at the last telling, and when that was.
    before: (u64, Nanos),
    as_lines: bool,
}

impl Status {
    /// A line so often, or the one on the terminal, if there is a terminal.
    pub(super) fn new(every: Option<Nanos>, output: &Output) -> Self {
        let live = output.live();
        let on_terminal = (!live.is_hidden()).then_some(LIVE);
        Self {
            every: every.map(|time| Duration::from_nanos(time.0)).or(on_terminal),
            due: None,
            before: (0, Nanos(0)),
            as_lines: every.is_some(),
            live,
        }
    }

    /// Ends when something is to be told; never, where nothing is.
    pub(super) async fn due(&mut self) {
        let Some(every) = self.every else { return future::pending().await };
        let due = self.due.get_or_insert_with(|| {
            let mut due = interval(every);
            due.set_missed_tick_behavior(MissedTickBehavior::Skip);
            due.reset();
            due
        });
        due.tick().await;
    }

    /// Tells it.
    pub(super) fn tell(&mut self, summary: &Summary, routing: Option<&Routing>, output: &Output) {
        let (answered, time) = self.before;
        let seconds = summary.time_ns.0.saturating_sub(time.0) as f64 / 1e9;
        let now = (summary.answered - answered) as f64 / seconds.max(1e-9);
        self.before = (summary.answered, summary.time_ns);
        let text = text(summary, now, routing);
        match self.as_lines {
            true => output.note(text),
            false => self.live.set_message(text),
        }
    }

    /// Does something that prints, without the line in its way.
    pub(super) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.live.suspend(print)
    }

    /// Nothing more is to be told.
    pub(super) fn end(&self) {
        self.live.finish_and_clear();
    }
}

/// `1203 frames, 24.8/s; p50 80 ms, p90 95 ms, p99 120 ms; 0-pi 96 %, pi to cloud 41 %; route ...`
fn text(summary: &Summary, now: f64, routing: Option<&Routing>) -> String {
    let mut text = format!("{} frames, {now:.1}/s", summary.answered);
    for (count, what) in [(summary.dropped, "dropped"), (summary.failed, "failed")] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    if let Some(latency) = &summary.latency {
        let (p50, p90, p99) = (latency.p50_ns, latency.p90_ns, latency.p99_ns);
        text.push_str(&format!("; p50 {p50}, p90 {p90}, p99 {p99}"));
    }
    let parts = summary.stages.iter().chain(&summary.hops);
    let busy: Vec<String> =
        parts.map(|part| format!("{} {:.0} %", part.name, part.busy * 100.0)).collect();
    if !busy.is_empty() {
        text.push_str(&format!("; {}", busy.join(", ")));
    }
    if let Some(change) = routing.and_then(|routing| routing.last_change.as_ref()) {
        text.push_str(&format!("; {}", hold::words(change)));
    }
    text
}

#[cfg(test)]
mod tests {
    use cutline_runtime::runner::{Busy, Latency};

    use super::*;

    #[test]
    fn a_line_has_rates_latencies_and_who_is_busy() {
        let busy = |name: &str, busy| Busy { name: name.to_owned(), busy };
        let latency = Latency {
            p50_ns: Nanos(80_000_000),
            p90_ns: Nanos(95_000_000),
            p99_ns: Nanos(120_000_000),
            max_ns: Nanos(130_000_000),
        };
        let summary = Summary {
            answered: 1203,
            dropped: 2,
            failed: 0,
            time_ns: Nanos(50_000_000_000),
            frames_per_second: 24.06,
            latency: Some(latency),
            stages: vec![busy("0-pi", 0.96), busy("1-cloud", 0.3)],
            hops: vec![busy("pi to cloud", 0.412)],
        };
        assert_eq!(
            text(&summary, 24.8, None),
            "1203 frames, 24.8/s, 2 dropped; p50 80.00 ms, p90 95.00 ms, p99 120.00 ms; \
             0-pi 96 %, 1-cloud 30 %, pi to cloud 41 %"
        );
    }
}
