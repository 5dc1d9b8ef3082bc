//! `--mqtt`: a run's answers, status and metrics to a broker, and orders from it.

use std::{
    future,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::anyhow;
use bytes::Bytes;
use cutline_core::units;
use cutline_runtime::{
    mqtt::{Command, Delivery, MAX_PAYLOAD, Mqtt, Order},
    runner::{Routed, Routing, Summary},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{Full, reading::Line};
use crate::{
    inputs::{MqttArgs, random},
    output::Output,
};

/// How many boxes and labels are left of a payload that is too large, at first; then half, and so on.
const CLIPPED: usize = 256;

/// A broker for a run's results, where one is wanted.
#[derive(Debug, clap::Args)]
pub(super) struct RunMqttArgs {
    #[command(flatten)]
    pub(super) broker: MqttArgs,
    /// Room for results that the broker has not acknowledged.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "64MiB",
        requires = "mqtt",
        help_heading = "MQTT"
    )]
    pub(super) mqtt_queue: units::Bytes,
    /// What to do when there is no room: make the frames wait, or drop the result that was never sent
    /// and has waited longest.
    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        default_value = "block",
        requires = "mqtt",
        help_heading = "MQTT"
    )]
    mqtt_when_full: Full,
    /// How long the end of the run waits for the broker to acknowledge what it has not.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        requires = "mqtt",
        help_heading = "MQTT"
    )]
    mqtt_wait: units::Nanos,
}

/// A run's way to its broker; or none, and then nothing happens.
pub(super) struct Publishing(Option<Live>);

struct Live {
    mqtt: Mqtt,
    orders: mpsc::Receiver<Order>,
    /// Names this run, in every result's identifier.
    run: String,
    metrics: Interval,
    when_full: Full,
    wait: Duration,
    paused: bool,
    /// It has been said that frames wait for the broker.
    told_full: bool,
}

/// What a run has to see to beside its frames.
pub(super) enum Happening {
    /// Results can be taken again.
    Room,
    /// Somebody wants something.
    Ordered(Order),
    /// It is time to say how the run goes.
    MetricsDue,
}

/// What an order asks of the run itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing more.
    GoOn,
    /// To take no more frames.
    Stop,
}

/// A result as it is published.
#[derive(Serialize)]
struct Message<'a, T> {
    id: String,
    run: &'a str,
    unix_ms: u64,
    #[serde(flatten)]
    line: &'a T,
}

impl Publishing {
    /// Starts to publish, where the user wants it. Must be called within a runtime.
    pub(super) fn start(
        args: &RunMqttArgs,
        source: impl FnOnce() -> String,
        about: Value,
        output: &Output,
    ) -> anyhow::Result<Self> {
        let prefix = || format!("cutline/{}/run", source());
        let Some(options) = args.broker.options(prefix, args.mqtt_queue, output)? else {
            return Ok(Self(None));
        };
        let run = random()?;
        let mut status = json!({ "kind": "run", "run": run, "version": env!("CARGO_PKG_VERSION") });
        if let (Value::Object(status), Value::Object(about)) = (&mut status, about) {
            status.extend(about);
        }
        let (mqtt, orders) = Mqtt::start(options, status);
        let mut metrics = interval(args.broker.every());
        metrics.set_missed_tick_behavior(MissedTickBehavior::Skip);
        metrics.reset();
        Ok(Self(Some(Live {
            mqtt,
            orders,
            run,
            metrics,
            when_full: args.mqtt_when_full,
            wait: Duration::from_nanos(args.mqtt_wait.0),
            paused: false,
            told_full: false,
        })))
    }

    /// Publishes what was printed of a frame.
    pub(super) fn result(&mut self, line: &Line) {
        let Some(live) = &self.0 else { return };
        let mut line = line.to_publish();
        let mut payload = live.payload(line.frame, &line);
        let mut left = CLIPPED;
        while payload.len() > MAX_PAYLOAD && left > 0 {
            line.clip(left);
            payload = live.payload(line.frame, &line);
            left /= 2;
        }
        if payload.len() > MAX_PAYLOAD {
            let (frame, error) = (line.frame, "the result is too large for a message");
            payload = live.payload(frame, &json!({ "frame": frame, "error": error }));
        }
        live.publish(payload);
    }

    /// Publishes that a frame has no answer.
    pub(super) fn failed(&mut self, frame: u64, line: &impl Serialize) {
        if let Some(live) = &self.0 {
            live.publish(live.payload(frame, line));
        }
    }

