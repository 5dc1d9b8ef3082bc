//! A program's way to an MQTT broker: its results, its status, its metrics, and orders to it.
//!
//! ```text
//! results ─▶ outbox, bounded ─▶ connection ─▶ <prefix>/results         QoS 1, in order
//! status ────────────────────▶            ─▶ <prefix>/status          QoS 1, retained; also the will
//! metrics ───────────────────▶            ─▶ <prefix>/metrics         QoS 0
//! orders ◀───────────────────             ◀─ <prefix>/control         only where it was asked for
//! answers ───────────────────▶            ─▶ <prefix>/control/answer  QoS 1
//! ```
//!
//! A result leaves the outbox when the broker has acknowledged it; a connection that breaks is made
//! anew, after a wait that doubles, and what was not acknowledged is sent again. So each result arrives
//! at least once while this process lives, and whoever reads them knows a repetition by its `id`: the
//! flag for repetitions that this client sets is for the broker, which does not pass it on. Tensors do not
//! travel this way: a payload is bounded.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};

mod backoff;
mod broker;
mod keeper;
mod orders;
mod outbox;
mod session;

pub use broker::{Broker, BrokerError, Password, Reach, Version, check_prefix, check_url};
pub use orders::{Command, MAX_ORDER};
pub use outbox::{Delivery, Full};

use crate::agent::Remark;
use keeper::Keeper;
use orders::Reply;
use outbox::Outbox;

/// Largest payload of a result or of metrics, in bytes.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// Orders that may wait to be carried out; more are refused.
const ORDERS: usize = 8;

/// Statuses, metrics and answers that may wait to be sent; more are dropped.
const TELLS: usize = 32;

/// How a program talks to its broker.
#[derive(Clone)]
pub struct MqttOptions {
    /// Which.
    pub broker: Broker,
    /// What all its topics begin with.
    pub prefix: String,
    /// Room for results that the broker has not acknowledged, in bytes.
    pub room: usize,
    /// Whether orders are taken.
    pub control: bool,
    /// Told when a connection is made or lost.
    pub remark: Remark,
}

impl MqttOptions {
    fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }
}

/// A handle to the connection, which ends with it; what is not acknowledged by then is lost.
#[derive(Debug)]
pub struct Mqtt {
    shared: Arc<Shared>,
    tells: mpsc::Sender<Tell>,
}

/// An order that came over the control topic.
#[derive(Debug)]
pub struct Order {
    /// What is asked for.
    pub command: Command,
    /// Whom to answer.
    pub answer: Answer,
}

/// Whom to answer.
#[derive(Clone, Debug)]
pub struct Answer {
    id: Value,
    reply: Reply,
}

/// What the handle and the connection's task share.
#[derive(Debug)]
struct Shared {
    outbox: Mutex<Outbox>,
    /// There is something new to send.
    pushed: Notify,
    /// Something was acknowledged.
    moved: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the connection's task is told.
#[derive(Debug)]
enum Tell {
    Status(Value),
    Metrics(Bytes),
    Answer(Reply, Bytes),
    Finish(oneshot::Sender<()>),
}

impl Mqtt {
    /// Starts to keep a connection, which is dialled at once and as often as it takes. `status` is an
    /// object that tells others what this program is. Also returns where orders come in; none do
    /// unless the options say so. Must run within a tokio runtime.
    pub fn start(options: MqttOptions, status: Value) -> (Self, mpsc::Receiver<Order>) {
        let shared = Arc::new(Shared {
            outbox: Mutex::new(Outbox::new(options.room)),
            pushed: Notify::new(),
            moved: Notify::new(),
        });
        let (orders, taken) = mpsc::channel(ORDERS);
        let (tells, told) = mpsc::channel(TELLS);
        let orders = options.control.then_some(orders);
        // Without random numbers of the system, all clients that start now wait alike: no harm.
        let seed = getrandom::u64().unwrap_or_default();
        let keeper = Keeper::new(options, status, Arc::clone(&shared), orders, told, seed);
        tokio::spawn(keeper.run());
        (Self { shared, tells }, taken)
    }

    /// Takes a result, which is sent as soon as may be.
    pub fn publish(&self, payload: Bytes) -> Result<(), Full> {
        self.shared.lock().push(payload)?;
        self.shared.pushed.notify_one();
        Ok(())
    }

    /// The same where the oldest result that was never sent makes room for it, if there is none.
    pub fn publish_newest(&self, payload: Bytes) {
        {
            let mut outbox = self.shared.lock();
            while !outbox.has_room() && outbox.drop_oldest() {}
            // All that is left is with the broker: the new one is too many by itself.
            let _ = outbox.push(payload);
        }
        self.shared.pushed.notify_one();
    }

    /// Whether a result can be taken.
    pub fn has_room(&self) -> bool {
        self.shared.lock().has_room()
    }

    /// Resolves when a result can be taken.
    pub async fn room(&self) {
        self.when(Outbox::has_room).await;
    }

    /// Says what this program is, to those who are there and those who come later.
    pub fn status(&self, status: Value) {
        let _ = self.tells.try_send(Tell::Status(status));
    }

    /// Says what it measured; lost where nobody is connected.
    pub fn metrics(&self, metrics: &Value) {
        let payload = Bytes::from(metrics.to_string());
        if payload.len() <= MAX_PAYLOAD {
            let _ = self.tells.try_send(Tell::Metrics(payload));
        }
    }

    /// Answers an order: what it came to, or why it is refused. Lost where the connection is.
    pub fn answer(&self, answer: Answer, result: Result<Value, String>) {
        let mut payload = orders::answer(&answer.id, result);
        if payload.len() > MAX_PAYLOAD {
            let text = format!("the answer has {} bytes, which are too many", payload.len());
            payload = orders::answer(&answer.id, Err(text));
        }
        let _ = self.tells.try_send(Tell::Answer(answer.reply, payload));
    }

    /// What became of the results so far.
    pub fn delivery(&self) -> Delivery {
        self.shared.lock().delivery()
    }

    /// Waits for the broker to acknowledge every result, no longer than `patience`; then says that
    /// the program ends, and ends the connection. Two seconds more at most.
    pub async fn finish(self, patience: Duration) -> Delivery {
        let _ = tokio::time::timeout(patience, self.when(Outbox::is_empty)).await;
        let (done, finished) = oneshot::channel();
        if self.tells.send(Tell::Finish(done)).await.is_ok() {
            let _ = finished.await;
        }
        self.delivery()
    }

    async fn when(&self, is_so: impl Fn(&Outbox) -> bool) {
        loop {
            let moved = self.shared.moved.notified();
            tokio::pin!(moved);
            // From here on no acknowledgement is missed.
            moved.as_mut().enable();
            if is_so(&self.shared.lock()) {
                return;
            }
            moved.await;
        }
    }
}
