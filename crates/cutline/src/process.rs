//! This process: its cores, its asynchronous runtime, and when it should end.

use std::{
    io::{self, Read},
    path::Path,
    thread,
};

use anyhow::Context;
use cutline_runtime::pace::timer;
use tokio::runtime::Runtime;

/// What ends a command that runs until it is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Ctrl-C, or SIGTERM.
    Signal,
    /// The same, or the end of standard input.
    SignalOrStdin,
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A runtime for network calls. Engines compute on threads of their own, so two workers do; one
/// where there is one core, on which two would only take turns.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores().min(2))
        .on_thread_start(timer::short_turns)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}

/// Resolves when the process should end.
pub(crate) async fn stopped(stop: Stop) {
    let stdin_closed = async {
        if stop == Stop::Signal {
            return std::future::pending().await;
        }
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        // Reading standard input cannot be cancelled: it gets a thread that ends with the process.
        thread::spawn(move || {
            let _ = io::copy(&mut io::stdin().lock().take(u64::MAX), &mut io::sink());
            let _ = sender.send(());
        });
        let _ = receiver.await;
    };
    tokio::select! {
        () = signalled() => {}
        () = stdin_closed => {}
    }
}

/// Resolves on Ctrl-C, or SIGTERM.
pub(crate) async fn interrupted() {
    signalled().await;
}

/// Waits for the end in a command without a runtime of its own.
pub(crate) fn wait_for_stop(stop: Stop) -> anyhow::Result<()> {
    runtime()?.block_on(stopped(stop));
    Ok(())
}

#[cfg(unix)]
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn signalled() {
    let _ = tokio::signal::ctrl_c().await;
}

/// On Ctrl-C: removes a folder of temporary files and ends the process. Child processes end by
/// themselves when this one does.
pub(crate) fn remove_when_interrupted(folder: &Path) {
    let folder = folder.to_owned();
    thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(signalled());
        // The rest is best effort: the process ends in any case.
        let _ = std::fs::remove_dir_all(&folder);
        std::process::exit(130);
    });
}
