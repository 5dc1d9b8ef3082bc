//! Results, status, metrics and orders over a real mosquitto, which is killed and comes back.
//!
//! Skipped, with a word, where no mosquitto is installed.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command, thread, time::Duration};

use cutline::fleet::{AgentOptions, AgentProcess};
use cutline_runtime::pki::{Authority, Role};
use rumqttc::v5::{
    Client as Client5, Event as Event5, MqttOptions as Options5,
    mqttbytes::{
        QoS as QoS5,
        v5::{Packet as Packet5, PublishProperties},
    },
};
use serde_json::{Value, json};

#[path = "broker.rs"]
mod broker;
#[path = "scene.rs"]
mod scene;

use broker::{Listener, Mosquitto};
use scene::{PREFIX, Results, Said, Scene};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_cutline"))
}

/// Runs so many frames while the broker ends by the signals in turn; what came of it.
fn through_restarts(frames: u32, signals: &[&str], version: &str) -> Option<(Said, Results)> {
    let mut broker = Mosquitto::open().unwrap()?;
    let listener = Listener::start(Listener::options(&broker, "reader"), "test/#").unwrap();
    let scene = Scene::new(binary(), frames, None);
    let more = ["--local", "--rate", "100", "--mqtt-version", version, "--mqtt-wait", "60s"];
    let run = scene.run(binary(), &broker.url(), &more);
    let line = |frame: u32| move |m: &broker::Message| m.json()["frame"] == frame;
    for (at, signal) in (1..).zip(signals) {
        let frame = frames * at / (signals.len() as u32 + 2);
        listener
            .wait("a result", line(frame))
            .unwrap_or_else(|error| panic!("{error}\n{}", broker.log()));
        broker.end(signal).unwrap();
        thread::sleep(Duration::from_millis(300));
        broker.start().unwrap();
    }
    let said = Said::of(run);
    let last = listener.wait("the last result", line(frames - 1));
    assert!(last.is_ok(), "{last:?}\n{}", said.stderr);
    Some((said, Results::of(&listener.heard())))
}

#[test]
fn every_result_arrives_in_order_although_the_broker_ends_twice_and_comes_back() {
    for version in ["3.1.1", "5"] {
        let Some((said, results)) = through_restarts(500, &["TERM", "TERM"], version) else {
            return;
        };
        assert!(said.fine, "{version}: {}", said.stderr);
        assert_eq!(results.frames, (0..500).collect::<Vec<_>>(), "{version}");
        assert_eq!(results.times.len(), 500);
        let delivery = said.delivery();
        assert_eq!((&delivery["results"], &delivery["acknowledged"]), (&json!(500), &json!(500)));
        assert!(delivery["connections"].as_u64() >= Some(3), "{version}: {delivery}");
        assert!(said.stderr.contains("no connection to"), "{}", said.stderr);
    }
}

#[test]
fn a_broker_that_is_killed_at_once_costs_no_result_that_it_had_not_acknowledged() {
    let Some((said, results)) = through_restarts(300, &["KILL", "KILL"], "3.1.1") else { return };
    assert!(said.fine, "{}", said.stderr);
    assert_eq!(said.delivery()["acknowledged"], json!(300), "{}", said.stderr);
    // What it acknowledged and did not write down in its last moments is the broker's to lose.
    assert!(results.times.len() >= 300 - 2 * 16, "{}", results.times.len());
}

#[test]
fn without_a_broker_frames_are_printed_all_the_same_and_the_run_says_what_is_missing() {
    let scene = Scene::new(binary(), 5, None);
    let said =
        Said::of(scene.run(binary(), "mqtt://127.0.0.1:1", &["--local", "--mqtt-wait", "1s"]));
    assert!(!said.fine);
    assert_eq!(said.frames(), 5);
    assert_eq!(said.delivery()["unacknowledged"], json!(5));
    assert!(said.stderr.contains("5 were not acknowledged"), "{}", said.stderr);
}

