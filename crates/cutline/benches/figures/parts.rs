//! Cuts in this process: both parts of a cut loaded by an engine, and run one after the other.

use std::collections::BTreeMap;

use anyhow::Context;
use cutline_core::{
    cut::{Cut, stages_of_cut},
    split::{Piece, Port, StageLabel, split},
};
use cutline_runtime::{
    engine::{self, Engine, LoadOptions, ModelSource, SharedEngine},
    model::Model,
    tensor::Tensor,
    verify::{Part, run_parts},
};

/// One thread, so that every run adds up in the same order.
pub(crate) const ONE_THREAD: LoadOptions = LoadOptions { threads: 1 };

/// Every engine that is here and takes ONNX files.
pub(crate) fn engines() -> anyhow::Result<Vec<SharedEngine>> {
    engine::for_onnx().map(|status| Ok(engine::open(status.name)?)).collect()
}

/// The parts of a cut as loaded models.
pub(crate) fn load(model: &Model, cut: &Cut, engine: &dyn Engine) -> anyhow::Result<Vec<Part>> {
    let stages = stages_of_cut(&model.graph, &model.grouping, cut);
    let labels = [StageLabel::new("first"), StageLabel::new("second")];
    let names =
        |ports: &[Port]| -> Vec<String> { ports.iter().map(|port| port.name.clone()).collect() };
    split(&model.proto, &model.graph, &stages, &labels)?
        .into_iter()
        .map(|sub_model| {
            let mut bytes = Vec::new();
            for piece in sub_model.files().model {
                match piece {
                    Piece::Inline(piece) => bytes.extend_from_slice(&piece),
                    Piece::External { .. } => anyhow::bail!("a part with external data"),
                }
            }
            let session = engine.load(&ModelSource::Memory(bytes.into()), ONE_THREAD)?;
            Ok(Part {
                inputs: names(&sub_model.inputs),
                outputs: names(&sub_model.outputs),
                cut_encoding: None,
                name: sub_model.name,
                session,
            })
        })
        .collect()
}

/// The first output of a split network on one input tensor.
pub(crate) fn answer(model: &Model, parts: &mut [Part], input: Tensor) -> anyhow::Result<Tensor> {
    let first = model.graph.inputs().first().context("the network has no input")?;
    let inputs: BTreeMap<_, _> = [(model.graph.value(*first).name.clone(), input)].into();
    let outputs = run_parts(parts, &model.graph, &inputs)?;
    Ok(outputs.into_iter().next().context("the network has no output")?.1)
}
