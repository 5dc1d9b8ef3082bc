//! What a broker of the test's own hears that leaves messages unacknowledged and cuts the connection.
#![allow(clippy::unwrap_used)]

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::BytesMut;
use cutline_runtime::mqtt::{Broker, Mqtt, MqttOptions, Reach, Version};
use rumqttc::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish,
    v5::mqttbytes::v5::{Packet as Packet5, PubAck as PubAck5},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A message on the results' topic: its payload, and whether it says that it is a repetition.
type Heard = (String, bool);

/// The broker's side of a connection.
struct Far {
    stream: TcpStream,
    buffer: BytesMut,
    version: Version,
    /// What came and is not acknowledged, and whether it is a result: acknowledgements keep the order of
    /// what they acknowledge, as the protocol demands.
    open: VecDeque<(u16, bool)>,
}

impl Far {
    /// Takes a connection, over which so many messages may be unacknowledged.
    async fn accept(listener: &TcpListener, version: Version, most: u16) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let (buffer, open) = (BytesMut::new(), VecDeque::new());
        let mut far = Self { stream, buffer, version, open };
        let mut out = BytesMut::new();
        match version {
            Version::V3 => {
                assert!(matches!(far.read3().await, Packet::Connect(_)));
                ConnAck::new(ConnectReturnCode::Success, false).write(&mut out).unwrap();
            }
            Version::V5 => {
                assert!(matches!(far.read5().await, Packet5::Connect(..)));
                // A packet of success, without a session, with one property: the receive maximum.
                let [high, low] = most.to_be_bytes();
                out.extend_from_slice(&[0x20, 6, 0, 0, 3, 0x21, high, low]);
            }
        }
        far.stream.write_all(&out).await.unwrap();
        far
    }

    async fn read3(&mut self) -> Packet {
        loop {
            if let Ok(packet) = Packet::read(&mut self.buffer, 1 << 20) {
                return packet;
            }
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the client left");
        }
    }

    async fn read5(&mut self) -> Packet5 {
        loop {
            if let Ok(packet) = Packet5::read(&mut self.buffer, None) {
                return packet;
            }
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the client left");
        }
    }

    /// The next result, with its identifier; what else comes is acknowledged when it is its turn.
    async fn result(&mut self) -> (Heard, u16) {
        loop {
            let (topic, payload, again, packet) = match self.version {
                Version::V3 => match self.read3().await {
                    Packet::Publish(Publish { topic, payload, dup, pkid, .. }) => {
                        (topic, payload, dup, pkid)
                    }
                    _ => continue,
                },
                Version::V5 => match self.read5().await {
                    Packet5::Publish(publish) => {
                        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                        (topic, publish.payload, publish.dup, publish.pkid)
                    }
                    _ => continue,
                },
            };
            let is_result = topic == "test/results";
            self.open.push_back((packet, is_result));
            if is_result {
                return ((String::from_utf8(payload.to_vec()).unwrap(), again), packet);
            }
            self.acknowledge_others().await;
        }
    }

    /// Acknowledges the oldest result, which is this one.
    async fn acknowledge(&mut self, packet: u16) {
        assert_eq!(self.open.pop_front(), Some((packet, true)));
        self.send(packet).await;
        self.acknowledge_others().await;
    }

    async fn acknowledge_others(&mut self) {
        while let Some(&(packet, false)) = self.open.front() {
            self.open.pop_front();
            self.send(packet).await;
        }
    }

    async fn send(&mut self, packet: u16) {
        let mut out = BytesMut::new();
        match self.version {
            Version::V3 => {
                PubAck::new(packet).write(&mut out).unwrap();
            }
            Version::V5 => {
                Packet5::PubAck(PubAck5::new(packet, None)).write(&mut out, None).unwrap();
            }
        }
        self.stream.write_all(&out).await.unwrap();
    }
}

async fn begin(version: Version) -> (TcpListener, Mqtt) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let client_id = "test".to_owned();
    let broker = Broker::new(&Reach { url: &url, version, client_id, ..Reach::default() }).unwrap();
    let options = MqttOptions {
        broker,
        prefix: "test".to_owned(),
        room: 1 << 20,
        control: false,
        remark: Arc::new(|_| {}),
    };
    let (mqtt, _) = Mqtt::start(options, json!({}));
    (listener, mqtt)
}

