//! What a stage did since it was loaded, counted without a lock on the frame's path.
//!
//! The same numbers answer Triton's statistics and a scrape by Prometheus.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::batching::MOST_AT_ONCE;
use crate::{
    client::clock::unix_nanos,
    stage::{Executed, Ran},
};

/// Upper ends of the classes that requests are counted in by their time, in microseconds: 1, 2, 5
/// and so on. What takes longer than the last is counted in a class of its own.
pub(super) const CLASSES: [u64; 14] = [
    1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000, 20_000_000,
];

/// A number of events and the time that they took together.
#[derive(Debug, Default)]
pub(super) struct Span {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Span {
    fn add(&self, took: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// What they took together, in nanoseconds.
    pub(super) fn nanos(&self) -> u64 {
        self.nanos.load(Relaxed)
    }
}

/// What was done for so many frames together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Making their input tensors.
    pub(super) prepare: Span,
    /// The engine's calls.
    pub(super) compute: Span,
}

/// By number of frames, from one.
#[derive(Debug)]
struct Together([Batch; MOST_AT_ONCE]);

impl Default for Together {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Batch::default()))
    }
}

/// The counters of one stage.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Requests that were answered, from their whole arrival, later stages included.
    pub(super) answered: Span,
    /// Requests that were not.
    pub(super) failed: Span,
    /// Waiting for the device.
    pub(super) queue: Span,
    /// Making the input tensor of a picture.
    pub(super) prepare: Span,
    /// The engine's calls, as requests see them: of frames that are computed together each waits for
    /// all.
    pub(super) compute: Span,
    /// Waiting for the stages behind this one.
    pub(super) downstream: Span,
    /// Tensor bytes that came in.
    pub(super) bytes_in: AtomicU64,
    /// Tensor bytes that were answered.
    pub(super) bytes_out: AtomicU64,
    together: Together,
    last_unix_ns: AtomicU64,
    classes: [AtomicU64; CLASSES.len() + 1],
}

impl Meter {
    /// The stage itself is done with a frame.
    pub(super) fn computed(&self, queued: Duration, done: &Executed, bytes_in: u64) {
        self.queue.add(queued);
        self.prepare.add(done.prepare);
        self.compute.add(done.compute);
        self.bytes_in.fetch_add(bytes_in, Relaxed);
        self.last_unix_ns.store(unix_nanos(), Relaxed);
    }

    /// The device was busy with frames of the stage.
    pub(super) fn ran(&self, ran: &Ran) {
        let of_size = ran.frames.checked_sub(1).and_then(|at| self.together.0.get(at));
        if let Some(batch) = of_size {
            batch.prepare.add(ran.prepare);
            batch.compute.add(ran.compute);
        }
    }

    /// What was done for how many frames together, for every number of which there was something.
    pub(super) fn batches(&self) -> impl Iterator<Item = (usize, &Batch)> {
        let numbered = self.together.0.iter().enumerate().map(|(at, batch)| (at + 1, batch));
        numbered.filter(|(_, batch)| batch.compute.count() > 0)
    }

    /// How often the engine was called.
    pub(super) fn executions(&self) -> u64 {
        self.batches().map(|(_, batch)| batch.compute.count()).sum()
    }

    /// How long the device computed, in nanoseconds.
    pub(super) fn busy_nanos(&self) -> u64 {
        self.batches().map(|(_, batch)| batch.compute.nanos()).sum()
    }

    /// The stages behind it are.
    pub(super) fn came_back(&self, took: Duration) {
        self.downstream.add(took);
    }

    /// A request ends with an answer of so many bytes, or with none.
    pub(super) fn ended(&self, took: Duration, bytes_out: Option<u64>) {
        let Some(bytes) = bytes_out else { return self.failed.add(took) };
        self.answered.add(took);
        self.bytes_out.fetch_add(bytes, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = CLASSES.partition_point(|&end| end < micros);
        self.classes[class].fetch_add(1, Relaxed);
    }

    /// When the stage last computed, in milliseconds since 1970; 0 if never.
    pub(super) fn last_unix_ms(&self) -> u64 {
        self.last_unix_ns.load(Relaxed) / 1_000_000
    }

    /// Answered requests by class of time: the upper end in seconds, and how many lie in it alone.
    pub(super) fn classes(&self) -> Vec<(f64, u64)> {
        let ends = CLASSES.iter().map(|&micros| micros as f64 / 1e6).chain([f64::INFINITY]);
        ends.zip(&self.classes).map(|(end, count)| (end, count.load(Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_together_is_counted_once() {
        let (meter, ms) = (Meter::default(), Duration::from_millis);
        for (frames, compute) in [(1, 10), (4, 25), (4, 26), (MOST_AT_ONCE + 1, 99), (0, 99)] {
            meter.ran(&Ran { frames, prepare: ms(1), compute: ms(compute) });
        }
        let counts: Vec<_> = meter.batches().map(|(n, batch)| (n, batch.compute.count())).collect();
        assert_eq!(counts, [(1, 1), (4, 2)]);
        assert_eq!((meter.executions(), meter.busy_nanos()), (3, 61_000_000));
    }

    #[test]
    fn every_answer_lies_in_one_class_whose_end_it_does_not_exceed() {
        let meter = Meter::default();
        let times = [0, 999, 1_000, 1_001, 2_000, 20_000_000, 20_000_001, u64::MAX / 1_000];
        for micros in times {
            meter.ended(Duration::from_micros(micros), Some(8));
        }
        meter.ended(Duration::from_millis(1), None);
        let classes = meter.classes();
        let count = |end: f64| classes.iter().find(|class| class.0 == end).map(|class| class.1);
        assert_eq!([count(0.001), count(0.002), count(0.005)], [Some(3), Some(2), Some(0)]);
        assert_eq!([count(20.0), count(f64::INFINITY)], [Some(1), Some(2)]);
        assert_eq!((meter.answered.count(), meter.failed.count()), (8, 1));
        assert_eq!(meter.bytes_out.load(Relaxed), 64);
    }
}
