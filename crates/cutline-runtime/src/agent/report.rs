//! What an agent says of itself to who cannot scrape it: a small document, now and then.
//!
//! The numbers are those of the meters that answer a scrape, since the report before.

use std::{
    collections::BTreeMap,
    sync::Weak,
    time::{Duration, Instant},
};

use cutline_core::units::Nanos;
use serde::Serialize;

use super::{State, meter::Meter, repository::Entry};
use crate::profiler;

/// What an agent is, as far as it changes rarely.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentStatus {
    /// Version of this program.
    pub version: &'static str,
    /// What it runs on.
    pub hardware: String,
    /// Its engines; the first is its own choice.
    pub engines: Vec<String>,
    /// The stages that answer, by the names under which they are served.
    pub stages: Vec<String>,
}

/// What an agent did since its last report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentReport {
    /// How long ago that was; for the first one, since reports were asked for.
    pub time_ns: Nanos,
    /// Requests now.
    pub requests_under_way: usize,
    /// Connections now.
    pub connections: usize,
    /// Bytes that stages and requests declared.
    pub memory_reserved: u64,
    /// Its stages.
    pub stages: Vec<StageReport>,
}

/// What a stage did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageReport {
    /// The name under which it is served.
    pub model: String,
    /// Its name in the plan.
    pub stage: String,
    /// Its device in the plan.
    pub device: String,
    /// Requests answered.
    pub answered: u64,
    /// Requests not answered.
    pub failed: u64,
    /// Share of the time in which its engine computed, from 0 to 1.
    pub busy: f64,
    /// Upper ends of the classes in which half, nine tenths and 99 of 100 requests lie, later stages
    /// included; absent where no request was answered, or the class has no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_at_most_ns: Option<Nanos>,
    #[allow(missing_docs)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90_at_most_ns: Option<Nanos>,
    #[allow(missing_docs)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_at_most_ns: Option<Nanos>,
}

/// Makes reports of an agent, also after it began to serve.
#[derive(Debug)]
pub struct Reporter {
    state: Weak<State>,
    last: Instant,
    before: BTreeMap<String, Counts>,
}

/// A stage's meter at a moment.
#[derive(Clone, Debug, Default)]
struct Counts {
    answered: u64,
    failed: u64,
    busy_nanos: u64,
    classes: Vec<(f64, u64)>,
}

impl From<&Meter> for Counts {
    fn from(meter: &Meter) -> Self {
        Self {
            answered: meter.answered.count(),
            failed: meter.failed.count(),
            busy_nanos: meter.busy_nanos(),
            classes: meter.classes(),
        }
    }
}

impl Reporter {
    pub(super) fn new(state: Weak<State>) -> Self {
        Self { state, last: Instant::now(), before: BTreeMap::new() }
    }

    /// What the agent is; `None` after its end.
    pub fn status(&self) -> Option<AgentStatus> {
        let state = self.state.upgrade()?;
        let stages = state.stages.list().into_iter();
        let ready = stages.filter(|(_, entry)| matches!(entry, Entry::Ready(_)));
        Some(AgentStatus {
            version: env!("CARGO_PKG_VERSION"),
            hardware: profiler::hardware(),
            engines: state.config.engines.iter().map(|engine| engine.name().to_owned()).collect(),
            stages: ready.map(|(name, _)| name).collect(),
        })
    }

    /// What the agent did since the last call; `None` after its end.
    pub fn report(&mut self) -> Option<AgentReport> {
        let state = self.state.upgrade()?;
        let time = self.last.elapsed();
        self.last = Instant::now();
        let mut before = std::mem::take(&mut self.before);
        let mut stages = Vec::new();
        for (model, entry) in state.stages.list() {
            let Entry::Ready(stage) = entry else { continue };
            let now = Counts::from(stage.meter());
            // A stage that was loaded anew begins at nothing.
            let then = before.remove(&model).filter(|then| then.answered <= now.answered);
            let spec = stage.stage().spec();
            let names = [&model, &spec.name, &spec.device].map(String::clone);
            stages.push(since(names, &now, &then.unwrap_or_default(), time));
            self.before.insert(model, now);
        }
        Some(AgentReport {
            time_ns: Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            requests_under_way: state.requests.under_way(),
            connections: state.connections.open(),
            memory_reserved: state.memory.taken().0,
            stages,
        })
    }
}

/// What a stage did between two moments.
fn since(names: [String; 3], now: &Counts, then: &Counts, time: Duration) -> StageReport {
    let [model, stage, device] = names;
    let busy = now.busy_nanos.saturating_sub(then.busy_nanos) as f64;
    let earlier = then.classes.iter().map(|(_, count)| *count).chain(std::iter::repeat(0));
    let classes = now.classes.iter().zip(earlier);
    let classes: Vec<(f64, u64)> =
        classes.map(|(&(end, count), before)| (end, count.saturating_sub(before))).collect();
    let at_most = |permille| percentile(&classes, permille);
    StageReport {
        model,
        stage,
        device,
        answered: now.answered.saturating_sub(then.answered),
        failed: now.failed.saturating_sub(then.failed),
        busy: match time.as_nanos() {
            0 => 0.0,
            nanos => (busy / nanos as f64).min(1.0),
        },
        p50_at_most_ns: at_most(500),
        p90_at_most_ns: at_most(900),
        p99_at_most_ns: at_most(990),
    }
}

/// The upper end of the class in which the time lies that so many thousandths do not exceed.
fn percentile(classes: &[(f64, u64)], permille: u64) -> Option<Nanos> {
    let total: u64 = classes.iter().map(|(_, count)| count).sum();
    let rank = (total * permille).div_ceil(1000);
    let mut below = 0;
    let class = classes.iter().find(|(_, count)| {
        below += count;
        total > 0 && below >= rank
    });
    class.filter(|(end, _)| end.is_finite()).map(|(end, _)| Nanos((end * 1e9) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(answered: u64, busy_nanos: u64, classes: [u64; 3]) -> Counts {
        let ends = [0.001, 0.002, f64::INFINITY];
        Counts { answered, failed: 1, busy_nanos, classes: ends.into_iter().zip(classes).collect() }
    }

    #[test]
    fn a_report_counts_what_happened_since_the_one_before() {
        let names = || ["m", "0-pi", "pi"].map(str::to_owned);
        let (then, now) = (counts(10, 500, [10, 0, 0]), counts(20, 900, [15, 4, 1]));
        let report = since(names(), &now, &then, Duration::from_nanos(1000));
        assert_eq!((report.answered, report.failed, report.busy), (10, 0, 0.4));
        assert_eq!(report.p50_at_most_ns, Some(Nanos(1_000_000)));
        assert_eq!(report.p90_at_most_ns, Some(Nanos(2_000_000)));
        // The slowest one of ten took longer than the last class that has an end.
        assert_eq!(report.p99_at_most_ns, None);
        let idle = since(names(), &now, &now, Duration::ZERO);
        assert_eq!((idle.answered, idle.busy, idle.p50_at_most_ns), (0, 0.0, None));
        let first = since(names(), &then, &Counts::default(), Duration::from_nanos(1000));
        assert_eq!((first.answered, first.failed, first.busy), (10, 1, 0.5));
    }
}
