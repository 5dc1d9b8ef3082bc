//! The agents of a test bed: each can be killed, frozen and started again while others go on.
//!
//! No lock is held while an agent starts, which may take a minute: its state says that it starts, and
//! it can be killed in that state as in any other.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use cutline_runtime::testbed::namespace::{self, Namespace, Signal};

use super::inside::Event;
use crate::{
    fleet::{AgentOptions, Announcement},
    output::Output,
};

/// Lines of an agent's last words that an error repeats.
const LAST_WORDS: usize = 20;
/// The longest line that is taken from an agent.
const LONGEST_LINE: u64 = 64 << 10;
/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// What a device's agent is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Another server is expected here.
    NoAgent,
    /// It does not run, for this reason.
    Down(String),
    /// Its process is there, but does not listen yet.
    Starting(Option<u32>),
    Running(u32),
    /// It is stopped, and can go on.
    Frozen(u32),
}

impl State {
    /// One word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            State::NoAgent => "no agent",
            State::Down(_) => "down",
            State::Starting(_) => "starting",
            State::Running(_) => "running",
            State::Frozen(_) => "frozen",
        }
    }

    pub(super) fn process(&self) -> Option<u32> {
        match self {
            State::NoAgent | State::Down(_) => None,
            State::Starting(process) => *process,
            State::Running(process) | State::Frozen(process) => Some(*process),
        }
    }
}

/// A device of the test bed.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) space: Namespace,
    options: Option<AgentOptions>,
    inner: Mutex<Inner>,
    changed: Condvar,
    output: Output,
}

struct Inner {
    state: State,
    /// Whether its end was asked for.
    expected: bool,
}

impl Device {
    /// One whose agent does not run yet.
    pub(super) fn new(
        name: String,
        space: Namespace,
        options: Option<AgentOptions>,
        output: Output,
    ) -> Self {
        let state = match options {
            Some(_) => State::Down("not started yet".to_owned()),
            None => State::NoAgent,
        };
        let inner = Mutex::new(Inner { state, expected: false });
        Self { name, space, options, inner, changed: Condvar::new(), output }
    }

    /// What its agent is doing.
    pub(super) fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Starts its agent and waits until it listens.
    pub(super) fn start(self: &Arc<Self>, spawner: &Sender<Event>) -> anyhow::Result<()> {
        let Some(options) = &self.options else {
            bail!("device `{}` has another server, which a testbed does not start", self.name);
        };
        {
            let mut inner = self.lock();
            if !matches!(inner.state, State::Down(_)) {
                bail!("the agent of `{}` is {} already", self.name, inner.state.word());
            }
            inner.state = State::Starting(None);
            inner.expected = false;
        }
        self.launch(options, spawner).inspect_err(|error| {
            let why = format!("{error:#}");
            self.becomes(State::Down(why.lines().next().unwrap_or_default().to_owned()));
        })
    }

    fn launch(
        self: &Arc<Self>,
        options: &AgentOptions,
        spawner: &Sender<Event>,
    ) -> anyhow::Result<()> {
        let mut command = self.space.command(std::env::current_exe()?);
        options.pass_to(&mut command);
        namespace::end_with_thread(&mut command);
        // Ctrl-C is for the command that runs on the source; agents end after it.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(spawner, command)?;
        self.becomes(State::Starting(Some(child.id())));
        let words = self.listen_to(&mut child);
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            // What cannot be read is no announcement.
            let _ = BufReader::new(stdout.take(LONGEST_LINE)).read_line(&mut line);
        }
        if serde_json::from_str::<Announcement>(&line).is_err() {
            // It may go on although what it says is not understood.
            let _ = child.kill();
            let status = child.wait()?;
            let words = words.join().unwrap_or_default().join("\n  ");
            bail!("the agent of `{}` did not start ({status}):\n  {words}", self.name);
        }
        self.becomes(State::Running(child.id()));
        let device = Arc::clone(self);
        // Its standard input, by whose end it would leave, stays open in the child's record.
        thread::spawn(move || device.await_end(child));
        Ok(())
    }

    /// Passes on what an agent says to people, and keeps the last of it.
    fn listen_to(&self, child: &mut Child) -> JoinHandle<Vec<String>> {
        let (stderr, name, output) = (child.stderr.take(), self.name.clone(), self.output);
        thread::spawn(move || {
            let mut last = VecDeque::new();
            let mut reader = stderr.map(BufReader::new);
            while let Some(reader) = &mut reader {
                let mut line = Vec::new();
                match reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
                    Ok(1..) => {}
                    _ => break,
                }
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                output.note(format!("[{name}] {line}"));
                last.push_back(line);
                if last.len() > LAST_WORDS {
                    last.pop_front();
                }
            }
            last.into()
        })
    }

    fn await_end(&self, mut child: Child) {
        let stdin = child.stdin.take();
        let status = child.wait();
        drop(stdin);
        let why = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let expected = self.lock().expected;
        if !expected {
            self.output.note(format!("the agent of `{}` ended: {why}", self.name));
        }
        self.becomes(State::Down(why));
    }

    /// Kills its agent, and waits until it is gone.
    pub(super) fn kill(&self) -> anyhow::Result<()> {
        let mut inner = self.lock();
        let Some(process) = inner.state.process() else {
            return Err(self.not(&inner.state, "killed"));
        };
        inner.expected = true;
        namespace::signal(process, Signal::Kill).context("cannot kill it")?;
        let start = Instant::now();
        while !matches!(inner.state, State::Down(_)) {
            if start.elapsed() > GONE {
                bail!("process {process} of `{}` is still there after {GONE:?}", self.name);
            }
            let waited = self.changed.wait_timeout(inner, GONE);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Freezes its agent.
    pub(super) fn freeze(&self) -> anyhow::Result<()> {
        let mut inner = self.lock();
        let State::Running(process) = inner.state else {
            return Err(self.not(&inner.state, "stopped"));
        };
        namespace::signal(process, Signal::Stop).context("cannot stop it")?;
        inner.state = State::Frozen(process);
        Ok(())
    }

    /// Lets its agent go on.
    pub(super) fn thaw(&self) -> anyhow::Result<()> {
        let mut inner = self.lock();
        let State::Frozen(process) = inner.state else {
            return Err(self.not(&inner.state, "continued"));
        };
        namespace::signal(process, Signal::Continue).context("cannot continue it")?;
        inner.state = State::Running(process);
        Ok(())
    }

    /// Says nothing of its end from now on.
    pub(super) fn expect_end(&self) {
        self.lock().expected = true;
    }

    fn not(&self, state: &State, done: &str) -> anyhow::Error {
        anyhow::anyhow!("the agent of `{}` cannot be {done}: it is {}", self.name, state.word())
    }

    fn becomes(&self, state: State) {
        self.lock().state = state;
        self.changed.notify_all();
    }

    /// A thread that panicked left a state behind that is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the main thread start a program: a child is to end with the thread that started it, and that
/// one stays to the end.
fn spawn(spawner: &Sender<Event>, command: Command) -> anyhow::Result<Child> {
    let (reply, answer) = mpsc::channel();
    spawner.send(Event::Spawn(Box::new(command), reply)).context("the testbed is ending")?;
    let child = answer.recv().context("the testbed is ending")?;
    child.context("cannot start an agent")
}
