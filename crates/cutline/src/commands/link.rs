//! `cutline link`: be a network.

use std::{fs, net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context;
use cutline_core::units::{BytesPerSec, Nanos};
use cutline_runtime::link::{Link, LinkConfig, parse_schedule};
use serde::Serialize;

use crate::{output::Output, process};

/// Be a network between two agents: rate, delay and jitter in user space, no root needed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline link --listen 127.0.0.1:9102 --to 127.0.0.1:9002 --up 20mbit --delay 10ms\n\nA schedule file has one change a line: `SECONDS up=5mbit delay=20ms`, `SECONDS cut`, `SECONDS resume`, `SECONDS reset`.\nThe control port takes the same words without the seconds: `set up=5mbit`, `cut`, `resume`, `reset` (closes every connection), `status`."
)]
pub(crate) struct Args {
    /// Where to accept connections.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Where to pass them on.
    #[arg(long, value_name = "ADDR")]
    to: SocketAddr,
    /// Rate towards `--to`, e.g. 20mbit [default: unlimited].
    #[arg(long, value_name = "RATE")]
    up: Option<BytesPerSec>,
    /// Rate back [default: as up].
    #[arg(long, value_name = "RATE")]
    down: Option<BytesPerSec>,
    /// One-way delay, e.g. 10ms.
    #[arg(long, value_name = "TIME", default_value = "0ms")]
    delay: Nanos,
    /// Random addition to the delay, up to this much; the order is kept.
    #[arg(long, value_name = "TIME", default_value = "0ms")]
    jitter: Nanos,
    /// Changes over time, from a file.
    #[arg(long, value_name = "FILE")]
    schedule: Option<PathBuf>,
    /// Where to take commands while it runs.
    #[arg(long, value_name = "ADDR")]
    control: Option<SocketAddr>,
    /// Seed of the jitter.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// First line under `--json`: where the link listens.
#[derive(Serialize)]
struct Announcement {
    listening: SocketAddr,
    control: Option<SocketAddr>,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let schedule = match &args.schedule {
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read schedule `{}`", path.display()))?;
            parse_schedule(&text).with_context(|| format!("in schedule `{}`", path.display()))?
        }
        None => Vec::new(),
    };
    let mut config = LinkConfig::new(args.listen.to_string(), args.to.to_string());
    config.up = args.up;
    config.down = args.down.or(args.up);
    config.delay = args.delay;
    config.jitter = args.jitter;
    config.schedule = schedule;
    config.control = args.control.map(|address| address.to_string());
    config.seed = args.seed;
    let link = Link::start(config)?;
    let announcement = Announcement { listening: link.local_addr(), control: link.control_addr() };
    if output.is_json() {
        output.line(&announcement)?;
    } else {
        let rate =
            |rate: Option<BytesPerSec>| rate.map_or("unlimited".to_owned(), |r| r.to_string());
        output.note(format!(
            "link {} -> {}: up {}, down {}, delay {}, jitter up to {}; Ctrl-C ends it",
            announcement.listening,
            args.to,
            rate(args.up),
            rate(args.down.or(args.up)),
            args.delay,
            args.jitter
        ));
        if let Some(control) = announcement.control {
            output.note(format!(
                "control on {control}: set up=5mbit delay=20ms | cut | resume | reset | status"
            ));
        }
    }
    process::wait_for_stop(process::Stop::Signal)?;
    link.stop();
    Ok(ExitCode::SUCCESS)
}
