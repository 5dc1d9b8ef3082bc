//! What was measured, as rows and sentences.

use std::io::{self, Write};

use cutline_core::{plan::Figures, units::Nanos};
use cutline_runtime::runner::{Breakdown, LatencyPart};
use serde::Serialize;

use super::Medians;
use crate::output::table_of;

/// How messages go from agent to agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Path {
    /// As plans are run.
    Direct,
    /// Over an MQTT broker.
    Mqtt,
}

/// Predicted and measured parts of one plan, under the same names.
#[derive(Serialize)]
pub(crate) struct Row {
    /// File of the plan, or what it is.
    pub(crate) plan: String,
    /// How its messages went.
    pub(crate) path: Path,
    /// By the table; absent for a plan edited by hand, and off the direct path.
    pub(crate) predicted: Option<Figures>,
    /// Medians over the frames.
    pub(crate) measured: Figures,
    /// The same latency taken apart further.
    pub(crate) parts: Breakdown,
    /// How long the broker and its clients held the messages of a frame; part of the platform's time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) held_ns: Option<Nanos>,
    /// What takes most of it.
    pub(crate) bottleneck: Bottleneck,
    /// How many frames.
    pub(crate) frames: usize,
}

/// The largest part of a latency.
#[derive(Serialize)]
pub(crate) struct Bottleneck {
    part: LatencyPart,
    /// Of the latency, from 0 to 1.
    share: f64,
    /// In a sentence.
    says: String,
}

impl Row {
    pub(crate) fn new(
        (plan, path): (String, Path),
        predicted: Option<Figures>,
        medians: Medians,
        frames: usize,
    ) -> Self {
        let Medians { figures: measured, parts, held } = medians;
        let held_ns = (path == Path::Mqtt).then_some(held);
        let predicted = predicted.filter(|_| path == Path::Direct);
        let bottleneck = Bottleneck::of(&parts, path);
        Self { plan, path, predicted, measured, parts, held_ns, bottleneck, frames }
    }

    fn name(&self) -> String {
        match self.path {
            Path::Direct => self.plan.clone(),
            Path::Mqtt => format!("{}, MQTT", self.plan),
        }
    }
}

impl Bottleneck {
    fn of(parts: &Breakdown, path: Path) -> Self {
        let part = parts.bottleneck();
        let (time, latency) = (part.of(parts), parts.latency_ns);
        let share = time.0 as f64 / latency.0.max(1) as f64;
        let says = format!(
            "{} takes most, {:.0} % of {latency}: {}",
            part.name(),
            share * 100.0,
            remedy(part, path)
        );
        Self { part, share, says }
    }
}

/// What makes a part smaller.
fn remedy(part: LatencyPart, path: Path) -> &'static str {
    match part {
        LatencyPart::Prepare => "send smaller pictures, or tensors",
        LatencyPart::DeviceCompute => {
            "a cut nearer to the input, or a faster engine or device, helps most"
        }
        LatencyPart::Serialise => "a cut that fewer bytes cross helps most",
        LatencyPart::Upload => {
            "a cut that fewer bytes cross, a denser encoding or a faster link helps most"
        }
        LatencyPart::Queue => "fewer frames at a time, or another replica, helps most",
        LatencyPart::CloudCompute => {
            "a cut nearer to the output, or a faster engine or device, helps most"
        }
        LatencyPart::Download => "a link with less delay helps most",
        LatencyPart::Platform if path == Path::Mqtt => {
            "the broker and its clients take it; agents that call each other directly need neither"
        }
        LatencyPart::Platform => {
            "the agents' own work on a call, which slower devices and larger networks notice less"
        }
    }
}

/// One row for each plan and path: each part as `predicted / measured` where both are there, how far
/// the prediction of the latency is off, and then the bottlenecks.
pub(crate) fn write_rows(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    // Of frames that are tensors only what it takes to look at them.
    let pictures = rows.iter().any(|row| row.parts.prepare_ns.0 > row.parts.latency_ns.0 / 50);
    let shown =
        LatencyPart::ALL.into_iter().filter(|&part| pictures || part != LatencyPart::Prepare);
    let shown: Vec<LatencyPart> = shown.collect();
    let header = ["ms, predicted / measured"].into_iter().chain(shown.iter().copied().map(short));
    let header: Vec<&str> = header.chain(["total", "off by"]).collect();
    let lines = rows.iter().map(|row| {
        let cells = shown.iter().map(|&part| {
            let predicted = row.predicted.as_ref().and_then(|figures| predicted(part, figures));
            pair(predicted, part.of(&row.parts))
        });
        let predicted = row.predicted.map(|figures| figures.latency_ns);
        let measured = row.parts.latency_ns;
        let off = predicted.map_or("?".to_owned(), |predicted| {
            let (p, m) = (predicted.0 as f64, measured.0.max(1) as f64);
            format!("{:+.1} %", (p - m) * 100.0 / m)
        });
        [row.name()]
            .into_iter()
            .chain(cells)
            .chain([pair(predicted, measured), off])
            .collect::<Vec<_>>()
    });
    writeln!(out, "{}\n", table_of(&header, lines))?;
    for row in rows {
        writeln!(out, "{}: {}", row.name(), row.bottleneck.says)?;
    }
    for (direct, through) in pairs(rows) {
        writeln!(out, "{}", compared(direct, through))?;
    }
    Ok(())
}

