//! The accuracy of a network as `cutline accuracy` counted it.

use std::path::Path;

use anyhow::{Context, bail};
use cutline_core::{
    agreement::Share,
    hex::hex,
    picture::{InputEncoding, JPEG_QUALITY},
    zoo,
};
use cutline_runtime::files;
use prost::Message;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::workload::Source;
use crate::planning::read_json;

/// Format version of the document that is read.
const VERSION: u32 = 1;

/// As far as it matters here.
#[derive(Deserialize)]
struct Document {
    version: u32,
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
struct Cell {
    network_sha256: String,
    input: String,
    own_size: bool,
    plan: String,
    upload: Option<String>,
    jpeg_quality: Option<u8>,
    codec: Option<String>,
    accuracy: Option<Share>,
}

/// Shares in millionths.
pub(super) struct Counted {
    /// Of the whole network, nothing lossy.
    pub(super) accuracy_ppm: u32,
    /// The least with any of the lossy encodings; `None` where one of them was not counted.
    pub(super) lossy_ppm: Option<u32>,
}

/// What a file says of a network, with these lossy encodings of its input and of cuts allowed.
pub(super) fn counted(
    file: &Path,
    source: &Source,
    (inputs, codecs): (&[String], &[String]),
) -> anyhow::Result<Counted> {
    let context = || format!("`accuracy_from` = \"{}\"", file.display());
    let document: Document = read_json(file).with_context(context)?;
    find(&document, &sha256(source)?, (inputs, codecs)).with_context(context)
}

fn find(
    document: &Document,
    sha256: &str,
    (inputs, codecs): (&[String], &[String]),
) -> anyhow::Result<Counted> {
    if document.version != VERSION {
        bail!("version {} is not known; this program reads version {VERSION}", document.version);
    }
    let of_it = document.cells.iter().filter(|cell| cell.network_sha256 == sha256);
    let mut cells: Vec<&Cell> = of_it.collect();
    if cells.is_empty() {
        bail!("it has no cell of this network; count it with `cutline accuracy`");
    }
    let is_one_size = cells.iter().all(|cell| cell.input == cells[0].input);
    if !is_one_size {
        cells.retain(|cell| cell.own_size);
    }
    let least = |which: &dyn Fn(&Cell) -> bool| -> anyhow::Result<Option<u32>> {
        let mut least = None;
        for cell in cells.iter().filter(|cell| which(cell)) {
            let share = cell.accuracy.filter(|share| share.of > 0 && share.count <= share.of);
            let share = share.context("it was counted on pictures without labels")?;
            let ppm = u128::from(share.count) * 1_000_000 / u128::from(share.of);
            least = Some(least.map_or(ppm as u32, |least: u32| least.min(ppm as u32)));
        }
        Ok(least)
    };
    let accuracy_ppm = least(&|cell| cell.plan == "edge")?.context(
        "it has no cell of the whole network at its own size; count one with `cuts = [\"whole\"]`",
    )?;
    // Profiles send pictures in the usual quality.
    let is_usual = |cell: &Cell| cell.jpeg_quality.is_none_or(|quality| quality == JPEG_QUALITY);
    let mut lossy_ppm = Some(accuracy_ppm);
    for name in inputs.iter().filter(|name| *name == InputEncoding::Jpeg.name()) {
        let found = least(&|cell| {
            cell.plan == "cloud" && cell.upload.as_ref() == Some(name) && is_usual(cell)
        })?;
        lossy_ppm = lossy_ppm.min(found);
    }
    for name in codecs.iter().filter(|name| *name != cutline_core::cost::TENSOR) {
        let found = least(&|cell| cell.plan == "split" && cell.codec.as_ref() == Some(name))?;
        lossy_ppm = lossy_ppm.min(found);
    }
    Ok(Counted { accuracy_ppm, lossy_ppm })
}

/// As `cutline accuracy` names a network: by its file, one of the zoo by its description.
fn sha256(source: &Source) -> anyhow::Result<String> {
    match source {
        Source::Model(path) => {
            let sha256 = files::sha256(path);
            Ok(hex(&sha256.with_context(|| format!("cannot read `{}`", path.display()))?))
        }
        Source::Zoo { name, input_size } => {
            Ok(hex(&Sha256::digest(zoo::outline(name, *input_size)?.encode_to_vec())))
        }
        Source::Costs(_) => bail!("`accuracy_from` needs a network, and `costs` is a table"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(plan: &str, of: &str, count: u64) -> serde_json::Value {
        serde_json::json!({
            "network_sha256": "aa", "input": "1x3x8x8", "own_size": true, "plan": plan,
            "upload": (plan == "cloud").then_some("jpeg"),
            "jpeg_quality": (plan == "cloud").then(|| of.parse::<u8>().unwrap()),
            "codec": (plan == "split").then_some(of), "accuracy": { "count": count, "of": 100 },
        })
    }

    fn document(cells: &[serde_json::Value]) -> Document {
        serde_json::from_value(serde_json::json!({ "version": 1, "cells": cells })).unwrap()
    }

    #[test]
    fn the_least_of_what_is_allowed_counts() {
        let document = document(&[
            cell("edge", "", 93),
            cell("cloud", "85", 91),
            cell("cloud", "30", 60),
            cell("split", "fp16", 93),
            cell("split", "bits2", 80),
            cell("split", "bits2", 85),
        ]);
        let lossy = |inputs: &[&str], codecs: &[&str]| {
            let [inputs, codecs] = [inputs, codecs]
                .map(|names| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
            let counted = find(&document, "aa", (&inputs, &codecs)).unwrap();
            assert_eq!(counted.accuracy_ppm, 930_000);
            counted.lossy_ppm
        };
        assert_eq!(lossy(&["uint8"], &["fp32"]), Some(930_000));
        assert_eq!(lossy(&["jpeg"], &[]), Some(910_000), "of the usual quality");
        assert_eq!(lossy(&["jpeg"], &["fp16", "bits2"]), Some(800_000));
        assert_eq!(lossy(&["jpeg"], &["bits4"]), None, "bits4 was not counted");
    }

    #[test]
    fn what_was_not_counted_is_said() {
        let own = cell("edge", "", 93);
        let mut other = cell("edge", "", 94);
        (other["input"], other["own_size"]) = ("1x3x4x4".into(), false.into());
        let mut unlabelled = own.clone();
        unlabelled["accuracy"] = serde_json::Value::Null;
        let says = |cells: &[serde_json::Value], sha256: &str| {
            find(&document(cells), sha256, (&[], &[])).map(|counted| counted.accuracy_ppm)
        };
        assert_eq!(says(&[own.clone(), other.clone()], "aa").unwrap(), 930_000, "its own size");
        assert_eq!(says(&[other.clone()], "aa").unwrap(), 940_000, "the only size");
        let cases = [
            (vec![own.clone()], "bb", "no cell of this network"),
            (vec![unlabelled], "aa", "without labels"),
            (vec![cell("split", "fp32", 3)], "aa", "whole network"),
        ];
        for (cells, sha256, words) in cases {
            let error = says(&cells, sha256).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
