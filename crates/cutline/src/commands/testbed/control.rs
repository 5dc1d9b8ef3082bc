//! Orders for a test bed that runs: a Unix socket in a folder that only its user can enter.
//!
//! ```text
//! ["set","pi,cloud","up=2mbit"]\n   ->   {"ok":{...}}\n   or   {"error":["why","because"]}\n
//! ```

use std::{
    env,
    ffi::OsString,
    fs::{self, DirBuilder},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt},
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Arc, Mutex, PoisonError, mpsc::Sender},
    thread,
};

use anyhow::{Context, bail};
use cutline_core::units::{BytesPerSec, Nanos};
use cutline_runtime::testbed::{
    layout::{self, Shape},
    namespace,
    network::{Change, Network},
};
use serde::{Deserialize, Serialize};

use super::{
    bed::parse_loss,
    devices::{Device, State},
    inside::Event,
};
use crate::output::table;

/// What a test bed is called unless told otherwise.
pub(super) const NAME: &str = "testbed";
/// Where commands in a test bed find its socket.
pub(super) const VARIABLE: &str = "CUTLINE_TESTBED";
/// The longest order or answer, in bytes.
const LONGEST: u64 = 1 << 20;

/// How things stand.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// The process that is root of the namespaces.
    process: u32,
    devices: Vec<DeviceReport>,
    links: Vec<LinkReport>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DeviceReport {
    name: String,
    address: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// The file of its network namespace.
    network: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct LinkReport {
    between: [String; 2],
    /// Names of its interface on both devices.
    interface: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<String>,
    cut: bool,
    up_bytes_per_sec: BytesPerSec,
    down_bytes_per_sec: BytesPerSec,
    delay_ns: Nanos,
    jitter_ns: Nanos,
    loss_ppm: u32,
    /// All of it in words.
    shape: String,
}

impl Report {
    /// As tables.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.devices.is_empty() {
            let rows = self.devices.iter().map(|device| {
                let process = device.process.map_or_else(String::new, |id| id.to_string());
                let why = device.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                let state = format!("{}{why}", device.state);
                [device.name.clone(), device.address.clone(), process, state]
            });
            writeln!(out, "{}", table(["device", "address", "process", "agent"], rows))?;
        }
        if !self.links.is_empty() {
            let rows = self.links.iter().map(|link| {
                let cut = if link.cut { "cut; else " } else { "" };
                let card = link.card.clone().unwrap_or_default();
                let shape = format!("{cut}{}", link.shape);
                [link.between.join(","), link.interface.clone(), card, shape]
            });
            writeln!(out, "{}", table(["link", "interface", "card", "shape"], rows))?;
        }
        Ok(())
    }
}

/// A test bed that runs, as orders see it.
pub(super) struct Controls {
    pub(super) devices: Vec<Arc<Device>>,
    pub(super) addresses: Vec<String>,
    pub(super) network: Mutex<Network>,
    pub(super) events: Sender<Event>,
}

impl Controls {
    /// Carries out an order; answers with how the things stand that it touched.
    fn carry_out(&self, words: &[&str]) -> anyhow::Result<Report> {
        match *words {
            ["status"] => Ok(self.report(|_| true, |_| true)),
            ["set", link, ref changes @ ..] if !changes.is_empty() => {
                let changes = changes.iter().map(|change| parse_change(change));
                let changes: Vec<Change> = changes.collect::<Result<_, _>>()?;
                self.on_link(link, |network, link| {
                    changes.iter().try_for_each(|&change| network.set(link, change))
                })
            }
            ["cut", link] => self.on_link(link, Network::cut),
            ["restore", link] => self.on_link(link, Network::restore),
            ["kill", device] => self.on_device(device, |device| device.kill()),
            ["stop", device] => self.on_device(device, |device| device.freeze()),
            ["cont", device] => self.on_device(device, |device| device.thaw()),
            ["start", device] => self.on_device(device, |device| device.start(&self.events)),
            _ => bail!(
                "`{}` is not an order; there are: status, set, cut, restore, kill, stop, cont, start",
                words.join(" ")
            ),
        }
    }

