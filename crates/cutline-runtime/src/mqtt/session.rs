//! One connection to a broker, whichever version of the protocol it speaks.
//!
//! The client library keeps the packets of a connection; what has to outlive it is kept by the outbox.
//! So every connection begins with a clean session, and a task of its own drives it until it breaks:
//! what the library does is not given up halfway, and if it should panic the connection is lost, no more.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectionError as Error3, Event as Event3, EventLoop as Loop3, LastWill as Will3,
    MqttOptions as Options3, Outgoing, Packet as Packet3, Publish as Publish3, QoS,
    Request as Request3, SubscribeReasonCode, TlsConfiguration, Transport,
    v5::{
        AsyncClient as AsyncClient5, ConnectionError as Error5, Event as Event5,
        EventLoop as Loop5, MqttOptions as Options5, Request as Request5,
        mqttbytes::{
            QoS as QoS5,
            v5::{
                ConnectProperties, LastWill as Will5, Packet as Packet5, PubAckReason,
                Publish as Publish5, PublishProperties, SubscribeReasonCode as SubscribeReason5,
            },
        },
    },
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    broker::{Broker, Version},
    orders::{MAX_ORDER, Reply},
};
use crate::stage::chain;

/// Time between two signs of life; a broker that is silent for twice as long is taken for gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Packet identifiers of a connection: more than are ever unacknowledged, so that none is used again
/// while a broker that acknowledges out of order still has it.
const IDENTIFIERS: u16 = 128;

/// Requests that may wait for the library: more than the outbox hands out at a time.
const REQUESTS: usize = 64;

/// Events that may wait to be read.
const EVENTS: usize = 64;

/// Largest packet that is read, in bytes; a larger one ends the connection. Orders above their own limit
/// are refused with an answer, up to here.
const MAX_INCOMING: usize = 16 * MAX_ORDER;

/// Largest packet that is sent, in bytes.
const MAX_OUTGOING: usize = 1 << 20;

/// A message to a topic.
#[derive(Clone, Debug)]
pub(super) struct Outgo {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    /// It is acknowledged by the broker.
    pub(super) at_least_once: bool,
    /// The broker keeps it for those who come later.
    pub(super) retain: bool,
    /// It may have arrived already.
    pub(super) again: bool,
    /// For who knows its question by it.
    pub(super) correlation: Option<Bytes>,
}

/// What a connection says.
#[derive(Debug)]
pub(super) enum Heard {
    /// It is made; over it so many messages may be unacknowledged, of at most so many bytes.
    Connected { most: u64, largest: usize },
    /// The oldest message that is to be acknowledged has a packet identifier.
    Named(u16),
    /// The broker has a message, or says why it does not want it.
    Acknowledged(u16, Option<String>),
    /// Orders come in from now on, or the broker does not permit it.
    Subscribed(bool),
    /// Somebody published to a topic of ours.
    Message { payload: Bytes, retained: bool, reply: Reply },
    /// It is over.
    Ended(String),
}

#[derive(Clone, Debug)]
enum Client {
    V3(AsyncClient),
    V5(AsyncClient5),
}

/// A connection being made or in use; dropped, it is cut.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    heard: mpsc::Receiver<Heard>,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Dials a broker. `will` is what it publishes when the connection breaks; `repetitions` are sent
    /// first, each under the flag of a repetition.
    pub(super) fn open(broker: &Broker, will: Outgo, repetitions: VecDeque<Outgo>) -> Self {
        let (told, heard) = mpsc::channel(EVENTS);
        let (client, task) = match broker.version {
            Version::V3 => {
                let (client, events) = AsyncClient::new(options3(broker, will), REQUESTS);
                let repetitions = repetitions.into_iter().map(publish3).map(Request3::Publish);
                let task = tokio::spawn(drive3(events, repetitions.collect(), told));
                (Client::V3(client), task)
            }
            Version::V5 => {
                let (client, events) = AsyncClient5::new(options5(broker, will), REQUESTS);
                let repetitions = repetitions.into_iter().map(publish5).map(Request5::Publish);
                let task = tokio::spawn(drive5(events, repetitions.collect(), told));
                (Client::V5(client), task)
            }
        };
        Self { client, heard, task }
    }

    /// What happens next. May be given up on and called again.
    pub(super) async fn heard(&mut self) -> Heard {
        let gone = || Heard::Ended("the connection's task ended".to_owned());
        self.heard.recv().await.unwrap_or_else(gone)
    }

    /// Hands a message to the connection; false where it takes none.
    pub(super) fn publish(&self, message: Outgo) -> bool {
        match &self.client {
            Client::V3(client) => {
                let Publish3 { topic, qos, retain, payload, .. } = publish3(message);
                client.try_publish(topic, qos, retain, payload).is_ok()
            }
            Client::V5(client) => {
                let topic = message.topic.clone();
                let Publish5 { qos, retain, payload, properties, .. } = publish5(message);
                let properties = properties.unwrap_or_default();
                let sent =
                    client.try_publish_with_properties(topic, qos, retain, payload, properties);
                sent.is_ok()
            }
        }
    }

    /// Asks for what is published to a topic.
    pub(super) fn subscribe(&self, topic: &str) -> bool {
        match &self.client {
            Client::V3(client) => client.try_subscribe(topic, QoS::AtLeastOnce).is_ok(),
            Client::V5(client) => client.try_subscribe(topic, QoS5::AtLeastOnce).is_ok(),
        }
    }

    /// Takes leave, so that the will is not published.
    pub(super) fn disconnect(&self) -> bool {
        match &self.client {
            Client::V3(client) => client.try_disconnect().is_ok(),
            Client::V5(client) => client.try_disconnect().is_ok(),
        }
    }
}

