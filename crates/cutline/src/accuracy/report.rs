//! What `cutline accuracy` answers: cells, the front, and both as a table.

use std::path::PathBuf;

use cutline_core::units::Bytes;
use serde::Serialize;

use super::{costs::CostRow, front::Alike, pictures::Skipped};
use crate::{agree::ShareRow, report::CsvTable};

/// Format version of the document.
pub(crate) const VERSION: u32 = 1;

/// The answer to a grid.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: u32,
    pub(crate) engine: String,
    pub(crate) engine_version: String,
    pub(crate) pictures: Gallery,
    pub(crate) references: Vec<Reference>,
    pub(crate) cells: Vec<Row>,
    pub(crate) front: Front,
    /// Combinations that cannot be, with their reasons.
    pub(crate) skipped: Vec<String>,
}

/// The pictures that were answered to.
#[derive(Debug, Serialize)]
pub(crate) struct Gallery {
    pub(crate) folder: PathBuf,
    /// Those that could be read.
    pub(crate) count: usize,
    /// Those of which it is known what they show.
    pub(crate) labelled: usize,
    pub(crate) sha256: String,
    pub(crate) skipped: Vec<Skipped>,
    /// Where ranges were found, if that was elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) calibration: Option<PathBuf>,
}

/// What the cells of a network are compared with: the network itself, unsplit.
#[derive(Debug, Serialize)]
pub(crate) struct Reference {
    pub(crate) network: String,
    pub(crate) precision: String,
    pub(crate) input: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) accuracy: Option<ShareRow>,
}

/// What one cell is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cell {
    pub(crate) network: String,
    /// Of its file; of a network of the zoo, of its description without weights.
    pub(crate) network_sha256: String,
    pub(crate) precision: String,
    /// Shape of the input.
    pub(crate) input: String,
    /// Whether that is the size that the file has by itself.
    pub(crate) own_size: bool,
    pub(crate) filter: String,
    /// `edge` (all on the source), `cloud` or `split`.
    pub(crate) plan: &'static str,
    /// How the input travels, where it does.
    pub(crate) upload: Option<String>,
    pub(crate) jpeg_quality: Option<u8>,
    /// The values that cross.
    pub(crate) crosses: Vec<String>,
    /// Share of the multiply-accumulates before the cut, in millionths.
    pub(crate) macs_before_ppm: Option<u32>,
    pub(crate) codec: Option<String>,
}

impl Cell {
    /// How it runs, for people.
    pub(crate) fn plan(&self) -> String {
        let upload = match (&self.upload, self.jpeg_quality) {
            (Some(upload), Some(quality)) => format!(", {upload}:{quality}"),
            (Some(upload), None) => format!(", {upload}"),
            (None, _) => String::new(),
        };
        let Some(codec) = &self.codec else { return format!("{}{upload}", self.plan) };
        let at = self.crosses.join(", ");
        let share = f64::from(self.macs_before_ppm.unwrap_or_default()) / 1e4;
        format!("split at {at} ({share:.0} %), {codec}{upload}")
    }
}

/// A cell with what was found; with several devices behind a cut, one for each.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) cell: Cell,
    /// How often it is right, where it is known what is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) accuracy: Option<ShareRow>,
    /// How often it answers as its reference.
    pub(crate) agreement: ShareRow,
    /// Mean of a frame.
    pub(crate) bytes_sent: Bytes,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) costs: Option<CostRow>,
    /// Why there are no costs, on a platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) no_costs: Option<String>,
    pub(crate) on_front: bool,
}

impl Row {
    /// What it is judged by.
    pub(crate) fn quality(&self) -> ShareRow {
        self.accuracy.unwrap_or(self.agreement)
    }
}

/// The cells that no other is better than in everything.
#[derive(Debug, Serialize)]
pub(crate) struct Front {
    /// `accuracy`, or `agreement` and then each network by itself; then what counts against it:
    /// `latency` and perhaps `money`, or `bytes`.
    pub(crate) by: Vec<&'static str>,
    /// Positions of its cells, the most accurate first.
    pub(crate) cells: Vec<usize>,
    /// Pairs of them that the pictures do not tell apart.
    pub(crate) alike: Vec<Alike>,
}

/// The columns of the CSV file.
const COLUMNS: [&str; 29] = [
    "network",
    "network_sha256",
    "precision",
    "input",
    "filter",
    "plan",
    "upload",
    "jpeg_quality",
    "crosses",
    "macs_before_ppm",
    "codec",
    "accuracy_count",
    "accuracy_of",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "agreement_count",
    "agreement_of",
    "agreement",
    "agreement_low",
    "agreement_high",
    "bytes_sent",
    "cloud",
    "latency_ns",
    "period_ns",
    "money_per_month",
    "energy_nj",
    "origin",
    "on_front",
];

/// Every cell as CSV (RFC 4180), a line each; empty where something is not known.
pub(crate) fn csv(report: &Report) -> String {
    let mut table = CsvTable::new(&COLUMNS);
    for row in &report.cells {
        let Row { cell, costs, .. } = row;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut fields = vec![
            cell.network.clone(),
            cell.network_sha256.clone(),
            cell.precision.clone(),
            cell.input.clone(),
            cell.filter.clone(),
            cell.plan.to_owned(),
            text(&cell.upload),
            optional(cell.jpeg_quality),
            cell.crosses.join(" "),
            optional(cell.macs_before_ppm),
            text(&cell.codec),
        ];
        fields.extend(share(row.accuracy));
        fields.extend(share(Some(row.agreement)));
        fields.push(row.bytes_sent.0.to_string());
        let of = |pick: fn(&CostRow) -> Option<String>| {
            costs.as_ref().and_then(pick).unwrap_or_default()
        };
        fields.push(of(|costs| costs.cloud.clone()));
        fields.push(of(|costs| Some(costs.latency_ns.0.to_string())));
        fields.push(of(|costs| Some(costs.period_ns.0.to_string())));
        fields.push(of(|costs| Some(costs.money_per_month?.0.to_string())));
        fields.push(of(|costs| Some(costs.energy_nj?.0.to_string())));
        fields.push(of(|costs| Some(costs.origin.name().to_owned())));
        fields.push(row.on_front.to_string());
        table.row(fields);
    }
    table.text
}

fn optional(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn share(row: Option<ShareRow>) -> [String; 5] {
    let Some(share) = row.map(ShareRow::share) else { return Default::default() };
    let interval = share.interval();
    [
        share.count.to_string(),
        share.of.to_string(),
        share.value().to_string(),
        interval.low.to_string(),
        interval.high.to_string(),
    ]
}
