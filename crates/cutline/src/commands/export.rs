//! `cutline export`: a plan in the formats of what users deploy with already.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use cutline_core::{
    plan::{Plan, PlannedChoice},
    platform::{Device, Server},
    split::Piece,
    units,
};
use cutline_runtime::{files, mqtt};
use serde::Serialize;

use crate::{inputs::topic_level, output::Output, planning};

mod greengrass;
mod kubernetes;
mod systemd;
mod triton;

/// Where an agent listens whose device has no address yet.
const PORT: u16 = 9001;

/// Write the files by which systemd, Kubernetes, Triton or AWS Greengrass run a plan's devices.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline export systemd --plan plan.json -o units\n  cutline export kubernetes --plan plan.json --image registry.example.org/cutline:1 -o manifests\n  cutline export triton net.onnx --plan plan.json -o repository\n  cutline export greengrass --plan plan.json --artifacts s3://bucket/cutline -o recipes\n\nThe files are for the tools that read them; Cutline starts and watches nothing by them. Once the agents run, `cutline run` or `cutline deploy` puts the plan on them."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    format: Format,
}

#[derive(Debug, clap::Subcommand)]
enum Format {
    /// Units of systemd, one for each agent, as confined as an agent can be.
    Systemd(systemd::Args),
    /// Manifests of Kubernetes, a Deployment and a Service for each device but the source.
    Kubernetes(kubernetes::Args),
    /// Repositories of Triton, the stages of each device.
    Triton(triton::Args),
    /// Component recipes of AWS IoT Greengrass v2, one for each agent.
    Greengrass(greengrass::Args),
}

/// What all formats are made from.
#[derive(Debug, clap::Args)]
struct Common {
    /// The plan whose devices are to be run.
    #[arg(long, value_name = "plan.json")]
    plan: PathBuf,
    /// Take the best plan that uses both devices, even where not splitting is better.
    #[arg(long)]
    best_split: bool,
    /// Only this device (repeatable).
    #[arg(long, value_name = "NAME")]
    device: Vec<String>,
    /// Folder to write; it must not exist, or be one that this command wrote.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

/// An option of the formats that start agents.
#[derive(Debug, clap::Args)]
struct AgentArgs {
    /// Let the agents publish to this MQTT broker, under cutline/DEVICE.
    #[arg(long, value_name = "URL")]
    mqtt: Option<String>,
}

/// A device's agent, as others are to start it.
#[derive(Debug)]
struct Agent {
    /// The device's name, in letters, digits and dashes, lower case: no other agent's.
    name: String,
    device: String,
    port: u16,
    /// It listens for this machine only.
    is_local: bool,
    /// How many such agents there are.
    replicas: usize,
    engine: Option<String>,
    threads: Option<u32>,
    memory: Option<units::Bytes>,
    /// What its stages were predicted to occupy.
    predicted: Option<units::Bytes>,
    mqtt: Option<String>,
}

/// A file of an export: where it goes in the folder, and its content.
type File = (PathBuf, Vec<Piece>);

#[derive(Serialize)]
struct Report<'a> {
    format: &'static str,
    folder: &'a Path,
    files: Vec<&'a Path>,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    match args.format {
        Format::Systemd(args) => {
            let agents = args.common.agents(&args.agent, Which::All)?;
            let files = agents.iter().map(|agent| systemd::unit(agent, &args)).collect();
            write("systemd", &args.common.output, files, Path::new("."), output)
        }
        Format::Kubernetes(args) => {
            let agents = args.common.agents(&args.agent, Which::BehindTheSource)?;
            let files = agents.iter().map(|agent| kubernetes::manifests(agent, &args)).collect();
            write("kubernetes", &args.common.output, files, Path::new("."), output)
        }
        Format::Greengrass(args) => {
            let agents = args.common.agents(&args.agent, Which::All)?;
            let files = agents.iter().map(|agent| greengrass::recipe(agent, &args)).collect();
            write("greengrass", &args.common.output, files, Path::new("."), output)
        }
        Format::Triton(args) => {
            let model = args.model.open()?;
            let files = triton::repositories(&args, &model)?;
            let written = write("triton", &args.common.output, files, &model, output)?;
            model.check_unchanged()?;
            Ok(written)
        }
    }
}

