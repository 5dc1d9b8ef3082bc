//! Frames through a plan: from the waiting room to the plan, answers to the output, in order.

use std::time::Instant;

use anyhow::anyhow;
use cutline_runtime::{
    mqtt::Delivery,
    runner::{
        self, Frame, LocalRunner, Meter, Outcome, Pipeline, Routed, Routing, Summary, WaitingRoom,
    },
    telemetry::Telemetry,
};
use serde::Serialize;

use super::{
    hold::{self, Holding},
    journaling::Notes,
    publishing::{self, Happening, Publishing, Wish},
    reading::{self, Reader},
    status::Status,
    tracing::Tracing,
};
use crate::{
    frames::source::{Sourced, Unusable},
    output::{Output, table},
    process,
};

/// Agents, or this process.
pub(super) enum Place {
    Agents(Pipeline<Tag>),
    Here(Box<LocalRunner>, Telemetry, Option<(Tag, Frame)>),
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
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<&'a Routing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mqtt: Option<&'a Delivery>,
}

impl Place {
    /// Every stage in this process: one frame at a time.
    pub(super) fn here(runner: LocalRunner, telemetry: Telemetry) -> Self {
        Place::Here(Box::new(runner), telemetry, None)
    }

    fn is_full(&self) -> bool {
        match self {
            Place::Agents(pipeline) => pipeline.is_full(),
            Place::Here(_, _, frame) => frame.is_some(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Place::Agents(pipeline) => pipeline.is_empty(),
            Place::Here(_, _, frame) => frame.is_none(),
        }
    }

    fn send(&mut self, tag: Tag, frame: Frame) -> anyhow::Result<()> {
        let refused = match self {
            Place::Agents(pipeline) => pipeline.send(tag, frame).err(),
            Place::Here(_, _, waiting) => waiting.replace((tag, frame)),
        };
        match refused {
            None => Ok(()),
            Some((tag, _)) => Err(anyhow!("frame {} was sent to a full pipeline", tag.index)),
        }
    }

    async fn next(&mut self) -> Option<Outcome<Tag>> {
        match self {
            Place::Agents(pipeline) => pipeline.next().await,
            Place::Here(runner, telemetry, waiting) => {
                let (tag, frame) = waiting.take()?;
                let (began, mut span) = (Instant::now(), telemetry.trace("frame"));
                let result = runner.infer(frame);
                let took = began.elapsed();
                runner::tell(&mut span, &result);
                Some(Outcome { tag, took, result, span })
            }
        }
    }
}

/// A run: who carries its frames, and what came of them.
pub(super) struct Run<'a> {
    place: Place,
    held: Option<Holding>,
    meter: Meter,
    reader: Reader,
    notes: Notes,
    tracing: Option<Tracing>,
    status: Status,
    publishing: Publishing,
    output: &'a Output,
    failure: Option<anyhow::Error>,
}

