//! `cutline agent`: be a device.

use std::{net::SocketAddr, path::PathBuf, pin::pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use cutline_core::units::{Bytes, Nanos};
use cutline_runtime::{
    agent::{Agent, AgentConfig, MOST_AT_ONCE},
    connections,
    engine::{self, SharedEngine},
    pace::{Slowdown, claim::Claim, timer},
    pki::{
        Credentials,
        pairing::{OPEN, Waiting},
    },
};
use serde::Serialize;

use crate::{
    fleet::Announcement,
    inputs::{IdentityArgs, MqttArgs, OtlpArgs, Telling, host},
    output::Output,
    process::{self, Stop},
};

mod publishing;

use publishing::Publishing;

/// Room for results, of which an agent has none.
const ROOM: Bytes = Bytes(0);

/// Be a device: serve stages over the Open Inference Protocol, and take new ones.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline agent --listen 127.0.0.1:9001 --threads 1 --slowdown 8 --memory 1GiB\n  cutline agent --listen 0.0.0.0:9001 --pair\n\nOff the loopback address an agent speaks mutual TLS: it needs credentials, which `--pair` brings it under a code, or `cutline pki issue` in a folder."
)]
pub(crate) struct Args {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// Engine for stages that name none [default: rten].
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Threads of one engine call [default: all cores that it may run on].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Run only on these cores, e.g. 0,2-3: computing, sending and receiving.
    #[arg(long, value_name = "LIST")]
    cores: Option<String>,
    /// Be K times slower than this machine, to stand in for a smaller one.
    #[arg(long, value_name = "K", default_value = "1")]
    slowdown: Slowdown,
    /// Let each engine call on one frame take this long, in place of K times its time here: a device
    /// whose speed does not change, to try loads. Profiles of the agent know nothing of it.
    #[arg(long, value_name = "TIME", conflicts_with = "max_batch")]
    call_time: Option<Nanos>,
    /// Refuse stages that need more memory than this.
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Compute up to so many frames of a stage at once where that is faster, which is tried out when
    /// the stage is loaded.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=MOST_AT_ONCE as u64))]
    max_batch: u64,
    /// Refuse frames, values at a cut and answers larger than this.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    max_message: Bytes,
    /// Where to keep deployed files [default: the user's cache folder].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Without credentials yet, show a code and wait for `cutline pki pair`; then serve.
    #[arg(long)]
    pair: bool,
    /// Listen off the loopback address without encryption or authentication.
    #[arg(long, conflicts_with_all = ["identity", "pair"])]
    insecure: bool,
    #[command(flatten)]
    otlp: OtlpArgs,
    /// End when standard input closes, so as not to outlive the program that started it.
    #[arg(long)]
    exit_with_stdin: bool,
    // Last: its heading is that of all that follow.
    #[command(flatten)]
    mqtt: MqttArgs,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    // Before the agent asks how many there are.
    connections::raise_descriptors();
    let collector = args.otlp.collector()?;
    let mqtt = args.mqtt.options(|| format!("cutline/{}", host()), ROOM, output)?;
    let store = args.store.unwrap_or_else(AgentConfig::default_store);
    let engines = engines(args.engine.as_deref())?;
    let mut config = AgentConfig::new(args.listen, store, engines);
    config.insecure = args.insecure;
    config.cores = args.cores.as_deref().map(parse_cores).transpose()?.unwrap_or_default();
    bind(&config.cores)?;
    config.threads = args.threads.unwrap_or_else(process::cores);
    config.slowdown = args.slowdown;
    config.call_time = args.call_time.map(|time| Duration::from_nanos(time.0));
    config.register = Some(Claim::folder());
    config.memory = args.memory;
    config.max_message = usize::try_from(args.max_message.0).unwrap_or(usize::MAX);
    config.client.max_message = config.client.max_message.max(config.max_message);
    config.whole_process = args.memory.is_some();
    config.max_batch = args.max_batch as usize;
    let output_of_remarks = *output;
    config.remark = Arc::new(move |text| output_of_remarks.note(text));
    let stop = if args.exit_with_stdin { Stop::SignalOrStdin } else { Stop::Signal };