    fn on_link<E: std::error::Error + Send + Sync + 'static>(
        &self,
        name: &str,
        change: impl FnOnce(&mut Network, usize) -> Result<(), E>,
    ) -> anyhow::Result<Report> {
        let medium = {
            let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
            let link = network.layout().link(name)?;
            change(&mut network, link)?;
            network.layout().links[link].medium
        };
        Ok(self.report(|_| false, |its| its == medium))
    }

    fn on_device(
        &self,
        name: &str,
        change: impl FnOnce(&Arc<Device>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Report> {
        let index = {
            let network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
            network.layout().device(name)?
        };
        change(&self.devices[index])?;
        Ok(self.report(|device| device == index, |_| false))
    }

    /// The devices of these numbers, and the links of these media.
    fn report(&self, devices: impl Fn(usize) -> bool, media: impl Fn(usize) -> bool) -> Report {
        let device = |(index, device): (usize, &Arc<Device>)| {
            let state = device.state();
            DeviceReport {
                name: device.name.clone(),
                address: self.addresses[index].clone(),
                state: state.word().to_owned(),
                process: state.process(),
                why: if let State::Down(why) = state { Some(why) } else { None },
                network: device.space.path(),
            }
        };
        let wanted = self.devices.iter().enumerate().filter(|(index, _)| devices(*index));
        let devices = wanted.map(device).collect();
        let network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        let links = network.layout().links.iter().enumerate();
        let links = links.filter(|(_, link)| media(link.medium));
        let links = links.map(|(index, _)| link_report(&network, index)).collect();
        Report { process: std::process::id(), devices, links }
    }
}

fn link_report(network: &Network, index: usize) -> LinkReport {
    let layout = network.layout();
    let link = &layout.links[index];
    let shape = network.shape(index);
    let Shape { rates: [up, down], delay, jitter, loss, .. } = shape;
    LinkReport {
        between: link.between.map(|device| layout.nodes[device].name.clone()),
        interface: Network::interface(link.medium),
        card: layout.media[link.medium].card.clone(),
        cut: network.is_cut(index),
        up_bytes_per_sec: up,
        down_bytes_per_sec: down,
        delay_ns: delay,
        jitter_ns: jitter,
        loss_ppm: loss,
        shape: layout::describe(&shape),
    }
}

/// `up=2mbit` and the like.
fn parse_change(text: &str) -> anyhow::Result<Change> {
    let expected = || {
        format!(
            "`{text}` is not a change such as up=2mbit, down=2mbit, delay=10ms, jitter=2ms or loss=1%"
        )
    };
    let (key, value) = text.split_once('=').with_context(expected)?;
    let mut change = Change::default();
    match key {
        "up" => change.up = Some(value.parse().with_context(expected)?),
        "down" => change.down = Some(value.parse().with_context(expected)?),
        "delay" => change.delay = Some(value.parse().with_context(expected)?),
        "jitter" => change.jitter = Some(value.parse().with_context(expected)?),
        "loss" => change.loss = Some(parse_loss(value).with_context(expected)?),
        _ => bail!(expected()),
    }
    Ok(change)
}

/// Takes orders until the process ends, each caller in a thread of its own.
pub(super) fn serve(listener: UnixListener, controls: Arc<Controls>) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let controls = Arc::clone(&controls);
            // Who does not wait for the answer is not told.
            thread::spawn(move || drop(answer(&stream, &controls)));
        }
    });
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Report),
    Error(Vec<String>),
}

fn answer(stream: &UnixStream, controls: &Controls) -> io::Result<()> {
    let line = read_line(stream)?;
    let result =
        serde_json::from_str::<Vec<String>>(&line).context("an order is a list of words").and_then(
            |words| controls.carry_out(&words.iter().map(String::as_str).collect::<Vec<_>>()),
        );
    let answer = match result {
        Ok(report) => Answer::Ok(report),
        Err(error) => Answer::Error(error.chain().map(ToString::to_string).collect()),
    };
    write_line(stream, &answer)
}

/// Gives an order to the test bed behind a socket.
pub(super) fn ask(socket: &Path, words: &[String]) -> anyhow::Result<Report> {
    let stream = UnixStream::connect(socket).with_context(|| {
        let name = socket.file_stem().unwrap_or_default().display();
        format!("no testbed `{name}` runs (nobody answers at `{}`); start one with `cutline testbed BED.toml`, or name another with --name", socket.display())
    })?;
    write_line(&stream, &words).context("cannot ask the testbed")?;
    let line = read_line(&stream).context("the testbed gave no answer; did it end")?;
    match serde_json::from_str(&line).context("the testbed gave no answer; did it end")? {
        Answer::Ok(report) => Ok(report),
        Answer::Error(causes) => {
            let mut causes = causes.into_iter().rev();
            let first = causes.next().map(|cause| anyhow::anyhow!(cause));
            let error = first.map(|first| causes.fold(first, anyhow::Error::context));
            Err(error.unwrap_or_else(|| anyhow::anyhow!("the testbed refused")))
        }
    }
}