fn options3(broker: &Broker, will: Outgo) -> Options3 {
    let mut options = Options3::new(&broker.client_id, &broker.host, broker.port);
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_inflight(IDENTIFIERS)
        .set_max_packet_size(MAX_INCOMING, MAX_OUTGOING)
        .set_last_will(Will3::new(will.topic, will.payload, QoS::AtLeastOnce, will.retain));
    if let Some((user, password)) = &broker.login {
        options.set_credentials(user, password);
    }
    if let Some(tls) = &broker.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    options
}

fn options5(broker: &Broker, will: Outgo) -> Options5 {
    let mut options = Options5::new(&broker.client_id, &broker.host, broker.port);
    let mut properties = ConnectProperties::new();
    properties.max_packet_size = u32::try_from(MAX_INCOMING).ok();
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(true)
        .set_connect_properties(properties)
        .set_outgoing_inflight_upper_limit(IDENTIFIERS)
        .set_last_will(Will5::new(will.topic, will.payload, QoS5::AtLeastOnce, will.retain, None));
    if let Some((user, password)) = &broker.login {
        options.set_credentials(user, password);
    }
    if let Some(tls) = &broker.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    options
}

fn publish3(message: Outgo) -> Publish3 {
    let qos = if message.at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    let mut publish = Publish3::new(message.topic, qos, Vec::new());
    (publish.payload, publish.retain) = (message.payload, message.retain);
    publish.dup = message.again;
    publish
}

fn publish5(message: Outgo) -> Publish5 {
    let qos = if message.at_least_once { QoS5::AtLeastOnce } else { QoS5::AtMostOnce };
    let properties = PublishProperties {
        content_type: Some("application/json".to_owned()),
        correlation_data: message.correlation,
        ..PublishProperties::default()
    };
    let mut publish = Publish5::new(message.topic, qos, message.payload, Some(properties));
    (publish.retain, publish.dup) = (message.retain, message.again);
    publish
}

/// Drives a connection of MQTT 3.1.1 until it breaks, or nobody listens.
async fn drive3(mut events: Loop3, repetitions: VecDeque<Request3>, told: mpsc::Sender<Heard>) {
    loop {
        let heard = match events.poll().await {
            Ok(Event3::Incoming(Packet3::ConnAck(_))) => {
                events.pending.extend(repetitions.iter().cloned());
                Heard::Connected { most: u64::from(IDENTIFIERS), largest: MAX_OUTGOING }
            }
            // Identifier 0 is that of messages which are not acknowledged.
            Ok(Event3::Outgoing(Outgoing::Publish(packet))) if packet > 0 => Heard::Named(packet),
            Ok(Event3::Incoming(Packet3::PubAck(ack))) => Heard::Acknowledged(ack.pkid, None),
            Ok(Event3::Incoming(Packet3::SubAck(ack))) => {
                Heard::Subscribed(!ack.return_codes.contains(&SubscribeReasonCode::Failure))
            }
            Ok(Event3::Incoming(Packet3::Publish(publish))) => Heard::Message {
                payload: publish.payload,
                retained: publish.retain,
                reply: Reply::default(),
            },
            Ok(_) => continue,
            Err(error) => Heard::Ended(match error {
                Error3::ConnectionRefused(code) => format!("the broker refuses it: {code:?}"),
                error => chain(&error),
            }),
        };
        let ended = matches!(heard, Heard::Ended(_));
        if told.send(heard).await.is_err() || ended {
            return;
        }
    }
}

/// The same for MQTT 5.
async fn drive5(mut events: Loop5, mut repetitions: VecDeque<Request5>, told: mpsc::Sender<Heard>) {
    loop {
        let heard = match events.poll().await {
            Ok(Event5::Incoming(Packet5::ConnAck(ack))) => {
                let properties = ack.properties.as_ref();
                let most = properties.and_then(|properties| properties.receive_max);
                let most = most.unwrap_or(u16::MAX).clamp(1, IDENTIFIERS);
                let first = repetitions.len().min(usize::from(most));
                events.pending.extend(repetitions.drain(..first));
                let largest = properties.and_then(|properties| properties.max_packet_size);
                let largest = largest.and_then(|size| usize::try_from(size).ok());
                let largest = largest.unwrap_or(MAX_OUTGOING).min(MAX_OUTGOING);
                Heard::Connected { most: u64::from(most), largest }
            }
            Ok(Event5::Outgoing(Outgoing::Publish(packet))) if packet > 0 => Heard::Named(packet),
            Ok(Event5::Incoming(Packet5::PubAck(ack))) => {
                // The broker has room for the next of those that it could not take all at once.
                events.pending.extend(repetitions.pop_front());
                let taken = [PubAckReason::Success, PubAckReason::NoMatchingSubscribers];
                let why = (!taken.contains(&ack.reason)).then(|| format!("{:?}", ack.reason));
                Heard::Acknowledged(ack.pkid, why)
            }
            Ok(Event5::Incoming(Packet5::SubAck(ack))) => {
                let granted = |code: &_| matches!(code, SubscribeReason5::Success(_));
                Heard::Subscribed(ack.return_codes.iter().all(granted))
            }
            Ok(Event5::Incoming(Packet5::Publish(publish))) => {
                let Publish5 { payload, retain, properties, .. } = publish;
                let properties = properties.unwrap_or_default();
                let reply = Reply::new(properties.response_topic, properties.correlation_data);
                Heard::Message { payload, retained: retain, reply }
            }
            Ok(_) => continue,
            Err(error) => Heard::Ended(match error {
                Error5::ConnectionRefused(code) => format!("the broker refuses it: {code:?}"),
                error => chain(&error),
            }),
        };
        let ended = matches!(heard, Heard::Ended(_));
        if told.send(heard).await.is_err() || ended {
            return;
        }
    }
}
