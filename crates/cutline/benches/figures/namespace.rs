//! The benchmark in a test bed of its own: it is the edge, and the cloud is in a network namespace
//! behind a link that the kernel shapes.
//!
//! Nothing needs root: the section runs itself again in a user namespace. Where the system does not
//! let it, the section is skipped.

use std::{
    env,
    process::{Command, Stdio},
};

use cutline_core::{platform::Platform, units::BytesPerSec};
use cutline_runtime::testbed::{
    layout::Layout,
    namespace,
    network::{Change, Network},
};

use super::{Verdict, measure::BINARY};

/// Set in the copy of this program that runs in the namespace.
const MARK: &str = "CUTLINE_BENCH_INSIDE";

/// Whether this is the copy in the namespace.
pub(crate) fn inside() -> bool {
    env::var_os(MARK).is_some()
}

/// Runs one section again in a user namespace.
pub(crate) fn enter(section: &str) -> anyhow::Result<Verdict> {
    if let Err(refusal) = namespace::possible() {
        println!("({refusal}: skipped)");
        return Ok(Verdict::Skipped);
    }
    let mut command = Command::new(env::current_exe()?);
    command.arg(section).env(MARK, "1").stdin(Stdio::null());
    namespace::isolate(&mut command);
    Ok(Verdict::of(command.status()?.success()))
}

/// The link to the cloud; it ends with this value.
pub(crate) struct Uplink(Network);

impl Uplink {
    /// Makes both devices and moves this thread, and with it those that it starts, to the edge.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let platform: Platform = toml::from_str(
            "version = 1\n[[device]]\nname = \"edge\"\n[[device]]\nname = \"cloud\"\n\
             [[link]]\nbetween = [\"edge\", \"cloud\"]\nup = \"1gbit\"\n",
        )?;
        let network = Network::build(Layout::new(&platform, &[])?, None)?;
        network.space(0).enter()?;
        Ok(Self(network))
    }

    /// The command under test, in the cloud.
    pub(crate) fn far(&self) -> Command {
        self.0.space(1).command(BINARY)
    }

    /// Where the cloud's agent listens.
    pub(crate) fn listen(&self) -> String {
        format!("{}:9002", self.0.layout().nodes[1].address)
    }

    /// Gives both directions a rate.
    pub(crate) fn shape(&mut self, megabits: u64) -> anyhow::Result<()> {
        let rate = Some(BytesPerSec(megabits * 125_000));
        Ok(self.0.set(0, Change { up: rate, down: rate, ..Change::default() })?)
    }
}