/// Becomes a command on a device.
pub(super) fn exec(socket: &Path, device: &str, words: &[OsString]) -> anyhow::Result<ExitCode> {
    let report = ask(socket, &["status".to_owned()])?;
    let found = report.devices.iter().find(|other| other.name == device).with_context(|| {
        let all: Vec<&str> = report.devices.iter().map(|device| device.name.as_str()).collect();
        format!("there is no device `{device}`; there are: {}", all.join(", "))
    })?;
    let (program, arguments) = words.split_first().context("give a command after `--`")?;
    let mut command = Command::new(program);
    command.args(arguments).env(VARIABLE, socket);
    namespace::join(&mut command, report.process, &found.network)
        .with_context(|| format!("cannot enter the namespace of `{device}`"))?;
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run `{}` on `{device}`", program.display()))
}

fn read_line(stream: &UnixStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    Ok(line)
}

fn write_line(mut stream: &UnixStream, document: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// The socket of the test bed that is meant: of this name, or else the one that we are in.
pub(super) fn find(name: Option<&str>) -> anyhow::Result<PathBuf> {
    match (name, env::var_os(VARIABLE)) {
        (None, Some(socket)) => Ok(socket.into()),
        (name, _) => socket(name.unwrap_or(NAME)),
    }
}

/// The socket of the test bed of this name.
pub(super) fn socket(name: &str) -> anyhow::Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 40 || !name.chars().all(plain) || name.starts_with('.') {
        bail!("`{name}` cannot name a testbed: use up to 40 letters, digits, `.`, `_` and `-`");
    }
    let folder = match env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder).join("cutline"),
        None => env::temp_dir().join(format!("cutline-{}", namespace::user())),
    };
    own(&folder)?;
    Ok(folder.join(format!("{name}.sock")))
}

/// Makes a folder that nobody else can enter, or finds that it is one.
fn own(folder: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make `{}`", folder.display()));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(folder)
        .with_context(|| format!("cannot look at `{}`", folder.display()))?;
    if !found.is_dir() || found.uid() != namespace::user() || found.mode() & 0o077 != 0 {
        bail!(
            "`{}` is not a folder of your own that others cannot enter; remove it, or set XDG_RUNTIME_DIR",
            folder.display()
        );
    }
    Ok(())
}

/// Listens at a socket, in place of one that died.
pub(super) fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    free(socket)?;
    // Where it is not there, there is nothing to remove.
    let _ = fs::remove_file(socket);
    UnixListener::bind(socket).with_context(|| format!("cannot listen at `{}`", socket.display()))
}

/// Fails where a test bed listens at a socket.
pub(super) fn free(socket: &Path) -> anyhow::Result<()> {
    if UnixStream::connect(socket).is_ok() {
        let name = socket.file_stem().unwrap_or_default().display();
        bail!("a testbed `{name}` runs already; end it, or give this one another --name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_words_with_units() {
        let some = |change| parse_change(change).unwrap();
        assert_eq!(
            some("up=2mbit"),
            Change { up: Some(BytesPerSec(250_000)), ..Change::default() }
        );
        assert_eq!(
            some("delay=5ms"),
            Change { delay: Some(Nanos(5_000_000)), ..Change::default() }
        );
        assert_eq!(some("loss=1%"), Change { loss: Some(10_000), ..Change::default() });
        for bad in ["up", "up=", "up=fast", "speed=2mbit", "loss=200%", ""] {
            let error = parse_change(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}` is not a change such as")), "{error}");
        }
    }

    #[test]
    fn names_that_are_no_file_names_are_refused() {
        for bad in ["", "..", "a/b", "a b", &"x".repeat(41)] {
            assert!(socket(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (open, new) = (folder.path().join("open"), folder.path().join("new"));
        DirBuilder::new().mode(0o755).create(&open).unwrap();
        assert!(own(&open).unwrap_err().to_string().contains("open"));
        own(&new).unwrap();
        own(&new).unwrap();
        std::os::unix::fs::symlink(&new, folder.path().join("link")).unwrap();
        assert!(own(&folder.path().join("link")).is_err());
    }
}
