//! The networks of a grid as they are measured: with their inputs bound to a size, and their files.
//!
//! What a network is like at a size is found out without its weights, so that a grid is checked
//! before anything is measured. Files of networks of the zoo are written when they are first needed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cutline_core::{
    graph::Graph,
    hex::hex,
    onnx::{self, ImportOptions, open_batch, proto::ModelProto},
    split::{self, encode_beside},
    tensor::Shape,
    zoo::{self, ZooOptions},
};
use cutline_runtime::{
    files,
    model::{DeclaredInput, Model, declared_inputs},
    profiler,
};
use prost::Message;
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use super::grid::{Network, Precision, Size, Source};

/// A network at one size in one precision.
#[derive(Debug)]
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) precision: Precision,
    /// Of the file; of a network of the zoo, of its description without weights.
    pub(crate) sha256: String,
    /// For one frame.
    pub(crate) graph: Graph,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Zoo {
        input_size: Option<u32>,
        outline: Box<ModelProto>,
    },
    /// With the shapes of its inputs for one frame.
    File {
        path: PathBuf,
        shapes: BTreeMap<String, Shape>,
    },
}

/// A network's file for a number of frames, opened.
pub(crate) struct Opened {
    pub(crate) model: Model,
    _temporary: Option<TempPath>,
}

/// The precisions in which a network is wanted: those that were asked for, else that of its file, or
/// fp32.
pub(crate) fn precisions(network: &Network, asked: &[Precision]) -> Vec<Precision> {
    let path = match &network.source {
        _ if !asked.is_empty() => return asked.to_vec(),
        Source::File(path) => path,
        Source::Zoo | Source::Files(_) => return vec![Precision::Fp32],
    };
    // What is wrong with a file is told where it is used.
    let seen = Model::open(path, &ImportOptions::default()).ok();
    let seen = seen.map(|model| profiler::precision(&model.graph));
    let all = [Precision::Fp32, Precision::Fp16, Precision::Int8];
    let own = all.into_iter().find(|each| seen.as_deref() == Some(each.name()));
    vec![own.unwrap_or(Precision::Fp32)]
}

/// The network in a precision at a size, or why it cannot be had.
pub(crate) fn variant(
    network: &Network,
    precision: Precision,
    size: Size,
) -> anyhow::Result<Variant> {
    match &network.source {
        Source::Zoo => of_zoo(&network.name, precision, size),
        Source::File(path) => of_file(&network.name, path, precision, size, true),
        Source::Files(files) => {
            let path = files.get(&precision).with_context(|| {
                format!(
                    "network `{}` has no file for precision `{}`; name one, or take it out of \
                     `precisions`",
                    network.name,
                    precision.name()
                )
            })?;
            of_file(&network.name, path, precision, size, false)
        }
    }
}

fn of_zoo(name: &str, precision: Precision, size: Size) -> anyhow::Result<Variant> {
    if precision != Precision::Fp32 {
        bail!(
            "network `{name}` of the zoo is fp32 and cannot be had in `{}`; take that out of \
             `precisions`, or name a file that has it",
            precision.name()
        );
    }
    let input_size = match size {
        Size::Own => None,
        Size::Side(side) => Some(side),
    };
    let outline = zoo::outline(name, input_size)?;
    let sha256 = hex(&Sha256::digest(outline.encode_to_vec()));
    let graph = onnx::import(&outline, &ImportOptions::default())?;
    let origin = Origin::Zoo { input_size, outline: Box::new(outline) };
    Ok(Variant { name: name.to_owned(), precision, sha256, graph, origin })
}

fn of_file(
    name: &str,
    path: &Path,
    precision: Precision,
    size: Size,
    look: bool,
) -> anyhow::Result<Variant> {
    let shown = path.display();
    let shapes = match size {
        Size::Own => BTreeMap::new(),
        Size::Side(side) => shapes_at(path, side)
            .with_context(|| format!("`sizes` asks for {side} of `{shown}`"))?,
    };
    let options = ImportOptions { input_shapes: shapes.clone() };
    let model = Model::open(path, &options).with_context(|| match size {
        Size::Own => format!(
            "cannot use `{shown}` at its own size; where it leaves that open, `sizes` says it"
        ),
        Size::Side(side) => format!("cannot use `{shown}` at the size {side} of `sizes`"),
    })?;
    let seen = profiler::precision(&model.graph);
    if look && seen != precision.name() {
        bail!(
            "`{shown}` is {seen} and cannot be had in `{}`; take that out of `precisions`, or name \
             a file for it: {{ name = \"...\", {seen} = \"{}\", {} = \"...\" }}",
            precision.name(),
            path.file_name().unwrap_or_default().to_string_lossy(),
            precision.name()
        );
    }
    let sha256 = model.sha256()?.to_owned();
    let Model { graph, .. } = model;
    let origin = Origin::File { path: path.to_owned(), shapes };
    Ok(Variant { name: name.to_owned(), precision, sha256, graph, origin })
}

/// Shapes of the inputs of a file whose picture has so many rows and columns.
pub(crate) fn shapes_at(path: &Path, side: u32) -> anyhow::Result<BTreeMap<String, Shape>> {
    Ok(BTreeMap::from([bound(&declared_inputs(path)?, side)?]))
}

