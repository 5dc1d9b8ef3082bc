//! `cutline demo`: the whole story on one machine.

use std::process::ExitCode;

use crate::output::Output;

/// x
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: Args, _: &Output) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