#[test]
fn when_the_queue_is_full_frames_wait_or_the_oldest_results_are_dropped_and_counted() {
    let Some(mut broker) = Mosquitto::open().unwrap() else { return };
    broker.end("TERM").unwrap();
    let scene = Scene::new(binary(), 40, None);
    let more = ["--local", "--mqtt-queue", "4kB", "--mqtt-wait", "30s"];
    let dropping = [&more[..], &["--mqtt-when-full", "drop-oldest", "--mqtt-wait", "1s"]].concat();
    let dropping = [&dropping[..3], &dropping[5..]].concat();
    let said = Said::of(scene.run(binary(), &broker.url(), &dropping));
    let delivery = said.delivery();
    assert!(delivery["dropped"].as_u64() > Some(20) && !said.fine, "{delivery} {}", said.stderr);
    assert_eq!(said.frames(), 40);

    let run = scene.run(binary(), &broker.url(), &more);
    thread::sleep(Duration::from_secs(1));
    broker.start().unwrap();
    let said = Said::of(run);
    assert!(said.fine, "{}", said.stderr);
    assert_eq!(said.delivery()["acknowledged"], json!(40));
    assert!(said.stderr.contains("before frames can go on"), "{}", said.stderr);
}

fn agent(store: &Path, url: &str, more: &[&str]) -> AgentProcess {
    let mut command = Command::new(binary());
    // What follows is given after the agent's own arguments.
    let options = AgentOptions { store: store.to_owned(), ..AgentOptions::default() };
    options.pass_to(&mut command);
    let mut whole = Command::new(binary());
    let given: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    whole.args(given).args(["--mqtt", url, "--mqtt-topic", "test/agent"]).args(more);
    AgentProcess::start_prepared(whole).unwrap()
}