    /// Whether what comes of a frame can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.0.as_ref().is_none_or(Live::has_room)
    }

    /// Whether no more frames are to be taken for now.
    pub(super) fn is_paused(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.paused)
    }

    /// What the run has to see to next. May be given up on and called again.
    pub(super) async fn next(&mut self, output: &Output) -> Happening {
        let Some(live) = &mut self.0 else { return future::pending().await };
        let is_full = !live.has_room();
        if is_full && !std::mem::replace(&mut live.told_full, is_full) {
            output.note("MQTT: the broker has to acknowledge results before frames can go on");
        }
        tokio::select! {
            () = live.mqtt.room(), if is_full => Happening::Room,
            Some(order) = live.orders.recv() => Happening::Ordered(order),
            _ = live.metrics.tick() => Happening::MetricsDue,
        }
    }

    /// Carries out an order, and answers it.
    pub(super) async fn carry_out(
        &mut self,
        order: Order,
        summary: &Summary,
        routed: Option<&Routed>,
    ) -> Wish {
        let Some(live) = &mut self.0 else { return Wish::GoOn };
        let routing = routed.map(Routed::routing);
        let mut wish = Wish::GoOn;
        let result = match order.command {
            Command::Ping => Ok(Value::Null),
            Command::Status | Command::Metrics => Ok(live.metrics(summary, routing.as_ref())),
            Command::Pause | Command::Resume => {
                live.paused = order.command == Command::Pause;
                Ok(json!({ "paused": live.paused }))
            }
            Command::Stop => {
                wish = Wish::Stop;
                Ok(json!({ "stopping": true }))
            }
            Command::Route { route } => match routed {
                None => Err("this run has one route only".to_owned()),
                Some(routed) => prefer(routed, route).await,
            },
        };
        live.mqtt.answer(order.answer, result);
        wish
    }

    /// Publishes how the run goes.
    pub(super) fn metrics(&self, summary: &Summary, routing: Option<&Routing>) {
        if let Some(live) = &self.0 {
            live.mqtt.metrics(&live.metrics(summary, routing));
        }
    }

    /// Waits for the broker, says what it did not acknowledge, and ends the connection.
    pub(super) async fn finish(&mut self, output: &Output) -> Option<Delivery> {
        let Live { mqtt, wait, .. } = self.0.take()?;
        let open = mqtt.delivery().unacknowledged;
        if open > 0 {
            let wait = wait.as_secs_f64();
            output.note(format!(
                "MQTT: {open} results are not acknowledged; waiting {wait} s at most"
            ));
        }
        Some(mqtt.finish(wait).await)
    }
}

impl Live {
    fn has_room(&self) -> bool {
        matches!(self.when_full, Full::DropOldest) || self.mqtt.has_room()
    }

    fn payload(&self, frame: u64, line: &impl Serialize) -> Bytes {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let id = format!("{}-{frame}", self.run);
        let message = Message { id, run: &self.run, unix_ms, line };
        // A line is a struct of numbers and texts, which can always be written.
        serde_json::to_vec(&message).unwrap_or_default().into()
    }

    fn publish(&self, payload: Bytes) {
        match self.when_full {
            // A frame is taken, or answered, only where there is room.
            Full::Block => drop(self.mqtt.publish(payload)),
            Full::DropOldest => self.mqtt.publish_newest(payload),
        }
    }

    fn metrics(&self, summary: &Summary, routing: Option<&Routing>) -> Value {
        json!({
            "run": self.run,
            "paused": self.paused,
            "summary": summary,
            "routing": routing,
            "mqtt": self.mqtt.delivery(),
        })
    }
}

/// What kept results from the broker, as an error; none where it has them all.
pub(super) fn undelivered(delivery: &Delivery) -> Option<anyhow::Error> {
    if delivery.is_whole() {
        return None;
    }
    let Delivery { results, unacknowledged, refused, dropped, .. } = delivery;
    Some(anyhow!(
        "the MQTT broker does not have all of {results} results: {unacknowledged} were not \
         acknowledged, {refused} were refused, {dropped} were dropped to make room; they were printed \
         all the same. Is the broker there, and may this client publish to its topics"
    ))
}

async fn prefer(routed: &Routed, route: Option<String>) -> Result<Value, String> {
    let preferred = json!({ "preferred": &route });
    match routed.prefer(route).await {
        Ok(()) => Ok(preferred),
        Err(known) => Err(format!("there is no such route; there are: {}", known.join(", "))),
    }
}
