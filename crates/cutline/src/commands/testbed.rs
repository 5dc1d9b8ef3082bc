//! `cutline testbed`: be a fleet, with agents in network namespaces and links that the kernel shapes.
//!
//! ```text
//! cutline testbed bed.toml         waits, and passes signals on
//!   └─ cutline testbed --inside    root of a user namespace: builds, starts agents, takes orders
//!        ├─ cutline agent          one in each device's network namespace
//!        └─ COMMAND                in the source's
//! ```

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use crate::output::Output;

#[cfg(target_os = "linux")]
mod bed;
#[cfg(target_os = "linux")]
mod control;
#[cfg(target_os = "linux")]
mod devices;
#[cfg(target_os = "linux")]
mod inside;
#[cfg(target_os = "linux")]
mod outside;

/// Be a fleet: an agent for each device of a platform file, each in a network namespace, joined by
/// links that the kernel shapes. Needs Linux and `ip` and `tc`, but no root.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  cutline testbed bed.toml -o platform.toml\n  cutline testbed bed.toml -- cutline run net.onnx --plan plan.json --input photo.jpg\nWhile it runs, from elsewhere:\n  cutline testbed status\n  cutline testbed exec pi -- cutline profile --link http://10.77.0.1:9001,http://10.77.0.2:9001 -o link.json\n  cutline testbed set pi,cloud up=2mbit\n  cutline testbed cut pi,cloud\n  cutline testbed kill cloud\n\nThe file is a platform file; tables `testbed` in it say what only this command reads, see docs/testbed.md."
)]
pub(crate) struct Args {
    /// Devices and links: a platform file.
    #[arg(value_name = "BED.toml", required = true)]
    platform: Option<PathBuf>,
    /// Write the platform with the addresses of the agents, once they listen.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Leave out delay, jitter and loss, for kernels that have no netem.
    #[arg(long)]
    no_delay: bool,
    /// Run this on the source, and end with it.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// This is the process in the user namespace; agents keep their files in this folder.
    #[arg(long, hide = true, value_name = "DIR")]
    inside: Option<PathBuf>,
    #[command(subcommand)]
    order: Option<Order>,
}

/// Which of several test beds.
#[derive(Debug, clap::Args)]
struct Which {
    /// Name of the test bed, where there are several [default: that of $CUTLINE_TESTBED, which its
    /// commands have, or `testbed`].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// What to do with one that runs.
#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Show its devices and links.
    Status {
        #[command(flatten)]
        which: Which,
    },
    /// Run a command on a device.
    Exec {
        #[command(flatten)]
        which: Which,
        device: String,
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Change a link, and those that share its card.
    Set {
        #[command(flatten)]
        which: Which,
        /// Its two devices.
        #[arg(value_name = "A,B")]
        link: String,
        /// up=2mbit, down=2mbit, delay=10ms, jitter=2ms, loss=1%.
        #[arg(required = true, value_name = "KEY=VALUE")]
        changes: Vec<String>,
    },
    /// Cut a link: what is sent over it is lost without a word.
    Cut {
        #[command(flatten)]
        which: Which,
        #[arg(value_name = "A,B")]
        link: String,
    },
    /// Mend a link that was cut.
    Restore {
        #[command(flatten)]
        which: Which,
        #[arg(value_name = "A,B")]
        link: String,
    },
    /// Kill a device's agent, as a power cut would.
    Kill {
        #[command(flatten)]
        which: Which,
        device: String,
    },
    /// Freeze a device's agent.
    Stop {
        #[command(flatten)]
        which: Which,
        device: String,
    },
    /// Let a frozen agent go on.
    Cont {
        #[command(flatten)]
        which: Which,
        device: String,
    },
    /// Start the agent of a device that has none.
    Start {
        #[command(flatten)]
        which: Which,
        device: String,
    },
}

impl Order {
    /// Which test bed, and the order's words.
    #[cfg(target_os = "linux")]
    fn words(self) -> (Which, Vec<String>) {
        let (which, words) = match self {
            Order::Status { which } | Order::Exec { which, .. } => (which, vec!["status".into()]),
            Order::Set { which, link, changes } => {
                (which, [vec!["set".into(), link], changes].concat())
            }
            Order::Cut { which, link } => (which, vec!["cut".into(), link]),
            Order::Restore { which, link } => (which, vec!["restore".into(), link]),
            Order::Kill { which, device } => (which, vec!["kill".into(), device]),
            Order::Stop { which, device } => (which, vec!["stop".into(), device]),
            Order::Cont { which, device } => (which, vec!["cont".into(), device]),
            Order::Start { which, device } => (which, vec!["start".into(), device]),
        };
        (which, words)
    }
}

/// Whether a file's text is a platform file with the tables of this command.
#[cfg(all(target_os = "linux", feature = "reports"))]
pub(crate) fn check(text: &str) -> anyhow::Result<()> {
    bed::Bed::parse(text, PathBuf::new(), false).map(drop)
}

#[cfg(target_os = "linux")]
pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    match (args.order, args.platform) {
        (Some(Order::Exec { which, device, command }), _) => {
            control::exec(&control::find(which.name.as_deref())?, &device, &command)
        }
        (Some(order), _) => {
            let (which, words) = order.words();
            let report = control::ask(&control::find(which.name.as_deref())?, &words)?;
            output.print(&report, |out| report.write(out))?;
            Ok(ExitCode::SUCCESS)
        }
        (None, Some(platform)) => {
            let job = Job {
                platform,
                output: args.output,
                name: args.which.name.unwrap_or_else(|| control::NAME.to_owned()),
                no_delay: args.no_delay,
                command: args.command,
            };
            match args.inside {
                Some(folder) => inside::run(&job, &folder, output),
                None => outside::run(&job, output),
            }
        }
        (None, None) => anyhow::bail!("give a platform file, or an order; see --help"),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn run(_: Args, _: &Output) -> anyhow::Result<ExitCode> {
    anyhow::bail!("a testbed needs the network namespaces of Linux; `cutline link` needs nothing")
}

/// What to build, and what to do then.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Job {
    platform: PathBuf,
    output: Option<PathBuf>,
    name: String,
    no_delay: bool,
    command: Vec<OsString>,
}
