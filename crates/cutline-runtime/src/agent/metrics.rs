//! What a scrape by Prometheus reads: counters of every stage, and what the agent holds.
//!
//! Nothing is counted twice: a scrape reads the stages' meters as they are.

use std::{
    fmt,
    sync::{Weak, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{State, deployed::Deployed, meter::Meter, repository::Entry};
use crate::{connections::Connections, profiler};

/// The type of what [`scrape`] returns.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One of a meter's times.
type Nanoseconds = fn(&Meter) -> u64;

/// Labels of a stage.
type Labels<'a> = [(&'static str, &'a str); 3];

/// Everything as OpenMetrics text.
pub(super) fn scrape(state: &Weak<State>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("cutline");
    registry.register_collector(Box::new(Scrape(Weak::clone(state))));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Scrape(Weak<State>);

impl fmt::Debug for Scrape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(state) = self.0.upgrade() else { return Ok(()) };
        let all = state.stages.list();
        let ready: Vec<(&str, &Deployed)> = all
            .iter()
            .filter_map(|(name, entry)| match entry {
                Entry::Ready(stage) => Some((name.as_str(), &**stage)),
                Entry::Unloaded(..) => None,
            })
            .collect();
        let mut of_stages = Stages { encoder: &mut encoder, ready: &ready };
        of_stages.counter("stage_answered", "Requests answered", None, |m| m.answered.count())?;
        of_stages.counter("stage_failed", "Requests not answered", None, |m| m.failed.count())?;
        let help = "The engine's calls; fewer than frames where several are computed at once";
        of_stages.counter("stage_executions", help, None, Meter::executions)?;
        let spans: [(&str, &str, Nanoseconds); 4] = [
            ("stage_queue", "Waiting for the device", |m| m.queue.nanos()),
            ("stage_prepare", "Making the input of a picture", |m| m.prepare.nanos()),
            ("stage_compute", "The engine's calls, pacing included", Meter::busy_nanos),
            ("stage_downstream", "Waiting for later stages", |m| m.downstream.nanos()),
        ];
        for (name, help, nanos) in spans {
            let seconds = |meter: &Meter| nanos(meter) as f64 / 1e9;
            of_stages.counter(name, help, Some(Unit::Seconds), seconds)?;
        }
        of_stages.counter("stage_received", "Tensors that came in", Some(Unit::Bytes), |m| {
            m.bytes_in.load(Relaxed)
        })?;
        of_stages.counter("stage_sent", "Tensors that were answered", Some(Unit::Bytes), |m| {
            m.bytes_out.load(Relaxed)
        })?;
        of_stages.latency()?;
        of_stages.at_once()?;
        drop(ready);
        of_connections(&mut encoder, &state.connections)?;
        let memory = &state.memory;
        let under_way = state.requests.under_way();
        gauge(&mut encoder, "requests_under_way", "Requests now", None, under_way as u64)?;
        gauge(&mut encoder, "stages", "Stages that answer", None, count_ready(&all))?;
        let bytes = Some(Unit::Bytes);
        gauge(
            &mut encoder,
            "memory_reserved",
            "Declared by stages and requests",
            bytes,
            memory.taken().0,
        )?;
        if let Some(limit) = memory.limit() {
            gauge(&mut encoder, "memory_limit", "What the device has", Some(Unit::Bytes), limit.0)?;
        }
        if let Some(resident) = super::memory::resident_bytes() {
            gauge(
                &mut encoder,
                "memory_resident",
                "Of the process",
                Some(Unit::Bytes),
                resident.0,
            )?;
        }
        if let Some(told) = state.config.telemetry.told() {
            for (name, help, spans) in [
                ("spans_sent", "Spans that the collector took", told.sent),
                ("spans_dropped", "Spans that were not told", told.dropped),
            ] {
                let kind = MetricType::Counter;
                let mut counter = encoder.encode_descriptor(name, help, None, kind)?;
                counter.encode_counter::<NoLabelSet, _, u64>(&spans, None)?;
            }
        }
        let started = state.boot as f64 / 1e9;
        gauge(&mut encoder, "start_time", "Since 1970", Some(Unit::Seconds), started)?;
        let (version, hardware) = (env!("CARGO_PKG_VERSION"), profiler::hardware());
        let labels = [("version", version), ("hardware", hardware.as_str())];
        let mut info = encoder.encode_descriptor("agent", "What it is", None, MetricType::Info)?;
        info.encode_info(&labels)
    }
}

fn count_ready(all: &[(String, Entry)]) -> u64 {
    all.iter().filter(|(_, entry)| matches!(entry, Entry::Ready(_))).count() as u64
}

fn of_connections(encoder: &mut DescriptorEncoder<'_>, connections: &Connections) -> fmt::Result {
    gauge(encoder, "connections", "Open now", None, connections.open() as u64)?;
    gauge(encoder, "connections_limit", "That may be open", None, connections.most() as u64)?;
    for (name, help, count) in [
        ("connections_refused", "Closed at once: too many were open", connections.refused()),
        ("connections_failed", "That the system could not give", connections.failed()),
    ] {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?.encode_gauge(&value)
}

/// Metrics of which every stage has one.
struct Stages<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
    ready: &'a [(&'a str, &'a Deployed)],
}

impl Stages<'_, '_> {
    fn counter<N: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: impl Fn(&Meter) -> N,
    ) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut family = self.encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (model, stage) in self.ready {
            let labels = labels(model, stage);
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value(stage.meter()), None)?;
        }
        Ok(())
    }

    fn at_once(&mut self) -> fmt::Result {
        let help = "Most frames that are computed at once";
        let mut family =
            self.encoder.encode_descriptor("stage_at_once", help, None, MetricType::Gauge)?;
        for (model, stage) in self.ready {
            let labels = labels(model, stage);
            family.encode_family(&labels)?.encode_gauge(&(stage.batching().at_once as u64))?;
        }
        Ok(())
    }

    fn latency(&mut self) -> fmt::Result {
        let help = "From the whole request to the finished answer, later stages included";
        let unit = Some(Unit::Seconds);
        let kind = MetricType::Histogram;
        let mut family =
            self.encoder.encode_descriptor("stage_request", help, unit.as_ref(), kind)?;
        for (model, stage) in self.ready {
            let meter = stage.meter();
            let classes = meter.classes();
            let seconds = meter.answered.nanos() as f64 / 1e9;
            // The number of all is that of the classes: they are not read at one moment.
            let count = classes.iter().map(|(_, count)| count).sum();
            let labels = labels(model, stage);
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(seconds, count, &classes, None)?;
        }
        Ok(())
    }
}

fn labels<'a>(model: &'a str, stage: &'a Deployed) -> Labels<'a> {
    let spec = stage.stage().spec();
    [("model", model), ("stage", &spec.name), ("device", &spec.device)]
}
