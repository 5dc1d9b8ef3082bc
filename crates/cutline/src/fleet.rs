//! Agents as child processes of this one: the demo's and the benchmark's devices.
//!
//! A child announces its address in its first line of output and ends when its standard input
//! closes, so that none survives its parent, however that one dies.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// First line of an agent's standard output.
#[derive(Debug, Serialize, Deserialize)]
pub struct Announcement {
    /// Where it listens.
    pub listening: SocketAddr,
}

/// How to start one agent.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// `--engine`.
    pub engine: Option<String>,
    /// `--slowdown`.
    pub slowdown: Option<f64>,
    /// `--call-time`, as the command line spells it.
    pub call_time: Option<String>,
    /// `--threads`.
    pub threads: Option<usize>,
    /// `--cores`, as the command line spells it.
    pub cores: Option<String>,
    /// `--memory`, as the command line spells it.
    pub memory: Option<String>,
    /// `--max-batch`.
    pub max_batch: Option<usize>,
    /// `--store`: where it keeps what is deployed to it.
    pub store: PathBuf,
    /// `--listen`, with `--insecure`; absent: a free port of the loopback address.
    pub listen: Option<String>,
    /// `--identity`: the folder of its certificate, by which it speaks mutual TLS.
    pub identity: Option<PathBuf>,
}

impl AgentOptions {
    /// Gives `command`, which is this program, the arguments of such an agent.
    pub fn pass_to(&self, command: &mut Command) {
        command.args(["agent", "--exit-with-stdin", "--quiet", "--json"]);
        match &self.listen {
            Some(listen) => command.args(["--insecure", "--listen", listen]),
            None => command.args(["--listen", "127.0.0.1:0"]),
        };
        if let Some(identity) = &self.identity {
            command.arg("--identity").arg(identity);
        }
        command.arg("--store").arg(&self.store);
        let mut give = |option: &str, value: Option<String>| {
            if let Some(value) = value {
                command.arg(option).arg(value);
            }
        };
        give("--engine", self.engine.clone());
        give("--slowdown", self.slowdown.map(|slowdown| slowdown.to_string()));
        give("--call-time", self.call_time.clone());
        give("--threads", self.threads.map(|threads| threads.to_string()));
        give("--cores", self.cores.clone());
        give("--memory", self.memory.clone());
        give("--max-batch", self.max_batch.map(|frames| frames.to_string()));
    }
}

/// A running agent; dropping it ends the process.
#[derive(Debug)]
pub struct AgentProcess {
    child: Child,
    /// Held open: its end is the agent's sign to leave.
    _stdin: ChildStdin,
    /// Where it listens.
    pub address: SocketAddr,
}

impl AgentProcess {
    /// Starts `binary agent` and waits until it listens.
    pub fn start(binary: &Path, options: &AgentOptions) -> anyhow::Result<Self> {
        Self::start_as(Command::new(binary), options)
    }

    /// The same with a command that was prepared, e.g. to run elsewhere.
    pub fn start_as(mut command: Command, options: &AgentOptions) -> anyhow::Result<Self> {
        options.pass_to(&mut command);
        Self::start_prepared(command)
    }

    /// The same with a command that has all its arguments.
    pub fn start_prepared(mut command: Command) -> anyhow::Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| {
                format!("cannot start `{} agent`", command.get_program().display())
            })?;
        let stdin = child.stdin.take().context("the agent has no standard input")?;
        let stdout = child.stdout.take().context("the agent has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("cannot read the agent's output")?;
        let Ok(announcement) = serde_json::from_str::<Announcement>(&line) else {
            let status = child.wait()?;
            bail!("the agent did not start ({status}); its own words are above");
        };
        Ok(Self { child, _stdin: stdin, address: announcement.listening })
    }

    /// How to dial it: it has no credentials, so in plain text wherever it is.
    pub fn plain(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Process id, e.g. to watch its memory.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process at once, as a power cut would.
    pub fn kill(&mut self) -> std::io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _ = self.kill();
    }
}
