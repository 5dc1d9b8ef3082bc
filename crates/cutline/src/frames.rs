//! Frames of a run: files as they enter a plan at its source.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, bail};
use cutline_core::graph::Graph;
use cutline_runtime::{
    runner::Frame,
    tensor::Tensor,
    verify::{random_inputs, read_npy},
};

pub(crate) mod source;

/// Turns files into frames for one network.
#[derive(Clone, Debug)]
pub(crate) struct Loader {
    inputs: Vec<String>,
}

impl Loader {
    pub(crate) fn new(graph: &Graph) -> Self {
        let names = graph.inputs().iter().map(|&input| graph.value(input).name.clone());
        Self { inputs: names.collect() }
    }

    /// A `.npy` file is the network's input tensor; anything else is a picture, prepared at the
    /// source.
    pub(crate) fn load(&self, path: &Path) -> anyhow::Result<Frame> {
        let context = || format!("cannot use input `{}`", path.display());
        if path.extension().is_none_or(|extension| extension != "npy") {
            return Ok(Frame::Picture(fs::read(path).with_context(context)?.into()));
        }
        let [input] = &self.inputs[..] else {
            bail!(
                "a .npy file can be the input of a network of one input; this one has {}",
                self.inputs.len()
            );
        };
        let tensor = read_npy(path).with_context(context)?;
        Ok(Frame::Tensors(vec![(input.clone(), tensor)]))
    }
}

/// Seeded random numbers in place of a picture.
pub(crate) fn random(graph: &Graph, seed: u64) -> anyhow::Result<Frame> {
    let tensors: BTreeMap<String, Tensor> = random_inputs(graph, seed)?;
    Ok(Frame::Tensors(tensors.into_iter().collect()))
}
