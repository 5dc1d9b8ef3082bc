//! How far a measurement is, and about how long it still takes.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::{characterize::rounded, output::Output};

/// Runs of a network, done and to be done, weighted by the network's multiply-accumulates.
pub(super) struct Progress {
    bar: ProgressBar,
    what: String,
    /// Of a run of what is being measured.
    weight: u128,
    done: u128,
    /// Until where what is being measured goes.
    goal: u128,
    total: u128,
    began: Instant,
}

impl Progress {
    pub(super) fn new(total: u128, output: &Output) -> Self {
        let (what, began) = (String::new(), Instant::now());
        Self { bar: output.live(), what, weight: 1, done: 0, goal: 0, total, began }
    }

    /// Begins something of so many runs of this weight each.
    pub(super) fn begin(&mut self, what: String, runs: u128, weight: u128) {
        self.done = self.goal;
        self.goal += runs * weight;
        (self.what, self.weight) = (what, weight);
    }

    /// Says that runs are done.
    pub(super) fn step(&mut self, runs: u64) {
        // What is measured may take fewer runs than was thought, and must not take more.
        self.done = (self.done + u128::from(runs) * self.weight).min(self.goal);
        self.bar.set_message(format!("{}: {}", self.what, self.words()));
    }

    /// How far it is.
    pub(super) fn words(&self) -> String {
        let percent = self.done * 100 / self.total.max(1);
        match self.left() {
            Some(left) => format!("{percent} %, about {} left", rounded(left)),
            None => format!("{percent} %"),
        }
    }

    /// As long as so far for each unit of weight.
    fn left(&self) -> Option<Duration> {
        let left = self.total.saturating_sub(self.done) as f64 / self.done as f64;
        Duration::try_from_secs_f64(self.began.elapsed().as_secs_f64() * left).ok()
    }

    /// A line that stays, on stderr.
    pub(super) fn note(&self, line: &str, output: &Output) {
        self.bar.suspend(|| output.note(line));
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
