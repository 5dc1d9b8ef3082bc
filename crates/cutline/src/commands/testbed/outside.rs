//! The process that the user started: starts the one in the user namespace, passes signals on, and
//! removes what is left.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode, ExitStatus},
};

use anyhow::Context;
use cutline_runtime::testbed::namespace::{self, Signal};
use tokio::signal::unix::{self, SignalKind};

use super::{Job, bed::Bed, control};
use crate::output::Output;

pub(super) fn run(job: &Job, output: &Output) -> anyhow::Result<ExitCode> {
    // What is wrong with the file is said before anything is made.
    let bed = Bed::read(&job.platform, job.no_delay)?;
    job.output.as_deref().map(|path| bed.platform_file(path)).transpose()?;
    let socket = control::socket(&job.name)?;
    control::free(&socket)?;
    namespace::possible().context("no testbed can be made")?;
    let work = tempfile::Builder::new().prefix("cutline-testbed-").tempdir()?;

    let mut command = Command::new(std::env::current_exe()?);
    command.arg("testbed").arg("--inside").arg(work.path()).args(["--name", &job.name]);
    if let Some(path) = &job.output {
        command.arg("--output").arg(path);
    }
    for (given, flag) in
        [(job.no_delay, "--no-delay"), (output.is_json(), "--json"), (output.is_quiet(), "--quiet")]
    {
        command.args(given.then_some(flag));
    }
    command.arg(&job.platform);
    if !job.command.is_empty() {
        command.arg("--").args(&job.command);
    }
    command.env(control::VARIABLE, &socket);
    namespace::isolate(&mut command);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let mut signals = runtime.block_on(async { Signals::new() })?;
    // By this thread, which stays: the child is told when it ends.
    let mut child = command.spawn().context("no testbed can be made")?;
    let (process, inside) = (child.id(), namespace::user_namespace(child.id()));
    let status = runtime.block_on(async {
        let mut ended = tokio::task::spawn_blocking(move || child.wait());
        loop {
            tokio::select! {
                status = &mut ended => return status,
                // It may have ended just now.
                signal = signals.next() => drop(namespace::signal(process, signal)),
            }
        }
    });
    // Where it was killed, what it started is still there.
    if let Ok(inside) = inside {
        namespace::sweep(&inside);
    }
    Ok(code(status.context("the waiting thread failed")??))
}

/// The exit status of a process as one's own; a signal as shells tell it.
pub(super) fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The signals that ask for an end.
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
}

impl Signals {
    /// Takes them from now on; must be called within an asynchronous runtime.
    pub(super) fn new() -> anyhow::Result<Self> {
        let take = |kind| unix::signal(kind).context("cannot take signals");
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hang_up: take(SignalKind::hangup())?,
        })
    }

    /// The next; the end of the terminal is an order to end.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.hang_up.recv() => Signal::Terminate,
        }
    }
}
