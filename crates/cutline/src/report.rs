//! What `explore` writes: the same plans as a report for people, as JSON, and as tables.
//!
//! [`Data`] is a pure function of a problem and of what the planner answers; everything written is a
//! pure function of it. So the report shows nothing that `explore.json` does not hold.
//!
//! ```text
//! problem ─► alternatives ─► Data ─┬─► report.html   (html: the data inside a fixed page)
//!                                  ├─► explore.json
//!                                  └─► front.csv, cuts.csv, bandwidth.csv
//! ```

use std::path::Path;

use cutline_runtime::files::{FileError, write_bytes};

mod build;
mod csv;
mod data;
mod headline;
mod html;
mod plans;
mod search;

pub(crate) use build::build;
pub(crate) use csv::Table as CsvTable;
pub(crate) use data::{Data, Headline};
pub(crate) use html::study_page;
pub(crate) use search::at_rate;

/// The files of a report, in the order in which they are written: the page comes last.
pub(crate) const FILES: [&str; 5] =
    ["explore.json", "front.csv", "cuts.csv", "bandwidth.csv", "report.html"];

/// Writes every file of a report into a folder that exists. Each is written whole or not at all;
/// files of other names are left alone.
pub(crate) fn write(folder: &Path, data: &Data) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(data)?;
    let texts = [json, csv::front(data), csv::cuts(data), csv::bandwidth(data), html::page(data)?];
    let written: Result<(), FileError> = FILES
        .iter()
        .zip(texts)
        .try_for_each(|(name, text)| write_bytes(&folder.join(name), text.into_bytes()));
    Ok(written?)
}
