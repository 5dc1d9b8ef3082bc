//! The process in the user namespace: builds the network, starts the agents, and ends everything.
//!
//! Its main thread starts every program, for each is to end with the thread that started it; what
//! takes time is done by others, which tell it of what happens.

use std::{
    io,
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use cutline_runtime::{
    files::write_bytes,
    testbed::{
        namespace::{self, Signal},
        network::Network,
    },
};
use serde::Serialize;

use super::{
    Job,
    bed::Bed,
    control::{self, Controls},
    devices::Device,
    outside::{Signals, code},
};
use crate::output::Output;

/// How long the command may take to end after Ctrl-C, and after it was asked to.
const GRACE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(2)];

/// What the main thread is told.
pub(super) enum Event {
    /// Start this, and answer.
    Spawn(Box<Command>, Sender<io::Result<Child>>),
    /// All agents listen, or one does not.
    Started(anyhow::Result<()>),
    /// The command has ended.
    Ended(io::Result<ExitStatus>),
    /// Somebody wants an end.
    Stop(Signal),
}

/// First line under `--json`.
#[derive(Serialize)]
struct Ready<'a> {
    testbed: &'a str,
    devices: Vec<Address<'a>>,
}

#[derive(Serialize)]
struct Address<'a> {
    name: &'a str,
    address: &'a str,
}

pub(super) fn run(job: &Job, folder: &Path, output: &Output) -> anyhow::Result<ExitCode> {
    let socket = control::find(None)?;
    let own = namespace::user_namespace(std::process::id())?;
    let result = control::listen(&socket).and_then(|listener| {
        let result = serve(job, folder, &socket, listener, output);
        // Only one's own: where another has the name, it goes on listening.
        let _ = std::fs::remove_file(&socket);
        result
    });
    namespace::sweep(&own);
    // The one outside does it too, unless it was killed.
    let _ = std::fs::remove_dir_all(folder);
    result
}

fn serve(
    job: &Job,
    folder: &Path,
    socket: &Path,
    listener: UnixListener,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let bed = Bed::read(&job.platform, job.no_delay)?;
    let network = Network::build(bed.layout.clone(), bed.congestion.as_deref())?;
    let device = |(index, agent): (usize, &Option<_>)| {
        let name = bed.layout.nodes[index].name.clone();
        let agent = agent.clone().map(|agent: crate::fleet::AgentOptions| {
            crate::fleet::AgentOptions { store: folder.join(index.to_string()), ..agent }
        });
        Arc::new(Device::new(name, network.space(index).clone(), agent, *output))
    };
    let devices: Vec<Arc<Device>> = bed.agents.iter().enumerate().map(device).collect();
    let (events, queue) = mpsc::channel();
    stop_on_signals(events.clone())?;
    start_all(&bed, &devices, &events);
    let controls = Controls {
        devices: devices.clone(),
        addresses: bed.addresses.clone(),
        network: Mutex::new(network),
        events: events.clone(),
    };
    control::serve(listener, Arc::new(controls));
    let main = Main { job, bed: &bed, socket, devices: &devices, events, output };
    let result = main.run(&queue);
    devices.iter().for_each(|device| device.expect_end());
    result
}

/// Starts all agents at once, in threads.
fn start_all(bed: &Bed, devices: &[Arc<Device>], events: &Sender<Event>) {
    let agents = devices.iter().zip(&bed.agents).filter(|(_, agent)| agent.is_some());
    let start = |(device, _): (&Arc<Device>, _)| {
        let (device, events) = (Arc::clone(device), events.clone());
        thread::spawn(move || device.start(&events))
    };
    let starting: Vec<_> = agents.map(start).collect();
    let events = events.clone();
    thread::spawn(move || {
        let results = starting.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("the thread failed")),
        });
        // All are waited for, so that none is still starting when the first error is told.
        let results: Vec<_> = results.collect();
        let _ = events.send(Event::Started(results.into_iter().collect()));
    });
}

fn stop_on_signals(events: Sender<Event>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let mut signals = runtime.block_on(async { Signals::new() })?;
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let signal = signals.next().await;
                if events.send(Event::Stop(signal)).is_err() {
                    return;
                }
            }
        });
    });
    Ok(())
}

