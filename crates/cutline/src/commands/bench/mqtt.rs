//! Calls over an MQTT broker, as IoT platforms make them: one half publishes the request and waits for
//! the answer, the other is subscribed to requests, calls whom they are for and publishes what comes
//! back. For comparison only: plans never send tensors this way.
//!
//! ```text
//! request   id (8 bytes) │ message
//! answer    id (8 bytes) │ nanoseconds of the call (8 bytes) │ gRPC code (1 byte) │ message, or error
//! ```

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use rumqttc::{
    NetworkOptions,
    v5::{
        AsyncClient, Event, EventLoop, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{Packet, PubAckReason},
        },
    },
};
use tokio::sync::oneshot;
use tonic::{Code, Status};

/// Largest packet that MQTT knows.
const LARGEST_PACKET: u32 = 268_435_455;

/// Bytes of a packet beside its payload: header, topic, id, properties.
const AROUND: u64 = 256;

/// How long the broker may take for the connection, or a call for its answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// An address such as `mqtt://user:password@host:1883`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broker {
    host: String,
    port: u16,
    login: Option<(String, String)>,
}

impl FromStr for Broker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected mqtt://HOST:PORT, such as mqtt://127.0.0.1:1883".to_owned();
        let rest = text.strip_prefix("mqtt://").ok_or_else(expected)?;
        let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(l, p)| (Some(l), p));
        let login = login.map(|login| login.split_once(':').unwrap_or((login, "")));
        let place = place.trim_end_matches('/');
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| expected())?),
            None => (place, 1883),
        };
        if host.is_empty() {
            return Err(expected());
        }
        let login = login.map(|(name, word)| (name.to_owned(), word.to_owned()));
        Ok(Self { host: host.to_owned(), port, login })
    }
}

/// What answers a request at the far half.
pub(super) type Serve = Arc<dyn Fn(Bytes) -> Serving + Send + Sync>;
pub(super) type Serving = Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>>;

/// What came back, and how long the far half waited for it.
pub(super) struct Reply {
    pub(super) message: Result<Bytes, Status>,
    pub(super) called: Duration,
}

/// The near half, and the connection of the far one; both end with it.
pub(super) struct Way {
    broker: String,
    client: AsyncClient,
    topic: String,
    largest: u64,
    next: AtomicU64,
    waiting: Arc<Waiting>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Calls without an answer yet, by id; or why there are none any more.
struct Waiting(Mutex<Result<BTreeMap<u64, oneshot::Sender<Reply>>, String>>);

impl Waiting {
    fn add(&self, id: u64) -> Result<oneshot::Receiver<Reply>, String> {
        let (sender, receiver) = oneshot::channel();
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.as_mut().map_err(|reason| reason.clone())?.insert(id, sender);
        Ok(receiver)
    }

    fn take(&self, id: u64) -> Option<oneshot::Sender<Reply>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut().ok()?.remove(&id)
    }

    /// Ends all calls, and those to come.
    fn end(&self, reason: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Err(reason);
    }

    fn why(&self) -> String {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.as_ref().err().cloned().unwrap_or_else(|| "the call was given up".to_owned())
    }
}

impl Way {
    /// Connects both halves; requests go by `topic`/request, answers by `topic`/answer.
    pub(super) async fn open(broker: &Broker, topic: String, serve: Serve) -> anyhow::Result<Self> {
        let named = format!("the broker at {}:{}", broker.host, broker.port);
        let (requests, answers) = (format!("{topic}/request"), format!("{topic}/answer"));
        let (far, far_events, _) =
            connect(broker, &requests).await.with_context(|| named.clone())?;
        let (client, events, largest) =
            connect(broker, &answers).await.with_context(|| named.clone())?;
        let waiting = Arc::new(Waiting(Mutex::new(Ok(BTreeMap::new()))));
        let answer = move |payload: Bytes| {
            let (far, topic, serve) = (far.clone(), answers.clone(), Arc::clone(&serve));
            tokio::spawn(async move { answer(&far, topic, &serve, payload).await });
        };
        let (near, ended) = (Arc::clone(&waiting), Arc::clone(&waiting));
        let take = move |payload: Bytes| {
            if let Some((id, reply)) = read_answer(payload)
                && let Some(call) = near.take(id)
            {
                let _ = call.send(reply);
            }
        };
        let also_ended = Arc::clone(&waiting);
        let tasks = vec![
            tokio::spawn(listen(far_events, answer, move |why| also_ended.end(why))),
            tokio::spawn(listen(events, take, move |why| ended.end(why))),
        ];
        let next = AtomicU64::new(0);
        Ok(Self { broker: named, client, topic: requests, largest, next, waiting, tasks })
    }

