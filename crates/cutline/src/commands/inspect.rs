//! `cutline inspect`: what a network is made of, and where it can be cut.

use std::process::ExitCode;

use cutline_core::{
    cut::candidate_cuts,
    graph::{Graph, Role},
    units::Macs,
};
use serde::Serialize;

use crate::{
    inputs::ModelArgs,
    output::{Output, table},
};

mod rows;

/// Show layers, shapes, work, sizes and candidate cuts of a network.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline inspect mobilenet_int8.tflite\n  cutline inspect mobilenet.onnx --json | jq '.cuts[].bytes'"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    sha256: &'a str,
    inputs: Vec<ValueRow<'a>>,
    outputs: Vec<ValueRow<'a>>,
    macs: u64,
    parameter_bytes: u64,
    layers: Vec<LayerRow<'a>>,
    groups: Vec<GroupRow<'a>>,
    cuts: Vec<CutRow<'a>>,
}

#[derive(Serialize)]
struct ValueRow<'a> {
    name: &'a str,
    dtype: Option<&'static str>,
    shape: Option<&'a [u64]>,
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct LayerRow<'a> {
    name: &'a str,
    op: String,
    macs: u64,
    parameter_bytes: u64,
    output_bytes: Option<u64>,
    output_shape: Option<&'a [u64]>,
    replicated: bool,
}

#[derive(Serialize)]
struct GroupRow<'a> {
    name: &'a str,
    layers: &'a [String],
}

#[derive(Serialize)]
struct CutRow<'a> {
    values: Vec<&'a str>,
    bytes: u64,
    /// Work in front of the cut.
    macs_before: u64,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let model = args.model.open()?;
    let graph = &model.graph;
    let dag = &model.grouping.dag;
    let cuts = candidate_cuts(dag);

    let value_row = |&id| {
        let value = graph.value(id);
        ValueRow {
            name: &value.name,
            dtype: value.dtype.map(|dtype| dtype.oip()),
            shape: value.shape.as_ref().map(|shape| shape.0.as_slice()),
            bytes: value.bytes().map(|size| size.0),
        }
    };
    let layers: Vec<LayerRow> = graph
        .layers()
        .iter()
        .map(|layer| {
            let first = layer.makes().next().map(|id| graph.value(id));
            let sizes: Option<u64> =
                layer.makes().map(|id| graph.value(id).bytes().map(|size| size.0)).sum();
            LayerRow {
                name: &layer.name,
                op: layer.op.name().to_owned(),
                macs: layer.macs.0,
                parameter_bytes: graph.parameter_bytes(layer).0,
                output_bytes: sizes,
                output_shape: first.and_then(|v| v.shape.as_ref()).map(|shape| shape.0.as_slice()),
                replicated: layer.role == Role::Replicated,
            }
        })
        .collect();
    let cut_rows = cuts
        .iter()
        .map(|cut| CutRow {
            values: cut.flows.iter().map(|&flow| dag.flow(flow).name.as_str()).collect(),
            bytes: cut.bytes.map_or(0, |size| size.0),
            macs_before: dag
                .groups()
                .iter()
                .zip(&cut.before)
                .filter(|(_, before)| **before)
                .map(|(group, _)| group.macs)
                .sum::<Macs>()
                .0,
        })
        .collect();
    let report = Report {
        model: args.model.model.display().to_string(),
        sha256: model.sha256()?,
        inputs: graph.inputs().iter().map(value_row).collect(),
        outputs: graph.outputs().iter().map(value_row).collect(),
        macs: layers.iter().map(|layer| layer.macs).sum(),
        parameter_bytes: layers.iter().map(|layer| layer.parameter_bytes).sum(),
        layers,
        groups: dag
            .groups()
            .iter()
            .map(|group| GroupRow { name: &group.name, layers: &group.layers })
            .collect(),
        cuts: cut_rows,
    };
    output.print(&report, |out| write_text(&report, graph, out))?;
    Ok(ExitCode::SUCCESS)
}

fn write_text(
    report: &Report<'_>,
    graph: &Graph,
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    use cutline_core::units::Bytes;
    writeln!(
        out,
        "{}: {} layers in {} groups, {}, {} of parameters",
        report.model,
        report.layers.len(),
        report.groups.len(),
        Macs(report.macs),
        Bytes(report.parameter_bytes)
    )?;
    for (what, rows) in [("input", &report.inputs), ("output", &report.outputs)] {
        for row in rows {
            writeln!(
                out,
                "{what} {}: {} {}",
                row.name,
                row.dtype.unwrap_or("?"),
                shape(row.shape)
            )?;
        }
    }
    let layers = report.layers.len();
    let rows = rows::rows(graph);
    let folded = layers - rows.len();
    writeln!(out, "\n{}", table(rows::HEADER, rows))?;
    if folded > 0 {
        writeln!(
            out,
            "{folded} of {layers} layers quantise or dequantise what another computes, and stand in its row; --json lists all"
        )?;
    }
    let total = report.macs.max(1);
    let rows = report.cuts.iter().map(|cut| {
        [
            cut.values.join(", "),
            Bytes(cut.bytes).to_string(),
            format!("{:.1} %", cut.macs_before as f64 * 100.0 / total as f64),
        ]
    });
    writeln!(out, "\n{}", table(["candidate cut", "size", "work before"], rows))
}

fn shape(dims: Option<&[u64]>) -> String {
    dims.map_or("?".to_owned(), |dims| cutline_core::tensor::Shape(dims.to_vec()).to_string())
}
