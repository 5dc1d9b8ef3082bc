//! A folder of the user's pictures: what ranges are calibrated on and agreement is counted on.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cutline_core::{
    codec::{CutCodecs, Quantised, Quantizations},
    graph::Graph,
    hex::hex,
    picture::{InputEncoding, PictureSpec},
    split::{self, StageLabel},
};
use cutline_runtime::{
    engine::{Engine, LoadOptions},
    files,
    model::Model,
    parts::{self, Ranges, Steps},
    tensor::Tensor,
    verify::{check_inputs, run_values},
};
use sha2::{Digest, Sha256};

use crate::{
    inputs::{PictureArgs, expand_paths, file_name, is_tensor_file, tensor_of},
    output::Output,
};

/// Pictures, or tensors (.npy), in the order of their names, and how they become the input.
pub(crate) struct Gallery {
    folder: PathBuf,
    files: Vec<PathBuf>,
    spec: Option<PictureSpec>,
}

impl Gallery {
    /// The pictures of a folder, prepared as `planned` says unless the user says otherwise.
    pub(crate) fn open(
        folder: &Path,
        graph: &Graph,
        planned: Option<&PictureSpec>,
        args: &PictureArgs,
    ) -> anyhow::Result<Self> {
        if !folder.is_dir() {
            bail!("`{}` is not a folder; give a folder of pictures", folder.display());
        }
        if graph.inputs().len() != 1 {
            bail!(
                "a folder of pictures feeds a network of one input; this one has {}",
                graph.inputs().len()
            );
        }
        let files = expand_paths(&[folder.to_owned()])?;
        let spec = match files.iter().all(|file| is_tensor_file(file)) {
            true => None,
            false => Some(match planned {
                Some(spec) if args.preprocess.is_none() => spec.clone(),
                _ => args.spec(graph)?,
            }),
        };
        Ok(Self { folder: folder.to_owned(), files, spec })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Their files.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The network's input from one of them, sent in an encoding.
    pub(crate) fn inputs(
        &self,
        file: &Path,
        graph: &Graph,
        encoding: InputEncoding,
    ) -> anyhow::Result<BTreeMap<String, Tensor>> {
        let spec = || self.spec.clone().context("it is no tensor (.npy)");
        let tensor = tensor_of(file, spec, encoding)
            .with_context(|| format!("cannot use input `{}`", file.display()))?;
        let names = graph.inputs().iter().map(|&id| graph.value(id).name.clone());
        let inputs: BTreeMap<String, Tensor> = names.map(|name| (name, tensor.clone())).collect();
        check_inputs(graph, &inputs)
            .with_context(|| format!("cannot use input `{}`", file.display()))?;
        Ok(inputs)
    }

    /// SHA-256 over the names and contents of its files, in hex: which pictures these were.
    pub(crate) fn sha256(&self) -> anyhow::Result<String> {
        let mut all = Sha256::new();
        for file in &self.files {
            let content =
                files::sha256(file).with_context(|| format!("cannot read `{}`", file.display()))?;
            all.update(file_name(file));
            all.update([0]);
            all.update(content);
        }
        Ok(hex(&all.finalize()))
    }
}

/// A network cut into parts, and how the values between them travel.
pub(crate) struct Cuts<'a> {
    pub(crate) model: &'a Model,
    /// By layer; `None`: wherever it is needed.
    pub(crate) stage_of: &'a [Option<u32>],
    pub(crate) labels: &'a [StageLabel],
}

impl Cuts<'_> {
    /// Scales of the values that travel as bytes: calibrated where there are pictures, else those
    /// that are known already, all of which must be.
    pub(crate) fn quantizations(
        &self,
        codecs: &CutCodecs,
        gallery: Option<&Gallery>,
        (engine, options): (&dyn Engine, LoadOptions),
        output: &Output,
    ) -> anyhow::Result<Quantizations> {
        let Cuts { model, stage_of, labels } = self;
        let values = split::quantised_values(&model.graph, stage_of, labels, codecs)?;
        let Some(gallery) = gallery.filter(|_| !values.is_empty()) else {
            let known = &codecs.quantizations;
            let scale = |quantised: &Quantised| match known.get(&quantised.key()) {
                Some(&scale) => Ok((quantised.key(), scale)),
                None => {
                    let Quantised { value, encoding } = quantised.clone();
                    Err(split::SplitError::NoScale { value, encoding }.into())
                }
            };
            return values.iter().map(scale).collect();
        };
        let plain = split::split(&model.proto, &model.graph, stage_of, labels)?;
        let mut parts = parts::load(engine, options, &plain, model.folder())?;
        let mut ranges = Ranges::default();
        let bar = output.progress("calibrating", gallery.len() as u64);
        for file in gallery.files() {
            let inputs = gallery.inputs(file, &model.graph, InputEncoding::Fp32)?;
            ranges.note(&run_values(&mut parts, &inputs)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        output.note(format!(
            "calibrated {} values on {} pictures of `{}`",
            values.len(),
            gallery.len(),
            gallery.folder.display()
        ));
        let mut found = ranges.quantizations(&values).map_err(|value| {
            anyhow::anyhow!(
                "`{value}` is never a finite number on these pictures, so it cannot travel as bytes; use fp16, or other pictures"
            )
        })?;
        let mut steps = Steps::new(&values, &found);
        while !steps.is_done() {
            let bar = output.progress("looking for the finest steps", gallery.len() as u64);
            for file in gallery.files() {
                let inputs = gallery.inputs(file, &model.graph, InputEncoding::Fp32)?;
                steps.note(&run_values(&mut parts, &inputs)?);
                bar.inc(1);
            }
            bar.finish_and_clear();
            steps.narrow();
        }
        found.extend(steps.quantizations());
        Ok(found)
    }
}
