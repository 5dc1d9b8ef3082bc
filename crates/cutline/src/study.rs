//! Where to cut over networks, boards, instances and bandwidths, and what that costs: one [`Data`],
//! written as a page, as JSON and as tables.
//!
//! ```text
//! STUDY.toml ─► Study ─► build: plans of every combination at every rate ─► Data ─┬─► study.html
//!  --kernels, --sweep ─► evidence: what was measured ─────────────────────────────┤   study.json
//!                                                                                 └─► *.csv
//! ```
//!
//! Every time and price comes from the tables of costs, every best plan from the planner: nothing is
//! computed here that `cutline plan` would not say of the same platform.

use std::path::Path;

use cutline_runtime::files::{FileError, write_bytes};

mod build;
mod csv;
mod data;
mod evidence;
mod file;
mod fronts;
mod place;
mod words;

pub(crate) use build::build;
pub(crate) use data::Data;
pub(crate) use evidence::Evidence;
pub(crate) use file::{DEFAULT, Study};
pub(crate) use words::write_text;

use crate::report;

/// The files of a study, in the order in which they are written: the page comes last.
pub(crate) const FILES: [&str; 8] = [
    "study.json",
    "best.csv",
    "changes.csv",
    "front.csv",
    "deployments.csv",
    "predictions.csv",
    "scaling.csv",
    "study.html",
];

/// Writes every file of a study into a folder that exists. Each is written whole or not at all; files
/// of other names are left alone.
pub(crate) fn write(folder: &Path, data: &Data) -> anyhow::Result<()> {
    let texts = [
        serde_json::to_string(data)?,
        csv::best(data),
        csv::changes(data),
        csv::front(data),
        csv::deployments(data),
        csv::predictions(data),
        csv::scaling(data),
        report::study_page(data, &data.title(), &data.headline)?,
    ];
    let written: Result<(), FileError> = FILES
        .iter()
        .zip(texts)
        .try_for_each(|(name, text)| write_bytes(&folder.join(name), text.into_bytes()));
    Ok(written?)
}
