//! The task that keeps a connection to the broker, and makes another when it breaks.

use std::{
    collections::{BTreeSet, VecDeque},
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{
    Answer, MqttOptions, Order, Shared, Tell,
    backoff::Backoff,
    orders::{self, Command, Reply},
    session::{Heard, Outgo, Session},
};
use crate::client::clock::unix_nanos;

/// A broker that leaves a message unacknowledged for so long is dialled anew.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is looked whether it does.
const WATCH: Duration = Duration::from_secs(1);

/// Time to take leave.
const PARTING: Duration = Duration::from_secs(2);

/// Room that a packet needs beside its payload and its topic.
const HEADER: usize = 256;

/// See the module.
pub(super) struct Keeper {
    options: MqttOptions,
    shared: Arc<Shared>,
    orders: Option<mpsc::Sender<Order>>,
    tells: mpsc::Receiver<Tell>,
    backoff: Backoff,
    began: Instant,
    /// What the broker is told of us when we come, as an object.
    status: Value,
    /// Largest packet that the broker takes.
    largest: usize,
    /// Statuses that were sent over this connection, as places among the messages to be named; and
    /// their identifiers.
    unnamed: VecDeque<Kind>,
    statuses: BTreeSet<u16>,
    /// The trouble that was told last, so that it is not told at every attempt.
    told: Option<String>,
}

/// A message that has no identifier yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Result,
    Status,
    Answer,
}

/// Why a connection is given up.
enum End {
    Broken(String),
    Finished(oneshot::Sender<()>),
}

impl Keeper {
    pub(super) fn new(
        options: MqttOptions,
        status: Value,
        shared: Arc<Shared>,
        orders: Option<mpsc::Sender<Order>>,
        tells: mpsc::Receiver<Tell>,
        seed: u64,
    ) -> Self {
        Self {
            options,
            shared,
            orders,
            tells,
            backoff: Backoff::new(seed),
            began: Instant::now(),
            status,
            largest: usize::MAX,
            unnamed: VecDeque::new(),
            statuses: BTreeSet::new(),
            told: None,
        }
    }

    /// Runs until it is told to finish, or nobody is there to tell it.
    pub(super) async fn run(mut self) {
        loop {
            let repetitions = self.repetitions();
            let will = self.status_message("offline", Some("connection lost"));
            let mut session = Session::open(&self.options.broker, will, repetitions);
            let end = self.serve(&mut session).await;
            match end {
                End::Finished(done) => {
                    self.part(session).await;
                    let _ = done.send(());
                    return;
                }
                End::Broken(why) => self.broken(&why),
            }
            drop(session);
            if let Some(done) = self.pause().await {
                let _ = done.send(());
                return;
            }
        }
    }

    /// What a connection before this one did not have acknowledged, to be sent first.
    fn repetitions(&mut self) -> VecDeque<Outgo> {
        self.unnamed.clear();
        self.statuses.clear();
        let now = self.began.elapsed();
        let mut messages = VecDeque::new();
        let mut outbox = self.shared.lock();
        while outbox.has_repetitions() {
            let Some(leaving) = outbox.hand(now) else { break };
            self.unnamed.push_back(Kind::Result);
            messages.push_back(self.result(leaving.payload, true));
        }
        messages
    }