    process::runtime()?.block_on(async {
        let mut stopped = pin!(process::stopped(stop));
        config.credentials = tokio::select! {
            credentials = credentials(&args.identity, args.pair, &config, output) => credentials?,
            () = &mut stopped => return Ok(ExitCode::SUCCESS),
        };
        let telling = Telling::start(collector, "cutline-agent", output)?;
        config.telemetry = telling.telemetry();
        let agent = Agent::bind(config)?;
        let announcement = Announcement { listening: agent.local_addr() };
        if output.is_json() {
            output.line(&announcement)?;
        } else {
            output.note(format!("agent on {}; Ctrl-C ends it", announcement.listening));
        }
        let publishing = mqtt.map(|options| Publishing::start(options, args.mqtt.every(), &agent));
        let served = agent.serve(stopped).await;
        if let Some(publishing) = publishing {
            publishing.finish().await;
        }
        telling.finish(output).await;
        served?;
        Ok(ExitCode::SUCCESS)
    })
}

/// First line of an agent that waits to be paired.
#[derive(Serialize)]
struct Pairing {
    pairing: SocketAddr,
    code: String,
}

/// What the agent shows to others: those of the folder that was named; those of the user's own
/// folder where others can reach it; those that a controller brings.
async fn credentials(
    identity: &IdentityArgs,
    pair: bool,
    config: &AgentConfig,
    output: &Output,
) -> anyhow::Result<Option<Arc<Credentials>>> {
    let (folder, listen) = (identity.folder(), config.listen()?);
    let there = Credentials::are_in(&folder);
    if pair && !there {
        let waiting = Waiting::bind(listen)?;
        let (pairing, code) = (waiting.local_addr(), waiting.code().to_string());
        if output.is_json() {
            output.line(&Pairing { pairing, code })?;
        } else {
            output.note(format!(
                "on the controller, with this machine's name or address:\n  \
                 cutline pki pair {pairing} --code {code}"
            ));
        }
        let credentials = waiting.paired(OPEN).await?;
        credentials.write(&folder)?;
        return Ok(Some(Arc::new(credentials)));
    }
    let exposed = !listen.ip().is_loopback() && !config.insecure;
    let wanted = pair || identity.is_named() || (exposed && (there || identity.must_be_there()));
    Ok(wanted.then(|| Credentials::read(&folder)).transpose()?.map(Arc::new))
}

/// The engines of this machine, the chosen one first.
fn engines(chosen: Option<&str>) -> anyhow::Result<Vec<SharedEngine>> {
    let mut engines = Vec::new();
    if let Some(name) = chosen {
        engines.push(engine::open(name)?);
    }
    let others = engine::available().into_iter().filter(|status| status.available);
    for status in others.filter(|status| Some(status.name) != chosen) {
        engines.push(engine::open(status.name)?);
    }
    Ok(engines)
}

/// Binds this thread, before it starts others, so that all of them stay where it is.
fn bind(cores: &[usize]) -> anyhow::Result<()> {
    let all = timer::allowed();
    timer::pin(cores);
    let bound = timer::allowed();
    if let Some(absent) = cores.iter().find(|core| !bound.contains(core) && !bound.is_empty()) {
        bail!("there is no processor {absent} to run on; this machine offers {all:?}");
    }
    Ok(())
}

/// `0,2-3` as processors 0, 2 and 3.
pub(crate) fn parse_cores(text: &str) -> anyhow::Result<Vec<usize>> {
    let number = |word: &str| {
        let number = word.trim().parse::<usize>().ok().filter(|&core| core < 4096);
        number.with_context(|| format!("`{text}` is not a list of processors such as `0,2-3`"))
    };
    let mut cores = Vec::new();
    for word in text.split(',') {
        match word.split_once('-') {
            None => cores.push(number(word)?),
            Some((first, last)) => cores.extend(number(first)?..=number(last)?),
        }
    }
    if cores.is_empty() {
        bail!("`{text}` names no processor");
    }
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_listed_by_number_and_range() {
        assert_eq!(parse_cores("0,2-3").unwrap(), [0, 2, 3]);
        for bad in ["", "x", "1-", "3-1", "0,,1", "99999"] {
            assert!(parse_cores(bad).is_err(), "{bad}");
        }
    }
}
