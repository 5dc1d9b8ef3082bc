//! A network namespace for one agent, joined to the benchmark's own by a shaped pair of interfaces.
//!
//! Nothing needs root: the section runs itself again in a user namespace, where it may make network
//! namespaces and queues. Where the system does not let it, the section is skipped.
//!
//! ```text
//! benchmark, edge agent ── near ◀═ tbf ══ tbf ═▶ far ── cloud agent
//! ```

use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::{Verdict, measure::BINARY};

/// Set in the copy of this program that runs in the namespace.
const MARK: &str = "CUTLINE_BENCH_INSIDE";

const NEAR: &str = "10.77.0.1/24";
const FAR: &str = "10.77.0.2/24";
const LISTEN: &str = "10.77.0.2:9002";

/// Whether this is the copy in the namespace.
pub(crate) fn inside() -> bool {
    env::var_os(MARK).is_some()
}

/// Runs one section again in a user and network namespace.
pub(crate) fn enter(section: &str) -> anyhow::Result<Verdict> {
    for (tool, version) in [("ip", "-V"), ("tc", "-V"), ("nsenter", "-V"), ("unshare", "-V")] {
        if Command::new(tool).arg(version).output().is_err() {
            println!("(`{tool}` is not here; packages iproute2 and util-linux have it: skipped)");
            return Ok(Verdict::Skipped);
        }
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "--mount"]);
        command
    };
    let probe = unshare().args(["ip", "link", "set", "lo", "up"]).output()?;
    if !probe.status.success() {
        let why = String::from_utf8_lossy(&probe.stderr).trim().to_owned();
        println!("(no network namespace can be made here: {why}: skipped)");
        return Ok(Verdict::Skipped);
    }
    let status = unshare().arg(env::current_exe()?).arg(section).env(MARK, "1").status()?;
    Ok(Verdict::of(status.success()))
}

/// The far namespace; it ends with this value.
pub(crate) struct Namespace {
    holder: Child,
    folder: tempfile::TempDir,
    /// Starts the command under test in it.
    pub(crate) binary: PathBuf,
}

impl Namespace {
    /// Makes it, with addresses on both sides and no shape yet.
    pub(crate) fn new() -> anyhow::Result<Self> {
        run("ip link set lo up")?;
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start `unshare`")?;
        let folder = tempfile::tempdir()?;
        let binary = folder.path().join("cutline");
        let far = Self { holder, folder, binary };
        far.wait_for_namespace()?;
        let process = far.holder.id();
        run("ip link add near type veth peer name far")?;
        run(&format!("ip link set far netns {process}"))?;
        run(&format!("ip addr add {NEAR} dev near"))?;
        run("ip link set near up")?;
        far.run("ip link set lo up")?;
        far.run(&format!("ip addr add {FAR} dev far"))?;
        far.run("ip link set far up")?;
        let script = format!("#!/bin/sh\nexec nsenter --target {process} --net {BINARY} \"$@\"\n");
        fs::write(&far.binary, script)?;
        fs::set_permissions(&far.binary, Permissions::from_mode(0o755))?;
        Ok(far)
    }

    /// Where its agent listens.
    pub(crate) fn listen(&self) -> Option<String> {
        Some(LISTEN.to_owned())
    }

    /// Gives both directions a rate. A burst of more than one frame would let small messages
    /// through for nothing.
    pub(crate) fn shape(&self, megabits: u64) -> anyhow::Result<()> {
        let queue = |device: &str| {
            format!(
                "tc qdisc replace dev {device} root tbf rate {megabits}mbit burst 1600 limit 4mb"
            )
        };
        run(&queue("near"))?;
        self.run(&queue("far"))
    }

    fn run(&self, command: &str) -> anyhow::Result<()> {
        run(&format!("nsenter --target {} --net {command}", self.holder.id()))
    }

    /// Until the holder has left the namespace that it was started in.
    fn wait_for_namespace(&self) -> anyhow::Result<()> {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        let (own, holder) = (of("self")?, self.holder.id().to_string());
        let start = Instant::now();
        while of(&holder)? == own {
            if start.elapsed() > Duration::from_secs(5) {
                bail!("`unshare --net` made no namespace within 5 s");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Already gone is as good as killed. The interfaces go with the namespace.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = fs::remove_file(self.folder.path().join("cutline"));
        let _ = run("ip link delete near");
    }
}

fn run(command: &str) -> anyhow::Result<()> {
    let mut words = command.split(' ');
    let program = words.next().context("no command")?;
    let output = Command::new(program).args(words).output();
    let output = output.with_context(|| format!("cannot start `{program}`"))?;
    if !output.status.success() {
        bail!("`{command}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
