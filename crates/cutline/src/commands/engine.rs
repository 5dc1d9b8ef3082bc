//! `cutline engine`: which inference engines are here, and how to get another.

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;
use cutline_runtime::engine;
use serde::Serialize;

use crate::output::{Output, table};

/// List inference engines, or install one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cutline engine install onnxruntime")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the engines of this build and whether they can run here.
    List,
    /// Obtain an engine's library with the machine's own package client.
    Install {
        /// `onnxruntime` or `litert`.
        name: String,
    },
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    available: bool,
    version: Option<String>,
    reason: String,
    path: Option<PathBuf>,
}

#[derive(Serialize)]
struct Installed<'a> {
    engine: &'a str,
    path: PathBuf,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List => list(output)?,
        Command::Install { name } => install(&name, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(output: &Output) -> anyhow::Result<()> {
    let engines: Vec<Row> = engine::available()
        .into_iter()
        .map(|status| Row {
            name: status.name,
            available: status.available,
            version: status.version,
            reason: status.reason,
            path: status.path,
        })
        .collect();
    output.print(&engines, |out| {
        let rows = engines.iter().map(|status| {
            [
                status.name.to_owned(),
                if status.available { "yes" } else { "no" }.to_owned(),
                status.version.clone().unwrap_or_default(),
            ]
        });
        writeln!(out, "{}\n", table(["engine", "available", "version"], rows))?;
        // Reasons are sentences, too long for a column.
        engines.iter().try_for_each(|it| writeln!(out, "{}: {}", it.name, it.reason))
    })
}

fn install(name: &str, output: &Output) -> anyhow::Result<()> {
    let path = engine::install::install(name, &mut |line| output.note(line))?;
    let installed = Installed { engine: name, path };
    output.print(&installed, |out| writeln!(out, "installed {}", installed.path.display()))
}
