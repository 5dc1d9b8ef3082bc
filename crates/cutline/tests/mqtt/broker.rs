//! A mosquitto of the test's own, which can be killed and started again, and a client that listens to it.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use tempfile::TempDir;

/// How long anything may take that should take far less.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// A broker with its own folder and port, gone with this value.
#[derive(Debug)]
pub(crate) struct Mosquitto {
    program: PathBuf,
    pub(crate) folder: TempDir,
    pub(crate) port: u16,
    child: Child,
    starts: usize,
}

/// A message as it came.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) retained: bool,
}

/// A client that notes what is published, through every restart of the broker: its session is kept by
/// the broker while it is away.
pub(crate) struct Listener {
    client: Client,
    heard: Arc<Mutex<Vec<Message>>>,
}

/// The broker's program, where it is installed.
pub(crate) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join("mosquitto")).find(|file| file.is_file())
}

impl Mosquitto {
    /// A broker that anybody may use, and that keeps what it has on disk; `None`, with a word of why,
    /// where none is installed.
    pub(crate) fn open() -> anyhow::Result<Option<Self>> {
        Self::with("allow_anonymous true\n", |_| Ok(()))
    }

    /// The same with a configuration of its own; `prepare` is given its folder, `{folder}` stands for it.
    pub(crate) fn with(
        settings: &str,
        prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(program) = program() else {
            eprintln!(
                "skipped: there is no mosquitto here; install the Debian package `mosquitto`"
            );
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        prepare(folder.path())?;
        for _ in 0..5 {
            // Somebody else may take the port meanwhile: then another.
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let place = folder.path().to_str().context("an odd folder")?;
            let text = format!(
                "listener {port} 127.0.0.1\nuser root\npersistence true\npersistence_location {place}/\n\
                 autosave_interval 1\nautosave_on_changes true\nmax_queued_messages 0\n\
                 log_dest file {place}/log\nlog_type error\nlog_type warning\nlog_type notice\nlog_type information\n{}",
                settings.replace("{folder}", place)
            );
            fs::write(folder.path().join("mosquitto.conf"), text)?;
            let mut child = start(&program, folder.path())?;
            if is_ready(&mut child, folder.path(), 1) {
                return Ok(Some(Self { program, folder, port, child, starts: 1 }));
            }
        }
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        bail!("mosquitto does not start:\n{log}")
    }

    /// `mqtt://...`.
    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Ends it by a signal, such as `TERM`, upon which it writes down what it has, or `KILL`; messages
    /// that arrive in the last moments it has not seen.
    pub(crate) fn end(&mut self, signal: &str) -> anyhow::Result<()> {
        self.signal("STOP")?;
        thread::sleep(Duration::from_millis(100));
        self.signal(signal)?;
        self.signal("CONT")?;
        self.child.wait()?;
        Ok(())
    }

    /// What it noted.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Starts it again on its port.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.child = start(&self.program, self.folder.path())?;
        self.starts += 1;
        let is_ready = is_ready(&mut self.child, self.folder.path(), self.starts);
        ensure!(is_ready, "mosquitto does not come back");
        Ok(())
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let (signal, process) = (format!("-{signal}"), self.child.id().to_string());
        Command::new("kill").args([&signal, &process]).stderr(Stdio::null()).status()?;
        Ok(())
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether it runs, at last, as it notes for the time of this number; false where it has ended. It is not
/// tried out: a broker that speaks TLS takes a connection that says nothing for an error, of which
/// mosquitto 2.0.11 then accuses the next client.
fn is_ready(child: &mut Child, folder: &Path, starts: usize) -> bool {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return false;
        }
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        if log.lines().filter(|line| line.ends_with(" running")).count() >= starts {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

fn start(program: &Path, folder: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    command.arg("-c").arg(folder.join("mosquitto.conf")).stdin(Stdio::null());
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

impl Listener {
    /// Listens to a filter of topics; returns when it does.
    pub(crate) fn start(options: MqttOptions, filter: &str) -> anyhow::Result<Self> {
        let (client, mut connection) = Client::new(options, 64);
        let heard: Arc<Mutex<Vec<Message>>> = Arc::default();
        let (notes, filter, again) = (Arc::clone(&heard), filter.to_owned(), client.clone());
        let (subscribed, ready) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        if again.subscribe(&filter, QoS::AtLeastOnce).is_err() {
                            return;
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(subscribed.send(())),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let (topic, retained) = (publish.topic, publish.retain);
                        let message = Message { topic, payload: publish.payload.into(), retained };
                        notes.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                    }
                    Ok(_) => {}
                    Err(_) => thread::sleep(Duration::from_millis(50)),
                }
            }
        });
        ready.recv_timeout(PATIENCE).context("the broker does not let anybody listen")?;
        Ok(Self { client, heard })
    }

    /// A session that the broker keeps, under a name.
    pub(crate) fn options(broker: &Mosquitto, name: &str) -> MqttOptions {
        let mut options = MqttOptions::new(name, "127.0.0.1", broker.port);
        options.set_clean_session(false).set_max_packet_size(1 << 20, 1 << 20);
        options
    }

    /// Publishes.
    pub(crate) fn say(&self, topic: &str, payload: &str) -> anyhow::Result<()> {
        Ok(self.client.publish(topic, QoS::AtLeastOnce, false, payload)?)
    }

    /// What came so far.
    pub(crate) fn heard(&self) -> Vec<Message> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a message of which this is so.
    pub(crate) fn wait(
        &self,
        what: &str,
        is_it: impl Fn(&Message) -> bool,
    ) -> anyhow::Result<Message> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(found) = self.heard().into_iter().find(&is_it) {
                return Ok(found);
            }
            thread::sleep(Duration::from_millis(20));
        }
        let heard = self.heard();
        let last: Vec<String> = heard.iter().rev().take(9).map(Message::text).collect();
        let count = heard.len();
        bail!("{what} did not come within {PATIENCE:?}; {count} came, the last ones: {last:#?}")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Its thread ends with the connection.
        let _ = self.client.try_disconnect();
    }
}

impl Message {
    /// As JSON; null where it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }

    fn text(&self) -> String {
        format!("{}: {}", self.topic, String::from_utf8_lossy(&self.payload))
    }
}
