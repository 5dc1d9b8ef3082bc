//! The command line of Cutline: commands, tables and progress over the core and the runtime.
//!
//! Data goes to stdout, everything else to stderr; `--json` turns the data into one JSON document.
//! Each command is a module with its arguments and a `run` function.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "reports")]
mod accuracy;
mod agree;
#[cfg(feature = "reports")]
mod characterize;
mod commands;
pub mod fleet;
mod frames;
mod gallery;
mod inputs;
pub mod journal;
mod output;
mod planning;
mod process;
#[cfg(feature = "reports")]
pub mod readers;
pub mod refine;
#[cfg(feature = "reports")]
mod report;
pub mod routes;
#[cfg(feature = "reports")]
mod sizing;
pub mod staging;
#[cfg(feature = "reports")]
mod study;

use output::Output;

/// Find, prove and run the best distribution of a CNN over edge devices and the cloud.
#[derive(Debug, Parser)]
#[command(name = "cutline", version, propagate_version = true)]
struct Cli {
    /// Print one JSON document to stdout in place of text.
    #[arg(long, global = true)]
    json: bool,

    /// Show no progress.
    #[arg(long, global = true)]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(commands::demo::Args),
    Inspect(commands::inspect::Args),
    Profile(commands::profile::Args),
    #[cfg(feature = "reports")]
    Characterize(commands::characterize::Args),
    Kernels(commands::kernels::Args),
    #[cfg(feature = "reports")]
    Accuracy(commands::accuracy::Args),
    #[cfg(feature = "reports")]
    Predict(commands::predict::Args),
    Plan(commands::plan::Args),
    #[cfg(feature = "reports")]
    Explore(commands::explore::Args),
    #[cfg(feature = "reports")]
    Size(commands::size::Args),
    #[cfg(feature = "reports")]
    Study(commands::study::Args),
    Split(commands::split::Args),
    Verify(commands::verify::Args),
    Agent(commands::agent::Args),
    Link(commands::link::Args),
    Testbed(commands::testbed::Args),
    Run(commands::run::Args),
    Deploy(commands::deploy::Args),
    Export(commands::export::Args),
    Bench(commands::bench::Args),
    Pki(commands::pki::Args),
    Zoo(commands::zoo::Args),
    Engine(commands::engine::Args),
    Presets(commands::presets::Args),
    Doctor(commands::doctor::Args),
}

/// Runs the command line; prints the chain of causes of an error to stderr.
pub fn main() -> ExitCode {
    cutline_runtime::agent::memory::one_heap();
    let cli = Cli::parse();
    let output = Output::new(cli.json, cli.quiet);
    match dispatch(cli.command, &output) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command, output: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => commands::demo::run(args, output),
        Command::Inspect(args) => commands::inspect::run(args, output),
        Command::Profile(args) => commands::profile::run(args, output),
        #[cfg(feature = "reports")]
        Command::Characterize(args) => commands::characterize::run(args, output),
        Command::Kernels(args) => commands::kernels::run(args, output),
        #[cfg(feature = "reports")]
        Command::Accuracy(args) => commands::accuracy::run(args, output),
        #[cfg(feature = "reports")]
        Command::Predict(args) => commands::predict::run(args, output),
        Command::Plan(args) => commands::plan::run(args, output),
        #[cfg(feature = "reports")]
        Command::Explore(args) => commands::explore::run(args, output),
        #[cfg(feature = "reports")]
        Command::Size(args) => commands::size::run(args, output),
        #[cfg(feature = "reports")]
        Command::Study(args) => commands::study::run(args, output),
        Command::Split(args) => commands::split::run(args, output),
        Command::Verify(args) => commands::verify::run(args, output),
        Command::Agent(args) => commands::agent::run(args, output),
        Command::Link(args) => commands::link::run(args, output),
        Command::Testbed(args) => commands::testbed::run(args, output),
        Command::Run(args) => commands::run::run(args, output),
        Command::Deploy(args) => commands::deploy::run(args, output),
        Command::Export(args) => commands::export::run(args, output),
        Command::Bench(args) => commands::bench::run(args, output),
        Command::Pki(args) => commands::pki::run(args, output),
        Command::Zoo(args) => commands::zoo::run(args, output),
        Command::Engine(args) => commands::engine::run(args, output),
        Command::Presets(args) => commands::presets::run(args, output),
        Command::Doctor(args) => commands::doctor::run(args, output),
    }
}