/// Who is told of a run while it goes on.
pub(super) struct Told {
    pub(super) notes: Notes,
    pub(super) tracing: Option<Tracing>,
    pub(super) status: Status,
    pub(super) publishing: Publishing,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        place: Place,
        held: Option<Holding>,
        reader: Reader,
        told: Told,
        output: &'a Output,
    ) -> Self {
        let (meter, failure) = (Meter::start(), None);
        let Told { notes, tracing, status, publishing } = told;
        Self { place, held, meter, reader, notes, tracing, status, publishing, output, failure }
    }

    /// Who held the frames, where anybody did.
    pub(super) fn into_routed(self) -> Option<Routed> {
        self.held.map(|held| held.routed)
    }

    /// Runs every frame of the room and prints what came of it; then the summary.
    ///
    /// A frame that is no picture, or that is lost by a holder, costs itself only. Any other failure
    /// ends the run: nothing more is sent, and what is under way is waited for. Either way the first
    /// failure is the run's.
    pub(super) async fn stream(
        &mut self,
        room: &WaitingRoom<Sourced>,
        live: bool,
    ) -> anyhow::Result<()> {
        let carried = self.carry(room, live).await;
        let delivery = self.publishing.finish(self.output).await;
        carried?;
        self.end(room.dropped(), delivery.as_ref())
    }

    /// The frames themselves.
    async fn carry(&mut self, room: &WaitingRoom<Sourced>, live: bool) -> anyhow::Result<()> {
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
            let (has_room, under_way) = (self.publishing.has_room(), !self.place.is_empty());
            let can_send = open && has_room && !self.place.is_full();
            let can_send = can_send && !self.publishing.is_paused();
            let changed = async {
                match &mut self.held {
                    Some(held) => held.change().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.status.due(), if open || under_way => self.tell(room.dropped()),
                happening = self.publishing.next(self.output), if open || under_way => {
                    open &= self.see_to(happening, room.dropped()).await;
                }
                outcome = self.place.next(), if under_way && has_room => open &= self.answered(outcome)?,
                frame = room.take(), if can_send => match frame {
                    Some(frame) => open &= self.send(frame)?,
                    None => open = false,
                },
                () = &mut interrupted, if open => open = false,
                change = changed, if open || under_way => {
                    self.status.aside(|| self.output.note(&change));
                }
                else => break,
            }
            if !open {
                room.close();
            }
        }
        Ok(())
    }

    /// Sees to what the broker wants; false where no more frames are to be sent.
    async fn see_to(&mut self, happening: Happening, dropped: u64) -> bool {
        let summary = self.meter.summary(dropped);
        let routed = self.held.as_ref().map(|held| &held.routed);
        match happening {
            Happening::Room => true,
            Happening::MetricsDue => {
                self.publishing.metrics(&summary, routed.map(Routed::routing).as_ref());
                true
            }
            Happening::Ordered(order) => {
                self.publishing.carry_out(order, &summary, routed).await == Wish::GoOn
            }
        }
    }

    /// Says how the run goes.
    fn tell(&mut self, dropped: u64) {
        let routing = self.held.as_ref().map(Holding::routing);
        self.status.tell(&self.meter.summary(dropped), routing.as_ref(), self.output);
    }

    /// Prints what came of a frame; false where it was the last to be sent.
    fn answered(&mut self, outcome: Option<Outcome<Tag>>) -> anyhow::Result<bool> {
        let Some(Outcome { tag: Tag { index, name }, took, result, mut span }) = outcome else {
            return Ok(true);
        };
        span.set("cutline.frame", index);
        span.set("cutline.input", name.as_str());
        span.end(None);
        match result {
            Ok(answer) => {
                self.meter.answered(&answer, took);
                if let Some(tracing) = &mut self.tracing {
                    tracing.frame(index, &name, answer.route.as_deref(), &answer.trace)?;
                }
                let line = self.reader.answered(index, &name, answer, self.output);
                let printed = self.status.aside(|| self.output.line(&line))?;
                self.publishing.result(&line);
                self.notes.printed(index, printed)
            }
            Err(error) => {
                let goes_on = error.is_of_one_frame();
                let error = anyhow::Error::new(error);
                let error = error.context(format!("frame {index} (`{name}`) was not answered"));
                Ok(self.failed(index, &name, error)? && goes_on)
            }
        }
    }

    /// Sends a frame; false where nothing can follow it.
    fn send(&mut self, frame: Sourced) -> anyhow::Result<bool> {
        let Sourced { index, name, frame } = frame;
        match frame {
            Ok(frame) => {
                self.notes.taken(index, &name)?;
                self.place.send(Tag { index, name }, frame).map(|()| true)
            }
            Err(Unusable::Picture(error)) => {
                self.notes.taken(index, &name)?;
                let error = error.context(format!("frame {index} (`{name}`) was not sent"));
                self.failed(index, &name, error)
            }
            Err(Unusable::Source(error)) => {
                self.failure.get_or_insert(error);
                Ok(false)
            }
        }
    }

    /// Prints that a frame has no answer; false where it was the last to be sent.
    fn failed(&mut self, index: u64, name: &str, error: anyhow::Error) -> anyhow::Result<bool> {
        self.meter.failed();
        let line = reading::failed(index, name, &error);
        let printed = self.status.aside(|| self.output.line(&line))?;
        self.publishing.failed(index, &line);
        self.failure.get_or_insert(error);
        self.notes.printed(index, printed)
    }

    fn end(&mut self, dropped: u64, delivery: Option<&Delivery>) -> anyhow::Result<()> {
        self.status.end();
        self.notes.finish()?;
        if let Some(tracing) = self.tracing.take() {
            tracing.finish()?;
        }
        let summary = self.meter.summary(dropped);
        let routing = self.held.as_ref().map(Holding::routing);
        if summary.answered > 0 && self.output.is_json() {
            let (summary, routing) = (&summary, routing.as_ref());
            self.output.line(&SummaryLine { summary, routing, mqtt: delivery })?;
        } else if summary.answered > 0 {
            self.output.note(text(&summary));
            if let Some(text) = routing.as_ref().and_then(hold::summary) {
                self.output.note(text);
            }
        }
        let undelivered = delivery.and_then(publishing::undelivered);
        self.failure.take().or(undelivered).map_or(Ok(()), Err)
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