/// The picture input of a file with so many rows and columns.
fn bound(inputs: &[DeclaredInput], side: u32) -> anyhow::Result<(String, Shape)> {
    let [(name, axes)] = inputs else {
        bail!("it has {} inputs, and only a network of one has a size", inputs.len());
    };
    let Some([rows, columns]) = picture_axes(axes) else {
        bail!("its input `{name}` has no picture's shape, four axes with 1 or 3 channels");
    };
    let side = u64::from(side);
    if let (Some(height), Some(width)) = (axes[rows], axes[columns])
        && (height, width) != (side, side)
    {
        bail!(
            "it takes {height}x{width} and no other size; give it sizes of its own: {{ network = \
             \"...\", sizes = [\"own\"] }}"
        );
    }
    let mut shape = Vec::new();
    for (axis, size) in axes.iter().enumerate() {
        shape.push(match (axis, size) {
            _ if axis == rows || axis == columns => side,
            (_, &Some(size)) => size,
            (0, None) => 1,
            _ => bail!("its input `{name}` leaves axis {axis} open, which is no side"),
        });
    }
    Ok((name.clone(), Shape(shape)))
}

/// Which axes of an input are the rows and columns of a picture.
fn picture_axes(axes: &[Option<u64>]) -> Option<[usize; 2]> {
    let is_channels = |size: Option<u64>| matches!(size, Some(1 | 3));
    match *axes {
        [_, channels, _, _] if is_channels(channels) => Some([2, 3]),
        [_, _, _, channels] if is_channels(channels) => Some([1, 2]),
        _ => None,
    }
}

impl Variant {
    /// Rows and columns of the input, where it is a picture.
    pub(crate) fn sides(&self) -> Option<[u64; 2]> {
        let [input] = self.graph.inputs() else { return None };
        let shape = self.graph.value(*input).shape.as_ref()?;
        let axes: Vec<_> = shape.0.iter().map(|&size| Some(size)).collect();
        let [rows, columns] = picture_axes(&axes)?;
        Some([shape.0[rows], shape.0[columns]])
    }

    /// Shapes of the inputs for so many frames, in words: `1x3x224x224`.
    pub(crate) fn input(&self, batch: u64) -> String {
        let inputs = self.graph.inputs().iter().map(|&id| self.graph.value(id).shape.as_ref());
        let shape = |shape: Option<&Shape>| {
            shape.map_or("unknown".to_owned(), |shape| of_frames(shape, batch).to_string())
        };
        inputs.map(shape).collect::<Vec<_>>().join(" ")
    }

    /// Whether the network computes so many frames at once, or why not. Reads no weights.
    pub(crate) fn check_batch(&self, batch: u64) -> anyhow::Result<()> {
        if batch == 1 {
            return Ok(());
        }
        let refused = || format!("network `{}` cannot compute a batch of {batch}", self.name);
        match &self.origin {
            Origin::Zoo { outline, .. } => {
                open_batch(outline).with_context(refused)?;
            }
            Origin::File { path, .. } => {
                if Model::open(path, &self.options(batch)).is_err() {
                    let model = Model::open(path, &self.options(1)).with_context(refused)?;
                    open_batch(&model.proto).with_context(refused)?;
                }
            }
        }
        Ok(())
    }

    /// The file for so many frames; that of a network of the zoo is written into `folder`, unless it
    /// is there.
    pub(crate) fn open(&self, batch: u64, folder: &Path) -> anyhow::Result<Opened> {
        let path = match &self.origin {
            Origin::File { path, .. } => path.clone(),
            Origin::Zoo { input_size, .. } => self.write(*input_size, folder)?,
        };
        if let Ok(model) = Model::open(&path, &self.options(batch)) {
            return Ok(Opened { model, _temporary: None });
        }
        let alone = Model::open(&path, &self.options(1))?;
        let opened = open_batch(&alone.proto)?;
        let file = files::write_model_beside(&path, &encode_beside(&opened), &alone)?;
        let model = Model::open(&file, &self.options(batch))?;
        Ok(Opened { model, _temporary: Some(file) })
    }

    fn write(&self, input_size: Option<u32>, folder: &Path) -> anyhow::Result<PathBuf> {
        let path = folder.join(format!("{}-{}.onnx", self.name, &self.sha256[..16]));
        if !path.exists() {
            let model = zoo::build(&self.name, &ZooOptions { input_size, seed: 0 })?;
            files::write_atomic(&path, &split::encode(&model), Path::new("."))?;
        }
        Ok(path)
    }

    /// The inputs' shapes for so many frames.
    fn options(&self, batch: u64) -> ImportOptions {
        let shapes = match &self.origin {
            Origin::File { shapes, .. } if batch == 1 => shapes.clone(),
            _ => {
                let values = self.graph.inputs().iter().map(|&id| self.graph.value(id));
                let shape = |shape: &Shape| of_frames(shape, batch);
                values
                    .filter_map(|v| Some((v.name.clone(), v.shape.as_ref().map(shape)?)))
                    .collect()
            }
        };
        ImportOptions { input_shapes: shapes }
    }
}

/// The shape of several frames behind each other.
fn of_frames(shape: &Shape, frames: u64) -> Shape {
    let mut shape = shape.clone();
    if let Some(first) = shape.0.first_mut() {
        *first = first.saturating_mul(frames);
    }
    shape
}