    async fn serve(&mut self, session: &mut Session) -> End {
        let mut connected = false;
        // It goes on whatever else happens: where results come all the time, it would never be its turn.
        let mut watch = interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if connected {
                self.hand(session);
            }
            tokio::select! {
                heard = session.heard() => match heard {
                    Heard::Connected { most, largest } => {
                        connected = true;
                        self.connected(session, most, largest);
                    }
                    Heard::Ended(why) => return End::Broken(why),
                    heard => self.heard(session, heard),
                },
                tell = self.tells.recv() => match tell {
                    Some(Tell::Finish(done)) => return End::Finished(done),
                    Some(tell) => self.tell(tell, connected.then_some(&*session)),
                    None => return End::Finished(oneshot::channel().0),
                },
                () = self.shared.pushed.notified(), if connected => {}
                _ = watch.tick() => if self.is_stuck() {
                    let text = format!("nothing was acknowledged for {} s", PATIENCE.as_secs());
                    return End::Broken(text);
                },
            }
        }
    }

    fn connected(&mut self, session: &Session, most: u64, largest: usize) {
        self.largest = largest;
        self.shared.lock().connected(most);
        self.told = None;
        (self.options.remark)(&format!("MQTT: connected to {}", self.options.broker.place()));
        if self.orders.is_some() {
            session.subscribe(&self.options.topic("control"));
        }
        self.publish_status(session, "online", None);
    }

    fn heard(&mut self, session: &Session, heard: Heard) {
        match heard {
            Heard::Named(packet) => match self.unnamed.pop_front() {
                Some(Kind::Result) => self.shared.lock().named(packet),
                Some(Kind::Status) => drop(self.statuses.insert(packet)),
                Some(Kind::Answer) | None => {}
            },
            Heard::Acknowledged(packet, refused) => {
                match &refused {
                    None => self.backoff.succeeded(),
                    Some(why) => self.trouble(&format!("the broker refuses a message: {why}")),
                }
                if !self.statuses.remove(&packet) {
                    self.shared.lock().acknowledged(packet, refused.is_some());
                    self.shared.moved.notify_waiters();
                }
            }
            Heard::Subscribed(granted) => {
                if !granted {
                    self.trouble("the broker does not let this client read its control topic");
                }
            }
            Heard::Message { payload, retained, reply } => {
                self.order(session, &payload, retained, reply);
            }
            Heard::Connected { .. } | Heard::Ended(_) => {}
        }
    }

    /// Hands out results as far as may be.
    fn hand(&mut self, session: &Session) {
        let now = self.began.elapsed();
        loop {
            let mut outbox = self.shared.lock();
            let Some(leaving) = outbox.hand(now) else { return };
            let again = leaving.again;
            let message = self.result(leaving.payload, again);
            let fits = message.payload.len() + message.topic.len() + HEADER <= self.largest;
            match fits {
                true if session.publish(message) => self.unnamed.push_back(Kind::Result),
                true => return outbox.returned(again),
                false => {
                    outbox.refused();
                    drop(outbox);
                    self.shared.moved.notify_waiters();
                    let text =
                        format!("a result is larger than the {} B of the broker", self.largest);
                    self.trouble(&text);
                }
            }
        }
    }

    fn is_stuck(&self) -> bool {
        let oldest = self.shared.lock().oldest_handed();
        oldest.is_some_and(|since| since + PATIENCE < self.began.elapsed())
    }

    /// Does what the rest of the program wants.
    fn tell(&mut self, tell: Tell, session: Option<&Session>) {
        match tell {
            Tell::Status(status) if status == self.status => {}
            Tell::Status(status) => {
                self.status = status;
                if let Some(session) = session {
                    self.publish_status(session, "online", None);
                }
            }
            Tell::Metrics(payload) => {
                let topic = self.options.topic("metrics");
                // The next ones are as good.
                session.map(|session| session.publish(plain(topic, payload, false)));
            }
            Tell::Answer(reply, payload) => {
                if let Some(session) = session {
                    self.answer(session, reply, payload);
                }
            }
            Tell::Finish(_) => {}
        }
    }

    // Control.

    fn order(&mut self, session: &Session, payload: &Bytes, retained: bool, reply: Reply) {
        let (id, command) = orders::parse(payload, retained);
        let refuse = |error: String| orders::answer(&id, Err(error));
        let payload = match (command, &self.orders) {
            (Err(error), _) => refuse(error),
            (Ok(Command::Ping), _) => {
                let version = env!("CARGO_PKG_VERSION");
                let unix_ms = unix_nanos() / 1_000_000;
                orders::answer(&id, Ok(json!({ "version": version, "unix_ms": unix_ms })))
            }
            (Ok(_), None) => return,
            (Ok(command), Some(orders)) => {
                let answer = Answer { id: id.clone(), reply: reply.clone() };
                match orders.try_send(Order { command, answer }) {
                    Ok(()) => return,
                    Err(_) => refuse("other orders have not been carried out yet".to_owned()),
                }
            }
        };
        self.answer(session, reply, payload);
    }

    fn answer(&mut self, session: &Session, reply: Reply, payload: Bytes) {
        let topic = reply.topic.unwrap_or_else(|| self.options.topic("control/answer"));
        let correlation = reply.correlation;
        let message = Outgo { at_least_once: true, correlation, ..plain(topic, payload, false) };
        if session.publish(message) {
            self.unnamed.push_back(Kind::Answer);
        }
    }

    // What is said.

    fn result(&self, payload: Bytes, again: bool) -> Outgo {
        let topic = self.options.topic("results");
        Outgo { at_least_once: true, again, ..plain(topic, payload, false) }
    }

    fn status_message(&self, state: &str, reason: Option<&str>) -> Outgo {
        let mut status = json!({ "state": state });
        if let Some(reason) = reason {
            status["reason"] = reason.into();
        }
        if let (Value::Object(status), Value::Object(about)) = (&mut status, &self.status) {
            status.extend(about.clone());
        }
        let payload = status.to_string().into();
        Outgo { at_least_once: true, ..plain(self.options.topic("status"), payload, true) }
    }

    fn publish_status(&mut self, session: &Session, state: &str, reason: Option<&str>) {
        if session.publish(self.status_message(state, reason)) {
            self.unnamed.push_back(Kind::Status);
        }
    }

    // Ends.

    fn broken(&mut self, why: &str) {
        self.shared.lock().lost();
        let place = self.options.broker.place();
        self.trouble(&format!("no connection to {place}, trying again: {why}"));
    }

    /// Says what is wrong, unless that was the last that was said.
    fn trouble(&mut self, text: &str) {
        if self.told.as_deref() != Some(text) {
            (self.options.remark)(&format!("MQTT: {text}"));
            self.told = Some(text.to_owned());
        }
    }

    /// Waits before the next attempt; whom to tell that it is over, where it is.
    async fn pause(&mut self) -> Option<oneshot::Sender<()>> {
        let until = Instant::now() + self.backoff.failed();
        loop {
            tokio::select! {
                () = sleep_until(until.into()) => return None,
                tell = self.tells.recv() => match tell {
                    Some(Tell::Finish(done)) => return Some(done),
                    Some(tell) => self.tell(tell, None),
                    None => return Some(oneshot::channel().0),
                },
            }
        }
    }

    /// Says that it ends by its own will, and takes leave.
    async fn part(&mut self, mut session: Session) {
        // What waits for a name or an acknowledgement is waited for no longer than this.
        let _ = timeout(PARTING, async {
            self.statuses.clear();
            self.publish_status(&session, "offline", Some("ended"));
            while self.unnamed.contains(&Kind::Status) || !self.statuses.is_empty() {
                match session.heard().await {
                    Heard::Ended(_) => return,
                    heard => self.heard(&session, heard),
                }
            }
            session.disconnect();
            loop {
                match session.heard().await {
                    Heard::Ended(_) => return,
                    _ => future::ready(()).await,
                }
            }
        })
        .await;
    }
}

/// A message that is not acknowledged.
fn plain(topic: String, payload: Bytes, retain: bool) -> Outgo {
    Outgo { topic, payload, at_least_once: false, retain, again: false, correlation: None }
}
