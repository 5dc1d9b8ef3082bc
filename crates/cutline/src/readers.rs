//! Readers of files that only one command uses, as functions of the files' bytes: whether one is
//! taken for what it should be. For tests that damage such files.

use std::path::Path;

use anyhow::Context;

use crate::{
    characterize::{Database, Grid},
    commands,
    sizing::Workload,
};

/// A grid of `cutline characterize`.
pub fn grid(text: &str) -> anyhow::Result<()> {
    Grid::parse(text, Path::new("")).map(drop).context("not a grid")
}

/// A workload of `cutline size`.
pub fn workload(text: &str) -> anyhow::Result<()> {
    Workload::parse(text, Path::new("")).map(drop)
}

/// A platform file with the tables of `cutline testbed`.
#[cfg(target_os = "linux")]
pub fn testbed(text: &str) -> anyhow::Result<()> {
    commands::testbed::check(text)
}

/// The file of a sweep of `cutline characterize`: everything that it says of this cell, and all of
/// its table. The file may change, as SQLite brings it in order.
pub fn sweep(file: &Path, cell: &str) -> anyhow::Result<()> {
    let database = Database::open(file)?;
    database.known(cell)?;
    database.finished(cell)?;
    database.table()?;
    Ok(())
}