/// Writes all files, or none, and says which.
fn write<'a>(
    format: &'static str,
    folder: &Path,
    mut files: Vec<File>,
    source: impl Into<files::Source<'a>>,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    ensure!(!files.is_empty(), "the plan has no device for this export; name one with --device");
    files.sort_by(|one, other| one.0.cmp(&other.0));
    files::write_tree(folder, &files, source)?;
    let files = files.iter().map(|(path, _)| path.as_path()).collect();
    let report = Report { format, folder, files };
    output.print(&report, |out| {
        for file in &report.files {
            writeln!(out, "{}", folder.join(file).display())?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Which devices are meant where none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    All,
    BehindTheSource,
}

impl Common {
    /// The agents that the plan needs, in the order of its stages.
    fn agents(&self, args: &AgentArgs, which: Which) -> anyhow::Result<Vec<Agent>> {
        if let Some(url) = &args.mqtt {
            mqtt::check_url(url)?;
        }
        let plan: Plan = planning::read_json(&self.plan)?;
        ensure!(plan.version == 1, "plan `{}` is of another version", self.plan.display());
        let choice = planning::choice(&plan, self.best_split)?;
        let devices = plan.platform.devices();
        let source = devices.first().context("the plan's platform has no device")?;
        let mut agents: Vec<Agent> = Vec::new();
        for name in self.names(choice, source, which)? {
            let device = devices.iter().find(|device| device.name == name);
            let device = device.with_context(|| format!("the plan has no device `{name}`"))?;
            if device.server != Server::Agent {
                bail!("device `{name}` has another server than an agent, which this cannot start");
            }
            let agent = Agent::new(device, choice, args.mqtt.clone());
            if let Some(other) = agents.iter().find(|other| other.name == agent.name) {
                let (one, other) = (&other.device, &agent.device);
                bail!("devices `{one}` and `{other}` would have files of the same name");
            }
            agents.push(agent);
        }
        Ok(agents)
    }

    fn names(
        &self,
        choice: &PlannedChoice,
        source: &Device,
        which: Which,
    ) -> anyhow::Result<Vec<String>> {
        if !self.device.is_empty() {
            return Ok(self.device.clone());
        }
        // Frames enter at the source's agent even where it computes nothing.
        let stages = choice.stages.iter().map(|stage| &stage.device);
        let (mut seen, mut names) = (BTreeSet::new(), Vec::new());
        for name in std::iter::once(&source.name).chain(stages) {
            let is_wanted = which == Which::All || *name != source.name;
            if seen.insert(name) && is_wanted {
                names.push(name.clone());
            }
        }
        Ok(names)
    }
}

impl Agent {
    fn new(device: &Device, choice: &PlannedChoice, mqtt: Option<String>) -> Self {
        let stages = || choice.stages.iter().filter(|stage| stage.device == device.name);
        let engine = stages().map(|stage| stage.engine.clone()).find(|name| !name.is_empty());
        let address = device.address.as_deref().unwrap_or_default();
        let address = address.split_once("://").map_or(address, |(_, rest)| rest);
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        Self {
            name: label(&device.name),
            device: device.name.clone(),
            port: port.parse().ok().filter(|&port| port > 0).unwrap_or(PORT),
            is_local: host == "localhost" || host == "[::1]" || host.starts_with("127."),
            replicas: 1 + device.replicas.len(),
            engine: engine.or_else(|| device.engine.clone()),
            threads: stages().map(|stage| stage.threads).max().filter(|&threads| threads > 0),
            memory: device.memory,
            predicted: choice.memory.get(&device.name).copied(),
            mqtt,
        }
    }

    /// Arguments of `cutline` that start it on an address, with a folder for what is deployed.
    fn arguments(&self, listen: &str, store: &str) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["agent", "--listen", listen, "--store", store].map(str::to_owned).into();
        let mut give = |option: &str, value: Option<String>| {
            arguments.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        };
        give("--engine", self.engine.clone());
        give("--threads", self.threads.map(|threads| threads.to_string()));
        give("--memory", self.memory.map(|memory| memory.0.to_string()));
        give("--mqtt", self.mqtt.clone());
        let topic = || format!("cutline/{}", topic_level(&self.device));
        give("--mqtt-topic", self.mqtt.as_ref().map(|_| topic()));
        arguments
    }
}

/// A name as RFC 1123 has labels: letters, digits and dashes, lower case, not longer than 40 bytes.
fn label(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = name.chars().map(safe).take(40).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "device".to_owned() } else { label.to_owned() }
}

/// A file of text.
fn text(path: impl Into<PathBuf>, text: String) -> File {
    (path.into(), vec![Piece::Inline(Bytes::from(text))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels_that_every_format_takes() {
        for (name, expected) in
            [("pi", "pi"), ("Jetson Nano #2", "jetson-nano--2"), ("--", "device")]
        {
            assert_eq!(label(name), expected);
        }
        assert_eq!(label(&"x".repeat(99)).len(), 40);
    }
}