#[test]
fn an_agent_is_born_measured_asked_and_mourned_over_the_broker() {
    let Some(broker) = Mosquitto::open().unwrap() else { return };
    let listener = Listener::start(Listener::options(&broker, "reader"), "test/#").unwrap();
    let store = tempfile::tempdir().unwrap();
    let mut agent = agent(store.path(), &broker.url(), &["--mqtt-metrics", "1s", "--mqtt-control"]);
    let status = |state: &'static str| {
        move |m: &broker::Message| m.topic == "test/agent/status" && m.json()["state"] == state
    };
    let birth = listener.wait("the birth", status("online")).unwrap().json();
    assert_eq!(
        (&birth["kind"], &birth["engines"][0]),
        (&json!("agent"), &json!("rten")),
        "{birth}"
    );
    let metrics = listener.wait("metrics", |m| m.topic == "test/agent/metrics").unwrap().json();
    assert!(metrics["stages"].is_array() && metrics["time_ns"].is_u64(), "{metrics}");

    let answer_to = |order: &str, id: Value| {
        listener.say("test/agent/control", order).unwrap();
        let is_it =
            |m: &broker::Message| m.topic == "test/agent/control/answer" && m.json()["id"] == id;
        listener.wait("an answer", is_it).unwrap().json()
    };
    let pong = answer_to(r#"{"id": 1, "command": "ping"}"#, json!(1));
    assert!(pong["ok"] == json!(true) && pong["result"]["version"].is_string(), "{pong}");
    let status_then = answer_to(r#"{"id": 2, "command": "status"}"#, json!(2));
    assert_eq!(status_then["result"]["kind"], json!("agent"));
    let foreign = answer_to(r#"{"id": 3, "command": "pause"}"#, json!(3));
    assert!(foreign["ok"] == json!(false), "{foreign}");
    let unknown = answer_to(r#"{"id": 4, "command": "reboot"}"#, json!(4));
    assert!(unknown["error"].as_str().unwrap().contains("reboot"), "{unknown}");
    let rubbish = answer_to(&"x".repeat(100_000), Value::Null);
    assert!(rubbish["error"].as_str().unwrap().contains("100000 bytes"), "{rubbish}");

    agent.kill().unwrap();
    let death = listener.wait("the last will", status("offline")).unwrap().json();
    assert_eq!(death["reason"], json!("connection lost"));
    // Whoever comes later learns it, too.
    let later = Listener::start(Listener::options(&broker, "later"), "test/agent/status").unwrap();
    let retained = later.wait("the retained status", |m| m.retained).unwrap().json();
    assert_eq!(retained["state"], json!("offline"));
}

#[test]
fn an_agent_that_is_told_to_end_says_so_itself() {
    let Some(broker) = Mosquitto::open().unwrap() else { return };
    let listener = Listener::start(Listener::options(&broker, "reader"), "test/#").unwrap();
    let store = tempfile::tempdir().unwrap();
    let agent = agent(store.path(), &broker.url(), &["--mqtt-version", "5"]);
    listener.wait("the birth", |m| m.json()["state"] == "online").unwrap();
    let signalled = Command::new("kill").arg(agent.id().to_string()).status().unwrap();
    assert!(signalled.success());
    let end = listener.wait("the end", |m| m.json()["state"] == "offline").unwrap().json();
    assert_eq!(end["reason"], json!("ended"));
}

#[test]
fn a_run_is_paused_resumed_routed_and_stopped_by_those_who_may_publish_to_its_control_topic() {
    let Some(broker) = Mosquitto::open().unwrap() else { return };
    let listener = Listener::start(Listener::options(&broker, "reader"), "test/#").unwrap();
    let stores = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let agents = stores.each_ref().map(|store| {
        let engine = Some("rten".to_owned());
        let store = store.path().to_owned();
        let options = AgentOptions { engine, threads: Some(1), store, ..AgentOptions::default() };
        AgentProcess::start(binary(), &options).unwrap()
    });
    let addresses = agents.each_ref().map(|agent| agent.address.to_string());
    let scene = Scene::new(binary(), 5_000, Some(addresses));
    let run = scene.run(binary(), &broker.url(), &["--rate", "50", "--mqtt-control"]);
    let results = || Results::of(&listener.heard()).frames.len();
    listener.wait("a result", |m| m.json()["frame"] == 3).unwrap();
    let ask = |id: u64, command: Value| {
        let mut order = json!({ "id": id });
        order.as_object_mut().unwrap().extend(command.as_object().unwrap().clone());
        listener.say(&format!("{PREFIX}/control"), &order.to_string()).unwrap();
        let is_it = |m: &broker::Message| m.topic.ends_with("/answer") && m.json()["id"] == id;
        listener.wait("an answer", is_it).unwrap().json()
    };
    assert_eq!(ask(1, json!({ "command": "pause" }))["result"]["paused"], json!(true));
    thread::sleep(Duration::from_millis(500));
    let paused = results();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(results(), paused, "a run that is paused takes no frames");
    assert_eq!(ask(2, json!({ "command": "resume" }))["result"]["paused"], json!(false));
    let unknown = ask(3, json!({ "command": "route", "route": "moon" }));
    assert!(unknown["error"].as_str().unwrap().contains("here"), "{unknown}");
    assert_eq!(ask(4, json!({ "command": "route", "route": "here" }))["ok"], json!(true));
    listener.wait("a frame here", |m| m.json()["route"] == "here").unwrap();
    let status = ask(5, json!({ "command": "status" }));
    assert!(status["result"]["summary"]["answered"].as_u64() > Some(3), "{status}");
    assert_eq!(ask(6, json!({ "command": "stop" }))["ok"], json!(true));
    let said = Said::of(run);
    assert!(said.fine && said.frames() < 5_000, "{}", said.stderr);
    assert!(said.stderr.contains("it was asked for"), "{}", said.stderr);
    assert_eq!(Results::of(&listener.heard()).frames.len(), said.frames());
}

#[test]
fn under_mqtt_5_an_answer_goes_where_the_order_says() {
    let Some(broker) = Mosquitto::open().unwrap() else { return };
    let store = tempfile::tempdir().unwrap();
    let more = ["--mqtt-version", "5", "--mqtt-control"];
    let _agent = agent(store.path(), &broker.url(), &more);
    let listener = Listener::start(Listener::options(&broker, "reader"), "test/#").unwrap();
    listener.wait("the birth", |m| m.json()["state"] == "online").unwrap();
    // The agent asks for its orders before it says that it is there.
    let (client, mut connection) =
        Client5::new(Options5::new("asker", "127.0.0.1", broker.port), 16);
    client.subscribe("mine", QoS5::AtLeastOnce).unwrap();
    let properties = PublishProperties {
        response_topic: Some("mine".to_owned()),
        correlation_data: Some("who".into()),
        ..PublishProperties::default()
    };
    let order = r#"{"id": "x", "command": "ping"}"#;
    client
        .publish_with_properties("test/agent/control", QoS5::AtLeastOnce, false, order, properties)
        .unwrap();
    let answer = connection.iter().find_map(|event| match event.unwrap() {
        Event5::Incoming(Packet5::Publish(publish)) => Some(publish),
        _ => None,
    });
    let answer = answer.unwrap();
    let properties = answer.properties.unwrap();
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"who"[..]));
    let document: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!((&document["id"], &document["ok"]), (&json!("x"), &json!(true)));
}

/// A broker that speaks TLS alone, knows one user, and lets that user write to some topics.
fn guarded() -> Option<(Mosquitto, tempfile::TempDir)> {
    let keys = tempfile::tempdir().unwrap();
    let authority = Authority::generate().unwrap();
    let of = |name: &str| keys.path().join(name);
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    authority.issue("broker", Role::Agent, &hosts).unwrap().write(&of("broker")).unwrap();
    authority.issue("pi", Role::Client, &[]).unwrap().write(&of("pi")).unwrap();
    Authority::generate().unwrap().write(&of("stranger")).unwrap();
    fs::write(of("password"), "sesame\n").unwrap();
    let settings = format!(
        "allow_anonymous false\npassword_file {{folder}}/passwords\nacl_file {{folder}}/acl\n\
         cafile {0}/broker/ca.pem\ncertfile {0}/broker/identity.pem\nkeyfile {0}/broker/identity.key\n\
         require_certificate true\n",
        keys.path().display()
    );
    let broker = Mosquitto::with(&settings, |folder| {
        fs::write(
            folder.join("acl"),
            "user ada\ntopic readwrite test/run/results\ntopic readwrite test/run/status\n",
        )?;
        let passwords = folder.join("passwords");
        let mut command = Command::new("mosquitto_passwd");
        let made = command.args(["-c", "-b"]).arg(passwords).args(["ada", "sesame"]).status()?;
        anyhow::ensure!(made.success());
        Ok(())
    });
    Some((broker.unwrap()?, keys))
}

#[test]
fn a_broker_is_known_by_its_authority_and_knows_us_by_certificate_and_password() {
    let Some((broker, keys)) = guarded() else { return };
    let scene = Scene::new(binary(), 3, None);
    let of = |name: &str| keys.path().join(name).to_str().unwrap().to_owned();
    let (ca, stranger) = (of("broker/ca.pem"), of("stranger/ca.pem"));
    let (cert, key, password) = (of("pi/identity.pem"), of("pi/identity.key"), of("password"));
    let url = format!("mqtts://localhost:{}", broker.port);
    let mut more = vec!["--local", "--mqtt-user", "ada", "--mqtt-password-file", &password];
    more.extend(["--mqtt-cert", &cert, "--mqtt-key", &key, "--mqtt-ca"]);
    let refused = ["--mqtt-wait", "2s"];
    for version in ["3.1.1", "5"] {
        let more = |ca| [&more[..], &[ca, "--mqtt-version", version]].concat();
        let said = Said::of(scene.run(binary(), &url, &more(&ca)));
        assert!(said.fine, "{version}: {}", said.stderr);
        assert_eq!(said.delivery()["acknowledged"], json!(3), "{version}: {}", said.stderr);
        // A broker of another authority is none.
        let more = [&more(&stranger)[..], &refused].concat();
        let said = Said::of(scene.run(binary(), &url, &more));
        assert!(!said.fine && said.stderr.contains("UnknownIssuer"), "{version}: {}", said.stderr);
        assert_eq!(said.delivery()["connections"], json!(0));
    }
    fs::write(keys.path().join("password"), "open\n").unwrap();
    let more = [&more[..], &[&ca], &refused].concat();
    let said = Said::of(scene.run(binary(), &url, &more));
    assert!(!said.fine && said.stderr.contains("refuses"), "{}", said.stderr);
    assert!(!said.stderr.contains("sesame"));
}

#[test]
fn under_mqtt_5_a_run_whose_results_the_broker_does_not_permit_fails_and_counts_every_one() {
    let settings = "allow_anonymous true\nacl_file {folder}/acl\n";
    let broker = Mosquitto::with(settings, |folder| {
        Ok(fs::write(folder.join("acl"), "topic readwrite test/run/status\n")?)
    });
    let Some(broker) = broker.unwrap() else { return };
    let scene = Scene::new(binary(), 3, None);
    let more = ["--local", "--mqtt-version", "5", "--mqtt-wait", "3s"];
    let said = Said::of(scene.run(binary(), &broker.url(), &more));
    assert!(!said.fine, "{}", said.stderr);
    // mosquitto 2.0.11 ends a connection at some refusals before it has told them.
    let count = |name: &str| said.delivery()[name].as_u64().unwrap();
    let told = (count("acknowledged"), count("refused") + count("unacknowledged"));
    assert_eq!(told, (0, 3), "{}\n{}", said.stderr, broker.log());
    assert!(said.stderr.contains("does not have all of 3 results"), "{}", said.stderr);
}
