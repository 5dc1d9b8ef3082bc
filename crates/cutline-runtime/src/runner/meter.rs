//! What a run of many frames came to: frames per second, latencies, and who was busy how long.

use std::time::{Duration, Instant};

use cutline_core::units::Nanos;
use serde::{Deserialize, Serialize};

use super::Answer;
use crate::{
    stage::trace::{StageTrace, Trace},
    stats::{Histogram, nanos},
};

/// Takes notes of a run while it goes on, in bounded memory.
#[derive(Debug)]
pub struct Meter {
    began: Instant,
    answered: u64,
    failed: u64,
    latencies: Histogram,
    stages: Vec<(String, Nanos)>,
    hops: Vec<(String, Covered)>,
}

/// Time that is covered by spans which come roughly in order, overlaps counted once.
#[derive(Clone, Copy, Debug, Default)]
struct Covered {
    until: u64,
    total: u64,
}

/// A run in figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Frames that were answered.
    pub answered: u64,
    /// Frames that had to make room for newer ones.
    pub dropped: u64,
    /// Frames that were sent and not answered.
    pub failed: u64,
    /// From the start to the last answer.
    pub time_ns: Nanos,
    /// Answers in that time.
    pub frames_per_second: f64,
    /// From a frame's sending to its answer; absent where no frame was answered.
    pub latency: Option<Latency>,
    /// Stages in a frame's order: the share of the time in which they prepared and computed.
    pub stages: Vec<Busy>,
    /// Hops in a frame's order: the share of the time in which a message was on its way.
    pub hops: Vec<Busy>,
}

/// Percentiles of the latency, to within 0.8 %; the largest one exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the frames took at most this long.
    pub p50_ns: Nanos,
    /// Nine of ten.
    pub p90_ns: Nanos,
    /// Ninety-nine of a hundred.
    pub p99_ns: Nanos,
    /// All of them.
    pub max_ns: Nanos,
}

/// How busy a stage or a hop was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Busy {
    /// Name of the stage, or of the stages that a hop leads from and to.
    pub name: String,
    /// Share of the run's time, from 0 to 1.
    pub busy: f64,
}

impl Default for Meter {
    fn default() -> Self {
        Self::start()
    }
}

impl Meter {
    /// The run begins now.
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
            answered: 0,
            failed: 0,
            latencies: Histogram::default(),
            stages: Vec::new(),
            hops: Vec::new(),
        }
    }

    /// A frame was answered, so long after it was sent.
    pub fn answered(&mut self, answer: &Answer, took: Duration) {
        self.answered += 1;
        self.latencies.add(nanos(took));
        self.trace(&answer.trace);
    }

    /// A frame was sent and not answered.
    pub fn failed(&mut self) {
        self.failed += 1;
    }

    fn trace(&mut self, trace: &Trace) {
        for (at, stage) in trace.stages.iter().enumerate() {
            // Frames that were computed together kept the device busy once.
            let share = stage.compute_ns.0 / u64::from(stage.frames.max(1));
            let busy = stage.prepare_ns + Nanos(share);
            match self.stages.get_mut(at) {
                Some((_, total)) => *total += busy,
                None => self.stages.push((stage.name.clone(), busy)),
            }
        }
        let mut at = 0;
        for hop in &trace.hops {
            let Some((from, into)) = trace.ends(hop) else { continue };
            if from.device == into.device {
                continue;
            }
            self.message(at, [from, into], hop.began_unix_ns, hop.upload_ns);
            at += 1;
            if hop.branch {
                let back = hop.began_unix_ns + (hop.round_trip_ns - hop.download_ns).0;
                self.message(at, [into, from], back, hop.download_ns);
                at += 1;
            }
        }
    }

    /// The message of a frame that is the `at`-th of each.
    fn message(&mut self, at: usize, [from, to]: [&StageTrace; 2], began: u64, took: Nanos) {
        if at == self.hops.len() {
            let name = format!("{} to {}", from.device, to.device);
            self.hops.push((name, Covered::default()));
        }
        self.hops[at].1.add(began, took.0);
    }

    /// The run until now, of whose frames so many were dropped before they were sent.
    pub fn summary(&self, dropped: u64) -> Summary {
        self.over(self.began.elapsed(), dropped)
    }

    fn over(&self, time: Duration, dropped: u64) -> Summary {
        let time_ns = nanos(time);
        let share = |busy: u64| match time_ns.0 {
            0 => 0.0,
            time => (busy as f64 / time as f64).min(1.0),
        };
        let latency = |permille| self.latencies.percentile(permille);
        let stages = self.stages.iter();
        let hops = self.hops.iter();
        let hops = hops.map(|(name, hop)| Busy { name: name.clone(), busy: share(hop.total) });
        Summary {
            answered: self.answered,
            dropped,
            failed: self.failed,
            time_ns,
            frames_per_second: match time.as_secs_f64() {
                0.0 => 0.0,
                seconds => self.answered as f64 / seconds,
            },
            latency: latency(500).map(|p50_ns| Latency {
                p50_ns,
                p90_ns: latency(900).unwrap_or(p50_ns),
                p99_ns: latency(990).unwrap_or(p50_ns),
                max_ns: latency(1000).unwrap_or(p50_ns),
            }),
            stages: stages
                .map(|(name, busy)| Busy { name: name.clone(), busy: share(busy.0) })
                .collect(),
            hops: hops.collect(),
        }
    }
}

impl Covered {
    fn add(&mut self, start: u64, length: u64) {
        let end = start.saturating_add(length);
        self.total = self.total.saturating_add(end.saturating_sub(start.max(self.until)));
        self.until = self.until.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::trace::HopTrace;

    fn answer(began: u64, upload: u64, compute: u64) -> Answer {
        let stage = |name: &str, device: &str| StageTrace {
            name: name.to_owned(),
            device: device.to_owned(),
            prepare_ns: Nanos(1),
            compute_ns: Nanos(2 * compute),
            frames: 2,
            ..StageTrace::default()
        };
        let hop = HopTrace {
            into: 1,
            began_unix_ns: began,
            upload_ns: Nanos(upload),
            ..HopTrace::default()
        };
        let trace =
            Trace { stages: vec![stage("0-pi", "pi"), stage("1-hub", "hub")], hops: vec![hop] };
        Answer { outputs: Vec::new(), trace, measured: Default::default(), route: None }
    }

    #[test]
    fn a_summary_counts_frames_and_says_who_was_busy() {
        let mut meter = Meter::start();
        // Two messages on their way at the same time keep the hop busy once.
        for (began, upload, took) in [(100, 50, 10), (120, 60, 20), (500, 70, 30)] {
            meter.answered(&answer(began, upload, 99), Duration::from_nanos(took));
        }
        meter.failed();
        let summary = meter.over(Duration::from_nanos(600), 7);
        assert_eq!((summary.answered, summary.failed, summary.dropped), (3, 1, 7));
        assert_eq!(summary.frames_per_second, 3.0 / 600e-9);
        let latency = summary.latency.unwrap();
        assert_eq!((latency.p50_ns, latency.max_ns), (Nanos(20), Nanos(30)));
        let busy = |name: &str, busy| Busy { name: name.to_owned(), busy };
        assert_eq!(summary.stages, [busy("0-pi", 0.5), busy("1-hub", 0.5)]);
        assert_eq!(summary.hops, [busy("pi to hub", 150.0 / 600.0)]);
    }

    #[test]
    fn a_run_without_an_answer_has_no_latency() {
        let summary = Meter::start().over(Duration::ZERO, 0);
        assert_eq!((summary.latency, summary.frames_per_second), (None, 0.0));
    }
}
