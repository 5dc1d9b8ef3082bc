//! Frames through a plan: from the waiting room to the plan, answers to the output, in order.

use std::time::Instant;

use anyhow::anyhow;
use cutline_runtime::runner::{Frame, LocalRunner, Meter, Outcome, Pipeline, Summary, WaitingRoom};
use serde::Serialize;

use super::reading::{self, Reader};
use crate::{
    frames::source::{Sourced, Unusable},
    output::{Output, table},
    process,
};

/// Agents, or this process.
pub(super) enum Place {
    Agents(Pipeline<Tag>),
    Here(Box<LocalRunner>, Option<(Tag, Frame)>),
}

/// What is known of a frame under way.
#[derive(Debug)]
pub(super) struct Tag {
    index: u64,
    name: String,
}

/// Last line under `--json`.
#[derive(Serialize)]
struct SummaryLine<'a> {
    summary: &'a Summary,
}

impl Place {
    /// Every stage in this process: one frame at a time.
    pub(super) fn here(runner: LocalRunner) -> Self {
        Place::Here(Box::new(runner), None)
    }

    fn is_full(&self) -> bool {
        match self {
            Place::Agents(pipeline) => pipeline.is_full(),
            Place::Here(_, frame) => frame.is_some(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Place::Agents(pipeline) => pipeline.is_empty(),
            Place::Here(_, frame) => frame.is_none(),
        }
    }

    fn send(&mut self, tag: Tag, frame: Frame) -> anyhow::Result<()> {
        let refused = match self {
            Place::Agents(pipeline) => pipeline.send(tag, frame).err(),
            Place::Here(_, waiting) => waiting.replace((tag, frame)),
        };
        match refused {
            None => Ok(()),
            Some((tag, _)) => Err(anyhow!("frame {} was sent to a full pipeline", tag.index)),
        }
    }

    async fn next(&mut self) -> Option<Outcome<Tag>> {
        match self {
            Place::Agents(pipeline) => pipeline.next().await,
            Place::Here(runner, waiting) => {
                let (tag, frame) = waiting.take()?;
                let began = Instant::now();
                let result = runner.infer(frame);
                Some(Outcome { tag, took: began.elapsed(), result })
            }
        }
    }
}

/// Runs every frame of the room and prints what came of it; then the summary.
///
/// A frame that is no picture costs itself only. Any other failure ends the run: nothing more is
/// sent, and what is under way is waited for. Either way the first failure is the run's.
pub(super) async fn run(
    mut place: Place,
    room: &WaitingRoom<Sourced>,
    reader: Reader,
    live: bool,
    output: &Output,
) -> anyhow::Result<()> {
    let mut run = Run { meter: Meter::start(), reader, output, failure: None };
    let mut open = true;
    let interrupted = async {
        match live {
            true => process::interrupted().await,
            // Files come to an end by themselves; an interrupted program ends at once.
            false => std::future::pending().await,
        }
    };
    tokio::pin!(interrupted);
    loop {
        let (can_send, under_way) = (open && !place.is_full(), !place.is_empty());
        tokio::select! {
            biased;
            outcome = place.next(), if under_way => {
                open &= run.answered(outcome)?;
            }
            frame = room.take(), if can_send => match frame {
                Some(frame) => open &= run.send(frame, &mut place)?,
                None => open = false,
            },
            () = &mut interrupted, if open => open = false,
            else => break,
        }
        if !open {
            room.close();
        }
    }
    run.end(room.dropped())
}

struct Run<'a> {
    meter: Meter,
    reader: Reader,
    output: &'a Output,
    failure: Option<anyhow::Error>,
}

impl Run<'_> {
    /// Prints what came of a frame; false where it was the last to be sent.
    fn answered(&mut self, outcome: Option<Outcome<Tag>>) -> anyhow::Result<bool> {
        let Some(Outcome { tag: Tag { index, name }, took, result }) = outcome else {
            return Ok(true);
        };
        match result {
            Ok(answer) => {
                self.meter.answered(&answer, took);
                self.reader.answered(index, &name, answer, self.output)?;
                Ok(true)
            }
            Err(error) => {
                let goes_on = error.is_the_frames();
                let error = anyhow::Error::new(error);
                let error = error.context(format!("frame {index} (`{name}`) was not answered"));
                self.meter.failed();
                reading::failed(index, &name, &error, self.output)?;
                self.failure.get_or_insert(error);
                Ok(goes_on)
            }
        }
    }

    /// Sends a frame; false where nothing can follow it.
    fn send(&mut self, frame: Sourced, place: &mut Place) -> anyhow::Result<bool> {
        let Sourced { index, name, frame } = frame;
        match frame {
            Ok(frame) => place.send(Tag { index, name }, frame).map(|()| true),
            Err(Unusable::Picture(error)) => {
                let error = error.context(format!("frame {index} (`{name}`) was not sent"));
                self.meter.failed();
                reading::failed(index, &name, &error, self.output)?;
                self.failure.get_or_insert(error);
                Ok(true)
            }
            Err(Unusable::Source(error)) => {
                self.failure.get_or_insert(error);
                Ok(false)
            }
        }
    }

    fn end(self, dropped: u64) -> anyhow::Result<()> {
        let summary = self.meter.summary(dropped);
        if summary.answered > 0 && self.output.is_json() {
            self.output.line(&SummaryLine { summary: &summary })?;
        } else if summary.answered > 0 {
            self.output.note(text(&summary));
        }
        self.failure.map_or(Ok(()), Err)
    }
}

/// The summary for people.
fn text(summary: &Summary) -> String {
    let mut text = format!(
        "{} frames answered in {}: {:.2} frames per second; {} dropped, {} failed",
        summary.answered,
        summary.time_ns,
        summary.frames_per_second,
        summary.dropped,
        summary.failed
    );
    if let Some(latency) = &summary.latency {
        text.push_str(&format!(
            "\nlatency: p50 {}, p90 {}, p99 {}, at most {}",
            latency.p50_ns, latency.p90_ns, latency.p99_ns, latency.max_ns
        ));
    }
    let parts = summary.stages.iter().chain(&summary.hops);
    let busy = parts.map(|part| [part.name.clone(), format!("{:.0} %", part.busy * 100.0)]);
    format!("{text}\n{}", table(["stage or link", "busy"], busy))
}