    /// Has the far half answer a message.
    pub(super) async fn call(&self, message: &Bytes) -> Result<Reply, Status> {
        let bytes = message.len() as u64 + AROUND;
        if bytes > self.largest {
            return Err(Status::resource_exhausted(format!(
                "{} takes packets of at most {} bytes and this message makes one of {bytes}; cut where less crosses, or raise the broker's limit (mosquitto: max_packet_size)",
                self.broker, self.largest
            )));
        }
        let id = self.next.fetch_add(1, Relaxed);
        let broken = |reason: String| {
            Status::unavailable(format!(
                "{} did not bring a message of {} bytes there and back: {reason}; it may have a limit of its own (mosquitto: message_size_limit)",
                self.broker,
                message.len()
            ))
        };
        let answer = self.waiting.add(id).map_err(broken)?;
        let mut payload = BytesMut::with_capacity(8 + message.len());
        payload.put_u64(id);
        payload.put_slice(message);
        let sent = self.client.publish(&*self.topic, QoS::AtLeastOnce, false, payload.freeze());
        sent.await.map_err(|error| broken(error.to_string()))?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(broken(self.waiting.why())),
            Err(_) => {
                self.waiting.take(id);
                Err(broken(format!("no answer came within {} s", PATIENCE.as_secs())))
            }
        }
    }
}

/// A connection that is subscribed to a topic, and the largest packet that the broker takes.
async fn connect(broker: &Broker, topic: &str) -> anyhow::Result<(AsyncClient, EventLoop, u64)> {
    let mut options = MqttOptions::new(topic.replace('/', "-"), &*broker.host, broker.port);
    options.set_max_packet_size(Some(LARGEST_PACKET));
    let mut network = NetworkOptions::new();
    // Nagle's algorithm would have the end of every message wait for an acknowledgement.
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    if let Some((name, word)) = &broker.login {
        options.set_credentials(name, word);
    }
    let (client, mut events) = AsyncClient::new(options, 16);
    client.subscribe(topic, QoS::AtLeastOnce).await?;
    let mut largest = LARGEST_PACKET;
    let subscribed = async {
        loop {
            match events.poll().await? {
                Event::Incoming(Packet::ConnAck(ack)) => {
                    let limit = ack.properties.and_then(|properties| properties.max_packet_size);
                    largest = limit.unwrap_or(largest);
                }
                Event::Incoming(Packet::SubAck(_)) => return anyhow::Ok(()),
                _ => {}
            }
        }
    };
    match tokio::time::timeout(PATIENCE, subscribed).await {
        Ok(done) => done?,
        Err(_) => bail!("it did not answer within {} s", PATIENCE.as_secs()),
    }
    Ok((client, events, u64::from(largest)))
}

/// Takes what comes until the connection ends, or the broker refuses what was published.
async fn listen(mut events: EventLoop, mut take: impl FnMut(Bytes), end: impl FnOnce(String)) {
    let why = loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => take(publish.payload),
            Ok(Event::Incoming(Packet::PubAck(ack))) => match ack.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => {}
                reason => break format!("it refused a message ({reason:?})"),
            },
            Ok(_) => {}
            Err(error) => break format!("the connection ended ({error})"),
        }
    };
    end(why);
}

/// The far half's work on one request.
async fn answer(client: &AsyncClient, topic: String, serve: &Serve, mut payload: Bytes) {
    if payload.len() < 8 {
        return;
    }
    let id = payload.get_u64();
    let began = Instant::now();
    let result = serve(payload).await;
    let called = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let (code, message) = match result {
        Ok(message) => (Code::Ok, message),
        Err(status) => (status.code(), Bytes::from(status.message().to_owned())),
    };
    let mut payload = BytesMut::with_capacity(17 + message.len());
    payload.put_u64(id);
    payload.put_u64(called);
    payload.put_u8(u8::try_from(code as i32).unwrap_or(2));
    payload.put_slice(&message);
    // Where the connection is gone, the near half learns it from its own.
    let _ = client.publish(topic, QoS::AtLeastOnce, false, payload.freeze()).await;
}

fn read_answer(mut payload: Bytes) -> Option<(u64, Reply)> {
    if payload.len() < 17 {
        return None;
    }
    let (id, called, code) = (payload.get_u64(), payload.get_u64(), payload.get_u8());
    let message = match Code::from(i32::from(code)) {
        Code::Ok => Ok(payload),
        code => Err(Status::new(code, String::from_utf8_lossy(&payload))),
    };
    Some((id, Reply { message, called: Duration::from_nanos(called) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_a_host_with_perhaps_a_port_and_a_login() {
        let broker = |host: &str, port, login: Option<(&str, &str)>| Broker {
            host: host.to_owned(),
            port,
            login: login.map(|(name, word)| (name.to_owned(), word.to_owned())),
        };
        for (text, expected) in [
            ("mqtt://hub", broker("hub", 1883, None)),
            ("mqtt://127.0.0.1:1884/", broker("127.0.0.1", 1884, None)),
            ("mqtt://[::1]:1884", broker("[::1]", 1884, None)),
            ("mqtt://me:a@b@hub:1", broker("hub", 1, Some(("me", "a@b")))),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for bad in ["hub:1883", "mqtts://hub", "mqtt://", "mqtt://hub:port", "mqtt://:1"] {
            assert!(bad.parse::<Broker>().is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_that_are_cut_short_are_nobodys() {
        for length in 0..17 {
            assert!(read_answer(Bytes::from(vec![0; length])).is_none(), "{length}");
        }
        let (id, reply) = read_answer(Bytes::from(vec![0; 17])).unwrap();
        assert_eq!((id, reply.message.unwrap().len()), (0, 0));
    }
}
