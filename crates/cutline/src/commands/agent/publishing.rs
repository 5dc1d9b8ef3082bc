//! `--mqtt`: an agent's status and metrics to a broker, and orders from it.

use std::time::Duration;

use cutline_runtime::{
    agent::{Agent, Reporter},
    mqtt::{Command, Mqtt, MqttOptions, Order},
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

/// How often it is looked whether the status has changed.
const LOOK: Duration = Duration::from_secs(1);

/// An agent's task that publishes.
pub(super) struct Publishing {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Publishing {
    /// Starts to publish what an agent is and does. Must be called within a runtime.
    pub(super) fn start(options: MqttOptions, every: Duration, agent: &Agent) -> Self {
        let (stop, stopped) = oneshot::channel();
        let reporter = agent.reporter();
        let (mqtt, orders) = Mqtt::start(options, status(&reporter));
        Self { stop, task: tokio::spawn(publish(mqtt, orders, reporter, every, stopped)) }
    }

    /// Takes leave of the broker.
    pub(super) async fn finish(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn publish(
    mqtt: Mqtt,
    mut orders: mpsc::Receiver<Order>,
    mut reporter: Reporter,
    every: Duration,
    mut stopped: oneshot::Receiver<()>,
) {
    let [mut look, mut metrics] = [LOOK, every].map(|every| {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.reset();
        ticks
    });
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = look.tick() => mqtt.status(status(&reporter)),
            _ = metrics.tick() => mqtt.metrics(&report(&mut reporter)),
            Some(Order { command, answer }) = orders.recv() => {
                let result = match command {
                    Command::Ping => Ok(Value::Null),
                    Command::Status => Ok(status(&reporter)),
                    Command::Metrics => Ok(report(&mut reporter)),
                    Command::Pause | Command::Resume | Command::Stop | Command::Route { .. } => {
                        Err("that is an order for a run; this is an agent".to_owned())
                    }
                };
                mqtt.answer(answer, result);
            }
        }
    }
    mqtt.finish(Duration::ZERO).await;
}

/// What the agent is, as an object.
fn status(reporter: &Reporter) -> Value {
    let mut status = json!({ "kind": "agent" });
    let about = reporter.status().and_then(|about| serde_json::to_value(about).ok());
    if let (Value::Object(status), Some(Value::Object(about))) = (&mut status, about) {
        status.extend(about);
    }
    status
}

/// What it did since it was asked last.
fn report(reporter: &mut Reporter) -> Value {
    reporter.report().and_then(|report| serde_json::to_value(report).ok()).unwrap_or_default()
}
