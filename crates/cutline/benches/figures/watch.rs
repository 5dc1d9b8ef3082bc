//! What processes hold over a long time: resident memory, open descriptors, threads, as the kernel
//! counts them under `/proc`.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;

use super::measure::median;

/// Time between two looks at the memory.
const EVERY: Duration = Duration::from_secs(1);

/// A process that is watched.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// What it is.
    pub(crate) name: &'static str,
    /// Its number.
    pub(crate) process: u32,
}

/// What a process holds at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Open descriptors by kind: sockets, files, ...
    pub(crate) descriptors: BTreeMap<String, usize>,
    /// Threads.
    pub(crate) threads: usize,
}

/// Looks at the memory of processes until it is ended.
pub(crate) struct Watch {
    end: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    thread: JoinHandle<()>,
}

/// Resident memory of each process at one time.
#[derive(Clone, Debug)]
struct Sample {
    minutes: f64,
    kilobytes: Vec<f64>,
}

/// How the memory of one process went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    /// Median of the second quarter, in kB.
    pub(crate) second: f64,
    /// Median of the last quarter, in kB.
    pub(crate) last: f64,
    /// Slope from the second quarter's beginning on, by Theil and Sen: the median of the slopes
    /// between all pairs of moments, in kB per minute.
    pub(crate) slope: f64,
}

impl Watched {
    /// What it holds now.
    pub(crate) fn holds(&self) -> anyhow::Result<Held> {
        let folder = format!("/proc/{}", self.process);
        let gone = || format!("`{}` is not running", self.name);
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir(format!("{folder}/fd")).with_context(gone)?.flatten() {
            // One that was closed meanwhile, as that of this very listing, is none.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            let kind = match target.split_once(':') {
                Some((kind, _)) => kind.to_owned(),
                None if target.starts_with("/proc/") => continue,
                None => "file".to_owned(),
            };
            *descriptors.entry(kind).or_default() += 1;
        }
        let threads = fs::read_dir(format!("{folder}/task")).with_context(gone)?.count();
        Ok(Held { descriptors, threads })
    }

    fn resident(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

impl Held {
    /// Open descriptors of all kinds.
    pub(crate) fn count(&self) -> usize {
        self.descriptors.values().sum()
    }
}

impl Watch {
    /// Begins to look.
    pub(crate) fn start(processes: Vec<Watched>) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (ended, kept) = (Arc::clone(&end), Arc::clone(&samples));
        let thread = thread::spawn(move || {
            let began = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                let minutes = began.elapsed().as_secs_f64() / 60.0;
                let kilobytes = processes.iter().map(|one| one.resident().unwrap_or(f64::NAN));
                let sample = Sample { minutes, kilobytes: kilobytes.collect() };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                thread::sleep(EVERY);
            }
        });
        Self { end, samples, thread }
    }

    /// Ends it; how the memory of each process went, in their order.
    pub(crate) fn end(self) -> Vec<Growth> {
        self.end.store(true, Ordering::Relaxed);
        // A thread that only reads files has nothing to say at its end.
        let _ = self.thread.join();
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let processes = samples.first().map_or(0, |sample| sample.kilobytes.len());
        (0..processes).map(|at| growth(&samples, at)).collect()
    }
}

fn growth(samples: &[Sample], at: usize) -> Growth {
    let quarter = samples.len() / 4;
    let middle = |samples: &[Sample]| {
        median(&samples.iter().map(|sample| sample.kilobytes[at]).collect::<Vec<_>>())
    };
    let settled = &samples[quarter..];
    let pairs = settled.iter().enumerate().flat_map(|(index, first)| {
        settled[index + 1..].iter().map(move |second| {
            (second.kilobytes[at] - first.kilobytes[at]) / (second.minutes - first.minutes)
        })
    });
    Growth {
        second: middle(&samples[quarter..2 * quarter]),
        last: middle(&samples[samples.len() - quarter..]),
        slope: median(&pairs.collect::<Vec<_>>()),
    }
}
