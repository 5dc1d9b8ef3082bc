//! Sub-models: the ONNX files of the parts of a network.
//!
//! Every compute layer stands in the one part that it was given to. Each part then asks for what
//! its layers read: a weight is taken along, a result of an earlier part or the network's input
//! becomes an input of the part, a replicated layer is copied, and shape arithmetic whose result is
//! known becomes an initializer, so that the `Shape` of a value does not drag the value along.
//!
//! ```text
//! data ─ conv1 ─ x ─ conv2 ─ y        part 0: data ─ conv1 ─ x
//!                └ Shape ─ Reshape    part 1: x ─ conv2, Reshape(y, known shape)
//! ```
//!
//! A value that crosses has the same name as output of one part and input of the other, once each,
//! however many layers read it. Data flows to later parts only. Node and value names, operator sets
//! and IR version stay as they were; nothing of a weight is copied. Where values are to travel
//! encoded ([`split_encoded`]), each has another name on its way, and the parts begin and end with
//! what decodes and encodes it.

mod assemble;
mod borders;
mod encode;
mod encoder;
mod rest;
mod stages;
#[cfg(test)]
mod tests;
mod tflite;

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use bytes::Bytes;
use serde::Serialize;
use thiserror::Error;

use crate::{
    codec::{CutCodecs, CutEncoding, Quantised},
    graph::{Graph, LayerId, ValueId},
    onnx::proto::ModelProto,
    tensor::{DType, Shape},
    tflite::split::PartError,
};
pub use encode::{ExternalTensor, Piece, encode, encode_beside, external_tensors};
pub use encoder::encoder;
pub use tflite::{TfliteFile, split_tflite};

/// Name of the data file beside a sub-model that is too large for one file.
pub const DATA_FILE: &str = "model.onnx.data";

/// What a part's file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// ONNX.
    #[default]
    Onnx,
    /// TensorFlow Lite.
    Tflite,
}

impl Format {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Onnx, Self::Tflite];

    /// `onnx` or `tflite`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::Tflite => "tflite",
        }
    }

    /// Name of a part's file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Onnx => "model.onnx",
            Self::Tflite => "model.tflite",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| format!("there is no format `{text}`; there are onnx and tflite"))
    }
}

/// Entry of a part's metadata that names how the values that it sends on are encoded, where they
/// are.
pub const CUT_ENCODING: &str = "cutline.cut_encoding";

/// Weights that one protobuf file may hold; its format ends at 2 GiB.
const INLINE_LIMIT: u64 = 1_900_000_000;

/// What a part is called, and what its file says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageLabel {
    /// Name, such as that of the device that runs it.
    pub name: String,
    /// Entries for the file's metadata; `cutline.` is put before keys that lack it.
    pub metadata: BTreeMap<String, String>,
}

impl StageLabel {
    /// A label without metadata.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), metadata: BTreeMap::new() }
    }
}

/// A value at the border of a part, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Which value of the network it is.
    pub value: ValueId,
    /// Its name there: the value's own, or with its encoding behind it: `conv1.fp16`.
    pub name: String,
    /// How it is encoded.
    pub encoding: CutEncoding,
    /// Type of its elements there; `None` where it is unknown.
    pub dtype: Option<DType>,
    /// Sizes of its axes.
    pub shape: Option<Shape>,
}

impl Port {
    /// A value that travels as it is.
    pub fn plain(graph: &Graph, id: ValueId) -> Self {
        let value = graph.value(id);
        Self {
            value: id,
            name: value.name.clone(),
            encoding: CutEncoding::Fp32,
            dtype: value.dtype,
            shape: value.shape.clone(),
        }
    }
}

/// One part of a network as a model of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct SubModel {
    /// Name from its [`StageLabel`].
    pub name: String,
    /// What it reads, of the network's inputs and of earlier parts, in order of the file.
    pub inputs: Vec<Port>,
    /// What it answers: what later parts read, and outputs of the network; in order of the file.
    pub outputs: Vec<Port>,
    /// How the values that it sends on are encoded; `None` where they travel as they are.
    pub cut_encoding: Option<CutEncoding>,
    /// Layers in topological order, copies of replicated ones included.
    pub layers: Vec<LayerId>,
    /// The model; large tensors share their bytes with the model that was split.
    pub model: ModelProto,
    /// Its TensorFlow Lite file, where it is a part of one; `model` is empty then.
    pub tflite: Option<Bytes>,
}

/// The files of a sub-model, as pieces to write one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubModelFiles {
    /// What the file of the model is.
    pub format: Format,
    /// That file: `model.onnx`, say.
    pub model: Vec<Piece>,
    /// [`DATA_FILE`], where the weights are too large for one file.
    pub data: Option<Vec<Piece>>,
}

impl SubModelFiles {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.model.iter().chain(self.data.iter().flatten()).map(Piece::bytes).sum()
    }
}

impl SubModel {
    /// The part as files: one, or with a data file beside it when its weights exceed 1.9 GB.
    /// Copies no weight. O(nodes + initializers).
    pub fn files(&self) -> SubModelFiles {
        self.files_within(INLINE_LIMIT)
    }

    fn files_within(&self, limit: u64) -> SubModelFiles {
        if let Some(file) = &self.tflite {
            let model = vec![Piece::Inline(file.clone())];
            return SubModelFiles { format: Format::Tflite, model, data: None };
        }
        let format = Format::Onnx;
        if encode::payload_bytes(&self.model) <= limit {
            return SubModelFiles { format, model: encode(&self.model), data: None };
        }
        let (model, data) = encode::encode_with_data(&self.model, DATA_FILE);
        SubModelFiles { format, model, data: Some(data) }
    }
}