fn heard(number: u32, again: bool) -> Heard {
    (number.to_string(), again)
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_first_in_order_and_says_so() {
    for version in [Version::V3, Version::V5] {
        let (listener, mqtt) = begin(version).await;
        let mut far = Far::accept(&listener, version, 20).await;
        (0..5).for_each(|number: u32| mqtt.publish(number.to_string().into()).unwrap());
        let mut packets = Vec::new();
        for number in 0..5 {
            let (result, packet) = far.result().await;
            assert_eq!(result, heard(number, false));
            packets.push(packet);
        }
        far.acknowledge(packets[0]).await;
        while mqtt.delivery().acknowledged < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(far);
        let mut far = Far::accept(&listener, version, 20).await;
        mqtt.publish("5".into()).unwrap();
        for number in 1..6 {
            let (result, packet) = far.result().await;
            assert_eq!(result, heard(number, number < 5), "{version:?}");
            far.acknowledge(packet).await;
        }
        let ending = tokio::spawn(mqtt.finish(Duration::from_secs(20)));
        // Takes the leave, too.
        let last = tokio::time::timeout(Duration::from_secs(20), async {
            let mut rest = Vec::new();
            while far.stream.read_buf(&mut rest).await.is_ok_and(|read| read > 0) {
                far.send(6).await;
                far.send(7).await;
            }
        });
        let _ = last.await;
        let delivery = ending.await.unwrap();
        assert!(delivery.is_whole(), "{delivery:?}");
        assert_eq!((delivery.repeated, delivery.connections), (4, 2));
    }
}

#[tokio::test]
async fn a_broker_of_mqtt_5_is_never_given_more_than_it_takes_at_a_time() {
    let (listener, mqtt) = begin(Version::V5).await;
    (0..40).for_each(|number: u32| mqtt.publish(number.to_string().into()).unwrap());
    let mut far = Far::accept(&listener, Version::V5, 12).await;
    for number in 0..12 {
        assert_eq!(far.result().await.0, heard(number, false));
    }
    drop(far);
    let mut far = Far::accept(&listener, Version::V5, 3).await;
    let mut packets = Vec::new();
    for number in 0..3 {
        let (result, packet) = far.result().await;
        assert_eq!(result, heard(number, true));
        packets.push(packet);
    }
    let more = tokio::time::timeout(Duration::from_millis(300), far.result()).await;
    assert!(more.is_err(), "{more:?} came although three were not acknowledged");
    for number in 3..40 {
        far.acknowledge(packets.remove(0)).await;
        if number == 12 {
            // After the repetitions comes the status, which takes a place of its own.
            far.acknowledge(packets.remove(0)).await;
        }
        let (result, packet) = far.result().await;
        assert_eq!(result, heard(number, number < 12));
        packets.push(packet);
    }
}

/// It answers signs of life, so that nothing else gives it away.
#[tokio::test]
async fn a_broker_that_acknowledges_nothing_is_dialled_anew_also_while_results_come() {
    let (listener, mqtt) = begin(Version::V3).await;
    let far = Far::accept(&listener, Version::V3, 20).await;
    let (mut ears, mut mouth) = far.stream.into_split();
    let listening = async {
        let mut heard = Vec::new();
        while ears.read_buf(&mut heard).await.is_ok_and(|read| read > 0) {
            heard.clear();
        }
    };
    let alive = async {
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        // What answers a sign of life.
        while mouth.write_all(&[0xd0, 0]).await.is_ok() {
            beat.tick().await;
        }
    };
    let publishing = async {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        loop {
            mqtt.publish_newest("{}".into());
            beat.tick().await;
        }
    };
    let again = async {
        tokio::join!(listening, alive, Far::accept(&listener, Version::V3, 20));
    };
    let again = tokio::time::timeout(Duration::from_secs(60), async {
        tokio::select! {
            () = again => {}
            () = publishing => {}
        }
    });
    assert!(again.await.is_ok(), "it stays with a broker that acknowledges nothing");
}