/// Plans that went both ways.
fn pairs(rows: &[Row]) -> impl Iterator<Item = (&Row, &Row)> {
    let both = |two: &&[Row]| two[0].path == Path::Direct && two[1].path == Path::Mqtt;
    rows.windows(2).filter(both).map(|two| (&two[0], &two[1]))
}

/// What the way over the broker costs, and how much of that is the broker's.
fn compared(direct: &Row, through: &Row) -> String {
    let (a, b) = (direct.parts.latency_ns.0, through.parts.latency_ns.0);
    format!(
        "{}: over MQTT {:.2} times the latency of the direct way, {:+.2} ms; the broker and its clients held messages for {:.2} ms",
        direct.plan,
        b as f64 / a.max(1) as f64,
        (b as f64 - a as f64) / 1e6,
        through.held_ns.unwrap_or_default().as_millis_f64()
    )
}

/// What plans predict of a part. Their upload holds its share of writing and reading messages, because
/// links are measured from end to end.
fn predicted(part: LatencyPart, figures: &Figures) -> Option<Nanos> {
    match part {
        LatencyPart::DeviceCompute => Some(figures.edge_compute_ns),
        LatencyPart::Upload => Some(figures.upload_ns),
        LatencyPart::CloudCompute => Some(figures.cloud_compute_ns),
        _ => None,
    }
}

fn short(part: LatencyPart) -> &'static str {
    match part {
        LatencyPart::DeviceCompute => "device",
        LatencyPart::CloudCompute => "cloud",
        other => other.name(),
    }
}

fn pair(predicted: Option<Nanos>, measured: Nanos) -> String {
    match predicted {
        Some(predicted) => format!("{} / {}", millis(predicted), millis(measured)),
        None => millis(measured),
    }
}

fn millis(nanos: Nanos) -> String {
    format!("{:.2}", nanos.as_millis_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: Path, upload: u64, platform: u64) -> Row {
        let parts = Breakdown {
            latency_ns: Nanos(upload + platform),
            upload_ns: Nanos(upload),
            platform_ns: Nanos(platform),
            ..Breakdown::default()
        };
        let figures = |upload_ns| Figures {
            latency_ns: parts.latency_ns,
            period_ns: upload_ns,
            edge_compute_ns: Nanos::ZERO,
            upload_ns,
            cloud_compute_ns: Nanos::ZERO,
            rest_ns: Nanos::ZERO,
        };
        let (measured, held) = (figures(Nanos(upload)), Nanos(platform));
        let medians = Medians { figures: measured, parts, held };
        let predicted = figures(Nanos(3_000_000));
        Row::new(("a.json".to_owned(), path), Some(predicted), medians, 1)
    }

    #[test]
    fn the_largest_part_is_named_with_its_share() {
        let bottleneck = row(Path::Direct, 3_000_000, 1_000_000).bottleneck;
        assert_eq!(bottleneck.part, LatencyPart::Upload);
        assert_eq!(bottleneck.share, 0.75);
        assert!(bottleneck.says.starts_with("upload takes most, 75 % of 4"), "{}", bottleneck.says);
    }

    #[test]
    fn both_ways_are_compared_where_both_were_taken() {
        let rows = [row(Path::Direct, 4_000_000, 0), row(Path::Mqtt, 4_000_000, 6_000_000)];
        let mut text = Vec::new();
        write_rows(&rows, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("3.00 / 4.00"), "{text}");
        assert!(
            text.contains("over MQTT 2.50 times the latency of the direct way, +6.00 ms; the broker and its clients held messages for 6.00 ms"),
            "{text}"
        );
        assert!(rows[1].predicted.is_none(), "nothing is predicted of a broker");
        assert_eq!(pairs(&rows[..1]).count(), 0);
    }
}