/// Why a network cannot be split that way.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum SplitError {
    /// The placement was made for another network.
    #[error(
        "the placement has {given} layers and the network has {layers}; it was made for another network"
    )]
    WrongLength { layers: usize, given: usize },
    /// A layer with real work has no part.
    #[error("layer `{layer}` was given to no part")]
    Unplaced { layer: String },
    /// A layer was given to a part that has no label.
    #[error("layer `{layer}` was given to part {stage}, but there are {stages} parts")]
    NoSuchStage { layer: String, stage: u32, stages: usize },
    /// A part has no layer.
    #[error("part {stage} `{name}` has no layer; move the cut, or leave the part out")]
    Empty { stage: usize, name: String },
    /// Nobody reads what a part computes.
    #[error(
        "part {stage} `{name}` computes nothing that another part or the user reads; move the cut past its last layer `{layer}`"
    )]
    Unread { stage: usize, name: String, layer: String },
    /// Data would flow back.
    #[error(
        "layer `{layer}` in part {stage} reads `{value}`, which layer `{maker}` makes in the later part {later}; place `{layer}` no earlier than `{maker}`"
    )]
    Backward { layer: String, stage: usize, value: String, maker: String, later: usize },
    /// A value that crosses cannot be declared.
    #[error(
        "value `{value}` would cross from part {from} to part {to}, but its {unknown} is unknown; cut elsewhere, or bind the input's dimensions with --input-shape"
    )]
    UnknownType { value: String, from: usize, to: usize, unknown: &'static str },
    /// The graph was imported from another model.
    #[error(
        "{what} `{name}` of the graph is not in the model; the graph was imported from another model"
    )]
    OtherModel { what: &'static str, name: String },
    /// Nobody said what the bytes of a value stand for.
    #[error(
        "`{value}` cannot travel as {encoding}: the range of its elements is not known; give pictures with --calibrate DIR, or use fp16"
    )]
    NoScale { value: String, encoding: CutEncoding },
    /// A part of a TensorFlow Lite file cannot be written.
    #[error(transparent)]
    Tflite(#[from] PartError),
    /// An operator of a TensorFlow Lite file would be cut in two.
    #[error(
        "layers `{layer}` and `{other}` are of one operator of the TensorFlow Lite file, which cannot be cut in two; cut elsewhere, or write the parts as ONNX (--format onnx)"
    )]
    Inside { layer: String, other: String },
    /// Parts of that format are asked for of another.
    #[error(
        "the network is no TensorFlow Lite file, and only of such a file there are parts for litert; give the .tflite file that it was made from"
    )]
    NotTflite,
    /// Values cannot be encoded inside such parts.
    #[error(
        "values do not travel as {encoding} between parts of a TensorFlow Lite file, which only copy its operators; use --cut-encoding fp32 or --codec fp32: what is quantised already travels at a quarter of that"
    )]
    TfliteEncoding { encoding: CutEncoding },
    /// External data that nobody can find.
    #[error(
        "weight `{tensor}` says that its data is in another file, but not where; the model file is damaged"
    )]
    ExternalData { tensor: String },
}

/// Splits a network: one sub-model per label, in order.
///
/// `stage_of` says for each layer of `graph` which part runs it; it is ignored for
/// [`Role::Replicated`](crate::graph::Role::Replicated) layers. `graph` must have been imported
/// from `model`. O(parts x (layers + initializers)).
pub fn split(
    model: &ModelProto,
    graph: &Graph,
    stage_of: &[Option<u32>],
    labels: &[StageLabel],
) -> Result<Vec<SubModel>, SplitError> {
    split_encoded(model, graph, stage_of, labels, &CutCodecs::default())
}

/// The same, where the fp32 values that a part sends on travel in its encoding: the part ends with
/// what encodes them, and the next that reads them begins with what decodes them. Values of other
/// types, and the network's inputs and outputs, travel as they are.
pub fn split_encoded(
    model: &ModelProto,
    graph: &Graph,
    stage_of: &[Option<u32>],
    labels: &[StageLabel],
    codecs: &CutCodecs,
) -> Result<Vec<SubModel>, SplitError> {
    let stages = stages::derive(graph, stage_of, labels)?;
    let borders = borders::derive(graph, &stages, codecs)?;
    let source = assemble::Source::new(model, graph)?;
    let parts = stages.iter().zip(borders).zip(labels).enumerate();
    parts
        .map(|(index, ((stage, border), label))| {
            source.sub_model([index, labels.len()], stage, border, label)
        })
        .collect()
}

/// The values that travel as bytes, ascending: those whose ranges must be known.
pub fn quantised_values(
    graph: &Graph,
    stage_of: &[Option<u32>],
    labels: &[StageLabel],
    codecs: &CutCodecs,
) -> Result<Vec<Quantised>, SplitError> {
    let stages = stages::derive(graph, stage_of, labels)?;
    let mut found = BTreeSet::new();
    let used: BTreeSet<CutEncoding> = (0..stages.len()).map(|at| codecs.of(at)).collect();
    for encoding in used.into_iter().filter(|encoding| encoding.is_quantised()) {
        // Where nothing is quantised every value is sent, and read, in one form or another.
        let halves = CutCodecs {
            stages: (0..stages.len())
                .map(|at| match codecs.of(at) == encoding {
                    true => CutEncoding::Fp16,
                    false => CutEncoding::Fp32,
                })
                .collect(),
            ..CutCodecs::default()
        };
        let borders = borders::derive(graph, &stages, &halves)?;
        let ports = borders.iter().flat_map(|border| &border.outputs);
        let sent = ports.filter(|port| port.encoding == CutEncoding::Fp16);
        found.extend(sent.map(|port| {
            let value = graph.value(port.value).name.clone();
            Quantised { value, encoding }
        }));
    }
    Ok(found.into_iter().collect())
}