struct Main<'a> {
    job: &'a Job,
    bed: &'a Bed,
    socket: &'a Path,
    devices: &'a [Arc<Device>],
    events: Sender<Event>,
    output: &'a Output,
}

impl Main<'_> {
    fn run(&self, queue: &Receiver<Event>) -> anyhow::Result<ExitCode> {
        let mut ready = false;
        let mut command: Option<u32> = None;
        let mut ending: Option<Ending> = None;
        loop {
            let event = match &ending {
                None => queue.recv().context("no thread is left")?,
                Some(ending) => match queue.recv_timeout(ending.left()) {
                    Ok(event) => event,
                    Err(RecvTimeoutError::Timeout) => Event::Stop(Signal::Terminate),
                    Err(error) => return Err(error).context("no thread is left"),
                },
            };
            match event {
                Event::Spawn(mut command, reply) => {
                    // Who does not wait any more loses the child, which the end sweeps away.
                    let _ = reply.send(command.spawn());
                }
                Event::Started(result) => {
                    result?;
                    self.announce()?;
                    ready = true;
                    command = self.start_command()?;
                }
                Event::Ended(status) => return Ok(code(status?)),
                Event::Stop(signal) => match command {
                    None if ready && self.job.command.is_empty() => return Ok(ExitCode::SUCCESS),
                    None => return Ok(ExitCode::from(130)),
                    Some(process) => Ending::next(&mut ending, signal, process),
                },
            }
        }
    }

    /// Says that all agents listen.
    fn announce(&self) -> anyhow::Result<()> {
        if let Some(path) = &self.job.output {
            write_bytes(path, self.bed.platform_file(path)?)?;
        }
        let nodes = self.devices.iter().zip(&self.bed.addresses);
        let devices = nodes.map(|(node, address)| Address { name: &node.name, address });
        let ready = Ready { testbed: &self.job.name, devices: devices.collect() };
        if !self.job.command.is_empty() {
            return Ok(());
        }
        if self.output.is_json() {
            return self.output.line(&ready).map(drop);
        }
        for device in &ready.devices {
            self.output.note(format!("{} listens on {}", device.name, device.address));
        }
        let name = match ready.testbed {
            control::NAME => String::new(),
            name => format!("--name {name} "),
        };
        self.output.note(format!(
            "from elsewhere: cutline testbed status|exec|set|cut|restore|kill|stop|cont|start {name}; Ctrl-C ends it"
        ));
        Ok(())
    }

    /// Starts the command on the source, if there is one.
    fn start_command(&self) -> anyhow::Result<Option<u32>> {
        let Some((program, arguments)) = self.job.command.split_first() else { return Ok(None) };
        let mut command = self.devices[0].space.command(program);
        command.args(arguments).env(control::VARIABLE, self.socket);
        namespace::end_with_thread(&mut command);
        let child = command.spawn();
        let mut child = child.with_context(|| format!("cannot run `{}`", program.display()))?;
        let (process, events) = (child.id(), self.events.clone());
        thread::spawn(move || events.send(Event::Ended(child.wait())));
        Ok(Some(process))
    }
}

/// How far the end of the command has come.
struct Ending {
    asked: bool,
    since: Instant,
    until: Instant,
}

impl Ending {
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Ctrl-C reaches the command by itself, and twice ourselves; then it is asked to end, then killed.
    fn next(ending: &mut Option<Ending>, signal: Signal, process: u32) {
        let now = Instant::now();
        let asked = match (&ending, signal) {
            (None, Signal::Interrupt) => false,
            (Some(before), Signal::Interrupt)
                if before.since.elapsed() < Duration::from_secs(1) =>
            {
                return;
            }
            (Some(Ending { asked: true, .. }), _) => {
                // It may have ended by itself.
                let _ = namespace::signal(process, Signal::Kill);
                true
            }
            _ => {
                let _ = namespace::signal(process, Signal::Terminate);
                true
            }
        };
        *ending = Some(Ending { asked, since: now, until: now + GRACE[usize::from(asked)] });
    }
}
